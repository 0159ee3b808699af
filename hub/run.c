/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run at a hub: who takes part, which round is open, what its parent wants. The top wants a round
 * itself; any other hub is asked for one by its parent. From there on both do the same.
 */
#include "hub/attest.h"
#include "hub/contributor.h"
#include "hub/noise.h"
#include "hub/run_private.h"
#include "hub/secure.h"
#include "hub/validation.h"
#include "hub/work.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/manifest.h"
#include "tier/nova.h"
#include "tier/retain.h"
#include "tier/signed.h"

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
#define DEADLINE_MS_MAX (UINT64_C(2592000) * 1000) /* a plan's longest, whatever a parent says */
#define PART_AT 8
#define FETCH_RETRY_MS 2000 /* our disk was full, or the parent has lost what it told of */

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

const char *hub_run_state_text(enum hub_run_state state) {
    static const char *const text[] = {"open", "completed", "stopped", "failed"};
    return (unsigned)state < 4 ? text[state] : "unknown";
}

/* ---- rounds ---- */

static void on_deadline(void *arg) {
    struct hub_run *run = arg;
    struct tier_round_event e = {.type = TIER_EVENT_DEADLINE};
    tier_log_info("run %.12s round %" PRIu64 ": the deadline has passed", run->hex,
                  run->round.number);
    hub_work_step(run, &e);
}

/* The base of the wanted round, or of the open one where that was damaged here. */
void hub_run_follow(struct hub_run *run) {
    const struct tier_follow_target own = {.model = run->base_model};

    run->follow.manifest = run->manifest;
    run->follow.bytes_max = tier_task_model_bytes_max(&run->plan);
    tier_follow_to(&run->follow, run->wanted_round ? &run->wanted : &own);
}

static bool lacks_base(const struct hub_run *run) {
    bool goes_on = run->round.number && run->round.state != TIER_ROUND_COMMITTED;
    return run->wanted_round ||
           (goes_on &&
            !tier_content_has(run->hub->home.models_dir, &run->base_model, TIER_CONTENT_MODEL));
}

static void on_retry(void *arg) {
    struct hub_run *run = arg;
    if (run->hub->link && lacks_base(run))
        hub_run_follow(run);
    hub_work_resume(run);
}

/* As many as a fold adds in one pass, or as may arrive at a time. */
static uint32_t part_at(const struct hub_run *run) {
    uint64_t places = run->hub->config->hub.max_uploaders;
    if (tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->retain == TIER_PLAN_RETAIN_UPDATES ||
        run->plan.secure.sums != TIER_PLAN_SECURE_NONE) /* masks cancel in the sum of all alone */
        return 0;
    return places < PART_AT ? (uint32_t)places : PART_AT;
}

bool hub_run_buffers(const struct hub_run *run) {
    return run->round.rules.staleness_max > 0;
}

bool hub_run_still_at_work(const struct hub_run *run, uint32_t child) {
    return hub_run_buffers(run) &&
           tier_round_carries(&run->round, child, run->round.number, &run->round.rules);
}

uint64_t hub_run_child_round(const struct hub_run *run, uint32_t child) {
    uint64_t base = tier_round_child(&run->round, child)->base;
    return base ? base : run->round.number;
}

const struct tier_hash *hub_run_base_of(const struct hub_run *run, uint64_t round) {
    if (round == run->round.number)
        return &run->base_model;
    for (size_t i = 0; i < run->before_count; i++)
        if (run->before[i].round == round)
            return &run->before[i].base_model;
    return NULL;
}

/* The evaluation at the end is of one model, so it takes nothing of an older one. */
struct tier_round_rules hub_run_rules(const struct hub_run *run, uint64_t round) {
    const struct tier_plan_tier *tier = tier_plan_tier_of(&run->plan, hub_is_top(run->hub));
    uint64_t most = run->plan.weight_total_max;

    if (run->rule && most > TIER_WEIGHT_MAX)
        most = TIER_WEIGHT_MAX; /* what one resealed update may weigh */
    return (struct tier_round_rules){
        .quorum = tier->quorum,
        .weight_total_max = most,
        .staleness_max = tier_task_trains(&run->plan, round) ? tier->staleness_max : 0,
        .wait_when_empty = hub_is_top(run->hub),
        .part_at = part_at(run),
        .masked = run->plan.secure.sums != TIER_PLAN_SECURE_NONE,
        .sealed_min = hub_secure_sealed_min(run)};
}

void hub_run_set_deadline(struct hub_run *run, uint64_t left_ms) {
    run->deadline_at_ms = left_ms ? tier_clock_ms() + left_ms : 0;
    if (left_ms)
        tier_timer_set(run->deadline, left_ms);
    else
        tier_timer_cancel(run->deadline);
}

/* What is left of the parent's time to this hub's children. */
static uint64_t share_of(uint64_t parent_ms) {
    return parent_ms * DEADLINE_SHARE_NUM / DEADLINE_SHARE_DEN + 1; /* at most DEADLINE_MS_MAX */
}

/* What is still at work on an older round goes on, as far as the rules of the next one allow. */
static void leave_behind(struct hub_run *run, uint64_t number,
                         const struct tier_round_rules *rules) {
    for (uint32_t i = 0; i < run->round.count; i++) {
        if (tier_round_carries(&run->round, i, number, rules))
            continue;
        if (hub_run_still_at_work(run, i))
            hub_work_abandon(run, i);
    }
}

void hub_run_remember_base(struct hub_run *run, uint64_t round, const struct tier_hash *model) {
    const size_t most = sizeof run->before / sizeof run->before[0];

    if (run->before_count == most) /* hub_work_release drops what nobody needs before that */
        run->before_count--;
    memmove(run->before + 1, run->before, run->before_count * sizeof run->before[0]);
    run->before[0] = (struct tier_fold_version){round, *model};
    run->before_count++;
}

static void begin_round(struct hub_run *run) {
    struct tier_round_rules rules = hub_run_rules(run, run->wanted_round);

    leave_behind(run, run->wanted_round, &rules);
    if (run->round.number) {
        hub_run_remember_base(run, run->round.number, &run->base_model);
        tier_round_next(&run->round, run->wanted_round, &rules);
    } else {
        tier_round_init(&run->round, run->wanted_round, &rules);
    }
    run->screened = (struct tier_hash){{0}};
    run->base_model = run->wanted.model;
    if (!tier_hash_equal(&run->base_delta, &run->wanted.delta))
        tier_delta_delete(run->hub->home.models_dir, &run->base_delta);
    bool has = tier_content_has(run->hub->home.models_dir, &run->wanted.delta, TIER_CONTENT_DELTA);
    run->base_delta = has ? run->wanted.delta : (struct tier_hash){{0}};
    run->base_before = run->wanted.base;
    run->wanted_round = 0;
    run->part_failures = 0;
    for (uint32_t i = 0; i < run->child_count; i++) {
        enum tier_round_child_state now = tier_round_child(&run->round, i)->state;
        if (!run->children[i].accepted && now != TIER_CHILD_NONE)
            tier_round_restore_child(&run->round, i, TIER_CHILD_NONE, NULL, 0, 0);
        else if (run->children[i].accepted && now == TIER_CHILD_NONE)
            tier_round_restore_child(&run->round, i, TIER_CHILD_EXPECTED, NULL, 0,
                                     run->round.number);
        if (hub_contributor_is_out(run, i))
            tier_round_keep_out(&run->round, i, true);
        if (hub_run_child_round(run, i) != run->round.number)
            continue;
        run->children[i].phase[0] = '\0';
        run->children[i].done = run->children[i].total = 0;
    }
}

static void open_round(struct hub_run *run) {
    uint64_t own_ms = tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->deadline_s * 1000;
    uint64_t granted_ms = 0;

    if (run->deadline_at_ms) { /* the parent's, noted when it asked */
        uint64_t now = tier_clock_ms();
        granted_ms = run->deadline_at_ms > now ? run->deadline_at_ms - now : 1;
        granted_ms = share_of(granted_ms);
    }
    if (own_ms && (!granted_ms || own_ms < granted_ms))
        granted_ms = own_ms;

    begin_round(run);
    hub_secure_begin(run);
    hub_work_open_round(run);
    hub_work_journal_run(run);
    hub_audit(run->hub, "round.opened", "h:run", &run->id, "u:round", run->round.number, "h:base",
              &run->base_model);
    tier_log_info("run %.12s round %" PRIu64 ": open", run->hex, run->round.number);
    hub_run_set_deadline(run, granted_ms);
    for (uint32_t i = 0; i < run->child_count; i++) {
        struct tier_round_event e = {.type = TIER_EVENT_JOIN, .child = i};
        if (run->children[i].accepted && run->children[i].attending &&
            hub_run_child_round(run, i) == run->round.number)
            hub_work_step(run, &e);
    }
    hub_work_take_early(run);
    hub_console_changed(run->hub, run);
}

/* Whether a round may open still: not after the plan's last day, nor when who signed it is revoked.
 * False with the reason. */
static bool may_open(const struct hub_run *run, char *why, size_t size) {
    if (tier_signed_revoked(run->signature, run->signature_bytes, run->hub->home.revoked, why,
                            size))
        return false;
    if (!tier_plan_expired(&run->plan, tier_wall_ms()))
        return true;
    tier_plan_expired_text(&run->plan, why, size);
    return false;
}

/* The top ends the run, a hub leaves it to its parent. */
static void expire(struct hub_run *run, const char *why) {
    struct tier_from_child m = {
        .type = TIER_FROM_DECLINE, .run = run->id, .round = run->wanted_round};

    snprintf(m.reason, sizeof m.reason, "%s", why);
    if (!run->hub->link) {
        hub_run_finish(run, HUB_RUN_STOPPED, m.reason);
        return;
    }
    run->wanted_round = 0;
    hub_audit(run->hub, "round.expired", "h:run", &run->id, "u:round", m.round, "s:reason",
              m.reason);
    tier_link_send(run->hub->link, &m);
}

/* Opens the wanted round once everything for it is here. */
void hub_run_open_if_ready(struct hub_run *run) {
    size_t ready = 0;
    char why[256];

    if (run->state != HUB_RUN_OPEN || !run->wanted_round || !run->manifest)
        return;
    if (!tier_content_has(run->hub->home.models_dir, &run->wanted.model, TIER_CONTENT_MODEL))
        return;
    for (size_t i = 0; i < run->child_count; i++)
        ready += run->children[i].accepted && run->children[i].attending;
    if (!may_open(run, why, sizeof why))
        expire(run, why);
    /* Later rounds wait for their members by quorum and deadline, not here. */
    else if (run->round.number || ready >= run->hub->config->hub.children_min)
        open_round(run);
}

void hub_run_want_round(struct hub_run *run, uint64_t round,
                        const struct tier_follow_target *base) {
    run->wanted_round = round;
    run->wanted = *base;
    hub_run_open_if_ready(run);
}

/*
 * The round of this number is over: its result is published, and holds this node's own update or
 * goes on without it, and so without its children's. It may hold one that this node made before it
 * lost its disk: which children are in that, only their receipts say.
 */
static void commit_round(struct hub_run *run, bool counted) {
    struct tier_round_event e = {.type = TIER_EVENT_COMMIT};
    struct tier_to_child m = {.type = TIER_TO_COMMIT, .run = run->id};

    if (run->round.state == TIER_ROUND_COMMITTED)
        return;
    run->counted = counted && run->round.state == TIER_ROUND_FOLDED;
    run->by_receipt = counted && !run->counted;
    if (run->by_receipt)
        run->unsure_round = run->round.number;
    m.by_receipt = run->by_receipt;
    hub_work_step(run, &e);
    hub_audit(run->hub, "round.committed", "h:run", &run->id, "u:round", run->round.number,
              "h:model", &run->model, "b:counted", (int)run->counted);
    hub_audit_sync(run->hub); /* with the journal, which has just waited: children let go now */
    hub_run_set_deadline(run, 0);
    for (uint32_t i = 0; i < run->child_count; i++) {
        enum tier_round_child_state now = tier_round_child(&run->round, i)->state;
        m.round = hub_run_child_round(run, i);
        m.missed = !run->counted || (now != TIER_CHILD_SEALED && now != TIER_CHILD_FOLDED);
        if (run->children[i].attending && run->children[i].accepted &&
            !hub_run_still_at_work(run, i)) {
            tier_serve_send(run->hub->serve, run->children[i].name, &m);
            hub_heads_tell(run->hub, run->children[i].name);
        }
    }
    hub_work_release(run, run->round.number);
}

/* The model and the state beside it change together, here in memory and in the transaction that
 * commits the round. */
void hub_run_published(struct hub_run *run, const struct tier_published *made,
                       const struct tier_task_figures *figures) {
    const struct tier_follow_target next = {made->model, made->delta, run->base_model};
    uint64_t done = run->round.number;
    const char *stop = tier_task_stop(&run->plan, &run->stop, figures);

    if (stop) { /* the figures are of the base model, so that is the result */
        run->model = run->base_model;
        run->server_state = made->state; /* of a round that does not count: goes with the run */
        tier_delta_delete(run->hub->home.models_dir, &made->delta);
        hub_run_finish(run, HUB_RUN_COMPLETED, stop);
        return;
    }
    run->model = made->model;
    run->server_state = made->state;
    commit_round(run, true);
    hub_work_journal_run(run);
    hub_noise_over(run, done + 1);
    if (done >= tier_task_rounds(&run->plan))
        hub_run_finish(run, HUB_RUN_COMPLETED, "every round is done");
    else
        hub_run_want_round(run, done + 1, &next);
}

void hub_run_skip(struct hub_run *run) {
    uint64_t done = run->round.number;

    tier_log_warn("run %.12s round %" PRIu64 ": skipped, the model stays as it was", run->hex,
                  done);
    hub_audit(run->hub, "round.skipped", "h:run", &run->id, "u:round", done);
    run->model = run->base_model;
    commit_round(run, false);
    hub_work_journal_run(run);
    if (done >= tier_task_rounds(&run->plan))
        hub_run_finish(run, HUB_RUN_COMPLETED, "every round is done, the last without a sum");
    else
        hub_run_want_round(run, done + 1, &(struct tier_follow_target){.model = run->model});
}

static void graph_fetched(void *arg, enum tier_status st, const char *text);

static void stop_fetching(struct hub_run *run) {
    struct tier_hash graph;
    tier_follow_stop(&run->follow);
    if (!run->manifest && tier_hash_parse(run->plan.model_sha256, &graph))
        tier_link_unfetch(run->hub->link, &graph, graph_fetched, run);
}

void hub_run_finish(struct hub_run *run, enum hub_run_state state, const char *reason) {
    if (run->state != HUB_RUN_OPEN)
        return;
    run->state = state;
    snprintf(run->reason, sizeof run->reason, "%s", reason);
    if (run->hub->link)
        stop_fetching(run);
    run->wanted_round = 0;
    tier_timer_cancel(run->deadline);
    tier_timer_cancel(run->retry);
    hub_work_journal_run(run);
    hub_audit(run->hub, "run.ended", "h:run", &run->id, "s:state", hub_run_state_text(state),
              "s:reason", reason, "h:model", &run->model);
    hub_audit_sync(run->hub);
    tier_log_info("run %.12s: %s: %s", run->hex, hub_run_state_text(state), reason);
    for (size_t i = 0; i < run->child_count; i++) {
        if (run->children[i].declined)
            hub_run_journal_answer(run, run->children[i].name, true); /* nobody will ask any more */
        if (run->children[i].attending) {
            hub_run_tell_end(run, run->children[i].name);
            hub_heads_tell(run->hub, run->children[i].name);
        }
    }
    if (run->round.number)
        hub_work_release(run, run->round.number);
    hub_secure_end(run);
    tier_delta_delete(run->hub->home.models_dir, &run->base_delta);
    tier_spool_forget_old(run->hub->home.spool);
    hub_console_changed(run->hub, run);
}

void hub_run_check_signers(struct hub *hub) {
    char why[256];

    for (struct hub_run *run = hub->runs; run && hub_is_top(hub); run = run->next)
        if (run->state == HUB_RUN_OPEN && tier_signed_revoked(run->signature, run->signature_bytes,
                                                              hub->home.revoked, why, sizeof why))
            hub_run_finish(run, HUB_RUN_STOPPED, why);
}

/* ---- beginning ---- */

static void base_fetched(void *arg, enum tier_status st, const char *text) {
    struct hub_run *run = arg;
    if (st == TIER_OK) {
        hub_run_open_if_ready(run);
    } else if (run->state == HUB_RUN_OPEN) {
        tier_log_error("run %.12s: the base model of round %" PRIu64
                       " cannot be had: %s; trying again in %d s",
                       run->hex, run->wanted_round ? run->wanted_round : run->round.number, text,
                       FETCH_RETRY_MS / 1000);
        tier_timer_set(run->retry, FETCH_RETRY_MS);
    }
}

struct hub_run *hub_run_new(struct hub *hub, const struct tier_hash *id,
                            const struct hub_plan *plan) {
    struct hub_run *run = need(calloc(1, sizeof *run));
    run->hub = hub;
    run->id = *id;
    tier_hash_hex(id, run->hex);
    run->plan_text = need(malloc(plan->bytes + 1));
    memcpy(run->plan_text, plan->text, plan->bytes);
    run->plan_text[plan->bytes] = '\0';
    run->plan_bytes = plan->bytes;
    if (plan->signature_bytes) {
        run->signature = need(malloc(plan->signature_bytes));
        memcpy(run->signature, plan->signature, plan->signature_bytes);
        run->signature_bytes = plan->signature_bytes;
    }
    run->deadline = tier_timer_new(hub->loop, on_deadline, run);
    run->retry = tier_timer_new(hub->loop, on_retry, run);
    run->follow = (struct tier_follow){.link = hub->link,
                                       .intake = hub->intake,
                                       .models_dir = hub->home.models_dir,
                                       .done = base_fetched,
                                       .arg = run};
    run->next = hub->runs;
    hub->runs = run;
    return run;
}

void hub_run_free(struct hub_run *run) {
    tier_timer_free(run->deadline);
    tier_timer_free(run->retry);
    hub_secure_free(run);
    tier_round_release(&run->round);
    tier_manifest_free(run->manifest);
    for (size_t i = 0; i < run->child_count; i++)
        free(run->children[i].record);
    free(run->children);
    free(run->plan_text);
    free(run->signature);
    free(run);
}

/* How this tier merges; a rule of the operator's own must have been loaded. */
enum tier_status hub_run_find_rule(struct hub_run *run, struct tier_err *err) {
    const struct tier_plan_merge *merge =
        &tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->merge;
    bool mean = !*merge->rule.own && merge->rule.choice == TIER_PLAN_MEAN;

    run->rule = tier_merge_rule_of(merge);
    if (!run->rule && !mean)
        return tier_fail(err, TIER_EPLAN,
                         "the plan merges by the rule %s, which this hub does not have: its "
                         "operator would load it with merge_plugins",
                         tier_plan_rule_text(merge));
    if (tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->screen.loss > 0 &&
        !hub_validation_has(run->hub->config))
        return tier_fail(err, TIER_EPLAN,
                         "the plan screens updates by the loss on this hub's own data, and its "
                         "operator has named none (validation.data)");
    return TIER_OK;
}

/* With the graph here: the manifest. */
enum tier_status hub_run_prepare(struct hub_run *run, struct tier_err *err) {
    struct tier_graph *graph = NULL;
    struct tier_hash graph_hash;
    enum tier_status st;

    tier_hash_parse(run->plan.model_sha256, &graph_hash);
    char *path = tier_content_path(run->hub->home.models_dir, &graph_hash, TIER_CONTENT_GRAPH);
    TIER_TRY_OUT(tier_graph_open(path, &graph, err));
    TIER_TRY_OUT(tier_task_manifest(&run->plan, graph, &run->manifest, err));
    run->classes = tier_graph_classes(graph);
    run->spots = tier_graph_outputs(graph) / run->classes;
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
        st = hub_run_prepare(run, &err);
    if (st != TIER_OK) {
        tier_log_error("run %.12s: %s", run->hex, err.text);
        answer_parent(run, false, err.text);
        hub_run_finish(run, HUB_RUN_FAILED, err.text);
        return;
    }
    answer_parent(run, true, "");
    for (uint32_t i = 0; i < run->child_count; i++)
        if (run->children[i].attending)
            hub_run_tell_plan(run, run->children[i].name);
    hub_work_resume(run);
    hub_run_open_if_ready(run);
}

static void tell_attending(void *arg, const struct tier_serve_child_info *info) {
    hub_run_attending(arg, info->name);
}

enum tier_status hub_run_begin(struct hub *hub, const struct tier_hash *id,
                               const struct hub_plan *plan, struct hub_run **out,
                               struct tier_err *err) {
    struct {
        struct tier_hash plan;
        uint8_t random[16];
    } birth = {0};
    char author[TIER_NAME_LEN_MAX + 1];
    struct tier_hash own_id;
    struct tier_plan parsed;

    TIER_TRY(tier_plan_parse(plan->text, plan->bytes, &parsed, err));
    tier_hash_data(plan->text, plan->bytes, &birth.plan);
    TIER_TRY(tier_signed_admit(&parsed, &birth.plan, plan->signature, plan->signature_bytes,
                               hub->home.node.ca, hub->home.revoked, hub->config->signed_plans,
                               tier_wall_ms(), author, err));
    if (!id) {
        if (getrandom(birth.random, sizeof birth.random, 0) != (ssize_t)sizeof birth.random)
            return tier_fail_errno(err, TIER_EIO, "no randomness for a run's id");
        tier_hash_data(&birth, sizeof birth, &own_id);
        id = &own_id;
    }
    struct hub_run *run = hub_run_new(hub, id, plan);
    run->plan = parsed;
    run->created_ms = tier_wall_ms();
    enum tier_status st = hub_secure_check(hub, &run->plan, err);
    if (st == TIER_OK)
        st = hub_attest_check(hub, &run->plan, err);
    if (st == TIER_OK)
        st = hub_run_find_rule(run, err);
    if (st == TIER_OK && hub_is_top(hub))
        st = hub_run_prepare(run, err);
    if (st == TIER_OK)
        st = tier_content_store(hub->home.retained_dir, TIER_CONTENT_PLAN, plan->text, plan->bytes,
                                &birth.plan, err);
    if (st == TIER_OK) {
        struct tier_journal_run row = {.state = run->state, .created_ms = run->created_ms};
        memcpy(row.run, run->hex, sizeof row.run);
        row.model = run->model;
        st = tier_journal_run_add(hub->home.journal, &row, plan->text, plan->bytes,
                                  run->signature ? run->signature : "", run->signature_bytes, err);
    }
    if (st != TIER_OK) {
        hub->runs = run->next;
        hub_run_free(run);
        return st;
    }
    hub_audit(hub, "run.begun", "h:run", id, "s:name", run->plan.name, "s:model",
              run->plan.model_sha256, "h:plan", &birth.plan, "s:author", *author ? author : NULL,
              "s:use", tier_plan_purpose_text(run->plan.governance.purpose));
    tier_log_info("run %.12s: '%s' begins", run->hex, run->plan.name);
    tier_serve_each(hub->serve, tell_attending, run);
    if (out)
        *out = run;
    return TIER_OK;
}

/* ---- from the parent ---- */

/* The parent says again how much time there is; a restart has forgotten it. */
static void rearm_deadline(struct hub_run *run, uint64_t parent_ms) {
    uint64_t left_ms = share_of(parent_ms);
    uint64_t at_ms = tier_clock_ms() + left_ms;

    if (run->round.state != TIER_ROUND_OPEN || parent_ms == 0)
        return;
    if (!run->deadline_at_ms || at_ms < run->deadline_at_ms)
        hub_run_set_deadline(run, left_ms);
}

/* What the parent said is not acted upon. The link forgives some of it, not any amount. */
static void not_heeded(struct hub_run *run, uint64_t round, const char *why) {
    tier_log_warn("run %.12s round %" PRIu64 ": parent %s: %s", run->hex, round,
                  run->hub->config->parent_name, why);
    tier_link_fault(run->hub->link);
}

/* A round above the open one says that it is over, as a commit does: that is the parent's to say.
 * It can neither bring a round back nor change what one starts from. */
static bool round_fits(struct hub_run *run, uint64_t round, const struct tier_hash *base) {
    bool wanted = run->wanted_round && round == run->wanted_round;
    bool open = run->round.number && round == run->round.number;
    const struct tier_hash *own = wanted ? &run->wanted.model : &run->base_model;

    if (run->state != HUB_RUN_OPEN)
        not_heeded(run, round, "the run is over here");
    else if (round > tier_task_rounds(&run->plan))
        not_heeded(run, round, "the plan has fewer rounds");
    else if (round < run->round.number || round < run->wanted_round)
        not_heeded(run, round, "a later round has begun");
    else if ((wanted || open) && !tier_hash_equal(own, base))
        not_heeded(run, round, "from another model than it began");
    else if (wanted || open) {
        tier_link_fault(run->hub->link); /* said again after a loss of the stream, and no oftener */
        return !wanted;
    } else
        return true;
    return false;
}

void hub_run_round(struct hub_run *run, uint64_t round, const struct tier_follow_target *base,
                   uint64_t deadline_ms) {
    if (!round_fits(run, round, &base->model))
        return;
    if (deadline_ms > DEADLINE_MS_MAX)
        deadline_ms = DEADLINE_MS_MAX;
    if (round == run->round.number) {
        rearm_deadline(run, deadline_ms);
        hub_work_resume(run); /* the stream was lost: say again what the parent may have missed */
        return;
    }
    if (run->round.number) {
        run->model = base->model;
        commit_round(run, false);
    }
    run->deadline_at_ms = deadline_ms ? tier_clock_ms() + deadline_ms : 0;
    run->wanted_round = round;
    run->wanted = *base;
    hub_run_follow(run);
}

void hub_run_receipt(struct hub_run *run, const struct tier_receipt *r) {
    struct tier_err err = {0};
    struct hub *hub = run->hub;
    if (tier_home_check_receipt(&hub->home, tier_link_parent_cert(hub->link), r, &err) != TIER_OK) {
        tier_log_error("the parent's receipt is not valid: %s", err.text);
        hub_audit(hub, "receipt.invalid", "h:run", &run->id, "u:round", r->round, "s:reason",
                  err.text);
        tier_link_fault(hub->link);
        return;
    }
    if (tier_hash_equal(&run->last_receipt, &r->update)) {
        tier_link_fault(hub->link); /* said again after a loss of the stream */
        return;
    }
    run->last_receipt = r->update;
    if (tier_journal_sent_set_state(run->hub->home.journal, run->hex, r->round, &r->update,
                                    TIER_SENT_RECEIVED, &err) != TIER_OK &&
        err.status != TIER_ENOTFOUND)
        hub_stop_on(run->hub, &err);
    if (tier_home_note_receipt(&hub->home, r, &err) != TIER_OK)
        hub_stop_on(hub, &err);
}

void hub_run_refused(struct hub_run *run, uint64_t round, const char *reason) {
    tier_log_warn("run %.12s round %" PRIu64 ": the parent refuses our update: %s", run->hex, round,
                  reason);
    hub_audit(run->hub, "refused", "h:run", &run->id, "u:round", round, "s:reason", reason);
    tier_link_fault(run->hub->link);
}

/* The parent tells of a round that counted before this node lost its disk. */
static void commit_lost(struct hub_run *run, uint64_t round) {
    struct tier_journal_round row = {.round = round,
                                     .state = TIER_ROUND_COMMITTED,
                                     .opened_ms = tier_wall_ms(),
                                     .closed_ms = tier_wall_ms(),
                                     .by_receipt = true};
    struct tier_err err = {0};

    tier_log_warn("run %.12s round %" PRIu64 ": counted, and nothing of it is here any more",
                  run->hex, round);
    memcpy(row.run, run->hex, sizeof row.run);
    if (tier_journal_round_put(run->hub->home.journal, &row, &err) != TIER_OK)
        hub_stop_on(run->hub, &err);
    run->unsure_round = round;
    for (size_t i = 0; i < run->child_count; i++)
        if (run->children[i].attending)
            hub_run_tell_unsure(run, run->children[i].name);
}

struct search {
    const struct tier_hash *update;
    bool found;
};

static enum tier_status see_received(void *arg, const struct tier_journal_sent *sent,
                                     struct tier_err *err) {
    struct search *search = arg;
    (void)err;
    search->found = search->found || tier_hash_equal(&sent->update_id, search->update);
    return TIER_OK;
}

/* Whether the parent gave a receipt for the open round's own update. */
static bool has_receipt(struct hub_run *run) {
    struct search search = {.update = &run->round.own_update};
    struct tier_err err = {0};

    if (tier_journal_sent_each(run->hub->home.journal, run->hex, TIER_SENT_RECEIVED, see_received,
                               &search, &err) != TIER_OK)
        hub_stop_on(run->hub, &err);
    return search.found;
}

void hub_run_committed(struct hub_run *run, uint64_t round, bool missed, bool by_receipt) {
    bool counted = !missed || by_receipt;

    if (run->state == HUB_RUN_OPEN && counted && run->round.number == 0 &&
        round <= tier_task_rounds(&run->plan))
        commit_lost(run, round);
    else if (run->state == HUB_RUN_OPEN && round > run->round.number && by_receipt)
        return; /* the parent cannot know that nothing of it was ever here */
    else if (run->state == HUB_RUN_OPEN && round > run->round.number)
        not_heeded(run, round, "a commit of a round that is not open here");
    else if (run->state != HUB_RUN_OPEN || round < run->round.number ||
             run->round.state == TIER_ROUND_COMMITTED)
        tier_link_fault(run->hub->link);
    else if (by_receipt && run->round.state == TIER_ROUND_FOLDED)
        commit_round(run, has_receipt(run));
    else
        commit_round(run, counted);
}

void hub_run_want_graph(struct hub_run *run) {
    struct tier_hash graph;
    if (run->manifest) {
        answer_parent(run, true, "");
        return;
    }
    tier_hash_parse(run->plan.model_sha256, &graph);
    tier_link_fetch(run->hub->link, &graph, TIER_CONTENT_GRAPH, run->plan.model_bytes,
                    graph_fetched, run);
}

void hub_run_first_round(struct hub_run *run) {
    if (tier_hash_is_zero(&run->model))
        hub_work_first_model(run); /* and then this again */
    else
        hub_run_want_round(run, 1, &(struct tier_follow_target){.model = run->model});
}
