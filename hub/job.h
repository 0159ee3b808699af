/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run gives its hub's worker to do: checking, screening, folding, publishing. The loop makes
 * a job with all that it needs (hub/work.c), hub_job_work does it beside the loop, and the loop
 * looks at what came of it.
 *
 * Threads: a job belongs to the loop, and to the worker from when it is submitted until it is done.
 */
#ifndef CONSILIUM_HUB_JOB_H
#define CONSILIUM_HUB_JOB_H

#include "hub/hub.h"
#include "tier/contribution.h"
#include "tier/fold.h"
#include "tier/merge_rule.h"
#include "tier/root.h"
#include "tier/screen.h"

struct hub_secure_fold;
struct hub_shares;

enum job_kind { JOB_FIRST_MODEL, JOB_CHECK, JOB_PART, JOB_SCREEN, JOB_FOLD, JOB_PUBLISH };

struct job {
    struct hub *hub;
    struct tier_hash run_id;
    uint64_t round;
    enum job_kind kind;
    uint32_t child;
    struct tier_hash update, base, result, previous;
    const struct tier_merge_ops *rule; /* NULL: the mean */
    struct tier_plan_merge merge;
    struct tier_root root;
    bool buffers;
    struct tier_fold_version *versions; /* older rounds whose updates are folded too */
    struct tier_fold_stale stale;
    struct tier_published made;
    uint64_t weight;
    const struct tier_manifest *manifest; /* the run's: runs outlive the worker */
    const struct tier_plan *plan;         /* likewise */
    struct tier_hash *inputs;
    size_t count;
    unsigned threads;
    size_t memory_bytes;
    bool *damaged;      /* of inputs, after a fold that failed */
    uint32_t *children; /* whose updates the inputs are; behind them, perhaps, the partial */
    size_t child_count;
    struct tier_plan_screen limits;
    struct tier_hash set;           /* that is screened */
    struct tier_screened *screened; /* of inputs */
    struct tier_screen_figures alike;
    uint64_t permutations;            /* of contributions; 0: none are asked for */
    struct tier_contribution *shares; /* of inputs */
    struct tier_err no_shares;        /* why there are none */
    bool exact, appraises;            /* by the hub's own data: not here, but of what is */
    struct hub_shares *aside;         /* taken aside for it (hub/shares.h); or NULL */
    struct tier_hash plan_hash, graph_hash;
    struct hub_secure_fold *secure; /* of a fold: what masks its inputs; or NULL */
    struct tier_task_figures figures;
    enum tier_status st;
    struct tier_err err;
};

/* A struct job: results, status and error are in it. */
void hub_job_work(void *job);
void hub_job_free(void *job);

#endif
