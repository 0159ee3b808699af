/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan with `privacy` costs, before it runs: a part of `plan check`. */
#include "hub/cli.h"
#include "tier/budget.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* A hospital's training rows, where nobody says how many there are. */
static const uint64_t usual_rows[] = {100, 300, 1000, 3000};
#define USUAL (sizeof usual_rows / sizeof usual_rows[0])

static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

/* {"rows":..., "rate":..., "epsilon":...}, or NULL with err. */
static json_t *cost_at(const struct tier_plan *plan, uint64_t rows, struct tier_err *err) {
    const struct tier_privacy_event e = tier_budget_patient_event(plan, rows, plan->rounds);
    struct tier_privacy_cost cost;

    if (tier_budget_patient_cost(plan, rows, &cost, err) != TIER_OK)
        return NULL;
    return json_pack("{s:I, s:f, s:o, s:o, s:o, s:b}", "rows", (json_int_t)rows, "rate", e.rate,
                     "epsilon", number(cost.tight), "at_least", number(cost.floor), "rdp",
                     number(cost.rdp), "accepted", (int)(cost.tight <= plan->patient.epsilon_max));
}

json_t *cli_budget_json(const struct tier_plan *plan, int64_t rows, struct tier_err *err) {
    json_t *costs = json_array();

    if (!tier_budget_patient(plan)) {
        json_decref(costs);
        return json_null();
    }
    for (size_t i = 0; i < (rows > 0 ? 1 : USUAL); i++) {
        json_t *cost = cost_at(plan, rows > 0 ? (uint64_t)rows : usual_rows[i], err);
        if (!cost) {
            json_decref(costs);
            return NULL;
        }
        json_array_append_new(costs, cost);
    }
    return json_pack("{s:{s:f, s:f, s:f, s:f, s:I, s:o}}", "patient", "clip", plan->patient.clip,
                     "noise", plan->patient.noise, "delta", plan->patient.delta, "epsilon_max",
                     plan->patient.epsilon_max, "steps",
                     (json_int_t)plan->steps * (json_int_t)plan->rounds, "costs", costs);
}

void cli_budget_print(const json_t *privacy) {
    const json_t *p = json_object_get(privacy, "patient"), *cost;
    size_t i;

    if (!p)
        return;
    printf("  patients  DP-SGD, clip %g, noise %g, %" PRId64 " steps in all; epsilon at delta %g, "
           "at most %g\n",
           json_real_value(json_object_get(p, "clip")),
           json_real_value(json_object_get(p, "noise")),
           (int64_t)json_integer_value(json_object_get(p, "steps")),
           json_real_value(json_object_get(p, "delta")),
           json_real_value(json_object_get(p, "epsilon_max")));
    printf("    %12s %10s %10s %10s\n", "rows of a site", "rate", "epsilon", "rdp");
    json_array_foreach(json_object_get(p, "costs"), i, cost) {
        const json_t *epsilon = json_object_get(cost, "epsilon");
        printf("    %14" PRId64 " %10.6f",
               (int64_t)json_integer_value(json_object_get(cost, "rows")),
               json_real_value(json_object_get(cost, "rate")));
        if (json_is_real(epsilon))
            printf(" %10.4f %10.4f", json_real_value(epsilon),
                   json_real_value(json_object_get(cost, "rdp")));
        else
            printf(" above %4g %10s", TIER_PRIVACY_EPSILON_MAX, "");
        puts(json_is_true(json_object_get(cost, "accepted")) ? "" : "  it declines");
    }
}
