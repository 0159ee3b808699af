/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/noise.h"
#include "tier/log.h"
#include "tier/site.h"
#include "tier/task.h"

#include <inttypes.h>
#include <string.h>

#define DAY_MS INT64_C(86400000)

static enum tier_status ledger_of(struct hub *hub, struct tier_ledger **out, struct tier_err *err) {
    if (!hub->ledger)
        TIER_TRY(tier_ledger_open(hub->config->data_dir, false, &hub->ledger, err));
    *out = hub->ledger;
    return TIER_OK;
}

static bool draws(const struct hub_run *run) {
    return hub_is_top(run->hub) && tier_site_on(&run->plan) && !tier_site_at_spokes(&run->plan);
}

static enum tier_status draw(struct hub_run *run, struct tier_ledger *ledger,
                             struct tier_ledger_charge *c, struct tier_err *err) {
    TIER_TRY(tier_noise_key_draw(&c->key, err));
    TIER_TRY(tier_ledger_charge(ledger, c, err));
    c->has_key = true;
    tier_noise_key_hash(&c->key, &c->key_hash);
    hub_audit(run->hub, "privacy.charged", "h:run", &run->id, "u:round", c->round, "s:protects",
              "site", "d:noise", c->event.noise, "h:key", &c->key_hash);
    return TIER_OK;
}

enum tier_status hub_noise_key(struct hub_run *run, struct tier_noise_key *out,
                               struct tier_err *err) {
    struct tier_ledger_charge c = {.book = TIER_LEDGER_SITE,
                                   .round = run->round.number,
                                   .event = tier_site_event(&run->plan, 1),
                                   .time_ms = tier_wall_ms()};
    struct tier_ledger *ledger;
    enum tier_status st;

    if (!draws(run) || !tier_task_trains(&run->plan, run->round.number))
        return TIER_OK;
    memcpy(c.run, run->hex, sizeof c.run);
    memcpy(c.plan, run->plan.name, sizeof c.plan);
    TIER_TRY(ledger_of(run->hub, &ledger, err));
    st = tier_ledger_get(ledger, c.book, c.run, c.round, &c, err);
    if (st == TIER_ENOTFOUND)
        st = draw(run, ledger, &c, err);
    else if (st == TIER_OK && c.has_key) /* a kill may have kept its line out of the log */
        hub_audit(run->hub, "privacy.resumed", "h:run", &run->id, "u:round", c.round, "s:protects",
                  "site", "h:key", &c.key_hash);
    else if (st == TIER_OK)
        st = tier_fail(err, TIER_EPOLICY, "the noise of round %" PRIu64 " was drawn and is gone",
                       c.round);
    if (st == TIER_OK)
        *out = c.key;
    tier_noise_key_wipe(&c.key);
    return st;
}

void hub_noise_over(struct hub_run *run, uint64_t below) {
    struct tier_ledger *ledger;
    struct tier_err err = {0};

    if (!draws(run) || run->hub->config->hub.retain_updates_days > 0)
        return;
    if (ledger_of(run->hub, &ledger, &err) != TIER_OK ||
        tier_ledger_forget_keys(ledger, run->hex, below, &err) != TIER_OK)
        hub_stop_on(run->hub, &err);
}

void hub_noise_expire(struct hub *hub) {
    int64_t days = (int64_t)hub->config->hub.retain_updates_days;
    struct tier_err err = {0};

    if (days == 0) /* where nothing is retained, hub_noise_over forgets them */
        return;
    if (!hub->ledger &&
        tier_ledger_open(hub->config->data_dir, true, &hub->ledger, &err) != TIER_OK)
        return; /* nothing was ever charged */
    if (tier_ledger_forget_before(hub->ledger, tier_wall_ms() - days * DAY_MS, &err) != TIER_OK)
        tier_log_warn("retention: %s", err.text);
}
