/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the CPU backend's deep-network operations. Their files are compiled once for every
 * x86-64 and once for AVX2 (KERN_CPU_ISA), each time with names of their own; which table is used
 * is decided once, where the first device is opened. Both give the same bits: the compiler widens
 * loops, it reorders no sum and contracts nothing.
 *
 * Threads: as kernels/cpu/cpu.h says.
 */
#ifndef CONSILIUM_KERN_CPU_NN_H
#define CONSILIUM_KERN_CPU_NN_H

#include "kernels/cpu/cpu.h"
#include "kernels/nn_ops.h"

#include <stdio.h>

/* Filled by kern_cpu_nn_init, which is called once before the first use. */
extern struct kern_nn_ops kern_cpu_nn;
void kern_cpu_nn_init(void);
/* For tests: after the first device is open, the table that every machine can run. */
void kern_cpu_nn_use_base(void);
/* How the table was compiled: "base" or "avx2". */
const char *kern_cpu_nn_isa(void);

/* A convolution is oneDNN's where it was there at build time and has a real implementation of the
 * shape, else our own; see conv.c. */
enum kern_status kern_cpu_conv_new(struct kern_ctx *ctx, const struct kern_conv_shape *shape,
                                   void **state_out);
void kern_cpu_conv_free(struct kern_ctx *ctx, void *state);
const char *kern_cpu_conv_how(const void *state);
enum kern_status kern_cpu_conv_forward(struct kern_ctx *ctx, void *state, float *y, const float *x,
                                       const float *w, const float *b);
enum kern_status kern_cpu_conv_grad_x(struct kern_ctx *ctx, void *state, float *dx, const float *dy,
                                      const float *w, bool add);
enum kern_status kern_cpu_conv_grad_w(struct kern_ctx *ctx, void *state, float *dw, float *db,
                                      const float *x, const float *dy);
enum kern_status kern_cpu_gemm_batch(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                                     size_t m, size_t n, size_t k, bool trans_a, bool trans_b,
                                     float alpha, float beta, const struct kern_gemm_batch *batch);

/* Cuts [0, n) into parts that follow from n and unit (elements of each) alone. */
typedef void (*kern_cpu_range_fn)(const void *job, size_t begin, size_t end);
struct kern_cpu_ranges {
    kern_cpu_range_fn fn;
    const void *job;
    size_t n, parts;
};
static inline void kern_cpu_run_range(const void *arg, size_t task) {
    const struct kern_cpu_ranges *r = arg;
    r->fn(r->job, kern_cpu_part_begin(r->n, r->parts, task),
          kern_cpu_part_begin(r->n, r->parts, task + 1));
}
static inline enum kern_status kern_cpu_each(struct kern_ctx *ctx, kern_cpu_range_fn fn,
                                             const void *job, size_t n, size_t unit) {
    struct kern_cpu_ranges r = {fn, job, n, kern_cpu_parts(n, unit)};
    kern_pool_run(kern_cpu_pool(ctx), kern_cpu_run_range, &r, r.parts);
    return KERN_OK;
}
static inline enum kern_status kern_cpu_no_memory(struct kern_ctx *ctx, size_t bytes) {
    snprintf(ctx->error, sizeof ctx->error, "out of host memory for %zu bytes", bytes);
    return KERN_ENOMEM;
}

#ifdef KERN_CPU_ISA
#define KERN_CPU_JOIN2(isa, name) kern_cpu_##isa##_##name
#define KERN_CPU_JOIN(isa, name) KERN_CPU_JOIN2(isa, name)
#define NN(name) KERN_CPU_JOIN(KERN_CPU_ISA, name)

/* norm.c */
enum kern_status NN(batch_norm)(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                float *run_mean, float *run_var, const float *x, const float *scale,
                                const float *bias, const struct kern_batch_norm *norm);
enum kern_status NN(batch_norm_apply)(struct kern_ctx *ctx, float *y, const float *x,
                                      const float *scale, const float *bias, const float *mean,
                                      const float *var, const struct kern_batch_norm *norm);
enum kern_status NN(batch_norm_grad)(struct kern_ctx *ctx, float *dx, float *dscale, float *dbias,
                                     const float *dy, const float *x, const float *y,
                                     const float *scale, const float *mean, const float *inv_std,
                                     const struct kern_batch_norm *norm);
/* group_norm.c */
enum kern_status NN(group_norm)(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                const float *x, const float *scale, const float *bias,
                                const struct kern_group_norm *norm);
enum kern_status NN(group_norm_grad)(struct kern_ctx *ctx, float *dx, float *dscale, float *dbias,
                                     const float *dy, const float *x, const float *y,
                                     const float *scale, const float *mean, const float *inv_std,
                                     const struct kern_group_norm *norm);
/* window.c */
enum kern_status NN(max_pool)(struct kern_ctx *ctx, float *y, int32_t *index, const float *x,
                              size_t batch, size_t channels, const struct kern_window *window);
enum kern_status NN(max_pool_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                   const int32_t *index, size_t batch, size_t channels,
                                   const struct kern_window *window, bool add);
enum kern_status NN(mean_pool)(struct kern_ctx *ctx, float *y, const float *x, size_t batch,
                               size_t channels, const struct kern_window *window, bool count_pad);
enum kern_status NN(mean_pool_grad)(struct kern_ctx *ctx, float *dx, const float *dy, size_t batch,
                                    size_t channels, const struct kern_window *window,
                                    bool count_pad, bool add);
/* unary.c */
enum kern_status NN(unary)(struct kern_ctx *ctx, enum kern_unary op, float *y, const float *x,
                           size_t n, float alpha, float beta);
enum kern_status NN(unary_grad)(struct kern_ctx *ctx, enum kern_unary op, float *dx,
                                const float *dy, const float *x, const float *y, size_t n,
                                float alpha, float beta);
enum kern_status NN(log_softmax)(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                 size_t cols);
enum kern_status NN(log_softmax_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                      const float *y, size_t rows, size_t cols);
enum kern_status NN(dropout)(struct kern_ctx *ctx, float *y, const float *x, size_t n, float ratio,
                             uint64_t seed);
/* nd.c */
enum kern_status NN(nd_copy)(struct kern_ctx *ctx, float *y, const kern_strides ys, const float *x,
                             const kern_strides xs, const struct kern_nd *nd, bool add);
enum kern_status NN(nd_binary)(struct kern_ctx *ctx, enum kern_binary op, float *y, const float *a,
                               const kern_strides as, const float *b, const kern_strides bs,
                               const struct kern_nd *nd);
enum kern_status NN(nd_reduce)(struct kern_ctx *ctx, float *y, const float *x,
                               const struct kern_nd *nd, unsigned axes, float scale, bool add);
/* axis.c */
enum kern_status NN(gather)(struct kern_ctx *ctx, float *y, const float *x, const int32_t *index,
                            size_t outer, size_t len, size_t count, size_t inner);
enum kern_status NN(gather_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                 const int32_t *index, size_t outer, size_t len, size_t count,
                                 size_t inner);
enum kern_status NN(to_index)(struct kern_ctx *ctx, int32_t *index, const float *x, size_t n);
enum kern_status NN(axis_mix)(struct kern_ctx *ctx, float *y, const float *x, const int32_t *start,
                              const int32_t *from, const float *weight, size_t outer, size_t in,
                              size_t out, size_t inner, bool add);
#endif

#endif
