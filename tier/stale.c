/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/stale.h"

#include <inttypes.h>

uint32_t tier_stale_multiplier(uint64_t staleness) {
    const uint64_t one = TIER_STALE_ONE;
    uint64_t m = one;

    /* The least m with m + 1/2 > one / sqrt(1 + s), all squared: no rounding on the way. */
    if (staleness > TIER_STALENESS_LIMIT)
        staleness = TIER_STALENESS_LIMIT;
    while ((2 * m - 1) * (2 * m - 1) * (1 + staleness) > 4 * one * one)
        m--;
    return (uint32_t)m;
}

bool tier_stale_buffers(const struct tier_plan_tier *tier) {
    return tier->sync == TIER_PLAN_BUFFERED;
}

bool tier_stale_in(const struct tier_plan *plan) {
    return tier_stale_buffers(&plan->top) || tier_stale_buffers(&plan->hub);
}

uint64_t tier_stale_full_weight(const struct tier_update_header *h) {
    const int64_t *full = h->metrics ? tier_metrics_get(h->metrics, TIER_STALE_METRIC, NULL) : NULL;

    return full ? (uint64_t)*full : h->weight;
}

enum tier_status tier_stale_check(const struct tier_plan *plan, const struct tier_update_header *h,
                                  struct tier_err *err) {
    size_t bins = 0;
    const int64_t *full =
        h->metrics ? tier_metrics_get(h->metrics, TIER_STALE_METRIC, &bins) : NULL;

    if (!full)
        return TIER_OK;
    if (!tier_stale_in(plan))
        return tier_fail(err, TIER_EUPDATE, "metric %s is for a plan with sync: buffered",
                         TIER_STALE_METRIC);
    /* weight <= 2^32 */
    if (bins != 1 || *full < 0 || (uint64_t)*full < h->weight ||
        (uint64_t)*full > h->weight * TIER_STALE_ONE)
        return tier_fail(err, TIER_EUPDATE,
                         "metric %s is %" PRId64 " in %zu bins for a weight of %" PRIu64
                         ": one bin of 1 to %d times the weight would be right",
                         TIER_STALE_METRIC, *full, bins, h->weight, TIER_STALE_ONE);
    return TIER_OK;
}

double tier_stale_damping(const struct tier_update_header *h) {
    return (double)h->weight / (double)tier_stale_full_weight(h);
}
