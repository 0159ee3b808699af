/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two sorted arrays of ids. A purpose is a bit, and "*" is all of them, those of later versions
 * included.
 */
#include "spoke/consent.h"
#include "spoke/csv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct entry {
    char *id;
    uint64_t purposes; /* bit p: enum tier_plan_purpose p */
    uint64_t line;
};

struct list {
    char *path; /* NULL: there is none */
    struct stat seen;
    struct entry *at; /* by id */
    size_t count, cap;
};

struct spoke_consent {
    struct list table, opt_out;
};

static enum tier_status add(struct list *l, const char *id, uint64_t purposes, uint64_t line,
                            struct tier_err *err) {
    if (l->count >= SPOKE_CONSENTS_MAX)
        return tier_fail(err, TIER_ELIMIT, "%s: more than %u ids", l->path, SPOKE_CONSENTS_MAX);
    if (l->count == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct entry *more = realloc(l->at, cap * sizeof *more);
        if (!more)
            return tier_fail(err, TIER_ENOMEM, "%s: no memory for %zu ids", l->path, cap);
        l->at = more;
        l->cap = cap;
    }
    char *copy = strdup(id);
    if (!copy)
        return tier_fail(err, TIER_ENOMEM, "%s: no memory for an id", l->path);
    l->at[l->count++] = (struct entry){copy, purposes, line};
    return TIER_OK;
}

static int by_id(const void *a, const void *b) {
    return strcmp(((const struct entry *)a)->id, ((const struct entry *)b)->id);
}

static const struct entry *find(const struct list *l, const char *id) {
    const struct entry key = {.id = (char *)id};
    return l->count ? bsearch(&key, l->at, l->count, sizeof *l->at, by_id) : NULL;
}

static enum tier_status read_purposes(const struct list *l, const char *cell, uint64_t line,
                                      uint64_t *out, struct tier_err *err) {
    uint64_t purposes = 0;
    char word[32];

    for (const char *p = cell; *p;) {
        size_t n = strcspn(p, " ");
        int purpose = -1;
        if (n == 1 && *p == '*') {
            purposes = UINT64_MAX;
        } else if (n > 0) {
            if (n < sizeof word) {
                memcpy(word, p, n);
                word[n] = '\0';
                purpose = tier_plan_purpose_find(word);
            }
            if (purpose <= TIER_PLAN_UNSTATED)
                return tier_fail(err, TIER_EDATA,
                                 "%s:%" PRIu64 ": column 'purposes': codes of a plan's "
                                 "governance.purpose with spaces between, or *, would be right",
                                 l->path, line);
            purposes |= UINT64_C(1) << purpose;
        }
        p += n;
        p += *p == ' ';
    }
    *out = purposes;
    return TIER_OK;
}

static enum tier_status read_lines(struct list *l, struct spoke_csv *csv, bool table,
                                   struct tier_err *err) {
    char *const *cells;
    size_t count;
    bool header = table;

    for (;;) {
        uint64_t purposes = 0;
        TIER_TRY(spoke_csv_next(csv, &cells, &count, err));
        uint64_t line = spoke_csv_line(csv);
        if (count == 0)
            return header ? tier_fail(err, TIER_EDATA,
                                      "%s: it is empty: the header 'id,purposes' would be right",
                                      l->path)
                          : TIER_OK;
        if (header) {
            if (count != 2 || strcmp(cells[0], "id") != 0 || strcmp(cells[1], "purposes") != 0)
                return tier_fail(err, TIER_EDATA,
                                 "%s:%" PRIu64 ": the header 'id,purposes' would be right", l->path,
                                 line);
            header = false;
            continue;
        }
        if (count != (table ? 2 : 1) || !*cells[0])
            return tier_fail(err, TIER_EDATA, "%s:%" PRIu64 ": %s would be right", l->path, line,
                             table ? "an id and its purposes" : "one id a line");
        if (table)
            TIER_TRY(read_purposes(l, cells[1], line, &purposes, err));
        TIER_TRY(add(l, cells[0], purposes, line, err));
    }
}

/* An id twice in a table would be two answers; in a list it is one. */
static enum tier_status check_once(const struct list *l, struct tier_err *err) {
    for (size_t i = 1; i < l->count; i++)
        if (strcmp(l->at[i - 1].id, l->at[i].id) == 0) {
            uint64_t a = l->at[i - 1].line, b = l->at[i].line;
            return tier_fail(err, TIER_EDATA,
                             "%s:%" PRIu64 ": the id of line %" PRIu64 " again: one line for each "
                             "would be right",
                             l->path, a > b ? a : b, a > b ? b : a);
        }
    return TIER_OK;
}

static enum tier_status load(struct list *l, const char *path, bool table, struct tier_err *err) {
    struct spoke_csv *csv = NULL;

    if (!path || !*path)
        return TIER_OK;
    l->path = strdup(path);
    if (!l->path)
        return tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", path);
    /* Before it is read: a change meanwhile is seen as one. */
    if (stat(path, &l->seen) != 0)
        return tier_fail_errno(err, TIER_ENOTFOUND, "%s", path);
    TIER_TRY(spoke_csv_open(path, ',', 2, &csv, err));
    enum tier_status st = read_lines(l, csv, table, err);
    spoke_csv_close(csv);
    if (st == TIER_OK && l->count)
        qsort(l->at, l->count, sizeof *l->at, by_id);
    return st == TIER_OK && table ? check_once(l, err) : st;
}

enum tier_status spoke_consent_load(const char *table, const char *opt_out,
                                    struct spoke_consent **out, struct tier_err *err) {
    struct spoke_consent *c = calloc(1, sizeof *c);

    if (!c)
        return tier_fail(err, TIER_ENOMEM, "no memory for consents");
    enum tier_status st = load(&c->table, table, true, err);
    if (st == TIER_OK)
        st = load(&c->opt_out, opt_out, false, err);
    if (st == TIER_OK)
        *out = c;
    else
        spoke_consent_free(c);
    return st;
}

static void release(struct list *l) {
    for (size_t i = 0; i < l->count; i++)
        free(l->at[i].id);
    free(l->at);
    free(l->path);
}

void spoke_consent_free(struct spoke_consent *c) {
    if (!c)
        return;
    release(&c->table);
    release(&c->opt_out);
    free(c);
}

bool spoke_consent_allows(const struct spoke_consent *c, const char *id, int purpose) {
    if (!id || !*id || find(&c->opt_out, id))
        return false;
    if (!c->table.path)
        return true;
    const struct entry *e = find(&c->table, id);
    return e && (e->purposes >> purpose & 1);
}

static bool differs(const struct list *l) {
    struct stat now;

    if (!l->path)
        return false;
    return stat(l->path, &now) != 0 || now.st_size != l->seen.st_size ||
           now.st_ino != l->seen.st_ino || now.st_dev != l->seen.st_dev ||
           now.st_mtim.tv_sec != l->seen.st_mtim.tv_sec ||
           now.st_mtim.tv_nsec != l->seen.st_mtim.tv_nsec;
}

bool spoke_consent_changed(const struct spoke_consent *c) {
    return differs(&c->table) || differs(&c->opt_out);
}
