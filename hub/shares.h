/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contributions by the hub's own validation data (hub/appraise.h), worked out beside the rounds:
 * they may take many models, and a round's result does not wait for them. What they need of a round
 * that was folded gets a second name in DATA_DIR/contributions, so that it outlives the round; a
 * worker of their own takes one round after the other, and what comes of it is counted then, if the
 * round was. Of at most HUB_SHARES_ROUNDS_MAX rounds at once: one that is folded while so many are
 * waiting has none, which the log says. A hub that ends has none of those that it was at.
 *
 * Threads: as said; the loop's where nothing is.
 */
#ifndef CONSILIUM_HUB_SHARES_H
#define CONSILIUM_HUB_SHARES_H

#include "hub/hub.h"
#include "tier/fold.h"

#define HUB_SHARES_ROUNDS_MAX 4

struct job;
struct hub_shares;

/* Where the operator has named data: the folder, empty, and the worker. */
enum tier_status hub_shares_open(struct hub *hub, struct tier_err *err);
/* Waits for the worker; before the runs go. */
void hub_shares_close(struct hub *hub);

/* Of a job that has folded, on its thread: takes what will be needed aside. */
enum tier_status hub_shares_new(const struct job *job, const struct tier_fold *fold,
                                struct hub_shares **out, struct tier_err *err);
/* Deletes what was taken aside; any thread. NULL is fine. */
void hub_shares_free(struct hub_shares *s);
/* Takes s: it is worked out soon, or the log says that it is not. */
void hub_shares_submit(struct hub_run *run, struct hub_shares *s);
/* That round of the run was committed and counted. */
void hub_shares_counted(struct hub_run *run, uint64_t round);

#endif
