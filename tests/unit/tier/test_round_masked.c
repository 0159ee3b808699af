/* SPDX-License-Identifier: Apache-2.0 */
/* A round whose updates are masked: what stands between the last of them and the fold. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tier/round.h"

static struct tier_round r;
static struct tier_round_actions done;

static const struct tier_round_rules rules = {
    .quorum = {.kind = TIER_QUORUM_ALL}, .weight_total_max = 100, .masked = true, .sealed_min = 2};

static struct tier_hash id_of(uint32_t child) {
    return (struct tier_hash){{(uint8_t)(child + 1)}};
}

static void step(enum tier_round_event_type type, uint32_t child) {
    struct tier_round_event e = {
        .type = type, .child = child, .update = id_of(child), .weight = 1, .reason = "a reason"};
    tier_round_step(&r, &e, &done);
}

static bool does(enum tier_round_action_type type) {
    for (size_t i = 0; i < done.count; i++)
        if (done.at[i].type == type)
            return true;
    return false;
}

static void begin(uint32_t children) {
    tier_round_init(&r, 1, &rules);
    for (uint32_t i = 0; i < children; i++)
        step(TIER_EVENT_JOIN, i);
}

static void seal(uint32_t child) {
    step(TIER_EVENT_OFFER, child);
    step(TIER_EVENT_SEALED, child);
}

static void end(void) {
    tier_round_release(&r);
}

TestSuite(tier_round_masked, .fini = end);

Test(tier_round_masked, the_last_update_leads_to_unmasking_and_that_to_the_fold) {
    begin(3);
    seal(0);
    seal(1);
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    seal(2);
    cr_assert(eq(int, r.state, TIER_ROUND_UNMASKING));
    cr_assert(does(TIER_ACTION_UNMASK));
    cr_assert(not(does(TIER_ACTION_FOLD)));
    step(TIER_EVENT_UNMASKED, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    cr_assert(does(TIER_ACTION_FOLD));
    step(TIER_EVENT_UNMASKED, 0); /* again: nothing */
    cr_assert(eq(sz, done.count, 0));
}

Test(tier_round_masked, a_deadline_closes_with_enough_and_ends_empty_with_fewer) {
    begin(3);
    seal(0);
    step(TIER_EVENT_DEADLINE, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_EMPTY));
    tier_round_release(&r);
    begin(3);
    seal(0);
    seal(1);
    step(TIER_EVENT_DEADLINE, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_UNMASKING));
}

Test(tier_round_masked, too_few_that_could_still_come_is_the_end_of_the_round) {
    begin(3);
    seal(0);
    step(TIER_EVENT_DECLINE, 1);
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    step(TIER_EVENT_DECLINE, 2);
    cr_assert(eq(int, r.state, TIER_ROUND_EMPTY));
    cr_assert(does(TIER_ACTION_EMPTY));
}

Test(tier_round_masked, a_round_is_given_up_while_it_is_open_and_while_it_is_unmasked) {
    begin(2);
    step(TIER_EVENT_NO_MERGE, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_EMPTY));
    cr_assert(eq(str, (char *)(uintptr_t)done.at[0].reason, "a reason"));
    tier_round_release(&r);
    begin(2);
    seal(0);
    seal(1);
    cr_assert(eq(int, r.state, TIER_ROUND_UNMASKING));
    step(TIER_EVENT_NO_MERGE, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_EMPTY));
}

Test(tier_round_masked, an_update_is_taken_back_before_the_round_is_closed_and_not_after) {
    begin(3);
    seal(0);
    const struct tier_hash id = id_of(0);
    cr_assert(tier_round_holds_fast(&r, 0, &id) == NULL);
    step(TIER_EVENT_WITHDRAW, 0);
    cr_assert(eq(int, tier_round_child(&r, 0)->state, TIER_CHILD_EXPECTED));
    seal(1);
    seal(2);
    seal(0);
    cr_assert(eq(int, r.state, TIER_ROUND_UNMASKING));
    cr_assert(tier_round_holds_fast(&r, 0, &id) != NULL);
    step(TIER_EVENT_WITHDRAW, 0);
    cr_assert(eq(int, tier_round_child(&r, 0)->state, TIER_CHILD_SEALED));
}

Test(tier_round_masked,
     an_update_that_was_lost_is_wanted_again_and_the_unmasking_goes_on_after_it) {
    begin(2);
    seal(0);
    seal(1);
    step(TIER_EVENT_LOST, 1);
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    cr_assert(does(TIER_ACTION_START));
    seal(1);
    cr_assert(eq(int, r.state, TIER_ROUND_UNMASKING));
    cr_assert(does(TIER_ACTION_UNMASK));
}

Test(tier_round_masked, a_restart_goes_on_unmasking) {
    struct tier_hash id = id_of(0);
    tier_round_init(&r, 1, &rules);
    tier_round_restore_child(&r, 0, TIER_CHILD_SEALED, &id, 1, 1);
    tier_round_restore(&r, TIER_ROUND_UNMASKING, NULL, NULL);
    tier_round_resume(&r, &done);
    cr_assert(eq(sz, done.count, 1));
    cr_assert(does(TIER_ACTION_UNMASK));
    cr_assert(eq(str, (char *)(uintptr_t)tier_round_state_text(r.state), "unmasking"));
}
