/* SPDX-License-Identifier: Apache-2.0 */
/* Training whose products take bfloat16 or binary16, and the loss scale that the latter needs. */
#include "spoke/scaler.h"
#include "kernels/backend.h"
#include "spoke/spoke.h"
#include "spoke/train.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#define HIDDEN 6
#define ELEMENTS (2 * HIDDEN + HIDDEN + HIDDEN + 1) /* w, b, v, c */

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_net *net;
static struct spoke_data *data;
static float start[ELEMENTS];

static void set_up(void) {
    static struct onnx_msg g, m;
    static const char schema[] = "columns:\n  - {name: a, type: number}\n"
                                 "  - {name: b, type: number}\n"
                                 "  - {name: t, type: target, categories: [lo, hi]}\n"
                                 "  - {name: s, type: split}\nsplit: {by: column}\n";
    char csv[8192];
    size_t at = (size_t)snprintf(csv, sizeof csv, "a,b,t,s\n");

    for (int i = 0; i < ELEMENTS; i++)
        start[i] = i < 3 * HIDDEN || i >= ELEMENTS - 1 ? (float)sin(i + 1.0) : 0.5f;
    onnx_add_value(&g, 11, "x", 0, 2);
    onnx_add_value(&g, 12, "y", 0, 1);
    onnx_add_tensor(&g, "w", 2, HIDDEN, start);
    onnx_add_tensor(&g, "b", HIDDEN, 0, start);
    onnx_add_tensor(&g, "v", HIDDEN, 1, start);
    onnx_add_tensor(&g, "c", 1, 0, start);
    onnx_add_node(&g, "Gemm", "x w b", "h");
    onnx_add_node(&g, "Relu", "h", "r");
    onnx_add_node(&g, "Gemm", "r v c", "z");
    onnx_add_node(&g, "Sigmoid", "z", "y");
    onnx_model(&m, &g, 13);
    for (int i = 0; i < 80; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.6f,%.6f,%s,%s\n", sin(i * 1.3),
                               cos(i * 2.1), sin(i * 1.3) > 0 ? "hi" : "lo",
                               i % 5 ? "train" : "test");
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, 16, &net, &err), TIER_OK));
    cr_assert(eq(u64, spoke_net_elements(net), ELEMENTS));
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

TestSuite(spoke_scaler);
TestSuite(spoke_half, .init = set_up, .fini = tear_down);

Test(spoke_scaler, a_step_that_is_not_finite_is_left_out_and_halves_the_scale) {
    struct spoke_scaler s = spoke_scaler_start();
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_START));
    cr_expect(not(spoke_scaler_note(&s, false)));
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_START / 2));
    cr_expect(spoke_scaler_note(&s, true));
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_START / 2));
    cr_expect(eq(u64, s.skipped, 1));
    for (int i = 0; i < 100; i++)
        cr_expect(not(spoke_scaler_note(&s, false)));
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_LEAST));
}

Test(spoke_scaler, as_many_steps_in_a_row_double_the_scale_and_one_less_does_not) {
    struct spoke_scaler s = spoke_scaler_start();
    for (unsigned i = 1; i < SPOKE_SCALE_STEPS; i++)
        cr_assert(spoke_scaler_note(&s, true));
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_START));
    (void)spoke_scaler_note(&s, false); /* the row begins anew */
    for (unsigned i = 1; i < SPOKE_SCALE_STEPS; i++)
        (void)spoke_scaler_note(&s, true);
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_START / 2));
    (void)spoke_scaler_note(&s, true);
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_START));
    for (unsigned i = 0; i < 100 * SPOKE_SCALE_STEPS; i++)
        (void)spoke_scaler_note(&s, true);
    cr_expect(eq(flt, s.scale, SPOKE_SCALE_MOST));
}

static struct spoke_train_stats train(struct spoke_recipe r, float *out) {
    struct spoke_train_stats stats = {0};
    cr_assert(eq(int, spoke_net_set(net, start, &err), TIER_OK));
    cr_assert(eq(int, spoke_train(net, data, &r, 1, &stats, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, out, &err), TIER_OK));
    return stats;
}

static double loss_of(const float *params, struct spoke_recipe r) {
    float out[ELEMENTS];
    memcpy(start, params, sizeof start);
    r.lr = 1e-20f; /* moves nothing: the mean loss of an epoch */
    r.epochs = 1;
    r.products = KERN_EXACT;
    return train(r, out).loss_mean;
}

Test(spoke_half, trainings_in_half_precisions_reach_the_loss_of_float32_within_a_hundredth) {
    const struct spoke_recipe adam = {.optimiser = SPOKE_OPT_ADAM,
                                      .lr = 0.02f,
                                      .beta1 = 0.9f,
                                      .beta2 = 0.99f,
                                      .eps = 1e-6f,
                                      .batch = 16,
                                      .epochs = 20};
    struct spoke_recipe bf16 = adam, f16 = adam;
    float exact[ELEMENTS], a[ELEMENTS], b[ELEMENTS], again[ELEMENTS];
    bf16.products = KERN_BF16;
    f16.products = KERN_F16;
    double begin = loss_of(start, adam);
    train(adam, exact);
    train(bf16, a);
    cr_expect(eq(u64, train(f16, b).skipped, 0));
    train(f16, again);
    cr_expect(eq(int, memcmp(b, again, sizeof b), 0));
    cr_expect(ne(int, memcmp(a, exact, sizeof a), 0), "it rounds");
    cr_expect(ne(int, memcmp(b, exact, sizeof b), 0), "it rounds");
    double want = loss_of(exact, adam);
    cr_expect(lt(dbl, want, begin / 2));
    cr_expect(lt(dbl, fabs(loss_of(a, adam) - want), 0.01));
    cr_expect(lt(dbl, fabs(loss_of(b, adam) - want), 0.01));
}

/* One row, and so far from its class that its gradient is 1: times 65536 more than binary16 has. */
static struct spoke_recipe far_off(void) {
    memset(start, 0, sizeof start);
    start[ELEMENTS - 1] = spoke_data_labels(data, SPOKE_TRAIN)[0] ? -40.0f : 40.0f;
    return (struct spoke_recipe){.optimiser = SPOKE_OPT_SGD,
                                 .lr = 0.5f,
                                 .momentum = 0.9f,
                                 .batch = 1,
                                 .steps = 64,
                                 .products = KERN_F16};
}

Test(spoke_half, a_step_that_overflows_is_left_out_and_counted_and_the_next_is_made) {
    float out[ELEMENTS];
    struct spoke_train_stats stats = train(far_off(), out);
    cr_expect(eq(u64, stats.skipped, 1), "%llu", (unsigned long long)stats.skipped);
    cr_expect(eq(u64, stats.steps, 63));
    cr_expect(eq(u64, stats.rows, 64));
    cr_expect(lt(flt, fabsf(out[ELEMENTS - 1]), 40.0f));
    for (int i = 0; i < ELEMENTS; i++)
        cr_expect(isfinite(out[i]));
}

Test(spoke_half, where_no_step_can_be_made_the_training_fails_with_what_would_do) {
    struct spoke_recipe r = far_off();
    float out[ELEMENTS];
    int32_t order[64];
    /* The one row that the first step has, wherever the shuffle put it. */
    spoke_train_shuffle(1, 0, order, 64);
    start[ELEMENTS - 1] = spoke_data_labels(data, SPOKE_TRAIN)[order[0]] ? -40.0f : 40.0f;
    r.steps = 1;
    cr_assert(eq(int, spoke_net_set(net, start, &err), TIER_OK));
    cr_expect(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, "bf16") != NULL, "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, out, &err), TIER_OK));
    cr_expect(eq(int, memcmp(out, start, sizeof out), 0));
    r.products = KERN_BF16;
    cr_expect(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_OK), "%s", err.text);
}

Test(spoke_half, a_plans_precision_is_what_products_round_in_training) {
    static const enum kern_products want[] = {KERN_EXACT, KERN_TF32, KERN_BF16, KERN_F16};
    static struct tier_plan plan;
    struct spoke_recipe recipe;
    plan.batch = 8;
    for (int i = 0; i < 4; i++) {
        plan.precision = TIER_PLAN_PRECISION_F32 + i;
        spoke_round_recipe(&plan, 1, &recipe);
        cr_expect(eq(int, (int)recipe.products, (int)want[i]));
    }
}

Test(spoke_half, a_loss_scale_is_a_power_of_two_and_is_not_seen_in_the_gradients) {
    struct kern_buf *buf = NULL;
    float with[ELEMENTS], without[ELEMENTS];
    const float rows[9] = {0.3f, -0.2f, 0.9f, 1.0f, -0.4f, 0.1f, 1, 0, 1};
    cr_assert(eq(int, spoke_net_set(net, start, &err), TIER_OK));
    cr_assert(eq(int, kern_buf_new(dev, 10 * sizeof(float), &buf), KERN_OK));
    cr_assert(eq(int, kern_upload(buf, 0, rows, sizeof rows), KERN_OK));
    const struct kern_vec x = {buf, 0}, target = {buf, 6}, loss = {buf, 9};
    const struct kern_vec g = spoke_net_grads(net);
    for (int i = 0; i < 2; i++) {
        cr_assert(eq(int, spoke_net_scale(net, i ? 1.0f : 4096.0f, &err), TIER_OK));
        cr_assert(eq(int, spoke_net_backward(net, x, target, 3, loss, &err), TIER_OK));
        kern_download(i ? without : with, g.buf, 0, sizeof with);
    }
    for (int i = 0; i < ELEMENTS; i++)
        cr_expect(lt(flt, fabsf(with[i] - without[i]), 1e-7f));
    cr_expect(eq(int, spoke_net_scale(net, 3.0f, &err), TIER_EARG));
    cr_expect(eq(int, spoke_net_scale(net, 0.0f, &err), TIER_EARG));
    cr_expect(eq(int, spoke_net_scale(net, INFINITY, &err), TIER_EARG));
}
