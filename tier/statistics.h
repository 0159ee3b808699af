/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Federated statistics: what a population looks like before anything is trained on it. A plan with
 * `statistics.columns` trains nothing; in its one round every hospital counts its own rows, and
 * what travels and is added up on the way is integers alone, exact in any order and any tree.
 *
 * A column of numbers is written NAME=LOW:HIGH:CELLS, one of categories NAME=CELLS (so many as the
 * contract lists; the target's classes count as such). Of each travel, as one metric named
 * TIER_STATISTIC_PREFIX NAME:
 *
 *   [ROWS]     values within the range
 *   [MISSING]  cells that are empty or hold the schema's marker
 *   [BELOW], [ABOVE]  values outside the range, which count in nothing else
 *   [SUM]      of round(t * 2^24), t = (value - LOW) / (HIGH - LOW), numbers only
 *   [SQUARES]  of round(t^2 * 2^24), numbers only
 *   [CELLS...] how many values are in each cell: the range in equal parts, the last with its end
 *
 * Small cells: a count above 0 and below the minimum, the plan's or the hospital's own, tells of
 * persons. Rows of such a cell are left out of all of the column's figures at the hospital, before
 * anything travels, so that no difference of two figures of that column gives them back. What stays
 * to be had: rows of two columns differ by what was left out of each, and two runs by who came
 * between them.
 *
 * Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_STATISTICS_H
#define CONSILIUM_TIER_STATISTICS_H

#include "tier/metric.h"
#include "tier/plan.h"

#define TIER_STATISTIC_PREFIX "stat:"
#define TIER_STATISTIC_SITES "stat.sites" /* one bin: hospitals that counted */
#define TIER_STATISTIC_CELLS_MAX 256
#define TIER_STATISTIC_NAME_MAX 58    /* with the prefix it is a metric's name */
#define TIER_STATISTIC_ONE 16777216.0 /* 2^24 */

enum tier_statistic_bin {
    TIER_STATISTIC_ROWS,
    TIER_STATISTIC_MISSING,
    TIER_STATISTIC_BELOW,
    TIER_STATISTIC_ABOVE,
    TIER_STATISTIC_SUM,
    TIER_STATISTIC_SQUARES,
    TIER_STATISTIC_CELLS,
};
#define TIER_STATISTIC_BINS_MAX (TIER_STATISTIC_CELLS + TIER_STATISTIC_CELLS_MAX)

struct tier_statistic {
    char name[TIER_STATISTIC_NAME_MAX + 1];
    bool category;
    double low, high; /* of numbers: low < high */
    size_t cells;     /* 2 to TIER_STATISTIC_CELLS_MAX; of numbers 1 and more */
};

/* Whether the plan asks for statistics and trains nothing. */
bool tier_statistics_on(const struct tier_plan *plan);
/* Entry i of statistics.columns; false where it is not as above. */
bool tier_statistic_at(const struct tier_plan *plan, size_t i, struct tier_statistic *out);
/*
 * A hospital's count, in two passes over its rows with bins[TIER_STATISTIC_CELLS + cells] that
 * begin at zero: each value is counted (finite; of categories its place, below `cells`), cells of
 * less than `least` rows are cut, then each value is summed, unless its cell was cut.
 */
void tier_statistic_count(const struct tier_statistic *s, double value, int64_t *bins);
void tier_statistic_cut(const struct tier_statistic *s, uint64_t least, int64_t *bins);
void tier_statistic_sum(const struct tier_statistic *s, double value, int64_t *bins);

/* Whether a child's sums are those that the plan asks for: names, bins, values that can be added
 * up. TIER_EUPDATE names the metric. Of a plan without statistics none may be there. */
enum tier_status tier_statistics_check(const struct tier_plan *plan, const struct tier_metrics *m,
                                       struct tier_err *err);
/* Whether the name is of a statistic (and so not of tier_task_metrics_check). */
bool tier_statistics_is(const char *metric);

struct tier_statistic_figures {
    uint64_t rows, missing, below, above;
    double mean, std;               /* population; of numbers; NAN without rows */
    double q05, q25, q50, q75, q95; /* linear within a cell; of numbers; NAN without rows */
};
/* Out of bins[TIER_STATISTIC_CELLS + cells]. */
struct tier_statistic_figures tier_statistic_figures(const struct tier_statistic *s,
                                                     const int64_t *bins);

#endif
