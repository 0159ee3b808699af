/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A received Piece, read from the message's slices without putting them together: only the prefix,
 * and what of the data shares its first bytes, is gathered, because it may straddle slices.
 *
 * Threads: whichever has the message: the loop's inside the callback that brought it, or the one it
 * was taken to.
 */
#ifndef CONSILIUM_TIER_PIECE_H
#define CONSILIUM_TIER_PIECE_H

#include "tier/rpc.h"
#include "tier/wire.h"

struct tier_piece_reader {
    struct tier_piece piece;
    struct tier_rpc_message *message;
    uint8_t head[TIER_PIECE_PREFIX_MAX];
    size_t data_at, head_n; /* of the data in head */
    const uint8_t *rest;    /* of the slice that head ended in */
    size_t rest_n;
};

/* TIER_EPROTO: not a piece. */
enum tier_status tier_piece_begin(struct tier_piece_reader *r, struct tier_rpc_message *message,
                                  struct tier_err *err);
/* The next stretch of data, never empty; false at the end. */
bool tier_piece_next(struct tier_piece_reader *r, const uint8_t **data_out, size_t *n_out);

#endif
