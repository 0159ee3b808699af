/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a tape: first the forward steps in the graph's order, each with the layouts it wants, then
 * (tape_flow.c) the gradients. What a backward step reads is pinned when its forward step is made,
 * so that nothing later is written over it.
 */
#include "spoke/tape_build.h"

#include <stdlib.h>
#include <string.h>

/* ---- layouts --------------------------------------------------------------------------------- */

unsigned tape_axis(const struct tape_tensor *t, unsigned i) {
    if (t->layout == TAPE_PLAIN || i == 0)
        return i;
    return i + 1 == t->shape.rank ? 1 : i + 1;
}

struct kern_nd tape_nd(const struct tape_tensor *t) {
    struct kern_nd nd = {.rank = t->shape.rank};
    for (unsigned i = 0; i < nd.rank; i++)
        nd.dims[i] = t->shape.dims[tape_axis(t, i)];
    return nd;
}

void tape_strides(const struct tape_tensor *t, kern_strides out) {
    ptrdiff_t at = 1;
    for (unsigned i = t->shape.rank; i-- > 0;) {
        unsigned axis = tape_axis(t, i);
        out[axis] = t->shape.dims[axis] == 1 ? 0 : at;
        at *= (ptrdiff_t)t->shape.dims[axis];
    }
}

/* Both layouts lie alike: one channel, or one spot. */
static bool lies_alike(const struct tier_shape *s) {
    uint64_t spots = 1;
    for (unsigned i = 2; i < s->rank; i++)
        spots *= s->dims[i];
    return s->rank < 3 || s->dims[1] == 1 || spots == 1;
}

/* ---- growing arrays -------------------------------------------------------------------------- */

static enum tier_status grow(void **array, size_t *cap, size_t need, size_t size,
                             struct tier_err *err) {
    if (need <= *cap)
        return TIER_OK;
    size_t more = *cap ? *cap * 2 : 64;
    void *p = realloc(*array, more * size);
    if (!p)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model of %zu steps", need);
    *array = p;
    *cap = more;
    return TIER_OK;
}

enum tier_status tape_new_buffer(struct builder *b, size_t floats, int32_t *out) {
    struct tape *t = b->tape;
    void *p = t->buffers;
    enum tier_status st = grow(&p, &b->buffer_cap, t->buffer_count + 1, sizeof *t->buffers, b->err);
    t->buffers = p;
    if (st != TIER_OK)
        return st;
    t->buffers[t->buffer_count] =
        (struct tape_buffer){.floats = floats, .first = SIZE_MAX, .last = 0};
    *out = (int32_t)t->buffer_count++;
    return TIER_OK;
}

static enum tier_status new_tensor(struct builder *b, const struct tape_tensor *like, size_t *out) {
    struct tape *t = b->tape;
    void *p = t->tensors;
    enum tier_status st = grow(&p, &b->tensor_cap, t->tensor_count + 1, sizeof *t->tensors, b->err);
    t->tensors = p;
    if (st != TIER_OK)
        return st;
    t->tensors[t->tensor_count] = *like;
    *out = t->tensor_count++;
    return TIER_OK;
}

static enum tier_status new_step(struct builder *b, int op, const char *name, size_t in, size_t out,
                                 struct tape_step **step_out) {
    struct tape *t = b->tape;
    void *p = t->steps;
    enum tier_status st = grow(&p, &b->step_cap, t->step_count + 1, sizeof *t->steps, b->err);
    t->steps = p;
    if (st != TIER_OK)
        return st;
    struct tape_step s = {.op = op,
                          .name = name,
                          .in_count = in,
                          .out_count = out,
                          .aux = {TAPE_NONE, TAPE_NONE},
                          .temp = {TAPE_NONE, TAPE_NONE}};
    s.in = malloc((in + out) * sizeof *s.in);
    s.flow = calloc(in, sizeof *s.flow);
    if (!s.in || !s.flow) {
        free(s.in);
        free(s.flow);
        return tier_fail(b->err, TIER_ENOMEM, "no memory for a model of %zu steps", t->step_count);
    }
    s.out = s.in + in;
    t->steps[t->step_count] = s;
    *step_out = &t->steps[t->step_count++];
    return TIER_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

static enum tier_status const_tensor(struct builder *b, size_t value, size_t *out) {
    struct tape_tensor t = {.shape = *tier_shapes_of(b->tape->shapes, value),
                            .kind = TAPE_CONST,
                            .grad = TAPE_NONE,
                            .place = b->const_floats};
    const float *data = tier_shapes_floats(b->tape->shapes, value);
    float *p = realloc(b->const_data, (b->const_floats + t.shape.elements) * sizeof *p);
    if (!p)
        return tier_fail(b->err, TIER_ENOMEM, "no memory for a model's constants");
    b->const_data = p;
    memcpy(p + b->const_floats, data, t.shape.elements * sizeof *p);
    b->const_floats += t.shape.elements;
    return new_tensor(b, &t, out);
}

/* The value as it was first made. */
enum tier_status tape_value(struct builder *b, size_t value, size_t *out) {
    struct value_map *m = &b->map[value];
    if (m->tensor[TAPE_PLAIN] == SIZE_MAX && m->tensor[TAPE_LAST] == SIZE_MAX) {
        if (!tier_shapes_floats(b->tape->shapes, value))
            return tier_fail(b->err, TIER_EMODEL,
                             "'%s' holds integers, which only settings and indices may",
                             tier_graph_value(b->graph, value)->name);
        TIER_TRY(const_tensor(b, value, &m->tensor[TAPE_PLAIN]));
    }
    *out = m->tensor[m->tensor[m->first] != SIZE_MAX ? m->first : !m->first];
    return TIER_OK;
}

enum tier_status tape_value_as(struct builder *b, size_t value, enum tape_layout layout,
                               size_t *out) {
    size_t from = 0;
    struct tape_step *step;

    TIER_TRY(tape_value(b, value, &from));
    const struct tape_tensor *t = &b->tape->tensors[from];
    if (t->shape.rank < 3)
        layout = TAPE_PLAIN;
    if (b->map[value].tensor[layout] == SIZE_MAX) {
        struct tape_tensor turned = *t;
        bool alike = lies_alike(&t->shape);
        int32_t buffer = TAPE_NONE;
        turned.layout = layout;
        if (!alike) {
            turned.kind = TAPE_ARRAY;
            TIER_TRY(tape_new_buffer(b, turned.shape.elements, &buffer));
            turned.place = (size_t)buffer;
        } else if (t->kind == TAPE_ARRAY)
            b->tape->buffers[t->place].shared = true;
        size_t to;
        TIER_TRY(new_tensor(b, &turned, &to));
        TIER_TRY(new_step(b, TAPE_OP_TURN, tier_graph_value(b->graph, value)->name, 1, 1, &step));
        step->in[0] = from;
        step->out[0] = to;
        step->nothing = alike;
        tape_touch_tensor(b, from, b->tape->step_count - 1);
        tape_touch_tensor(b, to, b->tape->step_count - 1);
        b->map[value].tensor[layout] = to;
    }
    *out = b->map[value].tensor[layout];
    return TIER_OK;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* The step may write its result over its first operand. */
static bool may_lie_over(const struct builder *b, const struct tape_step *s, size_t value) {
    const struct tape_tensor *x = &b->tape->tensors[s->in[0]];
    uint8_t need = tape_traits(s->op);

    if (!(need & TAPE_MAY_LIE_OVER) || x->kind != TAPE_ARRAY || b->uses[value] != 1)
        return false;
    const struct tape_buffer *buf = &b->tape->buffers[x->place];
    return !buf->shared && !buf->pinned && !(b->tape->training && (need & TAPE_NEEDS_X0));
}

/* Gives the step's result i its tensor, as the value's first; over the first operand, or on its
 * own. */
static enum tier_status put_result(struct builder *b, struct tape_step *s, size_t i, size_t value,
                                   enum tape_layout layout, bool over) {
    struct tape_tensor t = {.shape = *tier_shapes_of(b->tape->shapes, value),
                            .kind = TAPE_ARRAY,
                            .layout = layout,
                            .grad = TAPE_NONE,
                            .wants = tape_wants_any(b, s)};
    int32_t buffer;

    if (t.shape.rank < 3)
        t.layout = TAPE_PLAIN;
    if (over) {
        const struct tape_tensor *x = &b->tape->tensors[s->in[0]];
        t.kind = x->kind;
        t.place = x->place;
    } else {
        TIER_TRY(tape_new_buffer(b, t.shape.elements, &buffer));
        t.place = (size_t)buffer;
    }
    size_t at = (size_t)(s - b->tape->steps);
    TIER_TRY(new_tensor(b, &t, &s->out[i]));
    b->map[value].tensor[t.layout] = s->out[i];
    b->map[value].first = t.layout;
    tape_touch_tensor(b, s->out[i], at);
    return TIER_OK;
}

/* Readers' times, and what backward will read. */
static void note_reads(struct builder *b, struct tape_step *s) {
    size_t at = (size_t)(s - b->tape->steps);
    uint8_t need = tape_traits(s->op) | (s->relu ? TAPE_NEEDS_Y : 0);
    bool back = b->tape->training && tape_wants_any(b, s);

    for (size_t i = 0; i < s->in_count; i++) {
        if (s->in[i] == SIZE_MAX)
            continue;
        const struct tape_tensor *t = &b->tape->tensors[s->in[i]];
        tape_touch_tensor(b, s->in[i], at);
        if (back && t->kind == TAPE_ARRAY && i < 2 &&
            (need & (i == 0 ? TAPE_NEEDS_X0 : TAPE_NEEDS_X1)))
            b->tape->buffers[t->place].pinned = true;
    }
    for (size_t i = 0; i < s->out_count; i++) {
        const struct tape_tensor *t = &b->tape->tensors[s->out[i]];
        if (back && t->kind == TAPE_ARRAY && (need & TAPE_NEEDS_Y))
            b->tape->buffers[t->place].pinned = true;
    }
}

enum tier_status tape_aux(struct builder *b, struct tape_step *s, unsigned which, size_t floats) {
    TIER_TRY(tape_new_buffer(b, floats, &s->aux[which]));
    tape_touch(&b->tape->buffers[s->aux[which]], (size_t)(s - b->tape->steps));
    return TIER_OK;
}

/* The node after `node` where it alone reads its result and is a Relu: it melts into a norm. */
static size_t relu_after(const struct builder *b, size_t node) {
    size_t value = (size_t)tier_graph_node(b->graph, node)->out[0];
    if (b->uses[value] != 1 || b->reader[value] == SIZE_MAX)
        return SIZE_MAX;
    return tier_graph_node(b->graph, b->reader[value])->op == TIER_OP_RELU ? b->reader[value]
                                                                           : SIZE_MAX;
}

static enum tape_layout wanted_layout(int op) {
    switch (op) {
    case TIER_OP_CONV:
    case TIER_OP_CONV_TRANSPOSE:
    case TIER_OP_MAX_POOL:
    case TIER_OP_AVERAGE_POOL:
    case TIER_OP_BATCH_NORM:
    case TIER_OP_INSTANCE_NORM:
    case TIER_OP_GROUP_NORM:
        return TAPE_LAST;
    default:
        return TAPE_PLAIN;
    }
}

/* Operations that read and write either layout and keep the first operand's. */
static bool keeps_layout(int op) {
    switch (op) {
    case TIER_OP_GEMM:
    case TIER_OP_MATMUL:
    case TIER_OP_LAYER_NORM:
    case TIER_OP_RESHAPE:
    case TIER_OP_GATHER:
    case TIER_OP_TRANSPOSE:
    case TIER_OP_SOFTMAX:
    case TIER_OP_LOG_SOFTMAX:
        return false;
    default:
        return wanted_layout(op) == TAPE_PLAIN;
    }
}

/* Softmax runs over what lies last in memory. */
static enum tape_layout softmax_layout(const struct tier_call *call, const struct tier_shape *x) {
    return call->axis == 1 && x->rank >= 3 ? TAPE_LAST : TAPE_PLAIN;
}

/* The operand whose shape the result has decides the layout of an operation on several. */
static enum tier_status leading(struct builder *b, const struct tier_graph_node *n, size_t *out) {
    const struct tier_shape *y = tier_shapes_of(b->tape->shapes, (size_t)n->out[0]);
    *out = SIZE_MAX;
    for (size_t i = 0; i < n->in_count; i++) {
        size_t t;
        if (n->in[i] < 0)
            continue;
        TIER_TRY(tape_value(b, (size_t)n->in[i], &t));
        const struct tape_tensor *x = &b->tape->tensors[t];
        bool same = n->op >= TIER_OP_ADD && n->op <= TIER_OP_DIV
                        ? x->shape.elements == y->elements && x->shape.rank == y->rank
                        : i == 0;
        if (same && x->kind != TAPE_PARAM && x->kind != TAPE_CONST)
            *out = t;
        if (*out != SIZE_MAX)
            return TIER_OK;
    }
    return TIER_OK;
}

/* A reduction whose result has fewer dimensions. */
static bool drops_axes(const struct builder *b, const struct tier_graph_node *n) {
    return (n->op == TIER_OP_REDUCE_MEAN || n->op == TIER_OP_REDUCE_SUM) &&
           tier_shapes_of(b->tape->shapes, (size_t)n->out[0])->rank !=
               tier_shapes_of(b->tape->shapes, (size_t)n->in[0])->rank;
}

/* ... and which keeps channels and spots, whose order in memory is then not the result's. */
static bool mixes_axes(const struct builder *b, const struct tier_graph_node *n,
                       const struct tier_call *call) {
    unsigned rank = tier_shapes_of(b->tape->shapes, (size_t)n->in[0])->rank, spots = 0;
    for (unsigned i = 2; i < rank; i++)
        spots |= 1u << i;
    return (call->axes & 2u) == 0 && (call->axes & spots) != spots;
}

/* A tensor of that shape from another: the same memory where it has as many elements, else repeated
 * along the dimensions that it lacks. */
static enum tier_status as_shape(struct builder *b, const char *name,
                                 const struct tier_shape *shape, size_t *tensor) {
    static const struct tier_call no_settings;
    struct tape_tensor t = b->tape->tensors[*tensor];
    bool same = t.shape.elements == shape->elements;
    struct tape_step *step;
    int32_t buffer;
    size_t to;

    if (t.shape.rank == shape->rank && same)
        return TIER_OK;
    t.shape = *shape;
    if (!same) {
        TIER_TRY(tape_new_buffer(b, shape->elements, &buffer));
        t.kind = TAPE_ARRAY;
        t.place = (size_t)buffer;
    } else if (t.kind == TAPE_ARRAY)
        b->tape->buffers[t.place].shared = true;
    TIER_TRY(new_tensor(b, &t, &to));
    TIER_TRY(new_step(b, same ? TAPE_OP_TURN : TIER_OP_EXPAND, name, 1, 1, &step));
    step->in[0] = *tensor;
    step->out[0] = to;
    step->nothing = same;
    step->call = &no_settings;
    tape_touch_tensor(b, *tensor, b->tape->step_count - 1);
    tape_touch_tensor(b, to, b->tape->step_count - 1);
    *tensor = to;
    return TIER_OK;
}

/* [y's first dimensions, the last two of s] */
static void in_batches(struct tier_shape *s, const struct tier_shape *y, unsigned lead) {
    uint64_t rows = s->dims[s->rank - 2], cols = s->dims[s->rank - 1];

    s->rank = lead + 2;
    s->elements = rows * cols;
    for (unsigned i = 0; i < lead; i++) {
        s->dims[i] = y->dims[i];
        s->elements *= y->dims[i];
    }
    s->dims[lead] = rows;
    s->dims[lead + 1] = cols;
}

/* MatMul's operands as its kernel takes them: one matrix on the right, or as many on both sides. A
 * vector is a row on the left and a column on the right. */
static enum tier_status match_matrices(struct builder *b, const struct tier_graph_node *n,
                                       size_t *in) {
    const struct tier_shape *y = tier_shapes_of(b->tape->shapes, (size_t)n->out[0]);
    struct tier_shape s[2];
    unsigned lead = y->rank;

    for (unsigned i = 0; i < 2; i++) {
        s[i] = b->tape->tensors[in[i]].shape;
        if (s[i].rank > 1) {
            lead--;
            continue;
        }
        s[i].dims[1] = i == 0 ? s[i].dims[0] : 1;
        s[i].dims[0] = i == 0 ? 1 : s[i].dims[0];
        s[i].rank = 2;
        TIER_TRY(as_shape(b, n->name, &s[i], &in[i]));
    }
    for (unsigned i = 0; i < 2 && s[1].rank > 2; i++)
        in_batches(&s[i], y, lead);
    for (unsigned i = 0; i < 2; i++)
        TIER_TRY(as_shape(b, n->name, &s[i], &in[i]));
    return TIER_OK;
}

/* Which operands are taken as they are, whatever their layout: parameters, constants, and what
 * strides can reach. */
static enum tier_status put_operands(struct builder *b, const struct tier_graph_node *n,
                                     struct tape_step **step, enum tape_layout *layout_out) {
    size_t lead = SIZE_MAX, t[8], *in = n->in_count <= 8 ? t : malloc(n->in_count * sizeof *in);
    enum tape_layout layout = wanted_layout(n->op);
    size_t node = (size_t)(n - tier_graph_node(b->graph, 0));
    const struct tier_call *call = tier_shapes_call(b->tape->shapes, node);
    enum tier_status st = TIER_OK;

    if (!in)
        return tier_fail(b->err, TIER_ENOMEM, "no memory for node '%s'", n->name);
    if (keeps_layout(n->op)) {
        TIER_TRY_OUT(leading(b, n, &lead));
        if (lead != SIZE_MAX)
            layout = b->tape->tensors[lead].layout;
    } else if (n->op == TIER_OP_SOFTMAX || n->op == TIER_OP_LOG_SOFTMAX)
        layout = softmax_layout(call, tier_shapes_of(b->tape->shapes, (size_t)n->in[0]));
    bool drops = drops_axes(b, n), mixed = drops && lead != SIZE_MAX && mixes_axes(b, n, call);
    for (size_t i = 0; i < n->in_count; i++) {
        in[i] = SIZE_MAX;
        if (n->in[i] < 0)
            continue;
        size_t value = (size_t)n->in[i];
        if (n->op == TIER_OP_GATHER && i == 1 && tier_shapes_ints(b->tape->shapes, value))
            continue; /* constant indices are no tensor */
        bool fixed = i == 0 && !keeps_layout(n->op) && n->op != TIER_OP_TRANSPOSE;
        if (mixed)
            TIER_TRY_OUT(tape_value_as(b, value, TAPE_PLAIN, &in[i]));
        else if (fixed || n->op == TIER_OP_GEMM || n->op == TIER_OP_MATMUL)
            TIER_TRY_OUT(tape_value_as(b, value, layout, &in[i]));
        else
            TIER_TRY_OUT(tape_value(b, value, &in[i]));
    }
    if (n->op == TIER_OP_MATMUL)
        TIER_TRY_OUT(match_matrices(b, n, in));
    TIER_TRY_OUT(new_step(b, n->op, n->name, n->in_count, n->out_count, step));
    memcpy((*step)->in, in, n->in_count * sizeof *in);
    (*step)->node = node;
    (*step)->call = call;
    *layout_out = drops ? TAPE_PLAIN : layout;
out:
    if (in != t)
        free(in);
    return st;
}

static enum tier_status emit_split(struct builder *b, const struct tier_graph_node *n,
                                   struct tape_step *s, enum tape_layout layout) {
    for (size_t i = 0; i < n->out_count; i++)
        TIER_TRY(put_result(b, s, i, (size_t)n->out[i], layout, false));
    note_reads(b, s);
    return TIER_OK;
}

/* A Relu behind a norm becomes a part of it; *value is then the Relu's. */
static void melt_relu(struct builder *b, struct tape_step *s, size_t node, size_t *value) {
    size_t relu =
        tape_is_norm(s->op) && s->op != TIER_OP_LAYER_NORM ? relu_after(b, node) : SIZE_MAX;
    if (relu == SIZE_MAX)
        return;
    s->relu = true;
    b->melted[relu] = true;
    *value = (size_t)tier_graph_node(b->graph, relu)->out[0];
}

static enum tier_status emit_melt(struct builder *b, size_t node) {
    const struct tape_melt *m = &b->melt[node];
    size_t in[3], count = m->affine ? 3 : 1,
                  value = (size_t)tier_graph_node(b->graph, node)->out[0];
    struct tape_step *s = NULL;

    TIER_TRY(tape_value_as(b, m->x, TAPE_LAST, &in[0]));
    if (m->affine) {
        TIER_TRY(tape_value(b, m->scale, &in[1]));
        TIER_TRY(tape_value(b, m->bias, &in[2]));
    }
    TIER_TRY(
        new_step(b, TIER_OP_GROUP_NORM, tier_graph_node(b->graph, m->norm)->name, count, 1, &s));
    memcpy(s->in, in, count * sizeof *in);
    s->node = m->norm;
    s->call = tier_shapes_call(b->tape->shapes, m->norm);
    s->groups = m->groups;
    melt_relu(b, s, node, &value);
    TIER_TRY(put_result(b, s, 0, value, TAPE_LAST, false));
    TIER_TRY(tape_prepare(b, s));
    note_reads(b, s);
    return TIER_OK;
}

static enum tier_status emit(struct builder *b, size_t node) {
    const struct tier_graph_node *n = tier_graph_node(b->graph, node);
    struct tape_step *s = NULL;
    enum tape_layout layout = TAPE_PLAIN;
    size_t value = (size_t)n->out[0];

    TIER_TRY(put_operands(b, n, &s, &layout));
    if (n->op == TIER_OP_SPLIT)
        return emit_split(b, n, s, layout);
    melt_relu(b, s, node, &value);
    bool over = false;
    if (n->op == TIER_OP_RESHAPE || (n->op == TIER_OP_DROPOUT && !b->tape->training)) {
        struct tape_tensor *x = &b->tape->tensors[s->in[0]];
        over = s->nothing = true;
        if (x->kind == TAPE_ARRAY && b->uses[(size_t)n->in[0]] != 1)
            b->tape->buffers[x->place].shared = true;
    } else if (n->in[0] >= 0 && s->in[0] != SIZE_MAX) {
        const struct tape_tensor *x = &b->tape->tensors[s->in[0]];
        over = may_lie_over(b, s, (size_t)n->in[0]) && x->layout == layout &&
               x->shape.elements == tier_shapes_of(b->tape->shapes, value)->elements;
    }
    TIER_TRY(put_result(b, s, 0, value, layout, over));
    TIER_TRY(tape_prepare(b, s));
    note_reads(b, s);
    return TIER_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* Which nodes the logits need, and who reads what among them. */
static void find_needed(struct builder *b, size_t logits) {
    size_t nodes = tier_graph_node_count(b->graph);
    bool *value = b->value_needed;

    value[logits] = true;
    for (size_t i = nodes; i-- > 0;) {
        const struct tier_graph_node *n = tier_graph_node(b->graph, i);
        bool need = false;
        for (size_t k = 0; k < n->out_count; k++)
            need |= n->out[k] >= 0 && value[(size_t)n->out[k]];
        if (!need || tier_shapes_call(b->tape->shapes, i)->folded)
            continue;
        b->needed[i] = true;
        for (size_t k = 0; k < n->in_count; k++) {
            if (n->in[k] < 0)
                continue;
            size_t v = (size_t)n->in[k];
            value[v] = true;
            b->uses[v]++;
            b->reader[v] = i;
        }
    }
    b->uses[logits]++;
    b->reader[logits] = SIZE_MAX;
}

static enum tier_status begin_values(struct builder *b) {
    size_t values = tier_graph_value_count(b->graph);
    for (size_t v = 0; v < values; v++) {
        const struct tier_graph_value *value = tier_graph_value(b->graph, v);
        struct tape_tensor t = {.shape = *tier_shapes_of(b->tape->shapes, v), .grad = TAPE_NONE};
        b->map[v] = (struct value_map){.tensor = {SIZE_MAX, SIZE_MAX}};
        if (value->kind == TIER_VALUE_INPUT)
            t.kind = TAPE_INPUT;
        else if (value->kind == TIER_VALUE_PARAM) {
            const struct tier_graph_param *p = tier_graph_param(b->graph, value->index);
            t.kind = TAPE_PARAM;
            t.place = p->at;
            t.frozen = p->trained && b->frozen && b->frozen[value->index];
            t.wants = p->trained && !t.frozen && b->tape->training;
        } else
            continue;
        TIER_TRY(new_tensor(b, &t, &b->map[v].tensor[TAPE_PLAIN]));
    }
    return TIER_OK;
}

static enum tier_status build(struct builder *b, size_t logits) {
    struct tape *t = b->tape;
    size_t nodes = tier_graph_node_count(b->graph), values = tier_graph_value_count(b->graph);

    b->map = calloc(values, sizeof *b->map);
    b->uses = calloc(values, sizeof *b->uses);
    b->reader = calloc(values, sizeof *b->reader);
    b->value_needed = calloc(values, sizeof *b->value_needed);
    b->needed = calloc(nodes + 1, sizeof *b->needed);
    b->melted = calloc(nodes + 1, sizeof *b->melted);
    b->melt = calloc(nodes + 1, sizeof *b->melt);
    if (!b->map || !b->uses || !b->reader || !b->value_needed || !b->needed || !b->melted ||
        !b->melt)
        return tier_fail(b->err, TIER_ENOMEM, "no memory for a model of %zu nodes", nodes);
    for (size_t v = 0; v < values; v++)
        b->reader[v] = SIZE_MAX;
    find_needed(b, logits);
    tape_find_melts(b);
    TIER_TRY(begin_values(b));
    for (size_t i = 0; i < nodes; i++)
        if (b->needed[i] && !b->melted[i])
            TIER_TRY(b->melt[i].there ? emit_melt(b, i) : emit(b, i));
    /* Losses and scores run over what lies last: classes. */
    TIER_TRY(tape_value_as(b, logits, TAPE_LAST, &t->logits));
    tape_touch_tensor(b, t->logits, t->step_count);
    if (t->training)
        TIER_TRY(tape_flow_back(b));
    if (b->const_floats) {
        enum kern_status ks = kern_buf_new(t->dev, b->const_floats * sizeof(float), &t->consts);
        if (ks == KERN_OK)
            ks = kern_upload(t->consts, 0, b->const_data, b->const_floats * sizeof(float));
        if (ks != KERN_OK)
            return tape_kern_fail(t->dev, ks, "a model's constants", b->err);
    }
    return tape_lay_out(t, b->err);
}

enum tier_status tape_new(struct kern_device *dev, const struct tier_graph *graph, size_t rows,
                          size_t logits, enum tape_use use, const bool *frozen, struct tape **out,
                          struct tier_err *err) {
    struct tape *t = calloc(1, sizeof *t);
    if (!t)
        return tier_fail(err, TIER_ENOMEM, "no memory for a model");
    *t = (struct tape){.dev = dev,
                       .graph = graph,
                       .rows = rows,
                       .training = use != TAPE_FOR_EVALUATION,
                       .keeps = use == TAPE_FOR_SAMPLES};
    struct builder b = {.tape = t, .graph = graph, .frozen = frozen, .err = err};
    enum tier_status st = tier_graph_infer(graph, rows, &t->shapes, err);
    if (st == TIER_OK)
        st = build(&b, logits);
    free(b.map);
    free(b.uses);
    free(b.reader);
    free(b.value_needed);
    free(b.needed);
    free(b.melted);
    free(b.melt);
    free(b.const_data);
    if (st != TIER_OK) {
        tape_free(t);
        return st;
    }
    *out = t;
    return TIER_OK;
}

void tape_free(struct tape *tape) {
    if (!tape)
        return;
    for (size_t i = 0; i < tape->step_count; i++) {
        struct tape_step *s = &tape->steps[i];
        tape_release_step(s);
        free(s->in);
        free(s->flow);
    }
    free(tape->steps);
    free(tape->tensors);
    free(tape->buffers);
    kern_buf_free(tape->consts);
    tier_shapes_free(tape->shapes);
    free(tape);
}
