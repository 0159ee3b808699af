/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a model's quality is read out of exact sums. Every node adds integers only (counts, losses
 * in fixed point, histograms of scores), so the totals are the same for every order and tree shape;
 * the divisions below are done once, by whoever shows the figure.
 *
 * The area under the ROC curve comes from two histograms of the score, of the positive and of the
 * negative rows: with TIER_SCORE_BINS bins it differs from the exact one only by the order of rows
 * whose scores share a bin, which count as ties (one half), by at most half the share of such
 * pairs.
 *
 * Segmentations are told by spots (pixels, voxels), of each class: those that model and mask agree
 * on, and those of either, which give the Dice coefficient of all spots of all hospitals; and the
 * sum of the cases' own Dice coefficients in fixed point, which gives their mean.
 *
 * A model of survival is told by pairs of patients of one hospital whose order in time is known:
 * pairs across hospitals are not looked at, for which a score would have to leave one. The figure
 * is Harrell's C (1982) stratified by hospital: the hospitals' own, each by its number of pairs.
 *
 * Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_SCORE_H
#define CONSILIUM_TIER_SCORE_H

#include "tier/err.h"

#include <stdint.h>

#define TIER_SCORE_BINS 4096
#define TIER_SCORE_LOSS_BITS 20   /* a loss travels as round(loss * 2^20) */
#define TIER_SCORE_LOSS_MAX 65536 /* one row's loss counts at most this, so that 2^27 rows fit */

/* Names of the sums in a set of metrics. */
#define TIER_SCORE_COUNT "count"
#define TIER_SCORE_CORRECT "correct"
#define TIER_SCORE_LOSS "loss"
#define TIER_SCORE_HIST_POS "score_hist_pos"
#define TIER_SCORE_HIST_NEG "score_hist_neg"
/* A class each, TIER_SCORE_CLASSES_MAX at most; spots: all that counted. */
#define TIER_SCORE_SPOTS "spots"
#define TIER_SCORE_OVERLAP "dice_overlap" /* spots of the class in both model and mask */
#define TIER_SCORE_SIZES "dice_sizes"     /* its spots in the one and in the other, added */
#define TIER_SCORE_CASE_DICE "case_dice"  /* sum of the cases' Dice, TIER_SCORE_LOSS_BITS */
#define TIER_SCORE_CASES "dice_cases"     /* cases with the class in model or mask */
#define TIER_SCORE_CLASSES_MAX 1024
/* Of values, TIER_SCORE_LOSS_BITS; a row's counts at most TIER_SCORE_ERROR_MAX. */
#define TIER_SCORE_SQUARED "squared_error"
#define TIER_SCORE_ABSOLUTE "absolute_error"
#define TIER_SCORE_ERROR_MAX (1 << 24)
/* A parent takes no larger sum: a region's losses and errors that pass it count as it, and no
 * figure is made of them. */
#define TIER_SCORE_SUM_MAX (INT64_C(1) << 55)
/* Of survival: events, comparable pairs, and twice those in the right order, a tie once. */
#define TIER_SCORE_EVENTS "events"
#define TIER_SCORE_COMPARABLE "comparable"
#define TIER_SCORE_CONCORDANT "concordant"

/* The bin of a score in [0, 1]; values outside and NaN go to the nearest bin, NaN to bin 0. */
unsigned tier_score_bin(double score);
/* One row's loss in fixed point: 0 <= loss, capped at TIER_SCORE_LOSS_MAX; NaN counts as the cap.
 */
int64_t tier_score_loss_fixed(double loss);

/* A row's squared or absolute error in fixed point, capped at TIER_SCORE_ERROR_MAX, as NaN. */
int64_t tier_score_error_fixed(double error);

/* correct / count and loss / count; NaN where count is not positive. */
double tier_score_accuracy(int64_t correct, int64_t count);
double tier_score_loss(int64_t loss_fixed, int64_t count);
/*
 * P(score of a positive > score of a negative) + P(equal) / 2, over the pairs (Mann and Whitney
 * 1947). Sums are exact, one division. NaN where either class is absent or a bin is negative.
 */
double tier_score_auc(const int64_t *hist_pos, const int64_t *hist_neg, size_t bins);

/* 2 overlap / sizes; NaN where sizes is not positive: nobody has that class. */
double tier_score_dice(int64_t overlap, int64_t sizes);
/* concordant / 2 comparable; NaN without pairs. */
double tier_score_concordance(int64_t concordant, int64_t comparable);

#endif
