/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What run.c, children.c and restore.c share: a run put together from a plan, and one put together
 * from the journal, go on in the same way.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_RUN_PRIVATE_H
#define CONSILIUM_HUB_RUN_PRIVATE_H

#include "hub/hub.h"

/* Puts the run at the head of the hub's list. The plan's text is copied. */
struct hub_run *hub_run_new(struct hub *hub, const struct tier_hash *id,
                            const struct hub_plan *plan);
/* With the graph here: the manifest. */
enum tier_status hub_run_prepare(struct hub_run *run, struct tier_err *err);
/* The merge rule of this tier, by the plan; fails where it is an operator's own that is not loaded.
 */
enum tier_status hub_run_find_rule(struct hub_run *run, struct tier_err *err);
struct tier_round_rules hub_run_rules(const struct hub_run *run, uint64_t round);
/* Whether this tier takes updates of older rounds in the open one (tier/stale.h). */
bool hub_run_buffers(const struct hub_run *run);
/* Whether it is at work on something that may count in a later round. */
bool hub_run_still_at_work(const struct hub_run *run, uint32_t child);
/* The round that a child is at work on: the open one, or an older one. */
uint64_t hub_run_child_round(const struct hub_run *run, uint32_t child);
/* Puts a round in front of those before the open one. */
void hub_run_remember_base(struct hub_run *run, uint64_t round, const struct tier_hash *model);
/* What that round starts from; NULL where it is too long ago. */
const struct tier_hash *hub_run_base_of(const struct hub_run *run, uint64_t round);
/* Stable for the run; a name that is new gets the next. May move run->children. */
uint32_t hub_run_child_number(struct hub_run *run, const char *name);
void hub_run_tell_plan(struct hub_run *run, const char *child);
void hub_run_tell_end(struct hub_run *run, const char *child);
/* Which update of the child counted last. */
void hub_run_tell_counted(struct hub_run *run, const char *child);
/* That unsure_round is over, and that the child's receipt says whether its update counted. */
void hub_run_tell_unsure(struct hub_run *run, const char *child);
/* A round's row says that a child gave nothing; whether it left the run with that is said here. */
void hub_run_journal_answer(struct hub_run *run, const char *child, bool accepted);
/* Whether the child declined the plan, by the journal. */
bool hub_run_answered_no(const struct hub_run *run, const char *child);
/* From now; 0: none. */
void hub_run_set_deadline(struct hub_run *run, uint64_t left_ms);
/* A hub: gets the model of the wanted round, or of the open one, from its parent. */
void hub_run_follow(struct hub_run *run);
/* Opens that round once everything for it is here: now, if it is. */
void hub_run_open_if_ready(struct hub_run *run);
void hub_run_want_round(struct hub_run *run, uint64_t round, const struct tier_follow_target *base);

#endif
