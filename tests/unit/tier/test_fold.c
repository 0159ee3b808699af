/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/codec.h"
#include "tier/score.h"
#include "tier/task.h"

#include <signal.h>
#include <sys/resource.h>

#define SPOKES_MAX 12

static struct tier_fold fold_of(struct tier_spool *spool, const struct tier_manifest *m,
                                const struct tier_hash *ids, size_t n, unsigned threads) {
    struct tier_update_header h = header_for(m, 1);
    return (struct tier_fold){.spool = spool,
                              .manifest = m,
                              .run = h.run,
                              .round = h.round,
                              .base_model = h.base_model,
                              .inputs = ids,
                              .count = n,
                              .threads = threads,
                              .memory_bytes = threads * tier_fold_memory_min(m, n)};
}

static struct tier_hash folded(struct tier_spool *spool, const struct tier_manifest *m,
                               const struct tier_hash *ids, size_t n, unsigned threads) {
    struct tier_fold f = fold_of(spool, m, ids, n, threads);
    struct tier_hash id;
    MUST(tier_fold_run(&f, &id, err));
    return id;
}

static void shuffle(struct tier_hash *ids, size_t n, uint64_t *seed) {
    for (size_t i = n; i > 1; i--) {
        size_t j = rng_below(seed, i);
        struct tier_hash swap = ids[j];
        ids[j] = ids[i - 1];
        ids[i - 1] = swap;
    }
}

/* Folds through `tiers` tiers of hubs: in each, the ids are shuffled and cut into random regions.
 */
static struct tier_hash folded_as_tree(struct tier_spool *spool, const struct tier_manifest *m,
                                       const struct tier_hash *leaves, size_t n, int tiers,
                                       uint64_t *seed) {
    struct tier_hash ids[SPOKES_MAX];
    memcpy(ids, leaves, n * sizeof *ids);
    for (; tiers > 1; tiers--) {
        size_t up = 0;
        shuffle(ids, n, seed);
        for (size_t at = 0; at < n;) {
            size_t k = 1 + rng_below(seed, n - at < 4 ? n - at : 4);
            /* A region may hand up its only child's update as it is, or its sum of one. */
            struct tier_hash id = ids[at];
            if (k > 1 || rng_below(seed, 2))
                id = folded(spool, m, ids + at, k, 1 + (unsigned)rng_below(seed, 2));
            at += k;
            ids[up++] = id;
        }
        n = up;
    }
    shuffle(ids, n, seed);
    return folded(spool, m, ids, n, 1 + (unsigned)rng_below(seed, 2));
}

static struct tier_manifest *random_manifest(uint64_t *seed, uint64_t largest) {
    struct tier_tensor t[6];
    size_t n = 1 + rng_below(seed, 6);
    bool wide = rng_below(seed, 2), alike = rng_below(seed, 2);
    for (size_t i = 0; i < n; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%zu", i);
        t[i] =
            tensor_of(name, 1 + rng_below(seed, i == 0 ? largest : 3000), 0,
                      alike ? 30 : (int)rng_below(seed, 60) - 20, wide && rng_below(seed, 3) == 0);
    }
    return manifest_of(t, n);
}

/* One that the manifest allows, for one update: children of one round may differ. */
static struct tier_seal_as any_encoding(const struct tier_manifest *m, uint64_t *seed) {
    static const enum tier_encoding all[] = {TIER_ENC_F32,   TIER_ENC_F16, TIER_ENC_BF16,
                                             TIER_ENC_Q8,    TIER_ENC_Q4,  TIER_ENC_TOPK,
                                             TIER_ENC_ONEBIT};
    size_t pick = rng_below(seed, sizeof all / sizeof all[0]);
    bool blocks =
             all[pick] == TIER_ENC_Q8 || all[pick] == TIER_ENC_Q4 || all[pick] == TIER_ENC_ONEBIT,
         allowed = true;
    for (size_t i = 0; i < m->count; i++)
        allowed = allowed && !m->tensors[i].wide &&
                  (!blocks || m->tensors[i].frac_bits == m->tensors[0].frac_bits);
    return (struct tier_seal_as){.encoding = allowed ? all[pick] : TIER_ENC_F32,
                                 .key = rng_next(seed),
                                 .share = pow(rng_unit(seed), 3) * 0.999 + 1e-6};
}

static struct tier_hash spoke_update(struct tier_spool *spool, const struct tier_manifest *m,
                                     uint64_t weight, uint64_t *seed) {
    struct tier_update_header h = header_for(m, weight);
    struct tier_seal_as as = any_encoding(m, seed);
    struct tier_hash id;
    int64_t count = (int64_t)rng_below(seed, 1000), hist[64] = {0};
    float *x = deltas_random(m, 0.5, seed);
    h.metrics = tier_metrics_new();
    hist[rng_below(seed, 64)] = count;
    MUST(tier_metrics_add(h.metrics, "count", 1, &count, err));
    MUST(tier_metrics_add(h.metrics, "hist", 64, hist, err));
    MUST(tier_update_seal(spool, &h, m, weight > 0 ? x : NULL, false, &as, &id, err));
    tier_metrics_free(h.metrics);
    free(x);
    return id;
}

static struct tier_model *base_model(const struct tier_manifest *m, uint64_t *seed) {
    struct tier_model_writer *w = NULL;
    struct tier_model *model = NULL;
    struct tier_hash hash;
    float *x = deltas_random(m, 0.3, seed);
    MUST(tier_model_writer_begin(fixture_dir, m, NULL, 0, &w, err));
    MUST(tier_model_writer_append(w, x, m->elements, err));
    MUST(tier_model_writer_finish(w, &hash, err));
    free(x);
    char *path = tier_model_path(fixture_dir, &hash);
    const char *plain = fixture_path("base"); /* a name that claims no hash */
    CHECK(rename(path, plain) == 0);
    MUST(tier_model_open(plain, &model, err));
    free(path);
    return model;
}

static struct tier_hash published(struct tier_spool *spool, const struct tier_manifest *m,
                                  const struct tier_hash *sum, const struct tier_model *base) {
    static const struct tier_kv metadata[] = {{"round", "7"}};
    struct tier_hash hash;
    struct tier_update *u = update_open(spool, sum);
    MUST(tier_update_verify(u, m, err));
    MUST(tier_spool_update_check(u, err));
    MUST(tier_fold_publish(u, m, base, fixture_dir, metadata, 1, &hash, err));
    tier_spool_update_close(u);
    return hash;
}

static void same_bits(uint64_t seed, uint64_t largest, int trees) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = random_manifest(&seed, largest);
    struct tier_hash ids[SPOKES_MAX];
    size_t n = 2 + rng_below(&seed, SPOKES_MAX - 1);
    for (size_t i = 0; i < n; i++)
        ids[i] = spoke_update(spool, m, rng_below(&seed, 5) ? 1 + rng_below(&seed, 1 << 28) : i % 2,
                              &seed);
    ids[0] = spoke_update(spool, m, 1 + rng_below(&seed, 100), &seed);
    struct tier_model *base = base_model(m, &seed);
    struct tier_hash sum = folded(spool, m, ids, n, 1), model = published(spool, m, &sum, base);
    for (int tree = 0; tree < trees; tree++) {
        struct tier_hash again = folded_as_tree(spool, m, ids, n, 1 + tree % 4, &seed);
        CHECK(tier_hash_equal(&sum, &again), "tree %d of seed %llu", tree,
              (unsigned long long)seed);
        struct tier_hash other = published(spool, m, &again, base);
        CHECK(tier_hash_equal(&model, &other));
    }
    tier_model_close(base);
    tier_manifest_free(m);
    tier_spool_close(spool);
    fixture_down();
}

Test(tier_fold, every_tree_order_and_thread_count_gives_the_same_bits) {
    for (uint64_t seed = 0; seed < 40; seed++)
        same_bits(seed, 5000, 8);
}

Test(tier_fold, several_segments_give_the_same_bits_too) {
    for (uint64_t seed = 100; seed < 102; seed++)
        same_bits(seed, 3 * TIER_SEGMENT_ELEMENTS, 4);
}

Test(tier_fold, the_model_is_the_mean_by_its_definition, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", 400, 0, 30, false), tensor_of("b", 300, 0, 12, true)};
    struct tier_manifest *m = manifest_of(t, 2);
    uint64_t seed = 9, total = 0, weights[3] = {1, 77, 1000003};
    struct tier_hash ids[3];
    __int128 sums[700] = {
        0}; /* of round(x * 2^f * 2^30), which a float32 of this size needs none of */
    for (int c = 0; c < 3; c++) {
        struct tier_update_header h = header_for(m, weights[c]);
        float *x = deltas_random(m, 0.2, &seed);
        for (int i = 0; i < 700; i++) {
            double v = ldexp((double)x[i], i < 400 ? 30 : 42);
            sums[i] += (__int128)weights[c] * (int64_t)rint(v);
        }
        MUST(tier_update_seal_f32(spool, &h, m, x, false, &ids[c], err));
        total += weights[c];
        free(x);
    }
    struct tier_model *base = base_model(m, &seed), *next = NULL;
    struct tier_hash sum = folded(spool, m, ids, 3, 2), hash = published(spool, m, &sum, base);
    char *path = tier_model_path(fixture_dir, &hash);
    float before[700], after[700];
    MUST(tier_model_open(path, &next, err));
    MUST(tier_model_read(base, 0, 700, before, err));
    MUST(tier_model_read(next, 0, 700, after, err));
    for (int i = 0; i < 700; i++) {
        double mean = (double)sums[i] / (double)total * ldexp(1, i < 400 ? -30 : -42);
        CHECK(after[i] == (float)((double)before[i] + mean), "element %d", i);
    }
    struct tier_update *u = update_open(spool, &sum);
    cr_assert(eq(u64, tier_spool_update_header(u)->weight, total));
    tier_spool_update_close(u);
    tier_model_close(base);
    tier_model_close(next);
    free(path);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, updates_of_another_run_round_base_or_manifest_are_refused, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    uint64_t seed = 10;
    struct tier_hash ids[2] = {sealed_random(spool, m, 3, &seed)}, id;
    float x[18] = {0};
    for (int what = 0; what < 4; what++) {
        static const char *const words[] = {"another run", "another round", "another base",
                                            "of manifest"};
        struct tier_update_header h = header_for(m, 2);
        struct tier_tensor t = tensor_of("other", 18, 0, 30, false);
        struct tier_manifest *other = manifest_of(&t, 1);
        h.run.b[0] ^= what == 0;
        h.round += what == 1;
        h.base_model.b[0] ^= what == 2;
        MUST(tier_update_seal_f32(spool, &h, what == 3 ? other : m, x, false, &ids[1], err));
        struct tier_fold f = fold_of(spool, m, ids, 2, 1);
        REFUSED(TIER_EUPDATE, words[what], tier_fold_run(&f, &id, err));
        tier_manifest_free(other);
    }
    struct tier_fold f = fold_of(spool, m, ids, 2, 1);
    tier_hash_data("?", 1, &ids[1]);
    REFUSED(TIER_ENOTFOUND, "no update", tier_fold_run(&f, &id, err));
    f.count = 1;
    f.memory_bytes = tier_fold_memory_min(m, 1) - 1;
    REFUSED(TIER_ELIMIT, "memory", tier_fold_run(&f, &id, err));
    f.memory_bytes++;
    MUST(tier_fold_run(&f, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, an_update_that_two_children_hold_counts_twice, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    uint64_t seed = 21, again = 21;
    struct tier_hash once[2] = {sealed_random(spool, m, 3, &seed),
                                sealed_random(spool, m, 5, &seed)};
    struct tier_hash doubled = sealed_random(spool, m, 6, &again), want, got;
    struct tier_hash twice[3] = {once[0], once[1], once[0]}, heavy[2] = {doubled, once[1]};
    struct tier_fold a = fold_of(spool, m, twice, 3, 1), b = fold_of(spool, m, heavy, 2, 1);
    MUST(tier_fold_run(&a, &got, err));
    MUST(tier_fold_run(&b, &want, err));
    CHECK(tier_hash_equal(&got, &want), "3 twice weighs as much as 6 once");
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, a_total_weight_past_its_limit_is_refused, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    uint64_t seed = 11;
    struct tier_hash ids[3] = {sealed_random(spool, m, TIER_WEIGHT_MAX, &seed),
                               sealed_random(spool, m, TIER_WEIGHT_MAX, &seed),
                               sealed_random(spool, m, 2, &seed)},
                     id = folded(spool, m, ids, 3, 1);
    struct tier_update *u = update_open(spool, &id);
    MUST(tier_update_verify(u, m, err));
    tier_spool_update_close(u);
    struct tier_hash more[2] = {id, sealed_random(spool, m, 1, &seed)};
    struct tier_fold f = fold_of(spool, m, more, 2, 1);
    REFUSED(TIER_ELIMIT, "4294967296", tier_fold_run(&f, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, a_bad_element_names_update_tensor_and_index_and_leaves_no_file,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", 300000, 0, 30, false),
                              tensor_of("b", 600000, 0, 30, false)};
    struct tier_manifest *m = manifest_of(t, 2);
    uint64_t seed = 12;
    struct tier_hash ids[2], id;
    struct tier_update_header h = header_for(m, 4);
    char hex[TIER_HASH_HEX], word[120];
    float *x = deltas_random(m, 0.1, &seed);
    x[300000 + 70000] = 2; /* in the second segment; a worse one in the last must not hide it */
    x[899999] = NAN;
    ids[0] = sealed_raw(spool, &h, x, 900000 * sizeof *x);
    ids[1] = sealed_random(spool, m, 3, &seed);
    snprintf(word, sizeof word, "update %.16s: tensor b, element 70000 is 2",
             tier_hash_hex(&ids[0], hex));
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct tier_fold f = fold_of(spool, m, ids, 2, threads);
        REFUSED(TIER_EUPDATE, word, tier_fold_run(&f, &id, err));
        cr_assert(eq(sz, files_in(fixture_path("spool")), 2));
    }
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* Two liars, each within what a child may claim. */
Test(tier_fold, what_children_claim_beyond_what_a_parent_takes_is_cut, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    uint64_t seed = 14;
    const int64_t most = TIER_SCORE_SUM_MAX, one = 1;
    struct tier_hash ids[3];
    for (int i = 0; i < 3; i++) {
        struct tier_update_header h = header_for(m, 1);
        struct tier_seal_as as = {.encoding = TIER_ENC_F32};
        float *x = deltas_random(m, 0.5, &seed);
        h.metrics = tier_metrics_new();
        h.saturated = i < 2 ? TIER_SATURATED_MAX : 1;
        MUST(tier_metrics_add(h.metrics, TIER_SCORE_COUNT, 1, i < 2 ? &most : &one, err));
        MUST(tier_metrics_add(h.metrics, TIER_SCORE_CORRECT, 1, &one, err));
        MUST(tier_update_seal(spool, &h, m, x, false, &as, &ids[i], err));
        tier_metrics_free(h.metrics);
        free(x);
    }
    struct tier_hash id = folded(spool, m, ids, 3, 1);
    struct tier_update *u = update_open(spool, &id);
    const struct tier_update_header *h = tier_spool_update_header(u);
    cr_assert(eq(u64, h->weight, 3));
    cr_assert(eq(u64, h->saturated, TIER_SATURATED_MAX));
    cr_assert(eq(i64, tier_metrics_scalar(h->metrics, TIER_SCORE_COUNT), TIER_SCORE_SUM_MAX));
    cr_assert(eq(i64, tier_metrics_scalar(h->metrics, TIER_SCORE_CORRECT), 3));
    MUST(tier_update_verify(u, m, err));
    MUST(tier_task_metrics_check(h->metrics, err));
    tier_spool_update_close(u);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, evaluation_only_inputs_give_their_metrics, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    uint64_t seed = 13;
    struct tier_hash ids[2] = {spoke_update(spool, m, 0, &seed), spoke_update(spool, m, 0, &seed)};
    int64_t want = 0;
    for (int i = 0; i < 2; i++) {
        struct tier_update *u = update_open(spool, &ids[i]);
        want += tier_metrics_scalar(tier_spool_update_header(u)->metrics, "count");
        tier_spool_update_close(u);
    }
    struct tier_hash id = folded(spool, m, ids, 2, 1), model;
    struct tier_update *u = update_open(spool, &id);
    const struct tier_update_header *h = tier_spool_update_header(u);
    CHECK(h->weight == 0 && h->payload_bytes == 0);
    cr_assert(eq(i64, tier_metrics_scalar(h->metrics, "count"), want));
    struct tier_model *base = base_model(m, &seed);
    REFUSED(TIER_EUPDATE, "weight 0",
            tier_fold_publish(u, m, base, fixture_dir, NULL, 0, &model, err));
    tier_spool_update_close(u);
    tier_model_close(base);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, a_base_of_another_name_or_a_model_that_overflows_is_refused, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 2, 0, -97, false); /* a clip of 2^127 */
    struct tier_manifest *m = manifest_of(&t, 1);
    struct tier_update_header h = header_for(m, 1);
    float x[2] = {0, 0x1p127F};
    struct tier_hash id, model;
    MUST(tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    struct tier_hash sum = folded(spool, m, &id, 1, 1);
    struct tier_model_writer *w = NULL;
    struct tier_model *base = NULL;
    MUST(tier_model_writer_begin(fixture_dir, m, NULL, 0, &w, err));
    MUST(tier_model_writer_append(w, x, 2, err));
    MUST(tier_model_writer_finish(w, &model, err));
    char *path = tier_model_path(fixture_dir, &model);
    struct tier_update *u = update_open(spool, &sum);
    MUST(tier_model_open(path, &base, err));
    REFUSED(TIER_EMODEL, "relative",
            tier_fold_publish(u, m, base, fixture_dir, NULL, 0, &model, err));
    tier_model_close(base);
    CHECK(rename(path, fixture_path("base")) == 0);
    MUST(tier_model_open(fixture_path("base"), &base, err));
    REFUSED(TIER_EMODEL, "tensor w, element 1",
            tier_fold_publish(u, m, base, fixture_dir, NULL, 0, &model, err));
    cr_assert(eq(sz, files_in(fixture_dir), 2)); /* the base and the spool */
    tier_model_close(base);
    tier_spool_update_close(u);
    free(path);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, more_inputs_than_open_files_fold_all_the_same, .fini = fixture_down) {
    enum { N = 200 };
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[N];
    uint64_t seed = 14;
    struct rlimit files = {160, 160};
    for (int i = 0; i < N; i++)
        ids[i] = sealed_random(spool, m, 1 + (uint64_t)i, &seed);
    setrlimit(RLIMIT_NOFILE, &files);
    struct tier_hash flat = folded(spool, m, ids, N, 2);
    struct tier_hash two[2] = {folded(spool, m, ids, 90, 1), folded(spool, m, ids + 90, N - 90, 1)};
    struct tier_hash tree = folded(spool, m, two, 2, 1);
    CHECK(tier_hash_equal(&flat, &tree));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_fold, a_full_disk_stops_the_fold_and_its_inputs_stay, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 3 * TIER_SEGMENT_ELEMENTS, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    uint64_t seed = 15;
    struct tier_hash ids[2] = {sealed_random(spool, m, 5, &seed),
                               sealed_random(spool, m, 6, &seed)},
                     id;
    struct rlimit small = {1 << 20, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    struct tier_fold f = fold_of(spool, m, ids, 2, 2);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    REFUSED(TIER_EFULL, "cannot write", tier_fold_run(&f, &id, err));
    setrlimit(RLIMIT_FSIZE, &none);
    cr_assert(eq(sz, files_in(fixture_path("spool")), 2));
    MUST(tier_fold_run(&f, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

#ifndef __SANITIZE_ADDRESS__
/* "VmData:" of this process in bytes: what RLIMIT_DATA counts. */
static uint64_t data_bytes(void) {
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmData: %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib << 10;
}

Test(tier_fold, the_memory_budget_holds_for_models_far_larger_than_it, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 40 * TIER_SEGMENT_ELEMENTS, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash ids[4], id;
    static float piece[4096];
    for (int c = 0; c < 4; c++) {
        struct tier_sealer *s = NULL;
        MUST(tier_sealer_begin(spool, &h, m, false, &s, err));
        for (size_t i = 0; i < m->elements; i += 4096) {
            piece[i % 4096] = (float)c / 8;
            MUST(tier_sealer_append(s, piece, 4096, err));
        }
        MUST(tier_sealer_finish(s, &ids[c], err));
        h.weight++;
    }
    struct tier_fold f = fold_of(spool, m, ids, 4, 1);
    CHECK(f.memory_bytes < 4 * m->elements / 3, "the model is no larger than the budget");
    struct rlimit limit = {data_bytes() + f.memory_bytes + (1 << 20), RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
    void *too_much = malloc(f.memory_bytes + (8 << 20));
    CHECK(too_much == NULL, "the limit does not bite");
    MUST(tier_fold_run(&f, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}
#endif
