/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What single operations need made for them once: convolutions, windows, tables of indices and
 * weights, places for statistics.
 */
#include "spoke/tape_build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum tier_status tape_kern_fail(struct kern_device *dev, enum kern_status status, const char *what,
                                struct tier_err *err) {
    const char *words = kern_device_error(dev);
    enum tier_status st = status == KERN_ENOMEM   ? TIER_ELIMIT
                          : status == KERN_EARG   ? TIER_EINTERNAL
                          : status == KERN_ENODEV ? TIER_EMODEL
                                                  : TIER_EDEVICE;

    return tier_fail(err, st, "%s: %s failed: %s%s%s%s", kern_device_name(dev), what,
                     kern_status_text(status), *words ? ": " : "", words,
                     status == KERN_ENOMEM ? "; a smaller batch or model would fit" : "");
}

static const struct tape_tensor *in(const struct builder *b, const struct tape_step *s, size_t i) {
    return &b->tape->tensors[s->in[i]];
}

static const struct tape_tensor *result(const struct builder *b, const struct tape_step *s) {
    return &b->tape->tensors[s->out[0]];
}

static void fill_window(struct tape_step *s, const struct tier_shape *x,
                        const struct tier_shape *y) {
    const struct tier_call *c = s->call;
    struct kern_window *w = &s->window;
    w->spatial = c->spatial;
    for (unsigned i = 0; i < c->spatial; i++) {
        w->in[i] = x->dims[2 + i];
        w->out[i] = y->dims[2 + i];
        w->kernel[i] = c->kernel[i];
        w->stride[i] = c->stride[i];
        w->dilation[i] = c->dilation[i] ? c->dilation[i] : 1;
        w->pad[i] = c->pad[i];
    }
}

static enum tier_status prepare_conv(struct builder *b, struct tape_step *s) {
    const struct tier_shape *x = &in(b, s, 0)->shape, *y = &result(b, s)->shape;
    bool transposed = s->op == TIER_OP_CONV_TRANSPOSE;

    fill_window(s, transposed ? y : x, transposed ? x : y);
    struct kern_conv_shape shape = {.batch = x->dims[0],
                                    .in_channels = x->dims[1],
                                    .out_channels = y->dims[1],
                                    .groups = s->call->group,
                                    .window = s->window,
                                    .transposed = transposed};
    enum kern_status ks = kern_conv_new(b->tape->dev, &shape, &s->conv);
    return ks == KERN_OK ? TIER_OK : tape_kern_fail(b->tape->dev, ks, s->name, b->err);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static enum tier_status put_table(struct builder *b, const void *data, size_t bytes,
                                  struct kern_buf **out) {
    enum kern_status ks = kern_buf_new(b->tape->dev, bytes ? bytes : 4, out);
    if (ks == KERN_OK && bytes)
        ks = kern_upload(*out, 0, data, bytes);
    return ks == KERN_OK ? TIER_OK : tape_kern_fail(b->tape->dev, ks, "a model's tables", b->err);
}

/* Up to two taps an output, as they are found. */
struct taps {
    int32_t *from; /* [out][2] */
    float *weight; /* [out][2]; 0: no tap */
};

static double place_of(const struct tier_call *c, unsigned axis, double out_len, double in_len,
                       double o) {
    double scale = c->scale[axis];
    switch (c->resize_place) {
    case TIER_RESIZE_ALIGN_CORNERS:
        return out_len == 1 ? 0 : o * (in_len - 1) / (out_len - 1);
    case TIER_RESIZE_ASYMMETRIC:
        return o / scale;
    case TIER_RESIZE_PYTORCH_HALF_PIXEL:
        return out_len > 1 ? (o + 0.5) / scale - 0.5 : 0;
    case TIER_RESIZE_HALF_PIXEL:
        break;
    }
    return (o + 0.5) / scale - 0.5;
}

static double nearest(const struct tier_call *c, double x) {
    switch (c->resize_nearest) {
    case TIER_NEAREST_FLOOR:
        return floor(x);
    case TIER_NEAREST_CEIL:
        return ceil(x);
    case TIER_NEAREST_ROUND_PREFER_CEIL:
        return floor(x + 0.5);
    case TIER_NEAREST_ROUND_PREFER_FLOOR:
        break;
    }
    return ceil(x - 0.5);
}

static int32_t within(double x, size_t len) {
    return x < 0 ? 0 : x > (double)(len - 1) ? (int32_t)(len - 1) : (int32_t)x;
}

static void resize_taps(const struct tier_call *c, unsigned axis, size_t in_len, size_t out_len,
                        struct taps *t) {
    for (size_t o = 0; o < out_len; o++) {
        double x = place_of(c, axis, (double)out_len, (double)in_len, (double)o);
        if (!c->linear) {
            t->from[2 * o] = within(nearest(c, x), in_len);
            t->weight[2 * o] = 1;
            continue;
        }
        double low = floor(x), share = x - low;
        t->from[2 * o] = within(low, in_len);
        t->from[2 * o + 1] = within(low + 1, in_len);
        t->weight[2 * o] = (float)(1 - share);
        t->weight[2 * o + 1] = (float)share;
    }
}

static void pad_taps(const struct tier_call *c, unsigned axis, size_t in_len, size_t out_len,
                     struct taps *t) {
    for (size_t o = 0; o < out_len; o++) {
        int64_t x = (int64_t)o - c->start[axis], last = (int64_t)in_len - 1;
        if (c->pad_mode == TIER_PAD_REFLECT)
            x = x < 0 ? -x : x > last ? 2 * last - x : x;
        t->from[2 * o] = within((double)x, in_len);
        t->weight[2 * o] = 1;
    }
}

/* Rows by output, and the same matrix by input for the way back, both in ascending order. */
static enum tier_status put_mix(struct builder *b, struct tape_mix *m, const struct taps *t) {
    size_t taps = 0, rows = m->in + 1 > m->out + 1 ? m->in + 1 : m->out + 1;
    int32_t *start = calloc(rows + 1, sizeof *start), *from = malloc(2 * m->out * sizeof *from);
    float *weight = malloc(2 * m->out * sizeof *weight);
    enum tier_status st = TIER_OK;

    if (!start || !from || !weight) {
        st = tier_fail(b->err, TIER_ENOMEM, "no memory for a model's tables");
        goto out;
    }
    for (size_t o = 0; o < m->out; o++) {
        start[o] = (int32_t)taps;
        for (size_t k = 2 * o; k < 2 * o + 2; k++)
            if (t->weight[k] != 0) {
                from[taps] = t->from[k];
                weight[taps++] = t->weight[k];
            }
    }
    start[m->out] = (int32_t)taps;
    m->taps = taps;
    TIER_TRY_OUT(put_table(b, start, (m->out + 1) * sizeof *start, &m->start));
    TIER_TRY_OUT(put_table(b, from, taps * sizeof *from, &m->from));
    TIER_TRY_OUT(put_table(b, weight, taps * sizeof *weight, &m->weight));
    if (!b->tape->training)
        goto out;
    memset(start, 0, (m->in + 1) * sizeof *start);
    for (size_t k = 0; k < 2 * m->out; k++)
        if (t->weight[k] != 0)
            start[t->from[k] + 1]++;
    for (size_t i = 0; i < m->in; i++)
        start[i + 1] += start[i];
    for (size_t k = 0; k < 2 * m->out; k++)
        if (t->weight[k] != 0) {
            int32_t at = start[t->from[k]]++;
            from[at] = (int32_t)(k / 2);
            weight[at] = t->weight[k];
        }
    memmove(start + 1, start, m->in * sizeof *start);
    start[0] = 0;
    TIER_TRY_OUT(put_table(b, start, (m->in + 1) * sizeof *start, &m->back_start));
    TIER_TRY_OUT(put_table(b, from, taps * sizeof *from, &m->back_from));
    TIER_TRY_OUT(put_table(b, weight, taps * sizeof *weight, &m->back_weight));
out:
    free(start);
    free(from);
    free(weight);
    return st;
}

static enum tier_status add_mix(struct builder *b, struct tape_step *s, unsigned axis,
                                const struct kern_nd *now, unsigned place, size_t out_len) {
    struct tape_mix *m = &s->mix[s->mix_count++];
    struct taps t;
    *m = (struct tape_mix){.outer = 1,
                           .in = now->dims[place],
                           .out = out_len,
                           .inner = 1,
                           .result = TAPE_NONE,
                           .slope = TAPE_NONE};
    for (unsigned i = 0; i < place; i++)
        m->outer *= now->dims[i];
    for (unsigned i = place + 1; i < now->rank; i++)
        m->inner *= now->dims[i];
    t.from = calloc(2 * out_len, sizeof *t.from);
    t.weight = calloc(2 * out_len, sizeof *t.weight);
    enum tier_status st = TIER_OK;
    if (!t.from || !t.weight)
        st = tier_fail(b->err, TIER_ENOMEM, "no memory for a model's tables");
    else if (s->op == TIER_OP_RESIZE)
        resize_taps(s->call, axis, m->in, out_len, &t);
    else
        pad_taps(s->call, axis, m->in, out_len, &t);
    if (st == TIER_OK)
        st = put_mix(b, m, &t);
    free(t.from);
    free(t.weight);
    return st;
}

/* One sparse product for each axis that changes, in the order of memory. */
static enum tier_status prepare_mix(struct builder *b, struct tape_step *s) {
    const struct tape_tensor *x = in(b, s, 0), *y = result(b, s);
    struct kern_nd now = tape_nd(x), want = tape_nd(y);
    size_t last = SIZE_MAX;

    s->mix = calloc(now.rank ? now.rank : 1, sizeof *s->mix);
    if (!s->mix)
        return tier_fail(b->err, TIER_ENOMEM, "no memory for a model's tables");
    for (unsigned i = 0; i < now.rank; i++) {
        if (now.dims[i] == want.dims[i])
            continue;
        TIER_TRY(add_mix(b, s, tape_axis(x, i), &now, i, want.dims[i]));
        now.dims[i] = want.dims[i];
        size_t floats = 1;
        for (unsigned k = 0; k < now.rank; k++)
            floats *= now.dims[k];
        struct tape_mix *m = &s->mix[s->mix_count - 1];
        TIER_TRY(tape_new_buffer(b, floats, &m->result));
        TIER_TRY(tape_new_buffer(b, floats, &m->slope));
        size_t step = (size_t)(s - b->tape->steps);
        b->tape->buffers[m->result].first = b->tape->buffers[m->result].last = step;
        last = s->mix_count - 1;
    }
    if (last != SIZE_MAX) { /* the last one's are the result's own */
        b->tape->buffers[s->mix[last].result].floats = 1;
        b->tape->buffers[s->mix[last].slope].floats = 1;
        s->mix[last].result = s->mix[last].slope = TAPE_NONE;
    }
    return TIER_OK;
}

static enum tier_status prepare_gather(struct builder *b, struct tape_step *s,
                                       const int64_t *indices, size_t count) {
    const struct tier_shape *x = &in(b, s, 0)->shape;
    int64_t len = (int64_t)x->dims[s->call->axis];

    if (!indices)
        return tape_aux(b, s, 0, count);
    int32_t *index = malloc(count * sizeof *index);
    if (!index)
        return tier_fail(b->err, TIER_ENOMEM, "no memory for %zu indices", count);
    for (size_t i = 0; i < count; i++) {
        int64_t at = indices[i] < 0 ? indices[i] + len : indices[i];
        index[i] = at >= 0 && at < len && at <= INT32_MAX ? (int32_t)at : -1;
    }
    enum tier_status st = put_table(b, index, count * sizeof *index, &s->index);
    free(index);
    return st;
}

static enum tier_status check_softmax(struct builder *b, const struct tape_step *s) {
    const struct tape_tensor *x = in(b, s, 0);
    return tape_axis(x, x->shape.rank - 1) == s->call->axis
               ? TIER_OK
               : tier_fail(b->err, TIER_EMODEL,
                           "node '%s' (%s) works along axis %u of %u: the last, or the channels, "
                           "are possible here",
                           s->name, tier_op_text((enum tier_op)s->op), s->call->axis,
                           x->shape.rank);
}

enum tier_status tape_prepare(struct builder *b, struct tape_step *s) {
    const struct tier_shape *y = &result(b, s)->shape;

    switch (s->op) {
    case TIER_OP_CONV:
    case TIER_OP_CONV_TRANSPOSE:
        return prepare_conv(b, s);
    case TIER_OP_SOFTMAX:
    case TIER_OP_LOG_SOFTMAX:
        return check_softmax(b, s);
    case TIER_OP_PRELU:
        return tape_aux(b, s, 0, y->elements);
    case TIER_OP_MAX_POOL:
        fill_window(s, &in(b, s, 0)->shape, y);
        return tape_aux(b, s, 0, y->elements);
    case TIER_OP_AVERAGE_POOL:
        fill_window(s, &in(b, s, 0)->shape, y);
        return TIER_OK;
    case TIER_OP_BATCH_NORM:
        TIER_TRY(tape_aux(b, s, 0, y->dims[1]));
        return tape_aux(b, s, 1, y->dims[1]);
    case TIER_OP_INSTANCE_NORM:
    case TIER_OP_GROUP_NORM:
        if (s->groups == 0) /* else it was melted of other nodes */
            s->groups = s->op == TIER_OP_GROUP_NORM ? s->call->group : y->dims[1];
        TIER_TRY(tape_aux(b, s, 0, y->dims[0] * s->groups));
        return tape_aux(b, s, 1, y->dims[0] * s->groups);
    case TIER_OP_LAYER_NORM: {
        size_t rows = 1;
        for (unsigned i = 0; i < s->call->axis; i++)
            rows *= y->dims[i];
        TIER_TRY(tape_aux(b, s, 0, rows));
        return tape_aux(b, s, 1, rows);
    }
    case TIER_OP_DROPOUT:
        s->draw = ++b->draws;
        return TIER_OK;
    case TIER_OP_RESIZE:
        return prepare_mix(b, s);
    case TIER_OP_PAD:
        return s->call->pad_mode == TIER_PAD_CONSTANT ? TIER_OK : prepare_mix(b, s);
    case TIER_OP_GATHER: {
        size_t index = (size_t)tier_graph_node(b->graph, s->node)->in[1];
        return prepare_gather(b, s, tier_shapes_ints(b->tape->shapes, index),
                              tier_shapes_of(b->tape->shapes, index)->elements);
    }
    default:
        return TIER_OK;
    }
}

void tape_release_step(struct tape_step *s) {
    kern_conv_free(s->conv);
    kern_buf_free(s->index);
    for (size_t i = 0; i < s->mix_count; i++) {
        struct tape_mix *m = &s->mix[i];
        kern_buf_free(m->start);
        kern_buf_free(m->from);
        kern_buf_free(m->weight);
        kern_buf_free(m->back_start);
        kern_buf_free(m->back_from);
        kern_buf_free(m->back_weight);
    }
    free(s->mix);
}

void tape_temps(const struct builder *b, const struct tape_step *s, bool spare, size_t floats[2]) {
    const struct tape_tensor *y = result(b, s);
    size_t x = s->in[0] == SIZE_MAX ? 0 : in(b, s, 0)->shape.elements;

    if (spare && s->flow[0] == TAPE_ADD)
        floats[0] = x;
    switch (s->op) {
    case TIER_OP_SUB:
    case TIER_OP_MUL:
    case TIER_OP_DIV:
    case TIER_OP_ADD:
        floats[0] = y->shape.elements;
        for (size_t i = 0; i < 2; i++)
            if (in(b, s, i)->shape.elements > floats[1])
                floats[1] = in(b, s, i)->shape.elements;
        break;
    case TIER_OP_PRELU:
        floats[0] = floats[1] = x;
        break;
    case TIER_OP_REDUCE_MEAN:
        floats[0] = y->shape.elements;
        break;
    case TIER_OP_EXPAND:
        floats[1] = x;
        break;
    default:
        break;
    }
}
