/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many children on one hub. Eight processes hold an equal share of the streams each; eight more
 * children run rounds beside them, so that the hub is as busy as it ever is. Then one holder is
 * stopped as by a dead network (SIGSTOP: its sockets stay open and silent) and comes back, and
 * another is killed; the hub says when it has noticed. Its certificate is loaded anew every second
 * throughout.
 */
#include "tests/bench/children.h"
#include "tests/bench/holders.h"
#include "tier/loop.h"

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UPLOADERS 8
#define ROUNDS_MAX 10000
#define IDLE_S 10
#define RELOAD_MS 1000
#define ATTEND_S 150
#define NOTICE_S 30
#define RETURN_S 80 /* they spread their return: tier/limits.h */

struct scale {
    const struct bench_options *options;
    struct bench_nodes nodes;
    struct tier_config top, *uploaders;
    struct tier_manifest *manifest;
    struct bench_process hub;
    struct bench_holders holders;
    struct bench_children *children;
    struct tier_loop *loop;
    struct bench_hub_news news;
    uint64_t wanted, rounds;
    bool more; /* wait until at least `wanted` attend, else at most */
};

/* ---- the hub's news ---- */

/* Takes what is there without waiting. */
static void hear_news(struct scale *s) {
    struct pollfd p = {.fd = s->hub.in, .events = POLLIN};
    while (poll(&p, 1, 0) > 0 && bench_process_hear(&s->hub, &s->news, sizeof s->news))
        ;
}

static bool news_enough(void *arg) {
    struct scale *s = arg;
    struct pollfd p = {.fd = s->hub.in, .events = POLLIN};
    bool enough = false;
    /* One by one, so that the time of the first that is enough stands. */
    while (!enough && poll(&p, 1, 0) > 0 && bench_process_hear(&s->hub, &s->news, sizeof s->news))
        enough = s->more ? s->news.children >= s->wanted : s->news.children <= s->wanted;
    return enough || (s->more ? s->news.children >= s->wanted : s->news.children <= s->wanted) ||
           bench_children_done(s->children);
}

/* Seconds since `start` until the hub counted so many children (uploaders included); NAN: it did
 * not within limit_s from now. */
static double until(struct scale *s, double start, uint64_t wanted, bool more, unsigned limit_s) {
    uint64_t end = tier_clock_ms() + limit_s * 1000u;
    s->wanted = wanted;
    s->more = more;
    /* Short runs of the loop, because news comes by a pipe that does not wake it. */
    while (tier_clock_ms() < end && !news_enough(s))
        tier_loop_run_until(s->loop, news_enough, s, 20);
    bool held = more ? s->news.children >= wanted : s->news.children <= wanted;
    return held ? s->news.at_s - start : NAN;
}

static bool never(void *arg) {
    (void)arg;
    return false;
}

/* ---- set-up ---- */

static void on_round(void *arg, uint64_t round) {
    ((struct scale *)arg)->rounds = round;
}

static enum tier_status configure(struct scale *s, struct tier_err *err) {
    const struct bench_options *o = s->options;
    struct tier_plan plan = bench_plan(ROUNDS_MAX);
    struct tier_tensor tensor;
    char name[32];
    size_t n = 0;

    TIER_TRY(bench_nodes_open(o->work, o->tls, &s->nodes, err));
    TIER_TRY(bench_nodes_config(&s->nodes, TIER_CONFIG_HUB, "top", "", 0, &s->top, err));
    s->top.hub.children_min = UPLOADERS;
    s->top.keepalive_ms = o->keepalive_ms ? o->keepalive_ms : s->top.keepalive_ms;
    s->top.keepalive_timeout_ms =
        o->keepalive_timeout_ms ? o->keepalive_timeout_ms : s->top.keepalive_timeout_ms;
    uint8_t *onnx = bench_onnx(o->bytes / sizeof(float), &tensor, &n);
    enum tier_status st = bench_plan_graph(&plan, &s->top, onnx, n, err);
    free(onnx);
    TIER_TRY(st);
    TIER_TRY(tier_manifest_new(&tensor, 1, &s->manifest, err));
    TIER_TRY(bench_hub_start_watched(&s->top, &plan, RELOAD_MS, &s->hub, err));
    s->uploaders = bench_alloc(UPLOADERS, sizeof *s->uploaders);
    for (size_t i = 0; i < UPLOADERS; i++) {
        snprintf(name, sizeof name, "uploader-%zu", i + 1);
        TIER_TRY(bench_nodes_config(&s->nodes, TIER_CONFIG_SPOKE, name, "top", 1, &s->uploaders[i],
                                    err));
        s->uploaders[i].keepalive_ms = s->top.keepalive_ms;
        s->uploaders[i].keepalive_timeout_ms = s->top.keepalive_timeout_ms;
    }
    const struct bench_children_options children = {
        .count = UPLOADERS, .configs = s->uploaders, .manifest = s->manifest, .rounds = ROUNDS_MAX};
    return bench_children_new(&children, &s->children, err);
}

static enum tier_status start_holders(struct scale *s, struct tier_err *err) {
    const struct bench_holders_options options = {
        .nodes = &s->nodes, .top = &s->top, .port = s->hub.port, .spokes = s->options->spokes};
    return bench_holders_start(&options, &s->holders, err);
}

/* ---- the measurement ---- */

static void put(struct bench_result *r, const char *key, double v) {
    json_object_set_new(r->detail, key, isnan(v) ? json_null() : json_real(v));
}

/* CPU seconds of the hub and of all holders in each second of the next IDLE_S. */
static void idle(struct scale *s, struct bench_result *r) {
    struct bench_usage before = {0}, after = {0}, one;
    double holders = 0;

    for (int k = 0; k < BENCH_HOLDERS; k++)
        holders -= bench_usage(s->holders.process[k].pid, &one) ? one.cpu_s : 0;
    bench_usage(s->hub.pid, &before);
    tier_loop_run_until(s->loop, never, NULL, IDLE_S * 1000);
    bench_usage(s->hub.pid, &after);
    for (int k = 0; k < BENCH_HOLDERS; k++)
        holders += bench_usage(s->holders.process[k].pid, &one) ? one.cpu_s : 0;
    hear_news(s);
    put(r, "idle_hub_cpu", (after.cpu_s - before.cpu_s) / IDLE_S);
    put(r, "idle_clients_cpu", holders / IDLE_S);
    put(r, "attended_after_idle", (double)s->news.children);
}

static void lose(struct scale *s, struct bench_result *r) {
    uint64_t all = s->options->spokes + UPLOADERS, share = s->options->spokes / BENCH_HOLDERS;
    double start = bench_now_s();

    kill(s->holders.process[0].pid, SIGSTOP);
    put(r, "stopped_noticed_first_s", until(s, start, all - 1, false, NOTICE_S));
    put(r, "stopped_noticed_all_s", until(s, start, all - share, false, NOTICE_S));
    start = bench_now_s();
    kill(s->holders.process[0].pid, SIGCONT);
    put(r, "returned_s", until(s, start, all, true, RETURN_S));
    hear_news(s);
    uint64_t now = s->news.children;
    start = bench_now_s();
    kill(s->holders.process[1].pid, SIGKILL);
    put(r, "killed_noticed_all_s", until(s, start, now - share, false, NOTICE_S));
    put(r, "attended_at_end", (double)s->news.children);
}

static enum tier_status measure(struct scale *s, struct bench_result *r, struct tier_err *err) {
    struct bench_usage before = {0}, after = {0}, busy = {0};
    uint64_t spokes = s->options->spokes;

    bench_usage(s->hub.pid, &before);
    TIER_TRY(start_holders(s, err));
    TIER_TRY(tier_loop_new(&s->loop, err));
    put(r, "attend_s", until(s, bench_now_s(), spokes, true, ATTEND_S));
    bench_usage(s->hub.pid, &after);
    r->value = (double)s->news.children;
    put(r, "attended", r->value);
    put(r, "bytes_per_spoke",
        ((double)after.anon_bytes - (double)before.anon_bytes) / (r->value > 0 ? r->value : 1));
    put(r, "attend_hub_cpu_s", after.cpu_s - before.cpu_s);
    idle(s, r);
    bench_children_on_round(s->children, on_round, s);
    TIER_TRY(bench_children_start(s->children, s->loop, s->hub.port, err));
    until(s, bench_now_s(), spokes + UPLOADERS, true, NOTICE_S);
    tier_loop_run_until(s->loop, never, NULL, 3000);
    hear_news(s);
    put(r, "attended_with_uploads", (double)s->news.children);
    double start = bench_now_s();
    uint64_t rounds = s->rounds;
    lose(s, r);
    bench_usage(s->hub.pid, &busy);
    put(r, "rounds_meanwhile_s", (bench_now_s() - start) / (double)(s->rounds - rounds));
    put(r, "hub_anon_bytes", (double)busy.anon_bytes);
    put(r, "uploaders_lost", (double)bench_children_lost(s->children));
    put(r, "reloads", (double)s->news.reloads);
    return bench_children_status(s->children, err);
}

enum tier_status bench_scale(const struct bench_options *given, struct bench_result *r,
                             struct tier_err *err) {
    struct bench_options options = *given;
    struct scale *s = bench_alloc(1, sizeof *s);

    options.spokes = options.spokes ? options.spokes : 10000;
    options.bytes = (options.bytes ? options.bytes : 16 << 20) / sizeof(float) * sizeof(float);
    s->options = &options;
    bench_many_files();
    enum tier_status st = configure(s, err);
    if (st == TIER_OK)
        st = measure(s, r, err);
    put(r, "keepalive_ms", (double)s->top.keepalive_ms);
    put(r, "keepalive_timeout_ms", (double)s->top.keepalive_timeout_ms);
    r->unit = "spokes";
    r->against = "the spokes asked for";
    r->ratio = r->value / (double)options.spokes;
    bench_holders_stop(&s->holders);
    bench_process_stop(&s->hub);
    bench_children_free(s->children);
    tier_loop_free(s->loop);
    tier_manifest_free(s->manifest);
    bench_nodes_close(&s->nodes);
    free(s->uploaders);
    free(s);
    return st;
}
