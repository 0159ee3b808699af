/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Secure sums of a run at a hub (tier/secure.h): its spokes agree on masks while they train, and
 * give up what hides their sum once the round has closed. Hubs below it push sums in the open,
 * which are added to what was unmasked.
 *
 * Nothing here acts from within what it is told: a timer that is due at once looks at what has
 * become of the sum, and turns it into events of the round.
 *
 * With secure.pseudonyms spokes are told of each other under pseudonyms alone; which child is
 * called what, this hub knows from passing their questions on, or from the first advertisement
 * under one.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_SECURE_H
#define CONSILIUM_HUB_SECURE_H

#include "hub/hub.h"
#include "tier/secure_fold.h"

/* Whether this node can take part in such a plan: TIER_EPLAN without TLS. */
enum tier_status hub_secure_check(const struct hub *hub, const struct tier_plan *plan,
                                  struct tier_err *err);
/* The fewest updates that close a round, since fewer could not be unmasked: 0 where the run has no
 * spokes here, or hides nothing. */
uint32_t hub_secure_sealed_min(const struct hub_run *run);

/* Whether the run's round is one of masked updates. */
bool hub_secure_on(const struct hub_run *run);
/* A round has opened: what was known of the one before is wiped. */
void hub_secure_begin(struct hub_run *run);
/* After a restart, with the round restored. */
enum tier_status hub_secure_restore(struct hub_run *run, struct tier_err *err);
/* The run is over: what its spokes are called in it is not needed any more. */
void hub_secure_end(struct hub_run *run);
/* What the journal has of the round is not needed any more. */
void hub_secure_over(struct hub_run *run, uint64_t round);
void hub_secure_free(struct hub_run *run);

/* Around every event of the round. */
void hub_secure_before(struct hub_run *run, const struct tier_round_event *e);
void hub_secure_after(struct hub_run *run, const struct tier_round_event *e);
/* The actions UNMASK and, at the top, EMPTY: true where the run goes on without this round. */
void hub_secure_unmask(struct hub_run *run);
bool hub_secure_skips(struct hub_run *run);

/* TIER_EPOLICY: the child's update cannot be part of the round's sum. */
enum tier_status hub_secure_offered(struct hub_run *run, uint32_t child,
                                    const struct tier_update_header *h, struct tier_err *err);
void hub_secure_said(struct hub_run *run, const char *child, uint64_t round,
                     const struct tier_secure_body *body);

/* The authority has certified, by way of this hub, that a child of it is called so in the run. */
struct hub_secure_name {
    struct tier_hash run;
    char child[TIER_NAME_LEN_MAX + 1], called[TIER_NAME_LEN_MAX + 1];
};
/* By the question; false where it is not of a child of this hub. Nothing of it is checked here. */
bool hub_secure_asked(const struct hub *hub, const struct tier_pseudonym_ask *ask,
                      struct hub_secure_name *out);
void hub_secure_named(struct hub *hub, const struct hub_secure_name *name);

/* What a fold needs; NULL where the masks are not known (again) yet, which are asked for then. */
struct hub_secure_fold;
struct hub_secure_fold *hub_secure_fold_new(struct hub_run *run);
void hub_secure_fold_free(struct hub_secure_fold *f);
/* Whether what is not masked is folded too, and how, says tier_secure_fold_run. */
const struct tier_secure_fold *hub_secure_fold_of(const struct hub_secure_fold *f);

#endif
