/* SPDX-License-Identifier: Apache-2.0 */
/* Bugs of the host side: what it launches, waits for, copies and asks the libraries. */
#include "tests/simt/bugs/bugs.h"

#include <cublas_v2.h>
#include <nccl.h>

__global__ static void fill(float *y, float v) {
    y[threadIdx.x] = v;
}

static bool read_back(const struct bugs_env *env, bool wait) {
    float host[64];
    bool ok =
        KERN_LAUNCH(fill, 1, 64, env->s, env->y, 7.0f) == cudaSuccess &&
        cudaMemcpyAsync(host, env->y, sizeof host, cudaMemcpyDeviceToHost, env->s) == cudaSuccess;
    if (wait) {
        ok = cudaStreamSynchronize(env->s) == cudaSuccess && ok;
    }
    ok = ok && host[0] == 7 && host[63] == 7;
    (void)cudaStreamSynchronize(env->s); /* host must outlive the copy either way */
    return ok;
}
static bool wait_bug(const struct bugs_env *env) {
    return read_back(env, false);
}
static bool wait_twin(const struct bugs_env *env) {
    return read_back(env, true);
}

/* The source is changed before the copy has run. */
static bool reuse_source(const struct bugs_env *env, bool wait) {
    float host[64], back[64];
    for (float &v : host) {
        v = 3;
    }
    (void)cudaMemcpyAsync(env->y, host, sizeof host, cudaMemcpyHostToDevice, env->s);
    if (wait) {
        (void)cudaStreamSynchronize(env->s);
    }
    host[5] = 4;
    (void)cudaMemcpyAsync(back, env->y, sizeof back, cudaMemcpyDeviceToHost, env->s);
    (void)cudaStreamSynchronize(env->s);
    return back[5] == 3;
}
static bool source_bug(const struct bugs_env *env) {
    return reuse_source(env, false);
}
static bool source_twin(const struct bugs_env *env) {
    return reuse_source(env, true);
}

BUGS_RUN(empty_bug, fill, 0, 64, env->y, 1.0f)
BUGS_RUN(big_bug, fill, 1, 1025, env->y, 1.0f)
BUGS_RUN(grid_twin, fill, 1, 64, env->y, 1.0f)

static bool far_stream_bug(const struct bugs_env *env) {
    return KERN_LAUNCH(fill, 1, 64, env->far_s, env->far, 1.0f) == cudaSuccess;
}
static bool far_stream_twin(const struct bugs_env *env) {
    bool ok = cudaSetDevice(1) == cudaSuccess && far_stream_bug(env);
    return cudaSetDevice(0) == cudaSuccess && ok;
}

static bool direction(const struct bugs_env *env, cudaMemcpyKind kind) {
    static const float host[4] = {1, 2, 3, 4};
    return cudaMemcpyAsync(env->y, host, sizeof host, kind, env->s) == cudaSuccess;
}
static bool direction_bug(const struct bugs_env *env) {
    return direction(env, cudaMemcpyDeviceToDevice);
}
static bool direction_twin(const struct bugs_env *env) {
    return direction(env, cudaMemcpyHostToDevice);
}

static bool free_times(int times) {
    void *p = nullptr;
    bool ok = cudaMalloc(&p, 64) == cudaSuccess;
    for (int i = 0; i < times; i++) {
        ok = cudaFree(p) == cudaSuccess && ok;
    }
    return ok;
}
static bool free_bug(const struct bugs_env *) {
    return free_times(2);
}
static bool free_twin(const struct bugs_env *) {
    return free_times(1);
}

static bool dead_stream(bool dead) {
    cudaStream_t s = nullptr;
    bool ok = cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess;
    ok = (!dead || cudaStreamDestroy(s) == cudaSuccess) && ok;
    ok = cudaStreamSynchronize(s) == cudaSuccess && ok;
    return (dead || cudaStreamDestroy(s) == cudaSuccess) && ok;
}
static bool stream_bug(const struct bugs_env *) {
    return dead_stream(true);
}
static bool stream_twin(const struct bugs_env *) {
    return dead_stream(false);
}

/* 20 x 20 by 20 x 20, with a leading dimension that leaves the matrix. */
static bool product(const struct bugs_env *env, int ld) {
    cublasHandle_t blas = nullptr;
    const float one = 1, zero = 0;
    bool ok = cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS &&
              cublasSetStream(blas, env->s) == CUBLAS_STATUS_SUCCESS &&
              cublasSetMathMode(blas, CUBLAS_PEDANTIC_MATH) == CUBLAS_STATUS_SUCCESS &&
              cublasSgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 20, 20, 20, &one, env->x, ld, env->x, 20,
                          &zero, env->y, 20) == CUBLAS_STATUS_SUCCESS;
    return cublasDestroy(blas) == CUBLAS_STATUS_SUCCESS && ok;
}
static bool product_bug(const struct bugs_env *env) {
    return product(env, 40);
}
static bool product_twin(const struct bugs_env *env) {
    return product(env, 20);
}

static bool sum_across(const struct bugs_env *env, bool group, int ranks) {
    const int device[2] = {0, 1};
    const cudaStream_t stream[2] = {env->s, env->far_s};
    float *const part[2] = {env->x, env->far};
    ncclComm_t comm[2];
    bool ok = ncclCommInitAll(comm, 2, device) == ncclSuccess;
    if (group) {
        ok = ncclGroupStart() == ncclSuccess && ok;
    }
    for (int i = 0; i < ranks; i++) {
        ok = ncclAllReduce(part[i], part[i], BUGS_N / 2, ncclInt64, ncclSum, comm[i], stream[i]) ==
                 ncclSuccess &&
             ok;
    }
    if (group) {
        ok = ncclGroupEnd() == ncclSuccess && ok;
    }
    (void)cudaStreamSynchronize(env->s); /* communicators outlive their work */
    return ncclCommDestroy(comm[0]) == ncclSuccess && ncclCommDestroy(comm[1]) == ncclSuccess && ok;
}
static bool group_bug(const struct bugs_env *env) {
    return sum_across(env, false, 2);
}
static bool rank_bug(const struct bugs_env *env) {
    return sum_across(env, true, 1);
}
static bool group_twin(const struct bugs_env *env) {
    return sum_across(env, true, 2);
}

extern const struct bugs_pair bugs_host[] = {
    {"a result read before it is there", nullptr, wait_bug, wait_twin},
    {"a source changed before it is copied", nullptr, source_bug, source_twin},
    {"a grid of no blocks", "bad-launch", empty_bug, grid_twin},
    {"a block of too many threads", "bad-launch", big_bug, grid_twin},
    {"a launch into another device's stream", "wrong-device", far_stream_bug, far_stream_twin},
    {"a copy in the wrong direction", "copy-direction", direction_bug, direction_twin},
    {"memory freed twice", "bad-free", free_bug, free_twin},
    {"a stream used after its end", "bad-stream", stream_bug, stream_twin},
    {"a leading dimension too large", "out-of-bounds", product_bug, product_twin},
    {"ranks of NCCL outside a group", "nccl-group", group_bug, group_twin},
    {"a rank of NCCL that does not come", "nccl-group", rank_bug, group_twin},
};
BUGS_TABLE(bugs_host);
