/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host side of the CUDA backend: one context is one GPU, a stream that computes and one that
 * copies (memory.c), one cuBLAS handle. Work is enqueued in order; only download, upload (whose
 * source is the caller's) and sync wait. Unless something else is allowed cuBLAS runs in its
 * pedantic mode: plain float32, no TF32, so results differ from the CPU's by rounding only.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/kernels.h"

#include <stdio.h>
#include <stdlib.h>

/* Turing, the oldest the plugin is compiled for. */
#define CAPABILITY_MIN 75
#define CAPABILITY_BF16 80

/* The status of a CUDA call; decides the error's words. */
static enum kern_status told(char *why, size_t why_bytes, cudaError_t err, const char *call) {
    if (err == cudaSuccess) {
        return KERN_OK;
    }
    (void)cudaGetLastError(); /* or the next launch would report this one again */
    snprintf(why, why_bytes, "%s: %.140s (%.60s)", call, cudaGetErrorString(err),
             cudaGetErrorName(err));
    return err == cudaErrorMemoryAllocation ? KERN_ENOMEM : KERN_EDEVICE;
}

/* What fails while the stream is captured was not done: the capture ends, the device lives on. */
static enum kern_status outlived(const struct kern_cuda *cuda, enum kern_status st) {
    return st != KERN_OK && cuda->recording ? KERN_EARG : st;
}

enum kern_status kern_cuda_check(struct kern_cuda *cuda, cudaError_t err, const char *call) {
    return outlived(cuda, told(cuda->base.error, sizeof cuda->base.error, err, call));
}

enum kern_status kern_cuda_check_blas(struct kern_cuda *cuda, cublasStatus_t st, const char *call) {
    if (st == CUBLAS_STATUS_SUCCESS) {
        return KERN_OK;
    }
    snprintf(cuda->base.error, sizeof cuda->base.error, "%s: %.140s", call,
             cublasGetStatusString(st));
    return outlived(cuda, st == CUBLAS_STATUS_ALLOC_FAILED ? KERN_ENOMEM : KERN_EDEVICE);
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static enum kern_status probe(int *count_out, char *why, size_t why_bytes) {
    int count = 0;
    cudaError_t err = cudaGetDeviceCount(&count);
    if (err != cudaSuccess || count < 1) {
        (void)told(why, why_bytes, err != cudaSuccess ? err : cudaErrorNoDevice,
                   "cudaGetDeviceCount");
        return KERN_ENODEV;
    }
    *count_out = count;
    return KERN_OK;
}

static enum kern_status describe(struct kern_cuda *cuda) {
    struct cudaDeviceProp prop;
    CUDA_TRY(cuda, cudaGetDeviceProperties(&prop, cuda->device), "cudaGetDeviceProperties");
    cuda->capability = prop.major * 10 + prop.minor;
    if (cuda->capability < CAPABILITY_MIN) {
        snprintf(cuda->base.error, sizeof cuda->base.error,
                 "%.100s has compute capability %d.%d; 7.5 (Turing) or later is needed", prop.name,
                 prop.major, prop.minor);
        return KERN_ENODEV;
    }
    snprintf(cuda->base.name, sizeof cuda->base.name, "cuda:%d %.200s", cuda->device, prop.name);
    return KERN_OK;
}

/* Pedantic: float32 all through, and one way to sum. TF32 is deterministic too, on one stream; so
 * are halves, whose products are asked for by their types and need the default mode, in which
 * floats are multiplied as floats. */
static enum kern_status products(struct kern_ctx *ctx, enum kern_products allowed) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    cublasMath_t mode = allowed == KERN_TF32    ? CUBLAS_TF32_TENSOR_OP_MATH
                        : allowed == KERN_EXACT ? CUBLAS_PEDANTIC_MATH
                                                : CUBLAS_DEFAULT_MATH;
    if (allowed == KERN_BF16 && cuda->capability < CAPABILITY_BF16) {
        snprintf(cuda->base.error, sizeof cuda->base.error,
                 "this GPU, of compute capability %d.%d, multiplies no bfloat16: 8.0 (Ampere) or "
                 "later does",
                 cuda->capability / 10, cuda->capability % 10);
        return KERN_ENODEV;
    }
    ENTER(cuda);
    enum kern_status st =
        kern_cuda_check_blas(cuda, cublasSetMathMode(cuda->blas, mode), "cublasSetMathMode");
    cuda->products = st == KERN_OK ? allowed : cuda->products;
    return st;
}

static enum kern_status start(struct kern_cuda *cuda) {
    enum kern_status st = describe(cuda);
    if (st != KERN_OK) {
        return st;
    }
    ENTER(cuda);
    st = kern_cuda_memory_open(cuda);
    if (st != KERN_OK) {
        return st;
    }
    st = kern_cuda_check_blas(cuda, cublasCreate(&cuda->blas), "cublasCreate");
    if (st == KERN_OK) {
        st = kern_cuda_check_blas(cuda, cublasSetStream(cuda->blas, cuda->stream),
                                  "cublasSetStream");
    }
    /* After the stream, which it forgets it with. */
    size_t bytes = KERN_CUDA_BLAS_BYTES;
    st = st == KERN_OK ? kern_cuda_take(cuda, bytes, &cuda->blas_room) : st;
    if (st == KERN_OK) {
        st = kern_cuda_check_blas(cuda, cublasSetWorkspace(cuda->blas, cuda->blas_room, bytes),
                                  "cublasSetWorkspace");
    }
    return st == KERN_OK ? products(&cuda->base, KERN_EXACT) : st;
}

static void close_cuda(struct kern_ctx *ctx) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    (void)cudaSetDevice(cuda->device);
    if (cuda->blas != NULL) {
        (void)cublasDestroy(cuda->blas);
    }
    kern_cuda_give(cuda, cuda->blas_room);
    kern_cuda_memory_close(cuda);
    free(cuda);
}

static enum kern_status open_cuda(int index, int threads, struct kern_ctx **out, char *why,
                                  size_t why_bytes) {
    (void)threads;
    struct kern_cuda *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL) {
        snprintf(why, why_bytes, "out of host memory");
        return KERN_ENOMEM;
    }
    cuda->device = index;
    enum kern_status st = start(cuda);
    if (st != KERN_OK) {
        snprintf(why, why_bytes, "%s", cuda->base.error);
        close_cuda(&cuda->base);
        return st;
    }
    *out = &cuda->base;
    return KERN_OK;
}

/* ---- operations ---------------------------------------------------------------------------- */

static enum kern_status gemm(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                             size_t m, size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                             float beta) {
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
                                        .count = 1};
    ENTER(cuda);
    return kern_cuda_multiply(cuda, &p);
}

static enum kern_status bias_add(struct kern_ctx *ctx, float *y, const float *bias, size_t rows,
                                 size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_bias_add, y, bias, rows, cols);
}

static enum kern_status bias_grad(struct kern_ctx *ctx, float *dbias, const float *dy, size_t rows,
                                  size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_bias_grad, dbias, dy, rows, cols);
}

static enum kern_status add(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                            size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_add, y, a, b, n);
}

static enum kern_status scale(struct kern_ctx *ctx, float *y, size_t n, float alpha) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_scale, y, n, alpha);
}

static enum kern_status relu(struct kern_ctx *ctx, float *y, const float *x, size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_relu, y, x, n);
}

static enum kern_status relu_grad(struct kern_ctx *ctx, float *dx, const float *dy, const float *y,
                                  size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_relu_grad, dx, dy, y, n);
}

static enum kern_status sigmoid(struct kern_ctx *ctx, float *y, const float *x, size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_sigmoid, y, x, n);
}

static enum kern_status sigmoid_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                     const float *y, size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_sigmoid_grad, dx, dy, y, n);
}

static enum kern_status softmax(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_softmax, y, x, rows, cols);
}

static enum kern_status softmax_grad(struct kern_ctx *ctx, float *dx, const float *dy,
                                     const float *y, size_t rows, size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_softmax_grad, dx, dy, y, rows, cols);
}

static enum kern_status bce_logits(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                   const float *t, size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_bce_logits, loss, dz, z, t, n, cuda->parts);
}

static enum kern_status softmax_ce(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                   const int32_t *label, size_t rows, size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_softmax_ce, loss, dz, z, label, rows, cols, cuda->parts);
}

static enum kern_status loss_of(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                const void *target, const float *weight,
                                const struct kern_loss_spec *spec) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    void *scratch = NULL;
    ENTER(cuda);
    enum kern_status st = kern_cuda_scratch(cuda, 0, kern_cu_loss_bytes(spec), &scratch);
    return st != KERN_OK ? st
                         : LAUNCH(cuda, kern_cu_loss, loss, dz, z, target, weight, spec, scratch);
}

static enum kern_status prox_grad(struct kern_ctx *ctx, float *g, const float *w, const float *w0,
                                  size_t n, float mu) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_prox_grad, g, w, w0, n, mu);
}

static enum kern_status stiff_grad(struct kern_ctx *ctx, float *g, const float *w, const float *c,
                                   const float *a, size_t n, float mu) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_stiff_grad, g, w, c, a, n, mu);
}

static enum kern_status add_square(struct kern_ctx *ctx, float *y, const float *x, size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_add_square, y, x, n);
}

static enum kern_status axpby(struct kern_ctx *ctx, float *y, const float *x, size_t n, float alpha,
                              float beta) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_axpby, y, x, n, alpha, beta);
}

static enum kern_status square_sum(struct kern_ctx *ctx, float *sum, const float *x, size_t n) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_square_sum, sum, x, n, cuda->parts);
}

static enum kern_status clip_norm(struct kern_ctx *ctx, float *g, const float *squares, size_t n,
                                  float max_norm) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_clip_norm, g, squares, n, max_norm);
}

static enum kern_status clip_value(struct kern_ctx *ctx, float *g, size_t n, float most) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_clip_value, g, n, most);
}

static enum kern_status sgd_step(struct kern_ctx *ctx, float *w, const float *g, float *v, size_t n,
                                 const struct kern_sgd *opt) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_sgd_step, w, g, v, n, opt);
}

static enum kern_status adam_step(struct kern_ctx *ctx, float *w, const float *g, float *m,
                                  float *v, size_t n, const struct kern_adam *opt) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_adam_step, w, g, m, v, n, opt);
}

static enum kern_status standardise(struct kern_ctx *ctx, float *x, const float *mean,
                                    const float *inv_std, size_t rows, size_t cols) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_standardise, x, mean, inv_std, rows, cols);
}

static enum kern_status gather_rows(struct kern_ctx *ctx, float *y, const float *x,
                                    const int32_t *index, size_t rows, size_t cols, size_t x_rows) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_gather_rows, y, x, index, rows, cols, x_rows);
}

static enum kern_status fold_f32(struct kern_ctx *ctx, int64_t *acc, const float *x,
                                 uint64_t *refused, size_t n, int frac_bits, uint32_t w) {
    struct kern_cuda *cuda = kern_cuda_of(ctx);
    ENTER(cuda);
    return LAUNCH(cuda, kern_cu_fold_f32, acc, x, refused, n, frac_bits, w);
}

static const struct kern_ops cuda_ops = {
    .abi = KERN_BACKEND_ABI,
    .bytes = sizeof(struct kern_ops),
    .name = "cuda",
    .nn = &kern_cuda_nn,
    .probe = probe,
    .open = open_cuda,
    .close = close_cuda,
    .products = products,
    .alloc = kern_cuda_alloc,
    .free = kern_cuda_free,
    .upload = kern_cuda_upload,
    .upload_start = kern_cuda_upload_start,
    .upload_beside = kern_cuda_upload_beside,
    .upload_wait = kern_cuda_upload_wait,
    .host_alloc = kern_cuda_host_alloc,
    .host_free = kern_cuda_host_free,
    .download = kern_cuda_download,
    .copy = kern_cuda_copy,
    .zero = kern_cuda_zero,
    .sync = kern_cuda_sync,
    .memory = kern_cuda_memory,
    .record_begin = kern_cuda_record_begin,
    .record_end = kern_cuda_record_end,
    .record_holds = kern_cuda_record_holds,
    .replay = kern_cuda_replay,
    .record_free = kern_cuda_record_free,
    .gemm = gemm,
    .bias_add = bias_add,
    .bias_grad = bias_grad,
    .add = add,
    .scale = scale,
    .relu = relu,
    .relu_grad = relu_grad,
    .sigmoid = sigmoid,
    .sigmoid_grad = sigmoid_grad,
    .softmax = softmax,
    .softmax_grad = softmax_grad,
    .bce_logits = bce_logits,
    .softmax_ce = softmax_ce,
    .loss = loss_of,
    .prox_grad = prox_grad,
    .stiff_grad = stiff_grad,
    .add_square = add_square,
    .axpby = axpby,
    .square_sum = square_sum,
    .clip_norm = clip_norm,
    .clip_value = clip_value,
    .sgd_step = sgd_step,
    .adam_step = adam_step,
    .standardise = standardise,
    .gather_rows = gather_rows,
    .fold_f32 = fold_f32,
    .group_id = kern_cuda_group_id,
    .group_join = kern_cuda_group_join,
    .group_leave = kern_cuda_group_leave,
    .group_abort = kern_cuda_group_abort,
    .group_run = kern_cuda_group_run,
    .group_each = kern_cuda_group_each,
};

/* Of the plugin's symbols, the only one to be seen. */
__attribute__((visibility("default"))) const struct kern_ops *kern_plugin_ops_v1(uint32_t abi);
const struct kern_ops *kern_plugin_ops_v1(uint32_t abi) {
    return abi == KERN_BACKEND_ABI ? &cuda_ops : NULL;
}
