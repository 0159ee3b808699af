/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/annotators.h"
#include "spoke/eval_score.h"
#include "spoke/slide.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ERRORS_MAX (TIER_SCORE_SUM_MAX - 1) /* from there on nothing is told of them */

struct evaluation {
    struct spoke_net *net;
    const struct spoke_objective *objective;
    struct kern_device *dev;
    size_t features, outputs, spots, words, batch;
    struct kern_buf *x;
    float *logits;    /* [batch x spots x outputs] */
    int32_t *targets; /* [batch x words] */
    int32_t *labels; /* [batch x spots]: what most readers say, where targets are shares; or NULL */
    float *hazards;  /* [rows] of survival, else NULL */
    float *times;    /* [rows x 2], likewise */
    const struct spoke_data *data;
    enum spoke_part part;
    int32_t *which;       /* [batch] */
    float *x_read;        /* [batch x features], where rows are not held; else NULL both */
    int32_t *labels_read; /* [batch x words] */
    struct spoke_sums *sums;
    struct tier_err *err;
};

#define KERN_TRY(e, what, call)                                                                    \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return spoke_net_kern_fail((e)->dev, kern_try_, what, (e)->err);                       \
    } while (0)

enum tier_status spoke_eval_fits(const struct spoke_net *net, const struct spoke_data *data,
                                 struct tier_err *err) {
    if (spoke_data_seen_features(data) != spoke_net_features(net))
        return tier_fail(err, TIER_EDATA, "%s %zu features: the model takes %zu",
                         spoke_data_patch(data) ? "the plan's windows have" : "the schema makes",
                         spoke_data_seen_features(data), spoke_net_features(net));
    return spoke_objective_fits(spoke_net_objective(net), data, spoke_net_spots(net),
                                spoke_net_outputs(net), err);
}

static bool too_large(const struct spoke_sums *s) {
    return s->squared > ERRORS_MAX || s->absolute > ERRORS_MAX;
}

/* Rows e->which[rows], with their features. */
static enum tier_status score_batch(struct evaluation *e, const float *x, const int32_t *labels,
                                    size_t rows) {
    struct kern_vec logits;
    size_t each = e->spots * e->outputs;

    KERN_TRY(e, "an upload", kern_upload(e->x, 0, x, rows * e->features * sizeof *x));
    TIER_TRY(spoke_net_forward(e->net, (struct kern_vec){e->x, 0}, rows, &logits, e->err));
    KERN_TRY(e, "a download",
             kern_download(e->logits, logits.buf, logits.at * sizeof(float),
                           rows * each * sizeof(float)));
    for (size_t i = 0; i < rows * each; i++)
        if (!isfinite(e->logits[i]))
            return tier_fail(e->err, TIER_EMODEL,
                             "the model gives an output that is not finite: its training diverged");
    spoke_objective_targets(e->objective, e->data, e->part, e->which, rows, labels, e->targets);
    const int32_t *held = spoke_data_labels(e->data, e->part);
    for (size_t i = 0; e->labels && i < rows * e->spots; i++)
        e->labels[i] = spoke_votes_majority(
            labels ? labels[i] : held[(size_t)e->which[i / e->spots] * e->spots + i % e->spots],
            e->objective->soft);
    for (size_t r = 0; r < rows; r++) {
        const int32_t *target = e->targets + r * e->words;
        const int32_t *label = e->labels ? e->labels + r * e->spots : NULL;
        if (e->hazards) {
            e->hazards[e->sums->count] = e->logits[r];
            memcpy(e->times + 2 * e->sums->count, target, 2 * sizeof *e->times);
        }
        spoke_score_row(e->sums, e->objective, e->logits + r * each, target, label, e->spots,
                        e->outputs);
        if (too_large(e->sums)) /* row by row: a million of the largest would pass 64 bits */
            return tier_fail(e->err, TIER_EDATA,
                             "the errors are too large to be summed: a target in other units, of "
                             "which a row's is of the order of 1, would be right");
    }
    return TIER_OK;
}

static enum tier_status take_memory(struct evaluation *e, size_t rows, bool held) {
    bool survival = e->objective->loss == SPOKE_LOSS_COX;

    KERN_TRY(e, "taking memory for evaluation",
             kern_buf_new(e->dev, e->batch * e->features * sizeof(float), &e->x));
    e->logits = malloc(e->batch * e->spots * e->outputs * sizeof *e->logits);
    e->targets = malloc(e->batch * e->words * sizeof *e->targets);
    e->labels = e->objective->soft ? malloc(e->batch * e->spots * sizeof *e->labels) : NULL;
    e->which = malloc(e->batch * sizeof *e->which);
    e->hazards = survival ? malloc(rows * sizeof *e->hazards) : NULL;
    e->times = survival ? malloc(rows * 2 * sizeof *e->times) : NULL;
    if (!held) {
        e->x_read = malloc(e->batch * e->features * sizeof *e->x_read);
        e->labels_read = malloc(e->batch * e->words * sizeof *e->labels_read);
    }
    if (!e->logits || !e->targets || (e->objective->soft && !e->labels) || !e->which ||
        (survival && (!e->hazards || !e->times)) || (!held && (!e->x_read || !e->labels_read)))
        return tier_fail(e->err, TIER_ENOMEM, "no memory for a batch of %zu rows", e->batch);
    return TIER_OK;
}

static enum tier_status score_all(struct evaluation *e, size_t rows) {
    const float *x = spoke_data_x(e->data, e->part);

    TIER_TRY(take_memory(e, rows, x != NULL));
    for (size_t at = 0; at < rows; at += e->batch) {
        size_t n = rows - at < e->batch ? rows - at : e->batch;
        for (size_t i = 0; i < n; i++)
            e->which[i] = (int32_t)(at + i);
        if (!x)
            TIER_TRY(
                spoke_data_read(e->data, e->part, e->which, n, e->x_read, e->labels_read, e->err));
        TIER_TRY(score_batch(e, x ? x + at * e->features : e->x_read, e->labels_read, n));
    }
    if (e->hazards)
        TIER_TRY(spoke_score_survival(e->sums, e->hazards, e->times, rows, e->err));
    return TIER_OK;
}

/* Windows are the model's, figures are of whole images: one at a time. */
static enum tier_status score_slides(struct evaluation *e, size_t rows) {
    const struct spoke_shape shape = spoke_data_shape(e->data);
    size_t spots = spoke_data_target_size(e->data), soft = e->objective->soft;
    struct spoke_slide *slide = NULL;
    float *x = malloc(e->features * sizeof *x);
    float *logits = malloc(spots * e->outputs * sizeof *logits);
    int32_t *mask = malloc(spots * sizeof *mask);
    float *shares = soft ? malloc(spots * soft * sizeof *shares) : NULL;
    enum tier_status st = TIER_OK;

    if (!x || !logits || !mask || (soft && !shares)) {
        st = tier_fail(e->err, TIER_ENOMEM, "no memory for an image of %zu spots", spots);
        goto out;
    }
    TIER_TRY_OUT(spoke_slide_new(e->net, spoke_data_patch(e->data), &shape, &slide, e->err));
    for (size_t r = 0; r < rows; r++) {
        const int32_t row = (int32_t)r;
        TIER_TRY_OUT(spoke_data_read(e->data, e->part, &row, 1, x, mask, e->err));
        TIER_TRY_OUT(spoke_slide_row(slide, x, logits, e->err));
        if (soft)
            spoke_objective_shares(e->objective, mask, spots, shares);
        for (size_t i = 0; soft && i < spots; i++)
            mask[i] = spoke_votes_majority(mask[i], soft);
        spoke_score_row(e->sums, e->objective, logits, soft ? (void *)shares : mask, mask, spots,
                        e->outputs);
    }
out:
    spoke_slide_free(slide);
    free(x);
    free(logits);
    free(mask);
    free(shares);
    return st;
}

void spoke_evaluate_none(struct spoke_net *net, const struct spoke_data *data,
                         struct spoke_sums *sums_out) {
    const struct spoke_objective *objective = spoke_net_objective(net);
    bool masks = spoke_data_target(data) == SPOKE_TARGET_MASK;

    memset(sums_out, 0, sizeof *sums_out);
    sums_out->of = objective->loss;
    sums_out->masks = masks;
    sums_out->tells_spots = masks || objective->has_ignore;
    sums_out->classes = masks ? spoke_net_outputs(net) : 0;
}

enum tier_status spoke_evaluate(struct spoke_net *net, const struct spoke_data *data,
                                enum spoke_part part, struct spoke_sums *sums_out,
                                struct tier_err *err) {
    size_t rows = spoke_data_rows(data, part);
    enum tier_status st = TIER_OK;

    TIER_TRY(spoke_eval_fits(net, data, err));
    struct spoke_sums *sums = calloc(1, sizeof *sums);
    if (!sums)
        return tier_fail(err, TIER_ENOMEM, "no memory for evaluation");
    struct evaluation e = {.net = net,
                           .objective = spoke_net_objective(net),
                           .dev = spoke_net_device(net),
                           .features = spoke_data_features(data),
                           .outputs = spoke_net_outputs(net),
                           .spots = spoke_net_spots(net),
                           .batch = spoke_net_batch_max(net),
                           .sums = sums,
                           .data = data,
                           .part = part,
                           .err = err};
    e.words = spoke_objective_words(e.objective, e.spots);
    if (e.batch > rows)
        e.batch = rows;
    spoke_evaluate_none(net, data, sums);
    if (rows > 0)
        TIER_TRY_OUT(spoke_data_patch(data) ? score_slides(&e, rows) : score_all(&e, rows));
    *sums_out = *sums;
out:
    kern_buf_free(e.x);
    free(e.logits);
    free(e.targets);
    free(e.labels);
    free(e.which);
    free(e.hazards);
    free(e.times);
    free(e.x_read);
    free(e.labels_read);
    free(sums);
    return st;
}

enum tier_status spoke_sums_add(const struct spoke_sums *s, struct tier_metrics *metrics,
                                struct tier_err *err) {
    bool bce = s->of == SPOKE_LOSS_BCE, cox = s->of == SPOKE_LOSS_COX;
    bool errors = s->of == SPOKE_LOSS_MSE || s->of == SPOKE_LOSS_L1;
    const struct {
        const char *name;
        const int64_t *values;
        size_t bins; /* 0: this objective has none */
    } all[] = {
        {TIER_SCORE_COUNT, &s->count, 1},
        {TIER_SCORE_LOSS, &s->loss, 1},
        {TIER_SCORE_CORRECT, &s->correct, !errors && !cox},
        {TIER_SCORE_HIST_POS, s->hist_pos, bce ? TIER_SCORE_BINS : 0},
        {TIER_SCORE_HIST_NEG, s->hist_neg, bce ? TIER_SCORE_BINS : 0},
        {TIER_SCORE_SPOTS, &s->spots, s->tells_spots},
        {TIER_SCORE_OVERLAP, s->overlap, s->classes},
        {TIER_SCORE_SIZES, s->sizes, s->classes},
        {TIER_SCORE_CASE_DICE, s->case_dice, s->classes},
        {TIER_SCORE_CASES, s->cases, s->classes},
        {TIER_SCORE_SQUARED, &s->squared, errors},
        {TIER_SCORE_ABSOLUTE, &s->absolute, errors},
        {TIER_SCORE_EVENTS, &s->events, cox},
        {TIER_SCORE_COMPARABLE, &s->comparable, cox},
        {TIER_SCORE_CONCORDANT, &s->concordant, cox},
    };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].bins)
            TIER_TRY(tier_metrics_add(metrics, all[i].name, all[i].bins, all[i].values, err));
    return TIER_OK;
}
