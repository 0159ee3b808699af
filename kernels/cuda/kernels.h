/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launchers: what the host side of the CUDA backend (cuda_backend.c, plain C) calls in the .cu
 * files. Each enqueues on `stream` and returns the launch's cudaError_t as an int; none waits.
 * Addresses are device addresses, checked by the dispatch. Every launch geometry follows from the
 * sizes alone, and no kernel adds floats atomically, so results are the same at every run.
 */
#ifndef CONSILIUM_KERN_CUDA_KERNELS_H
#define CONSILIUM_KERN_CUDA_KERNELS_H

#include "kernels/kern.h"
#include "kernels/optim.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Floats of scratch a reduction may use: one partial sum for each of its blocks. */
#define KERN_CUDA_PARTS 1024

int kern_cu_bias_add(float *y, const float *bias, size_t rows, size_t cols, cudaStream_t stream);
int kern_cu_add(float *y, const float *a, const float *b, size_t n, cudaStream_t stream);
/* y[i] *= alpha */
int kern_cu_scale(float *y, size_t n, float alpha, cudaStream_t stream);
int kern_cu_relu(float *y, const float *x, size_t n, cudaStream_t stream);
int kern_cu_relu_grad(float *dx, const float *dy, const float *y, size_t n, cudaStream_t stream);
int kern_cu_sigmoid(float *y, const float *x, size_t n, cudaStream_t stream);
int kern_cu_sigmoid_grad(float *dx, const float *dy, const float *y, size_t n, cudaStream_t stream);
int kern_cu_standardise(float *x, const float *mean, const float *inv_std, size_t rows, size_t cols,
                        cudaStream_t stream);
int kern_cu_gather_rows(float *y, const float *x, const int32_t *index, size_t rows, size_t cols,
                        size_t x_rows, cudaStream_t stream);

int kern_cu_bias_grad(float *dbias, const float *dy, size_t rows, size_t cols, cudaStream_t stream);
int kern_cu_softmax(float *y, const float *x, size_t rows, size_t cols, cudaStream_t stream);
int kern_cu_softmax_grad(float *dx, const float *dy, const float *y, size_t rows, size_t cols,
                         cudaStream_t stream);
/* parts is float[KERN_CUDA_PARTS] of scratch. */
int kern_cu_bce_logits(float *loss, float *dz, const float *z, const float *t, size_t n,
                       float *parts, cudaStream_t stream);
int kern_cu_softmax_ce(float *loss, float *dz, const float *z, const int32_t *label, size_t rows,
                       size_t cols, float *parts, cudaStream_t stream);

/* scratch is of kern_cu_loss_bytes; weight may be NULL. */
size_t kern_cu_loss_bytes(const struct kern_loss_spec *spec);
int kern_cu_loss(float *loss, float *dz, const float *z, const void *target, const float *weight,
                 const struct kern_loss_spec *spec, float *scratch, cudaStream_t stream);

int kern_cu_prox_grad(float *g, const float *w, const float *w0, size_t n, float mu,
                      cudaStream_t stream);
int kern_cu_stiff_grad(float *g, const float *w, const float *c, const float *a, size_t n, float mu,
                       cudaStream_t stream);
int kern_cu_add_square(float *y, const float *x, size_t n, cudaStream_t stream);
int kern_cu_axpby(float *y, const float *x, size_t n, float alpha, float beta, cudaStream_t stream);
int kern_cu_square_sum(float *sum, const float *x, size_t n, float *parts, cudaStream_t stream);
int kern_cu_clip_norm(float *g, const float *squares, size_t n, float max_norm,
                      cudaStream_t stream);
int kern_cu_clip_value(float *g, size_t n, float most, cudaStream_t stream);
int kern_cu_sgd_step(float *w, const float *g, float *v, size_t n, const struct kern_sgd *opt,
                     cudaStream_t stream);
int kern_cu_adam_step(float *w, const float *g, float *m, float *v, size_t n,
                      const struct kern_adam *opt, cudaStream_t stream);

int kern_cu_fold_f32(int64_t *acc, const float *x, uint64_t *refused, size_t n, int frac_bits,
                     uint32_t w, cudaStream_t stream);
/* acc[i] += part[i] */
int kern_cu_add_i64(int64_t *acc, const int64_t *part, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
