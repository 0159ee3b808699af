/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of pieces from a client to strands of an intake, all on one loop, in plain text. */
#include "tier/intake.h"
#include "tier/log.h"
#include "tier/sender.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH "/test.Intake/Push"
#define STREAMS_MAX 40
#define PIECES 6
#define TIMEOUT_MS 20000

struct stream {
    struct tier_rpc_call *call; /* the server's end */
    struct tier_strand *strand;
    uint64_t next; /* offset that has to come: checked by the thread that absorbs */
    bool out_of_order, thread_changed;
    pthread_t thread;
    unsigned absorbed, failures, drained, released;
    struct tier_err err;
};

static struct tier_loop *loop;
static struct tier_intake *intake;
static struct tier_rpc_server *server;
static struct tier_rpc_channel *channel;
static struct stream stream[STREAMS_MAX];
static unsigned opened, held_max;
static uint64_t fail_at; /* the piece at this offset is not absorbed */
static bool close_at_first;

/* While the gate is shut every absorbing thread waits in front of it. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_moved = PTHREAD_COND_INITIALIZER;
static bool shut;
static unsigned waiting;

static void move_gate(bool to) {
    pthread_mutex_lock(&gate);
    shut = to;
    pthread_cond_broadcast(&gate_moved);
    pthread_mutex_unlock(&gate);
}

/* Whoever waits on the loop for a thread at the gate looks again. */
static void look_again(void *arg) {
    (void)arg;
}

static enum tier_status absorb(void *owner, struct tier_piece_reader *r, uint8_t *scratch,
                               struct tier_err *err) {
    struct stream *s = owner;
    const uint8_t *data;
    size_t n, bytes = 0;

    pthread_mutex_lock(&gate);
    waiting++;
    if (shut)
        tier_loop_post(loop, look_again, NULL);
    while (shut)
        pthread_cond_wait(&gate_moved, &gate);
    waiting--;
    pthread_mutex_unlock(&gate);
    s->out_of_order = s->out_of_order || r->piece.offset != s->next;
    s->thread_changed =
        s->thread_changed || (s->next > 0 && !pthread_equal(s->thread, pthread_self()));
    s->thread = pthread_self();
    if (fail_at && r->piece.offset == fail_at)
        return tier_fail(err, TIER_ECORRUPT, "the piece at %zu", (size_t)fail_at);
    while (tier_piece_next(r, &data, &n)) {
        memcpy(scratch + bytes, data, n);
        bytes += n;
    }
    s->next += bytes;
    return TIER_OK;
}

static void absorbed(void *owner, enum tier_status st, const struct tier_err *err, size_t bytes) {
    struct stream *s = owner;
    s->absorbed += st == TIER_OK && bytes > 0;
    s->failures += st != TIER_OK;
    if (st != TIER_OK) {
        s->err = *err;
        tier_rpc_finish(s->call, st, err->text);
    }
    if (close_at_first)
        tier_rpc_finish(s->call, TIER_EPOLICY, "enough");
}

static void drained(void *owner) {
    struct stream *s = owner;
    s->drained++;
    tier_rpc_finish(s->call, TIER_OK, "");
}

static void released(void *owner) {
    struct stream *s = owner;
    s->released++;
}

static const struct tier_strand_events events = {
    .absorb = absorb, .absorbed = absorbed, .drained = drained, .released = released};

static void server_opened(struct tier_rpc_call *call) {
    struct stream *s = &stream[opened++];
    s->call = call;
    s->strand = tier_strand_open(intake, call, &events, s);
    tier_rpc_set_user(call, s);
    tier_strand_read(s->strand);
}

static void server_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct stream *s = tier_rpc_user(call);
    unsigned held;
    tier_strand_take(s->strand, m);
    held = tier_intake_held(intake);
    held_max = held > held_max ? held : held_max;
}

static void server_half_closed(struct tier_rpc_call *call) {
    struct stream *s = tier_rpc_user(call);
    tier_strand_end(s->strand);
}

static void server_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct stream *s = tier_rpc_user(call);
    (void)status;
    (void)text;
    tier_strand_close(s->strand);
}

static const struct tier_rpc_handler server_handler = {.opened = server_opened,
                                                       .message = server_message,
                                                       .half_closed = server_half_closed,
                                                       .closed = server_closed};
static const struct tier_rpc_method methods[] = {{PATH, &server_handler}};

/* ---- the client ---- */

struct client {
    struct tier_rpc_call *call;
    struct tier_sender *sender;
    bool closed;
    enum tier_status status;
};
static struct client client[STREAMS_MAX];

static enum tier_status source(void *arg, uint64_t offset, void *out, size_t n,
                               struct tier_err *err) {
    (void)arg;
    (void)err;
    memset(out, (int)(offset >> 16 & 0xff), n);
    return TIER_OK;
}

static void client_sent(struct tier_rpc_call *call) {
    struct client *c = tier_rpc_user(call);
    tier_sender_fill(c->sender);
}

static void client_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct client *c = tier_rpc_user(call);
    (void)text;
    c->closed = true;
    c->status = status;
}

static const struct tier_rpc_handler client_handler = {.sent = client_sent,
                                                       .closed = client_closed};

static void call(unsigned i) {
    client[i].call = tier_rpc_call_new(channel, PATH, &client_handler, &client[i], 0);
}

static void push(unsigned i) {
    client[i].sender =
        tier_sender_new(client[i].call, NULL, NULL, source, NULL, PIECES * TIER_CHUNK_BYTES, 0);
    tier_sender_fill(client[i].sender);
}

static void begin(unsigned streams) {
    for (unsigned i = 0; i < streams; i++) {
        call(i);
        push(i);
    }
}

static bool all_over(void *arg) {
    unsigned streams = *(unsigned *)arg;
    for (unsigned i = 0; i < streams; i++)
        if (!client[i].closed || !stream[i].released)
            return false;
    return true;
}

static void finish(unsigned streams) {
    cr_assert(tier_loop_run_until(loop, all_over, &streams, TIMEOUT_MS));
    cr_assert(eq(uint, tier_intake_held(intake), 0u));
    for (unsigned i = 0; i < streams; i++)
        tier_sender_free(client[i].sender);
}

/* ---- fixture ---- */

static void up(unsigned threads) {
    struct tier_err err = {0};
    char address[32];
    cr_assert(eq(int, tier_loop_new(&loop, &err), TIER_OK));
    cr_assert(eq(int, tier_intake_new(loop, threads, &intake, &err), TIER_OK));
    cr_assert(eq(
        int, tier_rpc_server_new(loop, "127.0.0.1:0", NULL, NULL, methods, 1, NULL, &server, &err),
        TIER_OK));
    snprintf(address, sizeof address, "127.0.0.1:%d", tier_rpc_server_port(server));
    cr_assert(eq(int, tier_rpc_channel_new(loop, address, "x", "x", NULL, NULL, &channel, &err),
                 TIER_OK));
}

static void down(void) {
    tier_rpc_channel_free(channel);
    tier_rpc_server_free(server);
    tier_intake_free(intake);
    tier_loop_free(loop);
}

static void set_up(void) {
    tier_log_init("test", TIER_LOG_ERROR);
}

TestSuite(tier_intake, .init = set_up);

/* ---- tests ---- */

static void all_is_absorbed_in_order(unsigned threads, unsigned streams) {
    up(threads);
    begin(streams);
    finish(streams);
    for (unsigned i = 0; i < streams; i++) {
        cr_assert(eq(u64, stream[i].next, (uint64_t)PIECES * TIER_CHUNK_BYTES));
        cr_assert(eq(uint, stream[i].absorbed, (unsigned)PIECES));
        cr_assert(eq(uint, stream[i].drained, 1u));
        cr_assert(eq(uint, stream[i].released, 1u));
        cr_assert(stream[i].out_of_order == false);
        cr_assert(stream[i].thread_changed == false);
        cr_assert(eq(int, client[i].status, TIER_OK));
    }
    down();
}

Test(tier_intake, pieces_of_a_strand_are_absorbed_in_order_on_one_thread) {
    all_is_absorbed_in_order(3, 7);
}

Test(tier_intake, without_threads_the_loop_absorbs) {
    all_is_absorbed_in_order(0, 3);
    cr_assert(pthread_equal(stream[0].thread, pthread_self()));
}

static bool reached(void *arg) {
    pthread_mutex_lock(&gate);
    unsigned n = waiting;
    pthread_mutex_unlock(&gate);
    return n > 0 && tier_intake_held(intake) >= *(unsigned *)arg;
}

Test(tier_intake, what_is_here_or_on_its_way_is_bounded_by_the_credit) {
    unsigned few = 2 * 4, many = TIER_CREDIT_CHUNKS;
    up(2);
    tier_intake_set_patience(intake, UINT32_MAX);
    move_gate(true);
    begin(4);
    cr_assert(tier_loop_run_until(loop, reached, &few, TIMEOUT_MS), "two a strand");
    move_gate(false);
    finish(4);
    cr_assert(le(uint, held_max, few));

    memset(stream, 0, sizeof stream);
    memset(client, 0, sizeof client);
    opened = held_max = 0;
    cr_assert(lt(uint, many, (unsigned)STREAMS_MAX));
    move_gate(true);
    begin(STREAMS_MAX);
    cr_assert(tier_loop_run_until(loop, reached, &many, TIMEOUT_MS));
    move_gate(false);
    finish(STREAMS_MAX); /* those that waited for credit get it */
    cr_assert(le(uint, held_max, many));
    down();
}

static bool asked_all(void *arg) {
    return opened == *(unsigned *)arg;
}

static bool last_is_over(void *arg) {
    unsigned last = *(unsigned *)arg;
    return client[last].closed && stream[last].released;
}

Test(tier_intake, senders_that_are_slow_hold_up_nobody_and_count_once_they_send) {
    unsigned slow = TIER_CREDIT_CHUNKS;
    up(2);
    tier_intake_set_patience(intake, 1);
    for (unsigned i = 0; i < slow; i++)
        call(i);
    cr_assert(tier_loop_run_until(loop, asked_all, &slow, TIMEOUT_MS));
    cr_assert(eq(uint, tier_intake_held(intake), (unsigned)TIER_CREDIT_CHUNKS));
    call(slow);
    push(slow);
    cr_assert(tier_loop_run_until(loop, last_is_over, &slow, TIMEOUT_MS));
    cr_assert(eq(uint, stream[slow].absorbed, (unsigned)PIECES));
    cr_assert(eq(int, client[slow].status, TIER_OK));
    for (unsigned i = 0; i < slow; i++)
        push(i);
    finish(slow + 1);
    for (unsigned i = 0; i < slow; i++)
        cr_assert(eq(uint, stream[i].absorbed, (unsigned)PIECES));
    down();
}

Test(tier_intake, nothing_is_absorbed_behind_a_failure_and_it_is_told_once) {
    fail_at = 2 * TIER_CHUNK_BYTES;
    up(2);
    begin(3);
    finish(3);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(eq(uint, stream[i].absorbed, 2u));
        cr_assert(eq(uint, stream[i].failures, 1u));
        cr_assert(eq(u64, stream[i].next, fail_at));
        cr_assert(eq(int, client[i].status, TIER_ECORRUPT));
        cr_assert(strstr(stream[i].err.text, "2097152") != NULL);
    }
    down();
}

Test(tier_intake, a_strand_that_is_closed_at_work_is_released_after_it) {
    unsigned one = 1;
    move_gate(true);
    up(1);
    begin(1);
    cr_assert(tier_loop_run_until(loop, reached, &one, TIMEOUT_MS));
    tier_rpc_cancel(stream[0].call);
    tier_loop_run_until(loop, all_over, &one, 50);
    cr_assert(eq(uint, stream[0].released, 0u), "a thread still knows it");
    move_gate(false);
    finish(1);
    cr_assert(eq(uint, stream[0].released, 1u));
    cr_assert(eq(uint, stream[0].absorbed, 0u), "the owner hears no more of it");
    down();
}

Test(tier_intake, an_owner_may_end_its_call_from_the_first_piece_on) {
    close_at_first = true;
    up(2);
    begin(5);
    finish(5);
    for (unsigned i = 0; i < 5; i++)
        cr_assert(eq(int, client[i].status, TIER_EPOLICY));
    down();
}
