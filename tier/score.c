/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/score.h"

#include <math.h>

unsigned tier_score_bin(double score) {
    if (!(score > 0.0))
        return 0;
    if (score >= 1.0)
        return TIER_SCORE_BINS - 1;
    return (unsigned)(score * TIER_SCORE_BINS);
}

static int64_t fixed(double x, double most) {
    if (!(x < most))
        x = most;
    if (x < 0.0)
        x = 0.0;
    return (int64_t)llrint(ldexp(x, TIER_SCORE_LOSS_BITS));
}

int64_t tier_score_loss_fixed(double loss) {
    return fixed(loss, TIER_SCORE_LOSS_MAX);
}

int64_t tier_score_error_fixed(double error) {
    return fixed(error, TIER_SCORE_ERROR_MAX);
}

double tier_score_dice(int64_t overlap, int64_t sizes) {
    return sizes > 0 ? 2.0 * (double)overlap / (double)sizes : NAN;
}

double tier_score_concordance(int64_t concordant, int64_t comparable) {
    return comparable > 0 ? (double)concordant / (2.0 * (double)comparable) : NAN;
}

double tier_score_accuracy(int64_t correct, int64_t count) {
    return count > 0 ? (double)correct / (double)count : NAN;
}

double tier_score_loss(int64_t loss_fixed, int64_t count) {
    return count > 0 ? ldexp((double)loss_fixed, -TIER_SCORE_LOSS_BITS) / (double)count : NAN;
}

double tier_score_auc(const int64_t *hist_pos, const int64_t *hist_neg, size_t bins) {
    /* Twice the number of ordered pairs, in 128 bits: 2 * 2^63 * 2^63 fits below 2^127 only because
     * totals beyond int64 are refused on the way. */
    unsigned __int128 wins = 0;
    int64_t pos = 0, neg = 0;

    for (size_t i = 0; i < bins; i++) {
        if (hist_pos[i] < 0 || hist_neg[i] < 0)
            return NAN;
        wins += (unsigned __int128)(uint64_t)hist_pos[i] *
                (2 * (unsigned __int128)(uint64_t)neg + (uint64_t)hist_neg[i]);
        if (__builtin_add_overflow(pos, hist_pos[i], &pos) ||
            __builtin_add_overflow(neg, hist_neg[i], &neg))
            return NAN;
    }
    if (pos == 0 || neg == 0)
        return NAN;
    return (double)wins / (2.0 * (double)pos * (double)neg);
}
