/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sealed update that lies in a spool and is pushed again and again: for another round only its
 * header is written anew, under another name; the payload and its Merkle root stay.
 *
 * Threads: none of its own.
 */
#ifndef CONSILIUM_BENCH_RESIDENT_H
#define CONSILIUM_BENCH_RESIDENT_H

#include "tier/manifest.h"
#include "tier/spool.h"

struct bench_resident {
    char *dir; /* of the spool, owned */
    struct tier_update_header header;
    struct tier_hash id;
};

/* Seals deltas drawn from `seed`, of weight 100, into the spool. */
enum tier_status bench_resident_seal(struct tier_spool *spool, const char *dir,
                                     const struct tier_manifest *manifest, uint64_t seed,
                                     struct bench_resident *out, struct tier_err *err);
/* After a change of its header: renames the file to what the header hashes to. */
enum tier_status bench_resident_rename(struct bench_resident *resident, struct tier_err *err);
void bench_resident_release(struct bench_resident *resident);

#endif
