/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A trainer's message is bounded before it comes here, and with it what protobuf-c allocates for
 * its metrics.
 */
#include "tier/trainer_wire.h"
#include "tier/wire_field.h"

#include "trainer.pb-c.h"

#include <stdlib.h>
#include <string.h>

typedef Consilium__Trainer__ToSpoke ToSpoke;
typedef Consilium__Trainer__ToTrainer ToTrainer;
typedef Consilium__Trainer__Hello Hello;
typedef Consilium__Trainer__Welcome Welcome;
typedef Consilium__Trainer__Round Round;
typedef Consilium__Trainer__Result Result;
typedef Consilium__Trainer__Metric Metric;
typedef Consilium__Trainer__Over Over;

/* ---- from a trainer ---- */

static enum tier_status take_metrics(const Result *p, struct tier_from_trainer *out,
                                     struct tier_err *err) {
    if (p->n_metrics > TIER_TRAINER_METRICS_MAX)
        return tier_fail(err, TIER_EPROTO, "result.metrics has %zu entries, at most %d are allowed",
                         p->n_metrics, TIER_TRAINER_METRICS_MAX);
    if (p->n_metrics == 0)
        return TIER_OK;
    out->metrics = tier_metrics_new();
    if (!out->metrics)
        return tier_fail(err, TIER_ENOMEM, "no memory for metrics");
    for (size_t i = 0; i < p->n_metrics; i++) {
        const Metric *m = p->metrics[i];
        char name[TIER_NAME_LEN_MAX + 1];
        TIER_TRY(tier_wire_text("result.metrics.name", m->name, name, sizeof name, err));
        if (tier_metrics_get(out->metrics, name, NULL))
            return tier_fail(err, TIER_EPROTO, "result.metrics names %s twice", name);
        if (tier_metrics_add(out->metrics, name, m->n_values, m->values, err) != TIER_OK)
            return tier_fail(
                err, TIER_EPROTO,
                "result.metrics: '%s' with %zu values is no metric: a name of letters, "
                "digits and _.:/- with at least one value would be right",
                name, m->n_values);
    }
    return TIER_OK;
}

static enum tier_status take_result(const Result *p, struct tier_from_trainer *out,
                                    struct tier_err *err) {
    out->job = p->job;
    out->failed = p->failed;
    out->weight = p->weight;
    out->steps = p->steps;
    if (p->weight > TIER_WEIGHT_MAX)
        return tier_fail(err, TIER_EPROTO, "result.weight is out of its bounds");
    TIER_TRY(tier_wire_text("result.reason", p->reason, out->reason, sizeof out->reason, err));
    return take_metrics(p, out, err);
}

enum tier_status tier_from_trainer(const uint8_t *bytes, size_t n, struct tier_from_trainer *out,
                                   struct tier_err *err) {
    struct tier_from_trainer m = {.type = TIER_TRAINER_HELLO};
    ToSpoke *p =
        n <= TIER_TRAINER_SAID_BYTES ? consilium__trainer__to_spoke__unpack(NULL, n, bytes) : NULL;
    enum tier_status st;

    if (!p)
        return tier_wire_unreadable("a trainer's message", n, err);
    if (p->kind_case == CONSILIUM__TRAINER__TO_SPOKE__KIND_HELLO) {
        m.protocol = p->hello->protocol;
        st = tier_wire_text("hello.software", p->hello->software, m.software, sizeof m.software,
                            err);
    } else if (p->kind_case == CONSILIUM__TRAINER__TO_SPOKE__KIND_RESULT) {
        m.type = TIER_TRAINER_RESULT;
        st = take_result(p->result, &m, err);
    } else {
        st = tier_fail(err, TIER_EPROTO, "a trainer's message of no known kind");
    }
    consilium__trainer__to_spoke__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = m;
    else
        tier_from_trainer_release(&m);
    return st;
}

void tier_from_trainer_release(struct tier_from_trainer *m) {
    tier_metrics_free(m->metrics);
    m->metrics = NULL;
}

static struct tier_bytes result_bytes(const struct tier_from_trainer *m) {
    ToSpoke w = CONSILIUM__TRAINER__TO_SPOKE__INIT;
    Result p = CONSILIUM__TRAINER__RESULT__INIT;
    size_t n = m->metrics ? tier_metrics_count(m->metrics) : 0;
    Metric *all = tier_wire_need(n, sizeof *all);
    Metric **each = tier_wire_need(n, sizeof *each);

    p.job = m->job;
    p.failed = m->failed;
    p.reason = (char *)m->reason;
    p.weight = m->weight;
    p.steps = m->steps;
    for (size_t i = 0; i < n; i++) {
        const char *name;
        consilium__trainer__metric__init(&all[i]);
        all[i].values = (int64_t *)tier_metrics_at(m->metrics, i, &name, &all[i].n_values);
        all[i].name = (char *)name;
        each[i] = &all[i];
    }
    p.n_metrics = n;
    p.metrics = each;
    w.kind_case = CONSILIUM__TRAINER__TO_SPOKE__KIND_RESULT;
    w.result = &p;
    struct tier_bytes b = tier_wire_pack(&w.base);
    free(each);
    free(all);
    return b;
}

struct tier_bytes tier_from_trainer_bytes(const struct tier_from_trainer *m) {
    ToSpoke w = CONSILIUM__TRAINER__TO_SPOKE__INIT;
    Hello p = CONSILIUM__TRAINER__HELLO__INIT;

    if (m->type == TIER_TRAINER_RESULT)
        return result_bytes(m);
    p.protocol = m->protocol;
    p.software = (char *)m->software;
    w.kind_case = CONSILIUM__TRAINER__TO_SPOKE__KIND_HELLO;
    w.hello = &p;
    return tier_wire_pack(&w.base);
}

/* ---- to a trainer ---- */

/* A name in the folder, and no way out of it. */
static enum tier_status take_file(const char *field, const char *in, char *out, size_t size,
                                  struct tier_err *err) {
    TIER_TRY(tier_wire_text(field, in, out, size, err));
    if (strchr(in, '/') || *in == '.')
        return tier_fail(err, TIER_EPROTO, "%s is no file name", field);
    return TIER_OK;
}

static enum tier_status take_round(const Round *p, struct tier_to_trainer *out,
                                   struct tier_err *err) {
    out->job = p->job;
    out->round = p->round;
    out->seed = p->seed;
    out->bytes = p->bytes;
    out->weight_max = p->weight_max;
    out->train = p->train;
    out->evaluate = p->evaluate;
    if (p->round == 0 || p->round > TIER_ROUNDS_MAX)
        return tier_fail(err, TIER_EPROTO, "round.round is out of its bounds");
    if (!p->train && !p->evaluate)
        return tier_fail(err, TIER_EPROTO, "round.train or round.evaluate must be set");
    if (p->plan.len == 0 || p->plan.len > TIER_PLAN_BYTES_MAX)
        return tier_fail(err, TIER_EPROTO, "round.plan has %zu bytes, 1 to %u are allowed",
                         p->plan.len, TIER_PLAN_BYTES_MAX);
    TIER_TRY(tier_wire_hash("round.run", p->run, &out->run, err));
    TIER_TRY(take_file("round.model", p->model, out->model, sizeof out->model, err));
    TIER_TRY(take_file("round.result", p->result, out->result, sizeof out->result, err));
    TIER_TRY(tier_wire_text("round.graph", p->graph, out->graph, sizeof out->graph, err));
    out->plan = tier_wire_need(1, p->plan.len);
    memcpy(out->plan, p->plan.data, p->plan.len);
    out->plan_bytes = p->plan.len;
    return TIER_OK;
}

static enum tier_status take_told(const ToTrainer *p, struct tier_to_trainer *out,
                                  struct tier_err *err) {
    switch (p->kind_case) {
    case CONSILIUM__TRAINER__TO_TRAINER__KIND_WELCOME:
        out->type = TIER_TRAINER_WELCOME;
        TIER_TRY(
            tier_wire_text("welcome.spoke", p->welcome->spoke, out->spoke, sizeof out->spoke, err));
        return tier_wire_text("welcome.contract", p->welcome->contract, out->contract,
                              sizeof out->contract, err);
    case CONSILIUM__TRAINER__TO_TRAINER__KIND_ROUND:
        out->type = TIER_TRAINER_ROUND;
        return take_round(p->round, out, err);
    case CONSILIUM__TRAINER__TO_TRAINER__KIND_OVER:
        out->type = TIER_TRAINER_OVER;
        out->job = p->over->job;
        out->taken = p->over->taken;
        return tier_wire_text("over.reason", p->over->reason, out->why, sizeof out->why, err);
    default:
        return tier_fail(err, TIER_EPROTO, "a message to a trainer of no known kind");
    }
}

enum tier_status tier_to_trainer(const uint8_t *bytes, size_t n, struct tier_to_trainer *out,
                                 struct tier_err *err) {
    struct tier_to_trainer m = {.type = TIER_TRAINER_WELCOME};
    ToTrainer *p =
        n <= TIER_MESSAGE_BYTES_MAX ? consilium__trainer__to_trainer__unpack(NULL, n, bytes) : NULL;

    if (!p)
        return tier_wire_unreadable("a message to a trainer", n, err);
    enum tier_status st = take_told(p, &m, err);
    consilium__trainer__to_trainer__free_unpacked(p, NULL);
    if (st == TIER_OK)
        *out = m;
    else
        tier_to_trainer_release(&m);
    return st;
}

void tier_to_trainer_release(struct tier_to_trainer *m) {
    free(m->plan);
    m->plan = NULL;
    m->plan_bytes = 0;
}

static struct tier_bytes round_bytes(const struct tier_to_trainer *m) {
    ToTrainer w = CONSILIUM__TRAINER__TO_TRAINER__INIT;
    Round p = CONSILIUM__TRAINER__ROUND__INIT;

    p.job = m->job;
    p.run = tier_wire_hash_field(&m->run);
    p.round = m->round;
    p.seed = m->seed;
    p.train = m->train;
    p.evaluate = m->evaluate;
    p.model = (char *)m->model;
    p.result = (char *)m->result;
    p.bytes = m->bytes;
    p.weight_max = m->weight_max;
    p.graph = (char *)m->graph;
    p.plan = (ProtobufCBinaryData){m->plan_bytes, (uint8_t *)m->plan};
    w.kind_case = CONSILIUM__TRAINER__TO_TRAINER__KIND_ROUND;
    w.round = &p;
    return tier_wire_pack(&w.base);
}

struct tier_bytes tier_to_trainer_bytes(const struct tier_to_trainer *m) {
    ToTrainer w = CONSILIUM__TRAINER__TO_TRAINER__INIT;
    Welcome welcome = CONSILIUM__TRAINER__WELCOME__INIT;
    Over over = CONSILIUM__TRAINER__OVER__INIT;

    if (m->type == TIER_TRAINER_ROUND)
        return round_bytes(m);
    if (m->type == TIER_TRAINER_WELCOME) {
        welcome.spoke = (char *)m->spoke;
        welcome.contract = (char *)m->contract;
        w.kind_case = CONSILIUM__TRAINER__TO_TRAINER__KIND_WELCOME;
        w.welcome = &welcome;
    } else {
        over.job = m->job;
        over.taken = m->taken;
        over.reason = (char *)m->why;
        w.kind_case = CONSILIUM__TRAINER__TO_TRAINER__KIND_OVER;
        w.over = &over;
    }
    return tier_wire_pack(&w.base);
}
