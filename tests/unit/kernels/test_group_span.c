/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of CPU devices over a link: callers that stand for processes, each with a thread and its
 * own devices, and queues in memory between them. */
#include "kernels/group.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RANKS 8
#define CALLERS 3

struct message {
    struct message *next;
    size_t n;
    unsigned char bytes[];
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    struct message *queue[RANKS][RANKS];
    bool shut;
    size_t sent; /* messages */
} net = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static bool net_send(void *arg, size_t from, size_t to, const void *bytes, size_t n) {
    struct message *m = malloc(sizeof *m + n);
    (void)arg;
    m->next = NULL;
    m->n = n;
    memcpy(m->bytes, bytes, n);
    pthread_mutex_lock(&net.lock);
    struct message **at = &net.queue[from][to];
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = m;
    net.sent++;
    bool ok = !net.shut && n <= KERN_GROUP_MESSAGE_BYTES;
    pthread_cond_broadcast(&net.moved);
    pthread_mutex_unlock(&net.lock);
    return ok;
}

static bool net_receive(void *arg, size_t from, size_t to, void *bytes, size_t n) {
    (void)arg;
    pthread_mutex_lock(&net.lock);
    while (net.queue[from][to] == NULL && !net.shut) {
        pthread_cond_wait(&net.moved, &net.lock);
    }
    struct message *m = net.queue[from][to];
    bool ok = !net.shut && m->n == n;
    if (ok) {
        memcpy(bytes, m->bytes, n);
        net.queue[from][to] = m->next;
        free(m);
    }
    pthread_mutex_unlock(&net.lock);
    return ok;
}

static void net_shut(void *arg) {
    (void)arg;
    pthread_mutex_lock(&net.lock);
    net.shut = true;
    pthread_cond_broadcast(&net.moved);
    pthread_mutex_unlock(&net.lock);
}

static void net_open(void) {
    for (size_t i = 0; i < RANKS * RANKS; i++) {
        struct message **queue = &net.queue[i / RANKS][i % RANKS];
        while (*queue != NULL) {
            struct message *m = *queue;
            *queue = m->next;
            free(m);
        }
    }
    net.shut = false;
}

static const struct kern_group_link link_of_all = {NULL, net_send, net_receive, net_shut};

static struct kern_device *dev[RANKS];

static void open_devices(void) {
    size_t count = 0;
    cr_assert(kern_devices_open("cpu*8", 8, dev, RANKS, &count) == KERN_OK);
    net_open();
}

static void close_devices(void) {
    for (size_t i = 0; i < RANKS; i++) {
        kern_device_close(dev[i]);
    }
}

TestSuite(kern_group_span, .init = open_devices, .fini = close_devices);

enum op { REDUCE, ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, OPS };

struct call {
    enum op op;
    enum kern_type type;
    enum kern_way way;
    size_t n, root;
};

/* One caller: ranks [first, first + count) make these calls in turn. */
struct caller {
    const struct call *calls;
    size_t call_count, ranks, first, count;
    const struct kern_vec *parts;
    bool leaves; /* after its last call, and else aborts nothing */
    enum kern_status status;
};

static enum kern_status make(struct kern_group *g, const struct call *c,
                             const struct kern_vec *parts) {
    kern_group_set_way(g, c->way);
    switch (c->op) {
    case REDUCE:
        return kern_group_reduce(g, parts, c->n, c->type, c->root);
    case ALL_REDUCE:
        return kern_group_all_reduce(g, parts, c->n, c->type);
    case REDUCE_SCATTER:
        return kern_group_reduce_scatter(g, parts, c->n, c->type);
    case ALL_GATHER:
        return kern_group_all_gather(g, parts, c->n, c->type);
    default:
        return kern_group_broadcast(g, parts, c->n, c->type, c->root);
    }
}

static pthread_barrier_t all_done;

static void *run_caller(void *arg) {
    struct caller *c = arg;
    struct kern_group_id id = {{0}};
    struct kern_group *g = NULL;
    c->status =
        kern_group_span(&id, &link_of_all, c->ranks, c->first, dev + c->first, c->count, &g);
    for (size_t i = 0; c->status == KERN_OK && i < c->call_count; i++) {
        c->status = make(g, &c->calls[i], c->parts + c->first);
    }
    if (!c->leaves) {
        pthread_barrier_wait(&all_done);
    }
    kern_group_close(g);
    return NULL;
}

static void run_callers(struct caller *c, size_t count) {
    pthread_t thread[CALLERS];
    size_t stay = 0;
    for (size_t i = 0; i < count; i++) {
        stay += !c[i].leaves;
    }
    pthread_barrier_init(&all_done, NULL, (unsigned)stay);
    for (size_t i = 0; i < count; i++) {
        cr_assert(pthread_create(&thread[i], NULL, run_caller, &c[i]) == 0);
    }
    for (size_t i = 0; i < count; i++) {
        pthread_join(thread[i], NULL);
    }
    pthread_barrier_destroy(&all_done);
}

static uint32_t seed = 12345;

static void fill(struct kern_vec *parts, size_t elements) {
    uint32_t *x = malloc(elements * 8);
    for (size_t r = 0; r < RANKS; r++) {
        for (size_t i = 0; i < elements * 2; i++) {
            seed = seed * 1664525u + 1013904223u;
            x[i] = (seed & 0x807fffffu) | (100u + (seed >> 24) % 50u) << 23; /* finite floats */
        }
        cr_assert(kern_buf_new(dev[r], elements * 8, &parts[r].buf) == KERN_OK);
        cr_assert(kern_upload(parts[r].buf, 0, x, elements * 8) == KERN_OK);
    }
    free(x);
}

static void *contents(const struct kern_vec *parts, size_t bytes) {
    char *x = calloc(RANKS, bytes);
    for (size_t r = 0; r < RANKS; r++) {
        cr_assert(kern_download(x + r * bytes, parts[r].buf, 0, bytes) == KERN_OK);
    }
    return x;
}

/* The same calls by one caller and by three; every rank must hold the same bits, but for what an
 * operation leaves undefined. */
static void compare(const struct call *call, size_t ranks, const size_t *cut) {
    struct kern_vec one[RANKS] = {{0}}, several[RANKS] = {{0}};
    struct kern_group *g = NULL;
    struct caller callers[CALLERS];
    bool shares = call->op == REDUCE_SCATTER || call->op == ALL_GATHER;
    size_t elements = call->n * (shares ? ranks : 1), each = call->type == KERN_F32 ? 4 : 8;
    uint32_t start = seed;
    fill(one, elements);
    seed = start;
    fill(several, elements);
    cr_assert(kern_group_open(dev, ranks, &g) == KERN_OK);
    cr_assert(make(g, call, one) == KERN_OK);
    kern_group_close(g);
    net_open();
    for (size_t i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){call,    1,     ranks,       cut[i], cut[i + 1] - cut[i],
                                     several, false, KERN_EDEVICE};
    }
    run_callers(callers, CALLERS);
    char *want = contents(one, elements * 8), *got = contents(several, elements * 8);
    for (size_t r = 0; r < ranks; r++) {
        size_t at = r * elements * 8, n = elements * each;
        if (call->op == REDUCE_SCATTER) {
            at += r * call->n * each;
            n = call->n * each;
        }
        if (call->op == REDUCE && r != call->root) {
            continue;
        }
        cr_assert(memcmp(want + at, got + at, n) == 0,
                  "operation %d, type %d, way %d, %zu elements, %zu ranks: rank %zu differs",
                  call->op, call->type, call->way, call->n, ranks, r);
    }
    for (size_t i = 0; i < CALLERS; i++) {
        cr_assert(callers[i].status == KERN_OK);
    }
    for (size_t r = 0; r < RANKS; r++) {
        kern_buf_free(one[r].buf);
        kern_buf_free(several[r].buf);
    }
    free(want);
    free(got);
}

Test(kern_group_span, every_operation_gives_the_bits_of_one_process) {
    static const size_t cuts[][CALLERS + 1] = {{0, 1, 2, 3}, {0, 3, 4, 8}, {0, 1, 6, 7}};
    static const size_t sizes[] = {1, 2, 7, 1501, 70001};
    for (size_t i = 0; i < 3 * 5 * OPS * 4; i++) {
        const size_t *cut = cuts[i % 3];
        size_t ranks = cut[CALLERS], variant = i / (15 * OPS);
        const struct call call = {.op = (enum op)(i / 15 % OPS),
                                  .type = variant & 1 ? KERN_I64 : KERN_F32,
                                  .way = variant & 2 ? KERN_WAY_TREE : KERN_WAY_RING,
                                  .n = sizes[i / 3 % 5],
                                  .root = i % ranks};
        compare(&call, ranks, cut);
    }
    cr_assert(net.sent > 1000);
}

static void two_callers(struct caller *c, const struct call *a, size_t a_calls,
                        const struct call *b, size_t b_calls, struct kern_vec *parts) {
    c[0] = (struct caller){a, a_calls, 4, 0, 2, parts, false, KERN_OK};
    c[1] = (struct caller){b, b_calls, 4, 2, 2, parts, false, KERN_OK};
    fill(parts, 100);
}

static void free_parts(struct kern_vec *parts) {
    for (size_t r = 0; r < RANKS; r++) {
        kern_buf_free(parts[r].buf);
    }
}

Test(kern_group_span, callers_that_ask_for_different_things_end_the_group) {
    const struct call a = {ALL_REDUCE, KERN_F32, KERN_WAY_RING, 100, 0},
                      b = {ALL_REDUCE, KERN_F32, KERN_WAY_RING, 99, 0};
    struct kern_vec parts[RANKS] = {{0}};
    struct caller c[2];
    two_callers(c, &a, 1, &b, 1, parts);
    run_callers(c, 2);
    cr_assert(c[0].status == KERN_EGROUP);
    cr_assert(c[1].status == KERN_EGROUP);
    free_parts(parts);
}

Test(kern_group_span, a_caller_that_leaves_ends_the_group_and_nobody_waits_for_ever) {
    const struct call calls[] = {{ALL_REDUCE, KERN_F32, KERN_WAY_TREE, 100, 0},
                                 {ALL_REDUCE, KERN_F32, KERN_WAY_TREE, 100, 0}};
    struct kern_vec parts[RANKS] = {{0}};
    struct caller c[2];
    two_callers(c, calls, 2, calls, 1, parts);
    c[1].leaves = true;
    run_callers(c, 2);
    cr_assert(c[0].status == KERN_EGROUP);
    free_parts(parts);
}

Test(kern_group_span, a_link_is_needed_and_ranks_must_fit) {
    struct kern_group_id id = {{0}};
    struct kern_group *g = NULL;
    cr_assert(kern_group_span(&id, NULL, 2, 0, dev, 1, &g) == KERN_EARG);
    cr_assert(kern_group_span(&id, &link_of_all, 2, 1, dev, 2, &g) == KERN_EARG);
    cr_assert(kern_group_span(&id, &link_of_all, KERN_GROUP_RANKS_MAX + 1, 0, dev, 1, &g) ==
              KERN_EARG);
    cr_assert(kern_group_span(&id, &link_of_all, 2, 1, dev, 1, &g) == KERN_OK);
    cr_assert(eq(sz, kern_group_ranks(g), 2));
    cr_assert(eq(sz, kern_group_first(g), 1));
    cr_assert(eq(sz, kern_group_count(g), 1));
    kern_group_close(g);
}
