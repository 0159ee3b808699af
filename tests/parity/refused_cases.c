/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What kernels/nn.h refuses: with KERN_EARG, a sentence that names the operation, nothing touched.
 * Each refusal stands beside a call that differs in that one thing and is not refused.
 */
#include "kernels/nn.h"
#include "tests/parity/bench.h"

#include <math.h>
#include <string.h>

#define F32 sizeof(float)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define N 240

static const struct kern_vec none = {NULL, 0};

/* An array of N floats or int32, and what it held. */
struct arrays {
    struct kern_vec x, y, z, c, d, e, i;
};

static struct arrays arrays_of(struct bench *b) {
    float *x = bench_random(b, N, 0.5f, 1);
    int32_t *i = bench_host(b, N, sizeof *i);
    struct arrays a = {bench_put(b, x, N, F32),      bench_put(b, x, N, F32),
                       bench_put(b, x, N, F32),      bench_put(b, x, N, F32),
                       bench_put(b, x, N, F32),      bench_put(b, x, N, F32),
                       bench_put(b, i, N, sizeof *i)};
    return a;
}

/* The array's first float, seen from `by` further on. */
static struct kern_vec after(struct kern_vec v, size_t by) {
    v.at += by;
    return v;
}

static void windows_once(struct bench *b, size_t k) {
    struct arrays a = arrays_of(b);
    const struct kern_window good = {2, {4, 5}, {4, 5}, {3, 3}, {1, 1}, {1, 1}, {1, 1}};
    struct kern_window w = good;
    size_t batch = 2, channels = 3, most = SIZE_MAX / 2;
    switch (k) {
    case 0:
        w.spatial = 0;
        break;
    case 1:
        w.spatial = KERN_SPATIAL_MAX + 1;
        break;
    case 2:
        w.stride[1] = 0;
        break;
    case 3:
        w.dilation[0] = 0;
        break;
    case 4:
        w.kernel[0] = 0;
        break;
    case 5:
        w.in[1] = 0;
        break;
    case 6:
        w.out[0] = 0;
        break;
    case 7:
        w.pad[0] = most;
        break;
    case 8:
        w.stride[0] = INT32_MAX;
        break;
    case 9:
        w.kernel[0] = w.kernel[1] = INT32_MAX; /* more taps than can be counted */
        w.spatial = 3;
        w.in[2] = w.out[2] = w.stride[2] = w.dilation[2] = 1;
        w.kernel[2] = INT32_MAX;
        break;
    case 10:
        batch = most;
        break;
    case 11:
        channels = 0;
        break;
    default:
        batch = 5; /* more than the arrays hold */
    }
    BENCH_REFUSED(b, kern_max_pool, a.y, a.i, a.x, batch, channels, &w);
    BENCH_REFUSED(b, kern_max_pool_grad, a.y, a.x, a.i, batch, channels, &w, true);
    BENCH_REFUSED(b, kern_mean_pool, a.y, a.x, batch, channels, &w, true);
    BENCH_REFUSED(b, kern_mean_pool_grad, a.y, a.x, batch, channels, &w, true, false);
    BENCH_REFUSED(b, kern_mean_pool, a.x, a.x, 2, 3, &good, true);
    BENCH_REFUSED(b, kern_max_pool, a.y, after(a.y, 119), a.x, 2, 3, &good);
    BENCH_OK(b, kern_max_pool(a.y, after(a.y, 120), a.x, 2, 3, &good));
    BENCH_OK(b, kern_mean_pool(a.y, a.x, 2, 3, &good, true));
}
BENCH_CASE(windows_case, windows_once, 13)

static void conv_once(struct bench *b, size_t k) {
    struct arrays a = arrays_of(b);
    struct kern_conv_shape s = {2,    4, 4, 2, {2, {3, 3}, {3, 3}, {3, 3}, {1, 1}, {1, 1}, {1, 1}},
                                false};
    struct kern_conv *conv = NULL, *bad = NULL;
    BENCH_OK(b, kern_conv_new(b->dev, &s, &conv)); /* x and y 72, w 72, b 4 */
    if (conv == NULL) {
        return;
    }
    BENCH_OK(b, kern_conv_forward(conv, a.y, a.x, a.z, none));
    BENCH_REFUSED(b, kern_conv_forward, conv, a.y, a.y, a.z, none);
    BENCH_REFUSED(b, kern_conv_forward, conv, a.y, a.x, after(a.y, 71), none);
    BENCH_OK(b, kern_conv_forward(conv, a.y, a.x, after(a.y, 72), none));
    BENCH_REFUSED(b, kern_conv_forward, conv, a.y, a.x, a.z, after(a.c, N + 20));
    BENCH_REFUSED(b, kern_conv_grad_x, conv, a.x, a.y, a.x, true);
    BENCH_REFUSED(b, kern_conv_grad_w, conv, a.x, a.y, a.z, a.x);
    BENCH_REFUSED(b, kern_conv_grad_w, conv, a.x, a.x, a.z, a.y);
    BENCH_REFUSED(b, kern_conv_grad_x, conv, a.x, none, a.z, true);
    kern_conv_free(conv);
    switch (k) {
    case 0:
        s.groups = 3;
        break;
    case 1:
        s.groups = 0;
        break;
    case 2:
        s.out_channels = 5;
        break;
    case 3:
        s.batch = 0;
        break;
    case 4:
        s.window.stride[0] = 0;
        break;
    case 5:
        s.window.spatial = 4;
        break;
    case 6:
        s.in_channels = s.out_channels = SIZE_MAX / 2 - 1;
        break;
    default:
        s.batch = (size_t)INT32_MAX + 1;
    }
    BENCH_REFUSED(b, kern_conv_new, b->dev, &s, &bad);
    if (bad != NULL) {
        bench_fail(b, "a refused convolution was handed out");
    }
}
BENCH_CASE(conv_case, conv_once, 8)

static void norm_once(struct bench *b, size_t i) {
    (void)i;
    struct arrays a = arrays_of(b);
    struct kern_batch_norm norm = {10, 6, 1e-5f, 0.9f, false}, bad = norm;
    struct kern_vec var = after(a.c, 20), bias = after(a.c, 30), inv = after(a.c, 10);
    BENCH_OK(b, kern_batch_norm(a.y, a.c, inv, none, none, a.x, a.z, bias, &norm));
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, a.d, none, a.x, a.z, bias, &norm);
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, none, a.d, a.x, a.z, bias, &norm);
    BENCH_REFUSED(b, kern_batch_norm, a.x, a.c, inv, none, none, a.x, a.z, bias, &norm);
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, after(a.c, 5), none, none, a.x, a.z, bias, &norm);
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, none, none, a.x, none, bias, &norm);
    BENCH_REFUSED(b, kern_batch_norm_apply, a.y, a.x, a.z, bias, a.c, none, &norm);
    BENCH_REFUSED(b, kern_batch_norm_apply, a.y, after(a.y, 1), a.z, bias, a.c, var, &norm);
    bad.epsilon = -1e-5f;
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, none, none, a.x, a.z, bias, &bad);
    BENCH_REFUSED(b, kern_batch_norm_apply, a.y, a.x, a.z, bias, a.c, var, &bad);
    bad.epsilon = NAN;
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, none, none, a.x, a.z, bias, &bad);
    bad = norm;
    bad.momentum = 1.5f;
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, none, none, a.x, a.z, bias, &bad);
    bad = norm;
    bad.rows = 0;
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, none, none, a.x, a.z, bias, &bad);
    bad.rows = 60; /* 360 elements */
    BENCH_REFUSED(b, kern_batch_norm, a.y, a.c, inv, none, none, a.x, a.z, bias, &bad);
    norm.relu = true;
    BENCH_REFUSED(b, kern_batch_norm_grad, a.d, inv, var, a.y, a.x, none, a.z, a.c, bias, &norm);
    BENCH_REFUSED(b, kern_batch_norm_grad, a.d, none, var, a.y, a.x, a.y, a.z, a.c, bias, &norm);
    BENCH_OK(b, kern_batch_norm_grad(a.d, inv, var, a.y, a.x, a.y, a.z, a.c, bias, &norm));
    struct kern_group_norm group = {3, 4, 6, 2, 1e-5f, false};
    BENCH_OK(b, kern_group_norm(a.y, a.c, inv, a.x, none, none, &group));
    BENCH_REFUSED(b, kern_group_norm, a.x, a.c, inv, a.x, none, none, &group);
    group.groups = 4;
    BENCH_REFUSED(b, kern_group_norm, a.y, a.c, a.e, a.x, none, none, &group);
    BENCH_REFUSED(b, kern_group_norm_grad, a.d, none, none, a.y, a.x, none, none, a.c, a.e, &group);
    group.groups = 0;
    BENCH_REFUSED(b, kern_group_norm, a.y, a.c, a.e, a.x, none, none, &group);
    group.groups = 2;
    group.epsilon = INFINITY;
    BENCH_REFUSED(b, kern_group_norm, a.y, a.c, inv, a.x, none, none, &group);
    group.epsilon = 0;
    group.relu = true;
    BENCH_REFUSED(b, kern_group_norm_grad, a.d, none, none, a.y, a.x, none, none, a.c, inv, &group);
}
BENCH_CASE(norm_case, norm_once, 1)

static void unary_once(struct bench *b, size_t i) {
    (void)i;
    struct arrays a = arrays_of(b);
    enum kern_unary none_such = KERN_UNARY_COUNT, below = (enum kern_unary) - 1;
    BENCH_OK(b, kern_unary(KERN_EXP, a.y, a.x, N, 0, 0));
    BENCH_REFUSED(b, kern_unary, none_such, a.y, a.x, N, 0, 0);
    BENCH_REFUSED(b, kern_unary, below, a.y, a.x, N, 0, 0);
    BENCH_REFUSED(b, kern_unary, KERN_EXP, a.y, a.x, 0, 0, 0);
    BENCH_REFUSED(b, kern_unary, KERN_EXP, a.y, a.x, N + 100, 0, 0);
    BENCH_REFUSED(b, kern_unary, KERN_EXP, a.y, after(a.y, 1), 20, 0, 0);
    BENCH_REFUSED(b, kern_unary_grad, none_such, a.z, a.y, a.x, a.y, N, 0, 0);
    BENCH_REFUSED(b, kern_unary_grad, KERN_EXP, a.z, a.y, a.x, none, N, 0, 0);
    BENCH_REFUSED(b, kern_log_softmax, a.y, a.x, SIZE_MAX / 2, 3);
    BENCH_REFUSED(b, kern_log_softmax, a.y, a.x, 3, 0);
    BENCH_REFUSED(b, kern_log_softmax_grad, a.z, a.y, after(a.z, 2), 3, 5);
    BENCH_OK(b, kern_dropout(a.y, a.x, N, 0, 1));
    BENCH_REFUSED(b, kern_dropout, a.y, a.x, N, 1, 1);
    BENCH_REFUSED(b, kern_dropout, a.y, a.x, N, -0.5f, 1);
    BENCH_REFUSED(b, kern_dropout, a.y, a.x, N, NAN, 1);
    BENCH_REFUSED(b, kern_to_index, a.x, a.x, N);
    BENCH_REFUSED(b, kern_to_index, a.i, none, N);
    struct kern_vec nowhere = none;
    bench_status(b, "kern_unary without y", kern_unary(KERN_EXP, nowhere, a.x, N, 0, 0), KERN_EARG);
}
BENCH_CASE(unary_case, unary_once, 1)

/* Views of `a.x`, whose buffer has fewer than 20 elements before and behind it. */
static void nd_once(struct bench *b, size_t i) {
    (void)i;
    struct arrays a = arrays_of(b);
    struct kern_nd nd = {2, {6, 7}}, wide = nd, empty = nd, line = {1, {200}};
    kern_strides dense, back = {-7, -1}, far = {80, 1}, huge = {PTRDIFF_MAX / 2, 1}, zero = {0, 1};
    kern_strides least = {PTRDIFF_MIN, 1}, turned = {1, 6}, cross = {1, 1}, one = {1};
    kern_nd_dense(&nd, dense);
    wide.rank = KERN_RANK_MAX + 1;
    empty.dims[1] = 0;
    BENCH_OK(b, kern_nd_copy(a.y, dense, after(a.x, 41), back, &nd, false));
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, a.x, back, &nd, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, a.x, far, &nd, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, far, a.x, dense, &nd, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, a.x, huge, &nd, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, a.x, least, &nd, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, a.x, dense, &wide, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, a.x, dense, &empty, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, after(a.y, 20), dense, &nd, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, dense, a.y, dense, &nd, true);
    BENCH_OK(b, kern_nd_copy(a.y, dense, after(a.y, 42), dense, &nd, false));
    BENCH_REFUSED(b, kern_nd_copy, a.y, one, after(a.x, 100), one, &line, false);
    /* Elements of y that meet */
    BENCH_OK(b, kern_nd_copy(a.y, turned, a.x, zero, &nd, false));
    BENCH_REFUSED(b, kern_nd_copy, a.y, zero, a.x, dense, &nd, false);
    BENCH_REFUSED(b, kern_nd_copy, a.y, cross, a.x, dense, &nd, false);

    BENCH_OK(b, kern_nd_binary(KERN_SUB, a.y, a.y, dense, a.x, zero, &nd));
    BENCH_REFUSED(b, kern_nd_binary, KERN_SUB, a.y, a.y, turned, a.x, zero, &nd);
    BENCH_REFUSED(b, kern_nd_binary, KERN_SUB, a.y, after(a.y, 41), back, a.x, zero, &nd);
    BENCH_REFUSED(b, kern_nd_binary, KERN_SUB, a.y, a.x, dense, a.y, zero, &nd);
    BENCH_REFUSED(b, kern_nd_binary, KERN_SUB, a.y, a.x, dense, a.z, back, &nd);
    BENCH_REFUSED(b, kern_nd_binary, KERN_SUB, a.y, a.x, huge, a.z, dense, &nd);
    BENCH_REFUSED(b, kern_nd_binary, KERN_SUB, a.y, a.x, dense, a.z, dense, &wide);
    BENCH_REFUSED(b, kern_nd_binary, (enum kern_binary)9, a.y, a.x, dense, a.z, dense, &nd);

    BENCH_OK(b, kern_nd_reduce(a.y, a.x, &nd, 1, 1, false));
    BENCH_REFUSED(b, kern_nd_reduce, a.y, a.x, &wide, 1, 1, false);
    BENCH_REFUSED(b, kern_nd_reduce, a.y, a.x, &empty, 2, 1, false);
    BENCH_REFUSED(b, kern_nd_reduce, a.x, a.x, &nd, 0, 1, false);
    BENCH_REFUSED(b, kern_nd_reduce, after(a.x, 41), a.x, &nd, 3, 1, false);
    line.dims[0] = N + 30;
    BENCH_REFUSED(b, kern_nd_reduce, a.y, a.x, &line, 1, 1, false);
}
BENCH_CASE(nd_case, nd_once, 1)

static void axis_once(struct bench *b, size_t i) {
    (void)i;
    struct arrays a = arrays_of(b);
    BENCH_OK(b, kern_gather(a.y, a.x, a.i, 2, 5, 8, 3));
    BENCH_REFUSED(b, kern_gather, a.x, a.x, a.i, 2, 5, 8, 3);
    BENCH_REFUSED(b, kern_gather, a.y, a.x, a.i, 2, 5, 50, 3);
    BENCH_REFUSED(b, kern_gather, a.y, a.x, a.i, 2, 50, 8, 3);
    BENCH_REFUSED(b, kern_gather, a.y, a.x, a.i, 0, 5, 8, 3);
    BENCH_REFUSED(b, kern_gather, a.y, a.x, a.i, SIZE_MAX / 4, 5, 8, 3);
    BENCH_REFUSED(b, kern_gather_grad, a.x, a.x, a.i, 2, 5, 8, 3);
    BENCH_REFUSED(b, kern_gather_grad, a.y, a.x, none, 2, 5, 8, 3);
    BENCH_OK(b, kern_axis_mix(a.y, a.x, a.i, a.i, a.z, 2, 5, 8, 3, 4, true));
    BENCH_REFUSED(b, kern_axis_mix, a.x, a.x, a.i, a.i, a.z, 2, 5, 8, 3, 4, true);
    BENCH_REFUSED(b, kern_axis_mix, a.y, a.x, a.i, a.i, a.z, 2, 5, 8, 3, 0, true);
    BENCH_REFUSED(b, kern_axis_mix, a.y, a.x, a.i, after(a.i, N), a.z, 2, 5, 8, 3, 40, true);
    struct kern_gemm_batch g = {3, 6, 8, 12};
    BENCH_OK(b, kern_gemm_batch(a.y, a.x, a.z, 2, 3, 4, false, false, 1, 0, &g));
    g.step_y = 5;
    BENCH_REFUSED(b, kern_gemm_batch, a.y, a.x, a.z, 2, 3, 4, false, false, 1, 0, &g);
    g.step_y = 6;
    BENCH_REFUSED(b, kern_gemm_batch, a.y, a.x, after(a.y, 17), 2, 3, 4, false, false, 1, 0, &g);
    g.step_a = 150;
    BENCH_REFUSED(b, kern_gemm_batch, a.y, a.x, a.z, 2, 3, 4, false, false, 1, 0, &g);
    g.step_a = SIZE_MAX / 2;
    BENCH_REFUSED(b, kern_gemm_batch, a.y, a.x, a.z, 2, 3, 4, false, false, 1, 0, &g);
    g.step_a = 0;
    g.count = 0;
    BENCH_REFUSED(b, kern_gemm_batch, a.y, a.x, a.z, 2, 3, 4, false, false, 1, 0, &g);
}
BENCH_CASE(axis_case, axis_once, 1)

/* A buffer of another device, which here is a second CPU. */
static void other_once(struct bench *b, size_t i) {
    (void)i;
    struct arrays a = arrays_of(b);
    struct kern_device *dev = NULL;
    struct kern_buf *buf = NULL;
    struct kern_conv_shape s = {1, 1, 1, 1, {1, {4}, {4}, {1}, {1}, {1}, {0}}, false};
    struct kern_conv *conv = NULL;
    BENCH_OK(b, kern_device_open("cpu", 1, &dev));
    BENCH_OK(b, kern_buf_new(dev, 64, &buf));
    if (buf != NULL) {
        struct kern_vec there = {buf, 0}, x = {buf, 4}, w = {buf, 8};
        BENCH_REFUSED(b, kern_unary, KERN_EXP, a.y, there, 4, 0, 0);
        BENCH_OK(b, kern_conv_new(b->dev, &s, &conv));
        bench_status(b, "a convolution of another device's arrays",
                     conv == NULL ? KERN_ENOMEM : kern_conv_forward(conv, there, x, w, none),
                     KERN_EARG);
        kern_conv_free(conv);
    }
    kern_device_close(dev);
}
BENCH_CASE(other_case, other_once, 1)

const struct parity_case parity_refused_cases[] = {
    {"refused windows", windows_case, false},
    {"refused convolutions", conv_case, false},
    {"refused normalisations", norm_case, false},
    {"refused maps", unary_case, false},
    {"refused views", nd_case, false},
    {"refused gathers and mixes", axis_case, false},
    {"arrays of another device", other_case, false},
};
const size_t parity_refused_count = COUNT(parity_refused_cases);
