/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the schema: its YAML files, read along tables of keys into struct spoke_schema.
 * Checks keys, types and lengths; what the values mean together is checked by schema.c.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_SPOKE_SCHEMA_READ_H
#define CONSILIUM_SPOKE_SCHEMA_READ_H

#include "spoke/schema.h"

/* Reads the schema and the code-book it names. Errors as spoke_schema_open. */
enum tier_status spoke_schema_read(const char *path, struct spoke_schema **schema_out,
                                   struct tier_err *err);

#endif
