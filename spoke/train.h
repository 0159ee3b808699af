/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local training: minibatches of the training rows in a seeded shuffle, one or several for an
 * optimiser step.
 * An epoch is a permutation of all training rows; steps walk through epoch after epoch, the last
 * batch of an epoch holding what is left. Every number drawn is a function of (seed, epoch,
 * position), so the same binary, device model, number of devices and thread count give the same
 * parameters, bit for bit. Optimiser state starts at zero at each call.
 *
 * With sample_clip (DP-SGD) there are no epochs: each step draws a Poisson sample of its own, and
 * what is drawn is a function of (key, step).
 *
 * Several nets, one on each device of a group, train as one: replica i takes the i-th slice of
 * every batch, cut as evenly as may be; their gradients, weighted by their rows, are summed over
 * the group in its fixed order, and each makes the same step. The mean gradient is one device's but
 * for rounding.
 *
 * Threads: the net's. Ownership: borrows all.
 */
#ifndef CONSILIUM_SPOKE_TRAIN_H
#define CONSILIUM_SPOKE_TRAIN_H

#include "kernels/group.h"
#include "spoke/augment.h"
#include "spoke/data.h"
#include "spoke/net.h"
#include "tier/noise.h"

#define SPOKE_STEPS_MAX (UINT64_C(1) << 40)
#define SPOKE_EPOCHS_MAX (UINT64_C(1) << 20)

#define SPOKE_ACCUMULATE_MAX 65536u

enum spoke_optimiser { SPOKE_OPT_SGD, SPOKE_OPT_ADAM, SPOKE_OPT_ADAMW };
enum spoke_schedule_kind { SPOKE_SCHEDULE_CONSTANT, SPOKE_SCHEDULE_STEP, SPOKE_SCHEDULE_COSINE };

/*
 * The learning rate over the run. Time is counted in rounds of the whole run, from 0: round r is at
 * r - 1, its step i of K (from 0) at r - 1 + i / K; a schedule per round takes the whole part of it
 * (one rate for a round), one per step all of it. In the first `warmup` rounds the rate is lr (t +
 * 1) / (warmup + 1); with t counted from there on it is then
 *
 *   constant   lr
 *   step       lr gamma^floor(t / step_size)
 *   cosine     lr_min + (lr - lr_min) (1 + cos(pi t / (rounds - warmup))) / 2
 *
 * which are PyTorch's LinearLR with start_factor 1 / (warmup + 1), StepLR and CosineAnnealingLR.
 */
struct spoke_schedule {
    enum spoke_schedule_kind kind;
    bool per_step;
    uint64_t warmup;    /* rounds */
    uint64_t step_size; /* STEP: rounds, at least 1 */
    float gamma;        /* STEP: above 0, at most 1 */
    float lr_min;       /* COSINE: 0 to lr */
    uint64_t rounds;    /* COSINE: of the run, above warmup */
    uint64_t round;     /* which one this training is, from 1; 0 is 1 */
    uint64_t span;      /* rounds that this training takes the place of; 0 is 1 */
};

struct spoke_recipe {
    enum spoke_optimiser optimiser;
    float lr; /* finite, > 0 */
    struct spoke_schedule schedule;
    float momentum;          /* SGD; 0 <= momentum < 1 */
    bool nesterov;           /* SGD; needs momentum */
    float beta1, beta2, eps; /* Adam, AdamW; 0 <= beta < 1, eps > 0 */
    float weight_decay; /* >= 0; added to the gradient, times the weight; AdamW's apart from it */
    /* The gradient, with all that is added to it but weight_decay, is cut: at clip_norm by the norm
     * of all of it (Pascanu et al. 2013), or each element at clip_value. 0: it is not; at most one
     * of them is above 0. */
    float clip_norm, clip_value;
    float ema; /* 0 <= ema < 1; above 0 the net ends with the mean of the parameters after each
                  step, weighted by ema^(steps that follow it), states as they are; 0: with the last
                  parameters */
    struct spoke_augment augment; /* of training rows, by the seed, the epoch and the place in it */
    float prox_mu; /* >= 0; FedProx's pull towards the parameters at the start (Li et al.
                      2020): mu * (w - w_start) is added to the gradient; 0: none */
    /* SCAFFOLD (Karimireddy et al. 2020): control - own_control, float[the net's elements] each, is
     * added to the gradient; both NULL: none. Borrowed for a training. */
    const float *control, *own_control;
    /* FedCurv (Shoham et al. 2019), EWC (Kirkpatrick et al. 2017): 2 lambda stiffness (w - centre),
     * element by element, is added to the gradient; float[the net's elements] each, both NULL:
     * none. Borrowed for a training. */
    const float *stiffness, *centre;
    float lambda; /* >= 0 */
    /*
     * DP-SGD (Abadi et al. 2016; tier/budget.h says what it costs): sample_clip > 0 cuts the
     * gradient of each row to that norm, and the noise on a step's sum of them has the deviation
     * sample_noise * sample_clip. A step takes each training row by itself with chance batch *
     * accumulate / rows, and divides by as many rows as that makes on average; `steps` says how
     * many. The key decides which rows and what noise: who trains again by it gets the same. It is
     * borrowed for a training. 0, 0, NULL: none.
     */
    float sample_clip, sample_noise;
    const struct tier_noise_key *noise_key;
    enum kern_products products; /* what the devices may round while they train, and only then */
    uint32_t batch;              /* rows at once, <= the net's batch_max */
    uint32_t accumulate;    /* batches a step, whose gradient is the mean over all their rows; 0 is
                               1. The last step of an epoch has what rows are left */
    uint64_t steps, epochs; /* exactly one is not 0 */
};

struct spoke_train_stats {
    uint64_t steps;   /* that were made */
    uint64_t skipped; /* with KERN_F16: others, whose gradient was not finite (spoke/scaler.h) */
    uint64_t rows;    /* seen, with repetitions */
    double loss_mean; /* over all steps, each before its update */
};

/* TIER_EPLAN: the first value of a recipe outside its range, by name. */
enum tier_status spoke_recipe_check(const struct spoke_recipe *recipe, struct tier_err *err);

/* The learning rate of step `step` of `steps`, from 0: a function of the recipe and these alone. */
float spoke_recipe_lr(const struct spoke_recipe *recipe, uint64_t step, uint64_t steps);

/* The stream of random numbers of one node in one round of one run: SHA-256 of the three. */
uint64_t spoke_train_seed(const char *run, uint64_t round, const char *node);

/*
 * Trains the net in place. TIER_EDATA where there are no training rows or they do not fit the net,
 * TIER_EPLAN for the recipe, or where the loss is no longer finite (the learning rate is too high)
 * or, with KERN_F16, no step's gradient was; TIER_EPLAN too for KERN_BF16 on a GPU that has none.
 */
enum tier_status spoke_train(struct spoke_net *net, const struct spoke_data *data,
                             const struct spoke_recipe *recipe, uint64_t seed,
                             struct spoke_train_stats *stats_out, struct tier_err *err);

/*
 * The same on nets[count] replicas, whose devices are the group's, in its order; `group` may be
 * NULL for one. They start from the first one's parameters. TIER_EDEVICE where a replica's
 * parameters differ in the end: a device is broken then, and none of them is to be believed.
 *
 * A group may have ranks in other processes, which call this with the same recipe, seed and rows:
 * the batch is cut over all ranks, and all start from rank 0's parameters. Here replicas of this
 * process are compared alone.
 */
enum tier_status spoke_train_replicas(struct spoke_net *const *nets, size_t count,
                                      struct kern_group *group, const struct spoke_data *data,
                                      const struct spoke_recipe *recipe, uint64_t seed,
                                      struct spoke_train_stats *stats_out, struct tier_err *err);

/*
 * Writes epoch `epoch`'s permutation of 0..n-1 into index (Fisher and Yates; n < 2^31).
 */
void spoke_train_shuffle(uint64_t seed, uint64_t epoch, int32_t *index, size_t n);

#endif
