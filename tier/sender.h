/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends a long run of bytes over a call as Pieces, a few chunks ahead of the network, from buffers
 * that are lent to it until the network is done with them. Used both ways: models down, updates up.
 *
 * Threads: the loop's. Buffers come back on any thread.
 */
#ifndef CONSILIUM_TIER_SENDER_H
#define CONSILIUM_TIER_SENDER_H

#include "tier/rpc.h"
#include "tier/wire.h"

struct tier_sender;

/* Fills out[n] from `offset`. */
typedef enum tier_status tier_sender_read(void *source, uint64_t offset, void *out, size_t n,
                                          struct tier_err *err);

/*
 * Sends [offset, total). `id` (may be NULL) goes in the first piece. `content` names what `source`
 * reads, so that senders of the same read it once; NULL where nobody else sends it. Borrows call
 * and source.
 */
struct tier_sender *tier_sender_new(struct tier_rpc_call *call, const struct tier_hash *id,
                                    const struct tier_hash *content, tier_sender_read *read,
                                    void *source, uint64_t total, uint64_t offset);
/* NULL is fine. Pieces under way are finished by the network. */
void tier_sender_free(struct tier_sender *s);
/*
 * Queues pieces until enough wait; call it once, then from the call's `sent`. Behind the last piece
 * it half-closes (client) or finishes (server) the call. A failed read ends the call: it is
 * cancelled (client) or finished with that error (server).
 */
void tier_sender_fill(struct tier_sender *s);

#endif
