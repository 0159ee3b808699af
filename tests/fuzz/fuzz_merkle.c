/* SPDX-License-Identifier: Apache-2.0 */
/* Proofs from a peer: of two heads, and of an entry under one, none passes but the tree's own. */
#include "fuzz/fuzz.h"
#include "tier/merkle.h"

#include <string.h>

#define ENTRIES 61

static struct tier_tree *tree(void) {
    static struct tier_tree *made;

    if (made)
        return made;
    FUZZ_CHECK(tier_tree_new("/tmp", &made, NULL) == TIER_OK);
    for (uint8_t i = 0; i < ENTRIES; i++)
        FUZZ_CHECK(tier_tree_add(made, &i, 1, NULL) == TIER_OK);
    return made;
}

static struct tier_hash root_of(uint64_t size) {
    struct tier_hash root = {{0}};
    FUZZ_CHECK(tier_tree_root(tree(), size, &root, NULL) == TIER_OK);
    return root;
}

/* Kind, the two numbers, and the hashes of a proof. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_hash proof[TIER_TREE_PROOF_MAX + 1], own[TIER_TREE_PROOF_MAX], leaf;
    size_t count, own_count = 0;
    bool accepted, right;

    if (size < 3)
        return 0;
    uint64_t small = data[1], large = data[2] % (ENTRIES + 1);
    count = (size - 3) / TIER_HASH_BYTES;
    if (count > TIER_TREE_PROOF_MAX)
        return 0;
    memcpy(proof, data + 3, count * TIER_HASH_BYTES);
    struct tier_hash newer = root_of(large), older = root_of(small <= ENTRIES ? small : 0);
    if (data[0] & 1) {
        uint8_t entry = (uint8_t)small;
        FUZZ_CHECK(tier_tree_leaf(&entry, 1, &leaf, NULL) == TIER_OK);
        accepted = tier_tree_check_inclusion(&leaf, small, large, proof, count, &newer);
        right = tier_tree_inclusion(tree(), small, large, own, &own_count, NULL) == TIER_OK;
    } else {
        accepted = tier_tree_check_consistency(small, &older, large, &newer, proof, count);
        right = tier_tree_consistency(tree(), small, large, own, &own_count, NULL) == TIER_OK;
    }
    right = right && own_count == count && memcmp(own, proof, count * TIER_HASH_BYTES) == 0;
    FUZZ_CHECK(accepted == right);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const uint8_t pairs[][2] = {{3, 7}, {4, 61}, {31, 61}, {32, 33}, {60, 61}, {5, 5}};
    struct tier_hash proof[TIER_TREE_PROOF_MAX];
    size_t count = 0;

    if (i >= 2 * sizeof pairs / sizeof *pairs)
        return 0;
    uint64_t small = pairs[i / 2][0], large = pairs[i / 2][1];
    out[0] = i & 1;
    out[1] = (uint8_t)small;
    out[2] = (uint8_t)large;
    if (i & 1) {
        if (tier_tree_inclusion(tree(), small, large, proof, &count, NULL) != TIER_OK)
            count = 0; /* an entry beyond the head: has no proof */
    } else {
        FUZZ_CHECK(tier_tree_consistency(tree(), small, large, proof, &count, NULL) == TIER_OK);
    }
    FUZZ_CHECK(3 + count * TIER_HASH_BYTES <= room);
    memcpy(out + 3, proof, count * TIER_HASH_BYTES);
    return 3 + count * TIER_HASH_BYTES;
}
