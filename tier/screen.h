/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the updates of a round look like each other, before any is counted: each one's length
 * against the median of their lengths, and its direction against that of their coordinate-wise
 * median (Yin, Chen, Ramchandran, Bartlett 2018), which fewer than half of them cannot turn. The
 * limits are the plan's (tiers.*.screen). What fails is for the caller to put aside.
 *
 * The same updates give the same figures and verdicts, bit for bit, whatever their order, threads
 * and memory: one pass over segments in order, sums in double in a fixed order, and of libm sqrt
 * alone. So a replay can check each verdict.
 *
 * Threads: blocks its caller and starts its own workers. Nobody may delete the inputs meanwhile.
 */
#ifndef CONSILIUM_TIER_SCREEN_H
#define CONSILIUM_TIER_SCREEN_H

#include "tier/plan.h"
#include "tier/spool.h"

/* Of two updates that differ, nobody can say which is the odd one. */
#define TIER_SCREEN_UPDATES_MIN 3
#define TIER_SCREEN_WHY_BYTES 200

struct tier_screen {
    struct tier_spool *spool;
    const struct tier_manifest *manifest;
    const struct tier_plan_screen *limits;
    const struct tier_hash *inputs; /* sealed updates of one round and manifest, not zipped */
    size_t count;                   /* 1..TIER_CHILDREN_MAX */
    unsigned threads;
    size_t memory_bytes; /* at least tier_screen_memory_min */
};

struct tier_screened {
    double norm, cosine; /* of its mean delta; NAN: it has none, or weighs nothing */
    double
        loss; /* NAN, or what its caller fills in that has data to work it out (hub/appraise.h) */
    bool fails, by_loss;
    char why[TIER_SCREEN_WHY_BYTES]; /* where it fails, for a person */
};

struct tier_screen_figures {
    size_t looked_at; /* of weight above 0; below TIER_SCREEN_UPDATES_MIN none fails */
    double norm;      /* the median; NAN: of none */
    double loss;      /* of the model without them; NAN, as above */
};

bool tier_screen_on(const struct tier_plan_screen *limits);
size_t tier_screen_memory_min(const struct tier_manifest *manifest, size_t count);
/* out[count], in the order of inputs. Errors as tier_merge_run. */
enum tier_status tier_screen_run(const struct tier_screen *screen, struct tier_screened *out,
                                 struct tier_screen_figures *figures_out, struct tier_err *err);
/* SHA-256 of the ids in ascending order: which updates were screened together. Sorts ids. */
void tier_screen_set(struct tier_hash *ids, size_t count, struct tier_hash *out);

#endif
