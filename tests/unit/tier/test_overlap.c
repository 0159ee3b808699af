/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/overlap.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

/* Three points, ascending; the last is the curve's generator. */
#define A "024be61ee205094282ba8a2042bcb48d88dfbb609301c49aa8b078533dc65a0b5d\n"
#define B "032c15230b26dbc6fc9a37051158c95b79656e17a1a920b11394ca91c44247d3e4\n"
#define C "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\n"
#define KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"
#define ABOVE "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"
#define HEAD "consilium overlap 2\nkeys 1\n" KEY
#define REST "val 0\ntest 0\n"

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
    cr_assert(eq(sz, o.key_count, 1));
    cr_assert(eq(sz, o.count[0], 2));
    cr_assert(eq(sz, o.count[2], 1));
    FILE *out = open_memstream(&again, &bytes);
    cr_assert(eq(int, tier_overlap_write(&o, out, &err), TIER_OK));
    fclose(out);
    cr_assert(eq(str, again, (char *)text));
    free(again);
    tier_overlap_release(&o);
}

Test(tier_overlap, what_is_no_such_file_is_refused_with_its_line) {
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", "a.ids:1: 'consilium overlap 2' was to be here"},
        {"consilium overlap 1\n", "a.ids:1: "},
        {"consilium overlap 2\nkeys 0\n", "a.ids:2: at least one key"},
        {"consilium overlap 2\nkeys 65\n", "at most 64 are taken"},
        {"consilium overlap 2\nkeys 1\n00\n", "a.ids:3: 64 hex digits"},
        {"consilium overlap 2\nkeys 2\n" ABOVE KEY, "a.ids:4: 64 hex digits"},
        {"consilium overlap 2\nkeys 2\n" KEY KEY, "a.ids:4: 64 hex digits"},
        {HEAD "train 1\n" A "val 0\n", "a.ids:7: 'test N'"},
        {HEAD "train 2\n" A REST, "a.ids:6: a point of 66 hex digits"},
        {HEAD "train 2\n" B A REST, "a.ids:6: a point above the one before"},
        {HEAD "train 2\n" A A REST, "a.ids:6: a point above the one before"},
        {HEAD "train 01\n" A REST, "a.ids:4: 'train N'"},
        {HEAD "train -1\n" A REST, "a.ids:4: 'train N'"},
        {HEAD "train 4194305\n", "at most 4194304 are taken"},
        {HEAD "train 4194304\n" A, "a.ids:6: a point"}, /* and no such memory is taken */
        {HEAD "train 0\nval 0\ntest 0\nmore\n", "a.ids:7: the end"},
        {HEAD "train 0\nval 0\ntest 0", "a.ids:6: 'test N'"},
        {HEAD "train 1\n024BE61EE205094282BA8A2042BCB48D88DFBB609301C49AA8B078533DC65A0B5D\n",
         "a.ids:5: a point of 66 hex"},
        /* infinity, as it is and filled up */
        {HEAD "train 1\n00\n", "a.ids:5: a point of 66 hex"},
        {HEAD "train 1\n000000000000000000000000000000000000000000000000000000000000000000\n",
         "a.ids:5: a point of P-256"},
        /* an x that no point of the curve has */
        {HEAD "train 1\n020000000000000000000000000000000000000000000000000000000000000001\n",
         "a.ids:5: a point of P-256"},
        /* the field's prime for an x of 0: a point has one spelling */
        {HEAD "train 1\n02ffffffff00000001000000000000000000000000ffffffffffffffffffffffff\n",
         "a.ids:5: a point of P-256"},
        /* a point of 65 bytes, cut */
        {HEAD "train 1\n046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\n",
         "a.ids:5: a point of P-256"},
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
        cr_assert(eq(ptr, o.points[0], NULL));
    }
}

/* ---- three sites ---- */

#define SITES 3
#define PATIENTS 200

struct site {
    struct tier_psi_secret secret;
    struct tier_overlap file;
    uint8_t part[PATIENTS]; /* TIER_OVERLAP_PARTS: not here */
};

static struct tier_psi *blind;

static void begin(struct site *s, unsigned *random) {
    memset(&s->file, 0, sizeof s->file);
    cr_assert(eq(int, tier_psi_draw(blind, &s->secret, &err), TIER_OK));
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++)
        s->file.points[p] = calloc(2 * PATIENTS, sizeof *s->file.points[p]);
    for (int i = 0; i < PATIENTS; i++) {
        *random = *random * 1103515245 + 12345;
        s->part[i] = (uint8_t)(*random >> 16 & 3);
        for (unsigned row = 0; s->part[i] < 3 && row <= (*random >> 20 & 1); row++) {
            size_t n = s->file.count[s->part[i]]++; /* of one or two rows */
            cr_assert(
                eq(int,
                   tier_psi_hash(blind, "test", &i, sizeof i, &s->file.points[s->part[i]][n], &err),
                   TIER_OK));
        }
    }
    cr_assert(eq(int, tier_overlap_blind(&s->file, &s->secret, &err), TIER_OK), "%s", err.text);
}

static size_t really(const struct site *a, size_t i, const struct site *b, size_t j) {
    size_t common = 0;
    for (int k = 0; k < PATIENTS; k++)
        common += a->part[k] == i && b->part[k] == j;
    return common;
}

Test(tier_overlap, files_that_all_sites_have_blinded_have_as_much_in_common_as_the_sites) {
    static struct site sites[SITES];
    unsigned random = 1;

    cr_assert(eq(int, tier_psi_new(&blind, &err), TIER_OK));
    for (int s = 0; s < SITES; s++)
        begin(&sites[s], &random);
    for (int s = 0; s < SITES; s++) /* each file by another way around */
        for (int k = 1; k < SITES; k++) {
            struct site *by = &sites[(s + (s == 1 ? SITES - k : k)) % SITES];
            cr_assert(not(tier_overlap_comparable(&sites[s].file, &sites[(s + 1) % SITES].file)));
            cr_assert(eq(int, tier_overlap_blind(&sites[s].file, &by->secret, &err), TIER_OK));
        }
    for (int a = 0; a < SITES; a++)
        for (int b = 0; b < SITES; b++) {
            cr_assert(tier_overlap_comparable(&sites[a].file, &sites[b].file));
            for (size_t i = 0; i < TIER_OVERLAP_PARTS; i++)
                for (size_t j = 0; j < TIER_OVERLAP_PARTS; j++) {
                    size_t want = really(&sites[a], i, &sites[b], j);
                    cr_assert(
                        eq(sz, want, tier_overlap_common(&sites[a].file, i, &sites[b].file, j)));
                    cr_assert(a != b || i == j || want == 0);
                    cr_assert(a == b || want > 0);
                }
        }
    for (int s = 0; s < SITES; s++)
        tier_overlap_release(&sites[s].file);
    tier_psi_free(blind);
}

/* What a site gets back is in an order that says nothing of its own. */
Test(tier_overlap, an_answer_is_in_another_order_and_of_other_points) {
    static struct site a, b;
    unsigned random = 7, kept = 0;

    cr_assert(eq(int, tier_psi_new(&blind, &err), TIER_OK));
    begin(&a, &random);
    begin(&b, &random);
    size_t n = a.file.count[0];
    struct tier_psi_point *moved = malloc(n * sizeof *moved);
    memcpy(moved, a.file.points[0], n * sizeof *moved);
    cr_assert(eq(int, tier_overlap_blind(&a.file, &b.secret, &err), TIER_OK));
    cr_assert(eq(sz, a.file.count[0], n));
    for (size_t i = 0; i < n; i++) {
        cr_assert(eq(int, tier_psi_apply(blind, &b.secret, &moved[i], &err), TIER_OK));
        kept += memcmp(&moved[i], &a.file.points[0][i], sizeof *moved) == 0;
    }
    cr_assert(gt(sz, n, 20));
    cr_assert(lt(uint, kept, 8)); /* of a random order one is expected */
    free(moved);
    tier_overlap_release(&a.file);
    tier_overlap_release(&b.file);
    tier_psi_free(blind);
}

Test(tier_overlap, a_secret_blinds_a_file_once_and_64_do_at_most) {
    static struct site a;
    struct tier_psi_secret more;
    unsigned random = 3;

    cr_assert(eq(int, tier_psi_new(&blind, &err), TIER_OK));
    begin(&a, &random);
    cr_assert(eq(int, tier_overlap_blind(&a.file, &a.secret, &err), TIER_ECONFLICT));
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++)
        a.file.count[p] = 0;
    while (a.file.key_count < TIER_OVERLAP_KEYS_MAX) {
        cr_assert(eq(int, tier_psi_draw(blind, &more, &err), TIER_OK));
        cr_assert(eq(int, tier_overlap_blind(&a.file, &more, &err), TIER_OK));
    }
    cr_assert(eq(int, tier_psi_draw(blind, &more, &err), TIER_OK));
    cr_assert(eq(int, tier_overlap_blind(&a.file, &more, &err), TIER_ELIMIT));
    tier_overlap_release(&a.file);
    tier_psi_free(blind);
}
