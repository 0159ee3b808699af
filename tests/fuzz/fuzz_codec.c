/* SPDX-License-Identifier: Apache-2.0 */
/* Packed sums: the first two bytes say how many; what is accepted packs to itself. */
#include "fuzz/fuzz.h"
#include "tier/codec.h"

#include <string.h>

#define VALUES_MAX 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int64_t values[VALUES_MAX];
    static uint8_t again[TIER_PACK_BOUND(VALUES_MAX)];
    size_t used = 0;

    if (size < 2)
        return 0;
    size_t n = (size_t)(data[0] | data[1] << 8) % (VALUES_MAX + 1);
    if (tier_unpack(data + 2, size - 2, values, n, &used, NULL) != TIER_OK)
        return 0;
    FUZZ_CHECK(tier_pack(values, n, again) == used);
    FUZZ_CHECK(memcmp(again, data + 2, used) == 0);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const size_t lengths[] = {1, 3, 256, 300, 1000};
    int64_t values[VALUES_MAX];

    if (i >= 5)
        return 0;
    size_t n = lengths[i];
    FUZZ_CHECK(room >= 2 + TIER_PACK_BOUND(n));
    for (size_t k = 0; k < n; k++)
        values[k] = ((int64_t)(k * 2654435761u) - 1234567) * (int64_t)(k % 3) << (8 * i) % 24;
    out[0] = (uint8_t)n;
    out[1] = (uint8_t)(n >> 8);
    return 2 + tier_pack(values, n, out + 2);
}
