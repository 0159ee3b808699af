/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Neural-network operations and optimisers against naive references in double. Tolerances are
 * relative to 1 + |expected|: 2e-6 (some twenty units in the last place) where an element is a few
 * operations, 2e-5 where it is a sum of up to some thousand terms of size one.
 */
#include "tests/parity/bench.h"

#include <math.h>
#include <string.h>

#define TOL_MAP 2e-6
#define TOL_SUM 2e-5
#define F32 sizeof(float)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const size_t lengths[] = {1, 31, 257, 5000};
static const size_t shapes[][2] = {{1, 1}, {5, 2}, {3, 33}, {70, 10}, {2, 1025}, {513, 3}};

static struct kern_vec none(void) {
    return (struct kern_vec){NULL, 0};
}

/* ---- gemm ---------------------------------------------------------------------------------- */

static void gemm_once(struct bench *b, const size_t s[3], bool ta, bool tb, float alpha,
                      float beta) {
    size_t m = s[0], n = s[1], k = s[2];
    float *a = bench_random(b, m * k, -1, 1), *x = bench_random(b, k * n, -1, 1);
    float *y = bench_random(b, m * n, -1, 1);
    double *want = bench_host(b, m * n, sizeof *want);
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t l = 0; l < k; l++) {
                sum +=
                    (double)a[ta ? l * m + i : i * k + l] * (double)x[tb ? j * k + l : l * n + j];
            }
            double old = beta == 0 ? 0 : (double)beta * (double)y[i * n + j];
            want[i * n + j] = (double)alpha * sum + old;
            y[i * n + j] = beta == 0 ? NAN : y[i * n + j]; /* must not be read then */
        }
    }
    struct kern_vec va = bench_put(b, a, m * k, F32), vx = bench_put(b, x, k * n, F32);
    struct kern_vec vy = bench_put(b, y, m * n, F32);
    BENCH_OK(b, kern_gemm(vy, va, vx, m, n, k, ta, tb, alpha, beta));
    bench_near(b, "gemm", bench_get(b, vy, m * n, F32), want, m * n, TOL_SUM);
}

/* With TF32 allowed a product may be as coarse as that, and not coarser; afterwards it is not. */
static void tf32_once(struct bench *b, size_t i) {
    const size_t m = 40, n = 24, k = i == 0 ? 64 : 7;
    float *a = bench_random(b, m * k, -1, 1), *x = bench_random(b, k * n, -1, 1);
    float *y = bench_random(b, m * n, -1, 1);
    double *want = bench_host(b, m * n, sizeof *want);
    for (size_t r = 0; r < m; r++) {
        for (size_t c = 0; c < n; c++) {
            for (size_t l = 0; l < k; l++) {
                want[r * n + c] += (double)a[r * k + l] * (double)x[l * n + c];
            }
        }
    }
    struct kern_vec va = bench_put(b, a, m * k, F32), vx = bench_put(b, x, k * n, F32);
    struct kern_vec vy = bench_put(b, y, m * n, F32);
    BENCH_OK(b, kern_device_products(b->dev, KERN_TF32));
    BENCH_OK(b, kern_gemm(vy, va, vx, m, n, k, false, false, 1, 0));
    /* Two operands, each off by at most 2^-11 of itself. */
    bench_near(b, "gemm in TF32", bench_get(b, vy, m * n, F32), want, m * n, (double)k * 0x1p-10);
    BENCH_OK(b, kern_device_products(b->dev, KERN_EXACT));
    BENCH_OK(b, kern_gemm(vy, va, vx, m, n, k, false, false, 1, 0));
    bench_near(b, "gemm after TF32", bench_get(b, vy, m * n, F32), want, m * n, TOL_SUM);
}
BENCH_CASE(tf32_case, tf32_once, 2)

static bool gemm_case(struct kern_device *dev, char *why, size_t why_bytes) {
    static const size_t sizes[][3] = {{1, 1, 1},    {3, 5, 7},     {33, 17, 65},
                                      {200, 9, 31}, {9, 420, 300}, {2, 64, 1}};
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(sizes); i++) {
        for (int t = 0; ok && t < 4; t++) {
            struct bench b;
            bench_begin(&b, dev, why, why_bytes);
            gemm_once(&b, sizes[i], (t & 1) != 0, (t & 2) != 0, t == 1 ? 0.5f : 1,
                      t == 2 ? 1 : (t == 3 ? -0.25f : 0));
            ok = bench_end(&b);
        }
    }
    return ok;
}

/* ---- element by element -------------------------------------------------------------------- */

enum unary { RELU, SIGMOID, ADD, RELU_GRAD, SIGMOID_GRAD };

static double unary_want(enum unary op, double a, double c) {
    switch (op) {
    case RELU:
        return a < 0 ? 0 : a;
    case SIGMOID:
        return 1 / (1 + exp(-a));
    case ADD:
        return a + c;
    case RELU_GRAD:
        return c > 0 ? a : 0;
    case SIGMOID_GRAD:
        return a * c * (1 - c);
    }
    return NAN;
}

static enum kern_status unary_call(enum unary op, struct kern_vec y, struct kern_vec a,
                                   struct kern_vec c, size_t n) {
    switch (op) {
    case RELU:
        return kern_relu(y, a, n);
    case SIGMOID:
        return kern_sigmoid(y, a, n);
    case ADD:
        return kern_add(y, a, c, n);
    case RELU_GRAD:
        return kern_relu_grad(y, a, c, n);
    case SIGMOID_GRAD:
        return kern_sigmoid_grad(y, a, c, n);
    }
    return KERN_EARG;
}

static void unary_once(struct bench *b, enum unary op, size_t n, bool in_place) {
    float *a = bench_random(b, n, -3, 3), *c = bench_random(b, n, -1, 1);
    double *want = bench_host(b, n, sizeof *want);
    static const float corner[] = {0, -0.0f, 90, -90, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
    for (size_t i = 0; n > 100 && op < ADD && i < COUNT(corner); i++) {
        a[7 + 3 * i] = corner[i];
    }
    for (size_t i = 0; i < n; i++) {
        want[i] = unary_want(op, (double)a[i], (double)c[i]);
    }
    struct kern_vec va = bench_put(b, a, n, F32), vc = bench_put(b, c, n, F32);
    struct kern_vec vy = in_place ? va : bench_put(b, c, n, F32);
    bench_status(b, "an element by element operation", unary_call(op, vy, va, vc, n), KERN_OK);
    bool wild = false;
    for (size_t i = 0; i < n; i++) {
        wild = wild || isinf(want[i]);
    }
    float *got = bench_get(b, vy, n, F32);
    for (size_t i = 0; wild && i < n; i++) {
        if (isinf(want[i]) && (double)got[i] == want[i]) {
            want[i] = 0; /* the difference of two infinities has no size */
            got[i] = 0;
        }
    }
    bench_near(b, "element by element", got, want, n, TOL_MAP);
}

static bool unary_case(enum unary op, struct kern_device *dev, char *why, size_t why_bytes) {
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(lengths) * 2; i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        unary_once(&b, op, lengths[i / 2], i % 2 == 1);
        ok = bench_end(&b);
    }
    return ok;
}

static bool relu_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return unary_case(RELU, dev, why, why_bytes);
}
static bool sigmoid_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return unary_case(SIGMOID, dev, why, why_bytes);
}
static bool add_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return unary_case(ADD, dev, why, why_bytes);
}
static bool relu_grad_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return unary_case(RELU_GRAD, dev, why, why_bytes);
}
static bool sigmoid_grad_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return unary_case(SIGMOID_GRAD, dev, why, why_bytes);
}

/* ---- by rows ------------------------------------------------------------------------------- */

typedef void (*rows_fn)(struct bench *b, size_t rows, size_t cols);

static bool by_rows(rows_fn fn, struct kern_device *dev, char *why, size_t why_bytes) {
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(shapes); i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        fn(&b, shapes[i][0], shapes[i][1]);
        ok = bench_end(&b);
    }
    return ok;
}

static void bias_once(struct bench *b, size_t rows, size_t cols) {
    size_t n = rows * cols;
    float *y = bench_random(b, n, -1, 1), *bias = bench_random(b, cols, -1, 1);
    double *want = bench_host(b, n, sizeof *want), *grad = bench_host(b, cols, sizeof *grad);
    for (size_t c = 0; c < cols; c++) {
        grad[c] = (double)bias[c];
    }
    for (size_t i = 0; i < n; i++) {
        want[i] = (double)y[i] + (double)bias[i % cols];
        grad[i % cols] += (double)y[i];
    }
    struct kern_vec vy = bench_put(b, y, n, F32), vb = bench_put(b, bias, cols, F32);
    struct kern_vec vg = bench_put(b, bias, cols, F32);
    BENCH_OK(b, kern_bias_grad(vg, vy, rows, cols));
    bench_near(b, "bias_grad", bench_get(b, vg, cols, F32), grad, cols, TOL_SUM);
    BENCH_OK(b, kern_bias_add(vy, vb, rows, cols));
    bench_near(b, "bias_add", bench_get(b, vy, n, F32), want, n, TOL_MAP);
}

static bool bias_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return by_rows(bias_once, dev, why, why_bytes);
}

static void softmax_want(const float *x, double *y, size_t rows, size_t cols) {
    for (size_t r = 0; r < rows; r++) {
        double top = -INFINITY, sum = 0;
        for (size_t c = 0; c < cols; c++) {
            top = fmax(top, (double)x[r * cols + c]);
        }
        for (size_t c = 0; c < cols; c++) {
            y[r * cols + c] = exp((double)x[r * cols + c] - top);
            sum += y[r * cols + c];
        }
        for (size_t c = 0; c < cols; c++) {
            y[r * cols + c] /= sum;
        }
    }
}

static void softmax_once(struct bench *b, size_t rows, size_t cols) {
    size_t n = rows * cols;
    float *x = bench_random(b, n, -4, 4), *dy = bench_random(b, n, -1, 1);
    double *want = bench_host(b, n, sizeof *want);
    for (size_t c = 0; c < cols; c++) {
        x[c] += 3000; /* overflows where the row is not shifted by its maximum */
    }
    softmax_want(x, want, rows, cols);
    struct kern_vec vx = bench_put(b, x, n, F32), vd = bench_put(b, dy, n, F32);
    struct kern_vec vy = bench_put(b, dy, n, F32);
    BENCH_OK(b, kern_softmax(vy, vx, rows, cols));
    bench_near(b, "softmax", bench_get(b, vy, n, F32), want, n, TOL_SUM);
    BENCH_OK(b, kern_softmax(vx, vx, rows, cols));
    bench_near(b, "softmax in place", bench_get(b, vx, n, F32), want, n, TOL_SUM);
    for (size_t r = 0; r < rows; r++) {
        double dot = 0;
        for (size_t c = 0; c < cols; c++) {
            dot += (double)dy[r * cols + c] * want[r * cols + c];
        }
        for (size_t c = 0; c < cols; c++) {
            want[r * cols + c] *= (double)dy[r * cols + c] - dot;
        }
    }
    BENCH_OK(b, kern_softmax_grad(vd, vd, vy, rows, cols));
    bench_near(b, "softmax_grad", bench_get(b, vd, n, F32), want, n, TOL_SUM);
}

static bool softmax_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return by_rows(softmax_once, dev, why, why_bytes);
}

static void ce_once(struct bench *b, size_t rows, size_t cols) {
    size_t n = rows * cols;
    float *z = bench_random(b, n, -4, 4), start = 1.5f;
    int32_t *label = bench_host(b, rows, sizeof *label);
    double *want = bench_host(b, n, sizeof *want), loss = 0;
    softmax_want(z, want, rows, cols);
    for (size_t r = 0; r < rows; r++) {
        label[r] = (int32_t)(parity_next(&b->seed) % cols);
        bool counts = rows < 4 || r % 4 != 3;
        label[r] = counts ? label[r] : (r % 8 == 3 ? -1 : (int32_t)cols);
        for (size_t c = 0; c < cols; c++) {
            double p = want[r * cols + c];
            bool hit = counts && (size_t)label[r] == c;
            loss -= hit ? log(p) / (double)rows : 0;
            want[r * cols + c] = counts ? (p - (hit ? 1 : 0)) / (double)rows : 0;
        }
    }
    double sum = 1.5 + loss, twice = sum + loss;
    struct kern_vec vz = bench_put(b, z, n, F32), vl = bench_put(b, label, rows, 4);
    struct kern_vec vs = bench_put(b, &start, 1, F32);
    BENCH_OK(b, kern_softmax_ce(vs, none(), vz, vl, rows, cols));
    bench_near(b, "cross-entropy", bench_get(b, vs, 1, F32), &sum, 1, TOL_SUM);
    BENCH_OK(b, kern_softmax_ce(vs, vz, vz, vl, rows, cols));
    bench_near(b, "cross-entropy, again", bench_get(b, vs, 1, F32), &twice, 1, TOL_SUM);
    bench_near(b, "its gradient", bench_get(b, vz, n, F32), want, n, TOL_SUM);
}

static bool ce_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return by_rows(ce_once, dev, why, why_bytes);
}

static void bce_once(struct bench *b, size_t rows, size_t cols) {
    size_t n = rows * cols;
    float *z = bench_random(b, n, -6, 6), *t = bench_random(b, n, 0, 1), start = 0.25f;
    double *want = bench_host(b, n, sizeof *want), loss = 0;
    z[n / 2] = 200;
    z[n - 1] = -200;
    for (size_t i = 0; i < n; i++) {
        double x = (double)z[i], y = (double)(t[i] = i % 3 == 0 ? 1 : (i % 3 == 1 ? 0 : t[i]));
        loss += (fmax(x, 0) - x * y + log1p(exp(-fabs(x)))) / (double)n;
        want[i] = (1 / (1 + exp(-x)) - y) / (double)n;
    }
    double sum = 0.25 + loss, twice = sum + loss;
    struct kern_vec vz = bench_put(b, z, n, F32), vt = bench_put(b, t, n, F32);
    struct kern_vec vs = bench_put(b, &start, 1, F32), vd = bench_put(b, t, n, F32);
    BENCH_OK(b, kern_bce_logits(vs, none(), vz, vt, n));
    bench_near(b, "binary cross-entropy", bench_get(b, vs, 1, F32), &sum, 1, TOL_SUM);
    BENCH_OK(b, kern_bce_logits(vs, vd, vz, vt, n));
    bench_near(b, "binary cross-entropy, again", bench_get(b, vs, 1, F32), &twice, 1, TOL_SUM);
    bench_near(b, "its gradient", bench_get(b, vd, n, F32), want, n, TOL_MAP);
}

static bool bce_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return by_rows(bce_once, dev, why, why_bytes);
}

static void standardise_once(struct bench *b, size_t rows, size_t cols) {
    size_t n = rows * cols;
    float *x = bench_random(b, n, -9, 9), *mean = bench_random(b, cols, -1, 1);
    float *inv = bench_random(b, cols, 0, 4);
    double *want = bench_host(b, n, sizeof *want);
    for (size_t i = 0; i < n; i++) {
        want[i] = ((double)x[i] - (double)mean[i % cols]) * (double)inv[i % cols];
    }
    struct kern_vec vx = bench_put(b, x, n, F32), vm = bench_put(b, mean, cols, F32);
    struct kern_vec vi = bench_put(b, inv, cols, F32);
    BENCH_OK(b, kern_standardise(vx, vm, vi, rows, cols));
    bench_near(b, "standardise", bench_get(b, vx, n, F32), want, n, TOL_MAP);
}

static bool standardise_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return by_rows(standardise_once, dev, why, why_bytes);
}

static void gather_once(struct bench *b, size_t rows, size_t cols) {
    size_t take = rows + 3;
    float *x = bench_random(b, rows * cols, -1, 1);
    int32_t *index = bench_host(b, take, sizeof *index);
    double *want = bench_host(b, take * cols, sizeof *want);
    for (size_t r = 0; r < take; r++) {
        index[r] = (int32_t)(parity_next(&b->seed) % rows);
    }
    index[rows] = (int32_t)rows;
    index[rows + 1] = -1;
    for (size_t i = 0; i < take * cols; i++) {
        int32_t from = index[i / cols];
        bool fits = from >= 0 && (size_t)from < rows;
        want[i] = fits ? (double)x[(size_t)from * cols + i % cols] : NAN;
    }
    struct kern_vec vx = bench_put(b, x, rows * cols, F32), vi = bench_put(b, index, take, 4);
    struct kern_vec vy = bench_put(b, bench_host(b, take * cols, F32), take * cols, F32);
    BENCH_OK(b, kern_gather_rows(vy, vx, vi, take, cols, rows));
    bench_near(b, "gather_rows", bench_get(b, vy, take * cols, F32), want, take * cols, 0);
}

static bool gather_case(struct kern_device *dev, char *why, size_t why_bytes) {
    return by_rows(gather_once, dev, why, why_bytes);
}

/* ---- optimisers ---------------------------------------------------------------------------- */

static void prox_once(struct bench *b, size_t n, float mu) {
    float *g = bench_random(b, n, -1, 1), *w = bench_random(b, n, -1, 1);
    float *w0 = bench_random(b, n, -1, 1);
    double *want = bench_host(b, n, sizeof *want);
    for (size_t i = 0; i < n; i++) {
        want[i] = (double)g[i] + (double)mu * ((double)w[i] - (double)w0[i]);
    }
    struct kern_vec vg = bench_put(b, g, n, F32), vw = bench_put(b, w, n, F32);
    BENCH_OK(b, kern_prox_grad(vg, vw, bench_put(b, w0, n, F32), n, mu));
    bench_near(b, "prox", bench_get(b, vg, n, F32), want, n, TOL_MAP);
}

static bool prox_case(struct kern_device *dev, char *why, size_t why_bytes) {
    static const float mus[] = {0, 0.001f, 1};
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(lengths) * COUNT(mus); i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        prox_once(&b, lengths[i / COUNT(mus)], mus[i % COUNT(mus)]);
        ok = bench_end(&b);
    }
    return ok;
}

static void stiff_once(struct bench *b, size_t n, float mu) {
    float *g = bench_random(b, n, -1, 1), *w = bench_random(b, n, -1, 1);
    float *c = bench_random(b, n, -1, 1), *a = bench_random(b, n, 0, 4);
    double *want = bench_host(b, n, sizeof *want);
    for (size_t i = 0; i < n; i++) {
        want[i] = (double)g[i] + (double)mu * (double)a[i] * ((double)w[i] - (double)c[i]);
    }
    struct kern_vec vg = bench_put(b, g, n, F32), vw = bench_put(b, w, n, F32);
    BENCH_OK(b, kern_stiff_grad(vg, vw, bench_put(b, c, n, F32), bench_put(b, a, n, F32), n, mu));
    bench_near(b, "stiff", bench_get(b, vg, n, F32), want, n, TOL_MAP);
}

static bool stiff_case(struct kern_device *dev, char *why, size_t why_bytes) {
    static const float mus[] = {0, 0.001f, 2};
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(lengths) * COUNT(mus); i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        stiff_once(&b, lengths[i / COUNT(mus)], mus[i % COUNT(mus)]);
        ok = bench_end(&b);
    }
    return ok;
}

static void add_square_once(struct bench *b, size_t n) {
    float *y = bench_random(b, n, 0, 1), *x = bench_random(b, n, -1, 1);
    double *want = bench_host(b, n, sizeof *want);
    for (size_t i = 0; i < n; i++) {
        want[i] = (double)y[i] + (double)x[i] * (double)x[i];
    }
    struct kern_vec vy = bench_put(b, y, n, F32);
    BENCH_OK(b, kern_add_square(vy, bench_put(b, x, n, F32), n));
    bench_near(b, "add_square", bench_get(b, vy, n, F32), want, n, TOL_MAP);
}

static bool add_square_case(struct kern_device *dev, char *why, size_t why_bytes) {
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(lengths); i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        add_square_once(&b, lengths[i]);
        ok = bench_end(&b);
    }
    return ok;
}

static void sgd_once(struct bench *b, size_t n, const struct kern_sgd *opt) {
    float *w = bench_random(b, n, -1, 1), *zero = bench_host(b, n, F32);
    double *want = bench_host(b, n, sizeof *want), *v = bench_host(b, n, sizeof *v);
    for (size_t i = 0; i < n; i++) {
        want[i] = (double)w[i];
    }
    struct kern_vec vw = bench_put(b, w, n, F32);
    struct kern_vec vv = opt->momentum != 0 ? bench_put(b, zero, n, F32) : none();
    double momentum = (double)opt->momentum;
    for (int step = 0; step < 3; step++) {
        float *g = bench_random(b, n, -1, 1);
        struct kern_vec vg = bench_put(b, g, n, F32);
        for (size_t i = 0; i < n; i++) {
            double gi = (double)g[i] + (double)opt->weight_decay * want[i];
            v[i] = momentum * v[i] + gi;
            want[i] -= (double)opt->lr * (opt->nesterov ? gi + momentum * v[i] : v[i]);
        }
        BENCH_OK(b, kern_sgd_step(vw, vg, vv, n, opt));
    }
    bench_near(b, "sgd", bench_get(b, vw, n, F32), want, n, TOL_MAP);
}

static bool sgd_case(struct kern_device *dev, char *why, size_t why_bytes) {
    static const struct kern_sgd opts[] = {{0.1f, 0, 0, false},
                                           {0.1f, 0, 0.01f, false},
                                           {0.05f, 0.9f, 0.01f, false},
                                           {0.05f, 0.9f, 0, true}};
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(opts) * COUNT(lengths); i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        sgd_once(&b, lengths[i / COUNT(opts)], &opts[i % COUNT(opts)]);
        ok = bench_end(&b);
    }
    return ok;
}

static void adam_once(struct bench *b, size_t n, float decay) {
    float *w = bench_random(b, n, -1, 1), *zero = bench_host(b, n, F32);
    double *want = bench_host(b, n, sizeof *want), *m = bench_host(b, n, sizeof *m);
    double *v = bench_host(b, n, sizeof *v);
    for (size_t i = 0; i < n; i++) {
        want[i] = (double)w[i];
    }
    struct kern_vec vw = bench_put(b, w, n, F32), vm = bench_put(b, zero, n, F32);
    struct kern_vec vv = bench_put(b, zero, n, F32);
    struct kern_adam opt = {0.01f, 0.9f, 0.999f, 1e-8f, decay, 0, false};
    double b1 = (double)opt.beta1, b2 = (double)opt.beta2;
    for (opt.step = 1; opt.step <= 4; opt.step++) {
        float *g = bench_random(b, n, 0.1f, 1);
        struct kern_vec vg = bench_put(b, g, n, F32);
        for (size_t i = 0; i < n; i++) {
            double gi = (double)g[i] + (double)decay * want[i];
            m[i] = b1 * m[i] + (1 - b1) * gi;
            v[i] = b2 * v[i] + (1 - b2) * gi * gi;
            double mh = m[i] / (1 - pow(b1, (double)opt.step));
            double vh = v[i] / (1 - pow(b2, (double)opt.step));
            want[i] -= (double)opt.lr * mh / (sqrt(vh) + (double)opt.eps);
        }
        BENCH_OK(b, kern_adam_step(vw, vg, vm, vv, n, &opt));
    }
    bench_near(b, "adam", bench_get(b, vw, n, F32), want, n, TOL_MAP);
}

static bool adam_case(struct kern_device *dev, char *why, size_t why_bytes) {
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT(lengths) * 2; i++) {
        struct bench b;
        bench_begin(&b, dev, why, why_bytes);
        adam_once(&b, lengths[i / 2], i % 2 == 0 ? 0 : 0.05f);
        ok = bench_end(&b);
    }
    return ok;
}

const struct parity_case parity_nn_cases[] = {
    {"gemm", gemm_case, false},
    {"gemm_tf32", tf32_case, false},
    {"relu", relu_case, false},
    {"sigmoid", sigmoid_case, false},
    {"add", add_case, false},
    {"relu_grad", relu_grad_case, false},
    {"sigmoid_grad", sigmoid_grad_case, false},
    {"bias", bias_case, false},
    {"softmax", softmax_case, false},
    {"softmax_ce", ce_case, false},
    {"bce_logits", bce_case, false},
    {"standardise", standardise_case, false},
    {"gather_rows", gather_case, false},
    {"prox_grad", prox_case, false},
    {"stiff_grad", stiff_case, false},
    {"add_square", add_square_case, false},
    {"sgd_step", sgd_case, false},
    {"adam_step", adam_case, false},
};
const size_t parity_nn_count = COUNT(parity_nn_cases);
