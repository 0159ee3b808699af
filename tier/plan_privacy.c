/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan's `privacy`: whatever would leave a hospital beside its noised gradients, or make one
 * row's gradient depend on another row, is refused here by name. What follows from the gradients
 * alone, momentum, a pull towards the round's model, a codec, costs nothing more.
 */
#include "tier/plan_keys.h"
#include "tier/privacy.h"

#include <inttypes.h>

#define complain tier_plan_complain

static void check_numbers(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    uint64_t rounds = p->rounds ? p->rounds : 1;

    if (!(p->patient.noise >= TIER_PRIVACY_NOISE_MIN))
        complain(c, "privacy.patient.noise", "must be at least %g with privacy.patient.clip",
                 TIER_PRIVACY_NOISE_MIN);
    if (!(p->patient.delta >= TIER_PRIVACY_DELTA_MIN && p->patient.delta < 1))
        complain(c, "privacy.patient.delta", "must be %g to below 1 with privacy.patient.clip",
                 TIER_PRIVACY_DELTA_MIN);
    if (!(p->patient.epsilon_max > 0))
        complain(c, "privacy.patient.epsilon_max", "must be above 0 with privacy.patient.clip");
    if (p->steps > TIER_PRIVACY_COUNT_MAX / rounds)
        complain(c, "local.steps", "times rounds must be at most %" PRIu64 " with privacy.patient",
                 TIER_PRIVACY_COUNT_MAX);
}

/* What leaves a hospital besides. */
static void check_outlets(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->weights == TIER_PLAN_SAMPLES)
        complain(c, "weights",
                 "must be uniform with privacy.patient: the number of its rows would leave a "
                 "hospital as it is");
    if (p->evaluate_every > 0)
        complain(c, "evaluate.every",
                 "must be 0 with privacy.patient: counts over test patients would leave a hospital "
                 "as they are; consilium-spoke predict tells each what the model is worth there");
    if (!p->saturate)
        complain(c, "exact.saturate",
                 "must be true with privacy.patient: that an update was refused would tell of what "
                 "it holds");
    if (p->curvature.lambda > 0)
        complain(c, "local.curvature.lambda",
                 "must be 0 with privacy.patient: Fisher information is of the rows, without "
                 "noise");
}

/* What a row's gradient, or how often it is taken, would depend on besides. */
static void check_rows_apart(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->epochs > 0)
        complain(c, "local.epochs",
                 "must be local.steps with privacy.patient: each step is a sample of its own, and "
                 "what the plan costs follows from how many there are");
    if (p->loss == TIER_PLAN_COX)
        complain(c, "local.loss",
                 "must not be cox with privacy.patient: a patient alone has no loss there");
    if (p->precision != TIER_PLAN_PRECISION_F32)
        complain(c, "local.precision",
                 "must be f32 with privacy.patient: products of fewer bits round a row's gradient "
                 "beyond its clip, and a step that f16 leaves out would tell of its rows");
    if (p->loss_options.dice.batch)
        complain(c, "local.dice.batch",
                 "must be false with privacy.patient: a row's gradient would depend on the rows "
                 "beside it");
}

void tier_plan_check_privacy(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->patient.clip > 0) {
        if (p->patient.clip < 1e-20)
            complain(c, "privacy.patient.clip", "must be 0, or at least 1e-20");
        check_numbers(c);
        check_outlets(c);
        check_rows_apart(c);
        return;
    }
    if (p->patient.noise > 0)
        complain(c, "privacy.patient.noise",
                 "needs privacy.patient.clip, which it is a multiple "
                 "of");
    if (p->patient.delta > 0)
        complain(c, "privacy.patient.delta", "needs privacy.patient.clip and noise");
    if (p->patient.epsilon_max > 0)
        complain(c, "privacy.patient.epsilon_max", "needs privacy.patient.clip and noise");
}
