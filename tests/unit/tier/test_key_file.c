/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/key_file.h"
#include "tier/pem_file.h"

#define PASSPHRASE "correct horse battery"
#define OTHER "another passphrase"

static void put(const char *name, const char *text, mode_t mode) {
    FILE *f = fopen(fixture_path(name), "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
    CHECK(chmod(fixture_path(name), mode) == 0);
}

static void up(void) {
    fixture_up();
    unsetenv("CREDENTIALS_DIRECTORY");
    tier_key_file_passphrase(NULL);
    put("pass", PASSPHRASE "\n", 0600);
    put("other", OTHER, 0400);
}

TestSuite(tier_key_file, .init = up, .fini = fixture_down);

static struct tier_key *make_key(void) {
    struct tier_key *key = NULL;
    MUST(tier_key_generate(&key, err));
    return key;
}

static char *text_of(const char *name) {
    char *text = NULL;
    MUST(tier_pem_read(fixture_dir, name, true, &text, err));
    return text;
}

/* Whether the key there is that one, by its plain text. */
static void holds_key(const char *name, const struct tier_key *key) {
    struct tier_key *got = NULL;
    char *plain = NULL, *want = NULL;
    MUST(tier_key_file_read(fixture_dir, name, &got, &plain, err));
    MUST(tier_key_to_pem(key, &want, err));
    cr_assert(eq(str, plain, want));
    tier_key_free(got);
    tier_secret_free(plain);
    tier_secret_free(want);
}

Test(tier_key_file, without_a_passphrase_a_key_is_plain_and_with_one_it_is_not) {
    struct tier_key *key = make_key();
    CHECK(!tier_key_file_sealing());
    MUST(tier_key_file_write(fixture_dir, "plain", key, false, err));
    CHECK(!tier_key_file_is_sealed(fixture_dir, "plain"));
    tier_key_file_passphrase(fixture_path("pass"));
    CHECK(tier_key_file_sealing());
    MUST(tier_key_file_write(fixture_dir, "sealed", key, false, err));
    REFUSED(TIER_ECONFLICT, "not overwritten",
            tier_key_file_write(fixture_dir, "sealed", key, false, err));
    CHECK(tier_key_file_is_sealed(fixture_dir, "sealed"));
    char *text = text_of("sealed");
    CHECK(strstr(text, "BEGIN ENCRYPTED PRIVATE KEY") != NULL, "%s", text);
    tier_secret_free(text);
    holds_key("sealed", key);
    holds_key("plain", key); /* a plain one is read either way */
    tier_key_free(key);
}

Test(tier_key_file, an_encrypted_key_needs_its_own_passphrase) {
    struct tier_key *key = make_key(), *got = NULL;
    tier_key_file_passphrase(fixture_path("pass"));
    MUST(tier_key_file_write(fixture_dir, "key", key, false, err));
    tier_key_file_passphrase(NULL);
    REFUSED(TIER_EIDENTITY, "key_passphrase_file",
            tier_key_file_read(fixture_dir, "key", &got, NULL, err));
    tier_key_file_passphrase(fixture_path("other"));
    REFUSED(TIER_EIDENTITY, "does not open it",
            tier_key_file_read(fixture_dir, "key", &got, NULL, err));
    tier_key_file_passphrase(fixture_path("none"));
    REFUSED(TIER_ENOTFOUND, "passphrase", tier_key_file_read(fixture_dir, "key", &got, NULL, err));
    CHECK(got == NULL);
    tier_key_free(key);
}

Test(tier_key_file, a_passphrase_that_others_may_read_or_that_is_short_is_refused) {
    struct tier_key *key = make_key();
    put("open", PASSPHRASE, 0644);
    put("short", "eleven byte\nsecond line", 0600);
    put("twelve", "twelve bytes\r\n", 0600);
    tier_key_file_passphrase(fixture_path("open"));
    REFUSED(TIER_EIDENTITY, "others may read",
            tier_key_file_write(fixture_dir, "key", key, false, err));
    tier_key_file_passphrase(fixture_path("short"));
    REFUSED(TIER_EIDENTITY, "11 bytes", tier_key_file_write(fixture_dir, "key", key, false, err));
    CHECK(!tier_pem_exists(fixture_dir, "key"));
    tier_key_file_passphrase(fixture_path("twelve"));
    MUST(tier_key_file_write(fixture_dir, "key", key, false, err));
    holds_key("key", key);
    tier_key_free(key);
}

Test(tier_key_file, systemds_credential_is_taken_where_no_file_is_named) {
    struct tier_key *key = make_key();
    char path[256];
    snprintf(path, sizeof path, "%s", fixture_path("creds"));
    CHECK(mkdir(path, 0700) == 0);
    CHECK(setenv("CREDENTIALS_DIRECTORY", path, 1) == 0);
    CHECK(!tier_key_file_sealing(), "there is no such credential yet");
    put("creds/" TIER_PASSPHRASE_CREDENTIAL, PASSPHRASE, 0400);
    CHECK(tier_key_file_sealing());
    MUST(tier_key_file_write(fixture_dir, "key", key, false, err));
    CHECK(tier_key_file_is_sealed(fixture_dir, "key"));
    holds_key("key", key);
    tier_key_file_passphrase(fixture_path("other")); /* a named file comes first */
    struct tier_key *got = NULL;
    REFUSED(TIER_EIDENTITY, "does not open it",
            tier_key_file_read(fixture_dir, "key", &got, NULL, err));
    tier_key_free(key);
}

Test(tier_key_file, a_plain_key_is_encrypted_later_and_its_passphrase_changed) {
    struct tier_key *key = make_key();
    MUST(tier_key_file_write(fixture_dir, "key", key, false, err));
    REFUSED(TIER_EARG, "no file", tier_key_file_protect(fixture_dir, "key", NULL, err));
    MUST(tier_key_file_protect(fixture_dir, "key", fixture_path("pass"), err));
    CHECK(tier_key_file_is_sealed(fixture_dir, "key"));
    tier_key_file_passphrase(fixture_path("pass"));
    holds_key("key", key);
    MUST(tier_key_file_protect(fixture_dir, "key", fixture_path("other"), err));
    struct tier_key *got = NULL;
    REFUSED(TIER_EIDENTITY, "does not open it",
            tier_key_file_read(fixture_dir, "key", &got, NULL, err));
    tier_key_file_passphrase(fixture_path("other"));
    holds_key("key", key);
    tier_key_free(key);
}

Test(tier_key_file, a_node_and_an_authority_are_born_and_loaded_with_encrypted_keys) {
    char token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL, *ca = NULL;
    struct tier_authority *a = NULL;
    struct tier_key *key = NULL;
    struct tier_node node = {0};
    const int64_t now_s = 1800000000;
    tier_key_file_passphrase(fixture_path("pass"));
    MUST(tier_authority_init(fixture_path("authority"), "nhs", 30, now_s, err));
    CHECK(tier_key_file_is_sealed(fixture_path("authority"), "ca.key"));
    MUST(tier_authority_open(fixture_path("authority"), &a, err));
    MUST(tier_authority_token_create(a, "north", TIER_ROLE_HUB, 60, false, now_s, token, err));
    MUST(tier_identity_prepare(fixture_path("node"), &key, err));
    CHECK(!tier_identity_is_plain(fixture_path("node")));
    MUST(tier_csr_new(key, "north", TIER_ROLE_HUB, &csr, err));
    MUST(tier_authority_enroll(a, token, csr, now_s, &cert, &ca, err));
    MUST(tier_identity_store(fixture_path("node"), cert, ca, now_s, err));
    MUST(tier_identity_load(fixture_path("node"), now_s, &node, err));
    CHECK(strstr(node.key_pem, "BEGIN PRIVATE KEY") != NULL, "the transport needs it plain");
    tier_identity_release(&node);
    tier_authority_close(a);
    a = NULL;
    tier_key_file_passphrase(fixture_path("other"));
    REFUSED(TIER_EIDENTITY, "key.pem", tier_identity_load(fixture_path("node"), now_s, &node, err));
    REFUSED(TIER_EIDENTITY, "ca.key", tier_authority_open(fixture_path("authority"), &a, err));
    CHECK(a == NULL);
    tier_key_free(key);
    free(csr), free(cert), free(ca);
}
