/* SPDX-License-Identifier: Apache-2.0 */
/* How a merge runs: the same bits whatever it runs on, refusals, memory, the previous result. */
#include "support/merge_fixture.h"

#include <signal.h>
#include <sys/resource.h>

#define N 9

static void shuffle(struct tier_hash *ids, size_t n, uint64_t *seed) {
    for (size_t i = n; i > 1; i--) {
        size_t j = rng_below(seed, i);
        struct tier_hash swap = ids[j];
        ids[j] = ids[i - 1];
        ids[i - 1] = swap;
    }
}

/* Two thirds F32, one third sums of two. */
static void seal_mixed(struct tier_spool *spool, const struct tier_manifest *m, size_t n,
                       struct tier_hash *ids, uint64_t *seed) {
    for (size_t i = 0; i < n; i++) {
        ids[i] = sealed_random(spool, m, 1 + rng_below(seed, 500), seed);
        if (i % 3 != 2)
            continue;
        struct tier_hash two[2] = {ids[i], sealed_random(spool, m, 7, seed)};
        struct tier_plan_merge any = settings_of(TIER_PLAN_MEDIAN, 0, false);
        struct tier_fold f = merge_of(spool, m, two, 2, &any).fold;
        f.memory_bytes = tier_fold_memory_min(m, 2);
        MUST(tier_fold_run(&f, &ids[i], err));
    }
}

Test(tier_merge_run, order_threads_and_budget_do_not_change_a_bit, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", TIER_SEGMENT_ELEMENTS + 1000, 0, 30, false),
                              tensor_of("b", 100001, 0, 27, true),
                              tensor_of("c", TIER_SEGMENT_ELEMENTS / 2, 0, 30, false)};
    struct tier_manifest *m = manifest_of(t, 3);
    uint64_t seed = 31;
    struct tier_hash ids[N], previous = sealed_random(spool, m, 3, &seed);
    seal_mixed(spool, m, N, ids, &seed);
    for (size_t k = 0; k < RULES; k++)
        for (int mix = 0; mix < 2; mix++) {
            struct tier_plan_merge s = settings_of(all_rules[k], 0, mix);
            struct tier_merge merge = merge_of(spool, m, ids, N, &s);
            merge.previous = previous;
            struct tier_hash first = merged(&merge);
            for (int again = 0; again < 2; again++) {
                shuffle(ids, N, &seed);
                merge.fold.threads = 1 + (unsigned)again * 2;
                merge.fold.memory_bytes *= 3;
                struct tier_hash id = merged(&merge);
                CHECK(tier_hash_equal(&first, &id), "%s", tier_plan_rule_text(&s));
            }
            MUST(tier_spool_delete(spool, &first, err));
        }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, another_run_of_the_same_updates_merges_to_the_same_elements,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 3000, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    for (size_t k = 0; k < RULES; k++)
        for (int mix = 0; mix < 2; mix++) {
            float *first = NULL;
            for (char run = 'a'; run < 'e'; run++) {
                struct tier_update_header h = header_for(m, 3);
                struct tier_hash ids[N];
                uint64_t seed = 40;
                tier_hash_data(&run, 1, &h.run);
                for (size_t i = 0; i < N; i++) {
                    float *x = deltas_random(m, 0.1, &seed);
                    MUST(tier_update_seal_f32(spool, &h, m, x, false, &ids[i], err));
                    free(x);
                }
                struct tier_plan_merge s = settings_of(all_rules[k], 0, mix);
                struct tier_merge merge = merge_of(spool, m, ids, N, &s);
                merge.fold.run = h.run;
                struct tier_hash id = merged(&merge);
                float *x = elements_of(spool, m, &id);
                CHECK(!first || memcmp(first, x, m->elements * sizeof *x) == 0, "%s",
                      tier_plan_rule_text(&s));
                if (first)
                    free(x);
                else
                    first = x;
            }
            free(first);
        }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, weights_metrics_and_counts_add_up_as_in_a_fold, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[4];
    uint64_t seed = 32;
    float *x = deltas_random(m, 0.1, &seed);
    for (int64_t i = 0; i < 4; i++) {
        /* The last one evaluates only. */
        struct tier_update_header h = header_for(m, i < 3 ? 10 + (uint64_t)i : 0);
        h.metrics = tier_metrics_new();
        int64_t count = 100 + i;
        MUST(tier_metrics_add(h.metrics, "count", 1, &count, err));
        x[0] = i == 0 ? 5 : 0.5f; /* beyond the clip */
        MUST(tier_update_seal_f32(spool, &h, m, i < 3 ? x : NULL, true, &ids[i], err));
        tier_metrics_free(h.metrics);
    }
    struct tier_plan_merge s = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, 4, &s);
    struct tier_hash id = merged(&merge);
    struct tier_update *u = update_open(spool, &id);
    const struct tier_update_header *h = tier_spool_update_header(u);
    cr_assert(eq(u64, h->weight, 33));
    cr_assert(eq(u64, h->saturated, 1));
    cr_assert(eq(i64, tier_metrics_scalar(h->metrics, "count"), 406));
    tier_spool_update_close(u);
    /* Only evaluations: a result of weight 0, whatever the rule could do with updates. */
    s = settings_of(TIER_PLAN_KRUM, 0, false);
    merge = merge_of(spool, m, ids + 3, 1, &s);
    id = merged(&merge);
    u = update_open(spool, &id);
    cr_assert(eq(u64, tier_spool_update_header(u)->weight, 0));
    tier_spool_update_close(u);
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, two_children_with_the_very_same_update_count_as_two, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 3, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    const float low[3] = {0, 0, 0}, high[3] = {0.5f, 0.5f, 0.5f};
    struct tier_hash a = sealed_values(spool, m, low, 1), b = sealed_values(spool, m, high, 1);
    struct tier_hash ids[3] = {b, a, b};
    struct tier_plan_merge s = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, 3, &s);
    struct tier_hash id = merged(&merge);
    float *x = elements_of(spool, m, &id);
    cr_assert(eq(flt, x[0], 0.5f));
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, too_few_updates_for_a_rule_are_said_and_never_merge, .fini = fixture_down) {
    static const struct {
        int rule;
        bool mix;
        double byzantine;
        uint64_t select;
        const char *why;
    } cases[] = {
        {TIER_PLAN_KRUM, false, 1, 0, "krum: with 1 byzantine updates it needs at least 5"},
        {TIER_PLAN_MULTI_KRUM, false, 1, 0, "needs at least 5"},
        {TIER_PLAN_MULTI_KRUM, false, 0.2, 9, "select 9 updates; this round has 4"},
        {TIER_PLAN_TRIMMED_MEAN, false, 2, 0, "5 updates would be enough"},
        {TIER_PLAN_MEDIAN, true, 2, 0, "mixing with 2 byzantine updates needs at least 5"},
    };
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash ids[4], id;
    uint64_t seed = 33;
    seal_mixed(spool, m, 4, ids, &seed);
    size_t files = files_in(fixture_path("spool"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tier_plan_merge s = settings_of(cases[i].rule, cases[i].byzantine, cases[i].mix);
        s.select = cases[i].select;
        struct tier_merge merge = merge_of(spool, m, ids, 4, &s);
        REFUSED(TIER_EPLAN, cases[i].why, tier_merge_run(&merge, &id, err));
        cr_assert(eq(sz, files_in(fixture_path("spool")), files));
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, weights_budget_and_numbers_over_their_limits_are_refused,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    uint64_t seed = 34;
    struct tier_hash id, ids[2] = {sealed_random(spool, m, TIER_WEIGHT_MAX - 1, &seed),
                                   sealed_random(spool, m, 2, &seed)};
    struct tier_plan_merge s = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, 2, &s);
    REFUSED(TIER_ELIMIT, "2147483647", tier_merge_run(&merge, &id, err));
    merge.fold.count = 1;
    merge.fold.memory_bytes = tier_merge_memory_min(m, merge.rule, &s, 1) - 1;
    REFUSED(TIER_ELIMIT, "bytes of memory", tier_merge_run(&merge, &id, err));
    merge.fold.memory_bytes++;
    MUST(tier_merge_run(&merge, &id, err));
    merge.fold.count = 0;
    REFUSED(TIER_EARG, "0 updates", tier_merge_run(&merge, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, more_updates_than_open_files_merge_all_the_same, .fini = fixture_down) {
    enum { MANY = 1030 };
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    static struct tier_hash ids[MANY];
    struct rlimit files = {160, 160};
    uint64_t seed = 35;
    for (int i = 0; i < MANY; i++)
        ids[i] = sealed_random(spool, m, 1 + (uint64_t)i, &seed);
    setrlimit(RLIMIT_NOFILE, &files);
    struct tier_plan_merge median = settings_of(TIER_PLAN_MEDIAN, 0, false),
                           krum = settings_of(TIER_PLAN_KRUM, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, MANY, &median);
    struct tier_hash id = merged(&merge);
    float *x = elements_of(spool, m, &id);
    CHECK(fabsf(x[0]) < 0.02f);
    free(x);
    merge = merge_of(spool, m, ids, MANY, &krum);
    REFUSED(TIER_ELIMIT, "1030 are more than the 1024", tier_merge_run(&merge, &id, err));
    merge.fold.count = 200;
    merged(&merge);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, updates_of_another_round_or_out_of_range_name_themselves,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", 300000, 0, 30, false),
                              tensor_of("b", 600000, 0, 30, false)};
    struct tier_manifest *m = manifest_of(t, 2);
    uint64_t seed = 36;
    struct tier_hash ids[3], id;
    struct tier_update_header h = header_for(m, 4);
    char hex[TIER_HASH_HEX], word[120];
    float *x = deltas_random(m, 0.1, &seed);
    ids[0] = sealed_random(spool, m, 3, &seed);
    ids[1] = sealed_random(spool, m, 5, &seed);
    h.round++;
    MUST(tier_update_seal_f32(spool, &h, m, x, false, &ids[2], err));
    h.round--;
    struct tier_plan_merge s = settings_of(TIER_PLAN_KRUM, 1e-9, false);
    struct tier_merge merge = merge_of(spool, m, ids, 3, &s);
    REFUSED(TIER_EUPDATE, "another round", tier_merge_run(&merge, &id, err));
    MUST(tier_spool_delete(spool, &ids[2], err));
    x[300000 + 70000] = 2; /* in the second segment; a worse one in the last must not hide it */
    x[899999] = NAN;
    ids[2] = sealed_raw(spool, &h, x, 900000 * sizeof *x);
    snprintf(word, sizeof word, "update %.16s: tensor b, element 70000 is 2",
             tier_hash_hex(&ids[2], hex));
    for (size_t k = 0; k < RULES; k++)
        for (unsigned threads = 1; threads <= 3; threads += 2) {
            s = settings_of(all_rules[k], 1e-9, false);
            merge = merge_of(spool, m, ids, 3, &s);
            merge.fold.threads = threads;
            merge.fold.memory_bytes *= threads;
            REFUSED(TIER_EUPDATE, word, tier_merge_run(&merge, &id, err));
            cr_assert(eq(sz, files_in(fixture_path("spool")), 3));
        }
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, a_previous_result_that_is_gone_or_damaged_is_never_taken_as_zero,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    uint64_t seed = 37;
    struct tier_hash ids[3], id, previous = sealed_random(spool, m, 3, &seed);
    char hex[TIER_HASH_HEX], path[300];
    seal_mixed(spool, m, 3, ids, &seed);
    struct tier_plan_merge s = settings_of(TIER_PLAN_CENTRED_CLIPPING, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, 3, &s);
    struct tier_hash from_zero = merged(&merge);
    merge.previous = previous;
    struct tier_hash from_it = merged(&merge);
    CHECK(!tier_hash_equal(&from_zero, &from_it));
    snprintf(path, sizeof path, "%s/%s.upd", fixture_path("spool"), tier_hash_hex(&previous, hex));
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, "x", 1, 4096) == 1);
    close(fd);
    REFUSED(TIER_EMODEL, "previous round", tier_merge_run(&merge, &id, err));
    MUST(tier_spool_delete(spool, &previous, err));
    REFUSED(TIER_EMODEL, "previous round", tier_merge_run(&merge, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, a_full_disk_stops_a_merge_and_its_inputs_stay, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 3 * TIER_SEGMENT_ELEMENTS, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    uint64_t seed = 38;
    struct tier_hash ids[2] = {sealed_random(spool, m, 5, &seed),
                               sealed_random(spool, m, 6, &seed)},
                     id;
    struct rlimit small = {1 << 20, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    struct tier_plan_merge s = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, 2, &s);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    REFUSED(TIER_EFULL, "cannot write", tier_merge_run(&merge, &id, err));
    setrlimit(RLIMIT_FSIZE, &none);
    cr_assert(eq(sz, files_in(fixture_path("spool")), 2));
    MUST(tier_merge_run(&merge, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge_run, its_result_is_published_as_the_change_it_is, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", 300, 0, 30, false), tensor_of("b", 50, 0, 20, true)};
    struct tier_manifest *m = manifest_of(t, 2);
    uint64_t seed = 39;
    struct tier_hash ids[3], model;
    float *base = deltas_random(m, 0.3, &seed), after[350];
    struct tier_model_writer *w = NULL;
    struct tier_model *before = NULL, *next = NULL;
    seal_mixed(spool, m, 3, ids, &seed);
    struct tier_plan_merge s = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, 3, &s);
    struct tier_hash id = merged(&merge);
    float *delta = elements_of(spool, m, &id);
    MUST(tier_model_writer_begin(fixture_dir, m, NULL, 0, &w, err));
    MUST(tier_model_writer_append(w, base, m->elements, err));
    MUST(tier_model_writer_finish(w, &model, err));
    char *path = tier_model_path(fixture_dir, &model);
    CHECK(rename(path, fixture_path("base")) == 0);
    free(path);
    MUST(tier_model_open(fixture_path("base"), &before, err));
    struct tier_update *u = update_open(spool, &id);
    MUST(tier_fold_publish(u, m, before, fixture_dir, NULL, 0, &model, err));
    path = tier_model_path(fixture_dir, &model);
    MUST(tier_model_open(path, &next, err));
    MUST(tier_model_read(next, 0, 350, after, err));
    for (int e = 0; e < 350; e++)
        CHECK(fabs((double)after[e] - (double)base[e] - (double)delta[e]) <=
                  1e-6 * (1 + fabs((double)base[e])),
              "element %d", e);
    free(path);
    free(base);
    free(delta);
    tier_spool_update_close(u);
    tier_model_close(before);
    tier_model_close(next);
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

Test(tier_merge_run, the_memory_budget_holds_for_models_far_larger_than_it, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t = tensor_of("w", 24 * TIER_SEGMENT_ELEMENTS, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash ids[5], id;
    static float piece[4096];
    for (int c = 0; c < 5; c++) {
        struct tier_sealer *s = NULL;
        MUST(tier_sealer_begin(spool, &h, m, false, &s, err));
        for (size_t i = 0; i < m->elements; i += 4096) {
            piece[i / 4096 % 4096] = (float)c / 8;
            MUST(tier_sealer_append(s, piece, 4096, err));
        }
        MUST(tier_sealer_finish(s, &ids[c], err));
        h.weight++;
    }
    uint64_t before = data_bytes();
    for (size_t k = 0; k < RULES; k++)
        for (int mix = 0; mix < 2; mix++) {
            struct tier_plan_merge s = settings_of(all_rules[k], 0, mix);
            struct tier_merge merge = merge_of(spool, m, ids, 5, &s);
            CHECK(merge.fold.memory_bytes < m->elements, "no smaller than the model");
            struct rlimit limit = {before + merge.fold.memory_bytes + (1 << 20), RLIM_INFINITY};
            CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
            void *too_much = malloc(merge.fold.memory_bytes + (8 << 20));
            CHECK(too_much == NULL, "the limit does not bite");
            MUST(tier_merge_run(&merge, &id, err));
            MUST(tier_spool_delete(spool, &id, err));
        }
    tier_manifest_free(m);
    tier_spool_close(spool);
}
#endif
