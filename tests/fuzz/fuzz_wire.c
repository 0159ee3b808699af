/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of the edge: what is accepted encodes to bytes that mean the same. */
#include "fuzz/fuzz.h"
#include "tier/pseudonym.h"
#include "tier/wire.h"

#include <string.h>

static void same(struct tier_bytes a, struct tier_bytes b) {
    FUZZ_CHECK(a.n == b.n && memcmp(a.data, b.data, a.n) == 0);
    free(a.data);
    free(b.data);
}

static void from_child(const uint8_t *data, size_t size) {
    struct tier_from_child m, again;

    if (tier_wire_from_child(data, size, &m, NULL) != TIER_OK)
        return;
    struct tier_bytes b = tier_wire_from_child_bytes(&m);
    FUZZ_CHECK(tier_wire_from_child(b.data, b.n, &again, NULL) == TIER_OK);
    same(b, tier_wire_from_child_bytes(&again));
    tier_wire_from_child_release(&again);
    tier_wire_from_child_release(&m);
}

static void to_child(const uint8_t *data, size_t size) {
    struct tier_to_child m, again;

    if (tier_wire_to_child(data, size, &m, NULL) != TIER_OK)
        return;
    struct tier_bytes b = tier_wire_to_child_bytes(&m);
    FUZZ_CHECK(tier_wire_to_child(b.data, b.n, &again, NULL) == TIER_OK);
    same(b, tier_wire_to_child_bytes(&again));
    tier_wire_to_child_release(&again);
    tier_wire_to_child_release(&m);
}

static void receipt(const uint8_t *data, size_t size) {
    struct tier_receipt r, again;
    char text[512];

    if (tier_wire_receipt(data, size, &r, NULL) != TIER_OK)
        return;
    FUZZ_CHECK(tier_receipt_text(&r, text, sizeof text) > 0);
    struct tier_bytes b = tier_wire_receipt_bytes(&r);
    FUZZ_CHECK(tier_wire_receipt(b.data, b.n, &again, NULL) == TIER_OK);
    same(b, tier_wire_receipt_bytes(&again));
}

static void piece(const uint8_t *data, size_t size) {
    size_t head = size < TIER_PIECE_PREFIX_MAX ? size : TIER_PIECE_PREFIX_MAX, at;
    struct tier_piece p;

    if (tier_wire_piece(data, head, size, &p, &at, NULL) == TIER_OK)
        FUZZ_CHECK(p.data_bytes <= TIER_CHUNK_BYTES && at + p.data_bytes == size);
}

static void others(const uint8_t *data, size_t size) {
    struct tier_fetch_request fetch;
    char *a, *b;

    (void)tier_wire_fetch_request(data, size, &fetch, NULL);
    if (tier_wire_enroll_request(data, size, &a, &b, NULL) == TIER_OK) {
        free(a);
        free(b);
    }
    struct tier_renew_request renewal, again;
    if (tier_wire_renew_request(data, size, &renewal, NULL) == TIER_OK) {
        struct tier_bytes one = tier_wire_renew_request_bytes(&renewal);
        FUZZ_CHECK(tier_wire_renew_request(one.data, one.n, &again, NULL) == TIER_OK);
        same(one, tier_wire_renew_request_bytes(&again));
        tier_wire_renew_request_release(&again);
        tier_wire_renew_request_release(&renewal);
    }
    struct tier_pseudonym_ask asked, asked_again;
    if (tier_wire_pseudonym(data, size, &asked, NULL) == TIER_OK) {
        struct tier_bytes one = tier_wire_pseudonym_bytes(&asked);
        FUZZ_CHECK(tier_wire_pseudonym(one.data, one.n, &asked_again, NULL) == TIER_OK);
        same(one, tier_wire_pseudonym_bytes(&asked_again));
        tier_pseudonym_ask_release(&asked_again);
        tier_pseudonym_ask_release(&asked);
    }
    if (tier_wire_enroll_reply(data, size, &a, &b, NULL) == TIER_OK) {
        free(a);
        free(b);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    from_child(data, size);
    to_child(data, size);
    receipt(data, size);
    piece(data, size);
    others(data, size);
    return 0;
}

static struct tier_bytes seed_of(unsigned i) {
    static const uint8_t bytes[] = "header or plan";
    struct tier_from_child up = {.type = (enum tier_from_child_type)(i + 1),
                                 .round = 3,
                                 .name = "north-1",
                                 .software = "consilium",
                                 .reason = "why",
                                 .waiting = true,
                                 .update = {{3}},
                                 .protocol = TIER_PROTOCOL,
                                 .header = bytes,
                                 .header_bytes = sizeof bytes};
    struct tier_to_child down = {.type = (enum tier_to_child_type)(i - 4),
                                 .round = 3,
                                 .name = "north",
                                 .reason = "why",
                                 .plan = bytes,
                                 .plan_bytes = sizeof bytes,
                                 .signature = bytes,
                                 .signature_bytes = sizeof bytes,
                                 .withdrawn = true,
                                 .crl = bytes,
                                 .crl_bytes = sizeof bytes,
                                 .delta = {{1}},
                                 .delta_base = {{2}},
                                 .missed = true,
                                 .by_receipt = true,
                                 .receipt = {.round = 3, .child = "a", .weight = 5, .counted = 4}};
    struct tier_head head = {.size = 9,
                             .time_ms = -1,
                             .signature = {1, 2},
                             .signature_bytes = 2,
                             .since = 5,
                             .proof = {{{3}}, {{4}}},
                             .proof_count = 2,
                             .known = 7,
                             .answer = true};
    if (i == 18 || i == 19) {
        up.type = TIER_FROM_HEAD;
        up.head = head;
        down.type = TIER_TO_HEAD;
        down.head = head;
        return i == 18 ? tier_wire_from_child_bytes(&up) : tier_wire_to_child_bytes(&down);
    }
    if (i == 17)
        up.type = TIER_FROM_WITHDRAW;
    if (i < 5 || i == 17)
        return tier_wire_from_child_bytes(&up);
    if (i < 13)
        return tier_wire_to_child_bytes(&down);
    if (i == 13)
        return tier_wire_receipt_bytes(&down.receipt);
    if (i == 20) {
        down.type = TIER_TO_REVOCATIONS;
        return tier_wire_to_child_bytes(&down);
    }
    if (i == 21)
        return tier_wire_renew_request_bytes(&(struct tier_renew_request){
            .cert_pem = "cert", .csr_pem = "csr", .signature = {1}, .signature_bytes = 70});
    if (i == 22 || i == 23) {
        up.type = TIER_FROM_SECURE;
        up.secure = (struct tier_secure_body){TIER_MASK_SHARES, bytes, sizeof bytes};
        down.type = TIER_TO_SECURE;
        down.secure = (struct tier_secure_body){TIER_MASK_SURVIVORS, bytes, sizeof bytes};
        return i == 22 ? tier_wire_from_child_bytes(&up) : tier_wire_to_child_bytes(&down);
    }
    if (i == 25 || i == 26) {
        up.type = TIER_FROM_QUOTE;
        *up.reason = '\0';
        up.quote = (struct tier_quote){
            .attest = {1}, .attest_bytes = 145, .signature_bytes = 71, .pcr = 23};
        down.type = TIER_TO_CHALLENGE;
        *down.reason = '\0';
        return i == 25 ? tier_wire_from_child_bytes(&up) : tier_wire_to_child_bytes(&down);
    }
    if (i == 24)
        return tier_wire_pseudonym_bytes(&(struct tier_pseudonym_ask){.cert_pem = "cert",
                                                                      .csr_pem = "csr",
                                                                      .run = {{1}},
                                                                      .parent = "north",
                                                                      .signature = {1},
                                                                      .signature_bytes = 70});
    if (i == 14)
        return tier_wire_enroll_request_bytes("token", "pem");
    return tier_wire_fetch_request_bytes(&(struct tier_fetch_request){.offset = 9});
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    struct tier_piece p = {.offset = 1u << 20, .total = 7, .data_bytes = 100};

    FUZZ_CHECK(room >= 1024);
    if (i > 26)
        return 0;
    if (i == 16) {
        p.id.b[0] = 1;
        size_t n = tier_wire_piece_prefix(&p, out);
        memset(out + n, 7, p.data_bytes);
        return n + p.data_bytes;
    }
    struct tier_bytes b = seed_of(i);
    FUZZ_CHECK(b.n <= room);
    memcpy(out, b.data, b.n);
    size_t n = b.n;
    free(b.data);
    return n;
}
