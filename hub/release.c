/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a round leaves behind when it is over: which files go and which stay. Disk must not grow
 * with rounds, and nothing may go that a round still to come would miss.
 */
#include "hub/work.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/model.h"
#include "tier/named_file.h"
#include "tier/server_state.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

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
            tier_hash_equal(model, &run->wanted.model))
            return true;
    return false;
}

/* A state is of one run alone. */
void hub_work_drop_state(struct hub *hub, const struct hub_run *run,
                         const struct tier_hash *state) {
    bool named = run && run->state == HUB_RUN_OPEN && tier_hash_equal(&run->server_state, state);
    if (!named && !tier_hash_is_zero(state))
        tier_server_state_delete(hub->home.models_dir, state);
}

/* Two models of a run are kept, its latest and the one that came from, and the optimiser's state
 * beside the latest while it goes on; disk must not grow by rounds. */
static void drop_old_model(struct hub_run *run, uint64_t round) {
    struct tier_journal_round row;

    if (run->state != HUB_RUN_OPEN)
        hub_work_drop_state(run->hub, run, &run->server_state);
    if (round < 2 ||
        tier_journal_round_get(run->hub->home.journal, run->hex, round - 1, &row, NULL) != TIER_OK)
        return;
    hub_work_drop_state(run->hub, run, &row.result_state);
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
    tier_delta_sweep(hub->home.models_dir);
    tier_named_file_sweep(hub->home.models_dir, TIER_MODEL_TEMPORARY);
}

/* Children that were still pushing when the round went on without them, and what came of it. */
static void drop_unfinished(struct hub_run *run) {
    for (uint32_t i = 0; i < run->round.count; i++) {
        const struct tier_round_child *c = tier_round_child(&run->round, i);
        if (c->state == TIER_CHILD_SEALED || c->state == TIER_CHILD_FOLDED ||
            tier_hash_is_zero(&c->update))
            continue;
        tier_serve_withdraw(run->hub->serve, run->children[i].name, &c->update, TIER_ELATE,
                            "the round is closed");
        tier_spool_delete(run->hub->home.spool, &c->update, NULL);
    }
}

/*
 * A rule that starts from the previous round's result has its file for as long as it may need it:
 * from the commit of that round to the commit of the next. Deletes the one before; true where this
 * round's is to stay.
 */
static bool keep_own(struct hub_run *run, const struct tier_hash *own) {
    if (!run->rule || !run->rule->has_previous || tier_hash_equal(own, &run->kept_update))
        return false;
    if (!tier_hash_is_zero(&run->kept_update))
        tier_spool_delete(run->hub->home.spool, &run->kept_update, NULL);
    run->kept_update = run->state == HUB_RUN_OPEN ? *own : (struct tier_hash){{0}};
    return run->state == HUB_RUN_OPEN;
}

void hub_work_restore_kept(struct hub_run *run) {
    struct tier_journal_round row;
    bool committed = run->round.state == TIER_ROUND_COMMITTED;
    uint64_t number = run->round.number - (committed ? 0 : 1);

    if (!run->rule || !run->rule->has_previous)
        return;
    /* A hub that was away has no row of a round that went on without it. */
    while (number > 0 &&
           tier_journal_round_get(run->hub->home.journal, run->hex, number, &row, NULL) != TIER_OK)
        number--;
    if (number > 0)
        run->kept_update = row.own_update;
}

void hub_work_release(struct hub_run *run, uint64_t round) {
    struct tier_home *home = &run->hub->home;
    struct tier_journal_round row;
    struct release r = {.run = run};
    struct tier_err err = {0};

    drop_old_model(run, round);
    if (round == run->round.number) {
        drop_unfinished(run);
        if (!tier_hash_is_zero(&run->round.partial) &&
            !tier_hash_equal(&run->round.partial, &run->round.own_update))
            tier_spool_delete(home->spool, &run->round.partial, NULL);
    }
    if (tier_journal_round_get(home->journal, run->hex, round, &row, NULL) != TIER_OK)
        return;
    enum tier_status st = tier_journal_update_each(home->journal, run->hex, round,
                                                   TIER_UPDATE_STATE_ANY, collect, &r, &err);
    bool kept = keep_own(run, &row.own_update);
    for (size_t i = 0; i < r.count && st == TIER_OK; i++)
        if (!kept || !tier_hash_equal(&r.ids[i], &row.own_update))
            st = tier_spool_delete(home->spool, &r.ids[i], &err);
    if (st == TIER_OK && !tier_hash_is_zero(&row.own_update)) {
        if (!kept)
            st = tier_spool_delete(home->spool, &row.own_update, &err);
        if (st == TIER_OK)
            st = tier_journal_sent_delete(home->journal, run->hex, round, &row.own_update, &err);
    }
    free(r.ids);
    if (st != TIER_OK)
        tier_log_warn("cannot clear round %" PRIu64 ": %s", round, err.text);
}
