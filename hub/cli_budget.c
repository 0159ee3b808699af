/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan with `privacy` costs, before it runs: a part of `plan check`. */
#include "hub/cli.h"
#include "tier/budget.h"
#include "tier/site.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

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

static json_t *patient_json(const struct tier_plan *plan, int64_t rows, struct tier_err *err) {
    json_t *costs = json_array();

    for (size_t i = 0; i < (rows > 0 ? 1 : USUAL); i++) {
        json_t *cost = cost_at(plan, rows > 0 ? (uint64_t)rows : usual_rows[i], err);
        if (!cost) {
            json_decref(costs);
            return NULL;
        }
        json_array_append_new(costs, cost);
    }
    return json_pack("{s:f, s:f, s:f, s:f, s:I, s:o}", "clip", plan->patient.clip, "noise",
                     plan->patient.noise, "delta", plan->patient.delta, "epsilon_max",
                     plan->patient.epsilon_max, "steps",
                     (json_int_t)plan->steps * (json_int_t)plan->rounds, "costs", costs);
}

/* Concentrated privacy accounts for sites: the tight bound, of continuous noise, is beside it for
 * comparison. */
static json_t *site_json(const struct tier_plan *plan, struct tier_err *err) {
    const struct tier_privacy_event all = tier_site_event(plan, plan->rounds);
    const struct tier_privacy_event seen = tier_site_event_of_parent(plan, plan->rounds);
    struct tier_privacy_bound bound, parent = {.epsilon = INFINITY};
    struct tier_privacy_cost cost;
    double tau = tier_site_tau_log10(
        (double)tier_site_variance(plan, tier_site_units(plan, plan->site.clip)),
        plan->site.honest);

    if (tier_privacy_concentrated(&all, 1, plan->site.delta, &bound, err) != TIER_OK ||
        tier_privacy_cost(&all, 1, plan->site.delta, &cost, err) != TIER_OK)
        return NULL;
    if (seen.noise >= TIER_PRIVACY_NOISE_MIN &&
        tier_privacy_concentrated(&seen, 1, plan->site.delta, &parent, err) != TIER_OK)
        return NULL;
    return json_pack("{s:f, s:f, s:f, s:f, s:s, s:I, s:I, s:b, s:f, s:o, s:o, s:o, s:o, s:o}",
                     "clip", plan->site.clip, "noise", plan->site.noise, "delta", plan->site.delta,
                     "epsilon_max", plan->site.epsilon_max, "noise_at",
                     tier_site_at_spokes(plan) ? "spokes" : "top", "honest_min",
                     (json_int_t)plan->site.honest, "rounds", (json_int_t)plan->rounds, "adapts",
                     (int)tier_site_adapts(plan), "rho", bound.rho, "epsilon",
                     number(bound.epsilon), "rdp", number(cost.rdp), "tight", number(cost.tight),
                     "parent", number(parent.epsilon), "tau_log10", number(tau));
}

json_t *cli_budget_json(const struct tier_plan *plan, int64_t rows, struct tier_err *err) {
    bool patient = tier_budget_patient(plan), site = tier_site_on(plan);
    json_t *o = patient || site ? json_object() : json_null(), *part = NULL;

    if (patient && (part = patient_json(plan, rows, err)))
        json_object_set_new(o, "patient", part);
    if (site && (part || !patient) && (part = site_json(plan, err)))
        json_object_set_new(o, "site", part);
    if ((patient || site) && !part) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static double real(const json_t *o, const char *key) {
    return json_real_value(json_object_get(o, key));
}

static void print_epsilon(const json_t *o, const char *key) {
    const json_t *epsilon = json_object_get(o, key);

    if (json_is_real(epsilon))
        printf("%.4f", json_real_value(epsilon));
    else
        printf("above %g", TIER_PRIVACY_EPSILON_MAX);
}

static void print_site(const json_t *s) {
    bool spokes = strcmp(json_string_value(json_object_get(s, "noise_at")), "spokes") == 0;
    const json_t *tau = json_object_get(s, "tau_log10");

    printf("  sites     clip %g%s, noise %g of %s; %" PRId64 " rounds cost a site epsilon ",
           real(s, "clip"),
           json_is_true(json_object_get(s, "adapts")) ? " at first, then as norms are" : "",
           real(s, "noise"), spokes ? "all sites together" : "the top",
           (int64_t)json_integer_value(json_object_get(s, "rounds")));
    print_epsilon(s, "epsilon");
    printf(" at delta %g, at most %g\n    zCDP rho %.6f; by Renyi accounting ", real(s, "delta"),
           real(s, "epsilon_max"), real(s, "rho"));
    print_epsilon(s, "rdp");
    printf(", were the noise continuous ");
    print_epsilon(s, "tight");
    puts("; not to be added to what patients pay");
    if (!spokes) {
        puts("    the top and the hubs see updates without noise");
        return;
    }
    printf("    where %" PRId64
           " sites or more are honest; a parent that sees a site's own update: ",
           (int64_t)json_integer_value(json_object_get(s, "honest_min")));
    print_epsilon(s, "parent");
    if (json_is_real(tau))
        printf("\n    the sum of their noise is one discrete Gaussian to within a factor of "
               "exp(10^%.0f)",
               fmax(ceil(json_real_value(tau)), -300));
    puts("");
}

static void print_patient(const json_t *p) {
    const json_t *cost;
    size_t i;

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

void cli_budget_print(const json_t *privacy) {
    const json_t *patient = json_object_get(privacy, "patient");
    const json_t *site = json_object_get(privacy, "site");

    if (patient)
        print_patient(patient);
    if (site)
        print_site(site);
}
