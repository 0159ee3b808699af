/* SPDX-License-Identifier: Apache-2.0 */
/* A child takes its update back: what is alone goes, and what is in a sum stays. */
#include "tier/round.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

static const struct tier_round_rules all = {.quorum = {.kind = TIER_QUORUM_ALL},
                                            .weight_total_max = UINT64_C(1) << 32};

static struct tier_hash id_of(unsigned n) {
    return (struct tier_hash){{(uint8_t)(n + 1)}};
}

static struct tier_round_actions step(struct tier_round *r, enum tier_round_event_type type,
                                      uint32_t child, unsigned update, uint64_t weight) {
    struct tier_round_event e = {
        .type = type, .child = child, .update = id_of(update), .weight = weight};
    struct tier_round_actions out;
    tier_round_step(r, &e, &out);
    return out;
}

static bool has(const struct tier_round_actions *a, enum tier_round_action_type type) {
    for (size_t i = 0; i < a->count; i++)
        if (a->at[i].type == type)
            return true;
    return false;
}

static struct tier_round begun(const struct tier_round_rules *rules, uint32_t children) {
    struct tier_round r;
    tier_round_init(&r, 1, rules);
    for (uint32_t i = 0; i < children; i++)
        step(&r, TIER_EVENT_JOIN, i, 0, 0);
    return r;
}

static struct tier_round_actions deliver(struct tier_round *r, uint32_t child, unsigned update,
                                         uint64_t weight) {
    step(r, TIER_EVENT_OFFER, child, update, weight);
    return step(r, TIER_EVENT_SEALED, child, update, weight);
}

static const char *fast(const struct tier_round *r, uint32_t child, unsigned update) {
    const struct tier_hash id = id_of(update);
    return tier_round_holds_fast(r, child, &id);
}

Test(tier_round_withdraw, a_sealed_update_goes_and_another_takes_its_place) {
    struct tier_round r = begun(&all, 2);
    deliver(&r, 0, 1, 10);
    cr_assert(fast(&r, 0, 1) == NULL);
    struct tier_round_actions a = step(&r, TIER_EVENT_WITHDRAW, 0, 1, 0);
    cr_assert(has(&a, TIER_ACTION_DISCARD));
    cr_expect(eq(u64, r.weight, 0));
    cr_expect(eq(int, tier_round_child(&r, 0)->state, TIER_CHILD_EXPECTED));
    a = deliver(&r, 1, 2, 5);
    cr_expect(eq(sz, tier_round_tally(&r).sealed, 1), "the round waits for the child");
    cr_expect(eq(int, r.state, TIER_ROUND_OPEN));
    a = deliver(&r, 0, 3, 9);
    cr_expect(has(&a, TIER_ACTION_FOLD));
    cr_expect(eq(u64, r.weight, 14));
    tier_round_release(&r);
}

Test(tier_round_withdraw, a_child_that_leaves_after_it_is_not_waited_for) {
    struct tier_round r = begun(&all, 2);
    deliver(&r, 0, 1, 10);
    deliver(&r, 1, 2, 5);
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    cr_assert(fast(&r, 0, 1) == NULL, "its sum is not made yet");
    step(&r, TIER_EVENT_WITHDRAW, 0, 1, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    struct tier_round_actions a = step(&r, TIER_EVENT_DECLINE, 0, 0, 0);
    cr_expect(has(&a, TIER_ACTION_FOLD));
    cr_expect(eq(u64, r.weight, 5));
    tier_round_release(&r);
}

Test(tier_round_withdraw, a_push_under_way_and_an_update_that_never_came_go_too) {
    struct tier_round r = begun(&all, 2);
    step(&r, TIER_EVENT_OFFER, 0, 1, 10);
    cr_assert(fast(&r, 0, 1) == NULL);
    struct tier_round_actions a = step(&r, TIER_EVENT_WITHDRAW, 0, 1, 0);
    cr_expect(has(&a, TIER_ACTION_DISCARD));
    a = step(&r, TIER_EVENT_SEALED, 0, 1, 10);
    cr_expect(has(&a, TIER_ACTION_REFUSE) && has(&a, TIER_ACTION_DISCARD), "its last bytes");
    cr_expect(fast(&r, 1, 7) == NULL);
    a = step(&r, TIER_EVENT_WITHDRAW, 1, 7, 0);
    cr_expect(eq(sz, a.count, 0));
    cr_expect(eq(int, tier_round_child(&r, 1)->state, TIER_CHILD_EXPECTED));
    tier_round_release(&r);
}

Test(tier_round_withdraw, what_is_in_a_partial_or_in_the_result_stays_with_the_reason) {
    struct tier_round_rules parts = all;
    parts.part_at = 2;
    struct tier_round r = begun(&parts, 4);
    deliver(&r, 0, 1, 1);
    struct tier_round_actions a = deliver(&r, 1, 2, 1);
    cr_assert(has(&a, TIER_ACTION_PART));
    cr_assert(fast(&r, 0, 1) != NULL, "it is being folded");
    cr_expect(strstr(fast(&r, 0, 1), "retain: updates") != NULL);
    a = step(&r, TIER_EVENT_WITHDRAW, 0, 1, 0);
    cr_expect(eq(sz, a.count, 0));
    cr_expect(eq(u64, r.weight, 2));
    step(&r, TIER_EVENT_PARTED, 0, 50, 0);
    cr_expect(fast(&r, 0, 1) != NULL);
    deliver(&r, 2, 3, 1);
    cr_expect(fast(&r, 2, 3) == NULL, "that one is alone still");
    deliver(&r, 3, 4, 1);
    step(&r, TIER_EVENT_PARTED, 0, 51, 0);
    step(&r, TIER_EVENT_FOLDED, 0, 52, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDED));
    cr_expect(fast(&r, 2, 3) != NULL && fast(&r, 2, 9) == NULL);
    step(&r, TIER_EVENT_COMMIT, 0, 0, 0);
    cr_expect(strstr(fast(&r, 2, 3), "committed") != NULL);
    tier_round_release(&r);
}
