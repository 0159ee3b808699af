/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan's or a site's mechanisms cost together, and how much noise a budget needs. */
#include "tier/privacy.h"
#include "tier/privacy_private.h"

#include <inttypes.h>
#include <math.h>

#define WIDTH 0.005 /* of epsilon: how far the tight bounds lie apart */

static enum tier_status check_delta(double delta, struct tier_err *err) {
    if (!(delta >= TIER_PRIVACY_DELTA_MIN && delta < 1))
        return tier_fail(err, TIER_EARG, "delta is %g: %g to below 1 would be right", delta,
                         TIER_PRIVACY_DELTA_MIN);
    return TIER_OK;
}

static enum tier_status check(const struct tier_privacy_event *events, size_t count, double delta,
                              struct tier_err *err) {
    uint64_t runs = 0;

    TIER_TRY(check_delta(delta, err));
    if (count > TIER_PRIVACY_EVENTS_MAX)
        return tier_fail(err, TIER_EARG, "%zu kinds of mechanisms: %d are the most", count,
                         TIER_PRIVACY_EVENTS_MAX);
    for (size_t i = 0; i < count; i++) {
        const struct tier_privacy_event *e = &events[i];
        if (!(e->noise >= TIER_PRIVACY_NOISE_MIN && e->noise <= TIER_PRIVACY_NOISE_MAX))
            return tier_fail(err, TIER_EARG, "the noise multiplier is %g: %g to %g would be right",
                             e->noise, TIER_PRIVACY_NOISE_MIN, TIER_PRIVACY_NOISE_MAX);
        if (!(e->rate >= TIER_PRIVACY_RATE_MIN && e->rate <= 1))
            return tier_fail(err, TIER_EARG, "the sampling rate is %g: %g to 1 would be right",
                             e->rate, TIER_PRIVACY_RATE_MIN);
        if (e->count == 0 || e->count > TIER_PRIVACY_COUNT_MAX - runs)
            return tier_fail(err, TIER_EARG,
                             "a mechanism run %" PRIu64 " times: 1 to %" PRIu64
                             " in all would be right",
                             e->count, TIER_PRIVACY_COUNT_MAX);
        runs += e->count;
    }
    return TIER_OK;
}

/* Of checked events. */
static enum tier_status cost_of(const struct tier_privacy_event *events, size_t count, double delta,
                                struct tier_privacy_cost *out, struct tier_err *err) {
    *out = (struct tier_privacy_cost){0};
    if (count == 0)
        return TIER_OK;
    out->rdp = privacy_rdp(events, count, delta, &out->order);
    if (out->rdp > TIER_PRIVACY_EPSILON_MAX) {
        out->rdp = out->tight = out->floor = INFINITY;
        return TIER_OK;
    }
    TIER_TRY(privacy_tight(events, count, delta, out->rdp, WIDTH, &out->tight, &out->floor, err));
    if (out->tight < out->rdp / 2) /* the grid was made for more than it is */
        TIER_TRY(
            privacy_tight(events, count, delta, out->tight, WIDTH, &out->tight, &out->floor, err));
    out->tight = fmin(out->tight, out->rdp); /* both are upper bounds */
    return TIER_OK;
}

enum tier_status tier_privacy_cost(const struct tier_privacy_event *events, size_t count,
                                   double delta, struct tier_privacy_cost *out,
                                   struct tier_err *err) {
    TIER_TRY(check(events, count, delta, err));
    return cost_of(events, count, delta, out, err);
}

enum tier_status tier_privacy_concentrated(const struct tier_privacy_event *events, size_t count,
                                           double delta, struct tier_privacy_bound *out,
                                           struct tier_err *err) {
    TIER_TRY(check(events, count, delta, err));
    privacy_concentrated(events, count, delta, out);
    return TIER_OK;
}

enum tier_status tier_privacy_within(const struct tier_privacy_event *events, size_t count,
                                     double delta, double epsilon, bool *within_out,
                                     double *bound_out, struct tier_err *err) {
    struct tier_privacy_cost cost = {0};

    TIER_TRY(check(events, count, delta, err));
    if (count > 0)
        cost.tight = privacy_rdp(events, count, delta, &cost.order);
    if (cost.tight > epsilon)
        TIER_TRY(cost_of(events, count, delta, &cost, err));
    *within_out = cost.tight <= epsilon;
    *bound_out = cost.tight;
    return TIER_OK;
}

static double places(double noise) {
    return ceil(noise * 1000 - 1e-6) / 1000;
}

/*
 * Between noise `low` and `high`, which is enough: the place where the cost crosses epsilon, by the
 * straight line between the ends on logarithmic scales, on which the cost nearly is one. An end
 * that stays twice counts as nearer, so that both ends move (the Illinois rule).
 */
static enum tier_status search(struct tier_privacy_event *e, double low, double high,
                               double epsilon, double delta, double *noise_out,
                               struct tier_err *err) {
    struct tier_privacy_cost cost;
    double above = 0, below = 0; /* log of cost / epsilon at low and at high */
    int stayed = 0;

    e->noise = high;
    TIER_TRY(cost_of(e, 1, delta, &cost, err));
    below = log(fmax(cost.tight, 1e-6) / epsilon);
    e->noise = low;
    TIER_TRY(cost_of(e, 1, delta, &cost, err));
    if (cost.tight <= epsilon) {
        *noise_out = places(low);
        return TIER_OK;
    }
    above = log(fmin(cost.tight, 10 * TIER_PRIVACY_EPSILON_MAX) / epsilon);
    while (places(low) < places(high) - 5e-4 && high / low > 1 + 1e-6) {
        double part = above / (above - below);
        part = fmin(fmax(part, 0.02), 0.98);
        e->noise = fmin(places(low * pow(high / low, part)), high);
        if (e->noise >= high)
            e->noise = high - 0.001 > low ? high - 0.001 : (low + high) / 2;
        TIER_TRY(cost_of(e, 1, delta, &cost, err));
        if (cost.tight <= epsilon) {
            high = e->noise;
            below = log(fmax(cost.tight, 1e-6) / epsilon);
            above /= stayed == 1 ? 2 : 1;
            stayed = 1;
        } else {
            low = e->noise;
            above = log(fmin(cost.tight, 10 * TIER_PRIVACY_EPSILON_MAX) / epsilon);
            below /= stayed == -1 ? 2 : 1;
            stayed = -1;
        }
    }
    *noise_out = places(high);
    return TIER_OK;
}

enum tier_status tier_privacy_noise(double epsilon, double delta, double rate, uint64_t count,
                                    double *noise_out, struct tier_err *err) {
    struct tier_privacy_event e = {TIER_PRIVACY_NOISE_MAX, rate, count};
    double low = TIER_PRIVACY_NOISE_MIN, high = low, order;

    if (!(epsilon >= 0.01 && epsilon <= TIER_PRIVACY_EPSILON_MAX))
        return tier_fail(err, TIER_EARG, "epsilon is %g: 0.01 to %g would be right", epsilon,
                         TIER_PRIVACY_EPSILON_MAX);
    TIER_TRY(check(&e, 1, delta, err));
    /* Renyi accounting needs more noise, so where it has enough is enough. */
    for (e.noise = high; privacy_rdp(&e, 1, delta, &order) > epsilon; e.noise = high) {
        if (high >= TIER_PRIVACY_NOISE_MAX)
            return tier_fail(err, TIER_EPLAN,
                             "no noise up to %g gives epsilon %g at delta %g over %" PRIu64
                             " runs at rate %g",
                             TIER_PRIVACY_NOISE_MAX, epsilon, delta, count, rate);
        low = high;
        high = fmin(high * 2, TIER_PRIVACY_NOISE_MAX);
    }
    return search(&e, fmax(low / 2, TIER_PRIVACY_NOISE_MIN), high, epsilon, delta, noise_out, err);
}
