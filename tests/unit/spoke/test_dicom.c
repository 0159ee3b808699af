/* SPDX-License-Identifier: Apache-2.0 */
/* DICOM files through DCMTK's tools, series as volumes, and the data that a table of them makes. */
#include "spoke/data.h"
#include "spoke/dicom.h"
#include "spoke/process.h"
#include "tests/support/data_path.h"
#include "tests/support/dicom_writer.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

static struct tier_err err;
static uint8_t file[1 << 16];

static void release(void) {
    char folder[64], inner[80];
    snprintf(folder, sizeof folder, "%s", temp.folder);
    snprintf(inner, sizeof inner, "%s/s", folder);
    temp_release();
    rmdir(inner);
    rmdir(folder);
}

TestSuite(spoke_dicom, .fini = release);

/* Where the tools are not installed nothing here can be shown. */
static bool has_tools(void) {
    static const char *const argv[] = {"dcm2json", "--version", NULL};
    struct spoke_process p = {.argv = argv,
                              .output_max = 1 << 16,
                              .file_max = 1 << 16,
                              .memory_max = UINT64_C(1) << 32,
                              .timeout_ms = 60000};
    uint8_t *text = NULL;
    size_t n = 0;
    int code = -1;
    bool there = spoke_process_run(&p, &code, &text, &n, &err) == TIER_OK && code == 0;
    free(text);
    if (!there)
        fprintf(stderr, "skipped: dcm2json is not here (Debian's package dcmtk): %s\n", err.text);
    return there;
}

static enum tier_status read_path(const char *path, struct spoke_dicom_slice *s) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert(fd >= 0, "%s", path);
    enum tier_status st = spoke_dicom_read(fd, s, &err);
    close(fd);
    return st;
}

/* ---- real files ---------------------------------------------------------------------------- */

static bool sample(const char *name, char *path, size_t size) {
    char file_name[128];
    snprintf(file_name, sizeof file_name, "pydicom-samples/%s", name);
    return data_path(file_name, path, size);
}

/* Of pydicom 2.3.1: pixel_array * RescaleSlope + RescaleIntercept; the JPEG-LS with pylibjpeg 2. */
Test(spoke_dicom, the_values_of_each_transfer_syntax_are_those_that_pydicom_reads) {
    static const struct {
        const char *name;
        size_t side;
        double sum;
        float first, inside, last;
    } known[] = {
        {"CT_small.dcm", 128, -1950906, -849, -838, -115},
        {"MR_small.dcm", 64, 2125338, 905, 847, 862},
        {"MR_small_implicit.dcm", 64, 2125338, 905, 847, 862},
        {"MR_small_bigendian.dcm", 64, 2125338, 905, 847, 862},
        {"MR_small_RLE.dcm", 64, 2125338, 905, 847, 862},
        {"MR_small_jpeg_ls_lossless.dcm", 64, 2125338, 905, 847, 862},
    };
    char path[1024];
    if (!has_tools() || !sample(known[0].name, path, sizeof path))
        return;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct spoke_dicom_slice s = {0};
        double sum = 0.0;
        cr_assert(sample(known[i].name, path, sizeof path));
        cr_assert(eq(int, read_path(path, &s), TIER_OK), "%s: %s", known[i].name, err.text);
        size_t n = known[i].side;
        cr_expect(s.rows == n && s.columns == n && s.samples == 1 && s.frames == 1);
        for (size_t k = 0; k < n * n; k++)
            sum += s.at[k];
        cr_expect(sum == known[i].sum, "%s: %g", known[i].name, sum);
        cr_expect(s.at[0] == known[i].first && s.at[5 * n + 7] == known[i].inside &&
                  s.at[n * n - 1] == known[i].last);
        cr_expect(s.places[0].placed && s.places[0].along[1][1] == 1.0);
        spoke_dicom_slice_release(&s);
    }
}

Test(spoke_dicom, a_file_that_cannot_be_read_is_refused_with_the_reason) {
    static const struct {
        const char *name, *reason;
    } bad[] = {
        {"JPEG2000.dcm", "JPEG 2000"},
        {"MR_small_jp2klossless.dcm", "JPEG 2000 lossless"},
        {"MR_truncated.dcm", "cut off"},
        {"badVR.dcm", "number of frames"},
        {"SC_rgb_jpeg.dcm", "not DICOM as its header says"}, /* its data set is implicit VR */
        {"ExplVR_BigEndNoMeta.dcm", "it has no image"},
        {"README.txt", "not DICOM"},
    };
    char path[1024];
    if (!has_tools() || !sample(bad[0].name, path, sizeof path))
        return;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct spoke_dicom_slice s = {0};
        cr_assert(sample(bad[i].name, path, sizeof path));
        cr_expect(eq(int, read_path(path, &s), TIER_EDATA), "%s", bad[i].name);
        cr_expect(strstr(err.text, bad[i].reason) != NULL, "%s: %s", bad[i].name, err.text);
        cr_expect(s.at == NULL && s.places == NULL);
    }
}

/* A tool of DCMTK on one file, to another. */
static void convert(const char *tool, const char *way, const char *from, const char *to) {
    const char *argv[] = {tool, "-q", way, "/dev/fd/3", "/dev/fd/4", NULL};
    int out = open(to, O_RDWR | O_CREAT | O_CLOEXEC, 0600), in = open(from, O_RDONLY | O_CLOEXEC);
    struct spoke_process p = {.argv = argv,
                              .files = {in, out},
                              .files_count = 2,
                              .output_max = 1 << 16,
                              .file_max = 1 << 24,
                              .memory_max = UINT64_C(1) << 32,
                              .timeout_ms = 60000};
    uint8_t *text = NULL;
    size_t n = 0;
    int code = -1;
    cr_assert(eq(int, spoke_process_run(&p, &code, &text, &n, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, code, 0), "%s", tool);
    free(text);
    close(in);
    close(out);
}

Test(spoke_dicom, deflated_and_jpeg_lossless_files_hold_what_was_packed) {
    static const struct {
        const char *tool, *way;
    } ways[] = {{"dcmconv", "+td"}, {"dcmcjpeg", "+e1"}, {"dcmcjpeg", "+el"}, {"dcmcrle", "+un"}};
    struct dicom_maker m = {
        .rows = 16, .columns = 24, .stored = 12, .slope = "2", .intercept = "-3"};
    uint16_t pixels[16 * 24];
    if (!has_tools())
        return;
    for (int i = 0; i < 16 * 24; i++)
        pixels[i] = (uint16_t)(i * 37 % 4096);
    const char *plain =
        temp_file_n("plain.dcm", (char *)file, dicom_make(&m, pixels, file, sizeof file));
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        struct spoke_dicom_slice s = {0};
        const char *packed = temp_file("packed.dcm", "");
        convert(ways[i].tool, ways[i].way, plain, packed);
        cr_assert(eq(int, read_path(packed, &s), TIER_OK), "%s %s: %s", ways[i].tool, ways[i].way,
                  err.text);
        for (int k = 0; k < 16 * 24; k++)
            cr_assert(s.at[k] == 2.0f * pixels[k] - 3.0f, "%s %s: %d", ways[i].tool, ways[i].way,
                      k);
        spoke_dicom_slice_release(&s);
    }
}

Test(spoke_dicom, every_cut_of_a_file_is_refused) {
    struct dicom_maker m = {.rows = 4, .columns = 4};
    uint16_t pixels[16] = {1, 2, 3};
    if (!has_tools())
        return;
    size_t n = dicom_make(&m, pixels, file, sizeof file);
    for (size_t cut = 0; cut < n; cut += 29) {
        struct spoke_dicom_slice s = {0};
        enum tier_status st = read_path(temp_file_n("cut.dcm", (char *)file, cut), &s);
        cr_expect(eq(int, st, TIER_EDATA), "cut at %zu of %zu", cut, n);
        spoke_dicom_slice_release(&s);
    }
}

/* ---- values -------------------------------------------------------------------------------- */

static float first_of(const struct dicom_maker *m, uint16_t stored) {
    uint16_t pixels[4] = {stored};
    struct spoke_dicom_slice s = {0};
    size_t n = dicom_make(m, pixels, file, sizeof file);
    cr_assert(eq(int, read_path(temp_file_n("v.dcm", (char *)file, n), &s), TIER_OK), "%s",
              err.text);
    float v = s.at[0];
    spoke_dicom_slice_release(&s);
    return v;
}

Test(spoke_dicom, bits_sign_inversion_and_rescale_are_applied_in_that_order) {
    struct dicom_maker m = {.rows = 2, .columns = 2, .stored = 12};
    if (!has_tools())
        return;
    cr_expect(first_of(&m, 0xf123) == 0x123); /* what lies above the bits stored is no value */
    m.is_signed = 1;
    cr_expect(first_of(&m, 0x0fff) == -1.0f);
    m.photometric = "MONOCHROME1";
    cr_expect(first_of(&m, 0x0fff) == 0.0f && first_of(&m, 0x07ff) == -2048.0f);
    m.is_signed = 0;
    m.slope = "0.5";
    m.intercept = "-10";
    cr_expect(first_of(&m, 0) == 0.5f * 4095.0f - 10.0f);
}

/* ---- series -------------------------------------------------------------------------------- */

#define AXIAL "1\\0\\0\\0\\1\\0"
static uint16_t made; /* a number for each file */

/* A slice 2 x 3 of pixels `value` at z, in the folder s. */
static void slice(const char *name, const char *position, uint16_t value,
                  const struct dicom_maker *with) {
    struct dicom_maker m = with ? *with : (struct dicom_maker){0};
    uint16_t pixels[6] = {value, value, value, value, value, (uint16_t)(value + 1)};
    char path[100];

    temp_file("t.csv", ""); /* makes the folder */
    snprintf(path, sizeof path, "%s/s", temp.folder);
    mkdir(path, 0700);
    m.rows = 2;
    m.columns = 3;
    m.position = position;
    m.instance = ++made;
    m.orientation = m.orientation ? m.orientation : AXIAL;
    m.spacing = m.spacing ? m.spacing : "2\\1.5";
    snprintf(path, sizeof path, "s/%s", name);
    temp_file_n(path, (char *)file, dicom_make(&m, pixels, file, sizeof file));
}

static const char *modality; /* that every file must have */
static bool named;           /* messages tell files by name, too */

static enum tier_status load(const char *name, const char *orientation, struct spoke_grid *g) {
    int at = open(temp.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum tier_status st = spoke_dicom_load(at, name, orientation, modality, named, g, &err);
    close(at);
    return st;
}

Test(spoke_dicom, slices_are_ordered_along_their_normal_whatever_their_files_are_called) {
    struct spoke_grid g = {0};
    if (!has_tools())
        return;
    slice("a.dcm", "10\\20\\3", 30, NULL);
    slice("b.dcm", "10\\20\\-5", 10, NULL);
    slice("c", "10\\20\\-1.0001", 20, NULL);
    slice(".hidden", "0\\0\\0", 99, NULL);
    cr_assert(eq(int, load("s", NULL, &g), TIER_OK), "%s", err.text);
    cr_expect(g.channels == 1 && g.side[0] == 3 && g.side[1] == 2 && g.side[2] == 3);
    cr_expect(g.at[0] == 10 && g.at[6] == 20 && g.at[12] == 30 && g.at[17] == 31);
    cr_expect(epsilon_eq(dbl, g.spacing[0], 4.0, 1e-3));
    cr_expect(g.spacing[1] == 2.0 && g.spacing[2] == 1.5);
    /* x to the left is -x to the right; sides are z, y, x. */
    cr_expect(g.affine[0][2] == -1.5 && g.affine[1][1] == -2.0 && g.affine[2][0] > 0.0);
    cr_expect(g.affine[0][3] == -10.0 && g.affine[1][3] == -20.0 && g.affine[2][3] == -5.0);
    spoke_grid_release(&g);
    cr_assert(eq(int, load("s", "RAS", &g), TIER_OK), "%s", err.text);
    cr_expect(g.mirrored[1] && g.mirrored[2] && !g.mirrored[0]);
    spoke_grid_release(&g);
    cr_assert(eq(int, load("s/a.dcm", NULL, &g), TIER_OK), "%s", err.text);
    cr_expect(g.side[0] == 1 && g.at[0] == 30);
    spoke_grid_release(&g);
}

static void refused_series(const char *piece) {
    struct spoke_grid g = {0};
    cr_expect(eq(int, load("s", NULL, &g), TIER_EDATA), "%s", piece);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
    cr_expect(strstr(err.text, "PATIENT") == NULL, "a name is in: %s", err.text);
    spoke_grid_release(&g);
}

Test(spoke_dicom, a_slice_at_no_place_of_this_world_is_refused) {
    if (!has_tools())
        return;
    slice("a", "0\\0\\-1.5e308", 1, NULL);
    slice("b", "0\\0\\1.5e308", 2, NULL);
    refused_series("more than a kilometre away");
}

Test(spoke_dicom, a_series_with_a_missing_slice_is_refused) {
    if (!has_tools())
        return;
    slice("a", "0\\0\\0", 1, NULL);
    slice("b", "0\\0\\2", 2, NULL);
    slice("c", "0\\0\\6", 3, NULL);
    slice("PATIENT", "0\\0\\8", 3, NULL);
    refused_series(
        "1 slices are missing between number 2 and 3 along their normal, of 4, in files 3 "
        "and 4 of the folder");
    slice("c", "0\\0\\2", 3, NULL);
    refused_series(
        "two slices lie at the same place, number 2 and 3 along their normal, in files 3 "
        "and 4 of the folder");
    slice("c", "0\\0\\4.5", 3, NULL);
    slice("PATIENT", "0\\0\\6", 3, NULL);
    refused_series("uneven: number 3 of 4 along their normal, in file 4 of the folder");
}

Test(spoke_dicom, slices_that_do_not_belong_together_are_refused) {
    static const struct dicom_maker other = {.series = "1.2.4"};
    static const struct dicom_maker coronal = {.orientation = "1\\0\\0\\0\\0\\-1"};
    static const struct dicom_maker wider = {.spacing = "2\\1.6"};
    static const struct dicom_maker crooked = {.orientation = "1\\0\\0\\1\\0\\0"};
    if (!has_tools())
        return;
    slice("a", "0\\0\\0", 1, NULL);
    slice("b", "0\\0\\2", 2, &other);
    refused_series("file 2 of the folder is of another series");
    slice("b", "0\\0\\2", 2, &coronal);
    refused_series("file 2 of the folder has a slice of another orientation");
    slice("b", "0\\0\\2", 2, &wider);
    refused_series("file 2 of the folder has a slice of another orientation or pixel spacing");
    slice("b", "0\\0\\2", 2, &crooked);
    refused_series("file 2 of 2 in the folder: its orientation");
    slice("b", NULL, 2, NULL);
    refused_series("file 2 of the folder has a slice that does not say where it lies");
    slice("b", "0\\0.7\\2", 2, NULL);
    refused_series("tilted gantry");
    temp_file("s/b", "text in the folder");
    refused_series("file 2 of 2 in the folder: the file is damaged");
}

Test(spoke_dicom, files_are_told_by_name_only_where_that_is_asked_for) {
    if (!has_tools())
        return;
    slice("a'\n1", "0\\0\\0", 1, NULL);
    slice("b", "0\\0\\0", 2, NULL);
    named = true;
    refused_series("in files 1 (name 'a??1') and 2 (name 'b') of the folder");
    temp_file("s/b", "text in the folder");
    refused_series("file 2 (name 'b') of 2 in the folder: the file is damaged");
    named = false;
    refused_series("file 2 of 2 in the folder: the file is damaged");
}

Test(spoke_dicom, a_file_of_another_modality_is_refused) {
    static const struct dicom_maker mr = {.modality = "MR"}, ct = {.modality = "CT"};
    static const struct dicom_maker name = {.modality = "PATIENT"}, odd = {.modality = "mr"};
    struct spoke_grid g = {0};
    if (!has_tools())
        return;
    modality = "MR";
    slice("a", "0\\0\\0", 1, &mr);
    slice("b", "0\\0\\2", 2, &mr);
    cr_assert(eq(int, load("s", NULL, &g), TIER_OK), "%s", err.text);
    spoke_grid_release(&g);
    cr_assert(eq(int, load("s/b", NULL, &g), TIER_OK), "%s", err.text);
    spoke_grid_release(&g);
    slice("b", "0\\0\\2", 2, &ct);
    refused_series("file 2 of 2 in the folder: its modality is CT where the schema wants MR");
    named = true;
    refused_series("file 2 (name 'b') of 2 in the folder: its modality is CT where the schema");
    named = false;
    cr_expect(eq(int, load("s/b", NULL, &g), TIER_EDATA));
    cr_expect(strncmp(err.text, "its modality is CT", 18) == 0, "%s", err.text);
    slice("b", "0\\0\\2", 2, &name);
    refused_series("its modality is another one where the schema wants MR");
    slice("b", "0\\0\\2", 2, &odd);
    refused_series("its modality is not said where the schema wants MR");
    slice("b", "0\\0\\2", 2, NULL);
    refused_series("its modality is not said where the schema wants MR");
    modality = NULL;
    cr_assert(eq(int, load("s", NULL, &g), TIER_OK), "%s", err.text);
    spoke_grid_release(&g);
}

Test(spoke_dicom, frames_in_one_file_lie_where_their_functional_groups_say) {
    static const char text[] =
        "{\"00280002\":{\"vr\":\"US\",\"Value\":[1]},\"00280004\":{\"vr\":\"CS\",\"Value\":["
        "\"MONOCHROME2\"]},\"00280008\":{\"vr\":\"IS\",\"Value\":[2]},\"00280010\":{\"vr\":\"US\","
        "\"Value\":[1]},\"00280011\":{\"vr\":\"US\",\"Value\":[2]},\"00280100\":{\"vr\":\"US\","
        "\"Value\":[8]},\"52009229\":{\"vr\":\"SQ\",\"Value\":[{\"00209116\":{\"vr\":\"SQ\","
        "\"Value\":[{\"00200037\":{\"vr\":\"DS\",\"Value\":[1,0,0,0,1,0]}}]},\"00289110\":{\"vr\":"
        "\"SQ\",\"Value\":[{\"00280030\":{\"vr\":\"DS\",\"Value\":[1,\"1.0\"]}}]},\"00289145\":{"
        "\"vr\":\"SQ\",\"Value\":[{\"00281053\":{\"vr\":\"DS\",\"Value\":[2]},\"00281052\":{\"vr\":"
        "\"DS\",\"Value\":[1]}}]}}]},\"52009230\":{\"vr\":\"SQ\",\"Value\":[{\"00209113\":{\"vr\":"
        "\"SQ\",\"Value\":[{\"00200032\":{\"vr\":\"DS\",\"Value\":[0,0,9]}}]}},{\"00209113\":{"
        "\"vr\":\"SQ\",\"Value\":[{\"00200032\":{\"vr\":\"DS\",\"Value\":[0,0,6]}}]}}]},"
        "\"7FE00010\":{\"vr\":\"OB\",\"InlineBinary\":\"AQIDBA==\"}}";
    struct spoke_dicom_slice s = {0};
    struct spoke_grid g = {0};
    cr_assert(eq(int, spoke_dicom_parse(text, sizeof text - 1, &s, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(int, spoke_dicom_stack(&s, 1, NULL, NULL, &g, &err), TIER_OK), "%s", err.text);
    cr_expect(g.side[0] == 2 && g.spacing[0] == 3.0);
    cr_expect(g.at[0] == 7 && g.at[1] == 9 && g.at[2] == 3 && g.at[3] == 5);
    spoke_grid_release(&g);
    for (size_t cut = 0; cut < sizeof text - 1; cut++)
        cr_expect(eq(int, spoke_dicom_parse(text, cut, &s, &err), TIER_EDATA));
}

/* ---- a table of series --------------------------------------------------------------------- */

static const char schema[] = "kind: dicom\n"
                             "image: {size: [2, 2, 3], spacing: [4, 2, 1.5], orientation: LPS}\n"
                             "columns:\n"
                             "  - {name: ct, type: image}\n"
                             "  - {name: organ, type: mask, categories: [none, liver]}\n"
                             "  - {name: part, type: split}\n"
                             "split: {by: column}\n";

static enum tier_status open_table(struct spoke_data **d) {
    return spoke_data_open(temp_file("s.yaml", schema),
                           temp_file("t.csv", "ct,organ,part\ns,m.nii,train\n"), NULL, d, &err);
}

Test(spoke_dicom, a_table_names_folders_of_series_and_masks_in_nifti) {
    struct nifti_maker m = {.side = {3, 2, 2}, .type = 2, .bits = 8};
    struct spoke_data *d = NULL;
    uint8_t organ[12] = {[0] = 1, [11] = 1};
    if (!has_tools())
        return;
    slice("a", "10\\20\\-1", 30, NULL);
    slice("b", "10\\20\\-5", 10, NULL);
    m.srow[0][0] = -1.5f;
    m.srow[1][1] = -2.0f;
    m.srow[2][2] = 4.0f;
    m.srow[0][3] = -10.0f;
    m.srow[1][3] = -20.0f;
    m.srow[2][3] = -5.0f;
    temp_file_n("m.nii", (char *)file, nifti_make(&m, organ, 12, file, sizeof file));
    cr_assert(eq(int, open_table(&d), TIER_OK), "%s", err.text);
    const float *x = spoke_data_x(d, SPOKE_TRAIN);
    const int32_t *mask = spoke_data_labels(d, SPOKE_TRAIN);
    cr_expect(x[0] == 10 && x[5] == 11 && x[6] == 30 && x[11] == 31);
    cr_expect(mask[0] == 1 && mask[1] == 0 && mask[11] == 1);
    spoke_data_free(d);
    m.srow[2][3] = -3.0f;
    temp_file_n("m.nii", (char *)file, nifti_make(&m, organ, 12, file, sizeof file));
    cr_expect(eq(int, open_table(&d), TIER_EDATA));
    cr_expect(strstr(err.text, "t.csv:2: column 'organ': the file has another") != NULL, "%s",
              err.text);
    slice("b", "10\\20\\-5", 10, &(struct dicom_maker){.series = "1.9"});
    cr_expect(eq(int, open_table(&d), TIER_EDATA));
    cr_expect(strstr(err.text, "t.csv:2: column 'ct': file 2 of the folder is of another") != NULL,
              "%s", err.text);
}

static enum tier_status open_modality(struct spoke_data **d) {
    return spoke_data_open(
        temp_file("s.yaml", "kind: dicom\nimage: {size: [2, 3], modality: MR}\ncolumns:\n"
                            "  - {name: scan, type: image}\n"
                            "  - {name: organ, type: mask, categories: [none, liver]}\n"
                            "  - {name: part, type: split}\nsplit: {by: column}\n"),
        temp_file("t.csv", "scan,organ,part\ns/a,s/mask,train\n"), NULL, d, &err);
}

Test(spoke_dicom, the_modality_is_of_images_and_not_of_masks) {
    struct spoke_data *d = NULL;
    if (!has_tools())
        return;
    slice("a", "0\\0\\0", 1, &(struct dicom_maker){.modality = "MR"});
    slice("mask", "0\\0\\0", 0, &(struct dicom_maker){.modality = "SEG"});
    cr_assert(eq(int, open_modality(&d), TIER_OK), "%s", err.text);
    spoke_data_free(d);
    slice("a", "0\\0\\0", 1, &(struct dicom_maker){.modality = "CT"});
    cr_expect(eq(int, open_modality(&d), TIER_EDATA));
    cr_expect(strstr(err.text, "t.csv:2: column 'scan': its modality is CT where the schema wants "
                               "MR") != NULL,
              "%s", err.text);
}

/* ---- programs ------------------------------------------------------------------------------ */

static enum tier_status run(const char *const *argv, size_t output_max, uint32_t timeout_ms) {
    struct spoke_process p = {.argv = argv,
                              .output_max = output_max,
                              .file_max = 1 << 16,
                              .memory_max = UINT64_C(1) << 32,
                              .timeout_ms = timeout_ms};
    uint8_t *text = NULL;
    size_t n = 0;
    int code = -1;
    enum tier_status st = spoke_process_run(&p, &code, &text, &n, &err);
    if (st == TIER_OK)
        free(text);
    return st;
}

Test(spoke_dicom, a_program_that_takes_too_long_or_writes_too_much_is_ended) {
    static const char *const endless[] = {"sleep", "1000", NULL}, *const yes[] = {"yes", NULL};
    static const char *const none[] = {"consilium-no-such-program", NULL};
    cr_expect(eq(int, run(endless, 100, 50), TIER_ELIMIT));
    cr_expect(strstr(err.text, "longer than 50 ms") != NULL, "%s", err.text);
    cr_expect(eq(int, run(yes, 1 << 20, 60000), TIER_ELIMIT));
    cr_expect(strstr(err.text, "wrote more") != NULL, "%s", err.text);
    cr_expect(eq(int, run(none, 100, 1000), TIER_ENOTFOUND), "%s", err.text);
}

Test(spoke_dicom, a_file_of_millions_of_values_beside_its_pixels_is_refused_before_it_is_parsed) {
    size_t n = 2 * ((size_t)SPOKE_DICOM_VALUES_MAX + 2) + 1;
    struct spoke_dicom_slice s = {0};
    char *text = malloc(n);
    cr_assert(text != NULL);
    for (size_t i = 0; i < n; i++)
        text[i] = i % 2 ? ',' : '1';
    cr_expect(eq(int, spoke_dicom_parse(text, n, &s, &err), TIER_ELIMIT));
    cr_expect(strstr(err.text, "4194304 values") != NULL, "%s", err.text);
    free(text);
}
