/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each thing that a recipe may have, against PyTorch's training of the same logistic regression in
 * float64 (recipe_golden.inc, by tests/support/make_recipe_golden.py): a step sees all 75 rows, so
 * that their order counts in the rounding alone.
 */
#include "spoke/team.h"
#include "spoke/train.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "recipe_golden.inc"

#define ROWS 75
#define STEPS 12

static const float begin[3] = {0.3f, -0.2f, 0.1f};
static const struct spoke_recipe sgd = {
    .optimiser = SPOKE_OPT_SGD, .lr = 0.5f, .batch = ROWS, .steps = STEPS};
static const struct spoke_recipe momentum = {
    .optimiser = SPOKE_OPT_SGD, .lr = 0.5f, .momentum = 0.9f, .batch = ROWS, .steps = STEPS};

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_data *data;

static void set_up(void) {
    static struct onnx_msg g, m;
    static const float zeros[2];
    static char csv[8192];
    size_t at = 0;

    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, 2);
    onnx_add_value(&g, 12, "y", 0, 1);
    onnx_add_tensor(&g, "w", 2, 1, zeros);
    onnx_add_tensor(&g, "b", 1, 0, zeros);
    onnx_add_node(&g, "Gemm", "x w b", "z");
    onnx_add_node(&g, "Sigmoid", "z", "y");
    onnx_model(&m, &g, 13);
    at += (size_t)snprintf(csv, sizeof csv, "a,b,t,s\n");
    for (int i = 0; i < 101; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.6f,%.6f,%s,%s\n", sin(i * 1.3),
                               cos(i * 2.1), sin(i * 1.3) > 0 ? "hi" : "lo",
                               i % 4 ? "train" : "test");
    const char *schema =
        temp_file("s.yaml", "columns:\n  - {name: a, type: number}\n  - {name: b, type: number}\n"
                            "  - {name: t, type: target, categories: [lo, hi]}\n"
                            "  - {name: s, type: split}\nsplit: {by: column}\n");
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_data_open(schema, temp_file("t.csv", csv), NULL, &data, &err), TIER_OK),
              "%s", err.text);
    cr_assert(eq(sz, spoke_data_rows(data, SPOKE_TRAIN), ROWS));
}

static void tear_down(void) {
    spoke_data_free(data);
    tier_graph_free(graph);
    kern_device_close(dev);
    temp_release();
}

TestSuite(spoke_recipe, .init = set_up, .fini = tear_down);

/* Where these devices end, from `begin`. */
static void train_on(const char *list, struct spoke_recipe r, float out[3]) {
    const struct spoke_objective bce = spoke_objective_plain(SPOKE_LOSS_BCE);
    struct spoke_team team;
    struct spoke_net *nets[KERN_GROUP_RANKS_MAX] = {NULL};
    cr_assert(eq(int, spoke_team_open(list, 2, true, &team, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_team_nets(&team, graph, &bce, r.batch, team.count, true, nets, &err),
                 TIER_OK));
    spoke_net_set(nets[0], begin, &err);
    cr_assert(eq(int, spoke_train_replicas(nets, team.count, team.group, data, &r, 1, NULL, &err),
                 TIER_OK),
              "%s", err.text);
    spoke_net_get(nets[team.count - 1], out, &err);
    for (size_t i = 0; i < team.count; i++)
        spoke_net_free(nets[i]);
    spoke_team_close(&team);
}

static void near(const char *what, const float *ours, const double *theirs) {
    for (int k = 0; k < 3; k++)
        cr_expect(fabs((double)ours[k] - theirs[k]) <= 1e-5 * fmax(1, fabs(theirs[k])),
                  "%s: %.9g, not %.9g", what, (double)ours[k], theirs[k]);
}

/* On one device, on three that share the rows, and from five batches a step. */
static void is_pytorchs(const char *what, struct spoke_recipe r, const double *theirs) {
    float out[3];
    train_on("cpu", r, out);
    near(what, out, theirs);
    train_on("cpu*3", r, out);
    near(what, out, theirs);
    r.batch = 15;
    r.accumulate = 5;
    train_on("cpu", r, out);
    near(what, out, theirs);
    train_on("cpu*4", r, out); /* slices of 3 and 4 rows */
    near(what, out, theirs);
}

Test(spoke_recipe, optimisers_are_pytorchs) {
    struct spoke_recipe adam = {.optimiser = SPOKE_OPT_ADAM,
                                .lr = 0.05f,
                                .beta1 = 0.9f,
                                .beta2 = 0.999f,
                                .eps = 1e-8f,
                                .weight_decay = 0.1f,
                                .batch = ROWS,
                                .steps = STEPS};
    is_pytorchs("sgd", sgd, SGD);
    is_pytorchs("momentum", momentum, MOMENTUM);
    is_pytorchs("adam", adam, ADAM);
    adam.optimiser = SPOKE_OPT_ADAMW;
    is_pytorchs("adamw", adam, ADAMW);
}

Test(spoke_recipe, clipping_is_pytorchs) {
    struct spoke_recipe norm = momentum, value = momentum;
    norm.clip_norm = 0.05f;
    value.clip_value = 0.03f;
    is_pytorchs("clip_norm", norm, CLIP_NORM);
    is_pytorchs("clip_value", value, CLIP_VALUE);
}

Test(spoke_recipe, a_bound_that_nothing_reaches_changes_no_bit) {
    struct spoke_recipe norm = momentum, value = momentum;
    float plain[3], other[3];
    norm.clip_norm = 100;
    value.clip_value = 100;
    train_on("cpu", momentum, plain);
    train_on("cpu", norm, other);
    cr_expect(memcmp(plain, other, sizeof plain) == 0);
    train_on("cpu", value, other);
    cr_expect(memcmp(plain, other, sizeof plain) == 0);
}

Test(spoke_recipe, what_is_clipped_is_all_but_the_decay) {
    /* A pull that is far above the bound is cut with the gradient. */
    struct spoke_recipe r = sgd;
    float out[3];
    r.steps = 2;
    r.prox_mu = 1000;
    r.lr = 0.001f;
    r.clip_norm = 0.5f;
    train_on("cpu", r, out);
    double squares = 0;
    for (int k = 0; k < 3; k++)
        squares += pow((double)(out[k] - begin[k]), 2);
    cr_expect(le(dbl, sqrt(squares), 2 * 0.001 * 0.5 * 1.001));
}

Test(spoke_recipe, an_average_is_pytorchs_with_the_same_weights) {
    struct spoke_recipe r = momentum;
    float last[3], mean[3];
    r.ema = 0.8f;
    is_pytorchs("ema", r, EMA);
    r.steps = 1; /* of one step it is that step */
    train_on("cpu", r, mean);
    r.ema = 0;
    train_on("cpu", r, last);
    cr_expect(memcmp(last, mean, sizeof last) == 0);
}

Test(spoke_recipe, a_schedule_over_a_rounds_steps_is_pytorchs) {
    struct spoke_recipe r = sgd;
    r.schedule = (struct spoke_schedule){
        .kind = SPOKE_SCHEDULE_COSINE, .per_step = true, .lr_min = 0.05f, .rounds = 1, .round = 1};
    is_pytorchs("cosine", r, COSINE);
}

/* ---- the learning rate ---- */

static void rates_are(const char *what, enum spoke_schedule_kind kind, uint64_t warmup,
                      const double *by_round, const double *by_step) {
    struct spoke_recipe r = {.lr = 0.8f};
    r.schedule = (struct spoke_schedule){.kind = kind,
                                         .warmup = warmup,
                                         .step_size = 2,
                                         .gamma = 0.3f,
                                         .lr_min = 0.05f,
                                         .rounds = 8};
    for (uint64_t round = 1; round <= 8; round++)
        for (uint64_t step = 0; step < 4; step++) {
            r.schedule.round = round;
            r.schedule.per_step = false;
            double whole = (double)spoke_recipe_lr(&r, step, 4), want = by_round[round - 1];
            cr_expect(fabs(whole - want) < 1e-6, "%s, round %d: %g, not %g", what, (int)round,
                      whole, want);
            r.schedule.per_step = true;
            double part = (double)spoke_recipe_lr(&r, step, 4);
            want = by_step[(round - 1) * 4 + step];
            cr_expect(fabs(part - want) < 1e-6, "%s, round %d, step %d: %g, not %g", what,
                      (int)round, (int)step, part, want);
            /* A training that stands for the whole run goes through the same rates. */
            r.schedule.span = 8;
            r.schedule.round = 1;
            cr_expect(eq(flt, spoke_recipe_lr(&r, (round - 1) * 4 + step, 32), (float)part));
            r.schedule.span = 0;
        }
}

Test(spoke_recipe, learning_rates_are_pytorchs) {
    rates_are("constant", SPOKE_SCHEDULE_CONSTANT, 0, CONSTANT_0_ROUND, CONSTANT_0_STEP);
    rates_are("constant", SPOKE_SCHEDULE_CONSTANT, 3, CONSTANT_3_ROUND, CONSTANT_3_STEP);
    rates_are("step", SPOKE_SCHEDULE_STEP, 0, STEP_0_ROUND, STEP_0_STEP);
    rates_are("step", SPOKE_SCHEDULE_STEP, 3, STEP_3_ROUND, STEP_3_STEP);
    rates_are("cosine", SPOKE_SCHEDULE_COSINE, 0, COSINE_0_ROUND, COSINE_0_STEP);
    rates_are("cosine", SPOKE_SCHEDULE_COSINE, 3, COSINE_3_ROUND, COSINE_3_STEP);
}

Test(spoke_recipe, a_rate_that_does_not_change_is_the_plans_to_the_bit) {
    struct spoke_recipe r = {.lr = 0.1f};
    cr_expect(eq(flt, spoke_recipe_lr(&r, 5, 9), 0.1f));
}

/* ---- several batches a step ---- */

Test(spoke_recipe, a_step_of_an_epochs_rest_is_the_mean_of_its_rows) {
    /* 75 rows: steps of 4 x 16 and of 11, as batches of 64 would have it. */
    struct spoke_recipe many = momentum, one = momentum;
    float a[3], b[3];
    struct spoke_train_stats stats = {0};
    struct spoke_net *net = NULL;
    many.batch = 16;
    many.accumulate = 4;
    one.batch = 64;
    many.steps = one.steps = 0;
    many.epochs = one.epochs = 3;
    train_on("cpu", many, a);
    train_on("cpu", one, b);
    for (int k = 0; k < 3; k++)
        cr_expect(fabs((double)(a[k] - b[k])) < 1e-5);
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, 16, &net, &err), TIER_OK));
    cr_assert(eq(int, spoke_train(net, data, &many, 1, &stats, &err), TIER_OK));
    cr_expect(eq(u64, stats.steps, 6));
    cr_expect(eq(u64, stats.rows, 3 * ROWS));
    spoke_net_free(net);
}

Test(spoke_recipe, one_batch_a_step_has_the_same_bits_with_and_without) {
    struct spoke_recipe r = momentum;
    float a[3], b[3];
    r.batch = 8;
    train_on("cpu*2", r, a);
    r.accumulate = 1;
    train_on("cpu*2", r, b);
    cr_expect(memcmp(a, b, sizeof a) == 0);
}

Test(spoke_recipe, what_is_out_of_range_is_refused_by_name) {
    struct spoke_recipe r;
#define REFUSED(change, why)                                                                       \
    do {                                                                                           \
        r = momentum;                                                                              \
        change;                                                                                    \
        cr_expect(eq(int, spoke_recipe_check(&r, &err), TIER_EPLAN), "%s", why);                   \
        cr_expect(strstr(err.text, why) != NULL, "%s", err.text);                                  \
    } while (0)
    cr_expect(eq(int, spoke_recipe_check(&momentum, &err), TIER_OK));
    REFUSED(r.clip_norm = -1, "clip_norm");
    REFUSED(r.clip_value = NAN, "clip_value");
    REFUSED(r.clip_norm = r.clip_value = 1, "at most one");
    REFUSED(r.ema = 1, "ema");
    REFUSED(r.accumulate = 65537, "accumulate");
    REFUSED(r.schedule.kind = SPOKE_SCHEDULE_STEP, "step_size");
    REFUSED((r.schedule.kind = SPOKE_SCHEDULE_STEP, r.schedule.step_size = 1), "gamma");
    REFUSED(r.schedule.kind = SPOKE_SCHEDULE_COSINE, "warmup");
    REFUSED((r.schedule.kind = SPOKE_SCHEDULE_COSINE, r.schedule.rounds = 1, r.schedule.lr_min = 1),
            "lr_min");
    REFUSED(r.schedule.kind = (enum spoke_schedule_kind)9, "schedule");
    REFUSED(r.optimiser = (enum spoke_optimiser)9, "optimiser");
}
