/* SPDX-License-Identifier: Apache-2.0 */
/* The order in which rows are trained on, and the seeds of it: the part of spoke/train.h that is
 * about random numbers, none of which is a secret (those are tier/noise.h). */
#include "spoke/draw.h"
#include "spoke/train.h"

#include <string.h>

/* Uniform in [0, n) without bias: multiply and reject (Lemire 2019). */
static uint32_t below(uint64_t *state, uint32_t n) {
    for (;;) {
        uint64_t product = (spoke_draw(state) >> 32) * n;
        if ((uint32_t)product >= (uint32_t)-n % n)
            return (uint32_t)(product >> 32);
    }
}

void spoke_train_shuffle(uint64_t seed, uint64_t epoch, int32_t *index, size_t n) {
    uint64_t state = spoke_draw_mix(seed ^ spoke_draw_mix(epoch + 1));

    for (size_t i = 0; i < n; i++)
        index[i] = (int32_t)i;
    for (size_t i = n; i > 1; i--) {
        uint32_t j = below(&state, (uint32_t)i);
        int32_t swap = index[i - 1];
        index[i - 1] = index[j];
        index[j] = swap;
    }
}

uint64_t spoke_train_seed(const char *run, uint64_t round, const char *node) {
    struct tier_hasher *h = tier_hasher_new();
    struct tier_hash digest;
    uint8_t count[8];
    uint64_t seed = 0;

    for (int i = 0; i < 8; i++)
        count[i] = (uint8_t)(round >> (56 - 8 * i));
    tier_hasher_add(h, run, strlen(run) + 1);
    tier_hasher_add(h, count, sizeof count);
    tier_hasher_add(h, node, strlen(node) + 1);
    tier_hasher_finish(h, &digest);
    tier_hasher_free(h);
    for (int i = 0; i < 8; i++)
        seed = seed << 8 | digest.b[i];
    return seed;
}
