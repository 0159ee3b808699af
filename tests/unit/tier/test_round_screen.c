/* SPDX-License-Identifier: Apache-2.0 */
/* Quarantine in the state machine of a round. */
#include "tier/round.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct tier_hash id_of(unsigned n) {
    struct tier_hash h = {{0}};
    h.b[0] = (uint8_t)(n + 1);
    return h;
}

static struct tier_round_actions step(struct tier_round *r, enum tier_round_event_type type,
                                      uint32_t child) {
    struct tier_round_event e = {
        .type = type, .child = child, .update = id_of(child), .weight = 10, .reason = "too long"};
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

/* `delivered` of `children` have, the quorum of them. */
static struct tier_round closed(uint32_t children, uint32_t delivered) {
    const struct tier_round_rules rules = {
        .quorum = {.kind = TIER_QUORUM_COUNT, .count = delivered},
        .weight_total_max = UINT64_C(1) << 32};
    struct tier_round r;
    tier_round_init(&r, 1, &rules);
    for (uint32_t i = 0; i < children; i++)
        step(&r, TIER_EVENT_JOIN, i);
    for (uint32_t i = 0; i < delivered; i++) {
        step(&r, TIER_EVENT_OFFER, i);
        step(&r, TIER_EVENT_SEALED, i);
    }
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    return r;
}

Test(tier_round_screen, what_fails_counts_no_more_stays_and_the_others_are_folded) {
    struct tier_round r = closed(3, 3);
    struct tier_round_actions a = step(&r, TIER_EVENT_QUARANTINE, 1);
    cr_assert(has(&a, TIER_ACTION_QUARANTINE));
    cr_assert(not(has(&a, TIER_ACTION_DISCARD)));
    cr_assert(not(has(&a, TIER_ACTION_FOLD)));
    cr_assert(eq(u64, r.weight, 20));
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING)); /* others may fail too */
    a = step(&r, TIER_EVENT_SCREENED, 0);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    cr_assert(eq(int, tier_round_child(&r, 1)->state, TIER_CHILD_QUARANTINED));
    cr_assert(eq(sz, tier_round_tally(&r).sealed, 2));
    cr_assert(eq(sz, tier_round_tally(&r).refused, 1));
    tier_round_release(&r);
}

Test(tier_round_screen, a_quorum_that_is_lost_is_waited_for_again) {
    struct tier_round r = closed(5, 3);
    step(&r, TIER_EVENT_QUARANTINE, 0);
    struct tier_round_actions a = step(&r, TIER_EVENT_SCREENED, 0);
    cr_assert(not(has(&a, TIER_ACTION_FOLD)));
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    a = step(&r, TIER_EVENT_OFFER, 3);
    cr_assert(has(&a, TIER_ACTION_GRANT));
    a = step(&r, TIER_EVENT_SEALED, 3);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    tier_round_release(&r);
}

Test(tier_round_screen, when_all_fail_the_round_is_empty) {
    struct tier_round r = closed(2, 2);
    step(&r, TIER_EVENT_QUARANTINE, 0);
    step(&r, TIER_EVENT_QUARANTINE, 1);
    struct tier_round_actions a = step(&r, TIER_EVENT_SCREENED, 0);
    cr_assert(has(&a, TIER_ACTION_EMPTY));
    cr_assert(eq(u64, r.weight, 0));
    tier_round_release(&r);
}

Test(tier_round_screen, what_is_in_quarantine_is_not_taken_again_and_its_file_stays) {
    struct tier_round r = closed(3, 3);
    step(&r, TIER_EVENT_QUARANTINE, 1);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 1);
    cr_assert(has(&a, TIER_ACTION_REFUSE));
    a = step(&r, TIER_EVENT_SEALED, 1);
    cr_assert(has(&a, TIER_ACTION_REFUSE));
    cr_assert(not(has(&a, TIER_ACTION_DISCARD)));
    a = step(&r, TIER_EVENT_DECLINE, 1);
    cr_assert(eq(sz, a.count, 0));
    cr_assert(eq(int, tier_round_child(&r, 1)->state, TIER_CHILD_QUARANTINED));
    tier_round_release(&r);
}

/* A site's wish goes before what an operator would look into. */
Test(tier_round_screen, what_is_in_quarantine_can_be_withdrawn) {
    struct tier_round r = closed(3, 3);
    struct tier_hash id = id_of(1);
    step(&r, TIER_EVENT_QUARANTINE, 1);
    cr_assert(eq(int, tier_round_holds_fast(&r, 1, &id) == NULL, 1));
    struct tier_round_actions a = step(&r, TIER_EVENT_WITHDRAW, 1);
    cr_assert(has(&a, TIER_ACTION_DISCARD));
    cr_assert(eq(u64, r.weight, 20));
    cr_assert(eq(int, tier_round_child(&r, 1)->state, TIER_CHILD_REFUSED));
    tier_round_release(&r);
}

Test(tier_round_screen, only_a_sealed_update_of_a_closed_round_goes_into_quarantine) {
    struct tier_round r = closed(4, 3);
    struct tier_round_event other = {
        .type = TIER_EVENT_QUARANTINE, .child = 1, .update = id_of(9), .reason = "x"};
    struct tier_round_actions a;
    tier_round_step(&r, &other, &a);
    cr_assert(eq(sz, a.count, 0));
    a = step(&r, TIER_EVENT_QUARANTINE, 3); /* which has delivered nothing */
    cr_assert(eq(sz, a.count, 0));
    r.state = TIER_ROUND_OPEN;
    a = step(&r, TIER_EVENT_QUARANTINE, 1);
    cr_assert(eq(sz, a.count, 0));
    cr_assert(eq(u64, r.weight, 30));
    tier_round_release(&r);
}

Test(tier_round_screen, a_child_that_is_kept_out_is_neither_told_nor_waited_for_until_pardoned) {
    const struct tier_round_rules all = {.quorum = {.kind = TIER_QUORUM_ALL},
                                         .weight_total_max = UINT64_C(1) << 32};
    struct tier_round r;
    tier_round_init(&r, 2, &all);
    tier_round_keep_out(&r, 0, true);
    struct tier_round_actions a = step(&r, TIER_EVENT_JOIN, 0);
    cr_assert(eq(sz, a.count, 0));
    step(&r, TIER_EVENT_JOIN, 1);
    a = step(&r, TIER_EVENT_OFFER, 0);
    cr_assert(has(&a, TIER_ACTION_REFUSE));
    tier_round_keep_out(&r, 0, false);
    a = step(&r, TIER_EVENT_JOIN, 0);
    cr_assert(has(&a, TIER_ACTION_START));
    step(&r, TIER_EVENT_OFFER, 1);
    a = step(&r, TIER_EVENT_SEALED, 1);
    cr_assert(not(has(&a, TIER_ACTION_FOLD))); /* it is waited for again */
    tier_round_release(&r);
}

Test(tier_round_screen, the_next_round_takes_everybody_and_a_restart_nobody_back) {
    struct tier_round r = closed(3, 3);
    struct tier_hash id = id_of(1);
    step(&r, TIER_EVENT_QUARANTINE, 1);
    struct tier_round_rules rules = r.rules;
    tier_round_next(&r, 2, &rules);
    cr_assert(eq(int, tier_round_child(&r, 1)->state, TIER_CHILD_EXPECTED));
    tier_round_restore_child(&r, 1, TIER_CHILD_QUARANTINED, &id, 10, 2);
    cr_assert(eq(int, tier_round_child(&r, 1)->state, TIER_CHILD_QUARANTINED));
    cr_assert(eq(u64, r.weight, 0));
    tier_round_release(&r);
}
