/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A parent's side of one round's secure sum, as it is lived: struct tier_mask_parent says what a
 * step's bodies mean, this says who is waited for, when a step is over, what each child is told and
 * how the round goes on after a restart. No clock, no I/O: the owner keeps what happened, moves
 * bodies, counts a step's time, and looks at tier_secure_state when it is asked to.
 *
 * A step is over when all who are waited for have been heard, or its time is up; whoever is missing
 * then is out of the sum. Advertisements are waited for without end until there are enough of them:
 * nothing has been said by then that could be lost. Updates are awaited by the round
 * (tier/round.h), which says which of them count. From there on the sum is over those and no
 * others.
 *
 * A list is long where there are many children (32 bytes for each, and 100 advertisements), so it
 * is said to so many at a time, and to the next when one of them has answered: what waits to be
 * sent does not grow with their number. Those that are away hold nobody up, and when the step's
 * time is up before all were told, the rest are told at once and the time is given again.
 *
 * Where children go by pseudonyms (tier/pseudonym.h), what they are called in the sum is what their
 * advertisements say, one name a child and one child a name: the bodies name nobody else, while the
 * owner and its rows go on by the names that attend.
 *
 * Everything that a restart needs is in the rows that the owner is given, in their order, before
 * anything that follows from them is said: a parent that is put together from them says what it
 * would have said.
 *
 * Threads: an object belongs to one thread at a time.
 */
#ifndef CONSILIUM_TIER_SECURE_H
#define CONSILIUM_TIER_SECURE_H

#include "tier/mask.h"

/* `child` "": the step was closed; of DELIVER with the names of those whose updates count, each
 * terminated, as its body. Borrowed. */
struct tier_secure_row {
    enum tier_mask_step step;
    const char *child;
    const uint8_t *body;
    size_t bytes;
};

struct tier_secure_owner {
    void *arg;
    void (*keep)(void *arg, const struct tier_secure_row *row);
    /* False where the child is away: it is told again by tier_secure_joined. */
    bool (*say)(void *arg, const char *child, enum tier_mask_step step, const uint8_t *body,
                size_t bytes);
    /* Something is to be looked at: another step is open, or none. Not from within this call. */
    void (*turn)(void *arg);
    /* Whether `called` is that child's pseudonym, as far as the owner knows; that the authority
     * gave it to somebody, and its holder has signed, is checked after it. NULL: children go by
     * their own names. */
    enum tier_status (*calls)(void *arg, const char *child, const char *called,
                              struct tier_err *err);
};

enum tier_secure_state {
    TIER_SECURE_GOES_ON,
    TIER_SECURE_KNOWN, /* the terms are here */
    TIER_SECURE_LOST,  /* given up: no sum of the round will ever be known */
};

struct tier_secure;

/* Copies `round` and `owner`; borrows `trust` until the end. */
enum tier_status tier_secure_new(const struct tier_mask_round *round,
                                 const struct tier_mask_trust *trust,
                                 const struct tier_secure_owner *owner, struct tier_secure **out,
                                 struct tier_err *err);
void tier_secure_free(struct tier_secure *s);

/* ---- what happens ---- */

/* That child is waited for. One that has left stays away. */
void tier_secure_expect(struct tier_secure *s, const char *child);
/* It has no part in this round, or no further one. */
void tier_secure_leave(struct tier_secure *s, const char *child);
/* It attends (again): it is told what it may not have heard. */
void tier_secure_joined(struct tier_secure *s, const char *child);
/* A child's body. Errors are tier_mask_parent_take's; TIER_ELATE, and TIER_EPOLICY for one that is
 * not expected: it is out of this round; TIER_EIDENTITY for a pseudonym that is another's. */
enum tier_status tier_secure_said(struct tier_secure *s, const char *child,
                                  enum tier_mask_step step, const uint8_t *body, size_t bytes,
                                  struct tier_err *err);
/* The masked updates of these are here, and no others will be: their sum is to be unmasked. Said
 * again, it changes nothing and asks for a look. None: there is nothing to unmask, and the terms
 * are none. */
void tier_secure_unmask(struct tier_secure *s, const char *const *children, size_t count);
/* The open step has lasted long enough. */
void tier_secure_time_up(struct tier_secure *s);

/* After a restart: the rows in order, then tier_secure_resume. Whom it expects is said before. */
enum tier_status tier_secure_restore(struct tier_secure *s, const struct tier_secure_row *row,
                                     struct tier_err *err);
void tier_secure_resume(struct tier_secure *s);

/* ---- how it stands ---- */

/* LOST: why goes to err (may be NULL). */
enum tier_secure_state tier_secure_state(const struct tier_secure *s, struct tier_err *err);
/* The step that is open, 0 behind the last; and whether its time is to be counted. */
enum tier_mask_step tier_secure_step(const struct tier_secure *s, bool *timed_out);
/* Heard in the open step, and of how many; in ADVERT, of how many are expected. */
void tier_secure_tally(const struct tier_secure *s, unsigned *done_out, unsigned *of_out);
/* The fewest updates whose sum can be unmasked, as far as it is known in the open step. */
unsigned tier_secure_least(const struct tier_secure *s);
/* Whether that child has said something in the step already: it says it again then. */
bool tier_secure_heard(const struct tier_secure *s, const char *child, enum tier_mask_step step);
/* What it is called in the sum; "" before its advertisement came. Borrowed. */
const char *tier_secure_called(const struct tier_secure *s, const char *child);
/* Whether an update of that child counts, or would: it has shared, and updates are awaited; or it
 * is one of those whose sum is being unmasked, and was lost here. */
bool tier_secure_takes(const struct tier_secure *s, const char *child);
/* Whether it is one of those whose sum is being unmasked. */
bool tier_secure_came(const struct tier_secure *s, const char *child);
size_t tier_secure_came_count(const struct tier_secure *s);
/* Whether the child is in the round still, as one that is waited for or has come. */
bool tier_secure_has(const struct tier_secure *s, const char *child);
/* What is to be added to the sum of the masked updates; borrowed. */
const struct tier_mask_term *tier_secure_terms(const struct tier_secure *s, size_t *count_out);

#endif
