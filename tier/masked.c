/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One segment at a time, all inputs of it and then all masks: masks are expanded in a buffer of the
 * first-level cache and added to words that stay in the second.
 */
#include "tier/masked.h"

#include "tier/bytes.h"
#include "tier/fold.h"
#include "tier/fold_header.h"
#include "tier/narrow.h"
#include "tier/segment.h"
#include "tier/zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are written as they are");

#define WORD sizeof(uint64_t)
#define SHORT sizeof(uint32_t)
enum { TAIL_WEIGHT, TAIL_SATURATED, TAIL_METRICS };

/* Words behind the elements: weight, saturated, bins. */
static size_t tail_words(const struct tier_metrics *m) {
    size_t n = TAIL_METRICS, bins = 0;
    const char *name;

    for (size_t i = 0; m && i < tier_metrics_count(m); i++) {
        tier_metrics_at(m, i, &name, &bins);
        n += bins;
    }
    return n;
}

/* The same names and bins, and nothing in them. */
static enum tier_status blank_metrics(const struct tier_metrics *m, struct tier_metrics **out,
                                      struct tier_err *err) {
    struct tier_metrics *blank = tier_metrics_new();
    enum tier_status st = blank ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory for metrics");

    for (size_t i = 0; st == TIER_OK && m && i < tier_metrics_count(m); i++) {
        const char *name;
        size_t bins;
        tier_metrics_at(m, i, &name, &bins);
        int64_t *zeros = calloc(bins, sizeof *zeros);
        st = zeros ? tier_metrics_add(blank, name, bins, zeros, err)
                   : tier_fail(err, TIER_ENOMEM, "no memory for a metric of %zu bins", bins);
        free(zeros);
    }
    if (st == TIER_OK)
        *out = blank;
    else
        tier_metrics_free(blank);
    return st;
}

/* Room to add one segment in, and the tail. */
struct room {
    int64_t *words;        /* hi of a segment, then lo */
    uint64_t *in;          /* one input's */
    uint32_t *short_words; /* of a segment, in 32 bits */
    uint8_t *scratch, *packed;
    struct tier_unzip unzip;
    struct tier_mask_pad *pad;
};

static size_t segment_words(const struct tier_manifest *m) {
    return tier_segment_elements_max(m) + tier_segment_wide_max(m);
}

static enum tier_status room_init(struct room *r, const struct tier_manifest *m, size_t tail,
                                  struct tier_err *err) {
    size_t words = segment_words(m) > tail ? segment_words(m) : tail;

    *r = (struct room){.words = malloc(words * sizeof(int64_t)),
                       .in = malloc(words * sizeof(uint64_t)),
                       .short_words = malloc(words * sizeof(uint32_t)),
                       .scratch = malloc(tier_segment_scratch_bytes(m)),
                       .packed = malloc(tier_segment_bytes_max(m)),
                       .pad = tier_mask_pad_new()};
    if (r->words && r->in && r->short_words && r->scratch && r->packed && r->pad)
        return TIER_OK;
    return tier_fail(err, TIER_ENOMEM, "no memory to mask %zu words at a time", words);
}

static void room_release(struct room *r) {
    tier_unzip_release(&r->unzip);
    tier_mask_pad_free(r->pad);
    free(r->words);
    free(r->in);
    free(r->short_words);
    free(r->scratch);
    free(r->packed);
}

static enum tier_status apply(const struct room *r, const struct tier_mask_term *terms,
                              size_t count, uint64_t at, size_t n, struct tier_err *err) {
    for (size_t i = 0; i < count; i++)
        TIER_TRY(tier_mask_apply(r->pad, &terms[i], at, (uint64_t *)r->words, n, err));
    return TIER_OK;
}

static enum tier_status apply_short(const struct room *r, const struct tier_mask_term *terms,
                                    size_t count, uint64_t at, size_t n, struct tier_err *err) {
    for (size_t i = 0; i < count; i++)
        TIER_TRY(tier_mask_apply32(r->pad, &terms[i], at, r->short_words, n, err));
    return TIER_OK;
}

/* The mask word of the first 64-bit word behind so many bytes: one that hides nothing else. */
static uint64_t word_behind(uint64_t bytes) {
    return (bytes + WORD - 1) / WORD;
}

static enum tier_encoding encoding_of(unsigned shift) {
    return shift ? TIER_ENC_MASKED32 : TIER_ENC_MASKED;
}

/* ---- sealing ---- */

struct seal {
    const struct tier_manifest *manifest;
    unsigned shift;
    const struct tier_mask_term *terms;
    size_t term_count;
    struct tier_update *visible;
    struct tier_segment_cursor cursor;
    struct tier_spool_writer *writer;
    struct room room;
    uint64_t at; /* bytes written */
};

static enum tier_status write_words(struct seal *s, size_t n, struct tier_err *err) {
    TIER_TRY(apply(&s->room, s->terms, s->term_count, word_behind(s->at), n, err));
    s->at += n * WORD;
    return tier_spool_writer_append(s->writer, s->room.words, n * WORD, err);
}

static enum tier_status write_short(struct seal *s, size_t n, struct tier_err *err) {
    if (!tier_narrow_words(s->room.words, n, s->shift, s->room.short_words))
        return tier_fail(err, TIER_EUPDATE,
                         "the update has elements that are no whole 2^%u: it was not sealed for "
                         "sums of 32 bits",
                         s->shift);
    TIER_TRY(apply_short(&s->room, s->terms, s->term_count, s->at / SHORT, n, err));
    s->at += n * SHORT;
    return tier_spool_writer_append(s->writer, s->room.short_words, n * SHORT, err);
}

static enum tier_status seal_segment(struct seal *s, uint64_t segment, struct tier_err *err) {
    size_t wide, n = tier_manifest_segment(s->manifest, segment, &wide);
    struct tier_extent extent;

    memset(s->room.words, 0, (n + wide) * WORD);
    if (tier_spool_update_header(s->visible)->weight > 0) {
        TIER_TRY(tier_segment_cursor_next(&s->cursor, &extent, err));
        TIER_TRY(tier_segment_add(s->visible, 1, s->manifest, segment, extent, &s->room.unzip,
                                  s->room.scratch, s->room.words, s->room.words + n, err));
    }
    return s->shift ? write_short(s, n, err) : write_words(s, n + wide, err);
}

static enum tier_status seal_tail(struct seal *s, struct tier_err *err) {
    const struct tier_update_header *h = tier_spool_update_header(s->visible);
    size_t n = TAIL_METRICS, bins;
    const char *name;

    s->room.words[TAIL_WEIGHT] = (int64_t)h->weight;
    s->room.words[TAIL_SATURATED] = (int64_t)h->saturated;
    for (size_t i = 0; h->metrics && i < tier_metrics_count(h->metrics); i++) {
        const int64_t *values = tier_metrics_at(h->metrics, i, &name, &bins);
        memcpy(s->room.words + n, values, bins * WORD);
        n += bins;
    }
    return write_words(s, n, err);
}

enum tier_status tier_masked_seal(struct tier_spool *spool, const struct tier_hash *visible,
                                  const struct tier_manifest *manifest, unsigned shift,
                                  const struct tier_mask_term *terms, size_t term_count,
                                  struct tier_hash *id_out, struct tier_err *err) {
    struct seal s = {
        .manifest = manifest, .shift = shift, .terms = terms, .term_count = term_count};
    struct tier_metrics *blank = NULL;
    enum tier_status st;

    TIER_TRY(tier_spool_update_open(spool, visible, &s.visible, err));
    struct tier_update_header h = *tier_spool_update_header(s.visible);
    if (shift && (h.weight > 1 || manifest->wide_elements > 0)) {
        st = tier_fail(err, TIER_EUPDATE,
                       "the update weighs %" PRIu64 " and has %" PRIu64
                       " wide elements: sums of 32 bits are of weight 1 and one limb",
                       h.weight, manifest->wide_elements);
        goto out;
    }
    TIER_TRY_OUT(blank_metrics(h.metrics, &blank, err));
    TIER_TRY_OUT(room_init(&s.room, manifest, tail_words(h.metrics), err));
    TIER_TRY_OUT(tier_segment_cursor_init(&s.cursor, s.visible, manifest, err));
    h.weight = 1;
    h.encoding = encoding_of(shift);
    h.zipped = false;
    h.metrics = blank;
    TIER_TRY_OUT(tier_spool_writer_begin(spool, &h, &s.writer, err));
    for (uint64_t i = 0; i < tier_manifest_segments(manifest); i++)
        TIER_TRY_OUT(seal_segment(&s, i, err));
    TIER_TRY_OUT(seal_tail(&s, err));
    st = tier_spool_writer_seal(s.writer, 0, id_out, err);
    s.writer = NULL;
out:
    tier_spool_writer_abort(s.writer);
    room_release(&s.room);
    tier_metrics_free(blank);
    tier_spool_update_close(s.visible);
    return st;
}

/* ---- folding ---- */

struct fold {
    const struct tier_masked_fold *f;
    struct tier_update **inputs;
    struct tier_update_header header;
    uint8_t *layout; /* the metrics of the first, encoded */
    size_t layout_bytes, tail;
    uint64_t bytes; /* of a payload */
    uint8_t *directory;
    struct tier_spool_writer *writer;
    struct room room;
};

static enum tier_status foreign(const struct tier_hash *id, const char *what,
                                struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    return tier_fail(err, TIER_EUPDATE, "update %.16s %s", tier_hash_hex(id, hex), what);
}

static enum tier_status check_input(struct fold *fold, const struct tier_hash *id,
                                    const struct tier_update_header *h, struct tier_err *err) {
    const struct tier_masked_fold *f = fold->f;
    uint8_t *layout = NULL;
    size_t bytes = 0;

    if (h->encoding != encoding_of(f->shift))
        return foreign(id,
                       f->shift ? "is not masked in 32 bits: in this secure sum all of them are"
                                : "is not masked: in a secure sum all of them are",
                       err);
    if (!tier_hash_equal(&h->run, &f->run) || h->round != f->round ||
        !tier_hash_equal(&h->base_model, &f->base_model))
        return foreign(id, "is of another run, round or base model than this fold", err);
    TIER_TRY(tier_update_header_check(h, f->manifest, err));
    TIER_TRY(tier_metrics_encode(h->metrics, &layout, &bytes, err));
    bool same = bytes == fold->layout_bytes && (bytes == 0 || !memcmp(layout, fold->layout, bytes));
    free(layout);
    return same ? TIER_OK
                : foreign(id,
                          "has other metrics than those before it: masks hide sums of the same "
                          "ones only",
                          err);
}

static enum tier_status open_inputs(struct fold *fold, struct tier_err *err) {
    const struct tier_masked_fold *f = fold->f;

    for (size_t i = 0; i < f->count; i++) {
        TIER_TRY(tier_spool_update_open(f->spool, &f->inputs[i], &fold->inputs[i], err));
        const struct tier_update_header *h = tier_spool_update_header(fold->inputs[i]);
        if (i == 0) {
            TIER_TRY(blank_metrics(h->metrics, &fold->header.metrics, err));
            TIER_TRY(tier_metrics_encode(h->metrics, &fold->layout, &fold->layout_bytes, err));
        }
        TIER_TRY(check_input(fold, &f->inputs[i], h, err));
        fold->bytes = h->payload_bytes;
        tier_spool_update_trim(fold->inputs[i], i < tier_fold_files_open());
    }
    fold->tail = tail_words(fold->header.metrics);
    return TIER_OK;
}

/* The sum of n words from byte `at` on, without masks, to room.words. */
static enum tier_status add_words(struct fold *fold, uint64_t at, size_t n, struct tier_err *err) {
    const struct tier_masked_fold *f = fold->f;
    uint64_t *sum = (uint64_t *)fold->room.words;

    memset(sum, 0, n * WORD);
    for (size_t i = 0; i < f->count; i++) {
        TIER_TRY(tier_spool_update_read(fold->inputs[i], at, fold->room.in, n * WORD, err));
        for (size_t k = 0; k < n; k++)
            sum[k] += fold->room.in[k];
    }
    return apply(&fold->room, f->terms, f->term_count, word_behind(at), n, err);
}

/* The same of 32-bit words, which become sums of 64 bits. */
static enum tier_status add_short(struct fold *fold, uint64_t at, size_t n, struct tier_err *err) {
    const struct tier_masked_fold *f = fold->f;
    uint32_t *sum = fold->room.short_words, *in = (uint32_t *)(void *)fold->room.in;

    memset(sum, 0, n * SHORT);
    for (size_t i = 0; i < f->count; i++) {
        TIER_TRY(tier_spool_update_read(fold->inputs[i], at, in, n * SHORT, err));
        for (size_t k = 0; k < n; k++)
            sum[k] += in[k];
    }
    TIER_TRY(apply_short(&fold->room, f->terms, f->term_count, at / SHORT, n, err));
    tier_narrow_sums(sum, n, f->shift, fold->room.words);
    return TIER_OK;
}

static enum tier_status no_sum(const char *what, int64_t value, struct tier_err *err) {
    return tier_fail(err, TIER_EUPDATE,
                     "the unmasked sum has %s %" PRId64 ": one of the children has not sent what "
                     "the plan allows; under masks it cannot be told which",
                     what, value);
}

/* Weight, counts and metrics: before the elements, whose range follows from the weight. */
static enum tier_status read_tail(struct fold *fold, struct tier_err *err) {
    const int64_t *words = fold->room.words;
    struct tier_metrics *m = fold->header.metrics;
    size_t at = TAIL_METRICS;

    uint64_t most = fold->f->shift ? UINT64_C(1) << fold->f->shift : TIER_WEIGHT_TOTAL_MAX;

    TIER_TRY(add_words(fold, fold->bytes - fold->tail * WORD, fold->tail, err));
    if (words[TAIL_WEIGHT] < 0 || (uint64_t)words[TAIL_WEIGHT] > most)
        return no_sum("the weight", words[TAIL_WEIGHT], err);
    if (words[TAIL_SATURATED] < 0 || (uint64_t)words[TAIL_SATURATED] > TIER_SATURATED_MAX)
        return no_sum("a count of saturated elements", words[TAIL_SATURATED], err);
    fold->header.weight = (uint64_t)words[TAIL_WEIGHT];
    fold->header.saturated = (uint64_t)words[TAIL_SATURATED];
    for (size_t i = 0; i < tier_metrics_count(m); i++) {
        const char *name;
        size_t bins;
        tier_metrics_at(m, i, &name, &bins);
        TIER_TRY(tier_metrics_add(m, name, bins, words + at, err));
        at += bins;
    }
    tier_fold_metrics_cut(m);
    return TIER_OK;
}

static enum tier_status fold_segments(struct fold *fold, struct tier_err *err) {
    const struct tier_manifest *m = fold->f->manifest;
    uint64_t segments = tier_manifest_segments(m), at = 0;

    for (uint64_t i = 0; i < segments; i++) {
        size_t wide, n = tier_manifest_segment(m, i, &wide);
        TIER_TRY((fold->f->shift ? add_short : add_words)(fold, at, n + wide, err));
        size_t bytes =
            tier_segment_pack(fold->room.words, n, fold->room.words + n, wide, fold->room.packed);
        TIER_TRY(tier_spool_writer_append(fold->writer, fold->room.packed, bytes, err));
        tier_put_u32(fold->directory + 4 * i, (uint32_t)bytes);
        at += (n + wide) * (fold->f->shift ? SHORT : WORD);
    }
    return tier_spool_writer_append(fold->writer, fold->directory, 4 * (size_t)segments, err);
}

/* The elements of what was sealed: each within what the weight allows. */
static enum tier_status check_sum(const struct tier_masked_fold *f, const struct tier_hash *id,
                                  struct tier_err *err) {
    struct tier_update *sum;

    TIER_TRY(tier_spool_update_open(f->spool, id, &sum, err));
    enum tier_status st = tier_update_verify(sum, f->manifest, err);
    tier_spool_update_close(sum);
    if (st != TIER_OK)
        tier_spool_delete(f->spool, id, NULL);
    return st == TIER_EUPDATE ? tier_err_prefix(err, "unmasked, of no one child") : st;
}

enum tier_status tier_masked_fold(const struct tier_masked_fold *f, struct tier_hash *id_out,
                                  struct tier_err *err) {
    struct fold fold = {.f = f,
                        .inputs = calloc(f->count ? f->count : 1, sizeof *fold.inputs),
                        .directory = malloc(4 * (size_t)tier_manifest_segments(f->manifest)),
                        .header = {.run = f->run,
                                   .round = f->round,
                                   .manifest = f->manifest->hash,
                                   .base_model = f->base_model,
                                   .encoding = TIER_ENC_SUM}};
    enum tier_status st;
    struct tier_hash id;

    if (!fold.inputs || !fold.directory || f->count == 0 || f->count > TIER_CHILDREN_MAX) {
        st = tier_fail(err, f->count ? TIER_ENOMEM : TIER_EARG,
                       "no memory to fold %zu masked updates; 1 to %u are possible", f->count,
                       TIER_CHILDREN_MAX);
        goto out;
    }
    TIER_TRY_OUT(open_inputs(&fold, err));
    TIER_TRY_OUT(room_init(&fold.room, f->manifest, fold.tail, err));
    TIER_TRY_OUT(read_tail(&fold, err));
    TIER_TRY_OUT(tier_spool_writer_begin(f->spool, &fold.header, &fold.writer, err));
    if (fold.header.weight > 0)
        TIER_TRY_OUT(fold_segments(&fold, err));
    st = tier_spool_writer_seal(fold.writer, fold.header.saturated, &id, err);
    fold.writer = NULL;
    if (st == TIER_OK)
        st = check_sum(f, &id, err);
    if (st == TIER_OK)
        *id_out = id;
out:
    tier_spool_writer_abort(fold.writer);
    for (size_t i = 0; fold.inputs && i < f->count; i++)
        tier_spool_update_close(fold.inputs[i]);
    room_release(&fold.room);
    tier_metrics_free(fold.header.metrics);
    free(fold.inputs);
    free(fold.layout);
    free(fold.directory);
    return st;
}
