/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a training step does with gradients beside the plain optimisers of nn_cases.c: sums of
 * several, clipping, decay that is decoupled from the gradient.
 */
#include "tests/parity/bench.h"

#include <math.h>

#define TOL_MAP 2e-6
#define TOL_SUM 2e-5
#define F32 sizeof(float)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Of one warp and less, of one part of the CPU backend, of several, of a grid that strides. */
static const size_t lengths[] = {1, 7, 31, 257, 5000, 40000};

static void axpby_once(struct bench *b, size_t i) {
    static const float betas[] = {0, 1, -0.75f};
    size_t n = lengths[i / COUNT(betas)];
    float beta = betas[i % COUNT(betas)], alpha = 0.3f;
    float *y = bench_random(b, n, -2, 2), *x = bench_random(b, n, -2, 2);
    double *want = bench_host(b, n, sizeof *want);

    if (beta == 0)
        y[0] = NAN; /* is not read */
    for (size_t k = 0; k < n; k++)
        want[k] = (double)alpha * (double)x[k] + (beta == 0 ? 0 : (double)beta * (double)y[k]);
    struct kern_vec vy = bench_put(b, y, n, F32);
    BENCH_OK(b, kern_axpby(vy, bench_put(b, x, n, F32), n, alpha, beta));
    bench_near(b, "axpby", bench_get(b, vy, n, F32), want, n, TOL_MAP);
    BENCH_REFUSED(b, kern_axpby, vy, vy, n, alpha, beta);
}
BENCH_CASE(axpby_case, axpby_once, COUNT(lengths) * 3)

static void square_sum_once(struct bench *b, size_t i) {
    size_t n = lengths[i];
    float *x = bench_random(b, n, -2, 2), start = 0.5f;
    double want = 0.5;

    for (size_t k = 0; k < n; k++)
        want += (double)x[k] * (double)x[k];
    struct kern_vec sum = bench_put(b, &start, 1, F32), vx = bench_put(b, x, n, F32);
    BENCH_OK(b, kern_square_sum(sum, vx, n));
    bench_near(b, "square_sum", bench_get(b, sum, 1, F32), &want, 1, TOL_SUM);
    BENCH_REFUSED(b, kern_square_sum, vx, vx, n);
}
BENCH_CASE(square_sum_case, square_sum_once, COUNT(lengths))

/* Above the norm, at it and below it: what is not clipped keeps its bits. */
static void clip_norm_once(struct bench *b, size_t i) {
    static const double shares[] = {0.1, 0.999, 1.001, 10};
    size_t n = lengths[i / COUNT(shares)];
    float *g = bench_random(b, n, 0.5f, 2), zero = 0;
    double *want = bench_host(b, n, sizeof *want), norm = 0;

    for (size_t k = 0; k < n; k++)
        norm += (double)g[k] * (double)g[k];
    norm = sqrt(norm);
    float most = (float)(norm * shares[i % COUNT(shares)]);
    double factor = fmin((double)most / (norm + 1e-6), 1);
    for (size_t k = 0; k < n; k++)
        want[k] = (double)g[k] * factor;
    struct kern_vec vg = bench_put(b, g, n, F32), squares = bench_put(b, &zero, 1, F32);
    BENCH_OK(b, kern_square_sum(squares, vg, n));
    BENCH_OK(b, kern_clip_norm(vg, squares, n, most));
    bench_near(b, "clip_norm", bench_get(b, vg, n, F32), want, n, factor < 1 ? TOL_SUM : 0);
    BENCH_REFUSED(b, kern_clip_norm, vg, squares, n, 0);
    BENCH_REFUSED(b, kern_clip_norm, vg, squares, n, INFINITY);
    BENCH_REFUSED(b, kern_clip_norm, vg, vg, n, 1);
}
BENCH_CASE(clip_norm_case, clip_norm_once, COUNT(lengths) * 4)

static void clip_value_once(struct bench *b, size_t i) {
    size_t n = lengths[i];
    float *g = bench_random(b, n, -2, 2);
    double *want = bench_host(b, n, sizeof *want);

    if (n > 4) {
        g[1] = INFINITY;
        g[2] = -INFINITY;
        g[3] = 0.75f;
    }
    for (size_t k = 0; k < n; k++)
        want[k] = fmin(fmax((double)g[k], -0.75), 0.75);
    struct kern_vec vg = bench_put(b, g, n, F32);
    BENCH_OK(b, kern_clip_value(vg, n, 0.75f));
    bench_near(b, "clip_value", bench_get(b, vg, n, F32), want, n, 0);
    float *nan = bench_host(b, 1, F32);
    *nan = NAN;
    struct kern_vec vn = bench_put(b, nan, 1, F32);
    BENCH_OK(b, kern_clip_value(vn, 1, 0.75f));
    const float *back = bench_get(b, vn, 1, F32);
    if (!isnan(*back))
        bench_fail(b, "clip_value makes %g of NaN", (double)*back);
    BENCH_REFUSED(b, kern_clip_value, vg, n, 0);
    BENCH_REFUSED(b, kern_clip_value, vg, n, NAN);
}
BENCH_CASE(clip_value_case, clip_value_once, COUNT(lengths))

static void adamw_once(struct bench *b, size_t i) {
    size_t n = lengths[i];
    float *w = bench_random(b, n, -1, 1), *zero = bench_host(b, n, F32);
    double *want = bench_host(b, n, sizeof *want), *m = bench_host(b, n, sizeof *m);
    double *v = bench_host(b, n, sizeof *v);
    struct kern_adam opt = {.lr = 0.01f,
                            .beta1 = 0.9f,
                            .beta2 = 0.999f,
                            .eps = 1e-8f,
                            .weight_decay = 0.1f,
                            .decoupled = true};
    double b1 = (double)opt.beta1, b2 = (double)opt.beta2, lr = (double)opt.lr;

    for (size_t k = 0; k < n; k++)
        want[k] = (double)w[k];
    struct kern_vec vw = bench_put(b, w, n, F32), vm = bench_put(b, zero, n, F32);
    struct kern_vec vv = bench_put(b, zero, n, F32);
    for (opt.step = 1; opt.step <= 4; opt.step++) {
        float *g = bench_random(b, n, 0.1f, 1);
        for (size_t k = 0; k < n; k++) {
            m[k] = b1 * m[k] + (1 - b1) * (double)g[k];
            v[k] = b2 * v[k] + (1 - b2) * (double)g[k] * (double)g[k];
            double mh = m[k] / (1 - pow(b1, (double)opt.step));
            double vh = v[k] / (1 - pow(b2, (double)opt.step));
            want[k] -= lr * (double)opt.weight_decay * want[k];
            want[k] -= lr * mh / (sqrt(vh) + (double)opt.eps);
        }
        BENCH_OK(b, kern_adam_step(vw, bench_put(b, g, n, F32), vm, vv, n, &opt));
    }
    bench_near(b, "adamw", bench_get(b, vw, n, F32), want, n, TOL_MAP);
}
BENCH_CASE(adamw_case, adamw_once, COUNT(lengths))

const struct parity_case parity_step_cases[] = {
    {"axpby", axpby_case, false},
    {"square_sum", square_sum_case, false},
    {"clip_norm", clip_norm_case, false},
    {"clip_value", clip_value_case, false},
    {"adam_step decoupled", adamw_case, false},
};
const size_t parity_step_count = COUNT(parity_step_cases);
