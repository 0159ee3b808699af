/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Admission to runs whose plan has governance.attest: tpm (tier/attest.h). A child that accepts
 * such a plan is asked with a nonce what it runs, and is counted in only when its TPM's answer is
 * good: by the key that this hub's operator has pinned for it (attest.keys/CHILD.pem), and by the
 * hashes that the plan allows. It is asked again on each stream, since it may be another program
 * that comes back.
 *
 * What is allowed is in the plan, which is signed, so that every parent judges alike and none can
 * be lax; which key is whose, is known to those who have met, and so with each parent.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_ATTEST_H
#define CONSILIUM_HUB_ATTEST_H

#include "hub/hub.h"

/* Whether this node can ask: TIER_EPLAN without TLS or without attest.keys. */
enum tier_status hub_attest_check(const struct hub *hub, const struct tier_plan *plan,
                                  struct tier_err *err);
/* A child attends: what it showed on an earlier stream is past. */
void hub_attest_forget(struct hub_run *run, struct hub_child *child);
/* Whether it must show what it runs before it has any part in the run. */
bool hub_attest_lacks(struct hub_run *run, const char *child);
/* It accepts the plan, and lacks that: it is asked. */
void hub_attest_ask(struct hub_run *run, const char *child);
/* What it answers: hub_run_answered follows. */
void hub_attest_answered(struct hub_run *run, const char *child, const struct tier_from_child *m);
/* As a child: this hub's parent asks, or says that the answer was not good. */
void hub_attest_asked(struct hub_run *run, const struct tier_to_child *m);

#endif
