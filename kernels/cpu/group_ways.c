/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ring and the tree (kernels/group.h states their order of summation). A rank reads its
 * neighbour's array where it lies and writes its own alone. What a rank may read is what its
 * neighbour has told; what it may overwrite is safe because whoever still had to read it comes
 * before, in the chain of those it waited for: in the ring, step G of rank r follows step
 * G - (ranks - 1) of rank r + 1, its only reader.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fold.h"
#include "kernels/cpu/group.h"

#include <string.h>

/* Elements of the tree that travel at a time, so that its levels work at once. */
#define PIECE ((size_t)32 << 10)

static size_t bytes_of(const struct kern_rank *r, size_t n) {
    return n * (r->call.type == KERN_F32 ? sizeof(float) : sizeof(int64_t));
}

static void *place(const struct kern_rank *r, size_t rank, size_t at) {
    return (char *)r->part[rank] + bytes_of(r, at);
}

/* Mine = mine + theirs, in this order. */
static void add(const struct kern_rank *r, size_t other, size_t at, size_t n) {
    if (n == 0) {
        return;
    }
    if (r->call.type == KERN_F32) {
        float *y = place(r, r->rank, at);
        const float *x = place(r, other, at);
        for (size_t i = 0; i < n; i++) {
            y[i] = x[i] + y[i];
        }
    } else {
        int64_t *y = place(r, r->rank, at);
        const int64_t *x = place(r, other, at);
        for (size_t i = 0; i < n; i++) {
            y[i] = kern_wrap_add(x[i], y[i]);
        }
    }
}

static void copy(const struct kern_rank *r, size_t other, size_t at, size_t n) {
    if (n > 0 && other != r->rank) {
        memcpy(place(r, r->rank, at), place(r, other, at), bytes_of(r, n));
    }
}

static bool has_shares(const struct kern_rank *r) {
    return r->call.op == KERN_GROUP_REDUCE_SCATTER || r->call.op == KERN_GROUP_ALL_GATHER;
}

static size_t total(const struct kern_rank *r) {
    return has_shares(r) ? r->call.n * r->ranks : r->call.n;
}

/* Where share c begins; the one behind the last begins at the end. */
static size_t begin(const struct kern_rank *r, size_t c) {
    return has_shares(r) ? r->call.n * c : kern_cpu_part_begin(r->call.n, r->ranks, c);
}

static size_t before(const struct kern_rank *r, size_t steps) {
    return (r->rank + 2 * r->ranks - steps) % r->ranks;
}

/* ---- ring ---------------------------------------------------------------------------------- */

/* Share r ends in rank r: each share walks the ring once, starting behind its owner. */
static bool ring_scatter(const struct kern_rank *r) {
    size_t prev = before(r, 1);
    for (size_t s = 0; s + 1 < r->ranks; s++) {
        size_t c = before(r, 2 + s), at = begin(r, c);
        if (!kern_rank_wait(r, KERN_TRACK_UP, prev, s)) {
            return false;
        }
        add(r, prev, at, begin(r, c + 1) - at);
        kern_rank_tell(r, KERN_TRACK_UP, s + 1);
    }
    return true;
}

/* After `done` steps of the ring, every share walks it once more. */
static bool ring_gather(const struct kern_rank *r, size_t done) {
    size_t prev = before(r, 1);
    for (size_t t = 0; t + 1 < r->ranks; t++) {
        size_t c = before(r, 1 + t), at = begin(r, c);
        if (!kern_rank_wait(r, KERN_TRACK_UP, prev, done + t)) {
            return false;
        }
        copy(r, prev, at, begin(r, c + 1) - at);
        kern_rank_tell(r, KERN_TRACK_UP, done + t + 1);
    }
    return true;
}

static bool ring_reduce(const struct kern_rank *r) {
    bool ok = ring_scatter(r);
    for (size_t c = 0; ok && r->rank == r->call.root && c < r->ranks; c++) {
        ok = kern_rank_wait(r, KERN_TRACK_UP, c, r->ranks - 1);
        if (ok) {
            copy(r, c, begin(r, c), begin(r, c + 1) - begin(r, c));
        }
    }
    return ok;
}

/* ---- pieces that go up and down ------------------------------------------------------------ */

static size_t from_root(const struct kern_rank *r) {
    return (r->rank + r->ranks - r->call.root) % r->ranks;
}

static size_t absolute(const struct kern_rank *r, size_t relative) {
    return (relative + r->call.root) % r->ranks;
}

static bool tree_up(const struct kern_rank *r) {
    size_t me = from_root(r), n = total(r);
    for (size_t at = 0, piece = 1; at < n; at += PIECE, piece++) {
        size_t m = n - at < PIECE ? n - at : PIECE;
        for (size_t bit = 1; bit < r->ranks && (me & bit) == 0 && (me | bit) < r->ranks; bit *= 2) {
            size_t child = absolute(r, me | bit);
            if (!kern_rank_wait(r, KERN_TRACK_UP, child, piece)) {
                return false;
            }
            add(r, child, at, m);
        }
        kern_rank_tell(r, KERN_TRACK_UP, piece);
    }
    return true;
}

/* Copies what `from` has told piece by piece; the root, which waits for none, tells all at once. */
static bool take_from(const struct kern_rank *r, size_t from) {
    size_t n = total(r);
    for (size_t at = 0, piece = 1; at < n; at += PIECE, piece++) {
        if (from != r->rank) {
            if (!kern_rank_wait(r, KERN_TRACK_DOWN, from, piece)) {
                return false;
            }
            copy(r, from, at, n - at < PIECE ? n - at : PIECE);
        }
        kern_rank_tell(r, KERN_TRACK_DOWN, piece);
    }
    return true;
}

static bool tree_down(const struct kern_rank *r) {
    size_t me = from_root(r);
    return take_from(r, absolute(r, me & (me - (me > 0)))); /* without its lowest bit */
}

static bool chain_down(const struct kern_rank *r) {
    size_t me = from_root(r);
    return take_from(r, absolute(r, me - (me > 0)));
}

/* All sums at rank 0, and each share from there to its owner. */
static bool tree_scatter(const struct kern_rank *r) {
    size_t pieces = (total(r) + PIECE - 1) / PIECE;
    if (!tree_up(r) || !kern_rank_wait(r, KERN_TRACK_UP, 0, pieces)) {
        return false;
    }
    copy(r, 0, begin(r, r->rank), r->call.n);
    return true;
}

bool kern_rank_work(const struct kern_rank *r) {
    bool small = bytes_of(r, total(r)) <= KERN_GROUP_TREE_BYTES;
    bool tree = r->call.way == KERN_WAY_AUTO ? small : r->call.way == KERN_WAY_TREE;
    switch (r->call.op) {
    case KERN_GROUP_REDUCE:
        return tree ? tree_up(r) : ring_reduce(r);
    case KERN_GROUP_ALL_REDUCE:
        return tree ? tree_up(r) && tree_down(r) : ring_scatter(r) && ring_gather(r, r->ranks - 1);
    case KERN_GROUP_REDUCE_SCATTER:
        return tree ? tree_scatter(r) : ring_scatter(r);
    case KERN_GROUP_ALL_GATHER:
        return ring_gather(r, 0); /* every rank needs every share: no tree is shorter */
    case KERN_GROUP_BROADCAST:
        return tree ? tree_down(r) : chain_down(r);
    }
    return false;
}
