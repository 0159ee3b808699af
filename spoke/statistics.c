/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/statistics.h"

#include <stdlib.h>
#include <string.h>

struct counter {
    struct tier_statistic column;
    int64_t bins[TIER_STATISTIC_BINS_MAX];
};

struct count {
    struct counter *counters;
    size_t n;
    bool sums; /* the second pass */
    const struct spoke_consent *consents;
    int purpose;
};

static const struct spoke_column *column_of(const struct spoke_schema *schema, const char *name) {
    for (uint32_t i = 0; i < schema->columns_count; i++)
        if (strcmp(schema->columns[i].name, name) == 0)
            return &schema->columns[i];
    return NULL;
}

/* How many categories a column has here; 0: it holds numbers. */
static size_t categories_of(const struct spoke_column *c) {
    if (c->type == SPOKE_COLUMN_NUMBER || c->value)
        return 0;
    return c->positive_above ? 2 : c->categories_count;
}

static bool is_counted(const struct spoke_column *c) {
    return c->type == SPOKE_COLUMN_NUMBER || c->type == SPOKE_COLUMN_CATEGORY ||
           c->type == SPOKE_COLUMN_TARGET || c->type == SPOKE_COLUMN_EVENT;
}

enum tier_status spoke_statistics_check(const struct tier_plan *plan,
                                        const struct spoke_schema *schema, struct tier_err *err) {
    struct tier_statistic s;

    if (schema->kind == SPOKE_KIND_NPZ || schema->kind == SPOKE_KIND_BIDS)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan counts columns, and this site's data is no table of them");
    for (size_t i = 0; i < plan->statistics.columns.count; i++) {
        tier_statistic_at(plan, i, &s); /* checked where the plan was read */
        const struct spoke_column *c = column_of(schema, s.name);
        if (!c || !is_counted(c))
            return tier_fail(err, TIER_EPOLICY,
                             "the plan counts column '%s', which the contract %s", s.name,
                             c ? "has for another use than to be learnt from" : "does not have");
        size_t categories = categories_of(c);
        if (!s.category && categories)
            return tier_fail(err, TIER_EPOLICY,
                             "the plan counts column '%s' as numbers, and it holds %zu categories: "
                             "%s=%zu would be right",
                             s.name, categories, s.name, categories);
        if (s.category && !categories)
            return tier_fail(err, TIER_EPOLICY,
                             "the plan counts column '%s' as categories, and it holds numbers: "
                             "%s=LOW:HIGH:CELLS would be right",
                             s.name, s.name);
        if (s.category && categories != s.cells)
            return tier_fail(err, TIER_EPOLICY,
                             "the plan counts column '%s' as %zu categories, and it holds %zu",
                             s.name, s.cells, categories);
    }
    return TIER_OK;
}

static void see_cell(void *arg, const struct spoke_column *column, const double *value) {
    struct count *count = arg;

    for (size_t i = 0; i < count->n; i++) {
        struct counter *c = &count->counters[i];
        if (strcmp(c->column.name, column->name) != 0)
            continue;
        if (value && count->sums)
            tier_statistic_sum(&c->column, *value, c->bins);
        else if (value)
            tier_statistic_count(&c->column, *value, c->bins);
        else if (!count->sums)
            c->bins[TIER_STATISTIC_MISSING]++;
        return;
    }
}

static enum tier_status pass(struct count *count, const char *schema_path, const char *path,
                             struct tier_err *err) {
    const struct spoke_data_options options = {.on_demand = true,
                                               .consent = count->consents,
                                               .purpose = count->purpose,
                                               .cell = see_cell,
                                               .cell_arg = count};
    struct spoke_data *data = NULL;
    enum tier_status st = spoke_data_open(schema_path, path, &options, &data, err);

    spoke_data_free(data);
    return st;
}

enum tier_status spoke_statistics_run(const struct tier_plan *plan, const char *schema_path,
                                      const char *path, const struct spoke_consent *consents,
                                      uint64_t cells_min, struct tier_metrics *out,
                                      struct tier_err *err) {
    const int64_t one = 1;
    struct count count = {.n = plan->statistics.columns.count,
                          .consents = consents,
                          .purpose = plan->governance.purpose};
    enum tier_status st = TIER_OK;
    char name[TIER_NAME_LEN_MAX + 1];

    if (cells_min < plan->statistics.cells_min)
        cells_min = plan->statistics.cells_min;
    count.counters = calloc(count.n, sizeof *count.counters);
    if (!count.counters)
        return tier_fail(err, TIER_ENOMEM, "no memory to count %zu columns", count.n);
    for (size_t i = 0; i < count.n; i++)
        tier_statistic_at(plan, i, &count.counters[i].column);
    TIER_TRY_OUT(pass(&count, schema_path, path, err));
    for (size_t i = 0; i < count.n; i++)
        tier_statistic_cut(&count.counters[i].column, cells_min, count.counters[i].bins);
    count.sums = true;
    TIER_TRY_OUT(pass(&count, schema_path, path, err));
    TIER_TRY_OUT(tier_metrics_add(out, TIER_STATISTIC_SITES, 1, &one, err));
    for (size_t i = 0; i < count.n; i++) {
        const struct counter *c = &count.counters[i];
        snprintf(name, sizeof name, TIER_STATISTIC_PREFIX "%s", c->column.name);
        TIER_TRY_OUT(
            tier_metrics_add(out, name, TIER_STATISTIC_CELLS + c->column.cells, c->bins, err));
    }
out:
    free(count.counters);
    return st;
}
