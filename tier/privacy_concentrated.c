/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Concentrated differential privacy (Bun, Steinke 2016): a mechanism is rho-zCDP where its Renyi
 * divergence of every order a is at most rho a. A Gaussian of noise s has rho = 1 / (2 s^2), a
 * discrete one the same (Canonne, Kamath, Steinke 2020, theorem 4), and rho adds up. Epsilon at
 * delta is the least, over a > 1, of
 *
 *     a rho + log(1 - 1/a) - log(a delta) / (a - 1)
 *
 * (the same, corollary 13), whose derivative rho + log(a delta) / (a - 1)^2 has the sign of
 * rho (a - 1)^2 + log(a delta), which grows with a: there is one minimum, and halving finds it.
 */
#include "tier/privacy_private.h"

#include <math.h>

static double epsilon_at(double rho, double delta, double more) {
    double a = 1 + more;

    return a * rho + log(more) - log(a) - (log(a) + log(delta)) / more;
}

void privacy_concentrated(const struct tier_privacy_event *events, size_t count, double delta,
                          struct tier_privacy_bound *out) {
    double low = -60, high = 60, rho = 0; /* of log(a - 1) */

    for (size_t i = 0; i < count; i++)
        rho += (double)events[i].count / (2 * events[i].noise * events[i].noise);
    *out = (struct tier_privacy_bound){.rho = rho};
    if (rho == 0)
        return;
    for (int i = 0; i < 100; i++) {
        double mid = (low + high) / 2, more = exp(mid);
        if (rho * more * more + log1p(more) + log(delta) > 0)
            high = mid;
        else
            low = mid;
    }
    out->order = 1 + exp(high);
    out->epsilon = fmax(epsilon_at(rho, delta, exp(high)), 0);
    if (out->epsilon > TIER_PRIVACY_EPSILON_MAX)
        out->epsilon = INFINITY;
}
