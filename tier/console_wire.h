/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operator's messages as plain structs, and their protobuf bytes (proto/console.proto). As in
 * tier/wire.h, decoding checks every field against a bound and refuses (TIER_EPROTO) by field name,
 * on both ends: a console trusts a hub no more than a hub trusts a console.
 *
 * Ownership: encoders borrow the struct and give heap bytes. A decoded run or list owns its arrays
 * until its _release; decoded requests and parts own nothing or say so.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_CONSOLE_WIRE_H
#define CONSILIUM_TIER_CONSOLE_WIRE_H

#include "tier/statistics.h"
#include "tier/wire.h"

#define TIER_PATH_CONSOLE_START "/consilium.console.Console/StartRun"
#define TIER_PATH_CONSOLE_STOP "/consilium.console.Console/StopRun"
#define TIER_PATH_CONSOLE_RUNS "/consilium.console.Console/ListRuns"
#define TIER_PATH_CONSOLE_WATCH "/consilium.console.Console/WatchRun"
#define TIER_PATH_CONSOLE_NODES "/consilium.console.Console/ListNodes"
#define TIER_PATH_CONSOLE_PULL "/consilium.console.Console/PullModel"
#define TIER_PATH_CONSOLE_APPROVE "/consilium.console.Console/Approve"
#define TIER_PATH_CONSOLE_STATISTICS "/consilium.console.Console/GetStatistics"
#define TIER_PATH_CONSOLE_CONTRIBUTORS "/consilium.console.Console/ListContributors"
#define TIER_PATH_CONSOLE_PARDON "/consilium.console.Console/Pardon"

/* At these bounds the largest RunInfo, NodeList and ContributorList stay within one message of the edge. */
#define TIER_CONSOLE_CHILDREN_MAX 4096
#define TIER_CONSOLE_CONTRIBUTORS_MAX 1024
#define TIER_CONSOLE_ROUNDS_MAX 256
#define TIER_CONSOLE_METRICS_MAX 16
#define TIER_CONSOLE_RUNS_MAX 512
#define TIER_CONSOLE_TEXT_SIZE 64 /* states, phases, addresses: with the terminator */
#define TIER_CONSOLE_REQUEST_BYTES_MAX 4096

struct tier_console_metric {
    char name[TIER_NAME_LEN_MAX + 1];
    double value; /* finite */
};

struct tier_console_round {
    uint64_t number;
    struct tier_console_metric metrics[TIER_CONSOLE_METRICS_MAX];
    size_t metric_count;
    int64_t opened_ms, closed_ms;
    struct tier_hash model; /* zero: none */
    uint64_t weight;
    uint32_t updates;
};

struct tier_console_child {
    char name[TIER_NAME_LEN_MAX + 1];
    bool attending;
    char state[TIER_CONSOLE_TEXT_SIZE], phase[TIER_CONSOLE_TEXT_SIZE];
    uint32_t done, total;
};

struct tier_console_run {
    struct tier_hash run;
    char name[TIER_NAME_LEN_MAX + 1];
    char state[TIER_CONSOLE_TEXT_SIZE], round_state[TIER_CONSOLE_TEXT_SIZE];
    uint64_t round, rounds;
    struct tier_hash model; /* zero: none */
    char reason[TIER_REASON_LEN_MAX + 1];
    int64_t created_ms;
    uint32_t children_total;
    struct tier_console_child *children;
    size_t child_count;
    struct tier_console_round *history;
    size_t history_count;
};

enum tier_status tier_console_run(const uint8_t *bytes, size_t n, struct tier_console_run *out,
                                  struct tier_err *err);
struct tier_bytes tier_console_run_bytes(const struct tier_console_run *run);
void tier_console_run_release(struct tier_console_run *run);

struct tier_console_runs {
    struct tier_console_run *item;
    size_t count;
};
enum tier_status tier_console_runs(const uint8_t *bytes, size_t n, struct tier_console_runs *out,
                                   struct tier_err *err);
struct tier_bytes tier_console_runs_bytes(const struct tier_console_runs *runs);
void tier_console_runs_release(struct tier_console_runs *runs);

struct tier_console_node {
    char name[TIER_NAME_LEN_MAX + 1];
    char state[TIER_CONSOLE_TEXT_SIZE], software[TIER_CONSOLE_TEXT_SIZE];
    char address[264];
    int64_t since_ms;
};
struct tier_console_nodes {
    struct tier_console_node self;
    struct tier_console_node *children;
    size_t count;
    uint32_t total;
};
enum tier_status tier_console_nodes(const uint8_t *bytes, size_t n, struct tier_console_nodes *out,
                                    struct tier_err *err);
struct tier_bytes tier_console_nodes_bytes(const struct tier_console_nodes *nodes);
void tier_console_nodes_release(struct tier_console_nodes *nodes);

/* ---- statistics ---- */

struct tier_console_statistic {
    struct tier_statistic column;
    int64_t bins[TIER_STATISTIC_BINS_MAX]; /* TIER_STATISTIC_CELLS + column.cells of them */
};
struct tier_console_statistics {
    struct tier_hash run;
    char name[TIER_NAME_LEN_MAX + 1];
    uint64_t sites;
    size_t count; /* at most TIER_KEYS_LIST_MAX */
    struct tier_console_statistic *item;
};
enum tier_status tier_console_statistics(const uint8_t *bytes, size_t n,
                                         struct tier_console_statistics *out, struct tier_err *err);
struct tier_bytes tier_console_statistics_bytes(const struct tier_console_statistics *statistics);
void tier_console_statistics_release(struct tier_console_statistics *statistics);

/* ---- contributors ---- */

struct tier_console_contributor {
    char name[TIER_NAME_LEN_MAX + 1];
    uint64_t updates, weight, bytes, shares;
    double share, error, without; /* finite */
    char utility[TIER_CONSOLE_TEXT_SIZE];
    uint64_t quarantined, strikes;
    bool out;
    uint64_t round;
    struct tier_hash update; /* zero: none */
    char why[TIER_REASON_LEN_MAX + 1];
};
struct tier_console_contributors {
    struct tier_hash run;
    char name[TIER_NAME_LEN_MAX + 1];
    uint32_t total;
    struct tier_console_contributor *item;
    size_t count; /* at most TIER_CONSOLE_CONTRIBUTORS_MAX */
};
enum tier_status tier_console_contributors(const uint8_t *bytes, size_t n,
                                           struct tier_console_contributors *out,
                                           struct tier_err *err);
struct tier_bytes
tier_console_contributors_bytes(const struct tier_console_contributors *contributors);
void tier_console_contributors_release(struct tier_console_contributors *contributors);

struct tier_console_pardon {
    char run[TIER_HASH_HEX];
    char child[TIER_NAME_LEN_MAX + 1];
};
enum tier_status tier_console_pardon(const uint8_t *bytes, size_t n,
                                     struct tier_console_pardon *out, struct tier_err *err);
struct tier_bytes tier_console_pardon_bytes(const struct tier_console_pardon *pardon);

/* ---- requests: a run is named by hex digits, 0 to 64 of them ---- */

/* The request of ListRuns and ListNodes. */
struct tier_bytes tier_console_empty_bytes(void);

struct tier_console_run_request {
    char run[TIER_HASH_HEX];
};
enum tier_status tier_console_run_request(const uint8_t *bytes, size_t n,
                                          struct tier_console_run_request *out,
                                          struct tier_err *err);
struct tier_bytes tier_console_run_request_bytes(const struct tier_console_run_request *request);

struct tier_console_pull {
    char run[TIER_HASH_HEX];
    struct tier_hash file; /* zero: by run */
    bool graph;
};
enum tier_status tier_console_pull(const uint8_t *bytes, size_t n, struct tier_console_pull *out,
                                   struct tier_err *err);
struct tier_bytes tier_console_pull_bytes(const struct tier_console_pull *pull);

enum tier_console_action { TIER_CONSOLE_RELEASE, TIER_CONSOLE_REVOKE };

struct tier_console_approval_request {
    enum tier_console_action action;
    char subject[TIER_HASH_HEX]; /* release: a hash, 64 digits; revoke: a name */
};
enum tier_status tier_console_approval_request(const uint8_t *bytes, size_t n,
                                               struct tier_console_approval_request *out,
                                               struct tier_err *err);
struct tier_bytes
tier_console_approval_request_bytes(const struct tier_console_approval_request *request);

struct tier_console_approval {
    char by[2][TIER_NAME_LEN_MAX + 1];
    unsigned count; /* 1 or 2 */
    bool done;
    int64_t expires_ms;
};
enum tier_status tier_console_approval(const uint8_t *bytes, size_t n,
                                       struct tier_console_approval *out, struct tier_err *err);
struct tier_bytes tier_console_approval_bytes(const struct tier_console_approval *approval);

/* Either a plan (1 to TIER_PLAN_BYTES_MAX bytes) or a piece of a graph (1 to TIER_CHUNK_BYTES). */
struct tier_console_part {
    bool is_plan;
    const uint8_t *data; /* decoded: until _release */
    size_t bytes;
    const uint8_t *signature; /* of the plan (tier/signed.h); borrowed as data is */
    size_t signature_bytes;   /* 0: it is not signed */
    void *owner;
};
enum tier_status tier_console_part(const uint8_t *bytes, size_t n, struct tier_console_part *out,
                                   struct tier_err *err);
struct tier_bytes tier_console_part_bytes(const struct tier_console_part *part);
void tier_console_part_release(struct tier_console_part *part);

#endif
