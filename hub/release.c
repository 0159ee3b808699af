/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a round leaves behind when it is over: which files go and which stay. Disk must not grow
 * with rounds, and nothing may go that a round still to come would miss.
 */
#include "hub/contributor.h"
#include "hub/noise.h"
#include "hub/run_private.h"
#include "hub/secure.h"
#include "hub/work.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/model.h"
#include "tier/named_file.h"
#include "tier/retain.h"
#include "tier/server_state.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#define EXPIRE_MS 10000 /* short rounds do not look through the folder each time */

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

struct release {
    struct hub_run *run;
    struct tier_hash *ids;
    bool *held; /* in quarantine */
    size_t count, room;
};

static enum tier_status collect(void *arg, const struct tier_journal_update *row,
                                struct tier_err *err) {
    struct release *r = arg;
    (void)err;
    bool wanted = row->state == TIER_UPDATE_WANTED; /* where it is still to come, it may go on */
    if (tier_hash_is_zero(&row->update_id) || (wanted && hub_run_buffers(r->run)))
        return TIER_OK;
    if (r->count == r->room) {
        r->room = r->room ? r->room * 2 : 16;
        r->ids = need(realloc(r->ids, r->room * sizeof *r->ids));
        r->held = need(realloc(r->held, r->room * sizeof *r->held));
    }
    r->held[r->count] = hub_contributor_holds(r->run, hub_run_child_number(r->run, row->child),
                                              row->round, &row->update_id);
    r->ids[r->count++] = row->update_id;
    return TIER_OK;
}

static bool is_before(const struct hub_run *run, const struct tier_hash *model) {
    for (size_t i = 0; i < run->before_count; i++)
        if (tier_hash_equal(model, &run->before[i].base_model))
            return true;
    return false;
}

static bool model_in_use(const struct hub *hub, const struct tier_hash *model) {
    for (const struct hub_run *run = hub->runs; run; run = run->next)
        if (tier_hash_equal(model, &run->model) || tier_hash_equal(model, &run->base_model) ||
            tier_hash_equal(model, &run->wanted.model) || is_before(run, model))
            return true;
    return false;
}

/* What could not be kept aside is gone with its round, as it would be without retention. */
static void retained(enum tier_status st, const struct tier_err *err) {
    if (st != TIER_OK && st != TIER_ENOTFOUND)
        tier_log_warn("not retained: %s", err->text);
}

void hub_work_retain(struct hub *hub, const struct tier_hash *update) {
    struct tier_err err = {0};

    if (hub->config->hub.retain_updates_days > 0)
        retained(tier_retain_update(hub->home.spool, hub->home.retained_dir, update, &err), &err);
}

/* Evidence, which whoever looks into it may want, and audit replay does. */
static void put_aside(struct hub *hub, const struct tier_hash *update) {
    struct tier_err err = {0};

    if (hub->config->hub.retain_quarantine_days > 0)
        retained(tier_retain_update(hub->home.spool, hub->home.quarantine_dir, update, &err), &err);
}

static void expire(struct hub *hub, const char *dir, const struct tier_retain_rules *rules) {
    struct tier_retain_expired gone = {0};
    struct tier_err err = {0};

    if (tier_retain_expire(dir, rules, tier_wall_ms(), &gone, &err) != TIER_OK)
        tier_log_warn("retention: %s", err.text);
    if (gone.updates || gone.models)
        hub_audit(hub, "retention.expired", "u:updates", gone.updates, "u:models", gone.models,
                  "u:bytes", gone.bytes, "b:for_room", (int)gone.for_room, "b:quarantine",
                  (int)(dir == hub->home.quarantine_dir));
}

void hub_work_expire(struct hub *hub) {
    const struct tier_config_hub *c = &hub->config->hub;
    const struct tier_retain_rules quarantine = {.updates_days = c->retain_quarantine_days,
                                                 .bytes_max = c->retain_max_gb << 30};
    const struct tier_retain_rules rules = {.updates_days = c->retain_updates_days,
                                            .models_days = c->retain_models_days,
                                            .bytes_max = c->retain_max_gb << 30};
    uint64_t now = tier_clock_ms();

    if (hub->expired_ms && now - hub->expired_ms < EXPIRE_MS)
        return;
    hub->expired_ms = now;
    expire(hub, hub->home.retained_dir, &rules);
    expire(hub, hub->home.quarantine_dir, &quarantine);
    hub_noise_expire(hub);
}

/* A state is of one run alone. */
void hub_work_drop_state(struct hub *hub, const struct hub_run *run,
                         const struct tier_hash *state) {
    bool named = run && run->state == HUB_RUN_OPEN && tier_hash_equal(&run->server_state, state);
    if (!named && !tier_hash_is_zero(state))
        tier_server_state_delete(hub->home.models_dir, state);
}

/* Of a run its latest model is kept and the one that came from, and while it goes on those that
 * children may still be at work on; and the optimiser's state beside the latest. Disk must not grow
 * by rounds. */
static void drop_old_models(struct hub_run *run, uint64_t round) {
    uint64_t behind = run->state == HUB_RUN_OPEN ? run->round.rules.staleness_max : 0;
    struct tier_journal_round row;
    struct tier_err err = {0};

    if (run->state != HUB_RUN_OPEN)
        hub_work_drop_state(run->hub, run, &run->server_state);
    if (round > 1 &&
        tier_journal_round_get(run->hub->home.journal, run->hex, round - 1, &row, NULL) == TIER_OK)
        hub_work_drop_state(run->hub, run, &row.result_state);
    while (run->before_count > 0 && round - run->before[run->before_count - 1].round > behind) {
        const struct tier_hash old = run->before[--run->before_count].base_model;
        if (model_in_use(run->hub, &old))
            continue;
        if (run->hub->config->hub.retain_models_days > 0)
            retained(tier_retain_model(run->hub->home.models_dir, run->hub->home.retained_dir, &old,
                                       &err),
                     &err);
        char *path = tier_content_path(run->hub->home.models_dir, &old, TIER_CONTENT_MODEL);
        unlink(path);
        free(path);
    }
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

void hub_work_drop_early(struct hub_run *run, uint32_t child) {
    static const struct tier_err late = {.status = TIER_ELATE, .text = "the round is closed"};
    const struct tier_hash *update = &run->children[child].early.update;

    if (!run->children[child].has_early)
        return;
    run->children[child].has_early = false;
    /* It has arrived, and its push waits for an answer. */
    tier_serve_pushed(run->hub->serve, run->children[child].name, update, NULL, &late);
    tier_spool_delete(run->hub->home.spool, update, NULL);
}

void hub_work_abandon(struct hub_run *run, uint32_t child) {
    const struct tier_round_child *c = tier_round_child(&run->round, child);

    hub_work_drop_early(run, child);
    if (tier_hash_is_zero(&c->update))
        return;
    tier_serve_withdraw(run->hub->serve, run->children[child].name, &c->update, TIER_ELATE,
                        "the round is closed");
    tier_spool_delete(run->hub->home.spool, &c->update, NULL);
}

/* Children that were still pushing when the round went on without them, and what came of it. */
static void drop_unfinished(struct hub_run *run) {
    for (uint32_t i = 0; i < run->round.count; i++) {
        enum tier_round_child_state now = tier_round_child(&run->round, i)->state;
        bool goes_on = run->state == HUB_RUN_OPEN && hub_run_still_at_work(run, i);
        bool kept =
            now == TIER_CHILD_SEALED || now == TIER_CHILD_FOLDED || now == TIER_CHILD_QUARANTINED;
        if (!kept && !goes_on)
            hub_work_abandon(run, i);
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

static void keep_aside(struct hub *hub, const struct release *r, size_t i) {
    if (r->held[i])
        put_aside(hub, &r->ids[i]);
    else
        hub_work_retain(hub, &r->ids[i]);
}

void hub_work_keep_aside(struct hub_run *run, uint64_t round) {
    struct release r = {.run = run};
    struct tier_err err = {0};

    if (tier_journal_update_each(run->hub->home.journal, run->hex, round, TIER_UPDATE_STATE_ANY,
                                 collect, &r, &err) == TIER_OK)
        for (size_t i = 0; i < r.count; i++)
            keep_aside(run->hub, &r, i);
    free(r.ids);
    free(r.held);
}

void hub_work_release(struct hub_run *run, uint64_t round) {
    struct tier_home *home = &run->hub->home;
    struct tier_journal_round row;
    struct release r = {.run = run};
    struct tier_err err = {0};

    drop_old_models(run, round);
    hub_secure_over(run, round);
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
        if (!kept || !tier_hash_equal(&r.ids[i], &row.own_update)) {
            keep_aside(run->hub, &r, i);
            st = tier_spool_delete(home->spool, &r.ids[i], &err);
        }
    if (st == TIER_OK && !tier_hash_is_zero(&row.own_update)) {
        if (!kept)
            st = tier_spool_delete(home->spool, &row.own_update, &err);
        if (st == TIER_OK)
            st = tier_journal_sent_delete(home->journal, run->hex, round, &row.own_update, &err);
    }
    free(r.ids);
    free(r.held);
    hub_work_expire(run->hub);
    if (st != TIER_OK)
        tier_log_warn("cannot clear round %" PRIu64 ": %s", round, err.text);
}
