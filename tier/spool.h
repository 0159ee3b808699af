/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool: a directory of update files, the log that a hub is. A file is the encoded
 * header, at least 16 zeros up to a multiple of 4096, then the payload, so that payload offsets
 * stay aligned. `<id>.upd` is sealed and never changes; `<id>.part` is being received, survives a
 * restart, and says in the 16 bytes before the payload how much of it is here; `N.tmp` is being
 * written by us and does not survive; `N.old` was deleted and is written over by what comes next.
 *
 * By default nothing is synced: a child keeps its update until the round's commit and pushes again
 * what a hub lost, and a file that a crash damaged is found by its Merkle root. A strict spool
 * syncs file and directory on every seal.
 *
 * Threads: a spool may be used by any threads at once. A receiver (rx) and a writer belong to one
 * thread at a time. An opened update is immutable and may be read by many. Calls block on the disk.
 * A full disk is TIER_EFULL, and what was there before stays as it was.
 */
#ifndef CONSILIUM_TIER_SPOOL_H
#define CONSILIUM_TIER_SPOOL_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"
#include "tier/update.h"

#include <sys/uio.h>

struct tier_spool;

/* Makes the directory where it is missing (its parent must exist). */
enum tier_status tier_spool_open(const char *dir, bool strict, struct tier_spool **out,
                                 struct tier_err *err);
void tier_spool_close(struct tier_spool *spool);

bool tier_spool_has(const struct tier_spool *spool, const struct tier_hash *id);
/* Deletes the sealed file and the partial of that id; one that is not there is TIER_OK. Readers
 * that have it open keep it. A few large ones stay on the disk, to be written over by the next. */
enum tier_status tier_spool_delete(struct tier_spool *spool, const struct tier_hash *id,
                                   struct tier_err *err);
/* Gives the sealed file to another folder of the same disk, under the same name: a spool that is
 * opened there has it. TIER_ENOTFOUND. */
enum tier_status tier_spool_give(struct tier_spool *spool, const struct tier_hash *id,
                                 const char *dir, struct tier_err *err);
/* Gives it a second name there, by which it outlives the first; it is no more bytes.
 * TIER_ENOTFOUND; a name that is there already is TIER_OK. */
enum tier_status tier_spool_share(struct tier_spool *spool, const struct tier_hash *id,
                                  const char *dir, struct tier_err *err);
/*
 * At start, before anything else: deletes every sealed file and partial that `keep` does not want,
 * and all temporary files. Files that are not a spool's are left alone, with a warning in the log.
 */
typedef bool tier_spool_keep(void *arg, const struct tier_hash *id, bool sealed);
enum tier_status tier_spool_sweep(struct tier_spool *spool, tier_spool_keep *keep, void *arg,
                                  struct tier_err *err);
/* Gives the disk back what deleted files still take: when there is nothing to do for a while. */
void tier_spool_forget_old(struct tier_spool *spool);
/* Bytes of all its files, sealed or not. */
enum tier_status tier_spool_bytes(const struct tier_spool *spool, uint64_t *out,
                                  struct tier_err *err);

/* Waits until that sealed update is on the disk, name and all. */
enum tier_status tier_spool_sync(const struct tier_spool *spool, const struct tier_hash *id,
                                 struct tier_err *err);

/* ---- receiving ------------------------------------------------------------------------------ */

struct tier_spool_rx;

/*
 * Begins or resumes the update with this encoded header. TIER_EUPDATE for a bad header (check it
 * against the manifest first: tier_update_header_check); TIER_ECONFLICT while another receiver has
 * the same id open. An id that is sealed already is TIER_OK: tier_spool_rx_sealed says so, the
 * offset is the whole length and _seal just gives the id, so a repeated push is harmless.
 */
enum tier_status tier_spool_receive(struct tier_spool *spool, const uint8_t *header, size_t len,
                                    struct tier_spool_rx **out, struct tier_err *err);
bool tier_spool_rx_sealed(const struct tier_spool_rx *rx);
/* Payload bytes that are here: the next write starts there. After a resume, a whole number of
 * TIER_CHUNK_BYTES. */
uint64_t tier_spool_rx_offset(const struct tier_spool_rx *rx);
const struct tier_update_header *tier_spool_rx_header(const struct tier_spool_rx *rx);
/*
 * The next n bytes. TIER_EPROTO unless offset is tier_spool_rx_offset and the bytes fit the
 * payload. On TIER_EFULL and TIER_EIO nothing has advanced: the same bytes may be written again.
 */
enum tier_status tier_spool_rx_write(struct tier_spool_rx *rx, uint64_t offset, const void *data,
                                     size_t n, struct tier_err *err);
/* The same from several slices, in one system call where they are at most 64. */
enum tier_status tier_spool_rx_writev(struct tier_spool_rx *rx, uint64_t offset,
                                      const struct iovec *slices, size_t count,
                                      struct tier_err *err);
/*
 * Seals what is complete and gives its id; rx then only wants closing. TIER_EUPDATE where bytes are
 * missing (the partial stays and may be resumed), or the Merkle root is not the header's (the
 * partial is deleted).
 */
enum tier_status tier_spool_rx_seal(struct tier_spool_rx *rx, struct tier_hash *id_out,
                                    struct tier_err *err);
void tier_spool_rx_close(struct tier_spool_rx *rx);   /* keeps the partial; NULL is fine */
void tier_spool_rx_discard(struct tier_spool_rx *rx); /* deletes the partial; NULL is fine */

/* ---- writing our own ------------------------------------------------------------------------ */

struct tier_spool_writer;

/*
 * A new update of ours. `tmpl` gives all of the header but payload_bytes, root and saturated; it is
 * copied (its metrics are encoded now, and only weight and encoding decide what may follow).
 */
enum tier_status tier_spool_writer_begin(struct tier_spool *spool,
                                         const struct tier_update_header *tmpl,
                                         struct tier_spool_writer **out, struct tier_err *err);
enum tier_status tier_spool_writer_append(struct tier_spool_writer *w, const void *data, size_t n,
                                          struct tier_err *err);
/* Ends the writer whether it succeeds or not; a failed one leaves no file. */
enum tier_status tier_spool_writer_seal(struct tier_spool_writer *w, uint64_t saturated,
                                        struct tier_hash *id_out, struct tier_err *err);
void tier_spool_writer_abort(struct tier_spool_writer *w);

/* ---- reading sealed ones -------------------------------------------------------------------- */

/* TIER_ENOTFOUND, or TIER_ECORRUPT when the header is not the one the name says or the length is
 * wrong. The payload is not read: tier_spool_update_check does that. */
enum tier_status tier_spool_update_open(const struct tier_spool *spool, const struct tier_hash *id,
                                        struct tier_update **out, struct tier_err *err);
void tier_spool_update_close(struct tier_update *u);
const struct tier_update_header *tier_spool_update_header(const struct tier_update *u);
const struct tier_hash *tier_spool_update_id(const struct tier_update *u);
/* The encoded header, as it travels; lives as long as u. */
const uint8_t *tier_spool_update_header_bytes(const struct tier_update *u, size_t *len_out);
/* Payload bytes [offset, offset + n); TIER_EARG past the end. */
enum tier_status tier_spool_update_read(const struct tier_update *u, uint64_t offset, void *out,
                                        size_t n, struct tier_err *err);
/* Reads the payload through and compares its Merkle root: TIER_ECORRUPT where it differs. */
enum tier_status tier_spool_update_check(const struct tier_update *u, struct tier_err *err);
/* Gives up the encoded header and the metrics, and with keep_file false the file descriptor too:
 * reads then open the file again each time. For folds over more updates than a process may have
 * files open. */
void tier_spool_update_trim(struct tier_update *u, bool keep_file);

#endif
