/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fold: many sealed updates become one, exactly. It works segment by segment
 * in a fixed budget of memory; worker threads take segments and an ordered writer appends them, so
 * the bytes, and with them the id, do not depend on threads, budget or the order of inputs. A fold
 * never changes its inputs: it writes a new sealed file, and the caller journals and deletes.
 *
 * Threads: a fold blocks its caller until it is done and starts its own workers. Several folds may
 * run at once. Nobody may delete the inputs while it runs.
 */
#ifndef CONSILIUM_TIER_FOLD_H
#define CONSILIUM_TIER_FOLD_H

#include "tier/err.h"
#include "tier/fold_devices.h"
#include "tier/hash.h"
#include "tier/manifest.h"
#include "tier/model.h"
#include "tier/spool.h"

/* A round whose updates count, and the model that they were made from. */
struct tier_fold_version {
    uint64_t round;
    struct tier_hash base_model;
};

/*
 * Where a tier of the plan buffers (tier/stale.h), its own or another: the sum says what it would
 * weigh with nothing stale. A tier that buffers itself takes updates of this round and of older
 * ones, each times its multiplier, and the round's own partial, where there is one, as it is.
 * Metrics of older rounds' updates are of older models, and are left out.
 */
struct tier_fold_stale {
    bool damps;
    const struct tier_fold_version *versions; /* the older rounds: below `round` of the fold */
    size_t version_count;
    struct tier_hash partial; /* zero: none */
};

struct tier_fold {
    struct tier_spool *spool;
    const struct tier_manifest *manifest;
    struct tier_hash run;
    uint64_t round;
    struct tier_hash base_model;
    const struct tier_fold_stale *stale; /* NULL: no tier of the plan buffers */
    /* Ids of sealed updates, F32 and SUM mixed; one that is listed twice counts twice: two children
     * with the same data hold the same update. */
    const struct tier_hash *inputs;
    size_t count;                      /* 1..TIER_CHILDREN_MAX */
    unsigned threads;                  /* at most; 0 is 1 */
    size_t memory_bytes;               /* at most; fewer threads run where they would not fit */
    struct tier_fold_devices *devices; /* that add beside the threads; NULL: none */
};

/* The least memory_bytes that such a fold needs: one worker, and a small table entry per input. */
size_t tier_fold_memory_min(const struct tier_manifest *manifest, size_t count);

/*
 * Writes one sealed SUM update: weight is the sum of weights, metrics are merged, saturated is
 * summed, both up to what a parent takes. TIER_EUPDATE names the input that is of another run,
 * round, manifest or base model, or the tensor and element that is out of range; TIER_ELIMIT when
 * the weights pass TIER_WEIGHT_TOTAL_MAX or the budget is under tier_fold_memory_min; TIER_EFULL.
 * On failure no file is left. Inputs of weight 0 give their metrics only; when all are, the result
 * is one too.
 */
enum tier_status tier_fold_run(const struct tier_fold *fold, struct tier_hash *id_out,
                               struct tier_err *err);

/*
 * new model = base + S / W, written into models_dir with that metadata and named by its hash. `sum`
 * must be an update of weight > 0 of this manifest: a fold's, or the F32 one of another merge.
 * `base` must be the model its header names (refused when the base's file name says another hash).
 * TIER_EMODEL names the first tensor that would become infinite or NaN.
 */
enum tier_status tier_fold_publish(const struct tier_update *sum,
                                   const struct tier_manifest *manifest,
                                   const struct tier_model *base, const char *models_dir,
                                   const struct tier_kv *metadata, size_t metadata_count,
                                   struct tier_hash *model_out, struct tier_err *err);

#endif
