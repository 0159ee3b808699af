/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sums were rounded where they were made: every difference to one unit of their scale and to
 * float32, at most 2^-24 of the clip. A part of them that is larger than they are by more than that
 * is not in them.
 */
#include "spoke/curvature.h"

#include "spoke/fisher.h"
#include "tier/fedcurv.h"
#include "tier/log.h"
#include "tier/share.h"
#include "tier/task.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Whether own can be among the sums. */
static bool fits(const struct spoke_curvature_sums *s) {
    double clip = ldexp(1, 30 - s->fisher_bits);
    double slack = ldexp(1, -s->fisher_bits) + ldexp(clip, -22);

    if (!(s->share > 0 && s->share <= 1))
        return false;
    for (size_t k = 0; k < s->n; k++)
        if (!(s->share * (double)s->own_fisher[k] <= (double)s->fisher[k] + slack))
            return false;
    return true;
}

bool spoke_curvature_others(const struct spoke_curvature_sums *s, float *stiffness, float *centre) {
    double unit = ldexp(1, -s->fisher_bits);
    bool own = s->own_fisher && fits(s);

    for (size_t k = 0; k < s->n; k++) {
        double a = (double)s->fisher[k], b = (double)s->pull[k], at = 0;
        if (own) {
            a -= s->share * (double)s->own_fisher[k];
            b -= s->share * (double)s->own_pull[k];
        }
        if (a > unit)
            at = fmax(-s->reach, fmin(s->reach, b / a));
        stiffness[k] = a > unit ? (float)a : 0;
        centre[k] = (float)((double)s->start[k] + at);
    }
    return own || !s->own_fisher;
}

enum tier_status spoke_curvature_init(struct spoke_curvature *c, const struct tier_plan *plan,
                                      const struct tier_graph *graph,
                                      const struct tier_manifest *manifest, struct tier_err *err) {
    size_t all = tier_graph_elements(graph), n = tier_task_model_elements(plan, manifest);

    *c = (struct spoke_curvature){.plan = plan, .graph = graph, .manifest = manifest, .n = n};
    c->own = malloc(2 * n * sizeof *c->own);
    c->start = malloc(n * sizeof *c->start);
    c->stiffness = calloc(all, sizeof *c->stiffness);
    c->centre = calloc(all, sizeof *c->centre);
    c->all = malloc(all * sizeof *c->all);
    c->part = malloc(2 * n * sizeof *c->part);
    if (!c->own || !c->start || !c->part || !c->stiffness || !c->centre || !c->all)
        return tier_fail(err, TIER_ENOMEM, "no memory for the curvature of %zu elements", n);
    TIER_TRY(tier_graph_values(graph, c->all, err));
    tier_share_take(plan, graph, false, c->all, c->start);
    return TIER_OK;
}

void spoke_curvature_release(struct spoke_curvature *c) {
    free(c->own);
    free(c->start);
    free(c->stiffness);
    free(c->centre);
    free(c->all);
    free(c->part);
}

void spoke_curvature_before(struct spoke_curvature *c, const float *sums, bool known, double share,
                            struct spoke_recipe *recipe) {
    const struct spoke_curvature_sums s = {.n = c->n,
                                           .fisher = sums,
                                           .pull = sums + c->n,
                                           .own_fisher = known ? c->own : NULL,
                                           .own_pull = known ? c->own + c->n : NULL,
                                           .share = share,
                                           .start = c->start,
                                           .reach = tier_fedcurv_reach(c->plan),
                                           .fisher_bits = tier_fedcurv_fisher_bits(c->plan)};
    float *stiffness = c->part, *centre = c->part + c->n;
    bool any = false;

    if (!spoke_curvature_others(&s, stiffness, centre))
        tier_log_info("what this hospital sent last is not in the sums of the round: nothing is "
                      "taken out of them");
    for (size_t k = 0; k < c->n && !any; k++)
        any = stiffness[k] > 0;
    if (!any)
        return;
    tier_share_put(c->plan, c->graph, false, stiffness, c->stiffness);
    tier_share_put(c->plan, c->graph, false, centre, c->centre);
    recipe->stiffness = c->stiffness;
    recipe->centre = c->centre;
    recipe->lambda = (float)c->plan->curvature.lambda;
}

/* F_i as it is to travel. */
static enum tier_status admit(struct spoke_curvature *c, struct tier_err *err) {
    double clip = ldexp(1, 30 - tier_fedcurv_fisher_bits(c->plan));

    for (size_t k = 0; k < c->n; k++) {
        if ((double)c->own[k] <= clip)
            continue;
        if (!c->plan->saturate) {
            const struct tier_tensor *t =
                &c->manifest->tensors[tier_manifest_find(c->manifest, c->n + k)];
            return tier_fail(err, TIER_EUPDATE,
                             "tensor %s, element %" PRIu64 " is %g; at most %g, by "
                             "local.curvature.clip, would be right",
                             t->name, c->n + k - t->at, (double)c->own[k], clip);
        }
        c->own[k] = (float)clip;
        c->cut++;
    }
    return TIER_OK;
}

enum tier_status spoke_curvature_after(struct spoke_curvature *c, struct spoke_net *net,
                                       const struct spoke_data *data, uint64_t seed,
                                       const float *delta, float *sums, struct tier_err *err) {
    double clip = ldexp(1, 30 - c->plan->frac_bits);
    float *theta = c->part;

    c->cut = 0;
    TIER_TRY(spoke_fisher(net, data, c->plan->curvature.rows, seed, c->all, err));
    tier_share_take(c->plan, c->graph, false, c->all, c->own);
    TIER_TRY(admit(c, err));
    TIER_TRY(spoke_net_get(net, c->all, err));
    tier_share_take(c->plan, c->graph, false, c->all, theta);
    for (size_t k = 0; k < c->n; k++) {
        double d = (double)delta[k], at = (double)theta[k] - (double)c->start[k];
        if (c->plan->saturate && fabs(d) > clip)
            at -= d - copysign(clip, d); /* where the change that is counted ends */
        c->own[c->n + k] = (float)((double)c->own[k] * at);
        sums[k] = c->own[k] - sums[k];
        sums[c->n + k] = c->own[c->n + k] - sums[c->n + k];
    }
    return TIER_OK;
}
