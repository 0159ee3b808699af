/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/metric.h"

static struct tier_metrics *metrics_of(const char *name, size_t bins, const int64_t *v) {
    struct tier_metrics *m = tier_metrics_new();
    MUST(tier_metrics_add(m, name, bins, v, err));
    return m;
}

static struct tier_metrics *random_metrics(uint64_t *seed) {
    static const char *const names[] = {"count", "correct", "loss", "score_hist_pos", "a/b:c-d.e"};
    static const size_t bins[] = {1, 1, 1, 4096, 7};
    struct tier_metrics *m = tier_metrics_new();
    int64_t v[4096];
    for (size_t k = 0; k < 5; k++) {
        for (size_t i = 0; i < bins[k]; i++)
            v[i] = rng_below(seed, 3) > 0 ? 0 : (int64_t)rng_next(seed) >> rng_below(seed, 60) >> 4;
        MUST(tier_metrics_add(m, names[k], bins[k], v, err));
    }
    return m;
}

static void same(const struct tier_metrics *a, const struct tier_metrics *b) {
    uint8_t *x = NULL, *y = NULL;
    size_t n = 0, k = 0;
    MUST(tier_metrics_encode(a, &x, &n, err));
    MUST(tier_metrics_encode(b, &y, &k, err));
    CHECK(n == k && (n == 0 || memcmp(x, y, n) == 0));
    free(x);
    free(y);
}

Test(tier_metric, sums_are_exact_in_any_grouping) {
    uint64_t seed = 4;
    struct tier_metrics *part[6], *flat = tier_metrics_new(), *left = tier_metrics_new(),
                                  *right = tier_metrics_new();
    for (int i = 0; i < 6; i++)
        part[i] = random_metrics(&seed);
    for (int i = 0; i < 6; i++)
        MUST(tier_metrics_merge(flat, part[i], err));
    for (int i = 5; i >= 0; i--)
        MUST(tier_metrics_merge(i % 2 ? left : right, part[i], err));
    MUST(tier_metrics_merge(left, right, err));
    same(flat, left);
    for (int i = 0; i < 6; i++)
        tier_metrics_free(part[i]);
    tier_metrics_free(flat);
    tier_metrics_free(left);
    tier_metrics_free(right);
}

Test(tier_metric, sums_that_are_cut_after_each_addition_are_the_same_in_any_grouping) {
    static const int64_t parts[] = {60, 50, 0, 30}, most = 100;
    for (int last = 1; last <= 4; last++) {
        struct tier_metrics *flat = tier_metrics_new(), *left = tier_metrics_new();
        for (int i = 0; i < last; i++) {
            struct tier_metrics *to = i < 2 ? left : flat;
            MUST(tier_metrics_add(to, "error", 1, &parts[i], err));
            tier_metrics_cut(to, "error", most);
        }
        MUST(tier_metrics_merge(flat, left, err));
        tier_metrics_cut(flat, "error", most);
        tier_metrics_cut(flat, "nothing of that name", most);
        cr_assert(eq(i64, tier_metrics_scalar(flat, "error"), last == 1 ? 60 : 100));
        tier_metrics_free(flat);
        tier_metrics_free(left);
    }
}

Test(tier_metric, a_merge_that_would_overflow_changes_nothing) {
    int64_t one = 1, max = INT64_MAX;
    struct tier_metrics *a = metrics_of("count", 1, &one), *b = metrics_of("a", 1, &one);
    MUST(tier_metrics_add(b, "count", 1, &max, err));
    REFUSED(TIER_ELIMIT, "count", tier_metrics_merge(a, b, err));
    cr_assert(eq(sz, tier_metrics_count(a), 1));
    cr_assert(eq(i64, tier_metrics_scalar(a, "count"), 1));
    REFUSED(TIER_ELIMIT, "count", tier_metrics_add(a, "count", 1, &max, err));
    cr_assert(eq(i64, tier_metrics_scalar(a, "a"), 0));
    tier_metrics_free(a);
    tier_metrics_free(b);
}

Test(tier_metric, other_bins_under_the_same_name_are_refused) {
    int64_t v[3] = {1, 2, 3};
    struct tier_metrics *a = metrics_of("h", 3, v), *b = metrics_of("h", 2, v);
    REFUSED(TIER_ECONFLICT, "h has 3", tier_metrics_merge(a, b, err));
    REFUSED(TIER_EARG, "no bins", tier_metrics_add(a, "z", 0, v, err));
    REFUSED(TIER_EARG, "name a metric", tier_metrics_add(a, "a b", 1, v, err));
    REFUSED(TIER_EARG, "name a metric", tier_metrics_add(a, "", 1, v, err));
    tier_metrics_free(a);
    tier_metrics_free(b);
}

Test(tier_metric, limits_hold_and_the_values_below_them_pass) {
    struct tier_metrics *m = tier_metrics_new();
    int64_t *v = calloc(TIER_METRIC_BINS_MAX, sizeof *v);
    char name[16];
    MUST(tier_metrics_add(m, "big", TIER_METRIC_BINS_MAX - 255, v, err));
    for (int i = 0; i < 255; i++) {
        snprintf(name, sizeof name, "m%d", i);
        MUST(tier_metrics_add(m, name, 1, v, err));
    }
    REFUSED(TIER_ELIMIT, "257 metrics", tier_metrics_add(m, "more", 1, v, err));
    tier_metrics_free(m);
    m = metrics_of("big", TIER_METRIC_BINS_MAX, v);
    REFUSED(TIER_ELIMIT, "bins in all", tier_metrics_add(m, "more", 1, v, err));
    tier_metrics_free(m);
    free(v);
}

Test(tier_metric, the_encoding_comes_back_and_is_short_for_sparse_histograms) {
    uint64_t seed = 5;
    struct tier_metrics *m = random_metrics(&seed), *back = NULL;
    uint8_t *bytes = NULL;
    size_t n = 0;
    MUST(tier_metrics_encode(m, &bytes, &n, err));
    MUST(tier_metrics_decode(bytes, n, &back, err));
    same(m, back);
    tier_metrics_free(back);
    for (size_t cut = 1; cut < n; cut++)
        CHECK(tier_metrics_decode(bytes, cut, &back, NULL) == TIER_EPROTO);
    free(bytes);
    tier_metrics_free(m);

    int64_t v[4096] = {[17] = 5, [4000] = -3};
    m = metrics_of("score_hist_pos", 4096, v);
    MUST(tier_metrics_encode(m, &bytes, &n, err));
    CHECK(n < 32, "%zu bytes", n);
    MUST(tier_metrics_decode(bytes, n, &back, err));
    CHECK(memcmp(tier_metrics_get(back, "score_hist_pos", NULL), v, sizeof v) == 0);
    tier_metrics_free(back);
    tier_metrics_free(m);
    free(bytes);
}

Test(tier_metric, no_metrics_are_no_bytes) {
    struct tier_metrics *m = tier_metrics_new(), *back = NULL;
    uint8_t *bytes = (uint8_t *)"x";
    size_t n = 1;
    MUST(tier_metrics_encode(m, &bytes, &n, err));
    CHECK(bytes == NULL && n == 0);
    MUST(tier_metrics_decode(NULL, 0, &back, err));
    cr_assert(eq(sz, tier_metrics_count(back), 0));
    tier_metrics_free(m);
    tier_metrics_free(back);
}

Test(tier_metric, bytes_that_are_accepted_encode_to_themselves) {
    static const char *const bad[] = {
        "\x00", /* no names, spelt out */
        "\x01\x01"
        "a\x01\x00", /* values missing */
        "\x01\x01"
        "a\x01\x00\x01\x00", /* a zero among values */
        "\x01\x01"
        "a\x02\x01\x00", /* an empty run of values */
        "\x01\x01"
        "a\x01\x02", /* a run past the end */
        "\x01\x01"
        "a\x81\x00\x01", /* a varint too long */
        "\x02\x01"
        "b\x01\x01\x01"
        "a\x01\x01",         /* names descend */
        "\x01\x01 \x01\x01", /* an ill-formed name */
        "\x01\x01"
        "a\x01\x01\x01", /* bytes left over */
        "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    };
    static const size_t lens[] = {1, 5, 6, 6, 5, 6, 9, 5, 6, 10};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tier_metrics *m = NULL;
        REFUSED(TIER_EPROTO, "metrics, byte",
                tier_metrics_decode((const uint8_t *)bad[i], lens[i], &m, err));
    }
    struct tier_metrics *m = NULL;
    MUST(tier_metrics_decode((const uint8_t *)"\x01\x01"
                                              "a\x02\x01\x01\x03",
                             7, &m, err));
    cr_assert(eq(i64, tier_metrics_get(m, "a", NULL)[1], -2));
    tier_metrics_free(m);
}
