/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of the operators that move elements without changing them. They serve integers as well as
 * floats, for shapes are cut and put together with them.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <string.h>

/* ---- the same elements in another shape ---------------------------------------------------- */

static enum tier_status bad_reshape(const struct graph_at *at, const struct tier_shape *x,
                                    const int64_t *list, size_t n) {
    struct tier_shape wanted = {.rank = (unsigned)n};
    char text_x[GRAPH_SHAPE_TEXT], text[GRAPH_SHAPE_TEXT];
    bool minus = false;

    for (size_t i = 0; i < n; i++) {
        minus |= list[i] < 0;
        wanted.dims[i] = list[i] < 0 ? 0 : (uint64_t)list[i];
    }
    return graph_bad(
        at,
        "%s cannot become %s%s; is the batch fixed in it? Then export the model with a "
        "dynamic batch axis",
        graph_shape_text(x, text_x), graph_shape_text(&wanted, text),
        minus ? " (0 for what is left over)" : "");
}

enum tier_status graph_shape_reshape(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    uint64_t dims[TIER_DIMS_MAX], known = 1;
    const int64_t *list;
    int rest = -1;
    bool allow_zero;
    size_t n;

    TIER_TRY(graph_attr_flag(at, "allowzero", false, &allow_zero));
    TIER_TRY(graph_int_list(at, 1, NULL, &list, &n));
    if (n > TIER_DIMS_MAX)
        return graph_bad(at, "a shape of %zu dimensions: %d are the most", n, TIER_DIMS_MAX);
    for (size_t i = 0; i < n; i++) {
        bool copied = list[i] == 0 && !allow_zero;
        if (list[i] < -1 || (list[i] == -1 && rest >= 0) || (copied && i >= x->shape.rank))
            return graph_bad(at, "%" PRId64 " as dimension %zu of a shape", list[i], i);
        if (list[i] == -1) {
            rest = (int)i;
            continue;
        }
        dims[i] = copied ? x->shape.dims[i] : (uint64_t)list[i];
        if (__builtin_mul_overflow(known, dims[i], &known))
            return bad_reshape(at, &x->shape, list, n);
    }
    if (rest >= 0) {
        if (known == 0 || x->shape.elements % known != 0)
            return bad_reshape(at, &x->shape, list, n);
        dims[rest] = x->shape.elements / known;
    } else if (known != x->shape.elements) {
        return bad_reshape(at, &x->shape, list, n);
    }
    return graph_give(at, 0, x->type, (unsigned)n, dims);
}

enum tier_status graph_shape_flatten(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    int64_t axis = graph_attr_int(at, "axis", 1), rank = x->shape.rank;
    uint64_t dims[2] = {1, 1};

    if (axis < -rank || axis > rank)
        return graph_bad(at, "axis %" PRId64 " of a tensor with %" PRId64 " dimensions", axis,
                         rank);
    axis = axis < 0 ? axis + rank : axis;
    for (int64_t d = 0; d < rank; d++) /* the elements are bounded already */
        dims[d < axis ? 0 : 1] *= x->shape.dims[d];
    return graph_give(at, 0, x->type, 2, dims);
}

enum tier_status graph_shape_squeeze(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    uint64_t dims[TIER_DIMS_MAX];
    const int64_t *axes;
    unsigned gone = 0, rank = 0;
    size_t n;

    TIER_TRY(graph_int_list(at, 1, "axes", &axes, &n));
    for (size_t i = 0; i < n; i++) {
        unsigned axis;
        TIER_TRY(graph_axis(at, axes[i], x->shape.rank, &axis));
        if (x->shape.dims[axis] != 1)
            return graph_bad(at, "axis %u has %" PRIu64 " elements, not 1", axis,
                             x->shape.dims[axis]);
        gone |= 1u << axis;
    }
    for (unsigned d = 0; d < x->shape.rank; d++)
        if (axes ? !(gone >> d & 1) : x->shape.dims[d] != 1)
            dims[rank++] = x->shape.dims[d];
    return graph_give(at, 0, x->type, rank, dims);
}

enum tier_status graph_shape_unsqueeze(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    uint64_t dims[TIER_DIMS_MAX];
    const int64_t *axes;
    unsigned new = 0, from = 0;
    size_t n;

    TIER_TRY(graph_int_list(at, 1, "axes", &axes, &n));
    if (!axes || n > TIER_DIMS_MAX - x->shape.rank)
        return graph_bad(at, "%zu new axes for a tensor of %u dimensions", n, x->shape.rank);
    unsigned rank = x->shape.rank + (unsigned)n;
    for (size_t i = 0; i < n; i++) {
        unsigned axis;
        TIER_TRY(graph_axis(at, axes[i], rank, &axis));
        if (new >> axis & 1)
            return graph_bad(at, "axis %u is given twice", axis);
        new |= 1u << axis;
    }
    for (unsigned d = 0; d < rank; d++)
        dims[d] = new >> d & 1 ? 1 : x->shape.dims[from++];
    return graph_give(at, 0, x->type, rank, dims);
}

/* ---- elements elsewhere -------------------------------------------------------------------- */

enum tier_status graph_shape_expand(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    struct tier_shape wanted = {0}, made = {0};
    const int64_t *list;
    size_t n;

    TIER_TRY(graph_int_list(at, 1, NULL, &list, &n));
    if (n > TIER_DIMS_MAX)
        return graph_bad(at, "a shape of %zu dimensions: %d are the most", n, TIER_DIMS_MAX);
    wanted.rank = (unsigned)n;
    for (size_t i = 0; i < n; i++) {
        if (list[i] < 0)
            return graph_bad(at, "%" PRId64 " as dimension %zu of a shape", list[i], i);
        wanted.dims[i] = (uint64_t)list[i];
    }
    TIER_TRY(graph_broadcast(at, &x->shape, &wanted, &made));
    return graph_give(at, 0, x->type, made.rank, made.dims);
}

enum tier_status graph_shape_transpose(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    const attr_proto *a = graph_attr(at->step->np, "perm");
    unsigned rank = x->shape.rank, seen = 0;
    uint64_t dims[TIER_DIMS_MAX];

    if (a && a->n_ints != rank)
        return graph_bad(at, "perm has %zu numbers for %u dimensions", a->n_ints, rank);
    for (unsigned d = 0; d < rank; d++) {
        int64_t from = a ? a->ints[d] : (int64_t)rank - 1 - d;
        if (from < 0 || from >= (int64_t)rank || (seen >> from & 1))
            return graph_bad(at, "perm is no order of %u axes", rank);
        seen |= 1u << from;
        at->call->perm[d] = (unsigned)from;
        dims[d] = x->shape.dims[from];
    }
    return graph_give(at, 0, x->type, rank, dims);
}

enum tier_status graph_shape_concat(struct graph_at *at) {
    const struct graph_tensor *first = graph_in(at, 0);
    struct tier_shape made = first->shape;
    char text[GRAPH_SHAPE_TEXT];

    if (!graph_attr(at->step->np, "axis"))
        return graph_bad(at, "axis is missing");
    TIER_TRY(graph_axis(at, graph_attr_int(at, "axis", 0), made.rank, &at->call->axis));
    unsigned axis = at->call->axis;
    for (size_t i = 1; i < graph_in_count(at); i++) {
        const struct graph_tensor *x = graph_in(at, i);
        if (!x)
            return graph_bad(at, "input %zu has no name", i);
        bool fits = x->type == first->type && x->shape.rank == made.rank;
        for (unsigned d = 0; d < made.rank && fits; d++)
            fits = d == axis || x->shape.dims[d] == made.dims[d];
        if (!fits)
            return graph_bad(at, "'%.80s' of shape %s does not fit the others along axis %u",
                             graph_in_name(at, i), graph_shape_text(&x->shape, text), axis);
        made.dims[axis] += x->shape.dims[axis]; /* 2^20 times 2^36 at most */
    }
    return graph_give(at, 0, first->type, made.rank, made.dims);
}

enum tier_status graph_shape_split(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    size_t pieces = at->node->out_count, n;
    struct tier_shape piece = x->shape;
    const int64_t *sizes;
    uint64_t left;

    TIER_TRY(graph_axis(at, graph_attr_int(at, "axis", 0), x->shape.rank, &at->call->axis));
    unsigned axis = at->call->axis;
    TIER_TRY(graph_int_list(at, 1, "split", &sizes, &n));
    if (sizes && n != pieces)
        return graph_bad(at, "%zu sizes for %zu outputs", n, pieces);
    if (graph_attr_int(at, "num_outputs", (int64_t)pieces) != (int64_t)pieces)
        return graph_bad(at, "num_outputs must be %zu, the number of its outputs", pieces);
    left = x->shape.dims[axis];
    uint64_t each = left / pieces + (left % pieces != 0);
    if (!sizes && left % pieces != 0 && at->opset < 18)
        return graph_bad(at, "%" PRIu64 " elements in %zu equal pieces", left, pieces);
    for (size_t k = 0; k < pieces; k++) {
        uint64_t size = sizes ? (uint64_t)sizes[k] : left < each ? left : each;
        if ((sizes && sizes[k] < 0) || size > left)
            return graph_bad(at, "the pieces are larger than axis %u", axis);
        piece.dims[axis] = size;
        left -= size;
        TIER_TRY(graph_give(at, k, x->type, piece.rank, piece.dims));
    }
    if (left > 0)
        return graph_bad(at, "the pieces leave %" PRIu64 " elements over", left);
    return TIER_OK;
}

static int64_t within(int64_t v, int64_t low, int64_t high) {
    return v < low ? low : v > high ? high : v;
}

/* Of one axis: from where, in which steps, and how many elements. */
static enum tier_status slice_axis(struct graph_at *at, unsigned d, int64_t start, int64_t end,
                                   int64_t step, uint64_t *dim) {
    int64_t n = (int64_t)*dim, far;

    if (step == 0 || step == INT64_MIN)
        return graph_bad(at, "a step of %" PRId64, step);
    start = start < 0 ? start + n : start;
    end = end < 0 ? end + n : end;
    if (step > 0) {
        start = within(start, 0, n);
        far = within(end, 0, n) - start;
    } else {
        start = n > 0 ? within(start, 0, n - 1) : -1;
        far = start - within(end, -1, n - 1);
    }
    at->call->start[d] = start;
    at->call->step[d] = step;
    *dim = far > 0 ? (uint64_t)((far - 1) / (step > 0 ? step : -step) + 1) : 0;
    return TIER_OK;
}

enum tier_status graph_shape_slice(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    const int64_t *starts, *ends, *axes, *steps;
    size_t n, ends_n, axes_n, steps_n;
    uint64_t dims[TIER_DIMS_MAX];
    unsigned seen = 0;

    TIER_TRY(graph_int_list(at, 1, "starts", &starts, &n));
    TIER_TRY(graph_int_list(at, 2, "ends", &ends, &ends_n));
    TIER_TRY(graph_int_list(at, 3, "axes", &axes, &axes_n));
    TIER_TRY(graph_int_list(at, 4, NULL, &steps, &steps_n));
    if (!starts || n > x->shape.rank || ends_n != n || (axes && axes_n != n) ||
        (steps && steps_n != n))
        return graph_bad(at,
                         "starts, ends, axes and steps must have one number for each of up to "
                         "%u axes",
                         x->shape.rank);
    memcpy(dims, x->shape.dims, sizeof dims);
    for (unsigned d = 0; d < x->shape.rank; d++)
        at->call->step[d] = 1;
    for (size_t i = 0; i < n; i++) {
        unsigned d;
        TIER_TRY(graph_axis(at, axes ? axes[i] : (int64_t)i, x->shape.rank, &d));
        if (seen >> d & 1)
            return graph_bad(at, "axis %u is given twice", d);
        seen |= 1u << d;
        TIER_TRY(slice_axis(at, d, starts[i], ends[i], steps ? steps[i] : 1, &dims[d]));
    }
    return graph_give(at, 0, x->type, x->shape.rank, dims);
}

enum tier_status graph_shape_gather(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0), *index = graph_in(at, 1);
    uint64_t dims[2 * TIER_DIMS_MAX];
    unsigned rank = 0;

    TIER_TRY(graph_axis(at, graph_attr_int(at, "axis", 0), x->shape.rank, &at->call->axis));
    unsigned axis = at->call->axis;
    if (index->type != TIER_TYPE_INT)
        return graph_bad(at, "the indices '%.80s' must be integers", graph_in_name(at, 1));
    int64_t n = (int64_t)x->shape.dims[axis];
    for (uint64_t i = 0; index->i && i < index->shape.elements; i++)
        if (index->i[i] < -n || index->i[i] >= n)
            return graph_bad(at, "index %" PRId64 " of an axis with %" PRId64 " elements",
                             index->i[i], n);
    for (unsigned d = 0; d < axis; d++)
        dims[rank++] = x->shape.dims[d];
    for (unsigned d = 0; d < index->shape.rank; d++)
        dims[rank++] = index->shape.dims[d];
    for (unsigned d = axis + 1; d < x->shape.rank; d++)
        dims[rank++] = x->shape.dims[d];
    return graph_give(at, 0, x->type, rank, dims);
}
