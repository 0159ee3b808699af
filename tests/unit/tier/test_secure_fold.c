/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of which a part is masked, and what masks them as a file. */
#include "support/tier_fixture.h"
#include "tier/content.h"
#include "tier/masked.h"
#include "tier/score.h"
#include "tier/secure_fold.h"
#include "tier/site.h"

#include <unistd.h>

TestSuite(tier_secure_fold, .fini = fixture_down);

static struct tier_spool *spool;
static struct tier_manifest *manifest;
static struct tier_plan plan = {.weight_total_max = TIER_WEIGHT_TOTAL_MAX};
/* The first is between the two masked children, the others their own. */
static const struct tier_mask_term of_first[] = {{{1}, false}, {{2}, false}};
static const struct tier_mask_term of_second[] = {{{1}, true}, {{3}, false}};
static const struct tier_mask_term of_sum[] = {{{2}, true}, {{3}, true}};

static struct tier_fold fold_of(const struct tier_hash *ids, size_t n) {
    struct tier_update_header h = header_for(manifest, 1);
    return (struct tier_fold){.spool = spool,
                              .manifest = manifest,
                              .run = h.run,
                              .round = h.round,
                              .base_model = h.base_model,
                              .inputs = ids,
                              .count = n,
                              .threads = 1,
                              .memory_bytes = tier_fold_memory_min(manifest, n)};
}

static struct tier_hash masked(const struct tier_hash *visible,
                               const struct tier_mask_term *terms) {
    struct tier_hash id;
    MUST(tier_masked_seal(spool, visible, manifest, 0, terms, 2, &id, err));
    return id;
}

static struct tier_hash with_metric(uint64_t weight, const char *name, int64_t value,
                                    uint64_t *seed) {
    struct tier_update_header h = header_for(manifest, weight);
    float *x = deltas_random(manifest, 0.1, seed);
    struct tier_hash id;
    h.metrics = tier_metrics_new();
    MUST(tier_metrics_add(h.metrics, name, 1, &value, err));
    MUST(tier_update_seal_f32(spool, &h, manifest, x, false, &id, err));
    tier_metrics_free(h.metrics);
    free(x);
    return id;
}

static void up(void) {
    spool = spool_up(false);
    manifest = manifest_small();
}

static void down(void) {
    tier_spool_close(spool);
    tier_manifest_free(manifest);
}

static enum tier_status secure_run(const struct tier_hash *hidden, const struct tier_hash *all,
                                   size_t n, struct tier_hash *out, struct tier_err *err) {
    const struct tier_secure_fold secure = {&plan, of_sum, 2, hidden, 2};
    const struct tier_fold fold = fold_of(all, n);
    return tier_secure_fold_run(&secure, &fold, out, err);
}

Test(tier_secure_fold, masked_and_open_inputs_give_the_sum_of_all_in_the_open) {
    uint64_t seed = 5;
    struct tier_hash visible[3], want, got, alone, part;

    up();
    for (int i = 0; i < 3; i++)
        visible[i] = sealed_random(spool, manifest, 10 + (uint64_t)i, &seed);
    struct tier_fold fold = fold_of(visible, 3), last = fold_of(visible + 2, 1);
    MUST(tier_fold_run(&fold, &want, err));
    MUST(tier_fold_run(&last, &part, err)); /* a hub's, of its own spokes */
    const struct tier_hash hidden[] = {masked(&visible[0], of_first),
                                       masked(&visible[1], of_second)};
    const struct tier_hash all[] = {hidden[0], part, hidden[1]};
    MUST(secure_run(hidden, all, 3, &got, err));
    CHECK(tier_hash_equal(&got, &want));
    /* And without the hub's, and what was made on the way is gone. */
    fold = fold_of(visible, 2);
    MUST(tier_fold_run(&fold, &alone, err));
    CHECK(tier_spool_has(spool, &alone));
    tier_spool_delete(spool, &alone, NULL);
    MUST(secure_run(hidden, all, 3, &got, err));
    CHECK(!tier_spool_has(spool, &alone));
    MUST(secure_run(hidden, hidden, 2, &got, err));
    CHECK(tier_hash_equal(&got, &alone));
    /* With nothing masked it is a fold as ever. */
    const struct tier_secure_fold none = {.plan = &plan};
    fold = fold_of(visible, 3);
    MUST(tier_secure_fold_run(&none, &fold, &got, err));
    CHECK(tier_hash_equal(&got, &want));
    down();
}

Test(tier_secure_fold, a_sum_that_no_honest_updates_have_is_refused_and_leaves_no_file) {
    uint64_t seed = 6;
    struct tier_hash got, visible[2], sum;

    up();
    for (int round = 0; round < 3; round++) {
        const char *name = round == 1 ? "who.knows" : TIER_SCORE_COUNT;
        plan.weight_total_max = round == 0 ? 20 : TIER_WEIGHT_TOTAL_MAX;
        for (int i = 0; i < 2; i++)
            visible[i] = with_metric(11, name, round == 2 ? -5 : 5, &seed);
        const struct tier_hash hidden[] = {masked(&visible[0], of_first),
                                           masked(&visible[1], of_second)};
        REFUSED(TIER_EUPDATE, round == 0 ? "weight_total_max" : "of no one child",
                secure_run(hidden, hidden, 2, &got, err));
        struct tier_fold fold = fold_of(visible, 2);
        MUST(tier_fold_run(&fold, &sum, err));
        tier_spool_delete(spool, &sum, NULL);
        for (int i = 0; i < 2; i++) { /* the twin was never left there */
            CHECK(tier_spool_has(spool, &hidden[i]));
            tier_spool_delete(spool, &hidden[i], NULL);
            tier_spool_delete(spool, &visible[i], NULL);
        }
    }
    plan.weight_total_max = TIER_WEIGHT_TOTAL_MAX;
    down();
}

/* With privacy.site the weight is the number of sites whose noise the sum has. */
Test(tier_secure_fold, one_site_weighs_no_more_than_one_where_sites_are_protected) {
    uint64_t seed = 9;
    struct tier_hash got, visible[2];

    up();
    plan.site.clip = 1;
    for (unsigned weight = 1; weight <= 2; weight++) {
        visible[0] = sealed_random(spool, manifest, 1, &seed);
        visible[1] = sealed_random(spool, manifest, weight, &seed);
        const struct tier_hash hidden[] = {masked(&visible[0], of_first),
                                           masked(&visible[1], of_second)};
        if (weight == 1)
            MUST(secure_run(hidden, hidden, 2, &got, err));
        else
            REFUSED(TIER_EUPDATE, "each weighs 1", secure_run(hidden, hidden, 2, &got, err));
    }
    visible[1] = with_metric(1, TIER_SITE_METRIC, 5, &seed);
    visible[0] = with_metric(1, TIER_SITE_METRIC, 5, &seed);
    const struct tier_hash told[] = {masked(&visible[0], of_first), masked(&visible[1], of_second)};
    REFUSED(TIER_EUPDATE, "the plan's clip stays", secure_run(told, told, 2, &got, err));
    plan.site.clip = 0;
    down();
}

/* Deviation 0.1 at 13 parameters: far below 4, and far above a thousandth. */
Test(tier_secure_fold, a_sum_whose_mean_passes_the_plans_norm_is_refused) {
    const double most[] = {0, 4, 1e-3};
    uint64_t seed = 8;
    struct tier_hash got, visible[2];

    up();
    for (int i = 0; i < 2; i++)
        visible[i] = sealed_random(spool, manifest, 3, &seed);
    const struct tier_hash hidden[] = {masked(&visible[0], of_first),
                                       masked(&visible[1], of_second)};
    for (size_t i = 0; i < 2; i++) {
        plan.secure.norm_max = most[i];
        MUST(secure_run(hidden, hidden, 2, &got, err));
    }
    plan.secure.norm_max = most[2];
    REFUSED(TIER_EUPDATE, "no mean of changes", secure_run(hidden, hidden, 2, &got, err));
    plan.secure.norm_max = 0;
    down();
}

/* One element of 0.5 and a state of 100: the norm is that of the first. */
Test(tier_secure_fold, the_norm_is_of_the_parameters_and_not_of_states) {
    struct tier_hash sum;

    up();
    struct tier_update_header h = header_for(manifest, 7);
    float *x = calloc(manifest->elements, sizeof *x);
    struct tier_hash id;
    x[3] = 0.5f;
    x[13] = 100;
    MUST(tier_update_seal_f32(spool, &h, manifest, x, false, &id, err));
    struct tier_fold fold = fold_of(&id, 1);
    MUST(tier_fold_run(&fold, &sum, err));
    struct tier_update *u = update_open(spool, &sum);
    plan.secure.norm_max = 0.5;
    MUST(tier_secure_norm_check(&plan, u, manifest, err));
    plan.secure.norm_max = 0.4999;
    REFUSED(TIER_EUPDATE, "norm 0.5", tier_secure_norm_check(&plan, u, manifest, err));
    /* Rounding to 32 bits may have added a unit of 2^-14 to each element. */
    plan.secure.bits = TIER_PLAN_BITS_32;
    plan.weight_total_max = 65536;
    MUST(tier_secure_norm_check(&plan, u, manifest, err));
    plan.secure.norm_max = 0.499;
    REFUSED(TIER_EUPDATE, "norm 0.5", tier_secure_norm_check(&plan, u, manifest, err));
    plan.secure.bits = TIER_PLAN_BITS_64;
    plan.weight_total_max = TIER_WEIGHT_TOTAL_MAX;
    plan.secure.norm_max = 0;
    tier_spool_update_close(u);
    free(x);
    down();
}

/* The same masks for other updates leave noise, which is no sum. */
Test(tier_secure_fold, masks_of_another_sum_are_found_out) {
    uint64_t seed = 7;
    struct tier_hash got, visible[2];

    up();
    for (int i = 0; i < 2; i++)
        visible[i] = with_metric(3, TIER_SCORE_COUNT, 5, &seed);
    const struct tier_hash hidden[] = {masked(&visible[0], of_first),
                                       masked(&visible[1], of_first)};
    REFUSED(TIER_EUPDATE, "unmasked", secure_run(hidden, hidden, 2, &got, err));
    down();
}

Test(tier_secure_fold, masks_come_back_from_their_file_and_an_altered_one_is_refused) {
    struct tier_mask_term *back = NULL;
    struct tier_hash hash, none;
    size_t count = 0;

    fixture_up();
    MUST(tier_secure_terms_store(fixture_dir, of_second, 2, &hash, err));
    char *path = tier_content_path(fixture_dir, &hash, TIER_SECURE_TERMS);
    MUST(tier_secure_terms_load(path, &hash, &back, &count, err));
    CHECK(count == 2 && back[0].minus && !back[1].minus);
    CHECK(memcmp(back[0].key, of_second[0].key, TIER_MASK_KEY_BYTES) == 0);
    CHECK(memcmp(back[1].key, of_second[1].key, TIER_MASK_KEY_BYTES) == 0);
    tier_mask_terms_free(back, count);
    tier_hash_data("another", 7, &none);
    REFUSED(TIER_ECORRUPT, "altered", tier_secure_terms_load(path, &none, &back, &count, err));

    FILE *f = fopen(path, "r+b");
    cr_assert(f != NULL);
    fseek(f, 20, SEEK_SET);
    fputc(0x55, f);
    fclose(f);
    REFUSED(TIER_ECORRUPT, "altered", tier_secure_terms_load(path, &hash, &back, &count, err));
    CHECK(truncate(path, 12 + 33 + 32) == 0);
    REFUSED(TIER_ECORRUPT, "cut off", tier_secure_terms_load(path, &hash, &back, &count, err));
    CHECK(truncate(path, 11) == 0);
    REFUSED(TIER_ECORRUPT, "no file of masks",
            tier_secure_terms_load(path, &hash, &back, &count, err));
    /* A sign that is neither, under the name of what it is. */
    f = fopen(path, "wb");
    cr_assert(f != NULL);
    uint8_t odd[12 + 33] = "consmsk1\x01";
    odd[12 + 32] = 2;
    fwrite(odd, 1, sizeof odd, f);
    fclose(f);
    tier_hash_data(odd, sizeof odd, &none);
    REFUSED(TIER_ECORRUPT, "no file of masks",
            tier_secure_terms_load(path, &none, &back, &count, err));
    f = fopen(path, "wb");
    cr_assert(f != NULL);
    fwrite("consmsk1\xff\xff\xff\xff", 1, 12, f);
    fclose(f);
    REFUSED(TIER_ECORRUPT, "no file of masks",
            tier_secure_terms_load(path, &hash, &back, &count, err));
    CHECK(unlink(path) == 0);
    REFUSED(TIER_ENOTFOUND, "cannot be read",
            tier_secure_terms_load(path, &hash, &back, &count, err));
    free(path);
}
