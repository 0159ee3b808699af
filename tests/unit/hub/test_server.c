/* SPDX-License-Identifier: Apache-2.0 */
/* Optimisers at the top, in whole trees: what they learn, and what a stop at a bad moment changes.
 */
#include "tests/support/wdbc.h"
#include "tier/server_state.h"

#include <dirent.h>
#include <string.h>

TestSuite(hub_server, .init = set_up, .fini = tear_down);

static struct tier_plan adaptive_plan(enum tier_plan_server_kind kind, uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    bool adagrad = kind == TIER_PLAN_SERVER_ADAGRAD;
    p.server = (struct tier_plan_server){.kind = kind,
                                         .lr = 0.02,
                                         .momentum = NAN,
                                         .beta1 = 0.9,
                                         .beta2 = adagrad ? NAN : 0.99,
                                         .tau = 1e-3};
    return p;
}

static struct tier_plan momentum_plan(uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    p.server = (struct tier_plan_server){TIER_PLAN_SERVER_MOMENTUM, 1, 0.5, NAN, NAN, NAN};
    return p;
}

/* States in a node's models directory. */
static size_t states_of(const struct tree_node *node) {
    char path[256];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/models", tree_dir(node));
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += strstr(e->d_name, TIER_SERVER_STATE_SUFFIX) != NULL;
    if (d)
        closedir(d);
    return n;
}

struct accuracy {
    uint64_t round;
    double value;
};

static enum tier_status see_accuracy(void *arg, uint64_t round, const char *name, double value,
                                     struct tier_err *err) {
    struct accuracy *a = arg;
    (void)name;
    (void)err;
    *a = (struct accuracy){round, value};
    return TIER_OK;
}

static bool last_accuracy(struct hub *hub, void *arg) {
    return tier_journal_metric_each(hub->home.journal, hub->runs->hex, "accuracy", see_accuracy,
                                    arg, NULL) == TIER_OK;
}

/* The model of a flat tree over four hospitals that nobody disturbs, and how good it is. */
static struct tier_hash undisturbed(struct tier_plan plan, struct accuracy *accuracy_out) {
    static unsigned trees;
    char name[32];
    snprintf(name, sizeof name, "undisturbed-%u", trees++);
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, 4);
    for (unsigned i = 0; i < 4; i++)
        make_spoke(tree, i, top);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx"), model = finish(top, &run);
    if (accuracy_out)
        cr_assert(tree_until(top, last_accuracy, accuracy_out, TIMEOUT_MS));
    cr_assert(eq(sz, states_of(top), 0), "a run that is over leaves no state");
    tree_free(tree);
    return model;
}

Test(hub_server, every_optimiser_learns_on_real_patients) {
    enum { ROUNDS = 25 };
    struct tier_plan plans[] = {momentum_plan(ROUNDS), adaptive_plan(TIER_PLAN_SERVER_ADAM, ROUNDS),
                                adaptive_plan(TIER_PLAN_SERVER_YOGI, ROUNDS),
                                adaptive_plan(TIER_PLAN_SERVER_ADAGRAD, ROUNDS)};
    for (size_t i = 0; i < 4; i++) {
        struct accuracy a = {0};
        undisturbed(plans[i], &a);
        cr_log_info("optimiser %d: accuracy %.4f after %d rounds\n", plans[i].server.kind, a.value,
                    (int)a.round);
        cr_assert(eq(u64, a.round, ROUNDS));
        cr_assert(ge(dbl, a.value, 0.93), "optimiser %d", plans[i].server.kind);
    }
}

Test(hub_server, the_shape_of_the_tree_does_not_change_what_adam_makes) {
    struct tier_plan plan = adaptive_plan(TIER_PLAN_SERVER_ADAM, 4);
    struct tier_hash flat = undisturbed(plan, NULL);
    struct tree *tree = make_tree("tiers");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2), *a = tree_hub(tree, "hub-a", top, 3);
    make_spoke(tree, 3, top);
    for (unsigned i = 0; i < 3; i++)
        make_spoke(tree, i, a);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx"), model = finish(top, &run);
    cr_assert(tier_hash_equal(&flat, &model));
    cr_assert(eq(sz, states_of(a), 0), "only the top has an optimiser");
    tree_free(tree);
}

struct moment {
    uint64_t round;
    int state; /* of the round; -1: a model is being published */
};

static bool moment_is(struct hub *hub, void *arg) {
    const struct moment *m = arg;
    const struct hub_run *run = hub->runs;
    if (run && run->state != HUB_RUN_OPEN)
        return true; /* it was never caught there */
    if (!run || run->round.number < m->round)
        return false;
    return m->state < 0 ? run->publishing : (int)run->round.state == m->state;
}

static bool ended(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs->state != HUB_RUN_OPEN;
}

/* Stops the top at such a moment in several rounds and starts it again. What the process does not
 * take along is what kill -9 takes: everything but files and the journal. */
static void stopped_at(struct tier_plan plan, int state) {
    struct tier_hash want = undisturbed(plan, NULL);
    struct tree *tree = make_tree("disturbed");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2), *a = tree_hub(tree, "hub-a", top, 3);
    for (unsigned i = 0; i < 3; i++)
        make_spoke(tree, i, a);
    make_spoke(tree, 3, top);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    unsigned stops = 0;
    for (uint64_t round = 1; round + 2 < plan.rounds; round += 2) {
        struct moment m = {round, state};
        cr_assert(tree_until(top, moment_is, &m, TIMEOUT_MS), "round %d", (int)round);
        if (tree_until(top, ended, NULL, 0))
            break;
        stops++;
        tree_stop(top);
        tree_start(top);
        cr_assert(le(sz, states_of(top), 2));
    }
    cr_assert(ge(uint, stops, 1), "the moment was never caught");
    struct tier_hash model = finish(top, &run);
    cr_assert(tier_hash_equal(&want, &model));
    cr_assert(eq(sz, states_of(top), 0));
    tree_free(tree);
}

Test(hub_server, the_top_stopped_while_a_round_is_open_goes_on_to_the_same_bits) {
    stopped_at(adaptive_plan(TIER_PLAN_SERVER_ADAM, 12), TIER_ROUND_OPEN);
}

Test(hub_server, the_top_stopped_while_it_publishes_goes_on_to_the_same_bits) {
    stopped_at(adaptive_plan(TIER_PLAN_SERVER_YOGI, 12), -1);
}

Test(hub_server, the_top_stopped_with_its_sum_folded_goes_on_to_the_same_bits) {
    stopped_at(momentum_plan(12), TIER_ROUND_FOLDED);
}

static bool remembers(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs && hub->runs->round.number >= 3 &&
           !tier_hash_is_zero(&hub->runs->server_state);
}

static bool failed(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs && hub->runs->state == HUB_RUN_FAILED;
}

Test(hub_server, a_damaged_state_ends_the_run_and_says_why) {
    struct tier_plan plan = adaptive_plan(TIER_PLAN_SERVER_ADAM, 400);
    struct tree *tree = make_tree("damaged");
    struct tree_node *top = tree_hub(tree, "top", NULL, 1);
    make_spoke(tree, 0, top);
    tree_run(top, &plan, EXAMPLE "/model.onnx");
    cr_assert(tree_until(top, remembers, NULL, TIMEOUT_MS));
    tree_stop(top);
    char command[512];
    snprintf(command, sizeof command,
             "for f in %s/models/*" TIER_SERVER_STATE_SUFFIX
             "; do printf x | dd of=$f bs=1 seek=200 conv=notrunc 2>/dev/null; done",
             tree_dir(top));
    cr_assert(system(command) == 0);
    tree_start(top);
    cr_assert(tree_until(top, failed, NULL, TIMEOUT_MS));
    tree_free(tree);
}
