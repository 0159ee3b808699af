/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The noise that the top draws for whole sites (a plan's privacy.site with noise_at: top): a key a
 * round, charged to the top's own ledger (tier/ledger.h), and so on the disk, before it is used,
 * and in the audit log by its hash. Who is killed while publishing finds it and publishes the same
 * model. It stays for as long as the updates of the round are retained, for without it nobody could
 * compute the round again; whoever has both has the sum without noise.
 *
 * Threads: the loop's; calls block on the disk.
 */
#ifndef CONSILIUM_HUB_NOISE_H
#define CONSILIUM_HUB_NOISE_H

#include "hub/hub.h"

/* The key of the open round, drawn at the first call; untouched where the plan needs none here.
 * Errors of the ledger; TIER_EPOLICY where the round was charged and its key is gone. */
enum tier_status hub_noise_key(struct hub_run *run, struct tier_noise_key *out,
                               struct tier_err *err);
/* The run's rounds below this one are committed. */
void hub_noise_over(struct hub_run *run, uint64_t below);
/* Forgets keys of before the updates that are retained. */
void hub_noise_expire(struct hub *hub);

#endif
