/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names as points of a group that several parties blind one after another, each with a secret of
 * its own: in whatever order they do, the same name ends as the same point, and who lacks one of
 * the secrets cannot tell which name a point is of (decisional Diffie-Hellman, the hash as a random
 * oracle; the commutative encryption of Agrawal, Evfimievski and Srikant 2003, as Meadows 1986).
 *
 * The group is NIST P-256 of libcrypto: its order is prime, so no point but infinity lies in a
 * small subgroup. Names are hashed to it by RFC 9380's suite P256_XMD:SHA-256_SSWU_RO_ (8.2). A
 * point is its 33 bytes in compressed form (SEC 1, 2.3.3), which infinity has not.
 *
 * The time of hashing depends on the name: it is for files, not for who can measure it. That of
 * blinding does not depend on the secret.
 *
 * Threads: an object belongs to one thread at a time.
 */
#ifndef CONSILIUM_TIER_PSI_H
#define CONSILIUM_TIER_PSI_H

#include "tier/err.h"
#include "tier/hash.h"

#include <stddef.h>
#include <stdint.h>

#define TIER_PSI_POINT_BYTES 33
#define TIER_PSI_SECRET_BYTES 32
#define TIER_PSI_DOMAIN_BYTES_MAX 255

struct tier_psi_point {
    uint8_t b[TIER_PSI_POINT_BYTES];
};
struct tier_psi_secret { /* big-endian, from 1 to the group's order - 1; wipe it */
    uint8_t b[TIER_PSI_SECRET_BYTES];
};

struct tier_psi;

enum tier_status tier_psi_new(struct tier_psi **out, struct tier_err *err);
void tier_psi_free(struct tier_psi *b); /* NULL is fine */

enum tier_status tier_psi_draw(struct tier_psi *b, struct tier_psi_secret *out,
                               struct tier_err *err);
/* Whether it is one: not 0, and below the order. */
bool tier_psi_secret_fits(const struct tier_psi *b, const struct tier_psi_secret *secret);
/* What may be shown of a secret: it tells secrets apart, and nothing of them. */
void tier_psi_secret_id(const struct tier_psi_secret *secret, struct tier_hash *out);

/* The point of a name under a domain of 1 to TIER_PSI_DOMAIN_BYTES_MAX bytes. */
enum tier_status tier_psi_hash(struct tier_psi *b, const char *domain, const void *name,
                               size_t bytes, struct tier_psi_point *out, struct tier_err *err);
/* Whether these bytes are a point of the curve. */
bool tier_psi_is_point(struct tier_psi *b, const struct tier_psi_point *point);
/* *point times the secret, in place. TIER_EDATA: it is none. */
enum tier_status tier_psi_apply(struct tier_psi *b, const struct tier_psi_secret *secret,
                                struct tier_psi_point *point, struct tier_err *err);

#endif
