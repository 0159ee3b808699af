/* SPDX-License-Identifier: Apache-2.0 */
/* Which rules there are: those of the house, and those the operator's configuration names. */
#include "tier/merge_rules.h"

#include "tier/merge.h"

#include <string.h>

static const struct tier_merge_ops *const house[] = {
    [TIER_PLAN_MEDIAN] = &tier_merge_median,
    [TIER_PLAN_TRIMMED_MEAN] = &tier_merge_trimmed_mean,
    [TIER_PLAN_KRUM] = &tier_merge_krum,
    [TIER_PLAN_MULTI_KRUM] = &tier_merge_multi_krum,
    [TIER_PLAN_GEOMETRIC_MEDIAN] = &tier_merge_geometric_median,
    [TIER_PLAN_CENTRED_CLIPPING] = &tier_merge_centred_clipping,
    [TIER_PLAN_NORM_BOUND] = &tier_merge_norm_bound,
};

const struct tier_merge_ops *tier_merge_rule_of(const struct tier_plan_merge *merge) {
    size_t choice = (size_t)merge->rule.choice;

    if (*merge->rule.own)
        return tier_merge_find(merge->rule.own);
    return choice < sizeof house / sizeof house[0] ? house[choice] : NULL;
}

const struct tier_merge_ops *tier_merge_find(const char *name) {
    for (size_t i = 0; i < sizeof house / sizeof house[0]; i++)
        if (house[i] && strcmp(house[i]->name, name) == 0)
            return house[i];
    return tier_merge_plugin_find(name);
}
