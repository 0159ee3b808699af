/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/schema.h"
#include "tests/support/data_path.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct tier_err err;

TestSuite(spoke_schema, .fini = temp_release);

static const char good[] = "name: t\n"
                           "columns:\n"
                           "  - {name: p, type: id}\n"
                           "  - {name: a, type: number, min: 0, max: 9, standardise: true}\n"
                           "  - {name: c, type: category, categories: [x, y, z]}\n"
                           "  - {name: t, type: target, positive_above: 0}\n"
                           "split: {by: hash, key: secret-key, fraction: 0.25, fold: 3}\n";

static void refused(const char *text, const char *piece) {
    struct spoke_schema *s = NULL;
    const char *path = temp_file("schema.yaml", text);
    cr_expect(eq(int, spoke_schema_open(path, &s, &err), TIER_ECONFIG));
    cr_expect(s == NULL);
    cr_expect(strncmp(err.text, path, strlen(path)) == 0, "no path in: %s", err.text);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
}

static struct spoke_schema *opened(const char *text) {
    struct spoke_schema *s = NULL;
    cr_assert(eq(int, spoke_schema_open(temp_file("schema.yaml", text), &s, &err), TIER_OK), "%s",
              err.text);
    return s;
}

Test(spoke_schema, a_schema_is_read_with_its_features_in_order) {
    struct spoke_schema *s = opened(good);
    char name[64];
    cr_expect(eq(sz, spoke_schema_features(s), 4));
    cr_expect(eq(sz, spoke_schema_classes(s), 2));
    spoke_schema_feature_name(s, 0, name, sizeof name);
    cr_expect(eq(str, name, "a"));
    spoke_schema_feature_name(s, 3, name, sizeof name);
    cr_expect(eq(str, name, "c=z"));
    cr_expect(eq(chr, spoke_schema_delimiter(s), ','));
    cr_expect(eq(u32, s->split->fold, 3));
    spoke_schema_free(s);
}

Test(spoke_schema, the_shipped_examples_are_read) {
    static const char *const paths[] = {
        "deploy/examples/heart-disease/schema.yaml", "deploy/examples/breast-cancer/schema.yaml",
        "deploy/examples/pneumonia/schema.yaml", "deploy/examples/hippocampus/schema.yaml"};
    static const size_t features[] = {13, 30, 784, 32 * 48 * 32};
    for (int i = 0; i < 4; i++) {
        struct spoke_schema *s = NULL;
        char path[2048];
        source_path(paths[i], path, sizeof path);
        cr_assert(eq(int, spoke_schema_open(path, &s, &err), TIER_OK), "%s", err.text);
        cr_expect(eq(sz, spoke_schema_features(s), features[i]));
        spoke_schema_free(s);
    }
}

Test(spoke_schema, malformed_yaml_is_refused_with_its_line) {
    refused("name: t\ncolumns:\n  - {name: p, type: id\nsplit: x\n", "schema.yaml:4:");
    refused("name: t\ncolumns:\n\t- {name: p}\n", "schema.yaml:3: not valid YAML");
    refused("", "no 'columns'");
}

Test(spoke_schema, an_unknown_key_is_refused_with_its_line_and_the_known_ones) {
    refused("name: t\nbanana: 3\n", "schema.yaml:2:");
    refused("columns:\n  - {name: p, tpye: id}\n", "schema.yaml:2:");
    refused("columns:\n  - {name: p, tpye: id}\n", "tpye; keys of a column: name, type");
    refused("columns:\n  - {name: p, type: identifier}\n", "one of number, category, target");
    refused("columns:\n  - {name: p, type: number, min: low}\n", "schema.yaml:2:");
}

Test(spoke_schema, an_event_goes_with_a_time) {
#define SURVIVAL(target, event)                                                                    \
    "columns:\n  - {name: a, type: number}\n  - {name: t, type: target, " target                   \
    "}\n  - {name: e, type: event" event "}\n  - {name: s, type: split}\nsplit: {by: column}\n"
    struct spoke_schema *s = NULL, *other = NULL;
    struct tier_hash one, two;
    const char *path = temp_file("e.yaml", SURVIVAL("value: true", ", categories: [no, yes]"));
    cr_assert(eq(int, spoke_schema_open(path, &s, &err), TIER_OK), "%s", err.text);
    path = temp_file("e.yaml", SURVIVAL("value: true", ", categories: [yes, no]"));
    cr_assert(eq(int, spoke_schema_open(path, &other, &err), TIER_OK), "%s", err.text);
    spoke_schema_hash(s, &one);
    spoke_schema_hash(other, &two);
    cr_expect(not(tier_hash_equal(&one, &two)), "what an event is counts");
    spoke_schema_free(s);
    spoke_schema_free(other);
    refused(SURVIVAL("positive_above: 0", ", positive_above: 0"), "an event goes with one target");
    refused(SURVIVAL("value: true", ""), "an event needs positive_above, or two categories");
    refused(SURVIVAL("value: true", ", categories: [a, b, c]"), "or two categories");
    refused(SURVIVAL("value: true", ", positive_above: 0, categories: [a, b]"), "an event needs");
    refused(SURVIVAL("value: true", ", positive_above: 0, min: 3"), "min and max belong to");
    refused(SURVIVAL("value: true", ", positive_above: inf"), "positive_above must be finite");
    refused("kind: npz\nimage: {size: [2, 2]}\ncolumns:\n  - {name: i, type: image}\n"
            "  - {name: t, type: target, value: true}\n  - {name: e, type: event, "
            "positive_above: 0}\nsplit: {by: part}\n",
            "a schema of this kind has no columns of this type");
}

Test(spoke_schema, what_does_not_belong_to_a_type_is_refused_by_column) {
#define END "  - {name: t, type: target, positive_above: 0}\nsplit: {by: column}\n"
    refused("columns:\n  - {name: q, type: id, min: 3}\n" END, "'q'");
    refused("columns:\n  - {name: q, type: number, standardise: true, mean: 3}\n" END,
            "go together");
    refused("columns:\n  - {name: q, type: number, standardise: true, mean: 3, std: 0}\n" END,
            "above 0");
    refused("columns:\n  - {name: q, type: category}\n" END, "needs its list");
    refused("columns:\n  - {name: q, type: number, min: 3, max: 2}\n" END, "min at most max");
    refused("columns:\n  - {name: q, type: category, categories: [a, a]}\n" END, "listed twice");
    refused("columns:\n  - {name: q, type: number}\n  - {name: q, type: number}\n" END, "twice");
    refused("columns:\n  - {name: q, type: ignore}\n" END, "0 features");
    refused("columns:\n  - {name: q, type: number}\n" END, "column of type split");
    refused("columns:\n  - {name: q, type: number}\nsplit: {by: column}\n", "exactly one");
    refused("columns:\n  - {name: q, type: number}\n  - {name: t, type: target}\n"
            "split: {by: column}\n",
            "either positive_above or categories");
    refused("file: {delimiter: x}\ncolumns:\n  - {name: q, type: number}\n" END, "delimiter");
}

Test(spoke_schema, a_split_by_hash_needs_key_fraction_and_id) {
#define COLS                                                                                       \
    "columns:\n  - {name: q, type: number}\n  - {name: t, type: target, positive_above: 0}\n"
#define ID "  - {name: p, type: id}\n"
    refused(COLS ID "split: {by: hash, fraction: 0.2}\n", "key and fraction");
    refused(COLS ID "split: {by: hash, key: long-enough, fraction: 1.0}\n", "between 0 and 1");
    refused(COLS ID "split: {by: hash, key: short, fraction: 0.2}\n", "at least 8");
    refused(COLS "split: {by: hash, key: long-enough, fraction: 0.2}\n", "type id");
}

Test(spoke_schema, aliases_are_refused) {
    refused("name: &a t\ncodebook: *a\n", "schema.yaml");
}

Test(spoke_schema, a_codebook_gives_the_lists_that_the_schema_leaves_out) {
    static const char with_book[] =
        "codebook: book.yaml\ncolumns:\n  - {name: c, type: category}\n"
        "  - {name: t, type: target, categories: [no, yes]}\n  - {name: s, type: split}\n"
        "split: {by: column}\n";
    temp_file("book.yaml", "columns:\n  - {name: c, categories: [a, b, d]}\n");
    struct spoke_schema *s = opened(with_book);
    cr_expect(eq(sz, spoke_schema_features(s), 3));
    spoke_schema_free(s);
    s = NULL;
    temp_file("book.yaml", "columns:\n  - {name: t, categories: [a, b]}\n");
    cr_expect(
        eq(int, spoke_schema_open(temp_file("schema.yaml", with_book), &s, &err), TIER_ECONFIG));
    cr_expect(strstr(err.text, "one place") != NULL, "%s", err.text);
    temp_file("book.yaml", "rows:\n  - {name: t, categories: [a, b]}\n");
    cr_expect(
        eq(int, spoke_schema_open(temp_file("schema.yaml", with_book), &s, &err), TIER_ECONFIG));
    cr_expect(strstr(err.text, "book.yaml:1:") != NULL, "%s", err.text);
}

Test(spoke_schema, the_hash_covers_what_the_model_sees_and_nothing_else) {
    struct tier_hash a, b, c;
    char text[1024];
    struct spoke_schema *s = opened(good);
    spoke_schema_hash(s, &a);
    spoke_schema_free(s);
    snprintf(text, sizeof text, "file: {delimiter: ';', missing: NA}\n%s", good);
    s = opened(text);
    spoke_schema_hash(s, &b);
    spoke_schema_free(s);
    snprintf(text, sizeof text, "%s", good);
    memcpy(strstr(text, "[x, y, z]"), "[x, z, y]", 9);
    s = opened(text);
    spoke_schema_hash(s, &c);
    spoke_schema_free(s);
    cr_expect(tier_hash_equal(&a, &b));
    cr_expect(not(tier_hash_equal(&a, &c)));
}

static const char *hash_of(const char *text, char hex[TIER_HASH_HEX]) {
    struct spoke_schema *s = opened(text);
    struct tier_hash hash;
    spoke_schema_hash(s, &hash);
    spoke_schema_free(s);
    return tier_hash_hex(&hash, hex);
}

/* The hashes of contracts that name neither are those of before either could be named. */
Test(spoke_schema, units_and_modality_count_only_where_they_are_written) {
#define NUMBER(unit)                                                                               \
    "columns:\n  - {name: a, type: number" unit "}\n  - {name: b, type: number}\n"                 \
    "  - {name: t, type: target, positive_above: 0}\n  - {name: s, type: split}\n"                 \
    "split: {by: column}\n"
#define SCAN(image, target)                                                                        \
    "kind: dicom\nimage: {size: [2, 3]" image "}\ncolumns:\n  - {name: i, type: image}\n"          \
    "  - {name: t, type: target, value: true" target                                               \
    "}\n  - {name: s, type: split}\nsplit: {by: column}\n"
    char one[TIER_HASH_HEX], two[TIER_HASH_HEX];
    cr_expect(eq(str, (char *)(uintptr_t)hash_of(good, one),
                 "c15a07c9685e03abd427f715f7ccf8010904b9e12f9ff7871b5ef64af2b3023b"));
    cr_expect(eq(str, (char *)(uintptr_t)hash_of(SCAN("", ""), one),
                 "51185771d1b6e05fa69f40e35e43bbc9ddb0dd4fb1dcef33ae609afa5db64ae5"));
    cr_expect(strcmp(one, hash_of(SCAN(", modality: MR", ""), two)) != 0);
    cr_expect(strcmp(two, hash_of(SCAN(", modality: CT", ""), one)) != 0);
    cr_expect(strcmp(two, hash_of(SCAN(", modality: MR", ", unit: days"), one)) != 0);
    cr_expect(strcmp(one, hash_of(SCAN(", modality: MR", ", unit: months"), two)) != 0);
    hash_of(NUMBER(", unit: mmol/L"), one);
    cr_expect(strcmp(one, hash_of(NUMBER(", unit: mmol/L"), two)) == 0);
    cr_expect(strcmp(one, hash_of(NUMBER(", unit: mg/dL"), two)) != 0);
    cr_expect(strcmp(one, hash_of(NUMBER(""), two)) != 0);
    cr_expect(strcmp(one, hash_of(NUMBER("}\n  - {name: x, type: ignore"), two)) != 0);
    cr_expect(strcmp(one, hash_of(NUMBER(", unit: \"\\u00b5mol/L\""), two)) != 0);
}

Test(spoke_schema, a_unit_belongs_to_a_number_and_is_a_text) {
#define LEN_16 "0123456789abcdef"
    struct spoke_schema *s = opened(NUMBER(", unit: " LEN_16 LEN_16 LEN_16 LEN_16));
    cr_expect(eq(str, s->columns[0].unit, LEN_16 LEN_16 LEN_16 LEN_16));
    cr_expect(s->columns[1].unit == NULL);
    spoke_schema_free(s);
    refused(NUMBER(", unit: " LEN_16 LEN_16 LEN_16 LEN_16 "g"), "text of 1 to 64 bytes");
    refused(NUMBER(", unit: ''"), "text of 1 to 64 bytes");
    refused(NUMBER(", unit: [mg]"), "text of 1 to 64 bytes");
    refused(NUMBER(", unit: \"m\\tg\""), "column 'a': the unit holds a control character");
    refused(NUMBER(", unit: \"m\\x7f\""), "the unit holds a control character");
    refused(NUMBER(", unit: \"m\\u0085\""), "the unit holds a control character");
    refused(NUMBER("}\n  - {name: p, type: id, unit: mg"), "column 'p': unit belongs to numbers");
    refused(NUMBER("}\n  - {name: c, type: category, categories: [x], unit: mg"),
            "unit belongs to numbers");
    refused("columns:\n  - {name: a, type: number}\n"
            "  - {name: t, type: target, positive_above: 0, unit: mg}\nsplit: {by: column}\n",
            "column 't': unit belongs to numbers, and to a target with value: true");
}

Test(spoke_schema, a_modality_is_a_code_of_dicom) {
    struct spoke_schema *s = opened(SCAN(", modality: A 3_DEFGHIJKLMNO", ""));
    cr_expect(eq(str, s->image->modality, "A 3_DEFGHIJKLMNO"));
    spoke_schema_free(s);
    refused(SCAN(", modality: A 3_DEFGHIJKLMNOP", ""), "text of 1 to 16 bytes");
    refused(SCAN(", modality: ''", ""), "text of 1 to 16 bytes");
    refused(SCAN(", modality: mr", ""), "modality is a DICOM code");
    refused(SCAN(", modality: 'MR '", ""), "modality is a DICOM code");
    refused(SCAN(", modality: ' MR'", ""), "modality is a DICOM code");
    refused(SCAN(", modality: 'M-R'", ""), "modality is a DICOM code");
    refused("modality: MR\n", "unknown key modality");
}

Test(spoke_schema, what_is_wrong_with_a_contract_of_images_is_said) {
#define IMAGES "columns:\n  - {name: i, type: image}\n"
#define TARGET "  - {name: t, type: target, categories: [a, b]}\nsplit: {by: part}\n"
    struct spoke_schema *s =
        opened("kind: npz\nimage: {channels: 2, size: [4, 3]}\n" IMAGES TARGET);
    cr_expect(eq(sz, spoke_schema_features(s), 24));
    cr_expect(eq(sz, spoke_schema_spatial(s), 12));
    spoke_schema_free(s);
    refused("kind: npz\n" IMAGES TARGET, "needs image");
    refused("image: {size: [4]}\n" IMAGES TARGET, "say which kind");
    refused("kind: npz\nimage: {size: [4, 0]}\n" IMAGES TARGET, "whole numbers");
    refused("kind: npz\nimage: {size: [4, 2.5]}\n" IMAGES TARGET, "whole numbers");
    refused("kind: npz\nimage: {size: [1, 1, 1, 1]}\n" IMAGES TARGET, "whole numbers");
    refused("kind: npz\nimage: {size: [65535, 65535]}\n" IMAGES TARGET, "2^27");
    refused("kind: npz\nimage: {size: [4], channels: 65}\n" IMAGES TARGET, "64 channels");
    refused("kind: npz\nimage: {size: [4], mean: [1]}\n" IMAGES TARGET, "go together");
    refused("kind: npz\nimage: {size: [4], standardise: true, mean: [1], std: [0]}\n" IMAGES TARGET,
            "above 0");
    refused("kind: npz\nimage: {size: [4], standardise: true, z_score: all}\n" IMAGES TARGET,
            "either standardise");
    refused("kind: npz\nimage: {size: [4]}\ncolumns:\n" TARGET, "exactly one");
    refused("kind: npz\nimage: {size: [4]}\n" IMAGES "  - {name: n, type: number}\n" TARGET,
            "no columns of this type");
    refused("kind: npz\nimage: {size: [4]}\n" IMAGES
            "  - {name: m, type: mask}\nsplit: {by: part}\n",
            "a mask needs its list");
    refused(IMAGES TARGET, "no columns of this type");
    refused("kind: npz\nimage: {size: [4], spacing: [1]}\n" IMAGES TARGET, "for kind: nifti");
    refused("kind: images\nimage: {size: [4, 4], channels: 2}\n" IMAGES TARGET, "1 or 3");
    refused("kind: nifti\nimage: {size: [4, 4, 4], spacing: [1, 1]}\n" IMAGES TARGET,
            "in its order");
    refused("kind: nifti\nimage: {size: [4, 4, 4], orientation: RLS}\n" IMAGES TARGET, "one of RL");
    refused("kind: nifti\nimage: {size: [4, 4, 4], percentiles: [9, 1]}\n" IMAGES TARGET,
            "the lower first");
    refused("kind: nifti\nimage: {size: [4, 4, 4]}\n" IMAGES TARGET, "is for kind: npz");
    refused("kind: npz\nimage: {size: [4]}\n" IMAGES
            "  - {name: t, type: target, value: true, categories: [a, b]}\nsplit: {by: part}\n",
            "either positive_above or categories");
}
