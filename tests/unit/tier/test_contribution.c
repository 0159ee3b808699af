/* SPDX-License-Identifier: Apache-2.0 */
/* Contributions of sealed updates, beside means that are worked out element by element. */
#include "tier/contribution.h"
#include "support/merge_fixture.h"
#include "tier/segment_block.h"
#include "tier/shapley.h"

#define MOST 20

static struct tier_fold fold_for(struct tier_spool *spool, const struct tier_manifest *m,
                                 const struct tier_hash *ids, size_t n) {
    struct tier_plan_merge any = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_fold f = merge_of(spool, m, ids, n, &any).fold;
    size_t fold = tier_fold_memory_min(m, n), look = tier_contribution_memory_min(m, n);
    f.memory_bytes = fold > look ? fold : look;
    return f;
}

/* The mean of those in the mask, in double. */
static void mean_of(float *const *x, const uint64_t *w, size_t n, size_t elements, unsigned mask,
                    double *out) {
    double total = 0;
    memset(out, 0, elements * sizeof *out);
    for (size_t i = 0; i < n; i++)
        total += mask >> i & 1 ? (double)w[i] : 0;
    for (size_t i = 0; i < n; i++)
        for (size_t e = 0; total > 0 && mask >> i & 1 && e < elements; e++)
            out[e] += (double)w[i] / total * (double)x[i][e];
}

static double utility(float *const *x, const uint64_t *w, size_t n, size_t elements,
                      unsigned mask) {
    double *all = malloc(elements * sizeof *all), *some = malloc(elements * sizeof *some);
    double off = 0, length = 0;
    mean_of(x, w, n, elements, (1u << n) - 1, all);
    mean_of(x, w, n, elements, mask, some);
    for (size_t e = 0; e < elements; e++) {
        off += (some[e] - all[e]) * (some[e] - all[e]);
        length += all[e] * all[e];
    }
    free(all);
    free(some);
    return 1 - off / length;
}

Test(tier_contribution, shares_and_leave_one_out_are_those_of_the_definition,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[4];
    struct tier_contribution out[4];
    float *x[4];
    uint64_t w[4] = {3, 50, 7, 20}, seed = 8;
    bool exact = false;
    for (size_t i = 0; i < 4; i++) {
        x[i] = deltas_random(m, 0.1, &seed);
        ids[i] = sealed_values(spool, m, x[i], w[i]);
    }
    struct tier_fold f = fold_for(spool, m, ids, 4);
    MUST(tier_contribution_run(&f, 10, out, &exact, err));
    CHECK(exact);
    double sum = 0, weight_of_size[4] = {1.0 / 4, 1.0 / 12, 1.0 / 12, 1.0 / 4};
    for (unsigned i = 0; i < 4; i++) {
        double share = 0;
        for (unsigned mask = 0; mask < 16; mask++)
            if (!(mask >> i & 1))
                share += weight_of_size[__builtin_popcount(mask)] *
                         (utility(x, w, 4, m->elements, mask | 1u << i) -
                          utility(x, w, 4, m->elements, mask));
        cr_assert(epsilon_eq(dbl, out[i].share, share, 1e-9));
        cr_assert(epsilon_eq(dbl, out[i].without,
                             1 - utility(x, w, 4, m->elements, 15u & ~(1u << i)), 1e-9));
        cr_assert(eq(u64, out[i].weight, w[i]));
        cr_assert(eq(u64, out[i].bytes, m->elements * 4));
        sum += out[i].share;
    }
    for (size_t i = 0; i < 4; i++)
        free(x[i]);
    cr_assert(epsilon_eq(dbl, sum, 1, 1e-9)); /* v(all) - v(none) */
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* Exact in both ways: 5 players, all coalitions; 17, sampled orders. */
Test(tier_contribution, equal_children_have_equal_shares_and_one_without_weight_has_none,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_update_header h = header_for(m, 0);
    struct tier_hash ids[MOST];
    struct tier_contribution out[MOST];
    uint64_t seed = 9;
    bool exact;
    for (size_t i = 0; i < MOST; i++)
        ids[i] = sealed_random(spool, m, 5 + i, &seed);
    ids[3] = ids[1];
    MUST(tier_update_seal_f32(spool, &h, m, NULL, false, &ids[2], err));
    for (size_t n = 5; n <= 17; n += 12) {
        struct tier_fold f = fold_for(spool, m, ids, n);
        double sum = 0;
        MUST(tier_contribution_run(&f, 30, out, &exact, err));
        cr_assert(eq(int, exact, n == 5));
        cr_assert(eq(int, memcmp(&out[1], &out[3], sizeof out[1]), 0));
        cr_assert(eq(dbl, out[2].share, 0));
        cr_assert(eq(dbl, out[2].without, 0));
        cr_assert(eq(dbl, out[2].error, 0));
        cr_assert(eq(int, out[1].error > 0, n == 17));
        for (size_t i = 0; i < n; i++)
            sum += out[i].share;
        cr_assert(epsilon_eq(dbl, sum, 1, 1e-9));
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* However many are asked for: a round waits for them. */
Test(tier_contribution, no_more_orders_are_taken_than_a_round_can_wait_for, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[MOST];
    struct tier_contribution all[MOST], most[MOST];
    uint64_t seed = 12, orders = tier_contribution_orders(UINT64_MAX, MOST);
    bool exact;
    cr_assert(eq(u64, tier_contribution_orders(7, MOST), 7));
    cr_assert(eq(u64, orders, (UINT64_C(1) << 31) / (20 * 138)));
    cr_assert(ge(u64, tier_contribution_orders(UINT64_MAX, TIER_CONTRIBUTION_UPDATES_MAX), 3000));
    for (size_t i = 0; i < MOST; i++)
        ids[i] = sealed_random(spool, m, 5 + i, &seed);
    struct tier_fold f = fold_for(spool, m, ids, MOST);
    MUST(tier_contribution_run(&f, UINT64_MAX, all, &exact, err));
    MUST(tier_contribution_run(&f, orders, most, &exact, err));
    cr_assert(eq(int, exact, 0));
    cr_assert(eq(int, memcmp(all, most, sizeof all), 0));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_contribution, order_and_threads_do_not_change_a_bit, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("a", TIER_SEGMENT_ELEMENTS + 1000, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    struct tier_hash ids[15], back[15];
    struct tier_contribution first[15], again[15];
    uint64_t seed = 10;
    bool exact;
    for (size_t i = 0; i < 15; i++)
        ids[i] = back[14 - i] = sealed_random(spool, m, 1 + i, &seed);
    struct tier_fold f = fold_for(spool, m, ids, 15);
    MUST(tier_contribution_run(&f, 5, first, &exact, err));
    f.inputs = back;
    f.threads = 3;
    f.memory_bytes *= 3;
    MUST(tier_contribution_run(&f, 5, again, &exact, err));
    for (size_t i = 0; i < 15; i++)
        cr_assert(eq(int, memcmp(&first[i], &again[14 - i], sizeof first[i]), 0));
    f.round++; /* other orders */
    MUST(tier_contribution_run(&f, 5, again, &exact, err));
    cr_assert(ne(int, memcmp(&first[0].share, &again[14].share, sizeof(double)), 0));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* Every sum of a SUM update that is one segment long: hi of all, then lo of the wide ones. */
static void sums_of(struct tier_spool *spool, const struct tier_manifest *m,
                    const struct tier_hash *id, int64_t *hi, int64_t *lo) {
    struct tier_update *u = update_open(spool, id);
    struct tier_segment_cursor cursor;
    struct tier_extent extent;
    uint8_t *scratch = malloc(tier_segment_scratch_bytes(m));
    MUST(tier_segment_cursor_init(&cursor, u, m, err));
    MUST(tier_segment_cursor_next(&cursor, &extent, err));
    MUST(tier_segment_add(u, 1, m, 0, extent, NULL, scratch, hi, lo, err));
    free(scratch);
    tier_spool_update_close(u);
}

/* Why leaving one out is cheap: no rounding is in the way. */
Test(tier_contribution, a_sum_less_one_update_is_the_fold_of_the_others_to_the_bit,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[6], sum, rest;
    int64_t all[18] = {0}, all_lo[18] = {0}, one[18], one_lo[18], others[18], others_lo[18];
    uint64_t seed = 11;
    for (size_t i = 0; i < 6; i++)
        ids[i] = sealed_random(spool, m, 1 + 17 * i, &seed);
    struct tier_fold f = fold_for(spool, m, ids, 6);
    MUST(tier_fold_run(&f, &sum, err));
    sums_of(spool, m, &sum, all, all_lo);
    for (size_t left_out = 0; left_out < 6; left_out++) {
        struct tier_hash others_ids[5];
        for (size_t i = 0, k = 0; i < 6; i++)
            if (i != left_out)
                others_ids[k++] = ids[i];
        f.inputs = others_ids;
        f.count = 5;
        MUST(tier_fold_run(&f, &rest, err));
        memset(one, 0, sizeof one), memset(one_lo, 0, sizeof one_lo);
        memset(others, 0, sizeof others), memset(others_lo, 0, sizeof others_lo);
        sums_of(spool, m, &ids[left_out], one, one_lo);
        sums_of(spool, m, &rest, others, others_lo);
        for (size_t e = 0; e < 18; e++) {
            cr_assert(eq(i64, all[e] - one[e], others[e]));
            cr_assert(eq(i64, all_lo[e] - one_lo[e], others_lo[e]));
        }
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_contribution, a_round_that_changes_nothing_has_no_shares_and_a_crowd_no_matrix,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    float zero[18] = {0};
    struct tier_hash id = sealed_values(spool, m, zero, 5);
    struct tier_hash *many = calloc(TIER_CONTRIBUTION_UPDATES_MAX + 1, sizeof *many);
    struct tier_contribution out[2];
    bool exact;
    many[0] = many[1] = id;
    struct tier_fold f = fold_for(spool, m, many, 2);
    MUST(tier_contribution_run(&f, 5, out, &exact, err));
    CHECK(isnan(out[0].share));
    cr_assert(eq(u64, out[0].weight, 5));
    f.count = TIER_CONTRIBUTION_UPDATES_MAX + 1;
    REFUSED(TIER_ELIMIT, "1 to 1024", tier_contribution_run(&f, 5, out, &exact, err));
    free(many);
    tier_manifest_free(m);
    tier_spool_close(spool);
}
