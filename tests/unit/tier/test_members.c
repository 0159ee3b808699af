/* SPDX-License-Identifier: Apache-2.0 */
/* Whose updates a masked sum is of. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tier/members.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tier_err err;

static struct tier_members of(const char *const *names) {
    struct tier_members m = {0};

    for (; *names; names++)
        cr_assert(eq(int, tier_members_add(&m, *names, &err), TIER_OK), "%s", err.text);
    return m;
}

#define OF(...) of((const char *const[]){__VA_ARGS__, NULL})

Test(tier_members, names_are_in_order_once_each_and_come_back_from_their_bytes) {
    struct tier_members m = OF("st-mary", "a", "p-9"), back;
    size_t n;

    cr_assert(eq(int, tier_members_add(&m, "p-9", &err), TIER_ECONFLICT));
    cr_assert(eq(int, tier_members_add(&m, "No Name", &err), TIER_EARG));
    cr_assert(eq(sz, m.count, 3));
    cr_assert(strcmp(m.name[0], "a") == 0 && strcmp(m.name[2], "st-mary") == 0);
    uint8_t *bytes = tier_members_bytes(&m, &n);
    cr_assert(eq(sz, n, 4 + 2 + 4 + 8));
    cr_assert(eq(int, tier_members_read(bytes, n, &back, &err), TIER_OK), "%s", err.text);
    cr_assert(back.count == 3 && memcmp(back.name, m.name, 3 * sizeof *m.name) == 0);
    for (size_t cut = 0; cut < n; cut++)
        cr_assert(eq(int, tier_members_read(bytes, cut, &back, &err), TIER_EPROTO), "%zu", cut);
    free(bytes);
    tier_members_release(&m);
    tier_members_release(&back);
}

Test(tier_members, what_is_out_of_order_twice_no_name_or_more_than_it_says_is_refused) {
    static const struct {
        const char *bytes;
        size_t n;
        const char *why;
    } wrong[] = {{"\2\0\0\0\1b\1a", 8, "out of order at 'a'"},
                 {"\2\0\0\0\1a\1a", 8, "out of order at 'a'"},
                 {"\1\0\0\0\1A", 6, "has no name"},
                 {"\1\0\0\0\0", 5, "of 1 spokes, in 5 bytes"},
                 {"\1\0\0\0\1a\1", 7, "more after its 1"},
                 {"\xff\xff\xff\x7f\1a", 6, "in 6 bytes"},
                 {"\1\0\0\0\2a\0", 7, "has no name"}};
    struct tier_members m;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_expect(eq(int, tier_members_read((const uint8_t *)wrong[i].bytes, wrong[i].n, &m, &err),
                     TIER_EPROTO),
                  "%zu", i);
        cr_expect(strstr(err.text, wrong[i].why) != NULL, "%zu: %s", i, err.text);
    }
}

Test(tier_members, two_sums_are_joined_in_order_and_not_where_a_spoke_is_in_both) {
    struct tier_members m = OF("b", "d", "f"), more = OF("a", "c", "e", "g"), both = OF("x", "d");

    cr_assert(eq(int, tier_members_join(&m, &both, &err), TIER_ECONFLICT));
    cr_assert(strstr(err.text, "'d' is in two masked sums") != NULL, "%s", err.text);
    cr_assert(eq(sz, m.count, 3)); /* as it was */
    cr_assert(eq(int, tier_members_join(&m, &more, &err), TIER_OK), "%s", err.text);
    cr_assert(eq(sz, m.count, 7));
    for (size_t i = 0; i < 7; i++)
        cr_assert(m.name[i][0] == (char)('a' + i) && m.name[i][1] == 0);
    tier_members_release(&m);
    tier_members_release(&more);
    tier_members_release(&both);
}

Test(tier_members, there_are_no_more_than_a_round_can_have) {
    struct tier_members all = {0}, one = OF("z");
    char name[32];

    for (unsigned i = 0; i < TIER_CHILDREN_MAX; i++) {
        snprintf(name, sizeof name, "s%05u", i);
        cr_assert(eq(int, tier_members_add(&all, name, &err), TIER_OK));
    }
    cr_assert(eq(int, tier_members_add(&all, "z", &err), TIER_ELIMIT));
    cr_assert(eq(int, tier_members_join(&all, &one, &err), TIER_ELIMIT));
    cr_assert(eq(sz, all.count, TIER_CHILDREN_MAX));
    tier_members_release(&all);
    tier_members_release(&one);
}
