/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A parent's round as it is lived, with messages in any order, children that are lost in any step
 * and a parent that is killed between any two rows of its journal: what is unmasked is the sum of
 * the updates that counted, or nothing is.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "support/mask_round.h"
#include "tier/secure.h"

#define CHILDREN_MAX 9
#define ROWS_MAX 512

struct row {
    struct tier_secure_row r;
    char child[16];
    uint8_t *body;
};

struct message {
    unsigned child;
    bool down;
    enum tier_mask_step step;
    uint8_t *body;
    size_t bytes;
};

/* The ring's own parent is not used. */
static struct ring g;
static struct tier_secure *parent;
static struct row rows[ROWS_MAX];
static size_t row_count;
static struct message queue[ROWS_MAX];
static size_t queued;
static unsigned turns, said;
static bool is_away[RING_CHILDREN_MAX];
static struct tier_err err;

static void keep(void *arg, const struct tier_secure_row *r) {
    struct row *to = &rows[row_count++];
    (void)arg;
    cr_assert(row_count <= ROWS_MAX);
    *to = (struct row){.r = *r, .body = malloc(r->bytes + 1)};
    snprintf(to->child, sizeof to->child, "%s", r->child);
    if (r->bytes)
        memcpy(to->body, r->body, r->bytes);
    to->r.child = to->child;
    to->r.body = to->body;
}

static void post(unsigned child, bool down, enum tier_mask_step step, const uint8_t *body,
                 size_t bytes) {
    cr_assert(queued < ROWS_MAX);
    struct message *m = &queue[queued++];
    *m = (struct message){child, down, step, malloc(bytes + 1), bytes};
    memcpy(m->body, body, bytes);
}

static unsigned number_of(const char *name) {
    return (unsigned)strtoul(name + strlen("child-"), NULL, 10);
}

static bool away(const char *child) {
    return is_away[number_of(child)];
}

static bool say(void *arg, const char *child, enum tier_mask_step step, const uint8_t *body,
                size_t bytes) {
    (void)arg;
    if (away(child))
        return false;
    said++;
    post(number_of(child), true, step, body, bytes);
    return true;
}

static void turn(void *arg) {
    (void)arg;
    turns++;
}

/* NULL: they go by their own names. */
static enum tier_status (*calls)(void *arg, const char *child, const char *called,
                                 struct tier_err *err);

static void begin(void) {
    const struct tier_secure_owner owner = {NULL, keep, say, turn, calls};

    cr_assert(eq(int, tier_secure_new(&g.round, &g.trust, &owner, &parent, &err), TIER_OK));
    for (unsigned i = 0; i < g.count; i++) {
        char attends[24];
        snprintf(attends, sizeof attends, "child-%u", i);
        tier_secure_expect(parent, attends);
    }
}

static void open_with(unsigned count, unsigned cohort, double threshold, uint64_t seed) {
    ring_open(&g, count, cohort, threshold, seed);
    row_count = queued = 0;
    turns = said = 0;
    memset(is_away, 0, sizeof is_away);
    begin();
}

static void forget_messages(void) {
    while (queued > 0)
        free(queue[--queued].body);
}

static void end(void) {
    tier_secure_free(parent);
    parent = NULL;
    forget_messages();
    while (row_count > 0)
        free(rows[--row_count].body);
    ring_close(&g);
}

static void advertise(unsigned child) {
    size_t n;
    const uint8_t *body = tier_mask_child_advert(g.child[child].c, &n);
    post(child, false, TIER_MASK_ADVERT, body, n);
}

/* What came is delivered: a child answers, the parent takes. */
static void deliver(struct message m) {
    struct ring_child *k = &g.child[m.child];
    uint8_t *answer = NULL;
    size_t n = 0;

    if (!m.down) {
        (void)tier_secure_said(parent, k->name, m.step, m.body, m.bytes, &err);
    } else if (!k->gone) {
        cr_assert(eq(int, tier_mask_child_take(k->c, m.step, m.body, m.bytes, &answer, &n, &err),
                     TIER_OK),
                  "%s: %s", tier_mask_step_text(m.step), err.text);
        if (answer)
            post(m.child, false, m.step + 1, answer, n);
        free(answer);
    }
    free(m.body);
}

/* All that is on its way, in an order of the seed's. `percent` of the children are lost with what
 * they were to hear or to say, half of them saying so. */
static void run_messages(unsigned percent) {
    while (queued > 0) {
        unsigned i = ring_random(&g) % (unsigned)queued;
        struct message m = queue[i];
        queue[i] = queue[--queued];
        struct ring_child *k = &g.child[m.child];
        if (!k->gone && ring_chance(&g, percent)) {
            k->gone = true;
            if (ring_chance(&g, 50))
                tier_secure_leave(parent, k->name);
        }
        if (k->gone)
            free(m.body);
        else
            deliver(m);
    }
}

/* The masked updates of those who were told to go on and are there still. */
static void push_updates(unsigned percent) {
    const char *names[CHILDREN_MAX];
    size_t n = 0;

    for (unsigned i = 0; i < g.count; i++) {
        struct ring_child *k = &g.child[i];
        if (k->came && tier_secure_takes(parent, k->name)) {
            names[n++] = k->name;
            continue;
        }
        if (k->gone || (k->gone = ring_chance(&g, percent)) ||
            !tier_secure_takes(parent, k->name) || !tier_mask_child_ready(k->c))
            continue;
        ring_mask(k);
        k->came = true;
        names[n++] = k->name;
    }
    if (n > 0) /* a round is not closed by nothing */
        tier_secure_unmask(parent, names, n);
}

/* A kill, and a parent made of the first `kept` rows. */
static void restart(size_t kept) {
    tier_secure_free(parent);
    forget_messages();
    begin();
    while (row_count > kept)
        free(rows[--row_count].body);
    for (size_t i = 0; i < kept; i++)
        cr_assert(eq(int, tier_secure_restore(parent, &rows[i].r, &err), TIER_OK), "row %zu: %s", i,
                  err.text);
    tier_secure_resume(parent);
    for (unsigned i = 0; i < g.count; i++) {
        if (g.child[i].gone)
            continue;
        advertise(i);
        tier_secure_joined(parent, g.child[i].name);
    }
}

static enum tier_secure_state live(unsigned percent, bool kills) {
    bool timed;

    for (unsigned i = 0; i < g.count; i++)
        advertise(i);
    for (unsigned i = 0; i < 64; i++) {
        run_messages(percent);
        enum tier_mask_step step = tier_secure_step(parent, &timed);
        if (step == 0)
            break;
        if (kills && ring_chance(&g, 30))
            restart(row_count);
        else if (step == TIER_MASK_DELIVER)
            push_updates(percent);
        else
            tier_secure_time_up(parent);
        unsigned here = 0;
        for (unsigned k = 0; k < g.count; k++)
            here += !g.child[k].gone;
        if (here < g.round.cohort_min && step <= TIER_MASK_DELIVER)
            break; /* nobody is left to come */
    }
    return tier_secure_state(parent, &err);
}

/* Of those that counted. */
static void check_sum(void) {
    uint64_t masked[RING_VALUES] = {0}, visible[RING_VALUES] = {0};
    unsigned n = 0;
    size_t count;

    for (unsigned i = 0; i < g.count; i++) {
        if (!tier_secure_came(parent, g.child[i].name))
            continue;
        n++;
        for (unsigned v = 0; v < RING_VALUES; v++) {
            masked[v] += g.child[i].masked[v];
            visible[v] += g.child[i].values[v];
        }
    }
    const struct tier_mask_term *terms = tier_secure_terms(parent, &count);
    ring_apply(terms, count, masked);
    cr_assert(n >= g.round.cohort_min);
    cr_assert(memcmp(masked, visible, sizeof masked) == 0, "round %llu: %u of %u, %zu terms",
              (unsigned long long)g.round.round, n, g.count, count);
}

Test(tier_secure, what_is_unmasked_is_the_sum_of_those_that_counted_or_nothing_is) {
    unsigned known = 0, lost = 0, fewer = 0;

    for (uint64_t seed = 1; seed <= 240; seed++) {
        unsigned count = 2 + (unsigned)(seed * 7 % (CHILDREN_MAX - 1));
        unsigned cohort = 2 + (unsigned)(seed % 3);
        unsigned percent = (unsigned)(seed % 9) * 2;
        size_t terms;
        open_with(count, cohort, seed % 2 ? 0.51 : 0.67, seed);
        enum tier_secure_state state = live(percent, seed % 3 == 0);
        if (state == TIER_SECURE_KNOWN) {
            check_sum();
            known++;
            for (unsigned i = 0; i < count; i++)
                fewer += !tier_secure_came(parent, g.child[i].name);
        } else {
            cr_assert(tier_secure_terms(parent, &terms) == NULL && terms == 0);
            lost += state == TIER_SECURE_LOST;
        }
        end();
    }
    cr_expect(known > 50, "%u known", known);
    cr_expect(lost > 25, "%u lost", lost);
    cr_expect(fewer > 10, "%u dropped out of a known sum", fewer);
}

Test(tier_secure, a_parent_made_of_any_part_of_its_rows_comes_to_the_same_sum) {
    open_with(5, 2, 0.67, 99);
    cr_assert(eq(int, live(0, false), TIER_SECURE_KNOWN), "%s", err.text);
    size_t all = row_count;
    struct row whole[ROWS_MAX];
    memcpy(whole, rows, all * sizeof *rows);
    for (size_t i = 0; i < all; i++)
        whole[i].r.child = whole[i].child;
    cr_assert(all == 5 * 4 + 5); /* four bodies of each, and five steps that were closed */
    for (size_t kept = 0; kept < all; kept++) {
        row_count = 0;
        for (size_t i = 0; i < kept; i++)
            keep(NULL, &whole[i].r);
        restart(kept);
        cr_assert(eq(int, live(0, false), TIER_SECURE_KNOWN), "of %zu rows: %s", kept, err.text);
        check_sum();
        while (row_count > 0)
            free(rows[--row_count].body);
    }
    for (size_t i = 0; i < all; i++)
        free(whole[i].body);
    end();
}

Test(tier_secure, advertisements_are_waited_for_until_there_are_enough) {
    bool timed;

    open_with(3, 3, 0.67, 5);
    advertise(0);
    advertise(1);
    run_messages(0);
    tier_secure_time_up(parent);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_ADVERT));
    cr_assert(eq(int, tier_secure_state(parent, NULL), TIER_SECURE_GOES_ON));
    cr_assert(eq(u32, said, 0)); /* nobody was told of anybody */
    advertise(2);
    run_messages(0);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_DELIVER));
    end();
}

/* A round that closes with fewer would be lost, though they are a cohort. */
Test(tier_secure, the_fewest_that_can_be_unmasked_are_known_when_updates_are_awaited) {
    bool timed;

    open_with(9, 2, 0.67, 7);
    cr_assert(eq(u32, tier_secure_least(parent), 2));
    for (unsigned i = 0; i < 9; i++)
        advertise(i);
    run_messages(0);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_DELIVER));
    cr_assert(eq(u32, tier_secure_least(parent), tier_mask_threshold(0.67, 9)));
    cr_assert(eq(u32, tier_secure_least(parent), 7));
    end();
}

/* 50 children: the first answer, the others hear of the list when one of those has. */
Test(tier_secure, lists_are_said_to_some_at_a_time_and_those_who_are_away_hold_nobody_up) {
    bool timed;

    open_with(50, 2, 0.67, 12);
    for (unsigned i = 0; i < 40; i++) {
        size_t n;
        const uint8_t *body = tier_mask_child_advert(g.child[i].c, &n);
        cr_assert(eq(int,
                     tier_secure_said(parent, g.child[i].name, TIER_MASK_ADVERT, body, n, &err),
                     TIER_OK));
    }
    for (unsigned i = 0; i < 5; i++)
        is_away[i] = true;
    tier_secure_time_up(parent);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_SHARES));
    cr_assert(eq(u32, said, 32)); /* of the 35 that are there */
    struct message m = queue[--queued];
    deliver(m); /* one answers, */
    m = queue[--queued];
    deliver(m); /* which is heard, and the next is told */
    cr_assert(eq(u32, said, 33));
    /* The others do not answer: when the time is up all are told, and have it once more. */
    tier_secure_time_up(parent);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_SHARES));
    cr_assert(eq(u32, said, 35));
    is_away[0] = false;
    tier_secure_joined(parent, g.child[0].name);
    cr_assert(eq(u32, said, 36));
    run_messages(0);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_SHARES));
    tier_secure_time_up(parent);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_DELIVER));
    cr_assert(tier_secure_has(parent, g.child[0].name));
    cr_assert(not(tier_secure_has(parent, g.child[1].name)));
    end();
}

Test(tier_secure, a_child_that_has_left_is_not_waited_for_and_is_heard_no_more) {
    bool timed;

    open_with(4, 2, 0.67, 6);
    for (unsigned i = 0; i < 3; i++)
        advertise(i);
    run_messages(0);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_ADVERT));
    tier_secure_leave(parent, g.child[3].name);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_SHARES));
    size_t n;
    const uint8_t *body = tier_mask_child_advert(g.child[3].c, &n);
    cr_assert(eq(int, tier_secure_said(parent, g.child[3].name, TIER_MASK_ADVERT, body, n, &err),
                 TIER_EPOLICY));
    cr_assert(not(tier_secure_has(parent, g.child[3].name)));
    run_messages(0);
    push_updates(0);
    run_messages(0);
    cr_assert(eq(int, tier_secure_state(parent, &err), TIER_SECURE_KNOWN), "%s", err.text);
    check_sum();
    end();
}

Test(tier_secure, whoever_is_not_expected_is_refused_and_a_late_one_is_told_so) {
    size_t n;
    bool timed;

    open_with(3, 2, 0.67, 7);
    const uint8_t *body = tier_mask_child_advert(g.child[0].c, &n);
    cr_assert(eq(int, tier_secure_said(parent, "child-77", TIER_MASK_ADVERT, body, n, &err),
                 TIER_EPOLICY));
    advertise(0);
    advertise(1);
    run_messages(0);
    tier_secure_time_up(parent);
    cr_assert(eq(int, tier_secure_step(parent, &timed), TIER_MASK_SHARES));
    body = tier_mask_child_advert(g.child[2].c, &n);
    cr_assert(eq(int, tier_secure_said(parent, g.child[2].name, TIER_MASK_ADVERT, body, n, &err),
                 TIER_ELATE));
    cr_assert(not(tier_secure_has(parent, g.child[2].name)));
    cr_assert(tier_secure_has(parent, g.child[1].name));
    end();
}

Test(tier_secure, what_is_said_again_is_neither_kept_nor_counted_again) {
    size_t n;

    open_with(3, 2, 0.67, 8);
    const uint8_t *body = tier_mask_child_advert(g.child[0].c, &n);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(eq(int,
                     tier_secure_said(parent, g.child[0].name, TIER_MASK_ADVERT, body, n, &err),
                     TIER_OK));
        cr_assert(eq(sz, row_count, 1));
        cr_assert(tier_secure_heard(parent, g.child[0].name, TIER_MASK_ADVERT));
    }
    cr_assert(not(tier_secure_heard(parent, g.child[1].name, TIER_MASK_ADVERT)));
    end();
}

Test(tier_secure, a_round_in_which_no_update_is_masked_has_nothing_to_take_off) {
    size_t count = 7;

    open_with(3, 2, 0.67, 9);
    tier_secure_unmask(parent, NULL, 0);
    cr_assert(eq(int, tier_secure_state(parent, NULL), TIER_SECURE_KNOWN));
    cr_assert(turns > 0);
    (void)tier_secure_terms(parent, &count);
    cr_assert(eq(sz, count, 0));
    end();
}

Test(tier_secure, an_update_is_taken_of_those_who_have_shared_and_after_that_of_those_that_count) {
    open_with(4, 2, 0.51, 10);
    for (unsigned i = 0; i < 3; i++)
        advertise(i);
    cr_assert(not(tier_secure_takes(parent, g.child[0].name)));
    run_messages(0);
    tier_secure_time_up(parent);
    run_messages(0);
    cr_assert(tier_secure_takes(parent, g.child[0].name));
    cr_assert(not(tier_secure_takes(parent, g.child[3].name)));
    g.child[2].gone = true; /* its update does not come */
    push_updates(0);
    cr_assert(tier_secure_takes(parent, g.child[0].name)); /* it may be lost here */
    cr_assert(not(tier_secure_takes(parent, g.child[2].name)));
    run_messages(0);
    cr_assert(eq(int, tier_secure_state(parent, &err), TIER_SECURE_KNOWN), "%s", err.text);
    check_sum();
    end();
}

Test(tier_secure, rows_that_are_not_of_one_round_are_refused) {
    const struct tier_secure_row closed = {.step = TIER_MASK_SHARES, .child = ""};
    const struct tier_secure_row cut = {TIER_MASK_DELIVER, "", (const uint8_t *)"child-0", 7};

    open_with(3, 2, 0.67, 11);
    cr_assert(eq(int, tier_secure_restore(parent, &closed, &err), TIER_ECORRUPT));
    cr_assert(eq(int, tier_secure_restore(parent, &cut, &err), TIER_ECORRUPT));
    for (unsigned i = 0; i < 3; i++)
        advertise(i);
    run_messages(0);
    cr_assert(eq(int, tier_secure_restore(parent, &cut, &err), TIER_ECORRUPT));
    end();
}

/* ---- under pseudonyms ---- */

/* Who may be called what, by the owner; "": anybody may be anything. */
static char owns[RING_CHILDREN_MAX][24];

static enum tier_status by_list(void *arg, const char *child, const char *called,
                                struct tier_err *e) {
    const char *own = owns[number_of(child)];

    (void)arg;
    return !*own || strcmp(own, called) == 0
               ? TIER_OK
               : tier_fail(e, TIER_EIDENTITY, "%s is not called %s", child, called);
}

/* The children attend as child-N; in the sum child-N is called p-(N * 7). */
static void call(unsigned child, unsigned name) {
    struct ring_child *k = &g.child[child];
    char called[TIER_NAME_LEN_MAX + 1];

    snprintf(called, sizeof called, "p-%u", name);
    tier_mask_child_free(k->c);
    k->trust.arg = memcpy(k->name, called, sizeof k->name);
    cr_assert(eq(int, tier_mask_child_new(&g.round, k->name, &k->trust, &k->c, &err), TIER_OK));
}

static enum tier_status advertise_as(unsigned child, unsigned name) {
    char attends[24];
    size_t n;
    const uint8_t *body = tier_mask_child_advert(g.child[name].c, &n);

    snprintf(attends, sizeof attends, "child-%u", child);
    return tier_secure_said(parent, attends, TIER_MASK_ADVERT, body, n, &err);
}

static void open_called(unsigned count) {
    calls = by_list;
    memset(owns, 0, sizeof owns);
    open_with(count, 2, 0.51, 3);
    for (unsigned i = 0; i < count; i++)
        call(i, i * 7);
}

static void end_called(void) {
    end();
    calls = NULL;
}

/* What is said to children, and to whom, is read back from the messages. */
static void answer_all(unsigned count) {
    while (queued > 0) {
        struct message m = queue[--queued];
        struct ring_child *k = &g.child[m.child];
        uint8_t *answer = NULL;
        size_t n;
        for (unsigned i = 0; i < count; i++) {
            char real[24];
            snprintf(real, sizeof real, "child-%u", i);
            cr_expect(memmem(m.body, m.bytes, real, strlen(real)) == NULL, "step '%s' names %s",
                      tier_mask_step_text(m.step), real);
        }
        cr_assert(eq(int, tier_mask_child_take(k->c, m.step, m.body, m.bytes, &answer, &n, &err),
                     TIER_OK),
                  "%s", err.text);
        free(m.body);
        if (!answer)
            continue;
        char attends[24];
        snprintf(attends, sizeof attends, "child-%u", m.child);
        cr_assert(eq(int, tier_secure_said(parent, attends, m.step + 1, answer, n, &err), TIER_OK),
                  "%s", err.text);
        free(answer);
    }
}

Test(tier_secure, children_that_attend_by_name_sum_under_pseudonyms_and_nothing_names_them) {
    const char *names[] = {"child-0", "child-1", "child-2", "child-4"};
    uint64_t masked[RING_VALUES] = {0}, visible[RING_VALUES] = {0};
    size_t count;

    open_called(5);
    for (unsigned i = 0; i < 5; i++)
        cr_assert(eq(int, advertise_as(i, i), TIER_OK), "%s", err.text);
    cr_assert(eq(str, (char *)tier_secure_called(parent, "child-3"), "p-21"));
    answer_all(5);
    for (unsigned i = 0; i < 5; i++)
        if (i != 3) {
            ring_mask(&g.child[i]);
            g.child[i].came = true;
        }
    /* A parent that is put together again knows who is called what. */
    tier_secure_free(parent);
    begin();
    for (size_t i = 0; i < row_count; i++)
        cr_assert(eq(int, tier_secure_restore(parent, &rows[i].r, &err), TIER_OK), "%s", err.text);
    tier_secure_resume(parent);
    tier_secure_unmask(parent, names, 4);
    answer_all(5);
    cr_assert(eq(int, tier_secure_state(parent, &err), TIER_SECURE_KNOWN), "%s", err.text);
    cr_assert(tier_secure_came(parent, "child-4") && !tier_secure_came(parent, "child-3"));
    ring_sums(&g, masked, visible);
    const struct tier_mask_term *terms = tier_secure_terms(parent, &count);
    ring_apply(terms, count, masked);
    cr_assert(memcmp(masked, visible, sizeof masked) == 0);
    end_called();
}

Test(tier_secure, two_names_for_one_child_and_two_children_of_one_name_are_refused) {
    uint8_t none[] = {3, 'a', '/', 'b'};

    open_called(4);
    cr_assert(eq(int, advertise_as(0, 0), TIER_OK), "%s", err.text);
    cr_assert(eq(int, advertise_as(0, 0), TIER_OK)); /* said again */
    cr_assert(eq(int, advertise_as(0, 1), TIER_EIDENTITY));
    cr_assert(strstr(err.text, "is called 'p-0' in this round") != NULL, "%s", err.text);
    cr_assert(eq(int, advertise_as(1, 0), TIER_EIDENTITY));
    cr_assert(strstr(err.text, "which another child is called") != NULL, "%s", err.text);
    cr_assert(
        eq(int, tier_secure_said(parent, "child-1", TIER_MASK_ADVERT, none, 4, &err), TIER_EPROTO));
    /* Whoever was refused is not called anything by it, and may come as itself. */
    cr_assert(eq(str, (char *)tier_secure_called(parent, "child-1"), ""));
    cr_assert(eq(int, advertise_as(1, 1), TIER_OK), "%s", err.text);
    end_called();
}

Test(tier_secure,
     a_pseudonym_that_the_owner_knows_as_anothers_is_refused_and_leaves_it_to_its_own) {
    open_called(4);
    snprintf(owns[0], sizeof owns[0], "p-0");
    snprintf(owns[1], sizeof owns[1], "p-7");
    cr_assert(eq(int, advertise_as(0, 1), TIER_EIDENTITY));
    cr_assert(strstr(err.text, "child-0 is not called p-7") != NULL, "%s", err.text);
    cr_assert(eq(int, advertise_as(0, 0), TIER_OK), "%s", err.text);
    cr_assert(eq(int, advertise_as(1, 1), TIER_OK), "%s", err.text);
    end_called();
}

Test(tier_secure, a_name_without_its_holders_signature_is_taken_from_nobody) {
    uint8_t copy[TIER_MASK_ADVERT_BYTES_MAX];
    size_t n;

    open_called(4);
    const uint8_t *body = tier_mask_child_advert(g.child[2].c, &n);
    memcpy(copy, body, n);
    copy[n - 1] ^= 1; /* of the signature */
    cr_assert(eq(int, tier_secure_said(parent, "child-0", TIER_MASK_ADVERT, copy, n, &err),
                 TIER_EIDENTITY));
    cr_assert(eq(int, advertise_as(2, 2), TIER_OK), "%s", err.text); /* it is its holder's still */
    end_called();
}
