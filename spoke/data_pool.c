/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several sets of images under one schema as one: what a federation is compared with. Each is
 * opened as by itself, so that its rows fall into the parts that they do at its hospital; here they
 * stand one set after another, read as they are stored, and standardised by all of them.
 */
#include "spoke/data_private.h"

#include <stdlib.h>
#include <string.h>

struct pool {
    struct spoke_data **members;
    size_t count;
    size_t *first[SPOKE_PARTS]; /* [count]: of each member's rows in a part here */
};

static void close_pool(void *source) {
    struct pool *p = source;

    for (size_t i = 0; i < p->count; i++)
        spoke_data_free(p->members[i]);
    for (int part = 0; part < SPOKE_PARTS; part++)
        free(p->first[part]);
    free(p->members);
    free(p);
}

/* Classes and numbers of a member's row; masks are read with their images. */
static void copy_row(struct spoke_rows *to, size_t row, const struct spoke_data *from,
                     enum spoke_part part, size_t at) {
    const struct spoke_rows *r = &from->parts[part];

    to->places[row] = 0;
    if (from->target == SPOKE_TARGET_CLASS)
        to->labels[row] = r->labels[at];
    if (to->votes)
        memcpy(to->votes + row * from->readers, r->votes + at * from->readers,
               from->readers * sizeof *to->votes);
    if (to->values)
        to->values[row] = r->values[at];
    if (to->events)
        to->events[row] = r->events[at];
}

static enum tier_status add_member(struct spoke_loader *l, struct pool *p, const char *path) {
    const struct spoke_data_options *o = l->options;
    size_t n = l->data->stats_count, row;
    double *none = calloc(2 * n, sizeof *none);
    struct spoke_data_options as_stored = {.fold_set = o->fold_set,
                                           .fold = o->fold,
                                           .split_set = o->split_set,
                                           .split = o->split,
                                           .on_demand = true,
                                           .named = o->named,
                                           .stats_count = n,
                                           .mean = none,
                                           .std = none + n};
    struct spoke_data *m = NULL;

    if (!none)
        return tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", path);
    for (size_t i = 0; i < n; i++)
        none[n + i] = 1.0;
    enum tier_status st = spoke_data_open(l->schema_path, path, &as_stored, &m, l->err);
    free(none);
    TIER_TRY(st);
    p->members[p->count] = m;
    l->data->dropped += m->dropped;
    for (int part = 0; part < SPOKE_PARTS; part++) {
        p->first[part][p->count] = l->data->parts[part].rows;
        for (size_t at = 0; at < m->parts[part].rows; at++) {
            st = spoke_load_row(l, (enum spoke_part)part, &row);
            if (st != TIER_OK)
                break;
            copy_row(&l->data->parts[part], row, m, (enum spoke_part)part, at);
        }
    }
    p->count++;
    return st;
}

static enum tier_status open_pool(struct spoke_loader *l) {
    const struct spoke_data_options *o = l->options;
    struct pool *p = calloc(1, sizeof *p);
    bool ok = p != NULL;

    if (p) {
        l->data->source = p;
        p->members = calloc(o->more_count + 1, sizeof *p->members);
        ok = p->members != NULL;
        for (int part = 0; part < SPOKE_PARTS; part++) {
            p->first[part] = calloc(o->more_count + 1, sizeof *p->first[part]);
            ok = ok && p->first[part];
        }
    }
    if (!ok)
        return tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", l->path);
    TIER_TRY(add_member(l, p, l->path));
    for (size_t i = 0; i < o->more_count; i++)
        TIER_TRY(add_member(l, p, o->more[i]));
    return TIER_OK;
}

/* Whose row that is, and which of its own. */
static const struct spoke_data *member_of(const struct spoke_data *d, enum spoke_part part,
                                          size_t *row) {
    const struct pool *p = d->source;
    size_t i = p->count - 1;

    while (p->first[part][i] > *row)
        i--;
    *row -= p->first[part][i];
    return p->members[i];
}

static enum tier_status read_pool(const struct spoke_data *d, enum spoke_part part, size_t row,
                                  float *x, int32_t *mask, struct tier_err *err) {
    const struct spoke_data *m = member_of(d, part, &row);
    return m->ops->read(m, part, row, x, mask, err);
}

static void where_pool(const struct spoke_data *d, enum spoke_part part, size_t row, char *text,
                       size_t size) {
    const struct spoke_data *m = member_of(d, part, &row);
    m->ops->where(m, part, row, text, size);
}

static enum tier_status read_mask_pool(const struct spoke_data *d, enum spoke_part part, size_t row,
                                       size_t reader, int32_t *mask, bool *there_out,
                                       struct tier_err *err) {
    const struct spoke_data *m = member_of(d, part, &row);
    return spoke_data_read_mask(m, part, row, reader, mask, there_out, err);
}

const struct spoke_source spoke_source_pool = {.open = open_pool,
                                               .read = read_pool,
                                               .where = where_pool,
                                               .read_mask = read_mask_pool,
                                               .close = close_pool};
