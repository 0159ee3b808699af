/* SPDX-License-Identifier: Apache-2.0 */
/* Call by call and role by role; tests/e2e/test_identity.py asks a hub the same. */
#include "hub/console_roles.h"

#include <criterion/criterion.h>
#include <string.h>

/* O operator, R regional operator, S steward, E researcher, A auditor. */
static const struct {
    const char *method, *may;
} wanted[] = {
    {"StartRun", "O"},     {"StopRun", "O"},           {"ListRuns", "ORSEA"},
    {"WatchRun", "ORSEA"}, {"ListNodes", "ORA"},       {"PullModel", "OEA"},
    {"Approve", "O"},      {"GetStatistics", "ORSEA"}, {"ListContributors", "ORA"},
    {"Pardon", "OR"},
};

static const struct {
    char letter;
    enum tier_role role;
} roles[] = {
    {'O', TIER_ROLE_OPERATOR}, {'R', TIER_ROLE_REGIONAL_OPERATOR},
    {'S', TIER_ROLE_STEWARD},  {'E', TIER_ROLE_RESEARCHER},
    {'A', TIER_ROLE_AUDITOR},  {'-', TIER_ROLE_TOP},
    {'-', TIER_ROLE_HUB},      {'-', TIER_ROLE_SPOKE},
};

Test(hub_console_roles, each_call_takes_its_roles_and_no_other) {
    cr_assert(sizeof roles / sizeof roles[0] == TIER_ROLE_COUNT);
    for (size_t m = 0; m < sizeof wanted / sizeof wanted[0]; m++) {
        for (size_t r = 0; r < TIER_ROLE_COUNT; r++) {
            struct tier_err err = {0};
            bool may = strchr(wanted[m].may, roles[r].letter) != NULL;
            enum tier_status st = hub_console_may(wanted[m].method, "x", roles[r].role, &err);
            cr_assert(st == (may ? TIER_OK : TIER_EPOLICY), "%s by a %s: %s", wanted[m].method,
                      tier_role_text(roles[r].role), err.text);
        }
    }
}

Test(hub_console_roles, a_refusal_says_who_was_refused_what_and_which_roles_may) {
    struct tier_err err = {0};
    cr_assert(hub_console_may("ListNodes", "anna", TIER_ROLE_STEWARD, &err) == TIER_EPOLICY);
    cr_assert(strstr(err.text, "'anna' is enrolled as a steward: ListNodes takes certificates of "
                               "the role operator or regional-operator or auditor"),
              "%s", err.text);
}

Test(hub_console_roles, a_call_that_the_table_does_not_know_takes_operators_alone) {
    cr_assert(hub_console_may("NewCall", "o", TIER_ROLE_OPERATOR, NULL) == TIER_OK);
    for (size_t r = 1; r < TIER_ROLE_COUNT; r++)
        cr_assert(hub_console_may("NewCall", "x", roles[r].role, NULL) == TIER_EPOLICY);
}

Test(hub_console_roles, names_of_children_are_told_to_those_who_run_or_audit_them) {
    for (int top = 0; top <= 1; top++) {
        cr_assert(hub_console_sees_children(TIER_ROLE_OPERATOR, top));
        cr_assert(hub_console_sees_children(TIER_ROLE_AUDITOR, top));
        cr_assert(hub_console_sees_children(TIER_ROLE_REGIONAL_OPERATOR, top) == !top);
        cr_assert(!hub_console_sees_children(TIER_ROLE_STEWARD, top));
        cr_assert(!hub_console_sees_children(TIER_ROLE_RESEARCHER, top));
    }
}
