/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has a part in the open step is worked out once, when the step before it is closed: the rest
 * looks at flags.
 */
#include "tier/secure.h"

#include <stdlib.h>
#include <string.h>

#define LISTS_UNDER_WAY 32u

struct child {
    char name[TIER_NAME_LEN_MAX + 1];
    char called[TIER_NAME_LEN_MAX + 1]; /* in the sum; "": it is not known yet */
    enum tier_mask_step heard;          /* in which step last */
    struct tier_hash body;              /* what it said then */
    bool part;                          /* in the open step */
    bool told, sent;                    /* what it says next: and it was there */
    bool left, came;
};

struct tier_secure {
    struct tier_secure_owner owner;
    struct tier_mask_parent *p;
    unsigned cohort_min;
    struct child *children;
    size_t count, room;
    enum tier_secure_state state;
    bool hurries;        /* all are told at once */
    struct tier_err why; /* LOST */
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

enum tier_status tier_secure_new(const struct tier_mask_round *round,
                                 const struct tier_mask_trust *trust,
                                 const struct tier_secure_owner *owner, struct tier_secure **out,
                                 struct tier_err *err) {
    struct tier_mask_parent *p;

    TIER_TRY(tier_mask_parent_new(round, trust, &p, err));
    struct tier_secure *s = need(calloc(1, sizeof *s));
    s->owner = *owner;
    s->p = p;
    s->cohort_min = round->cohort_min;
    *out = s;
    return TIER_OK;
}

void tier_secure_free(struct tier_secure *s) {
    if (!s)
        return;
    tier_mask_parent_free(s->p);
    free(s->children);
    free(s);
}

static struct child *find(const struct tier_secure *s, const char *name) {
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->children[i].name, name) == 0)
            return &s->children[i];
    return NULL;
}

static struct child *child_of(struct tier_secure *s, const char *name) {
    struct child *c = find(s, name);

    if (c)
        return c;
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 16;
        s->children = need(realloc(s->children, s->room * sizeof *s->children));
    }
    c = &s->children[s->count++];
    *c = (struct child){.name = ""};
    memcpy(c->name, name, strnlen(name, TIER_NAME_LEN_MAX));
    if (!s->owner.calls)
        memcpy(c->called, c->name, sizeof c->called);
    c->part = tier_mask_parent_has(s->p, c->called);
    return c;
}

/* One name a child, and one child a name. */
static enum tier_status check_called(const struct tier_secure *s, const struct child *c,
                                     const char *called, struct tier_err *err) {
    if (*c->called && strcmp(c->called, called) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "secure sum: '%s' is called '%s' in this round, and advertises as '%s'",
                         c->name, c->called, called);
    for (size_t i = 0; i < s->count; i++)
        if (&s->children[i] != c && strcmp(s->children[i].called, called) == 0)
            return tier_fail(err, TIER_EIDENTITY,
                             "secure sum: '%s' advertises as '%s', which another child is called",
                             c->name, called);
    return TIER_OK;
}

/* A body of that child's, under the name that it has in the sum; `again`: from the journal. */
static enum tier_status take(struct tier_secure *s, struct child *c, bool again,
                             const struct tier_secure_row *row, struct tier_err *err) {
    char called[TIER_NAME_LEN_MAX + 1];

    memcpy(called, c->called, sizeof called);
    if (s->owner.calls && row->step == TIER_MASK_ADVERT) {
        TIER_TRY(tier_mask_advert_name(row->body, row->bytes, called, err));
        if (!again)
            TIER_TRY(s->owner.calls(s->owner.arg, c->name, called, err));
        TIER_TRY(check_called(s, c, called, err));
    }
    TIER_TRY(tier_mask_parent_take(s->p, called, row->step, row->body, row->bytes, err));
    memcpy(c->called, called, sizeof called);
    return TIER_OK;
}

/* ---- steps ---- */

static bool is_waited_for(const struct child *c, enum tier_mask_step open) {
    return c->part && !c->left && c->heard < open;
}

static unsigned waited_for(const struct tier_secure *s) {
    enum tier_mask_step open = tier_mask_parent_open(s->p);
    unsigned n = 0;

    for (size_t i = 0; i < s->count; i++)
        n += is_waited_for(&s->children[i], open);
    return n;
}

static bool is_timed(enum tier_mask_step step) {
    return step != 0 && step != TIER_MASK_DELIVER;
}

static void say(struct tier_secure *s, struct child *c) {
    enum tier_mask_step step;
    uint8_t *body = NULL;
    size_t bytes;

    if (!c->part || tier_mask_parent_say(s->p, c->called, &step, &body, &bytes, NULL) != TIER_OK)
        return;
    c->told = true;
    c->sent = s->owner.say(s->owner.arg, c->name, step, body, bytes);
    free(body);
}

static bool is_untold(const struct child *c) {
    return c->part && !c->left && !c->told;
}

/* Goes on telling what was closed; false: somebody is still to be told. */
static bool speak(struct tier_secure *s) {
    enum tier_mask_step open = tier_mask_parent_open(s->p);
    bool paced = open == TIER_MASK_SHARES && !s->hurries;
    unsigned under_way = 0;

    for (size_t i = 0; paced && i < s->count; i++)
        under_way += s->children[i].sent && is_waited_for(&s->children[i], open);
    for (size_t i = 0; s->state == TIER_SECURE_GOES_ON && i < s->count; i++) {
        struct child *c = &s->children[i];
        if (!is_untold(c))
            continue;
        if (paced && under_way >= LISTS_UNDER_WAY)
            return false;
        say(s, c);
        under_way += c->sent;
    }
    return true;
}

/* The machine goes on to its next step, and so do the flags. */
static void move_on(struct tier_secure *s) {
    bool last = tier_mask_parent_open(s->p) == TIER_MASK_REVEAL;

    if (tier_mask_parent_close(s->p, &s->why) != TIER_OK) {
        s->state = TIER_SECURE_LOST;
        return;
    }
    if (last)
        s->state = TIER_SECURE_KNOWN;
    s->hurries = false;
    for (size_t i = 0; i < s->count; i++) {
        struct child *c = &s->children[i];
        c->part = tier_mask_parent_has(s->p, c->called);
        c->told = c->sent = false;
    }
}

static void close_step(struct tier_secure *s, const uint8_t *names, size_t bytes) {
    const struct tier_secure_row row = {tier_mask_parent_open(s->p), "", names, bytes};

    s->owner.keep(s->owner.arg, &row);
    move_on(s);
    speak(s);
    s->owner.turn(s->owner.arg);
}

static bool enough_advertise(const struct tier_secure *s) {
    unsigned done, of;

    tier_mask_parent_tally(s->p, &done, &of);
    return done >= s->cohort_min;
}

static void close_if_due(struct tier_secure *s) {
    enum tier_mask_step open = tier_mask_parent_open(s->p);

    if (open == TIER_MASK_SHARES)
        speak(s);
    if (s->state != TIER_SECURE_GOES_ON || !is_timed(open) || waited_for(s) > 0 ||
        (open == TIER_MASK_ADVERT && !enough_advertise(s)))
        return;
    close_step(s, NULL, 0);
}

/* ---- what happens ---- */

void tier_secure_expect(struct tier_secure *s, const char *child) {
    (void)child_of(s, child);
}

void tier_secure_leave(struct tier_secure *s, const char *child) {
    struct child *c = child_of(s, child);

    if (c->left)
        return;
    c->left = true;
    close_if_due(s);
}

void tier_secure_joined(struct tier_secure *s, const char *child) {
    struct child *c = find(s, child);

    if (s->state == TIER_SECURE_GOES_ON && c && !c->left)
        say(s, c);
}

enum tier_status tier_secure_said(struct tier_secure *s, const char *child,
                                  enum tier_mask_step step, const uint8_t *body, size_t bytes,
                                  struct tier_err *err) {
    const struct tier_secure_row row = {step, child, body, bytes};
    struct child *c = find(s, child);
    struct tier_hash hash;

    if (s->state != TIER_SECURE_GOES_ON)
        return tier_fail(err, TIER_ELATE, "secure sum: the round is over");
    if (!c || c->left)
        return tier_fail(err, TIER_EPOLICY, "secure sum: '%s' has no part in this round", child);
    TIER_TRY(take(s, c, false, &row, err));
    tier_hash_data(body, bytes, &hash);
    if (c->heard > step || (c->heard == step && tier_hash_equal(&c->body, &hash)))
        return TIER_OK; /* said again */
    c->heard = step;
    c->body = hash;
    s->owner.keep(s->owner.arg, &row);
    close_if_due(s);
    return TIER_OK;
}

static void mark_came(struct tier_secure *s, const char *name) {
    struct child *c = child_of(s, name);

    if (tier_mask_parent_masked(s->p, c->called, NULL) == TIER_OK)
        c->came = true;
}

/* The names as one row, so that a kill cannot leave some of them. */
static void close_deliver(struct tier_secure *s, const char *const *children, size_t count) {
    uint8_t *names = need(malloc(count * (TIER_NAME_LEN_MAX + 1)));
    size_t bytes = 0;

    for (size_t i = 0; i < count; i++) {
        size_t n = strnlen(children[i], TIER_NAME_LEN_MAX);
        memcpy(names + bytes, children[i], n);
        names[bytes + n] = 0;
        bytes += n + 1;
        mark_came(s, children[i]);
    }
    close_step(s, names, bytes);
    free(names);
}

void tier_secure_unmask(struct tier_secure *s, const char *const *children, size_t count) {
    if (s->state == TIER_SECURE_GOES_ON && count > 0 &&
        tier_mask_parent_open(s->p) == TIER_MASK_DELIVER) {
        close_deliver(s, children, count);
        return;
    }
    if (s->state == TIER_SECURE_GOES_ON && count == 0)
        s->state = TIER_SECURE_KNOWN;
    s->owner.turn(s->owner.arg);
}

void tier_secure_time_up(struct tier_secure *s) {
    enum tier_mask_step open = tier_mask_parent_open(s->p);

    if (s->state != TIER_SECURE_GOES_ON || !is_timed(open))
        return;
    s->hurries = true;
    bool some_untold = false;
    for (size_t i = 0; open == TIER_MASK_SHARES && i < s->count; i++)
        some_untold = some_untold || is_untold(&s->children[i]);
    if (some_untold)
        speak(s);
    else if (open == TIER_MASK_ADVERT && !enough_advertise(s))
        s->owner.turn(s->owner.arg);
    else
        close_step(s, NULL, 0);
}

/* ---- after a restart ---- */

static enum tier_status restore_close(struct tier_secure *s, const struct tier_secure_row *row,
                                      struct tier_err *err) {
    const char *name = (const char *)row->body;

    if (row->step != tier_mask_parent_open(s->p))
        return tier_fail(
            err, TIER_ECORRUPT, "the journal closes step '%s' of a secure sum, and '%s' is open",
            tier_mask_step_text(row->step), tier_mask_step_text(tier_mask_parent_open(s->p)));
    for (size_t left = row->bytes; left > 0;) {
        size_t n = strnlen(name, left);
        if (n == left)
            return tier_fail(err, TIER_ECORRUPT, "the journal's list of masked updates is cut off");
        mark_came(s, name);
        name += n + 1;
        left -= n + 1;
    }
    move_on(s);
    return TIER_OK;
}

enum tier_status tier_secure_restore(struct tier_secure *s, const struct tier_secure_row *row,
                                     struct tier_err *err) {
    if (s->state != TIER_SECURE_GOES_ON)
        return TIER_OK;
    if (!*row->child)
        return restore_close(s, row, err);
    struct child *c = child_of(s, row->child);
    c->heard = row->step;
    tier_hash_data(row->body, row->bytes, &c->body);
    return take(s, c, true, row, err);
}

void tier_secure_resume(struct tier_secure *s) {
    close_if_due(s);
    s->owner.turn(s->owner.arg);
}

/* ---- how it stands ---- */

enum tier_secure_state tier_secure_state(const struct tier_secure *s, struct tier_err *err) {
    if (s->state == TIER_SECURE_LOST && err)
        *err = s->why;
    return s->state;
}

enum tier_mask_step tier_secure_step(const struct tier_secure *s, bool *timed_out) {
    enum tier_mask_step open =
        s->state == TIER_SECURE_GOES_ON ? tier_mask_parent_open(s->p) : (enum tier_mask_step)0;

    *timed_out = is_timed(open);
    return open;
}

void tier_secure_tally(const struct tier_secure *s, unsigned *done_out, unsigned *of_out) {
    tier_mask_parent_tally(s->p, done_out, of_out);
    if (tier_mask_parent_open(s->p) == TIER_MASK_ADVERT)
        *of_out = *done_out + waited_for(s);
}

unsigned tier_secure_least(const struct tier_secure *s) {
    return tier_mask_parent_least(s->p);
}

bool tier_secure_heard(const struct tier_secure *s, const char *child, enum tier_mask_step step) {
    const struct child *c = find(s, child);

    return c && c->heard >= step;
}

const char *tier_secure_called(const struct tier_secure *s, const char *child) {
    const struct child *c = find(s, child);

    return c ? c->called : "";
}

bool tier_secure_takes(const struct tier_secure *s, const char *child) {
    const struct child *c = find(s, child);
    bool awaits = tier_mask_parent_open(s->p) == TIER_MASK_DELIVER;

    return c && s->state != TIER_SECURE_LOST &&
           (awaits && s->state == TIER_SECURE_GOES_ON ? c->part : c->came);
}

bool tier_secure_came(const struct tier_secure *s, const char *child) {
    const struct child *c = find(s, child);

    return c && c->came;
}

size_t tier_secure_came_count(const struct tier_secure *s) {
    size_t n = 0;

    for (size_t i = 0; i < s->count; i++)
        n += s->children[i].came;
    return n;
}

bool tier_secure_has(const struct tier_secure *s, const char *child) {
    const struct child *c = find(s, child);

    return c && s->state != TIER_SECURE_LOST && (c->came || (c->part && !c->left));
}

const struct tier_mask_term *tier_secure_terms(const struct tier_secure *s, size_t *count_out) {
    *count_out = 0;
    return s->state == TIER_SECURE_KNOWN ? tier_mask_parent_terms(s->p, count_out) : NULL;
}
