/* SPDX-License-Identifier: Apache-2.0 */
/*
 * That regions have more to say holds the first step up as a child that is waited for would: so
 * there is one, which is no spoke's name, and leaves when they are ready.
 */
#include "tier/blind.h"

#include <stdlib.h>
#include <string.h>

#define REGIONS "."

struct sum {
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_members members;
};

struct tier_blind {
    struct tier_blind_owner owner;
    struct tier_secure *secure;
    struct tier_relay *relay;
    struct sum *sums;
    size_t sum_count, sum_room;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- between the spokes and the sum ---- */

static bool ask_again(struct tier_blind *b, const char *spoke) {
    const struct tier_relay_message m = {.kind = TIER_RELAY_ASK, .spoke = spoke};

    return tier_relay_from_parent(b->relay, &m);
}

static enum tier_status step_up(struct tier_blind *b, const struct tier_relay_message *m,
                                struct tier_err *err) {
    bool again = tier_secure_heard(b->secure, m->spoke, TIER_MASK_ADVERT);

    if (m->step == TIER_MASK_ADVERT)
        tier_secure_expect(b->secure, m->spoke);
    TIER_TRY(tier_secure_said(b->secure, m->spoke, m->step, m->body, m->bytes, err));
    if (m->step == TIER_MASK_ADVERT && again) /* it attends anew */
        tier_secure_joined(b->secure, m->spoke);
    return TIER_OK;
}

static enum tier_status up(void *arg, const struct tier_relay_message *m, struct tier_err *err) {
    struct tier_blind *b = arg;

    switch (m->kind) {
    case TIER_RELAY_STEP:
        return step_up(b, m, err);
    case TIER_RELAY_HERE:
        if (tier_secure_heard(b->secure, m->spoke, TIER_MASK_ADVERT))
            tier_secure_joined(b->secure, m->spoke);
        else
            ask_again(b, m->spoke);
        return TIER_OK;
    case TIER_RELAY_GONE:
        tier_secure_leave(b->secure, m->spoke);
        return TIER_OK;
    case TIER_RELAY_READY:
        tier_secure_leave(b->secure, REGIONS);
        return TIER_OK;
    default: /* AWAY: a step's time is for that */
        return TIER_OK;
    }
}

static bool down(void *arg, const char *child, const struct tier_relay_message *m) {
    struct tier_blind *b = arg;

    return b->owner.down(b->owner.arg, child, m);
}

static void keep(void *arg, const struct tier_secure_row *row) {
    struct tier_blind *b = arg;

    b->owner.keep(b->owner.arg, row);
}

static bool say(void *arg, const char *spoke, enum tier_mask_step step, const uint8_t *body,
                size_t bytes) {
    struct tier_blind *b = arg;
    const struct tier_relay_message m = {TIER_RELAY_STEP, spoke, step, body, bytes};

    return tier_relay_from_parent(b->relay, &m);
}

static void turn(void *arg) {
    struct tier_blind *b = arg;

    b->owner.turn(b->owner.arg);
}

/* ---- life cycle ---- */

enum tier_status tier_blind_new(const struct tier_mask_round *round,
                                const struct tier_mask_trust *trust,
                                const struct tier_blind_owner *owner, struct tier_blind **out,
                                struct tier_err *err) {
    struct tier_blind *b = need(calloc(1, sizeof *b));
    const struct tier_secure_owner sum = {.arg = b, .keep = keep, .say = say, .turn = turn};
    const struct tier_relay_owner ways = {.arg = b, .up = up, .down = down};
    enum tier_status st = tier_secure_new(round, trust, &sum, &b->secure, err);

    if (st != TIER_OK) {
        free(b);
        return st;
    }
    b->owner = *owner;
    b->relay = tier_relay_new(&ways);
    tier_secure_expect(b->secure, REGIONS);
    *out = b;
    return TIER_OK;
}

void tier_blind_free(struct tier_blind *b) {
    if (!b)
        return;
    for (size_t i = 0; i < b->sum_count; i++)
        tier_members_release(&b->sums[i].members);
    free(b->sums);
    tier_relay_free(b->relay);
    tier_secure_free(b->secure);
    free(b);
}

/* ---- direct children ---- */

void tier_blind_joined(struct tier_blind *b, const char *child, bool is_hub) {
    tier_relay_joined(b->relay, child, is_hub);
}

void tier_blind_lost(struct tier_blind *b, const char *child) {
    tier_relay_lost(b->relay, child);
}

void tier_blind_left(struct tier_blind *b, const char *child) {
    tier_relay_left(b->relay, child);
}

void tier_blind_opened(struct tier_blind *b) {
    tier_relay_opened(b->relay);
}

enum tier_status tier_blind_said(struct tier_blind *b, const char *child,
                                 const struct tier_relay_message *m, struct tier_err *err) {
    return tier_relay_from_child(b->relay, child, m, err);
}

void tier_blind_time_up(struct tier_blind *b) {
    bool timed;
    enum tier_mask_step step = tier_secure_step(b->secure, &timed);

    tier_relay_time_up(b->relay); /* which may have been all that was waited for */
    if (tier_secure_step(b->secure, &timed) == step)
        tier_secure_time_up(b->secure);
}

/* ---- masked sums ---- */

static struct sum *find_sum(const struct tier_blind *b, const char *child) {
    for (size_t i = 0; i < b->sum_count; i++)
        if (strcmp(b->sums[i].child, child) == 0)
            return &b->sums[i];
    return NULL;
}

static bool is_same(const struct tier_members *a, const struct tier_members *b) {
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->name, b->name, a->count * sizeof *a->name) == 0);
}

static enum tier_status check_member(const struct tier_blind *b, const char *spoke,
                                     struct tier_err *err) {
    for (size_t i = 0; i < b->sum_count; i++)
        if (tier_members_has(&b->sums[i].members, spoke))
            return tier_fail(err, TIER_ECONFLICT,
                             "'%s' is in the masked sum of '%s' already, and would count twice",
                             spoke, b->sums[i].child);
    if (!tier_secure_takes(b->secure, spoke))
        return tier_fail(err, TIER_EPOLICY,
                         "'%s' has no part in the round's sum: its masks could not be taken off",
                         spoke);
    return TIER_OK;
}

enum tier_status tier_blind_sum(struct tier_blind *b, const char *child,
                                const struct tier_members *members, struct tier_err *err) {
    struct sum *had = find_sum(b, child);

    if (had && is_same(&had->members, members))
        return TIER_OK;
    if (had)
        return tier_fail(err, TIER_ECONFLICT, "'%s' has a masked sum here, of others", child);
    if (members->count == 0)
        return tier_fail(err, TIER_EPOLICY, "a masked sum of nobody");
    for (size_t i = 0; i < members->count; i++)
        TIER_TRY(check_member(b, members->name[i], err));
    if (b->sum_count == b->sum_room) {
        b->sum_room = b->sum_room ? 2 * b->sum_room : 16;
        b->sums = need(realloc(b->sums, b->sum_room * sizeof *b->sums));
    }
    struct sum *sum = &b->sums[b->sum_count];
    *sum = (struct sum){.child = ""};
    memcpy(sum->child, child, strnlen(child, TIER_NAME_LEN_MAX));
    enum tier_status st = tier_members_join(&sum->members, members, err);
    b->sum_count += st == TIER_OK;
    return st;
}

void tier_blind_drop(struct tier_blind *b, const char *child) {
    struct sum *sum = find_sum(b, child);

    if (!sum)
        return;
    tier_members_release(&sum->members);
    *sum = b->sums[--b->sum_count];
}

void tier_blind_unmask(struct tier_blind *b) {
    size_t count = 0, n = 0;

    for (size_t i = 0; i < b->sum_count; i++)
        count += b->sums[i].members.count;
    const char **names = need(calloc(count + 1, sizeof *names));
    for (size_t i = 0; i < b->sum_count; i++)
        for (size_t k = 0; k < b->sums[i].members.count; k++)
            names[n++] = b->sums[i].members.name[k];
    tier_secure_unmask(b->secure, names, n);
    free(names);
}

/* ---- after a restart ---- */

enum tier_status tier_blind_restore(struct tier_blind *b, const struct tier_secure_row *row,
                                    struct tier_err *err) {
    return tier_secure_restore(b->secure, row, err);
}

void tier_blind_resume(struct tier_blind *b) {
    tier_secure_resume(b->secure);
}

/* ---- how it stands ---- */

const struct tier_secure *tier_blind_secure(const struct tier_blind *b) {
    return b->secure;
}

bool tier_blind_whole(const struct tier_blind *b) {
    size_t in_sums = 0;

    for (size_t i = 0; i < b->sum_count; i++)
        for (size_t k = 0; k < b->sums[i].members.count; k++, in_sums++)
            if (!tier_secure_came(b->secure, b->sums[i].members.name[k]))
                return false;
    return in_sums == tier_secure_came_count(b->secure);
}
