/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop hears the leader; the worker prepares and trains, one order after the other. What a plan
 * needs (graph, table, nets) is the worker's and stays for the next round of the same plan. The
 * leader is believed as far as the plan goes, within the bounds of any plan: a member trains on its
 * own table, and all that leaves it are sums of gradients, which go to its leader alone.
 */
#include "spoke/member.h"

#include "spoke/eval.h"
#include "spoke/patch.h"
#include "spoke/span.h"
#include "spoke/spoke.h"
#include "tier/log.h"
#include "tier/rpc.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN_MS 500

/* What the worker has of one plan. */
struct task {
    struct tier_hash plan_hash;
    bool set;
    struct tier_plan plan;
    struct tier_graph *graph;
    struct spoke_data *data;
    struct tier_hash data_hash;
    struct spoke_net *nets[KERN_GROUP_RANKS_MAX];
    size_t ranks; /* the nets are for */
};

/* One order, handed between loop and worker. */
struct work {
    struct spoke_member *member;
    struct tier_team_message order; /* JOB, with its plan */
    uint8_t *graph;                 /* its bytes where they came; NULL: not yet */
    uint64_t graph_bytes;
    struct kern_group_id id;
    bool want_graph;
    uint64_t graph_size; /* by the plan */
    uint64_t elements;
    struct tier_hash hash;
    enum tier_status st;
    struct tier_err err;
};

struct spoke_member {
    const struct tier_config *config;
    struct tier_loop *loop;
    struct tier_worker *worker;
    struct spoke_team team;
    struct spoke_bond bond;
    struct task task; /* the worker's */
    struct tier_node node;
    struct tier_rpc_tls tls;
    struct tier_rpc_keepalive keepalive;
    struct tier_hash build;
    struct tier_rpc_channel *channel;
    struct tier_rpc_call *call;
    struct tier_timer *again, *stuck;
    uint64_t stuck_join;
    bool welcomed, closing;
    char last[512];    /* reason of the last loss: said once, not at every try */
    uint64_t job;      /* the order under way; 0: none */
    struct work *work; /* that order between Ready and Go, when no worker has it */
    uint64_t group;    /* whose parts are expected */
    uint8_t *graph;    /* of it, as far as it came */
    uint64_t graph_at, graph_size;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static void say(struct spoke_member *m, const struct tier_team_message *message) {
    struct tier_bytes b = tier_team_bytes(message);
    if (m->call && !tier_rpc_send(m->call, b.data, b.n))
        tier_rpc_cancel(m->call);
    free(b.data);
}

static void work_free(void *arg) {
    struct work *w = arg;
    if (!w)
        return;
    tier_team_release(&w->order);
    free(w->graph);
    free(w);
}

/* ---- the worker ---- */

static void drop_nets(struct task *t) {
    for (size_t i = 0; i < KERN_GROUP_RANKS_MAX; i++) {
        spoke_net_free(t->nets[i]);
        t->nets[i] = NULL;
    }
}

static void drop_task(struct task *t) {
    drop_nets(t);
    spoke_data_free(t->data);
    tier_graph_free(t->graph);
    memset(t, 0, sizeof *t);
}

static enum tier_status take_plan(struct task *t, struct work *w) {
    struct tier_hash hash;

    tier_hash_data(w->order.data, w->order.data_bytes, &hash);
    if (!t->set || !tier_hash_equal(&hash, &t->plan_hash)) {
        drop_task(t);
        TIER_TRY(tier_plan_parse(w->order.data, w->order.data_bytes, &t->plan, &w->err));
        t->plan_hash = hash;
        t->set = true;
    }
    return TIER_OK;
}

static enum tier_status take_graph(struct task *t, struct work *w) {
    struct tier_hash want, got;

    if (t->graph)
        return TIER_OK;
    w->want_graph = !w->graph;
    w->graph_size = t->plan.model_bytes;
    if (w->want_graph)
        return TIER_OK;
    tier_hash_data(w->graph, w->graph_bytes, &got);
    if (!tier_hash_parse(t->plan.model_sha256, &want) || !tier_hash_equal(&want, &got))
        return tier_fail(&w->err, TIER_EMODEL, "the graph that came is not the plan's");
    return tier_graph_parse(w->graph, w->graph_bytes, &t->graph, &w->err);
}

static enum tier_status take_data(struct task *t, struct work *w) {
    const struct tier_config_spoke *c = &w->member->config->spoke;
    struct spoke_data_options options = {.fold_set = t->plan.fold != 0,
                                         .fold = (uint32_t)t->plan.fold,
                                         .patch = spoke_patch_of(&t->plan),
                                         .spill_dir = w->member->config->data_dir};

    if (t->data)
        return TIER_OK;
    TIER_TRY(spoke_data_open(c->schema, c->csv, &options, &t->data, &w->err));
    spoke_team_data(t->data, &t->data_hash);
    return TIER_OK;
}

static enum tier_status make_nets(struct task *t, const struct spoke_member *m, size_t ranks,
                                  struct tier_err *err) {
    const struct spoke_objective objective = spoke_objective_for(&t->plan, t->data);

    TIER_TRY(
        spoke_team_nets(&m->team, t->graph, &objective, t->plan.batch, ranks, false, t->nets, err));
    enum tier_status st = spoke_round_freeze(&t->plan, t->graph, t->nets, m->team.count, err);
    if (st != TIER_OK)
        drop_nets(t);
    return st;
}

static enum tier_status prepare(struct work *w) {
    struct spoke_member *m = w->member;
    struct task *t = &m->task;
    size_t ranks = w->order.ranks;

    TIER_TRY(take_plan(t, w));
    TIER_TRY(take_graph(t, w));
    if (w->want_graph)
        return TIER_OK;
    TIER_TRY(take_data(t, w));
    if (m->team.count > ranks - w->order.first)
        return tier_fail(&w->err, TIER_EPROTO, "ranks for fewer devices than there are here");
    if (t->ranks != ranks)
        drop_nets(t);
    if (!t->nets[0])
        TIER_TRY(make_nets(t, m, ranks, &w->err));
    t->ranks = ranks;
    w->hash = t->data_hash;
    w->elements = spoke_net_elements(t->nets[0]);
    return TIER_OK;
}

static void prepare_work(void *arg) {
    struct work *w = arg;
    w->st = prepare(w);
}

static enum tier_status train(struct work *w) {
    struct spoke_member *m = w->member;
    struct task *t = &m->task;
    struct spoke_recipe recipe;
    float *arrays = NULL;
    enum tier_status st;

    spoke_round_recipe(&t->plan, w->order.round, &recipe);
    TIER_TRY_OUT(spoke_bond_join(&m->bond, &w->id, w->order.ranks, w->order.first, m->team.dev,
                                 m->team.count, &w->err));
    TIER_TRY_OUT(
        spoke_team_share(m->bond.group, m->team.dev, &recipe, w->elements, &arrays, &w->err));
    TIER_TRY_OUT(spoke_train_replicas(t->nets, m->team.count, m->bond.group, t->data, &recipe,
                                      w->order.seed, NULL, &w->err));
    TIER_TRY_OUT(spoke_team_model(t->nets[0], &w->hash, &w->err));
out:
    free(arrays);
    if (st != TIER_OK) {
        spoke_bond_break(&m->bond);
        spoke_bond_drop(&m->bond);
    }
    return st;
}

static void train_work(void *arg) {
    struct work *w = arg;
    w->st = train(w);
}

/* ---- an order ---- */

static void prepare_done(void *arg) {
    struct work *w = arg;
    struct spoke_member *m = w->member;

    if (w->order.job != m->job) { /* called off */
        work_free(w);
        return;
    }
    struct tier_team_message ready = {.type = TIER_TEAM_READY,
                                      .job = w->order.job,
                                      .want_graph = w->want_graph,
                                      .hash = w->hash,
                                      .elements = w->elements,
                                      .status = w->st};
    snprintf(ready.reason, sizeof ready.reason, "%s", w->st == TIER_OK ? "" : w->err.text);
    m->graph_size = w->want_graph ? w->graph_size : 0;
    m->graph_at = 0;
    m->work = w;
    say(m, &ready);
}

static void train_done(void *arg) {
    struct work *w = arg;
    struct spoke_member *m = w->member;

    if (w->order.job == m->job) {
        struct tier_team_message done = {
            .type = TIER_TEAM_DONE, .job = m->job, .status = w->st, .hash = w->hash};
        snprintf(done.reason, sizeof done.reason, "%s", w->st == TIER_OK ? "" : w->err.text);
        say(m, &done);
        if (w->st == TIER_OK)
            tier_log_info("order %" PRIu64 ": done", m->job);
        else
            tier_log_error("order %" PRIu64 ": %s", m->job, w->err.text);
        m->job = 0;
    }
    work_free(w);
}

static void on_stuck(void *arg) {
    struct spoke_member *m = arg;
    if (m->stuck_join && spoke_bond_joining(&m->bond) == m->stuck_join)
        spoke_bond_stuck();
}

/* The order under way is none any more; a worker that is at it is let go. */
static void call_off(struct spoke_member *m) {
    m->job = 0;
    work_free(m->work);
    m->work = NULL;
    free(m->graph);
    m->graph = NULL;
    spoke_bond_break(&m->bond);
    m->stuck_join = spoke_bond_joining(&m->bond);
    if (m->stuck_join)
        tier_timer_set(m->stuck, SPOKE_STUCK_MS);
}

static void on_job(struct spoke_member *m, struct tier_team_message *t) {
    if (m->job)
        call_off(m);
    struct work *w = need(calloc(1, sizeof *w));
    w->member = m;
    w->order = *t;
    t->data = NULL;
    m->job = t->job;
    tier_worker_submit(m->worker, prepare_work, prepare_done, work_free, w);
}

static bool on_graph(struct spoke_member *m, const struct tier_team_message *t) {
    struct work *w = m->work;

    if (!w || !m->graph_size || t->at != m->graph_at || t->data_bytes > m->graph_size - m->graph_at)
        return false;
    if (!m->graph)
        m->graph = malloc(m->graph_size);
    if (!m->graph)
        return false;
    memcpy(m->graph + m->graph_at, t->data, t->data_bytes);
    m->graph_at += t->data_bytes;
    if (m->graph_at < m->graph_size)
        return true;
    w->graph = m->graph;
    w->graph_bytes = m->graph_size;
    w->want_graph = false;
    m->graph = NULL;
    m->graph_size = 0;
    m->work = NULL;
    tier_worker_submit(m->worker, prepare_work, prepare_done, work_free, w);
    return true;
}

static bool send_part(void *owner, uint32_t to, const void *prefix, size_t prefix_bytes,
                      const void *bytes, size_t n, void (*done)(void *arg), void *arg) {
    struct spoke_member *m = owner;
    (void)to;
    if (!m->call) {
        done(arg);
        return false;
    }
    return tier_rpc_send_payload(m->call, prefix, prefix_bytes, bytes, n, done, arg);
}

static bool on_go(struct spoke_member *m, const struct tier_team_message *t) {
    struct work *w = m->work;

    if (!w || m->graph_size || w->st != TIER_OK)
        return false;
    if (!spoke_bond_holds(&m->bond, t->group))
        spoke_bond_new(&m->bond, spoke_span_new(m->loop, t->group, w->order.first, m->team.count,
                                                send_part, m));
    spoke_bond_came(&m->bond, NULL, w->elements);
    w->id = t->id;
    m->work = NULL;
    tier_worker_submit(m->worker, train_work, train_done, work_free, w);
    return true;
}

/* ---- the leader ---- */

static bool heed(struct spoke_member *m, struct tier_team_message *t) {
    bool current = m->job && t->job == m->job;

    if (t->type == TIER_TEAM_WELCOME) {
        tier_log_info("joined the team of %s", m->config->parent_name);
        m->welcomed = true;
        m->last[0] = 0;
        return true;
    }
    if (!m->welcomed)
        return false;
    switch (t->type) {
    case TIER_TEAM_JOB:
        on_job(m, t);
        return true;
    case TIER_TEAM_GRAPH:
        return !current || on_graph(m, t);
    case TIER_TEAM_GO:
        return !current || on_go(m, t);
    case TIER_TEAM_PART:
        return spoke_bond_came(&m->bond, t, 0);
    case TIER_TEAM_ABORT:
        if (current)
            tier_log_warn("order %" PRIu64 ": %s", m->job, t->reason);
        if (current)
            call_off(m);
        else
            spoke_bond_break(&m->bond); /* its own part was done, and the group is not used again */
        return true;
    default:
        return false;
    }
}

static void on_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct spoke_member *m = tier_rpc_user(call);
    struct tier_team_message t;
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(message);
    const uint8_t *bytes = tier_rpc_message_flat(message, TIER_MESSAGE_BYTES_MAX);

    if (!bytes || tier_team_message(bytes, n, &t, &err) != TIER_OK) {
        tier_log_warn("the leader is not heeded: %s", bytes ? err.text : "a message too long");
        tier_rpc_cancel(call);
        return;
    }
    bool ok = heed(m, &t);
    tier_team_release(&t);
    if (ok) {
        tier_rpc_read(call);
        return;
    }
    tier_log_warn("the leader is not heeded: it says what is not its to say now");
    tier_rpc_cancel(call);
}

static void on_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct spoke_member *m = tier_rpc_user(call);

    if (m->call != call)
        return;
    m->call = NULL;
    m->welcomed = false;
    call_off(m);
    if (m->closing)
        return;
    if (strcmp(m->last, text) != 0)
        tier_log_warn("not in the team of %s: %s; trying again", m->config->parent_name,
                      *text ? text : tier_status_text(status));
    snprintf(m->last, sizeof m->last, "%s", text);
    tier_timer_set(m->again, AGAIN_MS);
}

static const struct tier_rpc_handler join_handler = {.message = on_message, .closed = on_closed};

static void join(void *arg) {
    struct spoke_member *m = arg;
    struct tier_team_message hello = {.type = TIER_TEAM_HELLO,
                                      .protocol = TIER_TEAM_PROTOCOL,
                                      .devices = (uint32_t)m->team.count,
                                      .software = CONSILIUM_VERSION,
                                      .hash = m->build};

    snprintf(hello.backend, sizeof hello.backend, "%s", spoke_team_backend(m->team.dev[0]));
    m->call = tier_rpc_call_new(m->channel, TIER_PATH_TEAM_JOIN, &join_handler, m, 0);
    say(m, &hello);
    tier_rpc_read(m->call);
}

/* ---- life cycle ---- */

static enum tier_status open_identity(struct spoke_member *m, struct tier_err *err) {
    const struct tier_config *c = m->config;

    if (!c->tls)
        return TIER_OK;
    TIER_TRY(tier_identity_load(c->data_dir, tier_wall_ms() / 1000, &m->node, err));
    if (strcmp(m->node.id.name, c->name) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "the configuration names this server '%s', but its certificate in "
                         "%s/identity is for '%s'",
                         c->name, c->data_dir, m->node.id.name);
    m->tls = (struct tier_rpc_tls){
        .ca_pem = m->node.ca_pem, .cert_pem = m->node.cert_pem, .key_pem = m->node.key_pem};
    return TIER_OK;
}

enum tier_status spoke_member_open(const struct tier_config *config, struct tier_loop *loop,
                                   struct spoke_member **out, struct tier_err *err) {
    struct spoke_member *m = need(calloc(1, sizeof *m));
    enum tier_status st;

    m->config = config;
    m->loop = loop;
    m->keepalive = (struct tier_rpc_keepalive){(uint32_t)config->keepalive_ms,
                                               (uint32_t)config->keepalive_timeout_ms};
    spoke_bond_init(&m->bond);
    TIER_TRY_OUT(open_identity(m, err));
    TIER_TRY_OUT(spoke_team_build(&m->build, err));
    TIER_TRY_OUT(spoke_team_open(config->spoke.device, (int)config->threads, false, &m->team, err));
    TIER_TRY_OUT(tier_worker_new(loop, &m->worker, err));
    TIER_TRY_OUT(tier_rpc_channel_new(loop, config->parent_address, config->parent_name,
                                      config->name, config->tls ? &m->tls : NULL, &m->keepalive,
                                      &m->channel, err));
    m->again = tier_timer_new(loop, join, m);
    m->stuck = tier_timer_new(loop, on_stuck, m);
    join(m);
    *out = m;
out:
    if (st != TIER_OK)
        spoke_member_close(m);
    return st;
}

void spoke_member_close(struct spoke_member *m) {
    if (!m)
        return;
    m->closing = true;
    spoke_bond_break(&m->bond);
    if (spoke_bond_joining(&m->bond))
        spoke_bond_stuck();
    tier_worker_free(m->worker);
    tier_rpc_channel_free(m->channel);
    tier_timer_free(m->again);
    tier_timer_free(m->stuck);
    work_free(m->work);
    free(m->graph);
    spoke_bond_release(&m->bond);
    drop_task(&m->task);
    spoke_team_close(&m->team);
    tier_identity_release(&m->node);
    free(m);
}
