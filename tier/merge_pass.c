/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The passes of a merge. Each worker reads the updates of its segment side by side, a block of
 * coordinates at a time: wide enough that reading pays, narrow enough that all updates' rows of it
 * fit the second-level cache and the budget. Only the matrix of inner products depends on how
 * coordinates are cut (a sum of doubles is not associative), so its block is fixed.
 */
#include "tier/merge_pass.h"

#include "kernels/kern.h"

#include "tier/ordered.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define GRAM_BLOCK 1024u /* elements: the sums of a segment are added block by block */
#define COMBINE_BLOCK 8192u
#define BLOCK_MAX 8192u
#define ROWS_BYTES (1u << 20) /* of one block, over all updates */
/* Beside the updates' rows: readers, extents. */
/* Rows lie a line further apart than their length, or a power of two would put one column of all
 * of them into the same few places of the cache. */
#define ROW_PAD 16u
#define PER_ROW (sizeof(struct tier_segment_reader) + sizeof(struct tier_extent))

enum pass_kind { PASS_GRAM, PASS_BLOCKS, PASS_COMBINE, PASS_SCREEN };

struct worker {
    struct tier_merge_job *job;
    size_t block, stride;
    struct tier_segment_reader *readers;
    struct tier_extent *extents;
    float *x, *mixed, *out;
    double *sums; /* a segment's inner products */
    int64_t *hi;  /* of a block, and then lo */
    double *mixing;
    void *scratch; /* the rule's */
};

struct pass {
    struct tier_merge_job *job;
    enum pass_kind kind;
    size_t rows, block, threads;
};

static size_t triangle(size_t n) {
    return n * (n + 1) / 2;
}

static size_t worker_bytes(const struct tier_merge_shape *s, enum pass_kind kind, size_t block) {
    size_t rows = s->count + 1, out = tier_segment_elements_max(s->manifest) * sizeof(float);
    size_t bytes = sizeof(struct worker) + TIER_ORDERED_STACK_BYTES + rows * PER_ROW;

    switch (kind) {
    case PASS_GRAM:
        return bytes + rows * (block + ROW_PAD) * sizeof(float) + triangle(rows) * sizeof(double);
    case PASS_BLOCKS:
        return bytes + rows * (block + ROW_PAD) * sizeof(float) * (s->mixed ? 2 : 1) +
               (s->mixed ? KERN_MIX_WORK(rows) * sizeof(double) : 0) + out + s->scratch_bytes + 64;
    case PASS_COMBINE:
        return bytes + block * (sizeof(float) + 2 * sizeof(int64_t)) + out;
    case PASS_SCREEN:
        return bytes + rows * (block + ROW_PAD) * sizeof(float) + 3 * rows * sizeof(double) +
               s->scratch_bytes + 64;
    }
    return bytes;
}

size_t tier_merge_worker_bytes_min(const struct tier_merge_shape *s) {
    if (s->screen)
        return worker_bytes(s, PASS_SCREEN, GRAM_BLOCK);
    size_t most = s->combine ? worker_bytes(s, PASS_COMBINE, COMBINE_BLOCK)
                             : worker_bytes(s, PASS_BLOCKS, TIER_BLOCK_ELEMENTS);
    size_t gram = s->gram ? worker_bytes(s, PASS_GRAM, GRAM_BLOCK) : 0;

    return gram > most ? gram : most;
}

/* The block's elements: as wide as a pass over blocks may have them, for as many threads as fit. */
static void choose(struct pass *p) {
    const struct tier_merge_job *job = p->job;
    size_t wanted = job->merge->fold.threads > 0 ? job->merge->fold.threads : 1;
    uint64_t segments = tier_manifest_segments(job->shape.manifest);

    if (wanted > segments)
        wanted = (size_t)segments;
    bool sums = p->kind == PASS_GRAM || p->kind == PASS_SCREEN;
    p->block = sums ? GRAM_BLOCK : COMBINE_BLOCK;
    if (p->kind == PASS_BLOCKS) {
        p->block = BLOCK_MAX;
        while (p->block > TIER_BLOCK_ELEMENTS &&
               (p->block * p->rows * sizeof(float) > ROWS_BYTES ||
                wanted * worker_bytes(&job->shape, p->kind, p->block) > job->memory_bytes))
            p->block /= 2;
    }
    p->threads = job->memory_bytes / worker_bytes(&job->shape, p->kind, p->block);
    p->threads = p->threads > wanted ? wanted : p->threads > 0 ? p->threads : 1;
}

static void worker_free(struct worker *w) {
    if (!w)
        return;
    free(w->readers);
    free(w->extents);
    free(w->x);
    free(w->mixed);
    free(w->mixing);

    free(w->out);
    free(w->sums);
    free(w->hi);
    free(w->scratch);
    free(w);
}

static struct worker *worker_new(const struct pass *p) {
    const struct tier_merge_shape *s = &p->job->shape;
    size_t lines = p->kind == PASS_COMBINE  ? 1
                   : p->kind == PASS_SCREEN ? p->rows + 1 /* and the median */
                                            : p->rows;
    struct worker *w = calloc(1, sizeof *w);

    if (!w)
        return NULL;
    w->job = p->job;
    w->block = p->block;
    w->stride = p->block + ROW_PAD;

    w->readers = calloc(p->rows, sizeof *w->readers);
    w->extents = calloc(p->rows, sizeof *w->extents);
    w->x = malloc(lines * w->stride * sizeof *w->x);
    bool ok = w->readers && w->extents && w->x;
    if (p->kind == PASS_GRAM) {
        w->sums = malloc(triangle(p->rows) * sizeof *w->sums);
        ok = ok && w->sums;
    } else if (p->kind == PASS_SCREEN) {
        w->sums = malloc(3 * p->rows * sizeof *w->sums);
        w->scratch = aligned_alloc(64, s->scratch_bytes + 64);
        ok = ok && w->sums && w->scratch;
    } else {
        w->out = malloc(tier_segment_elements_max(s->manifest) * sizeof *w->out);
        ok = ok && w->out;
    }
    if (p->kind == PASS_BLOCKS) {
        w->mixed = s->mixed ? malloc(p->rows * w->stride * sizeof *w->mixed) : NULL;
        w->mixing = s->mixed ? malloc(KERN_MIX_WORK(p->rows) * sizeof *w->mixing) : NULL;
        w->scratch = aligned_alloc(64, s->scratch_bytes + 64);
        ok = ok && w->scratch && ((w->mixed && w->mixing) || !s->mixed);
    }
    if (p->kind == PASS_COMBINE) {
        w->hi = malloc(2 * p->block * sizeof *w->hi);
        ok = ok && w->hi;
    }
    if (ok)
        return w;
    worker_free(w);
    return NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* A pass leaves out what it multiplies by 0. */
static bool is_read(const struct worker *w, size_t row) {
    return w->job->inputs[row].update && (!w->hi || w->job->coefficients[row] != 0);
}

static size_t rows_of(const struct tier_merge_job *job) {
    return job->count + (job->has_previous ? 1 : 0);
}

static enum tier_status take(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;

    (void)segment;
    for (size_t i = 0; i < rows_of(w->job); i++)
        if (is_read(w, i))
            TIER_TRY(tier_segment_cursor_next(&w->job->inputs[i].cursor, &w->extents[i], err));
    return TIER_OK;
}

static enum tier_status begin_rows(struct worker *w, uint64_t segment, struct tier_err *err) {
    const struct tier_merge_job *job = w->job;

    for (size_t i = 0; i < rows_of(job); i++)
        if (is_read(w, i))
            TIER_TRY(tier_segment_reader_begin(&w->readers[i], job->inputs[i].update,
                                               job->shape.manifest, segment, w->extents[i], err));
    return TIER_OK;
}

/* The next n elements of every update, one row each. */
static enum tier_status read_rows(struct worker *w, size_t rows, size_t n, struct tier_err *err) {
    for (size_t i = 0; i < rows; i++)
        TIER_TRY(tier_segment_reader_next(&w->readers[i], w->x + i * w->stride, n, err));
    return TIER_OK;
}

static size_t step_of(const struct worker *w, size_t at, size_t n) {
    return n - at < w->block ? n - at : w->block;
}

/* ---- the matrix ------------------------------------------------------------------------------ */

static enum tier_status gram_work(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;
    size_t n = tier_manifest_segment(w->job->shape.manifest, segment, NULL);
    size_t rows = rows_of(w->job);

    memset(w->sums, 0, triangle(rows) * sizeof *w->sums);
    TIER_TRY(begin_rows(w, segment, err));
    for (size_t at = 0; at < n; at += w->block) {
        size_t m = step_of(w, at, n);
        TIER_TRY(read_rows(w, rows, m, err));
        kern_gram(w->sums, w->x, rows, w->stride, m);
    }
    return TIER_OK;
}

static enum tier_status gram_emit(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;
    size_t rows = rows_of(w->job), width = w->job->count + 1;

    (void)segment, (void)err;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j <= i; j++)
            w->job->gram[i * width + j] += w->sums[triangle(i) + j];
    return TIER_OK;
}

/* ---- the screen ------------------------------------------------------------------------------ */

/* Behind the updates' rows lies the median's, which makes a pair with each of them. */
static enum tier_status screen_work(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;
    size_t n = tier_manifest_segment(w->job->shape.manifest, segment, NULL);
    size_t rows = w->job->count;

    memset(w->sums, 0, 3 * rows * sizeof *w->sums);
    TIER_TRY(begin_rows(w, segment, err));
    for (size_t at = 0; at < n; at += w->block) {
        size_t m = step_of(w, at, n);
        TIER_TRY(read_rows(w, rows, m, err));
        kern_trimmed_mean(w->x + rows * w->stride, w->x, rows, w->stride, m, (rows - 1) / 2,
                          w->scratch);
        for (size_t i = 0; i < rows; i++)
            kern_gram(w->sums + 3 * i, w->x + i * w->stride, 2, (rows - i) * w->stride, m);
    }
    return TIER_OK;
}

static enum tier_status screen_emit(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;

    (void)segment, (void)err;
    for (size_t i = 0; i < 3 * w->job->count; i++)
        w->job->screen[i] += w->sums[i];
    return TIER_OK;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* A rule of an operator's own may give anything. */
static enum tier_status check_result(struct worker *w, uint64_t segment, size_t n,
                                     struct tier_err *err) {
    struct tier_spans it;
    struct tier_span s;
    size_t first = 0;

    tier_spans_begin(&it, w->job->shape.manifest, segment * TIER_SEGMENT_ELEMENTS, n);
    while (tier_spans_next(&it, &s))
        if (kern_accept_f32(w->out + s.at, s.n, s.tensor->frac_bits, &first) > 0)
            return tier_fail(err, TIER_EPLAN,
                             "merge rule %s: it gave %g for tensor %s, element %" PRIu64
                             "; a number within +-2^%d would be right",
                             w->job->merge->rule->name, (double)w->out[s.at + first],
                             s.tensor->name, s.index + first, 30 - s.tensor->frac_bits);
    return TIER_OK;
}

static enum tier_status block_work(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;
    const struct tier_merge_job *job = w->job;
    size_t n = tier_manifest_segment(job->shape.manifest, segment, NULL);

    TIER_TRY(begin_rows(w, segment, err));
    for (size_t at = 0; at < n; at += w->block) {
        size_t m = step_of(w, at, n);
        TIER_TRY(read_rows(w, job->count, m, err));
        if (w->mixed)
            kern_mix(w->mixed, w->x, job->count, w->stride, m, job->far, job->count - job->kept,
                     w->mixing);
        const struct tier_merge_block in = {.count = job->count,
                                            .n = m,
                                            .stride = w->stride,
                                            .x = w->mixed ? w->mixed : w->x,
                                            .weights = job->weights,
                                            .params = &job->params,
                                            .scratch = w->scratch};
        job->merge->rule->block(&in, w->out + at);
    }
    return check_result(w, segment, n, err);
}

static enum tier_status write_emit(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;
    size_t n = tier_manifest_segment(w->job->shape.manifest, segment, NULL);

    return tier_spool_writer_append(w->job->writer, w->out, n * sizeof *w->out, err);
}

/* ---- the combination ------------------------------------------------------------------------- */

/* hi, lo += c * q of n elements from `first` of the concatenation on. */
static void add_times(const struct worker *w, uint64_t first, size_t n, int32_t c, int64_t *lo) {
    struct tier_spans it;
    struct tier_span s;
    uint32_t weight = (uint32_t)(c < 0 ? -(int64_t)c : c);

    for (size_t i = 0; c < 0 && i < n; i++)
        w->x[i] = -w->x[i]; /* rounding is symmetric, so q changes its sign alone */
    tier_spans_begin(&it, w->job->shape.manifest, first, n);
    while (tier_spans_next(&it, &s))
        if (s.tensor->wide)
            kern_fold_f32_wide(w->hi + s.at, lo + s.wide_at, w->x + s.at, s.n, s.tensor->frac_bits,
                               weight, NULL);
        else
            kern_fold_f32(w->hi + s.at, w->x + s.at, s.n, s.tensor->frac_bits, weight, NULL);
}

/* The one division, by 2^30. */
static void divide(const struct worker *w, uint64_t first, size_t n, const int64_t *lo,
                   float *out) {
    struct tier_spans it;
    struct tier_span s;

    memset(out, 0, n * sizeof *out);
    tier_spans_begin(&it, w->job->shape.manifest, first, n);
    while (tier_spans_next(&it, &s))
        kern_apply_mean(out + s.at, out + s.at, w->hi + s.at,
                        s.tensor->wide ? lo + s.wide_at : NULL, s.n, s.tensor->frac_bits,
                        TIER_Q_MAX);
}

static enum tier_status combine_work(void *worker, uint64_t segment, struct tier_err *err) {
    struct worker *w = worker;
    const struct tier_merge_job *job = w->job;
    size_t n = tier_manifest_segment(job->shape.manifest, segment, NULL);
    int64_t *lo = w->hi + w->block;

    TIER_TRY(begin_rows(w, segment, err));
    for (size_t at = 0; at < n; at += w->block) {
        size_t m = step_of(w, at, n);
        uint64_t first = segment * TIER_SEGMENT_ELEMENTS + at;
        memset(w->hi, 0, 2 * w->block * sizeof *w->hi);
        for (size_t i = 0; i < rows_of(job); i++) {
            if (!is_read(w, i))
                continue;
            TIER_TRY(tier_segment_reader_next(&w->readers[i], w->x, m, err));
            add_times(w, first, m, job->coefficients[i], lo);
        }
        divide(w, first, m, lo, w->out + at);
    }
    return check_result(w, segment, n, err);
}

/* ---- running one ----------------------------------------------------------------------------- */

static enum tier_status run(struct tier_merge_job *job, enum pass_kind kind,
                            const struct tier_ordered *functions, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct pass p = {.job = job, .kind = kind, .rows = rows_of(job)};
    struct tier_ordered ordered = *functions;
    void **workers = NULL;

    assert(p.rows > 0); /* a merge without updates has no passes */
    choose(&p);
    for (size_t i = 0; i < p.rows; i++)
        TIER_TRY(tier_segment_cursor_init(&job->inputs[i].cursor, job->inputs[i].update,
                                          job->shape.manifest, err));
    workers = calloc(p.threads, sizeof *workers);
    for (size_t i = 0; i < p.threads; i++)
        if (!workers || !(workers[i] = worker_new(&p))) {
            st = tier_fail(err, TIER_ENOMEM, "no memory for %zu merge workers of %zu bytes",
                           p.threads, worker_bytes(&job->shape, kind, p.block));
            goto out;
        }
    ordered.segments = tier_manifest_segments(job->shape.manifest);
    ordered.threads = p.threads;
    ordered.workers = workers;
    ordered.take = take;
    st = tier_ordered_run(&ordered, err);
out:
    for (size_t i = 0; workers && i < p.threads; i++)
        worker_free(workers[i]);
    free(workers);
    return st;
}

enum tier_status tier_merge_pass_gram(struct tier_merge_job *job, struct tier_err *err) {
    static const struct tier_ordered functions = {.work = gram_work, .emit = gram_emit};
    size_t width = job->count + 1;

    job->gram = calloc(width * width, sizeof *job->gram);
    if (!job->gram)
        return tier_fail(err, TIER_ENOMEM, "no memory for the inner products of %zu updates",
                         job->count);
    TIER_TRY(run(job, PASS_GRAM, &functions, err));
    for (size_t i = 0; i < width; i++)
        for (size_t j = 0; j < i; j++)
            job->gram[j * width + i] = job->gram[i * width + j];
    return TIER_OK;
}

enum tier_status tier_merge_pass_screen(struct tier_merge_job *job, struct tier_err *err) {
    static const struct tier_ordered functions = {.work = screen_work, .emit = screen_emit};

    job->screen = calloc(3 * job->count, sizeof *job->screen);
    if (!job->screen)
        return tier_fail(err, TIER_ENOMEM, "no memory to screen %zu updates", job->count);
    return run(job, PASS_SCREEN, &functions, err);
}

enum tier_status tier_merge_pass_blocks(struct tier_merge_job *job, struct tier_err *err) {
    static const struct tier_ordered functions = {.work = block_work, .emit = write_emit};

    return run(job, PASS_BLOCKS, &functions, err);
}

enum tier_status tier_merge_pass_combine(struct tier_merge_job *job, struct tier_err *err) {
    static const struct tier_ordered functions = {.work = combine_work, .emit = write_emit};

    return run(job, PASS_COMBINE, &functions, err);
}
