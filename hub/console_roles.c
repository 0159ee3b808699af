/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/console_roles.h"

#include <stdio.h>
#include <string.h>

#define OPERATOR (1u << TIER_ROLE_OPERATOR)
#define REGIONAL (1u << TIER_ROLE_REGIONAL_OPERATOR)
#define STEWARD (1u << TIER_ROLE_STEWARD)
#define RESEARCHER (1u << TIER_ROLE_RESEARCHER)
#define AUDITOR (1u << TIER_ROLE_AUDITOR)
#define EVERYBODY (OPERATOR | REGIONAL | STEWARD | RESEARCHER | AUDITOR)

/* As hub/README.md shows it. */
static const struct {
    const char *method;
    unsigned roles;
} table[] = {
    {"StartRun", OPERATOR},
    {"StopRun", OPERATOR},
    {"ListRuns", EVERYBODY},
    {"WatchRun", EVERYBODY},
    {"ListNodes", OPERATOR | REGIONAL | AUDITOR},
    {"PullModel", OPERATOR | RESEARCHER | AUDITOR}, /* a researcher: released ones */
    {"Approve", OPERATOR},
    {"GetStatistics", EVERYBODY},
    {"ListContributors", OPERATOR | REGIONAL | AUDITOR}, /* regional: below the top */
    {"Pardon", OPERATOR | REGIONAL},                     /* likewise */
};

static unsigned roles_of(const char *method) {
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].method, method) == 0)
            return table[i].roles;
    return OPERATOR;
}

enum tier_status hub_console_may(const char *method, const char *caller, enum tier_role role,
                                 struct tier_err *err) {
    unsigned roles = roles_of(method);
    char wanted[160] = "";

    if (roles & 1u << role)
        return TIER_OK;
    for (int r = 0; r < TIER_ROLE_COUNT; r++) {
        size_t used = strlen(wanted);
        if (roles & 1u << r)
            snprintf(wanted + used, sizeof wanted - used, "%s%s", used ? " or " : "",
                     tier_role_text((enum tier_role)r));
    }
    return tier_fail(err, TIER_EPOLICY,
                     "'%s' is enrolled as a %s: %s takes certificates of the role %s, or the hub's "
                     "own",
                     caller, tier_role_text(role), method, wanted);
}

bool hub_console_sees_children(enum tier_role role, bool top) {
    return role == TIER_ROLE_OPERATOR || role == TIER_ROLE_AUDITOR ||
           (role == TIER_ROLE_REGIONAL_OPERATOR && !top);
}
