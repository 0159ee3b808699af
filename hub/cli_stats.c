/* SPDX-License-Identifier: Apache-2.0 */
/* What a run of statistics counted: tables for a person, exact sums with --json. */
#include "hub/cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define BAR_CELLS 32

static enum tier_status take_statistics(void *arg, struct tier_rpc_message *m,
                                        struct tier_err *err) {
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);

    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "the hub answered with %zu bytes", n);
    tier_console_statistics_release(arg);
    return tier_console_statistics(bytes, n, arg, err);
}

static json_t *real(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *column_json(const struct tier_console_statistic *s) {
    const struct tier_statistic *c = &s->column;
    struct tier_statistic_figures f = tier_statistic_figures(c, s->bins);
    json_t *cells = json_array();
    json_t *o = json_pack("{s:s, s:s, s:I, s:I}", "column", c->name, "kind",
                          c->category ? "category" : "number", "rows", (json_int_t)f.rows,
                          "missing", (json_int_t)f.missing);

    for (size_t i = 0; i < c->cells; i++)
        json_array_append_new(cells, json_integer((json_int_t)s->bins[TIER_STATISTIC_CELLS + i]));
    json_object_set_new(o, "cells", cells);
    if (c->category)
        return o;
    const struct {
        const char *name;
        double value;
    } reals[] = {{"low", c->low}, {"high", c->high}, {"mean", f.mean},
                 {"std", f.std},  {"q05", f.q05},    {"q25", f.q25},
                 {"q50", f.q50},  {"q75", f.q75},    {"q95", f.q95}};
    for (size_t i = 0; i < COUNT(reals); i++)
        json_object_set_new(o, reals[i].name, real(reals[i].value));
    json_object_set_new(o, "below", json_integer((json_int_t)f.below));
    json_object_set_new(o, "above", json_integer((json_int_t)f.above));
    json_object_set_new(o, "sum", json_integer((json_int_t)s->bins[TIER_STATISTIC_SUM]));
    json_object_set_new(o, "squares", json_integer((json_int_t)s->bins[TIER_STATISTIC_SQUARES]));
    return o;
}

static int print_json(const struct tier_console_statistics *all) {
    json_t *columns = json_array();
    char hex[TIER_HASH_HEX];

    for (size_t i = 0; i < all->count; i++)
        json_array_append_new(columns, column_json(&all->item[i]));
    return cli_print_json(json_pack("{s:s, s:s, s:I, s:o}", "run", tier_hash_hex(&all->run, hex),
                                    "name", all->name, "sites", (json_int_t)all->sites, "columns",
                                    columns));
}

static void print_bar(int64_t count, int64_t most) {
    int cells = most > 0 ? (int)((double)count / (double)most * BAR_CELLS + 0.5) : 0;

    for (int i = 0; i < cells; i++)
        putchar('#');
    putchar('\n');
}

static void print_column(const struct tier_console_statistic *s) {
    const struct tier_statistic *c = &s->column;
    struct tier_statistic_figures f = tier_statistic_figures(c, s->bins);
    const int64_t *cells = s->bins + TIER_STATISTIC_CELLS;
    double width = (c->high - c->low) / (double)c->cells;
    int64_t most = 0;

    printf("\n%s: %" PRIu64 " rows, %" PRIu64 " missing", c->name, f.rows, f.missing);
    if (!c->category)
        printf(", %" PRIu64 " below %g, %" PRIu64 " above %g", f.below, c->low, f.above, c->high);
    putchar('\n');
    if (!c->category && f.rows)
        printf("  mean %.6g, std %.6g; quantiles 5 %% %.4g, 25 %% %.4g, 50 %% %.4g, 75 %% %.4g, "
               "95 %% %.4g\n",
               f.mean, f.std, f.q05, f.q25, f.q50, f.q75, f.q95);
    for (size_t i = 0; i < c->cells; i++)
        most = cells[i] > most ? cells[i] : most;
    for (size_t i = 0; i < c->cells; i++) {
        char label[48];
        if (c->category)
            snprintf(label, sizeof label, "%zu", i);
        else
            snprintf(label, sizeof label, "%.6g to %.6g", c->low + width * (double)i,
                     c->low + width * (double)(i + 1));
        printf("  %-24s %12" PRId64 "  ", label, cells[i]);
        print_bar(cells[i], most);
    }
}

static int print_text(const struct tier_console_statistics *all) {
    char hex[TIER_HASH_HEX];

    printf("%.12s  %s  %" PRIu64 " hospitals\n", tier_hash_hex(&all->run, hex), all->name,
           all->sites);
    for (size_t i = 0; i < all->count; i++)
        print_column(&all->item[i]);
    return cli_done();
}

int cli_stats(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *which;
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {
        "stats", "[RUN]",
        "Shows what a run of a plan with statistics.columns counted (the newest where none is "
        "named), of all hospitals below the hub that is asked"};
    struct tier_console_run_request request;
    struct tier_console_statistics all = {0};
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &which, 0, 1);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(cli_run_prefix(which, request.run, &err));
    TIER_TRY_OUT(cli_hub_open(&c, &hub, &err));
    TIER_TRY_OUT(cli_hub_ask(hub, TIER_PATH_CONSOLE_STATISTICS,
                             tier_console_run_request_bytes(&request), CLI_DEADLINE_MS,
                             take_statistics, &all, &err));
    code = (json ? print_json : print_text)(&all);
out:
    tier_console_statistics_release(&all);
    cli_hub_close(hub);
    return st == TIER_OK ? code : cli_failed(&err);
}
