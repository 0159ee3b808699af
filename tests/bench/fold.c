/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One core folds updates that lie in memory, with weights and the range check on, against the same
 * core reading the same buffers in the same order of blocks. Beside it, the whole fold of a hub:
 * sealed files in, one sealed sum out.
 */
#include "kernels/kern.h"
#include "tests/bench/resident.h"
#include "tests/bench/bench.h"
#include "tier/fold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS 7
#define FRAC_BITS 30

struct fold_bench {
    size_t updates, elements; /* of each */
    float **x;
    const float **block; /* where a block begins in each */
    uint32_t *weight;
    int64_t *acc; /* of one block */
};

/* The reference: a line of each buffer in turn, asked for ahead as the fold does, and independent
 * sums, so that the additions never wait for one another. */
static uint64_t read_group(const float *const *x, size_t count, size_t n) {
    uint64_t sum[8] = {0}, word;
    for (size_t i = 0; i + 16 <= n; i += 16)
        for (size_t u = 0; u < count; u++) {
            const char *p = (const char *)(x[u] + i);
            __builtin_prefetch(p + 2048);
            for (size_t k = 0; k < 8; k++) {
                memcpy(&word, p + k * sizeof word, sizeof word);
                sum[k] += word;
            }
        }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

/* Of this thread: what else runs on the machine must not count. */
static double cpu_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Block by block, each of all updates before the next; returns the seconds. */
static double pass(struct fold_bench *b, bool fold, uint64_t *check) {
    double start = cpu_now_s();
    for (size_t at = 0; at < b->elements; at += TIER_FOLD_BLOCK) {
        size_t n = b->elements - at < TIER_FOLD_BLOCK ? b->elements - at : TIER_FOLD_BLOCK;
        for (size_t i = 0; i < b->updates; i++)
            b->block[i] = b->x[i] + at;
        if (fold) {
            memset(b->acc, 0, n * sizeof *b->acc);
            *check += kern_fold_f32_many(b->acc, b->block, b->weight, b->updates, n, FRAC_BITS);
        } else {
            for (size_t i = 0; i < b->updates; i += 4)
                *check += read_group(b->block + i, b->updates - i < 4 ? b->updates - i : 4, n);
        }
    }
    return cpu_now_s() - start;
}

/* Sealed files to a sealed file, two threads. */
static enum tier_status fold_files(const struct bench_options *o, const struct fold_bench *b,
                                   double *seconds, struct tier_err *err) {
    struct tier_tensor tensor = {
        .name = "w", .ndim = 1, .dims = {b->elements}, .frac_bits = FRAC_BITS};
    struct tier_hash *ids = bench_alloc(b->updates, sizeof *ids), sum;
    struct tier_manifest *m = NULL;
    struct tier_spool *spool = NULL;
    char path[600];
    enum tier_status st;

    snprintf(path, sizeof path, "%s/spool", o->work);
    TIER_TRY_OUT(tier_manifest_new(&tensor, 1, &m, err));
    TIER_TRY_OUT(tier_spool_open(path, false, &spool, err));
    for (size_t i = 0; i < b->updates; i++) {
        struct bench_resident update;
        TIER_TRY_OUT(bench_resident_seal(spool, path, m, i + 1, &update, err));
        bench_resident_release(&update);
        ids[i] = update.id;
    }
    const struct tier_fold job = {.spool = spool,
                                  .manifest = m,
                                  .inputs = ids,
                                  .count = b->updates,
                                  .threads = 2,
                                  .memory_bytes = 2 * tier_fold_memory_min(m, b->updates)};
    double start = bench_now_s();
    TIER_TRY_OUT(tier_fold_run(&job, &sum, err));
    *seconds = bench_now_s() - start;
out:
    tier_spool_close(spool);
    tier_manifest_free(m);
    free(ids);
    return st;
}

enum tier_status bench_fold(const struct bench_options *o, struct bench_result *r,
                            struct tier_err *err) {
    struct fold_bench b = {.updates = o->children ? o->children : 8,
                           .elements = (o->bytes ? o->bytes : 100000000) / sizeof(float)};
    double ours[RUNS], reads[RUNS], bytes, files_s = 0;
    uint64_t refused = 0, sum = 0;

    b.x = bench_alloc(b.updates, sizeof *b.x);
    b.block = bench_alloc(b.updates, sizeof *b.block);
    b.weight = bench_alloc(b.updates, sizeof *b.weight);
    b.acc = bench_alloc(TIER_FOLD_BLOCK, sizeof *b.acc);
    for (size_t i = 0; i < b.updates; i++) {
        b.weight[i] = 100 + (uint32_t)i;
        b.x[i] = bench_alloc(b.elements, sizeof **b.x);
        bench_deltas(b.x[i], b.elements, 1e-3, i + 1);
    }
    bytes = (double)b.updates * (double)b.elements * sizeof(float);
    pass(&b, true, &refused);
    for (int i = 0; i < RUNS; i++) {
        ours[i] = bytes / 1e9 / pass(&b, true, &refused);
        reads[i] = bytes / 1e9 / pass(&b, false, &sum);
    }
    for (size_t i = 0; i < b.updates; i++)
        free(b.x[i]);
    free(b.x);
    free(b.block);
    free(b.weight);
    free(b.acc);
    if (refused)
        return tier_fail(err, TIER_EINTERNAL, "%llu elements were refused",
                         (unsigned long long)refused);
    TIER_TRY(fold_files(o, &b, &files_s, err));
    r->value = bench_median(ours, RUNS);
    r->ratio = r->value / bench_median(reads, RUNS);
    r->unit = "GB/s";
    r->against = "one core reading the same buffers in the same block order";
    json_object_set_new(r->detail, "fold_gb_s", bench_spread(ours, RUNS));
    json_object_set_new(r->detail, "read_gb_s", bench_spread(reads, RUNS));
    json_object_set_new(r->detail, "read_checksum", json_integer((json_int_t)(sum >> 32)));
    json_object_set_new(r->detail, "updates", json_integer((json_int_t)b.updates));
    json_object_set_new(r->detail, "bytes", json_integer((json_int_t)(b.elements * sizeof(float))));
    json_object_set_new(r->detail, "files_gb_s", json_real(bytes / 1e9 / files_s));
    return TIER_OK;
}
