/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merges other than the mean: many sealed updates become one by a rule (tier/merge_rule.h), in a
 * fixed budget of memory. A block rule takes one pass over the updates; a Gram rule takes a pass
 * for the matrix of inner products and one that combines; nearest-neighbour mixing before either
 * needs the matrix too. The same updates, rule and previous result give the same bits for every
 * order of inputs, budget and number of threads.
 *
 * Exactness across the shapes of a tree ends at a tier that merges so: its result is resealed as
 * float32 deltas with the summed weight, and is one update among others further up.
 *
 * Threads: as tier/fold.h; rules may be loaded and found by any thread.
 */
#ifndef CONSILIUM_TIER_MERGE_H
#define CONSILIUM_TIER_MERGE_H

#include "tier/fold.h"
#include "tier/merge_rule.h"
#include "tier/plan.h"

/* Updates that a Gram rule, or mixing, can take: the matrix is theirs squared. */
#define TIER_MERGE_GRAM_MAX 1024u

/* ---- rules ---------------------------------------------------------------------------------- */

/* A rule of the house or one that was loaded, by its name; NULL. The mean is none of them. */
const struct tier_merge_ops *tier_merge_find(const char *name);
/* The rule that a plan names for a tier; NULL for one that is not loaded here (or the mean). */
const struct tier_merge_ops *tier_merge_rule_of(const struct tier_plan_merge *merge);
/*
 * Loads an operator's rule from a shared object (an absolute path); its name must begin with "x-".
 * file_out (may be NULL) is the SHA-256 of what was loaded. Loading the same one again changes
 * nothing; it is never unloaded. TIER_ECONFIG says what is wrong with it.
 */
enum tier_status tier_merge_load(const char *path, const struct tier_merge_ops **rule_out,
                                 struct tier_hash *file_out, struct tier_err *err);

/* ---- merging -------------------------------------------------------------------------------- */

struct tier_merge {
    struct tier_fold fold; /* inputs, threads, budget: as for a fold */
    const struct tier_merge_ops *rule;
    const struct tier_plan_merge *settings;
    /* The previous result of this run here, an update in the spool; zero: there is none yet. */
    struct tier_hash previous;
};

/* The least fold.memory_bytes for so many updates. */
size_t tier_merge_memory_min(const struct tier_manifest *manifest,
                             const struct tier_merge_ops *rule,
                             const struct tier_plan_merge *settings, size_t count);

/*
 * Writes one sealed F32 update: weight is the sum of weights, metrics are merged, saturated is
 * summed. Errors as tier_fold_run, and:
 *   TIER_EPLAN    the rule cannot work with these updates (too few for its assumption), or gave
 *                 what no rule may give; the reason is for a person, trying again is no use
 *   TIER_ELIMIT   also: the weights pass TIER_WEIGHT_MAX, or more updates than the matrix may have
 *   TIER_EMODEL   the previous result is gone or damaged, so the rule's result cannot be had
 */
enum tier_status tier_merge_run(const struct tier_merge *merge, struct tier_hash *id_out,
                                struct tier_err *err);

#endif
