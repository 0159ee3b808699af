/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plan with `privacy` costs (tier/privacy.h), worked out alike by who checks it, by who is
 * to pay, and for the ledger (tier/ledger.h).
 *
 * privacy.patient, DP-SGD (Abadi et al. 2016): a step's sample takes each of a site's training rows
 * by itself, with chance local.batch * local.accumulate / rows, at most 1; the gradient of each is
 * cut to the norm `clip`, to their sum comes Gaussian noise of deviation noise * clip, and it is
 * divided by the size a sample has on average. Neighbours differ by one row. The number of a
 * site's rows decides the chance and the divisor, and is taken as known; it is not sent.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_BUDGET_H
#define CONSILIUM_TIER_BUDGET_H

#include "tier/graph.h"
#include "tier/plan.h"
#include "tier/privacy.h"

bool tier_budget_patient(const struct tier_plan *plan);
/* What `rounds` rounds, at least 1, are at a site with so many training rows, at least 1. */
struct tier_privacy_event tier_budget_patient_event(const struct tier_plan *plan, uint64_t rows,
                                                    uint64_t rounds);
/* The rows that a sample has on average. */
uint64_t tier_budget_sample(const struct tier_plan *plan, uint64_t rows);
/* The whole plan there, at its own delta. Errors: tier_privacy_cost. */
enum tier_status tier_budget_patient_cost(const struct tier_plan *plan, uint64_t rows,
                                          struct tier_privacy_cost *out, struct tier_err *err);

/* TIER_EMODEL: the graph has a node through which rows depend on each other, by its name; TIER_OK
 * without privacy.patient. */
enum tier_status tier_budget_graph_check(const struct tier_plan *plan,
                                         const struct tier_graph *graph, struct tier_err *err);

#endif
