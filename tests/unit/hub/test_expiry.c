/* SPDX-License-Identifier: Apache-2.0 */
/* A plan whose last day ends while its run is at work. The day is moved, not the clock. */
#include "tests/support/wdbc.h"

#include <string.h>

TestSuite(hub_expiry, .init = set_up, .fini = tear_down);

#define ROUNDS 12

static void expire(struct hub_run *run) {
    snprintf(run->plan.governance.expires, sizeof run->plan.governance.expires, "2020-01-31");
}

/* From the second round on. */
static bool expires_at_work(struct hub *hub, void *arg) {
    (void)arg;
    if (!hub->runs || hub->runs->round.number < 2)
        return false;
    expire(hub->runs);
    return true;
}

static bool ended_for_it(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs->state == HUB_RUN_STOPPED &&
           strstr(hub->runs->reason, "governance.expires) was 2020-01-31") &&
           hub->runs->round.number < ROUNDS;
}

Test(hub_expiry, the_top_opens_no_further_round_and_ends_the_run) {
    struct tree *tree = make_tree("top");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    enum hub_run_state state = HUB_RUN_OPEN;
    struct tier_hash model;

    make_spoke(tree, 0, top);
    make_spoke(tree, 1, top);
    struct tier_plan plan = plan_of(ROUNDS);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    cr_assert(tree_until(top, expires_at_work, NULL, TIMEOUT_MS));
    cr_assert(tree_wait(top, &run, TIMEOUT_MS, &state, &model));
    cr_expect(eq(int, state, HUB_RUN_STOPPED));
    cr_expect(tree_until(top, ended_for_it, NULL, TIMEOUT_MS));
    cr_expect(not(tier_hash_is_zero(&model)), "what was published before stays");
    tree_free(tree);
}

static bool stands_still(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs->state == HUB_RUN_COMPLETED && hub->runs->round.number < ROUNDS;
}

Test(hub_expiry, a_hub_opens_none_either_and_the_others_go_on_without_it) {
    struct tree *tree = make_tree("hub");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    struct tree_node *hub = tree_hub(tree, "north", top, 1);
    enum hub_run_state state = HUB_RUN_OPEN;
    struct tier_hash model;

    make_spoke(tree, 0, hub);
    make_spoke(tree, 1, top);
    struct tier_plan plan = plan_of(ROUNDS);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    cr_assert(tree_until(hub, expires_at_work, NULL, TIMEOUT_MS));
    cr_assert(tree_wait(top, &run, TIMEOUT_MS, &state, &model));
    cr_expect(eq(int, state, HUB_RUN_COMPLETED));
    cr_expect(tree_until(hub, stands_still, NULL, TIMEOUT_MS), "its rounds are over before");
    tree_free(tree);
}
