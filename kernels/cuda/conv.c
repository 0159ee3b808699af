/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions on a GPU: the inputs that an output spot sees are laid side by side (conv.cu), and
 * patches and weights are multiplied by cuBLAS, all groups in one call. Patches of the whole would
 * be taps times the image, so they are made in slabs of at most KERN_CUDA_SLAB_BYTES, some output
 * spots of all samples at a time. A window of one needs no patches: the image is them. Where a
 * group is one input channel (depthwise), products would be of one column: kernels of their own do
 * the forward pass and the gradient of the input.
 *
 * A transposed convolution is the plain one whose gradient it is, as on the CPU. Nothing is added
 * atomically: the way back gathers, and the slabs come in order.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/nn_kernels.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef KERN_CUDA_SLAB_BYTES
#define KERN_CUDA_SLAB_BYTES ((size_t)256 << 20)
#endif

struct cuda_conv {
    struct kern_cu_slab slab; /* first and rows are a call's */
    size_t batch, out_channels, out_group;
    size_t width, rows, step; /* floats of a group's patch; rows in all, and of a slab */
    bool transposed, pointwise, depthwise;
};

enum kern_status kern_cuda_conv_new(struct kern_ctx *ctx, const struct kern_conv_shape *shape,
                                    void **state_out) {
    struct cuda_conv *c = calloc(1, sizeof *c);
    if (c == NULL) {
        snprintf(ctx->error, sizeof ctx->error, "out of host memory");
        return KERN_ENOMEM;
    }
    const struct kern_window *w = &shape->window;
    size_t in = shape->transposed ? shape->out_channels : shape->in_channels;
    size_t out = shape->transposed ? shape->in_channels : shape->out_channels;
    c->slab.w = kern_cu_window_of(w);
    c->slab.in_channels = in;
    c->slab.groups = shape->groups;
    c->slab.group = in / shape->groups;
    c->batch = shape->batch;
    c->out_channels = out;
    c->out_group = out / shape->groups;
    c->transposed = shape->transposed;
    c->width = c->slab.w.taps * c->slab.group;
    c->rows = shape->batch * c->slab.w.out_spots;
    c->step = KERN_CUDA_SLAB_BYTES / sizeof(float) / (c->width * shape->groups);
    c->step = c->step < 1 ? 1 : c->step > INT_MAX ? INT_MAX : c->step;
    c->depthwise = shape->groups > 1 && c->slab.group == 1;
    c->pointwise = shape->groups == 1 && c->slab.w.taps == 1;
    for (unsigned i = 0; i < w->spatial; i++) {
        c->pointwise = c->pointwise && w->stride[i] == 1 && w->pad[i] == 0 && w->in[i] == w->out[i];
    }
    if (c->width > INT_MAX || c->rows / shape->batch != c->slab.w.out_spots) {
        free(c);
        snprintf(ctx->error, sizeof ctx->error,
                 "a window of more than %d values is more than a matrix product takes", INT_MAX);
        return KERN_EARG;
    }
    *state_out = c;
    return KERN_OK;
}

void kern_cuda_conv_free(struct kern_ctx *ctx, void *state) {
    (void)ctx;
    free(state);
}

const char *kern_cuda_conv_how(const void *state) {
    const struct cuda_conv *c = state;
    return c->depthwise ? "depthwise" : c->pointwise ? "cublas" : "patches cublas";
}

/* The slab that begins at output spot `first`. */
static struct kern_cu_slab slab_at(const struct cuda_conv *c, size_t first) {
    struct kern_cu_slab s = c->slab;
    s.first = first;
    s.rows = c->rows - first < c->step ? c->rows - first : c->step;
    return s;
}

/* What its products take: floats where it is depthwise, and for the little that is a product then.
 */
static enum kern_products how_of(const struct kern_cuda *cuda, const struct cuda_conv *c) {
    return !c->depthwise && kern_cuda_narrows(cuda) ? cuda->products : KERN_EXACT;
}

/* The weights in the patches' order, as a product takes them, or zeros where there are none (floats
 * then, for their gradient); and room for a slab's patches: `taken` ones, or floats. */
static enum kern_status take(struct kern_cuda *cuda, const struct cuda_conv *c, const float *w,
                             bool taken, void **packed_out, void **patches_out) {
    enum kern_products how = how_of(cuda, c);
    size_t half = how == KERN_EXACT ? sizeof(float) : sizeof(uint16_t);
    size_t rows = c->rows < c->step ? c->rows : c->step;
    size_t weights = c->out_channels * c->width;
    size_t patches = c->pointwise ? 0 : c->slab.groups * rows * c->width;
    /* Patches begin where any type may. */
    size_t packed = (weights * (w == NULL ? sizeof(float) : half) + 255) / 256 * 256;
    void *all = NULL;
    enum kern_status st =
        kern_cuda_scratch(cuda, 1, packed + patches * (taken ? half : sizeof(float)), &all);
    if (st != KERN_OK) {
        return st;
    }
    *packed_out = all;
    *patches_out = (char *)all + packed;
    if (w == NULL) {
        return kern_cuda_check(cuda, cudaMemsetAsync(all, 0, weights * sizeof(float), cuda->stream),
                               "cudaMemsetAsync");
    }
    return LAUNCH(cuda, kern_cu_pack, all, w, c->out_channels, c->slab.group, c->slab.w.taps, how);
}

/* The slab's patches, made unless the image is them, which then is floats. */
static enum kern_status patches_of(struct kern_cuda *cuda, const struct cuda_conv *c,
                                   const struct kern_cu_slab *s, const float *x, void *room,
                                   const void **out) {
    *out = c->pointwise ? x + s->first * s->in_channels : room;
    return c->pointwise ? KERN_OK : LAUNCH(cuda, kern_cu_patches, room, x, s, how_of(cuda, c));
}

/* y[rows][out_channels] (of the slab) (+)= patches times packed, of every group. */
static enum kern_status forward(struct kern_cuda *cuda, const struct cuda_conv *c, float *y,
                                const float *x, const float *w, bool add) {
    void *packed = NULL, *room = NULL;
    const void *patches = NULL;
    if (c->depthwise) {
        struct kern_cu_slab all = c->slab;
        all.rows = c->rows;
        return LAUNCH(cuda, kern_cu_depthwise, y, x, w, &all, c->out_channels, add);
    }
    enum kern_status st = take(cuda, c, w, true, &packed, &room);
    for (size_t at = 0; at < c->rows && st == KERN_OK; at += c->step) {
        struct kern_cu_slab s = slab_at(c, at);
        st = patches_of(cuda, c, &s, x, room, &patches);
        const struct kern_cuda_product p = {.m = s.rows,
                                            .n = c->out_group,
                                            .k = c->width,
                                            .trans_b = true,
                                            .alpha = 1,
                                            .beta = add ? 1 : 0,
                                            .a = patches,
                                            .lda = c->width,
                                            .step_a = s.rows * c->width,
                                            .b = packed,
                                            .ldb = c->width,
                                            .step_b = c->out_group * c->width,
                                            .y = y + at * c->out_channels,
                                            .ldy = c->out_channels,
                                            .step_y = c->out_group,
                                            .count = s.groups,
                                            .narrow_a = !c->pointwise,
                                            .narrow_b = true};
        st = st != KERN_OK ? st : kern_cuda_multiply(cuda, &p);
    }
    return st;
}

/* dx (+)= what dy's patches, dy times packed, add up to. */
static enum kern_status grad_x(struct kern_cuda *cuda, const struct cuda_conv *c, float *dx,
                               const float *dy, const float *w, bool add) {
    void *packed = NULL, *room = NULL;
    if (c->depthwise) {
        return LAUNCH(cuda, kern_cu_depthwise_grad, dx, dy, w, &c->slab, c->batch, c->out_channels,
                      add);
    }
    enum kern_status st = take(cuda, c, w, false, &packed, &room);
    for (size_t at = 0; at < c->rows && st == KERN_OK; at += c->step) {
        struct kern_cu_slab s = slab_at(c, at);
        const struct kern_cuda_product p = {.m = s.rows,
                                            .n = c->width,
                                            .k = c->out_group,
                                            .alpha = 1,
                                            .beta = c->pointwise && add ? 1 : 0,
                                            .a = dy + at * c->out_channels,
                                            .lda = c->out_channels,
                                            .step_a = c->out_group,
                                            .b = packed,
                                            .ldb = c->width,
                                            .step_b = c->out_group * c->width,
                                            .y = c->pointwise ? dx + at * s.in_channels : room,
                                            .ldy = c->width,
                                            .step_y = s.rows * c->width,
                                            .count = s.groups,
                                            .narrow_b = true};
        st = kern_cuda_multiply(cuda, &p);
        if (st == KERN_OK && !c->pointwise) {
            st = LAUNCH(cuda, kern_cu_unpatch, dx, room, &s, add);
        }
    }
    return st;
}

/* dw += dy's columns times the patches, of every group. */
static enum kern_status grad_w(struct kern_cuda *cuda, const struct cuda_conv *c, float *dw,
                               const float *x, const float *dy) {
    void *packed = NULL, *room = NULL;
    const void *patches = NULL;
    enum kern_status st = take(cuda, c, NULL, true, &packed, &room);
    for (size_t at = 0; at < c->rows && st == KERN_OK; at += c->step) {
        struct kern_cu_slab s = slab_at(c, at);
        st = patches_of(cuda, c, &s, x, room, &patches);
        const struct kern_cuda_product p = {.m = c->out_group,
                                            .n = c->width,
                                            .k = s.rows,
                                            .trans_a = true,
                                            .alpha = 1,
                                            .beta = 1,
                                            .a = dy + at * c->out_channels,
                                            .lda = c->out_channels,
                                            .step_a = c->out_group,
                                            .b = patches,
                                            .ldb = c->width,
                                            .step_b = s.rows * c->width,
                                            .y = packed,
                                            .ldy = c->width,
                                            .step_y = c->out_group * c->width,
                                            .count = s.groups,
                                            .narrow_b = !c->pointwise,
                                            .exact = c->depthwise};
        st = st != KERN_OK ? st : kern_cuda_multiply(cuda, &p);
    }
    return st != KERN_OK ? st
                         : LAUNCH(cuda, kern_cu_unpack_add, dw, packed, c->out_channels,
                                  c->slab.group, c->slab.w.taps);
}

/* ---- plain and transposed -------------------------------------------------------------------- */

/* The rows and channels of what the convolution makes. */
static size_t y_rows(const struct cuda_conv *c) {
    return c->batch * (c->transposed ? c->slab.w.in_spots : c->slab.w.out_spots);
}

static size_t y_channels(const struct cuda_conv *c) {
    return c->transposed ? c->slab.in_channels : c->out_channels;
}

enum kern_status kern_cuda_conv_forward(struct kern_ctx *ctx, void *state, float *y, const float *x,
                                        const float *w, const float *b) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct cuda_conv *c = state;
    ENTER(cuda);
    enum kern_status st =
        c->transposed ? grad_x(cuda, c, y, x, w, false) : forward(cuda, c, y, x, w, false);
    return st != KERN_OK || b == NULL
               ? st
               : LAUNCH(cuda, kern_cu_bias_add, y, b, y_rows(c), y_channels(c));
}

enum kern_status kern_cuda_conv_grad_x(struct kern_ctx *ctx, void *state, float *dx,
                                       const float *dy, const float *w, bool add) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct cuda_conv *c = state;
    ENTER(cuda);
    return c->transposed ? forward(cuda, c, dx, dy, w, add) : grad_x(cuda, c, dx, dy, w, add);
}

enum kern_status kern_cuda_conv_grad_w(struct kern_ctx *ctx, void *state, float *dw, float *db,
                                       const float *x, const float *dy) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct cuda_conv *c = state;
    ENTER(cuda);
    enum kern_status st = c->transposed ? grad_w(cuda, c, dw, dy, x) : grad_w(cuda, c, dw, x, dy);
    const struct kern_nd nd = {.rank = 2, .dims = {y_rows(c), y_channels(c)}};
    return st != KERN_OK || db == NULL ? st : kern_cuda_reduce(cuda, db, dy, &nd, 1, 1, true);
}
