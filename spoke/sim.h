/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-sim: a whole federation on this machine, from a plan, a tree and one table of patients.
 * Real hub processes, spokes hosted many to a process (spoke/host.h), mutual TLS, the default
 * durability: what runs is what would be deployed, so what it computes is what that would compute.
 * Internal to the program: sim.c is what it does, sim_tree.c who takes part, sim_split.c who has
 * which patients, sim_nodes.c the processes, sim_watch.c the run.
 *
 * Threads: the main thread only.
 */
#ifndef CONSILIUM_SPOKE_SIM_H
#define CONSILIUM_SPOKE_SIM_H

#include "spoke/schema.h"
#include "tier/identity.h"

#include <jansson.h>
#include <signal.h>
#include <sys/types.h>

#define SIM_PATH_BYTES 1024
#define SIM_NODES_MAX 16384u
#define SIM_CLASSES_MAX SPOKE_CATEGORIES_MAX

/* ---- who takes part (sim_tree.c) ---- */

/*
 * A tree file:
 *
 *   name: national          # the top
 *   hubs:
 *     - {name: north, spokes: 3}              # north-1, north-2, north-3
 *     - name: south
 *       spokes: [hill, vale]
 *       hubs: [{name: coast, spokes: 2}]
 *
 * Any depth; every node may have spokes, hubs, or both.
 */
struct sim_node {
    char name[TIER_NAME_LEN_MAX + 1];
    size_t parent; /* place in the tree; the top's is its own, 0 */
    bool hub;
    size_t children;
};
struct sim_tree {
    struct sim_node *node; /* parents before children */
    size_t count, spokes;
};

/* TIER_ECONFIG with file, line and what would be right. */
enum tier_status sim_tree_load(const char *path, struct sim_tree *out, struct tier_err *err);
/* Spokes dealt in turn to `hubs` hubs below one top; 0 hubs: to the top. */
enum tier_status sim_tree_even(size_t hubs, size_t spokes, struct sim_tree *out,
                               struct tier_err *err);
void sim_tree_release(struct sim_tree *tree);

/* ---- who has which patients (sim_split.c) ---- */

enum sim_split_kind { SIM_SPLIT_IID, SIM_SPLIT_DIRICHLET, SIM_SPLIT_QUANTITY, SIM_SPLIT_COLUMN };
struct sim_split {
    enum sim_split_kind kind;
    double alpha;       /* DIRICHLET, QUANTITY: concentration; small is uneven */
    const char *column; /* COLUMN */
    uint64_t seed;
    size_t rows;     /* for each site, drawn with replacement; 0: every row once, at one site */
    size_t rows_min; /* for each site; a draw that leaves less is drawn again */
};

/* "iid", "dirichlet:0.3", "quantity:0.5" or "column:hospital"; borrows from text. */
enum tier_status sim_split_parse(const char *text, struct sim_split *out, struct tier_err *err);

struct sim_site {
    size_t rows;
    size_t *classes; /* [classes of the table] */
};
struct sim_table {
    char **line; /* [rows], as they are written */
    uint32_t *class_of, *group_of;
    size_t rows;
    char *header; /* or NULL */
    char *class_name[SIM_CLASSES_MAX];
    size_t classes;    /* 1 where what is learnt is no class */
    char **group_name; /* values of the split's column */
    size_t groups;
};

/* The table `path` of this schema, whole. TIER_EARG where this schema or split cannot be dealt. */
enum tier_status sim_table_open(const struct spoke_schema *schema, const char *path,
                                const struct sim_split *split, struct sim_table *out,
                                struct tier_err *err);
void sim_table_release(struct sim_table *table);
/*
 * Deals the table to `count` sites: sites[count], whose classes are the caller's to free, and
 * paths[count], the files that are written. By a column, a site whose name is one of its values has
 * the rows of that value, and the others what is left, as it comes. The same table, split and names
 * give the same files.
 */
enum tier_status sim_deal(const struct sim_table *table, const struct sim_split *split,
                          const char *const *names, const char *const *paths, size_t count,
                          struct sim_site *sites, struct tier_err *err);

/* ---- the processes (sim_nodes.c) ---- */

extern volatile sig_atomic_t sim_asked_to_stop; /* by that signal */

struct sim_nodes;
struct sim_setting {
    const char *dir;    /* everything lies here */
    const char *schema; /* absolute */
    size_t hosts;       /* processes for the spokes */
    const char *device;
    size_t threads; /* of each host; 0: one for each core */
    bool tls;
    const char *author; /* who signs the plan; "": the operator */
};

/* Identities and configuration for every node of the tree, below setting.dir. */
enum tier_status sim_nodes_make(const struct sim_setting *setting, const struct sim_tree *tree,
                                struct sim_nodes **out, struct tier_err *err);
/* The table of node i, which is a spoke. */
const char *sim_nodes_table(const struct sim_nodes *nodes, size_t i);
/* Starts hubs, each below its parent, then the hosts. */
enum tier_status sim_nodes_start(struct sim_nodes *nodes, struct tier_err *err);
/* A process that has ended, with where its log is, or that this one was asked to stop; else
 * TIER_OK. To be asked now and then by whoever waits. */
enum tier_status sim_nodes_alive(struct sim_nodes *nodes, struct tier_err *err);
/* Starts `consilium ARGS...` with how to reach the top, or, with `whom` alone, as whom; *from is
 * the read end of its output. */
enum tier_status sim_nodes_console(const struct sim_nodes *nodes, const char *const *args,
                                   bool whom, pid_t *pid, int *from, struct tier_err *err);
/* Signs the plan as the operator into *path_out, the caller's to free; NULL without TLS. */
enum tier_status sim_nodes_sign(const struct sim_nodes *nodes, const char *plan, char **path_out,
                                struct tier_err *err);
/* Asks all to stop, and kills who does not; frees. NULL is fine. */
void sim_nodes_stop(struct sim_nodes *nodes);

/* ---- the run (sim_watch.c) ---- */

/* Starts a run of the plan and follows it to its end, with a line a round on `say` (NULL: none).
 * *run_out is what `consilium run watch` last told, with the whole history. TIER_ECANCELLED where
 * it did not complete. */
enum tier_status sim_watch(struct sim_nodes *nodes, const char *plan, FILE *say, json_t **run_out,
                           struct tier_err *err);

#endif
