/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sharing a 32-byte secret among up to 255 holders, so that any `threshold` of the shares give it
 * back and fewer say nothing at all (A. Shamir, "How to Share a Secret", 1979). Each byte is shared
 * by a polynomial of its own over GF(2^8), reduced by x^8 + x^4 + x^3 + x + 1; holder number x,
 * from 1, gets the polynomials' values at x. Shares say nothing of whether they are right: whoever
 * joins them must know the secret when he sees it.
 *
 * Time and memory accesses depend on the counts and on holders' numbers, never on a secret or a
 * share. Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_SHAMIR_H
#define CONSILIUM_TIER_SHAMIR_H

#include "tier/err.h"

#include <stdint.h>

#define TIER_SHAMIR_BYTES 32
#define TIER_SHAMIR_HOLDERS_MAX 255u

/* What one holder has of one secret. */
struct tier_shamir_share {
    uint8_t x; /* the holder's number, from 1 */
    uint8_t y[TIER_SHAMIR_BYTES];
};

/*
 * Writes holders' shares with x = 1..holders to out[holders]. TIER_EARG unless 1 <= threshold <=
 * holders <= TIER_SHAMIR_HOLDERS_MAX; TIER_EINTERNAL where the machine gives no random numbers.
 */
enum tier_status tier_shamir_split(const uint8_t secret[TIER_SHAMIR_BYTES], unsigned threshold,
                                   unsigned holders, struct tier_shamir_share *out,
                                   struct tier_err *err);
/*
 * The secret behind `count` shares, all of which are used: at least as many as it was split with,
 * or the result is another. TIER_EARG: no share, more than TIER_SHAMIR_HOLDERS_MAX, an x of 0, or
 * two shares of one holder.
 */
enum tier_status tier_shamir_join(const struct tier_shamir_share *shares, unsigned count,
                                  uint8_t secret_out[TIER_SHAMIR_BYTES], struct tier_err *err);

#endif
