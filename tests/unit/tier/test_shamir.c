/* SPDX-License-Identifier: Apache-2.0 */
/* Sharing secrets: any threshold of shares gives them back, fewer are consistent with every one. */
#include "tier/shamir.h"

#include <criterion/criterion.h>
#include <string.h>

static uint32_t state = 1;

static uint32_t next(void) {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

static void make_secret(uint8_t *secret) {
    for (int i = 0; i < TIER_SHAMIR_BYTES; i++)
        secret[i] = (uint8_t)next();
}

/* Some `count` of the `holders` shares, in any order. */
static void pick(struct tier_shamir_share *shares, unsigned holders, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        unsigned j = i + next() % (holders - i);
        struct tier_shamir_share s = shares[i];
        shares[i] = shares[j];
        shares[j] = s;
    }
}

Test(tier_shamir, any_shares_at_the_threshold_or_above_give_the_secret_back) {
    struct tier_shamir_share shares[TIER_SHAMIR_HOLDERS_MAX];
    uint8_t secret[TIER_SHAMIR_BYTES], joined[TIER_SHAMIR_BYTES];

    for (int i = 0; i < 400; i++) {
        unsigned holders = i < 4 ? TIER_SHAMIR_HOLDERS_MAX : 1 + next() % 40;
        unsigned threshold = 1 + next() % holders;
        make_secret(secret);
        cr_assert_eq(tier_shamir_split(secret, threshold, holders, shares, NULL), TIER_OK);
        pick(shares, holders, holders);
        unsigned count = threshold + next() % (holders - threshold + 1);
        cr_assert_eq(tier_shamir_join(shares, count, joined, NULL), TIER_OK);
        cr_assert_eq(memcmp(secret, joined, sizeof secret), 0, "%u of %u", threshold, holders);
    }
}

Test(tier_shamir, one_share_less_gives_another_secret) {
    struct tier_shamir_share shares[40];
    uint8_t secret[TIER_SHAMIR_BYTES], joined[TIER_SHAMIR_BYTES];

    for (int i = 0; i < 200; i++) {
        unsigned holders = 2 + next() % 38, threshold = 2 + next() % (holders - 1);
        make_secret(secret);
        cr_assert_eq(tier_shamir_split(secret, threshold, holders, shares, NULL), TIER_OK);
        pick(shares, holders, threshold - 1);
        cr_assert_eq(tier_shamir_join(shares, threshold - 1, joined, NULL), TIER_OK);
        cr_assert_neq(memcmp(secret, joined, sizeof secret), 0);
    }
}

/* With t - 1 shares of one secret every other secret fits: a share can be found for it. */
Test(tier_shamir, fewer_shares_fit_every_secret) {
    struct tier_shamir_share shares[3], forged[3];
    uint8_t secret[TIER_SHAMIR_BYTES], other[TIER_SHAMIR_BYTES], joined[TIER_SHAMIR_BYTES];

    make_secret(secret);
    cr_assert_eq(tier_shamir_split(secret, 3, 3, shares, NULL), TIER_OK);
    for (unsigned value = 0; value < 256; value++) {
        memset(other, (int)value, sizeof other);
        memcpy(forged, shares, sizeof forged);
        for (int b = 0; b < TIER_SHAMIR_BYTES; b++) {
            bool found = false;
            for (unsigned y = 0; y < 256 && !found; y++) {
                forged[2].y[b] = (uint8_t)y;
                cr_assert_eq(tier_shamir_join(forged, 3, joined, NULL), TIER_OK);
                found = joined[b] == value;
            }
            cr_assert(found);
        }
        cr_assert_eq(memcmp(joined, other, sizeof other), 0);
    }
}

/* Two-holder shares of one byte by hand: y = s + a x in GF(2^8), with the reduction by 0x11b. */
Test(tier_shamir, shares_join_as_the_field_says) {
    struct tier_shamir_share shares[2] = {{.x = 2, .y = {0x55 ^ 0x1b}},
                                          {.x = 3, .y = {0x55 ^ 0x9b}}};
    uint8_t joined[TIER_SHAMIR_BYTES];

    /* a = 0x80: a * 2 = 0x1b, a * 3 = 0x9b; s = 0x55 */
    cr_assert_eq(tier_shamir_join(shares, 2, joined, NULL), TIER_OK);
    cr_assert_eq(joined[0], 0x55);
    cr_assert_eq(joined[1], 0);
}

Test(tier_shamir, impossible_thresholds_are_refused) {
    static const struct { unsigned threshold, holders; } bad[] = {{0, 3}, {4, 3}, {0, 0}, {2, 256}};
    struct tier_shamir_share shares[3];
    uint8_t secret[TIER_SHAMIR_BYTES] = {1};
    struct tier_err err;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(tier_shamir_split(secret, bad[i].threshold, bad[i].holders, shares, &err),
                     TIER_EARG);
        cr_assert(strstr(err.text, "is not shared by"));
    }
}

Test(tier_shamir, shares_of_nobody_or_of_one_holder_twice_are_refused) {
    struct tier_shamir_share twice[2] = {{.x = 7}, {.x = 7}}, nobody = {.x = 0};
    uint8_t joined[TIER_SHAMIR_BYTES];
    struct tier_err err;

    cr_assert_eq(tier_shamir_join(twice, 1, joined, &err), TIER_OK);
    cr_assert_eq(tier_shamir_join(twice, 2, joined, &err), TIER_EARG);
    cr_assert(strstr(err.text, "already"));
    cr_assert_eq(tier_shamir_join(&nobody, 1, joined, &err), TIER_EARG);
    cr_assert(strstr(err.text, "count from 1"));
    cr_assert_eq(tier_shamir_join(twice, 0, joined, &err), TIER_EARG);
}
