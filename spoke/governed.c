/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the data steward and the patients have decided, as it bears on runs: the policy when a plan
 * comes, a person where the policy asks for one, consents before every round, and withdrawals.
 *
 * A sealed update remembers which rows it was made without (in the journal, by run). Where consents
 * allow others by the time that it would be offered, it is withdrawn from the parent first and made
 * again: that it is stale follows from the files alone, so a restart changes nothing.
 */
#include "spoke/budget.h"
#include "spoke/consent.h"
#include "spoke/patch.h"
#include "spoke/policy.h"
#include "spoke/run_private.h"
#include "spoke/secure.h"
#include "spoke/steward.h"
#include "tier/budget.h"
#include "tier/log.h"
#include "tier/signed.h"
#include "tier/statistics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MS 1000

static bool consents_in(const struct spoke *spoke) {
    const struct tier_config_spoke *c = &spoke->config->spoke;
    return *c->consent_table || *c->opt_out;
}

/* ---- what a steward sees ---- */

static void put(char *text, size_t room, const char *key, const char *value) {
    size_t n = strlen(text);
    if (value && *value && n < room)
        snprintf(text + n, room - n, "%-8s%s\n", key, value);
}

/* Ends with what the tiers see. */
static void describe(const struct spoke_run *run, char *text, size_t room) {
    const struct tier_plan *p = &run->plan;
    bool waits = run->state == SPOKE_RUN_PENDING;
    char line[700];

    *text = '\0';
    put(text, room, "run", run->hex);
    put(text, room, "state", waits ? "waits for a person" : "open");
    put(text, room, "why", run->why);
    put(text, room, "name", p->name);
    put(text, room, "purpose", p->purpose);
    put(text, room, "use", tier_plan_purpose_text(p->governance.purpose));
    put(text, room, "basis", p->governance.legal_basis);
    put(text, room, "ethics", p->governance.ethics);
    put(text, room, "author", p->governance.author);
    put(text, room, "mode", tier_plan_mode_text(p->mode));
    for (size_t i = 0; i < p->exceptions.count; i++)
        put(text, room, i ? "" : "without", tier_keys_list_item(&p->exceptions, i));
    put(text, room, "signed", *run->author ? run->author : "by nobody whom this site can verify");
    put(text, room, "expires", p->governance.expires);
    if (p->governance.attest == TIER_PLAN_ATTEST_TPM)
        put(text, room, "shows", "its parent, by this machine's TPM, what program it runs");
    put(text, room, "data", p->contract);
    put(text, room, "model", p->model_sha256);
    snprintf(line, sizeof line, "%" PRIu64 " rounds, each of %" PRIu64 " %s in batches of %" PRIu64,
             p->rounds, p->steps ? p->steps : p->epochs, p->steps ? "steps" : "epochs", p->batch);
    put(text, room, "work", line);
    for (size_t i = 0; tier_plan_sees(p, i, line, sizeof line); i++)
        put(text, room, i ? "" : "sees", line);
}

void spoke_run_show(struct spoke_run *run) {
    bool asked = run->state == SPOKE_RUN_PENDING && *run->why;
    bool seen = asked || run->state == SPOKE_RUN_OPEN;
    struct tier_err err = {0};
    char text[8192];

    if (seen)
        describe(run, text, sizeof text);
    if (spoke_steward_show(run->spoke->config->data_dir, run->hex, seen ? text : NULL, &err) !=
        TIER_OK)
        tier_log_error("steward: %s", err.text);
}

/* ---- the policy ---- */

static void say_waiting(struct spoke_run *run) {
    struct tier_from_child m = {.type = TIER_FROM_ANSWER, .run = run->id, .waiting = true};
    spoke_say_without_folders(run->why, m.reason, sizeof m.reason);
    tier_link_send(run->spoke->link, &m);
}

static void ask(struct spoke_run *run, const char *reason) {
    snprintf(run->why, sizeof run->why, "%.*s", (int)sizeof run->why - 1, reason);
    tier_log_warn("run %.12s: '%s' waits for a person: %s (consilium-spoke pending)", run->hex,
                  run->plan.name, run->why);
    spoke_audit(run->spoke, "plan.asked", "h:run", &run->id, "s:name", run->plan.name, "s:purpose",
                run->plan.purpose, "s:author", *run->author ? run->author : NULL, "s:reason",
                run->why);
    spoke_run_journal(run);
    spoke_run_show(run);
    say_waiting(run);
}

/* How many training rows there were when data were last opened, for whom the policy let. Before
 * that nobody has counted, and no data are opened to decide on a plan. */
#define COUNT_KEY "training-rows"

static uint64_t rows_known(const struct spoke *spoke) {
    struct tier_journal_blob value = {0};
    uint64_t rows = 0;

    if (tier_journal_kv_get(spoke->home.journal, COUNT_KEY, &value, NULL) == TIER_OK &&
        value.bytes == sizeof rows)
        memcpy(&rows, value.data, sizeof rows);
    tier_journal_blob_release(&value);
    return rows;
}

/* A policy that cannot be read decides nothing: a person does. */
static enum spoke_verdict decide(struct spoke_run *run, char *reason, size_t bytes) {
    const struct spoke_asked asked = {.plan = &run->plan,
                                      .author = run->author,
                                      .graph = run->graph,
                                      .rows = rows_known(run->spoke),
                                      .now_ms = tier_wall_ms()};
    struct spoke_policy *policy = NULL;
    struct tier_err err = {0};

    if (spoke_policy_load(run->spoke->config->spoke.policy_file, &policy, NULL, &err) != TIER_OK) {
        snprintf(reason, bytes, "the policy cannot be read: %.300s", err.text);
        return SPOKE_ASK;
    }
    enum spoke_verdict verdict = spoke_policy_decide(policy, &asked, reason, bytes);
    spoke_policy_free(policy);
    return verdict;
}

void spoke_run_consider(struct spoke_run *run) {
    char reason[400];

    if (*run->why) { /* a person was asked, and has not answered */
        say_waiting(run);
        return;
    }
    switch (decide(run, reason, sizeof reason)) {
    case SPOKE_ACCEPT:
        spoke_run_accept(run, reason);
        break;
    case SPOKE_REFUSE:
        spoke_run_decline(run, reason);
        break;
    case SPOKE_ASK:
        ask(run, reason);
        break;
    case SPOKE_NEEDS_GRAPH:
        spoke_run_want_graph(run);
        break;
    }
}

/* ---- consents ---- */

static enum tier_status load_consents(struct spoke *spoke, struct tier_err *err) {
    const struct tier_config_spoke *c = &spoke->config->spoke;
    struct spoke_consent *fresh = NULL;

    if (!consents_in(spoke) || (spoke->consent && !spoke_consent_changed(spoke->consent)))
        return TIER_OK;
    spoke_consent_free(spoke->consent); /* whatever comes, the old ones hold no longer */
    spoke->consent = NULL;
    if (spoke_consent_load(c->consent_table, c->opt_out, &fresh, err) != TIER_OK) {
        tier_log_error("consents: %s", err->text); /* which line is broken is told here alone */
        return tier_fail(err, TIER_EUNAVAILABLE, "this site's consents cannot be read now");
    }
    spoke->consent = fresh;
    spoke->consent_version++;
    return TIER_OK;
}

enum tier_status spoke_run_open_data(struct spoke_run *run, struct spoke_data **out,
                                     struct tier_err *err) {
    const struct tier_config *c = run->spoke->config;

    TIER_TRY(load_consents(run->spoke, err));
    const struct spoke_data_options options = {.fold_set = run->plan.fold != 0,
                                               .fold = (uint32_t)run->plan.fold,
                                               .spill_dir = c->data_dir,
                                               .identified = tier_budget_patient(&run->plan),
                                               .patch = spoke_patch_of(&run->plan),
                                               .consent = run->spoke->consent,
                                               .purpose = run->plan.governance.purpose};
    struct spoke_data *data = NULL;
    TIER_TRY(spoke_data_open(c->spoke.schema, c->spoke.csv, &options, &data, err));
    const uint64_t rows = spoke_data_rows(data, SPOKE_TRAIN);
    enum tier_status st =
        tier_journal_kv_put(run->spoke->home.journal, COUNT_KEY, &rows, sizeof rows, err);
    if (st != TIER_OK) {
        spoke_data_free(data);
        return st;
    }
    run->consent_version = run->spoke->consent_version;
    *out = data;
    return TIER_OK;
}

/* What is said of rows here, and nowhere else. */
static void audit_rows(struct spoke_run *run, const struct spoke_data *data, bool changed) {
    spoke_audit(run->spoke, "consent.applied", "h:run", &run->id, "u:round", run->round, "s:use",
                tier_plan_purpose_text(run->plan.governance.purpose), "u:train_rows",
                (uint64_t)spoke_data_rows(data, SPOKE_TRAIN), "u:test_rows",
                (uint64_t)spoke_data_rows(data, SPOKE_TEST), "u:withheld_rows",
                (uint64_t)spoke_data_withheld(data), "b:changed", (int)changed);
}

enum tier_status spoke_run_heed_consents(struct spoke_run *run, struct tier_err *err) {
    struct spoke_data *data = NULL;
    enum tier_status st;

    if (!consents_in(run->spoke))
        return TIER_OK;
    st = load_consents(run->spoke, err);
    if (st == TIER_OK && run->consent_version == run->spoke->consent_version)
        return TIER_OK;
    if (st == TIER_OK)
        st = spoke_run_open_data(run, &data, err);
    if (st != TIER_OK) {
        spoke_audit(run->spoke, "consent.broken", "h:run", &run->id, "u:round", run->round,
                    "s:reason", err->text);
        return st;
    }
    const struct tier_hash now = spoke_data_withheld_hash(data);
    const struct tier_hash before = spoke_data_withheld_hash(run->data);
    audit_rows(run, data, !tier_hash_equal(&now, &before));
    spoke_data_free(run->data);
    run->data = data;
    run->afforded = false; /* other rows: another cost, and other patients */
    return spoke_budget_afford(run, err);
}

enum tier_status spoke_run_rows_suffice(const struct spoke_run *run, struct tier_err *err) {
    uint64_t least = run->spoke->config->spoke.rows_min;

    /* How many there are is what must not be told. */
    if (consents_in(run->spoke) && spoke_data_rows(run->data, SPOKE_TRAIN) < least)
        return tier_fail(err, TIER_EPOLICY,
                         "fewer than %" PRIu64 " training rows may be read here for this purpose",
                         least);
    return TIER_OK;
}

bool spoke_run_evaluates(const struct spoke_run *run) {
    return !consents_in(run->spoke) ||
           spoke_data_rows(run->data, SPOKE_TEST) >= run->spoke->config->spoke.rows_min;
}

/* ---- withdrawals ---- */

/* Of the sealed update: its round, and the rows that it was made without. */
struct made_of {
    uint64_t round;
    struct tier_hash withheld;
};

#define ROWS_KEY_BYTES (TIER_HASH_HEX + 8)

enum tier_status spoke_run_note_rows(struct spoke_run *run, uint64_t round,
                                     const struct tier_hash *withheld, struct tier_err *err) {
    struct made_of made;
    char key[ROWS_KEY_BYTES];

    if (!consents_in(run->spoke))
        return TIER_OK;
    memset(&made, 0, sizeof made);
    made.round = round;
    made.withheld = *withheld;
    snprintf(key, sizeof key, "rows/%s", run->hex);
    return tier_journal_kv_put(run->spoke->home.journal, key, &made, sizeof made, err);
}

void spoke_run_forget_rows(struct spoke_run *run) {
    struct tier_err err = {0};
    char key[ROWS_KEY_BYTES];

    snprintf(key, sizeof key, "rows/%s", run->hex);
    if (tier_journal_kv_delete(run->spoke->home.journal, key, &err) != TIER_OK)
        spoke_stop_on(run->spoke, &err);
}

static bool is_stale(struct spoke_run *run) {
    struct tier_journal_blob value = {0};
    struct made_of made;
    char key[ROWS_KEY_BYTES];
    bool stale = false;

    if (!consents_in(run->spoke))
        return false;
    snprintf(key, sizeof key, "rows/%s", run->hex);
    if (tier_journal_kv_get(run->spoke->home.journal, key, &value, NULL) == TIER_OK &&
        value.bytes == sizeof made) {
        memcpy(&made, value.data, sizeof made);
        const struct tier_hash now = spoke_data_withheld_hash(run->data);
        stale = made.round == run->round && !tier_hash_equal(&made.withheld, &now);
    }
    tier_journal_blob_release(&value);
    return stale;
}

static void withdraw(struct spoke_run *run, const struct tier_hash *id, const char *reason) {
    struct tier_from_child m = {
        .type = TIER_FROM_WITHDRAW, .run = run->id, .round = run->round, .update = *id};

    snprintf(m.reason, sizeof m.reason, "%s", reason);
    if (!tier_hash_equal(&run->withdrawing, id)) {
        tier_log_warn("run %.12s round %" PRIu64 ": the update is withdrawn: %s", run->hex,
                      run->round, reason);
        spoke_audit(run->spoke, "withdrawal.asked", "h:run", &run->id, "u:round", run->round,
                    "h:update", id, "s:reason", reason);
    }
    run->withdrawing = *id;
    tier_link_send(run->spoke->link, &m);
}

bool spoke_run_withdraws(struct spoke_run *run, const struct tier_hash *id) {
    if (tier_hash_equal(&run->held_fast, id) || !is_stale(run))
        return false;
    withdraw(run, id, "patients have withdrawn");
    return true;
}

bool spoke_run_discards(struct spoke_run *run, const struct tier_hash *id) {
    struct spoke *spoke = run->spoke;
    struct tier_err err = {0};

    if (!is_stale(run))
        return false;
    spoke_audit(spoke, "update.discarded", "h:run", &run->id, "u:round", run->round, "h:update", id,
                "s:reason", "patients have withdrawn, and it had not left");
    if (spoke_budget_over(run, run->round + 1, &err) != TIER_OK ||
        tier_journal_sent_delete(spoke->home.journal, run->hex, run->round, id, &err) != TIER_OK)
        spoke_stop_on(spoke, &err);
    tier_spool_delete(spoke->home.spool, id, NULL);
    return true;
}

void spoke_run_leave_round(struct spoke_run *run) {
    struct tier_hash id;

    if (run->round && !run->committed && spoke_run_sealed(run, run->round, &id) &&
        !tier_hash_equal(&run->held_fast, &id))
        withdraw(run, &id, "the site has withdrawn");
}

bool spoke_withdrawal_answered(struct spoke_run *run, const struct tier_to_child *m) {
    struct spoke *spoke = run->spoke;
    struct tier_err err = {0};

    if (tier_hash_is_zero(&run->withdrawing) || !tier_hash_equal(&run->withdrawing, &m->update))
        return false;
    run->withdrawing = (struct tier_hash){{0}};
    if (!m->withdrawn) {
        run->held_fast = m->update;
        tier_log_warn("run %.12s round %" PRIu64 ": the update stays: %s", run->hex, m->round,
                      m->reason);
        spoke_audit(spoke, "withdrawal.late", "h:run", &run->id, "u:round", m->round, "h:update",
                    &m->update, "s:reason", m->reason, "s:remains",
                    "the models of this round and of those after it hold the update; only training "
                    "anew without it takes it out");
        return true;
    }
    spoke_audit(spoke, "withdrawal.done", "h:run", &run->id, "u:round", m->round, "h:update",
                &m->update, "s:undone", "the update is in no sum of its round", "s:remains",
                "models of earlier rounds hold what this site gave to them");
    /* Its noise served one set of rows, and serves no other. */
    if (spoke_budget_over(run, m->round + 1, &err) != TIER_OK ||
        tier_journal_sent_delete(spoke->home.journal, run->hex, m->round, &m->update, &err) !=
            TIER_OK) {
        spoke_stop_on(spoke, &err);
        return true;
    }
    tier_spool_delete(spoke->home.spool, &m->update, NULL);
    run->last_receipt = (struct tier_hash){{0}};
    if (run->state == SPOKE_RUN_OPEN && spoke_secure_on(&run->plan))
        spoke_run_decline_round(run, "what was masked was withdrawn, and a round has masks for one "
                                     "update");
    else if (run->state == SPOKE_RUN_OPEN && tier_statistics_on(&run->plan))
        spoke_run_decline_round(run,
                                "what was counted here was withdrawn, and what differs from it "
                                "would tell of those who have gone");
    else
        spoke_run_train(run);
    return true;
}

/* ---- a person's decisions ---- */

static void approve(struct spoke_run *run, const struct spoke_decision *d) {
    spoke_audit(run->spoke, "plan.decided", "h:run", &run->id, "b:accepted", 1, "s:by", d->by,
                "u:uid", (uint64_t)d->owner, "s:reason", d->reason);
    spoke_run_accept(run, "a person has decided");
}

static void deny(struct spoke_run *run, const struct spoke_decision *d) {
    char reason[320];

    spoke_audit(run->spoke, "plan.decided", "h:run", &run->id, "b:accepted", 0, "s:by", d->by,
                "u:uid", (uint64_t)d->owner, "s:reason", d->reason);
    snprintf(reason, sizeof reason, "the data steward has decided%s%s", *d->reason ? ": " : "",
             d->reason);
    spoke_run_decline(run, reason);
}

static void leave(struct spoke_run *run, const struct spoke_decision *d) {
    char reason[320];

    spoke_audit(run->spoke, "site.withdrawn", "h:run", &run->id, "u:round", run->round,
                "b:committed", (int)run->committed, "s:by", d->by, "u:uid", (uint64_t)d->owner,
                "s:reason", d->reason, "s:remains",
                "models of committed rounds hold what this site gave to them; only training anew "
                "without it takes that out");
    snprintf(reason, sizeof reason, "the site has withdrawn%s%s", *d->reason ? ": " : "",
             d->reason);
    spoke_run_leave_round(run);
    spoke_run_decline(run, reason);
}

static void heed(struct spoke *spoke, const struct spoke_decision *d) {
    struct spoke_run *run = spoke_run_find(spoke, &d->run);
    bool waits = run && run->state == SPOKE_RUN_PENDING && *run->why;

    if (d->deed == SPOKE_OVERLAP)
        spoke_audit(spoke, "overlap.told", "h:file", &d->run, "s:by", d->by, "u:uid",
                    (uint64_t)d->owner, "s:what", d->reason);
    else if (d->deed == SPOKE_APPROVE && waits)
        approve(run, d);
    else if (waits)
        deny(run, d);
    else if (d->deed == SPOKE_WITHDRAW && run && run->state == SPOKE_RUN_OPEN)
        leave(run, d);
    else
        tier_log_warn("steward: a decision of %s on a run that does not wait for one", d->by);
    if (!spoke->failed) /* the journal has it */
        spoke_steward_done(spoke->config->data_dir, &d->run);
}

/* A look each second at a folder and two files, where anything hangs on them. */
static void tick(void *arg) {
    struct spoke *spoke = arg;
    struct spoke_decision d = {0};
    struct tier_err err = {0};
    bool consents = spoke->consent && spoke_consent_changed(spoke->consent);

    if (consents_in(spoke) && !spoke->consent) /* they were broken, and may be mended */
        consents = load_consents(spoke, &err) == TIER_OK;

    for (int i = 0; i < 64 && !spoke->failed && spoke_steward_next(spoke->config->data_dir, &d);
         i++)
        heed(spoke, &d);
    for (struct spoke_run *run = spoke->runs; run && consents; run = run->next)
        if (run->state == SPOKE_RUN_OPEN && run->round && run->data)
            spoke_run_train(run);
    tier_timer_set(spoke->steward, TICK_MS);
}

enum tier_status spoke_governed_open(struct spoke *spoke, struct tier_err *err) {
    const struct tier_config_spoke *c = &spoke->config->spoke;
    struct spoke_policy *policy = NULL;

    TIER_TRY(spoke_steward_open(spoke->config->data_dir, err));
    if (*c->policy_file)
        TIER_TRY(spoke_policy_load(c->policy_file, &policy, NULL, err));
    spoke_policy_free(policy);
    TIER_TRY(load_consents(spoke, err));
    for (struct spoke_run *run = spoke->runs; run; run = run->next)
        spoke_run_show(run);
    spoke->steward = tier_timer_new(spoke->loop, tick, spoke);
    tier_timer_set(spoke->steward, 0);
    return TIER_OK;
}

void spoke_governed_close(struct spoke *spoke) {
    tier_timer_free(spoke->steward);
    spoke->steward = NULL;
    spoke_consent_free(spoke->consent);
    spoke->consent = NULL;
}

/* ---- signatures, modes ---- */

static enum tier_status admit_mode(const struct spoke_run *run, struct tier_err *err) {
    const struct tier_plan *p = &run->plan;

    if (run->spoke->config->spoke.mode != TIER_ACCEPT_UNTRUSTED)
        return TIER_OK;
    if (p->mode != TIER_PLAN_UNTRUSTED)
        return tier_fail(err, TIER_EPOLICY,
                         "this site takes part in plans of mode: untrusted alone (policy.mode), "
                         "and this one has mode: %s",
                         tier_plan_mode_text(p->mode));
    if (p->exceptions.count > 0)
        return tier_fail(err, TIER_EPOLICY,
                         "this site takes part in plans of mode: untrusted without exceptions "
                         "(policy.mode), and this one does without %s",
                         tier_keys_list_item(&p->exceptions, 0));
    return TIER_OK;
}

enum tier_status spoke_run_admit(struct spoke_run *run, const void *signature, size_t bytes,
                                 int64_t now_ms, struct tier_err *err) {
    TIER_TRY(tier_signed_admit(&run->plan, &run->plan_hash, signature, bytes,
                               run->spoke->home.node.ca, run->spoke->home.revoked,
                               run->spoke->config->signed_plans, now_ms, run->author, err));
    return admit_mode(run, err);
}
