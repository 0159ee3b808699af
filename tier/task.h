/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plan and its graph mean together, worked out alike at every node: the manifest that says
 * how each tensor is summed, the first model, and which rounds train and evaluate.
 *
 * Rounds 1..plan.rounds train; where the plan evaluates at all, one more round evaluates the last
 * model and trains nothing. Metrics that arrive in round r are of that round's base model, the
 * model after round r - 1.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_TASK_H
#define CONSILIUM_TIER_TASK_H

#include "kernels/kern.h"
#include "tier/delta.h"
#include "tier/graph.h"
#include "tier/manifest.h"
#include "tier/metric.h"
#include "tier/plan.h"
#include "tier/update.h"

/* Every parameter of the graph that is shared (tier/share.h), in file order; wide where a pattern
 * of the plan matches its name; behind them the control variates of a plan that has them
 * (tier/scaffold.h), or the curvatures (tier/fedcurv.h). TIER_EPLAN where what the plan shares is
 * not there. */
enum tier_status tier_task_manifest(const struct tier_plan *plan, const struct tier_graph *graph,
                                    struct tier_manifest **out, struct tier_err *err);
/* Elements of a plan's manifest that are the model; what goes with them is behind them. */
uint64_t tier_task_model_elements(const struct tier_plan *plan,
                                  const struct tier_manifest *manifest);
/* Whether a tensor of that name is of the model, and does not go with it. */
bool tier_task_is_parameter(const char *name);
/* Writes the graph's own values of the manifest's tensors, what goes with them at zero, as the
 * model that round 1 starts from. */
enum tier_status tier_task_first_model(const struct tier_graph *graph,
                                       const struct tier_manifest *manifest, const char *models_dir,
                                       struct tier_hash *model_out, struct tier_err *err);

/* The optimiser at the top; false where there is none. */
bool tier_task_server(const struct tier_plan *plan, struct kern_server *out);

/* The form in which the model of a round travels down; false: whole. */
bool tier_task_down(const struct tier_plan *plan, uint64_t round, struct tier_delta_form *out);
/* The encoding that the plan's codec stands for. */
enum tier_encoding tier_task_encoding(const struct tier_plan *plan);
/* What a spoke's update is behind masks, where the plan has secure.sums. */
enum tier_encoding tier_task_masked(const struct tier_plan *plan);
/* Whether the plan allows an update of that encoding: its codec's, zipped where the plan says so,
 * F32, or a hub's SUM. TIER_EUPDATE says which would be right. */
enum tier_status tier_task_encoding_check(const struct tier_plan *plan, enum tier_encoding encoding,
                                          bool zipped, struct tier_err *err);

uint64_t tier_task_rounds(const struct tier_plan *plan); /* with the evaluation at the end */
/* The most that a model of the plan may take as a file: its elements are in the graph, too. */
uint64_t tier_task_model_bytes_max(const struct tier_plan *plan);
bool tier_task_trains(const struct tier_plan *plan, uint64_t round);
bool tier_task_evaluates(const struct tier_plan *plan, uint64_t round);

/*
 * Are these the sums that nodes of this version make: names and bins that are known, values that
 * thousands of children can add without passing 64 bits? TIER_EUPDATE names the metric. Checked
 * before anything is kept of an update, so that one child cannot make a round's sums impossible.
 */
enum tier_status tier_task_metrics_check(const struct tier_metrics *sums, struct tier_err *err);
/* Whether what is told class by class is of so many (tier_graph_classes): else the round's sums
 * could not be added up. */
enum tier_status tier_task_classes_check(const struct tier_metrics *sums, uint64_t classes,
                                         struct tier_err *err);

/* Figures out of exact sums: NaN where the sums do not hold them. */
#define TIER_TASK_DICE_CLASSES 8 /* that are told one by one */
struct tier_task_figures {
    double accuracy, loss, auc, count;
    double dice, case_dice; /* means over the classes but the first, the background, that occur:
                               of all spots together, of the cases' own */
    double class_dice[TIER_TASK_DICE_CLASSES]; /* of all spots; [i]: of class i + 1 */
    double mse, mae, concordance;
};
struct tier_task_figures tier_task_figures(const struct tier_metrics *sums);
/* The i-th of the figures by name, in the names' order, or false past the last. A name is constant.
 */
bool tier_task_figure(const struct tier_task_figures *figures, size_t i, const char **name_out,
                      double *value_out);

/* The stop criterion, fed with each evaluated model in turn. Zero-initialise. */
struct tier_task_stop {
    bool any;
    double best;
    uint64_t since_best;
};
/* NULL to go on, or the reason to stop with the model these figures are of. */
const char *tier_task_stop(const struct tier_plan *plan, struct tier_task_stop *stop,
                           const struct tier_task_figures *figures);

#endif
