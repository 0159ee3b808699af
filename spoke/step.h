/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One replica's optimiser: what it remembers from step to step of one training, and a step. In this
 * order: the recipe's terms are added to the net's gradients, what they come to is clipped, the
 * optimiser moves the parameters, their average follows.
 *
 * Every replica of a group starts from the same gradients and does the same with them, so that all
 * clip alike without a word.
 *
 * Threads: the net's. Ownership: borrows net and recipe; owns its buffers.
 */
#ifndef CONSILIUM_SPOKE_STEP_H
#define CONSILIUM_SPOKE_STEP_H

#include "spoke/train.h"

struct spoke_stepper {
    struct spoke_net *net;
    const struct spoke_recipe *recipe;
    struct kern_buf *m, *v;
    struct kern_buf *control, *own_control, *stiffness, *centre;
    struct kern_buf *start;   /* the parameters at the start, where prox_mu pulls towards them */
    struct kern_buf *squares; /* [1]: of the gradient's norm, where it is clipped */
    struct kern_buf *mean;    /* of the parameters after each step so far */
};

/* From the net's parameters, which are where the training starts. TIER_ELIMIT, TIER_EDEVICE. */
enum tier_status spoke_stepper_init(struct spoke_stepper *s, struct spoke_net *net,
                                    const struct spoke_recipe *recipe, struct tier_err *err);
void spoke_stepper_release(struct spoke_stepper *s); /* zeroed is fine */

/* Step `step`, counted from 1, from the net's gradients. */
enum tier_status spoke_stepper_step(struct spoke_stepper *s, uint64_t step, float lr,
                                    struct tier_err *err);
/* After the last step: the net gets the average, where the recipe has one. */
enum tier_status spoke_stepper_end(struct spoke_stepper *s, struct tier_err *err);

#endif
