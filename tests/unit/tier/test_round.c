/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/round.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

static const struct tier_round_rules all = {.quorum = {.kind = TIER_QUORUM_ALL},
                                            .weight_total_max = UINT64_C(1) << 32};

static struct tier_hash id_of(unsigned n) {
    struct tier_hash h = {{0}};
    h.b[0] = (uint8_t)(n + 1);
    h.b[1] = (uint8_t)((n + 1) >> 8);
    return h;
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

static enum tier_status refusal(const struct tier_round_actions *a) {
    for (size_t i = 0; i < a->count; i++)
        if (a->at[i].type == TIER_ACTION_REFUSE)
            return a->at[i].status;
    return TIER_OK;
}

static struct tier_round joined(const struct tier_round_rules *rules, uint32_t children) {
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

Test(tier_round, a_child_that_joins_is_told_of_the_round) {
    struct tier_round r = joined(&all, 0);
    struct tier_round_actions a = step(&r, TIER_EVENT_JOIN, 0, 0, 0);
    cr_assert(has(&a, TIER_ACTION_START));
    tier_round_release(&r);
}

Test(tier_round, an_offer_is_granted_and_a_sealed_update_gets_a_receipt) {
    struct tier_round r = joined(&all, 2);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 0, 7, 10);
    cr_assert(has(&a, TIER_ACTION_GRANT));
    a = step(&r, TIER_EVENT_SEALED, 0, 7, 10);
    cr_assert(has(&a, TIER_ACTION_RECEIPT));
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    cr_assert(eq(u64, r.weight, 10));
    tier_round_release(&r);
}

Test(tier_round, the_last_update_closes_the_round_when_all_are_wanted) {
    struct tier_round r = joined(&all, 2);
    deliver(&r, 0, 1, 10);
    struct tier_round_actions a = deliver(&r, 1, 2, 5);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    cr_assert(eq(u64, r.weight, 15));
    tier_round_release(&r);
}

Test(tier_round, a_count_quorum_closes_the_round_early_and_a_late_update_is_refused) {
    struct tier_round_rules rules = all;
    rules.quorum = (struct tier_quorum){.kind = TIER_QUORUM_COUNT, .count = 2};
    struct tier_round r = joined(&rules, 3);
    deliver(&r, 0, 1, 1);
    struct tier_round_actions a = deliver(&r, 2, 3, 1);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    a = step(&r, TIER_EVENT_OFFER, 1, 2, 1);
    cr_assert(eq(int, refusal(&a), TIER_ELATE));
    tier_round_release(&r);
}

Test(tier_round, an_update_that_arrives_after_the_close_is_refused_and_deleted) {
    struct tier_round_rules rules = all;
    rules.quorum = (struct tier_quorum){.kind = TIER_QUORUM_COUNT, .count = 1};
    struct tier_round r = joined(&rules, 2);
    step(&r, TIER_EVENT_OFFER, 1, 2, 1);
    deliver(&r, 0, 1, 1);
    struct tier_round_actions a = step(&r, TIER_EVENT_SEALED, 1, 2, 1);
    cr_assert(eq(int, refusal(&a), TIER_ELATE));
    cr_assert(has(&a, TIER_ACTION_DISCARD));
    cr_assert(eq(u64, r.weight, 1));
    tier_round_release(&r);
}

Test(tier_round, the_same_update_again_gets_its_receipt_again_and_counts_once) {
    struct tier_round r = joined(&all, 2);
    deliver(&r, 0, 1, 10);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 0, 1, 10);
    cr_assert(has(&a, TIER_ACTION_RECEIPT));
    a = step(&r, TIER_EVENT_SEALED, 0, 1, 10);
    cr_assert(has(&a, TIER_ACTION_RECEIPT));
    cr_assert(eq(u64, r.weight, 10));
    deliver(&r, 1, 2, 5);
    a = step(&r, TIER_EVENT_OFFER, 0, 1, 10); /* after the close too */
    cr_assert(has(&a, TIER_ACTION_RECEIPT));
    tier_round_release(&r);
}

Test(tier_round, another_update_of_a_child_that_has_delivered_is_refused) {
    struct tier_round r = joined(&all, 2);
    deliver(&r, 0, 1, 10);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 0, 2, 10);
    cr_assert(eq(int, refusal(&a), TIER_ECONFLICT));
    a = step(&r, TIER_EVENT_SEALED, 0, 2, 10);
    cr_assert(eq(int, refusal(&a), TIER_ECONFLICT));
    cr_assert(eq(u64, r.weight, 10));
    tier_round_release(&r);
}

Test(tier_round, another_update_replaces_one_that_was_never_sealed) {
    struct tier_round r = joined(&all, 2);
    step(&r, TIER_EVENT_OFFER, 0, 1, 10);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 0, 2, 12);
    cr_assert(has(&a, TIER_ACTION_DISCARD));
    cr_assert(has(&a, TIER_ACTION_GRANT));
    a = step(&r, TIER_EVENT_SEALED, 0, 1, 10);
    cr_assert(ne(int, refusal(&a), TIER_OK), "the replaced one no longer counts");
    step(&r, TIER_EVENT_SEALED, 0, 2, 12);
    cr_assert(eq(u64, r.weight, 12));
    tier_round_release(&r);
}

Test(tier_round, a_child_that_declines_does_not_stall_the_round) {
    struct tier_round r = joined(&all, 2);
    deliver(&r, 0, 1, 10);
    struct tier_round_actions a = step(&r, TIER_EVENT_DECLINE, 1, 0, 0);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    tier_round_release(&r);
}

Test(tier_round, a_child_whose_update_is_bad_does_not_stall_the_round) {
    struct tier_round r = joined(&all, 2);
    deliver(&r, 0, 1, 10);
    step(&r, TIER_EVENT_OFFER, 1, 2, 5);
    struct tier_round_actions a = step(&r, TIER_EVENT_BAD, 1, 2, 5);
    cr_assert(eq(int, refusal(&a), TIER_EUPDATE));
    cr_assert(has(&a, TIER_ACTION_DISCARD));
    cr_assert(has(&a, TIER_ACTION_FOLD));
    a = step(&r, TIER_EVENT_OFFER, 1, 3, 5);
    cr_assert(ne(int, refusal(&a), TIER_OK));
    tier_round_release(&r);
}

Test(tier_round, a_child_that_dies_is_waited_for_without_a_deadline) {
    struct tier_round r = joined(&all, 2);
    deliver(&r, 0, 1, 10);
    struct tier_round_actions a = step(&r, TIER_EVENT_LEAVE, 1, 0, 0);
    cr_assert(eq(sz, a.count, 0));
    a = step(&r, TIER_EVENT_JOIN, 1, 0, 0);
    cr_assert(has(&a, TIER_ACTION_START));
    a = deliver(&r, 1, 2, 5);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    tier_round_release(&r);
}

Test(tier_round, a_deadline_closes_the_round_with_what_is_there) {
    struct tier_round r = joined(&all, 3);
    deliver(&r, 1, 1, 10);
    struct tier_round_actions a = step(&r, TIER_EVENT_DEADLINE, 0, 0, 0);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    tier_round_release(&r);
}

Test(tier_round, a_deadline_with_nothing_empties_a_hub_and_makes_the_top_wait) {
    struct tier_round r = joined(&all, 2);
    struct tier_round_actions a = step(&r, TIER_EVENT_DEADLINE, 0, 0, 0);
    cr_assert(has(&a, TIER_ACTION_EMPTY));
    cr_assert(eq(int, r.state, TIER_ROUND_EMPTY));
    tier_round_release(&r);

    struct tier_round_rules top = all;
    top.wait_when_empty = true;
    r = joined(&top, 2);
    a = step(&r, TIER_EVENT_DEADLINE, 0, 0, 0);
    cr_assert(eq(sz, a.count, 0));
    a = deliver(&r, 0, 1, 10);
    cr_assert(has(&a, TIER_ACTION_FOLD), "the first update closes an overdue round");
    tier_round_release(&r);
}

Test(tier_round, a_round_without_anybody_left_is_empty) {
    struct tier_round r = joined(&all, 2);
    step(&r, TIER_EVENT_DECLINE, 0, 0, 0);
    struct tier_round_actions a = step(&r, TIER_EVENT_DECLINE, 1, 0, 0);
    cr_assert(has(&a, TIER_ACTION_EMPTY));
    tier_round_release(&r);
}

Test(tier_round, weights_beyond_the_plans_proof_are_refused) {
    struct tier_round_rules rules = all;
    rules.weight_total_max = 100;
    struct tier_round r = joined(&rules, 4);
    deliver(&r, 0, 1, 60);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 3, 4, 41);
    cr_assert(eq(int, refusal(&a), TIER_ELIMIT));
    a = step(&r, TIER_EVENT_OFFER, 1, 2, 40);
    cr_assert(has(&a, TIER_ACTION_GRANT));
    /* Two that each fit, but not together: the one sealed second does not count. */
    step(&r, TIER_EVENT_OFFER, 2, 3, 40);
    step(&r, TIER_EVENT_SEALED, 1, 2, 40);
    a = step(&r, TIER_EVENT_SEALED, 2, 3, 40);
    cr_assert(eq(int, refusal(&a), TIER_ELIMIT));
    cr_assert(has(&a, TIER_ACTION_DISCARD));
    cr_assert(eq(u64, r.weight, 100));
    cr_assert(has(&a, TIER_ACTION_FOLD), "the round does not wait for what cannot fit");
    tier_round_release(&r);
}

Test(tier_round, a_weight_that_cannot_fit_does_not_keep_the_others_waiting) {
    struct tier_round_rules rules = all;
    rules.weight_total_max = 100;
    struct tier_round r = joined(&rules, 2);
    deliver(&r, 0, 1, 60);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 1, 2, 41);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    a = step(&r, TIER_EVENT_OFFER, 1, 3, 1);
    cr_assert(ne(int, refusal(&a), TIER_OK));
    tier_round_release(&r);
}

Test(tier_round, what_arrived_of_an_update_goes_when_its_child_offers_another) {
    struct tier_round r = joined(&all, 2);
    step(&r, TIER_EVENT_OFFER, 0, 1, 10);
    step(&r, TIER_EVENT_LEAVE, 0, 0, 0);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 0, 1, 10);
    cr_assert(not(has(&a, TIER_ACTION_DISCARD)), "the same is resumed");
    step(&r, TIER_EVENT_LEAVE, 0, 0, 0);
    a = step(&r, TIER_EVENT_OFFER, 0, 2, 10);
    cr_assert(has(&a, TIER_ACTION_DISCARD));
    cr_assert(tier_hash_equal(&a.at[0].update, &(struct tier_hash){{2}}));
    tier_round_release(&r);
}

Test(tier_round, a_bad_update_is_refused_with_what_is_wrong_with_it) {
    struct tier_round r = joined(&all, 2);
    struct tier_round_actions a;
    step(&r, TIER_EVENT_OFFER, 0, 1, 10);
    struct tier_round_event e = {
        .type = TIER_EVENT_BAD, .update = id_of(1), .reason = "tensor w, element 3 is nan"};
    tier_round_step(&r, &e, &a);
    cr_assert(eq(int, refusal(&a), TIER_EUPDATE));
    cr_assert(eq(str, (char *)a.at[0].reason, "tensor w, element 3 is nan"));
    tier_round_release(&r);
}

Test(tier_round, a_child_outside_the_round_is_refused) {
    struct tier_round r = joined(&all, 1);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 5, 1, 1);
    cr_assert(eq(int, refusal(&a), TIER_EPOLICY));
    tier_round_release(&r);
}

Test(tier_round, an_update_lost_from_the_spool_is_wanted_again_and_the_fold_waits) {
    struct tier_round r = joined(&all, 2);
    deliver(&r, 0, 1, 10);
    deliver(&r, 1, 2, 5);
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    struct tier_round_actions a = step(&r, TIER_EVENT_LOST, 0, 1, 0);
    cr_assert(has(&a, TIER_ACTION_START));
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    cr_assert(eq(u64, r.weight, 5));
    a = deliver(&r, 0, 1, 10);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    cr_assert(eq(u64, r.weight, 15));
    tier_round_release(&r);
}

Test(tier_round, a_restored_round_carries_on_where_it_was) {
    struct tier_round r;
    struct tier_round_actions a;
    struct tier_hash id = id_of(1), own = id_of(99);

    tier_round_init(&r, 3, &all);
    tier_round_restore_child(&r, 0, TIER_CHILD_SEALED, &id, 10, 3);
    tier_round_restore_child(&r, 1, TIER_CHILD_EXPECTED, NULL, 0, 3);
    tier_round_resume(&r, &a);
    cr_assert(eq(sz, a.count, 0), "one is missing still");
    tier_round_restore_child(&r, 1, TIER_CHILD_DECLINED, NULL, 0, 3);
    tier_round_resume(&r, &a);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    tier_round_restore(&r, TIER_ROUND_FOLDED, NULL, &own);
    tier_round_resume(&r, &a);
    cr_assert(has(&a, TIER_ACTION_DELIVER));
    cr_assert(tier_hash_equal(&a.at[0].update, &own));
    tier_round_release(&r);
}

Test(tier_round, folding_and_committing_happen_once) {
    struct tier_round r = joined(&all, 1);
    deliver(&r, 0, 1, 10);
    struct tier_round_actions a = step(&r, TIER_EVENT_FOLDED, 0, 50, 0);
    cr_assert(has(&a, TIER_ACTION_DELIVER));
    a = step(&r, TIER_EVENT_FOLDED, 0, 51, 0);
    cr_assert(eq(sz, a.count, 0));
    step(&r, TIER_EVENT_COMMIT, 0, 0, 0);
    cr_assert(eq(int, r.state, TIER_ROUND_COMMITTED));
    tier_round_release(&r);
}

/* ---- any sequence of events ---- */

static uint64_t next_random(uint64_t *s) {
    uint64_t z = (*s += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/*
 * Whatever happens in whatever order: the weight is that of the sealed updates and within the
 * bound; a sealed update is never replaced; a grant is given only while the round is open; FOLD
 * comes with at least one update.
 */
Test(tier_round, invariants_hold_under_any_sequence_of_events) {
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        uint64_t s = seed;
        struct tier_round_rules rules = {.weight_total_max = 40, .wait_when_empty = seed % 2};
        rules.quorum = (struct tier_quorum){
            .kind = (enum tier_quorum_kind)(seed % 3), .count = 1 + seed % 4, .fraction = 0.5};
        struct tier_round r;
        tier_round_init(&r, 1, &rules);
        for (int i = 0; i < 200; i++) {
            struct tier_round_event e = {
                .type = (enum tier_round_event_type)(next_random(&s) % (TIER_EVENT_FOLDED + 1)),
                .child = (uint32_t)(next_random(&s) % 5),
                .update = id_of((unsigned)(next_random(&s) % 8)),
                .weight = 1 + next_random(&s) % 20};
            struct tier_round_child before = *tier_round_child(&r, e.child);
            enum tier_round_state state_before = r.state;
            struct tier_round_actions a;
            tier_round_step(&r, &e, &a);

            uint64_t weight = 0;
            for (uint32_t c = 0; c < r.count; c++)
                if (tier_round_child(&r, c)->state == TIER_CHILD_SEALED)
                    weight += tier_round_child(&r, c)->weight;
            cr_assert(eq(u64, weight, r.weight), "seed %lu step %d", (unsigned long)seed, i);
            cr_assert(le(u64, weight, rules.weight_total_max));
            const struct tier_round_child *now = tier_round_child(&r, e.child);
            if (before.state == TIER_CHILD_SEALED && now->state == TIER_CHILD_SEALED)
                cr_assert(tier_hash_equal(&before.update, &now->update));
            if (has(&a, TIER_ACTION_GRANT))
                cr_assert(eq(int, state_before, TIER_ROUND_OPEN));
            if (has(&a, TIER_ACTION_FOLD))
                cr_assert(gt(sz, tier_round_tally(&r).sealed, 0));
        }
        tier_round_release(&r);
    }
}

/* ---- partials ---- */

static const struct tier_round_rules by_two = {
    .quorum = {.kind = TIER_QUORUM_ALL}, .weight_total_max = UINT64_C(1) << 32, .part_at = 2};

static enum tier_round_child_state state_of(const struct tier_round *r, uint32_t child) {
    return tier_round_child(r, child)->state;
}

Test(tier_round, enough_sealed_updates_are_folded_into_a_partial_while_others_come) {
    struct tier_round r = joined(&by_two, 5);
    struct tier_round_actions a = deliver(&r, 0, 0, 3);
    cr_assert(has(&a, TIER_ACTION_PART) == false);
    a = deliver(&r, 1, 1, 4);
    cr_assert(has(&a, TIER_ACTION_PART));
    a = deliver(&r, 2, 2, 5); /* comes while the partial is made: it is not in it */
    cr_assert(has(&a, TIER_ACTION_PART) == false);
    a = step(&r, TIER_EVENT_PARTED, 0, 100, 0);
    cr_assert(eq(sz, a.count, 0));
    cr_assert(eq(int, state_of(&r, 0), TIER_CHILD_FOLDED));
    cr_assert(eq(int, state_of(&r, 1), TIER_CHILD_FOLDED));
    cr_assert(eq(int, state_of(&r, 2), TIER_CHILD_SEALED));
    cr_assert(eq(sz, tier_round_tally(&r).sealed, 3));
    cr_assert(eq(sz, tier_round_tally(&r).loose, 1));
    a = deliver(&r, 3, 3, 1);
    cr_assert(has(&a, TIER_ACTION_PART), "the partial and what came since");
    a = deliver(&r, 4, 4, 1);
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    cr_assert(has(&a, TIER_ACTION_FOLD) == false, "the partial in the making is waited for");
    a = step(&r, TIER_EVENT_PARTED, 0, 101, 0);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    cr_assert(eq(u64, r.weight, 14));
    tier_round_release(&r);
}

Test(tier_round, a_folded_update_gets_its_receipt_again_and_another_is_refused) {
    struct tier_round r = joined(&by_two, 3);
    deliver(&r, 0, 0, 1);
    deliver(&r, 1, 1, 1);
    step(&r, TIER_EVENT_PARTED, 0, 100, 0);
    struct tier_round_actions a = step(&r, TIER_EVENT_OFFER, 0, 0, 1);
    cr_assert(has(&a, TIER_ACTION_RECEIPT));
    a = step(&r, TIER_EVENT_OFFER, 0, 7, 1);
    cr_assert(eq(int, refusal(&a), TIER_ECONFLICT));
    a = step(&r, TIER_EVENT_DECLINE, 0, 0, 0);
    cr_assert(eq(int, state_of(&r, 0), TIER_CHILD_FOLDED), "what is delivered stays");
    tier_round_release(&r);
}

Test(tier_round, a_lost_partial_makes_all_in_it_wanted_again) {
    struct tier_round r = joined(&by_two, 3);
    deliver(&r, 0, 0, 1);
    deliver(&r, 1, 1, 2);
    step(&r, TIER_EVENT_PARTED, 0, 100, 0);
    deliver(&r, 2, 2, 4);
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    for (uint32_t i = 0; i < 2; i++) {
        struct tier_round_actions a = step(&r, TIER_EVENT_LOST, i, i, 0);
        cr_assert(has(&a, TIER_ACTION_START));
    }
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    cr_assert(tier_hash_is_zero(&r.partial));
    cr_assert(eq(u64, r.weight, 4));
    deliver(&r, 0, 0, 1);
    step(&r, TIER_EVENT_UNPARTED, 0, 0, 0); /* the one that was begun meanwhile fails */
    struct tier_round_actions a = deliver(&r, 1, 1, 2);
    cr_assert(eq(int, r.state, TIER_ROUND_FOLDING));
    (void)a;
    cr_assert(eq(u64, r.weight, 7));
    tier_round_release(&r);
}

Test(tier_round, a_partial_that_cannot_be_made_is_tried_again_and_loses_nothing) {
    struct tier_round r = joined(&by_two, 3);
    deliver(&r, 0, 0, 1);
    deliver(&r, 1, 1, 1);
    struct tier_round_actions a = step(&r, TIER_EVENT_UNPARTED, 0, 0, 0);
    cr_assert(has(&a, TIER_ACTION_PART));
    cr_assert(eq(sz, tier_round_tally(&r).loose, 2));
    a = deliver(&r, 2, 2, 1);
    cr_assert(has(&a, TIER_ACTION_FOLD) == false);
    a = step(&r, TIER_EVENT_UNPARTED, 0, 0, 0);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    a = step(&r, TIER_EVENT_PARTED, 0, 100, 0);
    cr_assert(eq(sz, a.count, 0), "nobody waits for one");
    cr_assert(tier_hash_is_zero(&r.partial));
    tier_round_release(&r);
}

Test(tier_round, a_partial_that_never_will_be_made_is_not_tried_again) {
    struct tier_round r = joined(&by_two, 4);
    deliver(&r, 0, 0, 1);
    struct tier_round_actions a = deliver(&r, 1, 1, 1);
    cr_assert(has(&a, TIER_ACTION_PART));
    a = step(&r, TIER_EVENT_NO_PART, 0, 0, 0);
    cr_assert(eq(sz, a.count, 0));
    a = deliver(&r, 2, 2, 1);
    cr_assert(has(&a, TIER_ACTION_PART) == false);
    a = deliver(&r, 3, 3, 1);
    cr_assert(has(&a, TIER_ACTION_FOLD), "the round's own fold says what is wrong");
    tier_round_next(&r, 2, &by_two);
    deliver(&r, 0, 10, 1);
    a = deliver(&r, 1, 11, 1);
    cr_assert(has(&a, TIER_ACTION_PART), "the next round has other updates");
    deliver(&r, 2, 12, 1);
    deliver(&r, 3, 13, 1); /* closes the round, which waits for the partial */
    a = step(&r, TIER_EVENT_NO_PART, 0, 0, 0);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    tier_round_release(&r);
}

Test(tier_round, a_restart_puts_folded_children_and_their_partial_back) {
    struct tier_round r;
    struct tier_hash partial = id_of(100), update = id_of(0);
    struct tier_round_actions a;
    tier_round_init(&r, 1, &by_two);
    tier_round_restore_child(&r, 0, TIER_CHILD_FOLDED, &update, 3, 1);
    update = id_of(1);
    tier_round_restore_child(&r, 1, TIER_CHILD_SEALED, &update, 4, 1);
    tier_round_restore_child(&r, 2, TIER_CHILD_EXPECTED, NULL, 0, 1);
    tier_round_restore(&r, TIER_ROUND_OPEN, &partial, NULL);
    tier_round_resume(&r, &a);
    cr_assert(eq(sz, a.count, 0));
    cr_assert(eq(u64, r.weight, 7));
    a = deliver(&r, 2, 2, 5);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    cr_assert(tier_hash_equal(&r.partial, &partial));
    tier_round_release(&r);
}

Test(tier_round, updates_that_never_merge_end_the_round_empty_with_the_reason) {
    struct tier_round r = joined(&all, 2);
    struct tier_round_actions a;
    struct tier_round_event e = {.type = TIER_EVENT_NO_MERGE, .reason = "too few"};
    tier_round_step(&r, &e, &a); /* of a fold that is long overtaken: nothing happens */
    cr_assert(eq(sz, a.count, 0));
    cr_assert(eq(int, r.state, TIER_ROUND_OPEN));
    deliver(&r, 0, 0, 1);
    a = deliver(&r, 1, 1, 1);
    cr_assert(has(&a, TIER_ACTION_FOLD));
    tier_round_step(&r, &e, &a);
    cr_assert(has(&a, TIER_ACTION_EMPTY));
    cr_assert(eq(str, (char *)a.at[0].reason, "too few"));
    cr_assert(eq(int, r.state, TIER_ROUND_EMPTY));
    tier_round_resume(&r, &a); /* after a restart the reason is gone, what it led to is not */
    cr_assert(has(&a, TIER_ACTION_EMPTY));
    tier_round_release(&r);
}
