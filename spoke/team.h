/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of one spoke: one, or several that train side by side, each a replica of the model on
 * its slice of every batch (spoke/train.h).
 *
 * Threads: the worker's, once open. Ownership: owns devices and group.
 */
#ifndef CONSILIUM_SPOKE_TEAM_H
#define CONSILIUM_SPOKE_TEAM_H

#include "kernels/group.h"
#include "spoke/net.h"

struct spoke_team {
    struct kern_device *dev[KERN_GROUP_RANKS_MAX];
    size_t count;
    struct kern_group *group; /* of all of them; NULL for one, and where there are other servers */
};

/* `list` as kern_devices_open takes it. TIER_EDEVICE with the reason. */
/* `alone`: no other server's devices train with these. */
enum tier_status spoke_team_open(const char *list, int threads, bool alone, struct spoke_team *out,
                                 struct tier_err *err);
void spoke_team_close(struct spoke_team *team);

/* One replica for each device in nets[team->count], for slices of a batch cut over `ranks` devices;
 * `whole`: the first one for whole batches. All or none. */
enum tier_status spoke_team_nets(const struct spoke_team *team, const struct tier_graph *graph,
                                 const struct spoke_objective *objective, size_t batch,
                                 size_t ranks, bool whole, struct spoke_net **nets,
                                 struct tier_err *err);

#endif
