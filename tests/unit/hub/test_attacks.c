/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attack table as a test: twenty hospitals with real patients, a tenth to four tenths of them
 * attackers. A robust rule must keep the model useful at the worst of the late rounds; the mean
 * must be seen to fail, or the attacks would prove nothing.
 */
#include "tests/support/attacks.h"
#include "kernels/kern.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>

#define HOSPITALS 20
#define ROUNDS 10

static char work[64];
static struct attack_world *world;

static void set_up(void) {
    struct tier_err err = {0};
    snprintf(work, sizeof work, "/tmp/consilium-attacks-XXXXXX");
    cr_assert(mkdtemp(work) != NULL);
    cr_assert(eq(int, attack_world_new(work, CONSILIUM_SOURCE_DIR, HOSPITALS, &world, &err), 0),
              "%s", err.text);
}

static void tear_down(void) {
    char command[128];
    attack_world_free(world);
    snprintf(command, sizeof command, "rm -rf %s", work);
    cr_assert(system(command) == 0);
}

TestSuite(hub_attacks, .init = set_up, .fini = tear_down);

static struct attack_accuracy accuracy_of(struct tier_plan_merge merge, enum attack attack,
                                          size_t attackers) {
    struct attack_case c = {
        .merge = merge, .attack = attack, .attackers = attackers, .rounds = ROUNDS, .seed = 1};
    struct attack_accuracy a = {0};
    struct tier_err err = {0};
    if (c.merge.byzantine > 0)
        c.merge.byzantine = (double)attackers;
    cr_assert(eq(int, attack_run(world, &c, &a, &err), TIER_OK), "%s", err.text);
    return a;
}

/* At each share of attackers, the least accuracy that every attack must leave. */
static void stands(struct tier_plan_merge merge, const double floor_at[4]) {
    char cells[200];
    struct attack_accuracy calm = accuracy_of(merge, ATTACK_NONE, 0);
    cr_assert(ge(dbl, calm.low, 0.94), "without attackers");
    for (int attack = ATTACK_NONE + 1; attack < ATTACK_COUNT; attack++) {
        int used = 0;
#ifdef __SANITIZE_ADDRESS__
        for (size_t i = 3; i < 4; i++) {
#else
        for (size_t i = 0; i < 4; i++) {
#endif
            struct attack_accuracy a =
                accuracy_of(merge, (enum attack)attack, HOSPITALS * (i + 1) / 10);
            used += snprintf(cells + used, sizeof cells - (size_t)used, " %.3f", a.low);
            cr_expect(ge(dbl, a.low, floor_at[i]), "%s, %zu0 %%: %.3f",
                      attack_text((enum attack)attack), i + 1, a.low);
        }
        cr_log_info("%-16s %s:%s\n", tier_plan_rule_text(&merge), attack_text((enum attack)attack),
                    cells);
    }
}

static const double most[4] = {0.92, 0.92, 0.92, 0.90};

Test(hub_attacks, the_mean_stands_while_nobody_attacks_and_falls_when_some_do) {
    const struct tier_plan_merge mean = {.rule.choice = TIER_PLAN_MEAN};
    cr_assert(ge(dbl, accuracy_of(mean, ATTACK_NONE, 0).low, 0.94));
    cr_assert(le(dbl, accuracy_of(mean, ATTACK_SCALED, 4).low, 0.6));
    cr_assert(le(dbl, accuracy_of(mean, ATTACK_INNER_PRODUCT, 8).low, 0.6));
}

Test(hub_attacks, the_median_stands) {
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_MEDIAN}, most);
}

Test(hub_attacks, the_trimmed_mean_stands) {
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_TRIMMED_MEAN, .byzantine = 0.2}, most);
}

/* At 40 % Krum has one honest neighbour to spare, and an update against the mean may be chosen. */
Test(hub_attacks, krum_stands) {
    const double at[4] = {0.90, 0.90, 0.90, 0.60};
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_KRUM, .byzantine = 0.2}, at);
}

Test(hub_attacks, multi_krum_stands) {
    const double at[4] = {0.92, 0.92, 0.92, 0.60};
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_MULTI_KRUM, .byzantine = 0.2}, at);
}

Test(hub_attacks, the_geometric_median_stands) {
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_GEOMETRIC_MEDIAN,
                                    .iterations = 64,
                                    .smoothing = 1e-6},
           most);
}

Test(hub_attacks, centred_clipping_stands) {
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_CENTRED_CLIPPING, .iterations = 3},
           most);
}

/* It bounds one attacker; four tenths pulling together it does not claim to withstand. */
Test(hub_attacks, the_norm_bound_stands_against_few) {
    const double at[4] = {0.92, 0.92, 0.90, 0.60};
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_NORM_BOUND}, at);
}

Test(hub_attacks, mixing_the_nearest_stands) {
    stands((struct tier_plan_merge){.rule.choice = TIER_PLAN_TRIMMED_MEAN,
                                    .mix = TIER_PLAN_MIX_NEAREST,
                                    .byzantine = 0.2},
           most);
}

/* A plain mean behind a screen, of whom a fifth attack. */
static struct attack_accuracy behind_screen(enum attack attack, size_t attackers) {
    struct attack_case c = {.screen = {.norm = 4, .cosine_distance = 1.2},
                            .attack = attack,
                            .attackers = attackers,
                            .rounds = ROUNDS,
                            .seed = 1};
    struct attack_accuracy a = {0};
    struct tier_err err = {0};
    cr_assert(eq(int, attack_run(world, &c, &a, &err), TIER_OK), "%s", err.text);
    cr_log_info("screen           %s %zu: %.3f, caught %zu, missed %zu, wronged %zu\n",
                attack_text(attack), attackers, a.low, a.caught, a.missed, a.wronged);
    cr_expect(ge(dbl, a.low, 0.94), "%s", attack_text(attack));
    /* Hospitals of 28 patients each: of 160 or 200 honest updates, at most one in a hundred. */
    cr_expect(le(sz, a.wronged, 2), "%s", attack_text(attack));
    return a;
}

/* Updates of an attacker that look like the honest ones' noise pass, and do as little harm. */
Test(hub_attacks, the_mean_stands_behind_a_screen_that_wrongs_hardly_anybody) {
    static const size_t caught_of_40[ATTACK_COUNT] = {[ATTACK_SIGN_FLIP] = 20,
                                                      [ATTACK_SCALED] = 38,
                                                      [ATTACK_RANDOM] = 30,
                                                      [ATTACK_LABEL_FLIP] = 38,
                                                      [ATTACK_INNER_PRODUCT] = 38};
    behind_screen(ATTACK_NONE, 0);
    for (int attack = ATTACK_NONE + 1; attack < ATTACK_COUNT; attack++) {
        struct attack_accuracy a = behind_screen((enum attack)attack, 4);
        cr_expect(ge(sz, a.caught, caught_of_40[attack]), "%s", attack_text((enum attack)attack));
    }
}
