/* SPDX-License-Identifier: Apache-2.0 */
/* Metrics: what is accepted encodes to itself. */
#include "fuzz/fuzz.h"
#include "tier/metric.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_metrics *m = NULL;
    uint8_t *bytes = NULL;
    size_t n = 0;

    if (tier_metrics_decode(data, size, &m, NULL) != TIER_OK)
        return 0;
    FUZZ_CHECK(tier_metrics_encode(m, &bytes, &n, NULL) == TIER_OK);
    FUZZ_CHECK(n == size && (n == 0 || memcmp(bytes, data, n) == 0));
    free(bytes);
    tier_metrics_free(m);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    struct tier_metrics *m = tier_metrics_new();
    int64_t values[512] = {0};
    uint8_t *bytes = NULL;
    size_t n = 0;

    if (i >= 4) {
        tier_metrics_free(m);
        return 0;
    }
    for (unsigned k = 0; k < 512; k++)
        values[k] = k % (7 * i + 1) == 0 ? (int64_t)(k * 7919) << (9 * i) : 0;
    FUZZ_CHECK(tier_metrics_add(m, "count", 1, values + 1, NULL) == TIER_OK);
    FUZZ_CHECK(tier_metrics_add(m, "hist", 128u << (i / 2), values, NULL) == TIER_OK);
    FUZZ_CHECK(tier_metrics_encode(m, &bytes, &n, NULL) == TIER_OK && n <= room);
    memcpy(out, bytes, n);
    free(bytes);
    tier_metrics_free(m);
    return n;
}
