/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tests/support/temp_file.h"
#include "tier/ledger.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUN "00000000000000000000000000000000000000000000000000000000000000a1"
#define OTHER "00000000000000000000000000000000000000000000000000000000000000b2"

static struct tier_err err;
static char dir[1024];

/* The folder of a temporary file. */
static void set_up(void) {
    snprintf(dir, sizeof dir, "%s", temp_file("here", ""));
    *strrchr(dir, '/') = '\0';
}

TestSuite(tier_ledger, .init = set_up, .fini = temp_release);

static struct tier_ledger *open_ledger(void) {
    struct tier_ledger *l = NULL;
    cr_assert(tier_ledger_open(dir, false, &l, &err) == TIER_OK, "%s", err.text);
    return l;
}

static struct tier_ledger_charge charge_of(const char *run, uint64_t round) {
    struct tier_ledger_charge c = {.book = TIER_LEDGER_PATIENT,
                                   .round = round,
                                   .plan = "heart-disease",
                                   .event = {1.25, 0.03125, 50},
                                   .time_ms = 1000 + (int64_t)round};
    snprintf(c.run, sizeof c.run, "%s", run);
    memset(&c.key, (int)round, sizeof c.key);
    return c;
}

static void charge(struct tier_ledger *l, const struct tier_ledger_charge *c) {
    cr_assert(tier_ledger_charge(l, c, &err) == TIER_OK, "%s", err.text);
}

Test(tier_ledger, a_charge_and_its_key_are_there_after_it_was_closed) {
    struct tier_ledger_charge c = charge_of(RUN, 3), found;
    struct tier_ledger *l = open_ledger();
    struct tier_hash hash;
    charge(l, &c);
    tier_ledger_close(l);
    l = open_ledger();
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, RUN, 3, &found, &err) == TIER_OK);
    cr_expect(eq(str, found.plan, "heart-disease"));
    cr_expect(eq(dbl, found.event.noise, 1.25));
    cr_expect(eq(dbl, found.event.rate, 0.03125));
    cr_expect(eq(u64, found.event.count, 50));
    cr_expect(eq(i64, found.time_ms, 1003));
    cr_expect(found.has_key && memcmp(&found.key, &c.key, sizeof c.key) == 0);
    tier_noise_key_hash(&c.key, &hash);
    cr_expect(tier_hash_equal(&found.key_hash, &hash));
    cr_expect(
        eq(int, tier_ledger_get(l, TIER_LEDGER_PATIENT, RUN, 4, &found, &err), TIER_ENOTFOUND));
    cr_expect(eq(int, tier_ledger_get(l, TIER_LEDGER_SITE, RUN, 3, &found, &err), TIER_ENOTFOUND));
    tier_ledger_close(l);
}

Test(tier_ledger, a_round_is_charged_once_and_keeps_its_first_key) {
    struct tier_ledger_charge c = charge_of(RUN, 1), again = c, found;
    struct tier_ledger *l = open_ledger();
    memset(&again.key, 99, sizeof again.key);
    charge(l, &c);
    cr_expect(eq(int, tier_ledger_charge(l, &again, &err), TIER_ECONFLICT));
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, RUN, 1, &found, &err) == TIER_OK);
    cr_expect(memcmp(&found.key, &c.key, sizeof c.key) == 0);
    again.book = TIER_LEDGER_SITE; /* another book */
    charge(l, &again);
    tier_ledger_close(l);
}

Test(tier_ledger, keys_of_rounds_that_are_over_are_forgotten_and_their_hashes_stay) {
    struct tier_ledger_charge c, found;
    struct tier_ledger *l = open_ledger();
    for (uint64_t round = 1; round <= 3; round++) {
        c = charge_of(RUN, round);
        charge(l, &c);
        c = charge_of(OTHER, round);
        charge(l, &c);
    }
    cr_assert(tier_ledger_forget_keys(l, RUN, 3, &err) == TIER_OK);
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, RUN, 2, &found, &err) == TIER_OK);
    cr_expect(not(found.has_key));
    cr_expect(not(tier_hash_is_zero(&found.key_hash)));
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, RUN, 3, &found, &err) == TIER_OK);
    cr_expect(found.has_key);
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, OTHER, 1, &found, &err) == TIER_OK);
    cr_expect(found.has_key);
    cr_assert(tier_ledger_forget_keys(l, OTHER, UINT64_MAX, &err) == TIER_OK);
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, OTHER, 3, &found, &err) == TIER_OK);
    cr_expect(not(found.has_key));
    tier_ledger_close(l);
}

Test(tier_ledger, keys_of_charges_before_a_time_are_forgotten_whatever_their_run) {
    struct tier_ledger_charge c, found;
    struct tier_ledger *l = open_ledger();
    for (uint64_t round = 1; round <= 3; round++) {
        c = charge_of(round == 1 ? RUN : OTHER, round);
        c.time_ms = (int64_t)round * 1000;
        charge(l, &c);
    }
    cr_assert(tier_ledger_forget_before(l, 3000, &err) == TIER_OK);
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, RUN, 1, &found, &err) == TIER_OK);
    cr_expect(not(found.has_key));
    cr_expect(not(tier_hash_is_zero(&found.key_hash)));
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, OTHER, 2, &found, &err) == TIER_OK);
    cr_expect(not(found.has_key));
    cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, OTHER, 3, &found, &err) == TIER_OK);
    cr_expect(found.has_key);
    tier_ledger_close(l);
}

Test(tier_ledger, equal_mechanisms_of_all_runs_are_one_and_books_stay_apart) {
    struct tier_privacy_event *events = NULL;
    struct tier_ledger *l = open_ledger();
    struct tier_ledger_charge c;
    uint64_t rounds = 0;
    size_t count = 0;
    for (uint64_t round = 1; round <= 4; round++) {
        c = charge_of(round < 3 ? RUN : OTHER, round);
        charge(l, &c);
    }
    c = charge_of(OTHER, 9);
    c.event.noise = 2;
    charge(l, &c);
    c.book = TIER_LEDGER_SITE;
    charge(l, &c);
    cr_assert(tier_ledger_events(l, TIER_LEDGER_PATIENT, OTHER, &events, &count, &rounds, &err) ==
              TIER_OK);
    cr_assert(eq(sz, count, 2));
    cr_assert(eq(u64, rounds, 3));
    cr_expect(eq(dbl, events[0].noise, 1.25));
    cr_expect(eq(u64, events[0].count, 200));
    cr_expect(eq(dbl, events[1].noise, 2));
    cr_expect(eq(u64, events[1].count, 50));
    free(events);
    cr_assert(tier_ledger_events(l, TIER_LEDGER_SITE, NULL, &events, &count, NULL, &err) ==
              TIER_OK);
    cr_expect(eq(sz, count, 1));
    free(events);
    tier_ledger_close(l);
}

static enum tier_status see(void *arg, const struct tier_ledger_entry *e, struct tier_err *e2) {
    struct tier_ledger_entry *all = arg;
    (void)e2;
    while (all->rounds)
        all++;
    *all = *e;
    return TIER_OK;
}

Test(tier_ledger, runs_are_told_one_by_one_oldest_first) {
    struct tier_ledger_entry all[4] = {{.rounds = 0}};
    struct tier_ledger *l = open_ledger();
    struct tier_ledger_charge c = charge_of(RUN, 7);
    charge(l, &c);
    c = charge_of(OTHER, 1);
    charge(l, &c);
    c = charge_of(OTHER, 8);
    charge(l, &c);
    cr_assert(tier_ledger_each(l, TIER_LEDGER_PATIENT, see, all, &err) == TIER_OK);
    cr_expect(eq(str, all[0].run, OTHER));
    cr_expect(eq(u64, all[0].rounds, 2));
    cr_expect(eq(u64, all[0].event.count, 100));
    cr_expect(eq(i64, all[0].first_ms, 1001));
    cr_expect(eq(i64, all[0].last_ms, 1008));
    cr_expect(eq(str, all[1].run, RUN));
    cr_expect(eq(u64, all[2].rounds, 0));
    tier_ledger_close(l);
}

Test(tier_ledger, it_may_be_read_while_it_is_open_and_is_not_made_by_reading) {
    struct tier_ledger *l = NULL, *reader = NULL;
    struct tier_ledger_charge c = charge_of(RUN, 1), found;
    struct stat info;
    cr_expect(eq(int, tier_ledger_open(dir, true, &reader, &err), TIER_ENOTFOUND));
    l = open_ledger();
    charge(l, &c);
    cr_assert(tier_ledger_open(dir, true, &reader, &err) == TIER_OK, "%s", err.text);
    cr_expect(tier_ledger_get(reader, TIER_LEDGER_PATIENT, RUN, 1, &found, &err) == TIER_OK);
    c = charge_of(RUN, 2);
    charge(l, &c);
    cr_expect(tier_ledger_get(reader, TIER_LEDGER_PATIENT, RUN, 2, &found, &err) == TIER_OK);
    tier_ledger_close(reader);
    tier_ledger_close(l);
    char path[1100];
    snprintf(path, sizeof path, "%s/ledger.db", dir);
    cr_assert(stat(path, &info) == 0);
    cr_expect(eq(int, (int)(info.st_mode & 0777), 0600)); /* keys are in it */
}

/* ---- claims ---- */

static uint64_t claimed_but(struct tier_ledger *l, const char *run, size_t *kinds) {
    struct tier_privacy_event *events = NULL;
    uint64_t total = 0;
    cr_assert(tier_ledger_events_claimed(l, TIER_LEDGER_PATIENT, run, &events, kinds, NULL, &err) ==
                  TIER_OK,
              "%s", err.text);
    for (size_t i = 0; i < *kinds; i++)
        total += events[i].count;
    free(events);
    return total;
}

static void claim(struct tier_ledger *l, const char *run, uint64_t rounds) {
    const struct tier_privacy_event each = {1.25, 0.03125, 50};
    cr_assert(tier_ledger_claim(l, TIER_LEDGER_PATIENT, run, &each, rounds, &err) == TIER_OK, "%s",
              err.text);
}

Test(tier_ledger, what_a_run_claims_counts_for_others_until_it_is_charged_or_over) {
    struct tier_ledger *l = open_ledger();
    struct tier_ledger_charge c = charge_of(RUN, 1);
    size_t kinds;
    claim(l, RUN, 4);
    cr_expect(eq(u64, claimed_but(l, OTHER, &kinds), 200));
    cr_expect(eq(u64, claimed_but(l, RUN, &kinds), 0)); /* not for itself */
    charge(l, &c);                                      /* one of the four: as much as before */
    cr_expect(eq(u64, claimed_but(l, OTHER, &kinds), 200));
    cr_expect(eq(u64, claimed_but(l, RUN, &kinds), 50));
    cr_expect(tier_ledger_charge(l, &c, &err) == TIER_ECONFLICT); /* and uses up nothing */
    cr_expect(eq(u64, claimed_but(l, OTHER, &kinds), 200));
    claim(l, RUN, 9);
    cr_expect(eq(u64, claimed_but(l, OTHER, &kinds), 500));
    cr_assert(tier_ledger_unclaim(l, RUN, &err) == TIER_OK);
    cr_expect(eq(u64, claimed_but(l, OTHER, &kinds), 50));
    tier_ledger_close(l);
}

Test(tier_ledger, of_two_processes_that_look_before_they_claim_the_second_sees_the_first) {
    enum { EACH = 40 };
    char path[1100];
    snprintf(path, sizeof path, "%s/shared.db", dir);
    for (int process = 0; process < 2; process++)
        if (fork() == 0) {
            struct tier_ledger *l = NULL;
            for (int i = 0; i < EACH; i++) {
                char run[TIER_HASH_HEX];
                size_t kinds;
                snprintf(run, sizeof run, "%064x", process * 1000 + i);
                if (tier_ledger_open_at(dir, path, false, &l, &err) != TIER_OK ||
                    tier_ledger_begin(l, &err) != TIER_OK)
                    _exit(2);
                /* There is room for so many in all, whoever takes them. */
                if (claimed_but(l, run, &kinds) < 50 * EACH)
                    claim(l, run, 1);
                if (tier_ledger_commit(l, &err) != TIER_OK)
                    _exit(3);
                tier_ledger_close(l);
            }
            _exit(0);
        }
    for (int process = 0; process < 2; process++) {
        int status = 0;
        cr_assert(wait(&status) > 0);
        cr_expect(status == 0);
    }
    struct tier_ledger *l = NULL;
    size_t kinds;
    cr_assert(tier_ledger_open_at(dir, path, true, &l, &err) == TIER_OK, "%s", err.text);
    cr_expect(eq(u64, claimed_but(l, OTHER, &kinds), 50 * EACH));
    tier_ledger_close(l);
}

/* Two updates under one noise would tell what they differ by. */
Test(tier_ledger, a_key_is_given_to_the_data_directory_that_it_was_drawn_for) {
    struct tier_ledger_charge c = charge_of(RUN, 3), found;
    struct tier_ledger *l = NULL;
    char path[1100], elsewhere[1100];

    snprintf(path, sizeof path, "%s/shared.db", dir);
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", dir);
    cr_assert(mkdir(elsewhere, 0700) == 0);
    for (int i = 0; i < 3; i++) {
        const char *from = i == 1 ? elsewhere : dir;
        cr_assert(tier_ledger_open_at(from, path, false, &l, &err) == TIER_OK, "%s", err.text);
        if (i == 0)
            charge(l, &c);
        cr_assert(tier_ledger_get(l, TIER_LEDGER_PATIENT, RUN, 3, &found, &err) == TIER_OK);
        cr_expect(found.has_key == (i != 1), "%d", i);
        cr_expect(memcmp(&found.key, &c.key, sizeof c.key) == 0 || i == 1);
        tier_ledger_close(l);
    }
}
