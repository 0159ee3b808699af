/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The authority: who may be a node. Its directory holds ca.key (mode 0600), ca.pem and
 * authority.db. An operator makes a one-time token for a name and a role; the new node redeems it
 * with a request for its own key and gets a certificate. A token is consilium1.SECRET.FINGERPRINT:
 * the secret (160 random bits in base32) is kept here as a hash only, and the fingerprint of ca.pem
 * lets the new node check whom it talks to before it trusts anybody.
 *
 * Threads and processes: an object belongs to one thread, but any number of processes may work on
 * one directory: every call reads the database afresh, so adding a node restarts nobody, and a
 * token is redeemed in one transaction, so two that race for it cannot both win.
 *
 * Time is an argument (seconds since 1970, UTC), never read here.
 */
#ifndef CONSILIUM_TIER_AUTHORITY_H
#define CONSILIUM_TIER_AUTHORITY_H

#include "tier/identity.h"

/* "consilium1." + 32 of base32 + "." + 64 of hex, with the terminator. */
#define TIER_TOKEN_SIZE (11 + 32 + 1 + 64 + 1)
#define TIER_TOKEN_SECRET_BYTES 20
#define TIER_TOKEN_TTL_MAX_S (90 * 86400)
#define TIER_NODE_CERT_DAYS 365            /* unless told otherwise: tier_authority_set_cert_ttl */
#define TIER_REVOCATIONS_TTL_S (24 * 3600) /* a list is made anew at half of it at the latest */

/* ---- tokens (needs no directory) ------------------------------------------------------------- */

struct tier_token {
    uint8_t secret[TIER_TOKEN_SECRET_BYTES];
    struct tier_hash ca_fingerprint;
};
/* `secret` has TIER_TOKEN_SECRET_BYTES; writes TIER_TOKEN_SIZE bytes. */
void tier_token_format(const uint8_t *secret, const struct tier_hash *ca_fingerprint, char *text);
/* TIER_EARG: not a token. */
enum tier_status tier_token_parse(const char *text, struct tier_token *out, struct tier_err *err);
/* Whether this CA certificate is the one the token names: TIER_EIDENTITY if not. */
enum tier_status tier_token_check_ca(const char *text, const char *ca_pem, struct tier_err *err);

/* What a child asks for a pseudonym with (PseudonymRequest of proto/tier.proto). */
struct tier_pseudonym_ask {
    char *cert_pem, *csr_pem;
    struct tier_hash run;
    char parent[TIER_NAME_LEN_MAX + 1]; /* the node below which it takes part */
    uint8_t signature[80];              /* of TIER_SIGNATURE_BYTES_MAX */
    size_t signature_bytes;
};
/* What the key of the present certificate signs; `text` is the caller's to free. */
enum tier_status tier_pseudonym_text(const struct tier_pseudonym_ask *ask, char **text_out,
                                     struct tier_err *err);

/* ---- the authority's directory --------------------------------------------------------------- */

struct tier_authority;

/* Makes the directory, its key, its certificate (valid for `days`) and its empty database.
 * TIER_ECONFLICT: there is an authority already; nothing is touched. */
enum tier_status tier_authority_init(const char *dir, const char *name, int days, int64_t now_s,
                                     struct tier_err *err);
enum tier_status tier_authority_open(const char *dir, struct tier_authority **out,
                                     struct tier_err *err);
/* Encrypts its key: tier_key_file_protect. */
enum tier_status tier_authority_protect(const char *dir, const char *passphrase_file,
                                        struct tier_err *err);
void tier_authority_close(struct tier_authority *a); /* wipes the key; NULL is fine */
const char *tier_authority_name(const struct tier_authority *a);
const char *tier_authority_ca_pem(const struct tier_authority *a);

/*
 * A token for one node, good for ttl_s seconds (1 .. TIER_TOKEN_TTL_MAX_S). `text` holds
 * TIER_TOKEN_SIZE bytes. A name that holds a valid certificate is TIER_ECONFLICT unless `replace`;
 * the old certificates are then revoked when the token is redeemed, not before. An unused token of
 * the same name is made void.
 */
enum tier_status tier_authority_token_create(struct tier_authority *a, const char *name,
                                             enum tier_role role, int64_t ttl_s, bool replace,
                                             int64_t now_s, char *text, struct tier_err *err);
/*
 * Redeems a token, once. The certificate is valid for TIER_NODE_CERT_DAYS. Both texts are the
 * caller's to free. TIER_EIDENTITY: the token is unknown, void, used or expired, or the request is
 * malformed or for another name or role; such a request does not use the token up.
 */
enum tier_status tier_authority_enroll(struct tier_authority *a, const char *token,
                                       const char *csr_pem, int64_t now_s, char **cert_pem_out,
                                       char **ca_pem_out, struct tier_err *err);

/* How long certificates given from now on are good, TIER_CERT_TTL_MIN_S .. TIER_CERT_TTL_MAX_S. */
enum tier_status tier_authority_set_cert_ttl(struct tier_authority *a, int64_t ttl_s,
                                             struct tier_err *err);
enum tier_status tier_authority_cert_ttl(struct tier_authority *a, int64_t *ttl_s_out,
                                         struct tier_err *err);

/* What the key of the present certificate signs when it asks for the next; `text` is the caller's
 * to free. */
enum tier_status tier_renewal_text(const char *csr_pem, char **text_out, struct tier_err *err);
/*
 * The next certificate for the holder of the present one: `signature` is its key's over
 * tier_renewal_text, and the request is for that key: a new one takes a new token, which a person
 * gives, because under it a node may begin another history (tier/heads.h). The present one stays
 * good until it ends. Both texts are the caller's to free. TIER_EIDENTITY: it is not this
 * authority's, expired or revoked, the signature is not its key's, or the request is for another
 * name, role or key.
 * TIER_EPOLICY: it is not half through its life. TIER_ELIMIT: it was renewed TIER_RENEWALS_MAX
 * times.
 */
enum tier_status tier_authority_renew(struct tier_authority *a, const char *cert_pem,
                                      const char *csr_pem, const void *signature,
                                      size_t signature_bytes, int64_t now_s, char **cert_pem_out,
                                      char **ca_pem_out, struct tier_err *err);

/*
 * A certificate of a pseudonym (tier/pseudonym.h) for the spoke that holds `cert_pem`: `csr_pem` is
 * for a key made for it, and `signature` is the present certificate's over tier_pseudonym_text.
 * One for each spoke, run and parent; the same key may ask again and gets the same certificate, or
 * in the second half of its life the next. Both texts are the caller's to free. TIER_EIDENTITY: as
 * tier_authority_renew, or it is no spoke's; TIER_EPOLICY: this spoke has one, under another key.
 * TIER_ELIMIT: it had TIER_PSEUDONYMS_MAX in one life of a certificate.
 */
enum tier_status tier_authority_pseudonym(struct tier_authority *a,
                                          const struct tier_pseudonym_ask *ask, int64_t now_s,
                                          char **cert_pem_out, char **ca_pem_out,
                                          struct tier_err *err);
/*
 * Whose a pseudonym is, for who may know: noted, with the reason, before it is told. `child` has
 * TIER_NAME_LEN_MAX + 1 bytes. TIER_ENOTFOUND, TIER_ECORRUPT; TIER_EARG: no reason.
 */
enum tier_status tier_authority_unseal(struct tier_authority *a, const char *pseudonym,
                                       const char *reason, int64_t now_s, char *child,
                                       struct tier_err *err);

/*
 * The newest list of revoked certificates (tier/revocation.h) where its number is above `after`,
 * on the heap; else *der_out is NULL. Made anew where it is old. Revoking makes one at once, so
 * that a process that asks every second tells the tree within a second.
 */
enum tier_status tier_authority_revocations(struct tier_authority *a, uint64_t after, int64_t now_s,
                                            uint8_t **der_out, size_t *bytes_out,
                                            struct tier_err *err);

/* Revokes every valid certificate and unused token of a name; TIER_ENOTFOUND: there is none. */
enum tier_status tier_authority_revoke(struct tier_authority *a, const char *name, int64_t now_s,
                                       struct tier_err *err);
/* TIER_EIDENTITY: a certificate this authority did not issue, or revoked. Its dates are checked by
 * tier_cert_verify, not here. */
enum tier_status tier_authority_check(struct tier_authority *a, const struct tier_hash *fingerprint,
                                      struct tier_err *err);

struct tier_authority_entry {
    struct tier_identity id;
    int64_t issued_s;
    int64_t revoked_s; /* 0: not */
};
typedef enum tier_status (*tier_authority_fn)(void *arg, const struct tier_authority_entry *entry,
                                              struct tier_err *err);
/* Every certificate ever issued, oldest first. What the callback returns other than TIER_OK stops
 * it and is returned; it must not call this authority. */
enum tier_status tier_authority_list(struct tier_authority *a, tier_authority_fn fn, void *arg,
                                     struct tier_err *err);

#endif
