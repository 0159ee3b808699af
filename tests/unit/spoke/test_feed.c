/* SPDX-License-Identifier: Apache-2.0 */
/* Batches that are read ahead, and what augmentation does to their rows. */
#include "spoke/feed.h"
#include "tests/support/npy_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#define ROWS 40
#define SIDE 6
#define N (SIDE * SIDE)

static struct tier_err err;

TestSuite(spoke_feed, .fini = temp_release);

static const char schema[] = "kind: npz\n"
                             "image: {size: [6, 6], max: 2000}\n"
                             "columns:\n"
                             "  - {name: x, type: image}\n"
                             "  - {name: m, type: mask, categories: [none, left]}\n"
                             "split: {by: hash, key: secret-key, fraction: 0.1}\n";

/* Element i of row r is 40 r + i; the mask is the left half. */
static struct spoke_data *opened(bool damaged) {
    static uint8_t file[1 << 16], mask[ROWS * N];
    static uint16_t x[ROWS * N];
    struct spoke_data_options o = {.on_demand = true};
    struct spoke_data *d = NULL;

    for (int i = 0; i < ROWS * N; i++) {
        x[i] = (uint16_t)(40 * (i / N) + i % N);
        mask[i] = i % SIDE < SIDE / 2;
    }
    if (damaged)
        x[20 * N] = 2001;
    size_t n = npy_make("<u2", "(40, 6, 6)", x, sizeof x, file, sizeof file);
    temp_file_n("x.npy", (char *)file, n);
    n = npy_make("|u1", "(40, 6, 6)", mask, sizeof mask, file, sizeof file);
    temp_file_n("m.npy", (char *)file, n);
    cr_assert(
        eq(int, spoke_data_open(temp_file("s.yaml", schema), temp.folder, &o, &d, &err), TIER_OK),
        "%s", err.text);
    return d;
}

/* All batches of one order, one after another; the rows there were. */
static size_t drain(struct spoke_feed *f, float *x, int32_t *masks) {
    struct spoke_batch b;
    size_t rows = 0;
    for (;;) {
        cr_assert(eq(int, spoke_feed_next(f, &b, &err), TIER_OK), "%s", err.text);
        if (b.rows == 0)
            return rows;
        memcpy(x + rows * N, b.x, b.rows * N * sizeof *x);
        memcpy(masks + rows * N, b.labels, b.rows * N * sizeof *masks);
        rows += b.rows;
    }
}

Test(spoke_feed, batches_come_in_order_with_the_same_bits_from_any_number_of_threads) {
    static float first[ROWS * N], x[ROWS * N];
    static int32_t first_masks[ROWS * N], masks[ROWS * N];
    struct spoke_data *d = opened(false);
    int32_t order[ROWS];
    size_t n = spoke_data_rows(d, SPOKE_TRAIN);
    for (size_t i = 0; i < n; i++)
        order[i] = (int32_t)(i * 7 % n);
    for (size_t threads = 1; threads <= 8; threads *= 2) {
        struct spoke_feed_options o = {.batch = 3, .threads = threads, .seed = 5};
        struct spoke_feed *f = NULL;
        o.augment = (struct spoke_augment){
            .flip = {true, true}, .rotate_deg = 20, .scale = 0.1, .gain = 0.1, .noise = 0.5};
        cr_assert(eq(int, spoke_feed_open(d, &o, &f, &err), TIER_OK), "%s", err.text);
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            cr_assert(eq(int, spoke_feed_begin(f, order, n, epoch, &err), TIER_OK));
            cr_expect(eq(sz, drain(f, x, masks), n));
            if (threads == 1 && epoch == 2) {
                memcpy(first, x, sizeof x);
                memcpy(first_masks, masks, sizeof masks);
            }
        }
        cr_expect(memcmp(first, x, n * N * sizeof *x) == 0, "%zu threads", threads);
        cr_expect(memcmp(first_masks, masks, n * N * sizeof *masks) == 0);
        spoke_feed_close(f);
    }
    spoke_data_free(d);
}

Test(spoke_feed, an_order_that_is_begun_anew_drops_the_old_one) {
    static float x[ROWS * N];
    static int32_t masks[ROWS * N];
    struct spoke_data *d = opened(false);
    struct spoke_feed_options o = {.batch = 4, .threads = 3, .depth = 2};
    struct spoke_feed *f = NULL;
    struct spoke_batch b;
    int32_t order[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, back[2] = {9, 3};
    float want[2 * N];
    cr_assert(eq(int, spoke_feed_open(d, &o, &f, &err), TIER_OK));
    cr_assert(eq(int, spoke_feed_next(f, &b, &err), TIER_OK));
    cr_expect(b.rows == 0, "nothing was begun");
    for (int i = 0; i < 20; i++) {
        cr_assert(eq(int, spoke_feed_begin(f, order, 10, 0, &err), TIER_OK));
        cr_assert(eq(int, spoke_feed_next(f, &b, &err), TIER_OK));
        cr_expect(b.rows == 4 && b.which[3] == 3);
    }
    cr_assert(eq(int, spoke_feed_begin(f, back, 2, 0, &err), TIER_OK));
    cr_expect(eq(sz, drain(f, x, masks), 2));
    cr_assert(eq(int, spoke_data_read(d, SPOKE_TRAIN, back, 2, want, NULL, &err), TIER_OK));
    cr_expect(memcmp(x, want, sizeof want) == 0);
    spoke_feed_close(f);
    spoke_data_free(d);
}

Test(spoke_feed, a_bad_row_is_told_with_its_batch) {
    struct spoke_data *d = opened(true);
    struct spoke_feed_options o = {.batch = 5};
    struct spoke_feed *f = NULL;
    struct spoke_batch b = {.rows = 1};
    int32_t order[ROWS];
    size_t n = spoke_data_rows(d, SPOKE_TRAIN);
    enum tier_status st = TIER_OK;
    for (size_t i = 0; i < n; i++)
        order[i] = (int32_t)i;
    cr_assert(eq(int, spoke_feed_open(d, &o, &f, &err), TIER_OK));
    cr_assert(eq(int, spoke_feed_begin(f, order, n, 0, &err), TIER_OK));
    while (st == TIER_OK && b.rows)
        st = spoke_feed_next(f, &b, &err);
    cr_expect(eq(int, st, TIER_EDATA));
    cr_expect(strstr(err.text, "array 'x': row 20: a value of the image is outside") != NULL, "%s",
              err.text);
    spoke_feed_close(f);
    o.batch = 0;
    cr_expect(eq(int, spoke_feed_open(d, &o, &f, &err), TIER_EARG));
    spoke_data_free(d);
}

/* ---- augmentation -------------------------------------------------------------------------- */

static const struct spoke_shape plane = {.channels = 1, .axes = 2, .side = {SIDE, SIDE}};

static void fresh(float *x, int32_t *mask) {
    for (int i = 0; i < N; i++) {
        x[i] = (float)i;
        mask[i] = i % SIDE < SIDE / 2;
    }
}

Test(spoke_feed, a_flip_mirrors_image_and_mask_in_half_of_the_rows) {
    float x[N], scratch[N];
    int32_t mask[N];
    int flipped = 0;
    struct spoke_augment a = {.flip = {true}};
    for (uint64_t seed = 0; seed < 400; seed++) {
        fresh(x, mask);
        spoke_augment_row(&a, &plane, seed * 77, x, mask, scratch);
        bool is = x[0] == SIDE - 1;
        for (int i = 0; i < N; i++) {
            int at = is ? i / SIDE * SIDE + SIDE - 1 - i % SIDE : i;
            cr_assert(x[i] == (float)at && mask[i] == (at % SIDE < SIDE / 2));
        }
        flipped += is;
    }
    cr_expect(flipped > 150 && flipped < 250, "%d of 400", flipped);
}

Test(spoke_feed, a_rotation_turns_about_the_centre_and_keeps_its_value) {
    float x[N], scratch[N];
    int32_t mask[N];
    double turned = 0.0;
    struct spoke_augment a = {.rotate_deg = 90};
    for (uint64_t seed = 1; seed < 100; seed++) {
        for (int i = 0; i < N; i++) {
            x[i] = (float)(i % SIDE) - 2.5f; /* a plane that rises along x, 0 at the centre */
            mask[i] = 1;
        }
        spoke_augment_row(&a, &plane, seed, x, mask, scratch);
        /* Near the centre it is still a plane, of the same steepness, in another direction. */
        double dx = x[2 * SIDE + 3] - x[2 * SIDE + 2], dy = x[3 * SIDE + 2] - x[2 * SIDE + 2];
        cr_assert(fabs(dx * dx + dy * dy - 1.0) < 1e-3, "%g %g", dx, dy);
        cr_assert(fabsf(x[2 * SIDE + 2] + x[3 * SIDE + 3]) < 1e-4f);
        turned += dx < 0.5;
        for (int i = 0; i < N; i++)
            cr_assert(mask[i] == 1);
    }
    cr_expect(turned > 10);
}

Test(spoke_feed, noise_and_gain_are_as_strong_as_asked_for) {
    static float x[20000], scratch[20000];
    static const struct spoke_shape line = {.channels = 1, .axes = 1, .side = {20000}};
    double sum = 0.0, squares = 0.0;
    struct spoke_augment a = {.noise = 2.0};
    spoke_augment_row(&a, &line, 3, x, NULL, scratch);
    for (int i = 0; i < 20000; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
    }
    cr_expect(fabs(sum / 20000) < 0.06 && fabs(sqrt(squares / 20000) - 2.0) < 0.05);
    a = (struct spoke_augment){.gain = 0.5, .offset = 1.0};
    for (uint64_t seed = 0; seed < 200; seed++) {
        x[0] = 2.0f;
        x[1] = 4.0f;
        static const struct spoke_shape two = {.channels = 1, .axes = 1, .side = {2}};
        spoke_augment_row(&a, &two, seed, x, NULL, scratch);
        float gain = (x[1] - x[0]) / 2.0f, offset = x[0] - 2.0f * gain;
        cr_assert(gain > 0.49f && gain < 1.51f && fabsf(offset) < 1.01f);
    }
}

Test(spoke_feed, an_augmentation_that_cannot_be_is_refused) {
    static const struct spoke_shape table = {.channels = 5};
    struct spoke_augment a = {.rotate_deg = 10};
    cr_expect(eq(int, spoke_augment_check(&a, &plane, &err), TIER_OK));
    cr_expect(eq(int, spoke_augment_check(&a, &table, &err), TIER_EARG));
    a = (struct spoke_augment){.flip = {false, false, true}};
    cr_expect(eq(int, spoke_augment_check(&a, &plane, &err), TIER_EARG));
    a = (struct spoke_augment){.noise = NAN};
    cr_expect(eq(int, spoke_augment_check(&a, &plane, &err), TIER_EARG));
    a = (struct spoke_augment){.noise = 1};
    cr_expect(eq(int, spoke_augment_check(&a, &table, &err), TIER_OK));
    cr_expect(spoke_augment_is_none(&(struct spoke_augment){0}));
}
