/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules of the house, each in the file of its name, and the arithmetic that Gram rules share.
 *
 * Threads: tables are constant.
 */
#ifndef CONSILIUM_TIER_MERGE_RULES_H
#define CONSILIUM_TIER_MERGE_RULES_H

#include "tier/merge_rule.h"

extern const struct tier_merge_ops tier_merge_median, tier_merge_trimmed_mean, tier_merge_krum,
    tier_merge_multi_krum, tier_merge_geometric_median, tier_merge_centred_clipping,
    tier_merge_norm_bound;

/* Looks among the rules that were loaded (merge_plugin.c); NULL. */
const struct tier_merge_ops *tier_merge_plugin_find(const char *name);

#endif
