/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/data_path.h"
#include "tests/support/onnx_writer.h"
#include "tier/graph.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <malloc.h>
#include <math.h>
#include <unistd.h>

static const float zeros[64];
static struct onnx_msg graph, model, node;
static struct tier_err err;

/* x[N,3] -> Gemm(w1[4,3] transB, b1[4]) -> Relu -> MatMul(w2[4,2]) -> Add(b2) -> Softmax -> y */
static void start(void) {
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 3);
    onnx_add_value(&graph, 12, "y", 0, 2);
    onnx_add_tensor(&graph, "w1", 4, 3, zeros);
    onnx_add_tensor(&graph, "b1", 4, 0, zeros);
    onnx_add_tensor(&graph, "w2", 4, 2, zeros);
    onnx_add_tensor(&graph, "b2", 1, 2, zeros);
}

static void gemm(const char *inputs, const char *output) {
    onnx_node(&node, "Gemm", inputs, output);
    onnx_attr_int(&node, "transB", 1);
    onnx_sub(&graph, 1, &node);
}

static void finish(void) {
    onnx_add_node(&graph, "Relu", "h", "r");
    onnx_add_node(&graph, "MatMul", "r w2", "m");
    onnx_add_node(&graph, "Add", "b2 m", "z");
    onnx_add_node(&graph, "Softmax", "z", "y");
}

static struct tier_graph *parse(int64_t opset, enum tier_status expected) {
    struct tier_graph *g = NULL;
    err.text[0] = '\0';
    onnx_model(&model, &graph, opset);
    enum tier_status st = tier_graph_parse(model.b, model.n, &g, &err);
    cr_assert(eq(int, st, expected), "%s", err.text);
    return g;
}

/* The status, and a piece of the sentence: the name of what is wrong. */
static void refused(const char *piece) {
    struct tier_graph *g = parse(13, TIER_EMODEL);
    cr_expect(g == NULL);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
}

Test(tier_graph, a_perceptron_is_read_with_its_shapes_and_parameters) {
    start();
    gemm("x w1 b1", "h");
    finish();
    struct tier_graph *g = parse(13, TIER_OK);
    cr_expect(eq(u64, tier_graph_features(g), 3));
    cr_expect(eq(u64, tier_graph_outputs(g), 2));
    cr_expect(eq(u64, tier_graph_classes(g), 2));
    cr_expect(eq(str, (char *)tier_graph_input_name(g), "x"));
    cr_expect(eq(str, (char *)tier_graph_output_name(g), "y"));
    cr_assert(eq(sz, tier_graph_node_count(g), 5));
    const struct tier_graph_node *n = tier_graph_node(g, 0);
    cr_expect(n->op == TIER_OP_GEMM && n->in_count == 3 && n->in[0] == 0 && n->in[1] == 1);
    cr_expect(n->out_count == 1 && n->out[0] == 5 && tier_graph_value(g, 5)->uses == 1);
    n = tier_graph_node(g, 3);
    cr_expect(n->op == TIER_OP_ADD && n->in[0] == 4 && n->in[1] == 7);
    cr_expect(tier_graph_output(g) == 9 && tier_graph_value_count(g) == 10);
    cr_assert(eq(sz, tier_graph_param_count(g), 4));
    cr_expect(eq(u64, tier_graph_param(g, 2)->at, 16));
    cr_expect(eq(u64, tier_graph_elements(g), 26));
    cr_expect(eq(u64, tier_graph_trained(g), 26));
    tier_graph_free(g);
}

Test(tier_graph, the_shipped_examples_are_read) {
    static const struct {
        const char *path;
        uint64_t features, elements;
    } files[] = {{"deploy/examples/heart-disease/model.onnx", 13, 14},
                 {"deploy/examples/breast-cancer/model.onnx", 30, 24449}};
    for (int i = 0; i < 2; i++) {
        char path[2048];
        struct tier_graph *g;
        source_path(files[i].path, path, sizeof path);
        cr_assert(eq(int, tier_graph_open(path, &g, &err), TIER_OK), "%s", err.text);
        cr_expect(eq(u64, tier_graph_features(g), files[i].features));
        cr_expect(eq(u64, tier_graph_elements(g), files[i].elements));
        tier_graph_free(g);
    }
}

Test(tier_graph, a_file_that_is_absent_is_named) {
    struct tier_graph *g;
    cr_expect(eq(int, tier_graph_open("/nonexistent/m.onnx", &g, &err), TIER_ENOTFOUND));
    cr_expect(strstr(err.text, "/nonexistent/m.onnx") != NULL);
}

Test(tier_graph, writing_puts_new_values_in_place_and_keeps_the_rest) {
    float values[26], back[26];
    uint8_t *bytes = NULL;
    size_t len = 0;
    struct tier_graph *again = NULL;
    start();
    onnx_text(&graph, 10, "a doc string this reader does not know");
    gemm("x w1 b1", "h");
    finish();
    struct tier_graph *g = parse(13, TIER_OK);
    for (int i = 0; i < 26; i++)
        values[i] = (float)i;
    cr_assert(eq(int, tier_graph_write(g, values, &bytes, &len, &err), TIER_OK));
    cr_expect(memmem(bytes, len, "a doc string", 12) != NULL);
    cr_assert(eq(int, tier_graph_parse(bytes, len, &again, &err), TIER_OK));
    cr_assert(tier_graph_values(again, back, NULL) == TIER_OK);
    cr_expect(memcmp(values, back, sizeof values) == 0);
    cr_assert(tier_graph_values(g, back, NULL) == TIER_OK);
    cr_expect(eq(flt, back[5], 0.0f), "the first graph must not change");
    free(bytes);
    tier_graph_free(again);
    tier_graph_free(g);
}

Test(tier_graph, an_operator_that_is_not_allowed_is_named_with_its_node) {
    start();
    gemm("x w1 b1", "h");
    onnx_node(&node, "Loop", "h", "r");
    onnx_text(&node, 3, "evil");
    onnx_sub(&graph, 1, &node);
    refused("'evil' uses the operator Loop");
}

Test(tier_graph, an_operator_of_another_domain_is_refused) {
    start();
    onnx_node(&node, "Gemm", "x w1 b1", "h");
    onnx_text(&node, 7, "com.example");
    onnx_sub(&graph, 1, &node);
    refused("domain");
}

Test(tier_graph, an_attribute_that_is_not_allowed_is_refused) {
    start();
    onnx_node(&node, "Relu", "x", "h");
    onnx_attr_int(&node, "surprise", 1);
    onnx_sub(&graph, 1, &node);
    refused("surprise");
    start();
    onnx_node(&node, "Gemm", "x w1 b1", "h");
    onnx_attr_float(&node, "transB", 1.0f);
    onnx_sub(&graph, 1, &node);
    refused("transB");
    start();
    onnx_node(&node, "Gemm", "x w1 b1", "h");
    onnx_attr_float(&node, "alpha", NAN);
    onnx_sub(&graph, 1, &node);
    refused("alpha");
}

Test(tier_graph, nodes_out_of_order_or_in_a_circle_are_refused) {
    start();
    onnx_add_node(&graph, "Relu", "h", "r");
    gemm("x w1 b1", "h");
    refused("made later");
    start();
    onnx_add_node(&graph, "Relu", "h", "h");
    refused("made later");
    start();
    onnx_add_node(&graph, "Relu", "ghost", "y");
    refused("nothing makes");
}

Test(tier_graph, a_name_given_twice_is_refused) {
    start();
    onnx_add_node(&graph, "Relu", "x", "h");
    onnx_add_node(&graph, "Relu", "x", "h");
    refused("twice");
    start();
    onnx_add_node(&graph, "Relu", "x", "w1");
    refused("twice");
}

Test(tier_graph, shapes_that_do_not_meet_are_refused) {
    start();
    onnx_add_node(&graph, "Gemm", "x w1 b1", "h"); /* without transB */
    finish();
    refused("columns");
    start();
    gemm("x w1 b2", "h");
    onnx_add_node(&graph, "Add", "h b1", "g");
    onnx_add_node(&graph, "MatMul", "g w2", "y");
    refused("[2, 4] and [1, 2] do not broadcast");
    start();
    onnx_add_node(&graph, "Add", "x b1", "g");
    gemm("g w1 b1", "h");
    finish();
    refused("[2, 3] and [4] do not broadcast");
}

Test(tier_graph, an_initialiser_that_nothing_needs_is_refused_and_a_node_is_dropped) {
    start();
    onnx_add_tensor(&graph, "spare", 4, 0, zeros);
    gemm("x w1 b1", "h");
    finish();
    refused("'spare'");
    start();
    gemm("x w1 b1", "h");
    onnx_add_node(&graph, "Relu", "h", "dead");
    finish();
    struct tier_graph *g = parse(13, TIER_OK);
    cr_expect(eq(sz, tier_graph_node_count(g), 5));
    cr_expect(eq(u32, tier_graph_value(g, 5)->uses, 1));
    tier_graph_free(g);
    start();
    gemm("x w1 b1", "h");
    onnx_add_node(&graph, "Loop", "h", "dead");
    finish();
    refused("'dead'");
}

Test(tier_graph, a_fixed_batch_is_refused) {
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 8, 3);
    onnx_add_value(&graph, 12, "y", 0, 3);
    onnx_add_tensor(&graph, "b", 3, 0, zeros);
    onnx_add_node(&graph, "Add", "x b", "y");
    refused("fixes the batch");
}

Test(tier_graph, operator_sets_outside_the_known_range_are_refused) {
    start();
    gemm("x w1 b1", "h");
    finish();
    tier_graph_free(parse(7, TIER_OK));
    tier_graph_free(parse(28, TIER_OK));
    parse(6, TIER_EMODEL);
    parse(29, TIER_EMODEL);
}

Test(tier_graph, weights_outside_the_file_or_not_finite_are_refused) {
    static struct onnx_msg t;
    const float nan_values[2] = {1.0f, NAN};
    start();
    onnx_add_tensor(&graph, "bad", 2, 0, nan_values);
    gemm("x w1 b1", "h");
    onnx_add_node(&graph, "MatMul", "h w2", "m");
    onnx_add_node(&graph, "Add", "b2 m", "z");
    onnx_add_node(&graph, "Add", "z bad", "y");
    refused("'bad' is not finite at element 1");
    start();
    t.n = 0;
    onnx_int(&t, 1, 2);
    onnx_int(&t, 2, 1);
    onnx_text(&t, 8, "far");
    onnx_int(&t, 14, 1);
    onnx_sub(&graph, 5, &t);
    gemm("x w1 b1", "h");
    refused("'far' lies outside");
}

Test(tier_graph, a_shape_that_the_bytes_do_not_fill_is_refused) {
    static struct onnx_msg t;
    static const int64_t dims[] = {3, -1, 0, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        start();
        t.n = 0;
        onnx_int(&t, 1, dims[i]);
        onnx_int(&t, 1, INT64_C(1) << 40);
        onnx_int(&t, 2, 1);
        onnx_text(&t, 8, "odd");
        onnx_bytes(&t, 9, zeros, 8);
        onnx_sub(&graph, 5, &t);
        gemm("x w1 b1", "h");
        onnx_add_node(&graph, "MatMul", "h w2", "m");
        onnx_add_node(&graph, "Add", "b2 m", "z");
        onnx_add_node(&graph, "Add", "z odd", "y");
        refused("'odd'");
    }
}

/* ---- weights that stay in the file ---- */

enum { WIDE = 100 };

/* x[N,100] -> Gemm(w[40,100] transB, b[40]) -> y; field 9 is raw_data, 4 float_data. */
static void wide(unsigned field, size_t pieces, const float *values) {
    static struct onnx_msg t;
    graph.n = t.n = node.n = 0;
    onnx_add_value(&graph, 11, "x", 0, WIDE);
    onnx_add_value(&graph, 12, "y", 0, 40);
    onnx_int(&t, 1, 40);
    onnx_int(&t, 1, WIDE);
    onnx_int(&t, 2, 1);
    onnx_text(&t, 8, "w");
    for (size_t i = 0; i < pieces; i++)
        onnx_bytes(&t, field, values + i * 40 * WIDE / pieces, 40 * WIDE * 4 / pieces);
    onnx_sub(&graph, 5, &t);
    onnx_add_tensor(&graph, "b", 40, 0, values + 7);
    onnx_node(&node, "Gemm", "x w b", "y");
    onnx_attr_int(&node, "transB", 1);
    onnx_sub(&graph, 1, &node);
}

Test(tier_graph, large_weights_are_read_from_the_file_when_they_are_wanted) {
    static float values[40 * WIDE], back[40 * WIDE + 40];
    for (size_t i = 0; i < 40 * WIDE; i++)
        values[i] = (float)i / 8192 - 0.25f;
    for (unsigned field = 4; field <= 9; field += 5) {
        char path[] = "/tmp/consilium-graph-XXXXXX";
        float some[3];
        wide(field, 1, values);
        tier_graph_free(parse(13, TIER_OK));
        int fd = mkstemp(path);
        cr_assert(fd >= 0 && write(fd, model.b, model.n) == (ssize_t)model.n);
        struct tier_graph *g = NULL;
        cr_assert(eq(int, tier_graph_open(path, &g, &err), TIER_OK), "%s", err.text);
        cr_assert(tier_graph_read(g, 0, 3997, 3, some, &err) == TIER_OK);
        cr_expect(some[0] == values[3997] && some[2] == values[3999]);
        cr_assert(tier_graph_values(g, back, &err) == TIER_OK);
        cr_expect(memcmp(back, values, sizeof values) == 0);
        cr_expect(memcmp(back + 40 * WIDE, values + 7, 40 * 4) == 0);
        cr_assert(ftruncate(fd, (off_t)(model.n / 2)) == 0);
        cr_expect(eq(int, tier_graph_values(g, back, &err), TIER_EIO));
        cr_expect(strstr(err.text, "cut short") != NULL, "%s", err.text);
        tier_graph_free(g);
        close(fd);
        unlink(path);
    }
}

Test(tier_graph, weights_in_the_file_are_checked_as_those_in_memory_are) {
    static float values[40 * WIDE];
    wide(9, 2, values);
    refused("initialiser 0 is stored in several pieces");
    wide(9, 80, values); /* small ones, of which protobuf takes the last */
    refused("'w' holds 50 floats where its shape says 4000");
    values[3999] = INFINITY;
    wide(9, 1, values);
    refused("'w' is not finite at element 3999");
    values[3999] = 0;
    wide(4, 80, values); /* as floats they follow each other */
    tier_graph_free(parse(13, TIER_OK));
}

Test(tier_graph, two_graphs_in_a_file_are_refused) {
    struct tier_graph *g = NULL;
    start();
    gemm("x w1 b1", "h");
    finish();
    onnx_model(&model, &graph, 13);
    onnx_sub(&model, 7, &graph);
    cr_assert(eq(int, tier_graph_parse(model.b, model.n, &g, &err), TIER_EMODEL));
    cr_expect(strstr(err.text, "two graphs") != NULL, "%s", err.text);
}

/* 160 MB of weights in a sparse file: what is read of them goes through a small buffer. */
Test(tier_graph, memory_does_not_grow_with_the_weights) {
    static struct onnx_msg t, head;
    char path[] = "/tmp/consilium-graph-XXXXXX";
    const uint64_t columns = 1000000, bytes = 40 * columns * 4;
    struct tier_graph *g = NULL;
    graph.n = t.n = head.n = node.n = 0;
    onnx_int(&head, 1, 8);
    onnx_add_value(&graph, 11, "x", 0, (int64_t)columns);
    onnx_add_value(&graph, 12, "y", 0, 40);
    onnx_node(&node, "MatMul", "x w", "y");
    onnx_sub(&graph, 1, &node);
    onnx_int(&t, 1, (int64_t)columns);
    onnx_int(&t, 1, 40);
    onnx_int(&t, 2, 1);
    onnx_text(&t, 8, "w");
    onnx_varint(&t, 9 << 3 | 2);
    onnx_varint(&t, bytes);
    onnx_varint(&graph, 5 << 3 | 2);
    onnx_varint(&graph, t.n + bytes);
    for (size_t i = 0; i < t.n; i++)
        onnx_byte(&graph, t.b[i]);
    node.n = 0; /* here, the operator set */
    onnx_int(&node, 2, 13);
    onnx_sub(&head, 8, &node);
    onnx_varint(&head, 7 << 3 | 2);
    onnx_varint(&head, graph.n + bytes);
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, head.b, head.n) == (ssize_t)head.n);
    cr_assert(write(fd, graph.b, graph.n) == (ssize_t)graph.n);
    cr_assert(ftruncate(fd, (off_t)(head.n + graph.n + bytes)) == 0);
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    cr_assert(eq(int, tier_graph_open(path, &g, &err), TIER_OK), "%s", err.text);
    size_t taken = mallinfo2().uordblks + mallinfo2().hblkhd - before;
    cr_expect(eq(u64, tier_graph_elements(g), 40 * columns));
    cr_expect(lt(sz, taken, 1u << 20), "%zu bytes", taken);
    tier_graph_free(g);
    close(fd);
    unlink(path);
}

Test(tier_graph, every_cut_and_every_flipped_byte_is_survived) {
    struct tier_graph *g;
    start();
    gemm("x w1 b1", "h");
    finish();
    tier_graph_free(parse(13, TIER_OK));
    for (size_t n = 0; n < model.n; n++) {
        g = NULL;
        if (tier_graph_parse(model.b, n, &g, &err) == TIER_OK)
            tier_graph_free(g);
    }
    for (size_t i = 0; i < model.n; i++) {
        model.b[i] ^= 0xff;
        g = NULL;
        if (tier_graph_parse(model.b, model.n, &g, &err) == TIER_OK)
            tier_graph_free(g);
        model.b[i] ^= 0xff;
    }
}

Test(tier_graph, a_file_of_empty_nodes_is_refused_before_memory_runs_out) {
    size_t n = 4u << 20;
    uint8_t *bytes = malloc(n + 16);
    struct tier_graph *g = NULL;
    size_t at = 0;

    bytes[at++] = 0x3a; /* graph, of n bytes: n / 2 empty nodes */
    for (size_t v = n; v; v >>= 7)
        bytes[at++] = (uint8_t)((v & 0x7f) | (v >> 7 ? 0x80 : 0));
    for (size_t i = 0; i < n; i += 2) {
        bytes[at + i] = 0x0a;
        bytes[at + i + 1] = 0;
    }
    cr_expect(eq(int, tier_graph_parse(bytes, at + n, &g, &err), TIER_ELIMIT), "%s", err.text);
    cr_expect(eq(int, tier_graph_parse(bytes, 0, &g, &err), TIER_ELIMIT));
    free(bytes);
}
