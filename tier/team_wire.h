/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the servers of one spoke say to each other as plain structs, and their protobuf bytes
 * (proto/team.proto). One message serves both directions. As in tier/wire.h, decoding checks every
 * field against a bound and refuses (TIER_EPROTO) by field name.
 *
 * Ownership: encoders borrow and give heap bytes. A decoded message borrows nothing; it owns its
 * plan or data until tier_team_release.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_TEAM_WIRE_H
#define CONSILIUM_TIER_TEAM_WIRE_H

#include "kernels/group.h"
#include "tier/err.h"
#include "tier/hash.h"
#include "tier/wire.h"

#include <stdint.h>

#define TIER_PATH_TEAM_JOIN "/consilium.team.Team/Join"
#define TIER_TEAM_PROTOCOL 1u
#define TIER_TEAM_GRAPH_BYTES (256u << 10) /* of one piece */
#define TIER_TEAM_TEXT_SIZE 64

enum tier_team_type {
    TIER_TEAM_HELLO = 1,
    TIER_TEAM_WELCOME,
    TIER_TEAM_JOB,
    TIER_TEAM_READY,
    TIER_TEAM_GRAPH,
    TIER_TEAM_GO,
    TIER_TEAM_DONE,
    TIER_TEAM_ABORT,
    TIER_TEAM_PART,
};

/* Fields have a meaning where the comment names the type. */
struct tier_team_message {
    enum tier_team_type type;
    uint32_t protocol, devices;         /* HELLO */
    char software[TIER_TEAM_TEXT_SIZE]; /* HELLO */
    char backend[TIER_TEAM_TEXT_SIZE];  /* HELLO */
    struct tier_hash hash;              /* HELLO: build; READY: data; DONE: model */
    uint64_t job;                       /* JOB to ABORT */
    uint64_t round, seed;               /* JOB; round from 1 */
    uint32_t ranks, first;              /* JOB; first < ranks */
    bool want_graph;                    /* READY */
    uint64_t elements;                  /* READY */
    enum tier_status status;            /* READY, DONE */
    char reason[512];                   /* READY, DONE, ABORT */
    uint64_t at;                        /* GRAPH */
    uint64_t group;                     /* GO, PART */
    struct kern_group_id id;            /* GO */
    uint32_t from, to;                  /* PART; below KERN_GROUP_RANKS_MAX */
    uint8_t *data;                      /* JOB: the plan; GRAPH, PART */
    size_t data_bytes;
};

enum tier_status tier_team_message(const uint8_t *bytes, size_t n, struct tier_team_message *out,
                                   struct tier_err *err);
/* Frees what a decoded message owns. */
void tier_team_release(struct tier_team_message *m);
struct tier_bytes tier_team_bytes(const struct tier_team_message *m);
/*
 * The bytes that stand before a PART's own data (`bytes` of it) in its message: for sending data
 * where it lies. Returns how many.
 */
#define TIER_TEAM_PART_PREFIX 48
size_t tier_team_part_prefix(uint64_t group, uint32_t from, uint32_t to, size_t bytes,
                             uint8_t prefix[TIER_TEAM_PART_PREFIX]);

#endif
