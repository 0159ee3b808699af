/* SPDX-License-Identifier: Apache-2.0 */
/* How a window's taps, outputs and inputs belong together, for window.cu and conv.cu. */
#ifndef CONSILIUM_KERN_CUDA_WINDOW_CUH
#define CONSILIUM_KERN_CUDA_WINDOW_CUH

#include "kernels/cuda/nn_kernels.h"

struct place {
    int at[3];
};

/* Every tap, in ascending and in descending order. A tap's place is an int in each dimension. */
#define KERN_TAPS(k, q)                                                                            \
    for (k.at[0] = 0; k.at[0] < (q).kernel[0]; k.at[0]++)                                          \
        for (k.at[1] = 0; k.at[1] < (q).kernel[1]; k.at[1]++)                                      \
            for (k.at[2] = 0; k.at[2] < (q).kernel[2]; k.at[2]++)
#define KERN_TAPS_BACK(k, q)                                                                       \
    for (k.at[0] = (q).kernel[0] - 1; k.at[0] >= 0; k.at[0]--)                                     \
        for (k.at[1] = (q).kernel[1] - 1; k.at[1] >= 0; k.at[1]--)                                 \
            for (k.at[2] = (q).kernel[2] - 1; k.at[2] >= 0; k.at[2]--)

__device__ static inline struct place place_of(size_t flat, const int dims[3]) {
    size_t rows = flat / (size_t)dims[2], planes = rows / (size_t)dims[1];
    struct place p;
    p.at[2] = (int)(flat - rows * (size_t)dims[2]);
    p.at[1] = (int)(rows - planes * (size_t)dims[1]);
    p.at[0] = (int)planes;
    return p;
}

/* Which input spot tap k of output o sees; false in the padding. */
__device__ static inline bool sees(const struct kern_cu_window &q, const struct place &o,
                                   const struct place &k, size_t *spot_out) {
    size_t spot = 0;
    for (int d = 0; d < 3; d++) {
        long long at = (long long)o.at[d] * q.stride[d] + (long long)k.at[d] * q.dilation[d] -
                       (long long)q.pad[d];
        if (at < 0 || at >= q.in[d]) {
            return false;
        }
        spot = spot * (size_t)q.in[d] + (size_t)at;
    }
    *spot_out = spot;
    return true;
}

/* Which output's tap k sees input i; false where none does. Descending taps are ascending
 * outputs. */
__device__ static inline bool seen_by(const struct kern_cu_window &q, const struct place &i,
                                      const struct place &k, size_t *out_out) {
    size_t out = 0;
    for (int d = 0; d < 3; d++) {
        long long at = (long long)i.at[d] + q.pad[d] - (long long)k.at[d] * q.dilation[d];
        if (at < 0 || at > 0x7fffffffLL) {
            return false;
        }
        int o = (int)at / q.stride[d];
        if (o * q.stride[d] != (int)at || o >= q.out[d]) {
            return false;
        }
        out = out * (size_t)q.out[d] + (size_t)o;
    }
    *out_out = out;
    return true;
}

#endif
