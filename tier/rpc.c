/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call object for both ends. Its life is counted in outstanding gRPC tags: every batch handed
 * to the core holds a reference, and the object goes when the last tag has come back. At most one
 * RECV_MESSAGE and one SEND_MESSAGE are under way at a time, as the core demands; further messages
 * wait in a queue here.
 */
#include "tier/rpc.h"
#include "tier/log.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/string_util.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEND_QUEUE_MAX 1024
#define REQUESTS_OUTSTANDING 16
#define LOOKAHEAD_BYTES (256 << 10)
#define CLAIM_KEY "consilium-node"

struct outgoing {
    grpc_byte_buffer *bytes;
    struct outgoing *next;
};

/* A tag that knows its call. */
struct call_tag {
    struct tier_tag tag;
    struct tier_rpc_call *call;
};

struct tier_rpc_call {
    struct tier_loop *loop;
    struct tier_rpc_server *server;   /* one of these two is set */
    struct tier_rpc_channel *channel; /* */
    const struct tier_rpc_handler *handler;
    void *user;
    grpc_call *call;
    struct tier_rpc_call *prev, *next; /* the server's or channel's calls */
    int refs;

    struct call_tag on_open, on_recv, on_send, on_end;
    grpc_byte_buffer *incoming;
    bool reading, read_wanted, peer_finished;
    bool sending;
    struct outgoing *queue_first, *queue_last;
    size_t queue_len;
    bool opened, half_close_wanted, half_close_sent;
    bool finish_wanted, finish_sent, ended;
    enum tier_status finish_status;
    char finish_text[512];

    /* What the core fills. */
    grpc_call_details details;
    grpc_metadata_array initial_md, trailing_md;
    int cancelled;
    grpc_status_code status;
    grpc_slice status_details;
    const char *error_string;

    char *peer_uri, *peer_cert, *peer_address, *claim;
};

struct tier_rpc_message {
    grpc_byte_buffer *bytes;
    grpc_byte_buffer_reader reader;
    grpc_slice flat;
    bool have_flat;
};

struct tier_rpc_server {
    struct tier_loop *loop;
    grpc_server *server;
    const struct tier_rpc_method *methods;
    size_t method_count;
    void *user;
    int port;
    struct tier_rpc_call *calls;
    size_t live; /* calls and outstanding requests */
    bool stopping, stopped;
    struct tier_tag on_stopped;
    struct tier_rpc_server *self; /* on_stopped finds its server */
    /* Certificate material for new connections; the core asks for it at each handshake. */
    char *ca_pem, *cert_pem, *key_pem;
    bool material_new;
};

struct tier_rpc_channel {
    struct tier_loop *loop;
    grpc_channel *channel;
    char *own_name;
    bool tls;
    struct tier_rpc_call *calls;
};

/* ---- process ---- */

static void core_log(gpr_log_func_args *args) {
    /* The core reports failed handshakes here and nowhere else. */
    if (args->severity == GPR_LOG_SEVERITY_ERROR)
        tier_log_warn("grpc: %s", args->message);
}

void tier_rpc_process_init(void) {
    /*
     * Received slices come from malloc. With glibc's defaults each large one is an mmap, a fault
     * per page and a munmap: half the speed of a plain-text stream. Keep them on the heap.
     */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    mallopt(M_TOP_PAD, 16 << 20);
    signal(SIGPIPE, SIG_IGN);
    gpr_set_log_function(core_log);
    gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

static char *dup_or_null(const char *s) {
    if (!s)
        return NULL;
    char *copy = strdup(s);
    if (!copy)
        abort();
    return copy;
}

/* ---- call life ---- */

static void list_add(struct tier_rpc_call **head, struct tier_rpc_call *c) {
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

static void call_unref(struct tier_rpc_call *c) {
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
    free(c->claim);
    if (c->server) {
        list_remove(&c->server->calls, c);
        c->server->live--;
    } else {
        list_remove(&c->channel->calls, c);
    }
    free(c);
}

static void start(struct tier_rpc_call *c, const grpc_op *ops, size_t n, struct call_tag *tag) {
    c->refs++;
    grpc_call_error e = grpc_call_start_batch(c->call, ops, n, tag, NULL);
    if (e != GRPC_CALL_OK) { /* only a bug of this file leads here */
        tier_log_error("grpc: batch refused: %s", grpc_call_error_to_string(e));
        abort();
    }
}

static char *slice_text(grpc_slice s) {
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

static void learn_peer(struct tier_rpc_call *c) {
    grpc_auth_context *auth = grpc_call_auth_context(c->call);
    if (auth && grpc_auth_context_peer_is_authenticated(auth)) {
        c->peer_uri = auth_property(auth, "peer_spiffe_id");
        c->peer_cert = auth_property(auth, GRPC_X509_PEM_CERT_PROPERTY_NAME);
    }
    grpc_auth_context_release(auth);
    c->peer_address = grpc_call_get_peer(c->call);
}

/* ---- sending and receiving ---- */

static void post_recv(struct tier_rpc_call *c) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &c->incoming;
    c->reading = true;
    c->read_wanted = false;
    start(c, &op, 1, &c->on_recv);
}

/* Starts whatever is next to send: a queued message, then the half-close or final status. */
static void pump(struct tier_rpc_call *c) {
    if (c->sending || c->ended || !c->opened)
        return;
    grpc_op op;
    memset(&op, 0, sizeof op);
    if (c->queue_first) {
        struct outgoing *o = c->queue_first;
        op.op = GRPC_OP_SEND_MESSAGE;
        op.data.send_message.send_message = o->bytes;
        c->sending = true;
        start(c, &op, 1, &c->on_send);
        c->queue_first = o->next;
        if (!c->queue_first)
            c->queue_last = NULL;
        c->queue_len--;
        grpc_byte_buffer_destroy(o->bytes); /* the batch holds its own reference to the slices */
        free(o);
    } else if (c->channel && c->half_close_wanted && !c->half_close_sent) {
        op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        c->half_close_sent = c->sending = true;
        start(c, &op, 1, &c->on_send);
    } else if (c->server && c->finish_wanted && !c->finish_sent) {
        grpc_slice text = grpc_slice_from_copied_string(c->finish_text);
        op.op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        op.data.send_status_from_server.status =
            (grpc_status_code)tier_status_grpc(c->finish_status);
        op.data.send_status_from_server.status_details = &text;
        c->finish_sent = c->sending = true;
        start(c, &op, 1, &c->on_send);
        grpc_slice_unref(text);
    }
}

static void on_send(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    c->sending = false;
    if (ok && !c->ended) {
        pump(c);
        if (!c->finish_wanted && !c->half_close_wanted && c->handler->sent)
            c->handler->sent(c);
    }
    call_unref(c);
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
            if (m.have_flat)
                grpc_slice_unref(m.flat);
            grpc_byte_buffer_reader_destroy(&m.reader);
        }
        grpc_byte_buffer_destroy(m.bytes);
        if (c->read_wanted && !c->reading && !c->ended)
            post_recv(c);
    }
    call_unref(c);
}

static void call_ended(struct tier_rpc_call *c, enum tier_status status, const char *text) {
    c->ended = true;
    queue_clear(c);
    if (c->handler && c->handler->closed)
        c->handler->closed(c, status, text);
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
        post_recv(c);
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
        pump(c);
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
    pump(c);
}

void tier_rpc_finish(struct tier_rpc_call *c, enum tier_status status, const char *text) {
    if (c->finish_wanted || c->ended)
        return;
    c->finish_wanted = true;
    c->finish_status = status;
    snprintf(c->finish_text, sizeof c->finish_text, "%s", text ? text : "");
    pump(c);
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

static const char *or_empty(const char *s) {
    return s ? s : "";
}

const char *tier_rpc_peer_uri(const struct tier_rpc_call *c) {
    return or_empty(c->peer_uri);
}

const char *tier_rpc_peer_cert(const struct tier_rpc_call *c) {
    return or_empty(c->peer_cert);
}

const char *tier_rpc_peer_claim(const struct tier_rpc_call *c) {
    return or_empty(c->claim);
}

const char *tier_rpc_peer_address(const struct tier_rpc_call *c) {
    return or_empty(c->peer_address);
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

const uint8_t *tier_rpc_message_flat(struct tier_rpc_message *m, size_t max) {
    if (grpc_byte_buffer_length(m->bytes) > max)
        return NULL;
    if (!m->have_flat) {
        m->flat = grpc_byte_buffer_reader_readall(&m->reader);
        m->have_flat = true;
    }
    return GRPC_SLICE_START_PTR(m->flat);
}

/* ---- server ---- */

static void request_call(struct tier_rpc_server *s);

static void on_server_end(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    (void)ok;
    bool finished = c->finish_sent && !c->cancelled;
    call_ended(c, finished ? c->finish_status : TIER_ECANCELLED,
               finished ? c->finish_text : "the peer went away");
    call_unref(c);
}

static const struct tier_rpc_handler no_handler = {0};

static void on_server_call(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    struct tier_rpc_server *s = c->server;

    if (!ok) { /* the server is shutting down */
        call_unref(c);
        return;
    }
    request_call(s);
    learn_peer(c);
    for (size_t i = 0; i < c->initial_md.count; i++)
        if (grpc_slice_str_cmp(c->initial_md.metadata[i].key, CLAIM_KEY) == 0 && !c->claim)
            c->claim = slice_text(c->initial_md.metadata[i].value);

    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &c->cancelled;
    start(c, &op, 1, &c->on_end);
    c->sending = true;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_INITIAL_METADATA;
    start(c, &op, 1, &c->on_send);
    c->opened = true;

    c->handler = &no_handler;
    for (size_t i = 0; i < s->method_count; i++)
        if (grpc_slice_str_cmp(c->details.method, s->methods[i].path) == 0)
            c->handler = s->methods[i].handler;
    if (c->handler == &no_handler)
        tier_rpc_finish(c, TIER_EUNIMPLEMENTED, "no such method here");
    else
        c->handler->opened(c);
    call_unref(c);
}

static struct tier_rpc_call *call_alloc(struct tier_loop *loop) {
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

static void request_call(struct tier_rpc_server *s) {
    if (s->stopping)
        return;
    struct tier_rpc_call *c = call_alloc(s->loop);
    c->server = s;
    c->user = s->user;
    c->on_open = (struct call_tag){{on_server_call}, c};
    c->on_end = (struct call_tag){{on_server_end}, c};
    s->live++;
    list_add(&s->calls, c);
    grpc_completion_queue *q = tier_loop_queue(s->loop);
    grpc_call_error e = grpc_server_request_call(s->server, &c->call, &c->details, &c->initial_md,
                                                 q, q, &c->on_open);
    if (e != GRPC_CALL_OK) {
        tier_log_error("grpc: cannot take calls: %s", grpc_call_error_to_string(e));
        abort();
    }
}

static grpc_ssl_certificate_config_reload_status
fetch_material(void *user, grpc_ssl_server_certificate_config **config) {
    struct tier_rpc_server *s = user;
    if (!s->material_new)
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    grpc_ssl_pem_key_cert_pair pair = {s->key_pem, s->cert_pem};
    *config = grpc_ssl_server_certificate_config_create(s->ca_pem, &pair, 1);
    s->material_new = false;
    return *config ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                   : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
}

enum tier_status tier_rpc_server_reload(struct tier_rpc_server *s, const struct tier_rpc_tls *tls,
                                        struct tier_err *err) {
    if (!tls || !tls->ca_pem || !tls->cert_pem || !tls->key_pem)
        return tier_fail(err, TIER_EARG,
                         "a TLS server needs the authority's certificate, its own, and its key");
    free(s->ca_pem);
    free(s->cert_pem);
    free(s->key_pem);
    s->ca_pem = dup_or_null(tls->ca_pem);
    s->cert_pem = dup_or_null(tls->cert_pem);
    s->key_pem = dup_or_null(tls->key_pem);
    s->material_new = true;
    return TIER_OK;
}

static enum tier_status server_credentials(struct tier_rpc_server *s,
                                           const struct tier_rpc_tls *tls,
                                           grpc_server_credentials **out, struct tier_err *err) {
    if (!tls) {
        *out = grpc_insecure_server_credentials_create();
        return TIER_OK;
    }
    TIER_TRY(tier_rpc_server_reload(s, tls, err));
    grpc_ssl_server_credentials_options *options =
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            tls->client_cert_optional ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                      : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
            fetch_material, s);
    *out = grpc_ssl_server_credentials_create_with_options(options);
    if (!*out)
        return tier_fail(err, TIER_EIDENTITY, "the TLS certificate or key cannot be used");
    return TIER_OK;
}

static grpc_arg int_arg(const char *key, int value) {
    grpc_arg a = {.type = GRPC_ARG_INTEGER, .key = (char *)key};
    a.value.integer = value;
    return a;
}

static size_t common_args(grpc_arg *a, const struct tier_rpc_keepalive *k) {
    int time_ms = k && k->time_ms ? (int)k->time_ms : 2000;
    int timeout_ms = k && k->timeout_ms ? (int)k->timeout_ms : 2000;
    size_t n = 0;
    a[n++] = int_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)TIER_MESSAGE_BYTES_MAX);
    a[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIME_MS, time_ms);
    a[n++] = int_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, timeout_ms);
    a[n++] = int_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    a[n++] = int_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    /*
     * The core would widen each stream's window to what it takes for the network's delay, which on
     * a busy receiver is its own: hundreds of megabytes. A fixed look-ahead beside the one message
     * that was asked for bounds memory by the number of streams.
     */
    a[n++] = int_arg(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    a[n++] = int_arg(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD_BYTES);
    return n;
}

static void on_server_stopped(struct tier_tag *tag, bool ok) {
    struct tier_rpc_server *s =
        (struct tier_rpc_server *)((char *)tag - offsetof(struct tier_rpc_server, on_stopped));
    (void)ok;
    s->stopped = true;
}

enum tier_status tier_rpc_server_new(struct tier_loop *loop, const char *address,
                                     const struct tier_rpc_tls *tls,
                                     const struct tier_rpc_keepalive *keepalive,
                                     const struct tier_rpc_method *methods, size_t method_count,
                                     void *user, struct tier_rpc_server **out,
                                     struct tier_err *err) {
    grpc_server_credentials *credentials = NULL;
    struct tier_rpc_server *s = calloc(1, sizeof *s);

    if (!s)
        return tier_fail(err, TIER_ENOMEM, "no memory for a server");
    *s = (struct tier_rpc_server){.loop = loop,
                                  .methods = methods,
                                  .method_count = method_count,
                                  .user = user,
                                  .on_stopped = {on_server_stopped}};
    enum tier_status st = server_credentials(s, tls, &credentials, err);
    if (st != TIER_OK) {
        free(s);
        return st;
    }
    grpc_arg a[12];
    size_t n = common_args(a, keepalive);
    /* Two hubs on one port would each get half of the children. */
    a[n++] = int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0);
    a[n++] = int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 200);
    a[n++] = int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
    grpc_channel_args args = {n, a};
    s->server = grpc_server_create(&args, NULL);
    grpc_server_register_completion_queue(s->server, tier_loop_queue(loop), NULL);
    s->port = grpc_server_add_http2_port(s->server, address, credentials);
    grpc_server_credentials_release(credentials);
    if (s->port <= 0) {
        st = tier_fail(err, TIER_EUNAVAILABLE,
                       "cannot listen on %s: the port is taken, the address is not this machine's, "
                       "or the certificate and key do not fit together",
                       address);
        s->port = 0;
        grpc_server_start(s->server);
        tier_rpc_server_free(s);
        return st;
    }
    grpc_server_start(s->server);
    for (int i = 0; i < REQUESTS_OUTSTANDING; i++)
        request_call(s);
    *out = s;
    return TIER_OK;
}

int tier_rpc_server_port(const struct tier_rpc_server *s) {
    return s->port;
}

size_t tier_rpc_server_calls(const struct tier_rpc_server *s) {
    size_t n = 0;
    for (const struct tier_rpc_call *c = s->calls; c; c = c->next)
        n += c->opened && !c->ended;
    return n;
}

static bool server_down(void *arg) {
    struct tier_rpc_server *s = arg;
    return s->stopped && s->live == 0;
}

void tier_rpc_server_free(struct tier_rpc_server *s) {
    if (!s)
        return;
    s->stopping = true;
    grpc_server_shutdown_and_notify(s->server, tier_loop_queue(s->loop), &s->on_stopped);
    grpc_server_cancel_all_calls(s->server);
    tier_loop_run_until(s->loop, server_down, s, 30000);
    grpc_server_destroy(s->server);
    free(s->ca_pem);
    free(s->cert_pem);
    if (s->key_pem)
        explicit_bzero(s->key_pem, strlen(s->key_pem));
    free(s->key_pem);
    free(s);
}

/* ---- client ---- */

/* ---- a client that pins its authority instead of holding its certificate ---- */

struct pin {
    grpc_tls_certificate_verifier_external external;
    enum tier_status (*verify)(void *arg, const char *chain_pem, struct tier_err *err);
    void *arg;
};

static int pin_verify(void *user, grpc_tls_custom_verification_check_request *request,
                      grpc_tls_on_custom_verification_check_done_cb callback, void *callback_arg,
                      grpc_status_code *status, char **details) {
    struct pin *pin = user;
    struct tier_err err = {0};
    const char *chain = request->peer_info.peer_cert_full_chain;
    (void)callback;
    (void)callback_arg;

    *status = GRPC_STATUS_OK;
    if (pin->verify(pin->arg, chain ? chain : "", &err) != TIER_OK) {
        *status = GRPC_STATUS_UNAUTHENTICATED;
        *details = gpr_strdup(err.text);
    }
    return 1; /* decided at once */
}

static void pin_cancel(void *user, grpc_tls_custom_verification_check_request *request) {
    (void)user;
    (void)request;
}

static grpc_channel_credentials *pin_credentials(const struct tier_rpc_tls *tls) {
    struct pin *pin = calloc(1, sizeof *pin);
    if (!pin)
        abort();
    pin->external = (grpc_tls_certificate_verifier_external){pin, pin_verify, pin_cancel, free};
    pin->verify = tls->verify_chain;
    pin->arg = tls->verify_arg;
    grpc_tls_certificate_verifier *verifier =
        grpc_tls_certificate_verifier_external_create(&pin->external);
    grpc_tls_credentials_options *options = grpc_tls_credentials_options_create();
    grpc_tls_credentials_options_set_verify_server_cert(options, 0);
    grpc_tls_credentials_options_set_check_call_host(options, 0);
    grpc_tls_credentials_options_set_certificate_verifier(options, verifier);
    grpc_tls_certificate_verifier_release(verifier);
    return grpc_tls_credentials_create(options);
}

enum tier_status tier_rpc_channel_new(struct tier_loop *loop, const char *address,
                                      const char *peer_name, const char *own_name,
                                      const struct tier_rpc_tls *tls,
                                      const struct tier_rpc_keepalive *keepalive,
                                      struct tier_rpc_channel **out, struct tier_err *err) {
    grpc_channel_credentials *credentials;
    grpc_arg a[16];
    size_t n = common_args(a, keepalive);

    a[n++] = int_arg(GRPC_ARG_ENABLE_RETRIES, 0);
    a[n++] = int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    a[n++] = int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    a[n++] = int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    a[n++] = int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000); /* time allowed to one attempt */
    if (tls) {
        grpc_ssl_pem_key_cert_pair pair = {tls->key_pem, tls->cert_pem};
        if (tls->verify_chain)
            credentials = pin_credentials(tls);
        else
            credentials = grpc_ssl_credentials_create_ex(tls->ca_pem, tls->cert_pem ? &pair : NULL,
                                                         NULL, NULL);
        if (!credentials)
            return tier_fail(err, TIER_EIDENTITY, "the TLS certificate or key cannot be used");
        a[n] =
            (grpc_arg){.type = GRPC_ARG_STRING, .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG};
        a[n++].value.string = (char *)peer_name;
    } else {
        credentials = grpc_insecure_credentials_create();
    }
    struct tier_rpc_channel *ch = calloc(1, sizeof *ch);
    if (!ch)
        abort();
    grpc_channel_args args = {n, a};
    ch->loop = loop;
    ch->own_name = dup_or_null(own_name);
    ch->tls = tls != NULL;
    ch->channel = grpc_channel_create(address, credentials, &args);
    grpc_channel_credentials_release(credentials);
    *out = ch;
    return TIER_OK;
}

static bool channel_down(void *arg) {
    struct tier_rpc_channel *ch = arg;
    return !ch->calls;
}

void tier_rpc_channel_free(struct tier_rpc_channel *ch) {
    if (!ch)
        return;
    for (struct tier_rpc_call *c = ch->calls; c; c = c->next)
        tier_rpc_cancel(c);
    tier_loop_run_until(ch->loop, channel_down, ch, 30000);
    grpc_channel_destroy(ch->channel);
    free(ch->own_name);
    free(ch);
}

static void on_client_open(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    if (ok && !c->ended) {
        learn_peer(c);
        c->opened = true;
        if (c->handler->opened)
            c->handler->opened(c);
        if (c->read_wanted && !c->reading && !c->ended)
            post_recv(c);
        pump(c);
    }
    call_unref(c);
}

static void on_client_end(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    (void)ok;
    char *text = slice_text(c->status_details);
    call_ended(c, tier_status_from_grpc((int)c->status), text);
    free(text);
    call_unref(c);
}

struct tier_rpc_call *tier_rpc_call_new(struct tier_rpc_channel *ch, const char *path,
                                        const struct tier_rpc_handler *handler, void *user,
                                        uint64_t deadline_ms) {
    struct tier_rpc_call *c = call_alloc(ch->loop);
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);

    if (deadline_ms)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_millis((int64_t)deadline_ms, GPR_TIMESPAN));
    c->channel = ch;
    c->handler = handler;
    c->user = user;
    c->on_open = (struct call_tag){{on_client_open}, c};
    c->on_end = (struct call_tag){{on_client_end}, c};
    list_add(&ch->calls, c);
    grpc_slice method = grpc_slice_from_copied_string(path);
    c->call = grpc_channel_create_call(ch->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
                                       tier_loop_queue(ch->loop), method, NULL, deadline, NULL);
    grpc_slice_unref(method);

    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    op.data.recv_status_on_client.trailing_metadata = &c->trailing_md;
    op.data.recv_status_on_client.status = &c->status;
    op.data.recv_status_on_client.status_details = &c->status_details;
    op.data.recv_status_on_client.error_string = &c->error_string;
    start(c, &op, 1, &c->on_end);

    grpc_metadata claim = {.key = grpc_slice_from_static_string(CLAIM_KEY),
                           .value = grpc_slice_from_copied_string(or_empty(ch->own_name))};
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.count = 1;
    ops[0].data.send_initial_metadata.metadata = &claim;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &c->initial_md;
    start(c, ops, 2, &c->on_open);
    grpc_slice_unref(claim.value);
    c->refs--; /* the creator's reference: from here the outstanding tags keep the call */
    return c;
}
