/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools over channels-last images, [batch][spots][channels]: one thread an element of the result,
 * grid-strided, neighbours in a warp being neighbouring channels. Gradients gather: a thread looks
 * at every window that sees its input, in ascending order, so nothing is added atomically and the
 * order is the CPU's.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/window.cuh"

#include <math.h>

struct kern_cu_window kern_cu_window_of(const struct kern_window *window) {
    struct kern_cu_window q;
    q.in_spots = q.out_spots = q.taps = 1;
    for (unsigned i = 0; i < 3; i++) {
        bool there = i + window->spatial >= 3;
        unsigned k = there ? i + window->spatial - 3 : 0;
        q.in[i] = there ? (int)window->in[k] : 1;
        q.out[i] = there ? (int)window->out[k] : 1;
        q.kernel[i] = there ? (int)window->kernel[k] : 1;
        q.stride[i] = there ? (int)window->stride[k] : 1;
        q.dilation[i] = there ? (int)window->dilation[k] : 1;
        q.pad[i] = there ? (int)window->pad[k] : 0;
        q.in_spots *= (size_t)q.in[i];
        q.out_spots *= (size_t)q.out[i];
        q.taps *= (size_t)q.kernel[i];
    }
    return q;
}

/* 8 bytes written an output, 4 read a tap, mostly from cache. */
__global__ static void max_pool_kernel(float *y, int32_t *index, const float *x, size_t n,
                                       size_t channels, struct kern_cu_window q) {
    KERN_EACH(i, n) {
        size_t at = i / channels, sample = at / q.out_spots;
        const float *image = x + sample * q.in_spots * channels + (i - at * channels);
        struct place o = place_of(at - sample * q.out_spots, q.out);
        float best = -INFINITY;
        int32_t where = -1;
        struct place k;
        KERN_TAPS(k, q) {
            size_t spot;
            if (!sees(q, o, k, &spot)) {
                continue;
            }
            float v = image[spot * channels];
            if (where < 0 || v > best || (v != v && best == best)) {
                best = v;
                where = (int32_t)spot;
            }
        }
        y[i] = best;
        index[i] = where;
    }
}

int kern_cu_max_pool(float *y, int32_t *index, const float *x, size_t batch, size_t channels,
                     const struct kern_cu_window *window, cudaStream_t stream) {
    size_t n = batch * window->out_spots * channels;
    return KERN_LAUNCH(max_pool_kernel, kern_grid(n, KERN_BLOCK, KERN_GRID_MAX), KERN_BLOCK, stream,
                       y, index, x, n, channels, *window);
}

/* 4 bytes written an input, 4 to 8 read a window that sees it. */
__global__ static void max_pool_grad_kernel(float *dx, const float *dy, const int32_t *index,
                                            size_t n, size_t channels, struct kern_cu_window q,
                                            bool add) {
    KERN_EACH(i, n) {
        size_t at = i / channels, sample = at / q.in_spots, spot = at - sample * q.in_spots;
        size_t first = sample * q.out_spots * channels + (i - at * channels), out;
        struct place in = place_of(spot, q.in), k;
        float sum = add ? dx[i] : 0;
        KERN_TAPS_BACK(k, q) {
            if (seen_by(q, in, k, &out) && index[first + out * channels] == (int32_t)spot) {
                sum += dy[first + out * channels];
            }
        }
        dx[i] = sum;
    }
}

int kern_cu_max_pool_grad(float *dx, const float *dy, const int32_t *index, size_t batch,
                          size_t channels, const struct kern_cu_window *window, bool add,
                          cudaStream_t stream) {
    size_t n = batch * window->in_spots * channels;
    return KERN_LAUNCH(max_pool_grad_kernel, kern_grid(n, KERN_BLOCK, KERN_GRID_MAX), KERN_BLOCK,
                       stream, dx, dy, index, n, channels, *window, add);
}

/* Taps of output o of one dimension that lie inside. */
__device__ static inline int inside(int o, int in, int kernel, int stride, int dilation, int pad) {
    int n = 0;
    for (int k = 0; k < kernel; k++) {
        long long at = (long long)o * stride + (long long)k * dilation - pad;
        n += at >= 0 && at < in;
    }
    return n;
}

/* 1 / what a window's sum is divided by. */
__device__ static inline float share(const struct kern_cu_window &q, struct place o,
                                     bool count_pad) {
    size_t n = q.taps;
    if (!count_pad) {
        n = 1;
        for (int d = 0; d < 3; d++) {
            n *=
                (size_t)inside(o.at[d], q.in[d], q.kernel[d], q.stride[d], q.dilation[d], q.pad[d]);
        }
    }
    return n == 0 ? 0 : 1.0f / (float)n;
}

/* 4 bytes written an output, 4 read a tap, mostly from cache. */
__global__ static void mean_pool_kernel(float *y, const float *x, size_t n, size_t channels,
                                        struct kern_cu_window q, bool count_pad) {
    KERN_EACH(i, n) {
        size_t at = i / channels, sample = at / q.out_spots, spot;
        const float *image = x + sample * q.in_spots * channels + (i - at * channels);
        struct place o = place_of(at - sample * q.out_spots, q.out), k;
        float sum = 0;
        KERN_TAPS(k, q) {
            if (sees(q, o, k, &spot)) {
                sum += image[spot * channels];
            }
        }
        y[i] = sum * share(q, o, count_pad);
    }
}

int kern_cu_mean_pool(float *y, const float *x, size_t batch, size_t channels,
                      const struct kern_cu_window *window, bool count_pad, cudaStream_t stream) {
    size_t n = batch * window->out_spots * channels;
    return KERN_LAUNCH(mean_pool_kernel, kern_grid(n, KERN_BLOCK, KERN_GRID_MAX), KERN_BLOCK,
                       stream, y, x, n, channels, *window, count_pad);
}

/* 4 bytes written an input, 4 read a window that sees it. */
__global__ static void mean_pool_grad_kernel(float *dx, const float *dy, size_t n, size_t channels,
                                             struct kern_cu_window q, bool count_pad, bool add) {
    KERN_EACH(i, n) {
        size_t at = i / channels, sample = at / q.in_spots;
        size_t first = sample * q.out_spots * channels + (i - at * channels), out;
        struct place in = place_of(at - sample * q.in_spots, q.in), k;
        float sum = add ? dx[i] : 0;
        KERN_TAPS_BACK(k, q) {
            if (seen_by(q, in, k, &out)) {
                sum += dy[first + out * channels] * share(q, place_of(out, q.out), count_pad);
            }
        }
        dx[i] = sum;
    }
}

int kern_cu_mean_pool_grad(float *dx, const float *dy, size_t batch, size_t channels,
                           const struct kern_cu_window *window, bool count_pad, bool add,
                           cudaStream_t stream) {
    size_t n = batch * window->in_spots * channels;
    return KERN_LAUNCH(mean_pool_grad_kernel, kern_grid(n, KERN_BLOCK, KERN_GRID_MAX), KERN_BLOCK,
                       stream, dx, dy, n, channels, *window, count_pad, add);
}
