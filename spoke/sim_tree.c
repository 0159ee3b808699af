/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/sim.h"
#include "tier/yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* The place of the new node; the caller has looked at the number of them. */
static size_t add(struct sim_tree *t, const char *name, size_t parent, bool hub) {
    if ((t->count & (t->count - 1)) == 0) /* a power of two is full */
        t->node = need(realloc(t->node, (t->count ? 2 * t->count : 1) * sizeof *t->node));
    struct sim_node *n = &t->node[t->count];
    *n = (struct sim_node){.parent = parent, .hub = hub};
    snprintf(n->name, sizeof n->name, "%.*s", TIER_NAME_LEN_MAX, name);
    if (t->count > 0)
        t->node[parent].children++;
    t->spokes += !hub;
    return t->count++;
}

static enum tier_status add_spokes(struct sim_tree *t, size_t parent, size_t n,
                                   struct tier_err *err) {
    char name[TIER_NAME_LEN_MAX + 16];

    if (n > SIM_NODES_MAX - t->count)
        return tier_fail(err, TIER_ECONFIG, "a simulated tree has at most %u nodes", SIM_NODES_MAX);
    for (size_t i = 1; i <= n; i++) {
        snprintf(name, sizeof name, "%s-%zu", t->node[parent].name, i);
        if (!tier_name_valid(name))
            return tier_fail(err, TIER_ECONFIG, "'%s' is longer than a node's name may be", name);
        add(t, name, parent, false);
    }
    return TIER_OK;
}

enum tier_status sim_tree_even(size_t hubs, size_t spokes, struct sim_tree *out,
                               struct tier_err *err) {
    char name[32];

    *out = (struct sim_tree){0};
    if (spokes == 0 || spokes < hubs || hubs + spokes >= SIM_NODES_MAX)
        return tier_fail(err, TIER_EARG,
                         "%zu spokes below %zu hubs: each hub needs one, and all together are "
                         "fewer than %u",
                         spokes, hubs, SIM_NODES_MAX);
    add(out, "top", 0, true);
    for (size_t h = 0; h < hubs; h++) {
        snprintf(name, sizeof name, "hub-%zu", h + 1);
        add(out, name, 0, true);
    }
    enum tier_status st = hubs == 0 ? add_spokes(out, 0, spokes, err) : TIER_OK;
    for (size_t h = 0; h < hubs && st == TIER_OK; h++)
        st = add_spokes(out, 1 + h, spokes / hubs + (h < spokes % hubs), err);
    if (st != TIER_OK)
        sim_tree_release(out);
    return st;
}

/* ---- from a file ---- */

struct reading {
    const char *file;
    struct sim_tree *tree;
    struct tier_err *err;
};

static enum tier_status wrong(struct reading *r, const struct tier_yaml_node *at,
                              const char *what) {
    return tier_fail(r->err, TIER_ECONFIG, "%s:%d: %s", r->file, at->line, what);
}

static enum tier_status check_name(struct reading *r, const struct tier_yaml_node *at) {
    if (at->kind != TIER_YAML_TEXT || !tier_name_valid(at->text))
        return wrong(r, at,
                     "a node's name has letters, digits, '.', '_' and '-', begins with a letter or "
                     "digit, and has at most 63 of them");
    for (size_t i = 0; i < r->tree->count; i++)
        if (strcmp(r->tree->node[i].name, at->text) == 0)
            return tier_fail(r->err, TIER_ECONFIG, "%s:%d: a second node with the name '%s'",
                             r->file, at->line, at->text);
    if (r->tree->count >= SIM_NODES_MAX)
        return wrong(r, at, "too many nodes");
    return TIER_OK;
}

static enum tier_status read_spokes(struct reading *r, const struct tier_yaml_node *at,
                                    size_t parent) {
    char *end;

    if (at->kind == TIER_YAML_LIST) {
        for (const struct tier_yaml_node *n = at->child; n; n = n->next) {
            TIER_TRY(check_name(r, n));
            add(r->tree, n->text, parent, false);
        }
        return TIER_OK;
    }
    unsigned long n = at->kind == TIER_YAML_TEXT ? strtoul(at->text, &end, 10) : 0;
    if (at->kind != TIER_YAML_TEXT || at->text[0] < '0' || at->text[0] > '9' || *end)
        return wrong(r, at, "spokes: how many, or a list of their names");
    if (add_spokes(r->tree, parent, n, r->err) != TIER_OK)
        return wrong(r, at, "too many spokes, or names that grow too long");
    return TIER_OK;
}

static const struct tier_yaml_node *child_of(const struct tier_yaml_node *map, const char *key) {
    const struct tier_yaml_node *n = map->child;
    while (n && strcmp(n->key, key) != 0)
        n = n->next;
    return n;
}

static enum tier_status read_hub(struct reading *r, const struct tier_yaml_node *map,
                                 size_t parent) {
    if (map->kind != TIER_YAML_MAP)
        return wrong(r, map, "a hub is a map: name, and spokes or hubs or both");
    const struct tier_yaml_node *name = child_of(map, "name"), *spokes = child_of(map, "spokes"),
                                *hubs = child_of(map, "hubs");

    for (const struct tier_yaml_node *n = map->child; n; n = n->next)
        if (n != name && n != spokes && n != hubs)
            return tier_fail(r->err, TIER_ECONFIG,
                             "%s:%d: '%.40s' is no key of a hub; name, spokes and hubs are",
                             r->file, n->line, n->key);
    if (r->tree->count > 0 && !name)
        return wrong(r, map, "a hub without a name");
    if (name)
        TIER_TRY(check_name(r, name));
    if (hubs && hubs->kind != TIER_YAML_LIST)
        return wrong(r, hubs, "hubs is a list, of a map for each hub");
    size_t self = add(r->tree, name ? name->text : "top", parent, true);
    if (spokes)
        TIER_TRY(read_spokes(r, spokes, self));
    for (const struct tier_yaml_node *n = hubs ? hubs->child : NULL; n; n = n->next)
        TIER_TRY(read_hub(r, n, self));
    if (r->tree->node[self].children == 0)
        return tier_fail(r->err, TIER_ECONFIG, "%s:%d: '%s' has neither spokes nor hubs", r->file,
                         map->line, r->tree->node[self].name);
    return TIER_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Numbered names may be somebody's given name. */
static enum tier_status distinct(const struct sim_tree *t, const char *file, struct tier_err *err) {
    const char **names = need(calloc(t->count, sizeof *names));
    enum tier_status st = TIER_OK;

    for (size_t i = 0; i < t->count; i++)
        names[i] = t->node[i].name;
    qsort(names, t->count, sizeof *names, by_name);
    for (size_t i = 1; i < t->count && st == TIER_OK; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            st = tier_fail(err, TIER_ECONFIG, "%s: two nodes have the name '%s'", file, names[i]);
    free(names);
    return st;
}

enum tier_status sim_tree_load(const char *path, struct sim_tree *out, struct tier_err *err) {
    struct reading r = {path, out, err};
    struct tier_yaml *doc = NULL;

    *out = (struct sim_tree){0};
    TIER_TRY(tier_yaml_load(path, &doc, err));
    enum tier_status st = read_hub(&r, tier_yaml_root(doc), 0);
    if (st == TIER_OK)
        st = distinct(out, path, err);
    if (st == TIER_OK && out->spokes == 0)
        st = tier_fail(err, TIER_ECONFIG, "%s: no spokes", path);
    tier_yaml_free(doc);
    if (st != TIER_OK)
        sim_tree_release(out);
    return st;
}

void sim_tree_release(struct sim_tree *t) {
    free(t->node);
    *t = (struct sim_tree){0};
}
