/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deltas of one segment of an update as float32, a few blocks at a time, whatever encoding they
 * came in: F32 as they are, the shorter forms decoded. Decoding has one result on every machine, so
 * what is summed afterwards is as exact as with F32. Only the form is checked here, not the range:
 * whoever adds or merges the elements does that with what comes out.
 *
 * A segment that is a zstd frame is unpacked as a whole, into the caller's tier_unzip: one that is
 * read side by side with others needs one of its own until its last element. Merges, which read all
 * updates so, take none; a plan has either.
 *
 * Threads: a decoder belongs to one thread; many may read the same update. About 25 KiB of stack.
 */
#ifndef CONSILIUM_TIER_DECODE_H
#define CONSILIUM_TIER_DECODE_H

#include "tier/segment.h"
#include "tier/topk.h"
#include "tier/zip.h"

struct tier_decoder {
    struct tier_payload payload;
    const struct tier_manifest *manifest;
    enum tier_encoding encoding;
    uint64_t segment;
    uint64_t at; /* of the next element, in the payload */
    size_t done; /* elements of the segment that were read */
    struct tier_topk_reader topk;
};

/* At the front of the segment, of an update that is not a SUM. Borrows all until the last read;
 * `unzip` may be NULL, which takes no frame. */
enum tier_status tier_decoder_begin(struct tier_decoder *d, const struct tier_update *update,
                                    const struct tier_manifest *manifest, uint64_t segment,
                                    struct tier_extent extent, struct tier_unzip *unzip,
                                    struct tier_err *err);
/*
 * The next n elements, a whole number of TIER_BLOCK_ELEMENTS or what is left of the segment.
 * TIER_EUPDATE names the update, and the tensor and element of a block that is none.
 */
enum tier_status tier_decoder_next(struct tier_decoder *d, float *x, size_t n,
                                   struct tier_err *err);

#endif
