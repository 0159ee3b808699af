/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run of statistics counted below this hub (tier/statistics.h), kept in its journal.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_STATISTICS_H
#define CONSILIUM_HUB_STATISTICS_H

#include "hub/hub.h"
#include "tier/console_wire.h"

/* In the caller's transaction. */
enum tier_status hub_statistics_keep(const struct hub_run *run, const struct tier_metrics *sums,
                                     struct tier_err *err);
/* TIER_EARG: the run counts nothing; TIER_ENOTFOUND: it has not yet. The caller releases. */
enum tier_status hub_statistics_view(const struct hub_run *run, struct tier_console_statistics *out,
                                     struct tier_err *err);

#endif
