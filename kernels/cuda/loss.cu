/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels/loss.h. Sums take two passes in a fixed order: blocks to partial sums, one block to
 * their totals. Geometry: a thread to an element, a spot or a row, in blocks of KERN_BLOCK; Dice's
 * sums a block to a chunk of a class of a set.
 *
 * Classes, bytes an element of z: softmax 8 and its target, Dice's sums 8 (I, P; T from targets),
 * the gradient 8. A thread walks over the classes of its spot, which lie side by side: a warp reads
 * whole lines where classes are few. Shares for targets (soft) take 4 bytes a class instead of 4 a
 * spot, in each pass. Cox looks at every pair of an event and a row, twice, and takes an
 * exponential each time where the row was at risk: some n^2 in all, from cache.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/loss.h"

#include <math.h>

/* A block's sum into parts[0]. Every thread of the block calls it. */
__device__ static void put_sum(float *to, float v) {
    v = kern_block_sum(v);
    if (threadIdx.x == 0) {
        *to = v;
    }
    __syncthreads(); /* the block's shared sums are free again */
}

/* The sum of count floats `step` apart, in thread 0, in an order that follows from count. */
__device__ static float sum_of(const float *parts, unsigned count, unsigned step) {
    float sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += KERN_BLOCK) {
        sum += parts[(size_t)i * step];
    }
    sum = kern_block_sum(sum);
    __syncthreads();
    return sum;
}

/* ---- of single elements ---------------------------------------------------------------------- */

/* z, t, dz[n], a thread an element, grid-strided: 12 bytes an element; 62 flops. */
__global__ static void bce_kernel(float *parts, float *dz, const float *z, const float *t, size_t n,
                                  float inv_n, float w) {
    float sum = 0;
    KERN_EACH(i, n) {
        float x = z[i], y = t[i], share = w * y + (1 - y);
        float e = expf(-fabsf(x));
        float s = x >= 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
        sum += (1 - y) * x + share * (log1pf(e) + (x < 0 ? -x : 0));
        dz[i] = (share * s - w * y) * inv_n;
    }
    put_sum(parts + blockIdx.x, sum);
}

/* z, t, dz[n], a thread an element, grid-strided: 12 bytes an element; 5 flops squared, 7
 * absolute. */
__global__ static void error_kernel(float *parts, float *dz, const float *z, const float *t,
                                    size_t n, float inv_n, bool square) {
    float sum = 0;
    KERN_EACH(i, n) {
        float d = z[i] - t[i], sign = (float)((d > 0) - (d < 0));
        sum += square ? d * d : fabsf(d);
        dz[i] = (square ? 2 * d : isnan(d) ? d : sign) * inv_n;
    }
    put_sum(parts + blockIdx.x, sum);
}

/* One block: loss[0] += (sum of the parts) / n. 4 bytes and 1 flop a part. */
__global__ static void mean_kernel(float *loss, const float *parts, unsigned count, float n) {
    float sum = sum_of(parts, count, 1);
    if (threadIdx.x == 0) {
        loss[0] += sum / n;
    }
}

static int mean_loss(float *loss, float *dz, const float *z, const float *t,
                     const struct kern_loss_spec *s, float *scratch, cudaStream_t stream) {
    unsigned grid = kern_grid(s->rows, KERN_BLOCK, KERN_CUDA_PARTS);
    float inv_n = 1.0f / (float)s->rows;
    int st;
    if (s->kind == KERN_LOSS_BCE) {
        st = KERN_LAUNCH(bce_kernel, grid, KERN_BLOCK, stream, scratch, dz, z, t, s->rows, inv_n,
                         s->pos_weight);
    } else {
        st = KERN_LAUNCH(error_kernel, grid, KERN_BLOCK, stream, scratch, dz, z, t, s->rows, inv_n,
                         s->kind == KERN_LOSS_MSE);
    }
    return st != 0 ? st
                   : KERN_LAUNCH(mean_kernel, 1, KERN_BLOCK, stream, loss, scratch, grid,
                                 (float)s->rows);
}

/* ---- classes --------------------------------------------------------------------------------- */

/* What the kernels are told of a call. */
struct class_job {
    float *dz;
    const float *z, *weight;
    const int32_t *label; /* or, with shares for targets, NULL and those */
    const float *share;
    size_t spots; /* of a set */
    size_t sets, classes;
    unsigned chunks; /* that Dice's sums of a set are cut into */
    unsigned blocks; /* of the first pass */
    int32_t ignore;
    float ce, dice, smooth_nr, smooth_dr;
    unsigned first; /* the first class that Dice counts */
    /* Scratch: [blocks x 2] CE and weights; [sets x classes x chunks x 3] I, P, T; [sets x classes]
     * each of what Dice adds to p's gradient, and at its own class; [1] ce over the weights. */
    float *ce_parts, *dice_parts, *rise, *hit, *scale;
};

__device__ static bool counts(const struct class_job &j, int32_t label) {
    return label >= 0 && (size_t)label < j.classes && label != j.ignore;
}

__device__ static float weight_of(const struct class_job &j, int32_t label) {
    return j.weight != nullptr ? j.weight[label] : 1.0f;
}

/* The weight of a spot's shares, and whether there are any. */
__device__ static float weight_of_shares(const struct class_job &j, const float *y, bool *any) {
    float weight = 0, all = 0;
    for (size_t c = 0; c < j.classes; c++) {
        weight += weight_of(j, (int32_t)c) * y[c];
        all += y[c];
    }
    *any = all > 0;
    return weight;
}

/* dz = softmax(z); the sums of CE and of the weights. A thread a spot of [sets][spots][classes],
 * grid-strided: 8 bytes and 31 flops an element; 4 bytes and 25 flops a spot. */
__global__ static void softmax_kernel(struct class_job j) {
    float ce = 0, weights = 0;
    KERN_EACH(i, j.sets * j.spots) {
        const float *z = j.z + i * j.classes;
        float *p = j.dz + i * j.classes, top = z[0], sum = 0;
        for (size_t c = 1; c < j.classes; c++) {
            top = fmaxf(top, z[c]);
        }
        for (size_t c = 0; c < j.classes; c++) {
            p[c] = expf(z[c] - top);
            sum += p[c];
        }
        for (size_t c = 0; c < j.classes; c++) {
            p[c] /= sum;
        }
        if (j.share != nullptr) {
            const float *y = j.share + i * j.classes;
            for (size_t c = 0; c < j.classes; c++) {
                float w = weight_of(j, (int32_t)c) * y[c];
                ce += w > 0 ? w * (logf(sum) + (top - z[c])) : 0;
                weights += w;
            }
            continue;
        }
        int32_t label = j.label[i];
        if (counts(j, label)) {
            float w = weight_of(j, label);
            ce += w * (logf(sum) + (top - z[label]));
            weights += w;
        }
    }
    put_sum(j.ce_parts + 2 * (size_t)blockIdx.x, ce);
    put_sum(j.ce_parts + 2 * (size_t)blockIdx.x + 1, weights);
}

/* Blocks stride over (set, class, chunk): I, P and T of one chunk. 4 bytes of p and 4 of a label,
 * which other classes' blocks read too, an element; 3 flops. Shares are read of all classes. */
__global__ static void dice_kernel(struct class_job j) {
    size_t all = j.sets * j.classes * j.chunks;
    size_t each = (j.spots - 1) / j.chunks + 1;
    for (size_t at = blockIdx.x; at < all; at += gridDim.x) {
        size_t chunk = at % j.chunks, c = at / j.chunks % j.classes;
        size_t set = at / j.chunks / j.classes * j.spots;
        size_t end = (chunk + 1) * each < j.spots ? (chunk + 1) * each : j.spots;
        float both = 0, p = 0, t = 0;
        for (size_t i = chunk * each + threadIdx.x; i < end; i += KERN_BLOCK) {
            if (j.share != nullptr) {
                const float *y = j.share + (set + i) * j.classes;
                float here = j.dz[(set + i) * j.classes + c];
                bool any;
                (void)weight_of_shares(j, y, &any);
                p += any ? here : 0;
                both += y[c] * here;
                t += y[c];
                continue;
            }
            int32_t label = j.label[set + i];
            if (counts(j, label)) {
                float here = j.dz[(set + i) * j.classes + c];
                p += here;
                both += (size_t)label == c ? here : 0;
                t += (size_t)label == c ? 1 : 0;
            }
        }
        put_sum(j.dice_parts + 3 * at, both);
        put_sum(j.dice_parts + 3 * at + 1, p);
        put_sum(j.dice_parts + 3 * at + 2, t);
    }
}

/* One block: totals, the loss, and what the gradient needs of them. 12 bytes and 3 flops a chunk of
 * a class of a set, 8 bytes a part of CE. */
__global__ static void total_kernel(float *loss, struct class_job j) {
    float ce = sum_of(j.ce_parts, j.blocks, 2), weights = sum_of(j.ce_parts + 1, j.blocks, 2);
    float share = j.dice / ((float)j.sets * (float)(j.classes - j.first)), dice = 0;
    for (size_t i = threadIdx.x; i < j.sets * j.classes; i += KERN_BLOCK) {
        float of[3] = {0, 0, 0};
        for (unsigned k = 0; j.dice > 0 && k < j.chunks; k++) {
            for (int m = 0; m < 3; m++) {
                of[m] += j.dice_parts[3 * (i * j.chunks + k) + (size_t)m];
            }
        }
        bool in = j.dice > 0 && i % j.classes >= j.first;
        float up = 2 * of[0] + j.smooth_nr, down = of[1] + of[2] + j.smooth_dr;
        dice += in ? share * (1 - up / down) : 0;
        j.rise[i] = in ? share * up / down / down : 0;
        j.hit[i] = in ? share * 2 / down : 0;
    }
    dice = kern_block_sum(dice);
    if (threadIdx.x == 0) {
        j.scale[0] = weights > 0 ? j.ce / weights : 0;
        loss[0] += dice + (weights > 0 ? j.ce * (ce / weights) : 0);
    }
}

/* p of a spot whose target is shares becomes its gradient. */
__device__ static void share_gradient(const struct class_job &j, size_t i, const float *rise,
                                      const float *hit, float *p) {
    const float *y = j.share + i * j.classes;
    bool any;
    float dot = 0, weight = weight_of_shares(j, y, &any);
    for (size_t c = 0; c < j.classes; c++) {
        dot += p[c] * (rise[c] - y[c] * hit[c]);
    }
    for (size_t c = 0; c < j.classes; c++) {
        float ce = j.scale[0] * (p[c] * weight - weight_of(j, (int32_t)c) * y[c]);
        p[c] = any ? p[c] * (rise[c] - y[c] * hit[c] - dot) + ce : 0;
    }
}

/* dz, which holds softmax(z), becomes the gradient. A thread a spot, grid-strided: 8 bytes and 10
 * flops an element, 4 bytes a spot. */
__global__ static void class_grad_kernel(struct class_job j) {
    KERN_EACH(i, j.sets * j.spots) {
        float *p = j.dz + i * j.classes, dot = 0;
        const float *rise = j.rise + i / j.spots * j.classes;
        const float *hit = j.hit + i / j.spots * j.classes;
        if (j.share != nullptr) {
            share_gradient(j, i, rise, hit, p);
            continue;
        }
        int32_t label = j.label[i];
        bool in = counts(j, label);
        float ce = in ? weight_of(j, label) * j.scale[0] : 0;
        for (size_t c = 0; in && c < j.classes; c++) {
            dot += p[c] * (rise[c] - (c == (size_t)label ? hit[c] : 0));
        }
        for (size_t c = 0; c < j.classes; c++) {
            float own = c == (size_t)label ? 1.0f : 0.0f;
            p[c] = in ? p[c] * (rise[c] - own * hit[c] - dot) + ce * (p[c] - own) : 0;
        }
    }
}

#define CHUNK_SPOTS 16384 /* of Dice's sums, at the least */

static struct class_job class_job_of(const struct kern_loss_spec *s) {
    struct class_job j = {};
    j.sets = s->dice > 0 && !s->batch ? s->rows : 1;
    j.spots = s->rows * s->spots / j.sets;
    j.classes = s->classes;
    j.chunks = kern_grid(j.spots, CHUNK_SPOTS, 256);
    j.blocks = kern_grid(s->rows * s->spots, KERN_BLOCK, KERN_CUDA_PARTS);
    j.ignore = s->ignore;
    j.ce = s->ce;
    j.dice = s->dice;
    j.smooth_nr = s->smooth_nr;
    j.smooth_dr = s->smooth_dr;
    j.first = s->background ? 0 : 1;
    return j;
}

static int class_loss(float *loss, struct class_job j, float *scratch, cudaStream_t stream) {
    size_t of_sets = j.sets * j.classes, dice = j.dice > 0 ? of_sets * j.chunks : 0;
    j.ce_parts = scratch;
    j.dice_parts = j.ce_parts + 2 * (size_t)j.blocks;
    j.rise = j.dice_parts + 3 * dice;
    j.hit = j.rise + of_sets;
    j.scale = j.hit + of_sets;
    int st = KERN_LAUNCH(softmax_kernel, j.blocks, KERN_BLOCK, stream, j);
    if (st == 0 && dice > 0) {
        st = KERN_LAUNCH(dice_kernel, kern_grid(dice, 1, KERN_GRID_MAX), KERN_BLOCK, stream, j);
    }
    if (st == 0) {
        st = KERN_LAUNCH(total_kernel, 1, KERN_BLOCK, stream, loss, j);
    }
    return st != 0 ? st
                   : KERN_LAUNCH(class_grad_kernel,
                                 kern_grid(j.sets * j.spots, KERN_BLOCK, KERN_GRID_MAX), KERN_BLOCK,
                                 stream, j);
}

/* ---- Cox ------------------------------------------------------------------------------------- */

/* The logarithm of the sum over the risk set of each event; the sums of loss and events. z[n],
 * t[n][2], a thread a row, grid-strided: 12 bytes read a row and 4 written; to each pair of an
 * event and a row at risk 25 flops, to any other 2, from cache. */
__global__ static void risk_kernel(float *parts, float *lse, const float *z, const float *t,
                                   size_t n) {
    float loss = 0, events = 0;
    KERN_EACH(i, n) {
        bool event = t[2 * i + 1] > 0;
        float top = z[i], all = 0;
        for (size_t k = 0; event && k < n; k++) {
            top = t[2 * k] >= t[2 * i] ? fmaxf(top, z[k]) : top;
        }
        for (size_t k = 0; event && k < n; k++) {
            all += t[2 * k] >= t[2 * i] ? expf(z[k] - top) : 0;
        }
        lse[i] = event ? logf(all) + top : 0;
        loss += event ? logf(all) + (top - z[i]) : 0;
        events += event ? 1 : 0;
    }
    put_sum(parts + 2 * (size_t)blockIdx.x, loss);
    put_sum(parts + 2 * (size_t)blockIdx.x + 1, events);
}

/* One block: loss[0] += loss / events; scale[0] = 1 / events. 8 bytes and 2 flops a part. */
__global__ static void event_kernel(float *loss, float *scale, const float *parts, unsigned count) {
    float sum = sum_of(parts, count, 2), events = sum_of(parts + 1, count, 2);
    if (threadIdx.x == 0) {
        scale[0] = events > 0 ? 1 / events : 0;
        loss[0] += events > 0 ? sum / events : 0;
    }
}

/* dz[n], a thread a row, grid-strided, which looks at every event in order: 12 bytes read a row and
 * 4 written; to each pair of an event and a row at risk 24 flops, to any other 2, from cache. */
__global__ static void hazard_kernel(float *dz, const float *lse, const float *scale,
                                     const float *z, const float *t, size_t n) {
    KERN_EACH(k, n) {
        float g = t[2 * k + 1] > 0 ? -1.0f : 0.0f;
        for (size_t i = 0; i < n; i++) {
            if (t[2 * i + 1] > 0 && t[2 * i] <= t[2 * k]) {
                g += expf(z[k] - lse[i]);
            }
        }
        dz[k] = g * scale[0];
    }
}

static int cox_loss(float *loss, float *dz, const float *z, const float *t, size_t n,
                    float *scratch, cudaStream_t stream) {
    unsigned grid = kern_grid(n, KERN_BLOCK, KERN_CUDA_PARTS / 2);
    float *lse = scratch + 2 * (size_t)grid, *scale = lse + n;
    int st = KERN_LAUNCH(risk_kernel, grid, KERN_BLOCK, stream, scratch, lse, z, t, n);
    if (st == 0) {
        st = KERN_LAUNCH(event_kernel, 1, KERN_BLOCK, stream, loss, scale, scratch, grid);
    }
    return st != 0 ? st
                   : KERN_LAUNCH(hazard_kernel, grid, KERN_BLOCK, stream, dz, lse, scale, z, t, n);
}

/* ---- either ---------------------------------------------------------------------------------- */

size_t kern_cu_loss_bytes(const struct kern_loss_spec *s) {
    size_t floats = KERN_CUDA_PARTS;
    if (s->kind == KERN_LOSS_COX) {
        floats += s->rows + 1;
    } else if (s->kind == KERN_LOSS_CLASSES) {
        struct class_job j = class_job_of(s);
        size_t of_sets = j.sets * j.classes;
        floats += 2 * (size_t)j.blocks + 2 * of_sets + 1;
        floats += j.dice > 0 ? 3 * of_sets * j.chunks : 0;
    }
    return floats * sizeof(float);
}

int kern_cu_loss(float *loss, float *dz, const float *z, const void *target, const float *weight,
                 const struct kern_loss_spec *spec, float *scratch, cudaStream_t stream) {
    if (spec->kind == KERN_LOSS_CLASSES) {
        struct class_job j = class_job_of(spec);
        j.dz = dz;
        j.z = z;
        j.weight = weight;
        if (spec->soft) {
            j.share = (const float *)target;
        } else {
            j.label = (const int32_t *)target;
        }
        return class_loss(loss, j, scratch, stream);
    }
    if (spec->kind == KERN_LOSS_COX) {
        return cox_loss(loss, dz, z, (const float *)target, spec->rows, scratch, stream);
    }
    return mean_loss(loss, dz, z, (const float *)target, spec, scratch, stream);
}
