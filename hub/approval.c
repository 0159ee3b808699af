/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One journal entry for each action and subject: "1 EXPIRES NAME" while the second is waited for,
 * "2 TIME NAME NAME" when it is done. An entry that has expired is as none.
 */
#include "hub/approval.h"
#include "hub/card.h"
#include "tier/content.h"
#include "tier/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_SIZE (2 * TIER_NAME_LEN_MAX + 48)

static const char *key_of(enum tier_console_action action, const char *subject, char key[160]) {
    snprintf(key, 160, "approval/%s/%s", action == TIER_CONSOLE_RELEASE ? "release" : "revoke",
             subject);
    return key;
}

/* What store() wrote; the text is cut up. */
static bool read_entry(char *text, struct tier_console_approval *out, int64_t *at_ms_out) {
    char *rest = text, *next = NULL;

    out->count = (unsigned)strtoul(rest, &rest, 10);
    *at_ms_out = strtoll(rest, &rest, 10);
    if (out->count < 1 || out->count > HUB_APPROVALS_NEEDED)
        return false;
    for (unsigned i = 0; i < out->count; i++) {
        const char *name = strtok_r(i ? NULL : rest, " ", &next);
        if (!tier_name_valid(name))
            return false;
        snprintf(out->by[i], sizeof out->by[i], "%s", name);
    }
    out->done = out->count == HUB_APPROVALS_NEEDED;
    return true;
}

/* TIER_ENOTFOUND: nobody has approved it, or too long ago. */
static enum tier_status load(const struct hub *hub, const char *key, int64_t now_ms,
                             struct tier_console_approval *out, struct tier_err *err) {
    struct tier_console_approval a = {.count = 0};
    struct tier_journal_blob blob = {0};
    int64_t at_ms = 0;

    TIER_TRY(tier_journal_kv_get(hub->home.journal, key, &blob, err));
    bool read = read_entry((char *)blob.data, &a, &at_ms);
    tier_journal_blob_release(&blob);
    if (!read)
        return tier_fail(err, TIER_ECORRUPT, "the journal's entry %s is damaged", key);
    if (!a.done && now_ms > at_ms)
        return tier_fail(err, TIER_ENOTFOUND, "the approval has expired");
    a.expires_ms = a.done ? 0 : at_ms;
    *out = a;
    return TIER_OK;
}

static enum tier_status store(struct hub *hub, const char *key, int64_t at_ms,
                              const struct tier_console_approval *a, struct tier_err *err) {
    char entry[ENTRY_SIZE];
    int n = snprintf(entry, sizeof entry, "%u %" PRId64 " %s%s%s", a->count, at_ms, a->by[0],
                     a->count > 1 ? " " : "", a->by[1]);
    return tier_journal_kv_put(hub->home.journal, key, entry, (size_t)n, err);
}

/* ---- what is done ---- */

static enum tier_status check_release(const struct hub *hub, const char *subject,
                                      struct tier_err *err) {
    struct tier_hash model;

    if (!tier_hash_parse(subject, &model))
        return tier_fail(err, TIER_EARG, "a model is named by the 64 digits of its SHA-256");
    for (const struct hub_run *run = hub->runs; run; run = run->next)
        if (tier_hash_equal(&run->model, &model) &&
            tier_content_has(hub->home.models_dir, &model, TIER_CONTENT_MODEL))
            return TIER_OK;
    return tier_fail(err, TIER_ENOTFOUND,
                     "no run here has published the model %.12s last: only the last may be "
                     "released",
                     subject);
}

static enum tier_status check_revoke(const struct hub *hub, const char *subject,
                                     struct tier_err *err) {
    if (!hub->authority)
        return tier_fail(err, TIER_EPOLICY,
                         "'%s' has no authority beside it (authority_dir): certificates are "
                         "revoked at the hub that has",
                         hub->config->name);
    return tier_name_check("the name", subject, err);
}

static enum tier_status check(const struct hub *hub,
                              const struct tier_console_approval_request *what,
                              struct tier_err *err) {
    return what->action == TIER_CONSOLE_RELEASE ? check_release(hub, what->subject, err)
                                                : check_revoke(hub, what->subject, err);
}

/* A release's entry is what hub_model_released asks for; the card is there before it. */
static enum tier_status carry_out(struct hub *hub, const struct tier_console_approval_request *what,
                                  const struct tier_console_approval *a, int64_t now_ms,
                                  struct tier_err *err) {
    struct tier_hash model, card;

    if (what->action == TIER_CONSOLE_REVOKE)
        return tier_authority_revoke(hub->authority, what->subject, now_ms / 1000, err);
    tier_hash_parse(what->subject, &model);
    return hub_card_make(hub, &model, a->by, now_ms, &card, err);
}

enum tier_status hub_approve(struct hub *hub, const struct tier_console_approval_request *what,
                             const char *caller, int64_t now_ms, struct tier_console_approval *out,
                             struct tier_err *err) {
    struct tier_console_approval a = {0};
    char key[160];

    TIER_TRY(check(hub, what, err));
    key_of(what->action, what->subject, key);
    enum tier_status st = load(hub, key, now_ms, &a, err);
    if (st != TIER_OK && st != TIER_ENOTFOUND)
        return st;
    bool again = a.done && what->action == TIER_CONSOLE_REVOKE; /* the name may hold new ones */
    if (again)
        a = (struct tier_console_approval){0};
    if (a.done)
        return tier_fail(err, TIER_ECONFLICT, "it is done already, by %s and %s", a.by[0], a.by[1]);
    if (a.count == 1 && strcmp(a.by[0], caller) == 0)
        return tier_fail(err, TIER_ECONFLICT,
                         "'%s' has approved this already: a second operator is needed", caller);
    snprintf(a.by[a.count], sizeof a.by[0], "%s", caller);
    a.count++;
    a.done = a.count == HUB_APPROVALS_NEEDED;
    if (a.count == 1)
        a.expires_ms = now_ms + INT64_C(1000) * HUB_APPROVAL_S;
    else
        a.expires_ms = 0;
    if (a.done)
        TIER_TRY(carry_out(hub, what, &a, now_ms, err));
    TIER_TRY(store(hub, key, a.done ? now_ms : a.expires_ms, &a, err));
    hub_audit(hub, a.done ? "approval.done" : "approval.first", "s:what", key, "s:by", a.by[0],
              "s:second", a.by[1]);
    *out = a;
    return TIER_OK;
}

bool hub_model_released(const struct hub *hub, const struct tier_hash *model) {
    struct tier_console_approval a = {0};
    char key[160], hex[TIER_HASH_HEX];

    return load(hub, key_of(TIER_CONSOLE_RELEASE, tier_hash_hex(model, hex), key), 0, &a, NULL) ==
               TIER_OK &&
           a.done;
}
