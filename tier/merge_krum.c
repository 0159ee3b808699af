/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Krum and multi-Krum (Blanchard, El Mhamdi, Guerraoui, Stainer 2017): an update's score is the sum
 * of its squared distances to the n - f - 2 others nearest to it. Krum is the update of the lowest
 * score; multi-Krum the mean of the `select` lowest, by default the n - f - 2 that El Mhamdi,
 * Guerraoui, Rouault 2018 can vouch for. Of equal scores the first counts as lower.
 */
#include "tier/merge_gram.h"
#include "tier/merge_rules.h"

#include <inttypes.h>
#include <stdio.h>

static size_t scratch_bytes(size_t count) {
    return 2 * count * sizeof(double);
}

static bool ready(size_t count, const struct tier_merge_params *params, char *why,
                  size_t why_bytes) {
    if (count >= 2 * params->byzantine + 3)
        return true;
    snprintf(why, why_bytes,
             "with %" PRIu64 " byzantine updates it needs at least %" PRIu64
             " updates; this round has %zu",
             params->byzantine, 2 * params->byzantine + 3, count);
    return false;
}

static bool multi_ready(size_t count, const struct tier_merge_params *params, char *why,
                        size_t why_bytes) {
    if (!ready(count, params, why, why_bytes))
        return false;
    if (params->select <= count)
        return true;
    snprintf(why, why_bytes, "it is to select %" PRIu64 " updates; this round has %zu",
             params->select, count);
    return false;
}

/* The sum of the `n` smallest of v[count], ascending; v is reordered. */
static double smallest_sum(double *v, size_t count, size_t n) {
    double sum = 0;

    for (size_t k = 0; k < n; k++) {
        size_t best = k;
        for (size_t j = k + 1; j < count; j++)
            best = v[j] < v[best] ? j : best;
        double x = v[best];
        v[best] = v[k];
        v[k] = x;
        sum += x;
    }
    return sum;
}

static void choose(const struct tier_merge_gram *in, size_t selected, double *coefficient) {
    size_t n = in->count, near = n - (size_t)in->params->byzantine - 2;
    double *score = in->scratch, *distance = score + n;

    for (size_t i = 0; i < n; i++) {
        size_t others = 0;
        for (size_t j = 0; j < n; j++)
            if (j != i)
                distance[others++] = tier_gram_between(in->g, n, i, j);
        score[i] = smallest_sum(distance, others, near);
        coefficient[i] = 0;
    }
    coefficient[n] = 0;
    for (size_t k = 0; k < selected; k++) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (coefficient[i] == 0 && (best == n || score[i] < score[best]))
                best = i;
        coefficient[best] = 1 / (double)selected;
    }
}

static void krum(const struct tier_merge_gram *in, double *coefficient) {
    choose(in, 1, coefficient);
}

static void multi_krum(const struct tier_merge_gram *in, double *coefficient) {
    size_t all = in->count - (size_t)in->params->byzantine - 2;

    choose(in, in->params->select > 0 ? (size_t)in->params->select : all, coefficient);
}

const struct tier_merge_ops tier_merge_krum = {.abi = TIER_MERGE_ABI,
                                               .bytes = sizeof tier_merge_krum,
                                               .name = "krum",
                                               .params = TIER_MERGE_BYZANTINE,
                                               .scratch_bytes = scratch_bytes,
                                               .ready = ready,
                                               .gram = krum};

const struct tier_merge_ops tier_merge_multi_krum = {.abi = TIER_MERGE_ABI,
                                                     .bytes = sizeof tier_merge_multi_krum,
                                                     .name = "multi_krum",
                                                     .params =
                                                         TIER_MERGE_BYZANTINE | TIER_MERGE_SELECT,
                                                     .scratch_bytes = scratch_bytes,
                                                     .ready = multi_ready,
                                                     .gram = multi_krum};
