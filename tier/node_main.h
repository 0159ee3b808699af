/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the main of every daemon does before and after its own work: configuration, messages about
 * it, and stopping in good order on SIGTERM and SIGINT.
 *
 * Threads: the main thread.
 */
#ifndef CONSILIUM_TIER_NODE_MAIN_H
#define CONSILIUM_TIER_NODE_MAIN_H

#include "tier/config.h"
#include "tier/loop.h"

/*
 * Loads the configuration, starts logging. True: go on. False: leave with *exit_out (help was
 * shown, or what was wrong was said).
 */
bool tier_node_begin(enum tier_config_kind kind, const char *program, int argc, char **argv,
                     struct tier_config *config, int *exit_out);
/* As many descriptors as the system allows: every child is one, and tier_node_begin asks for it. */
void tier_node_many_files(void);
/* From now on SIGTERM and SIGINT are kept for the loop that is named next, and stop it. */
void tier_node_catch_signals(void);
void tier_node_stop_on_signals(struct tier_loop *loop);

#endif
