/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of operators that compute element by element, multiply, normalise and reduce; and of those
 * that are only folded. A rule checks everything that whoever executes the call would rely on.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static enum tier_status give_as(const struct graph_at *at, const struct graph_tensor *x) {
    return graph_give(at, 0, x->type, x->shape.rank, x->shape.dims);
}

static enum tier_status need_float(const struct graph_at *at, size_t i) {
    const struct graph_tensor *t = graph_in(at, i);

    if (t && t->type != TIER_TYPE_FLOAT)
        return graph_bad(at, "'%.80s' holds integers: floats are needed", graph_in_name(at, i));
    return TIER_OK;
}

static bool is_op(const struct graph_at *at, const char *text) {
    return strcmp(at->step->rule->text, text) == 0;
}

/* Input i, where it is given, is [n]. */
static enum tier_status need_vector(const struct graph_at *at, size_t i, uint64_t n) {
    const struct graph_tensor *t = graph_in(at, i);

    if (t && (t->type != TIER_TYPE_FLOAT || t->shape.rank != 1 || t->shape.dims[0] != n))
        return graph_bad(at, "'%.80s' must be float [%" PRIu64 "]", graph_in_name(at, i), n);
    return TIER_OK;
}

/* ---- element by element -------------------------------------------------------------------- */

enum tier_status graph_shape_same(struct graph_at *at) {
    return give_as(at, graph_in(at, 0));
}

enum tier_status graph_shape_relu(struct graph_at *at) {
    TIER_TRY(need_float(at, 0));
    return graph_shape_same(at);
}

enum tier_status graph_shape_alpha(struct graph_at *at) {
    at->call->alpha = graph_attr_float(at, "alpha", is_op(at, "Elu") ? 1.0f : 0.01f);
    return graph_shape_relu(at);
}

enum tier_status graph_shape_hard_sigmoid(struct graph_at *at) {
    at->call->alpha = graph_attr_float(at, "alpha", 0.2f);
    at->call->beta = graph_attr_float(at, "beta", 0.5f);
    return graph_shape_relu(at);
}

enum tier_status graph_shape_hard_swish_gate(struct graph_at *at) {
    at->call->alpha = 1.0f / 6;
    at->call->beta = 0.5f;
    return graph_shape_relu(at);
}

enum tier_status graph_shape_gelu(struct graph_at *at) {
    at->call->tanh_form = graph_attr_is(at, "approximate", "tanh", "none");
    if (!at->call->tanh_form && !graph_attr_is(at, "approximate", "none", "none"))
        return graph_bad(at, "approximate must be none or tanh");
    return graph_shape_relu(at);
}

enum tier_status graph_shape_clip(struct graph_at *at) {
    at->call->alpha = graph_attr_float(at, "min", -INFINITY);
    at->call->beta = graph_attr_float(at, "max", INFINITY);
    TIER_TRY(graph_scalar(at, 1, &at->call->alpha));
    TIER_TRY(graph_scalar(at, 2, &at->call->beta));
    return graph_shape_relu(at);
}

enum tier_status graph_broadcast(const struct graph_at *at, const struct tier_shape *a,
                                 const struct tier_shape *b, struct tier_shape *made) {
    char text_a[GRAPH_SHAPE_TEXT], text_b[GRAPH_SHAPE_TEXT];
    unsigned n = a->rank > b->rank ? a->rank : b->rank;

    for (unsigned d = 0; d < n; d++) { /* from the last dimension on */
        uint64_t x = d < a->rank ? a->dims[a->rank - 1 - d] : 1;
        uint64_t y = d < b->rank ? b->dims[b->rank - 1 - d] : 1;
        if (x != y && x != 1 && y != 1)
            return graph_bad(at, "the shapes %s and %s do not broadcast",
                             graph_shape_text(a, text_a), graph_shape_text(b, text_b));
        made->dims[n - 1 - d] = x == 1 ? y : x;
    }
    made->rank = n;
    return TIER_OK;
}

/* Two operands of one type, broadcast. */
static enum tier_status pair(struct graph_at *at, size_t i, enum tier_type type) {
    const struct graph_tensor *a = graph_in(at, i), *b = graph_in(at, i + 1);
    struct tier_shape made = {0};

    if (a->type != b->type)
        return graph_bad(at, "'%.80s' and '%.80s' have different types", graph_in_name(at, i),
                         graph_in_name(at, i + 1));
    TIER_TRY(graph_broadcast(at, &a->shape, &b->shape, &made));
    return graph_give(at, 0, type, made.rank, made.dims);
}

enum tier_status graph_shape_binary(struct graph_at *at) {
    return pair(at, 0, graph_in(at, 0)->type);
}

enum tier_status graph_shape_compare(struct graph_at *at) {
    return pair(at, 0, TIER_TYPE_INT);
}

enum tier_status graph_shape_pow(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0), *y = graph_in(at, 1);
    struct tier_shape made = {0};

    TIER_TRY(graph_broadcast(at, &x->shape, &y->shape, &made));
    if (!graph_constant(x) || !graph_constant(y)) {
        TIER_TRY(graph_scalar(at, 1, &at->call->alpha));
        if (made.rank != x->shape.rank)
            return graph_bad(at, "the exponent '%.80s' must be one number", graph_in_name(at, 1));
    }
    return graph_give(at, 0, x->type, made.rank, made.dims);
}

enum tier_status graph_shape_prelu(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0), *slope = graph_in(at, 1);
    struct tier_shape made = {0};

    TIER_TRY(need_float(at, 1));
    TIER_TRY(graph_broadcast(at, &x->shape, &slope->shape, &made));
    if (!graph_same_shape(&made, &x->shape))
        return graph_bad(at, "the slope '%.80s' must broadcast to the input", graph_in_name(at, 1));
    return graph_shape_relu(at);
}

enum tier_status graph_shape_dropout(struct graph_at *at) {
    at->call->alpha = graph_attr_float(at, "ratio", 0.5f);
    TIER_TRY(graph_scalar(at, 1, &at->call->alpha));
    if (!(at->call->alpha >= 0 && at->call->alpha < 1))
        return graph_bad(at, "the ratio is %g: 0 up to but not 1 would be right",
                         (double)at->call->alpha);
    return graph_shape_relu(at);
}

/* ---- products ------------------------------------------------------------------------------ */

enum tier_status graph_shape_gemm(struct graph_at *at) {
    const struct graph_tensor *a = graph_in(at, 0), *b = graph_in(at, 1), *c = graph_in(at, 2);
    struct tier_shape made = {0}, want = {.rank = 2};
    char text_a[GRAPH_SHAPE_TEXT], text_b[GRAPH_SHAPE_TEXT];

    for (size_t i = 0; i < 3; i++)
        TIER_TRY(need_float(at, i));
    TIER_TRY(graph_attr_flag(at, "transA", false, &at->call->trans_a));
    TIER_TRY(graph_attr_flag(at, "transB", false, &at->call->trans_b));
    at->call->alpha = graph_attr_float(at, "alpha", 1.0f);
    at->call->beta = graph_attr_float(at, "beta", 1.0f);
    if (a->shape.rank != 2 || b->shape.rank != 2)
        return graph_bad(at, "multiplies %s by %s: two matrices are needed",
                         graph_shape_text(&a->shape, text_a), graph_shape_text(&b->shape, text_b));
    want.dims[0] = a->shape.dims[at->call->trans_a ? 1 : 0];
    want.dims[1] = b->shape.dims[at->call->trans_b ? 0 : 1];
    uint64_t k = a->shape.dims[at->call->trans_a ? 0 : 1];
    uint64_t rows = b->shape.dims[at->call->trans_b ? 1 : 0];
    if (k != rows)
        return graph_bad(at, "multiplies %" PRIu64 " columns by '%.80s', which takes %" PRIu64, k,
                         graph_in_name(at, 1), rows);
    if (c) {
        TIER_TRY(graph_broadcast(at, &want, &c->shape, &made));
        if (!graph_same_shape(&made, &want))
            return graph_bad(at,
                             "adds '%.80s' of shape %s, which does not broadcast to the product",
                             graph_in_name(at, 2), graph_shape_text(&c->shape, text_a));
    }
    return graph_give(at, 0, TIER_TYPE_FLOAT, 2, want.dims);
}

/* As numpy: a vector is a row on the left and a column on the right, and its dimension goes. */
enum tier_status graph_shape_matmul(struct graph_at *at) {
    const struct tier_shape *a = &graph_in(at, 0)->shape, *b = &graph_in(at, 1)->shape;
    char text_a[GRAPH_SHAPE_TEXT], text_b[GRAPH_SHAPE_TEXT];
    struct tier_shape lead_a = *a, lead_b = *b;
    struct tier_shape made = {0};

    TIER_TRY(need_float(at, 0));
    TIER_TRY(need_float(at, 1));
    uint64_t k = a->rank ? a->dims[a->rank - 1] : 0;
    uint64_t rows = b->rank > 1 ? b->dims[b->rank - 2] : b->rank ? b->dims[0] : 0;
    if (a->rank == 0 || b->rank == 0 || k != rows)
        return graph_bad(at, "multiplies %s by %s, which do not fit", graph_shape_text(a, text_a),
                         graph_shape_text(b, text_b));
    lead_a.rank = a->rank > 2 ? a->rank - 2 : 0;
    lead_b.rank = b->rank > 2 ? b->rank - 2 : 0;
    TIER_TRY(graph_broadcast(at, &lead_a, &lead_b, &made));
    if (a->rank > 1)
        made.dims[made.rank++] = a->dims[a->rank - 2];
    if (b->rank > 1)
        made.dims[made.rank++] = b->dims[b->rank - 1];
    return graph_give(at, 0, TIER_TYPE_FLOAT, made.rank, made.dims);
}

/* ---- softmax and norms --------------------------------------------------------------------- */

/* Before operator set 13 everything from the axis on is one dimension: the same thing where at most
 * one of those is longer than 1. */
enum tier_status graph_shape_softmax(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;

    TIER_TRY(graph_axis(at, graph_attr_int(at, "axis", at->opset < 13 ? 1 : -1), x->rank,
                        &at->call->axis));
    if (at->opset < 13) {
        unsigned longer = 0, axis = at->call->axis;
        for (unsigned d = axis; d < x->rank; d++) {
            if (x->dims[d] == 1)
                continue;
            longer++;
            at->call->axis = d;
        }
        if (longer > 1)
            return graph_bad(at,
                             "before operator set 13 it runs over all dimensions from axis %u on "
                             "at once: only one of them may be longer than 1; export with "
                             "operator set 13 or later",
                             axis);
    }
    return graph_shape_relu(at);
}

/* [batch, channels, ...]; a scale and a bias for each channel. */
static enum tier_status norm(struct graph_at *at, unsigned rank_min) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;

    if (x->rank < rank_min || x->rank > TIER_SPATIAL_MAX + 2)
        return graph_bad(at, "an input of %u dimensions: %u to %d are read", x->rank, rank_min,
                         TIER_SPATIAL_MAX + 2);
    at->call->spatial = x->rank - 2;
    at->call->epsilon = graph_attr_float(at, "epsilon", 1e-5f);
    if (!(at->call->epsilon >= 0))
        return graph_bad(at, "epsilon is negative");
    for (size_t i = 1; i < graph_in_count(at); i++)
        TIER_TRY(need_vector(at, i, x->dims[1]));
    return graph_shape_relu(at);
}

enum tier_status graph_shape_batch_norm(struct graph_at *at) {
    bool ignored;

    TIER_TRY(graph_attr_flag(at, "training_mode", false, &ignored));
    if (graph_attr_int(at, "spatial", 1) != 1)
        return graph_bad(at, "spatial must be 1");
    at->call->momentum = graph_attr_float(at, "momentum", 0.9f);
    if (!(at->call->momentum >= 0 && at->call->momentum <= 1))
        return graph_bad(at, "momentum must be 0 to 1");
    for (size_t i = 3; i < 5; i++) {
        const struct tier_graph_value *v = &at->graph->values[at->step->all[i]];
        if (v->kind != TIER_VALUE_PARAM)
            return graph_bad(at, "the running statistic '%.80s' must be an initialiser", v->name);
    }
    return norm(at, 2);
}

enum tier_status graph_shape_instance_norm(struct graph_at *at) {
    return norm(at, 3);
}

enum tier_status graph_shape_group_norm(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;
    int64_t groups = graph_attr_int(at, "num_groups", 0);

    if (x->rank < 2 || groups < 1 || x->dims[1] % (uint64_t)groups != 0)
        return graph_bad(at, "num_groups %" PRId64 " does not divide the channels", groups);
    if (at->opset < 21 && (uint64_t)groups != x->dims[1])
        return graph_bad(at, "before operator set 21 it has a scale for each group, which is not "
                             "read: export with operator set 21 or later");
    at->call->group = (uint64_t)groups;
    return norm(at, 3);
}

enum tier_status graph_shape_layer_norm(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;

    TIER_TRY(graph_axis(at, graph_attr_int(at, "axis", -1), x->rank, &at->call->axis));
    at->call->epsilon = graph_attr_float(at, "epsilon", 1e-5f);
    if (!(at->call->epsilon >= 0))
        return graph_bad(at, "epsilon is negative");
    unsigned axis = at->call->axis, n = x->rank - axis;
    for (size_t i = 1; i < 3 && graph_in(at, i); i++) {
        const struct tier_shape *s = &graph_in(at, i)->shape;
        TIER_TRY(need_float(at, i));
        if (s->rank != n || memcmp(s->dims, x->dims + axis, n * sizeof s->dims[0]) != 0)
            return graph_bad(at, "'%.80s' must have the shape of the last %u dimensions",
                             graph_in_name(at, i), n);
    }
    return graph_shape_relu(at);
}

/* ---- reductions ---------------------------------------------------------------------------- */

static enum tier_status give_reduced(struct graph_at *at, bool keep) {
    const struct graph_tensor *x = graph_in(at, 0);
    uint64_t dims[TIER_DIMS_MAX];
    unsigned rank = 0;

    for (unsigned d = 0; d < x->shape.rank; d++) {
        bool reduced = at->call->axes >> d & 1;
        if (!reduced)
            dims[rank++] = x->shape.dims[d];
        else if (keep)
            dims[rank++] = 1;
    }
    return graph_give(at, 0, x->type, rank, dims);
}

enum tier_status graph_shape_reduce(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;
    const int64_t *axes;
    size_t n;
    bool keep, noop;

    TIER_TRY(graph_attr_flag(at, "keepdims", true, &keep));
    TIER_TRY(graph_attr_flag(at, "noop_with_empty_axes", false, &noop));
    TIER_TRY(graph_int_list(at, 1, "axes", &axes, &n));
    if (n == 0 && !noop)
        at->call->axes = (1u << x->rank) - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned axis;
        TIER_TRY(graph_axis(at, axes[i], x->rank, &axis));
        if (at->call->axes >> axis & 1)
            return graph_bad(at, "axis %u is given twice", axis);
        at->call->axes |= 1u << axis;
    }
    return give_reduced(at, keep);
}

enum tier_status graph_shape_global_average(struct graph_at *at) {
    const struct tier_shape *x = &graph_in(at, 0)->shape;

    TIER_TRY(need_float(at, 0));
    if (x->rank < 3)
        return graph_bad(at, "an input of %u dimensions: at least 3 are needed", x->rank);
    at->call->axes = (1u << x->rank) - 4; /* all but the first two */
    return give_reduced(at, true);
}

/* ---- only folded --------------------------------------------------------------------------- */

enum tier_status graph_shape_where(struct graph_at *at) {
    const struct graph_tensor *c = graph_in(at, 0), *a = graph_in(at, 1), *b = graph_in(at, 2);
    struct tier_shape both = {0}, made = {0};

    if (c->type != TIER_TYPE_INT || a->type != b->type)
        return graph_bad(at, "the condition must be of integers, both choices of one type");
    TIER_TRY(graph_broadcast(at, &a->shape, &b->shape, &both));
    TIER_TRY(graph_broadcast(at, &both, &c->shape, &made));
    return graph_give(at, 0, a->type, made.rank, made.dims);
}

/* How many steps lead from start up to, or down to, limit. */
enum tier_status graph_shape_range(struct graph_at *at) {
    const struct graph_tensor *t[3];
    uint64_t n = 0;

    for (size_t i = 0; i < 3; i++) {
        t[i] = graph_in(at, i);
        if (!graph_constant(t[i]) || t[i]->shape.elements != 1 || t[i]->type != t[0]->type)
            return graph_bad(at, "'%.80s' must be one constant number of one type with the others",
                             graph_in_name(at, i));
    }
    if (t[0]->i) {
        int64_t start = t[0]->i[0], limit = t[1]->i[0], step = t[2]->i[0];
        if (step == 0)
            return graph_bad(at, "a step of 0");
        uint64_t far =
            step > 0 ? (uint64_t)limit - (uint64_t)start : (uint64_t)start - (uint64_t)limit;
        uint64_t each = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
        if (step > 0 ? limit > start : limit < start)
            n = (far - 1) / each + 1;
    } else {
        double each = ceil(((double)t[1]->f[0] - t[0]->f[0]) / t[2]->f[0]);
        if (!isfinite(each))
            return graph_bad(at, "a step of 0");
        n = each > 0 ? each < 1e15 ? (uint64_t)each : UINT64_C(1) << 50 : 0;
    }
    return graph_give(at, 0, t[0]->type, 1, &n);
}

static int64_t clamp(int64_t v, int64_t rank) {
    v = v < 0 ? v + rank : v;
    return v < 0 ? 0 : v > rank ? rank : v;
}

/* Shape's dimensions from call.start[0], as many as the output has. */
enum tier_status graph_shape_shape_of(struct graph_at *at) {
    int64_t rank = graph_in(at, 0)->shape.rank;
    int64_t start = graph_attr_int(at, "start", 0), end = graph_attr_int(at, "end", rank);

    if (start < -TIER_DIMS_MAX || end < -TIER_DIMS_MAX)
        start = start < -TIER_DIMS_MAX ? -rank : start, end = end < -TIER_DIMS_MAX ? -rank : end;
    start = clamp(start, rank);
    end = clamp(end, rank);
    uint64_t n = end > start ? (uint64_t)(end - start) : 0;
    at->call->start[0] = start;
    return graph_give(at, 0, TIER_TYPE_INT, 1, &n);
}

enum tier_status graph_shape_size_of(struct graph_at *at) {
    return graph_give(at, 0, TIER_TYPE_INT, 0, NULL);
}

static enum tier_status tensor_type(const struct graph_at *at, const tensor_proto *t,
                                    enum tier_type *out) {
    switch (t->data_type) {
    case ONNX_FLOAT:
    case ONNX_DOUBLE:
        *out = TIER_TYPE_FLOAT;
        return TIER_OK;
    case ONNX_INT32:
    case ONNX_INT64:
    case ONNX_BOOL:
        *out = TIER_TYPE_INT;
        return TIER_OK;
    default:
        return graph_bad(at, "element type %d is not read", t->data_type);
    }
}

enum tier_status graph_shape_constant(struct graph_at *at) {
    const attr_proto *a = at->step->np->n_attribute == 1 ? at->step->np->attribute[0] : NULL;
    struct tier_shape shape = {0};
    enum tier_type type = TIER_TYPE_FLOAT;

    if (!a)
        return graph_bad(at, "must have exactly one attribute, its value");
    uint64_t n = a->n_ints + a->n_floats; /* of the one list that it may have */
    if (a->t) {
        TIER_TRY(tensor_type(at, a->t, &type));
        TIER_TRY(graph_tensor_shape(a->t, at->node->name, &shape, at->err));
        return graph_give(at, 0, type, shape.rank, shape.dims);
    }
    if (strcmp(a->name, "value_int") == 0 || strcmp(a->name, "value_ints") == 0)
        type = TIER_TYPE_INT;
    n = type == TIER_TYPE_INT ? a->n_ints : a->n_floats;
    bool list = a->name[strlen(a->name) - 1] == 's';
    return graph_give(at, 0, type, list ? 1 : 0, &n);
}

enum tier_status graph_shape_constant_of_shape(struct graph_at *at) {
    const attr_proto *a = graph_attr(at->step->np, "value");
    enum tier_type type = TIER_TYPE_FLOAT;
    uint64_t dims[TIER_DIMS_MAX];
    const int64_t *list;
    size_t n;

    if (a)
        TIER_TRY(tensor_type(at, a->t, &type));
    TIER_TRY(graph_int_list(at, 0, NULL, &list, &n));
    if (n > TIER_DIMS_MAX)
        return graph_bad(at, "a shape of %zu dimensions: %d are the most", n, TIER_DIMS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (list[i] < 0)
            return graph_bad(at, "a dimension of %" PRId64, list[i]);
        dims[i] = (uint64_t)list[i];
    }
    return graph_give(at, 0, type, (unsigned)n, dims);
}

/* Integers that come from the data may become floats where they never were any. */
static enum tier_status cast_to(struct graph_at *at, enum tier_type to) {
    const struct graph_tensor *x = graph_in(at, 0);

    if (!graph_constant(x) && to == TIER_TYPE_FLOAT && x->type == TIER_TYPE_INT &&
        !at->graph->input_is_int)
        return graph_bad(at, "from integers to floats is allowed on constants only");
    return graph_give(at, 0, to, x->shape.rank, x->shape.dims);
}

enum tier_status graph_shape_cast(struct graph_at *at) {
    int64_t to = graph_attr_int(at, "to", 0);
    bool to_float = to == ONNX_FLOAT || to == ONNX_DOUBLE;

    if (!to_float && to != ONNX_INT32 && to != ONNX_INT64 && to != ONNX_BOOL)
        return graph_bad(at,
                         "element type %" PRId64
                         ": float (1), int32 (6), int64 (7), bool (9) and double (11) are allowed",
                         to);
    if (!graph_constant(graph_in(at, 0)) && to == ONNX_BOOL)
        return graph_bad(at, "to bool is allowed on constants only");
    return cast_to(at, to_float ? TIER_TYPE_FLOAT : TIER_TYPE_INT);
}

enum tier_status graph_shape_cast_like(struct graph_at *at) {
    return cast_to(at, graph_in(at, 1)->type);
}
