/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the root makes of a round's update, as its plan says: the next model, the state of its
 * optimiser beside it, what the model differs by. A hub does it once a round, an auditor does it
 * again (tier/replay.h): the same update, base and state give the same files.
 *
 * Threads: blocks its caller; no shared state.
 */
#ifndef CONSILIUM_TIER_ROOT_H
#define CONSILIUM_TIER_ROOT_H

#include "tier/publish.h"
#include "tier/site.h"
#include "tier/task.h"

struct tier_root {
    uint64_t round;
    struct tier_hash plan, update, base;
    struct tier_hash state; /* of the optimiser, beside the base; zero: it begins here */
    struct kern_server optimiser;
    struct tier_delta_form down;
    bool optimises, shortens, normalises, buffers, weighs;
    const struct tier_plan *plan_of; /* with privacy.site; borrowed */
    struct tier_noise_key
        noise_key; /* where the top draws the noise: the caller's to set and wipe */
};

/* What follows from the plan (its canonical text) for a round; the other fields are the caller's.
 * The plan is borrowed for as long as root is used. */
void tier_root_init(struct tier_root *root, const struct tier_plan *plan, const void *text,
                    size_t bytes, uint64_t round);
/*
 * A round without weight (evaluation only) keeps its base and state. The figures are those that the
 * update carries, of the base. Errors as tier_publish_run, and those of opening the update and the
 * base; TIER_EPLAN where fewer sites than privacy.site.honest_min are in the sum.
 */
enum tier_status tier_root_run(const struct tier_root *root, const struct tier_spool *spool,
                               const struct tier_manifest *manifest, const char *models_dir,
                               struct tier_published *made_out,
                               struct tier_task_figures *figures_out, uint64_t *weight_out,
                               struct tier_err *err);

#endif
