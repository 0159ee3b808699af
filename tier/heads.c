/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The line in the log comes before the row in the journal: a kill between the two leaves an older
 * head kept, from which the peer can prove its present one just as well.
 */
#include "tier/heads.h"
#include "tier/bytes.h"
#include "tier/cert.h"
#include "tier/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_BYTES (8 + TIER_HASH_BYTES + 8 + TIER_HASH_BYTES + TIER_HASH_BYTES + 2)

/* What is kept of a peer. */
struct kept {
    struct tier_head head; /* size 0: nothing */
    struct tier_hash cert; /* SHA-256 of the certificate; zero without TLS */
    struct tier_hash key;  /* as tier_heads_key */
    bool two;              /* histories were shown under it */
};

static const char *key_of(const char *peer, char key[TIER_NAME_LEN_MAX + 8]) {
    snprintf(key, TIER_NAME_LEN_MAX + 8, "head.%s", peer);
    return key;
}

static enum tier_status load(const struct tier_home *home, const char *peer, struct kept *out,
                             struct tier_err *err) {
    char key[TIER_NAME_LEN_MAX + 8];
    struct tier_journal_blob blob = {0};
    struct tier_err none = {0};

    memset(out, 0, sizeof *out);
    enum tier_status st = tier_journal_kv_get(home->journal, key_of(peer, key), &blob, &none);
    if (st == TIER_ENOTFOUND)
        return TIER_OK;
    if (st != TIER_OK)
        return tier_fail(err, st, "%s", none.text);
    const uint8_t *p = blob.data;
    size_t signature = blob.bytes >= KEPT_BYTES ? p[KEPT_BYTES - 1] : 0;
    if (blob.bytes != KEPT_BYTES + signature || signature > sizeof out->head.signature) {
        st = tier_fail(err, TIER_ECORRUPT, "the journal's head of %s cannot be read", peer);
    } else {
        out->head.size = tier_get_u64(p);
        memcpy(out->head.root.b, p + 8, TIER_HASH_BYTES);
        out->head.time_ms = (int64_t)tier_get_u64(p + 40);
        memcpy(out->cert.b, p + 48, TIER_HASH_BYTES);
        memcpy(out->key.b, p + 80, TIER_HASH_BYTES);
        out->two = p[112] != 0;
        out->head.signature_bytes = signature;
        memcpy(out->head.signature, p + KEPT_BYTES, signature);
    }
    tier_journal_blob_release(&blob);
    return st;
}

static enum tier_status store(const struct tier_home *home, const char *peer, const struct kept *k,
                              struct tier_err *err) {
    char key[TIER_NAME_LEN_MAX + 8];
    uint8_t p[KEPT_BYTES + sizeof k->head.signature];
    size_t signature = k->head.signature_bytes;

    tier_put_u64(p, k->head.size);
    memcpy(p + 8, k->head.root.b, TIER_HASH_BYTES);
    tier_put_u64(p + 40, (uint64_t)k->head.time_ms);
    memcpy(p + 48, k->cert.b, TIER_HASH_BYTES);
    memcpy(p + 80, k->key.b, TIER_HASH_BYTES);
    p[112] = k->two;
    p[113] = (uint8_t)signature;
    memcpy(p + KEPT_BYTES, k->head.signature, signature);
    TIER_TRY(tier_journal_begin_lazy(home->journal, err));
    enum tier_status st =
        tier_journal_kv_put(home->journal, key_of(peer, key), p, KEPT_BYTES + signature, err);
    if (st == TIER_OK)
        st = tier_journal_commit(home->journal, err);
    tier_journal_rollback(home->journal);
    return st;
}

static enum tier_status cert_hash(const char *pem, struct tier_hash *out, struct tier_err *err) {
    struct tier_cert *cert = NULL;

    *out = (struct tier_hash){{0}};
    if (!*pem)
        return TIER_OK;
    TIER_TRY(tier_cert_from_pem(pem, &cert, err));
    tier_cert_fingerprint(cert, out);
    tier_cert_free(cert);
    return TIER_OK;
}

enum tier_status tier_heads_key(const char *cert_pem, struct tier_hash *out, struct tier_err *err) {
    uint8_t point[2 * TIER_COORDINATE_BYTES];
    struct tier_cert *cert = NULL;

    *out = (struct tier_hash){{0}};
    if (!*cert_pem)
        return TIER_OK;
    TIER_TRY(tier_cert_from_pem(cert_pem, &cert, err));
    bool good = tier_cert_point(cert, point);
    tier_cert_free(cert);
    if (!good)
        return tier_fail(err, TIER_EIDENTITY, "the certificate has no P-256 key");
    tier_hash_data(point, sizeof point, out);
    return TIER_OK;
}

static enum tier_status two_histories(const char *peer, struct tier_err *err) {
    return tier_fail(err, TIER_ECONFLICT,
                     "'%s' has shown two histories of its audit log; it is taken again when it has "
                     "enrolled anew with another key (without its present identity/key.pem)",
                     peer);
}

/* ---- saying ---- */

/* The head of what the disk has: signed once, for however many peers. */
static enum tier_status sign_own(struct tier_home *home, struct tier_err *err) {
    struct tier_head head = {.size = tier_audit_durable(home->audit), .time_ms = tier_wall_ms()};
    char text[512];

    if (home->said.size == head.size)
        return TIER_OK;
    TIER_TRY(tier_tree_root(tier_audit_tree(home->audit), head.size, &head.root, err));
    if (home->node.key) {
        size_t n = tier_head_text(home->config->name, &head, text, sizeof text);
        TIER_TRY(
            tier_key_sign(home->node.key, text, n, head.signature, &head.signature_bytes, err));
    }
    home->said = head;
    return TIER_OK;
}

enum tier_status tier_heads_say(struct tier_home *home, const char *peer, uint64_t peer_knows,
                                bool answer, struct tier_head *out, struct tier_err *err) {
    struct kept k;

    TIER_TRY(load(home, peer, &k, err));
    TIER_TRY(sign_own(home, err));
    *out = home->said;
    out->known = k.head.size;
    out->answer = answer;
    if (peer_knows == 0 || peer_knows > out->size)
        return TIER_OK;
    out->since = peer_knows;
    return tier_tree_consistency(tier_audit_tree(home->audit), peer_knows, out->size, out->proof,
                                 &out->proof_count, err);
}

/* ---- hearing ---- */

static enum tier_status check_signature(const struct tier_home *home, const char *peer,
                                        const char *cert_pem, const struct tier_head *head,
                                        struct tier_err *err) {
    struct tier_cert *cert = NULL;
    char text[512];

    if (!home->config->tls)
        return TIER_OK;
    size_t n = tier_head_text(peer, head, text, sizeof text);
    enum tier_status st = tier_cert_from_pem(cert_pem, &cert, err);
    if (st == TIER_OK)
        st = tier_cert_check_signature(cert, text, n, head->signature, head->signature_bytes, err);
    tier_cert_free(cert);
    if (st != TIER_OK)
        tier_err_prefix(err, "the head of %s's audit log", peer);
    return st;
}

static const char *hex_of(const struct tier_head *h, char hex[2 * sizeof h->signature + 1]) {
    hex[0] = '\0';
    for (size_t i = 0; i < h->signature_bytes; i++)
        snprintf(hex + 2 * i, 3, "%02x", h->signature[i]);
    return hex;
}

/* The certificate's DER in base 64, as it stands between the lines of its PEM. */
static enum tier_status note_cert(const struct tier_home *home, const char *peer,
                                  const char *cert_pem, struct tier_err *err) {
    char body[TIER_AUDIT_TEXT_LEN_MAX + 1];
    size_t n = 0;
    const char *p = strchr(cert_pem, '\n');

    for (; p && *p && *p != '-' && n < TIER_AUDIT_TEXT_LEN_MAX; p++)
        if (*p != '\n' && *p != '\r')
            body[n++] = *p;
    body[n] = '\0';
    return tier_audit_note(home->audit, tier_wall_ms(), "peer.certificate", err, "s:peer", peer,
                           "s:der", body, NULL);
}

static enum tier_status note_contradiction(const struct tier_home *home, const char *peer,
                                           const char *event, const struct kept *k,
                                           const struct tier_head *head, struct tier_err *err) {
    char before[2 * sizeof head->signature + 1], now[2 * sizeof head->signature + 1];

    TIER_TRY(tier_audit_note(home->audit, tier_wall_ms(), event, err, "s:peer", peer, "u:size",
                             k->head.size, "h:root", &k->head.root, "i:time_ms", k->head.time_ms,
                             "s:signature", hex_of(&k->head, before), "u:other_size", head->size,
                             "h:other_root", &head->root, "i:other_time_ms", head->time_ms,
                             "s:other_signature", hex_of(head, now), NULL));
    return tier_audit_sync_now(home->audit, err);
}

static enum tier_status keep(const struct tier_home *home, const char *peer,
                             const struct tier_hash *cert, const struct tier_hash *key,
                             const struct tier_head *head, struct tier_err *err) {
    char hex[2 * sizeof head->signature + 1];
    const struct kept now = {.head = *head, .cert = *cert, .key = *key};

    TIER_TRY(tier_audit_note(home->audit, tier_wall_ms(), "peer.head", err, "s:peer", peer,
                             "u:size", head->size, "h:root", &head->root, "i:time_ms",
                             head->time_ms, "s:signature", hex_of(head, hex), NULL));
    return store(home, peer, &now, err);
}

/* Whether the head continues the kept one: yes, no, or not yet shown. */
enum continues { YES, NO, NOT_SHOWN };

static enum continues compare(const struct tier_head *before, const struct tier_head *head) {
    if (head->size <= before->size)
        return head->size == before->size && tier_hash_equal(&head->root, &before->root) ? YES : NO;
    if (head->since != before->size)
        return NOT_SHOWN;
    return tier_tree_check_consistency(before->size, &before->root, head->size, &head->root,
                                       head->proof, head->proof_count)
               ? YES
               : NO;
}

enum tier_status tier_heads_hear(const struct tier_home *home, const char *peer,
                                 const char *cert_pem, const struct tier_head *head,
                                 bool *prove_out, struct tier_err *err) {
    struct tier_hash cert, key;
    struct kept k;

    *prove_out = false;
    TIER_TRY(check_signature(home, peer, cert_pem, head, err));
    TIER_TRY(cert_hash(cert_pem, &cert, err));
    TIER_TRY(tier_heads_key(cert_pem, &key, err));
    TIER_TRY(load(home, peer, &k, err));
    bool same_cert = k.head.size > 0 && tier_hash_equal(&k.cert, &cert);
    bool same_key = k.head.size > 0 && tier_hash_equal(&k.key, &key);
    if (k.two && same_key)
        return two_histories(peer, err);
    enum continues how = k.head.size == 0 ? YES : compare(&k.head, head);
    if (how == NOT_SHOWN) {
        *prove_out = true;
        return TIER_OK;
    }
    if (how == NO && same_key) {
        TIER_TRY(note_contradiction(home, peer, "peer.equivocates", &k, head, err));
        k.two = true;
        TIER_TRY(store(home, peer, &k, err));
        return two_histories(peer, err);
    }
    if (!same_cert && *cert_pem) /* first, so that the log says whose key the new history has */
        TIER_TRY(note_cert(home, peer, cert_pem, err));
    if (how == NO)
        TIER_TRY(note_contradiction(home, peer, "peer.began_anew", &k, head, err));
    if (same_cert && head->size == k.head.size)
        return TIER_OK;
    return keep(home, peer, &cert, &key, head, err);
}

enum tier_status tier_heads_trust(const struct tier_home *home, const char *peer,
                                  const char *cert_pem, struct tier_err *err) {
    struct tier_hash key;
    struct kept k;

    TIER_TRY(load(home, peer, &k, err));
    if (!k.two)
        return TIER_OK;
    TIER_TRY(tier_heads_key(cert_pem, &key, err));
    return tier_hash_equal(&k.key, &key) ? two_histories(peer, err) : TIER_OK;
}

enum tier_status tier_heads_came(struct tier_home *home, struct tier_heads_edge *edge,
                                 const char *peer, const char *cert_pem,
                                 const struct tier_head *head, struct tier_head *answer_out,
                                 bool *send_out, bool *asked_out, struct tier_err *err) {
    bool prove = false;

    *send_out = false;
    *asked_out = edge->due;
    edge->due = false;
    TIER_TRY(tier_heads_hear(home, peer, cert_pem, head, &prove, err));
    edge->knows = head->known;
    if (!head->answer && !prove)
        return TIER_OK;
    TIER_TRY(tier_heads_say(home, peer, edge->knows, prove, answer_out, err));
    edge->knows = answer_out->size;
    edge->due = prove;
    *send_out = true;
    return TIER_OK;
}

enum tier_status tier_heads_begin(struct tier_home *home, struct tier_heads_edge *edge,
                                  const char *peer, struct tier_head *out, struct tier_err *err) {
    TIER_TRY(tier_heads_say(home, peer, edge->knows, true, out, err));
    edge->knows = out->size;
    edge->due = true;
    return TIER_OK;
}
