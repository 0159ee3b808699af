/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stays after its round, for those who check it later: DATA_DIR/retained holds counted updates
 * (<id>.upd: the folder can be opened as a spool), models that later ones have replaced
 * (<hash>.safetensors) and the plan of every run (<hash>.plan, its canonical text). A file gets
 * there by its name alone, so nothing is copied; how long it stays is the operator's to say
 * (retention.* of a hub), plans and the audit log stay for good: they are the record of what was
 * done, and small.
 *
 * Threads: any; one at a time for a folder.
 */
#ifndef CONSILIUM_TIER_RETAIN_H
#define CONSILIUM_TIER_RETAIN_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/spool.h"

#define TIER_CONTENT_PLAN ".plan"

/* Its days count from now. TIER_ENOTFOUND: the spool has it no more. */
enum tier_status tier_retain_update(struct tier_spool *spool, const char *dir,
                                    const struct tier_hash *id, struct tier_err *err);
/* The same of a model. */
enum tier_status tier_retain_model(const char *models_dir, const char *dir,
                                   const struct tier_hash *model, struct tier_err *err);

struct tier_retain_rules {
    uint64_t updates_days, models_days; /* 0: none is kept */
    uint64_t bytes_max;                 /* of both together */
};
struct tier_retain_expired {
    uint64_t updates, models, bytes;
    bool for_room; /* some went before their days were over */
};

/* Deletes what has been there for longer than its days, then the oldest until the rest fits. What
 * is no update and no model is left alone. */
enum tier_status tier_retain_expire(const char *dir, const struct tier_retain_rules *rules,
                                    int64_t now_ms, struct tier_retain_expired *out,
                                    struct tier_err *err);

#endif
