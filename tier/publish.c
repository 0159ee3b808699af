/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one division of the federation: new model = base + S / W, at the root, segment by segment in
 * one thread (the result of a merge other than the mean is taken as W times its rounded value).
 * IEEE double operations in a fixed order per element, so every machine that holds the same sum
 * publishes the same file, and the file's name proves it.
 */
#include "kernels/kern.h"
#include "tier/fold.h"
#include "tier/segment.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct buffers {
    uint8_t *scratch;
    int64_t *hi, *lo;
    float *base, *next;
};

static enum tier_status publishable(const struct tier_update_header *h,
                                    const struct tier_manifest *manifest,
                                    const struct tier_model *base, struct tier_err *err) {
    char theirs[TIER_HASH_HEX], ours[TIER_HASH_HEX];
    const struct tier_hash *named = tier_model_named_hash(base);

    if (h->weight == 0)
        return tier_fail(err, TIER_EUPDATE,
                         "an update of weight 0 cannot be published: it holds no change");
    if (!tier_hash_is_zero(named) && !tier_hash_equal(named, &h->base_model))
        return tier_fail(err, TIER_EMODEL, "the sum is relative to model %.16s, the base is %.16s",
                         tier_hash_hex(&h->base_model, theirs), tier_hash_hex(named, ours));
    return tier_model_matches(base, manifest, err);
}

/* base and sums of one segment are in b; appends the new values. */
static enum tier_status step(const struct tier_manifest *manifest, uint64_t segment, size_t n,
                             uint64_t weight, const struct buffers *b, struct tier_model_writer *w,
                             struct tier_err *err) {
    struct tier_spans it;
    struct tier_span s;

    tier_spans_begin(&it, manifest, segment * TIER_SEGMENT_ELEMENTS, n);
    while (tier_spans_next(&it, &s)) {
        kern_apply_mean(b->next + s.at, b->base + s.at, b->hi + s.at,
                        s.tensor->wide ? b->lo + s.wide_at : NULL, s.n, s.tensor->frac_bits,
                        weight);
        for (size_t i = 0; i < s.n; i++)
            if (!isfinite(b->next[s.at + i]))
                return tier_fail(err, TIER_EMODEL,
                                 "tensor %s, element %" PRIu64 " of the new model would be %g "
                                 "(before: %g)",
                                 s.tensor->name, s.index + i, (double)b->next[s.at + i],
                                 (double)b->base[s.at + i]);
    }
    return tier_model_writer_append(w, b->next, n, err);
}

enum tier_status tier_fold_publish(const struct tier_update *sum,
                                   const struct tier_manifest *manifest,
                                   const struct tier_model *base, const char *models_dir,
                                   const struct tier_kv *metadata, size_t metadata_count,
                                   struct tier_hash *model_out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    const struct tier_update_header *h = tier_spool_update_header(sum);
    size_t n_max = tier_segment_elements_max(manifest);
    size_t wide_max = tier_segment_wide_max(manifest);
    uint64_t segments = tier_manifest_segments(manifest);
    struct tier_segment_cursor cursor;
    struct tier_model_writer *w = NULL;

    TIER_TRY(publishable(h, manifest, base, err));
    TIER_TRY(tier_segment_cursor_init(&cursor, sum, manifest, err));
    struct buffers b = {
        .scratch = malloc(tier_segment_scratch_bytes(manifest)),
        .hi = malloc((n_max + wide_max) * sizeof(int64_t)),
        .base = malloc(n_max * sizeof(float)),
        .next = malloc(n_max * sizeof(float)),
    };
    if (!b.scratch || !b.hi || !b.base || !b.next) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to publish a model");
        goto out;
    }
    b.lo = b.hi + n_max;
    TIER_TRY_OUT(tier_model_writer_begin(models_dir, manifest, metadata, metadata_count, &w, err));
    for (uint64_t i = 0; i < segments; i++) {
        struct tier_extent extent;
        size_t n = tier_manifest_segment(manifest, i, NULL);
        memset(b.hi, 0, (n_max + wide_max) * sizeof(int64_t));
        TIER_TRY_OUT(tier_segment_cursor_next(&cursor, &extent, err));
        TIER_TRY_OUT(tier_segment_add(sum, manifest, i, extent, b.scratch, b.hi, b.lo, err));
        TIER_TRY_OUT(tier_model_read(base, i * TIER_SEGMENT_ELEMENTS, n, b.base, err));
        TIER_TRY_OUT(step(manifest, i, n, h->weight, &b, w, err));
    }
    st = tier_model_writer_finish(w, model_out, err);
    w = NULL;
out:
    tier_model_writer_abort(w);
    free(b.scratch);
    free(b.hi);
    free(b.base);
    free(b.next);
    return st;
}
