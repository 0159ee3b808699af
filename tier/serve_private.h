/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the parent's side share: serve.c keeps who attends, serve_push.c takes updates,
 * serve_fetch.c gives content.
 *
 * A child is trusted with nothing here: how many calls and offers it has under way is bounded, it
 * holds at most a few of the places that all children share, and a place whose holder does not use
 * it goes to the next in the queue.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_TIER_SERVE_PRIVATE_H
#define CONSILIUM_TIER_SERVE_PRIVATE_H

#include "tier/content.h"
#include "tier/sender.h"
#include "tier/serve.h"

#define SERVE_CHILD_BUCKETS 4096

/* An update that the owner wants and that waits for its place, or has it. */
struct offer {
    struct tier_hash id;
    uint8_t *header;
    size_t header_bytes;
    const struct tier_manifest *manifest;
    bool granted, waiting;    /* has a place; is in the queue for one */
    struct opening *opening;  /* its place in the spool is being looked for, or NULL */
    struct tier_spool_rx *rx; /* from then to the push; NULL where that failed */
    struct tier_err failure;
    uint64_t granted_ms;
    struct push *push; /* the call under way, or NULL */
    struct child *child;
    struct offer *next, *wait_next;
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

/* A stream that has not said hello yet has no child, and is in the list of those. */
struct attendance {
    struct tier_serve *serve;
    struct tier_rpc_call *call;
    struct child *child;
    char name[TIER_NAME_LEN_MAX + 1]; /* of the certificate */
    bool silent;
    uint64_t since_ms;
    struct attendance *next;
};

/* `rx` and `range` are the strand's while it is not idle; `offset` is what it has absorbed. */
struct push {
    struct tier_serve *serve;
    struct tier_rpc_call *call; /* NULL once it is closed */
    struct tier_strand *strand;
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_hash id;
    struct tier_spool_rx *rx;
    struct tier_range range;
    uint64_t offset;
    bool arrived;
    uint64_t moved_ms; /* when bytes came last */
    struct push *next;
};

struct fetch {
    struct tier_serve *serve;
    struct tier_rpc_call *call;
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_hash sha256;
    struct tier_content content; /* open from the start of the sending on */
    uint64_t offset;
    struct tier_sender *sender;
    bool queued, started;
    uint64_t moved_ms;
    struct fetch *prev, *next; /* all */
    struct fetch *queue_next, *started_next;
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
    struct tier_intake *intake, *own_intake; /* the latter where the owner has none */
    unsigned max_uploaders, uploaders, held, openings;
    struct child *children;
    size_t child_count, child_most;            /* child_most: at once, since the start */
    struct child *bucket[SERVE_CHILD_BUCKETS]; /* by name */
    struct attendance *silent;
    struct push *pushes;
    struct offer *wait_first, *wait_last;
    struct fetch *fetches;
    struct fetch *fetch_first, *fetch_last; /* queued; at most max_uploaders are sent at a time */
    struct fetch *fetch_started;
    unsigned fetching;
    uint32_t stall_ms;
    struct tier_timer *sweep;
    struct tier_rpc_method *methods;
    struct tier_serve_traffic traffic;
};

extern const struct tier_rpc_handler serve_push_handler, serve_fetch_handler;

struct child *serve_child_find(const struct tier_serve *s, const char *name);
/* False: the child does not take its messages, and its stream is on its way out. */
bool serve_send_to(struct child *c, const struct tier_to_child *m);

/* Of the places that all children share, how many one may hold: never all, where there are two. */
unsigned serve_child_places(const struct tier_serve *s);

/* ---- serve_push.c ---- */

struct offer *serve_offer_find(const struct child *c, const struct tier_hash *id);
/* TIER_ELIMIT: the child has too many offers open. */
enum tier_status serve_offer_add(struct child *c, const struct tier_hash *id, const uint8_t *header,
                                 size_t header_bytes, struct tier_err *err);
/* Takes it off its lists and frees it; a place that no push holds is free then: serve_grant_next.
 */
void serve_offer_forget(struct tier_serve *s, struct offer *o);
void serve_grant_next(struct tier_serve *s);
/* Takes back what has not moved for stall_ms while others wait. */
void serve_push_sweep(struct tier_serve *s, uint64_t now_ms);

/* ---- serve_fetch.c ---- */

void serve_fetch_sweep(struct tier_serve *s, uint64_t now_ms);

#endif
