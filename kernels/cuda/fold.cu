/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exact fold on a GPU (kern.h, cpu/fold.c): 20 bytes moved an element. x * 2^f is taken in
 * float32, which gives the same q as double: a product that leaves float's range upwards is refused
 * either way, one that leaves it downwards rounds to 0 either way. The rounded multiplication is
 * named, so that no compiler flag can fuse it. Refused elements are counted in integers,
 * whose atomic sum is the same in any order.
 */
#include "kernels/cuda/launch.cuh"

#include <math.h>

#define Q_MAX 1073741824.0f /* 2^30 */

/* acc, x[n], a thread an element, grid-strided. 20 bytes: acc twice, x; 2 flops and 3 integer
 * operations. */
__global__ static void fold_kernel(int64_t *acc, const float *x, unsigned long long *refused,
                                   size_t n, float scale, int32_t w) {
    KERN_EACH(i, n) {
        float v = __fmul_rn(x[i], scale);
        if (fabsf(v) <= Q_MAX) { /* false for NaN */
            acc[i] += (int64_t)w * (int64_t)__float2int_rn(v);
        } else {
            atomicAdd(refused, 1ULL);
        }
    }
}

/* acc, part[n], a thread an element, grid-strided. 24 bytes: acc twice, part; 1 addition. */
__global__ static void add_i64_kernel(int64_t *acc, const int64_t *part, size_t n) {
    KERN_EACH(i, n) {
        acc[i] += part[i];
    }
}

int kern_cu_fold_f32(int64_t *acc, const float *x, uint64_t *refused, size_t n, int frac_bits,
                     uint32_t w, cudaStream_t stream) {
    return KERN_LAUNCH(fold_kernel, kern_grid(n, KERN_BLOCK, KERN_GRID_MAX), KERN_BLOCK, stream,
                       acc, x, (unsigned long long *)refused, n, ldexpf(1.0f, frac_bits),
                       (int32_t)w);
}

int kern_cu_add_i64(int64_t *acc, const int64_t *part, size_t n, cudaStream_t stream) {
    return KERN_LAUNCH(add_i64_kernel, kern_grid(n, KERN_BLOCK, KERN_GRID_MAX), KERN_BLOCK, stream,
                       acc, part, n);
}
