/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 (FIPS 180-4, through libcrypto) and the Merkle tree over an update's payload.
 *
 * The tree: leaves are SHA-256(0x00 || 64 KiB of payload), the last leaf possibly shorter; a node
 * is SHA-256(0x01 || left || right); an odd node at the end of a level moves up unchanged (RFC 6962
 * hashes the same tree). The root of an empty payload is SHA-256 of the empty string.
 *
 * Threads: no shared state; an object belongs to one thread at a time.
 */
#ifndef CONSILIUM_TIER_HASH_H
#define CONSILIUM_TIER_HASH_H

#include "tier/err.h"

#include <stdint.h>

#define TIER_HASH_BYTES 32
#define TIER_HASH_HEX 65 /* with the terminator */

struct tier_hash {
    uint8_t b[TIER_HASH_BYTES];
};

void tier_hash_data(const void *data, size_t bytes, struct tier_hash *out);
bool tier_hash_equal(const struct tier_hash *a, const struct tier_hash *b);
bool tier_hash_is_zero(const struct tier_hash *h);
/* Lower-case hex; the buffer holds TIER_HASH_HEX bytes. Returns it. */
const char *tier_hash_hex(const struct tier_hash *h, char *hex);
/* Exactly 64 hex digits, or false and *out untouched. */
bool tier_hash_parse(const char *hex, struct tier_hash *out);

/* Incremental SHA-256. */
struct tier_hasher;
struct tier_hasher *tier_hasher_new(void);
void tier_hasher_free(struct tier_hasher *h);
void tier_hasher_add(struct tier_hasher *h, const void *data, size_t bytes);
/* Gives the digest and starts again empty. */
void tier_hasher_finish(struct tier_hasher *h, struct tier_hash *out);

/*
 * Incremental Merkle root: bytes go in in order, in pieces of any size. Holds one hash per level of
 * the tree (at most 64), so its memory does not depend on the payload.
 */
struct tier_merkle;
struct tier_merkle *tier_merkle_new(void);
void tier_merkle_free(struct tier_merkle *m);
void tier_merkle_add(struct tier_merkle *m, const void *data, size_t bytes);
/* Gives the root of what was added and starts again empty. */
void tier_merkle_finish(struct tier_merkle *m, struct tier_hash *out);

#endif
