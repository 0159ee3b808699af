/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a gRPC completion queue is the event loop: gRPC core does its network work on the thread that
 * polls the queue, so polling with the node's own thread costs no hand-over between threads. Timers
 * bound the poll. The core's C interface has no way to put an event of one's own on a queue, so
 * posts wait in a list of ours, and what wakes the poll is a call on a lame channel, which fails,
 * and thereby completes, at once. One wake-up serves all posts that wait.
 */
#include "tier/loop.h"

#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct post {
    tier_loop_fn fn;
    void *arg;
    struct post *next;
};

/* The call on the lame channel, while one is under way. */
struct wake {
    struct tier_tag tag;
    struct tier_loop *loop;
    grpc_call *call;
    grpc_status_code status;
    grpc_slice details;
    grpc_metadata_array trailing;
};

struct tier_loop {
    grpc_completion_queue *queue;
    grpc_channel *lame;
    bool stop, running_down;
    struct tier_timer *timers; /* armed ones, earliest first */

    pthread_mutex_t lock; /* guards all below */
    struct post *first, *last;
    bool waking;
    struct wake wake;
};

struct tier_timer {
    struct tier_loop *loop;
    tier_loop_fn fn;
    void *arg;
    bool armed;
    uint64_t due_ms;
    struct tier_timer *prev, *next;
};

uint64_t tier_clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

int64_t tier_wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void on_wake(struct tier_tag *tag, bool ok);

static gpr_timespec after_ms(uint64_t ms) {
    if (ms > INT32_MAX)
        ms = INT32_MAX;
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_millis((int64_t)ms, GPR_TIMESPAN));
}

enum tier_status tier_loop_new(struct tier_loop **out, struct tier_err *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, tier_rpc_process_init);
    struct tier_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return tier_fail(err, TIER_ENOMEM, "no memory for an event loop");
    grpc_init();
    loop->queue = grpc_completion_queue_create_for_next(NULL);
    loop->lame = grpc_lame_client_channel_create("post", GRPC_STATUS_ABORTED, "post");
    pthread_mutex_init(&loop->lock, NULL);
    loop->wake = (struct wake){.tag = {on_wake}, .loop = loop};
    *out = loop;
    return TIER_OK;
}

static void fire_due_timers(struct tier_loop *loop) {
    uint64_t now = tier_clock_ms();
    while (loop->timers && loop->timers->due_ms <= now && !loop->running_down) {
        struct tier_timer *t = loop->timers;
        tier_timer_cancel(t);
        t->fn(t->arg); /* may free t */
    }
}

static bool posts_wait(struct tier_loop *loop) {
    pthread_mutex_lock(&loop->lock);
    bool any = loop->first != NULL;
    pthread_mutex_unlock(&loop->lock);
    return any;
}

/* Runs the posts that wait now, not those that they make; stops short at tier_loop_stop. One at a
 * time, because a callback may itself dispatch. */
static void run_posts(struct tier_loop *loop) {
    pthread_mutex_lock(&loop->lock);
    const struct post *end = loop->last;
    for (bool more = end != NULL; more && loop->first && !loop->stop;) {
        struct post *p = loop->first;
        more = p != end;
        loop->first = p->next;
        if (!loop->first)
            loop->last = NULL;
        pthread_mutex_unlock(&loop->lock);
        if (!loop->running_down)
            p->fn(p->arg);
        free(p);
        pthread_mutex_lock(&loop->lock);
    }
    pthread_mutex_unlock(&loop->lock);
}

/* One poll, at most until the earliest of `until` and the first timer. False when shut down. */
static bool dispatch(struct tier_loop *loop, gpr_timespec until) {
    if (loop->timers && !loop->running_down) {
        uint64_t now = tier_clock_ms(), due = loop->timers->due_ms;
        until = gpr_time_min(until, after_ms(due > now ? due - now : 0));
    }
    if (posts_wait(loop)) /* left by a stop, or by the callback that dispatches here */
        until = after_ms(0);
    grpc_event e = grpc_completion_queue_next(loop->queue, until, NULL);
    if (e.type == GRPC_OP_COMPLETE) {
        struct tier_tag *tag = e.tag;
        tag->fn(tag, e.success != 0);
    }
    run_posts(loop);
    fire_due_timers(loop);
    return e.type != GRPC_QUEUE_SHUTDOWN;
}

void tier_loop_free(struct tier_loop *loop) {
    if (!loop)
        return;
    loop->running_down = true;
    loop->stop = false;
    grpc_channel_destroy(loop->lame);
    grpc_completion_queue_shutdown(loop->queue);
    while (dispatch(loop, gpr_inf_future(GPR_CLOCK_MONOTONIC)))
        ;
    grpc_completion_queue_destroy(loop->queue);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
    grpc_shutdown();
}

void tier_loop_run(struct tier_loop *loop) {
    while (!loop->stop && dispatch(loop, gpr_inf_future(GPR_CLOCK_MONOTONIC)))
        ;
    loop->stop = false;
}

bool tier_loop_run_until(struct tier_loop *loop, bool (*done)(void *arg), void *arg,
                         uint64_t timeout_ms) {
    uint64_t end = tier_clock_ms() + timeout_ms;
    while (!done(arg)) {
        uint64_t now = tier_clock_ms();
        if (now >= end || !dispatch(loop, after_ms(end - now)))
            return done(arg);
    }
    return true;
}

static void stop_now(void *arg) {
    struct tier_loop *loop = arg;
    loop->stop = true;
}

/* As a post, so that whoever stops a loop is done with it before the loop can end and be freed. */
void tier_loop_stop(struct tier_loop *loop) {
    tier_loop_post(loop, stop_now, loop);
}

static void on_wake(struct tier_tag *tag, bool ok) {
    struct wake *w = (struct wake *)tag;
    (void)ok;
    pthread_mutex_lock(&w->loop->lock);
    grpc_slice_unref(w->details);
    grpc_metadata_array_destroy(&w->trailing);
    grpc_call_unref(w->call);
    w->loop->waking = false;
    pthread_mutex_unlock(&w->loop->lock);
}

/* With the lock held. */
static void start_wake(struct tier_loop *loop) {
    struct wake *w = &loop->wake;
    grpc_op op;

    w->details = grpc_empty_slice();
    grpc_metadata_array_init(&w->trailing);
    w->call = grpc_channel_create_call(loop->lame, NULL, GRPC_PROPAGATE_DEFAULTS, loop->queue,
                                       grpc_slice_from_static_string("/post"), NULL,
                                       gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    op.data.recv_status_on_client.trailing_metadata = &w->trailing;
    op.data.recv_status_on_client.status = &w->status;
    op.data.recv_status_on_client.status_details = &w->details;
    if (grpc_call_start_batch(w->call, &op, 1, &w->tag, NULL) != GRPC_CALL_OK)
        abort();
    loop->waking = true;
}

void tier_loop_post(struct tier_loop *loop, tier_loop_fn fn, void *arg) {
    struct post *p = calloc(1, sizeof *p);
    if (!p)
        abort(); /* a lost wake-up would hang the node: stop, and be restarted from the journal */
    *p = (struct post){.fn = fn, .arg = arg};
    pthread_mutex_lock(&loop->lock);
    if (loop->last)
        loop->last->next = p;
    else
        loop->first = p;
    loop->last = p;
    if (!loop->waking)
        start_wake(loop);
    pthread_mutex_unlock(&loop->lock);
}

struct tier_timer *tier_timer_new(struct tier_loop *loop, tier_loop_fn fn, void *arg) {
    struct tier_timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        abort();
    *timer = (struct tier_timer){.loop = loop, .fn = fn, .arg = arg};
    return timer;
}

void tier_timer_cancel(struct tier_timer *timer) {
    if (!timer || !timer->armed)
        return;
    if (timer->prev)
        timer->prev->next = timer->next;
    else
        timer->loop->timers = timer->next;
    if (timer->next)
        timer->next->prev = timer->prev;
    timer->prev = timer->next = NULL;
    timer->armed = false;
}

void tier_timer_set(struct tier_timer *timer, uint64_t delay_ms) {
    tier_timer_cancel(timer);
    struct tier_timer *after = NULL, *before = timer->loop->timers;

    timer->due_ms = tier_clock_ms() + delay_ms;
    while (before && before->due_ms <= timer->due_ms) {
        after = before;
        before = before->next;
    }
    timer->prev = after;
    timer->next = before;
    if (after)
        after->next = timer;
    else
        timer->loop->timers = timer;
    if (before)
        before->prev = timer;
    timer->armed = true;
}

void tier_timer_free(struct tier_timer *timer) {
    tier_timer_cancel(timer);
    free(timer);
}

grpc_completion_queue *tier_loop_queue(struct tier_loop *loop) {
    return loop->queue;
}

/* ---- worker ---- */

struct job {
    tier_loop_fn work, done, drop;
    void *arg;
    struct tier_worker *worker;
    struct job *next;
};

struct tier_worker {
    struct tier_loop *loop;
    pthread_t thread;
    pthread_mutex_t lock; /* guards first, last */
    pthread_cond_t wake;
    struct job *first, *last;
    atomic_bool stop;
    /* Jobs whose done() is on its way; only the loop's thread counts down. */
    atomic_int in_flight;
};

static void job_done(void *arg) {
    struct job *job = arg;
    atomic_fetch_sub(&job->worker->in_flight, 1);
    if (!atomic_load(&job->worker->stop))
        job->done(job->arg);
    else if (job->drop)
        job->drop(job->arg);
    free(job);
}

static void *worker_main(void *arg) {
    struct tier_worker *w = arg;

    for (;;) {
        pthread_mutex_lock(&w->lock);
        while (!w->first && !atomic_load(&w->stop))
            pthread_cond_wait(&w->wake, &w->lock);
        struct job *job = w->first;
        if (atomic_load(&w->stop) || !job) {
            pthread_mutex_unlock(&w->lock);
            return NULL;
        }
        w->first = job->next;
        if (!w->first)
            w->last = NULL;
        pthread_mutex_unlock(&w->lock);
        job->work(job->arg);
        atomic_fetch_add(&w->in_flight, 1);
        tier_loop_post(w->loop, job_done, job);
    }
}

enum tier_status tier_worker_new(struct tier_loop *loop, struct tier_worker **out,
                                 struct tier_err *err) {
    struct tier_worker *w = calloc(1, sizeof *w);
    if (!w)
        return tier_fail(err, TIER_ENOMEM, "no memory for a worker");
    w->loop = loop;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
        free(w);
        return tier_fail(err, TIER_ENOMEM, "cannot start a worker thread");
    }
    *out = w;
    return TIER_OK;
}

static bool worker_quiet(void *arg) {
    struct tier_worker *w = arg;
    return atomic_load(&w->in_flight) == 0;
}

void tier_worker_free(struct tier_worker *w) {
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->stop, true);
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    tier_loop_run_until(w->loop, worker_quiet, w, UINT32_MAX);
    while (w->first) {
        struct job *job = w->first;
        w->first = job->next;
        if (job->drop)
            job->drop(job->arg);
        free(job);
    }
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    free(w);
}

void tier_worker_submit(struct tier_worker *w, tier_loop_fn work, tier_loop_fn done,
                        tier_loop_fn drop, void *arg) {
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        abort();
    *job = (struct job){.work = work, .done = done, .drop = drop, .arg = arg, .worker = w};
    pthread_mutex_lock(&w->lock);
    if (w->last)
        w->last->next = job;
    else
        w->first = job;
    w->last = job;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

bool tier_worker_stopping(const struct tier_worker *w) {
    return atomic_load(&w->stop);
}
