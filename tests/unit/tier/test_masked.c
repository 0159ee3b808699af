/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Masked updates: their unmasked sum is the update that folding the open ones gives, by its id, and
 * so are the sums of sums above it, whatever the tree and whoever is lost.
 */
#include "support/mask_round.h"
#include "support/tier_fixture.h"
#include "tier/masked.h"
#include "tier/narrow.h"
#include "tier/score.h"

TestSuite(tier_masked, .fini = fixture_down);

static struct tier_spool *spool;
static struct tier_manifest *manifest;
static unsigned shift; /* 0: sums of 64 bits */

static enum tier_status fold_open(const struct tier_hash *ids, size_t n, struct tier_hash *out,
                                  struct tier_err *err) {
    struct tier_update_header h = header_for(manifest, 1);
    struct tier_fold fold = {.spool = spool,
                             .manifest = manifest,
                             .run = h.run,
                             .round = h.round,
                             .base_model = h.base_model,
                             .inputs = ids,
                             .count = n,
                             .threads = 1,
                             .memory_bytes = tier_fold_memory_min(manifest, n)};
    return tier_fold_run(&fold, out, err);
}

static enum tier_status fold_masked(const struct tier_hash *ids, size_t n,
                                    const struct tier_mask_term *terms, size_t term_count,
                                    struct tier_hash *out, struct tier_err *err) {
    struct tier_update_header h = header_for(manifest, 1);
    struct tier_masked_fold fold = {.spool = spool,
                                    .manifest = manifest,
                                    .shift = shift,
                                    .run = h.run,
                                    .round = h.round,
                                    .base_model = h.base_model,
                                    .inputs = ids,
                                    .count = n,
                                    .terms = terms,
                                    .term_count = term_count};
    return tier_masked_fold(&fold, out, err);
}

/* An update as a spoke seals it, with weight (1 in 32 bits), metrics and now and then no training
 * at all. */
static struct tier_hash sealed_open(uint64_t *seed, bool trains, int64_t value) {
    struct tier_update_header h =
        header_for(manifest, trains ? 1 + rng_below(seed, shift ? 1 : 5000) : 0);
    const struct tier_seal_as as = {.narrow = shift, .key = rng_next(seed)};
    int64_t values[3] = {value, -3, (int64_t)rng_below(seed, 1000)},
            loss = (int64_t)rng_below(seed, 1000);
    float *x = deltas_random(manifest, 0.1, seed);
    struct tier_hash id;

    h.metrics = tier_metrics_new();
    h.saturated = trains ? rng_below(seed, 4) : 0;
    MUST(tier_metrics_add(h.metrics, "hist", 3, values, err));
    MUST(tier_metrics_add(h.metrics, TIER_SCORE_LOSS, 1, &loss, err));
    MUST(tier_update_seal(spool, &h, manifest, trains ? x : NULL, false, &as, &id, err));
    tier_metrics_free(h.metrics);
    free(x);
    return id;
}

/* ---- one region ---- */

struct region {
    struct tier_hash open[RING_CHILDREN_MAX], masked[RING_CHILDREN_MAX];
    size_t count; /* whose updates came */
};

/* A round of the protocol with real updates behind it. False: it was given up. */
static bool region_round(struct ring *g, struct region *r, uint64_t *seed, unsigned percent) {
    r->count = 0;
    for (int step = 0; step < 5; step++) {
        if (tier_mask_parent_open(g->p) != TIER_MASK_DELIVER) {
            ring_step(g, rng_below(seed, 2) ? percent : 0);
        } else {
            for (unsigned i = 0; i < g->count; i++) {
                struct ring_child *k = &g->child[i];
                struct tier_mask_term *terms;
                size_t n;
                if (k->gone || (k->gone = rng_below(seed, 100) < percent))
                    continue;
                MUST(ring_talk(g, k, err));
                MUST(tier_mask_child_terms(k->c, &terms, &n, err));
                struct tier_hash open = sealed_open(seed, rng_below(seed, 8) > 0, (int64_t)i - 2);
                MUST(tier_masked_seal(spool, &open, manifest, shift, terms, n, &r->masked[r->count],
                                      err));
                r->open[r->count++] = open;
                tier_mask_terms_free(terms, n);
                MUST(tier_mask_parent_masked(g->p, k->name, err));
            }
        }
        if (tier_mask_parent_close(g->p, NULL) != TIER_OK)
            return false;
    }
    return true;
}

static void drop(struct tier_hash *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        tier_spool_delete(spool, &ids[i], NULL);
}

/* ---- trees ---- */

/* Regions of 3 to 6 children below a top. Open updates are folded flat; masked ones region by
 * region, and their sums by the top. */
static unsigned tree_is_the_same(uint64_t *seed, unsigned percent) {
    static struct ring g;
    static struct region r[4];
    struct tier_hash all[64], sums[4], flat, top;
    size_t regions = 1 + rng_below(seed, 4), n = 0, open = 0;

    for (size_t k = 0; k < regions; k++) {
        size_t count;
        ring_open(&g, 3 + (unsigned)rng_below(seed, 4), 2, 0.51, rng_next(seed) >> 8);
        if (region_round(&g, &r[k], seed, percent)) {
            const struct tier_mask_term *terms = tier_mask_parent_terms(g.p, &count);
            struct tier_hash visible;
            MUST(fold_masked(r[k].masked, r[k].count, terms, count, &sums[n], err));
            MUST(fold_open(r[k].open, r[k].count, &visible, err));
            CHECK(tier_hash_equal(&sums[n], &visible));
            memcpy(all + open, r[k].open, r[k].count * sizeof *all);
            open += r[k].count;
            n++;
        }
        drop(r[k].masked, r[k].count);
        ring_close(&g);
    }
    if (n > 0) {
        MUST(fold_open(all, open, &flat, err));
        MUST(fold_open(sums, n, &top, err));
        CHECK(tier_hash_equal(&flat, &top));
        drop(all, open);
        drop(sums, n);
        drop(&flat, 1);
    }
    return (unsigned)n;
}

Test(tier_masked, the_unmasked_sum_is_the_visible_one_over_random_trees_and_losses) {
    uint64_t seed = 1;
    unsigned sums = 0;

    spool = spool_up(false);
    manifest = manifest_small();
    for (int i = 0; i < 120; i++)
        sums += tree_is_the_same(&seed, (unsigned)(i * 7 % 41));
    CHECK(sums > 100, "%u", sums);
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

Test(tier_masked, several_segments_and_wide_tensors_give_the_visible_sum_too) {
    struct tier_tensor t[] = {tensor_of("body", 1000, 300, 30, false),
                              tensor_of("bn.running_var", 3001, 0, 12, true),
                              tensor_of("head", 70, 1001, 28, false)};
    uint64_t seed = 2;

    spool = spool_up(false);
    manifest = manifest_of(t, 3);
    CHECK(tree_is_the_same(&seed, 0) > 0);
    CHECK(tree_is_the_same(&seed, 15) > 0);
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

Test(tier_masked, every_codec_has_a_masked_twin) {
    static const enum tier_encoding all[] = {TIER_ENC_F16, TIER_ENC_BF16, TIER_ENC_Q8,
                                             TIER_ENC_TOPK, TIER_ENC_ONEBIT};
    struct tier_tensor t = tensor_of("w", 40, 50, 30, false);
    struct tier_mask_term plus = {.key = {1}}, minus = {.key = {1}, .minus = true};
    uint64_t seed = 3;

    spool = spool_up(false);
    manifest = manifest_of(&t, 1);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        for (int zip = 0; zip < 2; zip++) {
            struct tier_update_header h = header_for(manifest, 9);
            const struct tier_seal_as as = {
                .encoding = all[i], .share = 0.1, .zip = zip && all[i] != TIER_ENC_ONEBIT};
            struct tier_hash open, masked, sum, visible;
            float *x = deltas_random(manifest, 0.1, &seed);
            MUST(tier_update_seal(spool, &h, manifest, x, false, &as, &open, err));
            MUST(tier_masked_seal(spool, &open, manifest, 0, &plus, 1, &masked, err));
            MUST(fold_masked(&masked, 1, &minus, 1, &sum, err));
            MUST(fold_open(&open, 1, &visible, err));
            CHECK(tier_hash_equal(&sum, &visible), "%s", tier_encoding_text(all[i]));
            free(x);
        }
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

Test(tier_masked, evaluations_alone_give_their_metrics) {
    struct tier_mask_term plus = {.key = {1}}, minus = {.key = {1}, .minus = true};
    struct tier_hash open, masked, sum, visible;
    uint64_t seed = 4;

    spool = spool_up(false);
    manifest = manifest_small();
    open = sealed_open(&seed, false, 5);
    MUST(tier_masked_seal(spool, &open, manifest, 0, &plus, 1, &masked, err));
    MUST(fold_masked(&masked, 1, &minus, 1, &sum, err));
    MUST(fold_open(&open, 1, &visible, err));
    CHECK(tier_hash_equal(&sum, &visible));
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

/* ---- what a masked update shows ---- */

Test(tier_masked, a_masked_update_says_neither_weight_nor_counts_nor_metrics) {
    struct tier_mask_term plus = {.key = {1}};
    uint64_t seed = 5;

    spool = spool_up(false);
    manifest = manifest_small();
    struct tier_hash open = sealed_open(&seed, true, 5), masked;
    MUST(tier_masked_seal(spool, &open, manifest, 0, &plus, 1, &masked, err));
    struct tier_update *u = update_open(spool, &masked);
    const struct tier_update_header *h = tier_spool_update_header(u);
    CHECK(h->weight == 1 && h->saturated == 0 && h->encoding == TIER_ENC_MASKED);
    CHECK(tier_metrics_count(h->metrics) == 2);
    CHECK(tier_metrics_scalar(h->metrics, "hist") == 0);
    CHECK(h->payload_bytes == 8 * (manifest->elements + manifest->wide_elements + 2 + 4));
    tier_spool_update_close(u);
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

Test(tier_masked, a_masked_header_that_says_more_is_refused) {
    struct tier_update_header h;
    struct tier_metrics *metrics = tier_metrics_new();
    int64_t value = 0;
    uint8_t *bytes;
    size_t n;

    manifest = manifest_small();
    h = header_for(manifest, 1);
    h.encoding = TIER_ENC_MASKED;
    h.metrics = metrics;
    h.payload_bytes = 8;
    MUST(tier_metrics_add(metrics, "loss", 1, &value, err));
    MUST(tier_update_header_encode(&h, &bytes, &n, err));
    free(bytes);
    h.weight = 2;
    REFUSED(TIER_EARG, "in the clear", tier_update_header_encode(&h, &bytes, &n, err));
    h.weight = 1;
    h.saturated = 1;
    REFUSED(TIER_EARG, "in the clear", tier_update_header_encode(&h, &bytes, &n, err));
    h.saturated = 0;
    value = 7;
    MUST(tier_metrics_add(metrics, "loss", 1, &value, err));
    REFUSED(TIER_EARG, "in the clear", tier_update_header_encode(&h, &bytes, &n, err));

    /* The same as bytes of a child that knows no such rule. */
    h.encoding = TIER_ENC_F32;
    h.payload_bytes = 8;
    MUST(tier_update_header_encode(&h, &bytes, &n, err));
    bytes[128] = TIER_ENC_MASKED;
    REFUSED(TIER_EUPDATE, "in the clear", tier_update_header_decode(bytes, n, &h, err));
    free(bytes);
    tier_metrics_free(metrics);
    tier_manifest_free(manifest);
}

Test(tier_masked, nobody_reads_one_alone) {
    struct tier_mask_term plus = {.key = {1}};
    struct tier_hash masked, out;
    uint64_t seed = 6;

    spool = spool_up(false);
    manifest = manifest_small();
    struct tier_hash open = sealed_open(&seed, true, 5);
    MUST(tier_masked_seal(spool, &open, manifest, 0, &plus, 1, &masked, err));
    struct tier_update *u = update_open(spool, &masked);
    REFUSED(TIER_EUPDATE, "is masked", tier_update_verify(u, manifest, err));
    REFUSED(TIER_EUPDATE, "is masked", fold_open(&masked, 1, &out, err));
    REFUSED(TIER_EUPDATE, "is masked",
            tier_masked_seal(spool, &masked, manifest, 0, &plus, 1, &out, err));
    tier_spool_update_close(u);
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

/* ---- what is no sum ---- */

Test(tier_masked, updates_that_do_not_belong_together_are_refused) {
    struct tier_mask_term plus = {.key = {1}}, minus = {.key = {1}, .minus = true};
    struct tier_hash ids[2], out;
    uint64_t seed = 7;

    spool = spool_up(false);
    manifest = manifest_small();
    struct tier_hash open = sealed_open(&seed, true, 5);
    struct tier_hash other = sealed_random(spool, manifest, 3, &seed); /* without metrics */
    MUST(tier_masked_seal(spool, &open, manifest, 0, &plus, 1, &ids[0], err));
    MUST(tier_masked_seal(spool, &other, manifest, 0, NULL, 0, &ids[1], err));
    REFUSED(TIER_EUPDATE, "other metrics", fold_masked(ids, 2, &minus, 1, &out, err));
    ids[1] = open;
    REFUSED(TIER_EUPDATE, "is not masked", fold_masked(ids, 2, &minus, 1, &out, err));
    struct tier_update_header h = header_for(manifest, 1);
    struct tier_masked_fold fold = {.spool = spool,
                                    .manifest = manifest,
                                    .run = h.run,
                                    .round = h.round + 1,
                                    .base_model = h.base_model,
                                    .inputs = ids,
                                    .count = 1,
                                    .terms = &minus,
                                    .term_count = 1};
    REFUSED(TIER_EUPDATE, "another run, round", tier_masked_fold(&fold, &out, err));
    fold.count = 0;
    REFUSED(TIER_EARG, "1 to", tier_masked_fold(&fold, &out, err));
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

/* With a mask too many, or a child that sent anything: weights, or elements, give it away. */
Test(tier_masked, what_comes_out_wrong_is_refused_and_leaves_no_file) {
    struct tier_mask_term plus = {.key = {1}}, minus = {.key = {1}, .minus = true};
    struct tier_hash masked, raw, out, ids[2];
    uint64_t seed = 8;

    spool = spool_up(false);
    manifest = manifest_small();
    struct tier_hash open = sealed_random(spool, manifest, 3, &seed);
    MUST(tier_masked_seal(spool, &open, manifest, 0, &plus, 1, &masked, err));
    size_t files = files_in(fixture_path("spool"));
    REFUSED(TIER_EUPDATE, "under masks it cannot be told which",
            fold_masked(&masked, 1, NULL, 0, &out, err));
    CHECK(files_in(fixture_path("spool")) == files);

    int64_t words[18 + 5 + 2] = {[3] = INT64_C(1) << 40}; /* weight 0: all may be of others */
    struct tier_update_header h = header_for(manifest, 1);
    h.encoding = TIER_ENC_MASKED;
    raw = sealed_raw(spool, &h, words, sizeof words);
    files++;
    ids[0] = masked;
    ids[1] = raw;
    REFUSED(TIER_EUPDATE, "unmasked, of no one child", fold_masked(ids, 2, &minus, 1, &out, err));
    CHECK(files_in(fixture_path("spool")) == files);
    tier_manifest_free(manifest);
    tier_spool_close(spool);
}

/* ---- 32 bits ---- */

static void up_narrow(unsigned sites) {
    struct tier_tensor t[] = {tensor_of("body", 1000, 300, 30, false),
                              tensor_of("bn.running_var", 3001, 0, -7, false),
                              tensor_of("head", 70, 1001, 41, false)};

    spool = spool_up(false);
    shift = tier_narrow_shift_for(sites);
    manifest = manifest_of(t, 3);
    CHECK(manifest->elements % 2 == 1 && tier_manifest_segments(manifest) > 1);
}

static void down_narrow(void) {
    tier_manifest_free(manifest);
    tier_spool_close(spool);
    shift = 0;
}

Test(tier_masked, in_32_bits_the_unmasked_sum_is_the_visible_one_whoever_is_lost) {
    struct tier_tensor t = tensor_of("w", 37, 1, 30, false);
    uint64_t seed = 11;
    unsigned sums = 0;

    spool = spool_up(false);
    manifest = manifest_of(&t, 1);
    for (int i = 0; i < 120; i++) {
        shift = tier_narrow_shift_for(i % 2 ? 24 : TIER_NARROW_SITES_MAX);
        sums += tree_is_the_same(&seed, (unsigned)(i * 7 % 41));
    }
    CHECK(sums > 100, "%u", sums);
    down_narrow();
    up_narrow(24);
    CHECK(tree_is_the_same(&seed, 0) > 0);
    for (sums = 0; sums == 0;) /* of some tries nothing comes */
        sums = tree_is_the_same(&seed, 10);
    down_narrow();
}

/* As many as the plan has room for, all at the same end of their clip. */
Test(tier_masked, in_32_bits_as_many_sites_as_there_may_be_fit_at_their_clips) {
    static const unsigned sites[] = {1, 2, 3, 4, 5, 63, 64};
    struct tier_tensor t = tensor_of("w", 9, 1, 30, false);
    struct tier_hash open[64], masked[64], sum, visible;

    for (size_t k = 0; k < sizeof sites / sizeof sites[0]; k++) {
        spool = spool_up(false);
        manifest = manifest_of(&t, 1);
        shift = tier_narrow_shift_for(sites[k]);
        for (unsigned i = 0; i < sites[k]; i++) {
            struct tier_update_header h = header_for(manifest, 1);
            const struct tier_seal_as as = {.narrow = shift, .key = i};
            float x[9];
            for (int e = 0; e < 9; e++)
                x[e] = e % 2 ? 1.0f : e == 4 ? (float)i * 0x1p-24f : -1.0f;
            h.round += k;
            MUST(tier_update_seal(spool, &h, manifest, x, false, &as, &open[i], err));
            MUST(tier_masked_seal(spool, &open[i], manifest, shift, NULL, 0, &masked[i], err));
        }
        struct tier_update_header h = header_for(manifest, 1);
        struct tier_masked_fold f = {.spool = spool,
                                     .manifest = manifest,
                                     .shift = shift,
                                     .run = h.run,
                                     .round = h.round + k,
                                     .base_model = h.base_model,
                                     .inputs = masked,
                                     .count = sites[k]};
        struct tier_fold plain = {.spool = spool,
                                  .manifest = manifest,
                                  .run = h.run,
                                  .round = h.round + k,
                                  .base_model = h.base_model,
                                  .inputs = open,
                                  .count = sites[k],
                                  .threads = 1,
                                  .memory_bytes = tier_fold_memory_min(manifest, sites[k])};
        MUST(tier_masked_fold(&f, &sum, err));
        MUST(tier_fold_run(&plain, &visible, err));
        CHECK(tier_hash_equal(&sum, &visible), "%u sites", sites[k]);
        tier_spool_close(spool);
        tier_manifest_free(manifest);
        shift = 0;
    }
}

/* Of zeros a masked update is the mask itself: every bit of it is used once. */
Test(tier_masked, in_32_bits_an_element_takes_four_bytes_and_no_bit_of_a_mask_is_used_twice) {
    const struct tier_mask_term term = {.key = {7}};
    struct tier_mask_pad *pad = tier_mask_pad_new();
    struct tier_tensor t = tensor_of("w", 37, 1, 30, false);
    struct tier_hash open, masked;
    uint64_t mask[19 + 2] = {0};
    uint8_t got[4 * 37 + 16];
    float x[37] = {0};

    spool = spool_up(false);
    manifest = manifest_of(&t, 1);
    struct tier_update_header h = header_for(manifest, 1);
    const struct tier_seal_as as = {.narrow = 4};
    MUST(tier_update_seal(spool, &h, manifest, x, false, &as, &open, err));
    MUST(tier_masked_seal(spool, &open, manifest, 4, &term, 1, &masked, err));
    struct tier_update *u = update_open(spool, &masked);
    CHECK(tier_spool_update_header(u)->encoding == TIER_ENC_MASKED32);
    CHECK(tier_spool_update_header(u)->payload_bytes == sizeof got);
    MUST(tier_spool_update_read(u, 0, got, sizeof got, err));
    MUST(tier_mask_apply(pad, &term, 0, mask, 19 + 2, err));
    CHECK(memcmp(got, mask, 4 * 37) == 0);
    mask[19] += 1; /* the weight */
    CHECK(memcmp(got + 4 * 37, mask + 19, 16) == 0);
    REFUSED(TIER_EUPDATE, "is masked", tier_update_verify(u, manifest, err));
    tier_spool_update_close(u);
    tier_mask_pad_free(pad);
    down_narrow();
}

Test(tier_masked, in_32_bits_what_does_not_belong_there_is_refused) {
    const struct tier_mask_term plus = {.key = {1}}, minus = {.key = {1}, .minus = true};
    struct tier_hash open, masked, out;
    uint64_t seed = 12;

    up_narrow(24);
    shift = 0; /* sealed without being rounded */
    open = sealed_open(&seed, true, 5);
    shift = 5;
    struct tier_update_header h = header_for(manifest, 1);
    REFUSED(TIER_EUPDATE, "weighs",
            tier_masked_seal(spool, &open, manifest, 5, &plus, 1, &out, err));
    float *x = deltas_random(manifest, 0.1, &seed);
    MUST(tier_update_seal_f32(spool, &h, manifest, x, false, &open, err));
    REFUSED(TIER_EUPDATE, "no whole 2^5",
            tier_masked_seal(spool, &open, manifest, 5, &plus, 1, &out, err));
    MUST(tier_masked_seal(spool, &open, manifest, 0, &plus, 1, &masked, err));
    REFUSED(TIER_EUPDATE, "not masked in 32 bits", fold_masked(&masked, 1, &minus, 1, &out, err));
    open = sealed_open(&seed, true, 5);
    MUST(tier_masked_seal(spool, &open, manifest, 5, &plus, 1, &masked, err));
    MUST(fold_masked(&masked, 1, &minus, 1, &out, err));
    shift = 0;
    REFUSED(TIER_EUPDATE, "is not masked: in a", fold_masked(&masked, 1, &minus, 1, &out, err));
    shift = 5;
    size_t files = files_in(fixture_path("spool"));
    REFUSED(TIER_EUPDATE, "the weight", /* a mask too many */
            fold_masked(&masked, 1, NULL, 0, &out, err));
    CHECK(files_in(fixture_path("spool")) == files);
    free(x);
    down_narrow();

    /* A second limb has no place. */
    spool = spool_up(false);
    manifest = manifest_small();
    const struct tier_seal_as as = {.narrow = 3};
    h = header_for(manifest, 1);
    x = deltas_random(manifest, 0.1, &seed);
    REFUSED(TIER_EARG, "without wide",
            tier_update_seal(spool, &h, manifest, x, false, &as, &out, err));
    h.encoding = TIER_ENC_MASKED32;
    h.payload_bytes = 4 * manifest->elements + 16;
    REFUSED(TIER_EUPDATE, "wide tensors", tier_update_header_check(&h, manifest, err));
    free(x);
    down_narrow();
}
