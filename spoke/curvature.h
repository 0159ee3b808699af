/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hospital's side of FedCurv (tier/fedcurv.h): out of the sums that the base model carries, less
 * its own part, the one quadratic that its training is to feel; and after the training its part in
 * the next sums.
 *
 * Sums of quadratics about many points are one quadratic: the others' sum of p_j F_j (theta -
 * theta_j)^2 is A (theta - C)^2 plus what no gradient sees, A = sum of p_j F_j and C = theta_0 +
 * (sum of p_j F_j (theta_j - theta_0)) / A.
 *
 * Threads: a round's worker. Ownership: borrows all but what is said.
 */
#ifndef CONSILIUM_SPOKE_CURVATURE_H
#define CONSILIUM_SPOKE_CURVATURE_H

#include "spoke/train.h"
#include "tier/graph.h"
#include "tier/manifest.h"
#include "tier/plan.h"

/* What the others' quadratic is worked out from: float[n] each. */
struct spoke_curvature_sums {
    size_t n;
    const float *fisher, *pull;         /* the base model's: means over all, this one among them */
    const float *own_fisher, *own_pull; /* this hospital's; NULL: it is not among them */
    double share;                       /* its weight in them */
    const float *start;                 /* theta_0 */
    double reach;                       /* no |theta_j - theta_0| is above it */
    int fisher_bits;                    /* the scale in which fisher was summed */
};

/*
 * Writes stiffness[n], none below 0, and centre[n], each within the reach of the start. Where
 * nothing of the others' is above the rounding of the sums, the stiffness is 0. Returns false where
 * the own part cannot be in the sums, which are then smaller than it somewhere by more than they
 * are rounded (its update was late, or its region's): nothing is taken out of them then.
 */
bool spoke_curvature_others(const struct spoke_curvature_sums *s, float *stiffness, float *centre);

/* One round's, at one hospital. Zero-initialise. */
struct spoke_curvature {
    const struct tier_plan *plan;
    const struct tier_graph *graph;
    const struct tier_manifest *manifest;
    size_t n;                        /* elements of the model that travel */
    uint64_t cut;                    /* values of F_i that were cut at the clip */
    float *own;                      /* [2 n]: F_i, and F_i (theta_i - theta_0) behind it */
    float *start;                    /* [n] */
    float *part;                     /* [2 n], for a while */
    float *stiffness, *centre, *all; /* [the graph's] each; all for a while */
};

/* Takes memory; release ends it, also where this failed. */
enum tier_status spoke_curvature_init(struct spoke_curvature *c, const struct tier_plan *plan,
                                      const struct tier_graph *graph,
                                      const struct tier_manifest *manifest, struct tier_err *err);
void spoke_curvature_release(struct spoke_curvature *c);

/*
 * `sums` is what the base model carries, float[2 n] as in c->own; c->own is this hospital's part of
 * the round that made it, where `known`. Puts the others' pull into the recipe, which borrows it
 * from c; nothing where there is none yet.
 */
void spoke_curvature_before(struct spoke_curvature *c, const float *sums, bool known, double share,
                            struct spoke_recipe *recipe);

/*
 * The net is as training left it, `delta` the change of what travels. Fills c->own, and turns
 * `sums` into the differences that the update carries. TIER_EUPDATE where a value is beyond the
 * plan's clip for it, by tensor name, unless the plan says to saturate; c->cut counts those.
 */
enum tier_status spoke_curvature_after(struct spoke_curvature *c, struct spoke_net *net,
                                       const struct spoke_data *data, uint64_t seed,
                                       const float *delta, float *sums, struct tier_err *err);

#endif
