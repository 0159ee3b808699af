/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions and pools against the definition: every output spot, every tap, in double. A
 * transposed convolution is the same sum read the other way, so one walk serves both.
 */
#include "kernels/nn.h"
#include "tests/parity/bench.h"

#include <math.h>
#include <string.h>

#define TOL_MAP 2e-6
#define TOL_SUM 2e-5
#define F32 sizeof(float)
#define I32 sizeof(int32_t)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct kern_vec none = {NULL, 0};

/* ---- the walk -------------------------------------------------------------------------------- */

static size_t product(const size_t *dims, unsigned n) {
    size_t all = 1;
    for (unsigned i = 0; i < n; i++) {
        all *= dims[i];
    }
    return all;
}

/* Which input spot tap `tap` of output spot `o` sees; false in the padding. */
static bool sees(const struct kern_window *w, size_t o, size_t tap, size_t *spot_out) {
    long at[KERN_SPATIAL_MAX];
    size_t spot = 0;
    for (unsigned i = w->spatial; i-- > 0;) {
        at[i] = (long)(o % w->out[i] * w->stride[i]) - (long)w->pad[i] +
                (long)(tap % w->kernel[i] * w->dilation[i]);
        o /= w->out[i];
        tap /= w->kernel[i];
        if (at[i] < 0 || at[i] >= (long)w->in[i]) {
            return false;
        }
    }
    for (unsigned i = 0; i < w->spatial; i++) {
        spot = spot * w->in[i] + (size_t)at[i];
    }
    *spot_out = spot;
    return true;
}

enum into { IMAGE, SLOPE, WEIGHT };

/* Every product of the convolution that the window describes, added to the one of the three that
 * is an output: image [batch][in][ci], slope [batch][out][co], weight [co][ci / groups][taps]. */
static void convolve(const struct kern_conv_shape *s, enum into into, double *image, double *slope,
                     double *weight) {
    const struct kern_window *w = &s->window;
    size_t ci = s->transposed ? s->out_channels : s->in_channels;
    size_t co = s->transposed ? s->in_channels : s->out_channels;
    size_t cig = ci / s->groups, cog = co / s->groups, spot = 0;
    size_t in = product(w->in, w->spatial), out = product(w->out, w->spatial);
    size_t taps = product(w->kernel, w->spatial);
    for (size_t at = 0; at < s->batch * out * taps; at++) {
        size_t n = at / taps / out, o = at / taps % out, tap = at % taps;
        if (!sees(w, o, tap, &spot)) {
            continue;
        }
        for (size_t k = 0; k < co * cig; k++) {
            size_t c = k / cig, e = k % cig;
            double *im = &image[(n * in + spot) * ci + c / cog * cig + e];
            double *sl = &slope[(n * out + o) * co + c], *we = &weight[k * taps + tap];
            if (into == SLOPE) {
                *sl += *im * *we;
            } else if (into == IMAGE) {
                *im += *sl * *we;
            } else {
                *we += *im * *sl;
            }
        }
    }
}

static double *as_double(struct bench *b, const float *x, size_t n) {
    double *d = bench_host(b, n, sizeof *d);
    for (size_t i = 0; i < n && x != NULL; i++) {
        d[i] = (double)x[i];
    }
    return d;
}

/* ---- convolutions ---------------------------------------------------------------------------- */

static const struct kern_conv_shape convs[] = {
    /* one dimension: the same size; a window of one; far apart; more than the image */
    {2, 3, 5, 1, {1, {17}, {17}, {3}, {1}, {1}, {1}}, false},
    {1, 1, 1, 1, {1, {1}, {1}, {1}, {1}, {1}, {0}}, false},
    {3, 4, 2, 1, {1, {20}, {5}, {2}, {4}, {3}, {1}}, false},
    {1, 2, 2, 1, {1, {3}, {12}, {2}, {1}, {1}, {5}}, false}, /* padding alone at both ends */
    /* two dimensions */
    {2, 3, 8, 1, {2, {9, 7}, {9, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
    {2, 8, 16, 1, {2, {10, 12}, {5, 6}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}, false},
    {2, 16, 24, 1, {2, {6, 5}, {6, 5}, {1, 1}, {1, 1}, {1, 1}, {0, 0}}, false},
    {1, 5, 7, 1, {2, {11, 13}, {7, 9}, {3, 3}, {1, 1}, {2, 2}, {0, 0}}, false},
    {2, 6, 4, 1, {2, {9, 9}, {2, 3}, {3, 3}, {1, 2}, {1, 1}, {0, 1}}, false}, /* not covered */
    {2, 4, 6, 1, {2, {8, 10}, {4, 8}, {3, 2}, {2, 1}, {1, 2}, {1, 0}}, false},
    {1, 3, 4, 1, {2, {7, 7}, {3, 3}, {2, 2}, {3, 3}, {1, 1}, {0, 0}}, false}, /* gaps */
    {2, 1, 6, 1, {2, {12, 12}, {8, 8}, {5, 5}, {1, 1}, {1, 1}, {0, 0}}, false},
    /* groups; one to a channel; several outputs to a channel */
    {2, 8, 12, 4, {2, {6, 6}, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
    {2, 16, 16, 16, {2, {8, 7}, {4, 4}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}, false},
    {1, 3, 6, 3, {2, {5, 5}, {5, 5}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
    /* three dimensions */
    {2, 2, 3, 1, {3, {5, 4, 6}, {5, 4, 6}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}}, false},
    {1, 8, 16, 1, {3, {6, 6, 6}, {3, 3, 3}, {3, 3, 3}, {2, 2, 2}, {1, 1, 1}, {1, 1, 1}}, false},
    {1, 4, 4, 2, {3, {5, 6, 4}, {3, 6, 3}, {1, 3, 2}, {2, 1, 1}, {1, 1, 1}, {0, 1, 0}}, false},
    /* taps at the edges that see padding alone: before, behind, both; far apart; many weights */
    {2, 4, 6, 1, {2, {1, 1}, {1, 1}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
    {3, 8, 16, 1, {2, {2, 2}, {1, 1}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}, false},
    {2, 3, 4, 1, {1, {2}, {2}, {7}, {1}, {1}, {3}}, false},
    {2, 4, 4, 2, {2, {1, 3}, {1, 3}, {3, 3}, {1, 1}, {2, 2}, {2, 2}}, false},
    {1, 2, 3, 1, {1, {2}, {1}, {3}, {1}, {3}, {2}}, false},
    {70, 64, 128, 1, {2, {2, 2}, {2, 2}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
    {1, 160, 512, 1, {3, {1, 2, 1}, {1, 1, 1}, {3, 3, 3}, {1, 2, 1}, {1, 1, 1}, {1, 1, 1}}, false},
    /* sums of many products, of channels that fill no block */
    {2, 61, 62, 1, {2, {5, 4}, {5, 4}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
    /* several slabs of patches */
    {3, 16, 32, 1, {2, {24, 24}, {24, 24}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, false},
    {2, 32, 8, 1, {2, {40, 41}, {20, 21}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}, false},
    /* transposed: it reads window.out and makes window.in */
    {2, 4, 3, 1, {1, {12}, {6}, {4}, {2}, {1}, {1}}, true},
    {2, 6, 5, 1, {2, {10, 8}, {5, 4}, {2, 2}, {2, 2}, {1, 1}, {0, 0}}, true},
    {1, 8, 8, 1, {2, {12, 9}, {6, 5}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}, true},
    {2, 8, 4, 4, {2, {7, 7}, {7, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, true},
    {2, 4, 3, 1, {2, {1, 2}, {1, 1}, {3, 3}, {1, 2}, {1, 1}, {1, 1}}, true},
    {1, 6, 6, 6, {2, {9, 9}, {4, 4}, {3, 3}, {2, 2}, {1, 1}, {0, 0}}, true},
    {1, 3, 4, 1, {2, {9, 11}, {3, 3}, {2, 2}, {3, 3}, {2, 2}, {0, 0}}, true}, /* out padding */
    {1, 4, 3, 1, {3, {6, 6, 4}, {3, 3, 2}, {2, 2, 2}, {2, 2, 2}, {1, 1, 1}, {0, 0, 0}}, true},
    {2, 16, 16, 1, {2, {20, 20}, {10, 10}, {4, 4}, {2, 2}, {1, 1}, {1, 1}}, true},
};

struct conv_test {
    const struct kern_conv_shape *s;
    struct kern_conv *conv;
    size_t x_n, y_n, w_n, b_n;
    double *x, *y, *w, *bias;
    struct kern_vec vx, vw, vb;
};

static double *walk(struct bench *b, const struct conv_test *t, enum into into, double *x,
                    double *y, double *w) {
    (void)b;
    convolve(t->s, into, t->s->transposed ? y : x, t->s->transposed ? x : y, w);
    return into == WEIGHT ? w : (into == IMAGE) == t->s->transposed ? y : x;
}

static void forward(struct bench *b, const struct conv_test *t) {
    enum into y_is = t->s->transposed ? IMAGE : SLOPE;
    double *want = as_double(b, NULL, t->y_n);
    float *junk = bench_random(b, t->y_n, -9, 9);
    junk[t->y_n / 2] = NAN; /* nothing of y is read */
    walk(b, t, y_is, t->x, want, t->w);
    struct kern_vec vy = bench_put(b, junk, t->y_n, F32);
    BENCH_OK(b, kern_conv_forward(t->conv, vy, t->vx, t->vw, none));
    bench_near(b, "conv without bias", bench_get(b, vy, t->y_n, F32), want, t->y_n, TOL_SUM);
    for (size_t i = 0; i < t->y_n; i++) {
        want[i] += t->bias[i % t->b_n];
    }
    BENCH_OK(b, kern_conv_forward(t->conv, vy, t->vx, t->vw, t->vb));
    bench_near(b, "conv", bench_get(b, vy, t->y_n, F32), want, t->y_n, TOL_SUM);
}

static void grad_x(struct bench *b, const struct conv_test *t, double *dy, struct kern_vec vdy) {
    enum into x_is = t->s->transposed ? SLOPE : IMAGE;
    double *want = as_double(b, NULL, t->x_n);
    float *junk = bench_random(b, t->x_n, -9, 9), *start = bench_random(b, t->x_n, -1, 1);
    junk[t->x_n / 2] = NAN;
    walk(b, t, x_is, want, dy, t->w);
    struct kern_vec vdx = bench_put(b, junk, t->x_n, F32);
    BENCH_OK(b, kern_conv_grad_x(t->conv, vdx, vdy, t->vw, false));
    bench_near(b, "conv grad_x", bench_get(b, vdx, t->x_n, F32), want, t->x_n, TOL_SUM);
    for (size_t i = 0; i < t->x_n; i++) {
        want[i] += (double)start[i];
    }
    struct kern_vec vsum = bench_put(b, start, t->x_n, F32);
    BENCH_OK(b, kern_conv_grad_x(t->conv, vsum, vdy, t->vw, true));
    bench_near(b, "conv grad_x, added", bench_get(b, vsum, t->x_n, F32), want, t->x_n, TOL_SUM);
}

/* The bias' gradient is a sum of dy as it is, `exact`. */
static void grad_w(struct bench *b, const struct conv_test *t, double *dy, const double *exact,
                   struct kern_vec vdy) {
    float *start = bench_random(b, t->w_n, -1, 1), *db = bench_random(b, t->b_n, -1, 1);
    double *want = as_double(b, start, t->w_n), *want_b = as_double(b, db, t->b_n);
    struct kern_vec vdw = bench_put(b, start, t->w_n, F32), vdb = bench_put(b, db, t->b_n, F32);
    walk(b, t, WEIGHT, t->x, dy, want);
    for (size_t i = 0; i < t->y_n; i++) {
        want_b[i % t->b_n] += exact[i];
    }
    BENCH_OK(b, kern_conv_grad_w(t->conv, vdw, vdb, t->vx, vdy));
    bench_near(b, "conv grad_w", bench_get(b, vdw, t->w_n, F32), want, t->w_n, 3 * TOL_SUM);
    bench_near(b, "conv grad_b", bench_get(b, vdb, t->b_n, F32), want_b, t->b_n, TOL_SUM);
    walk(b, t, WEIGHT, t->x, dy, want);
    BENCH_OK(b, kern_conv_grad_w(t->conv, vdw, none, t->vx, vdy));
    bench_near(b, "conv grad_w, again", bench_get(b, vdw, t->w_n, F32), want, t->w_n, 3 * TOL_SUM);
}

/* `products` of numbers that are rounded to halves first, unless the convolution is no product. */
static double *taken(struct bench *b, const struct kern_conv_shape *s, enum kern_products products,
                     const float *x, size_t n) {
    size_t in = s->transposed ? s->out_channels : s->in_channels;
    double *d = as_double(b, x, n);
    if (products != KERN_EXACT && (s->groups == 1 || in > s->groups)) {
        bench_halve(d, x, n, products == KERN_F16);
    }
    return d;
}

static void conv_with(struct bench *b, size_t i, enum kern_products products) {
    const struct kern_conv_shape *s = &convs[i];
    const struct kern_window *win = &s->window;
    size_t in = product(win->in, win->spatial), out = product(win->out, win->spatial);
    struct conv_test t = {.s = s,
                          .x_n = s->batch * s->in_channels * (s->transposed ? out : in),
                          .y_n = s->batch * s->out_channels * (s->transposed ? in : out),
                          .w_n = s->in_channels * s->out_channels / s->groups *
                                 product(win->kernel, win->spatial),
                          .b_n = s->out_channels};
    float *x = bench_random(b, t.x_n, -1, 1), *w = bench_random(b, t.w_n, -0.5f, 0.5f);
    float *bias = bench_random(b, t.b_n, -1, 1), *dy = bench_random(b, t.y_n, -1, 1);
    t.x = taken(b, s, products, x, t.x_n);
    t.w = taken(b, s, products, w, t.w_n);
    t.bias = as_double(b, bias, t.b_n);
    t.vx = bench_put(b, x, t.x_n, F32);
    t.vw = bench_put(b, w, t.w_n, F32);
    t.vb = bench_put(b, bias, t.b_n, F32);
    struct kern_vec vdy = bench_put(b, dy, t.y_n, F32);
    BENCH_OK(b, kern_conv_new(b->dev, s, &t.conv));
    if (t.conv != NULL && bench_products(b, products)) {
        double *d = taken(b, s, products, dy, t.y_n), *exact = as_double(b, dy, t.y_n);
        if (kern_conv_how(t.conv) == NULL || kern_conv_how(t.conv)[0] == '\0') {
            bench_fail(b, "the convolution does not say how it is computed");
        }
        forward(b, &t);
        grad_x(b, &t, d, vdy);
        grad_w(b, &t, d, exact, vdy);
    }
    BENCH_OK(b, kern_device_products(b->dev, KERN_EXACT));
    kern_conv_free(t.conv);
}

static void conv_once(struct bench *b, size_t i) {
    conv_with(b, i, KERN_EXACT);
}
BENCH_CASE(conv_case, conv_once, COUNT(convs))

static void half_once(struct bench *b, size_t i) {
    conv_with(b, i / 2, i % 2 == 0 ? KERN_BF16 : KERN_F16);
}
BENCH_CASE(half_case, half_once, 2 * COUNT(convs))

/* ---- pools ----------------------------------------------------------------------------------- */

static const struct {
    size_t batch, channels;
    struct kern_window w;
} pools[] = {
    {2, 3, {1, {11}, {5}, {3}, {2}, {1}, {0}}},
    {1, 1, {1, {1}, {1}, {1}, {1}, {1}, {0}}},
    {2, 5, {2, {8, 6}, {4, 3}, {2, 2}, {2, 2}, {1, 1}, {0, 0}}},
    {2, 4, {2, {9, 9}, {5, 5}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}},   /* overlapping */
    {1, 7, {2, {7, 8}, {7, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}},   /* very much so */
    {1, 3, {2, {10, 10}, {4, 3}, {2, 3}, {2, 3}, {2, 2}, {0, 1}}}, /* dilated */
    {1, 2, {2, {3, 3}, {9, 5}, {2, 1}, {1, 1}, {1, 1}, {4, 1}}},   /* padding alone */
    {2, 3, {2, {9, 7}, {2, 2}, {2, 2}, {2, 2}, {1, 1}, {0, 0}}},   /* not covered */
    {1, 70, {2, {6, 5}, {1, 1}, {6, 5}, {1, 1}, {1, 1}, {0, 0}}},  /* global */
    {2, 2, {3, {4, 5, 6}, {2, 3, 3}, {2, 3, 2}, {2, 2, 2}, {1, 1, 1}, {0, 1, 0}}},
    {3, 64, {2, {30, 30}, {15, 15}, {3, 3}, {2, 2}, {1, 1}, {1, 1}}}, /* many */
};

/* Few values, so that there are equals, and some NaN. */
static float *pool_input(struct bench *b, size_t n) {
    float *x = bench_random(b, n, -4, 4);
    for (size_t i = 0; i < n; i++) {
        x[i] = i % 37 == 11 ? NAN : floorf(x[i]);
    }
    return x;
}

static void max_once(struct bench *b, size_t i) {
    const struct kern_window *w = &pools[i].w;
    size_t in = product(w->in, w->spatial), out = product(w->out, w->spatial), spot = 0;
    size_t ch = pools[i].channels, y_n = pools[i].batch * out * ch, x_n = pools[i].batch * in * ch;
    size_t taps = product(w->kernel, w->spatial);
    float *x = pool_input(b, x_n);
    double *want = bench_host(b, y_n, sizeof *want);
    int32_t *where = bench_host(b, y_n, I32);
    for (size_t at = 0; at < y_n; at++) {
        const float *image = x + at / ch / out * in * ch + at % ch;
        want[at] = -INFINITY;
        where[at] = -1;
        for (size_t tap = 0; tap < taps; tap++) {
            if (!sees(w, at / ch % out, tap, &spot)) {
                continue;
            }
            double v = (double)image[spot * ch];
            if (where[at] < 0 || v > want[at] || (isnan(v) && !isnan(want[at]))) {
                want[at] = v;
                where[at] = (int32_t)spot;
            }
        }
    }
    struct kern_vec vx = bench_put(b, x, x_n, F32);
    struct kern_vec vy = bench_put(b, bench_random(b, y_n, -9, 9), y_n, F32);
    struct kern_vec vi = bench_put(b, bench_random(b, y_n, -9, 9), y_n, I32);
    BENCH_OK(b, kern_max_pool(vy, vi, vx, pools[i].batch, ch, w));
    bench_near(b, "max_pool", bench_get(b, vy, y_n, F32), want, y_n, 0);
    if (memcmp(bench_get(b, vi, y_n, I32), where, y_n * I32) != 0) {
        bench_fail(b, "max_pool: another index");
    }
}
BENCH_CASE(max_case, max_once, COUNT(pools))

static void pool_grad_check(struct bench *b, size_t i, struct kern_vec vdy, struct kern_vec vi,
                            const double *want, bool count_pad) {
    const struct kern_window *w = &pools[i].w;
    size_t ch = pools[i].channels, batch = pools[i].batch;
    size_t n = batch * product(w->in, w->spatial) * ch;
    float *start = bench_random(b, n, -1, 1);
    double *sum = as_double(b, start, n);
    struct kern_vec vsum = bench_put(b, start, n, F32);
    for (size_t k = 0; k < n; k++) {
        sum[k] += want[k];
        start[k] = k % 5 == 0 ? NAN : 7; /* is not read */
    }
    struct kern_vec vdx = bench_put(b, start, n, F32);
    if (vi.buf != NULL) {
        BENCH_OK(b, kern_max_pool_grad(vdx, vdy, vi, batch, ch, w, false));
        BENCH_OK(b, kern_max_pool_grad(vsum, vdy, vi, batch, ch, w, true));
    } else {
        BENCH_OK(b, kern_mean_pool_grad(vdx, vdy, batch, ch, w, count_pad, false));
        BENCH_OK(b, kern_mean_pool_grad(vsum, vdy, batch, ch, w, count_pad, true));
    }
    bench_near(b, "a pool's gradient", bench_get(b, vdx, n, F32), want, n, TOL_MAP);
    bench_near(b, "a pool's gradient, added", bench_get(b, vsum, n, F32), sum, n, TOL_MAP);
}

static void max_grad_once(struct bench *b, size_t i) {
    const struct kern_window *w = &pools[i].w;
    size_t in = product(w->in, w->spatial), out = product(w->out, w->spatial);
    size_t ch = pools[i].channels, y_n = pools[i].batch * out * ch, x_n = pools[i].batch * in * ch;
    struct kern_vec vx = bench_put(b, pool_input(b, x_n), x_n, F32);
    float *dy = bench_random(b, y_n, -1, 1);
    struct kern_vec vdy = bench_put(b, dy, y_n, F32), vi = bench_put(b, dy, y_n, I32);
    struct kern_vec vy = bench_put(b, dy, y_n, F32);
    BENCH_OK(b, kern_max_pool(vy, vi, vx, pools[i].batch, ch, w));
    const int32_t *where = bench_get(b, vi, y_n, I32);
    double *want = bench_host(b, x_n, sizeof *want);
    for (size_t at = 0; at < y_n; at++) {
        if (where[at] >= 0) {
            want[(at / ch / out * in + (size_t)where[at]) * ch + at % ch] += (double)dy[at];
        }
    }
    pool_grad_check(b, i, vdy, vi, want, false);
}
BENCH_CASE(max_grad_case, max_grad_once, COUNT(pools))

static void mean_once(struct bench *b, size_t k) {
    size_t i = k / 2, spot = 0;
    bool count_pad = k % 2 == 1;
    const struct kern_window *w = &pools[i].w;
    size_t in = product(w->in, w->spatial), out = product(w->out, w->spatial);
    size_t ch = pools[i].channels, y_n = pools[i].batch * out * ch, x_n = pools[i].batch * in * ch;
    size_t taps = product(w->kernel, w->spatial);
    float *x = bench_random(b, x_n, -1, 1), *dy = bench_random(b, y_n, -1, 1);
    double *want = bench_host(b, y_n, sizeof *want), *dx = bench_host(b, x_n, sizeof *dx);
    for (size_t at = 0; at < y_n; at++) {
        size_t image = at / ch / out * in * ch + at % ch, n = 0;
        double sum = 0;
        for (size_t tap = 0; tap < taps; tap++) {
            if (sees(w, at / ch % out, tap, &spot)) {
                sum += (double)x[image + spot * ch];
                n++;
            }
        }
        n = count_pad ? taps : n;
        want[at] = n == 0 ? 0 : sum / (double)n;
        for (size_t tap = 0; tap < taps; tap++) {
            if (sees(w, at / ch % out, tap, &spot)) {
                dx[image + spot * ch] += (double)dy[at] / (double)n;
            }
        }
    }
    struct kern_vec vx = bench_put(b, x, x_n, F32), vdy = bench_put(b, dy, y_n, F32);
    struct kern_vec vy = bench_put(b, bench_random(b, y_n, -9, 9), y_n, F32);
    BENCH_OK(b, kern_mean_pool(vy, vx, pools[i].batch, ch, w, count_pad));
    bench_near(b, "mean_pool", bench_get(b, vy, y_n, F32), want, y_n, TOL_MAP);
    pool_grad_check(b, i, vdy, none, dx, count_pad);
}
BENCH_CASE(mean_case, mean_once, 2 * COUNT(pools))

const struct parity_case parity_conv_cases[] = {
    {"conv", conv_case, true},       {"conv_half", half_case, true},
    {"max_pool", max_case, false},   {"max_pool_grad", max_grad_case, false},
    {"mean_pool", mean_case, false},
};
const size_t parity_conv_count = COUNT(parity_conv_cases);
