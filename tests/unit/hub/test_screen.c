/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hubs that screen, in whole trees on real patients' tables: a hospital that has mixed up who is
 * ill goes into quarantine, and what is published is what the others alone would have given.
 */
#include "hub/contributor.h"
#include "tests/support/wdbc.h"

#include <dirent.h>
#include <string.h>

#define BAD 5u /* the site whose labels are exchanged */
#define SITES 6u

TestSuite(hub_screen, .init = set_up, .fini = tear_down, .timeout = 120);

static struct tier_plan screened(uint64_t rounds, uint64_t strikes) {
    struct tier_plan p = plan_of(rounds);
    p.top.screen = (struct tier_plan_screen){.norm = 4, .cosine_distance = 1.2, .strikes = strikes};
    p.top.contribution.permutations = 20;
    p.hub.screen = p.top.screen;
    return p;
}

static struct tree_node *make_bad_spoke(struct tree *tree, struct tree_node *parent) {
    char csv[128], command[512];
    snprintf(csv, sizeof csv, "%s/tables/%s-flipped.csv", work, sites[BAD]);
    snprintf(command, sizeof command,
             "sed -e s/malignant/ill/ -e s/benign/malignant/ -e s/ill$/benign/ %s/tables/%s.csv > "
             "%s",
             work, sites[BAD], csv);
    cr_assert(eq(int, system(command), 0));
    return tree_spoke(tree, sites[BAD], parent, csv, EXAMPLE "/schema.yaml");
}

/* Of the newest run; NULL: unknown yet. */
static const struct hub_contributor *bad_one(const struct hub *hub) {
    for (size_t i = 0; hub->runs && i < hub->runs->child_count; i++)
        if (strcmp(hub->runs->children[i].name, sites[BAD]) == 0)
            return hub->runs->children[i].record;
    return NULL;
}

static bool has_strikes(struct hub *hub, void *arg) {
    const struct hub_contributor *c = bad_one(hub);
    return c && c->quarantined >= *(uint64_t *)arg;
}

static bool is_out(struct hub *hub, void *arg) {
    const struct hub_contributor *c = bad_one(hub);
    (void)arg;
    return c && c->out;
}

static size_t in_quarantine(const struct tree_node *node) {
    char path[600];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/quarantine", tree_dir(node));
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += strstr(e->d_name, ".upd") != NULL;
    if (d)
        closedir(d);
    return n;
}

/* With the bad one or without it; stopped and started again where it has `restart_at` strikes. */
static struct tier_hash trained(const char *name, bool bad, uint64_t restart_at) {
    struct tree *tree = make_tree(name);
    struct tree_node *top = tree_hub(tree, "top", NULL, bad ? SITES : SITES - 1);
    for (unsigned i = 0; i < SITES - 1; i++)
        make_spoke(tree, i, top);
    if (bad)
        make_bad_spoke(tree, top);
    struct tier_plan plan = screened(5, 3);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    if (restart_at) {
        cr_assert(tree_until(top, has_strikes, &restart_at, TIMEOUT_MS));
        tree_stop(top);
        tree_start(top);
    }
    struct tier_hash model = finish(top, &run);
    if (bad) {
        cr_assert(tree_until(top, is_out, NULL, TIMEOUT_MS));
        cr_assert(eq(sz, in_quarantine(top), 3));
    }
    tree_free(tree);
    return model;
}

Test(hub_screen, a_hospital_with_exchanged_labels_is_put_aside_and_the_model_is_the_others) {
    struct tier_hash with = trained("with", true, 0), without = trained("without", false, 0);
    struct tier_hash disturbed = trained("disturbed", true, 2); /* a restart forgets no strike */
    cr_assert(tier_hash_equal(&with, &without));
    cr_assert(tier_hash_equal(&with, &disturbed));
}

static bool pardons(struct hub *hub, void *arg) {
    struct tier_err err = {0};
    (void)arg;
    return bad_one(hub) && bad_one(hub)->out &&
           hub_contributor_pardon(hub->runs, sites[BAD], "anna", &err) == TIER_OK &&
           hub_contributor_pardon(hub->runs, sites[BAD], "anna", &err) == TIER_ECONFLICT &&
           hub_contributor_pardon(hub->runs, "nobody", "anna", &err) == TIER_ENOTFOUND;
}

/* It has not mended its table, so it goes out again: with as many strikes as the first time. */
Test(hub_screen, a_child_that_is_pardoned_takes_part_again) {
    struct tree *tree = make_tree("pardon");
    struct tree_node *top = tree_hub(tree, "top", NULL, SITES);
    uint64_t four = 4;
    for (unsigned i = 0; i < SITES - 1; i++)
        make_spoke(tree, i, top);
    make_bad_spoke(tree, top);
    struct tier_plan plan = screened(40, 2);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    cr_assert(tree_until(top, pardons, NULL, TIMEOUT_MS));
    cr_assert(tree_until(top, has_strikes, &four, TIMEOUT_MS));
    cr_assert(tree_until(top, is_out, NULL, TIMEOUT_MS));
    finish(top, &run);
    tree_free(tree);
}

static bool shares_add_up(struct hub *hub, void *arg) {
    const struct hub_run *run = hub->runs;
    double sum = 0;
    uint64_t rounds = *(uint64_t *)arg;
    for (size_t i = 0; i < run->child_count; i++) {
        const struct hub_contributor *c = run->children[i].record;
        bool bad = strcmp(run->children[i].name, sites[BAD]) == 0;
        if (c->counted.shares != (bad ? 0 : rounds) || c->counted.updates != c->counted.shares ||
            (c->counted.bytes > 0) == bad)
            return false;
        sum += c->counted.share;
    }
    return fabs(sum - (double)rounds) < 1e-9;
}

Test(hub_screen, shares_of_those_that_count_add_up_to_one_a_round) {
    struct tree *tree = make_tree("shares");
    struct tree_node *top = tree_hub(tree, "top", NULL, SITES);
    uint64_t rounds = 3;
    for (unsigned i = 0; i < SITES - 1; i++)
        make_spoke(tree, i, top);
    make_bad_spoke(tree, top);
    struct tier_plan plan = screened(rounds, 2);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);
    cr_assert(tree_until(top, shares_add_up, &rounds, 1000));
    tree_free(tree);
}

/* The region of the bad one screens it; the top sees a region like the others. */
Test(hub_screen, a_region_screens_its_own) {
    struct tree *tree = make_tree("region");
    struct tree_node *top = tree_hub(tree, "top", NULL, 3);
    struct tree_node *hub = tree_hub(tree, "hub-a", top, 4);
    uint64_t two = 2;
    for (unsigned i = 0; i < SITES - 1; i++)
        make_spoke(tree, i, i < 3 ? hub : top);
    make_bad_spoke(tree, hub);
    struct tier_plan plan = screened(4, 2);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);
    cr_assert(tree_until(hub, has_strikes, &two, 1000));
    cr_assert(eq(sz, in_quarantine(hub), 2));
    cr_assert(eq(sz, in_quarantine(top), 0));
    tree_free(tree);
}

Test(hub_screen, two_children_are_too_few_to_tell_and_both_count) {
    struct tree *tree = make_tree("two");
    struct tree_node *top = tree_hub(tree, "top", NULL, 2);
    make_spoke(tree, 0, top);
    make_bad_spoke(tree, top);
    struct tier_plan plan = screened(2, 1);
    struct tier_hash run = tree_run(top, &plan, EXAMPLE "/model.onnx");
    finish(top, &run);
    cr_assert(eq(sz, in_quarantine(top), 0));
    tree_free(tree);
}
