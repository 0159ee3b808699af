/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One more server of a spoke: it lends its devices to the leader's team (spoke/servers.h), and does
 * nothing else. It has no identity at a hub, seals nothing, keeps nothing on disk, and joins again
 * by itself whenever its leader was away.
 *
 * Threads: the loop's; training runs on the worker, which owns the devices.
 */
#ifndef CONSILIUM_SPOKE_MEMBER_H
#define CONSILIUM_SPOKE_MEMBER_H

#include "tier/config.h"
#include "tier/loop.h"

struct spoke_member;

/* Opens identity and devices, and calls the leader. The loop must be run afterwards. */
enum tier_status spoke_member_open(const struct tier_config *config, struct tier_loop *loop,
                                   struct spoke_member **out, struct tier_err *err);
void spoke_member_close(struct spoke_member *member); /* NULL is fine */

#endif
