/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A secure sum over all spokes below the top, whatever the tree: struct tier_secure is the parent's
 * part in it, struct tier_relay the ways to the spokes. Hubs on the way add what is masked, so that
 * what one of them holds is behind the masks that its spokes share with those of others, and says
 * nothing of its region; here alone the masks come off, of the sum over all.
 *
 * What comes from a direct child is a masked sum and whose it is of (tier/members.h), its own
 * update's where the child is a spoke. Those whose updates came are the members of the sums that
 * are here when the round closes, and nobody else: whoever was late for its hub's sum is left out,
 * and so is everyone below a hub whose sum does not come. A sum with a member that is in another,
 * or whose masks cannot be taken off, is refused as a whole, since nothing can be taken out of it.
 *
 * The top is told when a region has said all that it will (READY), and ends no first step before.
 *
 * Threads: an object belongs to one thread at a time.
 */
#ifndef CONSILIUM_TIER_BLIND_H
#define CONSILIUM_TIER_BLIND_H

#include "tier/members.h"
#include "tier/relay.h"
#include "tier/secure.h"

struct tier_blind_owner {
    void *arg;
    /* As tier_secure_owner's; a row's child is what a spoke is called in the sum. */
    void (*keep)(void *arg, const struct tier_secure_row *row);
    void (*turn)(void *arg);
    /* As tier_relay_owner's, to a direct child. */
    bool (*down)(void *arg, const char *child, const struct tier_relay_message *m);
};

struct tier_blind;
/* Copies `round` and `owner`; borrows `trust` until the end. */
enum tier_status tier_blind_new(const struct tier_mask_round *round,
                                const struct tier_mask_trust *trust,
                                const struct tier_blind_owner *owner, struct tier_blind **out,
                                struct tier_err *err);
void tier_blind_free(struct tier_blind *b);

/* ---- direct children: as tier_relay's of these names ---- */

void tier_blind_joined(struct tier_blind *b, const char *child, bool is_hub);
void tier_blind_lost(struct tier_blind *b, const char *child);
void tier_blind_left(struct tier_blind *b, const char *child);
void tier_blind_opened(struct tier_blind *b);
/* Errors: tier_relay_from_child's, tier_secure_said's. */
enum tier_status tier_blind_said(struct tier_blind *b, const char *child,
                                 const struct tier_relay_message *m, struct tier_err *err);
/* The open step has lasted long enough. */
void tier_blind_time_up(struct tier_blind *b);

/* ---- masked sums ---- */

/*
 * That child's masked sum is here, and is of these; the same again is TIER_OK. TIER_ECONFLICT: one
 * of them is in another child's, or the child had another one; TIER_EPOLICY: the masks of one of
 * them could not be taken off, or they are none. It does not count then.
 */
enum tier_status tier_blind_sum(struct tier_blind *b, const char *child,
                                const struct tier_members *members, struct tier_err *err);
/* It is not here any more. What is being unmasked already needs it. */
void tier_blind_drop(struct tier_blind *b, const char *child);
/* No others will come: the sum over all that are here is to be unmasked. */
void tier_blind_unmask(struct tier_blind *b);

/* ---- after a restart: the rows in order, the sums that are here, then resume ---- */

enum tier_status tier_blind_restore(struct tier_blind *b, const struct tier_secure_row *row,
                                    struct tier_err *err);
void tier_blind_resume(struct tier_blind *b);

/* ---- how it stands ---- */

/* Of which state, step, tally and terms are asked; borrowed. */
const struct tier_secure *tier_blind_secure(const struct tier_blind *b);
/* Whether every member of what is unmasked is in a sum that is here, and nobody else. */
bool tier_blind_whole(const struct tier_blind *b);

#endif
