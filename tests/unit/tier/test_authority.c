/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/authority.h"
#include "tier/cert.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <ftw.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOW INT64_C(1800000000)
#define DAY INT64_C(86400)

static char dir[64];
static struct tier_authority *a;
static struct tier_err err;
static char token[TIER_TOKEN_SIZE];

static int remove_one(const char *name, const struct stat *info, int type, struct FTW *at) {
    (void)info, (void)type, (void)at;
    return remove(name);
}

static void setup(void) {
    snprintf(dir, sizeof dir, "/tmp/consilium-authority-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    cr_assert(tier_authority_init(dir, "nhs", 3650, NOW, &err) == TIER_OK, "%s", err.text);
}

static void teardown(void) {
    tier_authority_close(a);
    a = NULL;
    nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void open_it(void) {
    cr_assert(tier_authority_open(dir, &a, &err) == TIER_OK, "%s", err.text);
}

static void make_token(const char *name, bool replace) {
    cr_assert(tier_authority_token_create(a, name, TIER_ROLE_SPOKE, 3600, replace, NOW, token,
                                          &err) == TIER_OK,
              "%s", err.text);
}

static enum tier_status enroll_as(const char *name, enum tier_role role, int64_t now_s,
                                  struct tier_identity *id) {
    struct tier_key *key = NULL;
    struct tier_cert *cert = NULL;
    char *csr = NULL, *cert_pem = NULL, *ca_pem = NULL;
    cr_assert(tier_key_generate(&key, NULL) == TIER_OK);
    cr_assert(tier_csr_new(key, name, role, &csr, NULL) == TIER_OK);
    enum tier_status st = tier_authority_enroll(a, token, csr, now_s, &cert_pem, &ca_pem, &err);
    if (st == TIER_OK) {
        cr_assert(tier_token_check_ca(token, ca_pem, &err) == TIER_OK);
        cr_assert(tier_cert_from_pem(cert_pem, &cert, &err) == TIER_OK);
        cr_assert(tier_cert_matches(cert, key));
        cr_assert(tier_cert_identity(cert, id, &err) == TIER_OK);
    }
    tier_cert_free(cert);
    tier_key_free(key);
    free(csr);
    free(cert_pem);
    free(ca_pem);
    return st;
}

TestSuite(tier_authority, .init = setup, .fini = teardown);

Test(tier_authority, an_authority_is_made_once) {
    struct stat info;
    char path[128];
    cr_assert(tier_authority_init(dir, "nhs", 10, NOW, &err) == TIER_ECONFLICT);
    snprintf(path, sizeof path, "%s/ca.key", dir);
    cr_assert(stat(path, &info) == 0 && (info.st_mode & 07777) == 0600);
    open_it();
    cr_assert(eq(str, (char *)tier_authority_name(a), "nhs"));
    tier_authority_close(a);
    a = NULL;
    cr_assert(chmod(path, 0644) == 0);
    cr_assert(tier_authority_open(dir, &a, &err) == TIER_EIDENTITY);
    cr_assert(tier_authority_open("/nonexistent", &a, &err) == TIER_ENOTFOUND);
}

Test(tier_authority, a_token_is_redeemed_once) {
    struct tier_identity id;
    open_it();
    make_token("spoke-1", false);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW + 10, &id) == TIER_OK, "%s", err.text);
    cr_assert(strcmp(id.name, "spoke-1") == 0 && strcmp(id.authority, "nhs") == 0);
    cr_assert(id.not_after_s == NOW + 10 + TIER_NODE_CERT_DAYS * DAY);
    cr_assert(tier_authority_check(a, &id.fingerprint, &err) == TIER_OK);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW + 11, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "used already") != NULL, "%s", err.text);
}

Test(tier_authority, a_token_fits_its_name_role_and_time_and_a_refusal_does_not_use_it_up) {
    struct tier_identity id;
    open_it();
    make_token("spoke-1", false);
    cr_assert(enroll_as("spoke-2", TIER_ROLE_SPOKE, NOW, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "spoke-2") != NULL, "%s", err.text);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_HUB, NOW, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "role") != NULL, "%s", err.text);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW + 3600, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "expired") != NULL, "%s", err.text);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW + 3599, &id) == TIER_OK, "%s", err.text);
}

Test(tier_authority, an_unknown_foreign_or_malformed_token_is_refused) {
    struct tier_identity id;
    struct tier_token parsed;
    char kept;
    open_it();
    make_token("spoke-1", false);
    cr_assert(tier_token_parse(token, &parsed, &err) == TIER_OK);
    kept = token[11];
    token[11] = kept == 'a' ? 'b' : 'a';
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "never gave out") != NULL, "%s", err.text);
    token[11] = '1';
    cr_assert(tier_token_parse(token, &parsed, &err) == TIER_EARG);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &id) == TIER_EIDENTITY);
    token[11] = kept;
    token[TIER_TOKEN_SIZE - 2] = token[TIER_TOKEN_SIZE - 2] == '0' ? '1' : '0';
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "another authority") != NULL, "%s", err.text);
    cr_assert(tier_token_check_ca(token, tier_authority_ca_pem(a), &err) == TIER_EIDENTITY);
    cr_assert(tier_token_parse("", &parsed, &err) == TIER_EARG);
}

Test(tier_authority, a_name_in_use_is_given_anew_only_when_replacing) {
    struct tier_identity first, second;
    open_it();
    make_token("spoke-1", false);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &first) == TIER_OK);
    cr_assert(tier_authority_token_create(a, "spoke-1", TIER_ROLE_SPOKE, 60, false, NOW, token,
                                          &err) == TIER_ECONFLICT);
    make_token("spoke-1", true);
    cr_assert(tier_authority_check(a, &first.fingerprint, &err) == TIER_OK);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &second) == TIER_OK);
    cr_assert(tier_authority_check(a, &first.fingerprint, &err) == TIER_EIDENTITY);
    cr_assert(tier_authority_check(a, &second.fingerprint, &err) == TIER_OK);
    cr_assert(tier_authority_token_create(a, "spoke-1", TIER_ROLE_SPOKE, 60, false, NOW + 400 * DAY,
                                          token, &err) == TIER_OK,
              "an expired certificate holds no name");
}

static enum tier_status renew_for(const char *cert_pem, const struct tier_key *key,
                                  const struct tier_key *next) {
    uint8_t sig[TIER_SIGNATURE_BYTES_MAX];
    size_t sig_bytes;
    char *csr = NULL, *text = NULL, *cert = NULL, *ca = NULL;
    cr_assert(tier_csr_new(next, "spoke-1", TIER_ROLE_SPOKE, &csr, NULL) == TIER_OK);
    cr_assert(tier_renewal_text(csr, &text, NULL) == TIER_OK);
    cr_assert(tier_key_sign(key, text, strlen(text), sig, &sig_bytes, NULL) == TIER_OK);
    enum tier_status st =
        tier_authority_renew(a, cert_pem, csr, sig, sig_bytes,
                             NOW + TIER_NODE_CERT_DAYS * DAY / 2 + DAY, &cert, &ca, &err);
    free(csr), free(text), free(cert), free(ca);
    return st;
}

Test(tier_authority, a_renewal_keeps_the_key_and_another_takes_a_token) {
    struct tier_key *key = NULL, *other = NULL;
    char *csr = NULL, *cert_pem = NULL, *ca_pem = NULL;
    open_it();
    cr_assert(tier_key_generate(&key, NULL) == TIER_OK);
    cr_assert(tier_key_generate(&other, NULL) == TIER_OK);
    make_token("spoke-1", false);
    cr_assert(tier_csr_new(key, "spoke-1", TIER_ROLE_SPOKE, &csr, NULL) == TIER_OK);
    cr_assert(tier_authority_enroll(a, token, csr, NOW, &cert_pem, &ca_pem, &err) == TIER_OK);
    cr_assert(renew_for(cert_pem, key, other) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "a new key takes a new token") != NULL, "%s", err.text);
    cr_assert(renew_for(cert_pem, key, key) == TIER_OK, "%s", err.text);
    tier_key_free(key), tier_key_free(other);
    free(csr), free(cert_pem), free(ca_pem);
}

Test(tier_authority, a_newer_token_or_a_revocation_makes_the_old_one_void) {
    struct tier_identity id;
    char old[TIER_TOKEN_SIZE];
    open_it();
    make_token("spoke-1", false);
    memcpy(old, token, sizeof old);
    make_token("spoke-1", false);
    char newer[TIER_TOKEN_SIZE];
    memcpy(newer, token, sizeof newer);
    memcpy(token, old, sizeof token);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &id) == TIER_EIDENTITY);
    cr_assert(strstr(err.text, "void") != NULL, "%s", err.text);
    memcpy(token, newer, sizeof token);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &id) == TIER_OK);
    cr_assert(tier_authority_revoke(a, "spoke-1", NOW + 5, &err) == TIER_OK);
    cr_assert(tier_authority_check(a, &id.fingerprint, &err) == TIER_EIDENTITY);
    cr_assert(tier_authority_revoke(a, "spoke-1", NOW + 6, &err) == TIER_ENOTFOUND);
}

static enum tier_status count_entry(void *arg, const struct tier_authority_entry *entry,
                                    struct tier_err *e) {
    (void)e;
    cr_assert(strncmp(entry->id.name, "spoke-", 6) == 0 && entry->revoked_s == 0);
    ++*(int *)arg;
    return TIER_OK;
}

Test(tier_authority, the_list_holds_every_certificate_and_stops_when_told) {
    struct tier_identity id;
    int seen = 0;
    open_it();
    make_token("spoke-1", false);
    cr_assert(enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &id) == TIER_OK);
    make_token("spoke-2", false);
    cr_assert(enroll_as("spoke-2", TIER_ROLE_SPOKE, NOW, &id) == TIER_OK);
    cr_assert(tier_authority_list(a, count_entry, &seen, &err) == TIER_OK);
    cr_assert(seen == 2);
}

/* A process of its own: waits for the start, then redeems; exits 0 on success, 3 when told that the
 * token was used, else 4. */
static void racer(int start) {
    char byte;
    struct tier_identity id;
    if (tier_authority_open(dir, &a, NULL) != TIER_OK || read(start, &byte, 1) != 0)
        _exit(4);
    enum tier_status st = enroll_as("spoke-1", TIER_ROLE_SPOKE, NOW, &id);
    _exit(st == TIER_OK ? 0 : st == TIER_EIDENTITY && strstr(err.text, "used already") ? 3 : 4);
}

Test(tier_authority, of_processes_that_race_for_a_token_one_wins) {
    enum { RACERS = 4 };
    pid_t pids[RACERS];
    int start[2], won = 0, told = 0;
    /* The token comes from another process, so that none forks with SQLite open. */
    int text[2];
    cr_assert(pipe(text) == 0 && pipe(start) == 0);
    pid_t maker = fork();
    if (maker == 0) {
        open_it();
        make_token("spoke-1", false);
        _exit(write(text[1], token, sizeof token) == sizeof token ? 0 : 1);
    }
    cr_assert(read(text[0], token, sizeof token) == sizeof token);
    cr_assert(waitpid(maker, NULL, 0) == maker);
    for (int i = 0; i < RACERS; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            close(start[1]);
            racer(start[0]);
        }
    }
    close(start[1]); /* end of file for all at once */
    for (int i = 0; i < RACERS; i++) {
        int status = 0;
        cr_assert(waitpid(pids[i], &status, 0) == pids[i]);
        won += WIFEXITED(status) && WEXITSTATUS(status) == 0;
        told += WIFEXITED(status) && WEXITSTATUS(status) == 3;
    }
    cr_assert(won == 1 && told == RACERS - 1, "won %d told %d", won, told);
}

/* As version 1 made it, with one certificate and one token. */
static const char first_version[] =
    "CREATE TABLE tokens(hash BLOB PRIMARY KEY NOT NULL, name TEXT NOT NULL,"
    " role INTEGER NOT NULL CHECK(role BETWEEN 0 AND 3), created_s INTEGER NOT NULL,"
    " expires_s INTEGER NOT NULL, used_s INTEGER NOT NULL, void_s INTEGER NOT NULL);"
    "CREATE INDEX tokens_by_name ON tokens(name);"
    "CREATE TABLE certificates(fingerprint BLOB PRIMARY KEY NOT NULL, serial TEXT NOT NULL UNIQUE,"
    " name TEXT NOT NULL, role INTEGER NOT NULL CHECK(role BETWEEN 0 AND 3),"
    " not_before_s INTEGER NOT NULL, not_after_s INTEGER NOT NULL, issued_s INTEGER NOT NULL,"
    " revoked_s INTEGER NOT NULL);"
    "CREATE INDEX certificates_by_name ON certificates(name);"
    "INSERT INTO tokens VALUES(randomblob(32), 'spoke-2', 2, 1800000000, 1900000000, 0, 0);"
    "INSERT INTO certificates VALUES(randomblob(32), 'ab01', 'spoke-1', 2, 1800000000, 1900000000,"
    " 1800000000, 1800000001);"
    "PRAGMA application_id = 0x434f4e41; PRAGMA user_version = 1;";

static enum tier_status see_old(void *arg, const struct tier_authority_entry *entry,
                                struct tier_err *e) {
    (void)e;
    *(int *)arg += strcmp(entry->id.name, "spoke-1") == 0 &&
                   strcmp(entry->id.serial, "ab01") == 0 && entry->revoked_s == NOW + 1 &&
                   entry->id.role == TIER_ROLE_SPOKE;
    return TIER_OK;
}

Test(tier_authority, one_of_an_older_version_keeps_what_it_has_and_learns_the_new) {
    char path[128];
    sqlite3 *db = NULL;
    uint8_t *der = NULL;
    size_t bytes = 0;
    int seen = 0;
    snprintf(path, sizeof path, "%s/authority.db", dir);
    cr_assert(remove(path) == 0);
    cr_assert(sqlite3_open(path, &db) == SQLITE_OK);
    cr_assert(sqlite3_exec(db, first_version, NULL, NULL, NULL) == SQLITE_OK, "%s",
              sqlite3_errmsg(db));
    sqlite3_close(db);
    open_it();
    cr_assert(tier_authority_list(a, see_old, &seen, &err) == TIER_OK && seen == 1);
    cr_assert(tier_authority_token_create(a, "carl", TIER_ROLE_AUDITOR, 60, false, NOW, token,
                                          &err) == TIER_OK,
              "%s", err.text);
    cr_assert(tier_authority_set_cert_ttl(a, 60, &err) == TIER_OK, "%s", err.text);
    cr_assert(tier_authority_revocations(a, 0, NOW + 2, &der, &bytes, &err) == TIER_OK);
    cr_assert(der != NULL && bytes > 0);
    free(der);
    cr_assert(tier_authority_revoke(a, "spoke-2", NOW + 3, &err) == TIER_OK, "its token is kept");
}
