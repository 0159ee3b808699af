/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One list of statements, one bind function and one read function for each table. Hashes are stored
 * as 32 bytes (NULL: none), states as the numbers of their enums: the CHECKs repeat the enums'
 * bounds so that a program with a bug cannot write what a later one would refuse to read.
 */
#include "tier/journal.h"

#include "tier/db.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JOURNAL_SIG_BYTES_MAX 4096
#define JOURNAL_APPLICATION_ID 0x434f4e4a /* "CONJ" */

struct tier_journal {
    struct tier_db *db;
};

/* Append only: a journal in a hospital may be of any version that was ever released. */
static const char *const migrations[] = {
    "CREATE TABLE kv(key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE runs(run_id TEXT PRIMARY KEY NOT NULL, plan_text BLOB NOT NULL,"
    " plan_sig BLOB NOT NULL, state INTEGER NOT NULL, round INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, model_hash BLOB, detail TEXT NOT NULL);"
    "CREATE TABLE rounds(run TEXT NOT NULL, round INTEGER NOT NULL, state INTEGER NOT NULL,"
    " base_model BLOB, opened_ms INTEGER NOT NULL, closed_ms INTEGER NOT NULL, result_model BLOB,"
    " own_update BLOB, PRIMARY KEY(run, round)) WITHOUT ROWID;"
    "CREATE TABLE updates(run TEXT NOT NULL, round INTEGER NOT NULL, child TEXT NOT NULL,"
    " update_id BLOB, weight INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    " state INTEGER NOT NULL CHECK(state BETWEEN 0 AND 3), receipt BLOB NOT NULL,"
    " UNIQUE(run, round, child));"
    "CREATE INDEX updates_by_id ON updates(update_id) WHERE update_id IS NOT NULL;"
    "CREATE TABLE metrics(run TEXT NOT NULL, round INTEGER NOT NULL, name TEXT NOT NULL,"
    " value REAL NOT NULL, PRIMARY KEY(run, round, name)) WITHOUT ROWID;"
    "CREATE TABLE sent(run TEXT NOT NULL, round INTEGER NOT NULL, update_id BLOB NOT NULL,"
    " header BLOB NOT NULL, state INTEGER NOT NULL CHECK(state BETWEEN 0 AND 2),"
    " UNIQUE(run, round, update_id));"
    "CREATE TABLE models(hash BLOB PRIMARY KEY NOT NULL, path TEXT NOT NULL, run TEXT NOT NULL,"
    " round INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX models_by_run ON models(run, round);",
    "ALTER TABLE rounds ADD COLUMN result_state BLOB;",
    "DROP TABLE models;", /* a file's name says what it is */
    "ALTER TABLE updates ADD COLUMN base_round INTEGER NOT NULL DEFAULT 0;"
    "UPDATE updates SET base_round = round;",
    "ALTER TABLE rounds ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;"
    "UPDATE rounds SET counted = closed_ms > 0;"
    "CREATE INDEX updates_by_child ON updates(run, child, round);",
    "CREATE TABLE secure(seq INTEGER PRIMARY KEY, run TEXT NOT NULL, round INTEGER NOT NULL,"
    " step INTEGER NOT NULL CHECK(step BETWEEN 1 AND 8), child TEXT NOT NULL,"
    " body BLOB NOT NULL, time_ms INTEGER NOT NULL);"
    "CREATE INDEX secure_by_round ON secure(run, round, seq);",
    "ALTER TABLE rounds ADD COLUMN by_receipt INTEGER NOT NULL DEFAULT 0;",
};

enum {
    SQL_KV_PUT,
    SQL_KV_GET,
    SQL_KV_DELETE,
    SQL_RUN_ADD,
    SQL_RUN_SET,
    SQL_RUN_GET,
    SQL_RUN_PLAN,
    SQL_RUN_EACH,
    SQL_RUN_DELETE,
    SQL_RUN_DELETE_ROUNDS,
    SQL_RUN_DELETE_UPDATES,
    SQL_RUN_DELETE_METRICS,
    SQL_RUN_DELETE_SENT,
    SQL_RUN_DELETE_SECURE,
    SQL_ROUND_PUT,
    SQL_ROUND_GET,
    SQL_ROUND_EACH,
    SQL_ROUND_UNSURE,
    SQL_UPDATE_PUT,
    SQL_UPDATE_SET_STATE,
    SQL_UPDATE_GET,
    SQL_UPDATE_FIND,
    SQL_UPDATE_EACH,
    SQL_UPDATE_COUNTED,
    SQL_SECURE_ADD,
    SQL_SECURE_EACH,
    SQL_SECURE_DELETE,
    SQL_UPDATE_CHILDREN,
    SQL_METRIC_PUT,
    SQL_METRIC_EACH,
    SQL_SENT_PUT,
    SQL_SENT_SET_STATE,
    SQL_SENT_DELETE,
    SQL_SENT_EACH,
    SQL_COUNT
};

#define RUN_COLUMNS "run_id, state, round, created_ms, model_hash, detail"
#define ROUND_COLUMNS                                                                              \
    "run, round, state, base_model, opened_ms, closed_ms, result_model, own_update, result_state," \
    " counted, by_receipt"
#define UPDATE_COLUMNS "run, round, child, update_id, weight, bytes, state, receipt, base_round"
#define SENT_COLUMNS "run, round, update_id, header, state"

static const char *const statements[SQL_COUNT] = {
    [SQL_KV_PUT] = "INSERT OR REPLACE INTO kv(key, value) VALUES(?1, ?2)",
    [SQL_KV_GET] = "SELECT value FROM kv WHERE key = ?1",
    [SQL_KV_DELETE] = "DELETE FROM kv WHERE key = ?1",
    [SQL_RUN_ADD] = "INSERT INTO runs(" RUN_COLUMNS ", plan_text, plan_sig)"
                    " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    [SQL_RUN_SET] = "UPDATE runs SET state = ?2, round = ?3, model_hash = ?4, detail = ?5"
                    " WHERE run_id = ?1",
    [SQL_RUN_GET] = "SELECT " RUN_COLUMNS " FROM runs WHERE run_id = ?1",
    [SQL_RUN_PLAN] = "SELECT plan_text, plan_sig FROM runs WHERE run_id = ?1",
    [SQL_RUN_EACH] = "SELECT " RUN_COLUMNS " FROM runs ORDER BY created_ms, run_id",
    [SQL_RUN_DELETE] = "DELETE FROM runs WHERE run_id = ?1",
    [SQL_RUN_DELETE_ROUNDS] = "DELETE FROM rounds WHERE run = ?1",
    [SQL_RUN_DELETE_UPDATES] = "DELETE FROM updates WHERE run = ?1",
    [SQL_RUN_DELETE_METRICS] = "DELETE FROM metrics WHERE run = ?1",
    [SQL_RUN_DELETE_SENT] = "DELETE FROM sent WHERE run = ?1",
    [SQL_RUN_DELETE_SECURE] = "DELETE FROM secure WHERE run = ?1",
    [SQL_ROUND_PUT] = "INSERT OR REPLACE INTO rounds(" ROUND_COLUMNS ")"
                      " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    [SQL_ROUND_GET] = "SELECT " ROUND_COLUMNS " FROM rounds WHERE run = ?1 AND round = ?2",
    [SQL_ROUND_EACH] = "SELECT " ROUND_COLUMNS " FROM rounds WHERE run = ?1 AND round >= ?2"
                       " ORDER BY round",
    [SQL_ROUND_UNSURE] = "SELECT MAX(round) FROM rounds WHERE run = ?1 AND by_receipt"
                         " HAVING MAX(round) IS NOT NULL",
    [SQL_UPDATE_PUT] = "INSERT OR REPLACE INTO updates(" UPDATE_COLUMNS ")"
                       " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    [SQL_UPDATE_SET_STATE] = "UPDATE updates SET state = ?4"
                             " WHERE run = ?1 AND round = ?2 AND child = ?3",
    [SQL_UPDATE_GET] = "SELECT " UPDATE_COLUMNS " FROM updates"
                       " WHERE run = ?1 AND round = ?2 AND child = ?3",
    [SQL_UPDATE_FIND] = "SELECT " UPDATE_COLUMNS " FROM updates WHERE update_id = ?1"
                        " ORDER BY run, round, child LIMIT 1",
    [SQL_UPDATE_EACH] = "SELECT " UPDATE_COLUMNS " FROM updates WHERE run = ?1 AND round = ?2"
                        " AND (?3 < 0 OR state = ?3) ORDER BY child",
    [SQL_UPDATE_COUNTED] = "SELECT " UPDATE_COLUMNS " FROM updates WHERE run = ?1 AND child = ?2"
                           " AND state IN (?3, ?4) AND EXISTS(SELECT 1 FROM rounds WHERE"
                           " rounds.run = updates.run AND rounds.round = updates.round"
                           " AND rounds.counted) ORDER BY round DESC LIMIT 1",
    [SQL_SECURE_ADD] = "INSERT INTO secure(run, round, step, child, body, time_ms)"
                       " VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_SECURE_EACH] = "SELECT step, child, body, time_ms FROM secure"
                        " WHERE run = ?1 AND round = ?2 ORDER BY seq",
    [SQL_SECURE_DELETE] = "DELETE FROM secure WHERE run = ?1 AND round <= ?2",
    [SQL_UPDATE_CHILDREN] = "SELECT count(DISTINCT child) FROM updates WHERE run = ?1"
                            " AND round <= ?2 AND state IN (?3, ?4) AND EXISTS(SELECT 1 FROM rounds"
                            " WHERE rounds.run = updates.run AND rounds.round = updates.round"
                            " AND rounds.counted)",
    [SQL_METRIC_PUT] = "INSERT OR REPLACE INTO metrics(run, round, name, value)"
                       " VALUES(?1, ?2, ?3, ?4)",
    [SQL_METRIC_EACH] = "SELECT round, name, value FROM metrics"
                        " WHERE run = ?1 AND (?2 IS NULL OR name = ?2) ORDER BY round, name",
    [SQL_SENT_PUT] = "INSERT OR REPLACE INTO sent(" SENT_COLUMNS ") VALUES(?1, ?2, ?3, ?4, ?5)",
    [SQL_SENT_SET_STATE] = "UPDATE sent SET state = ?4"
                           " WHERE run = ?1 AND round = ?2 AND update_id = ?3",
    [SQL_SENT_DELETE] = "DELETE FROM sent WHERE run = ?1 AND round = ?2 AND update_id = ?3",
    [SQL_SENT_EACH] = "SELECT " SENT_COLUMNS " FROM sent WHERE (?1 IS NULL OR run = ?1)"
                      " AND (?2 < 0 OR state = ?2) ORDER BY run, round, update_id",
};

static const struct tier_db_schema schema = {
    .what = "journal",
    .application_id = JOURNAL_APPLICATION_ID,
    .migrations = migrations,
    .versions = sizeof migrations / sizeof *migrations,
    .statements = statements,
    .statement_count = SQL_COUNT,
    .exclusive = true,
    .busy_ms = 500,
};

/* ---- life cycle ----------------------------------------------------------------------------- */

void tier_journal_blob_release(struct tier_journal_blob *blob) {
    free(blob->data);
    *blob = (struct tier_journal_blob){0};
}

enum tier_status tier_journal_open(const char *path, struct tier_journal **out,
                                   struct tier_err *err) {
    struct tier_journal *j = calloc(1, sizeof *j);

    if (!j)
        return tier_fail(err, TIER_ENOMEM, "journal %s: out of memory", path);
    enum tier_status st = tier_db_open(path, &schema, &j->db, err);
    if (st != TIER_OK) {
        free(j);
        return st;
    }
    *out = j;
    return TIER_OK;
}

void tier_journal_close(struct tier_journal *j) {
    if (!j)
        return;
    tier_db_close(j->db);
    free(j);
}

enum tier_status tier_journal_begin(struct tier_journal *j, struct tier_err *err) {
    return tier_db_begin(j->db, err);
}

enum tier_status tier_journal_begin_lazy(struct tier_journal *j, struct tier_err *err) {
    return tier_db_begin_lazy(j->db, err);
}

enum tier_status tier_journal_commit(struct tier_journal *j, struct tier_err *err) {
    return tier_db_commit(j->db, err);
}

void tier_journal_rollback(struct tier_journal *j) {
    if (j)
        tier_db_rollback(j->db);
}

/* ---- shared helpers ------------------------------------------------------------------------- */

static void bind_run(struct tier_query *q, const char *run) {
    tier_query_name(q, "run", run, TIER_HASH_HEX - 1);
}

/* NULL: every run. */
static void bind_run_or_all(struct tier_query *q, const char *run) {
    if (run)
        bind_run(q, run);
    else
        tier_query_null(q);
}

static void bind_state(struct tier_query *q, int state, int min, int max) {
    if (q->st == TIER_OK && (state < min || state > max))
        q->st = tier_fail(q->err, TIER_EARG, "journal: no such state: %d", state);
    tier_query_int(q, state);
}

/* Hashes that name a row. */
static void bind_id(struct tier_query *q, const struct tier_hash *id) {
    if (q->st == TIER_OK && tier_hash_is_zero(id))
        q->st = tier_fail(q->err, TIER_EARG, "journal: a row cannot be named by the zero hash");
    tier_query_hash(q, id);
}

static void copy_blob(struct tier_query *q, size_t max, struct tier_journal_blob *out) {
    size_t bytes = 0;
    const uint8_t *data = tier_query_get_blob(q, max, &bytes);

    if (q->st != TIER_OK)
        return;
    out->data = malloc(bytes + 1);
    if (!out->data) {
        q->st = tier_fail(q->err, TIER_ENOMEM, "journal: no memory for %zu bytes", bytes);
        return;
    }
    memcpy(out->data, data, bytes);
    out->data[bytes] = '\0';
    out->bytes = bytes;
}

/* Ends a statement that must have changed the row that was named. */
static enum tier_status run_on_row(struct tier_query *q, const char *what, const char *name) {
    struct tier_db *db = q->db;
    struct tier_err *err = q->err;

    TIER_TRY(tier_query_run(q));
    return tier_db_changes(db) ? TIER_OK
                               : tier_fail(err, TIER_ENOTFOUND, "journal: no %s %s", what, name);
}

/* ---- key and value -------------------------------------------------------------------------- */

enum tier_status tier_journal_kv_put(struct tier_journal *j, const char *key, const void *value,
                                     size_t bytes, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_KV_PUT, err);
    tier_query_name(&q, "key", key, TIER_TENSOR_NAME_LEN_MAX);
    tier_query_blob(&q, "value", value, bytes, TIER_JOURNAL_VALUE_BYTES_MAX);
    return tier_query_run(&q);
}

enum tier_status tier_journal_kv_get(struct tier_journal *j, const char *key,
                                     struct tier_journal_blob *value_out, struct tier_err *err) {
    struct tier_query q;
    struct tier_journal_blob value = {0};

    tier_query_start(&q, j->db, SQL_KV_GET, err);
    tier_query_name(&q, "key", key, TIER_TENSOR_NAME_LEN_MAX);
    if (tier_query_next(&q))
        copy_blob(&q, TIER_JOURNAL_VALUE_BYTES_MAX, &value);
    else if (q.st == TIER_OK)
        q.st = tier_fail(err, TIER_ENOTFOUND, "journal: no key %s", key);
    if (q.st == TIER_OK)
        *value_out = value;
    return tier_query_end(&q);
}

enum tier_status tier_journal_kv_delete(struct tier_journal *j, const char *key,
                                        struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_KV_DELETE, err);
    tier_query_name(&q, "key", key, TIER_TENSOR_NAME_LEN_MAX);
    return tier_query_run(&q);
}

/* ---- runs ----------------------------------------------------------------------------------- */

enum tier_status tier_journal_run_add(struct tier_journal *j, const struct tier_journal_run *run,
                                      const void *plan, size_t plan_bytes, const void *sig,
                                      size_t sig_bytes, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_RUN_ADD, err);
    bind_run(&q, run->run);
    tier_query_int(&q, run->state);
    tier_query_u64(&q, "round", run->round);
    tier_query_int(&q, run->created_ms);
    tier_query_hash(&q, &run->model);
    tier_query_text(&q, "detail", run->detail, TIER_JOURNAL_DETAIL_LEN_MAX);
    tier_query_blob(&q, "plan", plan, plan_bytes, TIER_PLAN_BYTES_MAX);
    tier_query_blob(&q, "plan signature", sig, sig_bytes, JOURNAL_SIG_BYTES_MAX);
    TIER_TRY(tier_query_run(&q));
    return tier_db_changes(j->db)
               ? TIER_OK
               : tier_fail(err, TIER_ECONFLICT, "journal: run %s is already there", run->run);
}

enum tier_status tier_journal_run_set(struct tier_journal *j, const struct tier_journal_run *run,
                                      struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_RUN_SET, err);
    bind_run(&q, run->run);
    tier_query_int(&q, run->state);
    tier_query_u64(&q, "round", run->round);
    tier_query_hash(&q, &run->model);
    tier_query_text(&q, "detail", run->detail, TIER_JOURNAL_DETAIL_LEN_MAX);
    return run_on_row(&q, "run", run->run);
}

static void read_run(struct tier_query *q, struct tier_journal_run *run) {
    memset(run, 0, sizeof *run);
    tier_query_get_text(q, run->run, sizeof run->run);
    run->state = tier_query_get_enum(q, INT32_MAX);
    run->round = tier_query_get_u64(q);
    run->created_ms = tier_query_get_int(q);
    tier_query_get_hash(q, &run->model);
    tier_query_get_text(q, run->detail, sizeof run->detail);
}

enum tier_status tier_journal_run_get(struct tier_journal *j, const char *run,
                                      struct tier_journal_run *out, struct tier_err *err) {
    struct tier_query q;
    struct tier_journal_run row;

    tier_query_start(&q, j->db, SQL_RUN_GET, err);
    bind_run(&q, run);
    if (tier_query_next(&q))
        read_run(&q, &row);
    else if (q.st == TIER_OK)
        q.st = tier_fail(err, TIER_ENOTFOUND, "journal: no run %s", run);
    if (q.st == TIER_OK)
        *out = row;
    return tier_query_end(&q);
}

enum tier_status tier_journal_run_plan(struct tier_journal *j, const char *run,
                                       struct tier_journal_blob *plan_out,
                                       struct tier_journal_blob *sig_out, struct tier_err *err) {
    struct tier_query q;
    struct tier_journal_blob plan = {0}, sig = {0};

    tier_query_start(&q, j->db, SQL_RUN_PLAN, err);
    bind_run(&q, run);
    if (tier_query_next(&q)) {
        copy_blob(&q, TIER_PLAN_BYTES_MAX, &plan);
        copy_blob(&q, JOURNAL_SIG_BYTES_MAX, &sig);
    } else if (q.st == TIER_OK) {
        q.st = tier_fail(err, TIER_ENOTFOUND, "journal: no run %s", run);
    }
    if (q.st == TIER_OK) {
        *plan_out = plan;
        *sig_out = sig;
    } else {
        tier_journal_blob_release(&plan);
        tier_journal_blob_release(&sig);
    }
    return tier_query_end(&q);
}

enum tier_status tier_journal_run_each(struct tier_journal *j, tier_journal_run_fn fn, void *arg,
                                       struct tier_err *err) {
    struct tier_query q;
    struct tier_journal_run row;

    tier_query_start(&q, j->db, SQL_RUN_EACH, err);
    while (tier_query_next(&q)) {
        read_run(&q, &row);
        if (q.st == TIER_OK)
            q.st = fn(arg, &row, err);
    }
    return tier_query_end(&q);
}

static enum tier_status delete_rows(struct tier_journal *j, const char *run, struct tier_err *err) {
    struct tier_query q;

    for (int sql = SQL_RUN_DELETE_ROUNDS; sql <= SQL_RUN_DELETE_SECURE; sql++) {
        tier_query_start(&q, j->db, sql, err);
        bind_run(&q, run);
        TIER_TRY(tier_query_run(&q));
    }
    tier_query_start(&q, j->db, SQL_RUN_DELETE, err);
    bind_run(&q, run);
    return run_on_row(&q, "run", run);
}

enum tier_status tier_journal_run_delete(struct tier_journal *j, const char *run,
                                         struct tier_err *err) {
    if (tier_db_in_transaction(j->db))
        return delete_rows(j, run, err);
    TIER_TRY(tier_db_begin(j->db, err));
    enum tier_status st = delete_rows(j, run, err);
    if (st == TIER_OK)
        return tier_db_commit(j->db, err);
    tier_db_rollback(j->db);
    return st;
}

/* ---- rounds --------------------------------------------------------------------------------- */

enum tier_status tier_journal_round_put(struct tier_journal *j,
                                        const struct tier_journal_round *round,
                                        struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_ROUND_PUT, err);
    bind_run(&q, round->run);
    tier_query_u64(&q, "round", round->round);
    tier_query_int(&q, round->state);
    tier_query_hash(&q, &round->base_model);
    tier_query_int(&q, round->opened_ms);
    tier_query_int(&q, round->closed_ms);
    tier_query_hash(&q, &round->result_model);
    tier_query_hash(&q, &round->own_update);
    tier_query_hash(&q, &round->result_state);
    tier_query_int(&q, round->counted);
    tier_query_int(&q, round->by_receipt);
    return tier_query_run(&q);
}

static void read_round(struct tier_query *q, struct tier_journal_round *round) {
    memset(round, 0, sizeof *round);
    tier_query_get_text(q, round->run, sizeof round->run);
    round->round = tier_query_get_u64(q);
    round->state = tier_query_get_enum(q, INT32_MAX);
    tier_query_get_hash(q, &round->base_model);
    round->opened_ms = tier_query_get_int(q);
    round->closed_ms = tier_query_get_int(q);
    tier_query_get_hash(q, &round->result_model);
    tier_query_get_hash(q, &round->own_update);
    tier_query_get_hash(q, &round->result_state);
    round->counted = tier_query_get_int(q) != 0;
    round->by_receipt = tier_query_get_int(q) != 0;
}

enum tier_status tier_journal_round_unsure(struct tier_journal *j, const char *run,
                                           uint64_t *round_out, struct tier_err *err) {
    struct tier_query q;
    uint64_t round = 0;

    tier_query_start(&q, j->db, SQL_ROUND_UNSURE, err);
    bind_run(&q, run);
    if (tier_query_next(&q))
        round = tier_query_get_u64(&q);
    if (q.st == TIER_OK)
        *round_out = round;
    return tier_query_end(&q);
}

enum tier_status tier_journal_round_get(struct tier_journal *j, const char *run, uint64_t round,
                                        struct tier_journal_round *out, struct tier_err *err) {
    struct tier_query q;
    struct tier_journal_round row;

    tier_query_start(&q, j->db, SQL_ROUND_GET, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    if (tier_query_next(&q))
        read_round(&q, &row);
    else if (q.st == TIER_OK)
        q.st = tier_fail(err, TIER_ENOTFOUND, "journal: no round %llu of run %s",
                         (unsigned long long)round, run);
    if (q.st == TIER_OK)
        *out = row;
    return tier_query_end(&q);
}

enum tier_status tier_journal_round_each(struct tier_journal *j, const char *run, uint64_t from,
                                         tier_journal_round_fn fn, void *arg,
                                         struct tier_err *err) {
    struct tier_query q;
    struct tier_journal_round row;

    tier_query_start(&q, j->db, SQL_ROUND_EACH, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", from);
    while (tier_query_next(&q)) {
        read_round(&q, &row);
        if (q.st == TIER_OK)
            q.st = fn(arg, &row, err);
    }
    return tier_query_end(&q);
}

/* ---- updates of children -------------------------------------------------------------------- */

enum tier_status tier_journal_update_put(struct tier_journal *j,
                                         const struct tier_journal_update *update,
                                         struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_UPDATE_PUT, err);
    bind_run(&q, update->run);
    tier_query_u64(&q, "round", update->round);
    tier_query_name(&q, "child", update->child, TIER_NAME_LEN_MAX);
    tier_query_hash(&q, &update->update_id);
    tier_query_u64(&q, "weight", update->weight);
    tier_query_u64(&q, "bytes", update->bytes);
    bind_state(&q, (int)update->state, TIER_UPDATE_WANTED, TIER_UPDATE_REFUSED);
    tier_query_blob(&q, "receipt", update->receipt, update->receipt_bytes,
                    TIER_JOURNAL_RECEIPT_BYTES_MAX);
    tier_query_u64(&q, "base_round", update->base_round);
    return tier_query_run(&q);
}

enum tier_status tier_journal_update_set_state(struct tier_journal *j, const char *run,
                                               uint64_t round, const char *child,
                                               enum tier_update_state state, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_UPDATE_SET_STATE, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    tier_query_name(&q, "child", child, TIER_NAME_LEN_MAX);
    bind_state(&q, (int)state, TIER_UPDATE_WANTED, TIER_UPDATE_REFUSED);
    return run_on_row(&q, "update of child", child);
}

static void read_update(struct tier_query *q, struct tier_journal_update *update) {
    memset(update, 0, sizeof *update);
    tier_query_get_text(q, update->run, sizeof update->run);
    update->round = tier_query_get_u64(q);
    tier_query_get_text(q, update->child, sizeof update->child);
    tier_query_get_hash(q, &update->update_id);
    update->weight = tier_query_get_u64(q);
    update->bytes = tier_query_get_u64(q);
    update->state = (enum tier_update_state)tier_query_get_enum(q, TIER_UPDATE_REFUSED);
    const uint8_t *receipt =
        tier_query_get_blob(q, TIER_JOURNAL_RECEIPT_BYTES_MAX, &update->receipt_bytes);
    memcpy(update->receipt, receipt, update->receipt_bytes);
    update->base_round = tier_query_get_u64(q);
}

/* Ends a query whose one row is wanted. */
static enum tier_status take_update(struct tier_query *q, const char *name,
                                    struct tier_journal_update *out) {
    struct tier_journal_update row;

    if (tier_query_next(q))
        read_update(q, &row);
    else if (q->st == TIER_OK)
        q->st = tier_fail(q->err, TIER_ENOTFOUND, "journal: no update %s", name);
    if (q->st == TIER_OK)
        *out = row;
    return tier_query_end(q);
}

enum tier_status tier_journal_update_get(struct tier_journal *j, const char *run, uint64_t round,
                                         const char *child, struct tier_journal_update *out,
                                         struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_UPDATE_GET, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    tier_query_name(&q, "child", child, TIER_NAME_LEN_MAX);
    return take_update(&q, child, out);
}

enum tier_status tier_journal_update_find(struct tier_journal *j, const struct tier_hash *update_id,
                                          struct tier_journal_update *out, struct tier_err *err) {
    struct tier_query q;
    char hex[TIER_HASH_HEX];

    tier_query_start(&q, j->db, SQL_UPDATE_FIND, err);
    bind_id(&q, update_id);
    return take_update(&q, tier_hash_hex(update_id, hex), out);
}

enum tier_status tier_journal_update_counted(struct tier_journal *j, const char *run,
                                             const char *child, struct tier_journal_update *out,
                                             struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_UPDATE_COUNTED, err);
    bind_run(&q, run);
    tier_query_name(&q, "child", child, TIER_NAME_LEN_MAX);
    tier_query_int(&q, TIER_UPDATE_SEALED);
    tier_query_int(&q, TIER_UPDATE_FOLDED);
    return take_update(&q, child, out);
}

enum tier_status tier_journal_update_children(struct tier_journal *j, const char *run,
                                              uint64_t round, uint64_t *count_out,
                                              struct tier_err *err) {
    struct tier_query q;
    uint64_t count = 0;

    tier_query_start(&q, j->db, SQL_UPDATE_CHILDREN, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    tier_query_int(&q, TIER_UPDATE_SEALED);
    tier_query_int(&q, TIER_UPDATE_FOLDED);
    if (tier_query_next(&q))
        count = tier_query_get_u64(&q);
    TIER_TRY(tier_query_end(&q));
    *count_out = count;
    return TIER_OK;
}

enum tier_status tier_journal_update_each(struct tier_journal *j, const char *run, uint64_t round,
                                          int state, tier_journal_update_fn fn, void *arg,
                                          struct tier_err *err) {
    struct tier_query q;
    struct tier_journal_update row;

    tier_query_start(&q, j->db, SQL_UPDATE_EACH, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    bind_state(&q, state, TIER_UPDATE_STATE_ANY, TIER_UPDATE_REFUSED);
    while (tier_query_next(&q)) {
        read_update(&q, &row);
        if (q.st == TIER_OK)
            q.st = fn(arg, &row, err);
    }
    return tier_query_end(&q);
}

/* ---- secure sums ---------------------------------------------------------------------------- */

enum tier_status tier_journal_secure_add(struct tier_journal *j, const char *run, uint64_t round,
                                         const struct tier_journal_secure *row,
                                         struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_SECURE_ADD, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    tier_query_int(&q, row->step);
    tier_query_text(&q, "child", row->child, TIER_NAME_LEN_MAX);
    tier_query_blob(&q, "body", row->body, row->bytes, TIER_JOURNAL_VALUE_BYTES_MAX);
    tier_query_int(&q, row->time_ms);
    return tier_query_run(&q);
}

enum tier_status tier_journal_secure_each(struct tier_journal *j, const char *run, uint64_t round,
                                          tier_journal_secure_fn fn, void *arg,
                                          struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_SECURE_EACH, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    while (tier_query_next(&q)) {
        struct tier_journal_secure row = {.step = (int)tier_query_get_int(&q)};
        tier_query_get_text(&q, row.child, sizeof row.child);
        row.body = tier_query_get_blob(&q, TIER_JOURNAL_VALUE_BYTES_MAX, &row.bytes);
        row.time_ms = tier_query_get_int(&q);
        if (q.st == TIER_OK)
            q.st = fn(arg, &row, err);
    }
    return tier_query_end(&q);
}

enum tier_status tier_journal_secure_delete(struct tier_journal *j, const char *run, uint64_t round,
                                            struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_SECURE_DELETE, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    return tier_query_run(&q);
}

/* ---- metrics -------------------------------------------------------------------------------- */

enum tier_status tier_journal_metric_put(struct tier_journal *j, const char *run, uint64_t round,
                                         const char *name, double value, struct tier_err *err) {
    struct tier_query q;

    if (isnan(value)) /* SQLite would store it as NULL */
        return tier_fail(err, TIER_EARG, "journal: metric %s is not a number", name);
    tier_query_start(&q, j->db, SQL_METRIC_PUT, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    tier_query_name(&q, "metric", name, TIER_TENSOR_NAME_LEN_MAX);
    tier_query_real(&q, value);
    return tier_query_run(&q);
}

enum tier_status tier_journal_metric_each(struct tier_journal *j, const char *run, const char *name,
                                          tier_journal_metric_fn fn, void *arg,
                                          struct tier_err *err) {
    struct tier_query q;
    char found[TIER_TENSOR_NAME_LEN_MAX + 1];

    tier_query_start(&q, j->db, SQL_METRIC_EACH, err);
    bind_run(&q, run);
    if (name)
        tier_query_name(&q, "metric", name, TIER_TENSOR_NAME_LEN_MAX);
    else
        tier_query_null(&q);
    while (tier_query_next(&q)) {
        uint64_t round = tier_query_get_u64(&q);
        tier_query_get_text(&q, found, sizeof found);
        double value = tier_query_get_real(&q);
        if (q.st == TIER_OK)
            q.st = fn(arg, round, found, value, err);
    }
    return tier_query_end(&q);
}

/* ---- sent ----------------------------------------------------------------------------------- */

enum tier_status tier_journal_sent_put(struct tier_journal *j, const struct tier_journal_sent *sent,
                                       struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_SENT_PUT, err);
    bind_run(&q, sent->run);
    tier_query_u64(&q, "round", sent->round);
    bind_id(&q, &sent->update_id);
    tier_query_blob(&q, "header", sent->header, sent->header_bytes, TIER_UPDATE_HEADER_BYTES_MAX);
    bind_state(&q, (int)sent->state, TIER_SENT_PENDING, TIER_SENT_COMMITTED);
    return tier_query_run(&q);
}

enum tier_status tier_journal_sent_set_state(struct tier_journal *j, const char *run,
                                             uint64_t round, const struct tier_hash *update_id,
                                             enum tier_sent_state state, struct tier_err *err) {
    struct tier_query q;
    char hex[TIER_HASH_HEX];

    tier_query_start(&q, j->db, SQL_SENT_SET_STATE, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    bind_id(&q, update_id);
    bind_state(&q, (int)state, TIER_SENT_PENDING, TIER_SENT_COMMITTED);
    return run_on_row(&q, "sent update", tier_hash_hex(update_id, hex));
}

enum tier_status tier_journal_sent_delete(struct tier_journal *j, const char *run, uint64_t round,
                                          const struct tier_hash *update_id, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_SENT_DELETE, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    bind_id(&q, update_id);
    return tier_query_run(&q);
}

enum tier_status tier_journal_sent_each(struct tier_journal *j, const char *run, int state,
                                        tier_journal_sent_fn fn, void *arg, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, j->db, SQL_SENT_EACH, err);
    bind_run_or_all(&q, run);
    bind_state(&q, state, TIER_SENT_STATE_ANY, TIER_SENT_COMMITTED);
    while (tier_query_next(&q)) {
        struct tier_journal_sent row = {0};
        tier_query_get_text(&q, row.run, sizeof row.run);
        row.round = tier_query_get_u64(&q);
        tier_query_get_hash(&q, &row.update_id);
        row.header = tier_query_get_blob(&q, TIER_UPDATE_HEADER_BYTES_MAX, &row.header_bytes);
        row.state = (enum tier_sent_state)tier_query_get_enum(&q, TIER_SENT_COMMITTED);
        if (q.st == TIER_OK)
            q.st = fn(arg, &row, err);
    }
    return tier_query_end(&q);
}
