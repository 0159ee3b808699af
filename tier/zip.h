/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One segment of deltas (tier/segment.h) as a zstd frame: the same bytes, fewer. Numbers are taken
 * apart before: their first bytes, then their second bytes and so on, each such plane in zstd
 * blocks of its own, because signs and exponents are much alike where mantissas are noise. Of F32
 * 4 planes, of F16 and BF16 2, of TOPK 4 of its values behind the places as they are; Q8 and Q4 are
 * compressed as they are.
 *
 * A frame from a child is believed in nothing: it must be one frame of today's format that says how
 * much it holds and ends where its bytes end, and what it holds is no more than the caller has
 * room for. Nothing is allocated by what it says. Decoding is what RFC 8878 says, one result on
 * every machine; encoding is one of the library's version, so equal deltas are equal files where
 * that is the same.
 *
 * Threads: a zip and an unzip belong to one thread at a time.
 */
#ifndef CONSILIUM_TIER_ZIP_H
#define CONSILIUM_TIER_ZIP_H

#include "tier/update.h"

/* The encodings that it makes shorter: not sums, whose blocks are as wide as need be, nor ONEBIT,
 * whose bits are as good as random. */
bool tier_zip_takes(enum tier_encoding encoding);

struct tier_zip;
/* For segments of at most bytes_max. */
enum tier_status tier_zip_new(size_t bytes_max, struct tier_zip **out, struct tier_err *err);
void tier_zip_free(struct tier_zip *z);
/* The frame of in[n], valid until the next call; returns its bytes, or 0 where it would not be
 * shorter than n. */
size_t tier_zip_pack(struct tier_zip *z, enum tier_encoding encoding, const uint8_t *in, size_t n,
                     const uint8_t **frame_out);

/* Zeroed at first, and without memory until it is used. One serves any number of updates, one
 * segment after another. */
struct tier_unzip {
    void *zstd;
    uint8_t *frame, *planes;
    size_t room;
};
void tier_unzip_release(struct tier_unzip *u);
/* Bytes that one takes for segments of at most that many. */
size_t tier_unzip_memory(size_t bytes_max);
/* Where a frame is to be read to; frames and what they hold are at most bytes_max. */
enum tier_status tier_unzip_begin(struct tier_unzip *u, size_t bytes_max, uint8_t **frame_out,
                                  struct tier_err *err);
/*
 * What the frame of n bytes that stands there holds: `least` to `most` bytes, valid until the next
 * call. TIER_EUPDATE says what is wrong with it.
 */
enum tier_status tier_unzip_end(struct tier_unzip *u, enum tier_encoding encoding, size_t n,
                                size_t least, size_t most, const uint8_t **out, size_t *bytes_out,
                                struct tier_err *err);

#endif
