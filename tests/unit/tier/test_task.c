/* SPDX-License-Identifier: Apache-2.0 */
#include "support/small_graph.h"
#include "tier/score.h"
#include "tier/task.h"

TestSuite(tier_task, .init = fixture_up, .fini = fixture_down);

static struct tier_plan plan_with_wide(const char *first, const char *second) {
    struct tier_plan p = {.frac_bits = 27};
    const char *patterns[2] = {first, second};
    for (int i = 0; i < 2 && patterns[i]; i++)
        tier_keys_list_add(&p.wide, patterns[i], strlen(patterns[i]));
    return p;
}

Test(tier_task, the_manifest_has_the_graphs_parameters_and_the_plans_scale) {
    struct tier_graph *g = graph_of("fc.weight", "fc.bias");
    struct tier_plan p = plan_with_wide(NULL, NULL);
    struct tier_manifest *m = NULL;
    MUST(tier_task_manifest(&p, g, &m, err));
    CHECK(m->count == 2 && m->elements == 6 && m->wide_elements == 0);
    cr_assert(eq(str, m->tensors[0].name, "fc.weight"));
    CHECK(m->tensors[0].ndim == 2 && m->tensors[0].dims[1] == 2 && m->tensors[0].frac_bits == 27);
    CHECK(m->tensors[1].ndim == 1 && m->tensors[1].at == 4);
    tier_manifest_free(m);
    tier_graph_free(g);
}

Test(tier_task, a_tensor_is_wide_where_any_pattern_matches_its_whole_name) {
    static const struct {
        const char *first, *second;
        bool weight, bias;
    } cases[] = {
        {"fc.bias", NULL, false, true},  {"*.weight", "nothing", true, false},
        {"nothing", "fc.*", true, true}, {"fc", "weight", false, false},
        {"fc.[bw]*", NULL, true, true},  {"FC.bias", NULL, false, false},
    };
    struct tier_graph *g = graph_of("fc.weight", "fc.bias");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tier_plan p = plan_with_wide(cases[i].first, cases[i].second);
        struct tier_manifest *m = NULL;
        MUST(tier_task_manifest(&p, g, &m, err));
        CHECK(m->tensors[0].wide == cases[i].weight && m->tensors[1].wide == cases[i].bias,
              "case %zu", i);
        tier_manifest_free(m);
    }
    tier_graph_free(g);
}

/* x[N,2] -> BatchNormalization -> Gemm -> y */
static struct tier_graph *graph_with_states(void) {
    static const char *const names[] = {"mean", "var", "scale", "shift"};
    static struct onnx_msg graph, model;
    struct tier_graph *g = NULL;
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 2);
    onnx_add_value(&graph, 12, "y", 0, 2);
    for (int i = 0; i < 4; i++)
        onnx_add_tensor(&graph, names[i], 2, 0, values);
    onnx_add_tensor(&graph, "w", 2, 2, values);
    onnx_add_node(&graph, "BatchNormalization", "x scale shift mean var", "n");
    onnx_add_node(&graph, "MatMul", "n w", "y");
    onnx_model(&model, &graph, 13);
    MUST(tier_graph_parse(model.b, model.n, &g, err));
    return g;
}

Test(tier_task, running_statistics_are_wide_unless_the_plan_names_others_or_drops_bits) {
    static const struct {
        const char *pattern;
        int codec, down;
        uint64_t wide;
    } cases[] = {{NULL, TIER_PLAN_F32, TIER_PLAN_DOWN_F32, 4},
                 {"w", TIER_PLAN_F32, TIER_PLAN_DOWN_F32, 4},
                 {"var", TIER_PLAN_F32, TIER_PLAN_DOWN_F32, 2},
                 {"none", TIER_PLAN_F32, TIER_PLAN_DOWN_F32, 0},
                 {NULL, TIER_PLAN_Q8, TIER_PLAN_DOWN_F32, 0},
                 {NULL, TIER_PLAN_F32, TIER_PLAN_DOWN_Q8, 0}};
    struct tier_graph *g = graph_with_states();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tier_plan p = plan_with_wide(cases[i].pattern, NULL);
        struct tier_manifest *m = NULL;
        p.codec.name = cases[i].codec;
        p.codec.down = cases[i].down;
        MUST(tier_task_manifest(&p, g, &m, err));
        CHECK(m->wide_elements == cases[i].wide, "case %zu", i);
        cr_assert(eq(str, m->tensors[3].name, "mean"), "states come last");
        tier_manifest_free(m);
    }
    tier_graph_free(g);
}

Test(tier_task, an_update_comes_as_the_plans_codec_says_or_as_f32_or_a_sum) {
    struct tier_plan p = {.codec = {.name = TIER_PLAN_Q4}};
    cr_assert(eq(int, tier_task_encoding(&p), TIER_ENC_Q4));
    MUST(tier_task_encoding_check(&p, TIER_ENC_Q4, false, err));
    MUST(tier_task_encoding_check(&p, TIER_ENC_F32, false, err));
    MUST(tier_task_encoding_check(&p, TIER_ENC_SUM, false, err));
    REFUSED(TIER_EUPDATE, "encoding q8; the plan's codec is q4: that, f32 or sum",
            tier_task_encoding_check(&p, TIER_ENC_Q8, false, err));
    REFUSED(TIER_EUPDATE, "encoding q4 in zstd frames; the plan's codec is q4 without them",
            tier_task_encoding_check(&p, TIER_ENC_Q4, true, err));
    p.codec.entropy = TIER_PLAN_ENTROPY_ZSTD;
    MUST(tier_task_encoding_check(&p, TIER_ENC_Q4, true, err));
    MUST(tier_task_encoding_check(&p, TIER_ENC_Q4, false, err));
    MUST(tier_task_encoding_check(&p, TIER_ENC_F32, false, err));
    REFUSED(TIER_EUPDATE, "encoding f32 in zstd frames; the plan's codec is q4 in them",
            tier_task_encoding_check(&p, TIER_ENC_F32, true, err));
    p.codec.name = TIER_PLAN_F32;
    REFUSED(TIER_EUPDATE, "encoding top_k; the plan's codec is f32: f32 or sum",
            tier_task_encoding_check(&p, TIER_ENC_TOPK, false, err));
}

Test(tier_task, the_longest_name_of_a_parameter_fits_the_manifest) {
    static char longest[TIER_TENSOR_NAME_LEN_MAX + 1];
    struct tier_plan p = plan_with_wide(NULL, NULL);
    struct tier_manifest *m = NULL;
    memset(longest, 'w', sizeof longest - 1);
    struct tier_graph *g = graph_of(longest, "b");
    MUST(tier_task_manifest(&p, g, &m, err));
    cr_assert(eq(str, m->tensors[0].name, longest));
    tier_manifest_free(m);
    tier_graph_free(g);
}

Test(tier_task, a_scale_that_no_manifest_may_have_is_refused) {
    struct tier_graph *g = graph_of("w", "b");
    struct tier_plan p = {.frac_bits = TIER_FRAC_BITS_MAX + 1};
    struct tier_manifest *m = NULL;
    enum tier_status st = tier_task_manifest(&p, g, &m, NULL);
    CHECK(st == TIER_EARG && m == NULL);
    tier_graph_free(g);
}

Test(tier_task, the_first_model_holds_the_graphs_values_and_is_the_same_everywhere) {
    struct tier_graph *g = graph_of("fc.weight", "fc.bias");
    struct tier_plan p = plan_with_wide("fc.bias", NULL);
    struct tier_manifest *m = NULL;
    struct tier_model *model = NULL;
    struct tier_hash first, second;
    float got[6];
    MUST(tier_task_manifest(&p, g, &m, err));
    MUST(tier_task_first_model(g, m, fixture_dir, &first, err));
    MUST(tier_task_first_model(g, m, fixture_dir, &second, err));
    CHECK(tier_hash_equal(&first, &second) && files_in(fixture_dir) == 1);
    char *path = tier_model_path(fixture_dir, &first);
    MUST(tier_model_open(path, &model, err));
    MUST(tier_model_matches(model, m, err));
    MUST(tier_model_read(model, 0, 6, got, err));
    CHECK(memcmp(got, values, sizeof got) == 0);
    cr_assert(eq(str, (char *)tier_model_metadata(model, "consilium.round"), "0"));
    tier_model_close(model);
    free(path);
    enum tier_status st = tier_task_first_model(g, m, fixture_path("gone"), &first, NULL);
    CHECK(st != TIER_OK && tier_hash_equal(&first, &second), "no folder, no model");
    tier_manifest_free(m);
    tier_graph_free(g);
}

/* ---- rounds ---- */

Test(tier_task, a_plan_that_evaluates_has_one_round_more_than_it_trains) {
    struct tier_plan p = {.rounds = 10};
    CHECK(tier_task_rounds(&p) == 10);
    CHECK(tier_task_trains(&p, 10) && !tier_task_evaluates(&p, 1) && !tier_task_evaluates(&p, 11));
    p.evaluate_every = 1;
    CHECK(tier_task_rounds(&p) == 11);
    CHECK(tier_task_trains(&p, 10) && !tier_task_trains(&p, 11));
    for (uint64_t r = 1; r <= 11; r++)
        CHECK(tier_task_evaluates(&p, r));
    p.evaluate_every = 4; /* the first model, then every fourth, and the last one always */
    for (uint64_t r = 1; r <= 11; r++)
        CHECK(tier_task_evaluates(&p, r) == (r == 1 || r == 5 || r == 9 || r == 11), "%d", (int)r);
}

/* ---- figures ---- */

Test(tier_task, figures_are_read_from_the_sums_and_are_nan_without) {
    struct tier_metrics *sums = tier_metrics_new();
    struct tier_task_figures f = tier_task_figures(NULL);
    CHECK(isnan(f.count) && isnan(f.accuracy) && isnan(f.loss) && isnan(f.auc));
    f = tier_task_figures(sums);
    CHECK(isnan(f.count));
    int64_t count = 8, correct = 6, loss = 3 * TIER_METRIC_ONE, pos[2] = {0, 4}, neg[2] = {4, 0};
    MUST(tier_metrics_add(sums, TIER_SCORE_COUNT, 1, &count, err));
    MUST(tier_metrics_add(sums, TIER_SCORE_CORRECT, 1, &correct, err));
    MUST(tier_metrics_add(sums, TIER_SCORE_LOSS, 1, &loss, err));
    f = tier_task_figures(sums);
    CHECK(f.count == 8 && f.accuracy == 0.75 && f.loss == 0.375 && isnan(f.auc));
    MUST(tier_metrics_add(sums, TIER_SCORE_HIST_POS, 2, pos, err));
    MUST(tier_metrics_add(sums, TIER_SCORE_HIST_NEG, 2, neg, err));
    CHECK(tier_task_figures(sums).auc == 1);
    tier_metrics_free(sums);
}

Test(tier_task, histograms_of_different_lengths_give_no_area) {
    struct tier_metrics *sums = tier_metrics_new();
    int64_t one[3] = {1, 1, 1};
    MUST(tier_metrics_add(sums, TIER_SCORE_COUNT, 1, one, err));
    MUST(tier_metrics_add(sums, TIER_SCORE_HIST_POS, 2, one, err));
    MUST(tier_metrics_add(sums, TIER_SCORE_HIST_NEG, 3, one, err));
    CHECK(isnan(tier_task_figures(sums).auc));
    tier_metrics_free(sums);
}

/* ---- when to stop ---- */

static bool stops(const struct tier_plan *p, struct tier_task_stop *s, double accuracy,
                  double loss) {
    struct tier_task_figures f = {.accuracy = accuracy, .loss = loss, .auc = accuracy, .count = 1};
    return tier_task_stop(p, s, &f) != NULL;
}

Test(tier_task, a_run_stops_at_its_target_and_not_before) {
    struct tier_task_stop s = {0};
    struct tier_plan p = {.stop = {.metric = TIER_PLAN_ACCURACY, .target = 0.9}};
    CHECK(!stops(&p, &s, 0.5, 1) && !stops(&p, &s, 0.899, 1) && !stops(&p, &s, NAN, 1));
    CHECK(stops(&p, &s, 0.9, 1));
    p.stop.metric = TIER_PLAN_AUC;
    CHECK(stops(&p, &s, 0.95, 1));
    s = (struct tier_task_stop){0};
    p.stop.metric = TIER_PLAN_LOSS; /* less is better */
    p.stop.target = 0.2;
    CHECK(!stops(&p, &s, 1, 0.3) && stops(&p, &s, 0, 0.2) && stops(&p, &s, 0, 0.1));
    p.stop.metric = TIER_PLAN_METRIC_NONE;
    CHECK(!stops(&p, &s, 1, 0));
}

Test(tier_task, a_run_stops_when_its_patience_ends) {
    struct tier_task_stop s = {0};
    struct tier_plan p = {.stop = {.metric = TIER_PLAN_ACCURACY, .target = NAN, .patience = 2}};
    CHECK(!stops(&p, &s, 0.5, 0) && !stops(&p, &s, 0.5, 0), "the same is no improvement: 1");
    CHECK(!stops(&p, &s, NAN, 0), "what was not measured does not count");
    CHECK(!stops(&p, &s, 0.6, 0), "an improvement begins anew");
    CHECK(!stops(&p, &s, 0.55, 0) && stops(&p, &s, 0.59, 0));
    p.stop.patience = 0;
    for (int i = 0; i < 50; i++)
        CHECK(!stops(&p, &s, 0.1, 0), "no patience given is no limit");
}
