/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batch b lies in slot b modulo their number. Threads take the batches in order, each as soon as
 * its slot is empty; the trainer waits for the slot of the next. One lock guards the states of
 * slots and the counters; a slot that is being filled, or is taken, is its thread's alone.
 */
#include "spoke/feed.h"
#include "spoke/annotators.h"
#include "spoke/patch.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum state { EMPTY, FILLING, READY, TAKEN };

struct slot {
    enum state state;
    size_t rows;
    float *x, *values, *scratch;
    int32_t *labels;
    float *whole; /* [features] and mask of one row that a window is cut from, or NULL both */
    int32_t *whole_mask, *classes; /* classes: what most say of it, where it is votes */
    enum tier_status status;
    struct tier_err err;
};

struct spoke_feed {
    const struct spoke_data *data;
    struct spoke_feed_options options;
    struct spoke_shape shape; /* of what a batch holds: rows, or windows of them */
    size_t features, target, spatial;
    bool augments, windows;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[SPOKE_FEED_THREADS_MAX];
    size_t threads_count;
    struct slot *slots;
    int32_t *order;
    size_t order_count, batches, next_fill, next_take;
    uint64_t epoch;
    bool stop;
};

/* ---- a batch ------------------------------------------------------------------------------- */

/* One seed for each row's place in the run, whoever reads it. */
static uint64_t row_seed(const struct spoke_feed *f, size_t place) {
    uint64_t z = f->options.seed ^ (f->epoch + 1) * UINT64_C(0x9e3779b97f4a7c15) ^
                 ((uint64_t)place + 1) * UINT64_C(0xd1b54a32d192ed03);
    z = (z ^ (z >> 32)) * UINT64_C(0xff51afd7ed558ccd);
    return z ^ (z >> 29);
}

/* Rows one by one, of each a window; a random number of its own says where. */
static enum tier_status cut_windows(const struct spoke_feed *f, const int32_t *rows, size_t place,
                                    struct slot *s) {
    const struct spoke_patch *patch = spoke_data_patch(f->data);
    const struct spoke_shape shape = spoke_data_shape(f->data);
    size_t at[SPOKE_AXES_MAX];

    for (size_t i = 0; i < s->rows; i++) {
        TIER_TRY(spoke_data_read(f->data, f->options.part, rows + i, 1, s->whole, s->whole_mask,
                                 &s->err));
        for (size_t k = 0; s->classes && k < spoke_data_target_size(f->data); k++)
            s->classes[k] = spoke_votes_majority(s->whole_mask[k], spoke_data_classes(f->data));
        spoke_patch_draw(patch, &shape, ~row_seed(f, place + i),
                         s->classes ? s->classes : s->whole_mask, at);
        spoke_patch_cut(patch, &shape, at, s->whole, s->whole_mask, s->x + i * f->features,
                        s->labels + i * f->target);
    }
    return TIER_OK;
}

static void fill(const struct spoke_feed *f, size_t batch, struct slot *s) {
    size_t from = batch * f->options.batch, left = f->order_count - from;
    const int32_t *rows = f->order + from;

    s->rows = left < f->options.batch ? left : f->options.batch;
    s->status = f->windows ? cut_windows(f, rows, from, s)
                           : spoke_data_read(f->data, f->options.part, rows, s->rows, s->x,
                                             s->labels, &s->err);
    if (s->status != TIER_OK)
        return;
    const float *values = spoke_data_values(f->data, f->options.part);
    for (size_t i = 0; values && i < s->rows; i++)
        s->values[i] = values[rows[i]];
    bool mask = spoke_data_target(f->data) == SPOKE_TARGET_MASK;
    for (size_t i = 0; f->augments && i < s->rows; i++)
        spoke_augment_row(&f->options.augment, &f->shape, row_seed(f, from + i),
                          s->x + i * f->features, mask ? s->labels + i * f->target : NULL,
                          s->scratch);
}

static void *work(void *arg) {
    struct spoke_feed *f = arg;

    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        struct slot *s = &f->slots[f->next_fill % f->options.depth];
        if (f->next_fill == f->batches || s->state != EMPTY) {
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        size_t batch = f->next_fill++;
        s->state = FILLING;
        pthread_mutex_unlock(&f->lock);
        fill(f, batch, s);
        pthread_mutex_lock(&f->lock);
        s->state = READY;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------- */

static bool allocate(struct spoke_feed *f) {
    size_t batch = f->options.batch;
    bool ok = true;

    f->slots = calloc(f->options.depth, sizeof *f->slots);
    for (size_t i = 0; f->slots && i < f->options.depth; i++) {
        struct slot *s = &f->slots[i];
        s->x = calloc(batch, f->features * sizeof *s->x);
        s->labels = calloc(batch, (f->target ? f->target : 1) * sizeof *s->labels);
        s->values = calloc(batch, sizeof *s->values);
        s->scratch = calloc(f->augments ? f->spatial : 1, sizeof *s->scratch);
        ok = ok && s->x && s->labels && s->values && s->scratch;
        if (!f->windows)
            continue;
        s->whole = calloc(spoke_data_features(f->data), sizeof *s->whole);
        s->whole_mask = calloc(spoke_data_target_size(f->data), sizeof *s->whole_mask);
        if (spoke_data_soft(f->data))
            s->classes = calloc(spoke_data_target_size(f->data), sizeof *s->classes);
        ok = ok && s->whole && s->whole_mask && (s->classes || !spoke_data_soft(f->data));
    }
    return f->slots && ok;
}

enum tier_status spoke_feed_open(const struct spoke_data *data,
                                 const struct spoke_feed_options *options,
                                 struct spoke_feed **feed_out, struct tier_err *err) {
    struct spoke_feed *f = calloc(1, sizeof *f);
    enum tier_status st = TIER_OK;

    if (!f)
        return tier_fail(err, TIER_ENOMEM, "no memory to read ahead");
    f->data = data;
    f->options = *options;
    f->options.threads = options->threads ? options->threads : 2;
    f->options.depth = options->depth ? options->depth : f->options.threads + 2;
    f->shape = spoke_data_seen(data);
    f->features = spoke_data_seen_features(data);
    f->spatial = f->features / f->shape.channels;
    f->windows = spoke_data_patch(data) != NULL;
    f->target = f->windows ? f->spatial : spoke_data_target_size(data);
    f->augments = !spoke_augment_is_none(&options->augment);
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    if (options->batch < 1 || f->options.threads > SPOKE_FEED_THREADS_MAX ||
        f->options.depth > SPOKE_FEED_DEPTH_MAX) {
        st =
            tier_fail(err, TIER_EARG, "batches of 1 row or more, at most %u threads and %u batches",
                      SPOKE_FEED_THREADS_MAX, SPOKE_FEED_DEPTH_MAX);
        goto out;
    }
    if (f->augments)
        TIER_TRY_OUT(spoke_augment_check(&options->augment, &f->shape, err));
    if (!allocate(f)) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for %zu batches of %zu rows", f->options.depth,
                       options->batch);
        goto out;
    }
    for (; f->threads_count < f->options.threads; f->threads_count++) {
        if (pthread_create(&f->threads[f->threads_count], NULL, work, f) == 0)
            continue;
        st = tier_fail(err, TIER_ELIMIT, "no thread to read ahead");
        goto out;
    }
    *feed_out = f;
    return TIER_OK;
out:
    spoke_feed_close(f);
    return st;
}

void spoke_feed_close(struct spoke_feed *f) {
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    for (size_t i = 0; i < f->threads_count; i++)
        pthread_join(f->threads[i], NULL);
    for (size_t i = 0; f->slots && i < f->options.depth; i++) {
        free(f->slots[i].x);
        free(f->slots[i].labels);
        free(f->slots[i].values);
        free(f->slots[i].scratch);
        free(f->slots[i].whole);
        free(f->slots[i].whole_mask);
        free(f->slots[i].classes);
    }
    free(f->slots);
    free(f->order);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- use ----------------------------------------------------------------------------------- */

/* With the lock held: nobody fills anything, nor will until batches are there again. */
static void quiesce(struct spoke_feed *f) {
    f->batches = f->next_fill;
    for (size_t i = 0; i < f->options.depth; i++) {
        while (f->slots[i].state == FILLING)
            pthread_cond_wait(&f->changed, &f->lock);
        f->slots[i].state = EMPTY;
    }
}

enum tier_status spoke_feed_begin(struct spoke_feed *f, const int32_t *order, size_t n,
                                  uint64_t epoch, struct tier_err *err) {
    int32_t *copy = malloc((n ? n : 1) * sizeof *copy);

    if (!copy)
        return tier_fail(err, TIER_ENOMEM, "no memory for the order of %zu rows", n);
    if (n)
        memcpy(copy, order, n * sizeof *copy);
    pthread_mutex_lock(&f->lock);
    quiesce(f);
    free(f->order);
    f->order = copy;
    f->order_count = n;
    f->epoch = epoch;
    f->next_fill = f->next_take = 0;
    f->batches = (n + f->options.batch - 1) / f->options.batch;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return TIER_OK;
}

enum tier_status spoke_feed_next(struct spoke_feed *f, struct spoke_batch *batch_out,
                                 struct tier_err *err) {
    size_t depth = f->options.depth, batch;
    enum tier_status st = TIER_OK;

    pthread_mutex_lock(&f->lock);
    if (f->next_take > 0) { /* what was taken before is done with */
        f->slots[(f->next_take - 1) % depth].state = EMPTY;
        pthread_cond_broadcast(&f->changed);
    }
    batch = f->next_take;
    struct slot *s = &f->slots[batch % depth];
    bool more = batch < f->batches;
    while (more && s->state != READY)
        pthread_cond_wait(&f->changed, &f->lock);
    if (more) {
        s->state = TAKEN;
        f->next_take++;
    }
    pthread_mutex_unlock(&f->lock);
    if (!more) {
        *batch_out = (struct spoke_batch){0};
        return TIER_OK;
    }
    if (s->status != TIER_OK) {
        st = tier_fail(err, s->status, "%s", s->err.text);
    } else {
        bool value = f->target == 0;
        *batch_out = (struct spoke_batch){
            .rows = s->rows,
            .which = f->order + batch * f->options.batch,
            .x = s->x,
            .labels = value ? NULL : s->labels,
            .values = value ? s->values : NULL,
        };
    }
    return st;
}
