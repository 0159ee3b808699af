/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed sums are unpacked a few blocks at a time and folded while they are in the first-level
 * cache, so a segment needs no second buffer for its unpacked values.
 */
#include "tier/segment.h"

#include "kernels/kern.h"
#include "tier/bytes.h"
#include "tier/codec.h"
#include "tier/decode.h"
#include "tier/spool.h"
#include "tier/topk.h"

#include <inttypes.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "f32 payloads and models are read into memory as they are");

#define BATCH (8 * TIER_BLOCK_ELEMENTS)
#define HEX_SHOWN 16

size_t tier_segment_elements_max(const struct tier_manifest *manifest) {
    return manifest->elements < TIER_SEGMENT_ELEMENTS ? (size_t)manifest->elements
                                                      : TIER_SEGMENT_ELEMENTS;
}

size_t tier_segment_wide_max(const struct tier_manifest *manifest) {
    size_t n = tier_segment_elements_max(manifest);

    return manifest->wide_elements < n ? (size_t)manifest->wide_elements : n;
}

size_t tier_segment_bytes_max(const struct tier_manifest *manifest) {
    return TIER_PACK_BOUND(tier_segment_elements_max(manifest)) +
           TIER_PACK_BOUND(tier_segment_wide_max(manifest));
}

size_t tier_segment_plain_max(const struct tier_manifest *manifest) {
    return TIER_TOPK_BOUND(tier_segment_elements_max(manifest));
}

static bool has_directory(const struct tier_update_header *h) {
    return h->encoding == TIER_ENC_SUM || h->encoding == TIER_ENC_TOPK || h->zipped;
}

/* A segment's bytes, of n elements: all that they can be, and all that they are where that is
 * fixed. */
static size_t bytes_max(enum tier_encoding encoding, size_t n, size_t wide) {
    if (encoding == TIER_ENC_TOPK)
        return TIER_TOPK_BOUND(n);
    if (encoding == TIER_ENC_SUM)
        return TIER_PACK_BOUND(n) + TIER_PACK_BOUND(wide);
    return (size_t)tier_encoding_bytes(encoding, n);
}

enum tier_status tier_segment_cursor_init(struct tier_segment_cursor *c,
                                          const struct tier_update *update,
                                          const struct tier_manifest *manifest,
                                          struct tier_err *err) {
    const struct tier_update_header *h = tier_spool_update_header(update);
    char hex[TIER_HASH_HEX];

    if (tier_encoding_masked(h->encoding))
        return tier_fail(err, TIER_EUPDATE,
                         "update %.*s is masked: it is read as part of a secure sum or not at all",
                         HEX_SHOWN, tier_hash_hex(tier_spool_update_id(update), hex));
    TIER_TRY(tier_update_header_check(h, manifest, err));
    memset(c, 0, sizeof *c);
    c->update = update;
    c->manifest = manifest;
    c->directory = h->payload_bytes;
    if (has_directory(h) && h->payload_bytes > 0)
        c->directory -= 4 * tier_manifest_segments(manifest);
    return TIER_OK;
}

static enum tier_status refill(struct tier_segment_cursor *c, uint64_t segments,
                               struct tier_err *err) {
    uint8_t bytes[TIER_SEGMENT_WINDOW * 4];
    uint64_t left = segments - c->segment;
    size_t n = left < TIER_SEGMENT_WINDOW ? (size_t)left : TIER_SEGMENT_WINDOW;

    TIER_TRY(tier_spool_update_read(c->update, c->directory + 4 * c->segment, bytes, 4 * n, err));
    for (size_t i = 0; i < n; i++)
        c->window[i] = tier_get_u32(bytes + 4 * i);
    return TIER_OK;
}

static enum tier_status misfit(const struct tier_segment_cursor *c, uint64_t segment,
                               const char *what, struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    return tier_fail(err, TIER_EUPDATE, "update %.*s, segment %" PRIu64 ": %s", HEX_SHOWN,
                     tier_hash_hex(tier_spool_update_id(c->update), hex), segment, what);
}

enum tier_status tier_segment_cursor_next(struct tier_segment_cursor *c, struct tier_extent *out,
                                          struct tier_err *err) {
    uint64_t segments = tier_manifest_segments(c->manifest);
    size_t wide = 0, n, bytes;
    bool zipped = false;

    if (c->segment >= segments)
        return tier_fail(err, TIER_EINTERNAL, "a cursor went past its %" PRIu64 " segments",
                         segments);
    n = tier_manifest_segment(c->manifest, c->segment, &wide);
    const struct tier_update_header *h = tier_spool_update_header(c->update);
    bytes = bytes_max(h->encoding, n, wide);
    if (has_directory(h)) {
        size_t most = bytes;
        if (c->segment % TIER_SEGMENT_WINDOW == 0)
            TIER_TRY(refill(c, segments, err));
        bytes = c->window[c->segment % TIER_SEGMENT_WINDOW];
        if (h->zipped) {
            zipped = bytes & TIER_SEGMENT_ZIPPED;
            bytes &= ~(size_t)TIER_SEGMENT_ZIPPED;
        }
        if (bytes > most)
            return misfit(c, c->segment, "the directory gives it more bytes than it can take", err);
        if (h->zipped && !zipped && h->encoding != TIER_ENC_TOPK && bytes != most)
            return misfit(c, c->segment, "it is no zstd frame, and has not the bytes it should",
                          err);
    }
    if (bytes > c->directory - c->offset)
        return misfit(c, c->segment, "it would reach past the end of the payload", err);
    if (c->segment + 1 == segments && c->offset + bytes != c->directory)
        return misfit(c, c->segment, "bytes are left between the last segment and the directory",
                      err);
    *out = (struct tier_extent){c->offset, bytes, zipped};
    c->offset += bytes;
    c->segment++;
    return TIER_OK;
}

/* What a refused element is called in a message. */
struct place {
    const struct tier_tensor *tensor;
    uint64_t index;
};

/* Element `at` of the segment's hi plane, or of its lo plane. */
static struct place place_of(const struct tier_manifest *manifest, uint64_t segment, size_t at,
                             bool lo) {
    struct tier_spans it;
    struct tier_span s;

    tier_spans_begin(&it, manifest, segment * TIER_SEGMENT_ELEMENTS,
                     tier_manifest_segment(manifest, segment, NULL));
    while (tier_spans_next(&it, &s)) {
        size_t begin = lo ? s.wide_at : s.at;
        if ((!lo || s.tensor->wide) && at >= begin && at - begin < s.n)
            return (struct place){s.tensor, s.index + (at - begin)};
    }
    return (struct place){&manifest->tensors[0], 0};
}

static enum tier_status beyond(const struct tier_update *update, const struct tier_span *s,
                               const float *x, size_t at, struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    return tier_fail(err, TIER_EUPDATE,
                     "update %.*s: tensor %s, element %" PRIu64 " is %g; a number within +-2^%d "
                     "would be right",
                     HEX_SHOWN, tier_hash_hex(tier_spool_update_id(update), hex), s->tensor->name,
                     s->index + at, (double)x[at], 30 - s->tensor->frac_bits);
}

static uint32_t weight_of(const struct tier_update *update, uint32_t multiplier) {
    return (uint32_t)(tier_spool_update_header(update)->weight * multiplier);
}

/* x[k] + s.at of each update; the sums are spoilt where an element is refused. */
static enum tier_status add_span(const struct tier_update *const *updates, const uint32_t *weight,
                                 const float *const *x, size_t count, const struct tier_span *s,
                                 int64_t *hi, int64_t *lo, struct tier_err *err) {
    const float *at[TIER_SEGMENT_GROUP];
    int bits = s->tensor->frac_bits;
    uint64_t refused = 0;

    for (size_t k = 0; k < count; k++) {
        at[k] = x[k] + s->at;
        if (s->tensor->wide)
            refused += kern_fold_f32_wide(hi, lo, at[k], s->n, bits, weight[k], NULL);
    }
    if (!s->tensor->wide)
        refused = kern_fold_f32_many(hi, at, weight, count, s->n, bits);
    for (size_t k = 0; k < count && refused > 0; k++) {
        size_t first = 0;
        if (kern_fold_f32(hi, at[k], s->n, bits, weight[k], &first) > 0)
            return beyond(updates[k], s, at[k], first, err);
    }
    return TIER_OK;
}

static size_t block_max(const struct tier_manifest *manifest) {
    return manifest->elements < TIER_FOLD_BLOCK ? (size_t)manifest->elements : TIER_FOLD_BLOCK;
}

size_t tier_segment_scratch_bytes(const struct tier_manifest *manifest) {
    size_t group = TIER_SEGMENT_GROUP * block_max(manifest) * sizeof(float);
    size_t one = tier_segment_bytes_max(manifest);
    return group > one ? group : one;
}

/* `unzip` is for one update alone: its segment is gone with the next one's. */
static enum tier_status add_group(const struct tier_update *const *updates,
                                  const uint32_t *multipliers, const struct tier_extent *extents,
                                  size_t count, const struct tier_manifest *manifest,
                                  uint64_t segment, struct tier_unzip *unzip, uint8_t *scratch,
                                  int64_t *hi, int64_t *lo, struct tier_err *err) {
    size_t n = tier_manifest_segment(manifest, segment, NULL), room = block_max(manifest);
    struct tier_decoder decoders[TIER_SEGMENT_GROUP];
    const float *x[TIER_SEGMENT_GROUP];
    uint32_t weight[TIER_SEGMENT_GROUP];
    size_t wide_at = 0;

    for (size_t k = 0; k < count; k++) {
        weight[k] = weight_of(updates[k], multipliers[k]);
        TIER_TRY(tier_decoder_begin(&decoders[k], updates[k], manifest, segment, extents[k], unzip,
                                    err));
    }
    for (size_t at = 0; at < n; at += TIER_FOLD_BLOCK) {
        size_t m = n - at < TIER_FOLD_BLOCK ? n - at : TIER_FOLD_BLOCK;
        struct tier_spans it;
        struct tier_span s;
        for (size_t k = 0; k < count; k++) {
            float *block = (float *)(void *)scratch + k * room;
            TIER_TRY(tier_decoder_next(&decoders[k], block, m, err));
            x[k] = block;
        }
        tier_spans_begin(&it, manifest, segment * TIER_SEGMENT_ELEMENTS + at, m);
        while (tier_spans_next(&it, &s)) {
            TIER_TRY(add_span(updates, weight, x, count, &s, hi + at + s.at, lo + wide_at, err));
            wide_at += s.tensor->wide ? s.n : 0;
        }
    }
    return TIER_OK;
}

enum tier_status tier_segment_add_group(const struct tier_update *const *updates,
                                        const uint32_t *multipliers,
                                        const struct tier_extent *extents, size_t count,
                                        const struct tier_manifest *manifest, uint64_t segment,
                                        uint8_t *scratch, int64_t *hi, int64_t *lo,
                                        struct tier_err *err) {
    return add_group(updates, multipliers, extents, count, manifest, segment, NULL, scratch, hi, lo,
                     err);
}

/* As kern_fold_i64, times m: values are checked against the weight before they are multiplied. */
static size_t fold_sums(int64_t *acc, int64_t *values, size_t n, uint64_t weight, uint32_t m,
                        size_t *first) {
    int64_t most = (int64_t)(weight << 30); /* weight <= 2^32 */

    for (size_t i = 0; i < n && m != 1; i++) {
        if (values[i] > most || values[i] < -most) {
            *first = i;
            return 1;
        }
        values[i] *= m;
    }
    return kern_fold_i64(acc, values, n, weight * m, first);
}

/* One plane of n packed sums at the front of in[len]. */
static enum tier_status add_plane(const struct tier_update *update, uint32_t multiplier,
                                  const struct tier_manifest *manifest, uint64_t segment, bool lo,
                                  const uint8_t *in, size_t len, size_t n, int64_t *acc,
                                  size_t *used_out, struct tier_err *err) {
    uint64_t weight = tier_spool_update_header(update)->weight;
    int64_t values[BATCH];
    char hex[TIER_HASH_HEX];
    size_t used = 0;

    tier_hash_hex(tier_spool_update_id(update), hex);
    for (size_t i = 0; i < n; i += BATCH) {
        size_t m = n - i < BATCH ? n - i : BATCH, batch_bytes = 0, first = 0;
        enum tier_status st = tier_unpack(in + used, len - used, values, m, &batch_bytes, err);
        if (st != TIER_OK) {
            struct place p = place_of(manifest, segment, i, lo);
            tier_err_prefix(err, "update %.*s, near tensor %s, element %" PRIu64, HEX_SHOWN, hex,
                            p.tensor->name, p.index);
            return st;
        }
        used += batch_bytes;
        if (fold_sums(acc + i, values, m, weight, multiplier, &first) > 0) {
            struct place p = place_of(manifest, segment, i + first, lo);
            return tier_fail(err, TIER_EUPDATE,
                             "update %.*s: tensor %s, element %" PRIu64 " is the sum %" PRId64
                             ", beyond what its weight %" PRIu64 " allows",
                             HEX_SHOWN, hex, p.tensor->name, p.index, values[first], weight);
        }
    }
    *used_out = used;
    return TIER_OK;
}

enum tier_status tier_segment_add(const struct tier_update *update, uint32_t multiplier,
                                  const struct tier_manifest *manifest, uint64_t segment,
                                  struct tier_extent extent, struct tier_unzip *unzip,
                                  uint8_t *scratch, int64_t *hi, int64_t *lo,
                                  struct tier_err *err) {
    size_t wide = 0, hi_bytes = 0, lo_bytes = 0;
    size_t n = tier_manifest_segment(manifest, segment, &wide);
    char hex[TIER_HASH_HEX];

    if (tier_spool_update_header(update)->encoding != TIER_ENC_SUM)
        return add_group(&update, &multiplier, &extent, 1, manifest, segment, unzip, scratch, hi,
                         lo, err);
    TIER_TRY(tier_spool_update_read(update, extent.offset, scratch, extent.bytes, err));
    TIER_TRY(add_plane(update, multiplier, manifest, segment, false, scratch, extent.bytes, n, hi,
                       &hi_bytes, err));
    TIER_TRY(add_plane(update, multiplier, manifest, segment, true, scratch + hi_bytes,
                       extent.bytes - hi_bytes, wide, lo, &lo_bytes, err));
    if (hi_bytes + lo_bytes != extent.bytes)
        return tier_fail(err, TIER_EUPDATE,
                         "update %.*s, segment %" PRIu64
                         ": its sums end after %zu of its %zu bytes",
                         HEX_SHOWN, tier_hash_hex(tier_spool_update_id(update), hex), segment,
                         hi_bytes + lo_bytes, extent.bytes);
    return TIER_OK;
}

size_t tier_segment_pack(const int64_t *hi, size_t n, const int64_t *lo, size_t wide_n,
                         uint8_t *out) {
    size_t used = tier_pack(hi, n, out);

    return used + tier_pack(lo, wide_n, out + used);
}
