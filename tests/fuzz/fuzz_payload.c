/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payloads of a hostile child: sealed correctly, whatever they hold. Verifying must refuse them or
 * find sums that fold; a fold of what was verified must succeed, and so must every other merge.
 */
#include "fuzz/fuzz.h"
#include "tier/codec.h"
#include "tier/merge.h"
#include "tier/spool.h"

#include <string.h>
#include <unistd.h>

#define NARROW 700
#define WIDE 40

static struct tier_spool *spool;
static struct tier_manifest *manifest;
static char dir[] = "/tmp/consilium-fuzz-XXXXXX";

static void down(void) {
    tier_spool_close(spool);
    tier_manifest_free(manifest);
    rmdir(dir);
}

static void up(void) {
    struct tier_tensor t[2] = {{.name = "a", .ndim = 1, .dims = {NARROW}, .frac_bits = 30},
                               {.name = "b", .ndim = 1, .dims = {WIDE}, .frac_bits = 20}};
    t[1].wide = true;
    FUZZ_CHECK(mkdtemp(dir) != NULL);
    FUZZ_CHECK(tier_spool_open(dir, false, &spool, NULL) == TIER_OK);
    FUZZ_CHECK(tier_manifest_new(t, 2, &manifest, NULL) == TIER_OK);
    atexit(down);
}

static bool sealed(const uint8_t *data, size_t size, struct tier_hash *id) {
    struct tier_update_header h = {.weight = 3, .manifest = manifest->hash};
    struct tier_spool_writer *w = NULL;

    h.encoding = data[0] % 2 ? TIER_ENC_SUM : TIER_ENC_F32;
    FUZZ_CHECK(tier_spool_writer_begin(spool, &h, &w, NULL) == TIER_OK);
    FUZZ_CHECK(tier_spool_writer_append(w, data + 1, size - 1, NULL) == TIER_OK);
    return tier_spool_writer_seal(w, 0, id, NULL) == TIER_OK;
}

/* A rule that sees blocks and one that sees inner products: both read what the fold reads. */
static void merge(const struct tier_fold *fold, enum tier_status folded) {
    static const struct tier_plan_merge rules[] = {{.rule.choice = TIER_PLAN_MEDIAN},
                                                   {.rule.choice = TIER_PLAN_NORM_BOUND}};
    for (size_t i = 0; i < 2; i++) {
        struct tier_merge m = {
            .fold = *fold, .rule = tier_merge_rule_of(&rules[i]), .settings = &rules[i]};
        struct tier_hash id;
        m.fold.memory_bytes = tier_merge_memory_min(manifest, m.rule, m.settings, 1);
        enum tier_status merged = tier_merge_run(&m, &id, NULL);
        FUZZ_CHECK(merged == folded);
        /* What one update merges to may be that very update. */
        if (merged == TIER_OK && !tier_hash_equal(&id, fold->inputs))
            tier_spool_delete(spool, &id, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_hash id, sum;
    struct tier_update *u = NULL;

    if (!spool)
        up();
    if (size < 2 || !sealed(data, size, &id))
        return 0;
    FUZZ_CHECK(tier_spool_update_open(spool, &id, &u, NULL) == TIER_OK);
    struct tier_fold fold = {.spool = spool,
                             .manifest = manifest,
                             .inputs = &id,
                             .count = 1,
                             .threads = 1,
                             .memory_bytes = tier_fold_memory_min(manifest, 1)};
    enum tier_status verified = tier_update_verify(u, manifest, NULL);
    enum tier_status folded = tier_fold_run(&fold, &sum, NULL);
    FUZZ_CHECK(verified == TIER_OK || verified == TIER_EUPDATE);
    FUZZ_CHECK(folded == verified);
    /* A sum of one sum is the same sum; it was accepted, so it was canonical already. */
    if (folded == TIER_OK && data[0] % 2)
        FUZZ_CHECK(tier_hash_equal(&sum, &id));
    merge(&fold, folded);
    tier_spool_update_close(u);
    tier_spool_delete(spool, &id, NULL);
    if (folded == TIER_OK)
        tier_spool_delete(spool, &sum, NULL);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    int64_t hi[NARROW + WIDE], lo[WIDE];
    size_t n = 1;

    if (i >= 4)
        return 0;
    FUZZ_CHECK(room > 1 + TIER_PACK_BOUND(NARROW + 2 * WIDE) + 16);
    out[0] = (uint8_t)i;
    for (size_t k = 0; k < NARROW + WIDE; k++) {
        float x = (float)k / 800;
        hi[k] = (int64_t)(k * 2654435761u % (UINT64_C(3) << 30)) - (INT64_C(3) << 29);
        lo[k % WIDE] = hi[k] >> i;
        if (i % 2 == 0)
            memcpy(out + 1 + 4 * k, &x, 4);
    }
    if (i % 2 == 0)
        return 1 + 4 * (NARROW + WIDE);
    n += tier_pack(hi, NARROW + WIDE, out + n);
    n += tier_pack(lo, WIDE, out + n);
    memcpy(out + n, &(uint32_t){(uint32_t)n - 1}, 4);
    return n + 4;
}
