/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work along one axis of [outer][len][inner]: one thread an element of the result, grid-strided.
 * Sums are in the order of the indices, in float, as on the CPU.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nn_kernels.h"

#include <math.h>

static unsigned each_grid(size_t n) {
    return kern_grid(n, KERN_BLOCK, KERN_GRID_MAX);
}

/* y[outer][count][inner]: 8 bytes an element, the indices from cache. */
__global__ static void gather_axis_kernel(float *y, const float *x, const int32_t *index, size_t n,
                                          size_t len, size_t count, size_t inner) {
    KERN_EACH(i, n) {
        size_t at = i / inner, outer = at / count;
        int32_t from = index[at - outer * count];
        bool fits = from >= 0 && (size_t)from < len;
        y[i] = fits ? x[(outer * len + (size_t)from) * inner + (i - at * inner)] : NAN;
    }
}

int kern_cu_gather(float *y, const float *x, const int32_t *index, size_t outer, size_t len,
                   size_t count, size_t inner, cudaStream_t stream) {
    size_t n = outer * count * inner;
    return KERN_LAUNCH(gather_axis_kernel, each_grid(n), KERN_BLOCK, stream, y, x, index, n, len,
                       count, inner);
}

/*
 * dx[outer][len][inner] += dy[outer][count][inner] at the indices. `slices`, a power of two, share
 * the places: a thread owns those of one column (outer, inner) whose last bits are its slice, so
 * every place has one owner, who adds in the order of the indices. A slice's threads lie side by
 * side, so a warp skips together what is not its own: count index loads a thread from cache, and 12
 * bytes an element of dy.
 */
__global__ static void gather_grad_kernel(float *dx, const float *dy, const int32_t *index,
                                          size_t columns, size_t slices, size_t len, size_t count,
                                          size_t inner) {
    KERN_EACH(t, columns * slices) {
        size_t slice = t / columns, column = t - slice * columns, outer = column / inner;
        size_t i = column - outer * inner;
        for (size_t at = 0; at < count; at++) {
            int32_t to = index[at];
            if (to >= 0 && (size_t)to < len && ((size_t)to & (slices - 1)) == slice) {
                dx[(outer * len + (size_t)to) * inner + i] += dy[(outer * count + at) * inner + i];
            }
        }
    }
}

int kern_cu_gather_grad(float *dx, const float *dy, const int32_t *index, size_t outer, size_t len,
                        size_t count, size_t inner, cudaStream_t stream) {
    size_t columns = outer * inner, slices = 1;
    while (slices < 64 && slices * 2 <= len && columns * slices < 65536) {
        slices *= 2;
    }
    return KERN_LAUNCH(gather_grad_kernel, each_grid(columns * slices), KERN_BLOCK, stream, dx, dy,
                       index, columns, slices, len, count, inner);
}

/* 8 bytes an element. */
__global__ static void to_index_kernel(int32_t *index, const float *x, size_t n) {
    KERN_EACH(i, n) {
        float v = rintf(x[i]);
        index[i] = v >= 0 && v < 2147483648.0f ? (int32_t)v : -1;
    }
}

int kern_cu_to_index(int32_t *index, const float *x, size_t n, cudaStream_t stream) {
    return KERN_LAUNCH(to_index_kernel, each_grid(n), KERN_BLOCK, stream, index, x, n);
}

/* y[outer][out][inner], each element's taps in order: 4 bytes written an element, 4 read a tap. */
__global__ static void axis_mix_kernel(float *y, const float *x, const int32_t *start,
                                       const int32_t *from, const float *weight, size_t n,
                                       size_t in, size_t out, size_t inner, bool add) {
    KERN_EACH(i, n) {
        size_t at = i / inner, outer = at / out, o = at - outer * out;
        const float *column = x + outer * in * inner + (i - at * inner);
        float sum = add ? y[i] : 0;
        for (int32_t t = start[o]; t < start[o + 1]; t++) {
            sum += weight[t] * column[(size_t)from[t] * inner];
        }
        y[i] = sum;
    }
}

int kern_cu_axis_mix(float *y, const float *x, const int32_t *start, const int32_t *from,
                     const float *weight, size_t outer, size_t in, size_t out, size_t inner,
                     bool add, cudaStream_t stream) {
    size_t n = outer * out * inner;
    return KERN_LAUNCH(axis_mix_kernel, each_grid(n), KERN_BLOCK, stream, y, x, start, from, weight,
                       n, in, out, inner, add);
}
