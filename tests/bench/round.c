/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A round as its children see it: from its announcement to the next one's, with the base model
 * fetched and the update pushed in between by every child. The hub is a process of its own; all
 * children share this one, which is right for two cores and generous to neither side.
 */
#include "tests/bench/bare.h"
#include "tests/bench/children.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUNDS 6 /* where --rounds does not say so */
#define ROUNDS_MAX 100
#define FIRST_COUNTED 2
#define REFERENCE_RUNS 5
#define LONG_BYTES (UINT64_C(8) << 30) /* a reference of more runs once */

struct round_bench {
    const struct bench_options *options;
    struct bench_nodes nodes;
    struct tier_config *config; /* [children], then the two ends of the reference, then the top */
    struct bench_process hub, bare, tcp;
    struct tier_manifest *manifest;
    struct bench_children *children;
    struct tier_loop *loop;
    struct bench_watch *watch;
    uint64_t anon_before; /* peak until round 1 is announced */
    struct bench_usage hub_first, hub_last;
    uint64_t hub_peak, children_peak; /* VmHWM once the rounds are over */
};

static enum tier_status configure(struct round_bench *b, struct tier_err *err) {
    size_t n = b->options->children;
    char name[32];

    b->config = bench_alloc(n + 3, sizeof *b->config);
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "child-%zu", i + 1);
        TIER_TRY(
            bench_nodes_config(&b->nodes, TIER_CONFIG_SPOKE, name, "top", 1, &b->config[i], err));
    }
    TIER_TRY(bench_nodes_config(&b->nodes, TIER_CONFIG_SPOKE, "bare-client", "bare-server", 1,
                                &b->config[n], err));
    TIER_TRY(bench_nodes_config(&b->nodes, TIER_CONFIG_SPOKE, "bare-server", "top", 1,
                                &b->config[n + 1], err));
    return bench_nodes_config(&b->nodes, TIER_CONFIG_HUB, "top", "", 0, &b->config[n + 2], err);
}

static enum tier_status start_hub(struct round_bench *b, struct tier_err *err) {
    struct tier_plan plan = bench_plan(b->options->rounds);
    struct tier_config *top = &b->config[b->options->children + 2];
    uint64_t elements = b->options->bytes / sizeof(float);
    struct tier_tensor tensor;
    size_t n = 0;
    uint8_t *onnx = bench_onnx(elements, &tensor, &n);

    top->hub.children_min = b->options->children;
    if (b->options->uploaders) { /* folded in parts, which bounds the hub's disk */
        top->hub.max_uploaders = b->options->uploaders;
        plan.top.retain = TIER_PLAN_RETAIN_SUMS;
    }
    enum tier_status st = bench_plan_graph(&plan, top, onnx, n, err);
    free(onnx);
    TIER_TRY(st);
    TIER_TRY(tier_manifest_new(&tensor, 1, &b->manifest, err));
    return bench_hub_start(top, &plan, &b->hub, err);
}

static void on_round(void *arg, uint64_t round) {
    struct round_bench *b = arg;
    if (round == 1)
        b->anon_before = bench_watch_peak(b->watch);
    if (round == FIRST_COUNTED)
        bench_usage(b->hub.pid, &b->hub_first);
}

static enum tier_status run_rounds(struct round_bench *b, struct tier_err *err) {
    uint64_t limit_s = b->options->limit_s * 4 / 5; /* the rest is the references' */

    TIER_TRY(tier_loop_new(&b->loop, err));
    enum tier_status st = bench_children_start(b->children, b->loop, b->hub.port, err);
    bench_children_on_round(b->children, on_round, b);
    if (st == TIER_OK &&
        !tier_loop_run_until(b->loop, bench_children_done, b->children, limit_s * 1000))
        st = tier_fail(err, TIER_ETIMEOUT, "%d rounds did not end within %d s",
                       (int)b->options->rounds, (int)limit_s);
    bench_usage(b->hub.pid, &b->hub_last);
    b->hub_peak = bench_resident_peak(b->hub.pid);
    b->children_peak = bench_resident_peak(0);
    if (st == TIER_OK)
        st = bench_children_status(b->children, err);
    return st;
}

/* The bytes of a round are those of its updates and of as many base models. */
static enum tier_status references(struct round_bench *b, double *bare_s, double *tcp_s,
                                   json_t *detail, struct tier_err *err) {
    size_t n = b->options->children;
    struct bench_bare *bare = NULL;
    int runs = 2 * n * b->options->bytes > LONG_BYTES ? 1 : REFERENCE_RUNS;
    double bare_runs[REFERENCE_RUNS], tcp_runs[REFERENCE_RUNS];
    enum tier_status st =
        bench_bare_open(&b->config[n], "bare-server", b->bare.port, n, &bare, err);

    for (int i = 0; i < runs && st == TIER_OK; i++) {
        st = bench_bare_push(bare, 2 * b->options->bytes, &bare_runs[i], err);
        if (st == TIER_OK)
            st = bench_tcp_push(b->tcp.port, n, 2 * b->options->bytes, &tcp_runs[i], err);
    }
    bench_bare_close(bare);
    TIER_TRY(st);
    *bare_s = bench_median(bare_runs, (size_t)runs);
    *tcp_s = bench_median(tcp_runs, (size_t)runs);
    json_object_set_new(detail, "bare_grpc_s", bench_spread(bare_runs, (size_t)runs));
    json_object_set_new(detail, "tcp_s", bench_spread(tcp_runs, (size_t)runs));
    return TIER_OK;
}

static void report(struct round_bench *b, double bare_s, struct bench_result *r) {
    const double *t = bench_children_times(b->children);
    const int all = (int)b->options->rounds, counted = all - FIRST_COUNTED + 1;
    double lengths[ROUNDS_MAX], fetch[ROUNDS_MAX], push[ROUNDS_MAX], fold[ROUNDS_MAX];
    json_t *rounds = json_array();

    for (int i = 1; i <= all; i++) {
        double length = t[i + 1] - t[i];
        json_array_append_new(rounds, json_real(length));
        if (i < FIRST_COUNTED)
            continue;
        struct bench_phases p = bench_children_phases(b->children, (uint64_t)i);
        lengths[i - FIRST_COUNTED] = length;
        fetch[i - FIRST_COUNTED] = p.fetch_s;
        push[i - FIRST_COUNTED] = p.push_s;
        fold[i - FIRST_COUNTED] = p.fold_s;
    }
    r->value = bench_median(lengths, counted);
    r->unit = "s";
    r->against = "a bare gRPC C core stream of the same bytes to a discarding server";
    r->ratio = r->value / bare_s;
    json_object_set_new(r->detail, "children", json_integer((json_int_t)b->options->children));
    json_object_set_new(r->detail, "bytes", json_integer((json_int_t)b->options->bytes));
    json_object_set_new(r->detail, "tls", json_boolean(b->options->tls));
    json_object_set_new(r->detail, "round_s", rounds);
    json_object_set_new(r->detail, "fetch_s", json_real(bench_median(fetch, counted)));
    json_object_set_new(r->detail, "push_s", json_real(bench_median(push, counted)));
    json_object_set_new(r->detail, "fold_s", json_real(bench_median(fold, counted)));
    json_object_set_new(r->detail, "hub_anon_bytes",
                        json_integer((json_int_t)bench_watch_peak(b->watch)));
    json_object_set_new(r->detail, "hub_anon_bytes_before_round_1",
                        json_integer((json_int_t)b->anon_before));
    json_object_set_new(r->detail, "hub_hwm_bytes", json_integer((json_int_t)b->hub_peak));
    json_object_set_new(r->detail, "children_hwm_bytes",
                        json_integer((json_int_t)b->children_peak));
    json_object_set_new(r->detail, "lost_streams",
                        json_integer((json_int_t)bench_children_lost(b->children)));
    json_object_set_new(r->detail, "hub_cpu_s_per_round",
                        json_real((b->hub_last.cpu_s - b->hub_first.cpu_s) / counted));
}

enum tier_status bench_round(const struct bench_options *given, struct bench_result *r,
                             struct tier_err *err) {
    struct bench_options options = *given;
    struct round_bench b = {.options = &options};
    double bare_s = NAN, tcp_s = NAN;
    enum tier_status st;

    options.children = options.children ? options.children : 8;
    options.rounds = options.rounds ? options.rounds : ROUNDS;
    options.bytes = (options.bytes ? options.bytes : 4000000) / 4 * 4;
    size_t n = options.children;
    TIER_TRY_OUT(bench_nodes_open(options.work, options.tls, &b.nodes, err));
    TIER_TRY_OUT(configure(&b, err));
    TIER_TRY_OUT(start_hub(&b, err));
    TIER_TRY_OUT(bench_bare_serve(&b.config[n + 1], &b.bare, err));
    TIER_TRY_OUT(bench_tcp_serve(&b.tcp, err));
    const struct bench_children_options children = {
        .count = n, .configs = b.config, .manifest = b.manifest, .rounds = options.rounds};
    TIER_TRY_OUT(bench_children_new(&children, &b.children, err));
    b.watch = bench_watch_new(b.hub.pid);
    TIER_TRY_OUT(run_rounds(&b, err));
    TIER_TRY_OUT(references(&b, &bare_s, &tcp_s, r->detail, err));
    report(&b, bare_s, r);
    json_object_set_new(r->detail, "ratio_to_tcp", json_real(r->value / tcp_s));
out:
    bench_watch_free(b.watch);
    bench_process_stop(&b.hub);
    bench_process_stop(&b.bare);
    bench_process_stop(&b.tcp);
    bench_children_free(b.children);
    tier_loop_free(b.loop);
    tier_manifest_free(b.manifest);
    free(b.config);
    bench_nodes_close(&b.nodes);
    return st;
}
