/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operators of a graph: what each may read, its attributes and its shape. A node's rule stands
 * in one table; whatever the table does not allow is refused by node and name.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* Attributes an operator may have; anything else is refused by name. */
static const struct op_rule {
    const char *text;
    enum tier_op op;
    size_t inputs_min, inputs_max;
    const char *floats[2];
    const char *ints[2];
} op_rules[] = {
    {"Gemm", TIER_OP_GEMM, 2, 3, {"alpha", "beta"}, {"transA", "transB"}},
    {"MatMul", TIER_OP_MATMUL, 2, 2, {NULL}, {NULL}},
    {"Add", TIER_OP_ADD_BIAS, 2, 2, {NULL}, {NULL}},
    {"Relu", TIER_OP_RELU, 1, 1, {NULL}, {NULL}},
    {"Sigmoid", TIER_OP_SIGMOID, 1, 1, {NULL}, {NULL}},
    {"Softmax", TIER_OP_SOFTMAX, 1, 1, {NULL}, {"axis", NULL}},
    {"Identity", TIER_OP_IDENTITY, 1, 1, {NULL}, {NULL}},
    {"Flatten", TIER_OP_IDENTITY, 1, 1, {NULL}, {"axis", NULL}},
};
#define OP_RULES (sizeof op_rules / sizeof op_rules[0])

static bool listed(const char *const names[2], const char *name) {
    return (names[0] && strcmp(names[0], name) == 0) || (names[1] && strcmp(names[1], name) == 0);
}

static enum tier_status check_attributes(const node_proto *np, const struct op_rule *rule,
                                         const char *name, struct tier_err *err) {
    for (size_t i = 0; i < np->n_attribute; i++) {
        const attr_proto *a = np->attribute[i];
        if (!tier_graph_name_ok(a->name))
            return tier_fail(err, TIER_EMODEL, "node '%s' (%s) has an attribute without a name",
                             name, rule->text);
        bool is_float = a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
        bool is_int = a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
        if (!(is_float && a->has_f && isfinite(a->f) && listed(rule->floats, a->name)) &&
            !(is_int && listed(rule->ints, a->name)))
            return tier_fail(err, TIER_EMODEL,
                             "node '%s' (%s) has the attribute '%.64s', which is not allowed "
                             "there or has the wrong type",
                             name, rule->text, a->name);
    }
    return TIER_OK;
}

static const attr_proto *attr(const node_proto *np, const char *name) {
    for (size_t i = 0; i < np->n_attribute; i++)
        if (strcmp(np->attribute[i]->name, name) == 0)
            return np->attribute[i];
    return NULL;
}

static float attr_float(const node_proto *np, const char *name, float otherwise) {
    const attr_proto *a = attr(np, name);
    return a ? a->f : otherwise;
}

static int64_t attr_int(const node_proto *np, const char *name, int64_t otherwise) {
    const attr_proto *a = attr(np, name);
    return a ? a->i : otherwise;
}

/* What input `i` of a node is; refused unless it stands before the node. */
static enum tier_status resolve(const struct tier_graph *g, size_t node, size_t i,
                                const struct def **def_out, struct tier_err *err) {
    const node_proto *np = g->model->graph->node[node];

    if (!tier_graph_name_ok(np->input[i]))
        return tier_fail(err, TIER_EMODEL, "node '%s': input %zu has no name", g->nodes[node].name,
                         i);
    const struct def *def = tier_graph_def(g, np->input[i]);
    if (!def)
        return tier_fail(err, TIER_EMODEL, "node '%s' reads '%s', which nothing makes",
                         g->nodes[node].name, np->input[i]);
    if (def->kind == DEF_NODE && def->index >= node)
        return tier_fail(err, TIER_EMODEL,
                         "node '%s' reads '%s', which is made later: nodes must stand in order",
                         g->nodes[node].name, np->input[i]);
    *def_out = def;
    return TIER_OK;
}

static void use_activation(struct tier_graph *g, struct tier_graph_node *node, int slot,
                           const struct def *def) {
    size_t v = def->kind == DEF_INPUT ? 0 : def->index + 1;
    node->x[slot] = (int32_t)v;
    g->uses[v]++;
}

static int32_t use_param(struct tier_graph *g, const struct def *def) {
    g->param_uses[def->index]++;
    return (int32_t)def->index;
}

/* A bias is [cols] or [1, cols]: one row, added to every row. */
static enum tier_status check_bias(const struct tier_graph *g, const struct tier_graph_node *node,
                                   const struct def *def, uint64_t cols, struct tier_err *err) {
    if (def->kind == DEF_PARAM) {
        const struct tier_graph_param *p = &g->params[def->index];
        if (p->dims[p->dims_count - 1] == cols && (p->dims_count == 1 || p->dims[0] == 1))
            return TIER_OK;
    }
    return tier_fail(err, TIER_EMODEL,
                     "node '%s' adds '%s', which must be an initialiser of shape [%" PRIu64 "]",
                     node->name, def->name, cols);
}

static enum tier_status read_gemm(struct tier_graph *g, size_t index, const struct op_rule *rule,
                                  struct tier_err *err) {
    const node_proto *np = g->model->graph->node[index];
    struct tier_graph_node *node = &g->nodes[index];
    const struct def *x, *w, *c;

    TIER_TRY(resolve(g, index, 0, &x, err));
    TIER_TRY(resolve(g, index, 1, &w, err));
    int64_t trans_a = attr_int(np, "transA", 0), trans_b = attr_int(np, "transB", 0);
    if (trans_a != 0 || trans_b < 0 || trans_b > 1)
        return tier_fail(err, TIER_EMODEL, "node '%s' (%s): transA must be 0 and transB 0 or 1",
                         node->name, rule->text);
    if (x->kind == DEF_PARAM || w->kind != DEF_PARAM || g->params[w->index].dims_count != 2)
        return tier_fail(err, TIER_EMODEL,
                         "node '%s' (%s) must multiply an activation by a two-dimensional "
                         "initialiser, in this order",
                         node->name, rule->text);
    use_activation(g, node, 0, x);
    node->weight = use_param(g, w);
    node->trans_b = trans_b == 1;
    node->alpha = attr_float(np, "alpha", 1.0f);
    node->beta = attr_float(np, "beta", 1.0f);
    node->cols_in = g->cols[node->x[0]];
    const struct tier_graph_param *p = &g->params[node->weight];
    uint64_t rows = p->dims[node->trans_b ? 1 : 0];
    node->cols_out = p->dims[node->trans_b ? 0 : 1];
    if (rows != node->cols_in)
        return tier_fail(err, TIER_EMODEL,
                         "node '%s' (%s) multiplies %" PRIu64 " columns by '%s', which takes "
                         "%" PRIu64,
                         node->name, rule->text, node->cols_in, p->name, rows);
    if (np->n_input == 3 && np->input[2] && *np->input[2]) {
        TIER_TRY(resolve(g, index, 2, &c, err));
        TIER_TRY(check_bias(g, node, c, node->cols_out, err));
        node->bias = use_param(g, c);
    }
    return TIER_OK;
}

static enum tier_status read_add(struct tier_graph *g, size_t index, struct tier_err *err) {
    struct tier_graph_node *node = &g->nodes[index];
    const struct def *a, *b;

    TIER_TRY(resolve(g, index, 0, &a, err));
    TIER_TRY(resolve(g, index, 1, &b, err));
    if (a->kind == DEF_PARAM) {
        const struct def *swap = a;
        a = b;
        b = swap;
    }
    if (a->kind == DEF_PARAM)
        return tier_fail(err, TIER_EMODEL, "node '%s' (Add) adds two initialisers", node->name);
    use_activation(g, node, 0, a);
    node->cols_in = node->cols_out = g->cols[node->x[0]];
    if (b->kind == DEF_PARAM) {
        TIER_TRY(check_bias(g, node, b, node->cols_out, err));
        node->bias = use_param(g, b);
        return TIER_OK;
    }
    node->op = TIER_OP_ADD;
    use_activation(g, node, 1, b);
    if (g->cols[node->x[1]] != node->cols_in)
        return tier_fail(err, TIER_EMODEL, "node '%s' (Add) adds %" PRIu64 " columns to %" PRIu64,
                         node->name, g->cols[node->x[1]], node->cols_in);
    return TIER_OK;
}

static enum tier_status read_unary(struct tier_graph *g, size_t index, const struct op_rule *rule,
                                   struct tier_err *err) {
    const node_proto *np = g->model->graph->node[index];
    struct tier_graph_node *node = &g->nodes[index];
    const struct def *x;

    TIER_TRY(resolve(g, index, 0, &x, err));
    if (x->kind == DEF_PARAM)
        return tier_fail(err, TIER_EMODEL, "node '%s' (%s) reads an initialiser, not an activation",
                         node->name, rule->text);
    /* In two dimensions axis 1 is the last one, the default of both operators in every set. */
    int64_t axis = attr_int(np, "axis", 1);
    if (axis != 1 && axis != -1)
        return tier_fail(err, TIER_EMODEL,
                         "node '%s' (%s) works along axis %" PRId64 ": only the last is read",
                         node->name, rule->text, axis);
    use_activation(g, node, 0, x);
    node->cols_in = node->cols_out = g->cols[node->x[0]];
    return TIER_OK;
}

enum tier_status tier_graph_read_node(struct tier_graph *g, size_t index, struct tier_err *err) {
    const node_proto *np = g->model->graph->node[index];
    struct tier_graph_node *node = &g->nodes[index];
    const struct op_rule *rule = NULL;
    enum tier_status st;

    node->name = np->name && *np->name ? np->name : np->output[0];
    node->x[0] = node->x[1] = node->weight = node->bias = TIER_GRAPH_NONE;
    node->alpha = node->beta = 1.0f;
    if (!tier_graph_name_ok(node->name))
        return tier_graph_name_fail(err, "node", index);
    if (!tier_graph_name_ok(np->op_type))
        return tier_fail(err, TIER_EMODEL, "node '%s' names no operator", node->name);
    for (size_t i = 0; i < OP_RULES; i++)
        if (strcmp(op_rules[i].text, np->op_type) == 0)
            rule = &op_rules[i];
    if (!rule || !tier_graph_domain_ok(np->domain))
        return tier_fail(err, TIER_EMODEL,
                         "node '%s' uses the operator %.64s%s, which is not allowed: Gemm, MatMul, "
                         "Add, Relu, Sigmoid, Softmax, Identity and Flatten are",
                         node->name, np->op_type, rule ? " of a domain of its own" : "");
    if (np->n_input < rule->inputs_min || np->n_input > rule->inputs_max)
        return tier_fail(err, TIER_EMODEL, "node '%s' (%s) has %zu inputs: %zu to %zu are needed",
                         node->name, rule->text, np->n_input, rule->inputs_min, rule->inputs_max);
    TIER_TRY(check_attributes(np, rule, node->name, err));
    node->op = rule->op;
    if (node->op == TIER_OP_GEMM || node->op == TIER_OP_MATMUL)
        st = read_gemm(g, index, rule, err);
    else if (node->op == TIER_OP_ADD_BIAS)
        st = read_add(g, index, err);
    else
        st = read_unary(g, index, rule, err);
    if (st != TIER_OK)
        return st;
    if (node->cols_out > TIER_GRAPH_COLS_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "node '%s' makes %" PRIu64 " columns: %" PRIu64 " are the most",
                         node->name, node->cols_out, TIER_GRAPH_COLS_MAX);
    g->cols[index + 1] = node->cols_out;
    return TIER_OK;
}

const char *tier_op_text(enum tier_op op) {
    if (op == TIER_OP_ADD)
        return "Add";
    for (size_t i = 0; i < OP_RULES; i++)
        if (op_rules[i].op == op)
            return op_rules[i].text;
    return "unknown operator";
}
