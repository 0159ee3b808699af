/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the root's optimiser remembers between two rounds (m, and v where there is one), as an
 * immutable file beside the model it belongs to, named by the SHA-256 of its bytes. It is kept as
 * float64: the recursion is then the one of the formulas in IEEE double with nothing rounded
 * between rounds, so a run that was interrupted goes on to the same bits, and an accumulator of
 * ten thousand rounds does not stand still as it would in float32. It costs 8 or 16 bytes a
 * parameter on the root's disk, and nothing on any wire.
 *
 * The layout is that of a segment-wise pass: a head of 128 bytes (little-endian: magic, version,
 * kind, elements, round, run, manifest), for each segment of the manifest m[n] and then v[n], and
 * last the hash of the model. The run is in it, so no two runs share a file.
 *
 * Threads: a reader and a writer belong to one thread at a time each. Memory does not depend on
 * the model's size.
 */
#ifndef CONSILIUM_TIER_SERVER_STATE_H
#define CONSILIUM_TIER_SERVER_STATE_H

#include "kernels/kern.h"
#include "tier/err.h"
#include "tier/hash.h"

#include <stdbool.h>

#define TIER_SERVER_STATE_SUFFIX ".state"
#define TIER_SERVER_STATE_TEMPORARY "state" /* for tier_named_file_sweep */

struct tier_server_state_id {
    struct tier_hash run, manifest;
    enum kern_server_kind kind;
    uint64_t elements;
    uint64_t round; /* the one whose result it stands beside */
};

struct tier_server_state_writer;
enum tier_status tier_server_state_begin(const char *dir, const struct tier_server_state_id *id,
                                         struct tier_server_state_writer **out,
                                         struct tier_err *err);
/* The next n elements; v is not read where the kind has none. */
enum tier_status tier_server_state_append(struct tier_server_state_writer *w, const double *m,
                                          const double *v, size_t n, struct tier_err *err);
/* Ends the writer whether it succeeds or not; it is on the disk then. */
enum tier_status tier_server_state_finish(struct tier_server_state_writer *w,
                                          const struct tier_hash *model, struct tier_hash *hash_out,
                                          struct tier_err *err);
/* NULL is fine. */
void tier_server_state_abort(struct tier_server_state_writer *w);

/*
 * TIER_ENOTFOUND without the file, TIER_EMODEL where it is not of this run, manifest and kind, of
 * an earlier round than id->round, and beside exactly this model.
 */
struct tier_server_state;
enum tier_status tier_server_state_open(const char *dir, const struct tier_hash *hash,
                                        const struct tier_server_state_id *id,
                                        const struct tier_hash *model,
                                        struct tier_server_state **out, struct tier_err *err);
/* The next n elements, in the pieces in which they were written. */
enum tier_status tier_server_state_next(struct tier_server_state *s, double *m, double *v, size_t n,
                                        struct tier_err *err);
/* After the last one: TIER_EMODEL where the bytes read are not those of the file's name. */
enum tier_status tier_server_state_check(struct tier_server_state *s, struct tier_err *err);
void tier_server_state_close(struct tier_server_state *s);

/* A file that is not there is fine. */
void tier_server_state_delete(const char *dir, const struct tier_hash *hash);
/* At start, while nothing is written: deletes every state that keep() does not want, and what a
 * kill has left unfinished. */
void tier_server_state_sweep(const char *dir, bool (*keep)(void *arg, const struct tier_hash *hash),
                             void *arg);

#endif
