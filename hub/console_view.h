/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What operators are shown: the hub's own state and its journal as the console's structs. Reads
 * only; texts that came from other nodes are made fit for a terminal here, and lists are cut to the
 * bounds of tier/console_wire.h.
 *
 * Threads: the loop's. The caller releases what it gets with the _release of tier/console_wire.h.
 */
#ifndef CONSILIUM_HUB_CONSOLE_VIEW_H
#define CONSILIUM_HUB_CONSOLE_VIEW_H

#include "hub/hub.h"
#include "tier/console_wire.h"

/* Without children and history. */
void hub_view_run(const struct hub_run *run, struct tier_console_run *out);
/* Adds the children. */
void hub_view_children(const struct hub_run *run, struct tier_console_run *out);
/* Adds rounds `from` (0: the first model) to the current one, but at most the last
 * TIER_CONSOLE_ROUNDS_MAX. Fails as the journal does; nothing is added then. */
enum tier_status hub_view_history(const struct hub_run *run, uint64_t from,
                                  struct tier_console_run *out, struct tier_err *err);
/* Itself, the children that attend, and those of open runs that do not. */
void hub_view_nodes(const struct hub *hub, struct tier_console_nodes *out);

#endif
