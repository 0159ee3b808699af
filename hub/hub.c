/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two sides of the edge, meeting: what children say goes to the run it is about, what the
 * parent says too. A hub without a parent is the top; nothing else differs here.
 */
#include "hub/attest.h"
#include "hub/secure.h"
#include "hub/shares.h"
#include "hub/validation.h"
#include "hub/work.h"
#include "tier/log.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENDED_RUNS_TOLD 64

bool hub_is_top(const struct hub *hub) {
    return hub->link == NULL;
}

struct hub_run *hub_run_find(const struct hub *hub, const struct tier_hash *id) {
    for (struct hub_run *run = hub->runs; run; run = run->next)
        if (tier_hash_equal(&run->id, id))
            return run;
    return NULL;
}

void hub_stop_on(struct hub *hub, const struct tier_err *err) {
    if (!hub->failed)
        tier_log_error("stopping: %s", err->text);
    hub->failed = true;
    tier_loop_stop(hub->loop);
}

void hub_audit_sync(struct hub *hub) {
    struct tier_err err = {0};
    if (tier_audit_sync_now(hub->home.audit, &err) != TIER_OK)
        hub_stop_on(hub, &err);
}

/* ---- faults ---- */

#define FAULTS_MAX 256 /* one a second is forgotten */

struct hub_record {
    char name[TIER_NAME_LEN_MAX + 1];
    uint64_t faults, at_ms;
    struct tier_heads_edge edge;
    struct hub_record *next;
};

static struct hub_record *record_of(struct hub *hub, const char *child) {
    uint32_t slot = 2166136261u; /* FNV-1a */
    for (const char *p = child; *p; p++)
        slot = (slot ^ (uint8_t)*p) * 16777619u;
    struct hub_record **head = &hub->records[slot % HUB_RECORDS], *r = *head;
    while (r && strcmp(r->name, child) != 0)
        r = r->next;
    if (!r) { /* as many as the authority has names */
        r = calloc(1, sizeof *r);
        if (!r)
            abort();
        snprintf(r->name, sizeof r->name, "%s", child);
        r->at_ms = tier_clock_ms();
        r->next = *head;
        *head = r;
    }
    uint64_t now = tier_clock_ms(), forgotten = (now - r->at_ms) / 1000;
    r->faults -= forgotten < r->faults ? forgotten : r->faults;
    r->at_ms += forgotten * 1000;
    return r;
}

struct tier_heads_edge *hub_edge_of(struct hub *hub, const char *child) {
    return &record_of(hub, child)->edge;
}

void hub_fault(struct hub *hub, const char *child) {
    struct hub_record *r = record_of(hub, child);
    if (++r->faults > FAULTS_MAX)
        tier_serve_dismiss(hub->serve, child, TIER_EPOLICY,
                           "too many refused or contradictory messages: come back later");
}

static void records_free(struct hub *hub) {
    for (size_t i = 0; i < HUB_RECORDS; i++) {
        while (hub->records[i]) {
            struct hub_record *r = hub->records[i];
            hub->records[i] = r->next;
            free(r);
        }
    }
}

/* ---- from children ---- */

static enum tier_status child_attending(void *owner, const char *child, struct tier_err *err) {
    struct hub *hub = owner;
    const struct tier_keys_list *allowed = &hub->config->hub.children;
    bool ok = allowed->count == 0;

    for (size_t i = 0; i < allowed->count && !ok; i++)
        ok = fnmatch(tier_keys_list_item(allowed, i), child, 0) == 0;
    if (!ok)
        return tier_fail(err, TIER_EPOLICY,
                         "'%s' is not among the children this hub is configured to take", child);
    struct hub_record *r = record_of(hub, child);
    if (r->faults >= FAULTS_MAX)
        return tier_fail(err, TIER_EPOLICY,
                         "too many refused or contradictory messages, or streams that came and "
                         "went: come back later");
    r->faults++; /* a stream that comes and goes costs lines too */
    TIER_TRY(hub_heads_child(hub, child, err));
    tier_log_info("child %s attends", child);
    hub_audit(hub, "child.attends", "s:child", child);
    hub_revocations_tell(hub, child);
    unsigned ended = 0; /* only the newest are worth telling: a child is not away for years */
    for (struct hub_run *run = hub->runs; run; run = run->next)
        if (run->state == HUB_RUN_OPEN || ended++ < ENDED_RUNS_TOLD)
            hub_run_attending(run, child);
    return TIER_OK;
}

static void child_left(void *owner, const char *child) {
    struct hub *hub = owner;
    tier_log_info("child %s left", child);
    hub_audit(hub, "child.left", "s:child", child);
    for (struct hub_run *run = hub->runs; run; run = run->next)
        if (run->state == HUB_RUN_OPEN)
            hub_run_left(run, child);
}

static void child_answered(void *owner, const char *child, const struct tier_hash *id,
                           bool accepted, bool waiting, const char *reason) {
    struct hub_run *run = hub_run_find(owner, id);
    if (run && waiting)
        hub_run_waits(run, child, reason);
    else if (run && accepted && run->state == HUB_RUN_OPEN && hub_attest_lacks(run, child))
        hub_attest_ask(run, child);
    else if (run)
        hub_run_answered(run, child, accepted, reason);
}

static void child_offered(void *owner, const char *child, const struct tier_hash *id,
                          const struct tier_update_header *header) {
    struct hub *hub = owner;
    struct hub_run *run = hub_run_find(hub, &header->run);
    struct tier_to_child unknown = {.type = TIER_TO_REFUSAL,
                                    .run = header->run,
                                    .round = header->round,
                                    .update = *id,
                                    .reason = "this parent does not know that run"};
    if (run) {
        hub_run_offered(run, child, id, header);
        return;
    }
    tier_log_warn("offer of %s refused: %s", child, unknown.reason);
    tier_serve_send(hub->serve, child, &unknown);
    hub_fault(hub, child);
}

static void child_declined(void *owner, const char *child, const struct tier_hash *id,
                           uint64_t round, const char *reason) {
    struct hub_run *run = hub_run_find(owner, id);
    if (run)
        hub_run_declined(run, child, round, reason);
}

static void child_withdrew(void *owner, const char *child, const struct tier_hash *id,
                           uint64_t round, const struct tier_hash *update, const char *reason) {
    struct hub_run *run = hub_run_find(owner, id);
    if (run)
        hub_run_withdrew(run, child, round, update, reason);
}

static void child_progressed(void *owner, const char *child, const struct tier_hash *id,
                             uint64_t round, const char *phase, uint32_t done, uint32_t total) {
    struct hub_run *run = hub_run_find(owner, id);
    if (run)
        hub_run_progressed(run, child, round, phase, done, total);
}

static void child_secured(void *owner, const char *child, const struct tier_hash *id,
                          uint64_t round, const struct tier_secure_body *body) {
    struct hub_run *run = hub_run_find(owner, id);
    if (run && !hub_attest_lacks(run, child))
        hub_secure_said(run, child, round, body);
    else
        hub_fault(owner, child);
}

static void child_quoted(void *owner, const char *child, const struct tier_from_child *m) {
    struct hub_run *run = hub_run_find(owner, &m->run);
    if (run)
        hub_attest_answered(run, child, m);
    else
        hub_fault(owner, child);
}

static void update_arrived(void *owner, const char *child, const struct tier_hash *id,
                           const struct tier_update_header *header, bool checked) {
    struct hub_run *run = hub_run_find(owner, &header->run);
    if (run)
        hub_run_arrived(run, child, id, header, checked);
}

static const struct tier_serve_events serve_events = {
    .attending = child_attending,
    .left = child_left,
    .answered = child_answered,
    .offered = child_offered,
    .declined = child_declined,
    .withdrew = child_withdrew,
    .progressed = child_progressed,
    .secured = child_secured,
    .quoted = child_quoted,
    .showed = hub_heads_from_child,
    .arrived = update_arrived,
};

/* ---- from the parent ---- */

static void link_up(void *owner, const char *parent) {
    if (hub_heads_up(owner))
        hub_audit((struct hub *)owner, "parent.attended", "s:parent", parent);
}

static void link_down(void *owner, const char *reason) {
    hub_audit((struct hub *)owner, "parent.lost", "s:reason", reason);
}

/* Runs that are over stay, for operators; what grows is bounded by how fast a parent may begin
 * them, and by how many may be open. */
static enum tier_status has_room(const struct hub *hub, struct tier_err *err) {
    size_t open = 0;
    for (const struct hub_run *run = hub->runs; run; run = run->next)
        open += run->state == HUB_RUN_OPEN;
    return open < TIER_RUNS_OPEN_MAX
               ? TIER_OK
               : tier_fail(err, TIER_ELIMIT,
                           "%zu runs are open here, as many as may be: end one of them first",
                           open);
}

static void plan_came(struct hub *hub, const struct tier_to_child *m) {
    struct hub_run *run = hub_run_find(hub, &m->run);
    struct tier_err err = {0};

    tier_link_fault(hub->link); /* a plan is work, and is said once a stream */
    if (!run &&
        (has_room(hub, &err) != TIER_OK ||
         hub_run_begin(hub, &m->run,
                       &(struct hub_plan){m->plan, m->plan_bytes, m->signature, m->signature_bytes},
                       &run, &err) != TIER_OK)) {
        struct tier_from_child answer = {.type = TIER_FROM_ANSWER, .run = m->run};
        snprintf(answer.reason, sizeof answer.reason, "%s", err.text);
        tier_log_error("plan refused: %s", err.text);
        tier_link_send(hub->link, &answer);
        tier_link_fault(hub->link);
        return;
    }
    if (m->plan_bytes != run->plan_bytes || memcmp(m->plan, run->plan_text, m->plan_bytes) != 0) {
        tier_log_warn("parent %s: another plan for run %.12s, which goes on by its first",
                      hub->config->parent_name, run->hex);
        tier_link_fault(hub->link);
        return;
    }
    hub_run_want_graph(run);
}

static void link_message(void *owner, const struct tier_to_child *m) {
    struct hub *hub = owner;
    const struct tier_hash *id = m->type == TIER_TO_RECEIPT ? &m->receipt.run : &m->run;
    struct hub_run *run = hub_run_find(hub, id);
    struct tier_err err = {0};

    if (m->type == TIER_TO_HEAD) {
        hub_heads_from_parent(hub, &m->head);
        return;
    }
    hub->above.due = hub->above.due || m->type == TIER_TO_COMMIT || m->type == TIER_TO_END;
    if (m->type == TIER_TO_REVOCATIONS) {
        if (hub_revocations_came(hub, m->crl, m->crl_bytes, &err) != TIER_OK) {
            tier_log_error("parent %s: %s", hub->config->parent_name, err.text);
            hub_audit(hub, "revocations.refused", "s:reason", err.text);
            tier_link_fault(hub->link);
        }
        return;
    }
    if (m->type == TIER_TO_PLAN)
        plan_came(hub, m);
    else if (!run && m->type != TIER_TO_END) { /* a parent tells every child what has ended */
        tier_log_warn("parent %s: a message about a run that it has sent no plan of",
                      hub->config->parent_name);
        tier_link_fault(hub->link);
    }
    if (!run)
        return;
    switch (m->type) {
    case TIER_TO_ROUND: {
        const struct tier_follow_target base = {m->model, m->delta, m->delta_base};
        hub_run_round(run, m->round, &base, m->deadline_ms);
        break;
    }
    case TIER_TO_RECEIPT:
        hub_run_receipt(run, &m->receipt);
        break;
    case TIER_TO_REFUSAL:
        hub_run_refused(run, m->round, m->reason);
        break;
    case TIER_TO_COMMIT:
        hub_run_committed(run, m->round, m->missed, m->by_receipt);
        break;
    case TIER_TO_CHALLENGE:
        hub_attest_asked(run, m);
        break;
    case TIER_TO_SECURE: /* hubs have no part in sums behind masks */
        tier_link_fault(hub->link);
        break;
    case TIER_TO_END:
        if (run->state == HUB_RUN_OPEN)
            run->model = m->model;
        hub_run_finish(run, m->completed ? HUB_RUN_COMPLETED : HUB_RUN_STOPPED, m->reason);
        break;
    default:
        break;
    }
}

static void push_failed(void *owner, const struct tier_hash *update, bool for_good,
                        const char *reason) {
    struct hub *hub = owner;
    tier_log_warn("push to the parent failed%s: %s", for_good ? " for good" : "", reason);
    hub_audit(hub, "push.failed", "h:update", update, "b:for_good", (int)for_good, "s:reason",
              reason);
}

static const struct tier_link_events link_events = {
    .up = link_up,
    .down = link_down,
    .message = link_message,
    .push_failed = push_failed,
};

/* ---- life cycle ---- */

/* The operator's own merge rules. Which code took part belongs into the audit log. */
static enum tier_status load_rules(struct hub *hub, struct tier_err *err) {
    const struct tier_keys_list *paths = &hub->config->hub.merge_plugins;

    for (size_t i = 0; i < paths->count; i++) {
        const struct tier_merge_ops *rule = NULL;
        struct tier_hash file;
        TIER_TRY(tier_merge_load(tier_keys_list_item(paths, i), &rule, &file, err));
        tier_log_info("merge rule %s from %s", rule->name, tier_keys_list_item(paths, i));
        hub_audit(hub, "rule.loaded", "s:rule", rule->name, "s:path", tier_keys_list_item(paths, i),
                  "h:file", &file);
    }
    return TIER_OK;
}

static enum tier_status open_edges(struct hub *hub, struct tier_err *err) {
    const struct tier_config *c = hub->config;
    bool shares = !c->hub.console_listen[0]; /* operators call on this port too */
    struct tier_rpc_method more[32];
    size_t more_count = HUB_AUTHORITY_METHODS + (shares ? hub_console_method_count : 0);

    assert(more_count <= sizeof more / sizeof more[0]);
    memcpy(more, hub_authority_methods, sizeof hub_authority_methods);
    if (shares)
        memcpy(more + HUB_AUTHORITY_METHODS, hub_console_methods,
               hub_console_method_count * sizeof more[0]);
    const struct tier_serve_options below = {.name = c->name,
                                             .address = c->hub.listen,
                                             .tls = tier_home_tls(&hub->home),
                                             .keepalive = &hub->home.keepalive,
                                             .models_dir = hub->home.models_dir,
                                             .intake = hub->intake,
                                             .max_uploaders = (unsigned)c->hub.max_uploaders,
                                             .guard = tier_home_admit,
                                             .guard_arg = &hub->home,
                                             .more = more,
                                             .more_count = more_count};
    const struct tier_link_options above = {.name = c->name,
                                            .parent_name = c->parent_name,
                                            .parent_address = c->parent_address,
                                            .tls = tier_home_tls(&hub->home),
                                            .keepalive = &hub->home.keepalive,
                                            .models_dir = hub->home.models_dir,
                                            .intake = hub->intake,
                                            .guard = tier_home_admit,
                                            .guard_arg = &hub->home};

    TIER_TRY(
        tier_serve_new(hub->loop, &below, hub->home.spool, &serve_events, hub, &hub->serve, err));
    if (c->parent_address[0])
        TIER_TRY(
            tier_link_new(hub->loop, &above, hub->home.spool, &link_events, hub, &hub->link, err));
    TIER_TRY(hub_console_open(hub, err));
    TIER_TRY(hub_enroll_open(hub, err));
    return hub_standing_open(hub, err);
}

enum tier_status hub_open(const struct tier_config *config, struct tier_loop *loop, struct hub *out,
                          struct tier_err *err) {
    enum tier_status st;

    *out = (struct hub){.config = config, .loop = loop};
    TIER_TRY_OUT(tier_home_open(config, &out->home, err));
    TIER_TRY_OUT(hub_validation_prepare(&out->home, err));
    TIER_TRY_OUT(load_rules(out, err));
    TIER_TRY_OUT(tier_fold_devices_open(config->hub.fold_devices, (unsigned)config->threads,
                                        &out->fold_devices, err));
    if (out->fold_devices)
        tier_log_info("folding on %s", tier_fold_devices_text(out->fold_devices));
    TIER_TRY_OUT(tier_worker_new(loop, &out->worker, err));
    TIER_TRY_OUT(hub_shares_open(out, err));
    TIER_TRY_OUT(tier_intake_new(loop, tier_intake_threads(), &out->intake, err));
    TIER_TRY_OUT(open_edges(out, err));
    TIER_TRY_OUT(hub_run_restore_all(out, err));
    hub_run_check_signers(out);
    TIER_TRY_OUT(tier_home_note_started(&out->home, err));
    hub_work_expire(out);
    hub_audit_sync(out);
out:
    if (st != TIER_OK)
        hub_close(out);
    return st;
}

void hub_close(struct hub *hub) {
    atomic_store(&hub->closing, true);
    tier_worker_free(hub->worker);
    hub->worker = NULL;
    hub_shares_close(hub);
    tier_fold_devices_close(hub->fold_devices);
    hub->fold_devices = NULL;
    tier_timer_free(hub->standing);
    hub->standing = NULL;
    hub_console_close(hub);
    hub_enroll_close(hub);
    tier_serve_free(hub->serve);
    tier_link_free(hub->link);
    hub_standing_close(hub);
    tier_intake_free(hub->intake);
    while (hub->runs) {
        struct hub_run *run = hub->runs;
        hub->runs = run->next;
        hub_run_free(run);
    }
    records_free(hub);
    tier_ledger_close(hub->ledger);
    hub->ledger = NULL;
    tier_home_close(&hub->home);
    hub->serve = NULL;
    hub->link = NULL;
    hub->intake = NULL;
}
