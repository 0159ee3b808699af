/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other servers of a spoke, as its leader sees them (the spoke itself; spoke/member.h is the
 * other end). They join over mTLS, prove by name and program that they belong here, and lend their
 * devices to a round: all of them or none, because as many devices give the same bits. A server
 * that is lost ends the round's training here, never with an update, and the round is trained again
 * when all are back.
 *
 * Threads: the loop's, but for the calls of the worker, which wait for the members.
 */
#ifndef CONSILIUM_SPOKE_SERVERS_H
#define CONSILIUM_SPOKE_SERVERS_H

#include "spoke/span.h"
#include "spoke/team.h"
#include "tier/config.h"

struct spoke_servers;

/* Listens at team.listen. `complete(arg)` is called on the loop whenever the last one has joined.
 * Borrows config and team. */
enum tier_status spoke_servers_open(const struct tier_config *config, struct tier_loop *loop,
                                    const struct spoke_team *team, void (*complete)(void *arg),
                                    void *arg, struct spoke_servers **out, struct tier_err *err);
/* From now on no worker's call waits: TIER_ECANCELLED. NULL is fine. */
void spoke_servers_stop(struct spoke_servers *servers);
/* Behind the worker's end. NULL is fine. */
void spoke_servers_close(struct spoke_servers *servers);

/* Whether all have joined. Any thread. */
bool spoke_servers_complete(struct spoke_servers *servers);

/* ---- the worker's ---- */

/* Ranks of all servers. TIER_EUNAVAILABLE names those that are not here. */
enum tier_status spoke_servers_ranks(struct spoke_servers *servers, size_t *ranks_out,
                                     struct tier_err *err);

struct spoke_order {
    const char *plan; /* canonical text */
    size_t plan_bytes;
    const char *graph_path; /* the plan's */
    uint64_t round, seed;
    uint64_t elements;     /* of all parameters */
    struct tier_hash data; /* spoke_team_data */
    size_t ranks;          /* as asked before */
};

/*
 * Has every member prepare the order (borrowed until _end) and joins all ranks to a group, which
 * stays the servers'. TIER_EUNAVAILABLE where a member is lost, or its own error, with its name
 * before it. Every _begin that succeeds is followed by an _end.
 */
enum tier_status spoke_servers_begin(struct spoke_servers *servers, const struct spoke_order *order,
                                     struct kern_group **group_out, struct tier_err *err);
/*
 * `st` is what came of the training here, with its words in err; where a member's failure was the
 * cause, its own status and words take their place. With TIER_OK waits until every member is done
 * with the same model.
 */
enum tier_status spoke_servers_end(struct spoke_servers *servers, enum tier_status st,
                                   const struct tier_hash *model, struct tier_err *err);

#endif
