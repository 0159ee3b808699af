/* SPDX-License-Identifier: Apache-2.0 */
/* What a child gets for its update: a signed receipt, once and always the same, or a reason. */
#include "hub/receipt.h"
#include "hub/contributor.h"
#include "hub/run_private.h"
#include "tier/bytes.h"
#include "tier/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * The audit log and the journal are two files, and a kill may come between them. So the journal
 * notes, with the receipt, which line the audit log was at; if it is still there at the next start,
 * the line about this receipt is missing.
 */
#define COUNTED_KEY "audit.counted" /* the audit log's seq, 8 bytes, and the receipt */

void hub_receipt_audit(struct hub *hub, const struct tier_receipt *r) {
    uint64_t staleness = r->counted ? r->counted - r->round : 0;

    if (r->counted)
        hub_audit(hub, "update.counted", "h:run", &r->run, "u:round", r->round, "s:child", r->child,
                  "h:update", &r->update, "u:weight", r->weight, "u:counted", r->counted,
                  "u:multiplier", (uint64_t)tier_stale_multiplier(staleness));
    else
        hub_audit(hub, "update.counted", "h:run", &r->run, "u:round", r->round, "s:child", r->child,
                  "h:update", &r->update, "u:weight", r->weight);
}

/* Inside a transaction; audit_counted follows its commit. */
static enum tier_status put_receipt(struct hub *hub, const struct tier_journal_update *row,
                                    struct tier_err *err) {
    struct tier_journal *j = hub->home.journal;
    uint8_t note[8 + TIER_JOURNAL_RECEIPT_BYTES_MAX];
    struct tier_hash head;
    uint64_t seq;

    tier_audit_head(hub->home.audit, &seq, &head);
    tier_put_u64(note, seq);
    memcpy(note + 8, row->receipt, row->receipt_bytes);
    TIER_TRY(tier_journal_update_put(j, row, err));
    return tier_journal_kv_put(j, COUNTED_KEY, note, 8 + row->receipt_bytes, err);
}

void hub_work_recover_audit(struct hub *hub) {
    struct tier_journal_blob note = {0};
    struct tier_receipt receipt;
    struct tier_hash head;
    struct tier_err err = {0};
    uint64_t seq;

    tier_audit_head(hub->home.audit, &seq, &head);
    if (tier_journal_kv_get(hub->home.journal, COUNTED_KEY, &note, &err) == TIER_OK &&
        note.bytes > 8 && tier_get_u64(note.data) == seq &&
        tier_wire_receipt(note.data + 8, note.bytes - 8, &receipt, &err) == TIER_OK)
        hub_receipt_audit(hub, &receipt);
    tier_journal_blob_release(&note);
}

/* The receipt that the child has or, inside a transaction, now gets: *fresh_out says which. */
enum tier_status hub_receipt_make(struct hub_run *run, uint32_t child,
                                  const struct tier_hash *update, struct tier_receipt *r,
                                  bool *fresh_out, struct tier_err *err) {
    struct tier_journal_update row;

    *fresh_out = false;
    TIER_TRY(tier_journal_update_get(run->hub->home.journal, run->hex, run->round.number,
                                     run->children[child].name, &row, err));
    if (row.receipt_bytes)
        return tier_wire_receipt(row.receipt, row.receipt_bytes, r, err);
    *r = (struct tier_receipt){.run = run->id,
                               .round = hub_run_child_round(run, child),
                               .counted = hub_run_buffers(run) ? run->round.number : 0,
                               .update = *update,
                               .weight = row.weight,
                               .time_ms = tier_wall_ms()};
    memcpy(r->child, run->children[child].name, sizeof r->child);
    memcpy(r->parent, run->hub->config->name, sizeof r->parent);
    TIER_TRY(tier_home_sign(&run->hub->home, r, err));
    struct tier_bytes b = tier_wire_receipt_bytes(r);
    bool fits = b.n <= sizeof row.receipt;
    if (fits) {
        memcpy(row.receipt, b.data, b.n);
        row.receipt_bytes = b.n;
    }
    free(b.data);
    if (!fits)
        return tier_fail(err, TIER_EINTERNAL, "a receipt of %zu bytes", b.n);
    *fresh_out = true;
    return put_receipt(run->hub, &row, err);
}

/* As make_receipt, in a transaction of its own. */
static enum tier_status receipt_of(struct hub_run *run, uint32_t child,
                                   const struct tier_hash *update, struct tier_receipt *r,
                                   struct tier_err *err) {
    struct tier_journal *j = run->hub->home.journal;
    bool fresh = false;

    TIER_TRY(tier_journal_begin_lazy(j, err));
    enum tier_status st = hub_receipt_make(run, child, update, r, &fresh, err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, err);
    tier_journal_rollback(j);
    if (st == TIER_OK && fresh)
        hub_receipt_audit(run->hub, r);
    return st;
}

void hub_receipt_give(struct hub_run *run, const struct tier_round_action *a) {
    struct tier_to_child m = {.type = TIER_TO_RECEIPT};
    struct tier_err err = {0};
    const char *child = run->children[a->child].name;

    if (receipt_of(run, a->child, &a->update, &m.receipt, &err) != TIER_OK)
        hub_stop_on(run->hub, &err);
    else if (!tier_serve_pushed(run->hub->serve, child, &a->update, &m.receipt, NULL))
        tier_serve_send(run->hub->serve, child, &m);
}

/* A round that was about to be folded is folded at once, before its children offer again: what it
 * counts must be in the log and have its receipt by then. */
void hub_work_settle(struct hub_run *run) {
    struct tier_receipt receipt;
    struct tier_err err = {0};

    for (uint32_t i = 0; i < run->round.count; i++) {
        const struct tier_round_child *c = tier_round_child(&run->round, i);
        if ((c->state == TIER_CHILD_SEALED || c->state == TIER_CHILD_FOLDED) &&
            receipt_of(run, i, &c->update, &receipt, &err) != TIER_OK) {
            hub_stop_on(run->hub, &err);
            return;
        }
    }
}

static void audit_refusal(struct hub_run *run, const struct tier_round_action *a, uint64_t round) {
    const struct hub_child *child = &run->children[a->child];

    if (a->type == TIER_ACTION_QUARANTINE && child->record)
        hub_audit(run->hub, "update.quarantined", "h:run", &run->id, "u:round", round, "s:child",
                  child->name, "h:update", &a->update, "s:reason", a->reason, "h:set",
                  &run->screened, "d:norm", isfinite(child->record->norm) ? child->record->norm : 0,
                  "d:cosine", isfinite(child->record->cosine) ? child->record->cosine : 0,
                  "b:by_loss", (int)child->record->by_loss, "d:loss",
                  isfinite(child->record->loss) ? child->record->loss : 0, "u:strikes",
                  child->record->strikes, "b:out", (int)child->record->out);
    else
        hub_audit(run->hub, "update.refused", "h:run", &run->id, "u:round", round, "s:child",
                  child->name, "h:update", &a->update, "s:reason", a->reason);
}

void hub_receipt_refuse(struct hub_run *run, const struct tier_round_action *a) {
    const char *child = run->children[a->child].name;
    struct tier_to_child m = {.type = TIER_TO_REFUSAL,
                              .run = run->id,
                              .round = hub_run_child_round(run, a->child),
                              .update = a->update};
    struct tier_err refusal = {.status = a->status};

    snprintf(m.reason, sizeof m.reason, "%s", a->reason);
    snprintf(refusal.text, sizeof refusal.text, "%s", a->reason);
    tier_log_warn("run %.12s round %" PRIu64 ": update %.12s of %s %s: %s", run->hex, m.round,
                  tier_hash_hex(&a->update, (char[TIER_HASH_HEX]){0}), child,
                  a->type == TIER_ACTION_QUARANTINE ? "goes into quarantine" : "refused",
                  a->reason);
    audit_refusal(run, a, m.round);
    if (!tier_serve_pushed(run->hub->serve, child, &a->update, NULL, &refusal))
        tier_serve_send(run->hub->serve, child, &m);
}
