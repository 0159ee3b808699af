/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/nova.h"
#include "tier/task.h"

#include <math.h>

TestSuite(tier_nova, .init = fixture_up, .fini = fixture_down);

static struct tier_plan plan_of(double momentum, bool nesterov, double mu, uint64_t steps) {
    struct tier_plan p = {.normalise = true, .steps = steps, .prox_mu = mu};
    p.optimiser.lr = 0.1;
    p.optimiser.momentum = momentum;
    p.optimiser.nesterov = nesterov;
    return p;
}

/* The steps themselves, for gradients of 1: how far they go in units of lr, which is the sum of the
 * weights with which each entered. */
static double walked(const struct tier_plan *p, uint64_t steps) {
    double at = 0, v = 0;
    for (uint64_t i = 0; i < steps; i++) {
        double g = 1 - p->optimiser.lr * p->prox_mu * at;
        v = p->optimiser.momentum * v + g;
        at += p->optimiser.nesterov ? g + p->optimiser.momentum * v : v;
    }
    return at;
}

Test(tier_nova, effective_steps_are_those_that_walking_them_gives) {
    static const struct {
        double momentum;
        bool nesterov;
        double mu;
    } cases[] = {{0, false, 0},   {0.9, false, 0}, {0.5, false, 0},  {0.99, false, 0},
                 {0.9, true, 0},  {0.3, true, 0},  {0, false, 0.01}, {0, false, 1},
                 {0, false, 9.9}, {0, false, 1e-9}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (uint64_t n = 1; n <= 3000; n = n < 20 ? n + 1 : n * 3 / 2) {
            struct tier_plan p = plan_of(cases[i].momentum, cases[i].nesterov, cases[i].mu, n);
            double want = walked(&p, n), got = tier_nova_tau(&p, n);
            CHECK(fabs(got / want - 1) < 1e-6, "case %zu, %d steps: %.9g, walked %.9g", i, (int)n,
                  got, want);
            CHECK(tier_nova_units(&p, n) >= TIER_NOVA_ONE);
            CHECK(tier_nova_bound(&p) == tier_nova_units(&p, n), "steps are their own bound");
        }
}

static enum tier_status check(const struct tier_plan *p, uint64_t weight, int64_t value,
                              struct tier_err *err_out) {
    struct tier_metrics *m = tier_metrics_new();
    struct tier_update_header h = {.weight = weight, .metrics = m};
    if (value)
        MUST(tier_metrics_add(m, TIER_NOVA_METRIC, 1, &value, err));
    MUST(tier_task_metrics_check(m, err));
    enum tier_status st = tier_nova_check(p, &h, err_out);
    if (st == TIER_OK && weight && value)
        CHECK(tier_nova_effective(&h) == (double)value / (double)weight / TIER_NOVA_ONE);
    tier_metrics_free(m);
    return st;
}

Test(tier_nova, a_child_claims_no_more_than_the_plan_allows_and_no_less_than_a_step) {
    struct tier_plan p = plan_of(0, false, 0, 10), plain = p;
    int64_t one = TIER_NOVA_ONE;
    plain.normalise = false;
    MUST(check(&p, 7, 7 * 10 * one, err));
    MUST(check(&p, 7, 7 * one, err));
    MUST(check(&p, 0, 0, err));
    MUST(check(&plain, 7, 0, err));
    REFUSED(TIER_EUPDATE, "1 to 10 effective steps are the plan's",
            check(&p, 7, 7 * 10 * one + 1, err));
    REFUSED(TIER_EUPDATE, "effective steps are the plan's", check(&p, 7, 7 * one - 1, err));
    REFUSED(TIER_EUPDATE, "effective steps are the plan's", check(&p, 7, -1, err));
    REFUSED(TIER_EUPDATE, "does not say its effective steps", check(&p, 7, 0, err));
    REFUSED(TIER_EUPDATE, "is for an update that has weight", check(&p, 0, one, err));
    REFUSED(TIER_EUPDATE, "is for a plan with local.normalise", check(&plain, 7, 70 * one, err));
    /* By epochs the plan says the bound; the largest of both still fits. */
    p.steps = 0;
    p.normalise_max = TIER_NOVA_STEPS_MAX;
    int64_t most = (int64_t)(TIER_WEIGHT_TOTAL_MAX * TIER_NOVA_STEPS_MAX * TIER_NOVA_ONE);
    CHECK(most == INT64_C(1) << 62);
    MUST(check(&p, TIER_WEIGHT_TOTAL_MAX, most, err));
    REFUSED(TIER_EUPDATE, "effective steps are", check(&p, TIER_WEIGHT_TOTAL_MAX, most + 1, err));
}

Test(tier_nova, two_bins_are_refused) {
    struct tier_plan p = plan_of(0, false, 0, 10);
    struct tier_metrics *m = tier_metrics_new();
    struct tier_update_header h = {.weight = 1, .metrics = m};
    int64_t two[] = {TIER_NOVA_ONE, TIER_NOVA_ONE};
    MUST(tier_metrics_add(m, TIER_NOVA_METRIC, 2, two, err));
    REFUSED(TIER_EUPDATE, "metric nova_tau of 1 bin would be right", tier_nova_check(&p, &h, err));
    tier_metrics_free(m);
}
