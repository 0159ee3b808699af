/* SPDX-License-Identifier: Apache-2.0 */
/* ONNX files: of what is accepted every value can be read and is finite, writing it back gives a
 * file that is accepted again with the same values, and every call that is left to execute reads
 * and makes tensors that are there. */
#include "fuzz/fuzz.h"
#include "support/onnx_writer.h"
#include "tier/graph.h"

#include <math.h>
#include <string.h>

static void check(const struct tier_graph *g) {
    size_t n = (size_t)tier_graph_elements(g), len = 0;
    float *values = malloc((n + 1) * sizeof *values), *again = malloc((n + 1) * sizeof *again);
    struct tier_graph *back = NULL;
    uint8_t *bytes = NULL;

    FUZZ_CHECK(values && again);
    FUZZ_CHECK(tier_graph_values(g, values, NULL) == TIER_OK);
    for (size_t i = 0; i < n; i++)
        FUZZ_CHECK(isfinite(values[i]));
    FUZZ_CHECK(tier_graph_write(g, values, &bytes, &len, NULL) == TIER_OK);
    FUZZ_CHECK(tier_graph_parse(bytes, len, &back, NULL) == TIER_OK);
    FUZZ_CHECK(tier_graph_elements(back) == n);
    FUZZ_CHECK(tier_graph_values(back, again, NULL) == TIER_OK);
    FUZZ_CHECK(memcmp(values, again, n * sizeof *values) == 0);
    tier_graph_free(back);
    free(bytes);
    free(values);
    free(again);
}

static void check_call(const struct tier_graph *g, const struct tier_shapes *s, size_t i) {
    const struct tier_graph_node *n = tier_graph_node(g, i);
    const struct tier_call *call = tier_shapes_call(s, i);

    FUZZ_CHECK(call->folded || n->op < TIER_OP_COUNT);
    FUZZ_CHECK(call->folded || n->out_count > 0);
    for (size_t k = 0; k < n->out_count; k++) {
        size_t v = (size_t)n->out[k];
        FUZZ_CHECK(v < tier_graph_value_count(g) && tier_graph_value(g, v)->index == i);
        FUZZ_CHECK(call->folded || tier_shapes_of(s, v)->elements > 0);
    }
    for (size_t k = 0; k < n->in_count; k++)
        FUZZ_CHECK(n->in[k] == TIER_GRAPH_NONE ||
                   (n->in[k] >= 0 && n->in[k] < (n->out_count ? n->out[0] : INT32_MAX)));
}

/* What is constant is read to its end, for the sanitiser to see. */
static void check_shapes(const struct tier_graph *g, uint64_t batch) {
    struct tier_shapes *s = NULL;
    double sum = 0;

    if (tier_graph_infer(g, batch, &s, NULL) != TIER_OK)
        return;
    for (size_t v = 0; v < tier_graph_value_count(g); v++) {
        const struct tier_shape *shape = tier_shapes_of(s, v);
        const float *floats = tier_shapes_floats(s, v);
        const int64_t *ints = tier_shapes_ints(s, v);
        uint64_t elements = 1;
        for (unsigned d = 0; d < shape->rank; d++)
            elements *= shape->dims[d];
        FUZZ_CHECK(shape->rank <= TIER_DIMS_MAX && elements == shape->elements);
        for (uint64_t i = 0; i < elements && (floats || ints); i++)
            sum += floats ? (double)floats[i] : (double)ints[i];
    }
    FUZZ_CHECK(sum == sum || sum != sum);
    for (size_t i = 0; i < tier_graph_node_count(g); i++)
        check_call(g, s, i);
    FUZZ_CHECK(tier_shapes_of(s, tier_graph_output(g))->dims[0] == batch);
    tier_shapes_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_graph *g = NULL;

    if (tier_graph_parse(data, size, &g, NULL) == TIER_OK) {
        check(g);
        check_shapes(g, 1);
        check_shapes(g, 3);
        tier_graph_free(g);
    }
    return 0;
}

static struct onnx_msg graph, node;
static float values[8 * 16];

#define DIMS(...)                                                                                  \
    sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]) {                              \
        __VA_ARGS__                                                                                \
    }

/* A layer whose weights are left in the file (i == 0: as raw bytes, 1: as floats) and a bias. */
static void seed_layer(unsigned i) {
    static struct onnx_msg tensor;

    tensor.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 8);
    onnx_add_value(&graph, 12, "y", 0, 16);
    onnx_int(&tensor, 1, 8);
    onnx_int(&tensor, 1, 16);
    onnx_int(&tensor, 2, 1);
    onnx_text(&tensor, 8, "w");
    onnx_bytes(&tensor, i ? 4 : 9, values, sizeof values);
    onnx_sub(&graph, 5, &tensor);
    onnx_add_tensor(&graph, "b", 16, 0, values);
    onnx_node(&node, "Gemm", "x w b", "y");
    onnx_sub(&graph, 1, &node);
}

/* An image: a window of each kind, a norm with states, and a size that is computed. */
static void seed_image(void) {
    onnx_add_rows(&graph, 11, "x", DIMS(1, 6, 6), 1);
    onnx_add_rows(&graph, 12, "y", DIMS(2, 12, 12), 1);
    onnx_add_dims(&graph, "w", DIMS(4, 1, 3, 3), 1, values);
    onnx_add_dims(&graph, "t", DIMS(4, 2, 2, 2), 1, values);
    for (int i = 0; i < 4; i++)
        onnx_add_tensor(&graph, (const char *[]){"s", "b", "m", "v"}[i], 4, 0, values);
    onnx_add_dims(&graph, "scales", DIMS(4), 1, (float[]){1, 1, 2, 2});
    onnx_node(&node, "Conv", "x w", "c");
    onnx_attr_ints(&node, "pads", DIMS(1, 1, 1, 1));
    onnx_attr_ints(&node, "dilations", DIMS(1, 1));
    onnx_sub(&graph, 1, &node);
    onnx_node(&node, "BatchNormalization", "c s b m v", "n n1 n2");
    onnx_attr_int(&node, "training_mode", 1);
    onnx_sub(&graph, 1, &node);
    onnx_node(&node, "MaxPool", "n", "p");
    onnx_attr_ints(&node, "kernel_shape", DIMS(2, 2));
    onnx_attr_ints(&node, "strides", DIMS(2, 2));
    onnx_attr_int(&node, "ceil_mode", 1);
    onnx_sub(&graph, 1, &node);
    onnx_node(&node, "ConvTranspose", "p t", "u");
    onnx_attr_ints(&node, "strides", DIMS(2, 2));
    onnx_sub(&graph, 1, &node);
    onnx_node(&node, "Resize", "u - scales", "y");
    onnx_attr_text(&node, "mode", "linear");
    onnx_sub(&graph, 1, &node);
}

/* What an exporter writes to cut heads out of a sequence. */
static void seed_heads(void) {
    onnx_add_rows(&graph, 11, "x", DIMS(4, 8), 1);
    onnx_add_rows(&graph, 12, "y", DIMS(4, 8), 1);
    onnx_add_tensor(&graph, "w", 8, 8, values);
    onnx_add_ints(&graph, "zero", 1, (int64_t[]){0});
    onnx_add_ints(&graph, "tail", 3, (int64_t[]){4, 2, -1});
    onnx_add_ints(&graph, "from", 1, (int64_t[]){1});
    onnx_add_ints(&graph, "to", 1, (int64_t[]){3});
    onnx_add_node(&graph, "MatMul", "x w", "q");
    onnx_add_node(&graph, "Shape", "q", "s");
    onnx_add_node(&graph, "Gather", "s zero", "n");
    onnx_node(&node, "Concat", "n tail", "shape");
    onnx_attr_int(&node, "axis", 0);
    onnx_sub(&graph, 1, &node);
    onnx_add_node(&graph, "Reshape", "q shape", "h");
    onnx_node(&node, "Transpose", "h", "t");
    onnx_attr_ints(&node, "perm", DIMS(0, 2, 1, 3));
    onnx_sub(&graph, 1, &node);
    onnx_add_node(&graph, "Slice", "s from to", "mid");
    onnx_node(&node, "Concat", "n mid", "back");
    onnx_attr_int(&node, "axis", 0);
    onnx_sub(&graph, 1, &node);
    onnx_node(&node, "Softmax", "t", "z");
    onnx_attr_int(&node, "axis", -1);
    onnx_sub(&graph, 1, &node);
    onnx_add_node(&graph, "Reshape", "z back", "y");
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static struct onnx_msg model;

    if (i > 3)
        return 0;
    graph.n = node.n = 0;
    for (size_t k = 0; k < 8 * 16; k++)
        values[k] = (float)k / 64 - 1;
    if (i < 2)
        seed_layer(i);
    else if (i == 2)
        seed_image();
    else
        seed_heads();
    onnx_model(&model, &graph, i < 2 ? 13 : 17);
    struct tier_graph *g = NULL;
    struct tier_err err = {0};
    if (tier_graph_parse(model.b, model.n, &g, &err) != TIER_OK)
        fprintf(stderr, "seed %u: %s\n", i, err.text);
    FUZZ_CHECK(g != NULL);
    tier_graph_free(g);
    FUZZ_CHECK(model.n <= room);
    memcpy(out, model.b, model.n);
    return model.n;
}
