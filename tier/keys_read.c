/* SPDX-License-Identifier: Apache-2.0 */
/* The walk of a YAML tree along a table of keys, suggestions, and the collected problems. */
#include "tier/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tier_problems_add(struct tier_problems *p, const char *where, int line, const char *fmt, ...) {
    if (p->count == sizeof p->item / sizeof p->item[0]) {
        p->dropped++;
        return;
    }
    struct tier_problem *item = &p->item[p->count++];
    item->line = line;
    int used = line > 0 ? snprintf(item->text, sizeof item->text, "%.200s:%d: ", where, line)
                        : snprintf(item->text, sizeof item->text, "%.200s: ", where);
    va_list args;
    va_start(args, fmt);
    vsnprintf(item->text + used, sizeof item->text - (size_t)used, fmt, args);
    va_end(args);
}

void tier_problems_sort(struct tier_problems *p) {
    for (size_t i = 1; i < p->count; i++) { /* insertion: at most 64, and stable */
        struct tier_problem item = p->item[i];
        size_t j = i;
        for (; j > 0 && p->item[j - 1].line > item.line; j--)
            p->item[j] = p->item[j - 1];
        p->item[j] = item;
    }
}

enum tier_status tier_problems_status(const struct tier_problems *p, enum tier_status status,
                                      struct tier_err *err) {
    size_t others = p->count + p->dropped - 1;

    if (p->count == 0)
        return TIER_OK;
    if (others == 0)
        return tier_fail(err, status, "%s", p->item[0].text);
    return tier_fail(err, status, "%s (and %zu more problem%s)", p->item[0].text, others,
                     others == 1 ? "" : "s");
}

/* Optimal string alignment over three rows (Damerau 1964, Wagner & Fischer 1974). */
unsigned tier_text_distance(const char *a, const char *b) {
    enum { LONGEST = 63 };
    unsigned rows[3][LONGEST + 1];
    size_t n = strlen(a), m = strlen(b);

    if (n > LONGEST || m > LONGEST)
        return LONGEST + 1;
    for (size_t j = 0; j <= m; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *row = rows[i % 3];
        const unsigned *above = rows[(i - 1) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best)
                best = above[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[n % 3][m];
}

/* Bytes of the path up to its last dot: 0 where there is none. */
static size_t prefix_of(const char *path, size_t length) {
    while (length > 0 && path[length - 1] != '.')
        length--;
    return length > 0 ? length - 1 : 0;
}

const char *tier_keys_nearest(const struct tier_keys_item *keys, size_t count, const char *path,
                              char *buf, size_t bytes) {
    size_t here = prefix_of(path, strlen(path));
    const char *leaf = path + here + (here > 0);
    unsigned best = (unsigned)strlen(leaf) / 3 + 2; /* anything from here on is not near */
    const char *nearest = NULL;
    size_t nearest_length = 0;

    for (size_t i = 0; i < count; i++) {
        const char *full = keys[i].path;
        /* The key itself, then each map above it: "quorum", "tiers.top", "tiers". */
        for (size_t length = strlen(full); length > 0; length = prefix_of(full, length)) {
            size_t above = prefix_of(full, length);
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)(length - above - (above > 0)),
                     full + above + (above > 0));
            unsigned away = tier_text_distance(leaf, name);
            if (above != here || strncmp(full, path, here) != 0)
                away++; /* a key elsewhere must fit better */
            if (away < best) {
                best = away;
                nearest = full;
                nearest_length = length;
            }
        }
    }
    if (!nearest)
        return NULL;
    snprintf(buf, bytes, "%.*s", (int)nearest_length, nearest);
    return buf;
}

struct walk {
    const struct tier_keys_item *keys;
    size_t count;
    void *base;
    int *lines;
    const char *name;
    struct tier_problems *problems;
};

static bool is_map_of_keys(const struct walk *w, const char *path) {
    size_t length = strlen(path);

    for (size_t i = 0; i < w->count; i++)
        if (strncmp(w->keys[i].path, path, length) == 0 && w->keys[i].path[length] == '.')
            return true;
    return false;
}

static bool is_null(const struct tier_yaml_node *node) {
    return node->kind == TIER_YAML_TEXT && node->plain &&
           (!*node->text || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

/* A list is checked entry by entry and stored at once. */
static bool read_list(const struct walk *w, const struct tier_keys_item *key,
                      const struct tier_yaml_node *node, char *why, size_t why_bytes) {
    struct tier_keys_list list = {0};

    for (const struct tier_yaml_node *n = node->child; n; n = n->next) {
        if (n->kind != TIER_YAML_TEXT || !*n->text || strlen(n->text) > TIER_TENSOR_NAME_LEN_MAX ||
            strpbrk(n->text, ",\n\r\t")) {
            snprintf(why, why_bytes, "every entry must be a text of 1 to %d bytes without commas",
                     TIER_TENSOR_NAME_LEN_MAX);
            return false;
        }
        if (!tier_keys_list_add(&list, n->text, strlen(n->text))) {
            snprintf(why, why_bytes, TIER_KEYS_LIST_FULL, TIER_KEYS_LIST_MAX, TIER_KEYS_LIST_BYTES);
            return false;
        }
    }
    memcpy((char *)w->base + key->offset, &list, sizeof list);
    return true;
}

static bool read_value(const struct walk *w, const struct tier_keys_item *key,
                       const struct tier_yaml_node *node, char *why, size_t why_bytes) {
    if (key->type == TIER_KEYS_LIST && node->kind == TIER_YAML_LIST)
        return read_list(w, key, node, why, why_bytes);
    if (key->type == TIER_KEYS_LIST && !is_null(node)) {
        snprintf(why, why_bytes, "must be a list, like [\"a\", \"b*\"]");
        return false;
    }
    if (node->kind != TIER_YAML_TEXT) {
        snprintf(why, why_bytes, "must be one value, not a %s",
                 node->kind == TIER_YAML_MAP ? "map" : "list");
        return false;
    }
    bool quoted_number =
        !node->plain &&
        (key->type == TIER_KEYS_INT || key->type == TIER_KEYS_REAL || key->type == TIER_KEYS_BOOL);
    if (quoted_number) {
        snprintf(why, why_bytes, "must be written without quotes: '%.60s' in quotes is text",
                 node->text);
        return false;
    }
    return tier_keys_set(key, w->base, is_null(node) ? "" : node->text, why, why_bytes);
}

static void unknown_key(const struct walk *w, const char *path, int line) {
    char buf[256];
    const char *nearest = tier_keys_nearest(w->keys, w->count, path, buf, sizeof buf);

    if (nearest)
        tier_problems_add(w->problems, w->name, line, "unknown key '%.100s'; did you mean '%s'?",
                          path, nearest);
    else
        tier_problems_add(w->problems, w->name, line, "unknown key '%.100s'", path);
}

/* Recursion follows known maps only, so the table bounds its depth. */
static void read_map(const struct walk *w, const char *above, const struct tier_yaml_node *map) {
    for (const struct tier_yaml_node *n = map->child; n; n = n->next) {
        char path[256], why[300];
        int length = snprintf(path, sizeof path, "%s%s%s", above, *above ? "." : "", n->key);
        if (length >= (int)sizeof path || strchr(n->key, '.')) {
            unknown_key(w, path, n->line);
            continue;
        }
        int i = tier_keys_find(w->keys, w->count, path);
        if (i >= 0) {
            w->lines[i] = n->line;
            if (!read_value(w, &w->keys[i], n, why, sizeof why))
                tier_problems_add(w->problems, w->name, n->line, "%s %s", path, why);
        } else if (!is_map_of_keys(w, path)) {
            unknown_key(w, path, n->line);
        } else if (n->kind == TIER_YAML_MAP) {
            read_map(w, path, n);
        } else if (!is_null(n)) {
            tier_problems_add(w->problems, w->name, n->line,
                              "%s must be a map of keys, indented under it", path);
        }
    }
}

void tier_keys_read(const struct tier_keys_item *keys, size_t count, const struct tier_yaml *doc,
                    void *base, int *lines, struct tier_problems *problems) {
    tier_keys_read_map(keys, count, tier_yaml_name(doc), tier_yaml_root(doc), base, lines,
                       problems);
}

void tier_keys_read_map(const struct tier_keys_item *keys, size_t count, const char *name,
                        const struct tier_yaml_node *map, void *base, int *lines,
                        struct tier_problems *problems) {
    struct walk w = {keys, count, base, lines, name, problems};

    read_map(&w, "", map);
}
