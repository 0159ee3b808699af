/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/loop.h"

#include <pthread.h>
#include <stdatomic.h>

#define TIMEOUT_MS 20000

static struct tier_loop *loop;

static void set_up(void) {
    MUST(tier_loop_new(&loop, err));
}
static void tear_down(void) {
    tier_loop_free(loop);
}
TestSuite(tier_loop, .init = set_up, .fini = tear_down);

/* What happened, in order. */
static char trace[64];

static void say(void *arg) {
    size_t n = strlen(trace);
    snprintf(trace + n, sizeof trace - n, "%s", (const char *)arg);
}
static bool said(void *arg) {
    return strstr(trace, arg) != NULL;
}
static void stop(void *arg) {
    (void)arg;
    tier_loop_stop(loop);
}

Test(tier_loop, posts_run_in_their_order_until_the_loop_is_stopped) {
    tier_loop_post(loop, say, "a");
    tier_loop_post(loop, say, "b");
    tier_loop_stop(loop);
    tier_loop_post(loop, say, "c");
    tier_loop_run(loop);
    cr_assert(eq(str, trace, "ab"));
    tier_loop_post(loop, stop, NULL);
    tier_loop_run(loop);
    cr_assert(eq(str, trace, "abc"), "a loop that was stopped runs again");
}

static void post_more(void *arg) {
    say(arg);
    tier_loop_post(loop, say, "2");
    tier_loop_stop(loop);
}

Test(tier_loop, a_post_made_by_a_post_runs_too) {
    tier_loop_post(loop, post_more, "1");
    tier_loop_run(loop);
    cr_assert(eq(str, trace, "12"));
}

static void wait_inside(void *arg) {
    (void)arg;
    say("(");
    CHECK(tier_loop_run_until(loop, said, "x", TIMEOUT_MS));
    say(")");
}

Test(tier_loop, a_callback_may_itself_wait_for_later_posts) {
    tier_loop_post(loop, wait_inside, NULL);
    tier_loop_post(loop, say, "x");
    CHECK(tier_loop_run_until(loop, said, ")", TIMEOUT_MS));
    cr_assert(eq(str, trace, "(x)"));
}

Test(tier_loop, waiting_ends_at_its_time_when_nothing_happens) {
    uint64_t before = tier_clock_ms();
    CHECK(!tier_loop_run_until(loop, said, "never", 30));
    CHECK(tier_clock_ms() - before >= 30);
    CHECK(!tier_loop_run_until(loop, said, "never", 0));
}

Test(tier_loop, posts_and_timers_that_have_not_run_are_dropped_with_the_loop) {
    struct tier_timer *timer = tier_timer_new(loop, say, "t");
    tier_timer_set(timer, 0);
    tier_loop_post(loop, say, "p");
    tier_timer_free(timer);
    tier_loop_free(loop);
    cr_assert(eq(str, trace, ""));
    tier_loop_free(NULL);
    MUST(tier_loop_new(&loop, err));
}

/* ---- timers ---- */

Test(tier_loop, timers_fire_in_the_order_of_their_times_and_once) {
    struct tier_timer *a = tier_timer_new(loop, say, "a"), *b = tier_timer_new(loop, say, "b"),
                      *c = tier_timer_new(loop, say, "c"), *d = tier_timer_new(loop, say, "d");
    tier_timer_set(d, 40);
    tier_timer_set(b, 20);
    tier_timer_set(a, 1);
    tier_timer_set(c, 20); /* after b: it was set later */
    CHECK(tier_loop_run_until(loop, said, "d", TIMEOUT_MS));
    CHECK(!tier_loop_run_until(loop, said, "dd", 50));
    cr_assert(eq(str, trace, "abcd"));
    tier_timer_free(a), tier_timer_free(b), tier_timer_free(c), tier_timer_free(d);
}

Test(tier_loop, a_timer_set_again_counts_from_then_and_a_cancelled_one_never_fires) {
    struct tier_timer *a = tier_timer_new(loop, say, "a"), *b = tier_timer_new(loop, say, "b"),
                      *end = tier_timer_new(loop, say, "!");
    tier_timer_set(a, 0);
    tier_timer_set(a, 60000);
    tier_timer_set(b, 0);
    tier_timer_cancel(b);
    tier_timer_cancel(b);
    tier_timer_cancel(NULL);
    tier_timer_set(end, 20);
    CHECK(tier_loop_run_until(loop, said, "!", TIMEOUT_MS));
    cr_assert(eq(str, trace, "!"));
    tier_timer_set(a, 0); /* earlier than before works as well */
    CHECK(tier_loop_run_until(loop, said, "a", TIMEOUT_MS));
    tier_timer_free(a), tier_timer_free(b), tier_timer_free(end);
    tier_timer_free(NULL);
}

static struct tier_timer *own;

static void free_own(void *arg) {
    tier_timer_free(own);
    say(arg);
}

Test(tier_loop, a_timer_may_free_itself) {
    own = tier_timer_new(loop, free_own, "f");
    tier_timer_set(own, 0);
    CHECK(tier_loop_run_until(loop, said, "f", TIMEOUT_MS));
}

/* ---- workers ---- */

static pthread_t work_thread;
static struct tier_worker *worker;

static void work(void *arg) {
    work_thread = pthread_self();
    *(int *)arg *= 2;
}
static void work_done(void *arg) {
    CHECK(!pthread_equal(work_thread, pthread_self()), "work ran on the loop");
    say(*(int *)arg == 4 ? "4" : *(int *)arg == 6 ? "6" : "?");
}

Test(tier_loop, a_worker_does_its_jobs_in_order_off_the_loop) {
    int two = 2, three = 3;
    MUST(tier_worker_new(loop, &worker, err));
    tier_worker_submit(worker, work, work_done, NULL, &two);
    tier_worker_submit(worker, work, work_done, NULL, &three);
    CHECK(tier_loop_run_until(loop, said, "6", TIMEOUT_MS));
    cr_assert(eq(str, trace, "46"));
    CHECK(!tier_worker_stopping(worker));
    tier_worker_free(worker);
    tier_worker_free(NULL);
}

static atomic_bool started;

static void until_stopped(void *arg) {
    (void)arg;
    atomic_store(&started, true);
    while (!tier_worker_stopping(worker))
        sched_yield();
}
static bool has_started(void *arg) {
    (void)arg;
    return atomic_load(&started);
}

Test(tier_loop, freeing_a_worker_ends_the_job_under_way_and_drops_the_rest) {
    MUST(tier_worker_new(loop, &worker, err));
    tier_worker_submit(worker, until_stopped, say, NULL, "1");
    tier_worker_submit(worker, until_stopped, say, NULL, "2");
    struct tier_timer *look = tier_timer_new(loop, say, "");
    while (!has_started(NULL)) { /* the worker posts nothing here: look again every millisecond */
        tier_timer_set(look, 1);
        tier_loop_run_until(loop, has_started, NULL, 1);
    }
    tier_worker_free(worker);
    tier_timer_free(look);
    CHECK(!tier_loop_run_until(loop, said, "1", 10));
    cr_assert(eq(str, trace, ""));
}

Test(tier_loop, the_clocks_go_on) {
    uint64_t a = tier_clock_ms();
    CHECK(tier_clock_ms() >= a);
    CHECK(tier_wall_ms() > INT64_C(1600000000000));
}
