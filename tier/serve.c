/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child is known by the name in its certificate. One stream attends under a name at a time: a new
 * one replaces the old, because after a cut the child comes back before the parent has noticed.
 * Grants wait in one queue in order of arrival, so no child starves.
 */
#include "tier/serve.h"
#include "tier/content.h"
#include "tier/identity.h"
#include "tier/log.h"
#include "tier/piece.h"
#include "tier/sender.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHILD_BUCKETS 4096

struct offer {
    struct tier_hash id;
    uint8_t *header;
    size_t header_bytes;
    bool granted, waiting;
    struct push *push; /* the call under way, or NULL */
    struct offer *next;
};

struct child {
    char name[TIER_NAME_LEN_MAX + 1];
    char software[TIER_NAME_LEN_MAX + 1];
    struct tier_rpc_call *call;
    int64_t since_ms;
    struct offer *offers;
    struct child *prev, *next; /* all of them */
    struct child *chain;       /* those of one bucket */
};

/* A stream that has not said hello yet has no child. */
struct attendance {
    struct tier_serve *serve;
    struct child *child;
    char name[TIER_NAME_LEN_MAX + 1]; /* of the certificate */
};

struct push {
    struct tier_serve *serve;
    struct tier_rpc_call *call;
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_hash id;
    struct tier_spool_rx *rx;
    bool arrived;
    struct push *next;
};

struct fetch {
    struct tier_serve *serve;
    struct tier_rpc_call *call;
    struct tier_content content;
    uint64_t offset;
    struct tier_sender *sender;
    bool queued, started;
    struct fetch *next; /* in the queue */
};

struct waiting {
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_hash id;
    struct waiting *next;
};

struct tier_serve {
    struct tier_loop *loop;
    struct tier_rpc_server *server;
    struct tier_spool *spool;
    const struct tier_serve_events *events;
    void *owner;
    bool tls, closing;
    char name[TIER_NAME_LEN_MAX + 1];
    char *models_dir;
    unsigned max_uploaders, uploaders;
    struct child *children;
    size_t child_count;
    struct child *bucket[CHILD_BUCKETS]; /* by name */
    struct push *pushes;
    struct waiting *wait_first, *wait_last;
    struct fetch *fetch_first, *fetch_last; /* queued; at most max_uploaders are sent at a time */
    unsigned fetching;
    struct tier_rpc_method *methods;
    uint8_t *staging; /* [TIER_MESSAGE_BYTES_MAX], one message of a push put together */
    struct tier_serve_traffic traffic;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

enum tier_status tier_rpc_peer_name(const struct tier_rpc_call *call, bool tls,
                                    char name[TIER_NAME_LEN_MAX + 1], struct tier_err *err) {
    if (tls) {
        struct tier_identity id;
        TIER_TRY(tier_identity_parse_spiffe(tier_rpc_peer_uri(call), &id, err));
        memcpy(name, id.name, sizeof id.name);
        return TIER_OK;
    }
    const char *claim = tier_rpc_peer_claim(call);
    TIER_TRY(tier_name_check("the node name in the call's metadata", claim, err));
    memcpy(name, claim, strlen(claim) + 1);
    return TIER_OK;
}

/* ---- grants ---- */

static size_t bucket_of(const char *name) {
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const char *p = name; *p; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    return h % CHILD_BUCKETS;
}

static struct child *child_find(const struct tier_serve *s, const char *name) {
    struct child *c = s->bucket[bucket_of(name)];
    while (c && strcmp(c->name, name) != 0)
        c = c->chain;
    return c;
}

static void child_add(struct tier_serve *s, struct child *c) {
    struct child **bucket = &s->bucket[bucket_of(c->name)];
    c->chain = *bucket;
    *bucket = c;
    c->next = s->children;
    if (c->next)
        c->next->prev = c;
    s->children = c;
    s->child_count++;
}

static void child_remove(struct tier_serve *s, struct child *c) {
    struct child **at = &s->bucket[bucket_of(c->name)];
    while (*at != c)
        at = &(*at)->chain;
    *at = c->chain;
    if (c->prev)
        c->prev->next = c->next;
    else
        s->children = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->child_count--;
}

static struct offer *offer_find(const struct child *c, const struct tier_hash *id) {
    for (struct offer *o = c ? c->offers : NULL; o; o = o->next)
        if (tier_hash_equal(&o->id, id))
            return o;
    return NULL;
}

static void offer_free(struct offer *o) {
    free(o->header);
    free(o);
}

/* True when the offer held an uploader's place that no push will give back. */
static bool offer_drop(struct child *c, const struct tier_hash *id) {
    for (struct offer **at = &c->offers; *at; at = &(*at)->next) {
        if (tier_hash_equal(&(*at)->id, id)) {
            struct offer *o = *at;
            bool held = o->granted && !o->push;
            *at = o->next;
            offer_free(o);
            return held;
        }
    }
    return false;
}

static bool send_to(struct child *c, const struct tier_to_child *m) {
    struct tier_bytes b = tier_wire_to_child_bytes(m);
    bool sent = tier_rpc_send(c->call, b.data, b.n);
    free(b.data);
    if (!sent)
        tier_log_warn("child %s does not take its messages: closing its stream", c->name);
    if (!sent)
        tier_rpc_cancel(c->call);
    return sent;
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

static void grant_next(struct tier_serve *s) {
    while (s->wait_first && s->uploaders < s->max_uploaders && !s->closing) {
        struct waiting *w = s->wait_first;
        s->wait_first = w->next;
        if (!s->wait_first)
            s->wait_last = NULL;
        struct child *c = child_find(s, w->child);
        struct offer *o = offer_find(c, &w->id);
        if (o && !o->granted) {
            o->granted = true;
            o->waiting = false;
            s->uploaders++;
            struct tier_to_child m = {.type = TIER_TO_GRANT, .update = o->id};
            m.offset = resume_offset(s, o);
            send_to(c, &m);
        }
        free(w);
    }
}

void tier_serve_grant(struct tier_serve *s, const char *child, const struct tier_hash *id) {
    struct offer *o = offer_find(child_find(s, child), id);
    if (!o || o->granted || o->waiting)
        return;
    struct waiting *w = need(calloc(1, sizeof *w));
    snprintf(w->child, sizeof w->child, "%s", child);
    w->id = *id;
    o->waiting = true;
    if (s->wait_last)
        s->wait_last->next = w;
    else
        s->wait_first = w;
    s->wait_last = w;
    grant_next(s);
}

static void place_free(struct tier_serve *s) {
    s->uploaders--;
    grant_next(s);
}

/* ---- Attend ---- */

static void child_gone(struct tier_serve *s, struct child *c) {
    child_remove(s, c);
    unsigned freed = 0;
    while (c->offers) {
        struct offer *o = c->offers;
        c->offers = o->next;
        if (o->push)
            tier_rpc_cancel(o->push->call); /* its end gives the place back */
        else if (o->granted)
            freed++;
        offer_free(o);
    }
    s->uploaders -= freed;
    if (!s->closing) {
        s->events->left(s->owner, c->name);
        grant_next(s);
    }
    free(c);
}

static void attend_opened(struct tier_rpc_call *call) {
    struct tier_serve *s = tier_rpc_user(call);
    struct tier_err err = {0};
    struct attendance *a = need(calloc(1, sizeof *a));

    a->serve = s;
    tier_rpc_set_user(call, a);
    if (tier_rpc_peer_name(call, s->tls, a->name, &err) != TIER_OK) {
        tier_log_warn("refused a child at %s: %s", tier_rpc_peer_address(call), err.text);
        tier_rpc_finish(call, TIER_EIDENTITY, err.text);
        return;
    }
    tier_rpc_read(call);
}

static enum tier_status hello(struct attendance *a, struct tier_rpc_call *call,
                              const struct tier_from_child *m, struct tier_err *err) {
    struct tier_serve *s = a->serve;

    if (m->protocol != TIER_PROTOCOL)
        return tier_fail(err, TIER_EPROTO, "this parent speaks protocol %d, the child %u",
                         TIER_PROTOCOL, m->protocol);
    if (strcmp(m->name, a->name) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "the child says it is '%s', but its certificate is for '%s'", m->name,
                         a->name);
    struct child *old = child_find(s, a->name);
    if (old) {
        struct attendance *before = tier_rpc_user(old->call);
        before->child = NULL;
        tier_rpc_finish(old->call, TIER_ECONFLICT, "replaced by a newer stream of the same node");
        child_gone(s, old);
    }
    struct child *c = need(calloc(1, sizeof *c));
    memcpy(c->name, a->name, sizeof c->name);
    memcpy(c->software, m->software, sizeof c->software);
    c->call = call;
    c->since_ms = tier_wall_ms();
    child_add(s, c);
    a->child = c;
    struct tier_to_child welcome = {.type = TIER_TO_WELCOME, .protocol = TIER_PROTOCOL};
    memcpy(welcome.name, s->name, sizeof welcome.name);
    send_to(c, &welcome);
    enum tier_status st = s->events->attending(s->owner, c->name, err);
    if (st != TIER_OK) {
        child_remove(s, c);
        a->child = NULL;
        free(c);
    }
    return st;
}

static enum tier_status offer(struct attendance *a, const struct tier_from_child *m,
                              struct tier_err *err) {
    struct tier_serve *s = a->serve;
    struct child *c = a->child;
    struct tier_update_header h;
    struct tier_hash id;

    TIER_TRY(tier_update_header_decode(m->header, m->header_bytes, &h, err));
    tier_hash_data(m->header, m->header_bytes, &id);
    if (!offer_find(c, &id)) {
        struct offer *o = need(calloc(1, sizeof *o));
        o->id = id;
        o->header = need(malloc(m->header_bytes));
        memcpy(o->header, m->header, m->header_bytes);
        o->header_bytes = m->header_bytes;
        o->next = c->offers;
        c->offers = o;
    }
    s->events->offered(s->owner, c->name, &id, &h);
    tier_update_header_release(&h);
    return TIER_OK;
}

static enum tier_status from_child(struct attendance *a, struct tier_rpc_call *call,
                                   const struct tier_from_child *m, struct tier_err *err) {
    const struct tier_serve_events *e = a->serve->events;
    void *owner = a->serve->owner;

    if ((m->type == TIER_FROM_HELLO) == (a->child != NULL))
        return tier_fail(err, TIER_EPROTO, "a stream begins with hello, and says it once");
    switch (m->type) {
    case TIER_FROM_HELLO:
        return hello(a, call, m, err);
    case TIER_FROM_ANSWER:
        e->answered(owner, a->child->name, &m->run, m->accepted, m->reason);
        break;
    case TIER_FROM_OFFER:
        return offer(a, m, err);
    case TIER_FROM_DECLINE:
        e->declined(owner, a->child->name, &m->run, m->round, m->reason);
        break;
    case TIER_FROM_PROGRESS:
        e->progressed(owner, a->child->name, &m->run, m->round, m->reason, m->done, m->total);
        break;
    }
    return TIER_OK;
}

static void attend_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct attendance *a = tier_rpc_user(call);
    struct tier_from_child m = {0};
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(message);
    const uint8_t *bytes = tier_rpc_message_flat(message, TIER_UPDATE_HEADER_BYTES_MAX + 4096);
    enum tier_status st = TIER_OK;

    if (!bytes)
        st = tier_fail(&err, TIER_ELIMIT, "a control message of %zu bytes", n);
    if (st == TIER_OK)
        st = tier_wire_from_child(bytes, n, &m, &err);
    if (st == TIER_OK)
        st = from_child(a, call, &m, &err);
    tier_wire_from_child_release(&m);
    if (st != TIER_OK) {
        tier_log_warn("child %s: %s", a->name, err.text);
        tier_rpc_finish(call, st, err.text);
        return;
    }
    tier_rpc_read(call);
}

static void attend_half_closed(struct tier_rpc_call *call) {
    tier_rpc_finish(call, TIER_OK, "");
}

static void attend_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct attendance *a = tier_rpc_user(call);
    (void)status;
    (void)text;
    if (a->child)
        child_gone(a->serve, a->child);
    free(a);
}

static const struct tier_rpc_handler attend_handler = {
    .opened = attend_opened,
    .message = attend_message,
    .half_closed = attend_half_closed,
    .closed = attend_closed,
};

bool tier_serve_send(struct tier_serve *s, const char *child, const struct tier_to_child *m) {
    struct child *c = child_find(s, child);
    if (!c)
        return false;
    bool freed = false;
    if (m->type == TIER_TO_RECEIPT)
        freed = offer_drop(c, &m->receipt.update);
    else if (m->type == TIER_TO_REFUSAL)
        freed = offer_drop(c, &m->update);
    bool sent = send_to(c, m);
    if (freed)
        place_free(s);
    return sent;
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
    if (tier_rpc_peer_name(call, s->tls, p->child, &err) != TIER_OK) {
        tier_rpc_finish(call, TIER_EIDENTITY, err.text);
        return;
    }
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
    struct offer *o = offer_find(child_find(p->serve, p->child), &piece->id);

    if (!o || !o->granted || o->push)
        return tier_fail(err, TIER_ENOTFOUND,
                         "a push must be of an update that was offered on the control stream, "
                         "granted, and is not being pushed already");
    TIER_TRY(tier_spool_receive(p->serve->spool, o->header, o->header_bytes, &p->rx, err));
    p->id = piece->id;
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
        struct child *c = child_find(s, p->child);
        struct offer *o = offer_find(c, &p->id);
        if (o && o->push == p)
            (void)offer_drop(c, &p->id); /* the child offers again if it still has to */
        place_free(s);
    }
    free(p);
}

static const struct tier_rpc_handler push_handler = {
    .opened = push_opened,
    .message = push_message,
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

/* ---- Fetch ---- */

static void fetch_start_next(struct tier_serve *s) {
    while (s->fetch_first && s->fetching < s->max_uploaders) {
        struct fetch *f = s->fetch_first;
        s->fetch_first = f->next;
        if (!s->fetch_first)
            s->fetch_last = NULL;
        f->queued = false;
        f->started = true;
        s->fetching++;
        s->traffic.fetches++;
        s->traffic.fetched_bytes += f->content.bytes - f->offset;
        f->sender = tier_sender_new(f->call, NULL, tier_content_read, &f->content, f->content.bytes,
                                    f->offset);
        tier_sender_fill(f->sender);
    }
}

static void fetch_opened(struct tier_rpc_call *call) {
    struct fetch *f = need(calloc(1, sizeof *f));
    struct tier_err err = {0};
    char name[TIER_NAME_LEN_MAX + 1];

    f->serve = tier_rpc_user(call);
    f->call = call;
    f->content.fd = -1;
    tier_rpc_set_user(call, f);
    if (tier_rpc_peer_name(call, f->serve->tls, name, &err) != TIER_OK)
        tier_rpc_finish(call, TIER_EIDENTITY, err.text);
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

    if (st == TIER_OK)
        st = tier_content_open(s->models_dir, &request.sha256, &f->content, &err);
    if (st == TIER_OK && request.offset > f->content.bytes)
        st = tier_fail(&err, TIER_EARG, "an offset past the end of the file");
    if (st != TIER_OK) {
        tier_rpc_finish(call, st, err.text);
        return;
    }
    f->offset = request.offset;
    f->queued = true;
    if (s->fetch_last)
        s->fetch_last->next = f;
    else
        s->fetch_first = f;
    s->fetch_last = f;
    fetch_start_next(s);
}

static void fetch_sent(struct tier_rpc_call *call) {
    struct fetch *f = tier_rpc_user(call);
    if (f->sender)
        tier_sender_fill(f->sender);
}

static void fetch_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct fetch *f = tier_rpc_user(call);
    struct tier_serve *s = f->serve;
    (void)status;
    (void)text;

    if (f->queued) {
        struct fetch *before = NULL;
        for (struct fetch *at = s->fetch_first; at != f; at = at->next)
            before = at;
        if (before)
            before->next = f->next;
        else
            s->fetch_first = f->next;
        if (s->fetch_last == f)
            s->fetch_last = before;
    }
    if (f->started)
        s->fetching--;
    tier_sender_free(f->sender);
    tier_content_close(&f->content);
    free(f);
    if (!s->closing)
        fetch_start_next(s);
}

static const struct tier_rpc_handler fetch_handler = {
    .opened = fetch_opened,
    .message = fetch_message,
    .sent = fetch_sent,
    .closed = fetch_closed,
};

/* ---- life cycle ---- */

enum tier_status tier_serve_new(struct tier_loop *loop, const struct tier_serve_options *options,
                                struct tier_spool *spool, const struct tier_serve_events *events,
                                void *owner, struct tier_serve **out, struct tier_err *err) {
    struct tier_serve *s = need(calloc(1, sizeof *s));
    const struct tier_rpc_method own[] = {{TIER_PATH_ATTEND, &attend_handler},
                                          {TIER_PATH_PUSH, &push_handler},
                                          {TIER_PATH_FETCH, &fetch_handler}};
    size_t own_count = sizeof own / sizeof own[0];

    s->loop = loop;
    s->spool = spool;
    s->events = events;
    s->owner = owner;
    s->tls = options->tls != NULL;
    s->max_uploaders = options->max_uploaders ? options->max_uploaders : 8;
    snprintf(s->name, sizeof s->name, "%s", options->name);
    s->models_dir = need(strdup(options->models_dir));
    s->staging = need(malloc(TIER_MESSAGE_BYTES_MAX));
    s->methods = need(calloc(own_count + options->more_count, sizeof *s->methods));
    memcpy(s->methods, own, sizeof own);
    if (options->more_count)
        memcpy(s->methods + own_count, options->more, options->more_count * sizeof *s->methods);
    enum tier_status st =
        tier_rpc_server_new(loop, options->address, options->tls, options->keepalive, s->methods,
                            own_count + options->more_count, s, &s->server, err);
    if (st != TIER_OK) {
        tier_serve_free(s);
        return st;
    }
    *out = s;
    return TIER_OK;
}

void tier_serve_free(struct tier_serve *s) {
    if (!s)
        return;
    s->closing = true;
    tier_rpc_server_free(s->server);
    while (s->wait_first) {
        struct waiting *w = s->wait_first;
        s->wait_first = w->next;
        free(w);
    }
    free(s->methods);
    free(s->staging);
    free(s->models_dir);
    free(s);
}

int tier_serve_port(const struct tier_serve *s) {
    return tier_rpc_server_port(s->server);
}

enum tier_status tier_serve_reload(struct tier_serve *s, const struct tier_rpc_tls *tls,
                                   struct tier_err *err) {
    return tier_rpc_server_reload(s->server, tls, err);
}

void *tier_serve_owner(const struct tier_serve *s) {
    return s->owner;
}

void tier_serve_each(const struct tier_serve *s,
                     void (*fn)(void *arg, const struct tier_serve_child_info *info), void *arg) {
    for (const struct child *c = s->children; c; c = c->next) {
        struct tier_serve_child_info info = {c->name, tier_rpc_peer_address(c->call), c->software,
                                             c->since_ms};
        fn(arg, &info);
    }
}

size_t tier_serve_count(const struct tier_serve *s) {
    return s->child_count;
}

struct tier_serve_traffic tier_serve_traffic(const struct tier_serve *s) {
    return s->traffic;
}
