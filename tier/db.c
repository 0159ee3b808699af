/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A failed write is rolled back here, at once, when SQLite says that the disk is full or broken:
 * SQLite itself does so only sometimes, and a transaction that is half gone must not be added to.
 * tier_db_commit then finds no transaction and says so.
 */
#include "tier/db.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Up to this size a database is checked page by page when it is opened; beyond it damage is found
 * where it is read, so that a node with a long history still restarts at once. */
#define DB_CHECK_BYTES_MAX (64 << 20)

struct tier_db {
    sqlite3 *handle;
    const struct tier_db_schema *schema;
    char *path;
    sqlite3_stmt **cache;
    bool lazy; /* synchronous=NORMAL instead of FULL */
};

static enum tier_status status_of(const struct tier_db *db, int rc) {
    switch (rc & 0xff) {
    case SQLITE_FULL:
        return TIER_EFULL;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_MISMATCH:
        return TIER_ECORRUPT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CONSTRAINT:
        return TIER_ECONFLICT;
    case SQLITE_NOMEM:
        return TIER_ENOMEM;
    case SQLITE_TOOBIG:
        return TIER_ELIMIT;
    case SQLITE_IOERR: {
        int sys = db->handle ? sqlite3_system_errno(db->handle) : 0;
        return sys == ENOSPC || sys == EDQUOT ? TIER_EFULL : TIER_EIO;
    }
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return TIER_EIO;
    default:
        return TIER_EINTERNAL;
    }
}

/* The sentence that tells the operator what to do about it. */
static const char *advice(enum tier_status st) {
    switch (st) {
    case TIER_EFULL:
        return "free space on its volume";
    case TIER_ECORRUPT:
        return "restore it from a backup or enroll the node anew";
    case TIER_EIO:
        return "check the directory's permissions and the disk";
    default:
        return NULL;
    }
}

static enum tier_status db_fail(struct tier_db *db, int rc, struct tier_err *err) {
    enum tier_status st = status_of(db, rc);
    const char *text = db->handle ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc);

    if ((rc & 0xff) == SQLITE_BUSY)
        tier_fail(err, st, "%s %s: another process has it open", db->schema->what, db->path);
    else if (advice(st))
        tier_fail(err, st, "%s %s: %s; %s", db->schema->what, db->path, text, advice(st));
    else
        tier_fail(err, st, "%s %s: %s", db->schema->what, db->path, text);
    if ((st == TIER_EFULL || st == TIER_EIO || st == TIER_ENOMEM) && db->handle)
        tier_db_rollback(db);
    return st;
}

static enum tier_status exec(struct tier_db *db, const char *sql, struct tier_err *err) {
    int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? TIER_OK : db_fail(db, rc, err);
}

/* The one integer that a statement gives. */
static enum tier_status read_int(struct tier_db *db, const char *sql, int64_t *out,
                                 struct tier_err *err) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(db->handle, sql, -1, &stmt, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW) {
        sqlite3_finalize(stmt);
        return db_fail(db, rc, err);
    }
    *out = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return TIER_OK;
}

/* Every page of a small database. */
static enum tier_status check_pages(struct tier_db *db, struct tier_err *err) {
    struct stat info;
    sqlite3_stmt *stmt = NULL;
    enum tier_status st = TIER_OK;

    if (stat(db->path, &info) == 0 && info.st_size > DB_CHECK_BYTES_MAX)
        return TIER_OK;
    int rc = sqlite3_prepare_v2(db->handle, "PRAGMA quick_check(1)", -1, &stmt, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(stmt);
    if (rc != SQLITE_ROW) {
        st = db_fail(db, rc, err);
    } else {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        if (!text || strcmp(text, "ok") != 0)
            st = tier_fail(err, TIER_ECORRUPT, "%s %s: %s; %s", db->schema->what, db->path,
                           text ? text : "unreadable", advice(TIER_ECORRUPT));
    }
    sqlite3_finalize(stmt);
    return st;
}

/* Inside a transaction: what kind and version the file is, and every step to ours. */
static enum tier_status migrate_locked(struct tier_db *db, struct tier_err *err) {
    const struct tier_db_schema *s = db->schema;
    int64_t id = 0, version = 0, objects = 0;
    char sql[64];

    TIER_TRY(read_int(db, "PRAGMA application_id", &id, err));
    TIER_TRY(read_int(db, "PRAGMA user_version", &version, err));
    TIER_TRY(read_int(db, "SELECT count(*) FROM sqlite_schema", &objects, err));
    bool fresh = id == 0 && version == 0 && objects == 0;
    if (!fresh && id != s->application_id)
        return tier_fail(err, TIER_ECORRUPT, "%s %s: an SQLite file, but not a %s of this program",
                         s->what, db->path, s->what);
    if (version > s->versions)
        return tier_fail(err, TIER_ECONFLICT,
                         "%s %s: written by a newer program (version %lld, this one knows %d)",
                         s->what, db->path, (long long)version, s->versions);
    if (version < 0)
        return tier_fail(err, TIER_ECORRUPT, "%s %s: version %lld", s->what, db->path,
                         (long long)version);
    if (version == s->versions)
        return TIER_OK;
    for (int v = (int)version; v < s->versions; v++)
        TIER_TRY(exec(db, s->migrations[v], err));
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", s->application_id);
    TIER_TRY(exec(db, sql, err));
    snprintf(sql, sizeof sql, "PRAGMA user_version = %d", s->versions);
    return exec(db, sql, err);
}

static enum tier_status configure(struct tier_db *db, struct tier_err *err) {
    sqlite3_extended_result_codes(db->handle, 1);
    sqlite3_busy_timeout(db->handle, db->schema->busy_ms);
    /* The file may come from a backup made by anybody: its schema must not run functions. */
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (db->schema->exclusive)
        TIER_TRY(exec(db, "PRAGMA locking_mode=EXCLUSIVE", err));
    TIER_TRY(exec(db,
                  "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-2048;"
                  "PRAGMA journal_size_limit=4194304; PRAGMA cell_size_check=ON",
                  err));
    TIER_TRY(tier_db_begin(db, err));
    enum tier_status st = migrate_locked(db, err);
    if (st == TIER_OK)
        st = tier_db_commit(db, err);
    else
        tier_db_rollback(db);
    return st;
}

enum tier_status tier_db_open(const char *path, const struct tier_db_schema *schema,
                              struct tier_db **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_db *db = calloc(1, sizeof *db);

    if (!db)
        return tier_fail(err, TIER_ENOMEM, "%s %s: out of memory", schema->what, path);
    db->schema = schema;
    db->path = strdup(path);
    db->cache = calloc((size_t)schema->statement_count, sizeof *db->cache);
    if (!db->path || !db->cache) {
        st = tier_fail(err, TIER_ENOMEM, "%s %s: out of memory", schema->what, path);
        goto out;
    }
    /* Made here, because SQLite would give it, and the files beside it, the umask's mode. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        st = tier_fail_errno(err, TIER_EIO, "%s %s: cannot be opened", schema->what, path);
        goto out;
    }
    close(fd);
    int rc = sqlite3_open_v2(path, &db->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        st = db_fail(db, rc, err);
        goto out;
    }
    TIER_TRY_OUT(configure(db, err));
    TIER_TRY_OUT(check_pages(db, err));
    *out = db;
out:
    if (st != TIER_OK)
        tier_db_close(db);
    return st;
}

void tier_db_close(struct tier_db *db) {
    if (!db)
        return;
    if (db->cache)
        for (int i = 0; i < db->schema->statement_count; i++)
            sqlite3_finalize(db->cache[i]);
    sqlite3_close(db->handle);
    free(db->cache);
    free(db->path);
    free(db);
}

enum tier_status tier_db_begin(struct tier_db *db, struct tier_err *err) {
    if (!sqlite3_get_autocommit(db->handle))
        return tier_fail(err, TIER_EINTERNAL, "%s %s: a transaction inside a transaction",
                         db->schema->what, db->path);
    return exec(db, "BEGIN IMMEDIATE", err);
}

/* In WAL mode NORMAL writes the log at each commit and syncs it only before a checkpoint; a FULL
 * commit syncs all of the log. The level cannot change inside a transaction. */
static enum tier_status set_lazy(struct tier_db *db, bool lazy, struct tier_err *err) {
    if (db->lazy == lazy)
        return TIER_OK;
    TIER_TRY(exec(db, lazy ? "PRAGMA synchronous=NORMAL" : "PRAGMA synchronous=FULL", err));
    db->lazy = lazy;
    return TIER_OK;
}

enum tier_status tier_db_begin_lazy(struct tier_db *db, struct tier_err *err) {
    if (sqlite3_get_autocommit(db->handle))
        TIER_TRY(set_lazy(db, true, err));
    return tier_db_begin(db, err);
}

enum tier_status tier_db_commit(struct tier_db *db, struct tier_err *err) {
    if (sqlite3_get_autocommit(db->handle))
        return tier_fail(err, TIER_EIO,
                         "%s %s: the transaction was rolled back after an earlier failure",
                         db->schema->what, db->path);
    enum tier_status st = exec(db, "COMMIT", err);
    if (st != TIER_OK)
        tier_db_rollback(db);
    else
        st = set_lazy(db, false, err);
    return st;
}

void tier_db_rollback(struct tier_db *db) {
    if (db && !sqlite3_get_autocommit(db->handle))
        sqlite3_exec(db->handle, "ROLLBACK", NULL, NULL, NULL);
    if (db)
        set_lazy(db, false, NULL);
}

bool tier_db_in_transaction(const struct tier_db *db) {
    return !sqlite3_get_autocommit(db->handle);
}

int tier_db_changes(struct tier_db *db) {
    return sqlite3_changes(db->handle);
}

/* ---- queries -------------------------------------------------------------------------------- */

void tier_query_start(struct tier_query *q, struct tier_db *db, int statement,
                      struct tier_err *err) {
    *q = (struct tier_query){.db = db, .err = err, .column = 1};
    sqlite3_stmt **slot = &db->cache[statement];
    if (!*slot) {
        int rc = sqlite3_prepare_v3(db->handle, db->schema->statements[statement], -1,
                                    SQLITE_PREPARE_PERSISTENT, slot, NULL);
        if (rc != SQLITE_OK) {
            q->st = db_fail(db, rc, err);
            return;
        }
    }
    if (sqlite3_stmt_busy(*slot)) {
        q->st = tier_fail(err, TIER_EINTERNAL, "%s %s: a table is iterated inside its iteration",
                          db->schema->what, db->path);
        return;
    }
    q->stmt = *slot;
}

static void bound(struct tier_query *q, int rc) {
    q->column++;
    if (rc != SQLITE_OK)
        q->st = db_fail(q->db, rc, q->err);
}

void tier_query_int(struct tier_query *q, int64_t value) {
    if (q->st == TIER_OK)
        bound(q, sqlite3_bind_int64(q->stmt, q->column, value));
}

void tier_query_u64(struct tier_query *q, const char *what, uint64_t value) {
    if (q->st == TIER_OK && value > INT64_MAX)
        q->st = tier_fail(q->err, TIER_EARG, "%s: %s %llu is over 2^63 - 1", q->db->schema->what,
                          what, (unsigned long long)value);
    tier_query_int(q, (int64_t)value);
}

void tier_query_real(struct tier_query *q, double value) {
    if (q->st == TIER_OK)
        bound(q, sqlite3_bind_double(q->stmt, q->column, value));
}

void tier_query_text(struct tier_query *q, const char *what, const char *text, size_t max) {
    if (q->st != TIER_OK)
        return;
    size_t bytes = text ? strnlen(text, max + 1) : 0;
    if (!text || bytes > max) {
        q->st = tier_fail(q->err, TIER_EARG, "%s: %s %s; at most %zu bytes", q->db->schema->what,
                          what, text ? "is too long" : "is missing", max);
        return;
    }
    bound(q, sqlite3_bind_text(q->stmt, q->column, text, (int)bytes, SQLITE_STATIC));
}

void tier_query_name(struct tier_query *q, const char *what, const char *text, size_t max) {
    if (q->st == TIER_OK && (!text || !*text))
        q->st = tier_fail(q->err, TIER_EARG, "%s: %s is empty; 1 to %zu bytes are wanted",
                          q->db->schema->what, what, max);
    tier_query_text(q, what, text, max);
}

void tier_query_blob(struct tier_query *q, const char *what, const void *data, size_t bytes,
                     size_t max) {
    if (q->st != TIER_OK)
        return;
    if (bytes > max || (bytes && !data)) {
        q->st = tier_fail(q->err, TIER_EARG, "%s: %s of %zu bytes; at most %zu",
                          q->db->schema->what, what, bytes, max);
        return;
    }
    /* A NULL pointer would bind NULL, where an empty blob is meant. */
    bound(q, sqlite3_bind_blob64(q->stmt, q->column, bytes ? data : "", bytes, SQLITE_STATIC));
}

void tier_query_hash(struct tier_query *q, const struct tier_hash *hash) {
    if (tier_hash_is_zero(hash))
        tier_query_null(q);
    else
        tier_query_blob(q, "hash", hash->b, TIER_HASH_BYTES, TIER_HASH_BYTES);
}

void tier_query_null(struct tier_query *q) {
    if (q->st == TIER_OK)
        bound(q, sqlite3_bind_null(q->stmt, q->column));
}

bool tier_query_next(struct tier_query *q) {
    if (q->st != TIER_OK)
        return false;
    int rc = sqlite3_step(q->stmt);
    q->column = 0;
    if (rc == SQLITE_ROW)
        return true;
    if (rc != SQLITE_DONE)
        q->st = db_fail(q->db, rc, q->err);
    return false;
}

enum tier_status tier_query_run(struct tier_query *q) {
    while (tier_query_next(q)) {
    }
    return tier_query_end(q);
}

enum tier_status tier_query_end(struct tier_query *q) {
    if (q->stmt) {
        sqlite3_reset(q->stmt);
        sqlite3_clear_bindings(q->stmt);
        q->stmt = NULL;
    }
    return q->st;
}

static void damaged(struct tier_query *q, int column) {
    if (q->st == TIER_OK)
        q->st = tier_fail(q->err, TIER_ECORRUPT, "%s %s: column %s holds what nobody wrote; %s",
                          q->db->schema->what, q->db->path, sqlite3_column_name(q->stmt, column),
                          advice(TIER_ECORRUPT));
}

int64_t tier_query_get_int(struct tier_query *q) {
    int column = q->column++;
    if (sqlite3_column_type(q->stmt, column) != SQLITE_INTEGER) {
        damaged(q, column);
        return 0;
    }
    return sqlite3_column_int64(q->stmt, column);
}

uint64_t tier_query_get_u64(struct tier_query *q) {
    int64_t value = tier_query_get_int(q);
    if (value < 0) {
        damaged(q, q->column - 1);
        return 0;
    }
    return (uint64_t)value;
}

int tier_query_get_enum(struct tier_query *q, int max) {
    int64_t value = tier_query_get_int(q);
    if (value < 0 || value > max) {
        damaged(q, q->column - 1);
        return 0;
    }
    return (int)value;
}

double tier_query_get_real(struct tier_query *q) {
    int column = q->column++;
    if (sqlite3_column_type(q->stmt, column) != SQLITE_FLOAT)
        damaged(q, column);
    return sqlite3_column_double(q->stmt, column);
}

void tier_query_get_text(struct tier_query *q, char *out, size_t size) {
    int column = q->column++;
    const unsigned char *text = sqlite3_column_text(q->stmt, column);
    size_t bytes = (size_t)sqlite3_column_bytes(q->stmt, column);

    if (!text || bytes >= size || memchr(text, 0, bytes)) {
        damaged(q, column);
        out[0] = '\0';
        return;
    }
    memcpy(out, text, bytes);
    out[bytes] = '\0';
}

void tier_query_get_hash(struct tier_query *q, struct tier_hash *out) {
    int column = q->column++;

    memset(out, 0, sizeof *out);
    if (sqlite3_column_type(q->stmt, column) == SQLITE_NULL)
        return;
    const void *data = sqlite3_column_blob(q->stmt, column);
    if (!data || sqlite3_column_bytes(q->stmt, column) != TIER_HASH_BYTES)
        damaged(q, column);
    else
        memcpy(out->b, data, TIER_HASH_BYTES);
}

const uint8_t *tier_query_get_blob(struct tier_query *q, size_t max, size_t *bytes_out) {
    static const uint8_t empty[1];
    int column = q->column++;
    const void *data = sqlite3_column_blob(q->stmt, column);
    size_t bytes = (size_t)sqlite3_column_bytes(q->stmt, column);

    if (bytes > max || sqlite3_column_type(q->stmt, column) != SQLITE_BLOB) {
        damaged(q, column);
        data = NULL;
        bytes = 0;
    }
    *bytes_out = bytes;
    return data ? data : empty;
}
