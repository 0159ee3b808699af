/* SPDX-License-Identifier: Apache-2.0 */
/* The text of a token, and whom it pins: what tier/authority.h says of tokens without a directory.
 */
#include "tier/authority.h"
#include "tier/cert.h"

#include <openssl/crypto.h>
#include <string.h>

#define TOKEN_PREFIX "consilium1."
#define TOKEN_PREFIX_LEN 11
#define TOKEN_BASE32_LEN 32

static const char base32_digits[] = "abcdefghijklmnopqrstuvwxyz234567"; /* RFC 4648, lower case */

/* 5 bytes are 8 digits, and the secret is 4 times that: no padding anywhere. */
static void base32_encode(const uint8_t *data, char *text) {
    for (size_t group = 0; group < TIER_TOKEN_SECRET_BYTES / 5; group++) {
        uint64_t bits = 0;
        for (size_t i = 0; i < 5; i++)
            bits = bits << 8 | data[group * 5 + i];
        for (size_t i = 0; i < 8; i++)
            text[group * 8 + i] = base32_digits[bits >> (35 - 5 * i) & 31];
    }
}

static bool base32_decode(const char *text, uint8_t *data) {
    for (size_t group = 0; group < TIER_TOKEN_SECRET_BYTES / 5; group++) {
        uint64_t bits = 0;
        for (size_t i = 0; i < 8; i++) {
            char c = text[group * 8 + i];
            const char *digit = c ? strchr(base32_digits, c) : NULL;
            if (!digit)
                return false;
            bits = bits << 5 | (uint64_t)(digit - base32_digits);
        }
        for (size_t i = 0; i < 5; i++)
            data[group * 5 + i] = (uint8_t)(bits >> (32 - 8 * i));
    }
    return true;
}

void tier_token_format(const uint8_t *secret, const struct tier_hash *ca_fingerprint, char *text) {
    memcpy(text, TOKEN_PREFIX, TOKEN_PREFIX_LEN);
    base32_encode(secret, text + TOKEN_PREFIX_LEN);
    text[TOKEN_PREFIX_LEN + TOKEN_BASE32_LEN] = '.';
    tier_hash_hex(ca_fingerprint, text + TOKEN_PREFIX_LEN + TOKEN_BASE32_LEN + 1);
}

enum tier_status tier_token_parse(const char *text, struct tier_token *out, struct tier_err *err) {
    struct tier_token token;
    const size_t dot = TOKEN_PREFIX_LEN + TOKEN_BASE32_LEN;

    if (!text || strnlen(text, TIER_TOKEN_SIZE) != TIER_TOKEN_SIZE - 1 ||
        strncmp(text, TOKEN_PREFIX, TOKEN_PREFIX_LEN) != 0 || text[dot] != '.' ||
        !base32_decode(text + TOKEN_PREFIX_LEN, token.secret) ||
        !tier_hash_parse(text + dot + 1, &token.ca_fingerprint))
        return tier_fail(err, TIER_EARG,
                         "not a token: %d characters beginning with " TOKEN_PREFIX
                         " are wanted, as consilium token create prints them",
                         TIER_TOKEN_SIZE - 1);
    *out = token;
    OPENSSL_cleanse(token.secret, sizeof token.secret);
    return TIER_OK;
}

enum tier_status tier_token_check_ca(const char *text, const char *ca_pem, struct tier_err *err) {
    struct tier_token token;
    struct tier_cert *ca = NULL;
    struct tier_hash seen;
    char said_hex[TIER_HASH_HEX], seen_hex[TIER_HASH_HEX], name[TIER_NAME_LEN_MAX + 1];
    enum tier_status st;

    TIER_TRY(tier_token_parse(text, &token, err));
    OPENSSL_cleanse(token.secret, sizeof token.secret);
    TIER_TRY(tier_cert_from_pem(ca_pem, &ca, err));
    TIER_TRY_OUT(tier_cert_authority(ca, name, err));
    tier_cert_fingerprint(ca, &seen);
    if (!tier_hash_equal(&seen, &token.ca_fingerprint))
        st = tier_fail(err, TIER_EIDENTITY,
                       "the other side says it is authority %s with the fingerprint %s, but the "
                       "token names %s: do not enroll there",
                       name, tier_hash_hex(&seen, seen_hex),
                       tier_hash_hex(&token.ca_fingerprint, said_hex));
out:
    tier_cert_free(ca);
    return st;
}
