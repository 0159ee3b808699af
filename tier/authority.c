/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secrets of tokens have 160 random bits, so a plain SHA-256 of one can be kept and looked up. A
 * token is redeemed inside BEGIN IMMEDIATE: whoever comes second waits for the lock and then finds
 * it used.
 */
#include "tier/authority_private.h"

#include "tier/key_file.h"
#include "tier/pem_file.h"
#include "tier/revocation.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CA_KEY_FILE "ca.key"
#define CA_CERT_FILE "ca.pem"
#define DB_FILE "authority.db"
#define AUTHORITY_APPLICATION_ID 0x434f4e41 /* "CONA" */

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
    /* More roles, renewals, lists of the revoked, and what may be set. */
    "CREATE TABLE tokens_2(hash BLOB PRIMARY KEY NOT NULL, name TEXT NOT NULL,"
    " role INTEGER NOT NULL, created_s INTEGER NOT NULL, expires_s INTEGER NOT NULL,"
    " used_s INTEGER NOT NULL, void_s INTEGER NOT NULL);"
    "INSERT INTO tokens_2 SELECT * FROM tokens ORDER BY rowid; DROP TABLE tokens;"
    "ALTER TABLE tokens_2 RENAME TO tokens;"
    "CREATE INDEX tokens_by_name ON tokens(name);"
    "CREATE TABLE certificates_2(fingerprint BLOB PRIMARY KEY NOT NULL,"
    " serial TEXT NOT NULL UNIQUE, name TEXT NOT NULL, role INTEGER NOT NULL,"
    " not_before_s INTEGER NOT NULL, not_after_s INTEGER NOT NULL, issued_s INTEGER NOT NULL,"
    " revoked_s INTEGER NOT NULL, renews BLOB);"
    "INSERT INTO certificates_2 SELECT *, NULL FROM certificates ORDER BY rowid;"
    "DROP TABLE certificates; ALTER TABLE certificates_2 RENAME TO certificates;"
    "CREATE INDEX certificates_by_name ON certificates(name);"
    "CREATE INDEX certificates_by_renewed ON certificates(renews);"
    "CREATE INDEX certificates_revoked ON certificates(revoked_s, not_after_s);"
    "CREATE TABLE settings(key TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL);"
    "CREATE TABLE lists(number INTEGER PRIMARY KEY NOT NULL, made_s INTEGER NOT NULL,"
    " der BLOB NOT NULL);",
    /* Pseudonyms (tier/pseudonym.h): whose they are is sealed. `tag` is one for each child, run and
     * parent; `owner` for each child. Both say nothing to who has not the authority's key. */
    "CREATE TABLE pseudonyms(name TEXT PRIMARY KEY NOT NULL, tag BLOB NOT NULL,"
    " owner BLOB NOT NULL, run TEXT NOT NULL, parent TEXT NOT NULL, sealed BLOB NOT NULL,"
    " issued_s INTEGER NOT NULL, revoked_s INTEGER NOT NULL);"
    "CREATE INDEX pseudonyms_by_tag ON pseudonyms(tag);"
    "CREATE INDEX pseudonyms_by_owner ON pseudonyms(owner);"
    "CREATE TABLE pseudonym_certs(serial TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL,"
    " cert BLOB NOT NULL, issued_s INTEGER NOT NULL, not_after_s INTEGER NOT NULL,"
    " revoked_s INTEGER NOT NULL);"
    "CREATE INDEX pseudonym_certs_by_name ON pseudonym_certs(name, issued_s);"
    "CREATE INDEX pseudonym_certs_revoked ON pseudonym_certs(revoked_s, not_after_s);"
    "CREATE TABLE openings(time_s INTEGER NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL);",
};

static const char *const statements[SQL_COUNT] = {
    [SQL_TOKEN_ADD] = "INSERT INTO tokens(hash, name, role, created_s, expires_s, used_s, void_s)"
                      " VALUES(?1, ?2, ?3, ?4, ?5, 0, 0)",
    [SQL_TOKEN_GET] = "SELECT name, role, expires_s, used_s, void_s FROM tokens WHERE hash = ?1",
    [SQL_TOKEN_USE] = "UPDATE tokens SET used_s = ?2 WHERE hash = ?1 AND used_s = 0",
    [SQL_TOKEN_VOID] = "UPDATE tokens SET void_s = ?2 WHERE name = ?1 AND used_s = 0"
                       " AND void_s = 0 AND expires_s > ?2",
    [SQL_CERT_ADD] = "INSERT INTO certificates(fingerprint, serial, name, role, not_before_s,"
                     " not_after_s, issued_s, revoked_s, renews)"
                     " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8)",
    [SQL_CERT_VALID] = "SELECT max(not_after_s) FROM certificates WHERE name = ?1"
                       " AND revoked_s = 0 AND not_after_s >= ?2 HAVING count(*) > 0",
    [SQL_CERT_REVOKE] = "UPDATE certificates SET revoked_s = ?2 WHERE name = ?1"
                        " AND revoked_s = 0 AND not_after_s >= ?2",
    [SQL_CERT_GET] = "SELECT name, revoked_s FROM certificates WHERE fingerprint = ?1",
    [SQL_CERT_EACH] = "SELECT fingerprint, serial, name, role, not_before_s, not_after_s,"
                      " issued_s, revoked_s FROM certificates ORDER BY rowid",
    [SQL_CERT_ISSUED] = "SELECT issued_s FROM certificates WHERE fingerprint = ?1",
    [SQL_CERT_RENEWALS] = "SELECT count(*) FROM certificates WHERE renews = ?1",
    [SQL_CERT_REVOKED] = "SELECT serial, revoked_s FROM certificates WHERE revoked_s > 0"
                         " AND not_after_s >= ?1 UNION ALL SELECT serial, revoked_s"
                         " FROM pseudonym_certs WHERE revoked_s > 0 AND not_after_s >= ?1"
                         " ORDER BY serial",
    [SQL_SETTING_PUT] = "INSERT INTO settings(key, value) VALUES(?1, ?2)"
                        " ON CONFLICT(key) DO UPDATE SET value = ?2",
    [SQL_SETTING_GET] = "SELECT value FROM settings WHERE key = ?1",
    [SQL_LIST_GET] = "SELECT number, made_s, der FROM lists ORDER BY number DESC LIMIT 1",
    [SQL_LIST_ADD] = "INSERT INTO lists(number, made_s, der) VALUES(?1, ?2, ?3)",
    [SQL_LIST_DROP] = "DELETE FROM lists WHERE number < ?1",
    [SQL_PSEUDONYM_ADD] = "INSERT INTO pseudonyms(name, tag, owner, run, parent, sealed, issued_s,"
                          " revoked_s) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
    [SQL_PSEUDONYM_GET] = "SELECT name FROM pseudonyms WHERE tag = ?1 AND revoked_s = 0",
    [SQL_PSEUDONYM_LIVE] = "SELECT count(*) FROM pseudonyms WHERE owner = ?1 AND issued_s > ?2",
    [SQL_PSEUDONYM_SEALED] = "SELECT sealed, run, parent FROM pseudonyms WHERE name = ?1",
    [SQL_PSEUDONYM_REVOKE] = "UPDATE pseudonyms SET revoked_s = ?2"
                             " WHERE owner = ?1 AND revoked_s = 0",
    [SQL_PSEUDONYM_REVOKE_CERTS] = "UPDATE pseudonym_certs SET revoked_s = ?2 WHERE revoked_s = 0"
                                   " AND not_after_s >= ?2 AND name IN (SELECT name FROM pseudonyms"
                                   " WHERE owner = ?1)",
    [SQL_PSEUDONYM_CERT_ADD] = "INSERT INTO pseudonym_certs(serial, name, cert, issued_s,"
                               " not_after_s, revoked_s) VALUES(?1, ?2, ?3, ?4, ?5, 0)",
    [SQL_PSEUDONYM_CERT_LAST] = "SELECT cert, issued_s, not_after_s FROM pseudonym_certs"
                                " WHERE name = ?1 ORDER BY not_after_s DESC LIMIT 1",
    [SQL_OPENING_ADD] = "INSERT INTO openings(time_s, name, reason) VALUES(?1, ?2, ?3)",
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
    char *ca_pem = NULL;
    enum tier_status st;

    TIER_TRY(db_path(dir, path, err));
    TIER_TRY_OUT(tier_key_generate(&key, err));
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
    TIER_TRY_OUT(tier_key_file_write(dir, CA_KEY_FILE, key, false, err));
    TIER_TRY_OUT(tier_db_open(path, &schema, &db, err));
    TIER_TRY_OUT(tier_pem_write(dir, CA_CERT_FILE, ca_pem, false, false, err));
out:
    tier_db_close(db);
    tier_key_free(key);
    free(ca_pem);
    return st;
}

enum tier_status tier_authority_open(const char *dir, struct tier_authority **out,
                                     struct tier_err *err) {
    char path[PATH_MAX];
    enum tier_status st;

    TIER_TRY(db_path(dir, path, err));
    if (!tier_pem_exists(dir, CA_CERT_FILE) || !tier_pem_exists(dir, DB_FILE))
        return tier_fail(err, TIER_ENOTFOUND, "%s holds no authority (made by: consilium pki init)",
                         dir);
    struct tier_authority *a = calloc(1, sizeof *a);
    if (!a)
        return tier_fail(err, TIER_ENOMEM, "no memory for an authority");
    TIER_TRY_OUT(tier_key_file_read(dir, CA_KEY_FILE, &a->key, NULL, err));
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
    tier_authority_close(a);
    return st;
}

enum tier_status tier_authority_protect(const char *dir, const char *passphrase_file,
                                        struct tier_err *err) {
    return tier_key_file_protect(dir, CA_KEY_FILE, passphrase_file, err);
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
    tier_token_format(secret, &a->fingerprint, text);
out:
    tier_db_rollback(a->db);
    OPENSSL_cleanse(secret, sizeof secret);
    return st;
}

/* ---- settings ------------------------------------------------------------------------------- */

#define CERT_TTL "cert_ttl_s"

enum tier_status tier_authority_set_cert_ttl(struct tier_authority *a, int64_t ttl_s,
                                             struct tier_err *err) {
    struct tier_query q;

    if (ttl_s < TIER_CERT_TTL_MIN_S || ttl_s > TIER_CERT_TTL_MAX_S)
        return tier_fail(err, TIER_EARG, "certificates for %lld s; %d s to %d days are possible",
                         (long long)ttl_s, TIER_CERT_TTL_MIN_S, TIER_CERT_DAYS_MAX);
    tier_query_start(&q, a->db, SQL_SETTING_PUT, err);
    tier_query_name(&q, "key", CERT_TTL, sizeof CERT_TTL);
    tier_query_int(&q, ttl_s);
    return tier_query_run(&q);
}

enum tier_status tier_authority_cert_ttl(struct tier_authority *a, int64_t *ttl_s_out,
                                         struct tier_err *err) {
    struct tier_query q;
    int64_t ttl_s = INT64_C(86400) * TIER_NODE_CERT_DAYS;

    tier_query_start(&q, a->db, SQL_SETTING_GET, err);
    tier_query_name(&q, "key", CERT_TTL, sizeof CERT_TTL);
    if (tier_query_next(&q))
        ttl_s = tier_query_get_int(&q);
    TIER_TRY(tier_query_end(&q));
    *ttl_s_out = ttl_s;
    return TIER_OK;
}

/* ---- lists of the revoked ------------------------------------------------------------------- */

static enum tier_status read_revoked(struct tier_authority *a, int64_t now_s,
                                     struct tier_revoked *revoked, size_t *count_out,
                                     struct tier_err *err) {
    struct tier_query q;
    size_t count = 0;

    tier_query_start(&q, a->db, SQL_CERT_REVOKED, err);
    tier_query_int(&q, now_s - TIER_CERT_BACKDATE_S); /* another clock may still take it */
    while (tier_query_next(&q)) {
        if (count == TIER_REVOKED_MAX) {
            q.st = tier_fail(err, TIER_ELIMIT,
                             "more than %u revoked certificates have not expired, which no list "
                             "holds: give certificates a shorter life",
                             TIER_REVOKED_MAX);
            break;
        }
        tier_query_get_text(&q, revoked[count].serial, sizeof revoked[count].serial);
        revoked[count].revoked_s = tier_query_get_int(&q);
        count++;
    }
    TIER_TRY(tier_query_end(&q));
    *count_out = count;
    return TIER_OK;
}

/* The newest list: number 0 where there is none. The DER on the heap where `der_out` is given. */
static enum tier_status newest_list(struct tier_authority *a, uint64_t *number_out,
                                    int64_t *made_s_out, uint8_t **der_out, size_t *bytes_out,
                                    struct tier_err *err) {
    struct tier_query q;
    uint8_t *copy = NULL;
    size_t bytes = 0;

    *number_out = 0;
    tier_query_start(&q, a->db, SQL_LIST_GET, err);
    if (tier_query_next(&q)) {
        *number_out = tier_query_get_u64(&q);
        *made_s_out = tier_query_get_int(&q);
        if (der_out) {
            const uint8_t *der = tier_query_get_blob(&q, TIER_REVOCATIONS_BYTES_MAX, &bytes);
            copy = der && bytes ? malloc(bytes) : NULL;
            if (copy)
                memcpy(copy, der, bytes);
            else if (q.st == TIER_OK)
                q.st = tier_fail(err, TIER_ENOMEM, "no memory for a revocation list");
        }
    }
    enum tier_status st = tier_query_end(&q);
    if (st != TIER_OK) {
        free(copy);
    } else if (der_out) {
        *der_out = copy;
        *bytes_out = bytes;
    }
    return st;
}

/* Inside a transaction. */
static enum tier_status make_list(struct tier_authority *a, int64_t now_s, struct tier_err *err) {
    struct tier_revoked *revoked = calloc(TIER_REVOKED_MAX, sizeof *revoked);
    uint8_t *der = NULL;
    size_t count = 0, bytes = 0;
    uint64_t number = 0;
    int64_t made_s = 0;
    struct tier_query q;
    enum tier_status st;

    if (!revoked)
        return tier_fail(err, TIER_ENOMEM, "no memory for a revocation list");
    TIER_TRY_OUT(newest_list(a, &number, &made_s, NULL, NULL, err));
    TIER_TRY_OUT(read_revoked(a, now_s, revoked, &count, err));
    TIER_TRY_OUT(tier_revocations_make(a->key, a->ca, number + 1, now_s,
                                       now_s + TIER_REVOCATIONS_TTL_S, revoked, count, &der, &bytes,
                                       err));
    tier_query_start(&q, a->db, SQL_LIST_ADD, err);
    tier_query_u64(&q, "number", number + 1);
    tier_query_int(&q, now_s);
    tier_query_blob(&q, "list", der, bytes, TIER_REVOCATIONS_BYTES_MAX);
    TIER_TRY_OUT(tier_query_run(&q));
    tier_query_start(&q, a->db, SQL_LIST_DROP, err);
    tier_query_u64(&q, "number", number + 1);
    st = tier_query_run(&q);
out:
    free(der);
    free(revoked);
    return st;
}

static enum tier_status refresh_list(struct tier_authority *a, int64_t now_s,
                                     struct tier_err *err) {
    uint64_t number = 0;
    int64_t made_s = 0;
    enum tier_status st;

    TIER_TRY(tier_db_begin(a->db, err));
    TIER_TRY_OUT(newest_list(a, &number, &made_s, NULL, NULL, err)); /* another was faster */
    if (number == 0 || now_s - made_s >= TIER_REVOCATIONS_TTL_S / 2)
        TIER_TRY_OUT(make_list(a, now_s, err));
    st = tier_db_commit(a->db, err);
out:
    tier_db_rollback(a->db);
    return st;
}

enum tier_status tier_authority_revocations(struct tier_authority *a, uint64_t after, int64_t now_s,
                                            uint8_t **der_out, size_t *bytes_out,
                                            struct tier_err *err) {
    uint64_t number = 0;
    int64_t made_s = 0;
    uint8_t *der = NULL;
    size_t bytes = 0;

    TIER_TRY(newest_list(a, &number, &made_s, NULL, NULL, err));
    if (number == 0 || now_s - made_s >= TIER_REVOCATIONS_TTL_S / 2) {
        TIER_TRY(refresh_list(a, now_s, err));
        TIER_TRY(newest_list(a, &number, &made_s, NULL, NULL, err));
    }
    if (number > after)
        TIER_TRY(newest_list(a, &number, &made_s, &der, &bytes, err));
    *der_out = der;
    *bytes_out = bytes;
    return TIER_OK;
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

static enum tier_status record_cert(struct tier_authority *a, const char *cert_pem,
                                    const struct tier_hash *renews, int64_t now_s,
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
    tier_query_hash(&q, renews);
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
    int64_t ttl_s = 0;
    int revoked = 0, pseudonyms = 0;
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
    TIER_TRY_OUT(tier_authority_cert_ttl(a, &ttl_s, err));
    TIER_TRY_OUT(tier_cert_issue(a->key, a->ca, csr_pem, ttl_s, now_s, &cert_pem, err));
    TIER_TRY_OUT(update_name(a, SQL_CERT_REVOKE, row.name, now_s, &revoked, err));
    if (revoked) {
        TIER_TRY_OUT(authority_revoke_pseudonyms(a, row.name, now_s, &pseudonyms, err));
        TIER_TRY_OUT(make_list(a, now_s, err));
    }
    TIER_TRY_OUT(record_cert(a, cert_pem, &(struct tier_hash){{0}}, now_s, err));
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

/* ---- renewal -------------------------------------------------------------------------------- */

enum tier_status tier_renewal_text(const char *csr_pem, char **text_out, struct tier_err *err) {
    if (asprintf(text_out, "consilium renewal 1\n%s", csr_pem) < 0)
        return tier_fail(err, TIER_ENOMEM, "no memory for a renewal");
    return TIER_OK;
}

/* Whether the certificate and the request have the same key. */
static bool same_key(const char *cert_pem, const char *csr_pem) {
    BIO *cert_bio = BIO_new_mem_buf(cert_pem, -1), *csr_bio = BIO_new_mem_buf(csr_pem, -1);
    X509 *cert = cert_bio ? PEM_read_bio_X509(cert_bio, NULL, NULL, NULL) : NULL;
    X509_REQ *csr = csr_bio ? PEM_read_bio_X509_REQ(csr_bio, NULL, NULL, NULL) : NULL;
    const EVP_PKEY *has = cert ? X509_get0_pubkey(cert) : NULL;
    const EVP_PKEY *wants = csr ? X509_REQ_get0_pubkey(csr) : NULL;
    bool same = has && wants && EVP_PKEY_eq(has, wants) == 1;

    X509_REQ_free(csr);
    X509_free(cert);
    BIO_free(csr_bio);
    BIO_free(cert_bio);
    ERR_clear_error();
    return same;
}

static enum tier_status check_renewal(struct tier_authority *a, const char *cert_pem,
                                      const char *csr_pem, const void *sig, size_t sig_bytes,
                                      int64_t now_s, struct tier_identity *id,
                                      struct tier_err *err) {
    struct tier_cert *cert = NULL;
    struct tier_csr csr;
    char *text = NULL;
    enum tier_status st;

    TIER_TRY(tier_cert_from_pem(cert_pem, &cert, err));
    TIER_TRY_OUT(tier_cert_verify(cert, a->ca, now_s, id, err));
    TIER_TRY_OUT(tier_authority_check(a, &id->fingerprint, err));
    TIER_TRY_OUT(tier_renewal_text(csr_pem, &text, err));
    TIER_TRY_OUT(tier_cert_check_signature(cert, text, strlen(text), sig, sig_bytes, err));
    TIER_TRY_OUT(tier_csr_parse(csr_pem, &csr, err));
    if (strcmp(csr.name, id->name) != 0 || csr.role != id->role)
        st = tier_fail(err, TIER_EIDENTITY,
                       "the certificate is that of %s, a %s; the request is for %s, a %s", id->name,
                       tier_role_text(id->role), csr.name, tier_role_text(csr.role));
    else if (!same_key(cert_pem, csr_pem))
        st = tier_fail(err, TIER_EIDENTITY,
                       "the request of %s is for another key than its certificate: a new key takes "
                       "a new token",
                       id->name);
out:
    free(text);
    tier_cert_free(cert);
    return st;
}

static enum tier_status check_moment(struct tier_authority *a, const struct tier_identity *id,
                                     int64_t now_s, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, SQL_CERT_ISSUED, err);
    tier_query_hash(&q, &id->fingerprint);
    int64_t issued_s = tier_query_next(&q) ? tier_query_get_int(&q) : 0;
    TIER_TRY(tier_query_end(&q));
    if (now_s - issued_s < id->not_after_s - now_s)
        return tier_fail(err, TIER_EPOLICY,
                         "the certificate of %s is good for another %lld s and is not half through "
                         "its life: it is renewed in the second half",
                         id->name, (long long)(id->not_after_s - now_s));
    tier_query_start(&q, a->db, SQL_CERT_RENEWALS, err);
    tier_query_hash(&q, &id->fingerprint);
    int64_t renewals = tier_query_next(&q) ? tier_query_get_int(&q) : 0;
    TIER_TRY(tier_query_end(&q));
    return renewals < TIER_RENEWALS_MAX
               ? TIER_OK
               : tier_fail(err, TIER_ELIMIT,
                           "this certificate of %s was renewed %lld times: use one of those",
                           id->name, (long long)renewals);
}

enum tier_status tier_authority_renew(struct tier_authority *a, const char *cert_pem,
                                      const char *csr_pem, const void *signature,
                                      size_t signature_bytes, int64_t now_s, char **cert_pem_out,
                                      char **ca_pem_out, struct tier_err *err) {
    struct tier_identity id;
    char *next_pem = NULL, *ca_pem = NULL;
    int64_t ttl_s = 0;
    enum tier_status st;

    TIER_TRY_OUT(tier_db_begin(a->db, err));
    TIER_TRY_OUT(check_renewal(a, cert_pem, csr_pem, signature, signature_bytes, now_s, &id, err));
    TIER_TRY_OUT(check_moment(a, &id, now_s, err));
    TIER_TRY_OUT(tier_authority_cert_ttl(a, &ttl_s, err));
    TIER_TRY_OUT(tier_cert_issue(a->key, a->ca, csr_pem, ttl_s, now_s, &next_pem, err));
    TIER_TRY_OUT(record_cert(a, next_pem, &id.fingerprint, now_s, err));
    ca_pem = strdup(a->ca_pem);
    if (!ca_pem) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a renewal");
        goto out;
    }
    TIER_TRY_OUT(tier_db_commit(a->db, err));
    *cert_pem_out = next_pem;
    *ca_pem_out = ca_pem;
    next_pem = ca_pem = NULL;
out:
    tier_db_rollback(a->db);
    free(next_pem);
    free(ca_pem);
    return st;
}

/* ---- revoking and looking ------------------------------------------------------------------- */

enum tier_status tier_authority_revoke(struct tier_authority *a, const char *name, int64_t now_s,
                                       struct tier_err *err) {
    int certs = 0, tokens = 0, pseudonyms = 0;
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
    TIER_TRY_OUT(authority_revoke_pseudonyms(a, name, now_s, &pseudonyms, err));
    if (certs + pseudonyms > 0)
        TIER_TRY_OUT(make_list(a, now_s, err));
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
