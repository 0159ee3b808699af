/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools over channels-last images. Every image is taken as three-dimensional, absent dimensions
 * first and of size 1; the innermost loop runs over channels. Gradients are made sample by sample,
 * so that windows which overlap add in one order.
 */
#include "kernels/cpu/nn.h"

#include <math.h>
#include <string.h>

struct cube {
    size_t in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];
    size_t in_spots, out_spots, kernel_spots;
};

static struct cube cube_of(const struct kern_window *w) {
    struct cube q = {.in_spots = 1, .out_spots = 1, .kernel_spots = 1};
    for (unsigned i = 0; i < 3; i++) {
        bool there = i + w->spatial >= 3;
        unsigned k = there ? i + w->spatial - 3 : 0;
        q.in[i] = there ? w->in[k] : 1;
        q.out[i] = there ? w->out[k] : 1;
        q.kernel[i] = there ? w->kernel[k] : 1;
        q.stride[i] = there ? w->stride[k] : 1;
        q.dilation[i] = there ? w->dilation[k] : 1;
        q.pad[i] = there ? w->pad[k] : 0;
        q.in_spots *= q.in[i];
        q.out_spots *= q.out[i];
        q.kernel_spots *= q.kernel[i];
    }
    return q;
}

struct pool_job {
    struct cube q;
    size_t channels;
    bool count_pad, add;
    float *y, *dx;
    int32_t *index;
    const float *x, *dy;
    const int32_t *in_index;
};

/* Which input spot tap `k` of output spot `o` sees; false where it lies in the padding. */
static bool sees(const struct cube *q, const size_t o[3], const size_t k[3], size_t *spot_out) {
    size_t spot = 0;
    for (unsigned i = 0; i < 3; i++) {
        size_t at = o[i] * q->stride[i] + k[i] * q->dilation[i];
        if (at < q->pad[i] || at - q->pad[i] >= q->in[i]) {
            return false;
        }
        spot = spot * q->in[i] + (at - q->pad[i]);
    }
    *spot_out = spot;
    return true;
}

static void unravel(size_t flat, const size_t dims[3], size_t out[3]) {
    out[2] = flat % dims[2];
    out[1] = flat / dims[2] % dims[1];
    out[0] = flat / dims[2] / dims[1];
}

static void max_spot(const struct pool_job *j, const float *x, size_t o_flat, float *restrict y,
                     int32_t *restrict index) {
    const struct cube *q = &j->q;
    size_t o[3], k[3], spot;
    bool first = true;
    unravel(o_flat, q->out, o);
    for (size_t tap = 0; tap < q->kernel_spots; tap++) {
        unravel(tap, q->kernel, k);
        if (!sees(q, o, k, &spot)) {
            continue;
        }
        const float *restrict v = x + spot * j->channels;
        if (first) {
            for (size_t c = 0; c < j->channels; c++) {
                y[c] = v[c];
                index[c] = (int32_t)spot;
            }
            first = false;
            continue;
        }
        for (size_t c = 0; c < j->channels; c++) {
            bool more = v[c] > y[c] || (v[c] != v[c] && y[c] == y[c]);
            y[c] = more ? v[c] : y[c];
            index[c] = more ? (int32_t)spot : index[c];
        }
    }
    for (size_t c = 0; first && c < j->channels; c++) {
        y[c] = -INFINITY; /* a window of nothing but padding */
        index[c] = -1;
    }
}

static void max_range(const void *job, size_t begin, size_t end) {
    const struct pool_job *j = job;
    for (size_t o = begin; o < end; o++) {
        size_t sample = o / j->q.out_spots;
        max_spot(j, j->x + sample * j->q.in_spots * j->channels, o % j->q.out_spots,
                 j->y + o * j->channels, j->index + o * j->channels);
    }
}

enum kern_status NN(max_pool)(struct kern_ctx *ctx, float *y, int32_t *index, const float *x,
                              size_t batch, size_t channels, const struct kern_window *window) {
    struct pool_job j = {
        .q = cube_of(window), .channels = channels, .y = y, .index = index, .x = x};
    return kern_cpu_each(ctx, max_range, &j, batch * j.q.out_spots, channels * j.q.kernel_spots);
}

static void max_grad_range(const void *job, size_t begin, size_t end) {
    const struct pool_job *j = job;
    size_t in = j->q.in_spots * j->channels, out = j->q.out_spots * j->channels;
    for (size_t i = begin; i < end; i++) {
        float *dx = j->dx + i * in;
        const float *dy = j->dy + i * out;
        const int32_t *index = j->in_index + i * out;
        if (!j->add) {
            memset(dx, 0, in * sizeof *dx);
        }
        for (size_t o = 0; o < j->q.out_spots; o++, dy += j->channels, index += j->channels) {
            for (size_t c = 0; c < j->channels; c++) {
                if (index[c] >= 0 && (size_t)index[c] < j->q.in_spots) {
                    dx[(size_t)index[c] * j->channels + c] += dy[c];
                }
            }
        }
    }
}

enum kern_status NN(max_pool_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                   const int32_t *index, size_t batch, size_t channels,
                                   const struct kern_window *window, bool add) {
    struct pool_job j = {.q = cube_of(window),
                         .channels = channels,
                         .add = add,
                         .dx = dx,
                         .dy = dy,
                         .in_index = index};
    return kern_cpu_each(ctx, max_grad_range, &j, batch, j.q.in_spots * channels);
}

/* 1 / what a window's sum is divided by. */
static float share(const struct pool_job *j, const size_t o[3]) {
    const struct cube *q = &j->q;
    size_t k[3], spot, n = 0;
    for (size_t tap = 0; tap < q->kernel_spots; tap++) {
        unravel(tap, q->kernel, k);
        n += sees(q, o, k, &spot);
    }
    n = j->count_pad ? q->kernel_spots : n;
    return n == 0 ? 0 : 1.0f / (float)n;
}

static void mean_range(const void *job, size_t begin, size_t end) {
    const struct pool_job *j = job;
    const struct cube *q = &j->q;
    size_t o[3], k[3], spot;
    for (size_t at = begin; at < end; at++) {
        const float *x = j->x + at / q->out_spots * q->in_spots * j->channels;
        float *restrict y = j->y + at * j->channels;
        unravel(at % q->out_spots, q->out, o);
        float scale = share(j, o);
        memset(y, 0, j->channels * sizeof *y);
        for (size_t tap = 0; tap < q->kernel_spots; tap++) {
            unravel(tap, q->kernel, k);
            if (sees(q, o, k, &spot)) {
                const float *restrict v = x + spot * j->channels;
                for (size_t c = 0; c < j->channels; c++) {
                    y[c] += v[c];
                }
            }
        }
        for (size_t c = 0; c < j->channels; c++) {
            y[c] *= scale;
        }
    }
}

enum kern_status NN(mean_pool)(struct kern_ctx *ctx, float *y, const float *x, size_t batch,
                               size_t channels, const struct kern_window *window, bool count_pad) {
    struct pool_job j = {
        .q = cube_of(window), .channels = channels, .count_pad = count_pad, .y = y, .x = x};
    return kern_cpu_each(ctx, mean_range, &j, batch * j.q.out_spots, channels * j.q.kernel_spots);
}

static void mean_grad_range(const void *job, size_t begin, size_t end) {
    const struct pool_job *j = job;
    const struct cube *q = &j->q;
    size_t in = q->in_spots * j->channels, o[3], k[3], spot;
    for (size_t i = begin; i < end; i++) {
        float *dx = j->dx + i * in;
        if (!j->add) {
            memset(dx, 0, in * sizeof *dx);
        }
        for (size_t at = 0; at < q->out_spots; at++) {
            const float *restrict dy = j->dy + (i * q->out_spots + at) * j->channels;
            unravel(at, q->out, o);
            float scale = share(j, o);
            for (size_t tap = 0; tap < q->kernel_spots; tap++) {
                unravel(tap, q->kernel, k);
                if (sees(q, o, k, &spot)) {
                    float *restrict to = dx + spot * j->channels;
                    for (size_t c = 0; c < j->channels; c++) {
                        to[c] += dy[c] * scale;
                    }
                }
            }
        }
    }
}

enum kern_status NN(mean_pool_grad)(struct kern_ctx *ctx, float *dx, const float *dy, size_t batch,
                                    size_t channels, const struct kern_window *window,
                                    bool count_pad, bool add) {
    struct pool_job j = {.q = cube_of(window),
                         .channels = channels,
                         .count_pad = count_pad,
                         .add = add,
                         .dx = dx,
                         .dy = dy};
    return kern_cpu_each(ctx, mean_grad_range, &j, batch, j.q.in_spots * channels);
}
