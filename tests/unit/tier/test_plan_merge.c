/* SPDX-License-Identifier: Apache-2.0 */
/* The merge of a plan's tiers: what may be written, what it becomes, what travels. */
#include "support/temp_file.h"
#include "tier/merge.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static struct tier_plan plan, other;
static struct tier_problems problems;
static struct tier_err err;

static enum tier_status load(const char *tiers) {
    char text[2000];
    temp_file("model.onnx", "abc");
    snprintf(text, sizeof text,
             "plan: 1\nname: heart\npurpose: tests\nmodel: model.onnx\ndata: {contract: heart}\n"
             "local: {loss: bce, optimiser: {name: sgd, lr: 0.1}, batch: 8, epochs: 1}\nrounds: 3\n"
             "%s\n",
             tiers);
    memset(&problems, 0, sizeof problems);
    return tier_plan_load(temp_file("plan.yaml", text), &plan, NULL, &problems, &err);
}

TestSuite(tier_plan_merge, .fini = temp_release);

Test(tier_plan_merge, a_plan_that_says_nothing_means_the_mean) {
    cr_assert(eq(int, load(""), TIER_OK), "%s", err.text);
    cr_assert(eq(str, (char *)tier_plan_rule_text(&plan.top.merge), "mean"));
    cr_assert(eq(ptr, (void *)tier_merge_rule_of(&plan.top.merge), NULL));
    cr_assert(eq(dbl, plan.hub.merge.byzantine, 0));
    cr_assert(eq(u64, plan.hub.merge.iterations, 0));
}

Test(tier_plan_merge, every_rule_is_known_by_its_name_and_has_its_numbers) {
    static const struct {
        const char *name;
        double byzantine;
        uint64_t iterations;
        double smoothing;
    } rules[] = {
        {"median", 0, 0, 0},       {"trimmed_mean", 0.2, 0, 0},       {"krum", 0.2, 0, 0},
        {"multi_krum", 0.2, 0, 0}, {"geometric_median", 0, 64, 1e-6}, {"centred_clipping", 0, 3, 0},
        {"norm_bound", 0, 0, 0}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        char tiers[100];
        snprintf(tiers, sizeof tiers, "tiers: {default: {merge: {rule: %s}}}", rules[i].name);
        cr_assert(eq(int, load(tiers), TIER_OK), "%s", err.text);
        const struct tier_merge_ops *rule = tier_merge_rule_of(&plan.hub.merge);
        cr_assert(eq(str, (char *)rule->name, (char *)rules[i].name));
        cr_assert(eq(dbl, plan.hub.merge.byzantine, rules[i].byzantine));
        cr_assert(eq(u64, plan.hub.merge.iterations, rules[i].iterations));
        cr_assert(eq(dbl, plan.hub.merge.smoothing, rules[i].smoothing));
    }
}

Test(tier_plan_merge, a_tier_that_names_a_rule_takes_none_of_the_defaults_numbers) {
    cr_assert(eq(int,
                 load("tiers: {default: {merge: {rule: krum, byzantine: 2, mix: nearest}}, "
                      "top: {merge: {rule: median}}, hub: {merge: {byzantine: 3}, quorum: 7}}"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, plan.top.merge.rule.choice, TIER_PLAN_MEDIAN));
    cr_assert(eq(dbl, plan.top.merge.byzantine, 0));
    cr_assert(eq(int, plan.top.merge.mix, TIER_PLAN_MIX_NONE));
    cr_assert(eq(int, plan.hub.merge.rule.choice, TIER_PLAN_KRUM));
    cr_assert(eq(dbl, plan.hub.merge.byzantine, 3));
    cr_assert(eq(int, plan.hub.merge.mix, TIER_PLAN_MIX_NEAREST));
    cr_assert(eq(u64, plan.hub.quorum.count, 7));
}

Test(tier_plan_merge, mixing_before_a_rule_without_attackers_in_it_assumes_a_fifth) {
    cr_assert(eq(int, load("tiers: {top: {merge: {rule: median, mix: nearest}}}"), TIER_OK), "%s",
              err.text);
    cr_assert(eq(dbl, plan.top.merge.byzantine, 0.2));
}

Test(tier_plan_merge, what_does_not_belong_together_is_refused_where_it_is_written) {
    static const struct {
        const char *tiers, *why;
    } cases[] = {
        {"tiers: {top: {merge: {rule: kurm}}}", "plan.yaml:8: tiers.top.merge.rule must be one of"},
        {"tiers: {top: {merge: {rule: kurm}}}", "x-..."},
        {"tiers: {top: {merge: {rule: x-}}}", "a rule of one's own"},
        {"tiers: {top: {merge: {rule: median, byzantine: 2}}}",
         "plan.yaml:8: tiers.top.merge.byzantine is not for the rule median"},
        {"tiers: {hub: {merge: {rule: krum, select: 2}}}",
         "tiers.hub.merge.select is not for the rule krum"},
        {"tiers: {hub: {merge: {rule: krum, radius: 2}}}", "radius is not for the rule krum"},
        {"tiers: {hub: {merge: {iterations: 2}}}", "iterations is not for the rule mean"},
        {"tiers: {hub: {merge: {rule: norm_bound, smoothing: 2}}}", "smoothing is not for"},
        {"tiers: {default: {merge: {rule: norm_bound, smoothing: 2}}}",
         "plan.yaml:8: tiers.default.merge.smoothing is not for"},
        {"tiers: {hub: {merge: {mix: nearest}}}", "tiers.hub.merge.mix is for a robust rule"},
        {"tiers: {hub: {merge: {rule: krum, byzantine: 1.5}}}", "must be a whole number"},
        {"tiers: {hub: {merge: {rule: krum, byzantine: 0.5}}}", "must be below 0.5"},
        {"tiers: {hub: {merge: {rule: krum, byzantine: -1}}}", "must be a number from 0"},
        {"tiers: {hub: {merge: {rule: krum, mix: near}}}", "must be one of: none, nearest"},
        {"tiers: {hub: {merge: {ruel: krum}}}", "did you mean"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool found = false;
        cr_assert(eq(int, load(cases[i].tiers), TIER_EPLAN), "%s", cases[i].tiers);
        cr_assert(eq(sz, problems.count, 1), "%s", problems.item[1].text);
        found = strstr(problems.item[0].text, cases[i].why) != NULL;
        cr_assert(found, "'%s' is not in '%s'", cases[i].why, problems.item[0].text);
    }
}

Test(tier_plan_merge, a_rule_of_ones_own_may_set_every_number_and_travels) {
    char *text = NULL, *again = NULL;
    size_t bytes, more;
    cr_assert(eq(int,
                 load("tiers: {default: {merge: {rule: x-mine.v2, byzantine: 0.25, select: 3, "
                      "radius: 0.5, iterations: 9, smoothing: 1e-3}}, "
                      "top: {merge: {rule: krum, mix: nearest}}}"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(str, plan.hub.merge.rule.own, "x-mine.v2"));
    cr_assert(eq(ptr, (void *)tier_merge_rule_of(&plan.hub.merge), NULL));
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(strstr(text, "\"rule\":\"x-mine.v2\"") != NULL, "%s", text);
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(str, other.hub.merge.rule.own, "x-mine.v2"));
    cr_assert(eq(u64, other.hub.merge.iterations, 9));
    cr_assert(eq(int, other.top.merge.rule.choice, TIER_PLAN_KRUM));
    cr_assert(eq(int, tier_plan_canonical(&other, &again, &more, NULL, &err), TIER_OK));
    cr_assert(eq(str, text, again));
    free(text);
    free(again);
}

Test(tier_plan_merge, what_travels_is_checked_as_what_was_written) {
    static const struct {
        const char *from, *to, *why;
    } cases[] = {
        {"\"byzantine\":0.25", "\"byzantine\":0.0", "must be above 0 for the rule krum"},
        {"\"rule\":\"krum\"", "\"rule\":\"median\"", "byzantine is not for the rule median"},
        {"\"rule\":\"krum\"", "\"rule\":\"\"", "must have a value"},
        {"\"rule\":\"krum\"", "\"rule\":\"x-\"", "a rule of one's own"},
        {"\"rule\":\"krum\"", "\"rule\":3", "of the wrong type"},
        {"\"mix\":\"none\"", "\"mix\":null", "must have a value"},
    };
    char *text = NULL, changed[8000];
    size_t bytes;
    cr_assert(eq(int, load("tiers: {default: {merge: {rule: krum, byzantine: 0.25}}}"), TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *at = strstr(text, cases[i].from);
        cr_assert(at != NULL, "%s", cases[i].from);
        int n = snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, cases[i].to,
                         at + strlen(cases[i].from));
        cr_assert(eq(int, tier_plan_parse(changed, (size_t)n, &other, &err), TIER_EPLAN));
        cr_assert(strstr(err.text, cases[i].why) != NULL, "'%s' is not in '%s'", cases[i].why,
                  err.text);
    }
    free(text);
}

/* ---- how a tier waits ---- */

Test(tier_plan_merge, a_tier_that_buffers_has_a_buffer_and_a_bound) {
    cr_assert(eq(int, load("tiers: {top: {sync: buffered, quorum: 3}}"), TIER_OK), "%s", err.text);
    cr_assert(eq(int, plan.top.sync, TIER_PLAN_BUFFERED));
    cr_assert(eq(u64, plan.top.quorum.count, 3));
    cr_assert(eq(u64, plan.top.staleness_max, 8));
    cr_assert(eq(int, plan.hub.sync, TIER_PLAN_ROUNDS));
    cr_assert(eq(u64, plan.hub.staleness_max, 0));
    cr_assert(eq(int,
                 load("tiers: {default: {sync: buffered, quorum: 0.5, staleness_max: 2}, "
                      "top: {sync: buffered}, hub: {staleness_max: 3}}"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(u64, plan.top.staleness_max, 8), "what says how it waits has its own bound");
    cr_assert(eq(u64, plan.hub.staleness_max, 3));
    cr_assert(eq(int,
                 load("tiers: {default: {sync: buffered, quorum: 0.5, staleness_max: 2}, "
                      "top: {sync: rounds}}"),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(u64, plan.top.staleness_max, 0));
    cr_assert(eq(u64, plan.hub.staleness_max, 2));
    char proof[400];
    cr_assert(strstr(tier_plan_proof(&plan, proof, sizeof proof), "staleness") != NULL);
}

Test(tier_plan_merge, what_staleness_does_not_go_with_is_refused_where_it_is_written) {
    static const struct {
        const char *tiers, *line, *reason;
    } cases[] = {
        {"tiers: {top: {sync: buffered}}", "", "tiers.top.quorum must be a number or a fraction"},
        {"tiers: {default: {sync: buffered}}", "", "tiers.top.quorum must be a number"},
        {"tiers: {top: {staleness_max: 3}}",
         "plan.yaml:8:", "tiers.top.staleness_max is for sync: buffered"},
        {"tiers:\n  default:\n    sync: buffered\n    quorum: 2\n    staleness_max: 0",
         "plan.yaml:12:", "tiers.default.staleness_max must be above 0"},
        {"tiers:\n  hub:\n    quorum: 2\n    merge: {rule: median}\n    sync: buffered",
         "plan.yaml:12:", "tiers.hub.sync buffered needs the rule mean"},
        {"tiers: {top: {sync: buffered, quorum: 2}}\nstop: {metric: loss, patience: 2}",
         "plan.yaml:9:", "stop.metric needs sync: rounds"},
        {"tiers: {top: {sync: sometimes, quorum: 2}}",
         "plan.yaml:8:", "tiers.top.sync must be one of: rounds, buffered"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert(eq(int, load(cases[i].tiers), TIER_EPLAN), "%s", cases[i].tiers);
        cr_assert(eq(sz, problems.count, 1), "%s: %s", cases[i].tiers, err.text);
        cr_assert(strstr(problems.item[0].text, cases[i].reason) != NULL, "%s",
                  problems.item[0].text);
        cr_assert(strstr(problems.item[0].text, cases[i].line) != NULL, "%s",
                  problems.item[0].text);
    }
}

Test(tier_plan_merge, what_buffers_travels) {
    char *text = NULL;
    size_t bytes = 0;
    cr_assert(
        eq(int, load("tiers: {hub: {sync: buffered, quorum: 2, staleness_max: 5}}"), TIER_OK));
    cr_assert(eq(int, tier_plan_canonical(&plan, &text, &bytes, NULL, &err), TIER_OK));
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(u64, other.hub.staleness_max, 5));
    cr_assert(eq(int, other.hub.sync, TIER_PLAN_BUFFERED));
    char *at = strstr(text, "\"staleness_max\":5");
    cr_assert(at != NULL);
    at[16] = '0';
    cr_assert(eq(int, tier_plan_parse(text, bytes, &other, &err), TIER_EPLAN));
    cr_assert(strstr(err.text, "staleness_max must be above 0") != NULL, "%s", err.text);
    free(text);
}
