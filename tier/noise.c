/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream is drawn a block at a time, for one call of the cipher costs more than it encrypts.
 * exp(-x) is never computed: that it came true is decided by coins whose chances are fractions.
 */
#include "tier/noise.h"

#include <assert.h>
#include <math.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_WORDS 512

typedef unsigned __int128 wide;

struct tier_noise {
    EVP_CIPHER_CTX *cipher;
    size_t used; /* of block */
    uint64_t block[BLOCK_WORDS];
};

enum tier_status tier_noise_key_draw(struct tier_noise_key *out, struct tier_err *err) {
    if (RAND_priv_bytes(out->b, sizeof out->b) != 1)
        return tier_fail(err, TIER_EINTERNAL, "the system's random numbers cannot be had");
    return TIER_OK;
}

void tier_noise_key_hash(const struct tier_noise_key *key, struct tier_hash *out) {
    static const char label[] = "consilium noise key";
    struct tier_hasher *h = tier_hasher_new();

    tier_hasher_add(h, label, sizeof label);
    tier_hasher_add(h, key->b, sizeof key->b);
    tier_hasher_finish(h, out);
    tier_hasher_free(h);
}

void tier_noise_key_wipe(struct tier_noise_key *key) {
    OPENSSL_cleanse(key, sizeof *key);
}

bool tier_noise_key_is_zero(const struct tier_noise_key *key) {
    static const struct tier_noise_key zero;

    return CRYPTO_memcmp(key, &zero, sizeof zero) == 0;
}

enum tier_status tier_noise_new(const struct tier_noise_key *key, uint64_t stream,
                                struct tier_noise **out, struct tier_err *err) {
    struct tier_noise *n = calloc(1, sizeof *n);
    uint8_t counter[16] = {0};

    if (!n)
        return tier_fail(err, TIER_ENOMEM, "no memory for random numbers");
    for (int i = 0; i < 8; i++)
        counter[i] = (uint8_t)(stream >> (56 - 8 * i));
    n->cipher = EVP_CIPHER_CTX_new();
    n->used = BLOCK_WORDS;
    if (!n->cipher ||
        EVP_EncryptInit_ex(n->cipher, EVP_aes_256_ctr(), NULL, key->b, counter) != 1) {
        tier_noise_free(n);
        return tier_fail(err, TIER_EINTERNAL, "AES-256-CTR cannot be had");
    }
    *out = n;
    return TIER_OK;
}

void tier_noise_free(struct tier_noise *n) {
    if (!n)
        return;
    EVP_CIPHER_CTX_free(n->cipher);
    OPENSSL_cleanse(n, sizeof *n);
    free(n);
}

/* ---- whole numbers -------------------------------------------------------------------------- */

uint64_t tier_noise_word(struct tier_noise *n) {
    if (n->used == BLOCK_WORDS) {
        uint8_t *bytes = (uint8_t *)n->block;
        int done = 0;
        memset(n->block, 0, sizeof n->block);
        /* In place, of zeros: what the cipher adds. It has no way to fail once it is set up. */
        if (EVP_EncryptUpdate(n->cipher, bytes, &done, bytes, (int)sizeof n->block) != 1 ||
            done != (int)sizeof n->block)
            abort();
        n->used = 0;
    }
    uint64_t word = n->block[n->used];
    n->block[n->used++] = 0;
    return word;
}

/* As many low bits as n needs, again until they are below it. */
static wide below_wide(struct tier_noise *noise, wide n) {
    wide mask = n - 1;

    for (unsigned s = 1; s < 128; s *= 2)
        mask |= mask >> s;
    for (;;) {
        wide x = tier_noise_word(noise);
        if (mask >> 64)
            x |= (wide)tier_noise_word(noise) << 64;
        if ((x & mask) < n)
            return x & mask;
    }
}

uint64_t tier_noise_below(struct tier_noise *noise, uint64_t n) {
    assert(n > 0);
    return (uint64_t)below_wide(noise, n);
}

size_t tier_noise_sample(struct tier_noise *noise, size_t rows, uint64_t part, int32_t *sample) {
    size_t count = 0;

    for (size_t i = 0; i < rows; i++)
        if (part >= rows || tier_noise_below(noise, rows) < part)
            sample[count++] = (int32_t)i;
    return count;
}

/* True with chance exp(-num / den), num <= den: the first of coins of chance x, x/2, x/3, ... that
 * fails has an odd number. */
static bool falls_small(struct tier_noise *noise, wide num, wide den) {
    for (wide k = 1;; k++)
        if (below_wide(noise, den * k) >= num)
            return k % 2 == 1;
}

static bool falls(struct tier_noise *noise, wide num, wide den) {
    for (; num > den; num -= den)
        if (!falls_small(noise, 1, 1))
            return false;
    return falls_small(noise, num, den);
}

/* Laplace of whole numbers, k with a chance proportional to exp(-|k| / scale). */
static bool draw_laplace(struct tier_noise *noise, uint64_t scale, uint64_t *size, bool *negative) {
    uint64_t rest = tier_noise_below(noise, scale), times = 0;

    if (!falls_small(noise, rest, scale))
        return false;
    while (falls_small(noise, 1, 1))
        times++;
    /* Beyond, what is accepted below has a chance of less than exp(-7000). */
    if (times > 126)
        return false;
    *size = rest + times * scale;
    *negative = tier_noise_word(noise) & 1;
    return *size > 0 || !*negative;
}

int64_t tier_noise_whole(struct tier_noise *noise, uint64_t variance) {
    uint64_t scale = (uint64_t)sqrt((double)variance), size;
    bool negative;

    assert(variance >= 1 && variance <= TIER_NOISE_VARIANCE_MAX);
    while (scale * scale > variance)
        scale--;
    while ((scale + 1) * (scale + 1) <= variance)
        scale++;
    scale++; /* floor(deviation) + 1 */
    for (;;) {
        if (!draw_laplace(noise, scale, &size, &negative))
            continue;
        /* exp(-(|k| - variance / scale)^2 / (2 variance)), both sides times scale^2: below 2^119
         * and 2^106. */
        wide a = (wide)size * scale, off = a > variance ? a - variance : variance - a;
        if (falls(noise, off * off, (wide)2 * variance * scale * scale))
            return negative ? -(int64_t)size : (int64_t)size;
    }
}

/* ---- floating point ------------------------------------------------------------------------- */

/* In (0, 1): the middles of 2^53 equal parts but for the last bit. */
static double part_of_one(struct tier_noise *n) {
    return ((double)(tier_noise_word(n) >> 11) + 0.5) * 0x1p-53;
}

void tier_noise_normal(struct tier_noise *noise, double deviation, float *values, size_t count) {
    for (size_t i = 0; i < count; i += 2) {
        double r = deviation * sqrt(-2 * log(part_of_one(noise)));
        double angle = 2 * M_PI * part_of_one(noise);
        values[i] = (float)((double)values[i] + r * cos(angle));
        if (i + 1 < count)
            values[i + 1] = (float)((double)values[i + 1] + r * sin(angle));
    }
}
