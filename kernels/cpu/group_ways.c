/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ring and the tree (kernels/group.h states their order of summation). A rank reads its
 * neighbour's array where it lies and writes its own alone. What a rank may read is what its
 * neighbour has told; what it may overwrite is safe because whoever still had to read it comes
 * before, in the chain of those it waited for: in the ring, step G of rank r follows step
 * G - (ranks - 1) of rank r + 1, its only reader. To a rank of another process, which cannot read
 * it, a rank gives what it will take, in the order in which it takes.
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
static void add(const struct kern_rank *r, const void *theirs, size_t at, size_t n) {
    if (n == 0) {
        return;
    }
    if (r->call.type == KERN_F32) {
        float *y = place(r, r->rank, at);
        const float *x = theirs;
        for (size_t i = 0; i < n; i++) {
            y[i] = x[i] + y[i];
        }
    } else {
        int64_t *y = place(r, r->rank, at);
        const int64_t *x = theirs;
        for (size_t i = 0; i < n; i++) {
            y[i] = kern_wrap_add(x[i], y[i]);
        }
    }
}

static void copy(const struct kern_rank *r, const void *theirs, size_t at, size_t n) {
    if (n > 0) {
        memcpy(place(r, r->rank, at), theirs, bytes_of(r, n));
    }
}

typedef void (*use_fn)(const struct kern_rank *r, const void *theirs, size_t at, size_t n);

/* Elements [at, at + n) of another rank, once it has told `done` or as it has given them. */
static bool take(const struct kern_rank *r, enum kern_track track, size_t other, size_t done,
                 use_fn use, size_t at, size_t n) {
    if (other == r->rank) {
        return true;
    }
    if (kern_rank_here(r, other)) {
        bool ok = kern_rank_wait(r, track, other, done);
        if (ok && n > 0) {
            use(r, place(r, other, at), at, n);
        }
        return ok;
    }
    for (size_t m; n > 0; at += m, n -= m) {
        m = n < PIECE ? n : PIECE;
        const void *theirs = kern_rank_receive(r, other, bytes_of(r, m));
        if (theirs == NULL) {
            return false;
        }
        use(r, theirs, at, m);
    }
    return true;
}

/* Mine, to a rank that is to take them; one that is here reads them by itself. */
static bool give(const struct kern_rank *r, size_t to, size_t at, size_t n) {
    if (kern_rank_here(r, to)) {
        return true;
    }
    for (size_t m; n > 0; at += m, n -= m) {
        m = n < PIECE ? n : PIECE;
        if (!kern_rank_send(r, to, place(r, r->rank, at), bytes_of(r, m))) {
            return false;
        }
    }
    return true;
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

static bool give_share(const struct kern_rank *r, size_t to, size_t c) {
    return give(r, to, begin(r, c), begin(r, c + 1) - begin(r, c));
}

static bool take_share(const struct kern_rank *r, size_t from, size_t done, use_fn use, size_t c) {
    return take(r, KERN_TRACK_UP, from, done, use, begin(r, c), begin(r, c + 1) - begin(r, c));
}

/* ---- ring ---------------------------------------------------------------------------------- */

/* Share r ends in rank r: each share walks the ring once, starting behind its owner. */
static bool ring_scatter(const struct kern_rank *r) {
    size_t prev = before(r, 1), next = (r->rank + 1) % r->ranks;
    if (r->ranks > 1 && !give_share(r, next, prev)) {
        return false;
    }
    for (size_t s = 0; s + 1 < r->ranks; s++) {
        size_t c = before(r, 2 + s);
        if (!take_share(r, prev, s, add, c)) {
            return false;
        }
        kern_rank_tell(r, KERN_TRACK_UP, s + 1);
        if (s + 2 < r->ranks && !give_share(r, next, c)) {
            return false;
        }
    }
    return true;
}

/* After `done` steps of the ring, every share walks it once more. */
static bool ring_gather(const struct kern_rank *r, size_t done) {
    size_t prev = before(r, 1), next = (r->rank + 1) % r->ranks;
    if (r->ranks > 1 && !give_share(r, next, r->rank)) {
        return false;
    }
    for (size_t t = 0; t + 1 < r->ranks; t++) {
        size_t c = before(r, 1 + t);
        if (!take_share(r, prev, done + t, copy, c)) {
            return false;
        }
        kern_rank_tell(r, KERN_TRACK_UP, done + t + 1);
        if (t + 2 < r->ranks && !give_share(r, next, c)) {
            return false;
        }
    }
    return true;
}

static bool ring_reduce(const struct kern_rank *r) {
    bool ok = ring_scatter(r);
    if (r->rank != r->call.root) {
        return ok && give_share(r, r->call.root, r->rank);
    }
    for (size_t c = 0; ok && c < r->ranks; c++) {
        ok = take_share(r, c, r->ranks - 1, copy, c);
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
            if (!take(r, KERN_TRACK_UP, absolute(r, me | bit), piece, add, at, m)) {
                return false;
            }
        }
        kern_rank_tell(r, KERN_TRACK_UP, piece);
        if (me > 0 && !give(r, absolute(r, me & (me - 1)), at, m)) { /* without its lowest bit */
            return false;
        }
    }
    return true;
}

/* To every rank that takes from this one on the way down. */
static bool give_down(const struct kern_rank *r, bool chain, size_t at, size_t n) {
    size_t me = from_root(r);
    if (chain) {
        return me + 1 >= r->ranks || give(r, absolute(r, me + 1), at, n);
    }
    for (size_t bit = 1; bit < r->ranks && (me & bit) == 0 && (me | bit) < r->ranks; bit *= 2) {
        if (!give(r, absolute(r, me | bit), at, n)) {
            return false;
        }
    }
    return true;
}

/* Copies piece by piece what the rank before has told; the root waits for none. */
static bool go_down(const struct kern_rank *r, bool chain) {
    size_t me = from_root(r), n = total(r);
    size_t from = absolute(r, me == 0 ? 0 : chain ? me - 1 : me & (me - 1));
    for (size_t at = 0, piece = 1; at < n; at += PIECE, piece++) {
        size_t m = n - at < PIECE ? n - at : PIECE;
        if (!take(r, KERN_TRACK_DOWN, from, piece, copy, at, m)) {
            return false;
        }
        kern_rank_tell(r, KERN_TRACK_DOWN, piece);
        if (!give_down(r, chain, at, m)) {
            return false;
        }
    }
    return true;
}

/* All sums at rank 0, and each share from there to its owner. */
static bool tree_scatter(const struct kern_rank *r) {
    size_t pieces = (total(r) + PIECE - 1) / PIECE;
    if (!tree_up(r)) {
        return false;
    }
    for (size_t c = 1; r->rank == 0 && c < r->ranks; c++) {
        if (!give_share(r, c, c)) {
            return false;
        }
    }
    return take_share(r, 0, pieces, copy, r->rank);
}

bool kern_rank_work(const struct kern_rank *r) {
    bool small = bytes_of(r, total(r)) <= KERN_GROUP_TREE_BYTES;
    bool tree = r->call.way == KERN_WAY_AUTO ? small : r->call.way == KERN_WAY_TREE;
    switch (r->call.op) {
    case KERN_GROUP_REDUCE:
        return tree ? tree_up(r) : ring_reduce(r);
    case KERN_GROUP_ALL_REDUCE:
        return tree ? tree_up(r) && go_down(r, false)
                    : ring_scatter(r) && ring_gather(r, r->ranks - 1);
    case KERN_GROUP_REDUCE_SCATTER:
        return tree ? tree_scatter(r) : ring_scatter(r);
    case KERN_GROUP_ALL_GATHER:
        return ring_gather(r, 0); /* every rank needs every share: no tree is shorter */
    case KERN_GROUP_BROADCAST:
        return go_down(r, !tree);
    }
    return false;
}
