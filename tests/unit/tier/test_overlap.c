/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/overlap.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#define KEY "key 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"
#define A "000102030405060708090a0b0c0d0e0f\n"
#define B "100102030405060708090a0b0c0d0e0f\n"
#define C "200102030405060708090a0b0c0d0e0f\n"
#define HEAD "consilium overlap 1\n" KEY

static struct tier_err err;

static enum tier_status read_text(const char *text, struct tier_overlap *out) {
    FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    enum tier_status st = tier_overlap_read(f, "a.ids", out, &err);
    fclose(f);
    return st;
}

Test(tier_overlap, a_file_is_read_and_written_as_it_was) {
    const char *text = HEAD "train 2\n" A B "val 0\ntest 1\n" C;
    struct tier_overlap o;
    char *again = NULL;
    size_t bytes = 0;
    cr_assert(eq(int, read_text(text, &o), TIER_OK), "%s", err.text);
    cr_assert(eq(sz, o.count[0], 2));
    cr_assert(eq(sz, o.count[2], 1));
    FILE *out = open_memstream(&again, &bytes);
    cr_assert(eq(int, tier_overlap_write(&o, out, &err), TIER_OK));
    fclose(out);
    cr_assert(eq(str, again, (char *)text));
    free(again);
    tier_overlap_release(&o);
}

Test(tier_overlap, what_two_sites_have_in_common_is_counted_part_by_part) {
    struct tier_overlap one, other;
    cr_assert(eq(int, read_text(HEAD "train 2\n" A B "val 0\ntest 1\n" C, &one), TIER_OK));
    cr_assert(eq(int, read_text(HEAD "train 2\n" B C "val 0\ntest 1\n" A, &other), TIER_OK));
    cr_assert(eq(sz, tier_overlap_common(&one, 0, &other, 0), 1));
    cr_assert(eq(sz, tier_overlap_common(&one, 0, &other, 2), 1));
    cr_assert(eq(sz, tier_overlap_common(&one, 2, &other, 0), 1));
    cr_assert(eq(sz, tier_overlap_common(&one, 2, &other, 2), 0));
    cr_assert(eq(sz, tier_overlap_common(&one, 1, &other, 1), 0));
    tier_overlap_release(&one);
    tier_overlap_release(&other);
}

Test(tier_overlap, a_patient_of_many_images_is_one) {
    struct tier_overlap o = {.count = {5}};
    static const uint8_t first[5] = {3, 1, 3, 2, 1};
    o.ids[0] = calloc(5, sizeof *o.ids[0]);
    for (size_t i = 0; i < 5; i++)
        o.ids[0][i].b[0] = first[i];
    tier_overlap_tidy(&o);
    cr_assert(eq(sz, o.count[0], 3));
    for (size_t i = 0; i < 3; i++)
        cr_assert(eq(int, o.ids[0][i].b[0], (int)i + 1));
    tier_overlap_release(&o);
}

Test(tier_overlap, what_is_no_such_file_is_refused_with_its_line) {
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "a.ids:1: 'consilium overlap 1' was to be here"},
        {"consilium overlap 2\n", "a.ids:1: "},
        {"consilium overlap 1\nkey 00\n", "a.ids:2: 'key HEX'"},
        {HEAD "train 1\n" A "val 0\n", "a.ids:6: 'test N'"},
        {HEAD "train 2\n" A "val 0\ntest 0\n", "a.ids:5: a name of 32 hex digits"},
        {HEAD "train 2\n" B A "val 0\ntest 0\n", "a.ids:5: a name above the one before"},
        {HEAD "train 2\n" A A "val 0\ntest 0\n", "a.ids:5: a name above the one before"},
        {HEAD "train 01\n" A "val 0\ntest 0\n", "a.ids:3: 'train N'"},
        {HEAD "train -1\n" A "val 0\ntest 0\n", "a.ids:3: 'train N'"},
        {HEAD "train 99999999\n", "at most 16777216 are taken"},
        {HEAD "train 16777216\n" A, "a.ids:5: a name of 32"}, /* and no such memory is taken */
        {HEAD "train 0\nval 0\ntest 0\nmore\n", "a.ids:6: the end"},
        {HEAD "train 0\nval 0\ntest 0", "a.ids:5: 'test N'"},
        {HEAD "train 1\n000102030405060708090A0B0C0D0E0F\n", "a.ids:4: a name of 32"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tier_overlap o;
        FILE *f = *cases[i].text ? NULL : fopen("/dev/null", "r");
        enum tier_status st =
            f ? tier_overlap_read(f, "a.ids", &o, &err) : read_text(cases[i].text, &o);
        if (f)
            fclose(f);
        cr_assert(ne(int, st, TIER_OK), "%zu", i);
        cr_assert(strstr(err.text, cases[i].why) != NULL, "%zu: %s", i, err.text);
        cr_assert(eq(ptr, o.ids[0], NULL));
    }
}
