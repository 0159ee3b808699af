/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order that makes a kill harmless: an event changes the machine in memory, the change is
 * journalled in one transaction, and only then do its actions leave the process. What is lost with
 * the process was promised to nobody. The disk is waited for where a round commits and where a run
 * ends; what a machine's crash takes from before that, the children still hold.
 */
#include "hub/contributor.h"
#include "hub/job.h"
#include "hub/noise.h"
#include "hub/receipt.h"
#include "hub/run_private.h"
#include "hub/secure.h"
#include "hub/shares.h"
#include "hub/statistics.h"
#include "hub/validation.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/metric.h"
#include "tier/root.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_MS 2000
#define PART_FAILURES_MAX 8

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static void drop_result(struct hub_run *run, const struct job *job);
static void start_publish(struct hub_run *run);
static void perform(struct hub_run *run, const struct tier_round_actions *actions);
static void hold_places(struct hub *hub);

/* Two children may hold the same update, and the sum of one sum is that sum: a file goes when
 * nobody counts on it. */
static void delete_update(struct hub_run *run, uint32_t child, const struct tier_hash *id) {
    struct tier_err err = {0};

    if (tier_hash_equal(&run->round.own_update, id) || tier_hash_equal(&run->round.partial, id))
        return;
    for (uint32_t i = 0; i < run->round.count; i++) {
        const struct tier_round_child *c = tier_round_child(&run->round, i);
        if (i != child && c->state == TIER_CHILD_SEALED && tier_hash_equal(&c->update, id))
            return;
    }
    if (tier_spool_delete(run->hub->home.spool, id, &err) != TIER_OK)
        tier_log_warn("%s", err.text);
}

static void check_done(struct hub_run *run, struct job *job) {
    struct tier_round_event e = {.type = TIER_EVENT_SEALED,
                                 .child = job->child,
                                 .update = job->update,
                                 .weight = job->weight};
    const char *child = run->children[job->child].name;

    if (job->st == TIER_EUPDATE) {
        e.type = TIER_EVENT_BAD;
        e.reason = job->err.text;
    } else if (job->st != TIER_OK) { /* our disk or our memory: the child may push it again */
        tier_log_error("run %.12s: the update of %s cannot be checked: %s", run->hex, child,
                       job->err.text);
        delete_update(run, job->child, &job->update);
        job->err.status = TIER_EUNAVAILABLE;
        tier_serve_pushed(run->hub->serve, child, &job->update, NULL, &job->err);
        return;
    }
    hub_work_step(run, &e);
}

static void retry_fold(struct hub_run *run, const struct tier_err *err) {
    tier_log_error("run %.12s round %" PRIu64 ": %s; trying again in %d s", run->hex,
                   run->round.number, err->text, RETRY_MS / 1000);
    tier_timer_set(run->retry, RETRY_MS);
}

static void fold_succeeded(struct hub_run *run, struct job *job) {
    struct tier_round_event e = {.type = TIER_EVENT_FOLDED, .update = job->result};
    const struct hub_round_shares shares = {.round = job->round,
                                            .children = job->children,
                                            .updates = job->inputs,
                                            .shares = job->shares,
                                            .count = job->child_count,
                                            .exact = job->exact};

    if (job->rule)
        hub_audit(run->hub, "round.folded", "h:run", &run->id, "u:round", job->round, "u:updates",
                  (uint64_t)job->count, "h:update", &job->result, "s:rule", job->rule->name,
                  "h:previous", &job->previous);
    else
        hub_audit(run->hub, "round.folded", "h:run", &run->id, "u:round", job->round, "u:updates",
                  (uint64_t)job->count, "h:update", &job->result);
    if (!job->aside)
        hub_contributors_folded(run, &shares, job->permutations > 0 ? &job->no_shares : NULL);
    else
        hub_shares_submit(run, job->aside);
    job->aside = NULL;
    hub_work_step(run, &e);
}

/* What was refused, and not for want of disk, memory or a device, will be refused again. */
static bool never_works(enum tier_status st) {
    return st == TIER_EARG || st == TIER_EPLAN || st == TIER_EMODEL || st == TIER_EUPDATE ||
           st == TIER_ELIMIT || st == TIER_ECONFLICT;
}

static void lost(struct hub_run *run, uint32_t child) {
    struct tier_round_event e = {.type = TIER_EVENT_LOST,
                                 .child = child,
                                 .update = tier_round_child(&run->round, child)->update};
    tier_log_warn("run %.12s: the update of %s was damaged here and is wanted again", run->hex,
                  run->children[child].name);
    hub_work_step(run, &e);
}

static void lost_partial(struct hub_run *run) {
    struct tier_hash partial = run->round.partial;

    for (uint32_t i = 0; i < run->round.count; i++)
        if (tier_round_child(&run->round, i)->state == TIER_CHILD_FOLDED)
            lost(run, i);
    if (!tier_hash_is_zero(&partial))
        tier_spool_delete(run->hub->home.spool, &partial, NULL);
}

static void try_part_again(struct hub_run *run) {
    struct tier_round_event e = {.type = TIER_EVENT_UNPARTED};
    hub_work_step(run, &e);
}

/* What was put aside and is damaged counted nothing, and is no evidence any more either. */
static void forget(struct hub_run *run, uint32_t child) {
    struct tier_round_event e = {.type = TIER_EVENT_WITHDRAW,
                                 .child = child,
                                 .update = tier_round_child(&run->round, child)->update};
    tier_log_warn("run %.12s: the update of %s in quarantine was damaged here and is dropped",
                  run->hex, run->children[child].name);
    hub_work_step(run, &e);
}

/* Inputs that are not what they were are wanted again. False: none is. */
static bool report_damage(struct hub_run *run, const struct job *job) {
    bool any = false;

    for (size_t k = 0; k < job->count; k++) {
        if (!job->damaged[k])
            continue;
        any = true;
        if (k >= job->child_count)
            lost_partial(run);
        else if (tier_round_child(&run->round, job->children[k])->state == TIER_CHILD_SEALED)
            lost(run, job->children[k]);
        else if (tier_round_child(&run->round, job->children[k])->state == TIER_CHILD_QUARANTINED)
            forget(run, job->children[k]);
    }
    return any;
}

/* Parts save disk, no round needs them: without them its own fold says whether there is a sum. */
static void part_failed(struct hub_run *run, const struct job *job) {
    struct tier_round_event e = {.type = TIER_EVENT_NO_PART};

    if (report_damage(run, job)) {
        try_part_again(run);
    } else if (never_works(job->st) || ++run->part_failures >= PART_FAILURES_MAX) {
        tier_log_error("run %.12s round %" PRIu64 ": %s; nothing is folded before it closes",
                       run->hex, run->round.number, job->err.text);
        hub_work_step(run, &e);
        hold_places(run->hub); /* what waits for the close holds none */
    } else {
        retry_fold(run, &job->err);
    }
}

/* The partial takes the place of its inputs in the journal first, then on the disk. */
static void part_done(struct hub_run *run, struct job *job) {
    struct tier_round_event e = {.type = TIER_EVENT_PARTED, .update = job->result};
    struct tier_round_actions actions = {0};

    if (job->st != TIER_OK) {
        part_failed(run, job);
        return;
    }
    run->part_failures = 0;
    tier_round_step(&run->round, &e, &actions);
    hub_rows_children(run, job->children, job->child_count);
    hub_audit(run->hub, "round.part", "h:run", &run->id, "u:round", job->round, "u:updates",
              (uint64_t)job->child_count, "h:update", &job->result);
    for (size_t k = 0; k < job->count; k++) {
        if (k < job->child_count)
            hub_work_retain(run->hub, &job->inputs[k]);
        delete_update(run, UINT32_MAX, &job->inputs[k]);
    }
    hold_places(run->hub);
    perform(run, &actions);
}

static void fold_done(struct hub_run *run, struct job *job) {
    if (run->round.state != TIER_ROUND_FOLDING) {
        drop_result(run, job);
        return;
    }
    if (job->st == TIER_OK && job->kind == JOB_SCREEN) {
        hub_screen_done(run, &job->set, job->children, job->screened, job->child_count,
                        &job->alike);
        return;
    }
    if (job->st == TIER_OK) {
        fold_succeeded(run, job);
        return;
    }
    if (report_damage(run, job)) {
        if (job->kind == JOB_SCREEN)
            hub_work_resume(run); /* with the others, unless some are wanted again */
        return;
    }
    if (never_works(job->st)) {
        struct tier_round_event e = {.type = TIER_EVENT_NO_MERGE, .reason = job->err.text};
        tier_log_error("run %.12s round %" PRIu64 ": %s", run->hex, job->round, job->err.text);
        hub_work_step(run, &e);
        return;
    }
    retry_fold(run, &job->err);
}

/* The round went on, or the run ended, while the job was at work: what it made serves nobody. */
static void drop_result(struct hub_run *run, const struct job *job) {
    static const struct tier_err late = {.status = TIER_ELATE, .text = "the round is closed"};
    struct tier_spool *spool = job->hub->home.spool;

    bool kept = run && tier_hash_equal(&run->round.own_update, &job->result);
    if ((job->kind == JOB_FOLD || job->kind == JOB_PART) && job->st == TIER_OK && !kept)
        tier_spool_delete(spool, &job->result, NULL);
    if (job->kind == JOB_PUBLISH && job->st == TIER_OK) {
        hub_work_drop_state(job->hub, run, &job->made.state);
        tier_delta_delete(job->hub->home.models_dir, &job->made.delta);
    }
    if (job->kind != JOB_CHECK)
        return;
    if (!run) {
        tier_spool_delete(spool, &job->update, NULL);
        return;
    }
    delete_update(run, job->child, &job->update);
    tier_serve_pushed(job->hub->serve, run->children[job->child].name, &job->update, NULL, &late);
}

static void first_model_done(struct hub_run *run, const struct job *job) {
    if (job->st != TIER_OK) {
        hub_run_finish(run, HUB_RUN_FAILED, job->err.text);
        return;
    }
    run->model = job->result;
    hub_work_journal_run(run);
    hub_run_first_round(run);
}

/* Runs of one plan publish the same files: one may have dropped what the other has just made. */
static bool made_in_vain(const struct job *job) {
    const struct tier_hash *model = job->kind == JOB_PUBLISH ? &job->made.model : &job->result;
    return (job->kind == JOB_FIRST_MODEL || job->kind == JOB_PUBLISH) && job->st == TIER_OK &&
           !tier_content_has(job->hub->home.models_dir, model, TIER_CONTENT_MODEL);
}

static void job_done(void *arg) {
    struct job *job = arg;
    struct hub_run *run = hub_run_find(job->hub, &job->run_id);
    /* Where the tier buffers, what arrived in one round may count in the next. */
    bool later = run && job->kind == JOB_CHECK && hub_run_buffers(run);
    bool current = run && run->state == HUB_RUN_OPEN && (run->round.number == job->round || later);

    if (run && (job->kind == JOB_FOLD || job->kind == JOB_PART || job->kind == JOB_SCREEN)) {
        run->folding = false;
        current = current && !run->fold_void;
        run->fold_void = false;
    }
    if (run && job->kind == JOB_PUBLISH)
        run->publishing = false;
    if (!current && job->kind == JOB_PART)
        hold_places(job->hub); /* its round holds none any more */
    if (!current) {
        drop_result(run, job);
        if (run)
            hub_work_resume(run); /* the round that is open now may have waited for the worker */
    } else if (made_in_vain(job)) {
        if (job->kind == JOB_PUBLISH)
            start_publish(run);
        else
            hub_work_first_model(run);
    } else if (job->kind == JOB_FIRST_MODEL) {
        first_model_done(run, job);
    } else if (job->kind == JOB_CHECK) {
        check_done(run, job);
    } else if (job->kind == JOB_PART) {
        part_done(run, job);
    } else if (job->kind == JOB_FOLD || job->kind == JOB_SCREEN) {
        fold_done(run, job);
    } else if (job->st == TIER_OK) {
        hub_run_published(run, &job->made, &job->figures);
    } else if (never_works(job->st)) {
        hub_run_finish(run, HUB_RUN_FAILED, job->err.text);
    } else {
        retry_fold(run, &job->err);
    }
    hub_job_free(job);
}

static struct job *job_new(struct hub_run *run, enum job_kind kind) {
    struct job *job = need(calloc(1, sizeof *job));
    job->hub = run->hub;
    job->run_id = run->id;
    job->round = run->round.number;
    job->kind = kind;
    job->base = run->base_model;
    job->manifest = run->manifest;
    job->plan = &run->plan;
    return job;
}

/* A hub that is being closed has no worker any more, while its last calls still end. */
static void submit(struct hub_run *run, struct job *job) {
    if (run->hub->worker)
        tier_worker_submit(run->hub->worker, hub_job_work, job_done, hub_job_free, job);
    else
        hub_job_free(job);
}

void hub_work_check(struct hub_run *run, uint32_t child, const struct tier_hash *id,
                    uint64_t weight) {
    struct job *job = job_new(run, JOB_CHECK);
    job->child = child;
    job->update = *id;
    job->weight = weight;
    submit(run, job);
}

static void take_stale(const struct hub_run *run, struct job *job) {
    job->buffers = tier_stale_in(&run->plan);
    job->versions = need(malloc(sizeof run->before));
    job->stale = (struct tier_fold_stale){
        .damps = hub_run_buffers(run), .versions = job->versions, .partial = run->round.partial};
    for (size_t i = 0; i < run->before_count; i++)
        if (run->round.number - run->before[i].round <= run->round.rules.staleness_max)
            job->versions[job->stale.version_count++] = run->before[i];
}

/* What this tier of the plan wants to know of single updates. */
static void take_look(const struct hub_run *run, struct job *job) {
    const struct tier_plan_tier *tier = tier_plan_tier_of(&run->plan, hub_is_top(run->hub));

    tier_hash_data(run->plan_text, run->plan_bytes, &job->plan_hash);
    tier_hash_parse(run->plan.model_sha256, &job->graph_hash);
    /* A coalition's mean alone is no model of such plans. */
    job->appraises = hub_validation_has(run->hub->config) && !run->plan.normalise &&
                     run->plan.share.count == 0 && run->plan.keep.count == 0 &&
                     run->plan.loss != TIER_PLAN_COX;
    if (job->kind == JOB_FOLD && tier_task_trains(&run->plan, job->round))
        job->permutations = tier->contribution.permutations;
    if (job->kind != JOB_SCREEN)
        return;
    job->limits = tier->screen;
    job->screened = need(calloc(job->count + 1, sizeof *job->screened));
    struct tier_hash *ids = need(malloc((job->count + 1) * sizeof *ids));
    memcpy(ids, job->inputs, job->count * sizeof *ids);
    tier_screen_set(ids, job->count, &job->set);
    free(ids);
}

/* Of the inputs of a part or of the whole; the partial, where there is one, is the last of them. */
static void start_fold(struct hub_run *run, enum job_kind kind) {
    const struct tier_config *c = run->hub->config;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (run->folding)
        return;
    if (kind == JOB_FOLD && hub_screen_due(run))
        kind = JOB_SCREEN;
    struct hub_secure_fold *secure = hub_secure_on(run) ? hub_secure_fold_new(run) : NULL;
    if (hub_secure_on(run) && !secure)
        return;
    struct job *job = job_new(run, kind);
    job->secure = secure;
    job->inputs = need(calloc(run->round.count + 2, sizeof *job->inputs));
    job->damaged = need(calloc(run->round.count + 2, sizeof *job->damaged));
    job->children = need(calloc(run->round.count + 1, sizeof *job->children));
    for (uint32_t i = 0; i < run->round.count; i++) {
        const struct tier_round_child *child = tier_round_child(&run->round, i);
        bool wanted =
            kind == JOB_SCREEN ? hub_screen_takes(run, i) : child->state == TIER_CHILD_SEALED;
        if (!wanted || (kind == JOB_PART && !child->in_part))
            continue;
        job->children[job->child_count++] = i;
        job->inputs[job->count++] = child->update;
    }
    if (!tier_hash_is_zero(&run->round.partial))
        job->inputs[job->count++] = run->round.partial;
    take_stale(run, job);
    take_look(run, job);
    job->rule = run->rule;
    job->merge = tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->merge;
    job->previous = run->kept_update;
    job->threads = (unsigned)(c->threads ? c->threads : cores > 0 ? (uint64_t)cores : 1);
    /* The other half of the budget is the network's. */
    job->memory_bytes = (size_t)(c->hub.memory_budget_mb << 20) / 2;
    size_t least = run->rule
                       ? tier_merge_memory_min(run->manifest, run->rule, &job->merge, job->count)
                       : tier_fold_memory_min(run->manifest, job->count);
    if (job->memory_bytes < least)
        job->memory_bytes = least;
    run->folding = true;
    submit(run, job);
}

void hub_work_first_model(struct hub_run *run) {
    struct job *job = job_new(run, JOB_FIRST_MODEL);
    tier_hash_parse(run->plan.model_sha256, &job->update); /* here, the graph */
    submit(run, job);
}

static void start_publish(struct hub_run *run) {
    if (run->publishing)
        return;
    struct job *job = job_new(run, JOB_PUBLISH);
    tier_root_init(&job->root, &run->plan, run->plan_text, run->plan_bytes, run->round.number);
    job->root.update = run->round.own_update;
    job->root.base = run->base_model;
    job->root.state = run->server_state;
    enum tier_status st = hub_noise_key(run, &job->root.noise_key, &job->err);
    if (st == TIER_OK) {
        run->publishing = true;
        submit(run, job);
        return;
    }
    if (st == TIER_EPOLICY)
        hub_run_finish(run, HUB_RUN_FAILED, job->err.text);
    else
        hub_stop_on(run->hub, &job->err);
    hub_job_free(job);
}

/* While a part is folded, what is sealed holds places, so that what arrives does not outrun the
 * disk that the folding gives back. Nothing waits for a place that only an arrival could free. */
static void hold_places(struct hub *hub) {
    unsigned loose = 0;

    for (const struct hub_run *run = hub->runs; run; run = run->next)
        if (run->state == HUB_RUN_OPEN && run->round.state == TIER_ROUND_OPEN && run->round.parting)
            loose += (unsigned)tier_round_tally(&run->round).loose;
    tier_serve_hold(hub->serve, loose);
}

/* ---- delivering ---- */

static void deliver(struct hub_run *run) {
    struct hub *hub = run->hub;
    struct tier_update *u = NULL;
    struct tier_err err = {0};

    if (tier_spool_update_open(hub->home.spool, &run->round.own_update, &u, &err) != TIER_OK) {
        /* Lost with the volume; its inputs may be here still. */
        run->round.state = TIER_ROUND_FOLDING;
        lost_partial(run); /* but for what a partial took */
        if (run->round.state == TIER_ROUND_FOLDING)
            start_fold(run, JOB_FOLD);
        return;
    }
    hub_work_figures(run, tier_spool_update_header(u)->metrics);
    if (hub->link) {
        struct tier_journal_sent sent = {.round = run->round.number,
                                         .update_id = run->round.own_update,
                                         .state = TIER_SENT_PENDING};
        memcpy(sent.run, run->hex, sizeof sent.run);
        sent.header = tier_spool_update_header_bytes(u, &sent.header_bytes);
        if (tier_journal_sent_put(hub->home.journal, &sent, &err) != TIER_OK ||
            tier_link_offer(hub->link, &run->round.own_update, &err) != TIER_OK)
            hub_stop_on(hub, &err);
    }
    tier_spool_update_close(u);
    if (!hub->link)
        start_publish(run);
}

static void perform(struct hub_run *run, const struct tier_round_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) {
        const struct tier_round_action *a = &actions->at[i];
        switch (a->type) {
        case TIER_ACTION_START:
            hub_work_tell_round(run, a->child);
            break;
        case TIER_ACTION_GRANT:
            tier_serve_grant(run->hub->serve, run->children[a->child].name, &a->update,
                             run->manifest);
            break;
        case TIER_ACTION_RECEIPT:
            hub_receipt_give(run, a);
            break;
        case TIER_ACTION_REFUSE:
        case TIER_ACTION_QUARANTINE:
            hub_receipt_refuse(run, a);
            break;
        case TIER_ACTION_DISCARD:
            tier_serve_withdraw(run->hub->serve, run->children[a->child].name, &a->update,
                                TIER_ELATE, "this update is not wanted any more");
            delete_update(run, a->child, &a->update);
            break;
        case TIER_ACTION_PART:
            start_fold(run, JOB_PART);
            break;
        case TIER_ACTION_UNMASK:
            hub_secure_unmask(run);
            break;
        case TIER_ACTION_FOLD:
            tier_timer_cancel(run->deadline);
            start_fold(run, JOB_FOLD);
            break;
        case TIER_ACTION_DELIVER:
            deliver(run);
            break;
        case TIER_ACTION_EMPTY:
            hub_work_empty(run, a->reason);
            break;
        }
    }
}

/*
 * While a buffered round is being folded and published, what arrives waits for the next one to
 * open. It is forgotten in a restart, after which children offer again.
 */
static bool keep_for_next(struct hub_run *run, const struct tier_round_event *e) {
    if (e->type != TIER_EVENT_SEALED || run->round.state == TIER_ROUND_OPEN ||
        !hub_run_still_at_work(run, e->child))
        return false;
    if (!tier_hash_equal(&run->children[e->child].early.update, &e->update))
        hub_work_drop_early(run, e->child); /* the child has thought better of it */
    run->children[e->child].early = *e;
    run->children[e->child].has_early = true;
    return true;
}

void hub_work_take_early(struct hub_run *run) {
    for (uint32_t i = 0; i < run->child_count; i++) {
        struct tier_round_event e = run->children[i].early;
        if (!run->children[i].has_early)
            continue;
        run->children[i].has_early = false;
        hub_work_step(run, &e);
    }
}

void hub_work_step(struct hub_run *run, const struct tier_round_event *e) {
    struct tier_round_actions actions = {0};
    enum tier_round_child_state child_before = tier_round_child(&run->round, e->child)->state;
    enum tier_round_state state_before = run->round.state;
    size_t sealed_before = tier_round_tally(&run->round).sealed;

    if (run->state != HUB_RUN_OPEN || run->round.number == 0 || keep_for_next(run, e))
        return;
    hub_secure_before(run, e);
    tier_round_step(&run->round, e, &actions);
    hub_rows_step(run, e, child_before, state_before, &actions);
    if ((state_before == TIER_ROUND_FOLDING || state_before == TIER_ROUND_UNMASKING) &&
        run->round.state == TIER_ROUND_OPEN && run->deadline_at_ms)
        tier_timer_set(run->deadline, hub_work_time_left_ms(run)); /* folding had ended it */
    if (run->round.state != state_before || tier_round_tally(&run->round).sealed != sealed_before)
        hub_work_progress(run);
    if (run->round.state != state_before)
        tier_log_info("run %.12s round %" PRIu64 ": %s", run->hex, run->round.number,
                      tier_round_state_text(run->round.state));
    if (state_before == TIER_ROUND_OPEN &&
        (run->round.state == TIER_ROUND_FOLDING || run->round.state == TIER_ROUND_UNMASKING))
        hub_audit(run->hub, "round.closed", "h:run", &run->id, "u:round", run->round.number, "s:by",
                  run->round.overdue ? "deadline" : "quorum", "u:updates",
                  (uint64_t)tier_round_tally(&run->round).sealed, "u:weight", run->round.weight);
    if (run->round.rules.part_at > 0)
        hold_places(run->hub);
    perform(run, &actions);
    hub_secure_after(run, e);
    hub_console_changed(run->hub, run);
}

/* A partial in the making has nothing of the update: what is in one holds fast. */
void hub_work_withdrawn(struct hub_run *run) {
    if (run->folding && run->round.state == TIER_ROUND_FOLDING && !run->round.parting)
        run->fold_void = true; /* until it ends, whoever else withdraws meanwhile */
}

void hub_work_tell_waiting(struct hub_run *run) {
    for (uint32_t i = 0; i < run->round.count; i++) {
        const struct tier_round_child *c = tier_round_child(&run->round, i);
        if (c->state == TIER_CHILD_EXPECTED && c->attending)
            hub_work_tell_round(run, i);
    }
}

void hub_work_resume(struct hub_run *run) {
    struct tier_round_actions actions = {0};
    if (run->state != HUB_RUN_OPEN || run->round.number == 0 || !run->manifest)
        return;
    if (run->round.parting && run->folding) /* it says itself what comes next */
        return;
    if (run->round.parting) {
        try_part_again(run);
        return;
    }
    tier_round_resume(&run->round, &actions);
    perform(run, &actions);
}

void hub_work_drop(struct hub_run *run, const char *child, const struct tier_hash *id) {
    static const struct tier_err late = {.status = TIER_ELATE, .text = "the round is closed"};
    for (uint32_t i = 0; i < run->child_count; i++)
        if (strcmp(run->children[i].name, child) == 0)
            delete_update(run, i, id);
    tier_serve_pushed(run->hub->serve, child, id, NULL, &late);
}
