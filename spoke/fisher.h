/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The diagonal of the empirical Fisher information of a net on the training rows here: per
 * parameter, the mean over rows of the square of the gradient of that row's own loss, at its true
 * class, at the parameters the net has. It says how much the rows here hold a parameter where it
 * is (Kirkpatrick et al. 2017). A decay or any other penalty is no part of it.
 *
 * A mean of squares is no function of the gradient of a batch, so that each row goes forward and
 * back alone: all rows cost what an epoch with a batch of 1 does without its optimiser, and `rows`
 * bounds them. One device does it, whatever a spoke has.
 *
 * The order of rows is a function of the seed, each 256 rows are added in float32 on the device and
 * those sums in double here, so that the same binary and device model give the same bits.
 *
 * Threads: the net's. Ownership: borrows all.
 */
#ifndef CONSILIUM_SPOKE_FISHER_H
#define CONSILIUM_SPOKE_FISHER_H

#include "spoke/data.h"
#include "spoke/net.h"

/*
 * Writes out[the net's elements] from `rows` training rows drawn by the seed without repetition; 0,
 * or more than there are, takes all. Leaves other gradients in the net than it had. TIER_EDATA
 * where there is no training row or it does not fit the net; TIER_EPLAN where a square is not
 * finite: training diverged.
 */
enum tier_status spoke_fisher(struct spoke_net *net, const struct spoke_data *data, uint64_t rows,
                              uint64_t seed, float *out, struct tier_err *err);

#endif
