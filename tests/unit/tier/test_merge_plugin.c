/* SPDX-License-Identifier: Apache-2.0 */
/* Merge rules of an operator's own: deploy/examples/merge-plugin as it is, and many that are wrong.
 */
#include "support/merge_fixture.h"

#define GOOD CONSILIUM_LIB_DIR "/merge_agreeing_mean.so"
#define BAD CONSILIUM_LIB_DIR "/merge_bad_rule.so"
#define N 5

static struct tier_plan_merge own(const char *name) {
    struct tier_plan_merge s = {0};
    snprintf(s.rule.own, sizeof s.rule.own, "%s", name);
    return s;
}

Test(tier_merge_plugin, the_example_is_found_by_its_name_once_it_is_loaded) {
    const struct tier_merge_ops *rule = NULL, *again = NULL;
    struct tier_plan_merge s = own("x-agreeing-mean");
    struct tier_hash file, same;
    cr_assert(eq(ptr, (void *)tier_merge_rule_of(&s), NULL));
    MUST(tier_merge_load(GOOD, &rule, &file, err));
    MUST(tier_merge_load(GOOD, &again, &same, err));
    cr_assert(eq(ptr, (void *)rule, (void *)again));
    cr_assert(eq(ptr, (void *)tier_merge_rule_of(&s), (void *)rule));
    cr_assert(eq(ptr, (void *)tier_merge_find("x-agreeing-mean"), (void *)rule));
    CHECK(tier_hash_equal(&file, &same) && !tier_hash_is_zero(&file));
    cr_assert(eq(str, (char *)tier_merge_find("krum")->name, "krum"));
}

Test(tier_merge_plugin, the_example_merges_those_that_agree, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 1000, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    const struct tier_merge_ops *rule = NULL;
    struct tier_plan_merge s = own("x-agreeing-mean");
    struct tier_hash ids[N], id;
    float x[1000];
    MUST(tier_merge_load(GOOD, &rule, NULL, err));
    for (int i = 0; i < N; i++) {
        for (int e = 0; e < 1000; e++)
            x[e] = i == 0 ? -0.25f : i == 1 ? 0.5f : 0.125f; /* one against, one long */
        ids[i] = sealed_values(spool, m, x, 1);
    }
    struct tier_merge merge = merge_of(spool, m, ids, N, &s);
    id = merged(&merge);
    float *got = elements_of(spool, m, &id);
    /* The one against is left out, the long one cut to the typical length. */
    cr_assert(ieee_ulp_eq(flt, got[7], 0.125f, 4));
    free(got);
    merge.fold.count = 2;
    REFUSED(TIER_EPLAN, "x-agreeing-mean: what 2 updates agree on says little",
            tier_merge_run(&merge, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_plugin, what_is_no_rule_is_not_loaded) {
    static const struct {
        const char *fault, *why;
    } cases[] = {
        {"abi", "another version"}, {"size", "another version"},
        {"name", "not x-"},         {"letters", "not x-"},
        {"neither", "exactly one"}, {"both", "exactly one"},
        {"params", "no plan has"},  {"previous", "previous result"},
        {"same", "another rule"},   {"unheard-of", "another version"},
    };
    const struct tier_merge_ops *rule = NULL;
    char here[] = CONSILIUM_SOURCE_DIR "/tests/unit/tier/test_merge_plugin.c";
    MUST(tier_merge_load(GOOD, &rule, NULL, err));
    rule = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        setenv("BAD_RULE", cases[i].fault, 1);
        REFUSED(TIER_ECONFIG, cases[i].why, tier_merge_load(BAD, &rule, NULL, err));
    }
    REFUSED(TIER_ECONFIG, "absolute", tier_merge_load("merge_bad_rule.so", &rule, NULL, err));
    REFUSED(TIER_ECONFIG, "cannot be read", tier_merge_load("/nowhere/x.so", &rule, NULL, err));
    REFUSED(TIER_ECONFIG, "does not load", tier_merge_load(here, &rule, NULL, err));
    cr_assert(eq(ptr, (void *)rule, NULL));
}

Test(tier_merge_plugin, what_a_rule_may_not_give_ends_the_merge_and_names_the_rule,
     .fini = fixture_down) {
    static const struct {
        const char *fault, *why;
    } cases[] = {{"nan", "x-nan: it gave nan for tensor body.weight, element 0"},
                 {"large", "x-large: its coefficients' magnitudes add up to more than 1"},
                 {"gram-nan", "x-gram-nan: it gave a coefficient that is no number"},
                 {"never", "x-never: zzz"}};
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[N], id;
    uint64_t seed = 41;
    for (int i = 0; i < N; i++)
        ids[i] = sealed_random(spool, m, 1, &seed);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct tier_merge_ops *rule = NULL;
        setenv("BAD_RULE", cases[i].fault, 1);
        MUST(tier_merge_load(BAD, &rule, NULL, err));
        struct tier_plan_merge s = own(rule->name);
        struct tier_merge merge = merge_of(spool, m, ids, N, &s);
        REFUSED(TIER_EPLAN, cases[i].why, tier_merge_run(&merge, &id, err));
        cr_assert(eq(sz, files_in(fixture_path("spool")), N));
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}
