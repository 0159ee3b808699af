/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sum of a round in which spokes' updates are masked and those of hubs are not: what was hidden
 * is unmasked first (tier/masked.h), and the rest is added to it (tier/fold.h). And what masks such
 * a sum, as a file: beside retained updates it lets anyone make the sum again, and tells of no
 * single update, which is behind masks with others still.
 *
 *   "consmsk1", u32 count, count times: key[32], u8 minus (1) or plus (0); little-endian
 *
 * Threads: no shared state; all block on the disk.
 */
#ifndef CONSILIUM_TIER_SECURE_FOLD_H
#define CONSILIUM_TIER_SECURE_FOLD_H

#include "tier/fold.h"
#include "tier/mask.h"
#include "tier/plan.h"

struct tier_secure_fold {
    const struct tier_plan *plan;
    const struct tier_mask_term *terms; /* of the sum over all that are masked */
    size_t term_count;
    const struct tier_hash *masked; /* of the fold's inputs; none is fine */
    size_t masked_count;
};
/* As tier_fold_run, but for the inputs that are masked. TIER_EUPDATE also where what comes out has
 * metrics or a weight that no honest sum of the plan has; no file is left then. */
enum tier_status tier_secure_fold_run(const struct tier_secure_fold *secure,
                                      const struct tier_fold *fold, struct tier_hash *id_out,
                                      struct tier_err *err);

/*
 * TIER_EUPDATE unless the mean that a sum stands for, of its update's elements but those of states,
 * has a norm of at most the plan's secure.norm_max, as every mean of changes has of which each
 * keeps to it; but for what rounding adds. TIER_OK where the plan has no such bound. Whoever does
 * not keep to it cannot be told, and moves the mean no further than to it.
 */
enum tier_status tier_secure_norm_check(const struct tier_plan *plan, const struct tier_update *sum,
                                        const struct tier_manifest *manifest, struct tier_err *err);

#define TIER_SECURE_TERMS ".terms"
#define TIER_SECURE_TERMS_MAX (TIER_CHILDREN_MAX * TIER_MASK_HOLDERS_MAX)
/* Writes the file DIR/<its sha256>.terms. */
enum tier_status tier_secure_terms_store(const char *dir, const struct tier_mask_term *terms,
                                         size_t count, struct tier_hash *hash_out,
                                         struct tier_err *err);
/* Reads it, and checks that it is what it is named. TIER_ENOTFOUND; TIER_ECORRUPT. The terms are
 * the caller's to free with tier_mask_terms_free. */
enum tier_status tier_secure_terms_load(const char *path, const struct tier_hash *hash,
                                        struct tier_mask_term **out, size_t *count_out,
                                        struct tier_err *err);

#endif
