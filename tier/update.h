/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An update: what a child pushes to its parent, once per round. A header that says what it is and a
 * payload, sealed by the payload's Merkle root in the header; the SHA-256 of the encoded header is
 * the update's id, so an id names content, not a place. A spoke's update is deltas, as float32 or
 * in a shorter form that decodes to float32 in one way only; a hub's is exact integer sums; a
 * parent cannot tell who sent it and need not.
 *
 * Encoded header, little-endian, no padding: "consupd1", u32 version, u32 header bytes, run[32],
 * u64 round, manifest[32], base_model[32], u64 weight, u32 encoding, u64 saturated, u64
 * payload_bytes, root[32], u32 metrics bytes, metrics (tier/metric.h). 2^16 is added to the
 * encoding of a zipped payload. It is canonical: what decodes encodes again to the same bytes.
 *
 * Threads: no shared state; an object belongs to one thread at a time, but a struct tier_update
 * (an opened sealed file) is immutable and may be read by many.
 */
#ifndef CONSILIUM_TIER_UPDATE_H
#define CONSILIUM_TIER_UPDATE_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"
#include "tier/manifest.h"
#include "tier/metric.h"

struct tier_spool;
struct tier_update;

enum tier_encoding {
    TIER_ENC_F32 = 1, /* float32 deltas in manifest order */
    TIER_ENC_SUM = 2, /* packed int64 sums (tier/segment.h) */
    /* Deltas in a shorter form (tier/segment.h); not of a manifest with wide tensors. */
    TIER_ENC_F16 = 3,       /* binary16 of delta * 2^(f - 15) */
    TIER_ENC_BF16 = 4,      /* bfloat16 */
    TIER_ENC_Q8 = 5,        /* blocks of a scale and 8-bit integers */
    TIER_ENC_Q4 = 6,        /* the same of 4 bits */
    TIER_ENC_TOPK = 7,      /* the largest elements of each segment (tier/topk.h) */
    TIER_ENC_ONEBIT = 8,    /* blocks of a scale and the signs behind a rotation */
    TIER_ENC_MASKED = 9,    /* int64 sums behind masks (tier/masked.h), which no one reads alone */
    TIER_ENC_MASKED32 = 10, /* the same of 32 bits; not of a manifest with wide tensors */
};
const char *tier_encoding_text(enum tier_encoding encoding); /* "f32", "sum", ... */
/* Bytes of n elements from the start of a block on; 0 for SUM, TOPK and what is masked, which
 * follow no such rule. */
uint64_t tier_encoding_bytes(enum tier_encoding encoding, uint64_t n);
static inline bool tier_encoding_masked(enum tier_encoding encoding) {
    return encoding == TIER_ENC_MASKED || encoding == TIER_ENC_MASKED32;
}

struct tier_update_header {
    struct tier_hash run;
    uint64_t round;
    struct tier_hash manifest;
    struct tier_hash base_model; /* the model the deltas are relative to */
    /* 1..TIER_WEIGHT_MAX for deltas, 1..TIER_WEIGHT_TOTAL_MAX for SUM; 0 exactly when the payload
     * is empty: evaluation only. 1 of what is masked, which hides what it weighs. */
    uint64_t weight;
    enum tier_encoding encoding;
    bool zipped;        /* segments are zstd frames (tier/segment.h); not of SUM and ONEBIT */
    uint64_t saturated; /* elements clamped to the clip before sealing */
    uint64_t payload_bytes;
    struct tier_hash root;        /* Merkle root of the payload (tier/hash.h) */
    struct tier_metrics *metrics; /* owned where _decode gave it, else borrowed; NULL is none */
};

/* Fixed part of the encoding: enough to know how long the rest is. */
#define TIER_UPDATE_HEADER_BYTES_MIN 184u

#define TIER_SATURATED_MAX (TIER_ELEMENTS_MAX * TIER_CHILDREN_MAX)

/*
 * Encodes h; *bytes_out is malloc'd. TIER_EARG for values no update may have, TIER_ELIMIT when it
 * would pass TIER_UPDATE_HEADER_BYTES_MAX (too many metrics).
 */
enum tier_status tier_update_header_encode(const struct tier_update_header *h, uint8_t **bytes_out,
                                           size_t *len_out, struct tier_err *err);
/* Decodes exactly len bytes; TIER_EUPDATE says what is wrong. Release with _header_release. */
enum tier_status tier_update_header_decode(const uint8_t *bytes, size_t len,
                                           struct tier_update_header *out, struct tier_err *err);
/* Total length of the header that begins with these TIER_UPDATE_HEADER_BYTES_MIN bytes. */
enum tier_status tier_update_header_length(const uint8_t *bytes, size_t len, size_t *len_out,
                                           struct tier_err *err);
void tier_update_header_release(struct tier_update_header *h); /* frees metrics, zeroes */

/*
 * Is this header one of that manifest, with a payload length that such an update can have (exact,
 * but within bounds for SUM, TOPK and what is zipped)? Check before a byte of payload is spooled.
 */
enum tier_status tier_update_header_check(const struct tier_update_header *h,
                                          const struct tier_manifest *manifest,
                                          struct tier_err *err);

/*
 * Seals float deltas, in manifest order, into the spool. `tmpl` gives run, round, base_model,
 * weight and metrics, and as `saturated` the elements that were clamped before they came here; the
 * rest is filled in. An element that is NaN, infinite or rounds beyond
 * 2^30 is refused (TIER_EUPDATE with the tensor's name, the index and the value); with `saturate`
 * it becomes +-clip and is counted, except NaN, which has no direction to clamp in and is always
 * refused. Borrows the manifest until the end; _finish and _abort end the sealer.
 */
struct tier_sealer;
enum tier_status tier_sealer_begin(struct tier_spool *spool, const struct tier_update_header *tmpl,
                                   const struct tier_manifest *manifest, bool saturate,
                                   struct tier_sealer **out, struct tier_err *err);
/*
 * How the deltas are encoded; zeroed is F32. What rounding drops goes to `dropped`, so that it may
 * be added to the next round's deltas (error feedback: Seide et al. 2014; Karimireddy et al. 2019).
 */
struct tier_seal_as {
    enum tier_encoding
        encoding; /* 0 or any but SUM and what is masked; Q8, Q4, ONEBIT: tensors of one f alone */
    uint64_t key; /* Q8, Q4 and narrow: of stochastic rounding; same key, same bits */
    double share; /* TOPK: of each segment's elements, 0 < share <= 1 */
    float *dropped;  /* NULL, or room for manifest->elements; borrowed until the end */
    bool zip;        /* each segment as a zstd frame, where that is shorter */
    unsigned narrow; /* F32: elements are rounded to whole units of 2^narrow (tier/narrow.h), of
                        which no tensor may be wide; 0: they are not */
};
enum tier_status tier_sealer_begin_as(struct tier_spool *spool,
                                      const struct tier_update_header *tmpl,
                                      const struct tier_manifest *manifest, bool saturate,
                                      const struct tier_seal_as *as, struct tier_sealer **out,
                                      struct tier_err *err);
/* The next n elements of the concatenation, pieces of any size. After an error only _abort. */
enum tier_status tier_sealer_append(struct tier_sealer *s, const float *delta, size_t n,
                                    struct tier_err *err);
/* TIER_EARG unless exactly manifest->elements were appended (none at all when weight is 0). */
enum tier_status tier_sealer_finish(struct tier_sealer *s, struct tier_hash *id_out,
                                    struct tier_err *err);
void tier_sealer_abort(struct tier_sealer *s);

/* All at once: delta[manifest->elements], or NULL with weight 0 for evaluation only. */
enum tier_status tier_update_seal(struct tier_spool *spool, const struct tier_update_header *tmpl,
                                  const struct tier_manifest *manifest, const float *delta,
                                  bool saturate, const struct tier_seal_as *as,
                                  struct tier_hash *id_out, struct tier_err *err);
enum tier_status tier_update_seal_f32(struct tier_spool *spool,
                                      const struct tier_update_header *tmpl,
                                      const struct tier_manifest *manifest, const float *delta,
                                      bool saturate, struct tier_hash *id_out,
                                      struct tier_err *err);

/*
 * Checks the elements of an F32 payload as it goes by, which costs nothing beside writing it. What
 * it cannot vouch for (sums, shorter forms, a payload that was here in part, an element that is
 * beyond its clip) is left to tier_update_verify, which finds the words for it.
 */
struct tier_range {
    const struct tier_manifest *manifest; /* NULL: nothing can be said */
    uint64_t next;                        /* element */
    bool within;
};
/* `manifest` is borrowed; NULL vouches for nothing. */
void tier_range_begin(struct tier_range *r, const struct tier_update_header *h,
                      const struct tier_manifest *manifest);
/* The n bytes at that offset; data is aligned for float. */
void tier_range_add(struct tier_range *r, uint64_t offset, const void *data, size_t n);
/* Whether the whole payload went by and every element of it is in range. */
bool tier_range_within(const struct tier_range *r);

/*
 * Reads the whole payload of a sealed update and checks every element: |q| <= 2^30 of what it
 * decodes to, or |S| <= weight * 2^30; the payload's exact length and its packing. TIER_EUPDATE
 * names the update, the tensor and the element. Needs some 7 MB of memory (11 MB with wide
 * tensors, 3 MB more where it is zipped), whatever the size.
 */
enum tier_status tier_update_verify(const struct tier_update *u,
                                    const struct tier_manifest *manifest, struct tier_err *err);

#endif
