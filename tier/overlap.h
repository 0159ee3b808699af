/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which patients are at several sites, and in which parts of their split, told as numbers alone.
 * Each site names its patients by a keyed hash (spoke/overlap.h) of a key that sites share and hubs
 * do not; whoever has two such files can count what they have in common, and no more without the
 * key.
 *
 *     consilium overlap 1
 *     key HEX64           a keyed hash of nothing: files of one key can be compared
 *     train N             then N names of 32 hex digits, ascending, each once
 *     val N               likewise
 *     test N              likewise
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_OVERLAP_H
#define CONSILIUM_TIER_OVERLAP_H

#include "tier/err.h"
#include "tier/hash.h"

#include <stdint.h>
#include <stdio.h>

#define TIER_OVERLAP_PARTS 3 /* train, val, test */
#define TIER_OVERLAP_IDS_MAX (1u << 24)
#define TIER_OVERLAP_ID_BYTES 16

struct tier_overlap_id {
    uint8_t b[TIER_OVERLAP_ID_BYTES];
};
struct tier_overlap {
    struct tier_hash key;
    struct tier_overlap_id *ids[TIER_OVERLAP_PARTS]; /* ascending, each once */
    size_t count[TIER_OVERLAP_PARTS];
};

const char *tier_overlap_part(size_t part);
/* Sorts the ids of each part and drops what is there twice. */
void tier_overlap_tidy(struct tier_overlap *o);
enum tier_status tier_overlap_write(const struct tier_overlap *o, FILE *out, struct tier_err *err);
/* Of a file from elsewhere. TIER_EDATA names the line that is not as above. */
enum tier_status tier_overlap_read(FILE *in, const char *name, struct tier_overlap *out,
                                   struct tier_err *err);
void tier_overlap_release(struct tier_overlap *o);
/* Patients that are in part i of a and in part j of b. */
size_t tier_overlap_common(const struct tier_overlap *a, size_t i, const struct tier_overlap *b,
                           size_t j);

#endif
