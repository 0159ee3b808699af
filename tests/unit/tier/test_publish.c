/* SPDX-License-Identifier: Apache-2.0 */
/* The root's optimisers over sealed sums: several rounds, in segments, with state on the disk. */
#include "support/tier_fixture.h"
#include "tier/content.h"
#include "tier/publish.h"
#include "tier/segment.h"
#include "tier/server_state.h"

#include <fcntl.h>

static const struct kern_server usual = {.kind = KERN_SERVER_ADAM,
                                         .lr = 0.03,
                                         .momentum = 0.9,
                                         .beta1 = 0.9,
                                         .beta2 = 0.99,
                                         .tau = 1e-3};

static const enum kern_server_kind kinds[] = {KERN_SERVER_MOMENTUM, KERN_SERVER_ADAGRAD,
                                              KERN_SERVER_ADAM, KERN_SERVER_YOGI};

/* A run at the root: its latest model and the state beside it. */
struct root {
    struct tier_spool *spool;
    struct tier_manifest *manifest;
    struct kern_server opt;
    uint64_t round;
    struct tier_hash model, state;
};

static struct tier_hash model_written(const struct tier_manifest *m, const float *x) {
    struct tier_model_writer *w = NULL;
    struct tier_hash hash;
    MUST(tier_model_writer_begin(fixture_dir, m, NULL, 0, &w, err));
    MUST(tier_model_writer_append(w, x, m->elements, err));
    MUST(tier_model_writer_finish(w, &hash, err));
    return hash;
}

static struct root root_up(enum kern_server_kind kind, uint64_t elements, uint64_t *seed) {
    struct tier_tensor t[] = {tensor_of("body", elements - 100, 0, 31, false),
                              tensor_of("norm", 100, 0, 20, true)};
    struct root r = {.spool = spool_up(false), .manifest = manifest_of(t, 2), .opt = usual};
    float *x = deltas_random(r.manifest, 0.3, seed);
    r.opt.kind = kind;
    r.model = model_written(r.manifest, x);
    free(x);
    return r;
}

static void root_down(struct root *r) {
    tier_manifest_free(r->manifest);
    tier_spool_close(r->spool);
    fixture_down();
}

/* The sum of `count` children's updates of the next round, folded by so many threads. */
static struct tier_hash next_sum(struct root *r, size_t count, unsigned threads, uint64_t *seed) {
    struct tier_hash ids[8], sum;
    struct tier_update_header h = header_for(r->manifest, 1);
    h.round = ++r->round;
    h.base_model = r->model;
    for (size_t i = 0; i < count; i++) {
        float *x = deltas_random(r->manifest, 0.01, seed);
        h.weight = 1 + rng_below(seed, 1000);
        MUST(tier_update_seal_f32(r->spool, &h, r->manifest, x, false, &ids[i], err));
        free(x);
    }
    struct tier_fold fold = {.spool = r->spool,
                             .manifest = r->manifest,
                             .run = h.run,
                             .round = h.round,
                             .base_model = r->model,
                             .inputs = ids,
                             .count = count,
                             .threads = threads,
                             .memory_bytes = threads * tier_fold_memory_min(r->manifest, count)};
    MUST(tier_fold_run(&fold, &sum, err));
    return sum;
}

static struct tier_model *base_of(const struct root *r) {
    struct tier_model *base = NULL;
    char *path = tier_model_path(fixture_dir, &r->model);
    MUST(tier_model_open(path, &base, err));
    free(path);
    return base;
}

static enum tier_status publish(const struct root *r, const struct tier_hash *sum,
                                struct tier_hash *model, struct tier_hash *state,
                                struct tier_err *err) {
    struct tier_model *base = base_of(r);
    struct tier_update *u = update_open(r->spool, sum);
    struct tier_publish p = {.sum = u,
                             .manifest = r->manifest,
                             .base = base,
                             .models_dir = fixture_dir,
                             .optimiser = &r->opt,
                             .state = r->state};
    struct tier_published made = {0};
    enum tier_status st = tier_publish_run(&p, &made, err);
    tier_model_close(base);
    tier_spool_update_close(u);
    *model = made.model;
    *state = made.state;
    return st;
}

static void advance(struct root *r, size_t children, unsigned threads, uint64_t *seed) {
    struct tier_hash sum = next_sum(r, children, threads, seed), model, state;
    MUST(publish(r, &sum, &model, &state, err));
    r->model = model;
    r->state = state;
}

static float *values_of(const struct root *r) {
    struct tier_model *m = base_of(r);
    float *x = malloc(r->manifest->elements * sizeof *x);
    MUST(tier_model_read(m, 0, r->manifest->elements, x, err));
    tier_model_close(m);
    return x;
}

/* The whole model in memory, in one call: what the segments must add up to. */
static void in_memory(const struct root *r, const struct tier_hash *sum, float *x, double *m,
                      double *v) {
    size_t n = r->manifest->elements;
    double *delta = malloc(n * sizeof *delta);
    float *y = malloc(n * sizeof *y);
    struct tier_update *u = update_open(r->spool, sum);
    struct tier_segment_cursor cursor;
    uint8_t *scratch = malloc(tier_segment_bytes_max(r->manifest));
    int64_t *hi = calloc(2 * tier_segment_elements_max(r->manifest), sizeof *hi);
    int64_t *lo = calloc(n, sizeof *lo);
    MUST(tier_segment_cursor_init(&cursor, u, r->manifest, err));
    for (uint64_t s = 0; s < tier_manifest_segments(r->manifest); s++) {
        struct tier_extent extent;
        struct tier_spans it;
        struct tier_span span;
        size_t k = tier_manifest_segment(r->manifest, s, NULL);
        memset(hi, 0, k * sizeof *hi);
        memset(lo, 0, n * sizeof *lo);
        MUST(tier_segment_cursor_next(&cursor, &extent, err));
        MUST(tier_segment_add(u, 1, r->manifest, s, extent, NULL, scratch, hi, lo, err));
        tier_spans_begin(&it, r->manifest, s * TIER_SEGMENT_ELEMENTS, k);
        while (tier_spans_next(&it, &span))
            kern_mean(delta + s * TIER_SEGMENT_ELEMENTS + span.at, hi + span.at,
                      span.tensor->wide ? lo + span.wide_at : NULL, span.n, span.tensor->frac_bits,
                      tier_spool_update_header(u)->weight);
    }
    kern_server_step(y, x, delta, m, v, n, &r->opt);
    memcpy(x, y, n * sizeof *x);
    tier_spool_update_close(u);
    free(delta);
    free(y);
    free(scratch);
    free(hi);
    free(lo);
}

static void rounds_equal_one_call_each(enum kern_server_kind kind, uint64_t elements) {
    uint64_t seed = 17 + kind;
    struct root r = root_up(kind, elements, &seed);
    float *x = values_of(&r);
    double *m = malloc(elements * sizeof *m), *v = malloc(elements * sizeof *v);
    kern_server_begin(m, v, elements, &r.opt);
    for (int round = 0; round < 4; round++) {
        struct tier_hash sum = next_sum(&r, 3, 1, &seed), model, state;
        MUST(publish(&r, &sum, &model, &state, err));
        in_memory(&r, &sum, x, m, v);
        r.model = model;
        r.state = state;
        float *got = values_of(&r);
        CHECK(memcmp(got, x, elements * sizeof *x) == 0, "kind %d, round %d", (int)kind, round);
        free(got);
    }
    free(x);
    free(m);
    free(v);
    root_down(&r);
}

Test(tier_publish, a_round_after_the_other_advances_the_state_on_the_disk) {
    for (size_t k = 0; k < 4; k++)
        rounds_equal_one_call_each(kinds[k], 1000);
}

/* A tensor that begins in one segment and ends in the next. */
Test(tier_publish, of_a_state_the_plain_mean_is_published_whatever_the_optimiser) {
    for (size_t k = 0; k < 5; k++) { /* the last one: an update that is stretched */
        uint64_t seed = 41 + k, n = TIER_SEGMENT_ELEMENTS + 400;
        struct tier_tensor t[] = {tensor_of("body", n - 1000, 0, 31, false),
                                  tensor_of("norm", 1000, 0, 20, true)};
        t[1].state = true;
        struct root r = {.spool = spool_up(false), .manifest = manifest_of(t, 2), .opt = usual};
        float *x = deltas_random(r.manifest, 0.3, &seed);
        r.opt.kind = kinds[k % 4];
        r.model = model_written(r.manifest, x);
        struct tier_hash sum = next_sum(&r, 3, 1, &seed);
        struct tier_model *base = base_of(&r);
        struct tier_update *u = update_open(r.spool, &sum);
        struct tier_publish p = {
            .sum = u, .manifest = r.manifest, .base = base, .models_dir = fixture_dir};
        struct tier_published plain = {0}, made = {0};
        MUST(tier_publish_run(&p, &plain, err));
        p.optimiser = k < 4 ? &r.opt : NULL;
        p.stretch = k < 4 ? 0 : 3;
        MUST(tier_publish_run(&p, &made, err));
        r.model = plain.model;
        float *mean = values_of(&r);
        r.model = made.model;
        float *got = values_of(&r);
        CHECK(memcmp(got + n - 1000, mean + n - 1000, 1000 * sizeof *got) == 0, "way %zu", k);
        CHECK(memcmp(got, mean, (n - 1000) * sizeof *got) != 0, "way %zu", k);
        free(mean);
        free(got);
        free(x);
        tier_model_close(base);
        tier_spool_update_close(u);
        root_down(&r);
    }
}

Test(tier_publish, several_segments_are_one_model) {
    rounds_equal_one_call_each(KERN_SERVER_YOGI, 2 * TIER_SEGMENT_ELEMENTS + 1234);
    rounds_equal_one_call_each(KERN_SERVER_MOMENTUM, TIER_SEGMENT_ELEMENTS + 50);
}

Test(tier_publish, threads_of_the_fold_change_nothing) {
    struct tier_hash want_model, want_state;
    for (unsigned threads = 1; threads <= 4; threads++) {
        uint64_t seed = 23;
        struct root r = root_up(KERN_SERVER_ADAM, 2 * TIER_SEGMENT_ELEMENTS + 9, &seed);
        for (int round = 0; round < 3; round++)
            advance(&r, 4, threads, &seed);
        if (threads == 1) {
            want_model = r.model;
            want_state = r.state;
        }
        CHECK(tier_hash_equal(&r.model, &want_model) && tier_hash_equal(&r.state, &want_state),
              "%u threads", threads);
        root_down(&r);
    }
}

/* Whatever a kill left of a publication, doing it again gives both files under the same names. */
Test(tier_publish, a_publication_done_again_gives_the_same_files) {
    uint64_t seed = 29;
    struct root r = root_up(KERN_SERVER_ADAM, 700, &seed);
    advance(&r, 3, 1, &seed);
    struct tier_hash sum = next_sum(&r, 3, 1, &seed), model, state;
    MUST(publish(&r, &sum, &model, &state, err));
    for (int lost = 0; lost < 4; lost++) {
        struct tier_hash model2, state2;
        char *path = tier_model_path(fixture_dir, &model);
        if (lost & 1)
            CHECK(unlink(path) == 0);
        free(path);
        if (lost & 2)
            tier_server_state_delete(fixture_dir, &state);
        MUST(publish(&r, &sum, &model2, &state2, err));
        CHECK(tier_hash_equal(&model, &model2) && tier_hash_equal(&state, &state2));
    }
    root_down(&r);
}

static void overwrite(const struct tier_hash *state, off_t at, const char *byte) {
    char *path = tier_content_path(fixture_dir, state, TIER_SERVER_STATE_SUFFIX);
    int fd = open(path, O_RDWR);
    if (byte)
        CHECK(pwrite(fd, byte, 1, at) == 1);
    else
        CHECK(ftruncate(fd, at) == 0);
    close(fd);
    free(path);
}

Test(tier_publish, a_state_that_is_not_the_one_beside_the_base_is_refused) {
    uint64_t seed = 31;
    struct root r = root_up(KERN_SERVER_ADAM, 700, &seed);
    struct tier_hash model, state;
    advance(&r, 2, 1, &seed);
    struct root first = r;
    advance(&r, 2, 1, &seed);
    struct tier_hash sum = next_sum(&r, 2, 1, &seed);
    size_t files = files_in(fixture_dir);

    struct root wrong = r;
    wrong.state = first.state;
    REFUSED(TIER_EMODEL, "stands beside model", publish(&wrong, &sum, &model, &state, err));
    wrong = r;
    wrong.opt.kind = KERN_SERVER_YOGI;
    REFUSED(TIER_EMODEL, "its optimiser", publish(&wrong, &sum, &model, &state, err));
    tier_hash_data("?", 1, &wrong.state);
    REFUSED(TIER_ENOTFOUND, "the optimiser's state", publish(&wrong, &sum, &model, &state, err));
    cr_assert(eq(sz, files_in(fixture_dir), files), "a refusal leaves nothing behind");
    MUST(publish(&r, &sum, &model, &state, err));
    root_down(&r);
}

Test(tier_publish, a_damaged_state_is_refused_before_anything_gets_a_name) {
    static const struct {
        off_t at;
        const char *byte, *word;
    } cases[] = {
        {40, "x", "of this run"},                  /* the run's id */
        {32, "\xff", "which is not before"},       /* the round */
        {128 + 8 * 350, "\x55", "SHA-256"},        /* an m */
        {128 + 8 * 1000 + 3, "\x55", "SHA-256"},   /* a v */
        {128 + 16 * 700, "\x55", "stands beside"}, /* the model */
        {128 + 16 * 700 + 32, "\x55", "SHA-256"},  /* a byte behind the end */
        {128 + 16 * 700 + 31, NULL, "shorter"},    /* one too few */
        {100, NULL, "shorter"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t seed = 37;
        struct root r = root_up(KERN_SERVER_ADAM, 700, &seed);
        struct tier_hash model, state;
        advance(&r, 2, 1, &seed);
        struct tier_hash sum = next_sum(&r, 2, 1, &seed);
        size_t files = files_in(fixture_dir);
        overwrite(&r.state, cases[i].at, cases[i].byte);
        REFUSED(TIER_EMODEL, cases[i].word, publish(&r, &sum, &model, &state, err));
        cr_assert(eq(sz, files_in(fixture_dir), files));
        root_down(&r);
    }
}

static bool keep_that(void *arg, const struct tier_hash *hash) {
    return tier_hash_equal(arg, hash);
}

Test(tier_publish, a_sweep_leaves_the_states_that_are_named) {
    uint64_t seed = 41;
    struct root r = root_up(KERN_SERVER_MOMENTUM, 700, &seed);
    advance(&r, 2, 1, &seed);
    struct root before = r;
    advance(&r, 2, 1, &seed);
    FILE *f = fopen(fixture_path("state-a1B2c3"), "w"); /* what a kill left */
    CHECK(f && fclose(f) == 0);
    size_t files = files_in(fixture_dir);
    tier_server_state_sweep(fixture_dir, keep_that, &r.state);
    cr_assert(eq(sz, files_in(fixture_dir), files - 2));
    CHECK(tier_content_has(fixture_dir, &r.state, TIER_SERVER_STATE_SUFFIX));
    CHECK(!tier_content_has(fixture_dir, &before.state, TIER_SERVER_STATE_SUFFIX));
    root_down(&r);
}

Test(tier_publish, without_an_optimiser_there_is_no_state) {
    uint64_t seed = 43;
    struct root r = root_up(KERN_SERVER_ADAM, 700, &seed);
    struct tier_hash sum = next_sum(&r, 2, 1, &seed), same;
    struct tier_published made;
    struct tier_model *base = base_of(&r);
    struct tier_update *u = update_open(r.spool, &sum);
    struct tier_publish p = {
        .sum = u, .manifest = r.manifest, .base = base, .models_dir = fixture_dir};
    MUST(tier_publish_run(&p, &made, err));
    MUST(tier_fold_publish(u, r.manifest, base, fixture_dir, NULL, 0, &same, err));
    CHECK(tier_hash_is_zero(&made.state) && tier_hash_is_zero(&made.delta));
    CHECK(tier_hash_equal(&made.model, &same));
    tier_model_close(base);
    tier_spool_update_close(u);
    root_down(&r);
}

Test(tier_publish, a_damaged_base_is_refused_wherever_the_damage_is) {
    uint64_t seed = 44;
    struct root r = root_up(KERN_SERVER_ADAM, 700, &seed);
    struct tier_hash sum = next_sum(&r, 2, 1, &seed), model, state;
    char *path = tier_model_path(fixture_dir, &r.model);
    struct stat info;
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && fstat(fd, &info) == 0);
    size_t files = files_in(fixture_dir);
    const off_t places[] = {info.st_size - 1, info.st_size - 700 * 4, info.st_size - 700 * 2};
    for (size_t i = 0; i < 3; i++) {
        uint8_t byte, other;
        CHECK(pread(fd, &byte, 1, places[i]) == 1);
        other = byte ^ 1;
        CHECK(pwrite(fd, &other, 1, places[i]) == 1);
        REFUSED(TIER_EMODEL, "is damaged on this disk", publish(&r, &sum, &model, &state, err));
        CHECK(pwrite(fd, &byte, 1, places[i]) == 1);
    }
    cr_assert(eq(sz, files_in(fixture_dir), files));
    MUST(publish(&r, &sum, &model, &state, err));
    close(fd);
    free(path);
    root_down(&r);
}
