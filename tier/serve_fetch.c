/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Content for children. Requests wait in one queue, and hold neither a file nor a buffer while they
 * do. One child is sent few files at a time, so that a child which asks for thousands and reads
 * none of them holds up itself.
 */
#include "tier/log.h"
#include "tier/serve_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned sent_to(const struct tier_serve *s, const char *child) {
    unsigned n = 0;
    for (const struct fetch *f = s->fetch_started; f; f = f->started_next)
        n += strcmp(f->child, child) == 0;
    return n;
}

static void refuse(struct fetch *f, enum tier_status st, const char *text) {
    tier_log_warn("fetch of %s: %s", f->child, text);
    tier_rpc_finish(f->call, st, text);
}

static void queue_remove(struct tier_serve *s, struct fetch *f) {
    struct fetch *before = NULL;
    for (struct fetch *at = s->fetch_first; at != f; at = at->queue_next)
        before = at;
    if (before)
        before->queue_next = f->queue_next;
    else
        s->fetch_first = f->queue_next;
    if (s->fetch_last == f)
        s->fetch_last = before;
    f->queued = false;
}

static void start(struct tier_serve *s, struct fetch *f) {
    struct tier_err err = {0};

    enum tier_status st = tier_content_open(s->models_dir, &f->sha256, &f->content, &err);
    if (st == TIER_OK && f->offset > f->content.bytes)
        st = tier_fail(&err, TIER_EARG, "an offset past the end of the file");
    if (st != TIER_OK) {
        refuse(f, st, err.text);
        return;
    }
    f->started = true;
    f->moved_ms = tier_clock_ms();
    f->started_next = s->fetch_started;
    s->fetch_started = f;
    s->fetching++;
    s->traffic.fetches++;
    s->traffic.fetched_bytes += f->content.bytes - f->offset;
    f->sender = tier_sender_new(f->call, NULL, &f->sha256, tier_content_read, &f->content,
                                f->content.bytes, f->offset);
    tier_sender_fill(f->sender);
}

static void start_next(struct tier_serve *s) {
    for (struct fetch *f = s->fetch_first, *next; f && s->fetching < s->max_uploaders; f = next) {
        next = f->queue_next;
        if (sent_to(s, f->child) >= serve_child_places(s))
            continue;
        queue_remove(s, f);
        start(s, f);
    }
}

static void fetch_opened(struct tier_rpc_call *call) {
    struct tier_serve *s = tier_rpc_user(call);
    struct fetch *f = calloc(1, sizeof *f);
    struct tier_err err = {0};
    unsigned others = 0;

    if (!f)
        abort();
    f->serve = s;
    f->call = call;
    f->content.fd = -1;
    tier_rpc_set_user(call, f);
    enum tier_status st = tier_rpc_peer_name(call, s->tls, f->child, &err);
    for (const struct fetch *o = s->fetches; o; o = o->next)
        others += strcmp(o->child, f->child) == 0;
    f->next = s->fetches;
    if (f->next)
        f->next->prev = f;
    s->fetches = f;
    if (st == TIER_OK && others >= TIER_CHILD_CALLS_MAX)
        st = tier_fail(&err, TIER_ELIMIT, "a child may have %u fetches open at a time",
                       TIER_CHILD_CALLS_MAX);
    if (st != TIER_OK)
        tier_rpc_finish(call, st, err.text);
    else
        tier_rpc_read(call);
}

static void fetch_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct fetch *f = tier_rpc_user(call);
    struct tier_serve *s = f->serve;
    struct tier_fetch_request request;
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(message);
    const uint8_t *bytes = tier_rpc_message_flat(message, 4096);
    enum tier_status st = bytes ? tier_wire_fetch_request(bytes, n, &request, &err)
                                : tier_fail(&err, TIER_ELIMIT, "a request of %zu bytes", n);

    if (st != TIER_OK) {
        refuse(f, st, err.text);
        return;
    }
    f->sha256 = request.sha256;
    f->offset = request.offset;
    f->queued = true;
    if (s->fetch_last)
        s->fetch_last->queue_next = f;
    else
        s->fetch_first = f;
    s->fetch_last = f;
    start_next(s);
}

static void fetch_half_closed(struct tier_rpc_call *call) {
    struct fetch *f = tier_rpc_user(call);
    if (!f->queued && !f->started)
        tier_rpc_finish(call, TIER_EPROTO, "a fetch that asks for nothing");
}

static void fetch_sent(struct tier_rpc_call *call) {
    struct fetch *f = tier_rpc_user(call);
    f->moved_ms = tier_clock_ms();
    if (f->sender)
        tier_sender_fill(f->sender);
}

static void fetch_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct fetch *f = tier_rpc_user(call);
    struct tier_serve *s = f->serve;
    (void)status;
    (void)text;

    if (f->queued)
        queue_remove(s, f);
    for (struct fetch **at = &s->fetch_started; f->started && *at; at = &(*at)->started_next) {
        if (*at == f) {
            *at = f->started_next;
            s->fetching--;
            break;
        }
    }
    if (f->prev)
        f->prev->next = f->next;
    else
        s->fetches = f->next;
    if (f->next)
        f->next->prev = f->prev;
    tier_sender_free(f->sender);
    tier_content_close(&f->content);
    free(f);
    if (!s->closing)
        start_next(s);
}

const struct tier_rpc_handler serve_fetch_handler = {
    .opened = fetch_opened,
    .message = fetch_message,
    .half_closed = fetch_half_closed,
    .sent = fetch_sent,
    .closed = fetch_closed,
};

void serve_fetch_sweep(struct tier_serve *s, uint64_t now_ms) {
    if (!s->fetch_first)
        return;
    for (struct fetch *f = s->fetch_started; f; f = f->started_next) {
        if (now_ms - f->moved_ms < s->stall_ms)
            continue;
        tier_log_warn("fetch of %s: it has read nothing for %u s while others wait: ended",
                      f->child, s->stall_ms / 1000);
        tier_rpc_cancel(f->call); /* a status would wait behind what it does not read */
    }
}
