/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Augmentation: a row of images changed a little each time it is trained on, by a random number
 * that a seed gives, so that the same seed gives the same row on any thread. What moves pixels
 * moves the mask with them, to the nearest.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_SPOKE_AUGMENT_H
#define CONSILIUM_SPOKE_AUGMENT_H

#include "spoke/data.h"

/* Zeroed: nothing. */
struct spoke_augment {
    bool flip[SPOKE_AXES_MAX]; /* mirrored in half of the rows: x (the last axis), y, z */
    double rotate_deg;         /* by up to so much either way, in the plane of the last two axes */
    double scale;              /* of that plane, by a factor from 1 / (1 + scale) to 1 + scale */
    double gain, offset;       /* each channel x becomes x * (1 +- gain) +- offset */
    double noise;              /* deviation of normal noise on each value */
};

/*
 * TIER_EARG where a number is not of its range, or the shape has not the axes it takes: a table has
 * none, and may have noise alone.
 */
enum tier_status spoke_augment_check(const struct spoke_augment *augment,
                                     const struct spoke_shape *shape, struct tier_err *err);
bool spoke_augment_is_none(const struct spoke_augment *augment);
/*
 * Changes x float[channels x sides] and mask int32[sides] (or NULL) in place; scratch is
 * float[sides]. What is turned in from beyond an edge is what stands at the edge.
 */
void spoke_augment_row(const struct spoke_augment *augment, const struct spoke_shape *shape,
                       uint64_t seed, float *x, int32_t *mask, float *scratch);

#endif
