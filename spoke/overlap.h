/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-spoke overlap: a site's patients as keyed hashes of their ids, by part of the split,
 * for a comparison with other sites' files (tier/overlap.h). A name is the first 16 bytes of
 * HMAC-SHA-256 of the id; the key is the sites' own, in a file of mode 0600 that no hub has.
 * Whoever has the key too can ask a file whether a patient whose id is known is in it: files go to
 * who has not.
 *
 * Threads: one.
 */
#ifndef CONSILIUM_SPOKE_OVERLAP_H
#define CONSILIUM_SPOKE_OVERLAP_H

#include "tier/overlap.h"

#include <stdbool.h>

#define SPOKE_OVERLAP_KEY_BYTES_MIN 32

struct spoke_overlap {
    const char *schema, *data, *key_file;
    bool fold_set;
    uint32_t fold; /* instead of the schema's */
};

/* The caller releases *out. TIER_EDATA where the schema has no id; TIER_EIDENTITY for a key that
 * others may read, or that is too short. */
enum tier_status spoke_overlap(const struct spoke_overlap *what, struct tier_overlap *out,
                               struct tier_err *err);

/* The command, argv[0] being its own name; its exit status. */
int spoke_overlap_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
