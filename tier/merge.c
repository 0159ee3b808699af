/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A merge is one to three passes over its inputs, each a loop over segments (tier/ordered.h): the
 * matrix of inner products where the rule or the mixing needs it, then either the blocks of
 * coordinates (merge_pass.c) or the combination with the rule's coefficients. Here is what comes
 * before and after them: which inputs, what the rule makes of the matrix, the sealed result.
 *
 * Coefficients are rounded to multiples of 2^-30, the weights of an exact fold: the combination is
 * an integer sum, with one division for each element at the end.
 */
#include "tier/merge_pass.h"

#include "tier/fold_header.h"
#include "tier/merge_mix.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A struct tier_update and what malloc adds to it, roughly and from above. */
#define UPDATE_BYTES 1024u
/* 0.3 of 10 updates are 3, whatever 0.3 is in binary. */
#define SHARE_SLACK 1e-9
/* What a sum of coefficients may be off by; far below a unit of 2^-30. */
#define SUM_SLACK 1e-12

static bool needs_gram(const struct tier_merge_ops *rule, const struct tier_plan_merge *settings) {
    return rule->gram || settings->mix == TIER_PLAN_MIX_NEAREST;
}

static size_t scratch_of(const struct tier_merge_ops *rule, size_t count) {
    return rule->scratch_bytes ? (rule->scratch_bytes(count) + 63) / 64 * 64 : 0;
}

static struct tier_merge_params params_of(const struct tier_plan_merge *s, size_t count) {
    double byzantine =
        s->byzantine < 1 ? floor(s->byzantine * (double)count + SHARE_SLACK) : s->byzantine;

    return (struct tier_merge_params){.byzantine = (uint64_t)byzantine,
                                      .select = s->select,
                                      .radius = s->radius,
                                      .iterations = s->iterations,
                                      .smoothing = s->smoothing};
}

/* What lives through all passes: entries, matrices, neighbours and the rule's scratch. */
static size_t shared_bytes(const struct tier_merge_ops *rule,
                           const struct tier_plan_merge *settings, size_t count) {
    size_t w = count + 1,
           bytes = w * (sizeof(struct tier_merge_input) + sizeof(uint64_t) + UPDATE_BYTES);

    if (needs_gram(rule, settings))
        bytes += w * w * 2 * sizeof(double) + 4 * w * sizeof(double) + scratch_of(rule, count);
    if (settings->mix == TIER_PLAN_MIX_NEAREST)
        bytes += w * w * (sizeof(uint32_t) + sizeof(double));
    return bytes;
}

static struct tier_merge_shape shape_of(const struct tier_manifest *manifest,
                                        const struct tier_merge_ops *rule,
                                        const struct tier_plan_merge *settings, size_t count) {
    return (struct tier_merge_shape){.manifest = manifest,
                                     .count = count,
                                     .gram = needs_gram(rule, settings),
                                     .combine = rule->gram != NULL,
                                     .mixed = settings->mix == TIER_PLAN_MIX_NEAREST && rule->block,
                                     .scratch_bytes = scratch_of(rule, count)};
}

size_t tier_merge_memory_min(const struct tier_manifest *manifest,
                             const struct tier_merge_ops *rule,
                             const struct tier_plan_merge *settings, size_t count) {
    struct tier_merge_shape shape = shape_of(manifest, rule, settings, count);

    return shared_bytes(rule, settings, count) + tier_merge_worker_bytes_min(&shape);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

/*
 * By what they hold, not by id: an id takes in the run's, which is drawn at random, and sums of
 * doubles depend on their order. So the same updates give the same bits in another run too.
 */
static int by_content(const void *a, const void *b) {
    const struct tier_merge_input *x = a, *y = b;
    int order = memcmp(tier_spool_update_header(x->update)->root.b,
                       tier_spool_update_header(y->update)->root.b, TIER_HASH_BYTES);

    return order ? order : (x->weight > y->weight) - (x->weight < y->weight);
}

enum tier_status tier_merge_look(struct tier_merge_job *job, struct tier_err *err) {
    const struct tier_fold *f = &job->merge->fold;

    job->inputs = calloc(f->count + 1, sizeof *job->inputs);
    if (!job->inputs)
        return tier_fail(err, TIER_ENOMEM, "no memory to look at %zu updates", f->count);
    for (size_t i = 0; i < f->count; i++) {
        struct tier_merge_input *in = &job->inputs[job->count];
        TIER_TRY(tier_spool_update_open(f->spool, &f->inputs[i], &in->update, err));
        in->weight = tier_spool_update_header(in->update)->weight;
        in->place = i;
        job->count += in->weight > 0;
        if (in->weight == 0)
            tier_spool_update_close(in->update);
        else
            tier_spool_update_trim(in->update, job->count <= tier_fold_files_open());
    }
    job->inputs[job->count].update = NULL; /* of the previous result's row there is none */
    qsort(job->inputs, job->count, sizeof *job->inputs, by_content);
    return TIER_OK;
}

void tier_merge_look_release(struct tier_merge_job *job) {
    for (size_t i = 0; job->inputs && i < job->count; i++)
        tier_spool_update_close(job->inputs[i].update);
    free(job->inputs);
    free(job->gram);
    free(job->screen);
    *job = (struct tier_merge_job){0};
}

size_t tier_merge_look_bytes(size_t count) {
    return (count + 1) * (sizeof(struct tier_merge_input) + UPDATE_BYTES);
}

static enum tier_status open_inputs(struct tier_merge_job *job, struct tier_err *err) {
    const struct tier_fold *f = &job->merge->fold;
    const struct tier_hash *ids = f->inputs;

    for (size_t i = 0; i < f->count; i++) {
        struct tier_merge_input *in = &job->inputs[job->count];
        uint32_t multiplier; /* 1: rules are for rounds */
        TIER_TRY(tier_spool_update_open(f->spool, &ids[i], &in->update, err));
        enum tier_status st =
            tier_fold_header_add(&job->header, f, in->update, TIER_WEIGHT_MAX, &multiplier, err);
        in->weight = tier_spool_update_header(in->update)->weight;
        if (st != TIER_OK || in->weight == 0) {
            tier_spool_update_close(in->update);
            in->update = NULL;
            TIER_TRY(st);
            continue;
        }
        job->count++;
        tier_spool_update_trim(in->update, job->count <= tier_fold_files_open());
    }
    qsort(job->inputs, job->count, sizeof *job->inputs, by_content);
    for (size_t i = 0; i < job->count; i++)
        job->weights[i] = job->inputs[i].weight;
    return TIER_OK;
}

/* What a damaged previous result means: none of the inputs is to blame. */
static enum tier_status previous_lost(struct tier_err *err) {
    tier_err_prefix(err, "the result of the previous round, which this merge starts from");
    if (err)
        err->status = TIER_EMODEL;
    return TIER_EMODEL;
}

static enum tier_status open_previous(struct tier_merge_job *job, struct tier_err *err) {
    const struct tier_merge *m = job->merge;
    struct tier_merge_input *in = &job->inputs[job->count];

    if (!m->rule->has_previous || tier_hash_is_zero(&m->previous))
        return TIER_OK;
    enum tier_status st = tier_spool_update_open(m->fold.spool, &m->previous, &in->update, err);
    if (st == TIER_OK)
        st = tier_update_header_check(tier_spool_update_header(in->update), m->fold.manifest, err);
    if (st == TIER_OK)
        st = tier_spool_update_check(in->update, err);
    if (st != TIER_OK)
        return previous_lost(err);
    job->has_previous = tier_spool_update_header(in->update)->weight > 0;
    return TIER_OK;
}

/* ---- the rule -------------------------------------------------------------------------------- */

static enum tier_status unfit(const struct tier_merge_job *job, const char *why,
                              struct tier_err *err) {
    return tier_fail(err, TIER_EPLAN, "merge rule %s: %s", job->merge->rule->name, why);
}

static enum tier_status ready(struct tier_merge_job *job, struct tier_err *err) {
    const struct tier_merge_ops *rule = job->merge->rule;
    char why[TIER_MERGE_WHY_BYTES] = "it refuses these updates without a reason";
    bool mixed = job->merge->settings->mix == TIER_PLAN_MIX_NEAREST;

    if (job->shape.gram && job->count > TIER_MERGE_GRAM_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "merge rule %s compares every two updates: %zu are more than the %u it "
                         "can take",
                         rule->name, job->count, TIER_MERGE_GRAM_MAX);
    if (mixed && !tier_merge_mix_ready(job->count, &job->params, why, sizeof why))
        return unfit(job, why, err);
    if (rule->ready && !rule->ready(job->count, &job->params, why, sizeof why)) {
        why[sizeof why - 1] = '\0';
        return unfit(job, why, err);
    }
    return TIER_OK;
}

/* The neighbours, and for a Gram rule the matrix of the mixed updates. */
static enum tier_status mix(struct tier_merge_job *job, struct tier_err *err) {
    size_t w = job->count + 1;
    double *side = NULL, *mixed = NULL;
    uint32_t *order = NULL;
    enum tier_status st = TIER_OK;

    job->kept = job->count - (size_t)job->params.byzantine;
    job->near = malloc(job->count * job->kept * sizeof *job->near);
    job->far = malloc((job->count * (job->count - job->kept) + 1) * sizeof *job->far);
    order = malloc(job->count * sizeof *order);
    side = malloc(w * sizeof *side);
    mixed = malloc(w * w * sizeof *mixed);
    if (!job->near || !job->far || !order || !side || !mixed) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to mix %zu updates", job->count);
        goto out;
    }
    tier_merge_mix_near(job->gram, job->count, job->kept, order, job->near);
    tier_merge_mix_far(job->count, job->kept, job->near, job->far);
    tier_merge_mix_gram(job->gram, job->count, job->kept, job->near, side, mixed);
    memcpy(job->gram, mixed, w * w * sizeof *mixed);
out:
    free(order);
    free(side);
    free(mixed);
    return st;
}

/*
 * c as multiples of 2^-30. Rounding each may move their sum by a few units; the largest takes that
 * up, so that coefficients which add up to one still do.
 */
static enum tier_status quantise(struct tier_merge_job *job, const double *c,
                                 struct tier_err *err) {
    double exact = 0, magnitude = 0;
    int64_t sum = 0;
    size_t largest = 0;

    for (size_t i = 0; i <= job->count; i++) {
        if (!isfinite(c[i]))
            return unfit(job, "it gave a coefficient that is no number", err);
        exact += c[i];
        magnitude += fabs(c[i]);
        largest = fabs(c[i]) > fabs(c[largest]) ? i : largest;
    }
    if (magnitude > 1 + SUM_SLACK)
        return unfit(job,
                     "its coefficients' magnitudes add up to more than 1, so that its result might "
                     "leave what the updates span",
                     err);
    for (size_t i = 0; i <= job->count; i++) {
        job->coefficients[i] = (int32_t)rint(c[i] * TIER_Q_MAX);
        sum += job->coefficients[i];
    }
    int64_t want = (int64_t)rint(exact * TIER_Q_MAX);
    job->coefficients[largest] = (int32_t)(job->coefficients[largest] + (want - sum));
    return TIER_OK;
}

static enum tier_status find_coefficients(struct tier_merge_job *job, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    const struct tier_merge_ops *rule = job->merge->rule;
    double *c = calloc(2 * (job->count + 1), sizeof *c);
    void *scratch = aligned_alloc(64, scratch_of(rule, job->count) + 64);
    const struct tier_merge_gram in = {.count = job->count,
                                       .g = job->gram,
                                       .weights = job->weights,
                                       .params = &job->params,
                                       .scratch = scratch};

    if (!c || !scratch) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for %zu coefficients", job->count);
        goto out;
    }
    rule->gram(&in, c);
    if (!job->has_previous)
        c[job->count] = 0; /* of the zero vector */
    if (job->near)
        tier_merge_mix_back(job->count, job->kept, job->near, c, c + job->count + 1);
    st = quantise(job, c, err);
out:
    free(scratch);
    free(c);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static enum tier_status passes(struct tier_merge_job *job, struct tier_err *err) {
    const struct tier_merge *m = job->merge;

    if (job->shape.gram) {
        TIER_TRY(tier_merge_pass_gram(job, err));
        if (m->settings->mix == TIER_PLAN_MIX_NEAREST)
            TIER_TRY(mix(job, err));
    }
    if (!m->rule->gram)
        return tier_merge_pass_blocks(job, err);
    TIER_TRY(find_coefficients(job, err));
    return tier_merge_pass_combine(job, err);
}

static enum tier_status checked(const struct tier_merge *m, struct tier_err *err) {
    const struct tier_fold *f = &m->fold;
    size_t needed;

    if (f->count == 0 || f->count > TIER_CHILDREN_MAX)
        return tier_fail(err, TIER_EARG, "a merge of %zu updates; 1 to %d are possible", f->count,
                         TIER_CHILDREN_MAX);
    needed = tier_merge_memory_min(f->manifest, m->rule, m->settings, f->count);
    if (f->memory_bytes < needed)
        return tier_fail(err, TIER_ELIMIT,
                         "a merge of %zu updates by %s needs %zu bytes of memory and may use %zu",
                         f->count, m->rule->name, needed, f->memory_bytes);
    return TIER_OK;
}

static bool job_init(struct tier_merge_job *job, const struct tier_merge *m) {
    size_t w = m->fold.count + 1;

    *job = (struct tier_merge_job){.merge = m};
    job->header = (struct tier_update_header){.run = m->fold.run,
                                              .round = m->fold.round,
                                              .manifest = m->fold.manifest->hash,
                                              .base_model = m->fold.base_model,
                                              .encoding = TIER_ENC_F32,
                                              .metrics = tier_metrics_new()};
    job->inputs = calloc(w, sizeof *job->inputs);
    job->weights = calloc(w, sizeof *job->weights);
    job->coefficients = calloc(w, sizeof *job->coefficients);
    return job->header.metrics && job->inputs && job->weights && job->coefficients;
}

static void job_release(struct tier_merge_job *job) {
    tier_spool_writer_abort(job->writer);
    for (size_t i = 0; job->inputs && i <= job->merge->fold.count; i++)
        tier_spool_update_close(job->inputs[i].update);
    tier_metrics_free(job->header.metrics);
    free(job->inputs);
    free(job->weights);
    free(job->coefficients);
    free(job->gram);
    free(job->near);
    free(job->far);
}

enum tier_status tier_merge_run(const struct tier_merge *merge, struct tier_hash *id_out,
                                struct tier_err *err) {
    enum tier_status st = TIER_OK;
    const struct tier_fold *f = &merge->fold;
    struct tier_merge_job job;

    TIER_TRY(checked(merge, err));
    if (!job_init(&job, merge)) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to merge %zu updates", f->count);
        goto out;
    }
    TIER_TRY_OUT(open_inputs(&job, err));
    TIER_TRY_OUT(tier_spool_writer_begin(f->spool, &job.header, &job.writer, err));
    if (job.count > 0) {
        job.params = params_of(merge->settings, job.count);
        job.shape = shape_of(f->manifest, merge->rule, merge->settings, job.count);
        job.memory_bytes = f->memory_bytes - shared_bytes(merge->rule, merge->settings, f->count);
        TIER_TRY_OUT(ready(&job, err));
        TIER_TRY_OUT(open_previous(&job, err));
        TIER_TRY_OUT(passes(&job, err));
    }
    st = tier_spool_writer_seal(job.writer, job.header.saturated, id_out, err);
    job.writer = NULL;
out:
    job_release(&job);
    return st;
}
