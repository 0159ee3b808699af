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
#include "tier/site.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum tier_status ledger_of(struct spoke *spoke, struct tier_ledger **out,
                                  struct tier_err *err) {
    if (!spoke->ledger)
        TIER_TRY(tier_ledger_open(spoke->config->data_dir, false, &spoke->ledger, err));
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

static const char *const protects[TIER_LEDGER_BOOKS] = {"patient", "site"};

static uint64_t train_rows(const struct spoke_run *run) {
    return run->data ? spoke_data_rows(run->data, SPOKE_TRAIN) : 0;
}

/* Whether the run costs anything in this book. A trainer of the hospital's own has rows. */
static bool costs(const struct spoke_run *run, enum tier_ledger_book book) {
    if (book == TIER_LEDGER_PATIENT)
        return tier_budget_patient(&run->plan) && train_rows(run) > 0;
    return tier_site_on(&run->plan) && (run->spoke->trainer || train_rows(run) > 0);
}

/* Of a run that costs something. */
static struct tier_privacy_event event_of(const struct spoke_run *run, enum tier_ledger_book book,
                                          uint64_t rounds) {
    return book == TIER_LEDGER_PATIENT
               ? tier_budget_patient_event(&run->plan, train_rows(run), rounds)
               : tier_site_event(&run->plan, rounds);
}

/* What the run may still spend. */
static bool still_to_come(const struct spoke_run *run, enum tier_ledger_book book,
                          struct tier_privacy_event *out) {
    if (!costs(run, book) || run->charged[book] >= run->plan.rounds)
        return false;
    *out = event_of(run, book, run->plan.rounds - run->charged[book]);
    return true;
}

/* The ledger and what other open runs may still spend, into *events_out with room for one more. */
static enum tier_status spent_by_now(struct spoke_run *run, enum tier_ledger_book book,
                                     struct tier_privacy_event **events_out, size_t *count_out,
                                     struct tier_err *err) {
    struct tier_privacy_event *events = NULL, *more;
    struct tier_ledger *ledger;
    size_t count;

    TIER_TRY(ledger_of(run->spoke, &ledger, err));
    TIER_TRY(tier_ledger_events(ledger, book, run->hex, &events, &count, &run->charged[book], err));
    more = realloc(events, (count + TIER_RUNS_OPEN_MAX + 1) * sizeof *events);
    if (!more) {
        free(events);
        return tier_fail(err, TIER_ENOMEM, "no memory for a ledger");
    }
    for (const struct spoke_run *r = run->spoke->runs; r; r = r->next)
        if (r != run && r->afforded && r->state == SPOKE_RUN_OPEN &&
            still_to_come(r, book, &more[count]))
            count++;
    *events_out = more;
    *count_out = count;
    return TIER_OK;
}

/* A site is in every round, and its noise is of whole numbers: concentrated privacy accounts for
 * it. */
static enum tier_status bound_of(enum tier_ledger_book book,
                                 const struct tier_privacy_event *events, size_t count,
                                 double delta, double limit, bool *within, double *bound,
                                 struct tier_err *err) {
    struct tier_privacy_bound site;

    if (book == TIER_LEDGER_PATIENT)
        return tier_privacy_within(events, count, delta, limit, within, bound, err);
    TIER_TRY(tier_privacy_concentrated(events, count, delta, &site, err));
    *bound = site.epsilon;
    *within = site.epsilon <= limit;
    return TIER_OK;
}

static double limit_here(const struct spoke_run *run, enum tier_ledger_book book) {
    const struct tier_config_spoke *c = &run->spoke->config->spoke;

    return book == TIER_LEDGER_PATIENT ? c->epsilon_max : c->site_epsilon_max;
}

static enum tier_status afford_here(struct spoke_run *run, enum tier_ledger_book book,
                                    struct tier_err *err) {
    double delta = run->spoke->config->spoke.delta, limit = limit_here(run, book);
    struct tier_privacy_event *events = NULL;
    enum tier_status st = TIER_OK;
    size_t count = 0;
    bool within = true;
    double before, after;

    TIER_TRY(spent_by_now(run, book, &events, &count, err));
    if (limit == 0)
        goto out;
    bool more = still_to_come(run, book, &events[count]);
    TIER_TRY_OUT(bound_of(book, events, count + more, delta, limit, &within, &after, err));
    if (within)
        goto out;
    TIER_TRY_OUT(bound_of(book, events, count, delta, 0, &within, &before, err));
    st =
        tier_fail(err, TIER_EPOLICY,
                  "%s spent epsilon %.3f at delta %g, with what open runs may still spend, and the "
                  "rest of this plan would make it %.3f: this site's policy.%sepsilon_max is %g",
                  book == TIER_LEDGER_PATIENT ? "patients here have" : "this site has", before,
                  delta, after, book == TIER_LEDGER_PATIENT ? "" : "site_", limit);
out:
    free(events);
    return st;
}

/* Against the plan's own limit, then against this site's. */
static enum tier_status afford_book(struct spoke_run *run, enum tier_ledger_book book,
                                    struct tier_err *err) {
    const struct tier_plan *plan = &run->plan;
    bool patient = book == TIER_LEDGER_PATIENT, within;
    double delta = patient ? plan->patient.delta : plan->site.delta;
    double limit = patient ? plan->patient.epsilon_max : plan->site.epsilon_max, bound;

    if (!costs(run, book))
        return TIER_OK;
    const struct tier_privacy_event all = event_of(run, book, plan->rounds);
    TIER_TRY(bound_of(book, &all, 1, delta, limit, &within, &bound, err));
    if (!within)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan would cost %s epsilon %.3f at delta %g: its "
                         "privacy.%s.epsilon_max is %g",
                         patient ? "patients here" : "this site", bound, delta, protects[book],
                         limit);
    return afford_here(run, book, err);
}

/* What a policy of this site asks of every plan. */
static enum tier_status check_limits(const struct spoke_run *run, struct tier_err *err) {
    if (!tier_budget_patient(&run->plan) && limit_here(run, TIER_LEDGER_PATIENT) > 0)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has no privacy.patient, and no epsilon is enough for it: this "
                         "site's policy.epsilon_max is %g",
                         limit_here(run, TIER_LEDGER_PATIENT));
    if (!tier_site_on(&run->plan) && limit_here(run, TIER_LEDGER_SITE) > 0)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has no privacy.site, and no epsilon is enough for it: this "
                         "site's policy.site_epsilon_max is %g",
                         limit_here(run, TIER_LEDGER_SITE));
    return TIER_OK;
}

/* What DP-SGD needs to be here. */
static enum tier_status check_patient(const struct spoke_run *run, struct tier_err *err) {
    if (run->spoke->trainer)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has privacy.patient, and this site's own trainer trains: that "
                         "it cuts gradients and adds noise cannot be seen from here");
    if (run->spoke->servers)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has privacy.patient, and several servers train here: the key "
                         "of the noise stays on one");
    TIER_TRY(tier_budget_graph_check(&run->plan, run->graph, err));
    return spoke_budget_rows(run->data, err);
}

enum tier_status spoke_budget_afford(struct spoke_run *run, struct tier_err *err) {
    TIER_TRY(check_limits(run, err));
    if (!tier_budget_patient(&run->plan) && !tier_site_on(&run->plan))
        return TIER_OK;
    if (tier_budget_patient(&run->plan))
        TIER_TRY(check_patient(run, err));
    TIER_TRY(afford_book(run, TIER_LEDGER_PATIENT, err));
    TIER_TRY(afford_book(run, TIER_LEDGER_SITE, err));
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
    spoke_audit(run->spoke, "privacy.resumed", "h:run", &run->id, "u:round", found->round,
                "s:protects", protects[found->book], "h:key", &found->key_hash);
    return TIER_OK;
}

static enum tier_status charge_anew(struct spoke_run *run, struct tier_ledger *ledger,
                                    struct tier_ledger_charge *c, struct tier_err *err) {
    TIER_TRY(tier_noise_key_draw(&c->key, err));
    TIER_TRY(tier_ledger_charge(ledger, c, err));
    run->charged[c->book]++;
    tier_noise_key_hash(&c->key, &c->key_hash);
    spoke_audit(run->spoke, "privacy.charged", "h:run", &run->id, "u:round", c->round, "s:protects",
                protects[c->book], "d:noise", c->event.noise, "d:rate", c->event.rate, "u:count",
                c->event.count, "h:key", &c->key_hash);
    return TIER_OK;
}

static enum tier_status charge_book(struct spoke_run *run, enum tier_ledger_book book,
                                    uint64_t round, struct tier_noise_key *key,
                                    struct tier_err *err) {
    struct tier_ledger_charge c = {.book = book, .round = round, .time_ms = tier_wall_ms()};
    struct tier_ledger_charge found;
    struct tier_ledger *ledger;
    enum tier_status st;

    memcpy(c.run, run->hex, sizeof c.run);
    memcpy(c.plan, run->plan.name, sizeof c.plan);
    c.event = event_of(run, book, 1);
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
        *key = c.key;
    tier_noise_key_wipe(&c.key);
    return st;
}

enum tier_status spoke_budget_charge(struct spoke_run *run, uint64_t round, struct tier_err *err) {
    struct tier_noise_key *const keys[TIER_LEDGER_BOOKS] = {&run->noise_key, &run->site_key};

    if (!tier_task_trains(&run->plan, round))
        return TIER_OK;
    for (int book = 0; book < TIER_LEDGER_BOOKS; book++) {
        if (!costs(run, (enum tier_ledger_book)book))
            continue;
        if (!run->afforded)
            return tier_fail(err, TIER_EPOLICY, "what the plan costs here was not accepted");
        TIER_TRY(charge_book(run, (enum tier_ledger_book)book, round, keys[book], err));
    }
    return TIER_OK;
}

enum tier_status spoke_budget_over(struct spoke_run *run, uint64_t below, struct tier_err *err) {
    struct tier_ledger *ledger;

    if (run->state == SPOKE_RUN_DECLINED ||
        (!tier_budget_patient(&run->plan) && !tier_site_on(&run->plan)))
        return TIER_OK;
    TIER_TRY(ledger_of(run->spoke, &ledger, err));
    return tier_ledger_forget_keys(ledger, run->hex, below, err);
}
