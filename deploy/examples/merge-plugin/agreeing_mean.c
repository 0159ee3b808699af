/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A merge rule of an operator's own: the mean of the updates that agree with the whole. An update
 * counts where its inner product with the sum of all is positive, and those that are longer than
 * the typical one are cut to its length. Not a rule for a federation with attackers in it: it shows
 * what a rule looks like.
 *
 * It needs this one header, no library, and these flags:
 *
 *     cc -shared -fPIC -O2 -ffp-contract=off -I CONSILIUM agreeing_mean.c -o agreeing_mean.so
 */
#include "tier/merge_rule.h"

#include <math.h>
#include <stdio.h>

static size_t scratch_bytes(size_t count) {
    return count * sizeof(double);
}

static bool ready(size_t count, const struct tier_merge_params *params, char *why,
                  size_t why_bytes) {
    (void)params;
    if (count >= 3)
        return true;
    snprintf(why, why_bytes, "what %zu updates agree on says little; 3 would be right", count);
    return false;
}

/* The lower median of the lengths; `sorted` has room for all. */
static double typical_length(const struct tier_merge_gram *in, double *sorted) {
    size_t n = in->count;

    for (size_t i = 0; i < n; i++) {
        double length = sqrt(in->g[i * (n + 1) + i]);
        size_t at = i;
        for (; at > 0 && sorted[at - 1] > length; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = length;
    }
    return sorted[(n - 1) / 2];
}

/* Only + - * / and sqrt, in a fixed order: the same updates give the same bits everywhere. */
static void gram(const struct tier_merge_gram *in, double *coefficient) {
    size_t n = in->count;
    double length = typical_length(in, in->scratch), agreeing = 0;

    for (size_t i = 0; i <= n; i++)
        coefficient[i] = 0;
    for (size_t i = 0; i < n; i++) {
        const double *row = in->g + i * (n + 1);
        double with_all = 0, own = sqrt(row[i]);
        for (size_t j = 0; j < n; j++)
            with_all += row[j];
        if (with_all > 0) {
            coefficient[i] = own > length ? length / own : 1;
            agreeing += 1;
        }
    }
    for (size_t i = 0; i < n && agreeing > 0; i++)
        coefficient[i] /= agreeing;
}

static const struct tier_merge_ops rule = {.abi = TIER_MERGE_ABI,
                                           .bytes = sizeof rule,
                                           .name = "x-agreeing-mean",
                                           .scratch_bytes = scratch_bytes,
                                           .ready = ready,
                                           .gram = gram};

__attribute__((visibility("default"))) const struct tier_merge_ops *
consilium_merge_ops_v1(uint32_t abi);

const struct tier_merge_ops *consilium_merge_ops_v1(uint32_t abi) {
    return abi == TIER_MERGE_ABI ? &rule : NULL;
}
