/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The unpacked protobuf message, without the weights (tier/graph_file.h), stays for the life of the
 * graph: names point into it, and writing it back with other weights keeps whatever this reader
 * does not know. Unpacking runs on an allocator with a budget in proportion to the file, because a
 * few bytes on the wire can ask for a hundred in memory. Everything that has a name is then put in
 * one sorted table; a node may read only what stands before it, so order, cycles and undefined
 * names are one check.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw_data is little-endian float");

#define OPSET_MIN 7
#define OPSET_MAX 22

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

bool tier_graph_name_ok(const char *name) {
    if (!name || !*name)
        return false;
    size_t n = 0;
    for (; name[n]; n++)
        if (n >= TIER_TENSOR_NAME_LEN_MAX || name[n] < 0x20 || name[n] > 0x7e)
            return false;
    return true;
}

enum tier_status tier_graph_name_fail(struct tier_err *err, const char *what, size_t index) {
    return tier_fail(err, TIER_EMODEL,
                     "%s %zu has no usable name: 1 to %d printable ASCII characters are needed",
                     what, index, TIER_TENSOR_NAME_LEN_MAX);
}

static int def_compare(const void *a, const void *b) {
    return strcmp(((const struct def *)a)->name, ((const struct def *)b)->name);
}

const struct def *tier_graph_def(const struct tier_graph *g, const char *name) {
    struct def key = {.name = name};
    return bsearch(&key, g->defs, g->defs_count, sizeof key, def_compare);
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

bool tier_graph_domain_ok(const char *domain) {
    return !domain || !*domain || strcmp(domain, "ai.onnx") == 0;
}

static enum tier_status check_model(const model_proto *m, struct tier_err *err) {
    const Consilium__Onnx__OperatorSetIdProto *opset = NULL;

    if (!m->graph)
        return tier_fail(err, TIER_EMODEL, "the ONNX file holds no graph");
    if (m->n_functions || m->n_training_info)
        return tier_fail(err, TIER_EMODEL,
                         "the ONNX file holds %s, which are not read: export the plain graph",
                         m->n_functions ? "functions" : "training graphs");
    for (size_t i = 0; i < m->n_opset_import; i++)
        if (tier_graph_domain_ok(m->opset_import[i]->domain))
            opset = m->opset_import[i];
    if (!opset || opset->version < OPSET_MIN || opset->version > OPSET_MAX)
        return tier_fail(err, TIER_EMODEL,
                         "the ONNX file uses operator set %" PRId64 ": %d to %d are read",
                         opset ? opset->version : 0, OPSET_MIN, OPSET_MAX);
    const graph_proto *g = m->graph;
    if (g->n_sparse_initializer)
        return tier_fail(err, TIER_EMODEL, "sparse initialisers are not read: store them dense");
    if (g->n_node == 0 || g->n_node > TIER_GRAPH_NODES_MAX)
        return tier_fail(err, TIER_ELIMIT, "the graph has %zu nodes: 1 to %d are read", g->n_node,
                         TIER_GRAPH_NODES_MAX);
    if (g->n_initializer == 0 || g->n_initializer > TIER_TENSORS_MAX)
        return tier_fail(err, TIER_ELIMIT, "the graph has %zu initialisers: 1 to %d are read",
                         g->n_initializer, TIER_TENSORS_MAX);
    return TIER_OK;
}

/* ---- parameters ---------------------------------------------------------------------------- */

static enum tier_status check_values(const struct tier_graph *g, size_t index,
                                     struct tier_err *err) {
    const tensor_proto *t = g->model->graph->initializer[index];
    const struct tier_graph_param *p = &g->params[index];
    uint64_t apart = g->weights[index].bytes;
    uint64_t raw = apart ? apart : t->has_raw_data ? t->raw_data.len : 0;
    uint64_t have = raw ? raw / sizeof(float) : t->n_float_data;
    bool twice =
        (t->has_raw_data && t->n_float_data) || (apart && (t->has_raw_data || t->n_float_data));
    float block[4096];

    if (twice || raw % sizeof(float) != 0 || have != p->elements)
        return tier_fail(err, TIER_EMODEL,
                         "initialiser '%s' holds %" PRIu64 " floats where its shape says %" PRIu64,
                         p->name, have, p->elements);
    for (uint64_t at = 0, n; at < p->elements; at += n) {
        n = p->elements - at < 4096 ? p->elements - at : 4096;
        TIER_TRY(tier_graph_read(g, index, at, n, block, err));
        for (uint64_t i = 0; i < n; i++)
            if (!isfinite(block[i]))
                return tier_fail(err, TIER_EMODEL,
                                 "initialiser '%s' is not finite at element %" PRIu64, p->name,
                                 at + i);
    }
    return TIER_OK;
}

static enum tier_status read_param(struct tier_graph *g, size_t index, struct tier_err *err) {
    const tensor_proto *t = g->model->graph->initializer[index];
    struct tier_graph_param *p = &g->params[index];

    if (!tier_graph_name_ok(t->name))
        return tier_graph_name_fail(err, "initialiser", index);
    p->name = t->name;
    if (t->n_external_data || (t->has_data_location && t->data_location != 0))
        return tier_fail(err, TIER_EMODEL,
                         "initialiser '%s' lies outside the file: store weights in it", p->name);
    if (t->data_type != CONSILIUM__ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT)
        return tier_fail(err, TIER_EMODEL,
                         "initialiser '%s' has element type %d: only float (1) is read", p->name,
                         t->data_type);
    if (t->n_dims != 1 && t->n_dims != 2)
        return tier_fail(err, TIER_EMODEL, "initialiser '%s' has %zu dimensions: 1 or 2 are read",
                         p->name, t->n_dims);
    p->elements = 1;
    p->dims_count = t->n_dims;
    for (size_t d = 0; d < t->n_dims; d++) {
        if (t->dims[d] < 1 ||
            __builtin_mul_overflow(p->elements, (uint64_t)t->dims[d], &p->elements) ||
            p->elements > TIER_ELEMENTS_MAX)
            return tier_fail(err, TIER_EMODEL, "initialiser '%s' has an impossible shape", p->name);
        p->dims[d] = (uint64_t)t->dims[d];
    }
    TIER_TRY(check_values(g, index, err));
    p->at = g->elements;
    g->elements += p->elements; /* the file's size bounds the sum */
    return TIER_OK;
}

/* ---- names, input and output --------------------------------------------------------------- */

static enum tier_status find_input(struct tier_graph *g, struct tier_err *err) {
    const graph_proto *gp = g->model->graph;
    const value_proto *input = NULL;

    for (size_t i = 0; i < gp->n_input; i++) {
        if (!tier_graph_name_ok(gp->input[i]->name))
            return tier_graph_name_fail(err, "input", i);
        const struct def *def = tier_graph_def(g, gp->input[i]->name);
        if (def && def->kind == DEF_PARAM)
            continue; /* files of IR version 3 list initialisers among the inputs */
        if (input)
            return tier_fail(err, TIER_EMODEL,
                             "the graph has the inputs '%s' and '%s': one is read", input->name,
                             gp->input[i]->name);
        input = gp->input[i];
    }
    if (!input)
        return tier_fail(err, TIER_EMODEL, "the graph has no input");
    g->input_name = input->name;
    const Consilium__Onnx__TypeProto__Tensor *t = input->type ? input->type->tensor_type : NULL;
    if (!t || t->elem_type != CONSILIUM__ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT || !t->shape ||
        t->shape->n_dim != 2)
        return tier_fail(err, TIER_EMODEL, "input '%s' must be float [N, features]", input->name);
    if (t->shape->dim[0]->has_dim_value)
        return tier_fail(err, TIER_EMODEL,
                         "input '%s' fixes the batch at %" PRId64
                         ": export it with a symbolic first dimension",
                         input->name, t->shape->dim[0]->dim_value);
    int64_t features = t->shape->dim[1]->has_dim_value ? t->shape->dim[1]->dim_value : 0;
    if (features < 1 || (uint64_t)features > TIER_GRAPH_COLS_MAX)
        return tier_fail(err, TIER_EMODEL,
                         "input '%s' must say its number of features, 1 to %" PRIu64, input->name,
                         TIER_GRAPH_COLS_MAX);
    g->cols[0] = (uint64_t)features;
    return TIER_OK;
}

/* Every name that nodes may read: parameters and node outputs, then the input, sorted. */
static enum tier_status index_names(struct tier_graph *g, struct tier_err *err) {
    const graph_proto *gp = g->model->graph;

    for (size_t i = 0; i < g->param_count; i++)
        g->defs[g->defs_count++] = (struct def){g->params[i].name, DEF_PARAM, i};
    for (size_t i = 0; i < gp->n_node; i++) {
        if (gp->node[i]->n_output != 1 || !tier_graph_name_ok(gp->node[i]->output[0]))
            return tier_fail(err, TIER_EMODEL, "node %zu must have one named output", i);
        g->defs[g->defs_count++] = (struct def){gp->node[i]->output[0], DEF_NODE, i};
    }
    qsort(g->defs, g->defs_count, sizeof *g->defs, def_compare);
    TIER_TRY(find_input(g, err));
    if (tier_graph_def(g, g->input_name))
        return tier_fail(err, TIER_EMODEL, "'%s' is both the input and made by a node",
                         g->input_name);
    g->defs[g->defs_count++] = (struct def){g->input_name, DEF_INPUT, 0};
    qsort(g->defs, g->defs_count, sizeof *g->defs, def_compare);
    for (size_t i = 1; i < g->defs_count; i++)
        if (strcmp(g->defs[i - 1].name, g->defs[i].name) == 0)
            return tier_fail(err, TIER_EMODEL, "the name '%s' is given twice", g->defs[i].name);
    return TIER_OK;
}

static enum tier_status check_output(struct tier_graph *g, struct tier_err *err) {
    const graph_proto *gp = g->model->graph;

    if (gp->n_output != 1 || !tier_graph_name_ok(gp->output[0]->name))
        return tier_fail(err, TIER_EMODEL, "the graph has %zu outputs: one named output is read",
                         gp->n_output);
    const value_proto *output = gp->output[0];
    const struct def *def = tier_graph_def(g, output->name);
    if (!def || def->kind != DEF_NODE)
        return tier_fail(err, TIER_EMODEL, "output '%s' is made by no node", output->name);
    g->output_name = output->name;
    g->uses[def->index + 1]++;
    for (size_t i = 0; i < g->node_count; i++)
        if (g->uses[i + 1] == 0)
            return tier_fail(err, TIER_EMODEL, "nothing uses the output of node '%s'",
                             g->nodes[i].name);
    for (size_t i = 0; i < g->param_count; i++)
        if (g->param_uses[i] == 0)
            return tier_fail(err, TIER_EMODEL, "nothing uses the initialiser '%s'",
                             g->params[i].name);
    const Consilium__Onnx__TypeProto__Tensor *t = output->type ? output->type->tensor_type : NULL;
    if (!t || !t->shape)
        return TIER_OK;
    if (t->shape->n_dim != 2 || (t->shape->dim[1]->has_dim_value &&
                                 (uint64_t)t->shape->dim[1]->dim_value != g->cols[g->node_count]))
        return tier_fail(err, TIER_EMODEL,
                         "output '%s' is declared with another shape than the graph gives it, "
                         "[N, %" PRIu64 "]",
                         output->name, g->cols[g->node_count]);
    return TIER_OK;
}

/* ---- public -------------------------------------------------------------------------------- */

static enum tier_status allocate(struct tier_graph *g, struct tier_err *err) {
    const graph_proto *gp = g->model->graph;

    g->node_count = gp->n_node;
    g->param_count = gp->n_initializer;
    g->nodes = calloc(g->node_count, sizeof *g->nodes);
    g->params = calloc(g->param_count, sizeof *g->params);
    g->cols = calloc(g->node_count + 1, sizeof *g->cols);
    g->uses = calloc(g->node_count + 1, sizeof *g->uses);
    g->param_uses = calloc(g->param_count, sizeof *g->param_uses);
    g->defs = calloc(g->node_count + g->param_count + 1, sizeof *g->defs);
    if (!g->nodes || !g->params || !g->cols || !g->uses || !g->param_uses || !g->defs)
        return tier_fail(err, TIER_ENOMEM, "no memory for a graph of %zu nodes", g->node_count);
    return TIER_OK;
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
    TIER_TRY_OUT(check_model(g->model, err));
    TIER_TRY_OUT(allocate(g, err));
    for (size_t i = 0; i < g->param_count; i++)
        TIER_TRY_OUT(read_param(g, i, err));
    TIER_TRY_OUT(index_names(g, err));
    for (size_t i = 0; i < g->node_count; i++)
        TIER_TRY_OUT(tier_graph_read_node(g, i, err));
    TIER_TRY_OUT(check_output(g, err));
    free(g->defs);
    g->defs = NULL;
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
    if (g->model) {
        ProtobufCAllocator allocator = {budget_alloc, budget_free, NULL};
        consilium__onnx__model_proto__free_unpacked(g->model, &allocator);
    }
    graph_source_close(&g->source);
    free(g->weights);
    free(g->nodes);
    free(g->params);
    free(g->cols);
    free(g->uses);
    free(g->param_uses);
    free(g->defs);
    free(g);
}

const char *tier_graph_input_name(const struct tier_graph *g) {
    return g->input_name;
}

const char *tier_graph_output_name(const struct tier_graph *g) {
    return g->output_name;
}

uint64_t tier_graph_features(const struct tier_graph *g) {
    return g->cols[0];
}

uint64_t tier_graph_outputs(const struct tier_graph *g) {
    return g->cols[g->node_count];
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

enum tier_status tier_graph_read(const struct tier_graph *g, size_t i, uint64_t at, size_t n,
                                 float *out, struct tier_err *err) {
    const tensor_proto *t = g->model->graph->initializer[i];
    const struct graph_weights *apart = &g->weights[i];

    if (apart->bytes > 0)
        return graph_source_read(&g->source, apart->offset + at * sizeof *out, out, n * sizeof *out,
                                 err);
    if (t->has_raw_data)
        memcpy(out, t->raw_data.data + at * sizeof *out, n * sizeof *out);
    else
        memcpy(out, t->float_data + at, n * sizeof *out);
    return TIER_OK;
}

enum tier_status tier_graph_values(const struct tier_graph *g, float *values,
                                   struct tier_err *err) {
    for (size_t i = 0; i < g->param_count; i++)
        TIER_TRY(tier_graph_read(g, i, 0, g->params[i].elements, values + g->params[i].at, err));
    return TIER_OK;
}

enum tier_status tier_graph_write(const struct tier_graph *g, const float *values,
                                  uint8_t **bytes_out, size_t *len_out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    model_proto model = *g->model; /* shallow: the graph itself is shared and stays as it is */
    graph_proto graph = *g->model->graph;
    tensor_proto *tensors = calloc(g->param_count, sizeof *tensors);
    tensor_proto **list = calloc(g->param_count, sizeof(tensor_proto *));
    uint8_t *bytes = NULL;

    if (!tensors || !list) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to write a graph");
        goto out;
    }
    for (size_t i = 0; i < g->param_count; i++) {
        const struct tier_graph_param *p = &g->params[i];
        tensors[i] = *g->model->graph->initializer[i];
        tensors[i].n_float_data = 0;
        tensors[i].float_data = NULL;
        tensors[i].has_raw_data = 1;
        /* protobuf-c has no const in its messages; packing only reads. */
        tensors[i].raw_data.data = (uint8_t *)(uintptr_t)(const void *)(values + p->at);
        tensors[i].raw_data.len = p->elements * sizeof(float);
        list[i] = &tensors[i];
    }
    graph.initializer = list;
    model.graph = &graph;
    size_t len = consilium__onnx__model_proto__get_packed_size(&model);
    if (len > INT32_MAX) { /* protobuf's own limit, which other readers have */
        st = tier_fail(err, TIER_ELIMIT, "the ONNX file would have %zu bytes: %d are the most", len,
                       INT32_MAX);
        goto out;
    }
    bytes = malloc(len);
    if (!bytes) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for an ONNX file of %zu bytes", len);
        goto out;
    }
    *len_out = consilium__onnx__model_proto__pack(&model, bytes);
    *bytes_out = bytes;
out:
    free(tensors);
    free(list);
    return st;
}
