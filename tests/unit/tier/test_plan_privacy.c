/* SPDX-License-Identifier: Apache-2.0 */
/* A plan's `privacy`: what may stand beside it, what must not, and what it costs. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/support/temp_file.h"
#include "tier/budget.h"

#include <stdlib.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

TestSuite(tier_plan_privacy, .fini = temp_release);

#define GOOD "privacy:\n  patient: {clip: 1.5, noise: 1.1, delta: 1e-5, epsilon_max: 4.0}\n"
#define STEPS "  steps: 5\n"
#define REST "weights: uniform\nevaluate: {every: 0}\nexact: {saturate: true}\n"

/* A plan whose `local` ends in these lines, and that goes on with these. */
static enum tier_status load(const char *local, const char *rest) {
    static char text[4096];
    const char *model = temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart-disease\npurpose: predict heart disease\nmodel: %s\n"
             "data: {contract: heart.v1}\nrounds: 10\nlocal:\n  batch: 32\n"
             "  optimiser: {name: sgd, lr: 0.1}\n%s%s",
             strrchr(model, '/') + 1, local, rest);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

static void refused(const char *local, const char *rest, const char *why) {
    bool found = false;
    cr_expect(eq(int, load(local, rest), TIER_EPLAN), "%s%s", local, rest);
    for (size_t i = 0; i < problems.count; i++)
        found = found || strstr(problems.item[i].text, why);
    cr_expect(found, "%s%s: %s", local, rest, problems.item[0].text);
}

#define BCE "  loss: bce\n"

static void good(void) {
    cr_assert(eq(int, load(BCE STEPS, GOOD REST), TIER_OK), "%s", err.text);
}

Test(tier_plan_privacy, a_plan_that_says_nothing_has_none) {
    cr_assert(eq(int, load(BCE STEPS, ""), TIER_OK), "%s", err.text);
    cr_expect(not(tier_budget_patient(&plan)));
    cr_expect(eq(dbl, plan.patient.noise, 0));
    cr_expect(eq(dbl, plan.patient.epsilon_max, 0));
}

Test(tier_plan_privacy, what_is_written_travels_and_comes_back) {
    char *text = NULL;
    size_t bytes;
    good();
    cr_expect(tier_budget_patient(&plan));
    cr_assert(tier_plan_canonical(&plan, &text, &bytes, NULL, &err) == TIER_OK);
    cr_expect(strstr(text, "\"privacy\":{\"patient\":{\"clip\":1.5,\"delta\":1.0000000000000001e-5,"
                           "\"epsilon_max\":4.0,\"noise\":1.1") != NULL);
    cr_assert(tier_plan_parse(text, bytes, &other, &err) == TIER_OK, "%s", err.text);
    cr_expect(eq(dbl, other.patient.clip, 1.5));
    cr_expect(eq(dbl, other.patient.delta, 1e-5));
    free(text);
}

Test(tier_plan_privacy, numbers_without_a_clip_or_out_of_bounds_are_refused) {
    refused(BCE STEPS, "privacy: {patient: {noise: 1.0}}\n" REST, "privacy.patient.clip");
    refused(BCE STEPS, "privacy: {patient: {delta: 1e-5}}\n" REST, "privacy.patient.clip");
    refused(BCE STEPS, "privacy: {patient: {epsilon_max: 1.0}}\n" REST, "privacy.patient.clip");
    refused(BCE STEPS,
            "privacy: {patient: {clip: 1.0, noise: 0.05, delta: 1e-5, epsilon_max: 1.0}}\n" REST,
            "noise must be at least 0.1");
    refused(BCE STEPS,
            "privacy: {patient: {clip: 1.0, noise: 1.0, delta: 1e-12, epsilon_max: 1.0}}\n" REST,
            "delta must be");
    refused(BCE STEPS, "privacy: {patient: {clip: 1.0, noise: 1.0, delta: 1e-5}}\n" REST,
            "epsilon_max must be above 0");
    refused(BCE STEPS, "privacy: {patient: {clip: -1.0}}\n" REST, "privacy.patient.clip");
    refused(BCE "  steps: 1000000000\n", GOOD REST, "times rounds must be at most 4294967296");
}

Test(tier_plan_privacy, what_would_leave_a_hospital_without_noise_is_refused) {
    refused(BCE STEPS, GOOD "evaluate: {every: 0}\n", "weights must be uniform");
    refused(BCE STEPS, GOOD "weights: uniform\n", "evaluate.every must be 0");
    refused(BCE STEPS, GOOD "weights: uniform\n", "exact.saturate must be true");
    refused(BCE STEPS "  precision: f16\n", GOOD REST, "local.precision must be f32");
    refused(BCE STEPS "  precision: bf16\n", GOOD REST, "local.precision must be f32");
    refused(BCE STEPS "  precision: tf32\n", GOOD REST, "local.precision must be f32");
    refused(BCE STEPS "  curvature: {lambda: 1.0}\n", GOOD REST,
            "Fisher information is of the rows");
}

Test(tier_plan_privacy, what_makes_rows_depend_on_each_other_is_refused) {
    refused(BCE "  epochs: 2\n", GOOD REST, "must be local.steps");
    refused("  loss: cox\n" STEPS, GOOD REST, "must not be cox");
    refused("  loss: dice\n  dice: {batch: true}\n" STEPS, GOOD REST, "local.dice.batch");
    good();
}

Test(tier_plan_privacy, what_follows_from_noised_gradients_alone_is_taken) {
    cr_assert(eq(int,
                 load(BCE STEPS "  prox_mu: 0.1\n  ema: 0.9\n  clip_norm: 3.0\n",
                      GOOD REST "codec: {name: q8, error_feedback: true}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, load(BCE STEPS "  scaffold: true\n", GOOD REST), TIER_OK), "%s", err.text);
}

Test(tier_plan_privacy, a_sample_is_the_steps_batches_or_all_rows) {
    good();
    plan.accumulate = 2;
    cr_expect(eq(u64, tier_budget_sample(&plan, 1000), 64));
    cr_expect(eq(u64, tier_budget_sample(&plan, 40), 40));
    struct tier_privacy_event e = tier_budget_patient_event(&plan, 256, 3);
    cr_expect(eq(dbl, e.rate, 0.25));
    cr_expect(eq(u64, e.count, 15));
    cr_expect(eq(dbl, e.noise, 1.1));
    e = tier_budget_patient_event(&plan, 40, 1);
    cr_expect(eq(dbl, e.rate, 1));
}

Test(tier_plan_privacy, the_cost_is_the_accountants_and_falls_with_the_rows) {
    struct tier_privacy_cost small, large, direct;
    good();
    struct tier_privacy_event e = {1.1, 32.0 / 1000, 50};
    cr_assert(tier_budget_patient_cost(&plan, 1000, &large, &err) == TIER_OK);
    cr_assert(tier_budget_patient_cost(&plan, 100, &small, &err) == TIER_OK);
    cr_assert(tier_privacy_cost(&e, 1, 1e-5, &direct, &err) == TIER_OK);
    cr_expect(eq(dbl, large.tight, direct.tight));
    cr_expect(lt(dbl, large.tight, small.tight));
}
