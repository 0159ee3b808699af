/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose masked updates a masked sum is of (tier/blind.h): the names of its spokes, as they are in
 * the round's secure sum. Whoever adds sums joins the names, and finds a spoke that is in two of
 * them: its update would count twice, and no mask would come off.
 *
 *   u32 count, count times: u8 length, name; in ascending order; little-endian
 *
 * Threads: an object belongs to one thread at a time.
 */
#ifndef CONSILIUM_TIER_MEMBERS_H
#define CONSILIUM_TIER_MEMBERS_H

#include "tier/err.h"
#include "tier/limits.h"

#include <stdint.h>

#define TIER_MEMBERS_BYTES_MAX (4u + TIER_CHILDREN_MAX * (1u + TIER_NAME_LEN_MAX))

/* All zero is none. */
struct tier_members {
    char (*name)[TIER_NAME_LEN_MAX + 1]; /* ascending, each once */
    size_t count, room;
};
void tier_members_release(struct tier_members *m);

/* TIER_ECONFLICT: it is there; TIER_ELIMIT: TIER_CHILDREN_MAX are; TIER_EARG: it is no name. */
enum tier_status tier_members_add(struct tier_members *m, const char *name, struct tier_err *err);
bool tier_members_has(const struct tier_members *m, const char *name);
/* Adds all of `more`, or, where one of them is there already or they are too many, none of them:
 * TIER_ECONFLICT, TIER_ELIMIT. */
enum tier_status tier_members_join(struct tier_members *m, const struct tier_members *more,
                                   struct tier_err *err);

/* The bytes are malloc'd. */
uint8_t *tier_members_bytes(const struct tier_members *m, size_t *bytes_out);
/* TIER_EPROTO: they are not what tier_members_bytes would write. */
enum tier_status tier_members_read(const uint8_t *bytes, size_t n, struct tier_members *out,
                                   struct tier_err *err);

#endif
