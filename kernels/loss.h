/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Losses of training with options, each with its gradient in one call: binary cross-entropy with a
 * weight of the positives, cross-entropy and soft Dice with class weights and an ignored class,
 * squared and absolute error, and Cox's partial likelihood. kern.h has the two without options.
 *
 * Threads and ownership: those of kern.h. Errors: KERN_EARG with a sentence for a description or an
 * array that does not fit; KERN_ENOMEM, KERN_EDEVICE.
 */
#ifndef CONSILIUM_KERN_LOSS_H
#define CONSILIUM_KERN_LOSS_H

#include "kernels/kern.h"

#define KERN_LOSS_CLASSES_MAX 1024u
#define KERN_LOSS_COX_ROWS_MAX 16384u /* every pair of a batch is looked at */

enum kern_loss_kind {
    /*
     * z, target (0..1) float[rows]: mean of -(pos_weight t log s + (1 - t) log(1 - s)), s =
     * sigmoid(z). As PyTorch's BCEWithLogitsLoss(pos_weight).
     */
    KERN_LOSS_BCE,
    /*
     * z float[rows x spots x classes], target int32[rows x spots]: ce * CE + dice * Dice, of p =
     * softmax(z) over the classes. A spot whose target is `ignore`, or no class, counts nothing
     * anywhere.
     *
     * CE = sum of -w[t] log p[t] over sum of w[t], w the class weights, 1 without them, as
     * PyTorch's CrossEntropyLoss(weight, ignore_index); 0 where the sum of weights is.
     *
     * Dice = mean over sets and classes of 1 - (2 I + smooth_nr) / (P + T + smooth_dr), with I the
     * sum of p over the class's own spots, P the sum of p over all and T the number of its spots,
     * as MONAI's DiceLoss(softmax, to_onehot_y) of a set: each row, or with `batch` all rows
     * together. Without `background` class 0 is left out of the mean.
     *
     * With `soft` the target is float[rows x spots x classes], a share y of each class at every
     * spot, at least 0, all of a spot 1 together, or all 0: then the spot counts nothing. Nothing
     * is ignored by number. CE = sum of -w[c] y[c] log p[c] over sum of w[c] y[c]; in Dice I is the
     * sum of y p and T that of y (MONAI's DiceLoss without to_onehot_y). Where one share is 1, as a
     * label.
     */
    KERN_LOSS_CLASSES,
    /* z, target float[rows]: mean of (z - t)^2, mean of |z - t| (whose gradient at 0 is 0). */
    KERN_LOSS_MSE,
    KERN_LOSS_L1,
    /*
     * z float[rows], log hazards; target float[rows x 2], time and event (above 0: it happened;
     * else censored then). Mean over events i of log(sum over j with time_j >= time_i of exp(z_j))
     * - z_i: the negative log partial likelihood with Breslow's ties, whose risk sets lie within
     * the call (Cox 1972, Breslow 1974). 0 without events.
     */
    KERN_LOSS_COX,
};

struct kern_loss_spec {
    enum kern_loss_kind kind;
    size_t rows;
    /* CLASSES alone: */
    size_t spots, classes; /* at least 1; 2 to KERN_LOSS_CLASSES_MAX */
    int32_t ignore;        /* negative: none */
    float ce, dice;        /* >= 0, finite, one of them above 0 */
    float smooth_nr;       /* >= 0, finite */
    float smooth_dr;       /* > 0, finite */
    bool batch, background;
    bool soft; /* the target is shares of classes */
    /* BCE alone: */
    float pos_weight; /* > 0, finite */
};

/*
 * loss[0] += the loss, dz (as z) = its gradient. `weight` is float[classes], >= 0 and finite
 * (checked where uploaded, not here), for CLASSES; without a buffer there are none. dz overlaps
 * nothing. Sums have an order that follows from the sizes alone.
 */
enum kern_status kern_loss(struct kern_vec loss, struct kern_vec dz, struct kern_vec z,
                           struct kern_vec target, struct kern_vec weight,
                           const struct kern_loss_spec *spec);

#endif
