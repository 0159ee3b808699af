/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of the operators that look at a window, and of those that change the size of an image:
 * convolutions, pools, Resize, Pad. Whatever ONNX says in words (auto_pad, ceil_mode, output_shape)
 * is padding in numbers here.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- attributes ---------------------------------------------------------------------------- */

static enum tier_status need_image(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);

    if (x->type != TIER_TYPE_FLOAT || x->shape.rank < 3 || x->shape.rank > TIER_SPATIAL_MAX + 2)
        return graph_bad(at, "an input of %u dimensions: float with 3 to %d is read", x->shape.rank,
                         TIER_SPATIAL_MAX + 2);
    at->call->spatial = x->shape.rank - 2;
    return TIER_OK;
}

/* One number for each spatial dimension, from `low` up; `otherwise` where it is left out. */
static enum tier_status read_list(const struct graph_at *at, const char *name, int64_t low,
                                  uint64_t otherwise, uint64_t *out) {
    const attr_proto *a = graph_attr(at->step->np, name);

    for (unsigned d = 0; d < at->call->spatial; d++)
        out[d] = otherwise;
    if (!a)
        return TIER_OK;
    if (a->n_ints != at->call->spatial)
        return graph_bad(at, "%s has %zu numbers: %u would be right", name, a->n_ints,
                         at->call->spatial);
    for (unsigned d = 0; d < at->call->spatial; d++) {
        if (a->ints[d] < low || a->ints[d] > GRAPH_WINDOW_MAX)
            return graph_bad(at, "%s holds %" PRId64 ": %" PRId64 " to %d are allowed", name,
                             a->ints[d], low, GRAPH_WINDOW_MAX);
        out[d] = (uint64_t)a->ints[d];
    }
    return TIER_OK;
}

static enum tier_status read_pads(const struct graph_at *at) {
    const attr_proto *a = graph_attr(at->step->np, "pads");
    unsigned n = at->call->spatial;

    if (!a)
        return TIER_OK;
    if (a->n_ints != 2 * (size_t)n)
        return graph_bad(at, "pads has %zu numbers: %u would be right", a->n_ints, 2 * n);
    for (unsigned d = 0; d < 2 * n; d++) {
        if (a->ints[d] < 0 || a->ints[d] > GRAPH_WINDOW_MAX)
            return graph_bad(at, "pads holds %" PRId64 ": 0 to %d are allowed", a->ints[d],
                             GRAPH_WINDOW_MAX);
        if (d < n)
            at->call->pad[d] = (uint64_t)a->ints[d];
        else
            at->call->pad_end[d - n] = (uint64_t)a->ints[d];
    }
    return TIER_OK;
}

enum auto_pad { PAD_NOTSET, PAD_VALID, PAD_SAME_UPPER, PAD_SAME_LOWER };

static enum tier_status read_window(struct graph_at *at, enum auto_pad *auto_pad) {
    static const char *const names[] = {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"};
    int found = -1;

    for (int i = 0; i < 4; i++)
        if (graph_attr_is(at, "auto_pad", names[i], "NOTSET"))
            found = i;
    if (found < 0)
        return graph_bad(at, "auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER");
    *auto_pad = (enum auto_pad)found;
    TIER_TRY(read_list(at, "kernel_shape", 1, 0, at->call->kernel));
    TIER_TRY(read_list(at, "strides", 1, 1, at->call->stride));
    TIER_TRY(read_list(at, "dilations", 1, 1, at->call->dilation));
    return *auto_pad == PAD_NOTSET ? read_pads(at) : TIER_OK;
}

/* Elements from a window's first to its last. */
static uint64_t reach(const struct tier_call *c, unsigned d) {
    return (c->kernel[d] - 1) * c->dilation[d] + 1;
}

static void share_padding(struct tier_call *c, unsigned d, uint64_t all, bool more_at_end) {
    c->pad[d] = more_at_end ? all / 2 : all - all / 2;
    c->pad_end[d] = all - c->pad[d];
}

/* Padding of auto_pad and the output's size, floor mode. */
static enum tier_status slide(struct graph_at *at, enum auto_pad auto_pad, uint64_t *dims) {
    struct tier_call *c = at->call;
    const struct tier_shape *x = &graph_in(at, 0)->shape;

    for (unsigned d = 0; d < c->spatial; d++) {
        uint64_t in = x->dims[2 + d];
        if (auto_pad == PAD_SAME_UPPER || auto_pad == PAD_SAME_LOWER) {
            uint64_t need =
                ((in + c->stride[d] - 1) / c->stride[d] - 1) * c->stride[d] + reach(c, d);
            share_padding(c, d, need > in ? need - in : 0, auto_pad == PAD_SAME_UPPER);
        }
        uint64_t padded = in + c->pad[d] + c->pad_end[d];
        if (padded < reach(c, d))
            return graph_bad(at, "a window of %" PRIu64 " over %" PRIu64 " elements with padding",
                             reach(c, d), padded);
        dims[d] = (padded - reach(c, d)) / c->stride[d] + 1;
    }
    return TIER_OK;
}

/* ---- convolutions -------------------------------------------------------------------------- */

/* Weights and bias of the input's rank; the kernel's size from them. */
static enum tier_status read_weights(struct graph_at *at) {
    const struct graph_tensor *w = graph_in(at, 1), *b = graph_in(at, 2);
    struct tier_call *c = at->call;
    int64_t group = graph_attr_int(at, "group", 1);

    if (w->type != TIER_TYPE_FLOAT || w->shape.rank != c->spatial + 2)
        return graph_bad(at, "the weights '%.80s' have %u dimensions: %u would be right",
                         graph_in_name(at, 1), w->shape.rank, c->spatial + 2);
    for (unsigned d = 0; d < c->spatial; d++) {
        uint64_t size = w->shape.dims[2 + d];
        if (size < 1 || size > GRAPH_WINDOW_MAX || (c->kernel[d] && c->kernel[d] != size))
            return graph_bad(at, "kernel_shape does not fit the weights '%.80s'",
                             graph_in_name(at, 1));
        c->kernel[d] = size;
    }
    if (group < 1 || group > GRAPH_WINDOW_MAX)
        return graph_bad(at, "group is %" PRId64 ": 1 to %d are allowed", group, GRAPH_WINDOW_MAX);
    c->group = (uint64_t)group;
    if (b && (b->type != TIER_TYPE_FLOAT || b->shape.rank != 1))
        return graph_bad(at, "the bias '%.80s' must be float with one dimension",
                         graph_in_name(at, 2));
    return TIER_OK;
}

static enum tier_status check_bias(const struct graph_at *at, uint64_t channels) {
    const struct graph_tensor *b = graph_in(at, 2);

    if (b && b->shape.dims[0] != channels)
        return graph_bad(at, "the bias '%.80s' must be float [%" PRIu64 "]", graph_in_name(at, 2),
                         channels);
    return TIER_OK;
}

enum tier_status graph_shape_conv(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape, *w = &graph_in(at, 1)->shape;
    uint64_t dims[TIER_SPATIAL_MAX + 2], per_group;
    enum auto_pad auto_pad;

    TIER_TRY(need_image(at));
    TIER_TRY(read_window(at, &auto_pad));
    TIER_TRY(read_weights(at));
    uint64_t group = at->call->group;
    if (__builtin_mul_overflow(w->dims[1], group, &per_group) || per_group != x->dims[1] ||
        w->dims[0] % group != 0)
        return graph_bad(at,
                         "%" PRIu64 " channels in %" PRIu64 " groups do not fit the weights "
                         "'%.80s'",
                         x->dims[1], group, graph_in_name(at, 1));
    TIER_TRY(check_bias(at, w->dims[0]));
    TIER_TRY(slide(at, auto_pad, dims + 2));
    dims[0] = x->dims[0];
    dims[1] = w->dims[0];
    return graph_give(at, 0, TIER_TYPE_FLOAT, x->rank, dims);
}

/* Output size of one dimension, and with it the padding that auto_pad and output_shape leave open.
 */
static enum tier_status spread(struct graph_at *at, enum auto_pad auto_pad, unsigned d,
                               uint64_t more, uint64_t wanted, uint64_t *out) {
    struct tier_call *c = at->call;
    uint64_t in = graph_in(at, 0)->shape.dims[2 + d], full;

    if (in > TIER_ELEMENTS_MAX) /* 2^36 * 2^16: no product below overflows */
        return graph_bad(at, "is too large");
    full = c->stride[d] * (in - 1) + more + reach(c, d);
    if (more && more >= c->stride[d] && more >= c->dilation[d])
        return graph_bad(at, "output_padding %" PRIu64 " must be less than stride or dilation",
                         more);
    if (!wanted && (auto_pad == PAD_SAME_UPPER || auto_pad == PAD_SAME_LOWER))
        wanted = in * c->stride[d];
    if (wanted > full) { /* what no window reaches is the bias alone, as with output_padding */
        if (wanted - full >= c->stride[d] && wanted - full >= c->dilation[d])
            return graph_bad(at, "cannot make %" PRIu64 " elements of %" PRIu64, wanted, in);
        c->pad[d] = c->pad_end[d] = 0;
        full = wanted;
    } else if (wanted) {
        share_padding(c, d, full - wanted, auto_pad == PAD_SAME_UPPER);
    }
    if (full <= c->pad[d] + c->pad_end[d])
        return graph_bad(at, "the padding leaves nothing");
    *out = full - c->pad[d] - c->pad_end[d];
    return TIER_OK;
}

enum tier_status graph_shape_conv_transpose(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape, *w = &graph_in(at, 1)->shape;
    uint64_t dims[TIER_SPATIAL_MAX + 2], more[TIER_SPATIAL_MAX] = {0};
    uint64_t wanted[TIER_SPATIAL_MAX] = {0};
    enum auto_pad auto_pad;

    TIER_TRY(need_image(at));
    TIER_TRY(read_window(at, &auto_pad));
    TIER_TRY(read_weights(at));
    TIER_TRY(read_list(at, "output_padding", 0, 0, more));
    TIER_TRY(read_list(at, "output_shape", 1, 0, wanted));
    if (w->dims[0] != x->dims[1] || x->dims[1] % at->call->group != 0)
        return graph_bad(at,
                         "%" PRIu64 " channels in %" PRIu64 " groups do not fit the weights "
                         "'%.80s'",
                         x->dims[1], at->call->group, graph_in_name(at, 1));
    dims[0] = x->dims[0];
    if (__builtin_mul_overflow(w->dims[1], at->call->group, &dims[1]))
        return graph_bad(at, "has too many channels");
    TIER_TRY(check_bias(at, dims[1]));
    for (unsigned d = 0; d < at->call->spatial; d++)
        TIER_TRY(spread(at, auto_pad, d, more[d], wanted[d], &dims[2 + d]));
    return graph_give(at, 0, TIER_TYPE_FLOAT, x->rank, dims);
}

/* ---- pools --------------------------------------------------------------------------------- */

/* Windows that the end cuts off count too, but for one that would begin in the padding there
 * (PyTorch's rule, ONNX's since 2024). The padding grows to what they reach. */
static void ceil_up(struct tier_call *c, const struct tier_shape *x, uint64_t *dims, bool *cut) {
    for (unsigned d = 0; d < c->spatial; d++) {
        uint64_t in = x->dims[2 + d], padded = in + c->pad[d] + c->pad_end[d];
        uint64_t rest = (padded - reach(c, d)) % c->stride[d];
        uint64_t next = dims[d] * c->stride[d]; /* where it begins, with the padding before */
        if (rest == 0 || next >= in + c->pad[d])
            continue;
        dims[d]++;
        c->pad_end[d] = next + reach(c, d) - in - c->pad[d];
        *cut = true;
    }
}

enum tier_status graph_shape_pool(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;
    struct tier_call *c = at->call;
    uint64_t dims[TIER_SPATIAL_MAX + 2] = {0};
    enum auto_pad auto_pad;
    bool ceil_mode, padded = false, cut = false;

    TIER_TRY(need_image(at));
    TIER_TRY(read_window(at, &auto_pad));
    TIER_TRY(graph_attr_flag(at, "ceil_mode", false, &ceil_mode));
    TIER_TRY(graph_attr_flag(at, "count_include_pad", false, &c->count_pad));
    for (unsigned d = 0; d < c->spatial; d++) {
        if (c->kernel[d] == 0)
            return graph_bad(at, "kernel_shape is missing");
        if (c->pad[d] >= c->kernel[d] || c->pad_end[d] >= c->kernel[d])
            return graph_bad(at, "pads must be smaller than the kernel");
        padded |= c->pad[d] || c->pad_end[d];
    }
    TIER_TRY(slide(at, auto_pad, dims + 2));
    if (ceil_mode && (auto_pad == PAD_NOTSET || auto_pad == PAD_VALID))
        ceil_up(c, x, dims + 2, &cut);
    if (c->count_pad && cut && padded)
        return graph_bad(at, "count_include_pad with padding and ceil_mode counts part of what is "
                             "beyond the end: leave out one of them");
    if (cut)
        c->count_pad = false; /* what is beyond the end is never counted */
    dims[0] = x->dims[0];
    dims[1] = x->dims[1];
    return graph_give(at, 0, TIER_TYPE_FLOAT, x->rank, dims);
}

enum tier_status graph_shape_global_max(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;
    uint64_t dims[TIER_SPATIAL_MAX + 2] = {x->dims[0], x->dims[1], 1, 1, 1};

    TIER_TRY(need_image(at));
    for (unsigned d = 0; d < at->call->spatial; d++) {
        at->call->kernel[d] = x->dims[2 + d];
        at->call->stride[d] = at->call->dilation[d] = 1;
    }
    return graph_give(at, 0, TIER_TYPE_FLOAT, x->rank, dims);
}

/* ---- Resize and Upsample ------------------------------------------------------------------- */

static enum tier_status read_places(struct graph_at *at) {
    static const char *const places[] = {[TIER_RESIZE_HALF_PIXEL] = "half_pixel",
                                         [TIER_RESIZE_PYTORCH_HALF_PIXEL] = "pytorch_half_pixel",
                                         [TIER_RESIZE_ALIGN_CORNERS] = "align_corners",
                                         [TIER_RESIZE_ASYMMETRIC] = "asymmetric"};
    static const char *const nearest[] = {[TIER_NEAREST_ROUND_PREFER_FLOOR] = "round_prefer_floor",
                                          [TIER_NEAREST_ROUND_PREFER_CEIL] = "round_prefer_ceil",
                                          [TIER_NEAREST_FLOOR] = "floor",
                                          [TIER_NEAREST_CEIL] = "ceil"};
    bool old = at->opset < 11; /* and Upsample: asymmetric, floor, and no attributes for it */
    int place = -1, round = -1;

    for (int i = 0; i < 4; i++) {
        if (graph_attr_is(at, "coordinate_transformation_mode", places[i],
                          old ? "asymmetric" : "half_pixel"))
            place = i;
        if (graph_attr_is(at, "nearest_mode", nearest[i], old ? "floor" : "round_prefer_floor"))
            round = i;
    }
    at->call->linear = graph_attr_is(at, "mode", "linear", "nearest");
    if (!at->call->linear && !graph_attr_is(at, "mode", "nearest", "nearest"))
        return graph_bad(at, "mode must be nearest or linear: cubic is not read");
    if (place < 0)
        return graph_bad(at, "coordinate_transformation_mode must be half_pixel, "
                             "pytorch_half_pixel, align_corners or asymmetric");
    if (round < 0)
        return graph_bad(at, "nearest_mode must be round_prefer_floor, round_prefer_ceil, floor or "
                             "ceil");
    if (graph_attr_int(at, "antialias", 0) != 0 || graph_attr_int(at, "exclude_outside", 0) != 0)
        return graph_bad(at, "antialias and exclude_outside must be 0");
    if (!graph_attr_is(at, "keep_aspect_ratio_policy", "stretch", "stretch"))
        return graph_bad(at, "keep_aspect_ratio_policy must be stretch");
    at->call->resize_place = (enum tier_resize_place)place;
    at->call->resize_nearest = (enum tier_resize_nearest)round;
    return TIER_OK;
}

/* Which axis the i-th scale or size is of. */
static enum tier_status resize_axes(struct graph_at *at, size_t n, unsigned axes[TIER_DIMS_MAX]) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;
    const attr_proto *a = graph_attr(at->step->np, "axes");
    unsigned seen = 0;

    if (n != (a ? a->n_ints : x->rank) || n > x->rank)
        return graph_bad(at, "%zu scales or sizes for an input of %u dimensions", n, x->rank);
    for (size_t i = 0; i < n; i++) {
        TIER_TRY(graph_axis(at, a ? a->ints[i] : (int64_t)i, x->rank, &axes[i]));
        if (seen >> axes[i] & 1)
            return graph_bad(at, "axis %u is given twice", axes[i]);
        seen |= 1u << axes[i];
    }
    return TIER_OK;
}

static enum tier_status apply_scales(struct graph_at *at, const float *scales, const unsigned *axes,
                                     size_t n, uint64_t *dims) {
    for (size_t i = 0; i < n; i++) {
        if (!(scales[i] > 0) || !(scales[i] <= GRAPH_WINDOW_MAX))
            return graph_bad(at, "a scale of %g", (double)scales[i]);
        at->call->scale[axes[i]] = scales[i];
        float made = floorf((float)dims[axes[i]] * scales[i]); /* in float, as onnxruntime */
        dims[axes[i]] = made < 1e12f ? (uint64_t)made : UINT64_C(1) << 40;
    }
    return TIER_OK;
}

static enum tier_status apply_sizes(struct graph_at *at, const int64_t *sizes, const unsigned *axes,
                                    size_t n, uint64_t *dims) {
    for (size_t i = 0; i < n; i++) {
        uint64_t in = dims[axes[i]];
        if (sizes[i] < 1 || (uint64_t)sizes[i] > TIER_ELEMENTS_MAX || in == 0)
            return graph_bad(at, "a size of %" PRId64, sizes[i]);
        at->call->scale[axes[i]] = (double)sizes[i] / (double)in;
        dims[axes[i]] = (uint64_t)sizes[i];
    }
    return TIER_OK;
}

enum tier_status graph_shape_resize(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;
    size_t scales_at = at->opset < 11 ? 1 : 2, n, sizes_n;
    uint64_t dims[TIER_DIMS_MAX];
    unsigned axes[TIER_DIMS_MAX] = {0};
    const int64_t *sizes;
    const float *scales;

    TIER_TRY(need_image(at));
    TIER_TRY(read_places(at));
    TIER_TRY(graph_float_list(at, scales_at, "scales", &scales, &n));
    TIER_TRY(graph_int_list(at, 3, NULL, &sizes, &sizes_n));
    memcpy(dims, x->dims, sizeof dims);
    for (unsigned d = 0; d < x->rank; d++)
        at->call->scale[d] = 1;
    if ((n > 0) == (sizes_n > 0))
        return graph_bad(at, "needs scales or sizes, and not both");
    TIER_TRY(resize_axes(at, n ? n : sizes_n, axes));
    if (n > 0)
        TIER_TRY(apply_scales(at, scales, axes, n, dims));
    else
        TIER_TRY(apply_sizes(at, sizes, axes, sizes_n, dims));
    if (dims[0] != x->dims[0] || dims[1] != x->dims[1])
        return graph_bad(at, "resizes batch or channels: only what comes after them may be");
    return graph_give(at, 0, TIER_TYPE_FLOAT, x->rank, dims);
}

/* ---- Pad ----------------------------------------------------------------------------------- */

static enum tier_status read_pad_mode(struct graph_at *at) {
    static const char *const modes[] = {
        [TIER_PAD_CONSTANT] = "constant", [TIER_PAD_REFLECT] = "reflect", [TIER_PAD_EDGE] = "edge"};
    for (int i = 0; i < 3; i++) {
        if (!graph_attr_is(at, "mode", modes[i], "constant"))
            continue;
        at->call->pad_mode = (enum tier_pad_mode)i;
        return TIER_OK;
    }
    return graph_bad(at, "mode must be constant, reflect or edge");
}

enum tier_status graph_shape_pad(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    uint64_t dims[TIER_DIMS_MAX];
    const int64_t *pads, *axes;
    size_t n, axes_n;

    TIER_TRY(read_pad_mode(at));
    TIER_TRY(graph_int_list(at, 1, "pads", &pads, &n));
    TIER_TRY(graph_int_list(at, 3, NULL, &axes, &axes_n));
    at->call->alpha = graph_attr_float(at, "value", 0);
    TIER_TRY(graph_scalar(at, 2, &at->call->alpha));
    size_t half = axes ? axes_n : x->shape.rank;
    if (n != 2 * half || half > x->shape.rank)
        return graph_bad(at, "pads has %zu numbers for %zu dimensions", n, half);
    memcpy(dims, x->shape.dims, sizeof dims);
    unsigned seen = 0;
    for (size_t i = 0; i < half; i++) {
        unsigned d;
        TIER_TRY(graph_axis(at, axes ? axes[i] : (int64_t)i, x->shape.rank, &d));
        if (pads[i] < 0 || pads[i] > GRAPH_WINDOW_MAX || pads[half + i] < 0 ||
            pads[half + i] > GRAPH_WINDOW_MAX || (seen >> d & 1))
            return graph_bad(at, "pads must be 0 to %d, once for each axis", GRAPH_WINDOW_MAX);
        if (at->call->pad_mode == TIER_PAD_REFLECT &&
            ((uint64_t)pads[i] >= dims[d] || (uint64_t)pads[half + i] >= dims[d]))
            return graph_bad(at, "reflects more of axis %u than is there", d);
        seen |= 1u << d;
        at->call->start[d] = pads[i];
        dims[d] += (uint64_t)(pads[i] + pads[half + i]);
    }
    return graph_give(at, 0, x->type, x->shape.rank, dims);
}
