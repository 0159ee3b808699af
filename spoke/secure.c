/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/secure.h"

#include "spoke/run_private.h"
#include "tier/log.h"
#include "tier/masked.h"
#include "tier/narrow.h"
#include "tier/pseudonym.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spoke_secure {
    struct tier_mask_identity identity;
    struct tier_pseudonym own; /* these two in its place, with secure.pseudonyms */
    struct tier_mask_pseudonym pseudonym;
    struct tier_mask_trust trust;
    struct tier_mask_child *child;     /* NULL: out of the round, or not in it yet */
    struct tier_timer *again;          /* asks for the pseudonym anew */
    uint64_t round;                    /* of which the rest is */
    char why[TIER_REASON_LEN_MAX + 1]; /* "": it is in */
    bool masking;                      /* a job is on the worker */
    unsigned heard;                    /* a bit for each step */
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

bool spoke_secure_on(const struct tier_plan *plan) {
    return plan->secure.sums != TIER_PLAN_SECURE_NONE;
}

enum tier_status spoke_secure_admit(const struct spoke *spoke, const struct tier_plan *plan,
                                    struct tier_err *err) {
    uint64_t least = spoke->config->spoke.cohort_min;

    if (least > 0 && !spoke_secure_on(plan))
        return tier_fail(err, TIER_EPOLICY,
                         "this site sends updates only into secure sums of at least %" PRIu64
                         " sites (policy.cohort_min), and the plan has secure.sums: none",
                         least);
    if (least > 0 && plan->secure.cohort_min < least)
        return tier_fail(err, TIER_EPOLICY,
                         "this site sends updates only into secure sums of at least %" PRIu64
                         " sites (policy.cohort_min), and the plan has secure.cohort_min: %" PRIu64,
                         least, plan->secure.cohort_min);
    if (spoke_secure_on(plan) && !tier_home_tls(&spoke->home))
        return tier_fail(err, TIER_EPOLICY,
                         "the plan has secure.sums and TLS is off here: who else takes part is "
                         "known by certificates alone");
    return TIER_OK;
}

/* ---- what a restart must know ---- */

#define KEY_BYTES (TIER_HASH_HEX + 8)

static void answered_key(const struct spoke_run *run, char key[KEY_BYTES]) {
    snprintf(key, KEY_BYTES, "secure/%s", run->hex);
}

/* What this site has said in the run's sums. */
struct answered {
    uint64_t list, revealed; /* the last round in which a list was answered, a share revealed */
    struct tier_hash base;   /* of the round `revealed`; 0: none */
};

static struct answered answered_in(struct spoke_run *run) {
    struct tier_journal_blob value = {0};
    struct answered a = {0};
    char key[KEY_BYTES];

    answered_key(run, key);
    if (tier_journal_kv_get(run->spoke->home.journal, key, &value, NULL) == TIER_OK &&
        value.bytes == sizeof a)
        memcpy(&a, value.data, sizeof a);
    tier_journal_blob_release(&value);
    return a;
}

void spoke_secure_forget(struct spoke_run *run) {
    struct tier_err err = {0};
    char key[KEY_BYTES];

    answered_key(run, key);
    if (tier_journal_kv_delete(run->spoke->home.journal, key, &err) != TIER_OK)
        spoke_stop_on(run->spoke, &err);
    tier_pseudonym_forget(run->spoke->config->data_dir, &run->id, run->spoke->config->parent_name);
}

/* Before the step is answered. Waits for the disk: false stops the node, and nothing is said. */
static bool note_answer(struct spoke_run *run, enum tier_mask_step step) {
    struct answered a = answered_in(run);
    struct tier_err err = {0};
    char key[KEY_BYTES];

    if (step == TIER_MASK_LIST) {
        a.list = run->secure->round;
    } else if (step == TIER_MASK_SIGNATURES) {
        a.revealed = run->secure->round;
        a.base = run->base_model;
    } else {
        return true;
    }
    answered_key(run, key);
    if (tier_journal_kv_put(run->spoke->home.journal, key, &a, sizeof a, &err) == TIER_OK)
        return true;
    spoke_stop_on(run->spoke, &err);
    return false;
}

/* ---- life cycle ---- */

static void wipe(struct spoke_secure *s) {
    tier_mask_child_free(s->child);
    s->child = NULL;
}

void spoke_secure_over(struct spoke_run *run) {
    if (!run->secure)
        return;
    wipe(run->secure);
    tier_pseudonym_release(&run->secure->own);
    tier_timer_free(run->secure->again);
    free(run->secure);
    run->secure = NULL;
}

static void leave(struct spoke_run *run, const char *why) {
    struct spoke_secure *s = run->secure;

    wipe(s);
    if (!*s->why)
        snprintf(s->why, sizeof s->why, "%s", why);
}

/* Whom to believe, as of now. */
static void look_around(struct spoke_run *run) {
    struct spoke_secure *s = run->secure;

    s->identity.now_s = s->pseudonym.now_s = tier_wall_ms() / 1000;
    s->identity.revoked = s->pseudonym.revoked = run->spoke->home.revoked;
    s->pseudonym.ca = run->spoke->home.node.ca;
}

static struct tier_mask_round round_of(const struct spoke_run *run) {
    return (struct tier_mask_round){.run = run->id,
                                    .round = run->round,
                                    .cohort_min = (unsigned)run->plan.secure.cohort_min,
                                    .threshold = run->plan.secure.threshold};
}

static void get_name(void *arg);

static void begin(struct spoke_run *run) {
    struct spoke *spoke = run->spoke;
    struct spoke_secure *s = need(calloc(1, sizeof *s));
    const struct tier_mask_round round = round_of(run);
    const struct answered said = answered_in(run);
    struct tier_err err = {0};

    spoke_secure_over(run);
    run->secure = s;
    s->round = run->round;
    s->again = tier_timer_new(spoke->loop, get_name, run);
    s->identity = (struct tier_mask_identity){.node = &spoke->home.node};
    look_around(run);
    s->trust = tier_mask_trust_of(&s->identity);
    if (spoke_secure_admit(spoke, &run->plan, &err) != TIER_OK)
        leave(run, err.text);
    else if (said.list >= run->round)
        leave(run, "this site was started anew in the round: its share of the masks, which was in "
                   "memory alone, is gone");
    else if (said.revealed && tier_hash_equal(&said.base, &run->base_model))
        leave(run, "a sum of updates of this model was unmasked in an earlier round: a second one, "
                   "of almost the same sites, would show who makes the difference");
    else if (!run->plan.secure.pseudonyms &&
             tier_mask_child_new(&round, spoke->config->name, &s->trust, &s->child, &err) !=
                 TIER_OK)
        leave(run, err.text);
}

static void send(struct spoke_run *run, enum tier_mask_step step, const uint8_t *body,
                 size_t bytes) {
    const struct tier_from_child m = {.type = TIER_FROM_SECURE,
                                      .run = run->id,
                                      .round = run->round,
                                      .secure = {step, body, bytes}};
    tier_link_send(run->spoke->link, &m);
}

static void advertise(struct spoke_run *run) {
    size_t bytes;
    const uint8_t *advert = tier_mask_child_advert(run->secure->child, &bytes);

    send(run, TIER_MASK_ADVERT, advert, bytes);
}

/* Its masks may be taken off by others: it need only not be waited for. */
static void say_absent(struct spoke_run *run) {
    struct tier_hash id;
    const char *why = run->secure && *run->secure->why
                          ? run->secure->why
                          : "this site knows nothing more of the round's masks";

    if (spoke_run_sealed(run, run->round, &id))
        tier_log_warn("run %.12s round %" PRIu64 ": the masked update is left to the others: %s",
                      run->hex, run->round, why);
    spoke_run_decline_round(run, why);
}

/* ---- under a pseudonym ---- */

struct naming {
    struct spoke *spoke;
    struct tier_hash run; /* which may have ended by then */
};

/* The round's keys, under the pseudonym that has come. */
static enum tier_status make_child(struct spoke_run *run, struct tier_err *err) {
    const struct tier_config *config = run->spoke->config;
    const struct tier_mask_round round = round_of(run);
    struct spoke_secure *s = run->secure;

    look_around(run);
    tier_pseudonym_release(&s->own);
    TIER_TRY(tier_pseudonym_load(config->data_dir, &run->spoke->home.node, &run->id,
                                 config->parent_name, s->pseudonym.now_s, &s->own, err));
    s->pseudonym.own = &s->own;
    s->pseudonym.run = run->id;
    s->pseudonym.parent = config->parent_name;
    s->trust = tier_mask_trust_of_pseudonym(&s->pseudonym);
    return tier_mask_child_new(&round, s->own.name, &s->trust, &s->child, err);
}

static bool is_final(enum tier_status st) {
    return st == TIER_EPOLICY || st == TIER_EIDENTITY;
}

/* Whether this round's keys wait for a pseudonym. */
static bool is_nameless(const struct spoke_run *run) {
    const struct spoke_secure *s = run->secure;

    return s && s->round == run->round && run->state == SPOKE_RUN_OPEN && !run->committed &&
           !s->child && !*s->why && run->plan.secure.pseudonyms;
}

static void named(void *arg, enum tier_status st, const char *text) {
    struct naming *n = arg;
    struct spoke *spoke = n->spoke;
    struct spoke_run *run = spoke_run_find(spoke, &n->run);
    struct tier_err err = {0};

    free(n);
    if (!run)
        return;
    run->names_itself = false;
    if (!is_nameless(run) || !spoke->worker) /* no worker: the node is being closed */
        return;
    if (!is_final(st)) { /* one that is past half of its life is good still */
        enum tier_status made = make_child(run, &err);
        text = st == TIER_OK ? err.text : text;
        st = made == TIER_OK || st == TIER_OK ? made : st;
    }
    if (st == TIER_OK) {
        advertise(run);
    } else if (is_final(st)) {
        tier_log_error("run %.12s: no pseudonym: %s", run->hex, text);
        leave(run, text);
        say_absent(run);
    } else {
        tier_log_warn("run %.12s: no pseudonym yet: %s; asking again in %d s", run->hex, text,
                      SPOKE_RETRY_MS / 1000);
        tier_timer_set(run->secure->again, SPOKE_RETRY_MS);
    }
}

static void get_name(void *arg) {
    struct spoke_run *run = arg;

    if (!is_nameless(run) || run->names_itself)
        return;
    struct naming *n = need(malloc(sizeof *n));
    *n = (struct naming){run->spoke, run->id};
    run->names_itself = true;
    tier_pseudonym_get(run->spoke->link, &run->spoke->home, &run->id, named, n);
}

void spoke_secure_round(struct spoke_run *run) {
    if (!spoke_secure_on(&run->plan) || run->state != SPOKE_RUN_OPEN || run->committed)
        return;
    if (!run->secure || run->secure->round != run->round)
        begin(run);
    if (run->secure->child)
        advertise(run);
    else
        get_name(run);
}

/* ---- masking ---- */

struct masking {
    struct spoke_run *run;
    uint64_t round;
    struct tier_hash visible, id;
    struct tier_mask_term *terms;
    size_t term_count;
    enum tier_status st;
    struct tier_err err;
};

static void masking_free(void *arg) {
    struct masking *job = arg;
    tier_mask_terms_free(job->terms, job->term_count);
    free(job);
}

static void mask_work(void *arg) {
    struct masking *job = arg;
    job->st = tier_masked_seal(job->run->spoke->home.spool, &job->visible, job->run->manifest,
                               tier_narrow_shift(&job->run->plan), job->terms, job->term_count,
                               &job->id, &job->err);
    tier_mask_terms_free(job->terms, job->term_count);
    job->terms = NULL;
}

static enum tier_status journal_masked(struct spoke_run *run, const struct masking *job,
                                       struct tier_err *err) {
    enum tier_status st = spoke_run_note_update(run, job->round, &job->id, NULL, err);

    if (st == TIER_OK)
        spoke_audit(run->spoke, "update.masked", "h:run", &run->id, "u:round", job->round,
                    "h:update", &job->visible, "h:masked", &job->id);
    return st;
}

static void mask_done(void *arg) {
    struct masking *job = arg;
    struct spoke_run *run = job->run;
    struct tier_err err = {0};

    run->training = false;
    bool current = run->state == SPOKE_RUN_OPEN && run->round == job->round && !run->committed &&
                   run->secure && run->secure->round == job->round;
    if (current)
        run->secure->masking = false;
    if (!current && job->st == TIER_OK)
        tier_spool_delete(run->spoke->home.spool, &job->id, NULL);
    else if (current && job->st != TIER_OK)
        leave(run, job->err.text); /* these masks serve no second update */
    else if (current && journal_masked(run, job, &err) != TIER_OK)
        spoke_stop_on(run->spoke, &err);
    spoke_run_job_over(run);
    masking_free(job);
}

static void mask(struct spoke_run *run, const struct tier_hash *visible) {
    if (!run->spoke->worker) /* it is being closed */
        return;
    struct masking *job = need(calloc(1, sizeof *job));
    struct tier_err err = {0};

    *job = (struct masking){.run = run, .round = run->round, .visible = *visible};
    if (tier_mask_child_terms(run->secure->child, &job->terms, &job->term_count, &err) != TIER_OK) {
        leave(run, err.text);
        free(job);
        return;
    }
    run->secure->masking = true;
    run->training = true;
    run->training_base = run->base_model;
    spoke_run_progress(run, "masking", 0);
    tier_worker_submit(run->spoke->worker, mask_work, mask_done, masking_free, job);
}

enum spoke_secure_next spoke_secure_next(struct spoke_run *run, struct tier_hash *id_out,
                                         const char **why_out) {
    struct spoke_secure *s = run->secure;
    struct tier_hash visible;

    *why_out = "";
    if (spoke_run_sealed(run, run->round, id_out))
        return SPOKE_SECURE_OFFER;
    if (!s || s->round != run->round)
        return SPOKE_SECURE_WAIT; /* the round was not announced since the start */
    bool trained = spoke_run_sealed_visible(run, run->round, &visible);
    if (trained && !s->masking && spoke_run_discards(run, &visible))
        trained = false;
    if (trained && s->child && !s->masking && tier_mask_child_ready(s->child))
        mask(run, &visible);
    *why_out = s->why;
    if (*s->why)
        return SPOKE_SECURE_OUT;
    return trained ? SPOKE_SECURE_WAIT : SPOKE_SECURE_TRAIN;
}

/* ---- the parent's steps ---- */

void spoke_secure_came(struct spoke_run *run, const struct tier_to_child *m) {
    struct spoke_secure *s = run->secure;
    struct tier_err err = {0};
    uint8_t *answer = NULL;
    size_t bytes = 0;

    if (run->state != SPOKE_RUN_OPEN || m->round != run->round || run->committed) {
        spoke_not_heeded(run->spoke, "a step of a secure sum of a round that is not open here");
        return;
    }
    if (!s || s->round != run->round || !s->child) {
        say_absent(run);
        tier_link_fault(run->spoke->link);
        return;
    }
    look_around(run);
    if (s->heard >> m->secure.step & 1) /* after a loss of the stream, and no oftener */
        tier_link_fault(run->spoke->link);
    s->heard |= 1u << m->secure.step;
    if (!note_answer(run, m->secure.step))
        return;
    if (tier_mask_child_take(s->child, m->secure.step, m->secure.data, m->secure.bytes, &answer,
                             &bytes, &err) != TIER_OK) {
        tier_log_error("run %.12s round %" PRIu64 ": step '%s': %s", run->hex, run->round,
                       tier_mask_step_text(m->secure.step), err.text);
        spoke_audit(run->spoke, "secure.refused", "h:run", &run->id, "u:round", run->round,
                    "s:step", tier_mask_step_text(m->secure.step), "s:reason", err.text);
        leave(run, err.text);
        say_absent(run);
        tier_link_fault(run->spoke->link);
        return;
    }
    spoke_audit(run->spoke, "secure.step", "h:run", &run->id, "u:round", run->round, "s:step",
                tier_mask_step_text(m->secure.step));
    if (answer)
        send(run, m->secure.step + 1, answer, bytes);
    free(answer);
    struct tier_hash visible; /* what is sealed already is masked now */
    if (m->secure.step == TIER_MASK_DELIVER && spoke_run_sealed_visible(run, run->round, &visible))
        spoke_run_train(run);
}
