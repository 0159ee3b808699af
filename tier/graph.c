/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The unpacked protobuf message, without the weights (tier/graph_file.h), stays for the life of the
 * graph: names point into it, and writing it back with other weights keeps whatever this reader
 * does not know. Unpacking runs on an allocator with a budget in proportion to the file, because a
 * few bytes on the wire can ask for a hundred in memory.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct budget {
    uint64_t left;
    bool over;
};

static void *budget_alloc(void *data, size_t size) {
    struct budget *b = data;
    uint64_t cost = (uint64_t)size + 16;
    if (cost > b->left) {
        b->over = true;
        return NULL;
    }
    b->left -= cost;
    return malloc(size);
}

static void budget_free(void *data, void *p) {
    (void)data;
    free(p);
}

/* ---- the file ------------------------------------------------------------------------------ */

static enum tier_status unpack(const void *bytes, size_t len, model_proto **out,
                               struct tier_err *err) {
    struct budget budget = {.left = 2 * (uint64_t)len + (UINT64_C(64) << 20)};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};

    model_proto *model = consilium__onnx__model_proto__unpack(&allocator, len, bytes);
    if (!model && budget.over)
        return tier_fail(err, TIER_ELIMIT,
                         "the ONNX file asks for far more memory than its %zu bytes: it is not a "
                         "model",
                         len);
    if (!model)
        return tier_fail(err, TIER_EMODEL, "this is not an ONNX file, or it is cut short");
    *out = model;
    return TIER_OK;
}

bool graph_domain_ok(const char *domain) {
    return !domain || !*domain || strcmp(domain, "ai.onnx") == 0;
}

static enum tier_status check_model(const model_proto *m, int *opset_out, struct tier_err *err) {
    const Consilium__Onnx__OperatorSetIdProto *opset = NULL;

    if (!m->graph)
        return tier_fail(err, TIER_EMODEL, "the ONNX file holds no graph");
    if (m->n_functions || m->n_training_info)
        return tier_fail(err, TIER_EMODEL,
                         "the ONNX file holds %s, which are not read: export the plain graph",
                         m->n_functions ? "functions" : "training graphs");
    for (size_t i = 0; i < m->n_opset_import; i++)
        if (graph_domain_ok(m->opset_import[i]->domain))
            opset = m->opset_import[i];
    if (!opset || opset->version < GRAPH_OPSET_MIN || opset->version > GRAPH_OPSET_MAX)
        return tier_fail(err, TIER_EMODEL,
                         "the ONNX file uses operator set %" PRId64 ": %d to %d are read",
                         opset ? opset->version : 0, GRAPH_OPSET_MIN, GRAPH_OPSET_MAX);
    const graph_proto *g = m->graph;
    if (g->n_sparse_initializer)
        return tier_fail(err, TIER_EMODEL, "sparse initialisers are not read: store them dense");
    if (g->n_node == 0 || g->n_node > TIER_GRAPH_NODES_MAX)
        return tier_fail(err, TIER_ELIMIT, "the graph has %zu nodes: 1 to %d are read", g->n_node,
                         TIER_GRAPH_NODES_MAX);
    if (g->n_initializer == 0 || g->n_initializer > TIER_TENSORS_MAX)
        return tier_fail(err, TIER_ELIMIT, "the graph has %zu initialisers: 1 to %d are read",
                         g->n_initializer, TIER_TENSORS_MAX);
    *opset_out = (int)opset->version;
    return TIER_OK;
}

/* ---- the graph as a whole ------------------------------------------------------------------ */

/* What the graph declares of its output beyond the first dimension must be what it computes. */
static enum tier_status check_output(const struct tier_graph *g, const struct tier_shape *made,
                                     struct tier_err *err) {
    const value_proto *output = g->model->graph->output[0];
    const Consilium__Onnx__TypeProto__Tensor *t = output->type ? output->type->tensor_type : NULL;
    bool same = true;
    char text[GRAPH_SHAPE_TEXT];

    if (!t || !t->shape)
        return TIER_OK;
    if (t->shape->n_dim > 0 && t->shape->dim[0]->has_dim_value)
        return tier_fail(err, TIER_EMODEL,
                         "output '%s' fixes the batch at %" PRId64
                         ": export it with a symbolic first dimension",
                         output->name, t->shape->dim[0]->dim_value);
    same = t->shape->n_dim == made->rank;
    for (unsigned k = 1; same && k < made->rank; k++)
        same = !t->shape->dim[k]->has_dim_value ||
               (uint64_t)t->shape->dim[k]->dim_value == made->dims[k];
    if (!same)
        return tier_fail(err, TIER_EMODEL,
                         "output '%s' is declared with another shape than the graph gives it, %s "
                         "for a batch of %" PRIu64,
                         output->name, graph_shape_text(made, text), made->dims[0]);
    return TIER_OK;
}

/* Which types values have, and who reads them when it is executed. */
static void count_uses(struct tier_graph *g, const struct tier_shapes *shapes) {
    for (size_t v = 0; v < g->value_count; v++) {
        g->values[v].type = shapes->tensors[v].type;
        if (!graph_constant(&shapes->tensors[v]))
            g->values[v].type = TIER_TYPE_FLOAT; /* token ids are executed as floats */
    }
    for (size_t i = 0; i < g->node_count; i++) {
        const struct tier_graph_node *n = &g->nodes[i];
        for (size_t k = 0; k < n->in_count && !shapes->calls[i].folded; k++)
            if (n->in[k] != TIER_GRAPH_NONE)
                g->values[n->in[k]].uses++;
    }
    g->values[g->output].uses++;
}

/* A graph that takes one batch size and not another has the size in it somewhere. */
static enum tier_status check_batches(struct tier_graph *g, struct tier_err *err) {
    static const uint64_t others[] = {1, 3};
    struct tier_shapes *shapes = NULL;
    struct tier_err own = {0};
    enum tier_status st = tier_graph_infer(g, 2, &shapes, &own);

    if (st == TIER_OK)
        count_uses(g, shapes);
    for (size_t i = 0; i < 2 && (st == TIER_OK || st == TIER_EMODEL); i++) {
        struct tier_shapes *other = NULL;
        struct tier_err theirs = {0};
        enum tier_status other_st = tier_graph_infer(g, others[i], &other, &theirs);
        tier_shapes_free(other);
        if ((other_st == TIER_OK) == (st == TIER_OK))
            continue;
        bool two = st == TIER_OK;
        st = tier_fail(err, TIER_EMODEL,
                       "the graph takes a batch of %" PRIu64 " but not of %" PRIu64
                       ": export it with a dynamic batch axis (%.300s)",
                       two ? UINT64_C(2) : others[i], two ? others[i] : UINT64_C(2),
                       two ? theirs.text : own.text);
        goto out;
    }
    if (st != TIER_OK) {
        tier_fail(err, st, "%s", own.text);
        goto out;
    }
    const struct tier_shape *made = tier_shapes_of(shapes, g->output);
    g->outputs = made->elements / 2;
    g->classes = made->rank < 2 ? 1 : made->dims[1];
    if (g->outputs > TIER_GRAPH_COLS_MAX)
        st = tier_fail(err, TIER_ELIMIT,
                       "the graph has %" PRIu64 " outputs: %" PRIu64 " are the most", g->outputs,
                       TIER_GRAPH_COLS_MAX);
    else
        st = check_output(g, made, err);
out:
    tier_shapes_free(shapes);
    return st;
}

/* Takes the source, whatever comes of it. */
static enum tier_status parse(struct graph_source *source, struct tier_graph **graph_out,
                              struct tier_err *err) {
    enum tier_status st;
    struct tier_graph *g = calloc(1, sizeof *g);
    uint8_t *skeleton = NULL;
    size_t len = 0;

    if (!g) {
        graph_source_close(source);
        return tier_fail(err, TIER_ENOMEM, "no memory for a graph");
    }
    g->source = *source;
    TIER_TRY_OUT(graph_skeleton(&g->source, &skeleton, &len, &g->weights, &g->weights_count, err));
    TIER_TRY_OUT(unpack(skeleton, len, &g->model, err));
    TIER_TRY_OUT(check_model(g->model, &g->opset, err));
    TIER_TRY_OUT(graph_draft(g, err));
    TIER_TRY_OUT(check_batches(g, err));
    *graph_out = g;
    g = NULL;
out:
    free(skeleton);
    tier_graph_free(g);
    return st;
}

enum tier_status tier_graph_parse(const void *bytes, size_t len, struct tier_graph **graph_out,
                                  struct tier_err *err) {
    struct graph_source source;

    TIER_TRY(graph_source_copy(&source, bytes, len, err));
    return parse(&source, graph_out, err);
}

enum tier_status tier_graph_open(const char *path, struct tier_graph **graph_out,
                                 struct tier_err *err) {
    struct graph_source source;

    TIER_TRY(graph_source_open(&source, path, err));
    enum tier_status st = parse(&source, graph_out, err);
    if (st != TIER_OK)
        tier_err_prefix(err, "%s", path);
    return st;
}

void tier_graph_free(struct tier_graph *g) {
    if (!g)
        return;
    for (size_t i = 0; i < g->constant_count; i++) {
        free(g->constants[i].f);
        free(g->constants[i].i);
    }
    if (g->model) {
        ProtobufCAllocator allocator = {budget_alloc, budget_free, NULL};
        consilium__onnx__model_proto__free_unpacked(g->model, &allocator);
    }
    graph_source_close(&g->source);
    free(g->weights);
    free(g->values);
    free(g->nodes);
    free(g->steps);
    free(g->refs);
    free(g->params);
    free(g->param_init);
    free(g->constants);
    free(g);
}

const char *tier_graph_input_name(const struct tier_graph *g) {
    return g->input_name;
}

const char *tier_graph_output_name(const struct tier_graph *g) {
    return g->output_name;
}

uint64_t tier_graph_features(const struct tier_graph *g) {
    return g->features;
}

uint64_t tier_graph_outputs(const struct tier_graph *g) {
    return g->outputs;
}

uint64_t tier_graph_classes(const struct tier_graph *g) {
    return g->classes;
}

size_t tier_graph_value_count(const struct tier_graph *g) {
    return g->value_count;
}

const struct tier_graph_value *tier_graph_value(const struct tier_graph *g, size_t i) {
    return &g->values[i];
}

size_t tier_graph_input(const struct tier_graph *g) {
    (void)g;
    return 0;
}

size_t tier_graph_output(const struct tier_graph *g) {
    return g->output;
}

size_t tier_graph_node_count(const struct tier_graph *g) {
    return g->node_count;
}

const struct tier_graph_node *tier_graph_node(const struct tier_graph *g, size_t i) {
    return &g->nodes[i];
}

size_t tier_graph_param_count(const struct tier_graph *g) {
    return g->param_count;
}

const struct tier_graph_param *tier_graph_param(const struct tier_graph *g, size_t i) {
    return &g->params[i];
}

uint64_t tier_graph_elements(const struct tier_graph *g) {
    return g->elements;
}

uint64_t tier_graph_trained(const struct tier_graph *g) {
    return g->trained;
}
