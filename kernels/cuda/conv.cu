/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a convolution by matrix products needs beside them: patches out of images and back, and
 * weights in the patches' order; and depthwise convolutions, which are no products. One thread an
 * element, grid-strided; neighbours are neighbouring channels of one tap, so memory is read and
 * written in runs of a group's channels.
 */
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/window.cuh"
#include "kernels/half.h"

/* What a product takes: a float, or a half. */
template <int HOW> struct Taken {
    typedef uint16_t type;
    __device__ static type of(float v) {
        return HOW == KERN_F16 ? kern_f16_of(v) : kern_bf16_of(v);
    }
};
template <> struct Taken<KERN_EXACT> {
    typedef float type;
    __device__ static type of(float v) {
        return v;
    }
};

/* Launches kernel<HOW>, whose first argument is what it writes for a product. */
#define LAUNCH_TAKEN(how, kernel, n, stream, to, ...)                                              \
    ((how) == KERN_BF16  ? KERN_LAUNCH(kernel<KERN_BF16>, each_grid(n), KERN_BLOCK, stream,        \
                                       (uint16_t *)(to), __VA_ARGS__)                              \
     : (how) == KERN_F16 ? KERN_LAUNCH(kernel<KERN_F16>, each_grid(n), KERN_BLOCK, stream,         \
                                       (uint16_t *)(to), __VA_ARGS__)                              \
                         : KERN_LAUNCH(kernel<KERN_EXACT>, each_grid(n), KERN_BLOCK, stream,       \
                                       (float *)(to), __VA_ARGS__))

static unsigned each_grid(size_t n) {
    return kern_grid(n, KERN_BLOCK, KERN_GRID_MAX);
}

/* patches[groups][rows][taps][group]: 4 bytes written an element, 2 as a half, 4 read, from cache
 * where windows overlap. Rows are output spots `first` and on, of all samples together. */
template <int HOW>
__global__ static void patches_kernel(typename Taken<HOW>::type *patches, const float *x, size_t n,
                                      struct kern_cu_slab s) {
    KERN_EACH(i, n) {
        size_t at = i / s.group, c = i - at * s.group;
        size_t row = at / s.w.taps, tap = at - row * s.w.taps;
        size_t g = row / s.rows, flat = s.first + (row - g * s.rows), spot;
        size_t sample = flat / s.w.out_spots;
        struct place o = place_of(flat - sample * s.w.out_spots, s.w.out);
        float v = 0;
        if (sees(s.w, o, place_of(tap, s.w.kernel), &spot)) {
            v = x[(sample * s.w.in_spots + spot) * s.in_channels + g * s.group + c];
        }
        patches[i] = Taken<HOW>::of(v);
    }
}

int kern_cu_patches(void *patches, const float *x, const struct kern_cu_slab *slab,
                    enum kern_products how, cudaStream_t stream) {
    size_t n = slab->groups * slab->rows * slab->w.taps * slab->group;
    return LAUNCH_TAKEN(how, patches_kernel, n, stream, patches, x, n, *slab);
}

/* dx[sample][spot][channel] of the samples that the slab touches, a thread gathering from every
 * patch of the slab that sees its input, in ascending order of outputs: 4 to 8 bytes an input, 4 an
 * element of the patches. */
__global__ static void unpatch_kernel(float *dx, const float *patches, size_t begin, size_t n,
                                      struct kern_cu_slab s, bool add) {
    KERN_EACH(t, n) {
        size_t i = begin + t, at = i / s.in_channels, channel = i - at * s.in_channels;
        size_t sample = at / s.w.in_spots, g = channel / s.group, c = channel - g * s.group, out;
        size_t first_out = sample * s.w.out_spots;
        struct place in = place_of(at - sample * s.w.in_spots, s.w.in), k;
        float sum = add || first_out < s.first ? dx[i] : 0;
        KERN_TAPS_BACK(k, s.w) {
            if (!seen_by(s.w, in, k, &out)) {
                continue;
            }
            size_t row = first_out + out - s.first; /* wraps where it lies before the slab */
            size_t tap = ((size_t)k.at[0] * (size_t)s.w.kernel[1] + (size_t)k.at[1]) *
                             (size_t)s.w.kernel[2] +
                         (size_t)k.at[2];
            if (row < s.rows) {
                sum += patches[((g * s.rows + row) * s.w.taps + tap) * s.group + c];
            }
        }
        dx[i] = sum;
    }
}

int kern_cu_unpatch(float *dx, const float *patches, const struct kern_cu_slab *slab, bool add,
                    cudaStream_t stream) {
    size_t image = slab->w.in_spots * slab->in_channels;
    size_t from = slab->first / slab->w.out_spots;
    size_t to = (slab->first + slab->rows - 1) / slab->w.out_spots + 1;
    size_t n = (to - from) * image;
    return KERN_LAUNCH(unpatch_kernel, each_grid(n), KERN_BLOCK, stream, dx, patches, from * image,
                       n, *slab, add);
}

/* y[rows][out]: 4 bytes written an element, 4 read a tap, mostly from cache as the weights are. */
__global__ static void depthwise_kernel(float *y, const float *x, const float *w, size_t n,
                                        struct kern_cu_slab s, size_t outs, bool add) {
    size_t each = outs / s.groups;
    KERN_EACH(i, n) {
        size_t row = i / outs, o = i - row * outs, flat = s.first + row, spot;
        size_t sample = flat / s.w.out_spots;
        const float *image = x + sample * s.w.in_spots * s.in_channels + o / each;
        const float *weight = w + o * s.w.taps;
        struct place out = place_of(flat - sample * s.w.out_spots, s.w.out), k;
        float sum = add ? y[i] : 0;
        KERN_TAPS(k, s.w) {
            if (sees(s.w, out, k, &spot)) {
                sum += image[spot * s.in_channels] * *weight;
            }
            weight++;
        }
        y[i] = sum;
    }
}

int kern_cu_depthwise(float *y, const float *x, const float *w, const struct kern_cu_slab *slab,
                      size_t out_channels, bool add, cudaStream_t stream) {
    size_t n = slab->rows * out_channels;
    return KERN_LAUNCH(depthwise_kernel, each_grid(n), KERN_BLOCK, stream, y, x, w, n, *slab,
                       out_channels, add);
}

/* dx[batch][in][channels], a thread gathering from every output that sees its input: 4 bytes
 * written an element, 4 read a tap and output channel, mostly from cache. */
__global__ static void depthwise_grad_kernel(float *dx, const float *dy, const float *w, size_t n,
                                             struct kern_cu_slab s, size_t outs, bool add) {
    size_t each = outs / s.groups;
    KERN_EACH(i, n) {
        size_t at = i / s.in_channels, c = i - at * s.in_channels, sample = at / s.w.in_spots, out;
        const float *slope = dy + sample * s.w.out_spots * outs + c * each;
        const float *weight = w + (c * each + 1) * s.w.taps;
        struct place in = place_of(at - sample * s.w.in_spots, s.w.in), k;
        float sum = add ? dx[i] : 0;
        KERN_TAPS_BACK(k, s.w) {
            weight--;
            if (!seen_by(s.w, in, k, &out)) {
                continue;
            }
            for (size_t e = 0; e < each; e++) {
                sum += slope[out * outs + e] * weight[e * s.w.taps];
            }
        }
        dx[i] = sum;
    }
}

int kern_cu_depthwise_grad(float *dx, const float *dy, const float *w,
                           const struct kern_cu_slab *slab, size_t batch, size_t out_channels,
                           bool add, cudaStream_t stream) {
    size_t n = batch * slab->w.in_spots * slab->in_channels;
    return KERN_LAUNCH(depthwise_grad_kernel, each_grid(n), KERN_BLOCK, stream, dx, dy, w, n, *slab,
                       out_channels, add);
}

/* 8 bytes an element, 6 of halves, [out][taps][group] written in order. */
template <int HOW>
__global__ static void pack_kernel(typename Taken<HOW>::type *to, const float *w, size_t n,
                                   size_t group, size_t taps) {
    KERN_EACH(i, n) {
        size_t at = i / group, c = i - at * group, o = at / taps, tap = at - o * taps;
        to[i] = Taken<HOW>::of(w[(o * group + c) * taps + tap]);
    }
}

int kern_cu_pack(void *to, const float *w, size_t out, size_t group, size_t taps,
                 enum kern_products how, cudaStream_t stream) {
    size_t n = out * group * taps;
    return LAUNCH_TAKEN(how, pack_kernel, n, stream, to, w, n, group, taps);
}

/* 6 bytes an element. */
template <int HOW>
__global__ static void narrow_kernel(typename Taken<HOW>::type *to, const float *x, size_t n) {
    KERN_EACH(i, n) {
        to[i] = Taken<HOW>::of(x[i]);
    }
}

int kern_cu_narrow(uint16_t *to, const float *x, size_t n, enum kern_products how,
                   cudaStream_t stream) {
    return how == KERN_F16
               ? KERN_LAUNCH(narrow_kernel<KERN_F16>, each_grid(n), KERN_BLOCK, stream, to, x, n)
               : KERN_LAUNCH(narrow_kernel<KERN_BF16>, each_grid(n), KERN_BLOCK, stream, to, x, n);
}

/* 12 bytes an element, [out][group][taps] written in order. */
__global__ static void unpack_kernel(float *dw, const float *from, size_t n, size_t group,
                                     size_t taps) {
    KERN_EACH(i, n) {
        size_t at = i / taps, tap = i - at * taps, o = at / group, c = at - o * group;
        dw[i] += from[(o * taps + tap) * group + c];
    }
}

int kern_cu_unpack_add(float *dw, const float *from, size_t out, size_t group, size_t taps,
                       cudaStream_t stream) {
    size_t n = out * group * taps;
    return KERN_LAUNCH(unpack_kernel, each_grid(n), KERN_BLOCK, stream, dw, from, n, group, taps);
}
