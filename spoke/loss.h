/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What training minimises: a loss of kernels/loss.h with its options, what of the data it is
 * computed against, and a row's loss in double for evaluation.
 *
 * A batch is what a loss sees: class weights, an ignored class, Dice over a batch and Cox's risk
 * sets are of the rows of one step on one device. Over several devices each takes its slice of the
 * batch as a batch of its own, weighted by its rows, as data parallel training has it elsewhere.
 *
 * Threads and ownership: plain values and pure functions.
 */
#ifndef CONSILIUM_SPOKE_LOSS_H
#define CONSILIUM_SPOKE_LOSS_H

#include "kernels/loss.h"
#include "spoke/data.h"
#include "tier/plan.h"

enum spoke_loss {
    SPOKE_LOSS_BCE,  /* binary cross-entropy: one output, classes 0 and 1 */
    SPOKE_LOSS_CE,   /* cross-entropy: one output a class, at every spot */
    SPOKE_LOSS_DICE, /* soft Dice of masks: one output a class at every spot */
    SPOKE_LOSS_DICE_CE,
    SPOKE_LOSS_MSE, /* squared, absolute error of a value: one output */
    SPOKE_LOSS_L1,
    SPOKE_LOSS_COX, /* Cox's partial likelihood of survival: one output, the log hazard */
};

struct spoke_objective {
    enum spoke_loss loss;
    float pos_weight;                       /* BCE */
    bool has_ignore;                        /* a class counts nothing: */
    int32_t ignore;                         /* ... by number; classes alone */
    size_t weights_count;                   /* 0, or as many as there are outputs */
    float class_weight[TIER_KEYS_LIST_MAX]; /* CE and DICE_CE */
    float smooth_nr, smooth_dr, dice, ce;   /* dice, ce: their weights in DICE_CE */
    bool batch, background;                 /* Dice over a batch, with class 0 */
    size_t soft; /* annotators: soft: the data's classes, of which a target has shares; else 0 */
};

/* The loss without options: PyTorch's defaults, and MONAI's of Dice. */
struct spoke_objective spoke_objective_plain(enum spoke_loss loss);
/* What the plan says; and that, of these data, whose targets may be shares of classes. */
struct spoke_objective spoke_objective_of(const struct tier_plan *plan);
struct spoke_objective spoke_objective_for(const struct tier_plan *plan,
                                           const struct spoke_data *data);

/* Whether a row has an output for each class, rather than one. */
bool spoke_objective_by_class(const struct spoke_objective *o);
/* Whether the kernels of kern.h compute it, which know no options. */
bool spoke_objective_is_plain(const struct spoke_objective *o);
/* The kernel's description for so many rows of `spots` spots with `outputs` outputs each. */
struct kern_loss_spec spoke_objective_spec(const struct spoke_objective *o, size_t rows,
                                           size_t spots, size_t outputs);
/* "dice_ce": as a plan has it. */
const char *spoke_objective_text(const struct spoke_objective *o);

/*
 * TIER_EDATA, saying what would be right, unless the data's target is what the loss needs, for a
 * model of so many outputs at so many spots of a row.
 */
enum tier_status spoke_objective_fits(const struct spoke_objective *o,
                                      const struct spoke_data *data, size_t spots, size_t outputs,
                                      struct tier_err *err);

/* Four-byte words of a row's target on the device: a label for each spot, or a share for each class
 * of it. */
size_t spoke_objective_words(const struct spoke_objective *o, size_t spots);
/*
 * The targets of rows which[n] of the part as the kernel takes them: float or int32[n x words].
 * `labels` are these rows' as they were read (spoke_data_read, or the feed's), or NULL to take
 * those held.
 */
void spoke_objective_targets(const struct spoke_objective *o, const struct spoke_data *data,
                             enum spoke_part part, const int32_t *which, size_t n,
                             const int32_t *labels, void *out);

/* Votes of n spots to shares as the kernel takes them, float[n x soft], or [n] of bce: of the
 * second class. Of an objective with soft alone. */
void spoke_objective_shares(const struct spoke_objective *o, const int32_t *votes, size_t n,
                            float *out);

/*
 * The loss of one row by itself, in double: z float[spots x outputs], target as above. Of Cox a row
 * has none: 0. With class weights CE is the weighted mean of the row's spots.
 */
double spoke_objective_row(const struct spoke_objective *o, const float *z, const void *target,
                           size_t spots, size_t outputs);

#endif
