/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shapley values: what each of n players adds to the utility of a coalition, in the mean over all
 * orders in which they may come (Shapley 1953). Exactly where there are few; else sampled from
 * random orders with a standard error (Castro, Gomez, Tejada 2009), each order cut off where what
 * is left can hardly matter (truncated Monte Carlo: Ghorbani, Zou 2019).
 *
 * Orders follow from a seed alone, so that whoever has the same utility gets the same values.
 *
 * Threads: the caller's; no state.
 */
#ifndef CONSILIUM_TIER_SHAPLEY_H
#define CONSILIUM_TIER_SHAPLEY_H

#include "tier/err.h"
#include "tier/hash.h"

#include <stddef.h>

/* Up to here all 2^n coalitions are looked at. */
#define TIER_SHAPLEY_EXACT_MAX 12u

/* The utility of coalitions that grow by one player at a time. */
struct tier_utility {
    size_t count; /* players, at least 1 */
    void *arg;
    /* The empty coalition; returns its utility. */
    double (*begin)(void *arg);
    /* Adds a player that is not in it; gives the utility of what it is then. */
    enum tier_status (*add)(void *arg, size_t player, double *utility_out, struct tier_err *err);
};

struct tier_shapley {
    size_t permutations; /* at least 2, where values are sampled */
    double tolerance;    /* an order is cut where |v(all) - v| is at most this; 0: none is */
    struct tier_hash seed;
};

struct tier_shapley_value {
    double value;
    double error; /* the standard error of value; 0 where it is exact */
};

/*
 * values_out[count]. They add up to v(all) - v(none), but for what cut orders leave out, at most
 * tolerance. *exact_out (may be NULL) says which way they came about. Errors: add's, TIER_ENOMEM.
 */
enum tier_status tier_shapley_run(const struct tier_utility *utility,
                                  const struct tier_shapley *settings,
                                  struct tier_shapley_value *values_out, bool *exact_out,
                                  struct tier_err *err);

#endif
