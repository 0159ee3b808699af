/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FedCurv (Shoham et al. 2019; the penalty is EWC's, Kirkpatrick et al. 2017): hospitals whose
 * patients differ do not train away what the others have just learnt. After its training in a round
 * each hospital j works out the diagonal F_j of the Fisher information at the parameters theta_j it
 * ended at, on its own rows; in the next round every hospital i adds to its loss
 *
 *     lambda * sum over j != i of p_j * sum of F_j (theta - theta_j)^2,   p_j = w_j / W
 *
 * whose gradient needs the two means F = sum of p_j F_j and P = sum of p_j F_j (theta_j - theta_0),
 * less p_i times one's own. They are means by weight: F_j is a mean over rows, so with weights by
 * samples F is the pooled table's. The paper's plain sum is that of `weights: uniform`, with lambda
 * times the number of hospitals.
 *
 * F_j and F_j (theta_j - theta_0) travel as tensors of the manifest, behind the model's, under the
 * name of theirs behind a prefix: as differences to what the base model carries, as any tensor,
 * summed exactly over any tree. theta_0 are the graph's own values, which every node has: no
 * parameter is further from them than its greatest change in a round, the clip, times the rounds,
 * so that a plan which bounds F bounds both. A round's F and P are the means over those who took
 * part in it, and leave nothing of the round before behind.
 *
 * W is in the published model's metadata, so that a hospital knows its own part. F and P begin at
 * zero: the first round is plain averaging.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_FEDCURV_H
#define CONSILIUM_TIER_FEDCURV_H

#include "tier/manifest.h"
#include "tier/plan.h"

#define TIER_FEDCURV_FISHER "fedcurv/fisher/"
#define TIER_FEDCURV_PULL "fedcurv/pull/"
#define TIER_FEDCURV_ROUND "consilium.round"
#define TIER_FEDCURV_WEIGHT "consilium.weight"

bool tier_fedcurv_on(const struct tier_plan *plan);
/* The furthest a parameter can be from where the graph has it. */
double tier_fedcurv_reach(const struct tier_plan *plan);
/* The scales: F_j is within the plan's clip for it, and so is a difference of two such, which are
 * not below 0; F_j (theta_j - theta_0) is within that times the reach, a difference within twice
 * that. */
int tier_fedcurv_fisher_bits(const struct tier_plan *plan);
int tier_fedcurv_pull_bits(const struct tier_plan *plan);
/* What goes with tensor t. TIER_EMODEL where a name would be too long, or t's has a prefix. */
enum tier_status tier_fedcurv_tensors(const struct tier_plan *plan, const struct tier_tensor *t,
                                      struct tier_tensor *fisher_out, struct tier_tensor *pull_out,
                                      struct tier_err *err);

#endif
