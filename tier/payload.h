/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of one segment, where they are: in the update's file, or in memory, where they were
 * unpacked to (tier/zip.h). Offsets are those of the payload either way.
 *
 * Threads: immutable; whoever unpacked the bytes keeps them.
 */
#ifndef CONSILIUM_TIER_PAYLOAD_H
#define CONSILIUM_TIER_PAYLOAD_H

#include "tier/spool.h"

#include <string.h>

struct tier_payload {
    const struct tier_update *update;
    const uint8_t *held; /* NULL: all of it is in the file */
    uint64_t held_at;    /* the offset that held[0] stands for */
    size_t held_bytes;
};

static inline enum tier_status tier_payload_read(const struct tier_payload *p, uint64_t offset,
                                                 void *out, size_t n, struct tier_err *err) {
    if (!p->held)
        return tier_spool_update_read(p->update, offset, out, n, err);
    if (offset < p->held_at || offset - p->held_at > p->held_bytes ||
        n > p->held_bytes - (size_t)(offset - p->held_at))
        return tier_fail(err, TIER_EUPDATE, "a segment ends before what it should hold");
    memcpy(out, p->held + (offset - p->held_at), n);
    return TIER_OK;
}

#endif
