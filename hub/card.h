/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a hub knows of a model that two operators release, put together from its journal and the
 * run's plan, and signed (tier/card.h). How far hospitals differ in what the model is worth to them
 * is told where this tier heard it of at least HUB_CARD_CHILDREN_MIN children, as the least, the
 * middle and the greatest of their figures; of fewer that would be somebody's own figure.
 *
 * Threads: the loop's.
 */
#ifndef CONSILIUM_HUB_CARD_H
#define CONSILIUM_HUB_CARD_H

#include "hub/hub.h"
#include "tier/card.h"

#define HUB_CARD_CHILDREN_MIN 3

/* A child's update came: what its figures say of the model that the round began with. Kept until
 * hub_card_spread, over a kill too. */
void hub_card_heard(struct hub_run *run, const char *child, const struct tier_update_header *h);
/* The round's own update is made, and its figures are about to be recorded: how the figures of the
 * children that count in it are spread. In the caller's transaction. */
enum tier_status hub_card_spread(struct hub_run *run, struct tier_err *err);

/* Makes the card of the last model of a run, stores it in the models directory and notes which it
 * is. TIER_EIDENTITY: the hub has no key to sign with. */
enum tier_status hub_card_make(struct hub *hub, const struct tier_hash *model,
                               const char by[2][TIER_NAME_LEN_MAX + 1], int64_t now_ms,
                               struct tier_hash *card_out, struct tier_err *err);
/* The card of a released model; TIER_ENOTFOUND: there is none. */
enum tier_status hub_card_of(const struct hub *hub, const struct tier_hash *model,
                             struct tier_hash *card_out, struct tier_err *err);

#endif
