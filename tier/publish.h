/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The root's step from a sum to the next model. Without an optimiser it is tier_fold_publish's
 * new = base + S / W; with one, the optimiser of kern.h gets S / W as its gradient, and what it
 * remembers is written beside the model (tier/server_state.h). Both results are immutable and on
 * the disk before anyone may name them; the same inputs give the same names again, so whoever was
 * killed before the journal named them simply does it once more.
 *
 * Threads: blocks its caller, in bounded memory; nobody may delete the inputs while it runs.
 */
#ifndef CONSILIUM_TIER_PUBLISH_H
#define CONSILIUM_TIER_PUBLISH_H

#include "kernels/kern.h"
#include "tier/delta.h"
#include "tier/fold.h"
#include "tier/noise.h"

struct tier_publish {
    const struct tier_update *sum; /* SUM, weight > 0, of this manifest */
    const struct tier_manifest *manifest;
    const struct tier_model *base; /* the model that the sum's header names */
    const char *models_dir;
    const struct tier_kv *metadata;
    size_t metadata_count;
    const struct tier_delta_form *down;  /* NULL: models travel whole */
    const struct kern_server *optimiser; /* NULL: none */
    double stretch;         /* what the mean is multiplied by (tier/nova.h); 0: it is not */
    struct tier_hash state; /* beside the base; zero: the optimiser begins here */
    /* Discrete Gaussian noise (tier/site.h) on the sum, before the division; NULL: none. Of a
     * manifest without wide tensors. */
    const struct tier_noise_key *noise_key;
    uint64_t noise_variance;
};

/* What is made; zero where there is no such thing. */
struct tier_published {
    struct tier_hash model;
    struct tier_hash state; /* with an optimiser */
    struct tier_hash delta; /* from the base to the model, with `down` */
};

/*
 * The manifest's states (tier/manifest.h) are base + S / W with an optimiser and a stretch, too:
 * what they remember of them stays as it begins.
 *
 * Errors: those of tier_fold_publish; TIER_ENOTFOUND where
 * the state is gone, TIER_EMODEL where it is not the one beside the base, or damaged, or the base
 * itself is. A failure
 * leaves no state; where only the state could not be written, it leaves a model that nobody names.
 */
enum tier_status tier_publish_run(const struct tier_publish *p, struct tier_published *out,
                                  struct tier_err *err);

#endif
