/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of a spoke's runs share: spoke.c hears the parent and keeps the node, plans.c
 * decides on plans, rounds.c is what becomes of a round from its announcement to its commit.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_SPOKE_RUN_PRIVATE_H
#define CONSILIUM_SPOKE_RUN_PRIVATE_H

#include "spoke/spoke.h"

#define SPOKE_RETRY_MS 10000 /* where a person has to make room, or the parent to mend */
#define SPOKE_ROUND_COMMITTED "committed" /* in the journal: the run's round is */

/* ---- spoke.c ---- */

/* A failure of the node itself (its journal, its disk) that it cannot go on with. */
void spoke_stop_on(struct spoke *spoke, const struct tier_err *err);
/* Appends to the audit log; a log that cannot be written stops the node. */
#define spoke_audit(spoke, event, ...)                                                             \
    do {                                                                                           \
        struct tier_err audit_err_ = {0};                                                          \
        if (tier_audit_note((spoke)->home.audit, tier_wall_ms(), event, &audit_err_, __VA_ARGS__,  \
                            NULL) != TIER_OK)                                                      \
            spoke_stop_on(spoke, &audit_err_);                                                     \
    } while (0)

/* By id; NULL where there is none. */
struct spoke_run *spoke_run_find(struct spoke *spoke, const struct tier_hash *id);
void spoke_run_journal(struct spoke_run *run);
/* Tells the parent, for people who watch. */
void spoke_run_progress(struct spoke_run *run, const char *phase, uint32_t done);
/* What the parent said is not acted upon. The link forgives some of it, not any amount. */
void spoke_not_heeded(struct spoke *spoke, const char *text);

/* ---- plans.c ---- */

/*
 * Where a site keeps its files is nobody else's business, and may say more than it should: of every
 * path in a reason that leaves the house the last name stays.
 */
void spoke_say_without_folders(const char *reason, char *out, size_t size);
/* At the head of the spoke's list. */
struct spoke_run *spoke_run_new(struct spoke *spoke, const struct tier_hash *id);
void spoke_run_free(struct spoke_run *run);
/* With the graph here: what the run shares and what stays, where that is not known yet. */
enum tier_status spoke_run_graph(struct spoke_run *run, struct tier_err *err);
void spoke_plan_came(struct spoke *spoke, const struct tier_to_child *m);
/* A tier_fetched, by which its fetch is known. */
void spoke_run_graph_fetched(void *arg, enum tier_status st, const char *text);

/* Takes part: journalled, and answered once graph and data are here. `how` is for the logs. */
void spoke_run_accept(struct spoke_run *run, const char *how);
/* Does not, or not any more: journalled, answered with the reason. */
void spoke_run_decline(struct spoke_run *run, const char *reason);
void spoke_run_want_graph(struct spoke_run *run);

/* ---- governed.c ---- */

enum tier_status spoke_governed_open(struct spoke *spoke, struct tier_err *err);
void spoke_governed_close(struct spoke *spoke);
/* Whether the plan, at that time, is one that may be taken at all; sets run->author. */
enum tier_status spoke_run_admit(struct spoke_run *run, const void *signature, size_t bytes,
                                 int64_t now_ms, struct tier_err *err);
/* What the policy says of a PENDING run is done. */
void spoke_run_consider(struct spoke_run *run);
/* Writes what a steward sees of the run, or takes it away where it is over. */
void spoke_run_show(struct spoke_run *run);
/* The rows that consents allow for the run's purpose. */
enum tier_status spoke_run_open_data(struct spoke_run *run, struct spoke_data **out,
                                     struct tier_err *err);
/* Opens the data anew where consents have changed. No job of the run may be at work. */
enum tier_status spoke_run_heed_consents(struct spoke_run *run, struct tier_err *err);
/* Enough rows that none of them shows in what leaves. */
enum tier_status spoke_run_rows_suffice(const struct spoke_run *run, struct tier_err *err);
/* The same of what is said of test rows: false, nothing is. */
bool spoke_run_evaluates(const struct spoke_run *run);
/* Which rows the update of that round, just sealed, was made without. */
enum tier_status spoke_run_note_rows(struct spoke_run *run, uint64_t round,
                                     const struct tier_hash *withheld, struct tier_err *err);
void spoke_run_forget_rows(struct spoke_run *run);
/* True: the sealed update holds rows that may not be read any more, or lacks some that may, and
 * the parent has been asked to take it out instead of being offered it. */
bool spoke_run_withdraws(struct spoke_run *run, const struct tier_hash *id);
/* True: the same of an update that has not left, which is gone now. */
bool spoke_run_discards(struct spoke_run *run, const struct tier_hash *id);
/* The site leaves: what it has sealed for the open round is withdrawn. */
void spoke_run_leave_round(struct spoke_run *run);
/* Whether the refusal answers a withdrawal, and what follows from it. */
bool spoke_withdrawal_answered(struct spoke_run *run, const struct tier_to_child *m);

/* ---- rounds.c ---- */

/* Trains the open round, offers what is sealed for it, or does neither where it is not time. */
void spoke_run_train(struct spoke_run *run);
/* This site adds nothing to the round that is open; the parent hears why. */
void spoke_run_decline_round(struct spoke_run *run, const char *reason);
/* The update that was sealed for this round, if its file is here: with secure.sums the masked one,
 * which alone may leave. */
bool spoke_run_sealed(struct spoke_run *run, uint64_t round, struct tier_hash *id);
/* The one that is not masked. */
bool spoke_run_sealed_visible(struct spoke_run *run, uint64_t round, struct tier_hash *id);
/* Writes into the journal that this update of the round lies in the spool: before it is offered, or
 * masked. What it says it weighs goes to weight_out (may be NULL). */
enum tier_status spoke_run_note_update(struct spoke_run *run, uint64_t round,
                                       const struct tier_hash *id, uint64_t *weight_out,
                                       struct tier_err *err);
/* A job of the run has ended: what waited for it goes on. */
void spoke_run_job_over(struct spoke_run *run);

/* Callbacks of a run's follow and of its timer. */
void spoke_run_base_fetched(void *arg, enum tier_status st, const char *text);
void spoke_run_follow_again(void *arg);
void spoke_round_came(struct spoke_run *run, const struct tier_to_child *m);
void spoke_commit_came(struct spoke_run *run, const struct tier_to_child *m);
/* The parent asks what runs here, or does not find the answer good (tier/attest.h). */
void spoke_challenge_came(struct spoke_run *run, const struct tier_to_child *m);
void spoke_end_came(struct spoke_run *run, const struct tier_to_child *m);
/* A callback of spoke_servers: rounds that waited for them are trained. */
void spoke_servers_came(void *arg);
void spoke_receipt_came(struct spoke_run *run, const struct tier_receipt *r);

#endif
