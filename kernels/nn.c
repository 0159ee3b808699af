/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operations of nn.h: as in ops.c each names its arrays, has them checked, and calls the
 * backend's table. Convolutions, windows and strided views are checked on top.
 */
#include "kernels/nn.h"
#include "kernels/dispatch.h"
#include "kernels/nn_ops.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

#define F32 sizeof(float)
#define I32 sizeof(int32_t)

enum { IN = 0, OUT = KERN_ARG_OUT, MAP = KERN_ARG_OUT | KERN_ARG_ALIAS, OPT = KERN_ARG_OPTIONAL };

/* Checks `args` and leaves `dev` and its `nn` set, or returns from the enclosing function. */
#define CHECK(op, args)                                                                            \
    struct kern_device *dev = NULL;                                                                \
    const struct kern_nn_ops *nn = NULL;                                                           \
    do {                                                                                           \
        enum kern_status st_ = kern_args_check(op, args, sizeof(args) / sizeof(args)[0], &dev);    \
        if (st_ == KERN_OK) {                                                                      \
            st_ = table(dev, op, &nn);                                                             \
        }                                                                                          \
        if (st_ != KERN_OK) {                                                                      \
            return st_;                                                                            \
        }                                                                                          \
    } while (0)

bool kern_has_nn(const struct kern_device *dev) {
    return dev->ops->nn != NULL;
}

static enum kern_status table(struct kern_device *dev, const char *op,
                              const struct kern_nn_ops **out) {
    *out = dev->ops->nn;
    if (*out != NULL) {
        return KERN_OK;
    }
    kern_refuse(dev, "%s: this device's backend does not have it", op);
    return KERN_ENODEV;
}

/* n * m, or 0, which the check of arguments refuses; 0 stays 0. */
static size_t times(size_t n, size_t m) {
    return n == 0 || m == 0 ? 0 : kern_area(n, m);
}

/* ---- windows --------------------------------------------------------------------------------- */

struct spots {
    size_t in, out, kernel; /* of all dimensions together; 0 where the window is no window */
};

static struct spots window_spots(const struct kern_window *w) {
    struct spots s = {1, 1, 1};
    if (w == NULL || w->spatial < 1 || w->spatial > KERN_SPATIAL_MAX) {
        return (struct spots){0, 0, 0};
    }
    for (unsigned i = 0; i < w->spatial; i++) {
        size_t last, reach;
        if (w->stride[i] == 0 || w->dilation[i] == 0 || w->kernel[i] == 0 || w->out[i] == 0 ||
            w->in[i] > INT32_MAX || w->out[i] > INT32_MAX || w->kernel[i] > INT32_MAX ||
            w->stride[i] > INT32_MAX || w->dilation[i] > INT32_MAX || w->pad[i] > INT32_MAX ||
            __builtin_mul_overflow(w->out[i] - 1, w->stride[i], &last) ||
            __builtin_mul_overflow(w->kernel[i] - 1, w->dilation[i], &reach) || last > INT32_MAX ||
            reach > INT32_MAX) {
            return (struct spots){0, 0, 0};
        }
        s.in = times(s.in, w->in[i]);
        s.out = times(s.out, w->out[i]);
        s.kernel = times(s.kernel, w->kernel[i]);
    }
    return s.kernel == 0 ? (struct spots){0, 0, 0} : s; /* too many taps to count */
}

struct kern_conv {
    struct kern_device *dev;
    void *state;
    size_t x, y, w, b; /* elements */
};

enum kern_status kern_conv_new(struct kern_device *dev, const struct kern_conv_shape *shape,
                               struct kern_conv **out) {
    const struct kern_nn_ops *nn = NULL;
    if (dev == NULL || shape == NULL || out == NULL) {
        return KERN_EARG;
    }
    enum kern_status st = dev->failed ? KERN_EDEVICE : table(dev, "kern_conv_new", &nn);
    if (st != KERN_OK) {
        return st;
    }
    const struct kern_conv_shape s = *shape;
    struct spots at = window_spots(&s.window);
    if (at.in == 0 || at.out == 0 || s.groups == 0 || s.in_channels % s.groups != 0 ||
        s.out_channels % s.groups != 0 || s.in_channels > INT32_MAX || s.out_channels > INT32_MAX ||
        s.batch > INT32_MAX) {
        return kern_refuse(dev, "kern_conv_new: an empty window, or channels that its groups do "
                                "not divide");
    }
    size_t rows_x = times(s.batch, s.transposed ? at.out : at.in);
    size_t rows_y = times(s.batch, s.transposed ? at.in : at.out);
    struct kern_conv conv = {.dev = dev,
                             .x = times(rows_x, s.in_channels),
                             .y = times(rows_y, s.out_channels),
                             .w = times(times(s.in_channels, s.out_channels / s.groups), at.kernel),
                             .b = s.out_channels};
    if (conv.x == 0 || conv.y == 0 || conv.w == 0) {
        return kern_refuse(dev, "kern_conv_new: no elements, or too many to count");
    }
    struct kern_conv *c = malloc(sizeof *c);
    if (c == NULL) {
        return KERN_ENOMEM;
    }
    *c = conv;
    st = kern_done(dev, nn->conv_new(dev->ctx, &s, &c->state));
    if (st != KERN_OK) {
        free(c);
        return st;
    }
    *out = c;
    return KERN_OK;
}

void kern_conv_free(struct kern_conv *conv) {
    if (conv == NULL) {
        return;
    }
    conv->dev->ops->nn->conv_free(conv->dev->ctx, conv->state);
    free(conv);
}

const char *kern_conv_how(const struct kern_conv *conv) {
    return conv->dev->ops->nn->conv_how(conv->state);
}

static enum kern_status same_device(const struct kern_conv *conv, struct kern_device *dev,
                                    const char *op) {
    return conv->dev == dev ? KERN_OK
                            : kern_refuse(dev, "%s: the convolution is on another device", op);
}

enum kern_status kern_conv_forward(struct kern_conv *conv, struct kern_vec y, struct kern_vec x,
                                   struct kern_vec w, struct kern_vec b) {
    struct kern_arg args[] = {{"y", y, F32, conv->y, OUT, NULL},
                              {"x", x, F32, conv->x, IN, NULL},
                              {"w", w, F32, conv->w, IN, NULL},
                              {"b", b, F32, conv->b, OPT, NULL}};
    CHECK("kern_conv_forward", args);
    enum kern_status st = same_device(conv, dev, "kern_conv_forward");
    return st != KERN_OK ? st
                         : kern_done(dev, nn->conv_forward(dev->ctx, conv->state, args[0].p,
                                                           args[1].p, args[2].p, args[3].p));
}

enum kern_status kern_conv_grad_x(struct kern_conv *conv, struct kern_vec dx, struct kern_vec dy,
                                  struct kern_vec w, bool add) {
    struct kern_arg args[] = {{"dx", dx, F32, conv->x, OUT, NULL},
                              {"dy", dy, F32, conv->y, IN, NULL},
                              {"w", w, F32, conv->w, IN, NULL}};
    CHECK("kern_conv_grad_x", args);
    enum kern_status st = same_device(conv, dev, "kern_conv_grad_x");
    return st != KERN_OK ? st
                         : kern_done(dev, nn->conv_grad_x(dev->ctx, conv->state, args[0].p,
                                                          args[1].p, args[2].p, add));
}

enum kern_status kern_conv_grad_w(struct kern_conv *conv, struct kern_vec dw, struct kern_vec db,
                                  struct kern_vec x, struct kern_vec dy) {
    struct kern_arg args[] = {{"dw", dw, F32, conv->w, OUT, NULL},
                              {"db", db, F32, conv->b, OUT | OPT, NULL},
                              {"x", x, F32, conv->x, IN, NULL},
                              {"dy", dy, F32, conv->y, IN, NULL}};
    CHECK("kern_conv_grad_w", args);
    enum kern_status st = same_device(conv, dev, "kern_conv_grad_w");
    return st != KERN_OK ? st
                         : kern_done(dev, nn->conv_grad_w(dev->ctx, conv->state, args[0].p,
                                                          args[1].p, args[2].p, args[3].p));
}

/* Elements of an image of that many spots. */
static size_t image(size_t batch, size_t spots, size_t channels) {
    return times(times(batch, spots), channels);
}

enum kern_status kern_max_pool(struct kern_vec y, struct kern_vec index, struct kern_vec x,
                               size_t batch, size_t channels, const struct kern_window *window) {
    struct spots s = window_spots(window);
    struct kern_arg args[] = {{"y", y, F32, image(batch, s.out, channels), OUT, NULL},
                              {"index", index, I32, image(batch, s.out, channels), OUT, NULL},
                              {"x", x, F32, image(batch, s.in, channels), IN, NULL}};
    CHECK("kern_max_pool", args);
    if (s.in > INT32_MAX) {
        return kern_refuse(dev, "kern_max_pool: %zu spots; an int32 index reaches %d", s.in,
                           INT32_MAX);
    }
    return kern_done(
        dev, nn->max_pool(dev->ctx, args[0].p, args[1].p, args[2].p, batch, channels, window));
}

enum kern_status kern_max_pool_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec index,
                                    size_t batch, size_t channels, const struct kern_window *window,
                                    bool add) {
    struct spots s = window_spots(window);
    struct kern_arg args[] = {{"dx", dx, F32, image(batch, s.in, channels), OUT, NULL},
                              {"dy", dy, F32, image(batch, s.out, channels), IN, NULL},
                              {"index", index, I32, image(batch, s.out, channels), IN, NULL}};
    CHECK("kern_max_pool_grad", args);
    return kern_done(dev, nn->max_pool_grad(dev->ctx, args[0].p, args[1].p, args[2].p, batch,
                                            channels, window, add));
}

enum kern_status kern_mean_pool(struct kern_vec y, struct kern_vec x, size_t batch, size_t channels,
                                const struct kern_window *window, bool count_pad) {
    struct spots s = window_spots(window);
    struct kern_arg args[] = {{"y", y, F32, image(batch, s.out, channels), OUT, NULL},
                              {"x", x, F32, image(batch, s.in, channels), IN, NULL}};
    CHECK("kern_mean_pool", args);
    return kern_done(
        dev, nn->mean_pool(dev->ctx, args[0].p, args[1].p, batch, channels, window, count_pad));
}

enum kern_status kern_mean_pool_grad(struct kern_vec dx, struct kern_vec dy, size_t batch,
                                     size_t channels, const struct kern_window *window,
                                     bool count_pad, bool add) {
    struct spots s = window_spots(window);
    struct kern_arg args[] = {{"dx", dx, F32, image(batch, s.in, channels), OUT, NULL},
                              {"dy", dy, F32, image(batch, s.out, channels), IN, NULL}};
    CHECK("kern_mean_pool_grad", args);
    return kern_done(dev, nn->mean_pool_grad(dev->ctx, args[0].p, args[1].p, batch, channels,
                                             window, count_pad, add));
}

/* ---- normalisation --------------------------------------------------------------------------- */

static bool sane(float epsilon, float momentum) {
    return epsilon >= 0 && isfinite(epsilon) && momentum >= 0 && momentum <= 1;
}

enum kern_status kern_batch_norm(struct kern_vec y, struct kern_vec mean, struct kern_vec inv_std,
                                 struct kern_vec run_mean, struct kern_vec run_var,
                                 struct kern_vec x, struct kern_vec scale, struct kern_vec bias,
                                 const struct kern_batch_norm *norm) {
    size_t c = norm->channels, n = times(norm->rows, c);
    struct kern_arg args[] = {{"y", y, F32, n, OUT, NULL},
                              {"mean", mean, F32, c, OUT, NULL},
                              {"inv_std", inv_std, F32, c, OUT, NULL},
                              {"run_mean", run_mean, F32, c, OUT | OPT, NULL},
                              {"run_var", run_var, F32, c, OUT | OPT, NULL},
                              {"x", x, F32, n, IN, NULL},
                              {"scale", scale, F32, c, IN, NULL},
                              {"bias", bias, F32, c, IN, NULL}};
    CHECK("kern_batch_norm", args);
    if (!sane(norm->epsilon, norm->momentum) || (args[3].p == NULL) != (args[4].p == NULL)) {
        return kern_refuse(dev, "kern_batch_norm: epsilon is not below 0, momentum 0 to 1, and "
                                "run_mean and run_var come together");
    }
    return kern_done(dev, nn->batch_norm(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p,
                                         args[4].p, args[5].p, args[6].p, args[7].p, norm));
}

enum kern_status kern_batch_norm_apply(struct kern_vec y, struct kern_vec x, struct kern_vec scale,
                                       struct kern_vec bias, struct kern_vec mean,
                                       struct kern_vec var, const struct kern_batch_norm *norm) {
    size_t c = norm->channels, n = times(norm->rows, c);
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL},        {"x", x, F32, n, IN, NULL},
                              {"scale", scale, F32, c, IN, NULL}, {"bias", bias, F32, c, IN, NULL},
                              {"mean", mean, F32, c, IN, NULL},   {"var", var, F32, c, IN, NULL}};
    CHECK("kern_batch_norm_apply", args);
    if (!sane(norm->epsilon, 0)) {
        return kern_refuse(dev, "kern_batch_norm_apply: epsilon is not below 0");
    }
    return kern_done(dev, nn->batch_norm_apply(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p,
                                               args[4].p, args[5].p, norm));
}

enum kern_status kern_batch_norm_grad(struct kern_vec dx, struct kern_vec dscale,
                                      struct kern_vec dbias, struct kern_vec dy, struct kern_vec x,
                                      struct kern_vec y, struct kern_vec scale,
                                      struct kern_vec mean, struct kern_vec inv_std,
                                      const struct kern_batch_norm *norm) {
    size_t c = norm->channels, n = times(norm->rows, c);
    struct kern_arg args[] = {{"dscale", dscale, F32, c, OUT, NULL},
                              {"dbias", dbias, F32, c, OUT, NULL},
                              {"dx", dx, F32, n, MAP | OPT, NULL},
                              {"dy", dy, F32, n, IN, NULL},
                              {"x", x, F32, n, IN, NULL},
                              {"y", y, F32, n, norm->relu ? IN : OPT, NULL},
                              {"scale", scale, F32, c, IN, NULL},
                              {"mean", mean, F32, c, IN, NULL},
                              {"inv_std", inv_std, F32, c, IN, NULL}};
    CHECK("kern_batch_norm_grad", args);
    return kern_done(dev, nn->batch_norm_grad(dev->ctx, args[2].p, args[0].p, args[1].p, args[3].p,
                                              args[4].p, args[5].p, args[6].p, args[7].p, args[8].p,
                                              norm));
}

static bool groups_divide(const struct kern_group_norm *norm) {
    return norm->groups != 0 && norm->channels % norm->groups == 0 && sane(norm->epsilon, 0);
}

enum kern_status kern_group_norm(struct kern_vec y, struct kern_vec mean, struct kern_vec inv_std,
                                 struct kern_vec x, struct kern_vec scale, struct kern_vec bias,
                                 const struct kern_group_norm *norm) {
    size_t c = norm->channels, n = image(norm->batch, norm->spots, c);
    size_t stats = times(norm->batch, norm->groups);
    struct kern_arg args[] = {{"y", y, F32, n, OUT, NULL},
                              {"mean", mean, F32, stats, OUT, NULL},
                              {"inv_std", inv_std, F32, stats, OUT, NULL},
                              {"x", x, F32, n, IN, NULL},
                              {"scale", scale, F32, c, OPT, NULL},
                              {"bias", bias, F32, c, OPT, NULL}};
    CHECK("kern_group_norm", args);
    if (!groups_divide(norm)) {
        return kern_refuse(dev,
                           "kern_group_norm: %zu groups do not divide %zu channels, or "
                           "epsilon is below 0",
                           norm->groups, c);
    }
    return kern_done(dev, nn->group_norm(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p,
                                         args[4].p, args[5].p, norm));
}

enum kern_status kern_group_norm_grad(struct kern_vec dx, struct kern_vec dscale,
                                      struct kern_vec dbias, struct kern_vec dy, struct kern_vec x,
                                      struct kern_vec y, struct kern_vec scale,
                                      struct kern_vec mean, struct kern_vec inv_std,
                                      const struct kern_group_norm *norm) {
    size_t c = norm->channels, n = image(norm->batch, norm->spots, c);
    size_t stats = times(norm->batch, norm->groups);
    struct kern_arg args[] = {{"dy", dy, F32, n, IN, NULL},
                              {"dx", dx, F32, n, MAP | OPT, NULL},
                              {"dscale", dscale, F32, c, OUT | OPT, NULL},
                              {"dbias", dbias, F32, c, OUT | OPT, NULL},
                              {"x", x, F32, n, IN, NULL},
                              {"y", y, F32, n, norm->relu ? IN : OPT, NULL},
                              {"scale", scale, F32, c, OPT, NULL},
                              {"mean", mean, F32, stats, IN, NULL},
                              {"inv_std", inv_std, F32, stats, IN, NULL}};
    CHECK("kern_group_norm_grad", args);
    if (!groups_divide(norm)) {
        return kern_refuse(dev, "kern_group_norm_grad: %zu groups do not divide %zu channels",
                           norm->groups, c);
    }
    return kern_done(dev, nn->group_norm_grad(dev->ctx, args[1].p, args[2].p, args[3].p, args[0].p,
                                              args[4].p, args[5].p, args[6].p, args[7].p, args[8].p,
                                              norm));
}

/* ---- element by element ---------------------------------------------------------------------- */

enum kern_status kern_unary(enum kern_unary op, struct kern_vec y, struct kern_vec x, size_t n,
                            float alpha, float beta) {
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_unary", args);
    if ((unsigned)op >= KERN_UNARY_COUNT) {
        return kern_refuse(dev, "kern_unary: there is no operation %u", (unsigned)op);
    }
    return kern_done(dev, nn->unary(dev->ctx, op, args[0].p, args[1].p, n, alpha, beta));
}

enum kern_status kern_unary_grad(enum kern_unary op, struct kern_vec dx, struct kern_vec dy,
                                 struct kern_vec x, struct kern_vec y, size_t n, float alpha,
                                 float beta) {
    struct kern_arg args[] = {{"dx", dx, F32, n, MAP, NULL},
                              {"dy", dy, F32, n, IN, NULL},
                              {"x", x, F32, n, IN, NULL},
                              {"y", y, F32, n, IN, NULL}};
    CHECK("kern_unary_grad", args);
    if ((unsigned)op >= KERN_UNARY_COUNT) {
        return kern_refuse(dev, "kern_unary_grad: there is no operation %u", (unsigned)op);
    }
    return kern_done(dev, nn->unary_grad(dev->ctx, op, args[0].p, args[1].p, args[2].p, args[3].p,
                                         n, alpha, beta));
}

void kern_nd_dense(const struct kern_nd *nd, kern_strides out) {
    ptrdiff_t at = 1;
    for (unsigned i = nd->rank; i-- > 0;) {
        out[i] = nd->dims[i] == 1 ? 0 : at;
        at *= (ptrdiff_t)nd->dims[i];
    }
}

static size_t nd_count(const struct kern_nd *nd) {
    size_t n = 1;
    if (nd->rank > KERN_RANK_MAX) {
        return 0;
    }
    for (unsigned i = 0; i < nd->rank; i++) {
        n = times(n, nd->dims[i]);
    }
    return n;
}

/* Moves a view to the lowest element it reaches; *extent_out is how many there are from it to the
 * highest, 0 where they cannot be counted or lie before the buffer. Returns how far it moved. */
static size_t reach(struct kern_vec *v, const kern_strides s, const struct kern_nd *nd,
                    size_t *extent_out) {
    ptrdiff_t low = 0, high = 0, step;
    *extent_out = 0;
    for (unsigned i = 0; i < nd->rank; i++) {
        if (nd->dims[i] > PTRDIFF_MAX ||
            __builtin_mul_overflow((ptrdiff_t)nd->dims[i] - 1, s[i], &step) ||
            __builtin_add_overflow(step < 0 ? low : high, step, step < 0 ? &low : &high)) {
            return 0;
        }
    }
    if ((size_t)-low > v->at || high > PTRDIFF_MAX / 16 || low < -PTRDIFF_MAX / 16) {
        return 0;
    }
    v->at -= (size_t)-low;
    *extent_out = (size_t)(high - low) + 1;
    return (size_t)-low;
}

/* Whether no two elements of a view are one: true where each stride steps over all that the smaller
 * ones reach, which slices and transposes of an array do. */
static bool apart(const kern_strides s, const struct kern_nd *nd) {
    size_t step[KERN_RANK_MAX], dim[KERN_RANK_MAX], reach = 0;
    unsigned n = 0;
    for (unsigned i = 0; i < nd->rank; i++) {
        size_t size = s[i] < 0 ? (size_t)0 - (size_t)s[i] : (size_t)s[i];
        unsigned at = n;
        if (nd->dims[i] == 1) {
            continue;
        }
        for (; at > 0 && step[at - 1] > size; at--) {
            step[at] = step[at - 1];
            dim[at] = dim[at - 1];
        }
        step[at] = size;
        dim[at] = nd->dims[i];
        n++;
    }
    for (unsigned i = 0; i < n; i++) {
        if (step[i] <= reach) {
            return false;
        }
        reach += (dim[i] - 1) * step[i];
    }
    return true;
}

/* An operand may be y itself where both are walked in the same order. */
static bool walks_as_y(const struct kern_arg *y, const struct kern_arg *operand,
                       const kern_strides s, const struct kern_nd *nd) {
    kern_strides dense;
    bool same = y->p != operand->p;
    kern_nd_dense(nd, dense);
    for (unsigned i = 0; i < nd->rank && !same; i++) {
        if (nd->dims[i] != 1 && s[i] != dense[i]) {
            return false;
        }
    }
    return true;
}

enum kern_status kern_nd_copy(struct kern_vec y, const kern_strides ys, struct kern_vec x,
                              const kern_strides xs, const struct kern_nd *nd, bool add) {
    size_t n = nd_count(nd), y_extent = 0, x_extent = 0;
    size_t y_base = n == 0 ? 0 : reach(&y, ys, nd, &y_extent);
    size_t x_base = n == 0 ? 0 : reach(&x, xs, nd, &x_extent);
    struct kern_arg args[] = {{"y", y, F32, y_extent, OUT, NULL},
                              {"x", x, F32, x_extent, IN, NULL}};
    CHECK("kern_nd_copy", args);
    if (!apart(ys, nd)) {
        return kern_refuse(dev, "kern_nd_copy: two elements of y are one");
    }
    return kern_done(dev, nn->nd_copy(dev->ctx, (float *)args[0].p + y_base, ys,
                                      (float *)args[1].p + x_base, xs, nd, add));
}

enum kern_status kern_nd_binary(enum kern_binary op, struct kern_vec y, struct kern_vec a,
                                const kern_strides as, struct kern_vec b, const kern_strides bs,
                                const struct kern_nd *nd) {
    size_t n = nd_count(nd), a_extent = 0, b_extent = 0;
    size_t a_base = n == 0 ? 0 : reach(&a, as, nd, &a_extent);
    size_t b_base = n == 0 ? 0 : reach(&b, bs, nd, &b_extent);
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL},
                              {"a", a, F32, a_extent, IN, NULL},
                              {"b", b, F32, b_extent, IN, NULL}};
    CHECK("kern_nd_binary", args);
    if ((unsigned)op > KERN_DIV) {
        return kern_refuse(dev, "kern_nd_binary: there is no operation %u", (unsigned)op);
    }
    if (!walks_as_y(&args[0], &args[1], as, nd) || !walks_as_y(&args[0], &args[2], bs, nd)) {
        return kern_refuse(dev, "kern_nd_binary: y overlaps an operand that is not dense");
    }
    return kern_done(dev, nn->nd_binary(dev->ctx, op, args[0].p, (float *)args[1].p + a_base, as,
                                        (float *)args[2].p + b_base, bs, nd));
}

enum kern_status kern_nd_reduce(struct kern_vec y, struct kern_vec x, const struct kern_nd *nd,
                                unsigned axes, float scale, bool add) {
    size_t n = nd_count(nd), kept = n == 0 ? 0 : 1;
    for (unsigned i = 0; i < nd->rank && n != 0; i++) {
        kept *= (axes >> i & 1) == 0 ? nd->dims[i] : 1;
    }
    struct kern_arg args[] = {{"y", y, F32, kept, OUT, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_nd_reduce", args);
    return kern_done(dev, nn->nd_reduce(dev->ctx, args[0].p, args[1].p, nd, axes, scale, add));
}

/* ---- along one axis -------------------------------------------------------------------------- */

enum kern_status kern_gather(struct kern_vec y, struct kern_vec x, struct kern_vec index,
                             size_t outer, size_t len, size_t count, size_t inner) {
    struct kern_arg args[] = {{"y", y, F32, image(outer, count, inner), OUT, NULL},
                              {"x", x, F32, image(outer, len, inner), IN, NULL},
                              {"index", index, I32, count, IN, NULL}};
    CHECK("kern_gather", args);
    return kern_done(
        dev, nn->gather(dev->ctx, args[0].p, args[1].p, args[2].p, outer, len, count, inner));
}

enum kern_status kern_gather_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec index,
                                  size_t outer, size_t len, size_t count, size_t inner) {
    struct kern_arg args[] = {{"dx", dx, F32, image(outer, len, inner), OUT, NULL},
                              {"dy", dy, F32, image(outer, count, inner), IN, NULL},
                              {"index", index, I32, count, IN, NULL}};
    CHECK("kern_gather_grad", args);
    return kern_done(
        dev, nn->gather_grad(dev->ctx, args[0].p, args[1].p, args[2].p, outer, len, count, inner));
}

enum kern_status kern_to_index(struct kern_vec index, struct kern_vec x, size_t n) {
    struct kern_arg args[] = {{"index", index, I32, n, OUT, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_to_index", args);
    return kern_done(dev, nn->to_index(dev->ctx, args[0].p, args[1].p, n));
}

enum kern_status kern_axis_mix(struct kern_vec y, struct kern_vec x, struct kern_vec start,
                               struct kern_vec from, struct kern_vec weight, size_t outer,
                               size_t in, size_t out, size_t inner, size_t taps, bool add) {
    struct kern_arg args[] = {{"y", y, F32, image(outer, out, inner), OUT, NULL},
                              {"x", x, F32, image(outer, in, inner), IN, NULL},
                              {"start", start, I32, out + 1, IN, NULL},
                              {"from", from, I32, taps, IN, NULL},
                              {"weight", weight, F32, taps, IN, NULL}};
    CHECK("kern_axis_mix", args);
    return kern_done(dev, nn->axis_mix(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p,
                                       args[4].p, outer, in, out, inner, add));
}

enum kern_status kern_log_softmax(struct kern_vec y, struct kern_vec x, size_t rows, size_t cols) {
    size_t n = times(rows, cols);
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_log_softmax", args);
    return kern_done(dev, nn->log_softmax(dev->ctx, args[0].p, args[1].p, rows, cols));
}

enum kern_status kern_log_softmax_grad(struct kern_vec dx, struct kern_vec dy, struct kern_vec y,
                                       size_t rows, size_t cols) {
    size_t n = times(rows, cols);
    struct kern_arg args[] = {
        {"dx", dx, F32, n, MAP, NULL}, {"dy", dy, F32, n, IN, NULL}, {"y", y, F32, n, IN, NULL}};
    CHECK("kern_log_softmax_grad", args);
    return kern_done(dev,
                     nn->log_softmax_grad(dev->ctx, args[0].p, args[1].p, args[2].p, rows, cols));
}

enum kern_status kern_dropout(struct kern_vec y, struct kern_vec x, size_t n, float ratio,
                              uint64_t seed) {
    struct kern_arg args[] = {{"y", y, F32, n, MAP, NULL}, {"x", x, F32, n, IN, NULL}};
    CHECK("kern_dropout", args);
    if (!(ratio >= 0) || !(ratio < 1)) {
        return kern_refuse(dev, "kern_dropout: the ratio is 0 to below 1");
    }
    return kern_done(dev, nn->dropout(dev->ctx, args[0].p, args[1].p, n, ratio, seed));
}

/* Elements that `count` matrices of n, `step` apart, reach over. */
static size_t span(size_t n, size_t count, size_t step) {
    size_t before = 0;
    if (n == 0 || count == 0 || __builtin_mul_overflow(count - 1, step, &before) ||
        before > SIZE_MAX / 16 || n > SIZE_MAX / 16 - before) {
        return 0;
    }
    return before + n;
}

enum kern_status kern_gemm_batch(struct kern_vec y, struct kern_vec a, struct kern_vec b, size_t m,
                                 size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                                 float beta, const struct kern_gemm_batch *batch) {
    size_t c = batch->count;
    struct kern_arg args[] = {
        {"y", y, F32, span(times(m, n), c, batch->step_y), OUT, NULL},
        {"a", a, F32, span(times(m, k), c, batch->step_a), IN, NULL},
        {"b", b, F32, span(times(k, n), c, batch->step_b), IN, NULL},
    };
    CHECK("kern_gemm_batch", args);
    if (m > INT_MAX || n > INT_MAX || k > INT_MAX || (c > 1 && batch->step_y < m * n)) {
        return kern_refuse(dev,
                           "kern_gemm_batch: %zu x %zu x %zu, %zu times; a side is at most "
                           "%d and results do not overlap",
                           m, n, k, c, INT_MAX);
    }
    return kern_done(dev, nn->gemm_batch(dev->ctx, args[0].p, args[1].p, args[2].p, m, n, k,
                                         trans_a, trans_b, alpha, beta, batch));
}
