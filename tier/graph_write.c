/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A trained model goes back into the file that it came from, for others to run: values into their
 * initialisers, and what a file exported for training says of BatchNormalization and Dropout taken
 * back. Everything is copied shallowly and packed; the graph's own message stays as it is.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct writing {
    model_proto model; /* shallow: what it points to is the graph's, and stays as it is */
    graph_proto graph;
    tensor_proto *tensors;
    tensor_proto **list;
    uint8_t **loaded; /* of initialisers that lie apart and are no parameters */
    size_t count;
    node_proto *nodes;
    node_proto **node_list;
    attr_proto **attributes; /* of all nodes that lose one */
};

/* ---- values -------------------------------------------------------------------------------- */

/* Initialisers that are no parameters go back as they are: what lies apart is fetched. */
static enum tier_status copy_initialisers(const struct tier_graph *g, struct writing *w,
                                          struct tier_err *err) {
    for (size_t i = 0; i < w->count; i++) {
        w->tensors[i] = *g->model->graph->initializer[i];
        w->list[i] = &w->tensors[i];
    }
    for (size_t i = 0; i < g->param_count; i++)
        w->list[g->param_init[i]] = NULL;
    for (size_t i = 0; i < w->count; i++) {
        const struct graph_weights *apart = &g->weights[i];
        bool is_param = !w->list[i];
        w->list[i] = &w->tensors[i];
        if (is_param || apart->bytes == 0)
            continue;
        w->loaded[i] = malloc((size_t)apart->bytes);
        if (!w->loaded[i])
            return tier_fail(err, TIER_ENOMEM, "no memory to write a graph");
        TIER_TRY(
            graph_source_read(&g->source, apart->offset, w->loaded[i], (size_t)apart->bytes, err));
        w->tensors[i].has_raw_data = 1;
        w->tensors[i].raw_data.data = w->loaded[i];
        w->tensors[i].raw_data.len = (size_t)apart->bytes;
    }
    return TIER_OK;
}

static void put_params(const struct tier_graph *g, struct writing *w, const float *values) {
    for (size_t i = 0; i < g->param_count; i++) {
        const struct tier_graph_param *p = &g->params[i];
        tensor_proto *t = &w->tensors[g->param_init[i]];
        t->n_float_data = 0;
        t->float_data = NULL;
        t->has_raw_data = 1;
        /* protobuf-c has no const in its messages; packing only reads. */
        t->raw_data.data = (uint8_t *)(uintptr_t)(const void *)(values + p->at);
        t->raw_data.len = p->elements * sizeof(float);
    }
}

/* ---- from training to inference ------------------------------------------------------------ */

/* A copy of np without the attribute of this name; takes room for as many as np has. */
static void drop_attribute(node_proto *np, const char *name, attr_proto ***room) {
    attr_proto **kept = *room;
    size_t n = 0;

    for (size_t i = 0; i < np->n_attribute; i++)
        if (strcmp(np->attribute[i]->name, name) != 0)
            kept[n++] = np->attribute[i];
    *room += np->n_attribute;
    np->attribute = kept;
    np->n_attribute = n;
}

/*
 * In training BatchNormalization uses and gives the batch's statistics, and Dropout drops: in a
 * file for inference the one has no training_mode and no outputs but its result, the other no third
 * input. What they also made is read by nothing, or the graph would not have been accepted; what
 * made the third input is left unread.
 */
static void make_inference(const struct tier_graph *g, struct writing *w) {
    attr_proto **room = w->attributes;

    for (size_t i = 0; i < w->graph.n_node; i++) {
        node_proto *np = &w->nodes[i];
        *np = *g->model->graph->node[i];
        w->node_list[i] = np;
        if (!graph_domain_ok(np->domain))
            continue;
        bool norm = strcmp(np->op_type, "BatchNormalization") == 0;
        bool dropout = strcmp(np->op_type, "Dropout") == 0;
        if (norm)
            drop_attribute(np, "training_mode", &room);
        if (dropout && np->n_input > 2)
            np->n_input = *np->input[1] ? 2 : 1;
        if (norm || dropout)
            np->n_output = 1;
    }
    w->graph.node = w->node_list;
}

/* ---- the file ------------------------------------------------------------------------------ */

static enum tier_status too_large(uint64_t len, struct tier_err *err) {
    return tier_fail(err, TIER_ELIMIT,
                     "the ONNX file would have %" PRIu64 " bytes: %d are the most, for ONNX is one "
                     "protobuf message; a larger model is its .safetensors beside its graph",
                     len, INT32_MAX);
}

enum tier_status tier_graph_can_write(const struct tier_graph *g, struct tier_err *err) {
    uint64_t len = g->elements * sizeof(float);
    return len <= INT32_MAX ? TIER_OK : too_large(len, err);
}

static enum tier_status pack(const struct writing *w, uint8_t **bytes_out, size_t *len_out,
                             struct tier_err *err) {
    size_t len = consilium__onnx__model_proto__get_packed_size(&w->model);

    if (len > INT32_MAX) /* protobuf's own limit, which other readers have */
        return too_large(len, err);
    uint8_t *bytes = malloc(len);
    if (!bytes)
        return tier_fail(err, TIER_ENOMEM, "no memory for an ONNX file of %zu bytes", len);
    *len_out = consilium__onnx__model_proto__pack(&w->model, bytes);
    *bytes_out = bytes;
    return TIER_OK;
}

enum tier_status tier_graph_write(const struct tier_graph *g, const float *values,
                                  uint8_t **bytes_out, size_t *len_out, struct tier_err *err) {
    struct writing w = {.model = *g->model, .graph = *g->model->graph};
    size_t attributes = 0;
    enum tier_status st;

    TIER_TRY(tier_graph_can_write(g, err));
    for (size_t i = 0; i < w.graph.n_node; i++)
        attributes += w.graph.node[i]->n_attribute;
    w.count = w.graph.n_initializer;
    w.tensors = calloc(w.count + 1, sizeof *w.tensors);
    w.list = calloc(w.count + 1, sizeof(tensor_proto *));
    w.loaded = calloc(w.count + 1, sizeof(uint8_t *));
    w.nodes = calloc(w.graph.n_node + 1, sizeof *w.nodes);
    w.node_list = calloc(w.graph.n_node + 1, sizeof(node_proto *));
    w.attributes = calloc(attributes + 1, sizeof(attr_proto *));
    if (!w.tensors || !w.list || !w.loaded || !w.nodes || !w.node_list || !w.attributes) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to write a graph");
        goto out;
    }
    TIER_TRY_OUT(copy_initialisers(g, &w, err));
    put_params(g, &w, values);
    make_inference(g, &w);
    w.graph.initializer = w.list;
    w.model.graph = &w.graph;
    st = pack(&w, bytes_out, len_out, err);
out:
    for (size_t i = 0; w.loaded && i < w.count; i++)
        free(w.loaded[i]);
    free(w.tensors);
    free(w.list);
    free(w.loaded);
    free(w.nodes);
    free(w.node_list);
    free(w.attributes);
    return st;
}
