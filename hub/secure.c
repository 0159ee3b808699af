/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the journal has of a secure sum is enough to go on after a kill at any point: a body is
 * written before anything follows from it, and a child that is told the same again answers the
 * same. What cannot go on discloses nothing: the round ends empty, and no sum of it is ever asked
 * for again, since two sums over almost the same hospitals would show who makes the difference.
 */
#include "hub/secure.h"

#include "hub/run_private.h"
#include "hub/work.h"
#include "tier/cert.h"
#include "tier/layout.h"
#include "tier/log.h"
#include "tier/pseudonym.h"
#include "tier/secure.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hub_secure {
    struct tier_secure *sum;
    struct tier_mask_identity identity;
    struct tier_mask_pseudonym pseudonym; /* in its place, with secure.pseudonyms */
    struct tier_mask_trust trust;
    struct tier_timer *turn, *lasts;
    enum tier_mask_step timed; /* the step whose time is running */
    bool told;                 /* how it ended is in the logs */
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static bool is_secure(const struct tier_plan *plan) {
    return plan->secure.sums != TIER_PLAN_SECURE_NONE;
}

bool hub_secure_on(const struct hub_run *run) {
    return run->secure != NULL;
}

enum tier_status hub_secure_check(const struct hub *hub, const struct tier_plan *plan,
                                  struct tier_err *err) {
    if (is_secure(plan) && !tier_home_tls(&hub->home))
        return tier_fail(err, TIER_EPLAN,
                         "the plan has secure.sums: %s, and TLS is off here: who takes part in a "
                         "sum is known by certificates alone",
                         "region");
    if (is_secure(plan) && plan->secure.pseudonyms && hub_is_top(hub) && !hub->authority)
        return tier_fail(err, TIER_EPLAN,
                         "the plan has secure.pseudonyms: true, and no authority lies beside this "
                         "top (authority_dir) to give them out; with false the spokes of a sum are "
                         "told each other's names");
    return TIER_OK;
}

/* One that has not attended since the start may be either, and is taken for a spoke. */
static bool is_hub(const struct hub_run *run, uint32_t child) {
    return run->children[child].role == HUB_CHILD_HUB;
}

static enum hub_child_role role_of(const struct hub_run *run, const char *child) {
    const char *pem = tier_serve_child_cert(run->hub->serve, child);
    struct tier_cert *cert = NULL;
    struct tier_identity id;
    enum hub_child_role role = HUB_CHILD_UNKNOWN;

    if (*pem && tier_cert_from_pem(pem, &cert, NULL) == TIER_OK &&
        tier_cert_identity(cert, &id, NULL) == TIER_OK)
        role = id.role == TIER_ROLE_SPOKE ? HUB_CHILD_SPOKE : HUB_CHILD_HUB;
    tier_cert_free(cert);
    return role;
}

uint32_t hub_secure_sealed_min(const struct hub_run *run) {
    for (uint32_t i = 0; is_secure(&run->plan) && i < run->child_count; i++)
        if (run->children[i].accepted && !is_hub(run, i))
            return run->secure && run->secure->sum ? tier_secure_least(run->secure->sum)
                                                   : (uint32_t)run->plan.secure.cohort_min;
    return 0;
}

/* Whom to believe, as of then, and by which list. */
static void look(struct hub_run *run, int64_t now_s, const struct tier_revocations *revoked) {
    struct hub_secure *s = run->secure;

    s->identity.now_s = s->pseudonym.now_s = now_s;
    s->identity.revoked = s->pseudonym.revoked = revoked;
    s->pseudonym.ca = run->hub->home.node.ca;
}

static void look_around(struct hub_run *run) {
    look(run, tier_wall_ms() / 1000, run->hub->home.revoked);
}

/* ---- what spokes are called ---- */

#define NAME_KEY_BYTES (TIER_HASH_HEX + TIER_NAME_LEN_MAX + 16)

static void name_key(const struct hub_run *run, const char *child, char key[NAME_KEY_BYTES]) {
    snprintf(key, NAME_KEY_BYTES, "pseudonym/%s/%s", run->hex, child);
}

static void load_name(struct hub_run *run, struct hub_child *c) {
    struct tier_journal_blob value = {0};
    char key[NAME_KEY_BYTES];

    name_key(run, c->name, key);
    if (!*c->called && tier_journal_kv_get(run->hub->home.journal, key, &value, NULL) == TIER_OK &&
        value.bytes < sizeof c->called)
        memcpy(c->called, value.data, value.bytes);
    tier_journal_blob_release(&value);
}

/* Once it has one it has no other: the authority gives a second one to nobody. */
static void note_name(struct hub_run *run, struct hub_child *c, const char *called) {
    struct tier_err err = {0};
    char key[NAME_KEY_BYTES];

    load_name(run, c);
    if (*c->called || !*called)
        return;
    snprintf(c->called, sizeof c->called, "%s", called);
    name_key(run, c->name, key);
    if (tier_journal_kv_put(run->hub->home.journal, key, called, strlen(called), &err) != TIER_OK)
        hub_stop_on(run->hub, &err);
}

static struct hub_child *find_child(struct hub_run *run, const char *name) {
    for (size_t i = 0; i < run->child_count; i++)
        if (strcmp(run->children[i].name, name) == 0)
            return &run->children[i];
    return NULL;
}

static enum tier_status calls(void *arg, const char *child, const char *called,
                              struct tier_err *err) {
    struct hub_run *run = arg;

    for (size_t i = 0; i < run->child_count; i++) {
        struct hub_child *c = &run->children[i];
        bool own = strcmp(c->name, child) == 0, same = strcmp(c->called, called) == 0;
        if (*c->called && own != same)
            return tier_fail(err, TIER_EIDENTITY,
                             "secure sum: '%s' advertises as '%s'; the authority has called %s so",
                             child, called, own ? "it otherwise, and nobody" : "another child");
    }
    return TIER_OK;
}

bool hub_secure_asked(const struct hub *hub, const struct tier_pseudonym_ask *ask,
                      struct hub_secure_name *out) {
    struct hub_secure_name name = {.run = ask->run};
    struct tier_cert *cert = NULL;
    struct tier_identity id;
    struct tier_csr csr;
    bool read = strcmp(ask->parent, hub->config->name) == 0 &&
                tier_cert_from_pem(ask->cert_pem, &cert, NULL) == TIER_OK &&
                tier_cert_identity(cert, &id, NULL) == TIER_OK &&
                tier_csr_parse(ask->csr_pem, &csr, NULL) == TIER_OK;

    tier_cert_free(cert);
    if (!read)
        return false;
    memcpy(name.child, id.name, sizeof name.child);
    memcpy(name.called, csr.name, sizeof name.called);
    *out = name;
    return true;
}

void hub_secure_named(struct hub *hub, const struct hub_secure_name *name) {
    struct hub_run *run = hub_run_find(hub, &name->run);
    struct hub_child *c = run && run->state == HUB_RUN_OPEN ? find_child(run, name->child) : NULL;

    if (c) /* of one that is not here the first advertisement tells */
        note_name(run, c, name->called);
}

void hub_secure_end(struct hub_run *run) {
    struct tier_err err = {0};
    char key[NAME_KEY_BYTES];

    if (!is_secure(&run->plan) || !run->plan.secure.pseudonyms)
        return;
    for (size_t i = 0; i < run->child_count; i++) {
        struct hub_child *c = &run->children[i];
        load_name(run, c);
        name_key(run, c->name, key);
        if (*c->called && tier_journal_kv_delete(run->hub->home.journal, key, &err) != TIER_OK)
            hub_stop_on(run->hub, &err);
    }
}

/* ---- what the sum asks for ---- */

static void keep(void *arg, const struct tier_secure_row *row) {
    struct hub_run *run = arg;
    struct tier_journal *j = run->hub->home.journal;
    struct tier_journal_secure out = {.step = row->step,
                                      .body = row->body ? row->body : (const uint8_t *)"",
                                      .bytes = row->bytes,
                                      .time_ms = tier_wall_ms()};
    struct tier_err err = {0};

    memcpy(out.child, row->child, strnlen(row->child, TIER_NAME_LEN_MAX));
    enum tier_status st = tier_journal_begin_lazy(j, &err);
    if (st == TIER_OK)
        st = tier_journal_secure_add(j, run->hex, run->round.number, &out, &err);
    if (st == TIER_OK)
        st = tier_journal_commit(j, &err);
    if (st != TIER_OK)
        hub_stop_on(run->hub, &err);
}

static bool say(void *arg, const char *child, enum tier_mask_step step, const uint8_t *body,
                size_t bytes) {
    struct hub_run *run = arg;
    const struct tier_to_child m = {.type = TIER_TO_SECURE,
                                    .run = run->id,
                                    .round = run->round.number,
                                    .secure = {step, body, bytes}};

    /* What the journal does not have is not said. */
    return !run->hub->failed && tier_serve_send(run->hub->serve, child, &m);
}

static void ask_for_turn(void *arg) {
    struct hub_run *run = arg;
    tier_timer_set(run->secure->turn, 0);
}

/* ---- what becomes of it ---- */

static uint64_t step_ms(const struct hub_run *run) {
    return run->plan.secure.step_s * 1000;
}

static void run_time(struct hub_run *run) {
    struct hub_secure *s = run->secure;
    bool timed;
    enum tier_mask_step step = tier_secure_step(s->sum, &timed);

    if (step == s->timed)
        return;
    s->timed = step;
    if (timed)
        tier_timer_set(s->lasts, step_ms(run));
    else
        tier_timer_cancel(s->lasts);
    if (step)
        tier_log_info("run %.12s round %" PRIu64 ": secure sum: '%s'", run->hex, run->round.number,
                      tier_mask_step_text(step));
}

static void step_lasted(void *arg) {
    struct hub_run *run = arg;
    struct hub_secure *s = run->secure;
    unsigned done, of;
    bool timed;

    if (run->state != HUB_RUN_OPEN)
        return;
    tier_secure_tally(s->sum, &done, &of);
    tier_log_warn("run %.12s round %" PRIu64 ": secure sum: %u of %u spokes have answered in step "
                  "'%s' after %" PRIu64 " s; at least %" PRIu64 " are wanted for a sum",
                  run->hex, run->round.number, done, of,
                  tier_mask_step_text(tier_secure_step(s->sum, &timed)), run->plan.secure.step_s,
                  run->plan.secure.cohort_min);
    tier_secure_time_up(s->sum);
    if (tier_secure_step(s->sum, &timed) == s->timed && timed) /* advertisements are waited for */
        tier_timer_set(s->lasts, step_ms(run));
}

static void give_up(struct hub_run *run, const char *why) {
    struct tier_round_event e = {.type = TIER_EVENT_NO_MERGE, .reason = why};

    if (run->secure->told)
        return;
    run->secure->told = true;
    tier_log_error("run %.12s round %" PRIu64 ": given up, and nothing of it is disclosed: %s",
                   run->hex, run->round.number, why);
    hub_audit(run->hub, "secure.lost", "h:run", &run->id, "u:round", run->round.number, "s:reason",
              why);
    hub_work_step(run, &e);
}

/* What masks the sum is kept where updates are, so that it can be made again. */
static void tell_unmasked(struct hub_run *run, uint64_t spokes) {
    struct tier_hash terms = {{0}};
    struct tier_err err = {0};
    size_t count;

    const struct tier_mask_term *known = tier_secure_terms(run->secure->sum, &count);
    if (run->hub->config->hub.retain_updates_days > 0 &&
        tier_secure_terms_store(run->hub->home.retained_dir, known, count, &terms, &err) != TIER_OK)
        tier_log_warn("not retained: %s", err.text);
    char hex[TIER_HASH_HEX];
    bool kept = !tier_hash_is_zero(&terms);
    hub_audit(run->hub, "round.unmasked", "h:run", &run->id, "u:round", run->round.number,
              "u:spokes", spokes, "s:terms", kept ? tier_hash_hex(&terms, hex) : NULL);
}

/* The updates that the masks are known of must all be here. */
static void fold_it(struct hub_run *run) {
    struct tier_round_event e = {.type = TIER_EVENT_UNMASKED};
    uint64_t came = 0, of = 0;

    if (run->round.state != TIER_ROUND_UNMASKING)
        return;
    for (uint32_t i = 0; i < run->child_count; i++) {
        bool counts = tier_secure_came(run->secure->sum, run->children[i].name);
        bool here = tier_round_child(&run->round, i)->state == TIER_CHILD_SEALED;
        of += counts;
        came += counts && here;
    }
    if (came < of) {
        give_up(run, "secure sum: an update whose masks are in the sum was lost here, and did not "
                     "come again");
        return;
    }
    if (!run->secure->told)
        tell_unmasked(run, of);
    run->secure->told = true;
    hub_work_step(run, &e);
}

/* Whoever is not in the sum is not waited for by the round either. */
static void leave_out(struct hub_run *run) {
    const struct tier_secure *sum = run->secure->sum;
    bool timed;

    if (tier_secure_step(sum, &timed) == TIER_MASK_ADVERT)
        return;
    for (uint32_t i = 0; i < run->child_count; i++) {
        struct tier_round_event e = {.type = TIER_EVENT_DECLINE, .child = i};
        enum tier_round_child_state now = tier_round_child(&run->round, i)->state;
        const char *name = run->children[i].name;
        if ((now != TIER_CHILD_EXPECTED && now != TIER_CHILD_PUSHING) || is_hub(run, i) ||
            tier_secure_has(sum, name))
            continue;
        tier_log_warn("run %.12s round %" PRIu64 ": secure sum: goes on without %s, which was not "
                      "there in time",
                      run->hex, run->round.number, name);
        hub_audit(run->hub, "secure.without", "h:run", &run->id, "u:round", run->round.number,
                  "s:child", name);
        hub_work_step(run, &e);
        if (run->round.state != TIER_ROUND_OPEN || run->secure->sum != sum)
            return; /* a turn has been asked for where there is more to do */
    }
}

static void on_turn(void *arg) {
    struct hub_run *run = arg;
    struct tier_err why = {0};

    if (run->state != HUB_RUN_OPEN || run->hub->failed)
        return;
    if (run->round.state == TIER_ROUND_EMPTY && hub_secure_skips(run)) {
        hub_run_skip(run);
        return;
    }
    if (run->round.state != TIER_ROUND_OPEN && run->round.state != TIER_ROUND_UNMASKING)
        return;
    run_time(run);
    run->round.rules.sealed_min = hub_secure_sealed_min(run);
    switch (tier_secure_state(run->secure->sum, &why)) {
    case TIER_SECURE_LOST:
        give_up(run, why.text);
        break;
    case TIER_SECURE_KNOWN:
        fold_it(run);
        break;
    case TIER_SECURE_GOES_ON:
        leave_out(run);
        break;
    }
}

bool hub_secure_skips(struct hub_run *run) {
    if (!run->secure || run->plan.secure.lost != TIER_PLAN_LOST_SKIP || run->hub->link)
        return false;
    tier_timer_set(run->secure->turn, 0);
    return true;
}

void hub_secure_unmask(struct hub_run *run) {
    const char **names = need(calloc(run->child_count + 1, sizeof *names));
    size_t n = 0;

    look_around(run);
    for (uint32_t i = 0; i < run->child_count; i++)
        if (tier_round_child(&run->round, i)->state == TIER_CHILD_SEALED && !is_hub(run, i))
            names[n++] = run->children[i].name;
    tier_secure_unmask(run->secure->sum, names, n);
    free(names);
}

/* ---- life cycle ---- */

static void wipe(struct hub_run *run) {
    tier_secure_free(run->secure->sum);
    run->secure->sum = NULL;
    run->secure->timed = (enum tier_mask_step)0;
    run->secure->told = false;
    tier_timer_cancel(run->secure->turn);
    tier_timer_cancel(run->secure->lasts);
}

static enum tier_status begin(struct hub_run *run, struct tier_err *err) {
    const struct tier_mask_round round = {.run = run->id,
                                          .round = run->round.number,
                                          .cohort_min = (unsigned)run->plan.secure.cohort_min,
                                          .threshold = run->plan.secure.threshold};
    const bool pseudonyms = run->plan.secure.pseudonyms;
    const struct tier_secure_owner owner = {run, keep, say, ask_for_turn,
                                            pseudonyms ? calls : NULL};
    struct hub_secure *s = run->secure;

    if (!s) {
        s = run->secure = need(calloc(1, sizeof *s));
        s->identity = (struct tier_mask_identity){.node = &run->hub->home.node};
        s->pseudonym =
            (struct tier_mask_pseudonym){.run = run->id, .parent = run->hub->config->name};
        s->trust = pseudonyms ? tier_mask_trust_of_pseudonym(&s->pseudonym)
                              : tier_mask_trust_of(&s->identity);
        s->turn = tier_timer_new(run->hub->loop, on_turn, run);
        s->lasts = tier_timer_new(run->hub->loop, step_lasted, run);
    } else {
        wipe(run);
    }
    look_around(run);
    return tier_secure_new(&round, &s->trust, &owner, &s->sum, err);
}

void hub_secure_begin(struct hub_run *run) {
    struct tier_err err = {0};

    if (!is_secure(&run->plan))
        return;
    hub_secure_over(run, run->round.number - 1);
    if (begin(run, &err) != TIER_OK)
        hub_stop_on(run->hub, &err);
    ask_for_turn(run);
}

void hub_secure_over(struct hub_run *run, uint64_t round) {
    struct tier_err err = {0};

    if (is_secure(&run->plan) &&
        tier_journal_secure_delete(run->hub->home.journal, run->hex, round, &err) != TIER_OK)
        hub_stop_on(run->hub, &err);
}

void hub_secure_free(struct hub_run *run) {
    if (!run->secure)
        return;
    tier_secure_free(run->secure->sum);
    tier_timer_free(run->secure->turn);
    tier_timer_free(run->secure->lasts);
    free(run->secure);
    run->secure = NULL;
}

/* Certificates are believed as they were at the time. */
static enum tier_status restore_row(void *arg, const struct tier_journal_secure *row,
                                    struct tier_err *err) {
    struct hub_run *run = arg;
    const struct tier_secure_row in = {(enum tier_mask_step)row->step, row->child, row->body,
                                       row->bytes};

    look(run, row->time_ms / 1000, NULL);
    return tier_secure_restore(run->secure->sum, &in, err);
}

static void restore_child(struct hub_run *run, uint32_t child) {
    const struct tier_round_child *c = tier_round_child(&run->round, child);
    struct tier_update *u = NULL;

    load_name(run, &run->children[child]);
    if (c->state == TIER_CHILD_NONE || c->state == TIER_CHILD_DECLINED ||
        c->state == TIER_CHILD_REFUSED)
        return;
    if (c->state == TIER_CHILD_SEALED &&
        tier_spool_update_open(run->hub->home.spool, &c->update, &u, NULL) == TIER_OK) {
        bool masked = tier_encoding_masked(tier_spool_update_header(u)->encoding);
        run->children[child].role = masked ? HUB_CHILD_SPOKE : HUB_CHILD_HUB;
        tier_spool_update_close(u);
    }
    if (!is_hub(run, child))
        tier_secure_expect(run->secure->sum, run->children[child].name);
}

enum tier_status hub_secure_restore(struct hub_run *run, struct tier_err *err) {
    if (!is_secure(&run->plan) || run->round.state == TIER_ROUND_COMMITTED)
        return TIER_OK;
    TIER_TRY(hub_secure_check(run->hub, &run->plan, err));
    TIER_TRY(begin(run, err));
    for (uint32_t i = 0; i < run->child_count; i++)
        restore_child(run, i);
    run->round.rules.sealed_min = hub_secure_sealed_min(run);
    TIER_TRY(tier_journal_secure_each(run->hub->home.journal, run->hex, run->round.number,
                                      restore_row, run, err));
    look_around(run);
    tier_secure_resume(run->secure->sum);
    return TIER_OK;
}

/* ---- children ---- */

void hub_secure_before(struct hub_run *run, const struct tier_round_event *e) {
    if (!run->secure || e->type != TIER_EVENT_JOIN)
        return;
    run->children[e->child].role = role_of(run, run->children[e->child].name);
    load_name(run, &run->children[e->child]);
    run->round.rules.sealed_min = hub_secure_sealed_min(run);
}

void hub_secure_after(struct hub_run *run, const struct tier_round_event *e) {
    if (!run->secure || e->type > TIER_EVENT_LOST || e->child >= run->child_count)
        return;
    enum tier_round_child_state now = tier_round_child(&run->round, e->child)->state;
    const char *name = run->children[e->child].name;
    bool gone = now == TIER_CHILD_NONE || now == TIER_CHILD_DECLINED || now == TIER_CHILD_REFUSED;

    if (gone || e->type == TIER_EVENT_DECLINE || is_hub(run, e->child)) {
        tier_secure_leave(run->secure->sum, name);
    } else if (e->type == TIER_EVENT_JOIN) {
        tier_secure_expect(run->secure->sum, name);
        tier_secure_joined(run->secure->sum, name);
        ask_for_turn(run);
    }
}

enum tier_status hub_secure_offered(struct hub_run *run, uint32_t child,
                                    const struct tier_update_header *h, struct tier_err *err) {
    bool hub = is_hub(run, child);
    enum tier_encoding right = hub ? TIER_ENC_SUM : tier_task_masked(&run->plan);

    if (!run->secure)
        return TIER_OK;
    if (h->encoding != right)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has secure.sums: an update of encoding %s was offered by a %s; "
                         "%s would be right",
                         tier_encoding_text(h->encoding), hub ? "hub" : "spoke",
                         tier_encoding_text(right));
    if (hub)
        return TIER_OK;
    if (!tier_secure_takes(run->secure->sum, run->children[child].name))
        return tier_fail(err, TIER_EPOLICY,
                         "secure sum: this child has no part in the round's sum: its masks could "
                         "not be taken off");
    const struct tier_layout_of of = {&run->plan, run->classes, run->spots};
    return tier_layout_check(&of, h->round, h->metrics, err);
}

void hub_secure_said(struct hub_run *run, const char *child, uint64_t round,
                     const struct tier_secure_body *body) {
    struct tier_err err = {0};

    if (run->state != HUB_RUN_OPEN || !run->secure || round != run->round.number) {
        hub_fault(run->hub, child); /* of a round that is over, by a child that has not heard */
        return;
    }
    if (tier_secure_heard(run->secure->sum, child, body->step))
        hub_fault(run->hub, child); /* after a loss of the stream, and no oftener */
    look_around(run);
    if (tier_secure_said(run->secure->sum, child, body->step, body->data, body->bytes, &err) ==
        TIER_OK) {
        struct hub_child *c = find_child(run, child);
        if (run->plan.secure.pseudonyms && c)
            note_name(run, c, tier_secure_called(run->secure->sum, child));
        return;
    }
    tier_log_warn("run %.12s round %" PRIu64 ": %s: step '%s': %s", run->hex, round, child,
                  tier_mask_step_text(body->step), err.text);
    if (err.status != TIER_ELATE)
        hub_audit(run->hub, "secure.refused", "h:run", &run->id, "u:round", round, "s:child", child,
                  "s:step", tier_mask_step_text(body->step), "s:reason", err.text);
    hub_fault(run->hub, child);
    ask_for_turn(run);
}

/* ---- folding ---- */

struct hub_secure_fold {
    struct tier_secure_fold fold; /* of the run's plan: runs outlive the worker */
    struct tier_mask_term *terms;
    struct tier_hash *masked;
};

struct hub_secure_fold *hub_secure_fold_new(struct hub_run *run) {
    const struct tier_secure *sum = run->secure->sum;
    struct hub_secure_fold *f;

    if (tier_secure_state(sum, NULL) != TIER_SECURE_KNOWN) {
        run->round.state = TIER_ROUND_UNMASKING; /* the journal knows more than it has kept */
        hub_secure_unmask(run);
        return NULL;
    }
    f = need(calloc(1, sizeof *f));
    f->fold.plan = &run->plan;
    const struct tier_mask_term *terms = tier_secure_terms(sum, &f->fold.term_count);
    f->terms = need(calloc(f->fold.term_count + 1, sizeof *f->terms));
    if (f->fold.term_count)
        memcpy(f->terms, terms, f->fold.term_count * sizeof *terms);
    f->masked = need(calloc(run->child_count + 1, sizeof *f->masked));
    for (uint32_t i = 0; i < run->child_count; i++)
        if (tier_secure_came(sum, run->children[i].name))
            f->masked[f->fold.masked_count++] = tier_round_child(&run->round, i)->update;
    f->fold.terms = f->terms;
    f->fold.masked = f->masked;
    return f;
}

const struct tier_secure_fold *hub_secure_fold_of(const struct hub_secure_fold *f) {
    return &f->fold;
}

void hub_secure_fold_free(struct hub_secure_fold *f) {
    if (!f)
        return;
    tier_mask_terms_free(f->terms, f->fold.term_count);
    free(f->masked);
    free(f);
}
