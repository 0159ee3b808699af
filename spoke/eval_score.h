/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to evaluation: what one row, or all rows' order in time, add to the sums.
 *
 * Threads: pure functions. Ownership: borrows all.
 */
#ifndef CONSILIUM_SPOKE_EVAL_SCORE_H
#define CONSILIUM_SPOKE_EVAL_SCORE_H

#include "spoke/eval.h"

/*
 * Adds a row: z float[spots x outputs], its target as the loss takes it, and where that is shares
 * of classes what counts as right, int32[spots]; else `label` is not looked at. A row that has
 * nothing but the class to ignore is no row: it adds nothing. Of survival the count alone.
 */
void spoke_score_row(struct spoke_sums *sums, const struct spoke_objective *o, const float *z,
                     const void *target, const int32_t *label, size_t spots, size_t outputs);

/*
 * Adds pairs, events and loss of n rows: z float[n] log hazards, target float[n x 2] time and
 * event. A pair is comparable where the earlier of two times is an event, or of two equal times one
 * is an event and the other is not, who then counts as the later; it is in order where the earlier
 * has the greater hazard (Harrell 1982). TIER_ENOMEM.
 */
enum tier_status spoke_score_survival(struct spoke_sums *sums, const float *z, const float *target,
                                      size_t n, struct tier_err *err);

#endif
