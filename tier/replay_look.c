/* SPDX-License-Identifier: Apache-2.0 */
/* What a hub looked at before and after a round's fold, beside what its log says of it. */
#include "tier/contribution.h"
#include "tier/replay_private.h"
#include "tier/screen.h"
#include "tier/task.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* It is the same as the log says as far as that goes; what is said is not looked into. */
static void not_looked_at(struct tier_replay_round *out, const char *why) {
    snprintf(out->why, sizeof out->why, "its screen is not checked: %.200s", why);
}

/* Ids of what counted, and behind them of what is in quarantine; 0: some are not kept. */
static size_t screened_ids(struct replay *p, const struct replay_logged *l, struct tier_hash *ids,
                           const struct replay_input **aside, struct tier_replay_round *out) {
    size_t n = 0;
    char hex[TIER_HASH_HEX], why[128];
    struct tier_err bad = {0};

    for (size_t i = 0; i < l->count; i++)
        ids[n++] = p->inputs[l->first + i].update;
    for (size_t i = 0; i < p->aside_count; i++) {
        if (p->aside[i].counted != l->round)
            continue;
        if (!replay_have_update(p, &p->aside[i].update)) {
            snprintf(why, sizeof why, "update %.12s in quarantine is kept no more",
                     tier_hash_hex(&p->aside[i].update, hex));
            not_looked_at(out, why);
            return 0;
        }
        if (replay_check_input(p, &p->aside[i].update, &bad) != TIER_OK) {
            replay_differs(out, bad.text);
            return 0;
        }
        aside[n - l->count] = &p->aside[i];
        ids[n++] = p->aside[i].update;
    }
    return n;
}

/* What failed among others than the last had come is judged by those others, who are not known. */
static void compare_screen(const struct replay_logged *l, const struct replay_input *const *aside,
                           const struct tier_hash *ids, const struct tier_screened *screened,
                           size_t n, struct tier_replay_round *out) {
    char hex[TIER_HASH_HEX], why[256];

    for (size_t i = 0; i < n && out->result == TIER_REPLAY_SAME; i++) {
        bool counted = i < l->count;
        if (!counted && !tier_hash_equal(&aside[i - l->count]->set, &l->set))
            continue;
        if (!counted && aside[i - l->count]->by_loss) {
            not_looked_at(out, "one of its verdicts is by the loss on data of the hub's own");
            continue;
        }
        if (counted != screened[i].fails)
            continue;
        snprintf(why, sizeof why, "update %.12s %s the screen, and the log %s",
                 tier_hash_hex(&ids[i], hex), counted ? "fails" : "passes",
                 counted ? "counts it" : "has it in quarantine");
        replay_differs(out, why);
    }
}

static enum tier_status screen_round(struct replay *p, const struct replay_logged *l,
                                     struct tier_replay_round *out, struct tier_err *err) {
    size_t most = l->count + p->aside_count, n;
    struct tier_hash *ids = calloc(most, sizeof *ids), *sorted = calloc(most, sizeof *sorted), set;
    const struct replay_input **aside = calloc(p->aside_count + 1, sizeof *aside);
    struct tier_screened *screened = calloc(most, sizeof *screened);
    struct tier_screen_figures all;
    enum tier_status st = TIER_OK;

    if (!ids || !sorted || !aside || !screened) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a round's screen");
        goto out;
    }
    if ((n = screened_ids(p, l, ids, aside, out)) == 0)
        goto out;
    memcpy(sorted, ids, n * sizeof *ids);
    tier_screen_set(sorted, n, &set);
    if (!tier_hash_equal(&set, &l->set)) {
        replay_differs(out,
                       "other updates were screened than the log counts and has in quarantine");
        goto out;
    }
    size_t least = tier_screen_memory_min(p->manifest, n);
    const struct tier_screen screen = {
        .spool = p->spool,
        .manifest = p->manifest,
        .limits = &p->tier->screen,
        .inputs = ids,
        .count = n,
        .threads = p->r->threads,
        .memory_bytes = least > REPLAY_MEMORY_BYTES ? least : REPLAY_MEMORY_BYTES};
    st = tier_screen_run(&screen, screened, &all, err);
    if (st == TIER_OK)
        compare_screen(l, aside, ids, screened, n, out);
out:
    free(ids);
    free(sorted);
    free(aside);
    free(screened);
    return st;
}

static const struct replay_said *said_of(const struct replay *p, uint64_t round,
                                         const char *child) {
    for (size_t i = p->said_count; i-- > 0;)
        if (p->said[i].round == round && strcmp(p->said[i].child, child) == 0)
            return &p->said[i];
    return NULL;
}

static void compare_shares(const struct replay *p, const struct replay_logged *l,
                           const struct tier_contribution *shares, struct tier_replay_round *out) {
    char why[256];

    for (size_t i = 0; i < l->count && out->result == TIER_REPLAY_SAME; i++) {
        const struct tier_contribution *c = &shares[i];
        const char *child = p->inputs[l->first + i].child;
        const struct replay_said *said = said_of(p, l->round, child);
        if (!said || (said->known != (bool)isfinite(c->share)) ||
            (said->known &&
             (said->share != c->share || said->error != c->error || said->without != c->without))) {
            snprintf(why, sizeof why, "%s contributed %.6g, and the log says %.6g", child, c->share,
                     said ? said->share : NAN);
            replay_differs(out, why);
        }
    }
}

static enum tier_status share_round(struct replay *p, const struct replay_logged *l,
                                    const struct tier_hash *inputs, struct tier_replay_round *out,
                                    struct tier_err *err) {
    size_t least = tier_contribution_memory_min(p->manifest, l->count);
    struct tier_contribution *shares = calloc(l->count, sizeof *shares);
    const struct tier_fold f = {.spool = p->spool,
                                .manifest = p->manifest,
                                .run = p->run.id,
                                .round = l->round,
                                .inputs = inputs,
                                .count = l->count,
                                .threads = p->r->threads,
                                .memory_bytes =
                                    least > REPLAY_MEMORY_BYTES ? least : REPLAY_MEMORY_BYTES};
    bool exact;

    if (!shares)
        return tier_fail(err, TIER_ENOMEM, "no memory for a round's contributions");
    enum tier_status st =
        tier_contribution_run(&f, p->tier->contribution.permutations, shares, &exact, err);
    if (st == TIER_OK)
        compare_shares(p, l, shares, out);
    free(shares);
    return st;
}

enum tier_status replay_look_again(struct replay *p, const struct replay_logged *l,
                                   const struct tier_hash *inputs, struct tier_replay_round *out,
                                   struct tier_err *err) {
    bool says_shares = false;

    if (!tier_task_trains(&p->plan, l->round))
        return TIER_OK;
    for (size_t i = 0; i < p->said_count; i++)
        if (p->said[i].round == l->round && !p->said[i].by_loss)
            says_shares = true;
    if (tier_screen_on(&p->tier->screen) && !l->screened)
        replay_differs(out,
                       "the plan screens updates, and the log does not say that this was done");
    else if (tier_screen_on(&p->tier->screen) && l->torn)
        not_looked_at(out, "an update in quarantine was withdrawn");
    else if (tier_screen_on(&p->tier->screen))
        TIER_TRY(screen_round(p, l, out, err));
    if (out->result == TIER_REPLAY_SAME && says_shares)
        TIER_TRY(share_round(p, l, inputs, out, err));
    return TIER_OK;
}
