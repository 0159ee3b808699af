/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Order statistics and dot products over many updates, with one result on every machine. Sorting
 * compares and exchanges along a network that depends on the number of rows alone, for 16 columns
 * at a time. A product of two float32 is exact in double, so a fused multiply-add rounds as the
 * plain sum does, and the instruction sets agree as long as they add in the same order.
 */
#include "kernels/cpu/merge.h"
#include "kernels/kern.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define ACCEPT_STEP 4096

static void scalar_sort(float *work, size_t rows) {
#define EXCHANGE(i, j)                                                                             \
    do {                                                                                           \
        float *low_ = work + (i)*KERN_SORT_LANES, *high_ = work + (j)*KERN_SORT_LANES;             \
        for (size_t l_ = 0; l_ < KERN_SORT_LANES; l_++) {                                          \
            float a_ = low_[l_], b_ = high_[l_];                                                   \
            low_[l_] = a_ < b_ ? a_ : b_;                                                          \
            high_[l_] = a_ < b_ ? b_ : a_;                                                         \
        }                                                                                          \
    } while (0)
    KERN_SORT_NETWORK(rows, EXCHANGE);
#undef EXCHANGE
}

static double scalar_dot(const float *a, const float *b, size_t n) {
    double lane[KERN_DOT_LANES] = {0};
    return kern_dot_tree(lane, a, b, 0, n);
}

static void scalar_gram_tile(double out[KERN_GRAM_TILE][KERN_GRAM_TILE], const float *a,
                             const float *b, size_t stride, size_t n) {
    for (size_t i = 0; i < KERN_GRAM_TILE; i++)
        for (size_t j = 0; j < KERN_GRAM_TILE; j++)
            out[i][j] = scalar_dot(a + i * stride, b + j * stride, n);
}

static void scalar_minus_rows(double *acc, const double *rows, const uint32_t *index,
                              size_t count) {
    for (size_t k = 0; k < count; k++)
        for (size_t l = 0; l < KERN_MIX_LANES; l++)
            acc[l] -= rows[index[k] * KERN_MIX_LANES + l];
}

const struct kern_merge_ops kern_merge_scalar = {scalar_sort, scalar_gram_tile, scalar_minus_rows};

const struct kern_merge_ops *kern_merge_ops_for(enum kern_isa isa) {
    switch (isa) {
    case KERN_ISA_SCALAR:
        return &kern_merge_scalar;
#if defined(__x86_64__)
    case KERN_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kern_merge_avx2
                                                                               : NULL;
    case KERN_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") ? &kern_merge_avx512 : NULL;
#endif
    default:
        return NULL;
    }
}

static const struct kern_merge_ops *widest(void) {
    const struct kern_merge_ops *ops = kern_merge_ops_for(KERN_ISA_AVX512);
    if (ops == NULL)
        ops = kern_merge_ops_for(KERN_ISA_AVX2);
    return ops != NULL ? ops : &kern_merge_scalar;
}

/* So written, NaN is refused too; limit is finite, so an infinity is beyond it. */
static inline bool is_out(float x, float limit) {
    return !(fabsf(x) <= limit);
}

uint64_t kern_accept_f32(float *x, size_t n, int frac_bits, size_t *first_out) {
    const float limit = frac_bits <= -98 ? FLT_MAX : ldexpf(1, 30 - frac_bits);
    uint64_t refused = 0;

    for (size_t at = 0; at < n; at += ACCEPT_STEP) {
        size_t end = n - at < ACCEPT_STEP ? n : at + ACCEPT_STEP;
        int out = 0; /* as wide as a float, so that the loop becomes vectors */
        for (size_t i = at; i < end; i++) {
            out += is_out(x[i], limit);
            x[i] += 0.0f; /* one zero: -0 would sort as the instruction set likes */
        }
        for (size_t i = at; refused == 0 && out > 0 && first_out && i < end; i++)
            if (is_out(x[i], limit)) {
                *first_out = i;
                break;
            }
        refused += (uint64_t)out;
    }
    return refused;
}

void kern_trimmed_mean_by(const struct kern_merge_ops *ops, float *out, const float *x, size_t rows,
                          size_t stride, size_t n, size_t trim, float *work) {
    for (size_t at = 0; at < n; at += KERN_SORT_LANES) {
        size_t w = n - at < KERN_SORT_LANES ? n - at : KERN_SORT_LANES;
        double sum[KERN_SORT_LANES] = {0}, left = (double)(rows - 2 * trim);

        for (size_t r = 0; r < rows; r++) {
            float *row = work + r * KERN_SORT_LANES;
            if (w < KERN_SORT_LANES)
                memset(row, 0, KERN_SORT_LANES * sizeof *row);
            memcpy(row, x + r * stride + at, w * sizeof *row);
        }
        ops->sort(work, rows);
        for (size_t r = trim; r < rows - trim; r++)
            for (size_t l = 0; l < KERN_SORT_LANES; l++)
                sum[l] += (double)work[r * KERN_SORT_LANES + l];
        for (size_t l = 0; l < w; l++)
            out[at + l] = (float)(sum[l] / left);
    }
}

void kern_trimmed_mean(float *out, const float *x, size_t rows, size_t stride, size_t n,
                       size_t trim, float *work) {
    kern_trimmed_mean_by(widest(), out, x, rows, stride, n, trim, work);
}

void kern_gram_by(const struct kern_merge_ops *ops, double *gram, const float *x, size_t rows,
                  size_t stride, size_t n) {
    size_t tiled = rows / KERN_GRAM_TILE * KERN_GRAM_TILE;

    for (size_t i = 0; i < tiled; i += KERN_GRAM_TILE)
        for (size_t j = 0; j <= i; j += KERN_GRAM_TILE) {
            double tile[KERN_GRAM_TILE][KERN_GRAM_TILE];
            ops->gram_tile(tile, x + i * stride, x + j * stride, stride, n);
            for (size_t a = 0; a < KERN_GRAM_TILE; a++)
                for (size_t b = 0; b < KERN_GRAM_TILE && j + b <= i + a; b++)
                    gram[(i + a) * (i + a + 1) / 2 + j + b] += tile[a][b];
        }
    for (size_t i = tiled; i < rows; i++)
        for (size_t j = 0; j <= i; j++)
            gram[i * (i + 1) / 2 + j] += scalar_dot(x + i * stride, x + j * stride, n);
}

void kern_gram(double *gram, const float *x, size_t rows, size_t stride, size_t n) {
    kern_gram_by(widest(), gram, x, rows, stride, n);
}

void kern_mix_by(const struct kern_merge_ops *ops, float *out, const float *x, size_t rows,
                 size_t stride, size_t n, const uint32_t *far, size_t far_count, double *work) {
    double *wide = work + KERN_MIX_LANES, kept = (double)(rows - far_count);

    for (size_t at = 0; at < n; at += KERN_MIX_LANES) {
        size_t w = n - at < KERN_MIX_LANES ? n - at : KERN_MIX_LANES;
        double total[KERN_MIX_LANES] = {0};
        for (size_t r = 0; r < rows; r++) {
            float row[KERN_MIX_LANES] = {0};
            double *to = wide + r * KERN_MIX_LANES;
            memcpy(row, x + r * stride + at, w * sizeof *row);
            for (size_t l = 0; l < KERN_MIX_LANES; l++) {
                to[l] = (double)row[l];
                total[l] += to[l];
            }
        }
        for (size_t r = 0; r < rows; r++) {
            memcpy(work, total, sizeof total);
            ops->minus_rows(work, wide, far + r * far_count, far_count);
            for (size_t l = 0; l < w; l++)
                out[r * stride + at + l] = (float)(work[l] / kept);
        }
    }
}

void kern_mix(float *out, const float *x, size_t rows, size_t stride, size_t n, const uint32_t *far,
              size_t far_count, double *work) {
    kern_mix_by(widest(), out, x, rows, stride, n, far, far_count, work);
}
