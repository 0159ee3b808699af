/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places for arrays whose lives are known: the largest first, each at the lowest place where no
 * array that lives at the same time lies.
 */
#include "spoke/tape.h"

#include <inttypes.h>
#include <stdlib.h>

#define ALIGN 64 /* floats: a place never shares a cache line with its neighbour */
#define ARENA_BYTES_MAX (UINT64_C(1) << 40)

struct order {
    size_t index, floats, first;
};

static int larger_first(const void *a, const void *b) {
    const struct order *x = a, *y = b;
    if (x->floats != y->floats)
        return x->floats < y->floats ? 1 : -1;
    return x->first < y->first ? -1 : x->first > y->first;
}

struct taken {
    size_t at, end;
};

static int lower_first(const void *a, const void *b) {
    const struct taken *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* The lowest place of `floats` beside `n` taken ones, which it sorts. */
static size_t lowest(struct taken *taken, size_t n, size_t floats) {
    size_t at = 0;
    qsort(taken, n, sizeof *taken, lower_first);
    for (size_t i = 0; i < n; i++) {
        if (at + floats <= taken[i].at)
            break;
        if (taken[i].end > at)
            at = taken[i].end;
    }
    return at;
}

enum tier_status tape_lay_out(struct tape *tape, struct tier_err *err) {
    size_t n = tape->buffer_count, top = 0;
    struct order *order = calloc(n + 1, sizeof *order);
    struct taken *taken = calloc(n + 1, sizeof *taken);
    enum tier_status st = TIER_OK;

    if (!order || !taken) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a model of %zu arrays", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        struct tape_buffer *b = &tape->buffers[i];
        order[i] = (struct order){i, (b->floats + ALIGN - 1) / ALIGN * ALIGN, b->first};
    }
    qsort(order, n, sizeof *order, larger_first);
    for (size_t i = 0; i < n; i++) {
        struct tape_buffer *b = &tape->buffers[order[i].index];
        size_t count = 0;
        for (size_t k = 0; k < i; k++) {
            const struct tape_buffer *o = &tape->buffers[order[k].index];
            if (o->first <= b->last && b->first <= o->last)
                taken[count++] = (struct taken){o->at, o->at + order[k].floats};
        }
        b->at = lowest(taken, count, order[i].floats);
        if (b->at + order[i].floats > top)
            top = b->at + order[i].floats;
    }
    if (top > ARENA_BYTES_MAX / sizeof(float))
        st = tier_fail(err, TIER_ELIMIT,
                       "a batch of %zu rows of this model takes %zu floats: use a smaller batch",
                       tape->rows, top);
    tape->arena_floats = top;
out:
    free(order);
    free(taken);
    return st;
}
