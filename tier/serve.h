/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parent's side of the edge: serves Tier to children. It knows who attends, moves bytes (models
 * down, updates up into the spool) and turns messages into events for its owner, who decides. At
 * most max_uploaders children push at a time; further grants wait for their turn. A child that
 * misbehaves costs a bounded amount: serve_private.h says how.
 *
 * Threads: the loop's. Events are called from loop callbacks and may call back into this module.
 */
#ifndef CONSILIUM_TIER_SERVE_H
#define CONSILIUM_TIER_SERVE_H

#include "tier/intake.h"
#include "tier/rpc.h"
#include "tier/spool.h"
#include "tier/wire.h"

struct tier_serve;

/* Names are borrowed for the call. */
struct tier_serve_events {
    /* May refuse: any status but OK ends the child's stream with err's text. */
    enum tier_status (*attending)(void *owner, const char *child, struct tier_err *err);
    void (*left)(void *owner, const char *child);
    /* `waiting`: neither yet; a person decides there. */
    void (*answered)(void *owner, const char *child, const struct tier_hash *run, bool accepted,
                     bool waiting, const char *reason);
    /* A child holds this update. Answer with tier_serve_grant or by sending a receipt or refusal.
     */
    void (*offered)(void *owner, const char *child, const struct tier_hash *id,
                    const struct tier_update_header *header);
    void (*declined)(void *owner, const char *child, const struct tier_hash *run, uint64_t round,
                     const char *reason);
    /* A child asks for that update to be taken out; answered by a refusal that says so. */
    void (*withdrew)(void *owner, const char *child, const struct tier_hash *run, uint64_t round,
                     const struct tier_hash *update, const char *reason);
    void (*progressed)(void *owner, const char *child, const struct tier_hash *run, uint64_t round,
                       const char *phase, uint32_t done, uint32_t total);
    /* A step of a secure sum. NULL: nobody takes part in any. */
    void (*secured)(void *owner, const char *child, const struct tier_hash *run, uint64_t round,
                    const struct tier_secure_body *body);
    /* What it runs, by its TPM: `m` is borrowed. NULL: nobody asks. */
    void (*quoted)(void *owner, const char *child, const struct tier_from_child *m);
    /* The head of its audit log (tier/heads.h). NULL: nobody wants to know. */
    void (*showed)(void *owner, const char *child, const struct tier_head *head);
    /*
     * An update arrived whole and is sealed in the spool. `checked`: every element of it is in
     * range; else tier_update_verify has to say. The push stays open until tier_serve_pushed.
     */
    void (*arrived)(void *owner, const char *child, const struct tier_hash *id,
                    const struct tier_update_header *header, bool checked);
};

struct tier_serve_options {
    const char *name;               /* this node's */
    const char *address;            /* host:port to listen on */
    const struct tier_rpc_tls *tls; /* NULL: plain text */
    const struct tier_rpc_keepalive *keepalive;
    const char *models_dir;     /* what Fetch may give: <sha256>.onnx and <sha256>.safetensors */
    struct tier_intake *intake; /* borrowed; NULL: updates are absorbed on the loop's thread */
    unsigned max_uploaders;
    uint32_t stall_ms;    /* 0: TIER_STALL_MS */
    tier_rpc_guard guard; /* with guard_arg: who may call; NULL: no further check */
    void *guard_arg;
    const struct tier_rpc_method *more; /* other services on this port; their calls get `owner` */
    size_t more_count;
};

enum tier_status tier_serve_new(struct tier_loop *loop, const struct tier_serve_options *options,
                                struct tier_spool *spool, const struct tier_serve_events *events,
                                void *owner, struct tier_serve **out, struct tier_err *err);
void tier_serve_free(struct tier_serve *serve);
int tier_serve_port(const struct tier_serve *serve);
enum tier_status tier_serve_reload(struct tier_serve *serve, const struct tier_rpc_tls *tls,
                                   struct tier_err *err);
/* Ends the calls of those whom the guard refuses by now. */
void tier_serve_recheck(struct tier_serve *serve);
/* The owner given to _new; what `more` methods find behind tier_rpc_user is the serve. */
void *tier_serve_owner(const struct tier_serve *serve);

/* The certificate of an attending child's stream, PEM; "" without TLS, or if it does not attend. */
const char *tier_serve_child_cert(const struct tier_serve *serve, const char *child);
/* False when that child is not attending. */
bool tier_serve_send(struct tier_serve *serve, const char *child, const struct tier_to_child *m);
/* To every child that attends; encoded once, and held once however many take their time. */
void tier_serve_send_all(struct tier_serve *serve, const struct tier_to_child *m);
/*
 * Lets a child push an update it offered, now or when an uploader's place is free. The manifest is
 * what its elements are checked against on the way in; borrowed until the serve is freed, NULL to
 * check nothing.
 */
void tier_serve_grant(struct tier_serve *serve, const char *child, const struct tier_hash *id,
                      const struct tier_manifest *manifest);
/* So many of the uploaders' places are taken by what has arrived and cannot go yet. The owner must
 * lower it again by itself: with none left nothing arrives. */
void tier_serve_hold(struct tier_serve *serve, unsigned places);
/* The update is not wanted any more: its offer is forgotten, and its push, unless it has arrived,
 * ends with that reason. */
void tier_serve_withdraw(struct tier_serve *serve, const char *child, const struct tier_hash *id,
                         enum tier_status st, const char *reason);
/* Ends the child's stream; `left` follows. */
void tier_serve_dismiss(struct tier_serve *serve, const char *child, enum tier_status st,
                        const char *text);
/* Ends the push of an arrived update: with its receipt, or with the reason why not. False when
 * there is none. */
bool tier_serve_pushed(struct tier_serve *serve, const char *child, const struct tier_hash *id,
                       const struct tier_receipt *receipt, const struct tier_err *refusal);

struct tier_serve_child_info {
    const char *name;
    const char *address;
    const char *software;
    int64_t since_ms;
};
/* Calls fn for every attending child. */
void tier_serve_each(const struct tier_serve *serve,
                     void (*fn)(void *arg, const struct tier_serve_child_info *info), void *arg);
size_t tier_serve_count(const struct tier_serve *serve);

struct tier_serve_traffic {
    uint64_t pushed_bytes;  /* payload received */
    uint64_t resumed_bytes; /* payload not sent again thanks to an offset above 0 */
    uint64_t fetched_bytes; /* content sent */
    uint64_t fetches;
};
struct tier_serve_traffic tier_serve_traffic(const struct tier_serve *serve);

/* The name a call's certificate carries (or its claim, without TLS); TIER_EIDENTITY if none. */
enum tier_status tier_rpc_peer_name(const struct tier_rpc_call *call, bool tls,
                                    char name[TIER_NAME_LEN_MAX + 1], struct tier_err *err);

#endif
