/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A round's updates by what they are worth on the hub's own validation data (hub/validation.h): the
 * part of a screen that is about losses, and contributions whose utility is how far a coalition
 * brings the loss down.
 *
 * Threads: blocks its caller, a worker.
 */
#ifndef CONSILIUM_HUB_APPRAISE_H
#define CONSILIUM_HUB_APPRAISE_H

#include "hub/validation.h"
#include "tier/contribution.h"
#include "tier/screen.h"

#define HUB_APPRAISE_UTILITY "validation-loss"

/*
 * Adds to what a screen found: each update that passed so far is taken alone, and fails where the
 * loss with it is above limits->loss times the base model's. Fills in the losses. Updates of weight
 * 0, which tier_screen_run found no norm of where there are enough, are passed over.
 */
enum tier_status hub_appraise_screen(const struct hub_validation_of *of,
                                     const struct tier_plan_screen *limits,
                                     const struct tier_hash *updates, size_t count,
                                     struct tier_screened *screened,
                                     struct tier_screen_figures *figures, struct tier_err *err);
/*
 * As tier_contribution_run, of the utility v(S) = loss of the base - loss of base + mean of S,
 * whose shares add up to what the round took off the loss. Exactly where that takes fewer models
 * than the permutations would, else from sampled orders that are cut within a hundredth of v(all).
 * Sums are made and deleted in the fold's spool, which holds the updates and nothing else.
 */
enum tier_status hub_appraise_shares(const struct hub_validation_of *of, uint64_t permutations,
                                     struct tier_contribution *out, bool *exact_out,
                                     struct tier_err *err);

#endif
