/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a site lets its privacy cost. A plan with privacy.patient is taken where it costs the
 * patients here no more than its own epsilon_max, and where that comes, with all that was spent
 * before and what other open runs may still spend, to no more than the site's policy.epsilon_max;
 * one with privacy.site likewise, in the other book, by policy.site_epsilon_max. The two are never
 * added: one is what is told of a patient, the other of the site as a whole.
 * Each round is then charged to the ledger (tier/ledger.h) before it is trained.
 *
 * Threads: the loop's. A call may work for seconds (tier/privacy.h).
 */
#ifndef CONSILIUM_SPOKE_BUDGET_H
#define CONSILIUM_SPOKE_BUDGET_H

#include "spoke/spoke.h"

#include <stdio.h>

/*
 * May these rows be trained on with differential privacy? TIER_EPOLICY: features are standardised
 * by rows of this site, so that each depends on all; or a patient has several rows. The data must
 * have been opened as identified.
 */
enum tier_status spoke_budget_rows(const struct spoke_data *data, struct tier_err *err);

/* Whether the plan of a run whose data is open can be paid; from then on its rounds may be charged.
 * TIER_EPOLICY with the numbers; errors of the ledger. */
enum tier_status spoke_budget_afford(struct spoke_run *run, struct tier_err *err);

/*
 * Charges a round, once in each book that it costs something in, and makes its keys, or gets those
 * it had, into run->noise_key and run->site_key; nothing where it trains nothing, or without
 * `privacy`. Said in the audit log before it returns.
 * TIER_EPOLICY: it was not afforded, or is another mechanism than was charged, or is over.
 */
enum tier_status spoke_budget_charge(struct spoke_run *run, uint64_t round, struct tier_err *err);
/* The run's rounds below this one are over: their keys are forgotten. */
enum tier_status spoke_budget_over(struct spoke_run *run, uint64_t below, struct tier_err *err);

/* The command, argv[0] being its own name; its exit status: 0, 1 (errors), 2 (usage). */
int spoke_budget_main(int argc, char **argv, FILE *out, FILE *errors);

#endif
