/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys, certificate requests, certificates and signatures, over OpenSSL's EVP interface. Keys are
 * ECDSA P-256 because TLS stacks without Ed25519 must be able to attend; signatures are
 * ECDSA-SHA256 in DER. A node's certificate says one thing only: SAN URI
 * spiffe://AUTHORITY/ROLE/NAME, with CN and SAN DNS = NAME so that a child verifies its parent by
 * name; a request says OU = ROLE and CN = NAME and nothing else, so that nothing a node asks for
 * can slip into what the authority signs.
 *
 * Threads: no shared state. A key or certificate may sign or verify on one thread at a time.
 *
 * Texts that are returned are on the heap: tier_secret_free for keys, free for the rest.
 */
#ifndef CONSILIUM_TIER_CERT_H
#define CONSILIUM_TIER_CERT_H

#include "tier/identity.h"

#define TIER_PEM_BYTES_MAX 16384
#define TIER_SIGNATURE_BYTES_MAX 80
#define TIER_CERT_BACKDATE_S 300 /* clocks of two hospitals differ */
#define TIER_CERT_DAYS_MAX 36525
#define TIER_CERT_TTL_MIN_S 10
#define TIER_CERT_TTL_MAX_S (INT64_C(86400) * TIER_CERT_DAYS_MAX)

struct tier_key;  /* a private key */
struct tier_cert; /* one X.509 certificate, parsed */

/* Wipes and frees a text; NULL is fine. */
void tier_secret_free(char *text);

/* ---- keys ----------------------------------------------------------------------------------- */

enum tier_status tier_key_generate(struct tier_key **out, struct tier_err *err);
/* Unencrypted PKCS#8 or SEC1. TIER_EIDENTITY: not a P-256 private key. */
enum tier_status tier_key_from_pem(const char *pem, struct tier_key **out, struct tier_err *err);
enum tier_status tier_key_to_pem(const struct tier_key *key, char **pem_out, struct tier_err *err);
/* PKCS#8 under a passphrase: AES-256-CBC, scrypt with N = 2^14, r = 8, p = 1 (16 MiB). */
enum tier_status tier_key_to_sealed(const struct tier_key *key, const char *passphrase,
                                    char **pem_out, struct tier_err *err);
/* TIER_EIDENTITY: another passphrase, or not such a text. */
enum tier_status tier_key_from_sealed(const char *pem, const char *passphrase,
                                      struct tier_key **out, struct tier_err *err);
/* OpenSSL wipes the key. NULL is fine. */
void tier_key_free(struct tier_key *key);

/*
 * A secret that whoever holds the private key can make again, and nobody else: HMAC-SHA-256 of the
 * label under it. `out` has TIER_KEY_SECRET_BYTES.
 */
#define TIER_KEY_SECRET_BYTES 32
enum tier_status tier_key_secret(const struct tier_key *key, const char *label, uint8_t *out,
                                 struct tier_err *err);

/* DER; `sig` holds TIER_SIGNATURE_BYTES_MAX. */
enum tier_status tier_key_sign(const struct tier_key *key, const void *data, size_t bytes,
                               uint8_t *sig, size_t *sig_bytes_out, struct tier_err *err);

/* ---- certificate requests ------------------------------------------------------------------- */

/* What a request may say. */
struct tier_csr {
    char name[TIER_NAME_LEN_MAX + 1];
    enum tier_role role;
};

enum tier_status tier_csr_new(const struct tier_key *key, const char *name, enum tier_role role,
                              char **pem_out, struct tier_err *err);
/*
 * Checks the request's own signature, that its key is P-256 and that it holds OU and CN and no
 * other name, extension or attribute. TIER_EIDENTITY otherwise, and nothing is read from it.
 */
enum tier_status tier_csr_parse(const char *pem, struct tier_csr *out, struct tier_err *err);

/* ---- certificates --------------------------------------------------------------------------- */

/* The authority's own, self-signed: CN and SAN URI spiffe://AUTHORITY, CA, signs certificates and
 * lists. 1 <= days <= TIER_CERT_DAYS_MAX. */
enum tier_status tier_cert_new_ca(const struct tier_key *key, const char *authority, int days,
                                  int64_t now_s, char **pem_out, struct tier_err *err);
/*
 * Signs the request after tier_csr_parse: random 128-bit serial, good for ttl_s seconds (at least
 * TIER_CERT_TTL_MIN_S), backdated by TIER_CERT_BACKDATE_S, never past the CA's own end. The
 * authority's name is taken from `ca`; extended key usage is server and client.
 */
enum tier_status tier_cert_issue(const struct tier_key *ca_key, const struct tier_cert *ca,
                                 const char *csr_pem, int64_t ttl_s, int64_t now_s, char **pem_out,
                                 struct tier_err *err);

/* Exactly one certificate; what it says is not yet believed. */
enum tier_status tier_cert_from_pem(const char *pem, struct tier_cert **out, struct tier_err *err);
void tier_cert_free(struct tier_cert *cert); /* NULL is fine */

/* A node's certificate. TIER_EIDENTITY: its names are not those of this house, or disagree. */
enum tier_status tier_cert_identity(const struct tier_cert *cert, struct tier_identity *out,
                                    struct tier_err *err);
/* The authority's name in a CA certificate; `name` holds TIER_NAME_LEN_MAX + 1. */
enum tier_status tier_cert_authority(const struct tier_cert *ca, char *name, struct tier_err *err);
/* SHA-256 of the DER. */
void tier_cert_fingerprint(const struct tier_cert *cert, struct tier_hash *out);
/* Whether the certificate is for this key. */
bool tier_cert_matches(const struct tier_cert *cert, const struct tier_key *key);

/*
 * Whether `ca` issued `cert` and both are valid at now_s, and what it says. TIER_EIDENTITY: expired
 * or not yet valid (with the dates), by another authority, or not usable by a node.
 */
enum tier_status tier_cert_verify(const struct tier_cert *cert, const struct tier_cert *ca,
                                  int64_t now_s, struct tier_identity *out, struct tier_err *err);
/* ECDSA-SHA256 in DER over the bytes by the certificate's key; TIER_EIDENTITY otherwise. */
enum tier_status tier_cert_check_signature(const struct tier_cert *cert, const void *data,
                                           size_t bytes, const void *sig, size_t sig_bytes,
                                           struct tier_err *err);

/* The public point of a P-256 key, x and y, big endian; false where the key is none. */
#define TIER_COORDINATE_BYTES 32
bool tier_cert_point(const struct tier_cert *cert, uint8_t point[2 * TIER_COORDINATE_BYTES]);

#endif
