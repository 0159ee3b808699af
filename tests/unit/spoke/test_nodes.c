/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ONNX project's own node tests, frozen: tests/golden/nodes.bin holds some of them as models
 * that the engine takes, at least one for each operator, with what must come out
 * (tests/support/make_node_golden.py; all of them run beside onnx in tests/peers).
 */
#include "tests/support/graph_run.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FILE_NAME CONSILIUM_SOURCE_DIR "/tests/golden/nodes.bin"
#define TOLERANCE 1e-5

struct head {
    int32_t name, training, rows, model, x, y;
};

static struct tier_err err;

static void *take(FILE *f, size_t bytes) {
    void *data = calloc(bytes + 1, 1);
    cr_assert(data && fread(data, 1, bytes, f) == bytes, "the file is too short");
    return data;
}

static void check_one(struct kern_device *dev, FILE *f) {
    struct head *h = take(f, sizeof *h);
    char *name = take(f, (size_t)h->name);
    uint8_t *model = take(f, (size_t)h->model);
    float *x = take(f, (size_t)h->x * 4), *want = take(f, (size_t)h->y * 4), *y = NULL;
    struct tier_graph *graph = NULL;
    size_t count = 0;
    double off = 0, size = 0;

    cr_assert(tier_graph_parse(model, (size_t)h->model, &graph, &err) == TIER_OK, "%s: %s", name,
              err.text);
    cr_assert(eq(u64, (uint64_t)h->rows * tier_graph_features(graph), (uint64_t)h->x), "%s", name);
    cr_assert(graph_run(dev, graph, x, (size_t)h->rows, h->training, &y, &count, &err) == TIER_OK,
              "%s: %s", name, err.text);
    cr_assert(eq(sz, count, (size_t)h->y), "%s", name);
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(want[i])) {
            cr_expect(isnan(want[i]) ? isnan(y[i]) : y[i] == want[i], "%s: element %zu", name, i);
            continue;
        }
        off += pow((double)y[i] - (double)want[i], 2);
        size += pow((double)want[i], 2);
    }
    off = sqrt(off) / (size > 0 ? sqrt(size) : 1);
    cr_expect(off <= TOLERANCE, "%s is off by %.1e", name, off);
    tier_graph_free(graph);
    free(y);
    free(want);
    free(x);
    free(model);
    free(name);
    free(h);
}

static void check_all(int threads) {
    struct kern_device *dev;
    FILE *f = fopen(FILE_NAME, "rb");
    cr_assert(f != NULL, FILE_NAME);
    cr_assert(eq(int, kern_device_open("cpu", threads, &dev), KERN_OK));
    int32_t *tests = take(f, sizeof *tests);
    cr_assert(tests[0] >= 45, "there is not a test for every operator");
    for (int32_t i = 0; i < tests[0]; i++)
        check_one(dev, f);
    cr_expect(fgetc(f) == EOF, "something is left over");
    free(tests);
    fclose(f);
    kern_device_close(dev);
}

Test(spoke_nodes, every_operator_computes_what_the_onnx_project_says) {
    check_all(1);
}

Test(spoke_nodes, so_it_does_on_two_threads) {
    check_all(2);
}
