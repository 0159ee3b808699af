/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a spoke keeps of a run from one round to the next, and never sends:
 *
 *   RESIDUAL  what a codec dropped of a round's deltas, which the next round's are to carry (error
 *             feedback: Seide et al. 2014; Stich et al. 2018; Karimireddy et al. 2019);
 *   PRIVATE   the tensors that the plan keeps at the hospital (tier/share.h);
 *   CONTROL   the hospital's control variate (SCAFFOLD: Karimireddy et al. 2020);
 *   CURVATURE the hospital's part in the sums of FedCurv (tier/fedcurv.h).
 *
 * It must advance with the round's commit and with nothing else, or a node that is killed would
 * count a round twice, or never; and what belongs to an update (all but PRIVATE) only where that
 * update is in the round's result, which the commit says. So there are two files a run and kind,
 * "<data_dir>/residual/", "private/", "control/" and "curvature/": RUN.next, written when a round's
 * update is sealed and naming that update, and RUN.now, what the last committed round left.
 * RUN.next becomes RUN.now when the journal's update of a round is committed and is the one it
 * names; whatever else lies there is written over. An update that its round went on without leaves
 * them as they were.
 *
 * Threads: _read and _write are the worker's, the others the loop's; a round is committed before
 * the next one is trained, so they do not meet. Calls block on the disk.
 */
#ifndef CONSILIUM_SPOKE_STATE_H
#define CONSILIUM_SPOKE_STATE_H

#include "tier/manifest.h"

enum spoke_state {
    SPOKE_STATE_RESIDUAL,
    SPOKE_STATE_PRIVATE,
    SPOKE_STATE_CONTROL,
    SPOKE_STATE_CURVATURE,
    SPOKE_STATE_KINDS,
};

/* Fills out[manifest->elements] from RUN.now; where there is none, *found_out is false and out is
 * left alone. TIER_ECORRUPT where it is damaged or of another run or manifest. */
enum tier_status spoke_state_read(enum spoke_state kind, const char *data_dir,
                                  const struct tier_hash *run, const struct tier_manifest *manifest,
                                  float *out, bool *found_out, struct tier_err *err);
/* The round that left RUN.now; 0 where there is none, or none that can be read. */
uint64_t spoke_state_round(enum spoke_state kind, const char *data_dir,
                           const struct tier_hash *run);
/* Writes values[manifest->elements], as the round's update `id` leaves them, to RUN.next, synced.
 */
enum tier_status spoke_state_write(enum spoke_state kind, const char *data_dir,
                                   const struct tier_hash *run,
                                   const struct tier_manifest *manifest, uint64_t round,
                                   const struct tier_hash *id, const float *values,
                                   struct tier_err *err);
/* The round was committed with update `id` sealed for it: RUN.next becomes RUN.now, durably, where
 * it is of that update. TIER_OK where it is not, or is there no more. */
enum tier_status spoke_state_commit(enum spoke_state kind, const char *data_dir,
                                    const struct tier_hash *run, uint64_t round,
                                    const struct tier_hash *id, struct tier_err *err);
/* Deletes the run's files of that kind. */
void spoke_state_drop(enum spoke_state kind, const char *data_dir, const struct tier_hash *run);

/*
 * A run has ended: what it kept at the hospital (RUN.now) stays there, as a model of its own,
 * "<data_dir>/private/RUN.safetensors", which names the run and the published model that it belongs
 * to. Nothing where the hospital kept nothing. The path goes to *path_out (NULL: nothing was
 * written), which the caller frees.
 */
enum tier_status spoke_state_keep_private(const char *data_dir, const struct tier_hash *run,
                                          const struct tier_manifest *kept,
                                          const struct tier_hash *model, char **path_out,
                                          struct tier_err *err);
/* At start: what a kill has left unfinished. */
void spoke_state_sweep(const char *data_dir);

#endif
