/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/wdbc.h"
#include "tier/content.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(hub_tree, .init = set_up, .fini = tear_down);

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

static bool waits_for_a_spoke(struct hub *hub, void *arg) {
    struct tier_hash *base = arg;
    *base = hub->runs->base_model;
    return hub->runs->round.number >= 2 && hub->runs->round.state == TIER_ROUND_OPEN &&
           !hub->runs->children[0].attending;
}

static bool asked_in_vain(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs && hub->runs->wanted_round && tier_link_traffic(hub->link).fetches >= 2;
}

Test(hub_tree, a_hub_whose_parent_has_lost_the_model_asks_until_it_is_back) {
    struct tree *tree = make_tree("lost-model");
    struct tree_node *top = tree_hub(tree, "top", NULL, 1),
                     *north = tree_hub(tree, "north", top, 1);
    tree_stop(north);
    struct tree_node *near = make_spoke(tree, 0, top);
    make_spoke(tree, 1, north);
    struct tier_plan plan = plan_of(100);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx"), base;
    uint64_t round = 2;
    cr_assert(tree_until(top, round_is, &round, TIMEOUT_MS));
    tree_stop(near);
    cr_assert(tree_until(top, waits_for_a_spoke, &base, TIMEOUT_MS));

    char models[256], away[256], hex[TIER_HASH_HEX];
    snprintf(models, sizeof models, "%s/models", tree_dir(top));
    char *path = tier_content_path(models, &base, TIER_CONTENT_MODEL);
    snprintf(away, sizeof away, "%s/%s.away", work, tier_hash_hex(&base, hex));
    cr_assert(rename(path, away) == 0);
    tree_start(north);
    cr_assert(tree_until(north, asked_in_vain, NULL, TIMEOUT_MS));
    cr_assert(rename(away, path) == 0);
    cr_assert(tree_until(north, round_is, &round, TIMEOUT_MS));
    free(path);
    tree_start(near);
    finish(top, &run);
    tree_free(tree);
}

struct where {
    struct tier_hash model;
    uint64_t round;
};

static bool base_of_round(struct hub *hub, void *arg) {
    struct where *w = arg;
    if (!hub->runs || hub->runs->round.number < w->round ||
        hub->runs->round.state != TIER_ROUND_OPEN)
        return false;
    w->model = hub->runs->base_model;
    return true;
}

static bool failed(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs && hub->runs->state == HUB_RUN_FAILED && strstr(hub->runs->reason, "damaged");
}

/* Changes a byte of the model that the open round of that node starts from. */
static void damage_base(struct tree_node *node, uint64_t round) {
    struct where w = {.round = round};
    char dir[256];
    uint8_t byte;
    cr_assert(tree_until(node, base_of_round, &w, TIMEOUT_MS));
    tree_stop(node);
    snprintf(dir, sizeof dir, "%s/models", tree_dir(node));
    char *path = tier_content_path(dir, &w.model, TIER_CONTENT_MODEL);
    int fd = open(path, O_RDWR);
    cr_assert(pread(fd, &byte, 1, 5000) == 1);
    byte ^= 1;
    cr_assert(pwrite(fd, &byte, 1, 5000) == 1);
    close(fd);
    free(path);
    tree_start(node);
}

Test(hub_tree, a_base_that_was_damaged_at_the_top_ends_the_run_and_says_why) {
    struct tree *tree = make_tree("damaged-top");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    make_spoke(tree, 0, top);
    make_spoke(tree, 1, top);
    struct tier_plan plan = plan_of(400);
    tree_run(top, &plan, EXAMPLE "/model.onnx");
    damage_base(top, 2);
    cr_assert(tree_until(top, failed, NULL, TIMEOUT_MS));
    tree_free(tree);
}

Test(hub_tree, a_base_that_was_damaged_at_a_hub_is_fetched_again) {
    struct tier_hash undisturbed = flat_model("undisturbed", 4, 12);
    struct tree *tree = make_tree("damaged-hub");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2),
                     *north = tree_hub(tree, "north", top, 3);
    make_spoke(tree, 3, top);
    for (unsigned i = 0; i < 3; i++)
        make_spoke(tree, i, north);
    struct tier_plan plan = plan_of(12);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    damage_base(north, 2);
    damage_base(north, 5);
    struct tier_hash model = finish(top, &run);
    cr_assert(tier_hash_equal(&undisturbed, &model));
    tree_free(tree);
}

static bool lacks_its_base(struct hub *hub, void *arg) {
    (void)arg;
    return hub->runs && tier_link_traffic(hub->link).fetches >= 1 &&
           !tier_content_has(hub->home.models_dir, &hub->runs->base_model, TIER_CONTENT_MODEL);
}

static char *base_path(const struct tree_node *node, const struct tier_hash *model) {
    char dir[256];
    snprintf(dir, sizeof dir, "%s/models", tree_dir(node));
    return tier_content_path(dir, model, TIER_CONTENT_MODEL);
}

Test(hub_tree, a_base_that_is_gone_at_a_hub_and_its_parent_is_asked_for_until_it_is_back) {
    struct tree *tree = make_tree("gone");
    struct tree_node *top = tree_hub(tree, "top", NULL, 1),
                     *north = tree_hub(tree, "north", top, 1);
    struct tree_node *far = make_spoke(tree, 0, north);
    struct tier_plan plan = plan_of(100);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    struct where w = {.round = 2};
    cr_assert(tree_until(north, base_of_round, &w, TIMEOUT_MS));
    tree_stop(far);
    cr_assert(tree_until(north, waits_for_a_spoke, &w.model, TIMEOUT_MS));
    tree_stop(north);
    char *there = base_path(top, &w.model), *here = base_path(north, &w.model), away[600];
    snprintf(away, sizeof away, "%s.away", there);
    cr_assert(rename(there, away) == 0 && unlink(here) == 0);
    tree_start(north);
    cr_assert(tree_until(north, lacks_its_base, NULL, TIMEOUT_MS));
    cr_assert(rename(away, there) == 0);
    tree_start(far);
    finish(top, &run);
    free(there);
    free(here);
    tree_free(tree);
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

/* Files of the hub's spool, and of the round: its parts go as they are folded. */
struct held {
    size_t files_max, parts;
    uint64_t rounds;
};

static bool look_at_parts(struct hub *hub, void *arg) {
    struct held *held = arg;
    struct hub_run *run = hub->runs;
    size_t sealed = 0;
    if (!run)
        return false;
    for (uint32_t i = 0; i < run->round.count; i++)
        sealed += tier_round_child(&run->round, i)->state == TIER_CHILD_SEALED;
    held->files_max = sealed > held->files_max ? sealed : held->files_max;
    held->parts += !tier_hash_is_zero(&run->round.partial);
    return run->state != HUB_RUN_OPEN;
}

static struct tier_hash model_with_parts(const char *name, unsigned places, bool restart,
                                         struct held *held) {
    enum { SPOKES = 9, ROUNDS = 6 };
    struct tree *tree = make_tree(name);
    tree_places(tree, places);
    struct tree_node *top = tree_hub(tree, "top", NULL, 1);
    struct tree_node *hub = tree_hub(tree, "hub", top, SPOKES);
    for (unsigned i = 0; i < SPOKES; i++)
        make_spoke(tree, i, hub);
    struct tier_plan plan = plan_of(ROUNDS);
    plan.top.retain = plan.hub.retain = TIER_PLAN_RETAIN_SUMS;
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    for (uint64_t at = 1; at < ROUNDS && restart; at++) {
        cr_assert(tree_until(hub, round_is, &at, TIMEOUT_MS));
        tree_stop(hub);
        tree_start(hub);
    }
    if (held)
        tree_until(hub, look_at_parts, held, TIMEOUT_MS);
    struct tier_hash model = finish(top, &run);
    tree_free(tree);
    return model;
}

Test(hub_tree, updates_folded_in_parts_give_the_model_of_all_at_once) {
    struct held held = {0};
    struct tier_hash parts = model_with_parts("parts", 2, false, &held);
    struct tier_hash whole = model_with_parts("whole", 100, false, NULL);
    cr_assert(tier_hash_equal(&parts, &whole));
    cr_log_info("%zu looks saw a partial, at most %zu sealed updates\n", held.parts,
                held.files_max);
    cr_assert(gt(sz, held.parts, 0), "parts were made");
    cr_assert(le(sz, held.files_max, 2 - 1 + 2), "what is sealed holds places");
}

Test(hub_tree, a_hub_restarted_among_its_parts_changes_nothing) {
    struct tier_hash whole = model_with_parts("whole", 100, false, NULL);
    struct tier_hash parts = model_with_parts("parts", 2, true, NULL);
    cr_assert(tier_hash_equal(&parts, &whole));
}

/* They publish the same files, and one may be through with a file that the other begins with. */
Test(hub_tree, runs_of_one_plan_at_once_do_not_take_each_others_models) {
    enum { RUNS = 4 };
    struct tree *tree = make_tree("at-once");
    struct tree_node *top = tree_hub(tree, "top", NULL, 1);
    struct tree_node *hub = tree_hub(tree, "hub", top, 3);
    for (unsigned i = 0; i < 3; i++)
        make_spoke(tree, i, hub);
    struct tier_plan plan = plan_of(5);
    struct tier_hash run[RUNS], model[RUNS];
    for (int i = 0; i < RUNS; i++) {
        uint64_t begun = 1;
        run[i] = tree_run(top, &plan, EXAMPLE "/model.onnx");
        cr_assert(tree_until(top, round_is, &begun, TIMEOUT_MS));
    }
    for (int i = 0; i < RUNS; i++) {
        model[i] = finish(top, &run[i]);
        cr_assert(tier_hash_equal(&model[i], &model[0]), "run %d counted other updates", i);
    }
    tree_free(tree);
}

/* What the last round brings, an evaluation without weight, is then the same file from both. */
Test(hub_tree, two_spokes_with_the_same_table_both_count) {
    struct tree *tree = make_tree("twins");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    char csv[128];
    snprintf(csv, sizeof csv, "%s/tables/%s.csv", work, sites[0]);
    tree_spoke(tree, "twin-1", top, csv, EXAMPLE "/schema.yaml");
    tree_spoke(tree, "twin-2", top, csv, EXAMPLE "/schema.yaml");
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

Test(hub_tree, a_region_and_the_top_merge_by_the_rules_of_the_plan) {
    struct tier_hash models[2];
    for (int again = 0; again < 2; again++) {
        struct tree *tree = make_tree(again ? "median-again" : "median");
        struct tree_node *top = tree_hub(tree, "top", NULL, 3);
        struct tree_node *hub = tree_hub(tree, "hub-a", top, 3);
        for (unsigned i = 0; i < 5; i++)
            make_spoke(tree, again ? 4 - i : i, (again ? 4 - i : i) < 3 ? hub : top);
        struct tier_plan plan = plan_of(4);
        plan.top.merge.rule.choice = TIER_PLAN_MEDIAN;
        plan.hub.merge.rule.choice = TIER_PLAN_MEDIAN;
        struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
        models[again] = finish(top, &run);
        tree_free(tree);
    }
    cr_assert(tier_hash_equal(&models[0], &models[1]));
}
