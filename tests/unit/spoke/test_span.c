/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/span.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct tier_loop *loop;
static struct tier_err err;
static size_t sent;
static uint8_t last[KERN_GROUP_MESSAGE_BYTES + TIER_TEAM_PART_PREFIX];
static size_t last_bytes;
static bool refuse, hold; /* the stream's */
static void (*held)(void *arg);
static void *held_arg;

static bool send_fn(void *owner, uint32_t to, const void *prefix, size_t prefix_bytes,
                    const void *bytes, size_t n, void (*done)(void *arg), void *arg) {
    (void)owner;
    (void)to;
    memcpy(last, prefix, prefix_bytes);
    memcpy(last + prefix_bytes, bytes, n);
    last_bytes = prefix_bytes + n;
    sent++;
    if (hold) {
        held = done;
        held_arg = arg;
    } else {
        done(arg);
    }
    return !refuse;
}

static void open_loop(void) {
    cr_assert(tier_loop_new(&loop, &err) == TIER_OK);
}

static void close_loop(void) {
    tier_loop_free(loop);
}

TestSuite(spoke_span, .init = open_loop, .fini = close_loop);

/* Group 5, ranks 2 and 3. */
static struct spoke_span *span_of_two(void) {
    struct spoke_span *s = spoke_span_new(loop, 5, 2, 2, send_fn, NULL);
    spoke_span_limit(s, 1);
    return s;
}

static bool came(struct spoke_span *s, uint64_t group, uint32_t from, uint32_t to, size_t n) {
    struct tier_team_message m = {.type = TIER_TEAM_PART,
                                  .group = group,
                                  .from = from,
                                  .to = to,
                                  .data = calloc(1, n),
                                  .data_bytes = n};
    m.data[0] = (uint8_t)from;
    bool ok = spoke_span_came(s, &m);
    tier_team_release(&m);
    return ok;
}

static bool was_sent(void *arg) {
    return sent >= *(size_t *)arg;
}

Test(spoke_span, what_a_rank_sends_is_a_part_of_its_group) {
    struct spoke_span *s = span_of_two();
    const struct kern_group_link *link = spoke_span_link(s);
    struct tier_team_message m;
    size_t one = 1;
    cr_assert(link->send(link->arg, 3, 1, "abc", 3));
    cr_assert(tier_loop_run_until(loop, was_sent, &one, 5000));
    cr_assert(tier_team_message(last, last_bytes, &m, &err) == TIER_OK);
    cr_assert(m.type == TIER_TEAM_PART && m.group == 5 && m.from == 3 && m.to == 1);
    cr_assert(m.data_bytes == 3 && memcmp(m.data, "abc", 3) == 0);
    tier_team_release(&m);
    spoke_span_unref(s);
}

Test(spoke_span, parts_are_taken_by_sender_in_their_order) {
    struct spoke_span *s = span_of_two();
    const struct kern_group_link *link = spoke_span_link(s);
    uint8_t byte[4];
    cr_assert(came(s, 5, 0, 2, 1));
    cr_assert(came(s, 5, 1, 2, 2));
    cr_assert(came(s, 5, 0, 3, 3));
    cr_assert(came(s, 5, 0, 2, 4));
    cr_assert(came(s, 4, 0, 2, 4)); /* of a group that is no more */
    cr_assert(link->receive(link->arg, 1, 2, byte, 2) && byte[0] == 1);
    cr_assert(link->receive(link->arg, 0, 2, byte, 1) && byte[0] == 0);
    cr_assert(link->receive(link->arg, 0, 2, byte, 4));
    cr_assert(link->receive(link->arg, 0, 3, byte, 3));
    spoke_span_unref(s);
}

Test(spoke_span, a_part_of_another_length_is_not_taken) {
    struct spoke_span *s = span_of_two();
    const struct kern_group_link *link = spoke_span_link(s);
    uint8_t byte[4];
    cr_assert(came(s, 5, 0, 2, 3));
    cr_assert_not(link->receive(link->arg, 0, 2, byte, 4));
    spoke_span_unref(s);
}

Test(spoke_span, more_than_a_model_may_send_breaks_it) {
    struct spoke_span *s = span_of_two();
    const struct kern_group_link *link = spoke_span_link(s);
    uint8_t byte;
    size_t parts = 0;
    while (parts < 1000 && came(s, 5, 0, 2, 256u << 10))
        parts++;
    cr_assert(parts >= 4 && parts < 16, "%zu parts of 256 KiB", parts);
    cr_assert_not(link->receive(link->arg, 0, 2, &byte, 1));
    cr_assert_not(link->send(link->arg, 2, 0, &byte, 1));
    spoke_span_unref(s);
}

Test(spoke_span, a_part_for_no_rank_here_breaks_it) {
    struct spoke_span *s = span_of_two();
    cr_assert_not(came(s, 5, 0, 4, 1));
    spoke_span_unref(s);
    s = span_of_two();
    cr_assert_not(came(s, 5, 0, 1, 1));
    spoke_span_unref(s);
}

Test(spoke_span, a_stream_that_takes_nothing_breaks_it) {
    struct spoke_span *s = span_of_two();
    const struct kern_group_link *link = spoke_span_link(s);
    size_t one = 1;
    refuse = true;
    cr_assert(link->send(link->arg, 2, 0, "a", 1));
    cr_assert(tier_loop_run_until(loop, was_sent, &one, 5000));
    cr_assert_not(link->send(link->arg, 2, 0, "a", 1));
    spoke_span_unref(s);
}

Test(spoke_span, what_the_network_still_holds_outlives_the_group) {
    struct spoke_span *s = span_of_two();
    const struct kern_group_link *link = spoke_span_link(s);
    size_t one = 1;
    hold = true;
    cr_assert(link->send(link->arg, 2, 0, "a", 1));
    cr_assert(tier_loop_run_until(loop, was_sent, &one, 5000));
    link->shut(link->arg);
    spoke_span_unref(s);
    held(held_arg); /* the last reference */
}

static void *wait_for_part(void *arg) {
    const struct kern_group_link *link = spoke_span_link(arg);
    uint8_t byte;
    return link->receive(link->arg, 0, 2, &byte, 1) ? arg : NULL;
}

Test(spoke_span, whoever_waits_is_let_go_when_it_breaks) {
    struct spoke_span *s = span_of_two();
    pthread_t thread;
    void *got = s;
    cr_assert(pthread_create(&thread, NULL, wait_for_part, s) == 0);
    spoke_span_break(s);
    pthread_join(thread, &got);
    cr_assert(got == NULL);
    spoke_span_unref(s);
}
