/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hub keeps of single children: `contribution` shows what each gave and what came of it,
 * `quarantine list` whose updates were put aside and why, `quarantine pardon` takes one back.
 */
#include "hub/cli.h"

#include <inttypes.h>
#include <stdio.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static enum tier_status take(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);

    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "the hub answered with %zu bytes", n);
    tier_console_contributors_release(arg);
    return tier_console_contributors(bytes, n, arg, err);
}

static bool in_quarantine(const struct tier_console_contributor *c) {
    return c->quarantined > 0 || c->strikes > 0 || c->out;
}

static json_t *contributor_json(const struct tier_console_contributor *c) {
    char hex[TIER_HASH_HEX] = "";

    if (!tier_hash_is_zero(&c->update))
        tier_hash_hex(&c->update, hex);
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:s, s:I, s:I, s:b, s:I, s:s, s:s}",
                     "child", c->name, "updates", (json_int_t)c->updates, "weight",
                     (json_int_t)c->weight, "bytes", (json_int_t)c->bytes, "rounds",
                     (json_int_t)c->shares, "share", c->share, "error", c->error, "without",
                     c->without, "utility", c->utility, "quarantined", (json_int_t)c->quarantined,
                     "strikes", (json_int_t)c->strikes, "out", (int)c->out, "round",
                     (json_int_t)c->round, "update", hex, "reason", c->why);
}

static int print_json(const struct tier_console_contributors *all, bool quarantine) {
    json_t *children = json_array();
    char hex[TIER_HASH_HEX];

    for (size_t i = 0; i < all->count; i++)
        if (!quarantine || in_quarantine(&all->item[i]))
            json_array_append_new(children, contributor_json(&all->item[i]));
    return cli_print_json(json_pack("{s:s, s:s, s:o}", "run", tier_hash_hex(&all->run, hex), "name",
                                    all->name, "children", children));
}

static void print_contribution(const struct tier_console_contributors *all) {
    printf("%-24s %7s %10s %14s %7s %9s %9s %9s\n", "child", "updates", "weight", "bytes", "rounds",
           "share", "+-", "without");
    for (size_t i = 0; i < all->count; i++) {
        const struct tier_console_contributor *c = &all->item[i];
        double n = c->shares > 0 ? (double)c->shares : 1;
        printf("%-24s %7" PRIu64 " %10" PRIu64 " %14" PRIu64 " %7" PRIu64, c->name, c->updates,
               c->weight, c->bytes, c->shares);
        if (c->shares > 0)
            printf(" %9.4f %9.4f %9.4f\n", c->share / n, c->error / n, c->without / n);
        else
            printf(" %9s %9s %9s\n", "-", "-", "-");
    }
    printf("share, without: of a round, in the mean; of the utility %s\n",
           all->count > 0 ? all->item[0].utility : "(none)");
}

static void print_quarantine(const struct tier_console_contributors *all) {
    char hex[TIER_HASH_HEX];

    printf("%-24s %-8s %7s %7s %6s  %-12s  %s\n", "child", "state", "updates", "strikes", "round",
           "last", "why");
    for (size_t i = 0; i < all->count; i++) {
        const struct tier_console_contributor *c = &all->item[i];
        if (in_quarantine(c))
            printf("%-24s %-8s %7" PRIu64 " %7" PRIu64 " %6" PRIu64 "  %.12s  %s\n", c->name,
                   c->out ? "out" : "takes part", c->quarantined, c->strikes, c->round,
                   tier_hash_hex(&c->update, hex), c->why);
    }
}

static int print(const struct tier_console_contributors *all, bool json, bool quarantine) {
    char hex[TIER_HASH_HEX];

    if (json)
        return print_json(all, quarantine);
    printf("%.12s  %s\n", tier_hash_hex(&all->run, hex), all->name);
    (quarantine ? print_quarantine : print_contribution)(all);
    if (all->total > all->count)
        printf("and %zu more\n", (size_t)all->total - all->count);
    return cli_done();
}

static int list(int argc, char **argv, const char *name, const char *help, bool quarantine) {
    struct cli_connection c = {0};
    const char *which;
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {name, "[RUN]", help};
    struct tier_console_run_request request;
    struct tier_console_contributors all = {0};
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &which, 0, 1);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(cli_run_prefix(which, request.run, &err));
    TIER_TRY_OUT(cli_hub_open(&c, &hub, &err));
    TIER_TRY_OUT(cli_hub_ask(hub, TIER_PATH_CONSOLE_CONTRIBUTORS,
                             tier_console_run_request_bytes(&request), CLI_DEADLINE_MS, take, &all,
                             &err));
    code = print(&all, json, quarantine);
out:
    tier_console_contributors_release(&all);
    cli_hub_close(hub);
    return st == TIER_OK ? code : cli_failed(&err);
}

int cli_contribution(int argc, char **argv) {
    return list(argc, argv, "contribution",
                "Shows what each child of the hub that is asked gave to a run (the newest where "
                "none is named) and its share in the result, where the plan has "
                "tiers.*.contribution.permutations",
                false);
}

int cli_quarantine_list(int argc, char **argv) {
    return list(argc, argv, "quarantine list",
                "Shows whose updates failed a tier's screen in a run (the newest where none is "
                "named), why, and who is kept out",
                true);
}

int cli_quarantine_pardon(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *which, *run = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {"run", CLI_TEXT, &run, "RUN", "the run (the newest where none is named)", NULL, false, 0,
         0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {
        "quarantine pardon", "CHILD",
        "Takes a child back into a run that keeps it out, and forgives its strikes. What is in "
        "quarantine of it stays there: it counts in no round"};
    struct tier_console_pardon request = {.run = ""};
    struct tier_console_contributors all = {0};
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    enum tier_status st = TIER_OK;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &which, 1, 1);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(cli_run_prefix(run, request.run, &err));
    if (snprintf(request.child, sizeof request.child, "%s", which) >= (int)sizeof request.child) {
        st = tier_fail(&err, TIER_EARG, "'%s' is no child's name: it is too long", which);
        goto out;
    }
    TIER_TRY_OUT(cli_hub_open(&c, &hub, &err));
    TIER_TRY_OUT(cli_hub_ask(hub, TIER_PATH_CONSOLE_PARDON, tier_console_pardon_bytes(&request),
                             CLI_DEADLINE_MS, take, &all, &err));
    code = print(&all, json, true);
out:
    tier_console_contributors_release(&all);
    cli_hub_close(hub);
    return st == TIER_OK ? code : cli_failed(&err);
}
