/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan, from its coming to its answer: the policy decides first, then the graph is fetched, and
 * only with the table open under the plan's contract is it accepted. It is journalled before it is
 * answered, so that the answer is the same after a restart.
 */
#include "spoke/augment.h"
#include "spoke/budget.h"
#include "spoke/run_private.h"
#include "spoke/secure.h"
#include "spoke/statistics.h"
#include "spoke/train.h"
#include "tier/budget.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/share.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

void spoke_say_without_folders(const char *reason, char *out, size_t size) {
    size_t n = 0, word = 0;

    for (const char *p = reason; *p && n + 1 < size; p++) {
        if (*p == '/') {
            n = word;
            continue;
        }
        out[n++] = *p;
        if (strchr(" '\"(:=,;)", *p) != NULL)
            word = n;
    }
    out[n] = '\0';
}

static void answer(struct spoke_run *run, bool accepted, const char *reason) {
    struct tier_from_child m = {.type = TIER_FROM_ANSWER, .run = run->id, .accepted = accepted};
    spoke_say_without_folders(reason, m.reason, sizeof m.reason);
    tier_link_send(run->spoke->link, &m);
}

void spoke_run_decline(struct spoke_run *run, const char *reason) {
    tier_log_warn("run %.12s declined: %s", run->hex, reason);
    spoke_audit(run->spoke, "plan.declined", "h:run", &run->id, "s:reason", reason);
    run->state = SPOKE_RUN_DECLINED;
    spoke_budget_end(run);
    spoke_run_journal(run);
    spoke_run_show(run);
    answer(run, false, reason);
}

/* The graph, and what of it travels and what stays. */
enum tier_status spoke_run_graph(struct spoke_run *run, struct tier_err *err) {
    struct tier_hash graph_hash;
    enum tier_status st = TIER_OK;

    tier_hash_parse(run->plan.model_sha256, &graph_hash);
    char *path = tier_content_path(run->spoke->home.models_dir, &graph_hash, TIER_CONTENT_GRAPH);
    if (!run->graph)
        TIER_TRY_OUT(tier_graph_open(path, &run->graph, err));
    if (!run->kept)
        TIER_TRY_OUT(tier_share_kept(&run->plan, run->graph, &run->kept, err));
    if (!run->manifest)
        TIER_TRY_OUT(tier_task_manifest(&run->plan, run->graph, &run->manifest, err));
out:
    free(path);
    return st;
}

/* Where the hospital's own trainer has the data, its configuration says which. */
static enum tier_status prepare_for_trainer(struct spoke_run *run, struct tier_err *err) {
    const char *contract = run->spoke->config->spoke.trainer_contract;

    if (strcmp(contract, run->plan.contract) != 0)
        return tier_fail(err, TIER_EPOLICY,
                         "the plan wants data '%s', this site's trainer has '%s'",
                         run->plan.contract, contract);
    TIER_TRY(spoke_budget_afford(run, err));
    return spoke_trainer_takes(&run->plan, err);
}

/* With the graph here: everything a round needs but its base model. */
static enum tier_status prepare(struct spoke_run *run, struct tier_err *err) {
    struct spoke *spoke = run->spoke;
    enum tier_status st = TIER_OK;

    if (run->data)
        return TIER_OK;
    TIER_TRY(spoke_run_graph(run, err));
    if (spoke->trainer && tier_statistics_on(&run->plan))
        return tier_fail(err, TIER_EPOLICY,
                         "the plan counts columns, and this site's data is its trainer's");
    if (spoke->trainer)
        return prepare_for_trainer(run, err);
    TIER_TRY(spoke_run_open_data(run, &run->data, err));
    if (!spoke_data_schema(run->data)->name ||
        strcmp(spoke_data_schema(run->data)->name, run->plan.contract) != 0)
        st = tier_fail(err, TIER_EPOLICY, "the plan wants data '%s', this site holds '%s'",
                       run->plan.contract,
                       spoke_data_schema(run->data)->name ? spoke_data_schema(run->data)->name
                                                          : "without a name");
    else if (tier_statistics_on(&run->plan))
        st = spoke_statistics_check(&run->plan, spoke_data_schema(run->data), err);
    else if (spoke_data_seen_features(run->data) != tier_graph_features(run->graph))
        st = tier_fail(err, TIER_EMODEL, "the model takes %" PRIu64 " features, the %s %zu",
                       tier_graph_features(run->graph),
                       spoke_data_patch(run->data) ? "plan's windows have" : "schema gives",
                       spoke_data_seen_features(run->data));
    if (st == TIER_OK && !tier_statistics_on(&run->plan)) {
        struct spoke_shape shape = spoke_data_seen(run->data);
        struct spoke_recipe recipe;
        spoke_round_recipe(&run->plan, 1, &recipe);
        st = spoke_augment_check(&recipe.augment, &shape, err);
    }
    if (st == TIER_OK)
        st = spoke_budget_afford(run, err);
    if (st == TIER_OK) {
        spoke_audit(spoke, "data.opened", "h:run", &run->id, "s:contract", run->plan.contract,
                    "s:purpose", run->plan.purpose, "s:use",
                    tier_plan_purpose_text(run->plan.governance.purpose), "u:train_rows",
                    (uint64_t)spoke_data_rows(run->data, SPOKE_TRAIN), "u:test_rows",
                    (uint64_t)spoke_data_rows(run->data, SPOKE_TEST), "u:withheld_rows",
                    (uint64_t)spoke_data_withheld(run->data));
    } else {
        spoke_data_free(run->data);
        run->data = NULL;
    }
    return st;
}

void spoke_run_graph_fetched(void *arg, enum tier_status st, const char *text) {
    struct spoke_run *run = arg;
    struct tier_err err = {0};
    bool fetched = st == TIER_OK;

    if (run->state != SPOKE_RUN_OPEN && run->state != SPOKE_RUN_PENDING)
        return;
    if (!fetched)
        tier_fail(&err, st, "%s", text);
    else
        st = run->state == SPOKE_RUN_OPEN ? prepare(run, &err) : spoke_run_graph(run, &err);
    /* A person makes room, or mends the consents, and the plan is not to blame. */
    if (st == TIER_EFULL || (fetched && st == TIER_EUNAVAILABLE)) {
        tier_log_error("run %.12s: %s; trying again in %d s", run->hex, err.text,
                       SPOKE_RETRY_MS / 1000);
        tier_timer_set(run->again, SPOKE_RETRY_MS);
    } else if (st != TIER_OK) {
        spoke_run_decline(run, err.text);
    } else if (run->state == SPOKE_RUN_PENDING) {
        spoke_run_consider(run);
    } else {
        answer(run, true, "");
    }
}

static void want_graph(void *arg) {
    struct spoke_run *run = arg;
    struct tier_hash graph;

    if (run->state != SPOKE_RUN_OPEN && run->state != SPOKE_RUN_PENDING)
        return;
    tier_hash_parse(run->plan.model_sha256, &graph);
    tier_link_fetch(run->spoke->link, &graph, TIER_CONTENT_GRAPH, run->plan.model_bytes,
                    spoke_run_graph_fetched, run);
}

void spoke_run_want_graph(struct spoke_run *run) {
    want_graph(run);
}

void spoke_run_accept(struct spoke_run *run, const char *how) {
    run->state = SPOKE_RUN_OPEN;
    run->why[0] = '\0';
    spoke_run_journal(run);
    spoke_run_show(run);
    spoke_audit(run->spoke, "plan.accepted", "h:run", &run->id, "s:name", run->plan.name,
                "s:purpose", run->plan.purpose, "s:use",
                tier_plan_purpose_text(run->plan.governance.purpose), "s:author",
                *run->author ? run->author : NULL, "s:by", how, "h:plan", &run->plan_hash);
    tier_log_info("run %.12s: '%s' accepted: %s", run->hex, run->plan.name, how);
    want_graph(run);
}

struct spoke_run *spoke_run_new(struct spoke *spoke, const struct tier_hash *id) {
    struct spoke_run *run = need(calloc(1, sizeof *run));
    run->spoke = spoke;
    run->id = *id;
    tier_hash_hex(id, run->hex);
    run->again = tier_timer_new(spoke->loop, want_graph, run);
    run->follow_again = tier_timer_new(spoke->loop, spoke_run_follow_again, run);
    run->follow = (struct tier_follow){
        .models_dir = spoke->home.models_dir, .done = spoke_run_base_fetched, .arg = run};
    run->next = spoke->runs;
    spoke->runs = run;
    return run;
}

void spoke_run_free(struct spoke_run *run) {
    tier_timer_free(run->again);
    tier_timer_free(run->follow_again);
    spoke_secure_over(run);
    for (size_t i = 0; i < KERN_GROUP_RANKS_MAX; i++)
        spoke_net_free(run->nets[i]);
    spoke_data_free(run->data);
    tier_manifest_free(run->manifest);
    tier_manifest_free(run->kept);
    tier_graph_free(run->graph);
    free(run);
}

/* Room for one more run: the oldest of those that are over is forgotten where there are many. */
static enum tier_status make_room(struct spoke *spoke, struct tier_err *err) {
    struct spoke_run **oldest = NULL;
    size_t open = 0, all = 0;

    for (struct spoke_run **at = &spoke->runs; *at; at = &(*at)->next, all++) {
        if ((*at)->state == SPOKE_RUN_OPEN || (*at)->state == SPOKE_RUN_PENDING)
            open++;
        else if (!(*at)->training && (*at)->follow.step == TIER_FOLLOW_IDLE)
            oldest = at; /* the newest come first */
    }
    if (open >= TIER_RUNS_OPEN_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "%zu runs are open here, as many as may be: end one of them first", open);
    if (all < TIER_RUNS_KEPT_MAX || !oldest)
        return TIER_OK;
    struct spoke_run *run = *oldest;
    if (tier_journal_run_delete(spoke->home.journal, run->hex, err) != TIER_OK) {
        spoke_stop_on(spoke, err);
        return err->status;
    }
    *oldest = run->next;
    spoke_run_free(run);
    return TIER_OK;
}

/* A plan that is none, or one too many, is answered and leaves nothing behind. */
static void refuse_plan(struct spoke *spoke, const struct tier_hash *id, const char *reason) {
    struct tier_from_child m = {.type = TIER_FROM_ANSWER, .run = *id};
    char hex[TIER_HASH_HEX];

    spoke_say_without_folders(reason, m.reason, sizeof m.reason);
    tier_log_warn("run %.12s declined: %s", tier_hash_hex(id, hex), reason);
    spoke_audit(spoke, "plan.declined", "h:run", id, "s:reason", reason);
    tier_link_send(spoke->link, &m);
    tier_link_fault(spoke->link);
}

void spoke_challenge_came(struct spoke_run *run, const struct tier_to_child *m) {
    struct spoke *spoke = run->spoke;
    struct tier_from_child reply;

    tier_link_fault(spoke->link); /* once a stream, and no oftener */
    if (*m->reason) {
        tier_log_error("run %.12s: parent %s does not admit this node: %s", run->hex,
                       spoke->config->parent_name, m->reason);
        spoke_audit(spoke, "attest.declined", "h:run", &run->id, "s:reason", m->reason);
        return;
    }
    if (run->state != SPOKE_RUN_OPEN || run->plan.governance.attest != TIER_PLAN_ATTEST_TPM)
        return;
    tier_home_attest(&spoke->home, m, &reply);
    spoke_audit(spoke, "attest.answered", "h:run", &run->id, "h:nonce", &m->nonce, "s:reason",
                reply.reason);
    tier_link_send(spoke->link, &reply);
}

void spoke_plan_came(struct spoke *spoke, const struct tier_to_child *m) {
    struct spoke_run *run = spoke_run_find(spoke, &m->run);
    struct tier_hash hash;
    struct tier_err err = {0};

    tier_hash_data(m->plan, m->plan_bytes, &hash);
    if (!run) {
        struct tier_journal_run row = {.created_ms = tier_wall_ms(), .state = SPOKE_RUN_PENDING};
        struct tier_plan plan;
        if (tier_plan_parse(m->plan, m->plan_bytes, &plan, &err) != TIER_OK ||
            make_room(spoke, &err) != TIER_OK) {
            refuse_plan(spoke, &m->run, err.text);
            return;
        }
        run = spoke_run_new(spoke, &m->run);
        run->plan = plan;
        run->plan_hash = hash;
        memcpy(row.run, run->hex, sizeof row.run);
        run->state = SPOKE_RUN_PENDING;
        if (tier_journal_run_add(spoke->home.journal, &row, m->plan, m->plan_bytes,
                                 m->signature_bytes ? (const char *)m->signature : "",
                                 m->signature_bytes, &err) != TIER_OK) {
            spoke_stop_on(spoke, &err);
            return;
        }
        if (spoke_run_admit(run, m->signature, m->signature_bytes, row.created_ms, &err) !=
                TIER_OK ||
            spoke_secure_admit(spoke, &run->plan, &err) != TIER_OK) {
            spoke_run_decline(run, err.text);
            return;
        }
    }
    tier_link_fault(spoke->link); /* a plan is work, and is said once a stream */
    if (run->state == SPOKE_RUN_DECLINED) {
        spoke_run_leave_round(run); /* what the parent did not hear */
        answer(run, false, "declined before");
        return;
    }
    if ((run->state == SPOKE_RUN_OPEN || run->state == SPOKE_RUN_PENDING) &&
        !tier_hash_equal(&run->plan_hash, &hash)) {
        char text[128];
        snprintf(text, sizeof text, "another plan for run %.12s, which goes on by its first",
                 run->hex);
        spoke_not_heeded(spoke, text);
        return;
    }
    if (run->state != SPOKE_RUN_PENDING)
        want_graph(run);
    else if (*spoke->config->spoke.policy_file)
        spoke_run_consider(run);
    else if (spoke->config->spoke.accept == TIER_ACCEPT_NONE)
        spoke_run_decline(run, "this site's policy accepts no plans (policy.accept: none)");
    else
        spoke_run_accept(run, "policy.accept: all");
}
