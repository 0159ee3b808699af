/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hashes blocks on a thread of its own while their owner computes and writes the next ones: a
 * model's SHA-256 is one long chain, which takes as long as all else that a publication does.
 *
 * Threads: one owner. Ownership: hashers and blocks are borrowed; the hashers until _end.
 */
#ifndef CONSILIUM_TIER_HASH_ASIDE_H
#define CONSILIUM_TIER_HASH_ASIDE_H

#include "tier/hash.h"

struct tier_hash_aside;
struct tier_hash_aside_block {
    struct tier_hasher *hasher;
    const void *data;
    size_t bytes;
};
#define TIER_HASH_ASIDE_BLOCKS 2 /* at a time, of two hashers */

/* NULL where there is no memory. Without a thread to be had _give does the work. */
struct tier_hash_aside *tier_hash_aside_begin(void);
/* Waits until what was given before is hashed; then these blocks, in order, which must stay as they
 * are until the next _give or _end. */
void tier_hash_aside_give(struct tier_hash_aside *a,
                          const struct tier_hash_aside_block blocks[TIER_HASH_ASIDE_BLOCKS]);
/* Waits until all is hashed, and frees. NULL is fine. */
void tier_hash_aside_end(struct tier_hash_aside *a);

#endif
