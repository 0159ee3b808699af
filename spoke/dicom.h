/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A DICOM series as a volume: all files of a folder, or one file, brought into the order in which
 * their slices lie along their normal, with the affine that a NIfTI file of them would have (mm to
 * the right, the front, the head; PS3.3 C.7.6.2). What is no regular grid is refused: slices of two
 * series, of different directions, at the same place, missing, uneven, or sheared by a tilted
 * gantry.
 *
 * Files are counted in the order of their names (bytes), from 1, because names may be patients'.
 *
 * Threads: no shared state; loading waits for child processes.
 */
#ifndef CONSILIUM_SPOKE_DICOM_H
#define CONSILIUM_SPOKE_DICOM_H

#include "spoke/dicom_slice.h"

#define SPOKE_DICOM_FILES_MAX 4096u

/*
 * `name` is a file or a folder within the folder `at`. Of a folder, what begins with a dot and
 * DICOMDIR are passed over; every other file belongs to the series. An image of one slice needs no
 * position (as X-rays have none): its affine is then its spacing, or zero with spacing[] 0 where
 * even that is unknown. `orientation` as in spoke_nifti_load. `modality` is what every file must
 * say it is, or NULL: any; what a file says instead is told where DICOM defines it. TIER_EDATA with
 * which file of a folder, and as spoke_dicom_read: by its number in the order of names, and with
 * `named` by its name too, as SPOKE_DICOM_NAME has it. A name may be a patient's: it is for this
 * machine alone.
 */
#define SPOKE_DICOM_NAME                                                                           \
    " (name '" /* then the name, without quotes and control characters, "')"                       \
                */
enum tier_status spoke_dicom_load(int at, const char *name, const char *orientation,
                                  const char *modality, bool named, struct spoke_grid *grid_out,
                                  struct tier_err *err);

/*
 * Slices in any order to a volume; takes their values, each is empty afterwards. names[n] are those
 * of their files, to be told, or NULL. For tests.
 */
enum tier_status spoke_dicom_stack(struct spoke_dicom_slice *slices, size_t n, char *const *names,
                                   const char *orientation, struct spoke_grid *grid_out,
                                   struct tier_err *err);

#endif
