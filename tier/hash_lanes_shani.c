/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 on Intel's SHA extensions, four independent leaves in step; libcrypto has one lane. */
#include "tier/hash_lanes.h"
#include "tier/limits.h"

#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define TARGET __attribute__((target("sha,sse4.1,ssse3")))
#define LANES 4

/* The working variables as the instructions want them: a, b, e, f and c, d, g, h. */
struct lane {
    __m128i abef, cdgh;
};

TARGET static inline void step(struct lane lane[LANES], const uint8_t *const block[LANES]) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i w[LANES][4];
    struct lane before[LANES];

    memcpy(before, lane, sizeof before);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        __m128i k = _mm_load_si128((const __m128i *)(const void *)(tier_sha256_k + 4 * i));
#pragma GCC unroll 4
        for (int l = 0; l < LANES; l++) {
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
    for (int l = 0; l < LANES; l++) {
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

TARGET static void leaves(const uint8_t *leaf, size_t count, struct tier_hash *out) {
    const __m128i abef = _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c);
    const __m128i cdgh = _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19);
    uint8_t first[LANES][TIER_SHA256_BLOCK], last[LANES][TIER_SHA256_BLOCK];
    const uint8_t *block[LANES], *from[LANES];
    struct lane lane[LANES];

    for (size_t l = 0; l < LANES; l++) { /* an idle lane does the first leaf again */
        from[l] = leaf + (l < count ? l : 0) * TIER_LEAF_BYTES;
        lane[l] = (struct lane){abef, cdgh};
        tier_leaf_first_block(from[l], first[l]);
        tier_leaf_last_block(from[l], last[l]);
        block[l] = first[l];
    }
    step(lane, block);
    for (size_t l = 0; l < LANES; l++)
        block[l] = from[l] + TIER_SHA256_BLOCK - 1;
    for (size_t i = 1; i < TIER_LEAF_BLOCKS; i++) {
        step(lane, block);
        for (size_t l = 0; l < LANES; l++)
            block[l] += TIER_SHA256_BLOCK;
    }
    for (size_t l = 0; l < LANES; l++)
        block[l] = last[l];
    step(lane, block);
    for (size_t l = 0; l < count; l++)
        digest(&lane[l], &out[l]);
}

/* Not every compiler's __builtin_cpu_supports knows "sha". */
static bool here(void) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    bool sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
    return sha && __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3");
}

const struct tier_hash_lanes tier_hash_lanes_shani = {"sha-ni", LANES, here, leaves};

#endif
