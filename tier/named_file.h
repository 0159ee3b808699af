/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a file that is named by the SHA-256 of its bytes: under a temporary name, synced, then
 * renamed, and the directory synced, so that whatever carries a name is whole and on the disk.
 *
 * Threads: a writer belongs to one thread at a time. Ownership: _begin gives it, _finish and _abort
 * end it.
 */
#ifndef CONSILIUM_TIER_NAMED_FILE_H
#define CONSILIUM_TIER_NAMED_FILE_H

#include "tier/err.h"
#include "tier/hash.h"

#include <sys/types.h>

struct tier_named_file;

/* The temporary name is "<dir>/<what>-" and six characters; `what` is a literal. */
enum tier_status tier_named_file_begin(const char *dir, const char *what,
                                       struct tier_named_file **out, struct tier_err *err);
enum tier_status tier_named_file_put(struct tier_named_file *f, const void *data, size_t n,
                                     struct tier_err *err);
/* As _put, but for the hash: the caller adds the same bytes, in the same order, to _hasher, which
 * is borrowed, before it ends the file. */
enum tier_status tier_named_file_write(struct tier_named_file *f, const void *data, size_t n,
                                       struct tier_err *err);
struct tier_hasher *tier_named_file_hasher(struct tier_named_file *f);
/* "<dir>/<hash><suffix>". Ends f whether it succeeds or not; leaves no file when it fails. */
enum tier_status tier_named_file_finish(struct tier_named_file *f, const char *suffix, mode_t mode,
                                        struct tier_hash *hash_out, struct tier_err *err);
/* Removes the temporary file. NULL is fine. */
void tier_named_file_abort(struct tier_named_file *f);

/*
 * Deletes the temporary files of that kind, which a kill has left. Only where nothing writes into
 * the directory.
 */
void tier_named_file_sweep(const char *dir, const char *what);

#endif
