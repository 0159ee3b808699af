/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folding of the operators that move elements. Types are 8 or 4 bytes: whatever is moved is moved
 * as bytes. Their rules have resolved the calls: everything here is in bounds.
 */
#include "tier/graph_priv.h"

#include <string.h>

static const uint8_t *bytes_of(const struct graph_tensor *t) {
    return t->i ? (const uint8_t *)t->i : (const uint8_t *)t->f;
}

static uint8_t *room_of(struct graph_tensor *t) {
    return t->i ? (uint8_t *)t->i : (uint8_t *)t->f;
}

static size_t bytes_each(const struct graph_tensor *t) {
    return t->type == TIER_TYPE_INT ? sizeof(int64_t) : sizeof(float);
}

/* Elements from one to the next along each axis. */
static void strides_of(const struct tier_shape *s, int64_t *strides) {
    int64_t n = 1;

    for (unsigned d = s->rank; d-- > 0;) {
        strides[d] = n;
        n *= (int64_t)s->dims[d];
    }
}

/* Every element of `out` in order, from `start` in steps of its axes. */
static void walk(struct graph_tensor *out, const struct graph_tensor *x, int64_t start,
                 const int64_t *steps) {
    size_t each = bytes_each(out);
    const struct tier_shape *s = &out->shape;
    uint64_t index[TIER_DIMS_MAX] = {0};
    int64_t from = start;
    uint8_t *to = room_of(out);

    for (uint64_t n = 0; n < s->elements; n++, to += each) {
        memcpy(to, bytes_of(x) + (size_t)from * each, each);
        for (unsigned d = s->rank; d-- > 0;) {
            from += steps[d];
            if (++index[d] < s->dims[d])
                break;
            from -= steps[d] * (int64_t)s->dims[d];
            index[d] = 0;
        }
    }
}

enum tier_status graph_fold_copy(struct graph_at *at) {
    struct graph_tensor *out = graph_out(at, 0);

    TIER_TRY(graph_fold_room(at, 0));
    memcpy(room_of(out), bytes_of(graph_in(at, 0)), (size_t)out->shape.elements * bytes_each(out));
    return TIER_OK;
}

enum tier_status graph_fold_expand(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    struct graph_tensor *out = graph_out(at, 0);
    int64_t strides[TIER_DIMS_MAX], steps[TIER_DIMS_MAX] = {0};
    unsigned more = out->shape.rank - x->shape.rank;

    TIER_TRY(graph_fold_room(at, 0));
    strides_of(&x->shape, strides);
    for (unsigned d = 0; d < x->shape.rank; d++)
        steps[more + d] = x->shape.dims[d] == 1 ? 0 : strides[d];
    walk(out, x, 0, steps);
    return TIER_OK;
}

enum tier_status graph_fold_transpose(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    int64_t strides[TIER_DIMS_MAX], steps[TIER_DIMS_MAX] = {0};

    TIER_TRY(graph_fold_room(at, 0));
    strides_of(&x->shape, strides);
    for (unsigned d = 0; d < x->shape.rank; d++)
        steps[d] = strides[at->call->perm[d]];
    walk(graph_out(at, 0), x, 0, steps);
    return TIER_OK;
}

enum tier_status graph_fold_slice(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    int64_t strides[TIER_DIMS_MAX], steps[TIER_DIMS_MAX] = {0}, start = 0;

    TIER_TRY(graph_fold_room(at, 0));
    if (graph_out(at, 0)->shape.elements == 0)
        return TIER_OK;
    strides_of(&x->shape, strides);
    for (unsigned d = 0; d < x->shape.rank; d++) {
        /* One element is reached without a step, which may be any number. */
        bool one = graph_out(at, 0)->shape.dims[d] == 1;
        start += at->call->start[d] * strides[d];
        steps[d] = one ? 0 : at->call->step[d] * strides[d];
    }
    walk(graph_out(at, 0), x, start, steps);
    return TIER_OK;
}

/* Elements before the axis, and from it on. */
static void around(const struct tier_shape *s, unsigned axis, size_t *before, size_t *from) {
    *before = *from = 1;
    for (unsigned d = 0; d < s->rank; d++)
        *(d < axis ? before : from) *= (size_t)s->dims[d];
}

enum tier_status graph_fold_concat(struct graph_at *at) {
    struct graph_tensor *out = graph_out(at, 0);
    size_t each = bytes_each(out), before, row, at_column = 0;

    TIER_TRY(graph_fold_room(at, 0));
    around(&out->shape, at->call->axis, &before, &row);
    for (size_t i = 0; i < graph_in_count(at); i++) {
        const struct graph_tensor *x = graph_in(at, i);
        size_t part;
        around(&x->shape, at->call->axis, &before, &part);
        for (size_t b = 0; b < before && part > 0; b++)
            memcpy(room_of(out) + (b * row + at_column) * each, bytes_of(x) + b * part * each,
                   part * each);
        at_column += part;
    }
    return TIER_OK;
}

enum tier_status graph_fold_split(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    size_t each = bytes_each(x), before, row, at_column = 0;

    around(&x->shape, at->call->axis, &before, &row);
    for (size_t k = 0; k < at->node->out_count; k++) {
        struct graph_tensor *out = graph_out(at, k);
        size_t part;
        TIER_TRY(graph_fold_room(at, k));
        around(&out->shape, at->call->axis, &before, &part);
        for (size_t b = 0; b < before && part > 0; b++)
            memcpy(room_of(out) + b * part * each, bytes_of(x) + (b * row + at_column) * each,
                   part * each);
        at_column += part;
    }
    return TIER_OK;
}

enum tier_status graph_fold_gather(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0), *index = graph_in(at, 1);
    struct graph_tensor *out = graph_out(at, 0);
    size_t each = bytes_each(x), before, from, n = (size_t)x->shape.dims[at->call->axis];

    TIER_TRY(graph_fold_room(at, 0));
    if (out->shape.elements == 0)
        return TIER_OK;
    around(&x->shape, at->call->axis, &before, &from);
    size_t inner = from / n, count = (size_t)index->shape.elements;
    uint8_t *to = room_of(out);
    for (size_t b = 0; b < before; b++) {
        for (size_t i = 0; i < count; i++, to += inner * each) {
            size_t k = (size_t)(index->i[i] < 0 ? index->i[i] + (int64_t)n : index->i[i]);
            memcpy(to, bytes_of(x) + (b * from + k * inner) * each, inner * each);
        }
    }
    return TIER_OK;
}
