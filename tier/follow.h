/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting the model of a round: out of a delta where the parent has told of one and the model that
 * it starts from is here, whole where not, or where the delta does not give what was announced.
 *
 * Threads: the loop's; deltas are applied by the intake. Embedded in its owner, who zeroes it, sets
 * the first part once, and keeps it until link and intake are gone.
 */
#ifndef CONSILIUM_TIER_FOLLOW_H
#define CONSILIUM_TIER_FOLLOW_H

#include "tier/link.h"
#include "tier/manifest.h"

struct tier_follow_target {
    struct tier_hash model;
    struct tier_hash delta, base; /* zero: there is none */
};

struct tier_follow {
    struct tier_link *link;
    struct tier_intake *intake;
    const char *models_dir;
    const struct tier_manifest *manifest; /* NULL: models come whole */
    uint64_t bytes_max;                   /* of either */
    tier_fetched done;                    /* of the newest target only */
    void *arg;

    enum { TIER_FOLLOW_IDLE, TIER_FOLLOW_DELTA, TIER_FOLLOW_APPLY, TIER_FOLLOW_WHOLE } step;
    struct tier_follow_target want, now;
    struct tier_err applied;
};

/*
 * Begins, or goes on to another target instead of the one under way. `done` is called later,
 * from a loop callback, once for one or more calls; as with tier_link_fetch not when the node
 * stops. The delta's file is the owner's to delete.
 */
void tier_follow_to(struct tier_follow *f, const struct tier_follow_target *target);
/* Nothing is wanted any more; `done` is not called. */
void tier_follow_stop(struct tier_follow *f);

#endif
