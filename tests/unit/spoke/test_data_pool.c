/* SPDX-License-Identifier: Apache-2.0 */
/* Several sets of images as one: the rows, classes and statistics of all of them. */
#include "spoke/data.h"
#include "tests/support/npy_writer.h"
#include "tests/support/temp_file.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#define N 4

static struct tier_err err;

TestSuite(spoke_data_pool, .fini = temp_release);

static const char schema[] = "kind: npz\n"
                             "image: {size: [2, 2], scale: 0.5, standardise: true, max: 90}\n"
                             "columns:\n"
                             "  - {name: x, type: image}\n"
                             "  - {name: y, type: target, categories: [well, ill]}\n"
                             "split: {by: part}\n";

/* Images [from, from + train) to train on and `test` more to test, of 13 i + 5 j modulo 97. */
static const char *set(const char *name, int from, int train, int test) {
    uint8_t x[32 * N], y[32];
    char shape[64];
    const char *path = temp_file(name, "");
    zip_t *zip = npz_begin(path);
    for (int part = 0; part < 2; part++) {
        int n = part ? test : train, first = from + (part ? 100 : 0);
        for (int i = 0; i < n; i++) {
            y[i] = (uint8_t)((first + i) % 3 == 0);
            for (int k = 0; k < N; k++)
                x[i * N + k] = (uint8_t)((13 * (first + i) + 5 * k) % 97);
        }
        snprintf(shape, sizeof shape, "(%d, 2, 2)", n);
        npz_add(zip, false, part ? "test_x" : "train_x", "|u1", shape, x, (size_t)n * N);
        snprintf(shape, sizeof shape, "(%d,)", n);
        npz_add(zip, false, part ? "test_y" : "train_y", "|u1", shape, y, (size_t)n);
        /* The archive is written when it is closed: its bytes must be there until then. */
        if (part == 0) {
            npz_end(zip);
            int code;
            zip = zip_open(path, 0, &code);
            cr_assert(zip != NULL);
        }
    }
    npz_end(zip);
    return path;
}

static enum tier_status opened(const char *first, const char *second, bool on_demand,
                               struct spoke_data **d) {
    struct spoke_data_options o = {.on_demand = on_demand, .more = &second, .more_count = !!second};
    return spoke_data_open(temp_file("s.yaml", schema), first, &o, d, &err);
}

static void expect_equal(const struct spoke_data *a, const struct spoke_data *b,
                         enum spoke_part part) {
    size_t n = spoke_data_rows(a, part);
    float x[2][N];
    int32_t y[2];
    cr_assert(eq(sz, n, spoke_data_rows(b, part)));
    cr_assert(n > 0);
    for (int32_t r = 0; r < (int32_t)n; r++) {
        cr_assert(eq(int, spoke_data_read(a, part, &r, 1, x[0], &y[0], &err), TIER_OK));
        cr_assert(eq(int, spoke_data_read(b, part, &r, 1, x[1], &y[1], &err), TIER_OK));
        cr_expect(memcmp(x[0], x[1], sizeof x[0]) == 0 && y[0] == y[1], "row %d", r);
    }
}

Test(spoke_data_pool, sets_in_a_row_are_one_set) {
    /* The second's rows follow the first's, in both parts. */
    const char *first = set("a.npz", 0, 7, 3), *second = set("b.npz", 7, 5, 0);
    const char *whole = set("c.npz", 0, 12, 3);
    for (int on_demand = 0; on_demand < 2; on_demand++) {
        struct spoke_data *one = NULL, *both = NULL, *alone = NULL;
        cr_assert(eq(int, opened(whole, NULL, on_demand, &one), TIER_OK), "%s", err.text);
        cr_assert(eq(int, opened(first, second, on_demand, &both), TIER_OK), "%s", err.text);
        cr_assert(eq(int, opened(first, NULL, on_demand, &alone), TIER_OK), "%s", err.text);
        cr_expect(spoke_data_mean(both)[0] == spoke_data_mean(one)[0] &&
                  spoke_data_std(both)[0] == spoke_data_std(one)[0]);
        cr_expect(spoke_data_mean(alone)[0] != spoke_data_mean(one)[0], "it has fewer rows");
        expect_equal(both, one, SPOKE_TRAIN);
        expect_equal(both, one, SPOKE_TEST);
        spoke_data_free(one);
        spoke_data_free(both);
        spoke_data_free(alone);
    }
}

Test(spoke_data_pool, what_is_wrong_with_one_set_is_told_as_its_own) {
    static const char table[] = "columns:\n  - {name: x, type: number}\n"
                                "  - {name: y, type: target, categories: [a, b]}\n"
                                "  - {name: s, type: split}\nsplit: {by: column}\n";
    const char *first = set("a.npz", 0, 4, 2), *bad = temp_file("b.npz", "no archive");
    struct spoke_data *d = NULL;
    cr_expect(opened(first, bad, true, &d) != TIER_OK);
    cr_expect(strstr(err.text, "b.npz") != NULL, "%s", err.text);
    const char *csv = temp_file("t.csv", "x,y,s\n1,a,train\n");
    struct spoke_data_options o = {.more = &csv, .more_count = 1};
    cr_expect(eq(int, spoke_data_open(temp_file("t.yaml", table), csv, &o, &d, &err), TIER_EARG));
    cr_expect(strstr(err.text, "tables are not opened together") != NULL, "%s", err.text);
}
