/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct evaluation {
    struct spoke_net *net;
    struct kern_device *dev;
    size_t features, outputs, batch;
    struct kern_buf *x;
    float *logits; /* [batch x outputs] */
    const struct spoke_data *data;
    enum spoke_part part;
    float *x_read; /* [batch x features], where the rows are not held; else all three NULL */
    int32_t *labels_read, *which;
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
    size_t classes = spoke_net_loss(net) == SPOKE_LOSS_BCE ? 2 : spoke_net_outputs(net);

    if (spoke_data_features(data) != spoke_net_features(net))
        return tier_fail(err, TIER_EDATA, "the schema makes %zu features: the model takes %zu",
                         spoke_data_features(data), spoke_net_features(net));
    if (spoke_data_target(data) != SPOKE_TARGET_CLASS)
        return tier_fail(err, TIER_EDATA,
                         "the schema's target is no class of a row, which is all that is trained "
                         "on here");
    if (spoke_net_spots(net) != 1)
        return tier_fail(err, TIER_EDATA,
                         "the model predicts %zu spots of a row: the table has one target a row",
                         spoke_net_spots(net));
    if (spoke_data_classes(data) != classes)
        return tier_fail(err, TIER_EDATA,
                         "the schema's target has %zu classes: the model takes %zu",
                         spoke_data_classes(data), classes);
    return TIER_OK;
}

/* max(z, 0) - z t + log(1 + exp(-|z|)), which overflows for no z. */
static void score_binary(struct spoke_sums *sums, double z, int32_t label) {
    double loss = (z > 0.0 ? z : 0.0) - z * label + log1p(exp(-fabs(z)));
    double score = z >= 0.0 ? 1.0 / (1.0 + exp(-z)) : exp(z) / (1.0 + exp(z));

    sums->loss += tier_score_loss_fixed(loss);
    sums->correct += (z > 0.0) == (label == 1);
    (label == 1 ? sums->hist_pos : sums->hist_neg)[tier_score_bin(score)]++;
}

static void score_classes(struct spoke_sums *sums, const float *z, size_t classes, int32_t label) {
    size_t best = 0;
    double sum = 0.0;

    for (size_t c = 1; c < classes; c++)
        if (z[c] > z[best])
            best = c;
    for (size_t c = 0; c < classes; c++)
        sum += exp((double)z[c] - (double)z[best]);
    sums->loss += tier_score_loss_fixed(log(sum) + (double)z[best] - (double)z[label]);
    sums->correct += best == (size_t)label;
}

static enum tier_status score_batch(struct evaluation *e, const float *x, const int32_t *labels,
                                    size_t rows) {
    struct kern_vec logits;

    KERN_TRY(e, "an upload", kern_upload(e->x, 0, x, rows * e->features * sizeof *x));
    TIER_TRY(spoke_net_forward(e->net, (struct kern_vec){e->x, 0}, rows, &logits, e->err));
    KERN_TRY(e, "a download",
             kern_download(e->logits, logits.buf, logits.at * sizeof(float),
                           rows * e->outputs * sizeof(float)));
    for (size_t i = 0; i < rows * e->outputs; i++)
        if (!isfinite(e->logits[i]))
            return tier_fail(e->err, TIER_EMODEL,
                             "the model gives an output that is not finite: its training diverged");
    for (size_t r = 0; r < rows; r++) {
        if (spoke_net_loss(e->net) == SPOKE_LOSS_BCE)
            score_binary(e->sums, (double)e->logits[r], labels[r]);
        else
            score_classes(e->sums, e->logits + r * e->outputs, e->outputs, labels[r]);
        e->sums->count++;
    }
    return TIER_OK;
}

/* Rows [at, at + n) of the part, where all are not held. */
static enum tier_status read_batch(struct evaluation *e, size_t at, size_t n) {
    for (size_t i = 0; i < n; i++)
        e->which[i] = (int32_t)(at + i);
    return spoke_data_read(e->data, e->part, e->which, n, e->x_read, e->labels_read, e->err);
}

static enum tier_status score_all(struct evaluation *e, size_t rows) {
    const float *x = spoke_data_x(e->data, e->part);
    const int32_t *labels = spoke_data_labels(e->data, e->part);

    KERN_TRY(e, "taking memory for evaluation",
             kern_buf_new(e->dev, e->batch * e->features * sizeof(float), &e->x));
    e->logits = malloc(e->batch * e->outputs * sizeof *e->logits);
    if (!x) {
        e->x_read = malloc(e->batch * e->features * sizeof *e->x_read);
        e->labels_read = malloc(e->batch * sizeof *e->labels_read);
        e->which = malloc(e->batch * sizeof *e->which);
    }
    if (!e->logits || (!x && (!e->x_read || !e->labels_read || !e->which)))
        return tier_fail(e->err, TIER_ENOMEM, "no memory for a batch of %zu rows", e->batch);
    for (size_t at = 0; at < rows; at += e->batch) {
        size_t n = rows - at < e->batch ? rows - at : e->batch;
        if (!x)
            TIER_TRY(read_batch(e, at, n));
        TIER_TRY(score_batch(e, x ? x + at * e->features : e->x_read,
                             x ? labels + at : e->labels_read, n));
    }
    return TIER_OK;
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
    sums->has_hist = spoke_net_loss(net) == SPOKE_LOSS_BCE;
    struct evaluation e = {.net = net,
                           .dev = spoke_net_device(net),
                           .features = spoke_data_features(data),
                           .outputs = spoke_net_outputs(net),
                           .batch = spoke_net_batch_max(net),
                           .sums = sums,
                           .data = data,
                           .part = part,
                           .err = err};
    if (e.batch > rows)
        e.batch = rows;
    if (rows > 0)
        TIER_TRY_OUT(score_all(&e, rows));
    *sums_out = *sums;
out:
    kern_buf_free(e.x);
    free(e.logits);
    free(e.x_read);
    free(e.labels_read);
    free(e.which);
    free(sums);
    return st;
}

enum tier_status spoke_sums_add(const struct spoke_sums *sums, struct tier_metrics *metrics,
                                struct tier_err *err) {
    TIER_TRY(tier_metrics_add(metrics, TIER_SCORE_COUNT, 1, &sums->count, err));
    TIER_TRY(tier_metrics_add(metrics, TIER_SCORE_CORRECT, 1, &sums->correct, err));
    TIER_TRY(tier_metrics_add(metrics, TIER_SCORE_LOSS, 1, &sums->loss, err));
    if (!sums->has_hist)
        return TIER_OK;
    TIER_TRY(tier_metrics_add(metrics, TIER_SCORE_HIST_POS, TIER_SCORE_BINS, sums->hist_pos, err));
    return tier_metrics_add(metrics, TIER_SCORE_HIST_NEG, TIER_SCORE_BINS, sums->hist_neg, err);
}
