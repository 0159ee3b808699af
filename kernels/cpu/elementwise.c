/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Element-by-element operations of the CPU backend and the optimisers: a range function each,
 * cut into parts over the pool. Ranges of rows are ranges too, for the ones that have columns.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vmath.h"
#include "kernels/optim.h"

#include <math.h>
#include <string.h>

size_t kern_cpu_parts(size_t n, size_t unit) {
    size_t per = unit >= KERN_CPU_GRAIN ? 1 : KERN_CPU_GRAIN / unit;
    size_t parts = n / per + (n % per != 0);
    return parts > KERN_CPU_PARTS ? KERN_CPU_PARTS : parts;
}

struct map;
typedef void (*range_fn)(const struct map *map, size_t begin, size_t end);

struct map {
    range_fn fn;
    size_t n, parts;
    float *y, *v, *m;
    const float *a, *b, *c;
    const int32_t *index;
    size_t rows, cols, x_rows;
    const void *opt;
    struct kern_adam_terms terms;
};

static void run_part(const void *job, size_t task) {
    const struct map *map = job;
    map->fn(map, kern_cpu_part_begin(map->n, map->parts, task),
            kern_cpu_part_begin(map->n, map->parts, task + 1));
}

/* n units of `unit` elements each. */
static enum kern_status run(struct kern_ctx *ctx, struct map *map, range_fn fn, size_t n,
                            size_t unit) {
    map->fn = fn;
    map->n = n;
    map->parts = kern_cpu_parts(n, unit);
    kern_pool_run(kern_cpu_pool(ctx), run_part, map, map->parts);
    return KERN_OK;
}

static void add_range(const struct map *map, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        map->y[i] = map->a[i] + map->b[i];
    }
}

enum kern_status kern_cpu_add(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                              size_t n) {
    return run(ctx, &(struct map){.y = y, .a = a, .b = b}, add_range, n, 1);
}

static void scale_range(const struct map *map, size_t begin, size_t end) {
    float alpha = *(const float *)map->opt;
    for (size_t i = begin; i < end; i++) {
        map->y[i] *= alpha;
    }
}

enum kern_status kern_cpu_scale(struct kern_ctx *ctx, float *y, size_t n, float alpha) {
    return run(ctx, &(struct map){.y = y, .opt = &alpha}, scale_range, n, 1);
}

static void relu_range(const struct map *map, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float x = map->a[i];
        map->y[i] = x < 0 ? 0 : x; /* NaN is not below 0 and stays */
    }
}

enum kern_status kern_cpu_relu(struct kern_ctx *ctx, float *y, const float *x, size_t n) {
    return run(ctx, &(struct map){.y = y, .a = x}, relu_range, n, 1);
}

static void relu_grad_range(const struct map *map, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        map->y[i] = map->b[i] > 0 ? map->a[i] : 0;
    }
}

enum kern_status kern_cpu_relu_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                    const float *y, size_t n) {
    return run(ctx, &(struct map){.y = dx, .a = dy, .b = y}, relu_grad_range, n, 1);
}

static void sigmoid_range(const struct map *map, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        map->y[i] = kern_logistic(map->a[i]);
    }
}

enum kern_status kern_cpu_sigmoid(struct kern_ctx *ctx, float *y, const float *x, size_t n) {
    return run(ctx, &(struct map){.y = y, .a = x}, sigmoid_range, n, 8);
}

static void sigmoid_grad_range(const struct map *map, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        float y = map->b[i];
        map->y[i] = map->a[i] * (y * (1.0f - y));
    }
}

enum kern_status kern_cpu_sigmoid_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                       const float *y, size_t n) {
    return run(ctx, &(struct map){.y = dx, .a = dy, .b = y}, sigmoid_grad_range, n, 1);
}

static void bias_add_range(const struct map *map, size_t begin, size_t end) {
    for (size_t r = begin; r < end; r++) {
        float *row = map->y + r * map->cols;
        for (size_t c = 0; c < map->cols; c++) {
            row[c] += map->a[c];
        }
    }
}

enum kern_status kern_cpu_bias_add(struct kern_ctx *ctx, float *y, const float *bias, size_t rows,
                                   size_t cols) {
    return run(ctx, &(struct map){.y = y, .a = bias, .cols = cols}, bias_add_range, rows, cols);
}

/* Ranges of columns, so that each sum keeps its order of rows. */
static void bias_grad_range(const struct map *map, size_t begin, size_t end) {
    for (size_t r = 0; r < map->rows; r++) {
        const float *row = map->a + r * map->cols;
        for (size_t c = begin; c < end; c++) {
            map->y[c] += row[c];
        }
    }
}

enum kern_status kern_cpu_bias_grad(struct kern_ctx *ctx, float *dbias, const float *dy,
                                    size_t rows, size_t cols) {
    return run(ctx, &(struct map){.y = dbias, .a = dy, .rows = rows, .cols = cols}, bias_grad_range,
               cols, rows);
}

static void standardise_range(const struct map *map, size_t begin, size_t end) {
    for (size_t r = begin; r < end; r++) {
        float *row = map->y + r * map->cols;
        for (size_t c = 0; c < map->cols; c++) {
            row[c] = (row[c] - map->a[c]) * map->b[c];
        }
    }
}

enum kern_status kern_cpu_standardise(struct kern_ctx *ctx, float *x, const float *mean,
                                      const float *inv_std, size_t rows, size_t cols) {
    return run(ctx, &(struct map){.y = x, .a = mean, .b = inv_std, .cols = cols}, standardise_range,
               rows, cols);
}

static void gather_range(const struct map *map, size_t begin, size_t end) {
    for (size_t r = begin; r < end; r++) {
        float *row = map->y + r * map->cols;
        int32_t from = map->index[r];
        if (from >= 0 && (size_t)from < map->x_rows) {
            memcpy(row, map->a + (size_t)from * map->cols, map->cols * sizeof *row);
            continue;
        }
        for (size_t c = 0; c < map->cols; c++) {
            row[c] = NAN;
        }
    }
}

enum kern_status kern_cpu_gather_rows(struct kern_ctx *ctx, float *y, const float *x,
                                      const int32_t *index, size_t rows, size_t cols,
                                      size_t x_rows) {
    return run(ctx, &(struct map){.y = y, .a = x, .index = index, .cols = cols, .x_rows = x_rows},
               gather_range, rows, cols);
}

static void prox_range(const struct map *map, size_t begin, size_t end) {
    float mu = *(const float *)map->opt;
    for (size_t i = begin; i < end; i++) {
        map->y[i] += mu * (map->a[i] - map->b[i]);
    }
}

enum kern_status kern_cpu_prox_grad(struct kern_ctx *ctx, float *g, const float *w, const float *w0,
                                    size_t n, float mu) {
    return run(ctx, &(struct map){.y = g, .a = w, .b = w0, .opt = &mu}, prox_range, n, 1);
}

static void stiff_range(const struct map *map, size_t begin, size_t end) {
    float mu = *(const float *)map->opt;
    for (size_t i = begin; i < end; i++) {
        map->y[i] += mu * map->c[i] * (map->a[i] - map->b[i]);
    }
}

enum kern_status kern_cpu_stiff_grad(struct kern_ctx *ctx, float *g, const float *w, const float *c,
                                     const float *a, size_t n, float mu) {
    return run(ctx, &(struct map){.y = g, .a = w, .b = c, .c = a, .opt = &mu}, stiff_range, n, 1);
}

static void add_square_range(const struct map *map, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++) {
        map->y[i] += map->a[i] * map->a[i];
    }
}

enum kern_status kern_cpu_add_square(struct kern_ctx *ctx, float *y, const float *x, size_t n) {
    return run(ctx, &(struct map){.y = y, .a = x}, add_square_range, n, 1);
}

static void axpby_range(const struct map *map, size_t begin, size_t end) {
    const float *factor = map->opt;
    float alpha = factor[0], beta = factor[1];
    if (beta == 0) {
        for (size_t i = begin; i < end; i++) {
            map->y[i] = alpha * map->a[i];
        }
        return;
    }
    for (size_t i = begin; i < end; i++) {
        map->y[i] = alpha * map->a[i] + beta * map->y[i];
    }
}

enum kern_status kern_cpu_axpby(struct kern_ctx *ctx, float *y, const float *x, size_t n,
                                float alpha, float beta) {
    const float factors[2] = {alpha, beta};
    return run(ctx, &(struct map){.y = y, .a = x, .opt = factors}, axpby_range, n, 1);
}

static void clip_norm_range(const struct map *map, size_t begin, size_t end) {
    float factor = *(const float *)map->opt;
    for (size_t i = begin; i < end; i++) {
        map->y[i] *= factor;
    }
}

enum kern_status kern_cpu_clip_norm(struct kern_ctx *ctx, float *g, const float *squares, size_t n,
                                    float max_norm) {
    float factor = max_norm / (sqrtf(squares[0]) + 1e-6f);
    if (!(factor < 1)) {
        return KERN_OK;
    }
    return run(ctx, &(struct map){.y = g, .opt = &factor}, clip_norm_range, n, 1);
}

static void clip_value_range(const struct map *map, size_t begin, size_t end) {
    float most = *(const float *)map->opt;
    for (size_t i = begin; i < end; i++) {
        float g = map->y[i];
        map->y[i] = g > most ? most : g < -most ? -most : g;
    }
}

enum kern_status kern_cpu_clip_value(struct kern_ctx *ctx, float *g, size_t n, float most) {
    return run(ctx, &(struct map){.y = g, .opt = &most}, clip_value_range, n, 1);
}

#define SQUARE_LANES 8

/* A job of its own, not a map's: it leaves a sum for each part. */
struct squares {
    const float *x;
    size_t n, parts;
    double *sum; /* [parts] */
};

static void square_part(const void *job, size_t task) {
    const struct squares *s = job;
    size_t i = kern_cpu_part_begin(s->n, s->parts, task);
    size_t end = kern_cpu_part_begin(s->n, s->parts, task + 1);
    double lane[SQUARE_LANES] = {0};
    for (; i + SQUARE_LANES <= end; i += SQUARE_LANES) {
        for (size_t k = 0; k < SQUARE_LANES; k++) {
            lane[k] += (double)s->x[i + k] * (double)s->x[i + k];
        }
    }
    for (size_t k = 0; i + k < end; k++) {
        lane[k] += (double)s->x[i + k] * (double)s->x[i + k];
    }
    s->sum[task] =
        ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

enum kern_status kern_cpu_square_sum(struct kern_ctx *ctx, float *sum, const float *x, size_t n) {
    double part[KERN_CPU_PARTS], total = 0;
    const struct squares s = {x, n, kern_cpu_parts(n, 1), part};
    kern_pool_run(kern_cpu_pool(ctx), square_part, &s, s.parts);
    for (size_t i = 0; i < s.parts; i++) {
        total += part[i];
    }
    sum[0] += (float)total;
    return KERN_OK;
}

static void sgd_range(const struct map *map, size_t begin, size_t end) {
    const struct kern_sgd *opt = map->opt;
    float lr = opt->lr, momentum = opt->momentum, decay = opt->weight_decay;
    for (size_t i = begin; i < end; i++) {
        float g = map->a[i] + decay * map->y[i];
        float step = g;
        if (map->v != NULL) {
            float v = momentum * map->v[i] + g;
            map->v[i] = v;
            step = opt->nesterov ? g + momentum * v : v;
        }
        map->y[i] -= lr * step;
    }
}

enum kern_status kern_cpu_sgd_step(struct kern_ctx *ctx, float *w, const float *g, float *v,
                                   size_t n, const struct kern_sgd *opt) {
    return run(ctx, &(struct map){.y = w, .a = g, .v = v, .opt = opt}, sgd_range, n, 1);
}

static void adam_range(const struct map *map, size_t begin, size_t end) {
    const struct kern_adam *opt = map->opt;
    float b1 = opt->beta1, b2 = opt->beta2, lr = opt->lr, eps = opt->eps;
    float decay = opt->decoupled ? 0 : opt->weight_decay, keep = map->terms.keep;
    float sm = map->terms.scale_m, sv = map->terms.scale_v;
    float *w = map->y, *m = map->m, *v = map->v;
    for (size_t i = begin; i < end; i++) {
        float g = map->a[i] + decay * w[i];
        m[i] = b1 * m[i] + (1.0f - b1) * g;
        v[i] = b2 * v[i] + (1.0f - b2) * (g * g);
        w[i] = keep * w[i] - lr * (m[i] * sm) / (sqrtf(v[i] * sv) + eps);
    }
}

enum kern_status kern_cpu_adam_step(struct kern_ctx *ctx, float *w, const float *g, float *m,
                                    float *v, size_t n, const struct kern_adam *opt) {
    struct map map = {.y = w, .a = g, .m = m, .v = v, .opt = opt, .terms = kern_adam_terms_of(opt)};
    return run(ctx, &map, adam_range, n, 1);
}
