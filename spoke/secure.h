/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run's secure sums at a spoke (tier/mask.h): it agrees on masks with the other spokes of its
 * parent while it trains, pushes its update behind them, and afterwards helps to take them off the
 * sum. What it sealed in the open stays in its spool, and is offered to nobody.
 *
 * Secrets are in memory alone. A spoke that is started again in a round has none for it: it says so
 * and is out of the sum, unless what it had masked before is still to be pushed, which counts as
 * long as enough others hold shares of what hides it. That it has answered a list of a round is
 * journalled before the answer leaves, so it answers none again in that round, whatever the parent
 * says: two sums that differ by one hospital would show its update.
 *
 * With secure.pseudonyms the parent is asked for one (tier/pseudonym.h) before a round's keys are
 * advertised, and the keys are under it: what goes to other spokes says nothing of this one's name.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_SPOKE_SECURE_H
#define CONSILIUM_SPOKE_SECURE_H

#include "spoke/spoke.h"

bool spoke_secure_on(const struct tier_plan *plan);
/* Whether this site takes part in a plan that hides so much: TIER_EPOLICY for one with less than
 * its own policy.cohort_min, or where TLS is off. */
enum tier_status spoke_secure_admit(const struct spoke *spoke, const struct tier_plan *plan,
                                    struct tier_err *err);

/* The round was announced (again). */
void spoke_secure_round(struct spoke_run *run);
/* A step of the parent's. */
void spoke_secure_came(struct spoke_run *run, const struct tier_to_child *m);
/* The round is over, or this site is out of it: every secret is wiped. */
void spoke_secure_over(struct spoke_run *run);

/* The run has ended. */
void spoke_secure_forget(struct spoke_run *run);

/* What is to be done about the round's update. */
enum spoke_secure_next {
    SPOKE_SECURE_TRAIN, /* there is none yet */
    SPOKE_SECURE_WAIT,  /* it is here, and is masked as soon as that can be; or is being masked */
    SPOKE_SECURE_OFFER, /* *id_out is masked */
    SPOKE_SECURE_OUT,   /* there will be none: *why_out */
};
enum spoke_secure_next spoke_secure_next(struct spoke_run *run, struct tier_hash *id_out,
                                         const char **why_out);

#endif
