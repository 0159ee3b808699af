/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dynamic loss scaling, for training whose products take binary16 (Micikevicius et al. 2018). What
 * goes back from the loss is multiplied by a scale, so that small gradients are no zeros in
 * binary16, and what has come of it is divided by the same. The scale is a power of two, so that
 * both are exact. A step whose gradient is not finite is left out, and halves the scale;
 * SPOKE_SCALE_STEPS steps in a row that are made double it. What it does follows from the gradients
 * alone: replicas that have the same ones do the same.
 *
 * Threads: the owner's. Ownership: none.
 */
#ifndef CONSILIUM_SPOKE_SCALER_H
#define CONSILIUM_SPOKE_SCALER_H

#include <stdbool.h>
#include <stdint.h>

#define SPOKE_SCALE_START 65536.0f
#define SPOKE_SCALE_LEAST 1.0f
#define SPOKE_SCALE_MOST 16777216.0f
#define SPOKE_SCALE_STEPS 2000u

struct spoke_scaler {
    float scale;
    uint32_t row;     /* steps made since the scale last changed */
    uint64_t skipped; /* steps left out */
};

struct spoke_scaler spoke_scaler_start(void);
/* Of one step: true where it is to be made, and else counts it. Sets the scale of the next. */
bool spoke_scaler_note(struct spoke_scaler *s, bool finite);

#endif
