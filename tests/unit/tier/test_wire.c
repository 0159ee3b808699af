/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/update.h"
#include "tier/pseudonym.h"
#include "tier/wire.h"

#include <inttypes.h>

/* ---- protobuf by hand, for what the encoders would never write ---- */

struct raw {
    uint8_t b[4096];
    size_t n;
};

static void raw_varint(struct raw *r, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        r->b[r->n++] = (uint8_t)(v | 0x80);
    r->b[r->n++] = (uint8_t)v;
}
static void raw_int(struct raw *r, unsigned field, uint64_t v) {
    raw_varint(r, field << 3);
    raw_varint(r, v);
}
static void raw_bytes(struct raw *r, unsigned field, const void *data, size_t n) {
    raw_varint(r, field << 3 | 2);
    raw_varint(r, n);
    memcpy(r->b + r->n, data, n);
    r->n += n;
}
static struct raw raw_in(unsigned field, const struct raw *sub) {
    struct raw r = {.n = 0};
    raw_bytes(&r, field, sub->b, sub->n);
    return r;
}

static struct tier_hash hash_of(const char *text) {
    struct tier_hash h;
    tier_hash_data(text, strlen(text), &h);
    return h;
}

static const char *longest(size_t n) {
    static char text[TIER_PEM_BYTES_MAX + 2];
    memset(text, 'x', n);
    text[n] = '\0';
    return text;
}

/* ---- the messages of both directions, each field filled ---- */

static const uint8_t blob[] = {0, 1, 2, 255, 0};

static struct tier_from_child from_child(enum tier_from_child_type type) {
    struct tier_from_child m = {.type = type};
    switch (type) {
    case TIER_FROM_HELLO:
        m.protocol = TIER_PROTOCOL;
        memset(m.name, 'n', TIER_NAME_LEN_MAX);
        snprintf(m.software, sizeof m.software, "consilium 0.1");
        break;
    case TIER_FROM_ANSWER:
        m.accepted = true;
        memset(m.reason, 'r', TIER_REASON_LEN_MAX);
        break;
    case TIER_FROM_OFFER:
        m.header = blob;
        m.header_bytes = sizeof blob;
        return m;
    case TIER_FROM_WITHDRAW:
        m.update = hash_of("update");
        m.round = 7;
        break;
    case TIER_FROM_PROGRESS:
        m.done = 3;
        m.total = UINT32_MAX;
        /* fall through */
    case TIER_FROM_DECLINE:
        m.round = TIER_ROUNDS_MAX;
        snprintf(m.reason, sizeof m.reason, "zu wenig F\xc3\xa4lle");
        break;
    case TIER_FROM_HEAD:   /* test_wire_head.c */
    case TIER_FROM_SECURE: /* test_wire_secure.c */
    case TIER_FROM_QUOTE:  /* test_wire_attest.c */
        break;
    }
    if (type != TIER_FROM_HELLO)
        m.run = hash_of("run");
    return m;
}

static struct tier_to_child to_child(enum tier_to_child_type type) {
    struct tier_to_child m = {.type = type};
    bool of_run = type != TIER_TO_WELCOME && type != TIER_TO_GRANT && type != TIER_TO_RECEIPT &&
                  type != TIER_TO_REVOCATIONS;
    if (of_run)
        m.run = hash_of("run");
    if (type == TIER_TO_ROUND || type == TIER_TO_REFUSAL || type == TIER_TO_COMMIT)
        m.round = 1;
    if (type == TIER_TO_ROUND || type == TIER_TO_END)
        m.model = hash_of("model");
    if (type == TIER_TO_GRANT || type == TIER_TO_REFUSAL)
        m.update = hash_of("update");
    if (type == TIER_TO_REFUSAL || type == TIER_TO_END)
        memset(m.reason, 'r', TIER_REASON_LEN_MAX);
    if (type == TIER_TO_ROUND) {
        m.delta = hash_of("delta");
        m.delta_base = hash_of("the model before");
    }
    m.protocol = type == TIER_TO_WELCOME ? 7 : 0;
    m.return_ms = type == TIER_TO_WELCOME ? TIER_RETURN_MS_MAX : 0;
    if (type == TIER_TO_WELCOME)
        snprintf(m.name, sizeof m.name, "top");
    m.offset = type == TIER_TO_GRANT ? UINT64_MAX : 0;
    m.deadline_ms = type == TIER_TO_ROUND ? 90000 : 0;
    m.completed = type == TIER_TO_END;
    m.missed = m.by_receipt = type == TIER_TO_COMMIT;
    if (type == TIER_TO_PLAN) {
        m.plan = blob;
        m.plan_bytes = sizeof blob;
    }
    if (type == TIER_TO_REVOCATIONS) {
        m.crl = blob;
        m.crl_bytes = sizeof blob;
    }
    if (type == TIER_TO_RECEIPT) {
        m.receipt = (struct tier_receipt){.run = hash_of("run"),
                                          .round = 9,
                                          .update = hash_of("update"),
                                          .child = "north-1",
                                          .parent = "north",
                                          .weight = TIER_WEIGHT_TOTAL_MAX,
                                          .time_ms = -5,
                                          .signature_bytes = 80};
        memset(m.receipt.signature, 0xa5, sizeof m.receipt.signature);
    }
    return m;
}

static void same_blob(const uint8_t *data, size_t n, const uint8_t *want, size_t want_n) {
    CHECK(n == want_n && (n == 0 || memcmp(data, want, n) == 0));
}

static void same_receipt(const struct tier_receipt *a, const struct tier_receipt *b) {
    char one[512], two[512];
    CHECK(tier_receipt_text(a, one, sizeof one) == tier_receipt_text(b, two, sizeof two));
    cr_assert(eq(str, one, two));
    same_blob(a->signature, a->signature_bytes, b->signature, b->signature_bytes);
}

Test(tier_wire, each_message_of_a_child_comes_back_as_it_was) {
    for (int type = TIER_FROM_HELLO; type <= TIER_FROM_PROGRESS; type++) {
        struct tier_from_child m = from_child((enum tier_from_child_type)type), back;
        struct tier_bytes b = tier_wire_from_child_bytes(&m);
        MUST(tier_wire_from_child(b.data, b.n, &back, err));
        CHECK(back.type == m.type && back.round == m.round && back.protocol == m.protocol);
        CHECK(back.accepted == m.accepted && back.done == m.done && back.total == m.total);
        CHECK(tier_hash_equal(&back.run, &m.run));
        cr_assert(eq(str, back.name, m.name));
        cr_assert(eq(str, back.software, m.software));
        cr_assert(eq(str, back.reason, m.reason));
        same_blob(back.header, back.header_bytes, m.header, m.header_bytes);
        struct tier_bytes again = tier_wire_from_child_bytes(&back);
        same_blob(again.data, again.n, b.data, b.n);
        tier_wire_from_child_release(&back);
        tier_wire_from_child_release(&back);
        free(again.data);
        free(b.data);
    }
}

Test(tier_wire, each_message_of_a_parent_comes_back_as_it_was) {
    for (int type = TIER_TO_WELCOME; type <= TIER_TO_END + 1; type++) {
        bool last = type == TIER_TO_END + 1;
        struct tier_to_child m =
            to_child(last ? TIER_TO_REVOCATIONS : (enum tier_to_child_type)type);
        struct tier_to_child back;
        struct tier_bytes b = tier_wire_to_child_bytes(&m);
        MUST(tier_wire_to_child(b.data, b.n, &back, err));
        CHECK(back.type == m.type && back.round == m.round && back.protocol == m.protocol);
        CHECK(back.offset == m.offset && back.deadline_ms == m.deadline_ms);
        CHECK(back.completed == m.completed && back.return_ms == m.return_ms);
        CHECK(tier_hash_equal(&back.run, &m.run) && tier_hash_equal(&back.model, &m.model));
        CHECK(tier_hash_equal(&back.update, &m.update) && tier_hash_equal(&back.delta, &m.delta));
        CHECK(tier_hash_equal(&back.delta_base, &m.delta_base));
        cr_assert(eq(str, back.name, m.name));
        cr_assert(eq(str, back.reason, m.reason));
        same_blob(back.plan, back.plan_bytes, m.plan, m.plan_bytes);
        same_blob(back.crl, back.crl_bytes, m.crl, m.crl_bytes);
        same_receipt(&back.receipt, &m.receipt);
        struct tier_bytes again = tier_wire_to_child_bytes(&back);
        same_blob(again.data, again.n, b.data, b.n);
        tier_wire_to_child_release(&back);
        tier_wire_to_child_release(&back);
        free(again.data);
        free(b.data);
    }
}

/* Never a crash, and what is accepted encodes and decodes again. */
static void try_both(const uint8_t *bytes, size_t n) {
    struct tier_from_child up;
    struct tier_to_child down;
    uint8_t *exact = malloc(n ? n : 1);

    memcpy(exact, bytes, n);
    if (tier_wire_from_child(exact, n, &up, NULL) == TIER_OK) {
        struct tier_bytes b = tier_wire_from_child_bytes(&up);
        tier_wire_from_child_release(&up);
        MUST(tier_wire_from_child(b.data, b.n, &up, err));
        tier_wire_from_child_release(&up);
        free(b.data);
    }
    if (tier_wire_to_child(exact, n, &down, NULL) == TIER_OK) {
        struct tier_bytes b = tier_wire_to_child_bytes(&down);
        tier_wire_to_child_release(&down);
        MUST(tier_wire_to_child(b.data, b.n, &down, err));
        tier_wire_to_child_release(&down);
        free(b.data);
    }
    free(exact);
}

Test(tier_wire, a_message_cut_short_is_refused) {
    for (int type = TIER_FROM_HELLO; type <= TIER_FROM_PROGRESS; type++) {
        struct tier_from_child m = from_child((enum tier_from_child_type)type), back;
        struct tier_bytes b = tier_wire_from_child_bytes(&m);
        for (size_t n = 0; n < b.n; n++)
            CHECK(tier_wire_from_child(b.data, n, &back, NULL) == TIER_EPROTO, "%d at %zu", type,
                  n);
        free(b.data);
    }
    for (int type = TIER_TO_WELCOME; type <= TIER_TO_END; type++) {
        struct tier_to_child m = to_child((enum tier_to_child_type)type), back;
        struct tier_bytes b = tier_wire_to_child_bytes(&m);
        for (size_t n = 0; n < b.n; n++)
            CHECK(tier_wire_to_child(b.data, n, &back, NULL) == TIER_EPROTO, "%d at %zu", type, n);
        free(b.data);
    }
}

Test(tier_wire, random_bytes_and_flipped_bits_are_refused_or_mean_something) {
    uint64_t seed = 11;
    uint8_t bytes[256];
    for (int i = 0; i < 20000; i++) {
        size_t n = rng_below(&seed, sizeof bytes);
        for (size_t k = 0; k < n; k++)
            bytes[k] = (uint8_t)rng_next(&seed);
        try_both(bytes, n);
    }
    for (int type = TIER_TO_WELCOME; type <= TIER_TO_END; type++) {
        struct tier_to_child m = to_child((enum tier_to_child_type)type);
        struct tier_bytes b = tier_wire_to_child_bytes(&m);
        for (size_t bit = 0; bit < b.n * 8; bit++) {
            b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            try_both(b.data, b.n);
            b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        free(b.data);
    }
}

/* ---- bounds ---- */

#define UP_REFUSED(word, r)                                                                        \
    do {                                                                                           \
        struct tier_from_child up_ = {.protocol = 77};                                             \
        REFUSED(TIER_EPROTO, word, tier_wire_from_child((r).b, (r).n, &up_, err));                 \
        CHECK(up_.protocol == 77 && up_.owner == NULL, "the output was touched");                  \
    } while (0)
#define DOWN_REFUSED(word, r)                                                                      \
    do {                                                                                           \
        struct tier_to_child down_ = {.protocol = 77};                                             \
        REFUSED(TIER_EPROTO, word, tier_wire_to_child((r).b, (r).n, &down_, err));                 \
        CHECK(down_.protocol == 77 && down_.owner == NULL, "the output was touched");              \
    } while (0)

/* run, round and, where `text` is not NULL, a text in the field after them. */
static struct raw of_run(size_t run_bytes, uint64_t round, unsigned text_field, const char *text) {
    struct raw r = {.n = 0};
    uint8_t zeros[64] = {0};
    raw_bytes(&r, 1, zeros, run_bytes);
    if (round)
        raw_int(&r, 2, round);
    if (text)
        raw_bytes(&r, text_field, text, strlen(text));
    return r;
}

Test(tier_wire, a_kind_that_this_version_does_not_know_is_refused) {
    struct raw empty = {.n = 0}, sub = {.n = 0}, other;
    UP_REFUSED("kind", empty);
    DOWN_REFUSED("kind", empty);
    other = raw_in(60, &sub);
    UP_REFUSED("kind", other);
    DOWN_REFUSED("kind", other);
}

Test(tier_wire, a_field_that_this_version_does_not_know_is_passed_over) {
    struct raw sub = of_run(32, 5, 0, NULL);
    struct tier_to_child m;
    raw_bytes(&sub, 99, "later", 5);
    struct raw commit = raw_in(7, &sub);
    MUST(tier_wire_to_child(commit.b, commit.n, &m, err));
    CHECK(m.type == TIER_TO_COMMIT && m.round == 5 && !m.missed);
    tier_wire_to_child_release(&m);
}

Test(tier_wire, receipts_are_asked_only_where_it_is_not_known_what_counted) {
    struct raw sub = of_run(32, 5, 0, NULL);
    raw_int(&sub, 4, 1);
    DOWN_REFUSED("by_receipt", raw_in(7, &sub));
}

Test(tier_wire, a_parent_cannot_send_its_children_away_for_long) {
    struct raw sub = {.n = 0};
    raw_int(&sub, 3, TIER_RETURN_MS_MAX + 1);
    struct raw welcome = raw_in(1, &sub);
    DOWN_REFUSED("welcome.return_ms", welcome);
}

Test(tier_wire, a_round_without_a_delta_is_one_and_with_half_of_one_is_refused) {
    struct tier_to_child m = to_child(TIER_TO_ROUND), back;
    m.delta = m.delta_base = (struct tier_hash){{0}};
    struct tier_bytes b = tier_wire_to_child_bytes(&m);
    MUST(tier_wire_to_child(b.data, b.n, &back, err));
    CHECK(tier_hash_is_zero(&back.delta) && tier_hash_is_zero(&back.delta_base));
    tier_wire_to_child_release(&back);
    free(b.data);
    for (unsigned half = 5; half <= 6; half++) {
        struct raw sub = of_run(32, 1, 0, NULL);
        struct tier_hash h = hash_of("x");
        raw_bytes(&sub, 3, h.b, 32);
        raw_bytes(&sub, half, h.b, 32);
        struct raw round = raw_in(3, &sub);
        DOWN_REFUSED(half == 5 ? "round.delta_base" : "round.delta", round);
        raw_bytes(&sub, 11 - half, h.b, 31);
        struct raw other = raw_in(3, &sub);
        DOWN_REFUSED("round.delta", other);
    }
}

Test(tier_wire, hashes_of_another_length_are_refused_by_field) {
    static const size_t lengths[] = {0, 31, 33};
    for (int i = 0; i < 3; i++) {
        struct raw sub = of_run(lengths[i], 1, 0, NULL);
        struct raw answer = raw_in(2, &sub), decline = raw_in(4, &sub), progress = raw_in(5, &sub);
        UP_REFUSED("answer.run", answer);
        UP_REFUSED("decline.run", decline);
        UP_REFUSED("progress.run", progress);
        struct raw round = raw_in(3, &sub), receipt = raw_in(5, &sub);
        struct raw refusal = raw_in(6, &sub), commit = raw_in(7, &sub);
        DOWN_REFUSED("round.run", round);
        DOWN_REFUSED("receipt.run", receipt);
        DOWN_REFUSED("refusal.run", refusal);
        DOWN_REFUSED("commit.run", commit);
        struct raw bare = {.n = 0};
        raw_bytes(&bare, 1, sub.b, lengths[i]);
        struct raw end = raw_in(8, &bare), grant = raw_in(4, &bare), plan = raw_in(2, &bare);
        DOWN_REFUSED("plan.run", plan);
        DOWN_REFUSED("end.run", end);
        DOWN_REFUSED("grant.update", grant);
    }
    struct raw good = of_run(32, 1, 0, NULL);
    struct raw round = raw_in(3, &good), refusal = raw_in(6, &good), receipt = raw_in(5, &good);
    DOWN_REFUSED("round.base_model", round);
    DOWN_REFUSED("refusal.update", refusal);
    DOWN_REFUSED("receipt.update", receipt);
    struct raw bare = {.n = 0};
    raw_bytes(&bare, 1, good.b, 32);
    struct raw end = raw_in(8, &bare);
    DOWN_REFUSED("end.model", end);
}

Test(tier_wire, rounds_outside_their_bounds_are_refused) {
    static const uint64_t rounds[] = {0, TIER_ROUNDS_MAX + 1, UINT64_MAX};
    for (int i = 0; i < 3; i++) {
        struct raw sub = of_run(32, rounds[i], 0, NULL);
        struct raw decline = raw_in(4, &sub), progress = raw_in(5, &sub);
        UP_REFUSED("outside", decline);
        UP_REFUSED("outside", progress);
        for (unsigned field = 3; field <= 7; field++) {
            struct raw m = raw_in(field, &sub);
            if (field != 4) /* a grant has no round */
                DOWN_REFUSED("outside", m);
        }
    }
}

Test(tier_wire, texts_too_long_or_with_control_characters_are_refused) {
    static const char *const spoilt[] = {"two\nlines", "\x1b[2J", "del\x7f"};
    for (int i = 0; i < 4; i++) {
        const char *reason = i < 3 ? spoilt[i] : longest(TIER_REASON_LEN_MAX + 1);
        const char *word = i < 3 ? "control" : "at most";
        struct raw decline = of_run(32, 1, 3, reason), progress = of_run(32, 1, 5, reason);
        struct raw answer = of_run(32, 1, 3, reason);
        decline = raw_in(4, &decline);
        progress = raw_in(5, &progress);
        answer = raw_in(2, &answer);
        UP_REFUSED(word, decline);
        UP_REFUSED(word, progress);
        UP_REFUSED(word, answer);
        const char *name = i < 3 ? spoilt[i] : longest(TIER_NAME_LEN_MAX + 1);
        struct raw sub = {.n = 0};
        raw_bytes(&sub, 2, name, strlen(name));
        struct raw hello = raw_in(1, &sub), welcome = raw_in(1, &sub);
        UP_REFUSED("hello.name", hello);
        DOWN_REFUSED("welcome.name", welcome);
        sub.n = 0;
        raw_bytes(&sub, 3, name, strlen(name));
        hello = raw_in(1, &sub);
        UP_REFUSED("hello.software", hello);
    }
}

Test(tier_wire, reasons_and_names_in_what_a_parent_says_are_bounded_too) {
    struct tier_hash h = hash_of("x");
    const char *reason = longest(TIER_REASON_LEN_MAX + 1);
    struct raw refusal = of_run(32, 1, 4, reason), end = {.n = 0};
    raw_bytes(&refusal, 3, h.b, 32);
    refusal = raw_in(6, &refusal);
    DOWN_REFUSED("refusal.reason", refusal);
    raw_bytes(&end, 1, h.b, 32);
    raw_bytes(&end, 3, reason, strlen(reason));
    raw_bytes(&end, 4, h.b, 32);
    end = raw_in(8, &end);
    DOWN_REFUSED("end.reason", end);
    for (unsigned field = 4; field <= 5; field++) {
        struct raw receipt = of_run(32, 1, field, longest(TIER_NAME_LEN_MAX + 1));
        raw_bytes(&receipt, 3, h.b, 32);
        receipt = raw_in(5, &receipt);
        DOWN_REFUSED(field == 4 ? "receipt.child" : "receipt.parent", receipt);
    }
}

Test(tier_wire, offers_and_plans_are_bounded_at_both_ends) {
    uint8_t *large = calloc(1, TIER_PLAN_BYTES_MAX + 1);
    struct tier_from_child offer = {.type = TIER_FROM_OFFER, .header = large}, up;
    struct tier_to_child plan = to_child(TIER_TO_PLAN), down;
    struct {
        size_t header, plan;
        bool fits;
    } cases[] = {{0, 0, false},
                 {1, 1, true},
                 {TIER_UPDATE_HEADER_BYTES_MAX, TIER_PLAN_BYTES_MAX, true},
                 {TIER_UPDATE_HEADER_BYTES_MAX + 1, TIER_PLAN_BYTES_MAX + 1, false}};
    plan.plan = large;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        offer.header_bytes = cases[i].header;
        plan.plan_bytes = cases[i].plan;
        struct tier_bytes b = tier_wire_from_child_bytes(&offer);
        struct tier_bytes d = tier_wire_to_child_bytes(&plan);
        if (cases[i].fits) {
            MUST(tier_wire_from_child(b.data, b.n, &up, err));
            MUST(tier_wire_to_child(d.data, d.n, &down, err));
            CHECK(up.header_bytes == cases[i].header && down.plan_bytes == cases[i].plan);
            tier_wire_from_child_release(&up);
            tier_wire_to_child_release(&down);
        } else {
            REFUSED(TIER_EPROTO, "offer.header", tier_wire_from_child(b.data, b.n, &up, err));
            REFUSED(TIER_EPROTO, "plan.plan", tier_wire_to_child(d.data, d.n, &down, err));
        }
        free(b.data);
        free(d.data);
    }
    free(large);
}

/* ---- receipts ---- */

Test(tier_wire, a_receipt_comes_back_as_it_was_and_its_bounds_hold) {
    struct tier_receipt r = to_child(TIER_TO_RECEIPT).receipt, back;
    struct tier_bytes b = tier_wire_receipt_bytes(&r);
    MUST(tier_wire_receipt(b.data, b.n, &back, err));
    same_receipt(&back, &r);
    for (size_t n = 0; n < b.n; n++) {
        /* A receipt without its last field is one that is not signed: for the reader to judge. */
        enum tier_status st = tier_wire_receipt(b.data, n, &back, NULL);
        CHECK(st == TIER_EPROTO || back.signature_bytes == 0, "at %zu", n);
    }
    free(b.data);

    r.weight = TIER_WEIGHT_TOTAL_MAX + 1;
    b = tier_wire_receipt_bytes(&r);
    REFUSED(TIER_EPROTO, "receipt.weight", tier_wire_receipt(b.data, b.n, &back, err));
    free(b.data);

    r.weight = 7;
    for (uint64_t counted = 0; counted <= r.round + 1; counted++) {
        r.counted = counted;
        b = tier_wire_receipt_bytes(&r);
        if (counted == 0 || counted >= r.round) {
            MUST(tier_wire_receipt(b.data, b.n, &back, err));
            CHECK(back.counted == counted);
        } else {
            REFUSED(TIER_EPROTO, "receipt.counted", tier_wire_receipt(b.data, b.n, &back, err));
        }
        free(b.data);
    }

    uint8_t signature[81] = {0};
    struct raw raw = of_run(32, 1, 0, NULL);
    raw_bytes(&raw, 3, r.update.b, 32);
    raw_bytes(&raw, 8, signature, sizeof signature);
    REFUSED(TIER_EPROTO, "receipt.signature", tier_wire_receipt(raw.b, raw.n, &back, err));
}

Test(tier_wire, what_a_receipt_signs_names_every_field) {
    struct tier_receipt r = to_child(TIER_TO_RECEIPT).receipt;
    char text[512], other[512];
    size_t n = tier_receipt_text(&r, text, sizeof text);
    CHECK(n > 0 && n == strlen(text));
    CHECK(strstr(text, "\nround 9\n") && strstr(text, "\nchild north-1\nparent north\n"));
    CHECK(strstr(text, "\nweight 4294967296\ntime_ms -5\n") != NULL);
    CHECK(tier_receipt_text(&r, other, n) == 0, "cut texts are not signed");
    for (int field = 0; field < 8; field++) {
        struct tier_receipt changed = r;
        changed.run.b[0] ^= field == 0;
        changed.round += field == 1;
        changed.update.b[31] ^= field == 2;
        changed.child[0] = field == 3 ? 'x' : changed.child[0];
        changed.parent[0] = field == 4 ? 'x' : changed.parent[0];
        changed.weight -= field == 5;
        changed.time_ms += field == 6;
        changed.counted += field == 7 ? 9 : 0;
        CHECK(tier_receipt_text(&changed, other, sizeof other) > 0);
        CHECK(strcmp(text, other) != 0, "field %d is not covered", field);
    }
}

/* ---- pieces ---- */

static enum tier_status piece_of(const uint8_t *message, size_t n, struct tier_piece *out,
                                 size_t *at, struct tier_err *err) {
    size_t head = n < TIER_PIECE_PREFIX_MAX ? n : TIER_PIECE_PREFIX_MAX;
    uint8_t *exact = calloc(1, head ? head : 1);
    memcpy(exact, message, head);
    enum tier_status st = tier_wire_piece(exact, head, n, out, at, err);
    free(exact);
    return st;
}

Test(tier_wire, a_piece_is_read_from_its_first_bytes) {
    struct tier_piece pieces[] = {
        {.id = hash_of("id"),
         .offset = UINT64_MAX,
         .total = UINT64_MAX,
         .data_bytes = TIER_CHUNK_BYTES},
        {.id = hash_of("id"), .total = 3, .data_bytes = 3},
        {.offset = TIER_CHUNK_BYTES, .data_bytes = 1},
        {.data_bytes = 0},
        {.total = 1, .data_bytes = 0},
    };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        uint8_t *message = calloc(1, TIER_PIECE_PREFIX_MAX + TIER_CHUNK_BYTES);
        struct tier_piece back;
        size_t at = 0, n = tier_wire_piece_prefix(&pieces[i], message);
        CHECK(n <= TIER_PIECE_PREFIX_MAX);
        MUST(piece_of(message, n + pieces[i].data_bytes, &back, &at, err));
        CHECK(at == n && back.offset == pieces[i].offset && back.total == pieces[i].total);
        CHECK(back.data_bytes == pieces[i].data_bytes);
        CHECK(tier_hash_equal(&back.id, &pieces[i].id));
        if (pieces[i].data_bytes) {
            REFUSED(TIER_EPROTO, "says it carries",
                    piece_of(message, n + pieces[i].data_bytes - 1, &back, &at, err));
            REFUSED(TIER_EPROTO, "says it carries",
                    piece_of(message, n + pieces[i].data_bytes + 1, &back, &at, err));
        }
        free(message);
    }
}

Test(tier_wire, an_empty_message_is_an_empty_piece) {
    struct tier_piece back = {.data_bytes = 9};
    size_t at = 9;
    MUST(piece_of((const uint8_t *)"", 0, &back, &at, err));
    CHECK(at == 0 && back.data_bytes == 0 && tier_hash_is_zero(&back.id));
}

Test(tier_wire, pieces_that_are_too_large_or_malformed_are_refused) {
    uint8_t *message = calloc(1, TIER_PIECE_PREFIX_MAX + TIER_CHUNK_BYTES + 1);
    struct tier_piece piece = {.data_bytes = TIER_CHUNK_BYTES + 1}, back;
    size_t at = 0, n = tier_wire_piece_prefix(&piece, message);
    REFUSED(TIER_EPROTO, "allowed", piece_of(message, n + piece.data_bytes, &back, &at, err));

    static const struct {
        uint8_t b[16];
        size_t n;
    } bad[] = {
        {{0x0a, 31}, 2},                                                /* an id of 31 bytes */
        {{0x0a, 32, 1, 2}, 4},                                          /* an id that is cut */
        {{0x10}, 1},                                                    /* offset without a value */
        {{0x10, 0x80}, 2},                                              /* a varint that is cut */
        {{0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2}, 11},   /* beyond 64 bits */
        {{0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}, 11}, /* no end */
        {{0x12, 0}, 2},                                                 /* offset as bytes */
        {{0x20, 0}, 2},                                                 /* an unknown field */
        {{0x7a, 0, 0}, 3},                                              /* bytes after the data */
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(piece_of(bad[i].b, bad[i].n, &back, &at, NULL) == TIER_EPROTO, "case %zu", i);
    free(message);
}

Test(tier_wire, a_piece_whose_data_begin_beyond_its_first_bytes_is_refused) {
    struct raw r = {.n = 0};
    struct tier_piece back;
    size_t at;
    for (int i = 0; i < 40; i++)
        raw_int(&r, 2, 1); /* the same field again and again */
    raw_bytes(&r, 15, "data", 4);
    CHECK(r.n > TIER_PIECE_PREFIX_MAX);
    REFUSED(TIER_EPROTO, "cannot be read", piece_of(r.b, r.n, &back, &at, err));
}

Test(tier_wire, random_pieces_never_point_outside_their_message) {
    uint64_t seed = 5;
    uint8_t bytes[96];
    for (int i = 0; i < 50000; i++) {
        struct tier_piece back;
        size_t n = rng_below(&seed, sizeof bytes), at = 0;
        for (size_t k = 0; k < n; k++)
            bytes[k] = rng_below(&seed, 3) ? (uint8_t)rng_next(&seed)
                                           : "\x0a\x10\x18\x7a\x20"[rng_below(&seed, 5)];
        if (piece_of(bytes, n, &back, &at, NULL) == TIER_OK)
            CHECK(at <= n && at + back.data_bytes == n);
    }
}

/* ---- fetch and enrollment ---- */

Test(tier_wire, a_fetch_request_comes_back_as_it_was_and_needs_its_hash) {
    struct tier_fetch_request m = {.sha256 = hash_of("file"), .offset = UINT64_MAX}, back;
    struct tier_bytes b = tier_wire_fetch_request_bytes(&m);
    MUST(tier_wire_fetch_request(b.data, b.n, &back, err));
    CHECK(tier_hash_equal(&m.sha256, &back.sha256) && back.offset == m.offset);
    for (size_t n = 0; n < 34; n++)
        CHECK(tier_wire_fetch_request(b.data, n, &back, NULL) == TIER_EPROTO);
    free(b.data);
    struct raw short_hash = {.n = 0};
    raw_bytes(&short_hash, 1, m.sha256.b, 31);
    REFUSED(TIER_EPROTO, "fetch.sha256",
            tier_wire_fetch_request(short_hash.b, short_hash.n, &back, err));
}

Test(tier_wire, enrollment_comes_back_as_it_was_and_is_bounded) {
    char *one = NULL, *two = NULL;
    char *token = strdup(longest(TIER_TOKEN_SIZE - 1)), *pem = strdup(longest(TIER_PEM_BYTES_MAX));
    struct tier_bytes b = tier_wire_enroll_request_bytes(token, pem);
    MUST(tier_wire_enroll_request(b.data, b.n, &one, &two, err));
    cr_assert(eq(str, one, token));
    cr_assert(eq(str, two, pem));
    free(one), free(two);
    one = two = NULL;
    REFUSED(TIER_EPROTO, "protobuf", tier_wire_enroll_request(b.data, b.n - 1, &one, &two, err));
    free(b.data);
    b = tier_wire_enroll_reply_bytes(pem, "");
    MUST(tier_wire_enroll_reply(b.data, b.n, &one, &two, err));
    cr_assert(eq(str, one, pem));
    cr_assert(eq(str, two, ""));
    free(one), free(two);
    free(b.data);

    one = two = NULL;
    b = tier_wire_enroll_request_bytes(longest(TIER_TOKEN_SIZE), pem);
    REFUSED(TIER_EPROTO, "enroll.token", tier_wire_enroll_request(b.data, b.n, &one, &two, err));
    free(b.data);
    b = tier_wire_enroll_request_bytes(token, longest(TIER_PEM_BYTES_MAX + 1));
    REFUSED(TIER_EPROTO, "enroll.csr_pem", tier_wire_enroll_request(b.data, b.n, &one, &two, err));
    free(b.data);
    b = tier_wire_enroll_reply_bytes(pem, longest(TIER_PEM_BYTES_MAX + 1));
    REFUSED(TIER_EPROTO, "enroll.ca_pem", tier_wire_enroll_reply(b.data, b.n, &one, &two, err));
    free(b.data);
    b = tier_wire_enroll_reply_bytes(longest(TIER_PEM_BYTES_MAX + 1), "");
    REFUSED(TIER_EPROTO, "enroll.cert_pem", tier_wire_enroll_reply(b.data, b.n, &one, &two, err));
    free(b.data);
    CHECK(!one && !two, "the outputs were touched");
    free(token);
    free(pem);
}

Test(tier_wire, a_renewal_comes_back_as_it_was_and_has_bounds) {
    static char longest[TIER_PEM_BYTES_MAX + 2];
    struct tier_renew_request m = {.cert_pem = "cert", .csr_pem = longest}, back;
    memset(longest, 'x', TIER_PEM_BYTES_MAX);
    m.signature_bytes = sizeof m.signature;
    memset(m.signature, 0x5a, sizeof m.signature);
    struct tier_bytes b = tier_wire_renew_request_bytes(&m);
    CHECK(b.n <= TIER_RENEW_BYTES_MAX);
    MUST(tier_wire_renew_request(b.data, b.n, &back, err));
    cr_assert(eq(str, back.cert_pem, "cert"));
    cr_assert(eq(str, back.csr_pem, longest));
    same_blob(back.signature, back.signature_bytes, m.signature, m.signature_bytes);
    tier_wire_renew_request_release(&back);
    tier_wire_renew_request_release(&back);
    REFUSED(TIER_EPROTO, "a renewal request", tier_wire_renew_request(b.data, 3, &back, err));
    free(b.data);
    m.signature_bytes = 0;
    b = tier_wire_renew_request_bytes(&m);
    REFUSED(TIER_EPROTO, "renew.signature has 0", tier_wire_renew_request(b.data, b.n, &back, err));
    free(b.data);
    m.signature_bytes = 1;
    longest[TIER_PEM_BYTES_MAX] = 'x';
    b = tier_wire_renew_request_bytes(&m);
    REFUSED(TIER_EPROTO, "renew.csr_pem has 16385",
            tier_wire_renew_request(b.data, b.n, &back, err));
    free(b.data);
}

Test(tier_wire, a_question_for_a_pseudonym_comes_back_as_it_was_and_has_bounds) {
    struct tier_pseudonym_ask m = {.cert_pem = "cert", .csr_pem = "csr", .run = {{7}}}, back;
    snprintf(m.parent, sizeof m.parent, "north");
    m.signature_bytes = sizeof m.signature;
    memset(m.signature, 0x5a, sizeof m.signature);
    struct tier_bytes b = tier_wire_pseudonym_bytes(&m);
    CHECK(b.n <= TIER_RENEW_BYTES_MAX);
    MUST(tier_wire_pseudonym(b.data, b.n, &back, err));
    cr_assert(eq(str, back.cert_pem, "cert"));
    cr_assert(eq(str, back.csr_pem, "csr"));
    cr_assert(eq(str, back.parent, "north"));
    CHECK(tier_hash_equal(&back.run, &m.run));
    same_blob(back.signature, back.signature_bytes, m.signature, m.signature_bytes);
    tier_pseudonym_ask_release(&back);
    REFUSED(TIER_EPROTO, "a request for a pseudonym", tier_wire_pseudonym(b.data, 3, &back, err));
    /* Without its run, which is the third field: 0x1a and 32 bytes. */
    uint8_t *run = memmem(b.data, b.n, "\x1a\x20\x07", 3);
    CHECK(run != NULL);
    memmove(run, run + 34, b.n - (size_t)(run - b.data) - 34);
    REFUSED(TIER_EPROTO, "pseudonym.run", tier_wire_pseudonym(b.data, b.n - 34, &back, err));
    free(b.data);
    m.signature_bytes = 0;
    b = tier_wire_pseudonym_bytes(&m);
    REFUSED(TIER_EPROTO, "pseudonym.signature has 0", tier_wire_pseudonym(b.data, b.n, &back, err));
    free(b.data);
}

Test(tier_wire, a_revocation_list_has_one_byte_at_least_and_a_mebibyte_at_most) {
    uint8_t *most = calloc(1, TIER_REVOCATIONS_BYTES_MAX + 1);
    struct tier_to_child m = {.type = TIER_TO_REVOCATIONS, .crl = most}, back;
    for (size_t n = TIER_REVOCATIONS_BYTES_MAX; n <= TIER_REVOCATIONS_BYTES_MAX + 1; n++) {
        m.crl_bytes = n;
        struct tier_bytes b = tier_wire_to_child_bytes(&m);
        CHECK(b.n <= TIER_CONTROL_BYTES_MAX);
        if (n == TIER_REVOCATIONS_BYTES_MAX) {
            MUST(tier_wire_to_child(b.data, b.n, &back, err));
            tier_wire_to_child_release(&back);
        } else {
            REFUSED(TIER_EPROTO, "revocations.crl has 1048577",
                    tier_wire_to_child(b.data, b.n, &back, err));
        }
        free(b.data);
    }
    m.crl_bytes = 0;
    struct tier_bytes b = tier_wire_to_child_bytes(&m);
    REFUSED(TIER_EPROTO, "revocations.crl has 0", tier_wire_to_child(b.data, b.n, &back, err));
    free(b.data);
    free(most);
}
