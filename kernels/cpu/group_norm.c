/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GroupNorm, and with it InstanceNorm and LayerNorm. A sample is one task: it normally fits a
 * core's cache, and its statistics depend on nothing else. Sums per channel are taken in float over
 * blocks of spots and joined in double; a group is the sum of its channels. The second pass, of
 * squares around the mean, also adds the differences up: what they sum to is what the first pass
 * got wrong, which is much where the mean is large beside the deviation.
 */
#include "kernels/cpu/nn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_FLOATS 8192 /* 32 KiB */
#define GRAD_ROWS 16      /* of slopes, added in float before they join the others in double */

struct group_job {
    const struct kern_group_norm *norm;
    size_t width; /* channels a group */
    float *y, *mean, *inv_std, *dx;
    const float *x, *dy, *out, *scale, *bias, *in_mean, *in_inv;
    double *work; /* [parts][work_doubles] */
    double *sums; /* [parts][2][channels], for dscale and dbias */
};

static size_t block_of(size_t channels) {
    return channels < 1 || channels > BLOCK_FLOATS ? 1 : BLOCK_FLOATS / channels;
}

/* total[c] += the sum over rows of x[r][c]. */
static void add_sums(double *restrict total, float *restrict part, const float *x, size_t rows,
                     const struct kern_group_norm *norm) {
    size_t channels = norm->channels, block = block_of(channels);
    for (size_t at = 0, n; at < rows; at += n) {
        n = rows - at < block ? rows - at : block;
        memset(part, 0, channels * sizeof *part);
        for (size_t r = at; r < at + n; r++) {
            const float *row = x + r * channels;
            for (size_t c = 0; c < channels; c++) {
                part[c] += row[c];
            }
        }
        for (size_t c = 0; c < channels; c++) {
            total[c] += (double)part[c];
        }
    }
}

/* off[c] and squares[c] += the sums over rows of x[r][c] - mean[c] and of its square. */
static void add_squares(double *restrict off, double *restrict squares, float *restrict part,
                        const float *x, const float *restrict mean, size_t rows,
                        const struct kern_group_norm *norm) {
    size_t channels = norm->channels, block = block_of(channels);
    float *restrict o = part, *restrict s = part + channels;
    for (size_t at = 0, n; at < rows; at += n) {
        n = rows - at < block ? rows - at : block;
        memset(part, 0, 2 * channels * sizeof *part);
        for (size_t r = at; r < at + n; r++) {
            const float *row = x + r * channels;
            for (size_t c = 0; c < channels; c++) {
                float d = row[c] - mean[c];
                o[c] += d;
                s[c] += d * d;
            }
        }
        for (size_t c = 0; c < channels; c++) {
            off[c] += (double)o[c];
            squares[c] += (double)s[c];
        }
    }
}

/* The sum of one group's channels, in ascending order. */
static double group_sum(const double *v, size_t width) {
    double sum = 0;
    for (size_t c = 0; c < width; c++) {
        sum += v[c];
    }
    return sum;
}

static void write_rows(const struct group_job *j, const float *x, float *y, const float *restrict m,
                       const float *restrict a, const float *restrict b) {
    size_t channels = j->norm->channels;
    for (size_t r = 0; r < j->norm->spots; r++, x += channels, y += channels) {
        if (j->norm->relu) {
            for (size_t c = 0; c < channels; c++) {
                float v = (x[c] - m[c]) * a[c] + b[c];
                y[c] = v < 0 ? 0 : v;
            }
        } else {
            for (size_t c = 0; c < channels; c++) {
                y[c] = (x[c] - m[c]) * a[c] + b[c];
            }
        }
    }
}

static void forward_sample(const struct group_job *j, size_t i, double *work) {
    const struct kern_group_norm *norm = j->norm;
    size_t channels = norm->channels, each = norm->spots * channels;
    const float *x = j->x + i * each;
    double *off = work, *squares = work + channels, n = (double)(norm->spots * j->width);
    float *part = (float *)(work + 2 * channels), *m = part + 2 * channels, *a = m + channels,
          *b = a + channels;
    memset(work, 0, 2 * channels * sizeof *work);
    add_sums(off, part, x, norm->spots, norm);
    for (size_t g = 0; g < norm->groups; g++) {
        float mean = (float)(group_sum(off + g * j->width, j->width) / n);
        for (size_t c = g * j->width; c < (g + 1) * j->width; c++) {
            m[c] = mean;
        }
    }
    memset(off, 0, channels * sizeof *off);
    add_squares(off, squares, part, x, m, norm->spots, norm);
    for (size_t g = 0; g < norm->groups; g++) {
        double wrong = group_sum(off + g * j->width, j->width) / n;
        double var = group_sum(squares + g * j->width, j->width) / n - wrong * wrong;
        float mean = (float)((double)m[g * j->width] + wrong);
        float inv = (float)(1.0 / sqrt((var < 0 ? 0 : var) + (double)norm->epsilon));
        j->mean[i * norm->groups + g] = mean;
        j->inv_std[i * norm->groups + g] = inv;
        for (size_t c = g * j->width; c < (g + 1) * j->width; c++) {
            m[c] = mean;
            a[c] = j->scale != NULL ? inv * j->scale[c] : inv;
            b[c] = j->bias != NULL ? j->bias[c] : 0;
        }
    }
    write_rows(j, x, j->y + i * each, m, a, b);
}

/* Doubles of work a range takes: two arrays of channels, then five, or in the gradient seven, of
 * float. */
static size_t work_doubles(size_t channels) {
    return 6 * channels;
}

static void forward_range(const void *job, size_t begin, size_t end) {
    const struct group_job *j = job;
    size_t parts = kern_cpu_parts(j->norm->batch, j->norm->spots * j->norm->channels);
    size_t part = 0;
    while (kern_cpu_part_begin(j->norm->batch, parts, part) < begin) {
        part++;
    }
    for (size_t i = begin; i < end; i++) {
        forward_sample(j, i, j->work + part * work_doubles(j->norm->channels));
    }
}

static enum kern_status take_work(struct kern_ctx *ctx, struct group_job *j) {
    const struct kern_group_norm *norm = j->norm;
    size_t parts = kern_cpu_parts(norm->batch, norm->spots * norm->channels);
    size_t n = parts * (work_doubles(norm->channels) + 2 * norm->channels);
    j->width = norm->channels / norm->groups;
    j->work = malloc(n * sizeof *j->work);
    if (j->work == NULL) {
        return kern_cpu_no_memory(ctx, n * sizeof *j->work);
    }
    j->sums = j->work + parts * work_doubles(norm->channels);
    return KERN_OK;
}

enum kern_status NN(group_norm)(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                const float *x, const float *scale, const float *bias,
                                const struct kern_group_norm *norm) {
    struct group_job j = {.norm = norm,
                          .y = y,
                          .mean = mean,
                          .inv_std = inv_std,
                          .x = x,
                          .scale = scale,
                          .bias = bias};
    enum kern_status st = take_work(ctx, &j);
    if (st != KERN_OK) {
        return st;
    }
    kern_cpu_each(ctx, forward_range, &j, norm->batch, norm->spots * norm->channels);
    free(j.work);
    return KERN_OK;
}

/* sum[c] and dot[c] over the sample's spots of dy and of dy * (x - mean). */
static void grad_sums(const struct group_job *j, size_t i, const float *restrict m,
                      float *restrict s, float *restrict d, double *restrict sum,
                      double *restrict dot) {
    size_t channels = j->norm->channels, each = j->norm->spots * channels;
    memset(sum, 0, channels * sizeof *sum);
    memset(dot, 0, channels * sizeof *dot);
    for (size_t at = 0, n; at < j->norm->spots; at += n) {
        n = j->norm->spots - at < GRAD_ROWS ? j->norm->spots - at : GRAD_ROWS;
        memset(s, 0, channels * sizeof *s);
        memset(d, 0, channels * sizeof *d);
        for (size_t r = at; r < at + n; r++) {
            const float *x = j->x + i * each + r * channels, *dy = j->dy + i * each + r * channels;
            const float *y = j->norm->relu ? j->out + i * each + r * channels : NULL;
            for (size_t c = 0; c < channels; c++) {
                float g = y == NULL || y[c] > 0 ? dy[c] : 0;
                s[c] += g;
                d[c] += g * (x[c] - m[c]);
            }
        }
        for (size_t c = 0; c < channels; c++) {
            sum[c] += (double)s[c];
            dot[c] += (double)d[c];
        }
    }
}

/* dx = a * (w * dy - k - (x - mean) * b): what may cancel does before it is scaled. */
static void grad_rows(const struct group_job *j, size_t i, const float *restrict m,
                      const float *restrict a, const float *restrict w, const float *restrict b,
                      const float *restrict k) {
    size_t channels = j->norm->channels, each = j->norm->spots * channels;
    for (size_t r = 0; r < j->norm->spots; r++) {
        size_t at = i * each + r * channels;
        const float *x = j->x + at, *dy = j->dy + at;
        const float *y = j->norm->relu ? j->out + at : NULL;
        float *dx = j->dx + at;
        for (size_t c = 0; c < channels; c++) {
            float g = y == NULL || y[c] > 0 ? dy[c] : 0;
            dx[c] = a[c] * ((w[c] * g - k[c]) - (x[c] - m[c]) * b[c]);
        }
    }
}

/* The sample's sums are added to its part's, for dscale and dbias. */
static void grad_sample(const struct group_job *j, size_t i, double *work, double *part_sums) {
    const struct kern_group_norm *norm = j->norm;
    size_t channels = norm->channels;
    double *sum = work, *dot = sum + channels;
    float *m = (float *)(dot + channels), *s = m + channels, *d = s + channels;
    float *a = d + channels, *b = a + channels, *k = b + channels, *w = k + channels;
    double n = (double)(norm->spots * j->width);
    for (size_t c = 0; c < channels; c++) {
        m[c] = j->in_mean[i * norm->groups + c / j->width];
    }
    grad_sums(j, i, m, s, d, sum, dot);
    for (size_t g = 0; g < norm->groups; g++) {
        double inv = (double)j->in_inv[i * norm->groups + g], s1 = 0, s2 = 0;
        for (size_t c = g * j->width; c < (g + 1) * j->width; c++) {
            w[c] = j->scale != NULL ? j->scale[c] : 1;
            s1 += (double)w[c] * sum[c];
            s2 += (double)w[c] * dot[c];
        }
        for (size_t c = g * j->width; c < (g + 1) * j->width; c++) {
            a[c] = (float)inv;
            b[c] = (float)(inv * inv * s2 / n);
            k[c] = (float)(s1 / n);
            part_sums[c] += sum[c];
            part_sums[channels + c] += dot[c] * inv;
        }
    }
    if (j->dx != NULL) {
        grad_rows(j, i, m, a, w, b, k);
    }
}

static void grad_range(const void *job, size_t begin, size_t end) {
    const struct group_job *j = job;
    size_t parts = kern_cpu_parts(j->norm->batch, j->norm->spots * j->norm->channels);
    size_t part = 0;
    while (kern_cpu_part_begin(j->norm->batch, parts, part) < begin) {
        part++;
    }
    double *sums = j->sums + part * 2 * j->norm->channels;
    memset(sums, 0, 2 * j->norm->channels * sizeof *sums);
    for (size_t i = begin; i < end; i++) {
        grad_sample(j, i, j->work + part * work_doubles(j->norm->channels), sums);
    }
}

enum kern_status NN(group_norm_grad)(struct kern_ctx *ctx, float *dx, float *dscale, float *dbias,
                                     const float *dy, const float *x, const float *y,
                                     const float *scale, const float *mean, const float *inv_std,
                                     const struct kern_group_norm *norm) {
    struct group_job j = {.norm = norm,
                          .dx = dx,
                          .dy = dy,
                          .x = x,
                          .out = y,
                          .scale = scale,
                          .in_mean = mean,
                          .in_inv = inv_std};
    size_t channels = norm->channels;
    enum kern_status st = take_work(ctx, &j);
    if (st != KERN_OK) {
        return st;
    }
    kern_cpu_each(ctx, grad_range, &j, norm->batch, norm->spots * channels);
    size_t parts = kern_cpu_parts(norm->batch, norm->spots * channels);
    for (size_t i = 1; i < parts; i++) {
        for (size_t c = 0; c < 2 * channels; c++) {
            j.sums[c] += j.sums[i * 2 * channels + c];
        }
    }
    for (size_t c = 0; c < channels; c++) {
        if (dbias != NULL) {
            dbias[c] += (float)j.sums[c];
        }
        if (dscale != NULL) {
            dscale[c] += (float)j.sums[channels + c];
        }
    }
    free(j.work);
    return KERN_OK;
}
