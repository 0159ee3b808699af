/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums in 32 bits (a plan's secure.bits: 32): what an element of a masked update costs is its word,
 * and with equal weights a shorter word has room for the sum.
 *
 * The integers are those of the 64-bit domain, |q| <= 2^30 of each tensor's own f, rounded to whole
 * units of 2^s: r = q / 2^s, |r| <= 2^(30 - s), where s = max(1, ceil(log2 K)) and K is the plan's
 * exact.weight_total_max, which with weights of 1 is how many sites there may be. So
 *
 *   |sum of r| <= K * 2^(30 - s) <= 2^30 < 2^31,
 *
 * and what is left when masks modulo 2^32 are gone, times 2^s, is the sum of the q, bit for bit. It
 * goes on as any sum does, in 64 bits.
 *
 * Rounding is stochastic and unbiased, for each element by itself: up with the chance of what is
 * above the lower unit, to 2^-32 of a unit. It is done where an update is sealed (tier/update.h),
 * so that the same update sent in the open is made of the same integers: the visible twin.
 *
 * Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_NARROW_H
#define CONSILIUM_TIER_NARROW_H

#include "tier/plan.h"

#define TIER_NARROW_SHIFT_MAX 16 /* 2^14 units to a clip are left */
#define TIER_NARROW_SITES_MAX (UINT64_C(1) << TIER_NARROW_SHIFT_MAX)

/* s of so many sites, 1 to SITES_MAX. */
unsigned tier_narrow_shift_for(uint64_t sites);
/* s of the plan; 0: its sums are of 64 bits. */
unsigned tier_narrow_shift(const struct tier_plan *plan);

/*
 * Rounds x[n], |x * 2^frac_bits| <= 2^30, to multiples of 2^(shift - frac_bits), which float32 has
 * exactly. Element i draws word (first + i) % 4 of Philox4x32-10 of the key and the counter
 * (first + i) / 4: the same key and place, the same bits, on every machine and in pieces of any
 * size.
 */
void tier_narrow_round(float *x, size_t n, int frac_bits, unsigned shift, uint64_t key,
                       uint64_t first);

/* words[n] = sums[n] / 2^shift. False where one is no multiple of it, or beyond 2^30. */
bool tier_narrow_words(const int64_t *sums, size_t n, unsigned shift, uint32_t *words);
/* The way back; words are in two's complement. */
void tier_narrow_sums(const uint32_t *words, size_t n, unsigned shift, int64_t *sums);

#endif
