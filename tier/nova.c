/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/nova.h"

#include <inttypes.h>

static double power(double x, uint64_t n) {
    double y = 1;

    for (; n > 0; n >>= 1, x *= x)
        if (n & 1)
            y *= x;
    return y;
}

double tier_nova_tau(const struct tier_plan *plan, uint64_t steps) {
    double n = (double)steps, p = plan->optimiser.momentum;
    double a = plan->optimiser.lr * plan->prox_mu;

    if (a > 0)
        return (1 - power(1 - a, steps)) / a;
    if (!(p > 0))
        return n;
    double heavy = (n - p * (1 - power(p, steps)) / (1 - p)) / (1 - p);
    return plan->optimiser.nesterov ? n + p * heavy : heavy;
}

uint64_t tier_nova_units(const struct tier_plan *plan, uint64_t steps) {
    uint64_t units = (uint64_t)(tier_nova_tau(plan, steps) * TIER_NOVA_ONE + 0.5);

    /* A proximal term of next to nothing may lose the last bit of a single step. */
    return units < TIER_NOVA_ONE ? TIER_NOVA_ONE : units;
}

uint64_t tier_nova_bound(const struct tier_plan *plan) {
    return plan->steps ? tier_nova_units(plan, plan->steps) : plan->normalise_max * TIER_NOVA_ONE;
}

enum tier_status tier_nova_check(const struct tier_plan *plan, const struct tier_update_header *h,
                                 struct tier_err *err) {
    size_t bins = 0;
    const int64_t *value =
        h->metrics ? tier_metrics_get(h->metrics, TIER_NOVA_METRIC, &bins) : NULL;
    uint64_t bound = tier_nova_bound(plan), w = h->weight;
    bool wanted = plan->normalise && w > 0;

    if (!wanted && !value)
        return TIER_OK;
    if (!wanted)
        return tier_fail(err, TIER_EUPDATE, "metric %s is for %s", TIER_NOVA_METRIC,
                         plan->normalise ? "an update that has weight"
                                         : "a plan with local.normalise");
    if (!value || bins != 1)
        return tier_fail(err, TIER_EUPDATE,
                         "the plan normalises updates, and this one does not say its effective "
                         "steps: metric %s of 1 bin would be right",
                         TIER_NOVA_METRIC);
    /* w <= 2^32 and bound <= 2^30. */
    if (*value < 0 || (uint64_t)*value < w * TIER_NOVA_ONE || (uint64_t)*value > w * bound)
        return tier_fail(err, TIER_EUPDATE,
                         "metric %s is %" PRId64 " for a weight of %" PRIu64
                         ": 1 to %g effective steps are the plan's",
                         TIER_NOVA_METRIC, *value, w, (double)bound / TIER_NOVA_ONE);
    return TIER_OK;
}

double tier_nova_effective(const struct tier_update_header *h) {
    return (double)tier_metrics_scalar(h->metrics, TIER_NOVA_METRIC) / (double)h->weight /
           TIER_NOVA_ONE;
}
