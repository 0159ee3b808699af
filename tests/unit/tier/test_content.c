/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/content.h"

TestSuite(tier_content, .init = fixture_up, .fini = fixture_down);

static enum tier_status write_one(struct tier_content_rx *rx, const void *data, size_t n,
                                  struct tier_err *err) {
    const struct iovec slice = {(void *)data, n};
    return tier_content_rx_writev(rx, &slice, 1, err);
}

static uint8_t *bytes_of(size_t n, uint64_t seed) {
    uint8_t *p = malloc(n ? n : 1);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)rng_next(&seed);
    return p;
}

static void same_file(const struct tier_hash *hash, const uint8_t *want, size_t n) {
    struct tier_content c;
    uint8_t *got = malloc(n + 1);
    MUST(tier_content_open(fixture_dir, hash, &c, err));
    CHECK(c.bytes == n);
    MUST(tier_content_read(&c, 0, got, n, err));
    CHECK(memcmp(got, want, n) == 0);
    if (n > 2) {
        MUST(tier_content_read(&c, n / 2, got, 1, err));
        CHECK(got[0] == want[n / 2]);
    }
    REFUSED(TIER_ECORRUPT, "shorter", tier_content_read(&c, n, got, 1, err));
    tier_content_close(&c);
    tier_content_close(&c);
    free(got);
}

Test(tier_content, what_is_stored_is_found_by_its_hash) {
    struct tier_hash hash, again, want;
    uint8_t *data = bytes_of(1000, 1);
    MUST(tier_content_store(fixture_dir, TIER_CONTENT_GRAPH, data, 1000, &hash, err));
    tier_hash_data(data, 1000, &want);
    CHECK(tier_hash_equal(&hash, &want));
    CHECK(tier_content_has(fixture_dir, &hash, TIER_CONTENT_GRAPH));
    CHECK(!tier_content_has(fixture_dir, &hash, TIER_CONTENT_MODEL));
    same_file(&hash, data, 1000);
    MUST(tier_content_store(fixture_dir, TIER_CONTENT_GRAPH, data, 1000, &again, err));
    CHECK(tier_hash_equal(&hash, &again) && files_in(fixture_dir) == 1);
    free(data);
}

Test(tier_content, what_is_not_here_is_not_found) {
    struct tier_hash hash;
    struct tier_content c = {.fd = 77};
    tier_hash_data("x", 1, &hash);
    REFUSED(TIER_ENOTFOUND, "no content", tier_content_open(fixture_dir, &hash, &c, err));
    CHECK(c.fd == 77, "the output was touched");
    CHECK(!tier_content_has(fixture_dir, &hash, TIER_CONTENT_GRAPH));
}

Test(tier_content, a_folder_that_is_not_there_is_an_error_with_its_path) {
    struct tier_hash hash = {{0}}, zero = {{0}};
    struct tier_content_rx *rx = NULL;
    const char *gone = fixture_path("gone");
    REFUSED(TIER_EIO, "gone", tier_content_store(gone, TIER_CONTENT_GRAPH, "abc", 3, &hash, err));
    CHECK(tier_hash_equal(&hash, &zero));
    REFUSED(TIER_EIO, "gone", tier_content_rx_open(gone, &hash, TIER_CONTENT_GRAPH, &rx, err));
    CHECK(rx == NULL);
}

Test(tier_content, a_file_received_in_pieces_gets_its_name_at_the_end) {
    size_t n = 3 * TIER_CHUNK_BYTES + 5;
    uint8_t *data = bytes_of(n, 2);
    struct tier_content_rx *rx = NULL;
    struct tier_hash hash;
    tier_hash_data(data, n, &hash);
    MUST(tier_content_rx_open(fixture_dir, &hash, TIER_CONTENT_MODEL, &rx, err));
    for (size_t at = 0; at < n; at += 100001)
        MUST(write_one(rx, data + at, n - at < 100001 ? n - at : 100001, err));
    CHECK(tier_content_rx_offset(rx) == n);
    CHECK(!tier_content_has(fixture_dir, &hash, TIER_CONTENT_MODEL));
    MUST(tier_content_rx_finish(rx, err));
    same_file(&hash, data, n);
    CHECK(files_in(fixture_dir) == 1);
    free(data);
}

Test(tier_content, receiving_goes_on_where_it_was_broken_off) {
    size_t n = TIER_CHUNK_BYTES + 77, half = 600000;
    uint8_t *data = bytes_of(n, 3);
    struct tier_content_rx *rx = NULL;
    struct tier_hash hash;
    tier_hash_data(data, n, &hash);
    MUST(tier_content_rx_open(fixture_dir, &hash, TIER_CONTENT_MODEL, &rx, err));
    MUST(write_one(rx, data, half, err));
    tier_content_rx_close(rx);
    tier_content_rx_close(NULL);
    MUST(tier_content_rx_open(fixture_dir, &hash, TIER_CONTENT_MODEL, &rx, err));
    CHECK(tier_content_rx_offset(rx) == half);
    MUST(write_one(rx, data + half, n - half, err));
    MUST(tier_content_rx_finish(rx, err));
    same_file(&hash, data, n);
    free(data);
}

Test(tier_content, a_file_that_arrived_damaged_is_thrown_away) {
    uint8_t *data = bytes_of(5000, 4);
    struct tier_content_rx *rx = NULL;
    struct tier_hash hash;
    tier_hash_data(data, 5000, &hash);
    data[4999] ^= 1;
    MUST(tier_content_rx_open(fixture_dir, &hash, TIER_CONTENT_MODEL, &rx, err));
    MUST(write_one(rx, data, 5000, err));
    REFUSED(TIER_ECORRUPT, "damaged", tier_content_rx_finish(rx, err));
    CHECK(files_in(fixture_dir) == 0);
    /* A cut file is damaged as well, and the next try begins anew. */
    data[4999] ^= 1;
    MUST(tier_content_rx_open(fixture_dir, &hash, TIER_CONTENT_MODEL, &rx, err));
    CHECK(tier_content_rx_offset(rx) == 0);
    MUST(write_one(rx, data, 4999, err));
    REFUSED(TIER_ECORRUPT, "damaged", tier_content_rx_finish(rx, err));
    CHECK(!tier_content_has(fixture_dir, &hash, TIER_CONTENT_MODEL));
    free(data);
}

Test(tier_content, a_partial_that_was_spoilt_meanwhile_does_not_get_the_name) {
    uint8_t *data = bytes_of(5000, 5);
    struct tier_content_rx *rx = NULL;
    struct tier_hash hash;
    tier_hash_data(data, 5000, &hash);
    MUST(tier_content_rx_open(fixture_dir, &hash, TIER_CONTENT_GRAPH, &rx, err));
    MUST(write_one(rx, data, 4000, err));
    tier_content_rx_close(rx);
    char *part = tier_content_path(fixture_dir, &hash, ".part");
    int fd = open(part, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, "spoilt", 6, 100) == 6);
    close(fd);
    free(part);
    MUST(tier_content_rx_open(fixture_dir, &hash, TIER_CONTENT_GRAPH, &rx, err));
    MUST(write_one(rx, data + 4000, 1000, err));
    REFUSED(TIER_ECORRUPT, "damaged", tier_content_rx_finish(rx, err));
    free(data);
}

Test(tier_content, an_empty_file_is_content_too) {
    struct tier_hash hash;
    MUST(tier_content_store(fixture_dir, TIER_CONTENT_GRAPH, "", 0, &hash, err));
    same_file(&hash, (const uint8_t *)"", 0);
}
