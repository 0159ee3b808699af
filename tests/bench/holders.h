/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Thousands of children in a few processes: each holds an equal share of the streams, every stream
 * with a certificate and a connection of its own. They may just attend, or take part in rounds: the
 * children of a process then share a spool, in which one sealed update lies, and offer it each.
 *
 * Threads: none of its own; processes, which end with their starter.
 */
#ifndef CONSILIUM_BENCH_HOLDERS_H
#define CONSILIUM_BENCH_HOLDERS_H

#include "tests/bench/nodes.h"

#define BENCH_HOLDERS 8

struct bench_holders_options {
    const struct bench_nodes *nodes;
    const struct tier_config *top;
    int port;
    size_t spokes;
    const struct tier_manifest *manifest; /* NULL: they attend and do nothing */
};

struct bench_holders {
    struct bench_process process[BENCH_HOLDERS];
};

/* The options are borrowed until the processes are there. */
enum tier_status bench_holders_start(const struct bench_holders_options *options,
                                     struct bench_holders *out, struct tier_err *err);
void bench_holders_stop(struct bench_holders *holders); /* zeroed is fine */

#endif
