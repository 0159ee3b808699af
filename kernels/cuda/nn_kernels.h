/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launchers of the operations of kernels/nn.h, by the rules of kernels/cuda/kernels.h: each
 * enqueues and returns the launch's cudaError_t as an int, every geometry follows from the sizes
 * alone, and no kernel adds floats atomically. `part` and `terms` are scratch, of as many bytes as
 * the function beside the launcher says.
 */
#ifndef CONSILIUM_KERN_CUDA_NN_KERNELS_H
#define CONSILIUM_KERN_CUDA_NN_KERNELS_H

#include "kernels/nn.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- norm.cu --------------------------------------------------------------------------------- */

/* Sets of places with statistics of their own: sample n's spots of group g's channels. BatchNorm is
 * one sample whose groups are its channels. */
struct kern_cu_sets {
    size_t batch, spots, channels, groups;
    float epsilon;
    bool relu;
};
size_t kern_cu_norm_bytes(const struct kern_cu_sets *norm);
/* scale, bias, run_mean and run_var may be NULL. */
int kern_cu_norm(float *y, float *mean, float *inv_std, float *run_mean, float *run_var,
                 float momentum, const float *x, const float *scale, const float *bias,
                 const struct kern_cu_sets *norm, double *part, cudaStream_t stream);
int kern_cu_norm_apply(float *y, const float *x, const float *scale, const float *bias,
                       const float *mean, const float *var, const struct kern_cu_sets *norm,
                       cudaStream_t stream);
/* dx, dscale, dbias may be NULL; y where not relu. */
int kern_cu_norm_grad(float *dx, float *dscale, float *dbias, const float *dy, const float *x,
                      const float *y, const float *scale, const float *mean, const float *inv_std,
                      const struct kern_cu_sets *norm, double *part, cudaStream_t stream);

/* ---- window.cu and conv.cu ------------------------------------------------------------------- */

/* A window over three dimensions; absent ones come first, and are of size 1. */
struct kern_cu_window {
    int in[3], out[3], kernel[3], stride[3], dilation[3], pad[3];
    size_t in_spots, out_spots, taps;
};
struct kern_cu_window kern_cu_window_of(const struct kern_window *window);

int kern_cu_max_pool(float *y, int32_t *index, const float *x, size_t batch, size_t channels,
                     const struct kern_cu_window *window, cudaStream_t stream);
int kern_cu_max_pool_grad(float *dx, const float *dy, const int32_t *index, size_t batch,
                          size_t channels, const struct kern_cu_window *window, bool add,
                          cudaStream_t stream);
int kern_cu_mean_pool(float *y, const float *x, size_t batch, size_t channels,
                      const struct kern_cu_window *window, bool count_pad, cudaStream_t stream);
int kern_cu_mean_pool_grad(float *dx, const float *dy, size_t batch, size_t channels,
                           const struct kern_cu_window *window, bool count_pad, bool add,
                           cudaStream_t stream);

/* A plain convolution's slab: output spots [first, first + rows) of all samples' together, their
 * patches [groups][rows][taps][group], where group is in_channels / groups. */
struct kern_cu_slab {
    struct kern_cu_window w;
    size_t in_channels, group, groups, first, rows;
};
/* Here and below, halves instead of floats where `how` is KERN_BF16 or KERN_F16. */
int kern_cu_patches(void *patches, const float *x, const struct kern_cu_slab *slab,
                    enum kern_products how, cudaStream_t stream);
/* What the patches hold, added up at the inputs of the samples that the slab touches; dx is
 * overwritten where the slab is the first to touch the sample, unless `add`. */
int kern_cu_unpatch(float *dx, const float *patches, const struct kern_cu_slab *slab, bool add,
                    cudaStream_t stream);
/* A group of one input channel needs no patches: y[rows][out_channels] (+)= the convolution of the
 * slab's output spots, w[out_channels][taps] as it lies; and dx (+)= its gradient, of the whole. */
int kern_cu_depthwise(float *y, const float *x, const float *w, const struct kern_cu_slab *slab,
                      size_t out_channels, bool add, cudaStream_t stream);
int kern_cu_depthwise_grad(float *dx, const float *dy, const float *w,
                           const struct kern_cu_slab *slab, size_t batch, size_t out_channels,
                           bool add, cudaStream_t stream);
/* to[out][taps][group] = w[out][group][taps]; and dw += the way back. */
int kern_cu_pack(void *to, const float *w, size_t out, size_t group, size_t taps,
                 enum kern_products how, cudaStream_t stream);
int kern_cu_unpack_add(float *dw, const float *from, size_t out, size_t group, size_t taps,
                       cudaStream_t stream);

/* to[n] = x[n], rounded to the half precision that `how` says. */
int kern_cu_narrow(uint16_t *to, const float *x, size_t n, enum kern_products how,
                   cudaStream_t stream);

/* ---- unary.cu -------------------------------------------------------------------------------- */

int kern_cu_unary(enum kern_unary op, float *y, const float *x, size_t n, float alpha, float beta,
                  cudaStream_t stream);
int kern_cu_unary_grad(enum kern_unary op, float *dx, const float *dy, const float *x,
                       const float *y, size_t n, float alpha, float beta, cudaStream_t stream);
int kern_cu_log_softmax(float *y, const float *x, size_t rows, size_t cols, cudaStream_t stream);
int kern_cu_log_softmax_grad(float *dx, const float *dy, const float *y, size_t rows, size_t cols,
                             cudaStream_t stream);
/* The seed is xored with *turn where that is not NULL; and what puts it there. */
int kern_cu_dropout(float *y, const float *x, size_t n, float ratio, uint64_t seed,
                    const uint64_t *turn, cudaStream_t stream);
int kern_cu_put_turn(uint64_t *turn, uint64_t value, cudaStream_t stream);

/* ---- nd.cu ----------------------------------------------------------------------------------- */

/* Strides are host memory, addresses those of element 0, 0, ... */
int kern_cu_nd_copy(float *y, const ptrdiff_t *ys, const float *x, const ptrdiff_t *xs,
                    const struct kern_nd *nd, bool add, cudaStream_t stream);
int kern_cu_nd_binary(enum kern_binary op, float *y, const float *a, const ptrdiff_t *as,
                      const float *b, const ptrdiff_t *bs, const struct kern_nd *nd,
                      cudaStream_t stream);
size_t kern_cu_nd_reduce_bytes(const struct kern_nd *nd, unsigned axes);
int kern_cu_nd_reduce(float *y, const float *x, const struct kern_nd *nd, unsigned axes,
                      float scale, bool add, double *part, cudaStream_t stream);

/* ---- axis.cu --------------------------------------------------------------------------------- */

int kern_cu_gather(float *y, const float *x, const int32_t *index, size_t outer, size_t len,
                   size_t count, size_t inner, cudaStream_t stream);
int kern_cu_gather_grad(float *dx, const float *dy, const int32_t *index, size_t outer, size_t len,
                        size_t count, size_t inner, cudaStream_t stream);
int kern_cu_to_index(int32_t *index, const float *x, size_t n, cudaStream_t stream);
int kern_cu_axis_mix(float *y, const float *x, const int32_t *start, const int32_t *from,
                     const float *weight, size_t outer, size_t in, size_t out, size_t inner,
                     bool add, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
