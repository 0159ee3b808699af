/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes are multiplied by shifts and masks, without tables: a table's cache lines would tell an
 * observer on the same machine what was multiplied.
 */
#include "tier/shamir.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <string.h>

/* The product in GF(2^8). */
static uint8_t times(uint8_t a, uint8_t b) {
    unsigned product = 0, x = a, y = b;

    for (int bit = 0; bit < 8; bit++) {
        product ^= x & (0u - (y & 1u));
        y >>= 1;
        x = (x << 1) ^ (0x11bu & (0u - (x >> 7)));
    }
    return (uint8_t)product;
}

/* a^254; of 0 it is 0. */
static uint8_t inverse(uint8_t a) {
    uint8_t power = a, product = 1;

    for (int bit = 1; bit < 8; bit++) {
        power = times(power, power);
        product = times(product, power);
    }
    return product;
}

enum tier_status tier_shamir_split(const uint8_t secret[TIER_SHAMIR_BYTES], unsigned threshold,
                                   unsigned holders, struct tier_shamir_share *out,
                                   struct tier_err *err) {
    uint8_t coefficient[TIER_SHAMIR_HOLDERS_MAX][TIER_SHAMIR_BYTES];

    if (threshold < 1 || threshold > holders || holders > TIER_SHAMIR_HOLDERS_MAX)
        return tier_fail(err, TIER_EARG,
                         "a secret is not shared by %u of %u holders: 1 to all of at most %u",
                         threshold, holders, TIER_SHAMIR_HOLDERS_MAX);
    size_t bytes = (size_t)(threshold - 1) * TIER_SHAMIR_BYTES;
    if (bytes && RAND_priv_bytes(coefficient[1], (int)bytes) != 1)
        return tier_fail(err, TIER_EINTERNAL, "no random numbers to share a secret with");
    memcpy(coefficient[0], secret, TIER_SHAMIR_BYTES);
    for (unsigned h = 0; h < holders; h++) {
        uint8_t y[TIER_SHAMIR_BYTES] = {0}, x = (uint8_t)(h + 1);
        for (unsigned c = threshold; c-- > 0;) /* Horner's rule */
            for (int i = 0; i < TIER_SHAMIR_BYTES; i++)
                y[i] = times(y[i], x) ^ coefficient[c][i];
        out[h].x = x;
        memcpy(out[h].y, y, sizeof y);
        OPENSSL_cleanse(y, sizeof y);
    }
    OPENSSL_cleanse(coefficient, sizeof coefficient);
    return TIER_OK;
}

static enum tier_status check(const struct tier_shamir_share *shares, unsigned count,
                              struct tier_err *err) {
    bool seen[TIER_SHAMIR_HOLDERS_MAX + 1] = {0};

    if (count < 1 || count > TIER_SHAMIR_HOLDERS_MAX)
        return tier_fail(err, TIER_EARG, "%u shares of a secret: 1 to %u are wanted", count,
                         TIER_SHAMIR_HOLDERS_MAX);
    for (unsigned i = 0; i < count; i++) {
        if (shares[i].x == 0 || seen[shares[i].x])
            return tier_fail(
                err, TIER_EARG, "share %u of a secret is of holder %u: %s", i + 1, shares[i].x,
                shares[i].x ? "there is one of that holder already" : "holders count from 1");
        seen[shares[i].x] = true;
    }
    return TIER_OK;
}

enum tier_status tier_shamir_join(const struct tier_shamir_share *shares, unsigned count,
                                  uint8_t secret_out[TIER_SHAMIR_BYTES], struct tier_err *err) {
    uint8_t sum[TIER_SHAMIR_BYTES] = {0};

    TIER_TRY(check(shares, count, err));
    for (unsigned i = 0; i < count; i++) {
        uint8_t up = 1, down = 1; /* Lagrange's polynomial of holder i, at 0 */
        for (unsigned j = 0; j < count; j++) {
            if (j == i)
                continue;
            up = times(up, shares[j].x);
            down = times(down, shares[j].x ^ shares[i].x);
        }
        uint8_t factor = times(up, inverse(down));
        for (int b = 0; b < TIER_SHAMIR_BYTES; b++)
            sum[b] ^= times(shares[i].y[b], factor);
    }
    memcpy(secret_out, sum, sizeof sum);
    OPENSSL_cleanse(sum, sizeof sum);
    return TIER_OK;
}
