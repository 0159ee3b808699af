/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/attest.h"
#include "hub/run_private.h"
#include "tier/log.h"
#include "tier/pem_file.h"
#include "tier/cert.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static bool wanted(const struct hub_run *run) {
    return run->plan.governance.attest == TIER_PLAN_ATTEST_TPM;
}

enum tier_status hub_attest_check(const struct hub *hub, const struct tier_plan *plan,
                                  struct tier_err *err) {
    if (plan->governance.attest != TIER_PLAN_ATTEST_TPM)
        return TIER_OK;
    if (!tier_home_tls(&hub->home))
        return tier_fail(err, TIER_EPLAN,
                         "the plan has governance.attest, and TLS is off here: whose key is asked "
                         "for is known by certificates alone");
    if (!*hub->config->hub.attest_keys)
        return tier_fail(err, TIER_EPLAN,
                         "the plan has governance.attest, and this hub has no keys of its "
                         "children's TPMs: attest.keys names their folder");
    return TIER_OK;
}

void hub_attest_forget(struct hub_run *run, struct hub_child *c) {
    if (!wanted(run))
        return;
    c->attested = false;
    c->accepted = false; /* it answers again, and is counted in when that is found good */
    c->nonce = (struct tier_hash){{0}};
}

bool hub_attest_lacks(struct hub_run *run, const char *child) {
    return wanted(run) && !run->children[hub_run_child_number(run, child)].attested;
}

void hub_attest_ask(struct hub_run *run, const char *child) {
    const uint32_t number = hub_run_child_number(run, child);
    struct hub_child *c = &run->children[number];
    struct tier_to_child m = {.type = TIER_TO_CHALLENGE, .run = run->id};
    struct tier_err err = {0};

    hub_fault(run->hub, c->name); /* each costs a line, and a look at keys */
    if (!tier_hash_is_zero(&c->nonce))
        return; /* it has not answered the last */
    if (getrandom(&c->nonce, sizeof c->nonce, 0) != (ssize_t)sizeof c->nonce) {
        tier_fail_errno(&err, TIER_EIO, "no randomness to ask a child with");
        hub_stop_on(run->hub, &err);
        return;
    }
    m.nonce = c->nonce;
    hub_audit(run->hub, "attest.asked", "h:run", &run->id, "s:child", c->name, "h:nonce",
              &c->nonce);
    snprintf(c->phase, sizeof c->phase, "is asked what it runs");
    tier_serve_send(run->hub->serve, c->name, &m);
}

/* *has_key_out: the key is the one that is pinned. */
static enum tier_status check(const struct hub_run *run, const struct hub_child *c,
                              const struct tier_from_child *m, uint8_t key[TIER_ATTEST_KEY_BYTES],
                              bool *has_key_out, struct tier_err *err) {
    const struct tier_attest_question question = {run->id, c->nonce, c->name,
                                                  run->hub->config->name};
    const char *dir = run->hub->config->hub.attest_keys;
    char name[TIER_NAME_LEN_MAX + 8], *pem = NULL;

    if (*m->reason)
        return tier_fail(err, TIER_EIDENTITY, "%s", m->reason);
    if (!tier_hash_equal(&m->nonce, &c->nonce))
        return tier_fail(err, TIER_EIDENTITY,
                         "its quote answers another question: an older nonce, or another run, "
                         "child or parent");
    snprintf(name, sizeof name, "%s.pem", c->name);
    enum tier_status st = tier_pem_read(dir, name, false, &pem, err);
    if (st == TIER_ENOTFOUND)
        return tier_fail(err, TIER_EIDENTITY,
                         "no key of its TPM is pinned here (attest.keys has no %s)", name);
    TIER_TRY(st);
    st = tier_attest_key(pem, key, err);
    tier_secret_free(pem);
    TIER_TRY(st);
    *has_key_out = true;
    TIER_TRY(tier_attest_check(&question, &m->quote, key, err));
    return tier_attest_allowed(&run->plan, &m->quote, err);
}

/* All of it, so that an auditor can check the answer again without the child. */
static void note(const struct hub_run *run, const struct hub_child *c,
                 const struct tier_from_child *m, const uint8_t *key, const char *reason) {
    const struct tier_attest_question question = {run->id, c->nonce, c->name,
                                                  run->hub->config->name};
    struct tier_err err = {0};
    json_t *data = key ? tier_attest_json(&question, &m->quote, key) : NULL;

    if (!key && *reason) {
        hub_audit(run->hub, "attest.refused", "h:run", &run->id, "s:child", c->name, "h:nonce",
                  &c->nonce, "s:reason", reason);
        return;
    }
    if (!data || (*reason && json_object_set_new(data, "reason", json_string(reason)) != 0))
        tier_fail(&err, TIER_ENOMEM, "no memory for an audit line");
    else
        tier_audit_append(run->hub->home.audit, tier_wall_ms(),
                          *reason ? "attest.refused" : "attest.admitted", data, &err);
    json_decref(data);
    if (err.status != TIER_OK)
        hub_stop_on(run->hub, &err);
}

void hub_attest_answered(struct hub_run *run, const char *child, const struct tier_from_child *m) {
    const uint32_t number = hub_run_child_number(run, child);
    struct hub_child *c = &run->children[number];
    uint8_t key[TIER_ATTEST_KEY_BYTES];
    struct tier_err err = {0};
    bool has_key = false;
    char reason[TIER_REASON_LEN_MAX + 1];

    if (run->state != HUB_RUN_OPEN || !hub_attest_lacks(run, child) ||
        tier_hash_is_zero(&c->nonce)) {
        hub_fault(run->hub, child); /* nobody asked */
        return;
    }
    c->attested = check(run, c, m, key, &has_key, &err) == TIER_OK;
    note(run, c, m, has_key ? key : NULL, err.text);
    c->nonce = (struct tier_hash){{0}}; /* good for one answer */
    if (c->attested) {
        tier_log_info("run %.12s: %s has shown what it runs", run->hex, child);
        hub_run_tell_counted(run, child); /* a round may have been committed meanwhile */
        hub_run_answered(run, child, true, "");
        return;
    }
    struct tier_to_child told = {.type = TIER_TO_CHALLENGE, .run = run->id};
    snprintf(told.reason, sizeof told.reason, "%s", err.text);
    tier_serve_send(run->hub->serve, child, &told);
    snprintf(reason, sizeof reason, "it does not show what the plan asks for: %.440s", err.text);
    hub_run_answered(run, child, false, reason);
}

void hub_attest_asked(struct hub_run *run, const struct tier_to_child *m) {
    struct tier_from_child reply;

    tier_link_fault(run->hub->link); /* once a stream, and no oftener */
    if (*m->reason) {
        tier_log_error("run %.12s: parent %s does not admit this node: %s", run->hex,
                       run->hub->config->parent_name, m->reason);
        hub_audit(run->hub, "attest.declined", "h:run", &run->id, "s:reason", m->reason);
    } else if (wanted(run) && run->state == HUB_RUN_OPEN) {
        tier_home_attest(&run->hub->home, m, &reply);
        hub_audit(run->hub, "attest.answered", "h:run", &run->id, "h:nonce", &m->nonce, "s:reason",
                  reply.reason);
        tier_link_send(run->hub->link, &reply);
    }
}
