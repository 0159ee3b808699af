/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as lower-case hex, of any length; hashes have their own (tier/hash.h). Threads: no state.
 */
#ifndef CONSILIUM_TIER_HEX_H
#define CONSILIUM_TIER_HEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* At most `room` bytes into out. False: another character, half a byte, or more than that. */
bool tier_hex_read(const char *text, uint8_t *out, size_t room, size_t *bytes_out);

#endif
