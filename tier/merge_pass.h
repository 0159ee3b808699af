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
    bool screen;        /* the only pass there is */
    bool mixed;         /* the blocks are mixed */
    size_t scratch_bytes;
};

struct tier_merge_input {
    struct tier_update *update;
    uint64_t weight;
    size_t place; /* among the fold's inputs */
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

    double *gram;   /* (count + 1)^2 */
    double *screen; /* 3 * count: of each update x, with m the median: <x, x>, <m, x>, <m, m> */
    uint32_t *near, *far; /* count * kept, and the others, where updates are mixed */
    size_t kept;
    int32_t *coefficients; /* count + 1, of 2^-30 */
};

/*
 * For those who look at updates and merge nothing: opens those of weight > 0 in the order of their
 * content, so that what is made of them does not depend on how they were listed. job->merge is set;
 * its rule is not looked at.
 */
enum tier_status tier_merge_look(struct tier_merge_job *job, struct tier_err *err);
/* Of a job that was looked with, or of a zeroed one. */
void tier_merge_look_release(struct tier_merge_job *job);
/* What the entries of so many inputs take beside a pass. */
size_t tier_merge_look_bytes(size_t count);

/* The least that one worker of the most demanding pass needs, its stack included. */
size_t tier_merge_worker_bytes_min(const struct tier_merge_shape *shape);

/* Makes job->gram. */
enum tier_status tier_merge_pass_gram(struct tier_merge_job *job, struct tier_err *err);
/* Makes job->screen, against the coordinate-wise median; without a previous result. */
enum tier_status tier_merge_pass_screen(struct tier_merge_job *job, struct tier_err *err);
/* Appends the rule's blocks to the writer. */
enum tier_status tier_merge_pass_blocks(struct tier_merge_job *job, struct tier_err *err);
/* Appends the combination by job->coefficients to the writer. */
enum tier_status tier_merge_pass_combine(struct tier_merge_job *job, struct tier_err *err);

#endif
