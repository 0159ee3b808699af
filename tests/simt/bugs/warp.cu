/* SPDX-License-Identifier: Apache-2.0 */
/* Warp collectives: wrong masks, lanes that are not there, memory ordered by nothing. */
#include "tests/simt/bugs/bugs.h"

#define ALL 0xffffffffu
#define LOW 0x0000ffffu

template <unsigned MASK> __global__ static void own_lane(float *y, const float *x) {
    y[threadIdx.x] = __shfl_xor_sync(MASK, x[threadIdx.x], 1);
}
BUGS_RUN(own_lane_bug, own_lane<LOW>, 1, 32, env->y, env->x)
BUGS_RUN(own_lane_twin, own_lane<ALL>, 1, 32, env->y, env->x)

/* The lower half asks across the middle. */
template <int DISTANCE> __global__ static void half(float *y, const float *x) {
    if (threadIdx.x < 16) {
        y[threadIdx.x] = __shfl_xor_sync(LOW, x[threadIdx.x], DISTANCE);
    }
}
BUGS_RUN(half_bug, half<16>, 1, 32, env->y, env->x)
BUGS_RUN(half_twin, half<8>, 1, 32, env->y, env->x)

/* A full mask in a loop whose last round has fewer lanes. */
template <bool WHOLE> __global__ static void ragged(float *y, const float *x, unsigned n) {
    unsigned end = WHOLE ? (n + 31) / 32 * 32 : n;
    for (unsigned i = threadIdx.x; i < end; i += 32) {
        float v = __shfl_xor_sync(ALL, i < n ? x[i] : 0, 1);
        if (i < n) {
            y[i] = v;
        }
    }
}
BUGS_RUN(ragged_bug, ragged<false>, 1, 32, env->y, env->x, 40u)
BUGS_RUN(ragged_twin, ragged<true>, 1, 32, env->y, env->x, 40u)

/* Lanes wait for one another in two places for ever. */
template <bool TOGETHER> __global__ static void crossed(float *y) {
    if (TOGETHER || threadIdx.x < 16) {
        __syncwarp(TOGETHER ? ALL : LOW | 0x10000u);
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 1;
}
BUGS_RUN(crossed_bug, crossed<false>, 1, 32, env->y)
BUGS_RUN(crossed_twin, crossed<true>, 1, 32, env->y)

/* "Threads of a warp run in lockstep" has not been true since Volta. */
template <bool SYNC> __global__ static void lockstep(float *y, const float *x) {
    __shared__ float all[64];
    all[threadIdx.x] = x[threadIdx.x];
    if (SYNC) {
        __syncwarp();
    }
    y[threadIdx.x] = all[threadIdx.x ^ 1];
}
BUGS_RUN(lockstep_bug, lockstep<false>, 1, 64, env->y, env->x)
BUGS_RUN(lockstep_twin, lockstep<true>, 1, 64, env->y, env->x)

/* A shuffle moves a value; it orders no memory. */
template <bool SYNC> __global__ static void shuffle_fence(float *y, const float *x) {
    __shared__ float all[32];
    all[threadIdx.x] = x[threadIdx.x];
    float v = __shfl_xor_sync(ALL, x[threadIdx.x], 2);
    if (SYNC) {
        __syncwarp();
    }
    y[threadIdx.x] = v + all[31 - threadIdx.x];
}
BUGS_RUN(fence_bug, shuffle_fence<false>, 1, 32, env->y, env->x)
BUGS_RUN(fence_twin, shuffle_fence<true>, 1, 32, env->y, env->x)

template <bool SAME> __global__ static void two_places(float *y, const float *x) {
    float v = x[threadIdx.x];
    if (SAME || threadIdx.x % 2 == 0) {
        v += __shfl_xor_sync(ALL, v, 1);
    } else {
        v -= __shfl_xor_sync(ALL, v, 1);
    }
    y[threadIdx.x] = v;
}
BUGS_RUN(two_places_bug, two_places<false>, 1, 32, env->y, env->x)
BUGS_RUN(two_places_twin, two_places<true>, 1, 32, env->y, env->x)

extern const struct bugs_pair bugs_warp[] = {
    {"a mask without the caller", "bad-mask", own_lane_bug, own_lane_twin},
    {"a shuffle from a lane outside the mask", "inactive-lane", half_bug, half_twin},
    {"a full mask where lanes have left", "exited-thread", ragged_bug, ragged_twin},
    {"lanes that wait for ever", "deadlock", crossed_bug, crossed_twin},
    {"lockstep taken for granted", "race-shared", lockstep_bug, lockstep_twin},
    {"a shuffle taken for a fence", "race-shared", fence_bug, fence_twin},
    {"one shuffle in two branches", "divergent-collective", two_places_bug, two_places_twin},
};
BUGS_TABLE(bugs_warp);
