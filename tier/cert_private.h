/* SPDX-License-Identifier: Apache-2.0 */
/* What cert.c, cert_cache.c and revocation.c share of OpenSSL's objects; nobody else sees them. */
#ifndef CONSILIUM_TIER_CERT_PRIVATE_H
#define CONSILIUM_TIER_CERT_PRIVATE_H

#include "tier/cert.h"

#include <openssl/evp.h>
#include <openssl/x509.h>

struct tier_key {
    EVP_PKEY *pkey;
};

struct tier_cert {
    X509 *x509;
};

/* As tier_fail, with the library's first reason behind it; its queue is left empty. */
enum tier_status cert_ssl_fail(struct tier_err *err, enum tier_status st, const char *what);
/* Seconds since 1970, or -1. */
int64_t cert_time(const ASN1_TIME *t);
/* A certificate parsed from this very text before, which the caller frees, or NULL; *key_out is for
 * cert_cache_put (cert_cache.c). Any thread. */
X509 *cert_cache_get(const char *pem, struct tier_hash *key_out);
/* Takes a reference of its own. */
void cert_cache_put(const struct tier_hash *key, X509 *x509);
/* Lower-case hex; false where it is negative or does not fit. */
bool cert_serial(const ASN1_INTEGER *serial, char *out, size_t size);
/* tier_cert_issue with other names (as openssl writes a subjectAltName) and key usage. */
enum tier_status cert_issue_as(const struct tier_key *ca_key, const struct tier_cert *ca,
                               const char *csr_pem, const char *names, const char *usage,
                               int64_t ttl_s, int64_t now_s, char **pem_out, struct tier_err *err);
/* Subject is CN alone; SAN is one URI and, where `dns` is not NULL, one DNS name: nothing else.
 * `cn` and `dns` have TIER_NAME_LEN_MAX + 1 bytes. */
bool cert_read_names(X509 *x509, char *cn, char *uri, size_t uri_size, char *dns);

#endif
