/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A round, from its announcement to its commit. A sealed update is in the journal before it is
 * offered; after a restart the parent says again what is going on, and what was sealed is offered,
 * not trained again. Whatever a round changes here beside its update counts from the commit on.
 */
#include "spoke/budget.h"
#include "spoke/run_private.h"
#include "spoke/secure.h"
#include "spoke/state.h"
#include "tier/budget.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/narrow.h"
#include "tier/signed.h"
#include "tier/site.h"
#include "tier/statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVERS_RETRY_MS 1000

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

struct sent_search {
    uint64_t round;
    bool masked; /* which is looked for */
    bool found;
    struct tier_hash id;
};

static enum tier_status see_sent(void *arg, const struct tier_journal_sent *row,
                                 struct tier_err *err) {
    struct sent_search *s = arg;
    struct tier_update_header h;

    if (row->round != s->round || row->state == TIER_SENT_COMMITTED)
        return TIER_OK;
    TIER_TRY(tier_update_header_decode(row->header, row->header_bytes, &h, err));
    bool masked = tier_encoding_masked(h.encoding);
    tier_update_header_release(&h);
    if (masked == s->masked) {
        s->found = true;
        s->id = row->update_id;
    }
    return TIER_OK;
}

static bool find_sealed(struct spoke_run *run, uint64_t round, bool masked, struct tier_hash *id) {
    struct tier_home *home = &run->spoke->home;
    struct sent_search s = {.round = round, .masked = masked};
    struct tier_err err = {0};

    if (tier_journal_sent_each(home->journal, run->hex, TIER_SENT_STATE_ANY, see_sent, &s, &err) !=
        TIER_OK)
        spoke_stop_on(run->spoke, &err);
    *id = s.id;
    return s.found && tier_spool_has(home->spool, &s.id);
}

bool spoke_run_sealed(struct spoke_run *run, uint64_t round, struct tier_hash *id) {
    return find_sealed(run, round, spoke_secure_on(&run->plan), id);
}

bool spoke_run_sealed_visible(struct spoke_run *run, uint64_t round, struct tier_hash *id) {
    return find_sealed(run, round, false, id);
}

/* With `privacy` a round has one update, whatever becomes of its file: two under one noise
 * would tell what they differ by. */
static bool differs_from_before(struct spoke_run *run, uint64_t round, const struct tier_hash *id) {
    struct sent_search s = {.round = round};
    struct tier_err err = {0};

    if (!tier_budget_patient(&run->plan) && !tier_site_on(&run->plan))
        return false;
    if (tier_journal_sent_each(run->spoke->home.journal, run->hex, TIER_SENT_STATE_ANY, see_sent,
                               &s, &err) != TIER_OK)
        spoke_stop_on(run->spoke, &err);
    return s.found && !tier_hash_equal(&s.id, id);
}

static void offer(struct spoke_run *run, const struct tier_hash *id) {
    struct tier_err err = {0};
    if (tier_link_offer(run->spoke->link, id, &err) != TIER_OK)
        tier_log_error("run %.12s: cannot offer the update: %s", run->hex, err.text);
    else
        spoke_run_progress(run, "pushing", 0);
}

void spoke_run_decline_round(struct spoke_run *run, const char *reason) {
    struct tier_from_child m = {.type = TIER_FROM_DECLINE, .run = run->id, .round = run->round};
    spoke_say_without_folders(reason, m.reason, sizeof m.reason);
    tier_log_error("run %.12s round %" PRIu64 ": %s", run->hex, run->round, reason);
    spoke_audit(run->spoke, "round.declined", "h:run", &run->id, "u:round", run->round, "s:reason",
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
    struct tier_hash base, id, withheld;
    enum tier_status st;
    struct tier_err err;
};

static void job_work(void *arg) {
    struct job *job = arg;
    job->st = spoke_round_run(job->run, job->round, &job->base, &job->id, &job->err);
}

enum tier_status spoke_run_note_update(struct spoke_run *run, uint64_t round,
                                       const struct tier_hash *id, uint64_t *weight_out,
                                       struct tier_err *err) {
    struct tier_home *home = &run->spoke->home;
    struct tier_journal_sent row = {.round = round, .update_id = *id, .state = TIER_SENT_PENDING};
    struct tier_update *u;

    TIER_TRY(tier_spool_update_open(home->spool, id, &u, err));
    memcpy(row.run, run->hex, sizeof row.run);
    row.header = tier_spool_update_header_bytes(u, &row.header_bytes);
    enum tier_status st = tier_journal_sent_put(home->journal, &row, err);
    if (st == TIER_OK && weight_out)
        *weight_out = tier_spool_update_header(u)->weight;
    tier_spool_update_close(u);
    return st;
}

static enum tier_status journal_sealed(struct spoke_run *run, const struct job *job,
                                       struct tier_err *err) {
    uint64_t weight = 0;

    TIER_TRY(spoke_run_note_rows(run, job->round, &job->withheld, err));
    TIER_TRY(spoke_run_note_update(run, job->round, &job->id, &weight, err));
    spoke_audit(run->spoke, "update.sealed", "h:run", &run->id, "u:round", job->round, "h:update",
                &job->id, "u:weight", weight);
    return TIER_OK;
}

/* The round is trained when all are here, not declined: nothing is wrong with it. */
static void wait_for_servers(struct spoke_run *run, const char *reason) {
    tier_log_warn("run %.12s round %" PRIu64 ": %s; it is trained when all servers are here",
                  run->hex, run->round, reason);
    spoke_audit(run->spoke, "round.waits", "h:run", &run->id, "u:round", run->round, "s:reason",
                reason);
    spoke_run_progress(run, "waiting for servers", 0);
    if (spoke_servers_complete(run->spoke->servers))
        tier_timer_set(run->follow_again, SERVERS_RETRY_MS); /* back already, or only upset */
}

void spoke_servers_came(void *arg) {
    struct spoke *spoke = arg;

    for (struct spoke_run *run = spoke->runs; run; run = run->next)
        if (run->state == SPOKE_RUN_OPEN && run->round &&
            tier_content_has(spoke->home.models_dir, &run->base_model, TIER_CONTENT_MODEL))
            spoke_run_train(run);
}

static void job_done(void *arg) {
    struct job *job = arg;
    struct spoke_run *run = job->run;
    struct tier_err err = {0};

    run->training = false;
    tier_noise_key_wipe(&run->noise_key);
    tier_noise_key_wipe(&run->site_key);
    if (run->state != SPOKE_RUN_OPEN || !tier_hash_equal(&run->base_model, &job->base))
        drop_model(run->spoke, &job->base); /* the run went on, or ended, while it was in use */
    if (run->state == SPOKE_RUN_OPEN && run->round == job->round && !run->committed) {
        if (job->st == TIER_EUNAVAILABLE && run->spoke->servers)
            wait_for_servers(run, job->err.text);
        else if (job->st != TIER_OK)
            spoke_run_decline_round(run, job->err.text);
        else if (differs_from_before(run, job->round, &job->id))
            spoke_run_decline_round(
                run, "another update than before came of the same noise: the rows here, "
                     "or what trains on them, changed");
        else if (journal_sealed(run, job, &err) != TIER_OK)
            spoke_stop_on(run->spoke, &err);
        else
            spoke_run_train(run); /* offers it, unless patients have withdrawn meanwhile */
    } else {
        if (job->st == TIER_OK)
            tier_spool_delete(run->spoke->home.spool, &job->id, NULL);
        if (run->state == SPOKE_RUN_ENDED)
            drop_state(run);
        /* The parent has gone on to another round; where its base is not here yet, base_fetched
         * trains it. */
        if (run->state == SPOKE_RUN_OPEN &&
            tier_content_has(run->spoke->home.models_dir, &run->base_model, TIER_CONTENT_MODEL))
            spoke_run_train(run);
    }
    free(job);
}

void spoke_run_job_over(struct spoke_run *run) {
    if (run->state != SPOKE_RUN_OPEN || !tier_hash_equal(&run->base_model, &run->training_base))
        drop_model(run->spoke, &run->training_base);
    if (run->state == SPOKE_RUN_ENDED)
        drop_state(run);
    if (run->state == SPOKE_RUN_OPEN &&
        tier_content_has(run->spoke->home.models_dir, &run->base_model, TIER_CONTENT_MODEL))
        spoke_run_train(run);
}

/* How many rows a trainer of the hospital's own reads, it alone knows. */
static void audit_reading(struct spoke_run *run) {
    const char *use = tier_plan_purpose_text(run->plan.governance.purpose);
    bool counts = tier_statistics_on(&run->plan);
    bool trains = counts || tier_task_trains(&run->plan, run->round);
    bool evaluates = counts || tier_task_evaluates(&run->plan, run->round);

    if (run->data)
        spoke_audit(run->spoke, "data.read", "h:run", &run->id, "h:plan", &run->plan_hash,
                    "u:round", run->round, "s:purpose", run->plan.purpose, "s:use", use,
                    "u:train_rows",
                    (uint64_t)(trains ? spoke_data_rows(run->data, SPOKE_TRAIN) : 0), "u:test_rows",
                    (uint64_t)(evaluates && spoke_run_evaluates(run)
                                   ? spoke_data_rows(run->data, SPOKE_TEST)
                                   : 0));
    else
        spoke_audit(run->spoke, "data.read", "h:run", &run->id, "h:plan", &run->plan_hash,
                    "u:round", run->round, "s:purpose", run->plan.purpose, "s:use", use);
}

/* Before anything is trained; false where it is not to be. */
static bool charge(struct spoke_run *run) {
    struct tier_err err = {0};
    enum tier_status st = spoke_budget_charge(run, run->round, &err);

    if (st == TIER_EPOLICY)
        spoke_run_decline_round(run, err.text);
    else if (st != TIER_OK)
        spoke_stop_on(run->spoke, &err);
    return st == TIER_OK;
}

#define ROUNDING "rounding" /* in the journal */

/* What this site rounds by (tier/narrow.h) is its own secret, drawn once: with another after a
 * restart the same change would be another update. */
static enum tier_status know_rounding(struct spoke *spoke, struct tier_err *err) {
    struct tier_journal_blob kept = {0};
    enum tier_status st = tier_journal_kv_get(spoke->home.journal, ROUNDING, &kept, err);

    if (st == TIER_OK && kept.bytes == sizeof spoke->rounding) {
        memcpy(&spoke->rounding, kept.data, sizeof spoke->rounding);
    } else if (st == TIER_OK) {
        st = tier_fail(err, TIER_ECORRUPT, "the journal's secret of rounding has %zu bytes",
                       kept.bytes);
    } else if (st == TIER_ENOTFOUND) {
        st = tier_noise_key_draw(&spoke->rounding, err);
        if (st == TIER_OK)
            st = tier_journal_kv_put(spoke->home.journal, ROUNDING, &spoke->rounding,
                                     sizeof spoke->rounding, err);
    }
    tier_journal_blob_release(&kept);
    return st;
}

/* What becomes of a round's update behind masks; true: nothing is to be trained. */
static bool goes_masked(struct spoke_run *run) {
    const char *why;
    struct tier_hash id;

    switch (spoke_secure_next(run, &id, &why)) {
    case SPOKE_SECURE_OFFER:
        if (!spoke_run_withdraws(run, &id))
            offer(run, &id);
        return true;
    case SPOKE_SECURE_OUT:
        spoke_run_decline_round(run, why);
        return true;
    case SPOKE_SECURE_WAIT:
        return true;
    case SPOKE_SECURE_TRAIN:
        break;
    }
    return false;
}

/* Whether who signed the plan was revoked since it was taken: it is not trained on any more. */
static bool signer_revoked(struct spoke_run *run, char *why, size_t size) {
    struct tier_journal_blob plan = {0}, signature = {0};
    bool revoked = false;

    if (!run->spoke->home.revoked)
        return false;
    if (tier_journal_run_plan(run->spoke->home.journal, run->hex, &plan, &signature, NULL) ==
        TIER_OK)
        revoked = tier_signed_revoked(signature.data, signature.bytes, run->spoke->home.revoked,
                                      why, size);
    tier_journal_blob_release(&plan);
    tier_journal_blob_release(&signature);
    return revoked;
}

void spoke_run_train(struct spoke_run *run) {
    bool ready = run->spoke->trainer ? run->manifest != NULL : run->data != NULL;
    struct tier_hash id;
    char why[256];
    struct tier_err err = {0};

    if (run->state != SPOKE_RUN_OPEN || run->committed || run->training || !ready ||
        !run->spoke->worker) /* no worker: it is being closed */
        return;
    if (spoke_run_heed_consents(run, &err) != TIER_OK) {
        spoke_run_decline_round(run, err.text);
        return;
    }
    if (spoke_secure_admit(run->spoke, &run->plan, &err) != TIER_OK) {
        spoke_run_decline_round(run, err.text);
        return;
    }
    if (spoke_secure_on(&run->plan) && goes_masked(run))
        return;
    if (!spoke_secure_on(&run->plan) && spoke_run_sealed(run, run->round, &id)) {
        if (!spoke_run_withdraws(run, &id))
            offer(run, &id);
        return;
    }
    if (tier_plan_expired(&run->plan, tier_wall_ms())) {
        spoke_run_decline_round(run, tier_plan_expired_text(&run->plan, why, sizeof why));
        return;
    }
    if (signer_revoked(run, why, sizeof why)) {
        spoke_run_decline_round(run, why);
        return;
    }
    if (run->data && spoke_run_rows_suffice(run, &err) != TIER_OK) {
        spoke_run_decline_round(run, err.text);
        return;
    }
    if (!charge(run))
        return;
    if (tier_narrow_shift(&run->plan) && tier_noise_key_is_zero(&run->spoke->rounding) &&
        know_rounding(run->spoke, &err) != TIER_OK) {
        spoke_stop_on(run->spoke, &err);
        return;
    }
    struct job *job = need(calloc(1, sizeof *job));
    *job = (struct job){.run = run, .round = run->round, .base = run->base_model};
    if (run->data)
        job->withheld = spoke_data_withheld_hash(run->data);
    run->training = true;
    run->training_base = job->base;
    spoke_run_progress(run, "training", 0);
    audit_reading(run);
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

void spoke_run_base_fetched(void *arg, enum tier_status st, const char *text) {
    struct spoke_run *run = arg;
    let_go_of_before(run);
    if (run->state != SPOKE_RUN_OPEN || !run->round)
        return;
    if (st == TIER_OK) {
        spoke_run_train(run);
    } else if (st == TIER_EFULL || st == TIER_ENOTFOUND) { /* room is made, or the parent gets it */
        tier_log_error("run %.12s round %" PRIu64 ": the model cannot be had: %s; trying again in "
                       "%d s",
                       run->hex, run->round, text, SPOKE_RETRY_MS / 1000);
        tier_timer_set(run->follow_again, SPOKE_RETRY_MS);
    } else {
        spoke_run_decline_round(run, text);
    }
}

void spoke_run_follow_again(void *arg) {
    struct spoke_run *run = arg;
    if (run->state == SPOKE_RUN_OPEN && run->round)
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
        bool received;
    } at[64];
    uint64_t below;
};

static enum tier_status see_doomed(void *arg, const struct tier_journal_sent *row,
                                   struct tier_err *err) {
    struct doomed *d = arg;
    (void)err;
    if (row->round < d->below && d->count < sizeof d->at / sizeof d->at[0]) {
        d->at[d->count].round = row->round;
        d->at[d->count].received = row->state == TIER_SENT_RECEIVED;
        d->at[d->count++].id = row->update_id;
    }
    return TIER_OK;
}

/* A masked update is in the journal beside the one that it masks, and the receipt is of the masked
 * one alone. */
static void share_receipts(struct doomed *d) {
    for (size_t i = 0; i < d->count; i++)
        for (size_t k = 0; k < d->count; k++)
            if (d->at[k].received && d->at[k].round == d->at[i].round)
                d->at[i].received = true;
}

/* The updates of rounds below this one have done their work; that of round `counted` (0: none) is
 * in the result, or, `by_receipt`, if the parent gave a receipt for it. What was kept beside them
 * advances: the hospital's own tensors with every round that was committed, those below
 * `committed`; what belongs to the update only with one that counted. */
static void release_below(struct spoke_run *run, uint64_t below, uint64_t committed,
                          uint64_t counted, bool by_receipt) {
    struct tier_journal *j = run->spoke->home.journal;
    struct release r = {run, below};
    struct doomed d = {.below = below};
    struct tier_err err = {0};

    if (spoke_budget_over(run, below, &err) != TIER_OK) {
        spoke_stop_on(run->spoke, &err);
        return;
    }

    tier_journal_sent_each(j, run->hex, TIER_SENT_STATE_ANY, see_doomed, &d, &err);
    share_receipts(&d);
    for (size_t i = 0; i < d.count; i++)
        for (int kind = 0; kind < SPOKE_STATE_KINDS; kind++)
            if ((kind == SPOKE_STATE_PRIVATE
                     ? d.at[i].round < committed
                     : d.at[i].round == counted && (d.at[i].received || !by_receipt)) &&
                spoke_state_commit((enum spoke_state)kind, run->spoke->config->data_dir, &run->id,
                                   d.at[i].round, &d.at[i].id, &err) != TIER_OK) {
                spoke_stop_on(run->spoke, &err); /* the rows stay: it is done at the next start */
                return;
            }
    tier_journal_sent_each(j, run->hex, TIER_SENT_STATE_ANY, release_one, &r, &err);
    for (size_t i = 0; i < d.count; i++)
        if (tier_journal_sent_delete(j, run->hex, d.at[i].round, &d.at[i].id, &err) != TIER_OK)
            spoke_stop_on(run->spoke, &err);
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
        spoke_not_heeded(run->spoke, text);
    else if (m->round == run->round)
        tier_link_fault(
            run->spoke->link); /* said again after a loss of the stream, and no oftener */
    return !*text;
}

/* A job of such a round that is still to begin, behind another run's, finds it in run->over. */
static void rounds_are_over(struct spoke_run *run, uint64_t round) {
    if (round > atomic_load(&run->over))
        atomic_store(&run->over, round);
    spoke_trainer_over(run->spoke->trainer, &run->id, round);
}

void spoke_round_came(struct spoke_run *run, const struct tier_to_child *m) {
    const struct tier_follow_target base = {m->model, m->delta, m->delta_base};

    if (!round_fits(run, m))
        return;
    if (m->round > run->round) {
        struct tier_hash before = run->base_model;
        bool any = run->round > 0;
        rounds_are_over(run, m->round - 1);
        let_go_of_before(run); /* of a round that was never begun here */
        release_below(run, m->round, m->round, 0, false);
        run->round = m->round;
        run->base_model = m->model;
        run->committed = false;
        if (any)
            run->base_before = before;
        spoke_run_journal(run);
    }
    spoke_secure_round(run);
    run->follow.link = run->spoke->link;
    run->follow.intake = run->spoke->intake;
    run->follow.manifest = run->manifest;
    run->follow.bytes_max = tier_task_model_bytes_max(&run->plan);
    tier_follow_to(&run->follow, &base);
}

/* The round that is open, or one before it: none that this child has not been told of. */
void spoke_commit_came(struct spoke_run *run, const struct tier_to_child *m) {
    char text[128];

    if (m->round > run->round && m->by_receipt)
        return; /* the parent cannot know that this child was never told of it */
    if (m->round > run->round) {
        snprintf(text, sizeof text,
                 "run %.12s: a commit of round %" PRIu64 ", and round %" PRIu64 " is open",
                 run->hex, m->round, run->round);
        spoke_not_heeded(run->spoke, text);
        return;
    }
    if (m->round < run->round || run->committed)
        tier_link_fault(run->spoke->link);
    rounds_are_over(run, m->round);
    release_below(run, m->round + 1, m->round + 1, m->missed && !m->by_receipt ? 0 : m->round,
                  m->by_receipt);
    if (m->round < run->round || run->committed || run->state != SPOKE_RUN_OPEN)
        return;
    run->committed = true;
    spoke_secure_over(run);
    spoke_run_journal(run);
}

/* The hospital's own tensors stay when the run has ended, and nothing else of it does. */
static enum tier_status keep_private(struct spoke_run *run, const struct tier_hash *model,
                                     struct tier_err *err) {
    char *path = NULL;

    if (run->plan.share.count == 0 && run->plan.keep.count == 0)
        return TIER_OK;
    TIER_TRY(spoke_run_graph(run, err));
    if (run->kept)
        TIER_TRY(spoke_state_keep_private(run->spoke->config->data_dir, &run->id, run->kept, model,
                                          &path, err));
    if (path) {
        tier_log_info("run %.12s: this hospital's own tensors are in %s", run->hex, path);
        spoke_audit(run->spoke, "private.kept", "h:run", &run->id, "h:model", model, "u:elements",
                    run->kept->elements);
    }
    free(path);
    return TIER_OK;
}

void spoke_end_came(struct spoke_run *run, const struct tier_to_child *m) {
    struct tier_hash graph;

    if (run->state == SPOKE_RUN_ENDED)
        return;
    bool pending = run->state == SPOKE_RUN_PENDING;
    if ((run->state == SPOKE_RUN_OPEN || pending) &&
        tier_hash_parse(run->plan.model_sha256, &graph))
        tier_link_unfetch(run->spoke->link, &graph, spoke_run_graph_fetched, run);
    tier_follow_stop(&run->follow);
    tier_timer_cancel(run->follow_again);
    tier_log_info("run %.12s has ended: %s", run->hex, m->reason);
    spoke_audit(run->spoke, "run.ended", "h:run", &run->id, "b:completed", (int)m->completed,
                "s:reason", m->reason, "h:model", &m->model);
    run->state = SPOKE_RUN_ENDED;
    spoke_run_show(run);
    rounds_are_over(run, UINT64_MAX);
    let_go_of_before(run);
    /* A run that ends with this round's base model ends without its updates. */
    bool committed = !tier_hash_equal(&run->base_model, &m->model);
    release_below(run, UINT64_MAX, run->round + (committed ? 1 : 0), 0, false);
    struct tier_err err = {0};
    if (run->round && keep_private(run, &m->model, &err) != TIER_OK) {
        spoke_stop_on(run->spoke, &err); /* the end is told again after the next start */
        return;
    }
    tier_spool_forget_old(run->spoke->home.spool);
    spoke_run_forget_rows(run);
    spoke_secure_over(run);
    spoke_secure_forget(run);
    drop_state(run);
    spoke_budget_end(run);
    if (run->round && !run->training && !tier_hash_equal(&run->base_model, &m->model))
        drop_model(run->spoke, &run->base_model);
    spoke_run_journal(run);
}

/* A receipt counts only if it is the parent's own, for this update. */
void spoke_receipt_came(struct spoke_run *run, const struct tier_receipt *r) {
    struct spoke *spoke = run->spoke;
    struct tier_err err = {0};

    if (tier_home_check_receipt(&spoke->home, tier_link_parent_cert(spoke->link), r, &err) !=
        TIER_OK) {
        tier_log_error("the parent's receipt is not valid: %s", err.text);
        spoke_audit(spoke, "receipt.invalid", "h:run", &run->id, "u:round", r->round, "s:reason",
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
        spoke_stop_on(spoke, &err);
    if (tier_home_note_receipt(&spoke->home, r, &err) != TIER_OK)
        spoke_stop_on(spoke, &err);
    spoke_run_progress(run, "delivered", 1);
}
