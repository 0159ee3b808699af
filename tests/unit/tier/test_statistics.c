/* SPDX-License-Identifier: Apache-2.0 */
#include "support/temp_file.h"
#include "tier/console_wire.h"
#include "tier/score.h"
#include "tier/task.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct tier_plan plan;
static struct tier_problems problems;
static struct tier_err err;

static enum tier_status load(const char *columns, const char *rounds) {
    char text[2000];
    temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: count\npurpose: tests\nmodel: model.onnx\ndata: {contract: clinic}\n"
             "local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1}\n"
             "statistics: {columns: %s}\n%s\n",
             columns, rounds);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

#define ONE_ROUND "rounds: 1\nevaluate: {every: 0}"

static void refused(const char *columns, const char *rounds, const char *why) {
    cr_assert(eq(int, load(columns, rounds), TIER_EPLAN), "%s", columns);
    for (size_t i = 0; i < problems.count; i++)
        if (strstr(problems.item[i].text, why))
            return;
    cr_fail("%s: no problem says '%s': %s", columns, why, err.text);
}

TestSuite(tier_statistics, .fini = temp_release);

Test(tier_statistics, a_plan_that_counts_trains_nothing_and_travels) {
    struct tier_plan other;
    struct tier_statistic s;
    char *text;
    size_t bytes;
    cr_assert(eq(int,
                 load("[\"age=0:120:24\", \"lab/crea:mg-dl=-1.5:2e1:1\", \"sex=2\"]", ONE_ROUND),
                 TIER_OK),
              "%s", err.text);
    cr_assert(tier_statistics_on(&plan));
    cr_assert(eq(u64, plan.statistics.cells_min, 5));
    cr_assert(eq(u64, tier_task_rounds(&plan), 1));
    cr_assert(not(tier_task_trains(&plan, 1)));
    cr_assert(not(tier_task_evaluates(&plan, 1)));
    cr_assert(tier_statistic_at(&plan, 1, &s) && !s.category && s.cells == 1);
    cr_assert(eq(str, s.name, "lab/crea:mg-dl"));
    cr_assert(s.low == -1.5 && s.high == 20);
    cr_assert(tier_statistic_at(&plan, 2, &s) && s.category && s.cells == 2);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(sz, other.statistics.columns.count, 3));
    free(text);
}

Test(tier_statistics, a_plan_without_columns_trains) {
    cr_assert(eq(int, load("[]", "rounds: 2"), TIER_OK), "%s", err.text);
    cr_assert(not(tier_statistics_on(&plan)));
    cr_assert(tier_task_trains(&plan, 1));
}

Test(tier_statistics, columns_that_are_none_are_refused) {
    static const char *const bad[] = {
        "age",       "=3",          "age=1",       "age=257",     "age=5:5:2",
        "age=9:1:2", "age=0:1:0",   "age=0:1:257", "age=nan:1:2", "age=0:inf:2",
        "age=0:1",   "age=0:1:2:3", "age=0x1:2:2", "a e=2",       "age=02",
        "age=-1:2:", "age= 0:1:2",  "age=0:1:2 ",  "sex=2.0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char list[80];
        snprintf(list, sizeof list, "[\"%s\"]", bad[i]);
        refused(list, ONE_ROUND, "must be NAME=LOW:HIGH:CELLS");
    }
    refused("[\"age=0:120:24\", \"age=2\"]", ONE_ROUND, "has column age twice");
    refused("[\"sex=2\"]", "rounds: 2\nevaluate: {every: 0}", "needs rounds: 1");
    refused("[\"sex=2\"]", "rounds: 1", "needs rounds: 1 and evaluate.every: 0");
    refused("[\"sex=2\"]",
            ONE_ROUND "\nweights: uniform\nexact: {saturate: true}\nprivacy: {patient: {clip: 1.0, "
                      "noise: 1.0, delta: 1e-5, epsilon_max: 1.0}}",
            "and privacy.patient exclude each other");
}

/* Added one by one in long double, to compare with. */
Test(tier_statistics, figures_are_those_of_the_values) {
    const struct tier_statistic s = {.name = "x", .low = -10, .high = 30, .cells = 40};
    int64_t bins[TIER_STATISTIC_BINS_MAX] = {0};
    long double sum = 0, squares = 0;
    const int n = 4001;
    for (int i = 0; i < n; i++) {
        double v = -10 + 40.0 * i / (n - 1);
        sum += v;
        squares += (long double)v * v;
        tier_statistic_count(&s, v, bins);
        tier_statistic_sum(&s, v, bins);
    }
    tier_statistic_count(&s, -10.001, bins);
    tier_statistic_sum(&s, -10.001, bins);
    tier_statistic_count(&s, 31, bins);
    tier_statistic_count(&s, 32, bins);
    struct tier_statistic_figures f = tier_statistic_figures(&s, bins);
    cr_assert(f.rows == 4001 && f.below == 1 && f.above == 2 && f.missing == 0);
    double mean = (double)(sum / n), std = sqrt((double)(squares / n) - mean * mean);
    cr_assert(fabs(f.mean - mean) < 40 / TIER_STATISTIC_ONE, "%.12g %.12g", f.mean, mean);
    cr_assert(fabs(f.std - std) < 1e-5, "%.12g %.12g", f.std, std);
    cr_assert(fabs(f.q05 - -8) < 0.02 && fabs(f.q25 - 0) < 0.02 && fabs(f.q50 - 10) < 0.02 &&
              fabs(f.q75 - 20) < 0.02 && fabs(f.q95 - 28) < 0.02);
    cr_assert(eq(i64, bins[TIER_STATISTIC_CELLS + 39], 101)); /* with the range's end */
}

Test(tier_statistics, nothing_that_was_counted_has_no_figures) {
    const struct tier_statistic s = {.name = "x", .low = 0, .high = 1, .cells = 2};
    int64_t bins[TIER_STATISTIC_BINS_MAX] = {0};
    struct tier_statistic_figures f = tier_statistic_figures(&s, bins);
    cr_assert(f.rows == 0 && isnan(f.mean) && isnan(f.std) && isnan(f.q50));
}

Test(tier_statistics, rows_of_small_cells_are_in_no_figure) {
    const struct tier_statistic s = {.name = "x", .low = 0, .high = 4, .cells = 4};
    const double values[] = {0.5, 0.6, 0.7, 1.5, 1.6, 2.5, 2.6, 2.7, 2.8, -1, 9, 9, 9};
    const size_t n = sizeof values / sizeof values[0];
    int64_t bins[TIER_STATISTIC_BINS_MAX] = {0}, want[TIER_STATISTIC_BINS_MAX] = {0};
    for (size_t i = 0; i < n; i++)
        tier_statistic_count(&s, values[i], bins);
    bins[TIER_STATISTIC_MISSING] = 2;
    tier_statistic_cut(&s, 3, bins);
    for (size_t i = 0; i < n; i++)
        tier_statistic_sum(&s, values[i], bins);
    for (size_t i = 0; i < n; i++) /* without the two of the second cell and the one below */
        if (values[i] > 0 && (values[i] < 1 || values[i] > 2)) {
            tier_statistic_count(&s, values[i], want);
            tier_statistic_sum(&s, values[i], want);
        }
    for (size_t b = 0; b < TIER_STATISTIC_CELLS + s.cells; b++)
        cr_assert(eq(i64, bins[b], want[b]), "bin %zu", b);
    cr_assert(eq(i64, bins[TIER_STATISTIC_ROWS], 7));
    cr_assert(eq(i64, bins[TIER_STATISTIC_ABOVE], 3));
}

Test(tier_statistics, a_parent_takes_what_the_plan_asks_for_and_nothing_else) {
    int64_t bins[TIER_STATISTIC_BINS_MAX] = {4, 1};
    const int64_t one = 1;
    static const struct {
        const char *name;
        size_t bins;
        int64_t first;
        const char *why; /* NULL: taken */
    } cases[] = {{"stat:age", TIER_STATISTIC_CELLS + 24, 4, NULL},
                 {"stat:sex", TIER_STATISTIC_CELLS + 2, TIER_SCORE_SUM_MAX, NULL},
                 {"stat:sex", TIER_STATISTIC_CELLS + 2, TIER_SCORE_SUM_MAX + 1, "0 to 2^55"},
                 {"stat:sex", TIER_STATISTIC_CELLS + 2, -1, "0 to 2^55"},
                 {"stat:age", TIER_STATISTIC_CELLS + 25, 4, "30 would be right"},
                 {"stat:name", TIER_STATISTIC_CELLS + 2, 4, "not one that the plan asks for"},
                 {"stat:", TIER_STATISTIC_CELLS + 2, 4, "not one that the plan asks for"},
                 {TIER_STATISTIC_SITES, 2, 1, "1 would be right"}};
    cr_assert(eq(int, load("[\"age=0:120:24\", \"sex=2\"]", ONE_ROUND), TIER_OK));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tier_metrics *m = tier_metrics_new();
        bins[0] = cases[i].first;
        cr_assert(eq(int, tier_metrics_add(m, cases[i].name, cases[i].bins, bins, &err), TIER_OK));
        cr_assert(eq(int, tier_task_metrics_check(m, &err), TIER_OK));
        enum tier_status st = tier_statistics_check(&plan, m, &err);
        cr_assert(eq(int, st, cases[i].why ? TIER_EUPDATE : TIER_OK), "%zu: %s", i, err.text);
        cr_assert(cases[i].why == NULL || strstr(err.text, cases[i].why), "%zu: %s", i, err.text);
        tier_metrics_free(m);
    }
    struct tier_metrics *m = tier_metrics_new();
    cr_assert(eq(int, tier_metrics_add(m, TIER_STATISTIC_SITES, 1, &one, &err), TIER_OK));
    cr_assert(eq(int, tier_statistics_check(&plan, m, &err), TIER_OK));
    cr_assert(eq(int, load("[]", "rounds: 2"), TIER_OK));
    cr_assert(eq(int, tier_statistics_check(&plan, m, &err), TIER_EUPDATE));
    tier_metrics_free(m);
}

static struct tier_console_statistics reply_of(size_t columns, size_t cells) {
    struct tier_console_statistics s = {.name = "count", .sites = 3, .count = columns};
    memset(s.run.b, 0xab, sizeof s.run.b);
    s.item = calloc(columns, sizeof *s.item);
    for (size_t i = 0; i < columns; i++) {
        struct tier_console_statistic *c = &s.item[i];
        snprintf(c->column.name, sizeof c->column.name, "column-%zu", i);
        c->column.category = i % 2;
        c->column.low = c->column.category ? 0 : -1.25;
        c->column.high = c->column.category ? 0 : 7;
        c->column.cells = cells;
        for (size_t b = 0; b < TIER_STATISTIC_CELLS + cells; b++)
            c->bins[b] = (int64_t)(1000 * i + b);
    }
    return s;
}

Test(tier_statistics, a_reply_arrives_as_it_was) {
    struct tier_console_statistics s = reply_of(TIER_KEYS_LIST_MAX, TIER_STATISTIC_CELLS_MAX), back;
    struct tier_bytes bytes = tier_console_statistics_bytes(&s);
    cr_assert(bytes.n <= TIER_MESSAGE_BYTES_MAX);
    cr_assert(eq(int, tier_console_statistics(bytes.data, bytes.n, &back, &err), TIER_OK), "%s",
              err.text);
    cr_assert(tier_hash_equal(&s.run, &back.run) && s.sites == back.sites && s.count == back.count);
    cr_assert(eq(str, s.name, back.name));
    for (size_t i = 0; i < s.count; i++)
        cr_assert(memcmp(&s.item[i], &back.item[i], sizeof s.item[i]) == 0, "column %zu", i);
    tier_console_statistics_release(&back);
    tier_console_statistics_release(&s);
    free(bytes.data);
}

static void unreadable(struct tier_console_statistics *s, const char *why) {
    struct tier_console_statistics back;
    struct tier_bytes bytes = tier_console_statistics_bytes(s);
    cr_assert(eq(int, tier_console_statistics(bytes.data, bytes.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, why) != NULL, "%s", err.text);
    free(bytes.data);
}

Test(tier_statistics, a_reply_that_is_none_is_refused_by_field) {
    struct tier_console_statistics s = reply_of(2, 3), back;
    s.item[0].bins[TIER_STATISTIC_ROWS] = -1; /* above 2^63 on the wire */
    unreadable(&s, "above 63 bits");
    s.item[0].bins[TIER_STATISTIC_ROWS] = 1;
    s.item[0].column.high = INFINITY;
    unreadable(&s, "no range");
    s.item[0].column.high = -2;
    unreadable(&s, "no range");
    s.item[0].column.high = 2;
    s.item[1].column.cells = 0;
    unreadable(&s, "0 cells");
    s.item[1].column.cells = 3;
    snprintf(s.name, sizeof s.name, "\x1b[2J");
    unreadable(&s, "control");
    tier_console_statistics_release(&s);
    s = reply_of(TIER_KEYS_LIST_MAX + 1, 2);
    unreadable(&s, "65 entries");
    tier_console_statistics_release(&s);
    cr_assert(
        eq(int, tier_console_statistics((const uint8_t *)"\xff", 1, &back, &err), TIER_EPROTO));
    cr_assert(eq(int, tier_console_statistics(NULL, 0, &back, &err), TIER_EPROTO)); /* no run */
}
