/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The geometric median by smoothed Weiszfeld steps (Weiszfeld 1937; Pillutla, Kakade, Harchaoui
 * 2022): z is the mean of the updates, each weighted by 1 / max(smoothing, its distance to z), from
 * the plain mean on. It stands while fewer than half of the updates are an attacker's. The number
 * of steps is fixed, so that no test of convergence can turn out differently.
 */
#include "tier/merge_gram.h"
#include "tier/merge_rules.h"

static size_t scratch_bytes(size_t count) {
    return (count + 1) * sizeof(double);
}

static void gram(const struct tier_merge_gram *in, double *c) {
    size_t n = in->count;
    double *gc = in->scratch;

    for (size_t i = 0; i < n; i++)
        c[i] = 1 / (double)n;
    c[n] = 0;
    for (uint64_t step = 0; step < in->params->iterations; step++) {
        double square = tier_gram_apply(in->g, n, c, gc), total = 0;
        for (size_t i = 0; i < n; i++) {
            double d = tier_gram_to(in->g, n, i, gc, square);
            c[i] = 1 / (d > in->params->smoothing ? d : in->params->smoothing);
            total += c[i];
        }
        for (size_t i = 0; i < n; i++)
            c[i] /= total;
    }
}

const struct tier_merge_ops tier_merge_geometric_median = {
    .abi = TIER_MERGE_ABI,
    .bytes = sizeof tier_merge_geometric_median,
    .name = "geometric_median",
    .params = TIER_MERGE_ITERATIONS | TIER_MERGE_SMOOTHING,
    .scratch_bytes = scratch_bytes,
    .gram = gram};
