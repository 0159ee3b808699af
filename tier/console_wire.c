/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages are bounded before they come here, and with them what protobuf-c allocates: what a hub
 * takes has no repeated fields, and the lists that a console takes are in proportion to one message
 * of its hub. Arrays of our own are counted before they are made.
 */
#include "tier/console_wire.h"
#include "tier/identity.h"
#include "tier/wire_field.h"

#include "console.pb-c.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum tier_status take_count(const char *field, size_t n, size_t max, struct tier_err *err) {
    if (n > max)
        return tier_fail(err, TIER_EPROTO, "%s has %zu entries, at most %zu are allowed", field, n,
                         max);
    return TIER_OK;
}

/* Empty is the zero hash. */
static enum tier_status take_hash(const char *field, const char *in, struct tier_hash *out,
                                  struct tier_err *err) {
    *out = (struct tier_hash){{0}};
    if (*in && !tier_hash_parse(in, out))
        return tier_fail(err, TIER_EPROTO, "%s is not a SHA-256 in 64 lower-case hex digits",
                         field);
    return TIER_OK;
}

static enum tier_status take_prefix(const char *field, const char *in, char *out,
                                    struct tier_err *err) {
    if (strlen(in) >= TIER_HASH_HEX || in[strspn(in, "0123456789abcdef")])
        return tier_fail(err, TIER_EPROTO,
                         "%s must be a run's id or the beginning of one: at most 64 lower-case hex "
                         "digits",
                         field);
    memcpy(out, in, strlen(in) + 1);
    return TIER_OK;
}

/* What an encoder needs beside the caller's struct, for as long as it packs. */
struct scratch {
    struct block {
        struct block *next;
        _Alignas(16) uint8_t data[];
    } * first;
};

static void *scratch_get(struct scratch *s, size_t count, size_t bytes) {
    struct block *b = tier_wire_need(1, sizeof *b + count * bytes);
    b->next = s->first;
    s->first = b;
    return b->data;
}

static char *scratch_hex(struct scratch *s, const struct tier_hash *hash) {
    char *hex = scratch_get(s, TIER_HASH_HEX, 1);
    if (!tier_hash_is_zero(hash))
        tier_hash_hex(hash, hex);
    return hex;
}

static struct tier_bytes pack_with(const ProtobufCMessage *m, struct scratch *s) {
    struct tier_bytes bytes = tier_wire_pack(m);
    while (s->first) {
        struct block *b = s->first;
        s->first = b->next;
        free(b);
    }
    return bytes;
}

/* ---- a run ---- */

static enum tier_status take_round(const Consilium__Console__RoundInfo *p,
                                   struct tier_console_round *r, struct tier_err *err) {
    TIER_TRY(take_count("round.metrics", p->n_metrics, TIER_CONSOLE_METRICS_MAX, err));
    r->number = p->round;
    r->opened_ms = p->opened_ms;
    r->closed_ms = p->closed_ms;
    r->weight = p->weight;
    r->updates = p->updates;
    r->metric_count = p->n_metrics;
    for (size_t i = 0; i < p->n_metrics; i++) {
        TIER_TRY(tier_wire_text("metric.name", p->metrics[i]->name, r->metrics[i].name,
                                sizeof r->metrics[i].name, err));
        if (!isfinite(p->metrics[i]->value))
            return tier_fail(err, TIER_EPROTO, "metric '%s' is not a finite number",
                             r->metrics[i].name);
        r->metrics[i].value = p->metrics[i]->value;
    }
    return take_hash("round.model", p->model, &r->model, err);
}

static enum tier_status take_child(const Consilium__Console__ChildInfo *p,
                                   struct tier_console_child *c, struct tier_err *err) {
    c->attending = p->attending;
    c->done = p->done;
    c->total = p->total;
    TIER_TRY(tier_wire_text("child.name", p->name, c->name, sizeof c->name, err));
    TIER_TRY(tier_wire_text("child.state", p->state, c->state, sizeof c->state, err));
    return tier_wire_text("child.phase", p->phase, c->phase, sizeof c->phase, err);
}

static enum tier_status take_run(const Consilium__Console__RunInfo *p, struct tier_console_run *r,
                                 struct tier_err *err) {
    r->round = p->round;
    r->rounds = p->rounds;
    r->created_ms = p->created_ms;
    r->children_total = p->children_total;
    TIER_TRY(take_hash("run.run", p->run, &r->run, err));
    TIER_TRY(tier_wire_text("run.name", p->name, r->name, sizeof r->name, err));
    TIER_TRY(tier_wire_text("run.state", p->state, r->state, sizeof r->state, err));
    TIER_TRY(tier_wire_text("run.round_state", p->round_state, r->round_state,
                            sizeof r->round_state, err));
    TIER_TRY(take_hash("run.model", p->model, &r->model, err));
    TIER_TRY(tier_wire_text("run.reason", p->reason, r->reason, sizeof r->reason, err));
    TIER_TRY(take_count("run.children", p->n_children, TIER_CONSOLE_CHILDREN_MAX, err));
    TIER_TRY(take_count("run.history", p->n_history, TIER_CONSOLE_ROUNDS_MAX, err));
    r->child_count = p->n_children;
    r->children = tier_wire_need(p->n_children, sizeof *r->children);
    for (size_t i = 0; i < p->n_children; i++)
        TIER_TRY(take_child(p->children[i], &r->children[i], err));
    r->history_count = p->n_history;
    r->history = tier_wire_need(p->n_history, sizeof *r->history);
    for (size_t i = 0; i < p->n_history; i++)
        TIER_TRY(take_round(p->history[i], &r->history[i], err));
    return TIER_OK;
}

enum tier_status tier_console_run(const uint8_t *bytes, size_t n, struct tier_console_run *out,
                                  struct tier_err *err) {
    struct tier_console_run r = {0};
    Consilium__Console__RunInfo *p = consilium__console__run_info__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a run's state", n, err);
    enum tier_status st = take_run(p, &r, err);
    consilium__console__run_info__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    else
        tier_console_run_release(&r);
    return st;
}

void tier_console_run_release(struct tier_console_run *r) {
    free(r->children);
    free(r->history);
    *r = (struct tier_console_run){0};
}

static void give_children(const struct tier_console_run *r, Consilium__Console__RunInfo *p,
                          struct scratch *s) {
    Consilium__Console__ChildInfo *child = scratch_get(s, r->child_count, sizeof *child);

    p->n_children = r->child_count;
    p->children = scratch_get(s, r->child_count, sizeof *p->children);
    for (size_t i = 0; i < r->child_count; i++) {
        const struct tier_console_child *c = &r->children[i];
        consilium__console__child_info__init(&child[i]);
        child[i].name = (char *)c->name;
        child[i].attending = c->attending;
        child[i].state = (char *)c->state;
        child[i].phase = (char *)c->phase;
        child[i].done = c->done;
        child[i].total = c->total;
        p->children[i] = &child[i];
    }
}

static void give_round(const struct tier_console_round *r, Consilium__Console__RoundInfo *p,
                       struct scratch *s) {
    Consilium__Console__Metric *metric = scratch_get(s, r->metric_count, sizeof *metric);

    consilium__console__round_info__init(p);
    p->round = r->number;
    p->opened_ms = r->opened_ms;
    p->closed_ms = r->closed_ms;
    p->model = scratch_hex(s, &r->model);
    p->weight = r->weight;
    p->updates = r->updates;
    p->n_metrics = r->metric_count;
    p->metrics = scratch_get(s, r->metric_count, sizeof *p->metrics);
    for (size_t i = 0; i < r->metric_count; i++) {
        consilium__console__metric__init(&metric[i]);
        metric[i].name = (char *)r->metrics[i].name;
        metric[i].value = r->metrics[i].value;
        p->metrics[i] = &metric[i];
    }
}

static void give_run(const struct tier_console_run *r, Consilium__Console__RunInfo *p,
                     struct scratch *s) {
    Consilium__Console__RoundInfo *round = scratch_get(s, r->history_count, sizeof *round);

    consilium__console__run_info__init(p);
    p->run = scratch_hex(s, &r->run);
    p->name = (char *)r->name;
    p->state = (char *)r->state;
    p->round = r->round;
    p->rounds = r->rounds;
    p->round_state = (char *)r->round_state;
    p->model = scratch_hex(s, &r->model);
    p->reason = (char *)r->reason;
    p->created_ms = r->created_ms;
    p->children_total = r->children_total;
    give_children(r, p, s);
    p->n_history = r->history_count;
    p->history = scratch_get(s, r->history_count, sizeof *p->history);
    for (size_t i = 0; i < r->history_count; i++) {
        give_round(&r->history[i], &round[i], s);
        p->history[i] = &round[i];
    }
}

struct tier_bytes tier_console_run_bytes(const struct tier_console_run *run) {
    struct scratch s = {0};
    Consilium__Console__RunInfo p;
    give_run(run, &p, &s);
    return pack_with(&p.base, &s);
}

/* ---- runs ---- */

enum tier_status tier_console_runs(const uint8_t *bytes, size_t n, struct tier_console_runs *out,
                                   struct tier_err *err) {
    struct tier_console_runs r = {0};
    Consilium__Console__RunList *p = consilium__console__run_list__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a list of runs", n, err);
    enum tier_status st = take_count("list.runs", p->n_runs, TIER_CONSOLE_RUNS_MAX, err);
    if (st == TIER_OK)
        r.item = tier_wire_need(p->n_runs, sizeof *r.item);
    for (size_t i = 0; st == TIER_OK && i < p->n_runs; i++) {
        r.count = i + 1;
        st = take_run(p->runs[i], &r.item[i], err);
    }
    consilium__console__run_list__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    else
        tier_console_runs_release(&r);
    return st;
}

struct tier_bytes tier_console_runs_bytes(const struct tier_console_runs *runs) {
    struct scratch s = {0};
    Consilium__Console__RunList p = CONSILIUM__CONSOLE__RUN_LIST__INIT;
    Consilium__Console__RunInfo *run = scratch_get(&s, runs->count, sizeof *run);

    p.n_runs = runs->count;
    p.runs = scratch_get(&s, runs->count, sizeof *p.runs);
    for (size_t i = 0; i < runs->count; i++) {
        give_run(&runs->item[i], &run[i], &s);
        p.runs[i] = &run[i];
    }
    return pack_with(&p.base, &s);
}

void tier_console_runs_release(struct tier_console_runs *runs) {
    for (size_t i = 0; i < runs->count; i++)
        tier_console_run_release(&runs->item[i]);
    free(runs->item);
    *runs = (struct tier_console_runs){0};
}

/* ---- nodes ---- */

static enum tier_status take_node(const Consilium__Console__NodeInfo *p,
                                  struct tier_console_node *n, struct tier_err *err) {
    n->since_ms = p->since_ms;
    TIER_TRY(tier_wire_text("node.name", p->name, n->name, sizeof n->name, err));
    TIER_TRY(tier_wire_text("node.state", p->state, n->state, sizeof n->state, err));
    TIER_TRY(tier_wire_text("node.address", p->address, n->address, sizeof n->address, err));
    return tier_wire_text("node.software", p->software, n->software, sizeof n->software, err);
}

enum tier_status tier_console_nodes(const uint8_t *bytes, size_t n, struct tier_console_nodes *out,
                                    struct tier_err *err) {
    struct tier_console_nodes r = {0};
    Consilium__Console__NodeList *p = consilium__console__node_list__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a list of nodes", n, err);
    enum tier_status st =
        p->self ? take_node(p->self, &r.self, err)
                : tier_fail(err, TIER_EPROTO, "a list of nodes does not say whose it is");
    if (st == TIER_OK)
        st = take_count("list.children", p->n_children, TIER_CONSOLE_CHILDREN_MAX, err);
    if (st == TIER_OK) {
        r.children = tier_wire_need(p->n_children, sizeof *r.children);
        r.count = p->n_children;
        r.total = p->children_total;
    }
    for (size_t i = 0; st == TIER_OK && i < r.count; i++)
        st = take_node(p->children[i], &r.children[i], err);
    consilium__console__node_list__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    else
        tier_console_nodes_release(&r);
    return st;
}

static void give_node(const struct tier_console_node *n, Consilium__Console__NodeInfo *p) {
    consilium__console__node_info__init(p);
    p->name = (char *)n->name;
    p->state = (char *)n->state;
    p->address = (char *)n->address;
    p->software = (char *)n->software;
    p->since_ms = n->since_ms;
}

struct tier_bytes tier_console_nodes_bytes(const struct tier_console_nodes *nodes) {
    struct scratch s = {0};
    Consilium__Console__NodeList p = CONSILIUM__CONSOLE__NODE_LIST__INIT;
    Consilium__Console__NodeInfo self, *node = scratch_get(&s, nodes->count, sizeof *node);

    give_node(&nodes->self, &self);
    p.self = &self;
    p.children_total = nodes->total;
    p.n_children = nodes->count;
    p.children = scratch_get(&s, nodes->count, sizeof *p.children);
    for (size_t i = 0; i < nodes->count; i++) {
        give_node(&nodes->children[i], &node[i]);
        p.children[i] = &node[i];
    }
    return pack_with(&p.base, &s);
}

void tier_console_nodes_release(struct tier_console_nodes *nodes) {
    free(nodes->children);
    *nodes = (struct tier_console_nodes){0};
}

/* ---- requests ---- */

struct tier_bytes tier_console_empty_bytes(void) {
    const Consilium__Console__Empty p = CONSILIUM__CONSOLE__EMPTY__INIT;
    return tier_wire_pack(&p.base);
}

enum tier_status tier_console_run_request(const uint8_t *bytes, size_t n,
                                          struct tier_console_run_request *out,
                                          struct tier_err *err) {
    struct tier_console_run_request r = {.run = ""};
    Consilium__Console__RunRequest *p = consilium__console__run_request__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a request", n, err);
    enum tier_status st = take_prefix("request.run", p->run, r.run, err);
    consilium__console__run_request__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    return st;
}

struct tier_bytes tier_console_run_request_bytes(const struct tier_console_run_request *request) {
    Consilium__Console__RunRequest p = CONSILIUM__CONSOLE__RUN_REQUEST__INIT;
    p.run = (char *)request->run;
    return tier_wire_pack(&p.base);
}

static enum tier_status take_pull(const Consilium__Console__PullRequest *p,
                                  struct tier_console_pull *r, struct tier_err *err) {
    TIER_TRY(take_prefix("pull.run", p->run, r->run, err));
    TIER_TRY(take_hash("pull.sha256", p->sha256, &r->file, err));
    if (p->kind < CONSILIUM__CONSOLE__PULL_REQUEST__KIND__MODEL ||
        p->kind > CONSILIUM__CONSOLE__PULL_REQUEST__KIND__CARD)
        return tier_fail(err, TIER_EPROTO,
                         "pull.kind is %d: model (0), graph (1) and card (2) are known",
                         (int)p->kind);
    r->kind = (enum tier_console_pull_kind)p->kind;
    if (!tier_hash_is_zero(&r->file) && (r->run[0] || r->kind == TIER_CONSOLE_PULL_GRAPH))
        return tier_fail(err, TIER_EPROTO, "a pull names a file either by its hash or by its run");
    return TIER_OK;
}

enum tier_status tier_console_pull(const uint8_t *bytes, size_t n, struct tier_console_pull *out,
                                   struct tier_err *err) {
    struct tier_console_pull r = {.kind = TIER_CONSOLE_PULL_MODEL};
    Consilium__Console__PullRequest *p = consilium__console__pull_request__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a request", n, err);
    enum tier_status st = take_pull(p, &r, err);
    consilium__console__pull_request__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    return st;
}

struct tier_bytes tier_console_pull_bytes(const struct tier_console_pull *pull) {
    struct scratch s = {0};
    Consilium__Console__PullRequest p = CONSILIUM__CONSOLE__PULL_REQUEST__INIT;
    p.run = (char *)pull->run;
    p.sha256 = scratch_hex(&s, &pull->file);
    p.kind = (Consilium__Console__PullRequest__Kind)pull->kind;
    return pack_with(&p.base, &s);
}

static enum tier_status take_approval_request(const Consilium__Console__ApproveRequest *p,
                                              struct tier_console_approval_request *r,
                                              struct tier_err *err) {
    struct tier_hash hash;

    TIER_TRY(tier_wire_text("approve.subject", p->subject, r->subject, sizeof r->subject, err));
    switch (p->action) {
    case CONSILIUM__CONSOLE__APPROVE_REQUEST__ACTION__RELEASE:
        r->action = TIER_CONSOLE_RELEASE;
        if (!tier_hash_parse(r->subject, &hash))
            return tier_fail(err, TIER_EPROTO, "approve.subject is not a SHA-256 in hex");
        return TIER_OK;
    case CONSILIUM__CONSOLE__APPROVE_REQUEST__ACTION__REVOKE:
        r->action = TIER_CONSOLE_REVOKE;
        if (!tier_name_valid(r->subject))
            return tier_fail(err, TIER_EPROTO, "approve.subject is not a name");
        return TIER_OK;
    default:
        return tier_fail(err, TIER_EPROTO,
                         "approve.action is %d: release (0) and revoke (1) are known",
                         (int)p->action);
    }
}

enum tier_status tier_console_approval_request(const uint8_t *bytes, size_t n,
                                               struct tier_console_approval_request *out,
                                               struct tier_err *err) {
    struct tier_console_approval_request r = {0};
    Consilium__Console__ApproveRequest *p =
        consilium__console__approve_request__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a request", n, err);
    enum tier_status st = take_approval_request(p, &r, err);
    consilium__console__approve_request__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = r;
    return st;
}

struct tier_bytes
tier_console_approval_request_bytes(const struct tier_console_approval_request *request) {
    Consilium__Console__ApproveRequest p = CONSILIUM__CONSOLE__APPROVE_REQUEST__INIT;
    p.action = (Consilium__Console__ApproveRequest__Action)request->action;
    p.subject = (char *)request->subject;
    return tier_wire_pack(&p.base);
}

static enum tier_status take_approval(const Consilium__Console__Approval *p,
                                      struct tier_console_approval *a, struct tier_err *err) {
    if (p->n_by < 1 || p->n_by > 2)
        return tier_fail(err, TIER_EPROTO, "approval.by has %zu entries, 1 or 2 are allowed",
                         p->n_by);
    for (size_t i = 0; i < p->n_by; i++)
        TIER_TRY(tier_wire_text("approval.by", p->by[i], a->by[i], sizeof a->by[i], err));
    a->count = (unsigned)p->n_by;
    a->done = p->done;
    a->expires_ms = p->expires_ms;
    return TIER_OK;
}

enum tier_status tier_console_approval(const uint8_t *bytes, size_t n,
                                       struct tier_console_approval *out, struct tier_err *err) {
    struct tier_console_approval a = {.count = 0};
    Consilium__Console__Approval *p = consilium__console__approval__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("an approval", n, err);
    enum tier_status st = take_approval(p, &a, err);
    consilium__console__approval__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = a;
    return st;
}

struct tier_bytes tier_console_approval_bytes(const struct tier_console_approval *a) {
    Consilium__Console__Approval p = CONSILIUM__CONSOLE__APPROVAL__INIT;
    char *by[2] = {(char *)a->by[0], (char *)a->by[1]};
    p.n_by = a->count;
    p.by = by;
    p.done = a->done;
    p.expires_ms = a->expires_ms;
    return tier_wire_pack(&p.base);
}

enum tier_status tier_console_part(const uint8_t *bytes, size_t n, struct tier_console_part *out,
                                   struct tier_err *err) {
    enum tier_status st = TIER_OK;
    Consilium__Console__StartRunPart *p =
        consilium__console__start_run_part__unpack(NULL, n, bytes);
    if (!p)
        return tier_wire_unreadable("a part of a run's start", n, err);
    if ((p->plan.len != 0) == (p->graph.len != 0))
        st = tier_fail(err, TIER_EPROTO, "a part holds either a plan or a piece of a graph");
    else if (p->plan.len > TIER_PLAN_BYTES_MAX)
        st = tier_fail(err, TIER_EPROTO, "part.plan has %zu bytes, at most %u are allowed",
                       p->plan.len, TIER_PLAN_BYTES_MAX);
    else if (p->signature.len > TIER_SIGNED_BYTES_MAX)
        st = tier_fail(err, TIER_EPROTO, "part.signature has %zu bytes, at most %u are allowed",
                       p->signature.len, TIER_SIGNED_BYTES_MAX);
    else if (p->signature.len != 0 && p->plan.len == 0)
        st = tier_fail(err, TIER_EPROTO, "part.signature stands beside a plan");
    else if (p->graph.len > TIER_CHUNK_BYTES)
        st = tier_fail(err, TIER_EPROTO, "part.graph has %zu bytes, at most %u are allowed",
                       p->graph.len, TIER_CHUNK_BYTES);
    if (st != TIER_OK) {
        consilium__console__start_run_part__free_unpacked(p, NULL);
        return st;
    }
    const ProtobufCBinaryData *data = p->plan.len ? &p->plan : &p->graph;
    *out = (struct tier_console_part){.is_plan = p->plan.len != 0,
                                      .data = data->data,
                                      .bytes = data->len,
                                      .signature = p->signature.data,
                                      .signature_bytes = p->signature.len,
                                      .owner = p};
    return TIER_OK;
}

struct tier_bytes tier_console_part_bytes(const struct tier_console_part *part) {
    Consilium__Console__StartRunPart p = CONSILIUM__CONSOLE__START_RUN_PART__INIT;
    const ProtobufCBinaryData data = {part->bytes, (uint8_t *)part->data};
    if (part->is_plan)
        p.plan = data;
    else
        p.graph = data;
    p.signature = (ProtobufCBinaryData){part->signature_bytes, (uint8_t *)part->signature};
    return tier_wire_pack(&p.base);
}

void tier_console_part_release(struct tier_console_part *part) {
    if (part->owner)
        consilium__console__start_run_part__free_unpacked(part->owner, NULL);
    *part = (struct tier_console_part){0};
}
