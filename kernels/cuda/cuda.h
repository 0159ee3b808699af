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

/* 0: reductions; 1: a convolution's; 2 and 3: what a product takes, narrowed; what is on its way to
 * the device (memory.c); what is between two places that overlap; another GPU's part of a sum. */
#define KERN_CUDA_LANDING 4
#define KERN_CUDA_BETWEEN 5
#define KERN_CUDA_PART 6
#define KERN_CUDA_SCRATCHES 7

/* What cuBLAS computes in, given to it so that it takes none of its own: the library's own measure
 * for Hopper, and for the others. */
#ifndef KERN_CUDA_BLAS_BYTES
#define KERN_CUDA_BLAS_BYTES ((size_t)(cuda->capability >= 90 ? 32 : 8) << 20)
#endif

struct kern_cuda {
    struct kern_ctx base;
    int device;
    int capability; /* 75 is 7.5 */
    enum kern_products products;
    cudaStream_t stream, copies;
    cudaEvent_t arrived, landed; /* memory.c */
    cudaMemPool_t pool;          /* NULL where the driver has none */
    uint64_t given;              /* how often memory was given back */
    bool recording;
    /* What recorded draws are turned by, on the device; and whether there were any. */
    uint64_t *turn;
    bool drew;
    cublasHandle_t blas;
    void *blas_room;
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

/* The streams, the events, the pool and the reductions' scratch. */
enum kern_status kern_cuda_memory_open(struct kern_cuda *cuda);
void kern_cuda_memory_close(struct kern_cuda *cuda); /* of what there is */
/* Device memory, uninitialised, to be used in the context's stream; KERN_EARG while it records. */
enum kern_status kern_cuda_take(struct kern_cuda *cuda, size_t bytes, void **out);
void kern_cuda_give(struct kern_cuda *cuda, void *p); /* NULL is fine */
/* The entries of kern_ops of the same names. */
enum kern_status kern_cuda_alloc(struct kern_ctx *ctx, size_t bytes, void **out);
void kern_cuda_free(struct kern_ctx *ctx, void *p);
enum kern_status kern_cuda_memory(struct kern_ctx *ctx, struct kern_memory *out);
enum kern_status kern_cuda_upload(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes);
enum kern_status kern_cuda_upload_start(struct kern_ctx *ctx, void *dst, const void *src,
                                        size_t bytes);
enum kern_status kern_cuda_upload_beside(struct kern_ctx *ctx, void *dst, const void *src,
                                         size_t bytes);
enum kern_status kern_cuda_upload_wait(struct kern_ctx *ctx);
enum kern_status kern_cuda_host_alloc(struct kern_ctx *ctx, size_t bytes, void **out);
void kern_cuda_host_free(struct kern_ctx *ctx, void *p);
enum kern_status kern_cuda_download(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes);
enum kern_status kern_cuda_copy(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes);
enum kern_status kern_cuda_zero(struct kern_ctx *ctx, void *dst, size_t bytes);
enum kern_status kern_cuda_sync(struct kern_ctx *ctx);
enum kern_status kern_cuda_record_begin(struct kern_ctx *ctx);
enum kern_status kern_cuda_record_end(struct kern_ctx *ctx, void **out);
bool kern_cuda_record_holds(struct kern_ctx *ctx, const void *record);
enum kern_status kern_cuda_replay(struct kern_ctx *ctx, void *record, uint64_t turn);
void kern_cuda_record_free(struct kern_ctx *ctx, void *record);

/* Device memory of at least that many bytes, uninitialised, the context's until the next call for
 * `which`. */
enum kern_status kern_cuda_scratch(struct kern_cuda *cuda, unsigned which, size_t bytes,
                                   void **out);

/*
 * `count` products, row-major as kern_gemm's, of matrices that lie `step` elements apart; lda, ldb
 * and ldy are the row strides as stored. a and b are floats, which are narrowed here where the
 * context's products round to a half precision, or (narrow_a, narrow_b) halves already, in the one
 * that they round to.
 */
struct kern_cuda_product {
    size_t m, n, k;
    bool trans_a, trans_b;
    float alpha, beta;
    const void *a, *b;
    float *y;
    size_t lda, ldb, ldy, step_a, step_b, step_y, count;
    bool narrow_a, narrow_b;
    bool exact; /* whatever is allowed but TF32 */
};
/* Products round to a half precision, and what they take is as wide as that. */
static inline bool kern_cuda_narrows(const struct kern_cuda *cuda) {
    return cuda->products == KERN_BF16 || cuda->products == KERN_F16;
}
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
