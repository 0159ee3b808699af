/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/dispatch.h"
#include "kernels/loss.h"

#include <math.h>

/* False for NaN, too. */
static bool at_least_0(float x) {
    return x >= 0 && isfinite(x);
}

/* What is wrong, or NULL. */
static const char *spec_wrong(const struct kern_loss_spec *s) {
    switch (s->kind) {
    case KERN_LOSS_BCE:
        return s->pos_weight > 0 && isfinite(s->pos_weight) ? NULL : "pos_weight is above 0";
    case KERN_LOSS_CLASSES:
        if (s->classes < 2 || s->classes > KERN_LOSS_CLASSES_MAX) {
            return "2 to 1024 classes may be";
        }
        if (!at_least_0(s->ce) || !at_least_0(s->dice) || s->ce + s->dice == 0) {
            return "ce and dice are at least 0, and one of them above";
        }
        if (!at_least_0(s->smooth_nr) || !at_least_0(s->smooth_dr) || s->smooth_dr == 0) {
            return "smooth_nr is at least 0, smooth_dr above";
        }
        return NULL;
    case KERN_LOSS_MSE:
    case KERN_LOSS_L1:
        return NULL;
    case KERN_LOSS_COX:
        return s->rows <= KERN_LOSS_COX_ROWS_MAX ? NULL : "Cox's loss takes at most 16384 rows";
    }
    return "there is no such kind";
}

enum kern_status kern_loss(struct kern_vec loss, struct kern_vec dz, struct kern_vec z,
                           struct kern_vec target, struct kern_vec weight,
                           const struct kern_loss_spec *spec) {
    bool classes = spec->kind == KERN_LOSS_CLASSES;
    size_t labels = classes ? kern_area(spec->rows, spec->spots)
                            : kern_area(spec->rows, spec->kind == KERN_LOSS_COX ? 2 : 1);
    size_t n = classes ? kern_area(labels, spec->classes) : spec->rows;
    struct kern_arg args[] = {
        {"loss", loss, sizeof(float), 1, KERN_ARG_OUT, NULL},
        {"dz", dz, sizeof(float), n, KERN_ARG_OUT, NULL},
        {"z", z, sizeof(float), n, 0, NULL},
        {"target", target, 4, classes && spec->soft ? n : labels, 0, NULL},
        {"weight", weight, sizeof(float), classes ? spec->classes : 1, KERN_ARG_OPTIONAL, NULL}};
    struct kern_device *dev = NULL;
    enum kern_status st = kern_args_check("kern_loss", args, sizeof args / sizeof args[0], &dev);
    if (st != KERN_OK) {
        return st;
    }
    const char *wrong = spec_wrong(spec);
    if (wrong == NULL && !classes && weight.buf != NULL) {
        wrong = "class weights are for classes";
    }
    if (wrong != NULL) {
        return kern_refuse(dev, "kern_loss: %s", wrong);
    }
    return kern_done(dev, dev->ops->loss(dev->ctx, args[0].p, args[1].p, args[2].p, args[3].p,
                                         weight.buf != NULL ? args[4].p : NULL, spec));
}
