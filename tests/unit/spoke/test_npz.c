/* SPDX-License-Identifier: Apache-2.0 */
/* Arrays of numpy, and the data that a schema of kind npz makes of them. */
#include "spoke/data.h"
#include "spoke/npz.h"
#include "tests/support/data_path.h"
#include "tests/support/npy_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <pthread.h>

static struct tier_err err;

TestSuite(spoke_npz, .fini = temp_release);

static const char schema[] = "kind: npz\n"
                             "image: {channels: 1, size: [2, 3]}\n"
                             "columns:\n"
                             "  - {name: images, type: image}\n"
                             "  - {name: labels, type: target, categories: [well, ill]}\n"
                             "split: {by: part}\n";

/* Four training rows, two test rows: pixel i of row r is 10 r + i. */
static const char *archive(bool packed, int wrong_label) {
    const char *path = temp_file("t.npz", "");
    uint8_t pixels[24], labels[4] = {0, 1, 1, (uint8_t)wrong_label};
    int64_t test_labels[2] = {1, 0};
    zip_t *zip = npz_begin(path);

    for (int i = 0; i < 24; i++)
        pixels[i] = (uint8_t)(10 * (i / 6) + i % 6);
    npz_add(zip, packed, "train_images", "|u1", "(4, 2, 3)", pixels, 24);
    npz_add(zip, packed, "train_labels", "|u1", "(4, 1)", labels, 4);
    npz_add(zip, packed, "test_images", "|u1", "(2, 2, 3)", pixels, 12);
    npz_add(zip, packed, "test_labels", "<i8", "(2,)", test_labels, sizeof test_labels);
    npz_end(zip);
    return path;
}

static struct spoke_data *opened(const char *text, const char *path, bool on_demand) {
    struct spoke_data_options o = {.on_demand = on_demand};
    struct spoke_data *d = NULL;
    cr_assert(eq(int, spoke_data_open(temp_file("schema.yaml", text), path, &o, &d, &err), TIER_OK),
              "%s", err.text);
    return d;
}

static void refused(const char *text, const char *path, enum tier_status st, const char *piece) {
    struct spoke_data *d = NULL;
    cr_expect(eq(int, spoke_data_open(temp_file("schema.yaml", text), path, NULL, &d, &err), st),
              "%s", err.text);
    cr_expect(d == NULL);
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
    cr_expect(strstr(err.text, "SECRET") == NULL, "a value is in: %s", err.text);
}

Test(spoke_npz, rows_are_read_on_demand_and_held_alike_packed_or_not) {
    for (int mode = 0; mode < 4; mode++) {
        struct spoke_data *d = opened(schema, archive(mode & 1, 0), mode & 2);
        int32_t rows[3] = {3, 0, 3}, labels[3];
        float x[18];
        struct spoke_shape shape = spoke_data_shape(d);
        cr_expect(eq(sz, spoke_data_features(d), 6));
        cr_expect(shape.channels == 1 && shape.axes == 2 && shape.side[0] == 2 &&
                  shape.side[1] == 3);
        cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 4));
        cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TEST), 2));
        cr_expect(eq(sz, spoke_data_rows(d, SPOKE_VAL), 0));
        cr_expect(eq(sz, spoke_data_classes(d), 2));
        cr_assert(eq(int, spoke_data_read(d, SPOKE_TRAIN, rows, 3, x, labels, &err), TIER_OK), "%s",
                  err.text);
        cr_expect(x[0] == 30.0f && x[5] == 35.0f && x[6] == 0.0f && x[17] == 35.0f);
        cr_expect(labels[0] == 0 && labels[1] == 0);
        cr_expect(spoke_data_labels(d, SPOKE_TRAIN)[1] == 1);
        cr_expect(spoke_data_labels(d, SPOKE_TEST)[0] == 1);
        if (mode & 2)
            cr_expect(spoke_data_x(d, SPOKE_TRAIN) == NULL);
        else
            cr_expect(spoke_data_x(d, SPOKE_TRAIN)[6] == 10.0f);
        rows[1] = 4;
        cr_expect(eq(int, spoke_data_read(d, SPOKE_TRAIN, rows, 3, x, labels, &err), TIER_EARG));
        spoke_data_free(d);
    }
}

Test(spoke_npz, scale_offset_and_statistics_by_channel_are_those_of_the_training_rows) {
    char text[1024];
    snprintf(text, sizeof text, "%s", schema);
    const char *at = strstr(schema, "size: [2, 3]}");
    snprintf(text, sizeof text, "%.*sscale: 0.5, offset: 1, standardise: true, %s",
             (int)(at - schema), schema, at);
    struct spoke_data *d = opened(text, archive(true, 0), false);
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < 24; i++)
        sum += 0.5 * (10 * (i / 6) + i % 6) + 1.0;
    for (int i = 0; i < 24; i++)
        squares += pow(0.5 * (10 * (i / 6) + i % 6) + 1.0 - sum / 24.0, 2.0);
    cr_assert(eq(sz, spoke_data_stats_count(d), 1));
    cr_expect(epsilon_eq(dbl, spoke_data_mean(d)[0], sum / 24.0, 1e-12));
    cr_expect(epsilon_eq(dbl, spoke_data_std(d)[0], sqrt(squares / 23.0), 1e-12));
    cr_expect(epsilon_eq(flt, spoke_data_x(d, SPOKE_TEST)[0],
                         (float)((1.0 - sum / 24.0) / sqrt(squares / 23.0)), 1e-6f));
    /* The statistics of one site, given to another. */
    double mean = 1.0, std = 0.5;
    struct spoke_data_options o = {.stats_count = 1, .mean = &mean, .std = &std};
    struct spoke_data *e = NULL;
    cr_assert(eq(int,
                 spoke_data_open(temp_file("schema.yaml", text), archive(false, 0), &o, &e, &err),
                 TIER_OK));
    cr_expect(epsilon_eq(flt, spoke_data_x(e, SPOKE_TRAIN)[1], 1.0f, 1e-6f));
    spoke_data_free(e);
    spoke_data_free(d);
}

Test(spoke_npz, a_z_score_over_nonzero_leaves_the_background) {
    char text[1024];
    const char *at = strstr(schema, "size: [2, 3]}");
    snprintf(text, sizeof text, "%.*sz_score: nonzero, %s", (int)(at - schema), schema, at);
    struct spoke_data *d = opened(text, archive(false, 0), false);
    const float *x = spoke_data_x(d, SPOKE_TRAIN);
    cr_expect(x[0] == 0.0f);
    cr_expect(epsilon_eq(flt, x[3], 0.0f, 1e-6f)); /* 1 .. 5 have mean 3 */
    cr_expect(epsilon_eq(flt, x[5], 2.0f / sqrtf(2.5f), 1e-5f));
    spoke_data_free(d);
}

Test(spoke_npz, a_folder_of_arrays_with_ids_masks_and_channels_last) {
    static const char text[] = "kind: npz\n"
                               "image: {channels: 2, size: [1, 2], layout: last}\n"
                               "columns:\n"
                               "  - {name: scan, type: image}\n"
                               "  - {name: organ, type: mask, categories: [none, liver, spleen]}\n"
                               "  - {name: patient, type: id}\n"
                               "split: {by: hash, key: secret-key, fraction: 0.5}\n";
    int16_t scan[64 * 4];
    uint8_t organ[64 * 2], file[2048];
    int32_t who[64];
    for (int i = 0; i < 64; i++) {
        for (int k = 0; k < 4; k++)
            scan[4 * i + k] = (int16_t)(-4 * i - k);
        organ[2 * i] = (uint8_t)(i % 3);
        organ[2 * i + 1] = 2;
        who[i] = i / 4;
    }
    size_t n = npy_make("<i2", "(64, 1, 2, 2)", scan, sizeof scan, file, sizeof file);
    temp_file_n("scan.npy", (char *)file, n);
    n = npy_make("|u1", "(64, 1, 2, 1)", organ, sizeof organ, file, sizeof file);
    temp_file_n("organ.npy", (char *)file, n);
    n = npy_make("<i4", "(64,)", who, sizeof who, file, sizeof file);
    temp_file_n("patient.npy", (char *)file, n);
    for (int demand = 0; demand < 2; demand++) {
        struct spoke_data *d = opened(text, temp.folder, demand);
        size_t train = spoke_data_rows(d, SPOKE_TRAIN), test = spoke_data_rows(d, SPOKE_TEST);
        cr_expect(train + test == 64 && train % 4 == 0 && train > 0 && test > 0);
        cr_expect(eq(int, (int)spoke_data_target(d), (int)SPOKE_TARGET_MASK));
        cr_expect(eq(sz, spoke_data_target_size(d), 2));
        for (int32_t r = 0; r < (int32_t)train; r++) {
            float x[4];
            int32_t mask[2];
            cr_assert(eq(int, spoke_data_read(d, SPOKE_TRAIN, &r, 1, x, mask, &err), TIER_OK));
            int i = (int)-x[0] / 4; /* channel 0: elements 0 and 2 of the row */
            cr_expect(x[1] == x[0] - 2.0f && x[2] == x[0] - 1.0f && x[3] == x[0] - 3.0f);
            cr_expect(mask[0] == i % 3 && mask[1] == 2);
        }
        spoke_data_free(d);
    }
    organ[5] = 3;
    n = npy_make("|u1", "(64, 1, 2, 1)", organ, sizeof organ, file, sizeof file);
    temp_file_n("organ.npy", (char *)file, n);
    refused(text, temp.folder, TIER_EDATA, "array 'organ': row 2: the mask has an element");
}

Test(spoke_npz, a_value_is_a_target_too) {
    static const char text[] = "kind: npz\n"
                               "image: {size: [2]}\n"
                               "missing_rows: drop\n"
                               "columns:\n"
                               "  - {name: x, type: image}\n"
                               "  - {name: y, type: target, value: true, min: 0, max: 9}\n"
                               "split: {by: part, train: a_, test: b_}\n";
    float x[6] = {1, 2, 3, 4, 5, 6};
    double y[3] = {0.5, NAN, 8.5};
    uint8_t file[1024];
    for (int part = 0; part < 2; part++) {
        size_t n = npy_make("<f4", "(3, 2)", x, sizeof x, file, sizeof file);
        temp_file_n(part ? "b_x.npy" : "a_x.npy", (char *)file, n);
        n = npy_make("<f8", "(3,)", y, sizeof y, file, sizeof file);
        temp_file_n(part ? "b_y.npy" : "a_y.npy", (char *)file, n);
    }
    struct spoke_data *d = opened(text, temp.folder, false);
    cr_assert(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 2));
    cr_expect(eq(sz, spoke_data_dropped(d), 2));
    cr_expect(spoke_data_values(d, SPOKE_TRAIN)[1] == 8.5f);
    cr_expect(spoke_data_x(d, SPOKE_TRAIN)[3] == 6.0f);
    cr_expect(spoke_data_labels(d, SPOKE_TRAIN) == NULL);
    spoke_data_free(d);
    y[2] = 10.0;
    size_t n = npy_make("<f8", "(3,)", y, sizeof y, file, sizeof file);
    temp_file_n("a_y.npy", (char *)file, n);
    refused(text, temp.folder, TIER_EDATA, "array 'a_y': row 2: it is not finite, or outside");
}

Test(spoke_npz, what_is_not_as_the_schema_says_is_refused_by_array_and_row) {
    char text[1024];
    refused(schema, archive(true, 2), TIER_EDATA,
            "array 'train_labels': row 3: it is none of the schema's categories");
    snprintf(text, sizeof text, "%s", schema);
    memcpy(strstr(text, "[2, 3]"), "[3, 2]", 6);
    refused(text, archive(false, 0), TIER_EDATA,
            "'train_images' is 4 x 2 x 3; the schema wants rows x 3 x 2 with 1 channels");
    snprintf(text, sizeof text, "%s", schema);
    memcpy(strstr(text, "images, type"), "imagos, type", 6);
    refused(text, archive(false, 0), TIER_EDATA, "it has no array 'train_imagos'");
    const char *at = strstr(schema, "size: [2, 3]}");
    snprintf(text, sizeof text, "%.*smax: 34, %s", (int)(at - schema), schema, at);
    refused(text, archive(false, 0), TIER_EDATA,
            "array 'train_images': row 3: a value of the image is outside");
    refused(schema, temp_file("t.npz", "SECRET no archive"), TIER_EDATA, "it is no .npz file");
    refused(schema, "/nonexistent/t.npz", TIER_ENOTFOUND, "t.npz");
}

Test(spoke_npz, a_cut_or_changed_archive_is_refused) {
    char *bytes = malloc(1 << 16);
    FILE *f = fopen(archive(true, 0), "rb");
    size_t n = fread(bytes, 1, 1 << 16, f), refusals = 0;
    fclose(f);
    for (size_t at = 30; at < n; at += 7) {
        struct spoke_data *d = NULL;
        bytes[at] ^= 0x55;
        if (spoke_data_open(temp_file("schema.yaml", schema), temp_file_n("c.npz", bytes, n), NULL,
                            &d, &err) == TIER_OK)
            spoke_data_free(d);
        else
            refusals++;
        bytes[at] ^= 0x55;
    }
    cr_expect(refusals > 20, "%zu", refusals);
    refused(schema, temp_file_n("c.npz", bytes, n / 2), TIER_EDATA, "no .npz file");
    free(bytes);
}

Test(spoke_npz, headers_that_claim_too_much_are_refused_before_anything_is_allocated) {
    static const struct {
        const char *descr, *shape, *piece;
    } bad[] = {
        {"<f4", "(4294967295, 4294967295)", "2^42 bytes"},
        {"<f4", "(99999999999,)", "its shape"},
        {"<f4", "(1, 1, 1, 1, 1, 1, 1, 1, 1)", "its shape"},
        {"<f4", "(-1,)", "its shape"},
        {"<f4", "(3, 4)", "its size is not"},
        {"|O", "(3,)", "a type that is not read"},
        {"<c8", "(3,)", "a type that is not read"},
        {"<f4', 'x': '", "(3,)", "its header is not"},
        {"<f4", "(3", "its shape"},
    };
    uint8_t file[512], zeros[8] = {0};
    struct spoke_array *a;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct spoke_npz *npz = NULL;
        size_t n = npy_make(bad[i].descr, bad[i].shape, zeros, 8, file, sizeof file);
        temp_file_n("a.npy", (char *)file, n);
        cr_assert(eq(int, spoke_npz_open(temp.folder, &npz, &err), TIER_OK));
        cr_expect(eq(int, spoke_npz_array(npz, "a", &a, &err), TIER_EDATA), "%s", bad[i].shape);
        cr_expect(strstr(err.text, bad[i].piece) != NULL, "%s: %s", bad[i].shape, err.text);
        spoke_npz_close(npz);
    }
}

Test(spoke_npz, elements_of_every_type_and_order_are_numbers) {
    static const struct {
        const char *descr;
        uint8_t bytes[8];
        double value;
        const char *text;
    } one[] = {
        {"|b1", {1}, 1, "1"},
        {"|i1", {0xfe}, -2, "-2"},
        {">u2", {1, 2}, 258, "258"},
        {"<i2", {0xff, 0xff}, -1, "-1"},
        {">i4", {0xff, 0xff, 0xff, 0xfd}, -3, "-3"},
        {"<u8", {0, 0, 0, 0, 1}, 4294967296.0, "4294967296"},
        {">f4", {0x3f, 0xc0}, 1.5, NULL},
        {">f8", {0x3f, 0xf8}, 1.5, NULL},
        {"|S3", {'a', 'b', 0}, 0, "ab"},
        {"<U2",
         {0xe9, 0, 0, 0, 'b', 0, 0, 0},
         0,
         "\xc3\xa9"
         "b"},
    };
    for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) {
        struct spoke_npy npy;
        uint8_t file[512];
        char text[32];
        double d = 0.0;
        size_t n = npy_make(one[i].descr, "()", one[i].bytes, 8, file, sizeof file);
        cr_assert(eq(int, spoke_npy_parse(file, n, &npy, &err), TIER_OK), "%s", one[i].descr);
        if (spoke_npy_is_number(&npy)) {
            spoke_npy_doubles(&npy, file + npy.header_bytes, 1, &d);
            cr_expect(eq(dbl, d, one[i].value), "%s", one[i].descr);
        }
        cr_expect(eq(int, spoke_npy_text(&npy, file + npy.header_bytes, text, sizeof text),
                     one[i].text != NULL));
        if (one[i].text)
            cr_expect(eq(str, text, (char *)one[i].text));
    }
}

/* ---- many readers, real data --------------------------------------------------------------- */

static void *read_many(void *arg) {
    const struct spoke_data *d = arg;
    size_t wrong = 0;
    for (int32_t i = 0; i < 2000; i++) {
        int32_t row = i % 4, label;
        float x[6];
        if (spoke_data_read(d, SPOKE_TRAIN, &row, 1, x, &label, NULL) != TIER_OK ||
            x[2] != (float)(10 * row + 2))
            wrong++;
    }
    return (void *)wrong;
}

Test(spoke_npz, many_threads_read_at_once) {
    struct spoke_data *d = opened(schema, archive(false, 0), true);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, read_many, d);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        cr_expect(wrong == NULL);
    }
    spoke_data_free(d);
}

Test(spoke_npz, pneumoniamnist_has_the_counts_its_readme_says) {
    char path[1024], schema_path[1024];
    struct spoke_data *d = NULL;
    size_t ill = 0;

    if (!data_path("pneumoniamnist/pneumoniamnist_28_content.npz", path, sizeof path))
        cr_skip_test("pneumoniamnist is not here");
    source_path("deploy/examples/pneumonia/schema.yaml", schema_path, sizeof schema_path);
    cr_assert(eq(int, spoke_data_open(schema_path, path, NULL, &d, &err), TIER_OK), "%s", err.text);
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 4708));
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_VAL), 524));
    cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TEST), 624));
    for (size_t i = 0; i < 624; i++)
        ill += spoke_data_labels(d, SPOKE_TEST)[i] == 1;
    cr_expect(eq(sz, ill, 390));
    cr_expect(spoke_data_x(d, SPOKE_TRAIN) != NULL, "it is small enough to be held");
    double sum = 0.0;
    for (size_t i = 0; i < 4708u * 784u; i++)
        sum += spoke_data_x(d, SPOKE_TRAIN)[i];
    cr_expect(fabs(sum / (4708.0 * 784.0)) < 1e-5, "standardised: mean %g", sum / (4708.0 * 784.0));
    spoke_data_free(d);
}
