/* SPDX-License-Identifier: Apache-2.0 */
/* Robust merges with AVX-512 F: a row of sixteen columns, or eight lanes, is one register. */
#include "kernels/cpu/merge.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f")))

TARGET static void sort(float *work, size_t rows) {
#define EXCHANGE(i, j)                                                                             \
    do {                                                                                           \
        float *low_ = work + (i)*KERN_SORT_LANES, *high_ = work + (j)*KERN_SORT_LANES;             \
        __m512 a_ = _mm512_loadu_ps(low_), b_ = _mm512_loadu_ps(high_);                            \
        _mm512_storeu_ps(low_, _mm512_min_ps(a_, b_));                                             \
        _mm512_storeu_ps(high_, _mm512_max_ps(b_, a_));                                            \
    } while (0)
    KERN_SORT_NETWORK(rows, EXCHANGE);
#undef EXCHANGE
}

TARGET static inline __m512d wide(const float *p) {
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}

TARGET static void gram_tile(double out[KERN_GRAM_TILE][KERN_GRAM_TILE], const float *a,
                             const float *b, size_t stride, size_t n) {
    __m512d sum[KERN_GRAM_TILE][KERN_GRAM_TILE];
    size_t e = 0;

    for (size_t k = 0; k < 16; k++)
        sum[k / 4][k % 4] = _mm512_setzero_pd();
    for (; e + KERN_DOT_LANES <= n; e += KERN_DOT_LANES) {
        __m512d y0 = wide(b + e), y1 = wide(b + stride + e), y2 = wide(b + 2 * stride + e),
                y3 = wide(b + 3 * stride + e);
        for (size_t i = 0; i < KERN_GRAM_TILE; i++) {
            __m512d x = wide(a + i * stride + e);
            sum[i][0] = _mm512_fmadd_pd(x, y0, sum[i][0]);
            sum[i][1] = _mm512_fmadd_pd(x, y1, sum[i][1]);
            sum[i][2] = _mm512_fmadd_pd(x, y2, sum[i][2]);
            sum[i][3] = _mm512_fmadd_pd(x, y3, sum[i][3]);
        }
    }
    for (size_t i = 0; i < KERN_GRAM_TILE; i++)
        for (size_t j = 0; j < KERN_GRAM_TILE; j++) {
            double lane[KERN_DOT_LANES];
            _mm512_storeu_pd(lane, sum[i][j]);
            out[i][j] = kern_dot_tree(lane, a + i * stride, b + j * stride, e, n);
        }
}

TARGET static void minus_rows(double *acc, const double *rows, const uint32_t *index,
                              size_t count) {
    __m512d sum[KERN_MIX_LANES / 8];

    for (size_t l = 0; l < KERN_MIX_LANES / 8; l++)
        sum[l] = _mm512_loadu_pd(acc + 8 * l);
    for (size_t k = 0; k < count; k++) {
        const double *row = rows + index[k] * KERN_MIX_LANES;
        for (size_t l = 0; l < KERN_MIX_LANES / 8; l++)
            sum[l] = _mm512_sub_pd(sum[l], _mm512_loadu_pd(row + 8 * l));
    }
    for (size_t l = 0; l < KERN_MIX_LANES / 8; l++)
        _mm512_storeu_pd(acc + 8 * l, sum[l]);
}

const struct kern_merge_ops kern_merge_avx512 = {sort, gram_tile, minus_rows};

#endif
