/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A crowd of children in a round, and all of them at once at the door: thousands attend one hub and
 * deliver an update each, every round waits for all. In the second round the hub is killed and
 * started again; the bench says how long it takes until all are back, and the rounds go on.
 */
#include "tests/bench/holders.h"
#include "tier/loop.h"

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 4
#define KILLED_IN 2
#define ATTEND_S 120
#define ROUND_S 60
#define RETURN_S 100

struct crowd {
    const struct bench_options *options;
    struct bench_nodes nodes;
    struct tier_config top;
    struct tier_manifest *manifest;
    struct bench_process hub;
    struct bench_holders holders;
    struct bench_hub_news news;
    double opened[ROUNDS + 2]; /* when the hub opened that round; the last: it was through */
    double all_s;              /* when all attended; 0 before */
};

static void put(struct bench_result *r, const char *key, double v) {
    json_object_set_new(r->detail, key, isnan(v) ? json_null() : json_real(v));
}

/* Hears the hub until `until` holds; false after limit_s, or where the hub has ended. */
static bool hear(struct crowd *c, bool (*until)(const struct crowd *c), unsigned limit_s) {
    double end = bench_now_s() + limit_s;

    while (!until(c)) {
        struct pollfd p = {.fd = c->hub.in, .events = POLLIN};
        double left = end - bench_now_s();
        if (left <= 0 || poll(&p, 1, (int)(left * 1000) + 1) <= 0)
            return until(c);
        if (!bench_process_hear(&c->hub, &c->news, sizeof c->news))
            return false;
        if (c->news.round <= ROUNDS && c->opened[c->news.round] == 0)
            c->opened[c->news.round] = c->news.at_s;
        if (c->news.ended && c->opened[ROUNDS + 1] == 0)
            c->opened[ROUNDS + 1] = c->news.at_s;
        if (c->news.children == c->options->spokes && c->all_s == 0)
            c->all_s = c->news.at_s;
    }
    return true;
}

static bool all_attend(const struct crowd *c) {
    return c->all_s > 0;
}

static bool in_the_second(const struct crowd *c) {
    return c->news.round >= KILLED_IN;
}

static bool ended(const struct crowd *c) {
    return c->news.ended;
}

static enum tier_status configure(struct crowd *c, struct tier_plan *plan, struct tier_err *err) {
    const struct bench_options *o = c->options;
    struct tier_tensor tensor;
    size_t n = 0;

    TIER_TRY(bench_nodes_open(o->work, o->tls, &c->nodes, err));
    TIER_TRY(bench_nodes_config(&c->nodes, TIER_CONFIG_HUB, "top", "", 0, &c->top, err));
    c->top.hub.children_min = o->spokes;
    /* What bet (b) found right for so many: tests/bench/README.md. */
    c->top.keepalive_ms = o->keepalive_ms ? o->keepalive_ms : 10000;
    c->top.keepalive_timeout_ms = o->keepalive_timeout_ms ? o->keepalive_timeout_ms : 20000;
    uint8_t *onnx = bench_onnx(o->bytes / sizeof(float), &tensor, &n);
    enum tier_status st = bench_plan_graph(plan, &c->top, onnx, n, err);
    free(onnx);
    TIER_TRY(st);
    return tier_manifest_new(&tensor, 1, &c->manifest, err);
}

static enum tier_status start_again(struct crowd *c, struct bench_result *r, struct tier_err *err) {
    struct bench_usage after = {0};

    kill(c->hub.pid, SIGKILL);
    double start = bench_now_s();
    snprintf(c->top.hub.listen, sizeof c->top.hub.listen, "127.0.0.1:%d", c->hub.port);
    bench_process_stop(&c->hub);
    c->all_s = 0;
    memset(&c->news, 0, sizeof c->news);
    TIER_TRY(bench_hub_start_watched(&c->top, NULL, 0, &c->hub, err));
    put(r, "restart_s", bench_now_s() - start);
    put(r, "returned_s", hear(c, all_attend, RETURN_S) ? c->all_s - start : NAN);
    put(r, "returned", (double)c->news.children);
    if (bench_usage(c->hub.pid, &after))
        put(r, "return_hub_cpu_s", after.cpu_s);
    return TIER_OK;
}

static enum tier_status measure(struct crowd *c, struct bench_result *r, struct tier_err *err) {
    struct tier_plan plan = bench_plan(ROUNDS);
    struct bench_usage before = {0}, after = {0};

    TIER_TRY(configure(c, &plan, err));
    TIER_TRY(bench_hub_start_watched(&c->top, &plan, 0, &c->hub, err));
    bench_usage(c->hub.pid, &before);
    const struct bench_holders_options holders = {.nodes = &c->nodes,
                                                  .top = &c->top,
                                                  .port = c->hub.port,
                                                  .spokes = c->options->spokes,
                                                  .manifest = c->manifest};
    double start = bench_now_s();
    TIER_TRY(bench_holders_start(&holders, &c->holders, err));
    put(r, "attend_s", hear(c, all_attend, ATTEND_S) ? c->all_s - start : NAN);
    put(r, "attended", (double)c->news.children);
    if (bench_usage(c->hub.pid, &after))
        put(r, "bytes_per_spoke",
            ((double)after.anon_bytes - (double)before.anon_bytes) / (double)c->options->spokes);
    if (!hear(c, in_the_second, ROUND_S))
        return tier_fail(err, TIER_ETIMEOUT, "round 1 with %.0f children did not end in %d s",
                         (double)c->news.children, ROUND_S);
    r->value = c->opened[2] - c->opened[1];
    TIER_TRY(start_again(c, r, err));
    bool through = hear(c, ended, ROUND_S * ROUNDS);
    put(r, "rounds_after_s",
        through ? (c->opened[ROUNDS + 1] - c->opened[KILLED_IN + 1]) / (ROUNDS - KILLED_IN) : NAN);
    put(r, "rounds", through ? ROUNDS : (double)c->news.round);
    if (bench_usage(c->hub.pid, &after))
        put(r, "hub_anon_bytes", (double)after.anon_bytes);
    return through ? TIER_OK
                   : tier_fail(err, TIER_ETIMEOUT, "the rounds did not end after the restart");
}

enum tier_status bench_crowd(const struct bench_options *given, struct bench_result *r,
                             struct tier_err *err) {
    struct bench_options options = *given;
    struct crowd *c = bench_alloc(1, sizeof *c);

    options.spokes = options.spokes ? options.spokes : 10000;
    options.bytes = (options.bytes ? options.bytes : 64 << 10) / sizeof(float) * sizeof(float);
    c->options = &options;
    bench_many_files();
    enum tier_status st = measure(c, r, err);
    put(r, "keepalive_ms", (double)c->top.keepalive_ms);
    put(r, "keepalive_timeout_ms", (double)c->top.keepalive_timeout_ms);
    r->unit = "s";
    bench_holders_stop(&c->holders);
    bench_process_stop(&c->hub);
    tier_manifest_free(c->manifest);
    bench_nodes_close(&c->nodes);
    free(c);
    return st;
}
