/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a secure sum on the edge: who may say which, and how long a body may be. */
#include "support/tier_fixture.h"
#include "tier/wire.h"

#include <stdlib.h>
#include <string.h>

static const struct tier_hash run = {{1, 2, 3}};

static bool is_childs(enum tier_mask_step step) {
    return step == TIER_MASK_ADVERT || step == TIER_MASK_SHARES || step == TIER_MASK_SIGNED ||
           step == TIER_MASK_REVEAL;
}

static enum tier_status up(enum tier_mask_step step, const uint8_t *data, size_t bytes,
                           struct tier_from_child *back, struct tier_err *e) {
    struct tier_from_child m = {
        .type = TIER_FROM_SECURE, .run = run, .round = 5, .secure = {step, data, bytes}};
    struct tier_bytes b = tier_wire_from_child_bytes(&m);
    enum tier_status st = tier_wire_from_child(b.data, b.n, back, e);
    free(b.data);
    return st;
}

static enum tier_status down(enum tier_mask_step step, const uint8_t *data, size_t bytes,
                             struct tier_to_child *back, struct tier_err *e) {
    struct tier_to_child m = {
        .type = TIER_TO_SECURE, .run = run, .round = 5, .secure = {step, data, bytes}};
    struct tier_bytes b = tier_wire_to_child_bytes(&m);
    enum tier_status st = tier_wire_to_child(b.data, b.n, back, e);
    cr_assert(b.n <= TIER_CONTROL_BYTES_MAX + 1);
    free(b.data);
    return st;
}

Test(tier_wire_secure, the_longest_body_of_each_step_comes_back_and_a_longer_one_does_not) {
    uint8_t *body = malloc(TIER_MASK_BODY_BYTES_MAX + 1);
    cr_assert(body != NULL);
    memset(body, 0x5a, TIER_MASK_BODY_BYTES_MAX + 1);
    for (int i = 1; i <= TIER_MASK_STEPS; i++) {
        enum tier_mask_step step = (enum tier_mask_step)i;
        size_t most = tier_mask_body_max(step);
        struct tier_from_child from;
        struct tier_to_child to;
        cr_assert(most > 0 && most <= TIER_MASK_BODY_BYTES_MAX);
        if (is_childs(step)) {
            MUST(up(step, body, most, &from, err));
            CHECK(from.round == 5 && from.secure.step == step && from.secure.bytes == most);
            CHECK(tier_hash_equal(&from.run, &run));
            CHECK(memcmp(from.secure.data, body, most) == 0);
            tier_wire_from_child_release(&from);
            REFUSED(TIER_EPROTO, "secure.body", up(step, body, most + 1, &from, err));
        } else {
            MUST(down(step, body, most, &to, err));
            CHECK(to.round == 5 && to.secure.step == step && to.secure.bytes == most);
            CHECK(memcmp(to.secure.data, body, most) == 0);
            tier_wire_to_child_release(&to);
            REFUSED(TIER_EPROTO, "secure.body", down(step, body, most + 1, &to, err));
        }
    }
    free(body);
}

Test(tier_wire_secure, a_step_of_the_other_side_or_of_none_is_refused) {
    const uint8_t body[] = {1};
    struct tier_from_child from;
    struct tier_to_child to;

    for (int i = 0; i <= TIER_MASK_STEPS + 1; i++) {
        enum tier_mask_step step = (enum tier_mask_step)i;
        bool known = i >= 1 && i <= TIER_MASK_STEPS;
        if (!known || !is_childs(step))
            REFUSED(TIER_EPROTO, "secure.step", up(step, body, 1, &from, err));
        if (!known || is_childs(step))
            REFUSED(TIER_EPROTO, "secure.step", down(step, body, 1, &to, err));
    }
}

Test(tier_wire_secure, a_step_without_a_body_a_round_or_a_run_is_refused_by_field) {
    struct tier_from_child m = {.type = TIER_FROM_SECURE,
                                .run = run,
                                .secure = {TIER_MASK_ADVERT, (const uint8_t *)"x", 1}},
                           back;
    struct tier_bytes b = tier_wire_from_child_bytes(&m);
    REFUSED(TIER_EPROTO, "round", tier_wire_from_child(b.data, b.n, &back, err));
    free(b.data);
    REFUSED(TIER_EPROTO, "secure.body", up(TIER_MASK_ADVERT, NULL, 0, &back, err));
    /* secure { round: 1, step: 1 } */
    const uint8_t raw[] = {10 << 3 | 2, 4, 2 << 3, 1, 3 << 3, 1};
    REFUSED(TIER_EPROTO, "secure.run", tier_wire_from_child(raw, sizeof raw, &back, err));
}
