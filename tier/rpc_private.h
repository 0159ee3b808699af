/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the rpc module: the call object that both ends share, and what rpc.c (calls),
 * rpc_server.c and rpc_channel.c lend one another.
 *
 * A call's life is counted in outstanding gRPC tags: every batch handed to the core holds a
 * reference, and the object goes when the last tag has come back. At most one RECV_MESSAGE and one
 * SEND_MESSAGE are under way at a time, as the core demands; further messages wait in a queue.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_TIER_RPC_PRIVATE_H
#define CONSILIUM_TIER_RPC_PRIVATE_H

#include "tier/rpc.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <pthread.h>

/* Metadata under which a node says its name; it proves nothing. */
#define RPC_CLAIM_KEY "consilium-node"

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
    struct tier_identity *peer_id; /* read from peer_cert when it is first asked for */
    unsigned age;                  /* a channel's: of which of its connections */
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
    /* Certificate material for new connections; the core asks for it at each handshake, on any of
     * its threads, so the lock guards it all. */
    pthread_mutex_t material_lock;
    char *ca_pem, *cert_pem, *key_pem;
    bool material_new;
    tier_rpc_guard guard;
    void *guard_arg;
};

struct tier_rpc_channel {
    struct tier_loop *loop;
    grpc_channel *channel;
    grpc_channel *retired; /* of before the last reload, while calls on it are open; or NULL */
    unsigned age;          /* reloads */
    char *own_name;
    char *address, *peer_name;
    struct tier_rpc_keepalive keepalive;
    bool tls, pins;
    struct tier_rpc_call *calls;
};

/* ---- rpc.c ---- */

/* With one reference, the creator's. Aborts without memory: the node cannot go on. */
struct tier_rpc_call *rpc_call_alloc(struct tier_loop *loop);
void rpc_unref(struct tier_rpc_call *c);
void rpc_list_add(struct tier_rpc_call **head, struct tier_rpc_call *c);
/* Hands a batch to the core; the tag comes back once. */
void rpc_start(struct tier_rpc_call *c, const grpc_op *ops, size_t n, struct call_tag *tag);
void rpc_post_recv(struct tier_rpc_call *c);
/* Starts whatever is next to send: a queued message, then the half-close or the final status. */
void rpc_pump(struct tier_rpc_call *c);
void rpc_ended(struct tier_rpc_call *c, enum tier_status status, const char *text);
/* A call is gone: a connection that was kept for it may go too. */
void rpc_channel_settle(struct tier_rpc_channel *ch);
/* Ends a call with a status at once: what waits to be sent is dropped. */
void rpc_end_now(struct tier_rpc_call *c, enum tier_status status, const char *text);
/* Who is at the other end, from the verified certificate. */
void rpc_learn_peer(struct tier_rpc_call *c);

/* Heap copies, the caller's to free. */
char *rpc_slice_text(grpc_slice s);
char *rpc_dup(const char *s); /* NULL for NULL */
const char *rpc_or_empty(const char *s);

/* Channel arguments of both ends. */
grpc_arg rpc_int_arg(const char *key, int value);
#define RPC_COMMON_ARGS 8
size_t rpc_common_args(grpc_arg *a, const struct tier_rpc_keepalive *k);

#endif
