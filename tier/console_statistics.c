/* SPDX-License-Identifier: Apache-2.0 */
/* The reply of GetStatistics: the part of tier/console_wire.h that is about counts. */
#include "tier/console_wire.h"
#include "tier/wire_field.h"

#include "console.pb-c.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef Consilium__Console__Statistic statistic;

static enum tier_status take_bin(const char *column, uint64_t in, int64_t *out,
                                 struct tier_err *err) {
    if (in > INT64_MAX)
        return tier_fail(err, TIER_EPROTO, "column %s has a sum of %" PRIu64 ", above 63 bits",
                         column, in);
    *out = (int64_t)in;
    return TIER_OK;
}

static enum tier_status take_column(const statistic *p, struct tier_console_statistic *out,
                                    struct tier_err *err) {
    const uint64_t sums[TIER_STATISTIC_CELLS] = {
        [TIER_STATISTIC_ROWS] = p->rows,   [TIER_STATISTIC_MISSING] = p->missing,
        [TIER_STATISTIC_BELOW] = p->below, [TIER_STATISTIC_ABOVE] = p->above,
        [TIER_STATISTIC_SUM] = p->sum,     [TIER_STATISTIC_SQUARES] = p->squares};
    struct tier_statistic *c = &out->column;

    TIER_TRY(tier_wire_text("statistic.column", p->column, c->name, sizeof c->name, err));
    c->category = p->category;
    c->low = p->low;
    c->high = p->high;
    c->cells = p->n_cells;
    if (!isfinite(c->low) || !isfinite(c->high) || (!c->category && !(c->low < c->high)))
        return tier_fail(err, TIER_EPROTO, "column %s has no range", c->name);
    if (c->cells < 1 || c->cells > TIER_STATISTIC_CELLS_MAX)
        return tier_fail(err, TIER_EPROTO, "column %s has %zu cells, 1 to %d are possible", c->name,
                         c->cells, TIER_STATISTIC_CELLS_MAX);
    for (size_t i = 0; i < TIER_STATISTIC_CELLS; i++)
        TIER_TRY(take_bin(c->name, sums[i], &out->bins[i], err));
    for (size_t i = 0; i < c->cells; i++)
        TIER_TRY(take_bin(c->name, p->cells[i], &out->bins[TIER_STATISTIC_CELLS + i], err));
    return TIER_OK;
}

static enum tier_status take_reply(const Consilium__Console__StatisticsReply *p,
                                   struct tier_console_statistics *out, struct tier_err *err) {
    if (!tier_hash_parse(p->run, &out->run))
        return tier_fail(err, TIER_EPROTO,
                         "statistics.run is not a SHA-256 in 64 lower-case hex digits");
    TIER_TRY(tier_wire_text("statistics.name", p->name, out->name, sizeof out->name, err));
    out->sites = p->sites;
    if (p->n_columns > TIER_KEYS_LIST_MAX)
        return tier_fail(err, TIER_EPROTO,
                         "statistics.columns has %zu entries, at most %d are allowed", p->n_columns,
                         TIER_KEYS_LIST_MAX);
    out->item = tier_wire_need(p->n_columns + 1, sizeof *out->item);
    for (size_t i = 0; i < p->n_columns; i++)
        TIER_TRY(take_column(p->columns[i], &out->item[out->count++], err));
    return TIER_OK;
}

enum tier_status tier_console_statistics(const uint8_t *bytes, size_t n,
                                         struct tier_console_statistics *out,
                                         struct tier_err *err) {
    Consilium__Console__StatisticsReply *p =
        consilium__console__statistics_reply__unpack(NULL, n, bytes);

    *out = (struct tier_console_statistics){0};
    if (!p)
        return tier_wire_unreadable("statistics", n, err);
    enum tier_status st = take_reply(p, out, err);
    consilium__console__statistics_reply__free_unpacked(p, NULL);
    if (st != TIER_OK)
        tier_console_statistics_release(out);
    return st;
}

struct tier_bytes tier_console_statistics_bytes(const struct tier_console_statistics *s) {
    Consilium__Console__StatisticsReply p = CONSILIUM__CONSOLE__STATISTICS_REPLY__INIT;
    statistic *column = tier_wire_need(s->count + 1, sizeof *column);
    statistic **columns = tier_wire_need(s->count + 1, sizeof *columns);
    char run[TIER_HASH_HEX];

    for (size_t i = 0; i < s->count; i++) {
        const int64_t *bins = s->item[i].bins;
        const struct tier_statistic *c = &s->item[i].column;
        consilium__console__statistic__init(&column[i]);
        columns[i] = &column[i];
        column[i].column = (char *)c->name;
        column[i].category = c->category;
        column[i].low = c->low;
        column[i].high = c->high;
        column[i].rows = (uint64_t)bins[TIER_STATISTIC_ROWS];
        column[i].missing = (uint64_t)bins[TIER_STATISTIC_MISSING];
        column[i].below = (uint64_t)bins[TIER_STATISTIC_BELOW];
        column[i].above = (uint64_t)bins[TIER_STATISTIC_ABOVE];
        column[i].sum = (uint64_t)bins[TIER_STATISTIC_SUM];
        column[i].squares = (uint64_t)bins[TIER_STATISTIC_SQUARES];
        column[i].n_cells = c->cells;
        column[i].cells = (uint64_t *)(uintptr_t)(bins + TIER_STATISTIC_CELLS);
    }
    p.run = (char *)tier_hash_hex(&s->run, run);
    p.name = (char *)s->name;
    p.sites = s->sites;
    p.n_columns = s->count;
    p.columns = columns;
    struct tier_bytes bytes = tier_wire_pack(&p.base);
    free(columns);
    free(column);
    return bytes;
}

void tier_console_statistics_release(struct tier_console_statistics *s) {
    free(s->item);
    *s = (struct tier_console_statistics){0};
}
