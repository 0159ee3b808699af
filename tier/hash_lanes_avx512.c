/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 with AVX-512, sixteen leaves in step: lane l of every vector belongs to leaf l. A block
 * of each leaf is one vector of sixteen words; transposed, vector t holds word t of all leaves, and
 * the rounds are the standard's, with rotations and three-way logic in one instruction each.
 */
#include "tier/hash_lanes.h"
#include "tier/limits.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw")))
#define LANES 16

#define XOR3(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0x96)
#define CHOOSE(e, f, g) _mm512_ternarylogic_epi32(e, f, g, 0xca)
#define MAJORITY(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xe8)
#define ADD _mm512_add_epi32
#define ROTR _mm512_ror_epi32

/* Rows become columns: r[i] holds words 0..15 of leaf i before, word i of leaves 0..15 after. */
TARGET static inline void transpose(__m512i r[16]) {
    __m512i t[16];

#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* within each 128 bits, pairs of rows, then fours */
        __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
        __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* then the 128 bits as wholes */
        __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
        __m512i b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
        __m512i d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
        r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

TARGET static void step(__m512i state[8], const uint8_t *const block[LANES]) {
    const __m512i big_endian =
        _mm512_broadcast_i32x4(_mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL));
    __m512i w[16];
    __m512i a = state[0], b = state[1], c = state[2], d = state[3];
    __m512i e = state[4], f = state[5], g = state[6], h = state[7];

#pragma GCC unroll 16
    for (int l = 0; l < LANES; l++)
        w[l] = _mm512_shuffle_epi8(_mm512_loadu_si512(block[l]), big_endian);
    transpose(w);
#pragma GCC unroll 64
    for (int t = 0; t < 64; t++) {
        __m512i *now = &w[t & 15];
        if (t >= 16) {
            __m512i w2 = w[(t - 2) & 15], w15 = w[(t - 15) & 15];
            __m512i s0 = XOR3(ROTR(w15, 7), ROTR(w15, 18), _mm512_srli_epi32(w15, 3));
            __m512i s1 = XOR3(ROTR(w2, 17), ROTR(w2, 19), _mm512_srli_epi32(w2, 10));
            *now = ADD(ADD(*now, s0), ADD(w[(t - 7) & 15], s1));
        }
        __m512i sum1 = XOR3(ROTR(e, 6), ROTR(e, 11), ROTR(e, 25));
        __m512i sum0 = XOR3(ROTR(a, 2), ROTR(a, 13), ROTR(a, 22));
        __m512i kw = ADD(*now, _mm512_set1_epi32((int)tier_sha256_k[t]));
        __m512i t1 = ADD(ADD(h, kw), ADD(sum1, CHOOSE(e, f, g)));
        __m512i t2 = ADD(sum0, MAJORITY(a, b, c));
        h = g;
        g = f;
        f = e;
        e = ADD(d, t1);
        d = c;
        c = b;
        b = a;
        a = ADD(t1, t2);
    }
    state[0] = ADD(state[0], a);
    state[1] = ADD(state[1], b);
    state[2] = ADD(state[2], c);
    state[3] = ADD(state[3], d);
    state[4] = ADD(state[4], e);
    state[5] = ADD(state[5], f);
    state[6] = ADD(state[6], g);
    state[7] = ADD(state[7], h);
}

TARGET static void leaves(const uint8_t *leaf, size_t count, struct tier_hash *out) {
    uint8_t edge[LANES][TIER_SHA256_BLOCK];
    const uint8_t *block[LANES], *from[LANES];
    __m512i state[8];
    uint32_t word[8][LANES];

    for (int i = 0; i < 8; i++)
        state[i] = _mm512_set1_epi32((int)tier_sha256_start[i]);
    for (size_t l = 0; l < LANES; l++) { /* an idle lane does the first leaf again */
        from[l] = leaf + (l < count ? l : 0) * TIER_LEAF_BYTES;
        tier_leaf_first_block(from[l], edge[l]);
        block[l] = edge[l];
    }
    step(state, block);
    for (size_t l = 0; l < LANES; l++)
        block[l] = from[l] + TIER_SHA256_BLOCK - 1;
    for (size_t i = 1; i < TIER_LEAF_BLOCKS; i++) {
        step(state, block);
        for (size_t l = 0; l < LANES; l++)
            block[l] += TIER_SHA256_BLOCK;
    }
    for (size_t l = 0; l < LANES; l++) {
        tier_leaf_last_block(from[l], edge[l]);
        block[l] = edge[l];
    }
    step(state, block);
    for (int i = 0; i < 8; i++)
        _mm512_storeu_si512(word[i], state[i]);
    for (size_t l = 0; l < count; l++)
        for (int i = 0; i < 8; i++)
            for (int k = 0; k < 4; k++)
                out[l].b[4 * i + k] = (uint8_t)(word[i][l] >> (24 - 8 * k));
}

static bool here(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

const struct tier_hash_lanes tier_hash_lanes_avx512 = {"avx-512", LANES, here, leaves};

#endif
