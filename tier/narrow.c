/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A float32 that is 2^23 units or more is a multiple of the unit already, and what is rounded is
 * below that: so every result is a float32, and rounding is done in double without an error of its
 * own.
 */
#include "tier/narrow.h"

#include "kernels/kern.h"

#include <math.h>

unsigned tier_narrow_shift_for(uint64_t sites) {
    unsigned s = 1;

    while (s < TIER_NARROW_SHIFT_MAX && UINT64_C(1) << s < sites)
        s++;
    return s;
}

unsigned tier_narrow_shift(const struct tier_plan *plan) {
    return plan->secure.bits == TIER_PLAN_BITS_32 ? tier_narrow_shift_for(plan->weight_total_max)
                                                  : 0;
}

void tier_narrow_round(float *x, size_t n, int frac_bits, unsigned shift, uint64_t key,
                       uint64_t first) {
    const uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)};
    const double scale = ldexp(1, frac_bits - (int)shift), unit = ldexp(1, (int)shift - frac_bits);
    uint32_t draw[4];

    for (size_t i = 0; i < n; i++) {
        uint64_t at = first + i;
        if (i == 0 || at % 4 == 0) {
            const uint32_t counter[4] = {(uint32_t)(at / 4), (uint32_t)(at / 4 >> 32), 1, 0};
            kern_philox(draw, counter, k);
        }
        double t = (double)x[i] * scale;
        int32_t r = (int32_t)t; /* toward 0, of at most 2^29 */
        r -= t < r ? 1 : 0;
        r += (double)draw[at % 4] * 0x1p-32 < t - r ? 1 : 0;
        x[i] = (float)(r * unit);
    }
}

bool tier_narrow_words(const int64_t *sums, size_t n, unsigned shift, uint32_t *words) {
    const uint64_t most = UINT64_C(1) << 30, rest = (UINT64_C(1) << shift) - 1;
    uint64_t bad = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t q = (uint64_t)sums[i];
        bad |= (q & rest) | (uint64_t)(q + most > 2 * most);
        words[i] = (uint32_t)(q >> shift);
    }
    return bad == 0;
}

void tier_narrow_sums(const uint32_t *words, size_t n, unsigned shift, int64_t *sums) {
    const int64_t unit = INT64_C(1) << shift;

    for (size_t i = 0; i < n; i++)
        sums[i] = (int64_t)(int32_t)words[i] * unit;
}
