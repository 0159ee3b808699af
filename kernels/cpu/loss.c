/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels/loss.h on the CPU. Classes take two passes: the first leaves softmax(z) in dz and sums
 * what the gradient needs of a whole set, the second turns dz into the gradient. Partial sums are
 * in double, cut by the sizes alone and added in the order of the cuts: the same bits for every
 * number of threads.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/loss.h"

#include <math.h>
#include <stdlib.h>

struct loss_job {
    const struct kern_loss_spec *spec;
    float *dz;
    const float *z, *t, *weight;
    const int32_t *label;
    size_t n, parts; /* elements, or spots of a set, and what they are cut into */
    float inv_n;
    double *sum; /* of each part: [stride] */
    size_t stride;
    float *rise, *hit; /* [sets x classes]: what Dice adds to each p's gradient, and at its class */
    double *lse;       /* [rows]: of the risk set of each event */
};

/* ---- of single elements ---------------------------------------------------------------------- */

static void bce_part(const void *job, size_t task) {
    const struct loss_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);
    float w = j->spec->pos_weight;
    double sum = 0;

    for (size_t i = kern_cpu_part_begin(j->n, j->parts, task); i < end; i++) {
        float z = j->z[i], t = j->t[i], share = w * t + (1 - t);
        float e = expf(-fabsf(z));
        float s = z >= 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
        sum += (double)((1 - t) * z + share * (log1pf(e) + (z < 0 ? -z : 0)));
        j->dz[i] = (share * s - w * t) * j->inv_n;
    }
    j->sum[task] = sum;
}

static void error_part(const void *job, size_t task) {
    const struct loss_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);
    bool square = j->spec->kind == KERN_LOSS_MSE;
    double sum = 0;

    for (size_t i = kern_cpu_part_begin(j->n, j->parts, task); i < end; i++) {
        float d = j->z[i] - j->t[i], sign = (float)((d > 0) - (d < 0));
        sum += square ? (double)d * (double)d : fabs((double)d);
        j->dz[i] = (square ? 2 * d : isnan(d) ? d : sign) * j->inv_n;
    }
    j->sum[task] = sum;
}

static enum kern_status mean_loss(struct kern_ctx *ctx, struct loss_job *j, float *loss) {
    double sum[KERN_CPU_PARTS], total = 0;

    j->n = j->spec->rows;
    j->parts = kern_cpu_parts(j->n, 8);
    j->inv_n = 1.0f / (float)j->n;
    j->sum = sum;
    kern_pool_run(kern_cpu_pool(ctx), j->spec->kind == KERN_LOSS_BCE ? bce_part : error_part, j,
                  j->parts);
    for (size_t i = 0; i < j->parts; i++) {
        total += sum[i];
    }
    loss[0] += (float)(total / (double)j->n);
    return KERN_OK;
}

/* ---- classes --------------------------------------------------------------------------------- */

/* A part's sums: CE, weights, then of each class I, P and T. */
enum { SUM_CE, SUM_WEIGHT, SUM_CLASSES };

static bool counts(const struct kern_loss_spec *s, int32_t label) {
    return label >= 0 && (size_t)label < s->classes && label != s->ignore;
}

static float weight_of(const struct loss_job *j, int32_t label) {
    return j->weight != NULL ? j->weight[label] : 1.0f;
}

/* p = softmax(z); the log of what it was divided by, less the largest z. */
static float softmax_spot(float *p, const float *z, size_t classes, float *top_out) {
    float top = z[0], sum = 0;

    for (size_t c = 1; c < classes; c++) {
        top = z[c] > top ? z[c] : top;
    }
    for (size_t c = 0; c < classes; c++) {
        p[c] = expf(z[c] - top);
        sum += p[c];
    }
    float inv = 1.0f / sum;
    for (size_t c = 0; c < classes; c++) {
        p[c] *= inv;
    }
    *top_out = top;
    return logf(sum);
}

/* Of a spot whose target is shares: adds to the sums what a label adds, by the shares. */
static void add_shares(const struct loss_job *j, size_t i, const float *p, float log_sum, float top,
                       double *sum) {
    const float *z = j->z + i * j->spec->classes, *y = j->t + i * j->spec->classes;
    double *of = sum + SUM_CLASSES;
    float all = 0;

    for (size_t c = 0; c < j->spec->classes; c++) {
        float w = weight_of(j, (int32_t)c) * y[c];
        sum[SUM_CE] += w > 0 ? (double)w * (double)(log_sum + (top - z[c])) : 0;
        sum[SUM_WEIGHT] += (double)w;
        all += y[c];
    }
    for (size_t c = 0; j->spec->dice > 0 && all > 0 && c < j->spec->classes; c++) {
        of[3 * c] += (double)y[c] * (double)p[c];
        of[3 * c + 1] += (double)p[c];
        of[3 * c + 2] += (double)y[c];
    }
}

static void first_part(const void *job, size_t task) {
    const struct loss_job *j = job;
    const struct kern_loss_spec *s = j->spec;
    size_t set = task / j->parts, classes = s->classes;
    size_t end = set * j->n + kern_cpu_part_begin(j->n, j->parts, task % j->parts + 1);
    double *sum = j->sum + task * j->stride;

    for (size_t i = set * j->n + kern_cpu_part_begin(j->n, j->parts, task % j->parts); i < end;
         i++) {
        const float *z = j->z + i * classes;
        float *p = j->dz + i * classes, top;
        float log_sum = softmax_spot(p, z, classes, &top);
        if (s->soft) {
            add_shares(j, i, p, log_sum, top, sum);
            continue;
        }
        int32_t label = j->label[i];
        if (!counts(s, label)) {
            continue;
        }
        float w = weight_of(j, label);
        sum[SUM_CE] += (double)w * (double)(log_sum + (top - z[label]));
        sum[SUM_WEIGHT] += (double)w;
        if (s->dice > 0) {
            double *of = sum + SUM_CLASSES;
            for (size_t c = 0; c < classes; c++) {
                of[3 * c + 1] += (double)p[c];
            }
            of[3 * label] += (double)p[label];
            of[3 * label + 2] += 1;
        }
    }
}

/* p of a spot whose target is shares becomes its gradient. */
static void share_gradient(const struct loss_job *j, size_t i, const float *rise, const float *hit,
                           float *p) {
    const float *y = j->t + i * j->spec->classes;
    float dot = 0, weight = 0, all = 0;

    for (size_t c = 0; c < j->spec->classes; c++) {
        dot += p[c] * (rise[c] - y[c] * hit[c]);
        weight += weight_of(j, (int32_t)c) * y[c];
        all += y[c];
    }
    for (size_t c = 0; c < j->spec->classes; c++) {
        float own = weight_of(j, (int32_t)c) * y[c];
        p[c] =
            all > 0 ? p[c] * (rise[c] - y[c] * hit[c] - dot) + j->inv_n * (p[c] * weight - own) : 0;
    }
}

static void second_part(const void *job, size_t task) {
    const struct loss_job *j = job;
    const struct kern_loss_spec *s = j->spec;
    size_t set = task / j->parts, classes = s->classes;
    const float *rise = j->rise + set * classes, *hit = j->hit + set * classes;
    size_t end = set * j->n + kern_cpu_part_begin(j->n, j->parts, task % j->parts + 1);

    for (size_t i = set * j->n + kern_cpu_part_begin(j->n, j->parts, task % j->parts); i < end;
         i++) {
        float *p = j->dz + i * classes, dot = 0;
        if (s->soft) {
            share_gradient(j, i, rise, hit, p);
            continue;
        }
        int32_t label = j->label[i];
        bool in = counts(s, label);
        float ce = in ? weight_of(j, label) * j->inv_n : 0;
        for (size_t c = 0; in && c < classes; c++) {
            dot += p[c] * (rise[c] - (c == (size_t)label ? hit[c] : 0));
        }
        for (size_t c = 0; c < classes; c++) {
            float own = c == (size_t)label ? 1.0f : 0.0f;
            p[c] = in ? p[c] * (rise[c] - own * hit[c] - dot) + ce * (p[c] - own) : 0;
        }
    }
}

/* What the sums of one set say of Dice: its gradient's two numbers of a class, and the loss. */
static double dice_of(const struct loss_job *j, size_t set, size_t sets) {
    const struct kern_loss_spec *s = j->spec;
    size_t first = s->background ? 0 : 1;
    double share = (double)s->dice / ((double)sets * (double)(s->classes - first)), loss = 0;

    for (size_t c = first; c < s->classes; c++) {
        double of[3] = {0};
        for (size_t part = 0; part < j->parts; part++) {
            const double *sum = j->sum + (set * j->parts + part) * j->stride + SUM_CLASSES + 3 * c;
            for (size_t k = 0; k < 3; k++) {
                of[k] += sum[k];
            }
        }
        double up = 2 * of[0] + (double)s->smooth_nr, down = of[1] + of[2] + (double)s->smooth_dr;
        loss += share * (1 - up / down);
        j->rise[set * s->classes + c] = (float)(share * up / (down * down));
        j->hit[set * s->classes + c] = (float)(share * 2 / down);
    }
    return loss;
}

static enum kern_status class_loss(struct kern_ctx *ctx, struct loss_job *j, float *loss) {
    const struct kern_loss_spec *s = j->spec;
    size_t sets = s->dice > 0 && !s->batch ? s->rows : 1;
    double total = 0, ce = 0, weights = 0;

    j->n = s->rows * s->spots / sets;
    j->parts = kern_cpu_parts(j->n, s->classes * 8);
    j->stride = SUM_CLASSES + (s->dice > 0 ? 3 * s->classes : 0);
    j->sum = calloc(sets * j->parts * j->stride, sizeof *j->sum);
    j->rise = calloc(2 * sets * s->classes, sizeof *j->rise);
    if (j->sum == NULL || j->rise == NULL) {
        free(j->sum);
        free(j->rise);
        return KERN_ENOMEM;
    }
    j->hit = j->rise + sets * s->classes;
    kern_pool_run(kern_cpu_pool(ctx), first_part, j, sets * j->parts);
    for (size_t i = 0; i < sets * j->parts; i++) {
        ce += j->sum[i * j->stride + SUM_CE];
        weights += j->sum[i * j->stride + SUM_WEIGHT];
    }
    for (size_t set = 0; s->dice > 0 && set < sets; set++) {
        total += dice_of(j, set, sets);
    }
    j->inv_n = weights > 0 ? (float)((double)s->ce / weights) : 0;
    total += weights > 0 ? (double)s->ce * ce / weights : 0;
    kern_pool_run(kern_cpu_pool(ctx), second_part, j, sets * j->parts);
    loss[0] += (float)total;
    free(j->sum);
    free(j->rise);
    return KERN_OK;
}

/* ---- Cox ------------------------------------------------------------------------------------- */

/* The logarithms of the risk sets' sums, the loss and the number of events. */
static void risk_part(const void *job, size_t task) {
    const struct loss_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);
    double *sum = j->sum + 2 * task;

    for (size_t i = kern_cpu_part_begin(j->n, j->parts, task); i < end; i++) {
        double top = (double)j->z[i], all = 0;
        if (!(j->t[2 * i + 1] > 0)) {
            continue;
        }
        for (size_t k = 0; k < j->n; k++) {
            top = j->t[2 * k] >= j->t[2 * i] && (double)j->z[k] > top ? (double)j->z[k] : top;
        }
        for (size_t k = 0; k < j->n; k++) {
            all += j->t[2 * k] >= j->t[2 * i] ? exp((double)j->z[k] - top) : 0;
        }
        j->lse[i] = log(all) + top;
        sum[0] += j->lse[i] - (double)j->z[i];
        sum[1] += 1;
    }
}

static void hazard_part(const void *job, size_t task) {
    const struct loss_job *j = job;
    size_t end = kern_cpu_part_begin(j->n, j->parts, task + 1);

    for (size_t k = kern_cpu_part_begin(j->n, j->parts, task); k < end; k++) {
        double g = j->t[2 * k + 1] > 0 ? -1 : 0;
        for (size_t i = 0; i < j->n; i++) {
            if (j->t[2 * i + 1] > 0 && j->t[2 * i] <= j->t[2 * k]) {
                g += exp((double)j->z[k] - j->lse[i]);
            }
        }
        j->dz[k] = (float)(g * (double)j->inv_n);
    }
}

static enum kern_status cox_loss(struct kern_ctx *ctx, struct loss_job *j, float *loss) {
    double sum[2 * KERN_CPU_PARTS] = {0}, total = 0, events = 0;

    j->n = j->spec->rows;
    j->parts = kern_cpu_parts(j->n, j->n * 8);
    j->lse = calloc(j->n, sizeof *j->lse);
    if (j->lse == NULL) {
        return KERN_ENOMEM;
    }
    j->sum = sum;
    kern_pool_run(kern_cpu_pool(ctx), risk_part, j, j->parts);
    for (size_t i = 0; i < j->parts; i++) {
        total += sum[2 * i];
        events += sum[2 * i + 1];
    }
    j->inv_n = events > 0 ? (float)(1 / events) : 0;
    kern_pool_run(kern_cpu_pool(ctx), hazard_part, j, j->parts);
    loss[0] += events > 0 ? (float)(total / events) : 0;
    free(j->lse);
    return KERN_OK;
}

enum kern_status kern_cpu_loss(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                               const void *target, const float *weight,
                               const struct kern_loss_spec *spec) {
    struct loss_job j = {
        .spec = spec, .dz = dz, .z = z, .t = target, .label = target, .weight = weight};

    switch (spec->kind) {
    case KERN_LOSS_CLASSES:
        return class_loss(ctx, &j, loss);
    case KERN_LOSS_COX:
        return cox_loss(ctx, &j, loss);
    default:
        return mean_loss(ctx, &j, loss);
    }
}
