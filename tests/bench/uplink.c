/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a regional hub sends up. Spokes train the breast-cancer example for real; between their hub
 * and the top stands a relay that counts every byte the hub sends: TLS, HTTP/2, control messages
 * and all, from the first connection to the end of the run.
 */
#include "tests/bench/nodes.h"
#include "tests/bench/patients.h"
#include "hub/hub.h"
#include "spoke/spoke.h"
#include "tier/log.h"

#include <math.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS 16
#define TIMEOUT_MS 240000
#define RELAY_BUFFER (256 << 10)

/* ---- the relay ---- */

struct relay {
    int listener, port, to_port;
    pthread_t thread;
    uint64_t up_bytes; /* written by its thread, read after it ended */
};

static int tcp_listen(int *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (void *)&at, sizeof at) != 0 || listen(fd, 8) != 0 ||
        getsockname(fd, (void *)&at, &size) != 0)
        return -1;
    *port = ntohs(at.sin_port);
    return fd;
}

static bool pass_on(int from, int to, uint8_t *buffer, uint64_t *count) {
    ssize_t n = recv(from, buffer, RELAY_BUFFER, 0);
    if (n <= 0)
        return false;
    *count += (uint64_t)n;
    for (ssize_t done = 0, k; done < n; done += k) {
        k = send(to, buffer + done, (size_t)(n - done), MSG_NOSIGNAL);
        if (k <= 0)
            return false;
    }
    return true;
}

/* One connection after another, until the listener is shut down. */
static void *relay_main(void *arg) {
    struct relay *r = arg;
    uint8_t *buffer = bench_alloc(1, RELAY_BUFFER);
    uint64_t down_bytes = 0;
    int hub;

    while ((hub = accept(r->listener, NULL, NULL)) >= 0) {
        struct sockaddr_in at = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)r->to_port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int top = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool on = connect(top, (void *)&at, sizeof at) == 0;
        while (on) {
            struct pollfd p[2] = {{.fd = hub, .events = POLLIN}, {.fd = top, .events = POLLIN}};
            on = poll(p, 2, -1) > 0;
            if (on && p[0].revents)
                on = pass_on(hub, top, buffer, &r->up_bytes);
            if (on && p[1].revents)
                on = pass_on(top, hub, buffer, &down_bytes);
        }
        close(hub);
        close(top);
    }
    free(buffer);
    return NULL;
}

/* ---- the tree: every node a loop of its own, in this process ---- */

struct node {
    struct tier_config config;
    struct tier_loop *loop;
    pthread_t thread;
    struct hub hub;
    struct spoke spoke;
    bool open, running;
};

static void *node_main(void *arg) {
    struct node *n = arg;
    tier_loop_run(n->loop);
    return NULL;
}

static enum tier_status node_open(struct node *n, struct tier_err *err) {
    TIER_TRY(tier_loop_new(&n->loop, err));
    enum tier_status st = n->config.kind == TIER_CONFIG_SPOKE
                              ? spoke_open(&n->config, n->loop, &n->spoke, err)
                              : hub_open(&n->config, n->loop, &n->hub, err);
    n->open = st == TIER_OK;
    return st;
}

static enum tier_status node_start(struct node *n, struct tier_err *err) {
    TIER_TRY(node_open(n, err));
    n->running = pthread_create(&n->thread, NULL, node_main, n) == 0;
    return n->running ? TIER_OK : tier_fail(err, TIER_ENOMEM, "cannot start a thread");
}

/* Ends its thread; what it holds may be looked at until node_close. */
static void node_join(struct node *n) {
    if (!n->running)
        return;
    tier_loop_stop(n->loop);
    pthread_join(n->thread, NULL);
    n->running = false;
}

static void node_close(struct node *n) {
    node_join(n);
    if (!n->open)
        return;
    if (n->config.kind == TIER_CONFIG_SPOKE)
        spoke_close(&n->spoke);
    else
        hub_close(&n->hub);
    tier_loop_free(n->loop);
    n->open = false;
}

struct uplink {
    const struct bench_options *options;
    struct bench_nodes nodes;
    struct node top, hub;
    struct node *spokes;
    struct relay relay;
};

static enum tier_status start_top(struct uplink *u, struct tier_err *err) {
    struct tier_plan plan = bench_plan(ROUNDS);
    struct hub_run *run = NULL;
    char *text = NULL;
    size_t n = 0;

    TIER_TRY(bench_nodes_config(&u->nodes, TIER_CONFIG_HUB, "top", "", 0, &u->top.config, err));
    TIER_TRY(bench_patients_graph(&plan, &u->top.config, err));
    TIER_TRY(node_open(&u->top, err));
    TIER_TRY(tier_plan_canonical(&plan, &text, &n, NULL, err));
    enum tier_status st =
        hub_run_begin(&u->top.hub, NULL, &(struct hub_plan){.text = text, .bytes = n}, &run, err);
    free(text);
    TIER_TRY(st);
    hub_run_first_round(run);
    return TIER_OK;
}

static enum tier_status start_tree(struct uplink *u, struct tier_err *err) {
    size_t n = u->options->children;
    char name[32];

    TIER_TRY(bench_patients_deal(u->options->work, n, err));
    TIER_TRY(bench_nodes_open(u->options->work, u->options->tls, &u->nodes, err));
    TIER_TRY(start_top(u, err));
    u->relay.to_port = tier_serve_port(u->top.hub.serve);
    u->relay.listener = tcp_listen(&u->relay.port);
    if (u->relay.listener < 0 || pthread_create(&u->relay.thread, NULL, relay_main, &u->relay) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot start the relay");
    TIER_TRY(bench_nodes_config(&u->nodes, TIER_CONFIG_HUB, "hub", "top", u->relay.port,
                                &u->hub.config, err));
    u->hub.config.hub.children_min = n;
    TIER_TRY(node_start(&u->hub, err));
    for (size_t i = 0; i < n; i++) {
        struct tier_config *c = &u->spokes[i].config;
        snprintf(name, sizeof name, "spoke-%zu", i + 1);
        TIER_TRY(bench_nodes_config(&u->nodes, TIER_CONFIG_SPOKE, name, "hub",
                                    tier_serve_port(u->hub.hub.serve), c, err));
        bench_patients_spoke(u->options->work, c);
        TIER_TRY(node_start(&u->spokes[i], err));
    }
    return TIER_OK;
}

static bool ended(void *arg) {
    const struct hub *top = arg;
    return top->runs->state != HUB_RUN_OPEN;
}

/* Children before parents. The hub's figures are read while nobody runs it any more. */
static struct tier_link_traffic stop_tree(struct uplink *u) {
    struct tier_link_traffic traffic = {0};

    for (size_t i = 0; i < u->options->children; i++)
        node_close(&u->spokes[i]);
    node_join(&u->hub);
    if (u->hub.open)
        traffic = tier_link_traffic(u->hub.hub.link);
    node_close(&u->hub);
    if (u->relay.thread) {
        shutdown(u->relay.listener, SHUT_RDWR);
        pthread_join(u->relay.thread, NULL);
        close(u->relay.listener);
    }
    node_close(&u->top);
    return traffic;
}

static void report(const struct uplink *u, const struct tier_link_traffic *traffic, double model,
                   struct bench_result *r) {
    double wire = (double)u->relay.up_bytes / ROUNDS;
    double sealed = (double)(traffic->pushed_bytes + traffic->header_bytes) / ROUNDS;

    r->value = wire / model;
    r->unit = "f32 models";
    r->against = "one f32 model";
    r->ratio = r->value;
    json_object_set_new(r->detail, "children", json_integer((json_int_t)u->options->children));
    json_object_set_new(r->detail, "rounds", json_integer(ROUNDS));
    json_object_set_new(r->detail, "uplink_bytes_per_round", json_real(wire));
    json_object_set_new(r->detail, "sealed_bytes", json_real(sealed));
    json_object_set_new(r->detail, "sealed_ratio", json_real(wire / sealed));
    json_object_set_new(r->detail, "sealed_to_f32", json_real(sealed / model));
}

enum tier_status bench_uplink(const struct bench_options *given, struct bench_result *r,
                              struct tier_err *err) {
    struct bench_options options = *given;
    struct uplink *u = bench_alloc(1, sizeof *u);
    struct tier_link_traffic traffic = {0};
    double model = 0;
    enum tier_status st;

    options.children = options.children ? options.children : 8;
    u->options = &options;
    u->spokes = bench_alloc(options.children, sizeof *u->spokes);
    TIER_TRY_OUT(start_tree(u, err));
    if (!tier_loop_run_until(u->top.loop, ended, &u->top.hub, TIMEOUT_MS))
        st = tier_fail(err, TIER_ETIMEOUT, "%d rounds did not end in time", ROUNDS);
    else if (u->top.hub.runs->state != HUB_RUN_COMPLETED)
        st = tier_fail(err, TIER_ECANCELLED, "the run failed: %s", u->top.hub.runs->reason);
    if (st == TIER_OK)
        model = (double)u->top.hub.runs->manifest->elements * sizeof(float);
out:
    traffic = stop_tree(u);
    if (st == TIER_OK)
        report(u, &traffic, model, r);
    bench_nodes_close(&u->nodes);
    free(u->spokes);
    free(u);
    return st;
}
