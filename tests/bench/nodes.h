/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nodes that a bench measures: an authority, enrolled data directories, and hubs and spokes as
 * processes of their own on loopback, made of the same parts as the programs.
 *
 * Threads: one. Processes are forked, so all of them are started before gRPC or a thread is.
 */
#ifndef CONSILIUM_BENCH_NODES_H
#define CONSILIUM_BENCH_NODES_H

#include "tests/bench/bench.h"
#include "tier/config.h"
#include "tier/manifest.h"
#include "tier/plan.h"

struct bench_nodes {
    char dir[400];
    bool tls;
    struct tier_authority *authority; /* NULL without TLS */
};

enum tier_status bench_nodes_open(const char *dir, bool tls, struct bench_nodes *out,
                                  struct tier_err *err);
void bench_nodes_close(struct bench_nodes *nodes);

/* A configured node with its data directory "<dir>/<name>" and, with TLS, its certificate. `parent`
 * "" makes a top; `port` is the parent's. */
enum tier_status bench_nodes_config(const struct bench_nodes *nodes, enum tier_config_kind kind,
                                    const char *name, const char *parent, int port,
                                    struct tier_config *out, struct tier_err *err);

/* A child process of the bench; it ends with its starter. */
struct bench_process {
    int pid, port;
    int in;  /* what it writes to bench_process_say */
    int out; /* closed by _stop, which it may wait for */
};
/*
 * Forks and runs main(arg, say, wait) there; the child sends its port first, by writing an int to
 * `say`. Returns when it has. TIER_EIO when the child ended before.
 */
typedef void bench_process_main(void *arg, int say, int wait);
enum tier_status bench_process_start(bench_process_main *fn, void *arg, struct bench_process *out,
                                     struct tier_err *err);
void bench_process_stop(struct bench_process *process); /* kills; zeroed is fine */
/* In the child: writes all of it, or ends the process. */
void bench_process_say(int say, const void *data, size_t n);
/* In the starter: false when the process ended before it said n bytes. */
bool bench_process_hear(const struct bench_process *process, void *data, size_t n);

/* What a hub's process says after its port, whenever its children or its newest run have changed.
 */
struct bench_hub_news {
    double at_s; /* of bench_now_s */
    uint64_t children, reloads;
    uint64_t round; /* of the newest run; 0: none */
    bool ended;     /* that run is completed */
};
/* A hub in its own process. `plan` (may be NULL) is begun there as a run once it listens; its graph
 * must be in the hub's models directory. */
enum tier_status bench_hub_start(const struct tier_config *config, const struct tier_plan *plan,
                                 struct bench_process *out, struct tier_err *err);
/* The same, with news, and with its certificate loaded anew every reload_ms. The reader must keep
 * up: news that finds the pipe full is left out. */
enum tier_status bench_hub_start_watched(const struct tier_config *config,
                                         const struct tier_plan *plan, uint64_t reload_ms,
                                         struct bench_process *out, struct tier_err *err);

/* A spoke in its own process. */
enum tier_status bench_spoke_start(const struct tier_config *config, struct bench_process *out,
                                   struct tier_err *err);

/* A plan that trains `rounds` rounds, with mean and quorum of all. */
struct tier_plan bench_plan(uint64_t rounds);
/* Stores an ONNX file in the models directory of a top that is about to start, and names it in the
 * plan. */
enum tier_status bench_plan_graph(struct tier_plan *plan, const struct tier_config *top,
                                  const void *onnx, size_t bytes, struct tier_err *err);

/*
 * An ONNX file of one matrix product with float[elements] of parameters, malloc'd, and the tensor
 * that bench_plan's manifest has for it: the smallest graph of a given size.
 */
uint8_t *bench_onnx(uint64_t elements, struct tier_tensor *tensor_out, size_t *bytes_out);

#endif
