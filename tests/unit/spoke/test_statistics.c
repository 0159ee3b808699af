/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/statistics.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static struct tier_plan plan;
static struct tier_err err;

TestSuite(spoke_statistics, .fini = temp_release);

static const char contract[] =
    "name: clinic\n"
    "missing_rows: drop\n"
    "columns:\n"
    "  - {name: patient, type: id}\n"
    "  - {name: age, type: number, min: 0, max: 120, standardise: true}\n"
    "  - {name: sex, type: category, categories: [f, m]}\n"
    "  - {name: note, type: ignore}\n"
    "  - {name: sugar, type: target, positive_above: 100}\n"
    "split: {by: hash, key: \"a key of tests\", fraction: 0.3}\n";

static const char table[] = "patient,age,sex,note,sugar\n"
                            "a,10,f,x,90\nb,11,f,x,95\nc,12,m,x,101\n"
                            "d,50,m,x,100\ne,51,m,x,180\nf,52,m,x,190\n"
                            "g,,m,x,200\nh,70,f,x,\ni,71,f,x,80\nj,130,f,x,70\n";

static void columns(const char *const *list, size_t n) {
    memset(&plan, 0, sizeof plan);
    for (size_t i = 0; i < n; i++)
        cr_assert(tier_keys_list_add(&plan.statistics.columns, list[i], strlen(list[i])));
}

static struct tier_metrics *counted(const char *csv, uint64_t cells_min) {
    struct tier_metrics *m = tier_metrics_new();
    cr_assert(eq(int,
                 spoke_statistics_run(&plan, temp_file("s.yaml", contract), temp_file("t.csv", csv),
                                      NULL, cells_min, m, &err),
                 TIER_OK),
              "%s", err.text);
    return m;
}

static void sums_are(const struct tier_metrics *m, const char *name, const int64_t *want,
                     size_t n) {
    size_t bins;
    const int64_t *got = tier_metrics_get(m, name, &bins);
    cr_assert(got != NULL, "%s", name);
    cr_assert(eq(sz, bins, n));
    for (size_t i = 0; i < n; i++)
        cr_assert(eq(i64, got[i], want[i]), "%s, bin %zu", name, i);
}

/* Without row j, whose age the contract does not have. */
static const char *kept(void) {
    static char text[sizeof table];
    snprintf(text, sizeof text, "%s", table);
    *strstr(text, "j,130") = '\0';
    return text;
}

Test(spoke_statistics, every_row_counts_in_the_columns_that_it_has) {
    const char *const list[] = {"age=0:100:4", "sex=2", "sugar=2"};
    const int64_t one = 1 << 24;
    /* t = age / 100, of eight ages */
    const int64_t ages[] = {10, 11, 12, 50, 51, 52, 70, 71};
    int64_t sum = 0, squares = 0;
    for (size_t i = 0; i < 8; i++) {
        double t = (double)ages[i] / 100;
        sum += (int64_t)(t * one + 0.5);
        squares += (int64_t)(t * t * one + 0.5);
    }
    columns(list, 3);
    struct tier_metrics *m = counted(kept(), 0);
    const int64_t age[] = {8, 1, 0, 0, sum, squares, 3, 0, 5, 0}, sex[] = {9, 0, 0, 0, 0, 0, 4, 5},
                  sugar[] = {8, 1, 0, 0, 0, 0, 4, 4};
    sums_are(m, "stat:age", age, 10);
    sums_are(m, "stat:sex", sex, 8);
    sums_are(m, "stat:sugar", sugar, 8);
    cr_assert(eq(i64, tier_metrics_scalar(m, TIER_STATISTIC_SITES), 1));
    tier_metrics_free(m);
}

Test(spoke_statistics, the_larger_minimum_of_plan_and_hospital_counts) {
    const char *const list[] = {"age=0:100:4"};
    columns(list, 1);
    plan.statistics.cells_min = 2;
    struct tier_metrics *m = counted(kept(), 4); /* of cells 3, 0, 5, 0 and one missing */
    size_t bins;
    const int64_t *age = tier_metrics_get(m, "stat:age", &bins);
    cr_assert(age[TIER_STATISTIC_ROWS] == 5 && age[TIER_STATISTIC_MISSING] == 0 &&
              age[TIER_STATISTIC_CELLS] == 0 && age[TIER_STATISTIC_CELLS + 2] == 5);
    tier_metrics_free(m);
    plan.statistics.cells_min = 6;
    m = counted(kept(), 4);
    age = tier_metrics_get(m, "stat:age", &bins);
    for (size_t i = 0; i < bins; i++)
        cr_assert(eq(i64, age[i], 0), "bin %zu", i);
    tier_metrics_free(m);
}

Test(spoke_statistics, data_that_break_the_contract_are_not_counted) {
    const char *const list[] = {"sex=2"};
    struct tier_metrics *m = tier_metrics_new();
    columns(list, 1);
    cr_assert(eq(int,
                 spoke_statistics_run(&plan, temp_file("s.yaml", contract),
                                      temp_file("t.csv", table), NULL, 0, m, &err),
                 TIER_EDATA));
    cr_assert(strstr(err.text, ":11: column 'age'") != NULL, "%s", err.text);
    cr_assert(eq(sz, tier_metrics_count(m), 0));
    tier_metrics_free(m);
}

Test(spoke_statistics, columns_that_the_contract_has_otherwise_are_refused_by_name) {
    static const struct {
        const char *column, *why;
    } cases[] = {{"height=0:1:2", "'height', which the contract does not have"},
                 {"patient=2", "'patient', which the contract has for another use"},
                 {"note=2", "'note', which the contract has for another use"},
                 {"age=3", "'age' as categories, and it holds numbers"},
                 {"sex=0:1:2", "'sex' as numbers, and it holds 2 categories: sex=2"},
                 {"sex=3", "'sex' as 3 categories, and it holds 2"},
                 {"sugar=0:300:3", "'sugar' as numbers, and it holds 2 categories"}};
    struct spoke_schema *schema;
    cr_assert(eq(int, spoke_schema_open(temp_file("s.yaml", contract), &schema, &err), TIER_OK),
              "%s", err.text);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        columns(&cases[i].column, 1);
        cr_assert(eq(int, spoke_statistics_check(&plan, schema, &err), TIER_EPOLICY), "%s",
                  cases[i].column);
        cr_assert(strstr(err.text, cases[i].why) != NULL, "%s", err.text);
    }
    const char *const good[] = {"age=0:10:2", "sex=2", "sugar=2"};
    columns(good, 3);
    cr_assert(eq(int, spoke_statistics_check(&plan, schema, &err), TIER_OK));
    spoke_schema_free(schema);
}
