/* SPDX-License-Identifier: Apache-2.0 */
/* Barriers: missing, not reached by all, and reached in two places. */
#include "tests/simt/bugs/bugs.h"

#define BLOCK 128

/* Each thread reads what its mirror image wrote. */
template <bool BARRIER> __global__ static void mirror(float *y, const float *x) {
    __shared__ float all[BLOCK];
    all[threadIdx.x] = x[threadIdx.x];
    if (BARRIER) {
        __syncthreads();
    }
    y[threadIdx.x] = all[BLOCK - 1 - threadIdx.x];
}
BUGS_RUN(mirror_bug, mirror<false>, 1, BLOCK, env->y, env->x)
BUGS_RUN(mirror_twin, mirror<true>, 1, BLOCK, env->y, env->x)

/* The tree sum whose steps overtake each other. */
template <bool EVERY_STEP> __global__ static void tree(float *y, const float *x) {
    __shared__ float part[BLOCK];
    part[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (unsigned d = BLOCK / 2; d > 0; d /= 2) {
        if (threadIdx.x < d) {
            part[threadIdx.x] += part[threadIdx.x + d];
        }
        if (EVERY_STEP) {
            __syncthreads();
        }
    }
    if (threadIdx.x == 0) {
        y[0] = part[0];
    }
}
BUGS_RUN(tree_bug, tree<false>, 1, BLOCK, env->y, env->x)
BUGS_RUN(tree_twin, tree<true>, 1, BLOCK, env->y, env->x)

/* The array is written again while others still read it. */
template <bool SECOND> __global__ static void reuse(float *y, const float *x) {
    __shared__ float tile[BLOCK];
    float sum = 0;
    for (unsigned k = 0; k < 2; k++) {
        tile[threadIdx.x] = x[k * BLOCK + threadIdx.x];
        __syncthreads();
        sum += tile[(threadIdx.x + 40) % BLOCK];
        if (SECOND) {
            __syncthreads();
        }
    }
    y[threadIdx.x] = sum;
}
BUGS_RUN(reuse_bug, reuse<false>, 1, BLOCK, env->y, env->x)
BUGS_RUN(reuse_twin, reuse<true>, 1, BLOCK, env->y, env->x)

template <bool SAME> __global__ static void branch(float *y) {
    if (SAME || threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 1;
}
BUGS_RUN(branch_bug, branch<false>, 1, BLOCK, env->y)
BUGS_RUN(branch_twin, branch<true>, 1, BLOCK, env->y)

/* Threads beyond the end leave before the others' barrier. */
template <bool ALL> __global__ static void early(float *y, unsigned n) {
    __shared__ float part[BLOCK];
    if (!ALL && threadIdx.x >= n) {
        return;
    }
    part[threadIdx.x] = 2;
    __syncthreads();
    if (threadIdx.x < n) {
        y[threadIdx.x] = part[n - 1 - threadIdx.x];
    }
}
BUGS_RUN(early_bug, early<false>, 1, BLOCK, env->y, 100u)
BUGS_RUN(early_twin, early<true>, 1, BLOCK, env->y, 100u)

extern const struct bugs_pair bugs_barrier[] = {
    {"a missing barrier", "race-shared", mirror_bug, mirror_twin},
    {"a tree sum without barriers", "race-shared", tree_bug, tree_twin},
    {"shared memory reused too early", "race-shared", reuse_bug, reuse_twin},
    {"barriers in two branches", "divergent-barrier", branch_bug, branch_twin},
    {"a return before a barrier", "exited-thread", early_bug, early_twin},
};
BUGS_TABLE(bugs_barrier);
