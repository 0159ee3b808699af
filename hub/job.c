/* SPDX-License-Identifier: Apache-2.0 */
/* Everything here runs on the worker's thread, but for the end of a job. */
#include "hub/job.h"
#include "hub/appraise.h"
#include "hub/secure.h"
#include "hub/shares.h"
#include "tier/content.h"

#include <stdlib.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

void hub_job_free(void *arg) {
    struct job *job = arg;

    tier_noise_key_wipe(&job->root.noise_key);
    free(job->versions);
    free(job->inputs);
    free(job->damaged);
    free(job->children);
    free(job->screened);
    free(job->shares);
    hub_secure_fold_free(job->secure);
    hub_shares_free(job->aside);
    free(job);
}

/* `plan` NULL: but for what it says of sums. */
static enum tier_status check_update(struct tier_spool *spool, const struct tier_hash *id,
                                     const struct tier_manifest *manifest, bool whole,
                                     const struct tier_plan *plan, struct tier_err *err) {
    struct tier_update *u;
    TIER_TRY(tier_spool_update_open(spool, id, &u, err));
    enum tier_status st = whole ? tier_spool_update_check(u, err) : TIER_OK;
    /* Nothing can be said of what is masked, but that it is as long as it must be. */
    if (st == TIER_OK && !tier_encoding_masked(tier_spool_update_header(u)->encoding))
        st = tier_update_verify(u, manifest, err);
    if (st == TIER_OK && plan && tier_spool_update_header(u)->encoding == TIER_ENC_SUM)
        st = tier_secure_norm_check(plan, u, manifest, err);
    tier_spool_update_close(u);
    return st;
}

static void find_damage(struct job *job, enum tier_status st) {
    if (st == TIER_EUPDATE || st == TIER_ECORRUPT || st == TIER_ENOTFOUND)
        for (size_t i = 0; i < job->count; i++)
            job->damaged[i] = check_update(job->hub->home.spool, &job->inputs[i], job->manifest,
                                           true, NULL, NULL) != TIER_OK;
}

static size_t at_least(size_t bytes, size_t least) {
    return bytes > least ? bytes : least;
}

static enum tier_status screen_job(struct job *job) {
    const struct tier_screen screen = {
        .spool = job->hub->home.spool,
        .manifest = job->manifest,
        .limits = &job->limits,
        .inputs = job->inputs,
        .count = job->count,
        .threads = job->threads,
        .memory_bytes =
            at_least(job->memory_bytes, tier_screen_memory_min(job->manifest, job->count))};
    const struct tier_fold fold = {.spool = job->hub->home.spool,
                                   .manifest = job->manifest,
                                   .run = job->run_id,
                                   .round = job->round,
                                   .base_model = job->base,
                                   .threads = job->threads,
                                   .memory_bytes = job->memory_bytes};
    const struct hub_validation_of of = {.home = &job->hub->home,
                                         .fold = &fold,
                                         .plan = job->plan_hash,
                                         .graph = job->graph_hash,
                                         .stop = &job->hub->closing};
    enum tier_status st = tier_screen_run(&screen, job->screened, &job->alike, &job->err);

    if (st == TIER_OK && job->limits.loss > 0)
        st = hub_appraise_screen(&of, &job->limits, job->inputs, job->count, job->screened,
                                 &job->alike, &job->err);
    find_damage(job, st);
    return st;
}

/* What cannot be said of a round is said to be so; the round goes on. */
static void share_out(struct job *job, struct tier_fold *fold) {
    fold->memory_bytes =
        at_least(fold->memory_bytes, tier_contribution_memory_min(fold->manifest, fold->count));
    if (job->appraises) {
        hub_shares_new(job, fold, &job->aside, &job->no_shares);
        return;
    }
    job->shares = need(calloc(job->count, sizeof *job->shares));
    if (tier_contribution_run(fold, job->permutations, job->shares, &job->exact, &job->no_shares) ==
        TIER_OK)
        return;
    free(job->shares);
    job->shares = NULL;
}

static enum tier_status fold_job(struct job *job) {
    struct tier_fold fold = {.spool = job->hub->home.spool,
                             .manifest = job->manifest,
                             .run = job->run_id,
                             .round = job->round,
                             .base_model = job->base,
                             .stale = job->buffers ? &job->stale : NULL,
                             .inputs = job->inputs,
                             .count = job->count,
                             .threads = job->threads,
                             .memory_bytes = job->memory_bytes,
                             .devices = job->hub->fold_devices};
    const struct tier_merge merge = {
        .fold = fold, .rule = job->rule, .settings = &job->merge, .previous = job->previous};
    enum tier_status st = job->secure ? tier_secure_fold_run(hub_secure_fold_of(job->secure), &fold,
                                                             &job->result, &job->err)
                          : job->rule ? tier_merge_run(&merge, &job->result, &job->err)
                                      : tier_fold_run(&fold, &job->result, &job->err);

    /* What the next round starts from cannot be had again once the children gave theirs up. */
    if (st == TIER_OK && job->rule && job->rule->has_previous)
        st = tier_spool_sync(job->hub->home.spool, &job->result, &job->err);
    find_damage(job, st);
    if (st == TIER_OK && job->permutations > 0)
        share_out(job, &fold);
    return st;
}

static enum tier_status publish_job(struct job *job) {
    return tier_root_run(&job->root, job->hub->home.spool, job->manifest, job->hub->home.models_dir,
                         &job->made, &job->figures, &job->weight, &job->err);
}

static enum tier_status first_model_job(struct job *job) {
    struct tier_graph *graph = NULL;
    char *path = tier_content_path(job->hub->home.models_dir, &job->update, TIER_CONTENT_GRAPH);
    enum tier_status st = tier_graph_open(path, &graph, &job->err);

    if (st == TIER_OK)
        st = tier_task_first_model(graph, job->manifest, job->hub->home.models_dir, &job->result,
                                   &job->err);
    tier_graph_free(graph);
    free(path);
    return st;
}

void hub_job_work(void *arg) {
    struct job *job = arg;

    switch (job->kind) {
    case JOB_FIRST_MODEL:
        job->st = first_model_job(job);
        break;
    case JOB_CHECK:
        job->st = check_update(job->hub->home.spool, &job->update, job->manifest, false, job->plan,
                               &job->err);
        break;
    case JOB_SCREEN:
        job->st = screen_job(job);
        break;
    case JOB_PART:
    case JOB_FOLD:
        job->st = fold_job(job);
        break;
    case JOB_PUBLISH:
        job->st = publish_job(job);
        break;
    }
}
