/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who adds a chunk: a worker of the fold takes a segment and has its inputs added, on the CPU or on
 * devices. Both give the same sums and the same error.
 *
 * Threads: the worker's. Ownership: borrows all.
 */
#ifndef CONSILIUM_TIER_FOLD_ADD_H
#define CONSILIUM_TIER_FOLD_ADD_H

#include "tier/segment.h"

/* One segment of all inputs. */
struct tier_fold_part {
    const struct tier_manifest *manifest;
    uint64_t segment;
    size_t n, wide; /* elements, and wide ones */
    const struct tier_update *const *updates;
    const uint32_t *multipliers;       /* of each */
    const struct tier_extent *extents; /* of each */
    size_t count;
    uint8_t *scratch;         /* tier_segment_scratch_bytes */
    struct tier_unzip *unzip; /* the worker's */
    int64_t *hi, *lo;         /* [n], [wide]: what is in them is overwritten */
};

/*
 * hi and lo become the weighted sums. TIER_EUPDATE names the first element that is out of range, by
 * place in the segment and then by place among updates, and then hi and lo are spoilt.
 */
typedef enum tier_status (*tier_fold_add_fn)(void *adder, const struct tier_fold_part *part,
                                             struct tier_err *err);

/* On the CPU, by the worker's own thread; `adder` is not read. */
enum tier_status tier_fold_add_cpu(void *adder, const struct tier_fold_part *part,
                                   struct tier_err *err);

#endif
