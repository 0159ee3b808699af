/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/budget.h"

#include <math.h>

bool tier_budget_patient(const struct tier_plan *plan) {
    return plan->patient.clip > 0;
}

uint64_t tier_budget_sample(const struct tier_plan *plan, uint64_t rows) {
    uint64_t wanted = plan->batch * plan->accumulate; /* below 2^37 */
    return wanted < rows ? wanted : rows;
}

struct tier_privacy_event tier_budget_patient_event(const struct tier_plan *plan, uint64_t rows,
                                                    uint64_t rounds) {
    double rate = (double)tier_budget_sample(plan, rows) / (double)rows;

    return (struct tier_privacy_event){.noise = plan->patient.noise,
                                       .rate = fmax(rate, TIER_PRIVACY_RATE_MIN),
                                       .count = rounds * plan->steps};
}

enum tier_status tier_budget_patient_cost(const struct tier_plan *plan, uint64_t rows,
                                          struct tier_privacy_cost *out, struct tier_err *err) {
    const struct tier_privacy_event e = tier_budget_patient_event(plan, rows, plan->rounds);

    return tier_privacy_cost(&e, 1, plan->patient.delta, out, err);
}

enum tier_status tier_budget_graph_check(const struct tier_plan *plan,
                                         const struct tier_graph *graph, struct tier_err *err) {
    if (!tier_budget_patient(plan))
        return TIER_OK;
    for (size_t i = 0; i < tier_graph_node_count(graph); i++) {
        const struct tier_graph_node *n = tier_graph_node(graph, i);
        if (n->op == TIER_OP_BATCH_NORM)
            return tier_fail(err, TIER_EMODEL,
                             "node '%.120s' is a BatchNormalization, through which a row's "
                             "gradient depends on the rows beside it: with privacy.patient "
                             "GroupNormalization would be right",
                             n->name);
    }
    return TIER_OK;
}
