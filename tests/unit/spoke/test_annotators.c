/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several readers of the same rows. Kappas are those of their papers' formulas; Cohen
 * (1960) has such a table of 200, of which 0.70 agree and 0.41 would by chance.
 */
#include "spoke/annotators.h"
#include "spoke/check.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static struct tier_err err;
static uint8_t file[4096];

TestSuite(spoke_annotators, .fini = temp_release);

Test(spoke_annotators, the_majority_is_the_commonest_and_of_equals_the_first_said) {
    static const int32_t clear[] = {1, 2, 2}, tie[] = {3, 1, 1, 3}, some[] = {-1, 4, -1, 0};
    static const int32_t nobody[] = {-1, -1}, strided[] = {1, 9, 0, 9, 1, 9};
    cr_expect(eq(int, spoke_majority(clear, 3, 1), 2));
    cr_expect(eq(int, spoke_majority(tie, 4, 1), 3));
    cr_expect(eq(int, spoke_majority(some, 4, 1), 4));
    cr_expect(eq(int, spoke_majority(nobody, 2, 1), -1));
    cr_expect(eq(int, spoke_majority(strided, 3, 2), 1));
}

Test(spoke_annotators, two_readers_have_cohens_kappa) {
    static const int counts[3][3] = {{88, 14, 18}, {10, 40, 10}, {2, 6, 12}};
    struct spoke_agreement a;
    cr_assert(eq(int, spoke_agreement_init(&a, 2, 3, &err), TIER_OK));
    for (int32_t i = 0; i < 3; i++)
        for (int32_t k = 0; k < 3; k++)
            for (int n = 0; n < counts[i][k]; n++)
                spoke_agreement_add(&a, (const int32_t[]){i, k});
    spoke_agreement_add(&a, (const int32_t[]){-1, 0}); /* one reader's alone says nothing */
    cr_expect(eq(u64, a.rows, 200));
    cr_expect(eq(u64, a.equal, 140));
    cr_expect(epsilon_eq(dbl, spoke_agreement_kappa(&a), (0.70 - 0.41) / (1.0 - 0.41), 1e-12));
    spoke_agreement_release(&a);
}

Test(spoke_annotators, more_readers_have_fleiss_kappa) {
    /* 14 raters of 10 subjects in 5 classes, the worked example of the formula. */
    static const int votes[10][5] = {
        {0, 0, 0, 0, 14}, {0, 2, 6, 4, 2}, {0, 0, 3, 5, 6}, {0, 3, 9, 2, 0}, {2, 2, 8, 1, 1},
        {7, 7, 0, 0, 0},  {3, 2, 6, 3, 0}, {2, 5, 3, 2, 2}, {6, 5, 2, 1, 0}, {0, 2, 2, 3, 7}};
    struct spoke_agreement a;
    cr_assert(eq(int, spoke_agreement_init(&a, 14, 5, &err), TIER_OK));
    cr_expect(eq(int, isnan(spoke_agreement_kappa(&a)) != 0, true));
    for (int r = 0; r < 10; r++) {
        int32_t row[14];
        int at = 0;
        for (int32_t c = 0; c < 5; c++)
            for (int n = 0; n < votes[r][c]; n++)
                row[at++] = c;
        cr_assert(eq(int, at, 14));
        spoke_agreement_add(&a, row);
    }
    cr_expect(epsilon_eq(dbl, spoke_agreement_kappa(&a), 0.20993, 1e-5), "%g",
              spoke_agreement_kappa(&a));
    spoke_agreement_release(&a);
}

/* ---- a table ------------------------------------------------------------------------------- */

static const char schema[] = "annotators: majority\n"
                             "columns:\n"
                             "  - {name: x, type: number}\n"
                             "  - {name: anna, type: target, categories: [well, ill, dead]}\n"
                             "  - {name: bert, type: target, categories: [well, ill, dead]}\n"
                             "  - {name: carl, type: target, categories: [well, ill, dead]}\n"
                             "  - {name: part, type: split}\n"
                             "split: {by: column}\n"
                             "missing_rows: drop\n";
static const char rows[] = "x,anna,bert,carl,part\n"
                           "1,well,ill,ill,train\n"
                           "2,dead,ill,well,train\n"
                           "3,,well,well,train\n"
                           "4,,,,train\n"
                           "5,ill,ill,ill,test\n";

Test(spoke_annotators, a_row_is_learnt_as_most_readers_say) {
    struct spoke_data *d = NULL;
    cr_assert(
        eq(int,
           spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", rows), NULL, &d, &err),
           TIER_OK),
        "%s", err.text);
    const int32_t *labels = spoke_data_labels(d, SPOKE_TRAIN);
    const int32_t *votes = spoke_data_votes(d, SPOKE_TRAIN);
    cr_assert(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 3));
    cr_expect(eq(sz, spoke_data_dropped(d), 1), "nobody read the fourth");
    cr_expect(labels[0] == 1 && labels[1] == 2 && labels[2] == 0);
    cr_expect(votes[0] == 0 && votes[1] == 1 && votes[6] == -1 && votes[7] == 0);
    spoke_data_free(d);
}

Test(spoke_annotators, check_data_says_how_far_they_agree) {
    char *text = NULL;
    size_t n = 0;
    char *const argv[] = {"check-data",
                          (char *)(uintptr_t)temp_file("s.yaml", schema),
                          (char *)(uintptr_t)temp_file("t.csv", rows),
                          "--cells-min",
                          "1",
                          NULL};
    FILE *out = open_memstream(&text, &n);
    cr_expect(eq(int, spoke_check_main(5, (char **)(uintptr_t)argv, out, stderr), 0));
    fclose(out);
    /* 1 + 0 + 1 + 3 of 3 + 3 + 1 + 3 pairs; three rows of all readers. */
    cr_expect(strstr(text, "3 annotators\n  pairs of labels of one row: 10, equal: 5 (50.0 %)\n"
                           "  Fleiss' kappa over 3 rows of all: ") != NULL,
              "%s", text);
    free(text);
}

static void refused(const char *text, const char *piece) {
    struct spoke_schema *s = NULL;
    cr_expect(eq(int, spoke_schema_open(temp_file("s.yaml", text), &s, &err), TIER_ECONFIG));
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
}

Test(spoke_annotators, readers_of_unlike_things_are_refused) {
    refused("annotators: majority\ncolumns:\n  - {name: x, type: number}\n"
            "  - {name: a, type: target, categories: [b, c]}\nsplit: {by: column}\n",
            "takes 2 to 32 columns");
    refused("annotators: majority\ncolumns:\n  - {name: x, type: number}\n"
            "  - {name: a, type: target, categories: [b, c]}\n"
            "  - {name: d, type: target, categories: [c, b]}\nsplit: {by: column}\n",
            "column 'd': all annotators have the same categories");
    refused("columns:\n  - {name: x, type: number}\n"
            "  - {name: a, type: target, categories: [b, c]}\n"
            "  - {name: d, type: target, categories: [b, c]}\nsplit: {by: column}\n",
            "exactly one must be, but with annotators: majority or soft");
    refused("annotators: several\ncolumns:\n  - {name: x, type: number}\nsplit: {by: column}\n",
            "one of one, majority, soft");
}

/* ---- masks --------------------------------------------------------------------------------- */

static void mask(const char *name, const uint8_t voxels[4]) {
    struct nifti_maker m = {.side = {4, 1, 1}, .type = 2, .bits = 8, .spacing = {1, 1, 1}};
    temp_file_n(name, (char *)file, nifti_make(&m, voxels, 4, file, sizeof file));
}

Test(spoke_annotators, a_voxel_is_learnt_as_most_masks_have_it_and_dice_is_by_class) {
    static const char contract[] = "kind: nifti\nannotators: majority\nimage: {size: [1, 1, 4]}\n"
                                   "columns:\n"
                                   "  - {name: scan, type: image}\n"
                                   "  - {name: a, type: mask, categories: [none, organ]}\n"
                                   "  - {name: b, type: mask, categories: [none, organ]}\n"
                                   "  - {name: c, type: mask, categories: [none, organ]}\n"
                                   "  - {name: part, type: split}\n"
                                   "split: {by: column}\n";
    struct spoke_data *d = NULL;
    struct spoke_check *c = calloc(1, sizeof *c);
    mask("i.nii", (const uint8_t[]){5, 6, 7, 8});
    mask("a.nii", (const uint8_t[]){1, 1, 0, 0});
    mask("b.nii", (const uint8_t[]){1, 0, 1, 0});
    mask("c.nii", (const uint8_t[]){0, 1, 1, 0});
    const char *s = temp_file("s.yaml", contract);
    const char *t = temp_file("t.csv", "scan,a,b,c,part\ni.nii,a.nii,b.nii,c.nii,train\n"
                                       "i.nii,,b.nii,,test\n");
    cr_assert(eq(int, spoke_data_open(s, t, NULL, &d, &err), TIER_OK), "%s", err.text);
    const int32_t *train = spoke_data_labels(d, SPOKE_TRAIN);
    const int32_t *test = spoke_data_labels(d, SPOKE_TEST);
    cr_expect(train[0] == 1 && train[1] == 1 && train[2] == 1 && train[3] == 0);
    cr_expect(test[0] == 1 && test[1] == 0 && test[2] == 1 && test[3] == 0);
    spoke_data_free(d);
    cr_assert(eq(int, spoke_check_data(s, t, c, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(u64, c->agreement.dice_pairs[1], 3));
    cr_expect(epsilon_eq(dbl, spoke_agreement_dice(&c->agreement, 1), 0.5, 1e-12));
    spoke_check_release(c);
    free(c);
}
