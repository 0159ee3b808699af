/* SPDX-License-Identifier: Apache-2.0 */
/* FedNova in trees whose hospitals take different numbers of steps: by epochs, over tables of
 * different sizes. */
#include "tests/support/local_reference.h"
#include "tests/support/shapes.h"

TestSuite(hub_nova, .init = set_up, .fini = tear_down);

static struct tier_plan nova_plan(uint64_t rounds, double momentum, double prox_mu) {
    struct tier_plan p = plan_of(rounds);
    p.steps = 0;
    p.epochs = 2;
    p.batch = 4;
    p.optimiser.lr = 0.02;
    p.optimiser.momentum = momentum;
    p.prox_mu = prox_mu;
    p.normalise = true;
    p.normalise_max = 1000;
    return p;
}

/* By walking the steps with gradients of 1. */
static double walked(const struct tier_plan *p, uint64_t steps) {
    double at = 0, v = 0;
    for (uint64_t i = 0; i < steps; i++) {
        v = p->optimiser.momentum * v + 1 - p->optimiser.lr * p->prox_mu * at;
        at += v;
    }
    return at;
}

Test(hub_nova, what_is_published_is_what_the_reference_computes) {
    static const struct { double momentum, prox_mu; } cases[] = {{0, 0}, {0.9, 0}, {0, 2}};
    for (size_t i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "reference-%zu", i);
        struct tier_plan plan = nova_plan(5, cases[i].momentum, cases[i].prox_mu);
        struct shape s = flat(name);
        struct tier_hash run = run_of(&s, &plan, 0), model = finish(s.top, &run);
        struct reference *r = reference_new(&plan, NULL);
        for (uint64_t round = 1; round <= plan.rounds; round++)
            reference_round(r, round, walked);
        char *path = published(&s, &model);
        reference_equals(r, path, r->model, tier_graph_param_count(r->graph));
        free(path);
        reference_free(r);
        tree_free(s.tree);
    }
}

Test(hub_nova, any_shape_and_any_stops_publish_the_same_bits) {
    struct tier_plan plan = nova_plan(30, 0.9, 0), plain = plan;
    plan.server = plain.server =
        (struct tier_plan_server){TIER_PLAN_SERVER_MOMENTUM, 1, 0.5, NAN, NAN, NAN};
    plain.normalise = false;
    plain.normalise_max = 0;
    struct tier_hash one = model_of(flat("flat"), &plan, 0), two = model_of(deep("deep"), &plan, 0);
    struct tier_hash rough = model_of(deep("rough"), &plan, 3);
    struct tier_hash without = model_of(flat("plain"), &plain, 0);
    cr_assert(tier_hash_equal(&one, &two));
    cr_assert(tier_hash_equal(&one, &rough));
    cr_assert(tier_hash_equal(&one, &without) == false, "it does something");
}

Test(hub_nova, one_step_each_is_plain_averaging) {
    struct tier_plan plan = nova_plan(4, 0, 0);
    plan.epochs = plan.normalise_max = 0;
    plan.steps = 1;
    struct tier_plan plain = plan;
    plain.normalise = false;
    struct shape a = flat("one"), b = flat("plain");
    struct tier_hash runs[] = {run_of(&a, &plan, 0), run_of(&b, &plain, 0)};
    struct tier_hash models[] = {finish(a.top, &runs[0]), finish(b.top, &runs[1])};
    char *paths[] = {published(&a, &models[0]), published(&b, &models[1])};
    struct reference *r = reference_new(&plain, NULL);
    for (uint64_t round = 1; round <= plan.rounds; round++)
        reference_round(r, round, NULL);
    for (int i = 0; i < 2; i++) { /* the files differ in the plan that they name */
        reference_equals(r, paths[i], r->model, tier_graph_param_count(r->graph));
        free(paths[i]);
    }
    reference_free(r);
    tree_free(a.tree);
    tree_free(b.tree);
}

static bool declined(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs->state == HUB_RUN_FAILED || hub->runs->state == HUB_RUN_STOPPED;
}

/* A hospital with more steps than the plan allows says so, and does not send. */
Test(hub_nova, a_hospital_beyond_the_plans_bound_declines) {
    struct tier_plan plan = nova_plan(2, 0, 0);
    plan.normalise_max = 1;
    struct shape s = flat("bound");
    run_of(&s, &plan, 0);
    cr_assert(tree_until(s.top, declined, NULL, TIMEOUT_MS));
    tree_free(s.tree);
}
