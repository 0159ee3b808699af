/* SPDX-License-Identifier: Apache-2.0 */
/* Whose rows are read, and for what. */
#include "spoke/consent.h"
#include "spoke/data.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct tier_err err;

TestSuite(spoke_consent, .fini = temp_release);

#define TABLE                                                                                      \
    "id,purposes\nada,health-research quality\nbob,*\ncid,quality\ndee,\n\"eve, jr\",education\n"

static struct spoke_consent *load(const char *table, const char *opt_out) {
    struct spoke_consent *c = NULL;
    enum tier_status st =
        spoke_consent_load(table ? temp_file("consent.csv", table) : NULL,
                           opt_out ? temp_file("opt-out.txt", opt_out) : NULL, &c, &err);
    cr_assert(eq(int, st, TIER_OK), "%s", err.text);
    return c;
}

static void refused(const char *table, const char *opt_out, const char *why) {
    struct spoke_consent *c = NULL;
    enum tier_status st =
        spoke_consent_load(table ? temp_file("consent.csv", table) : NULL,
                           opt_out ? temp_file("opt-out.txt", opt_out) : NULL, &c, &err);
    cr_expect(eq(int, st, TIER_EDATA), "%s", err.text);
    cr_expect(c == NULL && strstr(err.text, why) != NULL, "'%s' is not in: %s", why, err.text);
    cr_expect(strstr(err.text, "SECRET") == NULL, "an id is in: %s", err.text);
}

Test(spoke_consent, a_patient_allows_what_the_table_says_and_nothing_else) {
    struct spoke_consent *c = load(TABLE, NULL);
    cr_expect(spoke_consent_allows(c, "ada", TIER_PLAN_HEALTH_RESEARCH));
    cr_expect(spoke_consent_allows(c, "ada", TIER_PLAN_QUALITY));
    cr_expect(not(spoke_consent_allows(c, "ada", TIER_PLAN_EDUCATION)));
    cr_expect(not(spoke_consent_allows(c, "ada", TIER_PLAN_UNSTATED)));
    cr_expect(spoke_consent_allows(c, "bob", TIER_PLAN_EDUCATION));
    cr_expect(spoke_consent_allows(c, "bob", TIER_PLAN_UNSTATED), "* is every plan");
    cr_expect(not(spoke_consent_allows(c, "dee", TIER_PLAN_QUALITY)), "nothing is allowed");
    cr_expect(spoke_consent_allows(c, "eve, jr", TIER_PLAN_EDUCATION));
    cr_expect(not(spoke_consent_allows(c, "nobody", TIER_PLAN_QUALITY)));
    cr_expect(not(spoke_consent_allows(c, "", TIER_PLAN_QUALITY)));
    cr_expect(not(spoke_consent_allows(c, NULL, TIER_PLAN_QUALITY)));
    spoke_consent_free(c);
}

Test(spoke_consent, an_opt_out_outweighs_the_table_and_stands_alone) {
    struct spoke_consent *c = load(TABLE, "bob\nbob\n");
    cr_expect(not(spoke_consent_allows(c, "bob", TIER_PLAN_QUALITY)));
    cr_expect(spoke_consent_allows(c, "ada", TIER_PLAN_QUALITY));
    spoke_consent_free(c);
    c = load(NULL, "bob\n");
    cr_expect(not(spoke_consent_allows(c, "bob", TIER_PLAN_QUALITY)));
    cr_expect(spoke_consent_allows(c, "anybody", TIER_PLAN_UNSTATED));
    cr_expect(not(spoke_consent_allows(c, "", TIER_PLAN_UNSTATED)), "who is that?");
    spoke_consent_free(c);
    c = load(NULL, "");
    cr_expect(spoke_consent_allows(c, "anybody", TIER_PLAN_UNSTATED));
    spoke_consent_free(c);
}

Test(spoke_consent, what_is_no_table_is_refused_by_line_and_without_ids) {
    refused("", NULL, "id,purposes");
    refused("SECRET,quality\n", NULL, "consent.csv:1: the header");
    refused("id,purposes\nSECRET,quallity\n", NULL, "consent.csv:2: column 'purposes'");
    refused("id,purposes\nSECRET,unstated\n", NULL, "consent.csv:2: column 'purposes'");
    refused("id,purposes\nSECRET\n", NULL, "consent.csv:2");
    refused("id,purposes\nSECRET,*\nx,*\nSECRET,quality\n", NULL,
            "consent.csv:4: the id of line 2");
    refused(NULL, "a\nSECRET,b\n", "opt-out.txt:2");
}

Test(spoke_consent, a_file_that_changed_or_went_is_noticed) {
    struct spoke_consent *c = load(TABLE, "bob\n");
    cr_expect(not(spoke_consent_changed(c)));
    const char *path = temp_file("opt-out.txt", "bob\nada\n");
    cr_expect(spoke_consent_changed(c));
    spoke_consent_free(c);
    c = load(NULL, "bob\n");
    remove(path);
    cr_expect(spoke_consent_changed(c));
    spoke_consent_free(c);
}

/* ---- rows ---- */

static const char schema[] = "columns:\n"
                             "  - {name: who, type: id}\n"
                             "  - {name: age, type: number, min: 0, max: 120, standardise: true}\n"
                             "  - {name: sick, type: target, positive_above: 0}\n"
                             "  - {name: set, type: split}\n"
                             "split: {by: column}\n";
#define ROWS                                                                                       \
    "who,age,sick,set\nada,50,0,train\nbob,60,1,train\ncid,7000,1,train\nada,70,1,test\n"          \
    ",40,0,train\n"

static enum tier_status open_for(const struct spoke_consent *c, int purpose, const char *text,
                                 struct spoke_data **out) {
    const struct spoke_data_options o = {.consent = c, .purpose = purpose};
    return spoke_data_open(temp_file("schema.yaml", text), temp_file("t.csv", ROWS), &o, out, &err);
}

Test(spoke_consent, rows_that_are_not_allowed_are_as_if_they_were_not_there) {
    struct spoke_consent *c = load(TABLE, NULL);
    struct spoke_data *d = NULL;

    /* cid's age would be refused, if anyone looked at it: mean and deviation are of two rows. */
    cr_assert(eq(int, open_for(c, TIER_PLAN_HEALTH_RESEARCH, schema, &d), TIER_OK), "%s", err.text);
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 2));
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TEST), 1));
    cr_expect(eq(sz, spoke_data_withheld(d), 2));
    cr_expect(eq(dbl, spoke_data_mean(d)[0], 55.0));
    spoke_data_free(d);
    cr_expect(eq(int, open_for(c, TIER_PLAN_QUALITY, schema, &d), TIER_EDATA), "cid is read now");
    cr_expect(strstr(err.text, "'age'") != NULL, "%s", err.text);
    spoke_consent_free(c);
}

Test(spoke_consent, the_hash_of_what_is_withheld_says_whether_the_same_rows_are_here) {
    struct spoke_consent *one = load(TABLE, NULL), *two = load(TABLE, "nobody\n");
    struct spoke_consent *three = load(TABLE, "bob\n");
    struct spoke_consent *const consents[] = {one, two, three};
    static const char plain[] = "columns:\n  - {name: who, type: id}\n"
                                "  - {name: age, type: number}\n"
                                "  - {name: sick, type: target, positive_above: 0}\n"
                                "  - {name: set, type: split}\n"
                                "split: {by: column}\n";
    struct tier_hash hash[3];

    for (int i = 0; i < 3; i++) {
        struct spoke_data *d = NULL;
        cr_assert(eq(int, open_for(consents[i], TIER_PLAN_HEALTH_RESEARCH, plain, &d), TIER_OK),
                  "%s", err.text);
        hash[i] = spoke_data_withheld_hash(d);
        spoke_data_free(d);
    }
    cr_expect(tier_hash_equal(&hash[0], &hash[1]));
    cr_expect(not(tier_hash_equal(&hash[0], &hash[2])));
    for (int i = 0; i < 3; i++)
        spoke_consent_free(consents[i]);
}

Test(spoke_consent, nobody_left_is_said_without_a_number_and_no_id_column_is_refused) {
    struct spoke_consent *c = load("id,purposes\n", NULL);
    struct spoke_data *d = NULL;
    cr_expect(eq(int, open_for(c, TIER_PLAN_QUALITY, schema, &d), TIER_EPOLICY));
    cr_expect(strstr(err.text, "no row is left") && !strpbrk(err.text, "0123456789"), "%s",
              err.text);
    static const char nameless[] = "columns:\n  - {name: who, type: ignore}\n"
                                   "  - {name: age, type: number}\n"
                                   "  - {name: sick, type: target, positive_above: 0}\n"
                                   "  - {name: set, type: split}\n"
                                   "split: {by: column}\n";
    cr_expect(eq(int, open_for(c, TIER_PLAN_QUALITY, nameless, &d), TIER_ECONFIG));
    cr_expect(strstr(err.text, "type id") != NULL, "%s", err.text);
    spoke_consent_free(c);
}
