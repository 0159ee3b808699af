/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which call of the console takes which role. One table: a call that is not in it takes operators
 * only, so one that is added and forgotten here is closed rather than open.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_HUB_CONSOLE_ROLES_H
#define CONSILIUM_HUB_CONSOLE_ROLES_H

#include "tier/identity.h"

/* TIER_EPOLICY, with the roles that may, where the role may not make that call ("StopRun"). */
enum tier_status hub_console_may(const char *method, const char *caller, enum tier_role role,
                                 struct tier_err *err);
/*
 * Whether the role is told which children there are: an operator and an auditor everywhere, a
 * regional operator below the top. To others a run says how many there are, and no name.
 */
bool hub_console_sees_children(enum tier_role role, bool top);

#endif
