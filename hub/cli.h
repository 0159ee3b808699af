/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operator's program `consilium`: its commands, and what they share. A command is a function
 * that reads its own table of options, does one thing, and returns the exit status: 0 done,
 * 1 failed (with a line on stderr), 2 usage. Options are long only.
 *
 * Threads: the main thread only; calls to a hub block it on a loop of their own.
 */
#ifndef CONSILIUM_HUB_CLI_H
#define CONSILIUM_HUB_CLI_H

#include "tier/console_wire.h"
#include "tier/identity.h"
#include "tier/manifest.h"
#include "tier/rpc.h"

#include <jansson.h>

#define CLI_OK 0
#define CLI_FAILED 1
#define CLI_USAGE 2
#define CLI_GO (-1) /* of cli_parse: go on */

/* ---- options ---- */

enum cli_type { CLI_TEXT, CLI_NUMBER, CLI_REAL, CLI_FLAG };

struct cli_option {
    const char *name; /* "hub" for --hub */
    enum cli_type type;
    void *value; /* const char **, int64_t *, double *, bool *; what it holds is the default */
    const char *argument; /* "HOST:PORT"; NULL for a flag */
    const char *help;
    const char *env; /* a variable that stands in for it, or NULL */
    bool required;
    int64_t min, max; /* of a number */
};

struct cli_usage {
    const char *command;   /* "run start" */
    const char *arguments; /* "PLAN" or "[RUN]"; "" where it takes none */
    const char *purpose;
};

/*
 * Reads what stands behind the command's words: "--name value" and "--name=value"; the rest goes to
 * args, args_min to args_max of it (those left out become NULL). Gives CLI_GO, or the exit status
 * after --help was shown or a mistake told.
 */
int cli_parse(const struct cli_usage *usage, const struct cli_option *options, size_t count,
              int argc, char **argv, const char **args, size_t args_min, size_t args_max);

/* "consilium: ..." on stderr, in one line whatever the text holds: some of it comes from a hub. */
void cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Tells it and returns CLI_FAILED. */
int cli_failed(const struct tier_err *err);
/* One line of JSON on stdout; takes the value. CLI_FAILED where stdout cannot take it. */
int cli_print_json(json_t *value);
/* Flushes stdout: CLI_FAILED where it could not take everything. */
int cli_done(void);
/* "2026-01-31 17:00" UTC, "-" for 0; returns buf of 20 bytes. */
const char *cli_time(int64_t ms, char *buf);
#define CLI_TIME_SIZE 20
/* "64x3x7x7", "scalar"; cut where buf is too small. */
void cli_shape(const struct tier_tensor *t, char *buf, size_t bytes);

/* Gives "<dir>/<hash><suffix>", which is whole, the name `out` in the same directory; deletes it
 * where that fails. */
enum tier_status cli_place(const char *dir, const struct tier_hash *hash, const char *suffix,
                           const char *out, struct tier_err *err);

/* What a plan costs at a site with so many training rows, or (0) at several such; null without
 * `privacy`, NULL with err. And the same for people. */
struct tier_plan;
json_t *cli_budget_json(const struct tier_plan *plan, int64_t rows, struct tier_err *err);
void cli_budget_print(const json_t *privacy);

/* ---- commands: argv is what stands behind the command's words ---- */

int cli_pki_init(int argc, char **argv);
int cli_pki_set(int argc, char **argv);
int cli_key_protect(int argc, char **argv);
int cli_token_create(int argc, char **argv);
int cli_enroll(int argc, char **argv);
int cli_renew(int argc, char **argv);
int cli_revoke(int argc, char **argv);
int cli_plan_check(int argc, char **argv);
int cli_plan_show(int argc, char **argv);
int cli_plan_sign(int argc, char **argv);
int cli_run_start(int argc, char **argv);
int cli_run_list(int argc, char **argv);
int cli_run_watch(int argc, char **argv);
int cli_run_stop(int argc, char **argv);
int cli_node_list(int argc, char **argv);
int cli_model_pull(int argc, char **argv);
int cli_model_release(int argc, char **argv);
int cli_model_info(int argc, char **argv);
int cli_model_strip(int argc, char **argv);
int cli_model_export(int argc, char **argv);
int cli_model_init(int argc, char **argv);
int cli_audit_verify(int argc, char **argv);
int cli_audit_replay(int argc, char **argv);
int cli_audit_export(int argc, char **argv);
int cli_stats(int argc, char **argv);
int cli_contribution(int argc, char **argv);
int cli_overlap(int argc, char **argv);
int cli_quarantine_list(int argc, char **argv);
int cli_quarantine_pardon(int argc, char **argv);
int cli_privacy_cost(int argc, char **argv);
int cli_privacy_noise(int argc, char **argv);

/* ---- talking to a hub (cli_net.c) ---- */

struct cli_connection {
    const char *hub, *hub_name, *identity;
    bool insecure;
};
#define CLI_CONNECTION_OPTIONS(c)                                                                  \
    {"hub", CLI_TEXT, &(c).hub, "HOST:PORT", "the hub's address", "CONSILIUM_HUB", true, 0, 0},    \
        {"hub-name",                                                                               \
         CLI_TEXT,                                                                                 \
         &(c).hub_name,                                                                            \
         "NAME",                                                                                   \
         "the name that the hub's certificate must carry",                                         \
         "CONSILIUM_HUB_NAME",                                                                     \
         false,                                                                                    \
         0,                                                                                        \
         0},                                                                                       \
        {"identity",                                                                               \
         CLI_TEXT,                                                                                 \
         &(c).identity,                                                                            \
         "DATA_DIR",                                                                               \
         "the data directory in which you are enrolled",                                           \
         "CONSILIUM_IDENTITY",                                                                     \
         false,                                                                                    \
         0,                                                                                        \
         0},                                                                                       \
    {                                                                                              \
        "insecure", CLI_FLAG, &(c).insecure, NULL,                                                 \
            "without TLS, to a hub that runs with tls: off", NULL, false, 0, 0                     \
    }

struct cli_hub;
/* Connects when the first call is made. */
enum tier_status cli_hub_open(const struct cli_connection *c, struct cli_hub **out,
                              struct tier_err *err);
void cli_hub_close(struct cli_hub *hub);

/* Who calls; NULL without TLS. */
const struct tier_node *cli_hub_node(const struct cli_hub *hub);

/* What one call sends and takes. */
struct cli_call {
    void *arg;
    /* The next message, or one without data where there is no more. */
    enum tier_status (*next)(void *arg, struct tier_bytes *out, struct tier_err *err);
    enum tier_status (*message)(void *arg, struct tier_rpc_message *m, struct tier_err *err);
    uint64_t deadline_ms; /* 0: none */
};
enum tier_status cli_hub_call(struct cli_hub *hub, const char *path, const struct cli_call *call,
                              struct tier_err *err);
/* One request (taken), any number of replies. */
enum tier_status cli_hub_ask(struct cli_hub *hub, const char *path, struct tier_bytes request,
                             uint64_t deadline_ms,
                             enum tier_status (*message)(void *arg, struct tier_rpc_message *m,
                                                         struct tier_err *err),
                             void *arg, struct tier_err *err);
/* A message callback that reads one RunInfo into a struct tier_console_run. */
enum tier_status cli_take_run(void *run, struct tier_rpc_message *m, struct tier_err *err);
/* Asks for what takes two operators, and prints how far it is. */
enum tier_status cli_approve(const struct cli_connection *c, enum tier_console_action action,
                             const char *subject, struct tier_err *err);
/* Checks a run's id or beginning as typed. */
enum tier_status cli_run_prefix(const char *typed, char out[TIER_HASH_HEX], struct tier_err *err);

#define CLI_DEADLINE_MS 30000

/* ---- following a run (cli_watch.c) ---- */

enum cli_watch_style { CLI_WATCH_QUIET, CLI_WATCH_LINES, CLI_WATCH_SCREEN, CLI_WATCH_JSON };
/*
 * Follows a run until it ends, over losses of the connection of up to a minute. *completed_out says
 * how it ended; otherwise than completed is told on stderr. `prefix` as in RunRequest.
 */
enum tier_status cli_watch(struct cli_hub *hub, const char *prefix, enum cli_watch_style style,
                           bool *completed_out, struct tier_err *err);

#endif
