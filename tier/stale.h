/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffered asynchronous rounds (FedBuff, Nguyen et al. 2022). A tier with `sync: buffered` does not
 * wait for those who are still at work: as soon as its quorum has delivered (FedBuff's K) it makes
 * a new model, and who began from an older one carries on and counts when it comes, damped by its
 * staleness s, the rounds between the one it began with and the one it counts in:
 *
 *     new = base + sum of s(s_i) w_i x_i / sum of w_i,    s(s) = 1 / sqrt(1 + s)
 *
 * The damping is an exact integer, m = round(TIER_STALE_ONE * s(s)), so the sum of m_i w_i q_i is
 * one in the integer domain like any other, whatever the order and the tree; an update's weight is
 * sum of m_i w_i, and it carries what that would be with nothing stale as the metric below, so that
 * the root's one division does not cancel the damping where all are equally late.
 *
 * What a tier further down damped, one further up may damp again: multipliers multiply, and both
 * weights count up to the plan's weight_total_max and 2^32.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_STALE_H
#define CONSILIUM_TIER_STALE_H

#include "tier/plan.h"
#include "tier/update.h"

#define TIER_STALE_METRIC "full_weight"
#define TIER_STALE_ONE 64
/* A bound on staleness_max: a parent keeps one model more than that for its children. */
#define TIER_STALENESS_LIMIT 64

/* round(TIER_STALE_ONE / sqrt(1 + staleness)), halves up, in integers: 64, 45, 37, 32, 29, ... */
uint32_t tier_stale_multiplier(uint64_t staleness);

/* Whether the tier takes updates of older rounds, and whether any tier of the plan does. */
bool tier_stale_buffers(const struct tier_plan_tier *tier);
bool tier_stale_in(const struct tier_plan *plan);

/* What the update would weigh had nothing in it been stale. */
uint64_t tier_stale_full_weight(const struct tier_update_header *h);

/*
 * TIER_EUPDATE unless the metric is one that children of such a plan can have: at least the weight
 * and at most TIER_STALE_ONE times it, so that the most a child that lies can do is to slow the
 * model down. Before anything of the update is kept.
 */
enum tier_status tier_stale_check(const struct tier_plan *plan, const struct tier_update_header *h,
                                  struct tier_err *err);

/* What the mean of a checked sum is multiplied by: weight / full weight. */
double tier_stale_damping(const struct tier_update_header *h);

#endif
