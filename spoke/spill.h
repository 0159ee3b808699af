/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows that were costly to read (a DICOM series takes a child process for each of its slices, a
 * NIfTI volume is unpacked and resampled), kept as they came in one file, from which they are read
 * the next time. The file has no name, so that nothing of it is left when the process ends, however
 * it ends. Half of what was free when it was opened is left to the rest of the node, whose updates
 * and journal lie on the same disk. A disk that is full, or fails, costs the speed and nothing
 * else.
 *
 * Threads: any number of them may put and take rows at once; two that put the same row put the same
 * bits.
 */
#ifndef CONSILIUM_SPOKE_SPILL_H
#define CONSILIUM_SPOKE_SPILL_H

#include "tier/err.h"

#include <stdint.h>

struct spoke_spill;

/* Of rows of `floats` values and, where a row has a mask, `classes` more, in a folder. */
enum tier_status spoke_spill_open(const char *folder, size_t rows, size_t floats, size_t classes,
                                  struct spoke_spill **spill_out, struct tier_err *err);
void spoke_spill_close(struct spoke_spill *spill);
/* True where all that is asked for is there: x float[floats], mask int32[classes]; either NULL. */
bool spoke_spill_take(struct spoke_spill *spill, size_t row, float *x, int32_t *mask);
void spoke_spill_put(struct spoke_spill *spill, size_t row, const float *x, const int32_t *mask);

#endif
