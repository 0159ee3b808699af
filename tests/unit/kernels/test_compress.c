/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/compress.h"
#include "tests/parity/parity.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* cr_assert itself takes no condition that begins with a parenthesis or a "!". */
static bool holds(bool condition) {
    return condition;
}
#define CHECK(condition, ...) cr_assert(holds(condition), ##__VA_ARGS__)

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* A binary16 by its definition: sign, five bits of exponent, ten of fraction. */
static double value_of(unsigned h) {
    int exponent = (int)(h >> 10 & 31);
    double fraction = h & 1023, sign = h >> 15 ? -1 : 1;
    if (exponent == 31)
        return fraction > 0 ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent > 0 ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static uint16_t half_of(float x) {
    uint16_t h = 0;
    kern_f16_encode(&h, &x, 1, 0);
    return h;
}

Test(kern_compress, every_binary16_is_read_and_written_as_ieee_754_has_it) {
    for (unsigned h = 0; h < 65536; h++) {
        uint16_t in = (uint16_t)h;
        float x = 0;
        kern_f16_decode(&x, &in, 1, 0);
        double want = value_of(h);
        if (isnan(want)) {
            cr_assert(isnan(x) && isnan((float)value_of(half_of(x))), "0x%04x", h);
            continue;
        }
        cr_assert(bits_of(x) == bits_of((float)want), "0x%04x: %g, not %g", h, (double)x, want);
        cr_assert(half_of(x) == h, "0x%04x is written as 0x%04x", h, half_of(x));
    }
}

Test(kern_compress, binary16_rounds_to_nearest_and_ties_to_even) {
    for (unsigned h = 0; h < 0x7c00; h++) { /* and the one above, the last of which is infinity */
        double above = h == 0x7bff ? 65536 : value_of(h + 1);
        float middle = (float)((value_of(h) + above) / 2);
        for (unsigned sign = 0; sign < 2; sign++) {
            float s = sign ? -1.0f : 1.0f;
            unsigned down = h | sign << 15, up = down + 1;
            cr_assert(half_of(s * middle) == (h % 2 ? up : down), "0x%04x", h);
            cr_assert(half_of(s * nextafterf(middle, 0)) == down, "0x%04x", h);
            cr_assert(half_of(s * nextafterf(middle, INFINITY)) == up, "0x%04x", h);
        }
    }
    cr_assert(half_of(FLT_MAX) == 0x7c00 && half_of(-INFINITY) == 0xfc00);
    cr_assert(half_of(FLT_TRUE_MIN) == 0 && half_of(-0.0f) == 0x8000);
}

Test(kern_compress, a_shift_is_a_power_of_two_either_way) {
    float x[3] = {0x1p-40f, -0x1.8p-27f, 0x1p-15f}, back[3];
    uint16_t h[3];
    kern_f16_encode(h, x, 3, 30);
    cr_assert(half_of(0x1p15f) == h[2] && half_of(0x1p-10f) == h[0]);
    kern_f16_decode(back, h, 3, -30);
    cr_assert(memcmp(x, back, sizeof x) == 0);
    kern_f16_encode(h, (float[]){0x1p120f}, 1, -115);
    cr_assert(eq(int, h[0], half_of(32)));
}

Test(kern_compress, bfloat16_is_the_upper_half_rounded_to_even) {
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t in = (uint16_t)h, out = 0;
        float x = 0;
        kern_bf16_decode(&x, &in, 1);
        cr_assert(bits_of(x) == h << 16);
        kern_bf16_encode(&out, &x, 1);
        if (isnan(x)) {
            CHECK((out & 0x7fff) > 0x7f80, "0x%04x", h);
            continue;
        }
        cr_assert(out == h, "0x%04x", h);
        if ((h & 0x7fff) >= 0x7f80)
            continue;
        const struct {
            uint32_t low;
            uint32_t want;
        } cases[] = {{0x7fff, h}, {0x8000, h + (h & 1)}, {0x8001, h + 1}};
        for (size_t i = 0; i < 3; i++) {
            float y = float_of(h << 16 | cases[i].low);
            kern_bf16_encode(&out, &y, 1);
            cr_assert(out == cases[i].want, "0x%04x%04x", h, cases[i].low);
        }
    }
}

/* The known answers that its authors publish (Random123, kat_vectors: philox4x32 10). */
Test(kern_compress, philox_gives_its_authors_known_answers) {
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        kern_philox(out, known[i].counter, known[i].key);
        cr_assert(memcmp(out, known[i].out, sizeof out) == 0, "vector %zu", i);
    }
}

/* What kern.h says of one element, on its own. */
static int quantised(float x, float scale, int levels, uint64_t key, uint64_t block, size_t e) {
    uint64_t counter = 64 * block + e % 64;
    const uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32)};
    const uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    uint32_t r[4];
    kern_philox(r, c, k);
    float t = x / scale, below = floorf(t), u = (float)(r[e / 64] >> 8) / 16777216.0f;
    int q = (int)below + (u < t - below);
    return q > levels ? levels : q < -levels ? -levels : q;
}

static int stored(const uint8_t *block, size_t e, int bits) {
    if (bits == 8)
        return (int8_t)block[4 + e];
    int q = block[4 + e / 2] >> (e % 2 ? 4 : 0) & 15;
    return q > 7 ? q - 16 : q;
}

static float any_delta(uint64_t *seed) {
    float v = ((float)(parity_next(seed) >> 40) - 8388608.0f) * 0x1p-23f;
    return v * v * v * 0x1p-9f;
}

Test(kern_compress, blocks_are_what_the_header_says_element_by_element) {
    static float x[1000];
    static uint8_t y[4096];
    uint64_t seed = 4;
    for (size_t i = 0; i < 1000; i++)
        x[i] = any_delta(&seed);
    for (int bits = 4; bits <= 8; bits += 4) {
        int levels = bits == 8 ? 127 : 7;
        uint64_t key = parity_next(&seed), first = UINT64_C(0xffffffff) * 3;
        const uint8_t *block = y;
        kern_quant_encode(y, x, 1000, bits, key, first);
        for (size_t at = 0; at < 1000; at += 256) {
            size_t n = 1000 - at < 256 ? 1000 - at : 256;
            float scale, most = 0;
            memcpy(&scale, block, sizeof scale);
            for (size_t e = 0; e < n; e++)
                most = fmaxf(most, fabsf(x[at + e]));
            CHECK((float)levels * scale <= most);
            CHECK((float)levels * nextafterf(scale, INFINITY) > most, "no larger scale would");
            for (size_t e = 0; e < n; e++)
                cr_assert(eq(int, stored(block, e, bits),
                             quantised(x[at + e], scale, levels, key, first + at / 256, e)));
            block += kern_quant_bytes(n, bits);
        }
        cr_assert(eq(sz, (size_t)(block - y), kern_quant_bytes(1000, bits)));
    }
}

Test(kern_compress, what_is_decoded_is_within_a_step_and_never_beyond_the_largest) {
    static float x[256], back[256];
    static uint8_t y[300];
    uint64_t seed = 5;
    size_t bad = 0;
    for (int round = 0; round < 2000; round++) {
        int bits = round % 2 ? 8 : 4;
        size_t n = 1 + parity_next(&seed) % 256;
        float most = 0, unit = ldexpf(1, (int)(parity_next(&seed) % 240) - 120);
        for (size_t i = 0; i < n; i++) {
            x[i] = any_delta(&seed) * unit;
            most = fmaxf(most, fabsf(x[i]));
        }
        kern_quant_encode(y, x, n, bits, (uint64_t)round, 9);
        cr_assert(kern_quant_decode(back, y, n, bits, &bad));
        for (size_t i = 0; i < n; i++) {
            cr_assert(fabsf(back[i]) <= most);
            cr_assert(fabsf(back[i] - x[i]) <= most / (bits == 8 ? 126 : 6.9f) + FLT_MIN * 127);
        }
    }
    memset(x, 0, sizeof x);
    x[3] = FLT_MIN; /* its scale would be subnormal */
    kern_quant_encode(y, x, 256, 8, 1, 0);
    for (size_t i = 0; i < kern_quant_bytes(256, 8); i++)
        cr_assert(eq(int, y[i], 0));
}

/* Each element's mean over many keys: its error is at most 1/2 step over the root of their number,
 * and 256 elements are within 4.5 of those. */
Test(kern_compress, stochastic_rounding_is_unbiased) {
    enum { KEYS = 4000 };
    static float x[256], back[256];
    static double sum[256];
    static uint8_t y[300];
    uint64_t seed = 6;
    size_t bad = 0;
    for (size_t i = 0; i < 256; i++)
        x[i] = any_delta(&seed);
    for (int bits = 4; bits <= 8; bits += 4) {
        float scale;
        double all = 0;
        memset(sum, 0, sizeof sum);
        for (int k = 0; k < KEYS; k++) {
            kern_quant_encode(y, x, 256, bits, parity_next(&seed), 0);
            cr_assert(kern_quant_decode(back, y, 256, bits, &bad));
            for (size_t i = 0; i < 256; i++)
                sum[i] += (double)back[i];
        }
        memcpy(&scale, y, sizeof scale);
        double step = 0.5 * (double)scale / sqrt(KEYS);
        for (size_t i = 0; i < 256; i++) {
            double error = sum[i] / KEYS - (double)x[i];
            cr_assert(fabs(error) <= 4.5 * step, "element %zu is off by %g steps", i, error / step);
            all += error;
        }
        cr_assert(fabs(all) <= 4.5 * step * 16, "together they lean by %g", all / step / 16);
    }
}

Test(kern_compress, blocks_that_no_encoder_makes_are_refused) {
    static float x[300], back[300];
    uint8_t y[400];
    uint64_t seed = 7;
    size_t bad = 0;
    for (size_t i = 0; i < 300; i++)
        x[i] = any_delta(&seed);
    static const uint32_t scales[] = {0x80000000, 0x80800000, 0x007fffff, 1,
                                      0x7f800000, 0x7fc00000, 0xbf800000};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        kern_quant_encode(y, x, 300, 8, 1, 0);
        memcpy(y + 260, &scales[i], 4);
        CHECK(!kern_quant_decode(back, y, 300, 8, &bad), "scale 0x%08x", scales[i]);
        cr_assert(eq(sz, bad, 256));
    }
    kern_quant_encode(y, x, 300, 8, 1, 0);
    y[4 + 17] = 0x80;
    CHECK(!kern_quant_decode(back, y, 300, 8, &bad) && bad == 0, "-128");
    for (int half = 0; half < 2; half++) {
        kern_quant_encode(y, x, 299, 4, 1, 0);
        cr_assert(kern_quant_decode(back, y, 299, 4, &bad));
        y[4 + 17] = half ? 0x81 : 0x18;
        CHECK(!kern_quant_decode(back, y, 299, 4, &bad) && bad == 0, "-8");
    }
    kern_quant_encode(y, x, 299, 4, 1, 0);
    y[kern_quant_bytes(299, 4) - 1] |= 0x10;
    CHECK(!kern_quant_decode(back, y, 299, 4, &bad), "a value behind the last");
    memset(y, 0, sizeof y);
    cr_assert(kern_quant_decode(back, y, 300, 8, &bad));
    y[5] = 1;
    CHECK(!kern_quant_decode(back, y, 300, 8, &bad), "a value of scale 0");
}

Test(kern_compress, every_instruction_set_gives_the_same_bits) {
    static float x[256], a[256], b[256];
    static uint16_t h[256], g[256];
    static uint8_t y[300], z[300];
    const struct kern_compress_ops *scalar = kern_compress_ops_for(KERN_ISA_SCALAR);
    uint64_t seed = 8;
    for (int round = 0; round < 4000; round++) {
        size_t n = 1 + parity_next(&seed) % 256;
        bool wild = round % 2;
        for (size_t i = 0; i < n; i++)
            x[i] = wild ? float_of((uint32_t)parity_next(&seed)) : any_delta(&seed);
        uint64_t key = parity_next(&seed), block = parity_next(&seed) >> 8;
        int bits = round % 4 < 2 ? 8 : 4;
        for (int isa = 1; isa < KERN_ISA_COUNT; isa++) {
            const struct kern_compress_ops *ops = kern_compress_ops_for((enum kern_isa)isa);
            if (!ops)
                continue;
            scalar->f16_encode(h, x, n, 0x1p15f);
            ops->f16_encode(g, x, n, 0x1p15f);
            cr_assert(memcmp(h, g, n * sizeof *h) == 0, "isa %d", isa);
            for (size_t i = 0; i < n; i++)
                h[i] = (uint16_t)parity_next(&seed);
            scalar->f16_decode(a, h, n, 0x1p-15f);
            ops->f16_decode(b, h, n, 0x1p-15f);
            for (size_t i = 0; i < n; i++)
                cr_assert(bits_of(a[i]) == bits_of(b[i]) || (isnan(a[i]) && isnan(b[i])));
            scalar->bf16_encode(h, x, n);
            ops->bf16_encode(g, x, n);
            cr_assert(memcmp(h, g, n * sizeof *h) == 0, "isa %d", isa);
            for (size_t i = 0; i < n; i++)
                x[i] = isfinite(x[i]) ? x[i] : 1;
            scalar->quant_block(y, x, n, bits, key, block);
            ops->quant_block(z, x, n, bits, key, block);
            cr_assert(memcmp(y, z, kern_quant_bytes(n, bits)) == 0, "isa %d", isa);
            if (round % 3 == 0)
                y[parity_next(&seed) % kern_quant_bytes(n, bits)] ^= (uint8_t)(1u << round % 8);
            bool fits = scalar->dequant_block(a, y, n, bits);
            cr_assert(fits == ops->dequant_block(b, y, n, bits));
            CHECK(!fits || memcmp(a, b, n * sizeof *a) == 0);
        }
    }
}
