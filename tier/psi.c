/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcrypto has the curve and no hash to it. The map is the simplified one of Shallue, van de
 * Woestijne and Ulas (RFC 9380, 6.6.2) with A = -3 and Z = -10 (8.2), from two elements of the
 * field, whose points are added.
 */
#include "tier/psi.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/obj_mac.h>
#include <stdlib.h>
#include <string.h>

#define SECRET_TEXT "consilium overlap secret"
#define FIELD_BYTES 48 /* L of the suite: 256 bits and 128 to spare, over 8 */
#define BLOCK_BYTES 64 /* of SHA-256 */
#define PSEUDO_BYTES (2 * FIELD_BYTES)

struct tier_psi {
    EC_GROUP *group;
    BN_CTX *ctx;
    EC_POINT *point, *sum;
    BIGNUM *p, *a, *b;        /* of the curve */
    BIGNUM *root, *z, *other; /* (p + 1) / 4, Z, -b / a */
    BIGNUM *edge;             /* b / (Z a) */
    BIGNUM *k;
};

static enum tier_status failed(struct tier_err *err, const char *what) {
    return tier_fail(err, TIER_EINTERNAL, "libcrypto: %s", what);
}

static bool constants(struct tier_psi *b) {
    BIGNUM *t = BN_new();
    bool ok = t && EC_GROUP_get_curve(b->group, b->p, b->a, b->b, b->ctx) &&
              BN_copy(b->root, b->p) && BN_add_word(b->root, 1) && BN_rshift(b->root, b->root, 2) &&
              BN_copy(b->z, b->p) && BN_sub_word(b->z, 10) &&
              BN_mod_inverse(t, b->a, b->p, b->ctx) && BN_mod_mul(t, t, b->b, b->p, b->ctx) &&
              BN_sub(b->other, b->p, t) && BN_mod_inverse(b->edge, b->z, b->p, b->ctx) &&
              BN_mod_mul(b->edge, b->edge, t, b->p, b->ctx);
    BN_free(t);
    return ok;
}

enum tier_status tier_psi_new(struct tier_psi **out, struct tier_err *err) {
    struct tier_psi *b = calloc(1, sizeof *b);

    if (!b)
        return tier_fail(err, TIER_ENOMEM, "no memory for a group");
    BIGNUM **const numbers[] = {&b->p, &b->a, &b->b, &b->root, &b->z, &b->other, &b->edge, &b->k};
    bool ok = (b->group = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1)) != NULL &&
              (b->ctx = BN_CTX_new()) != NULL && (b->point = EC_POINT_new(b->group)) != NULL &&
              (b->sum = EC_POINT_new(b->group)) != NULL;
    for (size_t i = 0; ok && i < sizeof numbers / sizeof *numbers; i++)
        ok = (*numbers[i] = BN_new()) != NULL;
    if (!ok || !constants(b)) {
        tier_psi_free(b);
        return failed(err, "no P-256");
    }
    BN_set_flags(b->k, BN_FLG_CONSTTIME);
    *out = b;
    return TIER_OK;
}

void tier_psi_free(struct tier_psi *b) {
    if (!b)
        return;
    BN_clear_free(b->k);
    BN_free(b->p);
    BN_free(b->a);
    BN_free(b->b);
    BN_free(b->root);
    BN_free(b->z);
    BN_free(b->other);
    BN_free(b->edge);
    EC_POINT_clear_free(b->point);
    EC_POINT_clear_free(b->sum);
    BN_CTX_free(b->ctx);
    EC_GROUP_free(b->group);
    free(b);
}

/* ---- secrets --------------------------------------------------------------------------------- */

enum tier_status tier_psi_draw(struct tier_psi *b, struct tier_psi_secret *out,
                               struct tier_err *err) {
    const BIGNUM *order = EC_GROUP_get0_order(b->group);

    do
        if (!BN_priv_rand_range(b->k, order))
            return failed(err, "no random number");
    while (BN_is_zero(b->k));
    return BN_bn2binpad(b->k, out->b, sizeof out->b) == sizeof out->b
               ? TIER_OK
               : failed(err, "a random number is too long");
}

bool tier_psi_secret_fits(const struct tier_psi *b, const struct tier_psi_secret *secret) {
    return BN_bin2bn(secret->b, sizeof secret->b, b->k) && !BN_is_zero(b->k) &&
           BN_cmp(b->k, EC_GROUP_get0_order(b->group)) < 0;
}

void tier_psi_secret_id(const struct tier_psi_secret *secret, struct tier_hash *out) {
    uint8_t text[sizeof SECRET_TEXT + TIER_PSI_SECRET_BYTES] = SECRET_TEXT;

    memcpy(text + sizeof SECRET_TEXT, secret->b, sizeof secret->b);
    tier_hash_data(text, sizeof text, out);
    explicit_bzero(text, sizeof text);
}

/* ---- hashing to the curve -------------------------------------------------------------------- */

/* expand_message_xmd (RFC 9380, 5.3.1) to PSEUDO_BYTES. */
static bool expand(const char *domain, const void *name, size_t bytes, uint8_t *out) {
    const uint8_t zeros[BLOCK_BYTES] = {0}, length[3] = {0, PSEUDO_BYTES, 0};
    const uint8_t domain_bytes = (uint8_t)strlen(domain);
    struct tier_hasher *h = tier_hasher_new();
    struct tier_hash first, last = {{0}};

    if (!h)
        return false;
    tier_hasher_add(h, zeros, sizeof zeros);
    tier_hasher_add(h, name, bytes);
    tier_hasher_add(h, length, sizeof length);
    tier_hasher_add(h, domain, domain_bytes);
    tier_hasher_add(h, &domain_bytes, 1);
    tier_hasher_finish(h, &first);
    for (unsigned n = 1; n <= PSEUDO_BYTES / TIER_HASH_BYTES; n++) {
        const uint8_t i = (uint8_t)n;
        for (size_t k = 0; k < TIER_HASH_BYTES; k++)
            last.b[k] ^= first.b[k];
        tier_hasher_add(h, last.b, TIER_HASH_BYTES);
        tier_hasher_add(h, &i, 1);
        tier_hasher_add(h, domain, domain_bytes);
        tier_hasher_add(h, &domain_bytes, 1);
        tier_hasher_finish(h, &last);
        memcpy(out + (size_t)(n - 1) * TIER_HASH_BYTES, last.b, TIER_HASH_BYTES);
    }
    tier_hasher_free(h);
    return true;
}

/* g = x^3 + a x + b */
static bool curve_at(const struct tier_psi *b, const BIGNUM *x, BIGNUM *g) {
    return BN_mod_sqr(g, x, b->p, b->ctx) && BN_mod_add(g, g, b->a, b->p, b->ctx) &&
           BN_mod_mul(g, g, x, b->p, b->ctx) && BN_mod_add(g, g, b->b, b->p, b->ctx);
}

/* y = g^((p + 1) / 4), the root of g where it is a square, which *is_root says. */
static bool root_of(const struct tier_psi *b, const BIGNUM *g, BIGNUM *y, BIGNUM *t,
                    bool *is_root) {
    if (!BN_mod_exp(y, g, b->root, b->p, b->ctx) || !BN_mod_sqr(t, y, b->p, b->ctx))
        return false;
    *is_root = BN_cmp(t, g) == 0;
    return true;
}

static bool map(const struct tier_psi *b, const BIGNUM *u, EC_POINT *out) {
    bool ok, is_root = false;

    BN_CTX_start(b->ctx);
    BIGNUM *zu = BN_CTX_get(b->ctx), *t = BN_CTX_get(b->ctx), *x = BN_CTX_get(b->ctx),
           *g = BN_CTX_get(b->ctx), *y = BN_CTX_get(b->ctx);
    ok = y && BN_mod_sqr(zu, u, b->p, b->ctx) && BN_mod_mul(zu, zu, b->z, b->p, b->ctx) &&
         BN_mod_sqr(t, zu, b->p, b->ctx) && BN_mod_add(t, t, zu, b->p, b->ctx);
    if (ok && BN_is_zero(t))
        ok = BN_copy(x, b->edge) != NULL;
    else
        ok = ok && BN_mod_inverse(t, t, b->p, b->ctx) && BN_add_word(t, 1) &&
             BN_mod_mul(x, t, b->other, b->p, b->ctx);
    ok = ok && curve_at(b, x, g) && root_of(b, g, y, t, &is_root);
    if (ok && !is_root)
        ok = BN_mod_mul(x, x, zu, b->p, b->ctx) && curve_at(b, x, g) &&
             root_of(b, g, y, t, &is_root) && is_root;
    if (ok && BN_is_odd(u) != BN_is_odd(y) && !BN_is_zero(y))
        ok = BN_sub(y, b->p, y);
    ok = ok && EC_POINT_set_affine_coordinates(b->group, out, x, y, b->ctx);
    BN_CTX_end(b->ctx);
    return ok;
}

static bool put(const struct tier_psi *b, const EC_POINT *from, struct tier_psi_point *out) {
    return EC_POINT_point2oct(b->group, from, POINT_CONVERSION_COMPRESSED, out->b, sizeof out->b,
                              b->ctx) == sizeof out->b;
}

enum tier_status tier_psi_hash(struct tier_psi *b, const char *domain, const void *name,
                               size_t bytes, struct tier_psi_point *out, struct tier_err *err) {
    uint8_t pseudo[PSEUDO_BYTES];
    size_t n = strlen(domain);

    if (n == 0 || n > TIER_PSI_DOMAIN_BYTES_MAX)
        return tier_fail(err, TIER_EARG, "a domain of %zu bytes", n);
    BN_CTX_start(b->ctx);
    BIGNUM *u = BN_CTX_get(b->ctx);
    bool ok = u && expand(domain, name, bytes, pseudo);
    for (int i = 0; ok && i < 2; i++)
        ok = BN_bin2bn(pseudo + i * FIELD_BYTES, FIELD_BYTES, u) && BN_nnmod(u, u, b->p, b->ctx) &&
             map(b, u, i ? b->point : b->sum);
    ok = ok && EC_POINT_add(b->group, b->sum, b->sum, b->point, b->ctx) && put(b, b->sum, out);
    BN_CTX_end(b->ctx);
    return ok ? TIER_OK : failed(err, "a name does not map to the curve");
}

/* ---- blinding -------------------------------------------------------------------------------- */

static bool take(struct tier_psi *b, const struct tier_psi_point *point) {
    if (EC_POINT_oct2point(b->group, b->point, point->b, sizeof point->b, b->ctx) == 1 &&
        !EC_POINT_is_at_infinity(b->group, b->point))
        return true;
    ERR_clear_error();
    return false;
}

bool tier_psi_is_point(struct tier_psi *b, const struct tier_psi_point *point) {
    return take(b, point);
}

enum tier_status tier_psi_apply(struct tier_psi *b, const struct tier_psi_secret *secret,
                                struct tier_psi_point *point, struct tier_err *err) {
    if (!tier_psi_secret_fits(b, secret))
        return tier_fail(err, TIER_EARG, "a secret that is not between 1 and the group's order");
    if (!take(b, point))
        return tier_fail(err, TIER_EDATA, "bytes that are no point of P-256");
    return EC_POINT_mul(b->group, b->sum, NULL, b->point, b->k, b->ctx) && put(b, b->sum, point)
               ? TIER_OK
               : failed(err, "a point cannot be multiplied");
}
