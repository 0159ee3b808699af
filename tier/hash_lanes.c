/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 (FIPS 180-4) on Intel's SHA extensions, four independent messages in step. libcrypto has
 * one lane only. Every message is a leaf of one fixed length, so there is one padding for all.
 *
 * The byte 0x00 in front of a leaf moves its blocks off alignment: block i of the message holds the
 * leaf's bytes from 64 i - 1 on, and only the first and the last block are put together by hand.
 */
#include "tier/hash_lanes.h"
#include "tier/limits.h"

#include <assert.h>
#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define TARGET __attribute__((target("sha,sse4.1,ssse3")))
#define BLOCK 64
#define BLOCKS (TIER_LEAF_BYTES / BLOCK) /* whole ones; one more holds the padding */

static const uint32_t round_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* The working variables as the instructions want them: a, b, e, f and c, d, g, h. */
struct lane {
    __m128i abef, cdgh;
};

TARGET static inline void step(struct lane lane[TIER_HASH_LANES],
                               const uint8_t *const block[TIER_HASH_LANES]) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i w[TIER_HASH_LANES][4];
    struct lane before[TIER_HASH_LANES];

    memcpy(before, lane, sizeof before);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        __m128i k = _mm_load_si128((const __m128i *)(const void *)(round_constants + 4 * i));
#pragma GCC unroll 4
        for (int l = 0; l < TIER_HASH_LANES; l++) {
            __m128i *now = &w[l][i & 3];
            if (i < 4) {
                *now = _mm_shuffle_epi8(
                    _mm_loadu_si128((const __m128i *)(const void *)(block[l] + 16 * i)),
                    big_endian);
            } else {
                __m128i last = w[l][(i - 1) & 3];
                __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(*now, w[l][(i - 3) & 3]),
                                            _mm_alignr_epi8(last, w[l][(i - 2) & 3], 4));
                *now = _mm_sha256msg2_epu32(sum, last);
            }
            __m128i wk = _mm_add_epi32(*now, k);
            lane[l].cdgh = _mm_sha256rnds2_epu32(lane[l].cdgh, lane[l].abef, wk);
            lane[l].abef =
                _mm_sha256rnds2_epu32(lane[l].abef, lane[l].cdgh, _mm_shuffle_epi32(wk, 0x0e));
        }
    }
    for (int l = 0; l < TIER_HASH_LANES; l++) {
        lane[l].abef = _mm_add_epi32(lane[l].abef, before[l].abef);
        lane[l].cdgh = _mm_add_epi32(lane[l].cdgh, before[l].cdgh);
    }
}

TARGET static void digest(const struct lane *lane, struct tier_hash *out) {
    uint32_t abef[4], cdgh[4];
    _mm_storeu_si128((__m128i *)(void *)abef, lane->abef);
    _mm_storeu_si128((__m128i *)(void *)cdgh, lane->cdgh);
    const uint32_t word[8] = {abef[3], abef[2], cdgh[3], cdgh[2],
                              abef[1], abef[0], cdgh[1], cdgh[0]};
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 4; k++)
            out->b[4 * i + k] = (uint8_t)(word[i] >> (24 - 8 * k));
}

TARGET void tier_hash_leaves(const uint8_t *leaves, struct tier_hash out[TIER_HASH_LANES]) {
    const __m128i abef = _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c);
    const __m128i cdgh = _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19);
    const uint64_t bits = (TIER_LEAF_BYTES + 1) * 8;
    uint8_t first[TIER_HASH_LANES][BLOCK], last[TIER_HASH_LANES][BLOCK];
    const uint8_t *block[TIER_HASH_LANES];
    struct lane lane[TIER_HASH_LANES];

    memset(last, 0, sizeof last);
    for (int l = 0; l < TIER_HASH_LANES; l++) {
        const uint8_t *leaf = leaves + (size_t)l * TIER_LEAF_BYTES;
        lane[l] = (struct lane){abef, cdgh};
        first[l][0] = 0x00;
        memcpy(first[l] + 1, leaf, BLOCK - 1);
        last[l][0] = leaf[TIER_LEAF_BYTES - 1];
        last[l][1] = 0x80;
        for (int k = 0; k < 8; k++)
            last[l][BLOCK - 1 - k] = (uint8_t)(bits >> (8 * k));
        block[l] = first[l];
    }
    step(lane, block);
    for (int l = 0; l < TIER_HASH_LANES; l++)
        block[l] = leaves + (size_t)l * TIER_LEAF_BYTES + BLOCK - 1;
    for (size_t i = 1; i < BLOCKS; i++) {
        step(lane, block);
        for (int l = 0; l < TIER_HASH_LANES; l++)
            block[l] += BLOCK;
    }
    for (int l = 0; l < TIER_HASH_LANES; l++)
        block[l] = last[l];
    step(lane, block);
    for (int l = 0; l < TIER_HASH_LANES; l++)
        digest(&lane[l], &out[l]);
}

/* Not every compiler's __builtin_cpu_supports knows "sha". */
bool tier_hash_lanes_here(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    bool sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
    return sha && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3");
}

#else

bool tier_hash_lanes_here(void) {
    return false;
}

void tier_hash_leaves(const uint8_t *leaves, struct tier_hash out[TIER_HASH_LANES]) {
    (void)leaves;
    (void)out;
    assert(!"called without tier_hash_lanes_here");
}

#endif
