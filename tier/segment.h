/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An update's payload, one segment (TIER_SEGMENT_ELEMENTS elements) at a time: the one place that
 * knows how payloads are laid out. Folding, verifying and publishing are all loops over segments in
 * bounded memory.
 *
 * SUM payload: for each segment the hi limbs of its elements, then the lo limbs of its wide
 * elements, both packed (tier/codec.h); then a directory of u32 packed lengths, one for each
 * segment. TOPK payload: the segments (tier/topk.h) and such a directory. A zipped payload: the
 * segments, each as it would be otherwise or as a zstd frame where that is shorter (tier/zip.h),
 * and such a directory, where 2^31 is added to the length of a frame. The others are the
 * concatenation, element after element, little-endian: float32 for F32, bfloat16 for BF16; for F16
 * binary16 in units of 2^(15 - f), f the tensor's, so that the clip is 2^15 and all of its range is
 * of use; for Q8, Q4 and ONEBIT blocks of TIER_BLOCK_ELEMENTS (kern_quant_encode and
 * kern_onebit_encode, which count them from the start of the concatenation). tier/decode.h reads
 * all of these as float32.
 *
 * Threads: a cursor and a scratch belong to one thread at a time; tier_segment_add may run in many
 * threads on the same update.
 */
#ifndef CONSILIUM_TIER_SEGMENT_H
#define CONSILIUM_TIER_SEGMENT_H

#include "tier/update.h"

struct tier_unzip;

/* Where the segments of one update lie. Directory entries are read a few at a time, so a cursor's
 * size does not depend on the model's. */
#define TIER_SEGMENT_WINDOW 32
#define TIER_SEGMENT_ZIPPED (1u << 31) /* in a directory entry */
struct tier_segment_cursor {
    const struct tier_update *update;
    const struct tier_manifest *manifest;
    uint64_t segment;   /* the next one */
    uint64_t offset;    /* of the next one, in the payload */
    uint64_t directory; /* offset of the directory; the payload's end where there is none */
    uint32_t window[TIER_SEGMENT_WINDOW];
};
struct tier_extent {
    uint64_t offset;
    size_t bytes;
    bool zipped; /* a zstd frame */
};
/* Checks the header against the manifest. Borrows both for the cursor's life. */
enum tier_status tier_segment_cursor_init(struct tier_segment_cursor *c,
                                          const struct tier_update *update,
                                          const struct tier_manifest *manifest,
                                          struct tier_err *err);
/* The next segment's extent; call once for each segment. The last call also checks that segments
 * and directory fill the payload exactly. */
enum tier_status tier_segment_cursor_next(struct tier_segment_cursor *c, struct tier_extent *out,
                                          struct tier_err *err);

/* Most payload bytes of one segment of that manifest, as F32 or SUM. */
size_t tier_segment_bytes_max(const struct tier_manifest *manifest);
/* The same of deltas, whatever their encoding, before they are zipped. */
size_t tier_segment_plain_max(const struct tier_manifest *manifest);
/* Elements, and wide elements, of the largest segment. */
size_t tier_segment_elements_max(const struct tier_manifest *manifest);
size_t tier_segment_wide_max(const struct tier_manifest *manifest);

/*
 * Reads one segment into scratch[tier_segment_scratch_bytes] and adds weight * q, or S for SUM, of
 * each element to hi, and the lo limbs of the wide ones to lo, times `multiplier`: 1, or what the
 * update's staleness leaves of it (tier/stale.h), with which its weight must be within
 * TIER_WEIGHT_TOTAL_MAX, or TIER_WEIGHT_MAX but for SUM. Every element is checked;
 * TIER_EUPDATE names the update, the tensor and the element, and then hi and lo are spoilt.
 * `unzip` is for zipped extents, NULL where there are none.
 */
enum tier_status tier_segment_add(const struct tier_update *update, uint32_t multiplier,
                                  const struct tier_manifest *manifest, uint64_t segment,
                                  struct tier_extent extent, struct tier_unzip *unzip,
                                  uint8_t *scratch, int64_t *hi, int64_t *lo, struct tier_err *err);

/* Updates that tier_segment_add_group adds at a time. */
#define TIER_SEGMENT_GROUP 8
/* Bytes of scratch for a group, and for tier_segment_add. */
size_t tier_segment_scratch_bytes(const struct tier_manifest *manifest);
/*
 * tier_segment_add for `count` extents, 1 to TIER_SEGMENT_GROUP, not of SUM nor zipped, in one
 * pass: block by block, so that the sums stay in the cache while all of them are added. The error
 * is the first one's by place in the segment, then by place in `updates`.
 */
enum tier_status tier_segment_add_group(const struct tier_update *const *updates,
                                        const uint32_t *multipliers,
                                        const struct tier_extent *extents, size_t count,
                                        const struct tier_manifest *manifest, uint64_t segment,
                                        uint8_t *scratch, int64_t *hi, int64_t *lo,
                                        struct tier_err *err);

/* Packs the sums of one segment into out[tier_segment_bytes_max]; returns the bytes. */
size_t tier_segment_pack(const int64_t *hi, size_t n, const int64_t *lo, size_t wide_n,
                         uint8_t *out);

#endif
