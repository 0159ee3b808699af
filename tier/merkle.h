/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Merkle tree over a log's entries, as RFC 6962 section 2.1 hashes it: a leaf is
 * SHA-256(0x00 || entry), a node SHA-256(0x01 || left || right), the left side the largest power of
 * two below the number of entries; the root of no entry is SHA-256 of nothing. With it a signed
 * head (a number of entries and their root) commits to everything before it: an inclusion proof
 * shows that an entry is under a head, a consistency proof that one head's entries are the first of
 * another's.
 *
 * The tree's hashes lie in an unnamed file that goes with the process: about 64 bytes an entry,
 * none of it in memory but one hash a level. It is made anew from the log when that is opened, so
 * that it can neither be stale nor be altered beside the log.
 *
 * Threads: a tree belongs to one thread; the checks have no state.
 */
#ifndef CONSILIUM_TIER_MERKLE_H
#define CONSILIUM_TIER_MERKLE_H

#include "tier/err.h"
#include "tier/hash.h"

#include <stdint.h>

#define TIER_TREE_SIZE_MAX (UINT64_C(1) << 48) /* entries */
#define TIER_TREE_PROOF_MAX 64                 /* hashes of a proof: one a level, and one */

/* The hash of an entry's leaf. */
enum tier_status tier_tree_leaf(const void *entry, size_t bytes, struct tier_hash *out,
                                struct tier_err *err);

/* ---- a tree that grows, of which only the root is asked ---- */

struct tier_tree_edge {
    uint64_t size;
    struct tier_hash
        peak[48]; /* of whole subtrees: that of 2^i leaves where bit i of size is set */
};

/* Zeroed, it is the empty one. TIER_ELIMIT: TIER_TREE_SIZE_MAX entries are in it. */
enum tier_status tier_tree_edge_add(struct tier_tree_edge *edge, const struct tier_hash *leaf,
                                    struct tier_err *err);
void tier_tree_edge_root(const struct tier_tree_edge *edge, struct tier_hash *out);

/* ---- a tree that gives proofs ---- */

struct tier_tree;

/* An empty one; its file is made in `dir` and has no name from then on. */
enum tier_status tier_tree_new(const char *dir, struct tier_tree **out, struct tier_err *err);
void tier_tree_free(struct tier_tree *tree); /* NULL is fine */

/* TIER_EIO, TIER_EFULL: the tree is as it was. */
enum tier_status tier_tree_add(struct tier_tree *tree, const void *entry, size_t bytes,
                               struct tier_err *err);
/* Takes the last entry back, which could not be kept. */
enum tier_status tier_tree_take_back(struct tier_tree *tree, struct tier_err *err);
uint64_t tier_tree_size(const struct tier_tree *tree);
/* Of its first `size` entries. TIER_EARG: it has fewer. */
enum tier_status tier_tree_root(const struct tier_tree *tree, uint64_t size, struct tier_hash *out,
                                struct tier_err *err);
/*
 * That entry `index` (from 0) is among the first `size`: into proof[TIER_TREE_PROOF_MAX], from the
 * leaf up. TIER_EARG: index >= size, or the tree has fewer.
 */
enum tier_status tier_tree_inclusion(const struct tier_tree *tree, uint64_t index, uint64_t size,
                                     struct tier_hash *proof, size_t *count_out,
                                     struct tier_err *err);
/* That the first `since` entries are those of a head of that size, likewise. No hash where the two
 * are equal or since is 0: every log begins like the empty one. */
enum tier_status tier_tree_consistency(const struct tier_tree *tree, uint64_t since, uint64_t size,
                                       struct tier_hash *proof, size_t *count_out,
                                       struct tier_err *err);

/* ---- checking what another tree gave: RFC 9162, sections 2.1.3.2 and 2.1.4.2 ---- */

bool tier_tree_check_inclusion(const struct tier_hash *leaf, uint64_t index, uint64_t size,
                               const struct tier_hash *proof, size_t count,
                               const struct tier_hash *root);
bool tier_tree_check_consistency(uint64_t since, const struct tier_hash *since_root, uint64_t size,
                                 const struct tier_hash *root, const struct tier_hash *proof,
                                 size_t count);

#endif
