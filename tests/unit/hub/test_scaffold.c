/* SPDX-License-Identifier: Apache-2.0 */
/* SCAFFOLD in trees: the bits of an independent computation, any shape and any stops, and a convex
 * problem over hospitals whose patients are not alike, against its pooled optimum. */
#include "tests/support/local_reference.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/shapes.h"

TestSuite(hub_scaffold, .init = set_up, .fini = tear_down);

static struct tier_plan scaffold_plan(uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    p.scaffold = true;
    return p;
}

static bool is_head(const char *name) {
    return strncmp(name, "fc3.", 4) == 0;
}

static void compare(const char *name, const struct tier_plan *plan, bool (*stays)(const char *)) {
    struct shape s = flat(name);
    struct tier_hash run = run_of(&s, plan, 0), model = finish(s.top, &run);
    struct reference *r = reference_new(plan, stays);
    struct tier_plan plain = *plan;
    plain.scaffold = false;
    struct reference *averaged = reference_new(&plain, stays);
    for (uint64_t round = 1; round <= plan->rounds; round++) {
        reference_round(r, round, NULL);
        reference_round(averaged, round, NULL);
        /* All controls are zero in the first round: it is plain averaging. */
        bool equal = memcmp(r->model, averaged->model, r->elements * sizeof(float)) == 0;
        cr_assert(eq(int, equal, round == 1), "round %d", (int)round);
    }
    char *path = published(&s, &model);
    reference_equals(r, path, r->model, 2 * (stays ? 4 : 6));
    free(path);
    reference_free(r);
    reference_free(averaged);
    tree_free(s.tree);
}

Test(hub_scaffold, what_is_published_is_what_the_reference_computes) {
    struct tier_plan plan = scaffold_plan(5), head = scaffold_plan(5);
    compare("all", &plan, NULL);
    tier_keys_list_add(&head.keep, "fc3.*", strlen("fc3.*"));
    compare("head", &head, is_head);
}

Test(hub_scaffold, any_shape_and_any_stops_publish_the_same_bits) {
    struct tier_plan plan = scaffold_plan(30);
    struct tier_hash one = model_of(flat("flat"), &plan, 0), two = model_of(deep("deep"), &plan, 0);
    struct tier_hash rough = model_of(deep("rough"), &plan, 7);
    struct tier_hash again = model_of(deep("again"), &plan, 8);
    cr_assert(tier_hash_equal(&one, &two));
    cr_assert(tier_hash_equal(&one, &rough));
    cr_assert(tier_hash_equal(&one, &again));
}

/* ---- a convex problem ---- */

enum { FEATURES = 30, VALUES = FEATURES + 1 };

/* Logistic regression from zero. */
static void write_linear(char *path, size_t bytes) {
    static struct onnx_msg graph, model;
    static const float zeros[VALUES];
    graph.n = 0;
    onnx_add_value(&graph, 11, "x", 0, FEATURES);
    onnx_add_value(&graph, 12, "y", 0, 1);
    onnx_add_tensor(&graph, "w", FEATURES, 1, zeros);
    onnx_add_tensor(&graph, "b", 1, 0, zeros);
    onnx_add_node(&graph, "Gemm", "x w b", "z");
    onnx_add_node(&graph, "Sigmoid", "z", "y");
    onnx_model(&model, &graph, 13);
    snprintf(path, bytes, "%s/linear.onnx", work);
    FILE *f = fopen(path, "wb");
    cr_assert(f != NULL && fwrite(model.b, 1, model.n, f) == model.n);
    fclose(f);
}

/* Nine in ten of the ill are at the first two hospitals, of the healthy at the other two. */
static void skew_tables(void) {
    char command[1024];
    snprintf(command, sizeof command,
             "cd %s/tables && mkdir all && mv *.csv all && awk -F, '"
             "FNR == 1 { if (NR == 1) for (s = 0; s < 4; s++) print > name(s); next } "
             "{ ill = $NF == \"malignant\"; j = n[ill]++; here = ill == (j %% 10 > 0); "
             "print > name(here ? int(j / 2) %% 2 : 2 + int(j / 2) %% 2) } "
             "function name(s) { return s < 3 ? \"north-\" (s + 1) \".csv\" : \"centre-1.csv\" }' "
             "all/*.csv",
             work);
    cr_assert(system(command) == 0);
}

/* The minimum of the mean loss over all hospitals' rows plus the decay's, by gradient descent. */
static void pooled_optimum(const struct reference *r, double decay, double *w) {
    memset(w, 0, VALUES * sizeof *w);
    for (int step = 0; step < 4000; step++) {
        double g[VALUES] = {0}, rows = 0;
        for (size_t s = 0; s < REFERENCE_SITES; s++) {
            const float *x = spoke_data_x(r->site[s].data, SPOKE_TRAIN);
            const int32_t *label = spoke_data_labels(r->site[s].data, SPOKE_TRAIN);
            size_t n = spoke_data_rows(r->site[s].data, SPOKE_TRAIN);
            for (size_t i = 0; i < n; i++, x += FEATURES) {
                double z = w[FEATURES];
                for (int k = 0; k < FEATURES; k++)
                    z += w[k] * (double)x[k];
                double e = 1 / (1 + exp(-z)) - label[i];
                for (int k = 0; k < FEATURES; k++)
                    g[k] += e * (double)x[k];
                g[FEATURES] += e;
            }
            rows += (double)n;
        }
        for (int k = 0; k < VALUES; k++)
            w[k] -= 0.2 * (g[k] / rows + decay * w[k]);
    }
}

static double distance(const struct reference *r, const double *optimum) {
    double sum = 0;
    for (int k = 0; k < VALUES; k++)
        sum += pow((double)r->model[k] - optimum[k], 2);
    return sqrt(sum);
}

Test(hub_scaffold, unlike_hospitals_meet_at_the_pooled_optimum_and_averaging_beside_it) {
    enum { ROUNDS = 40 };
    char onnx[128];
    double optimum[VALUES], length = 0;
    skew_tables();
    write_linear(onnx, sizeof onnx);
    struct tier_plan plan = scaffold_plan(ROUNDS);
    plan.batch = 1024; /* whole tables: no noise but the hospitals' own */
    plan.steps = 20;
    plan.optimiser.lr = 0.2;
    plan.optimiser.weight_decay = 0.1;
    plan.clip = 4;
    plan.frac_bits = 28;
    plan.evaluate_every = 0;
    struct tier_plan plain = plan;
    plain.scaffold = false;
    struct reference *r = reference_on(&plan, NULL, onnx), *a = reference_on(&plain, NULL, onnx);
    pooled_optimum(r, plan.optimiser.weight_decay, optimum);
    for (int k = 0; k < VALUES; k++)
        length += optimum[k] * optimum[k];
    printf("rounds   averaging   scaffold   (distance to the pooled optimum, of length %.4f)\n",
           sqrt(length));
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        reference_round(r, round, NULL);
        reference_round(a, round, NULL);
        if (round == 1 || round % 10 == 0)
            printf("%6d %11.6f %10.6f\n", (int)round, distance(a, optimum), distance(r, optimum));
    }
    cr_assert(lt(dbl, distance(r, optimum), 1e-3));
    cr_assert(gt(dbl, distance(a, optimum), 20 * distance(r, optimum)));

    /* And a tree publishes these very numbers. */
    struct shape s = deep("convex");
    struct tier_hash run = tree_run(s.top, &plan, onnx), model = finish(s.top, &run);
    char *path = published(&s, &model);
    reference_equals(r, path, r->model, 4);
    free(path);
    reference_free(r);
    reference_free(a);
    tree_free(s.tree);
}
