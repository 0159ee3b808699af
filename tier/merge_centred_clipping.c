/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Centred clipping (Karimireddy, He, Jaggi 2021): from the previous round's result v, a few times
 * v += mean of (x_i - v) * min(1, radius / |x_i - v|). An attacker moves the result by no more than
 * radius / n a step, and what it did fades with the rounds; momentum at the children (or many local
 * steps) is what it rests on. Without a radius in the plan it is the median of the updates'
 * distances to v at the first step, which fewer than half of them cannot push beyond an honest one.
 */
#include "tier/merge_gram.h"
#include "tier/merge_rules.h"

static size_t scratch_bytes(size_t count) {
    return 2 * (count + 1) * sizeof(double);
}

static void gram(const struct tier_merge_gram *in, double *c) {
    size_t n = in->count;
    double *gc = in->scratch, *distance = gc + n + 1, radius = in->params->radius;

    for (size_t i = 0; i < n; i++)
        c[i] = 0;
    c[n] = 1;
    for (uint64_t step = 0; step < in->params->iterations; step++) {
        double square = tier_gram_apply(in->g, n, c, gc), moved = 0;
        if (step == 0 && radius == 0) {
            for (size_t i = 0; i < n; i++)
                distance[i] = tier_gram_to(in->g, n, i, gc, square);
            radius = tier_gram_median(distance, n);
        }
        for (size_t i = 0; i < n; i++) {
            double d = tier_gram_to(in->g, n, i, gc, square);
            distance[i] = (d > radius ? radius / d : 1) / (double)n;
            moved += distance[i];
        }
        /* v of old counts for what is left of it. */
        double left = moved < 1 ? 1 - moved : 0;
        for (size_t i = 0; i < n; i++)
            c[i] = c[i] * left + distance[i];
        c[n] *= left;
    }
}

const struct tier_merge_ops tier_merge_centred_clipping = {
    .abi = TIER_MERGE_ABI,
    .bytes = sizeof tier_merge_centred_clipping,
    .name = "centred_clipping",
    .params = TIER_MERGE_RADIUS | TIER_MERGE_ITERATIONS,
    .has_previous = true,
    .scratch_bytes = scratch_bytes,
    .gram = gram};
