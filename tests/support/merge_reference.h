/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every merge rule once more, from its paper, in long double and on the vectors themselves: no
 * matrix of inner products, no blocks, no integers. Slow, and independent of what it checks.
 * Header only.
 */
#ifndef CONSILIUM_TESTS_MERGE_REFERENCE_H
#define CONSILIUM_TESTS_MERGE_REFERENCE_H

#include "tier/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reference {
    size_t count, n;
    long double **x;             /* count vectors of n */
    const long double *previous; /* n; NULL is zero */
    size_t byzantine, select;
    long double radius, smoothing;
    uint64_t iterations;
};

static inline long double **vectors_new(size_t count, size_t n) {
    long double **x = calloc(count, sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = calloc(n, sizeof **x);
    return x;
}

static inline void vectors_free(long double **x, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(x[i]);
    free(x);
}

static inline long double distance2(const long double *a, const long double *b, size_t n) {
    long double sum = 0;
    for (size_t e = 0; e < n; e++) {
        long double d = a[e] - (b ? b[e] : 0);
        sum += d * d;
    }
    return sum;
}

static inline int reference_order(const void *a, const void *b) {
    long double x = *(const long double *)a, y = *(const long double *)b;
    return (x > y) - (x < y);
}

static inline void reference_trimmed(const struct reference *r, size_t trim, long double *out) {
    long double *v = calloc(r->count, sizeof *v);
    for (size_t e = 0; e < r->n; e++) {
        for (size_t i = 0; i < r->count; i++)
            v[i] = r->x[i][e];
        qsort(v, r->count, sizeof *v, reference_order);
        out[e] = 0;
        for (size_t i = trim; i < r->count - trim; i++)
            out[e] += v[i] / (long double)(r->count - 2 * trim);
    }
    free(v);
}

static inline void reference_multi_krum(const struct reference *r, size_t chosen,
                                        long double *out) {
    long double *score = calloc(r->count, sizeof *score), *d = calloc(r->count, sizeof *d);
    for (size_t i = 0; i < r->count; i++) {
        for (size_t j = 0; j < r->count; j++)
            d[j] = distance2(r->x[i], r->x[j], r->n);
        qsort(d, r->count, sizeof *d, reference_order);
        for (size_t k = 1; k + 1 < r->count - r->byzantine; k++) /* d[0] is its own 0 */
            score[i] += d[k];
    }
    memset(out, 0, r->n * sizeof *out);
    for (size_t k = 0; k < chosen; k++) {
        size_t best = 0;
        for (size_t i = 1; i < r->count; i++)
            best = score[i] < score[best] ? i : best;
        score[best] = INFINITY;
        for (size_t e = 0; e < r->n; e++)
            out[e] += r->x[best][e] / (long double)chosen;
    }
    free(score);
    free(d);
}

static inline void reference_geometric_median(const struct reference *r, long double *out) {
    long double *w = calloc(r->count, sizeof *w);
    for (uint64_t step = 0; step <= r->iterations; step++) {
        long double total = 0;
        for (size_t i = 0; i < r->count; i++) {
            w[i] = step == 0 ? 1 : 1 / fmaxl(r->smoothing, sqrtl(distance2(out, r->x[i], r->n)));
            total += w[i];
        }
        memset(out, 0, r->n * sizeof *out);
        for (size_t i = 0; i < r->count; i++)
            for (size_t e = 0; e < r->n; e++)
                out[e] += r->x[i][e] * w[i] / total;
    }
    free(w);
}

static inline long double reference_radius(const struct reference *r, const long double *from) {
    long double *d = calloc(r->count, sizeof *d), radius = r->radius;
    for (size_t i = 0; i < r->count; i++)
        d[i] = sqrtl(distance2(r->x[i], from, r->n));
    qsort(d, r->count, sizeof *d, reference_order);
    if (radius == 0)
        radius = d[(r->count - 1) / 2];
    free(d);
    return radius;
}

static inline void reference_centred_clipping(const struct reference *r, long double *out) {
    long double *move = calloc(r->n, sizeof *move), radius = reference_radius(r, r->previous);
    for (size_t e = 0; e < r->n; e++)
        out[e] = r->previous ? r->previous[e] : 0;
    for (uint64_t step = 0; step < r->iterations; step++) {
        memset(move, 0, r->n * sizeof *move);
        for (size_t i = 0; i < r->count; i++) {
            long double d = sqrtl(distance2(r->x[i], out, r->n)), s = d > radius ? radius / d : 1;
            for (size_t e = 0; e < r->n; e++)
                move[e] += (r->x[i][e] - out[e]) * s / (long double)r->count;
        }
        for (size_t e = 0; e < r->n; e++)
            out[e] += move[e];
    }
    free(move);
}

static inline void reference_norm_bound(const struct reference *r, long double *out) {
    long double radius = reference_radius(r, NULL);
    memset(out, 0, r->n * sizeof *out);
    for (size_t i = 0; i < r->count; i++) {
        long double d = sqrtl(distance2(r->x[i], NULL, r->n)), s = d > radius ? radius / d : 1;
        for (size_t e = 0; e < r->n; e++)
            out[e] += r->x[i][e] * s / (long double)r->count;
    }
}

/* The vectors after nearest-neighbour mixing; to be freed. */
static inline long double **reference_mix(const struct reference *r) {
    long double **mixed = vectors_new(r->count, r->n), *d = calloc(r->count, sizeof *d);
    size_t kept = r->count - r->byzantine;
    for (size_t i = 0; i < r->count; i++) {
        for (size_t j = 0; j < r->count; j++)
            d[j] = j == i ? -1 : distance2(r->x[i], r->x[j], r->n);
        for (size_t k = 0; k < kept; k++) {
            size_t best = 0;
            for (size_t j = 1; j < r->count; j++)
                best = d[j] < d[best] ? j : best;
            d[best] = INFINITY;
        }
        /* In one order, so that updates with the same neighbours become the very same. */
        for (size_t j = 0; j < r->count; j++)
            for (size_t e = 0; e < r->n && isinf(d[j]); e++)
                mixed[i][e] += r->x[j][e] / (long double)kept;
    }
    free(d);
    return mixed;
}

static inline void reference_merge(const struct reference *given,
                                   const struct tier_plan_merge *settings, long double *out) {
    struct reference r = *given;
    if (settings->mix == TIER_PLAN_MIX_NEAREST)
        r.x = reference_mix(&r);
    memset(out, 0, r.n * sizeof *out);
    switch (settings->rule.choice) {
    case TIER_PLAN_MEDIAN:
        reference_trimmed(&r, (r.count - 1) / 2, out);
        break;
    case TIER_PLAN_TRIMMED_MEAN:
        reference_trimmed(&r, r.byzantine, out);
        break;
    case TIER_PLAN_KRUM:
        reference_multi_krum(&r, 1, out);
        break;
    case TIER_PLAN_MULTI_KRUM:
        reference_multi_krum(&r, r.select > 0 ? r.select : r.count - r.byzantine - 2, out);
        break;
    case TIER_PLAN_GEOMETRIC_MEDIAN:
        reference_geometric_median(&r, out);
        break;
    case TIER_PLAN_CENTRED_CLIPPING:
        reference_centred_clipping(&r, out);
        break;
    case TIER_PLAN_NORM_BOUND:
        reference_norm_bound(&r, out);
        break;
    default:
        abort();
    }
    if (settings->mix == TIER_PLAN_MIX_NEAREST)
        vectors_free(r.x, r.count);
}

#endif
