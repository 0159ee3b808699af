/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers for privacy: AES-256-CTR by its published vectors, and distributions by their own
 * chances. Keys are fixed, so that each test draws the same numbers every time. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tier/noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS 200000

static struct tier_err err;

static struct tier_noise *stream(uint8_t key, uint64_t number) {
    struct tier_noise_key k;
    struct tier_noise *n = NULL;
    memset(&k, key, sizeof k);
    cr_assert(tier_noise_new(&k, number, &n, &err) == TIER_OK, "%s", err.text);
    return n;
}

/* FIPS 197's AES-256 of the all-zero block under the all-zero key, as SP 800-38A's mode has it with
 * counter 0 (NIST's KAT, GFSbox and VarKey: dc95c078a2408989ad48a21492842087). */
Test(tier_noise, a_stream_is_aes_256_in_counter_mode) {
    static const uint8_t first[16] = {0xdc, 0x95, 0xc0, 0x78, 0xa2, 0x40, 0x89, 0x89,
                                      0xad, 0x48, 0xa2, 0x14, 0x92, 0x84, 0x20, 0x87};
    struct tier_noise *n = stream(0, 0);
    uint64_t words[2] = {tier_noise_word(n), 0};
    words[1] = tier_noise_word(n);
    cr_expect(memcmp(words, first, sizeof first) == 0);
    tier_noise_free(n);
}

Test(tier_noise, the_same_key_and_stream_give_the_same_numbers_and_no_others_do) {
    struct tier_noise *a = stream(1, 7), *b = stream(1, 7), *other = stream(1, 8),
                      *stranger = stream(2, 7);
    size_t alike = 0;
    for (int i = 0; i < 2000; i++) { /* over several blocks of the cipher */
        uint64_t word = tier_noise_word(a);
        cr_assert(eq(u64, word, tier_noise_word(b)));
        alike += word == tier_noise_word(other);
        alike += word == tier_noise_word(stranger);
    }
    cr_expect(eq(sz, alike, 0));
    tier_noise_free(a);
    tier_noise_free(b);
    tier_noise_free(other);
    tier_noise_free(stranger);
}

Test(tier_noise, a_key_is_drawn_anew_each_time_and_its_hash_is_its_own) {
    struct tier_noise_key a, b;
    struct tier_hash x, y, z;
    cr_assert(tier_noise_key_draw(&a, &err) == TIER_OK && tier_noise_key_draw(&b, &err) == TIER_OK);
    cr_expect(memcmp(&a, &b, sizeof a) != 0);
    tier_noise_key_hash(&a, &x);
    tier_noise_key_hash(&a, &y);
    tier_noise_key_hash(&b, &z);
    cr_expect(tier_hash_equal(&x, &y));
    cr_expect(not(tier_hash_equal(&x, &z)));
    tier_noise_key_wipe(&a);
    memset(&b, 0, sizeof b);
    cr_expect(memcmp(&a, &b, sizeof a) == 0);
}

Test(tier_noise, a_number_below_n_is_uniform) {
    struct tier_noise *n = stream(3, 0);
    double count[7] = {0}, chi = 0;
    for (int i = 0; i < DRAWS; i++) {
        uint64_t x = tier_noise_below(n, 7);
        cr_assert(lt(u64, x, 7));
        count[x]++;
    }
    for (int i = 0; i < 7; i++)
        chi += pow(count[i] - DRAWS / 7.0, 2) / (DRAWS / 7.0);
    cr_expect(lt(dbl, chi, 22.5), "chi-square of 6 degrees: %g", chi); /* passed once in 1000 */
    cr_expect(eq(u64, tier_noise_below(n, 1), 0));
    tier_noise_free(n);
}

Test(tier_noise, a_sample_takes_each_row_by_itself) {
    struct tier_noise *n = stream(4, 0);
    int32_t sample[50];
    double sum = 0, squares = 0, seen[50] = {0};
    for (int i = 0; i < 20000; i++) {
        size_t count = tier_noise_sample(n, 50, 10, sample);
        for (size_t k = 0; k < count; k++) {
            cr_assert(k == 0 || sample[k - 1] < sample[k]);
            seen[sample[k]]++;
        }
        sum += (double)count;
        squares += (double)count * (double)count;
    }
    double mean = sum / 20000, variance = squares / 20000 - mean * mean;
    cr_expect(fabs(mean - 10) < 0.08, "%g", mean); /* binomial: 50 x 0.2, variance 8 */
    cr_expect(fabs(variance - 8) < 0.35, "%g", variance);
    for (int i = 0; i < 50; i++)
        cr_expect(fabs(seen[i] / 20000 - 0.2) < 0.012, "row %d: %g", i, seen[i] / 20000);
    tier_noise_free(n);
}

Test(tier_noise, a_sample_of_all_rows_or_more_is_all_rows) {
    struct tier_noise *n = stream(4, 1);
    int32_t sample[5];
    cr_expect(eq(sz, tier_noise_sample(n, 5, 5, sample), 5));
    cr_expect(eq(sz, tier_noise_sample(n, 5, 90, sample), 5));
    cr_expect(eq(sz, tier_noise_sample(n, 5, 0, sample), 0));
    tier_noise_free(n);
}

/* Against the chances themselves, e^(-k^2 / (2 variance)) over their sum. */
static void whole_follows(uint64_t variance, int reach) {
    struct tier_noise *n = stream(5, variance);
    double *count = calloc((size_t)reach * 2 + 1, sizeof *count), total = 0, chi = 0;
    int cells = 0;
    for (int i = 0; i < DRAWS; i++) {
        int64_t k = tier_noise_whole(n, variance);
        if (k >= -reach && k <= reach)
            count[k + reach]++;
    }
    for (int k = -60 * reach; k <= 60 * reach; k++)
        total += exp(-(double)k * k / (2.0 * (double)variance));
    for (int k = -reach; k <= reach; k++) {
        double wanted = DRAWS * exp(-(double)k * k / (2.0 * (double)variance)) / total;
        if (wanted < 20)
            continue;
        chi += pow(count[k + reach] - wanted, 2) / wanted;
        cells++;
    }
    /* Wilson and Hilferty: passed once in 1000 */
    double most = cells * pow(1 - 2.0 / (9 * cells) + 3.09 * sqrt(2.0 / (9 * cells)), 3);
    cr_expect(cells >= 5 && chi < most, "variance %llu: chi-square %g of %d cells, at most %g",
              (unsigned long long)variance, chi, cells, most);
    free(count);
    tier_noise_free(n);
}

Test(tier_noise, whole_numbers_have_the_chances_of_the_discrete_gaussian) {
    whole_follows(1, 4);
    whole_follows(7, 10);
    whole_follows(100, 40);
}

Test(tier_noise, whole_numbers_of_a_wide_distribution_have_its_moments) {
    const double deviation = 67108864.0; /* 2^26: the widest */
    struct tier_noise *n = stream(6, 0);
    double sum = 0, squares = 0, fourth = 0;
    int beyond = 0;
    for (int i = 0; i < DRAWS; i++) {
        double x = (double)tier_noise_whole(n, TIER_NOISE_VARIANCE_MAX) / deviation;
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        beyond += fabs(x) > 1;
    }
    cr_expect(fabs(sum / DRAWS) < 0.008, "%g", sum / DRAWS);
    cr_expect(fabs(squares / DRAWS - 1) < 0.011, "%g", squares / DRAWS);
    cr_expect(fabs(fourth / DRAWS - 3) < 0.1, "%g", fourth / DRAWS);
    cr_expect(fabs(beyond / (double)DRAWS - 0.317311) < 0.0035, "%d", beyond);
    tier_noise_free(n);
}

Test(tier_noise, normal_noise_is_added_and_has_the_deviation_asked_for) {
    struct tier_noise *n = stream(7, 0);
    float *x = malloc((DRAWS + 1) * sizeof *x);
    double sum = 0, squares = 0, fourth = 0;
    int beyond = 0;
    for (int i = 0; i <= DRAWS; i++)
        x[i] = 10;
    tier_noise_normal(n, 2, x, DRAWS + 1); /* an odd number of them */
    for (int i = 0; i <= DRAWS; i++) {
        double z = ((double)x[i] - 10) / 2;
        sum += z;
        squares += z * z;
        fourth += z * z * z * z;
        beyond += fabs(z) > 2;
    }
    cr_expect(fabs(sum / DRAWS) < 0.008, "%g", sum / DRAWS);
    cr_expect(fabs(squares / DRAWS - 1) < 0.011, "%g", squares / DRAWS);
    cr_expect(fabs(fourth / DRAWS - 3) < 0.1, "%g", fourth / DRAWS);
    cr_expect(fabs(beyond / (double)DRAWS - 0.045500) < 0.0016, "%d", beyond);
    free(x);
    tier_noise_free(n);
}
