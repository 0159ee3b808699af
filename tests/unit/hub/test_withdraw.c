/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Updates that are taken out while they are being folded. The hub's worker is held, so that the
 * fold waits with what it was given, and withdrawals come at that very moment.
 */
#include "hub/work.h"
#include "tests/support/wdbc.h"

#include <semaphore.h>
#include <string.h>

static sem_t gate;

static void set_up_gate(void) {
    set_up();
    sem_init(&gate, 0, 0);
}

static void tear_down_gate(void) {
    sem_destroy(&gate);
    tear_down();
}

TestSuite(hub_withdraw, .init = set_up_gate, .fini = tear_down_gate, .timeout = 240);

static void wait_at_gate(void *arg) {
    (void)arg;
    sem_wait(&gate);
}

static void nothing(void *arg) {
    (void)arg;
}

/* Once the first model is made, before the last child attends. */
static bool holds_the_worker(struct hub *hub, void *arg) {
    (void)arg;
    if (!hub->runs || tier_hash_is_zero(&hub->runs->model))
        return false;
    tier_worker_submit(hub->worker, wait_at_gate, nothing, NULL, NULL);
    return true;
}

static bool folds(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs->folding && hub->runs->round.state == TIER_ROUND_FOLDING;
}

static uint32_t child_of(const struct hub_run *run, const char *name) {
    for (uint32_t i = 0; i < run->child_count; i++)
        if (strcmp(run->children[i].name, name) == 0)
            return i;
    abort();
}

static void withdraw(struct hub_run *run, const char *name) {
    const struct tier_hash update = tier_round_child(&run->round, child_of(run, name))->update;
    hub_run_withdrew(run, name, run->round.number, &update, "a test took it back");
}

static bool withdraws_for_good(struct hub *hub, void *arg) {
    const struct tier_round_event e = {.type = TIER_EVENT_DECLINE,
                                       .child = child_of(hub->runs, arg)};
    withdraw(hub->runs, arg);
    hub_work_step(hub->runs, &e);
    return hub->runs->round.state == TIER_ROUND_FOLDING;
}

/* The round is open again, and its deadline is near. */
static bool withdraws_before_the_deadline(struct hub *hub, void *arg) {
    hub->runs->deadline_at_ms = tier_clock_ms() + 200;
    withdraw(hub->runs, arg);
    return hub->runs->round.state == TIER_ROUND_OPEN;
}

static char site[3][16] = {"north-1", "north-2", "north-3"};

/* A tree of three hospitals whose updates are with the worker. */
static struct tree_node *folding_tree(struct tree *tree, const struct tier_plan *wanted,
                                      struct tier_hash *run) {
    struct tree_node *top = tree_hub(tree, "top", NULL, 3);
    struct tier_plan plan = *wanted;
    make_spoke(tree, 0, top);
    make_spoke(tree, 1, top);
    *run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    cr_assert(tree_until(top, holds_the_worker, NULL, TIMEOUT_MS));
    make_spoke(tree, 2, top);
    cr_assert(tree_until(top, folds, NULL, TIMEOUT_MS));
    return top;
}

static struct tier_hash alone(const struct tier_plan *wanted, unsigned which) {
    struct tree *tree = make_tree("alone");
    struct tree_node *top = tree_hub(tree, "top", NULL, 1);
    struct tier_plan plan = *wanted;
    make_spoke(tree, which, top);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    struct tier_hash model = finish(top, &run);
    tree_free(tree);
    return model;
}

static struct tier_plan one_round(void) {
    struct tier_plan plan = plan_of(1);
    plan.evaluate_every = 0;
    plan.top.retain = TIER_PLAN_RETAIN_UPDATES;
    return plan;
}

/* The fold that is at work has all three, and counts for nothing, however many have gone since. */
Test(hub_withdraw, two_that_withdraw_from_a_fold_at_work_are_in_no_model) {
    struct tier_plan plan = one_round();
    struct tree *tree = make_tree("twice");
    struct tier_hash run, model, want;
    struct tree_node *top = folding_tree(tree, &plan, &run);
    cr_assert(tree_until(top, withdraws_for_good, site[0], TIMEOUT_MS));
    cr_assert(tree_until(top, withdraws_for_good, site[1], TIMEOUT_MS));
    sem_post(&gate);
    model = finish(top, &run);
    tree_free(tree);
    want = alone(&plan, 2);
    cr_expect(tier_hash_equal(&model, &want), "the model is not the third hospital's alone");
}

/* Folding had ended the deadline: a round that waits again must not wait for ever. */
Test(hub_withdraw, a_round_that_waits_again_has_its_deadline_again) {
    struct tier_plan plan = one_round();
    struct tree *tree = make_tree("deadline");
    struct tier_hash run;
    plan.top.deadline_s = 3600;
    struct tree_node *top = folding_tree(tree, &plan, &run);
    cr_assert(tree_until(top, withdraws_before_the_deadline, site[0], TIMEOUT_MS));
    sem_post(&gate);
    finish(top, &run);
    tree_free(tree);
}

static struct tier_hash stranger;

static bool withdraws_what_never_came(struct hub *hub, void *arg) {
    hub_run_withdrew(hub->runs, arg, hub->runs->round.number, &stranger, "a test made it up");
    return true;
}

/* The child hears that it is in no sum, which is so; the log does not say that it was taken out. */
Test(hub_withdraw, what_was_never_offered_is_not_logged_as_taken_out) {
    struct tier_plan plan = one_round();
    struct tree *tree = make_tree("stranger");
    struct tier_hash run;
    char command[512];
    tier_hash_data("nobody's", 8, &stranger);
    struct tree_node *top = folding_tree(tree, &plan, &run);
    cr_assert(tree_until(top, withdraws_what_never_came, site[0], TIMEOUT_MS));
    sem_post(&gate);
    finish(top, &run);
    snprintf(command, sizeof command,
             "grep -q '\"event\":\"withdrawal.unknown\"' %s/audit/audit.log && "
             "! grep -q '\"event\":\"update.withdrawn\"' %s/audit/audit.log",
             tree_dir(top), tree_dir(top));
    cr_expect(eq(int, system(command), 0));
    tree_free(tree);
}
