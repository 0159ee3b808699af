/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/statistics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_SIZE (16 + TIER_HASH_HEX)

static const char *key_of(const struct hub_run *run, char key[KEY_SIZE]) {
    snprintf(key, KEY_SIZE, "statistics.%s", run->hex);
    return key;
}

enum tier_status hub_statistics_keep(const struct hub_run *run, const struct tier_metrics *sums,
                                     struct tier_err *err) {
    uint8_t *bytes = NULL;
    size_t n;
    char key[KEY_SIZE];

    TIER_TRY(tier_metrics_encode(sums, &bytes, &n, err));
    enum tier_status st =
        tier_journal_kv_put(run->hub->home.journal, key_of(run, key), bytes, n, err);
    free(bytes);
    return st;
}

static enum tier_status fill(const struct hub_run *run, const struct tier_metrics *sums,
                             struct tier_console_statistics *out, struct tier_err *err) {
    size_t count = run->plan.statistics.columns.count, bins;
    char name[TIER_NAME_LEN_MAX + 1];

    *out = (struct tier_console_statistics){
        .run = run->id, .sites = (uint64_t)tier_metrics_scalar(sums, TIER_STATISTIC_SITES)};
    memcpy(out->name, run->plan.name, sizeof out->name);
    out->item = calloc(count, sizeof *out->item);
    if (!out->item)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu columns", count);
    for (size_t i = 0; i < count; i++) {
        struct tier_console_statistic *s = &out->item[out->count];
        tier_statistic_at(&run->plan, i, &s->column);
        snprintf(name, sizeof name, TIER_STATISTIC_PREFIX "%s", s->column.name);
        const int64_t *values = tier_metrics_get(sums, name, &bins);
        if (!values || bins != TIER_STATISTIC_CELLS + s->column.cells)
            continue;
        memcpy(s->bins, values, bins * sizeof *values);
        out->count++;
    }
    return TIER_OK;
}

enum tier_status hub_statistics_view(const struct hub_run *run, struct tier_console_statistics *out,
                                     struct tier_err *err) {
    struct tier_journal_blob blob = {0};
    struct tier_metrics *sums = NULL;
    enum tier_status st = TIER_OK;
    char key[KEY_SIZE];

    if (!tier_statistics_on(&run->plan))
        return tier_fail(err, TIER_EARG,
                         "run %.12s trains a model: a plan with statistics.columns counts",
                         run->hex);
    st = tier_journal_kv_get(run->hub->home.journal, key_of(run, key), &blob, err);
    if (st == TIER_ENOTFOUND)
        return tier_fail(err, st, "run %.12s has not counted here yet", run->hex);
    if (st == TIER_OK)
        st = tier_metrics_decode(blob.data, blob.bytes, &sums, err);
    if (st == TIER_OK)
        st = fill(run, sums, out, err);
    tier_metrics_free(sums);
    tier_journal_blob_release(&blob);
    return st;
}
