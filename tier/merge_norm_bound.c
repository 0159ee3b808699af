/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Norm bound (Sun, Kairouz, Suresh, McMahan 2019): the mean of the updates, each cut to the norm
 * `radius`. It bounds how far one child can pull, and no more: many together still pull together.
 * Without a radius in the plan it is the median of the updates' norms.
 */
#include "tier/merge_gram.h"
#include "tier/merge_rules.h"

static size_t scratch_bytes(size_t count) {
    return count * sizeof(double);
}

static void gram(const struct tier_merge_gram *in, double *c) {
    size_t n = in->count;
    double *norm = in->scratch, radius = in->params->radius;

    for (size_t i = 0; i < n; i++)
        norm[i] = c[i] = sqrt(in->g[i * (n + 1) + i]);
    if (radius == 0)
        radius = tier_gram_median(norm, n);
    for (size_t i = 0; i < n; i++)
        c[i] = (c[i] > radius ? radius / c[i] : 1) / (double)n;
    c[n] = 0;
}

const struct tier_merge_ops tier_merge_norm_bound = {.abi = TIER_MERGE_ABI,
                                                     .bytes = sizeof tier_merge_norm_bound,
                                                     .name = "norm_bound",
                                                     .params = TIER_MERGE_RADIUS,
                                                     .scratch_bytes = scratch_bytes,
                                                     .gram = gram};
