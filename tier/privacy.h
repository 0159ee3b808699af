/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What differential privacy costs: epsilon at a given delta of Gaussian mechanisms on Poisson
 * samples, composed. Two ways, side by side:
 *
 *   rdp    Renyi accounting (Mironov 2017; sampled: Mironov, Talwar, Zhang 2019), turned into
 *          epsilon as Canonne, Kamath, Steinke 2020 do: an upper bound, a few per cent too high;
 *   tight  the privacy loss itself, as a distribution on a grid, composed by Fourier transform
 *          (Gopi, Lee, Wutschitz 2021): an upper and a lower bound whose distance the caller's
 *          delta and the grid decide, about half a per cent.
 *
 * Beside them, zCDP (Bun, Steinke 2016), which knows nothing of samples, holds for discrete
 * Gaussians as it does for continuous ones, and has one number that simply adds up: the one to go
 * by where whole sites are protected, who are in every round.
 *
 * Neighbours differ by one record that is added or removed, and the worse of both counts. A record
 * is what the mechanism's sensitivity is of: one patient's gradient or a whole site's update. Costs
 * of the two kinds are never added.
 *
 * Threads: no shared state. Calls take up to seconds and TIER_PRIVACY_BYTES_MAX of memory.
 */
#ifndef CONSILIUM_TIER_PRIVACY_H
#define CONSILIUM_TIER_PRIVACY_H

#include "tier/err.h"

#include <stddef.h>
#include <stdint.h>

#define TIER_PRIVACY_NOISE_MIN 0.1
#define TIER_PRIVACY_NOISE_MAX 1e6
#define TIER_PRIVACY_RATE_MIN 1e-7
#define TIER_PRIVACY_COUNT_MAX (UINT64_C(1) << 32)
#define TIER_PRIVACY_EVENTS_MAX 4096
#define TIER_PRIVACY_DELTA_MIN 1e-10
#define TIER_PRIVACY_EPSILON_MAX 200.0 /* above it nothing is protected, nor told apart */
#define TIER_PRIVACY_BYTES_MAX (UINT64_C(192) << 20)

/* One mechanism, run `count` times. */
struct tier_privacy_event {
    double noise;   /* standard deviation / sensitivity, NOISE_MIN to NOISE_MAX */
    double rate;    /* each record is in a sample with this probability, RATE_MIN to 1 */
    uint64_t count; /* at least 1; of all events at most COUNT_MAX */
};

struct tier_privacy_cost {
    double rdp;          /* upper bound; INFINITY where it passes EPSILON_MAX */
    double order;        /* Renyi order that gave it */
    double tight, floor; /* upper and lower bound; INFINITY both where rdp is */
};

/* TIER_EARG for a value outside its range, by name; TIER_ENOMEM. No events cost nothing. */
enum tier_status tier_privacy_cost(const struct tier_privacy_event *events, size_t count,
                                   double delta, struct tier_privacy_cost *out,
                                   struct tier_err *err);

/* By concentrated differential privacy: as if every record were in every sample. */
struct tier_privacy_bound {
    double rho;     /* zCDP */
    double epsilon; /* upper bound; INFINITY where it passes EPSILON_MAX */
    double order;   /* Renyi order that gave it */
};
/* Errors: tier_privacy_cost. Takes no time. */
enum tier_status tier_privacy_concentrated(const struct tier_privacy_event *events, size_t count,
                                           double delta, struct tier_privacy_bound *out,
                                           struct tier_err *err);

/*
 * Whether they cost at most epsilon: by Renyi accounting where that is enough, which takes no time,
 * else by the tight bound. *bound_out is the one that decided.
 */
enum tier_status tier_privacy_within(const struct tier_privacy_event *events, size_t count,
                                     double delta, double epsilon, bool *within_out,
                                     double *bound_out, struct tier_err *err);

/*
 * The least noise, to three places and rounded up, with which `count` runs at `rate` cost at most
 * epsilon (0.01 to EPSILON_MAX) at delta by the tight bound. TIER_EPLAN where NOISE_MAX would not
 * do.
 */
enum tier_status tier_privacy_noise(double epsilon, double delta, double rate, uint64_t count,
                                    double *noise_out, struct tier_err *err);

#endif
