/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children that cost nothing but their edge: each attends over the real link, accepts the plan,
 * fetches each round's base model and pushes one update that lies sealed in its spool. Training is
 * left out: for the next round only the file's header is written anew, its payload and its Merkle
 * root stay.
 *
 * Threads: all children live on one loop, and everything here belongs to its thread.
 */
#ifndef CONSILIUM_BENCH_CHILDREN_H
#define CONSILIUM_BENCH_CHILDREN_H

#include "tests/bench/nodes.h"
#include "tier/loop.h"
#include "tier/manifest.h"

struct bench_children;

struct bench_children_options {
    size_t count;
    const struct tier_config *configs; /* [count] spokes; borrowed */
    const struct tier_manifest *manifest;
    uint64_t rounds;
};

/* Makes spools and sealed updates; no gRPC yet, so processes may still be forked behind it. */
enum tier_status bench_children_new(const struct bench_children_options *options,
                                    struct bench_children **out, struct tier_err *err);
/* Connects them to the parents in their configurations, at `port` instead of what is set there. */
enum tier_status bench_children_start(struct bench_children *children, struct tier_loop *loop,
                                      int port, struct tier_err *err);
void bench_children_free(struct bench_children *children);

/* True when every child was told that the run is over, or something failed. */
bool bench_children_done(void *children);
/* TIER_OK, or what went wrong. */
enum tier_status bench_children_status(const struct bench_children *children, struct tier_err *err);
/* How often a child lost its parent before the run was over. */
uint64_t bench_children_lost(const struct bench_children *children);
/*
 * When round 1..rounds was announced to the first child, and, at rounds + 1, when the first was
 * told that the run is over: seconds of bench_now_s. The differences are the rounds' lengths.
 */
const double *bench_children_times(const struct bench_children *children);
/*
 * A round, 1..rounds, in three parts: until the last child had its base model, from there until the
 * last had its receipt (others push before that), and the hub's own work behind it.
 */
struct bench_phases {
    double fetch_s, push_s, fold_s;
};
struct bench_phases bench_children_phases(const struct bench_children *children, uint64_t round);
/* Called on the loop with each round's number as it is announced first. */
void bench_children_on_round(struct bench_children *children, void (*fn)(void *arg, uint64_t round),
                             void *arg);

#endif
