/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/residual.h"
#include "support/tier_fixture.h"

TestSuite(spoke_residual, .init = fixture_up, .fini = fixture_down);

static struct tier_hash hash_of(const char *text) {
    struct tier_hash h;
    tier_hash_data(text, strlen(text), &h);
    return h;
}

static struct tier_manifest *manifest_of_300(void) {
    struct tier_tensor t = tensor_of("w", 300, 0, 30, false);
    return manifest_of(&t, 1);
}

static float first_of(const struct tier_manifest *m, const struct tier_hash *run) {
    float x[300];
    MUST(spoke_residual_read(fixture_dir, run, m, x, err));
    for (size_t i = 1; i < 300; i++)
        CHECK(x[i] == x[0] * (float)(i + 1));
    return x[0];
}

static void dropped(const struct tier_manifest *m, const struct tier_hash *run, uint64_t round,
                    const struct tier_hash *id, float first) {
    float x[300];
    for (size_t i = 0; i < 300; i++)
        x[i] = first * (float)(i + 1);
    MUST(spoke_residual_write(fixture_dir, run, m, round, id, x, err));
}

Test(spoke_residual, it_advances_with_the_commit_of_its_own_update_and_only_once) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_hash run = hash_of("run"), a = hash_of("a"), b = hash_of("b");
    cr_assert(eq(flt, first_of(m, &run), 0), "nothing is dropped before the first round");
    MUST(spoke_residual_commit(fixture_dir, &run, 1, &a, err));
    dropped(m, &run, 1, &a, 0.5f);
    cr_assert(eq(flt, first_of(m, &run), 0), "not before its commit");
    MUST(spoke_residual_commit(fixture_dir, &run, 1, &a, err));
    MUST(spoke_residual_commit(fixture_dir, &run, 1, &a, err));
    cr_assert(eq(flt, first_of(m, &run), 0.5f));

    dropped(m, &run, 2, &b, 0.25f);
    MUST(spoke_residual_commit(fixture_dir, &run, 1, &a, err));
    MUST(spoke_residual_commit(fixture_dir, &run, 2, &a, err));
    MUST(spoke_residual_commit(fixture_dir, &run, 3, &b, err));
    cr_assert(eq(flt, first_of(m, &run), 0.5f), "another round's or another update's commit");
    dropped(m, &run, 2, &b, 0.25f); /* trained again after a crash */
    MUST(spoke_residual_commit(fixture_dir, &run, 2, &b, err));
    cr_assert(eq(flt, first_of(m, &run), 0.25f));
    tier_manifest_free(m);
}

Test(spoke_residual, runs_do_not_meet_and_an_ended_one_leaves_nothing) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_hash one = hash_of("one"), two = hash_of("two"), id = hash_of("id");
    dropped(m, &one, 1, &id, 1);
    dropped(m, &two, 1, &id, 2);
    MUST(spoke_residual_commit(fixture_dir, &one, 1, &id, err));
    cr_assert(eq(flt, first_of(m, &one), 1));
    cr_assert(eq(flt, first_of(m, &two), 0));
    MUST(spoke_residual_commit(fixture_dir, &two, 1, &id, err));
    dropped(m, &one, 2, &id, 3);
    spoke_residual_drop(fixture_dir, &one);
    cr_assert(eq(flt, first_of(m, &one), 0));
    cr_assert(eq(flt, first_of(m, &two), 2));
    cr_assert(eq(sz, files_in(fixture_path("residual")), 1));
    spoke_residual_drop(fixture_dir, &two);
    cr_assert(eq(sz, files_in(fixture_path("residual")), 0));
    tier_manifest_free(m);
}

Test(spoke_residual, a_damaged_or_foreign_file_is_refused_by_name) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_tensor t = tensor_of("w", 300, 0, 29, false);
    struct tier_manifest *other = manifest_of(&t, 1);
    struct tier_hash run = hash_of("run"), id = hash_of("id");
    char path[600], hex[TIER_HASH_HEX];
    float x[300];
    dropped(m, &run, 1, &id, 1);
    MUST(spoke_residual_commit(fixture_dir, &run, 1, &id, err));
    snprintf(path, sizeof path, "%s/residual/%s.now", fixture_dir, tier_hash_hex(&run, hex));
    REFUSED(TIER_ECORRUPT, "not of this run",
            spoke_residual_read(fixture_dir, &run, other, x, err));
    FILE *f = fopen(path, "r+b");
    fseek(f, 500, SEEK_SET);
    fputc(7, f);
    fclose(f);
    REFUSED(TIER_ECORRUPT, "damaged", spoke_residual_read(fixture_dir, &run, m, x, err));
    CHECK(truncate(path, 600) == 0);
    REFUSED(TIER_ECORRUPT, "cut short", spoke_residual_read(fixture_dir, &run, m, x, err));
    CHECK(truncate(path, 60) == 0);
    REFUSED(TIER_ECORRUPT, "not of this run", spoke_residual_read(fixture_dir, &run, m, x, err));
    tier_manifest_free(m);
    tier_manifest_free(other);
}
