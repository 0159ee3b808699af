/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/layout.h"

#include "tier/score.h"
#include "tier/site.h"
#include "tier/statistics.h"
#include "tier/task.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static enum tier_status add(struct tier_metrics *m, const char *name, size_t bins,
                            struct tier_err *err) {
    int64_t *zeros = calloc(bins, sizeof *zeros);
    enum tier_status st = zeros ? tier_metrics_add(m, name, bins, zeros, err)
                                : tier_fail(err, TIER_ENOMEM, "no memory for %zu bins", bins);

    free(zeros);
    return st;
}

/* What a spoke's evaluation makes sums of (spoke/eval.h). */
static enum tier_status add_scores(const struct tier_layout_of *of, struct tier_metrics *m,
                                   struct tier_err *err) {
    const struct tier_plan *p = of->plan;
    bool bce = p->loss == TIER_PLAN_BCE, cox = p->loss == TIER_PLAN_COX;
    bool errors = p->loss == TIER_PLAN_MSE || p->loss == TIER_PLAN_L1;
    bool dice = p->loss == TIER_PLAN_DICE || p->loss == TIER_PLAN_DICE_CE;
    bool masks = dice || (p->loss == TIER_PLAN_CROSS_ENTROPY && of->spots > 1);
    size_t classes = masks ? (size_t)of->classes : 0;
    const struct {
        const char *name;
        size_t bins; /* 0: this loss has none */
    } all[] = {{TIER_SCORE_COUNT, 1},
               {TIER_SCORE_LOSS, 1},
               {TIER_SCORE_CORRECT, !errors && !cox},
               {TIER_SCORE_HIST_POS, bce ? TIER_SCORE_BINS : 0},
               {TIER_SCORE_HIST_NEG, bce ? TIER_SCORE_BINS : 0},
               {TIER_SCORE_SPOTS, masks || p->loss_options.ignore_class != TIER_PLAN_IGNORE_NONE},
               {TIER_SCORE_OVERLAP, classes},
               {TIER_SCORE_SIZES, classes},
               {TIER_SCORE_CASE_DICE, classes},
               {TIER_SCORE_CASES, classes},
               {TIER_SCORE_SQUARED, errors},
               {TIER_SCORE_ABSOLUTE, errors},
               {TIER_SCORE_EVENTS, cox},
               {TIER_SCORE_COMPARABLE, cox},
               {TIER_SCORE_CONCORDANT, cox}};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].bins)
            TIER_TRY(add(m, all[i].name, all[i].bins, err));
    return TIER_OK;
}

static enum tier_status add_statistics(const struct tier_plan *p, struct tier_metrics *m,
                                       struct tier_err *err) {
    char name[TIER_NAME_LEN_MAX + 1];
    struct tier_statistic s;

    TIER_TRY(add(m, TIER_STATISTIC_SITES, 1, err));
    for (size_t i = 0; i < p->statistics.columns.count; i++) {
        if (!tier_statistic_at(p, i, &s))
            return tier_fail(err, TIER_EPLAN, "statistics.columns is not what a check lets pass");
        snprintf(name, sizeof name, TIER_STATISTIC_PREFIX "%s", s.name);
        TIER_TRY(add(m, name, TIER_STATISTIC_CELLS + s.cells, err));
    }
    return TIER_OK;
}

enum tier_status tier_layout_zeros(const struct tier_layout_of *of, uint64_t round,
                                   struct tier_metrics **out, struct tier_err *err) {
    const struct tier_plan *p = of->plan;
    struct tier_metrics *m = tier_metrics_new();
    enum tier_status st =
        m ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory for a round's metrics");

    if (st == TIER_OK && tier_statistics_on(p))
        st = add_statistics(p, m, err);
    else if (st == TIER_OK && tier_task_evaluates(p, round))
        st = add_scores(of, m, err);
    if (st == TIER_OK && tier_site_adapts(p) && tier_task_trains(p, round))
        st = add(m, TIER_SITE_METRIC, 1, err);
    if (st == TIER_OK)
        *out = m;
    else
        tier_metrics_free(m);
    return st;
}

/* The first of `a` that `b` has not as long; false where there is none. */
static bool first_missing(const struct tier_metrics *a, const struct tier_metrics *b,
                          const char **name_out, size_t *bins_out) {
    size_t has = 0;

    for (size_t i = 0; a && i < tier_metrics_count(a); i++) {
        tier_metrics_at(a, i, name_out, bins_out);
        if (!b || !tier_metrics_get(b, *name_out, &has) || has != *bins_out)
            return true;
    }
    return false;
}

enum tier_status tier_layout_check(const struct tier_layout_of *of, uint64_t round,
                                   const struct tier_metrics *metrics, struct tier_err *err) {
    struct tier_metrics *right = NULL;
    const char *name;
    size_t bins;
    enum tier_status st = TIER_OK;

    TIER_TRY(tier_layout_zeros(of, round, &right, err));
    if (first_missing(right, metrics, &name, &bins))
        st = tier_fail(err, TIER_EPOLICY,
                       "the update does not tell of metric %s in %zu bins, as the plan has it of "
                       "round %" PRIu64 ": masks hide sums of the same metrics only",
                       name, bins, round);
    else if (first_missing(metrics, right, &name, &bins))
        st = tier_fail(err, TIER_EPOLICY,
                       "the update tells of metric %s, which the plan has none of in round %" PRIu64
                       ": masks hide sums of the same metrics only",
                       name, round);
    tier_metrics_free(right);
    return st;
}
