/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error feedback (Seide et al. 2014; Stich et al. 2018; Karimireddy et al. 2019): what a codec
 * dropped of a round's deltas, which the next round's are to carry. It must advance with the
 * round's commit and with nothing else, or a node that is killed would add it twice, or never. So
 * there are two files a run below "<data_dir>/residual/": RUN.next, written when a round's update
 * is sealed and naming that update, and RUN.now, what the last committed round left. RUN.next
 * becomes RUN.now when the journal's update of a round is committed and is the one it names;
 * whatever else lies there is written over.
 *
 * An update that its round went on without takes along what it carried, as any late update does.
 *
 * Threads: _read and _write are the worker's, the others the loop's; a round is committed before
 * the next one is trained, so they do not meet. Calls block on the disk.
 */
#ifndef CONSILIUM_SPOKE_RESIDUAL_H
#define CONSILIUM_SPOKE_RESIDUAL_H

#include "tier/manifest.h"

/* Fills out[manifest->elements] from RUN.now, with zeros where there is none. TIER_ECORRUPT where
 * it is damaged or of another run or manifest. */
enum tier_status spoke_residual_read(const char *data_dir, const struct tier_hash *run,
                                     const struct tier_manifest *manifest, float *out,
                                     struct tier_err *err);
/* Writes dropped[manifest->elements] of the round's update `id` to RUN.next, synced. */
enum tier_status spoke_residual_write(const char *data_dir, const struct tier_hash *run,
                                      const struct tier_manifest *manifest, uint64_t round,
                                      const struct tier_hash *id, const float *dropped,
                                      struct tier_err *err);
/* The round was committed with update `id` sealed for it: RUN.next becomes RUN.now, durably, where
 * it is of that update. TIER_OK where it is not, or is there no more. */
enum tier_status spoke_residual_commit(const char *data_dir, const struct tier_hash *run,
                                       uint64_t round, const struct tier_hash *id,
                                       struct tier_err *err);
/* The run has ended: deletes its files. */
void spoke_residual_drop(const char *data_dir, const struct tier_hash *run);

#endif
