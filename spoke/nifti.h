/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes as NIfTI-1 and NIfTI-2 files have them (nifti.nimh.nih.gov), .nii or .nii.gz, either
 * byte order: a header with bounds, and its voxels as float, slope and intercept applied. Axes come
 * as x, y, z of the file, fastest first, and so a grid's sides are z, y, x; what the file has
 * beyond the third axis are channels.
 *
 * libnifti (3.0.1) is not used: it allocates what a header of 348 bytes claims, prints file names
 * to stderr, and reads files by name only.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_SPOKE_NIFTI_H
#define CONSILIUM_SPOKE_NIFTI_H

#include "spoke/grid.h"
#include "spoke/npy.h"

#define SPOKE_NIFTI_HEADER_MAX 540u

struct spoke_nifti {
    size_t side[3];            /* x, y, z */
    size_t channels;           /* the product of all further axes */
    struct spoke_npy elements; /* type, byte order and bytes of a voxel; nothing else of it */
    double slope, offset;
    double affine[3][4]; /* sform, else qform, else the spacing alone */
    double spacing[3];   /* mm along x, y, z, of the affine */
    uint64_t voxels_at;  /* in the file */
};

/* The first `n` bytes of a file. TIER_EDATA, TIER_ELIMIT with a message without the file. */
enum tier_status spoke_nifti_parse(const void *bytes, size_t n, struct spoke_nifti *out,
                                   struct tier_err *err);
/*
 * Reads the file from its beginning; `fd` stays the caller's. With `orientation`, three letters
 * such as "RAS", the grid's x, y and z are those voxel axes that come nearest to these directions
 * (mirrored[] says which are to be read from their end); NULL leaves them as they are stored.
 * Spacing and affine of the grid are those of its own axes, in the order of its sides.
 */
enum tier_status spoke_nifti_load(int fd, const char *orientation, struct spoke_grid *grid_out,
                                  struct tier_err *err);
/*
 * What spoke_nifti_load does last, for voxels from elsewhere: the grid's `at`, float[channels x z x
 * y x x] of a volume with that size, spacing and affine, turned as asked, and the rest of it set.
 * TIER_ENOMEM.
 */
enum tier_status spoke_nifti_orient(const struct spoke_nifti *volume, const char *orientation,
                                    struct spoke_grid *grid, struct tier_err *err);
/*
 * Writes a gzipped NIfTI-1 file (.nii.gz) of int16 voxels[z][y][x] with the volume's side and
 * affine, as a new file `name` in the folder; TIER_ECONFLICT where there is one.
 * A spacing of 0 (unknown) is written as 1, without an affine.
 */
enum tier_status spoke_nifti_save(int folder, const char *name, const struct spoke_nifti *volume,
                                  const int16_t *voxels, struct tier_err *err);
/* Whether the text names three different axes: one of RL, one of AP, one of SI, in any order. */
bool spoke_orientation_valid(const char *text);

#endif
