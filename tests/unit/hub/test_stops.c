/* SPDX-License-Identifier: Apache-2.0 */
/* Any node of a tree stopped at any moment, again and again: the model stays the same. */
#include "tests/support/stops.h"

TestSuite(hub_stops, .init = set_up, .fini = tear_down);

enum { SPOKES = 4, NODES = SPOKES + 3, ROUNDS = 40, STOPS = 60 };

struct shape {
    struct tree *tree;
    struct tree_node *node[NODES]; /* the top first */
};

static struct shape make_shape(const char *name) {
    struct shape s = {.tree = make_tree(name)};
    s.node[0] = tree_hub(s.tree, "top", NULL, 2);
    s.node[1] = tree_hub(s.tree, "north", s.node[0], 2);
    s.node[2] = tree_hub(s.tree, "south", s.node[0], 2);
    for (unsigned i = 0; i < SPOKES; i++)
        s.node[3 + i] = make_spoke(s.tree, i, s.node[1 + i % 2]);
    return s;
}

static void stop_and_compare(uint32_t seed) {
    struct tier_plan plan = plan_of(ROUNDS);
    struct shape calm = make_shape("calm"), rough = make_shape("rough");
    struct tier_hash run = tree_run(calm.node[0], &plan, EXAMPLE "/model.onnx");
    struct tier_hash want = finish(calm.node[0], &run);

    tree_free(calm.tree);
    run = tree_run(rough.node[0], &plan, EXAMPLE "/model.onnx");
    unsigned stops = stop_at_random(rough.node[0], rough.node, NODES, STOPS, seed);
    cr_log_info("%u stops\n", stops);
    cr_assert(ge(uint, stops, 5));
    struct tier_hash got = finish(rough.node[0], &run);
    cr_assert(tier_hash_equal(&want, &got));
    tree_free(rough.tree);
}

Test(hub_stops, any_node_at_any_moment_and_the_model_is_the_same) {
    stop_and_compare(1);
}

Test(hub_stops, other_nodes_at_other_moments_and_the_model_is_the_same) {
    stop_and_compare(2);
}
