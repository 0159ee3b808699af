/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All-reduce of float32 over CPU devices in one process, by the ring and by the tree, against the
 * same bytes added by one core that reads all arrays and writes one: what a group costs beside the
 * additions themselves.
 */
#include "kernels/group.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUNS 7

struct collective {
    size_t ranks, elements;
    struct kern_device *dev[KERN_GROUP_RANKS_MAX];
    struct kern_vec part[KERN_GROUP_RANKS_MAX];
    struct kern_group *group;
    float *x[KERN_GROUP_RANKS_MAX], *sum;
};

static double one_core(struct collective *c) {
    double start = bench_now_s();
    memcpy(c->sum, c->x[0], c->elements * sizeof *c->sum);
    for (size_t r = 1; r < c->ranks; r++)
        for (size_t i = 0; i < c->elements; i++)
            c->sum[i] += c->x[r][i];
    return bench_now_s() - start;
}

static enum kern_status in_group(struct collective *c, enum kern_way way, double *seconds_out) {
    kern_group_set_way(c->group, way);
    double start = bench_now_s();
    enum kern_status st = kern_group_all_reduce(c->group, c->part, c->elements, KERN_F32);
    *seconds_out = bench_now_s() - start;
    return st;
}

static enum kern_status begin(struct collective *c) {
    char list[32];
    size_t count = 0, bytes = c->elements * sizeof(float);

    snprintf(list, sizeof list, "cpu*%zu", c->ranks);
    enum kern_status st = kern_devices_open(list, 1, c->dev, c->ranks, &count);
    c->sum = bench_alloc(c->elements, sizeof *c->sum);
    for (size_t r = 0; r < c->ranks && st == KERN_OK; r++) {
        c->x[r] = bench_alloc(c->elements, sizeof(float));
        bench_deltas(c->x[r], c->elements, 1e-3, r + 1);
        st = kern_buf_new(c->dev[r], bytes, &c->part[r].buf);
        if (st == KERN_OK)
            st = kern_upload(c->part[r].buf, 0, c->x[r], bytes);
    }
    return st == KERN_OK ? kern_group_open(c->dev, c->ranks, &c->group) : st;
}

enum tier_status bench_collective(const struct bench_options *o, struct bench_result *r,
                                  struct tier_err *err) {
    struct collective c = {.ranks = o->children ? o->children : 2,
                           .elements = (o->bytes ? o->bytes : 32000000) / sizeof(float)};
    double ring[RUNS], tree[RUNS], core[RUNS], bytes = (double)c.elements * sizeof(float);

    if (c.ranks < 2 || c.ranks > KERN_GROUP_RANKS_MAX || c.elements == 0)
        return tier_fail(err, TIER_EARG, "collective: 2 to %d ranks, and bytes to sum",
                         KERN_GROUP_RANKS_MAX);
    enum kern_status st = begin(&c);
    for (int i = -1; i < RUNS && st == KERN_OK; i++) { /* the first time is not counted */
        size_t at = i < 0 ? 0 : (size_t)i;
        st = in_group(&c, KERN_WAY_RING, &ring[at]);
        if (st == KERN_OK)
            st = in_group(&c, KERN_WAY_TREE, &tree[at]);
        core[at] = one_core(&c);
    }
    kern_group_close(c.group);
    for (size_t i = 0; i < c.ranks; i++) {
        kern_device_close(c.dev[i]);
        free(c.x[i]);
    }
    free(c.sum);
    if (st != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "collective: %s", kern_status_text(st));
    for (int i = 0; i < RUNS; i++) {
        ring[i] = bytes / 1e9 / ring[i];
        tree[i] = bytes / 1e9 / tree[i];
        core[i] = bytes / 1e9 / core[i];
    }
    r->value = bench_median(ring, RUNS);
    r->ratio = r->value / bench_median(core, RUNS);
    r->unit = "GB/s";
    r->against = "one core adding the same arrays into one";
    json_object_set_new(r->detail, "ranks", json_integer((json_int_t)c.ranks));
    json_object_set_new(r->detail, "bytes", json_integer((json_int_t)(c.elements * sizeof(float))));
    json_object_set_new(r->detail, "ring_gb_s", bench_spread(ring, RUNS));
    json_object_set_new(r->detail, "tree_gb_s", bench_spread(tree, RUNS));
    json_object_set_new(r->detail, "one_core_gb_s", bench_spread(core, RUNS));
    return TIER_OK;
}
