/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums are packed in blocks of a width of their own, so a reader remembers where its next block
 * begins. The lo plane follows the hi plane and only the packing says where: a segment with wide
 * tensors has its hi plane walked through once, to find it. Wide elements do not begin at a block
 * of the lo plane wherever a block of elements begins, so the reader stays at the block that holds
 * the next one and unpacks it again.
 */
#include "tier/segment_block.h"

#include "kernels/kern.h"
#include "tier/codec.h"
#include "tier/spool.h"

#include <inttypes.h>
#include <string.h>

#define BATCH (8 * TIER_BLOCK_ELEMENTS)
#define HEX_SHOWN 16

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Reads what n packed values may take at most, from `at` on, and unpacks them. */
static enum tier_status unpack_at(const struct tier_segment_reader *r, uint64_t at, uint64_t end,
                                  int64_t *v, size_t n, uint64_t *next_out, struct tier_err *err) {
    uint8_t packed[TIER_PACK_BOUND(BATCH)];
    uint64_t bytes = end - at;
    size_t used = 0;
    char hex[TIER_HASH_HEX];

    if (bytes > TIER_PACK_BOUND(n))
        bytes = TIER_PACK_BOUND(n);
    TIER_TRY(tier_spool_update_read(r->update, at, packed, (size_t)bytes, err));
    enum tier_status st = tier_unpack(packed, (size_t)bytes, v, n, &used, err);
    if (st != TIER_OK) {
        tier_err_prefix(err, "update %.*s, segment %" PRIu64, HEX_SHOWN,
                        tier_hash_hex(tier_spool_update_id(r->update), hex), r->segment);
        return st;
    }
    *next_out = at + used;
    return TIER_OK;
}

static bool is_sum(const struct tier_segment_reader *r) {
    return tier_spool_update_header(r->update)->encoding == TIER_ENC_SUM;
}

enum tier_status tier_segment_reader_begin(struct tier_segment_reader *r,
                                           const struct tier_update *update,
                                           const struct tier_manifest *manifest, uint64_t segment,
                                           struct tier_extent extent, struct tier_err *err) {
    int64_t skipped[BATCH];

    *r = (struct tier_segment_reader){.update = update,
                                      .manifest = manifest,
                                      .segment = segment,
                                      .hi_at = extent.offset,
                                      .hi_end = extent.offset + extent.bytes,
                                      .end = extent.offset + extent.bytes};
    r->n = tier_manifest_segment(manifest, segment, &r->wide_n);
    r->lo_at = r->end;
    if (!is_sum(r))
        return tier_decoder_begin(&r->deltas, update, manifest, segment, extent, NULL, err);
    if (r->wide_n == 0)
        return TIER_OK;
    uint64_t at = r->hi_at;
    for (size_t i = 0; i < r->n; i += BATCH)
        TIER_TRY(unpack_at(r, at, r->end, skipped, least(BATCH, r->n - i), &at, err));
    r->hi_end = r->lo_at = at;
    return TIER_OK;
}

static enum tier_status too_large(const struct tier_segment_reader *r, size_t at, int64_t sum,
                                  struct tier_err *err) {
    uint64_t element = r->segment * TIER_SEGMENT_ELEMENTS + r->done + at;
    const struct tier_tensor *t = &r->manifest->tensors[tier_manifest_find(r->manifest, element)];
    char hex[TIER_HASH_HEX];

    return tier_fail(err, TIER_EUPDATE,
                     "update %.*s: tensor %s, element %" PRIu64 " is the sum %" PRId64
                     ", beyond what its weight %" PRIu64 " allows",
                     HEX_SHOWN, tier_hash_hex(tier_spool_update_id(r->update), hex), t->name,
                     element - t->at, sum, tier_spool_update_header(r->update)->weight);
}

/* Index of the first sum out of range, or n. */
static size_t out_of_range(const int64_t *s, size_t n, int64_t limit) {
    size_t i = 0;

    while (i < n && s[i] <= limit && s[i] >= -limit)
        i++;
    return i;
}

/* Wide elements [wide_done, wide_done + n) into lo, which has room for a block more; `skip_out` of
 * them come before. */
static enum tier_status read_lo(struct tier_segment_reader *r, size_t n, int64_t *lo,
                                size_t *skip_out, struct tier_err *err) {
    size_t first = r->wide_done / TIER_BLOCK_ELEMENTS * TIER_BLOCK_ELEMENTS;
    size_t until = r->wide_done + n, at = first;
    uint64_t next = r->lo_at;

    for (uint64_t here = next; at < until; here = next) {
        size_t m = least(TIER_BLOCK_ELEMENTS, r->wide_n - at);
        TIER_TRY(unpack_at(r, here, r->end, lo + (at - first), m, &next, err));
        /* A block that is used up is left behind, and so is the last one of the plane. */
        if (at + m <= until)
            r->lo_at = next;
        at += m;
    }
    *skip_out = r->wide_done - first;
    r->wide_done = until;
    return TIER_OK;
}

static size_t wide_of(const struct tier_segment_reader *r, size_t n) {
    struct tier_spans it;
    struct tier_span s;
    size_t wide = 0;

    if (r->wide_n == 0)
        return 0;
    tier_spans_begin(&it, r->manifest, r->segment * TIER_SEGMENT_ELEMENTS + r->done, n);
    while (tier_spans_next(&it, &s))
        wide += s.tensor->wide ? s.n : 0;
    return wide;
}

/* At most BATCH sums, as means. */
static enum tier_status read_sums(struct tier_segment_reader *r, float *x, size_t n,
                                  struct tier_err *err) {
    int64_t hi[BATCH], lo[BATCH + TIER_BLOCK_ELEMENTS];
    uint64_t weight = tier_spool_update_header(r->update)->weight;
    int64_t limit = (int64_t)(weight << 30);
    size_t wide = wide_of(r, n), skip = 0;
    struct tier_spans it;
    struct tier_span s;

    TIER_TRY(unpack_at(r, r->hi_at, r->hi_end, hi, n, &r->hi_at, err));
    size_t bad = out_of_range(hi, n, limit);
    if (bad < n)
        return too_large(r, bad, hi[bad], err);
    if (wide > 0)
        TIER_TRY(read_lo(r, wide, lo, &skip, err));
    bad = wide > 0 ? out_of_range(lo + skip, wide, limit) : 0;
    int64_t bad_lo = wide > bad ? lo[skip + bad] : 0;
    memset(x, 0, n * sizeof *x);
    tier_spans_begin(&it, r->manifest, r->segment * TIER_SEGMENT_ELEMENTS + r->done, n);
    while (tier_spans_next(&it, &s)) {
        bool is_wide = s.tensor->wide;
        if (is_wide && bad < wide && bad < s.wide_at + s.n)
            return too_large(r, s.at + (bad - s.wide_at), bad_lo, err);
        kern_apply_mean(x + s.at, x + s.at, hi + s.at, is_wide ? lo + skip + s.wide_at : NULL, s.n,
                        s.tensor->frac_bits, weight);
    }
    return TIER_OK;
}

/* Refuses what the fold would refuse. */
static enum tier_status accept(const struct tier_segment_reader *r, float *x, size_t n,
                               struct tier_err *err) {
    struct tier_spans it;
    struct tier_span s;
    char hex[TIER_HASH_HEX];
    size_t first = 0;

    tier_spans_begin(&it, r->manifest, r->segment * TIER_SEGMENT_ELEMENTS + r->done, n);
    while (tier_spans_next(&it, &s))
        if (kern_accept_f32(x + s.at, s.n, s.tensor->frac_bits, &first) > 0)
            return tier_fail(err, TIER_EUPDATE,
                             "update %.*s: tensor %s, element %" PRIu64
                             " is %g; a number within +-2^%d would be right",
                             HEX_SHOWN, tier_hash_hex(tier_spool_update_id(r->update), hex),
                             s.tensor->name, s.index + first, (double)x[s.at + first],
                             30 - s.tensor->frac_bits);
    return TIER_OK;
}

static enum tier_status at_end(const struct tier_segment_reader *r, struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    if (r->hi_at == r->hi_end && r->lo_at == r->end)
        return TIER_OK;
    return tier_fail(err, TIER_EUPDATE,
                     "update %.*s, segment %" PRIu64 ": bytes are left behind its last sums",
                     HEX_SHOWN, tier_hash_hex(tier_spool_update_id(r->update), hex), r->segment);
}

enum tier_status tier_segment_reader_next(struct tier_segment_reader *r, float *x, size_t n,
                                          struct tier_err *err) {
    if (!is_sum(r)) {
        TIER_TRY(tier_decoder_next(&r->deltas, x, n, err));
        TIER_TRY(accept(r, x, n, err));
        r->done += n;
        return TIER_OK;
    }
    for (size_t i = 0; i < n; i += BATCH) {
        size_t m = least(BATCH, n - i);
        TIER_TRY(read_sums(r, x + i, m, err));
        TIER_TRY(accept(r, x + i, m, err));
        r->done += m;
    }
    return r->done == r->n ? at_end(r, err) : TIER_OK;
}
