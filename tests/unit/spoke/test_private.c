/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DP-SGD as the trainer does it: a linear model, whose gradients are worked out here in double, on
 * the same sample and with the same noise as the key gives.
 */
#include "spoke/budget.h"
#include "spoke/team.h"
#include "spoke/train.h"
#include "tests/support/npy_writer.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#define ROWS 60
#define BATCH 8
#define CLIP 0.5

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_net *net;
static struct spoke_data *data;
static struct tier_noise_key key;

static const struct spoke_recipe private = {.optimiser = SPOKE_OPT_SGD,
                                            .lr = 0.5f,
                                            .batch = BATCH,
                                            .steps = 1,
                                            .sample_clip = (float)CLIP,
                                            .noise_key = &key};

static double feature(int row, int which) {
    return which == 0 ? 3 * sin(row * 1.3) : 0.2 * cos(row * 2.1);
}

static int label(int row) {
    return sin(row * 1.3) > 0;
}

static void parse_model(void) {
    static struct onnx_msg g, m;
    static const float zeros[8];
    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, 2);
    onnx_add_value(&g, 12, "y", 0, 1);
    onnx_add_tensor(&g, "w", 2, 1, zeros);
    onnx_add_tensor(&g, "b", 1, 0, zeros);
    onnx_add_node(&g, "Gemm", "x w b", "z");
    onnx_add_node(&g, "Sigmoid", "z", "y");
    onnx_model(&m, &g, 13);
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
}

#define SCHEMA(a, id)                                                                              \
    "columns:\n  - {name: a, type: number" a "}\n  - {name: b, type: number}\n"                    \
    "  - {name: t, type: target, categories: [\"0\", \"1\"]}\n  - {name: s, type: split}\n" id     \
    "split: {by: column}\n"

static struct spoke_data *table(const char *schema, int patients) {
    const struct spoke_data_options options = {.identified = true};
    struct spoke_data *d = NULL;
    char csv[8192];
    size_t at = (size_t)snprintf(csv, sizeof csv, "a,b,t,s%s\n", patients ? ",p" : "");

    for (int i = 0; i < ROWS; i++) {
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.6f,%.6f,%d,train", feature(i, 0),
                               feature(i, 1), label(i));
        at += (size_t)snprintf(csv + at, sizeof csv - at, patients ? ",p%d\n" : "\n",
                               patients ? i % patients : 0);
    }
    cr_assert(eq(int,
                 spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), &options, &d,
                                 &err),
                 TIER_OK),
              "%s", err.text);
    return d;
}

static void set_up(void) {
    memset(&key, 7, sizeof key);
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    parse_model();
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, BATCH, &net, &err), TIER_OK));
    data = table(SCHEMA("", ""), 0);
}

static void tear_down(void) {
    spoke_data_free(data);
    spoke_net_free(net);
    tier_graph_free(graph);
    kern_device_close(dev);
    temp_release();
}

TestSuite(spoke_private, .init = set_up, .fini = tear_down);

static struct spoke_train_stats train(const struct spoke_recipe *r, float out[3]) {
    static const float start[3] = {0.3f, -0.2f, 0.1f};
    struct spoke_train_stats stats;
    cr_assert(eq(int, spoke_net_set(net, start, &err), TIER_OK));
    cr_assert(eq(int, spoke_train(net, data, r, 1, &stats, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_get(net, out, &err), TIER_OK));
    return stats;
}

/* The same with nothing but the definition. Returns the rows that were in samples. */
static size_t by_definition(const struct spoke_recipe *r, double w[3]) {
    struct tier_noise *draws = NULL, *noise = NULL;
    int32_t sample[ROWS];
    size_t seen = 0;

    w[0] = (double)0.3f;
    w[1] = (double)-0.2f;
    w[2] = (double)0.1f;
    cr_assert(tier_noise_new(&key, 0, &draws, &err) == TIER_OK);
    cr_assert(tier_noise_new(&key, 1, &noise, &err) == TIER_OK);
    for (uint64_t step = 0; step < r->steps; step++) {
        double sum[3] = {0};
        float drawn[3] = {0};
        size_t count = tier_noise_sample(draws, ROWS, r->batch, sample);
        for (size_t i = 0; i < count; i++) {
            double x = feature(sample[i], 0), y = feature(sample[i], 1);
            double off = 1 / (1 + exp(-(w[0] * x + w[1] * y + w[2]))) - label(sample[i]);
            double g[3] = {off * x, off * y, off};
            double norm = sqrt(g[0] * g[0] + g[1] * g[1] + g[2] * g[2]);
            double cut = fmin(1, (double)r->sample_clip * 0.999 / norm);
            for (int k = 0; k < 3; k++)
                sum[k] += cut * g[k];
        }
        tier_noise_normal(noise, (double)r->sample_noise * (double)r->sample_clip, drawn, 3);
        for (int k = 0; k < 3; k++)
            w[k] -= (double)r->lr * (sum[k] + (double)drawn[k]) / fmin(r->batch, ROWS);
        seen += count;
    }
    tier_noise_free(draws);
    tier_noise_free(noise);
    return seen;
}

static void is_what_the_definition_says(const struct spoke_recipe *r) {
    float w[3];
    double wanted[3];
    struct spoke_train_stats stats = train(r, w);
    cr_expect(eq(u64, stats.rows, by_definition(r, wanted)));
    cr_expect(eq(u64, stats.steps, r->steps));
    for (int k = 0; k < 3; k++)
        cr_expect(fabs((double)w[k] - wanted[k]) < 2e-5 * fmax(1, fabs(wanted[k])),
                  "parameter %d: %.8f, %.8f by definition", k, (double)w[k], wanted[k]);
}

Test(spoke_private, rows_are_drawn_one_by_one_cut_summed_and_divided_by_the_mean_sample) {
    struct spoke_recipe r = private;
    is_what_the_definition_says(&r);
    r.steps = 40;
    is_what_the_definition_says(&r);
}

Test(spoke_private, noise_of_the_deviation_asked_for_comes_to_each_steps_sum) {
    struct spoke_recipe r = private;
    r.sample_noise = 1.5f;
    r.steps = 40;
    is_what_the_definition_says(&r);
}

Test(spoke_private, samples_larger_than_a_batch_and_of_no_row_are_both_trained) {
    struct spoke_recipe r = private;
    float w[3];
    r.sample_noise = 0.5f;
    r.batch = 1; /* two samples in five are empty, and most others of several rows in five */
    r.steps = 60;
    is_what_the_definition_says(&r);
    r.batch = BATCH;
    cr_expect(ne(u64, train(&r, w).rows, (uint64_t)r.steps * BATCH)); /* not of a fixed size */
}

Test(spoke_private, a_step_of_several_batches_is_one_sample_with_one_noise) {
    struct spoke_recipe several = private, wide = private;
    float a[3], b[3];
    several.accumulate = 4;
    several.batch = 2;
    several.sample_noise = wide.sample_noise = 1;
    several.steps = wide.steps = 10;
    train(&several, a);
    train(&wide, b);
    for (int k = 0; k < 3; k++)
        cr_expect(fabs((double)a[k] - (double)b[k]) < 1e-5, "%d", k);
}

Test(spoke_private, the_same_key_gives_the_same_bits_and_another_one_others) {
    struct spoke_recipe r = private;
    float a[3], b[3], c[3];
    r.sample_noise = 1;
    r.steps = 20;
    train(&r, a);
    train(&r, b);
    key.b[0] ^= 1;
    train(&r, c);
    cr_expect(memcmp(a, b, sizeof a) == 0);
    for (int k = 0; k < 3; k++)
        cr_expect(ne(flt, a[k], c[k]));
}

Test(spoke_private, no_row_moves_a_step_by_more_than_the_clip) {
    struct spoke_recipe r = private;
    float with[3], without[3];
    r.batch = ROWS; /* every row is in every sample */
    r.lr = (float)ROWS;
    spoke_net_free(net);
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, ROWS, &net, &err), TIER_OK));
    train(&r, with);
    for (int power = 0; power < 30; power += 4) {
        float huge = powf(10, (float)power);
        float *x = (float *)(uintptr_t)spoke_data_x(data, SPOKE_TRAIN); /* this test's own table */
        double squares = 0;
        float kept[2] = {x[0], x[1]};
        x[0] = huge;
        x[1] = -huge;
        train(&r, without);
        for (int k = 0; k < 3; k++)
            squares += pow((double)with[k] - (double)without[k], 2);
        cr_expect(sqrt(squares) <= 2 * CLIP, "a row of %g moves by %g", (double)huge,
                  sqrt(squares));
        cr_expect(gt(dbl, squares, 0));
        x[0] = kept[0];
        x[1] = kept[1];
    }
}

Test(spoke_private, a_row_that_is_not_finite_trains_nothing_and_fails_nothing) {
    static const float bad[] = {INFINITY, NAN, 3e38f};
    struct spoke_recipe r = private;
    float *x = (float *)(uintptr_t)spoke_data_x(data, SPOKE_TRAIN); /* this test's own table */
    r.sample_noise = 1;
    r.steps = 30;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        float w[3];
        x[0] = bad[i];
        x[1] = -bad[i];
        struct spoke_train_stats stats = train(&r, w);
        cr_expect(isfinite(stats.loss_mean), "%g", (double)bad[i]);
        for (int k = 0; k < 3; k++)
            cr_expect(isfinite(w[k]), "%g: parameter %d", (double)bad[i], k);
    }
}

Test(spoke_private, a_training_that_diverges_is_known_by_its_model) {
    struct spoke_recipe r = private;
    static const float start[3];
    r.lr = 3e38f;
    r.sample_noise = 10;
    r.steps = 5;
    cr_assert(eq(int, spoke_net_set(net, start, &err), TIER_OK));
    cr_expect(eq(int, spoke_train(net, data, &r, 1, NULL, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, "the model is not finite") != NULL, "%s", err.text);
}

Test(spoke_private, replicas_add_the_noise_once) {
    const struct spoke_objective objective = spoke_objective_plain(SPOKE_LOSS_BCE);
    static const float start[3] = {0.3f, -0.2f, 0.1f};
    struct spoke_net *nets[KERN_GROUP_RANKS_MAX];
    struct spoke_recipe r = private;
    struct spoke_team team;
    float alone[3], together[3];
    r.sample_noise = 2;
    r.steps = 15;
    train(&r, alone);
    cr_assert(eq(int, spoke_team_open("cpu*3", 2, true, &team, &err), TIER_OK), "%s", err.text);
    cr_assert(
        eq(int, spoke_team_nets(&team, graph, &objective, BATCH, 3, false, nets, &err), TIER_OK));
    for (size_t i = 0; i < 3; i++)
        cr_assert(eq(int, spoke_net_set(nets[i], start, &err), TIER_OK));
    cr_assert(eq(int, spoke_train_replicas(nets, 3, team.group, data, &r, 1, NULL, &err), TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, spoke_net_get(nets[0], together, &err), TIER_OK));
    for (int k = 0; k < 3; k++)
        cr_expect(fabs((double)alone[k] - (double)together[k]) < 1e-5, "%g, %g", (double)alone[k],
                  (double)together[k]);
    for (size_t i = 0; i < 3; i++)
        spoke_net_free(nets[i]);
    spoke_team_close(&team);
}

static void refused(const struct spoke_recipe *r, const char *why) {
    cr_expect(eq(int, spoke_train(net, data, r, 1, NULL, &err), TIER_EPLAN), "%s", why);
    cr_expect(strstr(err.text, why) != NULL, "%s", err.text);
}

Test(spoke_private, a_recipe_without_a_key_with_epochs_or_with_half_of_it_is_refused) {
    struct spoke_recipe r = private;
    r.noise_key = NULL;
    refused(&r, "noise_key");
    r = private;
    r.sample_clip = 0;
    refused(&r, "noise_key");
    r.noise_key = NULL;
    r.sample_noise = 1;
    refused(&r, "sample_clip");
    r = private;
    r.steps = 0;
    r.epochs = 1;
    refused(&r, "there are steps alone");
    r = private;
    r.sample_noise = INFINITY;
    refused(&r, "sample_noise");
}

/* ---- which rows may be trained on ---- */

static void rows_refused(struct spoke_data *d, const char *why) {
    cr_expect(eq(int, spoke_budget_rows(d, &err), TIER_EPOLICY), "%s", why);
    cr_expect(strstr(err.text, why) != NULL, "%s", err.text);
    spoke_data_free(d);
}

#define PATIENT "  - {name: p, type: id}\n"

/* Of images of an array nobody knows whose they are: a row is who is protected. */
Test(spoke_private, rows_without_ids_are_each_somebody_of_their_own) {
    struct spoke_data *nameless = table(SCHEMA("", "  - {name: p, type: ignore}\n"), ROWS - 1);
    cr_assert(ge(sz, spoke_data_rows(nameless, SPOKE_TRAIN), 2));
    cr_assert(spoke_data_id(nameless, SPOKE_TRAIN, 0) == NULL);
    cr_expect(eq(int, spoke_budget_rows(nameless, &err), TIER_OK), "%s", err.text);
    spoke_data_free(nameless);
}

Test(spoke_private, rows_that_depend_on_other_rows_are_refused) {
    struct spoke_data *agreed =
        table(SCHEMA(", standardise: true, mean: 1.0, std: 2.0", PATIENT), ROWS);
    cr_expect(eq(int, spoke_budget_rows(data, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(int, spoke_budget_rows(agreed, &err), TIER_OK), "%s", err.text);
    spoke_data_free(agreed);
    rows_refused(table(SCHEMA(", standardise: true", PATIENT), ROWS),
                 "standardises by the training rows");
}

Test(spoke_private, several_rows_of_a_patient_are_refused) {
    rows_refused(table(SCHEMA("", PATIENT), ROWS - 1), "several training rows");
}
