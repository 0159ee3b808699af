/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hub does with what a screen says (tier/screen.h). Screening comes between the close of a
 * round and its fold. It takes what is sealed and what failed before, so that an update which comes
 * after some have failed is measured against all that came, and a restart screens the same set to
 * the same end.
 */
#include "hub/contributor.h"
#include "hub/receipt.h"
#include "hub/run_private.h"
#include "tier/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const struct tier_plan_screen *limits_of(const struct hub_run *run) {
    return &tier_plan_tier_of(&run->plan, hub_is_top(run->hub))->screen;
}

bool hub_screen_takes(const struct hub_run *run, uint32_t child) {
    const struct tier_round_child *c = tier_round_child(&run->round, child);
    return c->state == TIER_CHILD_SEALED ||
           (c->state == TIER_CHILD_QUARANTINED && !tier_hash_is_zero(&c->update));
}

bool hub_screen_due(const struct hub_run *run) {
    struct tier_hash *ids, set;
    size_t n = 0;

    if (!tier_screen_on(limits_of(run)) || !tier_task_trains(&run->plan, run->round.number))
        return false;
    ids = calloc(run->round.count + 1, sizeof *ids);
    if (!ids)
        abort();
    for (uint32_t i = 0; i < run->round.count; i++)
        if (hub_screen_takes(run, i))
            ids[n++] = tier_round_child(&run->round, i)->update;
    tier_screen_set(ids, n, &set);
    free(ids);
    return n > 0 && !tier_hash_equal(&set, &run->screened);
}

/* In memory; the row follows in the transaction of the event. */
static void strike(struct hub_run *run, uint32_t child, const struct tier_screened *s) {
    struct hub_contributor *c = run->children[child].record;
    uint64_t most = limits_of(run)->strikes;

    c->quarantined++;
    c->strikes++;
    c->out = most > 0 && c->strikes >= most;
    c->round = run->round.number;
    c->update = tier_round_child(&run->round, child)->update;
    c->norm = s->norm;
    c->cosine = s->cosine;
    c->loss = s->loss;
    c->by_loss = s->by_loss;
    if (c->out)
        snprintf(c->why, sizeof c->why,
                 "%s; after %" PRIu64 " rounds in a row the child takes no part until an operator "
                 "pardons it",
                 s->why, c->strikes);
    else
        snprintf(c->why, sizeof c->why, "%s", s->why);
}

/* A kill may have come between the journal and the log: the first screen after a start says again
 * what is in quarantine already. Readers of the log take a line twice as once. */
static void say_again(struct hub_run *run, uint32_t child) {
    const struct tier_round_action again = {.type = TIER_ACTION_QUARANTINE,
                                            .child = child,
                                            .update = tier_round_child(&run->round, child)->update,
                                            .status = TIER_EPOLICY,
                                            .reason = run->children[child].record->why};
    hub_receipt_refuse(run, &again);
}

void hub_screen_done(struct hub_run *run, const struct tier_hash *set, const uint32_t *children,
                     const struct tier_screened *screened, size_t count,
                     const struct tier_screen_figures *figures) {
    bool first = tier_hash_is_zero(&run->screened);
    uint64_t failed = 0;
    struct tier_round_event e = {.type = TIER_EVENT_SCREENED};

    for (size_t k = 0; k < count; k++)
        failed += screened[k].fails;
    run->screened = *set;
    hub_audit(run->hub, "round.screened", "h:run", &run->id, "u:round", run->round.number,
              "u:updates", (uint64_t)count, "u:failed", failed, "h:set", set, "d:norm",
              isfinite(figures->norm) ? figures->norm : 0, "b:appraised",
              (int)isfinite(figures->loss), "d:loss", isfinite(figures->loss) ? figures->loss : 0);
    if (figures->looked_at < TIER_SCREEN_UPDATES_MIN)
        tier_log_warn("run %.12s round %" PRIu64 ": %zu updates are too few to be screened",
                      run->hex, run->round.number, figures->looked_at);
    for (size_t k = 0; k < count; k++) {
        const struct tier_round_child *c = tier_round_child(&run->round, children[k]);
        struct hub_contributor *record = run->children[children[k]].record;
        if (c->state == TIER_CHILD_QUARANTINED && first && record)
            say_again(run, children[k]);
        if (!screened[k].fails || c->state != TIER_CHILD_SEALED || !record)
            continue;
        strike(run, children[k], &screened[k]);
        struct tier_round_event bad = {.type = TIER_EVENT_QUARANTINE,
                                       .child = children[k],
                                       .update = c->update,
                                       .reason = record->why};
        hub_work_step(run, &bad);
    }
    hub_work_step(run, &e);
    if (run->round.state == TIER_ROUND_OPEN) /* some were told that it is closed */
        hub_work_tell_waiting(run);
}
