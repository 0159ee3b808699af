/* SPDX-License-Identifier: Apache-2.0 */
/* The screen beside a reference that holds everything in memory, and what a plan may ask of it. */
#include "tier/screen.h"
#include "support/merge_fixture.h"

#define N 9

static const struct tier_plan_screen strict = {.norm = 3, .cosine_distance = 1};

static enum tier_status screen_of(struct tier_spool *spool, const struct tier_manifest *m,
                                  const struct tier_plan_screen *limits,
                                  const struct tier_hash *ids, size_t n, unsigned threads,
                                  struct tier_screened *out, struct tier_screen_figures *all,
                                  struct tier_err *err) {
    const struct tier_screen screen = {.spool = spool,
                                       .manifest = m,
                                       .limits = limits,
                                       .inputs = ids,
                                       .count = n,
                                       .threads = threads,
                                       .memory_bytes = tier_screen_memory_min(m, n) * threads};
    return tier_screen_run(&screen, out, all, err);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* An odd number of rows. */
static void median_of(float *const *x, size_t n, size_t elements, float *out) {
    float column[N];
    for (size_t e = 0; e < elements; e++) {
        for (size_t i = 0; i < n; i++)
            column[i] = x[i][e];
        qsort(column, n, sizeof *column, by_value);
        out[e] = column[n / 2];
    }
}

static double dot(const float *x, const float *y, size_t n) {
    long double sum = 0;
    for (size_t e = 0; e < n; e++)
        sum += (long double)x[e] * (long double)y[e];
    return (double)sum;
}

/* Around a common direction; number 0 is ten times as long, number 1 turned about. */
static float *update_of(const struct tier_manifest *m, size_t i, uint64_t *seed) {
    uint64_t common = 5;
    float *x = deltas_random(m, 0.005, &common), *noise = deltas_random(m, 0.005, seed);
    for (size_t e = 0; e < m->elements; e++)
        x[e] = (i == 0 ? 10.0f : i == 1 ? -1.0f : 1.0f) * (x[e] + noise[e]);
    free(noise);
    return x;
}

Test(tier_screen, figures_are_those_of_a_reference_and_the_odd_ones_fail, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", 3000, 0, 30, false), tensor_of("b", 40, 50, 27, true)};
    struct tier_manifest *m = manifest_of(t, 2);
    struct tier_hash ids[N];
    struct tier_screened out[N];
    struct tier_screen_figures all;
    float *x[N], *median = malloc(m->elements * sizeof *median);
    uint64_t seed = 3;
    for (size_t i = 0; i < N; i++) {
        x[i] = update_of(m, i, &seed);
        ids[i] = sealed_values(spool, m, x[i], 1 + i);
    }
    median_of(x, N, m->elements, median);
    MUST(screen_of(spool, m, &strict, ids, N, 1, out, &all, err));
    cr_assert(eq(sz, all.looked_at, N));
    for (size_t i = 0; i < N; i++) {
        double norm = sqrt(dot(x[i], x[i], m->elements));
        double cosine =
            dot(x[i], median, m->elements) / norm / sqrt(dot(median, median, m->elements));
        cr_assert(epsilon_eq(dbl, out[i].norm, norm, 1e-12 * norm));
        cr_assert(epsilon_eq(dbl, out[i].cosine, cosine, 1e-12));
        cr_assert(eq(int, out[i].fails, i < 2));
        free(x[i]);
    }
    CHECK(strstr(out[0].why, "times the median of the round's 9 updates") != NULL, "%s",
          out[0].why);
    CHECK(strstr(out[1].why, "cosine_distance asks for 0.0000") != NULL, "%s", out[1].why);
    free(median);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* One of them is a region's sum. */
Test(tier_screen, order_and_threads_do_not_change_a_bit, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", TIER_SEGMENT_ELEMENTS + 1000, 0, 30, false),
                              tensor_of("b", 100001, 0, 27, true)};
    struct tier_manifest *m = manifest_of(t, 2);
    struct tier_hash ids[5], back[5], sets[2];
    struct tier_screened first[5], again[5];
    struct tier_screen_figures all, other;
    uint64_t seed = 4;
    for (size_t i = 0; i < 5; i++)
        ids[i] = sealed_random(spool, m, 3 + i, &seed);
    struct tier_plan_merge any = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_fold f = merge_of(spool, m, ids, 2, &any).fold;
    f.memory_bytes = tier_fold_memory_min(m, 2);
    MUST(tier_fold_run(&f, &ids[1], err));
    for (size_t i = 0; i < 5; i++)
        back[i] = ids[4 - i];
    MUST(screen_of(spool, m, &strict, ids, 5, 1, first, &all, err));
    MUST(screen_of(spool, m, &strict, back, 5, 3, again, &other, err));
    for (size_t i = 0; i < 5; i++) {
        cr_assert(eq(int, memcmp(&first[i].norm, &again[4 - i].norm, sizeof(double)), 0));
        cr_assert(eq(int, memcmp(&first[i].cosine, &again[4 - i].cosine, sizeof(double)), 0));
    }
    cr_assert(eq(int, memcmp(&all.norm, &other.norm, sizeof(double)), 0));
    tier_screen_set(ids, 5, &sets[0]);
    tier_screen_set(back, 5, &sets[1]);
    CHECK(tier_hash_equal(&sets[0], &sets[1]));
    tier_screen_set(back, 4, &sets[1]);
    CHECK(!tier_hash_equal(&sets[0], &sets[1]));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_screen, two_updates_are_too_few_and_evaluations_are_none, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_update_header h = header_for(m, 0);
    struct tier_hash ids[3];
    struct tier_screened out[3];
    struct tier_screen_figures all;
    float x[18];
    for (size_t i = 0; i < 2; i++) {
        for (size_t e = 0; e < 18; e++)
            x[e] = i == 0 ? 0.001f : -0.5f;
        ids[i] = sealed_values(spool, m, x, 5);
    }
    MUST(tier_update_seal_f32(spool, &h, m, NULL, false, &ids[2], err));
    MUST(screen_of(spool, m, &strict, ids, 3, 1, out, &all, err));
    cr_assert(eq(sz, all.looked_at, 2));
    for (size_t i = 0; i < 3; i++) {
        CHECK(!out[i].fails);
        CHECK(isnan(out[i].norm));
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_screen, a_limit_of_zero_is_none_and_updates_that_change_nothing_pass,
     .fini = fixture_down) {
    static const struct tier_plan_screen cases[] = {{.norm = 3}, {.cosine_distance = 1}};
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[5];
    struct tier_screened out[5];
    struct tier_screen_figures all;
    float x[18];
    for (size_t i = 0; i < 5; i++) { /* the last one nothing, the first long, the second turned */
        for (size_t e = 0; e < 18; e++)
            x[e] = i == 4 ? 0 : i == 0 ? 0.5f : (i == 1 ? -0.01f : 0.01f + 0.001f * (float)i);
        ids[i] = sealed_values(spool, m, x, 5);
    }
    for (size_t k = 0; k < 2; k++) {
        MUST(screen_of(spool, m, &cases[k], ids, 5, 1, out, &all, err));
        for (size_t i = 0; i < 5; i++)
            cr_assert(eq(int, out[i].fails, i == k), "%zu", i);
    }
    CHECK(isnan(out[4].cosine));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_screen, an_update_that_is_gone_is_an_error_and_so_is_too_little_memory,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[3];
    struct tier_screened out[3];
    struct tier_screen_figures all;
    uint64_t seed = 9;
    for (size_t i = 0; i < 3; i++)
        ids[i] = sealed_random(spool, m, 1, &seed);
    const struct tier_screen poor = {.spool = spool,
                                     .manifest = m,
                                     .limits = &strict,
                                     .inputs = ids,
                                     .count = 3,
                                     .threads = 1,
                                     .memory_bytes = tier_screen_memory_min(m, 3) - 1};
    REFUSED(TIER_EARG, "memory", tier_screen_run(&poor, out, &all, err));
    MUST(tier_spool_delete(spool, &ids[1], err));
    REFUSED(TIER_ENOTFOUND, "", screen_of(spool, m, &strict, ids, 3, 1, out, &all, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}
