/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receipts and refusals. A receipt is journalled in the transaction that seals its update, and the
 * audit line follows the commit; hub_work_recover_audit mends a kill between the two.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_RECEIPT_H
#define CONSILIUM_HUB_RECEIPT_H

#include "hub/work.h"

/* The receipt that the child has or, inside a transaction, now gets: *fresh_out says which. After
 * the commit a fresh one wants hub_receipt_audit. */
enum tier_status hub_receipt_make(struct hub_run *run, uint32_t child,
                                  const struct tier_hash *update, struct tier_receipt *r,
                                  bool *fresh_out, struct tier_err *err);
void hub_receipt_audit(struct hub *hub, const struct tier_receipt *r);
/* To the child, on its push or its stream. */
void hub_receipt_give(struct hub_run *run, const struct tier_round_action *a);
void hub_receipt_refuse(struct hub_run *run, const struct tier_round_action *a);

#endif
