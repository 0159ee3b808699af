/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/relay.h"

#include "tier/identity.h"

#include <stdlib.h>
#include <string.h>

struct via {
    char name[TIER_NAME_LEN_MAX + 1];
    bool is_hub, attends, left;
    bool heard; /* a spoke has advertised, a hub is ready */
};

struct route {
    char spoke[TIER_NAME_LEN_MAX + 1];
    size_t via, next; /* next: that wants it when it is away, or NOWHERE */
    bool away, gone;
    bool told; /* DELIVER */
};

#define NOWHERE SIZE_MAX

struct tier_relay {
    struct tier_relay_owner owner;
    struct via *vias;
    size_t via_count, via_room;
    struct route *routes;
    size_t route_count, route_room;
    bool opened, hurries, ready;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

struct tier_relay *tier_relay_new(const struct tier_relay_owner *owner) {
    struct tier_relay *r = need(calloc(1, sizeof *r));

    r->owner = *owner;
    return r;
}

void tier_relay_free(struct tier_relay *r) {
    if (!r)
        return;
    free(r->vias);
    free(r->routes);
    free(r);
}

static struct via *find_via(const struct tier_relay *r, const char *name) {
    for (size_t i = 0; i < r->via_count; i++)
        if (strcmp(r->vias[i].name, name) == 0)
            return &r->vias[i];
    return NULL;
}

static struct route *find_route(const struct tier_relay *r, const char *spoke) {
    for (size_t i = 0; i < r->route_count; i++)
        if (strcmp(r->routes[i].spoke, spoke) == 0)
            return &r->routes[i];
    return NULL;
}

static const struct via *via_of(const struct tier_relay *r, const struct route *at) {
    return &r->vias[at->via];
}

static bool is_away(const struct tier_relay *r, const struct route *at) {
    return at->away || !via_of(r, at)->attends;
}

/* ---- upwards ---- */

static enum tier_status say_up(struct tier_relay *r, enum tier_relay_kind kind, const char *spoke,
                               struct tier_err *err) {
    const struct tier_relay_message m = {.kind = kind, .spoke = spoke};

    return r->owner.up(r->owner.arg, &m, err);
}

/* Once, and again where the parent may not have heard it. */
static void say_ready(struct tier_relay *r) {
    bool due = r->opened;

    for (size_t i = 0; due && !r->hurries && i < r->via_count; i++)
        due = r->vias[i].heard || r->vias[i].left;
    if (!due || r->ready)
        return;
    r->ready = true;
    (void)say_up(r, TIER_RELAY_READY, "", NULL);
}

void tier_relay_parent_joined(struct tier_relay *r) {
    for (size_t i = 0; i < r->route_count; i++) {
        const struct route *at = &r->routes[i];
        (void)say_up(r,
                     at->gone         ? TIER_RELAY_GONE
                     : is_away(r, at) ? TIER_RELAY_AWAY
                                      : TIER_RELAY_HERE,
                     at->spoke, NULL);
    }
    r->ready = false;
    say_ready(r);
}

/* ---- children ---- */

void tier_relay_joined(struct tier_relay *r, const char *child, bool is_hub) {
    struct via *v = find_via(r, child);

    if (!v) {
        if (r->via_count == r->via_room) {
            r->via_room = r->via_room ? 2 * r->via_room : 16;
            r->vias = need(realloc(r->vias, r->via_room * sizeof *r->vias));
        }
        v = &r->vias[r->via_count++];
        *v = (struct via){.is_hub = is_hub};
        memcpy(v->name, child, strnlen(child, TIER_NAME_LEN_MAX));
    }
    v->attends = true; /* what is below it is here as it says so */
}

/* It leads nowhere from now on, or to where it was wanted already. */
static void turn_away(struct tier_relay *r, struct route *at) {
    const struct via *next = at->next == NOWHERE ? NULL : &r->vias[at->next];
    bool moves = next && next->attends && !next->left;

    if (moves)
        at->via = at->next;
    at->next = NOWHERE;
    at->away = !moves;
    if (!at->gone)
        (void)say_up(r, moves ? TIER_RELAY_HERE : TIER_RELAY_AWAY, at->spoke, NULL);
}

void tier_relay_lost(struct tier_relay *r, const char *child) {
    struct via *v = find_via(r, child);

    if (!v || !v->attends)
        return;
    v->attends = false;
    for (size_t i = 0; i < r->route_count; i++)
        if (via_of(r, &r->routes[i]) == v && !r->routes[i].away)
            turn_away(r, &r->routes[i]);
}

static void go(struct tier_relay *r, struct route *at) {
    if (at->gone)
        return;
    at->gone = true;
    (void)say_up(r, TIER_RELAY_GONE, at->spoke, NULL);
}

void tier_relay_left(struct tier_relay *r, const char *child) {
    struct via *v = find_via(r, child);

    if (!v || v->left)
        return;
    v->left = true;
    for (size_t i = 0; i < r->route_count; i++)
        if (via_of(r, &r->routes[i]) == v)
            go(r, &r->routes[i]);
    say_ready(r);
}

void tier_relay_opened(struct tier_relay *r) {
    r->opened = true;
    say_ready(r);
}

void tier_relay_time_up(struct tier_relay *r) {
    r->hurries = true;
    say_ready(r);
}

/* ---- messages ---- */

static enum tier_status new_route(struct tier_relay *r, const struct via *v, const char *spoke,
                                  struct route **out, struct tier_err *err) {
    if (r->route_count == TIER_CHILDREN_MAX)
        return tier_fail(err, TIER_ELIMIT, "more than %d spokes below this hub", TIER_CHILDREN_MAX);
    if (r->route_count == r->route_room) {
        r->route_room = r->route_room ? 2 * r->route_room : 16;
        r->routes = need(realloc(r->routes, r->route_room * sizeof *r->routes));
    }
    *out = &r->routes[r->route_count++];
    **out = (struct route){.via = (size_t)(v - r->vias), .next = NOWHERE};
    memcpy((*out)->spoke, spoke, strlen(spoke));
    return TIER_OK;
}

/* A spoke's own name is the first that it says. */
static enum tier_status check_own(const struct tier_relay *r, const struct via *v,
                                  const char *spoke, struct tier_err *err) {
    const char *called = tier_relay_called(r, v->name);

    if (v->is_hub || !*called || strcmp(called, spoke) == 0)
        return TIER_OK;
    return tier_fail(err, TIER_EIDENTITY, "'%s' is called '%s' in this round, and speaks for '%s'",
                     v->name, called, spoke);
}

/* By which the child may speak for that spoke. */
static enum tier_status route_for(struct tier_relay *r, const struct via *v,
                                  const struct tier_relay_message *m, struct route **out,
                                  struct tier_err *err) {
    struct route *at = find_route(r, m->spoke);
    size_t own = (size_t)(v - r->vias);
    bool begins =
        m->kind == TIER_RELAY_HERE || (m->kind == TIER_RELAY_STEP && m->step == TIER_MASK_ADVERT);

    TIER_TRY(check_own(r, v, m->spoke, err));
    if (!at && !begins)
        return tier_fail(err, TIER_EPOLICY, "'%s' has not advertised by way of '%s'", m->spoke,
                         v->name);
    if (!at) {
        TIER_TRY(new_route(r, v, m->spoke, out, err));
        return TIER_OK;
    }
    if (at->gone)
        return tier_fail(err, TIER_EPOLICY, "'%s' has no further part in this round", m->spoke);
    if (at->via != own && begins && !is_away(r, at))
        at->next = own; /* that it has left the other may come to be known later */
    if (at->via != own && (!begins || !is_away(r, at)))
        return tier_fail(err, TIER_EIDENTITY, "'%s' takes part by way of '%s', and not of '%s'",
                         m->spoke, via_of(r, at)->name, v->name);
    *out = at;
    return TIER_OK;
}

static enum tier_status check_message(const struct tier_relay_message *m, struct tier_err *err) {
    bool step = m->kind == TIER_RELAY_STEP;

    if (m->kind == TIER_RELAY_ASK || (step && !tier_mask_step_is_childs(m->step)))
        return tier_fail(err, TIER_EPROTO, "'%s' is not a child's to say",
                         step ? tier_mask_step_text(m->step) : "advertise again");
    if (step && (m->bytes == 0 || m->bytes > tier_mask_body_max(m->step)))
        return tier_fail(err, TIER_EPROTO, "step '%s' of '%s' has %zu bytes",
                         tier_mask_step_text(m->step), m->spoke, m->bytes);
    if (m->kind != TIER_RELAY_READY && !tier_name_valid(m->spoke))
        return tier_fail(err, TIER_EPROTO, "a step of nobody's");
    return TIER_OK;
}

enum tier_status tier_relay_from_child(struct tier_relay *r, const char *child,
                                       const struct tier_relay_message *m, struct tier_err *err) {
    struct via *v = find_via(r, child);
    struct route *at = NULL;

    TIER_TRY(check_message(m, err));
    if (!v || v->left || !v->attends)
        return tier_fail(err, TIER_EPOLICY, "'%s' has no part in this round", child);
    if (!v->is_hub && m->kind != TIER_RELAY_STEP)
        return tier_fail(err, TIER_EPROTO, "'%s' is a spoke, and speaks of its own steps", child);
    if (m->kind == TIER_RELAY_READY) {
        v->heard = true;
        say_ready(r);
        return TIER_OK;
    }
    size_t routes = r->route_count;
    TIER_TRY(route_for(r, v, m, &at, err));
    if (m->kind == TIER_RELAY_GONE) {
        go(r, at);
        return TIER_OK;
    }
    if (m->kind == TIER_RELAY_AWAY) {
        if (!at->away)
            turn_away(r, at);
        return TIER_OK;
    }
    const struct route before = *at;
    at->via = (size_t)(v - r->vias);
    at->away = false;
    enum tier_status st = r->owner.up(r->owner.arg, m, err);
    if (st != TIER_OK) { /* who is refused has no route by it, and takes nobody's */
        *at = before;
        r->route_count = routes;
        return st;
    }
    v->heard = v->heard || !v->is_hub; /* READY is behind it */
    say_ready(r);
    return TIER_OK;
}

bool tier_relay_from_parent(struct tier_relay *r, const struct tier_relay_message *m) {
    struct route *at = find_route(r, m->spoke);

    if ((m->kind != TIER_RELAY_STEP && m->kind != TIER_RELAY_ASK) || !at || at->gone ||
        is_away(r, at) || !r->owner.down(r->owner.arg, via_of(r, at)->name, m))
        return false;
    at->told = at->told || (m->kind == TIER_RELAY_STEP && m->step == TIER_MASK_DELIVER);
    return true;
}

/* ---- how it stands ---- */

static const struct route *own_route(const struct tier_relay *r, const char *child) {
    for (size_t i = 0; i < r->route_count; i++)
        if (!via_of(r, &r->routes[i])->is_hub && strcmp(via_of(r, &r->routes[i])->name, child) == 0)
            return &r->routes[i];
    return NULL;
}

const char *tier_relay_called(const struct tier_relay *r, const char *child) {
    const struct route *at = own_route(r, child);

    return at ? at->spoke : "";
}

bool tier_relay_takes(const struct tier_relay *r, const char *child) {
    const struct route *at = own_route(r, child);

    return at && at->told && !at->gone;
}
