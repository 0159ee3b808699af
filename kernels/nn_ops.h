/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations of kernels/nn.h as a backend implements them: one table, which a backend may be
 * without. Everything is checked before an entry is called, as with kernels/backend.h; addresses
 * that nn.h lets be without a buffer may be NULL.
 *
 * Threads and ownership: those of kernels/backend.h. A convolution's state is made by conv_new and
 * belongs to its context.
 */
#ifndef CONSILIUM_KERN_NN_OPS_H
#define CONSILIUM_KERN_NN_OPS_H

#include "kernels/nn.h"

struct kern_ctx;

struct kern_nn_ops {
    enum kern_status (*conv_new)(struct kern_ctx *ctx, const struct kern_conv_shape *shape,
                                 void **state_out);
    void (*conv_free)(struct kern_ctx *ctx, void *state);
    const char *(*conv_how)(const void *state);
    enum kern_status (*conv_forward)(struct kern_ctx *ctx, void *state, float *y, const float *x,
                                     const float *w, const float *b);
    enum kern_status (*conv_grad_x)(struct kern_ctx *ctx, void *state, float *dx, const float *dy,
                                    const float *w, bool add);
    enum kern_status (*conv_grad_w)(struct kern_ctx *ctx, void *state, float *dw, float *db,
                                    const float *x, const float *dy);
    enum kern_status (*max_pool)(struct kern_ctx *ctx, float *y, int32_t *index, const float *x,
                                 size_t batch, size_t channels, const struct kern_window *window);
    enum kern_status (*max_pool_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                      const int32_t *index, size_t batch, size_t channels,
                                      const struct kern_window *window, bool add);
    enum kern_status (*mean_pool)(struct kern_ctx *ctx, float *y, const float *x, size_t batch,
                                  size_t channels, const struct kern_window *window,
                                  bool count_pad);
    enum kern_status (*mean_pool_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                       size_t batch, size_t channels,
                                       const struct kern_window *window, bool count_pad, bool add);
    enum kern_status (*batch_norm)(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                   float *run_mean, float *run_var, const float *x,
                                   const float *scale, const float *bias,
                                   const struct kern_batch_norm *norm);
    enum kern_status (*batch_norm_apply)(struct kern_ctx *ctx, float *y, const float *x,
                                         const float *scale, const float *bias, const float *mean,
                                         const float *var, const struct kern_batch_norm *norm);
    enum kern_status (*batch_norm_grad)(struct kern_ctx *ctx, float *dx, float *dscale,
                                        float *dbias, const float *dy, const float *x,
                                        const float *y, const float *scale, const float *mean,
                                        const float *inv_std, const struct kern_batch_norm *norm);
    enum kern_status (*group_norm)(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                   const float *x, const float *scale, const float *bias,
                                   const struct kern_group_norm *norm);
    enum kern_status (*group_norm_grad)(struct kern_ctx *ctx, float *dx, float *dscale,
                                        float *dbias, const float *dy, const float *x,
                                        const float *y, const float *scale, const float *mean,
                                        const float *inv_std, const struct kern_group_norm *norm);
    enum kern_status (*unary)(struct kern_ctx *ctx, enum kern_unary op, float *y, const float *x,
                              size_t n, float alpha, float beta);
    enum kern_status (*unary_grad)(struct kern_ctx *ctx, enum kern_unary op, float *dx,
                                   const float *dy, const float *x, const float *y, size_t n,
                                   float alpha, float beta);
    /* Strided operands: addresses are of element 0, 0, ... */
    enum kern_status (*nd_copy)(struct kern_ctx *ctx, float *y, const kern_strides ys,
                                const float *x, const kern_strides xs, const struct kern_nd *nd,
                                bool add);
    enum kern_status (*nd_binary)(struct kern_ctx *ctx, enum kern_binary op, float *y,
                                  const float *a, const kern_strides as, const float *b,
                                  const kern_strides bs, const struct kern_nd *nd);
    enum kern_status (*nd_reduce)(struct kern_ctx *ctx, float *y, const float *x,
                                  const struct kern_nd *nd, unsigned axes, float scale, bool add);
    enum kern_status (*gather)(struct kern_ctx *ctx, float *y, const float *x, const int32_t *index,
                               size_t outer, size_t len, size_t count, size_t inner);
    enum kern_status (*gather_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                    const int32_t *index, size_t outer, size_t len, size_t count,
                                    size_t inner);
    enum kern_status (*to_index)(struct kern_ctx *ctx, int32_t *index, const float *x, size_t n);
    enum kern_status (*axis_mix)(struct kern_ctx *ctx, float *y, const float *x,
                                 const int32_t *start, const int32_t *from, const float *weight,
                                 size_t outer, size_t in, size_t out, size_t inner, bool add);
    enum kern_status (*log_softmax)(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                    size_t cols);
    enum kern_status (*log_softmax_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                         const float *y, size_t rows, size_t cols);
    enum kern_status (*dropout)(struct kern_ctx *ctx, float *y, const float *x, size_t n,
                                float ratio, uint64_t seed);
    enum kern_status (*gemm_batch)(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                                   size_t m, size_t n, size_t k, bool trans_a, bool trans_b,
                                   float alpha, float beta, const struct kern_gemm_batch *batch);
};

#endif
