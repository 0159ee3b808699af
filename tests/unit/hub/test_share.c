/* SPDX-License-Identifier: Apache-2.0 */
/* Trees whose hospitals keep tensors of their own, on the breast-cancer example: six tensors, of
 * which the head (fc3) or the biases stay. */
#include "tests/support/local_reference.h"
#include "tests/support/shapes.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

TestSuite(hub_share, .init = set_up, .fini = tear_down);

static struct tier_plan keep_plan(uint64_t rounds, const char *share, const char *keep) {
    struct tier_plan p = plan_of(rounds);
    if (share)
        tier_keys_list_add(&p.share, share, strlen(share));
    if (keep)
        tier_keys_list_add(&p.keep, keep, strlen(keep));
    return p;
}

/* Where a spoke's own tensors are, once the run has ended for it too. */
static void own_path(const struct tree_node *spoke, const struct tier_hash *run, char *path,
                     size_t bytes) {
    char hex[TIER_HASH_HEX];
    snprintf(path, bytes, "%s/private/%s.safetensors", tree_dir(spoke), tier_hash_hex(run, hex));
    for (int i = 0; i < 3000 && access(path, R_OK) != 0; i++)
        usleep(10000);
    cr_assert(access(path, R_OK) == 0, "%s", path);
}

static size_t files_in(const struct tree_node *spoke, const char *folder) {
    char path[512];
    size_t count = 0;
    snprintf(path, sizeof path, "%s/%s", tree_dir(spoke), folder);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        count += e->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return count;
}

static bool is_head(const char *name) {
    return strncmp(name, "fc3.", 4) == 0;
}
static bool is_bias(const char *name) {
    return strstr(name, ".bias") != NULL;
}

static void compare(const char *name, const struct tier_plan *plan, bool (*stays)(const char *)) {
    struct shape s = flat(name);
    struct tier_hash run = run_of(&s, plan, 0);
    struct tier_hash model = finish(s.top, &run);
    struct reference *r = reference_new(plan, stays);
    char own[512];

    for (uint64_t round = 1; round <= plan->rounds; round++)
        reference_round(r, round, NULL);
    struct tier_task_figures figures = reference_figures(r);
    cr_assert(epsilon_eq(dbl, last_figure(s.top, "accuracy"), figures.accuracy, 1e-12));
    cr_assert(epsilon_eq(dbl, last_figure(s.top, "loss"), figures.loss, 1e-9));
    size_t all = tier_graph_param_count(r->graph), kept = 0;
    for (size_t i = 0; i < all; i++)
        kept += stays(tier_graph_param(r->graph, i)->name);
    char *path = published(&s, &model);
    reference_equals(r, path, r->model, all - kept);
    free(path);
    for (size_t i = 0; i < SPOKES; i++) {
        own_path(s.node[i], &run, own, sizeof own);
        reference_equals(r, own, r->site[i].own, kept);
        for (size_t j = 0; j < i; j++)
            cr_assert(memcmp(r->site[i].own, r->site[j].own, r->elements * 4) != 0);
    }
    printf("%s: accuracy %.4f, loss %.4f\n", name, figures.accuracy, figures.loss);
    reference_free(r);
    tree_free(s.tree);
}

Test(hub_share, what_is_published_and_what_stays_is_what_the_reference_computes) {
    struct tier_plan head = keep_plan(6, NULL, "fc3.*"), bias = keep_plan(6, "fc*", "*.bias");
    compare("head", &head, is_head);
    compare("bias", &bias, is_bias);
}

struct outcome {
    struct tier_hash model, own[SPOKES];
};

static struct outcome outcome_of(struct shape *s, const struct tier_hash *run) {
    struct outcome o = {.model = finish(s->top, run)};
    char path[512];
    for (size_t i = 0; i < SPOKES; i++) {
        struct tier_model *m = NULL;
        float x[512];
        own_path(s->node[i], run, path, sizeof path);
        /* The run's id is in the file: its values are what must be the same. */
        cr_assert(tier_model_open(path, &m, NULL) == TIER_OK);
        cr_assert(le(u64, tier_model_elements(m), 512));
        cr_assert(tier_model_read(m, 0, tier_model_elements(m), x, NULL) == TIER_OK);
        tier_hash_data(x, tier_model_elements(m) * sizeof *x, &o.own[i]);
        tier_model_close(m);
        for (int k = 0; k < 3000 && files_in(s->node[i], "private") > 1; k++)
            usleep(10000); /* what it was made of goes next */
        cr_assert(eq(sz, files_in(s->node[i], "private"), 1));
    }
    return o;
}

static void same(const struct outcome *a, const struct outcome *b) {
    cr_assert(tier_hash_equal(&a->model, &b->model));
    for (size_t i = 0; i < SPOKES; i++)
        cr_assert(tier_hash_equal(&a->own[i], &b->own[i]), "spoke %zu", i);
}

static struct outcome stopped(struct shape *s, const struct tier_plan *plan, uint32_t seed) {
    struct tier_hash run = run_of(s, plan, seed);
    return outcome_of(s, &run);
}

Test(hub_share, any_shape_and_any_stops_leave_the_same_model_and_the_same_private_tensors) {
    struct tier_plan plan = keep_plan(40, NULL, "fc3.*");
    struct shape one = flat("flat"), two = deep("deep"), rough = deep("rough");
    struct outcome a = stopped(&one, &plan, 0), b = stopped(&two, &plan, 0);
    same(&a, &b);
    struct outcome c = stopped(&rough, &plan, 5);
    same(&a, &c);
    tree_free(one.tree);
    tree_free(two.tree);
    tree_free(rough.tree);
}

/* A run that stops on its figures ends with the model they are of: so do the tensors beside it. */
Test(hub_share, a_run_that_stops_early_leaves_the_tensors_of_its_last_model) {
    struct tier_plan plan = keep_plan(30, NULL, "fc3.*");
    struct shape s = flat("early");
    char own[512];
    plan.stop.metric = TIER_PLAN_ACCURACY;
    plan.stop.target = 0.95;
    plan.optimiser.lr = 0.005;
    struct tier_hash run = run_of(&s, &plan, 0);
    finish(s.top, &run);
    struct reference *r = reference_new(&plan, is_head);
    uint64_t round = 0;
    while (reference_figures(r).accuracy < plan.stop.target)
        reference_round(r, ++round, NULL);
    cr_assert(round > 1 && round < 30, "%llu", (unsigned long long)round);
    for (size_t i = 0; i < SPOKES; i++) {
        own_path(s.node[i], &run, own, sizeof own);
        reference_equals(r, own, r->site[i].own, 2);
    }
    cr_assert(eq(sz, files_in(s.node[0], "private"), 1));
    reference_free(r);
    tree_free(s.tree);
}
