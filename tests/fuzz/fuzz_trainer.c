/* SPDX-License-Identifier: Apache-2.0 */
/* What a spoke and a trainer say to each other: what is accepted is within its bounds, and encodes
 * to bytes that mean the same. */
#include "fuzz/fuzz.h"
#include "tier/trainer_wire.h"

#include <string.h>

static void from(const uint8_t *data, size_t size) {
    struct tier_from_trainer m, again;

    if (tier_from_trainer(data, size, &m, NULL) != TIER_OK)
        return;
    FUZZ_CHECK(m.weight <= TIER_WEIGHT_MAX);
    FUZZ_CHECK(!m.metrics || tier_metrics_count(m.metrics) <= TIER_TRAINER_METRICS_MAX);
    struct tier_bytes b = tier_from_trainer_bytes(&m);
    if (b.n <= TIER_TRAINER_SAID_BYTES) { /* values that were packed as tight as can be may grow */
        FUZZ_CHECK(tier_from_trainer(b.data, b.n, &again, NULL) == TIER_OK);
        struct tier_bytes c = tier_from_trainer_bytes(&again);
        FUZZ_CHECK(b.n == c.n && memcmp(b.data, c.data, b.n) == 0);
        free(c.data);
        tier_from_trainer_release(&again);
    }
    free(b.data);
    tier_from_trainer_release(&m);
}

static void to(const uint8_t *data, size_t size) {
    struct tier_to_trainer m, again;

    if (tier_to_trainer(data, size, &m, NULL) != TIER_OK)
        return;
    FUZZ_CHECK(!strchr(m.model, '/') && !strchr(m.result, '/'));
    FUZZ_CHECK(m.plan_bytes <= size && (m.plan_bytes == 0) == (m.plan == NULL));
    struct tier_bytes b = tier_to_trainer_bytes(&m);
    FUZZ_CHECK(tier_to_trainer(b.data, b.n, &again, NULL) == TIER_OK);
    struct tier_bytes c = tier_to_trainer_bytes(&again);
    FUZZ_CHECK(b.n == c.n && memcmp(b.data, c.data, b.n) == 0);
    free(b.data);
    free(c.data);
    tier_to_trainer_release(&m);
    tier_to_trainer_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    from(data, size);
    to(data, size);
    return 0;
}

static struct tier_bytes seed_of(unsigned i) {
    static char plan[] = "{\"plan\":1}";
    static const int64_t bins[] = {3, 0, INT64_MIN};
    struct tier_metrics *metrics = tier_metrics_new();
    const struct tier_from_trainer said[] = {
        {.type = TIER_TRAINER_HELLO, .protocol = TIER_TRAINER_PROTOCOL, .software = "numpy"},
        {.type = TIER_TRAINER_RESULT, .job = 2, .weight = 31, .steps = 4, .metrics = metrics},
        {.type = TIER_TRAINER_RESULT, .job = 2, .failed = true, .reason = "why"}};
    const struct tier_to_trainer told[] = {
        {.type = TIER_TRAINER_WELCOME, .spoke = "north-1", .contract = "heart"},
        {.type = TIER_TRAINER_ROUND,
         .job = 2,
         .run = {{1}},
         .round = 1,
         .seed = 9,
         .bytes = 4096,
         .weight_max = 17,
         .train = true,
         .model = "a.model",
         .result = "a.result",
         .graph = "/a.onnx",
         .plan = plan,
         .plan_bytes = sizeof plan - 1},
        {.type = TIER_TRAINER_OVER, .job = 2, .why = "why"}};

    tier_metrics_add(metrics, "hist", 3, bins, NULL);
    tier_metrics_add(metrics, "count", 1, bins, NULL);
    struct tier_bytes b = {0};
    if (i < 3)
        b = tier_from_trainer_bytes(&said[i]);
    else if (i < 6)
        b = tier_to_trainer_bytes(&told[i - 3]);
    tier_metrics_free(metrics);
    return b;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    struct tier_bytes b = seed_of(i);

    FUZZ_CHECK(b.n <= room);
    if (b.n)
        memcpy(out, b.data, b.n);
    free(b.data);
    return b.n;
}
