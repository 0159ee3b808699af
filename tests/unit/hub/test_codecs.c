/* SPDX-License-Identifier: Apache-2.0 */
/* Trees whose spokes send shorter forms of their updates, on the breast-cancer example. */
#include "tests/support/wdbc.h"

#include <string.h>
#include <unistd.h>

#define ELEMENTS 24449

TestSuite(hub_codecs, .init = set_up, .fini = tear_down, .timeout = 120);

static struct tier_plan codec_plan(uint64_t rounds, int codec, bool error_feedback) {
    struct tier_plan p = plan_of(rounds);
    p.batch = 8;
    p.steps = 0;
    p.epochs = 1;
    p.seed = 1;
    p.codec = (struct tier_plan_codec){codec, error_feedback, codec == TIER_PLAN_TOP_K ? 0.02 : 0};
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
static double learn(int codec, bool error_feedback, double *bytes_out) {
    enum { ROUNDS = 16 };
    char name[32];
    double accuracy = 0;
    snprintf(name, sizeof name, "learn-%d-%d", codec, error_feedback);
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, 9);
    for (unsigned i = 0; i < 9; i++)
        make_spoke(tree, i, top);
    struct tier_plan plan = codec_plan(ROUNDS, codec, error_feedback);
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
    double bytes = 0, whole = learn(TIER_PLAN_F32, false, &bytes);
    cr_assert(bytes == 1);
    cr_assert(whole > 0.95, "f32: %.4f", whole);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double accuracy = learn(cases[i].codec, cases[i].feedback, &bytes);
        cr_log_info("codec %d, feedback %d: accuracy %.4f (f32: %.4f), %.4f of the bytes\n",
                    cases[i].codec, cases[i].feedback, accuracy, whole, bytes);
        cr_assert(accuracy > whole - 0.03, "codec %d: %.4f", cases[i].codec, accuracy);
        cr_assert(bytes < cases[i].bytes_most, "codec %d: %.4f", cases[i].codec, bytes);
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
