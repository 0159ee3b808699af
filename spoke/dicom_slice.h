/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One DICOM file (dicom.nema.org, PS3.3 and PS3.5) as DCMTK's tools read it: what says where its
 * frames lie, and their values. A file goes through dcmdjpeg, dcmdjpls or dcmdrle where its
 * transfer syntax wants it, and then through dcm2json, whose text (PS3.18 F) is what is parsed
 * here. A file that DCMTK calls damaged is, whatever could be guessed of it.
 *
 * Values are those stored, within their bits, inverted for MONOCHROME1, then scaled by the rescale
 * slope and intercept; no window is applied. Messages say what is wrong and hold nothing of the
 * file, in which a patient's name stands.
 *
 * Threads: no shared state; reading waits for a child process.
 */
#ifndef CONSILIUM_SPOKE_DICOM_SLICE_H
#define CONSILIUM_SPOKE_DICOM_SLICE_H

#include "spoke/grid.h"

#define SPOKE_DICOM_BYTES_MAX (UINT64_C(256) << 20) /* of a file, packed or not */
#define SPOKE_DICOM_UID_LEN 64u
#define SPOKE_DICOM_MODALITY_LEN 16u
#define SPOKE_DICOM_FRAMES_MAX 4096u
#define SPOKE_DICOM_VALUES_MAX (1u << 22) /* beside pixels; a frame has some 100 */

/* Where a frame lies, in the patient's coordinates of DICOM: mm to the left, the back, the head. */
struct spoke_dicom_place {
    bool placed;        /* position and direction are there */
    double position[3]; /* of the centre of the first voxel */
    double along[2][3]; /* unit vectors: along a row, along a column */
    double spacing[2];  /* mm between rows, between columns; 0: unknown */
    double thickness;   /* mm; 0: unknown */
    double slope, offset;
};

struct spoke_dicom_slice {
    size_t rows, columns, frames, samples; /* samples: 1, or 3 of RGB */
    char series[SPOKE_DICOM_UID_LEN + 1];
    char modality[SPOKE_DICOM_MODALITY_LEN + 1]; /* "MR"; "": it says none that is a code */
    struct spoke_dicom_place *places;            /* [frames] */
    float *at;                                   /* [frames x samples x rows x columns] */
};

/* Reads the whole file; `fd` stays the caller's. TIER_EDATA, TIER_ELIMIT, TIER_ENOTFOUND (a tool
 * of DCMTK is not installed), TIER_EIO. */
enum tier_status spoke_dicom_read(int fd, struct spoke_dicom_slice *slice_out,
                                  struct tier_err *err);
void spoke_dicom_slice_release(struct spoke_dicom_slice *slice);

/* ---- its parts, for tests and fuzzers ---- */

/*
 * The transfer syntax out of the first `n` bytes of a file; "" where it has no header of its own
 * (DCMTK then finds out). TIER_EDATA where the header is cut off or damaged.
 */
enum tier_status spoke_dicom_syntax(const void *bytes, size_t n,
                                    char uid_out[SPOKE_DICOM_UID_LEN + 1], struct tier_err *err);
/* dcm2json's text of an uncompressed file. */
enum tier_status spoke_dicom_parse(const void *json, size_t n, struct spoke_dicom_slice *slice_out,
                                   struct tier_err *err);

#endif
