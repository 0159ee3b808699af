/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of segmentations, values and survival out of sums that sites add up. */
#include "support/tier_fixture.h"
#include "tier/score.h"
#include "tier/task.h"

#include <math.h>

static struct tier_metrics *m;

static void add(const char *name, size_t bins, const int64_t *values) {
    MUST(tier_metrics_add(m, name, bins, values, err));
}

static void add_one(const char *name, int64_t value) {
    add(name, 1, &value);
}

static void begin(void) {
    m = tier_metrics_new();
}

static void end(void) {
    tier_metrics_free(m);
}

TestSuite(tier_task_figures, .init = begin, .fini = end);

Test(tier_task_figures, dice_is_of_all_spots_and_of_cases_without_the_background) {
    const int64_t one = INT64_C(1) << TIER_SCORE_LOSS_BITS;
    add_one(TIER_SCORE_COUNT, 5);
    add_one(TIER_SCORE_SPOTS, 1000);
    add_one(TIER_SCORE_CORRECT, 900);
    add(TIER_SCORE_OVERLAP, 4, (int64_t[]){800, 30, 10, 0});
    add(TIER_SCORE_SIZES, 4, (int64_t[]){1700, 80, 40, 0}); /* nobody has class 3 */
    add(TIER_SCORE_CASE_DICE, 4, (int64_t[]){5 * one, 4 * one, one, 0});
    add(TIER_SCORE_CASES, 4, (int64_t[]){5, 5, 2, 0});
    MUST(tier_task_metrics_check(m, err));
    struct tier_task_figures f = tier_task_figures(m);
    cr_expect(epsilon_eq(dbl, f.class_dice[0], 0.75, 1e-12));
    cr_expect(epsilon_eq(dbl, f.class_dice[1], 0.5, 1e-12));
    cr_expect(isnan(f.class_dice[2]) && isnan(f.class_dice[3]));
    cr_expect(epsilon_eq(dbl, f.dice, 0.625, 1e-12));
    cr_expect(epsilon_eq(dbl, f.case_dice, (0.8 + 0.5) / 2, 1e-12));
    cr_expect(epsilon_eq(dbl, f.accuracy, 0.9, 1e-12), "of spots");
    cr_expect(isnan(f.auc) && isnan(f.mse) && isnan(f.concordance));
}

Test(tier_task_figures, errors_are_of_rows_and_the_loss_of_survival_of_events) {
    const int64_t one = INT64_C(1) << TIER_SCORE_LOSS_BITS;
    add_one(TIER_SCORE_COUNT, 4);
    add_one(TIER_SCORE_LOSS, 6 * one);
    add_one(TIER_SCORE_SQUARED, 10 * one);
    add_one(TIER_SCORE_ABSOLUTE, 5 * one);
    struct tier_task_figures f = tier_task_figures(m);
    cr_expect(epsilon_eq(dbl, f.mse, 2.5, 1e-12));
    cr_expect(epsilon_eq(dbl, f.mae, 1.25, 1e-12));
    cr_expect(epsilon_eq(dbl, f.loss, 1.5, 1e-12));
    cr_expect(isnan(f.accuracy) && isnan(f.dice) && isnan(f.concordance));
    add_one(TIER_SCORE_EVENTS, 3);
    add_one(TIER_SCORE_COMPARABLE, 10);
    add_one(TIER_SCORE_CONCORDANT, 15);
    MUST(tier_task_metrics_check(m, err));
    f = tier_task_figures(m);
    cr_expect(epsilon_eq(dbl, f.loss, 2, 1e-12));
    cr_expect(epsilon_eq(dbl, f.concordance, 0.75, 1e-12));
}

Test(tier_task_figures, figures_are_told_by_name_in_order) {
    add_one(TIER_SCORE_COUNT, 4);
    struct tier_task_figures f = tier_task_figures(m);
    const char *name, *before = "";
    double value;
    size_t i = 0, defined = 0;
    for (; tier_task_figure(&f, i, &name, &value); i++) {
        cr_expect(strcmp(before, name) < 0, "%s before %s", before, name);
        defined += !isnan(value);
        before = name;
    }
    cr_expect(eq(sz, i, 17));
    cr_expect(eq(sz, defined, 1), "the count alone");
}

Test(tier_task_figures, vectors_of_more_classes_than_may_be_are_refused) {
    static int64_t zeros[TIER_SCORE_CLASSES_MAX + 1];
    add(TIER_SCORE_SIZES, TIER_SCORE_CLASSES_MAX, zeros);
    MUST(tier_task_metrics_check(m, err));
    add(TIER_SCORE_OVERLAP, TIER_SCORE_CLASSES_MAX + 1, zeros);
    REFUSED(TIER_EUPDATE, "dice_overlap has 1025 bins", tier_task_metrics_check(m, err));
}

Test(tier_task_figures, vectors_of_unlike_length_make_no_figure) {
    add_one(TIER_SCORE_COUNT, 1);
    add(TIER_SCORE_OVERLAP, 3, (int64_t[]){1, 1, 1});
    add(TIER_SCORE_SIZES, 3, (int64_t[]){2, 2, 2});
    add(TIER_SCORE_CASE_DICE, 2, (int64_t[]){1, 1});
    add(TIER_SCORE_CASES, 3, (int64_t[]){1, 1, 1});
    struct tier_task_figures f = tier_task_figures(m);
    cr_expect(isnan(f.dice) && isnan(f.case_dice));
}

Test(tier_task_figures, a_run_stops_at_its_dice_or_its_error) {
    struct tier_plan p = {.stop = {.metric = TIER_PLAN_METRIC_DICE, .target = 0.8}};
    struct tier_task_stop stop = {0};
    struct tier_task_figures f = {.dice = 0.79, .mse = 0.3, .mae = 0.2, .concordance = 0.6};
    cr_expect(tier_task_stop(&p, &stop, &f) == NULL);
    f.dice = 0.81;
    cr_expect(tier_task_stop(&p, &stop, &f) != NULL);
    p.stop.metric = TIER_PLAN_METRIC_MSE; /* less is better */
    p.stop.target = 0.25;
    stop = (struct tier_task_stop){0};
    cr_expect(tier_task_stop(&p, &stop, &f) == NULL);
    f.mse = 0.2;
    cr_expect(tier_task_stop(&p, &stop, &f) != NULL);
    p.stop.metric = TIER_PLAN_METRIC_MAE;
    stop = (struct tier_task_stop){0};
    cr_expect(tier_task_stop(&p, &stop, &f) != NULL);
    p.stop.metric = TIER_PLAN_METRIC_CONCORDANCE;
    p.stop.target = 0.7;
    stop = (struct tier_task_stop){0};
    cr_expect(tier_task_stop(&p, &stop, &f) == NULL);
    f.concordance = 0.71;
    cr_expect(tier_task_stop(&p, &stop, &f) != NULL);
}
