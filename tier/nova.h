/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FedNova (Wang et al. 2020): hospitals that take more steps than others in a round do not pull the
 * model towards their own optimum. Each sends its change divided by its effective steps tau_i, the
 * sum of the weights with which its gradients entered that change, and the root multiplies the mean
 * by tau_eff = sum of w_i tau_i / sum of w_i.
 *
 * w_i tau_i travels as the metric below, an exact integer in units of 1 / TIER_NOVA_ONE, and adds
 * up over any tree. The plan bounds tau, and every parent checks 1 <= tau <= bound of what a child
 * sends, so that the most a child that lies can do is to claim the bound for its own weight.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_NOVA_H
#define CONSILIUM_TIER_NOVA_H

#include "tier/plan.h"
#include "tier/update.h"

#define TIER_NOVA_METRIC "nova_tau"
#define TIER_NOVA_ONE 1024
/* Effective steps at most: total weights of 2^32 then stay within 2^62. */
#define TIER_NOVA_STEPS_MAX (UINT64_C(1) << 20)

/*
 * tau of n >= 1 steps of the plan's SGD, in closed form (+ - * / alone, the same on every machine):
 * n; with momentum p (n - p (1 - p^n) / (1 - p)) / (1 - p); with Nesterov's n + p times that; with
 * the proximal term (1 - (1 - a)^n) / a, a = lr * prox_mu.
 */
double tier_nova_tau(const struct tier_plan *plan, uint64_t steps);
/* The same in units, as it travels and as the change is divided by. */
uint64_t tier_nova_units(const struct tier_plan *plan, uint64_t steps);
/* The plan's bound, in units. */
uint64_t tier_nova_bound(const struct tier_plan *plan);

/* TIER_EUPDATE unless the update carries what its plan says, within its bound: before anything of
 * it is kept. */
enum tier_status tier_nova_check(const struct tier_plan *plan, const struct tier_update_header *h,
                                 struct tier_err *err);
/* tau_eff of a sum that has weight and was checked. */
double tier_nova_effective(const struct tier_update_header *h);

#endif
