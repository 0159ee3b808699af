/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header is a fixed block and a tail of metrics. Every field is checked on the way in and on
 * the way out by the same function, so a header that we would refuse cannot be made by us either,
 * and there is one byte string for one header: its hash is the update's name.
 */
#include "tier/update.h"

#include "kernels/kern.h"
#include "tier/bytes.h"
#include "tier/codec.h"
#include "tier/topk.h"
#include "tier/zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1u
#define KNOWN "1 (f32) to 10 (masked32)"
#define ZIPPED (1u << 16) /* in the word of the encoding */
static const char magic[8] = "consupd1";

enum {
    AT_VERSION = 8,
    AT_LENGTH = 12,
    AT_RUN = 16,
    AT_ROUND = 48,
    AT_MANIFEST = 56,
    AT_BASE = 88,
    AT_WEIGHT = 120,
    AT_ENCODING = 128,
    AT_SATURATED = 132,
    AT_PAYLOAD = 140,
    AT_ROOT = 148,
    AT_METRICS = 180,
    AT_END = 184,
};
_Static_assert(AT_END == TIER_UPDATE_HEADER_BYTES_MIN, "the header's length says the same");

const char *tier_encoding_text(enum tier_encoding encoding) {
    switch (encoding) {
    case TIER_ENC_F32:
        return "f32";
    case TIER_ENC_SUM:
        return "sum";
    case TIER_ENC_F16:
        return "f16";
    case TIER_ENC_BF16:
        return "bf16";
    case TIER_ENC_Q8:
        return "q8";
    case TIER_ENC_Q4:
        return "q4";
    case TIER_ENC_TOPK:
        return "top_k";
    case TIER_ENC_ONEBIT:
        return "one_bit";
    case TIER_ENC_MASKED:
        return "masked";
    case TIER_ENC_MASKED32:
        return "masked32";
    }
    return "unknown";
}

uint64_t tier_encoding_bytes(enum tier_encoding encoding, uint64_t n) {
    switch (encoding) {
    case TIER_ENC_F32:
        return 4 * n;
    case TIER_ENC_F16:
    case TIER_ENC_BF16:
        return 2 * n;
    case TIER_ENC_Q8:
        return kern_quant_bytes(n, 8);
    case TIER_ENC_Q4:
        return kern_quant_bytes(n, 4);
    case TIER_ENC_ONEBIT:
        return kern_onebit_bytes(n);
    case TIER_ENC_SUM:
    case TIER_ENC_TOPK:
    case TIER_ENC_MASKED:
    case TIER_ENC_MASKED32:
        break;
    }
    return 0;
}

static bool is_known(uint32_t encoding) {
    return encoding >= TIER_ENC_F32 && encoding <= TIER_ENC_MASKED32;
}

/* A word for each element and each wide one; one of 64 bits for weight, saturated, every bin. */
static uint64_t masked_bytes(const struct tier_update_header *h, uint64_t elements, uint64_t wide) {
    uint64_t word = h->encoding == TIER_ENC_MASKED32 ? 4 : 8, words = 2;
    size_t bins = 0;
    const char *name;

    for (size_t i = 0; h->metrics && i < tier_metrics_count(h->metrics); i++) {
        tier_metrics_at(h->metrics, i, &name, &bins);
        words += bins;
    }
    return word * (elements + wide) + 8 * words;
}

/* Payload lengths of an update with this many elements. */
static uint64_t payload_min(const struct tier_update_header *h, uint64_t elements, uint64_t wide,
                            uint64_t segments) {
    enum tier_encoding encoding = h->encoding;

    if (tier_encoding_masked(encoding))
        return masked_bytes(h, elements, wide);
    if (h->zipped) /* a byte of each, and the directory */
        return segments * 5;
    if (encoding == TIER_ENC_TOPK)
        return segments * (4 + TIER_TOPK_HEAD_BYTES);
    if (encoding != TIER_ENC_SUM)
        return tier_encoding_bytes(encoding, elements);
    return segments * 4 + (elements + TIER_BLOCK_ELEMENTS - 1) / TIER_BLOCK_ELEMENTS;
}

static uint64_t payload_max(const struct tier_update_header *h, uint64_t elements, uint64_t wide,
                            uint64_t segments) {
    enum tier_encoding encoding = h->encoding;

    if (tier_encoding_masked(encoding))
        return masked_bytes(h, elements, wide);
    if (encoding == TIER_ENC_TOPK) /* segments, all but the last, are whole bytes of a bitmap */
        return segments * (4 + TIER_TOPK_HEAD_BYTES) + (elements + 7) / 8 + elements * 4;
    if (encoding != TIER_ENC_SUM)
        return tier_encoding_bytes(encoding, elements) + (h->zipped ? segments * 4 : 0);
    /* Packed at 64 bits; each segment may end both its planes in a block that is not full. */
    return segments * 6 + (elements + wide) * 8 + (elements + wide) / TIER_BLOCK_ELEMENTS;
}

/* What a masked update hides it must not say either. */
static bool masked_says_nothing(const struct tier_update_header *h) {
    bool nothing = h->weight == 1 && h->saturated == 0;

    for (size_t i = 0; nothing && h->metrics && i < tier_metrics_count(h->metrics); i++) {
        size_t bins;
        const char *name;
        const int64_t *values = tier_metrics_at(h->metrics, i, &name, &bins);
        for (size_t k = 0; k < bins; k++)
            nothing = nothing && values[k] == 0;
    }
    return nothing;
}

static enum tier_status header_sane(const struct tier_update_header *h, enum tier_status as,
                                    struct tier_err *err) {
    if (!is_known(h->encoding))
        return tier_fail(err, as, "the update has encoding %u; " KNOWN " would be right",
                         (unsigned)h->encoding);
    if (h->zipped && !tier_zip_takes(h->encoding))
        return tier_fail(err, as, "the update has encoding %s in zstd frames, which gain nothing",
                         tier_encoding_text(h->encoding));
    uint64_t weight_max = h->encoding == TIER_ENC_SUM ? TIER_WEIGHT_TOTAL_MAX : TIER_WEIGHT_MAX;
    if (h->weight > weight_max)
        return tier_fail(err, as,
                         "the update has weight %" PRIu64 "; an update of encoding %s has at most "
                         "%" PRIu64,
                         h->weight, tier_encoding_text(h->encoding), weight_max);
    if ((h->weight == 0) != (h->payload_bytes == 0))
        return tier_fail(err, as,
                         "the update has weight %" PRIu64 " and %" PRIu64 " payload bytes; both or "
                         "neither must be 0",
                         h->weight, h->payload_bytes);
    if (tier_encoding_masked(h->encoding) && !masked_says_nothing(h))
        return tier_fail(
            err, as,
            "the update is masked and says its weight, counts or metrics in the clear; "
            "weight 1 and zeros would be right");
    if (h->round > TIER_ROUNDS_MAX)
        return tier_fail(err, as, "the update is of round %" PRIu64 ", the last possible is %d",
                         h->round, TIER_ROUNDS_MAX);
    if (h->payload_bytes > payload_max(h, TIER_ELEMENTS_MAX, TIER_ELEMENTS_MAX,
                                       TIER_ELEMENTS_MAX / TIER_SEGMENT_ELEMENTS))
        return tier_fail(err, as, "the update has %" PRIu64 " payload bytes, more than any model's",
                         h->payload_bytes);
    if (h->encoding == TIER_ENC_F32 && !h->zipped && h->payload_bytes % 4 != 0)
        return tier_fail(err, as, "the update has %" PRIu64 " payload bytes, no whole float32s",
                         h->payload_bytes);
    bool halves = h->encoding == TIER_ENC_F16 || h->encoding == TIER_ENC_BF16;
    if (halves && !h->zipped && h->payload_bytes % 2 != 0)
        return tier_fail(err, as, "the update has %" PRIu64 " payload bytes, no whole %s numbers",
                         h->payload_bytes, tier_encoding_text(h->encoding));
    if (h->saturated > TIER_SATURATED_MAX)
        return tier_fail(err, as,
                         "the update counts %" PRIu64 " saturated elements, more than any "
                         "federation has",
                         h->saturated);
    return TIER_OK;
}

enum tier_status tier_update_header_encode(const struct tier_update_header *h, uint8_t **bytes_out,
                                           size_t *len_out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    uint8_t *metrics = NULL, *p = NULL;
    size_t metrics_len = 0;

    TIER_TRY_OUT(header_sane(h, TIER_EARG, err));
    TIER_TRY_OUT(tier_metrics_encode(h->metrics, &metrics, &metrics_len, err));
    size_t len = AT_END + metrics_len;
    if (len > TIER_UPDATE_HEADER_BYTES_MAX) {
        st = tier_fail(err, TIER_ELIMIT,
                       "the update's metrics take %zu bytes, the most is %zu; fewer or coarser "
                       "histograms would be right",
                       metrics_len, (size_t)(TIER_UPDATE_HEADER_BYTES_MAX - AT_END));
        goto out;
    }
    p = calloc(1, len);
    if (!p) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for an update header of %zu bytes", len);
        goto out;
    }
    memcpy(p, magic, sizeof magic);
    tier_put_u32(p + AT_VERSION, VERSION);
    tier_put_u32(p + AT_LENGTH, (uint32_t)len);
    memcpy(p + AT_RUN, h->run.b, TIER_HASH_BYTES);
    tier_put_u64(p + AT_ROUND, h->round);
    memcpy(p + AT_MANIFEST, h->manifest.b, TIER_HASH_BYTES);
    memcpy(p + AT_BASE, h->base_model.b, TIER_HASH_BYTES);
    tier_put_u64(p + AT_WEIGHT, h->weight);
    tier_put_u32(p + AT_ENCODING, (uint32_t)h->encoding | (h->zipped ? ZIPPED : 0));
    tier_put_u64(p + AT_SATURATED, h->saturated);
    tier_put_u64(p + AT_PAYLOAD, h->payload_bytes);
    memcpy(p + AT_ROOT, h->root.b, TIER_HASH_BYTES);
    tier_put_u32(p + AT_METRICS, (uint32_t)metrics_len);
    if (metrics_len > 0)
        memcpy(p + AT_END, metrics, metrics_len);
    *bytes_out = p;
    *len_out = len;
out:
    free(metrics);
    return st;
}

enum tier_status tier_update_header_length(const uint8_t *bytes, size_t len, size_t *len_out,
                                           struct tier_err *err) {
    if (len < AT_END)
        return tier_fail(err, TIER_EUPDATE, "an update header of %zu bytes, the least is %d", len,
                         AT_END);
    if (memcmp(bytes, magic, sizeof magic) != 0)
        return tier_fail(err, TIER_EUPDATE, "not an update: its first bytes are not \"consupd1\"");
    if (tier_get_u32(bytes + AT_VERSION) != VERSION)
        return tier_fail(err, TIER_EUPDATE, "an update of format version %u, this node knows %u",
                         tier_get_u32(bytes + AT_VERSION), VERSION);
    uint32_t length = tier_get_u32(bytes + AT_LENGTH);
    if (length < AT_END || length > TIER_UPDATE_HEADER_BYTES_MAX)
        return tier_fail(err, TIER_EUPDATE, "an update header of %u bytes; %d to %u are possible",
                         length, AT_END, TIER_UPDATE_HEADER_BYTES_MAX);
    if (tier_get_u32(bytes + AT_METRICS) != length - AT_END)
        return tier_fail(err, TIER_EUPDATE,
                         "an update header of %u bytes cannot have %u bytes of metrics", length,
                         tier_get_u32(bytes + AT_METRICS));
    *len_out = length;
    return TIER_OK;
}

static void get_hash(const uint8_t *p, struct tier_hash *out) {
    memcpy(out->b, p, TIER_HASH_BYTES);
}

enum tier_status tier_update_header_decode(const uint8_t *bytes, size_t len,
                                           struct tier_update_header *out, struct tier_err *err) {
    struct tier_update_header h = {.round = 0};
    size_t length = 0;

    TIER_TRY(tier_update_header_length(bytes, len, &length, err));
    if (length != len)
        return tier_fail(err, TIER_EUPDATE, "an update header of %zu bytes came as %zu", length,
                         len);
    get_hash(bytes + AT_RUN, &h.run);
    h.round = tier_get_u64(bytes + AT_ROUND);
    get_hash(bytes + AT_MANIFEST, &h.manifest);
    get_hash(bytes + AT_BASE, &h.base_model);
    h.weight = tier_get_u64(bytes + AT_WEIGHT);
    uint32_t word = tier_get_u32(bytes + AT_ENCODING), encoding = word & ~ZIPPED;
    if (!is_known(encoding))
        return tier_fail(err, TIER_EUPDATE, "the update has encoding %u; " KNOWN " would be right",
                         encoding);
    h.encoding = (enum tier_encoding)encoding;
    h.zipped = word & ZIPPED;
    h.saturated = tier_get_u64(bytes + AT_SATURATED);
    h.payload_bytes = tier_get_u64(bytes + AT_PAYLOAD);
    get_hash(bytes + AT_ROOT, &h.root);
    TIER_TRY(header_sane(&h, TIER_EUPDATE, err));
    if (len > AT_END) {
        enum tier_status st = tier_metrics_decode(bytes + AT_END, len - AT_END, &h.metrics, err);
        if (st != TIER_OK) {
            if (st == TIER_EPROTO && err)
                err->status = TIER_EUPDATE;
            return st == TIER_EPROTO ? TIER_EUPDATE : st;
        }
        st = header_sane(&h, TIER_EUPDATE, err); /* with the metrics */
        if (st != TIER_OK) {
            tier_metrics_free(h.metrics);
            return st;
        }
    }
    *out = h;
    return TIER_OK;
}

void tier_update_header_release(struct tier_update_header *h) {
    if (!h)
        return;
    tier_metrics_free(h->metrics);
    memset(h, 0, sizeof *h);
}

enum tier_status tier_update_header_check(const struct tier_update_header *h,
                                          const struct tier_manifest *manifest,
                                          struct tier_err *err) {
    char theirs[TIER_HASH_HEX], ours[TIER_HASH_HEX];
    uint64_t segments = tier_manifest_segments(manifest);

    if (!tier_hash_equal(&h->manifest, &manifest->hash))
        return tier_fail(err, TIER_EUPDATE,
                         "the update is of manifest %.16s..., the run has %.16s...",
                         tier_hash_hex(&h->manifest, theirs), tier_hash_hex(&manifest->hash, ours));
    if (h->weight == 0)
        return TIER_OK;
    if (manifest->wide_elements > 0 && h->encoding != TIER_ENC_F32 && h->encoding != TIER_ENC_SUM &&
        h->encoding != TIER_ENC_MASKED)
        return tier_fail(err, TIER_EUPDATE,
                         "the update has encoding %s, and its manifest has wide tensors, which "
                         "travel at full precision: f32 would be right",
                         tier_encoding_text(h->encoding));
    uint64_t least = payload_min(h, manifest->elements, manifest->wide_elements, segments);
    uint64_t most = payload_max(h, manifest->elements, manifest->wide_elements, segments);
    if (h->payload_bytes < least || h->payload_bytes > most)
        return tier_fail(err, TIER_EUPDATE,
                         "the update has %" PRIu64 " payload bytes; encoding %s of this manifest "
                         "has %" PRIu64 " to %" PRIu64,
                         h->payload_bytes, tier_encoding_text(h->encoding), least, most);
    return TIER_OK;
}
