/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of merges share: settings, updates with their values, one call to merge. */
#ifndef CONSILIUM_TESTS_MERGE_FIXTURE_H
#define CONSILIUM_TESTS_MERGE_FIXTURE_H

#include "support/tier_fixture.h"
#include "tier/merge.h"
#include "tier/plan_keys.h"

/* As a plan that names nothing but these gives it. */
static inline struct tier_plan_merge settings_of(int rule, double byzantine, bool mix) {
    struct tier_plan_merge s = {.rule = {.choice = rule}, .byzantine = byzantine};
    s.mix = mix ? TIER_PLAN_MIX_NEAREST : TIER_PLAN_MIX_NONE;
    tier_plan_merge_defaults(&s);
    return s;
}

static inline struct tier_merge merge_of(struct tier_spool *spool, const struct tier_manifest *m,
                                         const struct tier_hash *ids, size_t n,
                                         const struct tier_plan_merge *settings) {
    struct tier_update_header h = header_for(m, 1);
    struct tier_merge merge = {.rule = tier_merge_rule_of(settings), .settings = settings};
    merge.fold = (struct tier_fold){.spool = spool,
                                    .manifest = m,
                                    .run = h.run,
                                    .round = h.round,
                                    .base_model = h.base_model,
                                    .inputs = ids,
                                    .count = n,
                                    .threads = 1};
    merge.fold.memory_bytes = tier_merge_memory_min(m, merge.rule, settings, n);
    return merge;
}

static inline struct tier_hash merged(const struct tier_merge *merge) {
    struct tier_hash id;
    MUST(tier_merge_run(merge, &id, err));
    return id;
}

/* The elements of a sealed F32 update; to be freed. */
static inline float *elements_of(struct tier_spool *spool, const struct tier_manifest *m,
                                 const struct tier_hash *id) {
    struct tier_update *u = update_open(spool, id);
    float *x = malloc(m->elements * sizeof *x);
    CHECK(tier_spool_update_header(u)->encoding == TIER_ENC_F32);
    MUST(tier_update_verify(u, m, err));
    MUST(tier_spool_update_check(u, err));
    MUST(tier_spool_update_read(u, 0, x, m->elements * sizeof *x, err));
    tier_spool_update_close(u);
    return x;
}

static inline struct tier_hash sealed_values(struct tier_spool *spool,
                                             const struct tier_manifest *m, const float *x,
                                             uint64_t weight) {
    struct tier_update_header h = header_for(m, weight);
    struct tier_hash id;
    MUST(tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    return id;
}

static inline int by_hash(const void *a, const void *b) {
    return memcmp(a, b, sizeof(struct tier_hash));
}

static const int all_rules[] = {
    TIER_PLAN_MEDIAN,     TIER_PLAN_TRIMMED_MEAN,     TIER_PLAN_KRUM,
    TIER_PLAN_MULTI_KRUM, TIER_PLAN_GEOMETRIC_MEDIAN, TIER_PLAN_CENTRED_CLIPPING,
    TIER_PLAN_NORM_BOUND};
#define RULES (sizeof all_rules / sizeof all_rules[0])

#endif
