/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is left of kernels/nn.h: functions of one array, strided arrays, work along an axis, many
 * products at once. A derivative is compared with the slope of the reference function in double.
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

/* ---- functions of one array ------------------------------------------------------------------ */

static double reference(enum kern_unary op, double x, double a, double c) {
    static const double root = 0.70710678118654752440, root_2_pi = 0.79788456080286535588;
    switch (op) {
    case KERN_LEAKY_RELU:
        return x > 0 ? x : a * x;
    case KERN_ELU:
        return x > 0 ? x : a * expm1(x);
    case KERN_HARD_SIGMOID:
        return isnan(x) ? x : fmin(fmax(a * x + c, 0), 1);
    case KERN_TANH:
        return tanh(x);
    case KERN_GELU:
        return x / 2 * (1 + erf(x * root));
    case KERN_GELU_TANH:
        return x / 2 * (1 + tanh(root_2_pi * (x + 0.044715 * x * x * x)));
    case KERN_ERF:
        return erf(x);
    case KERN_SOFTPLUS:
        return x > 30 ? x : log1p(exp(x));
    case KERN_EXP:
        return exp(x);
    case KERN_LOG:
        return log(x);
    case KERN_SQRT:
        return sqrt(x);
    case KERN_RECIPROCAL:
        return 1 / x;
    case KERN_ABS:
        return fabs(x);
    case KERN_CLIP:
        return isnan(x) ? x : fmin(fmax(x, a), c);
    case KERN_AFFINE:
        return a * x + c;
    case KERN_POW:
        return pow(x, a);
    case KERN_UNARY_COUNT:
        break;
    }
    return NAN;
}

static const struct {
    enum kern_unary op;
    float alpha, beta;
    bool positive; /* of values above 0 alone */
} maps[] = {
    {KERN_LEAKY_RELU, 0.01f, 0, false},
    {KERN_LEAKY_RELU, -0.5f, 0, false},
    {KERN_ELU, 1, 0, false},
    {KERN_ELU, 1.5f, 0, false},
    {KERN_HARD_SIGMOID, 0.2f, 0.5f, false},
    {KERN_HARD_SIGMOID, 1.0f / 6, 0.5f, false},
    {KERN_TANH, 0, 0, false},
    {KERN_GELU, 0, 0, false},
    {KERN_GELU_TANH, 0, 0, false},
    {KERN_ERF, 0, 0, false},
    {KERN_SOFTPLUS, 0, 0, false},
    {KERN_EXP, 0, 0, false},
    {KERN_LOG, 0, 0, true},
    {KERN_SQRT, 0, 0, true},
    {KERN_RECIPROCAL, 0, 0, true},
    {KERN_ABS, 0, 0, false},
    {KERN_CLIP, -0.75f, 1.25f, false},
    {KERN_CLIP, 1, -1, false}, /* all are beta */
    {KERN_AFFINE, -2, 0.5f, false},
    {KERN_POW, 2, 0, false},
    {KERN_POW, 0.5f, 0, true},
    {KERN_POW, -1.5f, 0, true},
    {KERN_POW, 3, 0, false},
    {KERN_POW, 0, 0, true},
    {KERN_POW, 1, 0, false},
};
static const size_t lengths[] = {1, 33, 300, 40000};

static float *map_input(struct bench *b, size_t i, size_t n) {
    static const float corner[] = {0, -0.0f, 20, -20, INFINITY, -INFINITY, NAN, 1, -1};
    float *x = bench_random(b, n, maps[i].positive ? 0.1f : -3, 3);
    for (size_t k = 0; n > 100 && k < COUNT(corner); k++) {
        x[7 + 3 * k] = corner[k];
    }
    return x;
}

static void unary_once(struct bench *b, size_t k) {
    size_t i = k / COUNT(lengths), n = lengths[k % COUNT(lengths)];
    float *x = map_input(b, i, n), a = maps[i].alpha, c = maps[i].beta;
    double *want = bench_host(b, n, sizeof *want);
    for (size_t e = 0; e < n; e++) {
        want[e] = reference(maps[i].op, (double)x[e], (double)a, (double)c);
    }
    struct kern_vec vx = bench_put(b, x, n, F32), vy = bench_put(b, x, n, F32);
    BENCH_OK(b, kern_unary(maps[i].op, vy, vx, n, a, c));
    bench_near(b, "unary", bench_get(b, vy, n, F32), want, n, TOL_MAP);
    BENCH_OK(b, kern_unary(maps[i].op, vx, vx, n, a, c));
    bench_near(b, "unary in place", bench_get(b, vx, n, F32), want, n, TOL_MAP);
}
BENCH_CASE(unary_case, unary_once, COUNT(maps) * COUNT(lengths))

/* The slope at x, or NaN where it is another on each side. */
static double slope(size_t i, double x) {
    double h = 1e-5, a = (double)maps[i].alpha, c = (double)maps[i].beta;
    double at = reference(maps[i].op, x, a, c), left = reference(maps[i].op, x - h, a, c);
    double right = reference(maps[i].op, x + h, a, c);
    return fabs(right - 2 * at + left) / h > 0.005 * (1 + fabs(right - left) / h)
               ? NAN
               : (right - left) / (2 * h);
}

static void unary_grad_once(struct bench *b, size_t k) {
    size_t i = k / COUNT(lengths), n = lengths[k % COUNT(lengths)], kinks = 0;
    float *x = bench_random(b, n, maps[i].positive ? 0.1f : -3, 3), a = maps[i].alpha;
    float *dy = bench_random(b, n, -1, 1), *y = bench_host(b, n, F32), c = maps[i].beta;
    double *want = bench_host(b, n, sizeof *want);
    for (size_t e = 0; e < n; e++) {
        want[e] = slope(i, (double)x[e]);
        if (isnan(want[e])) {
            x[e] = 0.5f;
            want[e] = slope(i, 0.5);
            kinks++;
        }
        want[e] *= (double)dy[e];
        y[e] = (float)reference(maps[i].op, (double)x[e], (double)a, (double)c);
    }
    if (kinks > n / 100 + 1) {
        bench_fail(b, "a reference with %zu kinks in %zu", kinks, n);
    }
    struct kern_vec vx = bench_put(b, x, n, F32), vd = bench_put(b, dy, n, F32);
    struct kern_vec vy = bench_put(b, y, n, F32), vdx = bench_put(b, y, n, F32);
    BENCH_OK(b, kern_unary_grad(maps[i].op, vdx, vd, vx, vy, n, a, c));
    bench_near(b, "unary_grad", bench_get(b, vdx, n, F32), want, n, TOL_SUM);
    struct kern_vec into = k % 3 == 0 ? vd : k % 3 == 1 ? vx : vy;
    BENCH_OK(b, kern_unary_grad(maps[i].op, into, vd, vx, vy, n, a, c));
    bench_near(b, "unary_grad in place", bench_get(b, into, n, F32), want, n, TOL_SUM);
}
BENCH_CASE(unary_grad_case, unary_grad_once, COUNT(maps) * COUNT(lengths))

/* At a kink the derivative is PyTorch's. */
static void kink_once(struct bench *b, size_t i) {
    static const struct {
        enum kern_unary op;
        float alpha, beta, x, y, want;
    } kinks[] = {
        {KERN_LEAKY_RELU, 0.25f, 0, 0, 0, 0.25f},
        {KERN_ELU, 2, 0, 0, 0, 2},
        {KERN_HARD_SIGMOID, 0.25f, 0.5f, -2, 0, 0},
        {KERN_HARD_SIGMOID, 0.25f, 0.5f, 2, 1, 0},
        {KERN_ABS, 0, 0, 0, 0, 0},
        {KERN_CLIP, -1, 2, -1, -1, 1},
        {KERN_CLIP, -1, 2, 2, 2, 1},
        {KERN_SQRT, 0, 0, 0, 0, INFINITY},
        {KERN_POW, 0, 0, 0, 1, 0},
        {KERN_POW, 1, 0, 0, 0, 1},
        {KERN_POW, 2, 0, 0, 0, 0},
        {KERN_POW, 0.5f, 0, 0, 0, INFINITY},
        {KERN_LOG, 0, 0, 0, -INFINITY, INFINITY},
    };
    float one = 1;
    for (i = 0; i < COUNT(kinks); i++) {
        double want = (double)kinks[i].want;
        struct kern_vec vd = bench_put(b, &one, 1, F32), vx = bench_put(b, &kinks[i].x, 1, F32);
        struct kern_vec vy = bench_put(b, &kinks[i].y, 1, F32);
        BENCH_OK(b, kern_unary_grad(kinks[i].op, vd, vd, vx, vy, 1, kinks[i].alpha, kinks[i].beta));
        bench_near(b, "a derivative at a kink", bench_get(b, vd, 1, F32), &want, 1, 0);
    }
}
BENCH_CASE(kink_case, kink_once, 1)

/* ---- strided arrays -------------------------------------------------------------------------- */

/* An array as it is walked: where it begins and ends around element 0, 0, ... */
static void span_of(const struct kern_nd *nd, const ptrdiff_t *s, ptrdiff_t *low, size_t *n) {
    ptrdiff_t high = 0;
    *low = 0;
    for (unsigned i = 0; i < nd->rank; i++) {
        ptrdiff_t reach = s[i] * (ptrdiff_t)(nd->dims[i] - 1);
        *(reach < 0 ? low : &high) += reach;
    }
    *n = (size_t)(high - *low) + 1;
}

static size_t nd_elements(const struct kern_nd *nd) {
    size_t n = 1;
    for (unsigned i = 0; i < nd->rank; i++) {
        n *= nd->dims[i];
    }
    return n;
}

/* Where element number `at` in row-major order lies. */
static ptrdiff_t nd_place(const struct kern_nd *nd, const ptrdiff_t *s, size_t at) {
    ptrdiff_t place = 0;
    for (unsigned i = nd->rank; i-- > 0;) {
        place += (ptrdiff_t)(at % nd->dims[i]) * s[i];
        at /= nd->dims[i];
    }
    return place;
}

static const struct {
    struct kern_nd nd;
    kern_strides ys, xs;
} copies[] = {
    {{0, {0}}, {0}, {0}},
    {{1, {1}}, {7}, {-3}},
    {{1, {50000}}, {1}, {1}},
    {{1, {40009}}, {2}, {-1}}, /* a prime */
    {{2, {7, 5}}, {5, 1}, {5, 1}},
    {{2, {7, 5}}, {5, 1}, {1, 7}}, /* transposed */
    {{2, {300, 200}}, {200, 1}, {1, 300}},
    {{2, {7, 5}}, {1, 7}, {0, 1}}, /* one row over and over */
    {{2, {70, 50}}, {50, 1}, {1, 0}},
    {{2, {40, 30}}, {30, 1}, {0, 0}},
    {{2, {7, 5}}, {9, 1}, {-5, -1}}, /* turned round, into wider rows */
    {{2, {7, 5}}, {-5, 1}, {10, 2}},
    {{3, {4, 5, 6}}, {30, 6, 1}, {5, 1, 20}},
    {{3, {40, 1, 60}}, {60, 60, 1}, {1, 0, 40}},
    {{4, {2, 3, 4, 5}}, {60, 20, 5, 1}, {60, 1, 15, 3}}, /* channels last to first */
    {{4, {2, 4, 5, 3}}, {60, 15, 3, 1}, {60, 5, 1, 20}}, /* and back */
    {{4, {2, 3, 4, 5}}, {1, 2, 6, 24}, {60, 20, 5, 1}},
    {{4, {3, 30, 20, 16}}, {9600, 320, 16, 1}, {9600, 20, 1, 600}},
    {{5, {2, 3, 2, 3, 2}}, {36, 12, 6, 2, 1}, {1, 2, 6, 12, 36}},
    {{8, {2, 1, 2, 2, 1, 3, 2, 2}}, {48, 0, 24, 12, 0, 4, 2, 1}, {1, 9, 2, -4, 9, 8, 0, 24}},
};

static void copy_once(struct bench *b, size_t k) {
    size_t i = k / 2, n = nd_elements(&copies[i].nd), x_n, y_n;
    bool add = k % 2 == 1;
    ptrdiff_t x_low, y_low;
    span_of(&copies[i].nd, copies[i].xs, &x_low, &x_n);
    span_of(&copies[i].nd, copies[i].ys, &y_low, &y_n);
    float *x = bench_random(b, x_n, -1, 1), *y = bench_random(b, y_n, -1, 1);
    double *want = bench_host(b, y_n, sizeof *want);
    for (size_t e = 0; e < y_n; e++) {
        want[e] = (double)y[e];
    }
    for (size_t e = 0; e < n; e++) {
        double v = (double)x[nd_place(&copies[i].nd, copies[i].xs, e) - x_low];
        double *to = &want[nd_place(&copies[i].nd, copies[i].ys, e) - y_low];
        *to = add ? *to + v : v;
    }
    struct kern_vec vx = bench_put(b, x, x_n, F32), vy = bench_put(b, y, y_n, F32), first = vy;
    vx.at += (size_t)-x_low;
    vy.at += (size_t)-y_low;
    BENCH_OK(b, kern_nd_copy(vy, copies[i].ys, vx, copies[i].xs, &copies[i].nd, add));
    bench_near(b, "nd_copy", bench_get(b, first, y_n, F32), want, y_n, add ? TOL_MAP : 0);
}
BENCH_CASE(copy_case, copy_once, 2 * COUNT(copies))

static double binary_want(enum kern_binary op, double u, double v) {
    return op == KERN_ADD ? u + v : op == KERN_SUB ? u - v : op == KERN_MUL ? u * v : u / v;
}

/* One operation on two views; `in_place` is 'a' or 'b' where y lies on that one, which is dense. */
static void binary_check(struct bench *b, enum kern_binary op, const struct kern_nd *nd,
                         const kern_strides as, const kern_strides bs, char in_place) {
    size_t n = nd_elements(nd), a_n, b_n;
    ptrdiff_t a_low, b_low;
    span_of(nd, as, &a_low, &a_n);
    span_of(nd, bs, &b_low, &b_n);
    float *u = bench_random(b, a_n, -1, 1), *v = bench_random(b, b_n, 0.5f, 2);
    double *want = bench_host(b, n, sizeof *want);
    for (size_t e = 0; e < n; e++) {
        want[e] = binary_want(op, (double)u[nd_place(nd, as, e) - a_low],
                              (double)v[nd_place(nd, bs, e) - b_low]);
    }
    struct kern_vec va = bench_put(b, u, a_n, F32), vb = bench_put(b, v, b_n, F32);
    struct kern_vec vy = in_place == 'a'   ? va
                         : in_place == 'b' ? vb
                                           : bench_put(b, bench_random(b, n, -1, 1), n, F32);
    va.at += (size_t)-a_low;
    vb.at += (size_t)-b_low;
    BENCH_OK(b, kern_nd_binary(op, vy, va, as, vb, bs, nd));
    bench_near(b, "nd_binary", bench_get(b, vy, n, F32), want, n, TOL_MAP);
}

/* Every pair of broadcasts of a rank of 3: bit d of a mask keeps dimension d of an operand. */
static void broadcast_once(struct bench *b, size_t i) {
    static const struct kern_nd small = {3, {3, 4, 5}};
    struct kern_nd as_nd = small, bs_nd = small;
    kern_strides as, bs;
    unsigned a_mask = i % 8, b_mask = (unsigned)(i / 8 % 8);
    for (unsigned d = 0; d < 3; d++) {
        as_nd.dims[d] = (a_mask >> d & 1) != 0 ? small.dims[d] : 1;
        bs_nd.dims[d] = (b_mask >> d & 1) != 0 ? small.dims[d] : 1;
    }
    kern_nd_dense(&as_nd, as);
    kern_nd_dense(&bs_nd, bs);
    char in_place = a_mask == 7 && i >= 128 ? 'a' : b_mask == 7 && i >= 128 ? 'b' : '-';
    binary_check(b, (enum kern_binary)(i / 64), &small, as, bs, in_place);
}
BENCH_CASE(broadcast_case, broadcast_once, 256)

static const struct {
    struct kern_nd nd;
    kern_strides as, bs;
} pairs[] = {
    {{0, {0}}, {0}, {0}},
    {{1, {50000}}, {1}, {1}},
    {{1, {50000}}, {1}, {0}},
    {{1, {40009}}, {0}, {-1}},
    {{2, {200, 300}}, {300, 1}, {0, 1}},
    {{2, {300, 200}}, {1, 0}, {200, 1}},
    {{2, {300, 200}}, {1, 300}, {200, 1}},
    {{2, {300, 200}}, {1, 0}, {0, 1}},
    {{3, {20, 30, 40}}, {1200, 40, 1}, {40, 0, 1}},
    {{4, {2, 1, 20, 3}}, {-60, 5, -3, -1}, {1, 7, 2, 40}},
    {{8, {2, 3, 1, 2, 2, 1, 2, 3}}, {72, 24, 0, 12, 6, 0, 3, 1}, {0, 1, 0, 3, 0, 0, 6, 12}},
};

static void binary_once(struct bench *b, size_t k) {
    size_t i = k / 4;
    binary_check(b, (enum kern_binary)(k % 4), &pairs[i].nd, pairs[i].as, pairs[i].bs, '-');
}
BENCH_CASE(binary_case, binary_once, 4 * COUNT(pairs))

static const struct kern_nd sums[] = {
    {4, {3, 4, 5, 6}},     {4, {2, 1, 70, 3}},  {4, {1, 1, 1, 1}},     {4, {5, 30, 40, 9}},
    {4, {300, 1, 1, 200}}, {4, {1, 9, 65, 64}}, {4, {70000, 1, 1, 1}},
};

static void reduce_once(struct bench *b, size_t k) {
    const struct kern_nd *nd = &sums[k / 16];
    unsigned axes = k % 16;
    size_t n = nd_elements(nd), kept = 1;
    kern_strides ys = {0};
    for (unsigned d = 4; d-- > 0;) {
        if ((axes >> d & 1) == 0) {
            ys[d] = (ptrdiff_t)kept;
            kept *= nd->dims[d];
        }
    }
    float *x = bench_random(b, n, -1, 1), *y = bench_random(b, kept, -1, 1);
    for (size_t e = 0; e + 1 < n; e += 2) { /* a sum in float would lose the small ones */
        x[e] += k % 3 == 0 && n / kept >= 64 ? 4096 : 0;
    }
    double *want = bench_host(b, kept, sizeof *want), scale = (double)0.3f;
    for (size_t e = 0; e < n; e++) {
        want[nd_place(nd, ys, e)] += (double)x[e] * scale;
    }
    struct kern_vec vx = bench_put(b, x, n, F32), vy = bench_put(b, y, kept, F32);
    BENCH_OK(b, kern_nd_reduce(vy, vx, nd, axes, 0.3f, false));
    bench_near(b, "nd_reduce", bench_get(b, vy, kept, F32), want, kept, TOL_MAP / 4);
    for (size_t e = 0; e < kept; e++) {
        want[e] *= 2;
    }
    BENCH_OK(b, kern_nd_reduce(vy, vx, nd, axes | 0x30, 0.3f, true)); /* bits of no dimension */
    bench_near(b, "nd_reduce, added", bench_get(b, vy, kept, F32), want, kept, TOL_MAP / 4);
}
BENCH_CASE(reduce_case, reduce_once, 16 * COUNT(sums))

static void reduce_scalar_once(struct bench *b, size_t i) {
    (void)i;
    float x = 2.5f, y = 1;
    double want = 6;
    const struct kern_nd nd = {0, {0}};
    struct kern_vec vx = bench_put(b, &x, 1, F32), vy = bench_put(b, &y, 1, F32);
    BENCH_OK(b, kern_nd_reduce(vy, vx, &nd, 0, 2, true));
    bench_near(b, "nd_reduce of a scalar", bench_get(b, vy, 1, F32), &want, 1, 0);
}
BENCH_CASE(reduce_scalar_case, reduce_scalar_once, 1)

/* ---- along one axis -------------------------------------------------------------------------- */

static const struct {
    size_t outer, len, count, inner;
} axes[] = {
    {1, 1, 1, 1},    {2, 5, 9, 3},    {3, 7, 4, 1},      {1, 100, 60, 33},
    {70, 9, 20, 65}, {1, 3, 5000, 2}, {2, 300, 40, 200}, {1, 10, 3, 20000},
};

static int32_t *indices(struct bench *b, size_t n, size_t len, bool wild) {
    int32_t *index = bench_host(b, n, I32);
    for (size_t i = 0; i < n; i++) {
        index[i] = (int32_t)(parity_next(&b->seed) % len);
    }
    if (wild && n > 2) {
        index[1] = (int32_t)len;
        index[n - 1] = INT32_MIN;
    }
    return index;
}

static void gather_once(struct bench *b, size_t i) {
    size_t outer = axes[i].outer, len = axes[i].len, count = axes[i].count, inner = axes[i].inner;
    size_t x_n = outer * len * inner, y_n = outer * count * inner;
    int32_t *index = indices(b, count, len, true);
    float *x = bench_random(b, x_n, -1, 1), *dy = bench_random(b, y_n, -1, 1);
    double *want = bench_host(b, y_n, sizeof *want), *dx = bench_host(b, x_n, sizeof *dx);
    for (size_t e = 0; e < x_n; e++) {
        dx[e] = (double)x[e];
    }
    for (size_t e = 0; e < y_n; e++) {
        int32_t from = index[e / inner % count];
        bool fits = from >= 0 && (size_t)from < len;
        size_t place = (e / inner / count * len + (fits ? (size_t)from : 0)) * inner + e % inner;
        want[e] = fits ? (double)x[place] : NAN;
        dx[place] += fits ? (double)dy[e] : 0;
    }
    struct kern_vec vx = bench_put(b, x, x_n, F32), vi = bench_put(b, index, count, I32);
    struct kern_vec vy = bench_put(b, dy, y_n, F32), vd = bench_put(b, dy, y_n, F32);
    BENCH_OK(b, kern_gather(vy, vx, vi, outer, len, count, inner));
    bench_near(b, "gather", bench_get(b, vy, y_n, F32), want, y_n, 0);
    BENCH_OK(b, kern_gather_grad(vx, vd, vi, outer, len, count, inner));
    bench_near(b, "gather_grad", bench_get(b, vx, x_n, F32), dx, x_n, TOL_SUM);
}
BENCH_CASE(gather_case, gather_once, COUNT(axes))

static void to_index_once(struct bench *b, size_t i) {
    static const float special[] = {
        0,   -0.0f, 0.5f,     1.5f,      2.5f,          -0.4f, -0.6f,        -7,
        NAN, 3e9f,  INFINITY, -INFINITY, 2147483648.0f, 7e7f,  2147483520.0f};
    static const int32_t want[] = {0,  0,  0,  2,  2,  0,        -1,        -1,
                                   -1, -1, -1, -1, -1, 70000000, 2147483520};
    size_t n = i == 0 ? COUNT(special) : 40000;
    float *x = bench_random(b, n, -3, 1000);
    memcpy(x, special, sizeof special);
    struct kern_vec vx = bench_put(b, x, n, F32), vi = bench_put(b, x, n, I32);
    BENCH_OK(b, kern_to_index(vi, vx, n));
    const int32_t *got = bench_get(b, vi, n, I32);
    for (size_t e = 0; e < n; e++) {
        float whole = rintf(x[e]);
        int32_t is = e < COUNT(want) ? want[e] : whole >= 0 ? (int32_t)whole : -1;
        if (got[e] != is) {
            bench_fail(b, "to_index of %g is %d instead of %d", (double)x[e], got[e], is);
        }
    }
}
BENCH_CASE(to_index_case, to_index_once, 2)

static void mix_once(struct bench *b, size_t k) {
    size_t i = k / 2, outer = axes[i].outer, in = axes[i].len, out = axes[i].count;
    size_t inner = axes[i].inner, x_n = outer * in * inner, y_n = outer * out * inner, taps = 1;
    bool add = k % 2 == 1;
    int32_t *start = bench_host(b, out + 1, I32);
    for (size_t o = 0; o < out; o++) { /* rows of none to four */
        start[o] = (int32_t)taps - 1;
        taps += o == 0 ? 1 : parity_next(&b->seed) % 5;
    }
    taps--;
    start[out] = (int32_t)taps;
    int32_t *from = indices(b, taps, in, false);
    float *weight = bench_random(b, taps, -1, 1), *x = bench_random(b, x_n, -1, 1);
    float *y = bench_random(b, y_n, -1, 1);
    double *want = bench_host(b, y_n, sizeof *want);
    for (size_t e = 0; e < y_n; e++) {
        size_t row = e / inner / out, o = e / inner % out;
        want[e] = add ? (double)y[e] : 0;
        for (int32_t t = start[o]; t < start[o + 1]; t++) {
            want[e] +=
                (double)weight[t] * (double)x[(row * in + (size_t)from[t]) * inner + e % inner];
        }
        y[e] = add ? y[e] : NAN;
    }
    struct kern_vec vx = bench_put(b, x, x_n, F32), vy = bench_put(b, y, y_n, F32);
    struct kern_vec vs = bench_put(b, start, out + 1, I32), vf = bench_put(b, from, taps, I32);
    struct kern_vec vw = bench_put(b, weight, taps, F32);
    BENCH_OK(b, kern_axis_mix(vy, vx, vs, vf, vw, outer, in, out, inner, taps, add));
    bench_near(b, "axis_mix", bench_get(b, vy, y_n, F32), want, y_n, TOL_MAP);
}
BENCH_CASE(mix_case, mix_once, 2 * COUNT(axes))

static void log_softmax_once(struct bench *b, size_t i) {
    static const size_t shapes[][2] = {{1, 1}, {5, 2}, {3, 33}, {700, 10}, {2, 1025}, {513, 90}};
    size_t rows = shapes[i][0], cols = shapes[i][1], n = rows * cols;
    float *x = bench_random(b, n, -4, 4), *dy = bench_random(b, n, -1, 1);
    double *want = bench_host(b, n, sizeof *want), *dx = bench_host(b, n, sizeof *dx);
    for (size_t r = 0; r < rows; r++) {
        double sum = 0, slopes = 0, far = r == 0 ? 10000 : 0; /* overflows, or rounds coarsely */
        for (size_t c = 0; c < cols; c++) {
            x[r * cols + c] += (float)far;
            sum += exp((double)x[r * cols + c] - far);
            slopes += (double)dy[r * cols + c];
        }
        for (size_t c = 0; c < cols; c++) {
            want[r * cols + c] = (double)x[r * cols + c] - far - log(sum);
            dx[r * cols + c] = (double)dy[r * cols + c] - exp(want[r * cols + c]) * slopes;
        }
    }
    struct kern_vec vx = bench_put(b, x, n, F32), vd = bench_put(b, dy, n, F32);
    struct kern_vec vy = bench_put(b, dy, n, F32), vdx = bench_put(b, dy, n, F32);
    BENCH_OK(b, kern_log_softmax(vy, vx, rows, cols));
    bench_near(b, "log_softmax", bench_get(b, vy, n, F32), want, n, TOL_SUM);
    BENCH_OK(b, kern_log_softmax(vx, vx, rows, cols));
    bench_near(b, "log_softmax in place", bench_get(b, vx, n, F32), want, n, TOL_SUM);
    BENCH_OK(b, kern_log_softmax_grad(vdx, vd, vy, rows, cols));
    bench_near(b, "log_softmax_grad", bench_get(b, vdx, n, F32), dx, n, TOL_SUM);
    struct kern_vec into = i % 2 == 0 ? vd : vy;
    BENCH_OK(b, kern_log_softmax_grad(into, vd, vy, rows, cols));
    bench_near(b, "log_softmax_grad in place", bench_get(b, into, n, F32), dx, n, TOL_SUM);
}
BENCH_CASE(log_softmax_case, log_softmax_once, 6)

static void dropout_once(struct bench *b, size_t i) {
    static const float ratios[] = {0, 0.1f, 0.5f, 0.9f, 0.999f};
    float ratio = ratios[i % COUNT(ratios)], scale = 1 / (1 - ratio);
    size_t n = i < COUNT(ratios) ? 40000 : 33, kept = 0, alike = 0;
    float *x = bench_random(b, n, 1, 2), *dy = bench_random(b, n, 1, 2);
    struct kern_vec vx = bench_put(b, x, n, F32), vd = bench_put(b, dy, n, F32);
    struct kern_vec vy = bench_put(b, dy, n, F32), vz = bench_put(b, dy, n, F32);
    BENCH_OK(b, kern_dropout(vy, vx, n, ratio, 77 + i));
    BENCH_OK(b, kern_dropout(vd, vd, n, ratio, 77 + i));
    BENCH_OK(b, kern_dropout(vz, vx, n, ratio, 78 + i));
    const float *y = bench_get(b, vy, n, F32), *dx = bench_get(b, vd, n, F32);
    const float *z = bench_get(b, vz, n, F32);
    for (size_t e = 0; e < n; e++) {
        float want = y[e] == 0 ? 0 : x[e] * scale, slope_want = y[e] == 0 ? 0 : dy[e] * scale;
        if (fabsf(y[e] - want) > 1e-6f * want || fabsf(dx[e] - slope_want) > 1e-6f * slope_want) {
            bench_fail(b, "dropout of %g and %g is %g and %g", (double)x[e], (double)dy[e],
                       (double)y[e], (double)dx[e]);
        }
        kept += y[e] != 0;
        alike += (y[e] == 0) == (z[e] == 0);
    }
    double p = (double)ratio, all = (double)n, same = p * p + (1 - p) * (1 - p);
    if (n > 1000 && (fabs((double)kept - all * (1 - p)) > 5 * sqrt(all * p * (1 - p)) ||
                     fabs((double)alike - all * same) > 5 * sqrt(all * same * (1 - same)))) {
        bench_fail(b, "a ratio of %g keeps %zu of %zu, and %zu alike with another seed", p, kept, n,
                   alike);
    }
}
BENCH_CASE(dropout_case, dropout_once, 10)

/* ---- many products --------------------------------------------------------------------------- */

static const struct {
    size_t m, n, k;
    struct kern_gemm_batch batch;
    float alpha, beta;
} products[] = {
    {1, 1, 1, {1, 0, 0, 0}, 1, 0},       {3, 5, 7, {1, 0, 0, 0}, 0.5f, -0.25f},
    {3, 5, 7, {6, 15, 21, 35}, 1, 0},    {4, 6, 2, {5, 30, 8, 0}, 1, 1}, /* one b, gaps in y */
    {4, 6, 2, {5, 24, 0, 12}, 0.5f, 0},  {2, 3, 4, {3, 6, 0, 0}, 1, 0.5f},
    {2, 9, 33, {40, 18, 70, 300}, 1, 0}, {33, 17, 65, {9, 561, 2145, 1105}, 1, 1},
};

static void batch_once(struct bench *b, size_t v) {
    size_t i = v / 4, m = products[i].m, n = products[i].n, k = products[i].k;
    bool ta = (v & 1) != 0, tb = (v & 2) != 0;
    const struct kern_gemm_batch *g = &products[i].batch;
    size_t y_n = (g->count - 1) * g->step_y + m * n, a_n = (g->count - 1) * g->step_a + m * k;
    size_t b_n = (g->count - 1) * g->step_b + k * n;
    float *a = bench_random(b, a_n, -1, 1), *x = bench_random(b, b_n, -1, 1);
    float *y = bench_random(b, y_n, -1, 1), beta = products[i].beta;
    double *want = bench_host(b, y_n, sizeof *want);
    for (size_t e = 0; e < y_n; e++) {
        want[e] = (double)y[e];
    }
    for (size_t e = 0; e < g->count * m * n; e++) {
        size_t p = e / (m * n), r = e % (m * n) / n, c = e % n, at = p * g->step_y + r * n + c;
        double sum = 0;
        for (size_t l = 0; l < k; l++) {
            sum += (double)a[p * g->step_a + (ta ? l * m + r : r * k + l)] *
                   (double)x[p * g->step_b + (tb ? c * k + l : l * n + c)];
        }
        want[at] = (double)products[i].alpha * sum + (beta == 0 ? 0 : (double)beta * want[at]);
        y[at] = beta == 0 ? NAN : y[at]; /* must not be read then */
    }
    struct kern_vec va = bench_put(b, a, a_n, F32), vb = bench_put(b, x, b_n, F32);
    struct kern_vec vy = bench_put(b, y, y_n, F32);
    BENCH_OK(b, kern_gemm_batch(vy, va, vb, m, n, k, ta, tb, products[i].alpha, beta, g));
    bench_near(b, "gemm_batch", bench_get(b, vy, y_n, F32), want, y_n, TOL_SUM);
}
BENCH_CASE(batch_case, batch_once, 4 * COUNT(products))

/* ---- halves ---------------------------------------------------------------------------------- */

/* What mixed precision multiplies is rounded first, by every backend in the same way: against
 * rounded numbers the result is as near as a float32 product. */
static void half_once(struct bench *b, size_t i) {
    const bool f16 = i % 2 == 1, ta = i / 2 % 2 == 1, tb = i / 4 == 1;
    const size_t m = 40, n = 24, k = 63, count = i % 3 + 1, a_n = m * k, x_n = k * n, y_n = m * n;
    float *a = bench_random(b, count * a_n, -1, 1), *x = bench_random(b, count * x_n, -1, 1);
    float *y = bench_random(b, count * y_n, -1, 1);
    double *da = bench_host(b, count * a_n, sizeof *da),
           *dx = bench_host(b, count * x_n, sizeof *dx);
    double *want = bench_host(b, count * y_n, sizeof *want);
    a[3] = 3e-6f; /* subnormal as a binary16 */
    a[5] = 65519.0f;
    bench_halve(da, a, count * a_n, f16);
    bench_halve(dx, x, count * x_n, f16);
    for (size_t at = 0; at < count * y_n; at++) {
        size_t c = at / y_n, r = at % y_n / n, col = at % n;
        want[at] = 0.5 * (double)y[at];
        for (size_t l = 0; l < k; l++) {
            want[at] += 2 * da[c * a_n + (ta ? l * m + r : r * k + l)] *
                        dx[c * x_n + (tb ? col * k + l : l * n + col)];
        }
    }
    const struct kern_gemm_batch batch = {
        .count = count, .step_a = a_n, .step_b = x_n, .step_y = y_n};
    struct kern_vec va = bench_put(b, a, count * a_n, F32), vx = bench_put(b, x, count * x_n, F32);
    struct kern_vec vy = bench_put(b, y, count * y_n, F32);
    if (!bench_products(b, f16 ? KERN_F16 : KERN_BF16)) {
        return;
    }
    if (count == 1) {
        BENCH_OK(b, kern_gemm(vy, va, vx, m, n, k, ta, tb, 2, 0.5f));
    } else {
        BENCH_OK(b, kern_gemm_batch(vy, va, vx, m, n, k, ta, tb, 2, 0.5f, &batch));
    }
    bench_near(b, "gemm of halves", bench_get(b, vy, count * y_n, F32), want, count * y_n, TOL_SUM);
    BENCH_OK(b, kern_device_products(b->dev, KERN_EXACT));
}
BENCH_CASE(half_case, half_once, 8)

/* Beyond what a binary16 holds it is infinite; a bfloat16 holds as much as a float32. */
static void overflow_once(struct bench *b, size_t i) {
    const float a[2] = {70000.0f, 1.0f}, x[2] = {1.0f, 1.0f};
    const double want = i == 0 ? 70145.0 : (double)INFINITY; /* 70144 is the nearest bfloat16 */
    struct kern_vec va = bench_put(b, a, 2, F32), vx = bench_put(b, x, 2, F32);
    struct kern_vec vy = bench_put(b, x, 1, F32);
    if (!bench_products(b, i == 0 ? KERN_BF16 : KERN_F16)) {
        return;
    }
    BENCH_OK(b, kern_gemm(vy, va, vx, 1, 1, 2, false, false, 1, 0));
    bench_near(b, "an overflow", bench_get(b, vy, 1, F32), &want, 1, 0);
    BENCH_OK(b, kern_device_products(b->dev, KERN_EXACT));
    BENCH_REFUSED(b, kern_device_products, b->dev, (enum kern_products)9);
}
BENCH_CASE(overflow_case, overflow_once, 2)

const struct parity_case parity_deep_cases[] = {
    {"gemm_half", half_case, false},
    {"gemm_half_overflow", overflow_case, false},
    {"unary", unary_case, false},
    {"unary_grad", unary_grad_case, false},
    {"derivatives at kinks", kink_case, false},
    {"nd_copy", copy_case, false},
    {"nd_binary by broadcast", broadcast_case, false},
    {"nd_binary", binary_case, false},
    {"nd_reduce", reduce_case, false},
    {"nd_reduce of a scalar", reduce_scalar_case, false},
    {"gather", gather_case, false},
    {"to_index", to_index_case, false},
    {"axis_mix", mix_case, false},
    {"log_softmax", log_softmax_case, false},
    {"dropout", dropout_case, false},
    {"gemm_batch", batch_case, false},
};
const size_t parity_deep_count = COUNT(parity_deep_cases);
