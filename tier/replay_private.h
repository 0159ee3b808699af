/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to tier/replay*.c: a run while it is computed again, and the part of it that looks at
 * single updates as the hub did.
 *
 * Threads: one at a time.
 */
#ifndef CONSILIUM_TIER_REPLAY_PRIVATE_H
#define CONSILIUM_TIER_REPLAY_PRIVATE_H

#include "tier/graph.h"
#include "tier/manifest.h"
#include "tier/merge_rule.h"
#include "tier/noise.h"
#include "tier/plan.h"
#include "tier/replay.h"
#include "tier/spool.h"

#include <limits.h>

#define REPLAY_MEMORY_BYTES ((size_t)256 << 20)

/* What the log says of a round. */
struct replay_logged {
    uint64_t round;
    struct tier_hash base, folded, previous, model;
    struct tier_hash noise_key;               /* of the noise that the top drew; zero: none */
    bool has_fold, committed, screened, torn; /* torn: of what was screened, some was withdrawn */
    struct tier_hash set;                     /* screened together */
    size_t first, count;                      /* of its inputs */
};

struct replay_input {
    struct tier_hash update;
    uint64_t counted; /* the round that it counts in */
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_hash set; /* in quarantine: screened with it */
    bool by_loss;         /* likewise: of data that nobody else has */
};

/* What the log says that a child contributed. */
struct replay_said {
    uint64_t round;
    char child[TIER_NAME_LEN_MAX + 1];
    bool known, by_loss;
    double share, error, without;
};

struct replay {
    const struct tier_replay *r;
    struct tier_replay_run run;
    bool found, attends_parent;
    struct tier_hash plan_hash, graph_hash;
    struct replay_logged *rounds;
    size_t round_count, round_room;
    struct replay_input *inputs;
    size_t input_count, input_room;
    struct replay_input *aside; /* in quarantine */
    size_t aside_count, aside_room;
    struct replay_said *said;
    size_t said_count, said_room;
    char *plan_text;
    size_t plan_bytes;
    struct tier_plan plan;
    struct tier_graph *graph;
    struct tier_manifest *manifest;
    const struct tier_plan_tier *tier;
    const struct tier_merge_ops *rule;
    struct tier_spool *spool;                       /* in the scratch folder */
    char spool_dir[PATH_MAX], models_dir[PATH_MAX]; /* there, too */
    struct tier_hash previous, state, model;        /* what the last round gave */
};

/* An update in the scratch spool, from wherever it is kept. */
bool replay_have_update(struct replay *p, const struct tier_hash *id);
/* Every byte of it is what its name says, and is in range. */
enum tier_status replay_check_input(struct replay *p, const struct tier_hash *id,
                                    struct tier_err *err);
void replay_differs(struct tier_replay_round *out, const char *why);
void replay_not_kept(struct tier_replay_round *out, const char *what, const struct tier_hash *id);
/* The key of the noise that the top drew, from its ledger; `out` says why it cannot be had. */
enum tier_status replay_find_noise(const struct replay *p, const struct replay_logged *l,
                                   struct tier_noise_key *key, struct tier_replay_round *out,
                                   struct tier_err *err);
/*
 * Screens the round again and works its contributions out again, where its tier does; `inputs` are
 * those that counted, in the scratch spool. The log may say that contributions could not be worked
 * out: then it says none.
 */
enum tier_status replay_look_again(struct replay *p, const struct replay_logged *l,
                                   const struct tier_hash *inputs, struct tier_replay_round *out,
                                   struct tier_err *err);

#endif
