/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A message is bounded before it comes here, and with it what protobuf-c allocates: no message has
 * repeated fields. A part's own data is the last field of its message, so that it can be sent from
 * where it lies.
 */
#include "tier/team_wire.h"
#include "tier/wire_field.h"

#include "team.pb-c.h"

#include <stdlib.h>
#include <string.h>

typedef Consilium__Team__Message Message;

/* ---- decoding ---- */

static enum tier_status take_data(const char *field, ProtobufCBinaryData in, size_t max,
                                  struct tier_team_message *out, struct tier_err *err) {
    if (in.len == 0 || in.len > max)
        return tier_fail(err, TIER_EPROTO, "%s has %zu bytes, 1 to %zu are allowed", field, in.len,
                         max);
    out->data = tier_wire_need(1, in.len);
    memcpy(out->data, in.data, in.len);
    out->data_bytes = in.len;
    return TIER_OK;
}

static enum tier_status take_below(const char *field, uint64_t value, uint64_t from, uint64_t below,
                                   struct tier_err *err) {
    if (value < from || value >= below)
        return tier_fail(err, TIER_EPROTO, "%s is out of its bounds", field);
    return TIER_OK;
}

static enum tier_status take_status(const char *field, uint32_t value, enum tier_status *out,
                                    struct tier_err *err) {
    TIER_TRY(take_below(field, value, 0, TIER_STATUS_COUNT, err));
    *out = (enum tier_status)value;
    return TIER_OK;
}

static enum tier_status take_hello(const Consilium__Team__Hello *p, struct tier_team_message *out,
                                   struct tier_err *err) {
    out->protocol = p->protocol;
    out->devices = p->devices;
    TIER_TRY(take_below("hello.devices", p->devices, 1, KERN_GROUP_RANKS_MAX + 1, err));
    TIER_TRY(
        tier_wire_text("hello.software", p->software, out->software, sizeof out->software, err));
    TIER_TRY(tier_wire_text("hello.backend", p->backend, out->backend, sizeof out->backend, err));
    return tier_wire_hash("hello.build", p->build, &out->hash, err);
}

static enum tier_status take_job(const Consilium__Team__Job *p, struct tier_team_message *out,
                                 struct tier_err *err) {
    out->job = p->job;
    out->round = p->round;
    out->seed = p->seed;
    out->ranks = p->ranks;
    out->first = p->first;
    TIER_TRY(take_below("job.round", p->round, 1, TIER_ROUNDS_MAX + 1, err));
    TIER_TRY(take_below("job.ranks", p->ranks, 2, KERN_GROUP_RANKS_MAX + 1, err));
    TIER_TRY(take_below("job.first", p->first, 1, p->ranks, err));
    return take_data("job.plan", p->plan, TIER_PLAN_BYTES_MAX, out, err);
}

static enum tier_status take_ready(const Consilium__Team__Ready *p, struct tier_team_message *out,
                                   struct tier_err *err) {
    out->job = p->job;
    out->want_graph = p->want_graph;
    out->elements = p->elements;
    TIER_TRY(take_below("ready.elements", p->elements, 0, TIER_ELEMENTS_MAX + 1, err));
    TIER_TRY(take_status("ready.status", p->status, &out->status, err));
    TIER_TRY(tier_wire_text("ready.reason", p->reason, out->reason, sizeof out->reason, err));
    return p->data.len == 0 ? TIER_OK : tier_wire_hash("ready.data", p->data, &out->hash, err);
}

static enum tier_status take_go(const Consilium__Team__Go *p, struct tier_team_message *out,
                                struct tier_err *err) {
    out->job = p->job;
    out->group = p->group;
    if (p->id.len != sizeof out->id.bytes)
        return tier_fail(err, TIER_EPROTO, "go.id has %zu bytes, it must have %zu", p->id.len,
                         sizeof out->id.bytes);
    memcpy(out->id.bytes, p->id.data, sizeof out->id.bytes);
    return TIER_OK;
}

static enum tier_status take_done(const Consilium__Team__Done *p, struct tier_team_message *out,
                                  struct tier_err *err) {
    out->job = p->job;
    TIER_TRY(take_status("done.status", p->status, &out->status, err));
    TIER_TRY(tier_wire_text("done.reason", p->reason, out->reason, sizeof out->reason, err));
    return p->model.len == 0 && p->status != TIER_OK
               ? TIER_OK
               : tier_wire_hash("done.model", p->model, &out->hash, err);
}

static enum tier_status take_part(const Consilium__Team__Part *p, struct tier_team_message *out,
                                  struct tier_err *err) {
    out->group = p->group;
    out->from = p->from;
    out->to = p->to;
    TIER_TRY(take_below("part.from", p->from, 0, KERN_GROUP_RANKS_MAX, err));
    TIER_TRY(take_below("part.to", p->to, 0, KERN_GROUP_RANKS_MAX, err));
    return take_data("part.data", p->data, KERN_GROUP_MESSAGE_BYTES, out, err);
}

static enum tier_status take(const Message *p, struct tier_team_message *out,
                             struct tier_err *err) {
    switch (p->kind_case) {
    case CONSILIUM__TEAM__MESSAGE__KIND_HELLO:
        out->type = TIER_TEAM_HELLO;
        return take_hello(p->hello, out, err);
    case CONSILIUM__TEAM__MESSAGE__KIND_WELCOME:
        out->type = TIER_TEAM_WELCOME;
        return TIER_OK;
    case CONSILIUM__TEAM__MESSAGE__KIND_JOB:
        out->type = TIER_TEAM_JOB;
        return take_job(p->job, out, err);
    case CONSILIUM__TEAM__MESSAGE__KIND_READY:
        out->type = TIER_TEAM_READY;
        return take_ready(p->ready, out, err);
    case CONSILIUM__TEAM__MESSAGE__KIND_GRAPH:
        out->type = TIER_TEAM_GRAPH;
        out->job = p->graph->job;
        out->at = p->graph->at;
        return take_data("graph.data", p->graph->data, TIER_TEAM_GRAPH_BYTES, out, err);
    case CONSILIUM__TEAM__MESSAGE__KIND_GO:
        out->type = TIER_TEAM_GO;
        return take_go(p->go, out, err);
    case CONSILIUM__TEAM__MESSAGE__KIND_DONE:
        out->type = TIER_TEAM_DONE;
        return take_done(p->done, out, err);
    case CONSILIUM__TEAM__MESSAGE__KIND_ABORT:
        out->type = TIER_TEAM_ABORT;
        out->job = p->abort->job;
        return tier_wire_text("abort.reason", p->abort->reason, out->reason, sizeof out->reason,
                              err);
    case CONSILIUM__TEAM__MESSAGE__KIND_PART:
        out->type = TIER_TEAM_PART;
        return take_part(p->part, out, err);
    default:
        return tier_fail(err, TIER_EPROTO, "a team's message of no known kind");
    }
}

enum tier_status tier_team_message(const uint8_t *bytes, size_t n, struct tier_team_message *out,
                                   struct tier_err *err) {
    struct tier_team_message m = {.status = TIER_OK};
    Message *p =
        n <= TIER_MESSAGE_BYTES_MAX ? consilium__team__message__unpack(NULL, n, bytes) : NULL;

    if (!p)
        return tier_wire_unreadable("a team's message", n, err);
    enum tier_status st = take(p, &m, err);
    consilium__team__message__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = m;
    else
        tier_team_release(&m);
    return st;
}

void tier_team_release(struct tier_team_message *m) {
    free(m->data);
    m->data = NULL;
    m->data_bytes = 0;
}

/* ---- encoding ---- */

static ProtobufCBinaryData binary(const void *data, size_t n) {
    return (ProtobufCBinaryData){n, (uint8_t *)data};
}

static struct tier_bytes hello_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Hello p = CONSILIUM__TEAM__HELLO__INIT;
    p.protocol = m->protocol;
    p.devices = m->devices;
    p.software = (char *)m->software;
    p.backend = (char *)m->backend;
    p.build = binary(m->hash.b, sizeof m->hash.b);
    w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_HELLO;
    w.hello = &p;
    return tier_wire_pack(&w.base);
}

static struct tier_bytes job_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Job p = CONSILIUM__TEAM__JOB__INIT;
    p.job = m->job;
    p.plan = binary(m->data, m->data_bytes);
    p.round = m->round;
    p.seed = m->seed;
    p.ranks = m->ranks;
    p.first = m->first;
    w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_JOB;
    w.job = &p;
    return tier_wire_pack(&w.base);
}

static struct tier_bytes ready_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Ready p = CONSILIUM__TEAM__READY__INIT;
    p.job = m->job;
    p.want_graph = m->want_graph;
    p.elements = m->elements;
    p.status = (uint32_t)m->status;
    p.reason = (char *)m->reason;
    p.data = binary(m->hash.b, sizeof m->hash.b);
    w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_READY;
    w.ready = &p;
    return tier_wire_pack(&w.base);
}

static struct tier_bytes graph_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Graph p = CONSILIUM__TEAM__GRAPH__INIT;
    p.job = m->job;
    p.at = m->at;
    p.data = binary(m->data, m->data_bytes);
    w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_GRAPH;
    w.graph = &p;
    return tier_wire_pack(&w.base);
}

static struct tier_bytes go_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Go p = CONSILIUM__TEAM__GO__INIT;
    p.job = m->job;
    p.group = m->group;
    p.id = binary(m->id.bytes, sizeof m->id.bytes);
    w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_GO;
    w.go = &p;
    return tier_wire_pack(&w.base);
}

static struct tier_bytes done_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Done p = CONSILIUM__TEAM__DONE__INIT;
    p.job = m->job;
    p.status = (uint32_t)m->status;
    p.reason = (char *)m->reason;
    p.model = binary(m->hash.b, sizeof m->hash.b);
    w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_DONE;
    w.done = &p;
    return tier_wire_pack(&w.base);
}

static struct tier_bytes abort_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Abort p = CONSILIUM__TEAM__ABORT__INIT;
    p.job = m->job;
    p.reason = (char *)m->reason;
    w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_ABORT;
    w.abort = &p;
    return tier_wire_pack(&w.base);
}

static struct tier_bytes part_bytes(const struct tier_team_message *m) {
    uint8_t prefix[TIER_TEAM_PART_PREFIX];
    size_t n = tier_team_part_prefix(m->group, m->from, m->to, m->data_bytes, prefix);
    struct tier_bytes b = {.n = n + m->data_bytes};
    b.data = tier_wire_need(1, b.n);
    memcpy(b.data, prefix, n);
    if (m->data_bytes)
        memcpy(b.data + n, m->data, m->data_bytes);
    return b;
}

struct tier_bytes tier_team_bytes(const struct tier_team_message *m) {
    Message w = CONSILIUM__TEAM__MESSAGE__INIT;
    Consilium__Team__Welcome welcome = CONSILIUM__TEAM__WELCOME__INIT;

    switch (m->type) {
    case TIER_TEAM_HELLO:
        return hello_bytes(m);
    case TIER_TEAM_WELCOME:
        w.kind_case = CONSILIUM__TEAM__MESSAGE__KIND_WELCOME;
        w.welcome = &welcome;
        return tier_wire_pack(&w.base);
    case TIER_TEAM_JOB:
        return job_bytes(m);
    case TIER_TEAM_READY:
        return ready_bytes(m);
    case TIER_TEAM_GRAPH:
        return graph_bytes(m);
    case TIER_TEAM_GO:
        return go_bytes(m);
    case TIER_TEAM_DONE:
        return done_bytes(m);
    case TIER_TEAM_ABORT:
        return abort_bytes(m);
    case TIER_TEAM_PART:
        return part_bytes(m);
    }
    abort();
}

static size_t put_varint(uint8_t *p, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    return n;
}

/* Field f of wire type t is the byte f << 3 | t: all of ours are below 16. */
size_t tier_team_part_prefix(uint64_t group, uint32_t from, uint32_t to, size_t bytes,
                             uint8_t prefix[TIER_TEAM_PART_PREFIX]) {
    uint8_t inner[36];
    size_t n = 0, at = 0;

    inner[n++] = 1 << 3;
    n += put_varint(inner + n, group);
    inner[n++] = 2 << 3;
    n += put_varint(inner + n, from);
    inner[n++] = 3 << 3;
    n += put_varint(inner + n, to);
    inner[n++] = 15 << 3 | 2;
    n += put_varint(inner + n, bytes); /* at most 10 + 5 + 5 + 10 and 4 tags */
    prefix[at++] = 15 << 3 | 2;
    at += put_varint(prefix + at, n + bytes);
    memcpy(prefix + at, inner, n);
    return at + n;
}
