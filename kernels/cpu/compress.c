/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shorter forms of float32. A decoder must give the same bits on every machine, because what it
 * gives is then summed exactly; an encoder must too, so that the same update is sealed as the same
 * file. So the half precisions are made with integers, and stochastic rounding draws from a
 * counter-based generator (Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
 * as easy as 1, 2, 3", SC 2011), whose numbers depend on the key and the element's place alone.
 *
 * In a block the four words of one counter go to elements 64 apart, not to neighbours: so each word
 * of 64 counters is a row of elements, and lanes never change places.
 */
#include "kernels/cpu/compress.h"
#include "kernels/half.h"

#include <float.h>
#include <math.h>
#include <string.h>

_Static_assert(FLT_EVAL_METHOD == 0, "a float is computed as a float, not wider");

#define BODY static inline __attribute__((always_inline))
#define BLOCK KERN_QUANT_BLOCK
#define COUNTERS (BLOCK / 4)
#define SIGN 0x80000000u

/* ---- half precisions --------------------------------------------------------------------------
 */

BODY void f16_encode_body(uint16_t *restrict y, const float *restrict x, size_t n, float factor) {
    for (size_t i = 0; i < n; i++)
        y[i] = kern_f16_of(x[i] * factor);
}

BODY void f16_decode_body(float *restrict y, const uint16_t *restrict x, size_t n, float factor) {
    for (size_t i = 0; i < n; i++)
        y[i] = kern_f16_value(x[i]) * factor;
}

BODY void bf16_encode_body(uint16_t *restrict y, const float *restrict x, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = kern_bf16_of(x[i]);
}

BODY void bf16_decode_body(float *restrict y, const uint16_t *restrict x, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = kern_bf16_value(x[i]);
}

/* ---- blocks of small integers -----------------------------------------------------------------
 */

/* One round of Philox4x32 on a counter's four words. */
#define PHILOX_ROUND(c0, c1, c2, c3, k0, k1)                                                       \
    do {                                                                                           \
        uint64_t p0_ = UINT64_C(0xD2511F53) * (c0), p1_ = UINT64_C(0xCD9E8D57) * (c2);             \
        uint32_t n0_ = (uint32_t)(p1_ >> 32) ^ (c1) ^ (k0);                                        \
        uint32_t n2_ = (uint32_t)(p0_ >> 32) ^ (c3) ^ (k1);                                        \
        (c0) = n0_, (c1) = (uint32_t)p1_, (c2) = n2_, (c3) = (uint32_t)p0_;                        \
    } while (0)
#define PHILOX_ROUNDS 10

/* The words of counters 64 * block ... 64 * block + 63: word w of counter c in r[64 * w + c]. */
BODY void draw(uint32_t r[BLOCK], uint64_t key, uint64_t block) {
    uint32_t *restrict c0 = r, *restrict c1 = r + COUNTERS;
    uint32_t *restrict c2 = r + 2 * COUNTERS, *restrict c3 = r + 3 * COUNTERS;
    uint32_t low = (uint32_t)(block * COUNTERS), high = (uint32_t)(block * COUNTERS >> 32);

    for (uint32_t i = 0; i < COUNTERS; i++) {
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        uint32_t a = low + i, b = high, c = 0, d = 0; /* low is a multiple of 64: no carry */
        for (int round = 0; round < PHILOX_ROUNDS; round++) {
            PHILOX_ROUND(a, b, c, d, k0, k1);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        c0[i] = a, c1[i] = b, c2[i] = c, c3[i] = d;
    }
}

/* The largest scale with levels * scale <= |x|'s largest, so that no value decodes beyond it; 0
 * where that would not be a normal number. */
BODY float scale_of(const float *x, int levels) {
    uint32_t largest = 0;

    for (size_t i = 0; i < BLOCK; i++) {
        uint32_t a = kern_half_bits(x[i]) & ~SIGN;
        largest = a > largest ? a : largest;
    }
    float most = kern_half_float(largest), l = (float)levels, scale = most / l;
    while (scale >= FLT_MIN && l * scale > most)
        scale = kern_half_float(kern_half_bits(scale) - 1);
    return scale >= FLT_MIN ? scale : 0;
}

/* q = floor(x / scale), and one more with the probability of what is left. */
BODY void round_block(int32_t *restrict q, const float *restrict x, float scale, int levels,
                      const uint32_t *restrict r) {
    for (size_t i = 0; i < BLOCK; i++) {
        float t = x[i] / scale, u = (float)(int32_t)(r[i] >> 8) * 0x1p-24f;
        int32_t v = (int32_t)t; /* toward 0 */
        v -= t < (float)v ? 1 : 0;
        v += u < t - (float)v ? 1 : 0;
        v = v > levels ? levels : v;
        q[i] = v < -levels ? -levels : v;
    }
}

BODY void put_scale(uint8_t *y, float scale) {
    uint32_t u = kern_half_bits(scale);
    for (int i = 0; i < 4; i++)
        y[i] = (uint8_t)(u >> 8 * i);
}

BODY void quant_body(uint8_t *restrict y, const float *x, size_t n, int bits, uint64_t key,
                     uint64_t block) {
    int levels = (1 << (bits - 1)) - 1;
    float whole[BLOCK] = {0};
    int32_t q[BLOCK] = {0};
    uint32_t r[BLOCK];

    memcpy(whole, x, n * sizeof *x);
    float scale = scale_of(whole, levels);
    if (scale > 0) {
        draw(r, key, block);
        round_block(q, whole, scale, levels, r);
    }
    put_scale(y, scale);
    for (size_t i = n; i < BLOCK; i++)
        q[i] = 0;
    if (bits == 8)
        for (size_t i = 0; i < n; i++)
            y[4 + i] = (uint8_t)q[i];
    else
        for (size_t i = 0; i < (n + 1) / 2; i++)
            y[4 + i] = (uint8_t)((q[2 * i] & 15) | (q[2 * i + 1] & 15) << 4);
}

BODY float get_scale(const uint8_t *x) {
    return kern_half_float((uint32_t)x[0] | (uint32_t)x[1] << 8 | (uint32_t)x[2] << 16 |
                           (uint32_t)x[3] << 24);
}

BODY bool dequant_body(float *restrict y, const uint8_t *restrict x, size_t n, int bits) {
    float scale = get_scale(x);
    bool zero = kern_half_bits(scale) == 0;
    unsigned lowest = 0, any = 0;

    if (!zero && !(scale >= FLT_MIN && scale <= FLT_MAX))
        return false;
    if (bits == 8)
        for (size_t i = 0; i < n; i++) {
            int32_t q = (x[4 + i] ^ 128) - 128; /* the sign of its 8 bits */
            lowest |= q == -128;
            any |= (unsigned)q;
            y[i] = (float)q * scale;
        }
    else {
        size_t pairs = n / 2;
        for (size_t i = 0; i < pairs; i++) {
            int32_t a = (x[4 + i] & 15) ^ 8, b = (x[4 + i] >> 4) ^ 8;
            lowest |= a == 0;
            lowest |= b == 0;
            any |= (unsigned)x[4 + i];
            y[2 * i] = (float)(a - 8) * scale;
            y[2 * i + 1] = (float)(b - 8) * scale;
        }
        if (n % 2 != 0) {
            int32_t a = (x[4 + pairs] & 15) ^ 8;
            lowest |= a == 0;
            lowest |= x[4 + pairs] > 15; /* nothing may hide behind the last element */
            any |= (unsigned)x[4 + pairs];
            y[n - 1] = (float)(a - 8) * scale;
        }
    }
    return !lowest && !(zero && any);
}

/* ---- one bit an element -----------------------------------------------------------------------
 */

/*
 * Rotated by random signs and a Hadamard matrix, a block's elements are of one size, so that one
 * scale stands for all. The scale has 16 significant bits: what the signs add up to is an integer
 * of at most 9, so every decoded element is exact, and no order of addition matters.
 */
#define SCALE_LOW_BITS 0xffu
#define ONEBIT_LEAST 0x1p-100f
#define SIDE 16u
_Static_assert(SIDE *SIDE == BLOCK, "a block is a square");

/* One step of the Hadamard transform: pairs that are h apart. */
#define HADAMARD_STEP(v, h)                                                                        \
    do {                                                                                           \
        for (size_t i_ = 0; i_ < BLOCK; i_ += 2 * (h))                                             \
            for (size_t j_ = i_; j_ < i_ + (h); j_++) {                                            \
                __typeof__((v)[0]) a_ = (v)[j_], b_ = (v)[j_ + (h)];                               \
                (v)[j_] = (__typeof__((v)[0]))(a_ + b_);                                           \
                (v)[j_ + (h)] = (__typeof__((v)[0]))(a_ - b_);                                     \
            }                                                                                      \
    } while (0)
#define TRANSPOSE(to, from)                                                                        \
    do {                                                                                           \
        for (size_t r_ = 0; r_ < SIDE; r_++)                                                       \
            for (size_t c_ = 0; c_ < SIDE; c_++)                                                   \
                (to)[SIDE * c_ + r_] = (from)[SIDE * r_ + c_];                                     \
    } while (0)
#define HADAMARD_ROWS(v)                                                                           \
    do {                                                                                           \
        HADAMARD_STEP(v, 16);                                                                      \
        HADAMARD_STEP(v, 32);                                                                      \
        HADAMARD_STEP(v, 64);                                                                      \
        HADAMARD_STEP(v, 128);                                                                     \
    } while (0)
/* The transform of v, with pairs 1, 2, 4, ..., 128 apart; those within a row of 16 are added as
 * columns, so that whole vectors meet. `t` is as large as v. */
#define HADAMARD(v, t)                                                                             \
    do {                                                                                           \
        TRANSPOSE(t, v);                                                                           \
        HADAMARD_ROWS(t);                                                                          \
        TRANSPOSE(v, t);                                                                           \
        HADAMARD_ROWS(v);                                                                          \
    } while (0)

/* -1 where the block's rotation turns an element's sign: bit e % 32 of word e / 32 of counters 2B
 * and 2B + 1 of Philox4x32-10 of key 0. */
BODY void turns_of(int16_t turn[BLOCK], uint64_t block) {
    uint32_t words[8];
    const uint32_t key[2] = {0, 0};

    for (uint64_t c = 0; c < 2; c++) {
        const uint32_t counter[4] = {(uint32_t)(2 * block + c), (uint32_t)((2 * block + c) >> 32)};
        kern_philox(words + 4 * c, counter, key);
    }
    for (size_t i = 0; i < BLOCK; i++)
        turn[i] = (int16_t)(1 - 2 * (int)(words[i / 32] >> i % 32 & 1u));
}

/* The largest of 16 significant bits that is at most x; 0 below ONEBIT_LEAST and where x is none.
 */
BODY float cut_scale(float x) {
    return x >= ONEBIT_LEAST && x <= FLT_MAX ? kern_half_float(kern_half_bits(x) & ~SCALE_LOW_BITS)
                                             : 0;
}

/* The mean size of v[BLOCK], over the 16 that the matrix is long; less where an element of k times
 * it would decode to beyond `most`. */
BODY float onebit_scale(float *size, float most, const int16_t *k, size_t n) {
    int largest = 1;

    for (size_t h = BLOCK / 2; h > 0; h /= 2) /* a sum in one order */
        for (size_t i = 0; i < h; i++)
            size[i] += size[i + h];
    for (size_t i = 0; i < n; i++) {
        int a = k[i] < 0 ? -k[i] : k[i];
        largest = a > largest ? a : largest;
    }
    float scale = cut_scale(size[0] * 0x1p-12f), limit = most * 16 / (float)largest;
    scale = scale > limit ? cut_scale(limit) : scale;
    while (scale > 0 && (float)largest * scale * 0x1p-4f > most)
        scale = cut_scale(kern_half_float(kern_half_bits(scale) - SCALE_LOW_BITS - 1));
    return scale;
}

BODY void onebit_body(uint8_t *restrict y, const float *restrict x, size_t n, uint64_t block) {
    float v[BLOCK] = {0}, size[BLOCK], most = 0;
    int16_t turn[BLOCK], k[BLOCK];

    turns_of(turn, block);
    for (size_t i = 0; i < n; i++) {
        float a = kern_half_float(kern_half_bits(x[i]) & ~SIGN);
        most = a > most ? a : most;
        v[i] = x[i] * (float)turn[i];
    }
    HADAMARD(v, size);
    for (size_t i = 0; i < BLOCK; i++) {
        size[i] = kern_half_float(kern_half_bits(v[i]) & ~SIGN);
        k[i] = v[i] < 0 ? -1 : 1;
    }
    for (size_t i = 0; i < BLOCK / 8; i++) {
        unsigned byte = 0;
        for (size_t b = 0; b < 8; b++)
            byte |= (unsigned)(k[8 * i + b] < 0) << b;
        y[4 + i] = (uint8_t)byte;
    }
    HADAMARD(k, turn);
    float scale = onebit_scale(size, most, k, n);
    if (scale == 0)
        memset(y + 4, 0, BLOCK / 8);
    put_scale(y, scale);
}

BODY bool unbit_body(float *restrict y, const uint8_t *restrict x, size_t n, uint64_t block) {
    float scale = get_scale(x);
    bool zero = kern_half_bits(scale) == 0;
    int16_t turn[BLOCK], k[BLOCK];
    unsigned any = 0;

    if (!zero &&
        (!(scale >= ONEBIT_LEAST && scale <= FLT_MAX) || kern_half_bits(scale) & SCALE_LOW_BITS))
        return false;
    for (size_t i = 0; i < BLOCK / 8; i++)
        any |= x[4 + i];
    for (size_t i = 0; i < BLOCK; i++)
        k[i] = (int16_t)(1 - 2 * (x[4 + i / 8] >> i % 8 & 1));
    HADAMARD(k, turn);
    turns_of(turn, block);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(k[i] * turn[i]) * (scale * 0x1p-4f);
    return !(zero && any);
}

/* ---- one table an instruction set -------------------------------------------------------------
 */

#define TABLE(name, attribute)                                                                     \
    attribute static void name##_f16_encode(uint16_t *y, const float *x, size_t n, float factor) { \
        f16_encode_body(y, x, n, factor);                                                          \
    }                                                                                              \
    attribute static void name##_f16_decode(float *y, const uint16_t *x, size_t n, float factor) { \
        f16_decode_body(y, x, n, factor);                                                          \
    }                                                                                              \
    attribute static void name##_bf16_encode(uint16_t *y, const float *x, size_t n) {              \
        bf16_encode_body(y, x, n);                                                                 \
    }                                                                                              \
    attribute static void name##_bf16_decode(float *y, const uint16_t *x, size_t n) {              \
        bf16_decode_body(y, x, n);                                                                 \
    }                                                                                              \
    attribute static void name##_quant(uint8_t *y, const float *x, size_t n, int bits,             \
                                       uint64_t key, uint64_t block) {                             \
        if (bits == 8)                                                                             \
            quant_body(y, x, n, 8, key, block);                                                    \
        else                                                                                       \
            quant_body(y, x, n, 4, key, block);                                                    \
    }                                                                                              \
    attribute static bool name##_dequant(float *y, const uint8_t *x, size_t n, int bits) {         \
        return bits == 8 ? dequant_body(y, x, n, 8) : dequant_body(y, x, n, 4);                    \
    }                                                                                              \
    attribute static void name##_onebit(uint8_t *y, const float *x, size_t n, uint64_t block) {    \
        onebit_body(y, x, n, block);                                                               \
    }                                                                                              \
    attribute static bool name##_unbit(float *y, const uint8_t *x, size_t n, uint64_t block) {     \
        return unbit_body(y, x, n, block);                                                         \
    }                                                                                              \
    static const struct kern_compress_ops name##_ops = {                                           \
        name##_f16_encode, name##_f16_decode, name##_bf16_encode, name##_bf16_decode,              \
        name##_quant,      name##_dequant,    name##_onebit,      name##_unbit}

TABLE(scalar, );
#if defined(__x86_64__)
TABLE(avx2, __attribute__((target("avx2"))));
TABLE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))));
#endif

const struct kern_compress_ops *kern_compress_ops_for(enum kern_isa isa) {
    switch (isa) {
    case KERN_ISA_SCALAR:
        return &scalar_ops;
#if defined(__x86_64__)
    case KERN_ISA_AVX2:
        return __builtin_cpu_supports("avx2") ? &avx2_ops : NULL;
    case KERN_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                   ? &avx512_ops
                   : NULL;
#endif
    default:
        return NULL;
    }
}

static const struct kern_compress_ops *widest(void) {
    const struct kern_compress_ops *ops = kern_compress_ops_for(KERN_ISA_AVX512);
    if (ops == NULL)
        ops = kern_compress_ops_for(KERN_ISA_AVX2);
    return ops != NULL ? ops : &scalar_ops;
}

void kern_f16_encode(uint16_t *y, const float *x, size_t n, int shift) {
    widest()->f16_encode(y, x, n, ldexpf(1, shift));
}

void kern_f16_decode(float *y, const uint16_t *x, size_t n, int shift) {
    widest()->f16_decode(y, x, n, ldexpf(1, shift));
}

void kern_bf16_encode(uint16_t *y, const float *x, size_t n) {
    widest()->bf16_encode(y, x, n);
}

void kern_bf16_decode(float *y, const uint16_t *x, size_t n) {
    widest()->bf16_decode(y, x, n);
}

void kern_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]) {
    uint32_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        PHILOX_ROUND(a, b, c, d, k0, k1);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

size_t kern_quant_bytes(size_t n, int bits) {
    size_t blocks = (n + BLOCK - 1) / BLOCK;
    return 4 * blocks + (bits == 8 ? n : (n + 1) / 2); /* a block's elements are even in number */
}

void kern_quant_encode(uint8_t *y, const float *x, size_t n, int bits, uint64_t key,
                       uint64_t block) {
    const struct kern_compress_ops *ops = widest();

    for (size_t at = 0; at < n; at += BLOCK, block++) {
        size_t m = n - at < BLOCK ? n - at : BLOCK;
        ops->quant_block(y, x + at, m, bits, key, block);
        y += kern_quant_bytes(m, bits);
    }
}

bool kern_quant_decode(float *y, const uint8_t *x, size_t n, int bits, size_t *bad_out) {
    const struct kern_compress_ops *ops = widest();

    for (size_t at = 0; at < n; at += BLOCK) {
        size_t m = n - at < BLOCK ? n - at : BLOCK;
        if (!ops->dequant_block(y + at, x, m, bits)) {
            *bad_out = at;
            return false;
        }
        x += kern_quant_bytes(m, bits);
    }
    return true;
}

size_t kern_onebit_bytes(size_t n) {
    return (n + BLOCK - 1) / BLOCK * (4 + BLOCK / 8);
}

void kern_onebit_encode(uint8_t *y, const float *x, size_t n, uint64_t block) {
    const struct kern_compress_ops *ops = widest();

    for (size_t at = 0; at < n; at += BLOCK, block++) {
        ops->onebit_block(y, x + at, n - at < BLOCK ? n - at : BLOCK, block);
        y += kern_onebit_bytes(BLOCK);
    }
}

bool kern_onebit_decode(float *y, const uint8_t *x, size_t n, uint64_t block, size_t *bad_out) {
    const struct kern_compress_ops *ops = widest();

    for (size_t at = 0; at < n; at += BLOCK, block++) {
        if (!ops->unbit_block(y + at, x, n - at < BLOCK ? n - at : BLOCK, block)) {
            *bad_out = at;
            return false;
        }
        x += kern_onebit_bytes(BLOCK);
    }
    return true;
}
