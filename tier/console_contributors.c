/* SPDX-License-Identifier: Apache-2.0 */
/* ListContributors and Pardon: the part of tier/console_wire.h that is about what children gave. */
#include "tier/console_wire.h"
#include "tier/wire_field.h"

#include "console.pb-c.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef Consilium__Console__Contributor contributor;

static enum tier_status take_contributor(const contributor *p, struct tier_console_contributor *out,
                                         struct tier_err *err) {
    TIER_TRY(tier_wire_text("contributor.name", p->name, out->name, sizeof out->name, err));
    TIER_TRY(tier_wire_text("contributor.why", p->why, out->why, sizeof out->why, err));
    TIER_TRY(
        tier_wire_text("contributor.utility", p->utility, out->utility, sizeof out->utility, err));
    if (!isfinite(p->share) || !isfinite(p->error) || !isfinite(p->without))
        return tier_fail(err, TIER_EPROTO, "contributor %s has a share that is no number",
                         out->name);
    if (p->update.len > 0)
        TIER_TRY(tier_wire_hash("contributor.update", p->update, &out->update, err));
    out->updates = p->updates;
    out->weight = p->weight;
    out->bytes = p->bytes;
    out->shares = p->shares;
    out->share = p->share;
    out->error = p->error;
    out->without = p->without;
    out->quarantined = p->quarantined;
    out->strikes = p->strikes;
    out->out = p->out;
    out->round = p->round;
    return TIER_OK;
}

static enum tier_status take_list(const Consilium__Console__ContributorList *p,
                                  struct tier_console_contributors *out, struct tier_err *err) {
    if (!tier_hash_parse(p->run, &out->run))
        return tier_fail(err, TIER_EPROTO,
                         "contributors.run is not a SHA-256 in 64 lower-case hex digits");
    TIER_TRY(tier_wire_text("contributors.name", p->name, out->name, sizeof out->name, err));
    out->total = p->children_total;
    if (p->n_children > TIER_CONSOLE_CONTRIBUTORS_MAX)
        return tier_fail(err, TIER_EPROTO,
                         "contributors.children has %zu entries, at most %d are allowed",
                         p->n_children, TIER_CONSOLE_CONTRIBUTORS_MAX);
    out->item = tier_wire_need(p->n_children, sizeof *out->item);
    for (size_t i = 0; i < p->n_children; i++)
        TIER_TRY(take_contributor(p->children[i], &out->item[out->count++], err));
    return TIER_OK;
}

enum tier_status tier_console_contributors(const uint8_t *bytes, size_t n,
                                           struct tier_console_contributors *out,
                                           struct tier_err *err) {
    Consilium__Console__ContributorList *p =
        consilium__console__contributor_list__unpack(NULL, n, bytes);

    *out = (struct tier_console_contributors){0};
    if (!p)
        return tier_wire_unreadable("contributors", n, err);
    enum tier_status st = take_list(p, out, err);
    consilium__console__contributor_list__free_unpacked(p, NULL);
    if (st != TIER_OK)
        tier_console_contributors_release(out);
    return st;
}

struct tier_bytes tier_console_contributors_bytes(const struct tier_console_contributors *c) {
    Consilium__Console__ContributorList p = CONSILIUM__CONSOLE__CONTRIBUTOR_LIST__INIT;
    contributor *one = tier_wire_need(c->count, sizeof *one);
    contributor **all = tier_wire_need(c->count, sizeof *all);
    char run[TIER_HASH_HEX];

    for (size_t i = 0; i < c->count; i++) {
        const struct tier_console_contributor *v = &c->item[i];
        consilium__console__contributor__init(&one[i]);
        all[i] = &one[i];
        one[i].name = (char *)v->name;
        one[i].updates = v->updates;
        one[i].weight = v->weight;
        one[i].bytes = v->bytes;
        one[i].shares = v->shares;
        one[i].share = v->share;
        one[i].error = v->error;
        one[i].without = v->without;
        one[i].quarantined = v->quarantined;
        one[i].strikes = v->strikes;
        one[i].out = v->out;
        one[i].round = v->round;
        if (!tier_hash_is_zero(&v->update))
            one[i].update = tier_wire_hash_field(&v->update);
        one[i].why = (char *)v->why;
        one[i].utility = (char *)v->utility;
    }
    p.run = (char *)tier_hash_hex(&c->run, run);
    p.name = (char *)c->name;
    p.children_total = c->total;
    p.n_children = c->count;
    p.children = all;
    struct tier_bytes bytes = tier_wire_pack(&p.base);
    free(all);
    free(one);
    return bytes;
}

void tier_console_contributors_release(struct tier_console_contributors *c) {
    free(c->item);
    *c = (struct tier_console_contributors){0};
}

static enum tier_status take_pardon(const Consilium__Console__PardonRequest *p,
                                    struct tier_console_pardon *out, struct tier_err *err) {
    if (strlen(p->run) >= sizeof out->run || p->run[strspn(p->run, "0123456789abcdef")])
        return tier_fail(err, TIER_EPROTO,
                         "pardon.run must be a run's id or the beginning of one: at most 64 "
                         "lower-case hex digits");
    memcpy(out->run, p->run, strlen(p->run) + 1);
    TIER_TRY(tier_wire_text("pardon.child", p->child, out->child, sizeof out->child, err));
    if (!*out->child)
        return tier_fail(err, TIER_EPROTO, "pardon.child is empty: it names a child");
    return TIER_OK;
}

enum tier_status tier_console_pardon(const uint8_t *bytes, size_t n,
                                     struct tier_console_pardon *out, struct tier_err *err) {
    struct tier_console_pardon r = {.run = ""};
    Consilium__Console__PardonRequest *p =
        consilium__console__pardon_request__unpack(NULL, n, bytes);

    if (!p)
        return tier_wire_unreadable("a pardon", n, err);
    enum tier_status st = take_pardon(p, &r, err);
    consilium__console__pardon_request__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    return st;
}

struct tier_bytes tier_console_pardon_bytes(const struct tier_console_pardon *pardon) {
    Consilium__Console__PardonRequest p = CONSILIUM__CONSOLE__PARDON_REQUEST__INIT;

    p.run = (char *)pardon->run;
    p.child = (char *)pardon->child;
    return tier_wire_pack(&p.base);
}
