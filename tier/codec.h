/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lossless packing of int64 sums: blocks of TIER_BLOCK_ELEMENTS values, each a width byte (bits of
 * its widest value in two's complement; 0 means all zero) and the values at that width, little-
 * endian bit order, the last byte of a block filled with zero bits. The width is the smallest that
 * fits and nothing else is accepted, so equal sums have equal bytes.
 *
 * A sum update's payload (tier/segment.h) is made of segments packed with this: the hi limbs of a
 * segment's elements, then the lo limbs of its wide ones, then after all segments a directory of
 * u32 segment lengths.
 *
 * Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_CODEC_H
#define CONSILIUM_TIER_CODEC_H

#include "tier/err.h"
#include "tier/limits.h"

#include <stdint.h>

/* Most bytes that n packed values take. */
#define TIER_PACK_BOUND(n)                                                                         \
    ((size_t)(n)*8 + ((size_t)(n) + TIER_BLOCK_ELEMENTS - 1) / TIER_BLOCK_ELEMENTS)

/* Packs v[n] into out, which has room for TIER_PACK_BOUND(n) bytes; returns the bytes written. */
size_t tier_pack(const int64_t *v, size_t n, uint8_t *out);

/*
 * Unpacks one block of n values (1..TIER_BLOCK_ELEMENTS) from the front of in[len].
 * *used_out is the number of bytes it took. TIER_EUPDATE: cut short, a width over 64, a width wider
 * than its values need, fill bits that are not zero. v may have been written to on failure.
 */
enum tier_status tier_unpack_block(const uint8_t *in, size_t len, int64_t *v, size_t n,
                                   size_t *used_out, struct tier_err *err);
/* As above for n values in blocks, n may be 0. */
enum tier_status tier_unpack(const uint8_t *in, size_t len, int64_t *v, size_t n, size_t *used_out,
                             struct tier_err *err);

#endif
