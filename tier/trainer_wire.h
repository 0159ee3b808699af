/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a spoke and its hospital's own trainer say to each other as plain structs, and their
 * protobuf bytes (proto/trainer.proto). As in tier/wire.h, decoding checks every field against a
 * bound and refuses (TIER_EPROTO) by field name. Both directions are decoded, for tests that play
 * either end.
 *
 * Ownership: encoders borrow and give heap bytes. A decoded message borrows nothing; what it owns
 * goes with _release.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_TRAINER_WIRE_H
#define CONSILIUM_TIER_TRAINER_WIRE_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/metric.h"
#include "tier/wire.h"

#include <stdint.h>

#define TIER_PATH_TRAINER_ATTEND "/consilium.trainer.Trainer/Attend"
#define TIER_TRAINER_PROTOCOL 1u
#define TIER_TRAINER_SAID_BYTES (256u << 10) /* of one message of a trainer */
#define TIER_TRAINER_METRICS_MAX 16
#define TIER_TRAINER_FILE_SIZE 96
#define TIER_TRAINER_REASON_SIZE 256

enum tier_trainer_said { TIER_TRAINER_HELLO = 1, TIER_TRAINER_RESULT };

/* From a trainer. Fields have a meaning where the comment names the type. */
struct tier_from_trainer {
    enum tier_trainer_said type;
    uint32_t protocol;                     /* HELLO */
    char software[64];                     /* HELLO */
    uint64_t job;                          /* RESULT, and all below */
    bool failed;                           /* */
    char reason[TIER_TRAINER_REASON_SIZE]; /* */
    uint64_t weight, steps;                /* weight at most TIER_WEIGHT_MAX */
    struct tier_metrics *metrics;          /* NULL: none */
};

enum tier_trainer_told { TIER_TRAINER_WELCOME = 1, TIER_TRAINER_ROUND, TIER_TRAINER_OVER };

/* To a trainer. */
struct tier_to_trainer {
    enum tier_trainer_told type;
    char spoke[TIER_NAME_LEN_MAX + 1];                                  /* WELCOME */
    char contract[TIER_NAME_LEN_MAX + 1];                               /* WELCOME */
    uint64_t job;                                                       /* ROUND, OVER */
    struct tier_hash run;                                               /* ROUND, and all below */
    uint64_t round, seed, bytes, weight_max;                            /* */
    bool train, evaluate;                                               /* */
    char model[TIER_TRAINER_FILE_SIZE], result[TIER_TRAINER_FILE_SIZE]; /* */
    char graph[1024];                                                   /* */
    char *plan;                                                         /* */
    size_t plan_bytes;                                                  /* */
    bool taken;                                                         /* OVER */
    char why[512];                                                      /* OVER */
};

enum tier_status tier_from_trainer(const uint8_t *bytes, size_t n, struct tier_from_trainer *out,
                                   struct tier_err *err);
void tier_from_trainer_release(struct tier_from_trainer *m);
struct tier_bytes tier_from_trainer_bytes(const struct tier_from_trainer *m);

enum tier_status tier_to_trainer(const uint8_t *bytes, size_t n, struct tier_to_trainer *out,
                                 struct tier_err *err);
void tier_to_trainer_release(struct tier_to_trainer *m);
struct tier_bytes tier_to_trainer_bytes(const struct tier_to_trainer *m);

#endif
