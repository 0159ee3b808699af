/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows of an image in its stead, for models whose input is smaller than the volumes they
 * segment. Training cuts one window out of a row each time it comes up: where, a seed says, and
 * nothing else. Evaluation and prediction lay windows over the whole row (spoke/slide.h).
 *
 * Rows and windows are flat, channels x sides, the fastest axis last; places are of a window's
 * first corner, always three numbers, those of axes that an image has not 0.
 *
 * Threads: pure functions. Ownership: borrows all.
 */
#ifndef CONSILIUM_SPOKE_PATCH_H
#define CONSILIUM_SPOKE_PATCH_H

#include "spoke/data.h"
#include "tier/plan.h"

/* What the plan says; none where it says nothing. */
struct spoke_patch spoke_patch_of(const struct tier_plan *plan);

/* TIER_EDATA, saying what would be right: windows are of masks, have as many sides as the images,
 * none longer than theirs, and overlap by less than all of it. */
enum tier_status spoke_patch_check(const struct spoke_patch *patch, const struct spoke_shape *shape,
                                   bool masks, struct tier_err *err);

/* The shape of a window of such an image; without windows the image's own. */
struct spoke_shape spoke_patch_shape(const struct spoke_patch *patch,
                                     const struct spoke_shape *shape);

/*
 * Where a window of training lies. With the patch's share of positives it is centred, as far as
 * the image's edges allow, on one of the mask's spots that are neither of class 0 nor of the
 * class to ignore, each as likely as the others; else, and where there is no such spot, any place
 * is as likely as another. mask int32[sides]. A function of the seed and the mask alone.
 */
void spoke_patch_draw(const struct spoke_patch *patch, const struct spoke_shape *shape,
                      uint64_t seed, const int32_t *mask, size_t at_out[SPOKE_AXES_MAX]);

/* Copies the window at that place: x float[channels x sides], mask int32[sides]; either may be
 * NULL, with what it would become. */
void spoke_patch_cut(const struct spoke_patch *patch, const struct spoke_shape *shape,
                     const size_t at[SPOKE_AXES_MAX], const float *x, const int32_t *mask,
                     float *x_out, int32_t *mask_out);

/*
 * The windows that cover an image: along each axis one every side - overlap x side spots (rounded
 * down, at least one), the last one at the far edge. Their number, and where the i-th lies.
 */
size_t spoke_patch_windows(const struct spoke_patch *patch, const struct spoke_shape *shape);
void spoke_patch_window(const struct spoke_patch *patch, const struct spoke_shape *shape, size_t i,
                        size_t at_out[SPOKE_AXES_MAX]);

#endif
