/* SPDX-License-Identifier: Apache-2.0 */
/* What stewards add to the edge: a signature beside a plan, an answer that waits, a withdrawal. */
#include "support/tier_fixture.h"
#include "tier/console_wire.h"
#include "tier/wire.h"

static const struct tier_hash run = {{1, 2, 3}}, update = {{4, 5, 6}};

static struct tier_from_child up_again(const struct tier_from_child *m) {
    struct tier_from_child back;
    struct tier_bytes b = tier_wire_from_child_bytes(m);
    MUST(tier_wire_from_child(b.data, b.n, &back, err));
    tier_wire_from_child_release(&back);
    free(b.data);
    return back;
}

Test(tier_wire_steward, an_answer_that_waits_comes_back_and_one_that_does_not_is_as_before) {
    struct tier_from_child m = {
        .type = TIER_FROM_ANSWER, .run = run, .waiting = true, .reason = "a person decides"};
    struct tier_from_child back = up_again(&m);
    CHECK(back.waiting && !back.accepted);
    cr_assert(eq(str, back.reason, "a person decides"));
    m.waiting = false;
    m.accepted = true;
    back = up_again(&m);
    CHECK(back.accepted && !back.waiting);
}

Test(tier_wire_steward, a_withdrawal_comes_back_as_it_was) {
    struct tier_from_child m = {.type = TIER_FROM_WITHDRAW,
                                .run = run,
                                .round = TIER_ROUNDS_MAX,
                                .update = update,
                                .reason = "a patient"};
    struct tier_from_child back = up_again(&m);
    CHECK(back.type == TIER_FROM_WITHDRAW && back.round == TIER_ROUNDS_MAX);
    CHECK(tier_hash_equal(&back.run, &run) && tier_hash_equal(&back.update, &update));
    cr_assert(eq(str, back.reason, "a patient"));
}

Test(tier_wire_steward, a_withdrawal_of_no_round_or_of_no_update_is_refused_by_field) {
    struct tier_from_child m = {.type = TIER_FROM_WITHDRAW, .run = run, .update = update}, back;
    struct tier_bytes b = tier_wire_from_child_bytes(&m);
    REFUSED(TIER_EPROTO, "round", tier_wire_from_child(b.data, b.n, &back, err));
    free(b.data);
    /* withdraw { run, round: 1 } without its update */
    uint8_t raw[3 + 34 + 2] = {20 << 3 | 2 | 0x80, 1, 36, 0x0a, 32};
    raw[37] = 2 << 3;
    raw[38] = 1;
    REFUSED(TIER_EPROTO, "withdraw.update", tier_wire_from_child(raw, sizeof raw, &back, err));
}

Test(tier_wire_steward, a_refusal_says_whether_the_child_asked_for_it) {
    for (int asked = 0; asked < 2; asked++) {
        struct tier_to_child m = {
            .type = TIER_TO_REFUSAL, .run = run, .round = 3, .update = update, .withdrawn = asked};
        struct tier_to_child back;
        struct tier_bytes b = tier_wire_to_child_bytes(&m);
        MUST(tier_wire_to_child(b.data, b.n, &back, err));
        CHECK(back.withdrawn == asked && back.round == 3);
        tier_wire_to_child_release(&back);
        free(b.data);
    }
}

Test(tier_wire_steward, a_plan_has_a_signature_of_at_most_so_many_bytes_or_none) {
    static uint8_t text[TIER_SIGNED_BYTES_MAX + 1];
    static const size_t lengths[] = {0, 1, TIER_SIGNED_BYTES_MAX};
    struct tier_to_child m = {
        .type = TIER_TO_PLAN, .run = run, .plan = text, .plan_bytes = 5, .signature = text};
    struct tier_to_child back;

    memset(text, 's', sizeof text);
    for (size_t i = 0; i < 3; i++) {
        m.signature_bytes = lengths[i];
        struct tier_bytes b = tier_wire_to_child_bytes(&m);
        MUST(tier_wire_to_child(b.data, b.n, &back, err));
        CHECK(back.signature_bytes == lengths[i] && back.plan_bytes == 5);
        CHECK(lengths[i] == 0 || memcmp(back.signature, text, lengths[i]) == 0);
        tier_wire_to_child_release(&back);
        free(b.data);
    }
    m.signature_bytes = sizeof text;
    struct tier_bytes b = tier_wire_to_child_bytes(&m);
    REFUSED(TIER_EPROTO, "plan.signature", tier_wire_to_child(b.data, b.n, &back, err));
    free(b.data);
}

Test(tier_wire_steward, a_started_plan_has_a_signature_and_a_piece_of_a_graph_has_none) {
    static const uint8_t data[] = "text";
    static uint8_t long_one[TIER_SIGNED_BYTES_MAX + 1];
    struct tier_console_part p = {
        .is_plan = true, .data = data, .bytes = 4, .signature = data, .signature_bytes = 3};
    struct tier_console_part back;
    struct tier_bytes b = tier_console_part_bytes(&p);
    MUST(tier_console_part(b.data, b.n, &back, err));
    CHECK(back.is_plan && back.signature_bytes == 3 && memcmp(back.signature, data, 3) == 0);
    tier_console_part_release(&back);
    free(b.data);

    p.is_plan = false;
    b = tier_console_part_bytes(&p);
    REFUSED(TIER_EPROTO, "beside a plan", tier_console_part(b.data, b.n, &back, err));
    free(b.data);
    p = (struct tier_console_part){.is_plan = true,
                                   .data = data,
                                   .bytes = 4,
                                   .signature = long_one,
                                   .signature_bytes = sizeof long_one};
    b = tier_console_part_bytes(&p);
    REFUSED(TIER_EPROTO, "part.signature", tier_console_part(b.data, b.n, &back, err));
    free(b.data);
}
