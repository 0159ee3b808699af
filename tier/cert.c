/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates carry names only in the forms checked by tier/identity.c, so the extension texts
 * given to OpenSSL's parser hold no character that it would read as syntax.
 */
#include "tier/cert_private.h"

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CERT_TIME_MAX_S                                                                            \
    INT64_C(250000000000) /* with the longest validity still before year 10000 */
#define CERT_SERIAL_BITS 128
/* OpenSSL refuses to spend more than 32 MiB when it reads: 128 N r is half of that. */
#define SCRYPT_N (1 << 14)
#define SCRYPT_R 8
#define SCRYPT_P 1

enum tier_status cert_ssl_fail(struct tier_err *err, enum tier_status st, const char *what) {
    unsigned long code = ERR_get_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;

    ERR_clear_error();
    return tier_fail(err, st, "%s%s%s", what, reason ? ": " : "", reason ? reason : "");
}

void tier_secret_free(char *text) {
    if (text)
        OPENSSL_cleanse(text, strlen(text));
    free(text);
}

/* A PEM text from outside, bounded before anything is parsed. */
static enum tier_status open_pem(const char *what, const char *pem, BIO **out,
                                 struct tier_err *err) {
    size_t bytes = pem ? strnlen(pem, TIER_PEM_BYTES_MAX + 1) : 0;

    if (bytes == 0 || bytes > TIER_PEM_BYTES_MAX)
        return tier_fail(err, TIER_EIDENTITY, "%s: %s; PEM text of 1 to %d bytes is wanted", what,
                         bytes ? "too long" : "empty", TIER_PEM_BYTES_MAX);
    *out = BIO_new_mem_buf(pem, (int)bytes);
    return *out ? TIER_OK : cert_ssl_fail(err, TIER_ENOMEM, what);
}

/* Copies what was written to a memory BIO. */
static enum tier_status take_text(BIO *bio, char **out, struct tier_err *err) {
    char *data = NULL;
    long bytes = BIO_get_mem_data(bio, &data);
    char *text = bytes > 0 ? malloc((size_t)bytes + 1) : NULL;

    if (!text)
        return tier_fail(err, TIER_ENOMEM, "no memory for a PEM text");
    memcpy(text, data, (size_t)bytes);
    text[bytes] = '\0';
    *out = text;
    return TIER_OK;
}

static bool is_p256(EVP_PKEY *pkey) {
    char group[32];
    int explicit_params = 0;

    if (!pkey || !EVP_PKEY_is_a(pkey, "EC") ||
        !EVP_PKEY_get_utf8_string_param(pkey, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof group,
                                        NULL))
        return false;
    (void)EVP_PKEY_get_int_param(pkey, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS,
                                 &explicit_params);
    ERR_clear_error();
    return !explicit_params && strcmp(group, SN_X9_62_prime256v1) == 0;
}

/* ---- keys ----------------------------------------------------------------------------------- */

static enum tier_status wrap_key(EVP_PKEY *pkey, struct tier_key **out, struct tier_err *err) {
    struct tier_key *key = calloc(1, sizeof *key);

    if (!key) {
        EVP_PKEY_free(pkey);
        return tier_fail(err, TIER_ENOMEM, "no memory for a key");
    }
    key->pkey = pkey;
    *out = key;
    return TIER_OK;
}

enum tier_status tier_key_generate(struct tier_key **out, struct tier_err *err) {
    EVP_PKEY *pkey = EVP_EC_gen("P-256");
    if (!pkey)
        return cert_ssl_fail(err, TIER_EINTERNAL, "cannot generate a P-256 key");
    return wrap_key(pkey, out, err);
}

/* Never asks on the terminal: an encrypted key simply is not one of ours. */
static int no_password(char *buf, int size, int writing, void *arg) {
    (void)buf, (void)size, (void)writing, (void)arg;
    return -1;
}

/* Its argument is the passphrase. */
static int give_password(char *buf, int size, int writing, void *arg) {
    size_t n = strlen(arg);
    (void)writing;
    if (size < 0 || n > (size_t)size)
        return -1;
    memcpy(buf, arg, n);
    return (int)n;
}

/* What was read of a key's text, or NULL. */
static enum tier_status take_key(EVP_PKEY *pkey, const char *unread, struct tier_key **out,
                                 struct tier_err *err) {
    if (!pkey)
        return cert_ssl_fail(err, TIER_EIDENTITY, unread);
    if (!is_p256(pkey)) {
        EVP_PKEY_free(pkey);
        return tier_fail(err, TIER_EIDENTITY,
                         "private key: not ECDSA on P-256 (prime256v1), which is the only kind "
                         "used here");
    }
    return wrap_key(pkey, out, err);
}

enum tier_status tier_key_from_pem(const char *pem, struct tier_key **out, struct tier_err *err) {
    BIO *bio = NULL;

    TIER_TRY(open_pem("private key", pem, &bio, err));
    EVP_PKEY *pkey = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    BIO_free(bio);
    return take_key(pkey, "private key: not an unencrypted PEM key", out, err);
}

enum tier_status tier_key_from_sealed(const char *pem, const char *passphrase,
                                      struct tier_key **out, struct tier_err *err) {
    BIO *bio = NULL;

    TIER_TRY(open_pem("private key", pem, &bio, err));
    EVP_PKEY *pkey = PEM_read_bio_PrivateKey(bio, NULL, give_password, (void *)passphrase);
    BIO_free(bio);
    return take_key(pkey, "private key: the passphrase does not open it", out, err);
}

enum tier_status tier_key_to_sealed(const struct tier_key *key, const char *passphrase,
                                    char **pem_out, struct tier_err *err) {
    BIO *bio = BIO_new(BIO_s_mem());
    PKCS8_PRIV_KEY_INFO *plain = EVP_PKEY2PKCS8(key->pkey);
    X509_ALGOR *how =
        PKCS5_pbe2_set_scrypt(EVP_aes_256_cbc(), NULL, 0, NULL, SCRYPT_N, SCRYPT_R, SCRYPT_P);
    X509_SIG *sealed = NULL;
    enum tier_status st;

    if (plain && how)
        sealed = PKCS8_set0_pbe(passphrase, (int)strlen(passphrase), plain, how);
    if (!sealed)
        X509_ALGOR_free(how); /* else it is the sealed key's */
    if (!bio || !sealed || !PEM_write_bio_PKCS8(bio, sealed))
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot encrypt a key");
    else
        st = take_text(bio, pem_out, err);
    X509_SIG_free(sealed);
    PKCS8_PRIV_KEY_INFO_free(plain);
    BIO_free(bio);
    return st;
}

enum tier_status tier_key_to_pem(const struct tier_key *key, char **pem_out, struct tier_err *err) {
    BIO *bio = BIO_new(BIO_s_mem()); /* freed with its memory cleared */
    enum tier_status st;

    if (!bio || !PEM_write_bio_PKCS8PrivateKey(bio, key->pkey, NULL, NULL, 0, NULL, NULL))
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot write a key as PEM");
    else
        st = take_text(bio, pem_out, err);
    BIO_free(bio);
    return st;
}

void tier_key_free(struct tier_key *key) {
    if (!key)
        return;
    EVP_PKEY_free(key->pkey);
    free(key);
}

enum tier_status tier_key_sign(const struct tier_key *key, const void *data, size_t bytes,
                               uint8_t *sig, size_t *sig_bytes_out, struct tier_err *err) {
    uint8_t made[TIER_SIGNATURE_BYTES_MAX];
    size_t made_bytes = sizeof made;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    enum tier_status st = TIER_OK;

    if (!ctx || EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key->pkey) != 1 ||
        EVP_DigestSign(ctx, made, &made_bytes, data, bytes) != 1) {
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot sign");
    } else {
        memcpy(sig, made, made_bytes);
        *sig_bytes_out = made_bytes;
    }
    EVP_MD_CTX_free(ctx);
    return st;
}

/* ---- names inside X.509 --------------------------------------------------------------------- */

static bool add_name(X509_NAME *name, int nid, const char *text) {
    return X509_NAME_add_entry_by_NID(name, nid, MBSTRING_UTF8, (const unsigned char *)text, -1, -1,
                                      0) == 1;
}

/* Plain characters only, so that what is compared is what every reader sees. */
static bool copy_string(const ASN1_STRING *s, char *out, size_t size) {
    if (!s)
        return false;
    int type = ASN1_STRING_type(s);
    int bytes = ASN1_STRING_length(s);
    const unsigned char *data = ASN1_STRING_get0_data(s);

    if (type != V_ASN1_UTF8STRING && type != V_ASN1_PRINTABLESTRING && type != V_ASN1_IA5STRING)
        return false;
    if (bytes <= 0 || (size_t)bytes >= size)
        return false;
    for (int i = 0; i < bytes; i++)
        if (data[i] < 0x21 || data[i] > 0x7e)
            return false;
    memcpy(out, data, (size_t)bytes);
    out[bytes] = '\0';
    return true;
}

/* The entry at `at` if it is of this kind and alone in its set. */
static bool read_name(const X509_NAME *name, int at, int nid, char *out, size_t size) {
    const X509_NAME_ENTRY *entry = X509_NAME_get_entry(name, at);
    return entry && OBJ_obj2nid(X509_NAME_ENTRY_get_object(entry)) == nid &&
           X509_NAME_ENTRY_set(entry) == at &&
           copy_string(X509_NAME_ENTRY_get_data(entry), out, size);
}

enum tier_status tier_key_secret(const struct tier_key *key, const char *label, uint8_t *out,
                                 struct tier_err *err) {
    uint8_t scalar[TIER_KEY_SECRET_BYTES];
    BIGNUM *secret = NULL;
    unsigned length = TIER_KEY_SECRET_BYTES;
    bool done = EVP_PKEY_get_bn_param(key->pkey, OSSL_PKEY_PARAM_PRIV_KEY, &secret) == 1 &&
                BN_bn2binpad(secret, scalar, sizeof scalar) == (int)sizeof scalar &&
                HMAC(EVP_sha256(), scalar, sizeof scalar, (const uint8_t *)label, strlen(label),
                     out, &length);

    OPENSSL_cleanse(scalar, sizeof scalar);
    BN_clear_free(secret);
    return done ? TIER_OK : cert_ssl_fail(err, TIER_EINTERNAL, "a key cannot be read");
}

/* ---- certificate requests ------------------------------------------------------------------- */

enum tier_status tier_csr_new(const struct tier_key *key, const char *name, enum tier_role role,
                              char **pem_out, struct tier_err *err) {
    X509_REQ *req = NULL;
    BIO *bio = NULL;
    enum tier_status st;

    TIER_TRY(tier_name_check("the node name", name, err));
    if ((unsigned)role >= TIER_ROLE_COUNT)
        return tier_fail(err, TIER_EARG, "no such role: %d", (int)role);
    req = X509_REQ_new();
    bio = BIO_new(BIO_s_mem());
    if (!req || !bio || !X509_REQ_set_version(req, X509_REQ_VERSION_1) ||
        !add_name(X509_REQ_get_subject_name(req), NID_organizationalUnitName,
                  tier_role_text(role)) ||
        !add_name(X509_REQ_get_subject_name(req), NID_commonName, name) ||
        !X509_REQ_set_pubkey(req, key->pkey) || !X509_REQ_sign(req, key->pkey, EVP_sha256()) ||
        !PEM_write_bio_X509_REQ(bio, req))
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot make a certificate request");
    else
        st = take_text(bio, pem_out, err);
    BIO_free(bio);
    X509_REQ_free(req);
    return st;
}

static enum tier_status check_csr(X509_REQ *req, struct tier_csr *out, struct tier_err *err) {
    X509_NAME *subject = X509_REQ_get_subject_name(req);
    char role[TIER_ROLE_TEXT_SIZE];

    if (X509_REQ_get_version(req) != X509_REQ_VERSION_1 || X509_REQ_get_attr_count(req) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate request: asks for attributes or extensions; a request says "
                         "OU=ROLE and CN=NAME and nothing else");
    if (!subject || X509_NAME_entry_count(subject) != 2 ||
        !read_name(subject, 0, NID_organizationalUnitName, role, sizeof role) ||
        !read_name(subject, 1, NID_commonName, out->name, sizeof out->name))
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate request: its subject must be OU=ROLE, CN=NAME and nothing "
                         "else");
    if (!tier_name_valid(out->name) || tier_role_parse(role, &out->role, NULL) != TIER_OK)
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate request: OU=%s, CN=%s is not a role and a node name", role,
                         out->name);
    EVP_PKEY *pkey = X509_REQ_get0_pubkey(req);
    if (!is_p256(pkey))
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate request of %s: its key must be ECDSA on P-256", out->name);
    if (X509_REQ_get_signature_nid(req) != NID_ecdsa_with_SHA256 || X509_REQ_verify(req, pkey) != 1)
        return cert_ssl_fail(err, TIER_EIDENTITY,
                             "certificate request: it is not signed by its own key with SHA-256");
    return TIER_OK;
}

static enum tier_status read_csr(const char *pem, X509_REQ **out, struct tier_csr *csr_out,
                                 struct tier_err *err) {
    BIO *bio = NULL;
    struct tier_csr csr = {0};

    TIER_TRY(open_pem("certificate request", pem, &bio, err));
    X509_REQ *req = PEM_read_bio_X509_REQ(bio, NULL, no_password, NULL);
    BIO_free(bio);
    if (!req)
        return cert_ssl_fail(err, TIER_EIDENTITY, "certificate request: not a PEM request");
    enum tier_status st = check_csr(req, &csr, err);
    ERR_clear_error();
    if (st != TIER_OK) {
        X509_REQ_free(req);
        return st;
    }
    *out = req;
    *csr_out = csr;
    return TIER_OK;
}

enum tier_status tier_csr_parse(const char *pem, struct tier_csr *out, struct tier_err *err) {
    X509_REQ *req = NULL;

    TIER_TRY(read_csr(pem, &req, out, err));
    X509_REQ_free(req);
    return TIER_OK;
}

/* ---- issuing -------------------------------------------------------------------------------- */

static bool set_serial(X509 *x509) {
    BIGNUM *bn = BN_new();
    /* The top bit set keeps every serial of one length, and never zero. */
    bool ok = bn && BN_rand(bn, CERT_SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
              BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(x509));
    BN_free(bn);
    return ok;
}

static bool add_extension(X509 *x509, X509 *issuer, int nid, const char *text) {
    X509V3_CTX ctx;

    X509V3_set_ctx(&ctx, issuer, x509, NULL, NULL, 0);
    X509V3_set_ctx_nodb(&ctx);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, text);
    bool ok = ext && X509_add_ext(x509, ext, -1);
    X509_EXTENSION_free(ext);
    return ok;
}

static enum tier_status check_validity(int64_t ttl_s, int64_t now_s, struct tier_err *err) {
    if (ttl_s < TIER_CERT_TTL_MIN_S || ttl_s > TIER_CERT_TTL_MAX_S)
        return tier_fail(err, TIER_EARG, "a certificate for %lld s; %d s to %d days are possible",
                         (long long)ttl_s, TIER_CERT_TTL_MIN_S, TIER_CERT_DAYS_MAX);
    if (now_s < TIER_CERT_BACKDATE_S || now_s > CERT_TIME_MAX_S)
        return tier_fail(err, TIER_EARG, "the time is %lld s after 1970; set this machine's clock",
                         (long long)now_s);
    return TIER_OK;
}

static bool set_times(X509 *x509, int64_t from_s, int64_t to_s) {
    return ASN1_TIME_set(X509_getm_notBefore(x509), (time_t)from_s) &&
           ASN1_TIME_set(X509_getm_notAfter(x509), (time_t)to_s);
}

static enum tier_status finish_cert(X509 *x509, EVP_PKEY *signer, char **pem_out,
                                    struct tier_err *err) {
    BIO *bio = BIO_new(BIO_s_mem());
    enum tier_status st;

    if (!bio || !X509_sign(x509, signer, EVP_sha256()) || !PEM_write_bio_X509(bio, x509))
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot sign a certificate");
    else
        st = take_text(bio, pem_out, err);
    BIO_free(bio);
    return st;
}

enum tier_status tier_cert_new_ca(const struct tier_key *key, const char *authority, int days,
                                  int64_t now_s, char **pem_out, struct tier_err *err) {
    char uri[TIER_SPIFFE_SIZE + 4];
    enum tier_status st;

    TIER_TRY(tier_name_check("the authority's name", authority, err));
    TIER_TRY(check_validity(INT64_C(86400) * days, now_s, err));
    snprintf(uri, sizeof uri, "URI:spiffe://%s", authority);
    X509 *x509 = X509_new();
    if (!x509 || !X509_set_version(x509, X509_VERSION_3) || !set_serial(x509) ||
        !set_times(x509, now_s - TIER_CERT_BACKDATE_S, now_s + INT64_C(86400) * days) ||
        !add_name(X509_get_subject_name(x509), NID_commonName, authority) ||
        !X509_set_issuer_name(x509, X509_get_subject_name(x509)) ||
        !X509_set_pubkey(x509, key->pkey) ||
        !add_extension(x509, x509, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(x509, x509, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(x509, x509, NID_subject_key_identifier, "hash") ||
        !add_extension(x509, x509, NID_subject_alt_name, uri))
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot make the authority's certificate");
    else
        st = finish_cert(x509, key->pkey, pem_out, err);
    X509_free(x509);
    return st;
}

int64_t cert_time(const ASN1_TIME *t) {
    struct tm tm;
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : -1;
}

enum tier_status tier_cert_issue(const struct tier_key *ca_key, const struct tier_cert *ca,
                                 const char *csr_pem, int64_t ttl_s, int64_t now_s, char **pem_out,
                                 struct tier_err *err) {
    struct tier_csr csr;
    struct tier_identity id = {0};
    char uri[TIER_SPIFFE_SIZE], names[TIER_SPIFFE_SIZE + TIER_NAME_LEN_MAX + 16];

    TIER_TRY(tier_cert_authority(ca, id.authority, err));
    TIER_TRY(tier_csr_parse(csr_pem, &csr, err));
    memcpy(id.name, csr.name, sizeof id.name);
    id.role = csr.role;
    snprintf(names, sizeof names, "URI:%s,DNS:%s", tier_identity_spiffe(&id, uri), id.name);
    return cert_issue_as(ca_key, ca, csr_pem, names, "serverAuth,clientAuth", ttl_s, now_s, pem_out,
                         err);
}

enum tier_status cert_issue_as(const struct tier_key *ca_key, const struct tier_cert *ca,
                               const char *csr_pem, const char *names, const char *usage,
                               int64_t ttl_s, int64_t now_s, char **pem_out, struct tier_err *err) {
    X509_REQ *req = NULL;
    struct tier_csr csr;
    char authority[TIER_NAME_LEN_MAX + 1];
    enum tier_status st;

    TIER_TRY(check_validity(ttl_s, now_s, err));
    TIER_TRY(tier_cert_authority(ca, authority, err));
    int64_t ca_end_s = cert_time(X509_get0_notAfter(ca->x509));
    if (now_s >= ca_end_s)
        return tier_fail(err, TIER_EIDENTITY, "the certificate of authority %s itself has expired",
                         authority);
    TIER_TRY(read_csr(csr_pem, &req, &csr, err));
    int64_t end_s = now_s + ttl_s;
    X509 *x509 = X509_new();
    if (!x509 || !X509_set_version(x509, X509_VERSION_3) || !set_serial(x509) ||
        !set_times(x509, now_s - TIER_CERT_BACKDATE_S, end_s < ca_end_s ? end_s : ca_end_s) ||
        !add_name(X509_get_subject_name(x509), NID_commonName, csr.name) ||
        !X509_set_issuer_name(x509, X509_get_subject_name(ca->x509)) ||
        !X509_set_pubkey(x509, X509_REQ_get0_pubkey(req)) ||
        !add_extension(x509, ca->x509, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(x509, ca->x509, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(x509, ca->x509, NID_ext_key_usage, usage) ||
        !add_extension(x509, ca->x509, NID_subject_key_identifier, "hash") ||
        !add_extension(x509, ca->x509, NID_authority_key_identifier, "keyid:always") ||
        !add_extension(x509, ca->x509, NID_subject_alt_name, names))
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot make a certificate");
    else
        st = finish_cert(x509, ca_key->pkey, pem_out, err);
    X509_free(x509);
    X509_REQ_free(req);
    return st;
}

/* ---- reading -------------------------------------------------------------------------------- */

static enum tier_status parse_pem(const char *pem, X509 **out, struct tier_err *err) {
    BIO *bio = NULL;

    TIER_TRY(open_pem("certificate", pem, &bio, err));
    X509 *x509 = PEM_read_bio_X509(bio, NULL, no_password, NULL);
    X509 *second = x509 ? PEM_read_bio_X509(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    if (!x509)
        return cert_ssl_fail(err, TIER_EIDENTITY, "certificate: not a PEM certificate");
    ERR_clear_error();
    if (second) {
        X509_free(second);
        X509_free(x509);
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate: more than one in the text; exactly one is wanted");
    }
    *out = x509;
    return TIER_OK;
}

enum tier_status tier_cert_from_pem(const char *pem, struct tier_cert **out, struct tier_err *err) {
    struct tier_hash key = {{0}};
    bool bounded = pem && strnlen(pem, TIER_PEM_BYTES_MAX + 1) <= TIER_PEM_BYTES_MAX;
    X509 *x509 = bounded ? cert_cache_get(pem, &key) : NULL;

    if (!x509) {
        TIER_TRY(parse_pem(pem, &x509, err));
        cert_cache_put(&key, x509);
    }
    struct tier_cert *cert = calloc(1, sizeof *cert);
    if (!cert) {
        X509_free(x509);
        return tier_fail(err, TIER_ENOMEM, "no memory for a certificate");
    }
    cert->x509 = x509;
    *out = cert;
    return TIER_OK;
}

void tier_cert_free(struct tier_cert *cert) {
    if (!cert)
        return;
    X509_free(cert->x509);
    free(cert);
}

bool cert_read_names(X509 *x509, char *cn, char *uri, size_t uri_size, char *dns) {
    const X509_NAME *subject = X509_get_subject_name(x509);
    int wanted = dns ? 2 : 1;
    bool uri_seen = false, dns_seen = false;

    if (X509_get_version(x509) != X509_VERSION_3 || X509_NAME_entry_count(subject) != 1 ||
        !read_name(subject, 0, NID_commonName, cn, TIER_NAME_LEN_MAX + 1))
        return false;
    GENERAL_NAMES *names = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
    if (!names)
        return false;
    bool ok = sk_GENERAL_NAME_num(names) == wanted;
    for (int i = 0; ok && i < wanted; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type == GEN_URI && !uri_seen)
            ok = uri_seen = copy_string(name->d.uniformResourceIdentifier, uri, uri_size);
        else if (name->type == GEN_DNS && dns && !dns_seen)
            ok = dns_seen = copy_string(name->d.dNSName, dns, TIER_NAME_LEN_MAX + 1);
        else
            ok = false;
    }
    GENERAL_NAMES_free(names);
    return ok;
}

bool cert_serial(const ASN1_INTEGER *serial, char *out, size_t size) {
    BIGNUM *bn = ASN1_INTEGER_to_BN(serial, NULL);
    char *hex = bn && !BN_is_negative(bn) ? BN_bn2hex(bn) : NULL;
    bool ok = hex && strlen(hex) < size;

    for (size_t i = 0; ok && i <= strlen(hex); i++)
        out[i] = (char)(hex[i] >= 'A' && hex[i] <= 'F' ? hex[i] + ('a' - 'A') : hex[i]);
    OPENSSL_free(hex);
    BN_free(bn);
    return ok;
}

enum tier_status tier_cert_identity(const struct tier_cert *cert, struct tier_identity *out,
                                    struct tier_err *err) {
    char cn[TIER_NAME_LEN_MAX + 1], dns[TIER_NAME_LEN_MAX + 1], uri[TIER_SPIFFE_SIZE];
    struct tier_identity id = {0};

    bool named = cert_read_names(cert->x509, cn, uri, sizeof uri, dns);
    ERR_clear_error();
    if (!named)
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate: not a node's: its subject must be CN=NAME, its names one "
                         "spiffe URI and one DNS name");
    TIER_TRY(tier_identity_parse_spiffe(uri, &id, err));
    if (strcmp(cn, id.name) != 0 || strcmp(dns, id.name) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate: it names %s, %s and %s, which must be one name", id.name, cn,
                         dns);
    id.not_before_s = cert_time(X509_get0_notBefore(cert->x509));
    id.not_after_s = cert_time(X509_get0_notAfter(cert->x509));
    if (id.not_before_s < 0 || id.not_after_s < id.not_before_s ||
        !cert_serial(X509_get0_serialNumber(cert->x509), id.serial, sizeof id.serial))
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate of %s: its dates or serial are not "
                         "well-formed",
                         id.name);
    if (!is_p256(X509_get0_pubkey(cert->x509)))
        return tier_fail(err, TIER_EIDENTITY, "certificate of %s: its key must be ECDSA on P-256",
                         id.name);
    tier_cert_fingerprint(cert, &id.fingerprint);
    *out = id;
    return TIER_OK;
}

enum tier_status tier_cert_authority(const struct tier_cert *ca, char *name, struct tier_err *err) {
    static const char scheme[] = "spiffe://";
    char cn[TIER_NAME_LEN_MAX + 1], uri[TIER_SPIFFE_SIZE];

    bool named =
        X509_check_ca(ca->x509) == 1 && cert_read_names(ca->x509, cn, uri, sizeof uri, NULL);
    ERR_clear_error();
    if (!named || strncmp(uri, scheme, sizeof scheme - 1) != 0 ||
        strcmp(uri + sizeof scheme - 1, cn) != 0 || !tier_name_valid(cn))
        return tier_fail(err, TIER_EIDENTITY,
                         "certificate: not an authority's: CN=NAME and the URI spiffe://NAME of a "
                         "CA are wanted (made by: consilium pki init)");
    memcpy(name, cn, strlen(cn) + 1);
    return TIER_OK;
}

void tier_cert_fingerprint(const struct tier_cert *cert, struct tier_hash *out) {
    unsigned char *der = NULL;
    int bytes = i2d_X509(cert->x509, &der);

    memset(out, 0, sizeof *out);
    if (bytes > 0)
        tier_hash_data(der, (size_t)bytes, out);
    OPENSSL_free(der);
}

bool tier_cert_matches(const struct tier_cert *cert, const struct tier_key *key) {
    bool same = X509_check_private_key(cert->x509, key->pkey) == 1;
    ERR_clear_error();
    return same;
}

/* ---- checking ------------------------------------------------------------------------------- */

static void date_text(int64_t s, char *out, size_t size) {
    time_t t = (time_t)s;
    struct tm tm;
    if (!gmtime_r(&t, &tm) || strftime(out, size, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        snprintf(out, size, "%lld s after 1970", (long long)s);
}

static enum tier_status check_dates(const char *whose, int64_t from_s, int64_t to_s, int64_t now_s,
                                    struct tier_err *err) {
    char edge[64], now[64];

    if (now_s >= from_s && now_s <= to_s)
        return TIER_OK;
    date_text(now_s, now, sizeof now);
    date_text(now_s < from_s ? from_s : to_s, edge, sizeof edge);
    if (now_s < from_s)
        return tier_fail(err, TIER_EIDENTITY,
                         "the certificate of %s is not valid before %s; it is %s by this clock",
                         whose, edge, now);
    return tier_fail(err, TIER_EIDENTITY,
                     "the certificate of %s expired on %s; it is %s: enroll anew", whose, edge,
                     now);
}

/* The chain as RFC 5280 has it, strictly. */
static int check_chain(X509 *cert, X509 *ca, int64_t now_s) {
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    int code = X509_V_ERR_OUT_OF_MEM;

    if (store && ctx && X509_STORE_add_cert(store, ca) &&
        X509_STORE_CTX_init(ctx, store, cert, NULL)) {
        X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
        X509_VERIFY_PARAM_set_time(param, (time_t)now_s);
        X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_X509_STRICT);
        X509_VERIFY_PARAM_set_auth_level(param, 2);
        code = X509_verify_cert(ctx) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(ctx);
        if (code == X509_V_OK && (X509_check_purpose(cert, X509_PURPOSE_SSL_CLIENT, 0) != 1 ||
                                  X509_check_purpose(cert, X509_PURPOSE_SSL_SERVER, 0) != 1))
            code = X509_V_ERR_INVALID_PURPOSE;
    }
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    ERR_clear_error();
    return code;
}

enum tier_status tier_cert_verify(const struct tier_cert *cert, const struct tier_cert *ca,
                                  int64_t now_s, struct tier_identity *out, struct tier_err *err) {
    struct tier_identity id;
    char authority[TIER_NAME_LEN_MAX + 1], whose[TIER_NAME_LEN_MAX + 16];

    TIER_TRY(tier_cert_authority(ca, authority, err));
    TIER_TRY(tier_cert_identity(cert, &id, err));
    TIER_TRY(check_dates(id.name, id.not_before_s, id.not_after_s, now_s, err));
    snprintf(whose, sizeof whose, "authority %s", authority);
    TIER_TRY(check_dates(whose, cert_time(X509_get0_notBefore(ca->x509)),
                         cert_time(X509_get0_notAfter(ca->x509)), now_s, err));
    int code = check_chain(cert->x509, ca->x509, now_s);
    if (code == X509_V_ERR_OUT_OF_MEM)
        return tier_fail(err, TIER_ENOMEM, "no memory to check a certificate");
    if (code == X509_V_ERR_INVALID_PURPOSE)
        return tier_fail(err, TIER_EIDENTITY,
                         "the certificate of %s is not for both server and client", id.name);
    if (code != X509_V_OK || strcmp(authority, id.authority) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "the certificate of %s (authority %s) was not issued by this node's "
                         "authority %s%s%s",
                         id.name, id.authority, authority, code != X509_V_OK ? ": " : "",
                         code != X509_V_OK ? X509_verify_cert_error_string(code) : "");
    *out = id;
    return TIER_OK;
}

enum tier_status tier_cert_check_signature(const struct tier_cert *cert, const void *data,
                                           size_t bytes, const void *sig, size_t sig_bytes,
                                           struct tier_err *err) {
    EVP_PKEY *pkey = X509_get0_pubkey(cert->x509);

    if (sig_bytes == 0 || sig_bytes > TIER_SIGNATURE_BYTES_MAX)
        return tier_fail(err, TIER_EIDENTITY, "a signature of %zu bytes; 1 to %d are possible",
                         sig_bytes, TIER_SIGNATURE_BYTES_MAX);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx)
        return tier_fail(err, TIER_ENOMEM, "no memory to check a signature");
    bool good = is_p256(pkey) && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, pkey) == 1 &&
                EVP_DigestVerify(ctx, sig, sig_bytes, data, bytes) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return good ? TIER_OK
                : tier_fail(err, TIER_EIDENTITY,
                            "the signature does not fit the bytes and this certificate's key");
}

bool tier_cert_point(const struct tier_cert *cert, uint8_t point[2 * TIER_COORDINATE_BYTES]) {
    const EVP_PKEY *key = X509_get0_pubkey(cert->x509);
    BIGNUM *x = NULL, *y = NULL;
    bool good = key && EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_EC_PUB_X, &x) == 1 &&
                EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_EC_PUB_Y, &y) == 1 &&
                BN_bn2binpad(x, point, TIER_COORDINATE_BYTES) == TIER_COORDINATE_BYTES &&
                BN_bn2binpad(y, point + TIER_COORDINATE_BYTES, TIER_COORDINATE_BYTES) ==
                    TIER_COORDINATE_BYTES;

    BN_free(x);
    BN_free(y);
    ERR_clear_error();
    return good;
}
