/* SPDX-License-Identifier: Apache-2.0 */
/* Against RFC 6962's own definitions, computed elsewhere (tests/support/make_merkle_golden.py). */
#include "support/tier_fixture.h"
#include "tier/merkle.h"

#include "merkle_golden.inc"

#define SIZE_MAX_TESTED 70

static struct tier_hash parsed(const char *hex) {
    struct tier_hash h;
    CHECK(tier_hash_parse(hex, &h));
    return h;
}

static struct tier_tree *tree_of(size_t size) {
    struct tier_tree *tree = NULL;

    MUST(tier_tree_new("/tmp", &tree, err));
    for (size_t i = 0; i < size; i++) {
        char text[24];
        int n = snprintf(text, sizeof text, "%zu", i);
        MUST(tier_tree_add(tree, text, (size_t)n, err));
    }
    return tree;
}

static struct tier_hash leaf_of(size_t index) {
    char text[24];
    struct tier_hash leaf;
    int n = snprintf(text, sizeof text, "%zu", index);
    CHECK(tier_tree_leaf(text, (size_t)n, &leaf, NULL) == TIER_OK);
    return leaf;
}

Test(tier_merkle, the_roots_are_those_that_certificate_transparency_is_tested_with) {
    static const char entries[] = "\x00\x10\x20\x21\x30\x31"
                                  "@ABCPQRSTUVW`abcdefghijklmno";
    static const size_t bytes[] = {0, 1, 1, 2, 2, 4, 8, 16};
    struct tier_tree_edge edge = {0};
    size_t at = 0;

    for (size_t i = 0; i < 8; i++) {
        struct tier_hash leaf, root, want = parsed(known_roots[i]);
        CHECK(tier_tree_leaf(entries + at, bytes[i], &leaf, NULL) == TIER_OK);
        CHECK(tier_tree_edge_add(&edge, &leaf, NULL) == TIER_OK);
        tier_tree_edge_root(&edge, &root);
        CHECK(tier_hash_equal(&root, &want));
        at += bytes[i];
    }
}

Test(tier_merkle, every_root_of_a_growing_tree_stays_to_be_had) {
    struct tier_tree *tree = tree_of(SIZE_MAX_TESTED);

    for (size_t n = 0; n <= SIZE_MAX_TESTED; n++) {
        struct tier_hash root, want = parsed(roots[n]);
        CHECK(tier_tree_root(tree, n, &root, NULL) == TIER_OK);
        CHECK(tier_hash_equal(&root, &want));
    }
    struct tier_hash root;
    CHECK(tier_tree_root(tree, SIZE_MAX_TESTED + 1, &root, NULL) == TIER_EARG);
    tier_tree_free(tree);
}

Test(tier_merkle, every_proof_is_that_of_the_rfcs_definitions) {
    struct tier_tree *tree = tree_of(SIZE_MAX_TESTED);
    struct tier_hasher *hasher = tier_hasher_new();
    struct tier_hash proof[TIER_TREE_PROOF_MAX], made, want;

    for (size_t k = 0; k < sizeof proofs / sizeof *proofs; k++) {
        size_t count, total = 0;
        for (size_t i = 0; i < proofs[k].size; i++, total += count) {
            CHECK(tier_tree_inclusion(tree, i, proofs[k].size, proof, &count, NULL) == TIER_OK);
            tier_hasher_add(hasher, proof, count * sizeof *proof);
        }
        tier_hasher_finish(hasher, &made);
        want = parsed(proofs[k].inclusion);
        CHECK(tier_hash_equal(&made, &want) && total == proofs[k].inclusion_count);
        total = 0;
        for (size_t m = 1; m < proofs[k].size; m++, total += count) {
            CHECK(tier_tree_consistency(tree, m, proofs[k].size, proof, &count, NULL) == TIER_OK);
            tier_hasher_add(hasher, proof, count * sizeof *proof);
        }
        tier_hasher_finish(hasher, &made);
        want = parsed(proofs[k].consistency);
        CHECK(tier_hash_equal(&made, &want) && total == proofs[k].consistency_count);
    }
    tier_hasher_free(hasher);
    tier_tree_free(tree);
}

Test(tier_merkle, an_inclusion_proof_holds_for_its_entry_and_its_place_alone) {
    struct tier_tree *tree = tree_of(SIZE_MAX_TESTED);
    struct tier_hash proof[TIER_TREE_PROOF_MAX];
    size_t count;

    for (size_t size = 1; size <= 37; size++) {
        struct tier_hash root = parsed(roots[size]);
        for (size_t i = 0; i < size; i++) {
            struct tier_hash leaf = leaf_of(i), other = leaf_of(i + 1);
            CHECK(tier_tree_inclusion(tree, i, size, proof, &count, NULL) == TIER_OK);
            CHECK(tier_tree_check_inclusion(&leaf, i, size, proof, count, &root));
            CHECK(!tier_tree_check_inclusion(&other, i, size, proof, count, &root));
            CHECK(!tier_tree_check_inclusion(&leaf, i + 1, size, proof, count, &root));
            CHECK(!tier_tree_check_inclusion(&leaf, size, size, proof, count, &root));
            CHECK(!tier_tree_check_inclusion(&leaf, i, 0, proof, count, &root));
            if (count == 0)
                continue;
            CHECK(!tier_tree_check_inclusion(&leaf, i, size, proof, count - 1, &root));
            proof[count - 1].b[7] ^= 1;
            CHECK(!tier_tree_check_inclusion(&leaf, i, size, proof, count, &root));
        }
    }
    CHECK(tier_tree_inclusion(tree, 5, 5, proof, &count, NULL) == TIER_EARG);
    tier_tree_free(tree);
}

Test(tier_merkle, a_consistency_proof_holds_between_its_two_heads_alone) {
    struct tier_tree *tree = tree_of(SIZE_MAX_TESTED);
    struct tier_hash proof[TIER_TREE_PROOF_MAX];
    size_t count;

    for (size_t size = 1; size <= 37; size++) {
        for (size_t since = 0; since <= size; since++) {
            struct tier_hash newer = parsed(roots[size]), older = parsed(roots[since]), bad = older;
            bad.b[0] ^= 1;
            CHECK(tier_tree_consistency(tree, since, size, proof, &count, NULL) == TIER_OK);
            CHECK(tier_tree_check_consistency(since, &older, size, &newer, proof, count));
            CHECK(!tier_tree_check_consistency(since, &bad, size, &newer, proof, count));
            bad = newer;
            bad.b[31] ^= 0x80;
            if (since > 0)
                CHECK(!tier_tree_check_consistency(since, &older, size, &bad, proof, count));
            CHECK(!tier_tree_check_consistency(size + 1, &older, size, &newer, proof, count));
            if (count == 0)
                continue;
            CHECK(!tier_tree_check_consistency(since, &older, size, &newer, proof, count - 1));
            CHECK(!tier_tree_check_consistency(since + 1, &older, size, &newer, proof, count));
            proof[0].b[3] ^= 4;
            CHECK(!tier_tree_check_consistency(since, &older, size, &newer, proof, count));
        }
    }
    CHECK(tier_tree_consistency(tree, 6, 5, proof, &count, NULL) == TIER_EARG);
    tier_tree_free(tree);
}

Test(tier_merkle, two_logs_with_one_beginning_are_consistent_with_it_and_not_with_each_other) {
    struct tier_tree *one = tree_of(21), *other = tree_of(20);
    struct tier_hash proof[TIER_TREE_PROOF_MAX], root, split, common = parsed(roots[20]);
    size_t count;

    MUST(tier_tree_add(other, "something else", 14, err));
    for (int i = 0; i < 9; i++)
        MUST(tier_tree_add(other, "more", 4, err));
    MUST(tier_tree_root(other, 30, &root, err));
    MUST(tier_tree_root(one, 21, &split, err));
    MUST(tier_tree_consistency(other, 20, 30, proof, &count, err));
    CHECK(tier_tree_check_consistency(20, &common, 30, &root, proof, count));
    MUST(tier_tree_consistency(other, 21, 30, proof, &count, err));
    CHECK(!tier_tree_check_consistency(21, &split, 30, &root, proof, count));
    tier_tree_free(one);
    tier_tree_free(other);
}

Test(tier_merkle, an_entry_taken_back_was_never_there) {
    for (size_t n = 1; n <= 40; n++) {
        struct tier_tree *tree = tree_of(n - 1);
        struct tier_hash root, want = parsed(roots[n]);
        char text[24];

        MUST(tier_tree_add(tree, "torn", 4, err));
        MUST(tier_tree_take_back(tree, err));
        int bytes = snprintf(text, sizeof text, "%zu", n - 1);
        MUST(tier_tree_add(tree, text, (size_t)bytes, err));
        CHECK(tier_tree_size(tree) == n);
        MUST(tier_tree_root(tree, n, &root, err));
        CHECK(tier_hash_equal(&root, &want));
        tier_tree_free(tree);
    }
}

Test(tier_merkle, a_tree_whose_folder_is_not_there_is_refused_by_its_name) {
    struct tier_tree *tree = NULL;
    struct tier_err err = {0};

    CHECK(tier_tree_new("/tmp/no/such/folder", &tree, &err) == TIER_EIO);
    CHECK(tree == NULL && strstr(err.text, "/tmp/no/such/folder") != NULL);
}
