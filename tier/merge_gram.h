/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Geometry out of a matrix of inner products (struct tier_merge_gram), in a fixed order of
 * operations. Distances between updates that are far from the origin and near to each other lose
 * digits: a distance is good to about 1e-8 of the larger norm, and below that counts as 0.
 *
 * Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_MERGE_GRAM_H
#define CONSILIUM_TIER_MERGE_GRAM_H

#include "tier/merge_rule.h"

#include <math.h>

/* |x_i - x_j|^2, at least 0. */
static inline double tier_gram_between(const double *g, size_t count, size_t i, size_t j) {
    size_t w = count + 1;
    double d = (g[i * w + i] - g[i * w + j]) + (g[j * w + j] - g[i * w + j]);

    return d > 0 ? d : 0;
}

/* gc[i] = <x_i, z> for z = sum of c[j] x_j; returns |z|^2. All have count + 1 entries. */
static inline double tier_gram_apply(const double *g, size_t count, const double *c, double *gc) {
    size_t w = count + 1;
    double square = 0;

    for (size_t i = 0; i < w; i++) {
        double sum = 0;
        for (size_t j = 0; j < w; j++)
            sum += g[i * w + j] * c[j];
        gc[i] = sum;
    }
    for (size_t i = 0; i < w; i++)
        square += c[i] * gc[i];
    return square;
}

/* |x_i - z|, with what tier_gram_apply gave. */
static inline double tier_gram_to(const double *g, size_t count, size_t i, const double *gc,
                                  double square) {
    size_t w = count + 1;
    double d = (g[i * w + i] - gc[i]) + (square - gc[i]);

    return d > 0 ? sqrt(d) : 0;
}

/* Sorts v ascending (n is small: by insertion) and gives the lower median. */
static inline double tier_gram_median(double *v, size_t n) {
    for (size_t i = 1; i < n; i++) {
        double x = v[i];
        size_t j = i;
        for (; j > 0 && v[j - 1] > x; j--)
            v[j] = v[j - 1];
        v[j] = x;
    }
    return v[(n - 1) / 2];
}

#endif
