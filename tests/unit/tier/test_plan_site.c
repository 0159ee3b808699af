/* SPDX-License-Identifier: Apache-2.0 */
/* A plan's `privacy.site`: what must be written, what has no room, and what must not stand beside
 * it.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/support/temp_file.h"
#include "tier/site.h"

#include <stdlib.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

TestSuite(tier_plan_site, .fini = temp_release);

#define SITE(more)                                                                                 \
    "privacy: {site: {clip: 1.0, noise: 4.0, delta: 1e-3, epsilon_max: 20.0" more "}}\n"
#define GOOD SITE(", honest_min: 4")
#define REST "weights: uniform\nevaluate: {every: 0}\n"
#define ROOM "exact: {clip: 64.0}\n"
#define ALL GOOD REST ROOM

static enum tier_status load(const char *local, const char *rest) {
    static char text[4096];
    const char *model = temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart-disease\npurpose: predict heart disease\nmodel: %s\n"
             "data: {contract: heart.v1}\nrounds: 10\nlocal:\n  loss: bce\n  batch: 32\n"
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

#define STEPS "  steps: 5\n"

Test(tier_plan_site, what_is_written_travels_and_comes_back) {
    char *text = NULL;
    size_t bytes;
    cr_assert(eq(int,
                 load(STEPS, SITE(", noise_at: top, adapt: {quantile: 0.5, rate: 0.2, noise: 5.0}")
                                 REST "exact: {clip: 128.0}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(tier_plan_canonical(&plan, &text, &bytes, NULL, &err) == TIER_OK);
    cr_assert(tier_plan_parse(text, bytes, &other, &err) == TIER_OK, "%s", err.text);
    cr_expect(eq(dbl, other.site.noise, 4));
    cr_expect(eq(int, other.site.at, TIER_PLAN_AT_TOP));
    cr_expect(eq(dbl, other.site.adapt.rate, 0.2));
    free(text);
}

Test(tier_plan_site, a_plan_that_says_nothing_has_none) {
    cr_assert(eq(int, load(STEPS, ""), TIER_OK), "%s", err.text);
    cr_expect(not(tier_site_on(&plan)));
    refused(STEPS, "privacy: {site: {noise: 1.0}}\n", "noise needs privacy.site.clip");
    refused(STEPS, "privacy: {site: {honest_min: 3}}\n", "honest_min needs privacy.site.clip");
    refused(STEPS, "privacy: {site: {noise_at: top}}\n", "noise_at needs privacy.site.clip");
    refused(STEPS, "privacy: {site: {adapt: {quantile: 0.5}}}\n", "needs privacy.site.clip");
}

Test(tier_plan_site, numbers_that_are_missing_or_contradict_each_other_are_refused) {
    cr_assert(eq(int, load(STEPS, ALL), TIER_OK), "%s", err.text);
    refused(STEPS, SITE("") REST ROOM, "honest_min must be at least 1");
    refused(STEPS, SITE(", honest_min: 2, noise_at: top") REST ROOM, "is for noise_at: spokes");
    refused(STEPS, SITE(", honest_min: 4, adapt: {rate: 0.2}") REST ROOM,
            "adapt.rate needs privacy.site.adapt.quantile");
    refused(STEPS, SITE(", honest_min: 4, adapt: {quantile: 0.5, noise: 1.0}") REST ROOM,
            "adapt.rate must be above 0");
    refused(STEPS, SITE(", honest_min: 4, adapt: {quantile: 0.5, rate: 0.2}") REST ROOM,
            "adapt.noise must be at least 0.1");
    refused(STEPS, "privacy: {site: {clip: 1.0, honest_min: 4, noise: 0.01}}\n" REST ROOM,
            "noise must be at least 0.1");
}

Test(tier_plan_site, a_plan_that_costs_more_than_it_says_is_refused_with_the_cost) {
    /* 10 rounds at noise 4: rho = 10 / 32. */
    refused(STEPS,
            "privacy: {site: {clip: 1.0, noise: 4.0, delta: 1e-3, epsilon_max: 2.0, honest_min: "
            "4}}\n" REST ROOM,
            "10 rounds cost a site 2.66");
}

Test(tier_plan_site, noise_that_has_no_room_or_is_too_coarse_is_refused_with_what_would_be_right) {
    /* Four sites' shares of 4 clips: 2 clips, and twelve of them beside one are 25: 2^26 is room.
     */
    refused(STEPS, GOOD REST "exact: {clip: 8.0}\n", "at least 64 would be right");
    cr_expect(eq(int, load(STEPS, GOOD REST "exact: {clip: 64.0}\n"), TIER_OK), "%s", err.text);
    refused(STEPS, GOOD REST "exact: {clip: 1e9}\n", "is too high for privacy.site");
    char proof[700];
    cr_assert(eq(int, load(STEPS, ALL), TIER_OK), "%s", err.text);
    tier_plan_proof(&plan, proof, sizeof proof);
    cr_expect(strstr(proof, "with privacy.site 16777216 + 12 deviations of 33554433, 419430412 <= "
                            "2^30") != NULL,
              "%s", proof);
}

Test(tier_plan_site, a_steward_reads_who_adds_the_noise) {
    char text[600];
    cr_assert(eq(int, load(STEPS, ALL), TIER_OK), "%s", err.text);
    tier_plan_sees(&plan, 0, text, sizeof text);
    cr_expect(strstr(text, "with noise of its own") != NULL, "%s", text);
    plan.site.at = TIER_PLAN_AT_TOP;
    tier_plan_sees(&plan, 0, text, sizeof text);
    cr_expect(strstr(text, "the top adds noise") != NULL, "%s", text);
}

Test(tier_plan_site, what_would_leave_a_site_besides_is_refused) {
    refused(STEPS, GOOD ROOM "evaluate: {every: 0}\n", "weights must be uniform");
    refused(STEPS, GOOD ROOM "weights: uniform\n", "evaluate.every must be 0");
    refused(STEPS, ALL "codec: {name: q8}\n", "codec.name must be f32");
    refused(STEPS, ALL "codec: {entropy: zstd}\n", "codec.entropy must be none");
    refused(STEPS "  scaffold: true\n", ALL, "local.scaffold must be false");
    refused("  epochs: 1\n  normalise: true\n  normalise_max: 100\n", ALL, "local.normalise");
    refused(STEPS "  curvature: {lambda: 1.0}\n", ALL, "local.curvature.lambda must be 0");
    refused(STEPS, GOOD REST "exact: {clip: 64.0, clips: [\"a=1.0\"]}\n", "exact.clips");
    refused(STEPS, GOOD REST "exact: {clip: 64.0, wide: [a]}\n", "exact.wide");
    refused(STEPS, ALL "tiers: {default: {merge: {rule: median}}}\n",
            "tiers.default.merge.rule must be mean");
    refused(STEPS, ALL "tiers: {hub: {sync: buffered, quorum: 2}}\n",
            "tiers.hub.sync must be rounds");
}

Test(tier_plan_site, what_is_made_of_the_noised_sum_and_noise_of_patients_are_taken) {
    cr_expect(eq(int,
                 load(STEPS "  prox_mu: 0.1\n", ALL "server: {optimiser: {name: adam, lr: 0.1}}\n"
                                                    "codec: {down: q8}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_expect(
        eq(int,
           load(STEPS, "privacy: {site: {clip: 1.0, noise: 4.0, delta: 1e-3, epsilon_max: 20.0, "
                       "honest_min: 4}, patient: {clip: 1.0, noise: 1.0, delta: 1e-5, "
                       "epsilon_max: 9.0}}\n" REST "exact: {clip: 64.0, saturate: true}\n"),
           TIER_OK),
        "%s", err.text);
}
