/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What updates are compressed with (kern.h), one table for each instruction set. All are compiled
 * from the one scalar definition of compress.c: integer operations, and IEEE multiplication,
 * division and comparison, are exact or round alike in every lane, and nothing is contracted, so
 * the tables give the same bits.
 *
 * Threads: any; tables are constant.
 */
#ifndef CONSILIUM_KERN_CPU_COMPRESS_H
#define CONSILIUM_KERN_CPU_COMPRESS_H

#include "kernels/cpu/fold.h"
#include "kernels/kern.h"

struct kern_compress_ops {
    void (*f16_encode)(uint16_t *y, const float *x, size_t n, float factor);
    void (*f16_decode)(float *y, const uint16_t *x, size_t n, float factor);
    void (*bf16_encode)(uint16_t *y, const float *x, size_t n);
    void (*bf16_decode)(float *y, const uint16_t *x, size_t n);
    /* One block of n <= KERN_QUANT_BLOCK elements. */
    void (*quant_block)(uint8_t *y, const float *x, size_t n, int bits, uint64_t key,
                        uint64_t block);
    /* False where the block is not one that quant_block could have made. */
    bool (*dequant_block)(float *y, const uint8_t *x, size_t n, int bits);
};

/* NULL where this processor, or this build, does not have it. */
const struct kern_compress_ops *kern_compress_ops_for(enum kern_isa isa);

#endif
