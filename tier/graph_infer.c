/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Goes through a graph's nodes for one batch size. Each node's rule gives its outputs types and
 * shapes and fills in its call; then, where all that it reads is constant, it is folded: computed
 * here and now. What an exporter writes to compute a shape (Shape, Gather, Concat, ...) is gone
 * when a rule asks for a setting.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what rules are written with ----------------------------------------------------------- */

enum tier_status graph_bad(const struct graph_at *at, const char *fmt, ...) {
    char text[320];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return tier_fail(at->err, TIER_EMODEL, "node '%.120s' (%s): %s", at->node->name,
                     at->step->rule->text, text);
}

size_t graph_in_count(const struct graph_at *at) {
    return at->step->all_count;
}

const struct graph_tensor *graph_in(const struct graph_at *at, size_t i) {
    if (i >= at->step->all_count || at->step->all[i] == TIER_GRAPH_NONE)
        return NULL;
    return &at->shapes->tensors[at->step->all[i]];
}

const char *graph_in_name(const struct graph_at *at, size_t i) {
    return at->graph->values[at->step->all[i]].name;
}

struct graph_tensor *graph_out(const struct graph_at *at, size_t k) {
    return &at->shapes->tensors[at->node->out[k]];
}

enum tier_status graph_give(const struct graph_at *at, size_t k, enum tier_type type, unsigned rank,
                            const uint64_t *dims) {
    struct graph_tensor *out = graph_out(at, k);
    struct tier_shape s = {.rank = rank, .elements = 1};

    if (rank > TIER_DIMS_MAX)
        return graph_bad(at, "makes %u dimensions: %d are the most", rank, TIER_DIMS_MAX);
    for (unsigned d = 0; d < rank; d++) {
        if (__builtin_mul_overflow(s.elements, dims[d], &s.elements) ||
            s.elements > TIER_ELEMENTS_MAX)
            return tier_fail(at->err, TIER_ELIMIT,
                             "node '%.120s' (%s) makes more than %" PRIu64 " elements",
                             at->node->name, at->step->rule->text, TIER_ELEMENTS_MAX);
        s.dims[d] = dims[d];
    }
    out->type = type;
    out->shape = s;
    return TIER_OK;
}

enum tier_status graph_axis(const struct graph_at *at, int64_t axis, unsigned rank, unsigned *out) {
    if (axis < -(int64_t)rank || axis >= (int64_t)rank)
        return graph_bad(at, "axis %" PRId64 " of a tensor with %u dimensions", axis, rank);
    *out = (unsigned)(axis < 0 ? axis + rank : axis);
    return TIER_OK;
}

bool graph_same_shape(const struct tier_shape *a, const struct tier_shape *b) {
    return a->rank == b->rank && memcmp(a->dims, b->dims, a->rank * sizeof a->dims[0]) == 0;
}

const char *graph_shape_text(const struct tier_shape *s, char text[GRAPH_SHAPE_TEXT]) {
    size_t used = (size_t)snprintf(text, GRAPH_SHAPE_TEXT, "[");

    for (unsigned d = 0; d < s->rank; d++)
        used += (size_t)snprintf(text + used, GRAPH_SHAPE_TEXT - used, "%s%" PRIu64, d ? ", " : "",
                                 s->dims[d]);
    snprintf(text + used, GRAPH_SHAPE_TEXT - used, "]");
    return text;
}

float graph_attr_float(const struct graph_at *at, const char *name, float otherwise) {
    const attr_proto *a = graph_attr(at->step->np, name);
    return a ? a->f : otherwise;
}

int64_t graph_attr_int(const struct graph_at *at, const char *name, int64_t otherwise) {
    const attr_proto *a = graph_attr(at->step->np, name);
    return a ? a->i : otherwise;
}

enum tier_status graph_attr_flag(const struct graph_at *at, const char *name, bool otherwise,
                                 bool *out) {
    int64_t v = graph_attr_int(at, name, otherwise);

    if (v != 0 && v != 1)
        return graph_bad(at, "%s is %" PRId64 ": 0 or 1 would be right", name, v);
    *out = v == 1;
    return TIER_OK;
}

bool graph_attr_is(const struct graph_at *at, const char *name, const char *text,
                   const char *otherwise) {
    const attr_proto *a = graph_attr(at->step->np, name);

    if (!a)
        return strcmp(text, otherwise) == 0;
    return a->s.len == strlen(text) && memcmp(a->s.data, text, a->s.len) == 0;
}

/* The setting's tensor: constant, of the type, with at most one dimension. */
static enum tier_status setting(const struct graph_at *at, size_t i, enum tier_type type,
                                const struct graph_tensor **out) {
    const struct graph_tensor *t = graph_in(at, i);

    *out = NULL;
    if (!t)
        return TIER_OK;
    if (!graph_constant(t))
        return graph_bad(at,
                         "'%.80s' must be constant, but it is computed from the data or is itself "
                         "a parameter",
                         graph_in_name(at, i));
    if (t->type != type || t->shape.rank > 1)
        return graph_bad(at, "'%.80s' must be a list of %s", graph_in_name(at, i),
                         type == TIER_TYPE_INT ? "integers" : "floats");
    *out = t;
    return TIER_OK;
}

enum tier_status graph_int_list(const struct graph_at *at, size_t i, const char *attr,
                                const int64_t **out, size_t *n_out) {
    const attr_proto *a = attr ? graph_attr(at->step->np, attr) : NULL;
    const struct graph_tensor *t;
    static const int64_t empty;

    *out = NULL;
    *n_out = 0;
    TIER_TRY(setting(at, i, TIER_TYPE_INT, &t));
    if (t) {
        *out = t->i;
        *n_out = (size_t)t->shape.elements;
    } else if (a) {
        *out = a->n_ints ? a->ints : &empty;
        *n_out = a->n_ints;
    }
    return TIER_OK;
}

enum tier_status graph_float_list(const struct graph_at *at, size_t i, const char *attr,
                                  const float **out, size_t *n_out) {
    const attr_proto *a = attr ? graph_attr(at->step->np, attr) : NULL;
    const struct graph_tensor *t;
    static const float empty;

    *out = NULL;
    *n_out = 0;
    TIER_TRY(setting(at, i, TIER_TYPE_FLOAT, &t));
    if (t) {
        *out = t->f;
        *n_out = (size_t)t->shape.elements;
    } else if (a) {
        *out = a->n_floats ? a->floats : &empty;
        *n_out = a->n_floats;
    }
    return TIER_OK;
}

enum tier_status graph_scalar(const struct graph_at *at, size_t i, float *out) {
    const struct graph_tensor *t = graph_in(at, i);

    if (!t)
        return TIER_OK;
    if (!graph_constant(t) || t->shape.elements != 1)
        return graph_bad(at, "'%.80s' must be one constant number", graph_in_name(at, i));
    *out = t->f ? t->f[0] : (float)t->i[0];
    return TIER_OK;
}

enum tier_status graph_fold_room(const struct graph_at *at, size_t k) {
    struct graph_tensor *out = graph_out(at, k);
    uint64_t n = out->shape.elements, work = n + 16;

    if (n > GRAPH_CONSTANT_MAX)
        return tier_fail(at->err, TIER_ELIMIT,
                         "node '%.120s' (%s) makes a constant of %" PRIu64 " elements: %" PRIu64
                         " are the most",
                         at->node->name, at->step->rule->text, n, GRAPH_CONSTANT_MAX);
    for (size_t i = 0; k == 0 && i < graph_in_count(at); i++) {
        const struct graph_tensor *in = graph_in(at, i);
        work += in && !graph_rule_unread(at->step->rule, i) ? in->shape.elements : 0;
    }
    if (work > at->shapes->work_left)
        return tier_fail(at->err, TIER_ELIMIT,
                         "node '%.120s' (%s): the graph computes with too many constants",
                         at->node->name, at->step->rule->text);
    at->shapes->work_left -= work;
    if (out->type == TIER_TYPE_INT)
        out->i = calloc((size_t)n + 1, sizeof *out->i);
    else
        out->f = calloc((size_t)n + 1, sizeof *out->f);
    if (!graph_constant(out))
        return tier_fail(at->err, TIER_ENOMEM, "no memory for a constant of %" PRIu64 " elements",
                         n);
    return TIER_OK;
}

/* ---- one node ------------------------------------------------------------------------------ */

static bool all_constant(const struct graph_at *at) {
    for (size_t i = 0; i < graph_in_count(at); i++) {
        const struct graph_tensor *t = graph_in(at, i);
        if (t && !graph_constant(t) && !graph_rule_unread(at->step->rule, i))
            return false;
    }
    return true;
}

/* What is left to execute makes something, and computes with floats: integers are only moved. */
static enum tier_status check_executed(const struct graph_at *at) {
    const struct graph_rule *rule = at->step->rule;
    bool moves =
        rule->op >= TIER_OP_CONCAT && rule->op <= TIER_OP_GATHER && rule->op != TIER_OP_PAD;

    if (rule->op == TIER_OP_COUNT) {
        size_t i = 0;
        while (i + 1 < graph_in_count(at) && (!graph_in(at, i) || graph_constant(graph_in(at, i))))
            i++;
        return graph_bad(at,
                         "'%.80s' is no constant: this operator is allowed on shapes and settings "
                         "only",
                         graph_in_count(at) ? graph_in_name(at, i) : "");
    }
    for (size_t k = 0; k < at->node->in_count; k++) {
        int32_t v = at->node->in[k];
        if (v != TIER_GRAPH_NONE && at->shapes->tensors[v].i &&
            (rule->op != TIER_OP_GATHER || k != 1))
            return graph_bad(at, "'%.80s' is a constant of integers: only floats are executed upon",
                             at->graph->values[v].name);
    }
    for (size_t k = 0; k < at->node->out_count; k++) {
        const struct graph_tensor *out = graph_out(at, k);
        if (out->shape.elements == 0)
            return graph_bad(at, "makes a tensor without elements");
        if (out->type == TIER_TYPE_INT && !moves)
            return graph_bad(at,
                             "computes with integers that come from the data: they may be moved "
                             "and used as indices of a Gather only");
    }
    return TIER_OK;
}

static enum tier_status infer_node(struct graph_at *at) {
    const struct graph_rule *rule = at->step->rule;

    for (size_t i = 0; i < at->step->all_count && !rule->fold; i++) {
        const struct graph_tensor *t = graph_in(at, i);
        if (t && t->shape.elements == 0 && graph_rule_tensor(rule, i))
            return graph_bad(at, "'%.80s' has no elements", graph_in_name(at, i));
    }
    TIER_TRY(rule->shape(at));
    if (rule->fold && all_constant(at)) {
        at->call->folded = true;
        return rule->fold(at);
    }
    TIER_TRY(check_executed(at));
    at->call->folded = at->step->idle; /* only its shape was wanted */
    return TIER_OK;
}

/* ---- all of them --------------------------------------------------------------------------- */

/* The values that are there before any node. */
static void give_values(struct tier_shapes *s) {
    const struct tier_graph *g = s->graph;

    for (size_t v = 0; v < g->value_count; v++) {
        struct graph_tensor *t = &s->tensors[v];
        size_t index = g->values[v].index;
        if (g->values[v].kind == TIER_VALUE_INPUT) {
            t->type = g->input_is_int ? TIER_TYPE_INT : TIER_TYPE_FLOAT;
            t->shape = g->input;
            t->shape.dims[0] = s->batch;
            t->shape.elements = s->batch * g->features;
        } else if (g->values[v].kind == TIER_VALUE_PARAM) {
            const struct tier_graph_param *p = &g->params[index];
            t->shape = (struct tier_shape){(unsigned)p->dims_count, {0}, p->elements};
            memcpy(t->shape.dims, p->dims, sizeof t->shape.dims);
        } else if (g->values[v].kind == TIER_VALUE_CONSTANT) {
            *t = g->constants[index];
        }
    }
}

static enum tier_status check_output(const struct tier_shapes *s, struct tier_err *err) {
    const struct tier_graph *g = s->graph;
    const struct graph_tensor *out = &s->tensors[g->output];
    char text[GRAPH_SHAPE_TEXT];

    if (graph_constant(out) || out->type != TIER_TYPE_FLOAT)
        return tier_fail(err, TIER_EMODEL, "output '%s' is %s", g->output_name,
                         graph_constant(out) ? "constant: it does not depend on the input"
                                             : "of integers: floats are needed");
    if (out->shape.rank < 1 || out->shape.dims[0] != s->batch)
        return tier_fail(err, TIER_EMODEL,
                         "output '%s' has the shape %s for a batch of %" PRIu64
                         ": the first dimension must be the batch; export the model with a dynamic "
                         "batch axis",
                         g->output_name, graph_shape_text(&out->shape, text), s->batch);
    return TIER_OK;
}

enum tier_status tier_graph_infer(const struct tier_graph *g, uint64_t batch,
                                  struct tier_shapes **out, struct tier_err *err) {
    enum tier_status st;

    if (batch < 1 || batch > TIER_ELEMENTS_MAX / g->features)
        return tier_fail(err, TIER_ELIMIT, "a batch of %" PRIu64 " rows of %" PRIu64 " features",
                         batch, g->features);
    struct tier_shapes *s = calloc(1, sizeof *s);
    if (!s)
        return tier_fail(err, TIER_ENOMEM, "no memory for shapes");
    *s = (struct tier_shapes){.graph = g, .batch = batch, .work_left = GRAPH_WORK_MAX};
    s->tensors = calloc(g->value_count, sizeof *s->tensors);
    s->calls = calloc(g->node_count, sizeof *s->calls);
    if (!s->tensors || !s->calls) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for the shapes of %zu values", g->value_count);
        goto out;
    }
    give_values(s);
    for (size_t i = 0; i < g->node_count; i++) {
        struct graph_at at = {.graph = g,
                              .shapes = s,
                              .step = &g->steps[i],
                              .node = &g->nodes[i],
                              .call = &s->calls[i],
                              .opset = g->opset,
                              .err = err};
        TIER_TRY_OUT(infer_node(&at));
    }
    TIER_TRY_OUT(check_output(s, err));
    *out = s;
    s = NULL;
out:
    tier_shapes_free(s);
    return st;
}

void tier_shapes_free(struct tier_shapes *s) {
    if (!s)
        return;
    for (size_t v = 0; s->tensors && v < s->graph->value_count; v++) {
        if (s->graph->values[v].kind != TIER_VALUE_NODE)
            continue;
        free(s->tensors[v].f);
        free(s->tensors[v].i);
    }
    free(s->tensors);
    free(s->calls);
    free(s);
}

const struct tier_shape *tier_shapes_of(const struct tier_shapes *s, size_t value) {
    return &s->tensors[value].shape;
}

const struct tier_call *tier_shapes_call(const struct tier_shapes *s, size_t node) {
    return &s->calls[node];
}

const float *tier_shapes_floats(const struct tier_shapes *s, size_t value) {
    return s->tensors[value].f;
}

const int64_t *tier_shapes_ints(const struct tier_shapes *s, size_t value) {
    return s->tensors[value].i;
}
