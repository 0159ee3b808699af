/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/score.h"
#include "tier/task.h"

static enum tier_status check_one(const char *name, size_t bins, int64_t value,
                                  struct tier_err *why) {
    struct tier_metrics *m = tier_metrics_new();
    int64_t *values = calloc(bins, sizeof *values);
    values[bins - 1] = value;
    MUST(tier_metrics_add(m, name, bins, values, err));
    enum tier_status st = tier_task_metrics_check(m, why);
    free(values);
    tier_metrics_free(m);
    return st;
}

Test(tier_task_metrics, the_sums_that_spokes_make_are_accepted) {
    MUST(tier_task_metrics_check(NULL, err));
    MUST(check_one(TIER_SCORE_COUNT, 1, INT64_C(1) << 27, err));
    MUST(check_one(TIER_SCORE_CORRECT, 1, 0, err));
    MUST(check_one(TIER_SCORE_LOSS, 1, INT64_C(1) << 55, err));
    MUST(check_one(TIER_SCORE_HIST_POS, TIER_SCORE_BINS, 7, err));
    MUST(check_one(TIER_SCORE_HIST_NEG, TIER_SCORE_BINS, 7, err));
}

/* Two children with other numbers of classes could not be added up. */
Test(tier_task_metrics, what_is_told_by_class_is_of_the_models_classes) {
    static const char *const names[] = {TIER_SCORE_OVERLAP, TIER_SCORE_SIZES, TIER_SCORE_CASE_DICE,
                                        TIER_SCORE_CASES};
    static const int64_t values[4] = {1, 2, 3, 4};
    MUST(tier_task_classes_check(NULL, 3, err));
    for (int i = 0; i < 4; i++) {
        struct tier_metrics *m = tier_metrics_new();
        MUST(tier_metrics_add(m, names[i], 4, values, err));
        MUST(tier_task_classes_check(m, 4, err));
        REFUSED(TIER_EUPDATE, "has 4 bins; 3, the classes that the model gives",
                tier_task_classes_check(m, 3, err));
        tier_metrics_free(m);
    }
}

Test(tier_task_metrics, sums_that_could_spoil_a_rounds_are_refused_by_name) {
    REFUSED(TIER_EUPDATE, "metric other", check_one("other", 1, 1, err));
    REFUSED(TIER_EUPDATE, "metric count has 2 bins", check_one(TIER_SCORE_COUNT, 2, 1, err));
    REFUSED(TIER_EUPDATE, "4096 would be right", check_one(TIER_SCORE_HIST_POS, 1, 1, err));
    REFUSED(TIER_EUPDATE, "-1", check_one(TIER_SCORE_LOSS, 1, -1, err));
    REFUSED(TIER_EUPDATE, "bin 0", check_one(TIER_SCORE_COUNT, 1, (INT64_C(1) << 55) + 1, err));
}
