/* SPDX-License-Identifier: Apache-2.0 */
/* The list itself, the authority that makes it, and the home that believes it. */
#include "support/tier_fixture.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/home.h"
#include "tier/loop.h"
#include "tier/revocation.h"

#define NOW INT64_C(1800000000)
#define DAY INT64_C(86400)

TestSuite(tier_revocation, .init = fixture_up, .fini = fixture_down);

struct ca {
    struct tier_key *key;
    struct tier_cert *cert;
};

static struct ca make_ca(const char *name) {
    struct ca ca = {0};
    char *pem = NULL;
    MUST(tier_key_generate(&ca.key, err));
    MUST(tier_cert_new_ca(ca.key, name, 3650, NOW, &pem, err));
    MUST(tier_cert_from_pem(pem, &ca.cert, err));
    free(pem);
    return ca;
}

static void free_ca(struct ca *ca) {
    tier_key_free(ca->key);
    tier_cert_free(ca->cert);
}

static uint8_t *make(const struct ca *ca, uint64_t number, const char *const *serials, size_t count,
                     size_t *bytes_out) {
    struct tier_revoked revoked[8] = {0};
    uint8_t *der = NULL;
    for (size_t i = 0; i < count; i++) {
        snprintf(revoked[i].serial, sizeof revoked[i].serial, "%s", serials[i]);
        revoked[i].revoked_s = NOW;
    }
    MUST(tier_revocations_make(ca->key, ca->cert, number, NOW, NOW + DAY, revoked, count, &der,
                               bytes_out, err));
    return der;
}

static const char *const three[] = {"ff00", "0a", "80000000000000000000000000000001"};

Test(tier_revocation, a_list_says_its_number_times_and_serials_and_no_others) {
    struct ca ca = make_ca("nhs");
    struct tier_revocations *list = NULL;
    size_t bytes = 0, kept = 0;
    uint8_t *der = make(&ca, 7, three, 3, &bytes);
    MUST(tier_revocations_read(der, bytes, ca.cert, &list, err));
    CHECK(tier_revocations_number(list) == 7 && tier_revocations_count(list) == 3);
    CHECK(tier_revocations_made_s(list) == NOW && tier_revocations_next_s(list) == NOW + DAY);
    for (size_t i = 0; i < 3; i++)
        CHECK(tier_revocations_has(list, three[i]), "%s", three[i]);
    CHECK(!tier_revocations_has(list, "ff01") && !tier_revocations_has(list, "") &&
          !tier_revocations_has(list, "ff00zz") && !tier_revocations_has(NULL, "ff00"));
    const uint8_t *same = tier_revocations_bytes(list, &kept);
    CHECK(kept == bytes && memcmp(same, der, bytes) == 0);
    tier_revocations_free(list);
    free(der);
    der = make(&ca, 1, NULL, 0, &bytes);
    MUST(tier_revocations_read(der, bytes, ca.cert, &list, err));
    CHECK(tier_revocations_count(list) == 0 && !tier_revocations_has(list, "ff00"));
    tier_revocations_free(list);
    free(der);
    free_ca(&ca);
}

Test(tier_revocation, a_list_of_another_authority_or_an_altered_one_is_refused) {
    struct ca ca = make_ca("nhs"), other = make_ca("nhs"), third = make_ca("ons");
    struct tier_revocations *list = NULL;
    size_t bytes = 0;
    uint8_t *der = make(&ca, 7, three, 3, &bytes);
    REFUSED(TIER_EIDENTITY, "not signed by this node's authority",
            tier_revocations_read(der, bytes, other.cert, &list, err));
    REFUSED(TIER_EIDENTITY, "ons", tier_revocations_read(der, bytes, third.cert, &list, err));
    unsigned refused = 0;
    for (size_t i = 0; i < bytes; i++) {
        der[i] ^= 1;
        refused += tier_revocations_read(der, bytes, ca.cert, &list, NULL) != TIER_OK;
        der[i] ^= 1;
    }
    CHECK(refused == bytes, "%u of %zu alterations were seen", refused, bytes);
    REFUSED(TIER_EPROTO, "DER", tier_revocations_read(der, bytes - 1, ca.cert, &list, err));
    REFUSED(TIER_EPROTO, "0 bytes", tier_revocations_read(der, 0, ca.cert, &list, err));
    CHECK(list == NULL);
    free(der);
    free_ca(&ca), free_ca(&other), free_ca(&third);
}

Test(tier_revocation, a_list_has_a_number_a_next_date_and_an_end) {
    struct ca ca = make_ca("nhs");
    struct tier_revoked one = {"not hex", NOW};
    uint8_t *der = NULL;
    size_t bytes = 0;
    REFUSED(TIER_EARG, "number",
            tier_revocations_make(ca.key, ca.cert, 0, NOW, NOW + DAY, NULL, 0, &der, &bytes, err));
    REFUSED(TIER_EARG, "time",
            tier_revocations_make(ca.key, ca.cert, 1, NOW, NOW, NULL, 0, &der, &bytes, err));
    REFUSED(TIER_ELIMIT, "16384",
            tier_revocations_make(ca.key, ca.cert, 1, NOW, NOW + DAY, NULL, TIER_REVOKED_MAX + 1,
                                  &der, &bytes, err));
    REFUSED(TIER_EINTERNAL, "list",
            tier_revocations_make(ca.key, ca.cert, 1, NOW, NOW + DAY, &one, 1, &der, &bytes, err));
    CHECK(der == NULL);
    free_ca(&ca);
}

Test(tier_revocation, as_many_as_a_list_holds_fit_into_a_message) {
    struct ca ca = make_ca("nhs");
    struct tier_revoked *all = calloc(TIER_REVOKED_MAX, sizeof *all);
    struct tier_revocations *list = NULL;
    uint8_t *der = NULL;
    size_t bytes = 0;
    for (unsigned i = 0; i < TIER_REVOKED_MAX; i++) {
        snprintf(all[i].serial, sizeof all[i].serial, "80%030x", i);
        all[i].revoked_s = NOW;
    }
    MUST(tier_revocations_make(ca.key, ca.cert, 1, NOW, NOW + DAY, all, TIER_REVOKED_MAX, &der,
                               &bytes, err));
    MUST(tier_revocations_read(der, bytes, ca.cert, &list, err));
    CHECK(bytes <= TIER_REVOCATIONS_BYTES_MAX, "%zu bytes", bytes);
    CHECK(tier_revocations_has(list, all[TIER_REVOKED_MAX / 2].serial));
    tier_revocations_free(list);
    free(all);
    free(der);
    free_ca(&ca);
}

/* ---- the authority ---- */

static struct tier_authority *authority;

static void open_authority(int64_t now_s) {
    MUST(tier_authority_init(fixture_path("authority"), "nhs", 3650, now_s, err));
    MUST(tier_authority_open(fixture_path("authority"), &authority, err));
}

/* A key and a certificate for it; both the caller's. */
static struct tier_key *enroll(const char *name, int64_t now_s, char **cert_out) {
    char token[TIER_TOKEN_SIZE], *csr = NULL, *ca = NULL;
    struct tier_key *key = NULL;
    MUST(tier_authority_token_create(authority, name, TIER_ROLE_HUB, 600, true, now_s, token, err));
    MUST(tier_key_generate(&key, err));
    MUST(tier_csr_new(key, name, TIER_ROLE_HUB, &csr, err));
    MUST(tier_authority_enroll(authority, token, csr, now_s, cert_out, &ca, err));
    free(csr), free(ca);
    return key;
}

static struct tier_identity identity_of(const char *pem) {
    struct tier_cert *cert = NULL;
    struct tier_identity id = {0};
    MUST(tier_cert_from_pem(pem, &cert, err));
    MUST(tier_cert_identity(cert, &id, err));
    tier_cert_free(cert);
    return id;
}

static struct tier_revocations *newest(uint64_t after, int64_t now_s) {
    struct tier_revocations *list = NULL;
    struct tier_cert *ca = NULL;
    uint8_t *der = NULL;
    size_t bytes = 0;
    MUST(tier_authority_revocations(authority, after, now_s, &der, &bytes, err));
    if (der) {
        MUST(tier_cert_from_pem(tier_authority_ca_pem(authority), &ca, err));
        MUST(tier_revocations_read(der, bytes, ca, &list, err));
        tier_cert_free(ca);
    }
    free(der);
    return list;
}

Test(tier_revocation,
     revoking_makes_a_new_list_at_once_and_nothing_else_does_before_half_its_time) {
    char *cert = NULL;
    open_authority(NOW);
    tier_key_free(enroll("north", NOW, &cert));
    struct tier_identity id = identity_of(cert);
    struct tier_revocations *first = newest(0, NOW);
    CHECK(first && tier_revocations_count(first) == 0);
    uint64_t number = tier_revocations_number(first);
    CHECK(newest(number, NOW + TIER_REVOCATIONS_TTL_S / 2 - 1) == NULL);
    MUST(tier_authority_revoke(authority, "north", NOW + 5, err));
    struct tier_revocations *second = newest(number, NOW + 6);
    CHECK(second && tier_revocations_number(second) == number + 1);
    CHECK(tier_revocations_has(second, id.serial));
    struct tier_revocations *third = newest(number + 1, NOW + 5 + TIER_REVOCATIONS_TTL_S / 2);
    CHECK(third && tier_revocations_number(third) == number + 2);
    CHECK(tier_revocations_has(third, id.serial));
    /* What has run out need not be named. */
    struct tier_revocations *later = newest(number + 2, id.not_after_s + TIER_CERT_BACKDATE_S + 1);
    CHECK(later && tier_revocations_count(later) == 0);
    tier_revocations_free(first), tier_revocations_free(second), tier_revocations_free(third);
    tier_revocations_free(later);
    tier_authority_close(authority);
    free(cert);
}

Test(tier_revocation, who_enrolls_in_place_of_another_puts_that_one_on_the_list) {
    char *before = NULL, *after = NULL;
    open_authority(NOW);
    tier_key_free(enroll("north", NOW, &before));
    tier_key_free(enroll("north", NOW + 1, &after));
    struct tier_identity old = identity_of(before), now = identity_of(after);
    struct tier_revocations *list = newest(0, NOW + 2);
    CHECK(tier_revocations_has(list, old.serial) && !tier_revocations_has(list, now.serial));
    tier_revocations_free(list);
    tier_authority_close(authority);
    free(before), free(after);
}

/* ---- renewal ---- */

static enum tier_status renew(const char *cert, const struct tier_key *signer,
                              const struct tier_key *next, const char *name, int64_t now_s,
                              char **out, struct tier_err *err) {
    uint8_t sig[TIER_SIGNATURE_BYTES_MAX];
    size_t sig_bytes = 0;
    char *csr = NULL, *text = NULL, *ca = NULL;
    CHECK(tier_csr_new(next, name, TIER_ROLE_HUB, &csr, NULL) == TIER_OK);
    CHECK(tier_renewal_text(csr, &text, NULL) == TIER_OK);
    CHECK(tier_key_sign(signer, text, strlen(text), sig, &sig_bytes, NULL) == TIER_OK);
    enum tier_status st =
        tier_authority_renew(authority, cert, csr, sig, sig_bytes, now_s, out, &ca, err);
    free(csr), free(text), free(ca);
    return st;
}

Test(tier_revocation, a_certificate_is_renewed_in_its_second_half_for_its_own_key_alone) {
    char *cert = NULL, *next = NULL, *other = NULL;
    struct tier_key *fresh = NULL;
    open_authority(NOW);
    MUST(tier_authority_set_cert_ttl(authority, 1000, err));
    struct tier_key *key = enroll("north", NOW, &cert);
    CHECK(identity_of(cert).not_after_s == NOW + 1000);
    REFUSED(TIER_EPOLICY, "second half", renew(cert, key, key, "north", NOW + 499, &next, err));
    MUST(renew(cert, key, key, "north", NOW + 500, &next, err));
    CHECK(identity_of(next).not_after_s == NOW + 1500);
    MUST(tier_key_generate(&fresh, err));
    REFUSED(TIER_EIDENTITY, "a new key takes a new token",
            renew(cert, key, fresh, "north", NOW + 900, &other, err));
    CHECK(other == NULL);
    MUST(renew(cert, key, key, "north", NOW + 900, &other, err));
    /* The present one stays good: nothing was revoked. */
    struct tier_revocations *list = newest(0, NOW + 900);
    CHECK(tier_revocations_count(list) == 0);
    tier_revocations_free(list);
    tier_key_free(key), tier_key_free(fresh);
    tier_authority_close(authority);
    free(cert), free(next), free(other);
}

Test(tier_revocation, only_the_holder_of_a_good_certificate_renews_it_under_its_own_name) {
    char *cert = NULL, *foreign = NULL, *next = NULL;
    struct tier_key *thief = NULL;
    struct ca other = make_ca("nhs");
    char *csr = NULL;
    open_authority(NOW);
    MUST(tier_authority_set_cert_ttl(authority, 1000, err));
    MUST(tier_key_generate(&thief, err));
    struct tier_key *key = enroll("north", NOW, &cert);
    REFUSED(TIER_EIDENTITY, "signature", renew(cert, thief, thief, "north", NOW + 600, &next, err));
    REFUSED(TIER_EIDENTITY, "south", renew(cert, key, key, "south", NOW + 600, &next, err));
    REFUSED(TIER_EIDENTITY, "expired", renew(cert, key, key, "north", NOW + 1001, &next, err));
    MUST(tier_csr_new(key, "north", TIER_ROLE_HUB, &csr, err));
    MUST(tier_cert_issue(other.key, other.cert, csr, 1000, NOW, &foreign, err));
    REFUSED(TIER_EIDENTITY, "not issued", renew(foreign, key, key, "north", NOW + 600, &next, err));
    for (int i = 0; i < TIER_RENEWALS_MAX; i++) {
        MUST(renew(cert, key, key, "north", NOW + 600, &next, err));
        free(next);
        next = NULL;
    }
    REFUSED(TIER_ELIMIT, "16 times", renew(cert, key, key, "north", NOW + 600, &next, err));
    MUST(tier_authority_revoke(authority, "north", NOW + 600, err));
    REFUSED(TIER_EIDENTITY, "revoked", renew(cert, key, key, "north", NOW + 601, &next, err));
    CHECK(next == NULL);
    tier_key_free(key), tier_key_free(thief);
    free_ca(&other);
    tier_authority_close(authority);
    free(cert), free(foreign), free(csr);
}

Test(tier_revocation, the_life_of_certificates_is_set_within_bounds_and_kept) {
    int64_t ttl_s = 0;
    open_authority(NOW);
    MUST(tier_authority_cert_ttl(authority, &ttl_s, err));
    CHECK(ttl_s == TIER_NODE_CERT_DAYS * DAY);
    REFUSED(TIER_EARG, "10 s", tier_authority_set_cert_ttl(authority, 9, err));
    REFUSED(TIER_EARG, "days",
            tier_authority_set_cert_ttl(authority, TIER_CERT_TTL_MAX_S + 1, err));
    MUST(tier_authority_set_cert_ttl(authority, DAY, err));
    tier_authority_close(authority);
    MUST(tier_authority_open(fixture_path("authority"), &authority, err));
    MUST(tier_authority_cert_ttl(authority, &ttl_s, err));
    CHECK(ttl_s == DAY);
    tier_authority_close(authority);
}

/* ---- the home ---- */

static struct tier_config config;
static struct tier_home home;

static void open_home(void) {
    char token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL, *ca = NULL;
    struct tier_key *key = NULL;
    int64_t now_s = tier_wall_ms() / 1000;
    open_authority(now_s);
    config = (struct tier_config){.kind = TIER_CONFIG_HUB, .tls = 1, .role = TIER_ROLE_HUB};
    snprintf(config.name, sizeof config.name, "north");
    snprintf(config.data_dir, sizeof config.data_dir, "%s/node", fixture_dir);
    CHECK(mkdir(config.data_dir, 0700) == 0);
    MUST(tier_authority_token_create(authority, "north", TIER_ROLE_HUB, 600, false, now_s, token,
                                     err));
    MUST(tier_identity_prepare(config.data_dir, &key, err));
    MUST(tier_csr_new(key, "north", TIER_ROLE_HUB, &csr, err));
    MUST(tier_authority_enroll(authority, token, csr, now_s, &cert, &ca, err));
    MUST(tier_identity_store(config.data_dir, cert, ca, now_s, err));
    MUST(tier_home_open(&config, &home, err));
    tier_key_free(key);
    free(csr), free(cert), free(ca);
}

Test(tier_revocation, a_home_keeps_the_newest_list_for_good_and_refuses_older_ones) {
    int64_t now_s = tier_wall_ms() / 1000;
    uint8_t *first = NULL, *second = NULL;
    size_t first_bytes = 0, second_bytes = 0;
    bool taken = false;
    open_home();
    MUST(tier_authority_revocations(authority, 0, now_s, &first, &first_bytes, err));
    MUST(tier_home_take_revocations(&home, first, first_bytes, &taken, err));
    CHECK(taken);
    MUST(tier_home_take_revocations(&home, first, first_bytes, &taken, err));
    CHECK(!taken);
    MUST(tier_authority_revoke(authority, "north", now_s, err));
    MUST(tier_authority_revocations(authority, 1, now_s, &second, &second_bytes, err));
    MUST(tier_home_take_revocations(&home, second, second_bytes, &taken, err));
    CHECK(taken && tier_revocations_has(home.revoked, home.node.id.serial));
    REFUSED(TIER_ELATE, "older than 2",
            tier_home_take_revocations(&home, first, first_bytes, &taken, err));
    tier_home_close(&home);
    MUST(tier_home_open(&config, &home, err));
    CHECK(home.revoked && tier_revocations_number(home.revoked) == 2);
    REFUSED(TIER_ELATE, "older than 2",
            tier_home_take_revocations(&home, first, first_bytes, &taken, err));
    second[second_bytes - 1] ^= 1;
    CHECK(tier_home_take_revocations(&home, second, second_bytes, &taken, NULL) != TIER_OK);
    CHECK(tier_revocations_number(home.revoked) == 2);
    tier_home_close(&home);
    tier_authority_close(authority);
    free(first), free(second);
}

Test(tier_revocation, a_list_past_its_time_is_told_once) {
    int64_t now_s = tier_wall_ms() / 1000;
    uint8_t *der = NULL;
    size_t bytes = 0;
    bool taken = false;
    char why[256] = "";
    open_home();
    CHECK(!tier_home_revocations_overdue(&home, now_s + 10 * DAY, why, sizeof why));
    MUST(tier_authority_revocations(authority, 0, now_s, &der, &bytes, err));
    MUST(tier_home_take_revocations(&home, der, bytes, &taken, err));
    int64_t due_s = tier_revocations_next_s(home.revoked);
    CHECK(!tier_home_revocations_overdue(&home, due_s, why, sizeof why));
    CHECK(tier_home_revocations_overdue(&home, due_s + 30, why, sizeof why));
    CHECK(strstr(why, "30 s past") != NULL, "%s", why);
    CHECK(!tier_home_revocations_overdue(&home, due_s + 31, why, sizeof why));
    tier_home_close(&home);
    tier_authority_close(authority);
    free(der);
}

Test(tier_revocation, without_tls_a_list_is_refused) {
    bool taken = false;
    config = (struct tier_config){.kind = TIER_CONFIG_HUB, .role = TIER_ROLE_HUB};
    snprintf(config.name, sizeof config.name, "north");
    snprintf(config.data_dir, sizeof config.data_dir, "%s/node", fixture_dir);
    MUST(tier_home_open(&config, &home, err));
    REFUSED(TIER_EPROTO, "no certificates",
            tier_home_take_revocations(&home, (const uint8_t *)"x", 1, &taken, err));
    tier_home_close(&home);
}
