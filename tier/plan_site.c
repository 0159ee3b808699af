/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan's `privacy.site`: its numbers must fit the sums, and nothing may leave a site beside its
 * noised change. What is made of the noised sum, an optimiser at the top, a shorter form on the way
 * down, costs nothing more; nor does what a site does before its change is cut.
 */
#include "tier/plan_keys.h"
#include "tier/site.h"

#include <inttypes.h>
#include <stdio.h>

#define complain tier_plan_complain
#define ON "with privacy.site"

static void check_numbers(const struct tier_plan_checker *c) {
    const struct tier_plan_site *s = &c->plan->site;

    if (!(s->noise >= TIER_PRIVACY_NOISE_MIN))
        complain(c, "privacy.site.noise", "must be at least %g with privacy.site.clip",
                 TIER_PRIVACY_NOISE_MIN);
    if (!(s->delta >= TIER_PRIVACY_DELTA_MIN && s->delta < 1))
        complain(c, "privacy.site.delta", "must be %g to below 1 with privacy.site.clip",
                 TIER_PRIVACY_DELTA_MIN);
    if (!(s->epsilon_max > 0))
        complain(c, "privacy.site.epsilon_max", "must be above 0 with privacy.site.clip");
    if (s->at == TIER_PLAN_AT_SPOKES && s->honest == 0)
        complain(c, "privacy.site.honest_min",
                 "must be at least 1 with noise_at: spokes: so many sites' noise together is what "
                 "privacy.site.noise says");
    if (s->at == TIER_PLAN_AT_TOP && s->honest > 0)
        complain(c, "privacy.site.honest_min", "is for noise_at: spokes");
}

static void check_adapt(const struct tier_plan_checker *c) {
    const struct tier_plan_site *s = &c->plan->site;
    double share = s->at == TIER_PLAN_AT_SPOKES ? sqrt((double)s->honest) : 1;
    double least = fmax(TIER_PRIVACY_NOISE_MIN, share * 0x1p-12);

    if (s->adapt.quantile == 0) {
        if (s->adapt.rate > 0)
            complain(c, "privacy.site.adapt.rate", "needs privacy.site.adapt.quantile");
        if (s->adapt.noise > 0)
            complain(c, "privacy.site.adapt.noise", "needs privacy.site.adapt.quantile");
        return;
    }
    if (!(s->adapt.rate > 0))
        complain(c, "privacy.site.adapt.rate", "must be above 0 with adapt.quantile; 0.2 is usual");
    if (!(s->adapt.noise >= least))
        complain(c, "privacy.site.adapt.noise",
                 "must be at least %g: the count of sites below the clip is told, too", least);
}

/* Room for the clip and twelve deviations of one noiser in 2^30, and noise enough that whole
 * numbers are as good as all. */
static void check_room(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    double least, most;

    if (!(p->site.noise >= TIER_PRIVACY_NOISE_MIN) || !(p->clip > 0) ||
        (p->site.at == TIER_PLAN_AT_SPOKES && p->site.honest == 0))
        return; /* said already */
    tier_site_clip_bounds(p, &least, &most);
    if (p->site.clip > most)
        complain(c, "exact.clip",
                 "is too low for privacy.site: its clip of %g and %d deviations of noise have no "
                 "room in 2^30 units: at least %g would be right",
                 p->site.clip, TIER_SITE_TAILS, p->clip * exp2(ceil(log2(p->site.clip / most))));
    if (p->site.clip < least)
        complain(c, "exact.clip",
                 "is too high for privacy.site: noise of few units is no Gaussian's: at most %g "
                 "would be right",
                 p->clip * exp2(floor(log2(p->site.clip / least))));
}

static void check_cost(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    struct tier_privacy_bound bound;
    struct tier_err err = {0};

    if (!(p->site.noise >= TIER_PRIVACY_NOISE_MIN) || p->rounds == 0 ||
        !(p->site.epsilon_max > 0) ||
        (p->site.adapt.quantile > 0 && !(p->site.adapt.noise >= TIER_PRIVACY_NOISE_MIN)))
        return;
    const struct tier_privacy_event all = tier_site_event(p, p->rounds);
    if (tier_privacy_concentrated(&all, 1, p->site.delta, &bound, &err) != TIER_OK) {
        if (p->site.delta >= TIER_PRIVACY_DELTA_MIN && p->site.delta < 1)
            complain(c, "privacy.site.noise", "cannot be accounted for: %s", err.text);
        return;
    }
    if (bound.epsilon > p->site.epsilon_max)
        complain(c, "privacy.site.epsilon_max",
                 "is %g, and %" PRIu64 " rounds cost a site %.4f at delta %g: more noise, fewer "
                 "rounds, or a higher limit would be right",
                 p->site.epsilon_max, p->rounds, bound.epsilon, p->site.delta);
}

/* What would leave a site besides, or count its change more than once. */
static void check_outlets(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->weights == TIER_PLAN_SAMPLES)
        complain(c, "weights",
                 "must be uniform " ON ": a site that weighs more would move the sum by more, and "
                 "the number of its rows would leave it as it is");
    if (p->evaluate_every > 0)
        complain(c, "evaluate.every",
                 "must be 0 " ON ": counts over test rows would leave a site as they are");
    if (p->codec.name != TIER_PLAN_F32)
        complain(c, "codec.name", "must be f32 " ON ", whose updates are whole numbers");
    if (p->codec.entropy > TIER_PLAN_ENTROPY_NONE)
        complain(c, "codec.entropy", "must be none " ON ": noise does not get shorter");
    if (p->scaffold)
        complain(c, "local.scaffold", "must be false " ON ", which covers changes of the model");
    if (p->normalise)
        complain(c, "local.normalise", "must be false " ON ": the steps of a site would be told");
    if (p->curvature.lambda > 0)
        complain(c, "local.curvature.lambda",
                 "must be 0 " ON ", which covers changes of the model");
    if (p->statistics.columns.count > 0)
        complain(c, "statistics.columns", "must be empty " ON ": counts leave without noise");
}

/* Only a plain sum of all sites has the noise of all, and a known sensitivity. */
static void check_tier(const struct tier_plan_checker *c, const struct tier_plan_tier *t,
                       const char *tier) {
    char path[64];

    if (*t->merge.rule.own || t->merge.rule.choice != TIER_PLAN_MEAN)
        complain(c, tier_plan_tier_path(c, tier, "merge.rule", path, sizeof path),
                 "must be mean " ON ": only the sum has the noise of all sites");
    if (t->sync == TIER_PLAN_BUFFERED)
        complain(c, tier_plan_tier_path(c, tier, "sync", path, sizeof path),
                 "must be rounds " ON ": staleness would weigh sites, and a buffer has fewer of "
                 "them");
}

void tier_plan_check_site(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    const struct tier_plan_site *s = &p->site;

    if (s->clip > 0) {
        check_numbers(c);
        check_adapt(c);
        check_room(c);
        check_cost(c);
        check_outlets(c);
        check_tier(c, &p->top, "tiers.top");
        check_tier(c, &p->hub, "tiers.hub");
        if (p->clips.count > 0)
            complain(c, "exact.clips", "must be empty " ON ": noise is of one scale");
        if (p->wide.count > 0)
            complain(c, "exact.wide", "must be empty " ON ": noise is of one limb");
        return;
    }
    const struct {
        const char *path;
        bool written;
    } rest[] = {{"privacy.site.noise", s->noise > 0},
                {"privacy.site.delta", s->delta > 0},
                {"privacy.site.epsilon_max", s->epsilon_max > 0},
                {"privacy.site.noise_at", s->at != TIER_PLAN_AT_SPOKES},
                {"privacy.site.honest_min", s->honest > 0},
                {"privacy.site.adapt.quantile", s->adapt.quantile > 0},
                {"privacy.site.adapt.rate", s->adapt.rate > 0},
                {"privacy.site.adapt.noise", s->adapt.noise > 0}};
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++)
        if (rest[i].written)
            complain(c, rest[i].path, "needs privacy.site.clip");
}

const char *tier_plan_site_proof(const struct tier_plan *plan, char *buf, size_t bytes) {
    double units, deviation, least, most, clip = plan->site.clip;

    if (!tier_site_on(plan)) {
        *buf = '\0';
        return buf;
    }
    tier_site_clip_bounds(plan, &least, &most);
    if (tier_site_adapts(plan))
        clip = most;
    units = (double)tier_site_units(plan, clip);
    deviation = sqrt((double)tier_site_variance(plan, tier_site_units(plan, clip)));
    snprintf(buf, bytes,
             ", with privacy.site %.0f + %d deviations of %.0f, %.0f <= 2^30, and what is beyond "
             "is cut to it",
             units, TIER_SITE_TAILS, ceil(deviation), units + TIER_SITE_TAILS * ceil(deviation));
    return buf;
}
