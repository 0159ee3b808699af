/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two ends of trust in an update's elements: sealing our own deltas, where a bad element is
 * named while the person who can mend it is near, and verifying a child's, whom we do not believe.
 *
 * The bound |q| <= 2^30 is tested as |x * 2^f| <= 2^30. Near the bound a float32 has 24 significant
 * bits, so x * 2^f is an integer there and rounding changes nothing: both say the same.
 */
#include "tier/segment.h"
#include "tier/spool.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (TIER_LEAF_BYTES / sizeof(float))

struct tier_sealer {
    const struct tier_manifest *manifest;
    struct tier_spool_writer *writer;
    uint64_t next; /* element */
    uint64_t saturated;
    bool saturate, empty;
    float piece[PIECE];
};

enum tier_status tier_sealer_begin(struct tier_spool *spool, const struct tier_update_header *tmpl,
                                   const struct tier_manifest *manifest, bool saturate,
                                   struct tier_sealer **out, struct tier_err *err) {
    struct tier_update_header h = *tmpl;
    struct tier_sealer *s = calloc(1, sizeof *s);

    if (!s)
        return tier_fail(err, TIER_ENOMEM, "no memory to seal an update");
    h.manifest = manifest->hash;
    h.encoding = TIER_ENC_F32;
    s->manifest = manifest;
    s->saturate = saturate;
    s->empty = h.weight == 0;
    enum tier_status st = tier_spool_writer_begin(spool, &h, &s->writer, err);
    if (st != TIER_OK) {
        free(s);
        return st;
    }
    *out = s;
    return TIER_OK;
}

/* Index of the first of x[n] that is not within +-limit once scaled, or n. */
static size_t first_beyond(const float *x, size_t n, double scale, double limit) {
    unsigned bad = 0;

    for (size_t i = 0; i < n; i++)
        bad |= !(fabs((double)x[i] * scale) <= limit);
    if (!bad)
        return n;
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)x[i] * scale) <= limit))
            return i;
    return n;
}

/* Checks, and where allowed clamps, the elements of one tensor that lie in the piece. */
static enum tier_status admit(struct tier_sealer *s, const struct tier_span *span, float *x,
                              struct tier_err *err) {
    int bits = span->tensor->frac_bits;
    double scale = ldexp(1.0, bits), limit = (double)TIER_Q_MAX;

    for (size_t i = 0;; i++) {
        i += first_beyond(x + i, span->n - i, scale, limit);
        if (i == span->n)
            return TIER_OK;
        if (!s->saturate || isnan(x[i]))
            return tier_fail(err, TIER_EUPDATE,
                             "tensor %s, element %" PRIu64 " is %g; a number within +-%g would be "
                             "right",
                             span->tensor->name, span->index + i, (double)x[i],
                             ldexp(1.0, 30 - bits));
        /* Where the clip passes float32's range, only an infinity gets here and cannot be clamped.
         */
        double clip = ldexp(1.0, 30 - bits);
        if (clip > (double)FLT_MAX)
            return tier_fail(err, TIER_EUPDATE,
                             "tensor %s, element %" PRIu64 " is %g, and its clip is no float32",
                             span->tensor->name, span->index + i, (double)x[i]);
        x[i] = (float)(x[i] < 0 ? -clip : clip);
        s->saturated++;
    }
}

enum tier_status tier_sealer_append(struct tier_sealer *s, const float *delta, size_t n,
                                    struct tier_err *err) {
    assert(s);
    if (n > 0 && (s->empty || n > s->manifest->elements - s->next))
        return tier_fail(err, TIER_EARG, "more deltas than the %" PRIu64 " of the manifest",
                         s->empty ? 0 : s->manifest->elements);
    while (n > 0) {
        size_t m = n < PIECE ? n : PIECE;
        struct tier_spans it;
        struct tier_span span;
        memcpy(s->piece, delta, m * sizeof *delta);
        tier_spans_begin(&it, s->manifest, s->next, m);
        while (tier_spans_next(&it, &span))
            TIER_TRY(admit(s, &span, s->piece + span.at, err));
        TIER_TRY(tier_spool_writer_append(s->writer, s->piece, m * sizeof *s->piece, err));
        s->next += m;
        delta += m;
        n -= m;
    }
    return TIER_OK;
}

enum tier_status tier_sealer_finish(struct tier_sealer *s, struct tier_hash *id_out,
                                    struct tier_err *err) {
    enum tier_status st;

    assert(s);
    if (!s->empty && s->next != s->manifest->elements) {
        st = tier_fail(err, TIER_EARG, "%" PRIu64 " of %" PRIu64 " deltas were given to seal",
                       s->next, s->manifest->elements);
    } else {
        st = tier_spool_writer_seal(s->writer, s->saturated, id_out, err);
        s->writer = NULL;
    }
    tier_sealer_abort(s);
    return st;
}

void tier_sealer_abort(struct tier_sealer *s) {
    if (!s)
        return;
    tier_spool_writer_abort(s->writer);
    free(s);
}

enum tier_status tier_update_seal_f32(struct tier_spool *spool,
                                      const struct tier_update_header *tmpl,
                                      const struct tier_manifest *manifest, const float *delta,
                                      bool saturate, struct tier_hash *id_out,
                                      struct tier_err *err) {
    struct tier_sealer *s = NULL;

    TIER_TRY(tier_sealer_begin(spool, tmpl, manifest, saturate, &s, err));
    if (delta) {
        enum tier_status st = tier_sealer_append(s, delta, (size_t)manifest->elements, err);
        if (st != TIER_OK) {
            tier_sealer_abort(s);
            return st;
        }
    }
    return tier_sealer_finish(s, id_out, err);
}

static bool all_within(const float *x, size_t n, float clip) {
    unsigned bad = 0;

    for (size_t i = 0; i < n; i++)
        bad |= !(fabsf(x[i]) <= clip);
    return !bad;
}

void tier_range_begin(struct tier_range *r, const struct tier_update_header *h,
                      const struct tier_manifest *manifest) {
    bool f32 = h->encoding == TIER_ENC_F32 && h->weight > 0;
    *r = (struct tier_range){.manifest = f32 ? manifest : NULL, .within = true};
}

/*
 * The clip is a power of two, so |x| <= clip says the same as |x * 2^f| <= 2^30; a clip that is no
 * float32 is left to the fold's own arithmetic.
 */
void tier_range_add(struct tier_range *r, uint64_t offset, const void *data, size_t n) {
    const float *x = data;
    size_t count = n / sizeof *x;
    struct tier_spans it;
    struct tier_span span;

    if (!r->manifest)
        return;
    if (n % sizeof *x != 0 || offset != r->next * sizeof *x ||
        count > r->manifest->elements - r->next) {
        r->manifest = NULL;
        return;
    }
    tier_spans_begin(&it, r->manifest, r->next, count);
    while (tier_spans_next(&it, &span)) {
        int exponent = 30 - span.tensor->frac_bits;
        r->within = r->within && exponent >= FLT_MIN_EXP && exponent < FLT_MAX_EXP &&
                    all_within(x + span.at, span.n, ldexpf(1, exponent));
    }
    r->next += count;
}

bool tier_range_within(const struct tier_range *r) {
    return r->manifest && r->within && r->next == r->manifest->elements;
}

/* Whether tier_range vouches for the whole payload, at the speed of reading. */
static enum tier_status quick_check(const struct tier_update *u,
                                    const struct tier_manifest *manifest, float *piece,
                                    bool *within_out, struct tier_err *err) {
    uint64_t total = manifest->elements * sizeof *piece;
    struct tier_range range;

    tier_range_begin(&range, tier_spool_update_header(u), manifest);
    for (uint64_t at = 0; at < total && range.within; at += PIECE * sizeof *piece) {
        uint64_t left = total - at;
        size_t n = left < PIECE * sizeof *piece ? (size_t)left : PIECE * sizeof *piece;
        TIER_TRY(tier_spool_update_read(u, at, piece, n, err));
        tier_range_add(&range, at, piece, n);
    }
    *within_out = tier_range_within(&range);
    return TIER_OK;
}

enum tier_status tier_update_verify(const struct tier_update *u,
                                    const struct tier_manifest *manifest, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    bool within = false;
    struct tier_segment_cursor cursor;
    size_t n = tier_segment_elements_max(manifest), wide = tier_segment_wide_max(manifest);
    uint64_t segments = tier_manifest_segments(manifest);
    int64_t *sums = NULL;
    uint8_t *scratch = NULL;

    TIER_TRY(tier_segment_cursor_init(&cursor, u, manifest, err));
    if (tier_spool_update_header(u)->weight == 0)
        return TIER_OK;
    sums = malloc((n + wide) * sizeof *sums);
    scratch = malloc(tier_segment_scratch_bytes(manifest));
    if (!sums || !scratch) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to verify an update");
        goto out;
    }
    if (tier_spool_update_header(u)->encoding == TIER_ENC_F32 &&
        tier_segment_bytes_max(manifest) >= PIECE * sizeof(float))
        TIER_TRY_OUT(quick_check(u, manifest, (float *)(void *)scratch, &within, err));
    if (within)
        goto out;
    for (uint64_t i = 0; i < segments; i++) {
        struct tier_extent extent;
        /* The sums are thrown away; from zero, because one update's alone may reach 2^62. */
        memset(sums, 0, (n + wide) * sizeof *sums);
        TIER_TRY_OUT(tier_segment_cursor_next(&cursor, &extent, err));
        TIER_TRY_OUT(tier_segment_add(u, manifest, i, extent, scratch, sums, sums + n, err));
    }
out:
    free(sums);
    free(scratch);
    return st;
}
