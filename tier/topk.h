/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One segment of a TOPK payload (tier/segment.h): the elements of largest magnitude, the others
 * taken as 0. A u32 count, a byte that says how the places are written, the places, and the values
 * as little-endian float32 in ascending order of place, none of them 0.
 *
 * Places, in whichever of two ways is shorter, a bitmap where both are as long: 0, for each the
 * number of elements passed over since the one before, seven bits a byte, lowest first, the eighth
 * bit saying that more follow; 1, a bit for each element of the segment, lowest first. So there is
 * one byte string for one segment, and a decoder refuses every other.
 *
 * Threads: pure functions; a reader belongs to one thread.
 */
#ifndef CONSILIUM_TIER_TOPK_H
#define CONSILIUM_TIER_TOPK_H

#include "tier/err.h"
#include "tier/limits.h"
#include "tier/payload.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TIER_TOPK_HEAD_BYTES 5u
/* Most bytes of a segment of n elements. */
#define TIER_TOPK_BOUND(n) (TIER_TOPK_HEAD_BYTES + ((size_t)(n) + 7) / 8 + 4 * (size_t)(n))

/* Elements kept of n: share * n, rounded up. 0 < share <= 1. */
size_t tier_topk_count(double share, size_t n);
/*
 * Writes the `keep` elements of largest magnitude of x[n], n at most TIER_SEGMENT_ELEMENTS, into
 * out[TIER_TOPK_BOUND(n)] and returns the bytes. Of equal ones the first are kept; zeros never are.
 * What is kept becomes 0 in x, so that x holds what was dropped. About 36 KiB of stack.
 */
size_t tier_topk_encode(float *x, size_t n, size_t keep, uint8_t *out);

struct tier_topk_reader {
    const struct tier_payload *payload;
    uint64_t segment;             /* for messages */
    uint64_t place_at, place_end; /* offsets in the payload */
    uint64_t value_at;
    size_t n, done;     /* elements of the segment, and those read */
    size_t count, seen; /* places, and those read */
    size_t next;        /* the place after the last one read, or with `ahead` the place itself */
    size_t gap_bytes;   /* that the places read so far take as gaps */
    bool bitmap, ahead;
};
/* The segment of n elements at that offset of the payload. TIER_EUPDATE: its lengths contradict
 * each other. Borrows the payload. */
enum tier_status tier_topk_begin(struct tier_topk_reader *r, const struct tier_payload *payload,
                                 uint64_t segment, uint64_t offset, size_t bytes, size_t n,
                                 struct tier_err *err);
/* The next n elements, a whole number of 8 or what is left. TIER_EUPDATE says what is wrong. About
 * 8 KiB of stack. */
enum tier_status tier_topk_next(struct tier_topk_reader *r, float *x, size_t n,
                                struct tier_err *err);

#endif
