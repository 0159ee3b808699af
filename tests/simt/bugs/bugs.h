/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Planted bugs, each beside its correct twin: what proves that the engine catches bugs of a kind,
 * and that it does not cry where there is none.
 *
 * Threads: one. Ownership: run functions use the arrays they are given and free what they make.
 */
#ifndef CONSILIUM_SIMT_BUGS_H
#define CONSILIUM_SIMT_BUGS_H

#include "kernels/cuda/launch.cuh"

#define BUGS_N 512 /* elements of every array */

struct bugs_env {
    float *x, *y;          /* of device 0, written */
    float *fresh;          /* of device 0, not written */
    float *far;            /* of device 1, written */
    unsigned *count;       /* one, zero */
    cudaStream_t s, far_s; /* streams of device 0, the current one, and of device 1 */
};

/* Enqueues; true where what it checks by itself, if anything, is right. */
typedef bool (*bugs_fn)(const struct bugs_env *env);

struct bugs_pair {
    const char *name;
    const char *kind; /* the finding; NULL where the result is what is wrong */
    bugs_fn bug, twin;
};

extern const struct bugs_pair bugs_barrier[], bugs_warp[], bugs_memory[], bugs_race[], bugs_host[];
extern const size_t bugs_barrier_count, bugs_warp_count, bugs_memory_count, bugs_race_count,
    bugs_host_count;

#define BUGS_TABLE(table) const size_t table##_count = sizeof(table) / sizeof((table)[0])

/* A run function that launches one kernel. */
#define BUGS_RUN(name, kernel, grid, block, ...)                                                   \
    static bool name(const struct bugs_env *env) {                                                 \
        return KERN_LAUNCH(kernel, grid, block, env->s, __VA_ARGS__) == cudaSuccess;               \
    }

#endif
