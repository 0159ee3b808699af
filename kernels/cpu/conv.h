/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions on the CPU. A plain one (never transposed) has three passes, each computed by
 * oneDNN where that has a real implementation for the shape, and by our own patches and matrix
 * products where it has not; conv.c chooses, and makes transposed ones of plain ones.
 *
 * Threads: those of the context.
 */
#ifndef CONSILIUM_KERN_CPU_CONV_H
#define CONSILIUM_KERN_CPU_CONV_H

#include "kernels/cpu/nn.h"

/*
 * A plain convolution, with what is often needed of it. Taps at the kernel's edges that see nothing
 * but padding (all but one of a 3x3 kernel over images of one spot) are left out of the window; the
 * weights have them, and their gradient is 0.
 */
struct conv_plan {
    struct kern_conv_shape s;
    size_t taps, in_spots, out_spots; /* of the window, of an image */
    size_t in_group, out_group;       /* channels a group */
    /* Of the weights: all taps, and where in them the window's begin. */
    size_t whole_taps, whole_kernel[KERN_SPATIAL_MAX], first_tap[KERN_SPATIAL_MAX];
};

/* Overwrites y; b may be NULL. */
enum kern_status kern_own_conv_forward(struct kern_ctx *ctx, const struct conv_plan *plan, float *y,
                                       const float *x, const float *w, const float *b);
/* dx (+)= . */
enum kern_status kern_own_conv_grad_x(struct kern_ctx *ctx, const struct conv_plan *plan, float *dx,
                                      const float *dy, const float *w, bool add);
/* dw += . */
enum kern_status kern_own_conv_grad_w(struct kern_ctx *ctx, const struct conv_plan *plan, float *dw,
                                      const float *x, const float *dy);

/* oneDNN's three passes of one shape; conv_dnnl.c, or conv_none.c where there is no oneDNN. */
struct conv_dnnl;
enum conv_pass { CONV_FORWARD, CONV_GRAD_X, CONV_GRAD_W, CONV_PASSES };
/* NULL where oneDNN has nothing for this shape, or there is no memory. */
struct conv_dnnl *kern_dnnl_conv_new(struct kern_ctx *ctx, const struct conv_plan *plan);
void kern_dnnl_conv_free(struct conv_dnnl *conv);
/* The implementation's name, or NULL where the pass is better left to our own. */
const char *kern_dnnl_conv_how(const struct conv_dnnl *conv, enum conv_pass pass);
enum kern_status kern_dnnl_conv_forward(struct kern_ctx *ctx, struct conv_dnnl *conv, float *y,
                                        const float *x, const float *w, const float *b);
/* Overwrites dx. */
enum kern_status kern_dnnl_conv_grad_x(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dx,
                                       const float *dy, const float *w);
/* dw += . */
enum kern_status kern_dnnl_conv_grad_w(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dw,
                                       const float *x, const float *dy);

/* The context's scratch of at least that many floats, valid until the next call; NULL without
 * memory. Seven of them, for what is needed at once: 0 conv.c's, 1, 2, 5 and 6 its
 * implementations', 3 and 4 what products take (taken.c). */
float *kern_cpu_scratch(struct kern_ctx *ctx, unsigned which, size_t floats);

#endif
