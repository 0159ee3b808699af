/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of a model's tensors a federation shares. A plan's `share` lists patterns of the names that
 * travel (none: all do), `keep` of those that stay at each hospital, and keep wins: a private head
 * on a shared body, or normalisation that follows each hospital's own patients (FedBN: Li et al.
 * 2021). What travels is the run's manifest; what stays is the spoke's alone, and no other node
 * knows a value of it but the first, which the graph gives.
 *
 * A graph's parameters end to end are "all"; those that travel, and those that stay, are taken out
 * of it in the same order.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_SHARE_H
#define CONSILIUM_TIER_SHARE_H

#include "tier/graph.h"
#include "tier/manifest.h"
#include "tier/plan.h"

bool tier_share_travels(const struct tier_plan *plan, const char *name);
/* Whether the parameter keeps the values it begins with (the plan's `local.freeze`): a trained one
 * alone can. */
bool tier_share_frozen(const struct tier_plan *plan, const struct tier_graph_param *p);
/* A parameter as a tensor of a manifest, at the plan's scale. Its name must fit. */
void tier_share_tensor(const struct tier_plan *plan, const struct tier_graph_param *p,
                       struct tier_tensor *out);
/* TIER_EPLAN: a pattern that matches no parameter, with the names nearest to it; or nothing is
 * shared, or trained; or running statistics are shared, and a tier buffers or clips about the round
 * before. */
enum tier_status tier_share_check(const struct tier_plan *plan, const struct tier_graph *graph,
                                  struct tier_err *err);
/* The tensors that stay, at the plan's scale; NULL where all travel. */
enum tier_status tier_share_kept(const struct tier_plan *plan, const struct tier_graph *graph,
                                 struct tier_manifest **out, struct tier_err *err);

/* Copies the parameters that travel (or with `kept` those that stay) between all[] and part[]. */
void tier_share_take(const struct tier_plan *plan, const struct tier_graph *graph, bool kept,
                     const float *all, float *part);
void tier_share_put(const struct tier_plan *plan, const struct tier_graph *graph, bool kept,
                    const float *part, float *all);

#endif
