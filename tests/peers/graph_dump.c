/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what the graph reader makes of an ONNX file at one batch size, one tab-separated line for
 * each value (what it is, its name, its shape) and each node: tests/peers/check_graphs.py
 * compares that with what onnxruntime computes. Usage: graph_dump FILE BATCH
 */
#include "tier/graph.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void print_shape(const struct tier_shape *s) {
    for (unsigned d = 0; d < s->rank; d++)
        printf("%s%" PRIu64, d ? "," : "", s->dims[d]);
}

static void print_value(const struct tier_graph *g, const struct tier_shapes *s, size_t v) {
    static const char *const kinds[] = {"input", "param", "constant", "node"};
    const struct tier_graph_value *value = tier_graph_value(g, v);
    const struct tier_shape *shape = tier_shapes_of(s, v);
    const int64_t *ints = tier_shapes_ints(s, v);
    const float *floats = tier_shapes_floats(s, v);
    bool constant = ints || floats;

    printf("%s\t%s\t%s\t%" PRIu32 "\t", constant ? "folded" : kinds[value->kind], value->name,
           value->type == TIER_TYPE_INT ? "int" : "float", value->uses);
    print_shape(shape);
    putchar('\t');
    for (uint64_t i = 0; ints && i < shape->elements && i < 16; i++)
        printf("%s%" PRId64, i ? "," : "", ints[i]);
    for (uint64_t i = 0; floats && i < shape->elements && i < 16; i++)
        printf("%s%.9g", i ? "," : "", (double)floats[i]);
    putchar('\n');
}

int main(int argc, char **argv) {
    struct tier_graph *g = NULL;
    struct tier_shapes *s = NULL;
    struct tier_err err = {0};

    if (argc != 3)
        return 2;
    if (tier_graph_open(argv[1], &g, &err) != TIER_OK ||
        tier_graph_infer(g, strtoull(argv[2], NULL, 10), &s, &err) != TIER_OK) {
        fprintf(stderr, "%s\n", err.text);
        tier_graph_free(g);
        return 1;
    }
    for (size_t v = 0; v < tier_graph_value_count(g); v++)
        print_value(g, s, v);
    for (size_t i = 0; i < tier_graph_node_count(g); i++) {
        const struct tier_graph_node *n = tier_graph_node(g, i);
        if (!tier_shapes_call(s, i)->folded)
            printf("run\t%s\t%s\n", n->name, tier_op_text(n->op));
    }
    printf("graph\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\n", tier_graph_features(g),
           tier_graph_outputs(g), tier_graph_elements(g), tier_graph_trained(g));
    tier_shapes_free(s);
    tier_graph_free(g);
    return 0;
}
