/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/scaffold.h"

#include <stdio.h>
#include <string.h>

int tier_scaffold_frac_bits(const struct tier_plan *plan) {
    return tier_plan_frac_bits(4 * plan->clip / plan->optimiser.lr);
}

enum tier_status tier_scaffold_tensor(const struct tier_plan *plan, const struct tier_tensor *t,
                                      struct tier_tensor *out, struct tier_err *err) {
    const size_t prefix = strlen(TIER_SCAFFOLD_PREFIX);
    struct tier_tensor control = *t;

    if (strncmp(t->name, TIER_SCAFFOLD_PREFIX, prefix) == 0)
        return tier_fail(err, TIER_EMODEL,
                         "tensor %.80s: names that begin with %s are those of control variates, in "
                         "a plan with local.scaffold",
                         t->name, TIER_SCAFFOLD_PREFIX);
    if (strlen(t->name) + prefix > TIER_TENSOR_NAME_LEN_MAX)
        return tier_fail(
            err, TIER_EMODEL,
            "tensor %.80s...: its control variate's name would have more than %d bytes", t->name,
            TIER_TENSOR_NAME_LEN_MAX);
    memcpy(control.name, TIER_SCAFFOLD_PREFIX, prefix);
    memcpy(control.name + prefix, t->name, strlen(t->name) + 1);
    control.frac_bits = tier_scaffold_frac_bits(plan);
    control.wide = control.state = false;
    *out = control;
    return TIER_OK;
}
