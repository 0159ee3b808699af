/* SPDX-License-Identifier: Apache-2.0 */
/* Running statistics of BatchNormalization in trees: whatever a plan makes of weights, of these the
 * plain mean of the hospitals' is published, bit for bit. */
#include "tests/support/local_reference.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/shapes.h"

TestSuite(hub_states, .init = set_up, .fini = tear_down);

enum { FEATURES = 30, UNITS = 4, TENSORS = 8 };

/* Two layers with a BatchNormalization between them; the first one's weights up to `size`. */
static const char *write_model(float size) {
    static struct onnx_msg graph, model;
    static float first[FEATURES * UNITS], second[UNITS], ones[UNITS], zeros[UNITS];
    static char path[128];
    uint32_t seed = 3;
    for (int i = 0; i < FEATURES * UNITS; i++)
        first[i] = size * ((float)draw(&seed, 2001) - 1000) / 1000;
    for (int i = 0; i < UNITS; i++) {
        second[i] = ((float)draw(&seed, 2001) - 1000) / 2000;
        ones[i] = 1;
    }
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, FEATURES);
    onnx_add_value(&graph, 12, "y", 0, 1);
    onnx_add_tensor(&graph, "fc1.weight", FEATURES, UNITS, first);
    onnx_add_tensor(&graph, "fc1.bias", UNITS, 0, zeros);
    onnx_add_tensor(&graph, "bn.weight", UNITS, 0, ones);
    onnx_add_tensor(&graph, "bn.bias", UNITS, 0, zeros);
    onnx_add_tensor(&graph, "bn.running_mean", UNITS, 0, zeros);
    onnx_add_tensor(&graph, "bn.running_var", UNITS, 0, ones);
    onnx_add_tensor(&graph, "fc2.weight", UNITS, 1, second);
    onnx_add_tensor(&graph, "fc2.bias", 1, 0, zeros);
    onnx_add_node(&graph, "Gemm", "x fc1.weight fc1.bias", "h");
    onnx_add_node(&graph, "BatchNormalization",
                  "h bn.weight bn.bias bn.running_mean bn.running_var", "n");
    onnx_add_node(&graph, "Relu", "n", "r");
    onnx_add_node(&graph, "Gemm", "r fc2.weight fc2.bias", "z");
    onnx_add_node(&graph, "Sigmoid", "z", "y");
    onnx_model(&model, &graph, 13);
    snprintf(path, sizeof path, "%s/states.onnx", work);
    FILE *f = fopen(path, "wb");
    cr_assert(f != NULL && fwrite(model.b, 1, model.n, f) == model.n);
    fclose(f);
    return path;
}

static struct tier_plan states_plan(uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    p.clip = 8; /* a variance may move far */
    p.frac_bits = 27;
    return p;
}

static float *values_of(const struct shape *s, const struct tier_hash *model, const char *name,
                        size_t n) {
    struct tier_model *m = NULL;
    char *path = published(s, model);
    float *out = malloc(n * sizeof *out);
    size_t count;
    cr_assert(tier_model_open(path, &m, NULL) == TIER_OK);
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    while (count > 0 && strcmp(t->name, name) != 0)
        t++, count--;
    cr_assert(count > 0 && t->count == n, "%s", name);
    cr_assert(tier_model_read(m, t->at, n, out, NULL) == TIER_OK);
    tier_model_close(m);
    free(path);
    return out;
}

static size_t place_of(const struct reference *r, const char *name) {
    size_t p = 0;
    while (strcmp(tier_graph_param(r->graph, p)->name, name) != 0)
        p++;
    return tier_graph_param(r->graph, p)->at;
}

Test(hub_states, an_adaptive_optimiser_at_the_root_leaves_them_at_the_mean) {
    static const char *const states[] = {"bn.running_mean", "bn.running_var"};
    const char *onnx = write_model(0.25f);
    struct tier_plan plan = states_plan(1);
    plan.server = (struct tier_plan_server){TIER_PLAN_SERVER_ADAM, 2, NAN, 0.9, 0.99, 1e-3};
    struct reference *r = reference_on(&plan, NULL, onnx);
    reference_round(r, 1, NULL);
    struct shape s = deep("mean");
    struct tier_hash run = tree_run(s.top, &plan, onnx), model = finish(s.top, &run);
    for (int k = 0; k < 2; k++) {
        float *got = values_of(&s, &model, states[k], UNITS);
        cr_expect(memcmp(got, r->model + place_of(r, states[k]), UNITS * sizeof *got) == 0,
                  "%s: %g, not %g", states[k], (double)got[0],
                  (double)r->model[place_of(r, states[k])]);
        free(got);
    }
    float *weight = values_of(&s, &model, "bn.weight", UNITS);
    cr_expect(memcmp(weight, r->model + place_of(r, "bn.weight"), UNITS * sizeof *weight) != 0,
              "weights take the optimiser's step");
    free(weight);
    reference_free(r);
    tree_free(s.tree);
}

/* With steps of 2 a round, variances that took them would pass 0 at once. What they are of is
 * frozen, so that nothing else makes them large. */
Test(hub_states, a_variance_stays_above_zero_under_large_steps) {
    const char *onnx = write_model(0.25f);
    struct tier_plan plan = states_plan(6);
    plan.clip = 1024;
    plan.frac_bits = 20;
    tier_keys_list_add(&plan.freeze, "fc1.*", strlen("fc1.*"));
    plan.server = (struct tier_plan_server){TIER_PLAN_SERVER_ADAM, 2, NAN, 0.9, 0.99, 1e-3};
    struct shape s = flat("steps");
    struct tier_hash run = tree_run(s.top, &plan, onnx), model = finish(s.top, &run);
    float *got = values_of(&s, &model, "bn.running_var", UNITS);
    for (int i = 0; i < UNITS; i++)
        cr_expect(got[i] > 0 && got[i] < 10, "%g", (double)got[i]);
    free(got);
    tree_free(s.tree);
}

/* A statistic's next change starts from the model's: it holds what a codec dropped of the last.
 * They have far to fall here, from 1. */
Test(hub_states, what_a_codec_dropped_of_them_is_not_added_again) {
    static const struct tier_plan_codec codecs[] = {
        {.name = TIER_PLAN_TOP_K, .error_feedback = true, .share = 0.02},
        {.name = TIER_PLAN_ONE_BIT, .error_feedback = true}};
    const char *onnx = write_model(0.02f);
    for (int k = 0; k < 2; k++) {
        struct tier_plan plan = states_plan(8);
        plan.codec = codecs[k];
        plan.clip = 16;
        plan.frac_bits = 26;
        plan.saturate = true;
        struct shape s = flat(k ? "one-bit" : "top-k");
        struct tier_hash run = tree_run(s.top, &plan, onnx), model = finish(s.top, &run);
        float *got = values_of(&s, &model, "bn.running_var", UNITS);
        for (int i = 0; i < UNITS; i++)
            cr_expect(got[i] > 0, "%s: %g", k ? "one_bit" : "top_k", (double)got[i]);
        free(got);
        tree_free(s.tree);
    }
}

/* A tree of that shape publishes what the reference comes to, which it takes. */
static void comes_to(struct reference *r, const struct shape *s, const struct tier_plan *plan,
                     size_t tensors, double (*tau_of)(const struct tier_plan *, uint64_t)) {
    struct tier_plan p = *plan;
    for (uint64_t round = 1; round <= plan->rounds; round++)
        reference_round(r, round, tau_of);
    struct tier_hash run = tree_run(s->top, &p, write_model(0.25f)), model = finish(s->top, &run);
    char *path = published(s, &model);
    reference_equals(r, path, r->model, tensors);
    free(path);
    reference_free(r);
    tree_free(s->tree);
}

static void compare(const char *name, const struct tier_plan *plan, size_t tensors,
                    double (*tau_of)(const struct tier_plan *, uint64_t)) {
    struct reference *r = reference_on(plan, NULL, write_model(0.25f));
    struct shape s = flat(name);
    comes_to(r, &s, plan, tensors, tau_of);
}

Test(hub_states, under_plain_averaging_they_are_averaged) {
    struct tier_plan plan = states_plan(4);
    compare("plain", &plan, TENSORS, NULL);
}

/* Weights at 2^-30 of 1, statistics that move further at 2^-30 of 1024. */
Test(hub_states, a_clip_of_their_own_leaves_weights_at_their_resolution) {
    struct tier_plan plan = states_plan(4);
    plan.clip = 1;
    plan.frac_bits = 30;
    tier_keys_list_add(&plan.clips, "bn.running_*=1000", strlen("bn.running_*=1000"));
    struct reference *r = reference_on(&plan, NULL, write_model(0.25f));
    for (size_t i = spoke_net_trained(r->net); i < r->elements; i++)
        r->bits[i] = 20;
    struct shape s = deep("clips");
    comes_to(r, &s, &plan, TENSORS, NULL);
}

Test(hub_states, under_scaffold_they_have_no_control_variate) {
    struct tier_plan plan = states_plan(4);
    plan.scaffold = true;
    compare("scaffold", &plan, 2 * TENSORS, NULL);
}

static double as_many(const struct tier_plan *p, uint64_t steps) {
    (void)p;
    return (double)steps;
}

/* By epochs: hospitals take different numbers of steps, which their statistics know nothing of. */
Test(hub_states, under_fednova_they_are_neither_divided_nor_stretched) {
    struct tier_plan plan = states_plan(4);
    plan.steps = 0;
    plan.epochs = 2;
    plan.normalise = true;
    plan.normalise_max = 1000;
    compare("nova", &plan, TENSORS, as_many);
}
