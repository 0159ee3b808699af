/* SPDX-License-Identifier: Apache-2.0 */
/*
 * protobuf-c allocates what a message says it needs, but never more than the message is long, and
 * messages are bounded before they come here; what is left to check is each field's own bound.
 */
#include "tier/wire.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/wire_field.h"
#include "tier/wire_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum tier_status take_round(uint64_t in, uint64_t *out, struct tier_err *err) {
    if (in == 0 || in > TIER_ROUNDS_MAX)
        return tier_fail(err, TIER_EPROTO, "round %" PRIu64 " is outside 1..%d", in,
                         TIER_ROUNDS_MAX);
    *out = in;
    return TIER_OK;
}

/* ---- secure sums ---- */

/* protobuf-c has not allocated more than the message is long: what a step may hold is less. */
static enum tier_status take_secure(const Consilium__Secure *p, bool of_child,
                                    struct tier_hash *run, uint64_t *round,
                                    struct tier_secure_body *out, struct tier_err *err) {
    enum tier_mask_step step = p->step <= TIER_MASK_STEPS ? (enum tier_mask_step)p->step : 0;

    TIER_TRY(tier_wire_hash("secure.run", p->run, run, err));
    TIER_TRY(take_round(p->round, round, err));
    if (step == 0 || tier_mask_step_is_childs(step) != of_child)
        return tier_fail(err, TIER_EPROTO, "secure.step is %u, which is not a %s to say", p->step,
                         of_child ? "child's" : "parent's");
    if (p->body.len == 0 || p->body.len > tier_mask_body_max(step))
        return tier_fail(err, TIER_EPROTO,
                         "secure.body has %zu bytes; of step '%s' 1 to %zu are allowed",
                         p->body.len, tier_mask_step_text(step), tier_mask_body_max(step));
    *out = (struct tier_secure_body){.step = step, .data = p->body.data, .bytes = p->body.len};
    return TIER_OK;
}

static void give_secure(const struct tier_hash *run, uint64_t round,
                        const struct tier_secure_body *body, Consilium__Secure *p) {
    p->run = tier_wire_hash_field(run);
    p->round = round;
    p->step = body->step;
    p->body = (ProtobufCBinaryData){body->bytes, (uint8_t *)body->data};
}

/* ---- child to parent ---- */

static enum tier_status take_from_child(const Consilium__FromChild *p, struct tier_from_child *m,
                                        struct tier_err *err) {
    switch (p->message_case) {
    case CONSILIUM__FROM_CHILD__MESSAGE_HELLO:
        m->type = TIER_FROM_HELLO;
        m->protocol = p->hello->protocol;
        TIER_TRY(tier_wire_text("hello.name", p->hello->name, m->name, sizeof m->name, err));
        return tier_wire_text("hello.software", p->hello->software, m->software, sizeof m->software,
                              err);
    case CONSILIUM__FROM_CHILD__MESSAGE_ANSWER:
        m->type = TIER_FROM_ANSWER;
        m->accepted = p->answer->accepted;
        m->waiting = p->answer->waiting;
        TIER_TRY(tier_wire_hash("answer.run", p->answer->run, &m->run, err));
        return tier_wire_text("answer.reason", p->answer->reason, m->reason, sizeof m->reason, err);
    case CONSILIUM__FROM_CHILD__MESSAGE_OFFER:
        m->type = TIER_FROM_OFFER;
        if (p->offer->header.len == 0 || p->offer->header.len > TIER_UPDATE_HEADER_BYTES_MAX)
            return tier_fail(err, TIER_EPROTO, "offer.header has %zu bytes, 1 to %u are allowed",
                             p->offer->header.len, TIER_UPDATE_HEADER_BYTES_MAX);
        m->header = p->offer->header.data;
        m->header_bytes = p->offer->header.len;
        return TIER_OK;
    case CONSILIUM__FROM_CHILD__MESSAGE_DECLINE:
        m->type = TIER_FROM_DECLINE;
        TIER_TRY(tier_wire_hash("decline.run", p->decline->run, &m->run, err));
        TIER_TRY(take_round(p->decline->round, &m->round, err));
        return tier_wire_text("decline.reason", p->decline->reason, m->reason, sizeof m->reason,
                              err);
    case CONSILIUM__FROM_CHILD__MESSAGE_PROGRESS:
        m->type = TIER_FROM_PROGRESS;
        m->done = p->progress->done;
        m->total = p->progress->total;
        TIER_TRY(tier_wire_hash("progress.run", p->progress->run, &m->run, err));
        TIER_TRY(take_round(p->progress->round, &m->round, err));
        return tier_wire_text("progress.phase", p->progress->phase, m->reason, sizeof m->reason,
                              err);
    case CONSILIUM__FROM_CHILD__MESSAGE_HEAD:
        m->type = TIER_FROM_HEAD;
        return tier_wire_take_head(p->head, &m->head, err);
    case CONSILIUM__FROM_CHILD__MESSAGE_SECURE:
        m->type = TIER_FROM_SECURE;
        return take_secure(p->secure, true, &m->run, &m->round, &m->secure, err);
    case CONSILIUM__FROM_CHILD__MESSAGE_WITHDRAW:
        m->type = TIER_FROM_WITHDRAW;
        TIER_TRY(tier_wire_hash("withdraw.run", p->withdraw->run, &m->run, err));
        TIER_TRY(take_round(p->withdraw->round, &m->round, err));
        TIER_TRY(tier_wire_hash("withdraw.update", p->withdraw->update, &m->update, err));
        return tier_wire_text("withdraw.reason", p->withdraw->reason, m->reason, sizeof m->reason,
                              err);
    case CONSILIUM__FROM_CHILD__MESSAGE_QUOTE:
        return tier_wire_take_quote(p->quote, m, err);
    default:
        return tier_fail(err, TIER_EPROTO, "a message of a kind this version does not know");
    }
}

enum tier_status tier_wire_from_child(const uint8_t *bytes, size_t n, struct tier_from_child *out,
                                      struct tier_err *err) {
    struct tier_from_child m = {0};
    Consilium__FromChild *p = consilium__from_child__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a message from a child", n, err);
    enum tier_status st = take_from_child(p, &m, err);
    m.owner = p;
    if (st == TIER_OK)
        *out = m;
    else
        tier_wire_from_child_release(&m);
    return st;
}

void tier_wire_from_child_release(struct tier_from_child *m) {
    if (m->owner)
        consilium__from_child__free_unpacked(m->owner, NULL);
    m->owner = NULL;
}

struct tier_bytes tier_wire_from_child_bytes(const struct tier_from_child *m) {
    Consilium__FromChild p = CONSILIUM__FROM_CHILD__INIT;
    Consilium__Hello hello = CONSILIUM__HELLO__INIT;
    Consilium__Answer answer = CONSILIUM__ANSWER__INIT;
    Consilium__Offer offer = CONSILIUM__OFFER__INIT;
    Consilium__Decline decline = CONSILIUM__DECLINE__INIT;
    Consilium__Progress progress = CONSILIUM__PROGRESS__INIT;
    Consilium__Head head = CONSILIUM__HEAD__INIT;
    ProtobufCBinaryData proof[TIER_TREE_PROOF_MAX];
    Consilium__Withdraw withdraw = CONSILIUM__WITHDRAW__INIT;
    Consilium__Quote quote = CONSILIUM__QUOTE__INIT;
    Consilium__Secure secure = CONSILIUM__SECURE__INIT;

    p.message_case = (Consilium__FromChild__MessageCase)m->type;
    switch (m->type) {
    case TIER_FROM_HELLO:
        hello.protocol = m->protocol;
        hello.name = (char *)m->name;
        hello.software = (char *)m->software;
        p.hello = &hello;
        break;
    case TIER_FROM_ANSWER:
        answer.run = tier_wire_hash_field(&m->run);
        answer.accepted = m->accepted;
        answer.waiting = m->waiting;
        answer.reason = (char *)m->reason;
        p.answer = &answer;
        break;
    case TIER_FROM_OFFER:
        offer.header = (ProtobufCBinaryData){m->header_bytes, (uint8_t *)m->header};
        p.offer = &offer;
        break;
    case TIER_FROM_DECLINE:
        decline.run = tier_wire_hash_field(&m->run);
        decline.round = m->round;
        decline.reason = (char *)m->reason;
        p.decline = &decline;
        break;
    case TIER_FROM_PROGRESS:
        progress.run = tier_wire_hash_field(&m->run);
        progress.round = m->round;
        progress.done = m->done;
        progress.total = m->total;
        progress.phase = (char *)m->reason;
        p.progress = &progress;
        break;
    case TIER_FROM_HEAD:
        tier_wire_give_head(&m->head, &head, proof);
        p.head = &head;
        break;
    case TIER_FROM_SECURE:
        give_secure(&m->run, m->round, &m->secure, &secure);
        p.secure = &secure;
        break;
    case TIER_FROM_WITHDRAW:
        withdraw.run = tier_wire_hash_field(&m->run);
        withdraw.round = m->round;
        withdraw.update = tier_wire_hash_field(&m->update);
        withdraw.reason = (char *)m->reason;
        p.withdraw = &withdraw;
        break;
    case TIER_FROM_QUOTE:
        tier_wire_give_quote(m, &quote);
        p.quote = &quote;
        break;
    }
    return tier_wire_pack(&p.base);
}

/* ---- receipts ---- */

static enum tier_status take_receipt(const Consilium__Receipt *p, struct tier_receipt *r,
                                     struct tier_err *err) {
    TIER_TRY(tier_wire_hash("receipt.run", p->run, &r->run, err));
    TIER_TRY(take_round(p->round, &r->round, err));
    TIER_TRY(tier_wire_hash("receipt.update", p->update, &r->update, err));
    TIER_TRY(tier_wire_text("receipt.child", p->child, r->child, sizeof r->child, err));
    TIER_TRY(tier_wire_text("receipt.parent", p->parent, r->parent, sizeof r->parent, err));
    if (p->weight > TIER_WEIGHT_TOTAL_MAX)
        return tier_fail(err, TIER_EPROTO, "receipt.weight is above 2^32");
    if (p->signature.len > sizeof r->signature)
        return tier_fail(err, TIER_EPROTO, "receipt.signature has %zu bytes, at most %zu",
                         p->signature.len, sizeof r->signature);
    if (p->counted && (p->counted < p->round || p->counted > TIER_ROUNDS_MAX))
        return tier_fail(err, TIER_EPROTO, "receipt.counted is not a round from receipt.round on");
    r->weight = p->weight;
    r->counted = p->counted;
    r->time_ms = p->time_ms;
    r->signature_bytes = p->signature.len;
    if (p->signature.len)
        memcpy(r->signature, p->signature.data, p->signature.len);
    return TIER_OK;
}

static void give_receipt(const struct tier_receipt *r, Consilium__Receipt *p) {
    p->run = tier_wire_hash_field(&r->run);
    p->round = r->round;
    p->update = tier_wire_hash_field(&r->update);
    p->child = (char *)r->child;
    p->parent = (char *)r->parent;
    p->weight = r->weight;
    p->counted = r->counted;
    p->time_ms = r->time_ms;
    p->signature = (ProtobufCBinaryData){r->signature_bytes, (uint8_t *)r->signature};
}

enum tier_status tier_wire_receipt(const uint8_t *bytes, size_t n, struct tier_receipt *out,
                                   struct tier_err *err) {
    struct tier_receipt r = {0};
    Consilium__Receipt *p = consilium__receipt__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a receipt", n, err);
    enum tier_status st = take_receipt(p, &r, err);
    consilium__receipt__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    return st;
}

struct tier_bytes tier_wire_receipt_bytes(const struct tier_receipt *r) {
    Consilium__Receipt p = CONSILIUM__RECEIPT__INIT;
    give_receipt(r, &p);
    return tier_wire_pack(&p.base);
}

size_t tier_receipt_text(const struct tier_receipt *r, char *text, size_t size) {
    char run[TIER_HASH_HEX], update[TIER_HASH_HEX], counted[40] = "";
    if (r->counted)
        snprintf(counted, sizeof counted, "counted %" PRIu64 "\n", r->counted);
    int n =
        snprintf(text, size,
                 "consilium receipt 1\nrun %s\nround %" PRIu64
                 "\nupdate %s\nchild %s\nparent %s\nweight %" PRIu64 "\ntime_ms %" PRId64 "\n%s",
                 tier_hash_hex(&r->run, run), r->round, tier_hash_hex(&r->update, update), r->child,
                 r->parent, r->weight, r->time_ms, counted);
    return n < 0 || (size_t)n >= size ? 0 : (size_t)n;
}

/* ---- parent to child ---- */

static enum tier_status take_round_message(const Consilium__Round *p, struct tier_to_child *m,
                                           struct tier_err *err) {
    m->type = TIER_TO_ROUND;
    m->deadline_ms = p->deadline_ms;
    TIER_TRY(tier_wire_hash("round.run", p->run, &m->run, err));
    TIER_TRY(take_round(p->round, &m->round, err));
    TIER_TRY(tier_wire_hash("round.base_model", p->base_model, &m->model, err));
    if (p->delta.len == 0 && p->delta_base.len == 0)
        return TIER_OK;
    TIER_TRY(tier_wire_hash("round.delta", p->delta, &m->delta, err));
    return tier_wire_hash("round.delta_base", p->delta_base, &m->delta_base, err);
}

static enum tier_status take_plan(const Consilium__Plan *p, struct tier_to_child *m,
                                  struct tier_err *err) {
    m->type = TIER_TO_PLAN;
    TIER_TRY(tier_wire_hash("plan.run", p->run, &m->run, err));
    if (p->plan.len == 0 || p->plan.len > TIER_PLAN_BYTES_MAX)
        return tier_fail(err, TIER_EPROTO, "plan.plan has %zu bytes, 1 to %u are allowed",
                         p->plan.len, TIER_PLAN_BYTES_MAX);
    if (p->signature.len > TIER_SIGNED_BYTES_MAX)
        return tier_fail(err, TIER_EPROTO, "plan.signature has %zu bytes, at most %u are allowed",
                         p->signature.len, TIER_SIGNED_BYTES_MAX);
    m->plan = p->plan.data;
    m->plan_bytes = p->plan.len;
    m->signature = p->signature.data;
    m->signature_bytes = p->signature.len;
    return TIER_OK;
}

static enum tier_status take_refusal(const Consilium__Refusal *p, struct tier_to_child *m,
                                     struct tier_err *err) {
    m->type = TIER_TO_REFUSAL;
    TIER_TRY(tier_wire_hash("refusal.run", p->run, &m->run, err));
    TIER_TRY(take_round(p->round, &m->round, err));
    TIER_TRY(tier_wire_hash("refusal.update", p->update, &m->update, err));
    m->withdrawn = p->withdrawn;
    return tier_wire_text("refusal.reason", p->reason, m->reason, sizeof m->reason, err);
}

static enum tier_status take_end(const Consilium__End *p, struct tier_to_child *m,
                                 struct tier_err *err) {
    m->type = TIER_TO_END;
    m->completed = p->completed;
    TIER_TRY(tier_wire_hash("end.run", p->run, &m->run, err));
    TIER_TRY(tier_wire_hash("end.model", p->model, &m->model, err));
    return tier_wire_text("end.reason", p->reason, m->reason, sizeof m->reason, err);
}

static enum tier_status take_revocations(const Consilium__Revocations *p, struct tier_to_child *m,
                                         struct tier_err *err) {
    m->type = TIER_TO_REVOCATIONS;
    if (p->crl.len == 0 || p->crl.len > TIER_REVOCATIONS_BYTES_MAX)
        return tier_fail(err, TIER_EPROTO, "revocations.crl has %zu bytes, 1 to %u are allowed",
                         p->crl.len, TIER_REVOCATIONS_BYTES_MAX);
    m->crl = p->crl.data;
    m->crl_bytes = p->crl.len;
    return TIER_OK;
}

static enum tier_status take_to_child(const Consilium__ToChild *p, struct tier_to_child *m,
                                      struct tier_err *err) {
    switch (p->message_case) {
    case CONSILIUM__TO_CHILD__MESSAGE_WELCOME:
        m->type = TIER_TO_WELCOME;
        m->protocol = p->welcome->protocol;
        m->return_ms = p->welcome->return_ms;
        if (m->return_ms > TIER_RETURN_MS_MAX)
            return tier_fail(err, TIER_EPROTO, "welcome.return_ms is %u, at most %u", m->return_ms,
                             TIER_RETURN_MS_MAX);
        return tier_wire_text("welcome.name", p->welcome->name, m->name, sizeof m->name, err);
    case CONSILIUM__TO_CHILD__MESSAGE_PLAN:
        return take_plan(p->plan, m, err);
    case CONSILIUM__TO_CHILD__MESSAGE_ROUND:
        return take_round_message(p->round, m, err);
    case CONSILIUM__TO_CHILD__MESSAGE_GRANT:
        m->type = TIER_TO_GRANT;
        m->offset = p->grant->offset;
        return tier_wire_hash("grant.update", p->grant->update, &m->update, err);
    case CONSILIUM__TO_CHILD__MESSAGE_RECEIPT:
        m->type = TIER_TO_RECEIPT;
        return take_receipt(p->receipt, &m->receipt, err);
    case CONSILIUM__TO_CHILD__MESSAGE_REFUSAL:
        return take_refusal(p->refusal, m, err);
    case CONSILIUM__TO_CHILD__MESSAGE_COMMIT:
        m->type = TIER_TO_COMMIT;
        m->missed = p->commit->missed;
        m->by_receipt = p->commit->by_receipt;
        if (m->by_receipt && !m->missed)
            return tier_fail(err, TIER_EPROTO, "commit.by_receipt goes with commit.missed alone");
        TIER_TRY(tier_wire_hash("commit.run", p->commit->run, &m->run, err));
        return take_round(p->commit->round, &m->round, err);
    case CONSILIUM__TO_CHILD__MESSAGE_END:
        return take_end(p->end, m, err);
    case CONSILIUM__TO_CHILD__MESSAGE_HEAD:
        m->type = TIER_TO_HEAD;
        return tier_wire_take_head(p->head, &m->head, err);
    case CONSILIUM__TO_CHILD__MESSAGE_SECURE:
        m->type = TIER_TO_SECURE;
        return take_secure(p->secure, false, &m->run, &m->round, &m->secure, err);
    case CONSILIUM__TO_CHILD__MESSAGE_CHALLENGE:
        return tier_wire_take_challenge(p->challenge, m, err);
    case CONSILIUM__TO_CHILD__MESSAGE_REVOCATIONS:
        return take_revocations(p->revocations, m, err);
    default:
        return tier_fail(err, TIER_EPROTO, "a message of a kind this version does not know");
    }
}

enum tier_status tier_wire_to_child(const uint8_t *bytes, size_t n, struct tier_to_child *out,
                                    struct tier_err *err) {
    struct tier_to_child m = {0};
    Consilium__ToChild *p = consilium__to_child__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a message from the parent", n, err);
    enum tier_status st = take_to_child(p, &m, err);
    m.owner = p;
    if (st == TIER_OK)
        *out = m;
    else
        tier_wire_to_child_release(&m);
    return st;
}

void tier_wire_to_child_release(struct tier_to_child *m) {
    if (m->owner)
        consilium__to_child__free_unpacked(m->owner, NULL);
    m->owner = NULL;
}

struct tier_bytes tier_wire_to_child_bytes(const struct tier_to_child *m) {
    Consilium__ToChild p = CONSILIUM__TO_CHILD__INIT;
    Consilium__Welcome welcome = CONSILIUM__WELCOME__INIT;
    Consilium__Plan plan = CONSILIUM__PLAN__INIT;
    Consilium__Round round = CONSILIUM__ROUND__INIT;
    Consilium__Grant grant = CONSILIUM__GRANT__INIT;
    Consilium__Receipt receipt = CONSILIUM__RECEIPT__INIT;
    Consilium__Refusal refusal = CONSILIUM__REFUSAL__INIT;
    Consilium__Commit commit = CONSILIUM__COMMIT__INIT;
    Consilium__End end = CONSILIUM__END__INIT;
    Consilium__Head head = CONSILIUM__HEAD__INIT;
    ProtobufCBinaryData proof[TIER_TREE_PROOF_MAX];
    Consilium__Revocations revocations = CONSILIUM__REVOCATIONS__INIT;
    Consilium__Challenge challenge = CONSILIUM__CHALLENGE__INIT;
    Consilium__Secure secure = CONSILIUM__SECURE__INIT;

    p.message_case = (Consilium__ToChild__MessageCase)m->type;
    switch (m->type) {
    case TIER_TO_WELCOME:
        welcome.protocol = m->protocol;
        welcome.name = (char *)m->name;
        welcome.return_ms = m->return_ms;
        p.welcome = &welcome;
        break;
    case TIER_TO_PLAN:
        plan.run = tier_wire_hash_field(&m->run);
        plan.plan = (ProtobufCBinaryData){m->plan_bytes, (uint8_t *)m->plan};
        plan.signature = (ProtobufCBinaryData){m->signature_bytes, (uint8_t *)m->signature};
        p.plan = &plan;
        break;
    case TIER_TO_ROUND:
        round.run = tier_wire_hash_field(&m->run);
        round.round = m->round;
        round.base_model = tier_wire_hash_field(&m->model);
        round.deadline_ms = m->deadline_ms;
        if (!tier_hash_is_zero(&m->delta)) {
            round.delta = tier_wire_hash_field(&m->delta);
            round.delta_base = tier_wire_hash_field(&m->delta_base);
        }
        p.round = &round;
        break;
    case TIER_TO_GRANT:
        grant.update = tier_wire_hash_field(&m->update);
        grant.offset = m->offset;
        p.grant = &grant;
        break;
    case TIER_TO_RECEIPT:
        give_receipt(&m->receipt, &receipt);
        p.receipt = &receipt;
        break;
    case TIER_TO_REFUSAL:
        refusal.run = tier_wire_hash_field(&m->run);
        refusal.round = m->round;
        refusal.update = tier_wire_hash_field(&m->update);
        refusal.reason = (char *)m->reason;
        refusal.withdrawn = m->withdrawn;
        p.refusal = &refusal;
        break;
    case TIER_TO_COMMIT:
        commit.run = tier_wire_hash_field(&m->run);
        commit.round = m->round;
        commit.missed = m->missed;
        commit.by_receipt = m->by_receipt;
        p.commit = &commit;
        break;
    case TIER_TO_END:
        end.run = tier_wire_hash_field(&m->run);
        end.completed = m->completed;
        end.reason = (char *)m->reason;
        end.model = tier_wire_hash_field(&m->model);
        p.end = &end;
        break;
    case TIER_TO_HEAD:
        tier_wire_give_head(&m->head, &head, proof);
        p.head = &head;
        break;
    case TIER_TO_SECURE:
        give_secure(&m->run, m->round, &m->secure, &secure);
        p.secure = &secure;
        break;
    case TIER_TO_REVOCATIONS:
        revocations.crl = (ProtobufCBinaryData){m->crl_bytes, (uint8_t *)m->crl};
        p.revocations = &revocations;
        break;
    case TIER_TO_CHALLENGE:
        tier_wire_give_challenge(m, &challenge);
        p.challenge = &challenge;
        break;
    }
    return tier_wire_pack(&p.base);
}

/* ---- pieces ---- */

static size_t put_varint(uint8_t *out, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

static bool get_varint(const uint8_t *in, size_t n, size_t *at, uint64_t *out) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && *at < n; shift += 7) {
        uint8_t b = in[(*at)++];
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *out = v;
            return shift < 63 || b <= 1;
        }
    }
    return false;
}

/* Field numbers of message Piece, with their wire types. */
#define PIECE_ID ((1u << 3) | 2u)
#define PIECE_OFFSET (2u << 3)
#define PIECE_TOTAL (3u << 3)
#define PIECE_DATA ((15u << 3) | 2u)

size_t tier_wire_piece_prefix(const struct tier_piece *piece, uint8_t *p) {
    size_t n = 0;
    if (!tier_hash_is_zero(&piece->id)) {
        p[n++] = PIECE_ID;
        p[n++] = TIER_HASH_BYTES;
        memcpy(p + n, piece->id.b, TIER_HASH_BYTES);
        n += TIER_HASH_BYTES;
    }
    if (piece->offset) {
        p[n++] = PIECE_OFFSET;
        n += put_varint(p + n, piece->offset);
    }
    if (piece->total) {
        p[n++] = PIECE_TOTAL;
        n += put_varint(p + n, piece->total);
    }
    p[n++] = PIECE_DATA;
    n += put_varint(p + n, piece->data_bytes);
    return n;
}

static enum tier_status unreadable_piece(size_t at, struct tier_err *err) {
    return tier_fail(err, TIER_EPROTO, "a piece whose fields cannot be read at byte %zu", at);
}

enum tier_status tier_wire_piece(const uint8_t *head, size_t head_bytes, size_t message_bytes,
                                 struct tier_piece *out, size_t *data_at_out,
                                 struct tier_err *err) {
    struct tier_piece piece = {0};
    size_t at = 0;

    while (at < head_bytes) {
        uint8_t key = head[at++];
        uint64_t v;
        if (!get_varint(head, head_bytes, &at, &v))
            return unreadable_piece(at, err);
        if (key == PIECE_OFFSET) {
            piece.offset = v;
        } else if (key == PIECE_TOTAL) {
            piece.total = v;
        } else if (key == PIECE_ID && v == TIER_HASH_BYTES && head_bytes - at >= v) {
            memcpy(piece.id.b, head + at, TIER_HASH_BYTES);
            at += TIER_HASH_BYTES;
        } else if (key == PIECE_DATA) {
            if (v > TIER_CHUNK_BYTES || v != message_bytes - at)
                return tier_fail(err, TIER_EPROTO,
                                 "a piece says it carries %" PRIu64
                                 " bytes of data, holds %zu, and at most %u are allowed",
                                 v, message_bytes - at, TIER_CHUNK_BYTES);
            piece.data_bytes = (size_t)v;
            *out = piece;
            *data_at_out = at;
            return TIER_OK;
        } else {
            return unreadable_piece(at, err);
        }
    }
    if (at != message_bytes) /* the data begin beyond what may stand before them */
        return unreadable_piece(at, err);
    *out = piece; /* no data field: an empty piece */
    *data_at_out = at;
    return TIER_OK;
}

enum tier_status tier_wire_fetch_request(const uint8_t *bytes, size_t n,
                                         struct tier_fetch_request *out, struct tier_err *err) {
    struct tier_fetch_request m = {0};
    Consilium__FetchRequest *p = consilium__fetch_request__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a fetch request", n, err);
    m.offset = p->offset;
    enum tier_status st = tier_wire_hash("fetch.sha256", p->sha256, &m.sha256, err);
    consilium__fetch_request__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = m;
    return st;
}

struct tier_bytes tier_wire_fetch_request_bytes(const struct tier_fetch_request *m) {
    Consilium__FetchRequest p = CONSILIUM__FETCH_REQUEST__INIT;
    p.sha256 = tier_wire_hash_field(&m->sha256);
    p.offset = m->offset;
    return tier_wire_pack(&p.base);
}

/* ---- enrollment ---- */

static char *dup(const char *s) {
    char *copy = strdup(s);
    if (!copy)
        abort();
    return copy;
}

/* Both or neither: the caller frees what it gets. */
static enum tier_status take_two(const char *const field[2], const char *const in[2],
                                 const size_t max[2], char **first_out, char **second_out,
                                 struct tier_err *err) {
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(in[i]);
        if (n > max[i])
            return tier_fail(err, TIER_EPROTO, "%s has %zu bytes, at most %zu are allowed",
                             field[i], n, max[i]);
    }
    *first_out = dup(in[0]);
    *second_out = dup(in[1]);
    return TIER_OK;
}

enum tier_status tier_wire_enroll_request(const uint8_t *bytes, size_t n, char **token_out,
                                          char **csr_out, struct tier_err *err) {
    Consilium__EnrollRequest *p = consilium__enroll_request__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("an enrollment request", n, err);
    enum tier_status st = take_two((const char *const[]){"enroll.token", "enroll.csr_pem"},
                                   (const char *const[]){p->token, p->csr_pem},
                                   (const size_t[]){TIER_TOKEN_SIZE - 1, TIER_PEM_BYTES_MAX},
                                   token_out, csr_out, err);
    consilium__enroll_request__free_unpacked(p, NULL);
    return st;
}

struct tier_bytes tier_wire_enroll_request_bytes(const char *token, const char *csr_pem) {
    Consilium__EnrollRequest p = CONSILIUM__ENROLL_REQUEST__INIT;
    p.token = (char *)token;
    p.csr_pem = (char *)csr_pem;
    return tier_wire_pack(&p.base);
}

enum tier_status tier_wire_enroll_reply(const uint8_t *bytes, size_t n, char **cert_out,
                                        char **ca_out, struct tier_err *err) {
    Consilium__EnrollReply *p = consilium__enroll_reply__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("an enrollment reply", n, err);
    enum tier_status st =
        take_two((const char *const[]){"enroll.cert_pem", "enroll.ca_pem"},
                 (const char *const[]){p->cert_pem, p->ca_pem},
                 (const size_t[]){TIER_PEM_BYTES_MAX, TIER_PEM_BYTES_MAX}, cert_out, ca_out, err);
    consilium__enroll_reply__free_unpacked(p, NULL);
    return st;
}

struct tier_bytes tier_wire_enroll_reply_bytes(const char *cert_pem, const char *ca_pem) {
    Consilium__EnrollReply p = CONSILIUM__ENROLL_REPLY__INIT;
    p.cert_pem = (char *)cert_pem;
    p.ca_pem = (char *)ca_pem;
    return tier_wire_pack(&p.base);
}

enum tier_status tier_wire_renew_request(const uint8_t *bytes, size_t n,
                                         struct tier_renew_request *out, struct tier_err *err) {
    struct tier_renew_request m = {0};
    Consilium__RenewRequest *p = consilium__renew_request__unpack(NULL, n, bytes);
    enum tier_status st = TIER_OK;

    if (!p)
        return tier_wire_unreadable("a renewal request", n, err);
    if (p->signature.len == 0 || p->signature.len > sizeof m.signature)
        st = tier_fail(err, TIER_EPROTO, "renew.signature has %zu bytes, 1 to %zu are allowed",
                       p->signature.len, sizeof m.signature);
    if (st == TIER_OK)
        st = take_two((const char *const[]){"renew.cert_pem", "renew.csr_pem"},
                      (const char *const[]){p->cert_pem, p->csr_pem},
                      (const size_t[]){TIER_PEM_BYTES_MAX, TIER_PEM_BYTES_MAX}, &m.cert_pem,
                      &m.csr_pem, err);
    if (st == TIER_OK) {
        m.signature_bytes = p->signature.len;
        memcpy(m.signature, p->signature.data, p->signature.len);
        *out = m;
    }
    consilium__renew_request__free_unpacked(p, NULL);
    return st;
}

struct tier_bytes tier_wire_renew_request_bytes(const struct tier_renew_request *m) {
    Consilium__RenewRequest p = CONSILIUM__RENEW_REQUEST__INIT;
    p.cert_pem = m->cert_pem;
    p.csr_pem = m->csr_pem;
    p.signature = (ProtobufCBinaryData){m->signature_bytes, (uint8_t *)m->signature};
    return tier_wire_pack(&p.base);
}

void tier_wire_renew_request_release(struct tier_renew_request *m) {
    free(m->cert_pem);
    free(m->csr_pem);
    *m = (struct tier_renew_request){0};
}

enum tier_status tier_wire_pseudonym(const uint8_t *bytes, size_t n, struct tier_pseudonym_ask *out,
                                     struct tier_err *err) {
    struct tier_pseudonym_ask m = {0};
    Consilium__PseudonymRequest *p = consilium__pseudonym_request__unpack(NULL, n, bytes);
    enum tier_status st = TIER_OK;

    if (!p)
        return tier_wire_unreadable("a request for a pseudonym", n, err);
    if (p->signature.len == 0 || p->signature.len > sizeof m.signature)
        st = tier_fail(err, TIER_EPROTO, "pseudonym.signature has %zu bytes, 1 to %zu are allowed",
                       p->signature.len, sizeof m.signature);
    if (st == TIER_OK)
        st = tier_wire_hash("pseudonym.run", p->run, &m.run, err);
    if (st == TIER_OK)
        st = tier_wire_text("pseudonym.parent", p->parent, m.parent, sizeof m.parent, err);
    if (st == TIER_OK)
        st = take_two((const char *const[]){"pseudonym.cert_pem", "pseudonym.csr_pem"},
                      (const char *const[]){p->cert_pem, p->csr_pem},
                      (const size_t[]){TIER_PEM_BYTES_MAX, TIER_PEM_BYTES_MAX}, &m.cert_pem,
                      &m.csr_pem, err);
    if (st == TIER_OK) {
        m.signature_bytes = p->signature.len;
        memcpy(m.signature, p->signature.data, p->signature.len);
        *out = m;
    }
    consilium__pseudonym_request__free_unpacked(p, NULL);
    return st;
}

struct tier_bytes tier_wire_pseudonym_bytes(const struct tier_pseudonym_ask *m) {
    Consilium__PseudonymRequest p = CONSILIUM__PSEUDONYM_REQUEST__INIT;
    p.cert_pem = m->cert_pem;
    p.csr_pem = m->csr_pem;
    p.run = tier_wire_hash_field(&m->run);
    p.parent = (char *)m->parent;
    p.signature = (ProtobufCBinaryData){m->signature_bytes, (uint8_t *)m->signature};
    return tier_wire_pack(&p.base);
}
