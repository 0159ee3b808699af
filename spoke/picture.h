/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PNG and JPEG files decoded to a grid of float: grey or RGB, values as they are stored (0 to 255,
 * 0 to 65535 for PNGs of 16 bits). Colour becomes grey by its luma (ITU-R BT.601), grey becomes
 * three equal channels, transparency is left out, the orientation that a camera notes is ignored.
 *
 * What a file claims of its size is bounded before anything is allocated for it, and a file that
 * ends early or whose checksums are wrong is refused, not filled up with grey. Messages say what is
 * wrong in words of this house and hold nothing out of the file.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_SPOKE_PICTURE_H
#define CONSILIUM_SPOKE_PICTURE_H

#include "spoke/grid.h"

#define SPOKE_PICTURE_BYTES_MAX (UINT64_C(64) << 20) /* of a file */
#define SPOKE_PICTURE_PIXELS_MAX (1u << 25)          /* 5,792 x 5,792 */
#define SPOKE_PICTURE_SCANS_MAX 200                  /* of a progressive JPEG */

/*
 * `channels` is 1 or 3. With `labels` a PNG's pixels are numbers of classes: palette indices and
 * grey of 1 to 8 bits stay what they are, and a JPEG, which does not keep them, is refused.
 * TIER_EDATA, TIER_ELIMIT, TIER_ENOMEM, with a message that has yet to be told the file.
 */
enum tier_status spoke_picture_decode(const void *bytes, size_t n, size_t channels, bool labels,
                                      struct spoke_grid *grid_out, struct tier_err *err);

#endif
