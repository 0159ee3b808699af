/* SPDX-License-Identifier: Apache-2.0 */
/* Private to tier/wire*.c: messages of which wire.c has the names alone. Threads: as tier/wire.h.
 */
#ifndef CONSILIUM_TIER_WIRE_PARTS_H
#define CONSILIUM_TIER_WIRE_PARTS_H

#include "tier/wire.h"

#include "tier.pb-c.h"

enum tier_status tier_wire_take_head(const Consilium__Head *p, struct tier_head *h,
                                     struct tier_err *err);
/* `proof` is the message's until it is packed. */
void tier_wire_give_head(const struct tier_head *h, Consilium__Head *p,
                         ProtobufCBinaryData proof[TIER_TREE_PROOF_MAX]);
enum tier_status tier_wire_take_challenge(const Consilium__Challenge *p, struct tier_to_child *m,
                                          struct tier_err *err);
void tier_wire_give_challenge(const struct tier_to_child *m, Consilium__Challenge *p);
enum tier_status tier_wire_take_quote(const Consilium__Quote *p, struct tier_from_child *m,
                                      struct tier_err *err);
void tier_wire_give_quote(const struct tier_from_child *m, Consilium__Quote *p);

#endif
