/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work along one axis of [outer][len][inner]: reading at indices, and sparse products. Tasks are
 * cut over outer and, where an order of additions matters, over inner too, never over the axis.
 */
#include "kernels/cpu/nn.h"

#include <math.h>
#include <string.h>

struct axis_job {
    size_t outer, len, count, inner, slices;
    float *y;
    const float *x, *weight;
    const int32_t *index, *start;
    int32_t *index_out;
    bool add;
};

static void gather_range(const void *job, size_t begin, size_t end) {
    const struct axis_job *j = job;
    for (size_t at = begin; at < end; at++) {
        int32_t from = j->index[at % j->count];
        float *y = j->y + at * j->inner;
        if (from >= 0 && (size_t)from < j->len) {
            const float *x = j->x + (at / j->count * j->len + (size_t)from) * j->inner;
            memcpy(y, x, j->inner * sizeof *y);
            continue;
        }
        for (size_t i = 0; i < j->inner; i++) {
            y[i] = NAN;
        }
    }
}

enum kern_status NN(gather)(struct kern_ctx *ctx, float *y, const float *x, const int32_t *index,
                            size_t outer, size_t len, size_t count, size_t inner) {
    struct axis_job j = {
        .outer = outer, .len = len, .count = count, .inner = inner, .y = y, .x = x, .index = index};
    return kern_cpu_each(ctx, gather_range, &j, outer * count, inner);
}

#define SLICE 64 /* inner elements a task */

static void gather_grad_range(const void *job, size_t begin, size_t end) {
    const struct axis_job *j = job;
    for (size_t task = begin; task < end; task++) {
        size_t outer = task / j->slices, first = task % j->slices * SLICE;
        size_t n = j->inner - first < SLICE ? j->inner - first : SLICE;
        for (size_t at = 0; at < j->count; at++) {
            int32_t to = j->index[at];
            if (to < 0 || (size_t)to >= j->len) {
                continue;
            }
            float *restrict dx = j->y + (outer * j->len + (size_t)to) * j->inner + first;
            const float *restrict dy = j->x + (outer * j->count + at) * j->inner + first;
            for (size_t i = 0; i < n; i++) {
                dx[i] += dy[i];
            }
        }
    }
}

enum kern_status NN(gather_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                 const int32_t *index, size_t outer, size_t len, size_t count,
                                 size_t inner) {
    struct axis_job j = {.outer = outer,
                         .len = len,
                         .count = count,
                         .inner = inner,
                         .y = dx,
                         .x = dy,
                         .index = index,
                         .slices = (inner + SLICE - 1) / SLICE};
    return kern_cpu_each(ctx, gather_grad_range, &j, outer * j.slices, count * SLICE);
}

static void to_index_range(const void *job, size_t begin, size_t end) {
    const struct axis_job *j = job;
    for (size_t i = begin; i < end; i++) {
        float x = rintf(j->x[i]);
        j->index_out[i] = x >= 0 && x < 2147483648.0f ? (int32_t)x : -1;
    }
}

enum kern_status NN(to_index)(struct kern_ctx *ctx, int32_t *index, const float *x, size_t n) {
    struct axis_job j = {.x = x, .index_out = index};
    return kern_cpu_each(ctx, to_index_range, &j, n, 1);
}

static void mix_range(const void *job, size_t begin, size_t end) {
    const struct axis_job *j = job;
    for (size_t at = begin; at < end; at++) {
        size_t outer = at / j->count, o = at % j->count;
        float *restrict y = j->y + at * j->inner;
        if (!j->add) {
            memset(y, 0, j->inner * sizeof *y);
        }
        for (int32_t t = j->start[o]; t < j->start[o + 1]; t++) {
            const float *restrict x = j->x + (outer * j->len + (size_t)j->index[t]) * j->inner;
            float w = j->weight[t];
            for (size_t i = 0; i < j->inner; i++) {
                y[i] += w * x[i];
            }
        }
    }
}

enum kern_status NN(axis_mix)(struct kern_ctx *ctx, float *y, const float *x, const int32_t *start,
                              const int32_t *from, const float *weight, size_t outer, size_t in,
                              size_t out, size_t inner, bool add) {
    struct axis_job j = {.outer = outer,
                         .len = in,
                         .count = out,
                         .inner = inner,
                         .y = y,
                         .x = x,
                         .start = start,
                         .index = from,
                         .weight = weight,
                         .add = add};
    return kern_cpu_each(ctx, mix_range, &j, outer * out, 2 * inner);
}
