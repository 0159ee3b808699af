/* SPDX-License-Identifier: Apache-2.0 */
/* Rounds that take updates of older ones. */
#include "tier/limits.h"
#include "tier/round.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

static const struct tier_round_rules two = {.quorum = {.kind = TIER_QUORUM_COUNT, .count = 2},
                                            .weight_total_max = UINT64_C(1) << 32,
                                            .staleness_max = 2,
                                            .wait_when_empty = true};
static struct tier_round r;
static struct tier_round_actions a;

static struct tier_hash id_of(uint32_t child, uint64_t base) {
    struct tier_hash h = {{0}};
    h.b[0] = (uint8_t)(child + 1);
    h.b[1] = (uint8_t)base;
    return h;
}

static void step(enum tier_round_event_type type, uint32_t child, uint64_t base, uint64_t weight) {
    struct tier_round_event e = {
        .type = type, .child = child, .update = id_of(child, base), .weight = weight};
    tier_round_step(&r, &e, &a);
}

static bool has(enum tier_round_action_type type) {
    for (size_t i = 0; i < a.count; i++)
        if (a.at[i].type == type)
            return true;
    return false;
}

static enum tier_status refusal(void) {
    for (size_t i = 0; i < a.count; i++)
        if (a.at[i].type == TIER_ACTION_REFUSE)
            return a.at[i].status;
    return TIER_OK;
}

static enum tier_round_child_state state_of(uint32_t child) {
    return tier_round_child(&r, child)->state;
}

static void deliver(uint32_t child, uint64_t base, uint64_t weight) {
    step(TIER_EVENT_OFFER, child, base, weight);
    cr_assert(has(TIER_ACTION_GRANT));
    step(TIER_EVENT_SEALED, child, base, weight);
    cr_assert(has(TIER_ACTION_RECEIPT));
}

/* Round `number` is folded and committed, and the next one opens. */
static void go_on(uint64_t next, const struct tier_round_rules *rules) {
    struct tier_round_event e = {.type = TIER_EVENT_FOLDED, .update = id_of(99, r.number)};
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    tier_round_step(&r, &e, &a);
    step(TIER_EVENT_COMMIT, 0, 0, 0);
    tier_round_next(&r, next, rules);
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    cr_assert(eq(u64, r.weight, 0));
    for (uint32_t i = 0; i < r.count; i++)
        if (tier_round_child(&r, i)->base == next)
            step(TIER_EVENT_JOIN, i, 0, 0);
}

static void set_up(void) {
    tier_round_init(&r, 1, &two);
    for (uint32_t i = 0; i < 4; i++)
        step(TIER_EVENT_JOIN, i, 0, 0);
}

static void tear_down(void) {
    tier_round_release(&r);
}

TestSuite(tier_round_buffered, .init = set_up, .fini = tear_down);

Test(tier_round_buffered, who_is_late_counts_in_the_next_round_for_less) {
    deliver(0, 1, 10);
    deliver(1, 1, 10);
    cr_assert(has(TIER_ACTION_FOLD));
    cr_assert(eq(u64, r.weight, 2 * 10 * 64));
    go_on(2, &two);
    cr_assert(eq(u64, tier_round_child(&r, 0)->base, 2), "its update counted: it begins anew");
    cr_assert(eq(u64, tier_round_child(&r, 2)->base, 1), "it is still at work");
    deliver(2, 1, 10);
    cr_assert(eq(u64, r.weight, 10 * 45));
    deliver(0, 2, 1);
    cr_assert(has(TIER_ACTION_FOLD));
    cr_assert(eq(u64, r.weight, 10 * 45 + 64));
    go_on(3, &two);
    deliver(3, 1, 10);
    cr_assert(eq(u64, r.weight, 10 * 37));
}

Test(tier_round_buffered, who_is_too_far_behind_begins_anew) {
    for (uint64_t round = 1; round <= 2; round++) {
        deliver(0, round, 1);
        deliver(1, round, 1);
        cr_assert(tier_round_carries(&r, 2, round + 1, &two));
        go_on(round + 1, &two);
        cr_assert(eq(u64, tier_round_child(&r, 2)->base, 1));
    }
    step(TIER_EVENT_OFFER, 2, 1, 5);
    cr_assert(has(TIER_ACTION_GRANT));
    deliver(0, 3, 1);
    deliver(1, 3, 1);
    cr_assert(not(tier_round_carries(&r, 2, 4, &two)));
    go_on(4, &two);
    cr_assert(eq(u64, tier_round_child(&r, 2)->base, 4));
    cr_assert(eq(int, state_of(2), TIER_CHILD_EXPECTED));
    step(TIER_EVENT_SEALED, 2, 1, 5);
    cr_assert(eq(int, refusal(), TIER_ELATE));
    cr_assert(has(TIER_ACTION_DISCARD));
}

Test(tier_round_buffered, a_push_goes_on_while_a_round_is_closed) {
    step(TIER_EVENT_OFFER, 2, 1, 5);
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    step(TIER_EVENT_OFFER, 3, 1, 7);
    cr_assert(has(TIER_ACTION_GRANT), "it is for the next round");
    go_on(2, &two);
    cr_assert(eq(int, state_of(2), TIER_CHILD_PUSHING));
    step(TIER_EVENT_SEALED, 2, 1, 5);
    step(TIER_EVENT_SEALED, 3, 1, 7);
    cr_assert(has(TIER_ACTION_FOLD));
    cr_assert(eq(u64, r.weight, 12 * 45));
}

Test(tier_round_buffered, who_comes_back_while_a_round_is_closed_is_told_what_it_was_at_work_on) {
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    step(TIER_EVENT_LEAVE, 2, 0, 0);
    step(TIER_EVENT_JOIN, 2, 0, 0);
    cr_assert(has(TIER_ACTION_START), "else it waits, and all with it, until it is too far behind");
    cr_assert(eq(u64, tier_round_child(&r, 2)->base, 1));
    step(TIER_EVENT_JOIN, 0, 0, 0);
    cr_assert(not(has(TIER_ACTION_START)), "it has delivered, and is told of the next");
    go_on(2, &two);
    step(TIER_EVENT_JOIN, 2, 0, 0);
    cr_assert(has(TIER_ACTION_START));
}

Test(tier_round_buffered, a_bad_update_that_does_not_count_yet_reopens_nothing) {
    step(TIER_EVENT_OFFER, 2, 1, 5);
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    step(TIER_EVENT_BAD, 2, 1, 0);
    cr_assert(eq(int, refusal(), TIER_EUPDATE));
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    go_on(2, &two);
    cr_assert(eq(int, state_of(2), TIER_CHILD_EXPECTED), "as in the round after any bad update");
    cr_assert(eq(u64, tier_round_child(&r, 2)->base, 2));
}

Test(tier_round_buffered, who_declines_while_a_round_is_closed_begins_anew_in_the_next) {
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    step(TIER_EVENT_DECLINE, 2, 0, 0);
    step(TIER_EVENT_DECLINE, 0, 0, 0);
    cr_assert(eq(int, state_of(0), TIER_CHILD_SEALED), "what counts, counts");
    go_on(2, &two);
    cr_assert(eq(u64, tier_round_child(&r, 2)->base, 2));
    cr_assert(eq(u64, tier_round_child(&r, 3)->base, 1));
}

Test(tier_round_buffered, who_declines_a_push_while_a_round_is_closed_leaves_nothing_behind) {
    step(TIER_EVENT_OFFER, 2, 1, 5);
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    step(TIER_EVENT_DECLINE, 2, 0, 0);
    cr_assert(has(TIER_ACTION_DISCARD), "nobody resumes it");
    cr_assert(a.at[0].update.b[0] == 3 && a.at[0].update.b[1] == 1);
    go_on(2, &two);
    step(TIER_EVENT_OFFER, 3, 1, 5);
    step(TIER_EVENT_DECLINE, 3, 0, 0);
    cr_assert(has(TIER_ACTION_DISCARD));
}

Test(tier_round_buffered, a_bad_update_of_who_began_anew_is_answered_and_takes_nothing_from_it) {
    step(TIER_EVENT_OFFER, 2, 1, 5);
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    go_on(5, &two);
    cr_assert(eq(u64, tier_round_child(&r, 2)->base, 5));
    step(TIER_EVENT_BAD, 2, 1, 0);
    cr_assert(eq(int, refusal(), TIER_EUPDATE), "else its push waits for ever");
    cr_assert(has(TIER_ACTION_DISCARD));
    cr_assert(eq(int, state_of(2), TIER_CHILD_EXPECTED));
    deliver(2, 5, 5);
}

Test(tier_round_buffered, a_weight_that_no_fold_could_multiply_is_refused_where_it_is_offered) {
    const uint64_t most = TIER_WEIGHT_MAX / 64;
    struct tier_round_event e = {.type = TIER_EVENT_OFFER,
                                 .child = 0,
                                 .update = id_of(0, 1),
                                 .weight = most + 1,
                                 .single = true};
    tier_round_step(&r, &e, &a);
    cr_assert(eq(int, refusal(), TIER_ELIMIT));
    cr_assert(eq(int, state_of(0), TIER_CHILD_REFUSED), "the others need not wait for it");
    e.child = 1;
    e.single = false;
    tier_round_step(&r, &e, &a);
    cr_assert(has(TIER_ACTION_GRANT), "a sum of several is added, not multiplied as an int32");
    e.child = 2;
    e.single = true;
    e.weight = most;
    tier_round_step(&r, &e, &a);
    cr_assert(has(TIER_ACTION_GRANT));
}

Test(tier_round_buffered, a_round_of_other_rules_takes_nothing_of_older_ones) {
    const struct tier_round_rules last = {.quorum = {.kind = TIER_QUORUM_ALL},
                                          .weight_total_max = UINT64_C(1) << 32};
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    go_on(2, &last);
    for (uint32_t i = 0; i < 4; i++)
        cr_assert(eq(u64, tier_round_child(&r, i)->base, 2));
    deliver(3, 2, 9);
    cr_assert(eq(u64, r.weight, 9), "and no multipliers");
}

Test(tier_round_buffered, what_was_lost_or_bad_weighs_nothing_any_more) {
    deliver(0, 1, 1);
    deliver(1, 1, 1);
    go_on(2, &two);
    deliver(2, 1, 10);
    deliver(0, 2, 3);
    step(TIER_EVENT_LOST, 2, 1, 0);
    cr_assert(eq(u64, r.weight, 3 * 64));
    cr_assert(has(TIER_ACTION_START));
    cr_assert(eq(u64, tier_round_child(&r, 2)->base, 1), "it offers what it keeps");
    deliver(2, 1, 10);
    step(TIER_EVENT_BAD, 2, 1, 0);
    cr_assert(eq(u64, r.weight, 3 * 64));
}

Test(tier_round_buffered, a_restart_puts_children_back_to_what_they_are_at_work_on) {
    struct tier_hash id = id_of(1, 1);
    tier_round_release(&r);
    tier_round_init(&r, 3, &two);
    tier_round_restore_child(&r, 0, TIER_CHILD_EXPECTED, NULL, 0, 3);
    tier_round_restore_child(&r, 1, TIER_CHILD_SEALED, &id, 10, 1);
    tier_round_restore_child(&r, 2, TIER_CHILD_EXPECTED, NULL, 0, 2);
    cr_assert(eq(u64, r.weight, 10 * 37));
    deliver(2, 2, 10);
    cr_assert(eq(u64, r.weight, 10 * 37 + 10 * 45));
    cr_assert(has(TIER_ACTION_FOLD));
}

static uint32_t next_random(uint32_t *s, uint32_t below) {
    *s = *s * 1664525u + 1013904223u;
    return (*s >> 8) % below;
}

/*
 * Whatever happens in whatever order: what is sealed weighs what its staleness leaves of it, and
 * all of it is within the bound; nobody is further behind than the rules allow; an update of a
 * round counts at most once.
 */
Test(tier_round_buffered, invariants_hold_under_any_sequence_of_events) {
    static const uint64_t times[] = {64, 45, 37};
    struct tier_round_rules rules = two;
    rules.weight_total_max = 64 * 40;
    for (uint32_t seed = 1; seed <= 2000; seed++) {
        uint32_t s = seed;
        uint64_t counted[5] = {0};
        tier_round_release(&r);
        tier_round_init(&r, 1, &rules);
        for (int i = 0; i < 300; i++) {
            uint32_t child = next_random(&s, 5);
            step((enum tier_round_event_type)next_random(&s, TIER_EVENT_NO_MERGE), child,
                 tier_round_child(&r, child)->base, 1 + next_random(&s, 20));
            uint64_t weight = 0;
            for (uint32_t c = 0; c < r.count; c++) {
                const struct tier_round_child *k = tier_round_child(&r, c);
                if (k->state == TIER_CHILD_NONE || k->state == TIER_CHILD_DECLINED)
                    continue; /* one that never joined may decline */
                cr_assert(le(u64, r.number - k->base, 2));
                if (k->state == TIER_CHILD_SEALED)
                    weight += k->weight * times[r.number - k->base];
            }
            cr_assert(eq(u64, weight, r.weight), "seed %u step %d", seed, i);
            cr_assert(le(u64, weight, rules.weight_total_max));
            if (r.state != TIER_ROUND_COMMITTED)
                continue;
            for (uint32_t c = 0; c < r.count; c++)
                if (state_of(c) == TIER_CHILD_SEALED) {
                    cr_assert(lt(u64, counted[c], tier_round_child(&r, c)->base));
                    counted[c] = tier_round_child(&r, c)->base;
                }
            tier_round_next(&r, r.number + 1 + next_random(&s, 2), &rules);
        }
    }
}
