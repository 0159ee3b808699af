/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose a pseudonym is stands in the database only encrypted (AES-256-GCM) under a secret of the
 * authority's key, and what must be looked up by it only as a MAC: the database alone, a copy of
 * it, a backup, tells nobody. Whoever has the key can open it, and leaves a line that says why.
 */
#include "tier/authority_private.h"
#include "tier/cert_private.h"
#include "tier/pseudonym.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NONCE_BYTES 12
#define TAG_BYTES 16
#define SEALED_BYTES (NONCE_BYTES + TIER_NAME_LEN_MAX + 1 + TAG_BYTES)
#define REASON_LEN_MAX 500

/* ---- sealing ---- */

static enum tier_status mac(const struct tier_authority *a, const char *text, struct tier_hash *out,
                            struct tier_err *err) {
    uint8_t key[TIER_KEY_SECRET_BYTES];
    unsigned length = sizeof out->b;

    TIER_TRY(tier_key_secret(a->key, "consilium pseudonym tag 1", key, err));
    bool done = HMAC(EVP_sha256(), key, sizeof key, (const uint8_t *)text, strlen(text), out->b,
                     &length) != NULL;
    OPENSSL_cleanse(key, sizeof key);
    return done ? TIER_OK : tier_fail(err, TIER_EINTERNAL, "libcrypto makes no MAC");
}

static enum tier_status owner_of(const struct tier_authority *a, const char *child,
                                 struct tier_hash *out, struct tier_err *err) {
    char text[TIER_NAME_LEN_MAX + 16];
    snprintf(text, sizeof text, "owner %s", child);
    return mac(a, text, out, err);
}

static enum tier_status tag_of(const struct tier_authority *a, const char *child,
                               const struct tier_pseudonym_ask *ask, struct tier_hash *out,
                               struct tier_err *err) {
    char text[2 * TIER_NAME_LEN_MAX + TIER_HASH_HEX + 16], hex[TIER_HASH_HEX];
    snprintf(text, sizeof text, "tag %s %s %s", child, ask->parent, tier_hash_hex(&ask->run, hex));
    return mac(a, text, out, err);
}

/* in[NAME_LEN_MAX + 1] into NONCE | out | TAG, or back; the pseudonym's name is bound to it. */
static bool gcm(bool seal, const uint8_t *key, const uint8_t *nonce, const char *pseudonym,
                const uint8_t *in, uint8_t *out, uint8_t *tag) {
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    const int n = TIER_NAME_LEN_MAX + 1;
    int made = 0, more = 0;
    bool ok = ctx && EVP_CipherInit_ex2(ctx, EVP_aes_256_gcm(), key, nonce, seal, NULL) == 1 &&
              EVP_CipherUpdate(ctx, NULL, &more, (const uint8_t *)pseudonym,
                               (int)strlen(pseudonym)) == 1 &&
              EVP_CipherUpdate(ctx, out, &made, in, n) == 1 && made == n &&
              (seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1) &&
              EVP_CipherFinal_ex(ctx, out + n, &more) == 1 &&
              (!seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, tag) == 1);
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

static enum tier_status seal_owner(const struct tier_authority *a, const char *child,
                                   const char *pseudonym, uint8_t sealed[SEALED_BYTES],
                                   struct tier_err *err) {
    uint8_t key[TIER_KEY_SECRET_BYTES], plain[TIER_NAME_LEN_MAX + 1] = {0};

    TIER_TRY(tier_key_secret(a->key, "consilium pseudonym seal 1", key, err));
    memcpy(plain, child, strlen(child));
    bool ok = RAND_bytes(sealed, NONCE_BYTES) == 1 &&
              gcm(true, key, sealed, pseudonym, plain, sealed + NONCE_BYTES,
                  sealed + SEALED_BYTES - TAG_BYTES);
    OPENSSL_cleanse(key, sizeof key);
    return ok ? TIER_OK : tier_fail(err, TIER_EINTERNAL, "libcrypto cannot seal a name");
}

/* ---- certifying ---- */

static enum tier_status check_ask(struct tier_authority *a, const struct tier_pseudonym_ask *ask,
                                  int64_t now_s, struct tier_identity *id, char *pseudonym,
                                  struct tier_err *err) {
    struct tier_cert *cert = NULL;
    struct tier_csr csr;
    char *text = NULL;
    enum tier_status st;

    TIER_TRY(tier_name_check("the parent's name", ask->parent, err));
    TIER_TRY(tier_cert_from_pem(ask->cert_pem, &cert, err));
    TIER_TRY_OUT(tier_cert_verify(cert, a->ca, now_s, id, err));
    TIER_TRY_OUT(tier_authority_check(a, &id->fingerprint, err));
    TIER_TRY_OUT(tier_pseudonym_text(ask, &text, err));
    TIER_TRY_OUT(tier_cert_check_signature(cert, text, strlen(text), ask->signature,
                                           ask->signature_bytes, err));
    TIER_TRY_OUT(tier_csr_parse(ask->csr_pem, &csr, err));
    if (id->role != TIER_ROLE_SPOKE || csr.role != TIER_ROLE_SPOKE)
        st = tier_fail(err, TIER_EIDENTITY, "%s is a %s: pseudonyms are for spokes", id->name,
                       tier_role_text(id->role));
    memcpy(pseudonym, csr.name, sizeof csr.name);
out:
    free(text);
    tier_cert_free(cert);
    return st;
}

/* The one that this child has for this run and parent; "": none. */
static enum tier_status find(struct tier_authority *a, const struct tier_hash *tag, char *name,
                             struct tier_err *err) {
    struct tier_query q;

    *name = '\0';
    tier_query_start(&q, a->db, SQL_PSEUDONYM_GET, err);
    tier_query_hash(&q, tag);
    if (tier_query_next(&q))
        tier_query_get_text(&q, name, TIER_NAME_LEN_MAX + 1);
    return tier_query_end(&q);
}

static enum tier_status check_count(struct tier_authority *a, const struct tier_hash *owner,
                                    int64_t since_s, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, SQL_PSEUDONYM_LIVE, err);
    tier_query_hash(&q, owner);
    tier_query_int(&q, since_s);
    int64_t count = tier_query_next(&q) ? tier_query_get_int(&q) : 0;
    TIER_TRY(tier_query_end(&q));
    return count < TIER_PSEUDONYMS_MAX
               ? TIER_OK
               : tier_fail(err, TIER_ELIMIT, "this spoke was given %lld pseudonyms lately",
                           (long long)count);
}

static enum tier_status add(struct tier_authority *a, const char *child, const char *pseudonym,
                            const struct tier_hash *tag, const struct tier_pseudonym_ask *ask,
                            int64_t ttl_s, int64_t now_s, struct tier_err *err) {
    uint8_t sealed[SEALED_BYTES];
    struct tier_hash owner;
    char hex[TIER_HASH_HEX];
    struct tier_query q;

    TIER_TRY(owner_of(a, child, &owner, err));
    TIER_TRY(check_count(a, &owner, now_s - ttl_s, err));
    TIER_TRY(seal_owner(a, child, pseudonym, sealed, err));
    tier_query_start(&q, a->db, SQL_PSEUDONYM_ADD, err);
    tier_query_name(&q, "name", pseudonym, TIER_NAME_LEN_MAX);
    tier_query_hash(&q, tag);
    tier_query_hash(&q, &owner);
    tier_query_name(&q, "run", tier_hash_hex(&ask->run, hex), TIER_HASH_HEX - 1);
    tier_query_name(&q, "parent", ask->parent, TIER_NAME_LEN_MAX);
    tier_query_blob(&q, "sealed", sealed, sizeof sealed, sizeof sealed);
    tier_query_int(&q, now_s);
    return tier_query_run(&q);
}

/* The certificate that it has, while half of its life is left; NULL: it is time for the next. */
static enum tier_status last_cert(struct tier_authority *a, const char *pseudonym, int64_t now_s,
                                  char **out, struct tier_err *err) {
    struct tier_query q;
    size_t bytes = 0;
    char *copy = NULL;

    tier_query_start(&q, a->db, SQL_PSEUDONYM_CERT_LAST, err);
    tier_query_name(&q, "name", pseudonym, TIER_NAME_LEN_MAX);
    if (tier_query_next(&q)) {
        const uint8_t *pem = tier_query_get_blob(&q, TIER_PEM_BYTES_MAX, &bytes);
        copy = pem ? strndup((const char *)pem, bytes) : NULL;
        if (q.st == TIER_OK && !copy)
            q.st = tier_fail(err, TIER_ENOMEM, "no memory for a certificate");
        int64_t issued_s = tier_query_get_int(&q), end_s = tier_query_get_int(&q);
        if (now_s - issued_s >= end_s - now_s) {
            free(copy);
            copy = NULL;
        }
    }
    enum tier_status st = tier_query_end(&q);
    if (st == TIER_OK)
        *out = copy;
    else
        free(copy);
    return st;
}

static enum tier_status issue(struct tier_authority *a, const struct tier_pseudonym_ask *ask,
                              const char *pseudonym, int64_t ttl_s, int64_t now_s, char **out,
                              struct tier_err *err) {
    char names[512], hex[TIER_HASH_HEX], *pem = NULL;
    struct tier_cert *cert = NULL;
    struct tier_pseudonym_id id;
    struct tier_query q;
    enum tier_status st;

    snprintf(names, sizeof names, "URI:spiffe://%s/pseudonym/%s/%s/%s", a->name, pseudonym,
             ask->parent, tier_hash_hex(&ask->run, hex));
    /* A use that no TLS takes for its own. */
    TIER_TRY(cert_issue_as(a->key, a->ca, ask->csr_pem, names, "emailProtection", ttl_s, now_s,
                           &pem, err));
    TIER_TRY_OUT(tier_cert_from_pem(pem, &cert, err));
    /* That the name is the key's is seen here. */
    TIER_TRY_OUT(tier_pseudonym_verify(cert, a->ca, NULL, now_s, &id, err));
    tier_query_start(&q, a->db, SQL_PSEUDONYM_CERT_ADD, err);
    tier_query_name(&q, "serial", id.serial, sizeof id.serial - 1);
    tier_query_name(&q, "name", pseudonym, TIER_NAME_LEN_MAX);
    tier_query_blob(&q, "cert", pem, strlen(pem), TIER_PEM_BYTES_MAX);
    tier_query_int(&q, now_s);
    tier_query_int(&q, id.not_after_s);
    TIER_TRY_OUT(tier_query_run(&q));
    *out = pem;
    pem = NULL;
out:
    tier_cert_free(cert);
    free(pem);
    return st;
}

enum tier_status tier_authority_pseudonym(struct tier_authority *a,
                                          const struct tier_pseudonym_ask *ask, int64_t now_s,
                                          char **cert_pem_out, char **ca_pem_out,
                                          struct tier_err *err) {
    char pseudonym[TIER_NAME_LEN_MAX + 1], had[TIER_NAME_LEN_MAX + 1];
    char *cert_pem = NULL, *ca_pem = NULL;
    struct tier_identity id;
    struct tier_hash tag;
    int64_t ttl_s = 0;
    enum tier_status st;

    TIER_TRY_OUT(tier_db_begin(a->db, err));
    TIER_TRY_OUT(check_ask(a, ask, now_s, &id, pseudonym, err));
    TIER_TRY_OUT(tier_authority_cert_ttl(a, &ttl_s, err));
    if (ttl_s > TIER_PSEUDONYM_TTL_S)
        ttl_s = TIER_PSEUDONYM_TTL_S;
    TIER_TRY_OUT(tag_of(a, id.name, ask, &tag, err));
    TIER_TRY_OUT(find(a, &tag, had, err));
    if (*had && strcmp(had, pseudonym) != 0) {
        st = tier_fail(err, TIER_EPOLICY,
                       "this spoke has a pseudonym for the run below '%s', under another key, and "
                       "gets no second one",
                       ask->parent);
        goto out;
    }
    if (*had)
        TIER_TRY_OUT(last_cert(a, pseudonym, now_s, &cert_pem, err));
    else
        TIER_TRY_OUT(add(a, id.name, pseudonym, &tag, ask, ttl_s, now_s, err));
    if (!cert_pem)
        TIER_TRY_OUT(issue(a, ask, pseudonym, ttl_s, now_s, &cert_pem, err));
    ca_pem = strdup(a->ca_pem);
    if (!ca_pem) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a pseudonym");
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

/* ---- revoking and opening ---- */

static enum tier_status revoke_by(struct tier_authority *a, int sql, const struct tier_hash *owner,
                                  int64_t now_s, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, a->db, sql, err);
    tier_query_hash(&q, owner);
    tier_query_int(&q, now_s);
    return tier_query_run(&q);
}

enum tier_status authority_revoke_pseudonyms(struct tier_authority *a, const char *child,
                                             int64_t now_s, int *changed, struct tier_err *err) {
    struct tier_hash owner;

    TIER_TRY(owner_of(a, child, &owner, err));
    TIER_TRY(revoke_by(a, SQL_PSEUDONYM_REVOKE_CERTS, &owner, now_s, err));
    *changed = tier_db_changes(a->db);
    return revoke_by(a, SQL_PSEUDONYM_REVOKE, &owner, now_s, err);
}

static enum tier_status read_sealed(struct tier_authority *a, const char *pseudonym,
                                    uint8_t sealed[SEALED_BYTES], struct tier_err *err) {
    struct tier_query q;
    size_t bytes = 0;

    tier_query_start(&q, a->db, SQL_PSEUDONYM_SEALED, err);
    tier_query_name(&q, "name", pseudonym, TIER_NAME_LEN_MAX);
    if (tier_query_next(&q)) {
        const uint8_t *blob = tier_query_get_blob(&q, SEALED_BYTES, &bytes);
        if (q.st == TIER_OK && bytes != SEALED_BYTES)
            q.st = tier_fail(err, TIER_ECORRUPT, "what is sealed of %s is damaged", pseudonym);
        else if (q.st == TIER_OK)
            memcpy(sealed, blob, SEALED_BYTES);
    } else if (q.st == TIER_OK) {
        q.st = tier_fail(err, TIER_ENOTFOUND, "authority %s gave nobody the pseudonym %s", a->name,
                         pseudonym);
    }
    return tier_query_end(&q);
}

enum tier_status tier_authority_unseal(struct tier_authority *a, const char *pseudonym,
                                       const char *reason, int64_t now_s, char *child,
                                       struct tier_err *err) {
    uint8_t key[TIER_KEY_SECRET_BYTES], sealed[SEALED_BYTES], plain[TIER_NAME_LEN_MAX + 1];
    struct tier_query q;

    if (!*reason || strlen(reason) > REASON_LEN_MAX)
        return tier_fail(err, TIER_EARG,
                         "why it is opened must be said, in 1 to %d bytes: an order's number",
                         REASON_LEN_MAX);
    TIER_TRY(tier_name_check("the pseudonym", pseudonym, err));
    TIER_TRY(read_sealed(a, pseudonym, sealed, err));
    tier_query_start(&q, a->db, SQL_OPENING_ADD, err);
    tier_query_int(&q, now_s);
    tier_query_name(&q, "name", pseudonym, TIER_NAME_LEN_MAX);
    tier_query_name(&q, "reason", reason, REASON_LEN_MAX);
    TIER_TRY(tier_query_run(&q));
    TIER_TRY(tier_key_secret(a->key, "consilium pseudonym seal 1", key, err));
    bool ok = gcm(false, key, sealed, pseudonym, sealed + NONCE_BYTES, plain,
                  sealed + SEALED_BYTES - TAG_BYTES) &&
              plain[TIER_NAME_LEN_MAX] == '\0';
    OPENSSL_cleanse(key, sizeof key);
    if (!ok)
        return tier_fail(err, TIER_ECORRUPT, "what is sealed of %s was altered", pseudonym);
    memcpy(child, plain, sizeof plain);
    return TIER_OK;
}
