/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest graph with two parameters, for tests of what is made of one. */
#ifndef CONSILIUM_TESTS_SMALL_GRAPH_H
#define CONSILIUM_TESTS_SMALL_GRAPH_H

#include "support/onnx_writer.h"
#include "support/tier_fixture.h"
#include "tier/graph.h"

static const float values[] = {1, -2, 3, 0.5f, 5, -6};

/* x[N,2] -> Gemm(weight[2,2], bias[2]) -> y, with the parameters named as given. */
static inline struct tier_graph *graph_of(const char *weight, const char *bias) {
    static struct onnx_msg graph, model;
    struct tier_graph *g = NULL;
    char inputs[1024];
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 2);
    onnx_add_value(&graph, 12, "y", 0, 2);
    onnx_add_tensor(&graph, weight, 2, 2, values);
    onnx_add_tensor(&graph, bias, 2, 0, values + 4);
    snprintf(inputs, sizeof inputs, "x %s %s", weight, bias);
    onnx_add_node(&graph, "Gemm", inputs, "y");
    onnx_model(&model, &graph, 13);
    MUST(tier_graph_parse(model.b, model.n, &g, err));
    return g;
}

#endif
