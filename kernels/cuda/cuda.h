/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CUDA backend's inside: its context, and groups of contexts.
 *
 * Threads: as backend.h says. Ownership: a group borrows its contexts.
 */
#ifndef CONSILIUM_KERN_CUDA_H
#define CONSILIUM_KERN_CUDA_H

#include "kernels/backend.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

struct kern_cuda {
    struct kern_ctx base;
    int device;
    cudaStream_t stream;
    cublasHandle_t blas;
    float *parts; /* scratch of the reductions: float[KERN_CUDA_PARTS] */
};

static inline struct kern_cuda *kern_cuda_of(struct kern_ctx *ctx) {
    return (struct kern_cuda *)ctx;
}

/* The status of a CUDA call; writes the context's error. */
enum kern_status kern_cuda_check(struct kern_cuda *cuda, cudaError_t err, const char *call);

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

enum kern_status kern_cuda_group_id(struct kern_ctx *ctx, struct kern_group_id *out);
enum kern_status kern_cuda_group_join(const struct kern_group_id *id, size_t ranks, size_t first,
                                      struct kern_ctx *const *ctx, size_t count, void **out);
void kern_cuda_group_leave(void *state);
void kern_cuda_group_abort(void *state);
enum kern_status kern_cuda_group_run(void *state, const struct kern_group_call *call,
                                     void *const *parts);
void kern_cuda_group_each(void *state, void (*fn)(void *arg, size_t i), void *arg);

#endif
