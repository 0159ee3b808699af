/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The training rows are uploaded once; a step then moves nothing but its loss's place in a queue of
 * device work. The loss is read back every LOSS_STEPS steps and at each end of an epoch: often
 * enough to stop a training that diverges, and few enough terms for a float sum.
 */
#include "spoke/train.h"

#include "spoke/eval.h"
#include "tier/hash.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOSS_STEPS 256

struct trainer {
    struct spoke_net *net;
    struct kern_device *dev;
    const struct spoke_recipe *recipe;
    uint64_t seed;
    size_t rows, features;
    int32_t *order;                          /* [rows], this epoch's */
    struct kern_buf *x, *target, *index;     /* all training rows */
    struct kern_buf *batch_x, *batch_target; /* one batch */
    struct kern_buf *loss, *m, *v;
    struct kern_buf *control, *own_control;
    struct kern_buf *start; /* the parameters at the start, where prox_mu pulls towards them */
    double loss_sum;
    struct tier_err *err;
};

#define KERN_TRY(t, what, call)                                                                    \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return spoke_net_kern_fail((t)->dev, kern_try_, what, (t)->err);                       \
    } while (0)

/* ---- random numbers ------------------------------------------------------------------------ */

/* splitmix64 (Steele, Lea and Flood 2014): a counter and a mixer, no other state. */
static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t next(uint64_t *state) {
    *state += UINT64_C(0x9e3779b97f4a7c15);
    return mix(*state);
}

/* Uniform in [0, n) without bias: multiply and reject (Lemire 2019). */
static uint32_t below(uint64_t *state, uint32_t n) {
    for (;;) {
        uint64_t product = (next(state) >> 32) * n;
        if ((uint32_t)product >= (uint32_t)-n % n)
            return (uint32_t)(product >> 32);
    }
}

void spoke_train_shuffle(uint64_t seed, uint64_t epoch, int32_t *index, size_t n) {
    uint64_t state = mix(seed ^ mix(epoch + 1));

    for (size_t i = 0; i < n; i++)
        index[i] = (int32_t)i;
    for (size_t i = n; i > 1; i--) {
        uint32_t j = below(&state, (uint32_t)i);
        int32_t swap = index[i - 1];
        index[i - 1] = index[j];
        index[j] = swap;
    }
}

uint64_t spoke_train_seed(const char *run, uint64_t round, const char *node) {
    struct tier_hasher *h = tier_hasher_new();
    struct tier_hash digest;
    uint8_t count[8];
    uint64_t seed = 0;

    for (int i = 0; i < 8; i++)
        count[i] = (uint8_t)(round >> (56 - 8 * i));
    tier_hasher_add(h, run, strlen(run) + 1);
    tier_hasher_add(h, count, sizeof count);
    tier_hasher_add(h, node, strlen(node) + 1);
    tier_hasher_finish(h, &digest);
    tier_hasher_free(h);
    for (int i = 0; i < 8; i++)
        seed = seed << 8 | digest.b[i];
    return seed;
}

/* ---- the recipe ---------------------------------------------------------------------------- */

enum tier_status spoke_recipe_check(const struct spoke_recipe *r, struct tier_err *err) {
    bool sgd = r->optimiser == SPOKE_OPT_SGD;
    const char *wrong = NULL;

    if (!sgd && r->optimiser != SPOKE_OPT_ADAM)
        wrong = "optimiser: sgd or adam";
    else if (!(r->lr > 0.0f) || !isfinite(r->lr))
        wrong = "lr: a finite number above 0";
    else if (!(r->weight_decay >= 0.0f) || !isfinite(r->weight_decay))
        wrong = "weight_decay: a finite number of at least 0";
    else if (!(r->prox_mu >= 0.0f) || !isfinite(r->prox_mu))
        wrong = "prox_mu: a finite number of at least 0";
    else if (sgd && !(r->momentum >= 0.0f && r->momentum < 1.0f))
        wrong = "momentum: at least 0 and below 1";
    else if (sgd && r->nesterov && r->momentum == 0.0f)
        wrong = "nesterov: needs a momentum above 0";
    else if (!sgd && !(r->beta1 >= 0.0f && r->beta1 < 1.0f && r->beta2 >= 0.0f && r->beta2 < 1.0f))
        wrong = "beta1 and beta2: at least 0 and below 1";
    else if (!sgd && (!(r->eps > 0.0f) || !isfinite(r->eps)))
        wrong = "eps: a finite number above 0";
    else if (!r->control != !r->own_control)
        wrong = "control: it and own_control go together";
    else if (r->batch == 0 || r->batch > SPOKE_BATCH_MAX)
        wrong = "batch: 1 to 1048576 rows";
    else if ((r->steps == 0) == (r->epochs == 0))
        wrong = "steps or epochs: exactly one of them must be above 0";
    else if (r->steps > SPOKE_STEPS_MAX || r->epochs > SPOKE_EPOCHS_MAX)
        wrong = "steps: at most 2^40; epochs: at most 2^20";
    if (wrong)
        return tier_fail(err, TIER_EPLAN, "the training recipe is wrong in %s", wrong);
    return TIER_OK;
}

/* ---- training ------------------------------------------------------------------------------ */

static enum tier_status new_buf(struct trainer *t, size_t count, struct kern_buf **out) {
    KERN_TRY(t, "taking memory for training", kern_buf_new(t->dev, count * 4, out));
    return TIER_OK;
}

/* Targets as the loss takes them: float for binary cross-entropy, else the classes as they are. */
static enum tier_status upload_targets(struct trainer *t, const int32_t *labels) {
    if (spoke_net_loss(t->net) == SPOKE_LOSS_CE) {
        KERN_TRY(t, "an upload", kern_upload(t->target, 0, labels, t->rows * sizeof *labels));
        return TIER_OK;
    }
    float *floats = malloc(t->rows * sizeof *floats);
    if (!floats)
        return tier_fail(t->err, TIER_ENOMEM, "no memory for %zu training rows", t->rows);
    for (size_t i = 0; i < t->rows; i++)
        floats[i] = (float)labels[i];
    enum kern_status st = kern_upload(t->target, 0, floats, t->rows * sizeof *floats);
    free(floats);
    KERN_TRY(t, "an upload", st);
    return TIER_OK;
}

static enum tier_status take_memory(struct trainer *t, const struct spoke_data *data) {
    const struct spoke_recipe *r = t->recipe;
    size_t elements = spoke_net_elements(t->net);

    t->order = malloc(t->rows * sizeof *t->order);
    if (!t->order)
        return tier_fail(t->err, TIER_ENOMEM, "no memory for %zu training rows", t->rows);
    TIER_TRY(new_buf(t, t->rows * t->features, &t->x));
    TIER_TRY(new_buf(t, t->rows, &t->target));
    TIER_TRY(new_buf(t, t->rows, &t->index));
    TIER_TRY(new_buf(t, r->batch * t->features, &t->batch_x));
    TIER_TRY(new_buf(t, r->batch, &t->batch_target));
    TIER_TRY(new_buf(t, 1, &t->loss));
    if (r->optimiser == SPOKE_OPT_ADAM)
        TIER_TRY(new_buf(t, elements, &t->m));
    if (r->optimiser == SPOKE_OPT_ADAM || r->momentum > 0.0f)
        TIER_TRY(new_buf(t, elements, &t->v));
    if (r->control) {
        TIER_TRY(new_buf(t, elements, &t->control));
        TIER_TRY(new_buf(t, elements, &t->own_control));
        KERN_TRY(t, "an upload", kern_upload(t->control, 0, r->control, elements * sizeof(float)));
        KERN_TRY(t, "an upload",
                 kern_upload(t->own_control, 0, r->own_control, elements * sizeof(float)));
    }
    if (r->prox_mu > 0.0f) {
        struct kern_vec w = spoke_net_params(t->net);
        TIER_TRY(new_buf(t, elements, &t->start));
        KERN_TRY(t, "keeping the start",
                 kern_copy(t->start, 0, w.buf, w.at * sizeof(float), elements * sizeof(float)));
    }
    KERN_TRY(t, "an upload",
             kern_upload(t->x, 0, spoke_data_x(data, SPOKE_TRAIN),
                         t->rows * t->features * sizeof(float)));
    return upload_targets(t, spoke_data_labels(data, SPOKE_TRAIN));
}

static void release(struct trainer *t) {
    kern_buf_free(t->x);
    kern_buf_free(t->target);
    kern_buf_free(t->index);
    kern_buf_free(t->batch_x);
    kern_buf_free(t->batch_target);
    kern_buf_free(t->loss);
    kern_buf_free(t->m);
    kern_buf_free(t->v);
    kern_buf_free(t->start);
    kern_buf_free(t->control);
    kern_buf_free(t->own_control);
    free(t->order);
}

static enum tier_status optimise(struct trainer *t, uint64_t step) {
    const struct spoke_recipe *r = t->recipe;
    struct kern_vec w = spoke_net_params(t->net), g = spoke_net_grads(t->net);
    struct kern_vec m = {t->m, 0}, v = {t->v, 0};
    size_t n = spoke_net_elements(t->net);

    if (r->prox_mu > 0.0f)
        KERN_TRY(t, "the proximal term",
                 kern_prox_grad(g, w, (struct kern_vec){t->start, 0}, n, r->prox_mu));
    /* The proximal term's kernel with mu = 1: g += 1 * (control - own_control). */
    if (r->control)
        KERN_TRY(t, "the control variates",
                 kern_prox_grad(g, (struct kern_vec){t->control, 0},
                                (struct kern_vec){t->own_control, 0}, n, 1.0f));
    if (r->optimiser == SPOKE_OPT_SGD) {
        struct kern_sgd opt = {.lr = r->lr,
                               .momentum = r->momentum,
                               .weight_decay = r->weight_decay,
                               .nesterov = r->nesterov};
        KERN_TRY(t, "the optimiser", kern_sgd_step(w, g, v, n, &opt));
        return TIER_OK;
    }
    struct kern_adam opt = {.lr = r->lr,
                            .beta1 = r->beta1,
                            .beta2 = r->beta2,
                            .eps = r->eps,
                            .weight_decay = r->weight_decay,
                            .step = step};
    KERN_TRY(t, "the optimiser", kern_adam_step(w, g, m, v, n, &opt));
    return TIER_OK;
}

static enum tier_status start_epoch(struct trainer *t, uint64_t epoch) {
    spoke_train_shuffle(t->seed, epoch, t->order, t->rows);
    KERN_TRY(t, "an upload", kern_upload(t->index, 0, t->order, t->rows * sizeof *t->order));
    return TIER_OK;
}

/* One step on rows [at, at + rows) of this epoch's order. */
static enum tier_status run_step(struct trainer *t, size_t at, size_t rows, uint64_t step) {
    struct kern_vec index = {t->index, at}, x = {t->batch_x, 0}, target = {t->batch_target, 0};

    KERN_TRY(t, "gathering a batch",
             kern_gather_rows(x, (struct kern_vec){t->x, 0}, index, rows, t->features, t->rows));
    /* Classes are gathered as floats too: rows are moved, never computed with. */
    KERN_TRY(t, "gathering a batch",
             kern_gather_rows(target, (struct kern_vec){t->target, 0}, index, rows, 1, t->rows));
    TIER_TRY(spoke_net_backward(t->net, x, target, rows, (struct kern_vec){t->loss, 0}, t->err));
    return optimise(t, step);
}

static enum tier_status collect_loss(struct trainer *t, uint64_t step) {
    float loss;

    KERN_TRY(t, "a download", kern_download(&loss, t->loss, 0, sizeof loss));
    if (!isfinite(loss))
        return tier_fail(t->err, TIER_EPLAN,
                         "training diverged: the loss is not finite at step %" PRIu64
                         "; lower lr, now %g",
                         step, (double)t->recipe->lr);
    t->loss_sum += loss;
    KERN_TRY(t, "clearing the loss", kern_zero(t->loss, 0, sizeof loss));
    return TIER_OK;
}

static enum tier_status run_steps(struct trainer *t, struct spoke_train_stats *stats) {
    const struct spoke_recipe *r = t->recipe;
    uint64_t per_epoch = (t->rows + r->batch - 1) / r->batch;
    uint64_t steps = r->steps ? r->steps : r->epochs * per_epoch;
    size_t at = 0;

    for (uint64_t step = 0; step < steps; step++) {
        if (at == 0)
            TIER_TRY(start_epoch(t, step / per_epoch));
        size_t rows = t->rows - at < r->batch ? t->rows - at : r->batch;
        TIER_TRY(run_step(t, at, rows, step + 1));
        stats->rows += rows;
        at = at + rows == t->rows ? 0 : at + rows;
        if (at == 0 || (step + 1) % LOSS_STEPS == 0 || step + 1 == steps)
            TIER_TRY(collect_loss(t, step + 1));
    }
    stats->steps = steps;
    stats->loss_mean = t->loss_sum / (double)steps;
    return TIER_OK;
}

enum tier_status spoke_train(struct spoke_net *net, const struct spoke_data *data,
                             const struct spoke_recipe *recipe, uint64_t seed,
                             struct spoke_train_stats *stats_out, struct tier_err *err) {
    struct trainer t = {.net = net,
                        .dev = spoke_net_device(net),
                        .recipe = recipe,
                        .seed = seed,
                        .rows = spoke_data_rows(data, SPOKE_TRAIN),
                        .features = spoke_data_features(data),
                        .err = err};
    struct spoke_train_stats stats = {0};
    enum tier_status st;

    TIER_TRY(spoke_recipe_check(recipe, err));
    TIER_TRY(spoke_eval_fits(net, data, err));
    if (recipe->batch > spoke_net_batch_max(net))
        return tier_fail(err, TIER_EPLAN, "a batch of %u rows: this model was made for at most %zu",
                         recipe->batch, spoke_net_batch_max(net));
    if (t.rows == 0)
        return tier_fail(err, TIER_EDATA, "there are no training rows here");
    TIER_TRY_OUT(take_memory(&t, data));
    TIER_TRY_OUT(run_steps(&t, &stats));
    if (stats_out)
        *stats_out = stats;
out:
    release(&t);
    return st;
}
