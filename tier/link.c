/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Losing the parent is normal: a stream that ends for whatever reason is opened again after a
 * random delay, whose bound doubles up to ten seconds, or begins with what a parent of many asked
 * for. Pushes and fetches run as calls of their own beside the stream and resume by offset, so a
 * cut costs at most the chunks that were on the wire.
 */
#include "tier/identity.h"
#include "tier/link_private.h"
#include "tier/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define RETRY_MS_FIRST 1000
#define REOFFER_MS 1000

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

void tier_link_drop(struct tier_link *link, const char *reason) {
    if (!link->stream || link->dropped || link->closing)
        return;
    tier_log_error("parent %s: %s: the stream is ended, and opened again in %u s",
                   link->parent_name, reason, TIER_PARENT_PAUSE_MS / 1000);
    link->dropped = true;
    tier_rpc_cancel(link->stream);
}

void tier_link_fault(struct tier_link *link) {
    uint64_t now = tier_clock_ms(), forgiven = (now - link->faults_at_ms) / 1000;

    link->faults -= forgiven < link->faults ? forgiven : link->faults;
    link->faults_at_ms += forgiven * 1000;
    if (link->faults < TIER_PARENT_FAULTS_MAX)
        link->faults++;
    else {
        char reason[96];
        snprintf(reason, sizeof reason, "more than %u refused, repeated or contradictory messages",
                 TIER_PARENT_FAULTS_MAX);
        tier_link_drop(link, reason);
    }
}

/* ---- pushing ---- */

static void push_release(struct push *p) {
    tier_sender_free(p->sender);
    tier_spool_update_close(p->update);
    tier_timer_free(p->again);
    free(p);
}

static void push_free(struct push *p) {
    for (struct push **at = &p->link->pushes; *at; at = &(*at)->next) {
        if (*at == p) {
            *at = p->next;
            break;
        }
    }
    push_release(p);
}

static void push_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct push *p = tier_rpc_user(call);
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, 4096);

    if (bytes && tier_wire_receipt(bytes, n, &p->receipt, &err) == TIER_OK) {
        p->have_receipt = true;
    } else {
        tier_log_warn("parent's receipt cannot be read: %s", bytes ? err.text : "too long");
        tier_link_fault(p->link);
    }
    tier_rpc_read(call);
}

static void push_sent(struct tier_rpc_call *call) {
    struct push *p = tier_rpc_user(call);
    tier_sender_fill(p->sender);
}

static void push_offer_again(void *arg) {
    struct push *p = arg;
    struct tier_link *link = p->link;
    struct tier_hash id = p->id;
    struct tier_err err = {0};

    push_free(p);
    if (tier_link_offer(link, &id, &err) != TIER_OK)
        tier_log_warn("cannot offer again: %s", err.text);
}

static void push_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct push *p = tier_rpc_user(call);
    struct tier_link *link = p->link;
    p->call = NULL;
    if (link->closing || (status == TIER_OK && p->have_receipt)) {
        struct tier_to_child m = {.type = TIER_TO_RECEIPT, .receipt = p->receipt};
        push_free(p);
        if (!link->closing)
            link->events->message(link->owner, &m);
        return;
    }
    bool for_good = status == TIER_EARG || status == TIER_EPOLICY || status == TIER_ECONFLICT ||
                    status == TIER_ELATE;
    link->events->push_failed(link->owner, &p->id, for_good, text);
    if (for_good) {
        push_free(p);
        tier_link_fault(link);
        return;
    }
    /* With the stream down, `up` makes the owner offer again; this is for a stream that holds. */
    p->again = tier_timer_new(link->loop, push_offer_again, p);
    tier_timer_set(p->again, REOFFER_MS);
}

static const struct tier_rpc_handler push_handler = {
    .message = push_message,
    .sent = push_sent,
    .closed = push_closed,
};

static enum tier_status read_update(void *source, uint64_t offset, void *out, size_t n,
                                    struct tier_err *err) {
    struct push *p = source;
    TIER_TRY(tier_spool_update_read(p->update, offset, out, n, err));
    p->link->traffic.pushed_bytes += n;
    return TIER_OK;
}

static size_t offered_at(const struct tier_link *link, const struct tier_hash *id) {
    size_t i = 0;
    while (i < TIER_CHILD_OFFERS_MAX && !tier_hash_equal(&link->offered[i], id))
        i++;
    return i;
}

/* A hub's spool holds its children's updates too, which are nobody else's business: a parent gets
 * what it was offered and nothing else, whatever it asks for. */
static bool grant_fits(struct tier_link *link, const struct tier_hash *id) {
    char hex[TIER_HASH_HEX];
    size_t i = offered_at(link, id);

    if (i == TIER_CHILD_OFFERS_MAX || tier_hash_is_zero(id)) {
        tier_log_warn("parent %s grants update %.12s, which was not offered to it: ignored",
                      link->parent_name, tier_hash_hex(id, hex));
        tier_link_fault(link);
        return false;
    }
    if (link->granted[i])
        tier_link_fault(link); /* an update that was damaged there is wanted again: seldom */
    link->granted[i] = true;
    return !link->dropped;
}

static void granted(struct tier_link *link, const struct tier_hash *id, uint64_t offset) {
    struct tier_err err = {0};
    struct push *p;

    if (!grant_fits(link, id))
        return;
    for (p = link->pushes; p; p = p->next)
        if (tier_hash_equal(&p->id, id))
            break;
    if (p && p->call)
        return; /* it is on its way */
    if (p)
        push_free(p);
    p = need(calloc(1, sizeof *p));
    p->link = link;
    p->id = *id;
    p->next = link->pushes;
    link->pushes = p;
    if (tier_spool_update_open(link->spool, id, &p->update, &err) != TIER_OK) {
        link->events->push_failed(link->owner, id, true, err.text);
        push_free(p);
        return;
    }
    uint64_t total = tier_spool_update_header(p->update)->payload_bytes;
    if (offset > total) {
        tier_log_warn("parent %s grants an update of %" PRIu64 " bytes from byte %" PRIu64
                      " on: ignored",
                      link->parent_name, total, offset);
        push_free(p);
        tier_link_fault(link);
        return;
    }
    p->call = tier_rpc_call_new(link->channel, TIER_PATH_PUSH, &push_handler, p, 0);
    p->sender = tier_sender_new(p->call, id, NULL, read_update, p, total, offset);
    tier_rpc_read(p->call);
    tier_sender_fill(p->sender);
}

enum tier_status tier_link_offer(struct tier_link *link, const struct tier_hash *id,
                                 struct tier_err *err) {
    struct tier_update *u;
    struct tier_from_child m = {.type = TIER_FROM_OFFER};

    TIER_TRY(tier_spool_update_open(link->spool, id, &u, err));
    m.header = tier_spool_update_header_bytes(u, &m.header_bytes);
    size_t at = offered_at(link, id);
    if (at == TIER_CHILD_OFFERS_MAX)
        at = link->offered_next++ % TIER_CHILD_OFFERS_MAX;
    link->offered[at] = *id;
    link->granted[at] = false;
    if (tier_link_send(link, &m))
        link->traffic.header_bytes += m.header_bytes;
    tier_spool_update_close(u);
    return TIER_OK;
}

/* ---- attending ---- */

static void connect_now(void *arg);

/* Anywhere between the least delay and the present one: children that lost a parent together must
 * not all come back at once. */
static uint64_t retry_delay(const struct tier_link *link) {
    uint32_t r = 0;
    if (getrandom(&r, sizeof r, GRND_NONBLOCK) != (ssize_t)sizeof r)
        r = (uint32_t)tier_clock_ms();
    return LINK_RETRY_MS_MIN + r % link->retry_ms;
}

static void lost(struct tier_link *link, const char *reason) {
    bool was_up = link->up;
    link->up = false;
    link->stream = NULL;
    if (link->closing)
        return;
    if (was_up || strcmp(reason, link->last_reason) != 0)
        tier_log_warn("no stream to parent %s: %s", link->parent_name, reason);
    snprintf(link->last_reason, sizeof link->last_reason, "%s", reason);
    if (was_up) {
        link->retry_ms = link->first_ms;
        link->events->down(link->owner, reason);
    }
    tier_timer_cancel(link->welcome);
    tier_timer_set(link->retry, link->dropped ? TIER_PARENT_PAUSE_MS : retry_delay(link));
    link->dropped = false;
    unsigned most = link->first_ms > LINK_RETRY_MS_MAX ? link->first_ms : LINK_RETRY_MS_MAX;
    link->retry_ms = link->retry_ms * 2 > most ? most : link->retry_ms * 2;
}

/* Whether the guard refuses the parent: then the stream ends. */
static bool leaves_refused(struct tier_link *link, struct tier_rpc_call *stream) {
    struct tier_err err = {0};
    if (!link->guard || link->guard(link->guard_arg, stream, &err) == TIER_OK)
        return false;
    tier_log_error("parent %s is not attended: %s", link->parent_name, err.text);
    tier_rpc_cancel(stream);
    return true;
}

static void stream_opened(struct tier_rpc_call *call) {
    struct tier_link *link = tier_rpc_user(call);
    struct tier_from_child hello = {.type = TIER_FROM_HELLO, .protocol = TIER_PROTOCOL};
    struct tier_identity id;
    struct tier_err err = {0};

    if (link->tls && (tier_identity_parse_spiffe(tier_rpc_peer_uri(call), &id, &err) != TIER_OK ||
                      strcmp(id.name, link->parent_name) != 0)) {
        tier_log_error("the parent's certificate is not that of '%s'", link->parent_name);
        tier_rpc_cancel(call);
        return;
    }
    if (leaves_refused(link, call))
        return;
    free(link->parent_cert);
    link->parent_cert = need(strdup(tier_rpc_peer_cert(call)));
    snprintf(hello.name, sizeof hello.name, "%s", link->name);
    snprintf(hello.software, sizeof hello.software, "consilium %s", CONSILIUM_VERSION);
    struct tier_bytes b = tier_wire_from_child_bytes(&hello);
    tier_rpc_send(call, b.data, b.n);
    free(b.data);
    tier_rpc_read(call);
}

/* Welcome comes first, once, and from the parent that is configured. */
static enum tier_status check_welcome(const struct tier_link *link, const struct tier_to_child *m,
                                      struct tier_err *err) {
    bool welcome = m->type == TIER_TO_WELCOME;

    if (welcome == link->up)
        return tier_fail(err, TIER_EPROTO, "a parent begins with welcome, and says it once");
    if (welcome && m->protocol != TIER_PROTOCOL)
        return tier_fail(err, TIER_EPROTO, "the parent speaks protocol %u, this child %d",
                         m->protocol, TIER_PROTOCOL);
    if (welcome && strcmp(m->name, link->parent_name) != 0)
        return tier_fail(err, TIER_EIDENTITY, "it says it is '%s'; '%s' is configured", m->name,
                         link->parent_name);
    return TIER_OK;
}

static void on_no_welcome(void *arg) {
    struct tier_link *link = arg;
    if (link->up || !link->stream || link->closing)
        return;
    tier_log_warn("parent %s has not said welcome for %u s", link->parent_name,
                  TIER_WELCOME_MS / 1000);
    tier_rpc_cancel(link->stream);
}

static void stream_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct tier_link *link = tier_rpc_user(call);
    struct tier_to_child m = {0};
    struct tier_err err = {0};
    if (link->closing || link->dropped)
        return;
    size_t n = tier_rpc_message_bytes(message);
    const uint8_t *bytes = tier_rpc_message_flat(message, TIER_CONTROL_BYTES_MAX);
    enum tier_status st =
        bytes ? tier_wire_to_child(bytes, n, &m, &err)
              : tier_fail(&err, TIER_ELIMIT, "a control message of %zu bytes, at most %u are right",
                          n, TIER_CONTROL_BYTES_MAX);

    if (st == TIER_OK)
        st = check_welcome(link, &m, &err);
    if (st != TIER_OK) {
        tier_log_error("parent %s: %s", link->parent_name, err.text);
        tier_wire_to_child_release(&m);
        tier_link_fault(link);
        tier_rpc_cancel(call);
        return;
    }
    if (m.type == TIER_TO_WELCOME) {
        tier_link_fault(link); /* a stream that comes and goes costs lines too */
        link->up = true;
        link->first_ms = m.return_ms > RETRY_MS_FIRST ? m.return_ms : RETRY_MS_FIRST;
        tier_timer_cancel(link->welcome);
        link->last_reason[0] = '\0';
        tier_log_info("attending parent %s", link->parent_name);
        link->events->up(link->owner, link->parent_name);
    } else if (m.type == TIER_TO_GRANT) {
        granted(link, &m.update, m.offset);
    } else {
        link->events->message(link->owner, &m);
    }
    tier_wire_to_child_release(&m);
    if (!link->dropped)
        tier_rpc_read(call);
}

static void stream_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct tier_link *link = tier_rpc_user(call);
    lost(link, *text ? text : tier_status_text(status));
}

static const struct tier_rpc_handler stream_handler = {
    .opened = stream_opened,
    .message = stream_message,
    .closed = stream_closed,
};

static void connect_now(void *arg) {
    struct tier_link *link = arg;
    link->stale = false;
    link->stream = tier_rpc_call_new(link->channel, TIER_PATH_ATTEND, &stream_handler, link, 0);
    tier_timer_set(link->welcome, TIER_WELCOME_MS);
}

enum tier_status tier_link_new(struct tier_loop *loop, const struct tier_link_options *o,
                               struct tier_spool *spool, const struct tier_link_events *events,
                               void *owner, struct tier_link **out, struct tier_err *err) {
    struct tier_link *link = need(calloc(1, sizeof *link));

    link->loop = loop;
    link->spool = spool;
    link->events = events;
    link->owner = owner;
    link->tls = o->tls != NULL;
    link->guard = o->guard;
    link->guard_arg = o->guard_arg;
    link->retry_ms = link->first_ms = RETRY_MS_FIRST;
    snprintf(link->name, sizeof link->name, "%s", o->name);
    snprintf(link->parent_name, sizeof link->parent_name, "%s", o->parent_name);
    link->models_dir = need(strdup(o->models_dir));
    link->retry = tier_timer_new(loop, connect_now, link);
    link->welcome = tier_timer_new(loop, on_no_welcome, link);
    link->faults_at_ms = tier_clock_ms();
    enum tier_status st = TIER_OK;
    if (!o->intake)
        st = tier_intake_new(loop, 0, &link->own_intake, err);
    link->intake = o->intake ? o->intake : link->own_intake;
    if (st == TIER_OK)
        st = tier_rpc_channel_new(loop, o->parent_address, o->parent_name, o->name, o->tls,
                                  o->keepalive, &link->channel, err);
    if (st != TIER_OK) {
        tier_link_free(link);
        return st;
    }
    tier_timer_set(link->retry, 0);
    *out = link;
    return TIER_OK;
}

static bool absorbed_all(void *arg) {
    const struct tier_link *link = arg;
    for (const struct fetch *f = link->fetches; f; f = f->next)
        if (f->opening || f->strand)
            return false;
    return true;
}

void tier_link_free(struct tier_link *link) {
    if (!link)
        return;
    link->closing = true;
    tier_timer_free(link->retry);
    tier_timer_free(link->welcome);
    link->welcome = NULL;
    tier_rpc_channel_free(link->channel); /* ends every call, which frees what hangs on it */
    tier_loop_run_until(link->loop, absorbed_all, link, UINT32_MAX);
    while (link->pushes) {
        struct push *p = link->pushes;
        link->pushes = p->next;
        push_release(p);
    }
    while (link->fetches) {
        struct fetch *f = link->fetches;
        link->fetches = f->next;
        link_fetch_release(f, TIER_ECANCELLED, "the node stops");
    }
    tier_intake_free(link->own_intake);
    free(link->parent_cert);
    free(link->models_dir);
    free(link);
}

enum tier_status tier_link_reload(struct tier_link *link, const struct tier_rpc_tls *tls,
                                  struct tier_err *err) {
    TIER_TRY(tier_rpc_channel_reload(link->channel, tls, err));
    link->stale = link->stream != NULL;
    return TIER_OK;
}

bool tier_link_refresh(struct tier_link *link, bool at_once) {
    if (link->stale && (at_once || (!link->pushes && !link->fetches))) {
        link->stale = false;
        if (link->stream)
            tier_rpc_cancel(link->stream);
    }
    return !link->stale;
}

void tier_link_recheck(struct tier_link *link) {
    if (link->stream && link->up)
        (void)leaves_refused(link, link->stream);
}

struct tier_rpc_channel *tier_link_channel(struct tier_link *link) {
    return link->channel;
}

bool tier_link_send(struct tier_link *link, const struct tier_from_child *m) {
    if (!link->up || !link->stream)
        return false;
    struct tier_bytes b = tier_wire_from_child_bytes(m);
    bool sent = tier_rpc_send(link->stream, b.data, b.n);
    free(b.data);
    return sent;
}

struct tier_link_traffic tier_link_traffic(const struct tier_link *link) {
    return link->traffic;
}

const char *tier_link_parent_cert(const struct tier_link *link) {
    return link->parent_cert ? link->parent_cert : "";
}
