/* SPDX-License-Identifier: Apache-2.0 */
/* Shapes, settings and folding. Most graphs here are x * p, so that something is trained, and then
 * what the test is about; tests/peers/check_operators.py tries many more against onnxruntime. */
#include "tests/support/onnx_writer.h"
#include "tier/graph.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>

#define DIMS(...)                                                                                  \
    sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]) {                              \
        __VA_ARGS__                                                                                \
    }

static const float zeros[1024];
static struct onnx_msg graph, model, node;
static struct tier_graph *g;
static struct tier_shapes *s;
static struct tier_err err;

/* x[N, dims...] * p -> m */
static void start(size_t rank, const int64_t *dims) {
    graph.n = 0;
    onnx_add_rows(&graph, 11, "x", rank, dims, 1);
    onnx_add_tensor(&graph, "p", 1, 0, zeros);
    onnx_add_node(&graph, "Mul", "x p", "m");
    node.n = 0;
    onnx_text(&node, 1, "y");
    onnx_sub(&graph, 12, &node);
}

static void op(const char *name, const char *inputs, const char *outputs) {
    onnx_node(&node, name, inputs, outputs);
}

static void add(void) {
    onnx_sub(&graph, 1, &node);
}

static void done(void) {
    tier_shapes_free(s);
    tier_graph_free(g);
    s = NULL;
    g = NULL;
}

static enum tier_status parse(int64_t opset) {
    err.text[0] = '\0';
    onnx_model(&model, &graph, opset);
    return tier_graph_parse(model.b, model.n, &g, &err);
}

static void infer(int64_t opset, uint64_t batch) {
    cr_assert(eq(int, parse(opset), TIER_OK), "%s", err.text);
    cr_assert(eq(int, tier_graph_infer(g, batch, &s, &err), TIER_OK), "%s", err.text);
}

static void refused(int64_t opset, enum tier_status status, const char *piece) {
    cr_expect(eq(int, parse(opset), status), "%s", err.text);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
    done();
}

static size_t value(const char *name) {
    for (size_t v = 0; v < tier_graph_value_count(g); v++)
        if (strcmp(tier_graph_value(g, v)->name, name) == 0)
            return v;
    cr_fatal("there is no value '%s'", name);
}

static const struct tier_call *call(const char *output) {
    return tier_shapes_call(s, tier_graph_value(g, value(output))->index);
}

static void is(const char *name, size_t rank, const int64_t *dims) {
    const struct tier_shape *shape = tier_shapes_of(s, value(name));
    cr_assert(eq(sz, shape->rank, rank), "%s", name);
    for (size_t d = 0; d < rank; d++)
        cr_expect(eq(u64, shape->dims[d], (uint64_t)dims[d]), "dimension %zu of %s", d, name);
}

/* ---- windows ---- */

Test(tier_graph_infer, a_convolution_resolves_its_padding) {
    start(DIMS(2, 9, 8));
    onnx_add_dims(&graph, "w", DIMS(4, 1, 3, 3), 1, zeros);
    onnx_add_tensor(&graph, "b", 4, 0, zeros);
    op("Conv", "m w b", "c");
    onnx_attr_int(&node, "group", 2);
    onnx_attr_ints(&node, "dilations", DIMS(2, 1));
    onnx_attr_ints(&node, "pads", DIMS(1, 0, 2, 1));
    add();
    op("Conv", "c v", "y");
    onnx_attr_text(&node, "auto_pad", "SAME_LOWER");
    onnx_attr_ints(&node, "strides", DIMS(3, 2));
    add();
    onnx_add_dims(&graph, "v", DIMS(1, 4, 2, 3), 1, zeros);
    infer(17, 5);
    is("c", DIMS(5, 4, 8, 7));
    cr_expect(call("c")->spatial == 2 && call("c")->group == 2 && call("c")->dilation[0] == 2);
    cr_expect(call("c")->kernel[1] == 3 && call("c")->pad_end[0] == 2 && call("c")->stride[1] == 1);
    is("y", DIMS(5, 1, 3, 4));
    cr_expect(call("y")->pad[0] == 0 && call("y")->pad_end[0] == 0);
    cr_expect(call("y")->pad[1] == 1 && call("y")->pad_end[1] == 1);
    done();
}

static void conv(const char *attr, int64_t v) {
    start(DIMS(4, 5));
    onnx_add_dims(&graph, "w", DIMS(4, 2, 3), 1, zeros);
    op("Conv", "m w", "y");
    onnx_attr_int(&node, "group", 2);
    onnx_attr_ints(&node, attr, 1, &v);
    add();
}

Test(tier_graph_infer, a_convolution_that_does_not_fit_is_refused) {
    conv("strides", 0);
    refused(17, TIER_EMODEL, "strides holds 0");
    conv("dilations", INT64_MAX);
    refused(17, TIER_EMODEL, "dilations holds");
    conv("dilations", 60000);
    refused(17, TIER_EMODEL, "a window of 120001");
    conv("kernel_shape", 2);
    refused(17, TIER_EMODEL, "kernel_shape does not fit the weights 'w'");
    conv("pads", 2);
    refused(17, TIER_EMODEL, "pads has 1 numbers: 2 would be right");
    start(DIMS(3, 5));
    onnx_add_dims(&graph, "w", DIMS(4, 2, 3), 1, zeros);
    onnx_add_node(&graph, "Conv", "m w", "y");
    refused(17, TIER_EMODEL, "3 channels in 1 groups do not fit the weights 'w'");
}

static void pool(const char *name, int64_t count, int64_t pad) {
    start(DIMS(1, 6, 7));
    op(name, "m", "y");
    onnx_attr_ints(&node, "kernel_shape", DIMS(3, 3));
    onnx_attr_ints(&node, "strides", DIMS(2, 2));
    onnx_attr_int(&node, "ceil_mode", 1);
    onnx_attr_ints(&node, "pads", 4, (int64_t[]){pad, pad, pad, pad});
    if (count)
        onnx_attr_int(&node, "count_include_pad", 1);
    add();
}

Test(tier_graph_infer, ceil_mode_pads_what_the_last_window_reaches) {
    pool("MaxPool", 0, 0);
    infer(17, 1);
    is("y", DIMS(1, 1, 3, 3)); /* 6 columns: the last window reaches to the seventh */
    cr_expect(call("y")->pad_end[0] == 1 && call("y")->pad_end[1] == 0);
    done();
    pool("MaxPool", 0, 1);
    infer(17, 1);
    is("y", DIMS(1, 1, 4, 4));
    done();
    pool("AveragePool", 1, 0); /* what is beyond the end is not counted */
    infer(17, 1);
    cr_expect(call("y")->count_pad == false);
    done();
    pool("AveragePool", 1, 1);
    refused(17, TIER_EMODEL, "counts part of what is beyond the end");
    pool("MaxPool", 0, 3);
    refused(17, TIER_EMODEL, "smaller than the kernel");
}

/* PyTorch: a window that would begin in the padding at the end is left out. */
Test(tier_graph_infer, a_window_in_the_padding_is_no_window) {
    start(DIMS(1, 4));
    op("MaxPool", "m", "y");
    onnx_attr_ints(&node, "kernel_shape", DIMS(2));
    onnx_attr_ints(&node, "strides", DIMS(5));
    onnx_attr_ints(&node, "pads", DIMS(1, 1));
    onnx_attr_int(&node, "ceil_mode", 1);
    add();
    infer(17, 1);
    is("y", DIMS(1, 1, 1));
    done();
}

static void spread(const char *attr, int64_t v) {
    start(DIMS(4, 5));
    onnx_add_dims(&graph, "w", DIMS(4, 3, 3), 1, zeros);
    op("ConvTranspose", "m w", "y");
    onnx_attr_int(&node, "group", 2);
    onnx_attr_ints(&node, "strides", DIMS(2));
    onnx_attr_ints(&node, attr, 1, &v);
    add();
}

Test(tier_graph_infer, a_transposed_convolution_makes_the_size_that_is_asked_for) {
    spread("output_padding", 1);
    infer(17, 2);
    is("y", DIMS(2, 6, 12));
    done();
    spread("output_shape", 8);
    infer(17, 2);
    is("y", DIMS(2, 6, 8));
    cr_expect(call("y")->pad[0] == 2 && call("y")->pad_end[0] == 1);
    done();
    spread("output_shape", 12); /* one more than the windows reach */
    infer(17, 2);
    is("y", DIMS(2, 6, 12));
    cr_expect(call("y")->pad[0] == 0 && call("y")->pad_end[0] == 0);
    done();
    spread("output_padding", 2);
    refused(17, TIER_EMODEL, "output_padding 2 must be less");
    spread("output_shape", 13);
    refused(17, TIER_EMODEL, "cannot make 13 elements of 5");
}

static void resize(const char *mode, const char *place) {
    start(DIMS(1, 4, 6));
    onnx_add_dims(&graph, "scales", DIMS(4), 1, (float[]){1, 1, 1.5f, 0.5f});
    op("Resize", "m - scales", "y");
    onnx_attr_text(&node, "mode", mode);
    onnx_attr_text(&node, "coordinate_transformation_mode", place);
    add();
}

Test(tier_graph_infer, resize_takes_scales_or_sizes) {
    resize("linear", "align_corners");
    infer(17, 2);
    is("y", DIMS(2, 1, 6, 3));
    cr_expect(call("y")->linear && call("y")->resize_place == TIER_RESIZE_ALIGN_CORNERS);
    cr_expect(call("y")->scale[2] == 1.5 && call("y")->scale[0] == 1);
    cr_expect(tier_graph_value(g, value("scales"))->kind == TIER_VALUE_CONSTANT);
    done();
    resize("cubic", "half_pixel");
    refused(17, TIER_EMODEL, "cubic is not read");
    resize("nearest", "tf_crop_and_resize");
    refused(17, TIER_EMODEL, "coordinate_transformation_mode");
    start(DIMS(1, 4, 6));
    onnx_add_ints(&graph, "sizes", 2, (int64_t[]){8, 9});
    op("Resize", "m - - sizes", "y");
    onnx_attr_ints(&node, "axes", DIMS(-2, -1));
    add();
    infer(19, 1);
    is("y", DIMS(1, 1, 8, 9));
    cr_expect(call("y")->scale[3] == 1.5);
    cr_expect(call("y")->resize_nearest == TIER_NEAREST_ROUND_PREFER_FLOOR);
    done();
}

/* ---- settings ---- */

Test(tier_graph_infer, what_is_only_read_as_a_setting_is_no_parameter) {
    start(DIMS(3));
    onnx_add_dims(&graph, "low", 0, NULL, 1, (float[]){-2});
    onnx_add_dims(&graph, "two", DIMS(1), 1, (float[]){2});
    onnx_add_tensor(&graph, "w", 3, 0, zeros);
    onnx_add_node(&graph, "Clip", "m low", "c");
    onnx_add_node(&graph, "Pow", "c two", "q");
    onnx_add_node(&graph, "Add", "q w", "y");
    infer(13, 2);
    cr_expect(eq(u64, tier_graph_elements(g), 4));
    cr_expect(eq(flt, call("c")->alpha, -2.0f));
    cr_expect(call("c")->beta == INFINITY);
    cr_expect(eq(flt, call("q")->alpha, 2.0f));
    cr_expect(eq(sz, tier_graph_node(g, tier_graph_value(g, value("q"))->index)->in_count, 1));
    done();
    start(DIMS(3));
    onnx_add_tensor(&graph, "w", 3, 0, zeros);
    onnx_add_node(&graph, "Pow", "m w", "q");
    onnx_add_node(&graph, "Add", "q w", "y"); /* read as a parameter as well */
    refused(13, TIER_EMODEL, "'w' must be one constant number");
}

Test(tier_graph_infer, a_power_of_the_data_has_a_constant_exponent) {
    start(DIMS(3));
    onnx_add_dims(&graph, "two", 0, NULL, 1, (float[]){2});
    onnx_add_node(&graph, "Pow", "two m", "q");
    onnx_add_tensor(&graph, "w", 3, 0, zeros);
    onnx_add_node(&graph, "Add", "q w", "y");
    refused(13, TIER_EMODEL, "'m' must be one constant number");
    start(DIMS(3));
    onnx_add_dims(&graph, "two", DIMS(1, 1, 1), 1, (float[]){2});
    onnx_add_node(&graph, "Pow", "m two", "y"); /* would add a dimension */
    refused(13, TIER_EMODEL, "the exponent 'two' must be one number");
}

Test(tier_graph_infer, hard_swish_is_a_product_with_its_gate) {
    start(DIMS(3));
    onnx_add_node(&graph, "HardSwish", "m", "y");
    infer(14, 2);
    cr_assert(eq(sz, tier_graph_node_count(g), 3));
    const struct tier_graph_node *gate = tier_graph_node(g, 1), *product = tier_graph_node(g, 2);
    cr_expect(gate->op == TIER_OP_HARD_SIGMOID && gate->in_count == 1 && gate->out_count == 1);
    cr_expect(product->op == TIER_OP_MUL && product->in_count == 2);
    cr_expect(product->in[0] == gate->in[0] && product->in[1] == gate->out[0]);
    cr_expect(eq(flt, tier_shapes_call(s, 1)->alpha, 1.0f / 6));
    cr_expect(eq(sz, tier_graph_output(g), (size_t)product->out[0]));
    is("m", DIMS(2, 3));
    done();
}

Test(tier_graph_infer, states_follow_what_is_trained_and_are_written_back_in_their_place) {
    static float values[17], back[17];
    struct tier_graph *again = NULL;
    uint8_t *bytes;
    size_t len;
    start(DIMS(4, 5));
    for (int i = 0; i < 4; i++)
        onnx_add_tensor(&graph, (const char *[]){"mean", "var", "scale", "bias"}[i], 4, 0, zeros);
    onnx_add_ints(&graph, "steps", 1, (int64_t[]){77});
    op("BatchNormalization", "m scale bias mean var", "y m1 m2");
    onnx_attr_int(&node, "training_mode", 1);
    onnx_attr_float(&node, "momentum", 0.75f);
    add();
    infer(17, 2);
    cr_expect(eq(flt, call("y")->momentum, 0.75f));
    cr_expect(eq(u64, tier_graph_trained(g), 9));
    cr_expect(eq(u64, tier_graph_elements(g), 17));
    cr_expect(eq(str, (char *)tier_graph_param(g, 3)->name, "mean"));
    cr_expect(tier_graph_param(g, 2)->trained && !tier_graph_param(g, 3)->trained);
    for (int i = 0; i < 17; i++)
        values[i] = (float)i;
    cr_assert(tier_graph_write(g, values, &bytes, &len, &err) == TIER_OK);
    cr_assert(tier_graph_parse(bytes, len, &again, &err) == TIER_OK);
    cr_assert(tier_graph_values(again, back, &err) == TIER_OK);
    cr_expect(memcmp(values, back, sizeof values) == 0);
    cr_expect(memmem(bytes, len, (int64_t[]){77}, 8) != NULL);
    tier_graph_free(again);
    free(bytes);
    done();
}

Test(tier_graph_infer, a_statistic_that_is_trained_elsewhere_is_refused) {
    start(DIMS(4, 5));
    onnx_add_tensor(&graph, "zero", 4, 0, zeros);
    onnx_add_tensor(&graph, "one", 4, 0, zeros);
    onnx_add_node(&graph, "BatchNormalization", "m one zero zero one", "y");
    refused(17, TIER_EMODEL, "'zero' is a running statistic");
}

Test(tier_graph_infer, an_output_that_is_not_computed_may_be_named_but_not_read) {
    start(DIMS(4));
    onnx_add_node(&graph, "Dropout", "m", "y mask");
    infer(13, 2);
    cr_expect(eq(flt, call("y")->alpha, 0.5f));
    cr_expect(eq(sz, tier_graph_node(g, 1)->out_count, 1));
    done();
    start(DIMS(4));
    onnx_add_node(&graph, "Dropout", "m", "d mask");
    onnx_add_node(&graph, "Mul", "d mask", "y");
    refused(13, TIER_EMODEL, "'mask', an output of 'd' (Dropout)");
}

Test(tier_graph_infer, operators_are_those_of_the_operator_set) {
    start(DIMS(4));
    onnx_add_node(&graph, "Gelu", "m", "y");
    refused(17, TIER_EMODEL, "operator set 17 does not have");
    infer(20, 1);
    done();
    start(DIMS(2, 3));
    onnx_add_node(&graph, "Softmax", "m", "y"); /* over 2 x 3 elements at once, as it was */
    refused(12, TIER_EMODEL, "runs over all dimensions from axis 1 on");
    infer(13, 1);
    cr_expect(eq(u32, call("y")->axis, 2));
    done();
    start(DIMS(2, 1));
    onnx_add_node(&graph, "Softmax", "m", "y");
    infer(12, 1);
    cr_expect(eq(u32, call("y")->axis, 1));
    done();
}

/* ---- folding ---- */

/* [N, 6] -> [N, 2, 3] -> [2, N, 3] -> [2 N, 3] and back, with sizes computed from x. */
static void heads(const char *batch) {
    start(DIMS(6));
    onnx_add_ints(&graph, "zero", 1, (int64_t[]){0});
    onnx_add_ints(&graph, "two", 1, (int64_t[]){2});
    onnx_add_ints(&graph, "rest", 1, (int64_t[]){-1});
    onnx_add_ints(&graph, "three", 1, (int64_t[]){3});
    onnx_add_node(&graph, "Shape", "m", "s");
    onnx_add_node(&graph, "Gather", "s zero", "n");
    char inputs[64];
    snprintf(inputs, sizeof inputs, "%s two rest", batch);
    op("Concat", inputs, "split");
    onnx_attr_int(&node, "axis", 0);
    add();
    onnx_add_node(&graph, "Reshape", "m split", "h");
    op("Transpose", "h", "t");
    onnx_attr_ints(&node, "perm", DIMS(1, 0, 2));
    add();
    onnx_add_node(&graph, "Mul", "n two", "rows");
    op("Concat", "rows three", "flat");
    onnx_attr_int(&node, "axis", 0);
    add();
    onnx_add_node(&graph, "Reshape", "t flat", "f");
    onnx_add_node(&graph, "Relu", "f", "r");
    onnx_add_node(&graph, "Reshape", "r s", "y");
}

Test(tier_graph_infer, sizes_that_a_graph_computes_are_folded) {
    heads("n");
    infer(17, 5);
    is("t", DIMS(2, 5, 3));
    is("f", DIMS(10, 3));
    cr_expect(call("rows")->folded && call("s")->folded && !call("t")->folded);
    cr_assert(tier_shapes_ints(s, value("rows")) != NULL);
    cr_expect(tier_shapes_ints(s, value("rows"))[0] == 10);
    cr_expect(tier_shapes_floats(s, value("rows")) == NULL);
    cr_expect(tier_graph_value(g, value("rows"))->type == TIER_TYPE_INT);
    cr_expect(tier_graph_value(g, value("m"))->uses == 1, "Shape does not execute");
    done();
}

Test(tier_graph_infer, a_batch_that_is_baked_in_is_told_with_what_to_do) {
    heads("two");
    refused(17, TIER_EMODEL,
            "takes a batch of 2 but not of 1: export it with a dynamic batch axis");
    start(DIMS(6));
    onnx_add_ints(&graph, "shape", 2, (int64_t[]){4, 6});
    onnx_add_node(&graph, "Reshape", "m shape", "y");
    refused(17, TIER_EMODEL, "dynamic batch axis");
    start(DIMS(6));
    onnx_add_ints(&graph, "shape", 2, (int64_t[]){4, -1});
    onnx_add_node(&graph, "Reshape", "m shape", "y");
    refused(17, TIER_EMODEL, "dynamic batch axis");
}

Test(tier_graph_infer, a_node_of_which_only_the_shape_is_wanted_is_not_executed) {
    start(DIMS(4, 6));
    onnx_add_node(&graph, "Relu", "m", "r");
    onnx_add_node(&graph, "Shape", "r", "s");
    onnx_add_node(&graph, "Reshape", "m s", "y");
    infer(17, 2);
    cr_expect(call("r")->folded);
    cr_expect(eq(u32, tier_graph_value(g, value("r"))->uses, 0));
    cr_expect(eq(u32, tier_graph_value(g, value("m"))->uses, 1));
    done();
}

Test(tier_graph_infer, a_slice_counts_from_the_end_and_backwards) {
    start(DIMS(7, 4));
    onnx_add_ints(&graph, "from", 2, (int64_t[]){-2, INT64_MAX});
    onnx_add_ints(&graph, "to", 2, (int64_t[]){INT64_MIN, 0});
    onnx_add_ints(&graph, "axes", 2, (int64_t[]){1, -1});
    onnx_add_ints(&graph, "steps", 2, (int64_t[]){-2, -1});
    onnx_add_node(&graph, "Slice", "m from to axes steps", "y");
    infer(17, 2);
    is("y", DIMS(2, 3, 3));
    cr_expect(call("y")->start[1] == 5 && call("y")->step[1] == -2);
    cr_expect(call("y")->start[2] == 3 && call("y")->step[0] == 1);
    done();
}

Test(tier_graph_infer, a_split_has_several_outputs) {
    start(DIMS(5));
    op("Split", "m", "a b");
    onnx_attr_int(&node, "axis", 1);
    onnx_attr_int(&node, "num_outputs", 2);
    add();
    onnx_add_node(&graph, "Relu", "b", "y");
    infer(18, 2);
    is("a", DIMS(2, 3));
    is("b", DIMS(2, 2));
    cr_expect(eq(sz, tier_graph_node(g, 1)->out_count, 2));
    cr_expect(eq(u32, tier_graph_value(g, value("a"))->uses, 0));
    done();
}

/* ---- integers from the data ---- */

Test(tier_graph_infer, token_ids_may_come_in_floats) {
    start(DIMS(7));
    onnx_add_tensor(&graph, "words", 50, 4, zeros);
    op("Cast", "x", "ids");
    onnx_attr_int(&node, "to", 7);
    add();
    onnx_add_node(&graph, "Gather", "words ids", "e");
    op("ReduceMean", "e", "mean");
    onnx_attr_ints(&node, "axes", DIMS(1));
    onnx_attr_int(&node, "keepdims", 0);
    add();
    onnx_add_dims(&graph, "w", DIMS(7, 4), 1, zeros);
    onnx_add_node(&graph, "MatMul", "m w", "l");
    onnx_add_node(&graph, "Add", "l mean", "y");
    infer(13, 3);
    is("e", DIMS(3, 7, 4));
    is("y", DIMS(3, 4));
    cr_expect(tier_graph_value(g, value("ids"))->type == TIER_TYPE_FLOAT, "executed as floats");
    done();
}

Test(tier_graph_infer, integers_from_the_data_are_not_computed_with) {
    start(DIMS(7));
    op("Cast", "m", "i");
    onnx_attr_int(&node, "to", 7);
    add();
    onnx_add_node(&graph, "Neg", "i", "k");
    onnx_add_tensor(&graph, "words", 50, 4, zeros);
    onnx_add_node(&graph, "Gather", "words k", "y");
    refused(13, TIER_EMODEL, "node 'k' (Neg): computes with integers that come from the data");
    start(DIMS(7));
    onnx_add_node(&graph, "Less", "m p", "k");
    onnx_add_node(&graph, "Where", "k m m", "y");
    refused(13, TIER_EMODEL, "node 'k' (Less): 'm' is no constant");
}

Test(tier_graph_infer, constant_integers_are_no_data) {
    start(DIMS(7));
    op("Cast", "m", "i");
    onnx_attr_int(&node, "to", 7);
    add();
    onnx_add_ints(&graph, "table", 3, (int64_t[]){5, 6, 7});
    onnx_add_tensor(&graph, "words", 50, 4, zeros);
    onnx_add_node(&graph, "Gather", "table i", "k");
    onnx_add_node(&graph, "Gather", "words k", "y");
    refused(13, TIER_EMODEL, "'table' is a constant of integers");
}

/* ---- hostile numbers ---- */

static void shaped(const char *name, size_t n, const int64_t *shape) {
    start(DIMS(2));
    onnx_add_ints(&graph, "shape", (int64_t)n, shape);
    onnx_add_node(&graph, name, "m shape", "y");
}

Test(tier_graph_infer, shapes_that_overflow_are_refused) {
    shaped("Reshape", DIMS(INT64_MAX, INT64_MAX, -1));
    refused(13, TIER_EMODEL, "cannot become");
    shaped("Reshape", DIMS(-1, -1));
    refused(13, TIER_EMODEL, "-1 as dimension 1");
    shaped("Reshape", DIMS(0, 0, 0));
    refused(13, TIER_EMODEL, "0 as dimension 2");
    shaped("Reshape", DIMS(1, 1, 1, 1, 1, 1, 1, 1, 1));
    refused(13, TIER_EMODEL, "9 dimensions");
    shaped("Expand", DIMS(1 << 20, 1 << 20, 1, 1));
    refused(13, TIER_ELIMIT, "more than 68719476736 elements");
    shaped("Expand", DIMS(-1, 2));
    refused(13, TIER_EMODEL, "-1 as dimension 0");
}

static void folded(const char *name, const char *inputs) {
    start(DIMS(2));
    onnx_add_ints(&graph, "many", 1, (int64_t[]){(1 << 20) + 1});
    onnx_add_dims(&graph, "zero", 0, NULL, 7, (int64_t[]){0});
    onnx_add_dims(&graph, "most", 0, NULL, 7, (int64_t[]){INT64_MAX});
    onnx_add_dims(&graph, "least", 0, NULL, 7, (int64_t[]){INT64_MIN});
    onnx_add_dims(&graph, "minus", 0, NULL, 7, (int64_t[]){-1});
    onnx_add_node(&graph, name, inputs, "f");
    op("Cast", "f", "c");
    onnx_attr_int(&node, "to", 1);
    add();
    op("ReduceSum", "c", "r");
    onnx_attr_int(&node, "keepdims", 0);
    add();
    onnx_add_node(&graph, "Add", "m r", "y");
}

Test(tier_graph_infer, folding_is_bounded_and_survives_any_number) {
    folded("ConstantOfShape", "many");
    refused(13, TIER_ELIMIT, "a constant of 1048577 elements");
    folded("Range", "zero most minus");
    infer(13, 1);
    is("f", 1, (int64_t[]){0});
    done();
    folded("Range", "least most most");
    infer(13, 1);
    is("f", 1, (int64_t[]){3});
    done();
    folded("Range", "least most zero");
    refused(13, TIER_EMODEL, "a step of 0");
    folded("Div", "least zero");
    refused(13, TIER_EMODEL, "division of integers by zero");
    folded("Div", "least minus");
    infer(13, 1);
    cr_expect(tier_shapes_ints(s, value("f"))[0] == INT64_MIN);
    done();
    folded("Mod", "least minus");
    infer(13, 1);
    cr_expect(tier_shapes_ints(s, value("f"))[0] == 0);
    done();
    folded("Neg", "least");
    infer(13, 1);
    cr_expect(tier_shapes_ints(s, value("f"))[0] == INT64_MIN);
    done();
}

Test(tier_graph_infer, a_small_file_cannot_ask_for_much_work) {
    char from[16] = "f", to[16];
    start(DIMS(2));
    onnx_add_ints(&graph, "much", 1, (int64_t[]){1 << 20});
    onnx_add_node(&graph, "ConstantOfShape", "much", "f");
    for (int i = 0; i < 200; i++) {
        snprintf(to, sizeof to, "f%d", i);
        onnx_add_node(&graph, "Neg", from, to);
        memcpy(from, to, sizeof from);
    }
    op("ReduceSum", from, "r");
    onnx_attr_int(&node, "keepdims", 0);
    add();
    onnx_add_node(&graph, "Add", "m r", "y");
    refused(13, TIER_ELIMIT, "computes with too many constants");
}

Test(tier_graph_infer, a_batch_that_is_too_large_is_refused) {
    heads("n");
    infer(17, 1);
    tier_shapes_free(s);
    s = NULL;
    cr_expect(eq(int, tier_graph_infer(g, 0, &s, &err), TIER_ELIMIT));
    cr_expect(eq(int, tier_graph_infer(g, UINT64_MAX, &s, &err), TIER_ELIMIT));
    done();
}
