/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of CPU devices beyond what tests/parity asks of every backend: random sizes and ranks, the
 * order of float sums, ranks that disagree, leave or abort, and lists of devices. */
#include "kernels/group.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RANKS 8

static struct kern_device *dev[RANKS];
static struct kern_vec part[RANKS];
static uint64_t seed = 7;

static uint64_t next(void) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return seed >> 20;
}

static void open_devices(void) {
    size_t count = 0;
    cr_assert(kern_devices_open("cpu*8", 8, dev, RANKS, &count) == KERN_OK);
    cr_assert(eq(sz, count, 8));
}

static void close_devices(void) {
    for (size_t i = 0; i < RANKS; i++) {
        kern_device_close(dev[i]);
    }
}

TestSuite(kern_group, .init = open_devices, .fini = close_devices);

static void put(size_t rank, const void *x, size_t bytes) {
    part[rank] = (struct kern_vec){NULL, 0};
    if (bytes > 0) {
        cr_assert(kern_buf_new(dev[rank], bytes, &part[rank].buf) == KERN_OK);
        cr_assert(kern_upload(part[rank].buf, 0, x, bytes) == KERN_OK);
    }
}

static void drop(size_t ranks) {
    for (size_t r = 0; r < ranks; r++) {
        kern_buf_free(part[r].buf);
    }
}

Test(kern_group, sums_of_random_sizes_over_random_ranks_are_exact_on_every_way) {
    for (int trial = 0; trial < 120; trial++) {
        size_t ranks = 1 + next() % RANKS, n = next() % (trial % 10 == 0 ? 200000 : 12);
        enum kern_way way = (enum kern_way)(next() % 3);
        struct kern_group *g = NULL;
        int64_t *x = calloc(n + 1, sizeof *x), *sum = calloc(n + 1, sizeof *sum);
        cr_assert(kern_group_open(dev, ranks, &g) == KERN_OK);
        kern_group_set_way(g, way);
        for (size_t r = 0; r < ranks; r++) {
            for (size_t i = 0; i < n; i++) {
                x[i] = (int64_t)(next() << 31);
                sum[i] = (int64_t)((uint64_t)sum[i] + (uint64_t)x[i]);
            }
            put(r, x, n * sizeof *x);
        }
        cr_assert(kern_group_all_reduce(g, part, n, KERN_I64) == KERN_OK);
        for (size_t r = 0; r < ranks && n > 0; r++) {
            cr_assert(kern_download(x, part[r].buf, 0, n * sizeof *x) == KERN_OK);
            cr_assert(memcmp(x, sum, n * sizeof *x) == 0, "%zu of %zu ranks, %zu elements, way %d",
                      r, ranks, n, (int)way);
        }
        kern_group_close(g);
        drop(ranks);
        free(x);
        free(sum);
    }
}

static float order_of(enum kern_way way, size_t ranks, size_t n, size_t element) {
    static float x[RANKS][16];
    struct kern_group *g = NULL;
    float got[16];
    cr_assert(kern_group_open(dev, ranks, &g) == KERN_OK);
    kern_group_set_way(g, way);
    for (size_t r = 0; r < ranks; r++) {
        for (size_t i = 0; i < n; i++) {
            x[r][i] = (r % 3 == 0 ? 1e8f : -1.25f) + (float)(r * i);
        }
        put(r, x[r], n * sizeof(float));
    }
    cr_assert(kern_group_all_reduce(g, part, n, KERN_F32) == KERN_OK);
    cr_assert(kern_download(got, part[ranks - 1].buf, 0, n * sizeof(float)) == KERN_OK);
    kern_group_close(g);
    drop(ranks);
    volatile float sum; /* as the header says */
    if (way == KERN_WAY_RING) {
        size_t c = 0;
        while (n / ranks * (c + 1) + (c + 1 < n % ranks ? c + 1 : n % ranks) <= element) {
            c++;
        }
        sum = x[(c + 1) % ranks][element];
        for (size_t k = 2; k <= ranks; k++) {
            sum = sum + x[(c + k) % ranks][element];
        }
    } else {
        float y[RANKS];
        for (size_t r = 0; r < ranks; r++) {
            y[r] = x[r][element];
        }
        for (size_t bit = 1; bit < ranks; bit *= 2) {
            for (size_t r = 0; r + bit < ranks; r += 2 * bit) {
                y[r] = y[r] + y[r + bit];
            }
        }
        sum = y[0];
    }
    cr_assert(got[element] == sum, "way %d, %zu ranks, element %zu: %.9g and %.9g", (int)way, ranks,
              element, (double)got[element], (double)sum);
    return sum;
}

Test(kern_group, floats_are_added_in_the_order_that_is_promised) {
    for (size_t ranks = 2; ranks <= RANKS; ranks++) {
        for (size_t n = 1; n <= 13; n += 4) {
            for (size_t e = 0; e < n; e += 3) {
                (void)order_of(KERN_WAY_RING, ranks, n, e);
                (void)order_of(KERN_WAY_TREE, ranks, n, e);
            }
        }
    }
}

/* ---- a caller for each rank ---- */

struct caller {
    pthread_t thread;
    const struct kern_group_id *id;
    size_t rank, n;
    int calls;             /* and then it leaves */
    enum kern_status last; /* of its calls */
    struct kern_group *group;
    pthread_barrier_t *joined;
};

static void *call_some(void *arg) {
    struct caller *c = arg;
    c->last = kern_group_join(c->id, 3, c->rank, &dev[c->rank], 1, &c->group);
    pthread_barrier_wait(c->joined);
    for (int i = 0; i < c->calls && c->last == KERN_OK; i++) {
        c->last = kern_group_all_reduce(c->group, &part[c->rank], c->n, KERN_I64);
    }
    return NULL;
}

/* Three callers; what each of them asks for. */
static void call_three(struct caller *c, bool abort_third) {
    struct kern_group_id id;
    pthread_barrier_t joined;
    int64_t x[64] = {0};
    cr_assert(kern_group_id_new(dev[0], &id) == KERN_OK);
    pthread_barrier_init(&joined, NULL, 4);
    for (size_t r = 0; r < 3; r++) {
        c[r].id = &id;
        c[r].rank = r;
        c[r].joined = &joined;
        put(r, x, sizeof x);
        cr_assert(pthread_create(&c[r].thread, NULL, call_some, &c[r]) == 0);
    }
    pthread_barrier_wait(&joined);
    if (abort_third) {
        usleep(20000);
        kern_group_abort(c[2].group);
    }
    for (size_t r = 0; r < 3; r++) {
        pthread_join(c[r].thread, NULL);
    }
    pthread_barrier_destroy(&joined);
}

static void close_three(struct caller *c) {
    for (size_t r = 0; r < 3; r++) {
        kern_group_close(c[r].group);
    }
    drop(3);
}

Test(kern_group, callers_of_one_rank_each_meet_by_an_id) {
    struct caller c[3] = {{.n = 64, .calls = 50}, {.n = 64, .calls = 50}, {.n = 64, .calls = 50}};
    call_three(c, false);
    for (size_t r = 0; r < 3; r++) {
        cr_expect(c[r].last == KERN_OK);
    }
    close_three(c);
}

Test(kern_group, ranks_that_ask_for_different_lengths_are_all_told_and_may_go_on) {
    struct caller c[3] = {{.n = 64, .calls = 1}, {.n = 63, .calls = 1}, {.n = 64, .calls = 1}};
    call_three(c, false);
    for (size_t r = 0; r < 3; r++) {
        cr_expect(c[r].last == KERN_EARG);
        cr_expect(strstr(kern_device_error(dev[r]), "same thing") != NULL);
    }
    close_three(c);
}

Test(kern_group, a_rank_that_aborts_releases_those_that_wait) {
    struct caller c[3] = {{.n = 64, .calls = 9}, {.n = 64, .calls = 9}, {.n = 64, .calls = 3}};
    call_three(c, true);
    cr_expect(c[0].last == KERN_EGROUP && c[1].last == KERN_EGROUP);
    cr_expect(kern_group_all_reduce(c[2].group, &part[2], 64, KERN_I64) == KERN_EGROUP);
    cr_expect(kern_scale(part[0], 4, 1) == KERN_OK, "the devices live on");
    close_three(c);
}

static void *leave(void *arg) {
    kern_group_close(arg);
    return NULL;
}

Test(kern_group, a_rank_that_leaves_releases_those_that_wait) {
    struct kern_group_id id;
    struct kern_group *g[2] = {NULL, NULL};
    int64_t x[4] = {0};
    pthread_t thread;
    cr_assert(kern_group_id_new(dev[0], &id) == KERN_OK);
    for (size_t r = 0; r < 2; r++) {
        put(r, x, sizeof x);
        cr_assert(kern_group_join(&id, 2, r, &dev[r], 1, &g[r]) == KERN_OK);
    }
    cr_assert(pthread_create(&thread, NULL, leave, g[1]) == 0);
    cr_expect(kern_group_all_reduce(g[0], &part[0], 4, KERN_I64) == KERN_EGROUP);
    pthread_join(thread, NULL);
    kern_group_close(g[0]);
    drop(2);
}

Test(kern_group, a_rank_that_joins_when_others_gave_up_finds_the_group_broken) {
    struct kern_group_id id;
    struct kern_group *g = NULL;
    int64_t x[4] = {0};
    cr_assert(kern_group_id_new(dev[0], &id) == KERN_OK);
    cr_assert(kern_group_join(&id, 2, 0, &dev[0], 1, &g) == KERN_OK);
    kern_group_close(g);
    put(1, x, sizeof x);
    cr_assert(kern_group_join(&id, 2, 1, &dev[1], 1, &g) == KERN_OK);
    cr_expect(kern_group_all_reduce(g, &part[1], 4, KERN_I64) == KERN_EGROUP);
    kern_group_close(g);
    kern_buf_free(part[1].buf);
}

Test(kern_group, a_rank_twice_and_another_number_of_ranks_are_refused) {
    struct kern_group_id id;
    struct kern_group *g = NULL, *none = NULL;
    cr_assert(kern_group_id_new(dev[0], &id) == KERN_OK);
    cr_assert(kern_group_join(&id, 3, 1, dev, 2, &g) == KERN_OK);
    cr_expect(kern_group_join(&id, 3, 2, &dev[2], 1, &none) == KERN_EARG);
    cr_expect(strstr(kern_device_error(dev[2]), "taken") != NULL);
    cr_expect(kern_group_join(&id, 4, 3, &dev[3], 1, &none) == KERN_EARG);
    cr_expect(kern_group_join(&id, 3, 3, &dev[3], 1, &none) == KERN_EARG);
    cr_expect(kern_group_join(&id, 65, 0, &dev[3], 1, &none) == KERN_EARG);
    cr_expect_null(none);
    kern_group_close(g);
}

Test(kern_group, devices_and_arrays_that_do_not_fit_are_refused) {
    struct kern_device *twice[2] = {dev[0], dev[0]};
    struct kern_group *g = NULL;
    int64_t x[8] = {0};
    cr_expect(kern_group_open(twice, 2, &g) == KERN_EARG);
    cr_expect(kern_group_open(dev, 0, &g) == KERN_EARG);
    cr_expect(kern_group_open(NULL, 1, &g) == KERN_EARG);
    cr_assert(kern_group_open(dev, 2, &g) == KERN_OK);
    put(0, x, sizeof x);
    put(1, x, sizeof x);
    cr_expect(kern_group_all_reduce(g, part, 9, KERN_I64) == KERN_EARG);
    cr_expect(kern_group_all_gather(g, part, 5, KERN_I64) == KERN_EARG);
    cr_expect(kern_group_reduce(g, part, 8, KERN_I64, 2) == KERN_EARG);
    struct kern_vec crossed[2] = {part[1], part[0]};
    cr_expect(kern_group_all_reduce(g, crossed, 8, KERN_I64) == KERN_EARG);
    cr_expect(kern_group_all_reduce(g, NULL, 8, KERN_I64) == KERN_EARG);
    cr_expect(kern_group_all_reduce(g, part, 8, KERN_I64) == KERN_OK);
    cr_expect(kern_group_all_reduce(g, NULL, 0, KERN_F32) == KERN_OK);
    kern_group_close(g);
    kern_group_close(NULL);
    kern_group_abort(NULL);
    drop(2);
}

struct rounds {
    pthread_t thread[RANKS];
    pthread_barrier_t all;
};

static void note_thread(void *arg, size_t i) {
    struct rounds *r = arg;
    r->thread[i] = pthread_self();
    pthread_barrier_wait(&r->all); /* returns only where all are here at once */
}

Test(kern_group, each_rank_works_on_a_thread_of_its_own) {
    struct kern_group *g = NULL;
    struct rounds r;
    pthread_barrier_init(&r.all, NULL, 5);
    cr_assert(kern_group_open(dev, 5, &g) == KERN_OK);
    cr_assert(eq(sz, kern_group_count(g), 5));
    kern_group_each(g, note_thread, &r);
    for (size_t i = 1; i < 5; i++) {
        cr_expect(pthread_equal(r.thread[i], r.thread[0]) == 0);
    }
    kern_group_close(g);
    pthread_barrier_destroy(&r.all);
}

Test(kern_devices, a_list_names_devices_in_one_word) {
    static const struct {
        const char *list;
        size_t count;
    } good[] = {{"cpu", 1},    {"cpu*4", 4},       {"auto", 1},     {"cuda", 1},
                {"cuda:3", 1}, {"cuda:0,2,11", 3}, {"cuda:all", 0}, {"cpu*64", 64}};
    static const char *const wrong[] = {"",        "cpu*",      "cpu*0",    "cpu*65",  "cpu*2x",
                                        "cuda:",   "cuda:0,",   "cuda:1,1", "cuda:,1", "cuda*2",
                                        "cuda:-1", "cuda:all2", "gpu",      "cpu,cpu"};
    size_t count = 99;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_expect(kern_devices_parse(good[i].list, &count), "%s", good[i].list);
        cr_expect(eq(sz, count, good[i].count));
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        cr_expect(kern_devices_parse(wrong[i], &count) == false, "%s", wrong[i]);
    }
}

Test(kern_devices, more_than_fit_and_those_that_are_not_here_are_refused_with_the_reason) {
    struct kern_device *two[2] = {NULL, NULL};
    size_t count = 0;
    cr_expect(kern_devices_open("cpu*3", 0, two, 2, &count) == KERN_EARG);
    cr_expect(strstr(kern_device_error(NULL), "at most 2") != NULL);
    cr_expect(kern_devices_open("cuda:all", 0, two, 2, &count) == KERN_ENODEV);
    cr_expect(strstr(kern_device_error(NULL), "cuda: ") != NULL);
    cr_expect(kern_devices_open("cuda:0,1", 0, two, 2, &count) == KERN_ENODEV);
    cr_expect(kern_devices_open("cpu+2", 0, two, 2, &count) == KERN_EARG);
    cr_expect(two[0] == NULL && two[1] == NULL && count == 0);
}
