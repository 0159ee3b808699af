/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the graph reader share; nobody else includes it, and they alone know the
 * protobuf messages. From the file to numbers:
 *
 *   graph.c          the file, and the life of a graph
 *   graph_draft.c    names, order, what is needed; parameters and constants told apart
 *   graph_tensor.c   values, and reading them
 *   graph_write.c    a trained model as a file
 *   graph_rule.c     the allow-list of operators, and their attributes
 *   graph_infer.c    goes through the nodes for one batch size
 *   graph_shape.c, graph_window.c, graph_move.c    the rules of the operators
 *   graph_fold.c, graph_fold_move.c    computes what is constant
 */
#ifndef CONSILIUM_TIER_GRAPH_PRIV_H
#define CONSILIUM_TIER_GRAPH_PRIV_H

#include "onnx.pb-c.h"
#include "tier/graph.h"
#include "tier/graph_file.h"

/* Tensors with a name, and how often nodes read one. */
#define GRAPH_NAMES_MAX (1 << 20)

#define GRAPH_OPSET_MIN 7
#define GRAPH_OPSET_MAX 28

/* Elements of one constant; and what a pass over a graph may read and make of them in all, so that
 * a small file cannot cost minutes. */
#define GRAPH_CONSTANT_MAX (UINT64_C(1) << 20)
#define GRAPH_WORK_MAX (UINT64_C(1) << 25)
/* Kernels, strides, dilations and padding. */
#define GRAPH_WINDOW_MAX 65536

typedef Consilium__Onnx__ModelProto model_proto;
typedef Consilium__Onnx__GraphProto graph_proto;
typedef Consilium__Onnx__NodeProto node_proto;
typedef Consilium__Onnx__TensorProto tensor_proto;
typedef Consilium__Onnx__AttributeProto attr_proto;
typedef Consilium__Onnx__ValueInfoProto value_proto;

enum {
    ONNX_FLOAT = CONSILIUM__ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT,
    ONNX_INT32 = CONSILIUM__ONNX__TENSOR_PROTO__DATA_TYPE__INT32,
    ONNX_INT64 = CONSILIUM__ONNX__TENSOR_PROTO__DATA_TYPE__INT64,
    ONNX_BOOL = CONSILIUM__ONNX__TENSOR_PROTO__DATA_TYPE__BOOL,
    ONNX_DOUBLE = CONSILIUM__ONNX__TENSOR_PROTO__DATA_TYPE__DOUBLE
};

/* A value at one batch size. What is constant has data, by its type; the others have none. */
struct graph_tensor {
    enum tier_type type; /* ONNX's: an activation of integers (token ids) is TIER_TYPE_INT too */
    struct tier_shape shape;
    float *f;
    int64_t *i;
};

struct graph_at;
typedef enum tier_status graph_rule_fn(struct graph_at *at);

/* One operator in a range of operator sets. Where it is `gated` it is two nodes: what it is gated
 * by, on its only input, and the product of the two. */
struct graph_rule {
    const char *text;
    enum tier_op op; /* TIER_OP_COUNT: only ever folded */
    int since, until;
    size_t in_min, in_max;
    size_t out_max;    /* outputs that a file may name; all but the first `made` unread */
    size_t made;       /* values that it makes */
    uint32_t tensors;  /* a bit for each input that it executes on: the others are settings */
    const char *attrs; /* "i:axis F:scales": type (f i s t F I) and name of each */
    graph_rule_fn *shape;
    graph_rule_fn *fold; /* NULL: is executed on constants as on anything else */
    uint32_t unread;     /* a bit for each input of which it looks at shape or type only */
    const struct graph_rule *gated;
};
#define GRAPH_ALL UINT32_MAX
#define GRAPH_MANY 65536

/* What a node has beside tier_graph_node. */
struct graph_step {
    const node_proto *np;
    const struct graph_rule *rule;
    const int32_t *all; /* every input with the settings, TIER_GRAPH_NONE where left out */
    size_t all_count;
    bool idle; /* what is executed reads none of its outputs */
};

struct tier_graph {
    struct graph_source source;
    struct graph_weights *weights; /* of each initialiser */
    size_t weights_count;
    model_proto *model; /* without what the weights say lies in the source */
    int opset;
    const char *input_name, *output_name;
    size_t output; /* value */
    bool input_is_int;
    struct tier_shape input; /* with 0 for the batch */
    uint64_t features, outputs, classes;
    struct tier_graph_value *values;
    size_t value_count;
    struct tier_graph_node *nodes;
    struct graph_step *steps;
    size_t node_count;
    int32_t *refs; /* of all nodes: what their `in`, `out` and `all` point to */
    struct tier_graph_param *params;
    size_t *param_init; /* the initialiser of each */
    size_t param_count;
    struct graph_tensor *constants;
    size_t constant_count;
    uint64_t elements, trained;
};

/* A graph at one batch size. */
struct tier_shapes {
    const struct tier_graph *graph;
    uint64_t batch;
    struct graph_tensor *tensors; /* of each value; those of constants belong to the graph */
    struct tier_call *calls;      /* of each node */
    uint64_t work_left;
};

/* ---- names ---- */

/* Names stand in messages and manifests: printable ASCII, bounded, not empty. */
bool graph_name_ok(const char *name);
enum tier_status graph_name_fail(struct tier_err *err, const char *what, size_t index);
bool graph_domain_ok(const char *domain); /* the default domain, in either spelling */

/* ---- graph_rule.c ---- */

/* The node's rule in this operator set, its attributes and the number of its inputs and outputs
 * checked; or why it is not allowed. */
enum tier_status graph_rule_find(const node_proto *np, const char *name, int opset,
                                 const struct graph_rule **out, struct tier_err *err);
static inline bool graph_rule_unread(const struct graph_rule *rule, size_t input) {
    return input < 32 && (rule->unread >> input & 1);
}
static inline bool graph_rule_tensor(const struct graph_rule *rule, size_t input) {
    return rule->tensors == GRAPH_ALL || (input < 32 && (rule->tensors >> input & 1));
}
const attr_proto *graph_attr(const node_proto *np, const char *name); /* or NULL */

/* ---- graph_draft.c ---- */

/* Values, nodes, parameters and constants of an unpacked model. */
enum tier_status graph_draft(struct tier_graph *g, struct tier_err *err);

/* ---- graph_tensor.c ---- */

/* All of a tensor of at most GRAPH_CONSTANT_MAX elements; `apart` NULL or where its bytes lie. The
 * caller frees f and i. */
enum tier_status graph_tensor_load(const struct graph_source *source, const tensor_proto *t,
                                   const struct graph_weights *apart, const char *name,
                                   struct graph_tensor *out, struct tier_err *err);
/* A declared shape: every dimension at least 0, the product bounded. */
enum tier_status graph_tensor_shape(const tensor_proto *t, const char *name, struct tier_shape *out,
                                    struct tier_err *err);
/* That parameter `index` has the values its shape says, all finite. */
enum tier_status graph_param_check(const struct tier_graph *g, size_t index, struct tier_err *err);

/* ---- graph_infer.c: what rules are written with ---- */

/* A node under way. */
struct graph_at {
    const struct tier_graph *graph;
    struct tier_shapes *shapes;
    const struct graph_step *step;
    const struct tier_graph_node *node;
    struct tier_call *call;
    int opset;
    struct tier_err *err;
};

/* "node 'x' (Conv): ", then what is wrong. */
enum tier_status graph_bad(const struct graph_at *at, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
size_t graph_in_count(const struct graph_at *at);
/* Any input, settings too; NULL where it is left out. */
const struct graph_tensor *graph_in(const struct graph_at *at, size_t i);
const char *graph_in_name(const struct graph_at *at, size_t i);
struct graph_tensor *graph_out(const struct graph_at *at, size_t k);
static inline bool graph_constant(const struct graph_tensor *t) {
    return t->f || t->i;
}
/* Output k is of this type and shape; checked and counted. */
enum tier_status graph_give(const struct graph_at *at, size_t k, enum tier_type type, unsigned rank,
                            const uint64_t *dims);
/* -rank <= axis < rank, counted from 0. */
enum tier_status graph_axis(const struct graph_at *at, int64_t axis, unsigned rank, unsigned *out);
bool graph_same_shape(const struct tier_shape *a, const struct tier_shape *b);
/* "[2, 3, 8]" */
#define GRAPH_SHAPE_TEXT 200
const char *graph_shape_text(const struct tier_shape *s, char text[GRAPH_SHAPE_TEXT]);

float graph_attr_float(const struct graph_at *at, const char *name, float otherwise);
int64_t graph_attr_int(const struct graph_at *at, const char *name, int64_t otherwise);
/* 0 or 1. */
enum tier_status graph_attr_flag(const struct graph_at *at, const char *name, bool otherwise,
                                 bool *out);
bool graph_attr_is(const struct graph_at *at, const char *name, const char *text,
                   const char *otherwise);
/* A setting that is a list of integers: input `i` where there is one, else the attribute; *out NULL
 * where neither is given. */
enum tier_status graph_int_list(const struct graph_at *at, size_t i, const char *attr,
                                const int64_t **out, size_t *n_out);
enum tier_status graph_float_list(const struct graph_at *at, size_t i, const char *attr,
                                  const float **out, size_t *n_out);
/* A setting of one number; *out stays as it is where it is left out. */
enum tier_status graph_scalar(const struct graph_at *at, size_t i, float *out);

/* ---- rules ---- */

graph_rule_fn graph_shape_same, graph_shape_relu, graph_shape_alpha, graph_shape_hard_sigmoid,
    graph_shape_hard_swish_gate, graph_shape_gelu, graph_shape_clip, graph_shape_binary,
    graph_shape_compare, graph_shape_pow, graph_shape_prelu, graph_shape_where, graph_shape_gemm,
    graph_shape_matmul, graph_shape_softmax, graph_shape_batch_norm, graph_shape_instance_norm,
    graph_shape_group_norm, graph_shape_layer_norm, graph_shape_dropout, graph_shape_reduce,
    graph_shape_range, graph_shape_shape_of, graph_shape_size_of, graph_shape_constant,
    graph_shape_constant_of_shape, graph_shape_cast, graph_shape_cast_like, graph_shape_conv,
    graph_shape_conv_transpose, graph_shape_pool, graph_shape_global_average,
    graph_shape_global_max, graph_shape_resize, graph_shape_pad, graph_shape_reshape,
    graph_shape_flatten, graph_shape_squeeze, graph_shape_unsqueeze, graph_shape_expand,
    graph_shape_transpose, graph_shape_concat, graph_shape_split, graph_shape_slice,
    graph_shape_gather;

/* Rank and dimensions of what both broadcast to. */
enum tier_status graph_broadcast(const struct graph_at *at, const struct tier_shape *a,
                                 const struct tier_shape *b, struct tier_shape *made);

/* ---- folding: shapes are known, every input is constant ---- */

graph_rule_fn graph_fold_binary, graph_fold_compare, graph_fold_logic, graph_fold_unary,
    graph_fold_where, graph_fold_reduce, graph_fold_range, graph_fold_shape_of, graph_fold_size_of,
    graph_fold_constant, graph_fold_constant_of_shape, graph_fold_cast, graph_fold_copy,
    graph_fold_expand, graph_fold_transpose, graph_fold_concat, graph_fold_split, graph_fold_slice,
    graph_fold_gather;

/* Room for the elements of output k, by its type; pays for them and for reading the inputs. */
enum tier_status graph_fold_room(const struct graph_at *at, size_t k);

#endif
