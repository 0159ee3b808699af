/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pass that is made again and again with the same arrays, on a device that can record: done once
 * as it is, so that whatever it needs is there; recorded the second time; and replayed from then
 * on, which costs one launch instead of hundreds. It is recorded anew where its arrays are others,
 * or the recording no longer holds (kern_recording_holds). Where a pass cannot be recorded it is
 * done as it is, for good, and the log says why.
 *
 * Threads: the device's. Ownership: owns its recording; borrows the device.
 */
#ifndef CONSILIUM_SPOKE_REPLAY_H
#define CONSILIUM_SPOKE_REPLAY_H

#include "kernels/kern.h"
#include "tier/err.h"

/* Everything outside the pass that it depends on; compared by value. */
struct spoke_replay_key {
    struct kern_vec x, target, loss;
    const struct kern_buf *arena;
    bool scaled;
};

struct spoke_replay {
    struct kern_recording *recording;
    uint64_t seed;               /* of its draws */
    struct spoke_replay_key key; /* of the last pass */
    bool begun;                  /* there was a last pass */
    bool never;
};

/* Zeroed is fine, before and after. */
void spoke_replay_release(struct spoke_replay *r);

/* The pass: only calls of kernels, whose numbers follow from the key, and the seeds of random draws
 * from `seed` by xor alone. */
typedef enum tier_status (*spoke_pass_fn)(void *arg, struct tier_err *err);
enum tier_status spoke_replay_run(struct spoke_replay *r, struct kern_device *dev,
                                  const struct spoke_replay_key *key, uint64_t seed,
                                  spoke_pass_fn pass, void *arg, struct tier_err *err);

#endif
