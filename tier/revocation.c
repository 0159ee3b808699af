/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenSSL makes, signs and parses; what is checked here is that a list is of the one kind that this
 * house makes: version 2, a CRL number, a date for the next, and no critical extension that would
 * mean something else (an indirect list, one of reasons, a difference to another).
 */
#include "tier/revocation.h"

#include "tier/cert_private.h"

#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct tier_revocations {
    X509_CRL *crl;
    uint8_t *der;
    size_t bytes;
    uint64_t number;
    int64_t made_s, next_s;
    size_t count;
};

/* ---- making --------------------------------------------------------------------------------- */

static ASN1_INTEGER *serial_of(const char *hex) {
    BIGNUM *bn = NULL;
    ASN1_INTEGER *serial = NULL;

    if (*hex && BN_hex2bn(&bn, hex) == (int)strlen(hex))
        serial = BN_to_ASN1_INTEGER(bn, NULL);
    BN_free(bn);
    return serial;
}

static bool add_revoked(X509_CRL *crl, const struct tier_revoked *r) {
    X509_REVOKED *entry = X509_REVOKED_new();
    ASN1_INTEGER *serial = serial_of(r->serial);
    ASN1_TIME *when = ASN1_TIME_set(NULL, (time_t)r->revoked_s);
    bool ok = entry && serial && when && X509_REVOKED_set_serialNumber(entry, serial) &&
              X509_REVOKED_set_revocationDate(entry, when) && X509_CRL_add0_revoked(crl, entry);

    if (!ok)
        X509_REVOKED_free(entry);
    ASN1_INTEGER_free(serial);
    ASN1_TIME_free(when);
    return ok;
}

static bool set_head(X509_CRL *crl, const struct tier_cert *ca, uint64_t number, int64_t now_s,
                     int64_t next_s) {
    ASN1_INTEGER *n = ASN1_INTEGER_new();
    ASN1_TIME *from = ASN1_TIME_set(NULL, (time_t)now_s);
    ASN1_TIME *to = ASN1_TIME_set(NULL, (time_t)next_s);
    bool ok = n && from && to && ASN1_INTEGER_set_uint64(n, number) &&
              X509_CRL_set_version(crl, X509_CRL_VERSION_2) &&
              X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca->x509)) &&
              X509_CRL_set1_lastUpdate(crl, from) && X509_CRL_set1_nextUpdate(crl, to) &&
              X509_CRL_add1_ext_i2d(crl, NID_crl_number, n, 0, 0);

    ASN1_INTEGER_free(n);
    ASN1_TIME_free(from);
    ASN1_TIME_free(to);
    return ok;
}

enum tier_status tier_revocations_make(const struct tier_key *ca_key, const struct tier_cert *ca,
                                       uint64_t number, int64_t now_s, int64_t next_s,
                                       const struct tier_revoked *revoked, size_t count,
                                       uint8_t **der_out, size_t *bytes_out, struct tier_err *err) {
    unsigned char *made = NULL;
    int bytes = 0;
    enum tier_status st = TIER_OK;

    if (number == 0 || number > INT64_MAX || now_s < 1 || next_s <= now_s)
        return tier_fail(err, TIER_EARG, "a revocation list without a number or time");
    if (count > TIER_REVOKED_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "%zu certificates are revoked and not yet expired; a list holds %u: give "
                         "certificates a shorter life (consilium pki set --cert-ttl)",
                         count, TIER_REVOKED_MAX);
    X509_CRL *crl = X509_CRL_new();
    bool ok = crl && set_head(crl, ca, number, now_s, next_s);
    for (size_t i = 0; ok && i < count; i++)
        ok = add_revoked(crl, &revoked[i]);
    if (!ok || !X509_CRL_sort(crl) || !X509_CRL_sign(crl, ca_key->pkey, EVP_sha256()) ||
        (bytes = i2d_X509_CRL(crl, &made)) <= 0) {
        st = cert_ssl_fail(err, TIER_EINTERNAL, "cannot make a revocation list");
        goto out;
    }
    uint8_t *der = malloc((size_t)bytes);
    if (!der) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a revocation list");
        goto out;
    }
    memcpy(der, made, (size_t)bytes);
    *der_out = der;
    *bytes_out = (size_t)bytes;
out:
    OPENSSL_free(made);
    X509_CRL_free(crl);
    return st;
}

/* ---- reading -------------------------------------------------------------------------------- */

static bool read_number(const X509_CRL *crl, uint64_t *out) {
    int critical = 0;
    ASN1_INTEGER *n = X509_CRL_get_ext_d2i(crl, NID_crl_number, &critical, NULL);
    bool ok = n && ASN1_INTEGER_get_uint64(out, n) == 1 && *out >= 1 && *out <= INT64_MAX;

    ASN1_INTEGER_free(n);
    return ok;
}

static bool has_critical(const X509_CRL *crl) {
    for (int i = 0; i < X509_CRL_get_ext_count(crl); i++)
        if (X509_EXTENSION_get_critical(X509_CRL_get_ext(crl, i)))
            return true;
    return false;
}

static enum tier_status take_list(struct tier_revocations *l, const struct tier_cert *ca,
                                  struct tier_err *err) {
    const ASN1_TIME *next = X509_CRL_get0_nextUpdate(l->crl);
    char name[TIER_NAME_LEN_MAX + 1];

    TIER_TRY(tier_cert_authority(ca, name, err));
    int count = sk_X509_REVOKED_num(X509_CRL_get_REVOKED(l->crl)); /* -1: no entries at all */
    l->count = count > 0 ? (size_t)count : 0;
    l->made_s = cert_time(X509_CRL_get0_lastUpdate(l->crl));
    l->next_s = next ? cert_time(next) : -1;
    if (X509_CRL_get_version(l->crl) != X509_CRL_VERSION_2 || has_critical(l->crl) ||
        !read_number(l->crl, &l->number) || l->made_s < 0 || l->next_s <= l->made_s ||
        l->count > TIER_REVOKED_MAX)
        return tier_fail(err, TIER_EPROTO,
                         "revocation list: a version 2 list with a number, a next date, no "
                         "critical extension and at most %u entries is wanted",
                         TIER_REVOKED_MAX);
    if (X509_NAME_cmp(X509_CRL_get_issuer(l->crl), X509_get_subject_name(ca->x509)) != 0 ||
        X509_CRL_get_signature_nid(l->crl) != NID_ecdsa_with_SHA256 ||
        X509_CRL_verify(l->crl, X509_get0_pubkey(ca->x509)) != 1)
        return tier_fail(err, TIER_EIDENTITY,
                         "revocation list %llu: not signed by this node's authority %s",
                         (unsigned long long)l->number, name);
    return TIER_OK;
}

enum tier_status tier_revocations_read(const uint8_t *der, size_t bytes, const struct tier_cert *ca,
                                       struct tier_revocations **out, struct tier_err *err) {
    const unsigned char *at = der;
    enum tier_status st;

    if (bytes == 0 || bytes > TIER_REVOCATIONS_BYTES_MAX)
        return tier_fail(err, TIER_EPROTO, "revocation list: %zu bytes, 1 to %u are allowed", bytes,
                         TIER_REVOCATIONS_BYTES_MAX);
    struct tier_revocations *l = calloc(1, sizeof *l);
    if (!l || !(l->der = malloc(bytes))) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a revocation list");
        goto out;
    }
    memcpy(l->der, der, bytes);
    l->bytes = bytes;
    l->crl = d2i_X509_CRL(NULL, &at, (long)bytes);
    if (!l->crl || at != der + bytes) {
        st = cert_ssl_fail(err, TIER_EPROTO, "revocation list: not an X.509 list in DER");
        goto out;
    }
    TIER_TRY_OUT(take_list(l, ca, err));
    *out = l;
    l = NULL;
out:
    ERR_clear_error();
    tier_revocations_free(l);
    return st;
}

void tier_revocations_free(struct tier_revocations *l) {
    if (!l)
        return;
    X509_CRL_free(l->crl);
    free(l->der);
    free(l);
}

uint64_t tier_revocations_number(const struct tier_revocations *l) {
    return l->number;
}

int64_t tier_revocations_made_s(const struct tier_revocations *l) {
    return l->made_s;
}

int64_t tier_revocations_next_s(const struct tier_revocations *l) {
    return l->next_s;
}

size_t tier_revocations_count(const struct tier_revocations *l) {
    return l->count;
}

const uint8_t *tier_revocations_bytes(const struct tier_revocations *l, size_t *bytes_out) {
    *bytes_out = l->bytes;
    return l->der;
}

bool tier_revocations_has(const struct tier_revocations *l, const char *serial) {
    X509_REVOKED *entry = NULL;
    ASN1_INTEGER *s = l ? serial_of(serial) : NULL;
    bool found = s && X509_CRL_get0_by_serial(l->crl, &entry, s) == 1;

    ASN1_INTEGER_free(s);
    ERR_clear_error();
    return found;
}
