/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which metrics an update tells of, by the plan and the model alone: behind masks all of a round
 * must tell of the same (tier/masked.h), and if the first to arrive said which, one child that lies
 * would shut out all the others.
 *
 * Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_LAYOUT_H
#define CONSILIUM_TIER_LAYOUT_H

#include "tier/metric.h"
#include "tier/plan.h"

/* A model's output has so many spots to a row, and so many classes to a spot (tier_graph_classes).
 */
struct tier_layout_of {
    const struct tier_plan *plan;
    uint64_t classes, spots;
};

/* All of them, with zeros, of an update of that round, from 1. */
enum tier_status tier_layout_zeros(const struct tier_layout_of *of, uint64_t round,
                                   struct tier_metrics **out, struct tier_err *err);
/* TIER_EPOLICY unless `metrics` (NULL: none) have those names and bins: the first that is missing,
 * too many or of another length, by name. */
enum tier_status tier_layout_check(const struct tier_layout_of *of, uint64_t round,
                                   const struct tier_metrics *metrics, struct tier_err *err);

#endif
