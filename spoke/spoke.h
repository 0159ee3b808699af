/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A spoke: a child that trains on what its hospital holds. It attends its parent, lets its policy
 * decide on each plan, trains rounds on the worker, seals its updates and keeps each until the
 * round is committed. Patient data never leaves data.c and its device; what leaves the process is
 * sealed updates, sums of metrics, and messages that name columns and lines but no values.
 *
 * Threads: the loop's; training runs on the worker, which owns the device.
 */
#ifndef CONSILIUM_SPOKE_H
#define CONSILIUM_SPOKE_H

#include "spoke/data.h"
#include "spoke/net.h"
#include "spoke/servers.h"
#include "spoke/team.h"
#include "spoke/train.h"
#include "spoke/trainer.h"
#include "tier/follow.h"
#include "tier/heads.h"
#include "tier/home.h"
#include "tier/ledger.h"
#include "tier/link.h"
#include "tier/loop.h"
#include "tier/renewal.h"
#include "tier/task.h"

#include <stdatomic.h>

struct spoke;

enum spoke_run_state {
    SPOKE_RUN_OPEN,
    SPOKE_RUN_DECLINED,
    SPOKE_RUN_ENDED,
    SPOKE_RUN_PENDING /* the policy has not decided: it wants the graph, or a person (why) */
};

struct spoke_run {
    struct spoke *spoke;
    struct spoke_run *next;
    struct tier_hash id;
    char hex[TIER_HASH_HEX];
    enum spoke_run_state state;
    struct tier_plan plan;
    struct tier_hash plan_hash;                /* of its text; of an open run */
    char author[TIER_NAME_LEN_MAX + 1];        /* of its verified signature, or "" */
    char why[TIER_JOURNAL_DETAIL_LEN_MAX + 1]; /* PENDING: why a person is asked; "": none is yet */
    uint64_t consent_version;                  /* that data were opened with */
    struct tier_hash withdrawing; /* the update that the parent is asked to take out, or zero */
    struct tier_hash held_fast;   /* that it could not take out any more */
    struct tier_graph *graph;     /* these four are here once the graph is */
    struct tier_manifest *manifest;
    struct tier_manifest *kept; /* the tensors that stay here; NULL: none do */
    struct spoke_data *data;
    struct tier_timer *again;                     /* for what a full disk has stopped */
    struct spoke_net *nets[KERN_GROUP_RANKS_MAX]; /* the worker's, one for each device of the team;
                                                     made for the first round */
    size_t net_ranks;                             /* they were made for */
    uint64_t round;                               /* asked for last; 0: none */
    struct tier_hash base_model;
    struct tier_hash base_before; /* what its delta starts from, until base_model is here */
    struct tier_follow follow;
    struct tier_timer *follow_again;     /* for a model that could not be had yet */
    bool committed;                      /* that round is: it is not trained again, whoever asks */
    struct tier_hash last_receipt;       /* the update's */
    atomic_uint_fast64_t over;           /* this round is, and all before; the worker reads it */
    bool afforded;                       /* what the plan's privacy costs here; then: */
    uint64_t charged[TIER_LEDGER_BOOKS]; /* its rounds that are in the ledger */
    /* Of patients' noise and of the site's, in the round that is trained; the worker reads them. */
    struct tier_noise_key noise_key, site_key;
    struct spoke_secure *secure; /* of the open round (spoke/secure.h); or NULL */
    bool names_itself;           /* its pseudonym is being asked for */
    bool training;               /* a job is on the worker, from this model: */
    struct tier_hash training_base;
};

struct spoke {
    const struct tier_config *config;
    struct tier_home home;
    struct tier_loop *loop;
    struct tier_worker *worker;
    struct tier_intake *intake;
    struct tier_link *link;
    struct tier_heads_edge above;   /* with the parent */
    struct tier_renewal *renewal;   /* NULL without TLS */
    struct spoke_team team;         /* the worker's */
    struct spoke_servers *servers;  /* that train along; NULL: none do */
    struct spoke_trainer *trainer;  /* the hospital's own, in place of team and data; or NULL */
    struct tier_ledger *ledger;     /* of privacy; NULL: it was not needed yet */
    struct tier_noise_key rounding; /* of updates for sums of 32 bits; zero: not needed yet */
    struct spoke_run *runs;
    struct spoke_consent *consent; /* NULL: none are configured, or they cannot be read */
    uint64_t consent_version;
    struct tier_timer *steward;
    bool shares; /* worker, intake and team are its host's */
    bool failed;
};

/* What spokes of one process share (spoke/host.h). */
struct spoke_shared {
    struct tier_worker *worker;
    struct tier_intake *intake;
    struct spoke_team team;
};

/* Opens the home and the device, restores runs, attends. The loop must be run afterwards. */
enum tier_status spoke_open(const struct tier_config *config, struct tier_loop *loop,
                            struct spoke *out, struct tier_err *err);
/* The same, one of several in its process: `shared`, which it copies, is the host's, and its worker
 * must be freed before any of them is closed. Further servers and an own trainer: TIER_ECONFIG. */
enum tier_status spoke_open_shared(const struct tier_config *config, struct tier_loop *loop,
                                   const struct spoke_shared *shared, struct spoke *out,
                                   struct tier_err *err);
void spoke_close(struct spoke *spoke);

/* ---- round.c: what the worker does ---- */

/*
 * One round of one run: evaluates the base model, trains from it, seals the difference into the
 * spool. Blocks; the worker's thread only. *id_out is the sealed update.
 */
enum tier_status spoke_round_run(struct spoke_run *run, uint64_t round,
                                 const struct tier_hash *base, struct tier_hash *id_out,
                                 struct tier_err *err);
/* The plan's local recipe of a round, from 1, in the trainer's terms; the key of its noise, where
 * it has one, is the caller's to add. */
void spoke_round_recipe(const struct tier_plan *plan, uint64_t round, struct spoke_recipe *out);
/* Freezes in nets[count] what the plan has frozen. Errors: spoke_net_freeze. */
enum tier_status spoke_round_freeze(const struct tier_plan *plan, const struct tier_graph *graph,
                                    struct spoke_net *const *nets, size_t count,
                                    struct tier_err *err);

#endif
