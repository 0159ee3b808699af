/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/members.h"

#include "tier/identity.h"
#include "tier/mask_private.h"

#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

void tier_members_release(struct tier_members *m) {
    free(m->name);
    *m = (struct tier_members){0};
}

/* Where it is, or would be. */
static size_t place_of(const struct tier_members *m, const char *name) {
    size_t from = 0, to = m->count;

    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (strcmp(m->name[mid], name) < 0)
            from = mid + 1;
        else
            to = mid;
    }
    return from;
}

bool tier_members_has(const struct tier_members *m, const char *name) {
    size_t at = place_of(m, name);

    return at < m->count && strcmp(m->name[at], name) == 0;
}

static void reserve(struct tier_members *m, size_t count) {
    if (count <= m->room)
        return;
    m->room = 2 * count;
    m->name = need(realloc(m->name, m->room * sizeof *m->name));
}

static enum tier_status too_many(struct tier_err *err) {
    return tier_fail(err, TIER_ELIMIT, "a masked sum of more than %d spokes", TIER_CHILDREN_MAX);
}

enum tier_status tier_members_add(struct tier_members *m, const char *name, struct tier_err *err) {
    size_t at = place_of(m, name);

    if (!tier_name_valid(name))
        return tier_fail(err, TIER_EARG, "a masked sum of a spoke without a name");
    if (at < m->count && strcmp(m->name[at], name) == 0)
        return tier_fail(err, TIER_ECONFLICT, "'%s' is in a masked sum twice", name);
    if (m->count == TIER_CHILDREN_MAX)
        return too_many(err);
    reserve(m, m->count + 1);
    memmove(m->name + at + 1, m->name + at, (m->count - at) * sizeof *m->name);
    memset(m->name[at], 0, sizeof m->name[at]);
    memcpy(m->name[at], name, strlen(name));
    m->count++;
    return TIER_OK;
}

enum tier_status tier_members_join(struct tier_members *m, const struct tier_members *more,
                                   struct tier_err *err) {
    for (size_t i = 0; i < more->count; i++)
        if (tier_members_has(m, more->name[i]))
            return tier_fail(err, TIER_ECONFLICT, "'%s' is in two masked sums", more->name[i]);
    if (more->count > TIER_CHILDREN_MAX - m->count)
        return too_many(err);
    reserve(m, m->count + more->count);
    size_t a = m->count, b = more->count; /* from the end, so that nothing is written over */
    for (size_t at = a + b; b > 0; at--) {
        bool own = a > 0 && strcmp(m->name[a - 1], more->name[b - 1]) > 0;
        memmove(m->name[at - 1], own ? m->name[--a] : more->name[--b], sizeof m->name[0]);
    }
    m->count += more->count;
    return TIER_OK;
}

uint8_t *tier_members_bytes(const struct tier_members *m, size_t *bytes_out) {
    struct mask_writer w = {0};

    mask_write_number(&w, (uint32_t)m->count, 4);
    for (size_t i = 0; i < m->count; i++) {
        size_t n = strlen(m->name[i]);
        mask_write_number(&w, (uint32_t)n, 1);
        mask_write(&w, m->name[i], n);
    }
    *bytes_out = w.n;
    return w.data;
}

static enum tier_status read_one(struct mask_reader *r, struct tier_members *m,
                                 struct tier_err *err) {
    char name[TIER_NAME_LEN_MAX + 1] = "";
    size_t n = mask_read_number(r, 1);
    const uint8_t *at = n <= TIER_NAME_LEN_MAX ? mask_read(r, n) : NULL;

    if (at)
        memcpy(name, at, n);
    if (!at || strlen(name) != n || !tier_name_valid(name))
        return tier_fail(err, TIER_EPROTO, "a masked sum whose spoke %zu has no name", m->count);
    if (m->count > 0 && strcmp(m->name[m->count - 1], name) >= 0)
        return tier_fail(err, TIER_EPROTO, "a masked sum whose spokes are out of order at '%s'",
                         name);
    return tier_members_add(m, name, err);
}

enum tier_status tier_members_read(const uint8_t *bytes, size_t n, struct tier_members *out,
                                   struct tier_err *err) {
    struct mask_reader r = {.at = bytes, .left = n};
    struct tier_members m = {0};
    uint32_t count = mask_read_number(&r, 4);
    enum tier_status st = TIER_OK;

    if (r.failed || count > TIER_CHILDREN_MAX || count > r.left / 2)
        return tier_fail(err, TIER_EPROTO, "a masked sum of %u spokes, in %zu bytes", count, n);
    for (uint32_t i = 0; st == TIER_OK && i < count; i++)
        st = read_one(&r, &m, err);
    if (st == TIER_OK && !mask_read_whole(&r))
        st = tier_fail(err, TIER_EPROTO, "a masked sum with more after its %u spokes", count);
    if (st == TIER_OK)
        *out = m;
    else
        tier_members_release(&m);
    return st;
}
