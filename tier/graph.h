/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model's architecture and starting weights, read from an ONNX file. What travels to a hospital
 * is this file and nothing that runs: it is parsed into a list of operators from an allow-list,
 * each checked (attributes, inputs, order) before anything is allocated for it.
 *
 * A graph has one input of floats (or of integers, which are executed as floats) and one float
 * output, both with a symbolic batch as first dimension.
 * Its float initialisers are the model's parameters, in one vector that updates are made of: first
 * the trained ones, then the states (running statistics of BatchNormalization), each in file order.
 * An initialiser that is only ever read where ONNX takes a setting (a Clip's bounds, a Pow's
 * exponent, a Resize's scales, any integer), or a float of rank 0, is a constant and no parameter.
 *
 * A graph has no shapes of its own, for many operators compute with them: tier_graph_infer resolves
 * all of it for one batch size, so that whoever executes it sees numbers only and knows nothing of
 * operator-set versions. Operator sets 7 to 28 of the default domain.
 *
 * Threads: a graph is immutable once parsed, shapes once inferred; any number of threads may read
 * them. Ownership: a graph owns everything its accessors return; all of it lives until
 * tier_graph_free. Shapes borrow their graph.
 */
#ifndef CONSILIUM_TIER_GRAPH_H
#define CONSILIUM_TIER_GRAPH_H

#include "tier/err.h"
#include "tier/limits.h"

#include <stdint.h>

/*
 * What is left to execute; what ONNX spells in several ways is one operator here. Those that only
 * compute with shapes and settings (Shape, Constant, ConstantOfShape, Range, Where, Equal, ... )
 * are folded by tier_graph_infer and never executed.
 */
enum tier_op {
    TIER_OP_CONV,           /* x, w, [b] */
    TIER_OP_CONV_TRANSPOSE, /* x, w, [b] */
    TIER_OP_GEMM,           /* y = alpha * op(a) * op(b) + beta * c: a, b, [c] */
    TIER_OP_MATMUL,         /* a, b, batched and broadcast as numpy does */
    TIER_OP_ADD,            /* two inputs, broadcast; also SUB to POW */
    TIER_OP_SUB,
    TIER_OP_MUL,
    TIER_OP_DIV,
    TIER_OP_POW, /* x, and a constant exponent in call.alpha */
    TIER_OP_RELU,
    TIER_OP_LEAKY_RELU, /* alpha */
    TIER_OP_PRELU,      /* x, slope */
    TIER_OP_ELU,        /* alpha */
    TIER_OP_SIGMOID,
    TIER_OP_HARD_SIGMOID, /* alpha, beta */
    TIER_OP_TANH,
    TIER_OP_GELU, /* call.tanh_form: the approximation */
    TIER_OP_ERF,
    TIER_OP_SOFTPLUS,
    TIER_OP_EXP,
    TIER_OP_LOG,
    TIER_OP_SQRT,
    TIER_OP_RECIPROCAL,
    TIER_OP_NEG,
    TIER_OP_ABS,
    TIER_OP_CLIP,        /* between call.alpha and call.beta */
    TIER_OP_SOFTMAX,     /* along call.axis */
    TIER_OP_LOG_SOFTMAX, /* along call.axis */
    TIER_OP_MAX_POOL,
    TIER_OP_AVERAGE_POOL,
    TIER_OP_BATCH_NORM,    /* x, scale, bias, mean, var (states) */
    TIER_OP_INSTANCE_NORM, /* x, scale, bias */
    TIER_OP_GROUP_NORM,    /* x, scale[channels], bias[channels]; call.group groups */
    TIER_OP_LAYER_NORM,    /* x, scale, [bias], over the dimensions from call.axis on */
    TIER_OP_DROPOUT,       /* call.alpha: the ratio */
    TIER_OP_CONCAT,        /* along call.axis */
    TIER_OP_SPLIT,         /* along call.axis: several outputs, which follow one another */
    TIER_OP_SLICE,         /* call.start, call.step of every axis */
    TIER_OP_PAD,           /* call.start: elements before each axis; call.pad_mode, call.alpha */
    TIER_OP_RESHAPE,       /* the same elements in the same order: also Flatten, Squeeze, Unsqueeze,
                              Identity, Cast from float to float */
    TIER_OP_EXPAND,        /* broadcast to the output's shape */
    TIER_OP_TRANSPOSE,     /* call.perm */
    TIER_OP_GATHER,        /* data along call.axis at integer indices: constant ones, or an
                              activation's rounded to the nearest (token ids in a float input);
                              constant ones are in range, and count from the end where negative */
    TIER_OP_RESIZE,        /* call.scale and call.resize_* of every axis */
    TIER_OP_REDUCE_SUM,    /* over call.axes */
    TIER_OP_REDUCE_MEAN,   /* over call.axes; also the global pools */
    TIER_OP_COUNT
};

/* Integers, int64 here whatever ONNX calls them, are constant: what is executed is of floats. */
enum tier_type { TIER_TYPE_FLOAT, TIER_TYPE_INT };

/* A parameter: float[elements], row-major. */
struct tier_graph_param {
    const char *name;
    size_t dims_count; /* 0 to TIER_DIMS_MAX */
    uint64_t dims[TIER_DIMS_MAX];
    uint64_t elements;
    uint64_t at;  /* first element's place in the vector of all parameters */
    bool trained; /* false for a state: shared, but moved by the forward pass, not by a gradient */
};

#define TIER_GRAPH_NONE (-1)

/* Every tensor that has a name. Values are numbered from 0 in the order in which they are defined:
 * the input, the parameters in the vector's order, constants, then the nodes' outputs. */
enum tier_value_kind { TIER_VALUE_INPUT, TIER_VALUE_PARAM, TIER_VALUE_CONSTANT, TIER_VALUE_NODE };
struct tier_graph_value {
    const char *name;
    enum tier_value_kind kind;
    enum tier_type type;
    size_t index;  /* of the parameter, or of the node that makes it */
    uint32_t uses; /* how many inputs of executed nodes it is, plus one for the graph's output */
};

/* One operator, in an order in which everything is made before it is read. Nodes that the output
 * does not need are left out; HardSwish is two. */
struct tier_graph_node {
    enum tier_op op;    /* TIER_OP_COUNT: one that is always folded */
    const char *name;   /* the file's, or its output's where the file gives none */
    const int32_t *in;  /* values read; TIER_GRAPH_NONE where an optional one is left out */
    size_t in_count;    /* only what stands beside the operator above: settings are in its call */
    const int32_t *out; /* values made */
    size_t out_count;
};

struct tier_graph;

/*
 * Parses `len` bytes of an ONNX file; borrows them for the call only. TIER_EMODEL says which node
 * or tensor is wrong and what is allowed; TIER_ELIMIT when a bound of tier/limits.h is passed. The
 * shapes are inferred for a batch of 2 too, so that a model that is accepted can be executed.
 */
enum tier_status tier_graph_parse(const void *bytes, size_t len, struct tier_graph **graph_out,
                                  struct tier_err *err);
/* Of a file, which stays open for the graph's life, for its values are read when they are wanted.
 * TIER_ENOTFOUND or TIER_EIO where that fails; messages begin with the path. */
enum tier_status tier_graph_open(const char *path, struct tier_graph **graph_out,
                                 struct tier_err *err);
void tier_graph_free(struct tier_graph *graph);

const char *tier_graph_input_name(const struct tier_graph *graph);
const char *tier_graph_output_name(const struct tier_graph *graph);
uint64_t tier_graph_features(const struct tier_graph *graph); /* elements of a row of the input */
uint64_t tier_graph_outputs(const struct tier_graph *graph);  /* elements of a row of the output */
uint64_t tier_graph_classes(const struct tier_graph *graph);  /* those at one spot of it */

size_t tier_graph_value_count(const struct tier_graph *graph);
const struct tier_graph_value *tier_graph_value(const struct tier_graph *graph, size_t i);
size_t tier_graph_input(const struct tier_graph *graph);  /* the input's value */
size_t tier_graph_output(const struct tier_graph *graph); /* the output's value */
size_t tier_graph_node_count(const struct tier_graph *graph);
const struct tier_graph_node *tier_graph_node(const struct tier_graph *graph, size_t i);
size_t tier_graph_param_count(const struct tier_graph *graph);
const struct tier_graph_param *tier_graph_param(const struct tier_graph *graph, size_t i);
/* Elements of all parameters together, and of the trained ones, which come first. */
uint64_t tier_graph_elements(const struct tier_graph *graph);
uint64_t tier_graph_trained(const struct tier_graph *graph);
/* The file's values of parameter i, elements [at, at + n). TIER_EIO where it has become shorter. */
enum tier_status tier_graph_read(const struct tier_graph *graph, size_t i, uint64_t at, size_t n,
                                 float *out, struct tier_err *err);
/* Those of all parameters, end to end, into float[tier_graph_elements]. */
enum tier_status tier_graph_values(const struct tier_graph *graph, float *values,
                                   struct tier_err *err);
/* "Conv", "Gemm", ...: the name ONNX gives the operator. */
const char *tier_op_text(enum tier_op op);

/*
 * The same file with float[tier_graph_elements] `values` in place of its initialisers, for
 * inference: a BatchNormalization uses its running statistics and a Dropout drops nothing, whatever
 * the file said of them. Everything else, including what this reader does not look at, is written
 * back. The caller frees *bytes_out with free(). TIER_ELIMIT when the file would pass 2 GiB, the
 * most that one protobuf message may have.
 */
enum tier_status tier_graph_write(const struct tier_graph *graph, const float *values,
                                  uint8_t **bytes_out, size_t *len_out, struct tier_err *err);
/* TIER_ELIMIT where the values alone are too many for it: before they are fetched. */
enum tier_status tier_graph_can_write(const struct tier_graph *graph, struct tier_err *err);

/* ---- shapes ---------------------------------------------------------------------------------- */

struct tier_shape {
    unsigned rank; /* 0 to TIER_DIMS_MAX */
    uint64_t dims[TIER_DIMS_MAX];
    uint64_t elements;
};

enum tier_pad_mode { TIER_PAD_CONSTANT, TIER_PAD_REFLECT, TIER_PAD_EDGE };
/* How Resize maps an output coordinate to an input one (ONNX's names). */
enum tier_resize_place {
    TIER_RESIZE_HALF_PIXEL,
    TIER_RESIZE_PYTORCH_HALF_PIXEL,
    TIER_RESIZE_ALIGN_CORNERS,
    TIER_RESIZE_ASYMMETRIC
};
enum tier_resize_nearest {
    TIER_NEAREST_ROUND_PREFER_FLOOR,
    TIER_NEAREST_ROUND_PREFER_CEIL,
    TIER_NEAREST_FLOOR,
    TIER_NEAREST_CEIL
};
#define TIER_SPATIAL_MAX 3

/* A node's settings at one batch size. Axes count from 0. What an operator does not have is 0. */
struct tier_call {
    bool folded;      /* nothing is left to execute: the outputs are constant, or not wanted */
    unsigned spatial; /* 1 to 3: dimensions after batch and channels, of windows and norms */
    uint64_t kernel[TIER_SPATIAL_MAX], stride[TIER_SPATIAL_MAX], dilation[TIER_SPATIAL_MAX];
    uint64_t pad[TIER_SPATIAL_MAX], pad_end[TIER_SPATIAL_MAX]; /* auto_pad and ceil resolved */
    uint64_t group;                                            /* of convolutions, GROUP_NORM */
    bool count_pad;                                            /* AVERAGE_POOL: padding counts */
    unsigned axis, axes;                                       /* axes: a bit for each axis */
    unsigned perm[TIER_DIMS_MAX];
    int64_t start[TIER_DIMS_MAX], step[TIER_DIMS_MAX]; /* steps may be negative */
    float alpha, beta, epsilon;
    float momentum; /* BATCH_NORM: running = momentum * running + (1 - momentum) * this batch */
    bool trans_a, trans_b, tanh_form, linear; /* linear: RESIZE interpolates, else nearest */
    enum tier_pad_mode pad_mode;
    double scale[TIER_DIMS_MAX]; /* RESIZE: output / input of each axis */
    enum tier_resize_place resize_place;
    enum tier_resize_nearest resize_nearest;
};

struct tier_shapes;

/*
 * Resolves the graph for a batch of `batch` rows. TIER_EMODEL names the node whose inputs do not
 * fit together; TIER_ELIMIT where one tensor passes TIER_ELEMENTS_MAX.
 */
enum tier_status tier_graph_infer(const struct tier_graph *graph, uint64_t batch,
                                  struct tier_shapes **out, struct tier_err *err);
void tier_shapes_free(struct tier_shapes *shapes);
const struct tier_shape *tier_shapes_of(const struct tier_shapes *shapes, size_t value);
const struct tier_call *tier_shapes_call(const struct tier_shapes *shapes, size_t node);
/* The elements of a value that is constant at this batch size, by its type; NULL for others. */
const float *tier_shapes_floats(const struct tier_shapes *shapes, size_t value);
const int64_t *tier_shapes_ints(const struct tier_shapes *shapes, size_t value);

#endif
