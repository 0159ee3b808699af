/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/children.h"
#include "tests/bench/resident.h"
#include "tier/content.h"
#include "tier/identity.h"
#include "tier/link.h"
#include "tier/spool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct child {
    struct bench_children *all;
    const struct tier_config *config;
    struct tier_node node;
    struct tier_spool *spool;
    struct tier_link *link;
    char models_dir[TIER_CONFIG_PATH_BYTES + 16];
    struct bench_resident update;
    struct tier_hash base; /* fetched last */
    uint64_t round;        /* announced last */
    struct tier_hash wanted;
    bool over;
};

struct bench_children {
    struct bench_children_options options;
    struct tier_intake *intake;
    struct child *child;
    double *times;             /* [rounds + 2] */
    double *fetched, *counted; /* [rounds + 2]: when the last child had its model, its receipt */
    size_t over;
    uint64_t lost;
    struct tier_err failure;
    void (*on_round)(void *arg, uint64_t round);
    void *on_round_arg;
};

static void fail_with(struct bench_children *all, const struct tier_err *err) {
    if (all->failure.status == TIER_OK)
        all->failure = *err;
}

/* ---- what the parent says ---- */

static void base_fetched(void *arg, enum tier_status st, const char *text) {
    struct child *c = arg;
    struct tier_err err = {0};

    if (st != TIER_OK) {
        tier_fail(&err, st, "%s: the base model cannot be had: %s", c->config->name, text);
        fail_with(c->all, &err);
        return;
    }
    c->base = c->wanted;
    if (c->round <= c->all->options.rounds)
        c->all->fetched[c->round] = bench_now_s();
    /* Nothing here reads it, and large rounds are bounded by the disk. */
    char *path = tier_content_path(c->models_dir, &c->base, TIER_CONTENT_MODEL);
    unlink(path);
    free(path);
    c->update.header.round = c->round;
    c->update.header.base_model = c->base;
    if (bench_resident_rename(&c->update, &err) != TIER_OK ||
        tier_link_offer(c->link, &c->update.id, &err) != TIER_OK)
        fail_with(c->all, &err);
}

static void round_came(struct child *c, const struct tier_to_child *m) {
    struct bench_children *all = c->all;

    if (m->round < c->round)
        return;
    c->round = m->round;
    c->wanted = m->model;
    c->update.header.run = m->run;
    if (m->round <= all->options.rounds && all->times[m->round] == 0) {
        all->times[m->round] = bench_now_s();
        if (all->on_round)
            all->on_round(all->on_round_arg, m->round);
    }
    tier_link_fetch(c->link, &m->model, TIER_CONTENT_MODEL, UINT64_MAX, base_fetched, c);
}

static void message(void *owner, const struct tier_to_child *m) {
    struct child *c = owner;
    struct bench_children *all = c->all;
    struct tier_from_child answer = {.type = TIER_FROM_ANSWER, .run = m->run, .accepted = true};
    struct tier_err err = {0};

    switch (m->type) {
    case TIER_TO_PLAN:
        tier_link_send(c->link, &answer);
        break;
    case TIER_TO_ROUND:
        round_came(c, m);
        break;
    case TIER_TO_RECEIPT:
        if (m->receipt.round <= all->options.rounds)
            all->counted[m->receipt.round] = bench_now_s();
        break;
    case TIER_TO_REFUSAL:
        tier_fail(&err, TIER_EUPDATE, "%s: refused: %s", c->config->name, m->reason);
        fail_with(all, &err);
        break;
    case TIER_TO_END:
        if (all->times[all->options.rounds + 1] == 0)
            all->times[all->options.rounds + 1] = bench_now_s();
        if (!m->completed) {
            tier_fail(&err, TIER_ECANCELLED, "the run ended early: %s", m->reason);
            fail_with(all, &err);
        }
        all->over += !c->over;
        c->over = true;
        break;
    default:
        break;
    }
}

static void up(void *owner, const char *parent) {
    (void)owner;
    (void)parent;
}

/* The link comes back by itself, and the parent then says the round again. */
static void down(void *owner, const char *reason) {
    struct child *c = owner;
    (void)reason;
    c->all->lost += !c->over;
}

static void push_failed(void *owner, const struct tier_hash *update, bool for_good,
                        const char *reason) {
    struct child *c = owner;
    struct tier_err err = {0};
    (void)update;
    if (!for_good)
        return;
    tier_fail(&err, TIER_EUPDATE, "%s: push refused: %s", c->config->name, reason);
    fail_with(c->all, &err);
}

static const struct tier_link_events events = {
    .up = up, .down = down, .message = message, .push_failed = push_failed};

/* ---- life cycle ---- */

enum tier_status bench_children_new(const struct bench_children_options *options,
                                    struct bench_children **out, struct tier_err *err) {
    struct bench_children *all = bench_alloc(1, sizeof *all);
    enum tier_status st = TIER_OK;

    all->options = *options;
    all->child = bench_alloc(options->count, sizeof *all->child);
    all->times = bench_alloc(options->rounds + 2, sizeof *all->times);
    all->fetched = bench_alloc(options->rounds + 2, sizeof *all->fetched);
    all->counted = bench_alloc(options->rounds + 2, sizeof *all->counted);
    for (size_t i = 0; i < options->count; i++) {
        struct child *c = &all->child[i];
        char path[TIER_CONFIG_PATH_BYTES + 16];
        c->all = all;
        c->config = &options->configs[i];
        snprintf(c->models_dir, sizeof c->models_dir, "%s/models", c->config->data_dir);
        snprintf(path, sizeof path, "%s/spool", c->config->data_dir);
        if (mkdir(c->models_dir, 0700) != 0) {
            st = tier_fail_errno(err, TIER_EIO, "cannot make %s", c->models_dir);
            goto out;
        }
        TIER_TRY_OUT(tier_spool_open(path, false, &c->spool, err));
        TIER_TRY_OUT(
            bench_resident_seal(c->spool, path, options->manifest, i + 1, &c->update, err));
        if (c->config->tls)
            TIER_TRY_OUT(
                tier_identity_load(c->config->data_dir, tier_wall_ms() / 1000, &c->node, err));
    }
    *out = all;
    all = NULL;
out:
    bench_children_free(all);
    return st;
}

enum tier_status bench_children_start(struct bench_children *all, struct tier_loop *loop, int port,
                                      struct tier_err *err) {
    TIER_TRY(tier_intake_new(loop, tier_intake_threads() > 0, &all->intake, err));
    for (size_t i = 0; i < all->options.count; i++) {
        struct child *c = &all->child[i];
        char address[32];
        snprintf(address, sizeof address, "127.0.0.1:%d", port);
        const struct tier_rpc_tls tls = {
            .ca_pem = c->node.ca_pem, .cert_pem = c->node.cert_pem, .key_pem = c->node.key_pem};
        const struct tier_rpc_keepalive keepalive = {(uint32_t)c->config->keepalive_ms,
                                                     (uint32_t)c->config->keepalive_timeout_ms};
        const struct tier_link_options options = {.name = c->config->name,
                                                  .parent_name = c->config->parent_name,
                                                  .parent_address = address,
                                                  .tls = c->config->tls ? &tls : NULL,
                                                  .keepalive = &keepalive,
                                                  .models_dir = c->models_dir,
                                                  .intake = all->intake};
        TIER_TRY(tier_link_new(loop, &options, c->spool, &events, c, &c->link, err));
    }
    return TIER_OK;
}

void bench_children_free(struct bench_children *all) {
    if (!all)
        return;
    for (size_t i = 0; i < all->options.count; i++)
        all->child[i].over = true; /* losing the parent is no failure any more */
    for (size_t i = 0; i < all->options.count; i++)
        tier_link_free(all->child[i].link);
    for (size_t i = 0; i < all->options.count; i++) {
        tier_spool_close(all->child[i].spool);
        bench_resident_release(&all->child[i].update);
        tier_identity_release(&all->child[i].node);
    }
    tier_intake_free(all->intake);
    free(all->child);
    free(all->times);
    free(all->fetched);
    free(all->counted);
    free(all);
}

bool bench_children_done(void *children) {
    const struct bench_children *all = children;
    return all->over == all->options.count || all->failure.status != TIER_OK;
}

enum tier_status bench_children_status(const struct bench_children *all, struct tier_err *err) {
    if (all->failure.status != TIER_OK && err)
        *err = all->failure;
    return all->failure.status;
}

uint64_t bench_children_lost(const struct bench_children *all) {
    return all->lost;
}

const double *bench_children_times(const struct bench_children *all) {
    return all->times;
}

struct bench_phases bench_children_phases(const struct bench_children *all, uint64_t round) {
    return (struct bench_phases){.fetch_s = all->fetched[round] - all->times[round],
                                 .push_s = all->counted[round] - all->fetched[round],
                                 .fold_s = all->times[round + 1] - all->counted[round]};
}

void bench_children_on_round(struct bench_children *all, void (*fn)(void *arg, uint64_t round),
                             void *arg) {
    all->on_round = fn;
    all->on_round_arg = arg;
}
