/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/cert.h"
#include "tier/identity.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NOW INT64_C(1800000000)
#define DAY INT64_C(86400)

static struct tier_err err;
static char dir[64];

/* An authority in memory. */
struct ca {
    struct tier_key *key;
    struct tier_cert *cert;
    char *pem;
};

static struct ca make_ca(const char *name) {
    struct ca ca = {0};
    cr_assert(tier_key_generate(&ca.key, &err) == TIER_OK);
    cr_assert(tier_cert_new_ca(ca.key, name, 3650, NOW, &ca.pem, &err) == TIER_OK, "%s", err.text);
    cr_assert(tier_cert_from_pem(ca.pem, &ca.cert, &err) == TIER_OK);
    return ca;
}

static void free_ca(struct ca *ca) {
    tier_key_free(ca->key);
    tier_cert_free(ca->cert);
    free(ca->pem);
}

static char *issue(const struct ca *ca, const struct tier_key *key, const char *name, int days) {
    char *csr = NULL, *pem = NULL;
    cr_assert(tier_csr_new(key, name, TIER_ROLE_SPOKE, &csr, &err) == TIER_OK);
    cr_assert(tier_cert_issue(ca->key, ca->cert, csr, days * DAY, NOW, &pem, &err) == TIER_OK, "%s",
              err.text);
    free(csr);
    return pem;
}

static enum tier_status verify(const char *pem, const struct ca *ca, int64_t now_s,
                               struct tier_identity *id) {
    struct tier_cert *cert = NULL;
    cr_assert(tier_cert_from_pem(pem, &cert, &err) == TIER_OK);
    enum tier_status st = tier_cert_verify(cert, ca->cert, now_s, id, &err);
    tier_cert_free(cert);
    return st;
}

static int remove_one(const char *name, const struct stat *info, int type, struct FTW *at) {
    (void)info, (void)type, (void)at;
    return remove(name);
}

static void setup(void) {
    snprintf(dir, sizeof dir, "/tmp/consilium-identity-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
}

static void teardown(void) {
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(tier_identity, .init = setup, .fini = teardown);

Test(tier_identity, names_are_letters_digits_and_inner_dashes) {
    char longest[TIER_NAME_LEN_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[TIER_NAME_LEN_MAX] = '\0';
    cr_assert(tier_name_valid("a") && tier_name_valid("hub-1") && tier_name_valid(longest));
    longest[TIER_NAME_LEN_MAX] = 'a';
    longest[TIER_NAME_LEN_MAX + 1] = '\0';
    cr_assert(not(tier_name_valid(longest)));
    static const char *const bad[] = {"", "-a", "a-", "A", "a_b", "a.b", "a b", "\xc3\xa9"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert(tier_name_check("the node name", bad[i], &err) == TIER_EARG, "%s", bad[i]);
}

Test(tier_identity, a_spiffe_uri_is_read_as_written_and_nothing_else_is) {
    struct tier_identity id = {.authority = "nhs", .name = "north-1", .role = TIER_ROLE_HUB}, got;
    char uri[TIER_SPIFFE_SIZE];
    cr_assert(eq(str, (char *)tier_identity_spiffe(&id, uri), "spiffe://nhs/hub/north-1"));
    cr_assert(tier_identity_parse_spiffe(uri, &got, &err) == TIER_OK);
    cr_assert(got.role == TIER_ROLE_HUB && strcmp(got.name, "north-1") == 0);
    static const char *const bad[] = {"",
                                      "spiffe://",
                                      "spiffe://nhs",
                                      "spiffe://nhs/hub",
                                      "spiffe://nhs/hub/",
                                      "spiffe://nhs/boss/x",
                                      "spiffe://nhs/hub/x/y",
                                      "spiffe:///hub/x",
                                      "spiffe://nhs/hub/X",
                                      "http://nhs/hub/x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert(tier_identity_parse_spiffe(bad[i], &got, &err) == TIER_EIDENTITY, "%s", bad[i]);
}

Test(tier_identity, a_request_says_name_and_role_and_an_altered_one_is_refused) {
    struct tier_key *key = NULL;
    struct tier_csr csr;
    char *pem = NULL;
    cr_assert(tier_key_generate(&key, &err) == TIER_OK);
    cr_assert(tier_csr_new(key, "spoke-7", TIER_ROLE_SPOKE, &pem, &err) == TIER_OK);
    cr_assert(tier_csr_parse(pem, &csr, &err) == TIER_OK, "%s", err.text);
    cr_assert(eq(str, csr.name, "spoke-7"));
    cr_assert(csr.role == TIER_ROLE_SPOKE);
    char *body = strchr(pem, '\n') + 1;
    size_t bytes = (size_t)(strstr(pem, "-----END") - body);
    for (size_t i = 0; i < bytes; i += 7) {
        char kept = body[i];
        body[i] = kept == 'A' ? 'B' : 'A';
        cr_assert(tier_csr_parse(pem, &csr, &err) == TIER_EIDENTITY || kept == '\n' ||
                  strcmp(csr.name, "spoke-7") == 0);
        body[i] = kept;
    }
    cr_assert(tier_csr_parse("", &csr, &err) == TIER_EIDENTITY);
    cr_assert(tier_csr_new(key, "Not a name", TIER_ROLE_SPOKE, &pem, &err) == TIER_EARG);
    free(pem);
    tier_key_free(key);
}

/* openssl req -new -newkey ec:prime256v1 -subj /OU=spoke/CN=x -addext subjectAltName=DNS:evil */
static const char csr_with_extension[] =
#include "csr_with_extension.inc"
    ;
static const char csr_of_rsa[] =
#include "csr_of_rsa.inc"
    ;
static const char key_of_p384[] =
#include "key_of_p384.inc"
    ;

Test(tier_identity, a_request_that_asks_for_more_is_refused) {
    struct tier_csr csr;
    struct tier_key *key = NULL;
    cr_assert(tier_csr_parse(csr_with_extension, &csr, &err) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "attributes") != NULL, "%s", err.text);
    cr_assert(tier_csr_parse(csr_of_rsa, &csr, &err) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "P-256") != NULL, "%s", err.text);
    cr_assert(tier_key_from_pem(key_of_p384, &key, &err) == TIER_EIDENTITY);
}

Test(tier_identity, a_certificate_is_believed_by_its_authority_in_its_time_only) {
    struct ca ours = make_ca("nhs"), foreign = make_ca("nhs");
    struct tier_key *key = NULL;
    struct tier_identity id;
    cr_assert(tier_key_generate(&key, &err) == TIER_OK);
    char *pem = issue(&ours, key, "spoke-1", 30);
    cr_assert(verify(pem, &ours, NOW, &id) == TIER_OK, "%s", err.text);
    cr_assert(strcmp(id.name, "spoke-1") == 0 && strcmp(id.authority, "nhs") == 0);
    cr_assert(id.not_before_s == NOW - 300 && id.not_after_s == NOW + 30 * DAY);
    cr_assert(strlen(id.serial) == 32 && id.role == TIER_ROLE_SPOKE);
    cr_assert(verify(pem, &ours, NOW - 299, &id) == TIER_OK);
    cr_assert(verify(pem, &ours, NOW - 301, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "not valid before") != NULL, "%s", err.text);
    cr_assert(verify(pem, &ours, NOW + 31 * DAY, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "expired on 2027-02-14") != NULL, "%s", err.text);
    cr_assert(verify(pem, &foreign, NOW, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "not issued by") != NULL, "%s", err.text);
    cr_assert(verify(ours.pem, &ours, NOW, &id) == TIER_EIDENTITY, "a CA is no node");
    free(pem);
    tier_key_free(key);
    free_ca(&ours);
    free_ca(&foreign);
}

Test(tier_identity, a_certificate_never_outlives_its_authority) {
    struct ca ca = make_ca("nhs");
    struct tier_key *key = NULL;
    struct tier_identity id;
    cr_assert(tier_key_generate(&key, &err) == TIER_OK);
    char *pem = issue(&ca, key, "spoke-1", 20000);
    cr_assert(verify(pem, &ca, NOW, &id) == TIER_OK);
    cr_assert(id.not_after_s == NOW + 3650 * DAY);
    char *csr = NULL, *none = NULL;
    cr_assert(tier_csr_new(key, "spoke-1", TIER_ROLE_SPOKE, &csr, &err) == TIER_OK);
    cr_assert(tier_cert_issue(ca.key, ca.cert, csr, 0, NOW, &none, &err) == TIER_EARG);
    cr_assert(tier_cert_issue(ca.key, ca.cert, csr, DAY, NOW + 3650 * DAY, &none, &err) ==
              TIER_EIDENTITY);
    free(csr);
    free(pem);
    tier_key_free(key);
    free_ca(&ca);
}

Test(tier_identity, a_signature_fits_its_bytes_and_key_only) {
    struct ca ca = make_ca("nhs");
    uint8_t sig[TIER_SIGNATURE_BYTES_MAX];
    size_t sig_bytes = 0;
    struct ca other = make_ca("other");
    cr_assert(tier_key_sign(ca.key, "receipt", 7, sig, &sig_bytes, &err) == TIER_OK);
    cr_assert(tier_cert_check_signature(ca.cert, "receipt", 7, sig, sig_bytes, &err) == TIER_OK);
    cr_assert(tier_cert_check_signature(ca.cert, "receipT", 7, sig, sig_bytes, &err) ==
              TIER_EIDENTITY);
    cr_assert(tier_cert_check_signature(other.cert, "receipt", 7, sig, sig_bytes, &err) ==
              TIER_EIDENTITY);
    sig[sig_bytes - 1] ^= 1;
    cr_assert(tier_cert_check_signature(ca.cert, "receipt", 7, sig, sig_bytes, &err) ==
              TIER_EIDENTITY);
    cr_assert(tier_cert_check_signature(ca.cert, "receipt", 7, sig, 0, &err) == TIER_EIDENTITY);
    free_ca(&ca);
    free_ca(&other);
}

/* Enrolls the data directory with this authority. */
static void enroll(const struct ca *ca, int days) {
    struct tier_key *key = NULL;
    cr_assert(tier_identity_prepare(dir, &key, &err) == TIER_OK, "%s", err.text);
    char *pem = issue(ca, key, "spoke-1", days);
    cr_assert(tier_identity_store(dir, pem, ca->pem, NOW, &err) == TIER_OK, "%s", err.text);
    free(pem);
    tier_key_free(key);
}

Test(tier_identity, a_stored_identity_is_loaded_until_it_expires) {
    struct ca ca = make_ca("nhs");
    struct tier_node node = {0};
    cr_assert(tier_identity_load(dir, NOW, &node, &err) == TIER_ENOTFOUND);
    cr_assert(not(tier_identity_exists(dir)));
    enroll(&ca, 10);
    cr_assert(tier_identity_exists(dir));
    cr_assert(tier_identity_load(dir, NOW, &node, &err) == TIER_OK, "%s", err.text);
    cr_assert(eq(str, node.id.name, "spoke-1"));
    cr_assert(strstr(node.key_pem, "PRIVATE KEY") && strcmp(node.ca_pem, ca.pem) == 0);
    tier_identity_release(&node);
    tier_identity_release(&node);
    cr_assert(tier_identity_load(dir, NOW + 11 * DAY, &node, &err) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "expired on") != NULL, "%s", err.text);
    free_ca(&ca);
}

Test(tier_identity, a_key_that_others_may_read_is_refused) {
    struct ca ca = make_ca("nhs");
    struct tier_node node = {0};
    struct stat info;
    char path[128];
    enroll(&ca, 10);
    snprintf(path, sizeof path, "%s/identity/key.pem", dir);
    cr_assert(stat(path, &info) == 0 && (info.st_mode & 07777) == 0600);
    cr_assert(chmod(path, 0640) == 0);
    cr_assert(tier_identity_load(dir, NOW, &node, &err) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "0640") && strstr(err.text, "0600"), "%s", err.text);
    cr_assert(chmod(path, 0600) == 0);
    cr_assert(tier_identity_load(dir, NOW, &node, &err) == TIER_OK);
    tier_identity_release(&node);
    free_ca(&ca);
}

Test(tier_identity, a_certificate_for_another_key_or_authority_is_not_stored) {
    struct ca ca = make_ca("nhs"), foreign = make_ca("elsewhere");
    struct tier_key *mine = NULL, *other = NULL;
    cr_assert(tier_identity_prepare(dir, &mine, &err) == TIER_OK);
    cr_assert(tier_key_generate(&other, &err) == TIER_OK);
    char *wrong_key = issue(&ca, other, "spoke-1", 10);
    char *wrong_ca = issue(&foreign, mine, "spoke-1", 10);
    cr_assert(tier_identity_store(dir, wrong_key, ca.pem, NOW, &err) == TIER_EIDENTITY);
    cr_assert(tier_identity_store(dir, wrong_ca, ca.pem, NOW, &err) == TIER_EIDENTITY);
    cr_assert(not(tier_identity_exists(dir)));
    free(wrong_key);
    free(wrong_ca);
    tier_key_free(mine);
    tier_key_free(other);
    free_ca(&ca);
    free_ca(&foreign);
}
