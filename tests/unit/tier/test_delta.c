/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/bytes.h"
#include "tier/content.h"
#include "tier/delta.h"

TestSuite(tier_delta, .init = fixture_up, .fini = fixture_down);

static const enum tier_encoding forms[] = {TIER_ENC_BF16, TIER_ENC_Q8, TIER_ENC_Q4};
static const struct tier_kv metadata[] = {{"format", "pt"}, {"consilium.round", "2"}};

static struct tier_hash model_of(const struct tier_manifest *m, const float *x,
                                 const struct tier_kv *kv, size_t count) {
    struct tier_model_writer *w = NULL;
    struct tier_hash hash;
    MUST(tier_model_writer_begin(fixture_dir, m, kv, count, &w, err));
    MUST(tier_model_writer_append(w, x, m->elements, err));
    MUST(tier_model_writer_finish(w, &hash, err));
    return hash;
}

static void forget(const struct tier_hash *model) {
    char *path = tier_content_path(fixture_dir, model, TIER_CONTENT_MODEL);
    CHECK(unlink(path) == 0);
    free(path);
}

/* A model, what it is to become, and the delta between them. */
struct step {
    struct tier_manifest *manifest;
    float *before, *after; /* after: what the delta makes of it */
    struct tier_hash base, delta, next;
};

static struct step step_up(uint64_t elements, enum tier_encoding form, size_t piece) {
    uint64_t seed = elements + form;
    struct tier_tensor t[] = {tensor_of("a", elements / 3, 0, 30, false),
                              tensor_of("b", elements - elements / 3, 0, 30, false)};
    struct step s = {.manifest = manifest_of(t, 2)};
    const struct tier_delta_form as = {form, 77};
    struct tier_delta_writer *w = NULL;
    s.before = deltas_random(s.manifest, 1, &seed);
    s.after = deltas_random(s.manifest, 0.01, &seed);
    for (uint64_t i = 0; i < elements; i++)
        s.after[i] += s.before[i];
    s.base = model_of(s.manifest, s.before, NULL, 0);
    MUST(tier_delta_begin(fixture_dir, s.manifest, &s.base, &as, metadata, 2, &w, err));
    for (uint64_t at = 0; at < elements; at += piece) {
        size_t n = piece < elements - at ? piece : elements - at;
        MUST(tier_delta_append(w, s.before + at, s.after + at, n, err));
    }
    MUST(tier_delta_finish(w, &s.delta, err));
    s.next = model_of(s.manifest, s.after, metadata, 2);
    forget(&s.next);
    return s;
}

static void step_down(struct step *s) {
    tier_manifest_free(s->manifest);
    free(s->before);
    free(s->after);
}

static const char *delta_path(const struct step *s) {
    static char path[160];
    char *p = tier_content_path(fixture_dir, &s->delta, TIER_CONTENT_DELTA);
    snprintf(path, sizeof path, "%s", p);
    free(p);
    return path;
}

Test(tier_delta, whoever_holds_the_base_makes_the_same_file_of_it) {
    static const uint64_t sizes[] = {3, 256, 257, 8192, 8193, 300001};
    for (size_t f = 0; f < 3; f++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct step s = step_up(sizes[i], forms[f], 1u << 18), again;
            MUST(tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &s.next, err));
            CHECK(tier_content_has(fixture_dir, &s.next, TIER_CONTENT_MODEL));
            again = step_up(sizes[i], forms[f], 8192);
            CHECK(tier_hash_equal(&s.delta, &again.delta), "pieces do not show");
            step_down(&again);
            step_down(&s);
        }
    }
}

Test(tier_delta, it_is_as_short_as_its_form_and_as_near_as_that_rounds) {
    static const double bytes[] = {2, 1 + 4.0 / 256, 0.5 + 4.0 / 256}, error[] = {2e-4, 5e-4, 8e-3};
    enum { N = 1 << 18 };
    for (size_t f = 0; f < 3; f++) {
        struct step s = step_up(N, forms[f], N);
        struct stat info;
        uint64_t seed = N + forms[f];
        float *before = deltas_random(s.manifest, 1, &seed);
        float *change = deltas_random(s.manifest, 0.01, &seed);
        double worst = 0;
        for (size_t i = 0; i < N; i++)
            worst = fmax(worst, fabs((double)s.after[i] - ((double)before[i] + change[i])));
        CHECK(worst > 0 && worst < error[f], "form %zu: %g", f, worst);
        CHECK(stat(delta_path(&s), &info) == 0);
        CHECK(info.st_size < bytes[f] * N + 256, "form %zu: %ld", f, (long)info.st_size);
        free(before);
        free(change);
        step_down(&s);
    }
}

Test(tier_delta, what_cannot_be_said_is_refused) {
    struct step s = step_up(700, TIER_ENC_Q8, 700);
    struct tier_delta_form as = {TIER_ENC_F16, 0};
    struct tier_delta_writer *w = NULL;
    char long_value[TIER_DELTA_METADATA_BYTES_MAX];
    REFUSED(TIER_EARG, "bf16, q8 or q4",
            tier_delta_begin(fixture_dir, s.manifest, &s.base, &as, NULL, 0, &w, err));
    memset(long_value, 'x', sizeof long_value);
    long_value[sizeof long_value - 1] = '\0';
    struct tier_kv kv = {"k", long_value};
    size_t files = files_in(fixture_dir);
    as.encoding = TIER_ENC_BF16;
    REFUSED(TIER_ELIMIT, "metadata",
            tier_delta_begin(fixture_dir, s.manifest, &s.base, &as, &kv, 1, &w, err));
    static const float far[] = {3e38f, INFINITY, NAN};
    for (size_t i = 0; i < 3; i++) {
        float base[2] = {-3e38f, 0}, next[2] = {far[i], 0};
        MUST(tier_delta_begin(fixture_dir, s.manifest, &s.base, &as, metadata, 2, &w, err));
        REFUSED(TIER_EMODEL, "which no delta can say", tier_delta_append(w, base, next, 2, err));
        tier_delta_abort(w);
    }
    struct tier_hash hash;
    MUST(tier_delta_begin(fixture_dir, s.manifest, &s.base, &as, metadata, 2, &w, err));
    REFUSED(TIER_EARG, "more elements", tier_delta_append(w, s.before, s.after, 701, err));
    MUST(tier_delta_append(w, s.before, s.after, 512, err));
    REFUSED(TIER_EARG, "512 of", tier_delta_finish(w, &hash, err));
    cr_assert(eq(sz, files_in(fixture_dir), files));
    step_down(&s);
}

Test(tier_delta, a_delta_of_something_else_makes_nothing) {
    struct step s = step_up(9000, TIER_ENC_BF16, 9000), t = step_up(9001, TIER_ENC_BF16, 9001);
    size_t files = files_in(fixture_dir);
    struct tier_hash nowhere = {{9}};
    REFUSED(TIER_EMODEL, "another model",
            tier_delta_apply(fixture_dir, &s.delta, &t.base, s.manifest, &s.next, err));
    REFUSED(TIER_EMODEL, "another model",
            tier_delta_apply(fixture_dir, &s.delta, &s.base, t.manifest, &s.next, err));
    REFUSED(TIER_EMODEL, "than was announced",
            tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &t.next, err));
    REFUSED(TIER_ENOTFOUND, "cannot open",
            tier_delta_apply(fixture_dir, &nowhere, &s.base, s.manifest, &s.next, err));
    cr_assert(eq(sz, files_in(fixture_dir), files));
    forget(&s.base);
    REFUSED(TIER_ENOTFOUND, "",
            tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &s.next, err));
    step_down(&s);
    step_down(&t);
}

Test(tier_delta, a_damaged_file_makes_no_other_model) {
    for (size_t f = 0; f < 3; f++) {
        struct step s = step_up(700, forms[f], 700);
        struct stat info;
        size_t files = files_in(fixture_dir), harmless = 0;
        CHECK(stat(delta_path(&s), &info) == 0);
        int fd = open(delta_path(&s), O_RDWR);
        for (off_t at = 0; at < info.st_size; at++) {
            uint8_t byte, other;
            CHECK(pread(fd, &byte, 1, at) == 1);
            other = byte ^ (uint8_t)(1u << at % 8);
            CHECK(pwrite(fd, &other, 1, at) == 1);
            /* A few bits of a zstd frame mean nothing: then it is the announced model. */
            if (tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &s.next, NULL) ==
                TIER_OK)
                forget(&s.next), harmless++;
            CHECK(pwrite(fd, &byte, 1, at) == 1);
        }
        cr_assert(le(sz, harmless, 4));
        cr_assert(eq(sz, files_in(fixture_dir), files));
        CHECK(pwrite(fd, "x", 1, info.st_size) == 1);
        REFUSED(TIER_EMODEL, "longer",
                tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &s.next, err));
        CHECK(ftruncate(fd, info.st_size - 1) == 0);
        REFUSED(TIER_EMODEL, "shorter",
                tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &s.next, err));
        CHECK(ftruncate(fd, 40) == 0);
        REFUSED(TIER_EMODEL, "shorter",
                tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &s.next, err));
        close(fd);
        step_down(&s);
    }
}

Test(tier_delta, what_repeats_is_packed_and_what_does_not_is_left_as_it_is) {
    enum { N = 300000 };
    struct step s = step_up(N, TIER_ENC_BF16, 1u << 18);
    struct tier_delta_form as = {TIER_ENC_Q8, 5};
    struct tier_delta_writer *w = NULL;
    struct stat info;
    for (size_t i = 0; i < N; i++)
        s.after[i] = s.before[i] + (i % 9 ? 0 : 0.5f);
    MUST(tier_delta_begin(fixture_dir, s.manifest, &s.base, &as, metadata, 2, &w, err));
    MUST(tier_delta_append(w, s.before, s.after, N, err));
    MUST(tier_delta_finish(w, &s.delta, err));
    CHECK(stat(delta_path(&s), &info) == 0 && info.st_size < N / 20);
    s.next = model_of(s.manifest, s.after, metadata, 2);
    forget(&s.next);
    MUST(tier_delta_apply(fixture_dir, &s.delta, &s.base, s.manifest, &s.next, err));
    step_down(&s);
}

Test(tier_delta, a_sweep_takes_deltas_and_leaves_models) {
    struct step s = step_up(700, TIER_ENC_Q4, 700);
    cr_assert(eq(sz, files_in(fixture_dir), 2));
    close(open(fixture_path("delta-a1B2c3"), O_CREAT | O_WRONLY, 0600)); /* what a kill left */
    tier_delta_sweep(fixture_dir);
    cr_assert(eq(sz, files_in(fixture_dir), 1));
    CHECK(tier_content_has(fixture_dir, &s.base, TIER_CONTENT_MODEL));
    tier_delta_delete(fixture_dir, &s.delta);
    step_down(&s);
}
