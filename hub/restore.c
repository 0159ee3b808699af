/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After a restart: runs and their open rounds from the journal, against the files that are there.
 * What the journal says counted and the disk does not hold any more is wanted again; children keep
 * it until the commit.
 */
#include "hub/contributor.h"
#include "hub/run_private.h"
#include "hub/secure.h"
#include "hub/work.h"
#include "tier/content.h"
#include "tier/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct restore {
    struct hub_run *run;
    bool folded;    /* what the journal says was folded is in a sum that is whole, */
    bool all;       /* and so is all that was sealed */
    uint32_t *lost; /* whose update counted, and is wanted again */
    size_t lost_count;
};

static bool whole(const struct tier_spool *spool, const struct tier_hash *id,
                  struct tier_err *err) {
    struct tier_update *u = NULL;
    bool ok = tier_spool_update_open(spool, id, &u, err) == TIER_OK &&
              tier_spool_update_check(u, err) == TIER_OK;
    tier_spool_update_close(u);
    return ok;
}

static enum tier_status restore_child(void *arg, const struct tier_journal_update *row,
                                      struct tier_err *err) {
    struct restore *restore = arg;
    struct hub_run *run = restore->run;
    struct tier_spool *spool = run->hub->home.spool;
    uint32_t child = hub_run_child_number(run, row->child);
    enum tier_round_child_state state = TIER_CHILD_EXPECTED;
    struct tier_err why = {0};

    run->children[child].declined = hub_run_answered_no(run, row->child);
    run->children[child].accepted = !run->children[child].declined;
    if (row->state == TIER_UPDATE_REFUSED &&
        hub_contributor_holds(run, child, row->round, &row->update_id)) {
        state = TIER_CHILD_QUARANTINED;
    } else if (row->state == TIER_UPDATE_REFUSED && hub_contributor_is_out(run, child) &&
               tier_hash_is_zero(&row->update_id)) {
        state = TIER_CHILD_QUARANTINED;
    } else if (row->state == TIER_UPDATE_REFUSED) {
        state = tier_hash_is_zero(&row->update_id) ? TIER_CHILD_DECLINED : TIER_CHILD_REFUSED;
    } else if (row->state == TIER_UPDATE_FOLDED && restore->folded) {
        state = TIER_CHILD_FOLDED;
    } else if (row->state == TIER_UPDATE_SEALED &&
               (restore->all || whole(spool, &row->update_id, &why))) {
        state = TIER_CHILD_SEALED;
    } else if (row->state != TIER_UPDATE_WANTED) {
        tier_log_warn("run %.12s: the update of %s is wanted again: %s", run->hex, row->child,
                      why.status ? why.text : "the sum that it was in is damaged");
        tier_spool_delete(spool, &row->update_id, NULL);
        uint32_t *more = realloc(restore->lost, (restore->lost_count + 1) * sizeof *more);
        if (!more)
            return tier_fail(err, TIER_ENOMEM, "no memory to restore a round");
        restore->lost = more;
        restore->lost[restore->lost_count++] = child;
    }
    tier_round_restore_child(&run->round, child, state, &row->update_id, row->weight,
                             row->base_round);
    return TIER_OK;
}

/* The state beside the latest committed model: of this round, or of the one before. */
static enum tier_status restore_state(struct hub_run *run, const struct tier_journal_round *last,
                                      struct tier_err *err) {
    struct tier_journal_round before = *last;

    if (!hub_is_top(run->hub))
        return TIER_OK;
    if (last->state != TIER_ROUND_COMMITTED) {
        if (last->round < 2)
            return TIER_OK;
        TIER_TRY(tier_journal_round_get(run->hub->home.journal, run->hex, last->round - 1, &before,
                                        err));
    }
    run->server_state = before.result_state;
    return TIER_OK;
}

static enum tier_status restore_base(void *arg, const struct tier_journal_round *row,
                                     struct tier_err *err) {
    struct hub_run *run = arg;
    (void)err;

    if (row->round < run->round.number && !tier_hash_is_zero(&row->base_model))
        hub_run_remember_base(run, row->round, &row->base_model);
    return TIER_OK;
}

static enum tier_status restore_round(struct hub_run *run, uint64_t number, struct tier_err *err) {
    struct tier_journal_round row;
    struct tier_journal *j = run->hub->home.journal;
    struct tier_round_rules rules = hub_run_rules(run, number);

    TIER_TRY(tier_journal_round_get(j, run->hex, number, &row, err));
    tier_round_init(&run->round, number, &rules);
    run->base_model = row.base_model;
    uint64_t behind = tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->staleness_max + 1;
    TIER_TRY(tier_journal_round_each(j, run->hex, number > behind ? number - behind : 1,
                                     restore_base, run, err));
    enum tier_round_state state = (enum tier_round_state)row.state;
    struct restore restore = {.run = run,
                              .folded = state == TIER_ROUND_COMMITTED ||
                                        whole(run->hub->home.spool, &row.own_update, NULL)};
    restore.all = restore.folded && (state == TIER_ROUND_FOLDED || state == TIER_ROUND_COMMITTED);
    enum tier_status st = tier_journal_update_each(j, run->hex, number, TIER_UPDATE_STATE_ANY,
                                                   restore_child, &restore, err);
    if (st != TIER_OK) {
        free(restore.lost);
        return st;
    }
    if (state == TIER_ROUND_FOLDED && !restore.folded)
        state = TIER_ROUND_FOLDING;
    if ((state == TIER_ROUND_FOLDING || state == TIER_ROUND_UNMASKING) && restore.lost_count > 0)
        state = TIER_ROUND_OPEN; /* the quorum is counted anew, and the deadline looked at */
    bool closed =
        state != TIER_ROUND_OPEN && state != TIER_ROUND_FOLDING && state != TIER_ROUND_UNMASKING;
    tier_round_restore(&run->round, state, !closed && restore.folded ? &row.own_update : NULL,
                       closed ? &row.own_update : NULL);
    if (restore.lost_count > 0) /* the journal says what counts, so it must not say that they do */
        hub_rows_children(run, restore.lost, restore.lost_count);
    free(restore.lost);
    hub_work_restore_kept(run);
    if (state == TIER_ROUND_COMMITTED && !tier_hash_is_zero(&row.result_model))
        run->model = row.result_model;
    TIER_TRY(restore_state(run, &row, err));
    uint64_t deadline_ms = tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->deadline_s * 1000;
    if (!closed && deadline_ms) { /* a fold ends it, and a round that opens again has it */
        int64_t left = row.opened_ms + (int64_t)deadline_ms - tier_wall_ms();
        hub_run_set_deadline(run, left > 0 ? (uint64_t)left : 1);
    }
    return hub_secure_restore(run, err);
}

static enum tier_status restore_run(void *arg, const struct tier_journal_run *row,
                                    struct tier_err *err) {
    struct hub *hub = arg;
    struct tier_journal_blob plan = {0}, sig = {0};
    struct tier_hash id;
    enum tier_status st;

    if (!tier_hash_parse(row->run, &id))
        return tier_fail(err, TIER_ECORRUPT, "the journal names a run '%s'", row->run);
    TIER_TRY(tier_journal_run_plan(hub->home.journal, row->run, &plan, &sig, err));
    struct hub_run *run =
        hub_run_new(hub, &id, &(struct hub_plan){plan.data, plan.bytes, sig.data, sig.bytes});
    tier_journal_blob_release(&plan);
    tier_journal_blob_release(&sig);
    TIER_TRY(tier_plan_parse(run->plan_text, run->plan_bytes, &run->plan, err));
    run->state = (enum hub_run_state)row->state;
    run->created_ms = row->created_ms;
    run->model = row->model;
    snprintf(run->reason, sizeof run->reason, "%s", row->detail);
    if (run->state != HUB_RUN_OPEN)
        return TIER_OK;
    TIER_TRY(hub_run_find_rule(run, err));
    struct tier_err why = {0};
    st = hub_run_prepare(run,
                         &why); /* a hub that was killed before its graph came fetches it again */
    if (st != TIER_OK && hub_is_top(hub))
        return tier_fail(err, st, "%s", why.text);
    TIER_TRY(tier_journal_round_unsure(hub->home.journal, row->run, &run->unsure_round, err));
    if (row->round)
        TIER_TRY(restore_round(run, row->round, err));
    tier_log_info("run %.12s: resumed at round %" PRIu64 " (%s)", run->hex, run->round.number,
                  run->round.number ? tier_round_state_text(run->round.state) : "none");
    hub_audit(hub, "run.resumed", "h:run", &run->id, "u:round", run->round.number);
    return TIER_OK;
}

/* Whether the open round counts on the file: its sums, what it has not folded yet, and what a child
 * may offer again that was sealed before the journal knew. */
static bool round_needs(const struct hub_run *run, const struct tier_hash *id) {
    const struct tier_round *r = &run->round;
    bool folded = false;

    if (tier_hash_equal(id, &r->partial) || tier_hash_equal(id, &r->own_update))
        return true;
    for (uint32_t i = 0; i < r->count; i++) {
        const struct tier_round_child *c = tier_round_child(r, i);
        if (tier_hash_equal(&c->update, id) && c->state != TIER_CHILD_FOLDED)
            return true;
        folded = folded || tier_hash_equal(&c->update, id);
    }
    return !folded && r->state == TIER_ROUND_OPEN;
}

static bool keep_file(void *arg, const struct tier_hash *id, bool sealed) {
    struct hub *hub = arg;
    struct tier_update *u = NULL;
    bool keep = false, any_open = false;

    if (sealed && tier_spool_update_open(hub->home.spool, id, &u, NULL) != TIER_OK)
        return false;
    const struct tier_update_header *h = u ? tier_spool_update_header(u) : NULL;
    for (struct hub_run *run = hub->runs; run; run = run->next) {
        bool open = run->state == HUB_RUN_OPEN && run->round.number &&
                    run->round.state != TIER_ROUND_COMMITTED;
        any_open = any_open || open;
        if (h && open && tier_hash_equal(&h->run, &run->id) && hub_run_base_of(run, h->round) &&
            run->round.number - h->round <= run->round.rules.staleness_max)
            keep = keep || round_needs(run, id);
        if (h && run->state == HUB_RUN_OPEN && tier_hash_equal(id, &run->kept_update))
            keep = true;
    }
    tier_spool_update_close(u);
    return sealed ? keep : any_open;
}

/* The model that the run goes on from, which nobody has looked at since it was written. False: the
 * run is over with it. A hub fetches it again, the top has it from nobody. */
static bool check_model(struct hub_run *run) {
    bool committed = run->round.state == TIER_ROUND_COMMITTED;
    const struct tier_hash *model = committed ? &run->model : &run->base_model;
    const char *dir = run->hub->home.models_dir;
    struct tier_err err = {0};

    if (!run->round.number)
        return true;
    enum tier_status st = tier_content_check(dir, model, TIER_CONTENT_MODEL, &err);
    if (st == TIER_OK)
        return true;
    if (hub_is_top(run->hub) && st == TIER_ECORRUPT) {
        hub_run_finish(run, HUB_RUN_FAILED, err.text);
        return false;
    }
    if (hub_is_top(run->hub))
        tier_log_error("run %.12s stands still: %s; put the file back and start again", run->hex,
                       err.text);
    else if (!committed)
        hub_run_follow(run);
    return true;
}

enum tier_status hub_run_restore_all(struct hub *hub, struct tier_err *err) {
    hub_work_recover_audit(hub);
    TIER_TRY(tier_journal_run_each(hub->home.journal, restore_run, hub, err));
    /* What a committed round was to keep aside is not swept away. */
    for (struct hub_run *run = hub->runs; run; run = run->next)
        if (run->state == HUB_RUN_OPEN && run->round.state == TIER_ROUND_COMMITTED)
            hub_work_keep_aside(run, run->round.number);
    TIER_TRY(tier_spool_sweep(hub->home.spool, keep_file, hub, err));
    hub_work_sweep_models(hub);
    for (struct hub_run *run = hub->runs; run; run = run->next) {
        if (run->state != HUB_RUN_OPEN)
            continue;
        if (!check_model(run))
            continue;
        hub_work_settle(run);
        hub_work_resume(run);
        bool idle = !run->round.number || run->round.state == TIER_ROUND_COMMITTED;
        if (!hub_is_top(hub) || !idle || run->state != HUB_RUN_OPEN)
            continue;
        if (run->round.number >= tier_task_rounds(&run->plan))
            hub_run_finish(run, HUB_RUN_COMPLETED, "every round is done");
        else if (!run->round.number)
            hub_run_first_round(run);
        else
            hub_run_want_round(run, run->round.number + 1,
                               &(struct tier_follow_target){.model = run->model});
    }
    return TIER_OK;
}
