/* SPDX-License-Identifier: Apache-2.0 */
/* Trees whose spokes send shorter forms of their updates, on the breast-cancer example. */
#include "tests/support/wdbc.h"

#include <string.h>
#include <unistd.h>

#define ELEMENTS 24449

TestSuite(hub_codecs, .init = set_up, .fini = tear_down);

static struct tier_plan codec_plan(uint64_t rounds, int codec, bool error_feedback) {
    struct tier_plan p = plan_of(rounds);
    p.batch = 8;
    p.steps = 0;
    p.epochs = 1;
    p.seed = 1;
    p.codec = (struct tier_plan_codec){codec, error_feedback, codec == TIER_PLAN_TOP_K ? 0.02 : 0,
                                       TIER_PLAN_DOWN_F32, TIER_PLAN_ENTROPY_NONE};
    return p;
}

static enum tier_status see_accuracy(void *arg, uint64_t round, const char *name, double value,
                                     struct tier_err *err) {
    (void)round, (void)name, (void)err;
    *(double *)arg = value; /* the last one stays */
    return TIER_OK;
}

static bool read_accuracy(struct hub *hub, void *arg) {
    return tier_journal_metric_each(hub->home.journal, hub->runs->hex, "accuracy", see_accuracy,
                                    arg, NULL) == TIER_OK;
}

/* Accuracy of the last model of nine sites, and what a spoke pushed a round, in f32 models. */
static double learn(int codec, bool error_feedback, int entropy, double *bytes_out) {
    enum { ROUNDS = 16 };
    char name[32];
    double accuracy = 0;
    snprintf(name, sizeof name, "learn-%d-%d-%d", codec, error_feedback, entropy);
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, 9);
    for (unsigned i = 0; i < 9; i++)
        make_spoke(tree, i, top);
    struct tier_plan plan = codec_plan(ROUNDS, codec, error_feedback);
    plan.codec.entropy = entropy;
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);
    cr_assert(tree_until(top, read_accuracy, &accuracy, TIMEOUT_MS));
    *bytes_out = (double)tree_serve_traffic(top).pushed_bytes / (9 * ROUNDS * 4.0 * ELEMENTS);
    tree_free(tree);
    return accuracy;
}

Test(hub_codecs, spokes_learn_with_every_codec_and_send_less) {
    static const struct {
        int codec;
        bool feedback;
        double bytes_most;
    } cases[] = {{TIER_PLAN_F16, false, 0.501}, {TIER_PLAN_BF16, false, 0.501},
                 {TIER_PLAN_Q8, false, 0.255},  {TIER_PLAN_Q8, true, 0.255},
                 {TIER_PLAN_Q4, false, 0.13},   {TIER_PLAN_Q4, true, 0.13},
                 {TIER_PLAN_TOP_K, true, 0.03}, {TIER_PLAN_ONE_BIT, true, 0.036}};
    double bytes = 0, whole = learn(TIER_PLAN_F32, false, 0, &bytes);
    cr_assert(bytes == 1);
    cr_assert(whole > 0.95, "f32: %.4f", whole);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double accuracy = learn(cases[i].codec, cases[i].feedback, 0, &bytes);
        cr_log_info("codec %d, feedback %d: accuracy %.4f (f32: %.4f), %.4f of the bytes\n",
                    cases[i].codec, cases[i].feedback, accuracy, whole, bytes);
        cr_assert(accuracy > whole - 0.03, "codec %d: %.4f", cases[i].codec, accuracy);
        cr_assert(bytes < cases[i].bytes_most, "codec %d: %.4f", cases[i].codec, bytes);
    }
}

Test(hub_codecs, zstd_frames_are_fewer_bytes_and_the_same_accuracy) {
    static const struct {
        int codec;
        bool feedback;
        double most; /* of the bytes without */
    } cases[] = {{TIER_PLAN_F32, false, 0.95},
                 {TIER_PLAN_BF16, false, 0.95},
                 {TIER_PLAN_Q4, true, 0.95},
                 {TIER_PLAN_TOP_K, true, 0.95}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double bytes[2], accuracy[2];
        for (int entropy = 0; entropy < 2; entropy++)
            accuracy[entropy] = learn(cases[i].codec, cases[i].feedback, entropy, &bytes[entropy]);
        cr_log_info("codec %d: %.4f of an f32 update, %.4f with zstd\n", cases[i].codec, bytes[0],
                    bytes[1]);
        cr_assert(accuracy[0] == accuracy[1], "codec %d", cases[i].codec);
        cr_assert(bytes[1] < cases[i].most * bytes[0], "codec %d: %.4f, %.4f with zstd",
                  cases[i].codec, bytes[0], bytes[1]);
    }
}

static const struct {
    int codec;
    bool feedback;
} forms[] = {{TIER_PLAN_F16, true},
             {TIER_PLAN_Q8, false},
             {TIER_PLAN_Q4, true},
             {TIER_PLAN_TOP_K, true},
             {TIER_PLAN_ONE_BIT, true}};
#define FORMS (sizeof forms / sizeof forms[0])

static struct tier_hash flat_model(size_t form, uint64_t rounds) {
    char name[32];
    snprintf(name, sizeof name, "flat-%zu", form);
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, 4);
    for (unsigned i = 0; i < 4; i++)
        make_spoke(tree, i, top);
    struct tier_plan plan = codec_plan(rounds, forms[form].codec, forms[form].feedback);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx"), model = finish(top, &run);
    tree_free(tree);
    return model;
}

Test(hub_codecs, flat_and_uneven_trees_publish_the_same_bits) {
    struct tier_hash before = {{0}};
    for (size_t form = 0; form < FORMS; form++) {
        char name[32];
        struct tier_hash flat = flat_model(form, 4);
        snprintf(name, sizeof name, "deep-%zu", form);
        struct tree *tree = make_tree(name);
        struct tree_node *top = tree_hub(tree, "top", NULL, 2);
        struct tree_node *a = tree_hub(tree, "hub-a", top, 2), *b = tree_hub(tree, "hub-b", a, 2);
        make_spoke(tree, 0, b);
        make_spoke(tree, 1, top);
        make_spoke(tree, 2, a);
        make_spoke(tree, 3, b);
        struct tier_plan plan = codec_plan(4, forms[form].codec, forms[form].feedback);
        struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
        struct tier_hash deep = finish(top, &run);
        tree_free(tree);
        cr_assert(tier_hash_equal(&flat, &deep), "form %zu", form);
        cr_assert(tier_hash_equal(&flat, &before) == false, "the codec was of use");
        before = flat;
    }
}

static bool round_is(struct hub *hub, void *arg) {
    uint64_t want = *(uint64_t *)arg;
    return hub->runs && hub->runs->round.number >= want;
}

Test(hub_codecs, what_was_dropped_survives_restarts_and_counts_once) {
    enum { ROUNDS = 14 };
    for (size_t form = 2; form < FORMS; form++) {
        char name[32];
        struct tier_hash undisturbed = flat_model(form, ROUNDS);
        snprintf(name, sizeof name, "disturbed-%zu", form);
        struct tree *tree = make_tree(name);
        struct tree_node *top = tree_hub(tree, "top", NULL, 2);
        struct tree_node *hub = tree_hub(tree, "hub", top, 2);
        struct tree_node *spokes[4];
        for (unsigned i = 0; i < 4; i++)
            spokes[i] = make_spoke(tree, i, i < 2 ? top : hub);
        struct tier_plan plan = codec_plan(ROUNDS, forms[form].codec, forms[form].feedback);
        struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
        for (uint64_t at = 2; at < ROUNDS; at++) {
            struct tree_node *victim = at % 5 == 4 ? hub : spokes[at % 5];
            cr_assert(tree_until(top, round_is, &at, TIMEOUT_MS));
            tree_stop(victim);
            tree_start(victim);
        }
        struct tier_hash model = finish(top, &run);
        cr_assert(tier_hash_equal(&undisturbed, &model), "form %zu", form);
        tree_free(tree);
    }
}

/* ---- the way down ---- */

static const int downs[] = {TIER_PLAN_DOWN_BF16, TIER_PLAN_DOWN_Q8, TIER_PLAN_DOWN_Q4};

static struct tier_plan down_plan(uint64_t rounds, int down) {
    struct tier_plan p = codec_plan(rounds, TIER_PLAN_F32, false);
    p.codec.down = down;
    return p;
}

static bool no_deltas_left(const struct tree_node *node) {
    char command[320];
    snprintf(command, sizeof command, "test -z \"$(ls %s/models | grep '[.]delta')\"",
             tree_dir(node));
    return system(command) == 0;
}

/* Flat over nine sites; what one of them fetched a round after the first model, in models. */
static struct tier_hash down_model(int down, uint64_t rounds, double *accuracy_out,
                                   double *bytes_out) {
    char name[32];
    snprintf(name, sizeof name, "down-%d", down);
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, 9), *one = NULL;
    for (unsigned i = 0; i < 9; i++)
        one = make_spoke(tree, i, top);
    struct tier_plan plan = down_plan(rounds, down);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx"), model = finish(top, &run);
    cr_assert(tree_until(top, read_accuracy, accuracy_out, TIMEOUT_MS));
    /* The graph holds the first model's values too. */
    *bytes_out = ((double)tree_serve_traffic(top).fetched_bytes / 9 - 2 * 4.0 * ELEMENTS) /
                 ((double)rounds * 4.0 * ELEMENTS);
    cr_assert(no_deltas_left(top) && no_deltas_left(one));
    tree_free(tree);
    return model;
}

Test(hub_codecs, models_go_down_shorter_and_are_learnt_from_as_well) {
    static const double bytes_most[] = {0.52, 0.28, 0.15};
    enum { ROUNDS = 16 };
    double whole, accuracy, bytes;
    down_model(TIER_PLAN_DOWN_F32, ROUNDS, &whole, &bytes);
    cr_assert(bytes > 0.98 && bytes < 1.1, "whole models: %.3f", bytes);
    for (size_t i = 0; i < 3; i++) {
        down_model(downs[i], ROUNDS, &accuracy, &bytes);
        cr_log_info("down %d: accuracy %.4f (whole: %.4f), %.4f of the bytes\n", downs[i], accuracy,
                    whole, bytes);
        cr_assert(accuracy > whole - 0.02, "down %d: %.4f", downs[i], accuracy);
        cr_assert(bytes < bytes_most[i], "down %d: %.4f", downs[i], bytes);
    }
}

Test(hub_codecs, shorter_models_are_the_same_bits_in_every_tree_and_over_restarts) {
    enum { ROUNDS = 14 };
    for (size_t form = 0; form < 3; form++) {
        char name[32];
        struct tier_hash models[2];
        for (int rough = 0; rough < 2; rough++) {
            snprintf(name, sizeof name, "%s-%zu", rough ? "rough" : "calm", form);
            struct tree *tree = make_tree(name);
            struct tree_node *top = tree_hub(tree, "top", NULL, rough ? 2 : 4);
            struct tree_node *hub = rough ? tree_hub(tree, "hub", top, 2) : NULL;
            struct tree_node *nodes[] = {top, hub, NULL, NULL};
            for (unsigned i = 0; i < 4; i++) {
                struct tree_node *spoke = make_spoke(tree, i, rough && i >= 2 ? hub : top);
                if (i >= 2)
                    nodes[i] = spoke;
            }
            struct tier_plan plan = down_plan(ROUNDS, downs[form]);
            struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
            for (uint64_t at = 2; rough && at < ROUNDS; at++) {
                cr_assert(tree_until(top, round_is, &at, TIMEOUT_MS));
                tree_stop(nodes[at % 4]);
                tree_start(nodes[at % 4]);
            }
            models[rough] = finish(top, &run);
            tree_free(tree);
        }
        cr_assert(tier_hash_equal(&models[0], &models[1]), "form %zu", form);
    }
}
