/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan says to stewards: what may be written, that it travels, until when it holds. */
#include "support/temp_file.h"
#include "tier/plan.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

static enum tier_status load(const char *lines) {
    char text[2000];
    temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart\npurpose: tests\nmodel: model.onnx\ndata: {contract: heart}\n"
             "local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1}\n"
             "rounds: 3\n%s",
             lines);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

static void refused(const char *lines, const char *why) {
    cr_assert(eq(int, load(lines), TIER_EPLAN), "%s", lines);
    cr_expect(strstr(err.text, why) != NULL, "%s: %s", lines, err.text);
}

/* Milliseconds of a moment in UTC, by days since 1970. */
static int64_t at(int64_t day, int64_t ms) {
    return day * 86400000 + ms;
}

TestSuite(tier_plan_governance, .fini = temp_release);

Test(tier_plan_governance, a_plan_that_says_nothing_has_no_purpose_no_author_and_no_end) {
    cr_assert(eq(int, load(""), TIER_OK), "%s", err.text);
    cr_expect(eq(int, plan.governance.purpose, TIER_PLAN_UNSTATED));
    cr_expect(plan.governance.author[0] == 0 && plan.governance.expires[0] == 0);
    cr_expect(plan.governance.ethics[0] == 0 && plan.governance.legal_basis[0] == 0);
    cr_expect(not(tier_plan_expired(&plan, INT64_MAX)));
}

Test(tier_plan_governance, all_of_it_travels) {
    char *text = NULL;
    size_t bytes = 0;
    cr_assert(eq(int,
                 load("governance: {purpose: disease-research, legal_basis: \"Art. 9(2)(j) GDPR\", "
                      "ethics: EC 2026-114, author: alice, expires: 2028-02-29}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    free(text);
    cr_expect(eq(int, other.governance.purpose, TIER_PLAN_DISEASE_RESEARCH));
    cr_expect(eq(str, other.governance.legal_basis, "Art. 9(2)(j) GDPR"));
    cr_expect(eq(str, other.governance.ethics, "EC 2026-114"));
    cr_expect(eq(str, other.governance.author, "alice"));
    cr_expect(eq(str, other.governance.expires, "2028-02-29"));
}

Test(tier_plan_governance, a_purpose_of_no_list_is_refused_with_the_list) {
    refused("governance: {purpose: marketing}\n", "health-research");
    for (int i = 0; tier_plan_purpose_text(i); i++)
        cr_expect(eq(int, tier_plan_purpose_find(tier_plan_purpose_text(i)), i));
    cr_expect(eq(int, tier_plan_purpose_find("marketing"), -1));
    cr_expect(tier_plan_purpose_text(-1) == NULL && tier_plan_purpose_text(99) == NULL);
}

Test(tier_plan_governance, a_day_that_no_calendar_has_is_refused) {
    static const char *const days[] = {"2027-02-29", "2100-02-29", "2027-00-10", "2027-13-01",
                                       "2027-04-31", "2027-4-30",  "1969-12-31", "31.01.2027",
                                       "2027-01-00", "2027-01-3x"};
    for (size_t i = 0; i < sizeof days / sizeof *days; i++) {
        char line[80];
        snprintf(line, sizeof line, "governance: {expires: \"%s\"}\n", days[i]);
        refused(line, "governance.expires must be a day");
    }
}

Test(tier_plan_governance, an_author_is_a_name_that_a_certificate_can_have) {
    refused("governance: {author: Dr_Alice}\n", "governance.author");
}

Test(tier_plan_governance, the_last_day_is_a_day_to_its_end_and_not_longer) {
    static const struct {
        const char *expires;
        int64_t day; /* since 1970-01-01 */
    } days[] = {{"1970-01-01", 0},     {"2000-02-29", 11016}, {"2000-03-01", 11017},
                {"2026-12-31", 20818}, {"2027-01-31", 20849}, {"2100-03-01", 47541}};
    for (size_t i = 0; i < sizeof days / sizeof *days; i++) {
        char line[80];
        snprintf(line, sizeof line, "governance: {expires: %s}\n", days[i].expires);
        cr_assert(eq(int, load(line), TIER_OK), "%s: %s", line, err.text);
        cr_expect(not(tier_plan_expired(&plan, at(days[i].day, 0))), "%s", days[i].expires);
        cr_expect(not(tier_plan_expired(&plan, at(days[i].day, 86399999))), "%s", days[i].expires);
        cr_expect(tier_plan_expired(&plan, at(days[i].day + 1, 0)), "%s", days[i].expires);
    }
}

Test(tier_plan_governance, what_is_seen_follows_the_plan) {
    char text[400];
    bool sums = false, each = false, rows = false;
    cr_assert(eq(int, load("tiers: {hub: {retain: updates}}\n"), TIER_OK), "%s", err.text);
    for (size_t i = 0; tier_plan_sees(&plan, i, text, sizeof text); i++) {
        sums = sums || (strstr(text, "the top") && strstr(text, "sum alone"));
        each = each || (strstr(text, "a hub") && strstr(text, "keeps each"));
        rows = rows || strstr(text, "number of its training rows");
    }
    cr_expect(sums && each && rows);
    cr_assert(eq(int, load("weights: uniform\n"), TIER_OK), "%s", err.text);
    tier_plan_sees(&plan, 0, text, sizeof text);
    cr_expect(strstr(text, "whatever the rows") != NULL, "%s", text);
}

#define HASH "abababababababababababababababababababababababababababababababab"

Test(tier_plan_governance, a_plan_that_asks_for_a_tpm_says_what_may_run) {
    char *text = NULL;
    size_t bytes = 0;

    cr_assert(eq(int, load(""), TIER_OK), "%s", err.text);
    cr_expect(eq(int, plan.governance.attest, TIER_PLAN_ATTEST_NONE));
    cr_assert(eq(int,
                 load("governance: {attest: tpm, attest_allow: [\"binary=" HASH "\", \"pcr7=" HASH
                      "\", \"kernels=" HASH "\"]}\n"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    free(text);
    cr_expect(eq(int, other.governance.attest, TIER_PLAN_ATTEST_TPM));
    cr_expect(eq(sz, other.governance.attest_allow.count, 3));
}

Test(tier_plan_governance, a_list_that_lets_nobody_in_or_asks_nobody_is_refused) {
    refused("governance: {attest: tpm}\n", "must list a binary=SHA256");
    refused("governance: {attest: tpm, attest_allow: [\"pcr7=" HASH "\"]}\n",
            "must list a binary=SHA256");
    refused("governance: {attest_allow: [\"binary=" HASH "\"]}\n", "is for governance.attest: tpm");
    refused("governance: {attest: tpm, attest_allow: [\"binary=abab\"]}\n", "64 hex digits");
    refused("governance: {attest: tpm, attest_allow: [\"binary=" HASH "\", \"pcr16=" HASH "\"]}\n",
            "not 'pcr16=");
    refused("governance: {attest: tpm, attest_allow: [\"binary=" HASH "\", \"binary=" HASH "\"]}\n",
            "twice");
    refused("governance: {attest: sgx}\n", "governance.attest");
}
