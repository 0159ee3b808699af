/* SPDX-License-Identifier: Apache-2.0 */
/* What `mode` sets, what `untrusted` promises, and that THREATS.md says the same. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "support/temp_file.h"
#include "tier/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

#define DP "privacy: {patient: {clip: 1.0, noise: 1.0, delta: 1e-5, epsilon_max: 8.0}}\n"
#define SITE                                                                                       \
    "privacy: {site: {clip: 1.0, noise: 4.0, delta: 0.001, epsilon_max: 9.0, honest_min: 5}}\n"    \
    "exact: {clip: 64.0}\n"
#define SAFE "mode: untrusted\n" DP "secure: {norm_max: 2.0}\n"
#define OPEN "mode: untrusted\nexceptions: [privacy]\nsecure: {norm_max: 2.0}\n"

static enum tier_status load(const char *lines) {
    char text[4096];
    temp_file("model.onnx", "not looked into here");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart\npurpose: research\nmodel: model.onnx\n"
             "data: {contract: heart.v1}\n"
             "local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, steps: 5}\n"
             "rounds: %d\n%s",
             strstr(lines, "statistics") ? 1 : 3, lines);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

static void refused(const char *lines, const char *why) {
    cr_assert(eq(int, load(lines), TIER_EPLAN), "%s", lines);
    for (size_t i = 0; i < problems.count; i++)
        if (strstr(problems.item[i].text, why))
            return;
    cr_expect(false, "%s: not '%s', but %s", lines, why, err.text);
}

static const char *value_of(const char *path, char text[64]) {
    size_t count;
    const struct tier_keys_item *keys = tier_plan_keys(&count);
    return tier_keys_text(&keys[tier_keys_find(keys, count, path)], &plan, text, 64);
}

TestSuite(tier_plan_mode, .fini = temp_release);

Test(tier_plan_mode, a_plan_that_says_nothing_is_trusted_and_has_every_keys_own_default) {
    const struct tier_plan_mode_key *key;
    char text[64];

    cr_assert(eq(int, load(""), TIER_OK), "%s", err.text);
    cr_expect(eq(int, plan.mode, TIER_PLAN_TRUSTED));
    for (size_t i = 0; (key = tier_plan_mode_key(i)) != NULL; i++)
        cr_expect(eq(str, (char *)value_of(key->path, text), (char *)key->trusted), "%s",
                  key->path);
    cr_assert(eq(int, load("mode: trusted\n"), TIER_OK), "%s", err.text);
    cr_expect(eq(int, plan.mode, TIER_PLAN_TRUSTED));
}

Test(tier_plan_mode, untrusted_sets_what_the_plan_leaves_open) {
    const struct tier_plan_mode_key *key;
    char text[64];
    size_t n = 0;

    cr_assert(eq(int, load(SAFE), TIER_OK), "%s", err.text);
    for (; (key = tier_plan_mode_key(n)) != NULL; n++)
        cr_expect(eq(str, (char *)value_of(key->path, text), (char *)key->untrusted), "%s",
                  key->path);
    cr_expect(eq(sz, n, 6));
    cr_expect(eq(int, plan.secure.sums, TIER_PLAN_SECURE_REGION));
    cr_expect(eq(u64, plan.secure.cohort_min, 5));
    cr_expect(eq(int, plan.secure.lost, TIER_PLAN_LOST_SKIP));
    cr_expect(eq(int, plan.weights, TIER_PLAN_UNIFORM));
    cr_expect(eq(u64, plan.evaluate_every, 0));
    cr_expect(plan.saturate);
}

Test(tier_plan_mode, what_the_plan_writes_stands) {
    cr_assert(eq(int,
                 load("mode: untrusted\nexceptions: [privacy]\nevaluate: {every: 2}\n"
                      "secure: {cohort_min: 3, lost_round: end, norm_max: 1.0}\n"
                      "exact: {saturate: false}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_expect(eq(u64, plan.secure.cohort_min, 3));
    cr_expect(eq(int, plan.secure.lost, TIER_PLAN_LOST_END));
    cr_expect(eq(u64, plan.evaluate_every, 2));
    cr_expect(not(plan.saturate));
}

Test(tier_plan_mode, the_mode_its_exceptions_and_what_it_set_travel) {
    char *text = NULL;
    size_t bytes = 0;

    cr_assert(eq(int, load(OPEN), TIER_OK), "%s", err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_expect(strstr(text, "\"mode\":\"untrusted\"") != NULL, "%s", text);
    cr_expect(strstr(text, "\"exceptions\":[\"privacy\"]") != NULL, "%s", text);
    cr_expect(strstr(text, "\"sums\":\"region\"") != NULL, "%s", text);
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(int, other.mode, TIER_PLAN_UNTRUSTED));
    cr_expect(tier_plan_excepts(&other, "privacy") && !tier_plan_excepts(&other, "weights"));
    /* Whoever sends it cannot keep the word and change what it stands for. */
    char *sums = strstr(text, "\"sums\":\"region\"");
    memmove(sums + 13, sums + 15, strlen(sums + 15) + 1);
    memcpy(sums, "\"sums\":\"none\"", 13);
    cr_expect(eq(int, tier_plan_parse(text, strlen(text), &other, &err), TIER_EPLAN));
    cr_expect(strstr(err.text, "secure.sums") != NULL, "%s", err.text);
    free(text);
}

Test(tier_plan_mode, what_would_break_the_promise_is_refused_with_the_reason) {
    refused(OPEN "weights: samples\n", "behind masks a hospital may claim any weight");
    refused("mode: untrusted\nexceptions: [privacy]\n"
            "secure: {sums: none, norm_max: 2.0}\n",
            "would lie open to its parent");
    refused("mode: untrusted\nexceptions: [privacy]\nsecure: {cohort_min: 2, norm_max: 2.0}\n",
            "by taking its own out of the sum");
    refused("mode: untrusted\nsecure: {norm_max: 2.0}\n", "must have patient or site");
    refused("mode: untrusted\n" DP, "no rule looks behind masks");
    refused(SAFE "tiers: {hub: {merge: {rule: median}, retain: updates}}\n", "must be mean");
    refused(SAFE "tiers: {top: {screen: {norm: 4.0}}}\n", "secure.sums hides it");
    refused("mode: untrusted\nexceptions: [secure.norm_max]\n"
            "privacy: {site: {clip: 1.0, noise: 4.0, delta: 0.001, epsilon_max: 9.0, "
            "noise_at: top}}\nexact: {clip: 64.0}\n",
            "sees the sum without it");
    refused("mode: careful\n", "mode");
}

Test(tier_plan_mode, an_exception_is_written_out_and_needed) {
    cr_assert(eq(int, load(OPEN), TIER_OK), "%s", err.text);
    cr_assert(eq(int,
                 load("mode: untrusted\nexceptions: [privacy, weights, secure.norm_max]\n"
                      "weights: samples\n"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, load("mode: untrusted\nexceptions: [secure.norm_max]\n" SITE), TIER_OK), "%s",
              err.text);
    cr_assert(eq(int,
                 load("mode: untrusted\nexceptions: [secure.norm_max, privacy.site.noise_at]\n"
                      "privacy: {site: {clip: 1.0, noise: 4.0, delta: 0.001, epsilon_max: 9.0, "
                      "noise_at: top}}\nexact: {clip: 128.0}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int,
                 load("mode: untrusted\nexceptions: [privacy]\n"
                      "statistics: {columns: [\"sex=2\"]}\n"),
                 TIER_OK),
              "counts train nothing that one who lies could move: %s", err.text);
    refused("mode: untrusted\nexceptions: [privacy]\n" DP "secure: {norm_max: 2.0}\n",
            "lists privacy, which this plan keeps");
    refused("mode: untrusted\nexceptions: [privacy, privacy]\nsecure: {norm_max: 2.0}\n",
            "lists 'privacy' twice");
    refused("mode: untrusted\nexceptions: [privacy, secure.sums]\nsecure: {norm_max: 2.0}\n",
            "not 'secure.sums'");
    refused("exceptions: [privacy]\n", "are for mode: untrusted");
}

/* The table that people read has the values that plans get. */
Test(tier_plan_mode, the_page_of_threats_has_every_key_with_both_values) {
    const struct tier_plan_mode_key *key;
    static char page[200000];
    char row[200];
    FILE *f = fopen(CONSILIUM_SOURCE_DIR "/tier/THREATS.md", "r");

    cr_assert(f != NULL);
    size_t n = fread(page, 1, sizeof page - 1, f);
    fclose(f);
    page[n] = '\0';
    for (size_t i = 0; (key = tier_plan_mode_key(i)) != NULL; i++) {
        snprintf(row, sizeof row, "| `%s` | `%s` | `%s` |", key->path, key->trusted,
                 key->untrusted);
        cr_expect(strstr(page, row) != NULL, "%s", row);
    }
}
