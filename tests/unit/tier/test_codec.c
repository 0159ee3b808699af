/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/codec.h"

static void round_trip(const int64_t *v, size_t n) {
    uint8_t *packed = malloc(TIER_PACK_BOUND(n) + 1);
    int64_t *back = malloc((n + 1) * sizeof *back);
    size_t used = 0, bytes = tier_pack(v, n, packed);
    CHECK(bytes <= TIER_PACK_BOUND(n));
    packed = realloc(packed, bytes + 1); /* so that the sanitizer sees a read past the end */
    MUST(tier_unpack(packed, bytes, back, n, &used, err));
    cr_assert(eq(sz, used, bytes));
    CHECK(n == 0 || memcmp(v, back, n * sizeof *v) == 0);
    for (size_t cut = bytes > 40 ? bytes - 40 : 0; cut < bytes; cut++)
        CHECK(tier_unpack(packed, cut, back, n, &used, NULL) == TIER_EUPDATE);
    free(packed);
    free(back);
}

Test(tier_codec, every_width_and_length_comes_back) {
    uint64_t seed = 2;
    static const size_t lengths[] = {1, 2, 7, 8, 9, 63, 255, 256, 257, 700};
    int64_t v[700];
    for (unsigned width = 1; width <= 64; width++)
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            for (size_t i = 0; i < lengths[k]; i++)
                v[i] = (int64_t)rng_next(&seed) >> (64 - width);
            round_trip(v, lengths[k]);
        }
    round_trip(v, 0);
}

Test(tier_codec, the_extremes_come_back) {
    int64_t v[] = {INT64_MIN, INT64_MAX, 0, -1, 1, INT64_C(1) << 62, -(INT64_C(1) << 62)};
    for (size_t i = 0; i < 7; i++)
        round_trip(v + i, 7 - i);
}

Test(tier_codec, a_block_is_as_wide_as_its_widest_value) {
    int64_t v[TIER_BLOCK_ELEMENTS] = {0};
    uint8_t out[TIER_PACK_BOUND(TIER_BLOCK_ELEMENTS)];
    cr_assert(eq(sz, tier_pack(v, 256, out), 1));
    v[9] = -1;
    cr_assert(eq(sz, tier_pack(v, 256, out), 1 + 32));
    v[9] = 1;
    cr_assert(eq(sz, tier_pack(v, 256, out), 1 + 64));
    v[9] = -2;
    cr_assert(eq(sz, tier_pack(v, 256, out), 1 + 64));
    v[9] = (INT64_C(1) << 30);
    cr_assert(eq(sz, tier_pack(v, 256, out), 1 + 32 * 32));
    v[9] = INT64_MIN;
    cr_assert(eq(sz, tier_pack(v, 256, out), 1 + 32 * 64));
}

Test(tier_codec, a_width_that_is_not_the_smallest_is_refused) {
    int64_t v[5] = {1, -2, 1, 0, 1}, back[5];
    uint8_t wide[16] = {3, 0x31 | 0x40, 0x10, 0}; /* the same numbers at 3 bits: 1, 6, 1, 0, 1 */
    uint8_t packed[64];
    size_t used = 0;
    REFUSED(TIER_EUPDATE, "would do", tier_unpack(wide, 3, back, 5, &used, err));
    uint8_t zero[3] = {1, 0, 0};
    REFUSED(TIER_EUPDATE, "would do", tier_unpack(zero, 3, back, 5, &used, err));
    uint8_t over[1] = {65};
    REFUSED(TIER_EUPDATE, "65 bits", tier_unpack(over, 1, back, 5, &used, err));
    size_t n = tier_pack(v, 5, packed); /* 10 bits: 6 are fill */
    packed[n - 1] |= 0x80;
    REFUSED(TIER_EUPDATE, "zeros", tier_unpack(packed, n, back, 5, &used, err));
    packed[n - 1] &= 0x7f;
    MUST(tier_unpack(packed, n, back, 5, &used, err));
}

Test(tier_codec, sums_of_gaussian_deltas_pack_to_about_the_size_of_f32) {
    /* Eight children of weight 1000, deltas as local training makes them: sigma 2^-9 under a clip
     * of 1, so q has some 22 bits and its weighted sum some 34. */
    enum { N = 1 << 18, CHILDREN = 8 };
    uint64_t seed = 3;
    int64_t *sums = calloc(N, sizeof *sums);
    uint8_t *packed = malloc(TIER_PACK_BOUND(N));
    for (int c = 0; c < CHILDREN; c++)
        for (int i = 0; i < N; i++)
            sums[i] += 1000 * (int64_t)rint(rng_normal(&seed) * 0x1p-9 * 0x1p30);
    double ratio = (double)tier_pack(sums, N, packed) / (N * sizeof(float));
    cr_log_info("packed sums are %.3f of f32", ratio);
    CHECK(ratio > 0.9 && ratio < 1.25, "%.3f", ratio);
    free(sums);
    free(packed);
}
