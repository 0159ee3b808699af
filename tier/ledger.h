/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a site has spent of its privacy: a ledger file, a row for each mechanism that was run,
 * of every run and plan, for ever. A round is charged once, before it is run, together with the key
 * of its noise: who is killed afterwards finds the key and draws the same noise again, and pays no
 * second time. The key is forgotten when the round is over; its hash stays.
 *
 * Two books, which are never added up: of what protects a patient, and of what protects a site.
 *
 * It is a file of its own because it outlives every run, because people read it while the spoke
 * runs (consilium-spoke budget), and because a hospital that serves several authorities, by a spoke
 * of its own for each, has one budget for one set of patients: several processes may have it open.
 * It is DATA_DIR/ledger.db, or what ledger.file names, on a disk of this machine (SQLite's locks).
 *
 * A key is given back to the data directory that it was drawn for (DATA_DIR/ledger.id) and to no
 * other: two updates under one noise would tell what they differ by, and what this directory has
 * sent before is known in it alone.
 *
 * What a run that was taken may still cost is claimed here, so that it counts for every plan that
 * comes after it, at whichever spoke: who takes a plan reads all and claims in one transaction,
 * and nobody else reads meanwhile. A charge uses up its part of the claim.
 *
 * Threads: a ledger belongs to one thread; every call may block on the disk.
 *
 * Errors common to all: TIER_EFULL, TIER_EIO, TIER_ECORRUPT, TIER_ENOMEM; TIER_ECONFLICT while
 * another process writes.
 */
#ifndef CONSILIUM_TIER_LEDGER_H
#define CONSILIUM_TIER_LEDGER_H

#include "tier/limits.h"
#include "tier/noise.h"
#include "tier/privacy.h"

enum tier_ledger_book { TIER_LEDGER_PATIENT, TIER_LEDGER_SITE };
#define TIER_LEDGER_BOOKS 2

struct tier_ledger_charge {
    enum tier_ledger_book book;
    char run[TIER_HASH_HEX];
    uint64_t round;
    char plan[TIER_NAME_LEN_MAX + 1];
    struct tier_privacy_event event;
    int64_t time_ms;
    struct tier_noise_key key;
    bool has_key; /* false: forgotten */
    struct tier_hash key_hash;
};

struct tier_ledger;

/* Opens the ledger of a data directory; makes it where it is not there, unless `reading`:
 * TIER_ENOTFOUND then. */
enum tier_status tier_ledger_open(const char *data_dir, bool reading, struct tier_ledger **out,
                                  struct tier_err *err);
/* The same of another file (NULL or "": that of the data directory). Keys are encrypted as files of
 * the data directory are (tier/vault.h), wherever the ledger lies. */
enum tier_status tier_ledger_open_at(const char *data_dir, const char *file, bool reading,
                                     struct tier_ledger **out, struct tier_err *err);
void tier_ledger_close(struct tier_ledger *ledger); /* NULL is fine */

/* From here to the end nobody else begins or charges. Waits for others, for half a minute. */
enum tier_status tier_ledger_begin(struct tier_ledger *ledger, struct tier_err *err);
enum tier_status tier_ledger_commit(struct tier_ledger *ledger, struct tier_err *err);
void tier_ledger_rollback(struct tier_ledger *ledger); /* fine without a transaction */

/* What a run may still cost: `each` so often, 0 for no more. In place of what it claimed before. */
enum tier_status tier_ledger_claim(struct tier_ledger *ledger, enum tier_ledger_book book,
                                   const char *run, const struct tier_privacy_event *each,
                                   uint64_t rounds, struct tier_err *err);
/* The run is over: it claims nothing, in no book. */
enum tier_status tier_ledger_unclaim(struct tier_ledger *ledger, const char *run,
                                     struct tier_err *err);

/* Durable when it returns, or with the transaction's end. The key's hash is worked out here.
 * TIER_ECONFLICT: this round is in this book already. */
enum tier_status tier_ledger_charge(struct tier_ledger *ledger,
                                    const struct tier_ledger_charge *charge, struct tier_err *err);
/* TIER_ENOTFOUND: it was not charged. */
enum tier_status tier_ledger_get(struct tier_ledger *ledger, enum tier_ledger_book book,
                                 const char *run, uint64_t round, struct tier_ledger_charge *out,
                                 struct tier_err *err);
/* Forgets the keys of a run's rounds below this one, in both books. */
enum tier_status tier_ledger_forget_keys(struct tier_ledger *ledger, const char *run,
                                         uint64_t below, struct tier_err *err);

/* And those of rounds that were charged before that time. */
enum tier_status tier_ledger_forget_before(struct tier_ledger *ledger, int64_t time_ms,
                                           struct tier_err *err);

/* All that is in a book, equal mechanisms together; the caller frees *events_out with free(3). No
 * more than TIER_PRIVACY_EVENTS_MAX kinds: TIER_ELIMIT. `rounds_out` of run `run` (both may be
 * NULL): how many of its rounds were charged. */
enum tier_status tier_ledger_events(struct tier_ledger *ledger, enum tier_ledger_book book,
                                    const char *run, struct tier_privacy_event **events_out,
                                    size_t *count_out, uint64_t *rounds_out, struct tier_err *err);

/* The same with what all runs but this one claim. */
enum tier_status tier_ledger_events_claimed(struct tier_ledger *ledger, enum tier_ledger_book book,
                                            const char *run, struct tier_privacy_event **events_out,
                                            size_t *count_out, uint64_t *rounds_out,
                                            struct tier_err *err);

/* What a run has spent with one mechanism. */
struct tier_ledger_entry {
    char run[TIER_HASH_HEX];
    char plan[TIER_NAME_LEN_MAX + 1];
    uint64_t rounds;
    struct tier_privacy_event event; /* over these rounds */
    int64_t first_ms, last_ms;
};
typedef enum tier_status (*tier_ledger_entry_fn)(void *arg, const struct tier_ledger_entry *entry,
                                                 struct tier_err *err);
/* Oldest first. */
enum tier_status tier_ledger_each(struct tier_ledger *ledger, enum tier_ledger_book book,
                                  tier_ledger_entry_fn fn, void *arg, struct tier_err *err);

#endif
