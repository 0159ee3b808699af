/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merges on many threads: several at once over the same updates, by one worker and by four, for
 * every kind of pass. Every way must give the same bits.
 */
#include "tsan/tsan.h"
#include "tier/log.h"
#include "tier/merge.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#define CHILDREN 7
#define ELEMENTS (3u * TIER_SEGMENT_ELEMENTS + 1000u)
#define WAYS 3

static struct tier_spool *spool;
static struct tier_manifest *manifest;
static struct tier_hash updates[CHILDREN], previous;

static void seal(unsigned child, uint64_t round, struct tier_hash *out) {
    struct tier_update_header h = {
        .round = round, .manifest = manifest->hash, .weight = child + 1, .encoding = TIER_ENC_F32};
    float *x = malloc(ELEMENTS * sizeof *x);

    NEED(x != NULL);
    for (unsigned i = 0; i < ELEMENTS; i++)
        x[i] = 0.1f * sinf((float)(i * (child + 3)) * 1e-3f);
    MUST(tier_update_seal_f32(spool, &h, manifest, x, false, out, err));
    free(x);
}

struct merging {
    unsigned threads;
    const struct tier_plan_merge *settings;
    struct tier_hash result;
};

static void *merge(void *arg) {
    struct merging *m = arg;
    struct tier_merge job = {
        .rule = tier_merge_rule_of(m->settings), .settings = m->settings, .previous = previous};

    job.fold = (struct tier_fold){.spool = spool,
                                  .manifest = manifest,
                                  .round = 1,
                                  .inputs = updates,
                                  .count = CHILDREN,
                                  .threads = m->threads,
                                  .memory_bytes = 64u << 20};
    MUST(tier_merge_run(&job, &m->result, err));
    return NULL;
}

int main(void) {
    static const struct tier_plan_merge settings[] = {
        {.rule.choice = TIER_PLAN_MEDIAN},
        {.rule.choice = TIER_PLAN_KRUM, .byzantine = 0.2},
        {.rule.choice = TIER_PLAN_CENTRED_CLIPPING, .iterations = 3},
        {.rule.choice = TIER_PLAN_TRIMMED_MEAN, .byzantine = 0.2, .mix = TIER_PLAN_MIX_NEAREST},
    };
    struct tier_tensor t = {.name = "weight", .ndim = 1, .dims = {ELEMENTS}, .frac_bits = 30};
    char path[120];

    tier_log_init("tsan", TIER_LOG_ERROR);
    work_begin();
    snprintf(path, sizeof path, "%s/spool", work_dir);
    MUST(tier_manifest_new(&t, 1, &manifest, err));
    MUST(tier_spool_open(path, false, &spool, err));
    for (unsigned i = 0; i < CHILDREN; i++)
        seal(i, 1, &updates[i]);
    seal(CHILDREN, 0, &previous);
    for (size_t k = 0; k < sizeof settings / sizeof settings[0]; k++) {
        struct merging m[WAYS] = {{.threads = 4}, {.threads = 4}, {.threads = 1}};
        pthread_t threads[WAYS];
        for (int i = 0; i < WAYS; i++) {
            m[i].settings = &settings[k];
            NEED(pthread_create(&threads[i], NULL, merge, &m[i]) == 0);
        }
        for (int i = 0; i < WAYS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 1; i < WAYS; i++)
            NEED(tier_hash_equal(&m[0].result, &m[i].result));
    }
    tier_spool_close(spool);
    tier_manifest_free(manifest);
    work_end();
    return 0;
}
