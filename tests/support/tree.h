/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole tree in one process, for tests: every node has its own loop and thread and talks to its
 * parent over loopback like a separate process would, with or without TLS.
 *
 * Threads: the test's own; each call waits for what it starts.
 */
#ifndef CONSILIUM_TESTS_TREE_H
#define CONSILIUM_TESTS_TREE_H

#include "hub/hub.h"
#include "spoke/spoke.h"

struct tree;
struct tree_node;

/* Works below `dir` (made; must not exist). With `tls` an authority is made and all nodes enroll.
 */
struct tree *tree_new(const char *dir, bool tls);
/* Uploaders' places of the hubs that are made from now on; 8 before. */
void tree_places(struct tree *tree, unsigned places);
void tree_free(struct tree *tree); /* stops every node that runs */

/* Starts a node and returns when it listens or attends are possible. `parent` NULL: the top. */
struct tree_node *tree_hub(struct tree *tree, const char *name, struct tree_node *parent,
                           unsigned children_min);
struct tree_node *tree_spoke(struct tree *tree, const char *name, struct tree_node *parent,
                             const char *csv, const char *schema);
/* A node's configuration, to be changed while it is stopped. */
struct tier_config *tree_config(struct tree_node *node);
/* Stops a node, keeping its directory, and starts it again there (a hub on its old port). */
void tree_stop(struct tree_node *node);
void tree_start(struct tree_node *node);

/* Starts a run at the top. `model_path` is an ONNX file; the plan's model fields are filled in. */
struct tier_hash tree_run(struct tree_node *top, struct tier_plan *plan, const char *model_path);
/* Waits for the run to end at the top. False after timeout_ms. */
bool tree_wait(struct tree_node *top, const struct tier_hash *run, uint64_t timeout_ms,
               enum hub_run_state *state_out, struct tier_hash *model_out);
/* Waits until fn(node's hub, arg) holds, asked on the hub's own thread. */
bool tree_until(struct tree_node *node, bool (*fn)(struct hub *hub, void *arg), void *arg,
                uint64_t timeout_ms);
struct tier_serve_traffic tree_serve_traffic(struct tree_node *hub);
struct tier_link_traffic tree_link_traffic(struct tree_node *node);
const char *tree_dir(const struct tree_node *node);

#endif
