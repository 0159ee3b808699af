/* SPDX-License-Identifier: Apache-2.0 */
/* Merge rules that are wrong in the way that BAD_RULE names. */
#include "tier/merge_rule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void block(const struct tier_merge_block *in, float *out) {
    for (size_t e = 0; e < in->n; e++)
        out[e] = in->x[e];
}

static void block_nan(const struct tier_merge_block *in, float *out) {
    for (size_t e = 0; e < in->n; e++)
        out[e] = NAN;
}

static void gram(const struct tier_merge_gram *in, double *coefficient) {
    for (size_t i = 0; i <= in->count; i++)
        coefficient[i] = 1;
}

static void gram_nan(const struct tier_merge_gram *in, double *coefficient) {
    coefficient[in->count / 2] = NAN;
}

static bool never(size_t count, const struct tier_merge_params *params, char *why,
                  size_t why_bytes) {
    (void)count, (void)params;
    memset(why, 'z', why_bytes); /* without an end */
    return false;
}

#define HEAD .abi = TIER_MERGE_ABI, .bytes = sizeof(struct tier_merge_ops)
static const struct {
    const char *fault;
    struct tier_merge_ops ops;
} rules[] = {
    {"abi", {.abi = TIER_MERGE_ABI + 1, .bytes = sizeof(struct tier_merge_ops)}},
    {"size", {.abi = TIER_MERGE_ABI, .bytes = 24}},
    {"name", {HEAD, .name = "krum", .block = block}},
    {"letters", {HEAD, .name = "x-a b", .block = block}},
    {"neither", {HEAD, .name = "x-neither"}},
    {"both", {HEAD, .name = "x-both", .block = block, .gram = gram}},
    {"params", {HEAD, .name = "x-params", .params = 1024, .block = block}},
    {"previous", {HEAD, .name = "x-previous", .has_previous = true, .block = block}},
    {"same", {HEAD, .name = "x-agreeing-mean", .block = block}},
    {"nan", {HEAD, .name = "x-nan", .block = block_nan}},
    {"large", {HEAD, .name = "x-large", .gram = gram}},
    {"gram-nan", {HEAD, .name = "x-gram-nan", .gram = gram_nan}},
    {"never", {HEAD, .name = "x-never", .ready = never, .block = block}},
};

__attribute__((visibility("default"))) const struct tier_merge_ops *
consilium_merge_ops_v1(uint32_t abi);

const struct tier_merge_ops *consilium_merge_ops_v1(uint32_t abi) {
    const char *fault = getenv("BAD_RULE");

    for (size_t i = 0; fault && i < sizeof rules / sizeof rules[0]; i++)
        if (abi == TIER_MERGE_ABI && strcmp(rules[i].fault, fault) == 0)
            return &rules[i].ops;
    return NULL;
}
