/* SPDX-License-Identifier: Apache-2.0 */
/* A plan's `local`: what a hospital does in a round. What a kind does not have stays absent, so
 * that a plan never says what is not done. */
#include "tier/plan_keys.h"

#include <inttypes.h>
#include <math.h>

#define complain tier_plan_complain

static bool is_written(const struct tier_plan_checker *c, const char *path) {
    int key = tier_keys_find(c->keys, c->count, path);
    return c->lines && key >= 0 && c->lines[key] > 0;
}

static void fill(double *value, double otherwise) {
    if (isnan(*value))
        *value = otherwise;
}

/* PyTorch's, but for what is 0 here. */
void tier_plan_recipe_defaults(struct tier_plan *p,
                               bool (*written)(const void *arg, const char *path),
                               const void *arg) {
    if (p->optimiser.kind == TIER_PLAN_SGD)
        fill(&p->optimiser.momentum, 0);
    if (p->optimiser.kind == TIER_PLAN_ADAM || p->optimiser.kind == TIER_PLAN_ADAMW) {
        fill(&p->optimiser.beta1, 0.9);
        fill(&p->optimiser.beta2, 0.999);
        fill(&p->optimiser.eps, 1e-8);
    }
    if (p->optimiser.kind == TIER_PLAN_ADAMW && !written(arg, "local.optimiser.weight_decay"))
        p->optimiser.weight_decay = 0.01;
    if (p->schedule.kind == TIER_PLAN_STEP)
        fill(&p->schedule.gamma, 0.1);
    if (p->schedule.kind == TIER_PLAN_COSINE)
        fill(&p->schedule.lr_min, 0);
}

static void check_length(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    if (p->steps && p->epochs)
        complain(c, "local.steps", "and local.epochs exclude each other: keep one");
    if (!p->steps && !p->epochs)
        complain(c, is_written(c, "local.epochs") ? "local.epochs" : "local.steps",
                 "must be above 0: either local.steps or local.epochs says how long a spoke trains "
                 "in a round");
}

static void check_optimiser(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    bool sgd = p->optimiser.kind == TIER_PLAN_SGD, adam = p->optimiser.kind > TIER_PLAN_SGD;
    const char *name = p->optimiser.kind == TIER_PLAN_ADAMW ? "adamw" : "adam";

    if (sgd && isnan(p->optimiser.momentum))
        complain(c, "local.optimiser.momentum", "must be a number for sgd");
    if (adam && (isnan(p->optimiser.beta1) || isnan(p->optimiser.beta2) || isnan(p->optimiser.eps)))
        complain(c, "local.optimiser.beta1", "and beta2 and eps must be numbers for %s", name);
    if (adam && !isnan(p->optimiser.momentum))
        complain(c, "local.optimiser.momentum", "is for sgd; %s has beta1", name);
    if (adam && p->optimiser.nesterov)
        complain(c, "local.optimiser.nesterov", "is for sgd");
    if (sgd && p->optimiser.nesterov && !(p->optimiser.momentum > 0))
        complain(c, "local.optimiser.nesterov", "needs a momentum above 0");
    if (sgd && !isnan(p->optimiser.beta1))
        complain(c, "local.optimiser.beta1", "is for adam; sgd has momentum");
    if (sgd && !isnan(p->optimiser.beta2))
        complain(c, "local.optimiser.beta2", "is for adam");
    if (sgd && !isnan(p->optimiser.eps))
        complain(c, "local.optimiser.eps", "is for adam");
}

static void check_schedule(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    bool step = p->schedule.kind == TIER_PLAN_STEP, cosine = p->schedule.kind == TIER_PLAN_COSINE;

    if (p->schedule.kind < 0)
        return;
    if (step && p->schedule.step_size == 0)
        complain(c, "local.schedule.step_size",
                 "must be above 0 for step: the rounds after which the rate falls");
    if (!step && p->schedule.step_size)
        complain(c, "local.schedule.step_size", "is for step");
    if (step && isnan(p->schedule.gamma))
        complain(c, "local.schedule.gamma", "must be a number for step");
    if (!step && !isnan(p->schedule.gamma))
        complain(c, "local.schedule.gamma", "is for step");
    if (cosine && isnan(p->schedule.lr_min))
        complain(c, "local.schedule.lr_min", "must be a number for cosine");
    if (!cosine && !isnan(p->schedule.lr_min))
        complain(c, "local.schedule.lr_min", "is for cosine");
    if (cosine && p->optimiser.lr > 0 && p->schedule.lr_min > p->optimiser.lr)
        complain(c, "local.schedule.lr_min", "is %g, above local.optimiser.lr, from which it falls",
                 p->schedule.lr_min);
    if (p->rounds && p->schedule.warmup >= p->rounds)
        complain(c, "local.schedule.warmup",
                 "is %" PRIu64 " of %" PRIu64 " rounds: the rate would never reach lr",
                 p->schedule.warmup, p->rounds);
}

static bool rate_changes(const struct tier_plan *p) {
    return p->schedule.kind > TIER_PLAN_CONSTANT || p->schedule.warmup > 0;
}

/* FedNova divides a change by the weights with which its gradients entered it, SCAFFOLD makes a
 * mean gradient of it: both know them from the plan alone. */
static void check_known_weights(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    const char *who = p->scaffold ? "local.scaffold" : "local.normalise";
    bool clips = p->clip_norm > 0 || p->clip_value > 0, pulls = p->prox_mu > 0;

    if (!p->scaffold && !p->normalise)
        return;
    if (p->ema > 0)
        complain(c, "local.ema",
                 "and %s exclude each other: an average of steps weighs gradients "
                 "otherwise than their sum does",
                 who);
    if (rate_changes(p) && (p->scaffold || pulls || p->schedule.per > TIER_PLAN_PER_ROUND))
        complain(c, "local.schedule.name",
                 "must be constant without warmup with %s: it is worked out for one learning rate",
                 p->scaffold ? who
                 : pulls     ? "local.normalise and local.prox_mu"
                             : "local.normalise and per: step");
    if (clips && (p->scaffold || pulls))
        complain(c, p->clip_norm > 0 ? "local.clip_norm" : "local.clip_value",
                 "must be 0 with %s: what is cut is no longer the %s",
                 p->scaffold ? who : "local.normalise and local.prox_mu",
                 p->scaffold ? "gradient that controls are means of"
                             : "pull that effective steps are counted by");
}

void tier_plan_check_recipe(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;

    check_length(c);
    check_optimiser(c);
    check_schedule(c);
    if (p->clip_norm > 0 && p->clip_value > 0)
        complain(c, "local.clip_value", "and local.clip_norm exclude each other: keep one");
    check_known_weights(c);
}
