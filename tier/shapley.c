/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers are SHA-256 of the seed and a counter: they are few beside what a utility costs,
 * and the same in any language.
 */
#include "tier/shapley.h"

#include "tier/bytes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- all coalitions -------------------------------------------------------------------------- */

/* v[mask] of all 2^n. */
static enum tier_status all_coalitions(const struct tier_utility *u, double *v,
                                       struct tier_err *err) {
    for (size_t mask = 0; mask < (size_t)1 << u->count; mask++) {
        v[mask] = u->begin(u->arg);
        for (size_t i = 0; i < u->count; i++)
            if (mask >> i & 1)
                TIER_TRY(u->add(u->arg, i, &v[mask], err));
    }
    return TIER_OK;
}

/* A coalition of s comes before a given player in s! (n - 1 - s)! of n! orders. */
static void weigh_sizes(size_t n, double *weight) {
    weight[0] = 1 / (double)n;
    for (size_t s = 1; s < n; s++)
        weight[s] = weight[s - 1] * (double)s / (double)(n - s);
}

static enum tier_status exactly(const struct tier_utility *u, struct tier_shapley_value *out,
                                struct tier_err *err) {
    double weight[TIER_SHAPLEY_EXACT_MAX];
    size_t n = u->count;
    double *v = malloc(sizeof *v << n);

    if (!v)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu coalitions", (size_t)1 << n);
    enum tier_status st = all_coalitions(u, v, err);
    weigh_sizes(n, weight);
    for (size_t i = 0; st == TIER_OK && i < n; i++) {
        double sum = 0;
        for (size_t mask = 0; mask < (size_t)1 << n; mask++)
            if (!(mask >> i & 1))
                sum += weight[__builtin_popcountll(mask)] * (v[mask | (size_t)1 << i] - v[mask]);
        out[i] = (struct tier_shapley_value){.value = sum};
    }
    free(v);
    return st;
}

/* ---- random orders --------------------------------------------------------------------------- */

struct draws {
    uint8_t block[TIER_HASH_BYTES + 8]; /* the seed and a counter */
    struct tier_hash bits;
    uint64_t counter;
    size_t used; /* of bits */
};

static uint64_t draw(struct draws *d) {
    if (d->used == TIER_HASH_BYTES || d->counter == 0) {
        tier_put_u64(d->block + TIER_HASH_BYTES, d->counter++);
        tier_hash_data(d->block, sizeof d->block, &d->bits);
        d->used = 0;
    }
    d->used += 8;
    return tier_get_u64(d->bits.b + d->used - 8);
}

/* Below n, each as likely: what is above the last whole multiple of n is drawn again. */
static size_t draw_below(struct draws *d, size_t n) {
    uint64_t x, most = UINT64_MAX - UINT64_MAX % n;

    do
        x = draw(d);
    while (x >= most);
    return (size_t)(x % n);
}

static void shuffle(struct draws *d, size_t *order, size_t n) {
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t i = n; i > 1; i--) {
        size_t j = draw_below(d, i), swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
}

static enum tier_status whole(const struct tier_utility *u, double *out, struct tier_err *err) {
    *out = u->begin(u->arg);
    for (size_t i = 0; i < u->count; i++)
        TIER_TRY(u->add(u->arg, i, out, err));
    return TIER_OK;
}

/* What each player added in one order; 0 behind the cut. */
static enum tier_status one_order(const struct tier_utility *u, const size_t *order, double all,
                                  double tolerance, double *added, struct tier_err *err) {
    double before = u->begin(u->arg), now = before;

    memset(added, 0, u->count * sizeof *added);
    for (size_t k = 0; k < u->count; k++) {
        if (tolerance > 0 && fabs(all - before) <= tolerance)
            break;
        TIER_TRY(u->add(u->arg, order[k], &now, err));
        added[order[k]] = now - before;
        before = now;
    }
    return TIER_OK;
}

/* Welford's mean and sum of squares (1962), which do not cancel. */
static enum tier_status sampled(const struct tier_utility *u, const struct tier_shapley *settings,
                                struct tier_shapley_value *out, struct tier_err *err) {
    size_t n = u->count;
    size_t *order = malloc(n * sizeof *order);
    double *added = malloc(n * sizeof *added), all = 0;
    struct draws d = {.counter = 0};
    enum tier_status st = TIER_OK;

    if (!order || !added) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for orders of %zu players", n);
        goto out;
    }
    memcpy(d.block, settings->seed.b, TIER_HASH_BYTES);
    memset(out, 0, n * sizeof *out);
    TIER_TRY_OUT(whole(u, &all, err));
    for (size_t p = 1; p <= settings->permutations; p++) {
        shuffle(&d, order, n);
        TIER_TRY_OUT(one_order(u, order, all, settings->tolerance, added, err));
        for (size_t i = 0; i < n; i++) {
            double off = added[i] - out[i].value;
            out[i].value += off / (double)p;
            out[i].error += off * (added[i] - out[i].value);
        }
    }
    double m = (double)settings->permutations;
    for (size_t i = 0; i < n; i++)
        out[i].error = sqrt(fmax(0, out[i].error) / (m - 1) / m);
out:
    free(order);
    free(added);
    return st;
}

enum tier_status tier_shapley_run(const struct tier_utility *utility,
                                  const struct tier_shapley *settings,
                                  struct tier_shapley_value *values_out, bool *exact_out,
                                  struct tier_err *err) {
    bool exact = utility->count <= TIER_SHAPLEY_EXACT_MAX && settings->tolerance == 0;

    if (utility->count == 0 || (!exact && settings->permutations < 2))
        return tier_fail(err, TIER_EARG, "%zu players in %zu orders: a standard error takes two",
                         utility->count, settings->permutations);
    if (exact_out)
        *exact_out = exact;
    return exact ? exactly(utility, values_out, err) : sampled(utility, settings, values_out, err);
}
