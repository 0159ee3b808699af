/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a spoke hears from its parent, and its life from start to stop. Everything it has promised
 * is in the journal: a plan before it is answered (plans.c), a sealed update before it is offered
 * (rounds.c).
 */
#include "spoke/run_private.h"
#include "spoke/secure.h"
#include "spoke/state.h"
#include "tier/content.h"
#include "tier/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void spoke_stop_on(struct spoke *spoke, const struct tier_err *err) {
    if (!spoke->failed)
        tier_log_error("stopping: %s", err->text);
    spoke->failed = true;
    tier_loop_stop(spoke->loop);
}

struct spoke_run *spoke_run_find(struct spoke *spoke, const struct tier_hash *id) {
    for (struct spoke_run *run = spoke->runs; run; run = run->next)
        if (tier_hash_equal(&run->id, id))
            return run;
    return NULL;
}

void spoke_run_journal(struct spoke_run *run) {
    struct tier_journal_run row = {.state = run->state, .round = run->round};
    struct tier_err err = {0};
    memcpy(row.run, run->hex, sizeof row.run);
    row.model = run->base_model;
    snprintf(row.detail, sizeof row.detail, "%s",
             run->state == SPOKE_RUN_PENDING ? run->why
             : run->committed                ? SPOKE_ROUND_COMMITTED
                                             : "");
    if (tier_journal_run_set(run->spoke->home.journal, &row, &err) != TIER_OK)
        spoke_stop_on(run->spoke, &err);
}

void spoke_run_progress(struct spoke_run *run, const char *phase, uint32_t done) {
    struct tier_from_child m = {
        .type = TIER_FROM_PROGRESS, .run = run->id, .round = run->round, .done = done, .total = 1};
    snprintf(m.reason, sizeof m.reason, "%s", phase);
    tier_link_send(run->spoke->link, &m);
}

void spoke_not_heeded(struct spoke *spoke, const char *text) {
    tier_log_warn("parent %s: %s", spoke->config->parent_name, text);
    tier_link_fault(spoke->link);
}

/* ---- the link ---- */

/* What others said is their fault, the rest is ours. */
static void on_bad_head(struct spoke *spoke, const struct tier_err *err) {
    if (err->status == TIER_ECONFLICT || err->status == TIER_EIDENTITY)
        tier_link_drop(spoke->link, err->text);
    else
        spoke_stop_on(spoke, err);
}

static void link_up(void *owner, const char *parent) {
    struct spoke *spoke = owner;
    struct tier_from_child m = {.type = TIER_FROM_HEAD};
    struct tier_err err = {0};

    spoke->above = (struct tier_heads_edge){0};
    if (tier_heads_trust(&spoke->home, parent, tier_link_parent_cert(spoke->link), &err) !=
            TIER_OK ||
        tier_heads_begin(&spoke->home, &spoke->above, parent, &m.head, &err) != TIER_OK) {
        on_bad_head(spoke, &err);
        return;
    }
    tier_link_send(spoke->link, &m);
    spoke_audit(spoke, "parent.attended", "s:parent", parent);
}

/* What is said of this round is in the answer. */
static void head_came(struct spoke *spoke, const struct tier_head *head) {
    struct tier_from_child m = {.type = TIER_FROM_HEAD};
    struct tier_err err = {0};
    bool send, asked;

    if (tier_audit_sync_now(spoke->home.audit, &err) != TIER_OK ||
        tier_heads_came(&spoke->home, &spoke->above, spoke->config->parent_name,
                        tier_link_parent_cert(spoke->link), head, &m.head, &send, &asked,
                        &err) != TIER_OK) {
        on_bad_head(spoke, &err);
        return;
    }
    if (send)
        tier_link_send(spoke->link, &m);
    if (!asked)
        tier_link_fault(spoke->link);
}

static void link_down(void *owner, const char *reason) {
    spoke_audit((struct spoke *)owner, "parent.lost", "s:reason", reason);
}

static void push_failed(void *owner, const struct tier_hash *update, bool for_good,
                        const char *reason) {
    struct spoke *spoke = owner;
    tier_log_warn("push failed%s: %s", for_good ? " for good" : "", reason);
    spoke_audit(spoke, "push.failed", "h:update", update, "b:for_good", (int)for_good, "s:reason",
                reason);
}

static void revocations_came(struct spoke *spoke, const struct tier_to_child *m) {
    struct tier_err err = {0};
    bool taken = false;

    if (tier_home_take_revocations(&spoke->home, m->crl, m->crl_bytes, &taken, &err) != TIER_OK) {
        spoke_audit(spoke, "revocations.refused", "s:reason", err.text);
        spoke_not_heeded(spoke, err.text);
    }
    if (!taken)
        return;
    spoke_audit(spoke, "revocations.taken", "u:number",
                tier_revocations_number(spoke->home.revoked), "u:count",
                (uint64_t)tier_revocations_count(spoke->home.revoked));
    tier_link_recheck(spoke->link);
}

static void link_message(void *owner, const struct tier_to_child *m) {
    struct spoke *spoke = owner;
    const struct tier_hash *id = m->type == TIER_TO_RECEIPT ? &m->receipt.run : &m->run;
    struct spoke_run *run = spoke_run_find(spoke, id);

    if (m->type == TIER_TO_HEAD) {
        head_came(spoke, &m->head);
        return;
    }
    spoke->above.due = spoke->above.due || m->type == TIER_TO_COMMIT || m->type == TIER_TO_END;
    if (m->type == TIER_TO_REVOCATIONS) {
        revocations_came(spoke, m);
        return;
    }
    if (m->type == TIER_TO_PLAN)
        spoke_plan_came(spoke, m);
    else if (!run && m->type != TIER_TO_END) /* a parent tells every child what has ended */
        spoke_not_heeded(spoke, "a message about a run that it has sent no plan of");
    if (!run)
        return;
    switch (m->type) {
    case TIER_TO_ROUND:
        spoke_round_came(run, m);
        break;
    case TIER_TO_RECEIPT:
        spoke_receipt_came(run, &m->receipt);
        break;
    case TIER_TO_REFUSAL:
        if (spoke_withdrawal_answered(run, m))
            break;
        tier_log_warn("run %.12s round %" PRIu64 ": the parent refuses the update: %s", run->hex,
                      m->round, m->reason);
        spoke_audit(spoke, "refused", "h:run", &run->id, "u:round", m->round, "h:update",
                    &m->update, "s:reason", m->reason);
        tier_link_fault(spoke->link);
        break;
    case TIER_TO_CHALLENGE:
        spoke_challenge_came(run, m);
        break;
    case TIER_TO_SECURE:
        spoke_secure_came(run, m);
        break;
    case TIER_TO_COMMIT:
        spoke_commit_came(run, m);
        break;
    case TIER_TO_END:
        spoke_end_came(run, m);
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

static void renewed(void *owner) {
    struct spoke *spoke = owner;
    spoke_audit(spoke, "certificate.renewed", "s:serial", spoke->home.node.id.serial);
}

static void overdue(void *owner, const char *why) {
    spoke_audit((struct spoke *)owner, "revocations.overdue", "s:why", why);
}

static const struct tier_renewal_events renewal_events = {.renewed = renewed, .overdue = overdue};

/* ---- life cycle ---- */

static enum tier_status restore_run(void *arg, const struct tier_journal_run *row,
                                    struct tier_err *err) {
    struct spoke *spoke = arg;
    struct tier_journal_blob plan = {0}, sig = {0};
    struct tier_hash id;

    if (!tier_hash_parse(row->run, &id))
        return tier_fail(err, TIER_ECORRUPT, "the journal names a run '%s'", row->run);
    struct spoke_run *run = spoke_run_new(spoke, &id);
    run->state = (enum spoke_run_state)row->state;
    run->round = row->round;
    run->base_model = row->model;
    run->committed = strcmp(row->detail, SPOKE_ROUND_COMMITTED) == 0;
    if (run->state == SPOKE_RUN_PENDING) {
        run->committed = false;
        memcpy(run->why, row->detail, sizeof run->why);
    }
    if (run->state != SPOKE_RUN_OPEN && run->state != SPOKE_RUN_PENDING)
        return TIER_OK;
    TIER_TRY(tier_journal_run_plan(spoke->home.journal, row->run, &plan, &sig, err));
    tier_hash_data(plan.data, plan.bytes, &run->plan_hash);
    enum tier_status st = tier_plan_parse(plan.data, plan.bytes, &run->plan, err);
    if (st == TIER_OK) /* as it was when it came; what has become of it since is said by rounds */
        spoke_run_admit(run, sig.data, sig.bytes, row->created_ms, NULL);
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

/* Who trains, on what, and who takes in what comes. */
static enum tier_status open_hands(struct spoke *s, struct tier_err *err) {
    const struct tier_config *config = s->config;

    if (*config->spoke.trainer_dir)
        TIER_TRY(spoke_trainer_open(config, s->loop, &s->trainer, err));
    else
        TIER_TRY(spoke_team_open(config->spoke.device, (int)config->threads,
                                 !*config->spoke.team_listen, &s->team, err));
    if (*config->spoke.team_listen)
        TIER_TRY(
            spoke_servers_open(config, s->loop, &s->team, spoke_servers_came, s, &s->servers, err));
    TIER_TRY(tier_worker_new(s->loop, &s->worker, err));
    return tier_intake_new(s->loop, tier_intake_threads() > 0, &s->intake, err);
}

static enum tier_status take_shared(struct spoke *s, const struct spoke_shared *shared,
                                    struct tier_err *err) {
    const char *own = *s->config->spoke.trainer_dir   ? "trainer"
                      : *s->config->spoke.team_listen ? "team"
                                                      : NULL;
    if (own)
        return tier_fail(err, TIER_ECONFIG,
                         "%s: a spoke that shares its process has no %s of its own; run it alone",
                         s->config->name, own);
    s->shares = true;
    s->worker = shared->worker;
    s->intake = shared->intake;
    s->team = shared->team;
    return TIER_OK;
}

static enum tier_status open_spoke(const struct tier_config *config, struct tier_loop *loop,
                                   const struct spoke_shared *shared, struct spoke *out,
                                   struct tier_err *err) {
    enum tier_status st;

    *out = (struct spoke){.config = config, .loop = loop};
    TIER_TRY_OUT(tier_home_open(config, &out->home, err));
    TIER_TRY_OUT(tier_journal_run_each(out->home.journal, restore_run, out, err));
    TIER_TRY_OUT(tier_spool_sweep(out->home.spool, keep_file, out, err));
    tier_delta_sweep(out->home.models_dir);
    spoke_state_sweep(config->data_dir);
    TIER_TRY_OUT(shared ? take_shared(out, shared, err) : open_hands(out, err));
    const struct tier_link_options above = {.name = config->name,
                                            .parent_name = config->parent_name,
                                            .parent_address = config->parent_address,
                                            .tls = tier_home_tls(&out->home),
                                            .keepalive = &out->home.keepalive,
                                            .models_dir = out->home.models_dir,
                                            .intake = out->intake,
                                            .guard = tier_home_admit,
                                            .guard_arg = &out->home};
    TIER_TRY_OUT(tier_link_new(loop, &above, out->home.spool, &link_events, out, &out->link, err));
    TIER_TRY_OUT(tier_renewal_new(&(struct tier_renewal_options){.loop = loop,
                                                                 .home = &out->home,
                                                                 .link = out->link,
                                                                 .events = &renewal_events,
                                                                 .owner = out},
                                  &out->renewal, err));
    TIER_TRY_OUT(tier_home_note_started(&out->home, err));
    TIER_TRY_OUT(spoke_governed_open(out, err));
out:
    if (st != TIER_OK)
        spoke_close(out);
    return st;
}

enum tier_status spoke_open(const struct tier_config *config, struct tier_loop *loop,
                            struct spoke *out, struct tier_err *err) {
    return open_spoke(config, loop, NULL, out, err);
}

enum tier_status spoke_open_shared(const struct tier_config *config, struct tier_loop *loop,
                                   const struct spoke_shared *shared, struct spoke *out,
                                   struct tier_err *err) {
    return open_spoke(config, loop, shared, out, err);
}

static bool follows_nothing(void *arg) {
    const struct spoke *spoke = arg;
    for (const struct spoke_run *run = spoke->runs; run; run = run->next)
        if (run->follow.step == TIER_FOLLOW_APPLY)
            return false;
    return true;
}

/* A delta may be applied by the intake, which is freed with a spoke that has one of its own, and
 * goes on where it is shared. */
static void stop_following(struct spoke *spoke) {
    for (struct spoke_run *run = spoke->runs; run; run = run->next)
        tier_follow_stop(&run->follow);
    tier_loop_run_until(spoke->loop, follows_nothing, spoke, UINT32_MAX);
}

void spoke_close(struct spoke *spoke) {
    spoke_servers_stop(spoke->servers);
    spoke_trainer_stop(spoke->trainer);
    if (!spoke->shares)
        tier_worker_free(spoke->worker);
    spoke->worker = NULL;
    spoke_servers_close(spoke->servers);
    spoke->servers = NULL;
    spoke_trainer_close(spoke->trainer);
    spoke->trainer = NULL;
    spoke_governed_close(spoke);
    if (spoke->shares && spoke->link)
        stop_following(spoke);
    tier_link_free(spoke->link);
    tier_renewal_free(spoke->renewal);
    spoke->renewal = NULL;
    if (!spoke->shares)
        tier_intake_free(spoke->intake);
    while (spoke->runs) {
        struct spoke_run *run = spoke->runs;
        spoke->runs = run->next;
        spoke_run_free(run);
    }
    tier_ledger_close(spoke->ledger);
    spoke->ledger = NULL;
    tier_noise_key_wipe(&spoke->rounding);
    if (!spoke->shares)
        spoke_team_close(&spoke->team);
    tier_home_close(&spoke->home);
    spoke->link = NULL;
    spoke->intake = NULL;
}
