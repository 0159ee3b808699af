/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/state.h"
#include "support/tier_fixture.h"
#include "tier/model.h"

TestSuite(spoke_state, .init = fixture_up, .fini = fixture_down);

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
    float x[300] = {0};
    bool found;
    MUST(spoke_state_read(SPOKE_STATE_RESIDUAL, fixture_dir, run, m, x, &found, err));
    CHECK(found == (x[0] != 0));
    for (size_t i = 1; i < 300; i++)
        CHECK(x[i] == x[0] * (float)(i + 1));
    return x[0];
}

static void dropped(const struct tier_manifest *m, const struct tier_hash *run, uint64_t round,
                    const struct tier_hash *id, float first) {
    float x[300];
    for (size_t i = 0; i < 300; i++)
        x[i] = first * (float)(i + 1);
    MUST(spoke_state_write(SPOKE_STATE_RESIDUAL, fixture_dir, run, m, round, id, x, err));
}

Test(spoke_state, it_advances_with_the_commit_of_its_own_update_and_only_once) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_hash run = hash_of("run"), a = hash_of("a"), b = hash_of("b");
    cr_assert(eq(flt, first_of(m, &run), 0), "nothing is dropped before the first round");
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 1, &a, err));
    dropped(m, &run, 1, &a, 0.5f);
    cr_assert(eq(flt, first_of(m, &run), 0), "not before its commit");
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 1, &a, err));
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 1, &a, err));
    cr_assert(eq(flt, first_of(m, &run), 0.5f));

    dropped(m, &run, 2, &b, 0.25f);
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 1, &a, err));
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 2, &a, err));
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 3, &b, err));
    cr_assert(eq(flt, first_of(m, &run), 0.5f), "another round's or another update's commit");
    dropped(m, &run, 2, &b, 0.25f); /* trained again after a crash */
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 2, &b, err));
    cr_assert(eq(flt, first_of(m, &run), 0.25f));
    tier_manifest_free(m);
}

Test(spoke_state, runs_do_not_meet_and_an_ended_one_leaves_nothing) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_hash one = hash_of("one"), two = hash_of("two"), id = hash_of("id");
    dropped(m, &one, 1, &id, 1);
    dropped(m, &two, 1, &id, 2);
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &one, 1, &id, err));
    cr_assert(eq(flt, first_of(m, &one), 1));
    cr_assert(eq(flt, first_of(m, &two), 0));
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &two, 1, &id, err));
    dropped(m, &one, 2, &id, 3);
    spoke_state_drop(SPOKE_STATE_RESIDUAL, fixture_dir, &one);
    cr_assert(eq(flt, first_of(m, &one), 0));
    cr_assert(eq(flt, first_of(m, &two), 2));
    cr_assert(eq(sz, files_in(fixture_path("residual")), 1));
    spoke_state_drop(SPOKE_STATE_RESIDUAL, fixture_dir, &two);
    cr_assert(eq(sz, files_in(fixture_path("residual")), 0));
    tier_manifest_free(m);
}

Test(spoke_state, a_damaged_or_foreign_file_is_refused_by_name) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_tensor t = tensor_of("w", 300, 0, 29, false);
    struct tier_manifest *other = manifest_of(&t, 1);
    struct tier_hash run = hash_of("run"), id = hash_of("id");
    char path[600], hex[TIER_HASH_HEX];
    float x[300];
    bool found;
    dropped(m, &run, 1, &id, 1);
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 1, &id, err));
    snprintf(path, sizeof path, "%s/residual/%s.now", fixture_dir, tier_hash_hex(&run, hex));
    REFUSED(TIER_ECORRUPT, "not of this run",
            spoke_state_read(SPOKE_STATE_RESIDUAL, fixture_dir, &run, other, x, &found, err));
    FILE *f = fopen(path, "r+b");
    fseek(f, 500, SEEK_SET);
    fputc(7, f);
    fclose(f);
    REFUSED(TIER_ECORRUPT, "damaged",
            spoke_state_read(SPOKE_STATE_RESIDUAL, fixture_dir, &run, m, x, &found, err));
    CHECK(truncate(path, 600) == 0);
    REFUSED(TIER_ECORRUPT, "cut short",
            spoke_state_read(SPOKE_STATE_RESIDUAL, fixture_dir, &run, m, x, &found, err));
    CHECK(truncate(path, 60) == 0);
    REFUSED(TIER_ECORRUPT, "not of this run",
            spoke_state_read(SPOKE_STATE_RESIDUAL, fixture_dir, &run, m, x, &found, err));
    tier_manifest_free(m);
    tier_manifest_free(other);
}

Test(spoke_state, it_says_which_round_left_it) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_hash run = hash_of("run"), a = hash_of("a"), b = hash_of("b");
    cr_assert(eq(ulong, spoke_state_round(SPOKE_STATE_RESIDUAL, fixture_dir, &run), 0));
    dropped(m, &run, 3, &a, 1);
    cr_assert(eq(ulong, spoke_state_round(SPOKE_STATE_RESIDUAL, fixture_dir, &run), 0));
    MUST(spoke_state_commit(SPOKE_STATE_RESIDUAL, fixture_dir, &run, 3, &a, err));
    cr_assert(eq(ulong, spoke_state_round(SPOKE_STATE_RESIDUAL, fixture_dir, &run), 3));
    dropped(m, &run, 4, &b, 2);
    cr_assert(eq(ulong, spoke_state_round(SPOKE_STATE_RESIDUAL, fixture_dir, &run), 3));
    cr_assert(eq(ulong, spoke_state_round(SPOKE_STATE_CURVATURE, fixture_dir, &run), 0));
    cr_assert(eq(ulong, spoke_state_round(SPOKE_STATE_RESIDUAL, fixture_dir, &a), 0));
    tier_manifest_free(m);
}

Test(spoke_state, kinds_do_not_meet) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_hash run = hash_of("run"), id = hash_of("id");
    float x[300] = {3}, y[300];
    bool found;
    dropped(m, &run, 1, &id, 1);
    MUST(spoke_state_write(SPOKE_STATE_CONTROL, fixture_dir, &run, m, 1, &id, x, err));
    MUST(spoke_state_commit(SPOKE_STATE_PRIVATE, fixture_dir, &run, 1, &id, err));
    MUST(spoke_state_commit(SPOKE_STATE_CONTROL, fixture_dir, &run, 1, &id, err));
    cr_assert(eq(flt, first_of(m, &run), 0));
    MUST(spoke_state_read(SPOKE_STATE_PRIVATE, fixture_dir, &run, m, y, &found, err));
    CHECK(!found);
    MUST(spoke_state_read(SPOKE_STATE_CONTROL, fixture_dir, &run, m, y, &found, err));
    CHECK(found && memcmp(x, y, sizeof x) == 0);
    tier_manifest_free(m);
}

Test(spoke_state, an_ended_run_leaves_what_its_last_commit_left_as_a_model) {
    struct tier_manifest *m = manifest_of_300();
    struct tier_hash run = hash_of("run"), a = hash_of("a"), b = hash_of("b");
    struct tier_hash published = hash_of("model");
    struct tier_model *model = NULL;
    char *path = NULL, hex[TIER_HASH_HEX];
    float x[300] = {3}, y[300] = {4}, got[300];
    MUST(spoke_state_keep_private(fixture_dir, &run, m, &published, &path, err));
    CHECK(path == NULL, "nothing was committed, nothing is left");
    MUST(spoke_state_write(SPOKE_STATE_PRIVATE, fixture_dir, &run, m, 1, &a, x, err));
    MUST(spoke_state_commit(SPOKE_STATE_PRIVATE, fixture_dir, &run, 1, &a, err));
    MUST(spoke_state_write(SPOKE_STATE_PRIVATE, fixture_dir, &run, m, 2, &b, y, err));
    for (int again = 0; again < 2; again++) { /* a kill right after: it is done once more */
        MUST(spoke_state_keep_private(fixture_dir, &run, m, &published, &path, err));
        MUST(tier_model_open(path, &model, err));
        MUST(tier_model_matches(model, m, err));
        MUST(tier_model_read(model, 0, 300, got, err));
        CHECK(memcmp(got, x, sizeof x) == 0);
        cr_assert(eq(str, (char *)tier_model_metadata(model, "consilium.run"),
                     (char *)tier_hash_hex(&run, hex)));
        cr_assert(eq(str, (char *)tier_model_metadata(model, "consilium.model"),
                     (char *)tier_hash_hex(&published, hex)));
        tier_model_close(model);
        free(path);
    }
    spoke_state_drop(SPOKE_STATE_PRIVATE, fixture_dir, &run);
    spoke_state_sweep(fixture_dir);
    cr_assert(eq(sz, files_in(fixture_path("private")), 1));
    tier_manifest_free(m);
}
