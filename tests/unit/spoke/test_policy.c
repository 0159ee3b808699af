/* SPDX-License-Identifier: Apache-2.0 */
/* The first rule that a plan matches decides; what a plan does not say matches nothing. */
#include "spoke/policy.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

static struct tier_plan plan;
static struct tier_err err;
static struct tier_problems problems;
static char reason[400];
static uint64_t rows; /* known of the site */

/* Monday, 2027-01-18, 10:30 UTC. */
#define MONDAY INT64_C(1800268200000)
#define HOUR INT64_C(3600000)

static void begin(void) {
    rows = 0;
    plan = (struct tier_plan){.rounds = 10, .steps = 100, .model_bytes = 1000, .batch = 8};
    snprintf(plan.contract, sizeof plan.contract, "heart.v1");
    memset(plan.model_sha256, 'a', sizeof plan.model_sha256 - 1);
    plan.governance.purpose = TIER_PLAN_HEALTH_RESEARCH;
}

TestSuite(spoke_policy, .init = begin, .fini = temp_release);

static enum spoke_verdict by(const char *text, const char *author, const struct tier_graph *graph,
                             int64_t now_ms) {
    struct spoke_policy *p = NULL;
    const struct spoke_asked asked = {&plan, author, graph, rows, now_ms};
    enum tier_status st =
        spoke_policy_parse("policy.yaml", text, strlen(text), &p, &problems, &err);
    cr_assert(eq(int, st, TIER_OK), "%s", err.text);
    enum spoke_verdict v = spoke_policy_decide(p, &asked, reason, sizeof reason);
    spoke_policy_free(p);
    return v;
}

/* One accepting rule with that line, and refusal else. */
static bool takes(const char *line) {
    char text[1000];
    snprintf(text, sizeof text, "default: refuse\nrules:\n  - {decide: accept, %s}\n", line);
    return by(text, "alice", NULL, MONDAY) == SPOKE_ACCEPT;
}

static void refused(const char *text, const char *why) {
    struct spoke_policy *p = NULL;
    bool found = false;
    cr_expect(eq(int, spoke_policy_parse("policy.yaml", text, strlen(text), &p, &problems, &err),
                 TIER_ECONFIG),
              "%s", text);
    for (size_t i = 0; i < problems.count; i++)
        found = found || strstr(problems.item[i].text, why);
    cr_expect(found, "%s: %s", text, err.text);
}

Test(spoke_policy, the_first_rule_that_matches_decides_and_says_so) {
    static const char text[] = "default: ask\nrules:\n"
                               "  - {decide: refuse, purpose: [education], reason: no teaching}\n"
                               "  - {decide: accept, author: [alice]}\n"
                               "  - {decide: refuse}\n";
    cr_expect(eq(int, by(text, "alice", NULL, MONDAY), SPOKE_ACCEPT));
    cr_expect(eq(str, reason, "rule 2 of policy.yaml"));
    cr_expect(eq(int, by(text, "bob", NULL, MONDAY), SPOKE_REFUSE));
    plan.governance.purpose = TIER_PLAN_EDUCATION;
    cr_expect(eq(int, by(text, "alice", NULL, MONDAY), SPOKE_REFUSE));
    cr_expect(eq(str, reason, "rule 1 of policy.yaml: no teaching"));
    cr_expect(eq(int, by("default: ask\n", "", NULL, MONDAY), SPOKE_ASK));
    cr_expect(strstr(reason, "default is ask") != NULL, "%s", reason);
}

Test(spoke_policy, an_author_is_believed_by_signature_alone) {
    static const char text[] = "default: refuse\nrules: [{decide: accept, author: [\"*\"]}]\n";
    snprintf(plan.governance.author, sizeof plan.governance.author, "alice");
    cr_expect(eq(int, by(text, "", NULL, MONDAY), SPOKE_REFUSE));
    cr_expect(eq(int, by(text, "alice", NULL, MONDAY), SPOKE_ACCEPT));
}

Test(spoke_policy, each_key_matches_what_it_says_and_refuses_beside_it) {
    static const struct {
        const char *yes, *no;
    } pairs[] = {
        {"purpose: [quality, health-research]", "purpose: [quality]"},
        {"author: [\"ali*\"]", "author: [bob]"},
        {"contract: [\"heart.*\"]", "contract: [lung.v1]"},
        {"model: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]",
         "model: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab]"},
        {"days: [mon]", "days: [sun, tue, wed, thu, fri, sat]"},
        {"hours: 08-18", "hours: 11-18"},
        {"hours: 22-11", "hours: 22-10"},
        {"rounds_max: 10", "rounds_max: 9"},
        {"steps_max: 1000", "steps_max: 999"},
        {"rows_max: 8000", "rows_max: 7999"},
        {"bytes_max: 20000", "bytes_max: 19999"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        cr_expect(takes(pairs[i].yes), "%s: %s", pairs[i].yes, reason);
        cr_expect(not(takes(pairs[i].no)), "%s: %s", pairs[i].no, reason);
    }
}

Test(spoke_policy, what_a_plan_does_not_count_in_matches_no_bound_of_it) {
    cr_expect(not(takes("epochs_max: 1000000")));
    plan.steps = 0;
    plan.epochs = 2;
    cr_expect(takes("epochs_max: 20"));
    cr_expect(not(takes("epochs_max: 19")));
    cr_expect(not(takes("steps_max: 1000000")));
}

Test(spoke_policy, a_plan_without_an_epsilon_matches_no_bound_of_it) {
    cr_expect(not(takes("epsilon_max: 1000.0")));
}

Test(spoke_policy, what_a_plan_promises_sites_is_not_what_it_promises_patients) {
    cr_expect(not(takes("site_epsilon_max: 1000.0")));
    plan.site.epsilon_max = 3;
    cr_expect(takes("site_epsilon_max: 3.0"));
    cr_expect(not(takes("site_epsilon_max: 2.9")));
    cr_expect(not(takes("epsilon_max: 1000.0")));
    plan.patient.epsilon_max = 2;
    cr_expect(takes("epsilon_max: 2.0, site_epsilon_max: 3.0"));
    cr_expect(not(takes("epsilon_max: 1.9, site_epsilon_max: 3.0")));
    cr_expect(not(takes("epsilon_max: 2.0, site_epsilon_max: 2.0")));
}

Test(spoke_policy, an_untrusted_plan_matches_with_the_exceptions_that_the_rule_lets_go_of) {
    cr_expect(takes("mode: trusted"));
    cr_expect(not(takes("mode: untrusted")));
    plan.mode = TIER_PLAN_UNTRUSTED;
    cr_expect(takes("mode: untrusted"));
    cr_expect(takes("rounds_max: 10"));
    cr_expect(not(takes("mode: trusted")));
    tier_keys_list_add(&plan.exceptions, "privacy", 7);
    tier_keys_list_add(&plan.exceptions, "weights", 7);
    cr_expect(not(takes("mode: untrusted")));
    cr_expect(not(takes("mode: untrusted, exceptions: [privacy]")));
    cr_expect(takes("mode: untrusted, exceptions: [privacy, weights]"));
    refused("default: ask\nrules: [{decide: accept, exceptions: [privacy]}]\n",
            "exceptions are for mode: untrusted");
    refused("default: ask\nrules: [{decide: accept, mode: careful}]\n", "mode");
}

Test(spoke_policy, epochs_go_through_the_rows_here_and_unknown_ones_are_within_no_bound) {
    plan.steps = 0;
    plan.epochs = 2;
    cr_expect(not(takes("rows_max: 9007199254740991")));
    rows = 30;
    cr_expect(takes("rows_max: 600"));
    cr_expect(not(takes("rows_max: 599")));
    rows = UINT64_MAX;
    cr_expect(not(takes("rows_max: 9007199254740991")));
}

Test(spoke_policy, work_that_overflows_is_beyond_every_bound) {
    plan.steps = UINT64_C(1) << 62;
    plan.rounds = 1000;
    cr_expect(not(takes("steps_max: 9007199254740991")));
}

Test(spoke_policy, operators_are_looked_at_when_the_graph_is_here) {
    static const char text[] = "default: refuse\nrules:\n"
                               "  - {decide: ask, operators: [Conv]}\n"
                               "  - {decide: accept, operators: [\"*\"]}\n";
    static const char sooner[] = "default: refuse\nrules:\n"
                                 "  - {decide: refuse, purpose: [health-research]}\n"
                                 "  - {decide: accept, operators: [\"*\"]}\n";
    cr_expect(eq(int, by(sooner, "", NULL, MONDAY), SPOKE_REFUSE), "nothing has to be fetched");
    cr_expect(eq(int, by(text, "", NULL, MONDAY), SPOKE_NEEDS_GRAPH));
    struct tier_graph *graph = NULL;
    cr_assert(eq(int,
                 tier_graph_open(CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer/model.onnx",
                                 &graph, &err),
                 TIER_OK),
              "%s", err.text);
    cr_expect(eq(int, by(text, "", graph, MONDAY), SPOKE_ACCEPT), "it has more than Conv: %s",
              reason);
    tier_graph_free(graph);
}

Test(spoke_policy, mistakes_are_told_with_what_would_be_right) {
    refused("rules: []\n", "default is missing");
    refused("default: perhaps\n", "accept, refuse, ask");
    refused("default: ask\nrule: []\n", "unknown key 'rule'");
    refused("default: ask\nrules: {decide: ask}\n", "must be a list");
    refused("default: ask\nrules: [accept]\n", "must be a map");
    refused("default: ask\nrules: [{purpose: [quality]}]\n", "needs decide");
    refused("default: ask\nrules: [{decide: ask, purpse: [quality]}]\n", "did you mean 'purpose'");
    refused("default: ask\nrules: [{decide: ask, purpose: [fun]}]\n", "purpose 'fun'");
    refused("default: ask\nrules: [{decide: ask, days: [monday]}]\n", "days must hold");
    refused("default: ask\nrules: [{decide: ask, hours: 8-18}]\n", "hours must be as 08-18");
    refused("default: ask\nrules: [{decide: ask, hours: 25-03}]\n", "hours must be as 08-18");
    refused("default: ask\nrules: [{decide: ask, model: [abc]}]\n", "64 hex digits");
}
