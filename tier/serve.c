/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child is known by the name in its certificate. One stream attends under a name at a time: a new
 * one replaces the old, because after a cut the child comes back before the parent has noticed.
 */
#include "tier/identity.h"
#include "tier/log.h"
#include "tier/serve_private.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static size_t bucket_of(const char *name) {
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const char *p = name; *p; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    return h % SERVE_CHILD_BUCKETS;
}

struct child *serve_child_find(const struct tier_serve *s, const char *name) {
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
    if (s->child_count > s->child_most)
        s->child_most = s->child_count;
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

unsigned serve_child_places(const struct tier_serve *s) {
    unsigned half = s->max_uploaders / 2;
    if (half == 0)
        return 1;
    return half < TIER_CHILD_TRANSFERS_MAX ? half : TIER_CHILD_TRANSFERS_MAX;
}

bool serve_send_to(struct child *c, const struct tier_to_child *m) {
    struct tier_bytes b = tier_wire_to_child_bytes(m);
    bool sent = tier_rpc_send(c->call, b.data, b.n);
    free(b.data);
    if (!sent)
        tier_log_warn("child %s does not take its messages: closing its stream", c->name);
    if (!sent)
        tier_rpc_cancel(c->call);
    return sent;
}

/* ---- Attend ---- */

static void child_gone(struct tier_serve *s, struct child *c) {
    child_remove(s, c);
    while (c->offers) {
        if (c->offers->push && c->offers->push->call)
            tier_rpc_cancel(c->offers->push->call); /* its end gives the place back */
        serve_offer_forget(s, c->offers);
    }
    if (!s->closing) {
        s->events->left(s->owner, c->name);
        serve_grant_next(s);
    }
    free(c);
}

static void no_longer_silent(struct attendance *a) {
    struct attendance **at = &a->serve->silent;
    while (a->silent && *at != a)
        at = &(*at)->next;
    if (a->silent)
        *at = a->next;
    a->silent = false;
}

static void attend_opened(struct tier_rpc_call *call) {
    struct tier_serve *s = tier_rpc_user(call);
    struct tier_err err = {0};
    struct attendance *a = need(calloc(1, sizeof *a));

    a->serve = s;
    a->call = call;
    tier_rpc_set_user(call, a);
    if (tier_rpc_peer_name(call, s->tls, a->name, &err) != TIER_OK) {
        tier_log_warn("refused a child at %s: %s", tier_rpc_peer_address(call), err.text);
        tier_rpc_finish(call, TIER_EIDENTITY, err.text);
        return;
    }
    unsigned others = 0;
    for (const struct attendance *o = s->silent; o; o = o->next)
        others += strcmp(o->name, a->name) == 0;
    if (others >= TIER_CHILD_CALLS_MAX) {
        tier_fail(&err, TIER_ELIMIT, "%u streams of this child are open and have not said hello",
                  others);
        tier_rpc_finish(call, TIER_ELIMIT, err.text);
        return;
    }
    a->silent = true;
    a->since_ms = tier_clock_ms();
    a->next = s->silent;
    s->silent = a;
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
    no_longer_silent(a);
    struct child *old = serve_child_find(s, a->name);
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
    uint64_t return_ms = (uint64_t)s->child_most * TIER_RETURN_MS_PER_CHILD;
    if (return_ms > TIER_RETURN_MS_MAX)
        return_ms = TIER_RETURN_MS_MAX;
    struct tier_to_child welcome = {
        .type = TIER_TO_WELCOME, .protocol = TIER_PROTOCOL, .return_ms = (uint32_t)return_ms};
    memcpy(welcome.name, s->name, sizeof welcome.name);
    serve_send_to(c, &welcome);
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
    enum tier_status st = TIER_OK;
    if (!serve_offer_find(c, &id))
        st = serve_offer_add(c, &id, m->header, m->header_bytes, err);
    if (st == TIER_OK)
        s->events->offered(s->owner, c->name, &id, &h);
    tier_update_header_release(&h);
    struct offer *o = serve_offer_find(c, &id);
    if (o && !o->granted && !o->waiting)
        serve_offer_forget(s, o); /* what the owner does not want is not kept */
    return st;
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
        e->answered(owner, a->child->name, &m->run, m->accepted, m->waiting, m->reason);
        break;
    case TIER_FROM_OFFER:
        return offer(a, m, err);
    case TIER_FROM_DECLINE:
        e->declined(owner, a->child->name, &m->run, m->round, m->reason);
        break;
    case TIER_FROM_WITHDRAW:
        if (e->withdrew)
            e->withdrew(owner, a->child->name, &m->run, m->round, &m->update, m->reason);
        break;
    case TIER_FROM_PROGRESS:
        e->progressed(owner, a->child->name, &m->run, m->round, m->reason, m->done, m->total);
        break;
    case TIER_FROM_SECURE:
        if (e->secured)
            e->secured(owner, a->child->name, &m->run, m->round, &m->secure);
        break;
    case TIER_FROM_QUOTE:
        if (e->quoted)
            e->quoted(owner, a->child->name, m);
        break;
    case TIER_FROM_HEAD:
        if (e->showed)
            e->showed(owner, a->child->name, &m->head);
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
    no_longer_silent(a);
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

const char *tier_serve_child_cert(const struct tier_serve *s, const char *child) {
    const struct child *c = serve_child_find(s, child);
    return c && s->tls ? tier_rpc_peer_cert(c->call) : "";
}

bool tier_serve_send(struct tier_serve *s, const char *child, const struct tier_to_child *m) {
    struct child *c = serve_child_find(s, child);
    if (!c)
        return false;
    struct offer *over = NULL;
    if (m->type == TIER_TO_RECEIPT)
        over = serve_offer_find(c, &m->receipt.update);
    else if (m->type == TIER_TO_REFUSAL)
        over = serve_offer_find(c, &m->update);
    if (over)
        serve_offer_forget(s, over);
    bool sent = serve_send_to(c, m);
    if (over)
        serve_grant_next(s);
    return sent;
}

/* Bytes that many streams send, until the last has. */
struct shared {
    atomic_size_t holders;
    struct tier_bytes b;
};

static void shared_release(void *arg) {
    struct shared *s = arg;
    if (atomic_fetch_sub(&s->holders, 1) != 1)
        return;
    free(s->b.data);
    free(s);
}

void tier_serve_send_all(struct tier_serve *serve, const struct tier_to_child *m) {
    struct shared *s = need(calloc(1, sizeof *s));

    s->b = tier_wire_to_child_bytes(m);
    atomic_init(&s->holders, 1);
    for (struct child *c = serve->children; c; c = c->next) {
        atomic_fetch_add(&s->holders, 1);
        if (tier_rpc_send_payload(c->call, "", 0, s->b.data, s->b.n, shared_release, s))
            continue;
        tier_log_warn("child %s does not take its messages: closing its stream", c->name);
        tier_rpc_cancel(c->call);
    }
    shared_release(s);
}

void tier_serve_dismiss(struct tier_serve *s, const char *child, enum tier_status st,
                        const char *text) {
    struct child *c = serve_child_find(s, child);
    if (!c)
        return;
    tier_log_warn("child %s: %s", child, text);
    tier_rpc_finish(c->call, st, text);
}

/* Streams and transfers that only take up room. */
static void sweep(void *arg) {
    struct tier_serve *s = arg;
    uint64_t now = tier_clock_ms();

    for (const struct attendance *a = s->silent; a; a = a->next)
        if (now - a->since_ms >= s->stall_ms)
            tier_rpc_finish(a->call, TIER_EPROTO, "no hello came");
    serve_push_sweep(s, now);
    serve_fetch_sweep(s, now);
    tier_timer_set(s->sweep, s->stall_ms / 4);
}

/* ---- life cycle ---- */

enum tier_status tier_serve_new(struct tier_loop *loop, const struct tier_serve_options *options,
                                struct tier_spool *spool, const struct tier_serve_events *events,
                                void *owner, struct tier_serve **out, struct tier_err *err) {
    struct tier_serve *s = need(calloc(1, sizeof *s));
    const struct tier_rpc_method own[] = {{TIER_PATH_ATTEND, &attend_handler},
                                          {TIER_PATH_PUSH, &serve_push_handler},
                                          {TIER_PATH_FETCH, &serve_fetch_handler}};
    size_t own_count = sizeof own / sizeof own[0];

    s->loop = loop;
    s->spool = spool;
    s->events = events;
    s->owner = owner;
    s->tls = options->tls != NULL;
    s->stall_ms = options->stall_ms ? options->stall_ms : TIER_STALL_MS;
    s->max_uploaders = options->max_uploaders ? options->max_uploaders : 8;
    snprintf(s->name, sizeof s->name, "%s", options->name);
    s->models_dir = need(strdup(options->models_dir));
    s->methods = need(calloc(own_count + options->more_count, sizeof *s->methods));
    memcpy(s->methods, own, sizeof own);
    if (options->more_count)
        memcpy(s->methods + own_count, options->more, options->more_count * sizeof *s->methods);
    enum tier_status st = TIER_OK;
    if (!options->intake)
        st = tier_intake_new(loop, 0, &s->own_intake, err);
    s->intake = options->intake ? options->intake : s->own_intake;
    if (st == TIER_OK)
        st = tier_rpc_server_new(loop, options->address, options->tls, options->keepalive,
                                 s->methods, own_count + options->more_count, s, &s->server, err);
    if (st != TIER_OK) {
        tier_serve_free(s);
        return st;
    }
    tier_rpc_server_guard(s->server, options->guard, options->guard_arg);
    s->sweep = tier_timer_new(loop, sweep, s);
    tier_timer_set(s->sweep, s->stall_ms / 4);
    *out = s;
    return TIER_OK;
}

static bool absorbed_all(void *arg) {
    const struct tier_serve *s = arg;
    return !s->pushes && s->openings == 0;
}

void tier_serve_free(struct tier_serve *s) {
    if (!s)
        return;
    s->closing = true;
    tier_timer_free(s->sweep);
    tier_rpc_server_free(s->server);
    tier_loop_run_until(s->loop, absorbed_all, s, UINT32_MAX);
    tier_intake_free(s->own_intake);
    free(s->methods);
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

void tier_serve_recheck(struct tier_serve *s) {
    tier_rpc_server_recheck(s->server);
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
