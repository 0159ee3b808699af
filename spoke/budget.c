/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan is paid for in whole when it is taken: what its rounds may still cost counts as spent for
 * every plan that comes after it, until its run ends. So no run is refused half-way for what
 * another one did, and a round needs no accounting of its own.
 *
 * The ledger is opened when it is first needed: most spokes never need one.
 */
#include "spoke/budget.h"
#include "spoke/run_private.h"
#include "tier/budget.h"
#include "tier/ledger.h"
#include "tier/log.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum tier_status ledger_of(struct spoke *spoke, struct tier_ledger **out,
                                  struct tier_err *err) {
    if (!spoke->ledger)
        TIER_TRY(tier_ledger_open_at(spoke->config->data_dir, spoke->config->spoke.ledger_file,
                                     false, &spoke->ledger, err));
    *out = spoke->ledger;
    return TIER_OK;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum tier_status one_row_each(const struct spoke_data *data, struct tier_err *err) {
    size_t rows = spoke_data_rows(data, SPOKE_TRAIN), count = 0;
    const char **ids = malloc((rows + 1) * sizeof *ids);
    enum tier_status st = TIER_OK;

    if (!ids)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu ids", rows);
    for (size_t i = 0; i < rows; i++)
        if (spoke_data_id(data, SPOKE_TRAIN, i))
            ids[count++] = spoke_data_id(data, SPOKE_TRAIN, i);
    qsort(ids, count, sizeof *ids, by_text);
    for (size_t i = 1; i < count && st == TIER_OK; i++)
        if (strcmp(ids[i - 1], ids[i]) == 0)
            st = tier_fail(err, TIER_EPOLICY,
                           "a patient has several training rows here, and privacy.patient protects "
                           "one: data with a row for each patient would be right");
    free(ids);
    return st;
}

enum tier_status spoke_budget_rows(const struct spoke_data *data, struct tier_err *err) {
    if (spoke_data_rows(data, SPOKE_TRAIN) > 0 && spoke_data_stats_local(data))
        return tier_fail(err, TIER_EPOLICY,
                         "the schema standardises by the training rows of this site, so that each "
                         "patient's features depend on all patients: with privacy.patient `mean` "
                         "and `std` in the schema would be right");
    return one_row_each(data, err);
}

/* ---- affording a plan ------------------------------------------------------------------------ */

static uint64_t train_rows(const struct spoke_run *run) {
    return run->data ? spoke_data_rows(run->data, SPOKE_TRAIN) : 0;
}

/* What the run may still spend. */
static bool still_to_come(const struct spoke_run *run, struct tier_privacy_event *out) {
    uint64_t rows = train_rows(run);

    if (!tier_budget_patient(&run->plan) || rows == 0 || run->charged >= run->plan.rounds)
        return false;
    *out = tier_budget_patient_event(&run->plan, rows, run->plan.rounds - run->charged);
    return true;
}

/* The ledger and what other open runs claim, here and at other spokes of its patients, into
 * *events_out with room for one more. */
static enum tier_status spent_by_now(struct spoke_run *run, struct tier_ledger *ledger,
                                     struct tier_privacy_event **events_out, size_t *count_out,
                                     struct tier_err *err) {
    struct tier_privacy_event *events = NULL, *more;
    size_t count;

    TIER_TRY(tier_ledger_events_claimed(ledger, TIER_LEDGER_PATIENT, run->hex, &events, &count,
                                        &run->charged, err));
    more = realloc(events, (count + 1) * sizeof *events);
    if (!more) {
        free(events);
        return tier_fail(err, TIER_ENOMEM, "no memory for a ledger");
    }
    *events_out = more;
    *count_out = count;
    return TIER_OK;
}

/* In a transaction of the ledger. */
static enum tier_status within_limit(struct spoke_run *run, struct tier_ledger *ledger,
                                     struct tier_err *err) {
    const struct tier_config_spoke *c = &run->spoke->config->spoke;
    struct tier_privacy_event *events = NULL;
    struct tier_privacy_cost before;
    enum tier_status st = TIER_OK;
    size_t count = 0;
    bool within = true;
    double after;

    TIER_TRY(spent_by_now(run, ledger, &events, &count, err));
    if (c->epsilon_max == 0)
        goto out;
    bool more = still_to_come(run, &events[count]);
    TIER_TRY_OUT(
        tier_privacy_within(events, count + more, c->delta, c->epsilon_max, &within, &after, err));
    if (within)
        goto out;
    TIER_TRY_OUT(tier_privacy_cost(events, count, c->delta, &before, err));
    st = tier_fail(err, TIER_EPOLICY,
                   "patients here have spent epsilon %.3f at delta %g, with what open runs may "
                   "still spend, and the rest of this plan would make it %.3f: this site's "
                   "policy.epsilon_max is %g",
                   before.tight, c->delta, after, c->epsilon_max);
out:
    free(events);
    return st;
}

/* Nobody else looks between the look and the claim. */
static enum tier_status afford_here(struct spoke_run *run, struct tier_err *err) {
    const struct tier_privacy_event each =
        tier_budget_patient_event(&run->plan, train_rows(run), 1);
    struct tier_ledger *ledger;
    enum tier_status st;

    TIER_TRY(ledger_of(run->spoke, &ledger, err));
    TIER_TRY(tier_ledger_begin(ledger, err));
    TIER_TRY_OUT(within_limit(run, ledger, err));
    TIER_TRY_OUT(tier_ledger_claim(
        ledger, TIER_LEDGER_PATIENT, run->hex, &each,
        run->charged < run->plan.rounds ? run->plan.rounds - run->charged : 0, err));
    st = tier_ledger_commit(ledger, err);
out:
    tier_ledger_rollback(ledger);
    return st;
}

void spoke_budget_end(struct spoke_run *run) {
    struct tier_ledger *ledger;
    struct tier_err err = {0};

    if (!tier_budget_patient(&run->plan))
        return;
    if (ledger_of(run->spoke, &ledger, &err) != TIER_OK ||
        tier_ledger_unclaim(ledger, run->hex, &err) != TIER_OK)
        tier_log_error("run %.12s still claims privacy in the ledger: %s", run->hex, err.text);
}

enum tier_status spoke_budget_afford(struct spoke_run *run, struct tier_err *err) {
    const struct tier_config_spoke *c = &run->spoke->config->spoke;
    const struct tier_plan *plan = &run->plan;
    bool within;
    double bound;

    if (!tier_budget_patient(plan))
        return c->epsilon_max > 0
                   ? tier_fail(err, TIER_EPOLICY,
                               "the plan has no privacy.patient, and no epsilon is enough for it: "
                               "this site's policy.epsilon_max is %g",
                               c->epsilon_max)
                   : TIER_OK;
    if (run->spoke->trainer)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has privacy.patient, and this site's own trainer trains: that "
                         "it cuts gradients and adds noise cannot be seen from here");
    if (run->spoke->servers)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has privacy.patient, and several servers train here: the key "
                         "of the noise stays on one");
    TIER_TRY(tier_budget_graph_check(&run->plan, run->graph, err));
    TIER_TRY(spoke_budget_rows(run->data, err));
    if (train_rows(run) > 0) {
        const struct tier_privacy_event all =
            tier_budget_patient_event(plan, train_rows(run), plan->rounds);
        TIER_TRY(tier_privacy_within(&all, 1, plan->patient.delta, plan->patient.epsilon_max,
                                     &within, &bound, err));
        if (!within)
            return tier_fail(err, TIER_EPOLICY,
                             "the plan would cost patients here epsilon %.3f at delta %g: its "
                             "privacy.patient.epsilon_max is %g",
                             bound, plan->patient.delta, plan->patient.epsilon_max);
        TIER_TRY(afford_here(run, err));
    }
    run->afforded = true;
    return TIER_OK;
}

/* ---- charging a round ------------------------------------------------------------------------ */

static bool same_event(const struct tier_privacy_event *a, const struct tier_privacy_event *b) {
    return a->noise == b->noise && a->rate == b->rate && a->count == b->count;
}

/* The round was charged before this process was killed, or its update lost. */
static enum tier_status take_up(const struct spoke_run *run, const struct tier_ledger_charge *found,
                                const struct tier_privacy_event *event, struct tier_err *err) {
    if (!same_event(&found->event, event))
        return tier_fail(err, TIER_EPOLICY,
                         "round %" PRIu64 " was charged for other rows than are here now: its "
                         "noise must not be used on both",
                         found->round);
    if (!found->has_key)
        return tier_fail(err, TIER_EPOLICY, "round %" PRIu64 " was charged and is over",
                         found->round);
    spoke_audit(run->spoke, "privacy.resumed", "h:run", &run->id, "u:round", found->round, "h:key",
                &found->key_hash);
    return TIER_OK;
}

static enum tier_status charge_anew(struct spoke_run *run, struct tier_ledger *ledger,
                                    struct tier_ledger_charge *c, struct tier_err *err) {
    TIER_TRY(tier_noise_key_draw(&c->key, err));
    TIER_TRY(tier_ledger_charge(ledger, c, err));
    run->charged++;
    tier_noise_key_hash(&c->key, &c->key_hash);
    spoke_audit(run->spoke, "privacy.charged", "h:run", &run->id, "u:round", c->round, "s:protects",
                "patient", "d:noise", c->event.noise, "d:rate", c->event.rate, "u:count",
                c->event.count, "h:key", &c->key_hash);
    return TIER_OK;
}

enum tier_status spoke_budget_charge(struct spoke_run *run, uint64_t round, struct tier_err *err) {
    struct tier_ledger_charge c = {
        .book = TIER_LEDGER_PATIENT, .round = round, .time_ms = tier_wall_ms()};
    struct tier_ledger_charge found;
    struct tier_ledger *ledger;
    enum tier_status st;

    if (!tier_budget_patient(&run->plan) || !tier_task_trains(&run->plan, round) ||
        train_rows(run) == 0)
        return TIER_OK;
    if (!run->afforded)
        return tier_fail(err, TIER_EPOLICY, "what the plan costs here was not accepted");
    memcpy(c.run, run->hex, sizeof c.run);
    memcpy(c.plan, run->plan.name, sizeof c.plan);
    c.event = tier_budget_patient_event(&run->plan, train_rows(run), 1);
    TIER_TRY(ledger_of(run->spoke, &ledger, err));
    st = tier_ledger_get(ledger, c.book, c.run, round, &found, err);
    if (st == TIER_OK) {
        st = take_up(run, &found, &c.event, err);
        c.key = found.key;
        tier_noise_key_wipe(&found.key);
    } else if (st == TIER_ENOTFOUND) {
        st = charge_anew(run, ledger, &c, err);
    }
    if (st == TIER_OK)
        run->noise_key = c.key;
    tier_noise_key_wipe(&c.key);
    return st;
}

enum tier_status spoke_budget_over(struct spoke_run *run, uint64_t below, struct tier_err *err) {
    struct tier_ledger *ledger;

    if (run->state == SPOKE_RUN_DECLINED || !tier_budget_patient(&run->plan))
        return TIER_OK;
    TIER_TRY(ledger_of(run->spoke, &ledger, err));
    return tier_ledger_forget_keys(ledger, run->hex, below, err);
}
