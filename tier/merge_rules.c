/* SPDX-License-Identifier: Apache-2.0 */
/* Which rules there are: those of the house, and those the operator's configuration names. */
#include "tier/merge_rules.h"

#include "tier/merge.h"

#include <string.h>

static const struct tier_merge_ops *const house[] = {
    [TIER_PLAN_MEDIAN] = &tier_merge_median,
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
    return NULL;
}
