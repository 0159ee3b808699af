/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Evaluation on a part of the local data as exact integer sums, which add up over any tree to the
 * figures of the pooled rows; tier/score.h says how they are read. Of every row its loss in fixed
 * point; of classes those predicted right, and for two of them the histograms of the score; of
 * masks also the spots of each class that model and mask share; of values the errors. Of survival,
 * pairs of this hospital's patients alone are compared, and its loss is over this part's rows as
 * one batch: it sums to the mean over hospitals' events, not to that of pooled rows.
 *
 * Of data whose models see windows of an image, logits are those of the whole image
 * (spoke/slide.h), and so is everything above.
 *
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
    enum spoke_loss of;
    bool masks;
    bool tells_spots;       /* that counted are not as many as rows */
    int64_t count;          /* rows, but for those of the ignored class alone */
    int64_t spots, correct; /* those that counted, of classes; those predicted right */
    int64_t loss;           /* fixed point, TIER_SCORE_LOSS_BITS */
    int64_t hist_pos[TIER_SCORE_BINS], hist_neg[TIER_SCORE_BINS]; /* BCE */
    size_t classes;                                               /* of masks: */
    int64_t overlap[TIER_SCORE_CLASSES_MAX], sizes[TIER_SCORE_CLASSES_MAX];
    int64_t case_dice[TIER_SCORE_CLASSES_MAX], cases[TIER_SCORE_CLASSES_MAX];
    int64_t squared, absolute;              /* of values */
    int64_t events, comparable, concordant; /* of survival */
};

/*
 * Replaces *sums_out. A row is predicted positive where its logit is above 0 (BCE), or a row or
 * spot as the class with the greatest logit, the first of equals; with annotators: soft right is
 * what most of them say, and the loss that of their shares. What the loss ignores counts nowhere.
 * No rows give zero sums. TIER_EMODEL where a logit is not finite, TIER_EDATA where errors are too
 * large to be summed.
 */
enum tier_status spoke_evaluate(struct spoke_net *net, const struct spoke_data *data,
                                enum spoke_part part, struct spoke_sums *sums_out,
                                struct tier_err *err);

/* As of no rows: zero sums, of the names and bins that others have. */
void spoke_evaluate_none(struct spoke_net *net, const struct spoke_data *data,
                         struct spoke_sums *sums_out);

/* Adds the sums under their names (tier/score.h). Errors are tier_metrics_add's. */
enum tier_status spoke_sums_add(const struct spoke_sums *sums, struct tier_metrics *metrics,
                                struct tier_err *err);

/* TIER_EDATA unless the data has the features and the target that the net takes. */
enum tier_status spoke_eval_fits(const struct spoke_net *net, const struct spoke_data *data,
                                 struct tier_err *err);

#endif
