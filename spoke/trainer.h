/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hospital's own trainer (proto/trainer.proto), as the spoke sees it: a process of the same
 * machine and the same user that attends at a socket in trainer.dir and is asked to train and to
 * evaluate where this spoke has no data and no device of its own. Everything else of a round is as
 * ever. Models cross by files that both map (trainer_files.h).
 *
 * A trainer is believed in nothing that can be checked: sizes, the weight's bound, metrics as nodes
 * make them, and, where the update is sealed, every value. One that is lost in a round is asked
 * again when it is back; with none for trainer.wait_s, or lost LOST_MAX times in one round, the
 * round is declined with the reason.
 *
 * Threads: the loop's, but for the calls of the worker, which wait for the trainer.
 */
#ifndef CONSILIUM_SPOKE_TRAINER_H
#define CONSILIUM_SPOKE_TRAINER_H

#include "tier/config.h"
#include "tier/graph.h"
#include "tier/hash.h"
#include "tier/loop.h"
#include "tier/metric.h"
#include "tier/plan.h"

#include <stdatomic.h>

struct spoke_trainer;

/* Listens at "<trainer.dir>/socket". Borrows config. */
enum tier_status spoke_trainer_open(const struct tier_config *config, struct tier_loop *loop,
                                    struct spoke_trainer **out, struct tier_err *err);
/* From now on no worker's call waits: TIER_ECANCELLED. NULL is fine. */
void spoke_trainer_stop(struct spoke_trainer *trainer);
/* Behind the worker's end. NULL is fine. */
void spoke_trainer_close(struct spoke_trainer *trainer);

/* TIER_EUNIMPLEMENTED for a plan that needs what only native training does. */
enum tier_status spoke_trainer_takes(const struct tier_plan *plan, struct tier_err *err);

/* That round of the run, and all before, are over: a worker's call for one of them ends with
 * TIER_ECANCELLED. NULL is fine. */
void spoke_trainer_over(struct spoke_trainer *trainer, const struct tier_hash *run, uint64_t round);

/* ---- the worker's ---- */

struct spoke_trainer_order {
    const struct tier_hash *run;
    uint64_t round, seed;
    const atomic_uint_fast64_t *over; /* the run's last round that is, before a call as after */
    bool train, evaluate;
    const struct tier_plan *plan;
    const struct tier_graph *graph;
    const char *graph_path;
};

struct spoke_trainer_result {
    uint64_t weight, steps;       /* weight 0: nothing was trained, and all[] is as it was */
    struct tier_metrics *metrics; /* the caller's to free; NULL: none */
};

/*
 * One round: all[tier_graph_elements] goes in as the model to start from and comes out as the one
 * that was trained. Errors: TIER_ECANCELLED, TIER_EUNAVAILABLE (no trainer, for too long),
 * TIER_EUPDATE or TIER_EPLAN with what the trainer did or said. Followed by an _end in any case.
 */
enum tier_status spoke_trainer_begin(struct spoke_trainer *trainer,
                                     const struct spoke_trainer_order *order, float *all,
                                     struct spoke_trainer_result *out, struct tier_err *err);
/* What became of it, in the end; the trainer is told. Returns st. */
enum tier_status spoke_trainer_end(struct spoke_trainer *trainer, enum tier_status st,
                                   const struct tier_err *err);

#endif
