/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop under many threads: posts from eight of them, timers that set one another, a
 * worker fed from the loop, and a worker that is freed with jobs still waiting.
 */
#include "tsan/tsan.h"
#include "tier/log.h"
#include "tier/loop.h"

#include <pthread.h>
#include <stdatomic.h>

#define POSTERS 8
#define POSTS 400
#define TICKS 200
#define JOBS 300

static struct tier_loop *loop;

/* The loop's alone: what posts, timers and finished jobs did. */
static struct {
    unsigned posts, next[POSTERS], ticks, done;
    struct tier_timer *timers[3];
} seen;

struct letter {
    unsigned from, number;
};

static void deliver(void *arg) {
    struct letter *l = arg;
    NEED(l->number == seen.next[l->from]); /* one thread's posts run in its order */
    seen.next[l->from]++;
    seen.posts++;
    free(l);
}

static void *post_many(void *arg) {
    for (unsigned i = 0; i < POSTS; i++) {
        struct letter *l = malloc(sizeof *l);
        NEED(l != NULL);
        *l = (struct letter){(unsigned)(uintptr_t)arg, i};
        tier_loop_post(loop, deliver, l);
    }
    return NULL;
}

static void tick(void *arg) {
    unsigned which = (unsigned)(uintptr_t)arg;
    seen.ticks++;
    if (seen.ticks < TICKS) {
        tier_timer_set(seen.timers[which], which);
        tier_timer_set(seen.timers[(which + 1) % 3], 1);
    }
}

static struct tier_worker *worker;

struct job {
    unsigned number, square;
    bool last;
};

static void work(void *arg) {
    struct job *j = arg;
    j->square = j->number * j->number;
}

static void submit(unsigned number);

static void done(void *arg) {
    struct job *j = arg;
    NEED(j->square == j->number * j->number && j->number == seen.done);
    seen.done++;
    if (j->last && seen.done < JOBS)
        submit(seen.done);
    free(j);
}

/* Three at a time, so that the queue is sometimes empty and sometimes not. */
static void submit(unsigned number) {
    for (unsigned i = 0; i < 3; i++) {
        struct job *j = calloc(1, sizeof *j);
        NEED(j != NULL);
        *j = (struct job){.number = number + i, .last = i == 2};
        tier_worker_submit(worker, work, done, NULL, j);
    }
}

static bool all_seen(void *arg) {
    (void)arg;
    return seen.posts == POSTERS * POSTS && seen.ticks >= TICKS && seen.done >= JOBS;
}

static void everything_at_once(void) {
    pthread_t posters[POSTERS];

    MUST(tier_worker_new(loop, &worker, err));
    for (uintptr_t i = 0; i < 3; i++) {
        seen.timers[i] = tier_timer_new(loop, tick, (void *)i);
        tier_timer_set(seen.timers[i], i);
    }
    submit(0);
    for (uintptr_t i = 0; i < POSTERS; i++)
        NEED(pthread_create(&posters[i], NULL, post_many, (void *)i) == 0);
    NEED(tier_loop_run_until(loop, all_seen, NULL, 60000));
    for (int i = 0; i < POSTERS; i++)
        pthread_join(posters[i], NULL);
    for (int i = 0; i < 3; i++)
        tier_timer_free(seen.timers[i]);
    tier_worker_free(worker);
}

/* ---- a worker freed in the middle of its queue ---- */

struct slow {
    struct tier_worker *worker;
    pthread_mutex_t lock;
    pthread_cond_t started;
    bool has_started, gave_up;
};

static void wait_for_the_end(void *arg) {
    struct slow *s = arg;
    pthread_mutex_lock(&s->lock);
    s->has_started = true;
    pthread_cond_signal(&s->started);
    pthread_mutex_unlock(&s->lock);
    while (!tier_worker_stopping(s->worker))
        ;
    s->gave_up = true;
}

static void never(void *arg) {
    (void)arg;
    NEED(!"done() after tier_worker_free");
}

static void a_worker_is_freed_at_work(void) {
    struct slow s = {.lock = PTHREAD_MUTEX_INITIALIZER, .started = PTHREAD_COND_INITIALIZER};

    MUST(tier_worker_new(loop, &s.worker, err));
    for (int i = 0; i < 5; i++)
        tier_worker_submit(s.worker, wait_for_the_end, never, NULL, &s);
    pthread_mutex_lock(&s.lock);
    while (!s.has_started)
        pthread_cond_wait(&s.started, &s.lock);
    pthread_mutex_unlock(&s.lock);
    tier_worker_free(s.worker);
    NEED(s.gave_up);
}

/* ---- a loop on a thread of its own, stopped from another ---- */

static void *run_loop(void *arg) {
    tier_loop_run(loop);
    return arg;
}

static void count(void *arg) {
    ++*(unsigned *)arg; /* the loop's thread; read by us after the join */
}

static void a_loop_is_stopped_and_run_again(void) {
    unsigned counted = 0;

    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        NEED(pthread_create(&thread, NULL, run_loop, NULL) == 0);
        for (int k = 0; k < 10; k++)
            tier_loop_post(loop, count, &counted);
        tier_loop_stop(loop); /* what was posted before it runs first */
        pthread_join(thread, NULL);
        NEED(counted == 10u * (unsigned)(i + 1));
    }
}

int main(void) {
    tier_log_init("tsan", TIER_LOG_ERROR);
    MUST(tier_loop_new(&loop, err));
    everything_at_once();
    a_worker_is_freed_at_work();
    a_loop_is_stopped_and_run_again();
    tier_loop_free(loop);
    puts("posts, timers and workers of many threads: in order");
    return 0;
}
