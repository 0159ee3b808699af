/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A clip of their own for some tensors: a variance may move a thousand times as far as a weight,
 * and what is summed is integers in units of 2^-30 of the clip. An entry is "PATTERN=CLIP"; the
 * first one whose pattern matches counts. A name may hold '=', so the last one divides.
 */
#include "tier/plan_keys.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define CLIP_MIN 1e-20 /* exact.clip's: -100 <= f <= 100 */
#define CLIP_MAX 1e30

/* False where the entry is not of that form, or its clip out of bounds. */
static bool split(const char *entry, char pattern[TIER_TENSOR_NAME_LEN_MAX + 1], double *clip) {
    const char *last = strrchr(entry, '=');
    char *end;

    if (!last || last == entry || !strchr("0123456789.", last[1]) || !last[1])
        return false;
    errno = 0;
    double value = strtod(last + 1, &end);
    if (*end || errno || !(value >= CLIP_MIN && value <= CLIP_MAX) || strpbrk(last + 1, "xX"))
        return false;
    memcpy(pattern, entry, (size_t)(last - entry));
    pattern[last - entry] = '\0';
    *clip = value;
    return true;
}

void tier_plan_check_clips(const struct tier_plan_checker *c) {
    const struct tier_plan *p = c->plan;
    char pattern[TIER_TENSOR_NAME_LEN_MAX + 1];
    double clip;

    for (size_t i = 0; i < p->clips.count; i++)
        if (!split(tier_keys_list_item(&p->clips, i), pattern, &clip))
            tier_plan_complain(c, "exact.clips",
                               "has '%.80s': a pattern of tensor names, '=' and a number from "
                               "1e-20 to 1e30 would be right, like 'bn*.running_var=1024.0'",
                               tier_keys_list_item(&p->clips, i));
    if (p->clips.count > 0 && (p->codec.name == TIER_PLAN_Q8 || p->codec.name == TIER_PLAN_Q4 ||
                               p->codec.name == TIER_PLAN_ONE_BIT))
        tier_plan_complain(
            c, "exact.clips",
            "must be empty with codec.name q8, q4 and one_bit: a block has one scale "
            "for elements of several tensors");
    if (p->clips.count > 0 && (p->scaffold || p->curvature.lambda > 0))
        tier_plan_complain(c, "exact.clips",
                           "must be empty with %s, whose own sums are scaled by exact.clip alone",
                           p->scaffold ? "local.scaffold" : "local.curvature.lambda");
}

int tier_plan_tensor_bits(const struct tier_plan *plan, const char *name) {
    char pattern[TIER_TENSOR_NAME_LEN_MAX + 1];
    double clip;

    for (size_t i = 0; i < plan->clips.count; i++)
        if (split(tier_keys_list_item(&plan->clips, i), pattern, &clip) &&
            fnmatch(pattern, name, 0) == 0)
            return tier_plan_frac_bits(clip);
    return plan->frac_bits;
}

bool tier_plan_clip_pattern(const struct tier_plan *plan, size_t i,
                            char pattern[TIER_TENSOR_NAME_LEN_MAX + 1]) {
    double clip;
    return split(tier_keys_list_item(&plan->clips, i), pattern, &clip);
}
