/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/server.h"
#include "tests/parity/parity.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ELEMENTS = 8, STEPS = 6 };

static const struct kern_server usual = {
    .lr = 0.03, .momentum = 0.9, .beta1 = 0.9, .beta2 = 0.99, .tau = 1e-3};

static const enum kern_server_kind kinds[] = {KERN_SERVER_MOMENTUM, KERN_SERVER_ADAGRAD,
                                              KERN_SERVER_ADAM, KERN_SERVER_YOGI};

/* Bit patterns, as a program that shares nothing with this one computed them on fractions. */
static const struct golden {
    enum kern_server_kind kind;
    uint32_t before[ELEMENTS];
    uint64_t delta[STEPS][ELEMENTS];
    uint32_t after[ELEMENTS];
    uint64_t m[ELEMENTS], v[ELEMENTS];
} golden[] = {
#include "server_golden.inc"
};

Test(kern_server, every_optimiser_gives_the_bits_computed_on_exact_fractions) {
    for (size_t g = 0; g < 4; g++) {
        struct kern_server opt = usual;
        float x[ELEMENTS], y[ELEMENTS];
        double delta[ELEMENTS], m[ELEMENTS], v[ELEMENTS] = {0};
        opt.kind = golden[g].kind;
        memcpy(x, golden[g].before, sizeof x);
        kern_server_begin(m, v, ELEMENTS, &opt);
        for (size_t s = 0; s < STEPS; s++) {
            memcpy(delta, golden[g].delta[s], sizeof delta);
            kern_server_step(y, x, delta, m, v, ELEMENTS, &opt);
            memcpy(x, y, sizeof x);
        }
        cr_assert(memcmp(x, golden[g].after, sizeof x) == 0, "kind %zu: the model", g);
        cr_assert(memcmp(m, golden[g].m, sizeof m) == 0, "kind %zu: m", g);
        cr_assert(memcmp(v, golden[g].v, sizeof v) == 0, "kind %zu: v", g);
    }
}

/* The formulas again, wider, and written in another way. */
static long double expected(enum kern_server_kind kind, long double d, long double *m,
                            long double *v) {
    long double b1 = (long double)usual.beta1, b2 = (long double)usual.beta2;
    if (kind == KERN_SERVER_MOMENTUM) {
        *m = d + *m * (long double)usual.momentum;
        return (long double)usual.lr * *m;
    }
    *m += (1 - b1) * (d - *m);
    if (kind == KERN_SERVER_ADAGRAD)
        *v += d * d;
    else if (kind == KERN_SERVER_ADAM)
        *v += (1 - b2) * (d * d - *v);
    else
        *v += (1 - b2) * d * d * (d * d > *v ? 1 : d * d < *v ? -1 : 0);
    return (long double)usual.lr * *m / ((long double)usual.tau + sqrtl(*v));
}

Test(kern_server, many_rounds_stay_near_the_formulas_in_long_double) {
    for (size_t k = 0; k < 4; k++) {
        struct kern_server opt = usual;
        double m, v;
        uint64_t seed = 5 + k;
        long double wide_m = 0, wide_v = (long double)usual.tau * (long double)usual.tau;
        opt.kind = kinds[k];
        kern_server_begin(&m, &v, 1, &opt);
        for (int round = 0; round < 300; round++) {
            double delta = ((double)(parity_next(&seed) >> 11) * 0x1p-53 - 0.4) * 0.01;
            float x = 0, y = 0;
            long double want = expected(kinds[k], (long double)delta, &wide_m, &wide_v);
            kern_server_step(&y, &x, &delta, &m, &v, 1, &opt);
            cr_assert(fabsl((long double)y - want) <= 1e-7L * (fabsl(want) + 1e-6L),
                      "kind %zu, round %d: %.9g, and %.9Lg would be right", k, round, (double)y,
                      want);
        }
    }
}

Test(kern_server, every_instruction_set_gives_the_same_bits_at_every_length) {
    enum { ROOM = 300 };
    static const size_t lengths[] = {1, 2, 3, 7, 8, 9, 31, 64, 65, 299, ROOM};
    uint64_t seed = 3;
    float x[ROOM];
    double delta[ROOM], m0[ROOM], v0[ROOM];
    for (size_t i = 0; i < ROOM; i++) {
        x[i] = (float)(int64_t)(parity_next(&seed) >> 40) * 1e-6f - 8;
        delta[i] = ldexp((double)(int64_t)(parity_next(&seed) >> 11) - 0x1p52,
                         -53 - (int)(parity_next(&seed) % 60));
        m0[i] = ldexp((double)(parity_next(&seed) >> 11), -60);
        v0[i] = ldexp((double)(parity_next(&seed) >> 11), -53 - (int)(parity_next(&seed) % 60));
        if (i % 13 == 0)
            v0[i] = delta[i] * delta[i]; /* where Yogi's sign is 0 */
    }
    for (size_t k = 0; k < 4; k++)
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++)
            for (enum kern_isa isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
                const struct kern_server_ops *ops = kern_server_ops_for(isa);
                size_t n = lengths[l], bytes = n * sizeof(double);
                struct kern_server opt = usual;
                float y[2][ROOM];
                double m[2][ROOM], v[2][ROOM];
                opt.kind = kinds[k];
                for (int side = 0; ops && side < 2; side++) {
                    memcpy(m[side], m0, bytes);
                    memcpy(v[side], v0, bytes);
                    /* One element at a time is no vector, whatever the compiler made of it. */
                    for (size_t i = 0; side == 0 && i < n; i++)
                        kern_server_ops_for(KERN_ISA_SCALAR)
                            ->step(y[0] + i, x + i, delta + i, m[0] + i, v[0] + i, 1, &opt);
                }
                if (!ops)
                    continue;
                ops->step(y[1], x, delta, m[1], v[1], n, &opt);
                cr_assert(memcmp(y[0], y[1], n * sizeof(float)) == 0);
                cr_assert(memcmp(m[0], m[1], bytes) == 0);
                cr_assert(memcmp(v[0], v[1], bytes) == 0);
            }
}

Test(kern_server, the_mean_is_what_is_applied_without_an_optimiser) {
    enum { N = 100 };
    uint64_t seed = 8;
    int64_t hi[N], lo[N];
    float x[N], y[N];
    double delta[N];
    for (size_t i = 0; i < N; i++) {
        hi[i] = (int64_t)parity_next(&seed) >> 3;
        lo[i] = (int64_t)parity_next(&seed) >> 3;
        x[i] = (float)((int64_t)parity_next(&seed) >> 40);
    }
    for (int wide = 0; wide < 2; wide++) {
        kern_mean(delta, hi, wide ? lo : NULL, N, 27, 12345);
        kern_apply_mean(y, x, hi, wide ? lo : NULL, N, 27, 12345);
        for (size_t i = 0; i < N; i++)
            cr_assert(y[i] == (float)((double)x[i] + delta[i]));
    }
}

Test(kern_server, a_run_begins_with_no_momentum_and_the_least_second_moment) {
    struct kern_server opt = usual;
    double m[3] = {7, 7, 7}, v[3] = {7, 7, 7};
    opt.kind = KERN_SERVER_YOGI;
    kern_server_begin(m, v, 3, &opt);
    cr_assert(m[2] == 0 && v[2] == usual.tau * usual.tau);
    cr_assert(kern_server_has_v(KERN_SERVER_ADAM) && !kern_server_has_v(KERN_SERVER_MOMENTUM));
    opt.kind = KERN_SERVER_MOMENTUM;
    kern_server_begin(m, NULL, 3, &opt);
}
