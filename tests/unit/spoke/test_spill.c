/* SPDX-License-Identifier: Apache-2.0 */
/* Rows kept in a file without a name: what was put is there, what was not is not. */
#include "spoke/feed.h"
#include "spoke/spill.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

static struct tier_err err;
static uint8_t file[4096];

TestSuite(spoke_spill, .fini = temp_release);

static int files_in(const char *folder) {
    DIR *dir = opendir(folder);
    int n = 0;
    for (const struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

Test(spoke_spill, a_row_is_there_when_all_that_is_asked_for_was_put) {
    struct spoke_spill *s = NULL;
    const float x[3] = {1, 2, 3}, other[3] = {4, 5, 6};
    const int32_t mask[2] = {7, 8};
    float got[3] = {0};
    int32_t got_mask[2] = {0};
    temp_file("here", "");
    cr_assert(eq(int, spoke_spill_open(temp.folder, 4, 3, 2, &s, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(int, files_in(temp.folder), 1), "it has no name");
    cr_expect(eq(int, spoke_spill_take(s, 2, got, NULL), false));
    spoke_spill_put(s, 2, x, NULL);
    spoke_spill_put(s, 3, other, mask);
    cr_expect(eq(int, spoke_spill_take(s, 2, got, got_mask), false));
    cr_expect(spoke_spill_take(s, 2, got, NULL) && memcmp(got, x, sizeof x) == 0);
    cr_expect(spoke_spill_take(s, 3, got, got_mask) && memcmp(got, other, sizeof x) == 0);
    cr_expect(memcmp(got_mask, mask, sizeof mask) == 0);
    cr_expect(eq(int, spoke_spill_take(s, 4, got, NULL), false), "there is no such row");
    spoke_spill_close(s);
    cr_expect(eq(int, spoke_spill_open("/nonexistent", 4, 3, 2, &s, &err), TIER_EIO));
}

Test(spoke_spill, a_disk_that_is_full_costs_nothing_but_speed) {
    const struct rlimit small = {8, 8};
    struct spoke_spill *s = NULL;
    const float x[3] = {1, 2, 3};
    float got[3];
    temp_file("here", "");
    cr_assert(eq(int, spoke_spill_open(temp.folder, 4, 3, 0, &s, &err), TIER_OK), "%s", err.text);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert(eq(int, setrlimit(RLIMIT_FSIZE, &small), 0));
    spoke_spill_put(s, 1, x, NULL);
    cr_expect(eq(int, spoke_spill_take(s, 1, got, NULL), false));
    spoke_spill_close(s);
}

Test(spoke_spill, half_of_what_the_disk_has_is_left_to_the_node) {
    static float x[16384];
    struct spoke_spill *s = NULL;
    size_t there = 0;
    temp_file("here", "");
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", temp.folder, "tmpfs", 0, "size=1m") != 0)
        cr_skip_test("a disk of its own takes root");
    cr_assert(eq(int, spoke_spill_open(temp.folder, 32, 16384, 0, &s, &err), TIER_OK), "%s",
              err.text);
    for (size_t row = 0; row < 32; row++)
        spoke_spill_put(s, row, x, NULL);
    for (size_t row = 0; row < 32; row++)
        there += spoke_spill_take(s, row, x, NULL);
    cr_expect(there >= 6 && there <= 8, "%zu rows of 64 KiB in 1 MiB", there);
    spoke_spill_close(s);
    umount2(temp.folder, MNT_DETACH);
}

static const char schema[] = "kind: nifti\n"
                             "image: {size: [2, 2, 2], standardise: true, mean: [1], std: [2]}\n"
                             "columns:\n"
                             "  - {name: scan, type: image}\n"
                             "  - {name: organ, type: mask, categories: [none, liver]}\n"
                             "  - {name: part, type: split}\n"
                             "split: {by: column}\n";

static void volume(const char *name, uint8_t first) {
    struct nifti_maker m = {.side = {2, 2, 2}, .type = 2, .bits = 8, .spacing = {1, 1, 1}};
    uint8_t voxels[8] = {first, 1, 0, 1, 0, 1, 0, 1};
    temp_file_n(name, (char *)file, nifti_make(&m, voxels, 8, file, sizeof file));
}

Test(spoke_spill, a_file_is_read_once_and_its_row_is_the_same_ever_after) {
    struct spoke_data_options o = {.on_demand = true};
    struct spoke_data *d = NULL;
    float before[8], after[8];
    int32_t mask[8], mask_after[8], row = 1;
    for (int spilled = 0; spilled < 2; spilled++) {
        volume("a.nii", 5);
        volume("b.nii", 9);
        volume("m.nii", 1);
        const char *csv = temp_file("t.csv", "scan,organ,part\na.nii,m.nii,test\n"
                                             "a.nii,m.nii,train\nb.nii,m.nii,train\n");
        o.spill_dir = spilled ? temp.folder : NULL;
        cr_assert(eq(int, spoke_data_open(temp_file("s.yaml", schema), csv, &o, &d, &err), TIER_OK),
                  "%s", err.text);
        cr_assert(eq(int, spoke_data_read(d, SPOKE_TRAIN, &row, 1, before, mask, &err), TIER_OK),
                  "%s", err.text);
        cr_expect(before[0] > 3.99f && before[0] < 4.01f);
        temp_file("b.nii", "gone");
        temp_file("m.nii", "gone");
        enum tier_status st = spoke_data_read(d, SPOKE_TRAIN, &row, 1, after, mask_after, &err);
        cr_expect(eq(int, st, spilled ? TIER_OK : TIER_EDATA));
        cr_expect(spilled == 0 || (memcmp(before, after, sizeof after) == 0 &&
                                   memcmp(mask, mask_after, sizeof mask) == 0));
        int32_t first = 0;
        cr_expect(eq(int, spoke_data_read(d, SPOKE_TRAIN, &first, 1, after, NULL, &err), TIER_OK),
                  "another row is read from its file");
        cr_expect(after[0] > 1.99f && after[0] < 2.01f);
        spoke_data_free(d);
        d = NULL;
    }
}

Test(spoke_spill, where_no_file_can_be_made_rows_are_read_from_their_files_each_time) {
    const struct spoke_data_options o = {.on_demand = true, .spill_dir = "/nonexistent"};
    struct spoke_data *d = NULL;
    float x[8];
    int32_t mask[8], row = 0;
    volume("a.nii", 5);
    volume("m.nii", 1);
    const char *csv = temp_file("t.csv", "scan,organ,part\na.nii,m.nii,train\n");
    cr_assert(eq(int, spoke_data_open(temp_file("s.yaml", schema), csv, &o, &d, &err), TIER_OK),
              "%s", err.text);
    for (int again = 0; again < 2; again++) {
        cr_expect(eq(int, spoke_data_read(d, SPOKE_TRAIN, &row, 1, x, mask, &err), TIER_OK), "%s",
                  err.text);
        cr_expect(x[0] > 1.99f && x[0] < 2.01f && mask[0] == 1);
    }
    temp_file("a.nii", "gone");
    cr_expect(eq(int, spoke_data_read(d, SPOKE_TRAIN, &row, 1, x, mask, &err), TIER_EDATA));
    spoke_data_free(d);
}

#define WINDOWS 40

/* The windows of 2 x 1 x 1 that two epochs see, the second after the files are gone. */
static void see_windows(const char *spill_dir, float x[WINDOWS], int32_t masks[WINDOWS]) {
    const struct spoke_data_options o = {.on_demand = true,
                                         .spill_dir = spill_dir,
                                         .patch = {.axes = 3, .side = {2, 1, 1}, .positive = 0.5}};
    const struct spoke_feed_options how = {.batch = 2, .threads = 2, .seed = 3};
    const int32_t order[WINDOWS / 4] = {0, 1, 0, 1, 1, 0, 0, 1, 1, 0};
    struct spoke_data *d = NULL;
    struct spoke_feed *f = NULL;
    struct spoke_batch b;
    size_t at = 0;

    volume("a.nii", 5);
    volume("b.nii", 9);
    volume("m.nii", 1);
    const char *csv = temp_file("t.csv", "scan,organ,part\na.nii,m.nii,train\nb.nii,m.nii,train\n");
    cr_assert(eq(int, spoke_data_open(temp_file("s.yaml", schema), csv, &o, &d, &err), TIER_OK),
              "%s", err.text);
    cr_assert(eq(int, spoke_feed_open(d, &how, &f, &err), TIER_OK), "%s", err.text);
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        cr_assert(eq(int, spoke_feed_begin(f, order, WINDOWS / 4, epoch, &err), TIER_OK));
        for (;;) {
            cr_assert(eq(int, spoke_feed_next(f, &b, &err), TIER_OK), "%s", err.text);
            if (b.rows == 0)
                break;
            memcpy(x + at, b.x, b.rows * 2 * sizeof *x);
            memcpy(masks + at, b.labels, b.rows * 2 * sizeof *masks);
            at += b.rows * 2;
        }
        for (int i = 0; spill_dir && i < 3; i++)
            temp_file((const char *[]){"a.nii", "b.nii", "m.nii"}[i], "gone");
    }
    cr_expect(eq(sz, at, WINDOWS));
    spoke_feed_close(f);
    spoke_data_free(d);
}

Test(spoke_spill, windows_are_those_of_rows_that_were_read_from_files) {
    float x[2][WINDOWS];
    int32_t masks[2][WINDOWS];
    size_t first = 0;
    temp_file("here", "");
    see_windows(NULL, x[0], masks[0]);
    see_windows(temp.folder, x[1], masks[1]);
    cr_expect(memcmp(x[0], x[1], sizeof x[0]) == 0);
    cr_expect(memcmp(masks[0], masks[1], sizeof masks[0]) == 0);
    for (size_t i = 0; i < WINDOWS; i += 2)
        first += x[0][i] > 1.9f; /* the spot that stands out is in some windows, not in all */
    cr_expect(first > 0 && first < WINDOWS / 2, "%zu", first);
}
