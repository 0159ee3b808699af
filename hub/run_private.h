/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What run.c and restore.c share: a run put together from a plan, and one put together from the
 * journal, go on in the same way.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_RUN_PRIVATE_H
#define CONSILIUM_HUB_RUN_PRIVATE_H

#include "hub/hub.h"

/* Puts the run at the head of the hub's list. The plan's text is copied. */
struct hub_run *hub_run_new(struct hub *hub, const struct tier_hash *id, const void *plan,
                            size_t plan_bytes);
/* With the graph here: the manifest. */
enum tier_status hub_run_prepare(struct hub_run *run, struct tier_err *err);
/* The merge rule of this tier, by the plan; fails where it is an operator's own that is not loaded.
 */
enum tier_status hub_run_find_rule(struct hub_run *run, struct tier_err *err);
struct tier_round_rules hub_run_rules(const struct hub_run *run);
/* Stable for the run; a name that is new gets the next. May move run->children. */
uint32_t hub_run_child_number(struct hub_run *run, const char *name);
/* Whether the child declined the plan, by the journal. */
bool hub_run_answered_no(const struct hub_run *run, const char *child);
/* From now; 0: none. */
void hub_run_set_deadline(struct hub_run *run, uint64_t left_ms);
/* A hub: gets the model of the wanted round, or of the open one, from its parent. */
void hub_run_follow(struct hub_run *run);
/* Opens that round once everything for it is here. */
void hub_run_want_round(struct hub_run *run, uint64_t round, const struct tier_follow_target *base);

#endif
