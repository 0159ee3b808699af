/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model's architecture and starting weights, read from an ONNX file. What travels to a hospital
 * is this file and nothing that runs: it is parsed into a list of operators from an allow-list,
 * each checked (attributes, shapes, order) before anything is allocated for it. A graph has one
 * float input [N, features] with a symbolic batch N, one output [N, outputs], and its float
 * initialisers are the trainable parameters, in file order: end to end they are the vector that
 * updates are made of.
 *
 * Operators: Gemm (transA = 0, first operand an activation), MatMul (activation times parameter),
 * Add (a bias, or two activations of one shape), Relu, Sigmoid, Softmax (last axis), Identity and
 * Flatten (axis 1). Operator sets 7 to 22 of the default domain.
 *
 * Threads: a graph is immutable once parsed; any number of threads may read it.
 * Ownership: a graph owns everything its accessors return; all of it lives until tier_graph_free.
 */
#ifndef CONSILIUM_TIER_GRAPH_H
#define CONSILIUM_TIER_GRAPH_H

#include "tier/err.h"
#include "tier/limits.h"

#include <stdint.h>

enum tier_op {
    TIER_OP_GEMM,     /* y = alpha * x * op(B) + beta * C, op transposes B where trans_b */
    TIER_OP_MATMUL,   /* y = x * B */
    TIER_OP_ADD_BIAS, /* y = x + b, b the same for every row */
    TIER_OP_ADD,      /* y = x0 + x1, two activations of one shape */
    TIER_OP_RELU,
    TIER_OP_SIGMOID,
    TIER_OP_SOFTMAX,
    TIER_OP_IDENTITY, /* also Flatten, which changes nothing in two dimensions */
    TIER_OP_COUNT
};

/* A trainable parameter: float[elements], row-major. */
struct tier_graph_param {
    const char *name;
    size_t dims_count; /* 1 or 2 */
    uint64_t dims[TIER_DIMS_MAX];
    uint64_t elements;
    uint64_t at; /* first element's place in the vector of all parameters */
};

#define TIER_GRAPH_NONE (-1)

/* One operator. Activations are numbered: 0 is the input, i + 1 the output of node i. */
struct tier_graph_node {
    enum tier_op op;
    const char *name;  /* the file's, or its output's where the file gives none */
    int32_t x[2];      /* activations read; x[1] is TIER_GRAPH_NONE except for ADD */
    int32_t weight;    /* parameter index of GEMM's and MATMUL's B, else TIER_GRAPH_NONE */
    int32_t bias;      /* parameter index of GEMM's C and ADD_BIAS's b, else TIER_GRAPH_NONE */
    uint64_t cols_in;  /* columns of x[0] */
    uint64_t cols_out; /* columns of the output */
    float alpha, beta; /* GEMM only */
    bool trans_b;      /* GEMM only */
};

struct tier_graph;

/*
 * Parses `len` bytes of an ONNX file; borrows them for the call only. TIER_EMODEL says which node
 * or tensor is wrong and what is allowed; TIER_ELIMIT when a bound of tier/limits.h is passed.
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
uint64_t tier_graph_features(const struct tier_graph *graph); /* columns of the input */
uint64_t tier_graph_outputs(const struct tier_graph *graph);  /* columns of the output */

size_t tier_graph_node_count(const struct tier_graph *graph); /* the output is the last node's */
const struct tier_graph_node *tier_graph_node(const struct tier_graph *graph, size_t i);
size_t tier_graph_param_count(const struct tier_graph *graph);
const struct tier_graph_param *tier_graph_param(const struct tier_graph *graph, size_t i);
/* Elements of all parameters together. */
uint64_t tier_graph_elements(const struct tier_graph *graph);
/* The file's values of parameter i, elements [at, at + n). TIER_EIO where it has become shorter. */
enum tier_status tier_graph_read(const struct tier_graph *graph, size_t i, uint64_t at, size_t n,
                                 float *out, struct tier_err *err);
/* Those of all parameters, end to end, into float[tier_graph_elements]. */
enum tier_status tier_graph_values(const struct tier_graph *graph, float *values,
                                   struct tier_err *err);
/* "Gemm", "MatMul", ...: the name ONNX gives the operator. */
const char *tier_op_text(enum tier_op op);

/*
 * The same file with float[tier_graph_elements] `values` in place of its initialisers: everything
 * else, including what this reader does not look at, is written back. The caller frees *bytes_out
 * with free(). TIER_ELIMIT when the file would pass 2 GiB.
 */
enum tier_status tier_graph_write(const struct tier_graph *graph, const float *values,
                                  uint8_t **bytes_out, size_t *len_out, struct tier_err *err);

#endif
