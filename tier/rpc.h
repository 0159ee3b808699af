/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls over gRPC, both ends, on the C core: the only module that knows gRPC. Messages are bytes
 * here; tier/wire.h gives them meaning. One handler table serves a call on either side, because
 * both sides do the same: send messages, take messages one at a time, and learn how it ended.
 *
 * Memory is bounded by credit: a call holds at most one received message, and the next is asked for
 * only by tier_rpc_read(). Sent payloads are borrowed, not copied, until their release callback.
 *
 * Threads: everything on the loop's thread, but for a message that was taken.
 */
#ifndef CONSILIUM_TIER_RPC_H
#define CONSILIUM_TIER_RPC_H

#include "tier/err.h"
#include "tier/identity.h"
#include "tier/limits.h"
#include "tier/loop.h"

#include <stdint.h>

struct tier_rpc_server;
struct tier_rpc_channel;
struct tier_rpc_call;
struct tier_rpc_message;

/* Mutual TLS material, PEM text (borrowed for the call that takes it). NULL where plain text is
 * configured. */
struct tier_rpc_tls {
    const char *ca_pem;
    const char *cert_pem; /* NULL on a client that has none yet (enrollment) */
    const char *key_pem;
    bool client_cert_optional; /* server of the enrollment port only */
    /*
     * Client without a CA yet (enrollment): ca_pem is NULL and this decides on the chain that the
     * server sent, leaf first. Called on any thread. TIER_OK lets the connection go on.
     */
    enum tier_status (*verify_chain)(void *arg, const char *chain_pem, struct tier_err *err);
    void *verify_arg;
};

struct tier_rpc_keepalive {
    uint32_t time_ms;    /* silence before a ping; 0 means the default, 2000 */
    uint32_t timeout_ms; /* wait for its answer; 0 means the default, 2000 */
};

/* Callbacks of a call. `opened` may be NULL on a client, any other too where it has nothing to do.
 */
struct tier_rpc_handler {
    /* Server: a call arrived; refuse it with tier_rpc_finish, or set the user pointer and read.
     * Client: the peer answered. */
    void (*opened)(struct tier_rpc_call *call);
    /* One message, valid during the callback. Ask for the next with tier_rpc_read, then or later.
     */
    void (*message)(struct tier_rpc_call *call, struct tier_rpc_message *message);
    /* Server: the client will send no more, or it is gone; `closed` follows and tells which. */
    void (*half_closed)(struct tier_rpc_call *call);
    /* A queued message went out: room for another. */
    void (*sent)(struct tier_rpc_call *call);
    /* Last callback: status and a text for a person. Server: TIER_ECANCELLED when the peer went
     * away. */
    void (*closed)(struct tier_rpc_call *call, enum tier_status status, const char *text);
};

struct tier_rpc_method {
    const char *path; /* "/consilium.Tier/Attend" */
    const struct tier_rpc_handler *handler;
};

/* ---- server ---- */

/*
 * Listens on "host:port" (port 0 takes a free one). `methods` and `user` are borrowed until the
 * server is freed; unknown methods are answered UNIMPLEMENTED. A TLS server requires a client
 * certificate signed by ca_pem.
 */
enum tier_status tier_rpc_server_new(struct tier_loop *loop, const char *address,
                                     const struct tier_rpc_tls *tls,
                                     const struct tier_rpc_keepalive *keepalive,
                                     const struct tier_rpc_method *methods, size_t method_count,
                                     void *user, struct tier_rpc_server **out,
                                     struct tier_err *err);
int tier_rpc_server_port(const struct tier_rpc_server *server);
/* New connections use this material from now on; existing ones go on. Copied. */
enum tier_status tier_rpc_server_reload(struct tier_rpc_server *server,
                                        const struct tier_rpc_tls *tls, struct tier_err *err);
/*
 * Who may call: asked before a call comes to its handler, and by _recheck of every call that is
 * open. One that is refused ends with that status and text; of an open one nothing is received any
 * more. To be set before the loop runs; without one everybody with a certificate may.
 */
typedef enum tier_status (*tier_rpc_guard)(void *arg, struct tier_rpc_call *call,
                                           struct tier_err *err);
void tier_rpc_server_guard(struct tier_rpc_server *server, tier_rpc_guard guard, void *arg);
void tier_rpc_server_recheck(struct tier_rpc_server *server);
/* Cancels every call, runs the loop until the last `closed` was delivered, frees. */
void tier_rpc_server_free(struct tier_rpc_server *server);

/* ---- client ---- */

/*
 * Connects lazily. With TLS the server's certificate must carry `peer_name` as a DNS name, whatever
 * address it was reached at. `own_name` goes along as metadata, for peers that run without TLS.
 */
enum tier_status tier_rpc_channel_new(struct tier_loop *loop, const char *address,
                                      const char *peer_name, const char *own_name,
                                      const struct tier_rpc_tls *tls,
                                      const struct tier_rpc_keepalive *keepalive,
                                      struct tier_rpc_channel **out, struct tier_err *err);
/* Calls made from now on connect anew, with this material; those under way go on as they are. A
 * channel that was made by verify_chain, or without TLS, has none to change: TIER_EARG. */
enum tier_status tier_rpc_channel_reload(struct tier_rpc_channel *channel,
                                         const struct tier_rpc_tls *tls, struct tier_err *err);
/* Cancels its calls, runs the loop until the last `closed`, frees. */
void tier_rpc_channel_free(struct tier_rpc_channel *channel);
/* deadline_ms 0 means none. Fails only in `closed`. */
struct tier_rpc_call *tier_rpc_call_new(struct tier_rpc_channel *channel, const char *path,
                                        const struct tier_rpc_handler *handler, void *user,
                                        uint64_t deadline_ms);

/*
 * One request, one answer of at most reply_max bytes. `done` is called once, from the loop: with
 * the answer, borrowed, or with what went wrong; after it the call is over.
 */
typedef void (*tier_rpc_answered)(void *arg, const struct tier_err *result, const uint8_t *bytes,
                                  size_t n);
void tier_rpc_ask(struct tier_rpc_channel *channel, const char *path, const void *request, size_t n,
                  size_t reply_max, uint64_t deadline_ms, tier_rpc_answered done, void *arg);

/* ---- calls ---- */

void *
tier_rpc_user(const struct tier_rpc_call *call); /* a server's call starts with the server's */
void tier_rpc_set_user(struct tier_rpc_call *call, void *user);
/* Asks for one more message; no effect while one is asked for or after the peer's last. */
void tier_rpc_read(struct tier_rpc_call *call);
/* Queues a copy of bytes. False when the call is over or more than 1024 messages wait. */
bool tier_rpc_send(struct tier_rpc_call *call, const void *bytes, size_t n);
/* Queues prefix (copied) followed by payload (borrowed until release(arg), which may come on any
 * thread). */
bool tier_rpc_send_payload(struct tier_rpc_call *call, const void *prefix, size_t prefix_bytes,
                           const void *payload, size_t payload_bytes, void (*release)(void *arg),
                           void *arg);
/* Messages that wait to be sent. */
size_t tier_rpc_waiting(const struct tier_rpc_call *call);
/* Client: no more to send. */
void tier_rpc_half_close(struct tier_rpc_call *call);
/* Server: the final status, after what is queued. */
void tier_rpc_finish(struct tier_rpc_call *call, enum tier_status status, const char *text);
/* Either side: no more to send. A server finishes; a client half-closes, or cancels on an error. */
void tier_rpc_end(struct tier_rpc_call *call, enum tier_status status, const char *text);
/* Either side, at once. `closed` still comes. */
void tier_rpc_cancel(struct tier_rpc_call *call);

/*
 * Who is at the other end: the SPIFFE URI of its verified certificate, or "" without TLS; and the
 * name it gave as metadata ("" if none), which proves nothing. "ipv4:10.1.2.3:4711", for logs.
 */
const char *tier_rpc_peer_uri(const struct tier_rpc_call *call);
const char *tier_rpc_peer_claim(const struct tier_rpc_call *call);
const char *tier_rpc_peer_address(const struct tier_rpc_call *call);
/* The verified certificate, PEM, or "". */
const char *tier_rpc_peer_cert(const struct tier_rpc_call *call);
/* What that certificate says, kept for the call's life. TIER_EIDENTITY: not a node's, or none. */
enum tier_status tier_rpc_peer_identity(struct tier_rpc_call *call,
                                        const struct tier_identity **out, struct tier_err *err);

/* ---- received messages ---- */

size_t tier_rpc_message_bytes(const struct tier_rpc_message *m);
/* Next contiguous piece, in order; false at the end. Borrowed until the callback returns. */
bool tier_rpc_message_next(struct tier_rpc_message *m, const uint8_t **piece_out, size_t *n_out);
/*
 * Keeps the message beyond the callback that brought it: the caller's to free, on any thread, and
 * to be read by one thread at a time. It begins again with its first piece.
 */
struct tier_rpc_message *tier_rpc_message_take(struct tier_rpc_message *m);
void tier_rpc_message_free(struct tier_rpc_message *m); /* NULL is fine */
/* The whole message in one piece (copied only when it is in several), or NULL above max. */
const uint8_t *tier_rpc_message_flat(struct tier_rpc_message *m, size_t max);

#endif
