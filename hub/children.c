/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run's children: what they are told of it, and what they say, as events of its round. Nothing of
 * a child's is kept before it was checked against the plan.
 */
#include "hub/attest.h"
#include "hub/card.h"
#include "hub/contributor.h"
#include "hub/run_private.h"
#include "hub/secure.h"
#include "hub/work.h"
#include "tier/log.h"
#include "tier/nova.h"
#include "tier/stale.h"
#include "tier/site.h"
#include "tier/statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

uint32_t hub_run_child_number(struct hub_run *run, const char *name) {
    for (size_t i = 0; i < run->child_count; i++)
        if (strcmp(run->children[i].name, name) == 0)
            return (uint32_t)i;
    run->children = need(realloc(run->children, (run->child_count + 1) * sizeof *run->children));
    struct hub_child *c = &run->children[run->child_count];
    *c = (struct hub_child){0};
    snprintf(c->name, sizeof c->name, "%s", name);
    c->record = hub_contributor_load(run, name);
    return (uint32_t)run->child_count++;
}

/* Valid until the next new child. */
static struct hub_child *child_of(struct hub_run *run, const char *name) {
    uint32_t number = hub_run_child_number(run, name); /* may move the array */
    return &run->children[number];
}

void hub_run_tell_end(struct hub_run *run, const char *child) {
    struct tier_to_child m = {.type = TIER_TO_END,
                              .run = run->id,
                              .completed = run->state == HUB_RUN_COMPLETED,
                              .model = run->model};
    snprintf(m.reason, sizeof m.reason, "%s", run->reason);
    tier_serve_send(run->hub->serve, child, &m);
}

void hub_run_tell_plan(struct hub_run *run, const char *child) {
    struct tier_to_child m = {.type = TIER_TO_PLAN,
                              .run = run->id,
                              .plan = (const uint8_t *)run->plan_text,
                              .plan_bytes = run->plan_bytes,
                              .signature = (const uint8_t *)run->signature,
                              .signature_bytes = run->signature_bytes};
    tier_serve_send(run->hub->serve, child, &m);
}

#define ANSWER_KEY_BYTES (TIER_HASH_HEX + TIER_NAME_LEN_MAX + 16)

static void answer_key(const struct hub_run *run, const char *child, char key[ANSWER_KEY_BYTES]) {
    snprintf(key, ANSWER_KEY_BYTES, "declined/%s/%s", run->hex, child);
}

/* A round's row says that a child gave nothing; whether it left the run with that is said here. */
void hub_run_journal_answer(struct hub_run *run, const char *child, bool accepted) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    char key[ANSWER_KEY_BYTES];

    answer_key(run, child, key);
    enum tier_status st =
        accepted ? tier_journal_kv_delete(j, key, &err) : tier_journal_kv_put(j, key, "", 0, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

/* Whether the child declined the plan before a restart. */
bool hub_run_answered_no(const struct hub_run *run, const char *child) {
    struct tier_journal_blob value = {0};
    char key[ANSWER_KEY_BYTES];

    answer_key(run, child, key);
    bool found = tier_journal_kv_get(run->hub->home.journal, key, &value, NULL) == TIER_OK;
    tier_journal_blob_release(&value);
    return found;
}

/* ---- what they say ---- */

void hub_run_tell_unsure(struct hub_run *run, const char *child) {
    const struct tier_to_child m = {.type = TIER_TO_COMMIT,
                                    .run = run->id,
                                    .round = run->unsure_round,
                                    .missed = true,
                                    .by_receipt = true};
    tier_serve_send(run->hub->serve, child, &m);
}

/* A child that was away may not have heard which update of its counted last. What it is told next
 * goes on from there. */
void hub_run_tell_counted(struct hub_run *run, const char *child) {
    struct tier_to_child m = {.type = TIER_TO_COMMIT, .run = run->id};
    struct tier_journal_update row = {.round = 0};
    struct tier_err err = {0};
    enum tier_status st =
        tier_journal_update_counted(run->hub->home.journal, run->hex, child, &row, &err);

    if (st == TIER_OK) {
        m.round = row.base_round;
        tier_serve_send(run->hub->serve, child, &m);
    } else if (st != TIER_ENOTFOUND)
        hub_stop_on(run->hub, &err);
    if (run->unsure_round > row.base_round)
        hub_run_tell_unsure(run, child);
}

void hub_run_attending(struct hub_run *run, const char *child) {
    if (run->state != HUB_RUN_OPEN) {
        hub_run_tell_end(run, child);
        return;
    }
    struct hub_child *c = child_of(run, child);
    c->attending = true;
    hub_attest_forget(run, c);
    if (run->manifest) { /* children fetch the graph from here: else when it has come */
        hub_run_tell_plan(run, child);
        hub_run_tell_counted(run, child);
    }
    hub_console_changed(run->hub, run);
}

void hub_run_left(struct hub_run *run, const char *child) {
    struct tier_round_event e = {.type = TIER_EVENT_LEAVE,
                                 .child = hub_run_child_number(run, child)};
    run->children[e.child].attending = false;
    hub_work_step(run, &e);
    hub_console_changed(run->hub, run);
}

void hub_run_answered(struct hub_run *run, const char *child, bool accepted, const char *reason) {
    struct tier_round_event e = {.child = hub_run_child_number(run, child)};
    struct hub_child *c = &run->children[e.child];

    if (run->state != HUB_RUN_OPEN)
        return;
    if (c->accepted != accepted || c->declined == accepted)
        hub_audit(run->hub, accepted ? "run.accepted" : "run.declined", "h:run", &run->id,
                  "s:child", child, "s:reason", reason);
    if (c->accepted != accepted && (c->accepted || c->declined))
        hub_fault(run->hub, child);
    if (c->declined == accepted)
        hub_run_journal_answer(run, child, accepted);
    c->accepted = accepted;
    c->declined = !accepted;
    c->waiting = false;
    c->attending = true;
    if (!accepted)
        tier_log_warn("run %.12s: %s declines: %s", run->hex, child, reason);
    e.type = accepted ? TIER_EVENT_JOIN : TIER_EVENT_DECLINE;
    if (run->round.number && (run->round.state != TIER_ROUND_COMMITTED || hub_run_buffers(run)))
        hub_work_step(run, &e);
    hub_run_open_if_ready(run);
    hub_console_changed(run->hub, run);
}

/* As one that has not answered, which nobody waits for; one that had answered takes that back. */
void hub_run_waits(struct hub_run *run, const char *child, const char *reason) {
    struct hub_child *c = child_of(run, child);

    if (run->state != HUB_RUN_OPEN)
        return;
    if (c->accepted || c->declined) {
        hub_run_answered(run, child, false, reason);
        return;
    }
    if (!c->waiting) {
        tier_log_info("run %.12s: %s waits for a person: %s", run->hex, child, reason);
        hub_audit(run->hub, "run.waits", "h:run", &run->id, "s:child", child, "s:reason", reason);
    }
    c->waiting = true;
    c->attending = true;
    snprintf(c->phase, sizeof c->phase, "%.*s", (int)sizeof c->phase - 1, reason);
    hub_console_changed(run->hub, run);
}

static void tell_withdrawn(struct hub_run *run, const char *child, uint64_t round,
                           const struct tier_hash *id, const char *why_not) {
    struct tier_to_child m = {.type = TIER_TO_REFUSAL,
                              .run = run->id,
                              .round = round,
                              .update = *id,
                              .withdrawn = !why_not};
    snprintf(m.reason, sizeof m.reason, "%s", why_not ? why_not : "withdrawn");
    tier_serve_send(run->hub->serve, child, &m);
}

void hub_run_withdrew(struct hub_run *run, const char *child, uint64_t round,
                      const struct tier_hash *update, const char *reason) {
    struct tier_round_event e = {
        .type = TIER_EVENT_WITHDRAW, .child = hub_run_child_number(run, child), .update = *update};
    struct hub_child *c = &run->children[e.child];
    const char *why_not = NULL;
    /* Of an update that was lost with its file, too: it counted once. */
    bool known = tier_hash_equal(&tier_round_child(&run->round, e.child)->update, update);

    if (run->state != HUB_RUN_OPEN)
        why_not = "the run is over";
    else if (round < hub_run_child_round(run, e.child))
        why_not = "the round is committed: its model holds the update, if that was in time";
    else if (round > hub_run_child_round(run, e.child))
        why_not = "that round is not open here";
    else if (c->has_early && tier_hash_equal(&c->early.update, update)) {
        hub_work_drop_early(run, e.child);
        known = true;
    } else
        why_not = tier_round_holds_fast(&run->round, e.child, update);
    tier_log_warn("run %.12s round %" PRIu64 ": %s withdraws its update%s%s: %s", run->hex, round,
                  child, why_not ? " in vain, since " : "", why_not ? why_not : "", reason);
    hub_audit(run->hub,
              why_not ? "withdrawal.refused"
              : known ? "update.withdrawn"
                      : "withdrawal.unknown", /* it never came here */
              "h:run", &run->id, "u:round", round, "s:child", child, "h:update", update, "s:reason",
              reason, "s:why", why_not);
    hub_fault(run->hub, child);
    if (!why_not) {
        const struct tier_round_child *now = tier_round_child(&run->round, e.child);
        if (now->state == TIER_CHILD_SEALED && tier_hash_equal(&now->update, update))
            hub_work_withdrawn(run);
        hub_work_step(run, &e);
    }
    tell_withdrawn(run, child, round, update, why_not);
}

static void refuse(struct hub_run *run, const char *child, uint64_t round,
                   const struct tier_hash *id, const char *reason) {
    struct tier_to_child m = {
        .type = TIER_TO_REFUSAL, .run = run->id, .round = round, .update = *id};
    snprintf(m.reason, sizeof m.reason, "%s", reason);
    tier_log_warn("run %.12s: offer of %s refused: %s", run->hex, child, reason);
    hub_audit(run->hub, "update.refused", "h:run", &run->id, "u:round", round, "s:child", child,
              "h:update", id, "s:reason", reason);
    tier_serve_send(run->hub->serve, child, &m);
    hub_fault(run->hub, child);
}

static bool has_counted(struct hub_run *run, const char *child, const struct tier_hash *id) {
    struct tier_journal_update row;

    return tier_journal_update_counted(run->hub->home.journal, run->hex, child, &row, NULL) ==
               TIER_OK &&
           tier_hash_equal(&row.update_id, id);
}

/* Whether an update of an older round counted is known: not where nothing of that round is here,
 * or where what this node delivered in it is lost. */
static bool knows_round(struct hub_run *run, uint64_t round) {
    struct tier_journal_round row;

    return tier_journal_round_get(run->hub->home.journal, run->hex, round, &row, NULL) == TIER_OK &&
           !row.by_receipt;
}

void hub_run_offered(struct hub_run *run, const char *child, const struct tier_hash *id,
                     const struct tier_update_header *h) {
    struct tier_round_event e = {.type = TIER_EVENT_OFFER,
                                 .child = hub_run_child_number(run, child),
                                 .update = *id,
                                 .weight = h->weight,
                                 .single = h->encoding != TIER_ENC_SUM};
    uint64_t at = hub_run_child_round(run, e.child);
    const struct tier_hash *base = hub_run_base_of(run, at);
    struct tier_err err = {0};

    if (run->state != HUB_RUN_OPEN) {
        hub_run_tell_end(run, child);
    } else if (!run->manifest) {
        tier_log_info("run %.12s: %s offers before the graph is here", run->hex, child);
    } else if (hub_attest_lacks(run, child)) {
        tier_log_info("run %.12s: %s offers before it has shown what it runs", run->hex, child);
    } else if (h->round == 0) {
        refuse(run, child, 1, id, "an update of round 0: the first is 1");
    } else if (h->round < at || (h->round == at && run->round.state == TIER_ROUND_COMMITTED &&
                                 !hub_run_still_at_work(run, e.child))) {
        struct tier_to_child m = {.type = TIER_TO_COMMIT,
                                  .run = run->id,
                                  .round = h->round,
                                  .missed = !has_counted(run, child, id)};
        m.by_receipt = m.missed && !knows_round(run, h->round);
        if (h->round == at && tier_hash_equal(&tier_round_child(&run->round, e.child)->update, id))
            hub_work_step(run, &e); /* the receipt, if the stream was lost before it went out */
        tier_serve_send(run->hub->serve, child, &m);
    } else if (h->round > at) {
        refuse(run, child, h->round, id, "that round is not open here");
    } else if (!base || !tier_hash_equal(&h->base_model, base)) {
        refuse(run, child, h->round, id, "it was made from another base model than this round's");
    } else if (tier_task_encoding_check(&run->plan, h->encoding, h->zipped, &err) != TIER_OK ||
               tier_update_header_check(h, run->manifest, &err) != TIER_OK ||
               tier_task_metrics_check(h->metrics, &err) != TIER_OK ||
               tier_task_classes_check(h->metrics, run->classes, &err) != TIER_OK ||
               tier_nova_check(&run->plan, h, &err) != TIER_OK ||
               tier_stale_check(&run->plan, h, &err) != TIER_OK ||
               tier_site_check(&run->plan, h, &err) != TIER_OK ||
               tier_statistics_check(&run->plan, h->metrics, &err) != TIER_OK) {
        refuse(run, child, h->round, id, err.text);
    } else if (hub_secure_offered(run, e.child, h, &err) != TIER_OK) {
        refuse(run, child, h->round, id, err.text);
        e.type = TIER_EVENT_DECLINE; /* these masks serve no other, and nobody is to wait for one */
        hub_work_step(run, &e);
    } else {
        hub_work_step(run, &e);
    }
}

void hub_run_declined(struct hub_run *run, const char *child, uint64_t round, const char *reason) {
    struct tier_round_event e = {.type = TIER_EVENT_DECLINE,
                                 .child = hub_run_child_number(run, child)};
    enum tier_round_child_state now = tier_round_child(&run->round, e.child)->state;
    if (round != hub_run_child_round(run, e.child) || run->state != HUB_RUN_OPEN ||
        now == TIER_CHILD_DECLINED)
        return;
    hub_fault(run->hub, child);
    tier_log_warn("run %.12s round %" PRIu64 ": %s delivers nothing: %s", run->hex, round, child,
                  reason);
    hub_audit(run->hub, "round.declined", "h:run", &run->id, "u:round", round, "s:child", child,
              "s:reason", reason);
    hub_work_step(run, &e);
}

void hub_run_progressed(struct hub_run *run, const char *child, uint64_t round, const char *phase,
                        uint32_t done, uint32_t total) {
    struct hub_child *c = child_of(run, child);
    if (round != hub_run_child_round(run, hub_run_child_number(run, child)))
        return;
    snprintf(c->phase, sizeof c->phase, "%s", phase);
    c->done = done;
    c->total = total;
    hub_console_changed(run->hub, run);
}

void hub_run_arrived(struct hub_run *run, const char *child, const struct tier_hash *id,
                     const struct tier_update_header *h, bool checked) {
    struct tier_round_event e = {.type = TIER_EVENT_SEALED,
                                 .child = hub_run_child_number(run, child),
                                 .update = *id,
                                 .weight = h->weight};

    if (run->state != HUB_RUN_OPEN || !run->manifest ||
        h->round != hub_run_child_round(run, e.child)) {
        hub_work_drop(run, child, id);
        return;
    }
    hub_card_heard(run, child, h);
    if (checked)
        hub_work_step(run, &e);
    else
        hub_work_check(run, e.child, id, h->weight);
}
