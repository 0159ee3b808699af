/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps a node's certificate good: two thirds through its life it asks for the next, of the
 * authority beside it or else of its parent, who passes the question up (proto/tier.proto, Renew).
 * The key stays the same, so receipts signed with it and streams opened before go on; the stream to
 * the parent is opened anew with the new certificate when nothing is on its way. Also watches that
 * the revocation list is not overdue.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_TIER_RENEWAL_H
#define CONSILIUM_TIER_RENEWAL_H

#include "tier/authority.h"
#include "tier/home.h"
#include "tier/link.h"

struct tier_renewal;

struct tier_renewal_events {
    /* The home holds the next certificate: the node's own servers are to take it. */
    void (*renewed)(void *owner);
    void (*overdue)(void *owner, const char *why);
};

/* All borrowed. `link` NULL at the top, `authority` NULL where there is none beside this node. */
struct tier_renewal_options {
    struct tier_loop *loop;
    struct tier_home *home;
    struct tier_link *link;
    struct tier_authority *authority;
    const struct tier_renewal_events *events;
    void *owner;
};

/* Without TLS there is nothing to do: *out is NULL. */
enum tier_status tier_renewal_new(const struct tier_renewal_options *options,
                                  struct tier_renewal **out, struct tier_err *err);
/* After the link is freed, whose calls it may have. NULL is fine. */
void tier_renewal_free(struct tier_renewal *renewal);

/* A request for the next certificate of the same name, role and key; to be released. */
enum tier_status tier_renewal_request(const struct tier_node *node, struct tier_renew_request *out,
                                      struct tier_err *err);
/* Two thirds through a certificate's life, in seconds since 1970. */
int64_t tier_renewal_due_s(const struct tier_identity *id);

#endif
