/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plan asks of a tier that looks at its children's updates one by one without merging them
 * otherwise: the screen before they count, the contribution of each afterwards. Both need what a
 * rule other than the mean needs: each update, whole, until the round's commit.
 */
#include "tier/fedcurv.h"
#include "tier/plan_keys.h"
#include "tier/screen.h"
#include "tier/stale.h"
#include "tier/statistics.h"

#include <stdio.h>
#include <string.h>

#define complain tier_plan_complain
#define STRIKES_DEFAULT 3

void tier_plan_screen_defaults(struct tier_plan_screen *screen) {
    if (tier_screen_on(screen) && screen->strikes == 0)
        screen->strikes = STRIKES_DEFAULT;
}

bool tier_plan_looks_at_updates(const struct tier_plan_tier *tier) {
    return tier_plan_needs_updates(&tier->merge) || tier_screen_on(&tier->screen) ||
           tier->contribution.permutations > 0;
}

const char *tier_plan_hides_updates(const struct tier_plan *plan, bool is_top) {
    if (plan->secure.sums != TIER_PLAN_SECURE_NONE)
        return "secure.sums hides it behind masks";
    if (tier_plan_tier_of(plan, is_top)->retain == TIER_PLAN_RETAIN_SUMS)
        return "retain: sums adds them up as they come";
    return NULL;
}

/* What does not go with looking at updates, said of the key at `path`. */
static void check_look(const struct tier_plan_checker *c, bool is_top, const char *path) {
    const struct tier_plan *p = c->plan;
    const char *hidden = tier_plan_hides_updates(p, is_top);

    if (hidden)
        complain(c, path, "needs each child's own update until the commit, and %s", hidden);
    if (tier_stale_buffers(tier_plan_tier_of(p, is_top)))
        complain(c, path,
                 "compares updates of one model, and with sync: buffered they are of several");
    if (tier_statistics_on(p))
        complain(c, path, "has nothing to look at: a plan with statistics.columns trains nothing");
    if (p->scaffold || tier_fedcurv_on(p))
        complain(c, path,
                 "measures changes of the model, and with %s an update holds numbers of another "
                 "scale too",
                 p->scaffold ? "local.scaffold" : "local.curvature");
}

/* What is appraised is the base and one update, as a whole model. */
static void check_loss(const struct tier_plan_checker *c, const struct tier_plan_screen *s,
                       const char *path) {
    const struct tier_plan *p = c->plan;

    if (!(s->loss > 0))
        return;
    if (p->share.count > 0 || p->keep.count > 0)
        complain(c, path,
                 "needs whole models, and share or keep leaves a part of each at the hospitals");
    if (p->normalise)
        complain(c, path,
                 "and local.normalise exclude each other: an update is one step there, not what a "
                 "round would come to");
    if (p->loss == TIER_PLAN_COX)
        complain(c, path, "is not for cox, whose loss is of a site's patients together");
}

void tier_plan_check_screen(const struct tier_plan_checker *c, const struct tier_plan_tier *tier,
                            const char *name) {
    const struct tier_plan_screen *s = &tier->screen;
    const struct tier_plan_tier *top = &c->plan->top;
    bool is_top = tier == top;
    char path[64];

    if (!is_top && memcmp(s, &top->screen, sizeof *s) == 0 &&
        tier->contribution.permutations == top->contribution.permutations &&
        tier->retain == top->retain && tier->sync == top->sync)
        return; /* said once */
    const char *leaf = s->norm > 0              ? "screen.norm"
                       : s->cosine_distance > 0 ? "screen.cosine_distance"
                                                : "screen.loss";
    if (s->norm > 0 && s->norm < 1)
        complain(c, tier_plan_tier_path(c, name, "screen.norm", path, sizeof path),
                 "must be at least 1, or 0 for no limit: half of the updates are longer than their "
                 "median");
    if (s->strikes && !tier_screen_on(s))
        complain(c, tier_plan_tier_path(c, name, "screen.strikes", path, sizeof path),
                 "needs screen.norm, screen.cosine_distance or screen.loss, which say what fails");
    check_loss(c, s, tier_plan_tier_path(c, name, "screen.loss", path, sizeof path));
    if (tier_screen_on(s))
        check_look(c, is_top, tier_plan_tier_path(c, name, leaf, path, sizeof path));
    if (tier->contribution.permutations)
        check_look(c, is_top,
                   tier_plan_tier_path(c, name, "contribution.permutations", path, sizeof path));
}
