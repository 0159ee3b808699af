/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/merge.h"
#include "kernels/kern.h"
#include "tests/parity/parity.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 70
#define STRIDE 96

static float any_value(uint64_t *seed) {
    uint64_t r = parity_next(seed);
    float v = (float)(int64_t)(r >> 40) * 0x1p-24f - 0.5f;
    if (r % 7 == 0)
        v = (float)(int)(r >> 8 & 3) - 1.5f; /* ties are frequent */
    return r % 3 == 0 ? v * 0x1p-20f : v;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float trimmed_mean_of(const float *x, size_t rows, size_t column, size_t trim) {
    float v[ROWS_MAX];
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        v[r] = x[r * STRIDE + column];
    qsort(v, rows, sizeof *v, by_value);
    for (size_t r = trim; r < rows - trim; r++)
        sum += (double)v[r];
    return (float)(sum / (double)(rows - 2 * trim));
}

Test(kern_merge, every_instruction_set_trims_to_the_bits_of_a_sort) {
    static float x[ROWS_MAX * STRIDE], work[KERN_TRIM_WORK(ROWS_MAX)], out[STRIDE + 1];
    uint64_t seed = 3;
    for (int round = 0; round < 400; round++) {
        size_t rows = 1 + parity_next(&seed) % ROWS_MAX, n = parity_next(&seed) % STRIDE;
        size_t trim = parity_next(&seed) % ((rows + 1) / 2);
        for (size_t i = 0; i < rows * STRIDE; i++)
            x[i] = any_value(&seed);
        for (int isa = 0; isa < KERN_ISA_COUNT; isa++) {
            const struct kern_merge_ops *ops = kern_merge_ops_for((enum kern_isa)isa);
            if (!ops)
                continue;
            out[n] = 77;
            kern_trimmed_mean_by(ops, out, x, rows, STRIDE, n, trim, work);
            cr_assert(eq(flt, out[n], 77));
            for (size_t i = 0; i < n; i++) {
                float want = trimmed_mean_of(x, rows, i, trim);
                cr_assert(memcmp(&out[i], &want, sizeof want) == 0, "isa %d rows %zu trim %zu", isa,
                          rows, trim);
            }
        }
    }
}

Test(kern_merge, every_instruction_set_gives_the_gram_matrix_of_the_definition) {
    static float x[ROWS_MAX * STRIDE];
    static double gram[ROWS_MAX * (ROWS_MAX + 1) / 2];
    uint64_t seed = 4;
    for (int round = 0; round < 60; round++) {
        size_t rows = 1 + parity_next(&seed) % ROWS_MAX, n = parity_next(&seed) % (STRIDE + 1);
        for (size_t i = 0; i < rows * STRIDE; i++)
            x[i] = any_value(&seed);
        for (int isa = 0; isa < KERN_ISA_COUNT; isa++) {
            const struct kern_merge_ops *ops = kern_merge_ops_for((enum kern_isa)isa);
            if (!ops)
                continue;
            for (size_t i = 0; i < rows * (rows + 1) / 2; i++)
                gram[i] = 0.125;
            kern_gram_by(ops, gram, x, rows, STRIDE, n);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j <= i; j++) {
                    double lane[8] = {0};
                    for (size_t e = 0; e < n; e++)
                        lane[e % 8] += (double)x[i * STRIDE + e] * (double)x[j * STRIDE + e];
                    double want = 0.125 + (((lane[0] + lane[4]) + (lane[2] + lane[6])) +
                                           ((lane[1] + lane[5]) + (lane[3] + lane[7])));
                    cr_assert(memcmp(&gram[i * (i + 1) / 2 + j], &want, sizeof want) == 0,
                              "isa %d rows %zu n %zu at %zu,%zu", isa, rows, n, i, j);
                }
        }
    }
}

Test(kern_merge, what_the_fold_refuses_is_refused_here_too) {
    uint64_t seed = 5;
    for (int round = 0; round < 2000; round++) {
        float x[40];
        int64_t acc[40] = {0};
        int f = (int)(parity_next(&seed) % 201) - 100;
        size_t n = parity_next(&seed) % 41, first = 99, want_first = 99;
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)parity_next(&seed);
            memcpy(&x[i], &bits, sizeof bits);
            if (parity_next(&seed) % 2)
                x[i] = ldexpf(1.0f + (float)(bits & 1) * 0x1p-23f, 30 - f);
        }
        uint64_t want = kern_fold_f32(acc, x, n, f, 1, &want_first);
        cr_assert(eq(u64, kern_accept_f32(x, n, f, &first), want));
        cr_assert(eq(sz, first, want_first));
    }
    float zero = -0.0f;
    kern_accept_f32(&zero, 1, 30, NULL);
    cr_assert(eq(int, signbit(zero) != 0, 0));
}

Test(kern_merge, every_instruction_set_mixes_to_the_bits_of_the_definition) {
    static float x[ROWS_MAX * STRIDE], out[ROWS_MAX * STRIDE];
    static double work[KERN_MIX_WORK(ROWS_MAX)];
    static uint32_t far[ROWS_MAX * ROWS_MAX];
    uint64_t seed = 6;
    for (int round = 0; round < 60; round++) {
        size_t rows = 1 + parity_next(&seed) % ROWS_MAX, n = parity_next(&seed) % (STRIDE + 1);
        size_t out_of = parity_next(&seed) % rows;
        for (size_t i = 0; i < rows * STRIDE; i++)
            x[i] = any_value(&seed);
        for (size_t i = 0; i < rows; i++)
            for (size_t k = 0; k < out_of; k++)
                far[i * out_of + k] = (uint32_t)(i > 0 || k + 1 < out_of ? k : rows - 1);
        for (int isa = 0; isa < KERN_ISA_COUNT; isa++) {
            const struct kern_merge_ops *ops = kern_merge_ops_for((enum kern_isa)isa);
            if (!ops)
                continue;
            kern_mix_by(ops, out, x, rows, STRIDE, n, far, out_of, work);
            for (size_t i = 0; i < rows; i++)
                for (size_t e = 0; e < n; e++) {
                    double sum = 0;
                    for (size_t r = 0; r < rows; r++)
                        sum += (double)x[r * STRIDE + e];
                    for (size_t k = 0; k < out_of; k++)
                        sum -= (double)x[far[i * out_of + k] * STRIDE + e];
                    float want = (float)(sum / (double)(rows - out_of));
                    cr_assert(memcmp(&out[i * STRIDE + e], &want, sizeof want) == 0,
                              "isa %d rows %zu without %zu", isa, rows, out_of);
                }
        }
    }
}
