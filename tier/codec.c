/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bits go through one 64-bit word: packing fills it and stores it whole, unpacking loads the eight
 * bytes a value lies in and shifts it to the top and back, which also extends its sign. There is no
 * loop over bits, and nothing is read or written beyond a block: unpacking works on a copy that
 * has room for the last load.
 */
#include "tier/codec.h"

#include "tier/bytes.h"

#include <string.h>

/* Bits of the widest of v[n] in two's complement; 0 where all are zero. */
static unsigned block_width(const int64_t *v, size_t n) {
    uint64_t any = 0, magnitude = 0;

    for (size_t i = 0; i < n; i++) {
        any |= (uint64_t)v[i];
        magnitude |= (uint64_t)(v[i] ^ (v[i] >> 63));
    }
    if (any == 0)
        return 0;
    return magnitude == 0 ? 1 : 65 - (unsigned)__builtin_clzll(magnitude);
}

static size_t block_bytes(unsigned width, size_t n) {
    return (n * width + 7) / 8;
}

static size_t pack_block(const int64_t *v, size_t n, uint8_t *out) {
    unsigned width = block_width(v, n);
    uint64_t mask = width == 64 ? UINT64_MAX : (UINT64_C(1) << width) - 1;
    uint64_t word = 0;
    unsigned fill = 0;

    *out++ = (uint8_t)width;
    if (width == 0)
        return 1;
    for (size_t i = 0; i < n; i++) {
        uint64_t x = (uint64_t)v[i] & mask;
        word |= x << fill;
        fill += width;
        if (fill >= 64) {
            tier_put_u64(out, word);
            out += 8;
            fill -= 64;
            word = fill == 0 ? 0 : x >> (width - fill);
        }
    }
    for (; fill > 0; fill = fill > 8 ? fill - 8 : 0) {
        *out++ = (uint8_t)word;
        word >>= 8;
    }
    return 1 + block_bytes(width, n);
}

size_t tier_pack(const int64_t *v, size_t n, uint8_t *out) {
    size_t used = 0;

    for (size_t i = 0; i < n; i += TIER_BLOCK_ELEMENTS) {
        size_t m = n - i < TIER_BLOCK_ELEMENTS ? n - i : TIER_BLOCK_ELEMENTS;
        used += pack_block(v + i, m, out + used);
    }
    return used;
}

/* in has 16 readable bytes behind the last value. */
static void unpack_values(const uint8_t *in, unsigned width, int64_t *v, size_t n) {
    unsigned up = 64 - width;
    size_t bit = 0;

    if (width <= 57) { /* a value and the up to 7 bits before it fit one load */
        for (size_t i = 0; i < n; i++, bit += width)
            v[i] = (int64_t)(tier_get_u64(in + bit / 8) >> bit % 8 << up) >> up;
        return;
    }
    for (size_t i = 0; i < n; i++, bit += width) {
        unsigned shift = bit % 8;
        uint64_t x = tier_get_u64(in + bit / 8) >> shift;
        if (shift > 0)
            x |= (uint64_t)in[bit / 8 + 8] << (64 - shift);
        v[i] = (int64_t)(x << up) >> up;
    }
}

enum tier_status tier_unpack_block(const uint8_t *in, size_t len, int64_t *v, size_t n,
                                   size_t *used_out, struct tier_err *err) {
    uint8_t copy[TIER_BLOCK_ELEMENTS * 8 + 16];

    if (n == 0 || n > TIER_BLOCK_ELEMENTS)
        return tier_fail(err, TIER_EINTERNAL, "a block of %zu values", n);
    if (len == 0)
        return tier_fail(err, TIER_EUPDATE, "the packed sums end before their last block");
    unsigned width = in[0];
    if (width > 64)
        return tier_fail(err, TIER_EUPDATE,
                         "a block of packed sums is %u bits wide, the most is 64", width);
    if (width == 0) {
        memset(v, 0, n * sizeof *v);
        *used_out = 1;
        return TIER_OK;
    }
    size_t bytes = block_bytes(width, n);
    if (bytes > len - 1)
        return tier_fail(err, TIER_EUPDATE,
                         "a block of packed sums needs %zu bytes, but only %zu are left", bytes,
                         len - 1);
    memcpy(copy, in + 1, bytes);
    memset(copy + bytes, 0, 16);
    unpack_values(copy, width, v, n);
    if (block_width(v, n) != width)
        return tier_fail(err, TIER_EUPDATE,
                         "a block of packed sums is %u bits wide where %u would do", width,
                         block_width(v, n));
    unsigned fill = (unsigned)(bytes * 8 - n * width);
    if (fill > 0 && copy[bytes - 1] >> (8 - fill) != 0)
        return tier_fail(err, TIER_EUPDATE,
                         "the last byte of a block of packed sums is not filled with zeros");
    *used_out = 1 + bytes;
    return TIER_OK;
}

enum tier_status tier_unpack(const uint8_t *in, size_t len, int64_t *v, size_t n, size_t *used_out,
                             struct tier_err *err) {
    size_t used = 0;

    for (size_t i = 0; i < n; i += TIER_BLOCK_ELEMENTS) {
        size_t m = n - i < TIER_BLOCK_ELEMENTS ? n - i : TIER_BLOCK_ELEMENTS;
        size_t block = 0;
        TIER_TRY(tier_unpack_block(in + used, len - used, v + i, m, &block, err));
        used += block;
    }
    *used_out = used;
    return TIER_OK;
}
