/* SPDX-License-Identifier: Apache-2.0 */
/* Shapley's axioms, on games whose values are known. */
#include "tier/shapley.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <string.h>

#define MOST 64

/* v(S) = (sum of a over S)^2, and nothing else comes of it: player i has a_i * sum of all a. */
struct game {
    double a[MOST];
    size_t count, added; /* in all */
    double sum;
    bool refuses;
};

static double begin(void *arg) {
    struct game *g = arg;
    g->sum = 0;
    return 0;
}

static enum tier_status add(void *arg, size_t player, double *utility_out, struct tier_err *err) {
    struct game *g = arg;
    if (g->refuses)
        return tier_fail(err, TIER_EIO, "no utility today");
    g->added++;
    g->sum += g->a[player];
    *utility_out = g->sum * g->sum;
    return TIER_OK;
}

static struct game game_of(size_t n) {
    struct game g = {.count = n};
    for (size_t i = 0; i < n; i++)
        g.a[i] = (double)(i % 5) + 0.5;
    return g;
}

static bool play(struct game *g, size_t permutations, double tolerance, const char *seed,
                 struct tier_shapley_value *out) {
    const struct tier_utility u = {.count = g->count, .arg = g, .begin = begin, .add = add};
    struct tier_shapley s = {.permutations = permutations, .tolerance = tolerance};
    struct tier_err err = {0};
    bool exact = false;
    tier_hash_data(seed, strlen(seed), &s.seed);
    cr_assert(eq(int, tier_shapley_run(&u, &s, out, &exact, &err), TIER_OK), "%s", err.text);
    return exact;
}

static double total(const struct game *g) {
    double sum = 0;
    for (size_t i = 0; i < g->count; i++)
        sum += g->a[i];
    return sum;
}

Test(tier_shapley, few_players_have_their_exact_values) {
    struct tier_shapley_value v[MOST];
    for (size_t n = 1; n <= TIER_SHAPLEY_EXACT_MAX; n++) {
        struct game g = game_of(n);
        double all = total(&g);
        cr_assert(play(&g, 0, 0, "any", v));
        for (size_t i = 0; i < n; i++) {
            cr_assert(epsilon_eq(dbl, v[i].value, g.a[i] * all, 1e-9 * all * all));
            cr_assert(eq(dbl, v[i].error, 0));
        }
    }
}

/* A standard error that means something: the truth lies within four of it, and it shrinks as it
 * should. */
Test(tier_shapley, many_players_have_values_within_their_error_which_add_up) {
    struct tier_shapley_value few[MOST], many[MOST];
    struct game g = game_of(40);
    double all = total(&g), sum = 0, ratio = 0;
    cr_assert(not(play(&g, 50, 0, "run", few)));
    cr_assert(not(play(&g, 5000, 0, "run", many)));
    for (size_t i = 0; i < 40; i++) {
        sum += few[i].value;
        ratio += few[i].error / many[i].error / 40;
        cr_assert(gt(dbl, few[i].error, 0));
        cr_assert(le(dbl, fabs(few[i].value - g.a[i] * all), 4 * few[i].error), "%zu", i);
        cr_assert(le(dbl, fabs(many[i].value - g.a[i] * all), 4 * many[i].error), "%zu", i);
    }
    cr_assert(epsilon_eq(dbl, sum, all * all, 1e-9 * all * all));
    cr_assert(ge(dbl, ratio, 7));
    cr_assert(le(dbl, ratio, 14)); /* sqrt(100) */
}

Test(tier_shapley, one_seed_gives_the_same_bits_and_another_gives_others) {
    struct tier_shapley_value one[MOST], same[MOST], other[MOST];
    struct game g = game_of(20);
    play(&g, 10, 0, "run 1", one);
    play(&g, 10, 0, "run 1", same);
    play(&g, 10, 0, "run 2", other);
    cr_assert(eq(int, memcmp(one, same, 20 * sizeof *one), 0));
    cr_assert(ne(int, memcmp(one, other, 20 * sizeof *one), 0));
}

Test(tier_shapley, equal_players_have_equal_values_and_a_null_player_has_none) {
    struct tier_shapley_value v[MOST];
    struct game g = game_of(8), h = game_of(30);
    g.a[3] = g.a[6] = 2;
    g.a[5] = 0;
    cr_assert(play(&g, 0, 0, "any", v));
    cr_assert(epsilon_eq(dbl, v[3].value, v[6].value, 1e-12));
    cr_assert(eq(dbl, v[5].value, 0));
    h.a[7] = 0;
    play(&h, 20, 0, "any", v);
    cr_assert(eq(dbl, v[7].value, 0));
    cr_assert(eq(dbl, v[7].error, 0));
}

Test(tier_shapley, orders_are_cut_where_what_is_left_is_within_the_tolerance) {
    struct tier_shapley_value v[MOST];
    struct game g = game_of(30);
    double all = total(&g), sum = 0;
    for (size_t i = 10; i < 30; i++)
        g.a[i] = 1e-3; /* most of the players hardly matter */
    all = total(&g);
    play(&g, 200, 0.2 * all * all, "any", v);
    cr_assert(lt(sz, g.added, 200 * 30 * 95 / 100));
    for (size_t i = 0; i < 30; i++)
        sum += v[i].value;
    cr_assert(ge(dbl, sum, 0.8 * all * all));
    cr_assert(le(dbl, sum, all * all * (1 + 1e-12)));
}

Test(tier_shapley, too_few_orders_and_a_utility_that_fails_are_errors) {
    struct tier_shapley_value v[MOST];
    struct game g = game_of(20);
    const struct tier_utility u = {.count = 20, .arg = &g, .begin = begin, .add = add};
    struct tier_shapley s = {.permutations = 1};
    struct tier_err err = {0};
    cr_assert(eq(int, tier_shapley_run(&u, &s, v, NULL, &err), TIER_EARG));
    cr_assert(strstr(err.text, "a standard error takes two") != NULL);
    s.permutations = 2;
    g.refuses = true;
    cr_assert(eq(int, tier_shapley_run(&u, &s, v, NULL, &err), TIER_EIO));
}
