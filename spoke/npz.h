/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arrays by name: an .npz file, which is a zip archive of .npy files, or a folder of .npy files.
 * An array that is stored as it is (numpy.savez, or a .npy file) is read where it is asked for and
 * never whole; a compressed one (numpy.savez_compressed) can only be read from its beginning, so it
 * is unpacked once and held as it was saved, a byte a pixel for most images, within a bound. What a
 * file claims of its size is compared with the array's header before anything is allocated for it.
 *
 * Messages name the file and the array, never an element.
 *
 * Threads: opening and closing is one thread's; spoke_array_read may be called by any number,
 * and blocks on the disk, for a zip archive also on a lock. Ownership: arrays belong to the npz.
 */
#ifndef CONSILIUM_SPOKE_NPZ_H
#define CONSILIUM_SPOKE_NPZ_H

#include "spoke/npy.h"

#define SPOKE_NPZ_ARRAYS_MAX 64u
#define SPOKE_NPZ_UNPACKED_BYTES_MAX (UINT64_C(1) << 30) /* of all compressed arrays together */

struct spoke_npz;
struct spoke_array;

enum tier_status spoke_npz_open(const char *path, struct spoke_npz **npz_out, struct tier_err *err);
void spoke_npz_close(struct spoke_npz *npz);

/* Opens an array, or finds it open. TIER_ENOTFOUND, TIER_EDATA, TIER_ELIMIT. */
enum tier_status spoke_npz_array(struct spoke_npz *npz, const char *name,
                                 struct spoke_array **array_out, struct tier_err *err);
const struct spoke_npy *spoke_array_npy(const struct spoke_array *array);
const char *spoke_array_name(const struct spoke_array *array);
/* Elements first .. first + n as they are stored: n * item_bytes. */
enum tier_status spoke_array_read(struct spoke_array *array, uint64_t first, size_t n, void *out,
                                  struct tier_err *err);

#endif
