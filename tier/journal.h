/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's journal: one SQLite file (WAL, synchronous=FULL) that says what a node had decided
 * when it was killed. It is a plain store: what may follow what is decided by the round state
 * machine, and bytes larger than a header live in files that the journal only names. Everything
 * written between tier_journal_begin and tier_journal_commit is there after kill -9 together or not
 * at all; a call outside a transaction is a transaction of its own.
 *
 * Threads: a journal belongs to one thread; every call may block on the disk. One process at a
 * time: the file stays locked while it is open, and a second process is refused.
 *
 * Ownership: `put` functions borrow what they are given; `get` functions fill the caller's struct;
 * pointers handed to a callback are valid during that callback only. A callback may call `get` and
 * `put` functions but not iterate the same table. It returns TIER_OK to go on, anything else stops
 * the iteration and is returned (the callback fills the error if there is one to fill).
 *
 * Errors common to all: TIER_EFULL (disk full: the transaction is rolled back), TIER_ECORRUPT (the
 * file is damaged), TIER_EIO, TIER_ENOMEM, TIER_EARG (a name empty or too long, a number beyond
 * int64). `get` and `set` of a row that is not there is TIER_ENOTFOUND.
 */
#ifndef CONSILIUM_TIER_JOURNAL_H
#define CONSILIUM_TIER_JOURNAL_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"

#include <stdint.h>

#define TIER_JOURNAL_RECEIPT_BYTES_MAX 2048
#define TIER_JOURNAL_DETAIL_LEN_MAX 511
#define TIER_JOURNAL_VALUE_BYTES_MAX (1u << 20)

struct tier_journal;

/* Heap bytes with a terminating 0 behind them, so that text may be used as a string. */
struct tier_journal_blob {
    uint8_t *data;
    size_t bytes;
};
void tier_journal_blob_release(struct tier_journal_blob *blob);

/* ---- life cycle ---------------------------------------------------------------------------- */

/*
 * Opens or creates the file (mode 0600) and brings its schema up to this version. TIER_ECONFLICT:
 * another process has it open, or it was written by a newer version; TIER_ECORRUPT: damaged, or no
 * journal at all.
 */
enum tier_status tier_journal_open(const char *path, struct tier_journal **out,
                                   struct tier_err *err);
/* An open transaction is rolled back. NULL is fine. */
void tier_journal_close(struct tier_journal *j);

/* Transactions do not nest: TIER_EINTERNAL. */
enum tier_status tier_journal_begin(struct tier_journal *j, struct tier_err *err);
/*
 * The same for what may be lost with the machine, because it can be had again: its commit waits for
 * no disk. It is there after kill -9 like any other, and after a machine's crash once a later
 * commit has waited.
 */
enum tier_status tier_journal_begin_lazy(struct tier_journal *j, struct tier_err *err);
/* On failure nothing of the transaction is kept. */
enum tier_status tier_journal_commit(struct tier_journal *j, struct tier_err *err);
/* Without a transaction it does nothing, so that it may stand behind an `out:` label. */
void tier_journal_rollback(struct tier_journal *j);

/* ---- key and value -------------------------------------------------------------------------- */

/* At most TIER_JOURNAL_VALUE_BYTES_MAX; replaces what was there. */
enum tier_status tier_journal_kv_put(struct tier_journal *j, const char *key, const void *value,
                                     size_t bytes, struct tier_err *err);
enum tier_status tier_journal_kv_get(struct tier_journal *j, const char *key,
                                     struct tier_journal_blob *value_out, struct tier_err *err);
/* A key that is not there is fine. */
enum tier_status tier_journal_kv_delete(struct tier_journal *j, const char *key,
                                        struct tier_err *err);

/* ---- runs ----------------------------------------------------------------------------------- */

struct tier_journal_run {
    char run[TIER_HASH_HEX]; /* hex id */
    int state;               /* the round state machine's own number */
    uint64_t round;          /* the round it is in */
    int64_t created_ms;
    struct tier_hash model;                       /* latest committed; zero: none yet */
    char detail[TIER_JOURNAL_DETAIL_LEN_MAX + 1]; /* a line for a person: why it stopped */
};

/* `plan` is the signed text (at most TIER_PLAN_BYTES_MAX), kept byte for byte. A run that is
 * already there is TIER_ECONFLICT. */
enum tier_status tier_journal_run_add(struct tier_journal *j, const struct tier_journal_run *run,
                                      const void *plan, size_t plan_bytes, const void *sig,
                                      size_t sig_bytes, struct tier_err *err);
/* Everything but the plan and created_ms. */
enum tier_status tier_journal_run_set(struct tier_journal *j, const struct tier_journal_run *run,
                                      struct tier_err *err);
enum tier_status tier_journal_run_get(struct tier_journal *j, const char *run,
                                      struct tier_journal_run *out, struct tier_err *err);
/* Both blobs are the caller's to release. */
enum tier_status tier_journal_run_plan(struct tier_journal *j, const char *run,
                                       struct tier_journal_blob *plan_out,
                                       struct tier_journal_blob *sig_out, struct tier_err *err);
typedef enum tier_status (*tier_journal_run_fn)(void *arg, const struct tier_journal_run *run,
                                                struct tier_err *err);
/* Oldest first (created_ms, then id). */
enum tier_status tier_journal_run_each(struct tier_journal *j, tier_journal_run_fn fn, void *arg,
                                       struct tier_err *err);
/* Forgets the run and every row of it in every table. */
enum tier_status tier_journal_run_delete(struct tier_journal *j, const char *run,
                                         struct tier_err *err);

/* ---- rounds --------------------------------------------------------------------------------- */

struct tier_journal_round {
    char run[TIER_HASH_HEX];
    uint64_t round;
    int state;
    struct tier_hash base_model;
    int64_t opened_ms;
    int64_t closed_ms;             /* 0: still open */
    struct tier_hash result_model; /* zero: not committed */
    struct tier_hash own_update;   /* what this node pushed up; zero: nothing yet */
    struct tier_hash result_state; /* the root's optimiser beside result_model; zero: none */
    bool counted;                  /* committed, and the result holds own_update */
    bool by_receipt; /* it holds one that is not known here, with what was receipted */
};

/* The last round by_receipt; 0: none. */
enum tier_status tier_journal_round_unsure(struct tier_journal *j, const char *run,
                                           uint64_t *round_out, struct tier_err *err);
/* Adds the row or replaces it. */
enum tier_status tier_journal_round_put(struct tier_journal *j,
                                        const struct tier_journal_round *round,
                                        struct tier_err *err);
enum tier_status tier_journal_round_get(struct tier_journal *j, const char *run, uint64_t round,
                                        struct tier_journal_round *out, struct tier_err *err);
typedef enum tier_status (*tier_journal_round_fn)(void *arg, const struct tier_journal_round *round,
                                                  struct tier_err *err);
/* Ascending, from `from` on. */
enum tier_status tier_journal_round_each(struct tier_journal *j, const char *run, uint64_t from,
                                         tier_journal_round_fn fn, void *arg, struct tier_err *err);

/* ---- updates of children -------------------------------------------------------------------- */

enum tier_update_state {
    TIER_UPDATE_WANTED,  /* expected, not (or no longer) held here */
    TIER_UPDATE_SEALED,  /* held as a verified file */
    TIER_UPDATE_FOLDED,  /* inside a partial or the round's own update */
    TIER_UPDATE_REFUSED, /* and will not be taken in this round */
};
#define TIER_UPDATE_STATE_ANY (-1)

struct tier_journal_update {
    char run[TIER_HASH_HEX];
    uint64_t round;
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_hash update_id; /* content hash; zero while wanted */
    uint64_t weight;
    uint64_t bytes;
    enum tier_update_state state;
    uint8_t receipt[TIER_JOURNAL_RECEIPT_BYTES_MAX]; /* signed, as sent; empty: none yet */
    size_t receipt_bytes;
    uint64_t base_round; /* that it was made in; `round` but in a tier that buffers */
};

/* One row for each (run, round, child): adds or replaces it. */
enum tier_status tier_journal_update_put(struct tier_journal *j,
                                         const struct tier_journal_update *update,
                                         struct tier_err *err);
enum tier_status tier_journal_update_set_state(struct tier_journal *j, const char *run,
                                               uint64_t round, const char *child,
                                               enum tier_update_state state, struct tier_err *err);
enum tier_status tier_journal_update_get(struct tier_journal *j, const char *run, uint64_t round,
                                         const char *child, struct tier_journal_update *out,
                                         struct tier_err *err);
/* The row that holds this content, whatever its round: a child pushing again is recognised. */
enum tier_status tier_journal_update_find(struct tier_journal *j, const struct tier_hash *update_id,
                                          struct tier_journal_update *out, struct tier_err *err);
/* The child's last update that is in a published result; TIER_ENOTFOUND: none is. */
enum tier_status tier_journal_update_counted(struct tier_journal *j, const char *run,
                                             const char *child, struct tier_journal_update *out,
                                             struct tier_err *err);
/* How many children have an update in a published result, up to that round. */
enum tier_status tier_journal_update_children(struct tier_journal *j, const char *run,
                                              uint64_t round, uint64_t *count_out,
                                              struct tier_err *err);
typedef enum tier_status (*tier_journal_update_fn)(void *arg,
                                                   const struct tier_journal_update *update,
                                                   struct tier_err *err);
/* By child, in byte order; `state` is one of the enum or TIER_UPDATE_STATE_ANY. */
enum tier_status tier_journal_update_each(struct tier_journal *j, const char *run, uint64_t round,
                                          int state, tier_journal_update_fn fn, void *arg,
                                          struct tier_err *err);

/* ---- secure sums: what a parent was told in a round, in order -------------------------------- */

/* A child said `body` in `step`; without a body, its masked update counts; without a child, the
 * step was closed. */
struct tier_journal_secure {
    int step; /* enum tier_mask_step */
    char child[TIER_NAME_LEN_MAX + 1];
    const uint8_t *body; /* at most TIER_JOURNAL_VALUE_BYTES_MAX; borrowed */
    size_t bytes;
    int64_t time_ms;
};

/* Behind those of the round that are there. */
enum tier_status tier_journal_secure_add(struct tier_journal *j, const char *run, uint64_t round,
                                         const struct tier_journal_secure *row,
                                         struct tier_err *err);
typedef enum tier_status (*tier_journal_secure_fn)(void *arg, const struct tier_journal_secure *row,
                                                   struct tier_err *err);
/* As they were added. */
enum tier_status tier_journal_secure_each(struct tier_journal *j, const char *run, uint64_t round,
                                          tier_journal_secure_fn fn, void *arg,
                                          struct tier_err *err);
/* Of every round up to `round`. */
enum tier_status tier_journal_secure_delete(struct tier_journal *j, const char *run, uint64_t round,
                                            struct tier_err *err);

/* ---- metrics (the console's history) -------------------------------------------------------- */

/* NaN is refused: TIER_EARG. Replaces what was there. */
enum tier_status tier_journal_metric_put(struct tier_journal *j, const char *run, uint64_t round,
                                         const char *name, double value, struct tier_err *err);
typedef enum tier_status (*tier_journal_metric_fn)(void *arg, uint64_t round, const char *name,
                                                   double value, struct tier_err *err);
/* By round, then name; `name` NULL: all of them. */
enum tier_status tier_journal_metric_each(struct tier_journal *j, const char *run, const char *name,
                                          tier_journal_metric_fn fn, void *arg,
                                          struct tier_err *err);

/* ---- sent: this node's own sealed updates, kept until the commit comes down ------------------ */

enum tier_sent_state {
    TIER_SENT_PENDING,   /* sealed here, not acknowledged */
    TIER_SENT_RECEIVED,  /* the parent gave a receipt; pushed again if it loses it */
    TIER_SENT_COMMITTED, /* counted: the file may go */
};
#define TIER_SENT_STATE_ANY (-1)

struct tier_journal_sent {
    char run[TIER_HASH_HEX];
    uint64_t round;
    struct tier_hash update_id;
    const uint8_t *header; /* at most TIER_UPDATE_HEADER_BYTES_MAX; borrowed */
    size_t header_bytes;
    enum tier_sent_state state;
};

/* Adds or replaces. */
enum tier_status tier_journal_sent_put(struct tier_journal *j, const struct tier_journal_sent *sent,
                                       struct tier_err *err);
enum tier_status tier_journal_sent_set_state(struct tier_journal *j, const char *run,
                                             uint64_t round, const struct tier_hash *update_id,
                                             enum tier_sent_state state, struct tier_err *err);
/* A row that is not there is fine. */
enum tier_status tier_journal_sent_delete(struct tier_journal *j, const char *run, uint64_t round,
                                          const struct tier_hash *update_id, struct tier_err *err);
typedef enum tier_status (*tier_journal_sent_fn)(void *arg, const struct tier_journal_sent *sent,
                                                 struct tier_err *err);
/* By run, round, id; `run` NULL: of every run; `state` of the enum or TIER_SENT_STATE_ANY. */
enum tier_status tier_journal_sent_each(struct tier_journal *j, const char *run, int state,
                                        tier_journal_sent_fn fn, void *arg, struct tier_err *err);

#endif
