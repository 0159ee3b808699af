/* SPDX-License-Identifier: Apache-2.0 */
/* The one quadratic a hospital trains with, against the sum of the others' quadratics as the paper
 * writes it. */
#include "spoke/curvature.h"
#include "spoke/fisher.h"
#include "tests/support/onnx_writer.h"
#include "tests/support/temp_file.h"
#include "tier/fedcurv.h"
#include "tier/task.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SITES = 5, N = 400, BITS = 30, PULL_BITS = 26 };

/* Hospitals with Fisher information over nine decades, and what the root makes of it. */
struct world {
    double weight[SITES], total, theta[SITES][N];
    float start[N], fisher[SITES][N], pull[SITES][N], mean_fisher[N], mean_pull[N];
};

static struct world world;

static double drawn(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (double)(*state >> 11) / 9007199254740992.0;
}

static void make_world(size_t sites) {
    uint64_t state = 11;
    world.total = 0;
    for (size_t k = 0; k < N; k++) {
        world.start[k] = (float)(4 * drawn(&state) - 2);
        world.mean_fisher[k] = world.mean_pull[k] = 0;
    }
    for (size_t s = 0; s < sites; s++) {
        world.weight[s] = floor(10 + 1000 * drawn(&state));
        world.total += world.weight[s];
        for (size_t k = 0; k < N; k++) {
            double f = k % 40 == 7 ? 0 : pow(10, -8 * drawn(&state));
            double theta = (double)world.start[k] + 6 * drawn(&state) - 3;
            world.fisher[s][k] = (float)f;
            world.theta[s][k] = theta;
            world.pull[s][k] = (float)(f * (theta - (double)world.start[k]));
        }
    }
    for (size_t k = 0; k < N; k++) {
        double f = 0, p = 0;
        for (size_t s = 0; s < sites; s++) {
            f += world.weight[s] * rint(ldexp((double)world.fisher[s][k], BITS));
            p += world.weight[s] * rint(ldexp((double)world.pull[s][k], PULL_BITS));
        }
        world.mean_fisher[k] = (float)ldexp(f / world.total, -BITS);
        world.mean_pull[k] = (float)ldexp(p / world.total, -PULL_BITS);
    }
}

static struct spoke_curvature_sums sums_of(size_t s) {
    return (struct spoke_curvature_sums){.n = N,
                                         .fisher = world.mean_fisher,
                                         .pull = world.mean_pull,
                                         .own_fisher = world.fisher[s],
                                         .own_pull = world.pull[s],
                                         .share = world.weight[s] / world.total,
                                         .start = world.start,
                                         .reach = 4,
                                         .fisher_bits = BITS};
}

Test(spoke_curvature, the_pull_is_the_gradient_of_the_sum_over_the_others) {
    make_world(SITES);
    for (size_t s = 0; s < SITES; s++) {
        const struct spoke_curvature_sums sums = sums_of(s);
        float stiffness[N], centre[N];
        cr_assert(spoke_curvature_others(&sums, stiffness, centre));
        for (size_t k = 0; k < N; k++) {
            double at = (double)world.start[k] + 0.7, want = 0, scale = 0;
            for (size_t j = 0; j < SITES; j++) {
                double f = world.weight[j] / world.total * (double)world.fisher[j][k];
                want += j == s ? 0 : f * (at - world.theta[j][k]);
                scale += f * 8;
            }
            double got = (double)stiffness[k] * (at - (double)centre[k]);
            /* A unit of each scale, and float32. */
            cr_expect(lt(dbl, fabs(got - want), ldexp(2, -PULL_BITS) + 1e-6 * scale),
                      "site %zu, parameter %zu: %g, %g", s, k, got, want);
            cr_expect(stiffness[k] >= 0 && fabsf(centre[k] - world.start[k]) <= 4.0001f);
            cr_expect(k % 40 != 7 || stiffness[k] == 0, "nobody holds parameter %zu", k);
        }
    }
}

Test(spoke_curvature, alone_nothing_is_left) {
    float stiffness[N], centre[N];
    make_world(1);
    const struct spoke_curvature_sums sums = sums_of(0);
    cr_assert(spoke_curvature_others(&sums, stiffness, centre));
    /* Float32 of the mean is all that may stay: 2^-24 of it. */
    for (size_t k = 0; k < N; k++)
        cr_expect(stiffness[k] <= 1e-7f * world.fisher[0][k]);
}

Test(spoke_curvature, what_is_not_in_the_sums_is_not_taken_out_of_them) {
    float stiffness[N], centre[N], all[N], all_centre[N];
    make_world(SITES);
    struct spoke_curvature_sums sums = sums_of(0), none = sums;
    none.own_fisher = none.own_pull = NULL;
    cr_assert(spoke_curvature_others(&none, all, all_centre));
    /* Sums of the others alone, as after a round that went on without this hospital. */
    double rest = world.total - world.weight[0];
    for (size_t k = 0; k < N; k++) {
        double f = 0;
        for (size_t s = 1; s < SITES; s++)
            f += world.weight[s] * (double)world.fisher[s][k];
        world.mean_fisher[k] = (float)(f / rest);
    }
    sums.share = world.weight[0] / rest;
    cr_assert(not(spoke_curvature_others(&sums, stiffness, centre)));
    for (size_t k = 0; k < N; k++)
        cr_expect(world.mean_fisher[k] <= ldexpf(1, -BITS) ? stiffness[k] == 0
                                                           : stiffness[k] == world.mean_fisher[k]);
    sums = sums_of(1);
    sums.share = 1.5;
    cr_assert(not(spoke_curvature_others(&sums, stiffness, centre)));
    sums.share = NAN;
    cr_assert(not(spoke_curvature_others(&sums, stiffness, centre)));
}

Test(spoke_curvature, sums_below_zero_are_no_curvature) {
    float stiffness[N], centre[N];
    make_world(SITES);
    for (size_t k = 0; k < N; k++)
        world.mean_fisher[k] = -1;
    struct spoke_curvature_sums sums = sums_of(0);
    sums.own_fisher = sums.own_pull = NULL;
    cr_assert(spoke_curvature_others(&sums, stiffness, centre));
    for (size_t k = 0; k < N; k++)
        cr_expect(stiffness[k] == 0 && centre[k] == world.start[k]);
}

/* ---- a round's ---- */

static struct tier_err err;
static struct kern_device *dev;
static struct tier_graph *graph;
static struct spoke_net *net;
static struct spoke_data *data;
static struct tier_manifest *manifest;
static struct tier_plan plan;

/* w[2] and b, of which the plan keeps b. */
static void set_up(double fisher_clip, bool saturate) {
    static struct onnx_msg g, m;
    static const float w[] = {0.5f, -0.25f, 0.125f};
    static const char schema[] = "columns:\n  - {name: a, type: number}\n"
                                 "  - {name: b, type: number}\n"
                                 "  - {name: t, type: target, categories: [lo, hi]}\n"
                                 "  - {name: s, type: split}\nsplit: {by: column}\n";
    char csv[4096];
    size_t at = (size_t)snprintf(csv, sizeof csv, "a,b,t,s\n");
    for (int i = 0; i < 60; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "%.6f,%.6f,%s,%s\n", 2 * sin(i * 1.3),
                               0.1 * cos(i * 2.1), i % 5 < 2 ? "hi" : "lo", "train");
    g.n = 0;
    onnx_add_value(&g, 11, "x", 0, 2);
    onnx_add_value(&g, 12, "y", 0, 1);
    onnx_add_tensor(&g, "w", 2, 1, w);
    onnx_add_tensor(&g, "b", 1, 0, w + 2);
    onnx_add_node(&g, "Gemm", "x w b", "z");
    onnx_add_node(&g, "Sigmoid", "z", "y");
    onnx_model(&m, &g, 13);
    plan = (struct tier_plan){
        .clip = 0.5, .frac_bits = 31, .rounds = 4, .saturate = saturate, .batch = 8};
    plan.curvature.lambda = 3;
    plan.curvature.clip = fisher_clip;
    tier_keys_list_add(&plan.keep, "b", strlen("b"));
    kern_init(NULL);
    cr_assert(eq(int, kern_device_open("cpu", 1, &dev), KERN_OK));
    cr_assert(eq(int, tier_graph_parse(m.b, m.n, &graph, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_net_new(dev, graph, SPOKE_LOSS_BCE, 8, &net, &err), TIER_OK));
    cr_assert(
        eq(int,
           spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), NULL, &data, &err),
           TIER_OK),
        "%s", err.text);
    cr_assert(eq(int, tier_task_manifest(&plan, graph, &manifest, &err), TIER_OK), "%s", err.text);
}

static void tear_down(void) {
    tier_manifest_free(manifest);
    spoke_data_free(data);
    spoke_net_free(net);
    tier_graph_free(graph);
    kern_device_close(dev);
    temp_release();
}

TestSuite(spoke_curvature_round, .fini = tear_down);

Test(spoke_curvature_round, an_update_carries_what_differs_from_the_base_models_sums) {
    static const float ended[] = {1, -0.5f, 7}, delta[] = {0.25f, -0.25f};
    float sums[] = {0.5f, 0.25f, 0.125f, 0.0625f}, fisher[3];
    struct spoke_curvature c;
    set_up(4, false);
    cr_assert(eq(int, spoke_curvature_init(&c, &plan, graph, manifest, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_set(net, (float *)ended, &err), TIER_OK));
    cr_assert(eq(int, spoke_fisher(net, data, 0, 9, fisher, &err), TIER_OK));
    cr_assert(eq(int, spoke_curvature_after(&c, net, data, 9, delta, sums, &err), TIER_OK), "%s",
              err.text);
    /* The graph has w at 0.5 and -0.25; b stays. */
    cr_expect(c.own[0] == fisher[0] && c.own[1] == fisher[1]);
    cr_expect(c.own[2] == 0.5f * fisher[0] && c.own[3] == -0.25f * fisher[1]);
    cr_expect(sums[0] == fisher[0] - 0.5f && sums[1] == fisher[1] - 0.25f);
    cr_expect(sums[2] == c.own[2] - 0.125f && sums[3] == c.own[3] - 0.0625f);
    spoke_curvature_release(&c);
}

Test(spoke_curvature_round, a_value_beyond_the_clip_is_refused_by_name_or_cut) {
    static const float delta[] = {0.75f, 0};
    float sums[4] = {0}, at_end[] = {1.25f, -0.25f, 0.125f};
    struct spoke_curvature c;
    set_up(0.1, false);
    cr_assert(eq(int, spoke_curvature_init(&c, &plan, graph, manifest, &err), TIER_OK));
    cr_expect(eq(int, spoke_curvature_after(&c, net, data, 9, delta, sums, &err), TIER_EUPDATE));
    cr_expect(strstr(err.text, "tensor fedcurv/fisher/w, element 0 is ") != NULL, "%s", err.text);
    cr_expect(strstr(err.text, "at most 0.125, by local.curvature.clip") != NULL, "%s", err.text);
    spoke_curvature_release(&c);
    tear_down();
    set_up(0.1, true);
    cr_assert(eq(int, spoke_curvature_init(&c, &plan, graph, manifest, &err), TIER_OK));
    cr_assert(eq(int, spoke_net_set(net, at_end, &err), TIER_OK));
    cr_assert(eq(int, spoke_curvature_after(&c, net, data, 9, delta, sums, &err), TIER_OK), "%s",
              err.text);
    /* The change of 0.75 counts as 0.5. */
    cr_expect(c.own[0] == 0.125f && c.own[2] == 0.125f * 0.5f);
    cr_expect(c.own[1] < 0.125f && c.own[3] == 0 && c.cut == 1);
    spoke_curvature_release(&c);
}

Test(spoke_curvature_round, the_recipe_has_a_pull_where_others_have_one_and_else_none) {
    static const float sums[] = {0.5f, 0, 0.25f, 0}, nothing[4];
    struct spoke_recipe recipe = {0};
    struct spoke_curvature c;
    set_up(1, false);
    cr_assert(eq(int, spoke_curvature_init(&c, &plan, graph, manifest, &err), TIER_OK));
    spoke_curvature_before(&c, nothing, false, 0, &recipe);
    cr_expect(recipe.stiffness == NULL && recipe.centre == NULL && recipe.lambda == 0);
    spoke_curvature_before(&c, sums, false, 0, &recipe);
    cr_assert(recipe.stiffness != NULL);
    cr_expect(recipe.lambda == 3 && recipe.stiffness[0] == 0.5f && recipe.centre[0] == 1);
    cr_expect(recipe.stiffness[1] == 0 && recipe.stiffness[2] == 0, "b stays, and has none");
    spoke_curvature_release(&c);
    /* This hospital's half of the mean is all of it. */
    recipe = (struct spoke_recipe){0};
    cr_assert(eq(int, spoke_curvature_init(&c, &plan, graph, manifest, &err), TIER_OK));
    c.own[0] = 1;
    c.own[1] = c.own[3] = 0;
    c.own[2] = 0.5f;
    spoke_curvature_before(&c, sums, true, 0.5, &recipe);
    cr_expect(recipe.stiffness == NULL);
    spoke_curvature_release(&c);
}
