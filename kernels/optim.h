/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scalars of an Adam step that depend on the step alone, computed once on the host in double,
 * so that every backend works from the same floats.
 */
#ifndef CONSILIUM_KERN_OPTIM_H
#define CONSILIUM_KERN_OPTIM_H

#include "kernels/kern.h"

#include <math.h>

struct kern_adam_terms {
    float scale_m, scale_v; /* 1 / (1 - beta^step), Kingma & Ba's bias corrections */
    float keep;             /* what a decoupled decay leaves of a weight; 1 where there is none */
};

static inline struct kern_adam_terms kern_adam_terms_of(const struct kern_adam *opt) {
    struct kern_adam_terms t;
    t.scale_m = (float)(1.0 / (1.0 - pow((double)opt->beta1, (double)opt->step)));
    t.scale_v = (float)(1.0 / (1.0 - pow((double)opt->beta2, (double)opt->step)));
    t.keep = opt->decoupled ? (float)(1.0 - (double)opt->lr * (double)opt->weight_decay) : 1.0f;
    return t;
}

#endif
