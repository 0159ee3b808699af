/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan says of training, in whole trees: every hospital does it, and a round that is trained
 * again does it as it did. */
#include "tests/support/local_reference.h"
#include "tests/support/shapes.h"
#include "tier/share.h"

TestSuite(hub_recipe, .init = set_up, .fini = tear_down);

static struct tier_plan adamw_plan(uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    p.optimiser.kind = TIER_PLAN_ADAMW;
    p.optimiser.lr = 0.02;
    p.optimiser.momentum = NAN;
    p.optimiser.beta1 = 0.9;
    p.optimiser.beta2 = 0.999;
    p.optimiser.eps = 1e-8;
    p.optimiser.weight_decay = 0.01;
    p.schedule.kind = TIER_PLAN_COSINE;
    p.schedule.per = TIER_PLAN_PER_STEP;
    p.schedule.warmup = 1;
    p.schedule.lr_min = 0.001;
    p.clip_norm = 0.5;
    p.accumulate = 2;
    p.ema = 0.7;
    return p;
}

static struct tier_plan stepped_plan(uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    p.schedule.kind = TIER_PLAN_STEP;
    p.schedule.step_size = 2;
    p.schedule.gamma = 0.5;
    p.clip_value = 0.05;
    return p;
}

static struct tier_plan half_plan(uint64_t rounds, enum tier_plan_precision precision) {
    struct tier_plan p = adamw_plan(rounds);
    p.precision = precision;
    return p;
}

Test(hub_recipe, what_is_published_is_what_the_reference_computes) {
    struct tier_plan plans[] = {adamw_plan(5), stepped_plan(5),
                                half_plan(5, TIER_PLAN_PRECISION_BF16),
                                half_plan(5, TIER_PLAN_PRECISION_F16)};
    for (size_t i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "reference-%zu", i);
        struct shape s = flat(name);
        struct tier_hash run = run_of(&s, &plans[i], 0), model = finish(s.top, &run);
        struct reference *r = reference_new(&plans[i], NULL);
        for (uint64_t round = 1; round <= plans[i].rounds; round++)
            reference_round(r, round, NULL);
        char *path = published(&s, &model);
        reference_equals(r, path, r->model, tier_graph_param_count(r->graph));
        cr_expect(ge(dbl, reference_figures(r).accuracy, 0.9));
        free(path);
        reference_free(r);
        tree_free(s.tree);
    }
}

Test(hub_recipe, what_is_frozen_is_published_as_it_began) {
    struct tier_plan plan = adamw_plan(5);
    const char *frozen = NULL;
    tier_keys_list_add(&plan.freeze, "*1.weight", strlen("*1.weight"));
    struct shape s = flat("frozen");
    struct tier_hash run = run_of(&s, &plan, 0), model = finish(s.top, &run);
    struct reference *r = reference_new(&plan, NULL);
    for (uint64_t round = 1; round <= plan.rounds; round++)
        reference_round(r, round, NULL);
    char *path = published(&s, &model);
    reference_equals(r, path, r->model, tier_graph_param_count(r->graph));
    size_t same = 0, moved = 0;
    for (size_t p = 0; p < tier_graph_param_count(r->graph); p++) {
        const struct tier_graph_param *q = tier_graph_param(r->graph, p);
        size_t bytes = q->elements * sizeof *r->model;
        bool stayed = memcmp(r->model + q->at, r->start + q->at, bytes) == 0;
        bool wanted = tier_share_frozen(&plan, q);
        cr_expect(stayed == wanted, "%s", q->name);
        same += wanted;
        moved += !wanted;
        if (wanted)
            frozen = q->name;
    }
    cr_expect(same == 1 && moved > 1, "%s", frozen);
    free(path);
    reference_free(r);
    tree_free(s.tree);
}

Test(hub_recipe, any_shape_and_any_stops_publish_the_same_bits) {
    struct tier_plan plan = adamw_plan(30), constant = plan;
    constant.schedule.kind = TIER_PLAN_CONSTANT;
    constant.schedule.lr_min = NAN;
    struct tier_hash one = model_of(flat("flat"), &plan, 0);
    struct tier_hash rough = model_of(deep("rough"), &plan, 5);
    struct tier_plan half = half_plan(30, TIER_PLAN_PRECISION_BF16);
    struct tier_hash without = model_of(flat("constant"), &constant, 0);
    struct tier_hash rounded = model_of(flat("half"), &half, 0);
    cr_assert(tier_hash_equal(&one, &rough));
    cr_assert(tier_hash_equal(&one, &without) == false, "the schedule does something");
    cr_assert(tier_hash_equal(&one, &rounded) == false, "the precision does something");
}
