/* SPDX-License-Identifier: Apache-2.0 */
/* Hubs that merge by a rule of the plan, in whole trees on real patients' tables. */
#include "tests/support/wdbc.h"
#include "tier/content.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

#define PLUGIN CONSILIUM_LIB_DIR "/merge_agreeing_mean.so"

TestSuite(hub_merge, .init = set_up, .fini = tear_down);

static struct tier_plan merge_plan(uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    p.weight_total_max = UINT64_C(1) << 32; /* more than one resealed update may weigh */
    return p;
}

static struct tier_hash finish_as(struct tree_node *top, const struct tier_hash *run,
                                  enum hub_run_state want) {
    struct tier_hash model = {{0}};
    enum hub_run_state state = HUB_RUN_OPEN;
    cr_assert(tree_wait(top, run, TIMEOUT_MS, &state, &model), "the run did not end");
    cr_assert(eq(int, state, want));
    return model;
}

static size_t spooled(const struct tree_node *node) {
    char path[600];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/spool", tree_dir(node));
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static bool round_is(struct hub *hub, void *arg) {
    return hub->runs && hub->runs->round.number >= *(uint64_t *)arg;
}

/* A top over a region of five hospitals, and three of its own; centred clipping at both. */
static struct tier_hash clipped(const char *name, int disturbed) {
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, 4);
    struct tree_node *hub = tree_hub(tree, "hub-a", top, 5);
    struct tree_node *victims[] = {NULL, hub, top};
    for (unsigned i = 0; i < 8; i++)
        make_spoke(tree, i, i < 5 ? hub : top);
    struct tier_plan plan = merge_plan(8);
    plan.top.merge.rule.choice = plan.hub.merge.rule.choice = TIER_PLAN_CENTRED_CLIPPING;
    plan.top.merge.iterations = plan.hub.merge.iterations = 2;
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    for (uint64_t at = 2; disturbed && at <= 6; at += 2) {
        cr_assert(tree_until(top, round_is, &at, TIMEOUT_MS));
        tree_stop(victims[disturbed]);
        cr_assert(le(sz, spooled(victims[disturbed]), 7)); /* one round's, and what it came from */
        tree_start(victims[disturbed]);
    }
    struct tier_hash model = finish(top, &run);
    tree_stop(top);
    cr_assert(eq(sz, spooled(top), 0));
    tree_free(tree);
    return model;
}

Test(hub_merge, a_restart_keeps_what_centred_clipping_starts_from) {
    struct tier_hash undisturbed = clipped("undisturbed", 0);
    struct tier_hash region = clipped("region", 1), top = clipped("top", 2);
    cr_assert(tier_hash_equal(&undisturbed, &region));
    cr_assert(tier_hash_equal(&undisturbed, &top));
}

static bool reason_has(struct hub *hub, void *arg) {
    return hub->runs && strstr(hub->runs->reason, arg) != NULL;
}

Test(hub_merge, a_top_whose_rule_has_too_few_updates_fails_the_run_and_says_why) {
    struct tree *tree = make_tree("few");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    for (unsigned i = 0; i < 2; i++)
        make_spoke(tree, i, top);
    struct tier_plan plan = merge_plan(3);
    plan.top.merge.rule.choice = TIER_PLAN_KRUM;
    plan.top.merge.byzantine = 0.2;
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish_as(top, &run, HUB_RUN_FAILED);
    cr_assert(tree_until(top, reason_has, "needs at least 3 updates; this round has 2", 1000));
    tree_free(tree);
}

Test(hub_merge, a_region_whose_rule_has_too_few_updates_declines_and_the_others_go_on) {
    struct tree *tree = make_tree("region-few");
    struct tree_node *top = tree_hub(tree, "top", NULL, 4);
    struct tree_node *hub = tree_hub(tree, "hub-a", top, 2);
    for (unsigned i = 0; i < 5; i++)
        make_spoke(tree, i, i < 2 ? hub : top);
    struct tier_plan plan = merge_plan(2);
    plan.hub.merge.rule.choice = TIER_PLAN_KRUM;
    plan.hub.merge.byzantine = 0.2;
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);
    tree_free(tree);
}

/* A run that cannot begin gives its reason to whoever asks for it. */
static bool refuses(struct hub *hub, void *arg) {
    struct tier_plan plan = merge_plan(2);
    struct tier_err err = {0};
    char *text = NULL;
    size_t bytes;
    snprintf(plan.top.merge.rule.own, sizeof plan.top.merge.rule.own, "x-unheard-of");
    snprintf(plan.model_sha256, sizeof plan.model_sha256, "%064d", 0);
    plan.model_bytes = 1;
    bool ok = tier_plan_canonical(&plan, &text, &bytes, NULL, &err) == TIER_OK &&
              hub_run_begin(hub, NULL, &(struct hub_plan){.text = text, .bytes = bytes}, NULL,
                            &err) == TIER_EPLAN &&
              strstr(err.text, arg) != NULL;
    free(text);
    return ok;
}

static bool declined(struct hub *hub, void *arg) {
    for (struct hub_run *run = hub->runs; run; run = run->next)
        for (size_t i = 0; i < run->child_count; i++)
            if (run->children[i].declined && strcmp(run->children[i].name, arg) == 0)
                return true;
    return false;
}

Test(hub_merge, a_hub_without_the_rule_declines_the_plan_and_with_it_takes_part) {
    struct tree *tree = make_tree("plugin");
    struct tree_node *top = tree_hub(tree, "top", NULL, 3);
    struct tree_node *hub = tree_hub(tree, "hub-a", top, 3);
    for (unsigned i = 0; i < 6; i++)
        make_spoke(tree, i, i < 3 ? hub : top);
    cr_assert(tree_until(top, refuses, "x-unheard-of, which this hub does not have", 5000));
    struct tier_plan plan = merge_plan(2);
    snprintf(plan.hub.merge.rule.own, sizeof plan.hub.merge.rule.own, "x-agreeing-mean");
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    cr_assert(tree_until(top, declined, "hub-a", TIMEOUT_MS));
    struct tier_hash without = finish(top, &run);

    tree_stop(hub);
    struct tier_keys_list *plugins = &tree_config(hub)->hub.merge_plugins;
    tier_keys_list_add(plugins, PLUGIN, strlen(PLUGIN));
    tree_start(hub);
    tree_config(top)->hub.children_min = 4;
    tree_stop(top);
    tree_start(top);
    run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    struct tier_hash with = finish(top, &run);
    cr_assert(not(tier_hash_equal(&with, &without)));
    tree_free(tree);
}

Test(hub_merge, two_hospitals_with_the_same_table_count_as_two) {
    struct tree *tree = make_tree("twins");
    struct tree_node *top = tree_hub(tree, "top", NULL, 3);
    char csv[128];
    make_spoke(tree, 0, top);
    make_spoke(tree, 1, top);
    snprintf(csv, sizeof csv, "%s/tables/%s.csv", work, sites[0]);
    tree_spoke(tree, "twin", top, csv, EXAMPLE "/schema.yaml");
    struct tier_plan plan = merge_plan(2);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);
    tree_free(tree);
}
