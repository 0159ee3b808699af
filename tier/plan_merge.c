/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan's merge keys against the rule it names. The rule's own table says which numbers it takes,
 * so that a new rule brings no new checks. A rule of an operator's own is not known here, nor need
 * it be where a plan is written: it may set every number, and the hub that has it decides.
 */
#include "tier/merge.h"
#include "tier/plan_keys.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BYZANTINE_DEFAULT 0.2
#define SMOOTHING_DEFAULT 1e-6
#define WEISZFELD_ITERATIONS 64
#define CLIPPING_ITERATIONS 3

static unsigned params_of(const struct tier_plan_merge *m) {
    const struct tier_merge_ops *rule = tier_merge_rule_of(m);
    unsigned params = rule && !*m->rule.own ? rule->params : 0;

    return m->mix == TIER_PLAN_MIX_NEAREST ? params | TIER_MERGE_BYZANTINE : params;
}

void tier_plan_merge_defaults(struct tier_plan_merge *m) {
    unsigned takes = params_of(m);

    if (takes & TIER_MERGE_BYZANTINE && m->byzantine == 0)
        m->byzantine = BYZANTINE_DEFAULT;
    if (takes & TIER_MERGE_SMOOTHING && m->smoothing == 0)
        m->smoothing = SMOOTHING_DEFAULT;
    if (takes & TIER_MERGE_ITERATIONS && m->iterations == 0)
        m->iterations = m->rule.choice == TIER_PLAN_CENTRED_CLIPPING ? CLIPPING_ITERATIONS
                                                                     : WEISZFELD_ITERATIONS;
}

static bool is_mean(const struct tier_plan_merge *m) {
    return !*m->rule.own && m->rule.choice == TIER_PLAN_MEAN;
}

bool tier_plan_needs_updates(const struct tier_plan_merge *m) {
    return !is_mean(m);
}

static const char *path_of(const struct tier_plan_checker *c, const char *tier, const char *leaf,
                           char *path, size_t bytes) {
    char below[64];

    snprintf(below, sizeof below, "merge.%s", leaf);
    return tier_plan_tier_path(c, tier, below, path, bytes);
}

void tier_plan_check_merge(const struct tier_plan_checker *c, const struct tier_plan_merge *m,
                           const char *tier) {
    const struct {
        unsigned param;
        const char *leaf;
        double value;
        bool needed; /* where it is taken: not 0 */
    } keys[] = {
        {TIER_MERGE_BYZANTINE, "byzantine", m->byzantine, true},
        {TIER_MERGE_SELECT, "select", (double)m->select, false},
        {TIER_MERGE_RADIUS, "radius", m->radius, false},
        {TIER_MERGE_ITERATIONS, "iterations", (double)m->iterations, true},
        {TIER_MERGE_SMOOTHING, "smoothing", m->smoothing, true},
    };
    const struct tier_plan_merge *top = &c->plan->top.merge;
    bool mean = is_mean(m);
    unsigned takes = params_of(m);
    char path[64];

    if (m != top && memcmp(m, top, sizeof *m) == 0)
        return; /* said once */
    if (mean && m->mix != TIER_PLAN_MIX_NONE)
        tier_plan_complain(c, path_of(c, tier, "mix", path, sizeof path),
                           "is for a robust rule; the mean of all updates does not gain by it");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        path_of(c, tier, keys[i].leaf, path, sizeof path);
        if (!*m->rule.own && keys[i].value != 0 && !(takes & keys[i].param))
            tier_plan_complain(c, path, "is not for the rule %s", tier_plan_rule_text(m));
        else if (keys[i].needed && takes & keys[i].param && keys[i].value == 0)
            tier_plan_complain(c, path, "must be above 0 for the rule %s", tier_plan_rule_text(m));
    }
    path_of(c, tier, "byzantine", path, sizeof path);
    if (m->byzantine >= 1 && m->byzantine != floor(m->byzantine))
        tier_plan_complain(c, path, "must be a whole number of updates, or a share below 1");
    else if (m->byzantine >= 0.5 && m->byzantine < 1)
        tier_plan_complain(c, path,
                           "must be below 0.5: no rule stands when half of the updates are an "
                           "attacker's");
}
