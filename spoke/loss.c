/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/loss.h"
#include "spoke/annotators.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"bce", "cross_entropy", "dice", "dice_ce", "mse", "l1", "cox"};

/* The plan's order is this one: a plan's choice is the loss. */
_Static_assert((int)TIER_PLAN_COX == (int)SPOKE_LOSS_COX &&
                   (int)TIER_PLAN_DICE == (int)SPOKE_LOSS_DICE &&
                   (int)TIER_PLAN_MSE == (int)SPOKE_LOSS_MSE,
               "one order of losses");

struct spoke_objective spoke_objective_plain(enum spoke_loss loss) {
    return (struct spoke_objective){.loss = loss,
                                    .pos_weight = 1,
                                    .smooth_nr = 1e-5f,
                                    .smooth_dr = 1e-5f,
                                    .dice = 1,
                                    .ce = 1,
                                    .background = true};
}

struct spoke_objective spoke_objective_of(const struct tier_plan *plan) {
    const struct tier_plan_loss_options *from = &plan->loss_options;
    struct spoke_objective o = spoke_objective_plain((enum spoke_loss)plan->loss);

    o.pos_weight = (float)from->pos_weight;
    o.has_ignore = from->ignore_class != TIER_PLAN_IGNORE_NONE;
    o.ignore = o.has_ignore ? (int32_t)from->ignore_class : -1;
    o.weights_count = from->class_weights.count;
    for (size_t i = 0; i < o.weights_count; i++)
        o.class_weight[i] = strtof(tier_keys_list_item(&from->class_weights, i), NULL);
    o.smooth_nr = (float)from->dice.smooth_nr;
    o.smooth_dr = (float)from->dice.smooth_dr;
    o.dice = (float)from->dice.lambda_dice;
    o.ce = (float)from->dice.lambda_ce;
    o.batch = from->dice.batch;
    o.background = from->dice.include_background;
    return o;
}

struct spoke_objective spoke_objective_for(const struct tier_plan *plan,
                                           const struct spoke_data *data) {
    struct spoke_objective o = spoke_objective_of(plan);
    o.soft = spoke_data_soft(data) ? spoke_data_classes(data) : 0;
    return o;
}

bool spoke_objective_by_class(const struct spoke_objective *o) {
    return o->loss == SPOKE_LOSS_CE || o->loss == SPOKE_LOSS_DICE || o->loss == SPOKE_LOSS_DICE_CE;
}

bool spoke_objective_is_plain(const struct spoke_objective *o) {
    if (o->loss == SPOKE_LOSS_BCE)
        return o->pos_weight == 1.0f;
    return o->loss == SPOKE_LOSS_CE && !o->has_ignore && o->weights_count == 0 && o->soft == 0;
}

struct kern_loss_spec spoke_objective_spec(const struct spoke_objective *o, size_t rows,
                                           size_t spots, size_t outputs) {
    static const enum kern_loss_kind kinds[] = {
        [SPOKE_LOSS_BCE] = KERN_LOSS_BCE,      [SPOKE_LOSS_CE] = KERN_LOSS_CLASSES,
        [SPOKE_LOSS_DICE] = KERN_LOSS_CLASSES, [SPOKE_LOSS_DICE_CE] = KERN_LOSS_CLASSES,
        [SPOKE_LOSS_MSE] = KERN_LOSS_MSE,      [SPOKE_LOSS_L1] = KERN_LOSS_L1,
        [SPOKE_LOSS_COX] = KERN_LOSS_COX,
    };

    return (struct kern_loss_spec){
        .kind = kinds[o->loss],
        .rows = rows,
        .spots = spots,
        .classes = outputs,
        .ignore = o->has_ignore ? o->ignore : -1,
        .ce = o->loss == SPOKE_LOSS_CE        ? 1
              : o->loss == SPOKE_LOSS_DICE_CE ? o->ce
                                              : 0,
        .dice = o->loss == SPOKE_LOSS_DICE      ? 1
                : o->loss == SPOKE_LOSS_DICE_CE ? o->dice
                                                : 0,
        .smooth_nr = o->smooth_nr,
        .smooth_dr = o->smooth_dr,
        .batch = o->batch,
        .background = o->background,
        .soft = o->soft > 0 && spoke_objective_by_class(o),
        .pos_weight = o->pos_weight,
    };
}

const char *spoke_objective_text(const struct spoke_objective *o) {
    return names[o->loss];
}

/* ---- the data -------------------------------------------------------------------------------- */

/* What the loss wants of the data, and what a schema would say of it. */
static const char *wanted(const struct spoke_objective *o, bool mask, enum spoke_target_kind *out) {
    switch (o->loss) {
    case SPOKE_LOSS_BCE:
        *out = SPOKE_TARGET_CLASS;
        return "a class of each row: a column of type target";
    case SPOKE_LOSS_CE:
        *out = mask ? SPOKE_TARGET_MASK : SPOKE_TARGET_CLASS;
        return mask ? "a mask, for the model predicts spots of a row: a column of type mask"
                    : "a class of each row: a column of type target";
    case SPOKE_LOSS_DICE:
    case SPOKE_LOSS_DICE_CE:
        *out = SPOKE_TARGET_MASK;
        return "a mask: a column of type mask";
    case SPOKE_LOSS_MSE:
    case SPOKE_LOSS_L1:
        *out = SPOKE_TARGET_VALUE;
        return "a value: a column of type target with value: true";
    default:
        *out = SPOKE_TARGET_SURVIVAL;
        return "a time and an event: a column of type target with value: true, and one of type "
               "event";
    }
}

/* Of a mask, those that a model sees at once. */
static size_t seen_spots(const struct spoke_data *data) {
    return spoke_data_seen_features(data) / spoke_data_seen(data).channels;
}

enum tier_status spoke_objective_fits(const struct spoke_objective *o,
                                      const struct spoke_data *data, size_t spots, size_t outputs,
                                      struct tier_err *err) {
    enum spoke_target_kind kind = SPOKE_TARGET_CLASS;
    const char *what = wanted(o, spots > 1, &kind);
    size_t classes = o->loss == SPOKE_LOSS_BCE ? 2 : outputs, has = spoke_data_classes(data);

    if (spoke_data_target(data) != kind)
        return tier_fail(err, TIER_EDATA, "the schema's target does not go with %s, which needs %s",
                         spoke_objective_text(o), what);
    if (kind == SPOKE_TARGET_MASK && seen_spots(data) != spots)
        return tier_fail(
            err, TIER_EDATA, "the model predicts %zu spots of a row: the %s have %zu", spots,
            spoke_data_patch(data) ? "windows of the schema's masks" : "schema's masks",
            seen_spots(data));
    if (kind != SPOKE_TARGET_CLASS && kind != SPOKE_TARGET_MASK)
        return TIER_OK;
    if (o->soft != (spoke_data_soft(data) ? has : 0))
        return tier_fail(err, TIER_EINTERNAL, "a loss of %s for labels of the other kind",
                         o->soft ? "shares" : "classes");
    if (o->soft && o->has_ignore)
        return tier_fail(err, TIER_EDATA,
                         "local.ignore_class excludes annotators: soft, where a spot is of several "
                         "classes: annotators: majority would be right");
    if (o->has_ignore && (size_t)o->ignore >= has)
        return tier_fail(err, TIER_EDATA,
                         "local.ignore_class is %d: the schema's classes are 0 to %zu",
                         (int)o->ignore, has - 1);
    /* Where the class that counts nothing is the last, the model may do without an output for it.
     */
    if (o->has_ignore && (size_t)o->ignore == classes)
        classes++;
    if (has != classes)
        return tier_fail(err, TIER_EDATA,
                         "the schema's target has %zu classes: the model takes %zu", has, classes);
    return TIER_OK;
}

size_t spoke_objective_words(const struct spoke_objective *o, size_t spots) {
    if (o->soft && spoke_objective_by_class(o))
        return spots * o->soft;
    return o->loss == SPOKE_LOSS_COX ? 2 : spots;
}

void spoke_objective_shares(const struct spoke_objective *o, const int32_t *votes, size_t n,
                            float *out) {
    float both[2];

    for (size_t i = 0; i < n; i++) {
        if (spoke_objective_by_class(o)) {
            spoke_votes_shares(votes[i], o->soft, out + i * o->soft);
            continue;
        }
        spoke_votes_shares(votes[i], 2, both);
        out[i] = both[1];
    }
}

void spoke_objective_targets(const struct spoke_objective *o, const struct spoke_data *data,
                             enum spoke_part part, const int32_t *which, size_t n,
                             const int32_t *labels, void *out) {
    const int32_t *held = spoke_data_labels(data, part);
    const float *values = spoke_data_values(data, part), *events = spoke_data_events(data, part);
    /* Labels that were read are of what the model sees; those held are of whole rows. */
    size_t size =
        labels && spoke_data_patch(data) ? seen_spots(data) : spoke_data_target_size(data);
    float *floats = out;
    int32_t *words = out;

    for (size_t i = 0; i < n; i++) {
        const int32_t *of_row = labels ? labels + i * size : held ? held + which[i] * size : NULL;
        if (o->loss == SPOKE_LOSS_COX) {
            floats[2 * i] = values[which[i]];
            floats[2 * i + 1] = events[which[i]];
        } else if (o->loss == SPOKE_LOSS_MSE || o->loss == SPOKE_LOSS_L1) {
            floats[i] = values[which[i]];
        } else if (of_row && o->soft) {
            spoke_objective_shares(o, of_row, size, floats + i * spoke_objective_words(o, size));
        } else if (of_row && o->loss == SPOKE_LOSS_BCE) {
            floats[i] = (float)of_row[0];
        } else if (of_row) {
            memcpy(words + i * size, of_row, size * sizeof *words);
        }
    }
}

/* ---- a row ----------------------------------------------------------------------------------- */

static bool counts(const struct spoke_objective *o, int32_t label, size_t outputs) {
    return label >= 0 && (size_t)label < outputs && !(o->has_ignore && label == o->ignore);
}

/* Logarithm of the sum of exponentials of a spot's logits. */
static double log_sum(const float *z, size_t outputs) {
    double top = (double)z[0], sum = 0;

    for (size_t c = 1; c < outputs; c++)
        top = fmax(top, (double)z[c]);
    for (size_t c = 0; c < outputs; c++)
        sum += exp((double)z[c] - top);
    return log(sum) + top;
}

/* By shares, y float[spots x outputs], of which every spot has some. */
static double soft_ce(const struct spoke_objective *o, const float *z, const float *y, size_t spots,
                      size_t outputs) {
    double sum = 0, weights = 0;

    for (size_t i = 0; i < spots; i++) {
        double lse = log_sum(z + i * outputs, outputs);
        for (size_t c = 0; c < outputs; c++) {
            double share = (double)y[i * outputs + c];
            double w = o->weights_count ? share * (double)o->class_weight[c] : share;
            sum += w * (lse - (double)z[i * outputs + c]);
            weights += w;
        }
    }
    return weights > 0 ? sum / weights : 0;
}

static double row_ce(const struct spoke_objective *o, const float *z, const int32_t *label,
                     size_t spots, size_t outputs) {
    double sum = 0, weights = 0;

    for (size_t i = 0; i < spots; i++) {
        if (!counts(o, label[i], outputs))
            continue;
        double w = o->weights_count ? (double)o->class_weight[label[i]] : 1;
        sum += w * (log_sum(z + i * outputs, outputs) - (double)z[i * outputs + (size_t)label[i]]);
        weights += w;
    }
    return weights > 0 ? sum / weights : 0;
}

static double row_dice(const struct spoke_objective *o, const float *z, const void *target,
                       size_t spots, size_t outputs) {
    size_t first = o->background ? 0 : 1;
    const int32_t *label = target;
    const float *shares = target;
    double loss = 0;

    for (size_t c = first; c < outputs; c++) {
        double both = 0, sizes = 0;
        for (size_t i = 0; i < spots; i++) {
            if (!o->soft && !counts(o, label[i], outputs))
                continue;
            double p = exp((double)z[i * outputs + c] - log_sum(z + i * outputs, outputs));
            double own = o->soft ? (double)shares[i * outputs + c] : (size_t)label[i] == c;
            both += own * p;
            sizes += p + own;
        }
        loss += 1 - (2 * both + (double)o->smooth_nr) / (sizes + (double)o->smooth_dr);
    }
    return loss / (double)(outputs - first);
}

double spoke_objective_row(const struct spoke_objective *o, const float *z, const void *target,
                           size_t spots, size_t outputs) {
    const float *t = target;
    double x = (double)z[0], w = (double)o->pos_weight, d;

    switch (o->loss) {
    case SPOKE_LOSS_BCE: /* overflows for no logit */
        d = (double)t[0];
        return (1 - d) * x + (w * d + 1 - d) * (log1p(exp(-fabs(x))) + (x < 0 ? -x : 0));
    case SPOKE_LOSS_CE:
        return o->soft ? soft_ce(o, z, t, spots, outputs) : row_ce(o, z, target, spots, outputs);
    case SPOKE_LOSS_DICE:
        return row_dice(o, z, target, spots, outputs);
    case SPOKE_LOSS_DICE_CE:
        d = o->soft ? soft_ce(o, z, t, spots, outputs) : row_ce(o, z, target, spots, outputs);
        return (double)o->ce * d + (double)o->dice * row_dice(o, z, target, spots, outputs);
    case SPOKE_LOSS_MSE:
        return (x - (double)t[0]) * (x - (double)t[0]);
    case SPOKE_LOSS_L1:
        return fabs(x - (double)t[0]);
    case SPOKE_LOSS_COX:
        break;
    }
    return 0;
}
