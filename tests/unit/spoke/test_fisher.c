/* SPDX-License-Identifier: Apache-2.0 */
/* Linear models, whose Fisher information is written down in a line and worked out here in double,
 * with no code of the engine. */
#include "spoke/fisher.h"
#include "spoke/train.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 900, CLASSES_MAX = 3, ELEMENTS_MAX = 3 * CLASSES_MAX };

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_net *net;
static struct spoke_data *data;
static size_t outputs, elements;

/* Two features, w[2 x outputs] and b[outputs]; every row is of that part of the table. */
static void set_up_on(int threads, size_t classes, const char *part) {
    static struct onnx_msg g, m;
    static char csv[64 * ROWS];
    static const char *const names[] = {"lo", "mid", "hi"};
    float w[ELEMENTS_MAX];
    char schema[512];
    size_t at = 0;

    outputs = classes == 2 ? 1 : classes;
    elements = 3 * outputs;
    for (size_t i = 0; i < elements; i++)
        w[i] = (float)sin((double)i * 1.7 + 0.3);
    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, 2);
    onnx_add_value(&g, 12, "y", 0, (int)outputs);
    onnx_add_tensor(&g, "w", 2, (int)outputs, w);
    onnx_add_tensor(&g, "b", (int)outputs, 0, w + 2 * outputs);
    onnx_add_node(&g, "Gemm", "x w b", "z");
    onnx_add_node(&g, outputs == 1 ? "Sigmoid" : "Softmax", "z", "y");
    onnx_model(&m, &g, 13);
    snprintf(schema, sizeof schema,
             "columns:\n  - {name: a, type: number}\n  - {name: b, type: number}\n"
             "  - {name: t, type: target, categories: %s}\n  - {name: s, type: split}\n"
             "split: {by: column}\n",
             outputs == 1 ? "[lo, mid]" : "[lo, mid, hi]");
    at += (size_t)snprintf(csv, sizeof csv, "a,b,t,s\n");
    for (int i = 0; i < ROWS; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.6f,%.6f,%s,%s\n", 3 * sin(i * 1.3),
                               cos(i * 2.1), names[(size_t)(i * 7) % classes],
                               part    ? part
                               : i % 3 ? "train"
                                       : "test");
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", threads, &dev), KERN_OK));
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
    cr_assert(
        eq(int,
           spoke_net_new(dev, graph, outputs == 1 ? SPOKE_LOSS_BCE : SPOKE_LOSS_CE, 4, &net, &err),
           TIER_OK));
    cr_assert(
        eq(int,
           spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), NULL, &data, &err),
           TIER_OK),
        "%s", err.text);
}

static void tear_down(void) {
    spoke_data_free(data);
    spoke_net_free(net);
    tier_graph_free(graph);
    kern_device_close(dev);
    temp_release();
}

TestSuite(spoke_fisher, .fini = tear_down);

/* The mean over those rows of the squared gradient, (p_c - [c is the class])^2 x_k^2. */
static void expected(const int32_t *rows, size_t count, double *out) {
    const float *x = spoke_data_x(data, SPOKE_TRAIN);
    const int32_t *label = spoke_data_labels(data, SPOKE_TRAIN);
    float w[ELEMENTS_MAX];
    cr_assert(eq(int, spoke_net_get(net, w, &err), TIER_OK));
    memset(out, 0, elements * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        double p[CLASSES_MAX], sum = 0, r[3] = {0, 0, 1};
        for (size_t k = 0; k < 2; k++)
            r[k] = (double)x[2 * (size_t)rows[i] + k];
        for (size_t c = 0; c < outputs; c++) {
            double z = 0;
            for (size_t k = 0; k < 3; k++)
                z += r[k] * (double)w[k * outputs + c];
            p[c] = exp(z);
            sum += p[c];
        }
        if (outputs == 1)
            sum += 1; /* class 0, whose logit is 0 */
        for (size_t c = 0; c < outputs; c++) {
            bool is = outputs == 1 ? label[rows[i]] == 1 : label[rows[i]] == (int32_t)c;
            for (size_t k = 0; k < 3; k++)
                out[k * outputs + c] += pow((p[c] / sum - is) * r[k], 2) / (double)count;
        }
    }
}

static void check(uint64_t rows, uint64_t seed) {
    size_t all = spoke_data_rows(data, SPOKE_TRAIN);
    size_t take = rows == 0 || rows > all ? all : (size_t)rows;
    int32_t *order = malloc(all * sizeof *order);
    double want[ELEMENTS_MAX];
    float got[ELEMENTS_MAX];
    spoke_train_shuffle(seed, 0, order, all);
    expected(order, take, want);
    cr_assert(eq(int, spoke_fisher(net, data, rows, seed, got, &err), TIER_OK), "%s", err.text);
    for (size_t i = 0; i < elements; i++)
        cr_expect(lt(dbl, fabs((double)got[i] - want[i]), 2e-6 * want[i]), "%zu: %g, %g", i,
                  (double)got[i], want[i]);
    free(order);
}

Test(spoke_fisher, two_classes_have_the_mean_of_the_squares_of_each_rows_gradient) {
    set_up_on(1, 2, NULL);
    cr_assert(eq(sz, spoke_data_rows(data, SPOKE_TRAIN), 600));
    check(0, 1);
}

Test(spoke_fisher, so_have_three_classes) {
    set_up_on(1, 3, NULL);
    check(0, 1);
}

Test(spoke_fisher, a_bound_takes_rows_drawn_by_the_seed_and_more_than_there_are_are_all) {
    set_up_on(1, 2, NULL);
    check(1, 5);
    check(17, 5);
    check(300, 6);
    check(1000, 6);
}

Test(spoke_fisher, the_bits_are_those_of_any_number_of_threads_and_parameters_stay) {
    float one[ELEMENTS_MAX], three[ELEMENTS_MAX], before[ELEMENTS_MAX], after[ELEMENTS_MAX];
    set_up_on(1, 3, NULL);
    cr_assert(eq(int, spoke_net_get(net, before, &err), TIER_OK));
    cr_assert(eq(int, spoke_fisher(net, data, 0, 1, one, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_get(net, after, &err), TIER_OK));
    cr_expect(memcmp(before, after, elements * sizeof *before) == 0);
    tear_down();
    set_up_on(3, 3, NULL);
    cr_assert(eq(int, spoke_fisher(net, data, 0, 1, three, &err), TIER_OK));
    cr_expect(memcmp(one, three, elements * sizeof *one) == 0);
}

Test(spoke_fisher, no_training_row_and_parameters_that_are_no_numbers_are_refused) {
    float out[ELEMENTS_MAX] = {7}, w[ELEMENTS_MAX] = {NAN};
    set_up_on(1, 2, "test");
    cr_expect(eq(int, spoke_fisher(net, data, 0, 1, out, &err), TIER_EDATA));
    tear_down();
    set_up_on(1, 2, NULL);
    cr_assert(eq(int, spoke_net_set(net, w, &err), TIER_OK));
    cr_expect(eq(int, spoke_fisher(net, data, 0, 1, out, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, "training diverged") != NULL, "%s", err.text);
}
