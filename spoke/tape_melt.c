/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several nodes that are one operation here. PyTorch exports GroupNorm up to ONNX's opset 20 as
 *
 *     Reshape to [N, groups, -1] -> InstanceNormalization by 1 and 0 -> Reshape back
 *         -> Mul by [channels, 1, ...] -> Add of [channels, 1, ...]
 *
 * which would turn the image four times between layouts, and as often on the way back. The last two
 * are missing where it has no parameters.
 */
#include "spoke/tape_build.h"

/* The only node that reads `value`, where it is one of `op`; else NULL. */
static const struct tier_graph_node *only_reader(const struct builder *b, size_t value,
                                                 enum tier_op op) {
    if (b->uses[value] != 1 || b->reader[value] == SIZE_MAX)
        return NULL;
    const struct tier_graph_node *n = tier_graph_node(b->graph, b->reader[value]);
    return n->op == op ? n : NULL;
}

static bool is_all(const struct builder *b, int32_t value, float wanted) {
    const float *v = value < 0 ? NULL : tier_shapes_floats(b->tape->shapes, (size_t)value);
    uint64_t n = v ? tier_shapes_of(b->tape->shapes, (size_t)value)->elements : 0;
    for (uint64_t i = 0; i < n; i++)
        if (v[i] != wanted)
            return false;
    return n > 0;
}

static bool same_shape(const struct tier_shape *a, const struct tier_shape *c) {
    bool same = a->rank == c->rank;
    for (unsigned i = 0; same && i < a->rank; i++)
        same = a->dims[i] == c->dims[i];
    return same;
}

/* The operand beside `value`, where it has one element for each channel of images like x. */
static bool a_channel_each(const struct builder *b, const struct tier_graph_node *n, size_t value,
                           const struct tier_shape *x, size_t *out) {
    int32_t other = (size_t)n->in[0] == value ? n->in[1] : n->in[0];
    if (other < 0)
        return false;
    const struct tier_shape *s = tier_shapes_of(b->tape->shapes, (size_t)other);
    if (s->rank + 1 < x->rank || s->rank > x->rank || s->elements != x->dims[1])
        return false;
    *out = (size_t)other;
    return s->dims[s->rank + 1 - x->rank] == x->dims[1];
}

static void melt_group_norm(struct builder *b, size_t norm) {
    const struct tier_graph_node *n = tier_graph_node(b->graph, norm);
    size_t in = (size_t)n->in[0], last;
    const struct tier_graph_value *v = tier_graph_value(b->graph, in);
    if (v->kind != TIER_VALUE_NODE || b->uses[in] != 1 || !b->needed[v->index])
        return;
    const struct tier_graph_node *first = tier_graph_node(b->graph, v->index);
    const struct tier_graph_node *back = only_reader(b, (size_t)n->out[0], TIER_OP_RESHAPE);
    if (first->op != TIER_OP_RESHAPE || !back || !is_all(b, n->in[1], 1) || !is_all(b, n->in[2], 0))
        return;
    struct tape_melt m = {.there = true, .x = (size_t)first->in[0], .norm = norm};
    const struct tier_shape *x = tier_shapes_of(b->tape->shapes, m.x);
    const struct tier_shape *mid = tier_shapes_of(b->tape->shapes, in);
    size_t end = (size_t)back->out[0];
    if (x->rank < 3 || mid->rank != 3 || mid->dims[0] != x->dims[0] ||
        x->dims[1] % mid->dims[1] != 0 || !same_shape(x, tier_shapes_of(b->tape->shapes, end)))
        return;
    m.groups = mid->dims[1];
    last = b->reader[(size_t)n->out[0]];
    b->melted[v->index] = b->melted[norm] = true;

    const struct tier_graph_node *mul = only_reader(b, end, TIER_OP_MUL);
    const struct tier_graph_node *add = mul && a_channel_each(b, mul, end, x, &m.scale)
                                            ? only_reader(b, (size_t)mul->out[0], TIER_OP_ADD)
                                            : NULL;
    if (add && a_channel_each(b, add, (size_t)mul->out[0], x, &m.bias)) {
        m.affine = b->melted[last] = b->melted[b->reader[end]] = true;
        last = b->reader[(size_t)mul->out[0]];
    }
    b->melt[last] = m;
}

void tape_find_melts(struct builder *b) {
    for (size_t i = 0; i < tier_graph_node_count(b->graph); i++)
        if (b->needed[i] && tier_graph_node(b->graph, i)->op == TIER_OP_INSTANCE_NORM)
            melt_group_norm(b, i);
}
