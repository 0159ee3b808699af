/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work on segments by several threads, with results in order. Segments are taken in ascending
 * order, worked on side by side, and emitted in ascending order again, so what comes out does not
 * depend on threads. Failures do not either: when a segment fails, every earlier one has been taken
 * already and finishes first, so the error that is kept is the one of the lowest segment.
 *
 * Threads: blocks its caller, which is worker 0, and starts the others. `take` and `emit` are
 * called by one worker at a time, `work` by all.
 */
#ifndef CONSILIUM_TIER_ORDERED_H
#define CONSILIUM_TIER_ORDERED_H

#include "tier/err.h"

#include <stdint.h>

#define TIER_ORDERED_STACK_BYTES (1u << 20)

typedef enum tier_status tier_ordered_fn(void *worker, uint64_t segment, struct tier_err *err);

struct tier_ordered {
    uint64_t segments;
    size_t threads;       /* at least 1 */
    void *const *workers; /* one state for each thread */
    tier_ordered_fn *take, *work, *emit;
};

/* The first failure of the lowest segment. */
enum tier_status tier_ordered_run(const struct tier_ordered *pass, struct tier_err *err);

#endif
