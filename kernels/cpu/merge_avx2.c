/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Robust merges with AVX2 and FMA, by the reasoning of merge.c. Sixteen registers hold two rows
 * against two at a time, so a tile is four such quarters.
 */
#include "kernels/cpu/merge.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))

TARGET static inline void exchange(float *low, float *high) {
    for (size_t l = 0; l < KERN_SORT_LANES; l += 8) {
        __m256 a = _mm256_loadu_ps(low + l), b = _mm256_loadu_ps(high + l);
        _mm256_storeu_ps(low + l, _mm256_min_ps(a, b));
        _mm256_storeu_ps(high + l, _mm256_max_ps(b, a));
    }
}

TARGET static void sort(float *work, size_t rows) {
#define EXCHANGE(i, j) exchange(work + (i)*KERN_SORT_LANES, work + (j)*KERN_SORT_LANES)
    KERN_SORT_NETWORK(rows, EXCHANGE);
#undef EXCHANGE
}

/* Rows a, a2 against rows b, b2; lanes 0-3 and 4-7 of each product are a register each. */
TARGET static void quarter(double out[2][2], const float *a, const float *a2, const float *b,
                           const float *b2, size_t n) {
    const float *rows[2] = {a, a2}, *cols[2] = {b, b2};
    __m256d sum[2][2][2];
    size_t e = 0;

    for (int i = 0; i < 8; i++)
        sum[i / 4][i / 2 % 2][i % 2] = _mm256_setzero_pd();
    for (; e + KERN_DOT_LANES <= n; e += KERN_DOT_LANES) {
        for (size_t half = 0; half < 2; half++) {
            __m256d x0 = _mm256_cvtps_pd(_mm_loadu_ps(a + e + 4 * half));
            __m256d x1 = _mm256_cvtps_pd(_mm_loadu_ps(a2 + e + 4 * half));
            __m256d y0 = _mm256_cvtps_pd(_mm_loadu_ps(b + e + 4 * half));
            __m256d y1 = _mm256_cvtps_pd(_mm_loadu_ps(b2 + e + 4 * half));
            sum[0][0][half] = _mm256_fmadd_pd(x0, y0, sum[0][0][half]);
            sum[0][1][half] = _mm256_fmadd_pd(x0, y1, sum[0][1][half]);
            sum[1][0][half] = _mm256_fmadd_pd(x1, y0, sum[1][0][half]);
            sum[1][1][half] = _mm256_fmadd_pd(x1, y1, sum[1][1][half]);
        }
    }
    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < 2; j++) {
            double lane[KERN_DOT_LANES];
            _mm256_storeu_pd(lane, sum[i][j][0]);
            _mm256_storeu_pd(lane + 4, sum[i][j][1]);
            out[i][j] = kern_dot_tree(lane, rows[i], cols[j], e, n);
        }
}

static void gram_tile(double out[KERN_GRAM_TILE][KERN_GRAM_TILE], const float *a, const float *b,
                      size_t stride, size_t n) {
    for (size_t i = 0; i < KERN_GRAM_TILE; i += 2)
        for (size_t j = 0; j < KERN_GRAM_TILE; j += 2) {
            double part[2][2];
            quarter(part, a + i * stride, a + (i + 1) * stride, b + j * stride,
                    b + (j + 1) * stride, n);
            for (size_t k = 0; k < 4; k++)
                out[i + k / 2][j + k % 2] = part[k / 2][k % 2];
        }
}

TARGET static void minus_rows(double *acc, const double *rows, const uint32_t *index,
                              size_t count) {
    __m256d sum[KERN_MIX_LANES / 4];

    for (size_t l = 0; l < KERN_MIX_LANES / 4; l++)
        sum[l] = _mm256_loadu_pd(acc + 4 * l);
    for (size_t k = 0; k < count; k++) {
        const double *row = rows + index[k] * KERN_MIX_LANES;
        for (size_t l = 0; l < KERN_MIX_LANES / 4; l++)
            sum[l] = _mm256_sub_pd(sum[l], _mm256_loadu_pd(row + 4 * l));
    }
    for (size_t l = 0; l < KERN_MIX_LANES / 4; l++)
        _mm256_storeu_pd(acc + 4 * l, sum[l]);
}

const struct kern_merge_ops kern_merge_avx2 = {sort, gram_tile, minus_rows};

#endif
