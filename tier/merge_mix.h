/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nearest-neighbour mixing (Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan 2023): before a
 * robust rule, each update becomes the mean of the count - byzantine updates nearest to it, itself
 * included. It makes the honest updates look alike, which robust rules need where hospitals differ.
 *
 * Threads: pure functions.
 */
#ifndef CONSILIUM_TIER_MERGE_MIX_H
#define CONSILIUM_TIER_MERGE_MIX_H

#include "tier/merge_rule.h"

bool tier_merge_mix_ready(size_t count, const struct tier_merge_params *params, char *why,
                          size_t why_bytes);
/*
 * From a matrix as in struct tier_merge_gram: near[i * kept + k], ascending, the `kept` = count -
 * byzantine updates nearest to i. Of equally near ones the first counts. order[count] is scratch.
 */
void tier_merge_mix_near(const double *g, size_t count, size_t kept, uint32_t *order,
                         uint32_t *near);
/* The matrix of the mixed updates and the previous result, into out; g is as above, side[count + 1]
 * scratch. */
void tier_merge_mix_gram(const double *g, size_t count, size_t kept, const uint32_t *near,
                         double *side, double *out);
/* Coefficients of mixed updates as coefficients of the updates: c[count + 1] in place. */
void tier_merge_mix_back(size_t count, size_t kept, const uint32_t *near, double *c,
                         double *scratch);
/* Those that are not near: far[i * (count - kept) + k], ascending. */
void tier_merge_mix_far(size_t count, size_t kept, const uint32_t *near, uint32_t *far);

#endif
