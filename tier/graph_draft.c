/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the file's names to numbers. Everything that has a name is put in one sorted table; a node
 * may read only what stands before it, so order, cycles and undefined names are one check. Then one
 * pass back from the output says of each thing whether anything needs it, and whether what needs it
 * executes on it or only computes settings with it: the float initialisers that are executed on are
 * the parameters.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Raw numbers: the input is 0, then initialisers, then all outputs of all nodes, in file order. */
struct def {
    const char *name;
    size_t raw;
};

struct raw {
    const char *name;
    size_t node; /* that makes it */
    bool made;   /* false: an output that may be named but not read */
    bool live;   /* the output needs it */
    bool run;    /* and what is executed reads its elements */
    bool state;  /* as BatchNormalization's mean or variance */
    bool weight; /* as anything else */
    int32_t value;
};

struct draft {
    struct tier_graph *g;
    const graph_proto *gp;
    struct raw *raws;
    size_t raw_count;
    struct def *defs;
    const struct graph_rule **rules;
    size_t *first_in, *first_out; /* of each node, in `reads` and among the raws */
    int32_t *reads;               /* raws that nodes read, TIER_GRAPH_NONE where left out */
    size_t output;                /* raw */
    struct tier_err *err;
};

bool graph_name_ok(const char *name) {
    if (!name || !*name)
        return false;
    size_t n = 0;
    for (; name[n]; n++)
        if (n >= TIER_TENSOR_NAME_LEN_MAX || name[n] < 0x20 || name[n] > 0x7e)
            return false;
    return true;
}

enum tier_status graph_name_fail(struct tier_err *err, const char *what, size_t index) {
    return tier_fail(err, TIER_EMODEL,
                     "%s %zu has no usable name: 1 to %d printable ASCII characters are needed",
                     what, index, TIER_TENSOR_NAME_LEN_MAX);
}

static int def_compare(const void *a, const void *b) {
    return strcmp(((const struct def *)a)->name, ((const struct def *)b)->name);
}

static const char *node_name(const node_proto *np) {
    return np->name && *np->name ? np->name : np->output[0];
}

/* ---- names --------------------------------------------------------------------------------- */

static enum tier_status allocate(struct draft *d) {
    const graph_proto *gp = d->gp;
    size_t inputs = 0, outputs = 0;

    for (size_t i = 0; i < gp->n_node; i++) {
        inputs += gp->node[i]->n_input;
        outputs += gp->node[i]->n_output;
    }
    d->raw_count = 1 + gp->n_initializer + outputs;
    if (d->raw_count > GRAPH_NAMES_MAX || inputs > GRAPH_NAMES_MAX)
        return tier_fail(d->err, TIER_ELIMIT, "the graph has more than %d tensors or reads more",
                         GRAPH_NAMES_MAX);
    d->raws = calloc(d->raw_count, sizeof *d->raws);
    d->defs = calloc(d->raw_count, sizeof *d->defs);
    d->rules = calloc(gp->n_node + 1, sizeof(const struct graph_rule *));
    d->first_in = calloc(gp->n_node + 1, sizeof *d->first_in);
    d->first_out = calloc(gp->n_node + 1, sizeof *d->first_out);
    d->reads = calloc(inputs + 1, sizeof *d->reads);
    if (!d->raws || !d->defs || !d->rules || !d->first_in || !d->first_out || !d->reads)
        return tier_fail(d->err, TIER_ENOMEM, "no memory for a graph of %zu nodes", gp->n_node);
    return TIER_OK;
}

static bool is_initialiser(const char *name, const struct def *defs, size_t count) {
    struct def key = {.name = name};
    return bsearch(&key, defs, count, sizeof key, def_compare) != NULL;
}

/* "float [N, ...]" */
static enum tier_status read_input_shape(struct draft *d, const value_proto *input) {
    const Consilium__Onnx__TypeProto__Tensor *t = input->type ? input->type->tensor_type : NULL;
    struct tier_shape *s = &d->g->input;
    uint64_t features = 1;

    if (!t ||
        (t->elem_type != ONNX_FLOAT && t->elem_type != ONNX_INT64 && t->elem_type != ONNX_INT32) ||
        !t->shape || t->shape->n_dim < 2 || t->shape->n_dim > TIER_DIMS_MAX)
        return tier_fail(d->err, TIER_EMODEL,
                         "input '%s' must be float [N, ...] with 2 to %d dimensions", input->name,
                         TIER_DIMS_MAX);
    d->g->input_is_int = t->elem_type != ONNX_FLOAT;
    if (t->shape->dim[0]->has_dim_value)
        return tier_fail(d->err, TIER_EMODEL,
                         "input '%s' fixes the batch at %" PRId64
                         ": export it with a symbolic first dimension",
                         input->name, t->shape->dim[0]->dim_value);
    s->rank = (unsigned)t->shape->n_dim;
    for (unsigned k = 1; k < s->rank; k++) {
        int64_t dim = t->shape->dim[k]->has_dim_value ? t->shape->dim[k]->dim_value : 0;
        if (dim < 1 || __builtin_mul_overflow(features, (uint64_t)dim, &features) ||
            features > TIER_GRAPH_COLS_MAX)
            return tier_fail(d->err, TIER_EMODEL,
                             "input '%s' must say every dimension but the first as a number, "
                             "together 1 to %" PRIu64 " features",
                             input->name, TIER_GRAPH_COLS_MAX);
        s->dims[k] = (uint64_t)dim;
    }
    d->g->features = features;
    return TIER_OK;
}

/* The one input that is no initialiser: files of IR version 3 list those among the inputs. */
static enum tier_status find_input(struct draft *d, const struct def *initialisers) {
    const graph_proto *gp = d->gp;
    const value_proto *input = NULL;

    for (size_t i = 0; i < gp->n_input; i++) {
        if (!graph_name_ok(gp->input[i]->name))
            return graph_name_fail(d->err, "input", i);
        if (is_initialiser(gp->input[i]->name, initialisers, gp->n_initializer))
            continue;
        if (input)
            return tier_fail(d->err, TIER_EMODEL,
                             "the graph has the inputs '%s' and '%s': one is read", input->name,
                             gp->input[i]->name);
        input = gp->input[i];
    }
    if (!input)
        return tier_fail(d->err, TIER_EMODEL, "the graph has no input");
    d->g->input_name = input->name;
    d->raws[0] = (struct raw){.name = input->name, .made = true};
    return read_input_shape(d, input);
}

/* Every name, and whose it is. */
static enum tier_status collect(struct draft *d) {
    const graph_proto *gp = d->gp;
    size_t at = 1;

    for (size_t i = 0; i < gp->n_initializer; i++, at++) {
        const tensor_proto *t = gp->initializer[i];
        if (!graph_name_ok(t->name))
            return graph_name_fail(d->err, "initialiser", i);
        if (t->n_external_data || (t->has_data_location && t->data_location != 0))
            return tier_fail(d->err, TIER_EMODEL,
                             "initialiser '%s' lies outside the file: store weights in it",
                             t->name);
        d->raws[at] = (struct raw){.name = t->name, .made = true};
        d->defs[i] = (struct def){t->name, at};
    }
    qsort(d->defs, gp->n_initializer, sizeof *d->defs, def_compare);
    TIER_TRY(find_input(d, d->defs));
    for (size_t i = 0; i < gp->n_node; i++) {
        d->first_out[i] = at;
        for (size_t k = 0; k < gp->node[i]->n_output; k++, at++)
            d->raws[at] = (struct raw){.name = gp->node[i]->output[k], .node = i};
    }
    return TIER_OK;
}

/* Sorts the names; those that are empty, which only what is not made may have, stay out. */
static enum tier_status index_names(struct draft *d, size_t *count_out) {
    size_t n = 0;

    for (size_t i = 0; i < d->raw_count; i++)
        if (d->raws[i].name && *d->raws[i].name)
            d->defs[n++] = (struct def){d->raws[i].name, i};
    qsort(d->defs, n, sizeof *d->defs, def_compare);
    for (size_t i = 1; i < n; i++)
        if (strcmp(d->defs[i - 1].name, d->defs[i].name) == 0)
            return tier_fail(d->err, TIER_EMODEL, "the name '%.200s' is given twice",
                             d->defs[i].name);
    *count_out = n;
    return TIER_OK;
}

/* ---- nodes --------------------------------------------------------------------------------- */

static enum tier_status check_outputs(struct draft *d, size_t node) {
    const node_proto *np = d->gp->node[node];

    if (np->n_output == 0 || !graph_name_ok(np->output[0]))
        return tier_fail(d->err, TIER_EMODEL, "node %zu must have a named output", node);
    if (np->name && *np->name && !graph_name_ok(np->name))
        return graph_name_fail(d->err, "node", node);
    return graph_rule_find(np, node_name(np), d->g->opset, &d->rules[node], d->err);
}

static enum tier_status mark_made(struct draft *d, size_t node) {
    const node_proto *np = d->gp->node[node];

    for (size_t k = 0; k < np->n_output; k++) {
        struct raw *raw = &d->raws[d->first_out[node] + k];
        raw->made = k < d->rules[node]->made;
        if ((raw->made || *raw->name) && !graph_name_ok(raw->name))
            return tier_fail(d->err, TIER_EMODEL, "node '%s' (%s): output %zu has no usable name",
                             node_name(np), d->rules[node]->text, k);
    }
    return TIER_OK;
}

/* What the node reads: it must stand before it. */
static enum tier_status resolve(struct draft *d, size_t node, size_t defs) {
    const node_proto *np = d->gp->node[node];
    const char *name = node_name(np);

    for (size_t i = 0; i < np->n_input; i++) {
        int32_t *read = &d->reads[d->first_in[node] + i];
        *read = TIER_GRAPH_NONE;
        if (!*np->input[i] && i >= d->rules[node]->in_min)
            continue;
        if (!*np->input[i] && d->rules[node]->op == TIER_OP_RESIZE)
            continue;
        if (!graph_name_ok(np->input[i]))
            return tier_fail(d->err, TIER_EMODEL, "node '%s': input %zu has no name", name, i);
        struct def key = {.name = np->input[i]};
        const struct def *def = bsearch(&key, d->defs, defs, sizeof key, def_compare);
        if (!def)
            return tier_fail(d->err, TIER_EMODEL, "node '%s' reads '%s', which nothing makes", name,
                             np->input[i]);
        const struct raw *raw = &d->raws[def->raw];
        if (def->raw >= d->first_out[node])
            return tier_fail(d->err, TIER_EMODEL,
                             "node '%s' reads '%s', which is made later: nodes must stand in order",
                             name, np->input[i]);
        if (!raw->made)
            return tier_fail(d->err, TIER_EMODEL,
                             "node '%s' reads '%s', an output of '%s' (%s) that is not computed "
                             "here",
                             name, np->input[i], node_name(d->gp->node[raw->node]),
                             d->rules[raw->node]->text);
        *read = (int32_t)def->raw;
    }
    return TIER_OK;
}

static enum tier_status read_nodes(struct draft *d) {
    size_t defs = 0, reads = 0;

    for (size_t i = 0; i < d->gp->n_node; i++) {
        TIER_TRY(check_outputs(d, i));
        TIER_TRY(mark_made(d, i));
        d->first_in[i] = reads;
        reads += d->gp->node[i]->n_input;
    }
    TIER_TRY(index_names(d, &defs));
    for (size_t i = 0; i < d->gp->n_node; i++)
        TIER_TRY(resolve(d, i, defs));
    const graph_proto *gp = d->gp;
    if (gp->n_output != 1 || !graph_name_ok(gp->output[0]->name))
        return tier_fail(d->err, TIER_EMODEL, "the graph has %zu outputs: one named output is read",
                         gp->n_output);
    struct def key = {.name = gp->output[0]->name};
    const struct def *def = bsearch(&key, d->defs, defs, sizeof key, def_compare);
    if (!def || def->raw < d->first_out[0] || !d->raws[def->raw].made)
        return tier_fail(d->err, TIER_EMODEL, "output '%s' is made by no node", key.name);
    d->output = def->raw;
    d->g->output_name = key.name;
    return TIER_OK;
}

/* ---- what is needed, and for what ---------------------------------------------------------- */

static void mark_reads(struct draft *d, size_t node, bool run) {
    const struct graph_rule *rule = d->rules[node];
    bool norm = rule->op == TIER_OP_BATCH_NORM;

    for (size_t i = 0; i < d->gp->node[node]->n_input; i++) {
        int32_t read = d->reads[d->first_in[node] + i];
        if (read == TIER_GRAPH_NONE)
            continue;
        struct raw *raw = &d->raws[read];
        raw->live = true;
        if (!run || (rule->op != TIER_OP_COUNT && !graph_rule_tensor(rule, i)) ||
            graph_rule_unread(rule, i))
            continue;
        raw->run = true;
        if (norm && i >= 3)
            raw->state = true;
        else
            raw->weight = true;
    }
}

/* Whether anything needs the node, and whether it is executed. */
static bool node_live(const struct draft *d, size_t node, bool *run) {
    bool live = false;

    *run = false;
    for (size_t k = 0; k < d->gp->node[node]->n_output; k++) {
        live |= d->raws[d->first_out[node] + k].live;
        *run |= d->raws[d->first_out[node] + k].run;
    }
    return live;
}

static void mark(struct draft *d) {
    bool run;

    d->raws[d->output].live = d->raws[d->output].run = true;
    for (size_t i = d->gp->n_node; i-- > 0;)
        if (node_live(d, i, &run))
            mark_reads(d, i, run);
}

/* ---- numbers ------------------------------------------------------------------------------- */

static bool is_float(const tensor_proto *t) {
    return t->data_type == ONNX_FLOAT || t->data_type == ONNX_DOUBLE;
}

static bool is_param(const struct draft *d, size_t init) {
    const tensor_proto *t = d->gp->initializer[init];
    return is_float(t) && t->n_dims > 0 && d->raws[1 + init].run;
}

static enum tier_status add_param(struct draft *d, size_t init) {
    struct tier_graph *g = d->g;
    const tensor_proto *t = d->gp->initializer[init];
    const struct raw *raw = &d->raws[1 + init];
    struct tier_graph_param *p = &g->params[g->param_count];
    struct tier_shape shape;

    if (t->data_type != ONNX_FLOAT)
        return tier_fail(d->err, TIER_EMODEL,
                         "initialiser '%s' has element type %d: only float (1) is trained", t->name,
                         t->data_type);
    if (raw->state && raw->weight)
        return tier_fail(d->err, TIER_EMODEL,
                         "initialiser '%s' is a running statistic of a BatchNormalization and is "
                         "read elsewhere too: export the model for training and without optimising "
                         "(PyTorch: optimize=False), so that each has its own",
                         t->name);
    TIER_TRY(graph_tensor_shape(t, t->name, &shape, d->err));
    if (shape.elements == 0)
        return tier_fail(d->err, TIER_EMODEL, "initialiser '%s' has an impossible shape", t->name);
    *p = (struct tier_graph_param){.name = t->name,
                                   .dims_count = shape.rank,
                                   .elements = shape.elements,
                                   .at = g->elements,
                                   .trained = !raw->state};
    memcpy(p->dims, shape.dims, sizeof p->dims);
    g->param_init[g->param_count++] = init;
    TIER_TRY(graph_param_check(g, g->param_count - 1, d->err));
    g->elements += p->elements; /* the file's size bounds the sum */
    return TIER_OK;
}

static size_t add_value(struct draft *d, size_t raw, enum tier_value_kind kind, size_t index) {
    struct tier_graph *g = d->g;
    g->values[g->value_count] =
        (struct tier_graph_value){.name = d->raws[raw].name, .kind = kind, .index = index};
    d->raws[raw].value = (int32_t)g->value_count;
    return g->value_count++;
}

static enum tier_status number_params(struct draft *d) {
    struct tier_graph *g = d->g;
    size_t n = d->gp->n_initializer;

    for (size_t i = 0; i < n; i++)
        if (!d->raws[1 + i].live && is_float(d->gp->initializer[i]) &&
            d->gp->initializer[i]->n_dims > 0)
            return tier_fail(d->err, TIER_EMODEL, "nothing uses the initialiser '%s'",
                             d->raws[1 + i].name);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < n; i++) {
            if (!is_param(d, i) || d->raws[1 + i].weight == (pass == 1))
                continue;
            TIER_TRY(add_param(d, i));
            add_value(d, 1 + i, TIER_VALUE_PARAM, g->param_count - 1);
        }
        if (pass == 0)
            g->trained = g->elements;
    }
    if (g->trained == 0)
        return tier_fail(d->err, TIER_EMODEL,
                         "the graph has nothing to train: no float initialiser");
    return TIER_OK;
}

static enum tier_status number_constants(struct draft *d) {
    struct tier_graph *g = d->g;
    uint64_t all = 0;

    for (size_t i = 0; i < d->gp->n_initializer; i++) {
        if (!d->raws[1 + i].live || is_param(d, i))
            continue;
        struct graph_tensor *c = &g->constants[g->constant_count];
        TIER_TRY(graph_tensor_load(&g->source, d->gp->initializer[i], &g->weights[i],
                                   d->raws[1 + i].name, c, d->err));
        all += c->shape.elements;
        if (all > GRAPH_WORK_MAX)
            return tier_fail(d->err, TIER_ELIMIT,
                             "the constants of the graph have more than %" PRIu64
                             " elements together",
                             GRAPH_WORK_MAX);
        add_value(d, 1 + i, TIER_VALUE_CONSTANT, g->constant_count++);
    }
    return TIER_OK;
}

/* `refs` is filled front to back: a node's inputs, those it executes on, its outputs. `reads` holds
 * what it reads as values. */
static void add_node(struct draft *d, size_t node, const struct graph_rule *rule, bool run,
                     const int32_t *reads, size_t count, int32_t **refs) {
    struct tier_graph *g = d->g;
    const node_proto *np = d->gp->node[node];
    struct tier_graph_node *n = &g->nodes[g->node_count];
    struct graph_step *step = &g->steps[g->node_count];
    int32_t *p = *refs;

    *step = (struct graph_step){.np = np, .rule = rule, .all = p, .all_count = count, .idle = !run};
    for (size_t i = 0; i < count; i++)
        *p++ = reads[i];
    *n = (struct tier_graph_node){.op = rule->op, .name = node_name(np), .in = p};
    for (size_t i = 0; i < count; i++)
        if (graph_rule_tensor(rule, i) || rule->gated)
            *p++ = reads[i];
    while (p > n->in && p[-1] == TIER_GRAPH_NONE) /* "" at the end is as good as nothing */
        p--;
    n->in_count = (size_t)(p - n->in);
    n->out = p;
    for (size_t k = 0; k < np->n_output && k < rule->made; k++)
        *p++ = (int32_t)add_value(d, d->first_out[node] + k, TIER_VALUE_NODE, g->node_count);
    n->out_count = (size_t)(p - n->out);
    g->node_count++;
    *refs = p;
}

static void number_node(struct draft *d, size_t node, bool run, int32_t **refs) {
    const struct graph_rule *rule = d->rules[node];
    int32_t *reads = &d->reads[d->first_in[node]];
    size_t count = d->gp->node[node]->n_input;

    for (size_t i = 0; i < count; i++) /* raws become values: nobody else looks at these */
        reads[i] = reads[i] == TIER_GRAPH_NONE ? reads[i] : d->raws[reads[i]].value;
    if (!rule->gated) {
        add_node(d, node, rule, run, reads, count, refs);
        return;
    }
    add_node(d, node, rule->gated, run, reads, 1, refs);
    int32_t both[] = {reads[0], (int32_t)d->g->value_count - 1};
    add_node(d, node, rule, run, both, 2, refs);
}

static enum tier_status number(struct draft *d) {
    struct tier_graph *g = d->g;
    const graph_proto *gp = d->gp;
    size_t reads = gp->n_node ? d->first_in[gp->n_node - 1] + gp->node[gp->n_node - 1]->n_input : 0;
    bool run;

    /* A gated node is two, with a value and up to five references more. */
    g->values = calloc(d->raw_count + gp->n_node, sizeof *g->values);
    g->params = calloc(gp->n_initializer + 1, sizeof *g->params);
    g->param_init = calloc(gp->n_initializer + 1, sizeof *g->param_init);
    g->constants = calloc(gp->n_initializer + 1, sizeof *g->constants);
    g->nodes = calloc(2 * gp->n_node, sizeof *g->nodes);
    g->steps = calloc(2 * gp->n_node, sizeof *g->steps);
    g->refs = calloc(2 * reads + d->raw_count + 5 * gp->n_node, sizeof *g->refs);
    if (!g->values || !g->params || !g->param_init || !g->constants || !g->nodes || !g->steps ||
        !g->refs)
        return tier_fail(d->err, TIER_ENOMEM, "no memory for a graph of %zu nodes", gp->n_node);
    int32_t *refs = g->refs;
    add_value(d, 0, TIER_VALUE_INPUT, 0);
    TIER_TRY(number_params(d));
    TIER_TRY(number_constants(d));
    for (size_t i = 0; i < gp->n_node; i++)
        if (node_live(d, i, &run))
            number_node(d, i, run, &refs);
    g->output = (size_t)d->raws[d->output].value;
    return TIER_OK;
}

enum tier_status graph_draft(struct tier_graph *g, struct tier_err *err) {
    struct draft d = {.g = g, .gp = g->model->graph, .err = err};
    enum tier_status st;

    TIER_TRY_OUT(allocate(&d));
    TIER_TRY_OUT(collect(&d));
    TIER_TRY_OUT(read_nodes(&d));
    mark(&d);
    st = number(&d);
out:
    free(d.raws);
    free(d.defs);
    free(d.rules);
    free(d.first_in);
    free(d.first_out);
    free(d.reads);
    return st;
}
