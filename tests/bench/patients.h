/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The breast-cancer example, for benches whose spokes train for real.
 *
 * Threads: the caller's.
 */
#ifndef CONSILIUM_BENCH_PATIENTS_H
#define CONSILIUM_BENCH_PATIENTS_H

#include "tests/bench/nodes.h"

/* Deals the patients in turn to one table for each spoke: "<dir>/spoke-1.csv" and so on. */
enum tier_status bench_patients_deal(const char *dir, size_t spokes, struct tier_err *err);
/* The node "spoke-N" has that table, one thread, and takes every plan. */
void bench_patients_spoke(const char *dir, struct tier_config *spoke);
/* Stores the example's graph at a top that is about to start, and names it in the plan. */
enum tier_status bench_patients_graph(struct tier_plan *plan, const struct tier_config *top,
                                      struct tier_err *err);

#endif
