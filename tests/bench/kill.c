/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 of any node at any moment. A tree of three tiers, every node a process of its own, over
 * mutual TLS, trains on real patients; while it does, one to three nodes, drawn from the seed, are
 * killed and started again. What they lost with their memory must not show: every round committed,
 * every child counted once in each, and the model of the run that nobody disturbed.
 *
 * The starter forks again and again, so it has neither a thread nor gRPC.
 */
#include "tests/bench/nodes.h"
#include "tests/bench/patients.h"
#include "tier/audit.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TOP, HUB, SPOKES = 3, NODES = HUB + 1 + SPOKES };
#define ROUNDS 40
#define RUN_S 60.0
#define BEGIN_NONE_AFTER_S 230.0 /* of the 295 that a bench has */

static const char *const names[NODES] = {"top", "hub", "spoke-1", "spoke-2", "spoke-3"};
static const int parents[NODES] = {-1, TOP, HUB, HUB, TOP};

struct tree {
    struct bench_nodes nodes;
    struct tier_config config[NODES];
    struct bench_process process[NODES];
    bool ended;
};

/* What a case came to. */
struct outcome {
    uint64_t lost, repeated;
    char model[TIER_HASH_HEX];
};

static enum tier_status start_node(struct tree *t, int i, const struct tier_plan *plan,
                                   struct tier_err *err) {
    if (i > HUB)
        return bench_spoke_start(&t->config[i], &t->process[i], err);
    TIER_TRY(i == TOP ? bench_hub_start_watched(&t->config[i], plan, 0, &t->process[i], err)
                      : bench_hub_start(&t->config[i], NULL, &t->process[i], err));
    /* Where its children will look for it after a restart. */
    snprintf(t->config[i].hub.listen, sizeof t->config[i].hub.listen, "127.0.0.1:%d",
             t->process[i].port);
    return TIER_OK;
}

static enum tier_status start_tree(struct tree *t, const char *dir, const char *patients,
                                   struct tier_err *err) {
    struct tier_plan plan = bench_plan(ROUNDS);

    if (mkdir(dir, 0700) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", dir);
    TIER_TRY(bench_nodes_open(dir, true, &t->nodes, err));
    for (int i = 0; i < NODES; i++) {
        int parent = parents[i];
        TIER_TRY(bench_nodes_config(&t->nodes, i > HUB ? TIER_CONFIG_SPOKE : TIER_CONFIG_HUB,
                                    names[i], parent < 0 ? "" : names[parent],
                                    parent < 0 ? 0 : t->process[parent].port, &t->config[i], err));
        if (i > HUB)
            bench_patients_spoke(patients, &t->config[i]);
        else
            t->config[i].hub.children_min = 2;
        if (i == TOP)
            TIER_TRY(bench_patients_graph(&plan, &t->config[i], err));
        TIER_TRY(start_node(t, i, &plan, err));
    }
    return TIER_OK;
}

static void stop_tree(struct tree *t) {
    for (int i = NODES - 1; i >= 0; i--)
        bench_process_stop(&t->process[i]);
    bench_nodes_close(&t->nodes);
}

/* Hears the top until then, or until the run has ended; false where the top has ended instead. */
static bool hear_until(struct tree *t, double until_s) {
    while (!t->ended) {
        struct pollfd p = {.fd = t->process[TOP].in, .events = POLLIN};
        struct bench_hub_news news;
        double left = until_s - bench_now_s();
        if (left <= 0)
            break;
        int ready = poll(&p, 1, (int)(left * 1000) + 1);
        if (ready < 0 && errno != EINTR)
            return false;
        if (ready <= 0)
            continue;
        if (!bench_process_hear(&t->process[TOP], &news, sizeof news))
            return false;
        t->ended = news.ended;
    }
    return true;
}

static double chance(uint64_t *seed) {
    return (double)(bench_random(seed) >> 11) * 0x1p-53;
}

/* One to three kills within the time that a run usually takes. */
static enum tier_status disturb(struct tree *t, double usual_s, uint64_t *seed, uint64_t *kills,
                                struct tier_err *err) {
    for (uint64_t left = 1 + bench_random(seed) % 3; left > 0 && !t->ended; left--) {
        int victim = (int)(bench_random(seed) % NODES);
        double until_s = bench_now_s() + chance(seed) * usual_s;
        const struct timespec down = {.tv_nsec = (long)(chance(seed) * 200e6)};
        if (!hear_until(t, until_s))
            return tier_fail(err, TIER_EIO, "the top ended by itself");
        if (t->ended)
            break;
        bench_process_stop(&t->process[victim]);
        nanosleep(&down, NULL);
        TIER_TRY(start_node(t, victim, NULL, err));
        (*kills)++;
    }
    return TIER_OK;
}

/* ---- what the audit logs say ---- */

static enum tier_status read_log(const struct tree *t, int node, unsigned counted[ROUNDS][NODES],
                                 unsigned committed[ROUNDS], char *model, struct tier_err *err) {
    char path[TIER_CONFIG_PATH_BYTES + 32];
    char *line = bench_alloc(TIER_AUDIT_LINE_BYTES_MAX + 1, 1);
    uint64_t lines;
    struct tier_hash head;

    snprintf(path, sizeof path, "%s/audit/audit.log", t->config[node].data_dir);
    enum tier_status st = tier_audit_verify(path, &lines, &head, err);
    FILE *f = st == TIER_OK ? fopen(path, "r") : NULL;
    while (f && fgets(line, TIER_AUDIT_LINE_BYTES_MAX + 1, f)) {
        json_t *json = json_loads(line, 0, NULL);
        const json_t *data = json_object_get(json, "data");
        const char *event = json_string_value(json_object_get(json, "event"));
        json_int_t round = json_integer_value(json_object_get(data, "round"));
        const char *child = json_string_value(json_object_get(data, "child"));
        bool known = event && round >= 1 && round <= ROUNDS;
        if (known && child && strcmp(event, "update.counted") == 0)
            for (int i = 0; i < NODES; i++)
                counted[round - 1][i] += strcmp(child, names[i]) == 0;
        if (known && strcmp(event, "round.committed") == 0) {
            const char *hex = json_string_value(json_object_get(data, "model"));
            committed[round - 1]++;
            if (hex && round == ROUNDS)
                snprintf(model, TIER_HASH_HEX, "%s", hex);
        }
        json_decref(json);
    }
    if (st == TIER_OK && !f)
        st = tier_fail_errno(err, TIER_EIO, "cannot read %s", path);
    if (f)
        fclose(f);
    free(line);
    return st;
}

/* Each parent has counted each of its children once in each round; the top has committed each. */
static enum tier_status judge(const struct tree *t, struct outcome *o, struct tier_err *err) {
    char ignored[TIER_HASH_HEX];

    for (int parent = TOP; parent <= HUB; parent++) {
        unsigned counted[ROUNDS][NODES] = {{0}}, committed[ROUNDS] = {0};
        TIER_TRY(read_log(t, parent, counted, committed, parent == TOP ? o->model : ignored, err));
        for (int round = 0; round < ROUNDS; round++) {
            for (int i = 0; i < NODES; i++) {
                unsigned right = parents[i] == parent;
                o->lost += counted[round][i] < right ? 1 : 0;
                o->repeated += counted[round][i] > right ? counted[round][i] - right : 0;
            }
            /* A hub may be told of a round's end by the start of the next, and once more. */
            o->lost += parent == TOP && committed[round] == 0;
            o->repeated += parent == TOP && committed[round] > 1 ? committed[round] - 1 : 0;
        }
    }
    return TIER_OK;
}

/* ---- the bench ---- */

struct score {
    uint64_t cases, kills, lost, repeated, different, stuck;
};

/* A run, disturbed where it is known how long one usually takes; else it says so. */
static enum tier_status run_one(const struct bench_options *o, double *usual_s, uint64_t *seed,
                                struct score *score, struct outcome *out, struct tier_err *err) {
    struct tree *t = bench_alloc(1, sizeof *t);
    char dir[600], command[700];

    snprintf(dir, sizeof dir, "%s/case-%d", o->work, (int)score->cases);
    enum tier_status st = start_tree(t, dir, o->work, err);
    double began_s = bench_now_s();
    if (st == TIER_OK && *usual_s > 0)
        st = disturb(t, *usual_s, seed, &score->kills, err);
    if (st == TIER_OK && !hear_until(t, bench_now_s() + RUN_S))
        st = tier_fail(err, TIER_EIO, "the top ended by itself");
    if (*usual_s == 0)
        *usual_s = bench_now_s() - began_s;
    bool ended = t->ended;
    stop_tree(t);
    if (st == TIER_OK && ended)
        st = judge(t, out, err);
    score->stuck += st == TIER_OK && !ended;
    free(t);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (st == TIER_OK && system(command) != 0)
        st = tier_fail(err, TIER_EIO, "cannot remove %s", dir);
    return st;
}

enum tier_status bench_kill(const struct bench_options *given, struct bench_result *r,
                            struct tier_err *err) {
    uint64_t wanted = given->cases ? given->cases : 20, seed = given->seed;
    struct outcome calm = {0};
    struct score score = {0};
    double began_s = bench_now_s(), usual_s = 0;

    TIER_TRY(bench_patients_deal(given->work, SPOKES, err));
    TIER_TRY(run_one(given, &usual_s, &seed, &score, &calm, err));
    if (score.stuck || calm.lost || calm.repeated)
        return tier_fail(err, TIER_ECANCELLED, "the undisturbed run did not come to its end");
    for (; score.cases < wanted && bench_now_s() - began_s < BEGIN_NONE_AFTER_S; score.cases++) {
        struct outcome o = {0};
        TIER_TRY(run_one(given, &usual_s, &seed, &score, &o, err));
        score.lost += o.lost;
        score.repeated += o.repeated;
        score.different += *o.model && strcmp(o.model, calm.model) != 0;
    }
    if (score.cases < wanted)
        return tier_fail(err, TIER_ETIMEOUT, "%d cases of %d fit in %d s: fewer would be right",
                         (int)score.cases, (int)wanted, (int)BEGIN_NONE_AFTER_S);
    r->value = (double)(score.lost + score.repeated + score.different + score.stuck);
    r->unit = "rounds lost, repeated or different";
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {{"cases", score.cases},       {"kills", score.kills},
                  {"rounds", ROUNDS},           {"lost", score.lost},
                  {"repeated", score.repeated}, {"different", score.different},
                  {"stuck", score.stuck}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        json_object_set_new(r->detail, counts[i].name, json_integer((json_int_t)counts[i].value));
    json_object_set_new(r->detail, "run_s", json_real(usual_s));
    return TIER_OK;
}
