/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a recipe may say, and the learning rate that follows from it. A schedule counts in rounds of
 * the whole run: hospitals that take many small steps and those that take few are then at the same
 * rate, and a round that is repeated has the rate it had.
 */
#include "spoke/train.h"

#include <math.h>

static bool positive(float x) {
    return x > 0.0f && isfinite(x);
}

/* At least 0 and finite: 0 is none. */
static bool optional(float x) {
    return x >= 0.0f && isfinite(x);
}

static const char *wrong_schedule(const struct spoke_recipe *r) {
    const struct spoke_schedule *s = &r->schedule;

    if (s->kind != SPOKE_SCHEDULE_CONSTANT && s->kind != SPOKE_SCHEDULE_STEP &&
        s->kind != SPOKE_SCHEDULE_COSINE)
        return "schedule: constant, step or cosine";
    if (s->kind == SPOKE_SCHEDULE_STEP && s->step_size == 0)
        return "schedule.step_size: at least 1 round";
    if (s->kind == SPOKE_SCHEDULE_STEP && !(s->gamma > 0.0f && s->gamma <= 1.0f))
        return "schedule.gamma: above 0 and at most 1";
    if (s->kind == SPOKE_SCHEDULE_COSINE && s->rounds <= s->warmup)
        return "schedule.warmup: fewer rounds than the run has";
    if (s->kind == SPOKE_SCHEDULE_COSINE && !(s->lr_min >= 0.0f && s->lr_min <= r->lr))
        return "schedule.lr_min: at least 0 and at most lr";
    return NULL;
}

static const char *wrong_optimiser(const struct spoke_recipe *r) {
    bool sgd = r->optimiser == SPOKE_OPT_SGD;

    if (!sgd && r->optimiser != SPOKE_OPT_ADAM && r->optimiser != SPOKE_OPT_ADAMW)
        return "optimiser: sgd, adam or adamw";
    if (!positive(r->lr))
        return "lr: a finite number above 0";
    if (!optional(r->weight_decay))
        return "weight_decay: a finite number of at least 0";
    if (sgd && !(r->momentum >= 0.0f && r->momentum < 1.0f))
        return "momentum: at least 0 and below 1";
    if (sgd && r->nesterov && r->momentum == 0.0f)
        return "nesterov: needs a momentum above 0";
    if (!sgd && !(r->beta1 >= 0.0f && r->beta1 < 1.0f && r->beta2 >= 0.0f && r->beta2 < 1.0f))
        return "beta1 and beta2: at least 0 and below 1";
    if (!sgd && !positive(r->eps))
        return "eps: a finite number above 0";
    return NULL;
}

static const char *wrong_in(const struct spoke_recipe *r) {
    const char *wrong = wrong_optimiser(r);

    if (!wrong)
        wrong = wrong_schedule(r);
    if (wrong)
        return wrong;
    if (!optional(r->prox_mu))
        return "prox_mu: a finite number of at least 0";
    if (!optional(r->clip_norm))
        return "clip_norm: a finite number of at least 0";
    if (!optional(r->clip_value))
        return "clip_value: a finite number of at least 0";
    if (r->clip_norm > 0.0f && r->clip_value > 0.0f)
        return "clip_norm and clip_value: at most one of them may be above 0";
    if (!(r->ema >= 0.0f && r->ema < 1.0f))
        return "ema: at least 0 and below 1";
    if (!r->control != !r->own_control)
        return "control: it and own_control go together";
    if (!r->stiffness != !r->centre)
        return "stiffness: it and centre go together";
    if (r->stiffness && (!(r->lambda >= 0.0f) || !isfinite(2.0f * r->lambda)))
        return "lambda: a finite number of at least 0";
    if (!optional(r->sample_clip) || !optional(r->sample_noise))
        return "sample_clip and sample_noise: finite numbers of at least 0";
    if ((r->sample_clip > 0.0f) != (r->noise_key != NULL) ||
        (r->sample_noise > 0.0f && r->sample_clip == 0.0f))
        return "sample_clip: it, sample_noise and noise_key go together";
    if (r->sample_clip > 0.0f && r->epochs > 0)
        return "epochs: with sample_clip there are steps alone";
    if (r->batch == 0 || r->batch > SPOKE_BATCH_MAX)
        return "batch: 1 to 1048576 rows";
    if (r->accumulate > SPOKE_ACCUMULATE_MAX)
        return "accumulate: 1 to 65536 batches";
    if ((r->steps == 0) == (r->epochs == 0))
        return "steps or epochs: exactly one of them must be above 0";
    if (r->steps > SPOKE_STEPS_MAX || r->epochs > SPOKE_EPOCHS_MAX)
        return "steps: at most 2^40; epochs: at most 2^20";
    return NULL;
}

enum tier_status spoke_recipe_check(const struct spoke_recipe *r, struct tier_err *err) {
    const char *wrong = wrong_in(r);

    if (wrong)
        return tier_fail(err, TIER_EPLAN, "the training recipe is wrong in %s", wrong);
    return TIER_OK;
}

float spoke_recipe_lr(const struct spoke_recipe *r, uint64_t step, uint64_t steps) {
    const struct spoke_schedule *s = &r->schedule;
    double lr = (double)r->lr, least = (double)s->lr_min, warmup = (double)s->warmup;
    double span = s->span > 0 ? (double)s->span : 1, t = s->round > 0 ? (double)(s->round - 1) : 0;

    t += (double)step * span / (double)steps;
    if (!s->per_step)
        t = floor(t);
    if (t < warmup)
        return (float)(lr * (t + 1) / (warmup + 1));
    t -= warmup;
    switch (s->kind) {
    case SPOKE_SCHEDULE_STEP:
        return (float)(lr * pow((double)s->gamma, floor(t / (double)s->step_size)));
    case SPOKE_SCHEDULE_COSINE:
        t /= (double)s->rounds - warmup;
        return (float)(t < 1 ? least + (lr - least) * (1 + cos(M_PI * t)) / 2 : least);
    case SPOKE_SCHEDULE_CONSTANT:
        break;
    }
    return r->lr;
}
