/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Little-endian integers in byte strings, for our own file and header formats. All offsets are the
 * caller's to check. Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_BYTES_H
#define CONSILIUM_TIER_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline void tier_put_u32(uint8_t *p, uint32_t v) {
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}

static inline void tier_put_u64(uint8_t *p, uint64_t v) {
    v = htole64(v);
    memcpy(p, &v, sizeof v);
}

static inline uint32_t tier_get_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static inline uint64_t tier_get_u64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

#endif
