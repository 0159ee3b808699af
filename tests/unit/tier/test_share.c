/* SPDX-License-Identifier: Apache-2.0 */
#include "support/onnx_writer.h"
#include "support/tier_fixture.h"
#include "tier/model.h"
#include "tier/share.h"
#include "tier/task.h"

TestSuite(tier_share, .init = fixture_up, .fini = fixture_down);

static const float values[] = {1, -2, 3, 0.5f, 5, -6, 7, 8, 9, 10, 11, 12};

static struct onnx_msg graph;

/* A layer of two units, body.weight and body.bias, and a node behind it that gives y. */
static struct tier_graph *with_head(const char *op, const char *inputs) {
    static struct onnx_msg model;
    struct tier_graph *g = NULL;
    onnx_add_node(&graph, "Gemm", "x body.weight body.bias", "h");
    onnx_add_node(&graph, op, inputs, "y");
    onnx_model(&model, &graph, 13);
    MUST(tier_graph_parse(model.b, model.n, &g, err));
    return g;
}

static void begin_graph(void) {
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, 2);
    onnx_add_value(&graph, 12, "y", 0, 2);
    onnx_add_tensor(&graph, "body.weight", 2, 2, values);
    onnx_add_tensor(&graph, "body.bias", 2, 0, values + 4);
}

/* Two layers of two units: body.weight, body.bias, head.weight, head.bias. */
static struct tier_graph *two_layers(void) {
    begin_graph();
    onnx_add_tensor(&graph, "head.weight", 2, 2, values + 6);
    onnx_add_tensor(&graph, "head.bias", 2, 0, values + 10);
    return with_head("Gemm", "h head.weight head.bias");
}

/* A layer and a BatchNormalization. */
static struct tier_graph *normalised(void) {
    static const char *const names[] = {"bn.weight", "bn.bias", "bn.running_mean",
                                        "bn.running_var"};
    begin_graph();
    for (int i = 0; i < 4; i++)
        onnx_add_tensor(&graph, names[i], 2, 0, values + 6);
    return with_head("BatchNormalization", "h bn.weight bn.bias bn.running_mean bn.running_var");
}

static struct tier_plan plan_of(const char *share, const char *keep, const char *keep_too) {
    struct tier_plan p = {.frac_bits = 27};
    if (share)
        tier_keys_list_add(&p.share, share, strlen(share));
    if (keep)
        tier_keys_list_add(&p.keep, keep, strlen(keep));
    if (keep_too)
        tier_keys_list_add(&p.keep, keep_too, strlen(keep_too));
    return p;
}

Test(tier_share, what_travels_and_what_stays_are_the_graphs_tensors_in_its_order) {
    static const struct {
        const char *share, *keep, *keep_too;
        const char *travels, *stays; /* a letter a tensor: b B the body's weight and bias, h H */
    } cases[] = {
        {NULL, NULL, NULL, "bBhH", ""},
        {NULL, "head.*", NULL, "bB", "hH"},
        {"body.*", NULL, NULL, "bB", "hH"},
        {"*.weight", NULL, NULL, "bh", "BH"},
        {"*", "*.bias", "head.weight", "b", "BhH"}, /* keep wins */
        {"body.*", "*.bias", NULL, "b", "BhH"},
    };
    static const char *const names[] = {"body.weight", "body.bias", "head.weight", "head.bias"};
    static const char letters[] = "bBhH";
    static const size_t at[] = {0, 4, 6, 10, 12};
    struct tier_graph *g = two_layers();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tier_plan p = plan_of(cases[i].share, cases[i].keep, cases[i].keep_too);
        for (int kept = 0; kept < 2; kept++) {
            const char *want = kept ? cases[i].stays : cases[i].travels;
            struct tier_manifest *m = NULL;
            float part[12] = {0}, all[12] = {0};
            size_t n = 0;
            if (kept)
                MUST(tier_share_kept(&p, g, &m, err));
            else
                MUST(tier_task_manifest(&p, g, &m, err));
            CHECK((m ? m->count : 0) == strlen(want), "case %zu", i);
            tier_share_take(&p, g, kept, values, part);
            tier_share_put(&p, g, kept, part, all);
            for (size_t t = 0; t < strlen(want); t++) {
                size_t k = (size_t)(strchr(letters, want[t]) - letters);
                cr_assert(eq(str, m->tensors[t].name, (char *)names[k]));
                CHECK(m->tensors[t].frac_bits == 27);
                for (size_t e = at[k]; e < at[k + 1]; e++, n++)
                    CHECK(part[n] == values[e] && all[e] == values[e], "case %zu, %zu", i, e);
            }
            for (size_t e = 0; e < 12; e++)
                n += all[e] == 0;
            CHECK(n == 12, "nothing else is touched");
            tier_manifest_free(m);
        }
    }
    tier_graph_free(g);
}

Test(tier_share, a_pattern_that_matches_nothing_comes_with_the_nearest_names) {
    struct tier_graph *g = two_layers();
    struct tier_manifest *m = NULL;
    struct tier_plan p = plan_of(NULL, "heat.bias", NULL);
    REFUSED(TIER_EPLAN,
            "keep: the pattern 'heat.bias' matches no tensor of the model; the nearest: "
            "'head.bias'",
            tier_task_manifest(&p, g, &m, err));
    p = plan_of("bn*", NULL, NULL);
    REFUSED(TIER_EPLAN, "share: the pattern 'bn*' matches no tensor",
            tier_task_manifest(&p, g, &m, err));
    p = plan_of("head.*", "head.weight", "Head.bias"); /* names are as they are written */
    REFUSED(TIER_EPLAN, "keep: the pattern 'Head.bias'", tier_task_manifest(&p, g, &m, err));
    CHECK(m == NULL);
    tier_graph_free(g);
}

Test(tier_share, something_must_be_shared) {
    struct tier_graph *g = two_layers();
    struct tier_manifest *m = NULL;
    struct tier_plan p = plan_of(NULL, "*", NULL);
    REFUSED(TIER_EPLAN, "leave no tensor of the model to be shared",
            tier_task_manifest(&p, g, &m, err));
    p = plan_of("head.*", "head.*", NULL);
    REFUSED(TIER_EPLAN, "leave no tensor", tier_task_manifest(&p, g, &m, err));
    tier_graph_free(g);
}

Test(tier_share, the_first_model_holds_what_travels_alone) {
    struct tier_graph *g = two_layers();
    struct tier_plan p = plan_of(NULL, "body.bias", "head.weight");
    struct tier_manifest *m = NULL;
    struct tier_model *model = NULL;
    struct tier_hash first;
    float got[6];
    MUST(tier_task_manifest(&p, g, &m, err));
    MUST(tier_task_first_model(g, m, fixture_dir, &first, err));
    char *path = tier_model_path(fixture_dir, &first);
    MUST(tier_model_open(path, &model, err));
    MUST(tier_model_matches(model, m, err));
    CHECK(tier_model_elements(model) == 6);
    MUST(tier_model_read(model, 0, 6, got, err));
    CHECK(memcmp(got, values, 16) == 0 && memcmp(got + 4, values + 10, 8) == 0);
    tier_model_close(model);
    free(path);
    tier_manifest_free(m);
    tier_graph_free(g);
}

static struct tier_plan freezing(const char *pattern) {
    struct tier_plan p = plan_of(NULL, NULL, NULL);
    tier_keys_list_add(&p.freeze, pattern, strlen(pattern));
    return p;
}

Test(tier_share, what_is_frozen_must_be_there_and_leave_something_to_train) {
    struct tier_graph *g = two_layers();
    struct tier_plan p = freezing("body.*");
    MUST(tier_share_check(&p, g, err));
    CHECK(tier_share_frozen(&p, tier_graph_param(g, 0)));
    CHECK(!tier_share_frozen(&p, tier_graph_param(g, 2)));
    p = freezing("haed.*");
    REFUSED(TIER_EPLAN, "local.freeze: the pattern 'haed.*' matches no tensor",
            tier_share_check(&p, g, err));
    p = freezing("*");
    REFUSED(TIER_EPLAN, "local.freeze leaves no tensor", tier_share_check(&p, g, err));
    tier_graph_free(g);
}

/* What adds changes of older rounds may take a variance below 0. */
Test(tier_share, running_statistics_take_no_changes_of_older_rounds) {
    struct tier_graph *plain = two_layers(), *g = normalised();
    struct tier_plan buffered = plan_of(NULL, NULL, NULL), centred = buffered;
    buffered.hub.sync = TIER_PLAN_BUFFERED;
    centred.top.merge.rule.choice = TIER_PLAN_CENTRED_CLIPPING;
    MUST(tier_share_check(&buffered, plain, err));
    MUST(tier_share_check(&centred, plain, err));
    REFUSED(TIER_EPLAN, "sync: buffered and the running statistic bn.running_mean",
            tier_share_check(&buffered, g, err));
    REFUSED(TIER_EPLAN, "centred_clipping and the running statistic bn.running_mean",
            tier_share_check(&centred, g, err));
    tier_keys_list_add(&buffered.keep, "bn.running_*", strlen("bn.running_*"));
    MUST(tier_share_check(&buffered, g, err));
    tier_graph_free(plain);
    tier_graph_free(g);
}

Test(tier_share, a_clip_of_its_own_sets_a_tensors_scale_and_must_be_of_a_tensor) {
    struct tier_graph *g = two_layers();
    struct tier_manifest *m = NULL;
    struct tier_plan p = plan_of(NULL, NULL, NULL);
    tier_keys_list_add(&p.clips, "head.*=1024", strlen("head.*=1024"));
    MUST(tier_task_manifest(&p, g, &m, err));
    CHECK(m->tensors[0].frac_bits == 27 && m->tensors[3].frac_bits == 20);
    tier_manifest_free(m);
    p.clips = (struct tier_keys_list){0};
    tier_keys_list_add(&p.clips, "haed.*=1024", strlen("haed.*=1024"));
    REFUSED(TIER_EPLAN, "exact.clips: the pattern 'haed.*' matches no tensor",
            tier_share_check(&p, g, err));
    tier_graph_free(g);
}
