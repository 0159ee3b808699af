/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Updates from children: grants, in order of arrival, and the pushes that follow them. A place is
 * held from the grant to the end of the push. One child holds few of them at a time, and loses one
 * it does not use while others wait, so a child that offers much or pushes nothing starves itself.
 *
 * The disk is the intake's: a thread of it finds out where an interrupted push goes on before the
 * grant, and then takes the pieces. The loop seals, so that nothing gets its name behind its back.
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

/* What a thread of the intake finds out for an offer, which may be gone when it is done. */
struct opening {
    struct tier_serve *serve;
    struct offer *offer; /* NULL: it is gone, */
    bool unwanted;       /* and nobody will resume what it left in the spool */
    uint8_t *header;
    size_t header_bytes;
    struct tier_spool_rx *rx;
    struct tier_err err;
};

static void opening_work(void *arg) {
    struct opening *o = arg;
    tier_spool_receive(o->serve->spool, o->header, o->header_bytes, &o->rx, &o->err);
}

static void opening_free(void *arg) {
    struct opening *o = arg;
    o->serve->openings--;
    if (o->unwanted)
        tier_spool_rx_discard(o->rx);
    else
        tier_spool_rx_close(o->rx);
    free(o->header);
    free(o);
}

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
    if (o->opening)
        o->opening->offer = NULL;
    tier_spool_rx_close(o->rx);
    free(o->header);
    free(o);
}

static void wait_add(struct tier_serve *s, struct offer *o) {
    o->waiting = true;
    o->wait_next = NULL;
    if (s->wait_last)
        s->wait_last->wait_next = o;
    else
        s->wait_first = o;
    s->wait_last = o;
}

static void send_grant(struct offer *o) {
    struct tier_to_child m = {
        .type = TIER_TO_GRANT, .update = o->id, .offset = o->rx ? tier_spool_rx_offset(o->rx) : 0};
    o->granted_ms = tier_clock_ms();
    serve_send_to(o->child, &m);
}

static void opening_done(void *arg) {
    struct opening *opening = arg;
    struct tier_serve *s = opening->serve;
    struct offer *o = opening->offer;

    if (o)
        o->opening = NULL;
    if (o && opening->err.status == TIER_ECONFLICT) {
        /* Another push of the same update has it: the end of that one lets this one try. */
        o->granted = false;
        s->uploaders--;
        wait_add(s, o);
    } else if (o && !s->closing) {
        o->rx = opening->rx;
        opening->rx = NULL;
        o->failure = opening->err; /* which the push will be told */
        send_grant(o);
    }
    opening_free(opening);
}

static void open_place(struct tier_serve *s, struct offer *o) {
    struct opening *opening = need(calloc(1, sizeof *opening));
    opening->serve = s;
    opening->offer = o;
    opening->header = need(malloc(o->header_bytes));
    memcpy(opening->header, o->header, o->header_bytes);
    opening->header_bytes = o->header_bytes;
    o->opening = opening;
    o->granted_ms = tier_clock_ms();
    s->openings++;
    tier_intake_submit(s->intake, opening_work, opening_done, opening_free, opening);
}

static unsigned places_of(const struct tier_serve *s, const struct child *c) {
    unsigned n = 0;
    for (const struct offer *o = c->offers; o; o = o->next)
        n += o->granted && !o->push;
    for (const struct push *p = s->pushes; p; p = p->next)
        n += p->rx && strcmp(p->child, c->name) == 0;
    return n;
}

static unsigned places(const struct tier_serve *s) {
    return s->max_uploaders > s->held ? s->max_uploaders - s->held : 0;
}

void tier_serve_hold(struct tier_serve *s, unsigned held) {
    bool fewer = held < s->held;
    s->held = held;
    if (fewer)
        serve_grant_next(s);
}

void serve_grant_next(struct tier_serve *s) {
    for (struct offer *o = s->wait_first, *next; o && s->uploaders < places(s) && !s->closing;
         o = next) {
        next = o->wait_next;
        if (places_of(s, o->child) >= serve_child_places(s))
            continue;
        wait_remove(s, o);
        o->granted = true;
        s->uploaders++;
        open_place(s, o);
    }
}

void tier_serve_grant(struct tier_serve *s, const char *child, const struct tier_hash *id,
                      const struct tier_manifest *manifest) {
    struct offer *o = serve_offer_find(serve_child_find(s, child), id);
    if (!o || o->waiting || o->opening || o->push)
        return;
    o->manifest = manifest;
    if (o->granted) { /* it offers again: its push was refused before it began */
        if (o->rx)
            send_grant(o);
        else
            open_place(s, o);
        return;
    }
    wait_add(s, o);
    serve_grant_next(s);
}

void tier_serve_withdraw(struct tier_serve *s, const char *child, const struct tier_hash *id,
                         enum tier_status st, const char *reason) {
    struct offer *o = serve_offer_find(serve_child_find(s, child), id);
    if (!o)
        return;
    if (o->push && o->push->call && !o->push->arrived)
        tier_rpc_finish(o->push->call, st, reason);
    if (o->opening)
        o->opening->unwanted = true;
    serve_offer_forget(s, o);
    serve_grant_next(s);
}

static void place_free(struct tier_serve *s) {
    s->uploaders--;
    serve_grant_next(s);
}

/* ---- Push ---- */

static const struct tier_strand_events strand_events;

static void push_opened(struct tier_rpc_call *call) {
    struct tier_serve *s = tier_rpc_user(call);
    struct push *p = need(calloc(1, sizeof *p));
    struct tier_err err = {0};

    p->serve = s;
    p->call = call;
    p->next = s->pushes;
    s->pushes = p;
    p->strand = tier_strand_open(s->intake, call, &strand_events, p);
    tier_rpc_set_user(call, p);
    enum tier_status st = tier_rpc_peer_name(call, s->tls, p->child, &err);
    unsigned own = 0;
    for (const struct push *o = s->pushes; o; o = o->next)
        own += o->call && strcmp(o->child, p->child) == 0;
    if (st == TIER_OK && own > TIER_CHILD_CALLS_MAX)
        st = tier_fail(&err, TIER_ELIMIT, "a child may have %u pushes open at a time",
                       TIER_CHILD_CALLS_MAX);
    if (st != TIER_OK)
        tier_rpc_finish(call, st, err.text);
    else
        tier_strand_read(p->strand);
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

    if (!o || !o->granted || o->opening || o->push)
        return tier_fail(err, TIER_ENOTFOUND,
                         "a push must be of an update that was offered on the control stream, "
                         "granted, and is not being pushed already");
    if (!o->rx) {
        *err = o->failure;
        return err->status;
    }
    p->id = piece->id;
    p->rx = o->rx;
    o->rx = NULL;
    o->push = p;
    p->offset = tier_spool_rx_offset(p->rx);
    p->moved_ms = tier_clock_ms();
    tier_range_begin(&p->range, tier_spool_rx_header(p->rx), o->manifest);
    p->serve->traffic.resumed_bytes += p->offset;
    log_push(p, "from");
    return TIER_OK;
}

static void push_refuse(struct push *p, enum tier_status st, const char *text) {
    tier_log_warn("push of %s: %s", p->child, text);
    tier_rpc_finish(p->call, st, text);
}

static void push_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct push *p = tier_rpc_user(call);
    struct tier_piece_reader first;
    struct tier_err err = {0};
    enum tier_status st = TIER_OK;

    if (p->arrived)
        st = tier_fail(&err, TIER_EPROTO, "bytes after the last one");
    else if (!p->rx)
        st = tier_piece_begin(&first, message, &err) == TIER_OK ? push_begin(p, &first.piece, &err)
                                                                : err.status;
    if (st != TIER_OK)
        push_refuse(p, st, err.text);
    else
        tier_strand_take(p->strand, message);
}

/*
 * On the intake's thread. The data's slices are put together before they are written: with TLS
 * there are 8 KiB in each, and one large write and whole leaves to hash are worth more than the
 * copy.
 */
static enum tier_status push_absorb(void *owner, struct tier_piece_reader *r, uint8_t *scratch,
                                    struct tier_err *err) {
    struct push *p = owner;
    const uint8_t *data;
    size_t bytes = 0, n;

    while (tier_piece_next(r, &data, &n)) { /* at most TIER_CHUNK_BYTES */
        memcpy(scratch + bytes, data, n);
        bytes += n;
    }
    if (bytes == 0)
        return TIER_OK;
    TIER_TRY(tier_spool_rx_write(p->rx, r->piece.offset, scratch, bytes, err));
    tier_range_add(&p->range, r->piece.offset, scratch, bytes);
    return TIER_OK;
}

static void push_absorbed(void *owner, enum tier_status st, const struct tier_err *err,
                          size_t bytes) {
    struct push *p = owner;
    struct tier_err why = *err;
    struct tier_hash id;

    if (!p->call || p->serve->closing)
        return;
    if (st != TIER_OK) {
        push_refuse(p, st, why.text);
        return;
    }
    p->offset += bytes;
    p->serve->traffic.pushed_bytes += bytes;
    if (bytes)
        p->moved_ms = tier_clock_ms();
    if (!tier_strand_idle(p->strand)) /* rx is the thread's */
        return;
    const struct tier_update_header *h = tier_spool_rx_header(p->rx);
    if (p->offset < h->payload_bytes)
        return;
    st = tier_spool_rx_seal(p->rx, &id, &why);
    if (st != TIER_OK) { /* damaged on the way: the child pushes it again */
        push_refuse(p, st == TIER_EUPDATE ? TIER_ECORRUPT : st, why.text);
        return;
    }
    p->arrived = true;
    p->serve->events->arrived(p->serve->owner, p->child, &id, h, tier_range_within(&p->range));
}

static void push_drained(void *owner) {
    struct push *p = owner;
    struct tier_err err = {0};

    if (p->arrived || !p->call)
        return;
    if (p->rx)
        tier_fail(&err, TIER_EPROTO, "it ends after %" PRIu64 " of %" PRIu64 " bytes", p->offset,
                  tier_spool_rx_header(p->rx)->payload_bytes);
    else
        tier_fail(&err, TIER_EPROTO, "it ends without a piece");
    push_refuse(p, err.status, err.text);
}

static void push_released(void *owner) {
    struct push *p = owner;
    struct tier_serve *s = p->serve;

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

static const struct tier_strand_events strand_events = {
    .absorb = push_absorb,
    .absorbed = push_absorbed,
    .drained = push_drained,
    .released = push_released,
};

static void push_half_closed(struct tier_rpc_call *call) {
    struct push *p = tier_rpc_user(call);
    tier_strand_end(p->strand);
}

static void push_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct push *p = tier_rpc_user(call);
    (void)status;
    (void)text;

    p->call = NULL;
    tier_strand_close(p->strand);
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
        if (!p->call || !p->arrived || strcmp(p->child, child) != 0 || !tier_hash_equal(&p->id, id))
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
        if (p->call && p->rx && !p->arrived && now_ms - p->moved_ms >= s->stall_ms)
            push_refuse(p, TIER_EUNAVAILABLE, "no bytes came for long while others wait");
    for (struct child *c = s->children; c; c = c->next) {
        for (struct offer *o = c->offers, *next; o; o = next) {
            next = o->next;
            if (!o->granted || o->opening || o->push || now_ms - o->granted_ms < s->stall_ms)
                continue;
            tier_log_warn("child %s does not push what it was granted while others wait", c->name);
            serve_offer_forget(s, o);
        }
    }
    serve_grant_next(s);
}
