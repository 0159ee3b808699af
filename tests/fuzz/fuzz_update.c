/* SPDX-License-Identifier: Apache-2.0 */
/* Update headers: what is accepted encodes to itself. */
#include "fuzz/fuzz.h"
#include "tier/update.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_update_header h;
    uint8_t *bytes = NULL;
    size_t n = 0;

    if (tier_update_header_decode(data, size, &h, NULL) != TIER_OK)
        return 0;
    FUZZ_CHECK(tier_update_header_encode(&h, &bytes, &n, NULL) == TIER_OK);
    FUZZ_CHECK(n == size && memcmp(bytes, data, n) == 0);
    free(bytes);
    tier_update_header_release(&h);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    struct tier_update_header h = {.round = i,
                                   .weight = 10 * (uint64_t)(i % 2),
                                   .encoding = (enum tier_encoding)(TIER_ENC_F32 + i % 16 / 2),
                                   .zipped = i >= 16,
                                   .payload_bytes = 400 * (uint64_t)(i % 2)};
    int64_t values[3] = {1, -2, INT64_MAX};
    uint8_t *bytes = NULL;
    size_t n = 0;

    if (h.zipped && h.encoding == TIER_ENC_SUM)
        h.encoding = TIER_ENC_F32;
    if (i >= 32)
        return 0;
    if (i >= 30) { /* a masked one says nothing but which metrics there are */
        h.encoding = i == 30 ? TIER_ENC_MASKED : TIER_ENC_MASKED32;
        h.zipped = false;
        h.weight = 1;
        h.payload_bytes = 400;
        memset(values, 0, sizeof values);
    }
    h.metrics = tier_metrics_new();
    FUZZ_CHECK(tier_metrics_add(h.metrics, "loss", 3, values, NULL) == TIER_OK);
    FUZZ_CHECK(tier_update_header_encode(&h, &bytes, &n, NULL) == TIER_OK && n <= room);
    memcpy(out, bytes, n);
    free(bytes);
    tier_metrics_free(h.metrics);
    return n;
}
