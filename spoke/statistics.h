/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hospital's part in federated statistics (tier/statistics.h): its own rows, counted column by
 * column. The table is read twice, counts first, so that memory does not grow with it and sums
 * leave out what small cells hide. Rows count whatever part they are split into, and so do rows
 * that training would drop for a missing value.
 *
 * Threads: one.
 */
#ifndef CONSILIUM_SPOKE_STATISTICS_H
#define CONSILIUM_SPOKE_STATISTICS_H

#include "spoke/data.h"
#include "tier/statistics.h"

/* Whether the contract has the columns that the plan counts, as it counts them: TIER_EPOLICY names
 * the one that it has not, or has otherwise. */
enum tier_status spoke_statistics_check(const struct tier_plan *plan,
                                        const struct spoke_schema *schema, struct tier_err *err);
/*
 * Adds this hospital's sums to `out`. `cells_min` is the hospital's own; the larger of it and the
 * plan's counts. Rows that `consents` (NULL: none) withhold from the plan's purpose are not read.
 * Errors are those of spoke_data_open.
 */
enum tier_status spoke_statistics_run(const struct tier_plan *plan, const char *schema_path,
                                      const char *path, const struct spoke_consent *consents,
                                      uint64_t cells_min, struct tier_metrics *out,
                                      struct tier_err *err);

#endif
