/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA backend's inside: its context, and groups of contexts.
 *
 * Threads: as backend.h says. Ownership: a group borrows its contexts.
 */
#ifndef CONSILIUM_KERN_CUDA_H
#define CONSILIUM_KERN_CUDA_H

#include "kernels/backend.h"
#include "kernels/nn_ops.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#define KERN_CUDA_SCRATCHES 2

struct kern_cuda {
    struct kern_ctx base;
    int device;
    cudaStream_t stream;
    cublasHandle_t blas;
    float *parts; /* scratch of the reductions: float[KERN_CUDA_PARTS] */
    /* Scratch of kern_cuda_scratch, grown as needed. */
    void *scratch[KERN_CUDA_SCRATCHES];
    size_t scratch_bytes[KERN_CUDA_SCRATCHES];
};

static inline struct kern_cuda *kern_cuda_of(struct kern_ctx *ctx) {
    return (struct kern_cuda *)ctx;
}

/* The status of a CUDA call; writes the context's error. */
enum kern_status kern_cuda_check(struct kern_cuda *cuda, cudaError_t err, const char *call);

/* The same of a cuBLAS call. */
enum kern_status kern_cuda_check_blas(struct kern_cuda *cuda, cublasStatus_t st, const char *call);

/* Returns from the enclosing function unless the CUDA call succeeds. */
#define CUDA_TRY(cuda, call, name)                                                                 \
    do {                                                                                           \
        enum kern_status st_ = kern_cuda_check(cuda, call, name);                                  \
        if (st_ != KERN_OK) {                                                                      \
            return st_;                                                                            \
        }                                                                                          \
    } while (0)

/* The context's GPU becomes this thread's: a device may have moved between threads. */
#define ENTER(cuda) CUDA_TRY(cuda, cudaSetDevice((cuda)->device), "cudaSetDevice")

/* What one launcher says, called with the rest of the arguments. */
#define LAUNCH(cuda, launcher, ...)                                                                \
    kern_cuda_check(cuda, (cudaError_t)launcher(__VA_ARGS__, (cuda)->stream), #launcher)

/* Device memory of at least that many bytes, uninitialised, the context's until the next call for
 * `which`. Waits for the device where it grows. */
enum kern_status kern_cuda_scratch(struct kern_cuda *cuda, unsigned which, size_t bytes,
                                   void **out);

/*
 * `count` products, row-major as kern_gemm's, of matrices that lie `step` floats apart; lda, ldb
 * and ldy are the row strides as stored.
 */
struct kern_cuda_product {
    size_t m, n, k;
    bool trans_a, trans_b;
    float alpha, beta;
    const float *a, *b;
    float *y;
    size_t lda, ldb, ldy, step_a, step_b, step_y, count;
};
enum kern_status kern_cuda_multiply(struct kern_cuda *cuda, const struct kern_cuda_product *p);

/* The operations of kernels/nn.h; those of convolutions are conv.c's. */
extern const struct kern_nn_ops kern_cuda_nn;
enum kern_status kern_cuda_conv_new(struct kern_ctx *ctx, const struct kern_conv_shape *shape,
                                    void **state_out);
void kern_cuda_conv_free(struct kern_ctx *ctx, void *state);
const char *kern_cuda_conv_how(const void *state);
enum kern_status kern_cuda_conv_forward(struct kern_ctx *ctx, void *state, float *y, const float *x,
                                        const float *w, const float *b);
enum kern_status kern_cuda_conv_grad_x(struct kern_ctx *ctx, void *state, float *dx,
                                       const float *dy, const float *w, bool add);
enum kern_status kern_cuda_conv_grad_w(struct kern_ctx *ctx, void *state, float *dw, float *db,
                                       const float *x, const float *dy);
/* y (+)= scale * the sums of x over `axes`. */
enum kern_status kern_cuda_reduce(struct kern_cuda *cuda, float *y, const float *x,
                                  const struct kern_nd *nd, unsigned axes, float scale, bool add);

enum kern_status kern_cuda_group_id(struct kern_ctx *ctx, struct kern_group_id *out);
enum kern_status kern_cuda_group_join(const struct kern_group_id *id, size_t ranks, size_t first,
                                      struct kern_ctx *const *ctx, size_t count, void **out);
void kern_cuda_group_leave(void *state);
void kern_cuda_group_abort(void *state);
enum kern_status kern_cuda_group_run(void *state, const struct kern_group_call *call,
                                     void *const *parts);
void kern_cuda_group_each(void *state, void (*fn)(void *arg, size_t i), void *arg);

#endif
