/* SPDX-License-Identifier: Apache-2.0 */
/* Secure sums: masks, and whole rounds of them with children lost at every step. */
#include "support/mask_round.h"
#include "tier/mask_private.h"

/* ---- masks ---- */

/* FIPS 197's cipher on a block of zeros with a key of zeros. */
Test(tier_mask, a_mask_is_what_aes_256_makes_of_counters) {
    static const uint8_t first[16] = {0xdc, 0x95, 0xc0, 0x78, 0xa2, 0x40, 0x89, 0x89,
                                      0xad, 0x48, 0xa2, 0x14, 0x92, 0x84, 0x20, 0x87};
    struct tier_mask_pad *pad = tier_mask_pad_new();
    struct tier_mask_term term = {0};
    uint64_t v[2] = {0};

    cr_assert_eq(tier_mask_apply(pad, &term, 0, v, 2, NULL), TIER_OK);
    cr_assert_eq(v[0], tier_get_u64(first));
    cr_assert_eq(v[1], tier_get_u64(first + 8));
    tier_mask_pad_free(pad);
}

Test(tier_mask, a_mask_in_pieces_is_the_mask) {
    enum { N = 9001 };
    struct tier_mask_term term = {.key = {1, 2, 3}}, back = {.key = {1, 2, 3}, .minus = true};
    struct tier_mask_pad *pad = tier_mask_pad_new();
    struct ring g = {.state = 5};
    static uint64_t whole[N], pieces[N];

    cr_assert_eq(tier_mask_apply(pad, &term, 0, whole, N, NULL), TIER_OK);
    for (size_t at = 0, n; at < N; at += n) {
        n = 1 + ring_random(&g) % 3000;
        n = n < N - at ? n : N - at;
        cr_assert_eq(tier_mask_apply(pad, &term, at, pieces + at, n, NULL), TIER_OK);
    }
    cr_assert_eq(memcmp(whole, pieces, sizeof whole), 0);
    cr_assert_eq(tier_mask_apply(pad, &back, 0, whole, N, NULL), TIER_OK);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(whole[i], 0);
    tier_mask_pad_free(pad);
}

Test(tier_mask, counters_beyond_32_bits_are_others) {
    struct tier_mask_pad *pad = tier_mask_pad_new();
    struct tier_mask_term term = {.key = {9}};
    uint64_t low[2] = {0}, high[2] = {0};

    cr_assert_eq(tier_mask_apply(pad, &term, 0, low, 2, NULL), TIER_OK);
    cr_assert_eq(tier_mask_apply(pad, &term, UINT64_C(1) << 35, high, 2, NULL), TIER_OK);
    cr_assert_neq(low[0], high[0]);
    tier_mask_pad_free(pad);
}

Test(tier_mask, two_children_agree_on_a_mask_and_on_another_in_another_list) {
    struct mask_secret a, b;
    uint8_t pub_a[32], pub_b[32], one[32], two[32];
    struct tier_hash list = {{1}}, other = {{2}}, first = {{3}}, second = {{4}};

    cr_assert_eq(mask_key_make(&a, pub_a, NULL), TIER_OK);
    cr_assert_eq(mask_key_make(&b, pub_b, NULL), TIER_OK);
    cr_assert_eq(mask_pair_key(&a, pub_b, &list, &first, &second, one, NULL), TIER_OK);
    cr_assert_eq(mask_pair_key(&b, pub_a, &list, &first, &second, two, NULL), TIER_OK);
    cr_assert_eq(memcmp(one, two, sizeof one), 0);
    cr_assert_eq(mask_pair_key(&b, pub_a, &other, &first, &second, two, NULL), TIER_OK);
    cr_assert_neq(memcmp(one, two, sizeof one), 0);
    cr_assert_eq(mask_pair_key(&b, pub_a, &list, &second, &first, two, NULL), TIER_OK);
    cr_assert_neq(memcmp(one, two, sizeof one), 0);
}

Test(tier_mask, a_public_key_that_gives_zero_is_refused) {
    struct mask_secret a;
    uint8_t pub[32], key[32], zero[32] = {0};
    struct tier_hash list = {{1}}, first = {{3}}, second = {{4}};
    struct tier_err err;

    cr_assert_eq(mask_key_make(&a, pub, NULL), TIER_OK);
    cr_assert_eq(mask_pair_key(&a, zero, &list, &first, &second, key, &err), TIER_EPROTO);
    cr_assert(strstr(err.text, "X25519"));
}

Test(tier_mask, shares_open_for_whom_they_were_sealed_and_for_nobody_else) {
    struct mask_secret a, b, c;
    uint8_t pub_a[32], pub_b[32], pub_c[32], sealed[SEALED_BYTES];
    struct mask_shares in = {.own = {5}, .key = {6}}, out;
    struct tier_hash list = {{1}}, other = {{2}}, from = {{3}}, to = {{4}};

    cr_assert_eq(mask_key_make(&a, pub_a, NULL), TIER_OK);
    cr_assert_eq(mask_key_make(&b, pub_b, NULL), TIER_OK);
    cr_assert_eq(mask_key_make(&c, pub_c, NULL), TIER_OK);
    cr_assert_eq(mask_seal(&a, pub_b, &list, &from, &to, &in, sealed, NULL), TIER_OK);
    cr_assert_eq(mask_unseal(&b, pub_a, &list, &from, &to, sealed, &out, NULL), TIER_OK);
    cr_assert_eq(memcmp(&in, &out, sizeof in), 0);
    cr_assert_eq(mask_unseal(&c, pub_a, &list, &from, &to, sealed, &out, NULL), TIER_EPROTO);
    cr_assert_eq(mask_unseal(&b, pub_a, &other, &from, &to, sealed, &out, NULL), TIER_EPROTO);
    cr_assert_eq(mask_unseal(&b, pub_a, &list, &to, &from, sealed, &out, NULL), TIER_EPROTO);
    sealed[70] ^= 1;
    cr_assert_eq(mask_unseal(&b, pub_a, &list, &from, &to, sealed, &out, NULL), TIER_EPROTO);
}

Test(tier_mask, a_threshold_is_more_than_half_and_no_more_than_all) {
    cr_assert_eq(tier_mask_threshold(0.66, 3), 2);
    cr_assert_eq(tier_mask_threshold(0.66, 100), 66);
    cr_assert_eq(tier_mask_threshold(0.51, 2), 2);
    cr_assert_eq(tier_mask_threshold(0.51, 4), 3);
    cr_assert_eq(tier_mask_threshold(1, 7), 7);
    cr_assert_eq(tier_mask_threshold(0.51, 1), 1);
}

Test(tier_mask, a_mask_of_32_bit_words_is_the_same_bytes) {
    const struct tier_mask_term term = {.key = {3}}, back = {.key = {3}, .minus = true};
    struct tier_mask_pad *pad = tier_mask_pad_new();
    enum { WORDS = 9001 };
    static uint64_t wide[WORDS];
    static uint32_t whole[2 * WORDS], pieces[2 * WORDS];
    struct tier_err err;

    cr_assert_eq(tier_mask_apply(pad, &term, 0, wide, WORDS, &err), TIER_OK);
    cr_assert_eq(tier_mask_apply32(pad, &term, 0, whole, 2 * WORDS, &err), TIER_OK);
    cr_assert_eq(memcmp(wide, whole, sizeof whole), 0);
    for (size_t at = 0, n = 1; at < 2 * WORDS; at += n, n = n * 3 % 4099) {
        n = n < 2 * WORDS - at ? n : 2 * WORDS - at;
        cr_assert_eq(tier_mask_apply32(pad, &term, at, pieces + at, n, &err), TIER_OK);
    }
    cr_assert_eq(memcmp(whole, pieces, sizeof whole), 0);
    cr_assert_eq(tier_mask_apply32(pad, &back, 0, whole, 2 * WORDS, &err), TIER_OK);
    for (size_t i = 0; i < 2 * WORDS; i++)
        cr_assert_eq(whole[i], 0);
    tier_mask_pad_free(pad);
}

/* ---- neighbours ---- */

static void graph_of(uint32_t count, struct mask_graph *g) {
    struct tier_hash *digests = calloc(count, sizeof *digests), list = {{(uint8_t)count}};

    for (uint32_t i = 0; i < count; i++)
        tier_put_u32(digests[i].b, i * 2654435761u);
    cr_assert_eq(mask_graph_init(g, &list, digests, count, NULL), TIER_OK);
    free(digests);
}

Test(tier_mask, up_to_one_child_more_than_neighbours_everyone_is_everyones) {
    uint32_t holders[TIER_MASK_HOLDERS_MAX];
    struct mask_graph g;

    for (uint32_t count = 1; count <= TIER_MASK_HOLDERS_MAX; count += 25) {
        graph_of(count, &g);
        for (uint32_t i = 0; i < count; i++)
            cr_assert_eq(mask_holders(&g, i, holders), count);
        mask_graph_release(&g);
    }
}

Test(tier_mask, above_that_each_has_as_many_neighbours_and_is_theirs) {
    static uint32_t all[400][TIER_MASK_HOLDERS_MAX];
    static const uint32_t counts[] = {102, 103, 400};
    struct mask_graph g;

    for (size_t k = 0; k < 3; k++) {
        graph_of(counts[k], &g);
        for (uint32_t i = 0; i < counts[k]; i++) {
            cr_assert_eq(mask_holders(&g, i, all[i]), TIER_MASK_HOLDERS_MAX);
            for (unsigned h = 1; h < TIER_MASK_HOLDERS_MAX; h++)
                cr_assert_lt(all[i][h - 1], all[i][h]);
        }
        for (uint32_t i = 0; i < counts[k]; i++)
            for (unsigned h = 0; h < TIER_MASK_HOLDERS_MAX; h++) {
                bool back = false;
                for (unsigned b = 0; b < TIER_MASK_HOLDERS_MAX; b++)
                    back = back || all[all[i][h]][b] == i;
                cr_assert(back, "%u of %u", i, counts[k]);
            }
        mask_graph_release(&g);
    }
}

/* ---- rounds ---- */

/* Runs a round; whether it was unmasked. */
static bool whole_round(struct ring *g, const unsigned percent[5], enum tier_mask_step *ended_out) {
    struct tier_err err = {0};

    for (int step = 0; step < 5; step++) {
        *ended_out = tier_mask_parent_open(g->p);
        ring_step(g, percent[step]);
        enum tier_status st = tier_mask_parent_close(g->p, &err);
        if (st == TIER_OK)
            continue;
        cr_assert_eq(st, TIER_ELIMIT, "%s", err.text);
        return false;
    }
    return true;
}

static unsigned remaining(const struct ring *g) {
    unsigned n = 0;

    for (unsigned i = 0; i < g->count; i++)
        n += !g->child[i].gone;
    return n;
}

static void check_sum(const struct ring *g, uint64_t seed) {
    uint64_t masked[RING_VALUES], visible[RING_VALUES];
    size_t count;
    const struct tier_mask_term *terms = tier_mask_parent_terms(g->p, &count);

    ring_sums(g, masked, visible);
    cr_assert_neq(memcmp(masked, visible, sizeof masked), 0);
    ring_apply(terms, count, masked);
    cr_assert_eq(memcmp(masked, visible, sizeof masked), 0, "seed %d", (int)seed);
}

/* Of a round that was given up nothing is to be had: no terms, no bodies, and of a list that was
 * never closed nobody has revealed a share. */
static void check_nothing(const struct ring *g) {
    enum tier_mask_step step;
    uint8_t *body;
    size_t n;

    cr_assert_null(tier_mask_parent_terms(g->p, &n));
    cr_assert_eq(n, 0);
    cr_assert_eq(tier_mask_parent_open(g->p), 0);
    for (unsigned i = 0; i < g->count; i++)
        cr_assert_eq(tier_mask_parent_say(g->p, g->child[i].name, &step, &body, &n, NULL),
                     TIER_ENOTFOUND);
}

/* 2000 rounds of 2 to 7 children, of which 0 to 40 % are lost at each step. Everyone is everyone's
 * neighbour here, so a round ends exactly when fewer remain than the threshold. */
Test(tier_mask, a_round_gives_the_visible_sum_or_nothing_whoever_is_lost_wherever) {
    static struct ring g;
    unsigned unmasked = 0, given_up[TIER_MASK_STEPS + 1] = {0};

    for (uint64_t seed = 0; seed < 2000; seed++) {
        static const double thresholds[] = {0.51, 0.66, 0.9};
        unsigned percent[5], count = 2 + (unsigned)(seed % 6), cohort = 2 + (unsigned)(seed % 2);
        enum tier_mask_step ended = 0;
        ring_open(&g, count, cohort, thresholds[seed % 3], seed);
        for (int step = 0; step < 5; step++)
            percent[step] = ring_chance(&g, 50) ? 0 : ring_random(&g) % 41;
        bool done = whole_round(&g, percent, &ended);
        if (done) {
            unmasked++;
            check_sum(&g, seed);
        } else {
            given_up[ended]++;
            check_nothing(&g);
        }
        cr_assert_eq(tier_mask_parent_open(g.p), 0);
        if (!done && ended == TIER_MASK_REVEAL)
            cr_assert_lt(remaining(&g), count);
        ring_close(&g);
    }
    cr_assert_gt(unmasked, 400);
    cr_assert_gt(given_up[TIER_MASK_ADVERT], 20);
    cr_assert_gt(given_up[TIER_MASK_SHARES], 20);
    cr_assert_gt(given_up[TIER_MASK_DELIVER], 20);
    cr_assert_gt(given_up[TIER_MASK_SIGNED], 20);
    cr_assert_gt(given_up[TIER_MASK_REVEAL], 20);
}

/* As many as may be lost after masking are lost: the sum is had still; with one more it is not. */
Test(tier_mask, a_round_goes_on_at_the_threshold_and_ends_below_it) {
    static struct ring g;

    for (unsigned lost = 0; lost <= 4; lost++)
        for (int at = 2; at < 5; at++) {
            enum tier_mask_step ended = 0;
            static const unsigned none[5] = {0};
            ring_open(&g, 9, 3, 0.6, 77 + lost); /* 6 of 9 */
            for (int step = 0; step < at; step++) {
                ring_step(&g, 0);
                cr_assert_eq(tier_mask_parent_close(g.p, NULL), TIER_OK);
            }
            for (unsigned i = 0; i < lost; i++)
                g.child[i].gone = true;
            bool done = true;
            for (int step = at; step < 5 && done; step++) {
                ended = tier_mask_parent_open(g.p);
                ring_step(&g, none[step]);
                done = tier_mask_parent_close(g.p, NULL) == TIER_OK;
            }
            cr_assert_eq(done, lost <= 3, "%u lost at %d: %s", lost, at,
                         tier_mask_step_text(ended));
            if (done)
                check_sum(&g, lost);
            ring_close(&g);
        }
}

/* With more children than neighbours, some of whom are lost after they have masked. */
Test(tier_mask, a_round_of_many_children_has_neighbours_and_the_same_sum) {
    static struct ring g;
    const unsigned percent[5] = {2, 2, 5, 3, 3};
    enum tier_mask_step ended = 0;
    uint8_t *body = NULL;
    size_t n;

    ring_open(&g, 150, 20, 0.6, 5);
    cr_assert(whole_round(&g, percent, &ended), "%s", tier_mask_step_text(ended));
    check_sum(&g, 5);
    free(body);
    ring_close(&g);

    ring_open(&g, 150, 20, 0.6, 6);
    ring_step(&g, 0);
    cr_assert_eq(tier_mask_parent_close(g.p, NULL), TIER_OK);
    cr_assert_eq(tier_mask_parent_say(g.p, g.child[0].name, &ended, &body, &n, NULL), TIER_OK);
    cr_assert_gt(n, 150 * TIER_HASH_BYTES);
    cr_assert_lt(n, 150 * TIER_HASH_BYTES + TIER_MASK_NEIGHBOURS * 256);
    free(body);
    ring_close(&g);
}

Test(tier_mask, too_few_children_begin_no_round) {
    static struct ring g;
    struct tier_err err;

    ring_open(&g, 2, 3, 0.6, 1);
    ring_step(&g, 0);
    cr_assert_eq(tier_mask_parent_close(g.p, &err), TIER_ELIMIT);
    cr_assert(strstr(err.text, "2 children take part; at least 3"), "%s", err.text);
    ring_close(&g);
}

Test(tier_mask, thresholds_and_cohorts_that_protect_nobody_are_refused) {
    static const struct tier_mask_round bad[] = {{.cohort_min = 1, .threshold = 0.6},
                                                 {.cohort_min = 102, .threshold = 0.6},
                                                 {.cohort_min = 3, .threshold = 0.5},
                                                 {.cohort_min = 3, .threshold = 1.01}};
    char name[] = "child-1";
    struct tier_mask_trust trust = ring_trust(name);
    struct tier_mask_parent *p;
    struct tier_mask_child *c;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(tier_mask_parent_new(&bad[i], &trust, &p, NULL), TIER_EARG);
        cr_assert_eq(tier_mask_child_new(&bad[i], name, &trust, &c, NULL), TIER_EARG);
    }
}

/* ---- what is said twice, late or wrongly ---- */

static void to_step(struct ring *g, int steps) {
    for (int i = 0; i < steps; i++) {
        ring_step(g, 0);
        cr_assert_eq(tier_mask_parent_close(g->p, NULL), TIER_OK);
    }
}

Test(tier_mask, the_same_said_again_has_the_same_answer) {
    static struct ring g;
    enum tier_mask_step step;
    uint8_t *body, *one, *two;
    size_t n, one_n, two_n;

    ring_open(&g, 3, 3, 0.6, 1);
    to_step(&g, 1);
    cr_assert_eq(tier_mask_parent_say(g.p, "child-0", &step, &body, &n, NULL), TIER_OK);
    cr_assert_eq(tier_mask_child_take(g.child[0].c, step, body, n, &one, &one_n, NULL), TIER_OK);
    cr_assert_eq(tier_mask_child_take(g.child[0].c, step, body, n, &two, &two_n, NULL), TIER_OK);
    cr_assert(one_n == two_n && memcmp(one, two, one_n) == 0);
    cr_assert_eq(tier_mask_parent_take(g.p, "child-0", step + 1, one, one_n, NULL), TIER_OK);
    cr_assert_eq(tier_mask_parent_take(g.p, "child-0", step + 1, one, one_n, NULL), TIER_OK);
    one[3] ^= 1;
    cr_assert_eq(tier_mask_parent_take(g.p, "child-0", step + 1, one, one_n, NULL), TIER_ECONFLICT);
    free(body);
    free(one);
    free(two);
    ring_close(&g);
}

Test(tier_mask, a_child_that_begins_again_before_the_list_has_new_keys) {
    static struct ring g;
    struct ring_child *k = &g.child[1];

    ring_open(&g, 3, 3, 0.6, 1);
    ring_step(&g, 0);
    tier_mask_child_free(k->c);
    cr_assert_eq(tier_mask_child_new(&g.round, k->name, &k->trust, &k->c, NULL), TIER_OK);
    cr_assert_eq(ring_advertise(&g, k, NULL), TIER_OK);
    cr_assert_eq(tier_mask_parent_close(g.p, NULL), TIER_OK);
    to_step(&g, 4);
    check_sum(&g, 1);
    ring_close(&g);
}

Test(tier_mask, whoever_comes_after_a_step_is_late) {
    static struct ring g;
    struct ring_child *k = &g.child[3];
    struct tier_err err;

    ring_open(&g, 4, 3, 0.6, 1);
    k->gone = true;
    ring_step(&g, 0);
    cr_assert_eq(tier_mask_parent_close(g.p, NULL), TIER_OK);
    cr_assert_eq(ring_advertise(&g, k, &err), TIER_ELATE);
    cr_assert(strstr(err.text, "goes on without 'child-3'"));
    cr_assert_eq(tier_mask_parent_masked(g.p, "child-0", &err), TIER_ELATE);
    ring_step(&g, 0);
    cr_assert_eq(tier_mask_parent_close(g.p, NULL), TIER_OK);
    cr_assert_eq(tier_mask_parent_masked(g.p, "child-3", &err), TIER_EPOLICY);
    cr_assert(strstr(err.text, "shared no secrets"));
    ring_close(&g);
}

Test(tier_mask, an_update_is_masked_once) {
    static struct ring g;
    struct tier_mask_term *terms;
    struct tier_err err;
    size_t n;

    ring_open(&g, 3, 3, 0.6, 1);
    cr_assert_not(tier_mask_child_ready(g.child[0].c));
    cr_assert_eq(tier_mask_child_terms(g.child[0].c, &terms, &n, &err), TIER_ECONFLICT);
    to_step(&g, 3);
    cr_assert(tier_mask_child_ready(g.child[0].c));
    cr_assert_eq(tier_mask_child_terms(g.child[0].c, &terms, &n, &err), TIER_ECONFLICT);
    cr_assert(strstr(err.text, "masked in this round already"));
    ring_close(&g);
}

Test(tier_mask, a_masked_update_has_nothing_of_its_values) {
    static struct ring g;
    unsigned ones = 0;

    for (uint64_t seed = 0; seed < 40; seed++) { /* 40 * 3 * 5 words of 64 bits, 3 sigma apart */
        ring_open(&g, 3, 3, 0.6, seed);
        for (unsigned i = 0; i < 3; i++)
            memset(g.child[i].values, 0, sizeof g.child[i].values);
        to_step(&g, 3);
        for (unsigned i = 0; i < 3; i++)
            for (unsigned v = 0; v < RING_VALUES; v++)
                ones += (unsigned)__builtin_popcountll(g.child[i].masked[v]);
        ring_close(&g);
    }
    cr_assert(ones > 19200 - 600 && ones < 19200 + 600, "%u of 38400", ones);
}

/* A holder that reveals another share than it has is passed over. */
Test(tier_mask, a_wrong_share_costs_nothing_where_others_suffice) {
    static struct ring g;

    for (unsigned liars = 0; liars <= 3; liars++) {
        struct tier_err err = {0};
        ring_open(&g, 5, 3, 0.6, 9 + liars);
        to_step(&g, 4);
        for (unsigned i = 0; i < 5; i++) {
            enum tier_mask_step step;
            uint8_t *body, *answer;
            size_t n, bytes;
            cr_assert_eq(tier_mask_parent_say(g.p, g.child[i].name, &step, &body, &n, NULL),
                         TIER_OK);
            cr_assert_eq(tier_mask_child_take(g.child[i].c, step, body, n, &answer, &bytes, NULL),
                         TIER_OK);
            for (unsigned h = 0; h < 5 && i < liars; h++)
                answer[33 * h + 7] ^= (uint8_t)(0x55 + i);
            cr_assert_eq(
                tier_mask_parent_take(g.p, g.child[i].name, TIER_MASK_REVEAL, answer, bytes, NULL),
                TIER_OK);
            free(body);
            free(answer);
        }
        enum tier_status st = tier_mask_parent_close(g.p, &err);
        if (liars == 0 || st == TIER_OK)
            check_sum(&g, liars);
        else
            cr_assert_eq(st, TIER_EUPDATE, "%s", err.text);
        cr_assert(liars != 1 || st == TIER_OK);
        cr_assert(liars != 3 || st != TIER_OK); /* 3 of 5 are wanted, 2 are right */
        ring_close(&g);
    }
}

Test(tier_mask, bodies_cut_short_or_too_long_are_refused) {
    static struct ring g;

    for (int steps = 1; steps < 5; steps++)
        for (int longer = 0; longer < 2; longer++) {
            enum tier_mask_step step;
            uint8_t *body, *answer;
            size_t n, bytes;
            struct tier_err err;
            ring_open(&g, 3, 3, 0.6, 9);
            to_step(&g, steps);
            cr_assert_eq(tier_mask_parent_say(g.p, "child-1", &step, &body, &n, NULL), TIER_OK);
            body = realloc(body, n + 1);
            body[n] = 0;
            cr_assert_eq(tier_mask_child_take(g.child[1].c, step, body, longer ? n + 1 : n - 1,
                                              &answer, &bytes, &err),
                         TIER_EPROTO, "%d %d: %s", steps, longer, err.text);
            cr_assert_eq(tier_mask_child_take(g.child[1].c, step, body, n, &answer, &bytes, &err),
                         TIER_ECONFLICT);
            cr_assert(strstr(err.text, "is out of round"));
            free(body);
            ring_close(&g);
        }
}
