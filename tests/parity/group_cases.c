/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of devices: each operation, both types, both ways, sizes around every edge, against sums
 * made here. int64 values use all bits; float32 values are small whole numbers, whose sums are
 * exact in any order, and then any numbers, whose sums must come out in the same bits again.
 */
#include "tests/parity/bench.h"

#include <string.h>

enum op { REDUCE, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, OPS };
static const char *const op_name[OPS] = {"reduce", "all_reduce", "reduce_scatter", "all_gather",
                                         "broadcast"};

struct trial {
    struct kern_group *group;
    struct bench *b; /* of each rank */
    size_t ranks, n, root;
    enum op op;
    enum kern_type type;
    bool wild; /* float32 of any size */
};

static size_t bytes_of(const struct trial *t) {
    return t->type == KERN_F32 ? sizeof(float) : sizeof(int64_t);
}

static size_t length(const struct trial *t) {
    return t->op == REDUCE_SCATTER || t->op == ALL_GATHER ? t->n * t->ranks : t->n;
}

static void *values(const struct trial *t, size_t rank) {
    void *x = bench_host(&t->b[rank], length(t), bytes_of(t));
    for (size_t i = 0; i < length(t); i++) {
        uint64_t r = parity_next(&t->b[rank].seed);
        if (t->type == KERN_I64) {
            ((int64_t *)x)[i] = (int64_t)r;
        } else if (t->wild) {
            ((float *)x)[i] = (float)(int64_t)r * 1e-19f;
        } else {
            ((float *)x)[i] = (float)((int)(r % 2001) - 1000);
        }
    }
    return x;
}

static void add_values(const struct trial *t, void *sum, const void *x) {
    for (size_t i = 0; i < length(t); i++) {
        if (t->type == KERN_I64) {
            ((uint64_t *)sum)[i] += ((const uint64_t *)x)[i];
        } else {
            ((float *)sum)[i] += ((const float *)x)[i];
        }
    }
}

/* What `rank` must hold in elements [*at, *at + *n) afterwards. */
static const void *wanted(const struct trial *t, void *const *x, void *sum, size_t rank, size_t *at,
                          size_t *n) {
    *at = 0;
    *n = length(t);
    switch (t->op) {
    case REDUCE:
        *n = rank == t->root ? *n : 0;
        return sum;
    case REDUCE_SCATTER:
        *at = rank * t->n;
        *n = t->n;
        return (char *)sum + *at * bytes_of(t);
    case ALL_GATHER:
        for (size_t r = 0; r < t->ranks; r++) {
            size_t share = t->n * bytes_of(t);
            memcpy((char *)sum + r * share, (char *)x[r] + r * share, share);
        }
        return sum;
    case BROADCAST:
        return x[t->root];
    default:
        return sum;
    }
}

static enum kern_status call(const struct trial *t, const struct kern_vec *parts) {
    switch (t->op) {
    case REDUCE:
        return kern_group_reduce(t->group, parts, t->n, t->type, t->root);
    case ALL_REDUCE:
        return kern_group_all_reduce(t->group, parts, t->n, t->type);
    case REDUCE_SCATTER:
        return kern_group_reduce_scatter(t->group, parts, t->n, t->type);
    case ALL_GATHER:
        return kern_group_all_gather(t->group, parts, t->n, t->type);
    default:
        return kern_group_broadcast(t->group, parts, t->n, t->type, t->root);
    }
}

static void once(const struct trial *t) {
    struct kern_vec part[PARITY_GROUP_MAX], again[PARITY_GROUP_MAX];
    void *x[PARITY_GROUP_MAX], *sum = bench_host(&t->b[0], length(t), bytes_of(t));
    for (size_t r = 0; r < t->ranks; r++) {
        x[r] = values(t, r);
        add_values(t, sum, x[r]);
        part[r] = bench_put(&t->b[r], x[r], length(t), bytes_of(t));
        again[r] = bench_put(&t->b[r], x[r], length(t), bytes_of(t));
    }
    BENCH_OK(&t->b[0], call(t, part));
    BENCH_OK(&t->b[0], call(t, again));
    for (size_t r = 0; r < t->ranks; r++) {
        size_t at = 0, n = 0;
        const void *want = wanted(t, x, sum, r, &at, &n);
        const char *got = bench_get(&t->b[r], part[r], length(t), bytes_of(t));
        const char *second = bench_get(&t->b[r], again[r], length(t), bytes_of(t));
        at *= bytes_of(t);
        if (!t->wild && memcmp(got + at, want, n * bytes_of(t)) != 0) {
            bench_fail(&t->b[r], "%s of %zu elements: rank %zu of %zu holds something else",
                       op_name[t->op], t->n, r, t->ranks);
        }
        if (memcmp(got + at, second + at, n * bytes_of(t)) != 0) {
            bench_fail(&t->b[r], "%s: rank %zu of %zu has other bits the second time",
                       op_name[t->op], r, t->ranks);
        }
    }
}

static bool run_trial(struct kern_device **devs, struct trial *t, char *why, size_t why_bytes) {
    struct bench b[PARITY_GROUP_MAX];
    bool ok = true;
    t->b = b;
    for (size_t r = 0; r < t->ranks; r++) {
        bench_begin(&b[r], devs[r], why, why_bytes);
        b[r].seed += r + 17 * t->n;
    }
    once(t);
    for (size_t r = t->ranks; r-- > 0;) {
        ok = bench_end(&b[r]) && ok;
    }
    return ok;
}

static bool run_sizes(struct kern_device **devs, struct trial *t, char *why, size_t why_bytes) {
    static const size_t sizes[] = {1, 2, 7, 1501};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        t->n = sizes[i];
        t->root = i % t->ranks;
        if (!run_trial(devs, t, why, why_bytes)) {
            return false;
        }
    }
    return true;
}

bool parity_group(struct kern_device **devs, size_t count, char *why, size_t why_bytes) {
    struct trial t = {.ranks = count};
    if (count < 1 || count > PARITY_GROUP_MAX) {
        snprintf(why, why_bytes, "%zu devices; 1 to %d", count, PARITY_GROUP_MAX);
        return false;
    }
    if (kern_group_open(devs, count, &t.group) != KERN_OK) {
        snprintf(why, why_bytes, "no group: %.200s", kern_device_error(devs[0]));
        return false;
    }
    bool ok = kern_group_all_reduce(t.group, NULL, 0, KERN_I64) == KERN_OK;
    for (int way = KERN_WAY_RING; ok && way <= KERN_WAY_TREE; way++) {
        kern_group_set_way(t.group, (enum kern_way)way);
        for (int op = 0; ok && op < OPS * 3; op++) {
            t.op = (enum op)(op % OPS);
            t.type = op < OPS ? KERN_I64 : KERN_F32;
            t.wild = op >= 2 * OPS;
            ok = run_sizes(devs, &t, why, why_bytes);
        }
    }
    kern_group_close(t.group);
    return ok;
}
