/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/nodes.h"
#include "hub/hub.h"
#include "spoke/spoke.h"
#include "tier/authority.h"
#include "tier/content.h"
#include "tier/enroll.h"
#include "tier/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum tier_status bench_nodes_open(const char *dir, bool tls, struct bench_nodes *out,
                                  struct tier_err *err) {
    char path[sizeof out->dir + 16];
    int64_t now_s = tier_wall_ms() / 1000;

    memset(out, 0, sizeof *out);
    snprintf(out->dir, sizeof out->dir, "%s", dir);
    out->tls = tls;
    if (!tls)
        return TIER_OK;
    snprintf(path, sizeof path, "%s/authority", dir);
    TIER_TRY(tier_authority_init(path, "bench-authority", 30, now_s, err));
    return tier_authority_open(path, &out->authority, err);
}

void bench_nodes_close(struct bench_nodes *nodes) {
    tier_authority_close(nodes->authority);
    nodes->authority = NULL;
}

enum tier_status bench_nodes_config(const struct bench_nodes *nodes, enum tier_config_kind kind,
                                    const char *name, const char *parent, int port,
                                    struct tier_config *out, struct tier_err *err) {
    struct tier_config *c = out;

    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->tls = nodes->tls;
    c->log_level = TIER_LOG_WARN;
    c->keepalive_ms = 3000;
    c->keepalive_timeout_ms = 1500;
    c->role = kind == TIER_CONFIG_SPOKE ? TIER_ROLE_SPOKE : *parent ? TIER_ROLE_HUB : TIER_ROLE_TOP;
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->data_dir, sizeof c->data_dir, "%s/%s", nodes->dir, name);
    if (*parent) {
        snprintf(c->parent_address, sizeof c->parent_address, "127.0.0.1:%d", port);
        snprintf(c->parent_name, sizeof c->parent_name, "%s", parent);
    }
    if (kind == TIER_CONFIG_HUB) {
        snprintf(c->hub.listen, sizeof c->hub.listen, "127.0.0.1:0");
        c->hub.children_min = 1;
        c->hub.max_uploaders = 64;
        c->hub.memory_budget_mb = 64;
    }
    if (mkdir(c->data_dir, 0700) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", c->data_dir);
    return nodes->tls ? tier_enroll_local(nodes->authority, name, (enum tier_role)c->role,
                                          c->data_dir, false, tier_wall_ms() / 1000, err)
                      : TIER_OK;
}

/* ---- processes ---- */

enum tier_status bench_process_start(bench_process_main *fn, void *arg, struct bench_process *out,
                                     struct tier_err *err) {
    int up[2], down[2];

    *out = (struct bench_process){.in = -1, .out = -1};
    if (pipe(up) != 0 || pipe(down) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make a pipe");
    fflush(NULL);
    out->pid = fork();
    if (out->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(up[0]);
        close(down[1]);
        fn(arg, up[1], down[0]);
        _exit(0);
    }
    close(up[1]);
    close(down[0]);
    out->in = up[0];
    out->out = down[1];
    if (out->pid < 0)
        return tier_fail_errno(err, TIER_EIO, "cannot fork");
    if (!bench_process_hear(out, &out->port, sizeof out->port)) {
        bench_process_stop(out);
        return tier_fail(err, TIER_EIO, "a process of the bench could not start; it said why");
    }
    return TIER_OK;
}

void bench_process_stop(struct bench_process *p) {
    if (p->pid <= 0)
        return;
    close(p->in);
    close(p->out);
    kill(p->pid, SIGKILL);
    waitpid(p->pid, NULL, 0);
    p->pid = 0;
}

void bench_process_say(int say, const void *data, size_t n) {
    if (write(say, data, n) != (ssize_t)n)
        _exit(1);
}

bool bench_process_hear(const struct bench_process *p, void *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t k = read(p->in, (char *)data + done, n - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        done += (size_t)k;
    }
    return true;
}

/* ---- a hub ---- */

#define NEWS_MS 50

struct hub_start {
    const struct tier_config *config;
    char *plan; /* canonical text, or NULL */
    size_t plan_bytes;
    bool watched;
    uint64_t reload_ms;
};

struct hub_process {
    const struct hub_start *start;
    struct hub hub;
    struct tier_timer *news, *reload;
    struct bench_hub_news told;
    uint64_t reloads;
    int say;
};

static void tell_news(void *arg) {
    struct hub_process *p = arg;
    const struct hub_run *run = p->hub.runs;
    struct bench_hub_news news = {.at_s = bench_now_s(),
                                  .children = tier_serve_count(p->hub.serve),
                                  .reloads = p->reloads,
                                  .round = run ? run->round.number : 0,
                                  .ended = run && run->state == HUB_RUN_COMPLETED};

    if (news.children != p->told.children || news.round != p->told.round ||
        news.ended != p->told.ended) {
        p->told = news;
        (void)!write(p->say, &news, sizeof news);
    }
    tier_timer_set(p->news, NEWS_MS);
}

static void reload_now(void *arg) {
    struct hub_process *p = arg;
    struct tier_err err = {0};
    const struct tier_rpc_tls *tls = tier_home_tls(&p->hub.home);

    if (tls && tier_serve_reload(p->hub.serve, tls, &err) != TIER_OK)
        tier_log_error("%s", err.text);
    p->reloads++;
    tier_timer_set(p->reload, p->start->reload_ms);
}

static void hub_main(void *arg, int say, int wait) {
    static struct hub_process p;
    struct tier_loop *loop = NULL;
    struct tier_err err = {0};
    struct hub_run *run = NULL;
    (void)wait;

    p.start = arg;
    p.say = say;
    tier_log_init(p.start->config->name, TIER_LOG_WARN);
    if (tier_loop_new(&loop, &err) != TIER_OK ||
        hub_open(p.start->config, loop, &p.hub, &err) != TIER_OK ||
        (p.start->plan &&
         hub_run_begin(&p.hub, NULL,
                       &(struct hub_plan){.text = p.start->plan, .bytes = p.start->plan_bytes},
                       &run, &err) != TIER_OK)) {
        tier_log_error("%s", err.text);
        return;
    }
    int port = tier_serve_port(p.hub.serve);
    bench_process_say(say, &port, sizeof port);
    if (p.start->watched) {
        fcntl(say, F_SETFL, O_NONBLOCK);
        p.news = tier_timer_new(loop, tell_news, &p);
        tell_news(&p);
    }
    if (p.start->reload_ms) {
        p.reload = tier_timer_new(loop, reload_now, &p);
        tier_timer_set(p.reload, p.start->reload_ms);
    }
    if (run)
        hub_run_first_round(run);
    tier_loop_run(loop);
}

static enum tier_status start_hub(struct hub_start *start, const struct tier_plan *plan,
                                  struct bench_process *out, struct tier_err *err) {
    if (plan)
        TIER_TRY(tier_plan_canonical(plan, &start->plan, &start->plan_bytes, NULL, err));
    enum tier_status st = bench_process_start(hub_main, start, out, err);
    free(start->plan);
    return st;
}

enum tier_status bench_hub_start(const struct tier_config *config, const struct tier_plan *plan,
                                 struct bench_process *out, struct tier_err *err) {
    struct hub_start start = {.config = config};
    return start_hub(&start, plan, out, err);
}

enum tier_status bench_hub_start_watched(const struct tier_config *config,
                                         const struct tier_plan *plan, uint64_t reload_ms,
                                         struct bench_process *out, struct tier_err *err) {
    struct hub_start start = {.config = config, .watched = true, .reload_ms = reload_ms};
    return start_hub(&start, plan, out, err);
}

/* ---- a spoke ---- */

static void spoke_main(void *arg, int say, int wait) {
    static struct spoke spoke;
    const struct tier_config *config = arg;
    struct tier_loop *loop = NULL;
    struct tier_err err = {0};
    int port = 0;
    (void)wait;

    tier_log_init(config->name, TIER_LOG_WARN);
    if (tier_loop_new(&loop, &err) != TIER_OK ||
        spoke_open(config, loop, &spoke, &err) != TIER_OK) {
        tier_log_error("%s", err.text);
        return;
    }
    bench_process_say(say, &port, sizeof port);
    tier_loop_run(loop);
}

enum tier_status bench_spoke_start(const struct tier_config *config, struct bench_process *out,
                                   struct tier_err *err) {
    return bench_process_start(spoke_main, (void *)config, out, err);
}

/* ---- plans and graphs ---- */

struct tier_plan bench_plan(uint64_t rounds) {
    struct tier_plan p = {.version = TIER_PLAN_VERSION,
                          .name = "bench",
                          .purpose = "measuring",
                          .contract = "breast-cancer",
                          .loss = TIER_PLAN_BCE,
                          .batch = 16,
                          .steps = 10,
                          .seed = 1,
                          .clip = 1,
                          .frac_bits = 30,
                          .weight_total_max = UINT64_C(1) << 31,
                          .rounds = rounds};
    p.optimiser.lr = 0.05;
    p.optimiser.beta1 = p.optimiser.beta2 = p.optimiser.eps = NAN;
    p.schedule.gamma = p.schedule.lr_min = NAN;
    p.accumulate = 1;
    p.stop.target = NAN;
    p.server = TIER_PLAN_SERVER_OFF;
    p.loss_options = TIER_PLAN_LOSS_PLAIN;
    return p;
}

enum tier_status bench_plan_graph(struct tier_plan *plan, const struct tier_config *top,
                                  const void *onnx, size_t bytes, struct tier_err *err) {
    char dir[TIER_CONFIG_PATH_BYTES + 16];
    struct tier_hash hash;

    snprintf(dir, sizeof dir, "%s/models", top->data_dir);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", dir);
    TIER_TRY(tier_content_store(dir, TIER_CONTENT_GRAPH, onnx, bytes, &hash, err));
    tier_hash_hex(&hash, plan->model_sha256);
    plan->model_bytes = bytes;
    return TIER_OK;
}

/* Protobuf by hand, built inside out: every message is first written, then put into its parent. */
struct text {
    uint8_t *b;
    size_t n, room;
};

static void put(struct text *t, const void *data, size_t n) {
    if (t->n + n > t->room) {
        t->room = (t->n + n) * 2;
        t->b = realloc(t->b, t->room);
        if (!t->b)
            abort();
    }
    memcpy(t->b + t->n, data, n);
    t->n += n;
}

static void put_varint(struct text *t, uint64_t v) {
    uint8_t b[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        b[n++] = (uint8_t)(v | 0x80);
    b[n++] = (uint8_t)v;
    put(t, b, n);
}

static void put_int(struct text *t, unsigned field, uint64_t v) {
    put_varint(t, field << 3);
    put_varint(t, v);
}

static void put_bytes(struct text *t, unsigned field, const void *data, size_t n) {
    put_varint(t, field << 3 | 2);
    put_varint(t, n);
    put(t, data, n);
}

static void put_word(struct text *t, unsigned field, const char *word) {
    put_bytes(t, field, word, strlen(word));
}

/* Frees what is put. */
static void put_message(struct text *t, unsigned field, struct text *m) {
    put_bytes(t, field, m->b, m->n);
    free(m->b);
    *m = (struct text){0};
}

/* ValueInfoProto: float[N, cols]. */
static void put_value(struct text *graph, unsigned field, const char *name, uint64_t cols) {
    struct text dim = {0}, shape = {0}, tensor = {0}, type = {0}, value = {0};
    put_word(&dim, 2, "N");
    put_message(&shape, 1, &dim);
    put_int(&dim, 1, cols);
    put_message(&shape, 1, &dim);
    put_int(&tensor, 1, 1);
    put_message(&tensor, 2, &shape);
    put_message(&type, 1, &tensor);
    put_word(&value, 1, name);
    put_message(&value, 2, &type);
    put_message(graph, field, &value);
}

uint8_t *bench_onnx(uint64_t elements, struct tier_tensor *tensor_out, size_t *bytes_out) {
    struct text model = {0}, graph = {0}, node = {0}, tensor = {0}, set = {0};
    uint64_t cols = 1024;
    float *values = bench_alloc(elements, sizeof *values);

    while (elements % cols != 0)
        cols /= 2;
    bench_deltas(values, elements, 0.05, 7);
    put_word(&node, 1, "x");
    put_word(&node, 1, "w");
    put_word(&node, 2, "y");
    put_word(&node, 4, "MatMul");
    put_message(&graph, 1, &node);
    put_word(&graph, 2, "bench");
    put_int(&tensor, 1, elements / cols);
    put_int(&tensor, 1, cols);
    put_int(&tensor, 2, 1);
    put_word(&tensor, 8, "w");
    put_bytes(&tensor, 9, values, elements * sizeof *values);
    put_message(&graph, 5, &tensor);
    put_value(&graph, 11, "x", elements / cols);
    put_value(&graph, 12, "y", cols);
    put_int(&model, 1, 8);
    put_message(&model, 7, &graph);
    put_word(&set, 1, "");
    put_int(&set, 2, 17);
    put_message(&model, 8, &set);
    free(values);
    *tensor_out = (struct tier_tensor){
        .name = "w", .ndim = 2, .dims = {elements / cols, cols}, .frac_bits = 30};
    *bytes_out = model.n;
    return model.b;
}
