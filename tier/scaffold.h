/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SCAFFOLD (Karimireddy et al. 2020, option II): hospitals whose patients differ do not drift apart
 * between two rounds. Every hospital i keeps a control variate c_i, its own mean gradient, the
 * model carries the server's c, and each local step of size lr is
 *
 *     y -= lr * (g(y) - c_i + c)
 *
 * After K steps from x, c_i' = c_i - c + (x - y) / (K lr). The update carries c_i' - c beside y -
 * x, tensor for tensor, under the name of the tensor behind TIER_SCAFFOLD_PREFIX: they are tensors
 * of the manifest like any other, so they are summed exactly over any tree, and the root's one
 * division gives c' = sum of w_i c_i' / sum of w_i. Where all take part in every round that is the
 * paper's c + mean of (c_i' - c_i), for a mean by weight; where some do not, c is the mean over
 * those that did, and a round that was missed leaves no error behind.
 *
 * c begins at zero, and a hospital without a c_i (its first round) takes c for it: plain averaging.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_SCAFFOLD_H
#define CONSILIUM_TIER_SCAFFOLD_H

#include "tier/graph.h"
#include "tier/manifest.h"
#include "tier/plan.h"

#define TIER_SCAFFOLD_PREFIX "scaffold/"

/*
 * The scale of control variates. A change is within the clip, so a mean gradient over K >= 1 steps
 * is within clip / lr; c_i' - c is a sum of four such.
 */
int tier_scaffold_frac_bits(const struct tier_plan *plan);
/* The control variate of tensor t. TIER_EMODEL where its name would be too long, or t's is one. */
enum tier_status tier_scaffold_tensor(const struct tier_plan *plan, const struct tier_tensor *t,
                                      struct tier_tensor *out, struct tier_err *err);

#endif
