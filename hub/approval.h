/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one person alone may not do: it is done when two different operators have asked for it, the
 * second within HUB_APPROVAL_S of the first. Who has asked is journalled, so a restart forgets
 * nothing, and audited, with who completed it. A person is the name in a certificate; the hub's own
 * certificate is nobody's.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_APPROVAL_H
#define CONSILIUM_HUB_APPROVAL_H

#include "hub/hub.h"
#include "tier/console_wire.h"

#define HUB_APPROVALS_NEEDED 2
#define HUB_APPROVAL_S (24 * 3600)

/*
 * Notes that `caller` approves the action on the subject (as tier_console_approval_request has
 * them), and does it when that makes two. TIER_ECONFLICT: the caller has approved it already, or it
 * is done; what the action itself may give. Nothing is noted where it fails.
 */
enum tier_status hub_approve(struct hub *hub, const struct tier_console_approval_request *what,
                             const char *caller, int64_t now_ms, struct tier_console_approval *out,
                             struct tier_err *err);
/* Whether this model was released. */
bool hub_model_released(const struct hub *hub, const struct tier_hash *model);

#endif
