/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/score.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

Test(tier_score, a_perfect_ranking_has_area_one_and_a_reversed_one_zero) {
    int64_t low[4] = {3, 2, 0, 0}, high[4] = {0, 0, 1, 4};
    cr_expect(eq(dbl, tier_score_auc(high, low, 4), 1.0));
    cr_expect(eq(dbl, tier_score_auc(low, high, 4), 0.0));
}

Test(tier_score, rows_in_one_bin_are_ties) {
    int64_t pos[2] = {1, 1}, neg[2] = {1, 1};
    cr_expect(eq(dbl, tier_score_auc(pos, neg, 2), 0.5));
}

Test(tier_score, the_area_equals_the_count_over_pairs) {
    int64_t pos[5] = {1, 0, 3, 2, 7}, neg[5] = {4, 2, 2, 0, 1};
    double wins = 0, pairs = 0;
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++) {
            double n = (double)(pos[i] * neg[j]);
            wins += i > j ? n : i == j ? n / 2 : 0;
            pairs += n;
        }
    cr_expect(epsilon_eq(dbl, tier_score_auc(pos, neg, 5), wins / pairs, 1e-15));
}

Test(tier_score, one_class_or_a_negative_bin_has_no_area) {
    int64_t some[2] = {1, 2}, none[2] = {0, 0}, bad[2] = {-1, 3};
    cr_expect(isnan(tier_score_auc(some, none, 2)));
    cr_expect(isnan(tier_score_auc(none, some, 2)));
    cr_expect(isnan(tier_score_auc(bad, some, 2)));
    cr_expect(isnan(tier_score_auc(some, bad, 2)));
}

Test(tier_score, totals_beyond_int64_are_refused) {
    int64_t huge[2] = {INT64_MAX, INT64_MAX}, one[2] = {1, 0};
    cr_expect(isnan(tier_score_auc(huge, one, 2)));
    cr_expect(isnan(tier_score_auc(one, huge, 2)));
}

Test(tier_score, bins_cover_the_unit_interval_and_nothing_falls_out) {
    cr_expect(eq(uint, tier_score_bin(0.0), 0));
    cr_expect(eq(uint, tier_score_bin(0.5), TIER_SCORE_BINS / 2));
    cr_expect(eq(uint, tier_score_bin(1.0), TIER_SCORE_BINS - 1));
    cr_expect(eq(uint, tier_score_bin(nextafter(1.0, 0.0)), TIER_SCORE_BINS - 1));
    cr_expect(eq(uint, tier_score_bin(-3.0), 0));
    cr_expect(eq(uint, tier_score_bin(INFINITY), TIER_SCORE_BINS - 1));
    cr_expect(eq(uint, tier_score_bin(NAN), 0));
}

Test(tier_score, losses_are_fixed_point_and_capped) {
    cr_expect(eq(i64, tier_score_loss_fixed(0.75), 3 << 18));
    cr_expect(eq(i64, tier_score_loss_fixed(-1e-18), 0));
    int64_t cap = (int64_t)TIER_SCORE_LOSS_MAX << TIER_SCORE_LOSS_BITS;
    cr_expect(eq(i64, tier_score_loss_fixed(1e30), cap));
    cr_expect(eq(i64, tier_score_loss_fixed(NAN), cap));
    cr_expect(eq(dbl, tier_score_loss(tier_score_loss_fixed(0.75) * 3, 3), 0.75));
    cr_expect(isnan(tier_score_loss(1, 0)));
    cr_expect(eq(dbl, tier_score_accuracy(3, 4), 0.75));
    cr_expect(isnan(tier_score_accuracy(0, 0)));
}
