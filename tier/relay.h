/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hub's part in a secure sum that is unmasked at the top alone (tier/blind.h): the steps of the
 * spokes below it go up, and what the top says to each comes down, through hubs that answer none of
 * it. This is which way: a pure state machine, without clock, I/O or bodies that it keeps.
 *
 * A route begins with a spoke's first advertisement, and leads by the child that it came from. It
 * changes only when it leads nowhere, because the spoke or that child is away: so a hub that names
 * a spoke of another takes nothing from it while the other attends. A spoke that moved before that
 * was known here is refused, and has its route as soon as it is. What a body says is between the
 * spoke and the top, signed or sealed where it matters (tier/mask.h): a hub on the way can lose it.
 *
 * Nothing is journalled: after a restart, or a loss of the parent's stream, what attends says again
 * that it does (HERE), the top says again what its spokes may not have heard, and those answer the
 * same. So a relay holds a name and a few flags for each spoke below it, TIER_CHILDREN_MAX at most.
 *
 * Threads: an object belongs to one thread at a time.
 */
#ifndef CONSILIUM_TIER_RELAY_H
#define CONSILIUM_TIER_RELAY_H

#include "tier/mask.h"

enum tier_relay_kind {
    TIER_RELAY_STEP,  /* either way: a step of the spoke's */
    TIER_RELAY_HERE,  /* up: it attends (again), and may not have heard what was said last */
    TIER_RELAY_AWAY,  /* up: its stream is lost, or one above it */
    TIER_RELAY_GONE,  /* up: it has no further part in the round */
    TIER_RELAY_READY, /* up: all that will come from below has come, or been waited for */
    TIER_RELAY_ASK,   /* down: it is to advertise again */
};

/* Borrowed. `spoke` is what it is called in the sum; "" for READY. */
struct tier_relay_message {
    enum tier_relay_kind kind;
    const char *spoke;
    enum tier_mask_step step; /* of STEP, as body and bytes */
    const uint8_t *body;
    size_t bytes;
};

struct tier_relay_owner {
    void *arg;
    /* To the parent, or into the top's own sum. Where the parent is away it is lost. A status but
     * TIER_OK is handed to the child that it came from. */
    enum tier_status (*up)(void *arg, const struct tier_relay_message *m, struct tier_err *err);
    /* To a child that attends; false: it does not. */
    bool (*down)(void *arg, const char *child, const struct tier_relay_message *m);
};

struct tier_relay;
struct tier_relay *tier_relay_new(const struct tier_relay_owner *owner); /* copies it */
void tier_relay_free(struct tier_relay *r);

/* ---- children ---- */

/* That child takes part and attends (again). A spoke is waited for until it advertises, a hub until
 * it is READY; both until they leave. */
void tier_relay_joined(struct tier_relay *r, const char *child, bool is_hub);
/* Its stream is lost. */
void tier_relay_lost(struct tier_relay *r, const char *child);
/* It has no further part in the round, nor has anything below it. */
void tier_relay_left(struct tier_relay *r, const char *child);
/* The round is open here, and all children that it began with have joined. */
void tier_relay_opened(struct tier_relay *r);
/* Nobody is waited for any more. */
void tier_relay_time_up(struct tier_relay *r);

/* ---- messages ---- */

/* TIER_EPROTO: not a child's to say. TIER_EIDENTITY: of a spoke that is routed otherwise, or by a
 * spoke of another name than its own. TIER_EPOLICY: of one that has no part, or of a child that
 * has none. TIER_ELIMIT. Or what `up` gave. */
enum tier_status tier_relay_from_child(struct tier_relay *r, const char *child,
                                       const struct tier_relay_message *m, struct tier_err *err);
/* The parent's, or the top's own; false: it could not be handed on. */
bool tier_relay_from_parent(struct tier_relay *r, const struct tier_relay_message *m);
/* The stream to the parent is there again: how everything stands below is said anew. */
void tier_relay_parent_joined(struct tier_relay *r);

/* ---- how it stands ---- */

/* What that child, a spoke, is called in the sum; "": it has not advertised. */
const char *tier_relay_called(const struct tier_relay *r, const char *child);
/* Whether that child, a spoke, was handed DELIVER, so that its masked update can count here. A
 * restart forgets it until the top has said so again. */
bool tier_relay_takes(const struct tier_relay *r, const char *child);

#endif
