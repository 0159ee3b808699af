/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random numbers for differential privacy: AES-256 in counter mode under a key that is drawn once,
 * written down (tier/ledger.h) before it is used, and never used for anything else. Who resumes
 * gets the very same numbers, so that nothing is released under two draws of noise; who does not
 * have the key gets none.
 *
 * Whole numbers are exact: chances are fractions of integers, and what is drawn has the
 * distribution it is said to have, without a logarithm or a cosine (Canonne, Kamath, Steinke 2020).
 * tier_noise_normal is floating point: 53 bits, tails to 8.5 deviations; what it is added to is
 * float32, and the gaps between such numbers are a known weakness that its noise does not hide
 * (Mironov 2012). The time that a draw takes depends on what is drawn.
 *
 * Threads: a stream belongs to one thread.
 */
#ifndef CONSILIUM_TIER_NOISE_H
#define CONSILIUM_TIER_NOISE_H

#include "tier/err.h"
#include "tier/hash.h"

#include <stddef.h>
#include <stdint.h>

#define TIER_NOISE_KEY_BYTES 32
#define TIER_NOISE_VARIANCE_MAX (UINT64_C(1) << 52) /* of whole numbers */

struct tier_noise_key {
    uint8_t b[TIER_NOISE_KEY_BYTES];
};

/* A new key from the system's generator. TIER_EINTERNAL where it has none to give. */
enum tier_status tier_noise_key_draw(struct tier_noise_key *out, struct tier_err *err);
/* What may be shown of a key: it commits to it, and says nothing of it. */
void tier_noise_key_hash(const struct tier_noise_key *key, struct tier_hash *out);
void tier_noise_key_wipe(struct tier_noise_key *key);
/* Whether it was never drawn. */
bool tier_noise_key_is_zero(const struct tier_noise_key *key);

struct tier_noise;

/* The key's stream of that number; streams of other numbers are independent of it. TIER_ENOMEM,
 * TIER_EINTERNAL. */
enum tier_status tier_noise_new(const struct tier_noise_key *key, uint64_t stream,
                                struct tier_noise **out, struct tier_err *err);
void tier_noise_free(struct tier_noise *noise); /* wipes it */

uint64_t tier_noise_word(struct tier_noise *noise);
/* Uniform in [0, n), n > 0. */
uint64_t tier_noise_below(struct tier_noise *noise, uint64_t n);

/*
 * A Poisson sample: each of 0 .. rows - 1 with chance part / rows (at most 1), by itself, ascending
 * into sample[rows]. Returns how many.
 */
size_t tier_noise_sample(struct tier_noise *noise, size_t rows, uint64_t part, int32_t *sample);

/* values[i] += deviation * N(0, 1) (Box and Muller). */
void tier_noise_normal(struct tier_noise *noise, double deviation, float *values, size_t count);

/*
 * The discrete Gaussian: k with a chance proportional to exp(-k^2 / (2 variance)), exactly.
 * 1 <= variance <= TIER_NOISE_VARIANCE_MAX.
 */
int64_t tier_noise_whole(struct tier_noise *noise, uint64_t variance);

#endif
