/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/wdbc.h"
#include "tier/content.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(hub_tree, .init = set_up, .fini = tear_down, .timeout = 120);

/* The model of an undisturbed flat tree over the first `spokes` sites. */
static struct tier_hash flat_model(const char *name, unsigned spokes, uint64_t rounds) {
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, spokes);
    for (unsigned i = 0; i < spokes; i++)
        make_spoke(tree, i, top);
    struct tier_plan plan = plan_of(rounds);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    struct tier_hash model = finish(top, &run);
    tree_free(tree);
    return model;
}

Test(hub_tree, flat_two_tiers_and_four_tiers_publish_the_same_bits) {
    struct tier_hash flat = flat_model("flat", 4, 3);

    struct tree *tree = make_tree("two");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    struct tree_node *a = tree_hub(tree, "hub-a", top, 3), *b = tree_hub(tree, "hub-b", top, 1);
    for (unsigned i = 0; i < 4; i++)
        make_spoke(tree, i, i == 1 ? b : a);
    struct tier_plan plan = plan_of(3);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    struct tier_hash two = finish(top, &run);
    tree_free(tree);

    tree = make_tree("four");
    top = tree_hub(tree, "top", NULL, 2);
    a = tree_hub(tree, "hub-a", top, 2);
    b = tree_hub(tree, "hub-b", a, 1);
    struct tree_node *c = tree_hub(tree, "hub-c", b, 2);
    make_spoke(tree, 0, c);
    make_spoke(tree, 1, top);
    make_spoke(tree, 2, a);
    make_spoke(tree, 3, c);
    run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    struct tier_hash four = finish(top, &run);
    tree_free(tree);

    cr_assert(tier_hash_equal(&flat, &two));
    cr_assert(tier_hash_equal(&flat, &four));
}

Test(hub_tree, a_hub_fetches_each_model_once_and_pushes_one_update_a_round) {
    enum { ROUNDS = 3 };
    struct tree *tree = make_tree("traffic");
    struct tree_node *top = tree_hub(tree, "top", NULL, 1);
    struct tree_node *hub = tree_hub(tree, "hub-a", top, 9);
    for (unsigned i = 0; i < 9; i++)
        make_spoke(tree, i, hub);
    struct tier_plan plan = plan_of(ROUNDS);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);

    struct tier_link_traffic up = tree_link_traffic(hub);
    struct tier_serve_traffic down = tree_serve_traffic(hub);
    /* The graph, and a base model for each round (the last one evaluates). */
    cr_assert(eq(u64, up.fetches, ROUNDS + 2));
    cr_assert(eq(u64, down.fetches, 9 * (ROUNDS + 2)));
    double f32_model = 4.0 * 24449;
    double sealed = (double)(up.pushed_bytes + up.header_bytes) / ROUNDS;
    cr_log_info("sealed update: %.3f x one f32 model, from 9 children\n", sealed / f32_model);
    cr_assert(le(dbl, sealed, 1.25 * f32_model));
    cr_assert(gt(dbl, sealed, 0.5 * f32_model));
    tree_free(tree);
}

static bool round_is(struct hub *hub, void *arg) {
    uint64_t want = *(uint64_t *)arg;
    return hub->runs && hub->runs->round.number >= want;
}

/* Stops a node in round 2 or later and starts it again; the run's model must not change. */
static void restart_in_the_middle(unsigned which) {
    struct tier_hash undisturbed = flat_model("undisturbed", 4, 12);
    struct tree *tree = make_tree("disturbed");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    struct tree_node *hubs[2] = {tree_hub(tree, "hub-a", top, 2), tree_hub(tree, "hub-b", top, 2)};
    struct tree_node *spokes[4];
    for (unsigned i = 0; i < 4; i++)
        spokes[i] = make_spoke(tree, i, hubs[i / 2]);
    struct tree_node *victims[] = {spokes[3], hubs[1], top};
    struct tier_plan plan = plan_of(12);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    for (uint64_t at = 2; at <= 8; at += 3) {
        cr_assert(tree_until(top, round_is, &at, TIMEOUT_MS));
        tree_stop(victims[which]);
        tree_start(victims[which]);
    }
    struct tier_hash model = finish(top, &run);
    cr_assert(tier_hash_equal(&undisturbed, &model));
    tree_free(tree);
}

Test(hub_tree, a_spoke_restarted_in_a_round_changes_nothing) {
    restart_in_the_middle(0);
}

Test(hub_tree, a_hub_restarted_in_a_round_changes_nothing) {
    restart_in_the_middle(1);
}

Test(hub_tree, the_top_restarted_in_a_round_changes_nothing) {
    restart_in_the_middle(2);
}

Test(hub_tree, a_spoke_whose_data_do_not_fit_declines_and_the_others_go_on) {
    char schema[128], command[512];
    snprintf(schema, sizeof schema, "%s/other.yaml", work);
    snprintf(command, sizeof command,
             "sed 's/^name: .*/name: other-data/' " EXAMPLE "/schema.yaml > %s", schema);
    cr_assert(system(command) == 0);

    struct tree *tree = make_tree("decline");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    make_spoke(tree, 0, top);
    char csv[128];
    snprintf(csv, sizeof csv, "%s/tables/%s.csv", work, sites[1]);
    tree_spoke(tree, sites[1], top, csv, schema);
    make_spoke(tree, 2, top);
    struct tier_plan plan = plan_of(2);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);
    tree_free(tree);
}

Test(hub_tree, a_deadline_goes_on_without_a_spoke_that_is_gone) {
    struct tree *tree = make_tree("deadline");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    make_spoke(tree, 0, top);
    struct tree_node *gone = make_spoke(tree, 1, top);
    struct tier_plan plan = plan_of(400);
    plan.top.deadline_s = 1;
    plan.hub.deadline_s = 1;
    tree_run(top, &plan, EXAMPLE "/model.onnx");
    uint64_t early = 2;
    cr_assert(tree_until(top, round_is, &early, TIMEOUT_MS));
    tree_stop(gone);
    uint64_t later = early + 3;
    cr_assert(tree_until(top, round_is, &later, TIMEOUT_MS), "rounds go on without it");
    tree_free(tree);
}
