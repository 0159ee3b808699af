/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/cli.h"
#include "tier/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ---- start ---- */

/* The parts of a start, in order: the plan, then the graph from its file. */
struct start {
    char *plan;
    size_t plan_bytes;
    bool plan_sent;
    char signature[TIER_SIGNED_BYTES_MAX];
    size_t signature_bytes;
    int fd;
    const char *path;
    uint8_t *chunk;
    struct tier_console_run run;
};

static enum tier_status start_next(void *arg, struct tier_bytes *out, struct tier_err *err) {
    struct start *s = arg;
    struct tier_console_part part = {.is_plan = true,
                                     .data = (const uint8_t *)s->plan,
                                     .bytes = s->plan_bytes,
                                     .signature = (const uint8_t *)s->signature,
                                     .signature_bytes = s->signature_bytes};
    size_t n = 0;

    if (!s->plan_sent) {
        s->plan_sent = true;
        *out = tier_console_part_bytes(&part);
        return TIER_OK;
    }
    while (n < TIER_CHUNK_BYTES) {
        ssize_t k = read(s->fd, s->chunk + n, TIER_CHUNK_BYTES - n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot read %s", s->path);
        if (k == 0)
            break;
        n += (size_t)k;
    }
    part = (struct tier_console_part){.data = s->chunk, .bytes = n};
    if (n)
        *out = tier_console_part_bytes(&part);
    return TIER_OK;
}

static enum tier_status start_reply(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    return cli_take_run(&((struct start *)arg)->run, m, err);
}

/* The file that was named, or what 'plan sign' left beside the plan, if it did. */
static enum tier_status read_signature(struct start *s, const char *plan_path, const char *named,
                                       struct tier_err *err) {
    char beside[TIER_PLAN_PATH_BYTES];
    const char *path = named ? named : beside;

    snprintf(beside, sizeof beside, "%s.sig", plan_path);
    FILE *f = fopen(path, "re");
    if (!f && !named && errno == ENOENT)
        return TIER_OK;
    if (!f)
        return tier_fail_errno(err, TIER_EIO, "cannot read %s", path);
    s->signature_bytes = fread(s->signature, 1, sizeof s->signature, f);
    bool whole = fgetc(f) == EOF && !ferror(f);
    fclose(f);
    return whole ? TIER_OK
                 : tier_fail(err, TIER_ELIMIT, "%s is no signature: it has more than %u bytes",
                             path, TIER_SIGNED_BYTES_MAX);
}

/* All of the plan's problems are told here; err is set either way. */
static enum tier_status start_open(struct start *s, const char *plan_path, char *model_path,
                                   struct tier_err *err) {
    struct tier_problems *problems = calloc(1, sizeof *problems);
    struct tier_plan *plan = calloc(1, sizeof *plan);
    enum tier_status st;

    s->fd = -1;
    s->chunk = malloc(TIER_CHUNK_BYTES);
    s->path = model_path;
    if (!problems || !plan || !s->chunk) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a plan");
        goto out;
    }
    st = tier_plan_load(plan_path, plan, model_path, problems, err);
    for (size_t i = 1; i < problems->count; i++) /* the first is in err */
        cli_error("%s", problems->item[i].text);
    if (st != TIER_OK)
        goto out;
    TIER_TRY_OUT(tier_plan_canonical(plan, &s->plan, &s->plan_bytes, NULL, err));
    s->fd = open(model_path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0)
        st = tier_fail_errno(err, TIER_EIO, "cannot read %s", model_path);
out:
    free(problems);
    free(plan);
    return st;
}

int cli_run_start(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *plan_path, *signature = NULL;
    bool wait = false, json = false, completed = true;
    const struct cli_option options[] = {
        {"wait", CLI_FLAG, &wait, NULL, "until it has ended; succeeds only where it completed",
         NULL, false, 0, 0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        {"signature", CLI_TEXT, &signature, "FILE",
         "of 'plan sign'; PLAN.sig if that is there and nothing is named", NULL, false, 0, 0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {
        "run start", "PLAN",
        "Checks a plan, uploads it with its graph to the top, and prints the id of its run"};
    char model_path[TIER_PLAN_PATH_BYTES], hex[TIER_HASH_HEX];
    struct start s = {0};
    const struct cli_call call = {&s, start_next, start_reply, 0};
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &plan_path, 1, 1);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(start_open(&s, plan_path, model_path, &err));
    TIER_TRY_OUT(read_signature(&s, plan_path, signature, &err));
    TIER_TRY_OUT(cli_hub_open(&c, &hub, &err));
    TIER_TRY_OUT(cli_hub_call(hub, TIER_PATH_CONSOLE_START, &call, &err));
    if (tier_hash_is_zero(&s.run.run)) {
        st = tier_fail(&err, TIER_EPROTO, "the hub answered without a run");
        goto out;
    }
    tier_hash_hex(&s.run.run, hex);
    if (json)
        cli_print_json(json_pack("{s:s, s:s}", "run", hex, "name", s.run.name));
    else
        puts(hex);
    fflush(stdout); /* whoever waits for the id need not wait for the end */
    if (wait)
        st = cli_watch(hub, hex, CLI_WATCH_QUIET, &completed, &err);
out:
    tier_console_run_release(&s.run);
    cli_hub_close(hub);
    free(s.plan);
    free(s.chunk);
    if (s.fd >= 0)
        close(s.fd);
    if (st != TIER_OK)
        return cli_failed(&err);
    return completed ? cli_done() : CLI_FAILED;
}

/* ---- list ---- */

static enum tier_status take_runs(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    struct tier_console_runs runs;
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);

    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "the hub answered with %zu bytes", n);
    TIER_TRY(tier_console_runs(bytes, n, &runs, err));
    tier_console_runs_release(arg);
    memcpy(arg, &runs, sizeof runs);
    return TIER_OK;
}

static int print_runs(const struct tier_console_runs *runs, bool json) {
    json_t *list = json ? json_array() : NULL;
    char hex[TIER_HASH_HEX], model[TIER_HASH_HEX], when[CLI_TIME_SIZE], round[48];

    if (!json)
        printf("%-12s  %-16s  %-9s  %9s  %8s  %-16s  %s\n", "RUN", "STARTED (UTC)", "STATE",
               "ROUND", "CHILDREN", "NAME", "REASON");
    for (size_t i = 0; i < runs->count; i++) {
        const struct tier_console_run *r = &runs->item[i];
        tier_hash_hex(&r->run, hex);
        tier_hash_hex(&r->model, model);
        snprintf(round, sizeof round, "%" PRIu64 "/%" PRIu64, r->round, r->rounds);
        if (json)
            json_array_append_new(
                list,
                json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:I}", "run", hex, "name",
                          r->name, "state", r->state, "round", (json_int_t)r->round, "rounds",
                          (json_int_t)r->rounds, "model", tier_hash_is_zero(&r->model) ? "" : model,
                          "reason", r->reason, "created_ms", (json_int_t)r->created_ms, "children",
                          (json_int_t)r->children_total));
        else
            printf("%.12s  %-16s  %-9s  %9s  %8u  %-16s  %s\n", hex, cli_time(r->created_ms, when),
                   r->state, round, r->children_total, r->name, r->reason);
    }
    return json ? cli_print_json(json_pack("{s:o}", "runs", list)) : cli_done();
}

int cli_run_list(int argc, char **argv) {
    struct cli_connection c = {0};
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {"run list", "", "Lists a hub's runs, newest first"};
    struct tier_console_runs runs = {0};
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    enum tier_status st = cli_hub_open(&c, &hub, &err);
    if (st == TIER_OK)
        st = cli_hub_ask(hub, TIER_PATH_CONSOLE_RUNS, tier_console_empty_bytes(), CLI_DEADLINE_MS,
                         take_runs, &runs, &err);
    code = st == TIER_OK ? print_runs(&runs, json) : cli_failed(&err);
    tier_console_runs_release(&runs);
    cli_hub_close(hub);
    return code;
}

/* ---- stop and watch ---- */

int cli_run_stop(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *which;
    const struct cli_option options[] = {CLI_CONNECTION_OPTIONS(c)};
    const struct cli_usage usage = {"run stop", "RUN",
                                    "Stops a run at the top; its last published model stays"};
    struct tier_console_run_request request;
    struct tier_console_run run = {0};
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &which, 1, 1);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(cli_run_prefix(which, request.run, &err));
    TIER_TRY_OUT(cli_hub_open(&c, &hub, &err));
    TIER_TRY_OUT(cli_hub_ask(hub, TIER_PATH_CONSOLE_STOP, tier_console_run_request_bytes(&request),
                             CLI_DEADLINE_MS, cli_take_run, &run, &err));
out:
    tier_console_run_release(&run);
    cli_hub_close(hub);
    return st == TIER_OK ? CLI_OK : cli_failed(&err);
}

int cli_run_watch(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *which;
    bool json = false, completed = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object a line, a line a change", NULL, false, 0,
         0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {
        "run watch", "[RUN]",
        "Follows a run (the newest where none is named) until it ends: a live picture on a "
        "terminal, a line a change elsewhere. Succeeds only where the run completed"};
    char prefix[TIER_HASH_HEX];
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &which, 0, 1);

    if (code != CLI_GO)
        return code;
    enum cli_watch_style style = json                    ? CLI_WATCH_JSON
                                 : isatty(STDOUT_FILENO) ? CLI_WATCH_SCREEN
                                                         : CLI_WATCH_LINES;
    TIER_TRY_OUT(cli_run_prefix(which, prefix, &err));
    TIER_TRY_OUT(cli_hub_open(&c, &hub, &err));
    TIER_TRY_OUT(cli_watch(hub, prefix, style, &completed, &err));
out:
    cli_hub_close(hub);
    if (st != TIER_OK)
        return cli_failed(&err);
    return completed ? cli_done() : CLI_FAILED;
}

/* ---- nodes ---- */

static enum tier_status take_nodes(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    struct tier_console_nodes nodes;
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);

    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "the hub answered with %zu bytes", n);
    TIER_TRY(tier_console_nodes(bytes, n, &nodes, err));
    tier_console_nodes_release(arg);
    memcpy(arg, &nodes, sizeof nodes);
    return TIER_OK;
}

static json_t *node_json(const struct tier_console_node *n) {
    return json_pack("{s:s, s:s, s:s, s:s, s:I}", "name", n->name, "state", n->state, "address",
                     n->address, "software", n->software, "since_ms", (json_int_t)n->since_ms);
}

static void print_node(const struct tier_console_node *n) {
    char when[CLI_TIME_SIZE];
    printf("%-20s  %-9s  %-24s  %-16s  %s\n", n->name, n->state, n->address, n->software,
           cli_time(n->since_ms, when));
}

static int print_nodes(const struct tier_console_nodes *nodes, bool json) {
    if (json) {
        json_t *children = json_array();
        for (size_t i = 0; i < nodes->count; i++)
            json_array_append_new(children, node_json(&nodes->children[i]));
        return cli_print_json(json_pack("{s:o, s:o, s:I}", "self", node_json(&nodes->self),
                                        "children", children, "children_total",
                                        (json_int_t)nodes->total));
    }
    printf("%-20s  %-9s  %-24s  %-16s  %s\n", "NAME", "STATE", "ADDRESS", "SOFTWARE",
           "SINCE (UTC)");
    print_node(&nodes->self);
    for (size_t i = 0; i < nodes->count; i++)
        print_node(&nodes->children[i]);
    if (nodes->total > nodes->count)
        printf("and %zu more\n", nodes->total - nodes->count);
    return cli_done();
}

int cli_node_list(int argc, char **argv) {
    struct cli_connection c = {0};
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {
        "node list", "", "Lists a hub, its attending children, and those its open runs miss"};
    struct tier_console_nodes nodes = {.count = 0};
    struct cli_hub *hub = NULL;
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    enum tier_status st = cli_hub_open(&c, &hub, &err);
    if (st == TIER_OK)
        st = cli_hub_ask(hub, TIER_PATH_CONSOLE_NODES, tier_console_empty_bytes(), CLI_DEADLINE_MS,
                         take_nodes, &nodes, &err);
    code = st == TIER_OK ? print_nodes(&nodes, json) : cli_failed(&err);
    tier_console_nodes_release(&nodes);
    cli_hub_close(hub);
    return code;
}
