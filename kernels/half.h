/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The half precisions, one number at a time, made with integers: the same bits from every compiler,
 * instruction set and GPU. Updates are compressed with them (cpu/compress.c), and matrix products
 * take them where mixed precision is allowed (kern_device_products).
 */
#ifndef CONSILIUM_KERN_HALF_H
#define CONSILIUM_KERN_HALF_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define KERN_HALF static __host__ __device__ __forceinline__
#else
#define KERN_HALF static inline __attribute__((always_inline))
#endif

KERN_HALF uint32_t kern_half_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

KERN_HALF float kern_half_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/*
 * To binary16, to nearest, ties to even. Below 2^-14 the unit is 2^-24, which is float32's unit at
 * 0.5: adding 0.5 rounds there. Above, the exponent's bias goes from 127 to 15 and 13 bits go away.
 */
KERN_HALF uint16_t kern_f16_of(float x) {
    uint32_t u = kern_half_bits(x), a = u & 0x7fffffffu;
    uint32_t small = kern_half_bits(kern_half_float(a) + 0.5f) - 0x3f000000u;
    uint32_t normal = (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13;
    uint32_t h = a < 0x38800000u ? small : normal;
    h = a >= 0x47800000u ? 0x7c00u : h; /* 65536 and above */
    h = a > 0x7f800000u ? 0x7e00u : h;
    return (uint16_t)(h | (u >> 16 & 0x8000u));
}

KERN_HALF float kern_f16_value(uint16_t h) {
    uint32_t e = h & 0x7fffu;
    uint32_t normal = (e << 13) + (e >= 0x7c00u ? 224u << 23 : 112u << 23);
    uint32_t small = kern_half_bits((float)(int32_t)e * 0x1p-24f);
    return kern_half_float((e < 0x400u ? small : normal) | (uint32_t)(h & 0x8000u) << 16);
}

/* To bfloat16, to nearest, ties to even. */
KERN_HALF uint16_t kern_bf16_of(float x) {
    uint32_t u = kern_half_bits(x);
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40u : rounded);
}

KERN_HALF float kern_bf16_value(uint16_t h) {
    return kern_half_float((uint32_t)h << 16);
}

#endif
