/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw bytes go through a buffer on the stack, a few thousand elements at a time: they are decoded
 * while they are in the first-level cache, and readers of thousands of updates hold no memory.
 */
#include "tier/decode.h"

#include "kernels/kern.h"
#include "tier/spool.h"

#include <assert.h>
#include <inttypes.h>

#define PIECE (32 * TIER_BLOCK_ELEMENTS)
#define PIECE_BYTES (2 * PIECE)
#define HEX_SHOWN 16

_Static_assert(KERN_QUANT_BLOCK == TIER_BLOCK_ELEMENTS, "one block of elements is one of a scale");

/* The frame at *extent becomes the bytes that it holds. */
static enum tier_status unpack(struct tier_decoder *d, struct tier_extent *extent,
                               struct tier_unzip *unzip, struct tier_err *err) {
    size_t n = tier_manifest_segment(d->manifest, d->segment, NULL), bytes = 0;
    bool topk = d->encoding == TIER_ENC_TOPK;
    size_t most = topk ? TIER_TOPK_BOUND(n) : (size_t)tier_encoding_bytes(d->encoding, n);
    size_t least = topk ? TIER_TOPK_HEAD_BYTES : most;
    const struct tier_update *update = d->payload.update;
    const uint8_t *held = NULL;
    uint8_t *frame = NULL;
    char hex[TIER_HASH_HEX];
    enum tier_status st;

    if (unzip) {
        TIER_TRY(tier_unzip_begin(unzip, tier_segment_plain_max(d->manifest), &frame, err));
        TIER_TRY(tier_spool_update_read(update, extent->offset, frame, extent->bytes, err));
        st = tier_unzip_end(unzip, d->encoding, extent->bytes, least, most, &held, &bytes, err);
    } else {
        st = tier_fail(err, TIER_EUPDATE, "a zstd frame, which is for means alone");
    }
    if (st != TIER_OK) {
        tier_err_prefix(err, "update %.*s, segment %" PRIu64, HEX_SHOWN,
                        tier_hash_hex(tier_spool_update_id(update), hex), d->segment);
        return st;
    }
    d->payload.held = held;
    d->payload.held_at = extent->offset;
    d->payload.held_bytes = extent->bytes = bytes;
    return TIER_OK;
}

enum tier_status tier_decoder_begin(struct tier_decoder *d, const struct tier_update *update,
                                    const struct tier_manifest *manifest, uint64_t segment,
                                    struct tier_extent extent, struct tier_unzip *unzip,
                                    struct tier_err *err) {
    *d = (struct tier_decoder){.payload.update = update,
                               .manifest = manifest,
                               .encoding = tier_spool_update_header(update)->encoding,
                               .segment = segment,
                               .at = extent.offset};
    assert(d->encoding != TIER_ENC_SUM);
    if (extent.zipped)
        TIER_TRY(unpack(d, &extent, unzip, err));
    if (d->encoding != TIER_ENC_TOPK)
        return TIER_OK;
    return tier_topk_begin(&d->topk, &d->payload, segment, extent.offset, extent.bytes,
                           tier_manifest_segment(manifest, segment, NULL), err);
}

static uint64_t element_of(const struct tier_decoder *d) {
    return d->segment * TIER_SEGMENT_ELEMENTS + d->done;
}

static enum tier_status no_block(const struct tier_decoder *d, size_t at, struct tier_err *err) {
    uint64_t element = element_of(d) + at;
    const struct tier_tensor *t = &d->manifest->tensors[tier_manifest_find(d->manifest, element)];
    char hex[TIER_HASH_HEX];

    return tier_fail(err, TIER_EUPDATE,
                     "update %.*s: the block of encoding %s at tensor %s, element %" PRIu64
                     ", has a scale or an integer that no encoder writes",
                     HEX_SHOWN, tier_hash_hex(tier_spool_update_id(d->payload.update), hex),
                     tier_encoding_text(d->encoding), t->name, element - t->at);
}

static void decode_f16(const struct tier_decoder *d, float *x, const uint16_t *raw, size_t n) {
    struct tier_spans it;
    struct tier_span s;

    tier_spans_begin(&it, d->manifest, element_of(d), n);
    while (tier_spans_next(&it, &s))
        kern_f16_decode(x + s.at, raw + s.at, s.n, 15 - s.tensor->frac_bits);
}

/* At most PIECE elements. */
static enum tier_status next_piece(struct tier_decoder *d, float *x, size_t n,
                                   struct tier_err *err) {
    uint16_t raw[PIECE_BYTES / sizeof(uint16_t)];
    size_t bytes = (size_t)tier_encoding_bytes(d->encoding, n), bad = 0;
    const uint8_t *blocks = (const uint8_t *)raw;
    bool ours = true;

    TIER_TRY(tier_payload_read(&d->payload, d->at, raw, bytes, err));
    if (d->encoding == TIER_ENC_F16)
        decode_f16(d, x, raw, n);
    else if (d->encoding == TIER_ENC_BF16)
        kern_bf16_decode(x, raw, n);
    else if (d->encoding == TIER_ENC_ONEBIT)
        ours = kern_onebit_decode(x, blocks, n, element_of(d) / TIER_BLOCK_ELEMENTS, &bad);
    else
        ours = kern_quant_decode(x, blocks, n, d->encoding == TIER_ENC_Q8 ? 8 : 4, &bad);
    if (!ours)
        return no_block(d, bad, err);
    d->at += bytes;
    d->done += n;
    return TIER_OK;
}

enum tier_status tier_decoder_next(struct tier_decoder *d, float *x, size_t n,
                                   struct tier_err *err) {
    if (d->encoding == TIER_ENC_TOPK)
        return tier_topk_next(&d->topk, x, n, err);
    if (d->encoding == TIER_ENC_F32) {
        TIER_TRY(tier_payload_read(&d->payload, d->at, x, n * sizeof *x, err));
        d->at += n * sizeof *x;
        d->done += n;
        return TIER_OK;
    }
    for (size_t i = 0; i < n; i += PIECE)
        TIER_TRY(next_piece(d, x + i, n - i < PIECE ? n - i : PIECE, err));
    return TIER_OK;
}
