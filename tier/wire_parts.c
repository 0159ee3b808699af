/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the edge whose fields are many: heads of logs, questions and answers of TPMs. */
#include "tier/wire_parts.h"
#include "tier/wire_field.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- heads ---- */

enum tier_status tier_wire_take_head(const Consilium__Head *p, struct tier_head *h,
                                     struct tier_err *err) {
    if (p->size == 0 || p->size >= TIER_TREE_SIZE_MAX || p->known >= TIER_TREE_SIZE_MAX)
        return tier_fail(err, TIER_EPROTO,
                         "head.size is from 1 to below 2^48, and head.known below it too");
    TIER_TRY(tier_wire_hash("head.root", p->root, &h->root, err));
    if (p->signature.len > sizeof h->signature)
        return tier_fail(err, TIER_EPROTO, "head.signature has %zu bytes, at most %zu",
                         p->signature.len, sizeof h->signature);
    if (p->since > p->size)
        return tier_fail(err, TIER_EPROTO, "head.since is above head.size");
    if (p->n_proof > (p->since ? TIER_TREE_PROOF_MAX : 0))
        return tier_fail(err, TIER_EPROTO,
                         "head.proof has %zu hashes; at most %d, and none without head.since",
                         p->n_proof, TIER_TREE_PROOF_MAX);
    for (size_t i = 0; i < p->n_proof; i++)
        TIER_TRY(tier_wire_hash("head.proof", p->proof[i], &h->proof[i], err));
    h->proof_count = p->n_proof;
    h->size = p->size;
    h->time_ms = p->time_ms;
    h->since = p->since;
    h->known = p->known;
    h->answer = p->answer;
    h->signature_bytes = p->signature.len;
    if (p->signature.len)
        memcpy(h->signature, p->signature.data, p->signature.len);
    return TIER_OK;
}

void tier_wire_give_head(const struct tier_head *h, Consilium__Head *p,
                         ProtobufCBinaryData proof[TIER_TREE_PROOF_MAX]) {
    p->size = h->size;
    p->root = tier_wire_hash_field(&h->root);
    p->time_ms = h->time_ms;
    p->signature = (ProtobufCBinaryData){h->signature_bytes, (uint8_t *)h->signature};
    p->since = h->since;
    p->known = h->known;
    p->answer = h->answer;
    p->n_proof = h->proof_count;
    p->proof = proof;
    for (size_t i = 0; i < h->proof_count; i++)
        proof[i] = tier_wire_hash_field(&h->proof[i]);
}

size_t tier_head_text(const char *node, const struct tier_head *h, char *text, size_t size) {
    char root[TIER_HASH_HEX];
    int n = snprintf(text, size,
                     "consilium head 1\nnode %s\nsize %" PRIu64 "\nroot %s\ntime_ms %" PRId64 "\n",
                     node, h->size, tier_hash_hex(&h->root, root), h->time_ms);
    return n < 0 || (size_t)n >= size ? 0 : (size_t)n;
}

/* ---- TPMs ---- */

enum tier_status tier_wire_take_challenge(const Consilium__Challenge *p, struct tier_to_child *m,
                                          struct tier_err *err) {
    m->type = TIER_TO_CHALLENGE;
    TIER_TRY(tier_wire_hash("challenge.run", p->run, &m->run, err));
    TIER_TRY(tier_wire_text("challenge.reason", p->reason, m->reason, sizeof m->reason, err));
    if (*m->reason && p->nonce.len > 0)
        return tier_fail(err, TIER_EPROTO, "challenge has a reason and a nonce: one of them");
    return *m->reason ? TIER_OK : tier_wire_hash("challenge.nonce", p->nonce, &m->nonce, err);
}

void tier_wire_give_challenge(const struct tier_to_child *m, Consilium__Challenge *p) {
    p->run = tier_wire_hash_field(&m->run);
    p->reason = (char *)m->reason;
    if (!*m->reason)
        p->nonce = tier_wire_hash_field(&m->nonce);
}

static enum tier_status take_bytes(const char *field, ProtobufCBinaryData in, size_t least,
                                   uint8_t *out, size_t most, size_t *bytes_out,
                                   struct tier_err *err) {
    if (in.len < least || in.len > most)
        return tier_fail(err, TIER_EPROTO, "%s has %zu bytes, %zu to %zu are allowed", field,
                         in.len, least, most);
    memcpy(out, in.data, in.len);
    if (bytes_out)
        *bytes_out = in.len;
    return TIER_OK;
}

enum tier_status tier_wire_take_quote(const Consilium__Quote *p, struct tier_from_child *m,
                                      struct tier_err *err) {
    struct tier_quote *q = &m->quote;

    m->type = TIER_FROM_QUOTE;
    TIER_TRY(tier_wire_hash("quote.run", p->run, &m->run, err));
    TIER_TRY(tier_wire_hash("quote.nonce", p->nonce, &m->nonce, err));
    TIER_TRY(tier_wire_text("quote.reason", p->reason, m->reason, sizeof m->reason, err));
    if (*m->reason)
        return TIER_OK;
    TIER_TRY(take_bytes("quote.attest", p->attest, 1, q->attest, sizeof q->attest, &q->attest_bytes,
                        err));
    TIER_TRY(take_bytes("quote.signature", p->signature, 1, q->signature, sizeof q->signature,
                        &q->signature_bytes, err));
    if (p->pcr != 16 && p->pcr != 23)
        return tier_fail(err, TIER_EPROTO, "quote.pcr is %u; 16 or 23 is allowed", p->pcr);
    q->pcr = p->pcr;
    TIER_TRY(take_bytes("quote.platform", p->platform, sizeof q->platform, (uint8_t *)q->platform,
                        sizeof q->platform, NULL, err));
    TIER_TRY(tier_wire_hash("quote.binary", p->binary, &q->ran.binary, err));
    TIER_TRY(tier_wire_hash("quote.kernels", p->kernels, &q->ran.kernels, err));
    return tier_wire_hash("quote.config", p->config, &q->ran.config, err);
}

void tier_wire_give_quote(const struct tier_from_child *m, Consilium__Quote *p) {
    const struct tier_quote *q = &m->quote;

    p->run = tier_wire_hash_field(&m->run);
    p->nonce = tier_wire_hash_field(&m->nonce);
    p->reason = (char *)m->reason;
    if (*m->reason)
        return;
    p->attest = (ProtobufCBinaryData){q->attest_bytes, (uint8_t *)q->attest};
    p->signature = (ProtobufCBinaryData){q->signature_bytes, (uint8_t *)q->signature};
    p->pcr = q->pcr;
    p->platform = (ProtobufCBinaryData){sizeof q->platform, (uint8_t *)q->platform};
    p->binary = tier_wire_hash_field(&q->ran.binary);
    p->kernels = tier_wire_hash_field(&q->ran.kernels);
    p->config = tier_wire_hash_field(&q->ran.config);
}
