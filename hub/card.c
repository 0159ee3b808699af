/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child's figures are journalled as its update comes, because the update itself may be folded
 * into a partial and deleted long before the round ends. Of them the spread is kept, by round, and
 * they are forgotten.
 */
#include "hub/card.h"
#include "hub/run_private.h"
#include "tier/budget.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/model.h"
#include "tier/signed.h"
#include "tier/site.h"
#include "tier/statistics.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_SIZE (16 + TIER_HASH_HEX + 21 + TIER_NAME_LEN_MAX + 1)

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static const char *heard_key(const struct hub_run *run, uint64_t round, const char *child,
                             char key[KEY_SIZE]) {
    snprintf(key, KEY_SIZE, "figures/%s/%" PRIu64 "/%s", run->hex, round, child);
    return key;
}

static const char *spread_key(const struct hub_run *run, uint64_t round, char key[KEY_SIZE]) {
    snprintf(key, KEY_SIZE, "spread/%s/%" PRIu64, run->hex, round);
    return key;
}

static const char *card_key(const struct tier_hash *model, char key[KEY_SIZE]) {
    char hex[TIER_HASH_HEX];
    snprintf(key, KEY_SIZE, "card/%s", tier_hash_hex(model, hex));
    return key;
}

static enum tier_status put_json(struct tier_journal *j, const char *key, json_t *value,
                                 struct tier_err *err) {
    char *text = need(json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS));
    enum tier_status st = tier_journal_kv_put(j, key, text, strlen(text), err);
    free(text);
    json_decref(value);
    return st;
}

/* NULL: there is none. */
static json_t *get_json(const struct hub *hub, const char *key) {
    struct tier_journal_blob blob = {0};
    json_t *value = NULL;

    if (tier_journal_kv_get(hub->home.journal, key, &blob, NULL) == TIER_OK)
        value = json_loadb((const char *)blob.data, blob.bytes, 0, NULL);
    tier_journal_blob_release(&blob);
    return value;
}

/* ---- how figures are spread over children ---- */

void hub_card_heard(struct hub_run *run, const char *child, const struct tier_update_header *h) {
    struct tier_journal *j = run->hub->home.journal;
    struct tier_err err = {0};
    char key[KEY_SIZE];
    const char *name;
    double value;

    if (!h->metrics || !tier_task_evaluates(&run->plan, h->round) || tier_statistics_on(&run->plan))
        return;
    const struct tier_task_figures figures = tier_task_figures(h->metrics);
    json_t *told = need(json_object());
    for (size_t i = 0; tier_task_figure(&figures, i, &name, &value); i++)
        if (isfinite(value))
            json_object_set_new(told, name, json_real(value));
    enum tier_status st = tier_journal_begin_lazy(j, &err);
    if (st == TIER_OK)
        st = put_json(j, heard_key(run, h->round, child, key), told, &err);
    else
        json_decref(told);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of all that were told of one name. */
static json_t *spread_of(const json_t *children, const char *name, double *room) {
    const json_t *child;
    size_t i, n = 0;

    json_array_foreach(children, i, child) {
        const json_t *value = json_object_get(child, name);
        if (json_is_number(value))
            room[n++] = json_number_value(value);
    }
    if (n < HUB_CARD_CHILDREN_MIN)
        return NULL;
    qsort(room, n, sizeof *room, by_value);
    return json_pack("{s:I, s:f, s:f, s:f}", "children", (json_int_t)n, "lowest", room[0], "median",
                     n % 2 ? room[n / 2] : (room[n / 2 - 1] + room[n / 2]) / 2, "highest",
                     room[n - 1]);
}

enum tier_status hub_card_spread(struct hub_run *run, struct tier_err *err) {
    struct tier_journal *j = run->hub->home.journal;
    json_t *children, *spreads;
    struct tier_task_figures names = {0};
    uint64_t round = run->round.number;
    enum tier_status st = TIER_OK;
    char key[KEY_SIZE];
    const char *name;
    double ignored;

    if (!tier_task_evaluates(&run->plan, round) || tier_statistics_on(&run->plan))
        return TIER_OK;
    children = need(json_array());
    for (uint32_t i = 0; i < run->round.count && st == TIER_OK; i++) {
        const struct tier_round_child *c = tier_round_child(&run->round, i);
        bool counts = c->state == TIER_CHILD_SEALED || c->state == TIER_CHILD_FOLDED;
        heard_key(run, round, run->children[i].name, key);
        json_t *told = get_json(run->hub, key);
        if (told && counts && hub_run_child_round(run, i) == round)
            json_array_append(children, told);
        if (told)
            st = tier_journal_kv_delete(j, key, err);
        json_decref(told);
    }
    spreads = need(json_object());
    double *room = need(calloc(json_array_size(children) + 1, sizeof *room));
    for (size_t i = 0; tier_task_figure(&names, i, &name, &ignored); i++) {
        json_t *spread = spread_of(children, name, room);
        if (spread && strcmp(name, "count") != 0)
            json_object_set_new(spreads, name, spread);
        else
            json_decref(spread);
    }
    free(room);
    json_decref(children);
    if (st == TIER_OK && json_object_size(spreads) > 0)
        return put_json(j, spread_key(run, round - 1, key), spreads, err);
    json_decref(spreads);
    return st;
}

/* ---- what a card says ---- */

struct about {
    struct hub *hub;
    struct hub_run *run;
    const struct tier_hash *model;
    json_t *plan;          /* its canonical text */
    uint64_t round;        /* that made the model; 0: it is the first */
    struct tier_hash base; /* of that round */
    struct tier_hash first;
    json_t *values;
};

static enum tier_status find_round(void *arg, const struct tier_journal_round *row,
                                   struct tier_err *err) {
    struct about *a = arg;
    (void)err;

    if (row->round == 1)
        a->first = row->base_model;
    if (!a->round && tier_hash_equal(&row->result_model, a->model)) { /* the evaluation keeps it */
        a->round = row->round;
        a->base = row->base_model;
    }
    return TIER_OK;
}

static enum tier_status take_metric(void *arg, uint64_t round, const char *name, double value,
                                    struct tier_err *err) {
    struct about *a = arg;
    (void)err;

    if (round == a->round && isfinite(value))
        json_object_set_new(a->values, name, json_real(value));
    return TIER_OK;
}

static json_t *hex(const struct tier_hash *hash) {
    char text[TIER_HASH_HEX];
    return tier_hash_is_zero(hash) ? json_null() : json_string(tier_hash_hex(hash, text));
}

static enum tier_status model_json(const struct about *a, json_t *card, struct tier_err *err) {
    char *path = tier_content_path(a->hub->home.models_dir, a->model, TIER_CONTENT_MODEL);
    struct tier_content file = {.fd = -1};
    struct tier_model *m = NULL;
    size_t tensors = 0;
    enum tier_status st = tier_content_open(a->hub->home.models_dir, a->model, &file, err);

    if (st == TIER_OK)
        st = tier_model_open(path, &m, err);
    if (st == TIER_OK) {
        tier_model_tensors(m, &tensors);
        json_object_set_new(card, "model",
                            json_pack("{s:o, s:I, s:I, s:I, s:s}", "sha256", hex(a->model), "bytes",
                                      (json_int_t)file.bytes, "tensors", (json_int_t)tensors,
                                      "elements", (json_int_t)tier_model_elements(m), "format",
                                      "safetensors"));
    }
    tier_model_close(m);
    tier_content_close(&file);
    free(path);
    return st;
}

/* Who signed the plan, by a certificate that was good when the run began. */
static json_t *author_json(const struct about *a, const struct tier_hash *plan) {
    struct tier_identity signer;

    if (!a->run->signature || !a->hub->home.node.ca ||
        tier_signed_check(a->run->signature, a->run->signature_bytes, plan, a->hub->home.node.ca,
                          NULL, a->run->created_ms / 1000, &signer, NULL) != TIER_OK)
        return json_null();
    return json_string(signer.name);
}

static void plan_json(const struct about *a, json_t *card) {
    static const char *const as_they_are[] = {"purpose", "governance", "data", "rounds",
                                              "tiers",   "share",      "keep", "server"};
    json_t *plan = need(json_object());
    struct tier_hash hash;

    tier_hash_data(a->run->plan_text, a->run->plan_bytes, &hash);
    json_object_set_new(plan, "name", json_string(a->run->plan.name));
    json_object_set_new(plan, "sha256", hex(&hash));
    json_object_set_new(plan, "signed_by", author_json(a, &hash));
    for (size_t i = 0; i < sizeof as_they_are / sizeof *as_they_are; i++) {
        json_t *part = json_object_get(a->plan, as_they_are[i]);
        if (part)
            json_object_set(plan, as_they_are[i], part);
    }
    json_object_set_new(card, "plan", plan);
    json_object_set_new(card, "contract", json_string(a->run->plan.contract));
}

static enum tier_status count_update(void *arg, const struct tier_journal_update *row,
                                     struct tier_err *err) {
    uint64_t *sums = arg;
    (void)err;

    if (row->state == TIER_UPDATE_SEALED || row->state == TIER_UPDATE_FOLDED) {
        sums[0]++;
        sums[1] += row->weight;
    }
    return TIER_OK;
}

static enum tier_status counted_json(const struct about *a, json_t *card, struct tier_err *err) {
    struct tier_journal *j = a->hub->home.journal;
    uint64_t sums[2] = {0, 0}, sites = 0;

    if (a->round > 0)
        TIER_TRY(tier_journal_update_children(j, a->run->hex, a->round, &sites, err));
    if (a->round > 0)
        TIER_TRY(tier_journal_update_each(j, a->run->hex, a->round, TIER_UPDATE_STATE_ANY,
                                          count_update, sums, err));
    json_object_set_new(
        card, "counted",
        json_pack("{s:I, s:{s:I, s:I}, s:s}", "children", (json_int_t)sites, "last_round",
                  "children", (json_int_t)sums[0], "weight", (json_int_t)sums[1], "note",
                  "children of this hub: hospitals, or regions that each count for all of theirs, "
                  "whose number this tier is not told"));
    return TIER_OK;
}

static enum tier_status metrics_json(struct about *a, json_t *card, struct tier_err *err) {
    char key[KEY_SIZE];
    const char *why = NULL;

    a->values = need(json_object());
    TIER_TRY(
        tier_journal_metric_each(a->hub->home.journal, a->run->hex, NULL, take_metric, a, err));
    json_t *spread = get_json(a->hub, spread_key(a->run, a->round, key));
    if (tier_budget_patient(&a->run->plan))
        why = "the plan protects patients (privacy.patient): no figure of test patients leaves a "
              "hospital";
    else if (json_object_size(a->values) == 0)
        why = "this model was not evaluated";
    else if (!spread)
        why = "fewer than three children told figures of their own: a spread would be somebody's";
    json_object_set_new(card, "metrics",
                        json_pack("{s:O, s:o, s:o}", "values", a->values, "spread",
                                  spread ? spread : json_null(), "why_not",
                                  why ? json_string(why) : json_null()));
    return TIER_OK;
}

/* Of whole sites it is the same for all, whatever they have: no more than what the rounds cost. */
static enum tier_status site_json(const struct about *a, json_t *privacy, struct tier_err *err) {
    const struct tier_plan *plan = &a->run->plan;
    uint64_t trained = a->round < plan->rounds ? a->round : plan->rounds;
    struct tier_privacy_bound spent;

    if (!tier_site_on(plan) || a->round == 0) {
        json_object_set_new(privacy, "site", json_null());
        return TIER_OK;
    }
    const struct tier_privacy_event e = tier_site_event(plan, trained);
    TIER_TRY(tier_privacy_concentrated(&e, 1, plan->site.delta, &spent, err));
    json_object_set_new(
        privacy, "site",
        json_pack("{s:f, s:f, s:o}", "delta", plan->site.delta, "epsilon_max",
                  plan->site.epsilon_max, "epsilon",
                  isfinite(spent.epsilon) ? json_real(spent.epsilon) : json_null()));
    return TIER_OK;
}

/* Hospitals' own ledgers stay with them; what the plan cost a site follows from its rows. */
static enum tier_status privacy_json(const struct about *a, json_t *card, struct tier_err *err) {
    static const uint64_t rows[] = {100, 300, 1000, 3000, 10000};
    const struct tier_plan *plan = &a->run->plan;
    json_t *asked = json_object_get(a->plan, "privacy");
    json_t *privacy, *sites;

    privacy = need(json_object());
    json_object_set_new(privacy, "plan", asked ? json_incref(asked) : json_null());
    json_object_set_new(card, "privacy", privacy);
    TIER_TRY(site_json(a, privacy, err));
    if (!tier_budget_patient(plan) || a->round == 0) {
        json_object_set_new(privacy, "patient", json_null());
        return TIER_OK;
    }
    sites = need(json_array());
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t trained = a->round < plan->rounds ? a->round : plan->rounds;
        const struct tier_privacy_event e = tier_budget_patient_event(plan, rows[i], trained);
        double epsilon = 0;
        bool within;
        enum tier_status st = tier_privacy_within(&e, 1, plan->patient.delta,
                                                  TIER_PRIVACY_EPSILON_MAX, &within, &epsilon, err);
        if (st != TIER_OK) {
            json_decref(sites);
            return st;
        }
        json_array_append_new(sites,
                              json_pack("{s:I, s:o}", "rows", (json_int_t)rows[i], "epsilon",
                                        isfinite(epsilon) ? json_real(epsilon) : json_null()));
    }
    json_object_set_new(privacy, "patient",
                        json_pack("{s:f, s:f, s:s, s:o}", "delta", plan->patient.delta,
                                  "epsilon_max", plan->patient.epsilon_max, "note",
                                  "epsilon spent by a site with so many training rows, by Renyi "
                                  "accounting; what each site has spent in all is in its own "
                                  "ledger, which stays there",
                                  "sites", sites));
    return TIER_OK;
}

static enum tier_status audit_json(const struct about *a, json_t *card, struct tier_err *err) {
    const struct tier_tree *tree = tier_audit_tree(a->hub->home.audit);
    uint64_t lines = tier_tree_size(tree);
    struct tier_hash root;

    TIER_TRY(tier_tree_root(tree, lines, &root, err));
    json_object_set_new(card, "audit",
                        json_pack("{s:s, s:I, s:o}", "node", a->hub->config->name, "lines",
                                  (json_int_t)lines, "root", hex(&root)));
    return TIER_OK;
}

static void run_json(const struct about *a, json_t *card) {
    struct tier_hash graph;

    tier_hash_parse(a->run->plan.model_sha256, &graph);
    json_object_set_new(card, "run",
                        json_pack("{s:s, s:s, s:I, s:I, s:I}", "id", a->run->hex, "state",
                                  hub_run_state_text(a->run->state), "begun_ms",
                                  (json_int_t)a->run->created_ms, "round", (json_int_t)a->round,
                                  "rounds", (json_int_t)a->run->plan.rounds));
    json_object_set_new(card, "lineage",
                        json_pack("{s:o, s:o, s:o}", "graph", hex(&graph), "first_model",
                                  hex(&a->first), "base_model", hex(&a->base)));
}

static enum tier_status fill(struct about *a, json_t *card, struct tier_err *err) {
    a->plan = json_loadb(a->run->plan_text, a->run->plan_bytes, 0, NULL);
    if (!json_is_object(a->plan))
        return tier_fail(err, TIER_ECORRUPT, "run %.12s: its plan is damaged", a->run->hex);
    TIER_TRY(tier_journal_round_each(a->hub->home.journal, a->run->hex, 1, find_round, a, err));
    if (tier_hash_is_zero(&a->first))
        a->first = *a->model;
    TIER_TRY(model_json(a, card, err));
    plan_json(a, card);
    run_json(a, card);
    TIER_TRY(counted_json(a, card, err));
    TIER_TRY(metrics_json(a, card, err));
    TIER_TRY(privacy_json(a, card, err));
    return audit_json(a, card, err);
}

static struct hub_run *run_of(const struct hub *hub, const struct tier_hash *model) {
    for (struct hub_run *run = hub->runs; run; run = run->next)
        if (tier_hash_equal(&run->model, model))
            return run;
    return NULL;
}

enum tier_status hub_card_make(struct hub *hub, const struct tier_hash *model,
                               const char by[2][TIER_NAME_LEN_MAX + 1], int64_t now_ms,
                               struct tier_hash *card_out, struct tier_err *err) {
    struct about a = {.hub = hub, .run = run_of(hub, model), .model = model};
    char *text = NULL, key[KEY_SIZE];
    struct tier_hash hash;
    size_t bytes;
    enum tier_status st;

    if (!a.run)
        return tier_fail(err, TIER_ENOTFOUND, "no run here has published that model last");
    json_t *card = need(json_pack(
        "{s:i, s:s, s:{s:[s, s], s:I, s:s, s:s}}", "version", TIER_CARD_VERSION, "software",
        "consilium " CONSILIUM_VERSION, "release", "by", by[0], by[1], "time_ms",
        (json_int_t)now_ms, "hub", hub->config->name, "authority", hub->home.node.id.authority));
    TIER_TRY_OUT(fill(&a, card, err));
    TIER_TRY_OUT(tier_card_sign(&hub->home.node, card, &text, &bytes, err));
    TIER_TRY_OUT(
        tier_content_store(hub->home.models_dir, TIER_CONTENT_CARD, text, bytes, &hash, err));
    TIER_TRY_OUT(
        tier_journal_kv_put(hub->home.journal, card_key(model, key), hash.b, sizeof hash.b, err));
    hub_audit(hub, "model.card", "h:run", &a.run->id, "h:model", model, "h:card", &hash);
    *card_out = hash;
out:
    json_decref(a.values);
    json_decref(a.plan);
    json_decref(card);
    free(text);
    return st;
}

enum tier_status hub_card_of(const struct hub *hub, const struct tier_hash *model,
                             struct tier_hash *card_out, struct tier_err *err) {
    struct tier_journal_blob blob = {0};
    char key[KEY_SIZE];
    enum tier_status st = tier_journal_kv_get(hub->home.journal, card_key(model, key), &blob, err);

    if (st == TIER_ENOTFOUND)
        return tier_fail(err, st,
                         "model %.12s has no card: it gets one when two operators release it",
                         key + strlen("card/"));
    if (st == TIER_OK && blob.bytes != sizeof card_out->b)
        st = tier_fail(err, TIER_ECORRUPT, "the journal's entry %s is damaged", key);
    if (st == TIER_OK)
        memcpy(card_out->b, blob.data, sizeof card_out->b);
    tier_journal_blob_release(&blob);
    return st;
}
