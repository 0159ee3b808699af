/* SPDX-License-Identifier: Apache-2.0 */
/* ONNX files: of what is accepted every value can be read and is finite, and writing it back gives
 * a file that is accepted again with the same values. */
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_graph *g = NULL;

    if (tier_graph_parse(data, size, &g, NULL) == TIER_OK) {
        check(g);
        tier_graph_free(g);
    }
    return 0;
}

/* A layer whose weights are left in the file (i == 0: as raw bytes, 1: as floats) and a bias. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static struct onnx_msg graph, model, node, tensor;
    static float values[8 * 16];

    if (i > 1)
        return 0;
    graph.n = node.n = tensor.n = 0;
    for (size_t k = 0; k < 8 * 16; k++)
        values[k] = (float)k / 64 - 1;
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
    onnx_model(&model, &graph, 13);
    FUZZ_CHECK(model.n <= room);
    memcpy(out, model.b, model.n);
    return model.n;
}
