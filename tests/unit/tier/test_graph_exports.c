/* SPDX-License-Identifier: Apache-2.0 */
/* What PyTorch's exporters write where ONNX has no operator or the size depends on the batch, small
 * and by hand; whole models are compared with onnxruntime by tests/peers/graph_peers. */
#include "tests/support/onnx_writer.h"
#include "tier/graph.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#define DIMS(...)                                                                                  \
    sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]) {                              \
        __VA_ARGS__                                                                                \
    }
#define INTS(...)                                                                                  \
    DIMS(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), 7, (int64_t[]) {                     \
        __VA_ARGS__                                                                                \
    }

static const float values[1024] = {1};
static struct onnx_msg graph, model, node;
static struct tier_graph *g;
static struct tier_shapes *s;

static void start(size_t rank, const int64_t *dims) {
    graph.n = 0;
    onnx_add_rows(&graph, 11, "x", rank, dims, 1);
    node.n = 0;
    onnx_text(&node, 1, "y");
    onnx_sub(&graph, 12, &node);
}

static void axis(const char *op, const char *inputs, const char *output, int64_t v) {
    onnx_node(&node, op, inputs, output);
    onnx_attr_int(&node, "axis", v);
    onnx_sub(&graph, 1, &node);
}

static void infer(int64_t opset, uint64_t batch) {
    struct tier_err err = {0};
    onnx_model(&model, &graph, opset);
    cr_assert(eq(int, tier_graph_parse(model.b, model.n, &g, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, tier_graph_infer(g, batch, &s, &err), TIER_OK), "%s", err.text);
}

static void done(void) {
    tier_shapes_free(s);
    tier_graph_free(g);
}

static size_t value(const char *name) {
    for (size_t v = 0; v < tier_graph_value_count(g); v++)
        if (strcmp(tier_graph_value(g, v)->name, name) == 0)
            return v;
    cr_fatal("there is no value '%s'", name);
}

static void is(const char *name, size_t rank, const int64_t *dims) {
    const struct tier_shape *shape = tier_shapes_of(s, value(name));
    cr_assert(eq(sz, shape->rank, rank), "%s", name);
    for (size_t d = 0; d < rank; d++)
        cr_expect(eq(u64, shape->dims[d], (uint64_t)dims[d]), "dimension %zu of %s", d, name);
}

static size_t executed(void) {
    size_t n = 0;
    for (size_t i = 0; i < tier_graph_node_count(g); i++)
        n += !tier_shapes_call(s, i)->folded;
    return n;
}

/* nn.GroupNorm(2, 4), operator set 17: groups are made channels. */
Test(tier_graph_exports, a_group_norm_is_an_instance_norm_of_groups) {
    const float ones[] = {1, 1}, none[] = {0, 0};
    start(DIMS(4, 3, 5));
    onnx_add_dims(&graph, "weight", DIMS(4), 1, values);
    onnx_add_dims(&graph, "bias", DIMS(4), 1, values);
    onnx_add_constant(&graph, "groups", INTS(0, 2, -1));
    onnx_add_constant(&graph, "ones", DIMS(2), 1, ones);
    onnx_add_constant(&graph, "none", DIMS(2), 1, none);
    onnx_add_constant(&graph, "axes", INTS(1, 2));
    onnx_add_node(&graph, "Reshape", "x groups", "r");
    onnx_add_node(&graph, "InstanceNormalization", "r ones none", "n");
    onnx_add_node(&graph, "Shape", "x", "shape");
    onnx_add_node(&graph, "Reshape", "n shape", "back");
    onnx_add_node(&graph, "Unsqueeze", "weight axes", "w");
    onnx_add_node(&graph, "Mul", "back w", "scaled");
    onnx_add_node(&graph, "Unsqueeze", "bias axes", "b");
    onnx_add_node(&graph, "Add", "scaled b", "y");
    infer(17, 3);
    is("n", DIMS(3, 2, 30));
    is("y", DIMS(3, 4, 3, 5));
    cr_expect(eq(u64, tier_graph_trained(g), 8));
    cr_expect(eq(sz, executed(), 7));
    cr_assert(tier_shapes_floats(s, value("ones")) != NULL);
    cr_expect(eq(flt, tier_shapes_floats(s, value("ones"))[1], 1.0f));
    done();
}

/* token.expand(x.shape[0], -1, -1), which asks at run time where the -1 are. */
Test(tier_graph_exports, a_class_token_is_expanded_to_the_batch) {
    start(DIMS(6, 8));
    onnx_add_dims(&graph, "token", DIMS(1, 1, 8), 1, values);
    onnx_add_constant(&graph, "zero", 0, NULL, 7, (int64_t[]){0});
    onnx_add_constant(&graph, "axes", INTS(0));
    onnx_add_constant(&graph, "minus", INTS(-1));
    onnx_add_constant(&graph, "three", INTS(3));
    onnx_add_node(&graph, "Shape", "x", "s");
    axis("Gather", "s zero", "n", 0);
    onnx_add_node(&graph, "Unsqueeze", "n axes", "rows");
    axis("Concat", "rows minus minus", "wanted", 0);
    onnx_node(&node, "ConstantOfShape", "three", "ones");
    onnx_attr_tensor(&node, "value", INTS(1));
    onnx_sub(&graph, 1, &node);
    onnx_add_node(&graph, "Mul", "ones minus", "absent");
    onnx_add_node(&graph, "Equal", "wanted absent", "same");
    onnx_add_node(&graph, "Where", "same ones wanted", "sizes");
    onnx_add_node(&graph, "Expand", "token sizes", "tokens");
    axis("Concat", "tokens x", "y", 1);
    infer(17, 5);
    is("tokens", DIMS(5, 1, 8));
    is("y", DIMS(5, 7, 8));
    cr_expect(eq(sz, executed(), 2));
    cr_expect(tier_shapes_ints(s, value("sizes"))[0] == 5);
    done();
}

/* F.pad(x, (1, 2, 0, 0)): pads come last axis first and are turned around at run time. */
Test(tier_graph_exports, padding_is_turned_around) {
    start(DIMS(1, 4, 4));
    onnx_add_dims(&graph, "p", DIMS(1), 1, values);
    onnx_add_constant(&graph, "given", INTS(1, 2, 0, 0));
    onnx_add_constant(&graph, "four", INTS(4));
    onnx_add_constant(&graph, "pairs", INTS(-1, 2));
    onnx_add_constant(&graph, "last", INTS(-1));
    onnx_add_constant(&graph, "first", INTS(-INT64_MAX));
    onnx_add_constant(&graph, "axis", INTS(0));
    onnx_add_node(&graph, "Mul", "x p", "m");
    onnx_node(&node, "ConstantOfShape", "four", "more");
    onnx_attr_tensor(&node, "value", INTS(0));
    onnx_sub(&graph, 1, &node);
    axis("Concat", "given more", "all", 0);
    onnx_add_node(&graph, "Reshape", "all pairs", "two");
    onnx_add_node(&graph, "Slice", "two last first axis last", "turned");
    onnx_add_node(&graph, "Transpose", "turned", "sides");
    onnx_add_node(&graph, "Reshape", "sides last", "pads");
    onnx_node(&node, "Pad", "m pads", "y");
    onnx_attr_text(&node, "mode", "reflect");
    onnx_sub(&graph, 1, &node);
    infer(17, 2);
    is("y", DIMS(2, 1, 4, 7));
    const struct tier_call *call = tier_shapes_call(s, tier_graph_value(g, value("y"))->index);
    cr_expect(call->pad_mode == TIER_PAD_REFLECT && call->start[3] == 1 && call->start[2] == 0);
    done();
}

/* F.interpolate(x, size=skip.shape[2:]): scales are left out, sizes put together. */
Test(tier_graph_exports, a_size_is_taken_from_a_skip) {
    start(DIMS(1, 5, 7));
    onnx_add_dims(&graph, "w", DIMS(2, 1, 1, 1), 1, values);
    onnx_add_constant(&graph, "zero", INTS(0));
    onnx_add_constant(&graph, "two", INTS(2));
    onnx_add_constant(&graph, "four", INTS(4));
    onnx_node(&node, "Conv", "x w", "c");
    onnx_attr_ints(&node, "strides", DIMS(2, 2));
    onnx_sub(&graph, 1, &node);
    onnx_add_node(&graph, "Shape", "x", "skip");
    onnx_add_node(&graph, "Slice", "skip two four zero", "size");
    onnx_add_node(&graph, "Shape", "c", "own");
    onnx_add_node(&graph, "Slice", "own zero two zero", "rows");
    axis("Concat", "rows size", "sizes", 0);
    onnx_node(&node, "Resize", "c - - sizes", "y");
    onnx_attr_text(&node, "mode", "linear");
    onnx_attr_text(&node, "coordinate_transformation_mode", "pytorch_half_pixel");
    onnx_attr_float(&node, "cubic_coeff_a", -0.75f);
    onnx_attr_text(&node, "nearest_mode", "floor");
    onnx_sub(&graph, 1, &node);
    infer(17, 3);
    is("c", DIMS(3, 2, 3, 4));
    is("y", DIMS(3, 2, 5, 7));
    cr_expect(eq(sz, executed(), 2));
    done();
}
