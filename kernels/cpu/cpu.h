/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU backend's inside: its context, how work is cut, and one function per operation. Work is
 * cut at places that follow from the sizes alone, and partial sums are added in the order of the
 * cuts, so that one thread and sixty-four give the same bits.
 *
 * Threads: as backend.h says; everything here runs to its end before it returns.
 */
#ifndef CONSILIUM_KERN_CPU_H
#define CONSILIUM_KERN_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/pool.h"

struct kern_cpu {
    struct kern_ctx base;
    struct kern_pool *pool;
    enum kern_products products;
    float *scratch[7]; /* conv.c's, grown as needed */
    size_t scratch_floats[7];
};

static inline struct kern_pool *kern_cpu_pool(struct kern_ctx *ctx) {
    return ((struct kern_cpu *)ctx)->pool;
}

/* Elements a task takes at the least: below it a second thread costs more than it saves. */
#define KERN_CPU_GRAIN 16384
/* Partial sums of a reduction at the most. */
#define KERN_CPU_PARTS 64

/* Number of parts that n units of `unit` elements each are cut into, and where part i begins. */
size_t kern_cpu_parts(size_t n, size_t unit);
static inline size_t kern_cpu_part_begin(size_t n, size_t parts, size_t i) {
    return n / parts * i + (i < n % parts ? i : n % parts);
}

/*
 * y[m x n] = alpha * op(a) * op(b) + beta * y on the calling thread alone; lda, ldb, ldy are the
 * row strides of the stored matrices. y is not read where beta is 0. One of gemm_openblas.c and
 * gemm_own.c is linked.
 */
void kern_cpu_sgemm(size_t m, size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                    const float *a, size_t lda, const float *b, size_t ldb, float beta, float *y,
                    size_t ldy);
/*
 * x[n] as a product takes it where products are rounded to a half precision: rounded, in float32
 * again, in scratch `which` (0 or 1) of the two there are for it; x itself where they are not. NULL
 * without memory.
 */
const float *kern_cpu_taken(struct kern_ctx *ctx, unsigned which, const float *x, size_t n);

/* kern_gemm of what is taken already: on all threads, and nothing is rounded. */
void kern_cpu_multiply(struct kern_ctx *ctx, float *y, const float *a, const float *b, size_t m,
                       size_t n, size_t k, bool trans_a, bool trans_b, float alpha, float beta);
/* Called once, before the first kern_cpu_sgemm. */
void kern_cpu_sgemm_init(void);

enum kern_status kern_cpu_gemm(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                               size_t m, size_t n, size_t k, bool trans_a, bool trans_b,
                               float alpha, float beta);
enum kern_status kern_cpu_bias_add(struct kern_ctx *ctx, float *y, const float *bias, size_t rows,
                                   size_t cols);
enum kern_status kern_cpu_bias_grad(struct kern_ctx *ctx, float *dbias, const float *dy,
                                    size_t rows, size_t cols);
enum kern_status kern_cpu_add(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                              size_t n);
enum kern_status kern_cpu_scale(struct kern_ctx *ctx, float *y, size_t n, float alpha);
enum kern_status kern_cpu_relu(struct kern_ctx *ctx, float *y, const float *x, size_t n);
enum kern_status kern_cpu_relu_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                    const float *y, size_t n);
enum kern_status kern_cpu_sigmoid(struct kern_ctx *ctx, float *y, const float *x, size_t n);
enum kern_status kern_cpu_sigmoid_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                       const float *y, size_t n);
enum kern_status kern_cpu_softmax(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                  size_t cols);
enum kern_status kern_cpu_softmax_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                       const float *y, size_t rows, size_t cols);
enum kern_status kern_cpu_bce_logits(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                     const float *t, size_t n);
enum kern_status kern_cpu_softmax_ce(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                     const int32_t *label, size_t rows, size_t cols);
enum kern_status kern_cpu_loss(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                               const void *target, const float *weight,
                               const struct kern_loss_spec *spec);
enum kern_status kern_cpu_prox_grad(struct kern_ctx *ctx, float *g, const float *w, const float *w0,
                                    size_t n, float mu);
enum kern_status kern_cpu_stiff_grad(struct kern_ctx *ctx, float *g, const float *w, const float *c,
                                     const float *a, size_t n, float mu);
enum kern_status kern_cpu_add_square(struct kern_ctx *ctx, float *y, const float *x, size_t n);
enum kern_status kern_cpu_axpby(struct kern_ctx *ctx, float *y, const float *x, size_t n,
                                float alpha, float beta);
enum kern_status kern_cpu_square_sum(struct kern_ctx *ctx, float *sum, const float *x, size_t n);
enum kern_status kern_cpu_clip_norm(struct kern_ctx *ctx, float *g, const float *squares, size_t n,
                                    float max_norm);
enum kern_status kern_cpu_clip_value(struct kern_ctx *ctx, float *g, size_t n, float most);
enum kern_status kern_cpu_sgd_step(struct kern_ctx *ctx, float *w, const float *g, float *v,
                                   size_t n, const struct kern_sgd *opt);
enum kern_status kern_cpu_adam_step(struct kern_ctx *ctx, float *w, const float *g, float *m,
                                    float *v, size_t n, const struct kern_adam *opt);
enum kern_status kern_cpu_standardise(struct kern_ctx *ctx, float *x, const float *mean,
                                      const float *inv_std, size_t rows, size_t cols);
enum kern_status kern_cpu_gather_rows(struct kern_ctx *ctx, float *y, const float *x,
                                      const int32_t *index, size_t rows, size_t cols,
                                      size_t x_rows);

#endif
