/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BatchNorm over rows of channels. One pass over memory a statistic: rows are taken in blocks that
 * stay in a core's cache, a block's mean and the sums of the differences from it and of their
 * squares are taken in float, and blocks are joined in double (Chan, Golub & LeVeque 1983), in
 * ascending order within a part and the parts ascending too. The differences' own sum says how far
 * the block's mean is off, which is far where the mean is large beside the deviation. The gradient
 * sums dy and dy * (x - mean) the same way, in short blocks, and takes what they say off each dy
 * before it is scaled: dy and their mean may cancel, and then no rounding of the scale shows.
 */
#include "kernels/cpu/nn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_FLOATS 8192 /* 32 KiB */
#define GRAD_ROWS 16      /* added in float before they join the others in double */

struct norm_job {
    const struct kern_batch_norm *norm;
    size_t parts, block; /* rows a block */
    float *y, *dx;
    const float *x, *dy, *out, *mean, *a, *b, *c;
    double *part; /* [parts][1 + 2 channels]: count, then two sums a channel */
    float *work;  /* [parts][3][channels] */
};

static size_t parts_of(const struct kern_batch_norm *norm) {
    return kern_cpu_parts(norm->rows, norm->channels);
}

static size_t block_rows(size_t channels) {
    size_t rows = BLOCK_FLOATS / channels;
    return rows < 4 ? 4 : rows;
}

/* sum[c] = the sum over rows of x[r][c]: four rows at a time, each four added first. */
static void sum_rows(float *restrict sum, const float *restrict x, size_t rows, size_t channels) {
    size_t r = 0;
    memset(sum, 0, channels * sizeof *sum);
    for (; r + 4 <= rows; r += 4, x += 4 * channels) {
        const float *x1 = x + channels, *x2 = x1 + channels, *x3 = x2 + channels;
        for (size_t c = 0; c < channels; c++) {
            sum[c] += (x[c] + x1[c]) + (x2[c] + x3[c]);
        }
    }
    for (; r < rows; r++, x += channels) {
        for (size_t c = 0; c < channels; c++) {
            sum[c] += x[c];
        }
    }
}

/* sum[c] = the sum over rows of (x[r][c] - mean[c])^2, off[c] that of the differences. */
static void sum_squares(float *restrict sum, float *restrict off, const float *restrict x,
                        const float *restrict mean, size_t rows, size_t channels) {
    size_t r = 0;
    memset(sum, 0, channels * sizeof *sum);
    memset(off, 0, channels * sizeof *off);
    for (; r + 4 <= rows; r += 4, x += 4 * channels) {
        const float *x1 = x + channels, *x2 = x1 + channels, *x3 = x2 + channels;
        for (size_t c = 0; c < channels; c++) {
            float d0 = x[c] - mean[c], d1 = x1[c] - mean[c];
            float d2 = x2[c] - mean[c], d3 = x3[c] - mean[c];
            sum[c] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
            off[c] += (d0 + d1) + (d2 + d3);
        }
    }
    for (; r < rows; r++, x += channels) {
        for (size_t c = 0; c < channels; c++) {
            float d = x[c] - mean[c];
            sum[c] += d * d;
            off[c] += d;
        }
    }
}

/* Joins the statistics of n2 rows to those of *n rows: square sums around mean2, which is off by
 * off2 / n2. */
static void join(double *n, double *restrict mean, double *restrict squares, double n2,
                 const float *restrict mean2, const float *restrict squares2,
                 const float *restrict off2, size_t channels) {
    double all = *n + n2, share = n2 / all, cross = *n * share, inv = 1 / n2;
    for (size_t c = 0; c < channels; c++) {
        double off = (double)off2[c] * inv, d = (double)mean2[c] + off - mean[c];
        mean[c] += d * share;
        squares[c] += ((double)squares2[c] - (double)off2[c] * off) + d * d * cross;
    }
    *n = all;
}

static void stats_part(const void *job, size_t task) {
    const struct norm_job *j = job;
    size_t rows = j->norm->rows, channels = j->norm->channels;
    size_t at = kern_cpu_part_begin(rows, j->parts, task);
    size_t end = kern_cpu_part_begin(rows, j->parts, task + 1);
    double *p = j->part + task * (2 * channels + 1), *mean = p + 1, *squares = mean + channels;
    float *m = j->work + task * 3 * channels, *s = m + channels, *off = s + channels;
    memset(p, 0, (2 * channels + 1) * sizeof *p);
    for (size_t n; at < end; at += n) {
        n = end - at < j->block ? end - at : j->block;
        const float *x = j->x + at * channels;
        sum_rows(m, x, n, channels);
        float inv = 1.0f / (float)n;
        for (size_t c = 0; c < channels; c++) {
            m[c] *= inv;
        }
        sum_squares(s, off, x, m, n, channels);
        join(p, mean, squares, (double)n, m, s, off, channels);
    }
}

static enum kern_status take_parts(struct kern_ctx *ctx, struct norm_job *j) {
    size_t channels = j->norm->channels;
    j->parts = parts_of(j->norm);
    j->block = block_rows(channels);
    size_t doubles = j->parts * (2 * channels + 1), floats = j->parts * 3 * channels;
    j->part = malloc(doubles * sizeof *j->part + floats * sizeof *j->work);
    if (j->part == NULL) {
        return kern_cpu_no_memory(ctx, doubles * sizeof *j->part);
    }
    j->work = (float *)(j->part + doubles);
    return KERN_OK;
}

/* y = x * a + b, and not below 0 where relu. */
static void scale_range(const void *job, size_t begin, size_t end) {
    const struct norm_job *j = job;
    size_t channels = j->norm->channels;
    const float *restrict a = j->a, *restrict b = j->b, *restrict mean = j->mean;
    for (size_t r = begin; r < end; r++) {
        const float *x = j->x + r * channels;
        float *y = j->y + r * channels;
        if (j->norm->relu) {
            for (size_t c = 0; c < channels; c++) {
                float v = (x[c] - mean[c]) * a[c] + b[c];
                y[c] = v < 0 ? 0 : v;
            }
        } else {
            for (size_t c = 0; c < channels; c++) {
                y[c] = (x[c] - mean[c]) * a[c] + b[c];
            }
        }
    }
}

enum kern_status NN(batch_norm_apply)(struct kern_ctx *ctx, float *y, const float *x,
                                      const float *scale, const float *bias, const float *mean,
                                      const float *var, const struct kern_batch_norm *norm) {
    float *a = malloc(norm->channels * sizeof *a);
    if (a == NULL) {
        return kern_cpu_no_memory(ctx, norm->channels * sizeof *a);
    }
    for (size_t c = 0; c < norm->channels; c++) {
        a[c] = (float)(1.0 / sqrt((double)var[c] + (double)norm->epsilon)) * scale[c];
    }
    struct norm_job j = {.norm = norm, .y = y, .x = x, .mean = mean, .a = a, .b = bias};
    kern_cpu_each(ctx, scale_range, &j, norm->rows, norm->channels);
    free(a);
    return KERN_OK;
}

enum kern_status NN(batch_norm)(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                float *run_mean, float *run_var, const float *x, const float *scale,
                                const float *bias, const struct kern_batch_norm *norm) {
    struct norm_job j = {.norm = norm, .y = y, .x = x, .mean = mean, .b = bias};
    size_t channels = norm->channels, rows = norm->rows;
    enum kern_status st = take_parts(ctx, &j);
    if (st != KERN_OK) {
        return st;
    }
    kern_pool_run(kern_cpu_pool(ctx), stats_part, &j, j.parts);
    double *all = j.part, *m = all + 1, *s = m + channels;
    for (size_t i = 1; i < j.parts; i++) {
        double *p = j.part + i * (2 * channels + 1), *m2 = p + 1, *s2 = m2 + channels;
        double n = all[0] + p[0], share = p[0] / n, cross = all[0] * share;
        for (size_t c = 0; c < channels; c++) {
            double d = m2[c] - m[c];
            m[c] += d * share;
            s[c] += s2[c] + d * d * cross;
        }
        all[0] = n;
    }
    float *a = j.work;
    for (size_t c = 0; c < channels; c++) {
        double squares = s[c] < 0 ? 0 : s[c]; /* by rounding; NaN stays */
        double var = squares / (double)rows;
        double unbiased = rows > 1 ? squares / (double)(rows - 1) : var;
        mean[c] = (float)m[c];
        inv_std[c] = (float)(1.0 / sqrt(var + (double)norm->epsilon));
        a[c] = inv_std[c] * scale[c];
        if (run_mean != NULL) {
            float keep = norm->momentum;
            run_mean[c] = keep * run_mean[c] + (1.0f - keep) * mean[c];
            run_var[c] = keep * run_var[c] + (1.0f - keep) * (float)unbiased;
        }
    }
    j.a = a;
    kern_cpu_each(ctx, scale_range, &j, rows, channels);
    free(j.part);
    return KERN_OK;
}

/* Sums of dy (0 where relu cut it off) and of dy * (x - mean), over one block of rows. */
static void grad_block(const struct norm_job *j, size_t at, size_t rows, float *restrict sum,
                       float *restrict dot) {
    size_t channels = j->norm->channels;
    const float *restrict mean = j->mean;
    memset(sum, 0, channels * sizeof *sum);
    memset(dot, 0, channels * sizeof *dot);
    for (size_t r = at; r < at + rows; r++) {
        const float *x = j->x + r * channels, *dy = j->dy + r * channels;
        if (j->norm->relu) {
            const float *y = j->out + r * channels;
            for (size_t c = 0; c < channels; c++) {
                float g = y[c] > 0 ? dy[c] : 0;
                sum[c] += g;
                dot[c] += g * (x[c] - mean[c]);
            }
        } else {
            for (size_t c = 0; c < channels; c++) {
                sum[c] += dy[c];
                dot[c] += dy[c] * (x[c] - mean[c]);
            }
        }
    }
}

static void grad_part(const void *job, size_t task) {
    const struct norm_job *j = job;
    size_t rows = j->norm->rows, channels = j->norm->channels;
    size_t at = kern_cpu_part_begin(rows, j->parts, task);
    size_t end = kern_cpu_part_begin(rows, j->parts, task + 1);
    double *sum = j->part + task * (2 * channels + 1) + 1, *dot = sum + channels;
    float *s = j->work + task * 3 * channels, *d = s + channels;
    memset(sum, 0, 2 * channels * sizeof *sum);
    for (size_t n; at < end; at += n) {
        n = end - at < GRAD_ROWS ? end - at : GRAD_ROWS;
        grad_block(j, at, n, s, d);
        for (size_t c = 0; c < channels; c++) {
            sum[c] += (double)s[c];
            dot[c] += (double)d[c];
        }
    }
}

/* dx = a * (dy - c - (x - mean) * b). */
static void dx_range(const void *job, size_t begin, size_t end) {
    const struct norm_job *j = job;
    size_t channels = j->norm->channels;
    const float *restrict a = j->a, *restrict b = j->b, *restrict k = j->c,
                          *restrict mean = j->mean;
    for (size_t r = begin; r < end; r++) {
        const float *x = j->x + r * channels, *dy = j->dy + r * channels;
        float *dx = j->dx + r * channels;
        if (j->norm->relu) {
            const float *y = j->out + r * channels;
            for (size_t c = 0; c < channels; c++) {
                float g = y[c] > 0 ? dy[c] : 0;
                dx[c] = a[c] * ((g - k[c]) - (x[c] - mean[c]) * b[c]);
            }
        } else {
            for (size_t c = 0; c < channels; c++) {
                dx[c] = a[c] * ((dy[c] - k[c]) - (x[c] - mean[c]) * b[c]);
            }
        }
    }
}

enum kern_status NN(batch_norm_grad)(struct kern_ctx *ctx, float *dx, float *dscale, float *dbias,
                                     const float *dy, const float *x, const float *y,
                                     const float *scale, const float *mean, const float *inv_std,
                                     const struct kern_batch_norm *norm) {
    struct norm_job j = {.norm = norm, .dx = dx, .x = x, .dy = dy, .out = y, .mean = mean};
    size_t channels = norm->channels;
    enum kern_status st = take_parts(ctx, &j);
    float *terms = st == KERN_OK ? malloc(3 * channels * sizeof *terms) : NULL;
    if (terms == NULL) {
        free(j.part);
        return st != KERN_OK ? st : kern_cpu_no_memory(ctx, 3 * channels * sizeof *terms);
    }
    kern_pool_run(kern_cpu_pool(ctx), grad_part, &j, j.parts);
    double *sum = j.part + 1, *dot = sum + channels;
    for (size_t i = 1; i < j.parts; i++) {
        const double *p = j.part + i * (2 * channels + 1) + 1;
        for (size_t c = 0; c < channels; c++) {
            sum[c] += p[c];
            dot[c] += p[channels + c];
        }
    }
    float *a = terms, *b = a + channels, *k = b + channels;
    for (size_t c = 0; c < channels; c++) {
        double inv = (double)inv_std[c], g = (double)scale[c] * inv, n = (double)norm->rows;
        dbias[c] += (float)sum[c];
        dscale[c] += (float)(dot[c] * inv);
        a[c] = (float)g;
        b[c] = (float)(inv * inv * dot[c] / n);
        k[c] = (float)(sum[c] / n);
    }
    j.a = a;
    j.b = b;
    j.c = k;
    if (dx != NULL) {
        kern_cpu_each(ctx, dx_range, &j, norm->rows, channels);
    }
    free(terms);
    free(j.part);
    return KERN_OK;
}
