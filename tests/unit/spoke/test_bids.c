/* SPDX-License-Identifier: Apache-2.0 */
/* A folder in the Brain Imaging Data Structure as rows of data. */
#include "spoke/bids.h"
#include "spoke/data.h"
#include "tests/support/data_path.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>

static struct tier_err err;
static char root[64];

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *at) {
    (void)info;
    (void)kind;
    (void)at;
    return remove(path);
}

static void release(void) {
    if (root[0])
        nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    root[0] = '\0';
    temp_release();
}

TestSuite(spoke_bids, .fini = release);

/* A file below the root, with the folders it needs. */
static void put(const char *name, const void *bytes, size_t n) {
    char path[512];
    if (!root[0]) {
        snprintf(root, sizeof root, "/tmp/consilium-bids-XXXXXX");
        cr_assert(mkdtemp(root) != NULL);
    }
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        cr_assert(mkdir(path, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *f = fopen(path, "wb");
    cr_assert(f != NULL);
    cr_assert(eq(sz, fwrite(bytes, 1, n, f), n));
    fclose(f);
}

/* A volume 2 x 2 x 1 of one value. */
static void volume(const char *name, uint8_t value) {
    static uint8_t file[1024];
    struct nifti_maker m = {.side = {2, 2, 1}, .type = 2, .bits = 8, .spacing = {1, 1, 1}};
    uint8_t voxels[4] = {value, value, value, value};
    put(name, file, nifti_make(&m, voxels, 4, file, sizeof file));
}

static void people(const char *text) {
    put("participants.tsv", text, strlen(text));
}

static const char schema[] =
    "kind: bids\n"
    "image: {size: [1, 2, 2], channels: 2}\n"
    "missing_rows: drop\n"
    "columns:\n"
    "  - {name: t1, type: image, suffix: T1w}\n"
    "  - {name: flair, type: image, suffix: FLAIR, entities: acq-iso}\n"
    "  - {name: lesion, type: mask, suffix: dseg, derivative: labels, categories: [none, lesion]}\n"
    "  - {name: participant, type: id}\n"
    "  - {name: part, type: split}\n"
    "split: {by: column}\n";

static void two_subjects(void) {
    volume("sub-02/anat/sub-02_T1w.nii", 20);
    volume("sub-02/anat/sub-02_acq-iso_FLAIR.nii", 21);
    volume("derivatives/labels/sub-02/anat/sub-02_T1w_dseg.nii", 1);
    volume("sub-01/ses-b/anat/sub-01_ses-b_run-1_T1w.nii", 10);
    volume("sub-01/ses-b/anat/sub-01_ses-b_run-2_T1w.nii", 12);
    volume("sub-01/ses-b/anat/sub-01_ses-b_acq-iso_run-1_FLAIR.nii", 11);
    volume("sub-01/ses-b/anat/sub-01_ses-b_acq-ax_run-1_FLAIR.nii", 99);
    volume("sub-01/ses-b/anat/sub-01_ses-b_acq-iso_run-2_FLAIR.nii", 13);
    volume("derivatives/labels/sub-01/ses-b/anat/sub-01_ses-b_run-1_dseg.nii", 0);
    volume("sub-01/ses-b/func/sub-01_ses-b_run-1_T1w.nii", 98);
    people("participant_id\tage\tpart\nsub-02\t44\ttest\nsub-01\tn/a\ttrain\n");
}

static enum tier_status open_layout(const char *text, struct spoke_data **d) {
    struct spoke_data_options o = {.identified = true};
    return spoke_data_open(temp_file("s.yaml", text), root, &o, d, &err);
}

Test(spoke_bids, a_row_is_an_image_with_what_agrees_with_it) {
    struct spoke_data *d = NULL;
    two_subjects();
    cr_assert(eq(int, open_layout(schema, &d), TIER_OK), "%s", err.text);
    /* run-2 has no mask, and is dropped. */
    cr_expect(eq(sz, spoke_data_dropped(d), 1));
    cr_assert(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 1));
    cr_assert(eq(sz, spoke_data_rows(d, SPOKE_TEST), 1));
    const float *train = spoke_data_x(d, SPOKE_TRAIN), *test = spoke_data_x(d, SPOKE_TEST);
    cr_expect(train[0] == 10 && train[4] == 11 && test[0] == 20 && test[4] == 21);
    cr_expect(spoke_data_labels(d, SPOKE_TRAIN)[0] == 0 &&
              spoke_data_labels(d, SPOKE_TEST)[0] == 1);
    cr_expect(strcmp(spoke_data_id(d, SPOKE_TRAIN, 0), "sub-01") == 0);
    cr_expect(eq(u64, spoke_data_number(d, SPOKE_TEST, 0), 4));
    spoke_data_free(d);
}

Test(spoke_bids, the_table_names_files_from_the_root_on) {
    struct spoke_schema *s = NULL;
    char *text = NULL;
    size_t n = 0;
    two_subjects();
    cr_assert(eq(int, spoke_schema_open(temp_file("s.yaml", schema), &s, &err), TIER_OK), "%s",
              err.text);
    FILE *to = open_memstream(&text, &n);
    cr_assert(eq(int, spoke_bids_table(s, root, true, true, to, &err), TIER_OK), "%s", err.text);
    fclose(to);
    cr_expect(strcmp(text, "t1,flair,lesion,participant,part\n"
                           "sub-01/ses-b/anat/sub-01_ses-b_run-1_T1w.nii,"
                           "sub-01/ses-b/anat/sub-01_ses-b_acq-iso_run-1_FLAIR.nii,"
                           "derivatives/labels/sub-01/ses-b/anat/sub-01_ses-b_run-1_dseg.nii,"
                           "sub-01,train\n"
                           "sub-01/ses-b/anat/sub-01_ses-b_run-2_T1w.nii,"
                           "sub-01/ses-b/anat/sub-01_ses-b_acq-iso_run-2_FLAIR.nii,,sub-01,train\n"
                           "sub-02/anat/sub-02_T1w.nii,sub-02/anat/sub-02_acq-iso_FLAIR.nii,"
                           "derivatives/labels/sub-02/anat/sub-02_T1w_dseg.nii,sub-02,test\n") == 0,
              "%s", text);
    free(text);
    spoke_schema_free(s);
}

Test(spoke_bids, whether_the_event_happened_is_a_column_of_participants) {
    static const char survival[] = "kind: bids\n"
                                   "image: {size: [1, 2, 2]}\n"
                                   "columns:\n"
                                   "  - {name: t1, type: image, suffix: T1w, entities: run-1}\n"
                                   "  - {name: days, type: target, value: true}\n"
                                   "  - {name: died, type: event, categories: [no, yes]}\n"
                                   "  - {name: part, type: split}\n"
                                   "split: {by: column}\n";
    struct spoke_data *d = NULL;
    volume("sub-1/anat/sub-1_run-1_T1w.nii", 1);
    volume("sub-2/anat/sub-2_run-1_T1w.nii", 2);
    people("participant_id\tdays\tdied\tpart\nsub-1\t9\tno\ttest\nsub-2\t7\tyes\ttest\n");
    cr_assert(eq(int, open_layout(survival, &d), TIER_OK), "%s", err.text);
    cr_assert(eq(sz, spoke_data_rows(d, SPOKE_TEST), 2));
    const float *days = spoke_data_values(d, SPOKE_TEST), *died = spoke_data_events(d, SPOKE_TEST);
    cr_expect(days[0] == 9 && died[0] == 0 && days[1] == 7 && died[1] == 1);
    spoke_data_free(d);
}

Test(spoke_bids, rows_to_be_predicted_need_no_participants_and_no_masks) {
    struct spoke_data_options o = {.unlabelled = true, .undivided = true, .on_demand = true};
    struct spoke_data *d = NULL;
    two_subjects();
    volume("derivatives/labels/sub-02/anat/sub-02_T1w_desc-two_dseg.nii", 1); /* which of two? */
    char path[200];
    snprintf(path, sizeof path, "%s/participants.tsv", root);
    remove(path);
    cr_assert(eq(int, spoke_data_open(temp_file("s.yaml", schema), root, &o, &d, &err), TIER_OK),
              "%s", err.text);
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TEST), 3));
    spoke_data_free(d);
}

static void refused(const char *text, enum tier_status st, const char *piece) {
    struct spoke_data *d = NULL;
    cr_expect(eq(int, open_layout(text, &d), st), "%s", piece);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
}

Test(spoke_bids, what_is_not_one_file_or_one_participant_is_refused) {
    two_subjects();
    volume("sub-02/anat/sub-02_acq-iso_ce-gd_FLAIR.nii.gz", 5);
    refused(schema, TIER_EDATA, ":4: column 'flair': two files would be this one");
    char path[200];
    snprintf(path, sizeof path, "%s/sub-02/anat/sub-02_acq-iso_ce-gd_FLAIR.nii.gz", root);
    remove(path);
    people("participant_id\tage\nsub-02\t44\n");
    refused(schema, TIER_EDATA, "participants.tsv: it has no column 'part'");
    people("participant_id\tpart\nsub-02\ttest\nsub-02\ttrain\n");
    refused(schema, TIER_EDATA, "a participant is in it twice");
    people("participant_id\tpart\nsub-02\n");
    refused(schema, TIER_EDATA, "participants.tsv:2: 1 cells where the header has 2");
    volume("sub-02/anat/sub-02_T1w.nii", 20);
    put("sub-02/anat/sub-02_T1w.nii", "damaged", 7);
    people("participant_id\tpart\nsub-01\ttrain\nsub-02\ttest\n");
    refused(schema, TIER_EDATA, ":4: column 't1': it is no NIfTI file");
}

Test(spoke_bids, a_schema_that_names_no_file_or_another_folder_is_refused) {
    put("participants.tsv", "participant_id\n", 15);
    refused("kind: bids\nimage: {size: [1, 2, 2]}\ncolumns:\n  - {name: a, type: image}\n"
            "  - {name: m, type: mask, suffix: dseg, categories: [a, b]}\nsplit: {by: column}\n",
            TIER_ECONFIG, "needs its suffix");
    refused("kind: bids\nimage: {size: [1, 2, 2]}\ncolumns:\n"
            "  - {name: a, type: image, suffix: T1w, datatype: ../..}\n"
            "  - {name: m, type: mask, suffix: dseg, categories: [a, b]}\nsplit: {by: column}\n",
            TIER_ECONFIG, "are of letters, digits");
    refused("columns:\n  - {name: a, type: number, suffix: T1w}\n"
            "  - {name: m, type: target, positive_above: 0}\nsplit: {by: column}\n",
            TIER_ECONFIG, "belong to images and masks of kind: bids");
    refused("kind: bids\nimage: {size: [1, 2, 2]}\ncolumns:\n"
            "  - {name: a, type: image, suffix: T1w}\n"
            "  - {name: m, type: mask, suffix: dseg, categories: [a, b]}\n"
            "  - {name: p, type: id}\n"
            "split: {by: hash, key: secret-key, fraction: 0.3}\n",
            TIER_EDATA, "it has no file sub-.../anat/..._T1w.nii");
}

Test(spoke_bids, six_sites_of_the_spinal_cord_challenge_are_read_as_they_lie) {
    static const char contract[] =
        "kind: bids\n"
        "image: {size: [16, 96, 96], spacing: [3, 0.5, 0.5], orientation: RAS, z_score: all}\n"
        "missing_rows: drop\n"
        "columns:\n"
        "  - {name: scan, type: image, suffix: T2starw}\n"
        "  - {name: grey, type: mask, suffix: gmseg-manual, derivative: labels, categories: [no, "
        "yes]}\n"
        "  - {name: participant, type: id}\n"
        "split: {by: hash, key: secret-key, fraction: 0.3}\n";
    struct spoke_data *d = NULL;
    char path[1024];
    size_t rows = 0, grey = 0;

    if (!data_path("gm-spinal-multisite/participants.tsv", path, sizeof path))
        cr_skip_test("gm-spinal-multisite is not here");
    *strrchr(path, '/') = '\0';
    cr_assert(
        eq(int, spoke_data_open(temp_file("s.yaml", contract), path, NULL, &d, &err), TIER_OK),
        "%s", err.text);
    for (int part = 0; part < SPOKE_PARTS; part++) {
        size_t some = spoke_data_rows(d, (enum spoke_part)part), n = spoke_data_features(d);
        const int32_t *masks = spoke_data_labels(d, (enum spoke_part)part);
        for (size_t i = 0; i < some * n; i++)
            grey += masks[i] == 1;
        rows += some;
    }
    cr_expect(eq(sz, rows, 8), "eight sessions have images and masks");
    cr_expect(eq(sz, spoke_data_dropped(d), 8), "their repeats have no masks");
    /* Grey matter is 10 to 20 mm2 of a slice: 40 to 80 pixels of 0.5 mm. */
    cr_expect(grey > 8 * 6 * 20 && grey < 8 * 16 * 100, "%zu", grey);
    printf("grey matter: %.1f voxels a slice\n", (double)grey / (8 * 16));
    spoke_data_free(d);
}
