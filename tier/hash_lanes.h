/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several leaves of a Merkle tree at once (tier/hash.h). One SHA-256 waits for itself: its rounds
 * depend on each other, and the processor's SHA unit idles between them. Leaves are independent, so
 * four of them interleaved keep it busy. Internal to tier/hash.c.
 *
 * Threads: any; no state.
 */
#ifndef CONSILIUM_TIER_HASH_LANES_H
#define CONSILIUM_TIER_HASH_LANES_H

#include "tier/hash.h"

#define TIER_HASH_LANES 4

/* Whether this processor has what tier_hash_leaves needs. */
bool tier_hash_lanes_here(void);
/* out[i] = SHA-256(0x00 || leaf i), of TIER_HASH_LANES whole leaves that lie behind one another. */
void tier_hash_leaves(const uint8_t *leaves, struct tier_hash out[TIER_HASH_LANES]);

#endif
