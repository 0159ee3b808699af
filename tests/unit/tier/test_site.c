/* SPDX-License-Identifier: Apache-2.0 */
/* Privacy of whole sites: what a change is cut to, in whole numbers; that the shares of noise are
 * the noise; and the clip that follows. Keys are fixed: each test draws the same numbers every
 * time.
 */
#include "support/tier_fixture.h"
#include "tier/bytes.h"
#include "tier/content.h"
#include "tier/masked.h"
#include "tier/root.h"
#include "tier/segment.h"
#include "tier/site.h"
#include "tier/task.h"

TestSuite(tier_site, .fini = fixture_down);

typedef unsigned __int128 wide;

/* As a plan says it with exact.clip 64: f = 24. */
static struct tier_plan plan_of(enum tier_plan_noise_at at, uint64_t honest) {
    struct tier_plan p = {.clip = 64, .frac_bits = 24, .rounds = 10};
    p.site = (struct tier_plan_site){
        .clip = 1, .noise = 2, .delta = 1e-5, .epsilon_max = 50, .at = at, .honest = honest};
    return p;
}

static struct tier_noise_key key_of(uint8_t byte) {
    struct tier_noise_key k;
    memset(&k, byte, sizeof k);
    return k;
}

static wide squares(const int32_t *q, size_t n) {
    wide sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (wide)((int64_t)q[i] * q[i]);
    return sum;
}

/* ---- cutting ---- */

Test(tier_site, a_change_within_the_clip_is_rounded_towards_zero_and_nothing_else) {
    const float x[4] = {0.5f, -0.25f, 3 * 0x1p-25f, -3 * 0x1p-25f};
    int32_t q[4];
    bool below = false;
    MUST(tier_site_cut(x, 4, 24, UINT64_C(1) << 24, q, &below, err));
    CHECK(below);
    CHECK(q[0] == 1 << 23 && q[1] == -(1 << 22) && q[2] == 1 && q[3] == -1);
}

Test(tier_site, a_change_beyond_it_is_cut_to_its_norm_and_keeps_its_direction) {
    const float x[3] = {3, -4, 12}; /* norm 13 */
    uint64_t units = UINT64_C(1) << 24;
    int32_t q[3];
    bool below = true;
    MUST(tier_site_cut(x, 3, 24, units, q, &below, err));
    CHECK(!below);
    for (int i = 0; i < 3; i++)
        CHECK(fabs(q[i] - (double)x[i] / 13 * 0x1p24) < 40, "%d: %d", i, q[i]);
    CHECK(squares(q, 3) <= (wide)units * units);
    CHECK((double)squares(q, 3) > 0.99999 * (double)units * (double)units);
}

/* The sum of squares of the integers, exactly, over norms around the clip, lengths, scales, and
 * units so few that rounding to nearest would pass them. */
Test(tier_site, the_norm_of_the_whole_numbers_is_never_beyond_the_clip) {
    static const uint64_t some_units[] = {1, 2, 3, 1000, 1 << 20, TIER_SITE_UNITS_MAX};
    static float x[3000];
    static int32_t q[3000];
    uint64_t seed = 11;
    for (int round = 0; round < 600; round++) {
        uint64_t units = some_units[rng_below(&seed, 6)];
        size_t n = 1 + rng_below(&seed, 3000);
        double norm = 0;
        bool below;
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)rng_normal(&seed);
            norm += (double)x[i] * (double)x[i];
        }
        /* The clip itself, a hair to either side, and far from it. */
        double want = ldexp((double)units, -20) *
                      (double[]){1, 1 - 1e-12, 1 + 1e-12, 1 + 1e-7, 0.3, 1e4, 1e30}[round % 7];
        for (size_t i = 0; i < n; i++)
            x[i] = (float)((double)x[i] * want / sqrt(norm));
        MUST(tier_site_cut(x, n, 20, units, q, &below, err));
        CHECK(squares(q, n) <= (wide)units * units, "round %d, %zu elements", round, n);
    }
}

Test(tier_site, a_change_that_is_not_finite_becomes_zero_and_above_the_clip) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        const float x[2] = {1, bad[i]};
        int32_t q[2] = {7, 7};
        bool below = true;
        MUST(tier_site_cut(x, 2, 24, 1000, q, &below, err));
        CHECK(q[0] == 0 && q[1] == 0);
        CHECK(!below);
    }
}

/* ---- room and cost ---- */

Test(tier_site, every_clip_within_the_bounds_has_room_for_twelve_deviations) {
    uint64_t seed = 3;
    for (int i = 0; i < 2000; i++) {
        struct tier_plan p = plan_of(i % 2 ? TIER_PLAN_AT_TOP : TIER_PLAN_AT_SPOKES,
                                     i % 2 ? 0 : 1 + rng_below(&seed, 1000));
        double least, most;
        p.frac_bits = (int)rng_below(&seed, 60) - 20;
        p.site.noise = 0.1 * pow(10, 4 * rng_unit(&seed));
        tier_site_clip_bounds(&p, &least, &most);
        if (least > most)
            continue;
        for (int end = 0; end < 2; end++) {
            uint64_t units = tier_site_units(&p, end ? most : least);
            uint64_t v = tier_site_variance(&p, units);
            double asked = p.site.noise * (double)units;
            CHECK(v >= TIER_SITE_VARIANCE_MIN && v <= TIER_NOISE_VARIANCE_MAX);
            CHECK((double)v * (end < 2 && p.site.at == TIER_PLAN_AT_SPOKES ? (double)p.site.honest
                                                                           : 1) >=
                      asked * asked * (1 - 1e-15),
                  "less noise than was asked for");
            CHECK((double)units + TIER_SITE_TAILS * sqrt((double)v) <= 0x1p30);
        }
    }
}

Test(tier_site, a_count_and_a_change_cost_as_one_gaussian) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, 4);
    struct tier_privacy_bound both, one;
    p.site.adapt.quantile = 0.5, p.site.adapt.rate = 0.2, p.site.adapt.noise = 3;
    const struct tier_privacy_event two[] = {{2, 1, 10}, {3, 1, 10}};
    const struct tier_privacy_event e = tier_site_event(&p, 10);
    MUST(tier_privacy_concentrated(two, 2, 1e-5, &both, err));
    MUST(tier_privacy_concentrated(&e, 1, 1e-5, &one, err));
    CHECK(fabs(both.rho - one.rho) < 1e-12);
    CHECK(fabs(tier_site_event_of_parent(&p, 1).noise - e.noise / 2) < 1e-12); /* of 4 shares */
    p.site.at = TIER_PLAN_AT_TOP;
    CHECK(tier_site_event_of_parent(&p, 1).noise == 0);
}

/* Kairouz, Liu, Steinke 2021: at every point, the sum of n against the one Gaussian. */
Test(tier_site, a_sum_of_discrete_gaussians_is_one_within_the_bound) {
    enum { REACH = 60 };
    static double one[2 * REACH + 1], sum[4 * REACH + 1];
    for (int at = 0; at < 3; at++) {
        const double v = 0.25 * (1 << at);
        double total = 0, of_sum = 0, worst = 0;
        for (int k = -REACH; k <= REACH; k++)
            total += one[k + REACH] = exp(-k * k / (2 * v));
        memset(sum, 0, sizeof sum);
        for (int a = 0; a <= 2 * REACH; a++)
            for (int b = 0; b <= 2 * REACH; b++)
                sum[a + b] += one[a] / total * one[b] / total;
        for (int k = -2 * REACH; k <= 2 * REACH; k++)
            of_sum += exp(-k * k / (4 * v));
        for (int k = -5; k <= 5; k++)
            worst = fmax(worst, fabs(log(sum[k + 2 * REACH] / (exp(-k * k / (4 * v)) / of_sum))));
        double tau = pow(10, tier_site_tau_log10(v, 2));
        CHECK(worst <= tau, "variance %g: %g, bound %g", v, worst, tau);
        CHECK(worst > tau / 1000, "variance %g: %g, bound %g", v, worst, tau);
    }
    CHECK(tier_site_tau_log10((double)TIER_SITE_VARIANCE_MIN, 1000000) < -280000);
    CHECK(isinf(tier_site_tau_log10(65536, 1)));
}

/* ---- sealing ---- */

static struct tier_manifest *flat(uint64_t elements) {
    struct tier_tensor t[] = {tensor_of("body", elements - 1, 0, 24, false),
                              tensor_of("bias", 1, 0, 24, false)};
    return manifest_of(t, 2);
}

static struct tier_hash seal(struct tier_spool *spool, const struct tier_plan *p,
                             const struct tier_manifest *m, const float *x, uint8_t key) {
    struct tier_metrics *metrics = tier_metrics_new();
    struct tier_update_header h = header_for(m, 1);
    struct tier_noise_key k = key_of(key);
    struct tier_hash id;
    h.metrics = metrics;
    MUST(tier_site_seal(spool, p, &h, m, x, p->site.clip, &k, &id, err));
    tier_metrics_free(metrics);
    return id;
}

static void sums_of(struct tier_spool *spool, const struct tier_hash *id,
                    const struct tier_manifest *m, int64_t *out) {
    struct tier_update *u = NULL;
    struct tier_segment_cursor c;
    uint8_t *scratch = malloc(tier_segment_scratch_bytes(m));
    memset(out, 0, m->elements * sizeof *out);
    MUST(tier_spool_update_open(spool, id, &u, err));
    MUST(tier_update_verify(u, m, err));
    MUST(tier_segment_cursor_init(&c, u, m, err));
    for (uint64_t i = 0; i < tier_manifest_segments(m); i++) {
        struct tier_extent e;
        MUST(tier_segment_cursor_next(&c, &e, err));
        MUST(tier_segment_add(u, 1, m, i, e, NULL, scratch, out + i * TIER_SEGMENT_ELEMENTS, NULL,
                              err));
    }
    tier_spool_update_close(u);
    free(scratch);
}

static struct tier_hash folded(struct tier_spool *spool, const struct tier_manifest *m,
                               const struct tier_hash *ids, size_t count) {
    struct tier_update_header h = header_for(m, 1);
    struct tier_hash sum;
    const struct tier_fold f = {.spool = spool,
                                .manifest = m,
                                .run = h.run,
                                .round = h.round,
                                .base_model = h.base_model,
                                .inputs = ids,
                                .count = count,
                                .threads = 1,
                                .memory_bytes = tier_fold_memory_min(m, count)};
    MUST(tier_fold_run(&f, &sum, err));
    return sum;
}

/* Over two segments, so that streams are, too. Ten sites' shares of a variance of 4 * 2^48 / 10. */
Test(tier_site, the_shares_of_all_sites_are_the_noise_that_the_plan_names) {
    enum { SITES = 10, N = TIER_SEGMENT_ELEMENTS + 30000 };
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, SITES);
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = flat(N);
    struct tier_hash ids[SITES], sum;
    int64_t *s = malloc(N * sizeof *s), clean = 0;
    float *x = calloc(N, sizeof *x);
    double mean = 0, square = 0, apart = 0;
    x[0] = 0.75f;
    for (int i = 0; i < SITES; i++) {
        ids[i] = seal(spool, &p, m, x, (uint8_t)(i + 1));
        clean += (int64_t)(0.75 * 0x1p24);
    }
    sum = folded(spool, m, ids, SITES);
    sums_of(spool, &sum, m, s);
    s[0] -= clean;
    for (size_t i = 0; i < N; i++) {
        mean += (double)s[i] / N;
        square += (double)s[i] * (double)s[i] / N;
        if (i >= TIER_SEGMENT_ELEMENTS) /* streams of segments are not one */
            apart += s[i] == s[i - TIER_SEGMENT_ELEMENTS];
    }
    double deviation = 2 * 0x1p24;
    CHECK(fabs(mean) < 5 * deviation / sqrt(N), "mean %g", mean);
    CHECK(fabs(square / (deviation * deviation) - 1) < 5 * sqrt(2.0 / N), "deviation %g of %g",
          sqrt(square), deviation);
    CHECK(fabs((double)s[0]) < 6 * deviation);
    CHECK(apart < 3);
    tier_manifest_free(m);
    tier_spool_close(spool);
    free(s);
    free(x);
}

Test(tier_site, the_same_key_seals_the_same_update_and_another_another) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, 3);
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = flat(500);
    float *x = calloc(500, sizeof *x);
    struct tier_hash a = seal(spool, &p, m, x, 1), again = seal(spool, &p, m, x, 1);
    struct tier_hash other = seal(spool, &p, m, x, 2);
    CHECK(tier_hash_equal(&a, &again));
    CHECK(!tier_hash_equal(&a, &other));
    tier_manifest_free(m);
    tier_spool_close(spool);
    free(x);
}

Test(tier_site, where_the_top_draws_the_noise_a_site_sends_its_change_as_it_was_cut) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_TOP, 0);
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = flat(4);
    const float x[4] = {0.5f, 0, 0, -0.25f};
    struct tier_hash id = seal(spool, &p, m, x, 1);
    int64_t s[4];
    sums_of(spool, &id, m, s);
    CHECK(s[0] == 1 << 23 && s[1] == 0 && s[3] == -(1 << 22));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* What is sealed may go behind masks: the sum is the visible one, to the bit. */
Test(tier_site, masked_updates_with_noise_add_up_to_the_visible_sum) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, 3);
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = flat(1000);
    struct tier_hash open[3], masked[3], visible, hidden;
    float *x = calloc(1000, sizeof *x);
    p.site.adapt.quantile = 0.5, p.site.adapt.rate = 0.2, p.site.adapt.noise = 1;
    for (int i = 0; i < 3; i++) {
        x[i] = 0.25f;
        open[i] = seal(spool, &p, m, x, (uint8_t)(i + 1));
        MUST(tier_masked_seal(spool, &open[i], m, 0, NULL, 0, &masked[i], err));
    }
    struct tier_update_header h = header_for(m, 1);
    const struct tier_masked_fold f = {.spool = spool,
                                       .manifest = m,
                                       .run = h.run,
                                       .round = h.round,
                                       .base_model = h.base_model,
                                       .inputs = masked,
                                       .count = 3};
    MUST(tier_masked_fold(&f, &hidden, err));
    visible = folded(spool, m, open, 3);
    CHECK(tier_hash_equal(&hidden, &visible));
    tier_manifest_free(m);
    tier_spool_close(spool);
    free(x);
}

Test(tier_site, a_tensor_of_another_scale_or_with_a_second_limb_is_refused_by_name) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, 3);
    struct tier_tensor t[] = {tensor_of("a", 2, 0, 24, false), tensor_of("b", 2, 0, 20, false)};
    struct tier_manifest *m = manifest_of(t, 2);
    REFUSED(TIER_EPLAN, "tensor b has a scale", tier_site_manifest_check(&p, m, err));
    tier_manifest_free(m);
    t[1] = tensor_of("b", 2, 0, 24, true);
    m = manifest_of(t, 2);
    REFUSED(TIER_EPLAN, "tensor b has a second limb", tier_site_manifest_check(&p, m, err));
    p.site.clip = 0;
    MUST(tier_site_manifest_check(&p, m, err));
    tier_manifest_free(m);
}

/* ---- the root ---- */

static struct tier_hash model_written(const struct tier_manifest *m, const float *x,
                                      const char *clip) {
    struct tier_model_writer *w = NULL;
    const struct tier_kv metadata = {TIER_SITE_CLIP, clip};
    struct tier_hash hash;
    MUST(tier_model_writer_begin(fixture_dir, m, &metadata, clip ? 1 : 0, &w, err));
    MUST(tier_model_writer_append(w, x, m->elements, err));
    MUST(tier_model_writer_finish(w, &hash, err));
    return hash;
}

/* A round of `sites` sites without a change, from that model. */
static enum tier_status root_round(struct tier_spool *spool, const struct tier_plan *p,
                                   const struct tier_manifest *m, size_t sites,
                                   const struct tier_hash *base, uint8_t key,
                                   struct tier_published *made, struct tier_err *why) {
    struct tier_hash ids[8];
    struct tier_task_figures figures;
    struct tier_root root;
    uint64_t weight;
    float *x = calloc(m->elements, sizeof *x);
    for (size_t i = 0; i < sites; i++) {
        struct tier_metrics *metrics = tier_metrics_new();
        struct tier_update_header h = header_for(m, 1);
        struct tier_noise_key k = key_of((uint8_t)(100 + i));
        h.metrics = metrics;
        h.base_model = *base;
        x[0] = (float)i * 0x1p-20f; /* no two alike */
        MUST(tier_site_seal(spool, p, &h, m, x, p->site.clip, &k, &ids[i], err));
        tier_metrics_free(metrics);
    }
    struct tier_update_header h = header_for(m, 1);
    const struct tier_fold f = {.spool = spool,
                                .manifest = m,
                                .run = h.run,
                                .round = h.round,
                                .base_model = *base,
                                .inputs = ids,
                                .count = sites,
                                .threads = 1,
                                .memory_bytes = tier_fold_memory_min(m, sites)};
    tier_root_init(&root, p, "plan", 4, 7);
    MUST(tier_fold_run(&f, &root.update, err));
    root.base = *base;
    root.noise_key = key_of(key);
    free(x);
    return tier_root_run(&root, spool, m, fixture_dir, made, &figures, &weight, why);
}

static void read_model(const struct tier_hash *hash, struct tier_model **out) {
    char *path = tier_content_path(fixture_dir, hash, TIER_CONTENT_MODEL);
    MUST(tier_model_open(path, out, err));
    free(path);
}

Test(tier_site, the_top_adds_the_plans_noise_once_and_the_same_key_gives_the_same_model) {
    enum { N = 20000, SITES = 4 };
    struct tier_plan p = plan_of(TIER_PLAN_AT_TOP, 0);
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = flat(N);
    float *x = calloc(N, sizeof *x);
    struct tier_hash base = model_written(m, x, NULL);
    struct tier_published a, again, other;
    struct tier_model *model = NULL;
    double square = 0;
    MUST(root_round(spool, &p, m, SITES, &base, 1, &a, err));
    MUST(root_round(spool, &p, m, SITES, &base, 1, &again, err));
    MUST(root_round(spool, &p, m, SITES, &base, 2, &other, err));
    CHECK(tier_hash_equal(&a.model, &again.model));
    CHECK(!tier_hash_equal(&a.model, &other.model));
    read_model(&a.model, &model);
    MUST(tier_model_read(model, 0, N, x, err));
    for (int i = 1; i < N; i++)
        square += (double)x[i] * (double)x[i] / (N - 1);
    /* noise * clip over the number of sites */
    CHECK(fabs(sqrt(square) / (2.0 / SITES) - 1) < 0.03, "deviation %g", sqrt(square));
    tier_model_close(model);
    tier_manifest_free(m);
    tier_spool_close(spool);
    free(x);
}

Test(tier_site, a_round_of_fewer_sites_than_make_the_noise_is_not_published) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, 4);
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = flat(50);
    float *x = calloc(50, sizeof *x);
    struct tier_hash base = model_written(m, x, NULL);
    struct tier_published made;
    REFUSED(TIER_EPLAN, "of 3 sites", root_round(spool, &p, m, 3, &base, 1, &made, err));
    MUST(root_round(spool, &p, m, 4, &base, 1, &made, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
    free(x);
}

/* ---- the clip that follows ---- */

static enum tier_status claims(const struct tier_plan *p, uint64_t weight, size_t bins,
                               int64_t value, struct tier_err *why) {
    struct tier_metrics *metrics = tier_metrics_new();
    const int64_t values[2] = {value, 0};
    struct tier_update_header h = {.weight = weight, .metrics = metrics};
    MUST(tier_metrics_add(metrics, TIER_SITE_METRIC, bins, values, err));
    enum tier_status st = tier_site_check(p, &h, why);
    tier_metrics_free(metrics);
    return st;
}

Test(tier_site, a_count_that_no_sites_can_have_is_refused) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, 3);
    const int64_t most = TIER_Q_MAX;
    REFUSED(TIER_EUPDATE, "clip stays", claims(&p, 1, 1, 0, err));
    p.site.adapt.quantile = 0.5, p.site.adapt.rate = 0.2, p.site.adapt.noise = 64;
    MUST(claims(&p, 1, 1, -most, err));
    MUST(claims(&p, 3, 1, 3 * most, err));
    MUST(claims(&p, TIER_WEIGHT_TOTAL_MAX, 1, INT64_C(1) << 62, err));
    REFUSED(TIER_EUPDATE, "of 3 sites", claims(&p, 3, 1, 3 * most + 1, err));
    REFUSED(TIER_EUPDATE, "of 1 sites", claims(&p, 1, 1, INT64_MIN, err));
    REFUSED(TIER_EUPDATE, "of 0 sites", claims(&p, 0, 1, 1, err));
    REFUSED(TIER_EUPDATE, "2 bins", claims(&p, 1, 2, 0, err));
    struct tier_update_header none = {.weight = 1};
    MUST(tier_site_check(&p, &none, err));
}

Test(tier_site, the_clip_moves_by_the_share_of_sites_below_it) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_TOP, 0);
    double least, most;
    p.site.adapt.quantile = 0.25, p.site.adapt.rate = 0.5, p.site.adapt.noise = 1;
    tier_site_clip_bounds(&p, &least, &most);
    /* All 8 below, none, a quarter. */
    CHECK(fabs(tier_site_clip_next(&p, 0.5, 8 * TIER_SITE_ONE, 8) / (0.5 * exp(-0.375)) - 1) <
          1e-15);
    CHECK(fabs(tier_site_clip_next(&p, 0.5, -8 * TIER_SITE_ONE, 8) / (0.5 * exp(0.125)) - 1) <
          1e-15);
    CHECK(tier_site_clip_next(&p, 0.5, -4 * TIER_SITE_ONE, 8) == 0.5);
    /* Noise may say of more sites than there are; and there is an end. */
    CHECK(tier_site_clip_next(&p, 0.5, 800 * TIER_SITE_ONE, 8) ==
          tier_site_clip_next(&p, 0.5, 8 * TIER_SITE_ONE, 8));
    CHECK(tier_site_clip_next(&p, most, -8 * TIER_SITE_ONE, 8) == most);
    CHECK(tier_site_clip_next(&p, least, 8 * TIER_SITE_ONE, 8) == least);
}

/* Norms of forty sites, log-normal about 0.3: from a clip ten times as large, with noise. */
Test(tier_site, the_clip_settles_where_that_share_of_the_norms_is_below) {
    enum { SITES = 40, ROUNDS = 120 };
    struct tier_plan p = plan_of(TIER_PLAN_AT_SPOKES, SITES);
    double clip = 3, mean = 0, norms[SITES];
    uint64_t seed = 5;
    int under = 0;
    p.site.adapt.quantile = 0.7, p.site.adapt.rate = 0.2, p.site.adapt.noise = 2;
    for (int i = 0; i < SITES; i++)
        norms[i] = 0.3 * exp(0.5 * rng_normal(&seed));
    for (int r = 0; r < ROUNDS; r++) {
        int64_t sum = 0, one;
        for (int i = 0; i < SITES; i++) {
            struct tier_noise_key k;
            bool below = norms[i] <= clip;
            for (size_t b = 0; b < sizeof k.b; b++)
                k.b[b] = (uint8_t)rng_next(&seed);
            MUST(tier_site_count(&p, &k, &below, &one, err));
            sum += one;
        }
        clip = tier_site_clip_next(&p, clip, sum, SITES);
        if (r >= ROUNDS / 2)
            mean += clip / (ROUNDS / 2.0);
    }
    for (int i = 0; i < SITES; i++)
        under += norms[i] <= mean;
    CHECK(under >= 25 && under <= 31, "%d of 40 below %g", under, mean);
}

Test(tier_site, the_next_clip_is_in_the_models_metadata_and_within_what_has_room) {
    struct tier_plan p = plan_of(TIER_PLAN_AT_TOP, 0);
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = flat(50);
    float *x = calloc(50, sizeof *x);
    struct tier_hash base = model_written(m, x, NULL), wild;
    struct tier_published made;
    struct tier_model *model = NULL;
    double clip, least, most;
    p.site.adapt.quantile = 0.5, p.site.adapt.rate = 0.2, p.site.adapt.noise = 1;
    MUST(root_round(spool, &p, m, 4, &base, 9, &made, err));
    read_model(&made.model, &model);
    MUST(tier_site_clip_of(&p, model, &clip, err));
    CHECK(clip > 0.8 && clip < 1.25 && clip != 1, "clip %g", clip); /* by exp(+-0.1) at most */
    tier_model_close(model);
    static const char *const texts[] = {"nan", "-1.0", "0.0", "1e400", "0.5x", "", "inf"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        wild = model_written(m, x, texts[i]);
        read_model(&wild, &model);
        REFUSED(TIER_EMODEL, TIER_SITE_CLIP, tier_site_clip_of(&p, model, &clip, err));
        tier_model_close(model);
    }
    tier_site_clip_bounds(&p, &least, &most);
    wild = model_written(m, x, "1e30");
    read_model(&wild, &model);
    MUST(tier_site_clip_of(&p, model, &clip, err));
    CHECK(clip == most);
    tier_model_close(model);
    tier_manifest_free(m);
    tier_spool_close(spool);
    free(x);
}
