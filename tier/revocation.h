/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The authority's list of revoked certificates: an X.509 CRL (RFC 5280) in DER, signed with the
 * authority's key, with a number that only grows. It travels down the tree as it was signed, so no
 * hub on the way need be trusted with it, and `openssl crl` reads it too. A list says until when a
 * newer one is due; who has none by then knows that it was cut off from the authority's word.
 *
 * Threads: no shared state; a list belongs to one thread.
 */
#ifndef CONSILIUM_TIER_REVOCATION_H
#define CONSILIUM_TIER_REVOCATION_H

#include "tier/identity.h"
#include "tier/limits.h"

struct tier_key; /* tier/cert.h */
struct tier_cert;
struct tier_revocations;

struct tier_revoked {
    char serial[TIER_SERIAL_SIZE]; /* as in struct tier_identity */
    int64_t revoked_s;
};

/*
 * Signs a list. number >= 1, now_s < next_s, count at most TIER_REVOKED_MAX (TIER_ELIMIT). The DER
 * is on the heap, at most TIER_REVOCATIONS_BYTES_MAX.
 */
enum tier_status tier_revocations_make(const struct tier_key *ca_key, const struct tier_cert *ca,
                                       uint64_t number, int64_t now_s, int64_t next_s,
                                       const struct tier_revoked *revoked, size_t count,
                                       uint8_t **der_out, size_t *bytes_out, struct tier_err *err);
/*
 * Reads a list and checks that this authority signed it; keeps a copy of the bytes. TIER_EIDENTITY:
 * signed by another; TIER_EPROTO: not such a list. Its dates are the caller's to look at.
 */
enum tier_status tier_revocations_read(const uint8_t *der, size_t bytes, const struct tier_cert *ca,
                                       struct tier_revocations **out, struct tier_err *err);
void tier_revocations_free(struct tier_revocations *list); /* NULL is fine */

uint64_t tier_revocations_number(const struct tier_revocations *list);
int64_t tier_revocations_made_s(const struct tier_revocations *list);
int64_t tier_revocations_next_s(const struct tier_revocations *list); /* a newer one is due */
size_t tier_revocations_count(const struct tier_revocations *list);
const uint8_t *tier_revocations_bytes(const struct tier_revocations *list, size_t *bytes_out);
/* Whether the certificate of that serial (hex) is on it; a NULL list holds none. */
bool tier_revocations_has(const struct tier_revocations *list, const char *serial);

#endif
