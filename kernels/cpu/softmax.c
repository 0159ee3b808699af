/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Softmax and the two losses on the CPU. A loss is the sum of at most KERN_CPU_PARTS partial sums,
 * each in double over its elements in ascending order, added in the order of the parts: one result
 * for every number of threads.
 */
#include "kernels/cpu/cpu.h"

#include <math.h>

struct rows_job {
    size_t n, parts, cols;
    float *y;
    const float *a, *b;
    const int32_t *label;
    float inv_n;
    double *sum; /* one for each part */
};

static float row_max(const float *x, size_t cols) {
    float top = x[0];
    for (size_t c = 1; c < cols; c++) {
        top = x[c] > top ? x[c] : top;
    }
    return top;
}

static void softmax_row(float *y, const float *x, size_t cols) {
    float top = row_max(x, cols), sum = 0;
    for (size_t c = 0; c < cols; c++) {
        y[c] = expf(x[c] - top);
        sum += y[c];
    }
    float inv = 1.0f / sum;
    for (size_t c = 0; c < cols; c++) {
        y[c] *= inv;
    }
}

static void softmax_part(const void *job, size_t task) {
    const struct rows_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);
    for (size_t r = kern_cpu_part_begin(j->n, j->parts, task); r < end; r++) {
        softmax_row(j->y + r * j->cols, j->a + r * j->cols, j->cols);
    }
}

enum kern_status kern_cpu_softmax(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                  size_t cols) {
    struct rows_job j = {rows, kern_cpu_parts(rows, cols * 8), cols, y, x, NULL, NULL, 0, NULL};
    kern_pool_run(kern_cpu_pool(ctx), softmax_part, &j, j.parts);
    return KERN_OK;
}

static void softmax_grad_part(const void *job, size_t task) {
    const struct rows_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);
    for (size_t r = kern_cpu_part_begin(j->n, j->parts, task); r < end; r++) {
        const float *dy = j->a + r * j->cols, *y = j->b + r * j->cols;
        float *dx = j->y + r * j->cols, dot = 0;
        for (size_t c = 0; c < j->cols; c++) {
            dot += dy[c] * y[c];
        }
        for (size_t c = 0; c < j->cols; c++) {
            dx[c] = y[c] * (dy[c] - dot);
        }
    }
}

enum kern_status kern_cpu_softmax_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                       const float *y, size_t rows, size_t cols) {
    struct rows_job j = {rows, kern_cpu_parts(rows, cols), cols, dx, dy, y, NULL, 0, NULL};
    kern_pool_run(kern_cpu_pool(ctx), softmax_grad_part, &j, j.parts);
    return KERN_OK;
}

/* loss[0] += the mean, from the partial sums. */
static void add_mean(float *loss, const double *sum, size_t parts, size_t n) {
    double total = 0;
    for (size_t i = 0; i < parts; i++) {
        total += sum[i];
    }
    loss[0] += (float)(total / (double)n);
}

static void bce_part(const void *job, size_t task) {
    const struct rows_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);
    double sum = 0;
    for (size_t i = kern_cpu_part_begin(j->n, j->parts, task); i < end; i++) {
        float z = j->a[i], t = j->b[i];
        float e = expf(-fabsf(z)); /* never overflows, and serves both the loss and the sigmoid */
        sum += (double)(fmaxf(z, 0) - z * t + log1pf(e));
        if (j->y != NULL) {
            float s = z >= 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
            j->y[i] = (s - t) * j->inv_n;
        }
    }
    j->sum[task] = sum;
}

enum kern_status kern_cpu_bce_logits(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                     const float *t, size_t n) {
    double sum[KERN_CPU_PARTS];
    struct rows_job j = {n, kern_cpu_parts(n, 8), 1, dz, z, t, NULL, 1.0f / (float)n, sum};
    kern_pool_run(kern_cpu_pool(ctx), bce_part, &j, j.parts);
    add_mean(loss, sum, j.parts, n);
    return KERN_OK;
}

/* The row's loss; its gradient times inv_n into dz where dz is not NULL. */
static double ce_row(float *dz, const float *z, int32_t label, size_t cols, float inv_n) {
    bool counts = label >= 0 && (size_t)label < cols;
    float top = row_max(z, cols), sum = 0;
    float picked = counts ? z[label] : 0; /* before dz, which may be z, is written */
    for (size_t c = 0; c < cols; c++) {
        sum += expf(z[c] - top);
    }
    float inv = counts ? 1.0f / sum : 0;
    for (size_t c = 0; dz != NULL && c < cols; c++) {
        float p = counts ? expf(z[c] - top) * inv : 0;
        dz[c] = (p - (counts && c == (size_t)label ? 1.0f : 0.0f)) * inv_n;
    }
    return counts ? (double)(logf(sum) + (top - picked)) : 0;
}

static void ce_part(const void *job, size_t task) {
    const struct rows_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);
    double sum = 0;
    for (size_t r = kern_cpu_part_begin(j->n, j->parts, task); r < end; r++) {
        sum += ce_row(j->y == NULL ? NULL : j->y + r * j->cols, j->a + r * j->cols, j->label[r],
                      j->cols, j->inv_n);
    }
    j->sum[task] = sum;
}

enum kern_status kern_cpu_softmax_ce(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                     const int32_t *label, size_t rows, size_t cols) {
    double sum[KERN_CPU_PARTS];
    struct rows_job j = {.n = rows,
                         .parts = kern_cpu_parts(rows, cols * 8),
                         .cols = cols,
                         .y = dz,
                         .a = z,
                         .label = label,
                         .inv_n = 1.0f / (float)rows,
                         .sum = sum};
    kern_pool_run(kern_cpu_pool(ctx), ce_part, &j, j.parts);
    add_mean(loss, sum, j.parts, rows);
    return KERN_OK;
}
