/* SPDX-License-Identifier: Apache-2.0 */
/* Sorted lists and one more walk through each log of which others hold heads. */
#include "tier/verify_private.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- heads ---- */

static int by_peer_and_size(const void *a, const void *b) {
    const struct verify_claim *x = a, *y = b;
    int names = strcmp(x->peer, y->peer);
    if (names)
        return names;
    return x->size < y->size ? -1 : x->size > y->size;
}

/* Walks the log of a peer with its claims, by size. */
struct walk {
    struct tier_verify *v;
    size_t node; /* whose log it is */
    const struct verify_claim *claims;
    size_t count, at;
};

static enum tier_status compare(void *arg, uint64_t seq, const struct json_t *record,
                                const struct tier_tree_edge *edge, struct tier_err *err) {
    struct walk *w = arg;
    struct tier_hash root;
    (void)record;
    (void)err;

    for (; w->at < w->count && w->claims[w->at].size <= seq; w->at++) {
        const struct verify_claim *c = &w->claims[w->at];
        if (c->past || c->size != seq)
            continue;
        tier_tree_edge_root(edge, &root);
        if (!tier_hash_equal(&root, &c->root))
            verify_found(w->v, w->node,
                         "its first %" PRIu64 " lines are not those whose signed head %s holds "
                         "(line %" PRIu64 "): it shows two histories",
                         c->size, verify_node(w->v, c->node)->name, c->line);
    }
    return TIER_OK;
}

static size_t find_node(struct tier_verify *v, const char *name) {
    size_t i = 0;
    while (i < v->nodes.count && strcmp(verify_node(v, i)->name, name) != 0)
        i++;
    return i;
}

static void cross_peer(struct tier_verify *v, const struct verify_claim *claims, size_t count) {
    struct walk w = {
        .v = v, .node = find_node(v, claims[0].peer), .claims = claims, .count = count};
    uint64_t lines;
    struct tier_hash head;

    if (w.node == v->nodes.count) { /* not given: at least the heads must agree */
        for (size_t i = 1; i < count; i++)
            if (!claims[i].past && !claims[i - 1].past && claims[i].size == claims[i - 1].size &&
                !tier_hash_equal(&claims[i].root, &claims[i - 1].root))
                verify_found(v, claims[i].node, "line %" PRIu64 ": %s has shown %s another history",
                             claims[i].line, claims[i].peer,
                             verify_node(v, claims[i - 1].node)->name);
        return;
    }
    /* A log that is broken somewhere has been found so; its lines up to there still count. */
    (void)tier_audit_walk(verify_node(v, w.node)->log, compare, &w, &lines, &head, NULL);
    for (; w.at < w.count; w.at++)
        if (!claims[w.at].past) {
            verify_found(v, w.node,
                         "%s holds its signed head of %" PRIu64 " lines (line %" PRIu64
                         "), and its log has fewer that are whole: it was cut",
                         verify_node(v, claims[w.at].node)->name, claims[w.at].size,
                         claims[w.at].line);
            break;
        }
}

static void cross_heads(struct tier_verify *v) {
    struct verify_claim *claims = v->claims.at;
    size_t from = 0;

    if (v->claims.count > 1)
        qsort(claims, v->claims.count, sizeof *claims, by_peer_and_size);
    for (size_t i = 1; i <= v->claims.count; i++)
        if (i == v->claims.count || strcmp(claims[i].peer, claims[from].peer) != 0) {
            cross_peer(v, claims + from, i - from);
            from = i;
        }
}

/* ---- receipts ---- */

static int by_update(const void *a, const void *b) {
    const struct verify_counted *x = a, *y = b;
    int parents = strcmp(x->parent, y->parent);
    if (parents)
        return parents;
    int updates = memcmp(x->update.b, y->update.b, TIER_HASH_BYTES);
    if (updates)
        return updates;
    return strcmp(x->child, y->child);
}

static void cross_receipts(struct tier_verify *v) {
    const struct verify_counted *receipts = v->receipts.at;

    if (v->counted.count > 1)
        qsort(v->counted.at, v->counted.count, sizeof *receipts, by_update);
    for (size_t i = 0; i < v->receipts.count; i++) {
        const struct verify_counted *r = &receipts[i];
        if (find_node(v, r->parent) == v->nodes.count)
            continue;
        const struct verify_counted *c =
            v->counted.count ? bsearch(r, v->counted.at, v->counted.count, sizeof *r, by_update)
                             : NULL;
        if (!c)
            verify_found(v, r->node,
                         "line %" PRIu64 ": %s gave a receipt for an update, and its own log says "
                         "nothing of it",
                         r->line, r->parent);
        else if (!tier_hash_equal(&c->run, &r->run) || c->weight != r->weight)
            verify_found(v, r->node,
                         "line %" PRIu64 ": the receipt of %s is for another run or weight than "
                         "it counted (line %" PRIu64 " of its log)",
                         r->line, r->parent, c->line);
    }
}

/* ---- plans and bases ---- */

static int by_round(const void *a, const void *b) {
    const struct verify_fact *x = a, *y = b;
    int runs = memcmp(x->run.b, y->run.b, TIER_HASH_BYTES);
    if (runs)
        return runs;
    return x->round < y->round ? -1 : x->round > y->round;
}

static void cross_facts(struct tier_verify *v) {
    const struct verify_fact *f = v->facts.at;

    if (v->facts.count > 1)
        qsort(v->facts.at, v->facts.count, sizeof *f, by_round);
    for (size_t i = 1; i < v->facts.count; i++) {
        char hex[TIER_HASH_HEX];
        if (by_round(&f[i - 1], &f[i]) != 0 || tier_hash_equal(&f[i - 1].value, &f[i].value))
            continue;
        tier_hash_hex(&f[i].run, hex);
        if (f[i].round)
            verify_found(v, f[i].node,
                         "line %" PRIu64 ": round %" PRIu64 " of run %.12s from another model than "
                         "at %s",
                         f[i].line, f[i].round, hex, verify_node(v, f[i - 1].node)->name);
        else
            verify_found(v, f[i].node, "line %" PRIu64 ": another plan for run %.12s than at %s",
                         f[i].line, hex, verify_node(v, f[i - 1].node)->name);
    }
}

void tier_verify_cross(struct tier_verify *v) {
    for (size_t i = 0; i < v->nodes.count; i++) {
        const struct tier_verify_node *n = verify_node(v, i);
        if (*n->name && find_node(v, n->name) != i)
            verify_found(v, i, "%s is the log of the same node", n->path);
    }
    cross_heads(v);
    cross_receipts(v);
    cross_facts(v);
}
