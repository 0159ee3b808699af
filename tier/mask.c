/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cryptography of secure sums, all of it libcrypto's: nothing here but the order of calls. No
 * key is shorter than 256 bits anywhere, since a mask is only as strong as what it is expanded
 * from.
 */
#include "tier/mask.h"

#include "tier/cert.h"
#include "tier/identity.h"
#include "tier/mask_private.h"
#include "tier/revocation.h"

#include <math.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

/* Masks are expanded so many bytes at a time: they stay in a core's first-level cache. */
#define PAD_BYTES 16384u
#define BLOCK_BYTES 16u /* of AES */

const char *tier_mask_step_text(enum tier_mask_step step) {
    static const char *const text[TIER_MASK_STEPS] = {
        "advert", "list", "shares", "deliver", "survivors", "signed", "signatures", "reveal"};
    return step >= 1 && step <= TIER_MASK_STEPS ? text[step - 1] : "unknown step";
}

bool tier_mask_step_is_childs(enum tier_mask_step step) {
    return step == TIER_MASK_ADVERT || step == TIER_MASK_SHARES || step == TIER_MASK_SIGNED ||
           step == TIER_MASK_REVEAL;
}

/* By the layouts of mask_private.h. */
size_t tier_mask_body_max(enum tier_mask_step step) {
    static const size_t most[TIER_MASK_STEPS] = {
        TIER_MASK_ADVERT_BYTES_MAX,
        TIER_MASK_BODY_BYTES_MAX,
        TIER_MASK_NEIGHBOURS * SEALED_BYTES,
        TIER_CHILDREN_MAX / 8 + TIER_MASK_NEIGHBOURS * SEALED_BYTES,
        TIER_CHILDREN_MAX / 8,
        1 + TIER_MASK_SIGNATURE_BYTES_MAX,
        TIER_MASK_HOLDERS_MAX * (4 + 1 + TIER_MASK_SIGNATURE_BYTES_MAX),
        TIER_MASK_HOLDERS_MAX * (1 + TIER_SHAMIR_BYTES)};

    return step >= 1 && step <= TIER_MASK_STEPS ? most[step - 1] : 0;
}

unsigned tier_mask_threshold(double share, unsigned holders) {
    unsigned least = holders / 2 + 1, t = (unsigned)ceil(share * holders);

    t = t < least ? least : t;
    return t > holders ? holders : t;
}

void tier_mask_terms_free(struct tier_mask_term *terms, size_t count) {
    if (terms)
        OPENSSL_cleanse(terms, count * sizeof *terms);
    free(terms);
}

/* ---- masks ---- */

struct tier_mask_pad {
    EVP_CIPHER_CTX *cipher;
    uint8_t zero[PAD_BYTES];
    union {
        uint8_t b[PAD_BYTES];
        uint64_t w64[PAD_BYTES / sizeof(uint64_t)];
        uint32_t w32[PAD_BYTES / sizeof(uint32_t)];
    } mask;
};

struct tier_mask_pad *tier_mask_pad_new(void) {
    struct tier_mask_pad *pad = calloc(1, sizeof *pad);

    if (pad && !(pad->cipher = EVP_CIPHER_CTX_new())) {
        free(pad);
        return NULL;
    }
    return pad;
}

void tier_mask_pad_free(struct tier_mask_pad *pad) {
    if (!pad)
        return;
    EVP_CIPHER_CTX_free(pad->cipher);
    OPENSSL_cleanse(pad, sizeof *pad);
    free(pad);
}

static void add64(uint64_t *v, const uint64_t *mask, size_t n, bool minus) {
    if (minus)
        for (size_t i = 0; i < n; i++)
            v[i] -= le64toh(mask[i]);
    else
        for (size_t i = 0; i < n; i++)
            v[i] += le64toh(mask[i]);
}

static void add32(uint32_t *v, const uint32_t *mask, size_t n, bool minus) {
    if (minus)
        for (size_t i = 0; i < n; i++)
            v[i] -= le32toh(mask[i]);
    else
        for (size_t i = 0; i < n; i++)
            v[i] += le32toh(mask[i]);
}

/* Words of 4 or 8 bytes. */
static enum tier_status apply(struct tier_mask_pad *pad, const struct tier_mask_term *term,
                              size_t word, uint64_t at, uint8_t *v, size_t n,
                              struct tier_err *err) {
    const size_t per_block = BLOCK_BYTES / word, room = PAD_BYTES / word;
    uint64_t block = at / per_block;
    size_t skip = (size_t)(at % per_block);
    uint8_t counter[BLOCK_BYTES] = {0};
    int made = 0;

    for (int i = 0; i < 8; i++)
        counter[15 - i] = (uint8_t)(block >> (8 * i));
    bool ok = EVP_EncryptInit_ex2(pad->cipher, EVP_aes_256_ctr(), term->key, counter, NULL) == 1;
    while (ok && n > 0) {
        size_t words = n + skip < room ? n + skip : room;
        ok =
            EVP_EncryptUpdate(pad->cipher, pad->mask.b, &made, pad->zero, (int)(words * word)) == 1;
        words -= skip;
        if (word == sizeof(uint64_t))
            add64((uint64_t *)(void *)v, pad->mask.w64 + skip, words, term->minus);
        else
            add32((uint32_t *)(void *)v, pad->mask.w32 + skip, words, term->minus);
        v += words * word;
        n -= words;
        skip = 0;
    }
    return ok ? TIER_OK : tier_fail(err, TIER_EINTERNAL, "libcrypto cannot expand a mask");
}

enum tier_status tier_mask_apply(struct tier_mask_pad *pad, const struct tier_mask_term *term,
                                 uint64_t at, uint64_t *v, size_t n, struct tier_err *err) {
    return apply(pad, term, sizeof *v, at, (uint8_t *)v, n, err);
}

enum tier_status tier_mask_apply32(struct tier_mask_pad *pad, const struct tier_mask_term *term,
                                   uint64_t at, uint32_t *v, size_t n, struct tier_err *err) {
    return apply(pad, term, sizeof *v, at, (uint8_t *)v, n, err);
}

/* ---- secrets ---- */

static enum tier_status key_failed(struct tier_err *err) {
    return tier_fail(err, TIER_EINTERNAL, "libcrypto cannot make an X25519 key");
}

enum tier_status mask_key_public(const struct mask_secret *key, uint8_t *public_out,
                                 struct tier_err *err) {
    EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, key->b, sizeof key->b);
    size_t n = TIER_MASK_KEY_BYTES;
    bool ok = k && EVP_PKEY_get_raw_public_key(k, public_out, &n) == 1 && n == TIER_MASK_KEY_BYTES;

    EVP_PKEY_free(k);
    return ok ? TIER_OK : key_failed(err);
}

enum tier_status mask_key_make(struct mask_secret *out, uint8_t *public_out, struct tier_err *err) {
    if (RAND_priv_bytes(out->b, sizeof out->b) != 1)
        return key_failed(err);
    return mask_key_public(out, public_out, err);
}

/* A public key of small order gives zero, which libcrypto refuses. */
static bool agree(const struct mask_secret *mine, const uint8_t *theirs, uint8_t *out) {
    EVP_PKEY *a = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, mine->b, sizeof mine->b);
    EVP_PKEY *b = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, theirs, TIER_MASK_KEY_BYTES);
    EVP_PKEY_CTX *ctx = a ? EVP_PKEY_CTX_new(a, NULL) : NULL;
    size_t n = TIER_MASK_KEY_BYTES;
    bool ok = b && ctx && EVP_PKEY_derive_init(ctx) == 1 && EVP_PKEY_derive_set_peer(ctx, b) == 1 &&
              EVP_PKEY_derive(ctx, out, &n) == 1 && n == TIER_MASK_KEY_BYTES;

    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(a);
    EVP_PKEY_free(b);
    return ok;
}

static bool expand(const uint8_t *secret, const struct tier_hash *salt, const char *what,
                   const struct tier_hash *first, const struct tier_hash *second, uint8_t *out) {
    uint8_t info[32 + 2 * TIER_HASH_BYTES] = {0};
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)(uintptr_t) "SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)secret,
                                          TIER_MASK_KEY_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt->b,
                                          TIER_HASH_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof info),
        OSSL_PARAM_construct_end()};

    memcpy(info, what, strlen(what));
    memcpy(info + 32, first->b, TIER_HASH_BYTES);
    memcpy(info + 32 + TIER_HASH_BYTES, second->b, TIER_HASH_BYTES);
    bool ok = ctx && EVP_KDF_derive(ctx, out, TIER_MASK_KEY_BYTES, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return ok;
}

static enum tier_status derive(const struct mask_secret *mine, const uint8_t *their_public,
                               const struct tier_hash *list, const char *what,
                               const struct tier_hash *first, const struct tier_hash *second,
                               uint8_t *key_out, struct tier_err *err) {
    uint8_t secret[TIER_MASK_KEY_BYTES];
    enum tier_status st = TIER_OK;

    if (!agree(mine, their_public, secret))
        st = tier_fail(err, TIER_EPROTO, "secure sum: a child's public key is not one of X25519");
    else if (!expand(secret, list, what, first, second, key_out))
        st = tier_fail(err, TIER_EINTERNAL, "libcrypto cannot derive a key");
    OPENSSL_cleanse(secret, sizeof secret);
    return st;
}

enum tier_status mask_pair_key(const struct mask_secret *mine, const uint8_t *their_public,
                               const struct tier_hash *list, const struct tier_hash *first,
                               const struct tier_hash *second, uint8_t *key_out,
                               struct tier_err *err) {
    return derive(mine, their_public, list, "consilium mask pair 1", first, second, key_out, err);
}

/* Seals 64 bytes into 80, or opens 80 into 64. */
static bool gcm(bool seal, const uint8_t *key, const uint8_t *in, uint8_t *out) {
    static const uint8_t nonce[12] = {0};
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    const int n = 2 * TIER_SHAMIR_BYTES;
    uint8_t tag[16] = {0};
    int made = 0, more = 0;

    if (!seal)
        memcpy(tag, in + n, sizeof tag);
    bool ok = ctx && EVP_CipherInit_ex2(ctx, EVP_aes_256_gcm(), key, nonce, seal, NULL) == 1 &&
              EVP_CipherUpdate(ctx, out, &made, in, n) == 1 && made == n &&
              (seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, sizeof tag, tag) == 1) &&
              EVP_CipherFinal_ex(ctx, out + n, &more) == 1 &&
              (!seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, sizeof tag, out + n) == 1);
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

_Static_assert(sizeof(struct mask_shares) == 2 * TIER_SHAMIR_BYTES, "what is sealed");
static const char seal_info[] = "consilium mask share 1";

enum tier_status mask_seal(const struct mask_secret *mine, const uint8_t *their_public,
                           const struct tier_hash *list, const struct tier_hash *from,
                           const struct tier_hash *to, const struct mask_shares *shares,
                           uint8_t sealed_out[SEALED_BYTES], struct tier_err *err) {
    uint8_t key[TIER_MASK_KEY_BYTES];

    TIER_TRY(derive(mine, their_public, list, seal_info, from, to, key, err));
    bool ok = gcm(true, key, (const uint8_t *)shares, sealed_out);
    OPENSSL_cleanse(key, sizeof key);
    return ok ? TIER_OK : tier_fail(err, TIER_EINTERNAL, "libcrypto cannot seal a share");
}

enum tier_status mask_unseal(const struct mask_secret *mine, const uint8_t *their_public,
                             const struct tier_hash *list, const struct tier_hash *from,
                             const struct tier_hash *to, const uint8_t sealed[SEALED_BYTES],
                             struct mask_shares *shares_out, struct tier_err *err) {
    uint8_t key[TIER_MASK_KEY_BYTES];

    TIER_TRY(derive(mine, their_public, list, seal_info, from, to, key, err));
    bool ok = gcm(false, key, sealed, (uint8_t *)shares_out);
    OPENSSL_cleanse(key, sizeof key);
    if (ok)
        return TIER_OK;
    OPENSSL_cleanse(shares_out, sizeof *shares_out);
    return tier_fail(
        err, TIER_EPROTO,
        "secure sum: shares of a child are not sealed for this one, or not on the list "
        "that this one was told");
}

/* ---- trust ---- */

static enum tier_status identity_sign(void *arg, const void *data, size_t bytes, uint8_t *sig,
                                      size_t *sig_bytes_out, struct tier_err *err) {
    const struct tier_mask_identity *id = arg;
    return tier_key_sign(id->node->key, data, bytes, sig, sig_bytes_out, err);
}

static enum tier_status identity_check(void *arg, const char *name, const char *cert_pem,
                                       const void *data, size_t bytes, const uint8_t *sig,
                                       size_t sig_bytes, struct tier_err *err) {
    const struct tier_mask_identity *id = arg;
    struct tier_identity who;
    struct tier_cert *cert = NULL;
    enum tier_status st;

    TIER_TRY(tier_cert_from_pem(cert_pem, &cert, err));
    TIER_TRY_OUT(tier_cert_verify(cert, id->node->ca, id->now_s, &who, err));
    if (strcmp(who.name, name) != 0 || who.role != TIER_ROLE_SPOKE)
        st = tier_fail(err, TIER_EIDENTITY,
                       "the certificate is of the %s '%s'; of the spoke '%s' "
                       "it must be",
                       tier_role_text(who.role), who.name, name);
    else if (id->revoked && tier_revocations_has(id->revoked, who.serial))
        st = tier_fail(err, TIER_EIDENTITY, "its certificate is revoked");
    else
        st = tier_cert_check_signature(cert, data, bytes, sig, sig_bytes, err);
out:
    tier_cert_free(cert);
    return st == TIER_OK ? st : tier_err_prefix(err, "secure sum: child '%s'", name);
}

struct tier_mask_trust tier_mask_trust_of(struct tier_mask_identity *identity) {
    return (struct tier_mask_trust){.arg = identity,
                                    .cert = identity->node->cert_pem,
                                    .sign = identity_sign,
                                    .check = identity_check};
}
