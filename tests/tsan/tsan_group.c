/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of CPU devices: eight ranks of one caller, then four callers of two ranks each, through
 * every operation and both ways; then one of them aborts while the others are at work, again and
 * again. Sums are right or the group says that it is broken.
 */
#include "tsan/tsan.h"
#include "kernels/group.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define RANKS 8u
#define CALLERS 4u
#define HELD (RANKS / CALLERS)
#define N 40003u

static struct kern_device *dev[RANKS];
static struct kern_vec part[RANKS];

static void fill(size_t first, size_t count) {
    static const size_t bytes = RANKS * N * sizeof(int64_t);
    int64_t *x = malloc(bytes);
    NEED(x != NULL);
    for (size_t r = first; r < first + count; r++) {
        for (size_t i = 0; i < RANKS * N; i++)
            x[i] = (int64_t)((r + 1) * i);
        NEED(kern_upload(part[r].buf, 0, x, bytes) == KERN_OK);
    }
    free(x);
}

/* All operations; the status of the first that fails. */
static enum kern_status all(struct kern_group *g, size_t first, size_t count) {
    enum kern_status st = KERN_OK;
    for (int way = KERN_WAY_RING; way <= KERN_WAY_TREE && st == KERN_OK; way++) {
        kern_group_set_way(g, (enum kern_way)way);
        fill(first, count);
        const struct kern_vec *mine = part + first;
        st = kern_group_all_reduce(g, mine, N, KERN_I64);
        int64_t last = 0;
        NEED(kern_download(&last, mine->buf, (N - 1) * sizeof last, sizeof last) == KERN_OK);
        NEED(st != KERN_OK || last == (int64_t)(RANKS * (RANKS + 1) / 2 * (N - 1)));
        st = st == KERN_OK ? kern_group_reduce(g, mine, N, KERN_I64, 3) : st;
        st = st == KERN_OK ? kern_group_reduce_scatter(g, mine, N, KERN_I64) : st;
        st = st == KERN_OK ? kern_group_all_gather(g, mine, N, KERN_I64) : st;
        st = st == KERN_OK ? kern_group_broadcast(g, mine, N, KERN_F32, 5) : st;
    }
    return st;
}

struct caller {
    const struct kern_group_id *id;
    size_t index;
    bool aborts;
    enum kern_status st;
};

static void *take_part(void *arg) {
    struct caller *c = arg;
    struct kern_group *g = NULL;
    size_t first = c->index * HELD;
    NEED(kern_group_join(c->id, RANKS, first, dev + first, HELD, &g) == KERN_OK);
    c->st = KERN_OK;
    for (int i = 0; i < 3 && c->st == KERN_OK; i++) {
        if (c->aborts && i == 1)
            kern_group_abort(g);
        c->st = all(g, first, HELD);
    }
    kern_group_close(g);
    return NULL;
}

static void meet(bool aborts) {
    struct kern_group_id id;
    struct caller c[CALLERS];
    pthread_t thread[CALLERS];
    NEED(kern_group_id_new(dev[0], &id) == KERN_OK);
    for (size_t i = 0; i < CALLERS; i++) {
        c[i] = (struct caller){&id, i, aborts && i == 2, KERN_OK};
        NEED(pthread_create(&thread[i], NULL, take_part, &c[i]) == 0);
    }
    for (size_t i = 0; i < CALLERS; i++)
        pthread_join(thread[i], NULL);
    for (size_t i = 0; i < CALLERS; i++)
        NEED(c[i].st == (aborts ? KERN_EGROUP : KERN_OK));
}

int main(void) {
    size_t count = 0;
    struct kern_group *g = NULL;
    NEED(kern_devices_open("cpu*8", 8, dev, RANKS, &count) == KERN_OK && count == RANKS);
    for (size_t r = 0; r < RANKS; r++)
        NEED(kern_buf_new(dev[r], RANKS * N * sizeof(int64_t), &part[r].buf) == KERN_OK);
    NEED(kern_group_open(dev, RANKS, &g) == KERN_OK);
    NEED(all(g, 0, RANKS) == KERN_OK);
    kern_group_close(g);
    meet(false);
    for (int i = 0; i < 4; i++)
        meet(true);
    for (size_t r = 0; r < RANKS; r++)
        kern_device_close(dev[r]);
    puts("groups of devices: every way, every caller, and those who abort");
    return 0;
}
