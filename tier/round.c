/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/round.h"

#include "tier/limits.h"
#include "tier/stale.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tier_round_init(struct tier_round *r, uint64_t number, const struct tier_round_rules *rules) {
    *r = (struct tier_round){.number = number, .state = TIER_ROUND_OPEN, .rules = *rules};
}

void tier_round_release(struct tier_round *r) {
    free(r->children);
    *r = (struct tier_round){0};
}

static struct tier_round_child *child_at(struct tier_round *r, uint32_t child) {
    if (child >= r->room) {
        size_t room = r->room ? r->room : 8;
        while (room <= child)
            room *= 2;
        struct tier_round_child *more = realloc(r->children, room * sizeof *more);
        if (!more)
            abort(); /* bounded by TIER_CHILDREN_MAX: a few hundred KiB */
        memset(more + r->room, 0, (room - r->room) * sizeof *more);
        r->children = more;
        r->room = room;
    }
    if (child >= r->count)
        r->count = (size_t)child + 1;
    return &r->children[child];
}

static bool delivered(enum tier_round_child_state s) {
    return s == TIER_CHILD_SEALED || s == TIER_CHILD_FOLDED;
}

static bool at_work(enum tier_round_child_state s) {
    return s == TIER_CHILD_EXPECTED || s == TIER_CHILD_PUSHING;
}

bool tier_round_carries(const struct tier_round *r, uint32_t child, uint64_t number,
                        const struct tier_round_rules *rules) {
    const struct tier_round_child *c = tier_round_child(r, child);
    return at_work(c->state) && number - c->base <= rules->staleness_max;
}

void tier_round_next(struct tier_round *r, uint64_t number, const struct tier_round_rules *rules) {
    for (uint32_t i = 0; i < r->count; i++) {
        struct tier_round_child *c = &r->children[i];
        if (tier_round_carries(r, i, number, rules) || c->state == TIER_CHILD_NONE)
            continue;
        *c = (struct tier_round_child){
            .state = TIER_CHILD_EXPECTED, .attending = c->attending, .base = number};
    }
    struct tier_round next = {.number = number,
                              .state = TIER_ROUND_OPEN,
                              .rules = *rules,
                              .children = r->children,
                              .count = r->count,
                              .room = r->room};
    *r = next;
}

/* What an update of the child's counts as, of a weight of at most 2^32. */
static uint64_t counted(const struct tier_round *r, const struct tier_round_child *c,
                        uint64_t weight) {
    return r->rules.staleness_max ? weight * tier_stale_multiplier(r->number - c->base) : weight;
}

const struct tier_round_child *tier_round_child(const struct tier_round *r, uint32_t child) {
    static const struct tier_round_child none = {0};
    return child < r->count ? &r->children[child] : &none;
}

struct tier_round_tally tier_round_tally(const struct tier_round *r) {
    struct tier_round_tally t = {0};
    for (size_t i = 0; i < r->count; i++) {
        enum tier_round_child_state s = r->children[i].state;
        t.active += s == TIER_CHILD_EXPECTED || s == TIER_CHILD_PUSHING || delivered(s);
        t.sealed += delivered(s);
        t.loose += s == TIER_CHILD_SEALED;
        t.pushing += s == TIER_CHILD_PUSHING;
        t.declined += s == TIER_CHILD_DECLINED;
        t.refused += s == TIER_CHILD_REFUSED || s == TIER_CHILD_QUARANTINED;
    }
    return t;
}

static void act(struct tier_round_actions *out, enum tier_round_action_type type, uint32_t child,
                const struct tier_hash *update) {
    assert(out->count < TIER_ROUND_ACTIONS_MAX);
    struct tier_round_action *a = &out->at[out->count++];
    *a = (struct tier_round_action){.type = type, .child = child};
    if (update)
        a->update = *update;
}

static void refuse(struct tier_round_actions *out, const struct tier_round_event *e,
                   enum tier_status status, const char *reason) {
    act(out, TIER_ACTION_REFUSE, e->child, &e->update);
    out->at[out->count - 1].status = status;
    out->at[out->count - 1].reason = reason;
}

/* Everything that is sealed goes into the partial, if it is enough. */
static void part_if_due(struct tier_round *r, size_t loose, struct tier_round_actions *out) {
    if (r->parting || r->rules.part_at == 0 || loose < r->rules.part_at)
        return;
    r->parting = true;
    for (size_t i = 0; i < r->count; i++)
        r->children[i].in_part = r->children[i].state == TIER_CHILD_SEALED;
    act(out, TIER_ACTION_PART, 0, NULL);
}

static void begin_fold(struct tier_round *r, struct tier_round_actions *out) {
    r->state = TIER_ROUND_FOLDING;
    if (!r->parting)
        act(out, TIER_ACTION_FOLD, 0, NULL);
}

static void begin_unmasking(struct tier_round *r, struct tier_round_actions *out) {
    r->state = TIER_ROUND_UNMASKING;
    act(out, TIER_ACTION_UNMASK, 0, NULL);
}

/* Closes the round if it is time. A partial in the making is waited for. */
static void close_if_due(struct tier_round *r, struct tier_round_actions *out) {
    if (r->state != TIER_ROUND_OPEN)
        return;
    struct tier_round_tally t = tier_round_tally(r);
    size_t least = r->rules.sealed_min ? r->rules.sealed_min : 1;
    bool enough = t.sealed >= least;
    bool nobody_left = t.active == t.sealed && !enough && t.declined + t.refused > 0;
    bool quorum = enough && t.sealed >= tier_quorum_needed(&r->rules.quorum, t.active);

    if (quorum || (r->overdue && enough)) {
        (r->rules.masked ? begin_unmasking : begin_fold)(r, out);
    } else if (nobody_left || (r->overdue && !r->rules.wait_when_empty)) {
        r->state = TIER_ROUND_EMPTY;
        act(out, TIER_ACTION_EMPTY, 0, NULL);
    } else {
        part_if_due(r, t.loose, out);
    }
}

static void on_join(struct tier_round *r, uint32_t child, struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, child);
    c->attending = true;
    if (r->state != TIER_ROUND_OPEN) {
        /* It may have lost what it was at work on, and will not be told when the next one opens. */
        if (r->rules.staleness_max && at_work(c->state))
            act(out, TIER_ACTION_START, child, NULL);
        return;
    }
    if (c->state == TIER_CHILD_NONE) {
        c->state = TIER_CHILD_EXPECTED;
        c->base = r->number;
    }
    /* One that has delivered is told too: it may have lost everything but its sealed update. */
    if (c->state == TIER_CHILD_EXPECTED || delivered(c->state))
        act(out, TIER_ACTION_START, child, NULL);
}

static void on_leave(struct tier_round *r, uint32_t child) {
    struct tier_round_child *c = child_at(r, child);
    c->attending = false;
    if (c->state == TIER_CHILD_PUSHING)
        c->state = TIER_CHILD_EXPECTED; /* what has arrived stays in the spool and is resumed */
}

static void on_decline(struct tier_round *r, uint32_t child, struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, child);
    bool later = r->rules.staleness_max && at_work(c->state); /* or it would be waited for */

    if (delivered(c->state) || c->state == TIER_CHILD_REFUSED ||
        c->state == TIER_CHILD_QUARANTINED || (r->state != TIER_ROUND_OPEN && !later))
        return;
    if (at_work(c->state) && !tier_hash_is_zero(&c->update)) /* nobody resumes it */
        act(out, TIER_ACTION_DISCARD, child, &c->update);
    c->state = TIER_CHILD_DECLINED;
    close_if_due(r, out);
}

static void on_offer(struct tier_round *r, const struct tier_round_event *e,
                     struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, e->child);
    bool same = tier_hash_equal(&c->update, &e->update), open = r->state == TIER_ROUND_OPEN;
    bool later = r->rules.staleness_max && at_work(c->state);

    if (delivered(c->state) && same) {
        act(out, TIER_ACTION_RECEIPT, e->child, &e->update);
    } else if (delivered(c->state)) {
        refuse(out, e, TIER_ECONFLICT, "another update of this child is sealed for this round");
    } else if (!open && !later) {
        refuse(out, e, TIER_ELATE, "the round is closed");
    } else if (c->state == TIER_CHILD_QUARANTINED) {
        refuse(out, e, TIER_EPOLICY,
               tier_hash_is_zero(&c->update)
                   ? "this child is kept out of the run until an operator pardons it"
                   : "an update of this child is in quarantine in this round");
    } else if (c->state == TIER_CHILD_REFUSED) {
        refuse(out, e, TIER_EPOLICY, "an update of this child was refused in this round");
    } else if (c->state == TIER_CHILD_NONE || c->state == TIER_CHILD_DECLINED) {
        refuse(out, e, TIER_EPOLICY, "this child does not take part in this round");
    } else if (e->single && counted(r, c, e->weight) > TIER_WEIGHT_MAX) {
        /* No fold could add it, so one that took it would stand still. */
        c->state = TIER_CHILD_REFUSED;
        refuse(out, e, TIER_ELIMIT, "the weight, times 64 and less, would pass what one may weigh");
        close_if_due(r, out);
    } else if (open && counted(r, c, e->weight) > r->rules.weight_total_max - r->weight) {
        /* Nothing will make it fit, and the others must not wait for it. */
        c->state = TIER_CHILD_REFUSED;
        refuse(out, e, TIER_ELIMIT, "the total weight would pass the plan's weight_total_max");
        close_if_due(r, out);
    } else {
        /* A partial of another id never counted: the child lost it before sealing was journalled.
         */
        if (!same && !tier_hash_is_zero(&c->update))
            act(out, TIER_ACTION_DISCARD, e->child, &c->update);
        c->state = TIER_CHILD_PUSHING;
        c->update = e->update;
        c->weight = e->weight;
        act(out, TIER_ACTION_GRANT, e->child, &e->update);
    }
}

static void on_sealed(struct tier_round *r, const struct tier_round_event *e,
                      struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, e->child);
    bool same = tier_hash_equal(&c->update, &e->update);

    if (delivered(c->state)) {
        if (same)
            act(out, TIER_ACTION_RECEIPT, e->child, &e->update);
        else
            refuse(out, e, TIER_ECONFLICT, "another update of this child is sealed for this round");
        return;
    }
    if (c->state == TIER_CHILD_QUARANTINED && same) { /* its file stays */
        refuse(out, e, TIER_EPOLICY, "an update of this child is in quarantine in this round");
        return;
    }
    /* A child whose stream was lost while its last bytes were checked has still delivered. */
    bool wanted = c->state == TIER_CHILD_PUSHING || c->state == TIER_CHILD_EXPECTED;
    if (r->state != TIER_ROUND_OPEN || !wanted || !same) {
        refuse(out, e, TIER_ELATE, "the round is closed");
        act(out, TIER_ACTION_DISCARD, e->child, &e->update);
        return;
    }
    if (counted(r, c, e->weight) > r->rules.weight_total_max - r->weight) { /* others were faster */
        c->state = TIER_CHILD_REFUSED;
        refuse(out, e, TIER_ELIMIT, "the total weight would pass the plan's weight_total_max");
        act(out, TIER_ACTION_DISCARD, e->child, &e->update);
        close_if_due(r, out);
        return;
    }
    c->state = TIER_CHILD_SEALED;
    c->weight = e->weight;
    r->weight += counted(r, c, e->weight);
    act(out, TIER_ACTION_RECEIPT, e->child, &e->update);
    close_if_due(r, out);
}

static void on_bad(struct tier_round *r, const struct tier_round_event *e,
                   struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, e->child);

    if (!tier_hash_equal(&c->update, &e->update)) { /* not wanted any more, and still answered */
        refuse(out, e, TIER_EUPDATE, e->reason ? e->reason : "the update is not wanted any more");
        act(out, TIER_ACTION_DISCARD, e->child, &e->update);
        return;
    }
    bool counts = c->state == TIER_CHILD_SEALED;
    if (counts)
        r->weight -= counted(r, c, c->weight);
    c->state = TIER_CHILD_REFUSED;
    refuse(out, e, TIER_EUPDATE, e->reason ? e->reason : "the update holds elements out of range");
    act(out, TIER_ACTION_DISCARD, e->child, &e->update);
    if (counts && (r->state == TIER_ROUND_FOLDING || r->state == TIER_ROUND_UNMASKING))
        r->state = TIER_ROUND_OPEN;
    close_if_due(r, out);
}

/* Who fails is known all at once: the round goes on when that is said of each (SCREENED). */
static void on_quarantine(struct tier_round *r, const struct tier_round_event *e,
                          struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, e->child);

    if (r->state != TIER_ROUND_FOLDING || c->state != TIER_CHILD_SEALED || c->in_part ||
        !tier_hash_equal(&c->update, &e->update))
        return;
    r->weight -= counted(r, c, c->weight);
    c->state = TIER_CHILD_QUARANTINED;
    act(out, TIER_ACTION_QUARANTINE, e->child, &e->update);
    out->at[out->count - 1].status = TIER_EPOLICY;
    out->at[out->count - 1].reason = e->reason ? e->reason : "the update fails the tier's screen";
}

/* What is left may not be enough for the quorum any more. */
static void on_screened(struct tier_round *r, struct tier_round_actions *out) {
    if (r->state != TIER_ROUND_FOLDING)
        return;
    r->state = TIER_ROUND_OPEN;
    close_if_due(r, out);
}

static void on_lost(struct tier_round *r, const struct tier_round_event *e,
                    struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, e->child);

    if (!delivered(c->state) || r->state == TIER_ROUND_FOLDED || r->state == TIER_ROUND_COMMITTED)
        return;
    if (c->state == TIER_CHILD_FOLDED)
        r->partial = (struct tier_hash){{0}};
    r->weight -= counted(r, c, c->weight);
    c->state = TIER_CHILD_EXPECTED;
    c->in_part = false;
    r->state = TIER_ROUND_OPEN;
    act(out, TIER_ACTION_DISCARD, e->child, &e->update);
    if (c->attending)
        act(out, TIER_ACTION_START, e->child, NULL); /* it offers again what it keeps */
}

const char *tier_round_holds_fast(const struct tier_round *r, uint32_t child,
                                  const struct tier_hash *update) {
    const struct tier_round_child *c = tier_round_child(r, child);

    if (!tier_hash_equal(&c->update, update) || c->state == TIER_CHILD_REFUSED ||
        c->state == TIER_CHILD_QUARANTINED)
        return NULL;
    if (r->state == TIER_ROUND_COMMITTED)
        return "the round is committed: its model holds the update";
    if (r->state == TIER_ROUND_FOLDED)
        return "the round's sum is made and on its way: the update cannot be taken out of it";
    if (r->rules.masked && r->state != TIER_ROUND_OPEN && c->state == TIER_CHILD_SEALED)
        return "the round is being unmasked: what is known of the masks is of all its updates "
               "together, and none can be taken out of them";
    if (c->state == TIER_CHILD_FOLDED || c->in_part)
        return "the update is in a sum already: with the plan's tiers retain: updates it would "
               "have stayed apart until the round closes";
    return NULL;
}

/* As if it had not been pushed: it is wanted still, and the child offers another or declines. */
static void on_withdraw(struct tier_round *r, const struct tier_round_event *e,
                        struct tier_round_actions *out) {
    struct tier_round_child *c = child_at(r, e->child);

    bool quarantined = c->state == TIER_CHILD_QUARANTINED && !tier_hash_is_zero(&c->update);
    if (!tier_hash_equal(&c->update, &e->update) ||
        (!delivered(c->state) && !at_work(c->state) && !quarantined) ||
        tier_round_holds_fast(r, e->child, &e->update))
        return;
    if (c->state == TIER_CHILD_SEALED) {
        r->weight -= counted(r, c, c->weight);
        if (r->state == TIER_ROUND_FOLDING)
            r->state = TIER_ROUND_OPEN;
    }
    c->state = quarantined ? TIER_CHILD_REFUSED : TIER_CHILD_EXPECTED;
    c->update = (struct tier_hash){{0}};
    c->weight = 0;
    act(out, TIER_ACTION_DISCARD, e->child, &e->update);
}

/* `partial` NULL: there is no new one. */
static void on_parted(struct tier_round *r, const struct tier_hash *partial,
                      struct tier_round_actions *out) {
    if (!r->parting)
        return;
    r->parting = false;
    if (partial)
        r->partial = *partial;
    for (size_t i = 0; i < r->count; i++) {
        struct tier_round_child *c = &r->children[i];
        if (partial && c->in_part)
            c->state = TIER_CHILD_FOLDED;
        c->in_part = false;
    }
    if (r->state == TIER_ROUND_FOLDING)
        act(out, TIER_ACTION_FOLD, 0, NULL);
    else
        close_if_due(r, out);
}

void tier_round_step(struct tier_round *r, const struct tier_round_event *e,
                     struct tier_round_actions *out) {
    out->count = 0;
    switch (e->type) {
    case TIER_EVENT_JOIN:
        on_join(r, e->child, out);
        break;
    case TIER_EVENT_LEAVE:
        on_leave(r, e->child);
        break;
    case TIER_EVENT_DECLINE:
        on_decline(r, e->child, out);
        break;
    case TIER_EVENT_OFFER:
        on_offer(r, e, out);
        break;
    case TIER_EVENT_SEALED:
        on_sealed(r, e, out);
        break;
    case TIER_EVENT_BAD:
        on_bad(r, e, out);
        break;
    case TIER_EVENT_QUARANTINE:
        on_quarantine(r, e, out);
        break;
    case TIER_EVENT_SCREENED:
        on_screened(r, out);
        break;
    case TIER_EVENT_WITHDRAW:
        on_withdraw(r, e, out);
        break;
    case TIER_EVENT_LOST:
        on_lost(r, e, out);
        break;
    case TIER_EVENT_DEADLINE:
        r->overdue = true;
        close_if_due(r, out);
        break;
    case TIER_EVENT_PARTED:
        on_parted(r, &e->update, out);
        break;
    case TIER_EVENT_UNPARTED:
        on_parted(r, NULL, out);
        break;
    case TIER_EVENT_UNMASKED:
        if (r->state == TIER_ROUND_UNMASKING)
            begin_fold(r, out);
        break;
    case TIER_EVENT_NO_PART:
        r->rules.part_at = 0;
        on_parted(r, NULL, out);
        break;
    case TIER_EVENT_FOLDED:
        if (r->state == TIER_ROUND_FOLDING) {
            r->state = TIER_ROUND_FOLDED;
            r->own_update = e->update;
            act(out, TIER_ACTION_DELIVER, 0, &r->own_update);
        }
        break;
    case TIER_EVENT_COMMIT:
        r->state = TIER_ROUND_COMMITTED;
        break;
    case TIER_EVENT_NO_MERGE:
        if (r->state == TIER_ROUND_FOLDING || r->state == TIER_ROUND_UNMASKING ||
            (r->rules.masked && r->state == TIER_ROUND_OPEN)) {
            r->state = TIER_ROUND_EMPTY;
            act(out, TIER_ACTION_EMPTY, 0, NULL);
            out->at[out->count - 1].reason = e->reason;
        }
        break;
    }
}

void tier_round_keep_out(struct tier_round *r, uint32_t child, bool out) {
    struct tier_round_child *c = child_at(r, child);
    bool kept_out = c->state == TIER_CHILD_QUARANTINED && tier_hash_is_zero(&c->update);

    if (out && !delivered(c->state))
        *c = (struct tier_round_child){
            .state = TIER_CHILD_QUARANTINED, .attending = c->attending, .base = r->number};
    else if (!out && kept_out)
        c->state = TIER_CHILD_EXPECTED;
}

void tier_round_restore_child(struct tier_round *r, uint32_t child,
                              enum tier_round_child_state state, const struct tier_hash *update,
                              uint64_t weight, uint64_t base) {
    struct tier_round_child *c = child_at(r, child);
    *c = (struct tier_round_child){.state =
                                       state == TIER_CHILD_PUSHING ? TIER_CHILD_EXPECTED : state,
                                   .weight = weight,
                                   .base = base};
    if (update)
        c->update = *update;
    if (delivered(c->state))
        r->weight += counted(r, c, weight);
}

void tier_round_restore(struct tier_round *r, enum tier_round_state state,
                        const struct tier_hash *partial, const struct tier_hash *own_update) {
    r->state = state;
    if (partial)
        r->partial = *partial;
    if (own_update)
        r->own_update = *own_update;
}

void tier_round_resume(struct tier_round *r, struct tier_round_actions *out) {
    out->count = 0;
    if (r->state == TIER_ROUND_FOLDING)
        act(out, TIER_ACTION_FOLD, 0, NULL);
    else if (r->state == TIER_ROUND_UNMASKING)
        act(out, TIER_ACTION_UNMASK, 0, NULL);
    else if (r->state == TIER_ROUND_FOLDED)
        act(out, TIER_ACTION_DELIVER, 0, &r->own_update);
    else if (r->state == TIER_ROUND_EMPTY)
        act(out, TIER_ACTION_EMPTY, 0, NULL);
    else
        close_if_due(r, out);
}

const char *tier_round_state_text(enum tier_round_state state) {
    static const char *const text[] = {"open",      "folding", "folded",
                                       "committed", "empty",   "unmasking"};
    return (unsigned)state < sizeof text / sizeof *text ? text[state] : "unknown";
}

const char *tier_round_child_state_text(enum tier_round_child_state state) {
    static const char *const text[] = {"absent",   "training", "pushing",   "delivered",
                                       "declined", "refused",  "delivered", "quarantined"};
    return (unsigned)state < sizeof text / sizeof *text ? text[state] : "unknown";
}
