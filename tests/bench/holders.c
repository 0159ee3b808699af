/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/holders.h"
#include "tests/bench/resident.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/content.h"
#include "tier/link.h"
#include "tier/log.h"
#include "tier/spool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* At a time in each holder: a handshake must end within its attempt's time. */
#define CONNECTING 8
#define NICE 10 /* the hub has its machine to itself where its children are elsewhere */

struct held {
    struct holder *holder;
    struct tier_link *link;
    uint64_t round; /* announced last */
};

struct holder {
    const struct bench_holders_options *options;
    size_t number, first, count, started;
    struct tier_loop *loop;
    struct tier_spool *spool;
    struct held *held;
    char dir[512];
    char *ca_pem, *key_pem;
    struct tier_key *key, *ca_key;
    struct tier_cert *ca;

    struct bench_resident update; /* of `round`, once `ready` */
    struct tier_hash run, base;
    uint64_t round;
    bool ready;
};

/* ---- rounds ---- */

static void must(enum tier_status st, const struct tier_err *err) {
    if (st == TIER_OK)
        return;
    tier_log_error("%s", err->text);
    _exit(1);
}

static void offer(struct held *c) {
    struct tier_err err = {0};
    must(tier_link_offer(c->link, &c->holder->update.id, &err), &err);
}

static void base_fetched(void *arg, enum tier_status st, const char *text) {
    struct holder *h = arg;
    struct tier_err err = {0};

    if (st != TIER_OK)
        tier_fail(&err, st, "%s", text);
    must(st, &err);
    h->update.header.run = h->run;
    h->update.header.round = h->round;
    h->update.header.base_model = h->base;
    must(bench_resident_rename(&h->update, &err), &err);
    h->ready = true;
    for (size_t i = 0; i < h->started; i++)
        if (h->held[i].round == h->round)
            offer(&h->held[i]);
}

static void round_came(struct held *c, const struct tier_to_child *m) {
    struct holder *h = c->holder;

    c->round = m->round;
    if (m->round > h->round) {
        h->round = m->round;
        h->run = m->run;
        h->base = m->model;
        h->ready = false;
        tier_link_fetch(c->link, &m->model, TIER_CONTENT_MODEL, UINT64_MAX, base_fetched, h);
    } else if (m->round == h->round && h->ready) {
        offer(c);
    }
}

static void held_message(void *owner, const struct tier_to_child *m) {
    struct held *c = owner;
    struct tier_from_child answer = {.type = TIER_FROM_ANSWER, .run = m->run, .accepted = true};

    if (!c->holder->options->manifest)
        return;
    if (m->type == TIER_TO_PLAN)
        tier_link_send(c->link, &answer);
    else if (m->type == TIER_TO_ROUND)
        round_came(c, m);
}

static void held_push_failed(void *owner, const struct tier_hash *update, bool for_good,
                             const char *reason) {
    (void)owner, (void)update, (void)for_good, (void)reason;
}

/* ---- attending ---- */

static void start_link(struct holder *h);

static void held_up(void *owner, const char *parent) {
    struct held *c = owner;
    (void)parent;
    if (c->holder->started < c->holder->count)
        start_link(c->holder);
}

static void held_down(void *owner, const char *reason) {
    (void)owner, (void)reason;
}

static const struct tier_link_events held_events = {
    .up = held_up, .down = held_down, .message = held_message, .push_failed = held_push_failed};

/* A certificate without the authority's database, which would sync the disk for each. */
static char *mint(const struct holder *h, const char *name, struct tier_err *err) {
    char *csr = NULL, *cert = NULL;
    if (tier_csr_new(h->key, name, TIER_ROLE_SPOKE, &csr, err) == TIER_OK)
        tier_cert_issue(h->ca_key, h->ca, csr, 30 * 86400, tier_wall_ms() / 1000, &cert, err);
    free(csr);
    return cert;
}

static void start_link(struct holder *h) {
    const struct tier_config *top = h->options->top;
    struct tier_err err = {0};
    char name[32], address[32], *cert = NULL;
    size_t i = h->started++;

    snprintf(name, sizeof name, "spoke-%zu", h->first + i + 1);
    snprintf(address, sizeof address, "127.0.0.1:%d", h->options->port);
    if (top->tls && !(cert = mint(h, name, &err)))
        must(TIER_EIDENTITY, &err);
    const struct tier_rpc_tls tls = {.ca_pem = h->ca_pem, .cert_pem = cert, .key_pem = h->key_pem};
    const struct tier_rpc_keepalive keepalive = {(uint32_t)top->keepalive_ms,
                                                 (uint32_t)top->keepalive_timeout_ms};
    const struct tier_link_options options = {.name = name,
                                              .parent_name = top->name,
                                              .parent_address = address,
                                              .tls = top->tls ? &tls : NULL,
                                              .keepalive = &keepalive,
                                              .models_dir = h->dir};
    h->held[i].holder = h;
    must(tier_link_new(h->loop, &options, h->spool, &held_events, &h->held[i], &h->held[i].link,
                       &err),
         &err);
    free(cert);
}

static char *read_text(const char *path) {
    char *text = bench_alloc(TIER_PEM_BYTES_MAX, 1);
    FILE *f = fopen(path, "r");
    if (!f || fread(text, 1, TIER_PEM_BYTES_MAX - 1, f) == 0)
        text[0] = '\0';
    if (f)
        fclose(f);
    return text;
}

static enum tier_status load_authority(struct holder *h, struct tier_err *err) {
    char path[600];

    snprintf(path, sizeof path, "%s/authority/ca.key", h->options->nodes->dir);
    char *ca_key = read_text(path);
    snprintf(path, sizeof path, "%s/authority/ca.pem", h->options->nodes->dir);
    h->ca_pem = read_text(path);
    enum tier_status st = tier_key_from_pem(ca_key, &h->ca_key, err);
    free(ca_key);
    TIER_TRY(st);
    TIER_TRY(tier_cert_from_pem(h->ca_pem, &h->ca, err));
    TIER_TRY(tier_key_generate(&h->key, err));
    return tier_key_to_pem(h->key, &h->key_pem, err);
}

static enum tier_status prepare(struct holder *h, struct tier_err *err) {
    char spool[600];

    snprintf(h->dir, sizeof h->dir, "%s/holder-%zu", h->options->nodes->dir, h->number);
    snprintf(spool, sizeof spool, "%s/spool", h->dir);
    h->held = bench_alloc(h->count, sizeof *h->held);
    if (mkdir(h->dir, 0700) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", h->dir);
    if (h->options->top->tls)
        TIER_TRY(load_authority(h, err));
    TIER_TRY(tier_loop_new(&h->loop, err));
    TIER_TRY(tier_spool_open(spool, false, &h->spool, err));
    if (!h->options->manifest)
        return TIER_OK;
    return bench_resident_seal(h->spool, spool, h->options->manifest, h->number + 1, &h->update,
                               err);
}

static void holder_main(void *arg, int say, int wait) {
    struct holder *h = arg;
    struct tier_err err = {0};
    int port = 1;
    (void)wait;

    tier_log_init("holder", TIER_LOG_ERROR);
    setpriority(PRIO_PROCESS, 0, NICE);
    must(prepare(h, &err), &err);
    bench_process_say(say, &port, sizeof port);
    while (h->started < h->count && h->started < CONNECTING)
        start_link(h);
    tier_loop_run(h->loop);
}

enum tier_status bench_holders_start(const struct bench_holders_options *options,
                                     struct bench_holders *out, struct tier_err *err) {
    size_t first = 0;

    for (size_t i = 0; i < BENCH_HOLDERS; i++) {
        struct holder h = {.options = options,
                           .number = i,
                           .first = first,
                           .count = (options->spokes - first) / (BENCH_HOLDERS - i)};
        first += h.count;
        TIER_TRY(bench_process_start(holder_main, &h, &out->process[i], err));
    }
    return TIER_OK;
}

void bench_holders_stop(struct bench_holders *holders) {
    for (size_t i = 0; i < BENCH_HOLDERS; i++)
        bench_process_stop(&holders->process[i]);
}
