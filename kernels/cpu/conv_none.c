/* SPDX-License-Identifier: Apache-2.0 */
/* Where there was no oneDNN at build time: every pass is our own. */
#include "kernels/cpu/conv.h"

struct conv_dnnl *kern_dnnl_conv_new(struct kern_ctx *ctx, const struct conv_plan *plan) {
    (void)ctx;
    (void)plan;
    return NULL;
}

void kern_dnnl_conv_free(struct conv_dnnl *conv) {
    (void)conv;
}

const char *kern_dnnl_conv_how(const struct conv_dnnl *conv, enum conv_pass pass) {
    (void)conv;
    (void)pass;
    return NULL;
}

enum kern_status kern_dnnl_conv_forward(struct kern_ctx *ctx, struct conv_dnnl *conv, float *y,
                                        const float *x, const float *w, const float *b) {
    (void)ctx, (void)conv, (void)y, (void)x, (void)w, (void)b;
    return KERN_ENODEV;
}

enum kern_status kern_dnnl_conv_grad_x(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dx,
                                       const float *dy, const float *w) {
    (void)ctx, (void)conv, (void)dx, (void)dy, (void)w;
    return KERN_ENODEV;
}

enum kern_status kern_dnnl_conv_grad_w(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dw,
                                       const float *x, const float *dy) {
    (void)ctx, (void)conv, (void)dw, (void)x, (void)dy;
    return KERN_ENODEV;
}
