/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of what many updates become, whether they are folded or merged: weights, metrics and
 * counts add up exactly.
 *
 * Threads: the caller's.
 */
#ifndef CONSILIUM_TIER_FOLD_HEADER_H
#define CONSILIUM_TIER_FOLD_HEADER_H

#include "tier/fold.h"
#include "tier/update.h"

/*
 * Adds one input to `sum`, whose metrics are there; its multiplier (1 but in a fold of buffered
 * rounds) goes to *multiplier_out. TIER_EUPDATE names the input that is of another run, round, base
 * model or manifest than the fold; TIER_ELIMIT where the weights would pass weight_max, or a count
 * its own limit.
 */
enum tier_status tier_fold_header_add(struct tier_update_header *sum, const struct tier_fold *fold,
                                      const struct tier_update *input, uint64_t weight_max,
                                      uint32_t *multiplier_out, struct tier_err *err);
/* A few thousand rows may have errors that add up to more than a parent takes: to what it takes. */
void tier_fold_metrics_cut(struct tier_metrics *sums);
void tier_fold_sort(struct tier_hash *ids, size_t count); /* ascending */

/* Inputs that a fold or merge may keep open at a time; the files of more are opened for each read.
 * A share of what the process may have, which the node's streams need too. */
size_t tier_fold_files_open(void);

#endif
