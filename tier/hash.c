/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 through libcrypto's EVP interface. The algorithm is fetched once for the process: in
 * OpenSSL 3 the fetch behind EVP_sha256() costs as much as hashing a kilobyte, and a Merkle tree
 * begins a digest for each of its nodes.
 *
 * Whole leaves that lie together are hashed several at a time where the processor can, and where
 * they fill at least half of its lanes.
 *
 * The tree keeps one finished node per level, like a binary counter: level i is occupied where bit
 * i of the number of leaves is set.
 */
#include "tier/hash.h"

#include "tier/hash_lanes.h"
#include "tier/limits.h"

#include <assert.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct tier_hasher {
    EVP_MD_CTX *ctx;
};

struct tier_merkle {
    EVP_MD_CTX *leaf;
    EVP_MD_CTX *node;
    const struct tier_hash_lanes *lanes; /* NULL: one leaf at a time */
    size_t leaf_bytes;                   /* in the unfinished leaf */
    uint64_t leaves;                     /* finished ones */
    uint64_t bytes;
    struct tier_hash level[64];
};

static pthread_once_t sha256_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256_md;

static void sha256_fetch(void) {
    sha256_md = EVP_MD_fetch(NULL, "SHA256", NULL);
}

/* NULL where libcrypto has no memory left, or no SHA-256: nothing can run then. */
static EVP_MD_CTX *digest_new(void) {
    pthread_once(&sha256_once, sha256_fetch);
    EVP_MD_CTX *ctx = sha256_md ? EVP_MD_CTX_new() : NULL;
    if (ctx && EVP_DigestInit_ex(ctx, sha256_md, NULL) != 1) {
        EVP_MD_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

/* On a context that was set up once, libcrypto's SHA-256 has no way left to fail. */
static void digest_add(EVP_MD_CTX *ctx, const void *data, size_t bytes) {
    int ok = EVP_DigestUpdate(ctx, data, bytes);
    assert(ok == 1);
    (void)ok;
}

static void digest_finish(EVP_MD_CTX *ctx, struct tier_hash *out) {
    int ok = EVP_DigestFinal_ex(ctx, out->b, NULL) == 1 && EVP_DigestInit_ex(ctx, NULL, NULL) == 1;
    assert(ok);
    (void)ok;
}

void tier_hash_data(const void *data, size_t bytes, struct tier_hash *out) {
    pthread_once(&sha256_once, sha256_fetch);
    int ok = sha256_md && EVP_Digest(data, bytes, out->b, NULL, sha256_md, NULL) == 1;
    assert(ok);
    (void)ok;
}

bool tier_hash_equal(const struct tier_hash *a, const struct tier_hash *b) {
    return memcmp(a->b, b->b, TIER_HASH_BYTES) == 0;
}

bool tier_hash_is_zero(const struct tier_hash *h) {
    static const struct tier_hash zero;
    return tier_hash_equal(h, &zero);
}

const char *tier_hash_hex(const struct tier_hash *h, char *hex) {
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < TIER_HASH_BYTES; i++) {
        hex[2 * i] = digits[h->b[i] >> 4];
        hex[2 * i + 1] = digits[h->b[i] & 15];
    }
    hex[TIER_HASH_HEX - 1] = '\0';
    return hex;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool tier_hash_parse(const char *hex, struct tier_hash *out) {
    struct tier_hash h;

    for (size_t i = 0; i < TIER_HASH_BYTES; i++) {
        int high = hex_digit(hex[2 * i]);
        int low = high < 0 ? -1 : hex_digit(hex[2 * i + 1]);
        if (low < 0)
            return false;
        h.b[i] = (uint8_t)(high << 4 | low);
    }
    if (hex[TIER_HASH_HEX - 1] != '\0')
        return false;
    *out = h;
    return true;
}

struct tier_hasher *tier_hasher_new(void) {
    struct tier_hasher *h = calloc(1, sizeof *h);

    if (!h)
        return NULL;
    h->ctx = digest_new();
    if (!h->ctx) {
        free(h);
        return NULL;
    }
    return h;
}

void tier_hasher_free(struct tier_hasher *h) {
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    free(h);
}

void tier_hasher_add(struct tier_hasher *h, const void *data, size_t bytes) {
    digest_add(h->ctx, data, bytes);
}

void tier_hasher_finish(struct tier_hasher *h, struct tier_hash *out) {
    digest_finish(h->ctx, out);
}

struct tier_merkle *tier_merkle_new(void) {
    struct tier_merkle *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    m->lanes = tier_hash_lanes();
    m->leaf = digest_new();
    m->node = digest_new();
    if (!m->leaf || !m->node) {
        tier_merkle_free(m);
        return NULL;
    }
    return m;
}

void tier_merkle_free(struct tier_merkle *m) {
    if (!m)
        return;
    EVP_MD_CTX_free(m->leaf);
    EVP_MD_CTX_free(m->node);
    free(m);
}

static void merkle_join(struct tier_merkle *m, const struct tier_hash *left,
                        struct tier_hash *right_and_out) {
    digest_add(m->node, "\x01", 1);
    digest_add(m->node, left->b, TIER_HASH_BYTES);
    digest_add(m->node, right_and_out->b, TIER_HASH_BYTES);
    digest_finish(m->node, right_and_out);
}

static void merkle_put_leaf(struct tier_merkle *m, struct tier_hash h) {
    unsigned level = 0;

    for (; m->leaves >> level & 1; level++)
        merkle_join(m, &m->level[level], &h);
    m->level[level] = h;
    m->leaves++;
}

static void merkle_close_leaf(struct tier_merkle *m) {
    struct tier_hash h;

    digest_finish(m->leaf, &h);
    m->leaf_bytes = 0;
    merkle_put_leaf(m, h);
}

/* As many of `count` whole leaves as there are lanes; returns their bytes. */
static size_t merkle_put_leaves(struct tier_merkle *m, const uint8_t *leaves, size_t count) {
    struct tier_hash h[TIER_HASH_LANES_MAX];
    size_t n = count < m->lanes->lanes ? count : m->lanes->lanes;

    m->lanes->leaves(leaves, n, h);
    for (size_t i = 0; i < n; i++)
        merkle_put_leaf(m, h[i]);
    return n * TIER_LEAF_BYTES;
}

void tier_merkle_add(struct tier_merkle *m, const void *data, size_t bytes) {
    const uint8_t *p = data;

    m->bytes += bytes;
    while (bytes > 0) {
        if (m->leaf_bytes == 0 && m->lanes && 2 * (bytes / TIER_LEAF_BYTES) >= m->lanes->lanes) {
            size_t n = merkle_put_leaves(m, p, bytes / TIER_LEAF_BYTES);
            p += n;
            bytes -= n;
            continue;
        }
        size_t n = TIER_LEAF_BYTES - m->leaf_bytes;
        if (n > bytes)
            n = bytes;
        if (m->leaf_bytes == 0)
            digest_add(m->leaf, "\x00", 1);
        digest_add(m->leaf, p, n);
        m->leaf_bytes += n;
        if (m->leaf_bytes == TIER_LEAF_BYTES)
            merkle_close_leaf(m);
        p += n;
        bytes -= n;
    }
}

void tier_merkle_finish(struct tier_merkle *m, struct tier_hash *out) {
    if (m->leaf_bytes > 0)
        merkle_close_leaf(m);
    if (m->leaves == 0) {
        tier_hash_data("", 0, out);
    } else {
        unsigned level = 0;
        while (!(m->leaves >> level & 1))
            level++;
        struct tier_hash h = m->level[level];
        for (level++; level < 64 && m->leaves >> level != 0; level++)
            if (m->leaves >> level & 1)
                merkle_join(m, &m->level[level], &h);
        *out = h;
    }
    m->leaves = 0;
    m->bytes = 0;
}
