/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two shapes of a tree over the same four hospitals, whose models must be the same bits.
 *
 * Threads: the test's own.
 */
#ifndef CONSILIUM_TESTS_SHAPES_H
#define CONSILIUM_TESTS_SHAPES_H

#include "tests/support/stops.h"
#include "tier/content.h"

enum { SPOKES = 4 };

struct shape {
    struct tree *tree;
    struct tree_node *node[SPOKES + 3], *top; /* the spokes first */
    size_t nodes;
};

static inline struct shape flat(const char *name) {
    struct shape s = {.tree = make_tree(name), .nodes = SPOKES + 1};
    s.top = s.node[SPOKES] = tree_hub(s.tree, "top", NULL, SPOKES);
    for (unsigned i = 0; i < SPOKES; i++)
        s.node[i] = make_spoke(s.tree, i, s.top);
    return s;
}

static inline struct shape deep(const char *name) {
    struct shape s = {.tree = make_tree(name), .nodes = SPOKES + 3};
    s.top = s.node[SPOKES] = tree_hub(s.tree, "top", NULL, 2);
    s.node[SPOKES + 1] = tree_hub(s.tree, "north", s.top, 2);
    s.node[SPOKES + 2] = tree_hub(s.tree, "south", s.top, 2);
    for (unsigned i = 0; i < SPOKES; i++)
        s.node[i] = make_spoke(s.tree, i, s.node[SPOKES + 1 + i % 2]);
    return s;
}

/* Starts a run of the plan; with a seed nodes are stopped at random while it goes on. */
static inline struct tier_hash run_of(struct shape *s, const struct tier_plan *plan,
                                      uint32_t seed) {
    struct tier_plan p = *plan;
    struct tier_hash run = tree_run(s->top, &p, EXAMPLE "/model.onnx");
    if (seed)
        cr_assert(ge(uint, stop_at_random(s->top, s->node, s->nodes, 60, seed), 5));
    return run;
}

/* The model of a whole run. */
static inline struct tier_hash model_of(struct shape s, const struct tier_plan *plan,
                                        uint32_t seed) {
    struct tier_hash run = run_of(&s, plan, seed), model = finish(s.top, &run);
    tree_free(s.tree);
    return model;
}

/* "<top's models>/<model>.safetensors"; freed by the caller. */
static inline char *published(const struct shape *s, const struct tier_hash *model) {
    char dir[512];
    snprintf(dir, sizeof dir, "%s/models", tree_dir(s->top));
    return tier_content_path(dir, model, TIER_CONTENT_MODEL);
}

#endif
