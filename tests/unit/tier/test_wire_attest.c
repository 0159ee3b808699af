/* SPDX-License-Identifier: Apache-2.0 */
/* A parent's question and a TPM's answer on the edge. */
#include "support/tier_fixture.h"
#include "tier/wire.h"

#include <stdlib.h>
#include <string.h>

static struct tier_from_child answer(void) {
    struct tier_from_child m = {.type = TIER_FROM_QUOTE, .run = {{1}}, .nonce = {{2}}};

    m.quote = (struct tier_quote){.attest_bytes = TIER_ATTEST_BYTES_MAX,
                                  .signature_bytes = TIER_ATTEST_SIGNATURE_BYTES,
                                  .pcr = 23,
                                  .ran = {{{3}}, {{0}}, {{5}}}};
    memset(m.quote.attest, 0xa1, sizeof m.quote.attest);
    memset(m.quote.signature, 0xb2, sizeof m.quote.signature);
    memset(m.quote.platform, 0xc3, sizeof m.quote.platform);
    return m;
}

static enum tier_status up(const struct tier_from_child *m, struct tier_from_child *back,
                           struct tier_err *err) {
    struct tier_bytes b = tier_wire_from_child_bytes(m);
    enum tier_status st = tier_wire_from_child(b.data, b.n, back, err);
    free(b.data);
    return st;
}

static enum tier_status down(const struct tier_to_child *m, struct tier_to_child *back,
                             struct tier_err *err) {
    struct tier_bytes b = tier_wire_to_child_bytes(m);
    enum tier_status st = tier_wire_to_child(b.data, b.n, back, err);
    free(b.data);
    return st;
}

Test(tier_wire_attest, the_longest_quote_comes_back_as_it_was) {
    struct tier_from_child m = answer(), back;

    MUST(up(&m, &back, err));
    CHECK(back.type == TIER_FROM_QUOTE && tier_hash_equal(&back.run, &m.run));
    CHECK(tier_hash_equal(&back.nonce, &m.nonce));
    CHECK(memcmp(&back.quote, &m.quote, sizeof m.quote) == 0);
    CHECK(!*back.reason);
    tier_wire_from_child_release(&back);
}

Test(tier_wire_attest, a_reason_stands_in_the_place_of_a_quote) {
    struct tier_from_child m = answer(), back;

    snprintf(m.reason, sizeof m.reason, "no TPM");
    MUST(up(&m, &back, err));
    cr_assert(eq(str, back.reason, "no TPM"));
    CHECK(back.quote.attest_bytes == 0 && tier_hash_equal(&back.nonce, &m.nonce));
    tier_wire_from_child_release(&back);
}

Test(tier_wire_attest, what_is_missing_or_too_long_is_refused_by_field) {
    struct tier_from_child m = answer(), back;
    /* quote { run: 32 bytes, nonce: 32 bytes, attest: 513 bytes } */
    uint8_t raw[4 + 34 * 2 + 3 + TIER_ATTEST_BYTES_MAX + 1];
    const size_t inner = sizeof raw - 4;
    size_t n = 0;

    m.quote.attest_bytes = 0;
    REFUSED(TIER_EPROTO, "quote.attest has 0 bytes", up(&m, &back, err));
    m = answer();
    m.quote.signature_bytes = 0;
    REFUSED(TIER_EPROTO, "quote.signature has 0 bytes", up(&m, &back, err));
    m = answer();
    m.quote.pcr = 17;
    REFUSED(TIER_EPROTO, "quote.pcr is 17", up(&m, &back, err));
    raw[n++] = (uint8_t)(40u << 3 | 2 | 0x80);
    raw[n++] = 40u << 3 >> 7;
    raw[n++] = (uint8_t)(inner | 0x80);
    raw[n++] = (uint8_t)(inner >> 7);
    for (int field = 1; field <= 2; field++) {
        raw[n++] = (uint8_t)(field << 3 | 2);
        raw[n++] = 32;
        memset(raw + n, field, 32);
        n += 32;
    }
    raw[n++] = 4 << 3 | 2;
    raw[n++] = (uint8_t)((TIER_ATTEST_BYTES_MAX + 1) | 0x80);
    raw[n++] = (TIER_ATTEST_BYTES_MAX + 1) >> 7;
    memset(raw + n, 7, TIER_ATTEST_BYTES_MAX + 1);
    n += TIER_ATTEST_BYTES_MAX + 1;
    REFUSED(TIER_EPROTO, "quote.attest has 513 bytes", tier_wire_from_child(raw, n, &back, err));
    raw[4] = 7 << 3 | 2; /* PCRs in the place of the run */
    REFUSED(TIER_EPROTO, "quote.run", tier_wire_from_child(raw, n, &back, err));
}

Test(tier_wire_attest, a_question_has_a_nonce_or_a_reason) {
    struct tier_to_child m = {.type = TIER_TO_CHALLENGE, .run = {{1}}, .nonce = {{2}}}, back;

    MUST(down(&m, &back, err));
    CHECK(back.type == TIER_TO_CHALLENGE && tier_hash_equal(&back.nonce, &m.nonce));
    tier_wire_to_child_release(&back);
    snprintf(m.reason, sizeof m.reason, "not this program");
    MUST(down(&m, &back, err));
    CHECK(tier_hash_is_zero(&back.nonce));
    cr_assert(eq(str, back.reason, "not this program"));
    tier_wire_to_child_release(&back);
    /* challenge { run: 32 bytes } */
    uint8_t raw[4 + 32 + 36] = {(uint8_t)(40u << 3 | 2 | 0x80), 40u << 3 >> 7, 34, 1 << 3 | 2, 32};
    REFUSED(TIER_EPROTO, "challenge.nonce", tier_wire_to_child(raw, 3 + 34, &back, err));
    /* and both */
    raw[2] = 34 + 3 + 3;
    memcpy(raw + 3 + 34, (const uint8_t[]){2 << 3 | 2, 1, 9, 3 << 3 | 2, 1, 'x'}, 6);
    REFUSED(TIER_EPROTO, "one of them", tier_wire_to_child(raw, 3 + 40, &back, err));
}
