/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/journal.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], path[128];
static struct tier_journal *j;
static struct tier_err err;

static void setup(void) {
    snprintf(dir, sizeof dir, "/tmp/consilium-journal-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/journal.db", dir);
}

static void teardown(void) {
    static const char *const suffix[] = {"", "-wal", "-shm", "-journal"};
    char name[160];
    tier_journal_close(j);
    j = NULL;
    for (size_t i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, suffix[i]);
        unlink(name);
    }
    rmdir(dir);
}

static void open_it(void) {
    cr_assert(tier_journal_open(path, &j, &err) == TIER_OK, "%s", err.text);
}

static void reopen(void) {
    tier_journal_close(j);
    j = NULL;
    open_it();
}

static struct tier_hash hash_of(uint8_t seed) {
    struct tier_hash h;
    memset(h.b, seed, sizeof h.b);
    return h;
}

static void add_run(const char *id) {
    struct tier_journal_run run = {.state = 1, .created_ms = 5};
    snprintf(run.run, sizeof run.run, "%s", id);
    cr_assert(tier_journal_run_add(j, &run, "plan: x", 7, "sig", 3, &err) == TIER_OK, "%s",
              err.text);
}

static struct tier_journal_update an_update(const char *child, enum tier_update_state state) {
    struct tier_journal_update u = {
        .round = 3, .weight = 70, .bytes = 900, .state = state, .base_round = 2};
    snprintf(u.run, sizeof u.run, "aa");
    snprintf(u.child, sizeof u.child, "%s", child);
    u.update_id = hash_of((uint8_t)child[0]);
    memcpy(u.receipt, "receipt", 7);
    u.receipt_bytes = 7;
    return u;
}

TestSuite(tier_journal, .init = setup, .fini = teardown);

Test(tier_journal, a_value_is_there_after_reopening_and_a_missing_one_is_not_found) {
    struct tier_journal_blob blob = {0};
    open_it();
    cr_assert(tier_journal_kv_put(j, "k", "value", 5, &err) == TIER_OK);
    reopen();
    cr_assert(tier_journal_kv_get(j, "k", &blob, &err) == TIER_OK);
    cr_assert(eq(str, (char *)blob.data, "value"));
    tier_journal_blob_release(&blob);
    cr_assert(tier_journal_kv_delete(j, "k", &err) == TIER_OK);
    cr_assert(tier_journal_kv_get(j, "k", &blob, &err) == TIER_ENOTFOUND);
    cr_assert(tier_journal_kv_put(j, "", "v", 1, &err) == TIER_EARG);
}

Test(tier_journal, a_run_is_added_once_and_changed_by_name) {
    struct tier_journal_run run;
    struct tier_journal_blob plan = {0}, sig = {0};
    open_it();
    add_run("aa");
    cr_assert(tier_journal_run_get(j, "aa", &run, &err) == TIER_OK);
    cr_assert(tier_journal_run_add(j, &run, "p", 1, "s", 1, &err) == TIER_ECONFLICT);
    run.state = 4;
    run.round = 9;
    run.model = hash_of(7);
    snprintf(run.detail, sizeof run.detail, "stopped by the operator");
    cr_assert(tier_journal_run_set(j, &run, &err) == TIER_OK);
    reopen();
    memset(&run, 0, sizeof run);
    cr_assert(tier_journal_run_get(j, "aa", &run, &err) == TIER_OK);
    cr_assert(run.state == 4 && run.round == 9 && run.created_ms == 5 && run.model.b[31] == 7);
    cr_assert(eq(str, run.detail, "stopped by the operator"));
    cr_assert(tier_journal_run_plan(j, "aa", &plan, &sig, &err) == TIER_OK);
    cr_assert(plan.bytes == 7 && sig.bytes == 3 && memcmp(plan.data, "plan: x", 7) == 0);
    tier_journal_blob_release(&plan);
    tier_journal_blob_release(&sig);
    snprintf(run.run, sizeof run.run, "bb");
    cr_assert(tier_journal_run_set(j, &run, &err) == TIER_ENOTFOUND);
}

Test(tier_journal, a_deleted_run_leaves_no_rows_and_an_unknown_one_is_not_found) {
    struct tier_journal_update u;
    open_it();
    add_run("aa");
    u = an_update("spoke-1", TIER_UPDATE_SEALED);
    cr_assert(tier_journal_update_put(j, &u, &err) == TIER_OK);
    cr_assert(tier_journal_run_delete(j, "aa", &err) == TIER_OK);
    cr_assert(tier_journal_update_get(j, "aa", 3, "spoke-1", &u, &err) == TIER_ENOTFOUND);
    cr_assert(tier_journal_run_delete(j, "aa", &err) == TIER_ENOTFOUND);
    cr_assert(tier_journal_begin(j, &err) == TIER_OK, "the refusal left no transaction open");
}

static enum tier_status count_round(void *arg, const struct tier_journal_round *round,
                                    struct tier_err *e) {
    (void)e;
    *(uint64_t *)arg = *(uint64_t *)arg * 10 + round->round;
    return TIER_OK;
}

Test(tier_journal, rounds_come_in_order_from_the_one_asked_for) {
    struct tier_journal_round r = {.run = "aa", .opened_ms = 1};
    uint64_t seen = 0;
    open_it();
    for (uint64_t i = 5; i > 0; i--) {
        r.round = i;
        r.base_model = hash_of((uint8_t)i);
        cr_assert(tier_journal_round_put(j, &r, &err) == TIER_OK);
    }
    cr_assert(tier_journal_round_each(j, "aa", 3, count_round, &seen, &err) == TIER_OK);
    cr_assert(seen == 345);
    cr_assert(tier_journal_round_get(j, "aa", 2, &r, &err) == TIER_OK);
    cr_assert(r.base_model.b[0] == 2 && tier_hash_is_zero(&r.own_update));
    cr_assert(tier_journal_round_get(j, "aa", 6, &r, &err) == TIER_ENOTFOUND);
    r.round = UINT64_MAX;
    cr_assert(tier_journal_round_put(j, &r, &err) == TIER_EARG);
}

Test(tier_journal, a_journal_of_the_first_version_is_brought_up) {
    struct tier_journal_round r = {.run = "aa", .round = 4, .opened_ms = 1};
    struct tier_journal_update u = an_update("a", TIER_UPDATE_SEALED);
    sqlite3 *db = NULL;
    open_it();
    r.result_model = hash_of(7);
    cr_assert(tier_journal_round_put(j, &r, &err) == TIER_OK);
    cr_assert(tier_journal_update_put(j, &u, &err) == TIER_OK);
    tier_journal_close(j);
    j = NULL;
    cr_assert(sqlite3_open(path, &db) == SQLITE_OK);
    cr_assert(sqlite3_exec(db,
                           "ALTER TABLE rounds DROP COLUMN result_state;"
                           "ALTER TABLE rounds DROP COLUMN counted;"
                           "ALTER TABLE rounds DROP COLUMN by_receipt;"
                           "ALTER TABLE updates DROP COLUMN base_round;"
                           "DROP INDEX updates_by_child;"
                           "DROP TABLE secure;"
                           "CREATE TABLE models(hash BLOB PRIMARY KEY NOT NULL);"
                           "PRAGMA user_version = 1",
                           NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
    open_it();
    cr_assert(tier_journal_round_get(j, "aa", 4, &r, &err) == TIER_OK, "%s", err.text);
    cr_assert(r.result_model.b[0] == 7 && tier_hash_is_zero(&r.result_state) && !r.counted);
    cr_assert(tier_journal_update_get(j, "aa", 3, "a", &u, &err) == TIER_OK);
    cr_assert(eq(u64, u.base_round, 3), "all updates were of their own round then");
    r.result_state = hash_of(8);
    cr_assert(tier_journal_round_put(j, &r, &err) == TIER_OK);
    reopen();
    cr_assert(tier_journal_round_get(j, "aa", 4, &r, &err) == TIER_OK);
    cr_assert(r.result_state.b[0] == 8);
}

static enum tier_status mark_folded(void *arg, const struct tier_journal_update *u,
                                    struct tier_err *e) {
    ++*(int *)arg;
    return tier_journal_update_set_state(j, u->run, u->round, u->child, TIER_UPDATE_FOLDED, e);
}

Test(tier_journal, updates_are_one_a_child_and_may_be_marked_while_iterated) {
    struct tier_journal_update u = an_update("a", TIER_UPDATE_SEALED);
    struct tier_hash unknown = hash_of(1);
    int seen = 0;
    open_it();
    cr_assert(tier_journal_update_put(j, &u, &err) == TIER_OK);
    cr_assert(tier_journal_update_put(j, &u, &err) == TIER_OK);
    u = an_update("b", TIER_UPDATE_SEALED);
    cr_assert(tier_journal_update_put(j, &u, &err) == TIER_OK);
    u = an_update("c", TIER_UPDATE_REFUSED);
    cr_assert(tier_journal_update_put(j, &u, &err) == TIER_OK);
    cr_assert(tier_journal_update_each(j, "aa", 3, TIER_UPDATE_SEALED, mark_folded, &seen, &err) ==
              TIER_OK);
    cr_assert(seen == 2);
    struct tier_hash id = hash_of('b');
    cr_assert(tier_journal_update_find(j, &id, &u, &err) == TIER_OK);
    cr_assert(u.state == TIER_UPDATE_FOLDED && u.receipt_bytes == 7 && u.weight == 70);
    cr_assert(tier_journal_update_find(j, &unknown, &u, &err) == TIER_ENOTFOUND);
    u.state = (enum tier_update_state)9;
    cr_assert(tier_journal_update_put(j, &u, &err) == TIER_EARG);
}

Test(tier_journal, the_last_update_of_a_child_that_counted_is_known) {
    struct tier_journal_round r = {.run = "aa", .opened_ms = 1};
    struct tier_journal_update u, seen;
    /* Of each round: whether its result holds this node's update, and what became of the child's.
     */
    static const struct {
        bool counted;
        enum tier_update_state state;
    } rounds[] = {{true, TIER_UPDATE_FOLDED},  {true, TIER_UPDATE_SEALED},
                  {true, TIER_UPDATE_REFUSED}, {true, TIER_UPDATE_WANTED},
                  {false, TIER_UPDATE_FOLDED}, {false, TIER_UPDATE_SEALED}};
    static const uint64_t last[] = {1, 2, 2, 2, 2, 2};

    open_it();
    cr_assert(tier_journal_update_counted(j, "aa", "a", &seen, &err) == TIER_ENOTFOUND);
    for (uint64_t i = 0; i < sizeof rounds / sizeof rounds[0]; i++) {
        u = an_update("a", rounds[i].state);
        u.round = r.round = i + 1;
        r.counted = rounds[i].counted;
        cr_assert(tier_journal_round_put(j, &r, &err) == TIER_OK);
        cr_assert(tier_journal_update_put(j, &u, &err) == TIER_OK);
        cr_assert(tier_journal_update_counted(j, "aa", "a", &seen, &err) == TIER_OK);
        cr_assert(eq(u64, seen.round, last[i]), "after round %d", (int)i + 1);
    }
    cr_assert(tier_journal_round_get(j, "aa", 2, &r, &err) == TIER_OK);
    cr_assert(r.counted);
    cr_assert(tier_journal_update_counted(j, "aa", "b", &seen, &err) == TIER_ENOTFOUND);
    cr_assert(tier_journal_update_counted(j, "bb", "a", &seen, &err) == TIER_ENOTFOUND);
}

Test(tier_journal, the_last_round_that_only_receipts_speak_of_is_known) {
    struct tier_journal_round r = {.run = "aa", .opened_ms = 1};
    uint64_t round = 9;

    open_it();
    cr_assert(tier_journal_round_unsure(j, "aa", &round, &err) == TIER_OK);
    cr_assert(eq(u64, round, 0));
    for (r.round = 1; r.round <= 4; r.round++) {
        r.by_receipt = r.round == 2 || r.round == 3;
        cr_assert(tier_journal_round_put(j, &r, &err) == TIER_OK);
    }
    reopen();
    cr_assert(tier_journal_round_unsure(j, "aa", &round, &err) == TIER_OK);
    cr_assert(eq(u64, round, 3));
    cr_assert(tier_journal_round_get(j, "aa", 2, &r, &err) == TIER_OK);
    cr_assert(r.by_receipt && !r.counted);
    cr_assert(tier_journal_round_get(j, "aa", 4, &r, &err) == TIER_OK);
    cr_assert(r.by_receipt == false);
    cr_assert(tier_journal_round_unsure(j, "bb", &round, &err) == TIER_OK);
    cr_assert(eq(u64, round, 0));
}

static enum tier_status sum_metric(void *arg, uint64_t round, const char *name, double value,
                                   struct tier_err *e) {
    (void)round, (void)name, (void)e;
    *(double *)arg += value;
    return TIER_OK;
}

Test(tier_journal, metrics_are_kept_by_name_and_nan_is_refused) {
    double sum = 0;
    open_it();
    cr_assert(tier_journal_metric_put(j, "aa", 1, "loss", 2.0, &err) == TIER_OK);
    cr_assert(tier_journal_metric_put(j, "aa", 1, "auc", 0.5, &err) == TIER_OK);
    cr_assert(tier_journal_metric_each(j, "aa", NULL, sum_metric, &sum, &err) == TIER_OK);
    cr_assert(sum == 2.5);
    sum = 0;
    cr_assert(tier_journal_metric_each(j, "aa", "auc", sum_metric, &sum, &err) == TIER_OK);
    cr_assert(sum == 0.5);
    cr_assert(tier_journal_metric_put(j, "aa", 1, "x", (double)__builtin_nanf(""), &err) ==
              TIER_EARG);
}

static enum tier_status check_sent(void *arg, const struct tier_journal_sent *s,
                                   struct tier_err *e) {
    (void)e;
    ++*(int *)arg;
    cr_assert(s->header_bytes == 3 && memcmp(s->header, "hdr", 3) == 0);
    return TIER_OK;
}

Test(tier_journal, what_was_sent_stays_until_deleted) {
    struct tier_journal_sent s = {.run = "aa", .round = 1, .header = (const uint8_t *)"hdr"};
    struct tier_hash other = hash_of(2);
    int seen = 0;
    open_it();
    s.update_id = hash_of(1);
    s.header_bytes = 3;
    cr_assert(tier_journal_sent_put(j, &s, &err) == TIER_OK);
    cr_assert(tier_journal_sent_set_state(j, "aa", 1, &s.update_id, TIER_SENT_RECEIVED, &err) ==
              TIER_OK);
    cr_assert(tier_journal_sent_set_state(j, "aa", 1, &other, TIER_SENT_RECEIVED, &err) ==
              TIER_ENOTFOUND);
    cr_assert(tier_journal_sent_each(j, NULL, TIER_SENT_RECEIVED, check_sent, &seen, &err) ==
              TIER_OK);
    cr_assert(tier_journal_sent_each(j, "aa", TIER_SENT_PENDING, check_sent, &seen, &err) ==
              TIER_OK);
    cr_assert(seen == 1);
    cr_assert(tier_journal_sent_delete(j, "aa", 1, &s.update_id, &err) == TIER_OK);
    cr_assert(tier_journal_sent_each(j, NULL, TIER_SENT_STATE_ANY, check_sent, &seen, &err) ==
              TIER_OK);
    cr_assert(seen == 1);
    s.header_bytes = TIER_UPDATE_HEADER_BYTES_MAX + 1;
    cr_assert(tier_journal_sent_put(j, &s, &err) == TIER_EARG);
}

Test(tier_journal, a_commit_keeps_and_a_rollback_forgets) {
    struct tier_journal_blob blob = {0};
    open_it();
    cr_assert(tier_journal_begin(j, &err) == TIER_OK);
    cr_assert(tier_journal_begin(j, &err) == TIER_EINTERNAL);
    cr_assert(tier_journal_kv_put(j, "a", "1", 1, &err) == TIER_OK);
    cr_assert(tier_journal_commit(j, &err) == TIER_OK);
    cr_assert(tier_journal_begin(j, &err) == TIER_OK);
    cr_assert(tier_journal_kv_put(j, "b", "1", 1, &err) == TIER_OK);
    tier_journal_rollback(j);
    tier_journal_rollback(j);
    cr_assert(tier_journal_kv_get(j, "b", &blob, &err) == TIER_ENOTFOUND);
    cr_assert(tier_journal_kv_get(j, "a", &blob, &err) == TIER_OK);
    tier_journal_blob_release(&blob);
}

Test(tier_journal, a_lazy_commit_keeps_and_its_rollback_forgets) {
    struct tier_journal_blob blob = {0};
    open_it();
    cr_assert(tier_journal_begin_lazy(j, &err) == TIER_OK);
    cr_assert(tier_journal_begin_lazy(j, &err) == TIER_EINTERNAL);
    cr_assert(tier_journal_kv_put(j, "a", "1", 1, &err) == TIER_OK);
    cr_assert(tier_journal_commit(j, &err) == TIER_OK);
    cr_assert(tier_journal_begin_lazy(j, &err) == TIER_OK);
    cr_assert(tier_journal_kv_put(j, "b", "1", 1, &err) == TIER_OK);
    tier_journal_rollback(j);
    cr_assert(tier_journal_begin(j, &err) == TIER_OK);
    cr_assert(tier_journal_kv_put(j, "c", "1", 1, &err) == TIER_OK);
    cr_assert(tier_journal_commit(j, &err) == TIER_OK);
    reopen();
    cr_assert(tier_journal_kv_get(j, "a", &blob, &err) == TIER_OK);
    tier_journal_blob_release(&blob);
    cr_assert(tier_journal_kv_get(j, "b", &blob, &err) == TIER_ENOTFOUND);
    cr_assert(tier_journal_kv_get(j, "c", &blob, &err) == TIER_OK);
    tier_journal_blob_release(&blob);
}

/* Signals the parent through the pipe when everything is written, then waits to be killed. */
static void child_in_transaction(int ready) {
    struct tier_journal *mine = NULL;
    if (tier_journal_open(path, &mine, NULL) == TIER_OK &&
        tier_journal_begin_lazy(mine, NULL) == TIER_OK &&
        tier_journal_kv_put(mine, "kept", "1", 1, NULL) == TIER_OK &&
        tier_journal_commit(mine, NULL) == TIER_OK && tier_journal_begin(mine, NULL) == TIER_OK &&
        tier_journal_kv_put(mine, "lost", "1", 1, NULL) == TIER_OK)
        (void)!write(ready, "x", 1);
    for (;;)
        pause();
}

Test(tier_journal, a_kill_inside_a_transaction_loses_that_transaction_only) {
    struct tier_journal_blob blob = {0};
    int pipe_fds[2];
    char byte;
    cr_assert(pipe(pipe_fds) == 0);
    pid_t pid = fork();
    if (pid == 0)
        child_in_transaction(pipe_fds[1]);
    close(pipe_fds[1]);
    cr_assert(read(pipe_fds[0], &byte, 1) == 1);
    struct tier_journal *second = NULL;
    cr_assert(tier_journal_open(path, &second, &err) == TIER_ECONFLICT,
              "a second process is refused while the first is alive");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(pipe_fds[0]);
    open_it();
    cr_assert(tier_journal_kv_get(j, "kept", &blob, &err) == TIER_OK);
    tier_journal_blob_release(&blob);
    cr_assert(tier_journal_kv_get(j, "lost", &blob, &err) == TIER_ENOTFOUND);
}

static void overwrite(off_t at, const char *bytes, size_t count) {
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    cr_assert(fd >= 0 && pwrite(fd, bytes, count, at) == (ssize_t)count);
    close(fd);
}

Test(tier_journal, a_file_that_is_no_database_is_corrupt) {
    char noise[4096];
    memset(noise, 'x', sizeof noise);
    overwrite(0, noise, sizeof noise);
    cr_assert(tier_journal_open(path, &j, &err) == TIER_ECORRUPT);
    cr_assert(strstr(err.text, path) != NULL, "%s", err.text);
}

Test(tier_journal, a_damaged_page_is_corrupt) {
    char noise[2048];
    memset(noise, 0x5a, sizeof noise);
    open_it();
    add_run("aa");
    tier_journal_close(j);
    j = NULL;
    overwrite(4096, noise, sizeof noise);
    overwrite(2 * 4096, noise, sizeof noise);
    cr_assert(tier_journal_open(path, &j, &err) == TIER_ECORRUPT, "%s", err.text);
}

struct heard {
    int count, closed;
    char order[16];
};

static enum tier_status hear(void *arg, const struct tier_journal_secure *row, struct tier_err *e) {
    struct heard *h = arg;
    (void)e;
    h->order[h->count++] = *row->child ? *row->child : '-';
    h->closed += !*row->child;
    cr_assert(row->step >= 1 && row->step <= 8 && row->time_ms == 1000 + row->step);
    cr_assert(row->bytes == (*row->child ? 3u : 0u));
    cr_assert(row->bytes == 0 || memcmp(row->body, "\0x\1", 3) == 0);
    return TIER_OK;
}

static void add_secure(uint64_t round, int step, const char *child) {
    struct tier_journal_secure row = {.step = step,
                                      .body = (const uint8_t *)"\0x\1",
                                      .bytes = *child ? 3 : 0,
                                      .time_ms = 1000 + step};
    snprintf(row.child, sizeof row.child, "%s", child);
    cr_assert(tier_journal_secure_add(j, "aa", round, &row, &err) == TIER_OK, "%s", err.text);
}

Test(tier_journal, steps_of_a_secure_sum_come_back_in_their_order_and_go_by_rounds) {
    struct heard h = {0};
    struct tier_journal_secure wrong = {.step = 9, .body = (const uint8_t *)"", .time_ms = 1};
    open_it();
    add_secure(4, 1, "c");
    add_secure(4, 1, "a");
    add_secure(4, 1, "");
    add_secure(5, 1, "b");
    add_secure(4, 3, "a");
    reopen();
    cr_assert(tier_journal_secure_each(j, "aa", 4, hear, &h, &err) == TIER_OK);
    cr_assert(eq(str, h.order, "ca-a"));
    cr_assert(eq(int, h.closed, 1));
    cr_assert(tier_journal_secure_delete(j, "aa", 4, &err) == TIER_OK);
    h = (struct heard){0};
    cr_assert(tier_journal_secure_each(j, "aa", 4, hear, &h, &err) == TIER_OK);
    cr_assert(eq(int, h.count, 0));
    cr_assert(tier_journal_secure_each(j, "aa", 5, hear, &h, &err) == TIER_OK);
    cr_assert(eq(int, h.count, 1));
    cr_assert(tier_journal_secure_add(j, "aa", 5, &wrong, &err) != TIER_OK);
}
