/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An update's mean delta as float32, a few blocks of a segment at a time, for merges that look at
 * many updates side by side: a delta as it decodes, a SUM element as S / weight rounded once.
 * Every element is checked as tier/segment.h checks it. Zipped segments are refused
 * (tier/decode.h).
 *
 * Threads: a reader belongs to one thread; many may read the same update. About 60 KiB of stack.
 */
#ifndef CONSILIUM_TIER_SEGMENT_BLOCK_H
#define CONSILIUM_TIER_SEGMENT_BLOCK_H

#include "tier/decode.h"
#include "tier/segment.h"

struct tier_segment_reader {
    const struct tier_update *update;
    const struct tier_manifest *manifest;
    uint64_t segment;
    size_t n, wide_n;           /* elements of the segment, and its wide ones */
    size_t done, wide_done;     /* of them, read */
    uint64_t hi_at, hi_end;     /* the next packed block of the hi plane; where the plane ends */
    uint64_t lo_at, end;        /* the block that holds wide element wide_done; the segment's end */
    struct tier_decoder deltas; /* of any but sums */
};

/* At the front of the segment. Borrows all until the last read. */
enum tier_status tier_segment_reader_begin(struct tier_segment_reader *r,
                                           const struct tier_update *update,
                                           const struct tier_manifest *manifest, uint64_t segment,
                                           struct tier_extent extent, struct tier_err *err);
/*
 * The next n elements, a whole number of TIER_BLOCK_ELEMENTS or what is left of the segment.
 * Negative zeros come as zeros. TIER_EUPDATE names the update, the tensor and the element.
 */
enum tier_status tier_segment_reader_next(struct tier_segment_reader *r, float *x, size_t n,
                                          struct tier_err *err);

#endif
