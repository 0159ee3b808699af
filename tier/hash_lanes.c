/* SPDX-License-Identifier: Apache-2.0 */
/* What the lanes share: SHA-256's constants (FIPS 180-4), a leaf's odd blocks, and the choice. */
#include "tier/hash_lanes.h"
#include "tier/limits.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const uint32_t tier_sha256_k[64] __attribute__((aligned(64))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

const uint32_t tier_sha256_start[8] __attribute__((aligned(64))) = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void tier_leaf_first_block(const uint8_t *leaf, uint8_t block[TIER_SHA256_BLOCK]) {
    block[0] = 0x00;
    memcpy(block + 1, leaf, TIER_SHA256_BLOCK - 1);
}

void tier_leaf_last_block(const uint8_t *leaf, uint8_t block[TIER_SHA256_BLOCK]) {
    const uint64_t bits = (TIER_LEAF_BYTES + UINT64_C(1)) * 8;

    memset(block, 0, TIER_SHA256_BLOCK);
    block[0] = leaf[TIER_LEAF_BYTES - 1];
    block[1] = 0x80;
    for (int k = 0; k < 8; k++)
        block[TIER_SHA256_BLOCK - 1 - k] = (uint8_t)(bits >> (8 * k));
}

const struct tier_hash_lanes *const tier_hash_lanes_all[] = {
#if defined(__x86_64__)
    &tier_hash_lanes_shani,
    &tier_hash_lanes_avx512,
#endif
    NULL,
};

/* ---- the choice ---- */

#define TRIES 3

static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;
static const struct tier_hash_lanes *chosen;

/* Nanoseconds of this thread's time that a leaf takes, the best of a few tries. */
static double leaf_ns(const struct tier_hash_lanes *lanes, const uint8_t *leaves) {
    struct tier_hash out[TIER_HASH_LANES_MAX];
    double best = 0;

    for (int i = 0; i < TRIES; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        lanes->leaves(leaves, lanes->lanes, out);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
        if (i == 0 || ns < best)
            best = ns;
    }
    return best / (double)lanes->lanes;
}

static void choose(void) {
    uint8_t *leaves = calloc(TIER_HASH_LANES_MAX, TIER_LEAF_BYTES);
    double best = 0;

    for (size_t i = 0; leaves && tier_hash_lanes_all[i]; i++) {
        if (!tier_hash_lanes_all[i]->here())
            continue;
        double ns = leaf_ns(tier_hash_lanes_all[i], leaves);
        if (!chosen || ns < best) {
            chosen = tier_hash_lanes_all[i];
            best = ns;
        }
    }
    free(leaves);
}

const struct tier_hash_lanes *tier_hash_lanes(void) {
    pthread_once(&chosen_once, choose);
    return chosen;
}
