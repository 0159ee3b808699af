/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One round of one run at one parent, as a pure state machine: events in, actions out; no clock, no
 * I/O, no randomness. The owner journals the state after each event and then carries the actions
 * out, so that a restart can put the machine together again from the journal and go on.
 *
 *   OPEN ----quorum or deadline----> FOLDING ----folded----> FOLDED ----commit----> COMMITTED
 *     |                                 \____ bad update ____/ (back to OPEN)
 *     +--- nobody left, or deadline with nothing ---> EMPTY <--- (from FOLDING) no merge
 *
 * Of a round whose updates are masked (tier/secure.h), UNMASKING stands between OPEN and FOLDING:
 * the set of updates is closed, and children give up what hides their sum. It ends in FOLDING, or,
 * where too few of them are left for that, in EMPTY.
 *
 * Quorum closes a round as soon as enough children have delivered; `all` means all that have not
 * declined, were not refused. A deadline closes it with what has arrived. A child's first sealed
 * update is the one that counts: the same again gets the same receipt, another one is refused.
 *
 * A round of a tier that buffers (rules.staleness_max) also takes updates that children began in
 * earlier rounds: each child has the round that it is at work on, its `base`, and tier_round_next
 * carries those who are still at work over into the next round, unless they are too far behind.
 *
 * While it is open, sealed updates may be folded a few at a time into a partial sum, and their
 * files go: what is held does not grow with the number of children then. A partial that is damaged
 * makes all of its children wanted again; they hold their updates until the commit.
 *
 * Threads: none of its own; an object belongs to one thread. Children are small numbers that the
 * owner gives out, stable for the run.
 */
#ifndef CONSILIUM_TIER_ROUND_H
#define CONSILIUM_TIER_ROUND_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/keys.h"

#include <stdint.h>

enum tier_round_state {
    TIER_ROUND_OPEN,
    TIER_ROUND_FOLDING,
    TIER_ROUND_FOLDED,
    TIER_ROUND_COMMITTED,
    TIER_ROUND_EMPTY, /* closed without a result: no update, or none that can be merged */
    TIER_ROUND_UNMASKING,
};

enum tier_round_child_state {
    TIER_CHILD_NONE,     /* does not take part */
    TIER_CHILD_EXPECTED, /* its update is wanted */
    TIER_CHILD_PUSHING,  /* it was granted a push */
    TIER_CHILD_SEALED,   /* its update is here, checked, and counts */
    TIER_CHILD_DECLINED,
    TIER_CHILD_REFUSED,     /* its update was bad */
    TIER_CHILD_FOLDED,      /* its update counts, and is in the partial */
    TIER_CHILD_QUARANTINED, /* its update is here and counts nothing; without one, it stays out */
};

struct tier_round_rules {
    struct tier_quorum quorum;
    uint64_t weight_total_max; /* the plan's overflow proof holds up to here */
    uint64_t staleness_max;    /* rounds that an update may be behind; 0: none, nor multipliers */
    bool wait_when_empty;      /* the top: a deadline with nothing waits for the first update */
    uint32_t part_at;          /* sealed updates that are folded into a partial; 0: never */
    bool masked;               /* what is sealed is unmasked before it is folded */
    uint32_t sealed_min;       /* fewer close no round; 0 is 1 */
};

enum tier_round_event_type {
    TIER_EVENT_JOIN,       /* a child that takes part attends */
    TIER_EVENT_LEAVE,      /* its stream is lost */
    TIER_EVENT_DECLINE,    /* it will not deliver this round, or left the run */
    TIER_EVENT_OFFER,      /* it holds update `update` of weight `weight`, of its base round */
    TIER_EVENT_SEALED,     /* that update arrived and every element of it is in range */
    TIER_EVENT_BAD,        /* that update arrived and is not */
    TIER_EVENT_QUARANTINE, /* that sealed update fails the screen: `reason` */
    TIER_EVENT_WITHDRAW,   /* the child takes `update` back, which tier_round_holds_fast allows */
    TIER_EVENT_LOST,     /* a sealed update is no longer (whole) in the spool; of a folded one: the
                            partial is not, which is to be said of each child in it */
    TIER_EVENT_DEADLINE, /* the time is up */
    TIER_EVENT_PARTED,   /* the partial is `update` now */
    TIER_EVENT_UNPARTED, /* it could not be made: it is tried again at once where still due */
    TIER_EVENT_UNMASKED, /* what masks the sum is known */
    TIER_EVENT_NO_PART,  /* it never will: from now on nothing is folded before the round closes */
    TIER_EVENT_FOLDED,   /* the fold gave `update` */
    TIER_EVENT_COMMIT,   /* the result of the round is published */
    TIER_EVENT_SCREENED, /* every sealed update was screened, and QUARANTINE said of those that fail
                          */
    TIER_EVENT_NO_MERGE, /* the updates cannot become one, and never will: `reason`; masked ones
                            may be given up before any is here */
};

struct tier_round_event {
    enum tier_round_event_type type;
    uint32_t child;
    struct tier_hash update;
    uint64_t weight;
    bool single; /* OFFER: it is no sum, so what it counts as is bounded by TIER_WEIGHT_MAX */
    const char
        *reason; /* BAD, QUARANTINE, NO_MERGE: what is wrong; borrowed until its actions are done */
};

enum tier_round_action_type {
    TIER_ACTION_START,      /* tell the child of the round */
    TIER_ACTION_GRANT,      /* let the child push `update` */
    TIER_ACTION_RECEIPT,    /* give the child its receipt for `update` */
    TIER_ACTION_REFUSE,     /* tell the child that `update` is refused: status and reason */
    TIER_ACTION_QUARANTINE, /* tell the child that `update` is put aside: the reason */
    TIER_ACTION_DISCARD,    /* delete `update` from the spool */
    TIER_ACTION_PART,       /* fold the partial and every `in_part` update into a new partial */
    TIER_ACTION_UNMASK,     /* learn what masks the sum of every sealed update */
    TIER_ACTION_FOLD,       /* fold the partial, where there is one, and every sealed update */
    TIER_ACTION_DELIVER,    /* `update` is this node's own: push it up, or publish it */
    TIER_ACTION_EMPTY,      /* nothing to deliver: decline upward, or fail the run */
};

struct tier_round_action {
    enum tier_round_action_type type;
    uint32_t child;
    struct tier_hash update;
    enum tier_status status;
    const char *reason; /* static, or the event's */
};

/* What one event leads to; an event never leads to more than this. */
#define TIER_ROUND_ACTIONS_MAX 4
struct tier_round_actions {
    size_t count;
    struct tier_round_action at[TIER_ROUND_ACTIONS_MAX];
};

struct tier_round_child {
    enum tier_round_child_state state;
    bool attending;
    bool in_part;            /* SEALED, and being folded into the partial */
    struct tier_hash update; /* while PUSHING, SEALED, FOLDED, REFUSED, QUARANTINED */
    uint64_t weight;         /* as the update says: what counts is that, times its multiplier */
    uint64_t base;           /* the round that it is at work on; this one unless it is behind */
};

struct tier_round {
    uint64_t number;
    enum tier_round_state state;
    struct tier_round_rules rules;
    bool overdue;             /* the deadline has passed */
    bool parting;             /* a partial is being made */
    uint64_t weight;          /* of what is sealed and folded, as it counts */
    struct tier_hash partial; /* zero: none */
    struct tier_hash own_update;
    struct tier_round_child *children;
    size_t count, room;
};

/* A round that is open and has no children yet. */
void tier_round_init(struct tier_round *r, uint64_t number, const struct tier_round_rules *rules);
void tier_round_release(struct tier_round *r);

/*
 * The round after r takes its place, open and without updates. Who takes part goes on: from this
 * round, or, where `rules` allow it and nothing of theirs was counted, with what they are at work
 * on.
 */
void tier_round_next(struct tier_round *r, uint64_t number, const struct tier_round_rules *rules);
/* Whether the child's work would go on in round `number` of those rules. */
bool tier_round_carries(const struct tier_round *r, uint32_t child, uint64_t number,
                        const struct tier_round_rules *rules);

/*
 * Puts back what the journal says, before any event: a child's state (PUSHING becomes EXPECTED) and
 * base, or the state of the round itself with its own update.
 */
void tier_round_restore_child(struct tier_round *r, uint32_t child,
                              enum tier_round_child_state state, const struct tier_hash *update,
                              uint64_t weight, uint64_t base);
void tier_round_restore(struct tier_round *r, enum tier_round_state state,
                        const struct tier_hash *partial, const struct tier_hash *own_update);
/* After restoring: what has to be done now (a fold that was cut short, a delivery). */
void tier_round_resume(struct tier_round *r, struct tier_round_actions *out);

void tier_round_step(struct tier_round *r, const struct tier_round_event *event,
                     struct tier_round_actions *out);

/*
 * Why the child's `update` can no longer be taken out of the round exactly, as a static sentence;
 * NULL: it can, by TIER_EVENT_WITHDRAW, or it was never here. What is alone in the spool can be
 * taken out, what is in a sum cannot.
 */
const char *tier_round_holds_fast(const struct tier_round *r, uint32_t child,
                                  const struct tier_hash *update);

/* Of a round that opens, or whose child is pardoned: it takes no part, or does from now on. */
void tier_round_keep_out(struct tier_round *r, uint32_t child, bool out);

/* `active`: children that may still deliver or have; `sealed`: that have; `loose`: whose update is
 * in no partial yet. */
struct tier_round_tally {
    size_t active, sealed, loose, pushing, declined, refused; /* refused: or in quarantine */
};
struct tier_round_tally tier_round_tally(const struct tier_round *r);
const struct tier_round_child *tier_round_child(const struct tier_round *r, uint32_t child);
const char *tier_round_state_text(enum tier_round_state state);
const char *tier_round_child_state_text(enum tier_round_child_state state);

#endif
