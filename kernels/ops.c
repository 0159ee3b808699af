/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations of kern.h: each names its arrays, has them checked, and calls the backend. They
 * are alike on purpose; what differs between two of them is all there is to read.
 */
#include "kernels/dispatch.h"

#include <limits.h>
#include <math.h>

#define F32 sizeof(float)
#define I32 sizeof(int32_t)
#define I64 sizeof(int64_t)

enum { IN = 0, OUT = KERN_ARG_OUT, INOUT = KERN_ARG_OUT, MAP = KERN_ARG_OUT | KERN_ARG_ALIAS };

/* Checks `args` and leaves `dev` set, or returns from the enclosing function. */
#define CHECK(op, args)                                                                            \
    struct kern_device *dev = NULL;                                                                \
    do {                                                                                           \
        enum kern_status st_ = kern_args_check(op, args, sizeof(args) / sizeof(args)[0], &dev);    \
        if (st_ != KERN_OK) {                                                                      \
            return st_;                                                                            \
        }                                                                                          \
    } while (0)

enum kern_status kern_gemm(struct kern_vec y, struct kern_vec a, struct kern_vec b, size_t m,
                           size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                           float beta) {
    struct kern_arg args[] = {{"y", y, F32, kern_area(m, n), INOUT, NULL},
                              {"a", a, F32, kern_area(m, k), IN, NULL},
                              {"b", b, F32, kern_area(k, n), IN, NULL}};
    CHECK("kern_gemm", args);
    if (m > INT_MAX || n > INT_MAX || k > INT_MAX) {
        return kern_refuse(dev, "kern_gemm: %zu x %zu x %zu; a side is at most %d", m, n, k,
                           INT_MAX);
    }
    return kern_done(dev, dev->ops->gemm(dev->ctx, args[0].p, args[1].p, args[2].p, m, n, k,
                                         trans_a, trans_b, alpha, beta));
}

enum kern_status kern_bias_add(struct kern_vec y, struct kern_vec bias, size_t rows, size_t cols) {
    struct kern_arg args[] = {{"y", y, F32, kern_area(rows, cols), INOUT, NULL},
                              {"bias", bias, F32, cols, IN, NULL}};
    CHECK("kern_bias_add", args);
    return kern_done(dev, dev->ops->bias_add(dev->ctx, args[0].p, args[1].p, rows, cols));
}

enum kern_status kern_bias_grad(struct kern_vec dbias, struct kern_vec dy, size_t rows,
                                size_t cols) {
    struct kern_arg args[] = {{"dbias", dbias, F32, cols, INOUT, NULL},
                              {"dy", dy, F32, kern_area(rows, cols), IN, NULL}};
    CHECK("kern_bias_grad", args);
    return kern_done(dev, dev->ops->bias_grad(dev->ctx, args[0].p, args[1].p, rows, cols));
}

enum kern_status kern_add(struct kern_vec y, struct kern_vec a, struct kern_vec b, size_t n) {
    struct kern_arg args[] = {
        {"y", y, F32, n, MAP, NULL}, {"a", a, F32, n, IN, NULL}, {"b", b, F32, n, IN, NULL}};
    CHECK("kern_add", args);
    return kern_done(dev, dev->ops->add(dev->ctx, args[0].p, args[1].p, args[2].p, n));
}

enum kern_status kern_scale(struct kern_vec y, size_t n, float alpha) {
    struct kern_arg args[] = {{"y", y, F32, n, INOUT, NULL}};
    CHECK("kern_scale", args);
    return kern_done(dev, dev->ops->scale(dev->ctx, args[0].p, n, alpha));
}

enum kern_status kern_relu(struct kern_vec y, struct kern_vec x, size_t n) {
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_relu", args);
    return kern_done(dev, dev->ops->relu(dev->ctx, args[0].p, args[1].p, n));
}

enum kern_status kern_relu_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                size_t n) {
    struct kern_arg args[] = {
        {"dx", dx, F32, n, MAP, NULL}, {"dy", dy, F32, n, IN, NULL}, {"y", y, F32, n, IN, NULL}};
    CHECK("kern_relu_grad", args);
    return kern_done(dev, dev->ops->relu_grad(dev->ctx, args[0].p, args[1].p, args[2].p, n));
}

enum kern_status kern_sigmoid(struct kern_vec y, struct kern_vec x, size_t n) {
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_sigmoid", args);
    return kern_done(dev, dev->ops->sigmoid(dev->ctx, args[0].p, args[1].p, n));
}

enum kern_status kern_sigmoid_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                   size_t n) {
    struct kern_arg args[] = {
        {"dx", dx, F32, n, MAP, NULL}, {"dy", dy, F32, n, IN, NULL}, {"y", y, F32, n, IN, NULL}};
    CHECK("kern_sigmoid_grad", args);
    return kern_done(dev, dev->ops->sigmoid_grad(dev->ctx, args[0].p, args[1].p, args[2].p, n));
}

enum kern_status kern_softmax(struct kern_vec y, struct kern_vec x, size_t rows, size_t cols) {
    size_t n = kern_area(rows, cols);
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_softmax", args);
    return kern_done(dev, dev->ops->softmax(dev->ctx, args[0].p, args[1].p, rows, cols));
}

enum kern_status kern_softmax_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                   size_t rows, size_t cols) {
    size_t n = kern_area(rows, cols);
    struct kern_arg args[] = {
        {"dx", dx, F32, n, MAP, NULL}, {"dy", dy, F32, n, IN, NULL}, {"y", y, F32, n, IN, NULL}};
    CHECK("kern_softmax_grad", args);
    return kern_done(dev,
                     dev->ops->softmax_grad(dev->ctx, args[0].p, args[1].p, args[2].p, rows, cols));
}

enum kern_status kern_bce_logits(struct kern_vec loss, struct kern_vec dz, struct kern_vec z,
                                 struct kern_vec t, size_t n) {
    struct kern_arg args[] = {{"loss", loss, F32, 1, INOUT, NULL},
                              {"dz", dz, F32, n, MAP | KERN_ARG_OPTIONAL, NULL},
                              {"z", z, F32, n, IN, NULL},
                              {"t", t, F32, n, IN, NULL}};
    CHECK("kern_bce_logits", args);
    return kern_done(dev,
                     dev->ops->bce_logits(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p, n));
}

enum kern_status kern_softmax_ce(struct kern_vec loss, struct kern_vec dz, struct kern_vec z,
                                 struct kern_vec label, size_t rows, size_t cols) {
    size_t n = kern_area(rows, cols);
    struct kern_arg args[] = {{"loss", loss, F32, 1, INOUT, NULL},
                              {"dz", dz, F32, n, MAP | KERN_ARG_OPTIONAL, NULL},
                              {"z", z, F32, n, IN, NULL},
                              {"label", label, I32, rows, IN, NULL}};
    CHECK("kern_softmax_ce", args);
    if (dz.buf != NULL && args[1].p == args[3].p) {
        return kern_refuse(dev, "kern_softmax_ce: dz overlaps label");
    }
    return kern_done(dev, dev->ops->softmax_ce(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p,
                                               rows, cols));
}

/* Also false for NaN. */
static bool within(float x, float low, float high) {
    return x >= low && x <= high;
}

enum kern_status kern_prox_grad(struct kern_vec g, struct kern_vec w, struct kern_vec w0, size_t n,
                                float mu) {
    struct kern_arg args[] = {
        {"g", g, F32, n, INOUT, NULL}, {"w", w, F32, n, IN, NULL}, {"w0", w0, F32, n, IN, NULL}};
    CHECK("kern_prox_grad", args);
    if (!(mu >= 0) || !isfinite(mu)) {
        return kern_refuse(dev, "kern_prox_grad: mu is finite and not below 0");
    }
    return kern_done(dev, dev->ops->prox_grad(dev->ctx, args[0].p, args[1].p, args[2].p, n, mu));
}

enum kern_status kern_stiff_grad(struct kern_vec g, struct kern_vec w, struct kern_vec c,
                                 struct kern_vec a, size_t n, float mu) {
    struct kern_arg args[] = {{"g", g, F32, n, INOUT, NULL},
                              {"w", w, F32, n, IN, NULL},
                              {"c", c, F32, n, IN, NULL},
                              {"a", a, F32, n, IN, NULL}};
    CHECK("kern_stiff_grad", args);
    if (!(mu >= 0) || !isfinite(mu)) {
        return kern_refuse(dev, "kern_stiff_grad: mu is finite and not below 0");
    }
    return kern_done(
        dev, dev->ops->stiff_grad(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p, n, mu));
}

enum kern_status kern_add_square(struct kern_vec y, struct kern_vec x, size_t n) {
    struct kern_arg args[] = {{"y", y, F32, n, INOUT, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_add_square", args);
    return kern_done(dev, dev->ops->add_square(dev->ctx, args[0].p, args[1].p, n));
}

enum kern_status kern_axpby(struct kern_vec y, struct kern_vec x, size_t n, float alpha,
                            float beta) {
    struct kern_arg args[] = {{"y", y, F32, n, INOUT, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_axpby", args);
    return kern_done(dev, dev->ops->axpby(dev->ctx, args[0].p, args[1].p, n, alpha, beta));
}

enum kern_status kern_square_sum(struct kern_vec sum, struct kern_vec x, size_t n) {
    struct kern_arg args[] = {{"sum", sum, F32, 1, INOUT, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_square_sum", args);
    return kern_done(dev, dev->ops->square_sum(dev->ctx, args[0].p, args[1].p, n));
}

enum kern_status kern_clip_norm(struct kern_vec g, struct kern_vec squares, size_t n,
                                float max_norm) {
    struct kern_arg args[] = {{"g", g, F32, n, INOUT, NULL},
                              {"squares", squares, F32, 1, IN, NULL}};
    CHECK("kern_clip_norm", args);
    if (!(max_norm > 0) || !isfinite(max_norm)) {
        return kern_refuse(dev, "kern_clip_norm: max_norm is finite and above 0");
    }
    return kern_done(dev, dev->ops->clip_norm(dev->ctx, args[0].p, args[1].p, n, max_norm));
}

enum kern_status kern_clip_value(struct kern_vec g, size_t n, float most) {
    struct kern_arg args[] = {{"g", g, F32, n, INOUT, NULL}};
    CHECK("kern_clip_value", args);
    if (!(most > 0) || !isfinite(most)) {
        return kern_refuse(dev, "kern_clip_value: most is finite and above 0");
    }
    return kern_done(dev, dev->ops->clip_value(dev->ctx, args[0].p, n, most));
}

enum kern_status kern_sgd_step(struct kern_vec w, struct kern_vec g, struct kern_vec v, size_t n,
                               const struct kern_sgd *opt) {
    struct kern_arg args[] = {{"w", w, F32, n, INOUT, NULL},
                              {"g", g, F32, n, IN, NULL},
                              {"v", v, F32, n, INOUT | KERN_ARG_OPTIONAL, NULL}};
    CHECK("kern_sgd_step", args);
    if (opt == NULL || !isfinite(opt->lr) || !within(opt->momentum, 0, 1) ||
        !isfinite(opt->weight_decay)) {
        return kern_refuse(dev, "kern_sgd_step: lr and weight_decay are finite, momentum 0 to 1");
    }
    if (opt->momentum != 0 && v.buf == NULL) {
        return kern_refuse(dev, "kern_sgd_step: momentum without an array v to keep it in");
    }
    return kern_done(dev, dev->ops->sgd_step(dev->ctx, args[0].p, args[1].p,
                                             opt->momentum != 0 ? args[2].p : NULL, n, opt));
}

enum kern_status kern_adam_step(struct kern_vec w, struct kern_vec g, struct kern_vec m,
                                struct kern_vec v, size_t n, const struct kern_adam *opt) {
    struct kern_arg args[] = {{"w", w, F32, n, INOUT, NULL},
                              {"g", g, F32, n, IN, NULL},
                              {"m", m, F32, n, INOUT, NULL},
                              {"v", v, F32, n, INOUT, NULL}};
    CHECK("kern_adam_step", args);
    if (opt == NULL || !isfinite(opt->lr) || !isfinite(opt->weight_decay) ||
        !within(opt->beta1, 0, 0.9999999f) || !within(opt->beta2, 0, 0.9999999f) ||
        !(opt->eps > 0) || !isfinite(opt->eps) || opt->step < 1) {
        return kern_refuse(dev, "kern_adam_step: lr and weight_decay are finite, betas 0 to below "
                                "1, eps above 0, step from 1");
    }
    return kern_done(
        dev, dev->ops->adam_step(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p, n, opt));
}

enum kern_status kern_standardise(struct kern_vec x, struct kern_vec mean, struct kern_vec inv_std,
                                  size_t rows, size_t cols) {
    struct kern_arg args[] = {{"x", x, F32, kern_area(rows, cols), INOUT, NULL},
                              {"mean", mean, F32, cols, IN, NULL},
                              {"inv_std", inv_std, F32, cols, IN, NULL}};
    CHECK("kern_standardise", args);
    return kern_done(dev,
                     dev->ops->standardise(dev->ctx, args[0].p, args[1].p, args[2].p, rows, cols));
}

enum kern_status kern_gather_rows(struct kern_vec y, struct kern_vec x, struct kern_vec index,
                                  size_t rows, size_t cols, size_t x_rows) {
    struct kern_arg args[] = {{"y", y, F32, kern_area(rows, cols), OUT, NULL},
                              {"x", x, F32, kern_area(x_rows, cols), IN, NULL},
                              {"index", index, I32, rows, IN, NULL}};
    CHECK("kern_gather_rows", args);
    if (x_rows > INT32_MAX) {
        return kern_refuse(dev, "kern_gather_rows: %zu rows; an int32 index reaches %d", x_rows,
                           INT32_MAX);
    }
    return kern_done(
        dev, dev->ops->gather_rows(dev->ctx, args[0].p, args[1].p, args[2].p, rows, cols, x_rows));
}

enum kern_status kern_fold_f32_dev(struct kern_vec acc, struct kern_vec x, struct kern_vec refused,
                                   size_t n, int frac_bits, uint32_t w) {
    struct kern_arg args[] = {{"acc", acc, I64, n, INOUT, NULL},
                              {"x", x, F32, n, IN, NULL},
                              {"refused", refused, I64, 1, INOUT, NULL}};
    CHECK("kern_fold_f32_dev", args);
    if (frac_bits < -100 || frac_bits > 100 || w < 1 || w > INT32_MAX) {
        return kern_refuse(dev,
                           "kern_fold_f32_dev: %d fraction bits, weight %u; -100 to 100 and "
                           "1 to 2^31 - 1",
                           frac_bits, w);
    }
    return kern_done(
        dev, dev->ops->fold_f32(dev->ctx, args[0].p, args[1].p, args[2].p, n, frac_bits, w));
}
