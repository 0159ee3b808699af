/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/piece.h"

#include <string.h>

enum tier_status tier_piece_begin(struct tier_piece_reader *r, struct tier_rpc_message *message,
                                  struct tier_err *err) {
    r->message = message;
    r->head_n = r->rest_n = 0;
    while (r->head_n < sizeof r->head && tier_rpc_message_next(message, &r->rest, &r->rest_n)) {
        size_t room = sizeof r->head - r->head_n;
        size_t take = r->rest_n < room ? r->rest_n : room;
        memcpy(r->head + r->head_n, r->rest, take);
        r->head_n += take;
        r->rest += take;
        r->rest_n -= take;
    }
    return tier_wire_piece(r->head, r->head_n, tier_rpc_message_bytes(message), &r->piece,
                           &r->data_at, err);
}

bool tier_piece_next(struct tier_piece_reader *r, const uint8_t **data_out, size_t *n_out) {
    if (r->data_at < r->head_n) {
        *data_out = r->head + r->data_at;
        *n_out = r->head_n - r->data_at;
        r->data_at = r->head_n;
        return true;
    }
    while (r->rest_n == 0)
        if (!tier_rpc_message_next(r->message, &r->rest, &r->rest_n))
            return false;
    *data_out = r->rest;
    *n_out = r->rest_n;
    r->rest_n = 0;
    return true;
}
