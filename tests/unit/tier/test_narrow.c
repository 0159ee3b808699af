/* SPDX-License-Identifier: Apache-2.0 */
/* Elements rounded for sums of 32 bits, and the words that they are summed as. */
#include "support/tier_fixture.h"
#include "tier/narrow.h"

#include <math.h>

TestSuite(tier_narrow, .fini = fixture_down);

Test(tier_narrow, so_many_sites_at_their_clips_fit_32_bits_and_half_as_coarse_they_would_not) {
    for (uint64_t sites = 1; sites <= TIER_NARROW_SITES_MAX; sites++) {
        unsigned s = tier_narrow_shift_for(sites);
        uint64_t most = sites << (30 - s);
        CHECK(s >= 1 && s <= TIER_NARROW_SHIFT_MAX && most <= UINT64_C(1) << 30);
        CHECK(s == 1 || most > UINT64_C(1) << 29, "%d sites", (int)sites);
    }
}

Test(tier_narrow, a_plan_of_64_bits_rounds_nothing) {
    struct tier_plan *plan = calloc(1, sizeof *plan);

    plan->weight_total_max = 100;
    plan->secure.bits = TIER_PLAN_BITS_64;
    CHECK(tier_narrow_shift(plan) == 0);
    plan->secure.bits = TIER_PLAN_BITS_32;
    CHECK(tier_narrow_shift(plan) == 7);
    free(plan);
}

/* ---- rounding ---- */

enum { N = 1 << 20 };

Test(tier_narrow, rounding_goes_to_either_neighbour_by_how_near_it_is) {
    static const double parts[] = {0, 0x1p-20, 0.001, 0.25, 0.5, 0.7, 0.999};
    const unsigned shift = 7;
    const int f = 12;
    const double unit = ldexp(1, (int)shift - f);
    float *x = malloc(N * sizeof *x);

    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
        for (int sign = -1; sign <= 1; sign += 2) {
            float value = (float)(sign * (3 + parts[p]) * unit);
            double low = floor((double)value / unit), part = (double)value / unit - low, sum = 0;
            for (size_t i = 0; i < N; i++)
                x[i] = value;
            tier_narrow_round(x, N, f, shift, 42 + p, 0);
            for (size_t i = 0; i < N; i++) {
                double up = (double)x[i] / unit - low;
                CHECK(up == 0 || up == 1);
                sum += up;
            }
            /* of the mean of N draws, five deviations */
            double most = 5 * sqrt(part * (1 - part) / N);
            CHECK(fabs(sum / N - part) <= most, "part %g: %g", part, sum / N);
        }
    free(x);
}

Test(tier_narrow, whole_units_stay_up_to_the_clip_and_nothing_passes_it) {
    uint64_t seed = 3;

    for (unsigned shift = 1; shift <= TIER_NARROW_SHIFT_MAX; shift++)
        for (int f = -96; f <= 100; f += 28)
            for (int i = 0; i < 200; i++) {
                int64_t most = INT64_C(1) << (30 - shift);
                int64_t r = i < 2 ? (i ? most : -most)
                                  : (int64_t)rng_below(&seed, (uint64_t)(2 * most + 1)) - most;
                float whole = (float)ldexp((double)r, (int)shift - f);
                float x = whole;
                /* what a float32 keeps of it, 24 bits, is a whole number of units too */
                tier_narrow_round(&x, 1, f, shift, rng_next(&seed), (uint64_t)i);
                CHECK(x == whole);
                float any = (float)ldexp(rng_unit(&seed) * 2 - 1, 30 - f);
                x = any;
                tier_narrow_round(&x, 1, f, shift, rng_next(&seed), (uint64_t)i);
                double units = ldexp((double)x, f - (int)shift);
                CHECK(units == floor(units) && fabs(units) <= (double)most);
                CHECK(fabs(units - ldexp((double)any, f - (int)shift)) < 1);
            }
}

Test(tier_narrow, the_same_key_and_place_round_alike_in_pieces_of_any_size) {
    static float whole[1001], pieces[1001], other[1001];
    uint64_t seed = 4;
    unsigned differ = 0;

    for (int i = 0; i < 1001; i++)
        whole[i] = pieces[i] = other[i] = (float)rng_unit(&seed);
    tier_narrow_round(whole, 1001, 30, 16, 9, UINT64_C(1) << 33);
    tier_narrow_round(other, 1001, 30, 16, 10, UINT64_C(1) << 33);
    for (size_t at = 0; at < 1001;) {
        size_t n = 1 + (size_t)rng_below(&seed, 9);
        n = n < 1001 - at ? n : 1001 - at;
        tier_narrow_round(pieces + at, n, 30, 16, 9, (UINT64_C(1) << 33) + at);
        at += n;
    }
    CHECK(memcmp(whole, pieces, sizeof whole) == 0);
    for (int i = 0; i < 1001; i++)
        differ += whole[i] != other[i];
    CHECK(differ > 100, "%u", differ);
}

/* ---- words ---- */

Test(tier_narrow, words_are_the_sums_in_units_and_nothing_else_is_taken) {
    const unsigned shift = 5;
    const int64_t good[] = {0, 32, -32, INT64_C(1) << 30, -(INT64_C(1) << 30), 96};
    static const int64_t bad[] = {
        1,         -31,      (INT64_C(1) << 30) + 32, -(INT64_C(1) << 30) - 32, INT64_C(1) << 40,
        INT64_MIN, INT64_MAX};
    uint32_t words[6];
    int64_t back[6];

    CHECK(tier_narrow_words(good, 6, shift, words));
    CHECK(words[1] == 1 && words[2] == UINT32_MAX && words[3] == 1u << 25);
    tier_narrow_sums(words, 6, shift, back);
    CHECK(memcmp(back, good, sizeof good) == 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t sums[6] = {32, 32, 32, 32, 32, 32};
        sums[i % 6] = bad[i];
        CHECK(!tier_narrow_words(sums, 6, shift, words), "%d", (int)i);
    }
}
