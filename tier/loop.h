/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The event loop of a node: one gRPC completion queue, driven by one thread. All of the node's
 * state belongs to that thread, so none of it needs a lock; network events, timers and finished
 * background jobs arrive as callbacks on it, one after another.
 *
 * Threads: tier_loop_post and tier_loop_stop may be called from any thread, everything else only
 * from the loop's own thread (or before tier_loop_run). Callbacks must not block for long: what
 * takes more than milliseconds goes to a worker.
 */
#ifndef CONSILIUM_TIER_LOOP_H
#define CONSILIUM_TIER_LOOP_H

#include "tier/err.h"

#include <stdint.h>

struct tier_loop;
struct tier_timer;
struct tier_worker;

typedef void (*tier_loop_fn)(void *arg);

/* Also starts gRPC (once per process, counted). Set up malloc for large slices: see rpc.c. */
enum tier_status tier_loop_new(struct tier_loop **out, struct tier_err *err);
/* Drops timers and posts that have not run. Servers and channels on it must be gone. */
void tier_loop_free(struct tier_loop *loop);
/* Runs callbacks until tier_loop_stop; may be called again afterwards. */
void tier_loop_run(struct tier_loop *loop);
/* Runs callbacks until `done` returns true or timeout_ms passes; for tests and the console. */
bool tier_loop_run_until(struct tier_loop *loop, bool (*done)(void *arg), void *arg,
                         uint64_t timeout_ms);
/* Makes tier_loop_run return once what was posted before has run; the caller, on any thread, is
 * then done with the loop. */
void tier_loop_stop(struct tier_loop *loop);
/* Runs fn(arg) on the loop soon. Any thread; posts of one thread run in its order. */
void tier_loop_post(struct tier_loop *loop, tier_loop_fn fn, void *arg);

/* Milliseconds: monotonic, and since 1970 (UTC). */
uint64_t tier_clock_ms(void);
int64_t tier_wall_ms(void);

/* One timer, re-armed at will. */
struct tier_timer *tier_timer_new(struct tier_loop *loop, tier_loop_fn fn, void *arg);
void tier_timer_free(struct tier_timer *timer);
/* Fires once after delay_ms, replacing what was set before. */
void tier_timer_set(struct tier_timer *timer, uint64_t delay_ms);
void tier_timer_cancel(struct tier_timer *timer);

/*
 * One background thread with a queue: work(arg) runs on it, then done(arg) on the loop.
 * Jobs of one worker run in order. Free waits for the job under way and still delivers no done()
 * after it returns.
 */
enum tier_status tier_worker_new(struct tier_loop *loop, struct tier_worker **out,
                                 struct tier_err *err);
void tier_worker_free(struct tier_worker *worker);
/* drop(arg), if not NULL, takes the place of a done() that will not come. */
void tier_worker_submit(struct tier_worker *worker, tier_loop_fn work, tier_loop_fn done,
                        tier_loop_fn drop, void *arg);
/* True from a tier_worker_free under way: long jobs should give up. Any thread. */
bool tier_worker_stopping(const struct tier_worker *worker);

/* tier/rpc.c hangs its tags on the same queue. */
struct grpc_completion_queue;
struct tier_tag {
    void (*fn)(struct tier_tag *tag, bool ok);
};
struct grpc_completion_queue *tier_loop_queue(struct tier_loop *loop);
void tier_rpc_process_init(void); /* once, before the first grpc_init */

#endif
