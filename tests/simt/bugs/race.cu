/* SPDX-License-Identifier: Apache-2.0 */
/* Races in device memory, within a block and between blocks. */
#include "tests/simt/bugs/bugs.h"

template <bool ATOMIC> __global__ static void tally(unsigned *count) {
    if (ATOMIC) {
        atomicAdd(count, 1u);
    } else {
        *count += 1;
    }
}
BUGS_RUN(tally_bug, tally<false>, 2, 64, env->count)
BUGS_RUN(tally_twin, tally<true>, 2, 64, env->count)

/* An atomic and a plain access of the same word are no better. */
template <bool OUTSIDE> __global__ static void peek(unsigned *count, float *y) {
    atomicAdd(count, 1u);
    if (!OUTSIDE) {
        y[blockIdx.x * blockDim.x + threadIdx.x] = (float)*count;
    }
}
BUGS_RUN(peek_bug, peek<false>, 2, 64, env->count, env->y)
BUGS_RUN(peek_twin, peek<true>, 2, 64, env->count, env->y)

/* A block reads what its neighbour writes. */
template <bool APART> __global__ static void neighbour(float *y, const float *x) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    y[i] = APART ? x[(i + blockDim.x) % n] : y[(i + blockDim.x) % n];
}
BUGS_RUN(neighbour_bug, neighbour<false>, 4, 64, env->y, env->x)
BUGS_RUN(neighbour_twin, neighbour<true>, 4, 64, env->y, env->x)

/* Waiting for another block's word: blocks need not run at once. */
template <bool ONE_BLOCK> __global__ static void last_block(float *y, float *part) {
    part[blockIdx.x * blockDim.x + threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x == 0 && blockIdx.x == gridDim.x - 1) {
        float sum = 0;
        for (unsigned i = 0; i < (ONE_BLOCK ? 1 : gridDim.x); i++) {
            sum += part[(ONE_BLOCK ? blockIdx.x : i) * blockDim.x];
        }
        y[0] = sum;
    }
}
BUGS_RUN(last_block_bug, last_block<false>, 4, 64, env->y, env->x)
BUGS_RUN(last_block_twin, last_block<true>, 4, 64, env->y, env->x)

extern const struct bugs_pair bugs_race[] = {
    {"a count without an atomic", "race-global", tally_bug, tally_twin},
    {"a plain read of an atomic's word", "race-global", peek_bug, peek_twin},
    {"a block that reads its neighbour's output", "race-global", neighbour_bug, neighbour_twin},
    {"a block that trusts the others are done", "race-global", last_block_bug, last_block_twin},
};
BUGS_TABLE(bugs_race);
