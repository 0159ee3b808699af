/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-spoke overlap: a site's part in counting the patients that sites share
 * (tier/overlap.h), as steps between which files are carried. `begin` draws a secret, hashes the
 * ids of the site's patients to points and writes them blinded, by part of the split; `answer`
 * blinds another site's file once more. A secret is of one comparison, in a file of mode 0600, and
 * no other site or hub has it. What leaves the site is said in its access log before it is written.
 *
 * Threads: one.
 */
#ifndef CONSILIUM_SPOKE_OVERLAP_H
#define CONSILIUM_SPOKE_OVERLAP_H

#include "tier/overlap.h"

#include <stdbool.h>

struct spoke_overlap {
    const char *schema, *data;
    bool fold_set;
    uint32_t fold; /* instead of the schema's */
};

/* The site's patients, blinded with the secret. The caller releases *out. TIER_EDATA where the
 * schema has no id. */
enum tier_status spoke_overlap_begin(const struct spoke_overlap *what,
                                     const struct tier_psi_secret *secret, struct tier_overlap *out,
                                     struct tier_err *err);
/* A secret's file. TIER_EIDENTITY: others may read it, or it holds none. */
enum tier_status spoke_overlap_secret(const char *path, struct tier_psi_secret *out,
                                      struct tier_err *err);

/* The command, argv[0] being its own name; its exit status. */
int spoke_overlap_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
