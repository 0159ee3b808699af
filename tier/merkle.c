/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file holds the hashes of whole subtrees in the order in which they become known: a leaf, then
 * every node that it completes. So where a hash lies follows from its place in the tree: leaf i is
 * number 2 i - popcount(i), and a node stands as many places behind its last leaf as it is levels
 * above it. An entry is one write, and nothing that was written is written again.
 */
#include "tier/merkle.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tier_tree {
    int fd;
    struct tier_tree_edge edge;
};

static void node_hash(const struct tier_hash *left, const struct tier_hash *right,
                      struct tier_hash *out) {
    uint8_t both[1 + 2 * TIER_HASH_BYTES] = {1};

    memcpy(both + 1, left->b, TIER_HASH_BYTES);
    memcpy(both + 1 + TIER_HASH_BYTES, right->b, TIER_HASH_BYTES);
    tier_hash_data(both, sizeof both, out);
}

enum tier_status tier_tree_leaf(const void *entry, size_t bytes, struct tier_hash *out,
                                struct tier_err *err) {
    struct tier_hasher *hasher = tier_hasher_new();

    if (!hasher)
        return tier_fail(err, TIER_ENOMEM, "no memory to hash a log's entry");
    tier_hasher_add(hasher, "\0", 1);
    tier_hasher_add(hasher, entry, bytes);
    tier_hasher_finish(hasher, out);
    tier_hasher_free(hasher);
    return TIER_OK;
}

/* ---- the edge ---- */

/* `made` gets the leaf and every node that it completes; returns how many. */
static size_t edge_add(struct tier_tree_edge *edge, const struct tier_hash *leaf,
                       struct tier_hash made[49]) {
    unsigned level = 0;

    made[0] = *leaf;
    for (; edge->size >> level & 1; level++)
        node_hash(&edge->peak[level], &made[level], &made[level + 1]);
    edge->peak[level] = made[level];
    edge->size++;
    return level + 1;
}

static enum tier_status has_room(const struct tier_tree_edge *edge, struct tier_err *err) {
    if (edge->size < TIER_TREE_SIZE_MAX - 1)
        return TIER_OK;
    return tier_fail(err, TIER_ELIMIT, "a log has at most 2^48 entries");
}

enum tier_status tier_tree_edge_add(struct tier_tree_edge *edge, const struct tier_hash *leaf,
                                    struct tier_err *err) {
    struct tier_hash made[49];

    TIER_TRY(has_room(edge, err));
    edge_add(edge, leaf, made);
    return TIER_OK;
}

void tier_tree_edge_root(const struct tier_tree_edge *edge, struct tier_hash *out) {
    bool any = false;

    if (edge->size == 0)
        tier_hash_data("", 0, out);
    for (unsigned level = 0; level < 48; level++) {
        if (!(edge->size >> level & 1))
            continue;
        struct tier_hash right = *out;
        if (any)
            node_hash(&edge->peak[level], &right, out);
        else
            *out = edge->peak[level];
        any = true;
    }
}

/* ---- the file ---- */

static off_t place_of_leaf(uint64_t index) {
    return (off_t)(2 * index - (uint64_t)__builtin_popcountll(index)) * TIER_HASH_BYTES;
}

static enum tier_status read_node(const struct tier_tree *tree, unsigned level, uint64_t first,
                                  struct tier_hash *out, struct tier_err *err) {
    off_t at = place_of_leaf(first + (UINT64_C(1) << level) - 1) + (off_t)level * TIER_HASH_BYTES;
    size_t done = 0;

    while (done < TIER_HASH_BYTES) {
        ssize_t n = pread(tree->fd, out->b + done, TIER_HASH_BYTES - done, at + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return tier_fail_errno(err, TIER_EIO, "a log's tree cannot be read");
        if (n == 0)
            return tier_fail(err, TIER_EINTERNAL, "a log's tree ends before its node");
        done += (size_t)n;
    }
    return TIER_OK;
}

enum tier_status tier_tree_new(const char *dir, struct tier_tree **out, struct tier_err *err) {
    char path[PATH_MAX];
    struct tier_tree *tree = calloc(1, sizeof *tree);

    if (!tree)
        return tier_fail(err, TIER_ENOMEM, "no memory for a log's tree");
    int n = snprintf(path, sizeof path, "%s/.tree-XXXXXX", dir);
    tree->fd = n > 0 && (size_t)n < sizeof path ? mkostemp(path, O_CLOEXEC) : -1;
    if (tree->fd < 0) {
        free(tree);
        return tier_fail_errno(err, TIER_EIO, "a log's tree cannot be made in %s", dir);
    }
    unlink(path);
    *out = tree;
    return TIER_OK;
}

void tier_tree_free(struct tier_tree *tree) {
    if (!tree)
        return;
    close(tree->fd);
    free(tree);
}

enum tier_status tier_tree_add(struct tier_tree *tree, const void *entry, size_t bytes,
                               struct tier_err *err) {
    struct tier_hash leaf, made[49];
    struct tier_tree_edge next = tree->edge;

    TIER_TRY(has_room(&tree->edge, err));
    TIER_TRY(tier_tree_leaf(entry, bytes, &leaf, err));
    const size_t total = edge_add(&next, &leaf, made) * TIER_HASH_BYTES;
    for (size_t done = 0; done < total;) {
        ssize_t n = pwrite(tree->fd, (const uint8_t *)made + done, total - done,
                           place_of_leaf(tree->edge.size) + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return tier_fail_errno(err, TIER_EIO, "a log's tree cannot be written");
        done += (size_t)n;
    }
    tree->edge = next;
    return TIER_OK;
}

enum tier_status tier_tree_take_back(struct tier_tree *tree, struct tier_err *err) {
    struct tier_tree_edge before = {.size = tree->edge.size - 1};
    uint64_t first = 0;

    assert(tree->edge.size > 0);
    for (unsigned level = 48; level-- > 0;) {
        if (!(before.size >> level & 1))
            continue;
        TIER_TRY(read_node(tree, level, first, &before.peak[level], err));
        first += UINT64_C(1) << level;
    }
    tree->edge = before;
    return TIER_OK;
}

uint64_t tier_tree_size(const struct tier_tree *tree) {
    return tree->edge.size;
}

/* ---- roots and proofs ---- */

/* The level of the largest whole subtree that is smaller than `count` entries, count > 1. */
static unsigned split_level(uint64_t count) {
    return 63u - (unsigned)__builtin_clzll(count - 1);
}

/* The hash of entries [first, end); first is a multiple of the largest power of two in them. */
static enum tier_status range_hash(const struct tier_tree *tree, uint64_t first, uint64_t end,
                                   struct tier_hash *out, struct tier_err *err) {
    struct tier_hash whole[48];
    size_t count = 0;

    while (first < end) { /* the whole subtrees of it, from the largest on */
        unsigned level = 63u - (unsigned)__builtin_clzll(end - first);
        TIER_TRY(read_node(tree, level, first, &whole[count++], err));
        first += UINT64_C(1) << level;
    }
    *out = whole[--count];
    while (count > 0) {
        struct tier_hash right = *out;
        node_hash(&whole[--count], &right, out);
    }
    return TIER_OK;
}

static enum tier_status has_size(const struct tier_tree *tree, uint64_t size,
                                 struct tier_err *err) {
    if (size <= tree->edge.size)
        return TIER_OK;
    return tier_fail(err, TIER_EARG, "the log has %" PRIu64 " entries, not %" PRIu64,
                     tree->edge.size, size);
}

enum tier_status tier_tree_root(const struct tier_tree *tree, uint64_t size, struct tier_hash *out,
                                struct tier_err *err) {
    TIER_TRY(has_size(tree, size, err));
    if (size == 0 || size == tree->edge.size) {
        const struct tier_tree_edge none = {0};
        tier_tree_edge_root(size ? &tree->edge : &none, out);
        return TIER_OK;
    }
    return range_hash(tree, 0, size, out, err);
}

static void reverse(struct tier_hash *proof, size_t count) {
    for (size_t i = 0; i < count / 2; i++) {
        struct tier_hash kept = proof[i];
        proof[i] = proof[count - 1 - i];
        proof[count - 1 - i] = kept;
    }
}

/* RFC 6962's PATH. */
enum tier_status tier_tree_inclusion(const struct tier_tree *tree, uint64_t index, uint64_t size,
                                     struct tier_hash *proof, size_t *count_out,
                                     struct tier_err *err) {
    uint64_t first = 0, end = size;
    size_t count = 0;

    TIER_TRY(has_size(tree, size, err));
    if (index >= size)
        return tier_fail(err, TIER_EARG, "entry %" PRIu64 " is not among %" PRIu64, index, size);
    while (end - first > 1) {
        uint64_t middle = first + (UINT64_C(1) << split_level(end - first));
        bool left = index < middle;
        TIER_TRY(
            range_hash(tree, left ? middle : first, left ? end : middle, &proof[count++], err));
        first = left ? first : middle;
        end = left ? middle : end;
    }
    reverse(proof, count);
    *count_out = count;
    return TIER_OK;
}

/* RFC 6962's SUBPROOF; `known`: the verifier has the hash of [first, end) already, which is so as
 * long as first is 0. */
enum tier_status tier_tree_consistency(const struct tier_tree *tree, uint64_t since, uint64_t size,
                                       struct tier_hash *proof, size_t *count_out,
                                       struct tier_err *err) {
    uint64_t first = 0, end = size;
    size_t count = 0;

    TIER_TRY(has_size(tree, size, err));
    if (since > size)
        return tier_fail(err, TIER_EARG, "%" PRIu64 " entries are not the first of %" PRIu64, since,
                         size);
    if (since == 0 || since == size) {
        *count_out = 0;
        return TIER_OK;
    }
    while (end != since) {
        uint64_t middle = first + (UINT64_C(1) << split_level(end - first));
        bool left = since <= middle;
        TIER_TRY(
            range_hash(tree, left ? middle : first, left ? end : middle, &proof[count++], err));
        first = left ? first : middle;
        end = left ? middle : end;
    }
    if (first > 0)
        TIER_TRY(range_hash(tree, first, end, &proof[count++], err));
    reverse(proof, count);
    *count_out = count;
    return TIER_OK;
}

/* ---- checking ---- */

bool tier_tree_check_inclusion(const struct tier_hash *leaf, uint64_t index, uint64_t size,
                               const struct tier_hash *proof, size_t count,
                               const struct tier_hash *root) {
    uint64_t node = index, last = size - 1;
    struct tier_hash made = *leaf;

    if (index >= size)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (last == 0)
            return false;
        if (node & 1 || node == last) {
            node_hash(&proof[i], &made, &made);
            while (!(node & 1) && node != 0) {
                node >>= 1;
                last >>= 1;
            }
        } else {
            node_hash(&made, &proof[i], &made);
        }
        node >>= 1;
        last >>= 1;
    }
    return last == 0 && tier_hash_equal(&made, root);
}

bool tier_tree_check_consistency(uint64_t since, const struct tier_hash *since_root, uint64_t size,
                                 const struct tier_hash *root, const struct tier_hash *proof,
                                 size_t count) {
    if (since > size)
        return false;
    if (since == size)
        return count == 0 && tier_hash_equal(since_root, root);
    if (since == 0) {
        struct tier_hash none;
        tier_hash_data("", 0, &none);
        return count == 0 && tier_hash_equal(since_root, &none);
    }
    bool whole = (since & (since - 1)) == 0; /* the older root is itself a node */
    if (count == 0)
        return false;
    uint64_t node = since - 1, last = size - 1;
    while (node & 1) {
        node >>= 1;
        last >>= 1;
    }
    struct tier_hash older = whole ? *since_root : proof[0], newer = older;
    for (size_t i = whole ? 0 : 1; i < count; i++) {
        if (last == 0)
            return false;
        if (node & 1 || node == last) {
            node_hash(&proof[i], &older, &older);
            node_hash(&proof[i], &newer, &newer);
            while (!(node & 1) && node != 0) {
                node >>= 1;
                last >>= 1;
            }
        } else {
            node_hash(&newer, &proof[i], &newer);
        }
        node >>= 1;
        last >>= 1;
    }
    return last == 0 && tier_hash_equal(&older, since_root) && tier_hash_equal(&newer, root);
}
