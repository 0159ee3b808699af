/* SPDX-License-Identifier: Apache-2.0 */
/* What noise costs: beside another accountant, beside the closed form, and what must hold. */
#include "support/tier_fixture.h"
#include "tier/privacy.h"

#include <math.h>

TestSuite(tier_privacy, .fini = fixture_down);

static const struct golden {
    struct tier_privacy_event event;
    double delta, rdp, pld;
} golden[] = {
#include "privacy_golden.inc"
};

static struct tier_privacy_cost cost(const struct tier_privacy_event *events, size_t count,
                                     double delta) {
    struct tier_privacy_cost c;
    MUST(tier_privacy_cost(events, count, delta, &c, err));
    return c;
}

/* Bounds about what the other accountant says, which rounds up on a grid of its own. */
static void is_about(const struct tier_privacy_cost *c, double rdp, double pld, size_t row) {
    CHECK(fabs(c->rdp / rdp - 1) < 0.002, "row %zu: rdp %.6f, not %.6f", row, c->rdp, rdp);
    CHECK(c->floor <= pld && c->floor > pld * 0.99, "row %zu: %.6f, %.6f", row, c->floor, pld);
    CHECK(c->tight >= pld * 0.9999 && c->tight < pld * 1.01, "row %zu: %.6f, %.6f", row, c->tight,
          pld);
    CHECK(c->tight <= c->rdp, "row %zu", row);
}

Test(tier_privacy, costs_are_those_of_another_accountant) {
    static const struct tier_privacy_event mixed[] = {
        {1.2, 0.02, 500}, {4, 1, 3}, {0.9, 0.005, 2000}};
    for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++) {
        struct tier_privacy_cost c = cost(&golden[i].event, 1, golden[i].delta);
        is_about(&c, golden[i].rdp, golden[i].pld, i);
    }
    struct tier_privacy_cost c = cost(mixed, 3, 1e-5);
    is_about(&c, MIXED_RDP, MIXED_PLD, 100);
}

/* Without sampling (Balle and Wang 2018): delta of n runs at noise s is that of one at s / sqrt n.
 */
static double gaussian_delta(double noise, uint64_t count, double epsilon) {
    double s = noise / sqrt((double)count), a = 1 / (2 * s), b = epsilon * s;
    return 0.5 * erfc((b - a) * M_SQRT1_2) - exp(epsilon) * 0.5 * erfc((b + a) * M_SQRT1_2);
}

Test(tier_privacy, the_bounds_hold_the_closed_form_between_them) {
    static const double noises[] = {0.7, 3, 40};
    static const uint64_t counts[] = {1, 7, 300};
    for (int i = 0; i < 9; i++) {
        const struct tier_privacy_event e = {noises[i % 3], 1, counts[i / 3]};
        struct tier_privacy_cost c = cost(&e, 1, 1e-6);
        if (!isfinite(c.tight)) {
            CHECK(gaussian_delta(e.noise, e.count, 0.9 * TIER_PRIVACY_EPSILON_MAX) > 1e-6);
            continue;
        }
        CHECK(gaussian_delta(e.noise, e.count, c.tight) <= 1e-6, "%d", i);
        CHECK(gaussian_delta(e.noise, e.count, c.floor) >= 1e-6, "%d", i);
    }
}

Test(tier_privacy, what_protects_less_costs_more) {
    const struct tier_privacy_event base = {1, 0.02, 400};
    struct tier_privacy_event e = base;
    double before = cost(&base, 1, 1e-5).tight;

    e.noise = 0.97;
    CHECK(cost(&e, 1, 1e-5).floor > before);
    e = base;
    e.rate = 0.021;
    CHECK(cost(&e, 1, 1e-5).floor > before);
    e = base;
    e.count = 440;
    CHECK(cost(&e, 1, 1e-5).floor > before);
    CHECK(cost(&base, 1, 1e-6).floor > before);
    /* However it is cut into events, and nothing is free. */
    const struct tier_privacy_event parts[] = {{1, 0.02, 150}, {1, 0.02, 1}, {1, 0.02, 249}};
    struct tier_privacy_cost whole = cost(&base, 1, 1e-5), cut = cost(parts, 3, 1e-5);
    CHECK(fabs(whole.rdp - cut.rdp) < 1e-9 && fabs(whole.tight - cut.tight) < 1e-6);
    CHECK(cost(NULL, 0, 1e-5).tight == 0);
}

Test(tier_privacy, the_least_noise_for_a_budget_is_enough_and_no_less_is) {
    static const struct {
        double epsilon, rate;
        uint64_t count;
    } budgets[] = {{3, 0.02, 500}, {0.5, 1, 4}, {8, 0.1, 100}, {100, 0.01, 1}};
    for (int i = 0; i < 4; i++) {
        double noise;
        MUST(tier_privacy_noise(budgets[i].epsilon, 1e-5, budgets[i].rate, budgets[i].count, &noise,
                                err));
        struct tier_privacy_event e = {noise, budgets[i].rate, budgets[i].count};
        CHECK(cost(&e, 1, 1e-5).tight <= budgets[i].epsilon, "%d: %.3f", i, noise);
        e.noise = noise - 0.0015;
        CHECK(e.noise < TIER_PRIVACY_NOISE_MIN ||
                  cost(&e, 1, 1e-5).tight > budgets[i].epsilon * 0.9999,
              "%d: %.3f", i, noise);
    }
}

/* One mechanism that must be refused with these words. */
#define REFUSES(words, event, delta)                                                               \
    REFUSED(TIER_EARG, words, tier_privacy_cost(&(event), 1, delta, &c, err))

Test(tier_privacy, what_is_out_of_range_is_refused_by_name) {
    const struct tier_privacy_event ok = {1, 0.1, 10};
    struct tier_privacy_event e = ok;
    struct tier_privacy_cost c;
    double noise;

    REFUSES("delta is 0", ok, 0);
    REFUSES("delta is 1", ok, 1);
    REFUSES("delta is nan", ok, NAN);
    e.noise = 0.05;
    REFUSES("the noise multiplier is 0.05", e, 1e-5);
    e.noise = NAN;
    REFUSES("the noise multiplier is nan", e, 1e-5);
    e = ok;
    e.rate = 0;
    REFUSES("the sampling rate is 0", e, 1e-5);
    e.rate = 1.5;
    REFUSES("the sampling rate is 1.5", e, 1e-5);
    e = ok;
    e.count = 0;
    REFUSES("a mechanism run 0 times", e, 1e-5);
    e.count = TIER_PRIVACY_COUNT_MAX + 1;
    REFUSES("a mechanism run 4294967297 times", e, 1e-5);
    REFUSED(TIER_EARG, "epsilon is 0", tier_privacy_noise(0, 1e-5, 0.1, 10, &noise, err));
    REFUSED(TIER_EPLAN, "no noise up to",
            tier_privacy_noise(0.01, 1e-9, 1, TIER_PRIVACY_COUNT_MAX, &noise, err));
    /* What protects nobody has no number. */
    e = (struct tier_privacy_event){TIER_PRIVACY_NOISE_MIN, 1, 1000};
    CHECK(isinf(cost(&e, 1, 1e-5).tight) && isinf(cost(&e, 1, 1e-5).rdp));
}

Test(tier_privacy, what_is_within_a_budget_is_decided_as_the_cost_is) {
    const struct tier_privacy_event e = {1.1, 0.01, 1000};
    struct tier_privacy_cost cost;
    struct tier_err err;
    double bound = 0;
    bool within = false;
    cr_assert(tier_privacy_cost(&e, 1, 1e-5, &cost, &err) == TIER_OK);
    /* Renyi accounting is enough; it is not, and the tight bound is; neither is. */
    cr_assert(tier_privacy_within(&e, 1, 1e-5, cost.rdp + 0.01, &within, &bound, &err) == TIER_OK);
    cr_expect(within && bound == cost.rdp);
    cr_assert(cost.tight < cost.rdp - 0.01);
    cr_assert(tier_privacy_within(&e, 1, 1e-5, cost.tight, &within, &bound, &err) == TIER_OK);
    cr_expect(within && bound == cost.tight);
    cr_assert(tier_privacy_within(&e, 1, 1e-5, cost.tight * 0.9, &within, &bound, &err) == TIER_OK);
    cr_expect(within == false && bound == cost.tight);
    cr_assert(tier_privacy_within(NULL, 0, 1e-5, 0, &within, &bound, &err) == TIER_OK);
    cr_expect(within && bound == 0);
    cr_expect(tier_privacy_within(&e, 1, 2, 1, &within, &bound, &err) == TIER_EARG);
}

/* Noise, runs, delta; rho as the fraction it is; epsilon by the closed form to 60 digits. */
Test(tier_privacy, concentrated_privacy_is_its_closed_form) {
    static const struct {
        double noise;
        uint64_t count;
        double delta, rho, epsilon;
    } exact[] = {
        {2, 8, 1e-5, 1.0 / 1.0, 7.07719669580634},
        {0.5, 1, 1e-3, 2.0 / 1.0, 8.41606429432128},
        {10, 100, 1e-6, 1.0 / 2.0, 5.22153444453017},
        {1.25, 3, 1e-8, 24.0 / 25.0, 8.77167356007859},
        {40, 7, 1e-10, 7.0 / 3200.0, 0.393640118817027},
        {1000, 1, 0.5, 1.0 / 2000000.0, 0},
    };
    struct tier_privacy_bound b, parts;
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
        const struct tier_privacy_event e = {exact[i].noise, 1, exact[i].count};
        MUST(tier_privacy_concentrated(&e, 1, exact[i].delta, &b, err));
        CHECK(fabs(b.rho / exact[i].rho - 1) < 1e-15, "row %zu: rho %.17g", i, b.rho);
        CHECK(fabs(b.epsilon - exact[i].epsilon) < 1e-12, "row %zu: %.15g", i, b.epsilon);
        /* Bun and Steinke's own, looser. */
        CHECK(b.epsilon <= b.rho + 2 * sqrt(-b.rho * log(exact[i].delta)));
    }
    /* It adds up, over plans as over rounds, and is never below the truth. */
    static const struct tier_privacy_event plans[] = {{2, 1, 3}, {4, 1, 12}, {1, 1, 1}};
    static const struct tier_privacy_event one = {1, 1, 1};
    MUST(tier_privacy_concentrated(plans, 3, 1e-5, &b, err));
    CHECK(fabs(b.rho - (3.0 / 8 + 12.0 / 32 + 0.5)) < 1e-15);
    CHECK(b.epsilon >= cost(plans, 3, 1e-5).floor);
    CHECK(b.epsilon <= cost(plans, 3, 1e-5).rdp * 1.0001);
    MUST(tier_privacy_concentrated(&one, 1, 1e-5, &parts, err));
    CHECK(parts.epsilon < b.epsilon);
    MUST(tier_privacy_concentrated(NULL, 0, 1e-5, &b, err));
    CHECK(b.rho == 0 && b.epsilon == 0);
    const struct tier_privacy_event much = {0.1, 1, 1000};
    MUST(tier_privacy_concentrated(&much, 1, 1e-5, &b, err));
    CHECK(isinf(b.epsilon));
    REFUSED(TIER_EARG, "noise multiplier",
            tier_privacy_concentrated(&(struct tier_privacy_event){0, 1, 1}, 1, 1e-5, &b, err));
}
