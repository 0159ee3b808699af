/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bare.h"
#include "tier/identity.h"
#include "tier/limits.h"
#include "tier/loop.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METHOD "/bench.Bare/Push"

/* ---- server: every message is dropped ---- */

struct served {
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *message;
    int cancelled;
    enum { SERVED_NEW, SERVED_READING, SERVED_FINISHING } state;
};

static grpc_completion_queue *queue;
static grpc_server *server;

static void batch(grpc_call *call, const grpc_op *ops, size_t n, void *tag) {
    if (grpc_call_start_batch(call, ops, n, tag, NULL) != GRPC_CALL_OK)
        abort();
}

static void request(void) {
    struct served *s = bench_alloc(1, sizeof *s);
    grpc_call_details_init(&s->details);
    grpc_metadata_array_init(&s->metadata);
    if (grpc_server_request_call(server, &s->call, &s->details, &s->metadata, queue, queue, s) !=
        GRPC_CALL_OK)
        abort();
}

static void served_event(struct served *s, bool ok) {
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    if (s->state == SERVED_NEW) {
        request();
        ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
        ops[1].op = GRPC_OP_RECV_MESSAGE;
        ops[1].data.recv_message.recv_message = &s->message;
        s->state = SERVED_READING;
        batch(s->call, ops, 2, s);
    } else if (s->state == SERVED_READING && ok && s->message) {
        grpc_byte_buffer_destroy(s->message);
        s->message = NULL;
        ops[0].op = GRPC_OP_RECV_MESSAGE;
        ops[0].data.recv_message.recv_message = &s->message;
        batch(s->call, ops, 1, s);
    } else if (s->state == SERVED_READING) {
        ops[0].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        ops[1].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        ops[1].data.recv_close_on_server.cancelled = &s->cancelled;
        s->state = SERVED_FINISHING;
        batch(s->call, ops, 2, s);
    } else {
        grpc_call_unref(s->call);
        grpc_call_details_destroy(&s->details);
        grpc_metadata_array_destroy(&s->metadata);
        free(s);
    }
}

static grpc_server_credentials *server_credentials(const struct tier_config *c) {
    struct tier_node node;
    struct tier_err err = {0};
    if (!c->tls)
        return grpc_insecure_server_credentials_create();
    if (tier_identity_load(c->data_dir, tier_wall_ms() / 1000, &node, &err) != TIER_OK)
        return NULL;
    grpc_ssl_pem_key_cert_pair pair = {node.key_pem, node.cert_pem};
    grpc_server_credentials *credentials = grpc_ssl_server_credentials_create_ex(
        node.ca_pem, &pair, 1, GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY, NULL);
    tier_identity_release(&node);
    return credentials;
}

static void serve_main(void *arg, int say, int wait) {
    grpc_arg a = {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH};
    grpc_channel_args args = {1, &a};
    grpc_event e;
    (void)wait;

    tier_rpc_process_init();
    grpc_init();
    a.value.integer = (int)TIER_MESSAGE_BYTES_MAX;
    grpc_server_credentials *credentials = server_credentials(arg);
    queue = grpc_completion_queue_create_for_next(NULL);
    server = grpc_server_create(&args, NULL);
    grpc_server_register_completion_queue(server, queue, NULL);
    int port = credentials ? grpc_server_add_http2_port(server, "127.0.0.1:0", credentials) : 0;
    if (port <= 0)
        return;
    grpc_server_start(server);
    for (int i = 0; i < 16; i++)
        request();
    bench_process_say(say, &port, sizeof port);
    do {
        e = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        served_event(e.tag, e.success);
    } while (e.type == GRPC_OP_COMPLETE);
}

enum tier_status bench_bare_serve(const struct tier_config *config, struct bench_process *out,
                                  struct tier_err *err) {
    return bench_process_start(serve_main, (void *)config, out, err);
}

/* ---- client ---- */

/* Tags of a call by what they end: its messages, and the call. */
struct pushing {
    grpc_channel *channel;
    grpc_call *call;
    uint64_t left;
    bool half_closed, ended;
    struct pushing *on_sent, *on_ended; /* only their addresses count */
    grpc_status_code status;
    grpc_slice details;
    grpc_metadata_array initial, trailing;
};

struct bench_bare {
    grpc_completion_queue *queue;
    size_t streams;
    uint8_t *payload; /* TIER_CHUNK_BYTES, sent over and over */
    struct pushing *push;
};

static void kept(void *arg) {
    (void)arg;
}

/* The next message, or the half-close behind the last one. */
static void send_next(struct bench_bare *b, struct pushing *p) {
    grpc_op op;
    memset(&op, 0, sizeof op);
    if (p->left == 0) {
        if (p->half_closed)
            return;
        p->half_closed = true;
        op.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
        batch(p->call, &op, 1, &p->on_sent);
        return;
    }
    size_t n = p->left < TIER_CHUNK_BYTES ? (size_t)p->left : TIER_CHUNK_BYTES;
    grpc_slice slice = grpc_slice_new_with_user_data(b->payload, n, kept, NULL);
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&slice, 1);
    p->left -= n;
    op.op = GRPC_OP_SEND_MESSAGE;
    op.data.send_message.send_message = message;
    batch(p->call, &op, 1, &p->on_sent);
    grpc_byte_buffer_destroy(message);
    grpc_slice_unref(slice);
}

static void begin(struct bench_bare *b, struct pushing *p, uint64_t bytes) {
    grpc_op ops[2];
    p->left = bytes;
    p->half_closed = p->ended = false;
    p->details = grpc_empty_slice();
    grpc_metadata_array_init(&p->initial);
    grpc_metadata_array_init(&p->trailing);
    p->call = grpc_channel_create_call(p->channel, NULL, GRPC_PROPAGATE_DEFAULTS, b->queue,
                                       grpc_slice_from_static_string(METHOD), NULL,
                                       gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
    ops[0].data.recv_status_on_client.trailing_metadata = &p->trailing;
    ops[0].data.recv_status_on_client.status = &p->status;
    ops[0].data.recv_status_on_client.status_details = &p->details;
    batch(p->call, ops, 1, &p->on_ended);
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &p->initial;
    batch(p->call, ops, 2, &p->on_sent);
}

static void end(struct pushing *p) {
    p->ended = true;
    grpc_slice_unref(p->details);
    grpc_metadata_array_destroy(&p->initial);
    grpc_metadata_array_destroy(&p->trailing);
    grpc_call_unref(p->call);
}

enum tier_status bench_bare_push(struct bench_bare *b, uint64_t bytes, double *seconds_out,
                                 struct tier_err *err) {
    double start = bench_now_s();
    size_t over = 0, failed = 0, outstanding = 0;

    for (size_t i = 0; i < b->streams; i++) {
        begin(b, &b->push[i], bytes);
        outstanding += 2;
    }
    while (outstanding > 0) {
        grpc_event e =
            grpc_completion_queue_next(b->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        outstanding--;
        for (size_t i = 0; i < b->streams; i++) {
            struct pushing *p = &b->push[i];
            if (e.tag == &p->on_sent && e.success && !p->half_closed) {
                send_next(b, p);
                outstanding++;
            } else if (e.tag == &p->on_ended) {
                over++;
                failed += p->status != GRPC_STATUS_OK;
            }
        }
    }
    *seconds_out = bench_now_s() - start;
    for (size_t i = 0; i < b->streams; i++)
        end(&b->push[i]);
    return failed
               ? tier_fail(err, TIER_EUNAVAILABLE, "%zu of %zu bare streams failed", failed, over)
               : TIER_OK;
}

static enum tier_status channel(struct bench_bare *b, const struct tier_config *client,
                                const char *server_name, int port, struct tier_err *err) {
    struct tier_node node = {0};
    char address[32];

    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    if (client->tls)
        TIER_TRY(tier_identity_load(client->data_dir, tier_wall_ms() / 1000, &node, err));
    grpc_ssl_pem_key_cert_pair pair = {node.key_pem, node.cert_pem};
    grpc_channel_credentials *credentials =
        client->tls ? grpc_ssl_credentials_create_ex(node.ca_pem, &pair, NULL, NULL)
                    : grpc_insecure_credentials_create();
    grpc_arg a[2] = {{.type = GRPC_ARG_STRING, .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG},
                     {.type = GRPC_ARG_INTEGER, .key = (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL}};
    grpc_channel_args args = {2, a};
    a[0].value.string = (char *)server_name;
    a[1].value.integer = 1;
    for (size_t i = 0; i < b->streams; i++)
        b->push[i].channel = grpc_channel_create(address, credentials, &args);
    grpc_channel_credentials_release(credentials);
    tier_identity_release(&node);
    return TIER_OK;
}

enum tier_status bench_bare_open(const struct tier_config *client, const char *server_name,
                                 int port, size_t streams, struct bench_bare **out,
                                 struct tier_err *err) {
    struct bench_bare *b = bench_alloc(1, sizeof *b);
    double warm;

    tier_rpc_process_init();
    grpc_init();
    b->queue = grpc_completion_queue_create_for_next(NULL);
    b->streams = streams;
    b->payload = bench_alloc(1, TIER_CHUNK_BYTES);
    uint64_t seed = 1;
    for (size_t i = 0; i < TIER_CHUNK_BYTES / 8; i++)
        ((uint64_t *)(void *)b->payload)[i] = bench_random(&seed);
    b->push = bench_alloc(streams, sizeof *b->push);
    enum tier_status st = channel(b, client, server_name, port, err);
    if (st == TIER_OK) /* connects */
        st = bench_bare_push(b, 4096, &warm, err);
    if (st != TIER_OK) {
        bench_bare_close(b);
        return st;
    }
    *out = b;
    return TIER_OK;
}

void bench_bare_close(struct bench_bare *b) {
    if (!b)
        return;
    for (size_t i = 0; i < b->streams; i++)
        if (b->push[i].channel)
            grpc_channel_destroy(b->push[i].channel);
    grpc_completion_queue_shutdown(b->queue);
    while (grpc_completion_queue_next(b->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        ;
    grpc_completion_queue_destroy(b->queue);
    grpc_shutdown();
    free(b->payload);
    free(b->push);
    free(b);
}
