/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/hash_lanes.h"

static struct tier_hash parsed(const char *hex) {
    struct tier_hash h;
    CHECK(tier_hash_parse(hex, &h));
    return h;
}

Test(tier_hash, sha256_of_abc_is_the_standards) {
    struct tier_hash h, want = parsed("ba7816bf8f01cfea414140de5dae2223"
                                      "b00361a396177a9cb410ff61f20015ad");
    tier_hash_data("abc", 3, &h);
    CHECK(tier_hash_equal(&h, &want));
    struct tier_hasher *hasher = tier_hasher_new();
    for (int twice = 0; twice < 2; twice++) {
        tier_hasher_add(hasher, "a", 1);
        tier_hasher_add(hasher, "bc", 2);
        tier_hasher_finish(hasher, &h);
        CHECK(tier_hash_equal(&h, &want));
    }
    tier_hasher_free(hasher);
}

Test(tier_hash, hex_goes_there_and_back) {
    char hex[TIER_HASH_HEX];
    struct tier_hash h, back;
    tier_hash_data("x", 1, &h);
    CHECK(tier_hash_parse(tier_hash_hex(&h, hex), &back));
    CHECK(tier_hash_equal(&h, &back));
    CHECK(!tier_hash_is_zero(&h));
}

Test(tier_hash, anything_but_64_hex_digits_is_refused) {
    char hex[TIER_HASH_HEX + 2];
    struct tier_hash h = {{1}}, kept = h;
    memset(hex, 'a', sizeof hex);
    hex[65] = '\0';
    CHECK(!tier_hash_parse(hex, &h));
    hex[63] = '\0';
    CHECK(!tier_hash_parse(hex, &h));
    CHECK(!tier_hash_parse("", &h));
    hex[63] = 'g';
    hex[64] = '\0';
    CHECK(!tier_hash_parse(hex, &h));
    CHECK(tier_hash_equal(&h, &kept));
}

/* The tree by its definition (RFC 6962, 2.1): split at the largest power of two below n. */
static void root_of(const uint8_t *data, size_t bytes, struct tier_hash *out) {
    struct tier_hasher *h = tier_hasher_new();
    size_t leaves = (bytes + TIER_LEAF_BYTES - 1) / TIER_LEAF_BYTES, split = 1;
    if (leaves > 1) {
        struct tier_hash left, right;
        while (split * 2 < leaves)
            split *= 2;
        root_of(data, split * TIER_LEAF_BYTES, &left);
        root_of(data + split * TIER_LEAF_BYTES, bytes - split * TIER_LEAF_BYTES, &right);
        tier_hasher_add(h, "\x01", 1);
        tier_hasher_add(h, left.b, 32);
        tier_hasher_add(h, right.b, 32);
    } else if (leaves == 1) {
        tier_hasher_add(h, "\x00", 1);
        tier_hasher_add(h, data, bytes);
    }
    tier_hasher_finish(h, out);
    tier_hasher_free(h);
}

Test(tier_hash, merkle_roots_follow_the_definition_for_any_length_and_pieces) {
    uint64_t seed = 1;
    size_t max = 40 * TIER_LEAF_BYTES + 17;
    uint8_t *data = malloc(max);
    struct tier_merkle *m = tier_merkle_new();
    for (size_t i = 0; i < max; i++)
        data[i] = (uint8_t)rng_next(&seed);
    for (size_t leaves = 0; leaves < 40; leaves += leaves < 18 ? 1 : 7) {
        for (int extra = -1; extra <= 1; extra++) {
            if (leaves == 0 && extra < 0)
                continue;
            size_t bytes = leaves * TIER_LEAF_BYTES + (size_t)extra;
            struct tier_hash want, got;
            root_of(data, bytes, &want);
            for (size_t at = 0; at < bytes;) {
                size_t n = 1 + rng_below(&seed, rng_below(&seed, 2) ? 100000 : 2000000);
                n = n < bytes - at ? n : bytes - at;
                tier_merkle_add(m, data + at, n);
                at += n;
            }
            tier_merkle_finish(m, &got);
            CHECK(tier_hash_equal(&want, &got), "%zu bytes", bytes);
        }
    }
    tier_merkle_free(m);
    free(data);
}

Test(tier_hash, a_leaf_that_moves_changes_the_root) {
    uint8_t *data = calloc(2, TIER_LEAF_BYTES);
    struct tier_hash a, b;
    struct tier_merkle *m = tier_merkle_new();
    data[0] = 1;
    tier_merkle_add(m, data, 2 * TIER_LEAF_BYTES);
    tier_merkle_finish(m, &a);
    data[0] = 0;
    data[TIER_LEAF_BYTES] = 1;
    tier_merkle_add(m, data, 2 * TIER_LEAF_BYTES);
    tier_merkle_finish(m, &b);
    CHECK(!tier_hash_equal(&a, &b));
    tier_merkle_free(m);
    free(data);
}

Test(tier_hash, every_implementation_hashes_any_number_of_leaves_as_libcrypto_does) {
    uint64_t seed = 7;
    uint8_t *message = malloc(TIER_HASH_LANES_MAX * TIER_LEAF_BYTES + 1), *data = message + 1;
    struct tier_hash want[TIER_HASH_LANES_MAX], got[TIER_HASH_LANES_MAX + 1];
    size_t tried = 0;
    for (size_t i = 0; i < TIER_HASH_LANES_MAX * TIER_LEAF_BYTES; i++)
        data[i] = (uint8_t)rng_next(&seed);
    struct tier_hasher *hasher = tier_hasher_new();
    for (size_t i = 0; i < TIER_HASH_LANES_MAX; i++) {
        tier_hasher_add(hasher, "", 1);
        tier_hasher_add(hasher, data + i * TIER_LEAF_BYTES, TIER_LEAF_BYTES);
        tier_hasher_finish(hasher, &want[i]);
    }
    tier_hasher_free(hasher);
    for (size_t k = 0; tier_hash_lanes_all[k]; k++) {
        const struct tier_hash_lanes *lanes = tier_hash_lanes_all[k];
        if (!lanes->here()) {
            fprintf(stderr, "skipped: %s: not on this processor\n", lanes->name);
            continue;
        }
        for (size_t count = 1; count <= lanes->lanes; count++, tried++) {
            memset(got, 0x5a, sizeof got);
            lanes->leaves(data, count, got);
            for (size_t i = 0; i < count; i++)
                CHECK(tier_hash_equal(&got[i], &want[i]), "%s, leaf %zu of %zu", lanes->name, i,
                      count);
            CHECK(got[count].b[0] == 0x5a, "%s writes behind its output", lanes->name);
        }
    }
    CHECK((tried > 0) == (tier_hash_lanes() != NULL));
    free(message);
}
