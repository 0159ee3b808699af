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

enum tier_status tier_decoder_begin(struct tier_decoder *d, const struct tier_update *update,
                                    const struct tier_manifest *manifest, uint64_t segment,
                                    struct tier_extent extent, struct tier_err *err) {
    *d = (struct tier_decoder){.update = update,
                               .manifest = manifest,
                               .encoding = tier_spool_update_header(update)->encoding,
                               .segment = segment,
                               .at = extent.offset};
    assert(d->encoding != TIER_ENC_SUM);
    if (d->encoding != TIER_ENC_TOPK)
        return TIER_OK;
    return tier_topk_begin(&d->topk, update, segment, extent.offset, extent.bytes,
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
                     HEX_SHOWN, tier_hash_hex(tier_spool_update_id(d->update), hex),
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
    bool q8 = d->encoding == TIER_ENC_Q8;

    TIER_TRY(tier_spool_update_read(d->update, d->at, raw, bytes, err));
    if (d->encoding == TIER_ENC_F16)
        decode_f16(d, x, raw, n);
    else if (d->encoding == TIER_ENC_BF16)
        kern_bf16_decode(x, raw, n);
    else if (!kern_quant_decode(x, (const uint8_t *)raw, n, q8 ? 8 : 4, &bad))
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
        TIER_TRY(tier_spool_update_read(d->update, d->at, x, n * sizeof *x, err));
        d->at += n * sizeof *x;
        d->done += n;
        return TIER_OK;
    }
    for (size_t i = 0; i < n; i += PIECE)
        TIER_TRY(next_piece(d, x + i, n - i < PIECE ? n - i : PIECE, err));
    return TIER_OK;
}
