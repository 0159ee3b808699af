/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a round's actions do: journal, audit, messages to children, and the long jobs (checking an
 * arrived update, folding, publishing) on the worker. Between run.c, which turns what happens into
 * events, and tier/round.h, which decides.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_WORK_H
#define CONSILIUM_HUB_WORK_H

#include "hub/hub.h"
#include "tier/publish.h"

/* Feeds one event, journals what it changed, carries its actions out. */
/* Before a child's update is taken out of the round: a fold at work that has it counts nothing. */
void hub_work_withdrawn(struct hub_run *run);
void hub_work_step(struct hub_run *run, const struct tier_round_event *event);
/* At start, before anything else goes into the audit log: the line that a kill may have kept out of
 * it, of an update whose receipt is journalled. */
void hub_work_recover_audit(struct hub *hub);
/* After a restart, before it goes on: the receipts of what was sealed when the process ended. */
void hub_work_settle(struct hub_run *run);
/* The round is open again: children that it waits for are told, for some may think it closed. */
void hub_work_tell_waiting(struct hub_run *run);
/* After a restart: carries on with what the restored round has to do. */
void hub_work_resume(struct hub_run *run);
/* Checks every element of an arrived update; leads to SEALED or BAD. */
void hub_work_check(struct hub_run *run, uint32_t child, const struct tier_hash *id,
                    uint64_t weight);
/* An arrived update that no round wants: ends its push and deletes it. */
void hub_work_drop(struct hub_run *run, const char *child, const struct tier_hash *id);
/* Writes the round's row, and a WANTED row for each child that takes part, before any is told. */
void hub_work_open_round(struct hub_run *run);
/* The round is over everywhere: its files go, its rows say so. */
void hub_work_release(struct hub_run *run, uint64_t round);
/* What of it is to be retained, or is evidence, and nothing else: after a restart, before the
 * sweep. */
void hub_work_keep_aside(struct hub_run *run, uint64_t round);
/* Writes the model that round 1 starts from, then hub_run_first_round. */
void hub_work_first_model(struct hub_run *run);
/* After a restart, with the round restored: which result of a former round the rule needs. */
void hub_work_restore_kept(struct hub_run *run);
/* The run's row. */
void hub_work_journal_run(struct hub_run *run);

/* With a round open: the updates that arrived before it was. */
void hub_work_take_early(struct hub_run *run);
/* Answers a child's update that waited for the next round with ELATE, and deletes it. */
void hub_work_drop_early(struct hub_run *run, uint32_t child);
/* What the child is pushing, or has pushed in part, is not wanted any more. */
void hub_work_abandon(struct hub_run *run, uint32_t child);

/* ---- tell.c ---- */

/* What is left of the time that the parent granted for the round; 0: it granted none. */
uint64_t hub_work_time_left_ms(const struct hub_run *run);
/* The round that the child is at work on, or is to begin. */
void hub_work_tell_round(struct hub_run *run, uint32_t child);
/* The figures that the round's own update carries, which are of its base model. */
void hub_work_figures(struct hub_run *run, const struct tier_metrics *sums);
/* The round gave no update: a region declines it, the top ends the run. `why` NULL: none came. */
void hub_work_empty(struct hub_run *run, const char *why);
/* To the parent, how many children have delivered; once a second at most. */
void hub_work_progress(struct hub_run *run);

/* ---- release.c ---- */

/* Of a counted update that the round needs no more: keeps its file aside, where the operator's
 * `retention` says so (tier/retain.h). Whatever is left of it may then be deleted. */
void hub_work_retain(struct hub *hub, const struct tier_hash *update);
/* Deletes what was kept aside for long enough, and logs it. */
void hub_work_expire(struct hub *hub);

/* Deletes a state of the root's optimiser, unless it is the open run's own; `run` may be NULL. */
void hub_work_drop_state(struct hub *hub, const struct hub_run *run, const struct tier_hash *state);
/* After a restart, before anything is published: deletes what no open run's journal names. */
void hub_work_sweep_models(struct hub *hub);

/* ---- rows.c: what the journal says of it ---- */

/* What one event changed, and the receipt it led to. */
void hub_rows_step(struct hub_run *run, const struct tier_round_event *e,
                   enum tier_round_child_state child_before, enum tier_round_state state_before,
                   const struct tier_round_actions *actions);
/* These children, and the round: a new partial has their updates, or they were lost. */
void hub_rows_children(struct hub_run *run, const uint32_t *children, size_t count);

/* A publication gave its result: the model, and the optimiser's state beside it. run.c goes on from
 * there. */
void hub_run_published(struct hub_run *run, const struct tier_published *made,
                       const struct tier_task_figures *figures);

#endif
