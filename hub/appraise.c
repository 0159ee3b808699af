/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/appraise.h"
#include "tier/shapley.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOSS_MAX                                                                                   \
    1048576.0 /* of a model that is no good at all, so that differences are numbers                \
               */
#define TOLERANCE 0.01

/* ---- the screen ------------------------------------------------------------------------------ */

static enum tier_status weight_of(const struct tier_fold *fold, const struct tier_hash *id,
                                  uint64_t *weight, uint64_t *bytes, struct tier_err *err) {
    struct tier_update *u = NULL;

    TIER_TRY(tier_spool_update_open(fold->spool, id, &u, err));
    *weight = tier_spool_update_header(u)->weight;
    *bytes = tier_spool_update_header(u)->payload_bytes;
    tier_spool_update_close(u);
    return TIER_OK;
}

static enum tier_status judge(struct hub_validation *v, const struct hub_validation_of *of,
                              double limit, const struct tier_hash *update,
                              struct tier_screened *one, struct tier_err *err) {
    static const struct tier_hash none;
    uint64_t weight = 0, bytes;
    double base = hub_validation_base(v);

    TIER_TRY(weight_of(of->fold, update, &weight, &bytes, err));
    if (weight == 0)
        return TIER_OK;
    TIER_TRY(hub_validation_loss(v, update, 1, &none, &one->loss, err));
    one->fails = one->by_loss = !(one->loss <= limit * base);
    if (one->fails)
        snprintf(
            one->why, sizeof one->why,
            "with it alone the hub's validation loss is %.4g, which is above %.4g, screen.loss "
            "times what it is without",
            one->loss, limit * base);
    return TIER_OK;
}

enum tier_status hub_appraise_screen(const struct hub_validation_of *of,
                                     const struct tier_plan_screen *limits,
                                     const struct tier_hash *updates, size_t count,
                                     struct tier_screened *screened,
                                     struct tier_screen_figures *figures, struct tier_err *err) {
    struct hub_validation *v = NULL;
    enum tier_status st = hub_validation_open(of, &v, err);

    for (size_t i = 0; st == TIER_OK && i < count; i++)
        if (!screened[i].fails)
            st = judge(v, of, limits->loss, &updates[i], &screened[i], err);
    if (st == TIER_OK)
        figures->loss = hub_validation_base(v);
    hub_validation_close(v);
    return st;
}

/* ---- contributions --------------------------------------------------------------------------- */

struct coalition {
    struct hub_validation *v;
    const struct tier_hash *all; /* players */
    struct tier_hash *in;
    size_t count;
};

static double begin(void *arg) {
    struct coalition *c = arg;

    c->count = 0;
    return 0;
}

static enum tier_status utility(struct coalition *c, double *out, struct tier_err *err) {
    const struct tier_hash none = {{0}};
    double loss;

    TIER_TRY(hub_validation_loss(c->v, c->in, c->count, &none, &loss, err));
    *out = fmin(hub_validation_base(c->v), LOSS_MAX) - fmin(loss, LOSS_MAX);
    return TIER_OK;
}

static enum tier_status add(void *arg, size_t player, double *utility_out, struct tier_err *err) {
    struct coalition *c = arg;

    c->in[c->count++] = c->all[player];
    return utility(c, utility_out, err);
}

/* All but one. */
static enum tier_status without(struct coalition *c, size_t n, size_t one, double all, double *out,
                                struct tier_err *err) {
    double rest = 0;

    c->count = 0;
    for (size_t i = 0; i < n; i++)
        if (i != one)
            c->in[c->count++] = c->all[i];
    if (c->count > 0)
        TIER_TRY(utility(c, &rest, err));
    *out = all - rest;
    return TIER_OK;
}

/* Of n players with weight; values of the others stay 0. */
static enum tier_status share_out(struct coalition *c, size_t n, const size_t *place,
                                  struct tier_shapley *settings, struct tier_contribution *out,
                                  bool *exact_out, struct tier_err *err) {
    const struct tier_utility u = {.count = n, .arg = c, .begin = begin, .add = add};
    struct tier_shapley_value *values = calloc(n, sizeof *values);
    bool exact = n <= TIER_SHAPLEY_EXACT_MAX && (size_t)1 << n <= settings->permutations * n;
    double all = 0;
    enum tier_status st = TIER_OK;

    if (!values)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu shares", n);
    for (size_t i = 0; i < n; i++)
        c->in[i] = c->all[i];
    c->count = n;
    TIER_TRY_OUT(utility(c, &all, err));
    settings->tolerance = exact ? 0 : fmax(TOLERANCE * fabs(all), 1e-300);
    TIER_TRY_OUT(tier_shapley_run(&u, settings, values, exact_out, err));
    for (size_t i = 0; i < n; i++) {
        struct tier_contribution *one = &out[place[i]];
        one->share = values[i].value;
        one->error = values[i].error;
        TIER_TRY_OUT(without(c, n, i, all, &one->without, err));
    }
out:
    free(values);
    return st;
}

enum tier_status hub_appraise_shares(const struct hub_validation_of *of, uint64_t permutations,
                                     struct tier_contribution *out, bool *exact_out,
                                     struct tier_err *err) {
    const struct tier_fold *fold = of->fold;
    struct tier_shapley settings = {.permutations = (size_t)permutations};
    struct tier_hash *all = calloc(2 * fold->count + 1, sizeof *all);
    size_t *place = calloc(fold->count + 1, sizeof *place), n = 0;
    struct coalition c = {.all = all, .in = all + fold->count};
    enum tier_status st = TIER_OK;

    if (!all || !place) {
        st =
            tier_fail(err, TIER_ENOMEM, "no memory for the coalitions of %zu updates", fold->count);
        goto out;
    }
    *exact_out = true;
    memset(out, 0, fold->count * sizeof *out);
    for (size_t i = 0; i < fold->count; i++) {
        TIER_TRY_OUT(weight_of(fold, &fold->inputs[i], &out[i].weight, &out[i].bytes, err));
        place[n] = i;
        all[n] = fold->inputs[i];
        n += out[i].weight > 0;
    }
    if (n == 0)
        goto out;
    tier_contribution_seed(fold, &settings.seed);
    TIER_TRY_OUT(hub_validation_open(of, &c.v, err));
    TIER_TRY_OUT(share_out(&c, n, place, &settings, out, exact_out, err));
out:
    hub_validation_close(c.v);
    free(place);
    free(all);
    return st;
}
