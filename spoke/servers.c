/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One order at a time, asked for by the worker and carried out by the loop: what the two share is
 * under one lock, and the worker sleeps on it. Members are known by their place in the
 * configuration, so ranks do not depend on who joined first. What one member has for another passes
 * through here: a member needs one address and one open port, at the price of the leader's network.
 */
#include "spoke/servers.h"

#include "tier/log.h"
#include "tier/rpc.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GRAPH_AHEAD 16   /* pieces of a graph that wait for the network */
#define RELAY_HOLD 256   /* messages that wait for a member before others' for it are left unread */
#define RELAY_RESUME 128 /* */

struct member {
    struct spoke_servers *servers;
    const char *name;
    struct tier_rpc_call *call; /* NULL: is not here */
    bool joined;                /* has said Hello and was welcomed */
    bool held;                  /* is not read while another's queue is full */
    uint32_t devices, first;
    bool ready, done;
    struct tier_hash model;
    FILE *graph; /* being sent to it */
    uint64_t graph_at, graph_job;
};

struct spoke_servers {
    const struct tier_config *config;
    struct tier_loop *loop;
    const struct spoke_team *team;
    void (*complete)(void *arg);
    void *arg;
    struct tier_node node;
    struct tier_rpc_tls tls;
    struct tier_rpc_keepalive keepalive;
    struct tier_rpc_server *server;
    struct tier_hash build;
    size_t count;
    struct spoke_bond bond;
    struct tier_timer *stuck; /* a loss while ranks join: the try that it was */
    uint64_t stuck_join;

    pthread_mutex_t lock; /* guards all below, and ready, done, devices, joined of a member */
    pthread_cond_t moved;
    bool stopping;
    size_t joined;
    uint64_t job; /* the last one */
    bool active;  /* it is under way */
    enum tier_status status;
    char reason[512];
    struct spoke_order order;
    uint64_t group; /* the last one made */
    struct kern_group_id id;
    struct member member[];
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static void say(struct member *m, const struct tier_team_message *message) {
    struct tier_bytes b = tier_team_bytes(message);
    if (m->call && !tier_rpc_send(m->call, b.data, b.n))
        tier_rpc_cancel(m->call);
    free(b.data);
}

static void on_stuck(void *arg) {
    struct spoke_servers *s = arg;
    if (s->stuck_join && spoke_bond_joining(&s->bond) == s->stuck_join)
        spoke_bond_stuck();
}

/* Ends the order under way, once: the first reason counts. */
static void fail(struct spoke_servers *s, enum tier_status status, const char *format,
                 const char *name, const char *text) {
    pthread_mutex_lock(&s->lock);
    if (s->active && s->status == TIER_OK) {
        s->status = status;
        snprintf(s->reason, sizeof s->reason, format, name, text);
    }
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
    spoke_bond_break(&s->bond);
    s->stuck_join = spoke_bond_joining(&s->bond);
    if (s->stuck_join)
        tier_timer_set(s->stuck, SPOKE_STUCK_MS);
}

/* ---- who joins ---- */

/* The member of this certificate's name, or without TLS of the name that was claimed. */
static struct member *member_of(struct spoke_servers *s, struct tier_rpc_call *call, char *name,
                                size_t size) {
    struct tier_identity id = {.role = TIER_ROLE_SPOKE};

    snprintf(name, size, "%.63s", tier_rpc_peer_claim(call));
    if (s->config->tls) {
        if (tier_identity_parse_spiffe(tier_rpc_peer_uri(call), &id, NULL) != TIER_OK)
            return NULL;
        snprintf(name, size, "%s", id.name);
    }
    for (size_t i = 0; i < s->count && id.role == TIER_ROLE_SPOKE; i++)
        if (strcmp(s->member[i].name, name) == 0)
            return &s->member[i];
    return NULL;
}

static void refuse(struct tier_rpc_call *call, enum tier_status st, const char *name,
                   const char *why) {
    char text[640];
    snprintf(text, sizeof text, "server '%.63s' is refused: %.511s", name, why);
    tier_log_warn("team: %s", text);
    tier_rpc_finish(call, st, text);
}

/* Members that were left unread while another's queue was full. */
static void read_again(struct spoke_servers *s) {
    for (size_t i = 0; i < s->count; i++) {
        struct member *m = &s->member[i];
        if (m->held && m->call)
            tier_rpc_read(m->call);
        m->held = false;
    }
}

static void member_left(struct member *m, const char *text) {
    struct spoke_servers *s = m->servers;
    bool joined = m->joined;

    m->call = NULL;
    m->held = false;
    read_again(s);
    if (m->graph)
        fclose(m->graph);
    m->graph = NULL;
    pthread_mutex_lock(&s->lock);
    s->joined -= joined;
    m->joined = false;
    pthread_mutex_unlock(&s->lock);
    if (!joined)
        return;
    tier_log_warn("team: server %s is lost: %s", m->name, text);
    fail(s, TIER_EUNAVAILABLE, "server %s was lost: %s", m->name, text);
}

static void on_opened(struct tier_rpc_call *call) {
    struct spoke_servers *s = tier_rpc_user(call);
    char name[TIER_NAME_LEN_MAX + 1];
    struct member *m = member_of(s, call, name, sizeof name);

    tier_rpc_set_user(call, NULL);
    if (!m) {
        refuse(call, TIER_EIDENTITY, name, "team.members does not name it as a spoke's server");
        return;
    }
    if (m->call) { /* it has come again before its loss was noticed */
        struct tier_rpc_call *old = m->call;
        member_left(m, "it has joined anew");
        tier_rpc_set_user(old, NULL);
        tier_rpc_cancel(old);
    }
    m->call = call;
    tier_rpc_set_user(call, m);
    tier_rpc_read(call);
}

static void on_hello(struct member *m, const struct tier_team_message *h) {
    struct spoke_servers *s = m->servers;
    const char *backend = spoke_team_backend(s->team->dev[0]);
    size_t devices = s->team->count + h->devices;
    char why[256] = "";

    if (m->joined)
        snprintf(why, sizeof why, "it says Hello twice");
    else if (h->protocol != TIER_TEAM_PROTOCOL)
        snprintf(why, sizeof why, "it speaks protocol %u, this one %u", h->protocol,
                 TIER_TEAM_PROTOCOL);
    else if (strcmp(h->software, CONSILIUM_VERSION) != 0)
        snprintf(why, sizeof why, "it runs version %s, this one %s", h->software,
                 CONSILIUM_VERSION);
    else if (!tier_hash_equal(&h->hash, &s->build))
        snprintf(why, sizeof why,
                 "its consilium-spoke is another build than this one's: the same file must be "
                 "installed on all servers of a team");
    else if (strcmp(h->backend, backend) != 0)
        snprintf(why, sizeof why, "it trains on %s, this one on %s", h->backend, backend);
    for (size_t i = 0; i < s->count; i++)
        devices += s->member[i].joined ? s->member[i].devices : 0;
    if (!*why && devices > KERN_GROUP_RANKS_MAX)
        snprintf(why, sizeof why, "with it the team has %zu devices, at most %d may train together",
                 devices, KERN_GROUP_RANKS_MAX);
    if (*why) {
        refuse(m->call, TIER_EPOLICY, m->name, why);
        return;
    }
    say(m, &(struct tier_team_message){.type = TIER_TEAM_WELCOME});
    pthread_mutex_lock(&s->lock);
    m->devices = h->devices;
    m->joined = true;
    bool all = ++s->joined == s->count;
    pthread_mutex_unlock(&s->lock);
    tier_log_info("team: server %s has joined with %u device%s", m->name, h->devices,
                  h->devices == 1 ? "" : "s");
    if (all)
        s->complete(s->arg);
}

/* ---- what they say ---- */

static void send_graph(struct member *m) {
    uint8_t *data = m->graph ? malloc(TIER_TEAM_GRAPH_BYTES) : NULL;

    while (data && m->graph && m->call && tier_rpc_waiting(m->call) < GRAPH_AHEAD) {
        size_t n = fread(data, 1, TIER_TEAM_GRAPH_BYTES, m->graph);
        if (n == 0) {
            fclose(m->graph);
            m->graph = NULL;
            break;
        }
        say(m, &(struct tier_team_message){.type = TIER_TEAM_GRAPH,
                                           .job = m->graph_job,
                                           .at = m->graph_at,
                                           .data = data,
                                           .data_bytes = n});
        m->graph_at += n;
    }
    free(data);
}

static void on_ready(struct member *m, const struct tier_team_message *r) {
    struct spoke_servers *s = m->servers;

    if (r->status != TIER_OK) {
        fail(s, r->status, "server %s: %s", m->name, r->reason);
        return;
    }
    if (r->want_graph) {
        if (m->graph)
            fclose(m->graph);
        m->graph_at = 0;
        m->graph_job = r->job;
        m->graph = fopen(s->order.graph_path, "rb");
        if (!m->graph)
            fail(s, TIER_EIO, "server %s: the plan's graph cannot be read%s", m->name, "");
        send_graph(m);
        return;
    }
    if (!tier_hash_equal(&r->hash, &s->order.data)) {
        fail(s, TIER_EDATA, "server %s holds another data set than this one%s", m->name,
             ": all servers of a team read the same table under the same schema");
        return;
    }
    if (r->elements != s->order.elements) {
        fail(s, TIER_EMODEL, "server %s makes another model of the same graph%s", m->name, "");
        return;
    }
    pthread_mutex_lock(&s->lock);
    m->ready = true;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
}

static void on_done(struct member *m, const struct tier_team_message *d) {
    struct spoke_servers *s = m->servers;

    if (d->status != TIER_OK) {
        fail(s, d->status, "server %s: %s", m->name, d->reason);
        return;
    }
    pthread_mutex_lock(&s->lock);
    m->model = d->hash;
    m->done = true;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
}

static bool holds(const struct member *m, uint32_t rank) {
    return m->joined && rank >= m->first && rank - m->first < m->devices;
}

static struct member *holder_of(struct spoke_servers *s, uint32_t rank) {
    for (size_t i = 0; i < s->count; i++)
        if (holds(&s->member[i], rank))
            return &s->member[i];
    return NULL;
}

/* For a rank here, or passed on. */
static void on_part(struct member *m, struct tier_team_message *p, const uint8_t *bytes, size_t n) {
    struct spoke_servers *s = m->servers;
    struct member *to = holder_of(s, p->to);
    bool ok = holds(m, p->from) && to != m;

    if (ok && to) {
        ok = tier_rpc_send(to->call, bytes, n);
        m->held = tier_rpc_waiting(to->call) >= RELAY_HOLD;
    } else if (ok) {
        ok = spoke_bond_came(&s->bond, p, 0);
    }
    if (!ok)
        fail(s, TIER_EUNAVAILABLE, "server %s: its part of the round cannot be %s", m->name,
             to ? "passed on" : "taken");
}

static bool is_current(struct spoke_servers *s, uint64_t job) {
    pthread_mutex_lock(&s->lock);
    bool current = s->active && job == s->job;
    pthread_mutex_unlock(&s->lock);
    return current;
}

static void on_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct member *m = tier_rpc_user(call);
    struct tier_team_message t;
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(message);
    const uint8_t *bytes = tier_rpc_message_flat(message, TIER_MESSAGE_BYTES_MAX);

    if (!m)
        return;
    if (!bytes || tier_team_message(bytes, n, &t, &err) != TIER_OK) {
        refuse(call, TIER_EPROTO, m->name, bytes ? err.text : "its message is too long");
        return;
    }
    bool current = is_current(m->servers, t.job);
    if (t.type == TIER_TEAM_HELLO)
        on_hello(m, &t);
    else if (!m->joined || t.type == TIER_TEAM_WELCOME || t.type == TIER_TEAM_JOB ||
             t.type == TIER_TEAM_GO || t.type == TIER_TEAM_GRAPH || t.type == TIER_TEAM_ABORT)
        refuse(call, TIER_EPROTO, m->name, "it says what is not a member's to say");
    else if (t.type == TIER_TEAM_PART)
        on_part(m, &t, bytes, n);
    else if (current && t.type == TIER_TEAM_READY)
        on_ready(m, &t);
    else if (current && t.type == TIER_TEAM_DONE)
        on_done(m, &t);
    tier_team_release(&t);
    if (!m->held)
        tier_rpc_read(call);
}

static void on_sent(struct tier_rpc_call *call) {
    struct member *m = tier_rpc_user(call);

    if (!m || m->call != call)
        return;
    send_graph(m);
    if (tier_rpc_waiting(call) < RELAY_RESUME)
        read_again(m->servers);
}

static void on_half_closed(struct tier_rpc_call *call) {
    tier_rpc_finish(call, TIER_OK, "");
}

static void on_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct member *m = tier_rpc_user(call);
    if (m && m->call == call)
        member_left(m, status == TIER_OK ? "it has left" : text);
}

static const struct tier_rpc_handler join_handler = {
    .opened = on_opened,
    .message = on_message,
    .half_closed = on_half_closed,
    .sent = on_sent,
    .closed = on_closed,
};

static const struct tier_rpc_method methods[] = {{TIER_PATH_TEAM_JOIN, &join_handler}};

/* ---- an order ---- */

/* Leader's thing on the loop: what a rank here has for one elsewhere. */
static bool send_part(void *owner, uint32_t to, const void *prefix, size_t prefix_bytes,
                      const void *bytes, size_t n, void (*done)(void *arg), void *arg) {
    struct member *m = holder_of(owner, to);

    if (!m) {
        done(arg);
        return false;
    }
    return tier_rpc_send_payload(m->call, prefix, prefix_bytes, bytes, n, done, arg);
}

static void start_order(void *arg) {
    struct spoke_servers *s = arg;
    uint32_t first = (uint32_t)s->team->count;

    for (size_t i = 0; s->active && i < s->count; i++) {
        struct member *m = &s->member[i];
        m->first = first;
        first += m->devices;
        if (m->graph)
            fclose(m->graph); /* for an order that is over */
        m->graph = NULL;
        say(m, &(struct tier_team_message){.type = TIER_TEAM_JOB,
                                           .job = s->job,
                                           .round = s->order.round,
                                           .seed = s->order.seed,
                                           .ranks = (uint32_t)s->order.ranks,
                                           .first = m->first,
                                           .data = (uint8_t *)s->order.plan,
                                           .data_bytes = s->order.plan_bytes});
    }
}

static void let_go(void *arg) {
    struct spoke_servers *s = arg;

    for (size_t i = 0; s->active && i < s->count; i++)
        say(&s->member[i],
            &(struct tier_team_message){
                .type = TIER_TEAM_GO, .job = s->job, .group = s->group, .id = s->id});
}

struct abortion {
    struct spoke_servers *servers;
    struct tier_team_message message;
};

static void tell_abort(void *arg) {
    struct abortion *a = arg;
    for (size_t i = 0; i < a->servers->count; i++)
        if (a->servers->member[i].joined)
            say(&a->servers->member[i], &a->message);
    free(a);
}

/* With the lock held. */
static enum tier_status verdict(struct spoke_servers *s, struct tier_err *err) {
    if (s->stopping)
        return tier_fail(err, TIER_ECANCELLED, "the spoke is stopping");
    if (s->status != TIER_OK)
        return tier_fail(err, s->status, "%s", s->reason);
    return TIER_OK;
}

static bool all_are(const struct spoke_servers *s, bool done) {
    for (size_t i = 0; i < s->count; i++)
        if (!(done ? s->member[i].done : s->member[i].ready))
            return false;
    return true;
}

static enum tier_status wait_for_all(struct spoke_servers *s, bool done, struct tier_err *err) {
    pthread_mutex_lock(&s->lock);
    while (!s->stopping && s->status == TIER_OK && !all_are(s, done))
        pthread_cond_wait(&s->moved, &s->lock);
    enum tier_status st = verdict(s, err);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static enum tier_status count_ranks(struct spoke_servers *s, size_t *out, struct tier_err *err) {
    char missing[256] = "";
    size_t ranks = s->team->count, used = 0;

    for (size_t i = 0; i < s->count; i++) {
        ranks += s->member[i].devices;
        if (!s->member[i].joined && used < sizeof missing)
            used += (size_t)snprintf(missing + used, sizeof missing - used, "%s%s",
                                     used ? ", " : "", s->member[i].name);
    }
    if (*missing)
        return tier_fail(err, TIER_EUNAVAILABLE, "servers of this team are not here: %s", missing);
    *out = ranks;
    return TIER_OK;
}

enum tier_status spoke_servers_ranks(struct spoke_servers *s, size_t *ranks_out,
                                     struct tier_err *err) {
    pthread_mutex_lock(&s->lock);
    enum tier_status st = count_ranks(s, ranks_out, err);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static enum tier_status take_order(struct spoke_servers *s, const struct spoke_order *order,
                                   struct tier_err *err) {
    size_t ranks = 0;

    pthread_mutex_lock(&s->lock);
    s->status = TIER_OK;
    enum tier_status st = verdict(s, err);
    if (st == TIER_OK)
        st = count_ranks(s, &ranks, err);
    if (st == TIER_OK && ranks != order->ranks)
        st = tier_fail(err, TIER_EUNAVAILABLE, "a server has come back with other devices");
    if (st == TIER_OK) {
        s->order = *order;
        s->job++;
        s->active = true;
        for (size_t i = 0; i < s->count; i++)
            s->member[i].ready = s->member[i].done = false;
        tier_loop_post(s->loop, start_order, s);
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* The group of before where it is whole, else a new one. */
static enum tier_status meet(struct spoke_servers *s, struct tier_err *err) {
    struct kern_device *const *dev = s->team->dev;

    if (!spoke_bond_holds(&s->bond, s->group)) {
        enum kern_status st = kern_group_id_new(dev[0], &s->id);
        if (st != KERN_OK)
            return tier_fail(err, TIER_EDEVICE, "no group of several servers: %s: %s",
                             kern_status_text(st), kern_device_error(dev[0]));
        s->group++;
        spoke_bond_new(&s->bond,
                       spoke_span_new(s->loop, s->group, 0, s->team->count, send_part, s));
    }
    spoke_bond_came(&s->bond, NULL, s->order.elements);
    /* Whatever failed before now is seen here, and what fails from now on breaks the new bond. */
    pthread_mutex_lock(&s->lock);
    enum tier_status st = verdict(s, err);
    pthread_mutex_unlock(&s->lock);
    if (st != TIER_OK)
        return st;
    tier_loop_post(s->loop, let_go, s);
    return spoke_bond_join(&s->bond, &s->id, s->order.ranks, 0, dev, s->team->count, err);
}

enum tier_status spoke_servers_begin(struct spoke_servers *s, const struct spoke_order *order,
                                     struct kern_group **group_out, struct tier_err *err) {
    TIER_TRY(take_order(s, order, err));
    enum tier_status st = wait_for_all(s, false, err);
    if (st == TIER_OK)
        st = meet(s, err);
    if (st != TIER_OK)
        return spoke_servers_end(s, st, NULL, err);
    *group_out = s->bond.group;
    return TIER_OK;
}

static enum tier_status same_model(struct spoke_servers *s, const struct tier_hash *model,
                                   struct tier_err *err) {
    for (size_t i = 0; i < s->count; i++)
        if (!tier_hash_equal(&s->member[i].model, model))
            return tier_fail(err, TIER_EDEVICE,
                             "server %s has other parameters than this one: one of them computes "
                             "wrongly",
                             s->member[i].name);
    return TIER_OK;
}

enum tier_status spoke_servers_end(struct spoke_servers *s, enum tier_status st,
                                   const struct tier_hash *model, struct tier_err *err) {
    if (st == TIER_OK)
        st = wait_for_all(s, true, err);
    pthread_mutex_lock(&s->lock);
    if (st == TIER_OK)
        st = same_model(s, model, err);
    else if (s->status != TIER_OK || s->stopping)
        st = verdict(s, err);
    s->active = false;
    s->order = (struct spoke_order){.plan = NULL};
    uint64_t job = s->job;
    pthread_mutex_unlock(&s->lock);
    if (st == TIER_OK)
        return TIER_OK;
    struct abortion *a = need(calloc(1, sizeof *a));
    *a = (struct abortion){s, {.type = TIER_TEAM_ABORT, .job = job}};
    snprintf(a->message.reason, sizeof a->message.reason, "the round has failed: %s",
             tier_status_text(st));
    tier_loop_post(s->loop, tell_abort, a);
    spoke_bond_break(&s->bond);
    spoke_bond_drop(&s->bond);
    return st;
}

/* ---- life cycle ---- */

enum tier_status spoke_servers_open(const struct tier_config *config, struct tier_loop *loop,
                                    const struct spoke_team *team, void (*complete)(void *arg),
                                    void *arg, struct spoke_servers **out, struct tier_err *err) {
    const struct tier_keys_list *names = &config->spoke.team_members;
    struct spoke_servers *s = need(calloc(1, sizeof *s + names->count * sizeof s->member[0]));
    enum tier_status st = TIER_OK;

    *s = (struct spoke_servers){
        .config = config,
        .loop = loop,
        .team = team,
        .complete = complete,
        .arg = arg,
        .keepalive = {(uint32_t)config->keepalive_ms, (uint32_t)config->keepalive_timeout_ms},
        .count = names->count};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->moved, NULL);
    spoke_bond_init(&s->bond);
    s->stuck = tier_timer_new(loop, on_stuck, s);
    for (size_t i = 0; i < s->count; i++)
        s->member[i] = (struct member){.servers = s, .name = tier_keys_list_item(names, i)};
    TIER_TRY_OUT(spoke_team_build(&s->build, err));
    if (config->tls) {
        TIER_TRY_OUT(
            tier_identity_load(config->spoke.team_identity, tier_wall_ms() / 1000, &s->node, err));
        s->tls = (struct tier_rpc_tls){
            .ca_pem = s->node.ca_pem, .cert_pem = s->node.cert_pem, .key_pem = s->node.key_pem};
    }
    TIER_TRY_OUT(tier_rpc_server_new(loop, config->spoke.team_listen, config->tls ? &s->tls : NULL,
                                     &s->keepalive, methods, 1, s, &s->server, err));
    tier_log_info("team: waiting for %zu server%s on port %d", s->count, s->count == 1 ? "" : "s",
                  tier_rpc_server_port(s->server));
    *out = s;
out:
    if (st != TIER_OK)
        spoke_servers_close(s);
    return st;
}

bool spoke_servers_complete(struct spoke_servers *s) {
    pthread_mutex_lock(&s->lock);
    bool complete = s->joined == s->count;
    pthread_mutex_unlock(&s->lock);
    return complete;
}

void spoke_servers_stop(struct spoke_servers *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
    spoke_bond_break(&s->bond);
    if (spoke_bond_joining(&s->bond))
        spoke_bond_stuck();
}

void spoke_servers_close(struct spoke_servers *s) {
    if (!s)
        return;
    tier_rpc_server_free(s->server);
    tier_timer_free(s->stuck);
    spoke_bond_release(&s->bond);
    tier_identity_release(&s->node);
    pthread_cond_destroy(&s->moved);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
