/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mixing is linear, so for a Gram rule it is done to the matrix: G' = M G M^T with M's rows the
 * means over neighbours, and the rule's coefficients c become M^T c. Only block rules need the
 * mixed updates themselves.
 */
#include "tier/merge_mix.h"

#include "tier/merge_gram.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool tier_merge_mix_ready(size_t count, const struct tier_merge_params *params, char *why,
                          size_t why_bytes) {
    if (count > 2 * params->byzantine)
        return true;
    snprintf(why, why_bytes,
             "mixing with %" PRIu64 " byzantine updates needs at least %" PRIu64
             " updates; this round has %zu",
             params->byzantine, 2 * params->byzantine + 1, count);
    return false;
}

/* Puts the `kept` nearest to i first in order[count]. */
static void nearest(const double *g, size_t count, size_t kept, size_t i, uint32_t *order) {
    for (size_t j = 0; j < count; j++)
        order[j] = (uint32_t)j;
    order[0] = (uint32_t)i; /* itself, whatever lies on the same spot */
    order[i] = 0;
    /* A partial selection: count is at most TIER_MERGE_GRAM_MAX. */
    for (size_t k = 1; k < kept; k++) {
        size_t best = k;
        double best_d = tier_gram_between(g, count, i, order[k]);
        for (size_t j = k + 1; j < count; j++) {
            double d = tier_gram_between(g, count, i, order[j]);
            if (d < best_d || (d == best_d && order[j] < order[best])) {
                best = j;
                best_d = d;
            }
        }
        uint32_t swap = order[k];
        order[k] = order[best];
        order[best] = swap;
    }
}

void tier_merge_mix_near(const double *g, size_t count, size_t kept, uint32_t *order,
                         uint32_t *near) {
    for (size_t i = 0; i < count; i++) {
        uint32_t *mine = near + i * kept;
        nearest(g, count, kept, i, order);
        for (size_t k = 0; k < kept; k++) { /* ascending, so that sums have one order */
            size_t j = k;
            for (; j > 0 && mine[j - 1] > order[k]; j--)
                mine[j] = mine[j - 1];
            mine[j] = order[k];
        }
    }
}

void tier_merge_mix_gram(const double *g, size_t count, size_t kept, const uint32_t *near,
                         double *side, double *out) {
    size_t w = count + 1;
    double n = (double)kept;

    for (size_t i = 0; i < count; i++) {
        memset(side, 0, w * sizeof *side);
        for (size_t k = 0; k < kept; k++)
            for (size_t j = 0; j < w; j++)
                side[j] += g[near[i * kept + k] * w + j];
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t k = 0; k < kept; k++)
                sum += side[near[j * kept + k]];
            out[i * w + j] = out[j * w + i] = sum / n / n;
        }
        out[i * w + count] = out[count * w + i] = side[count] / n;
    }
    out[count * w + count] = g[count * w + count];
}

void tier_merge_mix_back(size_t count, size_t kept, const uint32_t *near, double *c,
                         double *scratch) {
    double n = (double)kept;

    memset(scratch, 0, count * sizeof *scratch);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < kept; k++)
            scratch[near[i * kept + k]] += c[i] / n;
    memcpy(c, scratch, count * sizeof *scratch);
}

void tier_merge_mix_far(size_t count, size_t kept, const uint32_t *near, uint32_t *far) {
    for (size_t i = 0; i < count; i++) {
        size_t k = 0;
        for (uint32_t j = 0; j < count; j++) {
            if (k < kept && near[i * kept + k] == j)
                k++;
            else
                *far++ = j;
        }
    }
}
