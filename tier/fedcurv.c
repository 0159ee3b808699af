/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/fedcurv.h"

#include <math.h>
#include <string.h>

bool tier_fedcurv_on(const struct tier_plan *plan) {
    return plan->curvature.lambda > 0;
}

double tier_fedcurv_reach(const struct tier_plan *plan) {
    return (double)plan->rounds * ldexp(1, 30 - plan->frac_bits);
}

int tier_fedcurv_fisher_bits(const struct tier_plan *plan) {
    return tier_plan_frac_bits(plan->curvature.clip);
}

int tier_fedcurv_pull_bits(const struct tier_plan *plan) {
    return tier_plan_frac_bits(2 * ldexp(1, 30 - tier_fedcurv_fisher_bits(plan)) *
                               tier_fedcurv_reach(plan));
}

static enum tier_status named(const struct tier_tensor *t, const char *prefix, int frac_bits,
                              struct tier_tensor *out, struct tier_err *err) {
    const size_t n = strlen(prefix);
    struct tier_tensor made = *t;

    if (strncmp(t->name, prefix, n) == 0)
        return tier_fail(err, TIER_EMODEL,
                         "tensor %.80s: names that begin with %s are those of FedCurv, in a plan "
                         "with local.curvature",
                         t->name, prefix);
    if (strlen(t->name) + n > TIER_TENSOR_NAME_LEN_MAX)
        return tier_fail(err, TIER_EMODEL,
                         "tensor %.80s...: the name of its curvature would have more than %d bytes",
                         t->name, TIER_TENSOR_NAME_LEN_MAX);
    memcpy(made.name, prefix, n);
    memcpy(made.name + n, t->name, strlen(t->name) + 1);
    made.frac_bits = frac_bits;
    made.wide = made.state = false;
    *out = made;
    return TIER_OK;
}

enum tier_status tier_fedcurv_tensors(const struct tier_plan *plan, const struct tier_tensor *t,
                                      struct tier_tensor *fisher_out, struct tier_tensor *pull_out,
                                      struct tier_err *err) {
    TIER_TRY(named(t, TIER_FEDCURV_FISHER, tier_fedcurv_fisher_bits(plan), fisher_out, err));
    return named(t, TIER_FEDCURV_PULL, tier_fedcurv_pull_bits(plan), pull_out, err);
}
