/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan's `secure`: whatever looks at one hospital's update is refused here by name, for behind
 * masks there is nothing to look at. What goes by the sum alone, the optimiser at the top, control
 * variates, curvatures, figures of the evaluation, holds as it is.
 */
#include "tier/mask.h"
#include "tier/narrow.h"
#include "tier/plan_keys.h"
#include "tier/site.h"

#include <inttypes.h>
#include <string.h>

#define complain tier_plan_complain

static void check_numbers(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->secure.cohort_min < TIER_MASK_COHORT_LEAST)
        complain(c, "secure.cohort_min",
                 "must be at least %u: a sum over one hospital is its update",
                 TIER_MASK_COHORT_LEAST);
    if (!(p->secure.threshold > 0.5))
        complain(c, "secure.threshold",
                 "must be above 0.5 and at most 1: with half of them two parts could each learn a "
                 "different secret of one hospital, and both together its update");
    if (p->secure.step_s == 0)
        complain(c, "secure.step_s",
                 "must be at least 1: a hospital that has gone would be waited for without end");
}

/* What is cut must be changes alone, or what goes with them would say another thing. */
static void check_norm(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (!(p->secure.norm_max > 0))
        return;
    if (p->secure.norm_max < 1e-20)
        complain(c, "secure.norm_max", "must be 0, or at least 1e-20");
    if (tier_site_on(p))
        complain(c, "secure.norm_max",
                 "must be 0 with privacy.site: the noise would pass it, and privacy.site.clip "
                 "bounds each site's change");
    if (p->scaffold || p->curvature.lambda > 0)
        complain(c, "secure.norm_max",
                 "must be 0 with local.%s: what is cut is the change alone, and what goes with it "
                 "is of the change as it was",
                 p->scaffold ? "scaffold" : "curvature");
}

/* One word for an element and no weight: whatever needs more of it is refused. */
static void check_bits(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    const char *path = "secure.bits";

    if (p->secure.bits != TIER_PLAN_BITS_32)
        return;
    if (p->weights == TIER_PLAN_SAMPLES)
        complain(c, path, "32 needs weights: uniform: times a number of rows no sum would fit");
    if (p->weight_total_max > TIER_NARROW_SITES_MAX)
        complain(c, "exact.weight_total_max",
                 "must be at most %" PRIu64 " with secure.bits: 32, and it is %" PRIu64
                 ": it says how many sites there may be, whose sum has to be below 2^31, and more "
                 "would leave an element less than 2^14 steps to its clip; or secure.bits: 64",
                 TIER_NARROW_SITES_MAX, p->weight_total_max);
    if (p->secure.sums == TIER_PLAN_SECURE_REGION && p->weight_total_max < p->secure.cohort_min)
        complain(c, "exact.weight_total_max",
                 "is %" PRIu64 ", and with secure.bits: 32 that is how many sites there may be: "
                 "at least secure.cohort_min, %" PRIu64 ", would be right",
                 p->weight_total_max, p->secure.cohort_min);
    if (p->codec.name > TIER_PLAN_F32)
        complain(c, path, "32 is a short form of its own: codec.name must be f32");
    if (p->wide.count > 0)
        complain(c, path, "32 has no second limb: exact.wide must be empty");
    if (p->scaffold || p->curvature.lambda > 0)
        complain(c, path,
                 "must be 64 with local.%s: a hospital holds its own part, unrounded, "
                 "against the sum of all",
                 p->scaffold ? "scaffold" : "curvature");
    if (p->normalise)
        complain(c, path, "must be 64 with local.normalise: its steps are a weight");
    if (tier_site_on(p))
        complain(c, path,
                 "must be 64 with privacy.site: rounding each noised change by itself is not what "
                 "its epsilon was worked out for");
}

static bool has_rule(const struct tier_plan_tier *tier) {
    return *tier->merge.rule.own || tier->merge.rule.choice != TIER_PLAN_MEAN;
}

static void check_tier(const struct tier_plan_checker *c, const struct tier_plan_tier *tier,
                       const char *name) {
    const struct tier_plan *p = c->plan;
    char path[64];

    if (has_rule(tier))
        complain(c, tier_plan_tier_path(c, name, "merge.rule", path, sizeof path),
                 "must be mean with secure.sums: %s looks at each update, and masks hide them; "
                 "secure.norm_max bounds each at its hospital, and their mean at the hub",
                 tier_plan_rule_text(&tier->merge));
    if (tier->sync != TIER_PLAN_ROUNDS)
        complain(c, tier_plan_tier_path(c, name, "sync", path, sizeof path),
                 "must be rounds with secure.sums: masks cancel among the updates of one round, "
                 "and a weight for staleness would multiply them");
    if (tier->retain == TIER_PLAN_RETAIN_UPDATES)
        complain(
            c, tier_plan_tier_path(c, name, "retain", path, sizeof path),
            "must be sums with secure.sums: updates are kept until they are unmasked together, "
            "and none can be taken out afterwards");
    if (tier->quorum.kind == TIER_QUORUM_COUNT && tier == &p->hub &&
        tier->quorum.count < p->secure.cohort_min)
        complain(c, tier_plan_tier_path(c, name, "quorum", path, sizeof path),
                 "is %" PRIu64 ", fewer than secure.cohort_min, %" PRIu64
                 ": a round that it closes could never be unmasked",
                 (uint64_t)tier->quorum.count, p->secure.cohort_min);
}

static void check_updates(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->codec.name > TIER_PLAN_F32)
        complain(c, "codec.name",
                 "must be f32 with secure.sums: a masked element takes as many bits whatever it "
                 "was, so that a shorter form would lose and save nothing; secure.bits: 32 halves "
                 "them");
    if (p->codec.entropy > TIER_PLAN_ENTROPY_NONE)
        complain(c, "codec.entropy",
                 "must be none with secure.sums: what is masked is as good as random");
    if (p->normalise)
        complain(c, "local.normalise",
                 "must be false with secure.sums: a hub holds each hospital's steps against "
                 "local.normalise_max, and masks hide them");
}

static void check_absent(const struct tier_plan_checker *c) {
    static const char *const keys[] = {"secure.cohort_min", "secure.threshold",
                                       "secure.step_s",     "secure.lost_round",
                                       "secure.norm_max",   "secure.pseudonyms"};

    for (size_t i = 0; c->lines && i < sizeof keys / sizeof keys[0]; i++) {
        int key = tier_keys_find(c->keys, c->count, keys[i]);
        if (key >= 0 && c->lines[key])
            complain(c, keys[i], "is for secure.sums: region");
    }
}

void tier_plan_check_secure(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    check_bits(c);
    if (p->secure.sums == TIER_PLAN_SECURE_NONE) {
        check_absent(c);
        return;
    }
    if (p->secure.sums < 0)
        return;
    check_numbers(c);
    check_norm(c);
    check_updates(c);
    check_tier(c, &p->top, "tiers.top");
    check_tier(c, &p->hub, "tiers.hub");
}
