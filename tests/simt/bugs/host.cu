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

/* Two streams, one of which may or may not wait for what the other copies; the answer is the
 * engine's only where nothing orders them. */
static bool other_stream(const struct bugs_env *env, bool wait) {
    static float host[64];
    cudaStream_t copies = nullptr;
    cudaEvent_t arrived = nullptr;
    float back[64] = {0};
    bool ok = cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking) == cudaSuccess &&
              cudaEventCreateWithFlags(&arrived, cudaEventDisableTiming) == cudaSuccess;
    for (float &v : host) {
        v = 9;
    }
    for (int i = 0; i < 16; i++) { /* the stream is late */
        (void)KERN_LAUNCH(fill, 1, 64, copies, env->y + 256, 1.0f);
    }
    (void)cudaMemcpyAsync(env->y, host, sizeof host, cudaMemcpyHostToDevice, copies);
    (void)cudaEventRecord(arrived, copies);
    if (wait) {
        (void)cudaStreamWaitEvent(env->s, arrived, 0);
    }
    (void)cudaMemcpyAsync(back, env->y, sizeof back, cudaMemcpyDeviceToHost, env->s);
    (void)cudaStreamSynchronize(env->s);
    ok = back[63] == 9 && ok;
    ok = cudaStreamSynchronize(copies) == cudaSuccess && ok;
    return cudaEventDestroy(arrived) == cudaSuccess && cudaStreamDestroy(copies) == cudaSuccess &&
           ok;
}
static bool event_bug(const struct bugs_env *env) {
    return other_stream(env, false);
}
static bool event_twin(const struct bugs_env *env) {
    return other_stream(env, true);
}

/* Captured once, launched twice; what it writes is freed before the second or after. */
static bool graph(const struct bugs_env *env, bool early) {
    cudaGraph_t captured = nullptr;
    cudaGraphExec_t exec = nullptr;
    void *p = nullptr;
    float back[64] = {0};
    bool ok = cudaMalloc(&p, sizeof back) == cudaSuccess &&
              cudaStreamBeginCapture(env->s, cudaStreamCaptureModeThreadLocal) == cudaSuccess &&
              KERN_LAUNCH(fill, 1, 64, env->s, (float *)p, 5.0f) == cudaSuccess &&
              cudaStreamEndCapture(env->s, &captured) == cudaSuccess &&
              cudaGraphInstantiate(&exec, captured, 0) == cudaSuccess &&
              cudaGraphLaunch(exec, env->s) == cudaSuccess;
    (void)cudaMemcpyAsync(back, p, sizeof back, cudaMemcpyDeviceToHost, env->s);
    (void)cudaStreamSynchronize(env->s);
    ok = back[63] == 5 && ok;
    if (early) {
        (void)cudaFree(p);
    }
    (void)cudaGraphLaunch(exec, env->s);
    (void)cudaStreamSynchronize(env->s);
    if (!early) {
        (void)cudaFree(p);
    }
    return cudaGraphDestroy(captured) == cudaSuccess && cudaGraphExecDestroy(exec) == cudaSuccess &&
           ok;
}
static bool graph_bug(const struct bugs_env *env) {
    return graph(env, true);
}
static bool graph_twin(const struct bugs_env *env) {
    return graph(env, false);
}

/* What is captured is not done, and takes nothing from the host. */
static bool captured_copy(const struct bugs_env *env, bool upload) {
    static const float host[64] = {1};
    cudaGraph_t captured = nullptr;
    (void)cudaStreamBeginCapture(env->s, cudaStreamCaptureModeThreadLocal);
    if (upload) {
        (void)cudaMemcpyAsync(env->y, host, sizeof host, cudaMemcpyHostToDevice, env->s);
    } else {
        (void)KERN_LAUNCH(fill, 1, 64, env->s, env->y, 5.0f);
    }
    bool ok = cudaStreamEndCapture(env->s, &captured) == cudaSuccess;
    return ok && cudaGraphDestroy(captured) == cudaSuccess;
}
static bool capture_bug(const struct bugs_env *env) {
    return captured_copy(env, true);
}
static bool capture_twin(const struct bugs_env *env) {
    return captured_copy(env, false);
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

/* Two callers meet by an id; the second may not come, or for something else. */
static bool by_id(const struct bugs_env *env, int callers, bool alike) {
    float *const part[2] = {env->x, env->far};
    const cudaStream_t stream[2] = {env->s, env->far_s};
    ncclUniqueId id;
    ncclComm_t comm[2];
    bool ok = ncclGetUniqueId(&id) == ncclSuccess;
    for (int i = 0; i < 2; i++) {
        ok = cudaSetDevice(i) == cudaSuccess &&
             ncclCommInitRank(&comm[i], 2, id, i) == ncclSuccess && ok;
    }
    (void)cudaSetDevice(0);
    for (int i = 0; i < callers; i++) {
        size_t n = i == 1 && !alike ? 3 : BUGS_N / 2;
        ok = ncclAllReduce(part[i], part[i], n, ncclInt64, ncclSum, comm[i], stream[i]) ==
                 ncclSuccess &&
             ok;
    }
    (void)cudaStreamSynchronize(env->s);
    return ncclCommDestroy(comm[0]) == ncclSuccess && ncclCommDestroy(comm[1]) == ncclSuccess && ok;
}
static bool skip_bug(const struct bugs_env *env) {
    return by_id(env, 1, true);
}
static bool length_bug(const struct bugs_env *env) {
    return by_id(env, 2, false);
}
static bool by_id_twin(const struct bugs_env *env) {
    return by_id(env, 2, true);
}

/* Rank 1 of a reduce-scatter in place takes its share from where `at` says. */
static bool scatter(const struct bugs_env *env, size_t at) {
    const int device[2] = {0, 1};
    const cudaStream_t stream[2] = {env->s, env->far_s};
    float *const part[2] = {env->x, env->far};
    ncclComm_t comm[2];
    float got[1] = {0}, one = 1;
    bool ok = ncclCommInitAll(comm, 2, device) == ncclSuccess;
    (void)cudaMemcpyAsync(env->x + BUGS_N / 2, &one, sizeof one, cudaMemcpyHostToDevice, env->s);
    ok = ncclGroupStart() == ncclSuccess && ok;
    for (size_t i = 0; i < 2; i++) {
        ok = ncclReduceScatter(part[i], part[i] + (i == 0 ? 0 : at), BUGS_N / 2, ncclFloat32,
                               ncclSum, comm[i], stream[i]) == ncclSuccess &&
             ok;
    }
    ok = ncclGroupEnd() == ncclSuccess && ok;
    (void)cudaMemcpyAsync(got, env->far + BUGS_N / 2, sizeof got, cudaMemcpyDeviceToHost,
                          env->far_s);
    (void)cudaStreamSynchronize(env->far_s);
    (void)cudaStreamSynchronize(env->s);
    ok = got[0] == 1 && ok;
    return ncclCommDestroy(comm[0]) == ncclSuccess && ncclCommDestroy(comm[1]) == ncclSuccess && ok;
}
static bool offset_bug(const struct bugs_env *env) {
    return scatter(env, 0);
}
static bool beyond_bug(const struct bugs_env *env) {
    return scatter(env, BUGS_N / 2 + 1);
}
static bool offset_twin(const struct bugs_env *env) {
    return scatter(env, BUGS_N / 2);
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
    {"a copy in another stream not waited for", nullptr, event_bug, event_twin},
    {"a graph launched when its memory is freed", "use-after-free", graph_bug, graph_twin},
    {"a copy from the host in a graph", "bad-graph", capture_bug, capture_twin},
    {"a leading dimension too large", "out-of-bounds", product_bug, product_twin},
    {"ranks of NCCL outside a group", "nccl-group", group_bug, group_twin},
    {"a rank of NCCL that does not come", "nccl-group", rank_bug, group_twin},
    {"a caller that skips a call of its group", "nccl-group", skip_bug, by_id_twin},
    {"callers that sum different lengths", "nccl-group", length_bug, by_id_twin},
    {"a share at the wrong place", nullptr, offset_bug, offset_twin},
    {"a share that leaves its array", "out-of-bounds", beyond_bug, offset_twin},
};
BUGS_TABLE(bugs_host);
