/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What graph.c (the file, its names and parameters) and graph_node.c (its operators) share. Only
 * these two include it, and they alone know the protobuf messages.
 */
#ifndef CONSILIUM_TIER_GRAPH_PRIV_H
#define CONSILIUM_TIER_GRAPH_PRIV_H

#include "onnx.pb-c.h"
#include "tier/graph.h"
#include "tier/graph_file.h"

typedef Consilium__Onnx__ModelProto model_proto;
typedef Consilium__Onnx__GraphProto graph_proto;
typedef Consilium__Onnx__NodeProto node_proto;
typedef Consilium__Onnx__TensorProto tensor_proto;
typedef Consilium__Onnx__AttributeProto attr_proto;
typedef Consilium__Onnx__ValueInfoProto value_proto;

/* Everything that has a name, in one table. */
enum def_kind { DEF_INPUT, DEF_PARAM, DEF_NODE };
struct def {
    const char *name;
    enum def_kind kind;
    size_t index;
};

struct tier_graph {
    struct graph_source source;
    struct graph_weights *weights; /* of each parameter */
    size_t weights_count;
    model_proto *model; /* without what the weights say lies in the source */
    const char *input_name, *output_name;
    uint64_t *cols;       /* of each activation */
    uint32_t *uses;       /* of each activation */
    uint32_t *param_uses; /* of each parameter */
    struct def *defs;     /* by name; only while parsing */
    size_t defs_count;
    struct tier_graph_node *nodes;
    size_t node_count;
    struct tier_graph_param *params;
    size_t param_count;
    uint64_t elements;
};

/* Names stand in messages and manifests: printable ASCII, bounded, not empty. */
bool tier_graph_name_ok(const char *name);
enum tier_status tier_graph_name_fail(struct tier_err *err, const char *what, size_t index);
const struct def *tier_graph_def(const struct tier_graph *g, const char *name); /* or NULL */
bool tier_graph_domain_ok(const char *domain); /* the default domain, in either spelling */
/* Reads and checks node `index`; those before it are read. */
enum tier_status tier_graph_read_node(struct tier_graph *g, size_t index, struct tier_err *err);

#endif
