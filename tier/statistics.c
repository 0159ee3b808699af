/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/statistics.h"

#include "tier/score.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tier_statistics_on(const struct tier_plan *plan) {
    return plan->statistics.columns.count > 0;
}

bool tier_statistics_is(const char *metric) {
    return strncmp(metric, TIER_STATISTIC_PREFIX, strlen(TIER_STATISTIC_PREFIX)) == 0 ||
           strcmp(metric, TIER_STATISTIC_SITES) == 0;
}

/* ---- "age=0:120:24" ------------------------------------------------------------------------- */

static bool take_number(const char **at, char ends, double *out) {
    size_t length = strspn(*at, "0123456789.eE+-"); /* of no other spelling, as 0x1 or nan */
    char *end;

    if (length == 0 || (*at)[length] != ends)
        return false;
    *out = strtod(*at, &end);
    if (end == *at || *end != ends || !isfinite(*out) || fabs(*out) > 1e30)
        return false;
    *at = end + (ends != '\0');
    return true;
}

static bool take_cells(const char *at, size_t least, size_t *out) {
    size_t n = strspn(at, "0123456789");

    if (n == 0 || n > 3 || at[n] || *at == '0')
        return false;
    *out = strtoul(at, NULL, 10);
    return *out >= least && *out <= TIER_STATISTIC_CELLS_MAX;
}

static bool name_ok(const char *name, size_t length) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  "_.:/-";

    return length > 0 && length <= TIER_STATISTIC_NAME_MAX && strspn(name, allowed) >= length;
}

bool tier_statistic_at(const struct tier_plan *plan, size_t i, struct tier_statistic *out) {
    const char *text = tier_keys_list_item(&plan->statistics.columns, i);
    const char *at = strrchr(text, '=');

    *out = (struct tier_statistic){0};
    if (!at || !name_ok(text, (size_t)(at - text)))
        return false;
    memcpy(out->name, text, (size_t)(at - text));
    at++;
    out->category = strchr(at, ':') == NULL;
    if (out->category)
        return take_cells(at, 2, &out->cells);
    return take_number(&at, ':', &out->low) && take_number(&at, ':', &out->high) &&
           out->low < out->high && take_cells(at, 1, &out->cells);
}

/* ---- counting ------------------------------------------------------------------------------- */

static double place_of(const struct tier_statistic *s, double value) {
    return (value - s->low) / (s->high - s->low);
}

static size_t cell_of(const struct tier_statistic *s, double value) {
    size_t cell = (size_t)(s->category ? value : place_of(s, value) * (double)s->cells);

    return cell < s->cells ? cell : s->cells - 1;
}

static bool is_outside(const struct tier_statistic *s, double value) {
    return !s->category && (value < s->low || value > s->high);
}

void tier_statistic_count(const struct tier_statistic *s, double value, int64_t *bins) {
    if (is_outside(s, value)) {
        bins[value < s->low ? TIER_STATISTIC_BELOW : TIER_STATISTIC_ABOVE]++;
        return;
    }
    bins[TIER_STATISTIC_ROWS]++;
    bins[TIER_STATISTIC_CELLS + cell_of(s, value)]++;
}

void tier_statistic_cut(const struct tier_statistic *s, uint64_t least, int64_t *bins) {
    int64_t *cells = bins + TIER_STATISTIC_CELLS;

    for (size_t i = 0; i < s->cells; i++)
        if ((uint64_t)cells[i] < least) {
            bins[TIER_STATISTIC_ROWS] -= cells[i];
            cells[i] = 0;
        }
    for (size_t i = TIER_STATISTIC_MISSING; i <= TIER_STATISTIC_ABOVE; i++)
        if ((uint64_t)bins[i] < least)
            bins[i] = 0;
}

void tier_statistic_sum(const struct tier_statistic *s, double value, int64_t *bins) {
    if (s->category || is_outside(s, value) || bins[TIER_STATISTIC_CELLS + cell_of(s, value)] == 0)
        return;
    double t = place_of(s, value);
    bins[TIER_STATISTIC_SUM] += llrint(t * TIER_STATISTIC_ONE);
    bins[TIER_STATISTIC_SQUARES] += llrint(t * t * TIER_STATISTIC_ONE);
}

/* ---- at a parent ---------------------------------------------------------------------------- */

static enum tier_status check_one(const struct tier_plan *plan, const char *name, size_t bins,
                                  const int64_t *values, struct tier_err *err) {
    struct tier_statistic s = {0};
    size_t want = 0;

    if (strcmp(name, TIER_STATISTIC_SITES) == 0)
        want = tier_statistics_on(plan) ? 1 : 0;
    for (size_t i = 0; !want && i < plan->statistics.columns.count; i++)
        if (tier_statistic_at(plan, i, &s) &&
            strcmp(s.name, name + strlen(TIER_STATISTIC_PREFIX)) == 0)
            want = TIER_STATISTIC_CELLS + s.cells;
    if (want == 0)
        return tier_fail(err, TIER_EUPDATE, "metric %s is not one that the plan asks for", name);
    if (bins != want)
        return tier_fail(err, TIER_EUPDATE, "metric %s has %zu bins; %zu would be right", name,
                         bins, want);
    for (size_t b = 0; b < bins; b++)
        if (values[b] < 0 || values[b] > TIER_SCORE_SUM_MAX)
            return tier_fail(err, TIER_EUPDATE,
                             "metric %s, bin %zu, is %" PRId64 "; 0 to 2^55 would be right", name,
                             b, values[b]);
    return TIER_OK;
}

enum tier_status tier_statistics_check(const struct tier_plan *plan, const struct tier_metrics *m,
                                       struct tier_err *err) {
    for (size_t i = 0; m && i < tier_metrics_count(m); i++) {
        const char *name;
        size_t bins;
        const int64_t *values = tier_metrics_at(m, i, &name, &bins);
        if (tier_statistics_is(name))
            TIER_TRY(check_one(plan, name, bins, values, err));
    }
    return TIER_OK;
}

/* ---- figures -------------------------------------------------------------------------------- */

/* The value below which that share of the rows is, as if they were evenly spread in their cell. */
static double quantile(const struct tier_statistic *s, const int64_t *bins, double share) {
    const int64_t *cells = bins + TIER_STATISTIC_CELLS;
    double total = 0, before = 0, width = (s->high - s->low) / (double)s->cells;

    for (size_t i = 0; i < s->cells; i++)
        total += (double)cells[i];
    for (size_t i = 0; i < s->cells && total > 0; i++) {
        double in = (double)cells[i];
        if (in > 0 && before + in >= share * total)
            return s->low + width * ((double)i + (share * total - before) / in);
        before += in;
    }
    return NAN;
}

struct tier_statistic_figures tier_statistic_figures(const struct tier_statistic *s,
                                                     const int64_t *bins) {
    struct tier_statistic_figures f = {.rows = (uint64_t)bins[TIER_STATISTIC_ROWS],
                                       .missing = (uint64_t)bins[TIER_STATISTIC_MISSING],
                                       .below = (uint64_t)bins[TIER_STATISTIC_BELOW],
                                       .above = (uint64_t)bins[TIER_STATISTIC_ABOVE],
                                       .mean = NAN,
                                       .std = NAN,
                                       .q05 = NAN,
                                       .q25 = NAN,
                                       .q50 = NAN,
                                       .q75 = NAN,
                                       .q95 = NAN};

    if (s->category || f.rows == 0)
        return f;
    double n = (double)f.rows * TIER_STATISTIC_ONE, range = s->high - s->low;
    double mean = (double)bins[TIER_STATISTIC_SUM] / n;
    double variance = (double)bins[TIER_STATISTIC_SQUARES] / n - mean * mean;
    f.mean = s->low + range * mean;
    f.std = range * sqrt(variance > 0 ? variance : 0);
    f.q05 = quantile(s, bins, 0.05);
    f.q25 = quantile(s, bins, 0.25);
    f.q50 = quantile(s, bins, 0.5);
    f.q75 = quantile(s, bins, 0.75);
    f.q95 = quantile(s, bins, 0.95);
    return f;
}
