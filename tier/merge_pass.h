/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to tier/merge*.c: a merge in progress, and its passes over the inputs.
 *
 * Threads: a pass blocks its caller and starts its own workers; between passes the job is the
 * caller's.
 */
#ifndef CONSILIUM_TIER_MERGE_PASS_H
#define CONSILIUM_TIER_MERGE_PASS_H

#include "tier/merge.h"
#include "tier/segment_block.h"
#include "tier/update.h"

/* What decides how much memory a worker takes. */
struct tier_merge_shape {
    const struct tier_manifest *manifest;
    size_t count;
    bool gram, combine; /* which passes there are; without combine there is one over blocks */
    bool mixed;         /* the blocks are mixed */
    size_t scratch_bytes;
};

struct tier_merge_input {
    struct tier_update *update;
    uint64_t weight;
    struct tier_segment_cursor cursor;
};

struct tier_merge_job {
    const struct tier_merge *merge;
    struct tier_merge_shape shape;
    struct tier_merge_params params;
    struct tier_merge_input *inputs; /* count of weight > 0, sorted; then the previous one */
    size_t count;
    bool has_previous;
    uint64_t *weights;
    size_t memory_bytes; /* of all workers of a pass */
    struct tier_spool_writer *writer;
    struct tier_update_header header;

    double *gram;         /* (count + 1)^2 */
    uint32_t *near, *far; /* count * kept, and the others, where updates are mixed */
    size_t kept;
    int32_t *coefficients; /* count + 1, of 2^-30 */
};

/* The least that one worker of the most demanding pass needs, its stack included. */
size_t tier_merge_worker_bytes_min(const struct tier_merge_shape *shape);

/* Makes job->gram. */
enum tier_status tier_merge_pass_gram(struct tier_merge_job *job, struct tier_err *err);
/* Appends the rule's blocks to the writer. */
enum tier_status tier_merge_pass_blocks(struct tier_merge_job *job, struct tier_err *err);
/* Appends the combination by job->coefficients to the writer. */
enum tier_status tier_merge_pass_combine(struct tier_merge_job *job, struct tier_err *err);

#endif
