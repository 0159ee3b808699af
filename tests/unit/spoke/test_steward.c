/* SPDX-License-Identifier: Apache-2.0 */
/* The folder by which a person decides: what is a decision, and what the commands make of it. */
#include "spoke/access.h"
#include "spoke/steward.h"
#include "support/tier_fixture.h"
#include "tier/audit.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static char dir[64];
static char *said;

static void begin(void) {
    snprintf(dir, sizeof dir, "/tmp/consilium-steward-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    MUST(spoke_steward_open(dir, err));
}

static int drop(const char *path, const struct stat *info, int type, struct FTW *at) {
    (void)info, (void)type, (void)at;
    return remove(path);
}

static void end(void) {
    nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
    free(said);
}

TestSuite(spoke_steward, .init = begin, .fini = end);

/* Runs a command with --data-dir, and keeps what it said on either stream. */
static int run(int (*main_of)(int, char **, FILE *, FILE *), const char *what, const char *a,
               const char *b, const char *c) {
    char *argv[] = {(char *)what, "--data-dir", dir, (char *)a, (char *)b, (char *)c, NULL};
    size_t bytes;
    int argc = 3;

    while (argv[argc])
        argc++;
    free(said);
    said = NULL;
    FILE *out = open_memstream(&said, &bytes);
    int code = main_of(argc, argv, out, out);
    fclose(out);
    return code;
}

static void show(const char *hex, const char *state) {
    char text[300];
    snprintf(text, sizeof text, "run     %s\nstate   %s\nname    heart\n", hex, state);
    MUST(spoke_steward_show(dir, hex, text, err));
}

Test(spoke_steward, pending_lists_what_waits_and_nothing_else) {
    cr_assert(eq(int, run(spoke_steward_main, "pending", NULL, NULL, NULL), 0));
    cr_expect(eq(str, said, "no run waits\n"));
    show(A, "waits for a person");
    show(B, "open");
    cr_assert(eq(int, run(spoke_steward_main, "pending", NULL, NULL, NULL), 0));
    cr_expect(strstr(said, A) && !strstr(said, B), "%s", said);
    MUST(spoke_steward_show(dir, A, NULL, err));
    cr_assert(eq(int, run(spoke_steward_main, "pending", NULL, NULL, NULL), 0));
    cr_expect(eq(str, said, "no run waits\n"));
}

Test(spoke_steward, a_decision_says_what_who_and_why_and_is_there_until_it_is_done) {
    struct spoke_decision d = {0};
    show(A, "waits for a person");
    CHECK(!spoke_steward_next(dir, &d));
    cr_assert(eq(int, run(spoke_steward_main, "refuse", "--reason", "no board yet", "aa"), 0), "%s",
              said);
    CHECK(spoke_steward_next(dir, &d));
    cr_expect(eq(int, d.deed, SPOKE_DENY));
    cr_expect(eq(str, d.reason, "no board yet"));
    CHECK(*d.by && d.owner == getuid());
    char hex[TIER_HASH_HEX];
    cr_expect(eq(str, (char *)tier_hash_hex(&d.run, hex), A));
    CHECK(spoke_steward_next(dir, &d), "a spoke that was killed finds it again");
    spoke_steward_done(dir, &d.run);
    CHECK(!spoke_steward_next(dir, &d));
}

Test(spoke_steward, only_what_waits_is_approved_and_what_is_open_withdrawn) {
    struct spoke_decision d = {0};
    show(B, "open");
    cr_expect(eq(int, run(spoke_steward_main, "approve", B, NULL, NULL), 1));
    cr_expect(strstr(said, "no run that waits") != NULL, "%s", said);
    cr_expect(eq(int, run(spoke_steward_main, "withdraw", B, NULL, NULL), 0), "%s", said);
    CHECK(spoke_steward_next(dir, &d) && d.deed == SPOKE_WITHDRAW);
    show(A, "waits for a person");
    cr_expect(eq(int, run(spoke_steward_main, "withdraw", "", NULL, NULL), 1), "of both");
    cr_expect(strstr(said, "more digits") != NULL, "%s", said);
    cr_expect(eq(int, run(spoke_steward_main, "approve", NULL, NULL, NULL), 2));
    cr_expect(eq(int, run(spoke_steward_main, "approve", "--reason", "a\nb", A), 1));
    cr_expect(strstr(said, "one line") != NULL, "%s", said);
}

Test(spoke_steward, a_file_that_is_no_decision_is_deleted_and_decides_nothing) {
    static const char *const bad[] = {"",
                                      "approve\n",
                                      "approve\nann\n",
                                      "approve\n\nwhy\n",
                                      "approv\nann\nwhy\n",
                                      "approve\nann\nwhy\nmore\n",
                                      "approve\nann\nwhy",
                                      "approve\nann\nw\x1bhy\n"};
    struct spoke_decision d = {0};
    char path[200];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(!spoke_decision_parse(bad[i], strlen(bad[i]), &d), "%s", bad[i]);
        snprintf(path, sizeof path, "%s/steward/" A ".decision", dir);
        FILE *f = fopen(path, "w");
        fputs(bad[i], f);
        fclose(f);
        CHECK(!spoke_steward_next(dir, &d) && access(path, F_OK) != 0, "%s", bad[i]);
    }
    CHECK(spoke_decision_parse("approve\nann\n\n", 13, &d) && d.deed == SPOKE_APPROVE);
}

Test(spoke_steward, the_log_of_accesses_is_read_out_of_the_audit_log_and_checked) {
    struct tier_audit *log = NULL;
    struct tier_hash a, b;
    char path[200];

    tier_hash_parse(A, &a);
    tier_hash_parse(B, &b);
    MUST(tier_audit_open(dir, "north-1", TIER_AUDIT_SYNC_NEVER, 1, &log, err));
    MUST(tier_audit_note(log, 1800000000000, "data.read", err, "h:run", &a, "u:round", (uint64_t)3,
                         "s:use", "quality", "u:train_rows", (uint64_t)41, NULL));
    MUST(tier_audit_note(log, 1800000000000, "receipt", err, "h:run", &a, NULL));
    MUST(tier_audit_note(log, 1800000000000, "data.read", err, "h:run", &b, "u:round", (uint64_t)4,
                         NULL));
    tier_audit_close(log);
    cr_assert(eq(int, run(spoke_access_main, "log", NULL, NULL, NULL), 0), "%s", said);
    cr_expect(strstr(said, "2027-01-15 08:00:00  data.read         aaaaaaaaaaaa") &&
                  strstr(said, "train_rows=41") && strstr(said, "use=\"quality\""),
              "%s", said);
    cr_expect(strstr(said, "bbbbbbbbbbbb") && !strstr(said, "receipt"), "%s", said);
    cr_assert(eq(int, run(spoke_access_main, "log", "--run", "bb", "--json"), 0));
    cr_expect(strstr(said, "\"round\":4") && !strstr(said, "\"round\":3"), "%s", said);

    snprintf(path, sizeof path, "%s/audit/audit.log", dir);
    FILE *f = fopen(path, "r+");
    cr_assert(f && fseek(f, 40, SEEK_SET) == 0 && fputc('#', f) == '#');
    fclose(f);
    cr_expect(eq(int, run(spoke_access_main, "log", NULL, NULL, NULL), 1));
    cr_expect(strstr(said, "line 1") != NULL, "%s", said);
}
