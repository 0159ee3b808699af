/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/home.h"
#include "tier/loop.h"

TestSuite(tier_home, .init = fixture_up, .fini = fixture_down);

static struct tier_config config;
static struct tier_home home;

static void configure(const char *name, bool tls) {
    config = (struct tier_config){.kind = TIER_CONFIG_HUB,
                                  .tls = tls,
                                  .role = TIER_ROLE_HUB,
                                  .keepalive_ms = 2000,
                                  .keepalive_timeout_ms = 1500};
    snprintf(config.name, sizeof config.name, "%s", name);
    snprintf(config.data_dir, sizeof config.data_dir, "%s/node", fixture_dir);
}

/* A certificate for that name by an authority made here, in the node's directory. */
static void enroll(const char *name) {
    char token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL, *ca = NULL;
    int64_t now_s = tier_wall_ms() / 1000;
    struct tier_authority *authority = NULL;
    struct tier_key *key = NULL;
    const char *dir = fixture_path("authority");
    MUST(tier_authority_init(dir, "test-authority", 30, now_s, err));
    MUST(tier_authority_open(dir, &authority, err));
    MUST(
        tier_authority_token_create(authority, name, TIER_ROLE_HUB, 600, false, now_s, token, err));
    CHECK(mkdir(config.data_dir, 0700) == 0);
    MUST(tier_identity_prepare(config.data_dir, &key, err));
    MUST(tier_csr_new(key, name, TIER_ROLE_HUB, &csr, err));
    MUST(tier_authority_enroll(authority, token, csr, now_s, &cert, &ca, err));
    MUST(tier_identity_store(config.data_dir, cert, ca, now_s, err));
    tier_authority_close(authority);
    tier_key_free(key);
    free(csr), free(cert), free(ca);
}

static struct tier_receipt receipt(void) {
    struct tier_receipt r = {.round = 1, .child = "a", .parent = "hub-1", .weight = 3};
    r.signature_bytes = 5;
    return r;
}

Test(tier_home, a_new_directory_is_made_with_everything_in_it) {
    static const char *const parts[] = {"journal.db", "spool", "models", "audit"};
    struct stat info;
    configure("hub-1", false);
    MUST(tier_home_open(&config, &home, err));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char path[TIER_CONFIG_PATH_BYTES + 32];
        snprintf(path, sizeof path, "%s/%s", config.data_dir, parts[i]);
        CHECK(stat(path, &info) == 0, "%s", path);
    }
    CHECK(stat(config.data_dir, &info) == 0 && (info.st_mode & 07777) == 0700);
    CHECK(home.config == &config && home.keepalive.time_ms == 2000 &&
          home.keepalive.timeout_ms == 1500);
    CHECK(home.journal && home.audit && home.spool);
    tier_home_close(&home);
    tier_home_close(&home);
    MUST(tier_home_open(&config, &home, err));
    tier_home_close(&home);
}

Test(tier_home, without_tls_there_is_no_identity_and_receipts_are_not_signed) {
    struct tier_receipt r = receipt();
    configure("hub-1", false);
    MUST(tier_home_open(&config, &home, err));
    CHECK(tier_home_tls(&home) == NULL);
    MUST(tier_home_sign(&home, &r, err));
    CHECK(r.signature_bytes == 0);
    tier_home_close(&home);
}

Test(tier_home, with_tls_the_identity_is_loaded_and_signs_receipts) {
    struct tier_receipt r = receipt();
    char text[512];
    configure("hub-1", true);
    enroll("hub-1");
    MUST(tier_home_open(&config, &home, err));
    const struct tier_rpc_tls *tls = tier_home_tls(&home);
    CHECK(tls && tls->ca_pem && tls->cert_pem && tls->key_pem);
    MUST(tier_home_sign(&home, &r, err));
    CHECK(r.signature_bytes > 0 && r.signature_bytes <= sizeof r.signature);
    size_t n = tier_receipt_text(&r, text, sizeof text);
    MUST(tier_cert_check_signature(home.node.cert, text, n, r.signature, r.signature_bytes, err));
    text[n - 2] ^= 1;
    REFUSED(
        TIER_EIDENTITY, "",
        tier_cert_check_signature(home.node.cert, text, n, r.signature, r.signature_bytes, err));
    tier_home_close(&home);
}

Test(tier_home, a_certificate_for_another_name_is_refused_with_both_names) {
    configure("hub-2", true);
    enroll("hub-1");
    REFUSED(TIER_EIDENTITY, "'hub-2'", tier_home_open(&config, &home, err));
    REFUSED(TIER_EIDENTITY, "'hub-1'", tier_home_open(&config, &home, err));
    CHECK(!home.journal && !home.audit && !home.spool && !home.node.key, "something stayed open");
    configure("hub-1", true);
    MUST(tier_home_open(&config, &home, err));
    tier_home_close(&home);
}

Test(tier_home, a_certificate_of_another_role_is_refused_with_both_roles) {
    configure("hub-1", true);
    enroll("hub-1");
    config.role = TIER_ROLE_TOP;
    REFUSED(TIER_EIDENTITY, "started as a top", tier_home_open(&config, &home, err));
    REFUSED(TIER_EIDENTITY, "that of a hub", tier_home_open(&config, &home, err));
    config.role = TIER_ROLE_HUB;
    MUST(tier_home_open(&config, &home, err));
    tier_home_close(&home);
}

Test(tier_home, a_key_that_others_may_read_is_refused) {
    char key[TIER_CONFIG_PATH_BYTES + 32];
    configure("hub-1", true);
    enroll("hub-1");
    snprintf(key, sizeof key, "%s/identity/key.pem", config.data_dir);
    CHECK(chmod(key, 0644) == 0);
    REFUSED(TIER_EIDENTITY, "0644", tier_home_open(&config, &home, err));
    CHECK(!home.journal && !home.node.key);
    CHECK(chmod(key, 0600) == 0);
    MUST(tier_home_open(&config, &home, err));
    tier_home_close(&home);
}

Test(tier_home, a_node_that_is_not_enrolled_is_told_so) {
    configure("hub-1", true);
    REFUSED(TIER_ENOTFOUND, "enroll", tier_home_open(&config, &home, err));
    CHECK(!home.journal && !home.audit && !home.spool);
}

Test(tier_home, a_directory_belongs_to_one_node_and_one_process_at_a_time) {
    static struct tier_home other;
    configure("hub-1", false);
    MUST(tier_home_open(&config, &home, err));
    CHECK(tier_home_open(&config, &other, NULL) != TIER_OK);
    CHECK(!other.journal && !other.audit && !other.spool);
    tier_home_close(&home);
    configure("hub-2", false);
    REFUSED(TIER_EIDENTITY, "hub-1", tier_home_open(&config, &home, err));
    CHECK(!home.journal);
}

Test(tier_home, a_directory_that_cannot_be_made_or_used_is_an_error_with_its_path) {
    configure("hub-1", false);
    snprintf(config.data_dir, sizeof config.data_dir, "%s/none/node", fixture_dir);
    REFUSED(TIER_EIO, "none/node", tier_home_open(&config, &home, err));
    const char *file = fixture_path("file");
    FILE *f = fopen(file, "w");
    CHECK(f != NULL);
    fclose(f);
    snprintf(config.data_dir, sizeof config.data_dir, "%s", file);
    REFUSED(TIER_EIO, "file", tier_home_open(&config, &home, err));
    CHECK(!home.journal && !home.audit && !home.spool);
}
