/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which patients are at several sites, and in which parts of their split, told as numbers alone:
 * private set intersection by commutative blinding (tier/psi.h), of which only the size of the
 * intersection is learnt (De Cristofaro, Gasti, Tsudik 2012). A site's file names its patients by
 * points that the site has blinded. Each of the other sites answers it with a file of its own: the
 * same points, blinded once more and in another order. Files that the same sites have blinded can
 * be compared: equal points are equal patients, and whose they are nobody can tell.
 *
 *     consilium overlap 2
 *     keys N              1 to 64; then what each secret is known by, 64 hex digits, ascending
 *     train N             then N points of 66 hex digits, ascending, each once
 *     val N               likewise
 *     test N              likewise
 *
 * Ascending is a random order: it follows from all secrets together. All sites are believed to
 * follow this; one that does not can put in patients whom it does not have.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_OVERLAP_H
#define CONSILIUM_TIER_OVERLAP_H

#include "tier/psi.h"
#include "tier/err.h"
#include "tier/hash.h"

#include <stdint.h>
#include <stdio.h>

#define TIER_OVERLAP_PARTS 3 /* train, val, test */
#define TIER_OVERLAP_IDS_MAX (1u << 22)
#define TIER_OVERLAP_KEYS_MAX 64

struct tier_overlap {
    struct tier_hash keys[TIER_OVERLAP_KEYS_MAX]; /* ascending, each once */
    size_t key_count;
    struct tier_psi_point *points[TIER_OVERLAP_PARTS]; /* ascending, each once */
    size_t count[TIER_OVERLAP_PARTS];
};

const char *tier_overlap_part(size_t part);
/*
 * Blinds every point once more, and adds the secret to those that have. Sorts each part and drops
 * what is there twice. TIER_ECONFLICT: the secret is among them already; TIER_ELIMIT: no more may.
 * After an error *o is only to be released.
 */
enum tier_status tier_overlap_blind(struct tier_overlap *o, const struct tier_psi_secret *secret,
                                    struct tier_err *err);
enum tier_status tier_overlap_write(const struct tier_overlap *o, FILE *out, struct tier_err *err);
/* Of a file from elsewhere. TIER_EDATA names the line that is not as above, or that holds no point
 * of the curve; TIER_ELIMIT. */
enum tier_status tier_overlap_read(FILE *in, const char *name, struct tier_overlap *out,
                                   struct tier_err *err);
void tier_overlap_release(struct tier_overlap *o);
/* Whether the same secrets have blinded both. */
bool tier_overlap_comparable(const struct tier_overlap *a, const struct tier_overlap *b);
/* Patients that are in part i of a and in part j of b, which are comparable. */
size_t tier_overlap_common(const struct tier_overlap *a, size_t i, const struct tier_overlap *b,
                           size_t j);

#endif
