/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal's rows of a run, its rounds and its children: what a restart puts together again.
 * Everything that one event changes is one transaction.
 */
#include "hub/contributor.h"
#include "hub/receipt.h"
#include "hub/run_private.h"

#include <stdio.h>
#include <string.h>

void hub_work_journal_run(struct hub_run *run) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    struct tier_journal_run row = {.state = run->state,
                                   .round = run->round.number,
                                   .created_ms = run->created_ms,
                                   .model = run->model};
    memcpy(row.run, run->hex, sizeof row.run);
    snprintf(row.detail, sizeof row.detail, "%s", run->reason);
    /* While it goes on, a lost row is made again from the rows of its rounds, which are waited for
     * where they commit. */
    bool goes_on = run->state == HUB_RUN_OPEN;
    enum tier_status st = goes_on ? tier_journal_begin_lazy(j, &err) : TIER_OK;
    if (st == TIER_OK)
        st = tier_journal_run_set(j, &row, &err);
    if (st == TIER_OK && goes_on)
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
    bool open = run->round.state == TIER_ROUND_OPEN || run->round.state == TIER_ROUND_FOLDING ||
                run->round.state == TIER_ROUND_UNMASKING;
    row.own_update = open ? run->round.partial : run->round.own_update;
    if (run->round.state == TIER_ROUND_COMMITTED && !row.closed_ms) {
        row.closed_ms = tier_wall_ms();
        row.result_model = run->model;
        row.result_state = run->server_state;
        row.counted = run->counted;
        row.by_receipt = run->by_receipt;
    }
    return tier_journal_round_put(j, &row, err);
}

/* DECLINED is a REFUSED row without an update: the journal knows no child's reasons. */
static enum tier_update_state row_state(const struct tier_round_child *c) {
    switch (c->state) {
    case TIER_CHILD_SEALED:
        return TIER_UPDATE_SEALED;
    case TIER_CHILD_FOLDED:
        return TIER_UPDATE_FOLDED;
    case TIER_CHILD_DECLINED:
    case TIER_CHILD_REFUSED:
    case TIER_CHILD_QUARANTINED: /* which the child's own row tells apart (hub/contributor.h) */
        return TIER_UPDATE_REFUSED;
    default:
        return TIER_UPDATE_WANTED;
    }
}

/* A receipt stays with its update whatever becomes of that here, folded or lost and wanted again,
 * so that the child has one for it and the audit log one line. */
static void keep_receipt(struct hub_run *run, struct tier_journal_update *row) {
    struct tier_journal_update before;

    if (tier_journal_update_get(run->hub->home.journal, row->run, row->round, row->child, &before,
                                NULL) != TIER_OK ||
        before.receipt_bytes == 0)
        return;
    if (row->state == TIER_UPDATE_WANTED)
        row->update_id = before.update_id;
    else if (!tier_hash_equal(&row->update_id, &before.update_id))
        return;
    memcpy(row->receipt, before.receipt, before.receipt_bytes);
    row->receipt_bytes = before.receipt_bytes;
}

/* `anew`: what was receipted is taken back, and another update may come. */
static enum tier_status put_child(struct hub_run *run, uint32_t child, bool anew,
                                  struct tier_err *err) {
    const struct tier_round_child *c = tier_round_child(&run->round, child);
    const struct hub_child *who = &run->children[child];
    struct tier_journal_update row = {.round = run->round.number,
                                      .state = row_state(c),
                                      .base_round = hub_run_child_round(run, child)};

    memcpy(row.run, run->hex, sizeof row.run);
    memcpy(row.child, who->name, sizeof who->name);
    if (row.state == TIER_UPDATE_SEALED || row.state == TIER_UPDATE_FOLDED ||
        c->state == TIER_CHILD_REFUSED || c->state == TIER_CHILD_QUARANTINED) {
        row.update_id = c->update;
        row.weight = c->weight;
    }
    if (!anew)
        keep_receipt(run, &row);
    if (c->state == TIER_CHILD_QUARANTINED)
        TIER_TRY(hub_contributor_put(run, child, err));
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
            st = put_child(run, i, false, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

void hub_rows_step(struct hub_run *run, const struct tier_round_event *e,
                   enum tier_round_child_state child_before, enum tier_round_state state_before,
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
    /* Only after a commit, or when they take it back, do children give up what they hold: all else
     * they push again. */
    bool back = e->type == TIER_EVENT_WITHDRAW;
    enum tier_status st = run->round.state == TIER_ROUND_COMMITTED || back
                              ? tier_journal_begin(j, &err)
                              : tier_journal_begin_lazy(j, &err);
    struct tier_receipt receipt;
    bool fresh = false; /* an event gives at most one receipt */
    if (st == TIER_OK && child_changed)
        st = put_child(run, e->child, back, &err);
    for (size_t i = 0; i < actions->count && st == TIER_OK; i++)
        if (actions->at[i].type == TIER_ACTION_RECEIPT)
            st = hub_receipt_make(run, actions->at[i].child, &actions->at[i].update, &receipt,
                                  &fresh, &err);
    if (st == TIER_OK)
        st = put_round(run, &err);
    bool commits = run->round.state == TIER_ROUND_COMMITTED && state_before != TIER_ROUND_COMMITTED;
    if (st == TIER_OK && commits && run->counted)
        st = hub_contributors_commit(run, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
    else if (fresh)
        hub_receipt_audit(run->hub, &receipt);
}

void hub_rows_children(struct hub_run *run, const uint32_t *children, size_t count) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    enum tier_status st = tier_journal_begin_lazy(j, &err);

    for (size_t i = 0; i < count && st == TIER_OK; i++)
        st = put_child(run, children[i], false, &err);
    if (st == TIER_OK)
        st = put_round(run, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}
