/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows that are held in memory are uploaded once; a step then moves nothing but its loss's place in
 * a queue of device work. Others are read ahead, batch by batch (spoke/feed.h), in the same order,
 * and copied to the device while it computes the batch before.
 * The loss is read back every LOSS_STEPS steps and at each end of an epoch: often enough to stop a
 * training that diverges, and few enough terms for a float sum. One device is a crew of one: it
 * takes the very same steps, without a group.
 */
#include "spoke/train.h"

#include "spoke/draw.h"
#include "spoke/eval.h"
#include "spoke/feed.h"
#include "spoke/scaler.h"
#include "spoke/step.h"
#include "tier/hash.h"
#include "tier/log.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOSS_STEPS 256

enum { DRAWS, NOISE }; /* the key's streams */

struct trainer {
    struct spoke_net *net;
    struct kern_device *dev;
    const struct spoke_data *data;
    const struct spoke_recipe *recipe;
    uint64_t seed;
    size_t rows, features, words, spots; /* words: of a row's target, spots: its labels */
    size_t place, replicas;              /* this one among all, here and elsewhere */
    int32_t *order;                      /* [rows], this epoch's; the first replica's */
    struct kern_buf *x, *target, *index; /* all training rows, where they are held */
    const struct spoke_batch *read; /* else the batch that was read, which begins at `read_at` */
    size_t read_at;
    int32_t *targets; /* [recipe->batch x words], on their way */
    /* One batch: its targets, and from rows_at on its rows. Where rows are read, both leave
     * together from `staging`, which is as large, and targets lies in it. */
    struct kern_buf *batch;
    size_t rows_at; /* a multiple of 64 */
    void *staging;
    struct kern_buf *loss;
    struct kern_buf *sum;       /* [trained]: of a step's gradients, where it has several batches */
    struct kern_buf *step_loss; /* a replica's, of one step, before it is weighted */
    struct kern_buf *losses;    /* [replicas]: of all of them, its own at its place */
    struct kern_buf *norms;     /* [recipe->batch]: of rows' gradients, where they are cut */
    float *drawn;               /* [trained]: noise on its way, the first replica's alone */
    struct spoke_stepper stepper;
    struct spoke_scaler scaler; /* of KERN_F16 */
    struct kern_buf *squares;   /* [1]: of a step's gradient; NULL where nothing is scaled */
    bool owns_order;
    enum tier_status st; /* of what this replica did last */
    struct tier_err *err, own_err;
};

/* All replicas of one training that are here, and what they are at. */
struct crew {
    struct trainer *t; /* [count] */
    size_t count;
    struct kern_group *group; /* NULL for one */
    const struct spoke_data *data;
    struct spoke_feed *feed;          /* NULL where all rows are held, as they are */
    struct spoke_batch read;          /* its last batch */
    size_t at, rows;                  /* the batch, in this epoch's order */
    size_t step_rows;                 /* of all batches of the step */
    size_t listed;                    /* rows in the order */
    struct tier_noise *draws, *noise; /* which rows, what noise; NULL without sample_clip */
    bool begins, ends;                /* the batch is its step's first, its last */
    uint64_t step;
    float lr;
    double loss_sum;
    struct tier_err *err;
};

#define KERN_TRY(t, what, call)                                                                    \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return spoke_net_kern_fail((t)->dev, kern_try_, what, (t)->err);                       \
    } while (0)

/* ---- training ------------------------------------------------------------------------------ */

static uint64_t batches_of(const struct spoke_recipe *r) {
    return r->accumulate > 1 ? r->accumulate : 1;
}

static enum tier_status new_buf(struct trainer *t, size_t count, struct kern_buf **out) {
    KERN_TRY(t, "taking memory for training", kern_buf_new(t->dev, count * 4, out));
    return TIER_OK;
}

/* The targets of rows which[rows], at most recipe->batch; labels as they were read, or NULL. */
static void find_targets(struct trainer *t, const struct spoke_data *data, const int32_t *which,
                         size_t rows, const int32_t *labels) {
    spoke_objective_targets(spoke_net_objective(t->net), data, SPOKE_TRAIN, which, rows, labels,
                            t->targets);
}

/* All of them, in their own order, a batch at a time. */
static enum tier_status put_targets(struct trainer *t, const struct spoke_data *data) {
    size_t piece = t->recipe->batch < t->rows ? t->recipe->batch : t->rows;
    int32_t *which = malloc(piece * sizeof *which);
    enum tier_status st = TIER_OK;

    if (!which)
        return tier_fail(t->err, TIER_ENOMEM, "no memory for a batch of %zu rows", piece);
    for (size_t at = 0, n; at < t->rows && st == TIER_OK; at += n) {
        n = t->rows - at < piece ? t->rows - at : piece;
        for (size_t i = 0; i < n; i++)
            which[i] = (int32_t)(at + i);
        find_targets(t, data, which, n, NULL);
        enum kern_status put =
            kern_upload(t->target, at * t->words * 4, t->targets, n * t->words * 4);
        if (put != KERN_OK)
            st = spoke_net_kern_fail(t->dev, put, "an upload", t->err);
    }
    free(which);
    return st;
}

static enum tier_status put_rows(struct trainer *t, const struct spoke_data *data) {
    TIER_TRY(new_buf(t, t->rows * t->features, &t->x));
    TIER_TRY(new_buf(t, t->rows * t->words, &t->target));
    TIER_TRY(new_buf(t, t->rows, &t->index));
    KERN_TRY(t, "an upload",
             kern_upload(t->x, 0, spoke_data_x(data, SPOKE_TRAIN),
                         t->rows * t->features * sizeof(float)));
    return put_targets(t, data);
}

static enum tier_status take_memory(struct trainer *t, const struct spoke_data *data) {
    const struct spoke_recipe *r = t->recipe;

    t->rows_at = (r->batch * t->words + 63) / 64 * 64;
    size_t words = t->rows_at + r->batch * t->features;

    TIER_TRY(new_buf(t, words, &t->batch));
    if (t->read)
        KERN_TRY(t, "taking memory for a batch", kern_host_new(t->dev, words * 4, &t->staging));
    t->targets = t->read ? t->staging : malloc(r->batch * t->words * sizeof *t->targets);
    if (!t->targets)
        return tier_fail(t->err, TIER_ENOMEM, "no memory for a batch of %u rows", r->batch);
    if (t->read)
        memset(t->staging, 0, words * 4); /* a smaller batch leaves room before its rows */
    TIER_TRY(new_buf(t, 1, &t->loss));
    bool apart = r->sample_clip > 0.0f;
    if (t->replicas > 1 || r->accumulate > 1 || apart)
        TIER_TRY(new_buf(t, 1, &t->step_loss));
    TIER_TRY(new_buf(t, t->replicas, &t->losses));
    if (r->accumulate > 1 || apart)
        TIER_TRY(new_buf(t, spoke_net_trained(t->net), &t->sum));
    if (r->products == KERN_F16) {
        TIER_TRY(new_buf(t, 1, &t->squares));
        t->scaler = spoke_scaler_start();
        TIER_TRY(spoke_net_scale(t->net, t->scaler.scale, t->err));
    }
    if (apart)
        TIER_TRY(new_buf(t, r->batch, &t->norms));
    t->drawn = apart && t->place == 0 ? malloc(spoke_net_trained(t->net) * sizeof(float)) : NULL;
    if (apart && t->place == 0 && !t->drawn)
        return tier_fail(t->err, TIER_ENOMEM, "no memory for the noise of a step");
    TIER_TRY(spoke_stepper_init(&t->stepper, t->net, r, t->err));
    return t->read ? TIER_OK : put_rows(t, data);
}

static void release(struct trainer *t) {
    kern_buf_free(t->x);
    kern_buf_free(t->target);
    kern_buf_free(t->index);
    kern_buf_free(t->batch);
    kern_buf_free(t->loss);
    spoke_stepper_release(&t->stepper);
    if (t->squares)
        (void)spoke_net_scale(t->net, 1.0f, NULL);
    kern_buf_free(t->squares);
    kern_buf_free(t->sum);
    kern_buf_free(t->step_loss);
    kern_buf_free(t->losses);
    if (t->staging)
        kern_host_free(t->dev, t->staging);
    else
        free(t->targets);
    kern_buf_free(t->norms);
    free(t->drawn);
    if (t->owns_order)
        free(t->order);
}

/* Rows [first, first + rows) of the batch that was read, to the device: while it computes the batch
 * before, which is why it does not wait. */
static enum tier_status send(struct trainer *t, size_t first, size_t rows) {
    float *x = (float *)t->staging + t->rows_at;

    KERN_TRY(t, "waiting for a batch to leave", kern_upload_wait(t->dev));
    find_targets(t, t->data, t->read->which + first, rows,
                 t->read->labels ? t->read->labels + first * t->spots : NULL);
    memcpy(x, t->read->x + first * t->features, rows * t->features * sizeof *x);
    KERN_TRY(
        t, "an upload",
        kern_upload_beside(t->batch, 0, t->staging, (t->rows_at + rows * t->features) * sizeof *x));
    return TIER_OK;
}

/* How much of sample_clip is used: the rest is room for what float32 rounds in a norm of millions
 * of elements, so that no row moves the sum by more than sample_clip. */
#define CLIP_USED 0.999f

/* The gradient of the batch's mean loss; with sample_clip the sum of those of its rows, each cut.
 */
static enum tier_status backward(struct trainer *t, size_t rows, struct kern_buf *loss) {
    struct kern_vec x = {t->batch, t->rows_at}, target = {t->batch, 0};
    float clip = t->recipe->sample_clip * CLIP_USED;

    if (t->recipe->sample_clip > 0.0f)
        return spoke_net_backward_samples(t->net, x, target, rows, clip,
                                          (struct kern_vec){t->norms, 0},
                                          (struct kern_vec){loss, 0}, t->err);
    return spoke_net_backward(t->net, x, target, rows, (struct kern_vec){loss, 0}, t->err);
}

/* Rows [at, at + rows) of this epoch's order: the gradient of their mean loss. */
static enum tier_status gradients(struct trainer *t, size_t at, size_t rows,
                                  struct kern_buf *loss) {
    struct kern_vec index = {t->index, at}, target = {t->batch, 0};
    struct kern_vec x = {t->batch, t->rows_at};

    if (t->read) {
        TIER_TRY(send(t, at - t->read_at, rows));
        return backward(t, rows, loss);
    }
    KERN_TRY(t, "gathering a batch",
             kern_gather_rows(x, (struct kern_vec){t->x, 0}, index, rows, t->features, t->rows));
    /* Classes are gathered as floats too: rows are moved, never computed with. */
    KERN_TRY(
        t, "gathering a batch",
        kern_gather_rows(target, (struct kern_vec){t->target, 0}, index, rows, t->words, t->rows));
    return backward(t, rows, loss);
}

/* Gradients, weighted, to those of the step's other batches; the last one has the sum. */
static enum tier_status accumulate(struct trainer *t, const struct crew *c, float weight) {
    struct kern_vec g = spoke_net_grads(t->net), sum = {t->sum, 0};
    size_t n = spoke_net_trained(t->net);

    if (c->begins && c->ends)
        KERN_TRY(t, "weighting gradients", kern_scale(g, n, weight));
    else if (c->ends)
        KERN_TRY(t, "adding gradients", kern_axpby(g, sum, n, 1.0f, weight));
    else
        KERN_TRY(t, "adding gradients", kern_axpby(sum, g, n, weight, c->begins ? 0.0f : 1.0f));
    return TIER_OK;
}

/* This replica's slice of the batch: how many rows, from where. */
static size_t slice_of(const struct trainer *t, const struct crew *c, size_t *first) {
    size_t each = c->rows / t->replicas, more = c->rows % t->replicas;

    *first = c->at + each * t->place + (t->place < more ? t->place : more);
    return each + (t->place < more);
}

/* This replica's slice of the batch, weighted by its share of the step's rows. */
static enum tier_status slice_gradients(struct trainer *t, const struct crew *c) {
    struct kern_vec g = spoke_net_grads(t->net), one = {t->step_loss, 0}, sum = {t->loss, 0};
    size_t n = spoke_net_trained(t->net), first, mine = slice_of(t, c, &first);
    float weight = (float)((double)mine / (double)c->step_rows);

    if (mine == 0) {
        KERN_TRY(t, "clearing gradients",
                 kern_zero(g.buf, g.at * sizeof(float), n * sizeof(float)));
        return accumulate(t, c, 1.0f);
    }
    KERN_TRY(t, "clearing the loss", kern_zero(t->step_loss, 0, sizeof(float)));
    TIER_TRY(gradients(t, first, mine, t->step_loss));
    TIER_TRY(accumulate(t, c, weight));
    KERN_TRY(t, "weighting the loss", kern_scale(one, 1, weight));
    KERN_TRY(t, "adding the loss", kern_add(sum, sum, one, 1));
    return TIER_OK;
}

/* ---- DP-SGD --------------------------------------------------------------------------------- */

/* This replica's slice of a part of the sample: its rows' gradients, cut, to the step's. */
static enum tier_status add_samples(struct trainer *t, const struct crew *c) {
    struct kern_vec one = {t->step_loss, 0}, loss = {t->loss, 0}, sum = {t->sum, 0};
    size_t first, mine = slice_of(t, c, &first);

    if (mine == 0)
        return TIER_OK;
    KERN_TRY(t, "clearing the loss", kern_zero(t->step_loss, 0, sizeof(float)));
    TIER_TRY(gradients(t, first, mine, t->step_loss));
    KERN_TRY(t, "adding gradients",
             kern_axpby(sum, spoke_net_grads(t->net), spoke_net_trained(t->net), 1.0f, 1.0f));
    KERN_TRY(t, "adding the loss",
             kern_axpby(loss, one, 1, (float)((double)mine / (double)c->step_rows), 1.0f));
    return TIER_OK;
}

/* The step's sum becomes the gradient: divided by what a sample has on average, not by what this
 * one has, which would tell of it. The first replica alone adds the noise. */
static enum tier_status add_noise(struct trainer *t, const struct crew *c) {
    const struct spoke_recipe *r = t->recipe;
    double mean = fmin((double)r->batch * (double)batches_of(r), (double)t->rows);
    struct kern_vec grads = spoke_net_grads(t->net);
    size_t count;
    const struct spoke_stretch *stretches = spoke_net_stretches(t->net, &count);

    for (size_t i = 0; i < count; i++) {
        const struct spoke_stretch s = stretches[i];
        struct kern_vec g = {grads.buf, grads.at + s.at}, sum = {t->sum, s.at};
        bool noisy = t->place == 0;
        if (noisy) {
            memset(t->drawn, 0, s.n * sizeof *t->drawn);
            tier_noise_normal(c->noise, (double)r->sample_noise * (double)r->sample_clip, t->drawn,
                              s.n);
            KERN_TRY(t, "the noise",
                     kern_upload(g.buf, g.at * sizeof(float), t->drawn, s.n * sizeof(float)));
        }
        KERN_TRY(t, "adding noise",
                 kern_axpby(g, sum, s.n, (float)(1 / mean), noisy ? (float)(1 / mean) : 0.0f));
    }
    return TIER_OK;
}

/* ---- all replicas --------------------------------------------------------------------------- */

/* What each does, on its own thread where its device works while it is called. */
static void each_takes_memory(void *arg, size_t i) {
    struct crew *c = arg;
    c->t[i].st = take_memory(&c->t[i], c->data);
}

static void each_starts_epoch(void *arg, size_t i) {
    struct trainer *t = &((struct crew *)arg)->t[i];
    size_t bytes = ((struct crew *)arg)->listed * sizeof *t->order;
    enum kern_status st = kern_upload(t->index, 0, t->order, bytes);
    t->st = st == KERN_OK ? TIER_OK : spoke_net_kern_fail(t->dev, st, "an upload", t->err);
}

static void each_has_gradients(void *arg, size_t i) {
    struct crew *c = arg;
    c->t[i].read_at = c->at;
    /* One device on one batch has nothing to weight. */
    c->t[i].st = c->group || !(c->begins && c->ends)
                     ? slice_gradients(&c->t[i], c)
                     : gradients(&c->t[i], c->at, c->rows, c->t[i].loss);
}

static void each_clears_sum(void *arg, size_t i) {
    struct trainer *t = &((struct crew *)arg)->t[i];
    enum kern_status st = kern_zero(t->sum, 0, spoke_net_trained(t->net) * sizeof(float));
    t->st = st == KERN_OK ? TIER_OK : spoke_net_kern_fail(t->dev, st, "clearing gradients", t->err);
}

static void each_adds_samples(void *arg, size_t i) {
    struct crew *c = arg;
    c->t[i].read_at = c->at;
    c->t[i].st = add_samples(&c->t[i], c);
}

static void each_adds_noise(void *arg, size_t i) {
    struct crew *c = arg;
    c->t[i].st = add_noise(&c->t[i], c);
}

/* Its squares' sum is finite where the gradient is (a norm beyond 1e19 aside). Read back, which
 * waits for the device: a step that is left out must not move what the optimiser remembers. */
static enum tier_status gradient_is_finite(struct trainer *t, bool *out) {
    struct kern_vec squares = {t->squares, 0}, g = spoke_net_grads(t->net);
    size_t count;
    const struct spoke_stretch *stretches = spoke_net_stretches(t->net, &count);
    float sum = 0;

    KERN_TRY(t, "clearing the norm", kern_zero(t->squares, 0, sizeof sum));
    for (size_t i = 0; i < count; i++)
        KERN_TRY(t, "the gradient's norm",
                 kern_square_sum(squares, (struct kern_vec){g.buf, g.at + stretches[i].at},
                                 stretches[i].n));
    KERN_TRY(t, "reading the gradient's norm", kern_download(&sum, t->squares, 0, sizeof sum));
    *out = isfinite(sum);
    return TIER_OK;
}

/* Steps that were left out do not count, for the optimiser. */
static enum tier_status optimise(struct trainer *t, const struct crew *c) {
    float scale = t->scaler.scale;
    bool finite = true;

    if (t->squares) {
        TIER_TRY(gradient_is_finite(t, &finite));
        (void)spoke_scaler_note(&t->scaler, finite);
        if (t->scaler.scale != scale)
            TIER_TRY(spoke_net_scale(t->net, t->scaler.scale, t->err));
    }
    return finite ? spoke_stepper_step(&t->stepper, c->step - t->scaler.skipped, c->lr, t->err)
                  : TIER_OK;
}

static void each_optimises(void *arg, size_t i) {
    struct crew *c = arg;
    c->t[i].st = optimise(&c->t[i], c);
}

static void each_ends(void *arg, size_t i) {
    struct crew *c = arg;
    c->t[i].st = spoke_stepper_end(&c->t[i].stepper, c->t[i].err);
}

/* The error is the first replica's that failed. */
static enum tier_status crew_do(struct crew *c, void (*what)(void *arg, size_t i)) {
    if (c->group)
        kern_group_each(c->group, what, c);
    else
        what(c, 0);
    for (size_t i = 0; i < c->count; i++)
        if (c->t[i].st != TIER_OK) {
            if (c->err)
                *c->err = c->t[i].own_err;
            return c->t[i].st;
        }
    return TIER_OK;
}

static enum tier_status group_failed(struct crew *c, enum kern_status st, const char *what) {
    return spoke_net_kern_fail(c->t[0].dev, st, what, c->err);
}

/* Batch by batch, each as large as a batch may be, to the end of the epoch at most. */
static enum tier_status step_gradients(struct crew *c) {
    const struct spoke_recipe *r = c->t[0].recipe;
    size_t left = c->t[0].rows - c->at, most = (size_t)r->batch * batches_of(r);

    c->step_rows = left < most ? left : most;
    for (size_t done = 0; done < c->step_rows; done += c->rows) {
        left = c->step_rows - done;
        c->rows = left < r->batch ? left : r->batch;
        c->begins = done == 0;
        c->ends = c->rows == left;
        if (c->feed)
            TIER_TRY(spoke_feed_next(c->feed, &c->read, c->err));
        TIER_TRY(crew_do(c, each_has_gradients));
        c->at += c->rows;
    }
    return TIER_OK;
}

/* Over what is trained: from its first parameter to its last. */
static enum tier_status sum_gradients(struct crew *c) {
    struct kern_vec g[KERN_GROUP_RANKS_MAX];
    size_t count;
    const struct spoke_stretch *stretches = spoke_net_stretches(c->t[0].net, &count);
    size_t first = stretches[0].at, end = stretches[count - 1].at + stretches[count - 1].n;

    for (size_t i = 0; i < c->count; i++) {
        g[i] = spoke_net_grads(c->t[i].net);
        g[i].at += first;
    }
    enum kern_status st = kern_group_all_reduce(c->group, g, end - first, KERN_F32);
    return st == KERN_OK ? TIER_OK : group_failed(c, st, "summing gradients");
}

/* The model holds no number that is not finite. With sample_clip that is what a training that
 * diverged is known by: the losses tell of single rows, the model of noised sums alone. */
static enum tier_status model_is_finite(struct trainer *t, bool *out) {
    struct kern_vec squares = {t->step_loss, 0}, w = spoke_net_params(t->net);
    size_t count;
    const struct spoke_stretch *stretches = spoke_net_stretches(t->net, &count);
    float sum = 0;

    KERN_TRY(t, "clearing the norm", kern_zero(t->step_loss, 0, sizeof sum));
    for (size_t i = 0; i < count; i++)
        KERN_TRY(t, "the model's norm",
                 kern_square_sum(squares, (struct kern_vec){w.buf, w.at + stretches[i].at},
                                 stretches[i].n));
    KERN_TRY(t, "reading the model's norm", kern_download(&sum, t->step_loss, 0, sizeof sum));
    *out = isfinite(sum);
    return TIER_OK;
}

static enum tier_status collect_loss(struct crew *c, uint64_t step) {
    struct kern_vec all[KERN_GROUP_RANKS_MAX] = {{NULL, 0}};
    float loss[KERN_GROUP_RANKS_MAX] = {0};
    enum kern_status st = KERN_OK;
    double sum = 0;

    for (size_t i = 0; i < c->count && st == KERN_OK; i++) {
        struct trainer *t = &c->t[i];
        all[i] = (struct kern_vec){t->losses, 0};
        st = kern_copy(t->losses, t->place * sizeof *loss, t->loss, 0, sizeof *loss);
        if (st == KERN_OK)
            st = kern_zero(t->loss, 0, sizeof *loss);
        if (st != KERN_OK)
            return spoke_net_kern_fail(t->dev, st, "reading the loss", c->err);
    }
    /* All of them see the same sum, and so stop alike where it is not finite. */
    if (c->group)
        st = kern_group_all_gather(c->group, all, 1, KERN_F32);
    if (st == KERN_OK)
        st = kern_download(loss, all[0].buf, 0, c->t[0].replicas * sizeof *loss);
    if (st != KERN_OK)
        return group_failed(c, st, "reading the loss");
    for (size_t i = 0; i < c->t[0].replicas; i++)
        sum += (double)loss[i];
    bool finite = isfinite(sum);
    if (c->draws)
        TIER_TRY(model_is_finite(&c->t[0], &finite));
    if (!finite)
        return tier_fail(c->err, TIER_EPLAN,
                         "training diverged: the %s is not finite at step %" PRIu64
                         "; lower lr, now %g",
                         c->draws ? "model" : "loss", step, (double)c->t[0].recipe->lr);
    c->loss_sum += isfinite(sum) ? sum : 0;
    return TIER_OK;
}

static enum tier_status start_epoch(struct crew *c, uint64_t epoch) {
    const struct trainer *first = &c->t[0];

    spoke_train_shuffle(first->seed, epoch, first->order, first->rows);
    c->listed = first->rows;
    return c->feed ? spoke_feed_begin(c->feed, first->order, first->rows, epoch, c->err)
                   : crew_do(c, each_starts_epoch);
}

/* Of an epoch, which begins where the last one ended. */
static enum tier_status epoch_gradients(struct crew *c, uint64_t epoch) {
    if (c->at == 0)
        TIER_TRY(start_epoch(c, epoch));
    TIER_TRY(step_gradients(c));
    c->at = c->at == c->t[0].rows ? 0 : c->at;
    return TIER_OK;
}

/* Of a sample of its own, as large as chance has it: none may be in it. */
static enum tier_status sample_gradients(struct crew *c) {
    const struct trainer *first = &c->t[0];
    const struct spoke_recipe *r = first->recipe;

    c->at = 0;
    c->step_rows = c->listed =
        tier_noise_sample(c->draws, first->rows, r->batch * batches_of(r), first->order);
    if (c->step_rows > 0 && c->feed)
        TIER_TRY(spoke_feed_begin(c->feed, first->order, c->listed, c->step, c->err));
    else if (c->step_rows > 0)
        TIER_TRY(crew_do(c, each_starts_epoch));
    TIER_TRY(crew_do(c, each_clears_sum));
    for (; c->at < c->step_rows; c->at += c->rows) {
        size_t left = c->step_rows - c->at;
        c->rows = left < r->batch ? left : r->batch;
        if (c->feed)
            TIER_TRY(spoke_feed_next(c->feed, &c->read, c->err));
        TIER_TRY(crew_do(c, each_adds_samples));
    }
    return crew_do(c, each_adds_noise);
}

/* Rows that are not held, or are cut or changed each time, are read by threads of their own. */
static enum tier_status open_feed(struct crew *c, const struct spoke_recipe *recipe,
                                  uint64_t seed) {
    struct spoke_feed_options options = {
        .part = SPOKE_TRAIN, .batch = recipe->batch, .augment = recipe->augment, .seed = seed};

    if (spoke_data_x(c->data, SPOKE_TRAIN) && !spoke_data_patch(c->data) &&
        spoke_augment_is_none(&recipe->augment))
        return TIER_OK;
    TIER_TRY(spoke_feed_open(c->data, &options, &c->feed, c->err));
    for (size_t i = 0; i < c->count; i++)
        c->t[i].read = &c->read;
    return TIER_OK;
}

static enum tier_status run_steps(struct crew *c, struct spoke_train_stats *stats) {
    const struct trainer *first = &c->t[0];
    const struct spoke_recipe *r = first->recipe;
    uint64_t step_rows = r->batch * batches_of(r);
    assert(step_rows > 0); /* spoke_recipe_check */
    uint64_t per_epoch = (first->rows + step_rows - 1) / step_rows;
    uint64_t steps = r->steps ? r->steps : r->epochs * per_epoch;

    for (uint64_t step = 0; step < steps; step++) {
        c->step = step + 1;
        c->lr = spoke_recipe_lr(r, step, steps);
        TIER_TRY(c->draws ? sample_gradients(c) : epoch_gradients(c, step / per_epoch));
        if (c->group)
            TIER_TRY(sum_gradients(c));
        TIER_TRY(crew_do(c, each_optimises));
        stats->rows += c->step_rows;
        if (c->at == 0 || (step + 1) % LOSS_STEPS == 0 || step + 1 == steps)
            TIER_TRY(collect_loss(c, step + 1));
    }
    stats->skipped = first->scaler.skipped;
    stats->steps = steps - stats->skipped;
    if (stats->steps == 0)
        return tier_fail(c->err, TIER_EPLAN,
                         "none of %" PRIu64 " steps had a gradient that binary16 can hold: "
                         "local.precision: bf16 has the range of f32",
                         steps);
    if (first->squares)
        tier_log_info("training in f16: %" PRIu64 " of %" PRIu64
                      " steps left out, a loss scale of %g in the end",
                      stats->skipped, steps, (double)first->scaler.scale);
    TIER_TRY(crew_do(c, each_ends));
    stats->loss_mean = c->loss_sum / (double)steps;
    return TIER_OK;
}

static enum tier_status start_alike(struct crew *c) {
    struct kern_vec w[KERN_GROUP_RANKS_MAX];

    if (!c->group)
        return TIER_OK;
    for (size_t i = 0; i < c->count; i++)
        w[i] = spoke_net_params(c->t[i].net);
    enum kern_status st =
        kern_group_broadcast(c->group, w, spoke_net_elements(c->t[0].net), KERN_F32, 0);
    return st == KERN_OK ? TIER_OK : group_failed(c, st, "handing out the model");
}

/* Each replica's running statistics saw its own slices of the batches: the first one's count. */
static enum tier_status share_states(struct crew *c) {
    size_t trained = spoke_net_trained(c->t[0].net);
    size_t states = spoke_net_elements(c->t[0].net) - trained;
    struct kern_vec w[KERN_GROUP_RANKS_MAX];

    if (!c->group || states == 0)
        return TIER_OK;
    for (size_t i = 0; i < c->count; i++) {
        w[i] = spoke_net_params(c->t[i].net);
        w[i].at += trained;
    }
    enum kern_status st = kern_group_broadcast(c->group, w, states, KERN_F32, 0);
    return st == KERN_OK ? TIER_OK : group_failed(c, st, "handing out running statistics");
}

/* Replicas that did the same with the same numbers hold the same bits. */
static enum tier_status end_alike(struct crew *c) {
    size_t bytes = spoke_net_elements(c->t[0].net) * sizeof(float);
    struct tier_hash first, other;
    enum tier_status st = TIER_OK;
    float *values = c->count > 1 ? malloc(bytes) : NULL;

    if (c->count == 1)
        return TIER_OK;
    if (!values)
        return tier_fail(c->err, TIER_ENOMEM, "no memory to compare replicas");
    for (size_t i = 0; i < c->count && st == TIER_OK; i++) {
        st = spoke_net_get(c->t[i].net, values, c->err);
        if (st == TIER_OK)
            tier_hash_data(values, bytes, i == 0 ? &first : &other);
        if (st == TIER_OK && i > 0 && !tier_hash_equal(&first, &other))
            st = tier_fail(c->err, TIER_EDEVICE,
                           "replica %zu on %s has other parameters than the first one on %s: one "
                           "of these devices computes wrongly",
                           i, kern_device_name(c->t[i].dev), kern_device_name(c->t[0].dev));
    }
    free(values);
    return st;
}

static enum tier_status crew_new(struct crew *c, struct spoke_net *const *nets,
                                 const struct spoke_recipe *recipe, uint64_t seed) {
    size_t rows = spoke_data_rows(c->data, SPOKE_TRAIN);

    if (rows == 0)
        return tier_fail(c->err, TIER_EDATA, "there are no training rows here");
    c->t = calloc(c->count, sizeof *c->t);
    int32_t *order = malloc(rows * sizeof *order);
    if (!c->t || !order) {
        free(order);
        free(c->t);
        c->t = NULL; /* nothing is in there to be given back */
        return tier_fail(c->err, TIER_ENOMEM, "no memory for %zu training rows", rows);
    }
    for (size_t i = 0; i < c->count; i++)
        c->t[i] = (struct trainer){
            .net = nets[i],
            .dev = spoke_net_device(nets[i]),
            .recipe = recipe,
            .seed = seed,
            .rows = rows,
            .features = spoke_data_seen_features(c->data),
            .data = c->data,
            .spots = spoke_net_spots(nets[i]),
            .words = spoke_objective_words(spoke_net_objective(nets[i]), spoke_net_spots(nets[i])),
            .place = c->group ? kern_group_first(c->group) + i : i,
            .replicas = c->group ? kern_group_ranks(c->group) : 1,
            .owns_order = i == 0,
            .order = order,
            .err = &c->t[i].own_err};
    /* Replicas draw apart: each sees rows of its own. */
    for (size_t i = 0; i < c->count; i++)
        spoke_net_seed(nets[i], spoke_draw_mix(seed ^ spoke_draw_mix(c->t[i].place + 1)));
    if (!recipe->noise_key)
        return TIER_OK;
    TIER_TRY(tier_noise_new(recipe->noise_key, DRAWS, &c->draws, c->err));
    return tier_noise_new(recipe->noise_key, NOISE, &c->noise, c->err);
}

/* What the devices' products may round, from here on. */
static enum tier_status allow(struct crew *c, enum kern_products products) {
    for (size_t i = 0; i < c->count; i++) {
        enum kern_status st = kern_device_products(c->t[i].dev, products);
        if (st == KERN_ENODEV)
            return tier_fail(c->err, TIER_EPLAN, "local.precision: %s: %s",
                             kern_device_name(c->t[i].dev), kern_device_error(c->t[i].dev));
        if (st != KERN_OK)
            return spoke_net_kern_fail(c->t[i].dev, st, "choosing how to multiply", c->err);
    }
    return TIER_OK;
}

/* Of GPUs, whose memory is what decides on a batch. */
static void report_memory(const struct crew *c) {
    struct kern_memory m;

    for (size_t i = 0; i < c->count; i++) {
        const char *name = kern_device_name(c->t[i].dev);
        if (strcmp(name, "cpu") != 0 && kern_device_memory(c->t[i].dev, &m) == KERN_OK)
            tier_log_info("%s: %.1f MiB of its memory in use, %.1f at most so far", name,
                          (double)m.bytes / 0x1p20, (double)m.bytes_most / 0x1p20);
    }
}

enum tier_status spoke_train(struct spoke_net *net, const struct spoke_data *data,
                             const struct spoke_recipe *recipe, uint64_t seed,
                             struct spoke_train_stats *stats_out, struct tier_err *err) {
    return spoke_train_replicas(&net, 1, NULL, data, recipe, seed, stats_out, err);
}

enum tier_status spoke_train_replicas(struct spoke_net *const *nets, size_t count,
                                      struct kern_group *group, const struct spoke_data *data,
                                      const struct spoke_recipe *recipe, uint64_t seed,
                                      struct spoke_train_stats *stats_out, struct tier_err *err) {
    struct crew c = {.count = count,
                     .group = group && kern_group_ranks(group) > 1 ? group : NULL,
                     .data = data,
                     .err = err};
    struct spoke_train_stats stats = {0};
    enum tier_status st;

    if (count < 1 || (count > 1 && !group) || (group && kern_group_count(group) != count))
        return tier_fail(err, TIER_EINTERNAL, "%zu replicas, and no group of as many devices",
                         count);
    TIER_TRY(spoke_recipe_check(recipe, err));
    TIER_TRY(spoke_eval_fits(nets[0], data, err));
    size_t ranks = c.group ? kern_group_ranks(c.group) : 1;
    size_t slice = (recipe->batch + ranks - 1) / ranks;
    if (slice > spoke_net_batch_max(nets[0]))
        return tier_fail(err, TIER_EPLAN,
                         "a batch of %zu rows: this model was made for at most %zu", slice,
                         spoke_net_batch_max(nets[0]));
    TIER_TRY_OUT(crew_new(&c, nets, recipe, seed));
    TIER_TRY_OUT(allow(&c, recipe->products));
    TIER_TRY_OUT(open_feed(&c, recipe, seed));
    TIER_TRY_OUT(start_alike(&c));
    TIER_TRY_OUT(crew_do(&c, each_takes_memory));
    TIER_TRY_OUT(run_steps(&c, &stats));
    TIER_TRY_OUT(share_states(&c));
    TIER_TRY_OUT(end_alike(&c));
    if (stats_out)
        *stats_out = stats;
    report_memory(&c);
out:
    if (c.t && recipe->products != KERN_EXACT) {
        enum tier_status back = allow(&c, KERN_EXACT);
        st = st == TIER_OK ? back : st;
    }
    spoke_feed_close(c.feed);
    for (size_t i = 0; c.t && i < count; i++)
        release(&c.t[count - 1 - i]);
    free(c.t);
    tier_noise_free(c.draws);
    tier_noise_free(c.noise);
    return st;
}
