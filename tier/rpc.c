/* SPDX-License-Identifier: Apache-2.0 */
/* What a call does at either end: sending, receiving, ending. */
#include "tier/rpc_private.h"
#include "tier/cert.h"
#include "tier/log.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <malloc.h>
#include <openssl/conf.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define SEND_QUEUE_MAX 1024
#define LOOKAHEAD_BYTES (256 << 10)
#define READ_BYTES (64 << 10)

struct tier_rpc_message {
    grpc_byte_buffer *bytes; /* NULL once it was taken */
    grpc_byte_buffer_reader reader;
    grpc_slice flat;
    bool have_flat;
};

/* ---- process ---- */

/* What the core says of a handshake, and what it means to the person who reads the log. */
static const struct {
    const char *core, *words;
} refusals[] = {
    {"peer did not return a certificate", "a connection without a certificate was refused"},
    {"certificate verify failed",
     "a connection was refused: the certificate at its other end is not of this node's authority, "
     "or has expired"},
    {"alert unknown ca",
     "the other end refuses this node's certificate: it belongs to another authority"},
    {"alert certificate expired", "the other end refuses this node's certificate: it has expired"},
    {"alert bad certificate", "the other end refuses this node's certificate"},
    {"alert certificate unknown", "the other end refuses this node's certificate"},
    {"unsupported protocol", "a connection was refused: its other end does not speak TLS 1.3"},
    {"alert protocol version", "the other end refuses a connection: it does not speak TLS 1.3"},
    {"wrong version number", "a connection that does not speak TLS was refused"},
    {"http request", "a connection that does not speak TLS was refused"},
};

static void core_log(gpr_log_func_args *args) {
    /* The core reports failed handshakes here and nowhere else. */
    if (args->severity != GPR_LOG_SEVERITY_ERROR)
        return;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        if (strstr(args->message, refusals[i].core)) {
            tier_log_warn("%s (grpc: %s)", refusals[i].words, args->message);
            return;
        }
    tier_log_warn("grpc: %s", args->message);
}

/*
 * TLS 1.3 and nothing older, at both ends. The core sets TLS 1.2 as the least itself and has no
 * option for it, but it leaves alone what is switched off: OpenSSL reads this section for every
 * context that is made in this process, in place of the system's own.
 */
static void tls13_only(void) {
    static const char section[] = "openssl_conf = consilium\n"
                                  "[consilium]\nssl_conf = profiles\n"
                                  "[profiles]\nsystem_default = transport\n"
                                  "[transport]\nProtocol = -TLSv1, -TLSv1.1, -TLSv1.2\n";
    /* First the system's, which would otherwise be read later and take its place. */
    OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL);
    ERR_clear_error();
    BIO *text = BIO_new_mem_buf(section, (int)sizeof section - 1);
    CONF *conf = NCONF_new(NULL);
    if (!text || !conf || NCONF_load_bio(conf, text, NULL) != 1 ||
        CONF_modules_load(conf, NULL, 0) != 1) {
        tier_log_error("cannot switch TLS 1.2 off");
        abort();
    }
    NCONF_free(conf);
    BIO_free(text);
}

void tier_rpc_process_init(void) {
    tls13_only();
    /*
     * Received slices come from malloc. With glibc's defaults each large one is an mmap, a fault
     * per page and a munmap: half the speed of a plain-text stream. Keep them on the heap.
     */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    mallopt(M_TOP_PAD, 16 << 20);
    /* Slices go back to the heap they came from, whichever thread frees them: further heaps would
     * only keep what a fold or a publication needed for a moment. */
    mallopt(M_ARENA_MAX, 1);
    /*
     * Every connection keeps a buffer ready for what it reads next. The core makes it twice as
     * large whenever it was filled, without a bound and for good: megabytes for each child that
     * has pushed. Reading as it did before that came has a bound, READ_BYTES. An operator's own
     * choice stands.
     */
    setenv("GRPC_EXPERIMENTS", "-tcp_read_chunks", 0);
    signal(SIGPIPE, SIG_IGN);
    gpr_set_log_function(core_log);
    gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

char *rpc_dup(const char *s) {
    if (!s)
        return NULL;
    char *copy = strdup(s);
    if (!copy)
        abort();
    return copy;
}

grpc_arg rpc_int_arg(const char *key, int value) {
    grpc_arg a = {.type = GRPC_ARG_INTEGER, .key = (char *)key};
    a.value.integer = value;
    return a;
}

size_t rpc_common_args(grpc_arg *a, const struct tier_rpc_keepalive *k) {
    int time_ms = k && k->time_ms ? (int)k->time_ms : 2000;
    int timeout_ms = k && k->timeout_ms ? (int)k->timeout_ms : 2000;
    size_t n = 0;
    a[n++] = rpc_int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)TIER_MESSAGE_BYTES_MAX);
    a[n++] = rpc_int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, time_ms);
    a[n++] = rpc_int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, timeout_ms);
    a[n++] = rpc_int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    a[n++] = rpc_int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    /*
     * The core would widen each stream's window to what it takes for the network's delay, which on
     * a busy receiver is its own: hundreds of megabytes. A fixed look-ahead beside the one message
     * that was asked for bounds memory by the number of streams.
     */
    a[n++] = rpc_int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    a[n++] = rpc_int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD_BYTES);
    a[n++] = rpc_int_arg(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, READ_BYTES);
    return n;
}

/* ---- call life ---- */

void rpc_list_add(struct tier_rpc_call **head, struct tier_rpc_call *c) {
    c->next = *head;
    if (*head)
        (*head)->prev = c;
    *head = c;
}

static void list_remove(struct tier_rpc_call **head, struct tier_rpc_call *c) {
    if (c->prev)
        c->prev->next = c->next;
    else
        *head = c->next;
    if (c->next)
        c->next->prev = c->prev;
}

static void queue_clear(struct tier_rpc_call *c) {
    while (c->queue_first) {
        struct outgoing *o = c->queue_first;
        c->queue_first = o->next;
        grpc_byte_buffer_destroy(o->bytes);
        free(o);
    }
    c->queue_last = NULL;
    c->queue_len = 0;
}

void rpc_unref(struct tier_rpc_call *c) {
    if (--c->refs > 0)
        return;
    queue_clear(c);
    if (c->incoming)
        grpc_byte_buffer_destroy(c->incoming);
    if (c->call)
        grpc_call_unref(c->call);
    grpc_call_details_destroy(&c->details);
    grpc_metadata_array_destroy(&c->initial_md);
    grpc_metadata_array_destroy(&c->trailing_md);
    grpc_slice_unref(c->status_details);
    gpr_free((void *)c->error_string);
    gpr_free(c->peer_address);
    free(c->peer_uri);
    free(c->peer_cert);
    free(c->peer_id);
    free(c->claim);
    if (c->server) {
        list_remove(&c->server->calls, c);
        c->server->live--;
    } else {
        list_remove(&c->channel->calls, c);
        rpc_channel_settle(c->channel);
    }
    free(c);
}

void rpc_start(struct tier_rpc_call *c, const grpc_op *ops, size_t n, struct call_tag *tag) {
    c->refs++;
    grpc_call_error e = grpc_call_start_batch(c->call, ops, n, tag, NULL);
    if (e != GRPC_CALL_OK) { /* only a bug of this file leads here */
        tier_log_error("grpc: batch refused: %s", grpc_call_error_to_string(e));
        abort();
    }
}

char *rpc_slice_text(grpc_slice s) {
    char *text = malloc(GRPC_SLICE_LENGTH(s) + 1);
    if (!text)
        abort();
    memcpy(text, GRPC_SLICE_START_PTR(s), GRPC_SLICE_LENGTH(s));
    text[GRPC_SLICE_LENGTH(s)] = '\0';
    return text;
}

static char *auth_property(grpc_auth_context *auth, const char *name) {
    grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(auth, name);
    const grpc_auth_property *p = grpc_auth_property_iterator_next(&it);
    return p ? strndup(p->value, p->value_length) : NULL;
}

void rpc_learn_peer(struct tier_rpc_call *c) {
    grpc_auth_context *auth = grpc_call_auth_context(c->call);
    if (auth && grpc_auth_context_peer_is_authenticated(auth)) {
        c->peer_uri = auth_property(auth, "peer_spiffe_id");
        c->peer_cert = auth_property(auth, GRPC_X509_PEM_CERT_PROPERTY_NAME);
    }
    grpc_auth_context_release(auth);
    c->peer_address = grpc_call_get_peer(c->call);
}

/* ---- sending and receiving ---- */

void rpc_post_recv(struct tier_rpc_call *c) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->incoming;
    c->reading = true;
    c->read_wanted = false;
    rpc_start(c, &op, 1, &c->on_recv);
}

/* Starts whatever is next to send: a queued message, then the half-close or final status. */
void rpc_pump(struct tier_rpc_call *c) {
    if (c->sending || c->ended || !c->opened)
        return;
    grpc_op op;
    memset(&op, 0, sizeof op);
    if (c->queue_first) {
        struct outgoing *o = c->queue_first;
        op.op = GRPC_OP_SEND_MESSAGE;
        op.data.send_message.send_message = o->bytes;
        c->sending = true;
        rpc_start(c, &op, 1, &c->on_send);
        c->queue_first = o->next;
        if (!c->queue_first)
            c->queue_last = NULL;
        c->queue_len--;
        grpc_byte_buffer_destroy(o->bytes); /* the batch holds its own reference to the slices */
        free(o);
    } else if (c->channel && c->half_close_wanted && !c->half_close_sent) {
        op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        c->half_close_sent = c->sending = true;
        rpc_start(c, &op, 1, &c->on_send);
    } else if (c->server && c->finish_wanted && !c->finish_sent) {
        grpc_slice text = grpc_slice_from_copied_string(c->finish_text);
        op.op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        op.data.send_status_from_server.status =
            (grpc_status_code)tier_status_grpc(c->finish_status);
        op.data.send_status_from_server.status_details = &text;
        c->finish_sent = c->sending = true;
        rpc_start(c, &op, 1, &c->on_send);
        grpc_slice_unref(text);
    }
}

static void on_send(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    c->sending = false;
    if (ok && !c->ended) {
        rpc_pump(c);
        if (!c->finish_wanted && !c->half_close_wanted && c->handler->sent)
            c->handler->sent(c);
    }
    rpc_unref(c);
}

static void message_release(struct tier_rpc_message *m) {
    if (m->have_flat)
        grpc_slice_unref(m->flat);
    grpc_byte_buffer_reader_destroy(&m->reader);
    if (m->bytes)
        grpc_byte_buffer_destroy(m->bytes);
}

static void on_recv(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    c->reading = false;
    if (!ok || !c->incoming) {
        c->peer_finished = true;
        if (c->server && !c->ended && c->handler->half_closed)
            c->handler->half_closed(c);
    } else if (c->ended || c->finish_wanted) {
        grpc_byte_buffer_destroy(c->incoming);
        c->incoming = NULL;
    } else {
        struct tier_rpc_message m = {.bytes = c->incoming};
        c->incoming = NULL;
        if (grpc_byte_buffer_reader_init(&m.reader, m.bytes)) {
            c->handler->message(c, &m);
            message_release(&m);
        } else {
            grpc_byte_buffer_destroy(m.bytes);
        }
        if (c->read_wanted && !c->reading && !c->ended)
            rpc_post_recv(c);
    }
    rpc_unref(c);
}

void rpc_ended(struct tier_rpc_call *c, enum tier_status status, const char *text) {
    c->ended = true;
    queue_clear(c);
    if (c->handler && c->handler->closed)
        c->handler->closed(c, status, text);
}

struct tier_rpc_call *rpc_call_alloc(struct tier_loop *loop) {
    struct tier_rpc_call *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->loop = loop;
    c->refs = 1;
    c->on_recv = (struct call_tag){{on_recv}, c};
    c->on_send = (struct call_tag){{on_send}, c};
    c->status_details = grpc_empty_slice();
    grpc_call_details_init(&c->details);
    grpc_metadata_array_init(&c->initial_md);
    grpc_metadata_array_init(&c->trailing_md);
    return c;
}

void *tier_rpc_user(const struct tier_rpc_call *c) {
    return c->user;
}

void tier_rpc_set_user(struct tier_rpc_call *c, void *user) {
    c->user = user;
}

void tier_rpc_read(struct tier_rpc_call *c) {
    if (c->ended || c->peer_finished || c->reading)
        return;
    if (c->opened && !c->incoming)
        rpc_post_recv(c);
    else
        c->read_wanted = true;
}

static bool enqueue(struct tier_rpc_call *c, grpc_slice *slices, size_t n) {
    bool room =
        !c->ended && !c->finish_wanted && !c->half_close_wanted && c->queue_len < SEND_QUEUE_MAX;
    if (room) {
        struct outgoing *o = calloc(1, sizeof *o);
        if (!o)
            abort();
        o->bytes = grpc_raw_byte_buffer_create(slices, n);
        if (c->queue_last)
            c->queue_last->next = o;
        else
            c->queue_first = o;
        c->queue_last = o;
        c->queue_len++;
    }
    for (size_t i = 0; i < n; i++)
        grpc_slice_unref(slices[i]);
    if (room)
        rpc_pump(c);
    return room;
}

bool tier_rpc_send(struct tier_rpc_call *c, const void *bytes, size_t n) {
    grpc_slice s = grpc_slice_from_copied_buffer(bytes, n);
    return enqueue(c, &s, 1);
}

bool tier_rpc_send_payload(struct tier_rpc_call *c, const void *prefix, size_t prefix_bytes,
                           const void *payload, size_t payload_bytes, void (*release)(void *arg),
                           void *arg) {
    grpc_slice s[2] = {
        grpc_slice_from_copied_buffer(prefix, prefix_bytes),
        grpc_slice_new_with_user_data((void *)payload, payload_bytes, release, arg),
    };
    return enqueue(c, s, 2);
}

size_t tier_rpc_waiting(const struct tier_rpc_call *c) {
    return c->queue_len;
}

void tier_rpc_half_close(struct tier_rpc_call *c) {
    c->half_close_wanted = true;
    rpc_pump(c);
}

void tier_rpc_finish(struct tier_rpc_call *c, enum tier_status status, const char *text) {
    if (c->finish_wanted || c->ended)
        return;
    c->finish_wanted = true;
    c->finish_status = status;
    snprintf(c->finish_text, sizeof c->finish_text, "%s", text ? text : "");
    rpc_pump(c);
}

void tier_rpc_end(struct tier_rpc_call *c, enum tier_status status, const char *text) {
    if (c->server)
        tier_rpc_finish(c, status, text);
    else if (status == TIER_OK)
        tier_rpc_half_close(c);
    else
        tier_rpc_cancel(c);
}

void tier_rpc_cancel(struct tier_rpc_call *c) {
    if (!c->ended)
        grpc_call_cancel(c->call, NULL);
}

void rpc_end_now(struct tier_rpc_call *c, enum tier_status status, const char *text) {
    queue_clear(c);
    if (c->sending) /* a message that the peer may never take stands before the status */
        tier_rpc_cancel(c);
    tier_rpc_finish(c, status, text); /* nothing is received any more */
}

enum tier_status tier_rpc_peer_identity(struct tier_rpc_call *c, const struct tier_identity **out,
                                        struct tier_err *err) {
    struct tier_cert *cert = NULL;
    struct tier_identity id;

    if (!c->peer_id) {
        TIER_TRY(tier_cert_from_pem(rpc_or_empty(c->peer_cert), &cert, err));
        enum tier_status st = tier_cert_identity(cert, &id, err);
        tier_cert_free(cert);
        if (st != TIER_OK)
            return st;
        c->peer_id = malloc(sizeof id);
        if (!c->peer_id)
            return tier_fail(err, TIER_ENOMEM, "no memory for a call");
        *c->peer_id = id;
    }
    *out = c->peer_id;
    return TIER_OK;
}

const char *rpc_or_empty(const char *s) {
    return s ? s : "";
}

const char *tier_rpc_peer_uri(const struct tier_rpc_call *c) {
    return rpc_or_empty(c->peer_uri);
}

const char *tier_rpc_peer_cert(const struct tier_rpc_call *c) {
    return rpc_or_empty(c->peer_cert);
}

const char *tier_rpc_peer_claim(const struct tier_rpc_call *c) {
    return rpc_or_empty(c->claim);
}

const char *tier_rpc_peer_address(const struct tier_rpc_call *c) {
    return rpc_or_empty(c->peer_address);
}

size_t tier_rpc_message_bytes(const struct tier_rpc_message *m) {
    return grpc_byte_buffer_length(m->bytes);
}

bool tier_rpc_message_next(struct tier_rpc_message *m, const uint8_t **piece_out, size_t *n_out) {
    grpc_slice *s;
    if (!grpc_byte_buffer_reader_peek(&m->reader, &s))
        return false;
    *piece_out = GRPC_SLICE_START_PTR(*s);
    *n_out = GRPC_SLICE_LENGTH(*s);
    return true;
}

struct tier_rpc_message *tier_rpc_message_take(struct tier_rpc_message *m) {
    struct tier_rpc_message *taken = calloc(1, sizeof *taken);
    /* It failed neither for the callback that we are in. */
    if (!taken || !grpc_byte_buffer_reader_init(&taken->reader, m->bytes))
        abort();
    taken->bytes = m->bytes;
    m->bytes = NULL;
    return taken;
}

void tier_rpc_message_free(struct tier_rpc_message *m) {
    if (!m)
        return;
    message_release(m);
    free(m);
}

const uint8_t *tier_rpc_message_flat(struct tier_rpc_message *m, size_t max) {
    if (grpc_byte_buffer_length(m->bytes) > max)
        return NULL;
    if (!m->have_flat) {
        m->flat = grpc_byte_buffer_reader_readall(&m->reader);
        m->have_flat = true;
    }
    return GRPC_SLICE_START_PTR(m->flat);
}
