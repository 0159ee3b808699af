/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a parent takes updates in: mutual TLS, hashed, spooled, receipted, by the real serving
 * module, against a bare gRPC stream of the same bytes whose server throws them away. The two take
 * turns in one run, because the machine's speed drifts.
 */
#include "tests/bench/bare.h"
#include "tests/bench/resident.h"
#include "tier/identity.h"
#include "tier/link.h"
#include "tier/log.h"
#include "tier/loop.h"
#include "tier/serve.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STREAMS 4
#define RUNS 7
#define TIMEOUT_MS 120000

/* ---- the parent: grants everything, keeps nothing ---- */

struct parent {
    const struct tier_config *config;
    struct tier_spool *spool;
    struct tier_serve *serve;
};

static enum tier_status attending(void *owner, const char *child, struct tier_err *err) {
    (void)owner, (void)child, (void)err;
    return TIER_OK;
}

static void left(void *owner, const char *child) {
    (void)owner, (void)child;
}

static void offered(void *owner, const char *child, const struct tier_hash *id,
                    const struct tier_update_header *header) {
    struct parent *p = owner;
    (void)header;
    tier_serve_grant(p->serve, child, id, NULL);
}

static void arrived(void *owner, const char *child, const struct tier_hash *id,
                    const struct tier_update_header *header, bool checked) {
    struct parent *p = owner;
    (void)checked;
    struct tier_receipt receipt = {
        .run = header->run, .round = header->round, .update = *id, .weight = header->weight};
    snprintf(receipt.child, sizeof receipt.child, "%s", child);
    snprintf(receipt.parent, sizeof receipt.parent, "%s", p->config->name);
    tier_serve_pushed(p->serve, child, id, &receipt, NULL);
    tier_spool_delete(p->spool, id, NULL);
}

static const struct tier_serve_events serve_events = {
    .attending = attending, .left = left, .offered = offered, .arrived = arrived};

static void parent_main(void *arg, int say, int wait) {
    struct parent p = {.config = arg};
    struct tier_loop *loop = NULL;
    struct tier_node node = {.key = NULL};
    struct tier_err err = {0};
    char dir[TIER_CONFIG_PATH_BYTES + 16];
    (void)wait;

    snprintf(dir, sizeof dir, "%s/spool", p.config->data_dir);
    if (p.config->tls &&
        tier_identity_load(p.config->data_dir, tier_wall_ms() / 1000, &node, &err) != TIER_OK)
        goto failed;
    const struct tier_rpc_tls tls = {
        .ca_pem = node.ca_pem, .cert_pem = node.cert_pem, .key_pem = node.key_pem};
    struct tier_intake *intake = NULL;
    if (tier_loop_new(&loop, &err) != TIER_OK ||
        tier_intake_new(loop, tier_intake_threads(), &intake, &err) != TIER_OK)
        goto failed;
    const struct tier_serve_options options = {.name = p.config->name,
                                               .address = "127.0.0.1:0",
                                               .tls = p.config->tls ? &tls : NULL,
                                               .models_dir = p.config->data_dir,
                                               .intake = intake,
                                               .max_uploaders = STREAMS};
    if (tier_spool_open(dir, false, &p.spool, &err) != TIER_OK ||
        tier_serve_new(loop, &options, p.spool, &serve_events, &p, &p.serve, &err) != TIER_OK)
        goto failed;
    int port = tier_serve_port(p.serve);
    bench_process_say(say, &port, sizeof port);
    tier_loop_run(loop);
    return;
failed:
    tier_log_error("%s", err.text);
}

/* ---- its children ---- */

struct pusher {
    struct ingest *all;
    struct tier_config config;
    struct tier_node node;
    struct tier_spool *spool;
    struct tier_link *link;
    struct bench_resident update;
};

struct ingest {
    const struct bench_options *options;
    struct bench_nodes nodes;
    struct tier_config parent, bare_client, bare_server;
    struct tier_manifest *manifest;
    struct bench_process serve, bare;
    struct pusher pusher[STREAMS];
    struct tier_loop *loop;
    size_t up, counted;
    struct tier_err failure;
};

static void link_up(void *owner, const char *parent) {
    struct pusher *p = owner;
    (void)parent;
    p->all->up++;
}

static void link_down(void *owner, const char *reason) {
    struct pusher *p = owner;
    tier_fail(&p->all->failure, TIER_EUNAVAILABLE, "a child lost its parent: %s", reason);
}

static void link_message(void *owner, const struct tier_to_child *m) {
    struct pusher *p = owner;
    p->all->counted += m->type == TIER_TO_RECEIPT;
}

static void link_push_failed(void *owner, const struct tier_hash *update, bool for_good,
                             const char *reason) {
    (void)update, (void)for_good;
    link_down(owner, reason);
}

static const struct tier_link_events link_events = {
    .up = link_up, .down = link_down, .message = link_message, .push_failed = link_push_failed};

static bool all_up(void *arg) {
    struct ingest *b = arg;
    return b->up == STREAMS || b->failure.status != TIER_OK;
}

static bool all_counted(void *arg) {
    struct ingest *b = arg;
    return b->counted == STREAMS || b->failure.status != TIER_OK;
}

static enum tier_status prepare(struct ingest *b, struct tier_err *err) {
    struct tier_tensor tensor = {
        .name = "w", .ndim = 1, .dims = {b->options->bytes / sizeof(float)}, .frac_bits = 30};
    char name[32], dir[TIER_CONFIG_PATH_BYTES + 16];

    TIER_TRY(bench_nodes_open(b->options->work, b->options->tls, &b->nodes, err));
    TIER_TRY(bench_nodes_config(&b->nodes, TIER_CONFIG_HUB, "parent", "", 0, &b->parent, err));
    TIER_TRY(bench_nodes_config(&b->nodes, TIER_CONFIG_SPOKE, "bare-client", "bare-server", 1,
                                &b->bare_client, err));
    TIER_TRY(bench_nodes_config(&b->nodes, TIER_CONFIG_SPOKE, "bare-server", "parent", 1,
                                &b->bare_server, err));
    TIER_TRY(bench_process_start(parent_main, &b->parent, &b->serve, err));
    TIER_TRY(bench_bare_serve(&b->bare_server, &b->bare, err));
    TIER_TRY(tier_manifest_new(&tensor, 1, &b->manifest, err));
    for (size_t i = 0; i < STREAMS; i++) {
        struct pusher *p = &b->pusher[i];
        p->all = b;
        snprintf(name, sizeof name, "child-%zu", i + 1);
        TIER_TRY(bench_nodes_config(&b->nodes, TIER_CONFIG_SPOKE, name, "parent", b->serve.port,
                                    &p->config, err));
        snprintf(dir, sizeof dir, "%s/spool", p->config.data_dir);
        TIER_TRY(tier_spool_open(dir, false, &p->spool, err));
        TIER_TRY(bench_resident_seal(p->spool, dir, b->manifest, i + 1, &p->update, err));
        if (b->options->tls)
            TIER_TRY(tier_identity_load(p->config.data_dir, tier_wall_ms() / 1000, &p->node, err));
    }
    return TIER_OK;
}

static enum tier_status connect_all(struct ingest *b, struct tier_loop *loop,
                                    struct tier_err *err) {
    for (size_t i = 0; i < STREAMS; i++) {
        struct pusher *p = &b->pusher[i];
        const struct tier_rpc_tls tls = {
            .ca_pem = p->node.ca_pem, .cert_pem = p->node.cert_pem, .key_pem = p->node.key_pem};
        const struct tier_link_options options = {.name = p->config.name,
                                                  .parent_name = "parent",
                                                  .parent_address = p->config.parent_address,
                                                  .tls = b->options->tls ? &tls : NULL,
                                                  .models_dir = p->config.data_dir};
        TIER_TRY(tier_link_new(loop, &options, p->spool, &link_events, p, &p->link, err));
    }
    if (!tier_loop_run_until(loop, all_up, b, TIMEOUT_MS))
        return tier_fail(err, TIER_ETIMEOUT, "the children could not attend");
    return TIER_OK;
}

static enum tier_status push_all(struct ingest *b, struct tier_loop *loop, uint64_t round,
                                 double *seconds, struct tier_err *err) {
    b->counted = 0;
    for (size_t i = 0; i < STREAMS; i++) {
        b->pusher[i].update.header.round = round;
        TIER_TRY(bench_resident_rename(&b->pusher[i].update, err));
    }
    double start = bench_now_s();
    for (size_t i = 0; i < STREAMS; i++)
        TIER_TRY(tier_link_offer(b->pusher[i].link, &b->pusher[i].update.id, err));
    if (!tier_loop_run_until(loop, all_counted, b, TIMEOUT_MS))
        return tier_fail(err, TIER_ETIMEOUT, "no receipts within %d s", TIMEOUT_MS / 1000);
    *seconds = bench_now_s() - start;
    if (b->failure.status != TIER_OK)
        *err = b->failure;
    return b->failure.status;
}

static enum tier_status measure(struct ingest *b, struct bench_result *r, struct tier_err *err) {
    double ours[RUNS], bare[RUNS], ratio[RUNS], cpu, bytes = (double)b->options->bytes * STREAMS;
    struct bench_usage before = {0}, after = {0};
    struct bench_bare *reference = NULL;
    struct tier_loop *loop;
    enum tier_status st;

    TIER_TRY(tier_loop_new(&b->loop, err));
    loop = b->loop;
    TIER_TRY_OUT(connect_all(b, loop, err));
    TIER_TRY_OUT(
        bench_bare_open(&b->bare_client, "bare-server", b->bare.port, STREAMS, &reference, err));
    TIER_TRY_OUT(push_all(b, loop, 1, &ours[0], err));
    bench_usage(b->serve.pid, &before);
    for (int i = 0; i < RUNS; i++) {
        double s = 0;
        TIER_TRY_OUT(push_all(b, loop, (uint64_t)i + 2, &s, err));
        ours[i] = bytes / 1e9 / s;
        TIER_TRY_OUT(bench_bare_push(reference, b->options->bytes, &s, err));
        bare[i] = bytes / 1e9 / s;
        ratio[i] = ours[i] / bare[i];
    }
    bench_usage(b->serve.pid, &after);
    cpu = (after.cpu_s - before.cpu_s) / (bytes / 1e9 * RUNS);
    json_object_set_new(r->detail, "ours_gb_s", bench_spread(ours, RUNS));
    json_object_set_new(r->detail, "bare_gb_s", bench_spread(bare, RUNS));
    json_object_set_new(r->detail, "pair_ratio", bench_spread(ratio, RUNS));
    json_object_set_new(r->detail, "server_cpu_s_per_gb", json_real(cpu));
    json_object_set_new(r->detail, "streams", json_integer(STREAMS));
    json_object_set_new(r->detail, "bytes", json_integer((json_int_t)b->options->bytes));
    r->value = bench_median(ours, RUNS);
    r->ratio = r->value / bench_median(bare, RUNS);
    r->unit = "GB/s";
    r->against = "a bare gRPC C core stream of the same bytes to a discarding server";
out:
    bench_bare_close(reference);
    return st;
}

enum tier_status bench_ingest(const struct bench_options *given, struct bench_result *r,
                              struct tier_err *err) {
    struct bench_options options = *given;
    struct ingest *b = bench_alloc(1, sizeof *b);

    options.bytes = (options.bytes ? options.bytes : 100000000) / sizeof(float) * sizeof(float);
    b->options = &options;
    enum tier_status st = prepare(b, err);
    if (st == TIER_OK)
        st = measure(b, r, err);
    for (size_t i = 0; i < STREAMS; i++) {
        tier_link_free(b->pusher[i].link);
        tier_spool_close(b->pusher[i].spool);
        tier_identity_release(&b->pusher[i].node);
        bench_resident_release(&b->pusher[i].update);
    }
    tier_loop_free(b->loop);
    bench_process_stop(&b->serve);
    bench_process_stop(&b->bare);
    tier_manifest_free(b->manifest);
    bench_nodes_close(&b->nodes);
    free(b);
    return st;
}
