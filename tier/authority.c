/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets of tokens have 160 random bits, so a plain SHA-256 of one can be kept and looked up. A
 * token is redeemed inside BEGIN IMMEDIATE: whoever comes second waits for the lock and then finds
 * it used.
 */
#include "tier/authority.h"

#include "tier/cert.h"
#include "tier/db.h"
#include "tier/pem_file.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CA_KEY_FILE "ca.key"
#define CA_CERT_FILE "ca.pem"
#define DB_FILE "authority.db"
#define AUTHORITY_APPLICATION_ID 0x434f4e41 /* "CONA" */
#define TOKEN_PREFIX "consilium1."
#define TOKEN_PREFIX_LEN 11
#define TOKEN_BASE32_LEN 32

struct tier_authority {
    struct tier_key *key;
    struct tier_cert *ca;
    char *ca_pem;
    struct tier_db *db;
    struct tier_hash fingerprint;
    char name[TIER_NAME_LEN_MAX + 1];
};

/* Append only. */
static const char *const migrations[] = {
    "CREATE TABLE tokens(hash BLOB PRIMARY KEY NOT NULL, name TEXT NOT NULL,"
    " role INTEGER NOT NULL CHECK(role BETWEEN 0 AND 3), created_s INTEGER NOT NULL,"
    " expires_s INTEGER NOT NULL, used_s INTEGER NOT NULL, void_s INTEGER NOT NULL);"
    "CREATE INDEX tokens_by_name ON tokens(name);"
    "CREATE TABLE certificates(fingerprint BLOB PRIMARY KEY NOT NULL, serial TEXT NOT NULL UNIQUE,"
    " name TEXT NOT NULL, role INTEGER NOT NULL CHECK(role BETWEEN 0 AND 3),"
    " not_before_s INTEGER NOT NULL, not_after_s INTEGER NOT NULL, issued_s INTEGER NOT NULL,"
    " revoked_s INTEGER NOT NULL);"
    "CREATE INDEX certificates_by_name ON certificates(name);",
};

enum {
    SQL_TOKEN_ADD,
    SQL_TOKEN_GET,
    SQL_TOKEN_USE,
    SQL_TOKEN_VOID,
    SQL_CERT_ADD,
    SQL_CERT_VALID,
    SQL_CERT_REVOKE,
    SQL_CERT_GET,
    SQL_CERT_EACH,
    SQL_COUNT
};

static const char *const statements[SQL_COUNT] = {
    [SQL_TOKEN_ADD] = "INSERT INTO tokens(hash, name, role, created_s, expires_s, used_s, void_s)"
                      " VALUES(?1, ?2, ?3, ?4, ?5, 0, 0)",
    [SQL_TOKEN_GET] = "SELECT name, role, expires_s, used_s, void_s FROM tokens WHERE hash = ?1",
    [SQL_TOKEN_USE] = "UPDATE tokens SET used_s = ?2 WHERE hash = ?1 AND used_s = 0",
    [SQL_TOKEN_VOID] = "UPDATE tokens SET void_s = ?2 WHERE name = ?1 AND used_s = 0"
                       " AND void_s = 0 AND expires_s > ?2",
    [SQL_CERT_ADD] = "INSERT INTO certificates(fingerprint, serial, name, role, not_before_s,"
                     " not_after_s, issued_s, revoked_s) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
    [SQL_CERT_VALID] = "SELECT max(not_after_s) FROM certificates WHERE name = ?1"
                       " AND revoked_s = 0 AND not_after_s >= ?2 HAVING count(*) > 0",
    [SQL_CERT_REVOKE] = "UPDATE certificates SET revoked_s = ?2 WHERE name = ?1"
                        " AND revoked_s = 0 AND not_after_s >= ?2",
    [SQL_CERT_GET] = "SELECT name, revoked_s FROM certificates WHERE fingerprint = ?1",
    [SQL_CERT_EACH] = "SELECT fingerprint, serial, name, role, not_before_s, not_after_s,"
                      " issued_s, revoked_s FROM certificates ORDER BY rowid",
};

static const struct tier_db_schema schema = {
    .what = "authority",
    .application_id = AUTHORITY_APPLICATION_ID,
    .migrations = migrations,
    .versions = sizeof migrations / sizeof *migrations,
    .statements = statements,
    .statement_count = SQL_COUNT,
    .exclusive = false,
    .busy_ms = 10000,
};

/* ---- tokens --------------------------------------------------------------------------------- */

static const char base32_digits[] = "abcdefghijklmnopqrstuvwxyz234567"; /* RFC 4648, lower case */

/* 5 bytes are 8 digits, and the secret is 4 times that: no padding anywhere. */
static void base32_encode(const uint8_t *data, char *text) {
    for (size_t group = 0; group < TIER_TOKEN_SECRET_BYTES / 5; group++) {
        uint64_t bits = 0;
        for (size_t i = 0; i < 5; i++)
            bits = bits << 8 | data[group * 5 + i];
        for (size_t i = 0; i < 8; i++)
            text[group * 8 + i] = base32_digits[bits >> (35 - 5 * i) & 31];
    }
}

static bool base32_decode(const char *text, uint8_t *data) {
    for (size_t group = 0; group < TIER_TOKEN_SECRET_BYTES / 5; group++) {
        uint64_t bits = 0;
        for (size_t i = 0; i < 8; i++) {
            char c = text[group * 8 + i];
            const char *digit = c ? strchr(base32_digits, c) : NULL;
            if (!digit)
                return false;
            bits = bits << 5 | (uint64_t)(digit - base32_digits);
        }
        for (size_t i = 0; i < 5; i++)
            data[group * 5 + i] = (uint8_t)(bits >> (32 - 8 * i));
    }
    return true;
}

enum tier_status tier_token_parse(const char *text, struct tier_token *out, struct tier_err *err) {
    struct tier_token token;
    const size_t dot = TOKEN_PREFIX_LEN + TOKEN_BASE32_LEN;

    if (!text || strnlen(text, TIER_TOKEN_SIZE) != TIER_TOKEN_SIZE - 1 ||
        strncmp(text, TOKEN_PREFIX, TOKEN_PREFIX_LEN) != 0 || text[dot] != '.' ||
        !base32_decode(text + TOKEN_PREFIX_LEN, token.secret) ||
        !tier_hash_parse(text + dot + 1, &token.ca_fingerprint))
        return tier_fail(err, TIER_EARG,
                         "not a token: %d characters beginning with " TOKEN_PREFIX
                         " are wanted, as consilium token create prints them",
                         TIER_TOKEN_SIZE - 1);
    *out = token;
    OPENSSL_cleanse(token.secret, sizeof token.secret);
    return TIER_OK;
}

enum tier_status tier_token_check_ca(const char *text, const char *ca_pem, struct tier_err *err) {
    struct tier_token token;
    struct tier_cert *ca = NULL;
    struct tier_hash seen;
    char said_hex[TIER_HASH_HEX], seen_hex[TIER_HASH_HEX], name[TIER_NAME_LEN_MAX + 1];
    enum tier_status st;

    TIER_TRY(tier_token_parse(text, &token, err));
    OPENSSL_cleanse(token.secret, sizeof token.secret);
    TIER_TRY(tier_cert_from_pem(ca_pem, &ca, err));
    TIER_TRY_OUT(tier_cert_authority(ca, name, err));
    tier_cert_fingerprint(ca, &seen);
    if (!tier_hash_equal(&seen, &token.ca_fingerprint))
        st = tier_fail(err, TIER_EIDENTITY,
                       "the other side says it is authority %s with the fingerprint %s, but the "
                       "token names %s: do not enroll there",
                       name, tier_hash_hex(&seen, seen_hex),
                       tier_hash_hex(&token.ca_fingerprint, said_hex));
out:
    tier_cert_free(ca);
    return st;
}

/* ---- the authority's directory -------------------------------------------------------------- */

static enum tier_status db_path(const char *dir, char *path, struct tier_err *err) {
    int n = snprintf(path, PATH_MAX, "%s/" DB_FILE, dir);
    return n > 0 && n < PATH_MAX ? TIER_OK
                                 : tier_fail(err, TIER_EARG, "%.100s...: path too long", dir);
}

enum tier_status tier_authority_init(const char *dir, const char *name, int days, int64_t now_s,
                                     struct tier_err *err) {
    char path[PATH_MAX];
    struct tier_key *key = NULL;
    struct tier_db *db = NULL;
    char *key_pem = NULL, *ca_pem = NULL;
    enum tier_status st;

    TIER_TRY(db_path(dir, path, err));
    TIER_TRY_OUT(tier_key_generate(&key, err));
    TIER_TRY_OUT(tier_key_to_pem(key, &key_pem, err));
    TIER_TRY_OUT(tier_cert_new_ca(key, name, days, now_s, &ca_pem, err));
    TIER_TRY_OUT(tier_pem_dir_make(dir, err));
    if (tier_pem_exists(dir, CA_CERT_FILE) || tier_pem_exists(dir, DB_FILE)) {
        st = tier_fail(err, TIER_ECONFLICT,
                       "%s holds an authority already; it is not overwritten (choose another "
                       "directory)",
                       dir);
        goto out;
    }
    /* The key first and never over another: of two that race, one is refused here. */
    TIER_TRY_OUT(tier_pem_write(dir, CA_KEY_FILE, key_pem, true, false, err));
    TIER_TRY_OUT(tier_db_open(path, &schema, &db, err));
    TIER_TRY_OUT(tier_pem_write(dir, CA_CERT_FILE, ca_pem, false, false, err));
out:
    tier_db_close(db);
    tier_key_free(key);
    tier_secret_free(key_pem);
    free(ca_pem);
    return st;
}

enum tier_status tier_authority_open(const char *dir, struct tier_authority **out,
                                     struct tier_err *err) {
    char path[PATH_MAX];
    char *key_pem = NULL;
    enum tier_status st;

    TIER_TRY(db_path(dir, path, err));
    if (!tier_pem_exists(dir, CA_CERT_FILE) || !tier_pem_exists(dir, DB_FILE))
        return tier_fail(err, TIER_ENOTFOUND, "%s holds no authority (made by: consilium pki init)",
                         dir);
    struct tier_authority *a = calloc(1, sizeof *a);
    if (!a)
        return tier_fail(err, TIER_ENOMEM, "no memory for an authority");
    TIER_TRY_OUT(tier_pem_read(dir, CA_KEY_FILE, true, &key_pem, err));
    TIER_TRY_OUT(tier_key_from_pem(key_pem, &a->key, err));
    TIER_TRY_OUT(tier_pem_read(dir, CA_CERT_FILE, false, &a->ca_pem, err));
    TIER_TRY_OUT(tier_cert_from_pem(a->ca_pem, &a->ca, err));
    TIER_TRY_OUT(tier_cert_authority(a->ca, a->name, err));
    tier_cert_fingerprint(a->ca, &a->fingerprint);
    if (!tier_cert_matches(a->ca, a->key)) {
        st = tier_fail(err, TIER_EIDENTITY, "%s: " CA_CERT_FILE " is not for " CA_KEY_FILE, dir);
        goto out;
    }
    TIER_TRY_OUT(tier_db_open(path, &schema, &a->db, err));
    *out = a;
    a = NULL;
out:
    tier_secret_free(key_pem);
    tier_authority_close(a);
    return st;
}

void tier_authority_close(struct tier_authority *a) {
    if (!a)
        return;
    tier_db_close(a->db);
    tier_key_free(a->key);
    tier_cert_free(a->ca);
    free(a->ca_pem);
    free(a);
}

const char *tier_authority_name(const struct tier_authority *a) {
    return a->name;
}

const char *tier_authority_ca_pem(const struct tier_authority *a) {
    return a->ca_pem;
}

/* ---- statements ----------------------------------------------------------------------------- */

/* "UPDATE ... name, now": gives the rows it changed. */
static enum tier_status update_name(struct tier_authority *a, int sql, const char *name,
                                    int64_t now_s, int *changed, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, sql, err);
    tier_query_name(&q, "name", name, TIER_NAME_LEN_MAX);
    tier_query_int(&q, now_s);
    TIER_TRY(tier_query_run(&q));
    *changed = tier_db_changes(a->db);
    return TIER_OK;
}

static enum tier_status refuse_if_enrolled(struct tier_authority *a, const char *name,
                                           int64_t now_s, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, SQL_CERT_VALID, err);
    tier_query_name(&q, "name", name, TIER_NAME_LEN_MAX);
    tier_query_int(&q, now_s);
    bool found = tier_query_next(&q);
    int64_t end_s = found ? tier_query_get_int(&q) : 0;
    TIER_TRY(tier_query_end(&q));
    if (!found)
        return TIER_OK;
    return tier_fail(err, TIER_ECONFLICT,
                     "%s already holds a certificate for another %lld days; to give the name to a "
                     "new key ask for a token that replaces it",
                     name, (long long)((end_s - now_s) / 86400));
}

static enum tier_status add_token(struct tier_authority *a, const struct tier_hash *hash,
                                  const char *name, enum tier_role role, int64_t now_s,
                                  int64_t expires_s, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, SQL_TOKEN_ADD, err);
    tier_query_hash(&q, hash);
    tier_query_name(&q, "name", name, TIER_NAME_LEN_MAX);
    tier_query_int(&q, (int)role);
    tier_query_int(&q, now_s);
    tier_query_int(&q, expires_s);
    return tier_query_run(&q);
}

enum tier_status tier_authority_token_create(struct tier_authority *a, const char *name,
                                             enum tier_role role, int64_t ttl_s, bool replace,
                                             int64_t now_s, char *text, struct tier_err *err) {
    uint8_t secret[TIER_TOKEN_SECRET_BYTES];
    struct tier_hash hash;
    int voided = 0;
    enum tier_status st;

    TIER_TRY(tier_name_check("the node name", name, err));
    if ((unsigned)role >= TIER_ROLE_COUNT)
        return tier_fail(err, TIER_EARG, "no such role: %d", (int)role);
    if (ttl_s < 1 || ttl_s > TIER_TOKEN_TTL_MAX_S || now_s < 1 || now_s > INT64_MAX - ttl_s)
        return tier_fail(err, TIER_EARG, "a token for %lld s; 1 to %d are possible",
                         (long long)ttl_s, TIER_TOKEN_TTL_MAX_S);
    if (RAND_priv_bytes(secret, sizeof secret) != 1)
        return tier_fail(err, TIER_EINTERNAL, "no random bytes for a token");
    tier_hash_data(secret, sizeof secret, &hash);
    TIER_TRY_OUT(tier_db_begin(a->db, err));
    if (!replace)
        TIER_TRY_OUT(refuse_if_enrolled(a, name, now_s, err));
    TIER_TRY_OUT(update_name(a, SQL_TOKEN_VOID, name, now_s, &voided, err));
    TIER_TRY_OUT(add_token(a, &hash, name, role, now_s, now_s + ttl_s, err));
    TIER_TRY_OUT(tier_db_commit(a->db, err));
    memcpy(text, TOKEN_PREFIX, TOKEN_PREFIX_LEN);
    base32_encode(secret, text + TOKEN_PREFIX_LEN);
    text[TOKEN_PREFIX_LEN + TOKEN_BASE32_LEN] = '.';
    tier_hash_hex(&a->fingerprint, text + TOKEN_PREFIX_LEN + TOKEN_BASE32_LEN + 1);
out:
    tier_db_rollback(a->db);
    OPENSSL_cleanse(secret, sizeof secret);
    return st;
}

/* ---- enrollment ----------------------------------------------------------------------------- */

struct token_row {
    char name[TIER_NAME_LEN_MAX + 1];
    enum tier_role role;
    int64_t expires_s, used_s, void_s;
};

static enum tier_status find_token(struct tier_authority *a, const struct tier_hash *hash,
                                   int64_t now_s, struct token_row *row, struct tier_err *err) {
    struct tier_query q;

    memset(row, 0, sizeof *row);
    tier_query_start(&q, a->db, SQL_TOKEN_GET, err);
    tier_query_hash(&q, hash);
    if (tier_query_next(&q)) {
        tier_query_get_text(&q, row->name, sizeof row->name);
        row->role = (enum tier_role)tier_query_get_enum(&q, TIER_ROLE_COUNT - 1);
        row->expires_s = tier_query_get_int(&q);
        row->used_s = tier_query_get_int(&q);
        row->void_s = tier_query_get_int(&q);
    } else if (q.st == TIER_OK) {
        q.st = tier_fail(err, TIER_EIDENTITY, "authority %s never gave out this token", a->name);
    }
    TIER_TRY(tier_query_end(&q));
    if (row->used_s)
        return tier_fail(err, TIER_EIDENTITY,
                         "the token of %s was used already: a token is good for one enrollment; "
                         "ask the authority for a new one",
                         row->name);
    if (row->void_s)
        return tier_fail(err, TIER_EIDENTITY,
                         "the token of %s is void: it was revoked, or a newer one was made",
                         row->name);
    if (now_s >= row->expires_s)
        return tier_fail(err, TIER_EIDENTITY,
                         "the token of %s expired %lld s ago: ask the authority for a new one",
                         row->name, (long long)(now_s - row->expires_s));
    return TIER_OK;
}

static enum tier_status check_request(const struct token_row *row, const char *csr_pem,
                                      struct tier_err *err) {
    struct tier_csr csr;

    TIER_TRY(tier_csr_parse(csr_pem, &csr, err));
    if (strcmp(csr.name, row->name) != 0)
        return tier_fail(err, TIER_EIDENTITY, "the token is for the name %s, the request for %s",
                         row->name, csr.name);
    if (csr.role != row->role)
        return tier_fail(err, TIER_EIDENTITY, "the token is for the role %s, the request for %s",
                         tier_role_text(row->role), tier_role_text(csr.role));
    return TIER_OK;
}

static enum tier_status record_cert(struct tier_authority *a, const char *cert_pem, int64_t now_s,
                                    struct tier_err *err) {
    struct tier_cert *cert = NULL;
    struct tier_identity id;
    struct tier_query q;
    enum tier_status st;

    TIER_TRY_OUT(tier_cert_from_pem(cert_pem, &cert, err));
    TIER_TRY_OUT(tier_cert_verify(cert, a->ca, now_s, &id, err));
    tier_query_start(&q, a->db, SQL_CERT_ADD, err);
    tier_query_hash(&q, &id.fingerprint);
    tier_query_name(&q, "serial", id.serial, sizeof id.serial - 1);
    tier_query_name(&q, "name", id.name, TIER_NAME_LEN_MAX);
    tier_query_int(&q, (int)id.role);
    tier_query_int(&q, id.not_before_s);
    tier_query_int(&q, id.not_after_s);
    tier_query_int(&q, now_s);
    st = tier_query_run(&q);
out:
    tier_cert_free(cert);
    return st;
}

static enum tier_status use_token(struct tier_authority *a, const struct tier_hash *hash,
                                  int64_t now_s, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, SQL_TOKEN_USE, err);
    tier_query_hash(&q, hash);
    tier_query_int(&q, now_s);
    TIER_TRY(tier_query_run(&q));
    return tier_db_changes(a->db) == 1
               ? TIER_OK
               : tier_fail(err, TIER_EINTERNAL, "a token was used inside its own transaction");
}

enum tier_status tier_authority_enroll(struct tier_authority *a, const char *token,
                                       const char *csr_pem, int64_t now_s, char **cert_pem_out,
                                       char **ca_pem_out, struct tier_err *err) {
    struct tier_token parsed;
    struct tier_hash hash;
    struct token_row row;
    char *cert_pem = NULL, *ca_pem = NULL;
    int revoked = 0;
    enum tier_status st;

    if (tier_token_parse(token, &parsed, err) != TIER_OK) {
        if (err)
            err->status = TIER_EIDENTITY;
        return TIER_EIDENTITY;
    }
    tier_hash_data(parsed.secret, sizeof parsed.secret, &hash);
    OPENSSL_cleanse(parsed.secret, sizeof parsed.secret);
    if (!tier_hash_equal(&parsed.ca_fingerprint, &a->fingerprint))
        return tier_fail(err, TIER_EIDENTITY, "the token is of another authority than %s", a->name);
    TIER_TRY_OUT(tier_db_begin(a->db, err));
    TIER_TRY_OUT(find_token(a, &hash, now_s, &row, err));
    TIER_TRY_OUT(check_request(&row, csr_pem, err));
    TIER_TRY_OUT(
        tier_cert_issue(a->key, a->ca, csr_pem, TIER_NODE_CERT_DAYS, now_s, &cert_pem, err));
    TIER_TRY_OUT(update_name(a, SQL_CERT_REVOKE, row.name, now_s, &revoked, err));
    TIER_TRY_OUT(record_cert(a, cert_pem, now_s, err));
    TIER_TRY_OUT(use_token(a, &hash, now_s, err));
    ca_pem = strdup(a->ca_pem);
    if (!ca_pem) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for an enrollment");
        goto out;
    }
    TIER_TRY_OUT(tier_db_commit(a->db, err));
    *cert_pem_out = cert_pem;
    *ca_pem_out = ca_pem;
    cert_pem = ca_pem = NULL;
out:
    tier_db_rollback(a->db);
    free(cert_pem);
    free(ca_pem);
    return st;
}

/* ---- revoking and looking ------------------------------------------------------------------- */

enum tier_status tier_authority_revoke(struct tier_authority *a, const char *name, int64_t now_s,
                                       struct tier_err *err) {
    int certs = 0, tokens = 0;
    enum tier_status st;

    TIER_TRY(tier_name_check("the node name", name, err));
    if (now_s < 1) /* 0 means: not revoked */
        return tier_fail(err, TIER_EARG, "the time is %lld s after 1970; set this machine's clock",
                         (long long)now_s);
    TIER_TRY_OUT(tier_db_begin(a->db, err));
    TIER_TRY_OUT(update_name(a, SQL_CERT_REVOKE, name, now_s, &certs, err));
    TIER_TRY_OUT(update_name(a, SQL_TOKEN_VOID, name, now_s, &tokens, err));
    if (certs + tokens == 0) {
        st = tier_fail(err, TIER_ENOTFOUND, "%s holds no valid certificate and no unused token",
                       name);
        goto out;
    }
    st = tier_db_commit(a->db, err);
out:
    tier_db_rollback(a->db);
    return st;
}

enum tier_status tier_authority_check(struct tier_authority *a, const struct tier_hash *fingerprint,
                                      struct tier_err *err) {
    struct tier_query q;
    char name[TIER_NAME_LEN_MAX + 1], hex[TIER_HASH_HEX];
    int64_t revoked_s = 0;

    tier_query_start(&q, a->db, SQL_CERT_GET, err);
    tier_query_hash(&q, fingerprint);
    bool found = tier_query_next(&q);
    if (found) {
        tier_query_get_text(&q, name, sizeof name);
        revoked_s = tier_query_get_int(&q);
    }
    TIER_TRY(tier_query_end(&q));
    if (!found)
        return tier_fail(err, TIER_EIDENTITY, "authority %s never issued the certificate %s",
                         a->name, tier_hash_hex(fingerprint, hex));
    if (revoked_s)
        return tier_fail(err, TIER_EIDENTITY, "the certificate of %s was revoked (%s)", name,
                         tier_hash_hex(fingerprint, hex));
    return TIER_OK;
}

enum tier_status tier_authority_list(struct tier_authority *a, tier_authority_fn fn, void *arg,
                                     struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, SQL_CERT_EACH, err);
    while (tier_query_next(&q)) {
        struct tier_authority_entry entry = {0};
        memcpy(entry.id.authority, a->name, sizeof entry.id.authority);
        tier_query_get_hash(&q, &entry.id.fingerprint);
        tier_query_get_text(&q, entry.id.serial, sizeof entry.id.serial);
        tier_query_get_text(&q, entry.id.name, sizeof entry.id.name);
        entry.id.role = (enum tier_role)tier_query_get_enum(&q, TIER_ROLE_COUNT - 1);
        entry.id.not_before_s = tier_query_get_int(&q);
        entry.id.not_after_s = tier_query_get_int(&q);
        entry.issued_s = tier_query_get_int(&q);
        entry.revoked_s = tier_query_get_int(&q);
        if (q.st == TIER_OK)
            q.st = fn(arg, &entry, err);
    }
    return tier_query_end(&q);
}
