/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much each child's update contributed to a round, after it was folded. The utility of a
 * coalition is how near its own mean comes to the round's: with m(S) the weighted mean of the
 * updates in S, m(none) = 0,
 *
 *     v(S) = 1 - |m(S) - m(all)|^2 / |m(all)|^2,   v(none) = 0, v(all) = 1,
 *
 * which needs no patient's data and no evaluation, and says how far the others would have come to
 * the same result without a child, not whether that result is good. A child's share is its Shapley
 * value (tier/shapley.h), `without` is v(all) - v(all but it).
 *
 * All of it follows from the updates' inner products: the mean without a child is a subtraction,
 * of whole numbers where files are folded and here of the products that its row and column hold.
 * One pass over the updates, then arithmetic on a matrix of their number squared.
 *
 * The same updates, run and round give the same figures bit for bit, whatever their order, threads
 * and memory; children whose updates are equal in content and weight have equal figures. The mean
 * is what shares are of, whatever rule merged the round.
 *
 * Threads: blocks its caller and starts its own workers. Nobody may delete the inputs meanwhile.
 */
#ifndef CONSILIUM_TIER_CONTRIBUTION_H
#define CONSILIUM_TIER_CONTRIBUTION_H

#include "tier/fold.h"

/* Updates that one matrix is made for. */
#define TIER_CONTRIBUTION_UPDATES_MAX 1024u
#define TIER_CONTRIBUTION_UTILITY "distance-to-mean"

struct tier_contribution {
    uint64_t weight, bytes; /* of the sealed update, its header left out */
    double share, error;    /* error: the standard error; NAN where the round changed nothing */
    double without;
};

size_t tier_contribution_memory_min(const struct tier_manifest *manifest, size_t count);
/* What random orders of a round's children are drawn from: its run and number. */
void tier_contribution_seed(const struct tier_fold *fold, struct tier_hash *out);
/* How many of `permutations` random orders are taken of so many updates: a round waits for them,
 * and no longer than for 2^31 steps. At least 3000, of 1024 updates. */
uint64_t tier_contribution_orders(uint64_t permutations, size_t count);
/*
 * out[fold->count], in the order of its inputs; memory_bytes at least tier_contribution_memory_min,
 * `permutations` at least 2, of which tier_contribution_orders are taken. *exact_out: no orders
 * were sampled. An update of weight 0 has the share 0. TIER_ELIMIT: more updates than the matrix
 * takes; else as tier_merge_run.
 */
enum tier_status tier_contribution_run(const struct tier_fold *fold, uint64_t permutations,
                                       struct tier_contribution *out, bool *exact_out,
                                       struct tier_err *err);

#endif
