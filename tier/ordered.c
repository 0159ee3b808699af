/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/ordered.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

struct ordered {
    const struct tier_ordered *pass;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t turn;
    uint64_t next_taken, next_emitted;
    uint64_t failed_segment; /* UINT64_MAX is none */
    enum tier_status status;
    struct tier_err *err;
};

struct thread {
    struct ordered *of;
    void *worker;
    pthread_t id;
};

/* Under the lock. */
static void fail_at(struct ordered *o, uint64_t segment, enum tier_status st,
                    const struct tier_err *err) {
    if (segment < o->failed_segment) {
        o->failed_segment = segment;
        o->status = st;
        if (o->err)
            *o->err = *err;
    }
    pthread_cond_broadcast(&o->turn);
}

static bool take(struct thread *t, uint64_t *segment_out) {
    struct ordered *o = t->of;
    struct tier_err err;
    bool taken = false;

    pthread_mutex_lock(&o->lock);
    if (o->failed_segment == UINT64_MAX && o->next_taken < o->pass->segments) {
        *segment_out = o->next_taken++;
        enum tier_status st = o->pass->take(t->worker, *segment_out, &err);
        taken = st == TIER_OK;
        if (!taken)
            fail_at(o, *segment_out, st, &err);
    }
    pthread_mutex_unlock(&o->lock);
    return taken;
}

/* Waits for the segment's turn; false when the pass has failed before it. */
static bool emit(struct thread *t, uint64_t segment) {
    struct ordered *o = t->of;
    struct tier_err err;

    pthread_mutex_lock(&o->lock);
    while (o->next_emitted != segment && o->failed_segment > segment)
        pthread_cond_wait(&o->turn, &o->lock);
    bool mine = o->failed_segment > segment;
    pthread_mutex_unlock(&o->lock);
    if (!mine)
        return false;
    /* Only the segment whose turn it is gets here. */
    enum tier_status st = o->pass->emit(t->worker, segment, &err);
    pthread_mutex_lock(&o->lock);
    o->next_emitted++;
    if (st != TIER_OK)
        fail_at(o, segment, st, &err);
    pthread_cond_broadcast(&o->turn);
    pthread_mutex_unlock(&o->lock);
    return st == TIER_OK;
}

static void *thread_main(void *arg) {
    struct thread *t = arg;
    uint64_t segment;

    while (take(t, &segment)) {
        struct tier_err err;
        enum tier_status st = t->of->pass->work(t->worker, segment, &err);
        if (st != TIER_OK) {
            pthread_mutex_lock(&t->of->lock);
            fail_at(t->of, segment, st, &err);
            pthread_mutex_unlock(&t->of->lock);
            break;
        }
        if (!emit(t, segment))
            break;
    }
    return NULL;
}

enum tier_status tier_ordered_run(const struct tier_ordered *pass, struct tier_err *err) {
    assert(pass->threads > 0);
    struct ordered o = {.pass = pass, .failed_segment = UINT64_MAX, .err = err};
    struct thread *threads = calloc(pass->threads, sizeof *threads);
    pthread_attr_t attr;
    size_t started = 1;

    if (!threads)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu threads", pass->threads);
    pthread_mutex_init(&o.lock, NULL);
    pthread_cond_init(&o.turn, NULL);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, TIER_ORDERED_STACK_BYTES);
    threads[0] = (struct thread){.of = &o, .worker = pass->workers[0]};
    /* Where no further thread can be had, fewer do the work. */
    for (; started < pass->threads; started++) {
        struct thread *t = &threads[started];
        *t = (struct thread){.of = &o, .worker = pass->workers[started]};
        if (pthread_create(&t->id, &attr, thread_main, t) != 0)
            break;
    }
    thread_main(&threads[0]);
    for (size_t i = 1; i < started; i++)
        pthread_join(threads[i].id, NULL);
    pthread_attr_destroy(&attr);
    pthread_cond_destroy(&o.turn);
    pthread_mutex_destroy(&o.lock);
    free(threads);
    return o.status;
}
