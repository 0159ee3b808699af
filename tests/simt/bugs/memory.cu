/* SPDX-License-Identifier: Apache-2.0 */
/* Memory: beyond its ends, before it is written, after it is freed, on the wrong side. */
#include "tests/simt/bugs/bugs.h"

template <bool CHECK> __global__ static void tail(float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (!CHECK || i < n) {
        y[i] = 1;
    }
}
BUGS_RUN(tail_bug, tail<false>, BUGS_N / 96 + 1, 96, env->y, (unsigned)BUGS_N)
BUGS_RUN(tail_twin, tail<true>, BUGS_N / 96 + 1, 96, env->y, (unsigned)BUGS_N)

template <int FIRST> __global__ static void stencil(float *y, const float *x) {
    int i = (int)threadIdx.x + FIRST;
    y[i] = x[i - 1] + x[i];
}
BUGS_RUN(stencil_bug, stencil<0>, 1, 64, env->y, env->x)
BUGS_RUN(stencil_twin, stencil<1>, 1, 64, env->y, env->x)

/* A shared array one warp too small: its neighbour is overwritten, not the edge of anything. */
template <bool RIGHT> __global__ static void one_for_each_warp(float *y, const float *x) {
    __shared__ float part[RIGHT ? 4 : 3];
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = x[threadIdx.x];
    }
    __syncthreads();
    y[threadIdx.x] = part[0];
}
BUGS_RUN(small_bug, one_for_each_warp<false>, 1, 128, env->y, env->x)
BUGS_RUN(small_twin, one_for_each_warp<true>, 1, 128, env->y, env->x)

__global__ static void copy(float *y, const float *x) {
    y[threadIdx.x] = x[threadIdx.x];
}
BUGS_RUN(unwritten_bug, copy, 1, 64, env->y, env->fresh)
BUGS_RUN(unwritten_twin, copy, 1, 64, env->y, env->x)

template <unsigned WRITERS> __global__ static void half_shared(float *y, const float *x) {
    __shared__ float part[64];
    if (threadIdx.x < WRITERS) {
        part[threadIdx.x] = x[threadIdx.x];
    }
    __syncthreads();
    y[threadIdx.x] = part[63 - threadIdx.x];
}
BUGS_RUN(half_shared_bug, half_shared<60>, 1, 64, env->y, env->x)
BUGS_RUN(half_shared_twin, half_shared<64>, 1, 64, env->y, env->x)

/* Pairs of floats from an odd element on. */
template <unsigned AT> __global__ static void pairs(float *y, const float *x) {
    const float2 *in = (const float2 *)(x + AT);
    float2 v = in[threadIdx.x];
    y[threadIdx.x] = v.x + v.y;
}
BUGS_RUN(pairs_bug, pairs<1>, 1, 64, env->y, env->x)
BUGS_RUN(pairs_twin, pairs<2>, 1, 64, env->y, env->x)

static float host_array[64] = {1};
static bool host_pointer_bug(const struct bugs_env *env) {
    return KERN_LAUNCH(copy, 1, 64, env->s, host_array, env->x) == cudaSuccess;
}

static bool far_bug(const struct bugs_env *env) {
    return KERN_LAUNCH(copy, 1, 64, env->s, env->y, env->far) == cudaSuccess;
}

static bool freed(const struct bugs_env *env, bool wait) {
    void *p = nullptr;
    bool ok = cudaMalloc(&p, 64 * sizeof(float)) == cudaSuccess &&
              KERN_LAUNCH(copy, 1, 64, env->s, (float *)p, env->x) == cudaSuccess;
    if (wait) {
        ok = cudaStreamSynchronize(env->s) == cudaSuccess && ok;
    }
    return cudaFree(p) == cudaSuccess && ok;
}
static bool freed_bug(const struct bugs_env *env) {
    return freed(env, false);
}
static bool freed_twin(const struct bugs_env *env) {
    return freed(env, true);
}

extern const struct bugs_pair bugs_memory[] = {
    {"a tail without a check", "out-of-bounds", tail_bug, tail_twin},
    {"an element before the first", "out-of-bounds", stencil_bug, stencil_twin},
    {"a shared array too small", "out-of-bounds", small_bug, small_twin},
    {"device memory nobody wrote", "uninitialised", unwritten_bug, unwritten_twin},
    {"shared memory half written", "uninitialised", half_shared_bug, half_shared_twin},
    {"a pair from an odd address", "misaligned", pairs_bug, pairs_twin},
    {"a host pointer in a kernel", "not-device", host_pointer_bug, unwritten_twin},
    {"memory of another device", "wrong-device", far_bug, unwritten_twin},
    {"memory freed while in use", "use-after-free", freed_bug, freed_twin},
};
BUGS_TABLE(bugs_memory);
