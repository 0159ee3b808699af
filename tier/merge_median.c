/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinate-wise median (Yin, Chen, Ramchandran, Bartlett 2018): stands while fewer than half
 * of the updates are an attacker's. With an even number it is the mean of the middle two.
 */
#include "kernels/kern.h"
#include "tier/merge_rules.h"

static size_t scratch_bytes(size_t count) {
    return KERN_TRIM_WORK(count) * sizeof(float);
}

static void block(const struct tier_merge_block *in, float *out) {
    kern_trimmed_mean(out, in->x, in->count, in->stride, in->n, (in->count - 1) / 2, in->scratch);
}

const struct tier_merge_ops tier_merge_median = {.abi = TIER_MERGE_ABI,
                                                 .bytes = sizeof tier_merge_median,
                                                 .name = "median",
                                                 .scratch_bytes = scratch_bytes,
                                                 .block = block};
