/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several leaves of a Merkle tree at once (tier/hash.h). One SHA-256 waits for itself: its rounds
 * depend on each other. Leaves are independent, so several of them in step keep the processor busy:
 * four interleaved on its SHA unit, or sixteen in the lanes of its vectors. Which is faster differs
 * between makers by a factor of three, so it is measured, once a process. Internal to tier/hash.c.
 *
 * Threads: any; tables are constant.
 */
#ifndef CONSILIUM_TIER_HASH_LANES_H
#define CONSILIUM_TIER_HASH_LANES_H

#include "tier/hash.h"

#define TIER_HASH_LANES_MAX 16

struct tier_hash_lanes {
    const char *name;
    size_t lanes; /* at most TIER_HASH_LANES_MAX */
    /* Whether this processor can. */
    bool (*here)(void);
    /* out[i] = SHA-256(0x00 || leaf i), of `count` (1..lanes) whole leaves that lie behind one
     * another. Takes as long for one as for all. */
    void (*leaves)(const uint8_t *leaves, size_t count, struct tier_hash *out);
};

/* The fastest here, or NULL where libcrypto alone is. */
const struct tier_hash_lanes *tier_hash_lanes(void);
/* All that this build knows, whether the processor can or not; NULL at the end. */
extern const struct tier_hash_lanes *const tier_hash_lanes_all[];

/* ---- between the implementations ---- */

extern const struct tier_hash_lanes tier_hash_lanes_shani, tier_hash_lanes_avx512;
extern const uint32_t tier_sha256_k[64], tier_sha256_start[8]; /* 64-byte aligned */

#define TIER_SHA256_BLOCK 64u
/* Whole blocks of a leaf; with the byte in front of it and the padding there is one more. */
#define TIER_LEAF_BLOCKS (TIER_LEAF_BYTES / TIER_SHA256_BLOCK)

/*
 * The byte 0x00 in front of a leaf moves its blocks off alignment: block i of the message holds the
 * leaf's bytes from 64 i - 1 on, and only the first and the last block are put together by hand.
 */
void tier_leaf_first_block(const uint8_t *leaf, uint8_t block[TIER_SHA256_BLOCK]);
void tier_leaf_last_block(const uint8_t *leaf, uint8_t block[TIER_SHA256_BLOCK]);

#endif
