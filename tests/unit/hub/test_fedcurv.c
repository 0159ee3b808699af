/* SPDX-License-Identifier: Apache-2.0 */
/* FedCurv in trees: the bits of an independent computation, any shape and any stops, a hospital
 * that misses rounds, and what it does where each hospital knows one class alone. */
#include "tests/support/local_reference.h"
#include "tests/support/shapes.h"

TestSuite(hub_fedcurv, .init = set_up, .fini = tear_down);

static struct tier_plan fedcurv_plan(uint64_t rounds) {
    struct tier_plan p = plan_of(rounds);
    p.curvature.lambda = 20;
    p.curvature.clip = 0.5;
    return p;
}

static bool is_head(const char *name) {
    return strncmp(name, "fc3.", 4) == 0;
}

static void compare(const char *name, const struct tier_plan *plan, bool (*stays)(const char *)) {
    struct shape s = flat(name);
    struct tier_hash run = run_of(&s, plan, 0), model = finish(s.top, &run);
    struct reference *r = reference_new(plan, stays);
    struct tier_plan plain = *plan;
    plain.curvature.lambda = 0;
    struct reference *averaged = reference_new(&plain, stays);
    for (uint64_t round = 1; round <= plan->rounds; round++) {
        reference_round(r, round, NULL);
        reference_round(averaged, round, NULL);
        /* The sums begin at zero: the first round is plain averaging. */
        bool equal = memcmp(r->model, averaged->model, r->elements * sizeof(float)) == 0;
        cr_assert(eq(int, equal, round == 1), "round %d", (int)round);
    }
    char *path = published(&s, &model);
    reference_equals(r, path, r->model, 3 * (stays ? 4 : 6));
    free(path);
    reference_free(r);
    reference_free(averaged);
    tree_free(s.tree);
}

Test(hub_fedcurv, what_is_published_is_what_the_reference_computes) {
    struct tier_plan plan = fedcurv_plan(5), head = fedcurv_plan(5);
    compare("all", &plan, NULL);
    tier_keys_list_add(&head.keep, "fc3.*", strlen("fc3.*"));
    head.curvature.rows = 9;
    compare("head", &head, is_head);
}

Test(hub_fedcurv, a_lambda_of_zero_publishes_the_bits_of_plain_averaging) {
    struct tier_plan off = fedcurv_plan(5), plain = plan_of(5);
    off.curvature.lambda = 0;
    struct shape s = flat("off");
    struct tier_hash run = run_of(&s, &off, 0), model = finish(s.top, &run);
    struct reference *r = reference_new(&plain, NULL);
    for (uint64_t round = 1; round <= plain.rounds; round++)
        reference_round(r, round, NULL);
    char *path = published(&s, &model);
    reference_equals(r, path, r->model, 6);
    free(path);
    reference_free(r);
    tree_free(s.tree);
}

Test(hub_fedcurv, any_shape_and_any_stops_publish_the_same_bits) {
    struct tier_plan plan = fedcurv_plan(30);
    struct tier_hash one = model_of(flat("flat"), &plan, 0), two = model_of(deep("deep"), &plan, 0);
    struct tier_hash rough = model_of(deep("rough"), &plan, 7);
    struct tier_hash again = model_of(deep("again"), &plan, 8);
    cr_assert(tier_hash_equal(&one, &two));
    cr_assert(tier_hash_equal(&one, &rough));
    cr_assert(tier_hash_equal(&one, &again));
}

/* ---- what it is for ---- */

/* The ill are at the first two hospitals, the healthy at the other two. */
static void part_tables(void) {
    char command[1024];
    snprintf(command, sizeof command,
             "cd %s/tables && mkdir all && mv *.csv all && awk -F, '"
             "FNR == 1 { if (NR == 1) for (s = 0; s < 4; s++) print > name(s); next } "
             "{ ill = $NF == \"malignant\"; print > name(2 * !ill + n[ill]++ %% 2) } "
             "function name(s) { return s < 3 ? \"north-\" (s + 1) \".csv\" : \"centre-1.csv\" }' "
             "all/*.csv",
             work);
    cr_assert(system(command) == 0);
}

struct forgetting {
    double drift;         /* mean distance of what a hospital trained to what was published */
    double local_loss;    /* of what each hospital trained, on the patients of all */
    double loss;          /* of what was published */
    double local_correct; /* accuracies of both */
    double correct;
};

static struct forgetting look(struct reference *r) {
    struct tier_task_figures all = reference_figures(r);
    struct forgetting f = {.loss = all.loss, .correct = all.accuracy};
    float *published_model = r->model;
    for (size_t s = 0; s < REFERENCE_SITES; s++) {
        double square = 0;
        for (size_t i = 0; i < r->elements; i++)
            square += pow((double)(r->site[s].ended[i] - published_model[i]), 2);
        r->model = r->site[s].ended;
        struct tier_task_figures own = reference_figures(r);
        f.drift += sqrt(square) / REFERENCE_SITES;
        f.local_loss += own.loss / REFERENCE_SITES;
        f.local_correct += own.accuracy / REFERENCE_SITES;
    }
    r->model = published_model;
    return f;
}

/*
 * FedProx keeps hospitals near what was published, whatever it is, and pays for it; FedCurv keeps
 * them near what the others need.
 */
Test(hub_fedcurv, hospitals_with_one_class_each_forget_the_other_less) {
    enum { ROUNDS = 10, WAYS = 3 };
    static const char *const names[WAYS] = {"averaging", "FedProx", "FedCurv"};
    struct reference *r[WAYS];
    part_tables();
    struct tier_plan plan = plan_of(ROUNDS), plain;
    plan.steps = 60;
    plan.clip = 2;
    plan.frac_bits = 29;
    plan.curvature.lambda = 300;
    plan.curvature.clip = 0.0625;
    plain = plan;
    plain.curvature.lambda = 0;
    r[0] = reference_new(&plain, NULL);
    plain.prox_mu = 0.1;
    r[1] = reference_new(&plain, NULL);
    r[2] = reference_new(&plan, NULL);
    printf("round            published: loss, accuracy   as trained: distance, loss, accuracy\n");
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        struct forgetting f[WAYS];
        for (int w = 0; w < WAYS; w++) {
            reference_round(r[w], round, NULL);
            f[w] = look(r[w]);
            if (round <= 3 || round % 5 == 0)
                printf("%5d %-9s %16.4f %9.4f %22.4f %8.4f %8.4f\n", (int)round, names[w],
                       f[w].loss, f[w].correct, f[w].drift, f[w].local_loss, f[w].local_correct);
        }
        if (round == 1)
            continue;
        cr_assert(lt(dbl, f[2].loss, f[0].loss));
        cr_assert(lt(dbl, f[2].drift, 0.96 * f[0].drift));
        cr_assert(lt(dbl, f[2].local_loss, 0.92 * f[0].local_loss));
        cr_assert(gt(dbl, f[1].loss, f[0].loss));
    }

    /* And a tree publishes these very numbers. */
    struct shape s = deep("parted");
    struct tier_hash run = run_of(&s, &plan, 0), model = finish(s.top, &run);
    char *path = published(&s, &model);
    reference_equals(r[2], path, r[2]->model, 18);
    free(path);
    for (int w = 0; w < WAYS; w++)
        reference_free(r[w]);
    tree_free(s.tree);
}

/* ---- rounds without one ---- */

static bool past_round(struct hub *hub, void *arg) {
    return hub->runs->state != HUB_RUN_OPEN || hub->runs->round.number >= *(uint64_t *)arg;
}

Test(hub_fedcurv, a_hospital_that_missed_rounds_takes_nothing_out_of_sums_it_is_not_in) {
    struct tier_plan plan = fedcurv_plan(40);
    struct tier_model *m = NULL;
    uint64_t third = 3, eighth = 8;
    plan.top.quorum = (struct tier_quorum){.kind = TIER_QUORUM_COUNT, .count = 3};
    struct shape s = flat("missed");
    struct tier_hash run = run_of(&s, &plan, 0);
    cr_assert(tree_until(s.top, past_round, &third, TIMEOUT_MS));
    tree_stop(s.node[1]);
    cr_assert(tree_until(s.top, past_round, &eighth, TIMEOUT_MS));
    tree_start(s.node[1]);
    struct tier_hash model = finish(s.top, &run);
    char *path = published(&s, &model);
    cr_assert(tier_model_open(path, &m, NULL) == TIER_OK);
    size_t count;
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    cr_assert(eq(sz, count, 18));
    for (size_t k = 6; k < 12; k++) {
        float *fisher = malloc(t[k].count * sizeof *fisher);
        cr_assert(tier_model_read(m, t[k].at, t[k].count, fisher, NULL) == TIER_OK);
        for (size_t i = 0; i < t[k].count; i++)
            cr_assert(fisher[i] > -1e-6f && fisher[i] <= 0.5f, "%s[%zu]", t[k].name, i);
        free(fisher);
    }
    cr_assert(gt(dbl, last_figure(s.top, "accuracy"), 0.9));
    tier_model_close(m);
    free(path);
    tree_free(s.tree);
}
