/* SPDX-License-Identifier: Apache-2.0 */
/* What a hub tells of a round: its base to children, figures to its own journal, progress and
 * failure to those above. */
#include "hub/card.h"
#include "hub/run_private.h"
#include "hub/secure.h"
#include "hub/statistics.h"
#include "hub/work.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define PROGRESS_MS 1000

uint64_t hub_work_time_left_ms(const struct hub_run *run) {
    uint64_t now = tier_clock_ms();
    if (!run->deadline_at_ms)
        return 0;
    return run->deadline_at_ms > now ? run->deadline_at_ms - now : 1;
}

/* Of a tier that buffers, a child has the time that it needs: it counts in a later round then. */
void hub_work_tell_round(struct hub_run *run, uint32_t child) {
    struct tier_to_child m = {
        .type = TIER_TO_ROUND, .run = run->id, .round = hub_run_child_round(run, child)};
    const struct tier_hash *base = hub_run_base_of(run, m.round);

    if (!base) /* bases are kept for as long as a child may be behind */
        return;
    m.model = *base;
    if (m.round == run->round.number) {
        m.delta = run->base_delta;
        m.delta_base = run->base_before;
    }
    if (!hub_run_buffers(run))
        m.deadline_ms = hub_work_time_left_ms(run);
    tier_serve_send(run->hub->serve, run->children[child].name, &m);
}

void hub_work_figures(struct hub_run *run, const struct tier_metrics *sums) {
    struct tier_task_figures f = tier_task_figures(sums);
    const char *name;
    double value;
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    enum tier_status st = tier_journal_begin_lazy(j, &err);

    for (size_t i = 0; st == TIER_OK && tier_task_figure(&f, i, &name, &value); i++)
        if (!isnan(value))
            st = tier_journal_metric_put(j, run->hex, run->round.number - 1, name, value, &err);
    if (st == TIER_OK && tier_statistics_on(&run->plan))
        st = hub_statistics_keep(run, sums, &err);
    if (st == TIER_OK)
        st = hub_card_spread(run, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

void hub_work_empty(struct hub_run *run, const char *why) {
    const char *reason = why ? why : "no child delivered an update that counts for this round";

    if (hub_secure_skips(run))
        return;
    if (!run->hub->link) {
        hub_run_finish(run, HUB_RUN_FAILED, reason);
        return;
    }
    struct tier_from_child m = {
        .type = TIER_FROM_DECLINE, .run = run->id, .round = run->round.number};
    snprintf(m.reason, sizeof m.reason, "%s", reason);
    hub_audit(run->hub, "round.empty", "h:run", &run->id, "u:round", run->round.number, "s:reason",
              reason);
    tier_link_send(run->hub->link, &m);
}

/*
 * For people watching further up: how many of our children have delivered. Not oftener than they
 * can look, so that what goes up in a round does not grow with the number of children.
 */
void hub_work_progress(struct hub_run *run) {
    uint64_t now = tier_clock_ms();
    if (!run->hub->link || now - run->progress_ms < PROGRESS_MS)
        return;
    run->progress_ms = now;
    struct tier_round_tally t = tier_round_tally(&run->round);
    struct tier_from_child m = {.type = TIER_FROM_PROGRESS,
                                .run = run->id,
                                .round = run->round.number,
                                .done = (uint32_t)t.sealed,
                                .total = (uint32_t)t.active};
    snprintf(m.reason, sizeof m.reason, "%s", tier_round_state_text(run->round.state));
    tier_link_send(run->hub->link, &m);
}
