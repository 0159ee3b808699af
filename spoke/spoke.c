/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a spoke does when its parent speaks. Everything it has promised is in the journal: a plan
 * before it is answered, a sealed update before it is offered. After a restart the parent says
 * again what is going on, and what was sealed is offered, not trained again.
 */
#include "spoke/spoke.h"
#include "spoke/state.h"
#include "tier/cert.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/share.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FULL_RETRY_MS 10000
#define ROUND_COMMITTED "committed" /* in the journal: the run's round is */

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static void stop_on(struct spoke *spoke, const struct tier_err *err) {
    if (!spoke->failed)
        tier_log_error("stopping: %s", err->text);
    spoke->failed = true;
    tier_loop_stop(spoke->loop);
}

/* Appends to the audit log; a log that cannot be written stops the node. */
#define audit(spoke, event, ...)                                                                   \
    do {                                                                                           \
        struct tier_err audit_err_ = {0};                                                          \
        if (tier_audit_note((spoke)->home.audit, tier_wall_ms(), event, &audit_err_, __VA_ARGS__,  \
                            NULL) != TIER_OK)                                                      \
            stop_on(spoke, &audit_err_);                                                           \
    } while (0)

static struct spoke_run *run_find(struct spoke *spoke, const struct tier_hash *id) {
    for (struct spoke_run *run = spoke->runs; run; run = run->next)
        if (tier_hash_equal(&run->id, id))
            return run;
    return NULL;
}

static void journal_run(struct spoke_run *run) {
    struct tier_journal_run row = {.state = run->state, .round = run->round};
    struct tier_err err = {0};
    memcpy(row.run, run->hex, sizeof row.run);
    row.model = run->base_model;
    snprintf(row.detail, sizeof row.detail, "%s", run->committed ? ROUND_COMMITTED : "");
    if (tier_journal_run_set(run->spoke->home.journal, &row, &err) != TIER_OK)
        stop_on(run->spoke, &err);
}

static void progress(struct spoke_run *run, const char *phase, uint32_t done) {
    struct tier_from_child m = {
        .type = TIER_FROM_PROGRESS, .run = run->id, .round = run->round, .done = done, .total = 1};
    snprintf(m.reason, sizeof m.reason, "%s", phase);
    tier_link_send(run->spoke->link, &m);
}

/* ---- plans ---- */

/*
 * Where a site keeps its files is nobody else's business, and may say more than it should: of every
 * path in a reason that leaves the house the last name stays.
 */
static void say_without_folders(const char *reason, char *out, size_t size) {
    size_t n = 0, word = 0;

    for (const char *p = reason; *p && n + 1 < size; p++) {
        if (*p == '/') {
            n = word;
            continue;
        }
        out[n++] = *p;
        if (strchr(" '\"(:=,;)", *p) != NULL)
            word = n;
    }
    out[n] = '\0';
}

static void answer(struct spoke_run *run, bool accepted, const char *reason) {
    struct tier_from_child m = {.type = TIER_FROM_ANSWER, .run = run->id, .accepted = accepted};
    say_without_folders(reason, m.reason, sizeof m.reason);
    tier_link_send(run->spoke->link, &m);
}

static void decline_run(struct spoke_run *run, const char *reason) {
    tier_log_warn("run %.12s declined: %s", run->hex, reason);
    audit(run->spoke, "plan.declined", "h:run", &run->id, "s:reason", reason);
    run->state = SPOKE_RUN_DECLINED;
    journal_run(run);
    answer(run, false, reason);
}

/* The graph, and what of it travels and what stays. */
static enum tier_status read_graph(struct spoke_run *run, struct tier_err *err) {
    struct tier_hash graph_hash;
    enum tier_status st = TIER_OK;

    tier_hash_parse(run->plan.model_sha256, &graph_hash);
    char *path = tier_content_path(run->spoke->home.models_dir, &graph_hash, TIER_CONTENT_GRAPH);
    if (!run->graph)
        TIER_TRY_OUT(tier_graph_open(path, &run->graph, err));
    if (!run->kept)
        TIER_TRY_OUT(tier_share_kept(&run->plan, run->graph, &run->kept, err));
    if (!run->manifest)
        TIER_TRY_OUT(tier_task_manifest(&run->plan, run->graph, &run->manifest, err));
out:
    free(path);
    return st;
}

/* With the graph here: everything a round needs but its base model. */
static enum tier_status prepare(struct spoke_run *run, struct tier_err *err) {
    struct spoke *spoke = run->spoke;
    const struct tier_config_spoke *c = &spoke->config->spoke;
    struct spoke_data_options options = {0};
    enum tier_status st = TIER_OK;

    if (run->data)
        return TIER_OK;
    TIER_TRY(read_graph(run, err));
    options.fold_set = run->plan.fold != 0;
    options.fold = (uint32_t)run->plan.fold;
    TIER_TRY(spoke_data_open(c->schema, c->csv, &options, &run->data, err));
    if (strcmp(spoke_data_schema(run->data)->name, run->plan.contract) != 0)
        st = tier_fail(err, TIER_EPOLICY, "the plan wants data '%s', this site holds '%s'",
                       run->plan.contract, spoke_data_schema(run->data)->name);
    else if (spoke_data_features(run->data) != tier_graph_features(run->graph))
        st = tier_fail(err, TIER_EMODEL,
                       "the model takes %" PRIu64 " features, the schema gives %zu",
                       tier_graph_features(run->graph), spoke_data_features(run->data));
    if (st == TIER_OK) {
        audit(spoke, "data.opened", "h:run", &run->id, "s:contract", run->plan.contract,
              "s:purpose", run->plan.purpose, "u:train_rows",
              (uint64_t)spoke_data_rows(run->data, SPOKE_TRAIN), "u:test_rows",
              (uint64_t)spoke_data_rows(run->data, SPOKE_TEST));
    } else {
        spoke_data_free(run->data);
        run->data = NULL;
    }
    return st;
}

static void graph_fetched(void *arg, enum tier_status st, const char *text) {
    struct spoke_run *run = arg;
    struct tier_err err = {0};

    if (run->state != SPOKE_RUN_OPEN)
        return;
    if (st != TIER_OK)
        tier_fail(&err, st, "%s", text);
    else
        st = prepare(run, &err);
    if (st == TIER_EFULL) { /* a person makes room, and the plan is not to blame */
        tier_log_error("run %.12s: %s; trying again in %d s", run->hex, err.text,
                       FULL_RETRY_MS / 1000);
        tier_timer_set(run->again, FULL_RETRY_MS);
    } else if (st != TIER_OK) {
        decline_run(run, err.text);
    } else {
        answer(run, true, "");
    }
}

static void want_graph(void *arg) {
    struct spoke_run *run = arg;
    struct tier_hash graph;

    if (run->state != SPOKE_RUN_OPEN)
        return;
    tier_hash_parse(run->plan.model_sha256, &graph);
    tier_link_fetch(run->spoke->link, &graph, TIER_CONTENT_GRAPH, run->plan.model_bytes,
                    graph_fetched, run);
}

static void base_fetched(void *arg, enum tier_status st, const char *text);
static void follow_again(void *arg);

static struct spoke_run *run_new(struct spoke *spoke, const struct tier_hash *id) {
    struct spoke_run *run = need(calloc(1, sizeof *run));
    run->spoke = spoke;
    run->id = *id;
    tier_hash_hex(id, run->hex);
    run->again = tier_timer_new(spoke->loop, want_graph, run);
    run->follow_again = tier_timer_new(spoke->loop, follow_again, run);
    run->follow = (struct tier_follow){
        .models_dir = spoke->home.models_dir, .done = base_fetched, .arg = run};
    run->next = spoke->runs;
    spoke->runs = run;
    return run;
}

static void run_free(struct spoke_run *run) {
    tier_timer_free(run->again);
    tier_timer_free(run->follow_again);
    for (size_t i = 0; i < KERN_GROUP_RANKS_MAX; i++)
        spoke_net_free(run->nets[i]);
    spoke_data_free(run->data);
    tier_manifest_free(run->manifest);
    tier_manifest_free(run->kept);
    tier_graph_free(run->graph);
    free(run);
}

/* What the parent said is not acted upon. The link forgives some of it, not any amount. */
static void not_heeded(struct spoke *spoke, const char *text) {
    tier_log_warn("parent %s: %s", spoke->config->parent_name, text);
    tier_link_fault(spoke->link);
}

/* Room for one more run: the oldest of those that are over is forgotten where there are many. */
static enum tier_status make_room(struct spoke *spoke, struct tier_err *err) {
    struct spoke_run **oldest = NULL;
    size_t open = 0, all = 0;

    for (struct spoke_run **at = &spoke->runs; *at; at = &(*at)->next, all++) {
        if ((*at)->state == SPOKE_RUN_OPEN)
            open++;
        else if (!(*at)->training)
            oldest = at; /* the newest come first */
    }
    if (open >= TIER_RUNS_OPEN_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "%zu runs are open here, as many as may be: end one of them first", open);
    if (all < TIER_RUNS_KEPT_MAX || !oldest)
        return TIER_OK;
    struct spoke_run *run = *oldest;
    if (tier_journal_run_delete(spoke->home.journal, run->hex, err) != TIER_OK) {
        stop_on(spoke, err);
        return err->status;
    }
    *oldest = run->next;
    run_free(run);
    return TIER_OK;
}

/* A plan that is none, or one too many, is answered and leaves nothing behind. */
static void refuse_plan(struct spoke *spoke, const struct tier_hash *id, const char *reason) {
    struct tier_from_child m = {.type = TIER_FROM_ANSWER, .run = *id};
    char hex[TIER_HASH_HEX];

    say_without_folders(reason, m.reason, sizeof m.reason);
    tier_log_warn("run %.12s declined: %s", tier_hash_hex(id, hex), reason);
    audit(spoke, "plan.declined", "h:run", id, "s:reason", reason);
    tier_link_send(spoke->link, &m);
    tier_link_fault(spoke->link);
}

static void plan_came(struct spoke *spoke, const struct tier_to_child *m) {
    struct spoke_run *run = run_find(spoke, &m->run);
    struct tier_hash hash;
    struct tier_err err = {0};

    tier_hash_data(m->plan, m->plan_bytes, &hash);
    if (!run) {
        struct tier_journal_run row = {.created_ms = tier_wall_ms()};
        struct tier_plan plan;
        if (tier_plan_parse(m->plan, m->plan_bytes, &plan, &err) != TIER_OK ||
            make_room(spoke, &err) != TIER_OK) {
            refuse_plan(spoke, &m->run, err.text);
            return;
        }
        run = run_new(spoke, &m->run);
        run->plan = plan;
        run->plan_hash = hash;
        memcpy(row.run, run->hex, sizeof row.run);
        if (tier_journal_run_add(spoke->home.journal, &row, m->plan, m->plan_bytes, "", 0, &err) !=
            TIER_OK) {
            stop_on(spoke, &err);
            return;
        }
        if (spoke->config->spoke.accept == TIER_ACCEPT_NONE) {
            decline_run(run, "this site's policy accepts no plans (policy.accept: none)");
            return;
        }
        audit(spoke, "plan.accepted", "h:run", &run->id, "s:name", run->plan.name, "s:purpose",
              run->plan.purpose);
        tier_log_info("run %.12s: '%s' accepted", run->hex, run->plan.name);
    }
    tier_link_fault(spoke->link); /* a plan is work, and is said once a stream */
    if (run->state == SPOKE_RUN_DECLINED) {
        answer(run, false, "declined before");
        return;
    }
    if (run->state == SPOKE_RUN_OPEN && !tier_hash_equal(&run->plan_hash, &hash)) {
        char text[128];
        snprintf(text, sizeof text, "another plan for run %.12s, which goes on by its first",
                 run->hex);
        not_heeded(spoke, text);
        return;
    }
    want_graph(run);
}

/* ---- rounds ---- */

struct sent_search {
    uint64_t round;
    bool found;
    struct tier_hash id;
};

static enum tier_status see_sent(void *arg, const struct tier_journal_sent *row,
                                 struct tier_err *err) {
    struct sent_search *s = arg;
    (void)err;
    if (row->round == s->round && row->state != TIER_SENT_COMMITTED) {
        s->found = true;
        s->id = row->update_id;
    }
    return TIER_OK;
}

/* The update that was sealed for this round, if its file is here. */
static bool sealed_before(struct spoke_run *run, uint64_t round, struct tier_hash *id) {
    struct tier_home *home = &run->spoke->home;
    struct sent_search s = {.round = round};
    struct tier_err err = {0};

    if (tier_journal_sent_each(home->journal, run->hex, TIER_SENT_STATE_ANY, see_sent, &s, &err) !=
        TIER_OK)
        stop_on(run->spoke, &err);
    *id = s.id;
    return s.found && tier_spool_has(home->spool, &s.id);
}

static void offer(struct spoke_run *run, const struct tier_hash *id) {
    struct tier_err err = {0};
    if (tier_link_offer(run->spoke->link, id, &err) != TIER_OK)
        tier_log_error("run %.12s: cannot offer the update: %s", run->hex, err.text);
    else
        progress(run, "pushing", 0);
}

static void decline_round(struct spoke_run *run, const char *reason) {
    struct tier_from_child m = {.type = TIER_FROM_DECLINE, .run = run->id, .round = run->round};
    say_without_folders(reason, m.reason, sizeof m.reason);
    tier_log_error("run %.12s round %" PRIu64 ": %s", run->hex, run->round, reason);
    audit(run->spoke, "round.declined", "h:run", &run->id, "u:round", run->round, "s:reason",
          reason);
    tier_link_send(run->spoke->link, &m);
}

/* Deletes a base model that no run goes on from: runs of one plan begin with the same. */
static void drop_model(struct spoke *spoke, const struct tier_hash *model) {
    for (const struct spoke_run *run = spoke->runs; run; run = run->next)
        if (run->state == SPOKE_RUN_OPEN && run->round &&
            (tier_hash_equal(&run->base_model, model) ||
             tier_hash_equal(&run->base_before, model) ||
             (run->training && tier_hash_equal(&run->training_base, model))))
            return;
    char *path = tier_content_path(spoke->home.models_dir, model, TIER_CONTENT_MODEL);
    remove(path);
    free(path);
}

static void drop_state(struct spoke_run *run) {
    for (int kind = 0; kind < SPOKE_STATE_KINDS; kind++)
        spoke_state_drop((enum spoke_state)kind, run->spoke->config->data_dir, &run->id);
}

struct job {
    struct spoke_run *run;
    uint64_t round;
    struct tier_hash base, id;
    enum tier_status st;
    struct tier_err err;
};

static void train_round(struct spoke_run *run);

static void job_work(void *arg) {
    struct job *job = arg;
    job->st = spoke_round_run(job->run, job->round, &job->base, &job->id, &job->err);
}

static enum tier_status journal_sealed(struct spoke_run *run, const struct job *job,
                                       struct tier_err *err) {
    struct tier_home *home = &run->spoke->home;
    struct tier_journal_sent row = {
        .round = job->round, .update_id = job->id, .state = TIER_SENT_PENDING};
    struct tier_update *u;

    TIER_TRY(tier_spool_update_open(home->spool, &job->id, &u, err));
    memcpy(row.run, run->hex, sizeof row.run);
    row.header = tier_spool_update_header_bytes(u, &row.header_bytes);
    enum tier_status st = tier_journal_sent_put(home->journal, &row, err);
    if (st == TIER_OK)
        audit(run->spoke, "update.sealed", "h:run", &run->id, "u:round", job->round, "h:update",
              &job->id, "u:weight", tier_spool_update_header(u)->weight);
    tier_spool_update_close(u);
    return st;
}

static void job_done(void *arg) {
    struct job *job = arg;
    struct spoke_run *run = job->run;
    struct tier_err err = {0};

    run->training = false;
    if (run->state != SPOKE_RUN_OPEN || !tier_hash_equal(&run->base_model, &job->base))
        drop_model(run->spoke, &job->base); /* the run went on, or ended, while it was in use */
    if (run->state == SPOKE_RUN_OPEN && run->round == job->round && !run->committed) {
        if (job->st != TIER_OK)
            decline_round(run, job->err.text);
        else if (journal_sealed(run, job, &err) != TIER_OK)
            stop_on(run->spoke, &err);
        else
            offer(run, &job->id);
    } else {
        if (job->st == TIER_OK)
            tier_spool_delete(run->spoke->home.spool, &job->id, NULL);
        if (run->state == SPOKE_RUN_ENDED)
            drop_state(run);
        /* The parent has gone on to another round; where its base is not here yet, base_fetched
         * trains it. */
        if (run->state == SPOKE_RUN_OPEN &&
            tier_content_has(run->spoke->home.models_dir, &run->base_model, TIER_CONTENT_MODEL))
            train_round(run);
    }
    free(job);
}

static void train_round(struct spoke_run *run) {
    struct tier_hash id;

    if (run->committed || run->training || !run->data ||
        !run->spoke->worker) /* no worker: it is being closed */
        return;
    if (sealed_before(run, run->round, &id)) {
        offer(run, &id);
        return;
    }
    struct job *job = need(calloc(1, sizeof *job));
    *job = (struct job){.run = run, .round = run->round, .base = run->base_model};
    run->training = true;
    run->training_base = job->base;
    progress(run, "training", 0);
    audit(run->spoke, "data.read", "h:run", &run->id, "u:round", run->round, "s:purpose",
          run->plan.purpose);
    tier_worker_submit(run->spoke->worker, job_work, job_done, free, job);
}

/* The model before, and the delta that was applied to it. */
static void let_go_of_before(struct spoke_run *run) {
    struct tier_hash before = run->base_before;

    run->base_before = (struct tier_hash){{0}};
    if (!tier_hash_is_zero(&before) && !tier_hash_equal(&before, &run->base_model))
        drop_model(run->spoke, &before);
    tier_delta_delete(run->spoke->home.models_dir, &run->follow.now.delta);
}

static void base_fetched(void *arg, enum tier_status st, const char *text) {
    struct spoke_run *run = arg;
    let_go_of_before(run);
    if (run->state != SPOKE_RUN_OPEN || !run->round)
        return;
    if (st == TIER_OK) {
        train_round(run);
    } else if (st == TIER_EFULL || st == TIER_ENOTFOUND) { /* room is made, or the parent gets it */
        tier_log_error("run %.12s round %" PRIu64 ": the model cannot be had: %s; trying again in "
                       "%d s",
                       run->hex, run->round, text, FULL_RETRY_MS / 1000);
        tier_timer_set(run->follow_again, FULL_RETRY_MS);
    } else {
        decline_round(run, text);
    }
}

static void follow_again(void *arg) {
    struct spoke_run *run = arg;
    if (run->state == SPOKE_RUN_OPEN && run->round && !run->training)
        tier_follow_to(&run->follow, &(struct tier_follow_target){.model = run->base_model});
}

/* ---- what a commit frees ---- */

struct release {
    struct spoke_run *run;
    uint64_t below;
};

static enum tier_status release_one(void *arg, const struct tier_journal_sent *row,
                                    struct tier_err *err) {
    struct release *r = arg;
    (void)err;
    if (row->round < r->below)
        tier_spool_delete(r->run->spoke->home.spool, &row->update_id, NULL);
    return TIER_OK;
}

struct doomed {
    size_t count;
    struct {
        uint64_t round;
        struct tier_hash id;
    } at[64];
    uint64_t below;
};

static enum tier_status see_doomed(void *arg, const struct tier_journal_sent *row,
                                   struct tier_err *err) {
    struct doomed *d = arg;
    (void)err;
    if (row->round < d->below && d->count < sizeof d->at / sizeof d->at[0]) {
        d->at[d->count].round = row->round;
        d->at[d->count++].id = row->update_id;
    }
    return TIER_OK;
}

/* The updates of rounds below this one have done their work; those below `committed` counted, and
 * with them what was kept beside them. */
static void release_below(struct spoke_run *run, uint64_t below, uint64_t committed) {
    struct tier_journal *j = run->spoke->home.journal;
    struct release r = {run, below};
    struct doomed d = {.below = below};
    struct tier_err err = {0};

    tier_journal_sent_each(j, run->hex, TIER_SENT_STATE_ANY, see_doomed, &d, &err);
    for (size_t i = 0; i < d.count; i++)
        for (int kind = 0; kind < SPOKE_STATE_KINDS && d.at[i].round < committed; kind++)
            if (spoke_state_commit((enum spoke_state)kind, run->spoke->config->data_dir, &run->id,
                                   d.at[i].round, &d.at[i].id, &err) != TIER_OK) {
                stop_on(run->spoke, &err); /* the rows stay: it is done at the next start */
                return;
            }
    tier_journal_sent_each(j, run->hex, TIER_SENT_STATE_ANY, release_one, &r, &err);
    for (size_t i = 0; i < d.count; i++)
        if (tier_journal_sent_delete(j, run->hex, d.at[i].round, &d.at[i].id, &err) != TIER_OK)
            stop_on(run->spoke, &err);
}

/*
 * A round above the one that is open says that all below it are over, as a commit does: that is the
 * parent's to say, since it counts. It can neither bring a round back nor change what one starts
 * from, so nothing is trained twice.
 */
static bool round_fits(struct spoke_run *run, const struct tier_to_child *m) {
    uint64_t last = tier_task_rounds(&run->plan);
    char text[160] = "";

    if (run->state != SPOKE_RUN_OPEN)
        snprintf(text, sizeof text, "run %.12s is over: round %" PRIu64 " is not trained", run->hex,
                 m->round);
    else if (m->round > last)
        snprintf(text, sizeof text, "run %.12s: round %" PRIu64 " of a plan of %" PRIu64, run->hex,
                 m->round, last);
    else if (m->round < run->round || (m->round == run->round && run->committed))
        snprintf(text, sizeof text, "run %.12s: round %" PRIu64 " was committed before", run->hex,
                 m->round);
    else if (m->round == run->round && !tier_hash_equal(&m->model, &run->base_model))
        snprintf(text, sizeof text, "run %.12s: round %" PRIu64 " from another model than it began",
                 run->hex, m->round);
    if (*text)
        not_heeded(run->spoke, text);
    else if (m->round == run->round)
        tier_link_fault(
            run->spoke->link); /* said again after a loss of the stream, and no oftener */
    return !*text;
}

static void round_came(struct spoke_run *run, const struct tier_to_child *m) {
    const struct tier_follow_target base = {m->model, m->delta, m->delta_base};

    if (!round_fits(run, m))
        return;
    if (m->round > run->round) {
        struct tier_hash before = run->base_model;
        bool any = run->round > 0;
        let_go_of_before(run); /* of a round that was never begun here */
        release_below(run, m->round, m->round);
        run->round = m->round;
        run->base_model = m->model;
        run->committed = false;
        if (any)
            run->base_before = before;
        journal_run(run);
    }
    run->follow.link = run->spoke->link;
    run->follow.intake = run->spoke->intake;
    run->follow.manifest = run->manifest;
    run->follow.bytes_max = tier_task_model_bytes_max(&run->plan);
    tier_follow_to(&run->follow, &base);
}

/* The round that is open, or one before it: none that this child has not been told of. */
static void commit_came(struct spoke_run *run, const struct tier_to_child *m) {
    char text[128];

    if (m->round > run->round) {
        snprintf(text, sizeof text,
                 "run %.12s: a commit of round %" PRIu64 ", and round %" PRIu64 " is open",
                 run->hex, m->round, run->round);
        not_heeded(run->spoke, text);
        return;
    }
    if (m->round < run->round || run->committed)
        tier_link_fault(run->spoke->link);
    release_below(run, m->round + 1, m->round + 1);
    if (m->round < run->round || run->committed || run->state != SPOKE_RUN_OPEN)
        return;
    run->committed = true;
    journal_run(run);
}

/* The hospital's own tensors stay when the run has ended, and nothing else of it does. */
static enum tier_status keep_private(struct spoke_run *run, const struct tier_hash *model,
                                     struct tier_err *err) {
    char *path = NULL;

    if (run->plan.share.count == 0 && run->plan.keep.count == 0)
        return TIER_OK;
    TIER_TRY(read_graph(run, err));
    if (run->kept)
        TIER_TRY(spoke_state_keep_private(run->spoke->config->data_dir, &run->id, run->kept, model,
                                          &path, err));
    if (path) {
        tier_log_info("run %.12s: this hospital's own tensors are in %s", run->hex, path);
        audit(run->spoke, "private.kept", "h:run", &run->id, "h:model", model, "u:elements",
              run->kept->elements);
    }
    free(path);
    return TIER_OK;
}

static void end_came(struct spoke_run *run, const struct tier_to_child *m) {
    struct tier_hash graph;

    if (run->state == SPOKE_RUN_ENDED)
        return;
    if (run->state == SPOKE_RUN_OPEN && tier_hash_parse(run->plan.model_sha256, &graph))
        tier_link_unfetch(run->spoke->link, &graph, graph_fetched, run);
    tier_follow_stop(&run->follow);
    tier_timer_cancel(run->follow_again);
    tier_log_info("run %.12s has ended: %s", run->hex, m->reason);
    audit(run->spoke, "run.ended", "h:run", &run->id, "b:completed", (int)m->completed, "s:reason",
          m->reason, "h:model", &m->model);
    run->state = SPOKE_RUN_ENDED;
    /* A run that ends with this round's base model ends without its updates. */
    bool counted = !tier_hash_equal(&run->base_model, &m->model);
    release_below(run, UINT64_MAX, run->round + (counted ? 1 : 0));
    struct tier_err err = {0};
    if (run->round && keep_private(run, &m->model, &err) != TIER_OK) {
        stop_on(run->spoke, &err); /* the end is told again after the next start */
        return;
    }
    tier_spool_forget_old(run->spoke->home.spool);
    drop_state(run);
    if (run->round && !run->training && !tier_hash_equal(&run->base_model, &m->model))
        drop_model(run->spoke, &run->base_model);
    journal_run(run);
}

/* A receipt counts only if it is the parent's own, for this update. */
static void receipt_came(struct spoke_run *run, const struct tier_receipt *r) {
    struct spoke *spoke = run->spoke;
    struct tier_err err = {0};

    if (tier_home_check_receipt(&spoke->home, tier_link_parent_cert(spoke->link), r, &err) !=
        TIER_OK) {
        tier_log_error("the parent's receipt is not valid: %s", err.text);
        audit(spoke, "receipt.invalid", "h:run", &run->id, "u:round", r->round, "s:reason",
              err.text);
        tier_link_fault(spoke->link);
        return;
    }
    if (tier_hash_equal(&run->last_receipt, &r->update)) {
        tier_link_fault(spoke->link); /* said again after a loss of the stream */
        return;
    }
    run->last_receipt = r->update;
    if (tier_journal_sent_set_state(spoke->home.journal, run->hex, r->round, &r->update,
                                    TIER_SENT_RECEIVED, &err) != TIER_OK &&
        err.status != TIER_ENOTFOUND)
        stop_on(spoke, &err);
    audit(spoke, "receipt", "h:run", &run->id, "u:round", r->round, "h:update", &r->update,
          "s:parent", r->parent, "u:weight", r->weight, "i:time_ms", r->time_ms);
    progress(run, "delivered", 1);
}

/* ---- the link ---- */

static void link_up(void *owner, const char *parent) {
    audit((struct spoke *)owner, "parent.attended", "s:parent", parent);
}

static void link_down(void *owner, const char *reason) {
    audit((struct spoke *)owner, "parent.lost", "s:reason", reason);
}

static void push_failed(void *owner, const struct tier_hash *update, bool for_good,
                        const char *reason) {
    struct spoke *spoke = owner;
    tier_log_warn("push failed%s: %s", for_good ? " for good" : "", reason);
    audit(spoke, "push.failed", "h:update", update, "b:for_good", (int)for_good, "s:reason",
          reason);
}

static void link_message(void *owner, const struct tier_to_child *m) {
    struct spoke *spoke = owner;
    const struct tier_hash *id = m->type == TIER_TO_RECEIPT ? &m->receipt.run : &m->run;
    struct spoke_run *run = run_find(spoke, id);

    if (m->type == TIER_TO_PLAN)
        plan_came(spoke, m);
    else if (!run && m->type != TIER_TO_END) /* a parent tells every child what has ended */
        not_heeded(spoke, "a message about a run that it has sent no plan of");
    if (!run)
        return;
    switch (m->type) {
    case TIER_TO_ROUND:
        round_came(run, m);
        break;
    case TIER_TO_RECEIPT:
        receipt_came(run, &m->receipt);
        break;
    case TIER_TO_REFUSAL:
        tier_log_warn("run %.12s round %" PRIu64 ": the parent refuses the update: %s", run->hex,
                      m->round, m->reason);
        audit(spoke, "refused", "h:run", &run->id, "u:round", m->round, "h:update", &m->update,
              "s:reason", m->reason);
        tier_link_fault(spoke->link);
        break;
    case TIER_TO_COMMIT:
        commit_came(run, m);
        break;
    case TIER_TO_END:
        end_came(run, m);
        break;
    default:
        break;
    }
}

static const struct tier_link_events link_events = {
    .up = link_up,
    .down = link_down,
    .message = link_message,
    .push_failed = push_failed,
};

/* ---- life cycle ---- */

static enum tier_status restore_run(void *arg, const struct tier_journal_run *row,
                                    struct tier_err *err) {
    struct spoke *spoke = arg;
    struct tier_journal_blob plan = {0}, sig = {0};
    struct tier_hash id;

    if (!tier_hash_parse(row->run, &id))
        return tier_fail(err, TIER_ECORRUPT, "the journal names a run '%s'", row->run);
    struct spoke_run *run = run_new(spoke, &id);
    run->state = (enum spoke_run_state)row->state;
    run->round = row->round;
    run->base_model = row->model;
    run->committed = strcmp(row->detail, ROUND_COMMITTED) == 0;
    if (run->state != SPOKE_RUN_OPEN)
        return TIER_OK;
    TIER_TRY(tier_journal_run_plan(spoke->home.journal, row->run, &plan, &sig, err));
    tier_hash_data(plan.data, plan.bytes, &run->plan_hash);
    enum tier_status st = tier_plan_parse(plan.data, plan.bytes, &run->plan, err);
    tier_journal_blob_release(&plan);
    tier_journal_blob_release(&sig);
    return st;
}

struct keep {
    struct spoke *spoke;
    const struct tier_hash *id;
    bool found;
};

static enum tier_status see_kept(void *arg, const struct tier_journal_sent *row,
                                 struct tier_err *err) {
    struct keep *k = arg;
    (void)err;
    k->found = k->found || tier_hash_equal(&row->update_id, k->id);
    return TIER_OK;
}

static bool keep_file(void *arg, const struct tier_hash *id, bool sealed) {
    struct spoke *spoke = arg;
    struct keep k = {spoke, id, false};
    tier_journal_sent_each(spoke->home.journal, NULL, TIER_SENT_STATE_ANY, see_kept, &k, NULL);
    return sealed && k.found;
}

enum tier_status spoke_open(const struct tier_config *config, struct tier_loop *loop,
                            struct spoke *out, struct tier_err *err) {
    enum tier_status st;

    *out = (struct spoke){.config = config, .loop = loop};
    TIER_TRY_OUT(tier_home_open(config, &out->home, err));
    TIER_TRY_OUT(tier_journal_run_each(out->home.journal, restore_run, out, err));
    TIER_TRY_OUT(tier_spool_sweep(out->home.spool, keep_file, out, err));
    tier_delta_sweep(out->home.models_dir);
    spoke_state_sweep(config->data_dir);
    TIER_TRY_OUT(spoke_team_open(config->spoke.device, (int)config->threads, &out->team, err));
    TIER_TRY_OUT(tier_worker_new(loop, &out->worker, err));
    TIER_TRY_OUT(tier_intake_new(loop, tier_intake_threads() > 0, &out->intake, err));
    const struct tier_link_options above = {.name = config->name,
                                            .parent_name = config->parent_name,
                                            .parent_address = config->parent_address,
                                            .tls = tier_home_tls(&out->home),
                                            .keepalive = &out->home.keepalive,
                                            .models_dir = out->home.models_dir,
                                            .intake = out->intake};
    TIER_TRY_OUT(tier_link_new(loop, &above, out->home.spool, &link_events, out, &out->link, err));
    audit(out, "node.started", "s:software", CONSILIUM_VERSION);
out:
    if (st != TIER_OK)
        spoke_close(out);
    return st;
}

void spoke_close(struct spoke *spoke) {
    tier_worker_free(spoke->worker);
    spoke->worker = NULL;
    tier_link_free(spoke->link);
    tier_intake_free(spoke->intake);
    while (spoke->runs) {
        struct spoke_run *run = spoke->runs;
        spoke->runs = run->next;
        run_free(run);
    }
    spoke_team_close(&spoke->team);
    tier_home_close(&spoke->home);
    spoke->link = NULL;
    spoke->intake = NULL;
}
