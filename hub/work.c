/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order that makes a kill harmless: an event changes the machine in memory, the change is
 * journalled in one transaction, and only then do its actions leave the process. What is lost with
 * the process was promised to nobody. The disk is waited for where a round commits and where a run
 * ends; what a machine's crash takes from before that, the children still hold.
 */
#include "hub/receipt.h"
#include "tier/content.h"
#include "tier/fold.h"
#include "tier/log.h"
#include "tier/metric.h"
#include "tier/model.h"
#include "tier/named_file.h"
#include "tier/publish.h"
#include "tier/server_state.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_MS 2000
#define PROGRESS_MS 1000

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- the journal ---- */

void hub_work_journal_run(struct hub_run *run) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    struct tier_journal_run row = {.state = run->state,
                                   .round = run->round.number,
                                   .created_ms = run->created_ms,
                                   .model = run->model};
    memcpy(row.run, run->hex, sizeof row.run);
    snprintf(row.detail, sizeof row.detail, "%s", run->reason);
    bool round_open = run->state == HUB_RUN_OPEN && run->round.state == TIER_ROUND_OPEN;
    enum tier_status st = round_open ? tier_journal_begin_lazy(j, &err) : TIER_OK;
    if (st == TIER_OK)
        st = tier_journal_run_set(j, &row, &err);
    if (st == TIER_OK && round_open)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

static enum tier_status put_round(struct hub_run *run, struct tier_err *err) {
    struct tier_journal_round row;
    struct tier_journal *j = run->hub->home.journal;

    if (tier_journal_round_get(j, run->hex, run->round.number, &row, NULL) != TIER_OK) {
        row = (struct tier_journal_round){.round = run->round.number, .opened_ms = tier_wall_ms()};
        memcpy(row.run, run->hex, sizeof row.run);
    }
    row.state = run->round.state;
    row.base_model = run->base_model;
    row.own_update = run->round.own_update;
    if (run->round.state == TIER_ROUND_COMMITTED && !row.closed_ms) {
        row.closed_ms = tier_wall_ms();
        row.result_model = run->model;
        row.result_state = run->server_state;
    }
    return tier_journal_round_put(j, &row, err);
}

/* DECLINED is a REFUSED row without an update: the journal knows no child's reasons. */
static enum tier_update_state row_state(const struct tier_round_child *c) {
    switch (c->state) {
    case TIER_CHILD_SEALED:
        return TIER_UPDATE_SEALED;
    case TIER_CHILD_DECLINED:
    case TIER_CHILD_REFUSED:
        return TIER_UPDATE_REFUSED;
    default:
        return TIER_UPDATE_WANTED;
    }
}

static enum tier_status put_child(struct hub_run *run, uint32_t child, struct tier_err *err) {
    const struct tier_round_child *c = tier_round_child(&run->round, child);
    const struct hub_child *who = &run->children[child];
    struct tier_journal_update row = {.round = run->round.number, .state = row_state(c)};

    memcpy(row.run, run->hex, sizeof row.run);
    memcpy(row.child, who->name, sizeof who->name);
    if (c->state == TIER_CHILD_SEALED || c->state == TIER_CHILD_REFUSED) {
        row.update_id = c->update;
        row.weight = c->weight;
    }
    return tier_journal_update_put(run->hub->home.journal, &row, err);
}

void hub_work_open_round(struct hub_run *run) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    enum tier_status st = tier_journal_begin_lazy(j, &err);

    if (st == TIER_OK)
        st = put_round(run, &err);
    for (uint32_t i = 0; i < run->child_count && st == TIER_OK; i++)
        if (tier_round_child(&run->round, i)->state != TIER_CHILD_NONE)
            st = put_child(run, i, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

static void journal_step(struct hub_run *run, const struct tier_round_event *e,
                         enum tier_round_child_state child_before,
                         enum tier_round_state state_before,
                         const struct tier_round_actions *actions) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    enum tier_round_child_state now = tier_round_child(&run->round, e->child)->state;
    bool about_child = e->type <= TIER_EVENT_LOST;
    /* A push under way is not worth a row: after a restart it is wanted again. */
    bool child_changed = about_child && now != child_before && now != TIER_CHILD_PUSHING &&
                         !(now == TIER_CHILD_EXPECTED && child_before == TIER_CHILD_PUSHING);

    if (!child_changed && run->round.state == state_before)
        return;
    /* Only after a commit do children give up what they hold: all else they push again. */
    enum tier_status st = run->round.state == TIER_ROUND_COMMITTED
                              ? tier_journal_begin(j, &err)
                              : tier_journal_begin_lazy(j, &err);
    struct tier_receipt receipt;
    bool fresh = false; /* an event gives at most one receipt */
    if (st == TIER_OK && child_changed)
        st = put_child(run, e->child, &err);
    for (size_t i = 0; i < actions->count && st == TIER_OK; i++)
        if (actions->at[i].type == TIER_ACTION_RECEIPT)
            st = hub_receipt_make(run, actions->at[i].child, &actions->at[i].update, &receipt,
                                  &fresh, &err);
    if (st == TIER_OK)
        st = put_round(run, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
    else if (fresh)
        hub_receipt_audit(run->hub, &receipt);
}

static uint64_t time_left_ms(const struct hub_run *run) {
    uint64_t now = tier_clock_ms();
    if (!run->deadline_at_ms)
        return 0;
    return run->deadline_at_ms > now ? run->deadline_at_ms - now : 1;
}

static void tell_round(struct hub_run *run, uint32_t child) {
    struct tier_to_child m = {.type = TIER_TO_ROUND,
                              .run = run->id,
                              .round = run->round.number,
                              .model = run->base_model,
                              .deadline_ms = time_left_ms(run)};
    tier_serve_send(run->hub->serve, run->children[child].name, &m);
}

/* ---- jobs ---- */

enum job_kind { JOB_FIRST_MODEL, JOB_CHECK, JOB_FOLD, JOB_PUBLISH };

struct job {
    struct hub *hub;
    struct tier_hash run_id;
    uint64_t round;
    enum job_kind kind;
    uint32_t child;
    struct tier_hash update, base, plan, result;
    struct tier_hash state, result_state; /* of the root's optimiser */
    struct kern_server optimiser;
    bool optimises;
    uint64_t weight;
    const struct tier_manifest *manifest; /* the run's: runs outlive the worker */
    struct tier_hash *inputs;
    size_t count;
    unsigned threads;
    size_t memory_bytes;
    bool *damaged; /* of inputs, after a fold that failed */
    struct tier_task_figures figures;
    enum tier_status st;
    struct tier_err err;
};

static void job_free(struct job *job) {
    free(job->inputs);
    free(job->damaged);
    free(job);
}

static void job_drop(void *arg) {
    job_free(arg);
}

static enum tier_status check_update(struct tier_spool *spool, const struct tier_hash *id,
                                     const struct tier_manifest *manifest, bool whole,
                                     struct tier_err *err) {
    struct tier_update *u;
    TIER_TRY(tier_spool_update_open(spool, id, &u, err));
    enum tier_status st = whole ? tier_spool_update_check(u, err) : TIER_OK;
    if (st == TIER_OK)
        st = tier_update_verify(u, manifest, err);
    tier_spool_update_close(u);
    return st;
}

static enum tier_status fold_job(struct job *job) {
    struct tier_fold fold = {.spool = job->hub->home.spool,
                             .manifest = job->manifest,
                             .run = job->run_id,
                             .round = job->round,
                             .base_model = job->base,
                             .inputs = job->inputs,
                             .count = job->count,
                             .threads = job->threads,
                             .memory_bytes = job->memory_bytes};
    enum tier_status st = tier_fold_run(&fold, &job->result, &job->err);

    if (st == TIER_EUPDATE || st == TIER_ECORRUPT || st == TIER_ENOTFOUND)
        for (size_t i = 0; i < job->count; i++)
            job->damaged[i] = check_update(job->hub->home.spool, &job->inputs[i], job->manifest,
                                           true, NULL) != TIER_OK;
    return st;
}

/* The root's one division; a round without weight (evaluation only) keeps its base model. */
static enum tier_status publish_job(struct job *job) {
    struct tier_update *u = NULL;
    struct tier_model *base = NULL;
    char round[24], plan[TIER_HASH_HEX];
    /* The plan, not the run: the same plan on the same data publishes the same file again. */
    const struct tier_kv metadata[] = {{"format", "pt"},
                                       {"consilium.round", round},
                                       {"consilium.plan", tier_hash_hex(&job->plan, plan)}};
    enum tier_status st;

    snprintf(round, sizeof round, "%" PRIu64, job->round);
    TIER_TRY(tier_spool_update_open(job->hub->home.spool, &job->update, &u, &job->err));
    const struct tier_update_header *h = tier_spool_update_header(u);
    job->figures = tier_task_figures(h->metrics);
    job->weight = h->weight;
    job->result = job->base;
    job->result_state = job->state;
    if (h->weight == 0) {
        tier_spool_update_close(u);
        return TIER_OK;
    }
    char *path = tier_content_path(job->hub->home.models_dir, &job->base, TIER_CONTENT_MODEL);
    TIER_TRY_OUT(tier_model_open(path, &base, &job->err));
    const struct tier_publish publish = {.sum = u,
                                         .manifest = job->manifest,
                                         .base = base,
                                         .models_dir = job->hub->home.models_dir,
                                         .metadata = metadata,
                                         .metadata_count = 3,
                                         .optimiser = job->optimises ? &job->optimiser : NULL,
                                         .state = job->state};
    TIER_TRY_OUT(tier_publish_run(&publish, &job->result, &job->result_state, &job->err));
out:
    free(path);
    tier_model_close(base);
    tier_spool_update_close(u);
    return st;
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

static void job_work(void *arg) {
    struct job *job = arg;
    switch (job->kind) {
    case JOB_FIRST_MODEL:
        job->st = first_model_job(job);
        break;
    case JOB_CHECK:
        job->st = check_update(job->hub->home.spool, &job->update, job->manifest, false, &job->err);
        break;
    case JOB_FOLD:
        job->st = fold_job(job);
        break;
    case JOB_PUBLISH:
        job->st = publish_job(job);
        break;
    }
}

static void drop_result(struct hub_run *run, const struct job *job);

/* Two children may hold the same update, and the sum of one sum is that sum: a file goes when
 * nobody counts on it. */
static void delete_update(struct hub_run *run, uint32_t child, const struct tier_hash *id) {
    struct tier_err err = {0};

    if (tier_hash_equal(&run->round.own_update, id))
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

static void fold_done(struct hub_run *run, struct job *job) {
    bool any_lost = false;

    if (run->round.state != TIER_ROUND_FOLDING) {
        drop_result(run, job);
        return;
    }
    if (job->st == TIER_OK) {
        struct tier_round_event e = {.type = TIER_EVENT_FOLDED, .update = job->result};
        hub_audit(run->hub, "round.folded", "h:run", &run->id, "u:round", job->round, "u:updates",
                  (uint64_t)job->count, "h:update", &job->result);
        hub_work_step(run, &e);
        return;
    }
    for (uint32_t i = 0; i < run->child_count; i++) {
        const struct tier_round_child *c = tier_round_child(&run->round, i);
        for (size_t k = 0; k < job->count; k++) {
            if (!job->damaged[k] || c->state != TIER_CHILD_SEALED ||
                !tier_hash_equal(&c->update, &job->inputs[k]))
                continue;
            struct tier_round_event e = {
                .type = TIER_EVENT_LOST, .child = i, .update = job->inputs[k]};
            any_lost = true;
            tier_log_warn("run %.12s: the update of %s was damaged here and is wanted again",
                          run->hex, run->children[i].name);
            hub_work_step(run, &e);
        }
    }
    if (!any_lost)
        retry_fold(run, &job->err);
}

/* A state is of one run alone. */
static void drop_state(struct hub *hub, const struct hub_run *run, const struct tier_hash *state) {
    bool named = run && run->state == HUB_RUN_OPEN && tier_hash_equal(&run->server_state, state);
    if (!named && !tier_hash_is_zero(state))
        tier_server_state_delete(hub->home.models_dir, state);
}

/* The round went on, or the run ended, while the job was at work: what it made serves nobody. */
static void drop_result(struct hub_run *run, const struct job *job) {
    static const struct tier_err late = {.status = TIER_ELATE, .text = "the round is closed"};
    struct tier_spool *spool = job->hub->home.spool;

    bool kept = run && tier_hash_equal(&run->round.own_update, &job->result);
    if (job->kind == JOB_FOLD && job->st == TIER_OK && !kept)
        tier_spool_delete(spool, &job->result, NULL);
    if (job->kind == JOB_PUBLISH && job->st == TIER_OK)
        drop_state(job->hub, run, &job->result_state);
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

static void job_done(void *arg) {
    struct job *job = arg;
    struct hub_run *run = hub_run_find(job->hub, &job->run_id);
    bool current = run && run->state == HUB_RUN_OPEN && run->round.number == job->round;

    if (run && job->kind == JOB_FOLD)
        run->folding = false;
    if (run && job->kind == JOB_PUBLISH)
        run->publishing = false;
    if (!current) {
        drop_result(run, job);
        if (run)
            hub_work_resume(run); /* the round that is open now may have waited for the worker */
    } else if (job->kind == JOB_FIRST_MODEL) {
        first_model_done(run, job);
    } else if (job->kind == JOB_CHECK) {
        check_done(run, job);
    } else if (job->kind == JOB_FOLD) {
        fold_done(run, job);
    } else if (job->st == TIER_OK) {
        hub_run_published(run, &job->result, &job->result_state, &job->figures);
    } else if (job->st == TIER_EMODEL) {
        hub_run_finish(run, HUB_RUN_FAILED, job->err.text);
    } else {
        retry_fold(run, &job->err);
    }
    job_free(job);
}

static struct job *job_new(struct hub_run *run, enum job_kind kind) {
    struct job *job = need(calloc(1, sizeof *job));
    job->hub = run->hub;
    job->run_id = run->id;
    job->round = run->round.number;
    job->kind = kind;
    job->base = run->base_model;
    job->manifest = run->manifest;
    return job;
}

void hub_work_check(struct hub_run *run, uint32_t child, const struct tier_hash *id,
                    uint64_t weight) {
    struct job *job = job_new(run, JOB_CHECK);
    job->child = child;
    job->update = *id;
    job->weight = weight;
    tier_worker_submit(run->hub->worker, job_work, job_done, job_drop, job);
}

static void start_fold(struct hub_run *run) {
    const struct tier_config *c = run->hub->config;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (run->folding)
        return;
    struct job *job = job_new(run, JOB_FOLD);
    job->inputs = need(calloc(run->round.count + 1, sizeof *job->inputs));
    job->damaged = need(calloc(run->round.count + 1, sizeof *job->damaged));
    for (uint32_t i = 0; i < run->round.count; i++)
        if (tier_round_child(&run->round, i)->state == TIER_CHILD_SEALED)
            job->inputs[job->count++] = tier_round_child(&run->round, i)->update;
    job->threads = (unsigned)(c->threads ? c->threads : cores > 0 ? (uint64_t)cores : 1);
    /* The other half of the budget is the network's. */
    job->memory_bytes = (size_t)(c->hub.memory_budget_mb << 20) / 2;
    size_t least = tier_fold_memory_min(run->manifest, job->count);
    if (job->memory_bytes < least)
        job->memory_bytes = least;
    run->folding = true;
    tier_worker_submit(run->hub->worker, job_work, job_done, job_drop, job);
}

void hub_work_first_model(struct hub_run *run) {
    struct job *job = job_new(run, JOB_FIRST_MODEL);
    tier_hash_parse(run->plan.model_sha256, &job->update); /* here, the graph */
    tier_worker_submit(run->hub->worker, job_work, job_done, job_drop, job);
}

static void start_publish(struct hub_run *run) {
    if (run->publishing)
        return;
    struct job *job = job_new(run, JOB_PUBLISH);
    job->update = run->round.own_update;
    tier_hash_data(run->plan_text, run->plan_bytes, &job->plan);
    job->optimises = tier_task_server(&run->plan, &job->optimiser);
    job->state = run->server_state;
    run->publishing = true;
    tier_worker_submit(run->hub->worker, job_work, job_done, job_drop, job);
}

/* ---- delivering ---- */

static void record_figures(struct hub_run *run, const struct tier_metrics *sums) {
    struct tier_task_figures f = tier_task_figures(sums);
    const struct {
        const char *name;
        double value;
    } figures[] = {{"accuracy", f.accuracy}, {"auc", f.auc}, {"count", f.count}, {"loss", f.loss}};
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    enum tier_status st = tier_journal_begin_lazy(j, &err);

    for (size_t i = 0; i < sizeof figures / sizeof figures[0] && st == TIER_OK; i++)
        if (!isnan(figures[i].value))
            st = tier_journal_metric_put(j, run->hex, run->round.number - 1, figures[i].name,
                                         figures[i].value, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

static void deliver(struct hub_run *run) {
    struct hub *hub = run->hub;
    struct tier_update *u = NULL;
    struct tier_err err = {0};

    if (tier_spool_update_open(hub->home.spool, &run->round.own_update, &u, &err) != TIER_OK) {
        /* Lost with the volume; its inputs may be here still. */
        run->round.state = TIER_ROUND_FOLDING;
        start_fold(run);
        return;
    }
    record_figures(run, tier_spool_update_header(u)->metrics);
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

static void nothing_came(struct hub_run *run) {
    static const char reason[] = "no child delivered an update for this round";
    if (!run->hub->link) {
        hub_run_finish(run, HUB_RUN_FAILED, reason);
        return;
    }
    struct tier_from_child m = {
        .type = TIER_FROM_DECLINE, .run = run->id, .round = run->round.number};
    snprintf(m.reason, sizeof m.reason, "%s", reason);
    hub_audit(run->hub, "round.empty", "h:run", &run->id, "u:round", run->round.number);
    tier_link_send(run->hub->link, &m);
}

static void perform(struct hub_run *run, const struct tier_round_actions *actions) {
    for (size_t i = 0; i < actions->count; i++) {
        const struct tier_round_action *a = &actions->at[i];
        switch (a->type) {
        case TIER_ACTION_START:
            tell_round(run, a->child);
            break;
        case TIER_ACTION_GRANT:
            tier_serve_grant(run->hub->serve, run->children[a->child].name, &a->update);
            break;
        case TIER_ACTION_RECEIPT:
            hub_receipt_give(run, a);
            break;
        case TIER_ACTION_REFUSE:
            hub_receipt_refuse(run, a);
            break;
        case TIER_ACTION_DISCARD:
            tier_serve_withdraw(run->hub->serve, run->children[a->child].name, &a->update,
                                TIER_ELATE, "this update is not wanted any more");
            delete_update(run, a->child, &a->update);
            break;
        case TIER_ACTION_FOLD:
            tier_timer_cancel(run->deadline);
            start_fold(run);
            break;
        case TIER_ACTION_DELIVER:
            deliver(run);
            break;
        case TIER_ACTION_EMPTY:
            nothing_came(run);
            break;
        }
    }
}

/*
 * For people watching further up: how many of our children have delivered. Not oftener than they
 * can look, so that what goes up in a round does not grow with the number of children.
 */
static void report_progress(struct hub_run *run) {
    uint64_t now = tier_clock_ms();
    if (!run->hub->link || now - run->progress_ms < PROGRESS_MS)
        return;
    run->progress_ms = now;
    struct tier_round_tally t = tier_round_tally(&run->round);
    struct tier_from_child m = {.type = TIER_FROM_PROGRESS,
                                .run = run->id,
                                .round = run->round.number,
                                .done = (uint32_t)t.sealed,
                                .total = (uint32_t)t.active};
    snprintf(m.reason, sizeof m.reason, "%s", tier_round_state_text(run->round.state));
    tier_link_send(run->hub->link, &m);
}

void hub_work_step(struct hub_run *run, const struct tier_round_event *e) {
    struct tier_round_actions actions = {0};
    enum tier_round_child_state child_before = tier_round_child(&run->round, e->child)->state;
    enum tier_round_state state_before = run->round.state;
    size_t sealed_before = tier_round_tally(&run->round).sealed;

    if (run->state != HUB_RUN_OPEN || run->round.number == 0)
        return;
    tier_round_step(&run->round, e, &actions);
    journal_step(run, e, child_before, state_before, &actions);
    if (run->round.state != state_before || tier_round_tally(&run->round).sealed != sealed_before)
        report_progress(run);
    if (run->round.state != state_before)
        tier_log_info("run %.12s round %" PRIu64 ": %s", run->hex, run->round.number,
                      tier_round_state_text(run->round.state));
    if (run->round.state != state_before && run->round.state == TIER_ROUND_FOLDING)
        hub_audit(run->hub, "round.closed", "h:run", &run->id, "u:round", run->round.number, "s:by",
                  run->round.overdue ? "deadline" : "quorum", "u:updates",
                  (uint64_t)tier_round_tally(&run->round).sealed, "u:weight", run->round.weight);
    perform(run, &actions);
    hub_console_changed(run->hub, run);
}

void hub_work_resume(struct hub_run *run) {
    struct tier_round_actions actions = {0};
    if (run->state != HUB_RUN_OPEN || run->round.number == 0 || !run->manifest)
        return;
    tier_round_resume(&run->round, &actions);
    perform(run, &actions);
}

/* ---- releasing ---- */

struct release {
    struct hub_run *run;
    struct tier_hash *ids;
    size_t count, room;
};

static enum tier_status collect(void *arg, const struct tier_journal_update *row,
                                struct tier_err *err) {
    struct release *r = arg;
    (void)err;
    if (tier_hash_is_zero(&row->update_id))
        return TIER_OK;
    if (r->count == r->room) {
        r->room = r->room ? r->room * 2 : 16;
        r->ids = need(realloc(r->ids, r->room * sizeof *r->ids));
    }
    r->ids[r->count++] = row->update_id;
    return TIER_OK;
}

static bool model_in_use(const struct hub *hub, const struct tier_hash *model) {
    for (const struct hub_run *run = hub->runs; run; run = run->next)
        if (tier_hash_equal(model, &run->model) || tier_hash_equal(model, &run->base_model) ||
            tier_hash_equal(model, &run->wanted_base))
            return true;
    return false;
}

/* Two models of a run are kept, its latest and the one that came from, and the optimiser's state
 * beside the latest while it goes on; disk must not grow by rounds. */
static void drop_old_model(struct hub_run *run, uint64_t round) {
    struct tier_journal_round row;

    if (run->state != HUB_RUN_OPEN)
        drop_state(run->hub, run, &run->server_state);
    if (round < 2 ||
        tier_journal_round_get(run->hub->home.journal, run->hex, round - 1, &row, NULL) != TIER_OK)
        return;
    drop_state(run->hub, run, &row.result_state);
    if (model_in_use(run->hub, &row.base_model))
        return;
    char *path = tier_content_path(run->hub->home.models_dir, &row.base_model, TIER_CONTENT_MODEL);
    unlink(path);
    free(path);
}

static bool state_named(void *arg, const struct tier_hash *state) {
    const struct hub *hub = arg;
    for (const struct hub_run *run = hub->runs; run; run = run->next)
        if (run->state == HUB_RUN_OPEN && tier_hash_equal(&run->server_state, state))
            return true;
    return false;
}

void hub_work_sweep_models(struct hub *hub) {
    tier_server_state_sweep(hub->home.models_dir, state_named, hub);
    tier_named_file_sweep(hub->home.models_dir, TIER_MODEL_TEMPORARY);
}

/* Children that were still pushing when the round went on without them, and what came of it. */
static void drop_unfinished(struct hub_run *run) {
    for (uint32_t i = 0; i < run->round.count; i++) {
        const struct tier_round_child *c = tier_round_child(&run->round, i);
        if (c->state == TIER_CHILD_SEALED || tier_hash_is_zero(&c->update))
            continue;
        tier_serve_withdraw(run->hub->serve, run->children[i].name, &c->update, TIER_ELATE,
                            "the round is closed");
        tier_spool_delete(run->hub->home.spool, &c->update, NULL);
    }
}

void hub_work_drop(struct hub_run *run, const char *child, const struct tier_hash *id) {
    static const struct tier_err late = {.status = TIER_ELATE, .text = "the round is closed"};
    for (uint32_t i = 0; i < run->child_count; i++)
        if (strcmp(run->children[i].name, child) == 0)
            delete_update(run, i, id);
    tier_serve_pushed(run->hub->serve, child, id, NULL, &late);
}

void hub_work_release(struct hub_run *run, uint64_t round) {
    struct tier_home *home = &run->hub->home;
    struct tier_journal_round row;
    struct release r = {.run = run};
    struct tier_err err = {0};

    drop_old_model(run, round);
    if (round == run->round.number)
        drop_unfinished(run);
    if (tier_journal_round_get(home->journal, run->hex, round, &row, NULL) != TIER_OK)
        return;
    enum tier_status st = tier_journal_update_each(home->journal, run->hex, round,
                                                   TIER_UPDATE_STATE_ANY, collect, &r, &err);
    for (size_t i = 0; i < r.count && st == TIER_OK; i++)
        st = tier_spool_delete(home->spool, &r.ids[i], &err);
    if (st == TIER_OK && !tier_hash_is_zero(&row.own_update)) {
        st = tier_spool_delete(home->spool, &row.own_update, &err);
        if (st == TIER_OK)
            st = tier_journal_sent_delete(home->journal, run->hex, round, &row.own_update, &err);
    }
    free(r.ids);
    if (st != TIER_OK)
        tier_log_warn("cannot clear round %" PRIu64 ": %s", round, err.text);
}
