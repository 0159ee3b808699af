/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/contributor.h"
#include "hub/appraise.h"
#include "hub/run_private.h"
#include "hub/shares.h"
#include "hub/work.h"
#include "tier/log.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_BYTES (TIER_HASH_HEX + TIER_NAME_LEN_MAX + 16)

static const char *key_of(const struct hub_run *run, const char *child, char key[KEY_BYTES]) {
    snprintf(key, KEY_BYTES, "contributor/%s/%s", run->hex, child);
    return key;
}

bool hub_contributors_on(const struct hub_run *run) {
    const struct tier_plan_tier *tier = tier_plan_tier_of(&run->plan, hub_is_top(run->hub));
    return tier_screen_on(&tier->screen) || tier->contribution.permutations > 0;
}

/* ---- the row ---- */

static json_t *real(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static double real_of(const json_t *o, const char *key) {
    const json_t *x = json_object_get(o, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static uint64_t count_of(const json_t *o, const char *key) {
    json_int_t n = json_integer_value(json_object_get(o, key));
    return n > 0 ? (uint64_t)n : 0;
}

static void set_count(json_t *o, const char *key, uint64_t n) {
    json_object_set_new(o, key, json_integer((json_int_t)n));
}

static json_t *row_of(const struct hub_contributor *c) {
    json_t *o = json_object();
    char hex[TIER_HASH_HEX];

    set_count(o, "updates", c->counted.updates);
    set_count(o, "weight", c->counted.weight);
    set_count(o, "bytes", c->counted.bytes);
    set_count(o, "shares", c->counted.shares);
    json_object_set_new(o, "share", real(c->counted.share));
    json_object_set_new(o, "variance", real(c->counted.variance));
    json_object_set_new(o, "without", real(c->counted.without));
    json_object_set_new(o, "by_loss", json_boolean(c->counted.by_loss));
    json_object_set_new(o, "folded_by_loss", json_boolean(c->folded.by_loss));
    set_count(o, "folded", c->folded.round);
    set_count(o, "folded_weight", c->folded.it.weight);
    set_count(o, "folded_bytes", c->folded.it.bytes);
    json_object_set_new(o, "folded_share", real(c->folded.it.share));
    json_object_set_new(o, "folded_error", real(c->folded.it.error));
    json_object_set_new(o, "folded_without", real(c->folded.it.without));
    set_count(o, "quarantined", c->quarantined);
    set_count(o, "strikes", c->strikes);
    json_object_set_new(o, "out", json_boolean(c->out));
    set_count(o, "round", c->round);
    json_object_set_new(o, "update", json_string(tier_hash_hex(&c->update, hex)));
    json_object_set_new(o, "norm", real(c->norm));
    json_object_set_new(o, "cosine", real(c->cosine));
    json_object_set_new(o, "loss", real(c->loss));
    json_object_set_new(o, "failed_by_loss", json_boolean(c->by_loss));
    json_object_set_new(o, "why", json_string(c->why));
    return o;
}

static void read_row(const json_t *o, struct hub_contributor *c) {
    const char *update = json_string_value(json_object_get(o, "update"));
    const char *why = json_string_value(json_object_get(o, "why"));

    c->counted.updates = count_of(o, "updates");
    c->counted.weight = count_of(o, "weight");
    c->counted.bytes = count_of(o, "bytes");
    c->counted.shares = count_of(o, "shares");
    c->counted.share = real_of(o, "share");
    c->counted.variance = real_of(o, "variance");
    c->counted.without = real_of(o, "without");
    c->counted.by_loss = json_is_true(json_object_get(o, "by_loss"));
    c->folded.by_loss = json_is_true(json_object_get(o, "folded_by_loss"));
    c->folded.round = count_of(o, "folded");
    c->folded.it.weight = count_of(o, "folded_weight");
    c->folded.it.bytes = count_of(o, "folded_bytes");
    c->folded.it.share = real_of(o, "folded_share");
    c->folded.it.error = real_of(o, "folded_error");
    c->folded.it.without = real_of(o, "folded_without");
    c->quarantined = count_of(o, "quarantined");
    c->strikes = count_of(o, "strikes");
    c->out = json_is_true(json_object_get(o, "out"));
    c->round = count_of(o, "round");
    if (!update || !tier_hash_parse(update, &c->update))
        c->update = (struct tier_hash){{0}};
    c->norm = real_of(o, "norm");
    c->cosine = real_of(o, "cosine");
    c->loss = real_of(o, "loss");
    c->by_loss = json_is_true(json_object_get(o, "failed_by_loss"));
    snprintf(c->why, sizeof c->why, "%s", why ? why : "");
}

struct hub_contributor *hub_contributor_load(const struct hub_run *run, const char *child) {
    struct tier_journal_blob blob = {0};
    struct tier_err err = {0};
    char key[KEY_BYTES];
    json_t *row = NULL;

    if (!hub_contributors_on(run))
        return NULL;
    struct hub_contributor *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->norm = c->cosine = c->loss = NAN;
    enum tier_status st =
        tier_journal_kv_get(run->hub->home.journal, key_of(run, child, key), &blob, &err);
    if (st == TIER_OK && !(row = json_loadb((const char *)blob.data, blob.bytes, 0, NULL)))
        st = tier_fail(&err, TIER_ECORRUPT, "the journal's row %s cannot be read", key);
    if (st == TIER_OK)
        read_row(row, c);
    else if (st != TIER_ENOTFOUND)
        hub_stop_on(run->hub, &err);
    json_decref(row);
    tier_journal_blob_release(&blob);
    return c;
}

enum tier_status hub_contributor_put(const struct hub_run *run, uint32_t child,
                                     struct tier_err *err) {
    const struct hub_child *who = &run->children[child];
    char key[KEY_BYTES];

    if (!who->record)
        return TIER_OK;
    json_t *row = row_of(who->record);
    char *text = json_dumps(row, JSON_COMPACT);
    json_decref(row);
    if (!text)
        return tier_fail(err, TIER_ENOMEM, "no memory for the row of a child");
    enum tier_status st = tier_journal_kv_put(run->hub->home.journal, key_of(run, who->name, key),
                                              text, strlen(text), err);
    free(text);
    return st;
}

/* ---- what follows from it ---- */

bool hub_contributor_holds(const struct hub_run *run, uint32_t child, uint64_t round,
                           const struct tier_hash *update) {
    const struct hub_contributor *c = child < run->child_count ? run->children[child].record : NULL;
    return c && c->round == round && !tier_hash_is_zero(update) &&
           tier_hash_equal(&c->update, update);
}

bool hub_contributor_is_out(const struct hub_run *run, uint32_t child) {
    const struct hub_contributor *c = child < run->child_count ? run->children[child].record : NULL;
    return c && c->out;
}

static const char *utility_text(bool by_loss) {
    return by_loss ? HUB_APPRAISE_UTILITY : TIER_CONTRIBUTION_UTILITY;
}

static void say_shares(struct hub_run *run, const struct hub_round_shares *all, size_t k) {
    const struct tier_contribution *it = &all->shares[k];
    bool known = isfinite(it->share);

    hub_audit(run->hub, "update.contributed", "h:run", &run->id, "u:round", all->round, "s:child",
              run->children[all->children[k]].name, "h:update", &all->updates[k], "u:weight",
              it->weight, "u:bytes", it->bytes, "s:utility", utility_text(all->by_loss), "s:method",
              all->exact ? "exact" : "sampled", "b:known", (int)known, "d:share",
              known ? it->share : 0, "d:error", known ? it->error : 0, "d:without",
              known ? it->without : 0);
}

/* Into the sums of what counted. */
static void count_shares(struct hub_contributor *c, const struct tier_contribution *it,
                         bool by_loss) {
    if (by_loss != c->counted.by_loss) { /* nothing to add to one another */
        c->counted.by_loss = by_loss;
        c->counted.shares = 0;
        c->counted.share = c->counted.variance = c->counted.without = 0;
    }
    c->counted.bytes += it->bytes;
    if (isfinite(it->share)) {
        c->counted.share += it->share;
        c->counted.variance += it->error * it->error;
        c->counted.without += it->without;
        c->counted.shares++;
    }
}

void hub_contributors_folded(struct hub_run *run, const struct hub_round_shares *it,
                             const struct tier_err *why) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};

    if (!why)
        return;
    if (!it->shares) {
        tier_log_warn("run %.12s: no contributions: %s", run->hex, why->text);
        hub_audit(run->hub, "contributions.none", "h:run", &run->id, "u:round", it->round,
                  "s:reason", why->text);
        return;
    }
    enum tier_status st = tier_journal_begin_lazy(j, &err);
    for (size_t k = 0; k < it->count; k++) {
        struct hub_contributor *c = run->children[it->children[k]].record;
        if (st != TIER_OK || !c)
            continue;
        if (it->counted) {
            count_shares(c, &it->shares[k], it->by_loss);
        } else {
            c->folded.round = it->round;
            c->folded.it = it->shares[k];
            c->folded.by_loss = it->by_loss;
        }
        st = hub_contributor_put(run, it->children[k], &err);
    }
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK) {
        hub_stop_on(run->hub, &err);
        return;
    }
    for (size_t k = 0; k < it->count; k++)
        say_shares(run, it, k);
}

enum tier_status hub_contributors_commit(struct hub_run *run, struct tier_err *err) {
    bool trained = tier_task_trains(&run->plan, run->round.number);

    if (!hub_contributors_on(run) || !trained)
        return TIER_OK;
    hub_shares_counted(run, run->round.number);
    for (uint32_t i = 0; i < run->child_count; i++) {
        const struct tier_round_child *now = tier_round_child(&run->round, i);
        struct hub_contributor *c = run->children[i].record;
        if (!c || (now->state != TIER_CHILD_SEALED && now->state != TIER_CHILD_FOLDED))
            continue;
        c->strikes = 0;
        c->counted.updates++;
        c->counted.weight += now->weight;
        if (c->folded.round == run->round.number) {
            count_shares(c, &c->folded.it, c->folded.by_loss);
            c->folded.round = 0;
        }
        TIER_TRY(hub_contributor_put(run, i, err));
    }
    return TIER_OK;
}

/* ---- pardon ---- */

static enum tier_status find_child(const struct hub_run *run, const char *name, uint32_t *out,
                                   struct tier_err *err) {
    for (uint32_t i = 0; i < run->child_count; i++)
        if (strcmp(run->children[i].name, name) == 0) {
            *out = i;
            return TIER_OK;
        }
    return tier_fail(err, TIER_ENOTFOUND, "run %.12s has no child '%s' here", run->hex, name);
}

enum tier_status hub_contributor_pardon(struct hub_run *run, const char *child, const char *caller,
                                        struct tier_err *err) {
    uint32_t number;

    if (run->state != HUB_RUN_OPEN)
        return tier_fail(err, TIER_ECONFLICT, "run %.12s is over: there is nothing to take part in",
                         run->hex);
    TIER_TRY(find_child(run, child, &number, err));
    struct hub_contributor *c = run->children[number].record;
    if (!c || (!c->out && c->strikes == 0))
        return tier_fail(err, TIER_ECONFLICT, "'%s' has no strikes in run %.12s", child, run->hex);
    const struct hub_contributor before = *c;
    c->out = false;
    c->strikes = 0;
    enum tier_status st = hub_contributor_put(run, number, err);
    if (st != TIER_OK) {
        *c = before;
        return st;
    }
    tier_log_info("run %.12s: %s pardons %s", run->hex, caller, child);
    hub_audit(run->hub, "child.pardoned", "h:run", &run->id, "s:child", child, "s:caller", caller,
              "u:strikes", before.strikes);
    if (!before.out || run->round.number == 0 || run->round.state != TIER_ROUND_OPEN)
        return TIER_OK;
    struct tier_round_event e = {.type = TIER_EVENT_JOIN, .child = number};
    tier_round_keep_out(&run->round, number, false);
    hub_rows_children(run, &number, 1);
    if (run->children[number].accepted && run->children[number].attending)
        hub_work_step(run, &e);
    return TIER_OK;
}

/* ---- for the console ---- */

static void view_of(const char *name, const struct hub_contributor *c,
                    struct tier_console_contributor *v) {
    snprintf(v->name, sizeof v->name, "%s", name);
    v->updates = c->counted.updates;
    v->weight = c->counted.weight;
    v->bytes = c->counted.bytes;
    v->shares = c->counted.shares;
    v->share = c->counted.share;
    v->error = sqrt(c->counted.variance);
    v->without = c->counted.without;
    snprintf(v->utility, sizeof v->utility, "%s", utility_text(c->counted.by_loss));
    v->quarantined = c->quarantined;
    v->strikes = c->strikes;
    v->out = c->out;
    v->round = c->round;
    v->update = c->update;
    snprintf(v->why, sizeof v->why, "%s", c->why);
}

/* Whoever is to be looked at is in the list, however long that would be. */
static void list_children(const struct hub_run *run, struct tier_console_contributors *out) {
    out->total = (uint32_t)run->child_count;
    for (int calm = 0; calm < 2; calm++)
        for (size_t i = 0; i < run->child_count; i++) {
            const struct hub_contributor *c = run->children[i].record;
            if (c && (c->quarantined == 0) == calm && out->count < TIER_CONSOLE_CONTRIBUTORS_MAX)
                view_of(run->children[i].name, c, &out->item[out->count++]);
        }
}

struct listing {
    const struct hub_run *run;
    struct tier_console_contributors *out;
};

static enum tier_status list_row(void *arg, const struct tier_journal_update *row,
                                 struct tier_err *err) {
    struct listing *l = arg;
    (void)err;

    l->out->total++;
    if (l->out->count == TIER_CONSOLE_CONTRIBUTORS_MAX)
        return TIER_OK;
    struct hub_contributor *c = hub_contributor_load(l->run, row->child);
    if (c)
        view_of(row->child, c, &l->out->item[l->out->count++]);
    free(c);
    return TIER_OK;
}

/* A run that was over when the hub started has no children here, but rows of its last round. */
static enum tier_status list_rows(const struct hub_run *run, struct tier_console_contributors *out,
                                  struct tier_err *err) {
    struct listing l = {run, out};
    struct tier_journal *j = run->hub->home.journal;
    struct tier_journal_run row;

    TIER_TRY(tier_journal_run_get(j, run->hex, &row, err));
    return tier_journal_update_each(j, run->hex, row.round, TIER_UPDATE_STATE_ANY, list_row, &l,
                                    err);
}

enum tier_status hub_contributors_view(const struct hub_run *run,
                                       struct tier_console_contributors *out,
                                       struct tier_err *err) {
    if (!hub_contributors_on(run))
        return tier_fail(err, TIER_EARG,
                         "run %.12s keeps nothing of single children at this tier: a plan with "
                         "tiers screen or contribution does",
                         run->hex);
    *out = (struct tier_console_contributors){.run = run->id};
    memcpy(out->name, run->plan.name, sizeof out->name);
    out->item = calloc(TIER_CONSOLE_CONTRIBUTORS_MAX, sizeof *out->item);
    if (!out->item)
        return tier_fail(err, TIER_ENOMEM, "no memory for a list of children");
    if (run->child_count == 0)
        return list_rows(run, out, err);
    list_children(run, out);
    return TIER_OK;
}
