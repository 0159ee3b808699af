/* SPDX-License-Identifier: Apache-2.0 */
/* What `secure` says in a plan, and what does not go with it. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "support/temp_file.h"
#include "tier/plan.h"
#include "tier/task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

static enum tier_status load(const char *lines) {
    char text[4096];
    temp_file("model.onnx", "not looked into here");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart\npurpose: research\nmodel: model.onnx\n"
             "data: {contract: heart.v1}\n"
             "local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, %s}\n"
             "rounds: 3\n%s",
             strstr(lines, "epochs")     ? "epochs: 2, normalise: true, normalise_max: 9"
             : strstr(lines, "scaffold") ? "steps: 5, scaffold: true"
                                         : "steps: 5",
             strstr(lines, "epochs") || strstr(lines, "scaffold") ? strchr(lines, '\n') + 1
                                                                  : lines);
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

#define NARROW "weights: uniform\nexact: {weight_total_max: 100}\n"

TestSuite(tier_plan_secure, .fini = temp_release);

Test(tier_plan_secure, a_plan_that_says_nothing_hides_nothing) {
    char line[700];

    cr_assert(eq(int, load(""), TIER_OK), "%s", err.text);
    cr_assert(eq(int, plan.secure.sums, TIER_PLAN_SECURE_NONE));
    tier_plan_sees(&plan, 1, line, sizeof line);
    cr_assert(strstr(line, "the update of each of its children by name") != NULL, "%s", line);
    cr_assert(eq(int, tier_task_encoding_check(&plan, TIER_ENC_MASKED, false, &err), TIER_EUPDATE));
    cr_assert(eq(int, tier_task_encoding_check(&plan, TIER_ENC_F32, false, &err), TIER_OK));
}

Test(tier_plan_secure, all_of_it_travels_and_the_tiers_see_sums_alone) {
    char *text = NULL, line[700];
    size_t bytes = 0;

    cr_assert(eq(int,
                 load("secure: {sums: region, cohort_min: 4, threshold: 0.75, step_s: 9, "
                      "lost_round: skip, norm_max: 2.5, bits: 32}\n" NARROW),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    free(text);
    cr_assert(eq(int, other.secure.sums, TIER_PLAN_SECURE_REGION));
    cr_assert(eq(u64, other.secure.cohort_min, 4));
    cr_assert(eq(u64, other.secure.step_s, 9));
    cr_assert(other.secure.threshold > 0.749 && other.secure.threshold < 0.751);
    cr_assert(eq(int, other.secure.lost, TIER_PLAN_LOST_SKIP));
    cr_assert(eq(int, other.secure.bits, TIER_PLAN_BITS_32));
    cr_assert(other.secure.norm_max > 2.4 && other.secure.norm_max < 2.6);
    for (size_t i = 0; tier_plan_sees(&other, i, line, sizeof line); i++)
        cr_assert(strstr(line, "by name") == NULL, "%s", line);
    tier_plan_sees(&other, 1, line, sizeof line);
    cr_assert(strstr(line, "at least 4 spokes") != NULL, "%s", line);
    tier_plan_sees(&other, 0, line, sizeof line);
    cr_assert(strstr(line, "behind masks") != NULL, "%s", line);
}

Test(tier_plan_secure, sites_know_each_other_under_pseudonyms_unless_the_plan_says_otherwise) {
    char *text = NULL, line[700];
    size_t bytes = 0;

    cr_assert(eq(int, load("secure: {sums: region}\n"), TIER_OK), "%s", err.text);
    cr_assert(plan.secure.pseudonyms);
    tier_plan_sees(&plan, 4, line, sizeof line);
    cr_assert(strstr(line, "a pseudonym of this run, and no name") != NULL, "%s", line);
    cr_assert(eq(int, load("secure: {sums: region, pseudonyms: false}\n"), TIER_OK), "%s",
              err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    free(text);
    cr_assert(not(other.secure.pseudonyms));
    tier_plan_sees(&other, 4, line, sizeof line);
    cr_assert(strstr(line, "the names of those in the sum") != NULL, "%s", line);
}

Test(tier_plan_secure, masked_updates_and_sums_of_hubs_are_taken_and_nothing_in_the_open) {
    cr_assert(eq(int, load("secure: {sums: region}\n"), TIER_OK), "%s", err.text);
    cr_assert(eq(u64, plan.secure.cohort_min, 3));
    for (int e = TIER_ENC_F32; e <= TIER_ENC_MASKED32; e++)
        cr_assert(eq(int, tier_task_encoding_check(&plan, (enum tier_encoding)e, false, &err),
                     e == TIER_ENC_MASKED || e == TIER_ENC_SUM ? TIER_OK : TIER_EUPDATE),
                  "encoding %d", e);
    cr_assert(eq(int, load("secure: {sums: region, bits: 32}\n" NARROW), TIER_OK), "%s", err.text);
    for (int e = TIER_ENC_F32; e <= TIER_ENC_MASKED32; e++)
        cr_assert(eq(int, tier_task_encoding_check(&plan, (enum tier_encoding)e, false, &err),
                     e == TIER_ENC_MASKED32 || e == TIER_ENC_SUM ? TIER_OK : TIER_EUPDATE),
                  "encoding %d", e);
}

Test(tier_plan_secure, numbers_that_would_hide_nothing_are_refused) {
    refused("secure: {sums: region, cohort_min: 1}\n", "a sum over one hospital is its update");
    refused("secure: {sums: region, cohort_min: 102}\n", "secure.cohort_min");
    refused("secure: {sums: region, threshold: 0.5}\n", "must be above 0.5");
    refused("secure: {sums: region, threshold: 1.5}\n", "secure.threshold");
    refused("secure: {sums: region, step_s: 0}\n", "must be at least 1");
    refused("secure: {sums: region, norm_max: 1e-21}\n", "at least 1e-20");
    refused("secure: {norm_max: 2.0}\n", "is for secure.sums: region");
    refused("secure: {pseudonyms: false}\n", "is for secure.sums: region");
}

Test(tier_plan_secure, what_looks_at_one_update_is_refused_by_name) {
    refused("secure: {sums: region}\ntiers: {hub: {merge: {rule: krum}, retain: updates}}\n",
            "must be mean");
    refused("secure: {sums: region}\ntiers: {top: {merge: {rule: norm_bound}, retain: updates}}\n",
            "must be mean");
    refused("secure: {sums: region}\ntiers: {top: {retain: updates}}\n", "must be sums");
    refused("secure: {sums: region}\ntiers: {hub: {sync: buffered, quorum: 3}}\n",
            "must be rounds");
    refused("secure: {sums: region, cohort_min: 4}\ntiers: {hub: {quorum: 3}}\n",
            "fewer than secure.cohort_min");
    refused("secure: {sums: region}\ncodec: {name: q8}\n", "must be f32 with secure.sums");
    refused("secure: {sums: region}\ncodec: {name: top_k}\n", "must be f32 with secure.sums");
    refused("secure: {sums: region}\ncodec: {entropy: zstd}\n", "must be none with secure.sums");
    refused("epochs\nsecure: {sums: region}\n", "must be false with secure.sums");
    refused("scaffold\nsecure: {sums: region, norm_max: 2.0}\n", "must be 0 with local.scaffold");
    cr_expect(eq(int, load("scaffold\nsecure: {sums: region}\n"), TIER_OK), "%s", err.text);
    refused("secure: {sums: region, norm_max: 2.0}\nprivacy: {site: {clip: 1.0, noise: 1.0}}\n",
            "must be 0 with privacy.site");
    refused("secure: {sums: region}\ntiers: {hub: {screen: {norm: 4.0}}}\n",
            "secure.sums hides it");
}

Test(tier_plan_secure, what_goes_by_sums_alone_is_allowed) {
    cr_expect(eq(int, load("secure: {sums: region}\nserver: {optimiser: {name: adam, lr: 0.1}}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_expect(eq(int, load("secure: {sums: region}\ncodec: {down: bf16}\n"), TIER_OK), "%s",
              err.text);
    cr_expect(eq(int, load("secure: {sums: region, cohort_min: 3}\ntiers: {hub: {quorum: 3}}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_expect(eq(int, load("secure: {sums: region}\nweights: uniform\nexact: {saturate: true}\n"),
                 TIER_OK),
              "%s", err.text);
}

Test(tier_plan_secure, keys_of_a_sum_that_is_none_are_refused_where_they_stand) {
    refused("secure: {cohort_min: 4}\n", "is for secure.sums: region");
    cr_expect(strstr(err.text, "plan.yaml:8") != NULL, "%s", err.text);
}

/* ---- 32 bits ---- */

Test(tier_plan_secure, in_32_bits_a_plan_proves_that_its_sums_fit) {
    char proof[600];

    cr_assert(eq(int, load("secure: {sums: region, bits: 32}\n" NARROW), TIER_OK), "%s", err.text);
    tier_plan_proof(&plan, proof, sizeof proof);
    cr_assert(strstr(proof, "whole 2^7 has |r| <= 2^23; so |R| = |sum of r| <= 100 * 2^23 = "
                            "838860800 <= 2^30 < 2^31") != NULL,
              "%s", proof);
    /* Its visible twin rounds the same and says the same. */
    cr_assert(eq(int, load("secure: {bits: 32}\n" NARROW), TIER_OK), "%s", err.text);
    tier_plan_proof(&plan, proof, sizeof proof);
    cr_assert(strstr(proof, "|R| = |sum of r| <= 100 * 2^23") != NULL, "%s", proof);
    cr_assert(eq(int, load("secure: {sums: region}\n" NARROW), TIER_OK), "%s", err.text);
    tier_plan_proof(&plan, proof, sizeof proof);
    cr_assert(strstr(proof, "32 bits") == NULL, "%s", proof);
}

Test(tier_plan_secure, what_does_not_fit_32_bits_is_refused_with_what_would) {
    const char *sums[] = {"secure: {sums: region, bits: 32}\n", "secure: {bits: 32}\n"};
    char lines[400];

    for (size_t i = 0; i < 2; i++) {
        const struct {
            const char *rest, *why;
        } bad[] = {
            {"exact: {weight_total_max: 100}\n", "32 needs weights: uniform"},
            {"weights: uniform\n", "must be at most 65536 with secure.bits: 32, and it is "
                                   "4294967296: it says how many sites there may be"},
            {"weights: uniform\nexact: {weight_total_max: 65537}\n", "must be at most 65536"},
            {"weights: uniform\nexact: {weight_total_max: 9, wide: [a]}\n", "no second limb"},
            {NARROW "privacy: {site: {clip: 1.0, noise: 1.0}}\n", "must be 64 with privacy.site"},
        };
        for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            snprintf(lines, sizeof lines, "%s%s", sums[i], bad[k].rest);
            refused(lines, bad[k].why);
        }
        snprintf(lines, sizeof lines, "scaffold\n%s" NARROW, sums[i]);
        refused(lines, "must be 64 with local.scaffold");
        snprintf(lines, sizeof lines, "epochs\n%s" NARROW, sums[i]);
        refused(lines, "must be 64 with local.normalise");
    }
    refused("secure: {bits: 32}\ncodec: {name: q8}\n" NARROW, "codec.name must be f32");
    refused("secure: {bits: 48}\n", "must be one of: 64, 32; not '48'");
    refused("secure: {sums: region, bits: 32}\nweights: uniform\nexact: {weight_total_max: 2}\n",
            "at least secure.cohort_min, 3, would be right");
    cr_expect(eq(int,
                 load("secure: {bits: 32}\nweights: uniform\n"
                      "exact: {weight_total_max: 65536}\n"),
                 TIER_OK),
              "%s", err.text);
}
