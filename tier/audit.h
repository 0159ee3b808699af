/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log of a node: append-only, one JSON object a line in DATA_DIR/audit/audit.log, each
 * chained to the one before it by hash:
 *
 *   {"data":{...},"event":"round.commit","hash":H,"prev":P,"seq":17,"time_ms":1700000000000}
 *
 * Lines are canonical: compact, keys sorted, as jansson writes them. H = SHA-256(the 32 bytes of P
 * || the line without its member "hash" and without the line feed), so that an auditor needs
 * nothing but a JSON reader and SHA-256. P of the first line is zero, seq counts from 1 and is the
 * line number; the first event is "audit.created" and names the node. The chain shows every change
 * but a cut at its end, or a log written anew from some line on: for that the lines, each without
 * its line feed, are the entries of a Merkle tree (tier/merkle.h), whose signed heads parents and
 * children keep for each other (tier/heads.h).
 *
 * Threads: a log belongs to one thread; tier_audit_append blocks on the disk where the policy says
 * so. One process at a time: the file is locked while it is open.
 *
 * No control character gets into the file: jansson escapes those below 0x20, and data that holds
 * any is refused all the same, since an escape unescaped on someone's terminal is an attack.
 */
#ifndef CONSILIUM_TIER_AUDIT_H
#define CONSILIUM_TIER_AUDIT_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/merkle.h"

#include <stdint.h>

#define TIER_AUDIT_LINE_BYTES_MAX (64u << 10) /* with the line feed */
#define TIER_AUDIT_EVENT_LEN_MAX 63
#define TIER_AUDIT_TEXT_LEN_MAX 2048 /* of one string of tier_audit_note */

enum tier_audit_sync {
    TIER_AUDIT_SYNC_NEVER, /* the kernel writes it out; survives kill -9, not a power cut */
    TIER_AUDIT_SYNC_EACH,  /* fdatasync before an append returns */
};

struct json_t; /* jansson's */
struct tier_audit;

/*
 * Opens or creates the log of this node, checks the last 1 MiB of the chain and hashes all of it
 * into its tree, in memory that does not depend on its size. A last line without its line feed was
 * torn by a kill: it is cut off, and the cut recorded as "audit.cut" at now_ms.
 * TIER_ECORRUPT: the chain is broken (with the line number); TIER_ECONFLICT: another process has it
 * open; TIER_EIDENTITY: it is another node's.
 */
enum tier_status tier_audit_open(const char *data_dir, const char *node, enum tier_audit_sync sync,
                                 int64_t now_ms, struct tier_audit **out, struct tier_err *err);
/* Syncs what was not. NULL is fine. */
void tier_audit_close(struct tier_audit *log);

/*
 * Appends one event. `event` is [a-z0-9._-]+, at most TIER_AUDIT_EVENT_LEN_MAX; `data` is an object
 * (borrowed; NULL: {}). TIER_EARG: not so, or control characters, or a line longer than
 * TIER_AUDIT_LINE_BYTES_MAX. TIER_EFULL, TIER_EIO: the line is not there; where that cannot be made
 * sure the log takes no more.
 */
enum tier_status tier_audit_append(struct tier_audit *log, int64_t now_ms, const char *event,
                                   const struct json_t *data, struct tier_err *err);
/*
 * The same from pairs "T:key", value, ..., NULL, where T is s (const char *; NULL becomes null), i
 * (int64_t), u (uint64_t below 2^63), d (double, finite), b (int, as bool) or h (const struct
 * tier_hash *). A string from a peer is safe here: it is cut at TIER_AUDIT_TEXT_LEN_MAX, and what
 * is not UTF-8 or is a control character becomes '?'.
 */
enum tier_status tier_audit_note(struct tier_audit *log, int64_t now_ms, const char *event,
                                 struct tier_err *err, ...) __attribute__((sentinel));
/* Makes everything appended so far durable. */
enum tier_status tier_audit_sync_now(struct tier_audit *log, struct tier_err *err);
/* The last line's number and hash. */
void tier_audit_head(const struct tier_audit *log, uint64_t *seq_out, struct tier_hash *hash_out);
/* How many lines the disk is known to have: what may be said to others, since no loss of power can
 * take it back. */
uint64_t tier_audit_durable(const struct tier_audit *log);
/* Its tree, for roots and proofs. Borrowed. */
const struct tier_tree *tier_audit_tree(const struct tier_audit *log);

/*
 * Checks one line (without its line feed) that must have number `seq` and follow `prev`; gives its
 * own hash. TIER_ECORRUPT otherwise.
 */
enum tier_status tier_audit_check_line(const char *line, size_t bytes, uint64_t seq,
                                       const struct tier_hash *prev, struct tier_hash *hash_out,
                                       struct tier_err *err);
/*
 * Checks a whole file, in memory that does not depend on its size; it may be open elsewhere. Gives
 * the number of lines and the last hash. TIER_ECORRUPT with the number of the first bad line.
 */
enum tier_status tier_audit_verify(const char *path, uint64_t *count_out,
                                   struct tier_hash *head_out, struct tier_err *err);
/* One checked line: its record (borrowed), its number, and the tree up to and with it. Anything but
 * TIER_OK stops the walk and is returned. */
typedef enum tier_status (*tier_audit_line_fn)(void *arg, uint64_t seq, const struct json_t *record,
                                               const struct tier_tree_edge *edge,
                                               struct tier_err *err);
/* tier_audit_verify, with each line shown once it is known to follow the one before. */
enum tier_status tier_audit_walk(const char *path, tier_audit_line_fn fn, void *arg,
                                 uint64_t *count_out, struct tier_hash *head_out,
                                 struct tier_err *err);

#endif
