/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Renyi differential privacy of the sampled Gaussian mechanism. Of two neighbours' outputs, N(0,
 * s^2) and the mixture (1 - q) N(0, s^2) + q N(1, s^2), the divergence of order a is log A / (a -
 * 1), with
 *
 *     A = E over z from N(0, s^2) of ((1 - q) + q exp((2 z - 1) / (2 s^2)))^a,
 *
 * and the other direction is never worse (Mironov, Talwar, Zhang 2019, theorem 5 and section 3.3).
 * The integrand is analytic and falls as a Gaussian does at both ends, so the trapezoidal rule on a
 * fixed step is as good as double precision lets it be.
 */
#include "tier/privacy_private.h"

#include <math.h>

#define STEP (1.0 / 16) /* of a standard deviation */
#define TAIL 40.0       /* standard deviations beyond both means that matter */

/* log(exp(a) + exp(b)). */
static double log_add(double a, double b) {
    double most = fmax(a, b);
    return isinf(most) ? most : most + log1p(exp(fmin(a, b) - most));
}

static double log_moment(double noise, double rate, double order) {
    double h = STEP * noise, sum = 0, most = -INFINITY;
    double keep = rate < 1 ? log1p(-rate) : -INFINITY, take = log(rate);
    double from = -TAIL * noise;
    size_t points = (size_t)((order + 2 * TAIL * noise) / h);

    for (size_t i = 0; i <= points; i++) {
        double z = from + (double)i * h;
        double ratio = log_add(keep, take + (2 * z - 1) / (2 * noise * noise));
        double v = order * ratio - z * z / (2 * noise * noise);
        if (v > most) {
            sum = sum * exp(most - v) + 1;
            most = v;
        } else
            sum += exp(v - most);
    }
    return most + log(sum * h) - 0.5 * log(2 * M_PI) - log(noise);
}

static double divergence(const struct tier_privacy_event *e, double order) {
    double one = e->rate == 1 ? order / (2 * e->noise * e->noise)
                              : log_moment(e->noise, e->rate, order) / (order - 1);
    return fmax(one, 0) * (double)e->count; /* rounding may take a tiny one below 0 */
}

/* Denser where the best orders of usual settings are. */
static double order_at(size_t i) {
    if (i < 100)
        return 1.1 + 0.1 * (double)i; /* to 11 */
    if (i < 153)
        return 12 + (double)(i - 100); /* to 64 */
    return 64 * pow(1.25, (double)(i - 152));
}

#define ORDERS 167 /* to 1456 */

double privacy_rdp(const struct tier_privacy_event *events, size_t count, double delta,
                   double *order_out) {
    double best = INFINITY;

    for (size_t i = 0; i < ORDERS; i++) {
        double order = order_at(i), total = 0;
        for (size_t e = 0; e < count && total < TIER_PRIVACY_EPSILON_MAX * order; e++)
            total += divergence(&events[e], order);
        double epsilon = total + log1p(-1 / order) - log(delta * order) / (order - 1);
        if (epsilon < best) {
            best = epsilon;
            *order_out = order;
        }
    }
    return fmax(best, 0);
}
