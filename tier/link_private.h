/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of a child's side of the edge share: link.c attends and pushes, link_fetch.c gets
 * content.
 *
 * Threads: the loop's, but for what an intake's strand is at work on.
 */
#ifndef CONSILIUM_TIER_LINK_PRIVATE_H
#define CONSILIUM_TIER_LINK_PRIVATE_H

#include "tier/content.h"
#include "tier/link.h"
#include "tier/sender.h"

#define LINK_RETRY_MS_MIN 100
#define LINK_RETRY_MS_MAX 10000

struct push {
    struct tier_link *link;
    struct tier_hash id;
    struct tier_update *update;
    struct tier_rpc_call *call;
    struct tier_sender *sender;
    struct tier_receipt receipt;
    bool have_receipt;
    struct tier_timer *again;
    struct push *next;
};

struct fetch {
    struct tier_link *link;
    struct tier_hash sha256;
    char suffix[16];
    struct tier_content_rx *rx; /* the intake's while it opens it or the strand is not idle */
    struct tier_rpc_call *call;
    struct tier_strand *strand;
    bool opening;
    enum tier_status ended; /* how the call did, with its text */
    char ended_text[256];
    struct tier_timer *again;
    unsigned retry_ms;
    struct tier_err failure; /* ours, which the call's own end does not know */
    uint64_t bytes_max, pieces;
    bool unwanted; /* nobody waits for it any more */
    struct waiter {
        tier_fetched done;
        void *arg;
        struct waiter *next;
    } * waiters;
    struct fetch *next;
};

struct tier_link {
    struct tier_loop *loop;
    struct tier_rpc_channel *channel;
    struct tier_rpc_call *stream;
    struct tier_spool *spool;
    const struct tier_link_events *events;
    void *owner;
    char name[TIER_NAME_LEN_MAX + 1], parent_name[TIER_NAME_LEN_MAX + 1];
    char *models_dir, *parent_cert;
    bool tls, up, closing;
    bool stale; /* the stream was opened with a certificate that is not the newest */
    tier_rpc_guard guard;
    void *guard_arg;
    unsigned retry_ms, first_ms; /* first_ms: of the delays after a loss, by the parent's word */
    struct tier_timer *retry;
    char last_reason[256];      /* a reason is logged once, not at every attempt */
    struct tier_timer *welcome; /* how long the parent may take to say it */
    bool dropped;               /* the stream, for the parent's faults */
    uint64_t faults, faults_at_ms;
    struct tier_hash offered[TIER_CHILD_OFFERS_MAX]; /* the newest: nothing else is ever pushed */
    bool granted[TIER_CHILD_OFFERS_MAX];             /* since it was offered last */
    size_t offered_next;
    struct tier_intake *intake, *own_intake; /* the latter where the owner has none */
    struct push *pushes;
    struct fetch *fetches;
    struct tier_link_traffic traffic;
};

/* Tells who waits how it ended, and frees it; it must be off the link's list. */
void link_fetch_release(struct fetch *f, enum tier_status st, const char *text);

#endif
