/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A run computed again from what a hub has kept: its audit log says which updates counted in each
 * round and what came of them, its plan and graph how, and the retained updates (tier/retain.h)
 * hold the numbers. At the top each round gives the model that was published, at a hub the update
 * that it pushed: the same SHA-256, or something is not what the log says.
 *
 * Where the tier screens, what counted must pass and what is in quarantine fail again, by the files
 * in quarantine; where it works out contributions, each must be what the log says, to the bit.
 *
 * Rounds are computed from the first on, because each starts from what the one before gave; where
 * the one wanted needs nothing but its base model, and that is kept, from there.
 *
 * Threads: one at a time; folds start their own.
 */
#ifndef CONSILIUM_TIER_REPLAY_H
#define CONSILIUM_TIER_REPLAY_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"

enum tier_replay_result {
    TIER_REPLAY_SAME,
    TIER_REPLAY_DIFFERS,
    TIER_REPLAY_NOT_KEPT, /* an update, or what it starts from, is kept no more */
    TIER_REPLAY_OPEN,     /* the log does not say that the round came to an end */
};

struct tier_replay_round {
    uint64_t round, updates, weight;
    enum tier_replay_result result;
    struct tier_hash logged, made; /* the model, or at a hub its update; zero: none */
    char why[256];                 /* of what is not the same, or could not be looked at */
};

struct tier_replay_run {
    struct tier_hash id;
    char name[TIER_NAME_LEN_MAX + 1];
    bool top;               /* models are compared, not updates */
    struct tier_hash model; /* the last published, by the log; zero at a hub that had none */
};

typedef void (*tier_replay_fn)(void *arg, const struct tier_replay_round *round);

struct tier_replay {
    const char *data_dir;
    const char *run;     /* its id or the beginning of it, lower-case hex */
    uint64_t round;      /* 0: all */
    const char *scratch; /* an empty folder for what is made, which the caller deletes */
    unsigned threads;
};

/*
 * Tells each round in order. TIER_OK says that this could be done, not that all were the same.
 * TIER_ENOTFOUND, TIER_ECONFLICT: no such run in the log, or several; TIER_ECORRUPT: the log is
 * broken, or the plan or graph is not what it names.
 */
enum tier_status tier_replay_run(const struct tier_replay *replay, tier_replay_fn fn, void *arg,
                                 struct tier_replay_run *run_out, struct tier_err *err);

#endif
