/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches of rows, read and augmented ahead of the training by threads of their own, so that disks
 * and decoders work while the device does, and no more than a few batches are in memory. Batches
 * come in the order that was asked for, and hold the same bits with any number of threads. Of data
 * whose models see windows of a row, a batch holds one of each row, cut before it is augmented.
 *
 * Threads: opening, beginning, taking and closing are one thread's, the trainer's; taking blocks
 * until a batch is there. Ownership: borrows the data; a batch is the feed's, until the next is
 * taken.
 */
#ifndef CONSILIUM_SPOKE_FEED_H
#define CONSILIUM_SPOKE_FEED_H

#include "spoke/augment.h"

#define SPOKE_FEED_THREADS_MAX 64u
#define SPOKE_FEED_DEPTH_MAX 256u

struct spoke_feed_options {
    enum spoke_part part;
    size_t batch;                 /* rows, at least 1 */
    size_t threads;               /* 0: 2 */
    size_t depth;                 /* batches in memory; 0: threads + 2 */
    struct spoke_augment augment; /* zeroed: rows as they are */
    uint64_t seed;                /* of the augmentation */
};

struct spoke_batch {
    size_t rows;           /* 0: the order is at its end */
    const int32_t *which;  /* [rows], of the part */
    const float *x;        /* [rows x features], or of a window of each (spoke_data_seen) */
    const int32_t *labels; /* [rows x target_size], or the windows'; NULL for values */
    const float *values;   /* [rows]; NULL unless the target is a value or a time */
};

struct spoke_feed;

enum tier_status spoke_feed_open(const struct spoke_data *data,
                                 const struct spoke_feed_options *options,
                                 struct spoke_feed **feed_out, struct tier_err *err);
void spoke_feed_close(struct spoke_feed *feed);
/*
 * From now on the feed reads rows order[0..n) of the part (copied), in batches; the last may be
 * shorter. What an earlier order has left is dropped. `epoch` goes into the augmentation's seed, by
 * which a row is changed in another way each epoch.
 */
enum tier_status spoke_feed_begin(struct spoke_feed *feed, const int32_t *order, size_t n,
                                  uint64_t epoch, struct tier_err *err);
/* The next batch; TIER_EDATA and TIER_EIO as spoke_data_read has them, for the first bad row. */
enum tier_status spoke_feed_next(struct spoke_feed *feed, struct spoke_batch *batch_out,
                                 struct tier_err *err);

#endif
