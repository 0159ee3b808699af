/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must hold between a plan's loss, its options and its other keys.
 */
#include "tier/plan_keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define complain tier_plan_complain
#define COX_BATCH_MAX 16384 /* rows: every pair of a batch is looked at */

/* The losses that a set of bits of them names. */
#define OF(loss) (1u << TIER_PLAN_##loss)
#define BY_CLASS (OF(CROSS_ENTROPY) | OF(DICE) | OF(DICE_CE))
#define WITH_DICE (OF(DICE) | OF(DICE_CE))

/* False for what is no decimal number of at least 0 in a float's range. */
static bool weight_ok(const char *text, double *out) {
    char *end;

    if (strspn(text, "0123456789.eE+-") != strlen(text))
        return false;
    *out = strtod(text, &end);
    return *end == '\0' && end != text && *out >= 0 && *out <= 1e6;
}

static void check_weights(const struct tier_plan_checker *c) {
    const struct tier_keys_list *list = &c->plan->loss_options.class_weights;
    double sum = 0, value = 0;

    for (size_t i = 0; i < list->count; i++) {
        if (!weight_ok(tier_keys_list_item(list, i), &value)) {
            complain(c, "local.class_weights", "must be numbers from 0 to 1e6, not '%.40s'",
                     tier_keys_list_item(list, i));
            return;
        }
        sum += value;
    }
    if (list->count == 1 || (list->count && !(sum > 0)))
        complain(c, "local.class_weights",
                 "must be a number for each class, at least two, and not all of them 0");
}

/* An option that its loss does not have. */
static void belongs(const struct tier_plan_checker *c, const char *path, bool given,
                    unsigned losses, const char *owners) {
    if (given && !(losses >> c->plan->loss & 1))
        complain(c, path, "is for local.loss: %s", owners);
}

static void check_dice(const struct tier_plan_checker *c) {
    const struct tier_plan_loss_options *o = &c->plan->loss_options;
    const char *owners = "dice or dice_ce";

    belongs(c, "local.dice.smooth_nr", o->dice.smooth_nr != 1e-5, WITH_DICE, owners);
    belongs(c, "local.dice.smooth_dr", o->dice.smooth_dr != 1e-5, WITH_DICE, owners);
    belongs(c, "local.dice.batch", o->dice.batch, WITH_DICE, owners);
    belongs(c, "local.dice.include_background", !o->dice.include_background, WITH_DICE, owners);
    belongs(c, "local.dice.lambda_dice", o->dice.lambda_dice != 1, OF(DICE_CE), "dice_ce");
    belongs(c, "local.dice.lambda_ce", o->dice.lambda_ce != 1, OF(DICE_CE), "dice_ce");
    if (o->dice.lambda_dice + o->dice.lambda_ce == 0)
        complain(c, "local.dice.lambda_dice", "and lambda_ce are both 0: nothing would be learnt");
}

void tier_plan_check_loss(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    const struct tier_plan_loss_options *o = &p->loss_options;

    check_weights(c);
    if (p->loss < 0)
        return;
    belongs(c, "local.class_weights", o->class_weights.count > 0, OF(CROSS_ENTROPY) | OF(DICE_CE),
            "cross_entropy or dice_ce");
    belongs(c, "local.ignore_class", o->ignore_class != TIER_PLAN_IGNORE_NONE, BY_CLASS,
            "cross_entropy, dice or dice_ce");
    belongs(c, "local.pos_weight", o->pos_weight != 1, OF(BCE), "bce");
    check_dice(c);
    if (p->loss == TIER_PLAN_COX && (p->batch < 2 || p->batch > COX_BATCH_MAX))
        complain(c, "local.batch",
                 "must be 2 to %d for cox: patients are compared with those of their batch",
                 COX_BATCH_MAX);
    if (p->loss == TIER_PLAN_COX && p->curvature.lambda > 0)
        complain(c, "local.curvature.lambda",
                 "excludes cox: Fisher information is of rows one by one, and a patient alone has "
                 "nobody to be compared with");
}

void tier_plan_check_stop_metric(const struct tier_plan_checker *c) {
    static const struct {
        int metric;
        unsigned losses;
        const char *why;
    } needs[] = {
        {TIER_PLAN_ACCURACY, OF(BCE) | BY_CLASS, "accuracy is of classes: it needs a loss of them"},
        {TIER_PLAN_AUC, OF(BCE), "auc is defined for two classes: it needs local.loss: bce"},
        {TIER_PLAN_METRIC_DICE, BY_CLASS,
         "dice is of segmentations: it needs local.loss: dice, dice_ce or cross_entropy"},
        {TIER_PLAN_METRIC_MSE, OF(MSE) | OF(L1),
         "mse is of values: it needs local.loss: mse or l1"},
        {TIER_PLAN_METRIC_MAE, OF(MSE) | OF(L1),
         "mae is of values: it needs local.loss: mse or l1"},
        {TIER_PLAN_METRIC_CONCORDANCE, OF(COX), "concordance needs local.loss: cox"},
    };

    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++)
        if (c->plan->stop.metric == needs[i].metric && c->plan->loss >= 0 &&
            !(needs[i].losses >> c->plan->loss & 1))
            complain(c, "stop.metric", "%s", needs[i].why);
}

bool tier_plan_metric_falls(int metric) {
    return metric == TIER_PLAN_LOSS || metric == TIER_PLAN_METRIC_MSE ||
           metric == TIER_PLAN_METRIC_MAE;
}
