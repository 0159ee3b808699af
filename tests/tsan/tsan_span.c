/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of CPU devices over a link: three callers, as three processes, each with ranks on threads
 * of its own, make calls in a row while a fourth thread breaks the group off somewhere. Sums are
 * right or the group says that it is broken.
 */
#include "kernels/group.h"
#include "tsan/tsan.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define RANKS 6
#define CALLERS 3
#define N 20000
#define CALLS 12

struct message {
    struct message *next;
    size_t n;
    unsigned char bytes[];
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    struct message *first[RANKS][RANKS], *last[RANKS][RANKS];
    bool shut;
    size_t sent, shut_after;
} net = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static bool net_send(void *arg, size_t from, size_t to, const void *bytes, size_t n) {
    struct message *m = malloc(sizeof *m + n);
    (void)arg;
    m->next = NULL;
    m->n = n;
    memcpy(m->bytes, bytes, n);
    pthread_mutex_lock(&net.lock);
    if (net.last[from][to] != NULL) {
        net.last[from][to]->next = m;
    } else {
        net.first[from][to] = m;
    }
    net.last[from][to] = m;
    bool ok = !net.shut;
    net.sent++;
    pthread_cond_broadcast(&net.moved);
    pthread_mutex_unlock(&net.lock);
    return ok;
}

static bool net_receive(void *arg, size_t from, size_t to, void *bytes, size_t n) {
    (void)arg;
    pthread_mutex_lock(&net.lock);
    while (net.first[from][to] == NULL && !net.shut) {
        pthread_cond_wait(&net.moved, &net.lock);
    }
    struct message *m = net.shut ? NULL : net.first[from][to];
    if (m != NULL) {
        net.first[from][to] = m->next;
        if (m->next == NULL) {
            net.last[from][to] = NULL;
        }
    }
    pthread_mutex_unlock(&net.lock);
    bool ok = m != NULL && m->n == n;
    if (ok) {
        memcpy(bytes, m->bytes, n);
    }
    free(m);
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
        struct message *m = net.first[i / RANKS][i % RANKS];
        while (m != NULL) {
            struct message *next = m->next;
            free(m);
            m = next;
        }
        net.first[i / RANKS][i % RANKS] = net.last[i / RANKS][i % RANKS] = NULL;
    }
    net.shut = false;
    net.sent = 0;
}

static const struct kern_group_link link_of_all = {NULL, net_send, net_receive, net_shut};
static struct kern_device *dev[RANKS];
static struct kern_group *group[CALLERS];
static pthread_barrier_t joined, done;

static void *run_caller(void *arg) {
    static const size_t cut[CALLERS + 1] = {0, 1, 3, RANKS};
    struct kern_vec part[RANKS];
    size_t c = (size_t)(uintptr_t)arg, first = cut[c], count = cut[c + 1] - first;
    struct kern_group_id id = {{0}};
    int64_t *x = malloc(N * sizeof *x);
    NEED(kern_group_span(&id, &link_of_all, RANKS, first, dev + first, count, &group[c]) ==
         KERN_OK);
    for (size_t i = 0; i < N; i++) {
        x[i] = (int64_t)i;
    }
    for (size_t d = 0; d < count; d++) {
        part[d] = (struct kern_vec){NULL, 0};
        NEED(kern_buf_new(dev[first + d], N * sizeof *x, &part[d].buf) == KERN_OK);
    }
    pthread_barrier_wait(&joined);
    enum kern_status st = KERN_OK;
    for (int call = 0; call < CALLS && st == KERN_OK; call++) {
        for (size_t d = 0; d < count; d++) {
            NEED(kern_upload(part[d].buf, 0, x, N * sizeof *x) == KERN_OK);
        }
        kern_group_set_way(group[c], call % 2 ? KERN_WAY_RING : KERN_WAY_TREE);
        st = kern_group_all_reduce(group[c], part, N, KERN_I64);
        int64_t last = 0;
        for (size_t d = 0; d < count && st == KERN_OK; d++) {
            NEED(kern_download(&last, part[d].buf, (N - 1) * sizeof last, sizeof last) == KERN_OK);
            NEED(last == (int64_t)RANKS * (N - 1));
        }
    }
    NEED(st == KERN_OK || st == KERN_EGROUP);
    pthread_barrier_wait(&done);
    kern_group_close(group[c]);
    for (size_t d = 0; d < count; d++) {
        kern_buf_free(part[d].buf);
    }
    free(x);
    return NULL;
}

/* Breaks off once so many messages were sent; 0: never. */
static void *break_off(void *arg) {
    (void)arg;
    pthread_barrier_wait(&joined);
    pthread_mutex_lock(&net.lock);
    while (net.shut_after > 0 && net.sent < net.shut_after && !net.shut) {
        pthread_cond_wait(&net.moved, &net.lock);
    }
    bool breaks = net.shut_after > 0;
    pthread_mutex_unlock(&net.lock);
    if (breaks) {
        kern_group_abort(group[1]);
    }
    pthread_barrier_wait(&done);
    return NULL;
}

int main(void) {
    size_t count = 0;
    NEED(kern_devices_open("cpu*6", 6, dev, RANKS, &count) == KERN_OK && count == RANKS);
    for (size_t round = 0; round < 12; round++) {
        pthread_t thread[CALLERS + 1];
        net_open();
        net.shut_after = round * 7;
        pthread_barrier_init(&joined, NULL, CALLERS + 1);
        pthread_barrier_init(&done, NULL, CALLERS + 1);
        for (size_t i = 0; i < CALLERS; i++) {
            NEED(pthread_create(&thread[i], NULL, run_caller, (void *)(uintptr_t)i) == 0);
        }
        NEED(pthread_create(&thread[CALLERS], NULL, break_off, NULL) == 0);
        for (size_t i = 0; i <= CALLERS; i++) {
            pthread_join(thread[i], NULL);
        }
        pthread_barrier_destroy(&joined);
        pthread_barrier_destroy(&done);
    }
    net_open();
    for (size_t i = 0; i < RANKS; i++) {
        kern_device_close(dev[i]);
    }
    return 0;
}
