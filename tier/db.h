/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the stores of the house (tier/journal.h, tier/authority.h) share of SQLite: opening with a
 * table of migrations, cached prepared statements, values bound and read with their bounds checked,
 * and SQLite's results as the house's errors. Only those stores include this.
 *
 * A query remembers its first failure, so that a row of binds or columns is checked once, at
 * tier_query_run, tier_query_next or tier_query_end.
 *
 * Threads: one thread for each open database.
 */
#ifndef CONSILIUM_TIER_DB_H
#define CONSILIUM_TIER_DB_H

#include "tier/err.h"
#include "tier/hash.h"

#include <stdint.h>

struct sqlite3_stmt;
struct tier_db;

/* What makes a database one of ours; all of it is static text of the store. */
struct tier_db_schema {
    const char *what;              /* "journal": for messages */
    int application_id;            /* in the file's header, so that none is taken for another */
    const char *const *migrations; /* [i] leads from version i to i + 1; append only */
    int versions;
    const char *const *statements; /* by the store's own enum */
    int statement_count;
    bool exclusive; /* one process at a time, else many */
    int busy_ms;    /* how long to wait for another process */
};

/* TIER_ECONFLICT: held by another process, or from a newer version; TIER_ECORRUPT: damaged, or
 * something else. A file that is not there is made with mode 0600. */
enum tier_status tier_db_open(const char *path, const struct tier_db_schema *schema,
                              struct tier_db **out, struct tier_err *err);
void tier_db_close(struct tier_db *db);

enum tier_status tier_db_begin(struct tier_db *db, struct tier_err *err);
/* The same, but the commit waits for no disk: it survives a kill of the process at once, and a
 * machine's crash together with the next other commit. */
enum tier_status tier_db_begin_lazy(struct tier_db *db, struct tier_err *err);
enum tier_status tier_db_commit(struct tier_db *db, struct tier_err *err);
void tier_db_rollback(struct tier_db *db);
bool tier_db_in_transaction(const struct tier_db *db);
/* Rows the last statement changed. */
int tier_db_changes(struct tier_db *db);

/* One use of a cached statement; on the caller's stack, no need to release before start. */
struct tier_query {
    struct tier_db *db;
    struct sqlite3_stmt *stmt;
    int column; /* next to bind or read */
    enum tier_status st;
    struct tier_err *err;
};

/* Errors go to err (may be NULL). */
void tier_query_start(struct tier_query *q, struct tier_db *db, int statement,
                      struct tier_err *err);
/* Bind the next parameter; bytes and texts are borrowed until the query ends. */
void tier_query_int(struct tier_query *q, int64_t value);
void tier_query_u64(struct tier_query *q, const char *what, uint64_t value); /* below 2^63 */
void tier_query_real(struct tier_query *q, double value);
/* 1 .. max bytes of text. */
void tier_query_name(struct tier_query *q, const char *what, const char *text, size_t max);
void tier_query_text(struct tier_query *q, const char *what, const char *text, size_t max);
void tier_query_blob(struct tier_query *q, const char *what, const void *data, size_t bytes,
                     size_t max);
void tier_query_hash(struct tier_query *q, const struct tier_hash *hash); /* zero: NULL */
void tier_query_null(struct tier_query *q);

/* Runs to the end and ends the query. */
enum tier_status tier_query_run(struct tier_query *q);
/* Steps to the next row: false at the end or on failure. */
bool tier_query_next(struct tier_query *q);
/* Reads the next column of the row. What does not fit is TIER_ECORRUPT. */
int64_t tier_query_get_int(struct tier_query *q);
uint64_t tier_query_get_u64(struct tier_query *q);
int tier_query_get_enum(struct tier_query *q, int max);
double tier_query_get_real(struct tier_query *q);
void tier_query_get_text(struct tier_query *q, char *out, size_t size);
void tier_query_get_hash(struct tier_query *q, struct tier_hash *out);
/* Valid until the next step; at most max bytes. */
const uint8_t *tier_query_get_blob(struct tier_query *q, size_t max, size_t *bytes_out);
/* A store's own failure in the middle of a query, kept unless there was one before. */
/* Gives the statement back; the first failure since start. Calling it twice is fine. */
enum tier_status tier_query_end(struct tier_query *q);

#endif
