/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinate-wise trimmed mean (Yin, Chen, Ramchandran, Bartlett 2018): each coordinate is the
 * mean of what is left without the `byzantine` lowest and the `byzantine` highest values. Stands
 * while no more than `byzantine` updates are an attacker's.
 */
#include "kernels/kern.h"
#include "tier/merge_rules.h"

#include <inttypes.h>
#include <stdio.h>

static size_t scratch_bytes(size_t count) {
    return KERN_TRIM_WORK(count) * sizeof(float);
}

static bool ready(size_t count, const struct tier_merge_params *params, char *why,
                  size_t why_bytes) {
    if (count > 2 * params->byzantine)
        return true;
    snprintf(why, why_bytes,
             "without the %" PRIu64 " lowest and the %" PRIu64
             " highest of %zu values nothing is left; %" PRIu64 " updates would be enough",
             params->byzantine, params->byzantine, count, 2 * params->byzantine + 1);
    return false;
}

static void block(const struct tier_merge_block *in, float *out) {
    kern_trimmed_mean(out, in->x, in->count, in->stride, in->n, (size_t)in->params->byzantine,
                      in->scratch);
}

const struct tier_merge_ops tier_merge_trimmed_mean = {.abi = TIER_MERGE_ABI,
                                                       .bytes = sizeof tier_merge_trimmed_mean,
                                                       .name = "trimmed_mean",
                                                       .params = TIER_MERGE_BYZANTINE,
                                                       .scratch_bytes = scratch_bytes,
                                                       .ready = ready,
                                                       .block = block};
