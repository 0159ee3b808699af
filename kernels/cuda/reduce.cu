/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels that reduce: by rows with a warp to a row, by columns, and to one number in two passes.
 * The order of every sum follows from the sizes alone; there is no "last block finishes" and no
 * floating-point atomic, so the bits are the same at every run.
 */
#include "kernels/cuda/launch.cuh"

#include <math.h>

/* ---- by columns ------------------------------------------------------------------------------ */

#define STRIPE 8 /* rows read side by side */

/*
 * dbias[cols] += column sums of dy[rows x cols]. Block 32 x STRIPE: lane x owns a column, so reads
 * are coalesced; thread (x, y) sums rows y, y + STRIPE, ... and row 0's threads add the STRIPE
 * partial sums in order. 4 bytes and 1 flop an element of dy, 8 bytes a column; a grid of cols / 32
 * blocks, fewer than a GPU has SMs where columns are few.
 */
__global__ static void bias_grad_kernel(float *dbias, const float *dy, size_t rows, size_t cols) {
    __shared__ float part[STRIPE][KERN_WARP];
    size_t c = (size_t)blockIdx.x * KERN_WARP + threadIdx.x;
    float sum = 0;
    for (size_t r = threadIdx.y; c < cols && r < rows; r += STRIPE) {
        sum += dy[r * cols + c];
    }
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && c < cols) {
        for (int y = 1; y < STRIPE; y++) {
            sum += part[y][threadIdx.x];
        }
        dbias[c] += sum;
    }
}

int kern_cu_bias_grad(float *dbias, const float *dy, size_t rows, size_t cols,
                      cudaStream_t stream) {
    return KERN_LAUNCH(bias_grad_kernel, dim3((unsigned)((cols - 1) / KERN_WARP + 1)),
                       dim3(KERN_WARP, STRIPE), stream, dbias, dy, rows, cols);
}

/* ---- by rows --------------------------------------------------------------------------------- */

/* This warp's number in the grid, the number of warps in the grid, and the lane. */
__device__ static inline size_t warp_first(void) {
    return (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP;
}

__device__ static inline size_t warp_step(void) {
    return (size_t)gridDim.x * KERN_WARPS;
}

__device__ static inline unsigned lane(void) {
    return threadIdx.x % KERN_WARP;
}

__device__ static inline float row_max(const float *x, size_t cols) {
    float top = -INFINITY;
    for (size_t c = lane(); c < cols; c += KERN_WARP) {
        top = fmaxf(top, x[c]);
    }
    return kern_warp_max(top);
}

__device__ static inline float row_exp_sum(const float *x, size_t cols, float top) {
    float sum = 0;
    for (size_t c = lane(); c < cols; c += KERN_WARP) {
        sum += expf(x[c] - top);
    }
    return kern_warp_sum(sum);
}

/* y, x[rows][cols], a warp to a row, grid-strided; a row is read three times, from cache after the
 * first: 8 bytes an element; 45 flops, two exponentials among them. */
__global__ static void softmax_kernel(float *y, const float *x, size_t rows, size_t cols) {
    for (size_t r = warp_first(); r < rows; r += warp_step()) {
        const float *in = x + r * cols;
        float top = row_max(in, cols);
        float inv = 1.0f / row_exp_sum(in, cols, top);
        for (size_t c = lane(); c < cols; c += KERN_WARP) {
            y[r * cols + c] = expf(in[c] - top) * inv;
        }
    }
}

/* dx, dy, y[rows][cols], a warp to a row, grid-strided; dy and y are read twice, from cache the
 * second time: 12 bytes an element; 4 flops. */
__global__ static void softmax_grad_kernel(float *dx, const float *dy, const float *y, size_t rows,
                                           size_t cols) {
    for (size_t r = warp_first(); r < rows; r += warp_step()) {
        size_t at = r * cols;
        float dot = 0;
        for (size_t c = lane(); c < cols; c += KERN_WARP) {
            dot += dy[at + c] * y[at + c];
        }
        dot = kern_warp_sum(dot);
        for (size_t c = lane(); c < cols; c += KERN_WARP) {
            dx[at + c] = y[at + c] * (dy[at + c] - dot);
        }
    }
}

static unsigned rows_grid(size_t rows, size_t most) {
    return kern_grid(rows, KERN_WARPS, most);
}

int kern_cu_softmax(float *y, const float *x, size_t rows, size_t cols, cudaStream_t stream) {
    return KERN_LAUNCH(softmax_kernel, rows_grid(rows, KERN_GRID_MAX), KERN_BLOCK, stream, y, x,
                       rows, cols);
}

int kern_cu_softmax_grad(float *dx, const float *dy, const float *y, size_t rows, size_t cols,
                         cudaStream_t stream) {
    return KERN_LAUNCH(softmax_grad_kernel, rows_grid(rows, KERN_GRID_MAX), KERN_BLOCK, stream, dx,
                       dy, y, rows, cols);
}

/* ---- to one number --------------------------------------------------------------------------- */

/* Second pass, one block: loss[0] += (sum of the parts) / n. 4 bytes and 1 flop a part, of which
 * there are at most KERN_CUDA_PARTS. */
__global__ static void mean_kernel(float *loss, const float *parts, unsigned count, float n) {
    float sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += KERN_BLOCK) {
        sum += parts[i];
    }
    sum = kern_block_sum(sum);
    if (threadIdx.x == 0) {
        loss[0] += sum / n;
    }
}

/* First pass, a thread an element of z, t, dz[n], grid-strided: one partial sum for each block; dz
 * where it is wanted. 8 bytes an element, 12 with dz; 45 and 57 flops. */
__global__ static void bce_kernel(float *parts, float *dz, const float *z, const float *t, size_t n,
                                  float inv_n) {
    float sum = 0;
    KERN_EACH(i, n) {
        float x = z[i], y = t[i];
        float e = expf(-fabsf(x)); /* never overflows, and serves both the loss and the sigmoid */
        sum += fmaxf(x, 0) - x * y + log1pf(e);
        if (dz != nullptr) {
            float s = x >= 0 ? 1.0f / (1.0f + e) : e / (1.0f + e);
            dz[i] = (s - y) * inv_n;
        }
    }
    sum = kern_block_sum(sum);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
    }
}

/* First pass: z, dz[rows][cols], a warp to a row, grid-strided. A row whose label is outside
 * [0, cols) counts nothing. A row is read from cache after the first time: 4 bytes an element, 8
 * with dz, and 4 a row for its label; 23 flops, 54 with dz. */
__global__ static void ce_kernel(float *parts, float *dz, const float *z, const int32_t *label,
                                 size_t rows, size_t cols, float inv_rows) {
    float loss = 0;
    for (size_t r = warp_first(); r < rows; r += warp_step()) {
        const float *in = z + r * cols;
        int32_t hit = label[r];
        bool counts = hit >= 0 && (size_t)hit < cols;
        float top = row_max(in, cols);
        float sum = row_exp_sum(in, cols, top);
        if (counts && lane() == 0) {
            loss += logf(sum) + (top - in[hit]);
        }
        __syncwarp(); /* lane 0 has read in[hit], which may be dz's */
        for (size_t c = lane(); dz != nullptr && c < cols; c += KERN_WARP) {
            float p = expf(in[c] - top) / sum - (c == (size_t)hit ? 1.0f : 0.0f);
            dz[r * cols + c] = counts ? p * inv_rows : 0;
        }
    }
    loss = kern_block_sum(loss);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = loss;
    }
}

/* First pass of a sum of squares, a thread an element, grid-strided: 4 n bytes read, 2 n flops, one
 * partial sum for each block. */
__global__ static void square_kernel(float *parts, const float *x, size_t n) {
    float sum = 0;
    KERN_EACH(i, n) {
        sum += x[i] * x[i];
    }
    sum = kern_block_sum(sum);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
    }
}

int kern_cu_square_sum(float *sum, const float *x, size_t n, float *parts, cudaStream_t stream) {
    unsigned grid = kern_grid(n, KERN_BLOCK, KERN_CUDA_PARTS);
    int st = KERN_LAUNCH(square_kernel, grid, KERN_BLOCK, stream, parts, x, n);
    return st != 0 ? st : KERN_LAUNCH(mean_kernel, 1, KERN_BLOCK, stream, sum, parts, grid, 1.0f);
}

static int add_mean(float *loss, const float *parts, unsigned count, size_t n,
                    cudaStream_t stream) {
    return KERN_LAUNCH(mean_kernel, 1, KERN_BLOCK, stream, loss, parts, count, (float)n);
}

int kern_cu_bce_logits(float *loss, float *dz, const float *z, const float *t, size_t n,
                       float *parts, cudaStream_t stream) {
    unsigned grid = kern_grid(n, KERN_BLOCK, KERN_CUDA_PARTS);
    int st = KERN_LAUNCH(bce_kernel, grid, KERN_BLOCK, stream, parts, dz, z, t, n, 1.0f / (float)n);
    return st != 0 ? st : add_mean(loss, parts, grid, n, stream);
}

int kern_cu_softmax_ce(float *loss, float *dz, const float *z, const int32_t *label, size_t rows,
                       size_t cols, float *parts, cudaStream_t stream) {
    unsigned grid = rows_grid(rows, KERN_CUDA_PARTS);
    int st = KERN_LAUNCH(ce_kernel, grid, KERN_BLOCK, stream, parts, dz, z, label, rows, cols,
                         1.0f / (float)rows);
    return st != 0 ? st : add_mean(loss, parts, grid, rows, stream);
}
