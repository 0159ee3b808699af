/* SPDX-License-Identifier: Apache-2.0 */
/* NIfTI files, and the data that a table of them makes. */
#include "spoke/data.h"
#include "spoke/nifti.h"
#include "tests/support/data_path.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <math.h>

static struct tier_err err;

TestSuite(spoke_nifti, .fini = temp_release);

static uint8_t file[1 << 16], packed[1 << 16];

/* 4 x 3 x 2 voxels of int16, 100 z + 10 y + x. */
static struct nifti_maker volume(void) {
    return (struct nifti_maker){
        .side = {4, 3, 2}, .type = 4, .bits = 16, .spacing = {1.0f, 2.0f, 3.0f}};
}

static size_t make(const struct nifti_maker *m) {
    int16_t voxels[24];
    for (int i = 0; i < 24; i++)
        voxels[i] = (int16_t)(100 * (i / 12) + 10 * (i / 4 % 3) + i % 4);
    return nifti_make(m, voxels, sizeof voxels, file, sizeof file);
}

static enum tier_status loaded(const char *path, const char *orientation, struct spoke_grid *g) {
    int fd = open(path, O_RDONLY);
    enum tier_status st = spoke_nifti_load(fd, orientation, g, &err);
    close(fd);
    return st;
}

Test(spoke_nifti, a_file_is_read_plain_and_packed_with_slope_and_spacing) {
    struct nifti_maker m = volume();
    struct spoke_grid g = {0};
    m.slope = 2.0f;
    m.offset = 5.0f;
    size_t n = make(&m), zipped = gzip_make(file, n, packed, sizeof packed);
    for (int zip = 0; zip < 2; zip++) {
        const char *path = zip ? temp_file_n("a.nii.gz", (char *)packed, zipped)
                               : temp_file_n("a.nii", (char *)file, n);
        cr_assert(eq(int, loaded(path, NULL, &g), TIER_OK), "%s", err.text);
        cr_expect(g.channels == 1 && g.side[0] == 2 && g.side[1] == 3 && g.side[2] == 4);
        cr_expect(g.spacing[0] == 3.0 && g.spacing[1] == 2.0 && g.spacing[2] == 1.0);
        cr_expect(g.at[23] == 2.0f * 123.0f + 5.0f);
        spoke_grid_release(&g);
    }
    m.slope = 0.0f; /* says nothing */
    n = make(&m);
    cr_assert(eq(int, loaded(temp_file_n("a.nii", (char *)file, n), NULL, &g), TIER_OK));
    cr_expect(g.at[23] == 123.0f);
    spoke_grid_release(&g);
}

Test(spoke_nifti, an_orientation_turns_and_mirrors_the_axes) {
    struct nifti_maker m = volume();
    struct spoke_grid g = {0};
    /* Voxel x goes to the left, voxel y up, voxel z to the front: LSA. */
    m.srow[0][0] = -1.0f;
    m.srow[1][2] = 3.0f;
    m.srow[2][1] = 2.0f;
    size_t n = make(&m);
    const char *path = temp_file_n("a.nii", (char *)file, n);
    cr_assert(eq(int, loaded(path, "RAS", &g), TIER_OK), "%s", err.text);
    cr_expect(g.side[0] == 3 && g.side[1] == 2 && g.side[2] == 4);
    cr_expect(g.spacing[0] == 2.0 && g.spacing[1] == 3.0 && g.spacing[2] == 1.0);
    cr_expect(g.mirrored[2] && !g.mirrored[0] && !g.mirrored[1]);
    /* Grid (z, y, x) is the file's y, z, x. */
    cr_expect(g.at[(2 * 2 + 1) * 4 + 3] == 100.0f * 1 + 10.0f * 2 + 3);
    spoke_grid_release(&g);
    cr_assert(eq(int, loaded(path, "LSA", &g), TIER_OK));
    cr_expect(g.side[0] == 2 && !g.mirrored[2] && g.at[23] == 123.0f);
    spoke_grid_release(&g);
    cr_expect(spoke_orientation_valid("SLP"));
    cr_expect(not(spoke_orientation_valid("RLS")));
    cr_expect(not(spoke_orientation_valid("RA")));
}

Test(spoke_nifti, a_quaternion_is_a_rotation) {
    struct nifti_maker m = volume();
    struct spoke_nifti nifti;
    int16_t code = 1;
    float q[3] = {0.0f, 0.0f, 0.70710678f}, minus = -1.0f;
    size_t n = make(&m);
    memcpy(file + 252, &code, 2);
    memcpy(file + 256, q, 12);
    memcpy(file + 76, &minus, 4);
    cr_assert(eq(int, spoke_nifti_parse(file, n, &nifti, &err), TIER_OK), "%s", err.text);
    /* A quarter turn around z: x goes to y, y to minus x; z is mirrored by pixdim[0]. */
    cr_expect(epsilon_eq(dbl, nifti.affine[1][0], 1.0, 1e-6));
    cr_expect(epsilon_eq(dbl, nifti.affine[0][1], -2.0, 1e-6));
    cr_expect(epsilon_eq(dbl, nifti.affine[2][2], -3.0, 1e-6));
    cr_expect(epsilon_eq(dbl, nifti.spacing[1], 2.0, 1e-6));
}

Test(spoke_nifti, the_other_byte_order_is_read) {
    uint8_t swapped[352 + 4] = {0};
    struct spoke_nifti n;
    static const struct {
        int at;
        uint8_t bytes[4];
        int count;
    } fields[] = {{0, {0, 0, 1, 0x5c}, 4}, {40, {0, 1}, 2},          {42, {0, 2}, 2},
                  {70, {0, 4}, 2},         {72, {0, 16}, 2},         {80, {0x3f, 0x80}, 4},
                  {108, {0x43, 0xb0}, 4},  {344, {'n', '+', '1'}, 4}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        memcpy(swapped + fields[i].at, fields[i].bytes, (size_t)fields[i].count);
    swapped[353] = 7;
    cr_assert(eq(int, spoke_nifti_parse(swapped, sizeof swapped, &n, &err), TIER_OK), "%s",
              err.text);
    struct spoke_grid g = {0};
    cr_assert(
        eq(int, loaded(temp_file_n("a.nii", (char *)swapped, sizeof swapped), NULL, &g), TIER_OK),
        "%s", err.text);
    cr_expect(g.side[2] == 2 && g.at[0] == 7.0f);
    spoke_grid_release(&g);
}

static void refused_header(int at, const void *bytes, size_t n, const char *piece) {
    struct nifti_maker m = volume();
    struct spoke_grid g = {0};
    size_t all = make(&m);
    memcpy(file + at, bytes, n);
    cr_expect(loaded(temp_file_n("a.nii", (char *)file, all), NULL, &g) != TIER_OK, "%s", piece);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
}

Test(spoke_nifti, a_header_that_lies_is_refused) {
    static const int16_t huge[7] = {7, 32767, 32767, 32767, 1, 1, 1}, none[2] = {3, 0};
    static const int16_t large[4] = {3, 512, 512, 256}, eight = 8, minus[2] = {3, -4};
    static const int16_t rgb = 128;
    static const float far = 1e20f, nan_at = NAN;
    refused_header(40, huge, sizeof huge, "2^27 voxels");
    refused_header(40, large, sizeof large, "damaged or cut off");
    refused_header(40, none, sizeof none, "an axis without voxels");
    refused_header(40, minus, sizeof minus, "an axis without voxels");
    refused_header(40, &eight, 2, "not that of a NIfTI file");
    refused_header(70, &rgb, 2, "of a type that is not read");
    refused_header(108, &far, 4, "where the voxels begin");
    refused_header(108, &nan_at, 4, "where the voxels begin");
    refused_header(344, "ni1", 4, ".hdr and .img");
    refused_header(344, "abc", 4, "no NIfTI file");
    refused_header(80, &nan_at, 4, "no affine");
}

Test(spoke_nifti, every_cut_and_a_wrong_checksum_are_refused) {
    struct nifti_maker m = volume();
    struct spoke_grid g = {0};
    size_t n = make(&m), zipped = gzip_make(file, n, packed, sizeof packed);
    for (size_t cut = 0; cut < zipped; cut++)
        cr_expect(loaded(temp_file_n("a.nii.gz", (char *)packed, cut), NULL, &g) != TIER_OK,
                  "%zu of %zu", cut, zipped);
    packed[zipped - 8] ^= 1;
    cr_expect(
        eq(int, loaded(temp_file_n("a.nii.gz", (char *)packed, zipped), NULL, &g), TIER_EDATA));
    for (size_t cut = 0; cut < n; cut += 13)
        cr_expect(loaded(temp_file_n("a.nii", (char *)file, cut), NULL, &g) != TIER_OK);
}

/* ---- a table of files ---------------------------------------------------------------------- */

static const char schema[] =
    "kind: nifti\n"
    "image: {channels: 2, size: [2, 3, 4], spacing: [3, 2, 1], orientation: RAS}\n"
    "columns:\n"
    "  - {name: t1, type: image}\n"
    "  - {name: t2, type: image}\n"
    "  - {name: organ, type: mask, categories: [none, liver]}\n"
    "  - {name: part, type: split}\n"
    "split: {by: column}\n";

static enum tier_status open_with(const char *text, struct spoke_data **d) {
    return spoke_data_open(temp_file("s.yaml", text),
                           temp_file("t.csv", "t1,t2,organ,part\na.nii,b.nii,m.nii,train\n"), NULL,
                           d, &err);
}

Test(spoke_nifti, modalities_in_files_of_their_own_become_channels_with_a_mask) {
    struct nifti_maker m = volume();
    struct spoke_data *d = NULL;
    uint8_t organ[24] = {0};
    m.srow[0][0] = -1.0f; /* mirrored along x */
    m.srow[1][1] = 2.0f;
    m.srow[2][2] = 3.0f;
    temp_file_n("a.nii", (char *)file, make(&m));
    m.slope = 2.0f;
    temp_file_n("b.nii", (char *)file, make(&m));
    m.slope = 0.0f;
    m.type = 2;
    organ[0] = organ[23] = 1;
    temp_file_n("m.nii", (char *)file, nifti_make(&m, organ, 24, file, sizeof file));
    cr_assert(eq(int, open_with(schema, &d), TIER_OK), "%s", err.text);
    const float *x = spoke_data_x(d, SPOKE_TRAIN);
    const int32_t *mask = spoke_data_labels(d, SPOKE_TRAIN);
    cr_expect(eq(sz, spoke_data_target_size(d), 24));
    cr_expect(x[0] == 3.0f && x[3] == 0.0f && x[23] == 120.0f && x[24] == 6.0f);
    cr_expect(mask[3] == 1 && mask[20] == 1 && mask[0] == 0 && mask[23] == 0);
    spoke_data_free(d);
    d = NULL;
    organ[5] = 2;
    temp_file_n("m.nii", (char *)file, nifti_make(&m, organ, 24, file, sizeof file));
    cr_expect(eq(int, open_with(schema, &d), TIER_EDATA));
    cr_expect(strstr(err.text, "t.csv:2: column 'organ': the mask has an element") != NULL, "%s",
              err.text);
    m.srow[0][3] = 9.0f;
    organ[5] = 1;
    temp_file_n("m.nii", (char *)file, nifti_make(&m, organ, 24, file, sizeof file));
    cr_expect(eq(int, open_with(schema, &d), TIER_EDATA));
    cr_expect(strstr(err.text, "another shape or place") != NULL, "%s", err.text);
}

/* ---- real data ----------------------------------------------------------------------------- */

/* A table of all cases of a folder in the decathlon's layout; NULL, and a reason, without it. */
static const char *cases_table(size_t *count, double side[3]) {
    char images[1024], path[2048];
    size_t size = 1 << 20, used = 0;

    if (!data_path("msd-hippocampus/imagesTr", images, sizeof images))
        return NULL;
    char *csv = malloc(size);
    used = (size_t)snprintf(csv, size, "image,mask,patient\n");
    DIR *dir = opendir(images);
    memset(side, 0, 3 * sizeof *side);
    *count = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        struct spoke_grid g = {0};
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", images, e->d_name);
        cr_assert(eq(int, loaded(path, NULL, &g), TIER_OK), "%s: %s", path, err.text);
        for (int i = 0; i < 3; i++)
            side[i] += (double)g.side[i];
        spoke_grid_release(&g);
        used += (size_t)snprintf(csv + used, size - used, "%s,%s/../labelsTr/%s,%s\n", path, images,
                                 e->d_name, e->d_name);
        ++*count;
    }
    closedir(dir);
    const char *table = temp_file("cases.csv", csv);
    free(csv);
    return table;
}

Test(spoke_nifti, hippocampus_has_the_cases_shapes_and_classes_its_readme_says) {
    char schema_path[1024];
    double side[3];
    size_t cases = 0, rows = 0;
    uint64_t voxels[3] = {0};
    struct spoke_data *d = NULL;

    const char *table = cases_table(&cases, side);
    if (!table)
        cr_skip_test("msd-hippocampus is not here");
    cr_expect(eq(sz, cases, 260));
    for (int i = 0; i < 3; i++)
        side[i] /= (double)cases;
    cr_expect(side[2] > 31 && side[2] < 43 && side[1] > 40 && side[1] < 59 && side[0] > 24 &&
              side[0] < 47);
    source_path("deploy/examples/hippocampus/schema.yaml", schema_path, sizeof schema_path);
    cr_assert(eq(int, spoke_data_open(schema_path, table, NULL, &d, &err), TIER_OK), "%s",
              err.text);
    cr_expect(spoke_data_x(d, SPOKE_TRAIN) == NULL, "it is too large to be held");
    size_t n = spoke_data_features(d);
    float *x = malloc(n * sizeof *x);
    int32_t *mask = malloc(n * sizeof *mask);
    for (int part = 0; part < SPOKE_PARTS; part++) {
        rows += spoke_data_rows(d, (enum spoke_part)part);
        for (int32_t r = 0; r < (int32_t)spoke_data_rows(d, (enum spoke_part)part); r++) {
            double sum = 0.0, squares = 0.0;
            size_t inside = 0;
            cr_assert(
                eq(int, spoke_data_read(d, (enum spoke_part)part, &r, 1, x, mask, &err), TIER_OK),
                "%s", err.text);
            for (size_t i = 0; i < n; i++) {
                voxels[mask[i]]++;
                inside += x[i] != 0.0f;
                sum += x[i];
                squares += (double)x[i] * x[i];
            }
            cr_expect(fabs(sum / (double)inside) < 1e-3 &&
                      fabs(squares / (double)inside - 1.0) < 1e-2);
        }
    }
    cr_expect(eq(sz, rows, 260));
    cr_expect(voxels[1] > 100000 && voxels[2] > 100000 && voxels[0] > 9 * (voxels[1] + voxels[2]),
              "%lu %lu %lu", voxels[0], voxels[1], voxels[2]);
    printf("hippocampus: mean sides z %.2f y %.2f x %.2f; voxels of the classes %lu %lu %lu\n",
           side[0], side[1], side[2], voxels[0], voxels[1], voxels[2]);
    free(mask);
    free(x);
    spoke_data_free(d);
}

Test(spoke_nifti, scans_of_six_scanners_come_to_one_spacing) {
    static const char *const sessions[] = {"sub-10062Ses1", "sub-10062Ses2", "sub-9418",
                                           "sub-9584",      "sub-9604",      "sub-9669",
                                           "sub-9709Ses1"};
    static const char contract[] =
        "kind: nifti\n"
        "image: {size: [16, 96, 96], spacing: [3, 0.5, 0.5], orientation: RAS, percentiles: [1, "
        "99], z_score: all}\n"
        "columns:\n  - {name: image, type: image}\n"
        "  - {name: mask, type: mask, categories: [background, cord]}\n"
        "  - {name: patient, type: id}\n"
        "split: {by: hash, key: secret-key, fraction: 0.3}\n";
    char root[1024], csv[8192];
    struct spoke_data *d = NULL;
    size_t used, rows = 0, cord = 0;

    if (!data_path("gm-spinal-multisite/participants.tsv", root, sizeof root))
        cr_skip_test("gm-spinal-multisite is not here");
    *strrchr(root, '/') = '\0';
    used = (size_t)snprintf(csv, sizeof csv, "image,mask,patient\n");
    for (size_t i = 0; i < sizeof sessions / sizeof sessions[0]; i++)
        used += (size_t)snprintf(
            csv + used, sizeof csv - used,
            "%s/%s/anat/%s_run-1_T2starw.nii.gz,"
            "%s/derivatives/labels/%s/anat/%s_run-1_T2starw_seg-manual.nii.gz,%s\n",
            root, sessions[i], sessions[i], root, sessions[i], sessions[i], sessions[i]);
    cr_assert(
        eq(int,
           spoke_data_open(temp_file("s.yaml", contract), temp_file("t.csv", csv), NULL, &d, &err),
           TIER_OK),
        "%s", err.text);
    for (int part = 0; part < SPOKE_PARTS; part++) {
        size_t some = spoke_data_rows(d, (enum spoke_part)part), n = spoke_data_features(d);
        const int32_t *masks = spoke_data_labels(d, (enum spoke_part)part);
        for (size_t i = 0; i < some * n; i++)
            cord += masks[i] == 1;
        rows += some;
    }
    cr_expect(eq(sz, rows, 7));
    /* The cord is about 80 mm2: 320 pixels of 0.5 mm. */
    cr_expect(cord > 7 * 8 * 150 && cord < 7 * 16 * 600, "%zu", cord);
    printf("spinal cord: %.1f voxels a slice\n", (double)cord / (7 * 16));
    spoke_data_free(d);
}
