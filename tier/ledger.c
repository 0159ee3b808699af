/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/ledger.h"

#include "tier/db.h"
#include "tier/pem_file.h"
#include "tier/vault.h"

#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEALED_KEY_BYTES (sizeof((struct tier_noise_key *)0)->b + TIER_VAULT_SEAL_BYTES)
#define OWNER_FILE "ledger.id"
#define OWNER_HEX 32u
#define LEDGER_APPLICATION_ID 0x434f4e4c /* "CONL" */

struct tier_ledger {
    struct tier_db *db;
    char *data_dir;        /* keys of noise are encrypted where its files are */
    char owner[OWNER_HEX]; /* of what is charged from that directory; 0 while only reading */
};

/* Append only. */
static const char *const migrations[] = {
    "CREATE TABLE charges(book INTEGER NOT NULL CHECK(book BETWEEN 0 AND 1), run TEXT NOT NULL,"
    " round INTEGER NOT NULL, plan TEXT NOT NULL, noise REAL NOT NULL, rate REAL NOT NULL,"
    " count INTEGER NOT NULL CHECK(count > 0), time_ms INTEGER NOT NULL, key BLOB,"
    " key_hash BLOB NOT NULL, PRIMARY KEY(book, run, round)) WITHOUT ROWID;",
    "CREATE TABLE claims(book INTEGER NOT NULL CHECK(book BETWEEN 0 AND 1), run TEXT NOT NULL,"
    " noise REAL NOT NULL, rate REAL NOT NULL, count INTEGER NOT NULL CHECK(count > 0),"
    " rounds INTEGER NOT NULL, PRIMARY KEY(book, run)) WITHOUT ROWID;",
    "ALTER TABLE charges ADD COLUMN owner BLOB NOT NULL DEFAULT x'';",
};

enum {
    SQL_ADD,
    SQL_GET,
    SQL_FORGET,
    SQL_FORGET_OLD,
    SQL_EVENTS,
    SQL_EVENTS_CLAIMED,
    SQL_ROUNDS,
    SQL_EACH,
    SQL_CLAIM,
    SQL_CLAIM_USE,
    SQL_UNCLAIM,
    SQL_COUNT
};

static const char *const statements[SQL_COUNT] = {
    [SQL_ADD] = "INSERT INTO charges(book, run, round, plan, noise, rate, count, time_ms, key,"
                " key_hash, owner) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
                " ON CONFLICT DO NOTHING",
    [SQL_GET] = "SELECT plan, noise, rate, count, time_ms, key_hash, owner, key IS NOT NULL, key"
                " FROM charges WHERE book = ?1 AND run = ?2 AND round = ?3",
    [SQL_FORGET] = "UPDATE charges SET key = NULL"
                   " WHERE run = ?1 AND round < ?2 AND key IS NOT NULL",
    [SQL_FORGET_OLD] = "UPDATE charges SET key = NULL WHERE time_ms < ?1 AND key IS NOT NULL",
    [SQL_EVENTS] = "SELECT noise, rate, sum(count) FROM charges WHERE book = ?1"
                   " GROUP BY noise, rate ORDER BY noise, rate",
    [SQL_EVENTS_CLAIMED] = "SELECT noise, rate, sum(count) FROM (SELECT noise, rate, count"
                           " FROM charges WHERE book = ?1 UNION ALL SELECT noise, rate,"
                           " count * rounds FROM claims WHERE book = ?1 AND run <> ?2"
                           " AND rounds > 0) GROUP BY noise, rate ORDER BY noise, rate",
    [SQL_CLAIM] = "INSERT OR REPLACE INTO claims(book, run, noise, rate, count, rounds)"
                  " VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_CLAIM_USE] = "UPDATE claims SET rounds = rounds - 1"
                      " WHERE book = ?1 AND run = ?2 AND rounds > 0",
    [SQL_UNCLAIM] = "DELETE FROM claims WHERE run = ?1",
    [SQL_ROUNDS] = "SELECT count(*) FROM charges WHERE book = ?1 AND run = ?2",
    [SQL_EACH] = "SELECT run, plan, count(*), noise, rate, sum(count), min(time_ms), max(time_ms)"
                 " FROM charges WHERE book = ?1 GROUP BY run, noise, rate"
                 " ORDER BY min(time_ms), run",
};

static const struct tier_db_schema schema = {
    .what = "ledger",
    .application_id = LEDGER_APPLICATION_ID,
    .migrations = migrations,
    .versions = sizeof migrations / sizeof *migrations,
    .statements = statements,
    .statement_count = SQL_COUNT,
    .exclusive = false,
    .busy_ms = 30000,
};

/* DATA_DIR/ledger.id, 32 hex digits, made where it is wanted and not there; another process may
 * make it just now. */
static enum tier_status read_owner(struct tier_ledger *l, bool reading, struct tier_err *err) {
    uint8_t random[OWNER_HEX / 2];
    char hex[OWNER_HEX + 1], *text = NULL;

    if (reading && !tier_pem_exists(l->data_dir, OWNER_FILE))
        return TIER_OK;
    if (!tier_pem_exists(l->data_dir, OWNER_FILE)) {
        if (RAND_bytes(random, sizeof random) != 1)
            return tier_fail(err, TIER_EIO, "no randomness for a ledger");
        for (size_t i = 0; i < sizeof random; i++)
            snprintf(hex + 2 * i, 3, "%02x", random[i]);
        enum tier_status st = tier_pem_write(l->data_dir, OWNER_FILE, hex, true, false, err);
        if (st != TIER_OK && st != TIER_ECONFLICT)
            return st;
    }
    TIER_TRY(tier_pem_read(l->data_dir, OWNER_FILE, true, &text, err));
    bool whole = strlen(text) == OWNER_HEX;
    if (whole)
        memcpy(l->owner, text, OWNER_HEX);
    free(text);
    return whole ? TIER_OK
                 : tier_fail(err, TIER_ECORRUPT, "%s/" OWNER_FILE " does not hold %u hex digits",
                             l->data_dir, OWNER_HEX);
}

enum tier_status tier_ledger_open(const char *data_dir, bool reading, struct tier_ledger **out,
                                  struct tier_err *err) {
    return tier_ledger_open_at(data_dir, NULL, reading, out, err);
}

enum tier_status tier_ledger_open_at(const char *data_dir, const char *file, bool reading,
                                     struct tier_ledger **out, struct tier_err *err) {
    struct tier_ledger *l = calloc(1, sizeof *l);
    char *path = NULL;
    enum tier_status st = TIER_OK;

    if (asprintf(&path, "%s%s", file && *file ? file : data_dir,
                 file && *file ? "" : "/ledger.db") < 0)
        path = NULL;
    if (!l || !path || !(l->data_dir = strdup(data_dir))) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a ledger");
        goto out;
    }
    if (reading && access(path, F_OK) != 0) {
        st = tier_fail(err, TIER_ENOTFOUND, "%s is not there: nothing was spent here", path);
        goto out;
    }
    TIER_TRY_OUT(read_owner(l, reading, err));
    TIER_TRY_OUT(tier_db_open(path, &schema, &l->db, err));
    *out = l;
    l = NULL;
out:
    free(path);
    if (l)
        free(l->data_dir);
    free(l);
    return st;
}

void tier_ledger_close(struct tier_ledger *l) {
    if (!l)
        return;
    tier_db_close(l->db);
    free(l->data_dir);
    free(l);
}

enum tier_status tier_ledger_begin(struct tier_ledger *l, struct tier_err *err) {
    return tier_db_begin(l->db, err);
}

enum tier_status tier_ledger_commit(struct tier_ledger *l, struct tier_err *err) {
    return tier_db_commit(l->db, err);
}

void tier_ledger_rollback(struct tier_ledger *l) {
    tier_db_rollback(l->db);
}

static void start(struct tier_query *q, struct tier_ledger *l, int sql, enum tier_ledger_book book,
                  struct tier_err *err) {
    tier_query_start(q, l->db, sql, err);
    tier_query_int(q, (int)book);
}

static void bind_run(struct tier_query *q, const char *run) {
    tier_query_name(q, "run", run, TIER_HASH_HEX - 1);
}

enum tier_status tier_ledger_claim(struct tier_ledger *l, enum tier_ledger_book book,
                                   const char *run, const struct tier_privacy_event *each,
                                   uint64_t rounds, struct tier_err *err) {
    struct tier_query q;

    start(&q, l, SQL_CLAIM, book, err);
    bind_run(&q, run);
    tier_query_real(&q, each->noise);
    tier_query_real(&q, each->rate);
    tier_query_u64(&q, "count", each->count);
    tier_query_u64(&q, "rounds", rounds);
    return tier_query_run(&q);
}

enum tier_status tier_ledger_unclaim(struct tier_ledger *l, const char *run, struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, l->db, SQL_UNCLAIM, err);
    bind_run(&q, run);
    return tier_query_run(&q);
}

static enum tier_status add_charge(struct tier_ledger *l, const struct tier_ledger_charge *c,
                                   struct tier_err *err) {
    uint8_t sealed[SEALED_KEY_BYTES];
    struct tier_hash hash;
    struct tier_query q;

    tier_noise_key_hash(&c->key, &hash);
    start(&q, l, SQL_ADD, c->book, err);
    bind_run(&q, c->run);
    tier_query_u64(&q, "round", c->round);
    tier_query_name(&q, "plan", c->plan, TIER_NAME_LEN_MAX);
    tier_query_real(&q, c->event.noise);
    tier_query_real(&q, c->event.rate);
    tier_query_u64(&q, "count", c->event.count);
    tier_query_int(&q, c->time_ms);
    if (tier_vault_seal(l->data_dir, c->key.b, sizeof c->key.b, sealed))
        tier_query_blob(&q, "key", sealed, sizeof sealed, sizeof sealed);
    else
        tier_query_blob(&q, "key", c->key.b, sizeof c->key.b, sizeof c->key.b);
    tier_query_hash(&q, &hash);
    tier_query_blob(&q, "owner", l->owner, sizeof l->owner, sizeof l->owner);
    TIER_TRY(tier_query_run(&q));
    return tier_db_changes(l->db)
               ? TIER_OK
               : tier_fail(err, TIER_ECONFLICT, "run %.12s: round %" PRIu64 " was charged before",
                           c->run, c->round);
}

/* The charge and the part of the claim that it was: together, so that it counts once. */
enum tier_status tier_ledger_charge(struct tier_ledger *l, const struct tier_ledger_charge *c,
                                    struct tier_err *err) {
    bool own = !tier_db_in_transaction(l->db);
    struct tier_query q;
    enum tier_status st;

    if (own)
        TIER_TRY(tier_db_begin(l->db, err));
    TIER_TRY_OUT(add_charge(l, c, err));
    start(&q, l, SQL_CLAIM_USE, c->book, err);
    bind_run(&q, c->run);
    TIER_TRY_OUT(tier_query_run(&q));
    if (own)
        st = tier_db_commit(l->db, err);
out:
    if (own)
        tier_db_rollback(l->db);
    return st;
}

static void read_key(const struct tier_ledger *l, struct tier_query *q,
                     struct tier_ledger_charge *c) {
    size_t bytes = 0;
    const uint8_t *owner = tier_query_get_blob(q, sizeof l->owner, &bytes);
    bool ours = q->st == TIER_OK &&
                (bytes == 0 || (bytes == sizeof l->owner && memcmp(owner, l->owner, bytes) == 0));

    c->has_key = tier_query_get_int(q) != 0 && ours;
    if (!c->has_key)
        return;
    const uint8_t *key = tier_query_get_blob(q, SEALED_KEY_BYTES, &bytes);
    if (q->st == TIER_OK && bytes == SEALED_KEY_BYTES)
        q->st = tier_vault_unseal(l->data_dir, key, sizeof c->key.b, c->key.b, q->err);
    else if (q->st == TIER_OK && bytes != sizeof c->key.b)
        q->st = tier_fail(q->err, TIER_ECORRUPT, "ledger: a key of %zu bytes", bytes);
    else if (q->st == TIER_OK)
        memcpy(c->key.b, key, sizeof c->key.b);
}

enum tier_status tier_ledger_get(struct tier_ledger *l, enum tier_ledger_book book, const char *run,
                                 uint64_t round, struct tier_ledger_charge *out,
                                 struct tier_err *err) {
    struct tier_ledger_charge c = {.book = book, .round = round};
    struct tier_query q;

    snprintf(c.run, sizeof c.run, "%s", run);
    start(&q, l, SQL_GET, book, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", round);
    if (tier_query_next(&q)) {
        tier_query_get_text(&q, c.plan, sizeof c.plan);
        c.event.noise = tier_query_get_real(&q);
        c.event.rate = tier_query_get_real(&q);
        c.event.count = tier_query_get_u64(&q);
        c.time_ms = tier_query_get_int(&q);
        tier_query_get_hash(&q, &c.key_hash);
        read_key(l, &q, &c);
    } else if (q.st == TIER_OK) {
        q.st = tier_fail(err, TIER_ENOTFOUND, "ledger: round %" PRIu64 " was not charged", round);
    }
    enum tier_status st = tier_query_end(&q);
    if (st == TIER_OK)
        *out = c;
    tier_noise_key_wipe(&c.key);
    return st;
}

enum tier_status tier_ledger_forget_keys(struct tier_ledger *l, const char *run, uint64_t below,
                                         struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, l->db, SQL_FORGET, err);
    bind_run(&q, run);
    tier_query_u64(&q, "round", below < INT64_MAX ? below : INT64_MAX);
    return tier_query_run(&q);
}

enum tier_status tier_ledger_forget_before(struct tier_ledger *l, int64_t time_ms,
                                           struct tier_err *err) {
    struct tier_query q;

    tier_query_start(&q, l->db, SQL_FORGET_OLD, err);
    tier_query_int(&q, time_ms);
    return tier_query_run(&q);
}

static enum tier_status count_rounds(struct tier_ledger *l, enum tier_ledger_book book,
                                     const char *run, uint64_t *out, struct tier_err *err) {
    struct tier_query q;
    uint64_t rounds = 0;

    start(&q, l, SQL_ROUNDS, book, err);
    bind_run(&q, run);
    if (tier_query_next(&q))
        rounds = tier_query_get_u64(&q);
    TIER_TRY(tier_query_end(&q));
    *out = rounds;
    return TIER_OK;
}

static enum tier_status events_by(struct tier_ledger *l, bool claimed, enum tier_ledger_book book,
                                  const char *run, struct tier_privacy_event **events_out,
                                  size_t *count_out, uint64_t *rounds_out, struct tier_err *err) {
    struct tier_privacy_event *events = calloc(TIER_PRIVACY_EVENTS_MAX, sizeof *events);
    struct tier_query q;
    size_t count = 0;

    if (!events)
        return tier_fail(err, TIER_ENOMEM, "no memory for a ledger");
    start(&q, l, claimed ? SQL_EVENTS_CLAIMED : SQL_EVENTS, book, err);
    if (claimed)
        bind_run(&q, run);
    while (tier_query_next(&q)) {
        if (count == TIER_PRIVACY_EVENTS_MAX) {
            q.st = tier_fail(err, TIER_ELIMIT,
                             "the ledger has more than %d kinds of mechanisms: what they cost "
                             "together cannot be worked out",
                             TIER_PRIVACY_EVENTS_MAX);
            break;
        }
        events[count].noise = tier_query_get_real(&q);
        events[count].rate = tier_query_get_real(&q);
        events[count++].count = tier_query_get_u64(&q);
    }
    enum tier_status st = tier_query_end(&q);
    if (st == TIER_OK && run && rounds_out)
        st = count_rounds(l, book, run, rounds_out, err);
    if (st != TIER_OK) {
        free(events);
        return st;
    }
    *events_out = events;
    *count_out = count;
    return TIER_OK;
}

enum tier_status tier_ledger_events(struct tier_ledger *l, enum tier_ledger_book book,
                                    const char *run, struct tier_privacy_event **events_out,
                                    size_t *count_out, uint64_t *rounds_out, struct tier_err *err) {
    return events_by(l, false, book, run, events_out, count_out, rounds_out, err);
}

enum tier_status tier_ledger_events_claimed(struct tier_ledger *l, enum tier_ledger_book book,
                                            const char *run, struct tier_privacy_event **events_out,
                                            size_t *count_out, uint64_t *rounds_out,
                                            struct tier_err *err) {
    return events_by(l, true, book, run, events_out, count_out, rounds_out, err);
}

enum tier_status tier_ledger_each(struct tier_ledger *l, enum tier_ledger_book book,
                                  tier_ledger_entry_fn fn, void *arg, struct tier_err *err) {
    struct tier_query q;

    start(&q, l, SQL_EACH, book, err);
    while (tier_query_next(&q)) {
        struct tier_ledger_entry e = {.rounds = 0};
        tier_query_get_text(&q, e.run, sizeof e.run);
        tier_query_get_text(&q, e.plan, sizeof e.plan);
        e.rounds = tier_query_get_u64(&q);
        e.event.noise = tier_query_get_real(&q);
        e.event.rate = tier_query_get_real(&q);
        e.event.count = tier_query_get_u64(&q);
        e.first_ms = tier_query_get_int(&q);
        e.last_ms = tier_query_get_int(&q);
        if (q.st == TIER_OK)
            q.st = fn(arg, &e, err);
    }
    return tier_query_end(&q);
}
