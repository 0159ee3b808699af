/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions of one array. The operation is chosen outside the loop: each is a loop of its own.
 */
#include "kernels/cpu/nn.h"
#include "kernels/cpu/vmath.h"

#include <math.h>

#define SQRT_HALF 0.70710678118654752f
#define INV_SQRT_2PI 0.39894228040143268f
#define SQRT_2_PI 0.79788456080286536f
#define GELU_CUBIC 0.044715f

struct unary_job {
    enum kern_unary op;
    float *y;
    const float *x, *dy, *v; /* v: the function's value */
    float alpha, beta;
    size_t cols;
    uint64_t seed;
};

#define MAP_LOOP(expression)                                                                       \
    for (size_t i = begin; i < end; i++) {                                                         \
        float x = j->x[i];                                                                         \
        j->y[i] = (expression);                                                                    \
    }                                                                                              \
    break

/* NaN stays; all is high where low is above it. */
static float within(float x, float low, float high) {
    float v = x < low ? low : x;
    return v > high ? high : v;
}

static float gelu_inner(float x) {
    return SQRT_2_PI * (x + GELU_CUBIC * (x * x * x));
}

static void unary_range(const void *job, size_t begin, size_t end) {
    const struct unary_job *j = job;
    float a = j->alpha, b = j->beta;
    switch (j->op) {
    case KERN_LEAKY_RELU:
        MAP_LOOP(x > 0 ? x : a * x);
    case KERN_ELU:
        MAP_LOOP(x > 0 ? x : a * expm1f(x));
    case KERN_HARD_SIGMOID:
        MAP_LOOP(within(a * x + b, 0, 1));
    case KERN_TANH:
        MAP_LOOP(kern_tanh(x));
    case KERN_GELU:
        MAP_LOOP(0.5f * x * (1.0f + kern_erf(x * SQRT_HALF)));
    case KERN_GELU_TANH:
        MAP_LOOP(0.5f * x * (1.0f + kern_tanh(gelu_inner(x))));
    case KERN_ERF:
        MAP_LOOP(kern_erf(x));
    case KERN_SOFTPLUS:
        MAP_LOOP((x > 0 ? x : 0) + log1pf(kern_exp(-kern_abs(x))));
    case KERN_EXP:
        MAP_LOOP(kern_exp(x));
    case KERN_LOG:
        MAP_LOOP(logf(x));
    case KERN_SQRT:
        MAP_LOOP(sqrtf(x));
    case KERN_RECIPROCAL:
        MAP_LOOP(1.0f / x);
    case KERN_ABS:
        MAP_LOOP(kern_abs(x));
    case KERN_CLIP:
        MAP_LOOP(within(x, a, b));
    case KERN_AFFINE:
        MAP_LOOP(a * x + b);
    case KERN_POW:
        if (a == 2.0f) {
            MAP_LOOP(x * x);
        }
        MAP_LOOP(powf(x, a));
    case KERN_UNARY_COUNT:
        break;
    }
}

enum kern_status NN(unary)(struct kern_ctx *ctx, enum kern_unary op, float *y, const float *x,
                           size_t n, float alpha, float beta) {
    struct unary_job j = {.op = op, .y = y, .x = x, .alpha = alpha, .beta = beta};
    return kern_cpu_each(ctx, unary_range, &j, n, 4);
}

/* The derivative at x, where y is the value there. */
#define GRAD_LOOP(expression)                                                                      \
    for (size_t i = begin; i < end; i++) {                                                         \
        float x = j->x[i], y = j->v[i];                                                            \
        (void)x;                                                                                   \
        (void)y;                                                                                   \
        j->y[i] = j->dy[i] * (expression);                                                         \
    }                                                                                              \
    break

static float gelu_slope(float x) {
    return 0.5f * (1.0f + kern_erf(x * SQRT_HALF)) + x * INV_SQRT_2PI * kern_exp(-0.5f * x * x);
}

static float gelu_tanh_slope(float x) {
    float t = kern_tanh(gelu_inner(x)), inner = SQRT_2_PI * (1.0f + 3.0f * GELU_CUBIC * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
}

static void unary_grad_range(const void *job, size_t begin, size_t end) {
    const struct unary_job *j = job;
    float a = j->alpha, b = j->beta;
    switch (j->op) {
    case KERN_LEAKY_RELU:
        GRAD_LOOP(x > 0 ? 1.0f : a);
    case KERN_ELU:
        GRAD_LOOP(x > 0 ? 1.0f : y + a);
    case KERN_HARD_SIGMOID:
        GRAD_LOOP(y > 0 && y < 1 ? a : 0);
    case KERN_TANH:
        GRAD_LOOP(1.0f - y * y);
    case KERN_GELU:
        GRAD_LOOP(gelu_slope(x));
    case KERN_GELU_TANH:
        GRAD_LOOP(gelu_tanh_slope(x));
    case KERN_ERF:
        GRAD_LOOP(2.0f * SQRT_2_PI * SQRT_HALF * kern_exp(-(x * x)));
    case KERN_SOFTPLUS:
        GRAD_LOOP(kern_logistic(x));
    case KERN_EXP:
        GRAD_LOOP(y);
    case KERN_LOG:
        GRAD_LOOP(1.0f / x);
    case KERN_SQRT:
        GRAD_LOOP(0.5f / y);
    case KERN_RECIPROCAL:
        GRAD_LOOP(-y * y);
    case KERN_ABS:
        GRAD_LOOP(x > 0 ? 1.0f : x < 0 ? -1.0f : 0);
    case KERN_CLIP:
        GRAD_LOOP(x >= a && x <= b ? 1.0f : 0);
    case KERN_AFFINE:
        GRAD_LOOP(a);
    case KERN_POW:
        if (a == 2.0f) {
            GRAD_LOOP(2.0f * x);
        }
        GRAD_LOOP(a == 0 ? 0 : a * powf(x, a - 1.0f));
    case KERN_UNARY_COUNT:
        break;
    }
}

enum kern_status NN(unary_grad)(struct kern_ctx *ctx, enum kern_unary op, float *dx,
                                const float *dy, const float *x, const float *y, size_t n,
                                float alpha, float beta) {
    struct unary_job j = {
        .op = op, .y = dx, .x = x, .dy = dy, .v = y, .alpha = alpha, .beta = beta};
    return kern_cpu_each(ctx, unary_grad_range, &j, n, 4);
}

/* ---- over rows ------------------------------------------------------------------------------- */

static void log_softmax_range(const void *job, size_t begin, size_t end) {
    const struct unary_job *j = job;
    for (size_t r = begin; r < end; r++) {
        const float *x = j->x + r * j->cols;
        float *y = j->y + r * j->cols, top = x[0], sum = 0;
        for (size_t c = 1; c < j->cols; c++) {
            top = x[c] > top ? x[c] : top;
        }
        for (size_t c = 0, n; c < j->cols; c += n) { /* first all of a few, then their sum */
            float e[64];
            n = j->cols - c < 64 ? j->cols - c : 64;
            for (size_t i = 0; i < n; i++) {
                e[i] = kern_exp(x[c + i] - top);
            }
            for (size_t i = 0; i < n; i++) {
                sum += e[i];
            }
        }
        float log_sum = logf(sum);
        for (size_t c = 0; c < j->cols; c++) { /* top + log_sum would round at top's size */
            y[c] = x[c] - top - log_sum;
        }
    }
}

enum kern_status NN(log_softmax)(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                 size_t cols) {
    struct unary_job j = {.y = y, .x = x, .cols = cols};
    return kern_cpu_each(ctx, log_softmax_range, &j, rows, 8 * cols);
}

static void log_softmax_grad_range(const void *job, size_t begin, size_t end) {
    const struct unary_job *j = job;
    for (size_t r = begin; r < end; r++) {
        const float *dy = j->dy + r * j->cols, *y = j->v + r * j->cols;
        float *dx = j->y + r * j->cols, sum = 0;
        for (size_t c = 0; c < j->cols; c++) {
            sum += dy[c];
        }
        for (size_t c = 0; c < j->cols; c++) {
            dx[c] = dy[c] - kern_exp(y[c]) * sum;
        }
    }
}

enum kern_status NN(log_softmax_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                      const float *y, size_t rows, size_t cols) {
    struct unary_job j = {.y = dx, .dy = dy, .v = y, .cols = cols};
    return kern_cpu_each(ctx, log_softmax_grad_range, &j, rows, 8 * cols);
}

/* ---- dropout --------------------------------------------------------------------------------- */

/* splitmix64's mixer (Steele, Lea & Flood 2014) over the seed and the element's place. */
static uint32_t noise(uint64_t seed, size_t i) {
    uint64_t z = seed + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ z >> 31) >> 32);
}

static void dropout_range(const void *job, size_t begin, size_t end) {
    const struct unary_job *j = job;
    uint64_t limit = (uint64_t)((double)j->alpha * 4294967296.0);
    float scale = 1.0f / (1.0f - j->alpha);
    for (size_t i = begin; i < end; i++) {
        j->y[i] = noise(j->seed, i) < limit ? 0 : j->x[i] * scale;
    }
}

enum kern_status NN(dropout)(struct kern_ctx *ctx, float *y, const float *x, size_t n, float ratio,
                             uint64_t seed) {
    struct unary_job j = {.y = y, .x = x, .alpha = ratio, .seed = seed};
    return kern_cpu_each(ctx, dropout_range, &j, n, 2);
}
