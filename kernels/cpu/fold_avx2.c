/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fold with AVX2, by the reasoning of fold_avx512.c: eight elements a step, four where doubles
 * are needed. AVX2 has no masked add, so refused lanes of q are cleared instead. The conversion
 * takes the thread's rounding mode, which is to nearest unless a caller changed it; the scalar
 * definition rests on the same.
 */
#include "kernels/cpu/fold.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))

/* acc[i..i+4) += q * w */
TARGET static inline void add4(int64_t *acc, __m128i q, __m256i w) {
    __m256i *p = (__m256i *)acc;
    __m256i add = _mm256_mul_epi32(_mm256_cvtepi32_epi64(q), w);
    _mm256_storeu_si256(p, _mm256_add_epi64(_mm256_loadu_si256(p), add));
}

static void refuse(struct kern_refusal *refusal, unsigned bad, size_t at) {
    kern_refusal_add(refusal, (uint64_t)__builtin_popcount(bad), at + (size_t)__builtin_ctz(bad));
}

TARGET static void f32(int64_t *acc, const float *x, size_t begin, size_t n, double scale,
                       uint32_t w, struct kern_refusal *refusal) {
    const __m256 vscale = _mm256_set1_ps((float)scale), limit = _mm256_set1_ps(KERN_Q_MAX);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256i vw = _mm256_set1_epi64x(w);
    size_t i = begin;
    for (; i + 8 <= n; i += 8) {
        kern_fold_ahead(x + i);
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), vscale);
        __m256 ok = _mm256_cmp_ps(_mm256_andnot_ps(sign, v), limit, _CMP_LE_OQ);
        unsigned bad = (unsigned)_mm256_movemask_ps(ok) ^ 0xffu;
        __m256i q = _mm256_and_si256(_mm256_cvtps_epi32(v), _mm256_castps_si256(ok));
        if (__builtin_expect(bad != 0, 0)) {
            refuse(refusal, bad, i);
        }
        add4(acc + i, _mm256_castsi256_si128(q), vw);
        add4(acc + i + 4, _mm256_extracti128_si256(q, 1), vw);
    }
    kern_fold_scalar.f32(acc, x, i, n, scale, w, refusal);
}

/* As with AVX-512: even and odd elements apart, put together where they are stored. */
TARGET static uint64_t f32_group(int64_t *acc, const float *const *x, const uint32_t *w, size_t n,
                                 double scale) {
    const __m256 vscale = _mm256_set1_ps((float)scale), limit = _mm256_set1_ps(KERN_Q_MAX);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256i vw[KERN_FOLD_GROUP];
    uint64_t refused = 0;
    size_t i = 0;

    for (size_t k = 0; k < KERN_FOLD_GROUP; k++) {
        vw[k] = _mm256_set1_epi64x(w[k]);
    }
    for (; i + 8 <= n; i += 8) {
        __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
        unsigned bad = 0;
#pragma GCC unroll 8
        for (size_t k = 0; k < KERN_FOLD_GROUP; k++) {
            kern_fold_ahead(x[k] + i);
            __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x[k] + i), vscale);
            __m256 ok = _mm256_cmp_ps(_mm256_andnot_ps(sign, v), limit, _CMP_LE_OQ);
            __m256i q = _mm256_and_si256(_mm256_cvtps_epi32(v), _mm256_castps_si256(ok));
            even = _mm256_add_epi64(even, _mm256_mul_epi32(q, vw[k]));
            odd = _mm256_add_epi64(odd, _mm256_mul_epi32(_mm256_shuffle_epi32(q, 0xf5), vw[k]));
            bad = bad << 8 | ((unsigned)_mm256_movemask_ps(ok) ^ 0xffu);
        }
        refused += (uint64_t)__builtin_popcount(bad);
        /* 0 2 | 4 6 and 1 3 | 5 7 become 0 1 2 3 and 4 5 6 7 */
        __m256i pairs = _mm256_unpacklo_epi64(even, odd), others = _mm256_unpackhi_epi64(even, odd);
        __m256i *p = (__m256i *)(acc + i);
        _mm256_storeu_si256(p, _mm256_add_epi64(_mm256_loadu_si256(p),
                                                _mm256_permute2x128_si256(pairs, others, 0x20)));
        p++;
        _mm256_storeu_si256(p, _mm256_add_epi64(_mm256_loadu_si256(p),
                                                _mm256_permute2x128_si256(pairs, others, 0x31)));
    }
    return refused + kern_fold_group_rest(f32, acc, x, w, i, n, scale);
}

TARGET static void f32_wide(int64_t *hi, int64_t *lo, const float *x, size_t begin, size_t n,
                            double scale, uint32_t w, struct kern_refusal *refusal) {
    const __m256d vscale = _mm256_set1_pd(scale), limit = _mm256_set1_pd(KERN_Q_MAX);
    const __m256d sign = _mm256_set1_pd(-0.0);
    const __m256i vw = _mm256_set1_epi64x(w);
    size_t i = begin;
    for (; i + 4 <= n; i += 4) {
        kern_fold_ahead(x + i);
        __m256d v = _mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), vscale);
        __m256d q = _mm256_round_pd(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __m256d ok = _mm256_cmp_pd(_mm256_andnot_pd(sign, q), limit, _CMP_LE_OQ);
        __m256d r = _mm256_mul_pd(_mm256_sub_pd(v, q), limit);
        unsigned bad = (unsigned)_mm256_movemask_pd(ok) ^ 0xfu;
        if (__builtin_expect(bad != 0, 0)) {
            refuse(refusal, bad, i);
        }
        /* A cleared double converts to a cleared integer. */
        add4(hi + i, _mm256_cvtpd_epi32(_mm256_and_pd(q, ok)), vw);
        add4(lo + i, _mm256_cvtpd_epi32(_mm256_and_pd(r, ok)), vw);
    }
    kern_fold_scalar.f32_wide(hi, lo, x, i, n, scale, w, refusal);
}

TARGET static void i64(int64_t *acc, const int64_t *s, size_t begin, size_t n, int64_t limit,
                       struct kern_refusal *refusal) {
    const __m256i top = _mm256_set1_epi64x(limit), bottom = _mm256_set1_epi64x(-limit);
    size_t i = begin;
    for (; i + 4 <= n; i += 4) {
        kern_fold_ahead(s + i);
        __m256i v = _mm256_loadu_si256((const __m256i *)(s + i));
        __m256i out = _mm256_or_si256(_mm256_cmpgt_epi64(v, top), _mm256_cmpgt_epi64(bottom, v));
        unsigned bad = (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(out));
        __m256i *p = (__m256i *)(acc + i);
        if (__builtin_expect(bad != 0, 0)) {
            refuse(refusal, bad, i);
        }
        v = _mm256_andnot_si256(out, v);
        _mm256_storeu_si256(p, _mm256_add_epi64(_mm256_loadu_si256(p), v));
    }
    kern_fold_scalar.i64(acc, s, i, n, limit, refusal);
}

const struct kern_fold_ops kern_fold_avx2 = {f32, f32_wide, f32_group, i64};

#endif
