/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One job at a time, asked for by the worker and carried by the loop: what the two share is under
 * one lock, and the worker sleeps on it. A job is one try: where the trainer is lost the next try
 * is another job with files of its own, so that nothing of an old trainer can reach into it.
 */
#include "spoke/trainer.h"

#include "spoke/trainer_files.h"
#include "tier/fedcurv.h"
#include "tier/log.h"
#include "tier/nova.h"
#include "tier/rpc.h"
#include "tier/score.h"
#include "tier/stale.h"
#include "tier/task.h"
#include "tier/statistics.h"
#include "tier/trainer_wire.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOST_MAX 5

enum job_state {
    IDLE,
    TOLD,     /* the trainer has it, or is about to */
    ANSWERED, /* the result is here */
    LOST,     /* the trainer is */
};

struct spoke_trainer {
    const struct tier_config *config;
    struct tier_loop *loop;
    struct tier_rpc_server *server;
    struct tier_rpc_call *call; /* the trainer's; the loop's */
    int dir;
    struct spoke_trainer_files files; /* the worker's */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t moved;
    bool stopping, here;
    uint64_t gone_ms; /* since when none is here */
    bool active;      /* between _begin and _end: */
    struct tier_hash run;
    uint64_t round;
    bool over; /* it is, whatever comes of the job */
    uint64_t job;
    uint64_t late; /* the last job that the trainer has and that was called off: its result may
                    * come, and those of the jobs before */
    enum job_state state;
    struct tier_bytes offer; /* the Round of this job, until it was sent */
    struct tier_from_trainer result;
};

/* ---- the loop's ---- */

static void say(struct spoke_trainer *t, struct tier_bytes b) {
    if (t->call && !tier_rpc_send(t->call, b.data, b.n))
        tier_rpc_cancel(t->call);
    free(b.data);
}

static void send_offer(void *arg) {
    struct spoke_trainer *t = arg;

    pthread_mutex_lock(&t->lock);
    struct tier_bytes b = t->offer;
    t->offer = (struct tier_bytes){0};
    bool lost = b.data && t->state == TOLD && !t->here;
    if (lost)
        t->state = LOST;
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
    if (b.data && !lost)
        say(t, b);
    else
        free(b.data);
}

struct verdict {
    struct spoke_trainer *trainer;
    struct tier_to_trainer message;
};

static void send_verdict(void *arg) {
    struct verdict *v = arg;
    say(v->trainer, tier_to_trainer_bytes(&v->message));
    free(v);
}

static void refuse(struct tier_rpc_call *call, enum tier_status st, const char *why) {
    tier_log_warn("a trainer is refused: %s", why);
    tier_rpc_finish(call, st, why);
}

static void trainer_left(struct spoke_trainer *t, const char *text) {
    t->call = NULL;
    pthread_mutex_lock(&t->lock);
    t->here = false;
    t->late = 0;
    t->gone_ms = tier_clock_ms();
    if (t->state == TOLD)
        t->state = LOST;
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
    tier_log_warn("the trainer has gone: %s", text);
}

static void on_hello(struct spoke_trainer *t, struct tier_rpc_call *call,
                     const struct tier_from_trainer *h) {
    struct tier_to_trainer welcome = {.type = TIER_TRAINER_WELCOME};
    char why[160];

    if (h->protocol != TIER_TRAINER_PROTOCOL) {
        snprintf(why, sizeof why, "it speaks protocol %u, this spoke %u", h->protocol,
                 TIER_TRAINER_PROTOCOL);
        refuse(call, TIER_EPOLICY, why);
        return;
    }
    if (t->call) {
        refuse(call, TIER_ECONFLICT, "another trainer is here: one trains for a spoke");
        return;
    }
    t->call = call;
    snprintf(welcome.spoke, sizeof welcome.spoke, "%s", t->config->name);
    snprintf(welcome.contract, sizeof welcome.contract, "%s", t->config->spoke.trainer_contract);
    say(t, tier_to_trainer_bytes(&welcome));
    pthread_mutex_lock(&t->lock);
    t->here = true;
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
    tier_log_info("a trainer is here: %s", *h->software ? h->software : "without a name");
}

/* Takes r where it is the job's. One for a job that was called off may have been on its way. */
static void on_result(struct spoke_trainer *t, struct tier_rpc_call *call,
                      struct tier_from_trainer *r) {
    char why[160] = "";

    pthread_mutex_lock(&t->lock);
    if (t->state == TOLD && r->job == t->job) {
        t->result = *r;
        r->metrics = NULL;
        t->state = ANSWERED;
        pthread_cond_broadcast(&t->moved);
    } else if (r->job == 0 || r->job > t->late) {
        snprintf(why, sizeof why,
                 "a result for job %" PRIu64 ", and the last one asked for is %" PRIu64, r->job,
                 t->job);
    }
    pthread_mutex_unlock(&t->lock);
    if (*why)
        refuse(call, TIER_EPROTO, why);
}

static void on_opened(struct tier_rpc_call *call) {
    tier_rpc_read(call);
}

static void on_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct spoke_trainer *t = tier_rpc_user(call);
    struct tier_from_trainer m;
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(message);
    const uint8_t *bytes = tier_rpc_message_flat(message, TIER_TRAINER_SAID_BYTES);

    if (!bytes || tier_from_trainer(bytes, n, &m, &err) != TIER_OK) {
        refuse(call, TIER_EPROTO, bytes ? err.text : "its message is too long");
        return;
    }
    if (m.type == TIER_TRAINER_HELLO && call != t->call)
        on_hello(t, call, &m);
    else if (m.type == TIER_TRAINER_RESULT && call == t->call)
        on_result(t, call, &m);
    else
        refuse(call, TIER_EPROTO, "it must say Hello first, and once");
    tier_from_trainer_release(&m);
    tier_rpc_read(call);
}

static void on_half_closed(struct tier_rpc_call *call) {
    tier_rpc_finish(call, TIER_OK, "");
}

static void on_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct spoke_trainer *t = tier_rpc_user(call);
    if (call == t->call)
        trainer_left(t, status == TIER_OK ? "it has left" : text);
}

static const struct tier_rpc_handler attend_handler = {
    .opened = on_opened,
    .message = on_message,
    .half_closed = on_half_closed,
    .closed = on_closed,
};

static const struct tier_rpc_method methods[] = {{TIER_PATH_TRAINER_ATTEND, &attend_handler}};

void spoke_trainer_over(struct spoke_trainer *t, const struct tier_hash *run, uint64_t round) {
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    if (t->active && tier_hash_equal(&t->run, run) && t->round <= round)
        t->over = true;
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
}

/* ---- the worker's ---- */

enum tier_status spoke_trainer_takes(const struct tier_plan *plan, struct tier_err *err) {
    if (!plan->scaffold && !tier_fedcurv_on(plan))
        return TIER_OK;
    return tier_fail(err, TIER_EUNIMPLEMENTED,
                     "local.%s changes every step of training: this site's own trainer trains by "
                     "itself and cannot be made to",
                     plan->scaffold ? "scaffold" : "curvature");
}

/* With the lock held. */
static enum tier_status called_off(const struct spoke_trainer *t, struct tier_err *err) {
    if (t->stopping)
        return tier_fail(err, TIER_ECANCELLED, "the spoke is stopping");
    if (t->over)
        return tier_fail(err, TIER_ECANCELLED, "the round is over");
    return TIER_OK;
}

/* Until there is a trainer. With the lock held. */
static enum tier_status wait_for_one(struct spoke_trainer *t, struct tier_err *err) {
    enum tier_status st = called_off(t, err);
    uint64_t began = tier_clock_ms();
    uint64_t since = t->gone_ms > began ? t->gone_ms : began;

    while (st == TIER_OK && !t->here) {
        uint64_t end = since + t->config->spoke.trainer_wait_s * 1000;
        struct timespec at = {(time_t)(end / 1000), (long)(end % 1000) * 1000000};
        if (tier_clock_ms() >= end)
            return tier_fail(err, TIER_EUNAVAILABLE,
                             "this site's trainer has not been there for %" PRIu64
                             " s (trainer.wait_s)",
                             t->config->spoke.trainer_wait_s);
        pthread_cond_timedwait(&t->moved, &t->lock, &at);
        st = called_off(t, err);
    }
    return st;
}

static struct tier_bytes offer_of(struct spoke_trainer *t, const struct spoke_trainer_order *order,
                                  char *plan, size_t plan_bytes) {
    struct tier_to_trainer m = {.type = TIER_TRAINER_ROUND,
                                .job = t->job,
                                .run = *order->run,
                                .round = order->round,
                                .seed = order->seed,
                                .train = order->train,
                                .evaluate = order->evaluate,
                                .bytes = t->files.bytes,
                                .weight_max = TIER_WEIGHT_MAX,
                                .plan = plan,
                                .plan_bytes = plan_bytes};
    if (order->plan->weight_total_max < m.weight_max)
        m.weight_max = order->plan->weight_total_max;
    snprintf(m.model, sizeof m.model, "%s", t->files.model);
    snprintf(m.result, sizeof m.result, "%s", t->files.result);
    snprintf(m.graph, sizeof m.graph, "%s", order->graph_path);
    return tier_to_trainer_bytes(&m);
}

/* One try: TIER_OK with the result in t->result, or with *lost_out: there is none, for the trainer
 * was lost. */
static enum tier_status ask(struct spoke_trainer *t, const struct spoke_trainer_order *order,
                            char *plan, size_t plan_bytes, const float *all, bool *lost_out,
                            struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    spoke_trainer_files_drop(&t->files);
    pthread_mutex_lock(&t->lock);
    enum tier_status st = wait_for_one(t, err);
    uint64_t job = ++t->job;
    pthread_mutex_unlock(&t->lock);
    if (st != TIER_OK)
        return st;
    TIER_TRY(spoke_trainer_files_make(t->dir, tier_hash_hex(order->run, hex), order->round, job,
                                      order->graph, all, order->train, &t->files, err));
    pthread_mutex_lock(&t->lock);
    t->offer = offer_of(t, order, plan, plan_bytes);
    t->state = TOLD;
    tier_loop_post(t->loop, send_offer, t);
    while (t->state == TOLD && (st = called_off(t, err)) == TIER_OK)
        pthread_cond_wait(&t->moved, &t->lock);
    *lost_out = st == TIER_OK && t->state == LOST;
    if (t->state == TOLD)
        t->late = job;
    t->state = IDLE;
    pthread_mutex_unlock(&t->lock);
    return st;
}

/* What the trainer says against what may be. */
static enum tier_status check(const struct spoke_trainer_order *order,
                              const struct tier_from_trainer *r, struct tier_err *err) {
    if (r->failed)
        return tier_fail(err, TIER_EPLAN, "this site's trainer has failed: %s",
                         *r->reason ? r->reason : "it gives no reason");
    if (r->weight > order->plan->weight_total_max)
        return tier_fail(err, TIER_EUPDATE,
                         "the trainer claims a weight of %" PRIu64
                         ": the plan's exact.weight_total_max is %" PRIu64,
                         r->weight, order->plan->weight_total_max);
    if (!order->train && r->weight > 0)
        return tier_fail(err, TIER_EUPDATE, "the trainer claims a weight where nothing is trained");
    if (r->weight > 0 && r->steps == 0)
        return tier_fail(err, TIER_EUPDATE,
                         "the trainer claims a weight and no step of training: the number of steps "
                         "would be right");
    if (!order->evaluate && r->metrics)
        return tier_fail(err, TIER_EUPDATE, "the trainer has metrics where nothing is evaluated");
    if (r->metrics && (tier_metrics_get(r->metrics, TIER_NOVA_METRIC, NULL) ||
                       tier_metrics_get(r->metrics, TIER_STALE_METRIC, NULL)))
        return tier_fail(err, TIER_EUPDATE,
                         "the trainer has metrics that are no scores: nodes add those");
    TIER_TRY(tier_task_metrics_check(r->metrics, err));
    TIER_TRY(tier_statistics_check(order->plan, r->metrics, err));
    TIER_TRY(tier_task_classes_check(r->metrics, tier_graph_classes(order->graph), err));
    if (order->evaluate && (!r->metrics || !tier_metrics_get(r->metrics, TIER_SCORE_COUNT, NULL)))
        return tier_fail(err, TIER_EUPDATE,
                         "the trainer has not evaluated: metrics with a count would be right");
    return TIER_OK;
}

enum tier_status spoke_trainer_begin(struct spoke_trainer *t,
                                     const struct spoke_trainer_order *order, float *all,
                                     struct spoke_trainer_result *out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    char *plan = NULL;
    size_t bytes = 0;
    bool lost = true;

    pthread_mutex_lock(&t->lock);
    t->active = true;
    t->over = atomic_load(order->over) >= order->round;
    t->run = *order->run;
    t->round = order->round;
    pthread_mutex_unlock(&t->lock);
    TIER_TRY(tier_plan_canonical(order->plan, &plan, &bytes, NULL, err));
    for (int try = 0; lost && try < LOST_MAX; try++) {
        lost = false;
        st = ask(t, order, plan, bytes, all, &lost, err);
    }
    free(plan);
    if (lost)
        st = tier_fail(err, TIER_EUNAVAILABLE, "the trainer was lost %d times in this round",
                       LOST_MAX);
    if (st != TIER_OK)
        return st;
    struct tier_from_trainer *r = &t->result;
    st = check(order, r, err);
    if (st == TIER_OK && r->weight > 0)
        st = spoke_trainer_files_read(&t->files, all, err);
    if (st == TIER_OK)
        *out = (struct spoke_trainer_result){r->weight, r->steps, r->metrics};
    else
        tier_metrics_free(r->metrics);
    r->metrics = NULL;
    return st;
}

enum tier_status spoke_trainer_end(struct spoke_trainer *t, enum tier_status st,
                                   const struct tier_err *err) {
    struct verdict *v = calloc(1, sizeof *v);

    if (!v)
        abort();
    spoke_trainer_files_drop(&t->files);
    pthread_mutex_lock(&t->lock);
    t->active = false;
    *v = (struct verdict){t, {.type = TIER_TRAINER_OVER, .job = t->job, .taken = st == TIER_OK}};
    pthread_mutex_unlock(&t->lock);
    if (st != TIER_OK)
        snprintf(v->message.why, sizeof v->message.why, "%s", err->text);
    tier_loop_post(t->loop, send_verdict, v);
    return st;
}

/* ---- life cycle ---- */

enum tier_status spoke_trainer_open(const struct tier_config *config, struct tier_loop *loop,
                                    struct spoke_trainer **out, struct tier_err *err) {
    /* The kernel tells of a process that ends; one that only computes is not probed. */
    static const struct tier_rpc_keepalive patient = {.time_ms = 3600000, .timeout_ms = 60000};
    char address[TIER_CONFIG_PATH_BYTES + 16];
    struct spoke_trainer *t = calloc(1, sizeof *t);
    pthread_condattr_t monotonic;
    enum tier_status st;

    if (!t)
        return tier_fail(err, TIER_ENOMEM, "no memory for a trainer's socket");
    *t = (struct spoke_trainer){.config = config, .loop = loop, .dir = -1};
    t->gone_ms = tier_clock_ms();
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    TIER_TRY_OUT(spoke_trainer_dir_open(config->spoke.trainer_dir, &t->dir, err));
    snprintf(address, sizeof address, "unix:%s/%s", config->spoke.trainer_dir,
             SPOKE_TRAINER_SOCKET);
    TIER_TRY_OUT(
        tier_rpc_server_new(loop, address, NULL, &patient, methods, 1, t, &t->server, err));
    tier_log_info("training on what a trainer has: it is awaited at %s/%s",
                  config->spoke.trainer_dir, SPOKE_TRAINER_SOCKET);
    *out = t;
out:
    if (st != TIER_OK)
        spoke_trainer_close(t);
    return st;
}

void spoke_trainer_stop(struct spoke_trainer *t) {
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_broadcast(&t->moved);
    pthread_mutex_unlock(&t->lock);
}

void spoke_trainer_close(struct spoke_trainer *t) {
    if (!t)
        return;
    tier_rpc_server_free(t->server);
    spoke_trainer_files_drop(&t->files);
    if (t->dir >= 0)
        close(t->dir);
    free(t->offer.data);
    tier_from_trainer_release(&t->result);
    pthread_cond_destroy(&t->moved);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
