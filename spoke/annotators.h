/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several people's labels of the same rows: their majority, and how far they agree. Cohen's kappa
 * (Cohen 1960) for two of them, Fleiss' (Fleiss 1971) for more, over the rows that all of them
 * labelled; of masks the Dice coefficient (Dice 1945) of each pair, by class.
 *
 * Threads: no shared state; an agreement belongs to one thread.
 */
#ifndef CONSILIUM_SPOKE_ANNOTATORS_H
#define CONSILIUM_SPOKE_ANNOTATORS_H

#include "tier/err.h"

#include <stdbool.h>
#include <stdint.h>

#define SPOKE_READERS_MAX 32u

/*
 * votes[0], votes[stride], ...: a class of each of n readers, or -1 where one did not say. The
 * class that most of them say; of equals the one that is said first. -1 where nobody says any.
 */
int32_t spoke_majority(const int32_t *votes, size_t n, size_t stride);

/*
 * All readers' votes of one row or voxel in one number, for they are read, kept and moved as one
 * label is: reader k's class + 1 (0: did not say) times (classes + 1)^k. That number stays below
 * 2^24, which a float carries exactly; the first says whether so many readers and classes fit.
 */
bool spoke_votes_fit(size_t readers, size_t classes);
int32_t spoke_votes_pack(const int32_t *votes, size_t n, size_t stride, size_t classes);
int32_t spoke_votes_majority(int32_t packed, size_t classes);
/* float[classes]: of those who said any, the share that says each; all 0 where nobody did. */
void spoke_votes_shares(int32_t packed, size_t classes, float *shares_out);

struct spoke_agreement {
    size_t readers, classes;
    uint64_t rows;         /* that all readers labelled */
    uint64_t pairs, equal; /* of two readers on one row, of any rows */
    /* Over the rows of all readers: votes for each class; with two readers, by the first one's
     * class and the second's; and the sum of each row's agreeing ordered pairs. */
    uint64_t *votes, *table; /* [classes], [classes x classes] */
    uint64_t agreeing;
    double *dice;         /* [classes]: sums over pairs of masks */
    uint64_t *dice_pairs; /* [classes]: those of which one has the class */
};

enum tier_status spoke_agreement_init(struct spoke_agreement *agreement, size_t readers,
                                      size_t classes, struct tier_err *err);
void spoke_agreement_release(struct spoke_agreement *agreement);
/* A row's votes[readers], each a class or -1. */
void spoke_agreement_add(struct spoke_agreement *agreement, const int32_t *votes);
/* Two readers' masks of one image, n classes each. TIER_ENOMEM. */
enum tier_status spoke_agreement_add_masks(struct spoke_agreement *agreement, const int32_t *a,
                                           const int32_t *b, size_t n, struct tier_err *err);
/* NAN where nothing is there to tell it by, or all is of one class. */
double spoke_agreement_kappa(const struct spoke_agreement *agreement);
/* Of a class over all pairs of masks one of which has it; NAN where none has. */
double spoke_agreement_dice(const struct spoke_agreement *agreement, size_t class);

#endif
