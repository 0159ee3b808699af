/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/card.h"

#include <jansson.h>

#define NOW INT64_C(1800000000)
#define DAY INT64_C(86400)

struct office {
    struct tier_key *key;
    struct tier_cert *cert;
    char *pem;
};

static struct office make_ca(void) {
    struct office ca = {0};
    MUST(tier_key_generate(&ca.key, err));
    MUST(tier_cert_new_ca(ca.key, "nhs", 3650, NOW, &ca.pem, err));
    MUST(tier_cert_from_pem(ca.pem, &ca.cert, err));
    return ca;
}

static struct tier_node make(const struct office *ca, enum tier_role role) {
    struct tier_node node = {.id = {.role = role, .name = "national"}};
    char *csr = NULL;
    MUST(tier_key_generate(&node.key, err));
    MUST(tier_csr_new(node.key, "national", role, &csr, err));
    MUST(tier_cert_issue(ca->key, ca->cert, csr, 30 * DAY, NOW, &node.cert_pem, err));
    free(csr);
    return node;
}

static void release(struct office *ca, struct tier_node *node) {
    tier_key_free(ca->key);
    tier_cert_free(ca->cert);
    free(ca->pem);
    tier_key_free(node->key);
    free(node->cert_pem);
}

static json_t *body(const char *second) {
    static const char hex[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    return json_pack("{s:i, s:{s:s, s:I}, s:{s:[s, s], s:I}, s:f, s:s}", "version",
                     TIER_CARD_VERSION, "model", "sha256", hex, "bytes", (json_int_t)4096,
                     "release", "by", "anna", second, "time_ms", (json_int_t)(NOW + DAY) * 1000,
                     "accuracy", 0.9725, "purpose", "Herz, \xc3\xa9preuve");
}

static char *sign(const struct tier_node *by, const char *second, size_t *bytes) {
    json_t *b = body(second);
    char *text = NULL;
    MUST(tier_card_sign(by, b, &text, bytes, err));
    json_decref(b);
    return text;
}

Test(tier_card, a_card_is_read_and_is_the_hubs_by_its_authority) {
    struct office ca = make_ca(), stranger = make_ca();
    struct tier_node hub = make(&ca, TIER_ROLE_TOP);
    struct tier_card card = {0};
    struct tier_err why = {0};
    size_t bytes;
    char *text = sign(&hub, "bert", &bytes);

    MUST(tier_card_read(text, bytes, &card, err));
    MUST(tier_card_check(&card, ca.cert, err));
    cr_assert_str_eq(card.signer.name, "national");
    cr_assert_str_eq(card.approved_by[1], "bert");
    cr_assert_eq(card.model_bytes, 4096);
    cr_assert_eq(card.model.b[1], 0x11);
    cr_assert_float_eq(json_real_value(json_object_get(card.body, "accuracy")), 0.9725, 0);
    /* Another authority of the same name is another. */
    cr_assert_eq(tier_card_check(&card, stranger.cert, &why), TIER_EIDENTITY);
    tier_card_release(&card);
    free(text);
    tier_key_free(stranger.key);
    tier_cert_free(stranger.cert);
    free(stranger.pem);
    release(&ca, &hub);
}

Test(tier_card, no_bit_of_a_card_can_be_changed) {
    struct office ca = make_ca();
    struct tier_node hub = make(&ca, TIER_ROLE_HUB);
    struct tier_card card = {0};
    size_t bytes;
    char *text = sign(&hub, "bert", &bytes);

    for (size_t i = 0; i < bytes * 8; i++) {
        text[i / 8] = (char)(text[i / 8] ^ (1 << i % 8));
        bool taken = tier_card_read(text, bytes, &card, NULL) == TIER_OK &&
                     tier_card_check(&card, ca.cert, NULL) == TIER_OK;
        cr_assert_not(taken, "bit %zu of byte %zu, %.20s", i % 8, i / 8, text + i / 8);
        tier_card_release(&card);
        text[i / 8] = (char)(text[i / 8] ^ (1 << i % 8));
    }
    /* Nor may it be shorter, longer, or written otherwise. */
    for (size_t n = 0; n < bytes; n += 7)
        cr_assert_neq(tier_card_read(text, n, &card, NULL), TIER_OK);
    char *longer = malloc(bytes + 2);
    snprintf(longer, bytes + 2, "%s ", text);
    cr_assert_eq(tier_card_read(longer, bytes + 1, &card, NULL), TIER_ECORRUPT);
    snprintf(longer, bytes + 2, " %s", text);
    cr_assert_eq(tier_card_read(longer, bytes + 1, &card, NULL), TIER_ECORRUPT);
    MUST(tier_card_read(text, bytes, &card, err));
    tier_card_release(&card);
    free(longer);
    free(text);
    release(&ca, &hub);
}

Test(tier_card, who_is_no_hub_releases_nothing_and_nobody_does_alone) {
    struct office ca = make_ca();
    struct tier_node spoke = make(&ca, TIER_ROLE_SPOKE), hub = make(&ca, TIER_ROLE_TOP);
    struct tier_card card = {0};
    struct tier_err why = {0};
    size_t bytes;
    char *text = sign(&spoke, "bert", &bytes);

    MUST(tier_card_read(text, bytes, &card, err));
    cr_assert_eq(tier_card_check(&card, ca.cert, &why), TIER_EIDENTITY);
    cr_assert(strstr(why.text, "of the role spoke") != NULL);
    tier_card_release(&card);
    free(text);
    text = sign(&hub, "anna", &bytes);
    MUST(tier_card_read(text, bytes, &card, err));
    cr_assert_eq(tier_card_check(&card, ca.cert, &why), TIER_EIDENTITY);
    cr_assert(strstr(why.text, "anna alone") != NULL);
    tier_card_release(&card);
    free(text);
    tier_key_free(spoke.key);
    free(spoke.cert_pem);
    release(&ca, &hub);
}

Test(tier_card, a_card_outlives_the_certificate_that_it_was_signed_with) {
    struct office ca = make_ca();
    struct tier_node hub = make(&ca, TIER_ROLE_TOP);
    struct tier_card card = {0};
    json_t *late = body("bert");
    char *text = NULL;
    size_t bytes;

    /* The check asks no clock; of a card made after the certificate had ended, it says so. */
    json_object_set_new(json_object_get(late, "release"), "time_ms",
                        json_integer((json_int_t)(NOW + 40 * DAY) * 1000));
    MUST(tier_card_sign(&hub, late, &text, &bytes, err));
    MUST(tier_card_read(text, bytes, &card, err));
    cr_assert_eq(tier_card_check(&card, ca.cert, NULL), TIER_EIDENTITY);
    tier_card_release(&card);
    json_decref(late);
    free(text);
    release(&ca, &hub);
}

Test(tier_card, what_lacks_a_member_is_not_signed_and_depth_is_bounded) {
    struct office ca = make_ca();
    struct tier_node hub = make(&ca, TIER_ROLE_TOP), bare = {.key = NULL};
    struct tier_card card = {0};
    struct tier_err why = {0};
    json_t *b = body("bert");
    char *text = NULL, deep[4096];
    size_t bytes;

    cr_assert_eq(tier_card_sign(&bare, b, &text, &bytes, &why), TIER_EIDENTITY);
    json_object_del(b, "model");
    cr_assert_eq(tier_card_sign(&hub, b, &text, &bytes, &why), TIER_EINTERNAL);
    memset(deep, '[', sizeof deep);
    cr_assert_eq(tier_card_read(deep, sizeof deep, &card, &why), TIER_ECORRUPT);
    cr_assert_eq(tier_card_read("", 0, &card, &why), TIER_ELIMIT);
    json_decref(b);
    release(&ca, &hub);
}
