/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers take segments in ascending order, under one mutex that also moves every input's cursor;
 * they have all inputs of a segment added without it (tier/fold_add.h: on the CPU; the first worker
 * on devices, where the fold has some); then each waits for its turn and appends. The order
 * of taking makes failures deterministic: when a segment fails, every earlier one has been taken
 * already and finishes first, so the error that is kept is always the same one of the lowest
 * segment.
 *
 * Memory: a worker has one input's segment (raw, and as a zstd frame) or a block of several, the
 * sums of the segment and the packed result, whatever the fan-in; an input has a table entry; the
 * output's directory has 4 bytes a segment.
 */
#include "tier/fold.h"

#include "tier/bytes.h"
#include "tier/fold_add.h"
#include "tier/fold_header.h"
#include "tier/log.h"
#include "tier/segment.h"
#include "tier/zip.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define STACK_BYTES (1u << 20)
/* A struct tier_update and what malloc adds to it, roughly and from above. */
#define UPDATE_BYTES 1024u

struct input {
    struct tier_update *update;
    struct tier_segment_cursor cursor;
};

struct fold_job {
    const struct tier_fold *fold;
    struct input *inputs;               /* of weight > 0, ids ascending */
    const struct tier_update **updates; /* theirs */
    uint32_t *multipliers;
    size_t count;
    bool on_devices;
    uint64_t segments;
    struct tier_spool_writer *writer;
    uint8_t *directory;
    struct tier_update_header header;

    pthread_mutex_t lock; /* guards all below, and the cursors */
    pthread_cond_t turn;
    uint64_t next_taken, next_written;
    uint64_t failed_segment; /* UINT64_MAX is none */
    enum tier_status status;
    struct tier_err *err;
};

struct fold_worker {
    struct fold_job *job;
    pthread_t thread;
    tier_fold_add_fn add;
    void *adder;
    struct tier_unzip unzip;
    uint8_t *scratch, *packed;
    int64_t *hi, *lo;
    struct tier_extent *extents;
};

static size_t worker_bytes(const struct tier_manifest *m, size_t count) {
    return tier_segment_scratch_bytes(m) + tier_segment_bytes_max(m) +
           tier_unzip_memory(tier_segment_plain_max(m)) +
           sizeof(int64_t) * (tier_segment_elements_max(m) + tier_segment_wide_max(m)) +
           count * sizeof(struct tier_extent) + sizeof(struct fold_worker) + STACK_BYTES;
}

static size_t shared_bytes(const struct tier_manifest *m, size_t count) {
    return count * (sizeof(struct input) + sizeof(struct tier_update *) + sizeof(uint32_t) +
                    sizeof(struct tier_hash) + UPDATE_BYTES) +
           4 * (size_t)tier_manifest_segments(m) + TIER_CHUNK_BYTES;
}

size_t tier_fold_memory_min(const struct tier_manifest *manifest, size_t count) {
    return shared_bytes(manifest, count) + worker_bytes(manifest, count);
}

/* ---- one segment at a time ------------------------------------------------------------------- */

/* Records a failure at `segment`; under the lock. */
static void job_fail(struct fold_job *job, uint64_t segment, enum tier_status st,
                     const struct tier_err *err) {
    if (segment < job->failed_segment) {
        job->failed_segment = segment;
        job->status = st;
        if (job->err)
            *job->err = *err;
    }
    pthread_cond_broadcast(&job->turn);
}

/* The next segment and where it lies in each input; false when there is none for this worker. */
static bool take(struct fold_worker *w, uint64_t *segment_out) {
    struct fold_job *job = w->job;
    struct tier_err err;
    bool taken = false;

    pthread_mutex_lock(&job->lock);
    if (job->failed_segment == UINT64_MAX && job->next_taken < job->segments) {
        uint64_t segment = job->next_taken++;
        taken = true;
        for (size_t i = 0; i < job->count && taken; i++) {
            enum tier_status st =
                tier_segment_cursor_next(&job->inputs[i].cursor, &w->extents[i], &err);
            if (st != TIER_OK) {
                job_fail(job, segment, st, &err);
                taken = false;
            }
        }
        *segment_out = segment;
    }
    pthread_mutex_unlock(&job->lock);
    return taken;
}

static enum tier_status add_segment(struct fold_worker *w, uint64_t segment, size_t *packed_out,
                                    struct tier_err *err) {
    const struct fold_job *job = w->job;
    struct tier_fold_part part = {.manifest = job->fold->manifest,
                                  .segment = segment,
                                  .updates = job->updates,
                                  .multipliers = job->multipliers,
                                  .extents = w->extents,
                                  .count = job->count,
                                  .scratch = w->scratch,
                                  .unzip = &w->unzip,
                                  .hi = w->hi,
                                  .lo = w->lo};

    part.n = tier_manifest_segment(part.manifest, segment, &part.wide);
    TIER_TRY(w->add(w->adder, &part, err));
    *packed_out = tier_segment_pack(w->hi, part.n, w->lo, part.wide, w->packed);
    return TIER_OK;
}

/* Waits for the segment's turn and appends it; false when the fold has failed before it. */
static bool write_segment(struct fold_worker *w, uint64_t segment, size_t bytes) {
    struct fold_job *job = w->job;
    struct tier_err err;

    pthread_mutex_lock(&job->lock);
    while (job->next_written != segment && job->failed_segment > segment)
        pthread_cond_wait(&job->turn, &job->lock);
    bool mine = job->failed_segment > segment;
    pthread_mutex_unlock(&job->lock);
    if (!mine)
        return false;
    /* Only the segment whose turn it is gets here, so the writer needs no lock of its own. */
    enum tier_status st = tier_spool_writer_append(job->writer, w->packed, bytes, &err);
    tier_put_u32(job->directory + 4 * segment, (uint32_t)bytes);
    pthread_mutex_lock(&job->lock);
    job->next_written++;
    if (st != TIER_OK)
        job_fail(job, segment, st, &err);
    pthread_cond_broadcast(&job->turn);
    pthread_mutex_unlock(&job->lock);
    return st == TIER_OK;
}

static void *work(void *arg) {
    struct fold_worker *w = arg;
    uint64_t segment;

    while (take(w, &segment)) {
        struct tier_err err;
        size_t bytes = 0;
        enum tier_status st = add_segment(w, segment, &bytes, &err);
        if (st != TIER_OK) {
            pthread_mutex_lock(&w->job->lock);
            job_fail(w->job, segment, st, &err);
            pthread_mutex_unlock(&w->job->lock);
            break;
        }
        if (!write_segment(w, segment, bytes))
            break;
    }
    return NULL;
}

/* ---- workers -------------------------------------------------------------------------------- */

static void worker_release(struct fold_worker *w) {
    tier_unzip_release(&w->unzip);
    free(w->scratch);
    free(w->packed);
    free(w->hi);
    free(w->lo);
    free(w->extents);
}

static bool worker_init(struct fold_worker *w, struct fold_job *job) {
    const struct tier_manifest *m = job->fold->manifest;

    w->job = job;
    w->add = tier_fold_add_cpu;
    w->scratch = malloc(tier_segment_scratch_bytes(m));
    w->packed = malloc(tier_segment_bytes_max(m));
    w->hi = malloc(tier_segment_elements_max(m) * sizeof *w->hi);
    w->lo = malloc((tier_segment_wide_max(m) + 1) * sizeof *w->lo);
    w->extents = calloc(job->count, sizeof *w->extents);
    return w->scratch && w->packed && w->hi && w->lo && w->extents;
}

/* Takes the fold's devices where the budget holds their buffers beside one worker. */
static void take_devices(struct fold_job *job) {
    const struct tier_fold *f = job->fold;

    if (!f->devices)
        return;
    size_t least = tier_fold_memory_min(f->manifest, f->count),
           more = tier_fold_devices_bytes(f->devices, f->manifest);
    if (f->memory_bytes - least >= more)
        job->on_devices = tier_fold_devices_take(f->devices, f->manifest);
    else
        tier_log_warn("folding on the CPU: the budget of %zu bytes has no room for the %zu that "
                      "devices take",
                      f->memory_bytes, more);
}

static size_t worker_count(const struct fold_job *job) {
    const struct tier_fold *f = job->fold;
    size_t left = f->memory_bytes - shared_bytes(f->manifest, f->count);
    if (job->on_devices)
        left -= tier_fold_devices_bytes(f->devices, f->manifest);
    size_t n = left / worker_bytes(f->manifest, f->count);

    if (n > f->threads)
        n = f->threads;
    if (n > job->segments)
        n = (size_t)job->segments;
    return n > 0 ? n : 1;
}

static enum tier_status run_workers(struct fold_job *job, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    size_t count = worker_count(job), started = 0;
    struct fold_worker *workers = calloc(count, sizeof *workers);
    pthread_attr_t attr;

    if (!workers)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu fold workers", count);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    for (size_t i = 0; i < count; i++)
        if (!worker_init(&workers[i], job)) {
            st = tier_fail(err, TIER_ENOMEM, "no memory for %zu fold workers of %zu bytes", count,
                           worker_bytes(job->fold->manifest, job->fold->count));
            goto out;
        }
    if (job->on_devices) {
        workers[0].add = tier_fold_add_devices;
        workers[0].adder = job->fold->devices;
    }
    /* The caller is worker 0, so a fold goes on where no thread can be had. */
    for (size_t i = 1; i < count; i++) {
        if (pthread_create(&workers[i].thread, &attr, work, &workers[i]) != 0)
            break;
        started = i;
    }
    work(&workers[0]);
    for (size_t i = 1; i <= started; i++)
        pthread_join(workers[i].thread, NULL);
    st = job->status;
out:
    pthread_attr_destroy(&attr);
    for (size_t i = 0; i < count; i++)
        worker_release(&workers[i]);
    free(workers);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static enum tier_status open_inputs(struct fold_job *job, const struct tier_hash *ids,
                                    struct tier_err *err) {
    for (size_t i = 0; i < job->fold->count; i++) {
        struct input *in = &job->inputs[job->count];
        TIER_TRY(tier_spool_update_open(job->fold->spool, &ids[i], &in->update, err));
        enum tier_status st =
            tier_fold_header_add(&job->header, job->fold, in->update, TIER_WEIGHT_TOTAL_MAX,
                                 &job->multipliers[job->count], err);
        if (st != TIER_OK || tier_spool_update_header(in->update)->weight == 0) {
            tier_spool_update_close(in->update);
            in->update = NULL;
            TIER_TRY(st);
            continue;
        }
        job->updates[job->count++] = in->update;
        tier_spool_update_trim(in->update, job->count <= tier_fold_files_open());
        TIER_TRY(tier_segment_cursor_init(&in->cursor, in->update, job->fold->manifest, err));
    }
    return TIER_OK;
}

static enum tier_status fold_checked(const struct tier_fold *f, struct tier_err *err) {
    if (f->count == 0 || f->count > TIER_CHILDREN_MAX)
        return tier_fail(err, TIER_EARG, "a fold of %zu updates; 1 to %d are possible", f->count,
                         TIER_CHILDREN_MAX);
    if (f->memory_bytes < tier_fold_memory_min(f->manifest, f->count))
        return tier_fail(err, TIER_ELIMIT,
                         "a fold of %zu updates needs %zu bytes of memory and may use %zu",
                         f->count, tier_fold_memory_min(f->manifest, f->count), f->memory_bytes);
    return TIER_OK;
}

enum tier_status tier_fold_run(const struct tier_fold *fold, struct tier_hash *id_out,
                               struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct fold_job job = {.fold = fold, .failed_segment = UINT64_MAX, .err = err};
    struct tier_hash *ids = NULL;

    TIER_TRY(fold_checked(fold, err));
    pthread_mutex_init(&job.lock, NULL);
    pthread_cond_init(&job.turn, NULL);
    job.segments = tier_manifest_segments(fold->manifest);
    ids = malloc(fold->count * sizeof *ids);
    job.inputs = calloc(fold->count, sizeof *job.inputs);
    job.updates = calloc(fold->count, sizeof *job.updates);
    job.multipliers = calloc(fold->count, sizeof *job.multipliers);
    job.directory = malloc(4 * (size_t)job.segments);
    job.header = (struct tier_update_header){.run = fold->run,
                                             .round = fold->round,
                                             .manifest = fold->manifest->hash,
                                             .base_model = fold->base_model,
                                             .encoding = TIER_ENC_SUM,
                                             .metrics = tier_metrics_new()};
    if (!ids || !job.inputs || !job.updates || !job.multipliers || !job.directory ||
        !job.header.metrics) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to fold %zu updates", fold->count);
        goto out;
    }
    memcpy(ids, fold->inputs, fold->count * sizeof *ids);
    tier_fold_sort(ids, fold->count);
    TIER_TRY_OUT(open_inputs(&job, ids, err));
    TIER_TRY_OUT(tier_spool_writer_begin(fold->spool, &job.header, &job.writer, err));
    if (job.count > 0) {
        take_devices(&job);
        TIER_TRY_OUT(run_workers(&job, err));
        TIER_TRY_OUT(
            tier_spool_writer_append(job.writer, job.directory, 4 * (size_t)job.segments, err));
    }
    st = tier_spool_writer_seal(job.writer, job.header.saturated, id_out, err);
    job.writer = NULL;
out:
    tier_spool_writer_abort(job.writer);
    if (job.on_devices)
        tier_fold_devices_give_back(fold->devices);
    for (size_t i = 0; job.inputs && i < fold->count; i++)
        tier_spool_update_close(job.inputs[i].update);
    tier_metrics_free(job.header.metrics);
    free(job.directory);
    free(job.multipliers);
    free(job.updates);
    free(job.inputs);
    free(ids);
    pthread_cond_destroy(&job.turn);
    pthread_mutex_destroy(&job.lock);
    return st;
}
