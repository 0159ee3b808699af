/* SPDX-License-Identifier: Apache-2.0 */
/* PNG and JPEG files, and the data that a table of them makes. */
#include "spoke/data.h"
#include "spoke/picture.h"
#include "tests/support/picture_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static struct tier_err err;

TestSuite(spoke_images, .fini = temp_release);

static const char schema[] = "kind: images\n"
                             "image: {size: [4, 6], scale: 0.5}\n"
                             "columns:\n"
                             "  - {name: file, type: image}\n"
                             "  - {name: finding, type: target, categories: [well, ill]}\n"
                             "  - {name: patient, type: id}\n"
                             "  - {name: part, type: split}\n"
                             "split: {by: column}\n";

static uint8_t file[1 << 16];

static enum tier_status decoded(size_t n, size_t channels, bool labels, struct spoke_grid *g) {
    /* An exact copy, so that a sanitizer sees a read past the end. */
    uint8_t *exact = malloc(n ? n : 1);
    memcpy(exact, file, n);
    enum tier_status st = spoke_picture_decode(exact, n, channels, labels, g, &err);
    free(exact);
    return st;
}

static size_t grey(uint32_t width, uint32_t height, uint8_t first) {
    uint8_t pixels[64 * 64];
    for (uint32_t i = 0; i < width * height; i++)
        pixels[i] = (uint8_t)(first + i);
    return png_make(width, height, 1, pixels, file, sizeof file);
}

Test(spoke_images, a_png_is_its_pixels_as_grey_and_as_colour) {
    struct spoke_grid g = {0};
    cr_assert(eq(int, decoded(grey(3, 2, 7), 1, false, &g), TIER_OK), "%s", err.text);
    cr_expect(g.side[0] == 1 && g.side[1] == 2 && g.side[2] == 3 && g.at[4] == 11.0f);
    spoke_grid_release(&g);
    cr_assert(eq(int, decoded(grey(3, 2, 7), 3, false, &g), TIER_OK));
    cr_expect(g.channels == 3 && g.at[4] == 11.0f && g.at[16] == 11.0f);
    spoke_grid_release(&g);
    static const uint8_t rgb[6] = {10, 20, 30, 40, 50, 60};
    size_t n = png_make(2, 1, 3, rgb, file, sizeof file);
    cr_assert(eq(int, decoded(n, 3, false, &g), TIER_OK));
    cr_expect(g.at[0] == 10 && g.at[1] == 40 && g.at[2] == 20 && g.at[5] == 60);
    spoke_grid_release(&g);
    cr_assert(eq(int, decoded(n, 1, false, &g), TIER_OK));
    cr_expect(epsilon_eq(flt, g.at[0], 0.299f * 10 + 0.587f * 20 + 0.114f * 30, 1e-4f));
    spoke_grid_release(&g);
}

Test(spoke_images, a_mask_keeps_the_places_of_its_palette) {
    static const uint8_t classes[4] = {0, 3, 1, 2};
    struct spoke_grid g = {0};
    size_t n = png_make_palette(2, 2, 4, classes, file, sizeof file);
    cr_assert(eq(int, decoded(n, 1, true, &g), TIER_OK), "%s", err.text);
    for (int i = 0; i < 4; i++)
        cr_expect(g.at[i] == (float)classes[i]);
    spoke_grid_release(&g);
    n = jpeg_make(2, 2, 1, classes, file, sizeof file);
    cr_expect(eq(int, decoded(n, 1, true, &g), TIER_EDATA));
    cr_expect(strstr(err.text, "must be a PNG") != NULL);
    static const uint8_t rgb[3] = {1, 2, 3};
    n = png_make(1, 1, 3, rgb, file, sizeof file);
    cr_expect(eq(int, decoded(n, 1, true, &g), TIER_EDATA));
}

Test(spoke_images, a_jpeg_is_nearly_its_pixels) {
    uint8_t pixels[16 * 16 * 3];
    struct spoke_grid g = {0};
    for (int i = 0; i < 16 * 16 * 3; i++)
        pixels[i] = (uint8_t)(60 + i / 12);
    size_t n = jpeg_make(16, 16, 3, pixels, file, sizeof file);
    cr_assert(eq(int, decoded(n, 3, false, &g), TIER_OK), "%s", err.text);
    cr_expect(fabsf(g.at[20] - (float)pixels[60]) < 8.0f);
    spoke_grid_release(&g);
    cr_assert(eq(int, decoded(n, 1, false, &g), TIER_OK));
    cr_expect(g.channels == 1 && fabsf(g.at[20] - (float)pixels[60]) < 8.0f);
    spoke_grid_release(&g);
}

Test(spoke_images, every_cut_of_a_file_is_refused) {
    uint8_t pixels[12 * 12], whole[4096];
    struct spoke_grid g = {0};
    for (int i = 0; i < 144; i++)
        pixels[i] = (uint8_t)(i * 77);
    for (int kind = 0; kind < 2; kind++) {
        size_t n = kind ? jpeg_make(12, 12, 1, pixels, file, sizeof file)
                        : png_make(12, 12, 1, pixels, file, sizeof file);
        memcpy(whole, file, n);
        /* A JPEG's last two bytes are its end mark: without them it is cut off too. */
        for (size_t cut = 0; cut < n; cut++) {
            memcpy(file, whole, cut);
            enum tier_status st = decoded(cut, 1, false, &g);
            cr_expect(st != TIER_OK, "%d cut at %zu of %zu", kind, cut, n);
            if (st == TIER_OK)
                spoke_grid_release(&g);
        }
    }
    cr_expect(eq(int, decoded(0, 1, false, &g), TIER_EDATA));
}

Test(spoke_images, a_claim_of_too_many_pixels_is_refused) {
    struct spoke_grid g = {0};
    size_t n = grey(2, 2, 0);
    memcpy(file + 16, "\x00\x01\x00\x00\x00\x01\x00\x00", 8); /* 65,536 x 65,536 */
    uint32_t sum = (uint32_t)crc32(0, file + 12, 17);
    for (int i = 0; i < 4; i++)
        file[29 + i] = (uint8_t)(sum >> (24 - 8 * i));
    cr_expect(eq(int, decoded(n, 1, false, &g), TIER_ELIMIT), "%s", err.text);
    cr_expect(strstr(err.text, "2^25") != NULL);
}

/* ---- a table of files ---------------------------------------------------------------------- */

static struct spoke_data *opened(const char *csv, bool on_demand) {
    struct spoke_data_options o = {.on_demand = on_demand};
    struct spoke_data *d = NULL;
    cr_assert(
        eq(int, spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), &o, &d, &err),
           TIER_OK),
        "%s", err.text);
    return d;
}

static void refused(const char *csv, const char *piece) {
    struct spoke_data *d = NULL;
    cr_expect(eq(
        int, spoke_data_open(temp_file("s.yaml", schema), temp_file("t.csv", csv), NULL, &d, &err),
        TIER_EDATA));
    cr_expect(strstr(err.text, piece) != NULL, "'%s' is not in: %s", piece, err.text);
    cr_expect(strstr(err.text, "SECRET") == NULL, "a name is in: %s", err.text);
}

#define HEAD "file,finding,patient,part\n"

Test(spoke_images, rows_are_files_resized_to_the_contract) {
    size_t n = grey(6, 4, 0);
    temp_file_n("same.png", (char *)file, n);
    n = grey(12, 8, 0);
    temp_file_n("large.png", (char *)file, n);
    for (int demand = 0; demand < 2; demand++) {
        struct spoke_data *d = opened(
            HEAD "same.png,well,1,train\nlarge.png,ill,2,train\nsame.png,ill,3,val\n", demand);
        int32_t rows[2] = {1, 0}, labels[2];
        float x[48];
        cr_expect(eq(sz, spoke_data_rows(d, SPOKE_TRAIN), 2));
        cr_expect(eq(sz, spoke_data_rows(d, SPOKE_VAL), 1));
        cr_assert(eq(int, spoke_data_read(d, SPOKE_TRAIN, rows, 2, x, labels, &err), TIER_OK));
        cr_expect(labels[0] == 1 && labels[1] == 0);
        for (int i = 0; i < 24; i++)
            cr_expect(x[24 + i] == 0.5f * (float)i);
        /* A plane stays one where the window is not cut by an edge: pixel (1, 1) is at (2.5, 2.5).
         */
        cr_expect(epsilon_eq(flt, x[7], 0.5f * (12 * 2.5f + 2.5f), 1e-3f), "%g", x[7]);
        spoke_data_free(d);
    }
}

Test(spoke_images, files_that_are_absent_or_damaged_are_refused_by_line_and_column) {
    refused(HEAD "SECRET.png,well,1,train\n", "t.csv:2: column 'file': the file it names is not");
    refused(HEAD "/tmp,well,1,train\n", "t.csv:2: column 'file': it names no regular file");
    temp_file("SECRET.png", "no image");
    refused(HEAD "SECRET.png,well,1,train\n", "t.csv:2: column 'file': it is neither a PNG nor");
    size_t n = grey(6, 4, 0);
    temp_file_n("SECRET.png", (char *)file, n - 20);
    refused(HEAD "SECRET.png,well,1,train\n", "t.csv:2: column 'file': the PNG file is damaged");
    temp_file_n("SECRET.png", (char *)file, n);
    refused(HEAD "SECRET.png,SECRET,1,train\n", "t.csv:2: column 'finding'");
}
