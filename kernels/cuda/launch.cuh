/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How kernels are launched, and the sums within a block and a warp. A build may bring its own
 * KERN_LAUNCH (the one that runs these kernels on a CPU does); nvcc's is the chevrons.
 *
 * Launch geometry: blocks of KERN_BLOCK threads; a grid of at most KERN_GRID_MAX blocks that stride
 * over the rest, which fills every GPU sold and keeps index arithmetic in 64 bits.
 */
#ifndef CONSILIUM_KERN_CUDA_LAUNCH_CUH
#define CONSILIUM_KERN_CUDA_LAUNCH_CUH

#include "kernels/cuda/kernels.h"

#include <cuda_runtime.h>

#ifndef KERN_LAUNCH
/* Evaluates to the launch's cudaError_t. */
#define KERN_LAUNCH(kernel, grid, block, stream, ...)                                              \
    (kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__), cudaGetLastError())
#endif

#define KERN_BLOCK 256
#define KERN_WARP 32
#define KERN_WARPS (KERN_BLOCK / KERN_WARP)
#define KERN_GRID_MAX 4096

/* Blocks that cover n units, `per_block` of them each, or the most there may be. */
static inline unsigned kern_grid(size_t n, size_t per_block, size_t most) {
    size_t blocks = (n - 1) / per_block + 1;
    return (unsigned)(blocks < most ? blocks : most);
}

/* Loop of a grid-stride kernel over n elements. */
#define KERN_EACH(i, n)                                                                            \
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);                        \
         i += (size_t)gridDim.x * blockDim.x)

/* The sum and the maximum over a warp, in every lane; all 32 lanes take part. A butterfly: each
 * lane adds the same pairs, so all hold the same bits. */
__device__ static inline float kern_warp_sum(float v) {
    for (int d = KERN_WARP / 2; d > 0; d /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, d);
    }
    return v;
}

__device__ static inline float kern_warp_max(float v) {
    for (int d = KERN_WARP / 2; d > 0; d /= 2) {
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
    }
    return v;
}

/* The sum over a block of KERN_BLOCK threads, in thread 0: warps, then warps' sums in order. */
__device__ static inline float kern_block_sum(float v) {
    __shared__ float warp_sum[KERN_WARPS];
    v = kern_warp_sum(v);
    if (threadIdx.x % KERN_WARP == 0) {
        warp_sum[threadIdx.x / KERN_WARP] = v;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < KERN_WARPS; i++) {
            v += warp_sum[i];
        }
    }
    return v;
}

#endif
