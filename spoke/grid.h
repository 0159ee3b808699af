/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images and volumes alike as they come from a file, and how they become what the model sees: one
 * separable interpolation that resizes, resamples, mirrors, crops and pads at once, so that a value
 * is interpolated once whatever the contract asks for.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_SPOKE_GRID_H
#define CONSILIUM_SPOKE_GRID_H

#include "tier/err.h"

#include <stdint.h>

#define SPOKE_GRID_ELEMENTS_MAX (UINT64_C(1) << 27) /* half a GB of float */

/* channels x side[0] x side[1] x side[2]; an image has side[0] = 1. */
struct spoke_grid {
    size_t channels, side[3];
    double spacing[3];   /* mm; 0: unknown */
    double affine[3][4]; /* voxel (x, y, z, 1) to mm; zero: unknown */
    bool mirrored[3];    /* to be read from its end */
    int from[3];         /* which axis of the file (x, y, z: 0 to 2) the grid's x, y and z are */
    float *at;
};

void spoke_grid_release(struct spoke_grid *grid);

enum spoke_interpolation {
    SPOKE_NEAREST, /* for masks */
    SPOKE_LINEAR,
    SPOKE_AREA, /* linear; where it shrinks, over as many pixels as become one */
};

/* One axis: output o lies at start + o * step of the input, whose elements lie at 0, 1, ... */
struct spoke_axis {
    size_t in, out;
    double start, step; /* step is not 0; below 0 it mirrors */
};

/* The whole input over the whole output. */
struct spoke_axis spoke_axis_stretch(size_t in, size_t out);
/* Their centres on each other, output elements `step` input elements apart: crops, or pads. */
struct spoke_axis spoke_axis_centre(size_t in, size_t out, double step, bool mirror);

/*
 * in float[axis[0].in x axis[1].in x axis[2].in] to out; what lies more than half an element beyond
 * the input is 0. The products of both are at most SPOKE_GRID_ELEMENTS_MAX. TIER_ENOMEM.
 */
enum tier_status spoke_grid_resample(const float *in, const struct spoke_axis axis[3],
                                     enum spoke_interpolation how, float *out,
                                     struct tier_err *err);

/*
 * Cuts n values at two percentiles (0 to 100, linear between order statistics), over all of them
 * or over those that are not 0. All must be finite. TIER_ENOMEM.
 */
enum tier_status spoke_grid_clip(float *at, size_t n, double low, double high, bool nonzero,
                                 struct tier_err *err);

#endif
