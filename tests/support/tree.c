/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tree.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/content.h"
#include "tier/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct tree_node {
    struct tree *tree;
    struct tree_node *next, *parent;
    struct tier_config config;
    struct tier_loop *loop;
    pthread_t thread;
    bool running;
    struct hub hub;
    struct spoke spoke;
    int port;
};

struct tree {
    char dir[512];
    bool tls;
    unsigned places;
    struct tree_node *nodes; /* newest first: children are stopped before their parents */
};

static void die(const char *what, const struct tier_err *err) {
    fprintf(stderr, "tree: %s: %s\n", what, err->text);
    abort();
}

struct tree *tree_new(const char *dir, bool tls) {
    struct tree *tree = calloc(1, sizeof *tree);
    struct tier_err err = {0};
    char path[600];

    snprintf(tree->dir, sizeof tree->dir, "%s", dir);
    tree->tls = tls;
    tree->places = 8;
    if (mkdir(dir, 0700) != 0)
        die(dir, &(struct tier_err){.text = "cannot be made"});
    snprintf(path, sizeof path, "%s/authority", dir);
    if (tls && tier_authority_init(path, "test-authority", 30, tier_wall_ms() / 1000, &err))
        die("authority", &err);
    return tree;
}

static void enroll(struct tree_node *n) {
    char dir[600], token[TIER_TOKEN_SIZE], *csr = NULL, *cert = NULL, *ca = NULL;
    int64_t now = tier_wall_ms() / 1000;
    struct tier_authority *a = NULL;
    struct tier_key *key = NULL;
    struct tier_err err = {0};
    enum tier_role role = (enum tier_role)n->config.role;

    snprintf(dir, sizeof dir, "%s/authority", n->tree->dir);
    if (tier_authority_open(dir, &a, &err) ||
        tier_authority_token_create(a, n->config.name, role, 600, false, now, token, &err) ||
        tier_identity_prepare(n->config.data_dir, &key, &err) ||
        tier_csr_new(key, n->config.name, role, &csr, &err) ||
        tier_authority_enroll(a, token, csr, now, &cert, &ca, &err) ||
        tier_identity_store(n->config.data_dir, cert, ca, now, &err))
        die("enroll", &err);
    tier_authority_close(a);
    tier_key_free(key);
    free(csr);
    free(cert);
    free(ca);
}

static void *node_main(void *arg) {
    struct tree_node *n = arg;
    tier_loop_run(n->loop);
    return NULL;
}

void tree_start(struct tree_node *n) {
    struct tier_err err = {0};
    if (tier_loop_new(&n->loop, &err))
        die("loop", &err);
    if (n->config.kind == TIER_CONFIG_HUB) {
        if (hub_open(&n->config, n->loop, &n->hub, &err))
            die(n->config.name, &err);
        n->port = tier_serve_port(n->hub.serve);
        snprintf(n->config.hub.listen, sizeof n->config.hub.listen, "127.0.0.1:%d", n->port);
    } else if (spoke_open(&n->config, n->loop, &n->spoke, &err)) {
        die(n->config.name, &err);
    }
    n->running = true;
    if (pthread_create(&n->thread, NULL, node_main, n) != 0)
        abort();
}

void tree_stop(struct tree_node *n) {
    if (!n->running)
        return;
    tier_loop_stop(n->loop);
    pthread_join(n->thread, NULL);
    if (n->config.kind == TIER_CONFIG_HUB)
        hub_close(&n->hub);
    else
        spoke_close(&n->spoke);
    tier_loop_free(n->loop);
    n->running = false;
}

struct tier_config *tree_config(struct tree_node *n) {
    return &n->config;
}

static struct tree_node *node_new(struct tree *tree, const char *name, struct tree_node *parent,
                                  enum tier_config_kind kind) {
    struct tree_node *n = calloc(1, sizeof *n);
    struct tier_config *c = &n->config;

    n->tree = tree;
    n->parent = parent;
    n->next = tree->nodes;
    tree->nodes = n;
    c->kind = kind;
    c->tls = tree->tls;
    c->threads = 1;
    c->keepalive_ms = 2000;
    c->keepalive_timeout_ms = 2000;
    c->role = kind == TIER_CONFIG_SPOKE ? TIER_ROLE_SPOKE : parent ? TIER_ROLE_HUB : TIER_ROLE_TOP;
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(c->data_dir, sizeof c->data_dir, "%s/%s", tree->dir, name);
    mkdir(c->data_dir, 0700);
    if (parent) {
        snprintf(c->parent_address, sizeof c->parent_address, "127.0.0.1:%d", parent->port);
        snprintf(c->parent_name, sizeof c->parent_name, "%s", parent->config.name);
    }
    if (tree->tls)
        enroll(n);
    return n;
}

struct tree_node *tree_hub(struct tree *tree, const char *name, struct tree_node *parent,
                           unsigned children_min) {
    struct tree_node *n = node_new(tree, name, parent, TIER_CONFIG_HUB);
    snprintf(n->config.hub.listen, sizeof n->config.hub.listen, "127.0.0.1:0");
    n->config.hub.children_min = children_min;
    n->config.hub.max_uploaders = tree->places;
    n->config.hub.memory_budget_mb = 64;
    n->config.hub.retain_quarantine_days = 1;
    n->config.hub.retain_max_gb = 1;
    /* Regions add on devices, the top does not, and no sum tells. */
    if (parent)
        snprintf(n->config.hub.fold_devices, sizeof n->config.hub.fold_devices, "cpu*2");
    tree_start(n);
    return n;
}

struct tree_node *tree_spoke(struct tree *tree, const char *name, struct tree_node *parent,
                             const char *csv, const char *schema) {
    struct tree_node *n = node_new(tree, name, parent, TIER_CONFIG_SPOKE);
    snprintf(n->config.spoke.csv, sizeof n->config.spoke.csv, "%s", csv);
    snprintf(n->config.spoke.schema, sizeof n->config.spoke.schema, "%s", schema);
    snprintf(n->config.spoke.device, sizeof n->config.spoke.device, "cpu");
    n->config.spoke.accept = TIER_ACCEPT_ALL;
    tree_start(n);
    return n;
}

void tree_places(struct tree *tree, unsigned places) {
    tree->places = places;
}

void tree_free(struct tree *tree) {
    while (tree->nodes) {
        struct tree_node *n = tree->nodes;
        tree->nodes = n->next;
        tree_stop(n);
        free(n);
    }
    free(tree);
}

/* ---- asking a hub on its own thread ---- */

struct question {
    struct tree_node *node;
    void (*fn)(struct hub *hub, void *arg);
    void *arg;
    bool answered;
    pthread_mutex_t lock;
    pthread_cond_t done;
};

static void ask_now(void *arg) {
    struct question *q = arg;
    pthread_mutex_lock(&q->lock);
    q->fn(&q->node->hub, q->arg);
    q->answered = true;
    pthread_cond_signal(&q->done);
    pthread_mutex_unlock(&q->lock);
}

static void ask(struct tree_node *n, void (*fn)(struct hub *hub, void *arg), void *arg) {
    struct question q = {.node = n,
                         .fn = fn,
                         .arg = arg,
                         .lock = PTHREAD_MUTEX_INITIALIZER,
                         .done = PTHREAD_COND_INITIALIZER};
    tier_loop_post(n->loop, ask_now, &q);
    pthread_mutex_lock(&q.lock);
    while (!q.answered)
        pthread_cond_wait(&q.done, &q.lock);
    pthread_mutex_unlock(&q.lock);
}

struct begin {
    const char *text;
    size_t bytes;
    struct tier_hash run;
    struct tier_err err;
};

static void begin_run(struct hub *hub, void *arg) {
    struct begin *b = arg;
    struct hub_run *run = NULL;
    if (hub_run_begin(hub, NULL, &(struct hub_plan){.text = b->text, .bytes = b->bytes}, &run,
                      &b->err) == TIER_OK) {
        b->run = run->id;
        hub_run_first_round(run);
    }
}

static char *slurp(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f)
        die(path, &(struct tier_err){.text = "cannot be read"});
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*bytes + 1);
    if (fread(data, 1, *bytes, f) != *bytes)
        abort();
    fclose(f);
    return data;
}

struct tier_hash tree_run(struct tree_node *top, struct tier_plan *plan, const char *model_path) {
    struct begin b = {0};
    struct tier_hash graph;
    struct tier_err err = {0};
    size_t bytes;
    char *onnx = slurp(model_path, &bytes), *text = NULL;

    if (tier_content_store(top->hub.home.models_dir, TIER_CONTENT_GRAPH, onnx, bytes, &graph, &err))
        die("model", &err);
    free(onnx);
    tier_hash_hex(&graph, plan->model_sha256);
    plan->model_bytes = bytes;
    if (tier_plan_canonical(plan, &text, &b.bytes, NULL, &err))
        die("plan", &err);
    b.text = text;
    ask(top, begin_run, &b);
    if (b.err.status != TIER_OK)
        die("run", &b.err);
    free(text);
    return b.run;
}

struct condition {
    bool (*fn)(struct hub *hub, void *arg);
    void *arg;
    bool holds;
};

static void check_condition(struct hub *hub, void *arg) {
    struct condition *c = arg;
    c->holds = c->fn(hub, c->arg);
}

bool tree_until(struct tree_node *node, bool (*fn)(struct hub *hub, void *arg), void *arg,
                uint64_t timeout_ms) {
    uint64_t end = tier_clock_ms() + timeout_ms;
    struct condition c = {fn, arg, false};
    for (;;) { /* once even where there is no time */
        ask(node, check_condition, &c);
        if (c.holds || tier_clock_ms() >= end)
            return c.holds;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); /* between two questions */
    }
}

struct ended {
    struct tier_hash run;
    enum hub_run_state state;
    struct tier_hash model;
};

static bool has_ended(struct hub *hub, void *arg) {
    struct ended *e = arg;
    struct hub_run *run = hub_run_find(hub, &e->run);
    if (!run || run->state == HUB_RUN_OPEN)
        return false;
    e->state = run->state;
    e->model = run->model;
    return true;
}

bool tree_wait(struct tree_node *top, const struct tier_hash *run, uint64_t timeout_ms,
               enum hub_run_state *state_out, struct tier_hash *model_out) {
    struct ended e = {.run = *run};
    if (!tree_until(top, has_ended, &e, timeout_ms))
        return false;
    *state_out = e.state;
    *model_out = e.model;
    return true;
}

static void get_serve_traffic(struct hub *hub, void *arg) {
    *(struct tier_serve_traffic *)arg = tier_serve_traffic(hub->serve);
}

struct tier_serve_traffic tree_serve_traffic(struct tree_node *n) {
    struct tier_serve_traffic t = {0};
    ask(n, get_serve_traffic, &t);
    return t;
}

static void get_link_traffic(struct hub *hub, void *arg) {
    *(struct tier_link_traffic *)arg = tier_link_traffic(hub->link);
}

struct tier_link_traffic tree_link_traffic(struct tree_node *n) {
    struct tier_link_traffic t = {0};
    ask(n, get_link_traffic, &t);
    return t;
}

const char *tree_dir(const struct tree_node *n) {
    return n->config.data_dir;
}
