/* SPDX-License-Identifier: Apache-2.0 */
/* Staleness: multipliers, what a child may claim, and folds of updates of several rounds. */
#include "support/tier_fixture.h"
#include "tier/bytes.h"
#include "tier/segment.h"
#include "tier/stale.h"
#include "tier/task.h"

#include <math.h>

TestSuite(tier_stale, .fini = fixture_down);

Test(tier_stale, multipliers_are_the_definition_rounded) {
    static const uint32_t first[] = {64, 45, 37, 32, 29, 26, 24, 23, 21};
    for (uint64_t s = 0; s <= TIER_STALENESS_LIMIT; s++) {
        double want = 64 / sqrt(1 + (double)s);
        CHECK(fabs(tier_stale_multiplier(s) - want) <= 0.5, "%d", (int)s);
        CHECK(s >= 9 || tier_stale_multiplier(s) == first[s], "%d", (int)s);
    }
}

static enum tier_status check(bool buffers, uint64_t weight, size_t bins, int64_t value,
                              struct tier_err *why) {
    struct tier_plan p = {.top.sync = buffers ? TIER_PLAN_BUFFERED : TIER_PLAN_ROUNDS};
    struct tier_metrics *m = tier_metrics_new();
    struct tier_update_header h = {.weight = weight, .metrics = m};
    int64_t values[2] = {value, value};
    if (bins)
        MUST(tier_metrics_add(m, TIER_STALE_METRIC, bins, values, err));
    MUST(tier_task_metrics_check(m, err));
    enum tier_status st = tier_stale_check(&p, &h, why);
    if (st == TIER_OK && bins)
        CHECK(tier_stale_damping(&h) == (double)weight / (double)value);
    if (!bins)
        CHECK(weight == 0 || tier_stale_damping(&h) == 1);
    tier_metrics_free(m);
    return st;
}

Test(tier_stale, a_child_can_claim_no_more_than_its_weight_and_no_less) {
    MUST(check(false, 10, 0, 0, err));
    MUST(check(true, 10, 0, 0, err));
    MUST(check(true, 10, 1, 10, err));
    MUST(check(true, 10, 1, 640, err));
    MUST(check(true, TIER_WEIGHT_TOTAL_MAX, 1, (int64_t)TIER_WEIGHT_TOTAL_MAX * 64, err));
    REFUSED(TIER_EUPDATE, "is for a plan with sync: buffered", check(false, 10, 1, 10, err));
    REFUSED(TIER_EUPDATE, "1 to 64 times the weight", check(true, 10, 1, 9, err));
    REFUSED(TIER_EUPDATE, "1 to 64 times the weight", check(true, 10, 1, 641, err));
    REFUSED(TIER_EUPDATE, "1 to 64 times the weight", check(true, 10, 1, -640, err));
    REFUSED(TIER_EUPDATE, "in 2 bins", check(true, 10, 2, 10, err));
}

/* ---- folds ---- */

enum { CHILDREN = 7, NOW = 7 };

struct scene {
    struct tier_spool *spool;
    struct tier_manifest *m;
    struct tier_fold_version versions[3];
    struct tier_hash ids[CHILDREN];
    uint64_t round[CHILDREN], weight[CHILDREN];
    float *x[CHILDREN];
};

static struct tier_hash base_of(uint64_t round) {
    char name[16];
    struct tier_hash base;
    snprintf(name, sizeof name, round == NOW ? "base" : "base %d", (int)round);
    tier_hash_data(name, strlen(name), &base);
    return base;
}

static struct tier_hash sealed_in(struct scene *s, uint64_t round, uint64_t weight,
                                  const float *x) {
    struct tier_update_header h = header_for(s->m, weight);
    struct tier_hash id;
    int64_t count = (int64_t)round;
    h.round = round;
    h.base_model = base_of(round);
    h.metrics = tier_metrics_new();
    MUST(tier_metrics_add(h.metrics, "count", 1, &count, err));
    MUST(tier_update_seal_f32(s->spool, &h, s->m, x, false, &id, err));
    tier_metrics_free(h.metrics);
    return id;
}

static struct scene scene_up(uint64_t seed) {
    struct tier_tensor t[] = {tensor_of("a", 900, 0, 30, false), tensor_of("b", 300, 0, 12, true)};
    struct scene s = {.spool = spool_up(false), .m = manifest_of(t, 2)};
    for (int i = 0; i < 3; i++)
        s.versions[i] = (struct tier_fold_version){NOW - 1 - i, base_of(NOW - 1 - i)};
    for (int i = 0; i < CHILDREN; i++) {
        s.round[i] = NOW - rng_below(&seed, 4);
        s.weight[i] = 1 + rng_below(&seed, 1000000);
        s.x[i] = deltas_random(s.m, 0.2, &seed);
        s.ids[i] = sealed_in(&s, s.round[i], s.weight[i], s.x[i]);
    }
    return s;
}

static void scene_down(struct scene *s) {
    for (int i = 0; i < CHILDREN; i++)
        free(s->x[i]);
    tier_manifest_free(s->m);
    tier_spool_close(s->spool);
    fixture_down();
}

static enum tier_status fold(const struct scene *s, const struct tier_hash *ids, size_t n,
                             const struct tier_fold_stale *stale, uint64_t round,
                             struct tier_hash *out, struct tier_err *why) {
    struct tier_update_header h = header_for(s->m, 1);
    struct tier_fold f = {.spool = s->spool,
                          .manifest = s->m,
                          .run = h.run,
                          .round = round,
                          .base_model = base_of(round),
                          .stale = stale,
                          .inputs = ids,
                          .count = n,
                          .threads = 2,
                          .memory_bytes = 2 * tier_fold_memory_min(s->m, n)};
    return tier_fold_run(&f, out, why);
}

static struct tier_fold_stale stale_of(const struct scene *s, const struct tier_hash *partial) {
    struct tier_fold_stale stale = {.damps = true, .versions = s->versions, .version_count = 3};
    if (partial)
        stale.partial = *partial;
    return stale;
}

static int64_t metric(const struct scene *s, const struct tier_hash *id, const char *name) {
    struct tier_update *u = update_open(s->spool, id);
    int64_t v = tier_metrics_scalar(tier_spool_update_header(u)->metrics, name);
    tier_spool_update_close(u);
    return v;
}

/* Payload against payload: the sums themselves. */
static bool same_sums(const struct scene *s, const struct tier_hash *a, const struct tier_hash *b) {
    struct wire_bytes x = wire_of(s->spool, a), y = wire_of(s->spool, b);
    bool same = x.payload_len == y.payload_len && memcmp(x.payload, y.payload, x.payload_len) == 0;
    wire_free(&x);
    wire_free(&y);
    return same;
}

Test(tier_stale, an_old_update_counts_as_one_of_a_smaller_weight_does) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct scene s = scene_up(seed);
        struct tier_fold_stale stale = stale_of(&s, NULL);
        struct tier_hash damped, plain, scaled[CHILDREN];
        uint64_t weight = 0, full = 0, fresh = 0;
        for (int i = 0; i < CHILDREN; i++) {
            uint64_t m = (uint64_t)llround(64 / sqrt(1 + (double)(NOW - s.round[i])));
            scaled[i] = sealed_in(&s, NOW, s.weight[i] * m, s.x[i]);
            weight += s.weight[i] * m;
            full += s.weight[i] * 64;
            fresh += s.round[i] == NOW ? NOW : 0;
        }
        MUST(fold(&s, s.ids, CHILDREN, &stale, NOW, &damped, err));
        MUST(fold(&s, scaled, CHILDREN, NULL, NOW, &plain, err));
        CHECK(same_sums(&s, &damped, &plain), "seed %d", (int)seed);
        struct tier_update *u = update_open(s.spool, &damped);
        CHECK(tier_spool_update_header(u)->weight == weight);
        CHECK(tier_stale_full_weight(tier_spool_update_header(u)) == full);
        tier_spool_update_close(u);
        CHECK(metric(&s, &damped, "count") == (int64_t)fresh,
              "an old model's figures are left out");
        scene_down(&s);
    }
}

Test(tier_stale, any_grouping_into_partials_gives_the_same_file) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct scene s = scene_up(seed);
        struct tier_fold_stale stale = stale_of(&s, NULL);
        struct tier_hash once, inputs[CHILDREN + 1], partial = {{0}};
        MUST(fold(&s, s.ids, CHILDREN, &stale, NOW, &once, err));
        for (size_t at = 0, n; at < CHILDREN; at += n) {
            n = 1 + rng_below(&seed, CHILDREN - at);
            memcpy(inputs, s.ids + at, n * sizeof *inputs);
            inputs[n] = partial;
            stale = stale_of(&s, &partial);
            MUST(fold(&s, inputs, n + (at > 0), &stale, NOW, &partial, err));
        }
        CHECK(tier_hash_equal(&once, &partial));
        scene_down(&s);
    }
}

/* A region that damps, below a top that damps: multipliers multiply. */
Test(tier_stale, tiers_damp_one_after_the_other) {
    struct scene s = scene_up(3);
    struct tier_fold_version old = {NOW - 2, base_of(NOW - 2)};
    struct tier_fold_stale below = {.damps = true, .versions = &old, .version_count = 1};
    struct tier_fold_stale above = stale_of(&s, NULL), passive = {0};
    struct tier_hash leaves[2] = {sealed_in(&s, NOW - 2, 30, s.x[0]),
                                  sealed_in(&s, NOW - 1, 7, s.x[1])};
    struct tier_hash region, top, same[2], plain, passed;
    MUST(fold(&s, leaves, 2, &below, NOW - 1, &region, err));
    MUST(fold(&s, &region, 1, &above, NOW, &top, err));
    same[0] = sealed_in(&s, NOW, 30 * 45 * 45, s.x[0]);
    same[1] = sealed_in(&s, NOW, 7 * 64 * 45, s.x[1]);
    MUST(fold(&s, same, 2, NULL, NOW, &plain, err));
    CHECK(same_sums(&s, &top, &plain));
    CHECK(metric(&s, &top, TIER_STALE_METRIC) == 37 * 64 * 64);
    /* One that only passes on what its children say, and has a spoke of its own. */
    same[0] = region;
    same[1] = sealed_in(&s, NOW - 1, 5, s.x[2]);
    MUST(fold(&s, same, 2, &passive, NOW - 1, &passed, err));
    CHECK(metric(&s, &passed, TIER_STALE_METRIC) == 37 * 64 + 5);
    scene_down(&s);
}

/* Else one child that claims 64 times its weight and is late would have its parent's sum refused.
 */
Test(tier_stale, a_sum_claims_no_more_than_its_own_parent_takes) {
    struct scene s = scene_up(3);
    struct tier_plan p = {.top.sync = TIER_PLAN_BUFFERED};
    struct tier_fold_stale stale = stale_of(&s, NULL);
    struct tier_update_header h = header_for(s.m, 1000);
    struct tier_hash id, sum, again;
    int64_t full = 64 * 1000;

    h.round = NOW - 3;
    h.base_model = base_of(h.round);
    h.metrics = tier_metrics_new();
    MUST(tier_metrics_add(h.metrics, TIER_STALE_METRIC, 1, &full, err));
    MUST(tier_stale_check(&p, &h, err));
    MUST(tier_update_seal_f32(s.spool, &h, s.m, s.x[0], false, &id, err));
    tier_metrics_free(h.metrics);
    MUST(fold(&s, &id, 1, &stale, NOW, &sum, err));
    struct tier_update *u = update_open(s.spool, &sum);
    MUST(tier_stale_check(&p, tier_spool_update_header(u), err));
    CHECK(tier_stale_full_weight(tier_spool_update_header(u)) == 64 * 32 * 1000);
    tier_spool_update_close(u);
    stale = stale_of(&s, &sum); /* and as a partial it stays what it is */
    MUST(fold(&s, &sum, 1, &stale, NOW, &again, err));
    CHECK(metric(&s, &again, TIER_STALE_METRIC) == 64 * 32 * 1000);
    scene_down(&s);
}

Test(tier_stale, what_is_too_old_or_from_another_model_is_refused) {
    struct scene s = scene_up(4);
    struct tier_fold_stale stale = stale_of(&s, NULL);
    struct tier_hash id = sealed_in(&s, NOW - 4, 3, s.x[0]), out;
    REFUSED(TIER_EUPDATE, "another round", fold(&s, &id, 1, &stale, NOW, &out, err));
    id = sealed_in(&s, NOW + 1, 3, s.x[0]);
    REFUSED(TIER_EUPDATE, "another round", fold(&s, &id, 1, &stale, NOW, &out, err));
    id = sealed_in(&s, NOW - 1, 3, s.x[0]);
    REFUSED(TIER_EUPDATE, "another round", fold(&s, &id, 1, NULL, NOW, &out, err));
    s.versions[0].base_model.b[3] ^= 1;
    REFUSED(TIER_EUPDATE, "another base model", fold(&s, &id, 1, &stale, NOW, &out, err));
    scene_down(&s);
}

/* A sum is within its own weight's bound, not in that of the weight that it counts with. */
Test(tier_stale, sums_are_checked_before_they_are_multiplied) {
    struct scene s = scene_up(5);
    struct tier_fold_stale stale = stale_of(&s, NULL);
    struct tier_update_header h = header_for(s.m, 4);
    int64_t hi[1200] = {0}, lo[300] = {0};
    uint8_t payload[1 << 15];
    struct tier_hash id, out;
    h.encoding = TIER_ENC_SUM;
    for (int over = 0; over < 2; over++) {
        hi[700] = -(INT64_C(4) << 30) - over;
        size_t n = tier_segment_pack(hi, 1200, lo, 300, payload);
        tier_put_u32(payload + n, (uint32_t)n);
        h.payload_bytes = n + 4;
        id = sealed_raw(s.spool, &h, payload, n + 4);
        if (over)
            REFUSED(TIER_EUPDATE, "tensor a, element 700 is the sum -4294967297",
                    fold(&s, &id, 1, &stale, NOW, &out, err));
        else
            MUST(fold(&s, &id, 1, &stale, NOW, &out, err));
    }
    scene_down(&s);
}

Test(tier_stale, weights_that_pass_their_bounds_when_multiplied_are_refused) {
    struct scene s = scene_up(6);
    struct tier_fold_stale stale = stale_of(&s, NULL);
    struct tier_hash out, two[3] = {sealed_in(&s, NOW, TIER_WEIGHT_MAX / 64 + 1, s.x[0])};
    REFUSED(TIER_ELIMIT, "times 64", fold(&s, two, 1, &stale, NOW, &out, err));
    two[0] = sealed_in(&s, NOW - 1, TIER_WEIGHT_MAX / 64 + 1, s.x[0]);
    MUST(fold(&s, two, 1, &stale, NOW, &out, err));
    for (int i = 0; i < 3; i++)
        two[i] = sealed_in(&s, NOW, TIER_WEIGHT_MAX / 64, s.x[i]);
    MUST(fold(&s, two, 2, &stale, NOW, &out, err));
    REFUSED(TIER_ELIMIT, "the weights of the updates to fold pass 4294967296",
            fold(&s, two, 3, &stale, NOW, &out, err));
    scene_down(&s);
}
