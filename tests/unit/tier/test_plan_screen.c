/* SPDX-License-Identifier: Apache-2.0 */
/* A plan's screens and contributions: what may be written, what it becomes, what is refused. */
#include "support/temp_file.h"
#include "tier/screen.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

static enum tier_status load(const char *rest) {
    char text[2000];
    temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart\npurpose: tests\nmodel: model.onnx\ndata: {contract: heart}\n"
             "rounds: 3\n%s\n",
             rest);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

#define LOCAL "local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1}\n"

TestSuite(tier_plan_screen, .fini = temp_release);

Test(tier_plan_screen, a_plan_that_says_nothing_screens_nobody) {
    cr_assert(eq(int, load(LOCAL), TIER_OK), "%s", err.text);
    cr_assert(eq(int, tier_screen_on(&plan.top.screen), 0));
    cr_assert(eq(u64, plan.top.screen.strikes, 0));
    cr_assert(eq(u64, plan.hub.contribution.permutations, 0));
    cr_assert(eq(int, tier_plan_looks_at_updates(&plan.hub), 0));
    cr_assert(eq(int, plan.hub.retain, TIER_PLAN_RETAIN_SUMS));
}

Test(tier_plan_screen, a_screen_keeps_updates_and_three_strikes_and_travels) {
    char *text;
    size_t bytes;
    cr_assert(eq(int,
                 load(LOCAL "tiers: {default: {screen: {norm: 4.0}}, "
                            "top: {screen: {cosine_distance: 1.2, strikes: 5}}, "
                            "hub: {contribution: {permutations: 50}}}"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(dbl, plan.top.screen.norm, 4));
    cr_assert(eq(dbl, plan.top.screen.cosine_distance, 1.2));
    cr_assert(eq(u64, plan.top.screen.strikes, 5));
    cr_assert(eq(u64, plan.hub.screen.strikes, 3));
    cr_assert(eq(int, plan.hub.retain, TIER_PLAN_RETAIN_UPDATES));
    cr_assert(eq(int, tier_plan_hides_updates(&plan, true) == NULL, 1));
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, memcmp(&other.top.screen, &plan.top.screen, sizeof plan.top.screen), 0));
    cr_assert(eq(u64, other.hub.contribution.permutations, 50));
    free(text);
}

Test(tier_plan_screen, contributions_alone_keep_updates_too) {
    cr_assert(eq(int, load(LOCAL "tiers: {top: {contribution: {permutations: 100}}}"), TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, plan.top.retain, TIER_PLAN_RETAIN_UPDATES));
    cr_assert(eq(int, plan.hub.retain, TIER_PLAN_RETAIN_SUMS));
}

Test(tier_plan_screen, stewards_read_that_updates_are_screened_and_weighed_up) {
    char text[512];
    cr_assert(eq(int,
                 load(LOCAL "tiers: {top: {screen: {norm: 4.0}, contribution: "
                            "{permutations: 100}}}"),
                 TIER_OK),
              "%s", err.text);
    tier_plan_sees(&plan, 2, text, sizeof text);
    cr_assert(strstr(text, "quarantine") != NULL, "%s", text);
    cr_assert(strstr(text, "how much each of them contributed") != NULL, "%s", text);
    tier_plan_sees(&plan, 1, text, sizeof text);
    cr_assert(strstr(text, "quarantine") == NULL, "%s", text);
}

Test(tier_plan_screen, what_does_not_belong_together_is_refused_where_it_is_written) {
    static const struct {
        const char *rest, *why;
    } cases[] = {
        {LOCAL "tiers: {top: {screen: {norm: 0.5}}}",
         "plan.yaml:8: tiers.top.screen.norm must be at least 1"},
        {LOCAL "tiers: {top: {screen: {norm: -1.0}}}", "tiers.top.screen.norm must be"},
        {LOCAL "tiers: {top: {screen: {cosine_distance: 2.5}}}",
         "tiers.top.screen.cosine_distance must be"},
        {LOCAL "tiers: {top: {screen: {strikes: 2}}}",
         "tiers.top.screen.strikes needs screen.norm, screen.cosine_distance or screen.loss"},
        {LOCAL "tiers: {top: {retain: sums, screen: {norm: 3.0}}}",
         "tiers.top.screen.norm needs each child's own update until the commit, and retain: sums"},
        {LOCAL "tiers: {hub: {retain: sums, contribution: {permutations: 10}}}",
         "tiers.hub.contribution.permutations needs each child's own update"},
        {LOCAL "tiers: {default: {screen: {cosine_distance: 1.0}, sync: buffered, quorum: 3}}",
         "tiers.default.screen.cosine_distance compares updates of one model"},
        {LOCAL "tiers: {top: {contribution: {permutations: 10}, sync: buffered, quorum: 3}}",
         "tiers.top.contribution.permutations compares updates of one model"},
        {LOCAL "codec: {entropy: zstd}\ntiers: {top: {screen: {norm: 3.0}}}",
         "codec.entropy must be none where a tier merges by another rule than the mean, screens"},
        {LOCAL "keep: [\"head.*\"]\ntiers: {top: {screen: {loss: 2.0}}}",
         "tiers.top.screen.loss needs whole models"},
        {LOCAL "tiers: {hub: {retain: sums, screen: {loss: 2.0}}}",
         "tiers.hub.screen.loss needs each child's own update"},
        {"local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1, scaffold: true}"
         "\ntiers: {top: {screen: {norm: 3.0}}}",
         "with local.scaffold an update holds numbers of another scale"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool found = false;
        cr_assert(eq(int, load(cases[i].rest), TIER_EPLAN), "%s", cases[i].rest);
        for (size_t k = 0; k < problems.count; k++)
            found = found || strstr(problems.item[k].text, cases[i].why);
        cr_assert(found, "'%s' is not in '%s'", cases[i].why, problems.item[0].text);
    }
}

/* The same checks where the plan arrives. */
Test(tier_plan_screen, a_plan_that_arrives_with_a_screen_and_sums_is_refused) {
    char *text;
    size_t bytes;
    cr_assert(eq(int, load(LOCAL "tiers: {top: {screen: {norm: 4.0}}}"), TIER_OK), "%s", err.text);
    plan.top.retain = TIER_PLAN_RETAIN_SUMS;
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_EPLAN));
    free(text);
}
