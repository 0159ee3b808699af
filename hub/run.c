/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run at a hub: who takes part, which round is open, what its parent wants. The top wants a round
 * itself; any other hub is asked for one by its parent. From there on both do the same.
 */
#include "hub/work.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/manifest.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* A hub leaves a fifth of what its parent grants to its own fold and push. */
#define DEADLINE_SHARE_NUM 4
#define DEADLINE_SHARE_DEN 5
#define PART_AT 8

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

const char *hub_run_state_text(enum hub_run_state state) {
    static const char *const text[] = {"open", "completed", "stopped", "failed"};
    return (unsigned)state < 4 ? text[state] : "unknown";
}

/* ---- children ---- */

static uint32_t child_number(struct hub_run *run, const char *name) {
    for (size_t i = 0; i < run->child_count; i++)
        if (strcmp(run->children[i].name, name) == 0)
            return (uint32_t)i;
    run->children = need(realloc(run->children, (run->child_count + 1) * sizeof *run->children));
    struct hub_child *c = &run->children[run->child_count];
    *c = (struct hub_child){0};
    snprintf(c->name, sizeof c->name, "%s", name);
    return (uint32_t)run->child_count++;
}

/* Valid until the next new child. */
static struct hub_child *child_of(struct hub_run *run, const char *name) {
    uint32_t number = child_number(run, name); /* may move the array */
    return &run->children[number];
}

static void tell_end(struct hub_run *run, const char *child) {
    struct tier_to_child m = {.type = TIER_TO_END,
                              .run = run->id,
                              .completed = run->state == HUB_RUN_COMPLETED,
                              .model = run->model};
    snprintf(m.reason, sizeof m.reason, "%s", run->reason);
    tier_serve_send(run->hub->serve, child, &m);
}

static void tell_plan(struct hub_run *run, const char *child) {
    struct tier_to_child m = {.type = TIER_TO_PLAN,
                              .run = run->id,
                              .plan = (const uint8_t *)run->plan_text,
                              .plan_bytes = run->plan_bytes};
    tier_serve_send(run->hub->serve, child, &m);
}

/* ---- rounds ---- */

static void on_deadline(void *arg) {
    struct hub_run *run = arg;
    struct tier_round_event e = {.type = TIER_EVENT_DEADLINE};
    tier_log_info("run %.12s round %" PRIu64 ": the deadline has passed", run->hex,
                  run->round.number);
    hub_work_step(run, &e);
}

static void on_retry(void *arg) {
    hub_work_resume(arg);
}

/* As many as a fold adds in one pass, or as may arrive at a time. */
static uint32_t part_at(const struct hub_run *run) {
    uint64_t places = run->hub->config->hub.max_uploaders;
    if (tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->retain == TIER_PLAN_RETAIN_UPDATES)
        return 0;
    return places < PART_AT ? (uint32_t)places : PART_AT;
}

static struct tier_round_rules rules_of(const struct hub_run *run) {
    const struct tier_plan_tier *tier = tier_plan_tier_of(&run->plan, hub_is_top(run->hub));
    uint64_t most = run->plan.weight_total_max;

    if (run->rule && most > TIER_WEIGHT_MAX)
        most = TIER_WEIGHT_MAX; /* what one resealed update may weigh */
    return (struct tier_round_rules){.quorum = tier->quorum,
                                     .weight_total_max = most,
                                     .wait_when_empty = hub_is_top(run->hub),
                                     .part_at = part_at(run)};
}

static void set_deadline(struct hub_run *run, uint64_t left_ms) {
    run->deadline_at_ms = left_ms ? tier_clock_ms() + left_ms : 0;
    if (left_ms)
        tier_timer_set(run->deadline, left_ms);
    else
        tier_timer_cancel(run->deadline);
}

static void open_round(struct hub_run *run) {
    struct tier_round_rules rules = rules_of(run);
    uint64_t own_ms = tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->deadline_s * 1000;
    uint64_t granted_ms = 0;

    if (run->deadline_at_ms) { /* the parent's, noted when it asked */
        uint64_t now = tier_clock_ms();
        granted_ms = run->deadline_at_ms > now ? run->deadline_at_ms - now : 1;
        granted_ms = granted_ms * DEADLINE_SHARE_NUM / DEADLINE_SHARE_DEN + 1;
    }
    if (own_ms && (!granted_ms || own_ms < granted_ms))
        granted_ms = own_ms;

    tier_round_release(&run->round);
    tier_round_init(&run->round, run->wanted_round, &rules);
    run->base_model = run->wanted_base;
    run->wanted_round = 0;
    for (uint32_t i = 0; i < run->child_count; i++) {
        run->children[i].phase[0] = '\0';
        run->children[i].done = run->children[i].total = 0;
        if (run->children[i].accepted)
            tier_round_restore_child(&run->round, i, TIER_CHILD_EXPECTED, NULL, 0);
    }
    hub_work_open_round(run);
    hub_work_journal_run(run);
    hub_audit(run->hub, "round.opened", "h:run", &run->id, "u:round", run->round.number, "h:base",
              &run->base_model);
    tier_log_info("run %.12s round %" PRIu64 ": open", run->hex, run->round.number);
    set_deadline(run, granted_ms);
    for (uint32_t i = 0; i < run->child_count; i++) {
        struct tier_round_event e = {.type = TIER_EVENT_JOIN, .child = i};
        if (run->children[i].accepted && run->children[i].attending)
            hub_work_step(run, &e);
    }
    hub_console_changed(run->hub, run);
}

/* Opens the wanted round once everything for it is here. */
static void open_if_ready(struct hub_run *run) {
    size_t ready = 0;

    if (run->state != HUB_RUN_OPEN || !run->wanted_round || !run->manifest)
        return;
    if (!tier_content_has(run->hub->home.models_dir, &run->wanted_base, TIER_CONTENT_MODEL))
        return;
    for (size_t i = 0; i < run->child_count; i++)
        ready += run->children[i].accepted && run->children[i].attending;
    /* Later rounds wait for their members by quorum and deadline, not here. */
    if (run->round.number || ready >= run->hub->config->hub.children_min)
        open_round(run);
}

static void want_round(struct hub_run *run, uint64_t round, const struct tier_hash *base) {
    run->wanted_round = round;
    run->wanted_base = *base;
    open_if_ready(run);
}

/* The round of this number is over: its result is published. */
static void commit_round(struct hub_run *run) {
    struct tier_round_event e = {.type = TIER_EVENT_COMMIT};
    struct tier_to_child m = {.type = TIER_TO_COMMIT, .run = run->id, .round = run->round.number};

    if (run->round.state == TIER_ROUND_COMMITTED)
        return;
    hub_work_step(run, &e);
    hub_audit(run->hub, "round.committed", "h:run", &run->id, "u:round", run->round.number,
              "h:model", &run->model);
    set_deadline(run, 0);
    for (size_t i = 0; i < run->child_count; i++)
        if (run->children[i].attending && run->children[i].accepted)
            tier_serve_send(run->hub->serve, run->children[i].name, &m);
    hub_work_release(run, run->round.number);
}

/* The model and the state beside it change together, here in memory and in the transaction that
 * commits the round. */
void hub_run_published(struct hub_run *run, const struct tier_hash *model,
                       const struct tier_hash *state, const struct tier_task_figures *figures) {
    uint64_t done = run->round.number;
    const char *stop = tier_task_stop(&run->plan, &run->stop, figures);

    if (stop) { /* the figures are of the base model, so that is the result */
        run->model = run->base_model;
        run->server_state = *state; /* of a round that does not count: goes with the run */
        hub_run_finish(run, HUB_RUN_COMPLETED, stop);
        return;
    }
    run->model = *model;
    run->server_state = *state;
    commit_round(run);
    hub_work_journal_run(run);
    if (done >= tier_task_rounds(&run->plan))
        hub_run_finish(run, HUB_RUN_COMPLETED, "every round is done");
    else
        want_round(run, done + 1, model);
}

void hub_run_finish(struct hub_run *run, enum hub_run_state state, const char *reason) {
    if (run->state != HUB_RUN_OPEN)
        return;
    run->state = state;
    snprintf(run->reason, sizeof run->reason, "%s", reason);
    run->wanted_round = 0;
    tier_timer_cancel(run->deadline);
    tier_timer_cancel(run->retry);
    hub_work_journal_run(run);
    hub_audit(run->hub, "run.ended", "h:run", &run->id, "s:state", hub_run_state_text(state),
              "s:reason", reason, "h:model", &run->model);
    tier_log_info("run %.12s: %s: %s", run->hex, hub_run_state_text(state), reason);
    for (size_t i = 0; i < run->child_count; i++)
        if (run->children[i].attending)
            tell_end(run, run->children[i].name);
    if (run->round.number)
        hub_work_release(run, run->round.number);
    hub_console_changed(run->hub, run);
}

/* ---- beginning ---- */

static struct hub_run *run_new(struct hub *hub, const struct tier_hash *id, const void *plan,
                               size_t plan_bytes) {
    struct hub_run *run = need(calloc(1, sizeof *run));
    run->hub = hub;
    run->id = *id;
    tier_hash_hex(id, run->hex);
    run->plan_text = need(malloc(plan_bytes + 1));
    memcpy(run->plan_text, plan, plan_bytes);
    run->plan_text[plan_bytes] = '\0';
    run->plan_bytes = plan_bytes;
    run->deadline = tier_timer_new(hub->loop, on_deadline, run);
    run->retry = tier_timer_new(hub->loop, on_retry, run);
    run->next = hub->runs;
    hub->runs = run;
    return run;
}

void hub_run_free(struct hub_run *run) {
    tier_timer_free(run->deadline);
    tier_timer_free(run->retry);
    tier_round_release(&run->round);
    tier_manifest_free(run->manifest);
    free(run->children);
    free(run->plan_text);
    free(run);
}

/* How this tier merges; a rule of the operator's own must have been loaded. */
static enum tier_status find_rule(struct hub_run *run, struct tier_err *err) {
    const struct tier_plan_merge *merge =
        &tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->merge;
    bool mean = !*merge->rule.own && merge->rule.choice == TIER_PLAN_MEAN;

    run->rule = tier_merge_rule_of(merge);
    if (!run->rule && !mean)
        return tier_fail(err, TIER_EPLAN,
                         "the plan merges by the rule %s, which this hub does not have: its "
                         "operator would load it with merge_plugins",
                         tier_plan_rule_text(merge));
    return TIER_OK;
}

/* With the graph here: the manifest. */
static enum tier_status prepare(struct hub_run *run, struct tier_err *err) {
    struct tier_graph *graph = NULL;
    struct tier_hash graph_hash;
    enum tier_status st;

    tier_hash_parse(run->plan.model_sha256, &graph_hash);
    char *path = tier_content_path(run->hub->home.models_dir, &graph_hash, TIER_CONTENT_GRAPH);
    TIER_TRY_OUT(tier_graph_open(path, &graph, err));
    TIER_TRY_OUT(tier_task_manifest(&run->plan, graph, &run->manifest, err));
out:
    tier_graph_free(graph);
    free(path);
    return st;
}

static void answer_parent(struct hub_run *run, bool accepted, const char *reason) {
    struct tier_from_child m = {.type = TIER_FROM_ANSWER, .run = run->id, .accepted = accepted};
    snprintf(m.reason, sizeof m.reason, "%s", reason);
    if (run->hub->link)
        tier_link_send(run->hub->link, &m);
}

static void graph_fetched(void *arg, enum tier_status st, const char *text) {
    struct hub_run *run = arg;
    struct tier_err err = {0};

    if (run->manifest || run->state != HUB_RUN_OPEN)
        return;
    if (st != TIER_OK)
        tier_fail(&err, st, "%s", text);
    else
        st = prepare(run, &err);
    if (st != TIER_OK) {
        tier_log_error("run %.12s: %s", run->hex, err.text);
        answer_parent(run, false, err.text);
        hub_run_finish(run, HUB_RUN_FAILED, err.text);
        return;
    }
    answer_parent(run, true, "");
    for (uint32_t i = 0; i < run->child_count; i++)
        if (run->children[i].attending)
            tell_plan(run, run->children[i].name);
    hub_work_resume(run);
    open_if_ready(run);
}

static void tell_attending(void *arg, const struct tier_serve_child_info *info) {
    hub_run_attending(arg, info->name);
}

enum tier_status hub_run_begin(struct hub *hub, const struct tier_hash *id, const void *plan,
                               size_t plan_bytes, struct hub_run **out, struct tier_err *err) {
    struct {
        struct tier_hash plan;
        uint8_t random[16];
    } birth = {0};
    struct tier_hash own_id;
    struct tier_plan parsed;

    TIER_TRY(tier_plan_parse(plan, plan_bytes, &parsed, err));
    if (!id) {
        tier_hash_data(plan, plan_bytes, &birth.plan);
        if (getrandom(birth.random, sizeof birth.random, 0) != (ssize_t)sizeof birth.random)
            return tier_fail_errno(err, TIER_EIO, "no randomness for a run's id");
        tier_hash_data(&birth, sizeof birth, &own_id);
        id = &own_id;
    }
    struct hub_run *run = run_new(hub, id, plan, plan_bytes);
    run->plan = parsed;
    run->created_ms = tier_wall_ms();
    enum tier_status st = find_rule(run, err);
    if (st == TIER_OK && hub_is_top(hub))
        st = prepare(run, err);
    if (st == TIER_OK) {
        struct tier_journal_run row = {.state = run->state, .created_ms = run->created_ms};
        memcpy(row.run, run->hex, sizeof row.run);
        row.model = run->model;
        st = tier_journal_run_add(hub->home.journal, &row, plan, plan_bytes, "", 0, err);
    }
    if (st != TIER_OK) {
        hub->runs = run->next;
        hub_run_free(run);
        return st;
    }
    hub_audit(hub, "run.begun", "h:run", id, "s:name", run->plan.name, "s:model",
              run->plan.model_sha256);
    tier_log_info("run %.12s: '%s' begins", run->hex, run->plan.name);
    tier_serve_each(hub->serve, tell_attending, run);
    if (out)
        *out = run;
    return TIER_OK;
}

/* ---- events from children ---- */

void hub_run_attending(struct hub_run *run, const char *child) {
    if (run->state != HUB_RUN_OPEN) {
        tell_end(run, child);
        return;
    }
    child_of(run, child)->attending = true;
    if (run->manifest) /* children fetch the graph from here: else when it has come */
        tell_plan(run, child);
    hub_console_changed(run->hub, run);
}

void hub_run_left(struct hub_run *run, const char *child) {
    struct tier_round_event e = {.type = TIER_EVENT_LEAVE, .child = child_number(run, child)};
    run->children[e.child].attending = false;
    hub_work_step(run, &e);
    hub_console_changed(run->hub, run);
}

void hub_run_answered(struct hub_run *run, const char *child, bool accepted, const char *reason) {
    struct tier_round_event e = {.child = child_number(run, child)};
    struct hub_child *c = &run->children[e.child];

    if (run->state != HUB_RUN_OPEN)
        return;
    if (c->accepted != accepted || c->declined == accepted)
        hub_audit(run->hub, accepted ? "run.accepted" : "run.declined", "h:run", &run->id,
                  "s:child", child, "s:reason", reason);
    if (c->accepted != accepted && (c->accepted || c->declined))
        hub_fault(run->hub, child);
    c->accepted = accepted;
    c->declined = !accepted;
    c->attending = true;
    if (!accepted)
        tier_log_warn("run %.12s: %s declines: %s", run->hex, child, reason);
    e.type = accepted ? TIER_EVENT_JOIN : TIER_EVENT_DECLINE;
    if (run->round.number && run->round.state != TIER_ROUND_COMMITTED)
        hub_work_step(run, &e);
    open_if_ready(run);
    hub_console_changed(run->hub, run);
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

void hub_run_offered(struct hub_run *run, const char *child, const struct tier_hash *id,
                     const struct tier_update_header *h) {
    struct tier_round_event e = {.type = TIER_EVENT_OFFER,
                                 .child = child_number(run, child),
                                 .update = *id,
                                 .weight = h->weight};
    struct tier_err err = {0};

    if (run->state != HUB_RUN_OPEN) {
        tell_end(run, child);
    } else if (!run->manifest) {
        tier_log_info("run %.12s: %s offers before the graph is here", run->hex, child);
    } else if (h->round == 0) {
        refuse(run, child, 1, id, "an update of round 0: the first is 1");
    } else if (h->round < run->round.number ||
               (h->round == run->round.number && run->round.state == TIER_ROUND_COMMITTED)) {
        struct tier_to_child m = {.type = TIER_TO_COMMIT, .run = run->id, .round = h->round};
        if (h->round == run->round.number &&
            tier_hash_equal(&tier_round_child(&run->round, e.child)->update, id))
            hub_work_step(run, &e); /* the receipt, if the stream was lost before it went out */
        tier_serve_send(run->hub->serve, child, &m);
    } else if (h->round > run->round.number) {
        refuse(run, child, h->round, id, "that round is not open here");
    } else if (!tier_hash_equal(&h->base_model, &run->base_model)) {
        refuse(run, child, h->round, id, "it was made from another base model than this round's");
    } else if (tier_task_encoding_check(&run->plan, h->encoding, &err) != TIER_OK ||
               tier_update_header_check(h, run->manifest, &err) != TIER_OK ||
               tier_task_metrics_check(h->metrics, &err) != TIER_OK) {
        refuse(run, child, h->round, id, err.text);
    } else {
        hub_work_step(run, &e);
    }
}

void hub_run_declined(struct hub_run *run, const char *child, uint64_t round, const char *reason) {
    struct tier_round_event e = {.type = TIER_EVENT_DECLINE, .child = child_number(run, child)};
    enum tier_round_child_state now = tier_round_child(&run->round, e.child)->state;
    if (round != run->round.number || run->state != HUB_RUN_OPEN || now == TIER_CHILD_DECLINED)
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
    if (round != run->round.number)
        return;
    snprintf(c->phase, sizeof c->phase, "%s", phase);
    c->done = done;
    c->total = total;
    hub_console_changed(run->hub, run);
}

void hub_run_arrived(struct hub_run *run, const char *child, const struct tier_hash *id,
                     const struct tier_update_header *h, bool checked) {
    struct tier_round_event e = {.type = TIER_EVENT_SEALED, .update = *id, .weight = h->weight};

    if (run->state != HUB_RUN_OPEN || !run->manifest || h->round != run->round.number) {
        hub_work_drop(run, child, id);
        return;
    }
    e.child = child_number(run, child);
    if (checked)
        hub_work_step(run, &e);
    else
        hub_work_check(run, e.child, id, h->weight);
}

/* ---- from the parent ---- */

static void base_fetched(void *arg, enum tier_status st, const char *text) {
    struct hub_run *run = arg;
    if (st != TIER_OK)
        tier_log_error("run %.12s: the base model cannot be had: %s", run->hex, text);
    open_if_ready(run);
}

void hub_run_round(struct hub_run *run, uint64_t round, const struct tier_hash *base,
                   uint64_t deadline_ms) {
    if (run->state != HUB_RUN_OPEN || round < run->round.number || round == run->wanted_round)
        return;
    if (round == run->round.number) {
        hub_work_resume(run); /* the stream was lost: say again what the parent may have missed */
        return;
    }
    if (run->round.number) {
        run->model = *base;
        commit_round(run);
    }
    run->deadline_at_ms = deadline_ms ? tier_clock_ms() + deadline_ms : 0;
    run->wanted_round = round;
    run->wanted_base = *base;
    tier_link_fetch(run->hub->link, base, TIER_CONTENT_MODEL, base_fetched, run);
}

void hub_run_receipt(struct hub_run *run, const struct tier_receipt *r) {
    struct tier_err err = {0};
    struct hub *hub = run->hub;
    if (tier_home_check_receipt(&hub->home, tier_link_parent_cert(hub->link), r, &err) != TIER_OK) {
        tier_log_error("the parent's receipt is not valid: %s", err.text);
        hub_audit(hub, "receipt.invalid", "h:run", &run->id, "u:round", r->round, "s:reason",
                  err.text);
        return;
    }
    if (tier_journal_sent_set_state(run->hub->home.journal, run->hex, r->round, &r->update,
                                    TIER_SENT_RECEIVED, &err) != TIER_OK &&
        err.status != TIER_ENOTFOUND)
        hub_stop_on(run->hub, &err);
    hub_audit(run->hub, "receipt", "h:run", &run->id, "u:round", r->round, "h:update", &r->update,
              "s:parent", r->parent);
}

void hub_run_refused(struct hub_run *run, uint64_t round, const char *reason) {
    tier_log_warn("run %.12s round %" PRIu64 ": the parent refuses our update: %s", run->hex, round,
                  reason);
    hub_audit(run->hub, "refused", "h:run", &run->id, "u:round", round, "s:reason", reason);
}

void hub_run_committed(struct hub_run *run, uint64_t round) {
    if (run->state == HUB_RUN_OPEN && run->round.number == round)
        commit_round(run);
}

/* ---- restoring ---- */

struct restore {
    struct hub_run *run;
    bool folded; /* what the journal says was folded is in a sum that is whole */
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
    const struct restore *restore = arg;
    struct hub_run *run = restore->run;
    struct tier_spool *spool = run->hub->home.spool;
    uint32_t child = child_number(run, row->child);
    enum tier_round_child_state state = TIER_CHILD_EXPECTED;
    struct tier_err why = {0};
    (void)err;

    run->children[child].accepted = true;
    if (row->state == TIER_UPDATE_REFUSED) {
        state = tier_hash_is_zero(&row->update_id) ? TIER_CHILD_DECLINED : TIER_CHILD_REFUSED;
    } else if (row->state == TIER_UPDATE_FOLDED && restore->folded) {
        state = TIER_CHILD_FOLDED;
    } else if (row->state == TIER_UPDATE_SEALED && whole(spool, &row->update_id, &why)) {
        state = TIER_CHILD_SEALED;
    } else if (row->state != TIER_UPDATE_WANTED) {
        tier_log_warn("run %.12s: the update of %s is wanted again: %s", run->hex, row->child,
                      why.status ? why.text : "the sum that it was in is damaged");
        tier_spool_delete(spool, &row->update_id, NULL);
    }
    tier_round_restore_child(&run->round, child, state, &row->update_id, row->weight);
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

static enum tier_status restore_round(struct hub_run *run, uint64_t number, struct tier_err *err) {
    struct tier_journal_round row;
    struct tier_journal *j = run->hub->home.journal;
    struct tier_round_rules rules = rules_of(run);

    TIER_TRY(tier_journal_round_get(j, run->hex, number, &row, err));
    tier_round_init(&run->round, number, &rules);
    run->base_model = row.base_model;
    enum tier_round_state state = (enum tier_round_state)row.state;
    struct restore restore = {.run = run,
                              .folded = state == TIER_ROUND_COMMITTED ||
                                        whole(run->hub->home.spool, &row.own_update, NULL)};
    TIER_TRY(tier_journal_update_each(j, run->hex, number, TIER_UPDATE_STATE_ANY, restore_child,
                                      &restore, err));
    struct tier_round_tally t = tier_round_tally(&run->round);
    if (state == TIER_ROUND_FOLDED && !restore.folded)
        state = TIER_ROUND_FOLDING;
    if (state == TIER_ROUND_FOLDING && t.sealed < t.active &&
        run->round.rules.quorum.kind == TIER_QUORUM_ALL)
        state = TIER_ROUND_OPEN; /* an update it would have folded is gone */
    bool closed = state != TIER_ROUND_OPEN && state != TIER_ROUND_FOLDING;
    tier_round_restore(&run->round, state, !closed && restore.folded ? &row.own_update : NULL,
                       closed ? &row.own_update : NULL);
    hub_work_restore_kept(run);
    if (state == TIER_ROUND_COMMITTED && !tier_hash_is_zero(&row.result_model))
        run->model = row.result_model;
    TIER_TRY(restore_state(run, &row, err));
    uint64_t deadline_ms = tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->deadline_s * 1000;
    if (state == TIER_ROUND_OPEN && deadline_ms) {
        int64_t left = row.opened_ms + (int64_t)deadline_ms - tier_wall_ms();
        set_deadline(run, left > 0 ? (uint64_t)left : 1);
    }
    return TIER_OK;
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
    struct hub_run *run = run_new(hub, &id, plan.data, plan.bytes);
    tier_journal_blob_release(&plan);
    tier_journal_blob_release(&sig);
    TIER_TRY(tier_plan_parse(run->plan_text, run->plan_bytes, &run->plan, err));
    run->state = (enum hub_run_state)row->state;
    run->created_ms = row->created_ms;
    run->model = row->model;
    snprintf(run->reason, sizeof run->reason, "%s", row->detail);
    if (run->state != HUB_RUN_OPEN)
        return TIER_OK;
    TIER_TRY(find_rule(run, err));
    struct tier_err why = {0};
    st = prepare(run, &why); /* a hub that was killed before its graph came fetches it again */
    if (st != TIER_OK && hub_is_top(hub))
        return tier_fail(err, st, "%s", why.text);
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
        if (h && open && tier_hash_equal(&h->run, &run->id) && h->round == run->round.number)
            keep = keep || round_needs(run, id);
        if (h && run->state == HUB_RUN_OPEN && tier_hash_equal(id, &run->kept_update))
            keep = true;
    }
    tier_spool_update_close(u);
    return sealed ? keep : any_open;
}

enum tier_status hub_run_restore_all(struct hub *hub, struct tier_err *err) {
    hub_work_recover_audit(hub);
    TIER_TRY(tier_journal_run_each(hub->home.journal, restore_run, hub, err));
    TIER_TRY(tier_spool_sweep(hub->home.spool, keep_file, hub, err));
    hub_work_sweep_models(hub);
    for (struct hub_run *run = hub->runs; run; run = run->next) {
        if (run->state != HUB_RUN_OPEN)
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
            want_round(run, run->round.number + 1, &run->model);
    }
    return TIER_OK;
}

void hub_run_want_graph(struct hub_run *run) {
    struct tier_hash graph;
    if (run->manifest) {
        answer_parent(run, true, "");
        return;
    }
    tier_hash_parse(run->plan.model_sha256, &graph);
    tier_link_fetch(run->hub->link, &graph, TIER_CONTENT_GRAPH, graph_fetched, run);
}

void hub_run_first_round(struct hub_run *run) {
    if (tier_hash_is_zero(&run->model))
        hub_work_first_model(run); /* and then this again */
    else
        want_round(run, 1, &run->model);
}
