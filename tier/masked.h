/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Masked updates (tier/mask.h): what a child of a secure sum pushes, and how its parent makes the
 * sum of them. A masked update is made of the sealed one that the child would have pushed in the
 * open, whatever its encoding: the same integers weight * q, each behind its masks. So the sum of
 * masked updates, unmasked, is the sum that tier_fold_run makes of the open ones: the same bytes
 * under the same id.
 *
 * Payload of TIER_ENC_MASKED, little-endian 64-bit words, of which mask words are numbered from 0:
 * for each segment the sums of its elements and then the lo limbs of its wide elements, as they
 * are; then weight, saturated, and every bin of every metric in order of names. The header says
 * nothing in the clear but which metrics there are: weight 1, saturated 0, all bins 0. Uniformly
 * random words cannot be packed: a masked update has 8 bytes for each element and each wide one.
 *
 * Payload of TIER_ENC_MASKED32, for plans with secure.bits: 32 (tier/narrow.h): each element's sum
 * over 2^shift as a 32-bit word, mask words numbered from 0; then the same rest in 64-bit words,
 * mask words numbered from (elements + 1) / 2, so that none is used twice. 4 bytes an element.
 *
 * No element can be checked before the sum is unmasked; then it is, against the sum's weight.
 *
 * Threads: no shared state; both block on the disk.
 */
#ifndef CONSILIUM_TIER_MASKED_H
#define CONSILIUM_TIER_MASKED_H

#include "tier/manifest.h"
#include "tier/mask.h"
#include "tier/spool.h"
#include "tier/update.h"

/*
 * Masks the open update `visible` of the spool, an evaluation's too, which stays there and must not
 * leave this node; `shift` is tier_narrow_shift's, 0 for words of 64 bits. Memory: a segment's,
 * whatever the size. Errors are those of reading it; TIER_EUPDATE: it is masked already, or, with
 * `shift`, weighs more than 1 or was not rounded to whole units.
 */
enum tier_status tier_masked_seal(struct tier_spool *spool, const struct tier_hash *visible,
                                  const struct tier_manifest *manifest, unsigned shift,
                                  const struct tier_mask_term *terms, size_t term_count,
                                  struct tier_hash *id_out, struct tier_err *err);

struct tier_masked_fold {
    struct tier_spool *spool;
    const struct tier_manifest *manifest;
    unsigned shift; /* as they were sealed with */
    struct tier_hash run;
    uint64_t round;
    struct tier_hash base_model;
    const struct tier_hash *inputs;     /* masked updates of all whose masks `terms` remove */
    size_t count;                       /* 1..TIER_CHILDREN_MAX */
    const struct tier_mask_term *terms; /* tier_mask_parent_terms */
    size_t term_count;
};
/*
 * Writes the sealed SUM update of what is behind the masks; of evaluations alone, one of weight 0.
 * TIER_EUPDATE: an input is of another run, round, manifest, base model or set of metrics (its id),
 * or what comes out is no sum of honest updates (a weight or an element out of range; whose fault
 * that is cannot be told), and then no file is left.
 */
enum tier_status tier_masked_fold(const struct tier_masked_fold *fold, struct tier_hash *id_out,
                                  struct tier_err *err);

#endif
