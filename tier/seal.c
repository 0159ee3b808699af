/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two ends of trust in an update's elements: sealing our own deltas, where a bad element is
 * named while the person who can mend it is near, and verifying a child's, whom we do not believe.
 *
 * The bound |q| <= 2^30 is tested as |x * 2^f| <= 2^30. Near the bound a float32 has 24 significant
 * bits, so x * 2^f is an integer there and rounding changes nothing: both say the same.
 */
#include "kernels/kern.h"
#include "tier/bytes.h"
#include "tier/decode.h"
#include "tier/narrow.h"
#include "tier/segment.h"
#include "tier/spool.h"
#include "tier/topk.h"
#include "tier/zip.h"

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
    struct tier_seal_as as;
    uint64_t next; /* element that is encoded next: those before it are in the file */
    uint64_t saturated;
    bool saturate, empty;
    float *piece; /* elements that wait for a whole piece */
    size_t waiting, room;
    uint8_t *encoded;
    uint8_t *directory;   /* TOPK, and what is zipped */
    struct tier_zip *zip; /* NULL: it is not */
};

/* What one piece holds: whole blocks, or for TOPK and what is zipped a segment. */
static size_t room_of(const struct tier_seal_as *as, const struct tier_manifest *manifest) {
    return as->encoding == TIER_ENC_TOPK || as->zip ? tier_segment_elements_max(manifest) : PIECE;
}

static enum tier_status as_checked(const struct tier_seal_as *as,
                                   const struct tier_manifest *manifest, struct tier_err *err) {
    if (as->encoding == TIER_ENC_SUM || as->encoding >= TIER_ENC_MASKED)
        return tier_fail(err, TIER_EARG, "deltas cannot be sealed as encoding %u",
                         (unsigned)as->encoding);
    if (as->narrow && (as->encoding != TIER_ENC_F32 || manifest->wide_elements > 0 ||
                       as->narrow > TIER_NARROW_SHIFT_MAX))
        return tier_fail(err, TIER_EARG,
                         "deltas are rounded to whole 2^%u as f32 without wide tensors, and to at "
                         "most 2^%d",
                         as->narrow, TIER_NARROW_SHIFT_MAX);
    if (as->zip && !tier_zip_takes(as->encoding))
        return tier_fail(err, TIER_EARG, "encoding %s becomes no shorter as zstd frames",
                         tier_encoding_text(as->encoding));
    if (as->encoding != TIER_ENC_F32 && manifest->wide_elements > 0)
        return tier_fail(err, TIER_EARG,
                         "wide tensors travel at full precision: encoding %s has no place for them",
                         tier_encoding_text(as->encoding));
    /* A block has one scale for its elements, and what it rounds to must be within each one's clip.
     */
    bool blocks = as->encoding == TIER_ENC_Q8 || as->encoding == TIER_ENC_Q4 ||
                  as->encoding == TIER_ENC_ONEBIT;
    for (size_t i = 1; blocks && i < manifest->count; i++)
        if (manifest->tensors[i].frac_bits != manifest->tensors[0].frac_bits)
            return tier_fail(err, TIER_EARG,
                             "encoding %s needs one clip for all tensors, and %s has another than "
                             "the first",
                             tier_encoding_text(as->encoding), manifest->tensors[i].name);
    if (as->encoding == TIER_ENC_TOPK && !(as->share > 0 && as->share <= 1))
        return tier_fail(err, TIER_EARG, "a share of %g; above 0 and at most 1 would be right",
                         as->share);
    return TIER_OK;
}

enum tier_status tier_sealer_begin_as(struct tier_spool *spool,
                                      const struct tier_update_header *tmpl,
                                      const struct tier_manifest *manifest, bool saturate,
                                      const struct tier_seal_as *as, struct tier_sealer **out,
                                      struct tier_err *err) {
    struct tier_update_header h = *tmpl;
    struct tier_sealer *s = calloc(1, sizeof *s);
    enum tier_status st;

    if (!s)
        return tier_fail(err, TIER_ENOMEM, "no memory to seal an update");
    s->as = *as;
    if (s->as.encoding == 0)
        s->as.encoding = TIER_ENC_F32;
    TIER_TRY_OUT(as_checked(&s->as, manifest, err));
    h.manifest = manifest->hash;
    h.encoding = s->as.encoding;
    h.zipped = s->as.zip;
    s->manifest = manifest;
    s->saturate = saturate;
    s->saturated = tmpl->saturated;
    s->empty = h.weight == 0;
    s->room = room_of(&s->as, manifest);
    s->piece = malloc(s->room * sizeof *s->piece);
    s->encoded =
        malloc(h.encoding == TIER_ENC_TOPK ? TIER_TOPK_BOUND(s->room) : s->room * sizeof(float));
    s->directory = malloc(4 * (size_t)tier_manifest_segments(manifest));
    if (!s->piece || !s->encoded || !s->directory) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to seal an update");
        goto out;
    }
    if (s->as.zip)
        TIER_TRY_OUT(tier_zip_new(tier_segment_plain_max(manifest), &s->zip, err));
    TIER_TRY_OUT(tier_spool_writer_begin(spool, &h, &s->writer, err));
    *out = s;
    s = NULL;
out:
    tier_sealer_abort(s);
    return st;
}

enum tier_status tier_sealer_begin(struct tier_spool *spool, const struct tier_update_header *tmpl,
                                   const struct tier_manifest *manifest, bool saturate,
                                   struct tier_sealer **out, struct tier_err *err) {
    const struct tier_seal_as as = {.encoding = TIER_ENC_F32};
    return tier_sealer_begin_as(spool, tmpl, manifest, saturate, &as, out, err);
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

static bool has_directory(const struct tier_sealer *s) {
    return s->as.encoding == TIER_ENC_TOPK || s->zip;
}

/* ---- encoding -------------------------------------------------------------------------------- */

/* bfloat16 has no number for what lies next to float32's largest. */
static enum tier_status check_bf16(const struct tier_sealer *s, const uint16_t *y, size_t n,
                                   struct tier_err *err) {
    unsigned bad = 0;

    for (size_t i = 0; i < n; i++)
        bad |= (y[i] & 0x7f80u) == 0x7f80u;
    for (size_t i = 0; bad && i < n; i++) {
        if ((y[i] & 0x7f80u) != 0x7f80u)
            continue;
        const struct tier_tensor *t =
            &s->manifest->tensors[tier_manifest_find(s->manifest, s->next + i)];
        return tier_fail(err, TIER_EUPDATE,
                         "tensor %s, element %" PRIu64 " is %g, which bfloat16 has no number for",
                         t->name, s->next + i - t->at, (double)s->piece[i]);
    }
    return TIER_OK;
}

static void encode_f16(const struct tier_sealer *s, uint16_t *y, float *back, size_t n) {
    struct tier_spans it;
    struct tier_span span;

    tier_spans_begin(&it, s->manifest, s->next, n);
    while (tier_spans_next(&it, &span)) {
        int shift = span.tensor->frac_bits - 15;
        kern_f16_encode(y + span.at, s->piece + span.at, span.n, shift);
        if (back)
            kern_f16_decode(back + span.at, y + span.at, span.n, -shift);
    }
}

/* The n elements that wait, into s->encoded. `back`, where there is one, gets what they decode to;
 * for TOPK, what is dropped of them. */
static enum tier_status encode(struct tier_sealer *s, size_t n, float *back, size_t *bytes_out,
                               struct tier_err *err) {
    uint16_t *halves = (uint16_t *)(void *)s->encoded;
    int bits = s->as.encoding == TIER_ENC_Q8 ? 8 : 4;
    uint64_t block = s->next / TIER_BLOCK_ELEMENTS;
    size_t bad = 0;
    bool ours = true;

    *bytes_out = (size_t)tier_encoding_bytes(s->as.encoding, n);
    switch (s->as.encoding) {
    case TIER_ENC_F16:
        encode_f16(s, halves, back, n);
        break;
    case TIER_ENC_BF16:
        kern_bf16_encode(halves, s->piece, n);
        TIER_TRY(check_bf16(s, halves, n, err));
        if (back)
            kern_bf16_decode(back, halves, n);
        break;
    case TIER_ENC_Q8:
    case TIER_ENC_Q4:
        kern_quant_encode(s->encoded, s->piece, n, bits, s->as.key, block);
        ours = !back || kern_quant_decode(back, s->encoded, n, bits, &bad);
        break;
    case TIER_ENC_ONEBIT:
        kern_onebit_encode(s->encoded, s->piece, n, block);
        ours = !back || kern_onebit_decode(back, s->encoded, n, block, &bad);
        break;
    case TIER_ENC_TOPK:
        *bytes_out = tier_topk_encode(s->piece, n, tier_topk_count(s->as.share, n), s->encoded);
        if (back)
            memcpy(back, s->piece, n * sizeof *back);
        break;
    case TIER_ENC_F32:
    case TIER_ENC_SUM: /* never begun */
    case TIER_ENC_MASKED:
    case TIER_ENC_MASKED32:
        if (back)
            memcpy(back, s->piece, n * sizeof *back);
        break;
    }
    assert(ours);
    return TIER_OK;
}

/* A piece into the file, and where it is a segment that needs it, into the directory. */
static enum tier_status put(struct tier_sealer *s, const uint8_t *payload, size_t bytes,
                            struct tier_err *err) {
    const uint8_t *frame = NULL;
    size_t shorter = s->zip ? tier_zip_pack(s->zip, s->as.encoding, payload, bytes, &frame) : 0;
    uint32_t entry = shorter > 0 ? (uint32_t)shorter | TIER_SEGMENT_ZIPPED : (uint32_t)bytes;

    if (has_directory(s))
        tier_put_u32(s->directory + 4 * (s->next / TIER_SEGMENT_ELEMENTS), entry);
    if (shorter > 0)
        return tier_spool_writer_append(s->writer, frame, shorter, err);
    return tier_spool_writer_append(s->writer, payload, bytes, err);
}

/* Writes what waits: a whole piece, or at the end what is left. */
static enum tier_status flush(struct tier_sealer *s, struct tier_err *err) {
    float *dropped = s->as.dropped ? s->as.dropped + s->next : NULL;
    size_t n = s->waiting, bytes = 0;

    if (n == 0)
        return TIER_OK;
    TIER_TRY(encode(s, n, dropped, &bytes, err));
    if (dropped && s->as.encoding != TIER_ENC_TOPK)
        for (size_t i = 0; i < n; i++)
            dropped[i] = s->piece[i] - dropped[i];
    const uint8_t *payload = s->as.encoding == TIER_ENC_F32 ? (uint8_t *)s->piece : s->encoded;
    TIER_TRY(put(s, payload, bytes, err));
    s->next += n;
    s->waiting = 0;
    return TIER_OK;
}

enum tier_status tier_sealer_append(struct tier_sealer *s, const float *delta, size_t n,
                                    struct tier_err *err) {
    assert(s);
    if (n > 0 && (s->empty || n > s->manifest->elements - s->next - s->waiting))
        return tier_fail(err, TIER_EARG, "more deltas than the %" PRIu64 " of the manifest",
                         s->empty ? 0 : s->manifest->elements);
    while (n > 0) {
        size_t m = n < s->room - s->waiting ? n : s->room - s->waiting;
        float *piece = s->piece + s->waiting;
        struct tier_spans it;
        struct tier_span span;
        memcpy(piece, delta, m * sizeof *delta);
        tier_spans_begin(&it, s->manifest, s->next + s->waiting, m);
        while (tier_spans_next(&it, &span)) {
            TIER_TRY(admit(s, &span, piece + span.at, err));
            if (s->as.narrow)
                tier_narrow_round(piece + span.at, span.n, span.tensor->frac_bits, s->as.narrow,
                                  s->as.key, s->next + s->waiting + span.at);
        }
        s->waiting += m;
        if (s->waiting == s->room)
            TIER_TRY(flush(s, err));
        delta += m;
        n -= m;
    }
    return TIER_OK;
}

static enum tier_status finish(struct tier_sealer *s, struct tier_err *err) {
    uint64_t given = s->next + s->waiting;

    if (!s->empty && given != s->manifest->elements)
        return tier_fail(err, TIER_EARG, "%" PRIu64 " of %" PRIu64 " deltas were given to seal",
                         given, s->manifest->elements);
    TIER_TRY(flush(s, err));
    if (s->empty || !has_directory(s))
        return TIER_OK;
    return tier_spool_writer_append(s->writer, s->directory,
                                    4 * (size_t)tier_manifest_segments(s->manifest), err);
}

enum tier_status tier_sealer_finish(struct tier_sealer *s, struct tier_hash *id_out,
                                    struct tier_err *err) {
    assert(s);
    enum tier_status st = finish(s, err);
    if (st == TIER_OK) {
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
    free(s->piece);
    free(s->encoded);
    free(s->directory);
    tier_zip_free(s->zip);
    free(s);
}

enum tier_status tier_update_seal(struct tier_spool *spool, const struct tier_update_header *tmpl,
                                  const struct tier_manifest *manifest, const float *delta,
                                  bool saturate, const struct tier_seal_as *as,
                                  struct tier_hash *id_out, struct tier_err *err) {
    struct tier_sealer *s = NULL;

    TIER_TRY(tier_sealer_begin_as(spool, tmpl, manifest, saturate, as, &s, err));
    if (delta) {
        enum tier_status st = tier_sealer_append(s, delta, (size_t)manifest->elements, err);
        if (st != TIER_OK) {
            tier_sealer_abort(s);
            return st;
        }
    }
    return tier_sealer_finish(s, id_out, err);
}

enum tier_status tier_update_seal_f32(struct tier_spool *spool,
                                      const struct tier_update_header *tmpl,
                                      const struct tier_manifest *manifest, const float *delta,
                                      bool saturate, struct tier_hash *id_out,
                                      struct tier_err *err) {
    const struct tier_seal_as as = {.encoding = TIER_ENC_F32};
    return tier_update_seal(spool, tmpl, manifest, delta, saturate, &as, id_out, err);
}

/* ---- verifying ------------------------------------------------------------------------------- */

static bool all_within(const float *x, size_t n, float clip) {
    unsigned bad = 0;

    for (size_t i = 0; i < n; i++)
        bad |= !(fabsf(x[i]) <= clip);
    return !bad;
}

/*
 * The clip is a power of two, so |x| <= clip says the same as |x * 2^f| <= 2^30; a clip that is no
 * float32 is left to the fold's own arithmetic. Elements from `first` of the concatenation on.
 */
static bool elements_within(const struct tier_manifest *manifest, uint64_t first, const float *x,
                            size_t n) {
    struct tier_spans it;
    struct tier_span span;
    bool within = true;

    tier_spans_begin(&it, manifest, first, n);
    while (within && tier_spans_next(&it, &span)) {
        int exponent = 30 - span.tensor->frac_bits;
        within = exponent >= FLT_MIN_EXP && exponent < FLT_MAX_EXP &&
                 all_within(x + span.at, span.n, ldexpf(1, exponent));
    }
    return within;
}

void tier_range_begin(struct tier_range *r, const struct tier_update_header *h,
                      const struct tier_manifest *manifest) {
    bool f32 = h->encoding == TIER_ENC_F32 && !h->zipped && h->weight > 0;
    *r = (struct tier_range){.manifest = f32 ? manifest : NULL, .within = true};
}

void tier_range_add(struct tier_range *r, uint64_t offset, const void *data, size_t n) {
    size_t count = n / sizeof(float);

    if (!r->manifest)
        return;
    if (n % sizeof(float) != 0 || offset != r->next * sizeof(float) ||
        count > r->manifest->elements - r->next) {
        r->manifest = NULL;
        return;
    }
    r->within = r->within && elements_within(r->manifest, r->next, data, count);
    r->next += count;
}

bool tier_range_within(const struct tier_range *r) {
    return r->manifest && r->within && r->next == r->manifest->elements;
}

/* Deltas, at the speed of reading: their form, and whether all of them are in range. */
static enum tier_status quick_check(const struct tier_update *u,
                                    const struct tier_manifest *manifest, struct tier_unzip *unzip,
                                    bool *within_out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_segment_cursor cursor;
    bool within = true;
    float *piece = malloc(PIECE * sizeof *piece);

    if (!piece)
        return tier_fail(err, TIER_ENOMEM, "no memory to verify an update");
    TIER_TRY_OUT(tier_segment_cursor_init(&cursor, u, manifest, err));
    for (uint64_t i = 0; i < tier_manifest_segments(manifest) && within; i++) {
        struct tier_decoder decoder;
        struct tier_extent extent;
        size_t n = tier_manifest_segment(manifest, i, NULL);
        TIER_TRY_OUT(tier_segment_cursor_next(&cursor, &extent, err));
        TIER_TRY_OUT(tier_decoder_begin(&decoder, u, manifest, i, extent, unzip, err));
        for (size_t at = 0; at < n && within; at += PIECE) {
            size_t m = n - at < PIECE ? n - at : PIECE;
            TIER_TRY_OUT(tier_decoder_next(&decoder, piece, m, err));
            within = elements_within(manifest, i * TIER_SEGMENT_ELEMENTS + at, piece, m);
        }
    }
    *within_out = within;
out:
    free(piece);
    return st;
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
    struct tier_unzip unzip = {.room = 0};

    TIER_TRY(tier_segment_cursor_init(&cursor, u, manifest, err));
    if (tier_spool_update_header(u)->weight == 0)
        return TIER_OK;
    if (tier_spool_update_header(u)->encoding != TIER_ENC_SUM)
        TIER_TRY_OUT(quick_check(u, manifest, &unzip, &within, err));
    if (within)
        goto out;
    sums = malloc((n + wide) * sizeof *sums);
    scratch = malloc(tier_segment_scratch_bytes(manifest));
    if (!sums || !scratch) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to verify an update");
        goto out;
    }
    for (uint64_t i = 0; i < segments; i++) {
        struct tier_extent extent;
        /* The sums are thrown away; from zero, because one update's alone may reach 2^62. */
        memset(sums, 0, (n + wide) * sizeof *sums);
        TIER_TRY_OUT(tier_segment_cursor_next(&cursor, &extent, err));
        TIER_TRY_OUT(
            tier_segment_add(u, 1, manifest, i, extent, &unzip, scratch, sums, sums + n, err));
    }
out:
    tier_unzip_release(&unzip);
    free(sums);
    free(scratch);
    return st;
}
