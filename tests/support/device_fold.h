/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same updates folded on the CPU and on devices: the same sum or the same refusal. Used by unit
 * tests over CPU devices and by tests/simt over emulated GPUs, so it needs no test framework.
 *
 * Threads: one. Ownership: leaves nothing behind.
 */
#ifndef CONSILIUM_TESTS_DEVICE_FOLD_H
#define CONSILIUM_TESTS_DEVICE_FOLD_H

#include "tier/fold.h"
#include "tier/update.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_FOLD_UPDATES 7u

struct device_fold {
    struct tier_spool *spool;
    struct tier_manifest *m;
    struct tier_hash ids[DEVICE_FOLD_UPDATES];
    uint64_t seed, round;           /* the next update's */
    struct tier_fold_version older; /* round 5; of every second scene, which buffers then */
    struct tier_fold_stale stale;
    struct tier_err err;
};

static inline uint64_t device_fold_next(struct device_fold *f) {
    f->seed = f->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return f->seed >> 24;
}

/* Narrow tensors, of one scale and of another next to it, and wide ones in between; the first may
 * be of several segments. */
static inline enum tier_status device_fold_manifest(struct device_fold *f, uint64_t largest) {
    static const int bits[6] = {24, 24, 12, 24, 24, 12};
    struct tier_tensor t[6];
    memset(t, 0, sizeof t);
    for (int i = 0; i < 6; i++) {
        snprintf(t[i].name, sizeof t[i].name, "t%d", i);
        t[i].ndim = 1;
        t[i].dims[0] = 1 + device_fold_next(f) % (i == 0 ? largest / 2 : 700);
        t[i].dims[0] += i == 0 ? largest / 2 : 0;
        t[i].frac_bits = bits[i];
        t[i].wide = i == 3 || i == 5;
    }
    return tier_manifest_new(t, 6, &f->m, &f->err);
}

/* `bad` elements from `at` on are out of range; the file is made as a hostile child would. */
static inline enum tier_status device_fold_seal(struct device_fold *f, struct tier_hash *id,
                                                uint64_t weight, uint64_t at, uint64_t bad) {
    struct tier_update_header h = {.round = f->round,
                                   .manifest = f->m->hash,
                                   .weight = weight,
                                   .encoding = TIER_ENC_F32,
                                   .payload_bytes = f->m->elements * sizeof(float)};
    struct tier_spool_writer *w = NULL;
    float *x = malloc(f->m->elements * sizeof *x);
    if (!x)
        return TIER_ENOMEM;
    for (uint64_t i = 0; i < f->m->elements; i++)
        x[i] = ldexpf((float)(device_fold_next(f) % 200001) - 100000.0f, -13);
    for (uint64_t i = at; i < at + bad && i < f->m->elements; i++)
        x[i] = i % 2 ? 1e30f : NAN;
    enum tier_status st = tier_spool_writer_begin(f->spool, &h, &w, &f->err);
    if (st == TIER_OK)
        st = tier_spool_writer_append(w, x, f->m->elements * sizeof *x, &f->err);
    if (st == TIER_OK)
        st = tier_spool_writer_seal(w, 0, id, &f->err);
    free(x);
    return st;
}

static inline struct tier_fold device_fold_of(struct device_fold *f, size_t count,
                                              struct tier_fold_devices *devices) {
    return (struct tier_fold){.spool = f->spool,
                              .manifest = f->m,
                              .round = 7,
                              .stale = f->stale.damps ? &f->stale : NULL,
                              .inputs = f->ids,
                              .count = count,
                              .threads = 1,
                              .memory_bytes = 64u << 20,
                              .devices = devices};
}

/* Five updates and the sum of two of them as a child's; then one that is out of range. */
static inline bool device_fold_compare(struct device_fold *f, struct tier_fold_devices *devices,
                                       uint64_t largest, char *why, size_t why_bytes) {
    struct tier_hash on_cpu, on_devices;
    struct tier_err cpu_err = {0}, dev_err = {0};
    enum tier_status st = device_fold_manifest(f, largest);
    bool buffers = f->seed % 2;
    uint32_t most = buffers ? 1u << 17 : 1u << 28;
    f->older.round = 5;
    f->stale =
        (struct tier_fold_stale){.damps = buffers, .versions = &f->older, .version_count = 1};
    for (size_t i = 0; i < 5 && st == TIER_OK; i++) {
        f->round = buffers && i % 2 ? 5 : 7;
        st = device_fold_seal(f, &f->ids[i], 1 + device_fold_next(f) % most, 0, 0);
    }
    f->round = 7;
    struct tier_fold two = device_fold_of(f, 2, NULL);
    if (st == TIER_OK)
        st = tier_fold_run(&two, &f->ids[5], &f->err);
    struct tier_fold cpu = device_fold_of(f, 6, NULL), dev = device_fold_of(f, 6, devices);
    if (st == TIER_OK)
        st = tier_fold_run(&cpu, &on_cpu, &f->err);
    uint64_t before = tier_fold_devices_added(devices);
    if (st == TIER_OK)
        st = tier_fold_run(&dev, &on_devices, &f->err);
    if (st != TIER_OK || !tier_hash_equal(&on_cpu, &on_devices)) {
        snprintf(why, why_bytes, "another sum on devices (%.300s)", f->err.text);
        return false;
    }
    if (tier_fold_devices_added(devices) - before != tier_manifest_segments(f->m)) {
        snprintf(why, why_bytes, "not every segment was added on the devices");
        return false;
    }
    uint64_t at = device_fold_next(f) % f->m->elements;
    st = device_fold_seal(f, &f->ids[6], 9, at, 1 + device_fold_next(f) % 5);
    cpu.count = dev.count = 7;
    enum tier_status st_cpu = tier_fold_run(&cpu, &on_cpu, &cpu_err),
                     st_dev = tier_fold_run(&dev, &on_devices, &dev_err);
    if (st != TIER_OK || st_cpu != TIER_EUPDATE || st_dev != st_cpu ||
        strcmp(cpu_err.text, dev_err.text) != 0) {
        snprintf(why, why_bytes, "refused as \"%.200s\" and on devices as \"%.200s\"", cpu_err.text,
                 dev_err.text);
        return false;
    }
    return true;
}

static inline int device_fold_remove(const char *path, const struct stat *info, int kind,
                                     struct FTW *ftw) {
    (void)info, (void)kind, (void)ftw;
    return remove(path);
}

/* False with a sentence in why. */
static inline bool device_fold_agrees(struct tier_fold_devices *devices, uint64_t seed,
                                      uint64_t largest, char *why, size_t why_bytes) {
    char dir[] = "/tmp/consilium-fold-XXXXXX", spool[64];
    struct device_fold f = {.seed = seed};
    if (!mkdtemp(dir)) {
        snprintf(why, why_bytes, "no folder in /tmp");
        return false;
    }
    snprintf(spool, sizeof spool, "%s/spool", dir);
    bool ok = tier_spool_open(spool, false, &f.spool, &f.err) == TIER_OK &&
              device_fold_compare(&f, devices, largest, why, why_bytes);
    if (f.m)
        tier_manifest_free(f.m);
    if (f.spool)
        tier_spool_close(f.spool);
    nftw(dir, device_fold_remove, 16, FTW_DEPTH | FTW_PHYS);
    return ok;
}

#endif
