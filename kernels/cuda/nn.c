/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host side of the operations of kernels/nn.h: each takes the scratch it needs and calls one
 * launcher. Products, single and many, go to cuBLAS from here.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/nn_kernels.h"

/* An operand as cuBLAS is told of it. */
struct operand {
    const char *p;
    cudaDataType_t type;
    size_t bytes; /* of an element */
};

/* `count` matrices of rows x cols as stored, narrowed into scratch `which` unless they are. */
static enum kern_status take(struct kern_cuda *cuda, const struct kern_cuda_product *p,
                             const void *x, size_t rows, size_t cols, size_t ld, size_t step,
                             bool narrow, unsigned which, struct operand *out) {
    *out = (struct operand){x, CUDA_R_32F, sizeof(float)};
    if (p->exact || !kern_cuda_narrows(cuda)) {
        return KERN_OK;
    }
    out->type = cuda->products == KERN_BF16 ? CUDA_R_16BF : CUDA_R_16F;
    out->bytes = sizeof(uint16_t);
    if (narrow) {
        return KERN_OK;
    }
    size_t n = (p->count - 1) * step + (rows - 1) * ld + cols;
    void *to = NULL;
    enum kern_status st = kern_cuda_scratch(cuda, which, n * sizeof(uint16_t), &to);
    out->p = to;
    return st != KERN_OK ? st : LAUNCH(cuda, kern_cu_narrow, to, x, n, cuda->products);
}

static enum kern_status multiply_one(struct kern_cuda *cuda, const struct kern_cuda_product *p,
                                     const struct operand *a, const struct operand *b) {
    cublasOperation_t op_a = p->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_b = p->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    int lda = (int)p->lda, ldb = (int)p->ldb, ldy = (int)p->ldy;
    if (a->type == CUDA_R_32F) {
        return kern_cuda_check_blas(cuda,
                                    cublasSgemm(cuda->blas, op_b, op_a, n, m, k, &p->alpha,
                                                (const float *)b->p, ldb, (const float *)a->p, lda,
                                                &p->beta, p->y, ldy),
                                    "cublasSgemm");
    }
    return kern_cuda_check_blas(
        cuda,
        cublasGemmEx(cuda->blas, op_b, op_a, n, m, k, &p->alpha, b->p, b->type, ldb, a->p, a->type,
                     lda, &p->beta, p->y, CUDA_R_32F, ldy, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

/* Products [at, at + some). */
static enum kern_status multiply_some(struct kern_cuda *cuda, const struct kern_cuda_product *p,
                                      const struct operand *a, const struct operand *b, size_t at,
                                      int some) {
    cublasOperation_t op_a = p->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_b = p->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    int m = (int)p->m, n = (int)p->n, k = (int)p->k;
    int lda = (int)p->lda, ldb = (int)p->ldb, ldy = (int)p->ldy;
    long long step_a = (long long)p->step_a, step_b = (long long)p->step_b;
    long long step_y = (long long)p->step_y;
    const void *pa = a->p + at * p->step_a * a->bytes, *pb = b->p + at * p->step_b * b->bytes;
    float *y = p->y + at * p->step_y;
    if (a->type == CUDA_R_32F) {
        return kern_cuda_check_blas(
            cuda,
            cublasSgemmStridedBatched(cuda->blas, op_b, op_a, n, m, k, &p->alpha, pb, ldb, step_b,
                                      pa, lda, step_a, &p->beta, y, ldy, step_y, some),
            "cublasSgemmStridedBatched");
    }
    return kern_cuda_check_blas(
        cuda,
        cublasGemmStridedBatchedEx(cuda->blas, op_b, op_a, n, m, k, &p->alpha, pb, b->type, ldb,
                                   step_b, pa, a->type, lda, step_a, &p->beta, y, CUDA_R_32F, ldy,
                                   step_y, some, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
}

/* cuBLAS counts by columns: our row-major y is its y transposed, so the operands change places. */
enum kern_status kern_cuda_multiply(struct kern_cuda *cuda, const struct kern_cuda_product *p) {
    struct operand a, b;
    enum kern_status st = take(cuda, p, p->a, p->trans_a ? p->k : p->m, p->trans_a ? p->m : p->k,
                               p->lda, p->step_a, p->narrow_a, 2, &a);
    if (st == KERN_OK) {
        st = take(cuda, p, p->b, p->trans_b ? p->n : p->k, p->trans_b ? p->k : p->n, p->ldb,
                  p->step_b, p->narrow_b, 3, &b);
    }
    if (st != KERN_OK || p->count == 1) {
        return st != KERN_OK ? st : multiply_one(cuda, p, &a, &b);
    }
    for (size_t at = 0, some; at < p->count && st == KERN_OK; at += some) {
        some = p->count - at < 65535 ? p->count - at : 65535; /* one grid's z */
        st = multiply_some(cuda, p, &a, &b, at, (int)some);
    }
    return st;
}

static enum kern_status gemm_batch(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                                   size_t m, size_t n, size_t k, bool trans_a, bool trans_b,
                                   float alpha, float beta, const struct kern_gemm_batch *batch) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cuda_product p = {.m = m,
                                        .n = n,
                                        .k = k,
                                        .trans_a = trans_a,
                                        .trans_b = trans_b,
                                        .alpha = alpha,
                                        .beta = beta,
                                        .a = a,
                                        .b = b,
                                        .y = y,
                                        .lda = trans_a ? m : k,
                                        .ldb = trans_b ? k : n,
                                        .ldy = n,
                                        .step_a = batch->step_a,
                                        .step_b = batch->step_b,
                                        .step_y = batch->step_y,
                                        .count = batch->count};
    ENTER(cuda);
    return kern_cuda_multiply(cuda, &p);
}

/* ---- windows --------------------------------------------------------------------------------- */

static enum kern_status max_pool(struct kern_ctx *ctx, float *y, int32_t *index, const float *x,
                                 size_t batch, size_t channels, const struct kern_window *window) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cu_window q = kern_cu_window_of(window);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_max_pool, y, index, x, batch, channels, &q);
}

static enum kern_status max_pool_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                      const int32_t *index, size_t batch, size_t channels,
                                      const struct kern_window *window, bool add) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cu_window q = kern_cu_window_of(window);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_max_pool_grad, dx, dy, index, batch, channels, &q, add);
}

static enum kern_status mean_pool(struct kern_ctx *ctx, float *y, const float *x, size_t batch,
                                  size_t channels, const struct kern_window *window,
                                  bool count_pad) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cu_window q = kern_cu_window_of(window);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_mean_pool, y, x, batch, channels, &q, count_pad);
}

static enum kern_status mean_pool_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                       size_t batch, size_t channels,
                                       const struct kern_window *window, bool count_pad, bool add) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cu_window q = kern_cu_window_of(window);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_mean_pool_grad, dx, dy, batch, channels, &q, count_pad, add);
}

/* ---- normalisation --------------------------------------------------------------------------- */

static struct kern_cu_sets of_batch(const struct kern_batch_norm *norm) {
    return (struct kern_cu_sets){
        1, norm->rows, norm->channels, norm->channels, norm->epsilon, norm->relu};
}

static struct kern_cu_sets of_groups(const struct kern_group_norm *norm) {
    return (struct kern_cu_sets){norm->batch,  norm->spots,   norm->channels,
                                 norm->groups, norm->epsilon, norm->relu};
}

static enum kern_status batch_norm(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                   float *run_mean, float *run_var, const float *x,
                                   const float *scale, const float *bias,
                                   const struct kern_batch_norm *norm) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cu_sets q = of_batch(norm);
    void *part = NULL;
    ENTER(cuda);
    enum kern_status st = kern_cuda_scratch(cuda, 0, kern_cu_norm_bytes(&q), &part);
    return st != KERN_OK ? st
                         : LAUNCH(cuda, kern_cu_norm, y, mean, inv_std, run_mean, run_var,
                                  norm->momentum, x, scale, bias, &q, part);
}

static enum kern_status batch_norm_apply(struct kern_ctx *ctx, float *y, const float *x,
                                         const float *scale, const float *bias, const float *mean,
                                         const float *var, const struct kern_batch_norm *norm) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cu_sets q = of_batch(norm);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_norm_apply, y, x, scale, bias, mean, var, &q);
}

static enum kern_status norm_grad(struct kern_ctx *ctx, float *dx, float *dscale, float *dbias,
                                  const float *dy, const float *x, const float *y,
                                  const float *scale, const float *mean, const float *inv_std,
                                  const struct kern_cu_sets *q) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    void *part = NULL;
    ENTER(cuda);
    enum kern_status st = kern_cuda_scratch(cuda, 0, kern_cu_norm_bytes(q), &part);
    return st != KERN_OK ? st
                         : LAUNCH(cuda, kern_cu_norm_grad, dx, dscale, dbias, dy, x, y, scale, mean,
                                  inv_std, q, part);
}

static enum kern_status batch_norm_grad(struct kern_ctx *ctx, float *dx, float *dscale,
                                        float *dbias, const float *dy, const float *x,
                                        const float *y, const float *scale, const float *mean,
                                        const float *inv_std, const struct kern_batch_norm *norm) {
    const struct kern_cu_sets q = of_batch(norm);
    return norm_grad(ctx, dx, dscale, dbias, dy, x, y, scale, mean, inv_std, &q);
}

static enum kern_status group_norm(struct kern_ctx *ctx, float *y, float *mean, float *inv_std,
                                   const float *x, const float *scale, const float *bias,
                                   const struct kern_group_norm *norm) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    const struct kern_cu_sets q = of_groups(norm);
    void *part = NULL;
    ENTER(cuda);
    enum kern_status st = kern_cuda_scratch(cuda, 0, kern_cu_norm_bytes(&q), &part);
    return st != KERN_OK ? st
                         : LAUNCH(cuda, kern_cu_norm, y, mean, inv_std, NULL, NULL, 0, x, scale,
                                  bias, &q, part);
}

static enum kern_status group_norm_grad(struct kern_ctx *ctx, float *dx, float *dscale,
                                        float *dbias, const float *dy, const float *x,
                                        const float *y, const float *scale, const float *mean,
                                        const float *inv_std, const struct kern_group_norm *norm) {
    const struct kern_cu_sets q = of_groups(norm);
    return norm_grad(ctx, dx, dscale, dbias, dy, x, y, scale, mean, inv_std, &q);
}

/* ---- element by element ---------------------------------------------------------------------- */

static enum kern_status unary(struct kern_ctx *ctx, enum kern_unary op, float *y, const float *x,
                              size_t n, float alpha, float beta) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_unary, op, y, x, n, alpha, beta);
}

static enum kern_status unary_grad(struct kern_ctx *ctx, enum kern_unary op, float *dx,
                                   const float *dy, const float *x, const float *y, size_t n,
                                   float alpha, float beta) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_unary_grad, op, dx, dy, x, y, n, alpha, beta);
}

static enum kern_status nd_copy(struct kern_ctx *ctx, float *y, const kern_strides ys,
                                const float *x, const kern_strides xs, const struct kern_nd *nd,
                                bool add) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_nd_copy, y, ys, x, xs, nd, add);
}

static enum kern_status nd_binary(struct kern_ctx *ctx, enum kern_binary op, float *y,
                                  const float *a, const kern_strides as, const float *b,
                                  const kern_strides bs, const struct kern_nd *nd) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_nd_binary, op, y, a, as, b, bs, nd);
}

enum kern_status kern_cuda_reduce(struct kern_cuda *cuda, float *y, const float *x,
                                  const struct kern_nd *nd, unsigned axes, float scale, bool add) {
    void *part = NULL;
    enum kern_status st = kern_cuda_scratch(cuda, 0, kern_cu_nd_reduce_bytes(nd, axes), &part);
    return st != KERN_OK ? st : LAUNCH(cuda, kern_cu_nd_reduce, y, x, nd, axes, scale, add, part);
}

static enum kern_status nd_reduce(struct kern_ctx *ctx, float *y, const float *x,
                                  const struct kern_nd *nd, unsigned axes, float scale, bool add) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return kern_cuda_reduce(cuda, y, x, nd, axes, scale, add);
}

/* ---- along one axis -------------------------------------------------------------------------- */

static enum kern_status gather(struct kern_ctx *ctx, float *y, const float *x, const int32_t *index,
                               size_t outer, size_t len, size_t count, size_t inner) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_gather, y, x, index, outer, len, count, inner);
}

static enum kern_status gather_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                    const int32_t *index, size_t outer, size_t len, size_t count,
                                    size_t inner) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_gather_grad, dx, dy, index, outer, len, count, inner);
}

static enum kern_status to_index(struct kern_ctx *ctx, int32_t *index, const float *x, size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_to_index, index, x, n);
}

static enum kern_status axis_mix(struct kern_ctx *ctx, float *y, const float *x,
                                 const int32_t *start, const int32_t *from, const float *weight,
                                 size_t outer, size_t in, size_t out, size_t inner, bool add) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_axis_mix, y, x, start, from, weight, outer, in, out, inner, add);
}

static enum kern_status log_softmax(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                    size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_log_softmax, y, x, rows, cols);
}

static enum kern_status log_softmax_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                         const float *y, size_t rows, size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_log_softmax_grad, dx, dy, y, rows, cols);
}

static enum kern_status dropout(struct kern_ctx *ctx, float *y, const float *x, size_t n,
                                float ratio, uint64_t seed) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    cuda->drew = true;
    return LAUNCH(cuda, kern_cu_dropout, y, x, n, ratio, seed, cuda->recording ? cuda->turn : NULL);
}

const struct kern_nn_ops kern_cuda_nn = {
    .conv_new = kern_cuda_conv_new,
    .conv_free = kern_cuda_conv_free,
    .conv_how = kern_cuda_conv_how,
    .conv_forward = kern_cuda_conv_forward,
    .conv_grad_x = kern_cuda_conv_grad_x,
    .conv_grad_w = kern_cuda_conv_grad_w,
    .max_pool = max_pool,
    .max_pool_grad = max_pool_grad,
    .mean_pool = mean_pool,
    .mean_pool_grad = mean_pool_grad,
    .batch_norm = batch_norm,
    .batch_norm_apply = batch_norm_apply,
    .batch_norm_grad = batch_norm_grad,
    .group_norm = group_norm,
    .group_norm_grad = group_norm_grad,
    .unary = unary,
    .unary_grad = unary_grad,
    .nd_copy = nd_copy,
    .nd_binary = nd_binary,
    .nd_reduce = nd_reduce,
    .gather = gather,
    .gather_grad = gather_grad,
    .to_index = to_index,
    .axis_mix = axis_mix,
    .log_softmax = log_softmax,
    .log_softmax_grad = log_softmax_grad,
    .dropout = dropout,
    .gemm_batch = gemm_batch,
};
