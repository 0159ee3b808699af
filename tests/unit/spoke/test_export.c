/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A trained model as a file for others: tests/golden/export holds models as PyTorch exports them
 * for training, the files that were made of them with trained values, and what onnxruntime computed
 * with those files (tests/support/make_export_golden.py). The same bytes must come out here, and
 * the engine must give onnxruntime's outputs for them.
 */
#include "spoke/net.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER CONSILIUM_SOURCE_DIR "/tests/golden/export"

static struct tier_err err;

static void *slurp(const char *name, const char *suffix, size_t *n) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", FOLDER, name, suffix);
    FILE *f = fopen(path, "rb");
    cr_assert(f != NULL, "%s", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    void *data = malloc(*n);
    cr_assert(fread(data, 1, *n, f) == *n, "%s", path);
    fclose(f);
    return data;
}

static struct tier_graph *parse(const void *bytes, size_t n) {
    struct tier_graph *g = NULL;
    cr_assert(tier_graph_parse(bytes, n, &g, &err) == TIER_OK, "%s", err.text);
    return g;
}

/* The engine's outputs for the rows of x with an exported file. */
static void run(const struct tier_graph *g, const float *x, size_t rows, size_t outputs,
                float *out) {
    struct kern_device *dev;
    struct kern_buf *in;
    struct spoke_net *net = NULL;
    struct kern_vec z;
    size_t bytes = rows * (size_t)tier_graph_features(g) * sizeof *x;

    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, kern_buf_new(dev, bytes, &in), KERN_OK));
    cr_assert(eq(int, kern_upload(in, 0, x, bytes), KERN_OK));
    cr_assert(spoke_net_new(dev, g, SPOKE_LOSS_CE, rows, &net, &err) == TIER_OK, "%s", err.text);
    cr_assert(spoke_net_forward(net, (struct kern_vec){in, 0}, rows, &z, &err) == TIER_OK);
    cr_assert(eq(sz, rows * spoke_net_spots(net) * spoke_net_outputs(net), outputs));
    cr_assert(
        eq(int, kern_download(out, z.buf, z.at * sizeof *out, outputs * sizeof *out), KERN_OK));
    spoke_net_free(net);
    kern_buf_free(in);
    kern_device_close(dev);
}

static void check(const char *name) {
    size_t train_n, want_n, golden_n, n = 0;
    uint8_t *train = slurp(name, ".train.onnx", &train_n), *made = NULL;
    uint8_t *want = slurp(name, ".onnx", &want_n);
    int32_t *golden = slurp(name, ".bin", &golden_n);
    const float *x = (const float *)(golden + 3), *theirs = x + golden[1];
    size_t outputs = (size_t)golden[2];
    struct tier_graph *g = parse(train, train_n), *trained = parse(want, want_n);

    cr_assert(eq(sz, golden_n, 4 * (3 + (size_t)golden[1] + outputs)));
    cr_assert(memmem(train, train_n, "training_mode", 13) != NULL, "%s is not for training", name);
    cr_expect(memmem(want, want_n, "training_mode", 13) == NULL);
    float *values = malloc((size_t)tier_graph_elements(g) * sizeof *values);
    cr_assert(tier_graph_values(trained, values, &err) == TIER_OK);
    cr_assert(tier_graph_write(g, values, &made, &n, &err) == TIER_OK, "%s", err.text);
    cr_assert(eq(sz, n, want_n), "%s", name);
    cr_expect(memcmp(made, want, n) == 0, "%s: other bytes than onnxruntime was given", name);

    float *ours = malloc(outputs * sizeof *ours);
    struct tier_graph *again = parse(made, n);
    run(again, x, (size_t)golden[0], outputs, ours);
    double off = 0, size = 0;
    for (size_t i = 0; i < outputs; i++) {
        off += pow((double)ours[i] - (double)theirs[i], 2);
        size += pow((double)theirs[i], 2);
    }
    cr_expect(sqrt(off / size) <= 1e-5, "%s: the outputs are off by %.1e", name, sqrt(off / size));
    tier_graph_free(again);
    tier_graph_free(trained);
    tier_graph_free(g);
    free(ours);
    free(values);
    free(made);
    free(golden);
    free(want);
    free(train);
}

Test(spoke_export, a_trained_perceptron_is_the_file_that_onnxruntime_ran) {
    check("mlp-dropout");
}

Test(spoke_export, so_is_a_convolution_with_both_normalisations) {
    check("conv-norms");
}

Test(spoke_export, so_is_one_over_volumes) {
    check("volume");
}
