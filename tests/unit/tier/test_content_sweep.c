/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/content.h"

TestSuite(tier_content_sweep, .init = fixture_up, .fini = fixture_down);

static enum tier_status receive(const struct tier_hash *hash, size_t slice, const char *text,
                                struct tier_err *err) {
    struct tier_content_rx *rx = NULL;
    struct iovec slices[256];
    size_t n = strlen(text), count = 0;

    for (size_t at = 0; at < n; at += slice)
        slices[count++] = (struct iovec){(void *)(text + at), n - at < slice ? n - at : slice};
    TIER_TRY(tier_content_rx_open(fixture_dir, hash, TIER_CONTENT_MODEL, &rx, err));
    TIER_TRY(tier_content_rx_writev(rx, slices, count, err));
    cr_assert(eq(u64, tier_content_rx_offset(rx), n));
    return tier_content_rx_finish(rx, err);
}

static struct tier_hash hash_of(const char *text) {
    struct tier_hash h;
    tier_hash_data(text, strlen(text), &h);
    return h;
}

static const char text[] = "a model, as far as its hash is concerned, is some bytes, and these are "
                           "more than a hundred and twenty-eight of them, so that one byte a slice "
                           "fills several calls";

Test(tier_content_sweep, a_file_received_in_slices_of_any_size_gets_its_name) {
    struct tier_hash h = hash_of(text);
    for (size_t slice = 1; slice < 200; slice += 33) {
        MUST(receive(&h, slice, text, err));
        CHECK(tier_content_has(fixture_dir, &h, TIER_CONTENT_MODEL));
        char *path = tier_content_path(fixture_dir, &h, TIER_CONTENT_MODEL);
        CHECK(unlink(path) == 0);
        free(path);
    }
}

Test(tier_content_sweep, a_file_with_another_hash_is_thrown_away) {
    struct tier_hash h = hash_of("something else");
    REFUSED(TIER_ECORRUPT, "SHA-256", receive(&h, 64, text, err));
    CHECK(!tier_content_has(fixture_dir, &h, TIER_CONTENT_MODEL));
}

static void overwrite(const char *name, const char *bytes) {
    FILE *f = fopen(fixture_path(name), "w");
    CHECK(f && fputs(bytes, f) >= 0 && fclose(f) == 0);
}

/* Two files, the second damaged behind the node's back. */
static void two_files(struct tier_hash *good, struct tier_hash *bad) {
    *good = hash_of("good");
    *bad = hash_of("bad");
    MUST(receive(good, 4, "good", err));
    MUST(receive(bad, 4, "bad", err));
    char *path = tier_content_path(fixture_dir, bad, TIER_CONTENT_MODEL);
    overwrite(strrchr(path, '/') + 1, "b?d");
    free(path);
}

Test(tier_content_sweep, a_restart_of_the_machine_finds_the_damaged_file_and_keeps_the_others) {
    struct tier_hash good, bad;
    two_files(&good, &bad);
    overwrite(".boot", "00000000-0000-0000-0000-000000000000");
    overwrite("notes.txt", "not ours");
    MUST(tier_content_sweep(fixture_dir, err));
    CHECK(tier_content_has(fixture_dir, &good, TIER_CONTENT_MODEL));
    CHECK(!tier_content_has(fixture_dir, &bad, TIER_CONTENT_MODEL));
    CHECK(access(fixture_path("notes.txt"), F_OK) == 0);
}

Test(tier_content_sweep, a_restart_of_the_process_alone_reads_nothing) {
    struct tier_hash good, bad;
    if (access("/proc/sys/kernel/random/boot_id", R_OK) != 0)
        cr_skip_test("the system tells no boot id");
    MUST(tier_content_sweep(fixture_dir, err));
    two_files(&good, &bad);
    MUST(tier_content_sweep(fixture_dir, err));
    CHECK(tier_content_has(fixture_dir, &bad, TIER_CONTENT_MODEL));
}

Test(tier_content_sweep, a_directory_that_is_not_there_cannot_be_swept) {
    REFUSED(TIER_EIO, "cannot list", tier_content_sweep(fixture_path("absent"), err));
}
