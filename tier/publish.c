/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one division of the federation: new model = base + S / W, at the root, segment by segment in
 * one thread, while another hashes the segment before (the result of a merge other than the mean is
 * taken as W times its rounded value). IEEE double operations in a fixed order per element, so
 * every machine that holds the same sum publishes the same file, and the file's name proves it. An
 * optimiser at the root stands where the mean is added: its state is read, advanced and written in
 * the same pass. Where updates were normalised, the mean is multiplied once, before either. States
 * are no weights: a step longer than the mean would take a variance below 0.
 */
#include "tier/publish.h"
#include "tier/hash_aside.h"
#include "tier/segment.h"
#include "tier/server_state.h"
#include "tier/site.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One pass over the model. */
struct pass {
    const struct tier_publish *p;
    uint64_t weight;
    uint8_t *scratch;
    int64_t *hi, *lo;
    float *blocks;         /* two segments of base and next, in turn */
    float *base, *next;    /* of this one */
    double *delta, *m, *v; /* with an optimiser; v is always there then; delta with a stretch too */
    struct tier_model_writer *model;
    struct tier_server_state *before; /* NULL where the optimiser begins */
    struct tier_server_state_writer *after;
    struct tier_delta_writer *down;
    struct tier_hasher *hasher; /* of the base, which nobody has looked at since it was written */
    struct tier_hash_aside *aside; /* hashes it, and the new model */
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

static struct tier_server_state_id state_id(const struct tier_publish *p) {
    const struct tier_update_header *h = tier_spool_update_header(p->sum);
    return (struct tier_server_state_id){.run = h->run,
                                         .manifest = p->manifest->hash,
                                         .kind = p->optimiser->kind,
                                         .elements = p->manifest->elements,
                                         .round = h->round};
}

static enum tier_status begin(struct pass *w, struct tier_err *err) {
    const struct tier_publish *p = w->p;
    size_t n = tier_segment_elements_max(p->manifest), wide = tier_segment_wide_max(p->manifest);

    w->scratch = malloc(tier_segment_scratch_bytes(p->manifest));
    w->hi = malloc((n + wide) * sizeof *w->hi);
    w->blocks = malloc(4 * n * sizeof *w->blocks);
    bool doubles = p->optimiser || p->stretch != 0;
    if (doubles)
        w->delta = malloc((p->optimiser ? 3 : 1) * n * sizeof *w->delta);
    w->hasher = tier_hasher_new();
    w->aside = tier_hash_aside_begin();
    if (!w->scratch || !w->hi || !w->blocks || !w->hasher || !w->aside || (doubles && !w->delta))
        return tier_fail(err, TIER_ENOMEM, "no memory to publish a model");
    TIER_TRY(tier_model_hash_front(p->base, w->hasher, err));
    w->lo = w->hi + n;
    if (p->optimiser) {
        struct tier_server_state_id id = state_id(p);
        w->m = w->delta + n;
        w->v = w->m + n;
        if (!tier_hash_is_zero(&p->state))
            TIER_TRY(tier_server_state_open(p->models_dir, &p->state, &id,
                                            &tier_spool_update_header(p->sum)->base_model,
                                            &w->before, err));
        TIER_TRY(tier_server_state_begin(p->models_dir, &id, &w->after, err));
    }
    if (p->down)
        TIER_TRY(tier_delta_begin(p->models_dir, p->manifest,
                                  &tier_spool_update_header(p->sum)->base_model, p->down,
                                  p->metadata, p->metadata_count, &w->down, err));
    return tier_model_writer_begin(p->models_dir, p->manifest, p->metadata, p->metadata_count,
                                   &w->model, err);
}

static void release(struct pass *w) {
    tier_hash_aside_end(w->aside);
    tier_model_writer_abort(w->model);
    tier_server_state_abort(w->after);
    tier_server_state_close(w->before);
    tier_delta_abort(w->down);
    tier_hasher_free(w->hasher);
    free(w->scratch);
    free(w->hi);
    free(w->blocks);
    free(w->delta);
}

/* Of one tensor's span: S / W, and times the stretch where there is one. */
static void mean(struct pass *w, const int64_t *lo, const struct tier_span *s) {
    double stretch = w->p->stretch;

    kern_mean(w->delta, w->hi + s->at, lo, s->n, s->tensor->frac_bits, w->weight);
    for (size_t i = 0; stretch != 0 && i < s->n; i++)
        w->delta[i] *= stretch;
}

/* The sums of one segment are in w; fills next, and advances m and v. */
static enum tier_status step(struct pass *w, uint64_t segment, size_t n, struct tier_err *err) {
    const struct kern_server *optimiser = w->p->optimiser;
    struct tier_spans it;
    struct tier_span s;

    if (optimiser && w->before)
        TIER_TRY(tier_server_state_next(w->before, w->m, w->v, n, err));
    else if (optimiser)
        kern_server_begin(w->m, w->v, n, optimiser);
    tier_spans_begin(&it, w->p->manifest, segment * TIER_SEGMENT_ELEMENTS, n);
    while (tier_spans_next(&it, &s)) {
        const int64_t *lo = s.tensor->wide ? w->lo + s.wide_at : NULL;
        float *next = w->next + s.at;
        bool plain = !w->delta || s.tensor->state;
        if (!plain)
            mean(w, lo, &s);
        if (plain) {
            kern_apply_mean(next, w->base + s.at, w->hi + s.at, lo, s.n, s.tensor->frac_bits,
                            w->weight);
        } else if (optimiser) {
            kern_server_step(next, w->base + s.at, w->delta, w->m + s.at, w->v + s.at, s.n,
                             optimiser);
        } else {
            for (size_t i = 0; i < s.n; i++)
                next[i] = (float)((double)w->base[s.at + i] + w->delta[i]);
        }
        for (size_t i = 0; i < s.n; i++)
            if (!isfinite(next[i]))
                return tier_fail(err, TIER_EMODEL,
                                 "tensor %s, element %" PRIu64 " of the new model would be %g "
                                 "(before: %g)",
                                 s.tensor->name, s.index + i, (double)next[i],
                                 (double)w->base[s.at + i]);
    }
    return optimiser ? tier_server_state_append(w->after, w->m, w->v, n, err) : TIER_OK;
}

static enum tier_status check_base(struct pass *w, struct tier_err *err) {
    const struct tier_hash *named = tier_model_named_hash(w->p->base);
    char hex[TIER_HASH_HEX];
    struct tier_hash got;

    tier_hasher_finish(w->hasher, &got);
    if (tier_hash_is_zero(named) || tier_hash_equal(named, &got))
        return TIER_OK;
    return tier_fail(
        err, TIER_EMODEL,
        "the base model %.16s is damaged on this disk: its SHA-256 is another than its "
        "name says",
        tier_hash_hex(named, hex));
}

static enum tier_status run(struct pass *w, struct tier_err *err) {
    const struct tier_publish *p = w->p;
    struct tier_segment_cursor cursor;
    size_t sums = tier_segment_elements_max(p->manifest) + tier_segment_wide_max(p->manifest);

    TIER_TRY(tier_segment_cursor_init(&cursor, p->sum, p->manifest, err));
    for (uint64_t i = 0; i < tier_manifest_segments(p->manifest); i++) {
        struct tier_extent extent;
        size_t n = tier_manifest_segment(p->manifest, i, NULL);
        /* The segment before this one is being hashed where it lies. */
        w->base = w->blocks + (i % 2) * 2 * tier_segment_elements_max(p->manifest);
        w->next = w->base + tier_segment_elements_max(p->manifest);
        memset(w->hi, 0, sums * sizeof *w->hi);
        TIER_TRY(tier_segment_cursor_next(&cursor, &extent, err));
        TIER_TRY(tier_segment_add(p->sum, 1, p->manifest, i, extent, NULL, w->scratch, w->hi, w->lo,
                                  err));
        if (p->noise_key) /* twelve deviations are below 2^30, and the sums at most 2^62 */
            TIER_TRY(tier_site_noise(p->noise_key, i, p->noise_variance, w->hi, n, err));
        TIER_TRY(tier_model_read(p->base, i * TIER_SEGMENT_ELEMENTS, n, w->base, err));
        TIER_TRY(step(w, i, n, err));
        if (w->down)
            TIER_TRY(tier_delta_append(w->down, w->base, w->next, n, err));
        const struct tier_hash_aside_block blocks[] = {
            {w->hasher, w->base, n * sizeof *w->base},
            {tier_model_writer_hasher(w->model), w->next, n * sizeof *w->next}};
        tier_hash_aside_give(w->aside, blocks);
        TIER_TRY(tier_model_writer_write(w->model, w->next, n, err));
    }
    tier_hash_aside_end(w->aside);
    w->aside = NULL;
    TIER_TRY(check_base(w, err));
    return w->before ? tier_server_state_check(w->before, err) : TIER_OK;
}

enum tier_status tier_publish_run(const struct tier_publish *p, struct tier_published *out,
                                  struct tier_err *err) {
    const struct tier_update_header *h = tier_spool_update_header(p->sum);
    struct pass w = {.p = p, .weight = h->weight};
    struct tier_published made = {0};
    enum tier_status st;

    TIER_TRY(publishable(h, p->manifest, p->base, err));
    TIER_TRY_OUT(begin(&w, err));
    TIER_TRY_OUT(run(&w, err));
    st = tier_model_writer_finish(w.model, &made.model, err);
    w.model = NULL;
    if (st == TIER_OK && w.down) {
        st = tier_delta_finish(w.down, &made.delta, err);
        w.down = NULL;
    }
    if (st == TIER_OK && w.after) {
        st = tier_server_state_finish(w.after, &made.model, &made.state, err);
        w.after = NULL;
    }
    if (st == TIER_OK)
        *out = made;
out:
    release(&w);
    return st;
}

enum tier_status tier_fold_publish(const struct tier_update *sum,
                                   const struct tier_manifest *manifest,
                                   const struct tier_model *base, const char *models_dir,
                                   const struct tier_kv *metadata, size_t metadata_count,
                                   struct tier_hash *model_out, struct tier_err *err) {
    struct tier_publish p = {.sum = sum,
                             .manifest = manifest,
                             .base = base,
                             .models_dir = models_dir,
                             .metadata = metadata,
                             .metadata_count = metadata_count};
    struct tier_published made;

    TIER_TRY(tier_publish_run(&p, &made, err));
    *model_out = made.model;
    return TIER_OK;
}
