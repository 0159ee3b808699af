/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fold with AVX-512 F, DQ and VL: sixteen elements a step, eight where doubles are needed.
 *
 * The narrow fold works in float32: x * 2^f overflows to infinity, which is refused, or falls below
 * the smallest float, where q is 0 either way, or is exact; so float and double give the same q.
 * |q| and w fit int32, and VPMULDQ gives the 64-bit product at once. The rounding mode is in the
 * instruction, whatever the thread's is. Refused lanes are masked out of the sum.
 */
#include "kernels/cpu/fold.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl")))
#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

/* acc[i..i+8) += q * w where `ok`. */
TARGET static inline void add8(int64_t *acc, __m256i q, __m512i w, __mmask8 ok) {
    __m512i sum = _mm512_loadu_si512(acc);
    __m512i add = _mm512_mul_epi32(_mm512_cvtepi32_epi64(q), w);
    _mm512_storeu_si512(acc, _mm512_mask_add_epi64(sum, ok, sum, add));
}

TARGET static void f32(int64_t *acc, const float *x, size_t begin, size_t n, double scale,
                       uint32_t w, struct kern_refusal *refusal) {
    const __m512 vscale = _mm512_set1_ps((float)scale), limit = _mm512_set1_ps(KERN_Q_MAX);
    const __m512i vw = _mm512_set1_epi64(w);
    size_t i = begin;
    for (; i + 16 <= n; i += 16) {
        kern_fold_ahead(x + i);
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), vscale);
        __mmask16 ok = _mm512_cmp_ps_mask(_mm512_abs_ps(v), limit, _CMP_LE_OQ);
        __m512i q = _mm512_cvt_roundps_epi32(v, NEAREST);
        if (__builtin_expect(ok != 0xffff, 0)) {
            unsigned bad = (unsigned)ok ^ 0xffffu;
            kern_refusal_add(refusal, (uint64_t)__builtin_popcount(bad),
                             i + (size_t)__builtin_ctz(bad));
        }
        add8(acc + i, _mm512_castsi512_si256(q), vw, (__mmask8)ok);
        add8(acc + i + 8, _mm512_extracti64x4_epi64(q, 1), vw, (__mmask8)(ok >> 8));
    }
    kern_fold_scalar.f32(acc, x, i, n, scale, w, refusal);
}

/*
 * VPMULDQ takes the even 32-bit lanes: the sums are kept apart as those of even and of odd elements
 * while the group passes, and put together where they are stored.
 */
TARGET static uint64_t f32_group(int64_t *acc, const float *const *x, const uint32_t *w, size_t n,
                                 double scale) {
    const __m512 vscale = _mm512_set1_ps((float)scale), limit = _mm512_set1_ps(KERN_Q_MAX);
    const __m512i evens = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odds = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i front = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
    const __m512i back = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    __m512i vw[KERN_FOLD_GROUP];
    uint64_t refused = 0;
    size_t i = 0;

    for (size_t k = 0; k < KERN_FOLD_GROUP; k++) {
        vw[k] = _mm512_set1_epi64(w[k]);
    }
    for (; i + 16 <= n; i += 16) {
        __m512i first = _mm512_loadu_si512(acc + i), second = _mm512_loadu_si512(acc + i + 8);
        __m512i even = _mm512_permutex2var_epi64(first, evens, second);
        __m512i odd = _mm512_permutex2var_epi64(first, odds, second);
        unsigned bad = 0;
#pragma GCC unroll 8
        for (size_t k = 0; k < KERN_FOLD_GROUP; k++) {
            kern_fold_ahead(x[k] + i);
            __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x[k] + i), vscale);
            __mmask16 ok = _mm512_cmp_ps_mask(_mm512_abs_ps(v), limit, _CMP_LE_OQ);
            __m512i q = _mm512_maskz_cvt_roundps_epi32(ok, v, NEAREST);
            even = _mm512_add_epi64(even, _mm512_mul_epi32(q, vw[k]));
            odd = _mm512_add_epi64(odd, _mm512_mul_epi32(_mm512_shuffle_epi32(q, 0xf5), vw[k]));
            bad = bad << 16 | ((unsigned)ok ^ 0xffffu);
            if (k % 2 == 1 && __builtin_expect(bad != 0, 0)) {
                refused += (uint64_t)__builtin_popcount(bad);
                bad = 0;
            }
        }
        _mm512_storeu_si512(acc + i, _mm512_permutex2var_epi64(even, front, odd));
        _mm512_storeu_si512(acc + i + 8, _mm512_permutex2var_epi64(even, back, odd));
    }
    return refused + kern_fold_group_rest(f32, acc, x, w, i, n, scale);
}

/* Doubles here: v - q needs the bits below 2^-149 * 2^30 that a float scale could lose. */
TARGET static void f32_wide(int64_t *hi, int64_t *lo, const float *x, size_t begin, size_t n,
                            double scale, uint32_t w, struct kern_refusal *refusal) {
    const __m512d vscale = _mm512_set1_pd(scale), limit = _mm512_set1_pd(KERN_Q_MAX);
    const __m512i vw = _mm512_set1_epi64(w);
    size_t i = begin;
    for (; i + 8 <= n; i += 8) {
        kern_fold_ahead(x + i);
        __m512d v = _mm512_mul_pd(_mm512_cvtps_pd(_mm256_loadu_ps(x + i)), vscale);
        __m512d q = _mm512_roundscale_pd(v, NEAREST);
        __mmask8 ok = _mm512_cmp_pd_mask(_mm512_abs_pd(q), limit, _CMP_LE_OQ);
        __m512d r = _mm512_mul_pd(_mm512_sub_pd(v, q), limit);
        if (__builtin_expect(ok != 0xff, 0)) {
            unsigned bad = (unsigned)ok ^ 0xffu;
            kern_refusal_add(refusal, (uint64_t)__builtin_popcount(bad),
                             i + (size_t)__builtin_ctz(bad));
        }
        add8(hi + i, _mm512_cvt_roundpd_epi32(q, NEAREST), vw, ok);
        add8(lo + i, _mm512_cvt_roundpd_epi32(r, NEAREST), vw, ok);
    }
    kern_fold_scalar.f32_wide(hi, lo, x, i, n, scale, w, refusal);
}

TARGET static void i64(int64_t *acc, const int64_t *s, size_t begin, size_t n, int64_t limit,
                       struct kern_refusal *refusal) {
    const __m512i top = _mm512_set1_epi64(limit), bottom = _mm512_set1_epi64(-limit);
    size_t i = begin;
    for (; i + 8 <= n; i += 8) {
        kern_fold_ahead(s + i);
        __m512i v = _mm512_loadu_si512(s + i), sum = _mm512_loadu_si512(acc + i);
        __mmask8 ok = _mm512_cmple_epi64_mask(v, top) & _mm512_cmpge_epi64_mask(v, bottom);
        if (__builtin_expect(ok != 0xff, 0)) {
            unsigned bad = (unsigned)ok ^ 0xffu;
            kern_refusal_add(refusal, (uint64_t)__builtin_popcount(bad),
                             i + (size_t)__builtin_ctz(bad));
        }
        _mm512_storeu_si512(acc + i, _mm512_mask_add_epi64(sum, ok, sum, v));
    }
    kern_fold_scalar.i64(acc, s, i, n, limit, refusal);
}

const struct kern_fold_ops kern_fold_avx512 = {f32, f32_wide, f32_group, i64};

#endif
