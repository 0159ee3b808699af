/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/psi.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

static struct tier_psi *blind;
static struct tier_err err;

static void up(void) {
    cr_assert(eq(int, tier_psi_new(&blind, &err), TIER_OK));
}

static void down(void) {
    tier_psi_free(blind);
}

TestSuite(tier_psi, .init = up, .fini = down);

static const char *hex_of(const void *bytes, size_t n) {
    static char text[2 * TIER_PSI_POINT_BYTES + 1];
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", ((const uint8_t *)bytes)[i]);
    return text;
}

/* RFC 9380, appendix J.1.1, compressed. */
Test(tier_psi, names_are_hashed_to_the_points_of_the_rfc) {
    static const struct {
        const char *head;
        char fill;
        size_t count;
        const char *point;
    } cases[] = {
        {"", 0, 0, "032c15230b26dbc6fc9a37051158c95b79656e17a1a920b11394ca91c44247d3e4"},
        {"abc", 0, 0, "020bb8b87485551aa43ed54f009230450b492fead5f1cc91658775dac4a3388a0f"},
        {"abcdef0123456789", 0, 0,
         "0365038ac8f2b1def042a5df0b33b1f4eca6bff7cb0f9c6c1526811864e544ed80"},
        {"q128_", 'q', 128, "024be61ee205094282ba8a2042bcb48d88dfbb609301c49aa8b078533dc65a0b5d"},
        {"a512_", 'a', 512, "02457ae2981f70ca85d8e24c308b14db22f3e3862c5ea0f652ca38b5e49cd64bc5"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[600];
        size_t n = strlen(cases[i].head);
        struct tier_psi_point point;
        memcpy(name, cases[i].head, n);
        memset(name + n, cases[i].fill, cases[i].count);
        cr_assert(eq(int,
                     tier_psi_hash(blind, "QUUX-V01-CS02-with-P256_XMD:SHA-256_SSWU_RO_", name,
                                   n + cases[i].count, &point, &err),
                     TIER_OK));
        cr_expect(eq(str, (char *)(uintptr_t)hex_of(point.b, sizeof point.b),
                     (char *)(uintptr_t)cases[i].point));
        cr_expect(tier_psi_is_point(blind, &point));
    }
}

Test(tier_psi, a_domain_separates_and_has_a_length) {
    struct tier_psi_point one, other;
    char domain[TIER_PSI_DOMAIN_BYTES_MAX + 2];

    cr_assert(eq(int, tier_psi_hash(blind, "one", "p", 1, &one, &err), TIER_OK));
    cr_assert(eq(int, tier_psi_hash(blind, "two", "p", 1, &other, &err), TIER_OK));
    cr_assert(ne(int, memcmp(&one, &other, sizeof one), 0));
    memset(domain, 'd', sizeof domain - 1);
    domain[sizeof domain - 1] = 0;
    cr_assert(eq(int, tier_psi_hash(blind, domain, "p", 1, &one, &err), TIER_EARG));
    cr_assert(eq(int, tier_psi_hash(blind, domain + 1, "p", 1, &one, &err), TIER_OK));
    cr_assert(eq(int, tier_psi_hash(blind, "", "p", 1, &one, &err), TIER_EARG));
}

Test(tier_psi, secrets_commute_and_one_of_them_does_not_undo_the_other) {
    struct tier_psi_secret a, b;
    struct tier_psi_point ab, ba, plain;

    cr_assert(eq(int, tier_psi_draw(blind, &a, &err), TIER_OK));
    cr_assert(eq(int, tier_psi_draw(blind, &b, &err), TIER_OK));
    cr_assert(ne(int, memcmp(&a, &b, sizeof a), 0));
    cr_assert(eq(int, tier_psi_hash(blind, "test", "p", 1, &plain, &err), TIER_OK));
    ab = ba = plain;
    cr_assert(eq(int, tier_psi_apply(blind, &a, &ab, &err), TIER_OK));
    cr_assert(ne(int, memcmp(&ab, &plain, sizeof ab), 0));
    cr_assert(eq(int, tier_psi_apply(blind, &b, &ab, &err), TIER_OK));
    cr_assert(eq(int, tier_psi_apply(blind, &b, &ba, &err), TIER_OK));
    cr_assert(ne(int, memcmp(&ab, &ba, sizeof ab), 0));
    cr_assert(eq(int, tier_psi_apply(blind, &a, &ba, &err), TIER_OK));
    cr_assert(eq(int, memcmp(&ab, &ba, sizeof ab), 0));
}

/* Twice the generator, and the order that would make infinity of it. */
Test(tier_psi, a_point_is_multiplied_and_a_secret_is_below_the_order) {
    static const uint8_t order[] = {0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00,
                                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84,
                                    0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51};
    static const uint8_t generator[] = {0x03, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47,
                                        0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77,
                                        0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1,
                                        0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96};
    struct tier_psi_secret two = {{0}}, none = {{0}}, all;
    struct tier_psi_point point, negative;

    two.b[31] = 2;
    memcpy(point.b, generator, sizeof point.b);
    cr_assert(eq(int, tier_psi_apply(blind, &two, &point, &err), TIER_OK));
    cr_assert(eq(str, (char *)(uintptr_t)hex_of(point.b + 1, 32),
                 "7cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978"));
    memcpy(all.b, order, sizeof all.b);
    cr_assert(eq(int, tier_psi_apply(blind, &none, &point, &err), TIER_EARG));
    cr_assert(eq(int, tier_psi_apply(blind, &all, &point, &err), TIER_EARG));
    cr_assert(not(tier_psi_secret_fits(blind, &all)));
    all.b[31]--; /* what makes the negative */
    negative = point;
    cr_assert(eq(int, tier_psi_apply(blind, &all, &negative, &err), TIER_OK));
    cr_assert(eq(int, negative.b[0], point.b[0] ^ 1));
    cr_assert(eq(int, memcmp(negative.b + 1, point.b + 1, sizeof point.b - 1), 0));
    memset(point.b, 0, sizeof point.b);
    cr_assert(eq(int, tier_psi_apply(blind, &two, &point, &err), TIER_EDATA));
    cr_assert(not(tier_psi_is_point(blind, &point)));
}

Test(tier_psi, what_is_shown_of_a_secret_tells_secrets_apart) {
    struct tier_psi_secret a, b;
    struct tier_hash one, same, other;

    cr_assert(eq(int, tier_psi_draw(blind, &a, &err), TIER_OK));
    cr_assert(eq(int, tier_psi_draw(blind, &b, &err), TIER_OK));
    tier_psi_secret_id(&a, &one);
    tier_psi_secret_id(&a, &same);
    tier_psi_secret_id(&b, &other);
    cr_assert(tier_hash_equal(&one, &same));
    cr_assert(not(tier_hash_equal(&one, &other)));
    cr_assert(ne(int, memcmp(one.b, a.b, sizeof a.b), 0));
}
