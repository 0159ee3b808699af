/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in a folder, by name, in the order of bytes, which is the same on every machine.
 * Threads: no shared state.
 */
#ifndef CONSILIUM_SPOKE_FOLDER_H
#define CONSILIUM_SPOKE_FOLDER_H

#include "tier/err.h"

#include <stddef.h>

/* Zeroed before; owns its names. */
struct spoke_names {
    char **at;
    size_t n, cap;
};

/* Names that do not begin with a dot; TIER_ELIMIT where there are more than `most`. */
enum tier_status spoke_folder_list(int folder, size_t most, struct spoke_names *names,
                                   struct tier_err *err);
void spoke_names_release(struct spoke_names *names);

#endif
