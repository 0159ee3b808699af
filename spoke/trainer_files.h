/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder that a spoke shares with its hospital's own trainer, and the files of one job in it:
 * the model, and one of the same layout for the result, both to be mapped. On a file system in
 * memory nothing of them reaches a disk. The folder is its owner's alone (mode 0700), which is what
 * keeps other users from the socket and from every model.
 *
 * The spoke keeps the result open from its making on and reads it by the layout that it made, so
 * that neither another file of its name nor another header changes what is read.
 *
 * Threads: a struct belongs to one thread at a time.
 */
#ifndef CONSILIUM_SPOKE_TRAINER_FILES_H
#define CONSILIUM_SPOKE_TRAINER_FILES_H

#include "tier/err.h"
#include "tier/graph.h"
#include "tier/hash.h"

#include <stdint.h>

#define SPOKE_TRAINER_SOCKET "socket"

/*
 * Makes the folder where there is none, takes it for this process alone, and deletes what files an
 * earlier one has left. TIER_ECONFIG where it is not this user's own or open to others,
 * TIER_ECONFLICT where another process holds it. *dir_out is the caller's to close.
 */
enum tier_status spoke_trainer_dir_open(const char *path, int *dir_out, struct tier_err *err);

struct spoke_trainer_files {
    int dir, result_fd; /* the folder is borrowed; -1: there is no result */
    char model[96], result[96];
    uint64_t front, elements, bytes; /* before the first element; elements; of either file */
};

/*
 * Makes the job's files: the model holds all[tier_graph_elements], in the order of the graph's
 * parameters, the result NaN in every element, so that a tensor that was forgotten is one that
 * cannot be sealed. Leaves none when it fails; TIER_EFULL where there is no room.
 */
enum tier_status spoke_trainer_files_make(int dir, const char *run_hex, uint64_t round,
                                          uint64_t job, const struct tier_graph *graph,
                                          const float *all, bool with_result,
                                          struct spoke_trainer_files *out, struct tier_err *err);
/* The result as it is now, into all[elements]. TIER_EUPDATE where the file has another size. */
enum tier_status spoke_trainer_files_read(const struct spoke_trainer_files *files, float *all,
                                          struct tier_err *err);
/* Deletes both. Zero-initialised is fine. */
void spoke_trainer_files_drop(struct spoke_trainer_files *files);

#endif
