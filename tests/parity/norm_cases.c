/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Normalisations against their definitions in double. BatchNorm is GroupNorm's twin: both are the
 * mean and the deviation over a set of places, so one reference serves both, which is told for
 * every element what set it belongs to.
 *
 * Where the mean is large beside the deviation, what is lost is what rounding the mean to float
 * loses, not more: tolerances say so.
 */
#include "kernels/nn.h"
#include "tests/parity/bench.h"

#include <math.h>

#define TOL_MAP 2e-6
#define TOL_SUM 2e-5
#define TOL_MEAN 3e-7
#define F32 sizeof(float)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define EPSILON 1e-5f

static const struct kern_vec none = {NULL, 0};

struct norm_test {
    size_t n, sets, per, channels; /* elements, sets of places, places of a set, channels */
    size_t batch, parts;           /* samples, groups (GroupNorm) */
    size_t width, spots;           /* channels and rows of a set */
    bool groups, relu;
    const float *x, *scale, *bias, *dy;
    double *mean, *inv, *var;
    struct kern_vec vx, vs, vb, vm, vi, vy;
    double tol;
};

/* The set that element i belongs to. */
static size_t set_of(const struct norm_test *t, size_t i) {
    if (!t->groups) {
        return i % t->channels;
    }
    return i / t->channels / t->spots * t->parts + i % t->channels / t->width;
}

static double scale_of(const struct norm_test *t, size_t c) {
    return t->scale == NULL ? 1 : (double)t->scale[c];
}

static double bias_of(const struct norm_test *t, size_t c) {
    return t->bias == NULL ? 0 : (double)t->bias[c];
}

static void statistics(struct bench *b, struct norm_test *t) {
    t->mean = bench_host(b, t->sets, sizeof(double));
    t->var = bench_host(b, t->sets, sizeof(double));
    t->inv = bench_host(b, t->sets, sizeof(double));
    for (size_t i = 0; i < t->n; i++) {
        t->mean[set_of(t, i)] += (double)t->x[i] / (double)t->per;
    }
    for (size_t i = 0; i < t->n; i++) {
        double d = (double)t->x[i] - t->mean[set_of(t, i)];
        t->var[set_of(t, i)] += d * d / (double)t->per;
    }
    for (size_t s = 0; s < t->sets; s++) {
        t->inv[s] = 1 / sqrt(t->var[s] + (double)EPSILON);
    }
}

/* Compares y, the means and the deviations with what they should be. */
static void check_forward(struct bench *b, const struct norm_test *t) {
    double *want = bench_host(b, t->n, sizeof *want);
    for (size_t i = 0; i < t->n; i++) {
        size_t s = set_of(t, i);
        want[i] = ((double)t->x[i] - t->mean[s]) * t->inv[s] * scale_of(t, i % t->channels) +
                  bias_of(t, i % t->channels);
        want[i] = t->relu && want[i] < 0 ? 0 : want[i];
    }
    bench_near(b, "the mean", bench_get(b, t->vm, t->sets, F32), t->mean, t->sets, TOL_MEAN);
    bench_near(b, "1 / the deviation", bench_get(b, t->vi, t->sets, F32), t->inv, t->sets, TOL_SUM);
    bench_near(b, "the normalised", bench_get(b, t->vy, t->n, F32), want, t->n, t->tol);
}

/* The gradients; relu's mask is that of the device's own y, for near 0 it is anyone's. */
static void check_grad(struct bench *b, struct norm_test *t,
                       enum kern_status (*grad)(const struct norm_test *t, struct kern_vec dx,
                                                struct kern_vec ds, struct kern_vec db,
                                                struct kern_vec dy)) {
    float *y = bench_get(b, t->vy, t->n, F32), *start = bench_random(b, t->channels, -1, 1);
    double *s1 = bench_host(b, t->sets, sizeof *s1), *s2 = bench_host(b, t->sets, sizeof *s2);
    double *ds = bench_host(b, t->channels, sizeof *ds),
           *db = bench_host(b, t->channels, sizeof *db);
    double *dx = bench_host(b, t->n, sizeof *dx), most = 1;
    for (size_t c = 0; c < t->channels; c++) {
        ds[c] = db[c] = (double)start[c];
    }
    for (size_t i = 0; i < t->n; i++) {
        size_t s = set_of(t, i);
        double g = t->relu && !(y[i] > 0) ? 0 : (double)t->dy[i];
        double h = ((double)t->x[i] - t->mean[s]) * t->inv[s];
        s1[s] += g * scale_of(t, i % t->channels) / (double)t->per;
        s2[s] += g * scale_of(t, i % t->channels) * h / (double)t->per;
        db[i % t->channels] += g;
        ds[i % t->channels] += g * h;
    }
    for (size_t i = 0; i < t->n; i++) {
        size_t s = set_of(t, i);
        double g = t->relu && !(y[i] > 0) ? 0 : (double)t->dy[i];
        double h = ((double)t->x[i] - t->mean[s]) * t->inv[s];
        dx[i] = t->inv[s] * (g * scale_of(t, i % t->channels) - s1[s] - h * s2[s]);
        most = fmax(most, t->inv[s]);
    }
    struct kern_vec vs = t->scale == NULL ? none : bench_put(b, start, t->channels, F32);
    struct kern_vec vb = t->scale == NULL ? none : bench_put(b, start, t->channels, F32);
    struct kern_vec vd = bench_put(b, t->dy, t->n, F32);
    struct kern_vec vx = bench_put(b, y, t->n, F32);
    bench_status(b, "the gradient", grad(t, vx, vs, vb, vd), KERN_OK);
    bench_near(b, "dx", bench_get(b, vx, t->n, F32), dx, t->n, t->tol * most);
    if (t->scale != NULL) {
        bench_near(b, "dscale", bench_get(b, vs, t->channels, F32), ds, t->channels, t->tol);
        bench_near(b, "dbias", bench_get(b, vb, t->channels, F32), db, t->channels, TOL_SUM);
        for (size_t c = 0; c < t->channels; c++) {
            ds[c] = 2 * ds[c] - (double)start[c];
            db[c] = 2 * db[c] - (double)start[c];
        }
        bench_status(b, "the gradient without dx", grad(t, none, vs, vb, vd), KERN_OK);
        bench_near(b, "dscale, again", bench_get(b, vs, t->channels, F32), ds, t->channels, t->tol);
        bench_near(b, "dbias, again", bench_get(b, vb, t->channels, F32), db, t->channels, TOL_SUM);
    }
    bench_status(b, "the gradient in place", grad(t, vd, vs, vb, vd), KERN_OK);
    bench_near(b, "dx in dy's place", bench_get(b, vd, t->n, F32), dx, t->n, t->tol * most);
}

/* ---- BatchNorm ------------------------------------------------------------------------------- */

static const struct {
    size_t rows, channels;
    float offset;
    bool relu, run;
} batches[] = {
    {1, 3, 0, false, true},        {2, 1, 0, false, true},      {37, 5, 0, true, true},
    {700, 1, 3, false, false},     {129, 64, 0, true, true},    {9000, 7, 0, false, true},
    {3, 1025, 0, true, false},     {300, 3, 1000, false, true}, {20000, 2, 1000, true, true},
    {9000, 1, -4000, false, true}, {2048, 96, 10, true, true},
};

static float *around(struct bench *b, size_t n, float offset) {
    float *x = bench_random(b, n, -1, 1);
    for (size_t i = 0; i < n; i++) {
        x[i] = x[i] * 1.5f + offset;
    }
    return x;
}

static double tolerance(float offset) {
    return TOL_SUM + 2e-7 * fabs((double)offset); /* a mean's rounding, beside a deviation of 1 */
}

static enum kern_status batch_grad(const struct norm_test *t, struct kern_vec dx,
                                   struct kern_vec ds, struct kern_vec db, struct kern_vec dy) {
    struct kern_batch_norm norm = {t->per, t->channels, EPSILON, 0.9f, t->relu};
    return kern_batch_norm_grad(dx, ds, db, dy, t->vx, t->relu ? t->vy : none, t->vs, t->vm, t->vi,
                                &norm);
}

static struct norm_test batch_test(struct bench *b, size_t i) {
    size_t rows = batches[i].rows, c = batches[i].channels;
    float *zero = bench_host(b, c, F32);
    struct norm_test t = {.n = rows * c, .sets = c, .per = rows, .channels = c};
    t.relu = batches[i].relu;
    t.x = around(b, t.n, batches[i].offset);
    t.scale = bench_random(b, c, -1, 2);
    t.bias = bench_random(b, c, -1, 1);
    t.dy = bench_random(b, t.n, -1, 1);
    t.tol = tolerance(batches[i].offset);
    t.vx = bench_put(b, t.x, t.n, F32);
    t.vs = bench_put(b, t.scale, c, F32);
    t.vb = bench_put(b, t.bias, c, F32);
    t.vm = bench_put(b, zero, c, F32);
    t.vi = bench_put(b, zero, c, F32);
    t.vy = bench_put(b, t.dy, t.n, F32);
    statistics(b, &t);
    return t;
}

static void batch_once(struct bench *b, size_t i) {
    struct norm_test t = batch_test(b, i);
    size_t c = t.channels;
    struct kern_batch_norm norm = {t.per, c, EPSILON, 0.9f, t.relu};
    float *rm = bench_random(b, c, -1, 1), *rv = bench_random(b, c, 0, 2);
    double *want_m = bench_host(b, c, sizeof *want_m), *want_v = bench_host(b, c, sizeof *want_v);
    bool run = batches[i].run;
    struct kern_vec vrm = run ? bench_put(b, rm, c, F32) : none;
    struct kern_vec vrv = run ? bench_put(b, rv, c, F32) : none;
    BENCH_OK(b, kern_batch_norm(t.vy, t.vm, t.vi, vrm, vrv, t.vx, t.vs, t.vb, &norm));
    check_forward(b, &t);
    for (size_t k = 0; k < c; k++) {
        double n = (double)t.per, unbiased = t.per > 1 ? t.var[k] * n / (n - 1) : 0;
        double keep = (double)norm.momentum;
        want_m[k] = keep * (double)rm[k] + (1 - keep) * t.mean[k];
        want_v[k] = keep * (double)rv[k] + (1 - keep) * unbiased;
    }
    if (run) {
        bench_near(b, "run_mean", bench_get(b, vrm, c, F32), want_m, c, TOL_MAP);
        bench_near(b, "run_var", bench_get(b, vrv, c, F32), want_v, c, TOL_SUM);
    }
    check_grad(b, &t, batch_grad);
}
BENCH_CASE(batch_case, batch_once, COUNT(batches))

static void apply_once(struct bench *b, size_t i) {
    struct norm_test t = batch_test(b, i);
    size_t c = t.channels;
    struct kern_batch_norm norm = {t.per, c, EPSILON, 0, t.relu};
    float *mean = bench_random(b, c, -1, 1), *var = bench_random(b, c, 0.1f, 2);
    for (size_t k = 0; k < c; k++) {
        mean[k] += batches[i].offset;
        t.mean[k] = (double)mean[k];
        t.inv[k] = 1 / sqrt((double)var[k] + (double)EPSILON);
    }
    double *want = bench_host(b, t.n, sizeof *want);
    for (size_t k = 0, s = 0; k < t.n; k++, s = s + 1 < c ? s + 1 : 0) {
        want[k] = ((double)t.x[k] - t.mean[s]) * t.inv[s] * scale_of(&t, s) + bias_of(&t, s);
        want[k] = t.relu && want[k] < 0 ? 0 : want[k];
    }
    struct kern_vec vm = bench_put(b, mean, c, F32), vv = bench_put(b, var, c, F32);
    BENCH_OK(b, kern_batch_norm_apply(t.vy, t.vx, t.vs, t.vb, vm, vv, &norm));
    bench_near(b, "batch_norm_apply", bench_get(b, t.vy, t.n, F32), want, t.n, 2 * TOL_MAP);
    BENCH_OK(b, kern_batch_norm_apply(t.vx, t.vx, t.vs, t.vb, vm, vv, &norm));
    bench_near(b, "... in place", bench_get(b, t.vx, t.n, F32), want, t.n, 2 * TOL_MAP);
}
BENCH_CASE(apply_case, apply_once, COUNT(batches))

/* ---- GroupNorm ------------------------------------------------------------------------------- */

static const struct {
    size_t batch, spots, channels, groups;
    float offset;
    bool relu, affine;
} groups[] = {
    {1, 1, 1, 1, 0, false, true},       {2, 5, 6, 3, 0, false, true},
    {2, 5, 6, 3, 0, true, false},       {3, 49, 4, 4, 0, true, true},    /* instance */
    {7, 1, 33, 1, 0, false, true},      {40, 1, 1024, 1, 5, true, true}, /* layer */
    {2, 1000, 3, 1, 0, false, false},   {1, 20000, 2, 2, 1000, false, true},
    {1, 20000, 2, 1, 1000, true, true}, {3, 17, 12, 4, -300, true, true},
    {90, 3, 260, 2, 0, false, true},    {5, 1, 3000, 1, 2000, false, false},
};

static enum kern_status group_grad(const struct norm_test *t, struct kern_vec dx,
                                   struct kern_vec ds, struct kern_vec db, struct kern_vec dy) {
    struct kern_group_norm norm = {t->batch, t->spots, t->channels, t->parts, EPSILON, t->relu};
    return kern_group_norm_grad(dx, ds, db, dy, t->vx, t->relu ? t->vy : none, t->vs, t->vm, t->vi,
                                &norm);
}

static void group_once(struct bench *b, size_t i) {
    size_t c = groups[i].channels, sets = groups[i].batch * groups[i].groups;
    struct kern_group_norm norm = {groups[i].batch,  groups[i].spots, c,
                                   groups[i].groups, EPSILON,         groups[i].relu};
    float *zero = bench_host(b, sets, F32);
    struct norm_test t = {.n = norm.batch * norm.spots * c, .sets = sets, .channels = c};
    t.batch = norm.batch;
    t.parts = norm.groups;
    t.width = c / norm.groups;
    t.spots = norm.spots;
    t.per = t.width * t.spots;
    t.groups = true;
    t.relu = norm.relu;
    t.x = around(b, t.n, groups[i].offset);
    t.scale = groups[i].affine ? bench_random(b, c, -1, 2) : NULL;
    t.bias = groups[i].affine ? bench_random(b, c, -1, 1) : NULL;
    t.dy = bench_random(b, t.n, -1, 1);
    t.tol = tolerance(groups[i].offset);
    t.vx = bench_put(b, t.x, t.n, F32);
    t.vs = groups[i].affine ? bench_put(b, t.scale, c, F32) : none;
    t.vb = groups[i].affine ? bench_put(b, t.bias, c, F32) : none;
    t.vm = bench_put(b, zero, sets, F32);
    t.vi = bench_put(b, zero, sets, F32);
    t.vy = bench_put(b, t.dy, t.n, F32);
    statistics(b, &t);
    BENCH_OK(b, kern_group_norm(t.vy, t.vm, t.vi, t.vx, t.vs, t.vb, &norm));
    check_forward(b, &t);
    check_grad(b, &t, group_grad);
}
BENCH_CASE(group_case, group_once, COUNT(groups))

/* A NaN reaches what it belongs to and nothing else. */
static void nan_once(struct bench *b, size_t i) {
    (void)i;
    float *x = bench_random(b, 12, -1, 1), one[3] = {1, 1, 1}, zero[3] = {0, 0, 0};
    x[4] = NAN;
    struct kern_vec vx = bench_put(b, x, 12, F32), vs = bench_put(b, one, 3, F32);
    struct kern_vec vb = bench_put(b, zero, 3, F32), vm = bench_put(b, zero, 3, F32);
    struct kern_vec vi = bench_put(b, zero, 3, F32), vy = bench_put(b, x, 12, F32);
    struct kern_batch_norm norm = {4, 3, EPSILON, 0, true};
    BENCH_OK(b, kern_batch_norm(vy, vm, vi, none, none, vx, vs, vb, &norm));
    const float *y = bench_get(b, vy, 12, F32);
    for (size_t k = 0; k < 12; k++) {
        if ((isnan(y[k]) != 0) != (k % 3 == 1)) {
            bench_fail(b, "element %zu is %g with a NaN in channel 1", k, (double)y[k]);
        }
    }
}
BENCH_CASE(nan_case, nan_once, 1)

const struct parity_case parity_norm_cases[] = {
    {"batch_norm", batch_case, false},
    {"batch_norm_apply", apply_case, false},
    {"group_norm", group_case, false},
    {"batch_norm of NaN", nan_case, false},
};
const size_t parity_norm_count = COUNT(parity_norm_cases);
