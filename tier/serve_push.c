/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Updates from children: grants, in order of arrival, and the pushes that follow them. A place is
 * held from the grant to the end of the push. One child holds few of them at a time, and loses one
 * it does not use while others wait, so a child that offers much or pushes nothing starves itself.
 */
#include "tier/log.h"
#include "tier/piece.h"
#include "tier/serve_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- offers and grants ---- */

struct offer *serve_offer_find(const struct child *c, const struct tier_hash *id) {
    for (struct offer *o = c ? c->offers : NULL; o; o = o->next)
        if (tier_hash_equal(&o->id, id))
            return o;
    return NULL;
}

enum tier_status serve_offer_add(struct child *c, const struct tier_hash *id, const uint8_t *header,
                                 size_t header_bytes, struct tier_err *err) {
    size_t count = 0;

    for (const struct offer *o = c->offers; o; o = o->next)
        count++;
    if (count >= TIER_CHILD_OFFERS_MAX)
        return tier_fail(err, TIER_ELIMIT, "a child may have %u offers open at a time",
                         TIER_CHILD_OFFERS_MAX);
    struct offer *o = need(calloc(1, sizeof *o));
    o->id = *id;
    o->header = need(malloc(header_bytes));
    memcpy(o->header, header, header_bytes);
    o->header_bytes = header_bytes;
    o->child = c;
    o->next = c->offers;
    c->offers = o;
    return TIER_OK;
}

static void wait_remove(struct tier_serve *s, struct offer *o) {
    struct offer *before = NULL;
    for (struct offer *at = s->wait_first; at != o; at = at->wait_next)
        before = at;
    if (before)
        before->wait_next = o->wait_next;
    else
        s->wait_first = o->wait_next;
    if (s->wait_last == o)
        s->wait_last = before;
    o->waiting = false;
    o->wait_next = NULL;
}

void serve_offer_forget(struct tier_serve *s, struct offer *o) {
    struct offer **at = &o->child->offers;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    if (o->waiting)
        wait_remove(s, o);
    if (o->granted && !o->push)
        s->uploaders--;
    free(o->header);
    free(o);
}

/* Where an interrupted push may go on; opening the receiver also makes sure the disk takes it. */
static uint64_t resume_offset(struct tier_serve *s, const struct offer *o) {
    struct tier_spool_rx *rx;
    uint64_t at = 0;
    if (tier_spool_receive(s->spool, o->header, o->header_bytes, &rx, NULL) == TIER_OK) {
        at = tier_spool_rx_offset(rx);
        tier_spool_rx_close(rx);
    }
    return at;
}

static void send_grant(struct tier_serve *s, struct offer *o) {
    struct tier_to_child m = {
        .type = TIER_TO_GRANT, .update = o->id, .offset = resume_offset(s, o)};
    o->granted_ms = tier_clock_ms();
    serve_send_to(o->child, &m);
}

static unsigned places_of(const struct tier_serve *s, const struct child *c) {
    unsigned n = 0;
    for (const struct offer *o = c->offers; o; o = o->next)
        n += o->granted && !o->push;
    for (const struct push *p = s->pushes; p; p = p->next)
        n += p->rx && strcmp(p->child, c->name) == 0;
    return n;
}

void serve_grant_next(struct tier_serve *s) {
    for (struct offer *o = s->wait_first, *next;
         o && s->uploaders < s->max_uploaders && !s->closing; o = next) {
        next = o->wait_next;
        if (places_of(s, o->child) >= TIER_CHILD_TRANSFERS_MAX)
            continue;
        wait_remove(s, o);
        o->granted = true;
        s->uploaders++;
        send_grant(s, o);
    }
}

void tier_serve_grant(struct tier_serve *s, const char *child, const struct tier_hash *id) {
    struct offer *o = serve_offer_find(serve_child_find(s, child), id);
    if (!o || o->waiting || o->push)
        return;
    if (o->granted) { /* it offers again: its push was refused before it began */
        send_grant(s, o);
        return;
    }
    o->waiting = true;
    if (s->wait_last)
        s->wait_last->wait_next = o;
    else
        s->wait_first = o;
    s->wait_last = o;
    serve_grant_next(s);
}

void tier_serve_withdraw(struct tier_serve *s, const char *child, const struct tier_hash *id,
                         enum tier_status st, const char *reason) {
    struct offer *o = serve_offer_find(serve_child_find(s, child), id);
    if (!o)
        return;
    if (o->push && !o->push->arrived)
        tier_rpc_finish(o->push->call, st, reason);
    serve_offer_forget(s, o);
    serve_grant_next(s);
}

static void place_free(struct tier_serve *s) {
    s->uploaders--;
    serve_grant_next(s);
}

/* ---- Push ---- */

static void push_opened(struct tier_rpc_call *call) {
    struct tier_serve *s = tier_rpc_user(call);
    struct push *p = need(calloc(1, sizeof *p));
    struct tier_err err = {0};

    p->serve = s;
    p->call = call;
    p->next = s->pushes;
    s->pushes = p;
    tier_rpc_set_user(call, p);
    enum tier_status st = tier_rpc_peer_name(call, s->tls, p->child, &err);
    unsigned own = 0;
    for (const struct push *o = s->pushes; o; o = o->next)
        own += strcmp(o->child, p->child) == 0;
    if (st == TIER_OK && own > TIER_CHILD_CALLS_MAX)
        st = tier_fail(&err, TIER_ELIMIT, "a child may have %u pushes open at a time",
                       TIER_CHILD_CALLS_MAX);
    if (st != TIER_OK)
        tier_rpc_finish(call, st, err.text);
    else
        tier_rpc_read(call);
}

/* What came again after a cut can be read from these lines. */
static void log_push(const struct push *p, const char *where) {
    char hex[TIER_HASH_HEX];

    tier_log_info("push of %s: update %.12s, %s byte %" PRIu64 " of %" PRIu64, p->child,
                  tier_hash_hex(&p->id, hex), where, tier_spool_rx_offset(p->rx),
                  tier_spool_rx_header(p->rx)->payload_bytes);
}

static enum tier_status push_begin(struct push *p, const struct tier_piece *piece,
                                   struct tier_err *err) {
    struct offer *o = serve_offer_find(serve_child_find(p->serve, p->child), &piece->id);

    if (!o || !o->granted || o->push)
        return tier_fail(err, TIER_ENOTFOUND,
                         "a push must be of an update that was offered on the control stream, "
                         "granted, and is not being pushed already");
    enum tier_status st =
        tier_spool_receive(p->serve->spool, o->header, o->header_bytes, &p->rx, err);
    if (st == TIER_ECONFLICT) { /* two children may hold the same update: later it goes */
        err->status = TIER_EUNAVAILABLE;
        return TIER_EUNAVAILABLE;
    }
    if (st != TIER_OK)
        return st;
    p->id = piece->id;
    p->moved_ms = tier_clock_ms();
    o->push = p;
    p->serve->traffic.resumed_bytes += tier_spool_rx_offset(p->rx);
    log_push(p, "from");
    return TIER_OK;
}

/*
 * Puts the data's slices together before they are written: with TLS there are 8 KiB in each, and
 * one large write and whole leaves to hash are worth more than the copy.
 */
static enum tier_status push_piece(struct push *p, struct tier_rpc_message *message,
                                   struct tier_err *err) {
    uint8_t *const whole = p->serve->staging;
    struct tier_piece_reader r;
    const uint8_t *data;
    size_t bytes = 0, n;

    TIER_TRY(tier_piece_begin(&r, message, err)); /* at most TIER_CHUNK_BYTES of data */
    if (!p->rx)
        TIER_TRY(push_begin(p, &r.piece, err));
    while (tier_piece_next(&r, &data, &n)) {
        memcpy(whole + bytes, data, n);
        bytes += n;
    }
    if (bytes)
        TIER_TRY(tier_spool_rx_write(p->rx, r.piece.offset, whole, bytes, err));
    p->serve->traffic.pushed_bytes += bytes;
    if (bytes)
        p->moved_ms = tier_clock_ms();
    return TIER_OK;
}

static void push_refuse(struct push *p, enum tier_status st, const char *text) {
    tier_log_warn("push of %s: %s", p->child, text);
    tier_rpc_finish(p->call, st, text);
}

static void push_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct push *p = tier_rpc_user(call);
    struct tier_err err = {0};
    struct tier_hash id;

    enum tier_status st = p->arrived ? tier_fail(&err, TIER_EPROTO, "bytes after the last one")
                                     : push_piece(p, message, &err);
    if (st != TIER_OK) {
        push_refuse(p, st, err.text);
        return;
    }
    const struct tier_update_header *h = tier_spool_rx_header(p->rx);
    if (tier_spool_rx_offset(p->rx) < h->payload_bytes) {
        tier_rpc_read(call);
        return;
    }
    st = tier_spool_rx_seal(p->rx, &id, &err);
    if (st != TIER_OK) { /* damaged on the way: the child pushes it again */
        push_refuse(p, st == TIER_EUPDATE ? TIER_ECORRUPT : st, err.text);
        return;
    }
    p->arrived = true;
    p->serve->events->arrived(p->serve->owner, p->child, &id, h);
}

static void push_half_closed(struct tier_rpc_call *call) {
    struct push *p = tier_rpc_user(call);
    struct tier_err err = {0};

    if (p->arrived)
        return;
    if (p->rx)
        tier_fail(&err, TIER_EPROTO, "it ends after %" PRIu64 " of %" PRIu64 " bytes",
                  tier_spool_rx_offset(p->rx), tier_spool_rx_header(p->rx)->payload_bytes);
    else
        tier_fail(&err, TIER_EPROTO, "it ends without a piece");
    push_refuse(p, err.status, err.text);
}

static void push_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct push *p = tier_rpc_user(call);
    struct tier_serve *s = p->serve;
    (void)status;
    (void)text;

    for (struct push **at = &s->pushes; *at; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            break;
        }
    }
    if (p->rx) {
        if (!p->arrived)
            log_push(p, "cut at");
        tier_spool_rx_close(p->rx);
        struct offer *o = serve_offer_find(serve_child_find(s, p->child), &p->id);
        if (o && o->push == p)
            serve_offer_forget(s, o); /* the child offers again if it still has to */
        place_free(s);
    }
    free(p);
}

const struct tier_rpc_handler serve_push_handler = {
    .opened = push_opened,
    .message = push_message,
    .half_closed = push_half_closed,
    .closed = push_closed,
};

bool tier_serve_pushed(struct tier_serve *s, const char *child, const struct tier_hash *id,
                       const struct tier_receipt *receipt, const struct tier_err *refusal) {
    for (struct push *p = s->pushes; p; p = p->next) {
        if (!p->arrived || strcmp(p->child, child) != 0 || !tier_hash_equal(&p->id, id))
            continue;
        if (receipt) {
            struct tier_bytes b = tier_wire_receipt_bytes(receipt);
            tier_rpc_send(p->call, b.data, b.n);
            free(b.data);
            tier_rpc_finish(p->call, TIER_OK, "");
        } else {
            tier_rpc_finish(p->call, refusal->status, refusal->text);
        }
        return true;
    }
    return false;
}

void serve_push_sweep(struct tier_serve *s, uint64_t now_ms) {
    if (!s->wait_first)
        return;
    for (struct push *p = s->pushes; p; p = p->next)
        if (p->rx && !p->arrived && now_ms - p->moved_ms >= s->stall_ms)
            push_refuse(p, TIER_EUNAVAILABLE, "no bytes came for long while others wait");
    for (struct child *c = s->children; c; c = c->next) {
        for (struct offer *o = c->offers, *next; o; o = next) {
            next = o->next;
            if (!o->granted || o->push || now_ms - o->granted_ms < s->stall_ms)
                continue;
            tier_log_warn("child %s does not push what it was granted while others wait", c->name);
            serve_offer_forget(s, o);
        }
    }
    serve_grant_next(s);
}
