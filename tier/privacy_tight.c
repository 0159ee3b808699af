/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The privacy loss of a mechanism is a random variable Y, the log of how much likelier an output is
 * with a record than without; of several mechanisms it is the sum, and
 *
 *     delta(epsilon) = E of max(0, 1 - exp(epsilon - Y)).
 *
 * Y is cut off at +-L, rounded to a grid of step h, moved so that its mean stays what it was, and
 * summed with itself by Fourier transform. Gopi, Lee, Wutschitz 2021 (theorem 5.5): with m
 * summands, h = error / sqrt(m / 2 * log(12 / d)) and L beyond which the sum and each summand lie
 * with small probability, the true epsilon at delta lies between the grid's at delta + d less the
 * error and the grid's at delta - d plus it.
 *
 * For N(0, s^2) and its mixture with N(1, s^2) the loss is monotonic in the output, so its
 * distribution function is that of the output at the place where the loss has the value.
 */
#include "tier/privacy_private.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>

#ifndef CMPLX /* glibc's header knows of one for gcc alone */
#define CMPLX(re, im) __builtin_complex((double)(re), (double)(im))
#endif

#define GRID_MIN (1u << 12)
#define GRID_MAX (1u << 22)
#define SLACK 1e-3 /* of delta: what the grid's cut and rounding may cost */

enum direction { REMOVED, ADDED }; /* the record is in the likelier world, or in the other */

/* ---- one mechanism's loss ------------------------------------------------------------------ */

static double normal_below(double x) {
    return 0.5 * erfc(-x * M_SQRT1_2);
}

/* The output where the loss, with the record in the upper world, is t; -INFINITY below all. */
static double output_at(const struct tier_privacy_event *e, double t) {
    double q = e->rate, inside; /* (exp(t) - (1 - q)) / q, as a logarithm */

    if (q == 1)
        inside = t;
    else if (t > 1)
        inside = t + log1p(-(1 - q) * exp(-t)) - log(q);
    else {
        double rest = expm1(t) + q;
        if (rest <= 0)
            return -INFINITY;
        inside = log(rest / q);
    }
    return e->noise * e->noise * inside + 0.5;
}

/* The probability that the loss is at most t. */
static double loss_below(const struct tier_privacy_event *e, enum direction d, double t) {
    if (d == ADDED)
        return normal_below(-output_at(e, -t) / e->noise);
    double x = output_at(e, t);
    return (1 - e->rate) * normal_below(x / e->noise) + e->rate * normal_below((x - 1) / e->noise);
}

/* The mean of the loss between -L and L. Analytic as in privacy_rdp.c, so the same rule does. */
static double loss_mean(const struct tier_privacy_event *e, enum direction d, double limit) {
    double h = e->noise / 32, sum = 0, mass = 0, q = e->rate, s2 = e->noise * e->noise;
    size_t points = (size_t)((1 + 80 * e->noise) / h);

    for (size_t i = 0; i <= points; i++) {
        double x = (double)i * h - 40 * e->noise;
        double a = (2 * x - 1) / (2 * s2);
        double loss = a > 1 ? a + log(q + (1 - q) * exp(-a)) : log1p(q * expm1(a));
        double p = exp(-x * x / (2 * s2));
        if (d == ADDED)
            loss = -loss;
        else
            p = (1 - q) * p + q * exp(-(x - 1) * (x - 1) / (2 * s2));
        if (fabs(loss) <= limit) {
            sum += p * loss;
            mass += p;
        }
    }
    return sum / mass;
}

/* ---- sums ---------------------------------------------------------------------------------- */

/* In place, radix 2; roots[k] = exp(-2 pi i k / n) for k < n / 2. `back` is without the 1 / n. */
static void transform(double complex *v, size_t n, const double complex *roots, bool back) {
    for (size_t i = 1, j = 0; i < n; i++) {
        size_t bit = n >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            double complex keep = v[i];
            v[i] = v[j];
            v[j] = keep;
        }
    }
    for (size_t half = 1; half < n; half <<= 1) {
        size_t stride = n / (2 * half);
        for (size_t at = 0; at < n; at += 2 * half)
            for (size_t k = 0; k < half; k++) {
                double complex r = roots[k * stride];
                double complex *a = &v[at + k], *b = &v[at + k + half];
                double re = creal(*b) * creal(r) - cimag(*b) * (back ? -cimag(r) : cimag(r));
                double im = creal(*b) * (back ? -cimag(r) : cimag(r)) + cimag(*b) * creal(r);
                double complex t = CMPLX(re, im);
                *b = *a - t;
                *a += t;
            }
    }
}

static double complex power(double complex z, uint64_t n) {
    double r = cabs(z);
    if (r == 0)
        return 0;
    double size = exp((double)n * log(r)), turn = fmod((double)n * carg(z), 2 * M_PI);
    return CMPLX(size * cos(turn), size * sin(turn));
}

struct grid {
    size_t n;        /* a power of two; value i stands for (i - n / 2) * h + shift */
    double h, limit; /* limit: n * h / 2 */
    double shift;
    double complex *total, *one, *roots; /* [n], [n], [n / 2] */
};

/* What value i stands for, but for the shift. */
static double value_at(const struct grid *g, size_t i) {
    size_t middle = g->n / 2;
    return ((double)i - (double)middle) * g->h;
}

/* Multiplies the transform of the event's losses, `count` times, into g->total. */
static void add_event(struct grid *g, const struct tier_privacy_event *e, enum direction d) {
    double before = loss_below(e, d, -g->limit), all = 0, mean = 0;

    for (size_t i = 0; i < g->n; i++) {
        double t = value_at(g, i);
        double upto = loss_below(e, d, t + g->h / 2), p = fmax(upto - before, 0);
        g->one[i] = p;
        before = upto;
        all += p;
        mean += p * t;
    }
    for (size_t i = 0; i < g->n; i++)
        g->one[i] /= all;
    g->shift += (double)e->count * (loss_mean(e, d, g->limit) - mean / all);
    transform(g->one, g->n, g->roots, false);
    for (size_t i = 0; i < g->n; i++) {
        /* Value 0 stands in the middle: sums of m values then come out m - 1 middles too far. */
        double complex there = i & 1 ? -g->one[i] : g->one[i];
        g->total[i] *= power(there, e->count);
    }
}

/* Turns g->total into the probabilities of the sum, value i at (i - n / 2) * h + shift. */
static void finish(struct grid *g) {
    for (size_t i = 1; i < g->n; i += 2)
        g->total[i] = -g->total[i];
    transform(g->total, g->n, g->roots, true);
    for (size_t i = 0; i < g->n; i++)
        g->total[i] = fmax(creal(g->total[i]), 0) / (double)g->n;
}

/* The epsilon at which the sum's delta is this: from above, so that little is added to much. */
static double epsilon_at(const struct grid *g, double delta) {
    double p = 0, scaled = 0; /* sums over values above epsilon of p and of p exp(-value) */

    for (size_t i = g->n; i-- > 0;) {
        double t = value_at(g, i) + g->shift;
        /* At epsilon = t, what lies above gives p - exp(t) * scaled. */
        if (p - exp(t) * scaled >= delta)
            return log((p - delta) / scaled);
        p += creal(g->total[i]);
        scaled += creal(g->total[i]) * exp(-t);
    }
    return -INFINITY;
}

/* ---- bounds -------------------------------------------------------------------------------- */

static enum tier_status new_grid(struct grid *g, double limit, double step, struct tier_err *err) {
    *g = (struct grid){.n = GRID_MIN};
    while (g->n < GRID_MAX && (double)g->n * step < 2 * limit)
        g->n *= 2;
    g->h = 2 * limit / (double)g->n;
    g->limit = limit;
    g->total = malloc(g->n * sizeof *g->total);
    g->one = malloc(g->n * sizeof *g->one);
    g->roots = malloc(g->n / 2 * sizeof *g->roots);
    if (!g->total || !g->one || !g->roots)
        return tier_fail(err, TIER_ENOMEM, "no memory for an accountant's grid of %zu values",
                         g->n);
    for (size_t k = 0; k < g->n / 2; k++) {
        double turn = -2 * M_PI * (double)k / (double)g->n;
        g->roots[k] = CMPLX(cos(turn), sin(turn));
    }
    return TIER_OK;
}

static void release_grid(struct grid *g) {
    free(g->total);
    free(g->one);
    free(g->roots);
}

/* Less the grid's error, that beyond which the sum, and each summand, lie with a probability that
 * SLACK covers; the theorem adds 2. */
static double limit_of(const struct tier_privacy_event *events, size_t count, uint64_t runs,
                       double slack) {
    double order, most = privacy_rdp(events, count, slack / 4, &order);

    for (size_t i = 0; i < count; i++) {
        struct tier_privacy_event one = events[i];
        one.count = 1;
        most = fmax(most, privacy_rdp(&one, 1, slack / (8 * (double)runs), &order));
    }
    return most + 2;
}

enum tier_status privacy_tight(const struct tier_privacy_event *events, size_t count, double delta,
                               double about, double width, double *upper_out, double *lower_out,
                               struct tier_err *err) {
    double slack = SLACK * delta, error = fmax(width * about, 1e-5) / 2;
    uint64_t runs = 0;
    struct grid g;

    for (size_t i = 0; i < count; i++)
        runs += events[i].count;
    double spread = sqrt((double)runs / 2 * log(12 / slack));
    double limit = limit_of(events, count, runs, slack) + error;
    enum tier_status st = new_grid(&g, limit, error / spread, err);
    *upper_out = 0;
    *lower_out = INFINITY;
    for (int d = REMOVED; d <= ADDED && st == TIER_OK; d++) {
        g.shift = 0;
        for (size_t i = 0; i < g.n; i++)
            g.total[i] = 1;
        for (size_t i = 0; i < count; i++)
            add_event(&g, &events[i], (enum direction)d);
        finish(&g);
        error = g.h * spread;
        double upper = epsilon_at(&g, delta - slack) + error;
        double lower = epsilon_at(&g, delta + slack) - error;
        if (upper > *upper_out || d == REMOVED) {
            *upper_out = fmax(upper, 0);
            *lower_out = fmax(lower, 0);
        }
    }
    release_grid(&g);
    return st;
}
