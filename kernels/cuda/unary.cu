/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions of one array: one thread an element, grid-strided, each moving its operands once: 8
 * bytes an element forward, 8 to 16 in the gradient. The operation is a template's parameter, so
 * that each is a kernel of its own; as an int, for nvcc cannot name an enum that is a function too.
 * The expressions are those of cpu/unary.c.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nn_kernels.h"

#include <math.h>

#define SQRT_HALF 0.70710678118654752f
#define INV_SQRT_2PI 0.39894228040143268f
#define SQRT_2_PI 0.79788456080286536f
#define GELU_CUBIC 0.044715f

/* NaN stays; all is high where low is above it. */
__device__ static inline float within(float x, float low, float high) {
    float v = x < low ? low : x;
    return v > high ? high : v;
}

__device__ static inline float gelu_inner(float x) {
    return SQRT_2_PI * (x + GELU_CUBIC * (x * x * x));
}

template <int OP> __device__ static inline float value(float x, float a, float b) {
    switch (OP) {
    case KERN_LEAKY_RELU:
        return x > 0 ? x : a * x;
    case KERN_ELU:
        return x > 0 ? x : a * expm1f(x);
    case KERN_HARD_SIGMOID:
        return within(a * x + b, 0, 1);
    case KERN_TANH:
        return tanhf(x);
    case KERN_GELU:
        return 0.5f * x * (1.0f + erff(x * SQRT_HALF));
    case KERN_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(gelu_inner(x)));
    case KERN_ERF:
        return erff(x);
    case KERN_SOFTPLUS:
        return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
    case KERN_EXP:
        return expf(x);
    case KERN_LOG:
        return logf(x);
    case KERN_SQRT:
        return sqrtf(x);
    case KERN_RECIPROCAL:
        return 1.0f / x;
    case KERN_ABS:
        return fabsf(x);
    case KERN_CLIP:
        return within(x, a, b);
    case KERN_AFFINE:
        return a * x + b;
    case KERN_POW:
        return a == 2.0f ? x * x : powf(x, a);
    default:
        return x;
    }
}

/* The derivative at x, where y is the value there. */
template <int OP> __device__ static inline float slope(float x, float y, float a, float b) {
    switch (OP) {
    case KERN_LEAKY_RELU:
        return x > 0 ? 1.0f : a;
    case KERN_ELU:
        return x > 0 ? 1.0f : y + a;
    case KERN_HARD_SIGMOID:
        return y > 0 && y < 1 ? a : 0;
    case KERN_TANH:
        return 1.0f - y * y;
    case KERN_GELU:
        return 0.5f * (1.0f + erff(x * SQRT_HALF)) + x * INV_SQRT_2PI * expf(-0.5f * x * x);
    case KERN_GELU_TANH: {
        float t = tanhf(gelu_inner(x)), inner = SQRT_2_PI * (1.0f + 3.0f * GELU_CUBIC * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
    case KERN_ERF:
        return 2.0f * SQRT_2_PI * SQRT_HALF * expf(-x * x);
    case KERN_SOFTPLUS:
        return 1.0f / (1.0f + expf(-x));
    case KERN_EXP:
        return y;
    case KERN_LOG:
        return 1.0f / x;
    case KERN_SQRT:
        return 0.5f / y;
    case KERN_RECIPROCAL:
        return -y * y;
    case KERN_ABS:
        return x > 0 ? 1.0f : x < 0 ? -1.0f : 0;
    case KERN_CLIP:
        return x >= a && x <= b ? 1.0f : 0;
    case KERN_AFFINE:
        return a;
    case KERN_POW:
        return a == 2.0f ? 2.0f * x : a == 0 ? 0 : a * powf(x, a - 1.0f);
    default:
        return 0;
    }
}

/* y, x[n]: 8 bytes an element; 1 flop (the absolute value) to 42 (softplus). */
template <int OP>
__global__ static void unary_kernel(float *y, const float *x, size_t n, float a, float b) {
    KERN_EACH(i, n) {
        y[i] = value<OP>(x[i], a, b);
    }
}

/* dx, dy, x, y[n]: 12 bytes an element, for a slope takes x or y; 16 where it takes both (ELU), 8
 * where neither (affine). 1 flop to 49 (GELU). */
template <int OP>
__global__ static void unary_grad_kernel(float *dx, const float *dy, const float *x, const float *y,
                                         size_t n, float a, float b) {
    KERN_EACH(i, n) {
        dx[i] = dy[i] * slope<OP>(x[i], y[i], a, b);
    }
}

#define EVERY_UNARY(CASE)                                                                          \
    CASE(KERN_LEAKY_RELU)                                                                          \
    CASE(KERN_ELU)                                                                                 \
    CASE(KERN_HARD_SIGMOID)                                                                        \
    CASE(KERN_TANH)                                                                                \
    CASE(KERN_GELU)                                                                                \
    CASE(KERN_GELU_TANH)                                                                           \
    CASE(KERN_ERF)                                                                                 \
    CASE(KERN_SOFTPLUS)                                                                            \
    CASE(KERN_EXP)                                                                                 \
    CASE(KERN_LOG)                                                                                 \
    CASE(KERN_SQRT)                                                                                \
    CASE(KERN_RECIPROCAL)                                                                          \
    CASE(KERN_ABS)                                                                                 \
    CASE(KERN_CLIP)                                                                                \
    CASE(KERN_AFFINE)                                                                              \
    CASE(KERN_POW)

static unsigned each_grid(size_t n) {
    return kern_grid(n, KERN_BLOCK, KERN_GRID_MAX);
}

int kern_cu_unary(enum kern_unary op, float *y, const float *x, size_t n, float alpha, float beta,
                  cudaStream_t stream) {
#define CASE(OP)                                                                                   \
    case OP:                                                                                       \
        return KERN_LAUNCH(unary_kernel<OP>, each_grid(n), KERN_BLOCK, stream, y, x, n, alpha,     \
                           beta);
    switch (op) {
        EVERY_UNARY(CASE)
    default:
        return cudaErrorInvalidValue;
    }
#undef CASE
}

int kern_cu_unary_grad(enum kern_unary op, float *dx, const float *dy, const float *x,
                       const float *y, size_t n, float alpha, float beta, cudaStream_t stream) {
#define CASE(OP)                                                                                   \
    case OP:                                                                                       \
        return KERN_LAUNCH(unary_grad_kernel<OP>, each_grid(n), KERN_BLOCK, stream, dx, dy, x, y,  \
                           n, alpha, beta);
    switch (op) {
        EVERY_UNARY(CASE)
    default:
        return cudaErrorInvalidValue;
    }
#undef CASE
}

/* ---- over rows ------------------------------------------------------------------------------- */

/* A warp to a row, grid-strided; a row is read three times, from cache after the first: 8 bytes an
 * element. */
__global__ static void log_softmax_kernel(float *y, const float *x, size_t rows, size_t cols) {
    unsigned lane = threadIdx.x % KERN_WARP;
    for (size_t r = (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP; r < rows;
         r += (size_t)gridDim.x * KERN_WARPS) {
        const float *in = x + r * cols;
        float top = -INFINITY, sum = 0;
        for (size_t c = lane; c < cols; c += KERN_WARP) {
            top = fmaxf(top, in[c]);
        }
        top = kern_warp_max(top);
        for (size_t c = lane; c < cols; c += KERN_WARP) {
            sum += expf(in[c] - top);
        }
        float log_sum = logf(kern_warp_sum(sum));
        for (size_t c = lane; c < cols;
             c += KERN_WARP) { /* top + log_sum would round at top's size */
            y[r * cols + c] = in[c] - top - log_sum;
        }
    }
}

/* As above: 12 bytes an element. */
__global__ static void log_softmax_grad_kernel(float *dx, const float *dy, const float *y,
                                               size_t rows, size_t cols) {
    unsigned lane = threadIdx.x % KERN_WARP;
    for (size_t r = (size_t)blockIdx.x * KERN_WARPS + threadIdx.x / KERN_WARP; r < rows;
         r += (size_t)gridDim.x * KERN_WARPS) {
        size_t at = r * cols;
        float sum = 0;
        for (size_t c = lane; c < cols; c += KERN_WARP) {
            sum += dy[at + c];
        }
        sum = kern_warp_sum(sum);
        for (size_t c = lane; c < cols; c += KERN_WARP) {
            dx[at + c] = dy[at + c] - expf(y[at + c]) * sum;
        }
    }
}

int kern_cu_log_softmax(float *y, const float *x, size_t rows, size_t cols, cudaStream_t stream) {
    return KERN_LAUNCH(log_softmax_kernel, kern_grid(rows, KERN_WARPS, KERN_GRID_MAX), KERN_BLOCK,
                       stream, y, x, rows, cols);
}

int kern_cu_log_softmax_grad(float *dx, const float *dy, const float *y, size_t rows, size_t cols,
                             cudaStream_t stream) {
    return KERN_LAUNCH(log_softmax_grad_kernel, kern_grid(rows, KERN_WARPS, KERN_GRID_MAX),
                       KERN_BLOCK, stream, dx, dy, y, rows, cols);
}

/* ---- dropout --------------------------------------------------------------------------------- */

/* The generator of cpu/unary.c, so that a seed means the same elements everywhere: 8 bytes an
 * element. */
__global__ static void dropout_kernel(float *y, const float *x, size_t n, uint64_t seed,
                                      const uint64_t *turn, uint64_t limit, float scale) {
    seed ^= turn != nullptr ? *turn : 0;
    KERN_EACH(i, n) {
        uint64_t z = seed + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        z = (z ^ z >> 31) >> 32;
        y[i] = z < limit ? 0 : x[i] * scale;
    }
}

int kern_cu_dropout(float *y, const float *x, size_t n, float ratio, uint64_t seed,
                    const uint64_t *turn, cudaStream_t stream) {
    return KERN_LAUNCH(dropout_kernel, each_grid(n), KERN_BLOCK, stream, y, x, n, seed, turn,
                       (uint64_t)((double)ratio * 4294967296.0), 1.0f / (1.0f - ratio));
}

/* One thread: 8 bytes. */
__global__ static void put_turn_kernel(uint64_t *turn, uint64_t value) {
    *turn = value;
}

int kern_cu_put_turn(uint64_t *turn, uint64_t value, cudaStream_t stream) {
    return KERN_LAUNCH(put_turn_kernel, 1, 1, stream, turn, value);
}
