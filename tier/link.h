/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The child's side of the edge: attends the parent, comes back after every loss of the stream,
 * pushes offered updates when the parent grants it, fetches content. The owner decides; the link
 * moves bytes. It keeps nothing durable: after each reconnection the parent says again what is
 * going on, and the owner offers again what it holds.
 *
 * Threads: the loop's. Events are called from loop callbacks and may call back into this module.
 */
#ifndef CONSILIUM_TIER_LINK_H
#define CONSILIUM_TIER_LINK_H

#include "tier/intake.h"
#include "tier/rpc.h"
#include "tier/spool.h"
#include "tier/wire.h"

struct tier_link;

struct tier_link_events {
    void (*up)(void *owner, const char *parent);
    void (*down)(void *owner, const char *reason);
    /* Any message but welcome and grant, which the link acts on itself. Borrowed. */
    void (*message)(void *owner, const struct tier_to_child *m);
    /* The push of an update ended without a receipt; the link offers it again after a while unless
     * it was refused for good. */
    void (*push_failed)(void *owner, const struct tier_hash *update, bool for_good,
                        const char *reason);
};

struct tier_link_options {
    const char *name;           /* this node's */
    const char *parent_name;    /* must be in the parent's certificate */
    const char *parent_address; /* host:port */
    const struct tier_rpc_tls *tls;
    const struct tier_rpc_keepalive *keepalive;
    const char *models_dir;
    struct tier_intake *intake; /* borrowed; NULL: content is absorbed on the loop's thread */
    tier_rpc_guard guard;       /* with guard_arg: whether this parent may be attended; or NULL */
    void *guard_arg;
};

enum tier_status tier_link_new(struct tier_loop *loop, const struct tier_link_options *options,
                               struct tier_spool *spool, const struct tier_link_events *events,
                               void *owner, struct tier_link **out, struct tier_err *err);
void tier_link_free(struct tier_link *link);

/*
 * A certificate of this node's has come: what is begun from now on uses it, and the stream is
 * opened anew with it by tier_link_refresh, once nothing is on its way, or at once. False: not yet.
 */
enum tier_status tier_link_reload(struct tier_link *link, const struct tier_rpc_tls *tls,
                                  struct tier_err *err);
bool tier_link_refresh(struct tier_link *link, bool at_once);
/* Ends the stream to a parent that the guard refuses by now. */
void tier_link_recheck(struct tier_link *link);
/* For calls of the owner's own to the parent. */
struct tier_rpc_channel *tier_link_channel(struct tier_link *link);

/* False while the stream is down: say it again from `up`. */
bool tier_link_send(struct tier_link *link, const struct tier_from_child *m);
/* Offers a sealed update of the spool; it stays with the owner until the parent's receipt. */
enum tier_status tier_link_offer(struct tier_link *link, const struct tier_hash *update,
                                 struct tier_err *err);

/* Called once, from a loop callback; `st` is TIER_OK when the file is there. */
typedef void (*tier_fetched)(void *arg, enum tier_status st, const char *text);
/*
 * Fetches content of at most bytes_max into models_dir unless it is there. Goes on through losses
 * of the stream for as long as the parent has it; ends with TIER_ENOTFOUND if it has not. What is
 * not as announced, or another content than named, is thrown away and asked for again. Asked for
 * twice with the same `done` and `arg`, it calls once.
 */
void tier_link_fetch(struct tier_link *link, const struct tier_hash *sha256, const char *suffix,
                     uint64_t bytes_max, tier_fetched done, void *arg);
/* This `done` is not called any more; what nobody waits for is not fetched on, and goes. */
void tier_link_unfetch(struct tier_link *link, const struct tier_hash *sha256, tier_fetched done,
                       void *arg);
/*
 * The parent has said what is refused, was said before or contradicts itself. With more of that
 * than TIER_PARENT_FAULTS_MAX the link ends the stream and comes back after TIER_PARENT_PAUSE_MS:
 * neither the log nor the disk grows at the pace of a parent's messages.
 */
void tier_link_fault(struct tier_link *link);
/* The parent cannot be trusted, for that reason: the stream is ended at once, likewise. */
void tier_link_drop(struct tier_link *link, const char *reason);

struct tier_link_traffic {
    uint64_t pushed_bytes;  /* payload sent, with repetitions */
    uint64_t header_bytes;  /* of offers sent */
    uint64_t fetched_bytes; /* content received */
    uint64_t fetches;
};
struct tier_link_traffic tier_link_traffic(const struct tier_link *link);
/* The parent's certificate, PEM, once up; "" without TLS. */
const char *tier_link_parent_cert(const struct tier_link *link);

#endif
