/* SPDX-License-Identifier: Apache-2.0 */
/* Which metrics a round's updates tell of, by the plan alone. */
#include "support/tier_fixture.h"
#include "tier/layout.h"
#include "tier/score.h"
#include "tier/site.h"
#include "tier/statistics.h"

TestSuite(tier_layout);

static struct tier_plan *plan_of(enum tier_plan_loss loss) {
    struct tier_plan *p = calloc(1, sizeof *p);

    p->loss = loss;
    p->loss_options.ignore_class = TIER_PLAN_IGNORE_NONE;
    p->rounds = 4;
    p->evaluate_every = 2;
    return p;
}

/* The names of a round, "count loss ", in their order. */
static const char *names_of(const struct tier_plan *plan, uint64_t classes, uint64_t spots,
                            uint64_t round) {
    const struct tier_layout_of of = {plan, classes, spots};
    static char text[400];
    struct tier_metrics *m;
    const char *name;
    size_t bins;

    MUST(tier_layout_zeros(&of, round, &m, err));
    MUST(tier_layout_check(&of, round, m, err));
    *text = 0;
    for (size_t i = 0; i < tier_metrics_count(m); i++) {
        const int64_t *values = tier_metrics_at(m, i, &name, &bins);
        for (size_t b = 0; b < bins; b++)
            CHECK(values[b] == 0);
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s ", name);
    }
    tier_metrics_free(m);
    return text;
}

#define NAMES(loss, classes, spots, want)                                                          \
    do {                                                                                           \
        struct tier_plan *p_ = plan_of(loss);                                                      \
        const char *got_ = names_of(p_, classes, spots, 1);                                        \
        CHECK(strcmp(got_, want) == 0, "%s: %s", #loss, got_);                                     \
        CHECK(*names_of(p_, classes, spots, 2) == 0, "round 2 is not evaluated");                  \
        free(p_);                                                                                  \
    } while (0)
#define OF_MASKS "case_dice correct count dice_cases dice_overlap dice_sizes loss spots "

Test(tier_layout, each_loss_has_its_figures_in_rounds_that_evaluate) {
    NAMES(TIER_PLAN_BCE, 1, 1, "correct count loss score_hist_neg score_hist_pos ");
    NAMES(TIER_PLAN_CROSS_ENTROPY, 3, 1, "correct count loss ");
    NAMES(TIER_PLAN_CROSS_ENTROPY, 3, 64, OF_MASKS);
    NAMES(TIER_PLAN_DICE, 2, 64, OF_MASKS);
    NAMES(TIER_PLAN_DICE_CE, 2, 64, OF_MASKS);
    NAMES(TIER_PLAN_MSE, 1, 1, "absolute_error count loss squared_error ");
    NAMES(TIER_PLAN_L1, 1, 1, "absolute_error count loss squared_error ");
    NAMES(TIER_PLAN_COX, 1, 1, "comparable concordant count events loss ");
}

Test(tier_layout, an_ignored_class_tells_how_many_spots_counted) {
    struct tier_plan *p = plan_of(TIER_PLAN_CROSS_ENTROPY);

    p->loss_options.ignore_class = 1;
    CHECK(strcmp(names_of(p, 3, 1, 1), "correct count loss spots ") == 0);
    free(p);
}

Test(tier_layout, an_adaptive_clip_is_told_of_in_rounds_that_train) {
    struct tier_plan *p = plan_of(TIER_PLAN_MSE);

    p->site.clip = 1;
    p->site.adapt.quantile = 0.5;
    CHECK(strcmp(names_of(p, 1, 1, 2), TIER_SITE_METRIC " ") == 0);
    CHECK(strstr(names_of(p, 1, 1, 3), TIER_SITE_METRIC) != NULL);
    CHECK(strstr(names_of(p, 1, 1, 5), TIER_SITE_METRIC) == NULL, "the last one trains nothing");
    free(p);
}

Test(tier_layout, statistics_are_their_columns) {
    struct tier_plan *p = plan_of(TIER_PLAN_BCE);

    p->rounds = 1;
    p->evaluate_every = 0;
    CHECK(tier_keys_list_add(&p->statistics.columns, "age=0:100:10", 12));
    CHECK(strcmp(names_of(p, 1, 1, 1), TIER_STATISTIC_SITES " " TIER_STATISTIC_PREFIX "age ") == 0);
    free(p);
}

Test(tier_layout, more_or_less_or_longer_is_refused_by_name) {
    struct tier_plan *p = plan_of(TIER_PLAN_MSE);
    const struct tier_layout_of of = {p, 1, 1};
    const int64_t zeros[2] = {0};
    struct tier_metrics *m, *few = tier_metrics_new();

    MUST(tier_layout_zeros(&of, 1, &m, err));
    REFUSED(TIER_EPOLICY, "tells of metric absolute_error, which the plan has none of in round 2",
            tier_layout_check(&of, 2, m, err));
    MUST(tier_layout_check(&of, 2, NULL, err));
    MUST(tier_metrics_add(m, TIER_SCORE_SPOTS, 1, zeros, err));
    REFUSED(TIER_EPOLICY, "tells of metric spots", tier_layout_check(&of, 1, m, err));
    REFUSED(TIER_EPOLICY, "does not tell of metric absolute_error in 1 bins",
            tier_layout_check(&of, 1, NULL, err));
    static const char *const names[] = {TIER_SCORE_COUNT, TIER_SCORE_LOSS, TIER_SCORE_ABSOLUTE};
    for (int i = 0; i < 3; i++)
        MUST(tier_metrics_add(few, names[i], 1, zeros, err));
    REFUSED(TIER_EPOLICY, "metric squared_error", tier_layout_check(&of, 1, few, err));
    MUST(tier_metrics_add(few, TIER_SCORE_SQUARED, 2, zeros, err));
    REFUSED(TIER_EPOLICY, "metric squared_error in 1 bins", tier_layout_check(&of, 1, few, err));
    tier_metrics_free(few);
    tier_metrics_free(m);
    free(p);
}
