/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows go to the device in pieces; within a piece nothing but the places of its rows is said, and a
 * piece's sum comes back once: few enough terms for a float sum, few enough downloads to wait for.
 */
#include "spoke/fisher.h"

#include "spoke/eval.h"
#include "spoke/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_ROWS 256

struct fisher {
    struct spoke_net *net;
    struct kern_device *dev;
    const struct spoke_data *data;
    size_t n, features, words;                /* words: of a row's target */
    int32_t *order;                           /* of all training rows */
    float *rows;                              /* [PIECE_ROWS x features], on their way */
    int32_t *labels;                          /* [PIECE_ROWS x words], as they are read */
    int32_t *targets;                         /* [PIECE_ROWS x words], as the loss takes them */
    double *sum;                              /* [n] */
    float *part;                              /* [n]: a piece's */
    struct kern_buf *x, *target, *loss, *acc; /* on the device; acc is part there */
    struct tier_err *err;
};

#define KERN_TRY(f, what, call)                                                                    \
    do {                                                                                           \
        enum kern_status kern_try_ = (call);                                                       \
        if (kern_try_ != KERN_OK)                                                                  \
            return spoke_net_kern_fail((f)->dev, kern_try_, what, (f)->err);                       \
    } while (0)

static enum tier_status new_buf(struct fisher *f, size_t count, struct kern_buf **out) {
    KERN_TRY(f, "taking memory for Fisher information", kern_buf_new(f->dev, count * 4, out));
    return TIER_OK;
}

static enum tier_status take_memory(struct fisher *f, size_t all) {
    f->order = malloc(all * sizeof *f->order);
    f->rows = malloc(PIECE_ROWS * f->features * sizeof *f->rows);
    f->labels = malloc(PIECE_ROWS * f->words * sizeof *f->labels);
    f->targets = malloc(PIECE_ROWS * f->words * sizeof *f->targets);
    f->sum = calloc(f->n, sizeof *f->sum);
    f->part = malloc(f->n * sizeof *f->part);
    if (!f->order || !f->rows || !f->labels || !f->targets || !f->sum || !f->part)
        return tier_fail(f->err, TIER_ENOMEM, "no memory for the Fisher information of %zu", f->n);
    TIER_TRY(new_buf(f, PIECE_ROWS * f->features, &f->x));
    TIER_TRY(new_buf(f, PIECE_ROWS * f->words, &f->target));
    TIER_TRY(new_buf(f, 1, &f->loss));
    return new_buf(f, f->n, &f->acc);
}

static void release(struct fisher *f) {
    free(f->order);
    free(f->rows);
    free(f->labels);
    free(f->targets);
    free(f->sum);
    free(f->part);
    kern_buf_free(f->x);
    kern_buf_free(f->target);
    kern_buf_free(f->loss);
    kern_buf_free(f->acc);
}

static enum tier_status upload(struct fisher *f, const int32_t *index, size_t rows) {
    TIER_TRY(spoke_data_read(f->data, SPOKE_TRAIN, index, rows, f->rows, f->labels, f->err));
    spoke_objective_targets(spoke_net_objective(f->net), f->data, SPOKE_TRAIN, index, rows,
                            f->labels, f->targets);
    KERN_TRY(f, "an upload", kern_upload(f->x, 0, f->rows, rows * f->features * sizeof(float)));
    KERN_TRY(f, "an upload", kern_upload(f->target, 0, f->targets, rows * f->words * 4));
    return TIER_OK;
}

/* At most PIECE_ROWS rows, one by one. */
static enum tier_status add_piece(struct fisher *f, const int32_t *index, size_t rows) {
    struct kern_vec acc = {f->acc, 0}, g = spoke_net_grads(f->net);

    TIER_TRY(upload(f, index, rows));
    KERN_TRY(f, "clearing squares", kern_zero(f->acc, 0, f->n * sizeof(float)));
    for (size_t i = 0; i < rows; i++) {
        TIER_TRY(spoke_net_backward(f->net, (struct kern_vec){f->x, i * f->features},
                                    (struct kern_vec){f->target, i * f->words}, 1,
                                    (struct kern_vec){f->loss, 0}, f->err));
        KERN_TRY(f, "adding squares", kern_add_square(acc, g, f->n));
    }
    KERN_TRY(f, "a download", kern_download(f->part, f->acc, 0, f->n * sizeof(float)));
    for (size_t k = 0; k < f->n; k++)
        f->sum[k] += (double)f->part[k];
    return TIER_OK;
}

enum tier_status spoke_fisher(struct spoke_net *net, const struct spoke_data *data, uint64_t rows,
                              uint64_t seed, float *out, struct tier_err *err) {
    size_t all = spoke_data_rows(data, SPOKE_TRAIN);
    size_t take = rows == 0 || rows > all ? all : (size_t)rows;
    enum tier_status st = TIER_OK;
    struct fisher f = {.net = net,
                       .dev = spoke_net_device(net),
                       .data = data,
                       .n = spoke_net_elements(net),
                       .features = spoke_net_features(net),
                       .words =
                           spoke_objective_words(spoke_net_objective(net), spoke_net_spots(net)),
                       .err = err};

    if (all == 0)
        return tier_fail(err, TIER_EDATA, "there are no training rows here");
    TIER_TRY(spoke_eval_fits(net, data, err));
    if (spoke_net_objective(net)->loss == SPOKE_LOSS_COX)
        return tier_fail(err, TIER_EPLAN,
                         "Fisher information is of rows one by one, of which cox has no loss");
    TIER_TRY_OUT(take_memory(&f, all));
    spoke_train_shuffle(seed, 0, f.order, all);
    for (size_t at = 0; at < take; at += PIECE_ROWS) {
        size_t piece = take - at < PIECE_ROWS ? take - at : PIECE_ROWS;
        TIER_TRY_OUT(add_piece(&f, f.order + at, piece));
    }
    for (size_t k = 0; k < f.n; k++) {
        out[k] = (float)(f.sum[k] / (double)take);
        if (!isfinite(out[k])) {
            st = tier_fail(err, TIER_EPLAN,
                           "training diverged: the Fisher information of parameter %zu is not "
                           "finite; a lower lr would be right",
                           k);
            goto out;
        }
    }
out:
    release(&f);
    return st;
}
