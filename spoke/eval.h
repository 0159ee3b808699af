/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Evaluation on a part of the local data as exact integer sums, which add up over any tree to the
 * figures of the pooled rows: rows, rows predicted right, loss in fixed point, and for two classes
 * the histograms of the score of positive and negative rows (tier/score.h says how to read them).
 * Logits come from the device; losses and scores are computed from them here, in double.
 *
 * Threads: the net's. Ownership: borrows all.
 */
#ifndef CONSILIUM_SPOKE_EVAL_H
#define CONSILIUM_SPOKE_EVAL_H

#include "spoke/data.h"
#include "spoke/net.h"
#include "tier/metric.h"
#include "tier/score.h"

struct spoke_sums {
    int64_t count, correct;
    int64_t loss;  /* fixed point, TIER_SCORE_LOSS_BITS */
    bool has_hist; /* binary cross-entropy only */
    int64_t hist_pos[TIER_SCORE_BINS], hist_neg[TIER_SCORE_BINS];
};

/*
 * Replaces *sums_out. A row is predicted positive where its logit is above 0 (BCE), or as the class
 * with the greatest logit, the first of equals (CE). No rows give zero sums. TIER_EMODEL where a
 * logit is not finite.
 */
enum tier_status spoke_evaluate(struct spoke_net *net, const struct spoke_data *data,
                                enum spoke_part part, struct spoke_sums *sums_out,
                                struct tier_err *err);

/* Adds the sums under their names (tier/score.h). Errors are tier_metrics_add's. */
enum tier_status spoke_sums_add(const struct spoke_sums *sums, struct tier_metrics *metrics,
                                struct tier_err *err);

/* TIER_EDATA unless the table has the features and classes that the net takes. */
enum tier_status spoke_eval_fits(const struct spoke_net *net, const struct spoke_data *data,
                                 struct tier_err *err);

#endif
