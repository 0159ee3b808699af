/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/data.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static struct tier_err err;

TestSuite(spoke_data, .fini = temp_release);

static const char schema[] =
    "file: {missing: \"?\"}\n"
    "columns:\n"
    "  - {name: age, type: number, min: 0, max: 120, standardise: true}\n"
    "  - {name: cp, type: category, categories: [\"1\", \"2\", \"3\"], drop_first: true}\n"
    "  - {name: note, type: ignore}\n"
    "  - {name: num, type: target, positive_above: 0}\n"
    "  - {name: set, type: split}\n"
    "split: {by: column}\n";

#define HEAD "age,cp,note,num,set\n"
#define ROWS "50,1,n,0,train\n60,2.0,n,2,train\n70,3,n,1,test\n"

static enum tier_status open_with(const char *schema_text, const char *csv,
                                  const struct spoke_data_options *o, struct spoke_data **d) {
    err.text[0] = '\0';
    return spoke_data_open(temp_file("schema.yaml", schema_text), temp_file("t.csv", csv), o, d,
                           &err);
}

static struct spoke_data *opened(const char *schema_text, const char *csv) {
    struct spoke_data *d = NULL;
    cr_assert(eq(int, open_with(schema_text, csv, NULL, &d), TIER_OK), "%s", err.text);
    return d;
}

static void refused(const char *schema_text, const char *csv, const char *piece) {
    struct spoke_data *d = NULL;
    cr_expect(eq(int, open_with(schema_text, csv, NULL, &d), TIER_EDATA), "%s", err.text);
    cr_expect(d == NULL);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
    cr_expect(strstr(err.text, "SECRET") == NULL, "a value is in: %s", err.text);
}

Test(spoke_data, a_table_becomes_standardised_features_and_classes) {
    struct spoke_data *d = opened(schema, HEAD ROWS);
    cr_expect(eq(sz, spoke_data_features(d), 3));
    cr_assert(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 2));
    cr_assert(eq(sz, spoke_data_rows(d, SPOKE_TEST), 1));
    const float *x = spoke_data_x(d, SPOKE_TRAIN), *t = spoke_data_x(d, SPOKE_TEST);
    /* Mean 55, deviation with n - 1: sqrt(50). */
    cr_expect(eq(dbl, spoke_data_mean(d)[0], 55.0));
    cr_expect(epsilon_eq(dbl, spoke_data_std(d)[0], sqrt(50.0), 1e-12));
    cr_expect(epsilon_eq(flt, x[0], -5.0f / sqrtf(50.0f), 1e-6f));
    cr_expect(epsilon_eq(flt, t[0], 15.0f / sqrtf(50.0f), 1e-6f));
    cr_expect(x[1] == 0.0f && x[2] == 0.0f && x[4] == 1.0f && x[5] == 0.0f && t[2] == 1.0f);
    cr_expect(spoke_data_labels(d, SPOKE_TRAIN)[0] == 0);
    cr_expect(spoke_data_labels(d, SPOKE_TRAIN)[1] == 1);
    spoke_data_free(d);
}

Test(spoke_data, columns_are_found_by_name_and_quotes_line_ends_and_marks_do_not_matter) {
    struct spoke_data *d = opened(
        schema, "\xef\xbb\xbfset,num,\"cp\", age ,note\r\n\r\ntrain,0,1,\"50\",\"a, \"\"b\"\""
                "\nc\"\r\ntest,1, 2 ,60,\r\ntrain,1,3,40,x");
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 2));
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TEST), 1));
    cr_expect(eq(dbl, spoke_data_mean(d)[0], 45.0));
    spoke_data_free(d);
}

Test(spoke_data, a_wrong_column_is_refused_without_quoting_the_header) {
    refused(schema, "SECRET,cp,note,num,set\n" ROWS, "t.csv:1: column 'age'");
    refused(schema, "age,cp,note,num,set,SECRET\n" ROWS, "cell 6");
    refused(schema, "age,age,note,num,set\n" ROWS, "twice");
    refused(schema, HEAD "50,1,n,0,train\n60,2,n,1\n", "t.csv:3: 4 cells");
}

Test(spoke_data, what_is_no_number_is_refused_with_line_and_column_but_no_value) {
    static const char *const bad[] = {"SECRET", "nan",  "NaN",   "inf",
                                      "-inf",   "0x10", "1e999", "1,5"};
    for (int i = 0; i < 7; i++) {
        char csv[256];
        snprintf(csv, sizeof csv, HEAD "50,1,n,0,train\n%s,1,n,0,train\n", bad[i]);
        refused(schema, csv, "t.csv:3: column 'age': this cell is not a finite number");
        if (i > 0)
            cr_expect(strstr(err.text, bad[i]) == NULL || strcmp(bad[i], "inf") == 0, "%s",
                      err.text);
    }
}

Test(spoke_data, values_outside_the_schema_are_refused_by_column) {
    refused(schema, HEAD "50,1,n,0,train\n121,1,n,0,train\n", "t.csv:3: column 'age'");
    refused(schema, HEAD "50,SECRET,n,0,train\n", "t.csv:2: column 'cp'");
    refused(schema, HEAD "50,1,n,0,SECRET\n", "t.csv:2: column 'set'");
    refused(schema, HEAD "50,1,n,SECRET,train\n", "t.csv:2: column 'num'");
}

Test(spoke_data, a_missing_value_is_an_error_unless_the_schema_drops_the_row) {
    static const char csv[] = HEAD "?,1,n,0,train\n,1,n,0,train\n40,1,?,0,train\n" ROWS;
    char drops[1024];
    refused(schema, csv, "t.csv:2: column 'age': the value is missing");
    snprintf(drops, sizeof drops, "missing_rows: drop\n%s", schema);
    struct spoke_data *d = opened(drops, csv);
    cr_expect(eq(sz, spoke_data_dropped(d), 2), "a marker in an ignored column drops nothing");
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 3));
    spoke_data_free(d);
    refused(drops, HEAD "?,1,n,0,train\n", "no row is left (1 had");
    refused(drops, "", "the file is empty; a header");
}

Test(spoke_data, broken_quotes_and_binary_files_are_refused) {
    refused(schema, HEAD "50,1,\"SECRET,0,train\n", "t.csv:2: a quote is opened");
    refused(schema, HEAD "50,1,SEC\"RET,0,train\n", "t.csv:2: cell 3");
    struct spoke_data *d = NULL;
    cr_expect(
        eq(int,
           spoke_data_open(temp_file("schema.yaml", schema),
                           temp_file_n("t.csv", HEAD "5\0,1,n,0,train\n", 36), NULL, &d, &err),
           TIER_EDATA));
    cr_expect(strstr(err.text, "NUL") != NULL, "%s", err.text);
    cr_expect(
        eq(int,
           spoke_data_open(temp_file("schema.yaml", schema), "/nonexistent/t.csv", NULL, &d, &err),
           TIER_ENOTFOUND));
}

Test(spoke_data, a_constant_feature_is_centred_and_one_row_has_no_deviation) {
    struct spoke_data *d = opened(schema, HEAD "50,1,n,0,train\n50,1,n,0,train\n53,1,n,0,test\n");
    cr_expect(eq(flt, spoke_data_x(d, SPOKE_TRAIN)[0], 0.0f));
    cr_expect(eq(flt, spoke_data_x(d, SPOKE_TEST)[0], 3.0f));
    spoke_data_free(d);
    refused(schema, HEAD "50,1,n,0,train\n", "at least 2 training rows");
}

Test(spoke_data, statistics_from_outside_replace_the_local_ones) {
    double mean[3] = {10, 0, 0}, std[3] = {2, 1, 1};
    struct spoke_data_options o = {.stats_count = 3, .mean = mean, .std = std};
    struct spoke_data *d = NULL;
    cr_assert(eq(int, open_with(schema, HEAD "50,1,n,0,test\n", &o, &d), TIER_OK), "%s", err.text);
    cr_expect(epsilon_eq(flt, spoke_data_x(d, SPOKE_TEST)[0], 20.0f, 1e-6f));
    spoke_data_free(d);
    o.stats_count = 2;
    cr_expect(eq(int, open_with(schema, HEAD ROWS, &o, &d), TIER_EARG));
    o.stats_count = 3;
    std[0] = NAN;
    cr_expect(eq(int, open_with(schema, HEAD ROWS, &o, &d), TIER_EARG));
}

Test(spoke_data, statistics_in_the_schema_serve_all_sites) {
    char agreed[1024];
    const char *at = strstr(schema, "standardise: true");
    snprintf(agreed, sizeof agreed, "%.*smean: 40, std: 5, %s", (int)(at - schema), schema, at);
    struct spoke_data *d = opened(agreed, HEAD "50,1,n,0,test\n");
    cr_expect(epsilon_eq(flt, spoke_data_x(d, SPOKE_TEST)[0], 2.0f, 1e-6f));
    spoke_data_free(d);
}

Test(spoke_data, a_table_may_have_a_value_for_its_target_and_validation_rows) {
    static const char text[] = "columns:\n"
                               "  - {name: a, type: number}\n"
                               "  - {name: dose, type: target, value: true, min: 0, max: 5}\n"
                               "  - {name: set, type: split}\n"
                               "split: {by: column}\n";
    struct spoke_data *d = opened(text, "a,dose,set\n1,0.5,train\n2,2.5,val\n3,4.5,train\n");
    int32_t rows[2] = {1, 0};
    float x[2];
    cr_expect(eq(int, (int)spoke_data_target(d), (int)SPOKE_TARGET_VALUE));
    cr_expect(eq(sz, spoke_data_classes(d), 0));
    cr_expect(spoke_data_values(d, SPOKE_TRAIN)[1] == 4.5f);
    cr_expect(spoke_data_values(d, SPOKE_VAL)[0] == 2.5f);
    cr_expect(spoke_data_labels(d, SPOKE_TRAIN) == NULL);
    cr_assert(eq(int, spoke_data_read(d, SPOKE_TRAIN, rows, 2, x, NULL, &err), TIER_OK));
    cr_expect(x[0] == 3.0f && x[1] == 1.0f);
    spoke_data_free(d);
    refused(text, "a,dose,set\n1,5.5,train\n", "t.csv:2: column 'dose'");
}

Test(spoke_data, a_table_of_survival_has_a_time_and_an_event) {
    static const char text[] = "columns:\n"
                               "  - {name: a, type: number}\n"
                               "  - {name: days, type: target, value: true, min: 0}\n"
                               "  - {name: died, type: event, %s}\n"
                               "  - {name: set, type: split}\n"
                               "split: {by: column}\n";
    static const char *const kinds[] = {"categories: [alive, dead]", "positive_above: 0"};
    static const char *const tables[] = {"a,days,died,set\n1,10,dead,train\n2,20,alive,train\n",
                                         "a,days,died,set\n1,10,2,train\n2,20,0,train\n"};
    char schema_text[512];
    for (int i = 0; i < 2; i++) {
        snprintf(schema_text, sizeof schema_text, text, kinds[i]);
        struct spoke_data *d = opened(schema_text, tables[i]);
        cr_expect(eq(int, (int)spoke_data_target(d), (int)SPOKE_TARGET_SURVIVAL));
        cr_expect(eq(sz, spoke_data_target_size(d), 0));
        cr_expect(spoke_data_values(d, SPOKE_TRAIN)[1] == 20.0f);
        cr_expect(spoke_data_events(d, SPOKE_TRAIN)[0] == 1.0f);
        cr_expect(spoke_data_events(d, SPOKE_TRAIN)[1] == 0.0f);
        cr_expect(spoke_data_labels(d, SPOKE_TRAIN) == NULL);
        spoke_data_free(d);
    }
    snprintf(schema_text, sizeof schema_text, text, kinds[0]);
    refused(schema_text, "a,days,died,set\n1,10,gone,train\n", "t.csv:2: column 'died'");
    refused(schema_text, "a,days,died,set\n1,-1,dead,train\n", "t.csv:2: column 'days'");
    refused(schema_text, "a,days,died,set\n1,10,,train\n", "t.csv:2: column 'died'");
}

Test(spoke_data, a_split_by_hash_may_set_validation_patients_aside) {
    static const char text[] =
        "columns:\n  - {name: p, type: id}\n  - {name: a, type: number}\n"
        "  - {name: t, type: target, positive_above: 0}\n"
        "split: {by: hash, key: secret-key, fraction: 0.3, val_fraction: 0.2}\n";
    char csv[16000];
    size_t at = (size_t)snprintf(csv, sizeof csv, "p,a,t\n");
    for (int i = 0; i < 1000; i++)
        at += (size_t)snprintf(csv + at, sizeof csv - at, "id-%d,1,1\n", i);
    struct spoke_data *d = opened(text, csv);
    size_t test = spoke_data_rows(d, SPOKE_TEST), val = spoke_data_rows(d, SPOKE_VAL);
    cr_expect(test > 250 && test < 350 && val > 150 && val < 250, "%zu %zu", test, val);
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TRAIN) + test + val, 1000));
    spoke_data_free(d);
}

/* ---- the split by hash --------------------------------------------------------------------- */

static const char hashed[] = "columns:\n"
                             "  - {name: p, type: id}\n"
                             "  - {name: a, type: number}\n"
                             "  - {name: t, type: target, positive_above: 0}\n"
                             "split: {by: hash, key: secret-key, fraction: 0.3}\n";

/* 2000 rows of 1000 patients, a = the patient's number; backwards on request. */
static struct spoke_data *patients(bool backwards, uint32_t fold, const char *schema_text) {
    struct spoke_data *d = NULL;
    size_t size = 64000, at = 0;
    char *csv = malloc(size);
    struct spoke_data_options o = {.fold_set = true, .fold = fold};

    at += (size_t)snprintf(csv, size, "p,a,t\n");
    for (int i = 0; i < 2000; i++) {
        int n = (backwards ? 1999 - i : i) % 1000;
        at += (size_t)snprintf(csv + at, size - at, "id-%d,%d,%d\n", n, n, n % 2);
    }
    cr_assert(eq(int, open_with(schema_text, csv, &o, &d), TIER_OK), "%s", err.text);
    free(csv);
    return d;
}

static void sides(const struct spoke_data *d, int *count) {
    memset(count, 0, 1000 * sizeof *count);
    for (size_t r = 0; r < spoke_data_rows(d, SPOKE_TEST); r++)
        count[(int)spoke_data_x(d, SPOKE_TEST)[r]]++;
}

Test(spoke_data, rows_of_a_patient_stay_together_in_any_order_and_folds_differ) {
    int a[1000], b[1000], c[1000], both = 0;
    struct spoke_data *d = patients(false, 0, hashed);
    sides(d, a);
    size_t test = spoke_data_rows(d, SPOKE_TEST);
    cr_expect(test > 520 && test < 680, "%zu of 2000 rows", test);
    spoke_data_free(d);
    d = patients(true, 0, hashed);
    sides(d, b);
    spoke_data_free(d);
    d = patients(false, 1, hashed);
    sides(d, c);
    spoke_data_free(d);
    for (int i = 0; i < 1000; i++) {
        cr_expect(a[i] == 0 || a[i] == 2);
        cr_expect(eq(int, a[i], b[i]));
        both += a[i] && c[i];
    }
    cr_expect(both > 40 && both < 150, "independent splits share about 90 patients, not %d", both);
}

Test(spoke_data, another_key_gives_another_split) {
    char other[1024];
    int a[1000], b[1000];
    snprintf(other, sizeof other, "%s", hashed);
    memcpy(strstr(other, "secret-key"), "Secret-key", 10);
    struct spoke_data *d = patients(false, 0, hashed), *e = patients(false, 0, other);
    sides(d, a);
    sides(e, b);
    cr_expect(memcmp(a, b, sizeof a) != 0);
    spoke_data_free(d);
    spoke_data_free(e);
}

Test(spoke_data, a_split_that_the_schema_cannot_give_is_refused) {
    struct spoke_data *d = NULL;
    struct spoke_data_options o = {.split_set = true, .split = SPOKE_SPLIT_HASH};
    cr_expect(eq(int, open_with(schema, HEAD ROWS, &o, &d), TIER_ECONFIG));
    o = (struct spoke_data_options){.fold_set = true, .fold = 1};
    cr_expect(eq(int, open_with(schema, HEAD ROWS, &o, &d), TIER_ECONFIG));
    o = (struct spoke_data_options){.split_set = true, .split = SPOKE_SPLIT_COLUMN};
    cr_expect(eq(int, open_with(hashed, "p,a,t\nx,1,1\n", &o, &d), TIER_ECONFIG));
}
